"""Stopping and reloading: what is in flight is answered, the learner saves, no request meets a reset connection."""

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis

from tests import oracle
from tests.faults import System
from tests.harness import Server, crowd, running, wait_until


class KeepAlive(threading.Thread):
    """A client that sends predictions over one connection; it opens another if it was closed before a request."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.stopping = threading.Event()
        self.kinds: Counter[str] = Counter()

    def run(self) -> None:
        body = json.dumps({"instances": [[0]]})
        connection = None
        while not self.stopping.is_set():
            fresh = connection is None or is_closed(connection)
            if fresh:
                if connection is not None:
                    connection.close()
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10 * crowd())
            assert connection is not None
            try:
                connection.request("POST", "/v1/models/m/predict", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
                self.kinds[str(response.status)] += 1
                if response.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                self.kinds[f"{'fresh' if fresh else 'reused'}: {type(error).__name__}"] += 1
                connection.close()
                connection = None
            time.sleep(0.004)
        if connection is not None:
            connection.close()


def is_closed(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has closed a connection on which nothing is awaited."""
    if connection.sock is None:
        return True
    connection.sock.setblocking(False)
    try:
        return connection.sock.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.sock.settimeout(10 * crowd())


def test_a_reload_resets_no_connection(folder: Path) -> None:
    with running(folder, web_workers=2) as server:
        assert server.api("PUT", "/v1/models/m", oracle.spec(10)).status == 201
        clients = [KeepAlive(server.port) for _ in range(6)]
        for client in clients:
            client.start()
        for _ in range(3):
            before = set(server.pids("web"))
            assert server.process is not None
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda before=before: is_new(server, before), 30, server.log)
            answered = sum(client.kinds["200"] for client in clients)
            wait_until(
                lambda answered=answered: sum(client.kinds["200"] for client in clients) > answered + 200,
                30,
                server.log,
            )
        for client in clients:
            client.stopping.set()
            client.join()
        kinds = sum((client.kinds for client in clients), Counter())
        print(dict(kinds))
        assert kinds["200"] > 500
        assert set(kinds) == {"200"}, f"{kinds}\n{server.log()}"


def is_new(server: Server, before: set[int]) -> bool:
    """Whether all web processes are others than before."""
    now = set(server.pids("web"))
    return len(now) == 2 and not now & before


def test_a_stop_reaches_a_web_process_that_has_just_been_started(folder: Path) -> None:
    with running(folder, web_workers=1) as server:
        for pause in (0.0, 0.02, 0.1):
            before = server.pids("web")
            os.kill(before[0], signal.SIGKILL)
            wait_until(lambda pids=before: set(server.pids("web")) - set(pids), 20, server.log)
            time.sleep(pause)
            started = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - started < 20 * crowd()  # gunicorn kills after 30
            server.start()


def test_a_stop_answers_what_is_in_flight_and_saves_all(whole: System) -> None:
    learner = whole.start("learner")
    web = whole.start("web", apply_timeout=10)
    name = web.create(oracle.spec())
    oracle.teach(web, name, range(1))
    learner.pause()  # so that the request is in flight when the stop comes
    with ThreadPoolExecutor(1) as pool, whole.redis.link as link:
        sent = pool.submit(oracle.feed, web.api, name, 1)
        wait_until(lambda: log_end(link, name) == b"2-0", 10, whole.log)
        assert web.process is not None
        web.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        learner.go_on()
        assert sent.result(20).status == 200
        assert web.process.wait(30) == 0
        assert learner.stop() == 0
        assert link.hget(f"freshet:{{{name}}}:snapshot", "log_id") == b"2-0"
        assert link.hget(f"freshet:{{{name}}}:lease", "counter") == b"0"


def log_end(link: redis.Redis, name: str) -> bytes:
    """The last log id."""
    return bytes(link.xinfo_stream(f"freshet:{{{name}}}:log")["last-generated-id"])
