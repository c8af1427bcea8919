"""How the service logs: structured lines to standard error, one for each event, from every library too."""

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TextIO, cast

import structlog

from service.settings import Settings, former_names

_process = ""
_context: Callable[[], dict[str, str]] = dict  # what a line tells of the request during which it is written
_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    lambda _logger, _method, event: {"process": _process, **_context(), **event},
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


class Lossy:
    """A stream that loses what cannot be written: nobody may read the log any more, and the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be written."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what can be handed on."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def configure(settings: Settings, process: str) -> None:
    """Set up logging for this process; every line names it."""
    global _process
    _process = process
    level = getattr(logging, settings.log_level.upper())
    finish: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if settings.log_format == "json"
        else [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=[*_SHARED, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, Lossy(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    _configure_libraries(level, finish)
    sys.excepthook = _log_crash
    threading.excepthook = _log_thread_crash
    for warning in former_names():
        log.warning("a setting has a former name", detail=warning)


def tell_context(context: Callable[[], dict[str, str]]) -> None:
    """Add to each line what `context` returns when it is written."""
    global _context
    _context = context


def _configure_libraries(level: int, finish: list[structlog.typing.Processor]) -> None:
    """Write what libraries log with Python's `logging` in the same form."""
    handler = logging.StreamHandler(cast(TextIO, Lossy(sys.stderr)))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.INFO))
    logging.captureWarnings(True)


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    log.critical("unhandled exception", exc_info=(kind, error, trace))


def _log_thread_crash(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_value is not None and not issubclass(crash.exc_type, SystemExit):
        thread = crash.thread.name if crash.thread else None
        trace = (crash.exc_type, crash.exc_value, crash.exc_traceback)
        log.critical("unhandled exception", thread=thread, exc_info=trace)


log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
