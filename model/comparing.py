"""Whether two states are equal bit for bit, and whether they can be expected to be."""

from dataclasses import dataclass

import numpy as np

from model.builds import since, this_build
from model.state import Arrays, Saved, read_state


@dataclass(frozen=True)
class Comparison:
    """`difference` names the first array and place where two states differ; "" if they are equal.

    `other_builds` computed part of either state on another build or kind of processor than this process's. If there
    are any, a difference is no sign of corruption: the states are not comparable.
    """

    difference: str
    other_builds: tuple[str, ...]

    @property
    def equal(self) -> bool:
        return not self.difference

    @property
    def comparable(self) -> bool:
        return self.equal or not self.other_builds


def compare_states(stored: bytes, replayed: bytes, after: int = 0) -> Comparison:
    """Compare two states that `OnlineModel.to_bytes` wrote: the stored one, and one replayed here from step `after`.

    Specs are compared with their defaults filled in; formats and builds are not part of the difference. Raises
    StateError if one of them cannot be read.
    """
    states = read_state(stored), read_state(replayed)
    builds = set().union(*(since(state.builds, after) for state in states))
    others = tuple(sorted(builds - {this_build()}))
    return Comparison(_difference(*states), others)


def _difference(stored: Saved, replayed: Saved) -> str:
    if stored.spec != replayed.spec:
        return "the specs differ"
    return _first_difference(
        stored.arrays | _prefixed(stored.metrics), replayed.arrays | _prefixed(replayed.metrics)
    )


def _prefixed(metrics: Arrays) -> Arrays:
    return {f"metrics.{name}": values for name, values in metrics.items()}


def _first_difference(stored: Arrays, replayed: Arrays) -> str:
    for name in sorted(stored.keys() | replayed.keys()):
        if name not in stored or name not in replayed:
            return f"{name} is in one state only"
        one, other = stored[name], replayed[name]
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            return f"{name} is stored as {one.dtype} {one.shape}, replayed as {other.dtype} {other.shape}"
        indices = np.flatnonzero(_bits(one) != _bits(other))
        if len(indices):
            first = int(indices[0])
            return (
                f"{name}[{first}] is stored as {one.ravel()[first]!r}, replayed as {other.ravel()[first]!r}; "
                f"{len(indices)} of {one.size} numbers differ"
            )
    return ""


def _bits(values: np.ndarray) -> np.ndarray:
    """Numbers as unsigned integers, so that −0 is not 0 and NaN is NaN."""
    return np.ascontiguousarray(values).ravel().view(f"u{values.dtype.itemsize}")
