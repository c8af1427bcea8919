"""Whether each observation was applied once: a model that shows it, a driver, and the driver's own ledger.

The model is linear, without bias, scaling or momentum, and its one feature is a category: observation i is category
i, moves only weight i, and the value that is predicted for i shows how often it was applied.
"""

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

from tests.harness import Answer, Api, Served

RATE = 0.25  # a step moves the weight by RATE or 2 * RATE of what is missing to 1
PLACES = 20_000  # observations that one model can tell apart
AT_ONCE = 400  # places that one request asks for: a row takes as many numbers as the model has places
OUTCOME_UNKNOWN = "urn:freshet:problem:outcome-unknown"


def spec(places: int = PLACES) -> dict[str, Any]:
    """A model that can tell so many observations apart."""
    return {
        "task": "regression",
        "features": [{"name": "place", "kind": "category", "values": list(range(places))}],
        "layers": [],
        "bias": False,
        "scaling": "none",
        "initializer": "zeros",
        "optimizer": {"name": "sgd", "learning_rate": RATE},
    }


def observation(place: int, **fields: object) -> dict[str, object]:
    """The observation that moves weight `place`."""
    return {"features": [place], "label": 1.0, **fields}


def feed(api: Api, name: str, place: int, **headers: str) -> Answer:
    """Send the observation of a place."""
    return api("POST", f"/v1/models/{name}/feedback", observation(place), headers)


def teach(served: Served, name: str, places: range) -> None:
    """Send places one after the other and wait until they are applied."""
    position = 0
    for place in places:
        answer = feed(served.api, name, place)
        assert answer.status in (200, 202), answer
        position = answer.body["position"]
    served.wait_step(name, position)


def applications(api: Api, name: str, places: int) -> list[int]:
    """How often each of the first `places` observations was applied; 99 for a value that no number explains."""
    counts: list[int] = []
    for start in range(0, places, AT_ONCE):
        rows = [[place] for place in range(start, min(start + AT_ONCE, places))]
        answer = api("POST", f"/v1/models/{name}/predict", {"instances": rows})
        assert answer.status == 200, answer
        counts += [_times(prediction["value"]) for prediction in answer.body["predictions"]]
    return counts


def _times(value: float) -> int:
    for times in range(6):
        if abs(value - (1 - (1 - 2 * RATE) ** times)) < 1e-6:
            return times
    return 99


