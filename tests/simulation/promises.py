"""The oracle: every promise, held against what the clients were told and what really stands in Redis."""

import json
from dataclasses import dataclass, field
from typing import Any

from ledger import Fate, Ledger
from parts import Exchange, Fleet
from scheduler import Process, World
from server import Server
from truth import PROBES, Book, Ordered, Truth

REMEMBERED = 60  # observations within which a key is known again, at the least


@dataclass
class Broken:
    """A promise that was broken."""

    promise: str
    what: str
    at: float = 0.0

    def __str__(self) -> str:
        return f"{self.promise}: {self.what}"


@dataclass
class Floor:
    """What a web process has told of a model's step."""

    step: int = 0
    at: float = 0.0
    by: str = ""


@dataclass
class Oracle:
    """Looks at each answer as it leaves, and at everything in the end."""

    world: World
    fleet: Fleet
    server: Server
    truth: Truth
    ledger: Ledger
    broken: list[Broken] = field(default_factory=list)
    _told: dict[tuple[str, bytes], Floor] = field(default_factory=dict)  # process, generation
    _told_by_any: dict[bytes, int] = field(default_factory=dict)  # generation -> highest step told
    _floors: dict[tuple[str, bytes], int] = field(
        default_factory=dict
    )  # what a process found when it started
    _history: dict[tuple[str, bytes], list[tuple[float, int]]] = field(default_factory=dict)
    made: dict[str, list[tuple[float, str]]] = field(default_factory=dict)  # model -> (when told, generation)

    def tell(self, promise: str, what: str) -> None:
        """A promise is broken."""
        self.broken.append(Broken(promise, what, self.world.since_start))
        self.world.trace.add(self.world.now, "oracle", f"{promise}: {what}")

    # -- while it runs -------------------------------------------------------------------------------------------

    def started(self, process: Process) -> None:
        """A process starts: it may tell no earlier step than anybody was told before."""
        if process.kind == "web":
            for generation, step in self._told_by_any.items():
                self._floors[str(process), generation] = step

    def finished(self, exchange: Exchange) -> None:
        """An answer leaves its process."""
        if exchange.status == 500:
            self.tell("no answer is 500", str(exchange))
        name = exchange.facts.get("model")
        answer = exchange.answer
        if not name or not isinstance(answer, dict) or exchange.status >= 300:
            return
        if answer.get("model", name) != name:
            self.tell("no answer is another model's", str(exchange))
        book = self._book(exchange, name)
        if book is None:
            return
        step = answer.get("step")
        if step is not None and not answer.get("repeated"):  # the first answer again, as it was
            self._check_step(exchange, book, step)
        if "results" in answer:
            self._check_results(exchange, book)
        if exchange.facts.get("probes"):
            self._check_probes(exchange, book)
        if exchange.facts.get("least") is not None and step < exchange.facts["least"]:
            self.tell("min_step holds", str(exchange))
        if answer.get("applied") and not exchange.facts.get("stream"):
            self._check_applied(exchange, book)

    def _calm(self, exchange: Exchange) -> bool:
        """Whether Redis has not come back older, so that all steps belong to one history."""
        return not self.truth.older_at

    def _book(self, exchange: Exchange, name: str) -> Book | None:
        """The model that answered; None if the name changed hands meanwhile."""
        told = exchange.answer.get("generation")
        if told is not None:
            return self.truth.books.get((name, told.encode()))
        books = [book for (known, _), book in self.truth.books.items() if known == name]
        return books[0] if len(books) == 1 else None

    def _check_step(self, exchange: Exchange, book: Book, step: int) -> None:
        process, begun = exchange.process, exchange.begun_at or 0.0
        assert process is not None
        if not self.truth.older_at or begun > self.truth.older_at[-1]:
            book.told_by[process] = max(book.told_by.get(process, 0), step)
        if not self._calm(exchange):
            return
        place = (str(process), book.generation)
        history = self._history.setdefault(place, [])
        before = max((told for at, told in history if at < begun), default=0)
        if step < before:
            what = f"{process} answered {step} after {before}: {exchange}"
            self.tell("step never goes back", what)
        floor = self._floors.get(place, 0)
        if step < floor:
            what = f"{process} answered {step}, but {floor} was told before it started: {exchange}"
            self.tell("step never goes back on a restart", what)
        history.append((self.world.now, step))
        known = self._told_by_any.get(book.generation, 0)
        self._told_by_any[book.generation] = max(known, step)
        if step > book.head.position and not book.restored:
            self.tell("step is a position of the log", f"{step} of {book.head}: {exchange}")

    def _check_results(self, exchange: Exchange, book: Book) -> None:
        if self.truth.older_at and (exchange.begun_at or 0.0) <= self.truth.older_at[-1]:
            return  # it may tell of what Redis has lost since
        for result in exchange.answer.get("results") or []:
            if "prediction" not in result or result.get("duplicate"):
                continue
            position = result["position"]
            if book.broken or position not in book.told:
                continue
            expected = json.loads(json.dumps(book.told[position]))
            if result["prediction"] != expected:
                what = f"{result['prediction']} is told for {position}, {expected} was predicted: {exchange}"
                self.tell("no answer is another's", what)

    def _check_probes(self, exchange: Exchange, book: Book) -> None:
        if book.broken or book.restored or not self._calm(exchange):
            return
        step, told = exchange.answer["step"], exchange.answer["predictions"]
        expected = json.loads(json.dumps(book.probes.get(step, [])))
        if told not in expected:
            what = f"at step {step} {told} is served, not {expected}: {exchange}"
            self.tell("a prediction is the model's at its step", what)

    def _check_applied(self, exchange: Exchange, book: Book) -> None:
        position = exchange.answer.get("position")
        if position is None or exchange.facts.get("repeats"):
            return
        recently = self.truth.older_at and (exchange.begun_at or 0) <= self.truth.older_at[-1]
        if recently or book.lost:
            return
        if position > book.applied:
            what = f"no learner has applied {position} (but {book.applied}): {exchange}"
            self.tell("applied is applied", what)

    # -- at the end ------------------------------------------------------------------------------------------------

    def judge(self, final: dict[str, dict[str, Exchange]], listed: dict[str, Exchange]) -> None:
        """Hold all promises against what is there at the end.

        `final` are the answers of each web process for each model: its description, and `name:probes` for predictions.
        """
        for promise, what in self.truth.broken:
            self.tell(promise, what)
        for who, text in self.world.crashes:
            self.tell("no thread ends by an error", f"{who}: {text.strip().splitlines()[-1]}\n{text}")
        self._judge_observations()
        self._judge_models(final, listed)
        self._judge_promotions()
        self._judge_commands()
        self._judge_keys()

    def _judge_observations(self) -> None:
        for fate in self.ledger.fates.values():
            books = [book for (name, _), book in self.truth.books.items() if name == fate.model]
            others = [book for (name, _), book in self.truth.books.items() if name != fate.model]
            places = [position for book in books for position in book.where(fate.number)]
            if any(book.where(fate.number) for book in others):
                self.tell(
                    "an observation goes to its own model", f"observation {fate.number} of {fate.model}"
                )
            for book in books:
                if len(book.where(fate.number)) > 1:
                    what = f"observation {fate.number} of {fate.model} stands at {book.where(fate.number)}"
                    self.tell("an observation is applied once", what)
            if fate.sent and fate.refused + fate.gone == fate.sent and self._is_left(fate, books):
                what = f"observation {fate.number} of {fate.model} was refused and stands at {places}"
                self.tell("refused is never applied", what)
            if fate.acknowledged and not places and self._should_be_there(fate, books):
                exchange = fate.acknowledged[-1][2]
                what = f"observation {fate.number} of {fate.model} is not in the log: {exchange}"
                self.tell("acknowledged is applied", what)
            self._judge_position(fate, books)

    def _is_left(self, fate: Fate, books: list[Book]) -> bool:
        """Whether a log holds an observation; where a deletion was told, the log of the model that is there now.

        An older Redis brings back what was deleted since.
        """
        if fate.gone and self.truth.older_at:
            return False
        current = self.truth.book(fate.model)
        return any(book.where(fate.number) for book in books if book is current or not fate.gone)

    def _should_be_there(self, fate: Any, books: list[Book]) -> bool:
        """Whether nothing explains that an acknowledged observation is gone: no older Redis, no deletion."""
        sent_at = fate.acknowledged[-1][2].sent_at
        if self.truth.older_at and self.truth.older_at[-1] >= sent_at:
            return False
        return len(books) == 1 and not books[0].lost

    def _judge_position(self, fate: Any, books: list[Book]) -> None:
        if len(books) != 1 or books[0].restored:
            return
        for _, position, exchange in fate.acknowledged:
            places = books[0].where(fate.number)
            if position is not None and places and position not in places and exchange.answer.get("applied"):
                what = f"observation {fate.number} was told {position}, stands at {places}: {exchange}"
                self.tell("acknowledged tells its position", what)

    def _judge_models(self, final: dict[str, dict[str, Exchange]], listed: dict[str, Exchange]) -> None:
        from service.store import keys

        for web, answers in final.items():
            names = (
                {model["model"] for model in listed[web].answer["models"]}
                if listed[web].status == 200
                else set()
            )
            for name, exchange in answers.items():
                if name.endswith(":probes"):
                    continue
                generation = self.server.real("HGET", keys.meta(name), "generation")
                book = self.truth.books.get((name, generation)) if generation else None
                if book is None:
                    self._judge_absent(web, name, exchange, names)
                else:
                    self._judge_present(web, name, exchange, answers[f"{name}:probes"], names, book)

    def _judge_absent(self, web: str, name: str, exchange: Exchange, names: set[str]) -> None:
        if (exchange.status != 404 or name in names) and not self.truth.older_at:
            self.tell("what was deleted is gone", f"{web}: {exchange}, listed: {sorted(names)}")

    def _judge_present(
        self, web: str, name: str, exchange: Exchange, probes: Exchange, names: set[str], book: Book
    ) -> None:
        if exchange.status != 200 or name not in names:
            self.tell("what was created is served", f"{web}: {exchange}, listed: {sorted(names)}")
            return
        told = exchange.answer
        if told["generation"].encode() != book.generation:
            self.tell("what was created is served", f"{web} serves another generation: {exchange}")
            return
        if told["step"] != book.head.position:
            what = f"{web} serves {name} at {told['step']}, the log ends at {book.head}; trouble: {told['trouble']}"
            self.tell("every queue drains", what)
            return
        if told["trouble"]:
            self.tell("no trouble is left", f"{web}: {name}: {told['trouble']}")
        if not book.restored and not self.truth.older_at and told["timeline"] != 1:
            self.tell(
                "the timeline moves only when Redis came back older", f"{web}: {name}: {told['timeline']}"
            )
        for back in book.returns:
            noticed = [process for process in back.witnesses if process.alive]
            if self._was_to_go(name, self.truth.older_at[-1]):
                continue  # who had seen it has forgotten it
            if noticed and told["timeline"] <= back.timeline:
                what = (
                    f"{web}: {name} is in timeline {told['timeline']} as before, but {noticed} had seen more"
                )
                self.tell("the timeline moves when Redis came back older", what)
        if book.broken:
            self.tell("no command wedges a model", f"{name}: {book.broken}")
            return
        expected = json.loads(json.dumps(book.probes[book.head.position][-1]))
        if probes.status == 200 and probes.answer["predictions"] != expected:
            what = f"{web} serves {probes.answer['predictions']} for {name}, the log makes {expected}"
            self.tell("a model is what its log makes of it", what)
        self._judge_in_force(web, name, told, book)

    def _judge_promotions(self) -> None:
        """A job promotes once, not after its cancellation, and not over weights that were replaced meanwhile."""
        cancelled = {
            exchange.facts["cancels"].rpartition("/")[2]: exchange
            for exchange in reversed(self.ledger.exchanges)
            if exchange.facts.get("cancels") and exchange.status in (200, 202)
        }
        for book in self.truth.books.values():
            jobs = [ordered.command["job"] for ordered in book.commands if ordered.command["do"] == "promote"]
            if len(set(jobs)) < len(jobs):
                self.tell("a job promotes once", f"{book.name}: {jobs}")
            for number, ordered in enumerate(book.commands):
                if ordered.command["do"] != "promote":
                    continue
                exchange = cancelled.get(ordered.command["job"])
                if exchange is not None and (exchange.ended_at or 0) < ordered.at:
                    self.tell(
                        "a cancelled job is not promoted", f"{book.name}: {ordered.command}, {exchange}"
                    )
                for before in book.commands[:number]:
                    replaces = before.command["do"] in ("weights", "rollback", "promote")
                    if replaces and _is_after(before, ordered):
                        what = f"{book.name}: {before.log_id} {before.command}, then {ordered.command}"
                        self.tell("a promotion replaces no newer weights", what)

    def _judge_commands(self) -> None:
        """A command that was repeated with its key stands once."""
        for book in self.truth.books.values():
            first: dict[bytes, Any] = {}
            for ordered in book.commands:
                known = first.setdefault(ordered.token, ordered)
                if known is not ordered and ordered.log_id.position - known.log_id.position < REMEMBERED:
                    what = f"{book.name}: {ordered.command} stands at {known.log_id} and {ordered.log_id}"
                    self.tell("a command is carried out once", what)

    def _was_to_go(self, name: str, at: float) -> bool:
        """Whether a client had asked for a model's deletion before a moment."""
        asked = (e for e in self.ledger.exchanges if e.facts.get("deletes") and e.facts.get("model") == name)
        return any(exchange.sent_at <= at for exchange in asked)

    def _judge_in_force(self, web: str, name: str, told: dict[str, Any], book: Book) -> None:
        rate = (told.get("hyperparameters") or {}).get("learning_rate")
        if rate is not None and rate != book.reference.learning_rate:
            what = f"{web} tells learning rate {rate} of {name}, in force is {book.reference.learning_rate}"
            self.tell("what GET tells is in force", what)

    def judge_schedules(self, final: dict[str, dict[str, Exchange]]) -> None:
        """The schedule that GET tells is the one that was acknowledged last."""
        if self.truth.older_at:
            return
        for answers in final.values():
            for name, exchange in answers.items():
                if exchange.status != 200 or name.endswith(":probes"):
                    continue
                told = exchange.answer.get("retrain") or {}
                acknowledged, doubtful = self._schedules(name, exchange.answer["generation"])
                if acknowledged and not doubtful and told.get("after") not in acknowledged:
                    what = f"{name} has the schedule {told.get('after')}, not {sorted(acknowledged)}"
                    self.tell("what was acknowledged is in force", what)

    def _schedules(self, name: str, generation: str) -> tuple[set[int], bool]:
        """The values that the schedule of a model may have by what clients were told."""
        asked = [e for e in self.ledger.exchanges if e.facts.get("model") == name]
        if any(
            e.facts.get("creates") or e.facts.get("deletes") or e.facts.get("command") == "rebuild"
            for e in asked[1:]
        ):
            return set(), True
        asked = [e for e in asked if e.facts.get("command") == "schedule"]
        firsts = [e for e in asked if not e.facts.get("repeats")]
        if any(e.status not in (200, 202) for e in firsts) or not firsts:
            return set(), True
        # Those that no other one began after the end of.
        newest = max(e.begun_at or 0.0 for e in firsts)
        return {e.facts["after"] for e in firsts if (e.ended_at or 0.0) >= newest}, False

    def _judge_keys(self) -> None:
        """What was deleted has left nothing."""
        from service.store import keys

        for name in sorted({name for name, _ in self.truth.books}):
            if self.server.real("HGET", keys.meta(name), "generation") is None:
                left = sorted(self.server.real("KEYS", f"freshet:{{{name}}}:*"))
                if left:
                    self.tell("what was deleted is gone", f"{name} has left {left}")

    def verify(self) -> None:
        """Replay is equal."""
        from service.replay.verify import verify

        for (name, _), book in self.truth.books.items():
            if self.truth.book(name) is not book or book.broken:
                continue
            try:
                spans = verify(self.truth._link, name)
            except Exception as error:  # noqa: BLE001 - it is to tell of a state, whatever that is
                self.tell("replay is equal", f"{name}: {type(error).__name__}: {error}")
                continue
            for span in spans:
                if getattr(span, "difference", ""):
                    self.tell("replay is equal", f"{name}: {span}")


def _is_after(replacing: Ordered, promotion: Ordered) -> bool:
    """Whether weights were replaced after what a promoted candidate has read last."""
    if promotion.read is not None:
        return bool(replacing.log_id > promotion.read)
    return bool(replacing.log_id.position > promotion.command["position"])


def probes_body() -> dict[str, Any]:
    """The request for the probes' predictions."""
    return {"instances": PROBES}
