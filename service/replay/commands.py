"""Commands in the log: what changes a model other than by an observation. Obeying one is deterministic."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors

from model import OnlineModel
from service.errors import StoreError
from service.store import checkpoints
from service.store.blocks import Block
from service.store.connection import Link
from service.store.log import COMMANDS_AT_ONCE, Entry, LogId, read_after

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

    def observations(self, after: int, to: int) -> Iterator[Block]:
        """The blocks after one position up to and with another. Raises StoreError if the log lacks any of them."""
        for entry in entries_between(self.link, self.name, LogId(after, COMMANDS_AT_ONCE), to):
            if entry.command is None:
                if after + len(entry.block) != entry.log_id.position:
                    raise StoreError(f"the log lacks observations after {after}")
                after = entry.log_id.position
                yield entry.block
        if after != to:
            raise StoreError(f"the log lacks observations after {after}")


def entries_between(link: Link, name: str, after: LogId, to: int, count: int = 64) -> Iterator[Entry]:
    """The log's entries after a log id, up to and with those at the position `to`."""
    while entries := read_after(link, name, after, count):
        for entry in entries:
            if entry.log_id.position > to:
                return
            yield entry
        after = entries[-1].log_id


def obey(model: OnlineModel, entry: Entry, sources: Sources) -> OnlineModel:
    """Do what a command says. Returns the model to go on with: the same one changed, or after a rebuild another.

    Raises StoreError for a command that this program does not know, or if what it names is gone.
    """
    assert entry.command is not None
    action = COMMANDS.get(entry.command["do"])
    if action is None:
        raise StoreError(f"the log holds a command that this program does not know: {entry.command['do']!r}")
    return action(model, entry, entry.command, sources)


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


def _set_weights(model: OnlineModel, entry: Entry, command: dict[str, Any], sources: Sources) -> OnlineModel:
    """Take parameters as they were sent; they were checked then."""
    for name, values in load_tensors(sources.blob(entry)).items():
        np.copyto(model.parameters[name], values)
    return model


def _roll_back(model: OnlineModel, entry: Entry, command: dict[str, Any], sources: Sources) -> OnlineModel:
    """Go back to a checkpoint's weights."""
    return _succeeded(model, OnlineModel.from_bytes(sources.blob(entry)))


def _promote(model: OnlineModel, entry: Entry, command: dict[str, Any], sources: Sources) -> OnlineModel:
    """Take a retrained candidate, once it has learned what came between it and the command."""
    position = command["position"]
    candidate = OnlineModel.from_bytes(sources.blob(entry, position))
    for block in sources.observations(position, entry.log_id.position):
        candidate.learn(block.features, block.labels, block.weights)
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
