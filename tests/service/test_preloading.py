"""What is loaded before a fork must be fit for it: no threads, no connections, nothing drawn, no lock of threads."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

LOOK = """
import dataclasses, gc, json, os, random, sys, threading
from service.host.preloading import preload

preload()

def natives():
    locks = type(threading.Lock()), type(threading.RLock()), threading.Event, threading.Condition, threading.Semaphore
    makers = {threading.Lock, threading.RLock, threading.Thread, *locks[2:]}
    for name, module in list(sys.modules.items()):
        if not name.startswith(("service.web", "service.store", "service.replay", "service.jobs")):
            continue
        for key, value in vars(module).items():
            if isinstance(value, locks) or (isinstance(value, type) and issubclass(value, threading.Thread)):
                yield f"{name}.{key}"
            if dataclasses.is_dataclass(value):
                yield from (f"{name}.{key}.{f.name}" for f in dataclasses.fields(value) if f.default_factory in makers)

def drawn():
    from service.web import telemetry
    reader, writer = os.pipe()
    for _ in range(2):
        if os.fork() == 0:
            os.write(writer, b"%d " % telemetry._ids.getrandbits(64))
            os._exit(0)
    os.wait(), os.wait()
    return os.read(reader, 1000).split()

found = {
    "threads": len(os.listdir("/proc/self/task")),
    "sockets": [to for fd in os.listdir("/proc/self/fd") if os.path.exists(link := f"/proc/self/fd/{fd}")
                and (to := os.readlink(link)).startswith("socket")],
    "natives": list(natives()),
    "generators": [f"{name}.{key}" for name, module in list(sys.modules.items())
                   if name.startswith(("service", "model"))
                   for key, value in vars(module).items() if isinstance(value, random.Random)],
    "drawn": len(set(drawn())),
    "patched": "gevent.monkey" in sys.modules and sys.modules["gevent.monkey"].is_module_patched("threading"),
    "loaded": "service.web.app" in sys.modules and "service.learner.learner" in sys.modules,
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> Any:
    """What a process holds that has loaded everything."""
    environment = os.environ | {
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }  # as the command line sets them
    command = [sys.executable, "-c", LOOK]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def test_loading_starts_no_thread_and_opens_no_connection(found: Any) -> None:
    assert found["loaded"]
    assert found["threads"] == 1
    assert found["sockets"] == []


def test_web_processes_share_no_lock_that_would_stop_their_loop(found: Any) -> None:
    assert not found["patched"]
    assert found["natives"] == []


def test_forked_processes_draw_their_own_random_numbers(found: Any) -> None:
    assert found["generators"] == ["service.web.telemetry._ids"]
    assert found["drawn"] == 2
