"""A retraining job, from the log to the promote command."""

import json
import time
from dataclasses import dataclass
from typing import Any

from model import ModelSpec, OnlineModel, StateError
from service import failpoints
from service.errors import LogGap, StoreError
from service.jobs.retraining import LEAST_ROWS, Retraining, start_of
from service.logs import log
from service.replay.commands import REPLACING, apply_command
from service.replay.states import State
from service.settings import Settings
from service.store.connection import Link
from service.store.entries import Entry
from service.store.jobs import Attempt
from service.store.model_store import ModelStore
from service.trainer.heartbeat import JobHeartbeat, JobLost
from service.trainer.judging import Losses, Score, Verdict, validation_loss
from service.trainer.progress import Progress
from service.trainer.rows import Piece, Rows, base_before, read_pieces

BEHIND = 1000  # observations that a candidate may be behind the log's head when it is promoted
REDIS_TIMEOUT = 10.0  # seconds; candidates can be large


class JobFailed(StoreError):
    """The job cannot be done as asked."""


@dataclass(frozen=True)
class Plan:
    """Which observations: those after `start` are for training, those after `split` up to `head` for validation."""

    start: int
    split: int
    head: int
    base: State | None  # a state of the live model from before the validation rows

    @property
    def counts(self) -> dict[str, int]:
        return {"training": self.split - self.start, "validation": self.head - self.split}


