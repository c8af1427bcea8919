"""The real Valkey of the simulation: one connection to it, and its protocol."""

import socket
from pathlib import Path
from typing import Any

import hiredis


class Real:
    """One connection to the real server."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))

    def raw(self, packed: bytes, count: int = 1) -> list[bytes]:
        """Send packed commands; the raw answers."""
        self._socket.sendall(packed)
        answers: list[bytes] = []
        reader, taken = hiredis.Reader(), bytearray()
        while len(answers) < count:
            chunk = self._socket.recv(1 << 20)
            if not chunk:
                raise ConnectionError("Valkey has gone")
            if count == 1:
                taken += chunk
                reader.feed(chunk)
                if reader.gets() is not False:
                    answers.append(bytes(taken))
            else:
                reader.feed(chunk)
                while (answer := reader.gets()) is not False:
                    answers.append(answer)
        return answers

    def __call__(self, *words: Any) -> Any:
        """Send one command; its answer, an error as a value."""
        return read(self.raw(pack(words))[0])

    def many(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands together; their answers."""
        if not commands:
            return []
        if len(commands) == 1:
            return [self(*commands[0])]
        return self.raw(b"".join(map(pack, commands)), len(commands))


def pack(words: Any) -> bytes:
    """A command as bytes."""
    return bytes(hiredis.pack_command(tuple(words)))


def read(raw: bytes) -> Any:
    """An answer from its bytes."""
    reader = hiredis.Reader()
    reader.feed(raw)
    return reader.gets()
