"""gunicorn's log lines, written as all others are."""

from typing import Any

from gunicorn.glogging import Logger

from service import logs
from service.settings import load_settings
from service.web.names import LOG_FIELDS

UNREADABLE = "Invalid request from"


class GunicornLogger(Logger):  # type: ignore[misc]
    """Passes gunicorn's own lines to the log of the process, and writes one line for each request if asked to."""

    def setup(self, cfg: Any) -> None:
        """Use the handlers that `logs.configure` has set up. gunicorn calls this at its start and at each reload."""
        super().setup(cfg)
        logs.configure(load_settings(), "web")
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
            logger.propagate = True

    def warning(self, msg: Any, *arguments: Any, **more: Any) -> None:
        """A warning. That of a request that cannot be read quotes what was sent, which may be a row or a key."""
        if isinstance(msg, str) and msg.startswith(UNREADABLE):
            msg = "a request that cannot be read"
        super().warning(msg, *arguments, **more)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """One line for a request that was answered: never its body, its query or a header."""
        if not self.access_log_enabled:
            return
        logs.log.info(
            "request",
            method=environ.get("REQUEST_METHOD"),
            path=environ.get("PATH_INFO"),
            status=int(str(resp.status).split(None, 1)[0]),
            bytes=getattr(resp, "sent", None),
            seconds=round(request_time.total_seconds(), 6),
            client=environ.get("REMOTE_ADDR"),
            **environ.get(LOG_FIELDS, {}),
        )
