"""How states are told to people. Records in, plain strings out, and nothing else.

What lives here: durations, shares, local times, one line for a job, a session, an event, the summary that
``lorad status`` prints. What never does: colours, tables, clocks; every age is counted from the
``now`` of the snapshot. Imports the standard library and records alone, for ``lorad status`` must feel instant.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from lorad import printable
from lorad.records import Job
from lorad.serving.answers import (
    DocumentCounts,
    Event,
    InboxStatus,
    SessionProgress,
    Status,
    TrackStatus,
    WaitingFile,
)
from lorad.states import JobState

if TYPE_CHECKING:
    from lorad.serving.completions import Origin, SourceExample, SourcePassage

NOTHING = "-"
"""Shown where there is no number yet."""

QUESTION_SHOWN = 80
"""Characters of a question that names an example."""

PASSAGE_SHOWN = 240
"""Characters of a passage that may answer."""

CAUSES = {
    "max_rounds": "the plan allows no more rounds",
    "patience": "nothing more was gained",
}
"""What ended a session, in plain words where the name alone does not say; see ``records.Evaluation``."""

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
    """Return what to tell about an answer that was not finished: its limit was reached, or the context is full."""
    after = "" if tokens is None else f" after {plural(tokens, 'token')}"
    return f"lorad: the answer was cut{after}; ask for more with --max-tokens, or shorten the conversation if the context is full"


def origin(told: "Origin") -> str:
    """Return where an answer comes from, an empty string where it comes from the model alone."""
    if told.passages:
        if told.mode == "not_found":
            shown = "\n".join(f"{_passage(each)}\n    {_excerpt(each.text)}" for each in told.passages)
            return f"nearest, which may not answer it:\n{shown}"
        return "\n".join(map(_passage, told.passages))
    if told.documents and told.mode == "weights":
        return f"nothing relevant in {_one_line(told.documents)}; the model has answered alone"
    sources = "; ".join(map(_source, told.sources))
    if not sources or told.mode == "weights":
        return ""
    if told.mode == "unknown":
        return f"nearest: {sources}, which does not answer it"
    return f"{'quoted from' if told.mode == 'stored' else 'from'} {sources}"


def _source(source: "SourceExample") -> str:
    row = f", row {source.row}" if source.row else ""
    question = _one_line(source.question)
    shown = question if len(question) <= QUESTION_SHOWN else f"{question[: QUESTION_SHOWN - 1]}…"
    return f'{source.dataset}{row}: "{shown}" (similarity {source.similarity:.2f})'


def _excerpt(text: str) -> str:
    """Return the beginning of a passage on one line."""
    line = _one_line(text)
    return line if len(line) <= PASSAGE_SHOWN else f"{line[: PASSAGE_SHOWN - 1]}…"


def _passage(cited: "SourcePassage") -> str:
    """Return a footnote: where in which document a passage is."""
    place = " > ".join(map(_one_line, dict.fromkeys([cited.title, *cited.heading])))
    page = f", page {cited.page}" if cited.page else ""
    name = _one_line(cited.name or cited.url or f"document {cited.document}")
    return f"[{cited.number}] {place}{page} ({name}, characters {cited.start}-{cited.end})"


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


def serving(track: TrackStatus) -> str:
    """Return the version that answers on a track, ``base`` when none does."""
    return track.serving or "base"


def state(snapshot: Status) -> str:
    """Return in one word what the daemon is doing."""
    if not snapshot.ready:
        return "starting"
    if snapshot.session:
        return "learning"
    return "paused" if snapshot.paused else "idle"


def ended_by(cause: str) -> str:
    """Return what ended a session, with what that means where its name does not say."""
    return f"{cause} ({CAUSES[cause]})" if cause in CAUSES else cause


def reason(job: Job) -> str:
    """Return why a job ended as it did: what failed, or the sentence of its error."""
    told = job.reason
    failed = [
        str(line).removeprefix("failed:").strip()
        for line in told.get("reasons") or ()
        if str(line).startswith("failed:")
    ]
    return "; ".join(failed) or str(told.get("message") or "")


def took(job: Job) -> str:
    """Return how long a job's session took."""
    if job.started_at is None or job.ended_at is None:
        return NOTHING
    return duration(job.ended_at - job.started_at)


