"""What one request costs in Python, in microseconds of processor time: the service's application and the floor's.

    budget.py [--count 3000] [--profile]

Both are called as gunicorn would call them, without a socket; the service has a Valkey of its own and no learner.
"""

import argparse
import cProfile
import io
import json
import os
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

from bench import INPUTS, PREDICT_PATH, SPEC  # noqa: E402

from tests.faults import Valkey  # noqa: E402

ROUNDS = 9


def environ_of(path: str, body: bytes) -> dict[str, Any]:
    """The environment that gunicorn gives."""
    return {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "RAW_URI": path,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "1",
        "HTTP_HOST": "127.0.0.1:8000",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }


def microseconds(call: Callable[[], object], count: int) -> float:
    """Processor time of one call: the best of some rounds, as others share the machine."""
    rounds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(count):
            call()
        rounds.append((time.process_time() - started) / count * 1e6)
    return min(rounds)


def request(app: Any, path: str, body: bytes) -> Callable[[], bytes]:
    """One request to an application."""

    def start(status: str, headers: Any, exc_info: Any = None) -> None:
        assert status.startswith("200"), status

    def call() -> bytes:
        answer = app(environ_of(path, body), start)
        try:
            return b"".join(answer)
        finally:
            if hasattr(answer, "close"):
                answer.close()

    return call


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Processor time of one request.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    body = json.dumps({"instances": [[round(0.123456 * place, 6) for place in range(INPUTS)]]}).encode()
    with tempfile.TemporaryDirectory() as folder:
        redis = Valkey(Path(folder)).start()
        os.environ["REDIS_URL"] = redis.url
        try:
            import floor

            from service.web.app import create_app

            app = create_app()
            created = app.test_client().put(
                "/v1/models/bench", json=SPEC, environ_base={"REMOTE_ADDR": "127.0.0.1"}
            )
            assert created.status_code == 201, created.data
            ours, least = request(app, PREDICT_PATH, body), request(floor.app, PREDICT_PATH, body)
            print(ours())
            environment = microseconds(lambda: environ_of(PREDICT_PATH, body), arguments.count)
            for name, call in (("floor", least), ("predict", ours)):
                print(f"{name:10} {microseconds(call, arguments.count) - environment:6.1f} µs")
            if arguments.profile:
                profile = cProfile.Profile()
                profile.enable()
                for _ in range(arguments.count):
                    ours()
                profile.disable()
                pstats.Stats(profile).sort_stats("tottime").print_stats(45)
        finally:
            redis.kill()


if __name__ == "__main__":
    main()
