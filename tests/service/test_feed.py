"""`freshet feed`: what it makes of files."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from threading import Thread

import pytest

from service.feed import Options, run
from service.feed_columns import Columns, choose_columns, infer_feature, infer_spec, observations
from service.feed_command import Silence
from service.feed_source import FeedError, FileError, open_source
from tests.harness import FRESHET, running, wait_until

ROOT = Path(__file__).parents[2]


def ignore(text):
    pass


@pytest.fixture
def write(tmp_path):
    def write(text, name="rows"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def read(path):
    with open_source(path) as source:
        return list(source)


def learned(path, task, label=None, spec=None, **named):
    """The spec that a file leads to, and the observations that it holds for a model of that spec."""
    with open_source(path) as source:
        columns = choose_columns(
            source, label, named.get("id"), named.get("weight"), named.get("drop", ()), ignore
        )
        spec = spec or infer_spec(task, source, columns, ignore)
        complete = {"classes": [0, 1], **spec} if task == "binary" else spec
        return spec, list(observations(source, columns, complete))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_csv_file_is_found(write, delimiter):
    rows = ["a,b;b,label", '1.5,"x,;y",1', "2,z,0"]
    if delimiter != ",":
        rows = [row.replace(";b", "").replace(",;", ";").replace(",", delimiter) for row in rows]
    records = read(write("\n".join(rows)))
    assert [len(record) for record in records] == [3, 3]
    assert [record["label"] for record in records] == ["1", "0"]


def test_a_gzip_file_is_told_by_its_content_not_by_its_name(write):
    assert read(write(gzip.compress(b"a,label\n1,0\n", mtime=0), "rows.csv")) == [{"a": "1", "label": "0"}]


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_no_data(write):
    assert read(write("\ufeffa,label\r\n1,0\r\n\r\n2,1\r\n")) == [
        {"a": "1", "label": "0"},
        {"a": "2", "label": "1"},
    ]


def test_standard_input_is_read(monkeypatch):
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b'{"a": 1, "label": 0}\n')))
    )
    assert read("-") == [{"a": 1, "label": 0}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("1,2,3\n4,5,6\n", "must name the columns"),
        ("a,a,label\n1,2,3\n", "'a' stands twice"),
        ("a,,label\n1,2,3\n", "column 2 has no name"),
        ("a,label\n1,0\n1,0,7\n", "row 2: 3 fields under 2 columns"),
        ('a,label\n1,0\n"1,0\n', "row 2: unexpected end of data"),
        ('{"a": 1}\n{"a": \n', "row 2: Expecting value"),
        ('{"a": 1}\n{"a": NaN}\n', "row 2: NaN is no JSON number"),
        ('{"a": 1}\n[1, 2]\n', "row 2: not a JSON object"),
        ('[{"a": 1}]\n', "row 1: not a JSON object"),
        (b"a,label\n1,0\n\xff,1\n", "can't decode"),
        (gzip.compress(b"a,label\n1,0\n" * 1000, mtime=0)[:-20], "end-of-stream"),
    ],
)
def test_a_broken_file_is_named_with_its_row(write, text, message):
    with pytest.raises(FileError, match=message):
        read(write(text))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(FileError, match=r"cannot open nowhere\.csv: No such file"):
        read("nowhere.csv")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2.5", "+.5e3", None, "NA"], "number"),
        ([1, 2.5, None, True], "number"),
        ([None, None], "number"),
        (["true", "False", None], "boolean"),
        ([True, False], "boolean"),
        (["0", "1"], "number"),
        (["a", "b", "a"], "category"),
        (["1", "x"], "category"),
        (["inf", "1"], "category"),
        (["1_000", "2"], "category"),
        ([f"user {n}" for n in range(33)], "hash"),
    ],
)
def test_the_kind_of_a_feature_is_told_from_its_values(values, kind):
    assert infer_feature("x", values)["kind"] == kind


def test_a_category_has_the_values_seen_and_a_nested_value_is_refused():
    assert infer_feature("x", ["b", "a", None, "b"])["values"] == ["b", "a"]
    with pytest.raises(FileError, match="column 'x' holds"):
        infer_feature("x", [1, {"y": 2}])


def test_a_csv_file_becomes_a_spec_and_its_observations(write):
    path = write("size,colour,new,price,key\n1.5,red,true,100,k1\n,blue,false,NA,k2\n")
    spec, rows = learned(path, "regression", label="price", id="key")
    assert spec == {
        "task": "regression",
        "features": [
            {"name": "size", "kind": "number"},
            {"name": "colour", "kind": "category", "values": ["red", "blue"]},
            {"name": "new", "kind": "boolean"},
        ],
    }
    assert rows == [
        {"features": [1.5, "red", True], "label": 100.0, "id": "k1"},
        {"features": [None, "blue", False], "label": None, "id": "k2"},
    ]


def test_the_label_is_a_column_of_that_name_or_else_the_last(write):
    notes = []
    with open_source(write("label,a\n1,2\n")) as source:
        assert choose_columns(source, None, None, None, (), notes.append) == Columns("label")
    assert notes == []
    with open_source(write("a,is_spam\n1,2\n")) as source:
        assert choose_columns(source, None, None, None, (), notes.append) == Columns("is_spam")
    assert notes == ["the label is the last column, 'is_spam'"]


@pytest.mark.parametrize("named", [{"label": "x"}, {"id": "x"}, {"weight": "x"}, {"drop": ("x",)}])
def test_a_column_that_is_not_there_is_named_with_those_that_are(write, named):
    with pytest.raises(FileError, match="no column 'x'; it has a, label"):
        learned(write("a,label\n1,0\n"), "binary", **named)


def test_weights_are_numbers_and_dropped_columns_are_left_out(write):
    spec, rows = learned(
        write("when,a,w,label\n2020,1,0.5,0\n2021,2,2,1\n"), "binary", weight="w", drop=("when",)
    )
    assert [feature["name"] for feature in spec["features"]] == ["a"]
    assert rows[0] == {"features": [1.0], "label": 0, "weight": 0.5}


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ("0 1 1", None),
        ("1 1 1", None),
        ("-1 1", [-1, 1]),
        ("1.0 2.0", [1, 2]),
        ("spam ham", ["ham", "spam"]),
        ("True False", [False, True]),
    ],
)
def test_the_classes_of_a_binary_label_are_the_values_seen(write, labels, classes):
    spec, rows = learned(write("\n".join(["a,label", *(f"1,{label}" for label in labels.split())])), "binary")
    assert spec.get("classes") == classes
    assert all(type(row["label"]) is type((classes or [0])[0]) for row in rows)


def test_the_classes_of_a_multiclass_label_are_those_of_the_whole_file(write):
    text = "a,label\n" + "1,x\n" * 1500 + "1,y\n" + "1,z\n"
    spec, rows = learned(write(text), "multiclass")
    assert spec["classes"] == ["x", "y", "z"]
    assert len(rows) == 1502


def test_of_standard_input_the_classes_are_those_of_the_first_rows_and_the_user_is_told(monkeypatch):
    text = b"a,label\n" + b"1,x\n1,y\n" * 600 + b"1,z\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(text))))
    notes = []
    with open_source("-") as source:
        spec = infer_spec("multiclass", source, Columns(), notes.append)
        assert len(list(source)) == 1201
    assert spec["classes"] == ["x", "y"]
    assert "first 1,000 rows" in notes[0]


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("binary", "a a", "has two values"),
        ("multiclass", "a a", "has 1 classes"),
    ],
)
def test_too_few_classes_are_refused(write, task, labels, message):
    with pytest.raises(FileError, match=message):
        learned(write("\n".join(["a,label", *(f"1,{label}" for label in labels.split())])), task)


def test_flat_json_rows_keep_their_types_and_may_leave_out_columns(write):
    lines = [{"a": 1, "b": "x", "y": True}, {"b": "z", "y": False}]
    spec, rows = learned(write("\n".join(map(json.dumps, lines))), "binary", label="y")
    assert spec["classes"] == [False, True]
    assert rows == [{"features": [1, "x"], "label": True}, {"features": [None, "z"], "label": False}]


def test_observations_in_json_go_as_they_are(write):
    lines = [{"features": [1, 2.5], "label": 0, "id": "a"}, {"features": [3, None], "label": 1, "weight": 2}]
    spec, rows = learned(write("\n".join(map(json.dumps, lines))), "binary")
    assert spec == {"task": "binary", "features": 2}
    assert rows == lines


def test_observations_by_name_get_named_features(write):
    lines = [{"features": {"a": 1, "b": "x"}, "label": 0}, {"features": {"a": 2}, "label": 1}]
    spec, _ = learned(write("\n".join(map(json.dumps, lines))), "binary")
    assert [feature["kind"] for feature in spec["features"]] == ["number", "category"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"features": [1, 2], "label": 0}, {"features": [1], "label": 1}], "from 1 to 2 features"),
        ([{"features": [1, "x"], "label": 0}, {"features": [1, "y"], "label": 1}], "must be numbers"),
        ([{"features": [1], "label": 0}, {"features": {"a": 1}, "label": 1}], "others by name"),
        ([{"features": [1], "label": 0}, {"label": 1}], "not at all"),
    ],
)
def test_observations_of_different_shapes_do_not_make_a_spec(write, lines, message):
    with pytest.raises(FileError, match=message):
        learned(write("\n".join(map(json.dumps, lines))), "binary")


def test_a_file_is_brought_into_the_order_and_kinds_of_a_model_that_exists(write):
    spec = {
        "task": "multiclass",
        "classes": ["1", "2"],
        "features": [{"name": "b", "kind": "category", "values": [1, 2]}, {"name": "a", "kind": "hash"}],
    }
    _, rows = learned(write("a,b,label\n7,1,2\n8,3,1.0\n"), None, spec=spec)
    assert rows == [{"features": [1, "7"], "label": "2"}, {"features": ["3", "8"], "label": "1"}]


def test_a_label_that_is_no_class_goes_as_it_is_for_the_server_to_refuse(write):
    spec = {"task": "binary", "classes": ["no", "yes"], "features": 1}
    _, rows = learned(write("a,label\n1,maybe\n"), None, spec=spec)
    assert rows[0]["label"] == "maybe"


@pytest.mark.parametrize(
    ("text", "features", "message"),
    [
        ("a,b,label\n1,2,0\n", 3, "takes 3 features; .* has 2"),
        ("a,b,label\n1,2,0\n", [{"name": "a", "kind": "number"}], "row 1: the model has no feature 'b'"),
        ("a,label\n1,0\n", [{"name": n, "kind": "number"} for n in "ab"], "no column for .* 'b'"),
        ('{"a": 1, "label": 0}\n{"c": 1, "label": 0}', [{"name": "a", "kind": "number"}], "row 2: .* 'c'"),
    ],
)
def test_columns_that_are_not_the_models_features_are_named(write, text, features, message):
    with pytest.raises(FileError, match=message):
        learned(write(text), None, spec={"task": "binary", "classes": [0, 1], "features": features})


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
    return run(Options(path, "m", url=server.url, **options), Silence())


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
    with pytest.raises(FeedError, match=r"^row 13: 422: the label is bad; /observations/2/label: no class$"):
        fed(server, rows_file(write, 25), batch=10)


def test_a_refusal_of_no_single_row_tells_where_the_feed_stopped(scripted, write):
    server = scripted([(200, {}, {}), (413, {}, {"title": "Content Too Large"})])
    with pytest.raises(FeedError, match=r"^the rows after row 10: 413: Content Too Large$"):
        fed(server, rows_file(write, 25), batch=10)


def test_patience_ends(scripted, write):
    server = scripted([(503, {"Retry-After": "1"}, {"detail": "not now"})] * 9)
    with pytest.raises(FeedError, match=r"no answer within 0\.5 s; the last was not now"):
        fed(server, rows_file(write, 3), patience=0.5)
    with pytest.raises(FeedError, match="cannot be reached"):
        run(Options(rows_file(write, 3), "m", url="http://127.0.0.1:1", patience=0.3), Silence())


def test_a_server_of_something_else_is_told_apart(scripted, write):
    server = scripted([(200, {}, b"<html>")])
    with pytest.raises(FeedError, match="does not answer as a Freshet server"):
        fed(server, rows_file(write, 3))


def command(server, path, *arguments, stdin=None, stderr=subprocess.PIPE):
    """`freshet feed`, as a user runs it."""
    arguments = [*FRESHET, "feed", path, "--url", server.api.base, *arguments]
    return subprocess.run(
        arguments, cwd=ROOT, input=stdin, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=110
    )


def separable(rows):
    """Rows of two numbers, a colour and whether the first number is the larger."""
    random = Random(rows)
    lines = ["key,a,b,colour,larger"]
    for row in range(rows):
        a, b = random.random(), random.random()
        lines.append(f"k{row},{a:.6f},{b:.6f},{random.choice(['red', 'blue'])},{'yes' if a > b else 'no'}")
    return "\n".join(lines)


def test_a_file_is_fed_to_a_server_and_its_score_beats_the_baseline(server, write):
    path = write(gzip.compress(separable(1200).encode()))
    done = command(server, path, "--model", "feed-file", "--create", "binary", "--drop", "key", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["rows"], result["applied"], result["duplicates"], result["step"]) == (1200, 1200, 0, 1200)
    total = result["metrics"]["total"]
    assert total["accuracy"] > total["baselines"]["majority"]["accuracy"] + 0.2
    described = server.api("GET", "/v1/models/feed-file").body
    assert described["spec"]["classes"] == ["no", "yes"]
    assert [feature["kind"] for feature in described["spec"]["features"]] == ["number", "number", "category"]


def test_with_ids_a_second_feed_teaches_nothing(server, write):
    path = write(separable(700))
    arguments = ("--model", "feed-twice", "--create", "binary", "--id", "key", "--json")
    first, second = (json.loads(command(server, path, *arguments).stdout) for _ in range(2))
    assert (first["applied"], first["duplicates"], first["step"]) == (700, 0, 700)
    assert (second["applied"], second["duplicates"], second["step"]) == (0, 700, 700)


@pytest.mark.parametrize(("task", "label"), [("regression", "a"), ("multiclass", "colour")])
def test_models_of_the_other_tasks_are_created_too(server, write, task, label):
    path = write(separable(300))
    done = command(
        server, path, "--model", f"feed-{task}", "--create", task, "--label", label, "--drop", "key"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("300 rows sent: 300 applied, 0 duplicates; step 300; ")
    assert ("MAE" if task == "regression" else "log loss") in done.stdout


def test_standard_input_is_fed_to_a_model_that_exists(server):
    server.api("PUT", "/v1/models/feed-stdin", {"task": "binary", "features": 2})
    lines = "".join(json.dumps({"features": [row, -row], "label": row % 2}) + "\n" for row in range(20))
    done = command(server, "-", "--model", "feed-stdin", "--quiet", stdin=lines)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert server.step("feed-stdin") == 20


def test_a_row_that_the_server_refuses_is_named_and_what_came_before_stays_learned(server, write):
    lines = separable(30).split("\n")
    lines[14] = "k13,wide,0.5,red,yes"
    server.api(
        "PUT",
        "/v1/models/feed-refused",
        {
            "task": "binary",
            "features": [{"name": "a"}, {"name": "b"}, {"name": "colour", "kind": "hash", "buckets": 8}],
            "classes": ["no", "yes"],
        },
    )
    path = write("\n".join(lines))
    done = command(server, path, "--model", "feed-refused", "--batch", "10", "--drop", "key")
    assert done.returncode == 1
    assert "Error: row 14: 422" in done.stderr
    assert server.step("feed-refused") == 10


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--model", "feed-nowhere"), 1, "there is no model 'feed-nowhere'"),
        (("--model", "bad name", "--create", "binary"), 1, "a name is"),
        (("--model", "m", "--label", "x"), 1, "has no column 'x'"),
        ((), 2, "--model"),
        (("--model", "m", "--batch", "0"), 2, "--batch"),
    ],
)
def test_a_feed_that_cannot_start_says_why(server, write, arguments, status, message):
    done = command(server, write(separable(5)), *arguments)
    assert done.returncode == status
    assert message in done.stderr


def test_a_terminal_gets_a_progress_bar(server, write):
    reader, writer = os.openpty()
    with os.fdopen(reader, "rb") as terminal:
        try:
            path = write(separable(50))
            done = command(server, path, "--model", "feed-bar", "--create", "binary", stderr=writer)
        finally:
            os.close(writer)
        shown = terminal.read1(1 << 16).decode()
    assert done.returncode == 0
    plain = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", shown)
    assert "100% 50 rows, " in plain
    assert "log loss 0." in plain


@pytest.mark.slow
def test_a_feed_goes_on_through_a_killed_server_and_teaches_every_row_once(folder, write):
    path = write("a,label\n" + "".join(f"{row % 10},{row % 2}\n" for row in range(3000)))
    arguments = ("--model", "m", "--create", "binary", "--batch", "5")
    with running(folder) as server:
        feeding = subprocess.Popen(
            [*FRESHET, "feed", path, "--url", server.api.base, "--json", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        with feeding:
            wait_until(lambda: server.api("GET", "/v1/models/m").status == 200, 20)
            server.wait_step("m", 200)
            server.kill()
            server.start()
            output, _ = feeding.communicate(timeout=80)
        result = json.loads(output)
        assert (result["rows"], result["applied"], result["step"]) == (3000, 3000, 3000)
        assert server.step("m") == 3000
