"""Messages from learners to web processes carry a version; those of version 0.1 are read."""

import struct

import pytest

from service.errors import StoreError
from service.store.entries import LogId
from service.store.messages import Publication

PUBLICATION = Publication(
    b"0123456789abcdef",
    2,
    3,
    LogId(40, 5),
    b'{"a":1}',
    b"\x00predictor",
    b'{"spec":1}',
    b'{"learning_rate":0.1}',
    b"token",
)


def test_a_publication_is_read_as_it_was_written() -> None:
    assert Publication.from_bytes(PUBLICATION.to_bytes()) == PUBLICATION


def test_a_publication_of_version_0_1_is_read() -> None:
    head = struct.pack("<16sqqqqII", b"0123456789abcdef", 2, 3, 40, 5, 7, 10)
    found = Publication.from_bytes(head + b'{"a":1}' + b'{"spec":1}' + b"\x00predictor")
    assert found == Publication(*(getattr(PUBLICATION, name) for name in Publication.__slots__[:7]))


@pytest.mark.parametrize("blob", [b"", b"\x04anything", PUBLICATION.to_bytes()[:20]])
def test_a_publication_of_a_later_version_is_refused(blob: bytes) -> None:
    with pytest.raises((StoreError, struct.error)):
        Publication.from_bytes(blob)