def job_result(job: Job) -> str:
    """Return one line on a job: its number, dataset and state, and what came of it."""
    version = f" as {job.version}" if job.version else ""
    elapsed = f" after {took(job)}" if job.ended_at and job.started_at else ""
    why = f": {reason(job)}" if reason(job) else ""
    return _one_line(f"job {job.id} {job.dataset} {job.state}{version}{elapsed}{why}")


def session_line(session: SessionProgress) -> str:
    """Return one line on the running session: where it is and how long it still takes."""
    parts = [f"job {session.job} {session.dataset}: {session.phase}"]
    if session.round:
        parts.append(f"round {session.round} of {session.rounds}")
    if session.recall is not None:
        parts.append(f"recall {share(session.recall)} of {share(session.target)}")
    if session.paused_seconds:
        parts.append(paused_for(session))
    if session.eta_seconds is not None:
        parts.append(f"about {duration(session.eta_seconds)} left")
    return ", ".join(parts)


def paused_for(session: SessionProgress) -> str:
    """Return how long a session has waited for answers."""
    return f"paused {duration(session.paused_seconds)} for answers"


def event_line(event: Event) -> str:
    """Return an event's name and data on one line."""
    told = [
        f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in event.data.items()
        if value not in (None, [], {})
    ]
    return _one_line(" ".join([event.name, *told]))


def _one_line(text: str) -> str:
    """Keep lists of problems and odd file names from tearing a screen apart."""
    return " ".join(printable.text(text).split())


def queued(snapshot: Status) -> list[Job]:
    """Return the jobs that wait for their turn, newest first."""
    return [job for job in snapshot.jobs if job.state == JobState.QUEUED]


def progress(snapshot: Status) -> str:
    """Return in one line what somebody who waits is waiting for."""
    snapshot = printable.record(snapshot)
    if snapshot.session:
        return session_line(snapshot.session)
    jobs = queued(snapshot)
    if snapshot.paused and jobs:
        return f"paused with {plural(len(jobs), 'job')} in the queue; go on with: lorad resume"
    if snapshot.waiting_files:
        return f"{_names([file.name for file in snapshot.waiting_files])} in the inbox, not taken yet"
    return f"{plural(len(jobs), 'job')} in the queue"


def summary(snapshot: Status) -> str:
    """Return what ``lorad status`` prints: state, what serves, session, queue, last result."""
    snapshot = printable.record(snapshot)
    up = duration(snapshot.now - snapshot.started_at)
    paused = ", learning paused" if snapshot.paused and state(snapshot) != "paused" else ""
    lines = [f"lorad {snapshot.lorad} in {snapshot.home}: {state(snapshot)}{paused}, up {up}"]
    lines += [
        f"  serving  {_track_line(name, track, snapshot.engine.max_batch)}"
        for name, track in snapshot.tracks.items()
    ]
    lines += [f"  {heading:<9}{text}" for heading, text in _answering_lines(snapshot)]
    if snapshot.session:
        lines.append(f"  session  {session_line(snapshot.session)}")
    lines += [
        f"  index    {name}: {plural(track.not_indexed, 'example')} not indexed yet"
        for name, track in snapshot.tracks.items()
        if track.not_indexed
    ]
    lines += [
        f"  index    {name}: answers by its weights alone, {track.not_looked_up}"
        for name, track in snapshot.tracks.items()
        if track.not_looked_up
    ]
    lines += [f"  docs     {_documents_line(name, held)}" for name, held in snapshot.documents.items()]
    lines += [f"  waits    {_one_line(why)}" for why in snapshot.troubles]
    lines += [f"  {heading:<9}{text}" for heading, text in _queue_lines(snapshot)]
    return "\n".join(lines)


