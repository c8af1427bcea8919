"""Other servers' clients, unmodified: Open Inference Protocol V2 (tritonclient) and TensorFlow Serving."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import urllib3
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.harness import Api, Server

SPEC = {"task": "binary", "features": 3}
MIXED = {
    "task": "multiclass",
    "features": [
        {"name": "x"},
        {"name": "on", "kind": "boolean"},
        {"name": "city", "kind": "hash", "buckets": 8},
    ],
    "classes": ["a", "b", "c"],
}
ROWS = [[0.5, 1.0, -2.0], [3.0, 0.25, 1.0]]


@pytest.fixture
def triton(server: Server) -> Iterator[InferenceServerClient]:
    client = InferenceServerClient(f"127.0.0.1:{server.port}")
    yield client
    client.close()


def native(api: Api, name: str, instances: list[object]) -> list[dict[str, object]]:
    predictions: list[dict[str, object]] = api(
        "POST", f"/v1/models/{name}/predict", {"instances": instances}
    ).body["predictions"]
    return predictions


def rows_tensor(binary: bool, datatype: str = "FP64", kind: type = np.float64) -> InferInput:
    tensor = InferInput("features", [2, 3], datatype)
    tensor.set_data_from_numpy(np.array(ROWS, kind), binary_data=binary)
    return tensor


def test_triton_client_reads_health_and_metadata(triton: InferenceServerClient, name: str) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready(name)
    assert triton.get_server_metadata()["name"] == "freshet"
    metadata = triton.get_model_metadata(name)
    assert metadata["inputs"] == [{"name": "features", "datatype": "FP64", "shape": [-1, 3]}]
    assert [output["name"] for output in metadata["outputs"]] == ["label", "probabilities"]


@pytest.mark.parametrize("binary", [True, False])
def test_triton_client_infers_what_predict_answers(
    triton: InferenceServerClient, api: Api, name: str, binary: bool
) -> None:
    found = triton.infer(name, [rows_tensor(binary)], request_id="r-7")
    expected = native(api, name, list(ROWS))
    assert found.get_response()["id"] == "r-7"
    assert found.get_response()["parameters"]["step"] == 0
    assert found.as_numpy("label").tolist() == [row["label"] for row in expected]
    assert found.as_numpy("probabilities").tolist() == [
        list(row["probabilities"].values()) for row in expected
    ]  # type: ignore[attr-defined]


def test_triton_client_chooses_outputs_and_sends_float32(triton: InferenceServerClient, name: str) -> None:
    outputs = [InferRequestedOutput("probabilities", binary_data=False)]
    found = triton.infer(name, [rows_tensor(True, "FP32", np.float32)], outputs=outputs)
    assert [output["name"] for output in found.get_response()["outputs"]] == ["probabilities"]
    assert found.as_numpy("probabilities").shape == (2, 2)


def test_triton_client_sends_a_tensor_for_each_feature(
    triton: InferenceServerClient, api: Api, server: Server
) -> None:
    name = server.create(MIXED)
    x, on, city = (
        InferInput("x", [2, 1], "FP64"),
        InferInput("on", [2, 1], "BOOL"),
        InferInput("city", [2], "BYTES"),
    )
    x.set_data_from_numpy(np.array([[1.0], [2.0]]))
    on.set_data_from_numpy(np.array([[True], [False]]))
    city.set_data_from_numpy(np.array(["Ulm", "Köln"], object))
    found = triton.infer(name, [x, on, city])
    expected = native(
        api, name, [{"x": 1.0, "on": True, "city": "Ulm"}, {"x": 2.0, "on": False, "city": "Köln"}]
    )
    assert [label.decode() for label in found.as_numpy("label")] == [row["label"] for row in expected]
    api("DELETE", f"/v1/models/{name}")


def test_triton_client_reads_errors(triton: InferenceServerClient, name: str) -> None:
    with pytest.raises(InferenceServerException, match="there is no model"):
        triton.infer("nobody", [rows_tensor(True)])
    tensor = InferInput("features", [1, 2], "FP64")
    tensor.set_data_from_numpy(np.zeros((1, 2)))
    with pytest.raises(InferenceServerException, match="expected 3 features"):
        triton.infer(name, [tensor])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"inputs": []}, "inputs"),
        (
            {"inputs": [{"name": "features", "shape": [1, 3], "datatype": "FP7", "data": [1, 2, 3]}]},
            "datatype",
        ),
        ({"inputs": [{"name": "features", "shape": [2, 3], "datatype": "FP64", "data": [1, 2, 3]}]}, "6"),
        (
            {"inputs": [{"name": "features", "shape": [1, 3], "datatype": "FP64", "data": [1, 2, "x"]}]},
            "number",
        ),
        ({"inputs": [{"name": "features", "shape": [0, 3], "datatype": "FP64", "data": []}]}, "no rows"),
        ({"inputs": [{"name": "features", "shape": [1, 3], "datatype": "FP64"}]}, "list"),
        ({"inputs": [{"name": "y", "shape": [1], "datatype": "FP64", "data": [1]}]}, "expected 3"),
        ({"outputs": [{"name": "nothing"}]}, "nothing"),
        ({"parameters": {"min_step": "x"}}, "min_step"),
    ],
)
def test_bad_inference_requests_name_what_is_wrong(
    api: Api, name: str, change: dict[str, object], word: str
) -> None:
    body = {"inputs": [{"name": "features", "shape": [1, 3], "datatype": "FP64", "data": [1, 2, 3]}]} | change
    answer = api("POST", f"/v2/models/{name}/infer", body)
    assert answer.status == 422
    assert word in answer.body["error"]


def header_and(raw: bytes, size: int, length: int | None = None) -> tuple[bytes, dict[str, str]]:
    tensor = {
        "name": "features",
        "shape": [1, 3],
        "datatype": "FP64",
        "parameters": {"binary_data_size": size},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head) if length is None else length)}


@pytest.mark.parametrize(
    ("raw", "size", "length"),
    [
        (b"\0" * 24, 25, None),  # says more than follows
        (b"\0" * 24, 16, None),  # bytes are left over
        (b"\0" * 23, 23, None),  # no whole number of values
        (np.array([1, 2, np.nan]).tobytes(), 24, None),
        (np.array([1, 2, np.inf]).tobytes(), 24, None),
        (b"\0" * 24, 24, 10**11),
        (b"\0" * 24, -24, None),
    ],
)
def test_lying_binary_tensors_are_refused(
    api: Api, name: str, raw: bytes, size: int, length: int | None
) -> None:
    body, headers = header_and(raw, size, length)
    answer = api("POST", f"/v2/models/{name}/infer", body, headers)
    assert answer.status in (400, 422)
    assert answer.body["error"]


def test_tensorflow_serving_rows_columns_and_status(api: Api, name: str) -> None:
    expected = [[row["probabilities"]["1"]] for row in native(api, name, list(ROWS))]  # type: ignore[index]
    rows = api("POST", f"/v1/models/{name}:predict", {"signature_name": "serving_default", "instances": ROWS})
    assert (rows.status, rows.body) == (200, {"predictions": expected})
    columns = {f"x{place}": [row[place] for row in ROWS] for place in range(3)}
    assert api("POST", f"/v1/models/{name}/versions/1:predict", {"inputs": ROWS}).body == {
        "outputs": expected
    }
    assert api("POST", f"/v1/models/{name}:predict", {"inputs": columns}).body == {"outputs": expected}
    status = api("GET", f"/v1/models/{name}").body["model_version_status"]
    assert status[0]["state"] == "AVAILABLE"
    assert api("GET", f"/v1/models/{name}/versions/1").body["model_version_status"] == status


def test_tensorflow_serving_columns_by_name(api: Api, server: Server) -> None:
    name = server.create(MIXED)
    columns = {"x": [1.0, [2.0]], "on": [True, False], "city": ["Ulm", "Bonn"]}
    found = api("POST", f"/v1/models/{name}:predict", {"inputs": columns})
    assert (found.status, len(found.body["outputs"]), len(found.body["outputs"][0])) == (200, 2, 3)
    assert api("POST", f"/v1/models/{name}:predict", {"inputs": {"x": [1], "on": []}}).status == 422
    api("DELETE", f"/v1/models/{name}")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"instances": []},
        {"instances": [[1, 2]]},
        {"instances": [[1, 2, 3]], "signature_name": "x"},
        {"inputs": 3},
    ],
)
def test_bad_tensorflow_serving_requests_are_refused(api: Api, name: str, body: dict[str, object]) -> None:
    answer = api("POST", f"/v1/models/{name}:predict", body)
    assert (answer.status, list(answer.body)) == (422, ["error"])


def test_raw_v2_request_as_the_protocol_shows_it(server: Server, name: str) -> None:
    body = b'{"id": "42", "inputs": [{"name": "features", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, null]}]}'
    answer = urllib3.request("POST", f"http://127.0.0.1:{server.port}/v2/models/{name}/infer", body=body)
    assert answer.status == 200
    assert answer.json()["id"] == "42"


@pytest.mark.parametrize(
    "path", ["/v2/models/a:b", "/v2/models/a:b/ready", "/v2/nothing", "/v1/models/a/versions/x:y"]
)
def test_a_path_that_leads_nowhere_is_an_error_in_the_protocols_form(api: Api, path: str) -> None:
    answer = api.raw("GET", path)
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/json")
    assert list(json.loads(answer.data)) == ["error"]
