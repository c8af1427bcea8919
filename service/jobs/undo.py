"""What an undo is asked to do: rebuild a model without what one API key has taught it."""

from typing import Annotated

from pydantic import Field

from service.access import NAME
from service.jobs.retraining import Time
from service.schemas import Strict
from service.store.entries import Entry


class Undo(Strict):
    """Whose observations are to be undone, and since when (seconds since the epoch, or ISO 8601)."""

    key: Annotated[str, Field(pattern=NAME)]
    since: Time = 0.0

    def covers(self, entry: Entry) -> bool:
        """Whether an entry of the log is to be undone."""
        return entry.command is None and entry.by == self.key and entry.time >= self.since
