"""The lines of a stream, as they come off the connection."""

from collections.abc import Iterable, Iterator

from service.errors import TooLarge


def line_blocks(pieces: Iterable[bytes], longest: int, at_once: int) -> Iterator[tuple[int, list[bytes]]]:
    """The lines of a stream in blocks of at most `at_once`, as soon as they arrive, each with the number of its first.

    Raises TooLarge for a line of more than `longest` bytes, once all lines before it were handed out.
    """
    number, rest = 1, bytearray()
    for piece in pieces:
        if b"\n" not in piece:
            rest += piece
            _check(rest, number, longest)
            continue
        *lines, last = (bytes(rest) + piece).split(b"\n")
        rest = bytearray(last)
        yield from _blocks(number, lines, longest, at_once)
        number += len(lines)
        _check(rest, number, longest)
    if rest:
        yield number, [bytes(rest)]


def _blocks(number: int, lines: list[bytes], longest: int, at_once: int) -> Iterator[tuple[int, list[bytes]]]:
    """Whole lines, at most `at_once` together; those before a line that is too long, too."""
    for start in range(0, len(lines), at_once):
        block = lines[start : start + at_once]
        for index, line in enumerate(block):
            if len(line) > longest:
                if index:
                    yield number + start, block[:index]
                _check(line, number + start + index, longest)
        yield number + start, block


def _check(line: bytes | bytearray, number: int, longest: int) -> None:
    if len(line) > longest:
        raise TooLarge(f"line {number} has more than {longest} bytes (FRESHET_MAX_LINE_BYTES)")
