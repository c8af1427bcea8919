"""A model in a web process: it is only ever replaced by a newer version."""

import pytest

from model import ModelSpec
from service.store.connection import Link
from service.store.entries import LogId
from service.store.model_store import ModelStore
from service.store.models import Lead
from service.web.replicas.replica import Codec, ModelVersion, ServedModel

STORE = ModelStore(Link("unix:///nowhere", 1), "m", b"generation")
CODEC = Codec.of(ModelSpec.model_validate({"task": "binary", "features": 1}))


def version(timeline: int, term: int, position: int, command: int = 0) -> ModelVersion:
    return ModelVersion(timeline, term, LogId(position, command), CODEC, b"{}", b"")


@pytest.fixture
def served() -> ServedModel:
    """A model at 10-1 of timeline 2, published by the learner of term 5."""
    return ServedModel(STORE, 0.0, CODEC, version(2, 5, 10, 1), Lead(5, 1, LogId(10, 1)))


NEWER = [version(2, 5, 11), version(2, 5, 10, 2), version(2, 6, 11), version(3, 5, 0), version(3, 6, 4)]
OLDER = [
    version(2, 5, 10, 1),  # the same
    version(2, 5, 9),
    version(2, 5, 10, 0),
    version(2, 6, 9),
    version(2, 4, 11),  # of a learner that leads no longer
    version(1, 6, 20),
]


@pytest.mark.parametrize("newer", NEWER, ids=lambda new: f"{new.timeline}/{new.term}/{new.log_id}")
def test_a_newer_version_takes_its_place(newer: ModelVersion, served: ServedModel) -> None:
    served.swap(newer)
    assert served.version is newer


@pytest.mark.parametrize("older", OLDER, ids=lambda old: f"{old.timeline}/{old.term}/{old.log_id}")
def test_an_older_version_does_not(older: ModelVersion, served: ServedModel) -> None:
    before = served.version
    served.swap(older)
    assert served.version is before


def test_who_waits_for_a_step_is_not_woken_by_one_of_an_earlier_timeline(served: ServedModel) -> None:
    served.swap(version(3, 6, 4))
    assert not served.wait_for(10, timeout=0.0, timeline=3)
    assert served.wait_for(4, timeout=0.0, timeline=3)
