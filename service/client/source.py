"""Records of a CSV or NDJSON file, plain or gzip, read once and in order.

A record is one row as a dict by column. CSV values are strings, an empty field is None; NDJSON values are
what JSON says. Nothing here knows the server.
"""

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

from service.client.errors import FileError

Record = dict[str, Any]

GZIP_MAGIC = b"\x1f\x8b"
DELIMITERS = ",;\t|"
SNIFFED_ROWS = 20
"""Lines from which the delimiter is inferred."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, though the rows after it can."""

    why: str


class Source:
    """The records of one open file: one pass, with a look ahead.

    `skip` is called with the number of a row that cannot be read, and why; without it such a row is an error.
    """

    def __init__(self, raw: io.BufferedReader, text: io.TextIOWrapper, path: str | None) -> None:
        """`text` is what `raw` holds; `path` is None for what can be read only once."""
        self.path = path
        self.name = path or "the input"
        self.size = Path(path).stat().st_size if path else None
        self.row = 0
        self.skip: Callable[[int, str], None] | None = None
        self._raw = raw
        self._ahead: list[Record | BadRow] = []
        with self._errors_named():
            first = next((line for line in text if line.strip()), None)
        if first is None:
            raise FileError(f"{self.name} is empty")
        self.format = "ndjson" if first.lstrip().startswith(("{", "[")) else "csv"
        self._records = (_ndjson if self.format == "ndjson" else _csv)(chain([first], text))

    @property
    def position(self) -> int:
        """Bytes taken from the file so far; 0 where that is not known."""
        return self._raw.tell() if self.size is not None else 0

    def head(self, rows: int) -> list[Record]:
        """The readable records among the next `rows`, which stay in the source.

        Raises FileError if one of them cannot be read and there is no `skip`.
        """
        with self._errors_named():
            self._ahead.extend(islice(self._records, max(rows - len(self._ahead), 0)))
        for place, record in enumerate(self._ahead[:rows]):
            if isinstance(record, BadRow) and self.skip is None:
                raise self._error(self.row + place + 1, record.why)
        return [record for record in self._ahead[:rows] if not isinstance(record, BadRow)]

    def __iter__(self) -> Iterator[Record]:
        """Every record from here on; `row` is then its number. Raises FileError at the first that cannot be read."""
        while True:
            with self._errors_named():
                record = self._ahead.pop(0) if self._ahead else next(self._records, None)
            if record is None:
                return
            self.row += 1
            if not isinstance(record, BadRow):
                yield record
            elif self.skip is None:
                raise self._error(self.row, record.why)
            else:
                self.skip(self.row, record.why)

    def _error(self, row: int, why: str) -> FileError:
        return FileError(f"{self.name}, row {row:,}: {why}")

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError as error:
            raise FileError(f"{self.name} is not UTF-8 text: {error}") from error
        except (csv.Error, EOFError, OSError, ValueError, zlib.error) as error:
            raise self._error(self.row + len(self._ahead) + 1, str(error)) from error


@contextmanager
def open_source(path: str) -> Iterator[Source]:
    """Open a file, or standard input for `-`. Raises FileError if it cannot be opened or holds nothing."""
    with ExitStack() as stack:
        try:
            raw = sys.stdin.buffer if path == "-" else stack.enter_context(Path(path).open("rb"))
        except OSError as error:
            raise FileError(f"cannot open {path}: {error.strerror}") from error
        raw = cast(io.BufferedReader, raw)
        text = stack.enter_context(io.TextIOWrapper(_decompressed(raw), encoding="utf-8-sig", newline=""))
        yield Source(raw, text, path if path != "-" and Path(path).is_file() else None)


def _decompressed(raw: io.BufferedReader) -> Any:
    # By its first bytes, not its name: standard input has none.
    return gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == GZIP_MAGIC else raw


def _ndjson(lines: Iterable[str]) -> Iterator[Record | BadRow]:
    for line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            yield BadRow(f"not JSON: {error}")
            continue
        yield (
            record
            if isinstance(record, dict)
            else BadRow("not a JSON object; NDJSON holds one object a line")
        )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _csv(lines: Iterator[str]) -> Iterator[Record | BadRow]:
    head = list(islice(lines, SNIFFED_ROWS))
    reader = csv.reader(chain(head, lines), delimiter=sniff_delimiter(head), strict=True)
    columns = _header(next(reader))
    for fields in reader:
        if not fields:
            continue
        if len(fields) == len(columns):
            yield dict(zip(columns, (field.strip() or None for field in fields), strict=True))
        else:
            yield BadRow(f"{len(fields)} fields under {len(columns)} columns (line {reader.line_num})")


def sniff_delimiter(head: list[str]) -> str:
    """The delimiter that splits the first of these lines, and most others alike, into the most fields."""
    return max(DELIMITERS, key=lambda delimiter: _fields_a_row(head, delimiter))


def _fields_a_row(head: list[str], delimiter: str) -> int:
    counts = [len(fields) for fields in csv.reader(head, delimiter=delimiter) if fields]
    return counts[0] if 2 * counts.count(counts[0]) > len(counts) else 1


def _header(fields: list[str]) -> list[str]:
    columns = [field.strip() for field in fields]
    if all(NUMBER.fullmatch(column) for column in columns):
        raise ValueError("the first row must name the columns; it holds only numbers")
    if "" in columns:
        raise ValueError(f"column {columns.index('') + 1} has no name")
    if repeated := {column for column in columns if columns.count(column) > 1}:
        raise ValueError(f"column {min(repeated)!r} appears twice in the header")
    return columns
