"""The short way of predictions and feedback answers as the routes do."""

import json

import pytest

from tests.harness import Answer, Api

SPEC = {"task": "binary", "features": 2, "layers": []}
GOOD = {"instances": [[1, 2]]}
BODIES = [
    ("predict", GOOD),
    ("predict", {"instances": [[1, 2], [3, None]], "ids": ["a", "b"]}),
    ("predict", {"instances": [[1, 2]], "min_step": 10**9}),
    ("predict", {"instances": [[1]]}),
    ("predict", {"instances": []}),
    ("predict", b"{"),
    ("predict", b""),
    ("feedback", {"features": [1, 2], "label": 7}),
    ("feedback", {"id": "never predicted", "label": 1}),
    ("feedback", b"[]"),
]
SLOWLY = {"Content-Type": "application/json;charset=UTF-8"}  # Flask's way


def told(answer: Answer) -> tuple[int, object, dict[str, str]]:
    """What is compared of an answer."""
    kept = {"Content-Type", "Retry-After"}
    headers = {name: value for name, value in answer.headers.items() if name in kept}
    assert answer.headers["X-Request-Id"]
    return answer.status, answer.body, headers


@pytest.mark.parametrize(
    ("call", "body"), BODIES, ids=lambda part: json.dumps(part) if isinstance(part, dict) else None
)
def test_both_ways_answer_alike(api: Api, name: str, call: str, body: object) -> None:
    path = f"/v1/models/{name}/{call}"
    assert told(api("POST", path, body)) == told(api("POST", path, body, SLOWLY))


def test_both_ways_refuse_a_page_of_another_site(api: Api, name: str) -> None:
    path = f"/v1/models/{name}/predict"
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        direct, slow = api("POST", path, GOOD, headers), api("POST", path, GOOD, headers | SLOWLY)
        assert told(direct) == told(slow)
        assert direct.status in (403, 421)


def test_a_clients_request_id_is_given_back(api: Api, name: str) -> None:
    path = f"/v1/models/{name}/predict"
    for body in (GOOD, b"{"):
        assert api("POST", path, body, {"X-Request-Id": "mine"}).headers["X-Request-Id"] == "mine"


def test_an_unknown_model_and_a_bad_name_are_told_of(api: Api) -> None:
    for name in ("unknown", "_bad"):
        path = f"/v1/models/{name}/predict"
        assert told(api("POST", path, GOOD)) == told(api("POST", path, GOOD, SLOWLY))
