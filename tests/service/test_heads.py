"""Heads of requests are taken, refused and understood as gunicorn's own parser does it."""

import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import get_parser
from gunicorn.http.wsgi import create

from service.web.heads import PlainRequest, Requests
from service.web.sending import Answer

SERVER, PROXY, STRANGER = ("127.0.0.1", 8000), ("127.0.0.1", 50000), ("192.0.2.7", 50000)
OWN = {"wsgi.input", "wsgi.errors", "wsgi.early_hints", "wsgi.multithread", "gunicorn.socket"}
"""Keys of an environment that are objects of one request, or the worker's."""
BODY = b'{"features": [1, 2], "label": 1}'
POST, GET, HOST = "POST /v1/models/m/feedback HTTP/1.1", "GET /v1/models HTTP/1.1", "Host: 127.0.0.1"
JSON, LENGTH = "Content-Type: application/json", f"Content-Length: {len(BODY)}"
CHUNKS = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)

USUAL = {
    "wrk": (POST, HOST, LENGTH, JSON),
    "curl": (POST, HOST, "User-Agent: curl/8.5.0", "Accept: */*", JSON, LENGTH),
    "requests": (
        *(POST, HOST, "User-Agent: python-requests/2.32.3", "Accept-Encoding: gzip, deflate", "Accept: */*"),
        *("Connection: keep-alive", LENGTH, JSON, "Authorization: Bearer fk_1_2"),
    ),
    "a browser": (
        *("GET /docs?a=b%20c&d=/?x HTTP/1.1", "Host: localhost:8000", "Connection: keep-alive"),
        *('sec-ch-ua: "Chromium";v="131", "Not_A Brand";v="24"', "Accept: text/html,*/*;q=0.8"),
        *("Upgrade-Insecure-Requests: 1", "Accept-Language: de,en;q=0.9", "Cookie: a=b; c=d"),
    ),
    "a proxy": (
        *(POST, HOST, JSON, LENGTH, "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https"),
        *("X-Forwarded-Host: example.org", "Via: 1.1 Caddy", "Forwarded: for=192.0.2.7"),
    ),
    "ids of its own": (POST, HOST, JSON, LENGTH, "X-Request-Id: 1", "Idempotency-Key: k", "Traceparent: 00-1-1-00"),
    "a monitor": ("GET /metrics HTTP/1.0", "Connection: close"),
    "an old client": ("GET /livez HTTP/1.0",),
    "an old client that stays": ("GET /livez HTTP/1.0", "Connection: Keep-Alive"),
    "nothing but a line": ("GET / HTTP/1.1",),
    "an escaped path": ("GET /v1/models/a%2Fb%20c%ff/x;y=1?q HTTP/1.1", HOST),
    "an empty query": ("DELETE /v1/models/m? HTTP/1.1", HOST),
    "values in latin-1": ("GET / HTTP/1.1", "X-A: \xe4\xf6\xa0", "X-B:\t b \x85 \t", "X-C:", "X-D: :a:"),
    "no body": (POST, HOST, "Content-Length: 000"),
}  # fmt: skip

