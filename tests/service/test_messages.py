"""Messages from learners to web processes carry a version; those of version 0.1 are read."""

import os
import struct
from dataclasses import replace

import pytest

from service.errors import StoreError
from service.store.entries import LogId
from service.store.messages import LONGEST_MESSAGE, Parts, Publication, parts_of, publish_commands

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


def test_a_large_publication_is_sent_in_parts() -> None:
    large = replace(PUBLICATION, predictor=os.urandom(3 * LONGEST_MESSAGE))
    sent = [message for _, _, message in publish_commands("m", large)]
    assert len(sent) == 3
    assert max(map(len, sent)) < LONGEST_MESSAGE + 200
    parts = Parts()
    *first, last = [parts.add("m", message) for message in sent]
    assert first == [None, None]
    assert last is not None
    assert Publication.from_bytes(last) == large


def test_a_small_publication_is_one_message_as_before() -> None:
    [(_, _, message)] = publish_commands("m", PUBLICATION)
    assert message == PUBLICATION.to_bytes()
    assert Parts().add("m", message) == message


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_of_a_message_with_a_lost_part_nothing_is_read(lost: int) -> None:
    first, second = os.urandom(2 * LONGEST_MESSAGE + 1), os.urandom(2 * LONGEST_MESSAGE + 1)
    parts = Parts()
    incomplete = [part for number, part in enumerate(parts_of(b"", first)) if number != lost]
    assert {parts.add("m", part) for part in incomplete} == {None}
    assert [parts.add("m", part) for part in parts_of(b"", second)] == [None, None, second]


def test_of_a_model_that_is_gone_no_parts_stay() -> None:
    first, *rest = parts_of(b"", os.urandom(2 * LONGEST_MESSAGE))
    parts = Parts()
    parts.add("m", first)
    parts.forget("m")
    assert [parts.add("m", part) for part in rest] == [None]


def test_parts_about_several_models_may_come_in_turn() -> None:
    one, other = os.urandom(2 * LONGEST_MESSAGE), os.urandom(2 * LONGEST_MESSAGE)
    parts = Parts()
    found = []
    for of_one, of_other in zip(parts_of(b"", one), parts_of(b"", other), strict=True):
        found += [parts.add("one", of_one), parts.add("other", of_other)]
    assert found == [None, None, one, other]
