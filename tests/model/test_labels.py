"""Reading labels, and writing predictions."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import RowError
from model.labels import LabelEncoder
from model.spec import ModelSpec

DEFAULT = {"task": "binary"}
BOOLEANS = {"task": "binary", "classes": [False, True]}
WORDS = {"task": "multiclass", "classes": ["1", "cat", "dog"]}
NUMBERS = {"task": "multiclass", "classes": [10, 20, -3]}
VALUE = {"task": "regression"}
TWO_VALUES = {"task": "regression", "targets": 2}


def encoder_of(spec):
    return LabelEncoder(ModelSpec.model_validate({"features": 1, **spec}))


def error_of(spec, labels):
    with pytest.raises(RowError) as caught:
        encoder_of(spec).encode(labels)
    return caught.value


@pytest.mark.parametrize(
    ("spec", "labels", "expected"),
    [
        (DEFAULT, [0, 1, 1.0], [[0], [1], [1]]),
        (BOOLEANS, [True, False], [[1], [0]]),
        (WORDS, ["dog", "1", "cat"], [[2], [0], [1]]),
        (NUMBERS, [-3, 10, 20.0], [[2], [0], [1]]),
        (VALUE, [1, -2.5, 1e308], [[1], [-2.5], [1e308]]),
        (TWO_VALUES, [[1, 2.5]], [[1, 2.5]]),
        (TWO_VALUES, [], np.empty((0, 2))),
    ],
)
def test_labels_are_read(spec, labels, expected):
    encoded = encoder_of(spec).encode(labels)
    assert encoded.dtype == np.float64
    np.testing.assert_array_equal(encoded, expected)


@pytest.mark.parametrize(
    ("spec", "labels"),
    [
        (DEFAULT, ["1", True, False, None, math.nan, math.inf, 2, 0.5, [1], {}, 10**400]),
        (BOOLEANS, [1, 0, 1.0, "true", None]),
        (WORDS, [1, 1.0, True, "bird", None, ["dog"]]),
        (NUMBERS, ["10", 11, True, None, math.nan]),
        (VALUE, ["1", True, None, math.nan, math.inf, -math.inf, [1.0], {}, 10**400]),
        (TWO_VALUES, [1.0, [1.0], [1.0, 2.0, 3.0], "12", None, {"0": 1, "1": 2}]),
    ],
)
def test_what_is_no_label_is_refused(spec, labels):
    good = {"binary": True if spec is BOOLEANS else 1, "regression": [0, 0] if spec is TWO_VALUES else 0}
    for label in labels:
        error = error_of(spec, [good.get(spec["task"], spec.get("classes", [0])[0]), label])
        assert (error.row, error.pointer) == (1, "")
        assert error.detail


def test_an_unknown_class_is_told_the_known_ones():
    assert error_of(WORDS, ["bird"]).detail == 'unknown class; the classes are "1", "cat", "dog"'


def test_many_classes_are_not_all_told():
    detail = error_of({"task": "multiclass", "classes": list(range(1000))}, [-1]).detail
    assert detail.endswith("18, 19 and 980 more")


def test_a_bad_value_among_several_targets_is_named():
    assert error_of(TWO_VALUES, [[1.0, None]]).pointer == "/1"


class TestDecode:
    def test_binary(self):
        decoded = encoder_of(DEFAULT).decode(np.array([[0.25], [0.75], [0.5]]))
        assert decoded == [
            {"label": 0, "probabilities": {"0": 0.75, "1": 0.25}},
            {"label": 1, "probabilities": {"0": 0.25, "1": 0.75}},
            {"label": 0, "probabilities": {"0": 0.5, "1": 0.5}},
        ]

    def test_booleans_are_keyed_as_json_writes_them(self):
        (decoded,) = encoder_of(BOOLEANS).decode(np.array([[0.75]]))
        assert decoded["label"] is True
        assert decoded["probabilities"] == {"false": 0.25, "true": 0.75}

    def test_multiclass(self):
        (decoded,) = encoder_of(WORDS).decode(np.array([[0.25, 0.5, 0.25]]))
        assert decoded == {"label": "cat", "probabilities": {"1": 0.25, "cat": 0.5, "dog": 0.25}}

    def test_a_multiclass_task_of_two_classes(self):
        spec = {"task": "multiclass", "classes": ["a", "b"]}
        (decoded,) = encoder_of(spec).decode(np.array([[0.25, 0.75]]))
        assert decoded == {"label": "b", "probabilities": {"a": 0.25, "b": 0.75}}

    def test_a_margin_is_no_probability(self):
        decoded = encoder_of({**DEFAULT, "loss": "hinge"}).decode(np.array([[1.5], [-2.0]]))
        assert decoded == [
            {"label": 1, "scores": {"0": -1.5, "1": 1.5}},
            {"label": 0, "scores": {"0": 2.0, "1": -2.0}},
        ]

    def test_regression(self):
        assert encoder_of(VALUE).decode(np.array([[1.5], [2.0]])) == [{"value": 1.5}, {"value": 2.0}]
        assert encoder_of(TWO_VALUES).decode(np.array([[1.5, 2.0]])) == [{"value": [1.5, 2.0]}]


classes = (
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=6, unique=True)
    | st.lists(st.text(max_size=50), min_size=2, max_size=6, unique=True)
    | st.just([True, False])
)


@given(classes, st.data())
def test_a_label_comes_back_as_it_was_declared(declared, data):
    encoder = encoder_of({"task": "multiclass", "classes": declared})
    labels = data.draw(st.lists(st.sampled_from(declared), min_size=1, max_size=5))
    encoded = encoder.encode(json.loads(json.dumps(labels)))
    decoded = encoder.decode(np.eye(len(declared))[encoded[:, 0].astype(int)])
    assert [row["label"] for row in decoded] == labels
    assert [type(row["label"]) for row in decoded] == [type(label) for label in labels]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)


@pytest.mark.parametrize("spec", [DEFAULT, BOOLEANS, WORDS, NUMBERS, VALUE, TWO_VALUES])
@given(label=anything)
def test_any_other_label_is_refused(spec, label):
    try:
        encoded = encoder_of(spec).encode([label])
    except RowError:
        return
    assert np.isfinite(encoded).all()
    if spec["task"] != "regression":
        assert spec.get("classes", [0, 1])[int(encoded[0, 0])] == label
