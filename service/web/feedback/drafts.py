"""The observations of one request, encoded, and why some of them are refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from model import RowError
from service.errors import Invalid
from service.schemas import ABSENT, Observation
from service.store.awaiting import Awaiting
from service.store.blocks import Block
from service.web.replicas.replica import ServedModel
from service.web.slicing import encode_labels, encode_rows

NO_PREDICTION = (
    "no prediction with this id awaits its label: it was never made, has expired or made room for others"
)


@dataclass(slots=True)
class Draft:
    """The observations of one request, encoded.

    `joined` are the rows that consume the prediction that awaits their label, `bare` those of them that came without
    features of their own. `positions` are rows that were appended before; in the block they are placeholders.
    """

    block: Block
    joined: set[int] = field(default_factory=set)
    bare: set[int] = field(default_factory=set)
    positions: dict[int, int] = field(default_factory=dict)

    def join(self, row: int, awaiting: Awaiting) -> None:
        """Let a row consume a prediction, which is scored in place of one made now."""
        served = self.block.served
        if served is None:
            served = np.full((len(self.block), len(awaiting.served)), np.nan)
            self.block = replace(self.block, served=served)
        served[row] = awaiting.served
        self.joined.add(row)

    def part(self, rows: list[int]) -> None:
        """Let these rows consume no prediction."""
        assert self.block.served is not None
        self.block.served[rows] = np.nan
        self.joined.difference_update(rows)


class PredictionGone(Exception):
    """Predictions that were to be joined do not await their label any more."""

    def __init__(self, rows: list[int]) -> None:
        super().__init__(rows)
        self.rows = rows


def encode(
    served: ServedModel,
    observations: Sequence[Observation],
    found: Mapping[int, int | Awaiting],
    prefix: str = "/observations",
) -> Draft:
    """The observations as a draft; `found` is what was stored under the ids of those without features. Raises Invalid.

    The error names the row and the field, `prefix` goes before.
    """
    weights = ids = None
    given = [observation.weight for observation in observations]
    if given.count(None) < len(given):
        weights = np.array([1.0 if weight is None else weight for weight in given])
    named = [observation.id for observation in observations]
    if named.count(None) < len(named):
        ids = named

    def where(row: int, part: str, detail: str) -> Invalid:
        return Invalid.at((prefix and f"{prefix}/{row}") + f"/{part}", detail)

    rows = (
        [row for row in range(len(observations)) if row not in found] if found else range(len(observations))
    )
    for row in rows:
        if observations[row].features is ABSENT:
            raise where(
                row, "features", "required, unless a prediction with the observation's id awaits its label"
            )
    try:
        features = encode_rows(served.features, [observations[row].features for row in rows])
    except RowError as error:
        raise where(rows[error.row], f"features{error.pointer}", error.detail) from None
    try:
        labels = encode_labels(served.labels, [observation.label for observation in observations])
    except RowError as error:
        raise where(error.row, f"label{error.pointer}", error.detail) from None
    if not found:
        return Draft(Block(features, labels, weights, None, ids))
    return _joined(Block(features, labels, weights, None, ids), list(rows), found)


def _joined(block: Block, rows: list[int], found: Mapping[int, int | Awaiting]) -> Draft:
    """The draft of a block whose features are those of `rows` only; the other rows are found."""
    features = np.full((len(block.labels), block.features.shape[1]), np.nan)
    features[rows] = block.features
    draft = Draft(replace(block, features=features))
    for row, known in found.items():
        if isinstance(known, Awaiting):
            features[row] = known.features
            draft.join(row, known)
            draft.bare.add(row)
        else:
            draft.positions[row] = known
    return draft


def gone(rows: list[int], prefix: str) -> Invalid:
    """The error of rows whose prediction does not await its label."""
    pointers = [(prefix and f"{prefix}/{row}") + "/id" for row in rows]
    return Invalid.at(pointers[0], NO_PREDICTION, *pointers[1:])


def repeated(block: Block) -> dict[int, int]:
    """Rows with the id of an earlier row of the same request: row -> that earlier row."""
    if block.ids is None:
        return {}
    first: dict[str, int] = {}
    return {
        row: first[observation]
        for row, observation in enumerate(block.ids)
        if observation is not None and first.setdefault(observation, row) != row
    }
