"""What still holds words that are forgotten on purpose.

What lives here: which sessions' folders were made with them and are removed, that a running one begins anew, which versions have
learned them, and the sentence that tells people what is left. What never does: forgetting itself (``memory``).

A version holds what it was trained or tested on, and what the version that it grew from holds. Only a refit grows from
the base.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from lorad.apps.daemon import origins
from lorad.apps.daemon.loop_state import LoopState
from lorad.errors import ProtocolError, RegistryError
from lorad.models import lower_states
from lorad.records import Job
from lorad.serving.answers import Remains
from lorad.states import JobState, VersionState
from lorad.storage import files
from lorad.storage.ledger import Ledger
from lorad.track import Track
from lorad.training import run_folder
from lorad.training.run_folder import RunFolder
from lorad.versions import merged_copy
from lorad.versions.store import Registry

LEARNED_FORGOTTEN = "it was trained on examples that were forgotten meanwhile"
TOLD = 10
"""Names in one list of a sentence."""


@contextlib.contextmanager
def begun_anew(
    track: Track, ledger: Ledger, state: LoopState, ids: Collection[str], now: float
) -> Iterator[None]:
    """Forget these examples inside, in one transaction; a running session that has any of them begins anew, and what others left of them goes.

    No crash may leave behind what tells their words: it goes before, and once more when nobody can write it.
    """
    begun = _session_with(track, ledger, state, ids)
    if ids:
        _remove_stored(track)
    with ledger.transaction():
        yield
        if begun and begun.state in {JobState.TRAINING, JobState.JUDGING}:
            ledger.move_job(begun, "requeue", now, attempts=begun.attempts - 1)
            ledger.record_event("requeued", now, job=begun.id, why=LEARNED_FORGOTTEN)
    if begun and state.running:
        state.running[1].stop()
        state.running = None
    if ids:
        state.request_purge()
        _remove_stored(track)
        _remove_made_with(track, state, ids)


def _session_with(track: Track, ledger: Ledger, state: LoopState, ids: Collection[str]) -> Job | None:
    """Return the job whose session runs and learns or rehearses any of these examples."""
    if not ids or state.running is None or state.running[0].track != track.name:
        return None
    job = ledger.job(state.running[0].id)
    return job if run_folder.of_job(track, job.id).holds(ids) else None


def _remove_stored(track: Track) -> None:
    """Remove what sessions store of examples to compute less; it is made anew."""
    files.remove(track.registry.folder / lower_states.FOLDER)


def _remove_made_with(track: Track, state: LoopState, ids: Collection[str]) -> None:
    """Remove what ended sessions that had these examples have left; what a full disk keeps here ``clean_up`` removes."""
    for job, folder, is_kept in made_by_sessions(track):
        if job != state.running_job and folder.holds(ids):
            folder.remove_results(keep_numbers=is_kept)


def made_by_sessions(track: Track) -> list[tuple[int, RunFolder, bool]]:
    """Return the folders of a track's sessions that are there: job, folder, and whether it was refused."""
    return [
        *((job, RunFolder(folder), True) for job, folder in track.registry.workspace.rejected_jobs()),
        *((job, RunFolder(folder), False) for job, folder in track.registry.workspace.unfinished_jobs()),
    ]


def find(track: Track, ledger: Ledger, ids: Collection[str], running: int | None) -> Remains:
    """Return what holds these examples; ``running`` is the job whose session runs."""
    registry, memory = track.registry, track.memory
    held = versions(registry, ledger, ids, memory.learned_in(ids))
    marks = _marks(registry.tracker.read())
    kept = [
        number
        for number, folder in registry.workspace.rejected_jobs()
        if RunFolder(folder).holds(ids) and not RunFolder(folder).has_only_numbers()
    ]
    left = [number for number, folder in registry.workspace.unfinished_jobs() if RunFolder(folder).holds(ids)]
    again = [number for number in left if number == running and _is_open(ledger, number)]
    return Remains(
        versions={version: marks.get(version, ()) for version in held},
        copies=tuple(_copies(registry, held)),
        files=tuple(ledger.drop_names(memory.drops_of(ids))),
        restarted=tuple(again),
        removed=tuple(sorted({*kept, *left} - {*again})),
    )


def versions(
    registry: Registry, ledger: Ledger, ids: Collection[str], learned_in: Collection[str]
) -> list[str]:
    """Return the versions on disk that hold any of these, oldest first."""
    holding = set(learned_in)
    entries = registry.tracker.read()["checkpoints"]
    for entry in entries:
        if origins.grown_from(entry, ledger) in holding or _was_tested_on(registry, entry["version"], ids):
            holding.add(entry["version"])
    return [
        e["version"] for e in entries if e["version"] in holding and e.get("state") != VersionState.PRUNED
    ]


def _was_tested_on(registry: Registry, version: str, ids: Collection[str]) -> bool:
    try:
        return not registry.evaluation(version)["right"].keys().isdisjoint(ids)
    except (RegistryError, KeyError, AttributeError):  # pruned, or nobody can tell: its parent decides
        return False


def _is_open(ledger: Ledger, job: int) -> bool:
    try:
        return ledger.job(job).state in {JobState.TRAINING, JobState.JUDGING}
    except ProtocolError:
        return False


def _marks(tracker: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    found = {}
    for entry in tracker["checkpoints"]:
        pointers = [name for name in ("latest", "previous") if tracker[name] == entry["version"]]
        pinned = ["pinned"] if entry.get("pinned") else []
        found[entry["version"]] = (*pointers, *pinned, *(f"tag {tag}" for tag in entry.get("tags", ())))
    return found


def _copies(registry: Registry, held: Sequence[str]) -> list[str]:
    found = [
        f"reproduced/{version}" for version in held if (registry.folder / "reproduced" / version).is_dir()
    ]
    if merged_copy.of_version(registry.folder) in held:
        found.append(merged_copy.COPY)
    return found + (["damaged"] if (registry.folder / "damaged").is_dir() else [])


def tell(remains: Remains, *, is_done: bool) -> str:
    """Return in sentences what becomes of what holds the words, and what people must see to themselves."""
    will, told = ("" if is_done else "would "), []
    if remains.restarted:
        verb = "begins" if is_done else "begin"
        told.append(f"job {_listed(remains.restarted)} {will}{verb} anew without them")
    if remains.removed:
        verb = "was removed" if is_done else "be removed"
        told.append(f"what the sessions of job {_listed(remains.removed)} had left {will}{verb}")
    told.append(_of_versions(remains))
    copies = [*remains.copies]
    if copies:
        told.append(f"copies lie in {_listed(copies)} of the track's folder")
    dropped = (
        f"dropped files keep them ({_listed(remains.files)})" if remains.files else "dropped files keep them"
    )
    told.append(
        f"{dropped} in done/ until inbox.keep_done_days; files in failed/ and files that wait were not searched, nor "
        "exports and backups elsewhere"
    )
    return "; ".join(told)


def _of_versions(remains: Remains) -> str:
    if not remains.versions:
        return "no version has learned them"
    named = [f"{name} ({', '.join(marks)})" if marks else name for name, marks in remains.versions.items()]
    is_marked = any(set(marks) - {"latest", "previous"} for marks in remains.versions.values())
    freed = "unpin and untag, then prune" if is_marked else "prune"
    return (
        f"the weights of {_listed(named)} still hold them: lorad consolidate --refit makes a version without; then "
        f"{freed} the others: lorad versions prune --keep 1 (previous stays until another version is promoted)"
    )


def _listed(names: Sequence[object]) -> str:
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(map(str, names[:TOLD])) + more
