"""Jobs: ``wait``, ``jobs``, ``retry``, ``cancel``, ``pause`` and ``resume``."""

import contextlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any

import typer

from lorad.apps.cli.context import connect, connect_or_read, show
from lorad.apps.cli.drops import put_back
from lorad.apps.cli.job_wait import wait_for
from lorad.apps.cli.options import Interval, Json
from lorad.apps.screens import state_text, tables, terminal
from lorad.errors import ConfigError
from lorad.home import find_home
from lorad.records import Job
from lorad.serving.answers import Event, Status
from lorad.serving.client import Client

app = typer.Typer()


LOOKED_BACK = 500
"""Events before the first look in which a file may have failed that was dropped with those to wait for."""


LONGEST_NUMBER = 19
"""Digits of a job's number; a file may have a name of more."""


Timeout = Annotated[float | None, typer.Option(min=0.0, metavar="S", help="Give up after so many seconds.")]


OneJob = Annotated[int | None, typer.Option(min=1, metavar="N", help="Wait for this job alone.")]


Force = Annotated[bool, typer.Option("--force", help="Promote it whatever the judge says.")]


Changes = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Change its plan, repeatable.")]


ResumedJob = Annotated[int | None, typer.Argument(metavar="[JOB]", help="Else sessions in general.")]


FromCheckpoint = Annotated[
    str | None, typer.Option("--from", metavar="CHECKPOINT", help="Like round-0003; later ones are removed.")
]


@app.command()
def wait(
    ctx: typer.Context,
    timeout: Timeout = None,
    job: OneJob = None,
    interval: Interval = 0.5,
    as_json: Json = False,
) -> None:
    """Wait until all is learned; status 0 if it was promoted."""
    client = connect(ctx)
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    with _progress(interval) as rest:
        ends = wait_for(
            _looking_back(client),
            job=None if job is None else lambda: client.job(job),
            is_late=lambda: time.monotonic() >= deadline,
            rest=rest,
        )
    has_succeeded = all(end.is_good for end in ends)
    if as_json:
        terminal.write_json({"ok": has_succeeded, "ended": [end.record for end in ends]})
    for end in [] if as_json else ends:
        terminal.say(_told(end.record), err=not end.is_good)
    raise typer.Exit(0 if has_succeeded else 1)


def _told(ended: Job | Event) -> str:
    return state_text.job_result(ended) if isinstance(ended, Job) else state_text.event_line(ended)


def _looking_back(client: Client) -> Callable[[], Status]:
    """Return a way to take snapshots with all events since the last one: a snapshot's own are only the newest."""
    seen: int | None = None

    def look() -> Status:
        nonlocal seen
        snapshot = client.status()
        if seen is None:
            newest = max((event.id for event in snapshot.events), default=0)
            seen = max(0, newest - LOOKED_BACK)
        events = client.events(seen).events
        seen = max([seen, *(event.id for event in events)])
        return replace(snapshot, events=events)

    return look


@contextlib.contextmanager
def _progress(interval: float) -> Iterator[Callable[[Status], None]]:
    """Rest between two looks, with one line of standard error up to date while somebody watches."""
    is_watched = sys.stderr.isatty()

    def rest(snapshot: Status) -> None:
        if is_watched:
            line = state_text.progress(snapshot)[: shutil.get_terminal_size().columns - 1]
            terminal.redraw(line)
        time.sleep(interval)

    try:
        yield rest
    finally:
        if is_watched:
            terminal.redraw("")


@app.command()
def jobs(
    ctx: typer.Context,
    job: Annotated[int | None, typer.Argument(metavar="[JOB]", help="Show this one in full.")] = None,
    as_json: Json = False,
) -> None:
    """List the jobs, newest first, or show one: what its file held, what was bad, what it replaced."""
    if job is None:
        show(connect_or_read(ctx).jobs(), as_json, tables.jobs)
    else:
        show(connect_or_read(ctx).job(job), as_json, tables.job)


@app.command()
def retry(
    ctx: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="JOB|NAME", help="A job's number, or a file in inbox/failed.")
    ],
    force: Force = False,
    settings: Changes = None,
) -> None:
    """Queue a rejected, failed or cancelled job again, or put a failed file back into the inbox."""
    if not what.isdecimal() or len(what) > LONGEST_NUMBER:
        put_back(find_home(ctx.obj.home), what)
        return
    changed = dict(_setting(text) for text in settings or ())
    connect(ctx).retry(int(what), force=force, settings=changed)
    terminal.say(f"job {what} is queued again")


def _setting(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"--settings {text}: write it as key=value, for example --settings rank=16")
    with contextlib.suppress(ValueError, RecursionError):
        return key, json.loads(value)
    return key, value


@app.command()
def cancel(ctx: typer.Context, job: int) -> None:
    """Take a job out of the queue, or end its session."""
    connect(ctx).cancel(job)
    terminal.say(f"job {job} is cancelled; again: lorad retry {job}")


@app.command()
def pause(ctx: typer.Context) -> None:
    """Start no more sessions; questions are answered as before."""
    connect(ctx).pause()
    terminal.say("paused: no session starts until: lorad resume")


@app.command()
def resume(ctx: typer.Context, job: ResumedJob = None, checkpoint: FromCheckpoint = None) -> None:
    """Start sessions again after a pause; with JOB, let a failed job go on where it stood."""
    if job is None:
        if checkpoint is not None:
            raise ConfigError("--from needs a job: lorad resume JOB --from CHECKPOINT", code="no_job")
        connect(ctx).resume()
        terminal.say("learning again")
        return
    behind = connect(ctx).resume_job(job, checkpoint).checkpoint
    where = (
        f"go on behind {behind}, if what it learns is still the same"
        if behind
        else "begin anew: it has no complete checkpoint"
    )
    terminal.say(f"job {job} is queued, to {where}")
