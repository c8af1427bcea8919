"""What clients do, and what they were told."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from parts import Exchange, Fleet, GaveUp, Lost, Pieces
from scheduler import Process, World
from truth import PLACES, PROBES

UNKNOWN = "urn:freshet:problem:outcome-unknown"
PAUSE = 0.15  # seconds until a request is sent again
TRIES = 60

SPECS: dict[str, dict[str, Any]] = {
    "line": {
        "task": "regression",
        "features": 2,
        "layers": [],
        "scaling": "none",
        "optimizer": {"name": "sgd", "learning_rate": 0.125},
    },
    "yes": {"task": "binary", "features": 2, "classes": ["no", "yes"], "layers": [{"units": 3}], "seed": 3},
    "three": {"task": "multiclass", "features": 2, "classes": ["a", "b", "c"], "layers": [], "seed": 4},
}
LABELS: dict[str, list[Any]] = {"line": [1.0, -2.0, 0.5], "yes": ["no", "yes"], "three": ["a", "b", "c"]}
KINDS = tuple(SPECS)


def kind_of(name: str) -> str:
    """The kind of model that a name stands for."""
    return name.partition("-")[0]


def spec_of(name: str, **more: object) -> dict[str, Any]:
    """The spec of the model of this name."""
    return {**SPECS[kind_of(name)], **more}


@dataclass
class Fate:
    """What a client knows of one observation."""

    number: int
    model: str
    acknowledged: list[tuple[float, int | None, Exchange]] = field(default_factory=list)  # when, position
    refused: int = 0
    unknown: int = 0
    sent: int = 0
    settled: bool = True  # its client has not given up in the middle
    generations: set[str] = field(default_factory=set)


class Ledger:
    """All that clients were told."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.fates: dict[int, Fate] = {}
        self.commands: list[tuple[str, dict[str, Any], Exchange]] = []
        self._number = 0

    def observe(self, model: str) -> int:
        """A number for a new observation."""
        self._number += 1
        self.fates[self._number] = Fate(self._number, model)
        return self._number