UNUSUAL = {
    "chunks": (POST, HOST, JSON, "Transfer-Encoding: chunked"),
    "an expectation": (POST, HOST, JSON, LENGTH, "Expect: 100-continue"),
    "an unknown expectation": (POST, HOST, LENGTH, "Expect: coffee"),
    "a length and chunks": (POST, HOST, LENGTH, "Transfer-Encoding: chunked"),
    "chunks twice": (POST, HOST, "Transfer-Encoding: chunked, chunked"),
    "an unknown coding": (POST, HOST, "Transfer-Encoding: br"),
    "two lengths": (POST, HOST, LENGTH, LENGTH),
    "two hosts": (GET, HOST, HOST),
    "two types": (POST, HOST, JSON, JSON, LENGTH),
    "a field twice": (GET, HOST, "Accept: a", "Accept: b", "X-Forwarded-For: 1", "x-forwarded-for: 2"),
    "two connections": (GET, HOST, "Connection: close", "Connection: keep-alive"),
    "a list of connections": (GET, HOST, "Connection: keep-alive, close"),
    "an upgrade": (GET, HOST, "Connection: Upgrade", "Upgrade: h2c"),
    "a sign": (POST, HOST, "Content-Length: +32"),
    "another digit": (POST, HOST, "Content-Length: \xb2"),
    "a long length": (POST, HOST, "Content-Length: " + "1" * 16),
    "no length": (POST, HOST, "Content-Length:"),
    "an underscore": (GET, HOST, "X_Forwarded_For: 1"),
    "a length with an underscore": (POST, HOST, "Content_Length: 3"),
    "a script name": (GET, HOST, "Script_Name: /v1"),
    "a space before the colon": (GET, HOST, "A : b"),
    "a space before the name": (GET, HOST, " A: b"),
    "a fold": (GET, HOST, "A: b", "\tc"),
    "no colon": (GET, HOST, "A"),
    "no name": (GET, HOST, ": b"),
    "a name in latin-1": (GET, HOST, "\xdf: b"),
    "a zero": (GET, HOST, "A: b\0c"),
    "a bare carriage return": (GET, HOST, "A: b\rB: c"),
    "a bare line feed": (GET, HOST, "A: b\nB: c"),
    "a delete": (GET, HOST, "A: \x7f"),
    "two schemes that agree": (GET, HOST, "X-Forwarded-Proto: https", "X-Forwarded-Ssl: on"),
    "two schemes that do not": (GET, HOST, "X-Forwarded-Proto: https", "X-Forwarded-Ssl: off"),
    "an absolute address": ("GET http://example.org:80/v1/models?a=b HTTP/1.1", HOST),
    "an asterisk": ("OPTIONS * HTTP/1.1", HOST),
    "an asterisk to get": ("GET * HTTP/1.1", HOST),
    "an authority": ("GET example.org:80 HTTP/1.1", HOST),
    "a tunnel": ("CONNECT example.org:80 HTTP/1.1", HOST),
    "a tunnel to a path": ("CONNECT / HTTP/1.1", HOST),
    "two slashes": ("GET //example.org/v1?a HTTP/1.1", HOST),
    "a fragment": ("GET /v1#a?b HTTP/1.1", HOST),
    "a fragment in the query": ("GET /v1?a#b HTTP/1.1", HOST),
    "brackets": ("GET /v1/[a]?b[c]=d HTTP/1.1", HOST),
    "a backslash": ("GET /\\v1\\..\\a HTTP/1.1", HOST),
    "a byte beyond ASCII": ("GET /v1/\xe4 HTTP/1.1", HOST),
    "a space in the target": ("GET /v1/a b HTTP/1.1", HOST),
    "two spaces": ("GET  / HTTP/1.1", HOST),
    "a tab": ("GET\t/ HTTP/1.1", HOST),
    "another version": ("GET / HTTP/1.2", HOST),
    "a second version": ("GET / HTTP/2.0", HOST),
    "no version": ("GET /",),
    "a long version": ("GET / HTTP/1.10", HOST),
    "a small version": ("GET / http/1.1", HOST),
    "an unknown method": ("BREW / HTTP/1.1", HOST),
    "a small method": ("get / HTTP/1.1", HOST),
    "an empty line before": ("", GET, HOST),
    "two empty lines before": ("", "", GET, HOST),
    "a long line": ("GET /" + "a" * 5000 + " HTTP/1.1", HOST),
    "a long field": (GET, HOST, "A: " + "b" * 9000),
    "a fairly long field": (GET, HOST, "A: " + "b" * 5000),
    "64 fields": (GET, *(f"A{number}: b" for number in range(64))),
    "65 fields": (GET, *(f"A{number}: b" for number in range(65))),
    "65 fields of one name": (GET, *["A: b"] * 65),
}  # fmt: skip
ALL = USUAL | UNUSUAL


