"""The log replayed comes to the live state bit for bit, and `freshet verify` says where it does not."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from safetensors.numpy import load, save

from tests import forking
from tests.harness import FRESHET, Server, clean_environment, running, wait_until

SPEC = {
    "task": "multiclass",
    "classes": ["a", "b", "c"],
    "features": [
        {"name": "x", "indicator": True},
        {"name": "color", "kind": "category", "values": ["red", "blue"]},
        {"name": "word", "kind": "hash", "buckets": 16},
    ],
    "layers": [{"units": 16, "dropout": 0.3, "batch_norm": True}, {"units": 8, "activation": "gelu"}],
    "optimizer": {
        "name": "adamw",
        "learning_rate": 0.01,
        "schedule": {"name": "exponential", "gamma": 0.999},
    },
    "seed": 7,
}


@pytest.fixture(scope="module")
def stopped_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A stopped server's data: four checkpoints, one change of the learning rate, a crash of the learner between."""
    with running(
        tmp_path_factory.mktemp("verify"), web_workers=1, apply_timeout=2, checkpoint_observations=300
    ) as server:
        assert server.api("PUT", "/v1/models/m", SPEC).status == 201
        choice = np.random.default_rng(1)
        for block in range(12):
            rows = [observation(choice) for _ in range(int(choice.integers(1, 200)))]
            answer = server.api("POST", "/v1/models/m/feedback", {"observations": rows})
            assert answer.status in (200, 202), answer
            if block == 5:
                # A checkpoint is written beside learning: killed too early, the learner makes fewer of them.
                wait_until(lambda: bool(checkpoints(server)), 20, server.log)
                server.kill_part("learner")
            if block == 7:
                wait_until(
                    lambda: server.api("PATCH", "/v1/models/m", {"learning_rate": 0.02}).status == 200,
                    20,
                    server.log,
                )
        server.wait_step("m", answer.body["position"])
        assert verified(server).returncode == 0, verified(server).stdout  # beside the running server
        assert server.stop() == 0
        yield server


def checkpoints(server: Server) -> list[object]:
    found: list[object] = server.api("GET", "/v1/models/m/checkpoints").body["checkpoints"]
    return found


def observation(choice: np.random.Generator) -> dict[str, object]:
    x = float(choice.normal())
    color = str(choice.choice(["red", "blue", "green"]))
    features = [x if x > -1 else None, color, f"word-{choice.integers(50)}"]
    return {"features": features, "label": "abc"[int(choice.integers(3))], "weight": 1 + abs(x)}


def verified(server: Server, name: str = "m") -> subprocess.CompletedProcess[str]:
    """What `freshet verify` says; it starts the embedded server itself."""
    return forking.run(["verify", name, "--data-dir", str(server.data_dir)], clean_environment(), timeout=100)


def tamper(server: Server, change) -> None:  # type: ignore[no-untyped-def]
    """Change the embedded server's keys while nothing else runs."""
    code = (
        "import sys, pathlib\nfrom service import settings\nfrom service.host import embedded\n"
        f"with embedded.opened(settings.load_settings(data_dir=pathlib.Path({str(server.data_dir)!r}))) as url:\n"
        "    print(url, flush=True)\n    sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [FRESHET[0], "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    path = process.stdout.readline().strip().removeprefix("unix://")
    with redis.Redis(unix_socket_path=path) as link:
        change(link)
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()


def tampered(state: bytes) -> bytes:
    """A state with one bit of one weight turned."""
    tensors = load(state)
    name = next(name for name in sorted(tensors) if "param" in name)
    tensors[name].view(np.uint8).reshape(-1)[41] ^= 1
    header = json.loads(state[8 : 8 + int.from_bytes(state[:8], "little")])
    return save(tensors, header["__metadata__"])


def test_every_state_is_what_the_log_comes_to(stopped_server: Server) -> None:
    found = verified(stopped_server)
    assert found.returncode == 0, found.stdout + found.stderr
    lines = found.stdout.splitlines()
    print(found.stdout)
    assert lines[0].startswith("0-0 to ")
    assert len(lines) >= 3
    assert all(line.endswith(": equal") for line in lines)


def test_a_tampered_state_is_found_where_it_is(stopped_server: Server) -> None:
    whole: dict[str, bytes] = {}

    def turn(link: redis.Redis) -> None:
        whole["state"] = link.hget("freshet:{m}:snapshot", "state")
        link.hset("freshet:{m}:snapshot", "state", tampered(whole["state"]))

    tamper(stopped_server, turn)
    found = verified(stopped_server)
    print(found.stdout)
    tamper(stopped_server, lambda link: link.hset("freshet:{m}:snapshot", "state", whole["state"]))
    assert found.returncode == 1
    *before, last = found.stdout.splitlines()
    assert all(line.endswith(": equal") for line in before)
    assert "parameters[10] is stored as" in last
    assert "1 of " in last


def test_a_state_of_another_build_is_not_comparable(stopped_server: Server) -> None:
    """A replay on another kind of processor may differ in the last bit: that is no corruption."""
    whole: dict[str, bytes] = {}

    def turn(link: redis.Redis) -> None:
        whole["state"] = link.hget("freshet:{m}:snapshot", "state")
        link.hset("freshet:{m}:snapshot", "state", of_another_build(tampered(whole["state"])))

    tamper(stopped_server, turn)
    found = verified(stopped_server)
    tamper(stopped_server, lambda link: link.hset("freshet:{m}:snapshot", "state", whole["state"]))
    assert found.returncode == 3, found.stdout
    assert "not comparable" in found.stdout.splitlines()[-1]
    assert "another-processor" in found.stdout


def of_another_build(state: bytes) -> bytes:
    """A state as another build would have computed it."""
    tensors = load(state)
    header = json.loads(state[8 : 8 + int.from_bytes(state[:8], "little")])["__metadata__"]
    saved = json.loads(header["freshet"])
    saved["builds"] = [["another-processor", 0]]
    return save(tensors, {"freshet": json.dumps(saved)})


def test_a_tampered_log_is_found_by_the_next_state(stopped_server: Server) -> None:
    def turn(link: redis.Redis) -> None:
        key = "freshet:{m}:log"
        entries = link.xrange(key)
        place, fields = entries[len(entries) // 2]
        fields[b"b"] = fields[b"b"][:-1] + bytes([fields[b"b"][-1] ^ 1]) if b"b" in fields else b""
        link.delete(key)
        for number, (log_id, kept) in enumerate(entries):
            link.xadd(key, fields if number == len(entries) // 2 else kept, id=log_id)
        assert place

    tamper(stopped_server, turn)
    found = verified(stopped_server)
    print(found.stdout)
    assert found.returncode == 1
    differing = [line for line in found.stdout.splitlines() if not line.endswith(": equal")]
    assert len(differing) == 1


def test_an_unknown_model_and_an_empty_folder_are_told_apart_from_a_difference(
    stopped_server: Server, tmp_path: Path
) -> None:
    assert verified(stopped_server, "none").returncode == 2
    nothing = forking.run(["verify", "m", "--data-dir", str(tmp_path)], clean_environment())
    assert nothing.returncode == 2
    assert "no Redis answers" in nothing.stderr
