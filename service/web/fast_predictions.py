"""Loading the compiled code that predictions of a few rows run through; until then they take the slower way."""

import time
from functools import partial

from model import load_predictions
from service.logs import log
from service.web import loop

LOOK_AGAIN = 5.0  # seconds, while another process compiles it


def start() -> None:
    """Load it beside the loop, as soon as it is compiled. This process compiles nothing."""
    if loop.is_running():
        loop.spawn(_load)


def _load() -> None:
    while not loop.run(partial(load_predictions, compile_now=False), pool="compiler"):
        time.sleep(LOOK_AGAIN)
    log.debug("predictions of a few rows are compiled")
