# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Compiled: lines of JSON that hold a row of plain numbers and its label, read without an object for each number.

A line is `{"features": [1, 2.5e3, null], "label": …}`, with the two members in either order, and a label that is a
number, a word or a string without escapes. What is anything else is not read at all: another reader takes it, and says
what is wrong. The text ends with a line end, which nothing that is looked for contains: so no search leaves it.

Decimal numbers become the nearest float64, by the algorithm of Eisel and Lemire (D. Lemire, "Number parsing at a
gigabyte per second", 2021), in integers alone. The few that it cannot decide are left to the other reader.
"""

from typing import Any

import numpy as np
from numba import int64, types, uint64

from model.compiled import compiled, inner, sources_of

_SMALLEST, _LARGEST = -80, 80  # powers of ten that are read here
_MOST_DIGITS = 19  # of which every number fits into 64 bits
_BITS = 128  # of a power of five


def _powers() -> Any:
    """For each power of ten the leading 128 bits of that power of five, in two halves."""
    table = np.empty((_LARGEST - _SMALLEST + 1, 2), np.uint64)
    for power in range(_SMALLEST, _LARGEST + 1):
        five = 5 ** abs(power)
        length = five.bit_length()
        # Rounded down, and of a negative power up.
        bits = five << _BITS >> length if power >= 0 else (1 << (length + _BITS - 1)) // five + 1
        table[power - _SMALLEST] = bits >> 64, bits & (2**64 - 1)
    return table


_POWERS = _powers()
_HIGH, _LOW = np.ascontiguousarray(_POWERS[:, 0]), np.ascontiguousarray(_POWERS[:, 1])
_FEATURES = np.frombuffer(b'"features"', np.uint8)
_LABEL = np.frombuffer(b'"label"', np.uint8)
_NULL = np.frombuffer(b"null", np.uint8)

_NAN = np.uint64(np.array(np.nan).view(np.uint64))
_SIGN = np.uint64(1 << 63)
_HALF = np.uint64(2**32 - 1)
_ALL = np.uint64(2**64 - 1)
_HIDDEN = np.uint64(1 << 52)
_UNSURE = np.uint64(2**9 - 1)
_U0, _U1, _U3, _U10, _U32 = (np.uint64(number) for number in (0, 1, 3, 10, 32))
_SPACE, _TAB, _RETURN, _END = ord(" "), ord("\t"), ord("\r"), ord("\n")
_OPEN, _CLOSE, _FIRST, _LAST, _COMMA, _COLON = (ord(sign) for sign in "{}[],:")
_QUOTE, _ESCAPE, _MINUS, _PLUS, _POINT = (ord(sign) for sign in '"\\-+.')
_ZERO, _NINE, _E, _SMALL_E, _SMALL_A, _SMALL_Z, _TILDE = (ord(sign) for sign in "09Eeaz~")


@inner
def _skip(text, at):
    """The next place that is no space."""
    while text[at] == _SPACE or text[at] == _TAB or text[at] == _RETURN:
        at += 1
    return at


@inner
def _after(text, at, word):
    """The place after a word; -1 if it is not there."""
    for index in range(len(word)):
        if text[at + index] != word[index]:
            return -1
    return at + len(word)


@inner
def _high_of_product(a, b):
    """The higher 64 of the 128 bits of a product."""
    a_high, a_low, b_high, b_low = a >> _U32, a & _HALF, b >> _U32, b & _HALF
    low, across, other = a_low * b_low, a_high * b_low, a_low * b_high
    middle = (low >> _U32) + (across & _HALF) + (other & _HALF)
    return a_high * b_high + (across >> _U32) + (other >> _U32) + (middle >> _U32)


@inner
def _leading_zeros(number):
    zeros = 0
    for shift in (32, 16, 8, 4, 2, 1):
        if number >> np.uint64(64 - shift) == _U0:
            number <<= np.uint64(shift)
            zeros += shift
    return zeros


@inner
def _nearest(digits, power):
    """The bits of the float64 nearest to `digits` times ten to a power; _ALL where that is not decided here."""
    zeros = _leading_zeros(digits)
    shifted = digits << np.uint64(zeros)
    factor = power - _SMALLEST
    high = _high_of_product(shifted, _HIGH[factor])
    low = shifted * _HIGH[factor]
    if high & _UNSURE == _UNSURE:  # the rest of the power may carry into the bits that count
        rest = _high_of_product(shifted, _LOW[factor])
        low += rest
        if low < rest:
            high += _U1
        if low == _ALL:
            return _ALL
    top = high >> np.uint64(63)
    kept = high >> (top + np.uint64(9))
    exponent = ((217706 * power) >> 16) + 63 + int64(top) - zeros + 1023
    if exponent <= 0 or exponent >= 2047:
        return _ALL
    if (
        low <= _U1 and -5 < power < 24 and kept & _U3 == _U1
        and kept << (top + np.uint64(9)) == high
    ):  # fmt: skip
        kept -= _U1  # just between two: to the even one
    kept = (kept + (kept & _U1)) >> _U1
    if kept >= _HIDDEN << _U1:
        kept = _HIDDEN
        exponent += 1
    return (kept & ~_HIDDEN) | (np.uint64(exponent) << np.uint64(52))


@inner
def _read_number(text, at, values, row, column):
    """Read a number into its cell; the place after it, -1 if it is none or not to be read here."""
    is_negative = text[at] == _MINUS
    if is_negative:
        at += 1
    start = at
    digits, power, count = _U0, 0, 0
    while _ZERO <= text[at] <= _NINE:
        digits = digits * _U10 + np.uint64(text[at] - _ZERO)
        at += 1
    count = at - start
    if count == 0 or (count > 1 and text[start] == _ZERO):
        return -1
    is_whole = True
    if text[at] == _POINT:
        is_whole = False
        at += 1
        point = at
        while _ZERO <= text[at] <= _NINE:
            digits = digits * _U10 + np.uint64(text[at] - _ZERO)
            at += 1
        power = point - at
        if power == 0:
            return -1
        count -= power
    if text[at] == _E or text[at] == _SMALL_E:
        is_whole = False
        at += 1
        sign = -1 if text[at] == _MINUS else 1
        if text[at] == _MINUS or text[at] == _PLUS:
            at += 1
        start, shown = at, 0
        while _ZERO <= text[at] <= _NINE and shown < 1000:
            shown = 10 * shown + int64(text[at] - _ZERO)
            at += 1
        if at == start:
            return -1
        power += sign * shown
    if count > _MOST_DIGITS or (is_whole and count == _MOST_DIGITS):
        return -1
    if digits == _U0:
        bits = _U0
    elif _SMALLEST <= power <= _LARGEST:
        bits = _nearest(digits, power)
        if bits == _ALL:
            return -1
    else:
        return -1
    values[row, column] = bits | _SIGN if is_negative and not (is_whole and digits == _U0) else bits
    return at


@inner
def _read_list(text, at, values, row):
    """Read a list of just as many numbers as a row has; the place after it or -1."""
    if text[at] != _FIRST:
        return -1
    for column in range(values.shape[1]):
        at = _skip(text, at + 1)
        following = _after(text, at, _NULL)
        if following > 0:
            values[row, column] = _NAN
        else:
            following = _read_number(text, at, values, row, column)
            if following < 0:
                return -1
        at = _skip(text, following)
        if text[at] != (_LAST if column == values.shape[1] - 1 else _COMMA):
            return -1
    return at + 1


@inner
def _after_label(text, at):
    """The place after a scalar; -1 if it is none. Whether it is one of JSON is seen when it is read."""
    start = at
    if text[at] == _QUOTE:
        at += 1
        while _SPACE <= text[at] <= _TILDE and text[at] != _QUOTE and text[at] != _ESCAPE:
            at += 1
        return at + 1 if text[at] == _QUOTE else -1
    while (
        _ZERO <= text[at] <= _NINE or _SMALL_A <= text[at] <= _SMALL_Z
        or text[at] == _MINUS or text[at] == _PLUS or text[at] == _POINT or text[at] == _E
    ):  # fmt: skip
        at += 1
    return at if at > start else -1


@inner
def _read_line(text, at, values, labels, row):
    """Read a line; the place after its end, -1 if it is not plain."""
    at = _skip(text, at)
    if text[at] != _OPEN:
        return -1
    has_features = has_label = False
    while not (has_features and has_label):
        at = _skip(text, at + 1)
        following = _after(text, at, _FEATURES)
        is_label = following < 0
        if is_label:
            following = _after(text, at, _LABEL)
        if following < 0 or (has_label if is_label else has_features):
            return -1
        at = _skip(text, following)
        if text[at] != _COLON:
            return -1
        at = _skip(text, at + 1)
        if is_label:
            has_label = True
            labels[row, 0] = at
            at = _after_label(text, at)
            labels[row, 1] = at
        else:
            has_features = True
            at = _read_list(text, at, values, row)
        if at < 0:
            return -1
        at = _skip(text, at)
        if text[at] != (_CLOSE if has_features and has_label else _COMMA):
            return -1
    at = _skip(text, at + 1)
    return at + 1 if text[at] == _END else -1


def _compile_read_lines(sources: int) -> Any:
    @compiled(
        types.void(types.Array(types.uint8, 1, "C", readonly=True), uint64[:, ::1], int64[:, ::1], int64[::1])
    )
    def read_lines(text, values, labels, read):
        """Read lines: the bits of their numbers (n, width), and where their labels begin and end (n, 2).

        `read` gets how many were read: fewer than n if one is not plain. The text must end with a line end.
        """
        sources  # noqa: B018 - part of the cache's key, see compiled.py
        at = 0
        read[0] = 0
        for row in range(values.shape[0]):
            if at >= len(text):
                return
            at = _read_line(text, at, values, labels, row)
            if at < 0:
                return
            read[0] += 1

    return read_lines


read_lines = _compile_read_lines(sources_of(__name__))
