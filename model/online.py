"""OnlineModel: predict, learn, fit."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from model import monitor
from model.builds import Builds, continued, this_build
from model.committee import Committee, event_count, events_after
from model.diagnostics import report
from model.fitting import OnEpoch, Training
from model.metrics import PrequentialMetrics
from model.optimizers import slots_of
from model.parameters import Vector, layout_of, named_parameters, named_views
from model.predictor import Predictor
from model.program import (
    AVERAGED,
    CLIP_NORM,
    LEARNING_RATE,
    NORM_COUNT,
    SCHEDULED,
    SKIPPED,
    STEP,
    UPDATES,
    WINDOW_COUNT,
    WINDOW_NEXT,
    fixed_of,
    learned_rows,
    scratch_of,
)
from model.scaling import KINDS
from model.spec import ModelSpec
from model.state import (
    LIVE_CLIP_NORM,
    LIVE_LEARNING_RATE,
    Arrays,
    aligned,
    begin_twins,
    bound,
    new_arrays,
    predictor_shapes_of,
    read_state,
    read_weights,
    worked_out,
    write_predictor_state,
    write_state,
    write_weights,
)

Array = NDArray[Any]

LARGEST_LOSS = 1e150  # losses beyond it count as this: sums of them stay finite


@dataclass(frozen=True)
class Learned:
    """What `learn` gives back for n rows.

    `predictions` (n, outputs) were made before each row was learned, `losses` (n,) are theirs, unweighted and for
    standardised targets. `skipped` (n,) marks rows whose step would have made something not finite.
    """

    predictions: Array
    losses: Array
    skipped: NDArray[np.bool_]


def _compared(spec: ModelSpec) -> tuple[object, ...]:
    """What two models have in common if one can take the other's weights."""
    kinds = [(member.layer_norm, member.average) for member in spec.members]
    return predictor_shapes_of(spec), spec.task, spec.features, spec.layers, spec.scaling, kinds


