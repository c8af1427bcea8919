"""The committee in plain NumPy, one row at a time: what `learn` is held against. Written to be read, not to be fast."""

import math

import numpy as np

from model import drift, dropout, mixing
from model.initializers import initial_parameters
from model.inputs import Inputs
from model.kernels import fold_rows
from model.losses import OUTPUTS, loss_of
from model.network import Network, new_norm
from model.optimizers import OPTIMIZERS, clip_factor, new_slots
from model.parameters import layout_of
from model.program import seed_of
from model.rehearsal import window_shape
from model.rehearsal_kernels import SALT
from model.scaling import KINDS, MEAN, Standard, deviation, new_state, scaler_of
from model.schedules import schedule_of


class Member:
    """A network, its optimizer and its twin."""

    def __init__(self, spec, number):
        self.spec = spec
        self.optimizer = spec.members[number]
        self.seed = seed_of(spec, number)
        self.layout = layout_of(spec, number)
        self.parameters = initial_parameters(spec, self.layout, number)
        self.norm = new_norm(self.layout)
        self.network = Network(self.layout, self.parameters, self.norm)
        self.slots = new_slots(self.optimizer, self.layout.size)
        self.loss = loss_of(spec.loss, spec.output, spec.outputs)
        self.schedule = schedule_of(self.optimizer.schedule)
        self.steps = self.scheduled = self.averaged = 0
        self.mean = self.parameters.copy() if self.optimizer.average else None
        self.twin = Network(self.layout, self.mean, self.norm) if self.optimizer.average else None

    def networks(self):
        return [self.network] + ([] if self.twin is None else [self.twin])

    def gradient(self, inputs, label, weight, position):
        scores, traces = self.network.forward(inputs, self.seed, position)
        delta = self.loss.gradient(scores.astype(np.float64), label) * weight
        gradient = np.zeros(self.layout.size, np.float32)
        self.network.backward(traces, delta.astype(np.float32), gradient)
        return gradient

    def step(self, gradient, rate):
        self.steps += 1
        gradient *= np.float32(clip_factor(float(np.linalg.norm(gradient)), self.optimizer.clip_norm))
        take = OPTIMIZERS[self.optimizer.name].step
        take(self.optimizer, self.parameters, self.slots, gradient, rate, self.steps)

    def learn(self, row, rehearsed, position):
        """`row` is (inputs, label, weight); `rehearsed` gives the i-th row drawn for this step."""
        rate = self.optimizer.learning_rate * self.schedule(self.scheduled)
        self.scheduled += 1
        self.step(self.gradient(*row, position), rate)
        plan = self.optimizer.rehearse
        times = plan.early if plan and self.scheduled <= 1000 else 1
        lessons = range(1, 1 + plan.rows * times) if plan and rehearsed else []
        together = plan.rows if plan and plan.batched else 1
        for first in lessons[::together]:
            gradients = []
            for lesson in range(first, first + together):
                inputs, label, weight = rehearsed(self, lesson)
                gradients.append(self.gradient(inputs, label, weight / together, position + lesson * 2**40))
            self.step(np.sum(gradients, axis=0), rate * plan.rate)
        if self.mean is not None:
            self.averaged += 1
            decay = min(0.99, 1 - 1 / (1 + 0.2 * self.averaged))
            self.mean[...] = np.float32(decay) * self.mean + np.float32(1 - decay) * self.parameters

    def hasten(self):
        self.scheduled = min(self.scheduled, self.optimizer.schedule.warm_up)
        if self.mean is not None:
            self.averaged, self.mean[...] = 0, self.parameters