class Run:
    """One attempt: `go` takes it through its stages."""

    def __init__(
        self,
        settings: Settings,
        link: Link,
        attempt: Attempt,
        heartbeat: JobHeartbeat,
        request: dict[str, Any],
    ) -> None:
        self.settings = settings
        self.link = link
        self.attempt = attempt
        self.heartbeat = heartbeat
        self.name = attempt.name
        self.request = request
        found = ModelStore(link, attempt.name).describe()
        if found is None:
            raise JobLost
        self.meta, _ = found
        self.store = ModelStore(link, attempt.name, self.meta.generation)
        self.asked = Retraining.model_validate_json(json.dumps(request["retrain"]))
        rebuilt = request.get("spec")
        self.rebuilt = None if rebuilt is None else ModelSpec.model_validate_json(json.dumps(rebuilt))

    def go(self) -> None:
        """Load, train, catch up, judge, promote. Raises JobLost, StoreError, ModelError."""
        plan, pieces = self._load()
        rows = Rows.of(pieces, plan.start, plan.split, plan.head)
        live = None if plan.base is None else self._live_at(plan, pieces)
        trained = self._train(live, rows)
        candidate = self._candidate(live, trained)
        verdict = self._judge(live, candidate, plan, pieces, rows)
        refusal = verdict.refusal(self.asked.promote)
        result = {"rows": plan.counts, **verdict.to_record(), "promoted": refusal is None, "why": refusal}
        log.info("judged a candidate", model=self.name, job=self.attempt.id, **result)
        if refusal is not None:
            self.attempt.finish(self.link, "succeeded", result)
        else:
            self._promote(candidate, pieces[-1].entry, result)

    def _enter(self, stage: str) -> None:
        self.heartbeat.tell(stage)
        failpoints.reach(f"job-{stage}")

    # -- loading ---------------------------------------------------------------------------------------------

    def _load(self) -> tuple[Plan, list[Piece]]:
        head = self.meta.head.position
        start = start_of(self.asked.window, self.store.log, head)
        self.heartbeat.pin = start
        self._enter("loading")
        training, _ = self.asked.counts(head - start)
        plan = self._with_base(start, start + training, head)
        first = start if plan.base is None else min(start, plan.base.log_id.position)
        self.heartbeat.pin = first
        self.heartbeat.tell()
        pieces = read_pieces(self.store, first, plan.split, head)
        # From here on only what comes after the window is needed of the log.
        self.heartbeat.pin = head
        return plan, pieces

    def _with_base(self, start: int, split: int, head: int) -> Plan:
        """The plan with the live model's newest state that has seen no validation row.

        If none is old enough, the oldest there is moves the split: fewer rows are left for validation.
        """
        base = base_before(self.store, self.meta.spec, split, head)
        if base is not None and base.log_id.position <= split:
            return Plan(start, split, head, base)
        if self.asked.promote != "if_better" and (self.asked.start == "scratch" or self.rebuilt is not None):
            return Plan(start, split, head, None)
        if base is None or head - base.log_id.position < min(LEAST_ROWS // 2, head - split):
            raise JobFailed(
                "no checkpoint from before the validation rows is left to compare with: take one "
                "(POST …/checkpoints) and come back, or ask for a smaller validation share"
            )
        return Plan(start, base.log_id.position, head, base)

    def _live_at(self, plan: Plan, pieces: list[Piece]) -> OnlineModel:
        """The live model as it was before it took the first validation row: replayed, bit for bit."""
        assert plan.base is not None
        model = plan.base.model()
        for piece in pieces:
            if piece.after < plan.base.log_id.position or piece.entry.log_id <= plan.base.log_id:
                continue
            if piece.position > plan.split or (piece.position == plan.split and piece.entry.command):
                break
            model = piece.apply(model, self.store)
        return model

    # -- training --------------------------------------------------------------------------------------------

    def _train(self, live: OnlineModel | None, rows: Rows) -> OnlineModel:
        model = self._start(live)
        progress = Progress(self.asked, self.heartbeat, model, rows)
        self.heartbeat.tell("training", epochs=self.asked.epochs, rows=len(rows.training), losses=[])
        X, y, weights = rows.training.features, rows.training.labels, rows.training.weights
        model.fit(
            X,
            y,
            weights=weights,
            epochs=self.asked.epochs,
            batch_size=self.asked.batch_size,
            seed=self.asked.seed,
            on_epoch=progress.on_epoch,
        )
        self.heartbeat.tell()
        return progress.best_model()

    def _start(self, live: OnlineModel | None) -> OnlineModel:
        spec = self.rebuilt or self._spec(live)
        if self.asked.optimizer is not None:
            spec = spec.with_optimizer(self.asked.optimizer)
        model = OnlineModel(spec)
        if self.rebuilt is None and live is not None:
            if self.asked.start == "current":
                model.adopt(live)
            if self.asked.optimizer is None:
                model.set_learning_rate(live.learning_rate)
                model.set_clip_norm(live.clip_norm)
        if self.asked.learning_rate is not None:
            model.set_learning_rate(self.asked.learning_rate)
        return model

    def _spec(self, live: OnlineModel | None) -> ModelSpec:
        return live.spec if live is not None else ModelSpec.model_validate_json(self.meta.current_spec)

    def _candidate(self, live: OnlineModel | None, trained: OnlineModel) -> OnlineModel:
        """The trained weights as the live model's successor, with its optimizer, settings and learning rate."""
        candidate = OnlineModel(self.rebuilt or self._spec(live))
        if live is not None:
            candidate.inherit(live)
            if self.rebuilt is None:
                candidate.set_learning_rate(live.learning_rate)
                candidate.set_clip_norm(live.clip_norm)
            candidate.continue_schedule(live)  # or else it would be judged, and go live, at another rate
        candidate.adopt(trained)
        if live is not None:
            candidate.take_window(live)
        return candidate

    # -- judging ---------------------------------------------------------------------------------------------

    def _judge(
        self,
        live: OnlineModel | None,
        candidate: OnlineModel,
        plan: Plan,
        pieces: list[Piece],
        rows: Rows,
    ) -> Verdict:
        """Let both learn the validation rows, each predicted first, and compare the losses of those predictions."""
        self._enter("judging")
        if live is not None and live.spec.output != candidate.spec.output:
            live = None  # probabilities and margins do not compare
        before = [None if model is None else validation_loss(model, rows) for model in (candidate, live)]
        ours, theirs = Score(candidate.spec, rows), Score(candidate.spec, rows)
        for piece in pieces:
            if piece.position < plan.split or (piece.position == plan.split and not piece.entry.command):
                continue
            if plan.base is not None and piece.entry.log_id <= plan.base.log_id:
                continue
            if piece.entry.command is not None:
                self._follow(candidate, piece.entry)
                live = live and apply_command(live, piece.entry, self.store)
                continue
            ours.add(piece.learn(candidate), piece.block)
            if live is not None:
                theirs.add(piece.learn(live), piece.block)
        return Verdict(Losses(before[0], ours.mean), None if live is None else Losses(before[1], theirs.mean))

    def _follow(self, candidate: OnlineModel, entry: Entry) -> None:
        """Carry out the commands that concern the candidate too: those that change settings, not weights."""
        assert entry.command is not None
        if entry.command["do"] == "set" and self.rebuilt is None:
            apply_command(candidate, entry, self.store)

    # -- promoting -------------------------------------------------------------------------------------------

    def _promote(self, candidate: OnlineModel, last: Entry, result: dict[str, Any]) -> None:
        """Catch up with the log's head and take the live model's place. Raises JobLost, JobFailed."""
        behind = min(BEHIND, max(1, candidate.spec.keep // 2))
        while True:
            self.heartbeat.tell("catching up")
            last = self._catch_up(candidate, last, behind)
            self._enter("saving")
            state = _sound(candidate)
            self._enter("promoting")
            outcome, log_id = self.attempt.promote(
                self.link,
                self.meta.generation,
                state,
                last,
                behind=behind,
                result=result,
                blobs=self.settings.checkpoints,
                more=self.command(),
            )
            if outcome == "appended":
                log.info("promoted", model=self.name, job=self.attempt.id, log_id=str(log_id))
                return
            if outcome == "cancelled":
                return
            if outcome == "late":
                raise JobLost
            if outcome == "gone":
                raise JobFailed(
                    "the log does not go on from where the candidate is: it was trimmed, or is older"
                )
            if outcome == "full":
                time.sleep(0.1)

    def skips(self, entry: Entry) -> bool:
        """Whether the candidate must not learn an entry."""
        return False

    def command(self) -> dict[str, Any]:
        """What the promote command says more."""
        return {}

    def _catch_up(self, candidate: OnlineModel, last: Entry, behind: int) -> Entry:
        """Learn what has come since, until no more than `behind` observations are missing."""
        try:
            for entry in self.store.log.follow(last.log_id):
                if entry.command is None:
                    if not self.skips(entry):
                        candidate.learn(entry.block.features, entry.block.labels, entry.block.weights)
                elif entry.command["do"] in REPLACING:
                    raise JobFailed("the weights were replaced meanwhile, by a rollback or an upload")
                else:
                    self._follow(candidate, entry)
                last = entry
                self.heartbeat.pin = last.log_id.position
        except LogGap as error:
            raise JobFailed("more observations came meanwhile than the log may keep for a job") from error
        return last


def _sound(candidate: OnlineModel) -> bytes:
    """The candidate's state. Raises JobFailed if a learner could not load it: the training has diverged."""
    state = candidate.to_bytes()
    try:
        OnlineModel.from_bytes(state)
    except StateError as error:
        raise JobFailed(f"the training has diverged: {error}; a smaller learning rate may help") from error
    return state
