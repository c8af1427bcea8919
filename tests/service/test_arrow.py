"""Tables as Arrow IPC streams: as a data frame is, and as nobody should send them."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import ipc

from service.web.arrow import CONTINUATION
from tests.harness import Answer, Api, Server

SPEC = {"task": "binary", "features": 2, "layers": []}
MIXED = {
    "task": "multiclass",
    "classes": ["no", "yes", "maybe"],
    "features": [
        {"name": "amount"},
        {"name": "kind", "kind": "category", "values": ["a", "b"]},
        {"name": "user", "kind": "hash", "buckets": 20},
        {"name": "new", "kind": "boolean"},
    ],
}
ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}
MEBIBYTE = 2**20


def stream(table: Any, rows: int | None = None, **options: Any) -> bytes:
    """A table as a stream, in batches of so many rows."""
    sink = pyarrow.BufferOutputStream()
    with ipc.new_stream(sink, table.schema, **options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return bytes(sink.getvalue())


def table(rows: int = 3, **columns: Any) -> Any:
    numbers = np.arange(rows)
    given = {"x0": numbers % 7.0, "x1": numbers * 0.5, "label": numbers % 2}
    return pyarrow.table(
        {name: values for name, values in {**given, **columns}.items() if values is not None}
    )


def feed(api: Api, name: str, raw: bytes, query: str = "", **headers: str) -> Answer:
    return api("POST", f"/v1/models/{name}/feedback{query}", raw, ARROW | headers)


def test_a_table_teaches_as_the_same_rows_in_json_do(server: Server, api: Api, name: str) -> None:
    other, count = server.create(SPEC), 2500
    sent = table(count, weight=np.full(count, 2.0), id=[f"r{place}" for place in range(count)])
    answer = feed(api, name, stream(sent, 700))
    assert (answer.status, answer.body["applied"]) == (200, count)
    rows = [
        {"features": [p % 7.0, p * 0.5], "label": p % 2, "weight": 2.0, "id": f"r{p}"} for p in range(count)
    ]
    assert api("POST", f"/v1/models/{other}/feedback", {"observations": rows}).status == 200
    server.wait_step(other, count)
    one, two = (
        api.raw("GET", f"/v1/models/{known}/weights?min_step={count}").data for known in (name, other)
    )
    assert one == two
    again = feed(api, name, stream(sent.slice(0, 100)))
    assert (again.status, again.body["duplicates"]) == (200, 100)


def test_columns_are_found_by_name_and_nulls_are_missing(server: Server, api: Api) -> None:
    name = server.create(MIXED)
    columns = {
        "label": pyarrow.array(["yes", "no", "maybe"]).dictionary_encode(),
        "new": [True, None, False],
        "kind": pyarrow.array(["a", "z", None]).dictionary_encode(),
        "amount": pyarrow.array([1, None, 3], pyarrow.int16()),
        "__index_level_0__": [5, 6, 7],
    }
    raw = api.raw("POST", f"/v1/models/{name}/feedback?results=each", stream(pyarrow.table(columns)), ARROW)
    assert [json.loads(line).get("line") for line in raw.data.splitlines()] == [1, 2, 3, None]
    server.wait_step(name, 3)
    rows = [
        {"amount": 1, "kind": "a", "new": True},
        {"kind": "z"},
        {"amount": 3, "new": False},
    ]
    made = api("POST", f"/v1/models/{name}/predict", {"instances": rows}).body["predictions"]
    columns.pop("label")
    raw = api.raw("POST", f"/v1/models/{name}/predict", stream(pyarrow.table(columns)), ARROW)
    assert raw.headers["Content-Type"] == ARROW["Content-Type"]
    told = ipc.open_stream(raw.data).read_all()
    assert told.column("label").to_pylist() == [prediction["label"] for prediction in made]
    assert told.column("probabilities").to_pylist() == [list(p["probabilities"].values()) for p in made]


def test_a_bad_row_is_named_and_the_others_are_learned_or_nothing_after_it(api: Api, name: str) -> None:
    sent = stream(table(5, x0=[1, 2, float("inf"), 4, float("nan")], label=[0, 1, 1, 7, None]))
    answer = feed(api, name, sent)
    assert (answer.status, answer.body["applied"]) == (200, 2)
    assert [error["line"] for error in answer.body["errors"]] == [3, 4, 5]
    stopped = feed(api, name, sent, "?on_error=stop")
    assert (stopped.status, stopped.body["line"], stopped.body["appended"]) == (422, 3, 2)


def test_a_cut_table_goes_on_with_its_token(api: Api, name: str) -> None:
    whole = stream(table(3000), 500)
    cut = feed(api, name, whole[: 2 * len(whole) // 3])
    assert (cut.status, 500 <= cut.body["appended"] < 3000) == (400, True)
    answer = feed(api, name, whole, **{"Idempotency-Key": cut.body["token"]})
    assert (answer.status, answer.body["applied"], answer.body["step"]) == (200, 3000, 3000)


def test_a_regressions_targets_and_predictions_are_lists(server: Server, api: Api) -> None:
    name = server.create({"task": "regression", "features": 2, "targets": 2, "layers": []})
    sent = table(4, label=[[1.0, 2.0]] * 4)
    assert feed(api, name, stream(sent)).body["applied"] == 4
    raw = api.raw("POST", f"/v1/models/{name}/predict", stream(table(4, label=None)), ARROW)
    assert len(ipc.open_stream(raw.data).read_all().column("value")[0]) == 2


def views(text: str, rows: int) -> pyarrow.Array:
    """A column of views, all of one text."""
    one = pyarrow.array([text], pyarrow.string_view()).buffers()
    return pyarrow.Array.from_buffers(
        pyarrow.string_view(), rows, [None, pyarrow.py_buffer(one[1].to_pybytes()[:16] * rows), *one[2:]]
    )


def swelling() -> dict[str, pyarrow.Array]:
    """Columns of 1,000 rows whose values take very many times more memory than their bytes."""
    rows = 1000
    text = "x" * 2_000_000
    codes = pyarrow.array(np.zeros(rows, np.int32))
    return {
        "one long text for all rows": pyarrow.DictionaryArray.from_arrays(codes, pyarrow.array([text])),
        "views of one long text": views(text, rows),
        "lists of nulls": pyarrow.FixedSizeListArray.from_arrays(pyarrow.nulls(rows * 10_000), 10_000),
        "views of one list": pyarrow.ListViewArray.from_arrays(
            codes, pyarrow.array(np.full(rows, 10_000, np.int32)), pyarrow.array(np.zeros(10_000, np.int8))
        ),
        "structures of nulls": pyarrow.StructArray.from_arrays(
            [pyarrow.nulls(rows)] * 2000, names=[str(place) for place in range(2000)]
        ),
    }


SWELLING = swelling()


@pytest.mark.parametrize("column", SWELLING.values(), ids=SWELLING)
@pytest.mark.parametrize("place", ["user", "label"])
def test_a_column_that_swells_in_memory_is_refused(
    server: Server, api: Api, column: pyarrow.Array, place: str
) -> None:
    name = server.create(
        {"task": "binary", "features": [{"name": "user", "kind": "hash", "buckets": 4, "tokens": 3}]}
    )
    columns = {"user": ["a"] * len(column), "label": [1] * len(column), place: column}
    webs = server.pids("web")
    before = [peak(web) for web in webs]
    answer = feed(api, name, stream(pyarrow.table(columns)))
    assert answer.status in (413, 422), answer
    assert "pyarrow" not in str(answer.body)
    assert max(peak(web) - least for web, least in zip(webs, before, strict=True)) < 200 * 2**20


def peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def test_texts_that_rows_share_are_learned(server: Server, api: Api) -> None:
    name = server.create({"task": "binary", "features": [{"name": "user", "kind": "hash", "buckets": 4}]})
    for column in (
        views("a longer name than fits into a view", 3),
        pyarrow.array(["a", None, "a"]).dictionary_encode(),
    ):
        sent = pyarrow.table({"user": column, "label": [0, 1, 0]})
        assert feed(api, name, stream(sent)).body["applied"] == 3


def bombs() -> dict[str, bytes]:
    rows = 3
    kinds = {
        "text for numbers": table(x0=["1", "2", "3"]),
        "times for numbers": table(x0=pyarrow.array([1, 2, 3], pyarrow.timestamp("s"))),
        "booleans for numbers": table(x0=[True, False, True]),
        "lists for numbers": table(x0=[[1], [2], [3]]),
        "nulls for labels": table(label=pyarrow.nulls(rows)),
        "no label": table(label=None),
        "an unknown column": table(y=[1, 2, 3]),
        "no feature": table(x0=None, x1=None),
        "two columns of one name": pyarrow.Table.from_arrays(
            [pyarrow.array([1.0]), pyarrow.array([1.0]), pyarrow.array([1])], names=["x0", "x0", "label"]
        ),
        "two billion nulls": pyarrow.table(
            {name: pyarrow.nulls(2**31 - 1) for name in ("x0", "label")}
        ),
        "structures for labels": table(label=[{"a": 1}] * rows),
        "bytes for ids": table(id=[b"\xff", b"", b"x"]),
        "weights of zero": table(weight=[0.0, 1e6 + 1, float("inf")]),
        "decimals": table(x0=pyarrow.array([1, 2, 3], pyarrow.decimal128(5, 2))),
    }  # fmt: skip
    made = {what: stream(sent) for what, sent in kinds.items()}
    big = table(200_000, x0=np.zeros(200_000))
    made["compressed buffers"] = stream(big, options=ipc.IpcWriteOptions(compression="zstd"))
    made["a batch over the limit"] = stream(table(2_000_000))
    good = stream(table())
    made["nothing"] = b""
    made["no Arrow"] = b'{"features": [1, 2], "label": 1}'
    made["an Arrow file"] = b"ARROW1\0\0" + good
    made["an end alone"] = CONTINUATION + bytes(4)
    made["a length below zero"] = CONTINUATION + b"\xff\xff\xff\xff" + good
    made["a huge length"] = CONTINUATION + b"\xff\xff\xff\x7f" + good
    made["two schemas"] = good[: len(good) - 8] + good
    made["a schema alone"] = stream(table(0))
    return made


BOMBS = bombs()


@pytest.mark.parametrize("raw", BOMBS.values(), ids=BOMBS)
def test_a_hostile_table_is_a_clear_refusal(server: Server, api: Api, name: str, raw: bytes) -> None:
    answer = feed(api, name, raw)
    assert 400 <= answer.status < 500, answer
    assert answer.headers["Content-Type"] == "application/problem+json"
    predicted = api.raw("POST", f"/v1/models/{name}/predict", raw, ARROW)
    assert 200 <= predicted.status < 500, predicted.data
    assert "Traceback" not in server.log()


def test_damaged_tables_neither_stop_a_process_nor_teach_nonsense(server: Server, api: Api) -> None:
    name, chance, whole = server.create(MIXED), random.Random(0), []
    for sent in (
        stream(pyarrow.table({"amount": [1.0, 2.0], "user": ["a", "b"], "label": ["yes", "no"]})),
        stream(
            pyarrow.table({"kind": pyarrow.array(["a", "b"]).dictionary_encode(), "label": ["yes", "no"]})
        ),
    ):
        whole.append(sent)
    before = server.pids("web"), server.pids("learner")
    for _ in range(400):
        raw = bytearray(chance.choice(whole))
        for _ in range(chance.randrange(1, 4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        for call in ("feedback", "predict"):
            assert api.raw("POST", f"/v1/models/{name}/{call}", bytes(raw), ARROW).status < 500, bytes(raw)
    assert before == (server.pids("web"), server.pids("learner"))
    assert "Traceback" not in server.log()
    server.api("DELETE", f"/v1/models/{name}")


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that finds no pyarrow."""
    folder = tmp_path_factory.mktemp("without")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['pyarrow'] = None\n")
    server = Server(folder, web_workers=1)
    server.environment["PYTHONPATH"] = str(folder)
    try:
        yield server.start()
    finally:
        server.api.close()
        server.stop()


def test_without_the_extra_a_table_is_refused_with_how_to_install_it(without: Server) -> None:
    name = without.create(SPEC)
    for call in ("feedback", "predict"):
        answer = without.api("POST", f"/v1/models/{name}/{call}", stream(table()), ARROW)
        assert (answer.status, "freshet[arrow]" in answer.body["detail"]) == (415, True)
