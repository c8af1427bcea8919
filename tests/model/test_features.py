"""Reading rows as they come from JSON."""

import json
import math

import mmh3
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils import murmurhash3_32

from model.errors import RowError
from model.features import FeatureEncoder, hash_bucket
from model.spec import ModelSpec

MIXED = [
    {"name": "amount", "kind": "number", "indicator": True},
    {"name": "a/b~c", "kind": "boolean"},
    {"name": "colour", "kind": "category", "values": ["red", "green", 3]},
    {"name": "user", "kind": "hash", "buckets": 8, "indicator": True},
]
NAMES = [feature["name"] for feature in MIXED]


def spec_of(features):
    return ModelSpec.model_validate({"task": "binary", "features": features})


def encode(features, rows):
    return FeatureEncoder(spec_of(features)).encode(rows)


def error_of(features, rows):
    with pytest.raises(RowError) as caught:
        encode(features, rows)
    return caught.value


def attempt(features, rows):
    """The block and no error, or no block and the RowError; any other exception fails the test."""
    try:
        return encode(features, rows), None
    except RowError as error:
        return None, error


class TestNumbers:
    def test_lists_become_float64(self):
        block = encode(2, [[1, 2.5], [-0.0, 1e308]])
        assert block.dtype == np.float64
        np.testing.assert_array_equal(block, [[1.0, 2.5], [0.0, 1e308]])

    def test_null_is_missing(self):
        np.testing.assert_array_equal(encode(2, [[None, 1], [2, 3]]), [[math.nan, 1], [2, 3]])

    def test_no_rows_are_an_empty_block(self):
        assert encode(3, []).shape == (0, 3)

    def test_names_of_a_plain_number_of_features(self):
        np.testing.assert_array_equal(encode(2, [{"x1": 1.0, "x0": 2.0}]), [[2.0, 1.0]])

    @pytest.mark.parametrize(
        ("value", "detail"),
        [
            ("1", "expected a number, got a string"),
            (True, "expected a number, got a boolean"),
            ([1.0], "expected a number, got a list"),
            ({}, "expected a number, got an object"),
            (math.nan, "finite"),
            (math.inf, "finite"),
            (-math.inf, "finite"),
            (10**400, "too large"),
            (-(10**5000), "too large"),
        ],
        ids=lambda value: str(value)[:10] if type(value) is not int else "huge",
    )
    @pytest.mark.parametrize("other", [0.5, None])
    def test_what_is_no_number_is_refused_by_its_place(self, value, detail, other):
        error = error_of(2, [[0.5, other], [other, value]])
        assert (error.row, error.pointer) == (1, "/1")
        assert detail in error.detail

    def test_1e999_is_refused(self):
        assert error_of(1, json.loads("[[1e999]]")).pointer == "/0"

    @pytest.mark.parametrize("row", [[], [1.0], [1.0, 2.0, 3.0]])
    def test_a_wrong_number_of_values_is_refused(self, row):
        error = error_of(2, [[1.0, 2.0], row])
        assert (error.row, error.pointer) == (1, "")
        assert error.detail == f"expected 2 features, got {len(row)}"

    @pytest.mark.parametrize("row", [None, 1.0, "12", True])
    def test_what_is_no_row_is_refused(self, row):
        error = error_of(2, [[1.0, 2.0], row])
        assert (error.row, error.pointer) == (1, "")

    def test_the_first_bad_row_is_the_one_that_is_named(self):
        assert error_of(1, [[1.0], ["a"], [1.0, 2.0], None]).row == 1


class TestObjects:
    def test_order_does_not_matter_and_what_is_absent_is_missing(self):
        rows = [{"x2": 3, "x0": 1, "x1": 2}, {"x1": 2}, {}]
        expected = [[1, 2, 3], [math.nan, 2, math.nan], [math.nan] * 3]
        np.testing.assert_array_equal(encode(3, rows), expected)

    def test_lists_and_objects_may_be_mixed(self):
        np.testing.assert_array_equal(encode(2, [[1, 2], {"x1": 4, "x0": 3}]), [[1, 2], [3, 4]])

    def test_a_single_feature(self):
        np.testing.assert_array_equal(encode(1, [{"x0": 3}]), [[3]])

    def test_an_unknown_name_is_refused_by_name(self):
        error = error_of(2, [{"x0": 1, "x/9": 2}])
        assert (error.row, error.pointer) == (0, "/x~19")
        assert "x0, x1" in error.detail

    def test_pointers_escape_the_name(self):
        assert error_of(MIXED, [{"a/b~c": 1}]).pointer == "/a~1b~0c"


