"""`freshet feed`, as a user runs it against a real server."""

import gzip
import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from tests.harness import FRESHET, running, wait_until

ROOT = Path(__file__).parents[2]


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
    assert done.stderr.count("row 14, column 'a', value 'wide': ") == 1
    assert done.stderr.count("wide") == 1
    assert server.step("feed-refused") == 10


def with_bad_rows(write):
    """30 rows, of which the 14th has a bad number, the 20th a field too many, and the 25th no label."""
    lines = separable(30).split("\n")
    lines[14] = "k13,wide,0.5,red,yes"
    lines[20] += ",more"
    lines[25] = "k24,0.5,0.5,red,"
    return write("\n".join(lines))


def test_bad_rows_are_left_out_if_asked_for(server, write):
    arguments = ("--model", "feed-skip", "--create", "binary", "--drop", "key", "--batch", "10", "--skip-bad")
    done = command(server, with_bad_rows(write), *arguments)
    assert done.returncode == 0, done.stderr
    assert "27 rows sent: 27 applied, 0 duplicates, 3 left out" in done.stdout
    assert "left out: row 14, column 'a', value 'wide'" in done.stderr
    assert "left out: row 20: 6 fields under 5 columns" in done.stderr
    assert "left out: row 25, column 'larger', value None" in done.stderr
    assert server.step("feed-skip") == 27


def test_a_dry_run_sends_nothing_and_prints_the_spec(server, write):
    arguments = ("--model", "feed-dry", "--create", "binary", "--drop", "key", "--dry-run", "--skip-bad")
    done = command(server, with_bad_rows(write), *arguments)
    assert done.returncode == 0, done.stderr
    spec = json.loads(done.stdout)
    assert [feature["name"] for feature in spec["features"]] == ["a", "b", "colour"]
    assert "a: number, nearly all values are" in done.stderr
    assert "29 rows could be read, 3 rows are bad" in done.stderr
    assert server.api("GET", "/v1/models/feed-dry").status == 404
    assert server.api("PUT", "/v1/models/feed-dry", spec).status == 201


def test_a_creation_that_fails_leaves_no_model(server, write):
    path = write("a,b,label\n" + "1,2,0\n" * 30 + "x,2,1\n" + "1,2,1\n" * 30)
    done = command(server, path, "--model", "feed-failed", "--create", "binary")
    assert done.returncode == 1
    assert "row 31, column 'a', value 'x'" in done.stderr
    assert server.api("GET", "/v1/models/feed-failed").status == 404


def test_a_file_for_another_model_says_how_to_go_on(server, write):
    server.api("PUT", "/v1/models/feed-taken", {"task": "regression", "features": 1})
    done = command(server, write(separable(5)), "--model", "feed-taken", "--create", "binary")
    assert done.returncode == 1
    assert "leave out --create to teach the model that exists" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--model", "m", "--kind", "a=number"), 2, "--create"),
        (("--model", "m", "--create", "binary", "--kind", "a=colour"), 2, "KIND is one of number"),
        (("--model", "m", "--url", "localhost:8000"), 1, "it looks like http://127.0.0.1:8000"),
        (("--model", "m", "--url", "http://127.0.0.1:1", "--wait", "0.2"), 3, "cannot be reached"),
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


def everything_of(terminal: int) -> str:
    """What is written to a terminal until nobody writes to it any more. It holds only some thousand bytes unread."""
    pieces = []
    with os.fdopen(terminal, "rb", buffering=0) as opened, suppress(OSError):
        while piece := opened.read(4096):
            pieces.append(piece)
    return b"".join(pieces).decode()


def test_a_terminal_gets_a_progress_bar(server, write):
    reader, writer = os.openpty()
    with ThreadPoolExecutor(1) as pool:
        shown = pool.submit(everything_of, reader)
        try:
            path = write(separable(50))
            done = command(server, path, "--model", "feed-bar", "--create", "binary", stderr=writer)
        finally:
            os.close(writer)
    assert done.returncode == 0
    plain = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", shown.result())
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
