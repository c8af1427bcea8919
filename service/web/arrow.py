"""Tables as Arrow IPC streams (`application/vnd.apache.arrow.stream`): rows in, predictions out.

Messages are cut out of the body here, so that none is longer than a limit, none is compressed, and pyarrow never waits
for a client. pyarrow is an extra; without it such a body is refused.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from model import ModelSpec
from service.errors import BadRequest, Invalid, TooLarge, WrongMediaType
from service.web import loop

pyarrow: Any = None  # loaded with the first table: it takes a tenth of a second, and starts a thread
compute: Any = None
ipc: Any = None

Array = np.ndarray

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
CONTINUATION = b"\xff\xff\xff\xff"
END = CONTINUATION + bytes(4)
SCHEMA, DICTIONARY, BATCH = 1, 2, 3  # kinds of messages
LONGEST_METADATA = 2**22  # bytes
INDEX_PREFIX = "__index_level_"  # of pandas's own index, which is no feature
COLUMNS = ("label", "id", "weight")
VIEW = 16  # bytes of a view of a text, which begins with its length


def load() -> None:
    """Load pyarrow, beside the loop. Raises WrongMediaType if it is not installed."""
    global pyarrow, compute, ipc
    if pyarrow is not None:
        return
    names = ("pyarrow.compute", "pyarrow.ipc", "pyarrow")
    try:
        compute, ipc, pyarrow = (loop.run(import_module, name, pool="long") for name in names)
    except ImportError:
        raise WrongMediaType("Arrow bodies need the extra: pip install 'freshet[arrow]'") from None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream: its flatbuffer, and all its bytes."""

    metadata: bytes
    raw: bytes

    @property
    def kind(self) -> int:
        """SCHEMA, DICTIONARY, BATCH or another."""
        return _scalar(self.metadata, _table(self.metadata, 0), 1, "<B") or 0

    @property
    def is_compressed(self) -> bool:
        """Whether its buffers are compressed."""
        header = _child(self.metadata, _table(self.metadata, 0), 2)
        if self.kind == DICTIONARY and header:
            header = _child(self.metadata, header, 1)
        return bool(header and _field(self.metadata, header, 3))


def messages(pieces: Iterable[bytes], longest: int) -> Iterator[Message]:
    """The messages in the bytes of a stream. Raises BadRequest, TooLarge for one of more than `longest` bytes."""
    source, held = iter(pieces), bytearray()

    def take(size: int) -> bytes:
        while len(held) < size:
            piece = next(source, b"")
            if not piece:
                raise BadRequest("not a whole Arrow stream: it ends in the middle of a message")
            held.extend(piece)
        taken = bytes(held[:size])
        del held[:size]
        return taken

    while True:
        prefix = take(8)
        if prefix[:4] != CONTINUATION:
            raise BadRequest("not an Arrow IPC stream")
        length = int.from_bytes(prefix[4:], "little", signed=True)
        if length == 0:
            return
        if not 0 < length <= LONGEST_METADATA:
            raise BadRequest(f"not an Arrow stream: a message of {length} bytes of metadata")
        metadata = take(length)
        size = _scalar(metadata, _table(metadata, 0), 3, "<q") or 0
        if size < 0:
            raise BadRequest("not an Arrow stream: a body of negative length")
        if size > longest:
            raise TooLarge(
                f"an Arrow message of {size} bytes; at most {longest} (FRESHET_MAX_BODY_BYTES): send smaller batches"
            )
        yield Message(metadata, prefix + metadata + take(size))


# A flatbuffer's tables, as far as the messages' heads need them.


def _read(raw: bytes, at: int, form: str) -> int:
    try:
        return int(struct.unpack_from(form, raw, at)[0]) if at >= 0 else 1 // 0
    except (struct.error, ZeroDivisionError):
        raise BadRequest("not an Arrow stream: a message's metadata points outside of it") from None


def _table(raw: bytes, at: int) -> int:
    return at + _read(raw, at, "<I")