class Adwin:
    """A window as a list of values in the order they came, cut where two parts of it differ; buckets as in ADWIN."""

    def __init__(self, levels):
        self.buckets = [[] for _ in range(levels)]

    def add(self, value):
        carried = [value]
        for bucket in self.buckets:
            bucket.append(carried)
            if len(bucket) <= drift.BUCKETS:
                return
            carried = bucket[0] + bucket[1]
            del bucket[:2]

    def values(self):
        return [value for bucket in reversed(self.buckets) for values in bucket for value in values]

    def cut(self, confidence):
        """Drop the older part if the two differ; the means of both."""
        values = np.array(self.values())
        count, best, most = len(values), None, 1.0
        if count < 10:
            return None
        surprise = math.log(2 * math.log(count) / confidence)
        for place in np.cumsum([len(values) for bucket in reversed(self.buckets) for values in bucket]):
            older, newer = values[:place], values[place:]
            if min(len(older), len(newer)) < 5:
                continue
            share = 1 / (len(older) - 4) + 1 / (len(newer) - 4)
            least = math.sqrt(2 * share * values.var() * surprise) + 2 / 3 * surprise * share
            apart = abs(older.mean() - newer.mean())
            if apart > most * least:
                best, most = place, apart / least
        if best is None:
            return None
        means = values[:best].mean(), values[best:].mean()
        for bucket in reversed(self.buckets):
            while bucket and best > 0:
                best -= len(bucket.pop(0))
        return means


