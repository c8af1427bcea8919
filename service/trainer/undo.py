"""Undoing what one API key has taught: the log replayed without it, from the newest state before it."""

from typing import Any

from model import OnlineModel
from service.jobs.undo import Undo
from service.replay.commands import apply_command
from service.store.entries import LAST_COMMAND, Entry, LogId
from service.trainer.job import JobFailed, Run
from service.trainer.rows import base_before

FOLLOWED = {"set", "weights"}
"""Commands that are carried out again. What a promotion or rollback brought in may hold what is to be undone."""


class UndoRun(Run):
    """One attempt at an undo."""

    def go(self) -> None:
        """Find the first row that is to be undone, replay the log without such rows, take the live model's place."""
        undo = Undo.model_validate(self.request["undo"])
        self._enter("loading")
        head = self.meta.head.position
        start = self.store.log.oldest(head)
        self.heartbeat.pin = start
        first = self._first(undo, start, head)
        base = base_before(self.store, self.meta.spec, first, head)
        if base is None or base.log_id.position > first:
            raise JobFailed(f"no state of the model from before position {first + 1} is left to go back to")
        self.heartbeat.pin = base.log_id.position
        self._enter("training")
        candidate, last, counts = self._replay(undo, base.model(), base.log_id, LogId(head, LAST_COMMAND))
        result = {"rows": counts, "undone_from": first + 1, "promoted": True, "why": None}
        self._promote(candidate, last, result)

    def _first(self, undo: Undo, start: int, head: int) -> int:
        """The position before the first row that is to be undone. Raises JobFailed if there is none."""
        for entry in self.store.log.follow(LogId(start, 0), LogId(head, 0)):
            if undo.covers(entry):
                return entry.log_id.position - len(entry.block)
        raise JobFailed(f"the log holds no observation of the key {undo.key!r} from then on")

    def _replay(
        self, undo: Undo, model: OnlineModel, after: LogId, to: LogId
    ) -> tuple[OnlineModel, Entry, dict[str, int]]:
        """The model after the log without what is to be undone, the last entry, and how many rows were which."""
        counts = {"undone": 0, "learned": 0}
        entry: Entry | None = None
        for entry in self.store.log.follow(after, to):
            if entry.command is not None:
                model = self._apply(model, entry)
            elif undo.covers(entry):
                counts["undone"] += len(entry.block)
            else:
                model.learn(entry.block.features, entry.block.labels, entry.block.weights)
                counts["learned"] += len(entry.block)
        assert entry is not None  # there is a row to be undone
        return model, entry, counts

    def _apply(self, model: OnlineModel, entry: Entry) -> OnlineModel:
        assert entry.command is not None
        return apply_command(model, entry, self.store) if entry.command["do"] in FOLLOWED else model

    def skips(self, entry: Entry) -> bool:
        """Whether the candidate must not learn an entry."""
        return Undo.model_validate(self.request["undo"]).covers(entry)

    def command(self) -> dict[str, Any]:
        """What the promote command says more: the learner leaves the same rows out of what came since."""
        return {"without": self.request["undo"]}
