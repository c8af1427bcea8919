"""gunicorn as Freshet runs it: `python -P -m service.web.gunicorn_app -c CONFIGURATION`."""

import os

from gunicorn.app.wsgiapp import WSGIApplication


class Gunicorn(WSGIApplication):  # type: ignore[misc]
    """gunicorn without the current folder in the import path, where a user may have a `model.py` of their own."""

    def chdir(self) -> None:
        """Change to the configured folder, without importing from it."""
        os.chdir(self.cfg.chdir)


if __name__ == "__main__":
    Gunicorn("%(prog)s [OPTIONS]", prog="gunicorn").run()
