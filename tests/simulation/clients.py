"""What clients do, and what they were told."""

from random import Random
from typing import Any

from feeding import TRIES, Feeding
from ledger import spec_of
from parts import Exchange
from truth import PROBES


class Clients(Feeding):
    """All that clients do beside feeding: reading, commands, models and jobs."""

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
