"""A `hash` feature with tokens reads texts: lists of tokens, or weights by token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import FeatureEncoder, ModelSpec, OnlineModel, RowError, tokens
from model.features import hash_bucket
from model.inputs import Inputs
from model.scaling import scaler_of


def spec_with(combine=None, most=4, buckets=50, **fields):
    text = {"name": "text", "kind": "hash", "buckets": buckets, "tokens": most, **fields}
    if combine:
        text["combine"] = combine
    return ModelSpec.model_validate({"task": "binary", "features": [{"name": "n"}, text], "scaling": "none"})


def inputs_of(spec, value):
    """The network's inputs for a text."""
    rows = FeatureEncoder(spec).encode([[0.0, value]])
    return Inputs(spec, scaler_of("none", np.zeros((11, 0))))(rows)[0, 1:]


def expected(spec, weights):
    inputs = np.zeros(spec.inputs - 1)
    for token, weight in weights.items():
        inputs[hash_bucket(token, 50)] += weight
    return pytest.approx(inputs, rel=1e-6)


@pytest.mark.parametrize(
    ("combine", "weights"),
    [
        ("sum", {"good": 2.0, "film": 1.0}),
        ("mean", {"good": 2 / 3, "film": 1 / 3}),
        ("norm", {"good": 2 / 5**0.5, "film": 1 / 5**0.5}),
        (None, {"good": 2 / 5**0.5, "film": 1 / 5**0.5}),
    ],
)
def test_tokens_are_hashed_and_combined(combine, weights):
    spec = spec_with(combine)
    assert inputs_of(spec, ["good", "film", "good"]) == expected(spec, weights)


def test_tokens_can_have_weights():
    spec = spec_with("sum")
    weights = {"good": 0.25, "film": -3.5, "so": 1e6, "none": 0}
    assert inputs_of(spec, weights) == expected(spec, weights)


def test_an_empty_text_is_not_a_missing_one():
    spec = spec_with(indicator=True)
    assert inputs_of(spec, []).tolist() == [0.0] * 51
    assert inputs_of(spec, None).tolist() == [0.0] * 50 + [1.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "a list of tokens"),
        (3, "a list of tokens"),
        ([1.5], "a string or an integer"),
        ([["a"]], "a string or an integer"),
        ({"a": "b"}, "expected a number"),
        ({"a": 1e7}, "1,000,000"),
        (["a" * 9000], "8,192 bytes"),
        (list("abcdefghijkl"), "at most 4 different tokens"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(value, message):
    with pytest.raises(RowError, match=message) as caught:
        FeatureEncoder(spec_with()).encode([{"n": 1.0, "text": ["fine"]}, {"n": 1.0, "text": value}])
    assert (caught.value.row, caught.value.pointer) == (1, "/text")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tokens": 0}, "tokens"),
        ({"tokens": 10_001}, "tokens"),
        ({"kind": "number", "buckets": None}, "tokens"),
        ({"combine": "max"}, "combine"),
        ({"tokens": None, "combine": "sum"}, "combine"),
    ],
)
def test_a_bad_feature_with_tokens_is_refused(fields, field):
    with pytest.raises(ValueError, match=field):
        spec_with(**fields)


def test_tokens_count_as_columns():
    text = {"kind": "hash", "buckets": 2, "tokens": 10_000}
    with pytest.raises(ValueError, match="100,000"):
        ModelSpec(task="binary", features=[{"name": f"t{place}", **text} for place in range(11)])


@given(st.lists(st.tuples(st.integers(0, 999_999), st.floats(2**-99, 2**99, width=32)), max_size=5))
def test_packed_tokens_are_read_as_they_were_written(pairs):
    buckets, weights = tokens.unpack(np.array(tokens.pack(pairs)))
    assert list(zip(buckets.tolist(), weights.tolist(), strict=True)) == pairs


def texts(rows, seed):
    """Texts of words from two themes, a few from both: the theme with more words is the label."""
    generator = np.random.default_rng(seed)
    themes = [[f"{theme}{number}" for number in range(100)] for theme in ("sport", "politics")]
    encoded, labels = [], []
    for _ in range(rows):
        share = generator.uniform()
        words = [themes[int(generator.random() < share)][generator.integers(100)] for _ in range(10)]
        encoded.append([0.0, words])
        labels.append(sum(word.startswith("politics") for word in words) > 5)
    return encoded, np.array(labels, np.float64)


def test_a_stream_of_texts_is_learned():
    spec = spec_with(most=10, buckets=1000)
    rows, labels = texts(2000, 0)
    model = OnlineModel(spec)
    learned = model.learn(FeatureEncoder(spec).encode(rows), labels)
    assert ((learned.predictions[1000:, 0] > 0.5) == labels[1000:]).mean() > 0.85


@pytest.mark.parametrize("seed", range(3))
def test_both_paths_read_the_same_tokens(seed):
    spec = spec_with("sum", buckets=7, indicator=True)
    generator = np.random.default_rng(seed)
    X = FeatureEncoder(spec).encode(
        [[1.0, {f"w{generator.integers(9)}": float(generator.normal()) for _ in range(3)}] for _ in range(20)]
        + [[0.0, None], [0.0, []]]
    )
    wild = np.full((3, spec.width), [[1e300], [-1.0], [2.0**52 - 1]])
    X = np.concatenate([X, wild, np.array([[0.0, 0x7F800000 * 2.0**20, 0x7FC00000 * 2.0**20, 2.0**21, 3.0]])])
    model = OnlineModel(spec)
    for values in model.parameters.values():
        values[...] = generator.normal(size=values.shape)
    predicted = model.predict(X)
    for row in range(len(X)):
        fresh = OnlineModel.from_bytes(model.to_bytes())
        assert fresh.learn(X[row : row + 1], np.zeros(1)).predictions == pytest.approx(
            predicted[row : row + 1], rel=1e-4, abs=1e-6
        )
