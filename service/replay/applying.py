"""What an entry of the log does to a model."""

from model import OnlineModel
from service.replay.commands import apply_command
from service.store.entries import Entry
from service.store.model_store import ModelStore


def apply_entry(model: OnlineModel, entry: Entry, store: ModelStore) -> OnlineModel:
    """Let a model learn a block or carry out a command. Returns the model to go on with. Raises StoreError."""
    if entry.command is not None:
        return apply_command(model, entry, store)
    block = entry.block
    model.learn(block.features, block.labels, block.weights, block.served)
    return model
