"""gunicorn as Freshet runs it."""

import os
import sys
from pathlib import Path

from gunicorn.app.wsgiapp import WSGIApplication

CONFIGURATION = Path(__file__).parent / "gunicorn_conf.py"


class Gunicorn(WSGIApplication):  # type: ignore[misc]
    """gunicorn without the current folder in the import path, where a user may have a `model.py` of their own."""

    def chdir(self) -> None:
        """Change to the configured folder, without importing from it."""
        os.chdir(self.cfg.chdir)


def run(options: list[str]) -> None:
    """Run gunicorn with these options until it is stopped. Raises SystemExit."""
    sys.argv[1:] = ["-c", str(CONFIGURATION), *options]  # gunicorn reads them, at each reload
    Gunicorn("%(prog)s [OPTIONS]", prog="gunicorn").run()
