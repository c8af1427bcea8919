"""What is kept with the Idempotency-Key of a request, by which its repetition is recognised.

The record begins with a letter: `b` for a request with one block, `s` for a stream, `c` for a command, `j` for a job.
"""

from dataclasses import dataclass

from service.errors import KeyUsed, WrongGeneration
from service.store import keys, scripts
from service.store.entries import LogId
from service.store.model_part import ModelPart


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """Of a request with one block: the digest of its body, and how many of its rows were duplicates."""

    digest: bytes
    duplicates: int

    def to_bytes(self) -> bytes:
        """The record as it is stored."""
        return b"b%b %d" % (self.digest, self.duplicates)

    @classmethod
    def parse(cls, record: bytes) -> "BlockRecord":
        """From what `to_bytes` wrote. Raises KeyUsed for the record of another kind of request."""
        if not record.startswith(b"b"):
            raise KeyUsed
        digest, _, duplicates = record[1:].partition(b" ")
        return cls(digest, int(duplicates))


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """How far a stream has come: what became of its first `lines` lines, whose hash is `digest`.

    `loss` is the sum over the `learned` observations whose result is known.
    """

    lines: int = 0
    digest: str = ""
    appended: int = 0
    duplicates: int = 0
    rejected: int = 0
    learned: int = 0
    loss: float = 0.0
    done: bool = False

    def to_bytes(self) -> bytes:
        """The record as it is stored."""
        counts = f"{self.lines} {self.digest} {self.appended} {self.duplicates} {self.rejected}"
        return f"s{counts} {self.learned} {self.loss!r} {self.done:d}".encode()

    @classmethod
    def parse(cls, record: bytes) -> "StreamRecord":
        """From what `to_bytes` wrote. Raises KeyUsed for the record of another kind of request."""
        if not record.startswith(b"s"):
            raise KeyUsed
        lines, digest, appended, duplicates, rejected, learned, loss, done = record[1:].decode().split(" ")
        return cls(
            *(int(lines), digest, int(appended), int(duplicates), int(rejected)),
            *(int(learned), float(loss), done == "1"),
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept with a key: the position of the request's newest append, its record, perhaps its answer."""

    position: int
    record: bytes
    answer: bytes = b""

    @classmethod
    def parse(cls, value: bytes, answer: bytes = b"") -> "Kept":
        """From what Redis keeps: position, blank, record."""
        position, _, record = value.partition(b" ")
        return cls(int(position), record, answer)

    def to_bytes(self) -> bytes:
        """What Redis keeps."""
        return b"%d %b" % (self.position, self.record)

    def command_id(self, digest: bytes) -> LogId:
        """The log id of the command that was appended with this key and digest, see command.lua. Raises KeyUsed."""
        number, _, first = self.record.partition(b" ")
        if not number.startswith(b"c") or first != digest:
            raise KeyUsed
        return LogId(self.position, int(number[1:]))


class KeptByKey(ModelPart):
    """What a model's requests have left with their keys."""

    def keep(self, key: bytes, known: Kept | None, kept: Kept, most_bytes: int) -> Kept | None:
        """Keep something with a key. Returns what is kept already, if it is not `known`.

        All answers take about `most_bytes`; with them is kept what appended nothing. Raises WrongGeneration.
        """
        before = b"" if known is None else known.to_bytes()
        kind, *values = self.link.run(
            scripts.KEEP,
            [keys.meta(self.name), *keys.seen(self.name), *keys.answers(self.name)],
            [self.generation, key, before, kept.to_bytes(), most_bytes // 2],
        )
        if kind == b"gone":
            raise WrongGeneration(f"model {self.name} was deleted")
        return Kept.parse(values[0]) if values else None

    def find(self, key: bytes) -> Kept | None:
        """What is kept with a key, without the answer."""
        parts = [keys.meta(self.name), *keys.seen(self.name), *keys.answers(self.name)]
        value = self.link.run(scripts.KEPT, parts, [key])
        return None if value is None else Kept.parse(value)

    def keep_answer(self, key: bytes, answer: bytes, most_bytes: int) -> None:
        """Keep the answer, a JSON object, to a request that appended something."""
        self.link.run(
            scripts.KEEP_ANSWER,
            [keys.meta(self.name), *keys.answers(self.name)],
            [self.generation, key, answer, most_bytes // 2],
        )

    def answer(self, key: bytes) -> bytes | None:
        """The answer to the request with a key, if it is kept."""
        found = self.link.call_many([("HGET", slot, key) for slot in keys.answers(self.name)])
        return next((answer for answer in found if answer is not None and answer.startswith(b"{")), None)
