"""The README holds: its commands run against a real server and get the answers that it prints."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from model import ModelSpec
from service.jobs.retraining import Retraining
from service.jobs.schedules import Schedule
from tests.harness import running
from tests.scenarios.readme import README, TABLE, examples, run, settings_table, unprinted

RATE = re.compile(r"[\d,]+ rows/s")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
CLOSE = {"rel_tol": 5e-3, "abs_tol": 5e-3}  # how far processors may lie apart


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory):
    """The address of a server without models."""
    with running(tmp_path_factory.mktemp("readme")) as server:
        yield server.api.base


def assert_like(answer: Any, printed: Any, path: str) -> None:
    """Equal, but for the last digits of real numbers."""
    if isinstance(printed, dict):
        assert list(answer) == list(printed), path
        for key in printed:
            assert_like(answer[key], printed[key], f"{path}/{key}")
    elif isinstance(printed, list):
        assert len(answer) == len(printed), path
        for place, member in enumerate(printed):
            assert_like(answer[place], member, f"{path}/{place}")
    elif isinstance(printed, float):
        assert math.isclose(answer, printed, **CLOSE), f"{path}: {answer}, not {printed}"
    else:
        assert answer == printed, path


def assert_like_text(text: str, printed: str) -> None:
    """Equal text, in which numbers may differ in their last digits and the rate in all."""
    text, printed = RATE.sub("", text.strip()), RATE.sub("", printed.strip())
    assert NUMBER.sub("#", text) == NUMBER.sub("#", printed)
    for one, other in zip(NUMBER.findall(text), NUMBER.findall(printed), strict=True):
        one, other = (float(number.replace(",", "")) for number in (one, other))
        assert math.isclose(one, other, **CLOSE), f"{text!r}, not {printed!r}"


def test_every_command_gets_the_answer_that_is_printed(url):
    commands = list(examples(README.read_text()))
    assert len(commands) >= 8
    for command, printed in commands:
        answer = run(command, url)
        if printed.startswith("{"):
            assert_like(json.loads(answer), json.loads(printed), command)
        else:
            assert_like_text(answer, printed)


def test_every_other_command_is_understood(url):
    """After the examples, whose models they need."""
    commands = list(unprinted(README.read_text()))
    assert len(commands) >= 3
    for command in commands:
        assert not {"error", "errors", "status"} & json.loads(run(command, url)).keys(), command


def test_the_settings_table_lists_every_setting_with_its_default_and_meaning():
    assert TABLE.search(README.read_text())[0].splitlines() == settings_table().splitlines()


def models_within(kind: Any) -> Iterator[type[BaseModel]]:
    """A pydantic model, and those that its fields are made of."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            yield from models_within(field.annotation)
    for part in get_args(kind):
        yield from models_within(part)


@pytest.mark.parametrize("spec", [ModelSpec, Retraining, Schedule])
def test_every_field_of_what_a_client_may_ask_for_is_documented(spec):
    documented = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", README.read_text(), re.M))))
    for part in models_within(spec):
        assert set(part.model_fields) <= documented, part