class OnlineModel:
    """A network, its optimizer, its scaling and its scores. Not for more than one thread at a time.

    Rows X are raw: (n, width) float64, NaN for a missing value, as `FeatureEncoder` gives them; labels y are class
    indices or targets, (n, targets) float64, as `LabelEncoder` gives them.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._start(spec, new_arrays(spec), PrequentialMetrics(spec), ())

    def _start(self, spec: ModelSpec, arrays: Arrays, metrics: PrequentialMetrics, builds: Builds) -> None:
        self.spec = spec
        self._arrays = arrays
        self._metrics = metrics
        self._builds = builds
        self._fixed = fixed_of(spec)
        self._committee = Committee(spec)
        self._learn_rows: Callable[..., None] | None = None
        self._set_constants()

    def _set_constants(self) -> None:
        live, constants = self._arrays["live"], self._fixed.constants
        constants[:, LEARNING_RATE] = live[:, LIVE_LEARNING_RATE]
        constants[:, CLIP_NORM] = np.where(live[:, LIVE_CLIP_NORM] > 0.0, live[:, LIVE_CLIP_NORM], np.inf)

    @property
    def step(self) -> int:
        """Observations taken so far, applied or skipped."""
        return int(self._arrays["counters"][0, STEP])

    @property
    def skipped(self) -> int:
        """Observations that were skipped because their step would have made something not finite."""
        return int(self._arrays["counters"][0, SKIPPED])

    @property
    def parameters(self) -> dict[str, Vector]:
        """Live views by name: "layers.0.weight" (units, inputs), "layers.0.bias" (units,), …

        Those of a committee say whose they are: "members.1.layers.0.weight", …
        """
        return named_parameters(self.spec, self._arrays["parameters"])

    @property
    def learning_rate(self) -> float:
        """The learning rate; a committee's first member's."""
        return float(self._arrays["live"][0, LIVE_LEARNING_RATE])

    @property
    def clip_norm(self) -> float | None:
        return float(self._arrays["live"][0, LIVE_CLIP_NORM]) or None

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate for the next steps; the schedule still multiplies it.

        It is the first member's; those of the others change by the same factor.
        """
        if not 0.0 <= learning_rate <= 1e6:
            raise ValueError("the learning rate is from 0 to 1,000,000")
        first, *others = self.spec.members
        rates = [learning_rate] + [
            learning_rate * (other.learning_rate / first.learning_rate) for other in others
        ]
        self._arrays["live"][:, LIVE_LEARNING_RATE] = np.minimum(rates, 1e6)
        self._set_constants()

    def set_clip_norm(self, clip_norm: float | None) -> None:
        """Change the largest norm of a gradient, of all members, from the next step on; None for no limit."""
        if clip_norm is not None and not 0.0 < clip_norm <= 1e6:
            raise ValueError("the clip norm is above 0 and at most 1,000,000, or None")
        self._arrays["live"][:, LIVE_CLIP_NORM] = clip_norm or 0.0
        self._set_constants()

    def predict(self, X: Array) -> Array:
        """Predictions (n, outputs): probabilities, margins, signs or values, as the spec's output says.

        Raises ValueError if X has another shape than (n, width).
        """
        return Predictor.of(self.spec, self._arrays).predict(X)

    def learn(self, X: Array, y: Array, weights: Array | None = None, served: Array | None = None) -> Learned:
        """Take one step per row, in order; each row is predicted first.

        `weights` (n,) multiply the losses. `served` (n, outputs) holds predictions that were really given earlier,
        NaN where there is none: the metrics score those. Raises ValueError for wrong shapes, and changes nothing.
        """
        X, y, weights = self._checked(X, y, weights)
        rows = len(X)
        if served is not None and served.shape != (rows, self.spec.outputs):
            raise ValueError(f"served must have the shape ({rows}, {self.spec.outputs}), not {served.shape}")
        predictions = np.empty((rows, self.spec.outputs))
        losses, skipped = np.empty(rows), np.empty(rows, np.bool_)
        if self._learn_rows is None:
            self._learn_rows = self._compiled()
        if rows:
            self._note_build()
        targets = None if served is None else self._arrays["scaling.targets"].copy()
        self._learn_rows(X, y, weights, predictions, losses, skipped)
        np.minimum(losses, LARGEST_LOSS, out=losses)  # NaN, of what is no label, stays
        scored = predictions, losses
        if served is not None and targets is not None:
            scored = self._with_served(targets, y, np.ascontiguousarray(served, np.float64), skipped, scored)
        self._score(*scored, y, weights, skipped)
        return Learned(predictions, losses, skipped)

    def fit(
        self,
        X: Array,
        y: Array,
        *,
        weights: Array | None = None,
        epochs: int = 1,
        batch_size: int | None = 32,
        seed: int | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> list[float]:
        """Train on batches in a shuffled order, several epochs; the mean training loss of each epoch.

        `batch_size` None is full-batch gradient descent. The rows are folded into the scaling once, first. `seed`
        (default: the spec's) draws order and dropout. `on_epoch(epoch, loss)` is called after each; False stops.
        Metrics and `step` are not touched. Raises ValueError for wrong shapes, and changes nothing.
        """
        X, y, weights = self._checked(X, y, weights)
        if epochs < 1 or (batch_size is not None and batch_size < 1) or not len(X):
            raise ValueError("fit needs at least one row, one epoch, and a batch size of at least 1")
        self._check_labels(y)
        self._note_build()
        self._fold_scaling(X, y)
        training = Training(self.spec, self._arrays, self.spec.seed if seed is None else seed)
        with np.errstate(all="ignore"):
            return training.epochs(X, y, weights, epochs, batch_size, on_epoch)

    def _fold_scaling(self, X: Array, y: Array) -> None:
        from model.kernels import fold_rows

        if self.spec.scaling != "none":
            fold_rows(KINDS[self.spec.scaling], self._arrays["scaling.inputs"], X)
        if self.spec.scales_targets:
            fold_rows(KINDS["standard"], self._arrays["scaling.targets"], y)

    def _check_labels(self, y: Array) -> None:
        if self.spec.task != "regression":
            classes = len(self.spec.classes or ())
            if not (np.isin(y, np.arange(classes))).all():
                raise ValueError(f"labels are class indices from 0 to {classes - 1}")
        elif not np.isfinite(y).all():
            raise ValueError("labels are finite numbers")

    def adopt(self, other: "OnlineModel") -> None:
        """Take another model's parameters, scaling, optimizer slots and window; keep metrics, step and live settings.

        The slots are reset if the optimizer differs. The schedule continues where it was, or where it would be had a
        model of earlier learned on without a drift. Raises ValueError, and
        changes nothing, if the two differ in features, task, layers or scaling.
        """
        mine, theirs = self.spec, other.spec
        if _compared(mine) != _compared(theirs):
            raise ValueError("the two models differ in features, task, layers, scaling or members")
        self._note_build()
        for name in predictor_shapes_of(mine):
            self._arrays[name][...] = other._arrays[name]
        self._arrays["averaged"][...] = 0.0
        self._arrays["parameters"][...] = other._parameters_as(mine)
        self._restart_optimizers()
        for number, pair in enumerate(zip(mine.members, theirs.members, strict=True)):
            counters, others = self._arrays["counters"][number], other._arrays["counters"][number]
            counters[[NORM_COUNT, AVERAGED]] = others[[NORM_COUNT, AVERAGED]]
            same = pair[0].name == pair[1].name and slots_of(pair[0]) == slots_of(pair[1])
            if same and mine.sparse == theirs.sparse:
                slots = slots_of(pair[0])
                self._arrays["slots"][number, :slots] = other._arrays["slots"][number, :slots]
                self._arrays["stepped"][number] = other._arrays["stepped"][number]
                counters[UPDATES] = others[UPDATES]
        self.take_window(other)
        self._forget_restarts(other)

    def _forget_restarts(self, other: "OnlineModel") -> None:
        """Go on in the schedule as if `other`, if this one comes from it, had learned as many rows and met no drift."""
        counters, others = self._arrays["counters"], other._arrays["counters"]
        rows, earlier = learned_rows(counters[0]), learned_rows(others[0])
        mine, theirs = self.spec.members, other.spec.members
        if 0 < earlier <= rows and [one.schedule for one in mine] == [one.schedule for one in theirs]:
            counters[:, SCHEDULED] = others[:, SCHEDULED] + (rows - earlier)

    def take_window(self, other: "OnlineModel") -> None:
        """Rehearse from now on the rows that the other model would, if their windows are of one shape."""
        if self._arrays["window"].shape == other._arrays["window"].shape:
            self._arrays["window"][...] = other._arrays["window"]
            places = [WINDOW_COUNT, WINDOW_NEXT]
            self._arrays["counters"][0, places] = other._arrays["counters"][0, places]

    def _parameters_as(self, spec: ModelSpec) -> Vector:
        """All networks' parameters, brought up to date, in the layout of `spec`, whose first layer may be sparse."""
        parameters = worked_out(self.spec, self._arrays)
        if spec.sparse == self.spec.sparse:
            return parameters
        stored = np.empty_like(parameters)
        for values, copy in zip(parameters, stored, strict=True):
            views, targets = named_views(layout_of(self.spec), values), named_views(layout_of(spec), copy)
            for name, view in views.items():
                targets[name][...] = view
        return stored

    def weights_to_bytes(self) -> bytes:
        """The parameters as safetensors, by name and in PyTorch's shapes."""
        return write_weights(self.spec, self._arrays["parameters"])

    def set_weights(self, blob: bytes) -> None:
        """Take the parameters that `weights_to_bytes` wrote, and reset the optimizer.

        Scaling, metrics and step stay. Raises StateError, and changes nothing, if names, shapes, types or numbers do
        not fit.
        """
        self._arrays["parameters"][: len(self.spec.members)] = read_weights(self.spec, blob)
        self._restart_optimizers()
        begin_twins(self.spec, self._arrays)

    def _restart_optimizers(self) -> None:
        for member, slots in zip(self.spec.members, self._arrays["slots"], strict=True):
            slots[...] = np.float32(member.initial_accumulator_value or 0.0)
        self._arrays["counters"][:, UPDATES] = 0
        self._arrays["stepped"][...] = 0
        for notes in self._arrays["monitor"]:
            monitor.clear(notes, self.step)

    def inherit(self, predecessor: "OnlineModel") -> None:
        """Take the metrics and the step of the model that this one replaces; its task and classes are the same."""
        if (self.spec.task, self.spec.classes) != (predecessor.spec.task, predecessor.spec.classes):
            raise ValueError("the two models differ in task or classes")
        self._metrics.load(predecessor._metrics.state)
        self._builds = predecessor._builds
        for counter in (STEP, SKIPPED):
            self._arrays["counters"][0, counter] = predecessor._arrays["counters"][0, counter]
        for notes in self._arrays["monitor"]:
            monitor.clear(notes, self.step)
        self._note_build()

    def continue_schedule(self, predecessor: "OnlineModel") -> None:
        """Go on in the learning rate's schedule from where the model is that this one replaces, if theirs are equal."""
        mine, theirs = self.spec.members, predecessor.spec.members
        if [member.schedule for member in mine] == [member.schedule for member in theirs]:
            self._arrays["counters"][:, SCHEDULED] = predecessor._arrays["counters"][:, SCHEDULED]

    def _note_build(self) -> None:
        """Note that from this step on the state is computed by this process's build."""
        self._builds = continued(self._builds, this_build(), self.step)

    def warm_up(self) -> None:
        """Compile, or load from the cache, all that learning needs, on a copy; the model does not change."""
        copy = type(self).from_bytes(self.to_bytes())
        copy.learn(np.zeros((1, self.spec.width)), np.zeros((1, self.spec.targets)))

    def diagnostics(self) -> dict[str, Any]:
        """Per layer norms, activity and dead units; trends of the loss; findings with advice. JSON-ready."""
        return report(self.spec, self._arrays)

    def _checked(self, X: Array, y: Array, weights: Array | None) -> tuple[Array, Array, Array]:
        X = np.ascontiguousarray(X, np.float64)
        if X.ndim != 2 or X.shape[1] != self.spec.width:
            raise ValueError(f"X must have the shape (n, {self.spec.width}), not {X.shape}")
        y = np.ascontiguousarray(y, np.float64)
        if y.ndim == 1 and self.spec.targets == 1:
            y = y.reshape(-1, 1)
        if y.shape != (len(X), self.spec.targets):
            raise ValueError(f"y must have the shape ({len(X)}, {self.spec.targets}), not {y.shape}")
        if weights is None:
            return X, y, np.ones(len(X))
        weights = np.ascontiguousarray(weights, np.float64)
        if weights.shape != (len(X),):
            raise ValueError(f"weights must have the shape ({len(X)},), not {weights.shape}")
        if len(X) and not 0.0 <= weights.min() <= weights.max() < np.inf:
            raise ValueError("weights are finite numbers from 0")
        return X, y, weights

    def _compiled(self) -> Callable[..., None]:
        # Imported here: numba takes most of a second, and processes that only predict never need it.
        from model.kernels import learn_rows

        fixed, state, scratch = self._fixed, bound(self._arrays), scratch_of(self.spec)
        return lambda *rows: learn_rows(fixed, state, scratch, *rows)

    def _with_served(
        self, targets: Array, y: Array, served: Array, skipped: NDArray[np.bool_], scored: tuple[Array, Array]
    ) -> tuple[Array, Array]:
        """Predictions and losses, with those of served predictions in the place of those just made."""
        from model.served_kernels import score_served

        predictions, losses = scored[0].copy(), scored[1].copy()
        score_served(self._fixed.codes[0], targets, y, served, skipped, predictions, losses)
        return predictions, np.minimum(losses, LARGEST_LOSS)

    def _score(
        self, predictions: Array, losses: Array, y: Array, weights: Array, skipped: NDArray[np.bool_]
    ) -> None:
        """Update the metrics; a row without a readable label is counted, not scored."""
        if skipped.any():
            unreadable = np.isnan(losses)
            predictions, y = predictions.copy(), y.copy()
            predictions[unreadable], y[unreadable] = np.nan, 0.0
        self._metrics.update(predictions, y, weights, losses, skipped)

    def metrics(self) -> dict[str, Any]:
        """Prequential scores, JSON-ready: in total, over a fading window, and of baselines; a committee's members."""
        return self._metrics.report() | self._committee.standing(self._arrays)

    @property
    def event_count(self) -> int:
        """Drifts, and restarts of members, that the model has met so far."""
        return event_count(self._arrays)

    def events_after(self, number: int) -> list[dict[str, Any]]:
        """The events after that of a number, oldest first, as far as they are kept; JSON-ready, as in `diagnostics`."""
        return events_after(self.spec, self._arrays, number)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that hold the state."""
        arrays = [*self._arrays.values(), *self._metrics.state.values()]
        return sum(array.nbytes for array in arrays)

    def capture(self) -> Callable[[], bytes]:
        """Copy the whole state. The function that is returned writes the copy as `to_bytes` does, in any thread."""
        arrays = {name: values.copy() for name, values in self._arrays.items()}
        metrics = {name: values.copy() for name, values in self._metrics.state.items()}
        return partial(write_state, self.spec, arrays, metrics, self._builds)

    def to_bytes(self) -> bytes:
        """The whole state as safetensors; its metadata holds the spec."""
        return write_state(self.spec, self._arrays, self._metrics.state, self._builds)

    @classmethod
    def from_bytes(cls, blob: bytes) -> Self:
        """The model that `to_bytes` saved, now or in version 0.1. Raises StateError if anything does not fit."""
        saved = read_state(blob)
        metrics = PrequentialMetrics(saved.spec)
        metrics.load(saved.metrics)
        model = cls.__new__(cls)
        arrays = {name: aligned(array) for name, array in saved.arrays.items()}
        model._start(saved.spec, arrays, metrics, saved.builds)
        return model

    def __reduce__(self) -> tuple[Callable[[bytes], Self], tuple[bytes]]:
        """Copies and pickles go by the model's own bytes, scratch memory and compiled code stay behind."""
        return type(self).from_bytes, (self.to_bytes(),)

    def predictor_bytes(self) -> bytes:
        """What `Predictor` needs, as safetensors without the spec: parameters and scaling."""
        return write_predictor_state(self.spec, self._arrays)
