"""Compiling what learning needs, once a machine."""

import threading
import time

from model import warm_up
from service.logs import log

SHORT = 4.0  # seconds that loading the compiled loop takes at most


def compile_loop() -> None:
    """Compile the loop that learns, or load it from its cache. Says so if it takes long."""
    begun = time.monotonic()
    notice = threading.Timer(SHORT, _announce)
    notice.daemon = True
    notice.start()
    try:
        warm_up()
    finally:
        notice.cancel()
    seconds = time.monotonic() - begun
    if seconds > SHORT:
        log.info("compiled the learning loop", seconds=round(seconds, 1))


def _announce() -> None:
    log.info("compiling the learning loop: once for each installation, up to a minute; feedback waits for it")
