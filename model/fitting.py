"""Mini-batch and full-batch training, on the batch path."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from model.inputs import Inputs
from model.losses import loss_of
from model.network import Network, norm_rate
from model.optimizers import OPTIMIZERS, add_penalties, clip_factor, slots_of
from model.parameters import aligned_zeros, layout_of
from model.program import NORM_COUNT, SCHEDULED, UPDATES
from model.scaling import Standard, scaler_of
from model.schedules import schedule_of
from model.spec import ModelSpec
from model.state import (
    LARGEST_PARAMETER,
    LIVE_CLIP_NORM,
    LIVE_LEARNING_RATE,
    OF_MEMBERS,
    Arrays,
    begin_twins,
    work_out_rows,
)

Array = NDArray[np.float64]
OnEpoch = Callable[[int, float], object]

TRAINED = ("parameters", "slots", "norm", "counters")
LARGEST_GRADIENT = 1e15  # its square is still a float32
CELLS_AT_ONCE = 2**24
ROWS_AT_A_TIME = 8192  # scaled and expanded together


class Trainer:
    """Steps of one member's optimizer on batches, over a model's own arrays, which it changes."""

    def __init__(self, spec: ModelSpec, arrays: Arrays, seed: int, number: int = 0) -> None:
        self.spec = spec
        self._optimizer = spec.members[number]
        self._arrays = arrays | {name: arrays[name][number] for name in OF_MEMBERS}
        self._arrays["slots"] = self._arrays["slots"][: slots_of(self._optimizer)]
        self._seed = seed
        self._layout = layout_of(spec, number)
        self._network = Network(self._layout, self._arrays["parameters"], self._arrays["norm"])
        self._loss = loss_of(spec.loss, spec.output, spec.outputs)
        self._inputs = Inputs(spec, scaler_of(spec.scaling, arrays["scaling.inputs"]))
        self._schedule = schedule_of(self._optimizer.schedule)
        self._gradient = aligned_zeros(self._layout.size)
        self.has_diverged = False

    def epoch(
        self, X: Array, y: Array, weights: Array, order: NDArray[np.int64], batch_size: int | None
    ) -> float:
        """Train one epoch on the rows in this order. Returns the mean loss, every row's taken just before its step.


        An epoch in which parameters or slots grow beyond any bound is undone, and is this member's last.
        """
        labels = Standard.of(self._arrays["scaling.targets"])(y) if self.spec.scales_targets else y
        weights = self._with_class_weights(labels, weights)
        before = {name: self._arrays[name].copy() for name in TRAINED}
        total = 0.0
        for inputs, rows in self._batches_of(X, order, batch_size or len(X)):
            total += self._step(inputs, labels[rows], weights[rows])
        if not self._is_bounded():
            self.has_diverged = True
            for name, values in before.items():
                self._arrays[name][...] = values
        return total / max(float(weights.sum()), 1e-12)

    def _is_bounded(self) -> bool:
        return all(
            np.abs(self._arrays[name]).max(initial=0.0) <= LARGEST_PARAMETER
            for name in ("parameters", "slots")
        )

    def _with_class_weights(self, labels: Array, weights: Array) -> Array:
        if self.spec.class_weights is None:
            return weights
        of_class = np.array(self.spec.class_weights)
        weighted: Array = weights * of_class[labels[:, 0].astype(np.intp)]
        return weighted

    def _batches_of(
        self, X: Array, order: NDArray[np.int64], batch_size: int
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Inputs and row numbers of each batch; many batches are scaled at once."""
        rows_at_a_time = min(ROWS_AT_A_TIME, CELLS_AT_ONCE // self.spec.inputs)
        at_a_time = max(rows_at_a_time // batch_size, 1) * batch_size
        for start in range(0, len(order), at_a_time):
            rows = order[start : start + at_a_time]
            inputs = self._inputs(X[rows])
            for place in range(0, len(rows), batch_size):
                yield inputs[place : place + batch_size], rows[place : place + batch_size]

    def _step(self, inputs: NDArray[np.float32], labels: Array, weights: Array) -> float:
        """One step on the batch's mean loss; its summed loss. Skipped if it would make anything not finite."""
        counters, has_norm = self._arrays["counters"], self._layout.norm_units > 0
        position = int(counters[UPDATES]) + 1
        scores, traces = self._network.forward(inputs, self._seed, position, by_batch=has_norm)
        scores = scores.astype(np.float64)
        losses = self._loss.value(scores, labels)
        delta = self._loss.gradient(scores, labels) * (weights / len(inputs))[:, None]
        self._network.backward(traces, delta.astype(np.float32), self._gradient)
        self._apply()
        if has_norm:
            counters[NORM_COUNT] += len(inputs)
            if len(inputs) == 1:
                self._network.fold_row(traces, norm_rate(int(counters[NORM_COUNT])))
        return float(np.dot(losses, weights))

    def _apply(self) -> None:
        optimizer, arrays, gradient = self._optimizer, self._arrays, self._gradient
        norm = math.sqrt(float(np.dot(gradient, gradient)))
        if not norm <= LARGEST_GRADIENT:
            return
        parameters, live = arrays["parameters"], arrays["live"]
        factor = clip_factor(norm, float(live[LIVE_CLIP_NORM]) or None)
        if factor < 1.0:
            gradient *= np.float32(factor)
        add_penalties(optimizer, gradient, parameters, self._layout.weights)
        counters = arrays["counters"]
        rate = float(live[LIVE_LEARNING_RATE]) * self._schedule(int(counters[SCHEDULED]))
        if not self._stays_finite(rate):
            return
        counters[[UPDATES, SCHEDULED]] += 1
        OPTIMIZERS[optimizer.name].step(
            optimizer, parameters, arrays["slots"], gradient, rate, int(counters[UPDATES])
        )

    def _stays_finite(self, rate: float) -> bool:
        """Whether penalties leave everything finite; without them nothing outgrows its type in 10^15 steps."""
        decay = self._optimizer.weight_decay or 0.0
        if not (decay or self._optimizer.l2):
            return True
        stretch = max(abs(1.0 - rate * decay), 1.0)
        largest = float(np.abs(self._arrays["parameters"]).max()) * stretch
        return largest <= LARGEST_PARAMETER and float(np.abs(self._gradient).max()) <= LARGEST_GRADIENT


class Training:
    """All members learn the same batches; then the twins are as their members are."""

    def __init__(self, spec: ModelSpec, arrays: Arrays, seed: int) -> None:
        self.spec = spec
        self._arrays = arrays
        self._seed = seed
        self._trainers = [Trainer(spec, arrays, seed, number) for number in range(len(spec.members))]

    def epochs(
        self, X: Array, y: Array, weights: Array, count: int, batch_size: int | None, on_epoch: OnEpoch | None
    ) -> list[float]:
        """Train `count` epochs, or until all members have diverged; the mean loss of each, of all members."""
        work_out_rows(self.spec, self._arrays)
        order = np.random.default_rng(self._seed)
        losses = []
        for epoch in range(count):
            rows, trainers = (
                order.permutation(len(X)),
                [each for each in self._trainers if not each.has_diverged],
            )
            losses.append(float(np.mean([each.epoch(X, y, weights, rows, batch_size) for each in trainers])))
            begin_twins(self.spec, self._arrays)
            if all(each.has_diverged for each in trainers):
                break
            if on_epoch is not None and on_epoch(epoch, losses[-1]) is False:
                break
        return losses
