"""Requests as bytes on a socket: whatever is wrong with their form is a 4xx, nothing of it is learned, no traceback."""

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.harness import Server, running

SPEC = {"task": "binary", "features": 2, "layers": []}
GOOD = b'{"features": [1, 2], "label": 1}'
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own, whose log is looked at, with a small limit of bodies."""
    with running(tmp_path_factory.mktemp("raw"), web_workers=1, max_body_bytes=MEBIBYTE) as started:
        yield started


def exchange(port: int, raw: bytes, end: bool = True) -> tuple[int, bytes, bytes]:
    """Send bytes and, with `end`, nothing after them. Status (0: closed without an answer), head and body."""
    with socket.create_connection(("127.0.0.1", port), timeout=15) as connection:
        connection.sendall(raw)
        if end:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while b"\r\n\r\n" not in answer or not _is_whole(answer):
                piece = connection.recv(65536)
                if not piece:
                    break
                answer += piece
        except ConnectionResetError:
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, head, body


def _is_whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.split(b":")[1])
    return body.endswith(b"0\r\n\r\n")


def request(
    name: str, body: bytes, *fields: str, kind: str = "application/json", call: str = "feedback"
) -> bytes:
    head = [f"POST /v1/models/{name}/{call} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", *fields]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


CHUNKED = "Transfer-Encoding: chunked"
BAD_CHUNKS = {
    "no size": b"\r\n" + GOOD,
    "a size of text": b"zz\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "a negative size": b"-5\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "a size with 0x": b"0x20\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "a size with an underscore": b"2_0\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "a size with a space before": b" 20\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "a huge size": b"f" * 40 + b"\r\n" + GOOD,
    "a size line that never ends": b"1" * 20_000,
    "too few bytes": b"40\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "too many bytes": b"10\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "no end of the chunk": b"20\r\n" + GOOD + b"0\r\n\r\n",
    "line feeds alone": b"20\n" + GOOD + b"\n0\n\n",
    "no last chunk": chunked(GOOD),
    "a bad extension": b'20;a="\x00"\r\n' + GOOD + b"\r\n0\r\n\r\n",
    "a carriage return in an extension": b"20;a=\rb\r\n" + GOOD + b"\r\n0\r\n\r\n",
    "a trailer without a colon": chunked(GOOD) + b"0\r\nnothing\r\n\r\n",
    "a trailer of a length": chunked(GOOD) + b"0\r\nContent-Length: 5\r\n\r\n",
    "a trailer of another coding": chunked(GOOD) + b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a trailer with a control character": chunked(GOOD) + b"0\r\nA: b\x01c\r\n\r\n",
    "a trailer without an end": chunked(GOOD) + b"0\r\nA: b\r\n",
    "trailers without end": chunked(GOOD) + b"0\r\n" + b"A: b\r\n" * 200_000,
}


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS)
def test_malformed_chunks_are_a_problem_document(small: Server, body: bytes, kind: str) -> None:
    name = small.create(SPEC)
    status, head, answer = exchange(small.port, request(name, body, CHUNKED, kind=kind))
    assert status == 400, head
    assert b"application/problem+json" in head
    assert json.loads(answer)["status"] == 400
    if kind == "application/json":
        assert small.step(name) == 0
    assert "Traceback" not in small.log()


def head_of(*lines: str) -> bytes:
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


POST, HOST, JSON = "POST /v1/models/M/feedback HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"
BAD_HEADS = {
    "a body shorter than its length": head_of(POST, HOST, JSON, "Content-Length: 100") + GOOD,
    "no body for a length": head_of(POST, HOST, JSON, "Content-Length: 5"),
    "a negative length": head_of(POST, HOST, JSON, "Content-Length: -1") + GOOD,
    "a length with a sign": head_of(POST, HOST, JSON, "Content-Length: +32") + GOOD,
    "a length of text": head_of(POST, HOST, JSON, "Content-Length: x") + GOOD,
    "a length with a comma": head_of(POST, HOST, JSON, "Content-Length: 32, 32") + GOOD,
    "two lengths": head_of(POST, HOST, JSON, "Content-Length: 32", "Content-Length: 31") + GOOD,
    "a length with an underscore": head_of(POST, HOST, JSON, "Content-Length: 3_2") + GOOD,
    "a length in Arabic digits": head_of(POST, HOST, JSON, "Content-Length: \xb2") + GOOD,
    "a huge length": head_of(POST, HOST, JSON, "Content-Length: " + "9" * 30),
    "a length of 5,000 digits": head_of(POST, HOST, JSON, "Content-Length: " + "9" * 5000),
    "a length and chunks": head_of(POST, HOST, JSON, "Content-Length: 32", CHUNKED)
    + chunked(GOOD)
    + b"0\r\n\r\n",
    "chunks twice": head_of(POST, HOST, JSON, CHUNKED, CHUNKED) + chunked(GOOD) + b"0\r\n\r\n",
    "an unknown coding": head_of(POST, HOST, JSON, "Transfer-Encoding: br") + GOOD,
    "chunks, then another coding": head_of(POST, HOST, JSON, "Transfer-Encoding: chunked, gzip") + GOOD,
    "chunks in HTTP/1.0": head_of(POST.replace("1.1", "1.0"), HOST, JSON, CHUNKED)
    + chunked(GOOD)
    + b"0\r\n\r\n",
    "no version": b"POST /v1/models/M/feedback\r\n\r\n",
    "another version": head_of(POST.replace("1.1", "9.9"), HOST, JSON),
    "a method with a control character": head_of("PO\x01ST /v1/models/M/feedback HTTP/1.1", HOST),
    "a small method": head_of("post /v1/models/M/feedback HTTP/1.1", HOST),
    "a header without a colon": head_of(POST, HOST, "nothing"),
    "a header with a space before its colon": head_of(POST, HOST, "A : b"),
    "a header with a control character": head_of(POST, HOST, "A: b\x00c"),
    "a folded header": head_of(POST, HOST, "A: b", " c"),
    "a header with an underscore": head_of(POST, HOST, "Content_Length: 3"),
    "a long header": head_of(POST, HOST, "A: " + "b" * 20_000),
    "many headers": head_of(POST, HOST, *("A: b" for _ in range(200))),
    "a long address": head_of("POST /" + "a" * 20_000 + " HTTP/1.1", HOST),
    "two hosts": head_of(POST, HOST, HOST, JSON, "Content-Length: 32") + GOOD,
    "two content types": head_of(POST, HOST, JSON, JSON, "Content-Length: 32") + GOOD,
    "an unknown expectation": head_of(POST, HOST, JSON, "Expect: coffee", "Content-Length: 32") + GOOD,
    "no content type": head_of(POST, HOST, "Content-Length: 32") + GOOD,
    "a content type that is none": head_of(POST, HOST, "Content-Type: ;;;", "Content-Length: 32") + GOOD,
    "no body and no length": head_of(POST, HOST, JSON),
    "an encoded body": head_of(POST, HOST, JSON, "Content-Encoding: gzip", "Content-Length: 32") + GOOD,
    "a key with bytes beyond ASCII": head_of(
        POST, HOST, JSON, "Idempotency-Key: " + "\xff" * 200, "Content-Length: 32"
    )
    + GOOD,
    "a name that is escaped": head_of(
        "POST /v1/models/%2e%2e/feedback HTTP/1.1", HOST, JSON, "Content-Length: 32"
    )
    + GOOD,
    "a name of bytes beyond UTF-8": head_of("POST /v1/models/%ff%fe/feedback HTTP/1.1", HOST, JSON) + GOOD,
    "a zero byte in the address": head_of("POST /v1/models/%00/feedback HTTP/1.1", HOST, JSON) + GOOD,
    "a query of bytes beyond UTF-8": head_of(
        "GET /v1/models/M/weights?min_step=%ff HTTP/1.1".replace("GET", "POST"), HOST
    ),
    "a row in place of a head": GOOD + b" HTTP/1.1\r\n\r\n",
    "a row as a method": GOOD.replace(b" ", b"") + b" / HTTP/1.1\r\n\r\n",
    "a row as a header": head_of(POST, HOST, GOOD.decode()),
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT": head_of("CONNECT 127.0.0.1:80 HTTP/1.1", HOST),
    "TRACE": head_of("TRACE /v1/models/M/feedback HTTP/1.1", HOST),
    "an asterisk": head_of("OPTIONS * HTTP/1.1", HOST),
    "an upgrade": head_of(
        "GET /v1/models/M/feedback HTTP/1.1", HOST, "Connection: Upgrade", "Upgrade: websocket"
    ),
}


@pytest.mark.parametrize("raw", BAD_HEADS.values(), ids=BAD_HEADS)
def test_a_malformed_request_is_refused_and_teaches_nothing(small: Server, raw: bytes) -> None:
    name = small.create(SPEC)
    status, head, answer = exchange(small.port, raw.replace(b"/M/", f"/{name}/".encode()))
    assert status == 0 or 400 <= status < 500 or status in (501, 505), head
    if status:
        assert b"application/problem+json" in head
        assert json.loads(answer)["status"] == status
    assert small.step(name) == 0
    assert "Traceback" not in small.log()


def test_a_chunked_body_over_the_limit_is_413_and_garbage_behind_it_is_seen(small: Server) -> None:
    name = small.create(SPEC)
    body = chunked(GOOD + b" " * (MEBIBYTE - len(GOOD)), b"garbage") + b"0\r\n\r\n"
    status, _, answer = exchange(small.port, request(name, body, CHUNKED), end=False)
    assert (status, "FRESHET_MAX_BODY_BYTES" in json.loads(answer)["detail"]) == (413, True)
    body = chunked(GOOD + b" " * 100, b"garbage") + b"0\r\n\r\n"
    assert exchange(small.port, request(name, body, CHUNKED), end=False)[0] == 400
    assert small.step(name) == 0
    body = chunked(GOOD[:9], GOOD[9:] + b" " * (MEBIBYTE - len(GOOD))) + b"0\r\n\r\n"
    assert exchange(small.port, request(name, body, CHUNKED), end=False)[0] in (200, 202)


@pytest.mark.parametrize("field", ["Connection: close", "Connection: keep-alive"])
@pytest.mark.parametrize("coding", ["a length", "chunks"])
def test_a_client_that_sends_too_much_sees_why_it_is_refused(small: Server, field: str, coding: str) -> None:
    name, body = small.create(SPEC), b" " * (8 * MEBIBYTE)
    sized = f"Content-Length: {len(body)}"
    raw = (
        request(name, body, sized, field)
        if coding == "a length"
        else request(name, chunked(*[b" " * MEBIBYTE] * 8) + b"0\r\n\r\n", CHUNKED, field)
    )
    status, _, answer = exchange(small.port, raw, end=False)
    assert (status, json.loads(answer)["status"]) == (413, 413)


@pytest.mark.parametrize(
    "field", ["SCRIPT_NAME: /v1", "SCRIPT_NAME: /x", "PATH_INFO: /metrics", "X_Forwarded_For: a"]
)
def test_a_field_cannot_say_what_the_path_is(small: Server, field: str) -> None:
    raw = f"GET /v1/models/nobody HTTP/1.1\r\nHost: 127.0.0.1\r\n{field}\r\n\r\n".encode()
    status, _, body = exchange(small.port, raw, end=False)
    assert (status, json.loads(body)["instance"]) == (404, "/v1/models/nobody")


def test_two_requests_sent_together_are_answered_one_after_the_other(small: Server) -> None:
    name = small.create(SPEC)
    one = request(name, GOOD, f"Content-Length: {len(GOOD)}")
    status, _, _ = exchange(small.port, one + one, end=False)
    assert status in (200, 202)
    small.wait_step(name, 2)


def test_an_expectation_is_met(small: Server) -> None:
    name = small.create(SPEC)
    raw = request(name, GOOD, f"Content-Length: {len(GOOD)}", "Expect: 100-continue", "Connection: close")
    with socket.create_connection(("127.0.0.1", small.port), timeout=15) as connection:
        connection.sendall(raw)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 20")


def test_predictions_are_read_as_strictly(small: Server) -> None:
    name, rows = small.create(SPEC), b'{"instances": [[1, 2]]}'
    for body in (
        request(name, b"zz\r\n" + rows, CHUNKED, call="predict"),
        request(name, rows, f"Content-Length: {len(rows) + 9}", call="predict"),
        request(name, b"zz\r\n[1, 2]\n", CHUNKED, kind="application/x-ndjson", call="predict"),
    ):
        assert exchange(small.port, body)[0] == 400
    short = request(name, b"[1, 2]\n[1,", "Content-Length: 20", kind="application/x-ndjson", call="predict")
    status, _, answer = exchange(small.port, short)
    assert (status, b'"status":400' in answer) == (200, True)
    assert "Traceback" not in small.log()


def test_a_body_that_nobody_reads_and_that_never_ends_holds_up_nobody(small: Server) -> None:
    head = b"POST /v1/nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
    with socket.create_connection(("127.0.0.1", small.port), timeout=15) as endless:
        endless.sendall(head)
        until, answered, closed = time.monotonic() + 60, 0, False
        while not closed and time.monotonic() < until:
            try:
                for _ in range(200):
                    endless.sendall(chunk)
            except OSError:
                closed = True
            assert small.api("GET", "/livez").status == 200
            answered += 1
    assert closed
    assert answered
