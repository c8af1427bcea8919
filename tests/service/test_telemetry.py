"""Metrics for Prometheus: right across processes and restarts."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import urllib3
from flask import Flask
from prometheus_client import Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from service import counters
from service.web import current, telemetry
from tests.harness import Api, Server, running, wait_until

SPEC = {"task": "binary", "features": 2, "layers": []}


def samples(server: Server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of /metrics by name and labels."""
    text = urllib3.request("GET", f"{server.api.base}/metrics").data.decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(server: Server, name: str, **labels: str) -> float:
    return samples(server).get((name, tuple(sorted(labels.items()))), 0.0)


def feed(api: Api, name: str, count: int) -> None:
    for _ in range(count):
        assert api("POST", f"/v1/models/{name}/feedback", {"features": [1, 2], "label": 1}).status in (
            200,
            202,
        )


COUNT = "from service.telemetry import share_counters; print(share_counters(), flush=True); input()"


def test_servers_count_in_folders_of_their_own_and_what_a_killed_one_left_is_removed() -> None:
    def counting() -> tuple[subprocess.Popen[str], Path]:
        pipe = subprocess.PIPE
        process = subprocess.Popen([sys.executable, "-c", COUNT], stdin=pipe, stdout=pipe, text=True)
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    (first, mine), (second, left) = counting(), counting()
    second.kill()
    second.communicate()
    for folder in (mine, left):
        os.utime(folder, (0, 0))
    third, other = counting()
    assert mine.is_dir()
    assert not left.exists()
    for process, folder in ((first, mine), (third, other)):
        process.communicate("\n")
        folder.rmdir()


def test_requests_are_counted_across_processes_and_a_workers_death(folder: Path) -> None:
    with running(folder, web_workers=2) as server:
        name = server.create(SPEC)
        feed(server.api, name, 30)
        route = "/v1/models/<name>/feedback"
        before = value(server, "freshet_request_seconds_count", route=route, status="200")
        assert before + value(server, "freshet_request_seconds_count", route=route, status="202") == 30
        old = server.pids("web")
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(server.pids("web")) - set(old)) == 2, 20, server.log)
        server.wait_ready()
        feed(server.api, name, 5)
        after = samples(server)
        assert (
            sum(
                count
                for (metric, labels), count in after.items()
                if metric == "freshet_request_seconds_count" and ("route", route) in labels
            )
            == 35
        )


def test_a_models_position_loss_and_leadership_are_told(server: Server, api: Api, name: str) -> None:
    feed(api, name, 7)
    server.wait_step(name, 7)
    wait_until(lambda: value(server, "freshet_model_step", model=name) == 7, 10)
    assert value(server, "freshet_observations_total", model=name, outcome="applied") == 7
    assert value(server, "freshet_model_loss", model=name) > 0
    wait_until(lambda: value(server, "freshet_model_has_learner", model=name) == 1, 10)
    assert value(server, "freshet_redis_up") == 1
    assert value(server, "freshet_redis_memory_bytes") > 0


def test_a_request_id_is_taken_over_or_made(api: Api) -> None:
    assert api("GET", "/livez", None, {"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    made = api("GET", "/livez").headers["X-Request-Id"]
    assert made != api("GET", "/livez").headers["X-Request-Id"]
    assert len(api("GET", "/livez", None, {"X-Request-Id": "x" * 200}).headers["X-Request-Id"]) < 100


DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\bfreshet_[a-z_]+")


@pytest.mark.parametrize("file", ["grafana/freshet.json", "prometheus/freshet.rules.yml"])
def test_dashboard_and_alerts_name_metrics_that_are_told(
    server: Server, api: Api, name: str, file: str
) -> None:
    feed(api, name, 2)
    text = urllib3.request("GET", f"{server.api.base}/metrics").data.decode()
    told = {family.name for family in text_string_to_metric_families(text)}
    told |= {
        metric.describe()[0].name
        for metric in vars(counters).values()
        if isinstance(metric, Counter | Histogram)
    }
    named = set(NAME.findall((DEPLOY / file).read_text()))
    assert named
    assert {re.sub("_(total|bucket|count|sum)$", "", metric) for metric in named} <= told


def test_the_dashboard_has_a_query_in_every_panel() -> None:
    dashboard = json.loads((DEPLOY / "grafana/freshet.json").read_text())
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) >= 12


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_alerts() -> None:
    folder = DEPLOY / "prometheus"
    for command in (["check", "rules", "freshet.rules.yml"], ["test", "rules", "freshet.test.yml"]):
        result = subprocess.run(
            ["promtool", *command], cwd=folder, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr


def test_a_log_line_tells_request_trace_model_and_key(folder: Path) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with running(folder, web_workers=1, log_format="json") as server:
        name = server.create(SPEC)
        server.kill_part("redis")
        headers = {"X-Request-Id": "told-1", "traceparent": trace}
        server.api("POST", f"/v1/models/{name}/feedback", {"features": [1, 2], "label": 1}, headers)
        server.wait_ready()
        with Flask("logs").test_request_context(f"/v1/models/{name}", headers=headers):
            current.of_flask()
            told = telemetry.log_context()
            current.end()
        lines = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    assert told["request_id"] == "told-1"
    assert (told["trace_id"], told["span_id"]) == tuple(trace.split("-")[1:3])
    assert {"process", "level", "timestamp", "event"} <= lines[-1].keys()


def test_a_line_logged_on_the_short_way_names_its_request_and_model() -> None:
    environ = {"HTTP_X_REQUEST_ID": "mine", "HTTP_TRACEPARENT": f"00-{'a' * 32}-{'b' * 16}-01"}
    current.begin(environ, "m", 0.0)
    fields = telemetry.log_context()
    current.end()
    assert fields == {"request_id": "mine", "trace_id": "a" * 32, "span_id": "b" * 16, "model": "m"}
    assert telemetry.log_context() == {}
