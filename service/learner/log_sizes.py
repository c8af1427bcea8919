"""How many bytes a model's log took up to where: to trim it by observations and by bytes."""

from collections import deque

from model import ModelSpec

SAMPLES = 256  # over what a log keeps


class LogSizes:
    """Samples of the bytes that all blocks up to a position took."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque()  # position, bytes of all blocks up to it
        self.newest = 0

    def note(self, position: int, size: int, spec: ModelSpec) -> None:
        """Note the size at a position, if it is far enough from the last sample."""
        self.newest = size
        if (
            not self._samples
            or position - self._samples[-1][0] >= spec.keep // SAMPLES
            or size - self._samples[-1][1] >= spec.keep_bytes // SAMPLES
        ):
            self._samples.append((position, size))

    def trim_below(self, position: int, spec: ModelSpec) -> int:
        """The position below which entries may go: the log keeps `keep` observations and at most `keep_bytes`."""
        below = position - spec.keep
        while self._samples and (
            self._samples[0][0] < below or self.newest - self._samples[0][1] > spec.keep_bytes
        ):
            below = max(below, self._samples.popleft()[0] + 1)
        return below