@dataclass
class Clients:
    """Clients; each move of theirs runs in a thread of its own, in a process that is never killed."""

    world: World
    fleet: Fleet
    ledger: Ledger
    process: Process
    settings: dict[str, Any]
    positions: dict[tuple[str, str], int] = field(
        default_factory=dict
    )  # web, model -> last own position told
    busy: int = 0
    keys: int = 0
    stopping: bool = False
    checkpoints: dict[str, list[str]] = field(default_factory=dict)

    def do(self, move: dict[str, Any]) -> None:
        """Begin a move."""
        action: Callable[[dict[str, Any], Random], None] = getattr(self, move["do"])
        chance = Random(f"{self.world.seed}/{move['id']}")
        self.busy += 1

        def run() -> None:
            try:
                action(move, chance)
            finally:
                self.busy -= 1

        self.process.spawn(f"client-{move['id']}", run)

    # -- one request -------------------------------------------------------------------------------------------

    def ask(
        self,
        web: str,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        patience: float = 10.0,
        **facts: Any,
    ) -> Exchange:
        """Send a request; its exchange, also where no answer came."""
        raw = body if isinstance(body, bytes | Pieces) or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        exchange = Exchange(method, path, raw, sent, web, facts)
        self.ledger.exchanges.append(exchange)
        try:
            return self.fleet.send(exchange, patience)
        except (Lost, GaveUp):
            return exchange

    def _rest(self, seconds: float = PAUSE) -> None:
        self.world.task().park(seconds)

    # -- feedback ----------------------------------------------------------------------------------------------

    def rows(self, model: str, count: int, chance: Random) -> list[tuple[int, dict[str, Any]]]:
        """New observations."""
        made = []
        for _ in range(count):
            number = self.ledger.observe(model)
            features = [number / PLACES, round(chance.uniform(-1, 1), 3)]
            made.append((number, {"features": features, "label": chance.choice(LABELS[kind_of(model)])}))
        return made

    def feed(self, move: dict[str, Any], chance: Random) -> None:
        """Send observations until they are acknowledged, as far as that is safe."""
        model, way = move["model"], move.get("way", "plain")
        rows = self.rows(model, move.get("rows", 1), chance)
        for number, row in rows:
            if way == "ids":
                row["id"] = f"o{number}"
        headers = {"Idempotency-Key": f"k{rows[0][0]}"} if way == "key" else {}
        self.settle(
            move,
            model,
            [number for number, _ in rows],
            {"observations": [row for _, row in rows]},
            headers,
            way,
        )

    def settle(
        self,
        move: dict[str, Any],
        model: str,
        numbers: list[int],
        body: Any,
        headers: dict[str, str],
        way: str,
    ) -> Exchange | None:
        """Send a request again and again until it is acknowledged or refused for good."""
        web = move["web"]
        exchange = None
        for attempt in range(move.get("tries", TRIES)):
            if attempt:
                self._rest()
            if move.get("wander"):
                webs = sorted(name for name in self.fleet.world.processes if name.startswith("web"))
                web = webs[(webs.index(web) + 1) % len(webs)] if web in webs else webs[0]
            exchange = self.ask(
                web,
                "POST",
                f"/v1/models/{model}/feedback",
                body,
                headers,
                move.get("patience", 10.0),
                numbers=numbers,
                model=model,
                key=headers.get("Idempotency-Key"),
            )
            kind = self.note(exchange, numbers)
            if kind == "acknowledged":
                self.positions[web, model] = max(
                    self.positions.get((web, model), 0), exchange.answer.get("position") or 0
                )
                if move.get("repeat") and headers:
                    again = self.ask(
                        web,
                        "POST",
                        exchange.path,
                        body,
                        headers,
                        numbers=numbers,
                        model=model,
                        key=headers.get("Idempotency-Key"),
                        repeats=exchange,
                    )
                    self.note(again, numbers)
                return exchange
            if kind == "refused" and exchange.status not in (429, 503):
                return exchange
            if kind == "unknown" and not headers and way == "plain":
                token = exchange.answer.get("token") if isinstance(exchange.answer, dict) else None
                if token is None:
                    return exchange  # it might be applied: sending it again might apply it twice
                headers = {"Idempotency-Key": token}
            if self.stopping:
                break
        return exchange

    def note(self, exchange: Exchange, numbers: list[int]) -> str:
        """Note what a feedback's answer says of its observations: "acknowledged", "refused" or "unknown"."""
        answer = exchange.answer if isinstance(exchange.answer, dict) else {}
        refused_connection = exchange.outcome == "lost" and exchange.process is None
        if exchange.status in (200, 202):
            kind = "acknowledged"
        elif (
            refused_connection
            or (400 <= exchange.status < 500)
            or (exchange.status == 503 and answer.get("type") != UNKNOWN)
        ):
            kind = "refused"
        else:
            kind = "unknown"
        exchange.facts["kind"] = kind
        for number in numbers:
            fate = self.ledger.fates[number]
            fate.sent += 1
            if kind == "acknowledged":
                alone = answer.get("position") if len(numbers) == 1 else None
                fate.acknowledged.append((self.world.now, alone, exchange))
            elif kind == "refused":
                fate.refused += 1
            else:
                fate.unknown += 1
        return kind

    def burst(self, move: dict[str, Any], chance: Random) -> None:
        """Several clients at the same time."""
        for place in range(move["clients"]):
            self.do(
                {
                    **move,
                    "do": "feed",
                    "id": f"{move['id']}.{place}",
                    "way": chance.choice(["plain", "key", "ids"]),
                }
            )

    def twins(self, move: dict[str, Any], chance: Random) -> None:
        """The same event for two models, with the same key, at the same time."""
        self.keys += 1
        key = f"twin{move['id']}"
        for place, model in enumerate(move["models"]):
            self.do(
                {**move, "do": "feed_with_key", "model": model, "id": f"{move['id']}.{place}", "key": key}
            )

    def feed_with_key(self, move: dict[str, Any], chance: Random) -> None:
        """An observation under a given key."""
        ((number, row),) = self.rows(move["model"], 1, chance)
        self.settle(move, move["model"], [number], row, {"Idempotency-Key": move["key"]}, "key")

    def reuse(self, move: dict[str, Any], chance: Random) -> None:
        """Use a key twice, with different observations."""
        key = {"Idempotency-Key": f"reused{move['id']}"}
        ((first, row),) = self.rows(move["model"], 1, chance)
        self.settle(move, move["model"], [first], row, key, "key")
        ((second, other),) = self.rows(move["model"], 1, chance)
        exchange = self.settle(move, move["model"], [second], other, key, "key")
        if exchange is not None and exchange.outcome == "answered":
            exchange.facts["reuses"] = first

    def late(self, move: dict[str, Any], chance: Random) -> None:
        """Predict with an id, and bring the label later."""
        model, web = move["model"], move["web"]
        ((number, row),) = self.rows(model, 1, chance)
        known = f"o{number}"
        body = {"instances": [row["features"]], "ids": [known]}
        predicted = self.ask(web, "POST", f"/v1/models/{model}/predict", body, model=model)
        if predicted.status != 200:
            return
        self._rest(chance.uniform(0, 0.5))
        self.settle(move, model, [number], {"id": known, "label": row["label"]}, {}, "ids")

    def stream(self, move: dict[str, Any], chance: Random) -> None:
        """Observations as lines, in pieces."""
        model, web = move["model"], move["web"]
        rows = self.rows(model, move["rows"], chance)
        lines = [json.dumps(row).encode() + b"\n" for _, row in rows]
        numbers = [number for number, _ in rows]
        headers = {"Content-Type": "application/x-ndjson"}
        if move.get("way") == "key":
            headers["Idempotency-Key"] = f"s{numbers[0]}"
        for _ in range(TRIES):
            pieces = Pieces()
            self._push(pieces, lines, chance, move.get("cut"))
            move = {**move, "cut": None}
            exchange = self.ask(
                web,
                "POST",
                f"/v1/models/{model}/feedback",
                pieces,
                headers,
                move.get("patience", 10.0),
                numbers=numbers,
                model=model,
                stream=True,
                key=headers.get("Idempotency-Key"),
            )
            answer = exchange.answer if isinstance(exchange.answer, dict) else {}
            if exchange.status in (200, 202):
                self.note(exchange, numbers)
                return
            done = answer.get("lines")
            if exchange.status and done is not None:
                exchange.facts["kind"] = "partly"
                for place, number in enumerate(numbers):
                    fate = self.ledger.fates[number]
                    fate.sent += 1
                    if place < done:
                        fate.acknowledged.append((self.world.now, None, exchange))
                    elif exchange.status == 503 and answer.get("type") == UNKNOWN:
                        fate.unknown += 1
                    else:
                        fate.refused += 1
            else:
                self.note(exchange, numbers)
            token = answer.get("token")
            if token:
                headers["Idempotency-Key"] = token
            if "Idempotency-Key" not in headers and exchange.facts["kind"] == "unknown":
                return
            if exchange.status and exchange.status not in (429, 503, 409, 400):
                return
            if self.stopping:
                return
            self._rest()

    def _push(self, pieces: Pieces, lines: list[bytes], chance: Random, cut: int | None) -> None:
        at = 0.0
        for place, line in enumerate(lines):
            at += chance.choice([0, 0, 0.001, 0.3])
            if cut is not None and place >= cut:
                self.world.later(at, pieces.end, True)
                return
            self.world.later(at, pieces.push, line + b" " * 1100 if chance.random() < 0.3 else line)
        self.world.later(at + 1e-3, pieces.end)

    # -- reading -----------------------------------------------------------------------------------------------

    def predict(self, move: dict[str, Any], _chance: Random) -> None:
        """Predict; perhaps not before the client's own last write."""
        model, web = move["model"], move["web"]
        body: dict[str, Any] = {"instances": PROBES}
        own = self.positions.get((web, model))
        if move.get("least") and own is not None:
            body["min_step"] = own
        for _ in range(move.get("times", 1)):
            self.ask(
                web,
                "POST",
                f"/v1/models/{model}/predict",
                body,
                model=model,
                least=body.get("min_step"),
                probes=True,
            )
            self._rest(0.01)

    def read_back(self, move: dict[str, Any], chance: Random) -> None:
        """Feed, then read from the same process at once."""
        self.feed({**move, "tries": 1}, chance)
        self.ask(
            move["web"],
            "POST",
            f"/v1/models/{move['model']}/predict",
            {"instances": PROBES},
            model=move["model"],
            probes=True,
        )

    def look(self, move: dict[str, Any], _chance: Random) -> None:
        """GET a model, or all."""
        path = f"/v1/models/{move['model']}" if move.get("model") else "/v1/models"
        self.ask(move["web"], "GET", path, model=move.get("model"))

    # -- commands ------------------------------------------------------------------------------------------------

    def _command(
        self,
        move: dict[str, Any],
        method: str,
        path: str,
        body: Any,
        headers: dict[str, str] | None = None,
        **facts: Any,
    ) -> Exchange:
        key = {"Idempotency-Key": f"c{move['id']}"} if move.get("way") == "key" else {}
        exchange = None
        for attempt in range(TRIES):
            if attempt:
                self._rest()
            exchange = self.ask(
                move["web"],
                method,
                path,
                body,
                {**(headers or {}), **key},
                move.get("patience", 10.0),
                model=move["model"],
                command=move["do"],
                move=move["id"],
                **facts,
            )
            answer = exchange.answer if isinstance(exchange.answer, dict) else {}
            if exchange.status == 503 and answer.get("token"):
                key = {"Idempotency-Key": answer["token"]}
            elif exchange.status not in (0, 429, 503) or (exchange.status == 0 and not key):
                break
            if self.stopping:
                break
        assert exchange is not None
        return exchange

    def patch(self, move: dict[str, Any], chance: Random) -> None:
        """Change the learning rate."""
        rate = move.get("rate") or chance.choice([0.01, 0.02, 0.04, 0.08, 0.16])
        self._command(move, "PATCH", f"/v1/models/{move['model']}", {"learning_rate": rate}, rate=rate)

    def schedule(self, move: dict[str, Any], chance: Random) -> None:
        """Change the schedule."""
        after = move.get("after", 1_000_000) + int(move["id"].partition(".")[0])
        body = {"retrain": {"after": after}}
        exchange = self._command(move, "PATCH", f"/v1/models/{move['model']}", body, after=after)
        if move.get("repeat") and move.get("way") == "key" and exchange.status == 200:
            self._rest(chance.uniform(0.5, 2.0))
            self._command(move, "PATCH", f"/v1/models/{move['model']}", body, after=after, repeats=exchange)

    def checkpoint(self, move: dict[str, Any], _chance: Random) -> None:
        """Make a checkpoint."""
        exchange = self._command(move, "POST", f"/v1/models/{move['model']}/checkpoints", {})
        if exchange.status == 201:
            self.checkpoints.setdefault(move["model"], []).append(exchange.answer["checkpoint"])

    def rollback(self, move: dict[str, Any], chance: Random) -> None:
        """Go back to a checkpoint, if one is known."""
        known = self.checkpoints.get(move["model"])
        if not known:
            self.checkpoint({**move, "do": "checkpoint"}, chance)
            known = self.checkpoints.get(move["model"])
        if known:
            self._command(
                move, "POST", f"/v1/models/{move['model']}/rollback", {"checkpoint": chance.choice(known)}
            )

    def upload(self, move: dict[str, Any], _chance: Random) -> None:
        """Upload the weights that the model has."""
        model = move["model"]
        got = self.ask(move["web"], "GET", f"/v1/models/{model}/weights", model=model)
        if got.status == 200:
            self._rest(move.get("wait", 0.0))
            kind = {"Content-Type": "application/vnd.safetensors"}
            self._command(move, "PUT", f"/v1/models/{model}/weights", got.answer, kind)

    # -- models --------------------------------------------------------------------------------------------------

    def create(self, move: dict[str, Any], _chance: Random) -> None:
        """Create a model; asked again until answered."""
        model = move["model"]
        for _ in range(TRIES):
            exchange = self.ask(
                move["web"],
                "PUT",
                f"/v1/models/{model}",
                spec_of(model, **move.get("more", {})),
                patience=move.get("patience", 10.0),
                model=model,
                creates=True,
            )
            if exchange.status in (200, 201, 409) or move.get("once") or self.stopping:
                return
            self._rest()

    def delete(self, move: dict[str, Any], _chance: Random) -> None:
        """Delete a model; asked again until answered."""
        model = move["model"]
        for _ in range(TRIES):
            exchange = self.ask(
                move["web"],
                "DELETE",
                f"/v1/models/{model}",
                patience=move.get("patience", 10.0),
                model=model,
                deletes=True,
            )
            if exchange.status in (204, 404) or move.get("once") or self.stopping:
                return
            self._rest()

    def renew(self, move: dict[str, Any], chance: Random) -> None:
        """Delete a model and create it again at once."""
        self.delete({**move, "do": "delete"}, chance)
        self.create({**move, "do": "create"}, chance)

    # -- retraining ------------------------------------------------------------------------------------------------

    def retrain(self, move: dict[str, Any], chance: Random) -> None:
        """Retrain."""
        body = {
            "epochs": 1,
            "batch_size": 8,
            "start": chance.choice(["current", "scratch"]),
            "validation": 0.0,
            "promote": chance.choice(["always", "always", "never"]),
        }
        body["promote"] = move.get("promote", body["promote"])
        self._command(move, "POST", f"/v1/models/{move['model']}/retrain", body)
        if move.get("then"):
            self._rest(chance.uniform(0, 0.05))
            getattr(self, move["then"])({**move, "do": move["then"], "id": f"{move['id']}.0"}, chance)

    def rebuild(self, move: dict[str, Any], chance: Random) -> None:
        """Train a model of another spec."""
        units = chance.choice([2, 5])
        spec = spec_of(move["model"], layers=[{"units": units}])
        self._command(move, "PUT", f"/v1/models/{move['model']}?rebuild=true", spec)

    def cancel(self, move: dict[str, Any], _chance: Random) -> None:
        """Cancel the job of a model."""
        got = self.ask(move["web"], "GET", f"/v1/models/{move['model']}", model=move["model"])
        job = got.answer.get("job") if got.status == 200 else None
        if job:
            self.ask(move["web"], "DELETE", job, model=move["model"], cancels=job)
