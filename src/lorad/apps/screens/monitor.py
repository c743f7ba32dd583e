"""The monitor. A snapshot in, a picture of it out, and the loop that repeats this.

What lives here: the layout for a terminal of 80x24 and upward, and ``watch``. What never does: asking the
daemon (``fetch`` is handed in), clocks (ages are counted from the snapshot's ``now``), keys: Ctrl-C ends it.

Every panel has a fixed number of lines and every text one line, cut where it does not fit: a screen that
keeps its places can be read while it changes.
"""

from collections.abc import Callable, Iterable, Sequence

from rich.box import ROUNDED
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lorad import printable
from lorad.apps.screens.screen import Screen
from lorad.apps.screens.state_text import (
    NOTHING,
    clock,
    duration,
    ended_in,
    event_line,
    job_result,
    moment,
    paused_for,
    plural,
    queued,
    serving,
    share,
    size,
    state,
)
from lorad.errors import LoradError
from lorad.records import Job
from lorad.serving.answers import (
    Round,
    SessionProgress,
    Status,
    TrackStatus,
    VersionEntry,
    WaitingFile,
)
from lorad.states import JobState, VersionState

BLOCKS = "▁▂▃▄▅▆▇█"

HEADER_LINES = 2
SESSION_LINES = 8
LEAST_LINES = 5
"""A panel with fewer has room for less than three rows."""

STATE_STYLES = {
    "learning": "bold cyan",
    "paused": "bold yellow",
    "starting": "bold yellow",
    "idle": "bold green",
}
JOB_STYLES = {
    "training": "cyan",
    "judging": "cyan",
    "promoted": "green",
    "rejected": "red",
    "failed": "red",
    "cancelled": "yellow",
}


def watch(
    fetch: Callable[[], Status],
    *,
    console: Screen,
    sleep: Callable[[float], None],
    once: bool = False,
    interval: float = 1.0,
) -> None:
    """Show what ``fetch`` returns, again and again; a daemon that goes away is waited for."""
    if once:
        console.print(render(fetch(), width=console.width, height=console.height))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_look(fetch, console), refresh=True)
            sleep(interval)


def _look(fetch: Callable[[], Status], console: Screen) -> RenderableType:
    try:
        snapshot = fetch()
    except LoradError as error:
        return render_absence(error)
    return render(snapshot, width=console.width, height=console.height)