class TestKinds:
    def test_each_kind_has_its_raw_form(self):
        block = encode(MIXED, [[1.5, True, "green", "u1"], [2, False, 3, 7]])
        np.testing.assert_array_equal(
            block, [[1.5, 1, 1, hash_bucket("u1", 8)], [2, 0, 2, hash_bucket("7", 8)]]
        )

    def test_an_unseen_category_is_a_bucket_of_its_own(self):
        assert encode(MIXED, [[0, True, "mauve", "u"]])[0, 2] == 3
        assert encode(MIXED, [[0, True, "3", "u"]])[0, 2] == 3

    def test_an_integral_float_is_its_integer(self):
        assert encode(MIXED, [[0, True, 3.0, 7.0]]).tolist() == encode(MIXED, [[0, True, 3, 7]]).tolist()

    def test_every_kind_may_be_missing(self):
        assert np.isnan(encode(MIXED, [[None] * 4, {}])).all()

    @pytest.mark.parametrize(
        ("place", "value"),
        [
            (1, 1),
            (1, 0.0),
            (1, "true"),
            (2, True),
            (2, 1.5),
            (2, math.nan),
            (2, []),
            (3, False),
            (3, math.inf),
        ],
    )
    def test_a_value_of_another_kind_is_refused(self, place, value):
        row = [1.5, True, "green", "u1"]
        row[place] = value
        assert error_of(MIXED, [row]).pointer == f"/{place}"

    def test_an_integer_without_a_text_is_refused(self):
        assert "too many digits" in error_of(MIXED, [[0, True, "red", 10**5000]]).detail

    def test_text_that_is_no_unicode_is_hashed_all_the_same(self):
        assert 0 <= encode(MIXED, [[0, True, "red", "\ud800"]])[0, 3] < 8


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
fitting = [
    st.none() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.booleans(),
    st.none() | st.integers() | st.text() | st.sampled_from(["red", "green", 3]),
    st.none() | st.integers() | st.text(st.characters(codec=None)),
]
rows = st.tuples(*fitting).map(list)
objects = st.fixed_dictionaries({}, optional=dict(zip(NAMES, fitting, strict=True)))


class TestProperties:
    @given(st.lists(rows | objects, max_size=5))
    def test_a_row_that_fits_survives_json(self, given_rows):
        block = encode(MIXED, json.loads(json.dumps(given_rows)))
        np.testing.assert_array_equal(block, encode(MIXED, given_rows))
        for raw, row in zip(block, given_rows, strict=True):
            values = row if isinstance(row, list) else [row.get(name) for name in NAMES]
            np.testing.assert_array_equal(np.isnan(raw), [value is None for value in values])
            if values[0] is not None:
                assert raw[0] == float(values[0])

    @pytest.mark.parametrize("features", [2, MIXED], ids=["numbers", "mixed"])
    @given(data=st.data())
    def test_anything_else_is_refused_with_its_place(self, features, data):
        block = data.draw(st.lists(json_values, max_size=4))
        encoded, error = attempt(features, block)
        if error is not None:
            assert 0 <= error.row < len(block)
            assert error.pointer == "" or error.pointer.startswith("/")
            assert attempt(features, [block[error.row]])[1] is not None
            assert attempt(features, block[: error.row])[1] is None
        else:
            assert encoded.shape == (len(block), FeatureEncoder(spec_of(features)).width)
            assert not np.isinf(encoded).any()

    @given(st.lists(st.lists(scalars, min_size=2, max_size=2), max_size=4))
    def test_the_fast_way_and_the_exact_way_agree(self, block):
        encoder = FeatureEncoder(spec_of(2))
        fast = encoder._encode_numbers(block)
        if fast is not None:
            exact = [encoder._read_row(index, row) for index, row in enumerate(block)]
            np.testing.assert_array_equal(fast, np.array(exact).reshape(fast.shape))


class TestMurmur3:
    @pytest.mark.parametrize(
        ("key", "seed", "value"),
        [
            (b"", 0, 0x00000000),
            (b"", 1, 0x514E28B7),
            (b"", 0xFFFFFFFF, 0x81F16F39),
            (b"\xff\xff\xff\xff", 0, 0x76293B50),
            (b"\x21\x43\x65\x87", 0, 0xF55B516B),
            (b"\x21\x43\x65\x87", 0x5082EDEE, 0x2362F9DE),
            (b"\x21\x43\x65", 0, 0x7E4A8634),
            (b"\x21\x43", 0, 0xA0F7B07A),
            (b"\x21", 0, 0x72661CF4),
            (b"\x00\x00\x00\x00", 0, 0x2362F9DE),
            (b"aaaa", 0x9747B28C, 0x5A97808A),
            (b"abc", 0x9747B28C, 0xC84A62DD),
            (b"Hello, world!", 0x9747B28C, 0x24884CBA),
            (b"The quick brown fox jumps over the lazy dog", 0x9747B28C, 0x2FA826CD),
        ],
    )
    def test_published_vectors(self, key, seed, value):
        assert mmh3.hash(key, seed, signed=False) == value

    @given(st.one_of(st.text(max_size=100), st.integers()))
    def test_buckets_are_those_of_scikit_learns_murmurhash3(self, value):
        hashed = murmurhash3_32(str(value).encode("utf-8", "surrogatepass"), positive=True)
        assert hash_bucket(value, 1000) == hashed % 1000


def test_huge_numbers_are_read_without_a_warning():
    row = [1e200, -1e308, 1e308, 1e308]
    assert encode(4, [row]).tolist() == [row]
