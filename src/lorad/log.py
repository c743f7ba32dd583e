"""Structured logging, configured once.

Event names are snake_case. Standard error only: under systemd and launchd that is the journal.
"""

import contextlib
import logging
import sys
import warnings
from typing import Any, TextIO, cast

import structlog

from lorad import printable
from lorad.config import LogSettings

get_logger = structlog.get_logger

#: Records of one place in a library that are written within so many seconds.
MOST_ALIKE, ALIKE_SECONDS = 10, 60.0


class Lasting:
    """A stream whose reader may go away, a closed terminal or pipe, without ending whoever writes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or lose it."""
        with contextlib.suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or lose it."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def configure(settings: LogSettings) -> None:
    """Set the process-wide log format and level. Global state department: only programs call this."""
    for_people = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    renderers = (
        [_as_text, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if for_people
        else [structlog.processors.JSONRenderer(serializer=printable.as_json)]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", Lasting(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    for noisy in ("httpx", "transformers", "apscheduler", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if logging.lastResort is not None:  # where libraries' warnings and uvicorn's errors go
        logging.lastResort.setFormatter(_Printable())
        logging.lastResort.filters[:] = [Seldom()]
    # one for each folder that comes and goes, and Python remembers each
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"watchdog\.")


def _as_text(_: object, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Let nothing that came from a file or a name steer the terminal that a log goes to."""
    trace = event.pop("exception", None)
    told: dict[str, Any] = printable.record(event)
    return told if trace is None else told | {"exception": printable.text(trace)}


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable.text(super().format(record))


class Seldom(logging.Filter):
    """Let a place in a library say only so much at a time: whoever drops files may make it repeat itself."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record is written."""
        place = record.name, record.lineno
        since, count = self._said.get(place, (record.created, 0))
        if record.created - since >= ALIKE_SECONDS:
            since, count = record.created, 0
        self._said[place] = since, count + 1
        return count < MOST_ALIKE