def render(snapshot: Status, *, width: int = 80, height: int = 24) -> RenderableType:
    """Return the whole screen for a snapshot."""
    snapshot = printable.record(snapshot)
    left = max(2 * LEAST_LINES, height - HEADER_LINES - SESSION_LINES)
    middle = max(LEAST_LINES, left // 2)
    session = _session(snapshot.session, width) if snapshot.session else _rest(snapshot)
    return Group(
        _header(snapshot),
        session,
        _beside(_queue(snapshot, middle), _versions(snapshot, middle)),
        _events(snapshot, left - middle),
    )


def render_absence(error: LoradError) -> RenderableType:
    """Return the screen for a daemon that does not answer."""
    lines = Group(Text("no answer, trying again", style="bold yellow"), Text(""), Text(error.message))
    return Panel(lines, title="lorad", title_align="left", box=ROUNDED, border_style="yellow")


def _header(snapshot: Status) -> RenderableType:
    engine, word = snapshot.engine, state(snapshot)
    speed = "" if engine.tokens_per_second is None else f" · {engine.tokens_per_second:.1f} tokens/s"
    asked = f"{plural(engine.requests, 'request')} · {engine.active} active · {engine.waiting} waiting{speed}"
    answering = " · ".join(
        f"{name} {serving(track)}{_held(engine.backend, track)}" for name, track in snapshot.tracks.items()
    )
    status = Text.assemble(("serving ", "dim"), (answering, "bold"), "  ", (word, STATE_STYLES[word]))
    if snapshot.paused and word != "paused":
        status.append(", then paused", style="yellow")
    up = Text(f"up {duration(snapshot.now - snapshot.started_at)} · pid {snapshot.pid}", style="dim")
    name = Text.assemble((f"lorad {snapshot.lorad}", "bold"), "  ", snapshot.home)
    return Group(_line(name, status), _line(up, Text(asked, style="dim")))


def _held(backend: str, track: TrackStatus) -> str:
    """Say what generates, and from which form of the version."""
    told = ", ".join(part for part in (backend, track.held_as) if part not in {"", "base"})
    return f" ({told})" if told else ""


def _line(left: Text, right: Text) -> Table:
    """Set two texts at the two ends of a line; the left one gives way."""
    line = Table.grid(expand=True, padding=(0, 1))
    line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    line.add_column(no_wrap=True, overflow="ellipsis", justify="right")
    line.add_row(left, right)
    return line


def _beside(left: RenderableType, right: RenderableType) -> Table:
    pair = Table.grid(expand=True)
    pair.add_column(ratio=1)
    pair.add_column(ratio=1)
    pair.add_row(left, right)
    return pair


def _panel(content: RenderableType, title: str, lines: int, *, note: str = "", style: str = "dim") -> Panel:
    heading = Text.assemble((title, "bold"), f" · {note}" if note else "")
    return Panel(
        content,
        title=heading,
        title_align="left",
        box=ROUNDED,
        height=lines,
        border_style=style,
        padding=(0, 1),
    )


# The session


def _session(session: SessionProgress, width: int) -> Panel:
    lines = Group(_bars(session), _facts(session), _histories(session.history, width))
    return _panel(
        lines,
        session.dataset,
        SESSION_LINES,
        note=" · ".join([f"job {session.job}", session.phase, *_paused(session)]),
        style="cyan",
    )


def _paused(session: SessionProgress) -> list[str]:
    return [paused_for(session)] if session.paused_seconds else []


def _bars(session: SessionProgress) -> Table:
    grid = Table.grid(expand=True, padding=(0, 1))
    for column in ({"width": 6, "style": "dim"}, {"ratio": 1}, {"width": 24, "no_wrap": True}):
        grid.add_column(**column)
    target = session.target or 1.0
    for name, recall in (("recall", session.recall), ("old", session.old_recall)):
        text = NOTHING if recall is None else f"{share(recall)}, target {share(target)}"
        grid.add_row(name, _bar(recall, target), text)
    grid.add_row("round", _bar(*_done(session)), _round(session))
    return grid


def _done(session: SessionProgress) -> tuple[float | None, float | None]:
    """Return how much is done, of how much: of the time if that is known, else of the steps that there are at most."""
    if session.eta_seconds is None or session.elapsed is None:
        return session.step, session.steps
    return session.elapsed, session.elapsed + session.eta_seconds


def _bar(done: float | None, total: float | None) -> ProgressBar:
    return ProgressBar(
        total=total or 1.0,
        completed=min(done or 0.0, total or 1.0),
        complete_style="cyan",
        finished_style="green",
    )


def _round(session: SessionProgress) -> str:
    if not session.rounds:
        return NOTHING
    return f"{session.round or 0} of {session.rounds}, step {session.step or 0}/{session.steps or 0}"


def _facts(session: SessionProgress) -> Table:
    """Return the numbers of this moment, each in its own place."""
    facts = (
        ("loss", _number(session.loss, "{:.3f}")),
        ("rate", _number(session.learning_rate, "{:.1e}")),
        ("tokens/s", _number(session.tokens_per_second, "{:.0f}")),
        ("memory", _number(session.peak_gib, "{:.1f} GiB")),
        ("took", duration(session.elapsed)),
        ("left", duration(session.eta_seconds)),
    )
    grid = Table.grid(expand=True, padding=(0, 1))
    for _ in range(3):
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for start in (0, 3):
        grid.add_row(*(Text.assemble((f"{name} ", "dim"), value) for name, value in facts[start : start + 3]))
    return grid


def _histories(history: Sequence[Round], width: int) -> Text:
    rounds = max(1, (width - len("loss  recall ") - 6) // 2)
    losses = sparkline([row.loss for row in history][-rounds:])
    recalls = sparkline([row.recall for row in history][-rounds:], low=0.0, high=1.0)
    return Text.assemble(
        ("loss ", "dim"),
        (losses, "magenta"),
        ("  recall ", "dim"),
        (recalls, "green"),
        no_wrap=True,
        overflow="ellipsis",
    )


def sparkline(values: Iterable[float | None], *, low: float | None = None, high: float | None = None) -> str:
    """Return numbers as a line of blocks; a gap where a number is missing.

    >>> sparkline([0, 1, None, 2])
    '▁▅ █'
    """
    points = list(values)
    known = [point for point in points if point is not None]
    bottom = min(known, default=0.0) if low is None else low
    span = (max(known, default=1.0) if high is None else high) - bottom
    return "".join(" " if point is None else BLOCKS[_height(point - bottom, span)] for point in points)


def _height(above: float, span: float) -> int:
    return 0 if span <= 0 else min(len(BLOCKS) - 1, max(0, int(above / span * len(BLOCKS))))


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else form.format(value)


def _rest(snapshot: Status) -> Panel:
    """Say what happens next when no session runs, and what somebody could do."""
    word = state(snapshot)
    if word == "starting":
        told = "The base model is being loaded, and the versions are being checked."
    elif word == "paused":
        told = "Learning is paused. Go on with: lorad resume"
    elif snapshot.waiting_files or queued(snapshot):
        told = "The next session starts in a moment."
    else:
        told = f"Nothing to learn: drop a JSON file into {snapshot.home}/inbox"
    ended = [job for job in snapshot.jobs if job.ended_at]
    last = job_result(max(ended, key=ended_in(snapshot.events))) if ended else ""
    texts = [
        Text(told, overflow="fold"),
        Text(""),
        Text(last, style="dim", no_wrap=True, overflow="ellipsis"),
    ]
    return _panel(Group(*texts), word, SESSION_LINES)


# The rest of the screen


def _queue(snapshot: Status, lines: int) -> Panel:
    rows = [
        (Text("file", style="dim"), Text(file.name), Text(_file_note(file)))
        for file in snapshot.waiting_files
    ]
    rows += [
        (
            Text(str(job.id), style="dim"),
            Text(job.dataset),
            Text(job.state, style=JOB_STYLES.get(job.state, "")),
        )
        for job in _by_urgency(snapshot.jobs)
    ]
    count = len(queued(snapshot)) + len(snapshot.waiting_files)
    return _panel(
        _rows(rows, lines, "no file was dropped yet"),
        "jobs",
        lines,
        note=f"{count} waiting" if count else "",
    )


def _file_note(file: WaitingFile) -> str:
    return f"{size(file.bytes)}, {duration(file.age_seconds)} old"


def _by_urgency(jobs: Sequence[Job]) -> list[Job]:
    """Put what runs first, then what is queued in its order, then what has ended, newest first."""
    ended = [job for job in jobs if job.ended_at]
    unfinished = [job for job in jobs if not job.ended_at]
    return sorted(unfinished, key=lambda job: (job.state == JobState.QUEUED, job.id)) + ended


def _versions(snapshot: Status, lines: int) -> Panel:
    several = len(snapshot.tracks) > 1
    shown = [
        (name, track, row) for name, track in snapshot.tracks.items() for row in reversed(track.versions)
    ]
    has_facts = any(row.performance.get("facts") is not None for _, _, row in shown)
    measured = ("recall", "facts") if has_facts else ("recall",)
    rows = [
        (
            Text(f"{name} " * several + version.version, style=_version_style(track, version)),
            Text(version.description or moment(version.date)),
            Text(" ".join(f"{share(version.performance.get(each)):>6}" for each in measured)),
        )
        for name, track, version in shown
    ]
    note = ", ".join(measured) if has_facts else ""
    return _panel(_rows(rows, lines, "only the base model so far"), "versions", lines, note=note)


def _version_style(track: TrackStatus, version: VersionEntry) -> str:
    return (
        "bold green"
        if version.version == serving(track)
        else "red"
        if version.state == VersionState.CORRUPT
        else ""
    )


def _rows(rows: Sequence[tuple[Text, Text, Text]], lines: int, nothing: str) -> RenderableType:
    """Return as many rows as a panel holds; the last line counts those that do not fit."""
    room = lines - 2
    shown = rows if len(rows) <= room else rows[: room - 1]
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(no_wrap=True, justify="right")
    for row in shown:
        grid.add_row(*row)
    if not rows:
        return Text(nothing, style="dim")
    hidden = len(rows) - len(shown)
    return Group(grid, Text(f"and {hidden} more", style="dim")) if hidden else grid


def _events(snapshot: Status, lines: int) -> Panel:
    newest = snapshot.events[-(lines - 2) :]
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for event in newest:
        grid.add_row(clock(event.at), Text(event_line(event)))
    return _panel(grid if newest else Text("nothing happened yet", style="dim"), "events", lines)
