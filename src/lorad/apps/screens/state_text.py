"""How states are told to people. Plain strings from the server's JSON, and nothing else.

What lives here: durations, shares, local times, one line for a job, a session, an event, the summary that
``lorad status`` prints. What never does: colours, tables, clocks; every age is counted from the
``now`` of the snapshot. Imports the standard library and ``printable`` alone, for ``lorad status`` must feel instant.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from lorad import printable

Record = Mapping[str, Any]

NOTHING = "-"
"""Shown where there is no number yet."""

UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def duration(seconds: float | None) -> str:
    """Return seconds in the two largest units that say something: ``2 min 5 s``."""
    if seconds is None:
        return NOTHING
    left = max(0, round(seconds))
    counts = []
    for unit, size in UNITS:
        count, left = divmod(left, size)
        counts.append((count, unit))
    first = next((at for at, (count, _) in enumerate(counts) if count), len(UNITS) - 1)
    told = [f"{count} {unit}" for count, unit in counts[first : first + 2] if count]
    return " ".join(told) or "0 s"


def share(value: float | None) -> str:
    """Return a share as a percentage: ``98.0 %``."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def cut(tokens: int | None) -> str:
    """Return what to tell about an answer that was not finished."""
    after = "" if tokens is None else f" after {plural(tokens, 'token')}"
    return f"lorad: the answer was cut{after}; ask for more with --max-tokens"


def size(count: float) -> str:
    """Return a number of bytes in the largest fitting unit."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:  # noqa: PLR2004 - the SI step
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def plural(count: int, noun: str) -> str:
    """Return ``1 file`` or ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def moment(at: float | str | None) -> str:
    """Return a Unix time as local date and time; a text, such as a version's date, stays as it is."""
    return (
        str(at or NOTHING)
        if at is None or isinstance(at, str)
        else f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M}"
    )


def clock(at: float) -> str:
    """Return a Unix time as local time of day."""
    return f"{datetime.fromtimestamp(at).astimezone():%H:%M:%S}"


def serving(track: Record) -> str:
    """Return the version that answers on a track, ``base`` when none does."""
    return track["serving"] or "base"


def state(snapshot: Record) -> str:
    """Return in one word what the daemon is doing."""
    if not snapshot["ready"]:
        return "starting"
    if snapshot["session"]:
        return "learning"
    return "paused" if snapshot["paused"] else "idle"


def reason(job: Record) -> str:
    """Return why a job ended as it did: what failed, or the sentence of its error."""
    told = job.get("reason") or {}
    failed = [
        str(line).removeprefix("failed:").strip()
        for line in told.get("reasons", ())
        if str(line).startswith("failed:")
    ]
    return "; ".join(failed) or str(told.get("message") or "")


def took(job: Record) -> str:
    """Return how long a job's session took."""
    started, ended = job.get("started_at"), job.get("ended_at")
    return NOTHING if started is None or ended is None else duration(ended - started)


def job_result(job: Record) -> str:
    """Return one line on a job: its number, dataset and state, and what came of it."""
    version = f" as {job['version']}" if job.get("version") else ""
    elapsed = f" after {took(job)}" if job.get("ended_at") and job.get("started_at") else ""
    why = f": {reason(job)}" if reason(job) else ""
    return _one_line(f"job {job['id']} {job['dataset']} {job['state']}{version}{elapsed}{why}")


def session_line(session: Record) -> str:
    """Return one line on the running session: where it is and how long it still takes."""
    parts = [f"job {session['job']} {session['dataset']}: {session['phase']}"]
    if session.get("round"):
        parts.append(f"round {session['round']} of {session['rounds']}")
    if session.get("recall") is not None:
        parts.append(f"recall {share(session['recall'])} of {share(session.get('target'))}")
    if session.get("eta_seconds") is not None:
        parts.append(f"about {duration(session['eta_seconds'])} left")
    return ", ".join(parts)


def event_line(event: Record) -> str:
    """Return an event's name and data on one line."""
    data = {
        key: value
        for key, value in event.items()
        if key not in {"id", "at", "name"} and value not in (None, [], {})
    }
    told = [
        f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in data.items()
    ]
    return _one_line(" ".join([str(event["name"]), *told]))