def head(lines: Iterable[str]) -> bytes:
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def message(lines: tuple[str, ...]) -> bytes:
    """A head and the body that it announces."""
    chunked = any("chunked" in line for line in lines)
    return head(lines) + (CHUNKS + b"X: y\r\n\r\n" if chunked else BODY if LENGTH in lines else b"")


class Source:
    """What a client sends, in pieces, and what it is told before the answer."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self.told = b""

    def recv(self, _size: int) -> bytes:
        return next(self._pieces, b"")

    def send(self, told: bytes) -> None:
        self.told += told


def settings(**changes: Any) -> Config:
    """gunicorn's settings as the service has them."""
    config = Config()
    for name, value in ({"limit_request_fields": 64} | changes).items():
        config.set(name, value)
    return config


SETTINGS = settings()


def understood(requests: Iterator[Any], source: Source, config: Config, address: Any) -> list[Any]:
    """Each request's environment, body and whether the connection ends with it; last the error that ended them."""
    seen: list[Any] = []
    try:
        for request in requests:
            if type(request) is PlainRequest:
                environ = request.environ
            else:
                _, environ = create(request, source, address, SERVER, config, response_class=Answer)
            plain = {key: value for key, value in environ.items() if key not in OWN}
            seen.append((plain, environ["wsgi.input"].read(), request.should_close(), source.told))
    except Exception as error:  # noqa: BLE001 - which one is what is compared
        seen.append((type(error), str(error)))
    return seen


def both(pieces: list[bytes], config: Config = SETTINGS, address: Any = PROXY) -> tuple[list[Any], list[Any]]:
    """What gunicorn understands, and what we do."""
    theirs, ours = Source(pieces), Source(pieces)
    return (
        understood(get_parser(config, theirs, address), theirs, config, address),
        understood(Requests(config, SERVER, ours, address), ours, config, address),
    )


def is_plain(raw: bytes, config: Config = SETTINGS, address: Any = PROXY) -> bool:
    return type(next(Requests(config, SERVER, Source([raw]), address))) is PlainRequest


@pytest.mark.parametrize("lines", USUAL.values(), ids=USUAL)
def test_the_heads_of_usual_clients_are_read_the_short_way(lines: tuple[str, ...]) -> None:
    assert is_plain(message(lines))


@pytest.mark.parametrize("lines", ALL.values(), ids=ALL)
def test_a_head_is_understood_as_gunicorn_understands_it(lines: tuple[str, ...]) -> None:
    raw = message(lines)
    for address in (PROXY, STRANGER, ("::1", 50000, 0, 0)):
        for sent in ([raw], [raw + message(USUAL["curl"])], [message(USUAL["wrk"]) + raw]):
            theirs, ours = both(sent, address=address)
            assert ours == theirs


@pytest.mark.parametrize(
    "changes",
    [
        {"limit_request_line": 40},
        {"limit_request_line": 0},
        {"limit_request_field_size": 30},
        {"limit_request_field_size": 0},
        {"limit_request_fields": 3},
        {"forwarded_allow_ips": "192.0.2.0/24"},
        {"forwarded_allow_ips": "*"},
        {"secure_scheme_headers": {"X-SCHEME": "tls", "X-FORWARDED-FOR": "192.0.2.7"}},
        {"certfile": __file__, "keyfile": __file__},
        {"header_map": "refuse"},
        {"header_map": "dangerous"},
        {"forwarder_headers": "*"},
        {"proxy_protocol": "v1"},
        {"casefold_http_method": True},
        {"strip_header_spaces": True},
        {"permit_obsolete_folding": True},
        {"permit_unconventional_http_version": True},
        {"permit_unconventional_http_method": True},
    ],
    ids=str,
)
def test_gunicorns_settings_are_in_force(changes: dict[str, Any]) -> None:
    config = settings(**changes)
    for lines in ALL.values():
        for address in (PROXY, STRANGER):
            theirs, ours = both([message(lines) + message(USUAL["a proxy"])], config, address)
            assert ours == theirs


