"""A blocking HTTP client that costs little: one keep-alive connection, JSON in and out."""

import json
import socket
from typing import Any, Self


class Client:
    """One connection to a server on this machine."""

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self.socket.getsockname()[1]
        """This end's port."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET."""
        return self.exchange(request_bytes("GET", path, b""))

    def put(self, path: str, body: Any) -> tuple[int, bytes]:
        """Status and body of a PUT of JSON."""
        return self.exchange(request_bytes("PUT", path, json.dumps(body).encode()))

    def post(self, path: str, body: Any) -> tuple[int, bytes]:
        """Status and body of a POST of JSON."""
        return self.exchange(request_bytes("POST", path, json.dumps(body).encode()))

    def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a prepared request and wait for the whole answer. Raises ConnectionError if there is none."""
        self.socket.sendall(request)
        received = b""
        while (offsets := body_of(received)) is None or len(received) < offsets[1]:
            arrived = self.socket.recv(65536)
            if not arrived:
                raise ConnectionResetError("the server closed the connection")
            received += arrived
        return int(received[9:12]), received[offsets[0] : offsets[1]]


def request_bytes(method: str, path: str, body: bytes) -> bytes:
    """A complete HTTP/1.1 request."""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def body_of(received: bytes) -> tuple[int, int] | None:
    """Offsets of the body's first byte and of its end, or None while the headers are incomplete."""
    body = received.find(b"\r\n\r\n") + 4
    if body == 3:
        return None
    at = received.find(b"\r\nContent-Length: ", 0, body)
    if at < 0:
        raise ValueError(f"an answer without Content-Length: {received[:200]!r}")
    return body, body + int(received[at + 18 : received.index(b"\r", at + 18)])