def _field(raw: bytes, table: int, number: int) -> int:
    """Where a field of a table is; 0 if it is absent."""
    vtable = table - _read(raw, table, "<i")
    if 4 + 2 * number >= _read(raw, vtable, "<H"):
        return 0
    offset = _read(raw, vtable + 4 + 2 * number, "<H")
    return table + offset if offset else 0


def _scalar(raw: bytes, table: int, number: int, form: str) -> int | None:
    at = _field(raw, table, number)
    return _read(raw, at, form) if at else None


def _child(raw: bytes, table: int, number: int) -> int:
    at = _field(raw, table, number)
    return _table(raw, at) if at else 0


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a table: `number` is that of the first one, from 1.

    `features` is a matrix (n, width) with NaN for missing values where all are numbers, else lists in feature order.
    """

    number: int
    features: Any
    labels: list[Any] | None = None
    ids: list[Any] | None = None
    weights: list[Any] | None = None

    def __len__(self) -> int:
        return len(self.features)

    def slice(self, start: int, stop: int) -> "Rows":
        """The rows from `start` up to `stop`, counted from 0."""
        others = [column and column[start:stop] for column in (self.labels, self.ids, self.weights)]
        return Rows(self.number + start, self.features[start:stop], *others)


def read_rows(
    pieces: Iterable[bytes], spec: ModelSpec, longest: int, at_once: int, *, labelled: bool
) -> Iterator[Rows]:
    """The rows of a stream, in parts of at most `at_once`. Raises BadRequest, Invalid, TooLarge."""
    schema, dictionaries, number = b"", bytearray(), 1
    for message in messages(pieces, longest):
        if message.kind == SCHEMA and not schema:
            schema = message.raw
            with _reading():
                _check_columns(ipc.open_stream(pyarrow.py_buffer(schema + END)).schema, spec, labelled)
            continue
        if not schema or message.kind not in (DICTIONARY, BATCH):
            raise BadRequest(
                "not an Arrow stream: its messages are a schema, then dictionaries and record batches"
            )
        if message.is_compressed:
            raise Invalid.at("", "compressed buffers are not read; write the stream without compression")
        if message.kind == DICTIONARY:
            dictionaries += message.raw
            if len(dictionaries) > longest:
                raise TooLarge(f"dictionaries of more than {longest} bytes (FRESHET_MAX_BODY_BYTES)")
            continue
        loop.breathe()  # a body may hold very many small batches
        batch = _batch(schema + bytes(dictionaries) + message.raw + END)
        if batch.num_rows > 8 * len(message.raw):
            raise BadRequest("not an Arrow stream: a batch of more rows than it has bits")
        for start in range(0, batch.num_rows, at_once):
            part = batch.slice(start, at_once)
            with _reading():
                _check_texts(part, longest)
                rows = _rows(part, spec, number, labelled)
            yield rows
            number += len(rows)
    if not schema:
        raise BadRequest("not an Arrow stream: it has no schema")


@contextmanager
def _reading() -> Iterator[None]:
    """Whatever pyarrow finds wrong is the client's: names that are no text, offsets that point elsewhere."""
    try:
        yield
    except (pyarrow.ArrowException, ValueError, LookupError, OSError, OverflowError, StopIteration) as error:
        raise BadRequest(f"not an Arrow stream that can be read: {error}") from None


def _batch(raw: bytes) -> Any:
    with _reading():
        batch = ipc.open_stream(pyarrow.py_buffer(raw)).read_next_batch()
        batch.validate(full=True)
    return batch


def _check_columns(schema: Any, spec: ModelSpec, labelled: bool) -> None:
    features = {feature.name for feature in spec.feature_list}
    names = [name for name in schema.names if not name.startswith(INDEX_PREFIX)]
    counts = Counter(names)
    known = features | (set(COLUMNS) if labelled else {"id"})
    for name in names:
        if counts[name] > 1:
            raise Invalid.at(f"/{name}", "several columns of this name")
        if name not in known:
            raise Invalid.at(f"/{name}", "neither a feature of this model nor label, id or weight")
        if not _is_readable(schema.field(name).type):
            raise Invalid.at(f"/{name}", f"a column of type {schema.field(name).type!s:.100} is not read")
    if not features & set(names):
        raise Invalid.at("", "no column is a feature of this model")
    if labelled and "label" not in names:
        raise Invalid.at("/label", "a column of labels is required")


