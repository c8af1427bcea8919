"""The window of raw rows that members rehearse: row, label and weight, float64, in a ring."""

from model.spec import ModelSpec

ROWS = 1000
LARGEST_BYTES = 4 * 2**20
LEAST_ROWS = 32  # with fewer, nothing is rehearsed
EARLY_ROWS = 1000  # after a start or a drift, for which more is rehearsed


def window_shape(spec: ModelSpec) -> tuple[int, int]:
    """Rows and columns of the window; no rows if no member rehearses, or wide rows leave room for few."""
    columns = spec.width + spec.targets + 1
    rows = min(ROWS, LARGEST_BYTES // (8 * columns))
    rehearses = any(member.rehearse for member in spec.members)
    return (rows if rehearses and rows >= LEAST_ROWS else 0, columns)
