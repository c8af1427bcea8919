# mypy: disable-error-code="no-any-return"
"""How the predictions of a committee's networks are mixed, and where the mixing keeps its numbers.

Two mixtures run side by side, and a third mixes them. The first is the fixed share (Herbster and Warmuth 1998): each
network's weight shrinks by its loss, and all share a little again, so that a network that becomes good is back soon.
The second is learned online: logistic regression on the centred logarithms of the probabilities, or normalised
least mean squares on the values. The third is a fixed share of the two. Classes without probabilities (hinge,
perceptron) have the first only.

The state is one float64 vector: the numbers below, then for each network its share, its fading loss and its weights
in the learned mixture (one for each target of a regression, else one), then that mixture's biases.
"""

import numpy as np
from numpy.typing import NDArray

from model.activations import sigmoid
from model.losses import softmax
from model.spec import ModelSpec

# The fading mean of the rows' weights; of the committee's error, in which errors are measured; the largest label so
# far; rows mixed; the two shares of the mixtures; the leading network, and the step since which it leads.
MEAN_WEIGHT, ERROR, LARGEST_LABEL, ROWS, FIRST_SHARE, SECOND_SHARE, LEADER, SINCE = range(8)
SHARES = 8

PROBABILITIES, VALUES, MARGINS, VOTES = range(4)
"""What the networks' scores are."""

SHARE = 0.01  # of the weights, shared anew by all after each row
LOGISTIC_RATE = 0.003
SQUARES_RATE = 0.005
LARGEST_LOG = 13.8  # a logarithm of a probability counts as no further from 0: one in a million
SMALLEST_PROBABILITY = 1e-15
SMALLEST_ERROR = 1e-6
FADING = 0.01  # of the mean weight and the mean error: the last 100 rows
FADING_LOSS = 0.001  # of the networks' losses
HEAVIEST = 10.0  # a row counts at most as so many of mean weight
HEADROOM = 2.0  # values count as no further out than so many times the largest label
LARGEST_VALUE = 1e15  # labels beyond it count as this: sums stay finite
LEAD = 0.98  # a network takes the lead with a loss below this share of the leader's


def kind_of(spec: ModelSpec) -> int:
    if spec.output == "threshold":
        return VOTES
    if spec.task == "regression":
        return VALUES
    return PROBABILITIES if spec.output in ("sigmoid", "softmax") else MARGINS


def columns_of(spec: ModelSpec) -> int:
    """Weights of a network in the learned mixture."""
    return spec.targets if spec.task == "regression" else 1


def size_of(spec: ModelSpec) -> int:
    """The length of the state; 0 for a single network."""
    if spec.networks == 1:
        return 0
    return SHARES + spec.networks * (2 + columns_of(spec)) + spec.outputs


def begin_shares(state: NDArray[np.float64], networks: int, columns: int) -> None:
    """All networks count alike in all mixtures, in place; also compiled, by `committee_kernels.py`."""
    for i in range(len(state)):
        share = SHARES <= i < SHARES + networks or SHARES + 2 * networks <= i < SHARES + networks * (
            2 + columns
        )
        state[i] = 1.0 / networks if share else 0.0
    state[FIRST_SHARE], state[SECOND_SHARE] = 0.5, 0.5


def new_state(spec: ModelSpec) -> NDArray[np.float64]:
    state = np.zeros(size_of(spec))
    if len(state):
        begin_shares(state, spec.networks, columns_of(spec))
    return state


class Mixture:
    """The mixture at one moment, for the batch path: scores of all networks become the scores of one."""

    def __init__(self, spec: ModelSpec, state: NDArray[np.float64]) -> None:
        networks, columns = spec.networks, columns_of(spec)
        self._kind = kind_of(spec)
        self._first = state[SHARES : SHARES + networks].copy()
        self._second = (
            state[SHARES + 2 * networks : SHARES + networks * (2 + columns)].reshape(networks, -1).copy()
        )
        self._biases = state[SHARES + networks * (2 + columns) :].copy()
        self._tops = state[FIRST_SHARE], state[SECOND_SHARE]
        self._limit = HEADROOM * (state[LARGEST_LABEL] if state[ROWS] > 0 else LARGEST_VALUE)

    def __call__(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores (n, outputs) for the networks' scores (networks, n, outputs)."""
        if self._kind == VALUES:
            values = np.clip(scores, -self._limit, self._limit)
            learned = np.einsum("mno,mo->no", values, self._second) + self._biases
            return self._tops[0] * self._shared(values) + self._tops[1] * np.clip(
                learned, -self._limit, self._limit
            )
        if self._kind == PROBABILITIES:
            return self._of_two_classes(scores) if scores.shape[2] == 1 else self._of_classes(scores)
        return self._shared(_votes(scores) if self._kind == VOTES else scores)

    def _shared(self, forecasts: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.tensordot(self._first, forecasts, axes=1)

    def _learned(self, logs: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.tensordot(self._second[:, 0], logs, axes=1) + self._biases

    def _of_two_classes(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        first = self._shared(_probable(sigmoid(scores)))
        second = _probable(sigmoid(self._learned(np.clip(scores, -LARGEST_LOG, LARGEST_LOG))))
        p = _probable(self._tops[0] * first + self._tops[1] * second)
        return np.log(p / (1.0 - p))

    def _of_classes(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        logs = scores - scores.max(axis=2, keepdims=True)
        logs = logs - np.log(np.exp(logs).sum(axis=2, keepdims=True))
        first = self._shared(np.maximum(np.exp(logs), SMALLEST_PROBABILITY))
        logs = np.maximum(logs, -LARGEST_LOG)
        second = softmax(self._learned(logs - logs.mean(axis=2, keepdims=True)))
        return np.log(_probable(self._tops[0] * first + self._tops[1] * second))


def _probable(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(p, SMALLEST_PROBABILITY, 1.0 - SMALLEST_PROBABILITY)


def _votes(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """+1 for the class that a network names, −1 for the others."""
    if scores.shape[2] == 1:
        return np.where(scores >= 0, 1.0, -1.0)
    return 2.0 * (scores.argmax(axis=2)[:, :, None] == np.arange(scores.shape[2])) - 1.0
