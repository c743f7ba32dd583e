"""Work that has a time of day: APScheduler, in the zone of this place."""

import contextlib
from collections.abc import Callable
from datetime import datetime

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from lorad.log import get_logger

log = get_logger()

GRACE_SECONDS = 3600
"""Work that could not begin at its time still begins within this."""


def scheduler() -> BackgroundScheduler:
    """Return a scheduler that knows when the clocks of this place change; else one by today's offset."""
    here = datetime.now().astimezone()
    with contextlib.suppress(LookupError, ValueError, OSError, Warning):  # TZ may name no zone
        found = BackgroundScheduler()
        if here.astimezone(found.timezone).utcoffset() == here.utcoffset():
            return found
    told = "the system does not name its time zone; nightly work is one hour off after a clock change, until a restart"
    log.info("no_time_zone", why=told)
    return BackgroundScheduler(timezone=here.tzinfo)


def every_day(chosen: BackgroundScheduler, at: str | None, act: Callable[[], object]) -> None:
    """Do something every day at this time (``03:00``); never, where there is none."""
    if not at:
        return
    hour, _, minute = at.partition(":")
    trigger = CronTrigger(hour=hour, minute=minute, timezone=chosen.timezone)
    chosen.add_job(act, trigger, coalesce=True, misfire_grace_time=GRACE_SECONDS)


def every(chosen: BackgroundScheduler, seconds: float, act: Callable[[], object]) -> None:
    """Do something again and again."""
    chosen.add_job(act, "interval", seconds=seconds, max_instances=1, coalesce=True)
