"""`freshet feed`: how rows are sent, and sent again, to a server that answers by a script."""

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from service.client.display import Silence
from service.client.errors import ClientError
from service.client.feed import Feed, Options
from service.client.http import Client


class ScriptedServer(ThreadingHTTPServer):
    """A server of a model with one feature, which answers feedback as `script` says and then takes it.

    An answer is (status, headers, body); None cuts the connection after the rows were taken.
    """

    daemon_threads = True

    def __init__(self, script=()):
        self.script = list(script)
        self.lessons = []
        self.keys = {}
        self.lag = 0
        super().__init__(("127.0.0.1", 0), ScriptedHandler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def step(self):
        return sum(len(rows) for rows in self.keys.values())


class ScriptedHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.lag = max(self.server.lag - 1, 0)
        step = self.server.step - self.server.lag
        spec = {"task": "binary", "features": 1, "classes": [0, 1]}
        self.tell(200, {}, {"step": step, "spec": spec, "metrics": {"total": {"log_loss": 0.5}}})

    def do_POST(self):
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["observations"]
        key = self.headers["Idempotency-Key"]
        self.server.lessons.append((time.monotonic(), key, rows))
        answer = self.server.script.pop(0) if self.server.script else (200, {}, {})
        if answer is None or answer[0] < 300:
            self.server.keys[key] = rows
        if answer is None:
            self.close_connection = True
            return
        status, headers, body = answer
        if isinstance(body, dict) and status < 300:
            taken = {"applied": len(rows), "pending": 0, "duplicates": 0, "position": self.server.step}
            body = taken | body
        self.tell(status, headers, body)

    def tell(self, status, headers, body):
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)


@pytest.fixture
def scripted():
    servers = []

    def start(script=()):
        server = ScriptedServer(script)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def rows_file(write, rows):
    return write("a,label\n" + "".join(f"{row},{row % 2}\n" for row in range(rows)))


def fed(server, path, **options):
    return feed(server.url, path, **options)


def feed(url, path, patience=60.0, **options):
    client = Client(url, None, patience, lambda text: None)
    return Feed(Options(path, "m", patience=patience, **options), client, Silence()).run()


def test_rows_go_in_order_in_blocks_with_a_key_each(scripted, write):
    server = scripted()
    report = fed(server, rows_file(write, 25), batch=10)
    assert [len(rows) for _, _, rows in server.lessons] == [10, 10, 5]
    assert [row["features"][0] for _, _, rows in server.lessons for row in rows] == list(range(25))
    assert len(server.keys) == 3
    assert (report.sent, report.applied, report.duplicates, report.step) == (25, 25, 0, 25)


def test_a_limit_ends_the_feed(scripted, write):
    report = fed(scripted(), rows_file(write, 25), batch=10, limit=12)
    assert report.sent == 12


def test_a_server_that_asks_to_wait_is_asked_again_then_with_the_same_key(scripted, write):
    server = scripted([(503, {"Retry-After": "1"}, {"detail": "not now"})])
    fed(server, rows_file(write, 3))
    (first, key, _), (second, again, _) = server.lessons
    assert key == again
    assert second - first >= 1


def test_a_block_whose_answer_was_lost_is_sent_again_with_the_same_key(scripted, write):
    server = scripted([None])
    report = fed(server, rows_file(write, 3))
    assert len(server.lessons) == 2
    assert server.lessons[0][1:] == server.lessons[1][1:]
    assert report.step == 3


def test_rows_that_are_applied_later_are_waited_for(scripted, write):
    server = scripted([(202, {}, {"applied": 0, "pending": 3})])
    server.lag = 4
    report = fed(server, rows_file(write, 3))
    assert (report.applied, report.pending, report.step) == (3, 0, 3)


def test_a_refused_row_ends_the_feed_and_is_named_by_its_place_in_the_file(scripted, write):
    problem = {
        "detail": "the label is bad",
        "errors": [{"pointer": "/observations/2/label", "detail": "no class"}],
    }
    server = scripted([(200, {}, {}), (422, {}, problem)])
    with pytest.raises(ClientError, match=r"^row 13, column 'label', value '0': no class$"):
        fed(server, rows_file(write, 25), batch=10)


def test_a_refusal_of_no_single_row_tells_where_the_feed_stopped(scripted, write):
    server = scripted([(200, {}, {}), (413, {}, {"title": "Content Too Large"})])
    with pytest.raises(
        ClientError, match=r"^the rows after row 10: the server answers 413: Content Too Large$"
    ):
        fed(server, rows_file(write, 25), batch=10)


def test_patience_ends(scripted, write):
    server = scripted([(503, {"Retry-After": "1"}, {"detail": "not now"})] * 9)
    with pytest.raises(
        ClientError, match=r"^not now; the server asks to wait 1 s more, longer than --wait 0\.5 allows$"
    ):
        fed(server, rows_file(write, 3), patience=0.5)
    with pytest.raises(ClientError, match="cannot be reached"):
        feed("http://127.0.0.1:1", rows_file(write, 3), patience=0.3)


def test_a_server_of_something_else_is_told_apart(scripted, write):
    server = scripted([(200, {}, b"<html>")])
    with pytest.raises(ClientError, match="does not answer as a Freshet server"):
        fed(server, rows_file(write, 3))
