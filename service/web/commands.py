"""Commands to a model from a request: appended to its log, and waited for until the learner has carried them out."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from service.errors import Conflict, Invalid, StoreError, StoreUnavailable
from service.store.appending import NewSchedule
from service.store.entries import LogId
from service.web import problems
from service.web.context import Web
from service.web.idempotency import body_digest, key_of_request
from service.web.replicas.replica import ServedModel

LOOK = 0.01  # seconds between looks at whether it is done


@dataclass(frozen=True, slots=True)
class Ordered:
    """A command's log id, and whether the learner has carried it out."""

    log_id: LogId
    done: bool

    def to_response(self, served: ServedModel) -> dict[str, Any]:
        """The command in a response."""
        return {
            "model": served.name,
            "step": max(served.version.step, self.log_id.position if self.done else 0),
            "log_id": str(self.log_id),
            "done": self.done,
        }


def order(
    context: Web,
    served: ServedModel,
    command: dict[str, Any] | None,
    key: str | None,
    *,
    blob: bytes = b"",
    checkpoint: str = "",
    schedule: NewSchedule | None = None,
) -> Ordered:
    """Append a command, with its blob or a checkpoint's state, and wait for the learner, at most `apply_timeout`.

    `schedule` is set with it; without a command, that is all. `key` is the request's Idempotency-Key.

    Raises Problem, Conflict if the command was refused; StoreError.
    """
    token = key_of_request(key)
    try:
        log_id = served.store.log.append_command(
            token.encode(),
            command,
            _digest(command, blob, schedule),
            blob=blob,
            checkpoint=checkpoint,
            schedule=schedule,
            blobs=context.settings.checkpoints,
            max_lag_bytes=context.settings.max_lag_bytes,
        )
    except StoreError as error:
        problems.refuse(error, served, "nothing was changed", token)
    if log_id is None:
        raise Invalid.at("/checkpoint", f"there is no checkpoint {checkpoint!r}")
    done = command is None or _wait(context, served, log_id)
    if done and command is not None:
        _check_refusal(served, log_id, token.encode())
    return Ordered(log_id, done)


def _digest(command: dict[str, Any] | None, blob: bytes, schedule: NewSchedule | None) -> bytes:
    """The digest by which a repetition is recognised."""
    asked = json.dumps(command).encode() + blob
    return body_digest(asked if schedule is None else asked + schedule.text.encode())


def _check_refusal(served: ServedModel, log_id: LogId, token: bytes) -> None:
    """Raise Conflict if the learner could not carry out the command."""
    refusal = served.store.refusals.at(log_id, token)
    if refusal is not None:
        raise Conflict(f"{refusal.detail}; the model is as it was", log_id=str(log_id))


def _wait(context: Web, served: ServedModel, log_id: LogId) -> bool:
    """Wait until the command is in the snapshot and this process predicts with what it did. Raises NotFound."""
    deadline = time.monotonic() + context.settings.apply_timeout
    with context.waiting.turn():
        while time.monotonic() < deadline:
            served.check_exists()
            with suppress(StoreUnavailable):  # the command is in the log, whatever Redis does now
                kept = served.store.snapshots.log_id()
                if kept is not None and kept >= log_id and served.version.log_id >= log_id:
                    return True
            time.sleep(LOOK)
    return False
