"""The lines of a stream, as they come off the connection."""

import socket
import time
from collections.abc import Iterator
from typing import IO

from service.errors import BadRequest, TooLarge

LINES_AT_ONCE = 1000
SMALLEST_READ, LARGEST_READ = 2**10, 2**18  # bytes
DRAIN_SECONDS = 5.0  # for the rest of a stream that is answered early
DRAIN_PAUSE = 0.2  # seconds that its next bytes are waited for


def line_blocks(stream: IO[bytes], length: int | None, longest: int) -> Iterator[tuple[int, list[bytes]]]:
    """The lines of a stream in blocks, each with the number of its first line, from 1.

    `length` is how many bytes were announced: a stream that ends before was cut, perhaps in the middle of a line.
    Raises TooLarge for a line of more than `longest` bytes, BadRequest for a stream that was cut.

    The server hands bytes over only when as many are there as were asked for. So a read asks for twice as much as
    the one before where that came at once, and for little where the stream is slow.
    """
    number, rest, size, received = 1, b"", SMALLEST_READ, 0
    while True:
        started = time.monotonic()
        try:
            chunk = stream.read(size)
        except OSError as error:  # also what gunicorn raises for chunks that end early
            raise BadRequest(f"the stream was cut: {error}") from error
        received += len(chunk)
        if not chunk and length is not None and received < length:
            raise BadRequest(f"the stream was cut: {received} bytes came of {length}")
        size = min(2 * size, LARGEST_READ) if time.monotonic() - started < 0.005 else SMALLEST_READ
        *lines, rest = (rest + chunk).split(b"\n")
        if not chunk and rest:
            lines, rest = [*lines, rest], b""
        if len(rest) > longest or any(len(line) > longest for line in lines):
            raise TooLarge(f"a line of more than {longest} bytes (FRESHET_MAX_LINE_BYTES)")
        for start in range(0, len(lines), LINES_AT_ONCE):
            yield number + start, lines[start : start + LINES_AT_ONCE]
        number += len(lines)
        if not chunk:
            return


def drain(stream: IO[bytes], connection: socket.socket | None) -> None:
    """Read what still comes of a stream that is answered early, for some seconds at most, and forget it.

    A connection that is closed with bytes unread is reset, and the client would never see the answer.
    """
    if connection is None:
        return
    deadline = time.monotonic() + DRAIN_SECONDS
    connection.settimeout(DRAIN_PAUSE)
    try:
        while time.monotonic() < deadline and stream.read(LARGEST_READ):
            pass
    except OSError:
        return
    finally:
        connection.settimeout(None)