class ReferenceCommittee:
    """Learns a row at a time as `OnlineModel` does; no weights for rows, no row that must be skipped."""

    def __init__(self, spec):
        self.spec = spec
        self.members = [Member(spec, number) for number in range(len(spec.members))]
        self.inputs_state, self.targets_state = new_state(spec.width), new_state(spec.targets)
        self.window, self.rows = [], 0
        self.window_rows = window_shape(spec)[0]
        self.kind, count = mixing.kind_of(spec), spec.networks
        self.shares, self.tops = np.full(count, 1 / count), np.full(2, 0.5)
        self.learned = np.full((count, mixing.columns_of(spec)), 1 / count)
        self.biases = np.zeros(spec.outputs)
        self.mean_weight = self.error = self.largest = 0.0
        self.detector = Adwin(drift.LOSS_LEVELS)
        self.rises = []

    # -- what a row is to the networks -----------------------------------------------------------------------

    def scaled(self, X):
        return Inputs(self.spec, scaler_of(self.spec.scaling, self.inputs_state))(X)

    def label(self, y):
        return Standard.of(self.targets_state)(y) if self.spec.scales_targets else y

    def recalled(self, member, lesson):
        with np.errstate(over="ignore"):
            stride = dropout.STRIDE
            base = dropout.mix(dropout.mix(np.uint64(member.seed) ^ SALT) + stride * np.uint64(self.rows))
            bits = dropout.mix(base + stride * np.uint64(lesson)) >> dropout.S40
        back = int(float(bits) / 2**24 * len(self.window))
        X, y = self.window[-1 - back]
        return self.scaled(X), self.label(y), 1.0

    # -- the mixture -----------------------------------------------------------------------------------------

    def mixed(self, scores):
        """The forecasts of all networks, what the learned mixture takes of them, and both mixtures."""
        if self.kind == mixing.VALUES:
            limit = 2 * self.largest if self.rows > 1 else np.inf
            forecasts = taken = np.clip(scores, -limit, limit)
            second = np.clip((self.learned * taken).sum(axis=0) + self.biases, -limit, limit)
        elif self.kind == mixing.VOTES:
            forecasts = taken = mixing._votes(scores[:, None, :])[:, 0]
            second = np.zeros(self.spec.outputs)
        elif self.kind == mixing.MARGINS:
            forecasts = taken = scores
            second = np.zeros(self.spec.outputs)
        elif self.spec.outputs == 1:
            forecasts = np.clip(1 / (1 + np.exp(-scores)), 1e-15, 1 - 1e-15)
            taken = np.clip(scores, -13.8, 13.8)
            second = 1 / (1 + np.exp(-(self.learned * taken).sum(axis=0) - self.biases))
        else:
            logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
            forecasts = np.maximum(np.exp(logs), 1e-15)
            taken = np.maximum(logs, -13.8)
            taken = taken - taken.mean(axis=1, keepdims=True)
            second = np.exp((self.learned * taken).sum(axis=0) + self.biases)
            second = second / second.sum()
        return forecasts, taken, self.shares @ forecasts, second

    def scores_of(self, first, second):
        mixed = self.tops[0] * first + self.tops[1] * second
        if self.kind == mixing.VALUES:
            return mixed
        if self.kind != mixing.PROBABILITIES:
            return first
        return np.log(mixed / (1 - mixed)) if self.spec.outputs == 1 else np.log(mixed)

    def loss_of(self, forecast, label, error):
        if self.kind == mixing.VALUES:
            return np.abs(forecast - label).mean() / error
        place = int(label[0])
        if self.kind == mixing.PROBABILITIES:
            return -math.log(
                forecast[place] if len(forecast) > 1 else (forecast[0], 1 - forecast[0])[1 - place]
            )
        chosen = forecast.argmax() if len(forecast) > 1 else int(forecast[0] >= 0)
        return float(chosen != place)

    def move(self, forecasts, taken, first, second, label):
        error = max(self.error, 1e-6)
        if self.kind == mixing.VALUES and self.rows == 1:
            error = max(np.abs(first - label).mean(), 1e-6)
        self.shares = shared(self.shares, [self.loss_of(forecast, label, error) for forecast in forecasts])
        if self.kind == mixing.VALUES:
            step = 0.005 * (second - label) / (1 + (taken**2).sum(axis=0))
        elif self.kind == mixing.PROBABILITIES:
            truth = np.arange(len(second)) == label[0] if len(second) > 1 else label
            step = 0.003 * (second - truth)
        if self.kind in (mixing.VALUES, mixing.PROBABILITIES):
            served = self.tops
            self.tops = shared(
                self.tops, [self.loss_of(mixture, label, error) for mixture in (first, second)]
            )
            moved = step * taken
            self.learned -= moved if self.kind == mixing.VALUES else moved.sum(axis=1, keepdims=True)
            self.biases -= step
        if self.kind == mixing.VALUES:
            del served
            error = np.abs(self.tops[0] * first + self.tops[1] * second - label).mean()
            self.error += max(0.01, 1 / self.rows) * (error - self.error)
            self.largest = max(self.largest, np.abs(label).max())

    # -- a row -----------------------------------------------------------------------------------------------

    def learn(self, X, y):
        """One row (1, width) and its label (1, targets); the prediction made before."""
        self.rows += 1
        inputs, label = self.scaled(X), self.label(y)
        networks = [member.network for member in self.members]
        networks += [member.twin for member in self.members if member.twin is not None]
        scores = np.stack([network.scores(inputs)[0].astype(np.float64) for network in networks])
        parts = self.mixed(scores) if len(networks) > 1 else None
        mixed = scores[0] if parts is None else self.scores_of(*parts[2:])
        prediction = self.predicted(mixed)
        for member in self.members:
            member.learn((inputs, label, 1.0), self.recalled if self.window else None, self.rows)
        if parts is not None:
            self.move(*parts, label[0])
        fold_rows(KINDS[self.spec.scaling], self.inputs_state, X)
        if self.spec.scales_targets:
            fold_rows(KINDS["standard"], self.targets_state, y)
        self.window = [*self.window, (X, y)][-self.window_rows :] if self.window_rows else []
        self.look_for_drift(mixed, label[0])
        return prediction

    def predicted(self, scores):
        if self.spec.scales_targets:
            return self.targets_state[MEAN] + deviation(self.targets_state) * scores
        return OUTPUTS[self.spec.output].value(scores[None])[0]

    def look_for_drift(self, scores, label):
        if self.kind == mixing.VALUES:
            error = min(np.abs(scores - label).mean(), 3.0)
        else:
            loss = loss_of(self.spec.loss, self.spec.output, self.spec.outputs)
            error = min(loss.value(scores[None], label[None])[0], max(3.0, 1.5 * math.log(self.spec.outputs)))
        self.detector.add(error)
        means = self.detector.cut(0.002) if self.rows % drift.LOOK == 0 else None
        if means is not None and means[1] > means[0]:
            self.rises.append(self.rows)
            self.window = []
            for member in self.members:
                member.hasten()


def shared(weights, losses):
    """A fixed share: weights that shrank by the losses, and shared a little anew."""
    weights = weights * np.exp(-np.array(losses) + min(losses))
    return 0.99 * weights / weights.sum() + 0.01 / len(weights)
