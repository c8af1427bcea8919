"""What a client is told of a body that does not fit: the field that is wrong, and those that there are."""

import json

import pytest
from pydantic import BaseModel, ValidationError

from model import ModelSpec
from service.schemas import Observations, PredictRequest, problem

SPEC = {"task": "binary", "features": 2}


def told(kind: type[BaseModel], body: object) -> list[tuple[str, str]]:
    """The pointers and details of a refusal."""
    with pytest.raises(ValidationError) as refused:
        kind.model_validate_json(json.dumps(body))
    return problem(refused.value, kind).errors  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "body", "where", "known"),
    [
        (PredictRequest, {"instance": [[1]]}, "/instance", "instances, ids, min_step, top"),
        (
            Observations,
            {"observations": [{"row": [1], "label": 1}]},
            "/observations/0/row",
            "features, label",
        ),
        (ModelSpec, {**SPEC, "layer": []}, "/layer", "task, features"),
        (ModelSpec, {**SPEC, "layers": [{"unit": 3}]}, "/layers/0/unit", "units, activation"),
        (ModelSpec, {**SPEC, "drift": {"x": 1}}, "/drift/x", "detect, action"),
    ],
)
def test_an_unknown_field_is_told_first_and_with_those_that_are_known(
    kind: type[BaseModel], body: object, where: str, known: str
) -> None:
    pointer, detail = told(kind, body)[0]
    assert pointer == where
    assert detail.startswith(f"unknown field; known are {known}")


def test_a_list_whose_items_are_bad_is_not_told_to_be_too_short() -> None:
    errors = told(ModelSpec, {**SPEC, "optimizer": [{"name": "adam", "rehearse": {"rowz": 1}}]})
    assert errors[0][0] == "/optimizer/0/rehearse/rowz"
    assert "/optimizer" not in dict(errors), errors
