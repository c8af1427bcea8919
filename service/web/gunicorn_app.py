"""gunicorn as Freshet runs it."""

import os
import signal
import sys
from pathlib import Path

from gunicorn.app.wsgiapp import WSGIApplication

CONFIGURATION = Path(__file__).parent / "gunicorn_conf.py"


class Gunicorn(WSGIApplication):  # type: ignore[misc]
    """gunicorn without the current folder in the import path, where a user may have a `model.py` of their own."""

    def chdir(self) -> None:
        """Change to the configured folder, without importing from it."""
        os.chdir(self.cfg.chdir)


CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def run(options: list[str]) -> None:
    """Run gunicorn with these options until it is stopped. Raises SystemExit."""
    # Until a worker has handlers of its own it has its master's, which would swallow a signal to stop.
    os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals, after_in_child=_end_by_signals)
    sys.argv[1:] = ["-c", str(CONFIGURATION), *options]  # gunicorn reads them, at each reload
    Gunicorn("%(prog)s [OPTIONS]", prog="gunicorn").run()


def _hold_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)


def _let_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, CAUGHT)


def _end_by_signals() -> None:
    for number in CAUGHT:
        signal.signal(number, signal.SIG_DFL)
    _let_signals()