def _is_readable(kind: Any) -> bool:
    """Whether a column's values take about as much memory as its bytes, or texts that `_check_texts` counts."""
    types = pyarrow.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        item = kind.value_type
        return _is_number(item) or types.is_string(item) or types.is_large_string(item)
    value = kind.value_type if types.is_dictionary(kind) else kind
    return _is_number(value) or _is_text(value) or types.is_boolean(value) or types.is_null(value)


def _is_text(kind: Any) -> bool:
    types = pyarrow.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _check_texts(batch: Any, longest: int) -> None:
    """Refuse rows whose texts are many times longer than the message: many rows may share one. Raises TooLarge."""
    size = sum(_shared_bytes(column) for column in batch.columns)
    if size > longest:
        raise TooLarge(
            f"the texts of {batch.num_rows} rows take {size} bytes; at most {longest} (FRESHET_MAX_BODY_BYTES)"
        )


def _shared_bytes(column: Any) -> int:
    """Bytes of the texts of a column that keeps a text once for all rows that have it."""
    if pyarrow.types.is_string_view(column.type):
        return int(_lengths(column).sum())
    if pyarrow.types.is_dictionary(column.type) and _is_text(column.type.value_type):
        return int(_lengths(column.dictionary)[column.indices.drop_null().to_numpy()].sum())
    return 0


def _lengths(texts: Any) -> Array:
    """Bytes of each text; 0 or some number for a missing one."""
    if not pyarrow.types.is_string_view(texts.type):
        return np.asarray(compute.binary_length(texts).fill_null(0), np.int64)
    if not len(texts):
        return np.zeros(0, np.int64)
    views = np.frombuffer(texts.buffers()[1], np.int32).reshape(-1, VIEW // 4)
    return np.maximum(views[texts.offset : texts.offset + len(texts), 0].astype(np.int64), 0)


def _rows(batch: Any, spec: ModelSpec, number: int, labelled: bool) -> Rows:
    def column(name: str) -> list[Any] | None:
        return _values(batch, name) if name in batch.schema.names else None

    features = {feature.name for feature in spec.feature_list}
    labels, ids, weights = (
        column(name) if name not in features or name == "label" else None for name in COLUMNS
    )
    return Rows(
        number, _features(batch, spec), labels if labelled else None, ids, weights if labelled else None
    )


def _features(batch: Any, spec: ModelSpec) -> Any:
    """The columns of features, as a matrix if all are numbers."""
    columns = [batch.column(f.name) if f.name in batch.schema.names else None for f in spec.feature_list]
    kinds = [f.kind for f in spec.feature_list]
    if all(kind == "number" for kind in kinds) and all(c is None or _is_number(c.type) for c in columns):
        matrix = np.full((batch.num_rows, len(columns)), np.nan)
        for index, values in enumerate(columns):
            if values is not None:
                matrix[:, index] = values.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False)
        return matrix
    lists = [
        [None] * batch.num_rows if c is None else _values(batch, f.name)
        for c, f in zip(columns, spec.feature_list, strict=True)
    ]
    return [list(row) for row in zip(*lists, strict=True)]


def _is_number(kind: Any) -> bool:
    return bool(pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind))


def _values(batch: Any, name: str) -> list[Any]:
    """A column's values as JSON has them: NaN, as data frames write what is missing, is null."""
    values: list[Any] = batch.column(name).to_pylist()
    return [None if value != value else value for value in values]


def written(spec: ModelSpec, labels: list[Any] | None, made: Array, step: int) -> bytes:
    """Predictions as an Arrow stream: `label` and the numbers of all classes in their order, or the values."""
    numbers = pyarrow.array(made.reshape(-1))
    if made.shape[1] > 1:
        numbers = pyarrow.FixedSizeListArray.from_arrays(numbers, made.shape[1])
    if labels is None:
        table = pyarrow.table({"value": numbers})
    else:
        table = pyarrow.table({"label": pyarrow.array(labels), "probabilities": numbers})
    table = table.replace_schema_metadata({"step": str(step)})
    sink = pyarrow.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
