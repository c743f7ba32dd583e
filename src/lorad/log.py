"""A tool: structured logging, configured once.

Event names are snake_case; ``cycle`` and ``version`` are bound where a unit of work begins. Standard error
only: under systemd and launchd that is the journal.
"""

import logging
import sys

import structlog

from lorad.config import LogSettings

get_logger = structlog.get_logger


def configure(settings: LogSettings) -> None:
    """Set the process-wide log format and level. Global state department: only programs call this."""
    for_people = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    renderer = (
        structlog.dev.ConsoleRenderer()
        if for_people
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if for_people else [structlog.processors.format_exc_info]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    for noisy in ("httpx", "transformers", "apscheduler", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
