"""Commands in the log: what changes a model other than by an observation. Obeying one is deterministic."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors

from model import ModelError, OnlineModel
from service.errors import BlobGone, CommandRefused, LogGap, StoreError
from service.jobs.undo import Undo
from service.store import checkpoints, refusals
from service.store.connection import Link
from service.store.log import LAST_COMMAND, Entry, LogId, read_after

REPLACING = {"rollback", "promote", "weights"}
"""Commands that replace the weights: a checkpoint is made before each."""


@dataclass(frozen=True)
class Sources:
    """Where a command finds what it names: the blobs and the log of one model."""

    link: Link
    name: str

    def blob(self, entry: Entry, position: int | None = None) -> bytes:
        """The bytes that a command names, which stand at `position`, else at its own. Raises StoreError."""
        place = entry.log_id.position if position is None else position
        return checkpoints.command_blob(self.link, self.name, entry.log_id, place)

    def has_refused(self, entry: Entry) -> bool:
        """Whether the learner has refused a command."""
        return refusals.at(self.link, self.name, entry.log_id, entry.token) is not None

    def observations(self, after: int, to: int) -> Iterator[Entry]:
        """The entries of observations after one position up to and with another. Raises LogGap if any is gone."""
        for entry in entries_between(self.link, self.name, LogId(after, LAST_COMMAND), to):
            if entry.command is None:
                if after + len(entry.block) != entry.log_id.position:
                    raise LogGap(f"the log lacks observations after {after}")
                after = entry.log_id.position
                yield entry
        if after != to:
            raise LogGap(f"the log lacks observations after {after}")


def entries_between(link: Link, name: str, after: LogId, to: int, count: int = 64) -> Iterator[Entry]:
    """The log's entries after a log id, up to and with those at the position `to`."""
    while entries := read_after(link, name, after, count):
        for entry in entries:
            if entry.log_id.position > to:
                return
            yield entry
        after = entries[-1].log_id


def apply_command(model: OnlineModel, entry: Entry, sources: Sources) -> OnlineModel:
    """Do what a command says. Returns the model to go on with: the same one changed, or after a rebuild another.

    A command whose refusal is recorded changes nothing. Raises CommandRefused, with the model unchanged, if this one
    cannot be carried out; StoreError for a command that this program does not know.
    """
    assert entry.command is not None
    action = COMMANDS.get(entry.command["do"])
    if action is None:
        raise StoreError(f"the log holds a command that this program does not know: {entry.command['do']!r}")
    if entry.command["do"] in REPLACING and sources.has_refused(entry):
        return model
    try:
        return action(model, entry, entry.command, sources)
    except (ModelError, ValueError, LogGap, BlobGone) as error:
        raise CommandRefused(f"the command {entry.log_id} cannot be carried out: {error}") from error


def _keep(model: OnlineModel, entry: Entry, command: dict[str, Any], sources: Sources) -> OnlineModel:
    """A checkpoint: it changes nothing."""
    return model


def _set_hyperparameters(
    model: OnlineModel, entry: Entry, command: dict[str, Any], sources: Sources
) -> OnlineModel:
    """Change the learning rate, the clip norm or both."""
    if "learning_rate" in command:
        model.set_learning_rate(command["learning_rate"])
    if "clip_norm" in command:
        model.set_clip_norm(command["clip_norm"])
    return model


def hyperparameters(model: OnlineModel) -> dict[str, Any]:
    """The hyperparameters in force of those that can be changed live."""
    return {"learning_rate": model.learning_rate, "clip_norm": model.clip_norm}


def _set_weights(model: OnlineModel, entry: Entry, command: dict[str, Any], sources: Sources) -> OnlineModel:
    """Take parameters as they were sent. They were checked then, against what the model was then."""
    if command.get("version", 1) > 1:
        model.set_weights(sources.blob(entry))
        return model
    tensors = load_tensors(sources.blob(entry))
    shapes = {name: values.shape for name, values in model.parameters.items()}
    if {name: values.shape for name, values in tensors.items()} != shapes:
        raise ValueError("the weights do not fit the model's layers")
    for name, values in tensors.items():  # version 0.1 kept the optimizer's slots
        np.copyto(model.parameters[name], values)
    return model


def _roll_back(model: OnlineModel, entry: Entry, command: dict[str, Any], sources: Sources) -> OnlineModel:
    """Go back to a checkpoint's weights."""
    return _succeeded(model, OnlineModel.from_bytes(sources.blob(entry)))


def _promote(model: OnlineModel, entry: Entry, command: dict[str, Any], sources: Sources) -> OnlineModel:
    """Take a retrained candidate, once it has learned what came between it and the command."""
    position = command["position"]
    candidate = OnlineModel.from_bytes(sources.blob(entry, position))
    without = Undo.model_validate(command["without"]) if "without" in command else None
    for since in sources.observations(position, entry.log_id.position):
        if without is None or not without.covers(since):
            candidate.learn(since.block.features, since.block.labels, since.block.weights)
    return _succeeded(model, candidate)


def _succeeded(model: OnlineModel, successor: OnlineModel) -> OnlineModel:
    """The model with its successor's weights. Metrics and step stay; a successor of another spec brings that along."""
    if successor.spec == model.spec:
        model.adopt(successor)
        return model
    successor.inherit(model)
    return successor


COMMANDS: dict[str, Callable[[OnlineModel, Entry, dict[str, Any], Sources], OnlineModel]] = {
    "checkpoint": _keep,
    "set": _set_hyperparameters,
    "weights": _set_weights,
    "rollback": _roll_back,
    "promote": _promote,
}
"""What each command does, by its `do`."""
