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

EVENTS_BEFORE = 500
"""Events before the first snapshot: a file that was dropped together with the others may have failed by then."""

MAX_DIGITS = 19
"""Digits of a job's number; a longer one is the name of a file."""

Timeout = Annotated[float | None, typer.Option(min=0.0, metavar="S", help="Give up after this many seconds.")]
OneJob = Annotated[int | None, typer.Option(min=1, metavar="N", help="Wait for this job only.")]
Force = Annotated[bool, typer.Option("--force", help="Promote it whatever the judge decides.")]
Changes = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Change its plan; repeatable.")]
OneJobArgument = Annotated[
    int, typer.Argument(metavar="JOB", help="The number of the job.", show_default=False)
]
ResumedJob = Annotated[
    int | None, typer.Argument(metavar="[JOB]", help="The number of a failed job; default: all sessions.")
]
FromCheckpoint = Annotated[
    str | None,
    typer.Option("--from", metavar="CHECKPOINT", help="For example round-0003; later ones are removed."),
]


@app.command()
def wait(
    ctx: typer.Context,
    timeout: Timeout = None,
    job: OneJob = None,
    interval: Interval = 0.5,
    as_json: Json = False,
) -> None:
    """Wait until nothing is left to learn; exit code 0 if everything was promoted."""
    client = connect(ctx)
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    with _progress(interval) as rest:
        ends = wait_for(
            _snapshots_with_events(client),
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


def _snapshots_with_events(client: Client) -> Callable[[], Status]:
    """Return a function that takes snapshots with all events since the last one; the daemon's own have only the newest."""
    seen: int | None = None

    def take() -> Status:
        nonlocal seen
        snapshot = client.status()
        if seen is None:
            newest = max((event.id for event in snapshot.events), default=0)
            seen = max(0, newest - EVENTS_BEFORE)
        events = client.events(seen).events
        seen = max([seen, *(event.id for event in events)])
        return replace(snapshot, events=events)

    return take


@contextlib.contextmanager
def _progress(interval: float) -> Iterator[Callable[[Status], None]]:
    """Return a pause between two snapshots, which updates one line of standard error on a terminal."""
    is_terminal = sys.stderr.isatty()

    def rest(snapshot: Status) -> None:
        if is_terminal:
            line = state_text.progress(snapshot)[: shutil.get_terminal_size().columns - 1]
            terminal.redraw(line)
        time.sleep(interval)

    try:
        yield rest
    finally:
        if is_terminal:
            terminal.redraw("")


@app.command()
def jobs(
    ctx: typer.Context,
    job: Annotated[
        int | None, typer.Argument(metavar="[JOB]", help="The number of the job to show in full.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the jobs, newest first, or show one job with its file."""
    if job is None:
        show(connect_or_read(ctx).jobs(), as_json, tables.jobs)
    else:
        show(connect_or_read(ctx).job(job), as_json, tables.job)


@app.command()
def retry(
    ctx: typer.Context,
    what: Annotated[
        str, typer.Argument(metavar="JOB|NAME", help="The number of a job, or the name of a failed file.")
    ],
    force: Force = False,
    settings: Changes = None,
) -> None:
    """Queue a rejected, failed or cancelled job again, or move a failed file back into the inbox."""
    if not what.isdecimal() or len(what) > MAX_DIGITS:
        put_back(find_home(ctx.obj.home), what)
        return
    changed = dict(_setting(text) for text in settings or ())
    connect(ctx).retry(int(what), force=force, settings=changed)
    terminal.say(f"job {what} is queued again")


def _setting(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"--settings {text}: use the form key=value, for example --settings rank=16")
    with contextlib.suppress(ValueError, RecursionError):
        return key, json.loads(value)
    return key, value


@app.command()
def cancel(ctx: typer.Context, job: OneJobArgument) -> None:
    """Remove a job from the queue, or stop its session."""
    connect(ctx).cancel(job)
    terminal.say(f"job {job} is cancelled; queue it again with: lorad retry {job}")


@app.command()
def pause(ctx: typer.Context) -> None:
    """Stop starting sessions; questions are still answered."""
    connect(ctx).pause()
    terminal.say("paused; start sessions again with: lorad resume")


@app.command()
def resume(ctx: typer.Context, job: ResumedJob = None, checkpoint: FromCheckpoint = None) -> None:
    """Start sessions again after a pause; with JOB, continue a failed job from its checkpoint."""
    if job is None:
        if checkpoint is not None:
            raise ConfigError("--from needs a job: lorad resume JOB --from CHECKPOINT", code="no_job")
        connect(ctx).resume()
        terminal.say("resumed")
        return
    resumed = connect(ctx).resume_job(job, checkpoint).checkpoint
    where = (
        f"continues after {resumed} if its data and settings are unchanged"
        if resumed
        else "starts over: it has no complete checkpoint"
    )
    terminal.say(f"job {job} is queued and {where}")
