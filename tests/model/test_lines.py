"""Plain lines of JSON are read as the JSON reader reads them, bit for bit, and nothing else is read."""

import json
import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model import load_predictions
from model.lines import read

LINE = b'{"features": [1, -2.5, null], "label": "spam"}'
DIGITS = st.integers(0, 10**18 - 1)


@pytest.fixture(autouse=True, scope="module")
def loaded() -> None:
    load_predictions()


def lines_of(*lines: bytes) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def bits(number: float) -> int:
    return int(np.float64(number).view(np.uint64))


def assert_read_as_json(number: str) -> None:
    """A number is read as JSON's reader does it; if it is not read, that is no error."""
    found = read(lines_of(b'{"features":[%b],"label":0}' % number.encode()), 1, 1)
    if found is not None:
        assert bits(found[0][0, 0]) == bits(float(json.loads(number))), number


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(-0.0)
@example(5e-324)
@example(2.0**53 + 2)
@example(0.1)
def test_a_float_as_it_is_printed_comes_back(number: float) -> None:
    assert_read_as_json(repr(number))
    found = read(lines_of(b'{"features":[%r],"label":0}' % number), 1, 1)
    assert found is not None or not (1e-60 < abs(number) < 1e60 or not number), number


@given(DIGITS, st.integers(-120, 120), st.sampled_from(["", "-"]), st.integers(0, 19))
@example(9007199254740993, 0, "", 0)  # between two floats
@example(9007199254740995, 0, "-", 0)
@example(0, 0, "-", 0)
@example(0, 99, "-", 3)
def test_a_decimal_number_is_read_as_the_nearest_float(
    digits: int, power: int, sign: str, point: int
) -> None:
    text = str(digits)
    assert_read_as_json(f"{sign}{text}e{power}")
    assert_read_as_json(f"{sign}{text}")
    if point < len(text):
        assert_read_as_json(f"{sign}{text[: len(text) - point] or '0'}.{text[len(text) - point :] or '0'}")


@given(st.integers(2**52, 2**53 - 1), st.integers(-30, 5))
def test_numbers_just_between_two_floats_become_the_even_one(mantissa: int, power: int) -> None:
    half = 2 * mantissa + 1
    number = half * 2**power if power >= 0 else half * 5**-power
    assert_read_as_json(str(number) if power >= 0 else f"{number}e{power}")


def test_rows_and_labels_are_those_of_the_lines() -> None:
    text = lines_of(
        LINE,
        b' {"label" :\t7 ,"features":[ 1e3,2E-1 ,0.5] }\r',
        b'{"features":[1,2,3],"label":true}',
        b'{"features":[1,2,3],"label":null}',
        b'{"features":[1,2,3],"label":-1.50}',
    )
    found = read(text, 5, 3)
    assert found is not None
    X, labels = found
    assert labels == ["spam", 7, True, None, -1.5]
    assert [type(label) for label in labels] == [str, int, bool, type(None), float]
    assert X[0, :2].tolist() == [1, -2.5]
    assert math.isnan(X[0, 2])
    assert X[1:3].tolist() == [[1000, 0.2, 0.5], [1, 2, 3]]


@pytest.mark.parametrize(
    "line",
    [
        b"", b" ", b"{}", b"[1, 2, 3]", b"null", b'{"features": [1, 2, 3]}', b'{"label": 1}',
        b'{"features": [1, 2], "label": 1}', b'{"features": [1, 2, 3, 4], "label": 1}',
        b'{"features": [1, 2, 3], "label": 1, "id": "a"}', b'{"features": [1, 2, 3], "label": 1, "labels": 2}',
        b'{"features": [1, 2, 3], "features": [1, 2, 3], "label": 1}', b'{"label": 1, "label": 1}',
        b'{"features": [1, 2, 3], "label": 1} x', b'{"features": [1, 2, 3], "label": 1}}',
        b'{"features": [1, 2, 3], "label": 1},', b'{"features": [1, 2, 3], "label": 1',
        b'{"features": [1, 2, 3,], "label": 1}', b'{"features": [1, 2 3], "label": 1}',
        b'{"features": [01, 2, 3], "label": 1}', b'{"features": [-, 2, 3], "label": 1}',
        b'{"features": [+1, 2, 3], "label": 1}', b'{"features": [1., 2, 3], "label": 1}',
        b'{"features": [.5, 2, 3], "label": 1}', b'{"features": [1e, 2, 3], "label": 1}',
        b'{"features": [1e+, 2, 3], "label": 1}', b'{"features": [NaN, 2, 3], "label": 1}',
        b'{"features": [Infinity, 2, 3], "label": 1}', b'{"features": [1e400, 2, 3], "label": 1}',
        b'{"features": [nul, 2, 3], "label": 1}', b'{"features": [true, 2, 3], "label": 1}',
        b'{"features": ["1", 2, 3], "label": 1}', b'{"features": [[1], 2, 3], "label": 1}',
        b'{"features": [1, 2, 3], "label": 01}', b'{"features": [1, 2, 3], "label": truth}',
        b'{"features": [1, 2, 3], "label": "a\\n"}', b'{"features": [1, 2, 3], "label": "\xff"}',
        b'{"features": [1, 2, 3], "label": "a', b'{"features": [1, 2, 3], "label": "a}',
        b'{"features": [1, 2, 3], "label": [1]}', b'{"features": [1, 2, 3], "label": {}}',
        b'{"features": [1, 2, 3], "label": }', b'{"features": [1, 2, 3] "label": 1}',
        b'{"features" [1, 2, 3], "label": 1}', b"{'features': [1, 2, 3], 'label': 1}",
        b'{"Features": [1, 2, 3], "label": 1}', b'{"features": [1,\x00 2, 3], "label": 1}',
        b'{"features": [1, 2, 3], "label": nan}',
    ],
)  # fmt: skip
def test_a_line_that_is_not_plain_is_left_to_the_other_reader(line: bytes) -> None:
    assert read(lines_of(line), 1, 3) is None
    assert read(lines_of(LINE, line), 2, 3) is None
    assert read(lines_of(line, LINE), 2, 3) is None


def mutations(choice: random.Random, text: bytes) -> Iterator[bytes]:
    """The text with some bytes changed, left out, repeated or moved."""
    for _ in range(4000):
        changed = bytearray(text)
        for _ in range(choice.randrange(1, 4)):
            place = choice.randrange(len(changed) - 1)
            kind = choice.randrange(4)
            if kind == 0:
                changed[place] = choice.choice(b' \t\r\n{}[]":,.-+eE0123456789nulltrufs\\x\xff\x00')
            elif kind == 1:
                del changed[place]
            elif kind == 2:
                changed[place:place] = changed[place : place + choice.randrange(1, 9)]
            else:
                other = choice.randrange(len(changed) - 1)
                changed[place], changed[other] = changed[other], changed[place]
        yield bytes(changed)


def test_whatever_is_read_is_what_json_says() -> None:
    text = lines_of(LINE, b'{"label":1,"features":[0.1,-2e5,3.25]}', b'{"features":[7,8,9],"label":"a}"}')
    read_some = 0
    for changed in mutations(random.Random(7), text):
        rows = changed.count(b"\n")
        found = read(changed, rows, 3)
        if found is None:
            continue
        read_some += 1
        for line, row, label in zip(changed.split(b"\n"), found[0], found[1], strict=False):
            expected = json.loads(line)
            assert expected.keys() == {"features", "label"}
            assert [None if math.isnan(number) else number for number in row] == expected["features"]
            assert (label, type(label)) == (expected["label"], type(expected["label"]))
    assert read_some > 100
