"""The body of a request, read from the HTTP server itself: whole within a limit, or as it arrives.

Flask's own reading believes a chunked body that was cut at the limit, and a body that ends before its length.
"""

import fcntl
import io
import socket
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any, cast

from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import NoMoreData, ParseException

from service.errors import BadRequest, TooLarge
from service.web import loop

DRAIN_SECONDS = 5.0  # for the rest of a body that is answered early
DRAIN_PAUSE = 0.2  # seconds that its next bytes are waited for
CHUNK_END = b"\r\n"  # may have arrived without the chunk after it, for which gunicorn would wait
PIECE = 2**18  # bytes that are handed on at once, about
TURN = 2**16  # bytes of a whole body that are read in one turn of the loop


class RequestBody:
    """The body of one request, from its WSGI environment."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._stream = environ["wsgi.input"]
        self._connection: socket.socket | None = environ.get("gunicorn.socket")
        announced = environ.get("CONTENT_LENGTH")
        self._length = int(announced) if announced else None
        self._ends = self._length is not None or bool(environ.get("wsgi.input_terminated"))
        self._over = False
        self._failure: Exception | None = None

    def whole(self, most: int, setting: str = "FRESHET_MAX_BODY_BYTES") -> bytes:
        """All of it. Raises TooLarge for more than `most` bytes, BadRequest if it is malformed or was cut."""
        if self._length is not None and self._length > most:
            raise self._too_large(most, setting)
        try:
            raw = self._read(min(self._length or most, most) + 1) if self._ends else b""
        except (ParseException, OSError) as error:
            raise self._cut(error) from error
        if len(raw) > most:
            raise self._too_large(most, setting)
        if self._length is not None and len(raw) < self._length:
            raise BadRequest(f"the body was cut: {len(raw)} bytes came of {self._length}")
        self._over = True
        return raw

    def _read(self, size: int) -> bytes:
        """So many bytes, or all that there are: a piece in each turn of the loop."""
        piece = cast(bytes, self._stream.read(min(size, TURN)))
        if len(piece) < TURN:
            return piece
        pieces, left = [piece], size - len(piece)
        while left > 0 and piece:
            loop.breathe()
            piece = cast(bytes, self._stream.read(min(left, TURN)))
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def pieces(self) -> Iterator[bytes]:
        """Its bytes as they arrive; never waits for more than the next. Raises BadRequest as `whole` does."""
        received = 0
        while self._ends:
            try:
                piece = self._gathered()
            except (ParseException, OSError) as error:
                raise self._cut(error) from error
            received += len(piece)
            if not piece:
                break
            yield piece
        if self._length is not None and received < self._length:
            raise BadRequest(f"the body was cut: {received} bytes came of {self._length}")
        self._over = True

    def is_idle(self) -> bool:
        """Whether nothing has arrived that is not handed on."""
        return self._connection is not None and not has_bytes(self._connection)

    def _gathered(self) -> bytes:
        """The next bytes, with what has arrived meanwhile: a block of rows costs more than a row."""
        if self._failure is not None:
            raise self._failure
        pieces, size = [_next_piece(self._stream)], 0
        while self._connection is not None and pieces[-1]:
            size += len(pieces[-1])
            if size >= PIECE or not has_bytes(self._connection):
                break
            try:
                pieces.append(_next_piece(self._stream))
            except (ParseException, OSError) as error:
                self._failure = error  # what came before it counts
                break
        return b"".join(pieces)

    def drain(self) -> None:
        """Read what still comes of a body that is answered early, for some seconds at most, and forget it.

        A connection that is closed with bytes unread is reset, and the client would never see the answer.
        """
        if self._over or self._connection is None:
            return
        deadline = time.monotonic() + DRAIN_SECONDS
        before = self._connection.gettimeout()
        self._connection.settimeout(DRAIN_PAUSE)
        try:
            while time.monotonic() < deadline and _next_piece(self._stream):
                loop.breathe()
        except (ParseException, OSError):
            return
        finally:
            self._connection.settimeout(before)

    def _cut(self, error: Exception) -> BadRequest:
        self._over = True  # where the next request begins is not known: the server closes the connection
        if isinstance(error, NoMoreData):
            return BadRequest("the body was cut: the connection ended within it")
        return BadRequest(f"the body is malformed or was cut: {error}")

    def _too_large(self, most: int, setting: str) -> TooLarge:
        return TooLarge(f"the body is over {most} bytes ({setting})")


def has_bytes(connection: socket.socket) -> bool:
    """Whether bytes wait to be read. Asks the system, without waiting and without the event loop."""
    waiting = int.from_bytes(fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)
    return waiting > len(CHUNK_END)


def _next_piece(stream: Any) -> bytes:
    """The bytes that have arrived, at least one; none at the end.

    gunicorn's `read` waits for as many bytes as it is asked for, so that a client which waits for the answer to its
    first line would wait forever: its readers are asked themselves.
    """
    if type(stream) is not Body:
        return cast(bytes, stream.read(PIECE))
    held: bytes = stream.buf.getvalue()
    if held:
        stream.buf = io.BytesIO()
        return held
    try:
        if type(stream.reader) is LengthReader:
            return _piece_of_length(stream.reader)
        if type(stream.reader) is ChunkedReader:
            return _piece_of_chunks(stream.reader)
    except Exception:
        stream.failed = True
        raise
    return cast(bytes, stream.read(PIECE))


def _piece_of_length(reader: LengthReader) -> bytes:
    if not reader.length:
        return b""
    piece: bytes = reader.unreader.read(None, read_ahead=reader.length)
    if len(piece) > reader.length:
        reader.unreader.unread(piece[reader.length :])
        piece = piece[: reader.length]
    reader.length -= len(piece)
    return piece


def _piece_of_chunks(reader: ChunkedReader) -> bytes:
    held: bytes = reader.buf.getvalue()
    reader.buf = io.BytesIO()
    while not held and reader.parser is not None:
        piece = next(reader.parser, None)
        if piece is None:
            reader.parser = None
        else:
            held = piece
    return held
