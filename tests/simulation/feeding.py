"""How clients send observations: until they are acknowledged or refused for good, as far as that is safe."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ledger import LABELS, Ledger, kind_of
from parts import Exchange, Fleet, GaveUp, Lost, Pieces
from scheduler import Process, World
from truth import PLACES

UNKNOWN = "urn:freshet:problem:outcome-unknown"
PAUSE = 0.15  # seconds until a request is sent again
TRIES = 60


@dataclass
class Feeding:
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
            elif exchange.status == 404:
                fate.gone += 1
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
                    elif exchange.status == 404:
                        fate.gone += 1
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