def _one_line(text: str) -> str:
    """Keep lists of problems and odd file names from tearing a screen apart."""
    return " ".join(printable.text(text).split())


def progress(snapshot: Record) -> str:
    """Return in one line what somebody who waits is waiting for."""
    snapshot = printable.record(snapshot)
    if snapshot["session"]:
        return session_line(snapshot["session"])
    queued = [job for job in snapshot["jobs"] if job["state"] == "queued"]
    if snapshot["paused"] and queued:
        return f"paused with {plural(len(queued), 'job')} in the queue; go on with: lorad resume"
    if snapshot["waiting_files"]:
        return f"{_names(snapshot['waiting_files'], 'name')} in the inbox, not taken yet"
    return f"{plural(len(queued), 'job')} in the queue"


def summary(snapshot: Record) -> str:
    """Return what ``lorad status`` prints: state, what serves, session, queue, last result."""
    snapshot = printable.record(snapshot)
    up = duration(snapshot["now"] - snapshot["started_at"])
    paused = ", learning paused" if snapshot["paused"] and state(snapshot) != "paused" else ""
    lines = [f"lorad {snapshot['lorad']} in {snapshot['home']}: {state(snapshot)}{paused}, up {up}"]
    lines += [f"  serving  {_track_line(name, track)}" for name, track in snapshot["tracks"].items()]
    if snapshot["session"]:
        lines.append(f"  session  {session_line(snapshot['session'])}")
    lines += [f"  waits    {_one_line(why)}" for why in snapshot.get("troubles", ())]
    lines += [f"  {heading:<9}{text}" for heading, text in _queue_lines(snapshot)]
    return "\n".join(lines)


def _track_line(name: str, track: Record) -> str:
    entry: Record = next((row for row in track["versions"] if row["version"] == serving(track)), {})
    performance = entry.get("performance") or {}
    told = [f"{fact} {share(performance[fact])}" for fact in ("recall", "retention") if fact in performance]
    told += [f"previous {track['previous']}"] if track["previous"] else []
    told += [plural(len(track["datasets"]), "dataset")] if track["versions"] else ["nothing learned yet"]
    return f"{name} {serving(track)} ({', '.join(told)})"


def _queue_lines(snapshot: Record) -> list[tuple[str, str]]:
    queued = [job for job in snapshot["jobs"] if job["state"] == "queued"]
    ended = [job for job in snapshot["jobs"] if job.get("ended_at")]
    waiting = snapshot["waiting_files"]
    lines = []
    if queued:
        lines.append(("queue", f"{plural(len(queued), 'job')}: {_names(queued[::-1], 'dataset')}"))
    inbox: Record = snapshot.get("inbox") or {}
    if waiting:
        count = max(len(waiting), inbox.get("files", 0))
        lines.append(("inbox", f"{plural(count, 'file')}: {_names(waiting, 'name')}"))
    lines += [("inbox", f"{file['name']} waits: {file['why']}") for file in waiting if file.get("why")][:3]
    lines += [("inbox", str(left["message"])) for left in inbox.get("not_taken", ())[:3]]
    if inbox.get("why"):
        lines.append(("inbox", f"read every second: {inbox['why']}"))
    if ended:
        last = max(ended, key=ended_in(snapshot["events"]))
        lines.append(("last", f"{job_result(last)} ({moment(last['ended_at'])})"))
    return lines


def ended_in(events: Iterable[Record]) -> Callable[[Record], tuple[int, int]]:
    """Return by what ended jobs are in order: by the newest event that names them, else by their number.

    Never by the clock, which may have been set back: what ended yesterday would be the newest until tomorrow.
    """
    told = {event["job"]: event["id"] for event in events if isinstance(event.get("job"), int)}
    return lambda job: (told.get(job["id"], 0), job["id"])


def _names(rows: list[Record], key: str, most: int = 3) -> str:
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return ", ".join(str(row[key]) for row in rows[:most]) + more
