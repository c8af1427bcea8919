"""Streams in both directions: without end, with bad lines, told of as they go, cut off."""

import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.harness import Answer, Api, Server, wait_until

SPEC = {"task": "binary", "features": 2, "layers": []}
LINES = {"Content-Type": "application/x-ndjson"}


class Upload:
    """A chunked request over a socket of its own, whose answer is read while it is sent."""

    def __init__(self, port: int, path: str, **headers: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._file = self._socket.makefile("rb")
        fields = {"Host": "127.0.0.1", **LINES, "Transfer-Encoding": "chunked", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._socket.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode())
        self._rest = b""
        self.status = 0

    def send(self, *lines: object) -> None:
        """Send lines, each as JSON unless it is bytes, as one chunk."""
        raw = b"".join(
            (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
        )
        self._socket.sendall(b"%x\r\n%b\r\n" % (len(raw), raw))

    def end(self) -> None:
        """End the body."""
        self._socket.sendall(b"0\r\n\r\n")

    def close(self) -> None:
        """Break off."""
        self._file.close()
        self._socket.close()

    def _head(self) -> None:
        self.status = int(self._file.readline().split()[1])
        self.chunked = False
        while (line := self._file.readline().strip()) != b"":
            self.chunked |= line.lower() == b"transfer-encoding: chunked"

    def lines(self) -> Iterator[Any]:
        """The lines of the answer, as they come."""
        if not self.status:
            self._head()
        while size := int(self._file.readline(), 16):
            *lines, self._rest = (self._rest + self._file.read(size)).split(b"\n")
            self._file.readline()
            yield from map(json.loads, lines)


@contextmanager
def uploading(api: Api, path: str, **headers: str) -> Iterator[Upload]:
    upload = Upload(int(api.base.rpartition(":")[2]), path, **headers)
    try:
        yield upload
    finally:
        upload.close()


def observation(place: int, **fields: object) -> dict[str, object]:
    return {"features": [place % 7, 1.0], "label": place % 2, **fields}


def lines(rows: Iterable[object]) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def feed(api: Api, name: str, body: bytes, query: str = "", **headers: str) -> Answer:
    return api("POST", f"/v1/models/{name}/feedback{query}", body, LINES | headers)


def records(
    api: Api, name: str, body: bytes, query: str, call: str = "feedback", **headers: str
) -> list[Any]:
    """The lines of an answer that is a stream."""
    raw = api.raw("POST", f"/v1/models/{name}/{call}{query}", body, LINES | headers)
    assert raw.headers["Content-Type"] == "application/x-ndjson", raw.data
    return [json.loads(line) for line in raw.data.splitlines()]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_stream_has_no_bound_but_a_lines(api: Api, name: str, chunked: bool) -> None:
    padded = json.dumps(observation(1)).encode() + b" " * 100_000 + b"\n"
    body: Any = padded * 180  # over the limit of a JSON body
    if chunked:
        body = iter([padded * 60] * 3)
    answer = api("POST", f"/v1/models/{name}/feedback", body, LINES)
    assert (answer.status, answer.body["applied"]) == (200, 180)


def test_a_line_over_the_limit_ends_the_stream_after_the_lines_before_it(api: Api, name: str) -> None:
    body = lines(observation(place) for place in range(50)) + b'{"features": "' + b"x" * 2**20 + b'"}\n'
    answer = feed(api, name, body + lines([observation(1)]))
    assert answer.status == 413
    assert (answer.body["appended"], answer.body["lines"], "line 51" in answer.body["detail"]) == (
        50,
        50,
        True,
    )
    rest = lines(observation(place) for place in range(50)) + lines([observation(1)])
    again = feed(api, name, rest, **{"Idempotency-Key": answer.body["token"]})
    assert (again.status, again.body["applied"], again.body["position"]) == (200, 51, 51)


def test_a_line_that_never_ends_is_refused_and_costs_no_memory(server: Server, api: Api, name: str) -> None:
    with uploading(api, f"/v1/models/{name}/feedback") as upload:
        upload.send(observation(1))
        chunk = b"x" * 2**16
        for _ in range(17):
            upload._socket.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        upload._head()
        assert upload.status == 413
    server.wait_step(name, 1)


def test_a_bad_line_stops_a_stream_that_asks_for_it_and_its_key_goes_on_once_it_is_mended(
    api: Api, name: str
) -> None:
    rows: list[object] = [observation(place) for place in range(2500)]
    rows[1700] = b'{"features": [1], "label": 1}'
    answer = feed(api, name, lines(rows), "?on_error=stop")
    assert (answer.status, answer.body["line"], answer.body["errors"][0]["pointer"]) == (
        422,
        1701,
        "line 1701",
    )
    assert (answer.body["appended"], answer.body["lines"], answer.body["rejected"]) == (1700, 1700, 0)
    rows[1700] = observation(1)
    again = feed(api, name, lines(rows), "?on_error=stop", **{"Idempotency-Key": answer.body["token"]})
    assert (again.status, again.body["applied"], again.body["step"]) == (200, 2500, 2500)


def test_each_line_is_told_of_in_order(api: Api, name: str) -> None:
    rows: list[object] = [observation(place, id=str(place % 1500)) for place in range(2000)]
    rows[3], rows[4] = b"{", b""
    told = records(api, name, lines(rows), "?results=each")
    *each, end = told
    assert [record["line"] for record in each] == [n for n in range(1, 2001) if n != 5]
    assert "error" in each[3 - 1 + 1]
    assert {"line", "position", "prediction", "loss"} == each[0].keys()
    assert [record["position"] for record in each if "loss" in record] == list(range(1, 1501))
    assert all(record["duplicate"] for record in each if record["line"] > 1505)
    assert (end["status"], end["applied"], end["duplicates"], end["rejected"]) == (200, 1500, 498, 1)


def test_blocks_are_told_of_and_add_up(api: Api, name: str) -> None:
    *blocks, end = records(api, name, lines(map(observation, range(3500))), "?results=blocks")
    assert sum(block["applied"] for block in blocks) == 3500 == end["applied"]
    assert [block["lines"] for block in blocks] == sorted(block["lines"] for block in blocks)
    assert blocks[-1]["position"] == 3500


def test_a_result_comes_before_the_next_line_is_sent(api: Api, name: str) -> None:
    with uploading(api, f"/v1/models/{name}/feedback?results=each") as upload:
        answers = upload.lines()
        for place in range(1, 6):
            upload.send(observation(place))
            told = next(answers)
            assert (told["line"], told["position"]) == (place, place)
        upload.end()
        assert next(answers)["applied"] == 5


def test_what_was_told_stays_learned_when_the_client_breaks_off(server: Server, api: Api, name: str) -> None:
    with uploading(api, f"/v1/models/{name}/feedback?results=each") as upload:
        upload.send(*map(observation, range(10)))
        answers = upload.lines()
        told = [next(answers) for _ in range(10)]
    assert told[-1]["position"] == 10
    server.wait_step(name, 10)
    assert feed(api, name, lines([observation(1)])).body["step"] == 11


def test_what_goes_wrong_in_the_middle_is_the_last_line_with_counts_and_token(api: Api, name: str) -> None:
    with uploading(api, f"/v1/models/{name}/feedback?results=blocks", **{"Idempotency-Key": "k"}) as upload:
        upload.send(*map(observation, range(10)))
        answers = upload.lines()
        assert next(answers)["applied"] == 10
        upload._socket.sendall(b"no chunk size\r\n")
        end = next(answers)
    assert upload.status == 200
    assert (end["status"], end["appended"], end["lines"], end["token"]) == (400, 10, 10, "k")
    again = feed(api, name, lines(map(observation, range(12))), **{"Idempotency-Key": "k"})
    assert (again.status, again.body["applied"], again.body["step"]) == (200, 12, 12)


@pytest.mark.parametrize("query", ["?results=all", "?on_error=ignore"])
def test_an_unknown_choice_is_refused(api: Api, name: str, query: str) -> None:
    assert feed(api, name, lines([observation(1)]), query).status == 422


def test_predictions_come_in_order_while_the_body_arrives(api: Api, name: str) -> None:
    path = f"/v1/models/{name}/predict"
    expected = api("POST", path, {"instances": [[place, 1] for place in range(5)]}).body["predictions"]
    with uploading(api, path) as upload:
        answers = upload.lines()
        for place in range(5):
            upload.send([place, 1] if place % 2 else {"x0": place, "x1": 1})
            assert next(answers) == {"step": 0, **expected[place]}
        upload.send(b"[", [1], [3, 1])
        assert [next(answers).get("line") for _ in range(3)] == [6, 7, None]
        upload.end()
        assert not list(answers)


def test_predictions_stop_at_a_bad_line_where_that_is_asked_for(api: Api, name: str) -> None:
    *made, end = records(api, name, lines([[1, 2], [2, 3], ["x", 1], [1, 1]]), "?on_error=stop", "predict")
    assert len(made) == 2
    assert (end["status"], end["line"], end["errors"][0]["pointer"]) == (422, 3, "line 3")


def test_streamed_predictions_with_ids_are_joined_by_their_labels(api: Api, name: str) -> None:
    rows = [{"id": f"r{place}", "features": [place, 1]} for place in range(3)]
    made = records(api, name, lines(rows), "?ids=true", "predict")
    assert [prediction["id"] for prediction in made] == ["r0", "r1", "r2"]
    answer = feed(api, name, lines([{"id": "r1", "label": 1}]))
    assert (answer.status, answer.body["applied"]) == (200, 1)
    assert api("GET", f"/v1/models/{name}/metrics").body["late_labels"]["labelled"] == 1


def test_a_stream_of_predictions_reads_no_further_than_its_client(
    server: Server, api: Api, name: str
) -> None:
    with uploading(api, f"/v1/models/{name}/predict") as upload:
        upload._socket.settimeout(1.0)
        block, sent = lines([[1, 2]] * 5000), 0
        with suppress(TimeoutError):
            while sent < 2**26:
                upload._socket.sendall(b"%x\r\n%b\r\n" % (len(block), block))
                sent += len(block)
        assert sent < 2**25
    wait_until(lambda: feed(api, name, lines([observation(1)])).status == 200, 10)
