"""`freshet feed`: which columns are what, the spec that a file leads to, and the observations that it holds."""

import io
import json
import re
import sys

import pytest

from service.client.columns import Columns, choose_columns, rows
from service.client.errors import FileError
from service.client.inference import infer_feature, infer_spec
from service.client.source import open_source


def ignore(text):
    pass


def learned(path, task, label=None, spec=None, **named):
    """The spec that a file leads to, and the observations that it holds for a model of that spec."""
    with open_source(path) as source:
        columns = choose_columns(
            source, label, named.get("id"), named.get("weight"), named.get("drop", ()), ignore
        )
        spec = spec or infer_spec(task, source, columns, named.get("kinds", {}), named.get("note", ignore))
        complete = {"classes": [0, 1], **spec} if task == "binary" else spec
        return spec, [row.observation for row in rows(source, columns, complete)]


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
        (["1", "2", "3", "4", "5", "6", "7", "8", "9", "x"], "number"),
        ([1.5] * 30 + ["-"], "number"),
        (["true"] * 30 + ["maybe"], "boolean"),
        ([["good", "day"], ["bye"]], "hash"),
    ],
)
def test_the_kind_of_a_feature_is_told_from_its_values(values, kind):
    assert infer_feature("x", values).feature["kind"] == kind


def test_a_category_has_the_values_seen_and_a_nested_value_is_refused():
    assert infer_feature("x", ["b", "a", None, "b"]).feature["values"] == ["b", "a"]
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
        spec = infer_spec("multiclass", source, Columns(), {}, notes.append)
        assert len(list(source)) == 1201
    assert spec["classes"] == ["x", "y"]
    assert any("first 1,000 rows" in note for note in notes)


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


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("binary", "rome bonn oslo nice lima baku", "'label' has 6: .*; use --create multiclass"),
        ("binary", " ".join(f"{n}.5" for n in range(40)), "use --create regression"),
        ("multiclass", " ".join(f"{n}.5" for n in range(40)), "use --create regression"),
        ("regression", "rome bonn oslo", "'label' has 'rome': use --create multiclass"),
    ],
)
def test_labels_of_another_task_say_which(write, task, labels, message):
    with pytest.raises(FileError, match=message):
        learned(write("\n".join(["a,label", *(f"1,{label}" for label in labels.split())])), task)


WARNED = [
    ("when", [f"2024-01-{day:02}" for day in range(1, 29)], "dates .* --drop when"),
    ("when", [f"{day}.3.2024" for day in range(1, 29)], "dates"),
    ("price", ["1,5", "2,25", "10,0"], "decimal comma"),
    ("row", [str(number) for number in range(100, 150)], "identifier: use --id row"),
    ("account_id", [str(number * number) for number in range(50)], "identifier"),
    ("token", [f"x{number * 7919 % 1000}" for number in range(50)], "identifier"),
    (
        "size",
        [*map(str, range(9, 0, -1)), "wide"],
        "1 of 10 values are no number, the first 'wide' in row 10",
    ),
]


@pytest.mark.parametrize(("name", "values", "message"), WARNED)
def test_what_is_no_feature_as_it_stands_is_warned_of(name, values, message):
    [warning] = infer_feature(name, values).warnings
    assert re.search(message, warning)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("size", [str(number * 0.37) for number in range(50)]),
        ("colour", ["red", "blue"] * 20),
        ("age", [str(number % 30) for number in range(50)]),
        ("year", ["2020", "2021", "2022"]),
        ("text", [f"user {number % 40}" for number in range(200)]),
    ],
)
def test_common_columns_are_not_warned_of(name, values):
    assert infer_feature(name, values).warnings == []


def test_each_column_is_shown_with_its_kind_and_why(write):
    notes = []
    learned(write("size,colour,label\n1.5,red,0\n,blue,1\n"), "binary", note=notes.append)
    assert notes == [
        "size: number, all values are; 1 missing",
        "colour: category, 2 different values: red, blue",
    ]


def test_lists_of_strings_are_tokens(write):
    lines = [{"words": ["good", "day"], "label": 0}, {"words": ["bye"], "label": 1}]
    spec, rows = learned(write("\n".join(map(json.dumps, lines))), "binary")
    [feature] = spec["features"]
    assert (feature["kind"], feature["tokens"]) == ("hash", 256)
    assert rows[0]["features"] == [["good", "day"]]


def test_a_kind_that_the_user_gives_wins(write):
    text = "zip,label\n10115,0\n10117,1\n"
    spec, [first, _] = learned(write(text), "binary", kinds={"zip": "category"})
    assert spec["features"] == [{"name": "zip", "kind": "category", "values": ["10115", "10117"]}]
    assert first["features"] == ["10115"]
    with pytest.raises(FileError, match="--kind zap: no such feature; the features are zip"):
        learned(write(text), "binary", kinds={"zap": "category"})


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


@pytest.mark.parametrize(
    "text",
    ["id,label\n7,1\n8,0\n", '{"id": 7, "label": 1}\n{"id": "8", "label": 0}\n'],
    ids=["csv", "ndjson"],
)
@pytest.mark.parametrize("features", [2, [{"name": "a", "kind": "number"}]], ids=["unnamed", "named"])
def test_labels_that_come_late_need_an_id_and_no_features(write, text, features):
    spec = {"task": "binary", "classes": [0, 1], "features": features}
    _, rows = learned(write(text), None, spec=spec, id="id")
    assert rows == [{"id": "7", "label": 1}, {"id": "8", "label": 0}]


def test_late_labels_and_whole_rows_may_be_mixed(write):
    spec = {"task": "binary", "classes": [0, 1], "features": [{"name": "a", "kind": "number"}]}
    late, whole = {"id": "7", "label": 1}, {"id": "8", "label": 0, "a": 2}
    for lines in ([late, whole], [whole, late]):
        _, rows = learned(write("\n".join(map(json.dumps, lines))), None, spec=spec, id="id")
        assert sorted(rows, key=lambda row: row["id"]) == [late, {"id": "8", "label": 0, "features": [2]}]


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