def test_a_path_prefix_is_left_to_gunicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPT_NAME", "/v1")
    for lines in ALL.values():
        theirs, ours = both([message(lines)])
        assert ours == theirs


NASTY = b'\0\t\n\r \x0b\x0c\x1f"#%:;,=?@[\\]_\x7f\x80\x85\xa0\xb2\xdf\xff/*0-1AaHcCtTeE'


def mutated(chance: random.Random) -> bytes:
    """One of the heads with a few bytes changed, added, left out or said twice."""
    raw = bytearray(message(chance.choice(list(chance.choice((USUAL, ALL)).values()))[:12]))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        at = chance.randrange(min(len(raw), 300))
        match chance.randrange(6):
            case 0:
                raw[at] = chance.choice(NASTY)
            case 1:
                raw[at:at] = bytes([chance.choice(NASTY)])
            case 2:
                del raw[at : at + chance.choice((1, 1, 2, 9))]
            case 3:
                raw[at:at] = raw[at : at + chance.randrange(1, 40)]
            case 4:
                lines = raw.split(b"\r\n")
                lines.insert(chance.randrange(len(lines)), chance.choice(lines))
                raw = bytearray(b"\r\n".join(lines))
            case _:
                other = chance.choice(chance.choice(list(ALL.values()))).encode("latin-1")
                lines = raw.split(b"\r\n")
                lines[chance.randrange(len(lines))] = other[:200]
                raw = bytearray(b"\r\n".join(lines))
        raw = raw or bytearray(b"\r\n")
    return bytes(raw)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_heads_are_understood_as_gunicorn_understands_them(seed: int) -> None:
    chance = random.Random(seed)
    refused = short = 0
    for _ in range(1500):
        raw = mutated(chance)
        address = chance.choice((PROXY, STRANGER))
        theirs, ours = both([raw], address=address)
        assert ours == theirs, raw
        refused += not isinstance(theirs[0][0], dict)
        try:
            short += is_plain(raw, address=address)
        except Exception:  # noqa: BLE001 - it is counted as refused
            continue
    assert refused > 300
    assert short > 200


@pytest.mark.parametrize("name", ["requests", "a proxy", "chunks", "a length and chunks", "an underscore"])
def test_a_head_may_be_cut_anywhere(name: str) -> None:
    raw = message(ALL[name])
    whole = both([raw])[0]
    for at in range(1, len(raw)):
        assert both([raw[:at], raw[at:]])[1] == whole
        assert both([raw + raw[:at], raw[at:]])[1][:1] == whole[:1]
    assert both([bytes([byte]) for byte in raw])[1] == whole


def test_requests_that_come_together_are_told_apart() -> None:
    chance = random.Random(5)
    for _ in range(200):
        lines = [chance.choice(list(ALL.values())) for _ in range(chance.randrange(2, 6))]
        raw = b"".join(map(message, lines))
        cuts = sorted(chance.randrange(len(raw)) for _ in range(chance.randrange(4)))
        pieces = [
            part for part in (raw[i:j] for i, j in zip([0, *cuts], [*cuts, len(raw)], strict=True)) if part
        ]
        theirs, ours = both(pieces)
        assert ours == theirs, raw


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "part", ["A: b\r\n", "A:" + " " * 50, "a" * 60, "/?" * 30, "A: b\r", ": ", "\xff" * 60]
)
def test_no_head_is_tried_in_many_ways(part: str) -> None:
    many = (part * (4000 // len(part))).encode("latin-1")
    for raw in (b"GET / HTTP/1.1\r\nA: " + many, b"GET /" + many, many):
        pieces = [raw[:4000] + b"\x01\r\n\r\n"]
        theirs, ours = both(pieces)
        assert ours == theirs
