"""The API's description is valid, complete, and what the server really answers."""

import json
import re
from typing import Any

import pytest
import urllib3
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from service.web.openapi import OPERATIONS, description
from tests.contract import application
from tests.harness import Api, Server

SPEC = {"task": "binary", "features": [{"name": "links"}, {"name": "sender", "kind": "hash", "buckets": 8}]}


def test_every_endpoint_is_described_and_nothing_else() -> None:
    assert set(application().view_functions) == set(OPERATIONS)


def test_the_description_is_valid_openapi_3_1(api: Api) -> None:
    document = api("GET", "/openapi.json").body
    OpenAPIV31SpecValidator(document).validate()
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids)) >= 25


def test_every_number_that_a_request_may_contain_is_bounded() -> None:
    document = json.loads(json.dumps(description(application())))
    taken = [
        [operation.get("requestBody"), operation["parameters"]]
        for methods in document["paths"].values()
        for operation in methods.values()
    ]
    assert unbounded_numbers(taken, document, set()) == []


def unbounded_numbers(schema: Any, document: Any, seen: set[str], place: str = "") -> list[str]:
    """The places in schemas, and in what they refer to, where a number has no least or no greatest value."""
    if isinstance(schema, list):
        parts = [(str(number), part) for number, part in enumerate(schema)]
    elif not isinstance(schema, dict) or schema.get("$ref") in seen:
        return []
    else:
        parts = [(name, part) for name, part in schema.items() if name not in ("default", "example")]
        if "$ref" in schema:
            seen.add(schema["$ref"])
            name = schema["$ref"].rpartition("/")[2]
            parts.append((name, document["components"]["schemas"][name]))
    found = [
        each for name, part in parts for each in unbounded_numbers(part, document, seen, f"{place}/{name}")
    ]
    if isinstance(schema, dict) and schema.get("type") in ("integer", "number"):
        least = {"minimum", "exclusiveMinimum", "const"} & schema.keys()
        most = {"maximum", "exclusiveMaximum", "const"} & schema.keys()
        found += [] if least and most else [place]
    return found


def test_examples_fit_their_own_schemas() -> None:
    document = json.loads(json.dumps(description(application())))
    for path, methods in document["paths"].items():
        for operation in methods.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                if "example" in content:
                    schema = {**content["schema"], "components": document["components"]}
                    errors = list(Draft202012Validator(schema).iter_errors(content["example"]))
                    assert not errors, (path, errors)


def test_the_page_needs_nothing_from_elsewhere(server: Server) -> None:
    page = urllib3.request("GET", f"{server.api.base}/docs").data.decode()
    assert not re.search(r"(src|href)=\"(https?:)?//", page)
    for file in re.findall(r"(?:src|href)=\"([^\"]+)\"", page):
        answer = urllib3.request("GET", f"{server.api.base}/{file}")
        assert (answer.status, bool(answer.data)) == (200, True)
    assert urllib3.request("GET", f"{server.api.base}/docs/secret").status == 404


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/weights?min_step=-1"),
        ("GET", "/weights?min_step=x"),
        ("GET", "/weights?min_step=9999999999999999"),
        ("GET", "/weights?min_step=1&min_step=1"),
        ("GET", "/metrics?verbose=1"),
        ("POST", "/feedback?on_error=perhaps"),
        ("PUT", "?rebuild=maybe"),
    ],
)
def test_a_query_that_is_not_described_is_refused(api: Api, name: str, method: str, target: str) -> None:
    answer = api(method, f"/v1/models/{name}{target}", None if method == "GET" else {})
    assert (answer.status, len(answer.body["errors"])) == (422, 1)


def test_a_method_that_is_not_described_is_405(api: Api, name: str) -> None:
    for path in (f"/v1/models/{name}:predict", f"/v1/models/{name}/versions/1:predict"):
        answer = api("PUT", path, {})
        assert (answer.status, "GET" in answer.headers["Allow"]) == (405, False)