class Ledger:
    """What was sent and what was acknowledged, line after line on disk."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()
        self.sent: set[int] = set()
        self.acknowledged: set[int] = set()
        self.spans: list[tuple[int, int]] = []  # first and last position of each fresh acknowledgement
        self.errors: Counter[str] = Counter()

    def send(self, places: range, how: str) -> None:
        """Note that places are about to be sent."""
        self._write("sent", places, how=how)
        with self._lock:
            self.sent.update(places)

    def acknowledge(self, places: range, answer: Answer) -> None:
        """Note that places are acknowledged."""
        body = answer.body
        with self._lock:
            self.acknowledged.update(places)
            if body["applied"] + body["pending"] == len(places) and not body["duplicates"]:
                self.spans.append((body["position"] - len(places) + 1, body["position"]))
        self._write("acknowledged", places, status=answer.status, position=body["position"])

    def fail(self, places: range, kind: str) -> None:
        """Note that a request failed."""
        with self._lock:
            self.errors[kind] += 1
        self._write("failed", places, kind=kind)

    def close(self) -> None:
        """Close its file."""
        self._file.close()

    def _write(self, event: str, places: range, **more: object) -> None:
        line = {"at": round(time.time(), 4), "event": event, "from": places.start, "to": places.stop, **more}
        self._file.write(json.dumps(line) + "\n")


@dataclass
class Verdict:
    """What the ledger and the model together show."""

    sent: int
    acknowledged: int
    lost: list[int]  # acknowledged and not applied
    twice: list[int]  # applied more than once
    ghosts: list[int]  # applied and never sent
    errors: Counter[str]
    steps: int  # of the model, beyond the number of applications

    @property
    def clean(self) -> bool:
        """Whether each acknowledged observation counts once and nothing counts that should not."""
        return not (self.lost or self.twice or self.ghosts or self.steps)

    def __str__(self) -> str:
        errors = ", ".join(f"{kind}: {count}" for kind, count in sorted(self.errors.items())) or "none"
        return (
            f"sent {self.sent}, acknowledged {self.acknowledged}, acknowledged but lost {len(self.lost)}, "
            f"applied twice {len(self.twice)}, never sent {len(self.ghosts)}, "
            f"steps beyond the applications {self.steps}; errors: {errors}"
        )


def verdict(ledger: Ledger, api: Api, name: str, places: int = PLACES) -> Verdict:
    """Compare the ledger with what the model shows. All that was acknowledged must have been applied by now."""
    counts = applications(api, name, places)
    step = api("GET", f"/v1/models/{name}").body["step"]
    return Verdict(
        len(ledger.sent),
        len(ledger.acknowledged),
        [place for place in sorted(ledger.acknowledged) if counts[place] == 0],
        [place for place, count in enumerate(counts) if count > 1],
        [place for place, count in enumerate(counts) if count and place not in ledger.sent],
        ledger.errors,
        step - sum(counts),
    )


def judge(served: Served, ledger: Ledger, name: str, places: int = PLACES) -> Verdict:
    """Wait until all that was acknowledged is applied; assert that it counts once and that nothing else counts."""
    served.wait_step(name, max(position for _, position in ledger.spans))
    found = verdict(ledger, served.api, name, places)
    print(f"{name}: {found}", flush=True)
    assert found.clean, found
    return found


@dataclass
class Driver:
    """Several clients that teach one model, until it is stopped or the places are used up.

    Each request is of one of three sorts: with ids, with an Idempotency-Key, or with neither. The first two are sent
    again until they are acknowledged. The third is sent again only where that is safe: after an answer that says that
    nothing was written, or under the token of an unknown outcome.
    """

    port: int
    name: str
    ledger: Ledger
    seed: int
    places: int = PLACES
    clients: int = 4
    most_rows: int = 4
    pause: float = 0.0
    timeout: float = 5.0
    applied_at: dict[int, float] = field(default_factory=dict)  # client -> when one of its latest was applied
    refused: list[Answer] = field(default_factory=list)
    _next: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _abandoned: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Driver":
        """Let the clients begin."""
        self._threads = [
            threading.Thread(target=self._run, args=(client,), daemon=True) for client in range(self.clients)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let the clients end, whatever has become of their requests."""
        self._abandoned.set()
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self.ledger.close()

    def stop(self, seconds: float = 30.0) -> None:
        """Let the clients end, each after its request in flight is settled."""
        self._stopping.set()
        self.join(seconds)

    def join(self, seconds: float) -> None:
        """Wait until the clients have ended."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive(), f"a client did not settle its request within {seconds} s"
        assert not self.refused, self.refused

    @property
    def used_up(self) -> bool:
        """Whether few places are left: no more than are taken while something recovers."""
        return self._next > 0.7 * self.places

    def recovered_since(self, moment: float) -> bool:
        """Whether each client had an observation applied that it sent after `moment`."""
        return all(self.applied_at.get(client, 0.0) > moment for client in range(self.clients))

    def _run(self, client: int) -> None:
        choice = random.Random(self.seed * 1000 + client)
        api = Api(self.port, timeout=self.timeout)
        while not self._stopping.is_set():
            places = self._take(choice.randint(1, self.most_rows))
            if not places:
                break
            self._settle(api, client, places, choice.choice(["ids", "key", "plain"]))
            time.sleep(self.pause)
        api.close()

    def _take(self, rows: int) -> range:
        with self._lock:
            start = self._next
            self._next = min(self.places, start + rows)
            return range(start, self._next)

    def _settle(self, api: Api, client: int, places: range, how: str) -> None:
        rows = [observation(place, **({"id": f"o{place}"} if how == "ids" else {})) for place in places]
        body = json.dumps({"observations": rows}).encode()
        headers = {"Idempotency-Key": f"k{places.start}"} if how == "key" else {}
        while not self._abandoned.is_set():
            sent_at = time.monotonic()
            self.ledger.send(places, how)
            try:
                answer = api("POST", f"/v1/models/{self.name}/feedback", body, headers)
            except urllib3.exceptions.HTTPError as error:
                self.ledger.fail(places, type(error).__name__)
                if how == "plain" and not headers:
                    return
                time.sleep(0.02)
                continue
            if answer.status in (200, 202):
                self.ledger.acknowledge(places, answer)
                if answer.status == 200 and answer.body["applied"]:
                    self.applied_at[client] = sent_at
                return
            self.ledger.fail(places, f"{answer.status} {_kind(answer)}")
            if answer.status not in (429, 503):
                self.refused.append(answer)
                return
            if answer.body["type"] == OUTCOME_UNKNOWN and not headers:
                headers = {"Idempotency-Key": answer.body["token"]}
            time.sleep(0.02)


def _kind(answer: Answer) -> str:
    return str(answer.body["type"]).rpartition(":")[2] if answer.body["type"] != "about:blank" else ""
