"""Answers as they are sent: gunicorn's, with less work for what each answer has."""

import time
from typing import Any

from gunicorn import util
from gunicorn.http.wsgi import HEADER_VALUE_RE, Response

_PLAIN = {"Content-Type", "X-Request-Id", "Content-Length"}  # fields of which only the value is to be checked


class Answer(Response):  # type: ignore[misc]
    """An answer whose head goes out with the beginning of its body: one system call and one packet for both."""

    _head = b""
    headers_sent: bool

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        """Take the application's fields. Raises as gunicorn does."""
        for name, value in headers:
            if name in _PLAIN and type(value) is str and HEADER_VALUE_RE.fullmatch(value):
                self.headers.append((name, value.strip(" \t")))
                if name == "Content-Length":
                    self.response_length = int(value)
            else:
                super().process_headers([(name, value)])

    def send_headers(self) -> None:
        """Make the head; it is sent with what comes next."""
        if not self.headers_sent:
            lines = [
                *self.default_headers(),
                *(f"{name}: {value}\r\n" for name, value in self.headers),
                "\r\n",
            ]
            self._head = "".join(lines).encode("latin-1")
            self.headers_sent = True

    def default_headers(self) -> list[str]:
        """The lines that each head begins with."""
        connection = "upgrade" if self.upgrade else "close" if self.should_close() else "keep-alive"
        major, minor = self.req.version
        lines = [
            f"HTTP/{major}.{minor} {self.status}\r\nServer: {self.version}\r\n"
            f"Date: {_date()}\r\nConnection: {connection}\r\n"
        ]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        return lines

    def _emit_body(self, data: bytes) -> None:
        if self.chunked:
            self._send_head()
            super()._emit_body(data)
        else:
            head, self._head = self._head, b""
            _send(self.sock, head + data)

    def _send_head(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            _send(self.sock, head)

    def close(self) -> None:
        """End the answer."""
        self.send_headers()
        self._send_head()
        super().close()


class _Clock:
    """The date as HTTP writes it, made once a second."""

    second = 0
    text = ""


def _date() -> str:
    now = int(time.time())
    if now != _Clock.second:
        _Clock.second, _Clock.text = now, util.http_date(now)
    return _Clock.text


def _send(client: Any, piece: bytes) -> None:
    """Send all of it. gevent's `sendall` first asks how large the socket's buffer is, which few answers exceed."""
    sent = client.send(piece)
    if sent < len(piece):
        client.sendall(piece[sent:])
