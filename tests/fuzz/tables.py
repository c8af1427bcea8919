"""Tables as Arrow streams, drawn by a seed: columns of every type, some of which no model reads, whole and damaged."""

import random
from typing import Any

import pyarrow
from pyarrow import ipc

DAMAGED = 0.3  # share of the streams that are no good as bytes
MISFITS = 0.1  # share of the columns that are of any type
Draw = random.Random


def table_stream(draw: Draw, observations: list[dict[str, Any]], names: list[str]) -> bytes:
    """Observations as an Arrow stream, with the features in columns of these names."""
    columns = {
        name: _column(draw, [_feature(o, place, name) for o in observations])
        for place, name in enumerate(names)
    }
    for name in ("label", "id", "weight"):
        if draw.random() < (0.95 if name == "label" else 0.3):
            columns[name] = _column(draw, [o.get(name) for o in observations])
    if draw.random() < 0.05:
        columns[draw.choice(["x", "", "\x00", "__index_level_0__"])] = _misfit(draw, len(observations))
    whole = _written(draw, columns)
    return damaged(draw, whole) if draw.random() < DAMAGED else whole


def _feature(observation: dict[str, Any], place: int, name: str) -> Any:
    row = observation.get("features")
    if isinstance(row, dict):
        return row.get(name)
    return row[place] if isinstance(row, list) and place < len(row) else None


def _column(draw: Draw, values: list[Any]) -> pyarrow.Array:
    """The values as Arrow takes them; as texts where they are of several types; now and then something else."""
    if draw.random() < MISFITS:
        return _misfit(draw, len(values))
    try:
        made = pyarrow.array(values)
    except (pyarrow.ArrowException, ValueError, OverflowError):
        made = pyarrow.array([None if value is None else _text(value) for value in values])
    if pyarrow.types.is_string(made.type) and draw.random() < 0.5:
        return draw.choice(
            [
                made.dictionary_encode,
                lambda: made.cast(pyarrow.string_view()),
                lambda: made.cast(pyarrow.large_string()),
            ]
        )()
    if pyarrow.types.is_floating(made.type) and draw.random() < 0.3:
        return made.cast(draw.choice([pyarrow.float32(), pyarrow.float64()]), safe=False)
    return made


def _text(value: Any) -> str:
    return str(value).encode("utf-8", "replace").decode()


def _misfit(draw: Draw, rows: int) -> pyarrow.Array:
    """A column that few features or labels can be."""
    value, kind = draw.choice(
        [
            (None, pyarrow.null()),
            (True, pyarrow.bool_()),
            (10**18, pyarrow.uint64()),
            (1, pyarrow.timestamp("s")),
            ({"a": 1}, pyarrow.struct({"a": pyarrow.int8()})),
            ([1.0, None], pyarrow.list_(pyarrow.float64())),
            (["a", "b"], pyarrow.list_(pyarrow.string())),
            ([[1]], pyarrow.list_(pyarrow.list_(pyarrow.int8()))),
            (b"\xff", pyarrow.binary()),
            ([(1, 2)], pyarrow.map_(pyarrow.int8(), pyarrow.int8())),
            ("x" * 9000, pyarrow.string()),
            (float("nan"), pyarrow.float64()),
            (float("inf"), pyarrow.float16()),
        ]
    )
    return pyarrow.array([value if draw.random() < 0.9 else None for _ in range(rows)], kind)


def _written(draw: Draw, columns: dict[str, pyarrow.Array]) -> bytes:
    compression = draw.choice([None] * 9 + ["lz4", "zstd"])
    table = pyarrow.Table.from_arrays(list(columns.values()), list(columns))
    sink = pyarrow.BufferOutputStream()
    with ipc.new_stream(sink, table.schema, options=ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=draw.choice([1, 7, 1000]))
    return sink.getvalue().to_pybytes()


def damaged(draw: Draw, whole: bytes) -> bytes:
    """The stream with some bytes changed, or cut, doubled or put together anew: lengths, offsets and types that lie."""
    kind = draw.randrange(4)
    if kind == 0:
        return whole[: draw.randrange(len(whole))]
    if kind == 1:
        return draw.choice([whole + whole, whole[draw.randrange(len(whole)) :], whole[:-8] + whole])
    changed = bytearray(whole)
    for _ in range(draw.choice([1, 1, 2, 8])):
        at = draw.randrange(len(changed))
        if kind == 2:
            changed[at] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
        else:
            lie = draw.choice([0, -1, 1, 2**31 - 1, -(2**31), len(whole), draw.randrange(256)])
            changed[at : at + 4] = lie.to_bytes(4, "little", signed=True)
    return bytes(changed)
