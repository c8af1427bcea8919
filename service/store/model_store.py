"""Everything that Redis holds of one model."""

from service.store import models
from service.store.awaiting import AwaitingPredictions
from service.store.checkpoints import Checkpoints
from service.store.connection import Link
from service.store.jobs import Jobs
from service.store.kept import KeptByKey
from service.store.leadership import Leadership
from service.store.log import Log
from service.store.models import Lead, Meta
from service.store.refusals import Refusals
from service.store.schedules import Schedules
from service.store.snapshots import Snapshots


class ModelStore:
    """What Redis holds of one model. Reads need no generation; a write to another generation is refused."""

    def __init__(self, link: Link, name: str, generation: bytes = b"") -> None:
        self.link = link
        self.name = name
        self.generation = generation
        self.log = Log(link, name, generation)
        self.snapshots = Snapshots(link, name, generation)
        self.checkpoints = Checkpoints(link, name, generation)
        self.refusals = Refusals(link, name, generation)
        self.leadership = Leadership(link, name, generation)
        self.kept = KeptByKey(link, name, generation)
        self.awaiting = AwaitingPredictions(link, name, generation)
        self.jobs = Jobs(link, name, generation)
        self.schedule = Schedules(link, name, generation)

    def over(self, link: Link) -> "ModelStore":
        """The same model over another connection."""
        return ModelStore(link, self.name, self.generation)

    def describe(self) -> tuple[Meta, Lead] | None:
        """The model of this name, of whatever generation, and its lead; None if there is none."""
        return models.describe(self.link, [self.name])[self.name]

    def was_deleted(self) -> bool:
        """Whether this generation, which is gone, was deleted; if not, Redis has lost it."""
        return models.was_deleted(self.link, self.generation)


class OfModel:
    """What belongs to one model, known by its store."""

    __slots__ = ()
    store: ModelStore

    @property
    def name(self) -> str:
        """The model's name."""
        return self.store.name

    @property
    def generation(self) -> bytes:
        """The model's generation."""
        return self.store.generation
