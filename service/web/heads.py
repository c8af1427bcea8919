"""Heads of requests: a plain one is read by one regular expression, any other by gunicorn's parser.

gunicorn reads line by line in Python, which takes ten times as long. What is plain is a part of what gunicorn takes, by
the same grammar and with the same result; the rest, and so every refusal, is gunicorn's: heads that come in pieces,
transfer codings, expectations, fields given twice, targets that are no path.
"""

import io
import os
import re
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from gunicorn.http.body import Body, LengthReader
from gunicorn.http.message import DEFAULT_MAX_HEADERFIELD_SIZE, MAX_REQUEST_LINE, HeaderPolicy
from gunicorn.http.parser import RequestParser
from gunicorn.http.wsgi import base_environ

# RFC 9110, section 5.6.2, without the underscore, which an environment cannot tell from a dash.
_NAME = r"[!#$%&'*+\-.^`|~0-9A-Za-z]++"
_VALUE = r"[\t\x20-\x7e\x80-\xff]*+"  # RFC 9110, section 5.5, in latin-1
# The quantifiers give nothing back: a head is gone through once, whatever is in it.
_HEAD = re.compile(
    r"(GET|POST|PUT|PATCH|DELETE|HEAD|OPTIONS) "
    r"(/(?!/)[!\"$->@-~]*+)(?:\?([!\"$-~]*+))? HTTP/1\.([01])\r\n"
    rf"((?:{_NAME}:{_VALUE}\r\n)*+)"
)
_FIELD = re.compile(r"([^:]++):[ \t]*+([^\r]*+)\r\n")
_END = b"\r\n\r\n"
_LENGTH = re.compile("[0-9]{1,15}")
_SPECIAL = {"TRANSFER-ENCODING", "EXPECT"}


@lru_cache(maxsize=1024)
def _key(name: str) -> str:
    """The key of a field in the environment; "" for a field that makes a request special."""
    name = name.upper()
    if name in _SPECIAL:
        return ""
    key = name.replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


class PlainRequest:
    """A request whose head was plain, as gunicorn knows one, with its WSGI environment."""

    __slots__ = ("_closes", "body", "environ", "method", "query", "uri", "version")

    def __init__(self, environ: dict[str, Any], body: Body, version: tuple[int, int]) -> None:
        self.environ = environ
        self.body = body
        self.version = version
        self.method = environ["REQUEST_METHOD"]
        self.uri = environ["RAW_URI"]
        self.query = environ["QUERY_STRING"]
        connection = environ.get("HTTP_CONNECTION", "").lower()
        self._closes = connection == "close" or (version < (1, 1) and connection != "keep-alive")

    def should_close(self) -> bool:
        """Whether the connection ends with this request."""
        return self._closes


class Requests(RequestParser):  # type: ignore[misc]
    """The requests of one connection, one after the other: PlainRequests and gunicorn's own."""

    def __init__(self, cfg: Any, server: Any, client: Any, address: Any) -> None:
        super().__init__(cfg, client, address)
        self.mesg: Any = None  # the last request
        self._longest = longest_plain(cfg) if isinstance(server, tuple) and isinstance(address, tuple) else 0
        self._most_fields: int = cfg.limit_request_fields
        if self._longest:
            self._schemes = _Peer(cfg, address).schemes
            self._environ = base_environ(cfg) | {
                "wsgi.multithread": True,
                "wsgi.url_scheme": "https" if cfg.is_ssl else "http",
                "gunicorn.socket": client,
                "REMOTE_ADDR": address[0],
                "REMOTE_PORT": str(address[1]),
                "SERVER_NAME": server[0],
                "SERVER_PORT": str(server[1]),
                "SCRIPT_NAME": "",
            }

    def has_more(self) -> bool:
        """Whether bytes of the next request were read with the last one."""
        return bool(self.unreader.buf.getbuffer().nbytes)

    def __next__(self) -> Any:
        """The next request, which waits for it. The body of the last one has been read. Raises StopIteration."""
        if not self._longest:
            return super().__next__()
        if self.mesg is not None and (self.mesg.should_close() or self.mesg.body.failed):
            raise StopIteration
        received = self.unreader.read()
        if not received:
            raise StopIteration
        request = self._plain(received)
        if request is None:
            self.unreader.unread(received)
            return super().__next__()
        self.req_count += 1
        self.mesg = request
        return request

    def _plain(self, received: bytes) -> PlainRequest | None:
        """The request that these bytes begin with; None if its head isn't whole, or not plain."""
        end = received.find(_END) + 2
        if not 2 <= end <= self._longest:
            return None
        head = _HEAD.fullmatch(received[:end].decode("latin-1"))
        if head is None:
            return None
        method, path, query, minor, lines = head.groups()
        environ = self._environ.copy()
        if not (self._add_fields(environ, lines) and self._add_scheme(environ)):
            return None
        length = environ.get("CONTENT_LENGTH", "0")
        if _LENGTH.fullmatch(length) is None:
            return None
        body = Body(LengthReader(self.unreader, int(length)))
        environ["wsgi.input"] = body
        environ["REQUEST_METHOD"] = method
        environ["RAW_URI"] = path if query is None else f"{path}?{query}"
        environ["QUERY_STRING"] = query or ""
        environ["PATH_INFO"] = unquote_to_bytes(path).decode("latin-1") if "%" in path else path
        environ["SERVER_PROTOCOL"] = "HTTP/1.1" if minor == "1" else "HTTP/1.0"
        self.unreader.buf = io.BytesIO(received[end + 2 :])
        return PlainRequest(environ, body, (1, int(minor)))

    def _add_fields(self, environ: dict[str, Any], lines: str) -> bool:
        """Add the fields of a head; False if one is special or comes twice, or if there are too many."""
        fields = _FIELD.findall(lines)
        for name, value in fields:
            key = _key(name)
            if not key or key in environ:
                return False
            environ[key] = value.rstrip(" \t")
        return len(fields) <= self._most_fields

    def _add_scheme(self, environ: dict[str, Any]) -> bool:
        """Note by which scheme a proxy says that it was called; False if it contradicts itself."""
        told = {environ[key] == secure for key, secure in self._schemes if key in environ}
        if told:
            environ["wsgi.url_scheme"] = "https" if True in told else "http"
        return len(told) < 2


class _Peer(HeaderPolicy):  # type: ignore[misc]
    """What the other end of a connection may say, by gunicorn's rules."""

    def __init__(self, cfg: Any, address: Any) -> None:
        self.cfg = cfg
        self.peer_addr = address
        trusted, _ = self._peer_trusted_for_forwarded()
        self.schemes = [(_key(name), secure) for name, secure in trusted.items()]


def longest_plain(cfg: Any) -> int:
    """How long a head may be without a look at gunicorn's limits of its parts; 0 where gunicorn is to read all."""
    if cfg.protocol != "http" or cfg.proxy_protocol != "off" or "SCRIPT_NAME" in os.environ:
        return 0
    limits: list[int] = [MAX_REQUEST_LINE, DEFAULT_MAX_HEADERFIELD_SIZE]
    limits += [limit for limit in (cfg.limit_request_line, cfg.limit_request_field_size) if limit > 0]
    return min(limits)