def _documents_line(name: str, held: DocumentCounts) -> str:
    told = [plural(held.documents, "document"), plural(held.chunks, "chunk")]
    told += [f"{held.waiting} not divided yet"] if held.waiting else []
    told += [f"{held.unembedded} not embedded yet"] if held.unembedded and held.by_meaning else []
    told += [] if held.by_meaning else ["found by words alone: lorad base add minilm"]
    return f"{name}: {', '.join(told)}"


def _answering_lines(snapshot: Status) -> Iterator[tuple[str, str]]:
    """Say what generates, in which form, how fast, and from what it has answered."""
    engine = snapshot.engine
    if engine.backend:
        told = [f"{engine.backend} ({engine.backend_because})"]
        if engine.cache_bytes is not None:
            told.append(f"caches {size(engine.cache_bytes)} of {size(engine.max_cache_bytes or 0)}")
        if engine.tokens_per_second is not None:
            told.append(f"{engine.tokens_per_second:.1f} tokens/s")
        if engine.first_token_seconds is not None:
            told.append(f"first token after {engine.first_token_seconds:.2f} s")
        yield "backend", ", ".join(told)
    for name, track in snapshot.tracks.items():
        if track.not_merged_because:
            yield "backend", f"{name}: not merged, {track.not_merged_because}"
        if track.quantized_because:
            yield "backend", f"{name}: base in {track.quantization}, {track.quantized_because}"
        if engine.backend and not track.batches:
            yield "backend", f"{name}: one answer at a time, {track.batches_because}"
    if engine.modes:
        modes = ", ".join(f"{count} {mode}" for mode, count in sorted(engine.modes.items()))
        yield "answered", f"{plural(engine.requests, 'request')}, of those looked up {modes}"


def _held(track: TrackStatus, batch: int | None) -> str:
    return f"held as {track.held_as}" + (f", {batch} share a step" if batch and track.batches else "")


def _track_line(name: str, track: TrackStatus, batch: int | None) -> str:
    measured = next((row.performance for row in track.versions if row.version == serving(track)), {})
    told = [
        f"{fact} {share(measured[fact])}" for fact in ("recall", "retention", "facts") if fact in measured
    ]
    told += [_held(track, batch)] if track.held_as else []
    told += [f"previous {track.previous}"] if track.previous else []
    told += [plural(len(track.datasets), "dataset")] if track.versions else ["nothing learned yet"]
    return f"{name} {serving(track)} ({', '.join(told)})"


def _queue_lines(snapshot: Status) -> list[tuple[str, str]]:
    jobs = queued(snapshot)
    lines = []
    if jobs:
        names = _names([job.dataset for job in reversed(jobs)])
        lines.append(("queue", f"{plural(len(jobs), 'job')}: {names}"))
    lines += [("inbox", told) for told in _inbox_lines(snapshot.waiting_files, snapshot.inbox)]
    if ended := [job for job in snapshot.jobs if job.ended_at]:
        last = max(ended, key=ended_in(snapshot.events))
        lines.append(("last", f"{job_result(last)} ({moment(last.ended_at)})"))
    return lines


def _inbox_lines(waiting: Sequence[WaitingFile], inbox: InboxStatus) -> Iterator[str]:
    if waiting:
        count = max(len(waiting), inbox.files)
        yield f"{plural(count, 'file')}: {_names([file.name for file in waiting])}"
    yield from [f"{file.name} waits: {file.why}" for file in waiting if file.why][:3]
    yield from [left.message for left in inbox.not_taken[:3]]
    if inbox.why:
        yield f"read every second: {inbox.why}"


def ended_in(events: Iterable[Event]) -> Callable[[Job], tuple[int, int]]:
    """Return by what ended jobs are in order: by the newest event that names them, else by their number.

    Never by the clock, which may have been set back: what ended yesterday would be the newest until tomorrow.
    """
    told = {event.data["job"]: event.id for event in events if isinstance(event.data.get("job"), int)}
    return lambda job: (told.get(job.id, 0), job.id)


def _names(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
