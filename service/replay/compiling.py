"""Compiling what learning needs, once for each installation."""

import time

from model import is_compiled, warm_up
from service.logs import log


def compile_loop() -> None:
    """Load the compiled loop that learns; compile it, and say so, if it is not there yet."""
    if is_compiled():
        warm_up()
        return
    log.info("compiling the learning loop: once for each installation, up to a minute")
    begun = time.monotonic()
    warm_up()
    log.info("compiled the learning loop", seconds=round(time.monotonic() - begun, 1))
