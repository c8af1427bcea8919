"""Commands in the log: what changes a model other than an observation. Carrying one out is deterministic."""

from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors

from model import ModelError, OnlineModel
from service.errors import BlobGone, CommandRefused, LogGap, StoreError
from service.jobs.undo import Undo
from service.store.entries import LAST_COMMAND, Entry, LogId
from service.store.model_store import ModelStore

REPLACING = {"rollback", "promote", "weights"}
"""Commands that replace the weights: a checkpoint is made before each."""


def apply_command(model: OnlineModel, entry: Entry, store: ModelStore) -> OnlineModel:
    """Carry out a command. Returns the model to go on with: the same one changed, or after a rebuild another.

    A command whose refusal is recorded changes nothing. Raises CommandRefused, with the model unchanged, if this one
    cannot be carried out; StoreError for a command that this program does not know.
    """
    assert entry.command is not None
    action = COMMANDS.get(entry.command["do"])
    if action is None:
        raise StoreError(f"the log holds a command that this program does not know: {entry.command['do']!r}")
    if entry.command["do"] in REPLACING and store.refusals.at(entry.log_id, entry.token):
        return model
    try:
        return action(model, entry, entry.command, store)
    except (ModelError, ValueError, LogGap, BlobGone) as error:
        raise CommandRefused(f"the command {entry.log_id} cannot be carried out: {error}") from error


def _keep(model: OnlineModel, entry: Entry, command: dict[str, Any], store: ModelStore) -> OnlineModel:
    """A checkpoint: it changes nothing."""
    return model


def _set_hyperparameters(
    model: OnlineModel, entry: Entry, command: dict[str, Any], store: ModelStore
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


def _set_weights(model: OnlineModel, entry: Entry, command: dict[str, Any], store: ModelStore) -> OnlineModel:
    """Take parameters as they were sent. They were checked then, against what the model was then."""
    if command.get("version", 1) > 1:
        model.set_weights(store.checkpoints.blob(entry.log_id))
        return model
    tensors = load_tensors(store.checkpoints.blob(entry.log_id))
    shapes = {name: values.shape for name, values in model.parameters.items()}
    if {name: values.shape for name, values in tensors.items()} != shapes:
        raise ValueError("the weights do not fit the model's layers")
    for name, values in tensors.items():  # version 0.1 kept the optimizer's slots
        np.copyto(model.parameters[name], values)
    return model


def _roll_back(model: OnlineModel, entry: Entry, command: dict[str, Any], store: ModelStore) -> OnlineModel:
    """Go back to a checkpoint's weights."""
    return _succeeded(model, OnlineModel.from_bytes(store.checkpoints.blob(entry.log_id)))


def _promote(model: OnlineModel, entry: Entry, command: dict[str, Any], store: ModelStore) -> OnlineModel:
    """Take a retrained candidate, once it has learned what came between it and the command."""
    position = command["position"]
    candidate = OnlineModel.from_bytes(store.checkpoints.blob(entry.log_id, position))
    without = Undo.model_validate(command["without"]) if "without" in command else None
    for later in store.log.follow(LogId(position, LAST_COMMAND), LogId(entry.log_id.position, 0)):
        if later.command is None and not (without is not None and without.covers(later)):
            candidate.learn(later.block.features, later.block.labels, later.block.weights)
    return _succeeded(model, candidate)


def _succeeded(model: OnlineModel, successor: OnlineModel) -> OnlineModel:
    """The model with its successor's weights. Metrics and step stay; a successor of another spec brings that along."""
    if successor.spec == model.spec:
        model.adopt(successor)
        return model
    successor.inherit(model)
    return successor


COMMANDS: dict[str, Callable[[OnlineModel, Entry, dict[str, Any], ModelStore], OnlineModel]] = {
    "checkpoint": _keep,
    "set": _set_hyperparameters,
    "weights": _set_weights,
    "rollback": _roll_back,
    "promote": _promote,
}
"""What each command does, by its `do`."""
