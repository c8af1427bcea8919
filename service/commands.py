"""Commands in the log: what changes a model other than by an observation. Obeying one is deterministic."""

from collections.abc import Callable
from typing import Any

from model import OnlineModel
from service.errors import StoreError

COMMANDS: dict[str, Callable[[OnlineModel, dict[str, Any]], None]] = {}
"""What each command does, by its `do`."""


def obey(model: OnlineModel, command: dict[str, Any]) -> None:
    """Change the model as the command says. Raises StoreError for a command that this program does not know."""
    action = COMMANDS.get(command["do"])
    if action is None:
        raise StoreError(f"the log holds a command that this program does not know: {command['do']!r}")
    action(model, command)
