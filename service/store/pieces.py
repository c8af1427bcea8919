"""Large values are written and read in pieces, so that no single command holds up Redis for the other models.

What is stored of such a value (a snapshot's or checkpoint's state, a command's blob) is a reference to its pieces.
Pieces to which nothing refers any more go with a later snapshot, see `lua/include/drop_pieces.lua`.
"""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from service import failpoints
from service.errors import StoreError, StoreUnavailable, WrongGeneration
from service.store import keys, scripts
from service.store.model_part import ModelPart
from service.store.scripts import Script

SIZE = 1 << 20  # bytes of a piece, and of the largest value that is stored as it is
_REFERENCE = re.compile(
    rb"\0pieces:(\d+-[0-9a-f]+):(\d+)"
)  # no state begins so: its header would have exabytes


class Pieces(ModelPart):
    """The large values of a model."""

    @contextmanager
    def written(self, value: bytes, script: Script = scripts.PIECE) -> Iterator[bytes]:
        """Write a value; what the block is to store of it: a reference to its pieces, or a small value itself.

        If the block fails, they are dropped, unless it may have stored the reference all the same.
        Raises WrongGeneration, StoreFull, StoreUnavailable.
        """
        stored = self._write(value, script)
        try:
            yield stored
        except StoreUnavailable:
            raise
        except StoreError:
            self.drop(stored)
            raise

    def _write(self, value: bytes, script: Script) -> bytes:
        if len(value) <= SIZE:
            return value
        seconds, microseconds = self.link.call("TIME")  # by Redis's clock, which also tells what is old
        name = f"{seconds.decode()}{int(microseconds) // 1000:03d}-{uuid.uuid4().hex}"
        whole, starts = memoryview(value), range(0, len(value), SIZE)
        stored = f"\0pieces:{name}:{len(starts)}".encode()
        try:
            for index, start in enumerate(starts):
                arguments = [self.generation, f"{name}:{index}", bytes(whole[start : start + SIZE])]
                if not self.link.run(script, [keys.meta(self.name), keys.pieces(self.name)], arguments):
                    raise WrongGeneration(f"model {self.name} was deleted")
                failpoints.reach("after-piece")
        except StoreError:
            self.drop(stored)
            raise
        return stored

    def read(self, stored: bytes, at_once: bool = False) -> bytes | None:
        """The value of which this is stored; None if it has been replaced meanwhile, and its pieces have gone.

        `at_once`: by one command, for who is too slow to read a value before it is replaced.
        """
        fields = _fields(stored)
        if not fields:
            return stored
        if at_once:
            pieces = self.link.call("HMGET", keys.pieces(self.name), *fields)
            return None if None in pieces else b"".join(pieces)
        found = []
        for field in fields:
            piece = self.link.call("HGET", keys.pieces(self.name), field)
            if piece is None:
                return None
            found.append(piece)
        return b"".join(found)

    def drop(self, stored: bytes) -> None:
        """Drop the pieces of a value to which nothing will refer; if Redis is away, a later snapshot does."""
        if fields := _fields(stored):
            with suppress(StoreError):
                self.link.call("HDEL", keys.pieces(self.name), *fields)


def _fields(stored: bytes) -> list[bytes]:
    reference = _REFERENCE.fullmatch(stored)
    return (
        [] if reference is None else [b"%b:%d" % (reference[1], index) for index in range(int(reference[2]))]
    )
