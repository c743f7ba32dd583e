"""The files of one session, from its request to its candidate.

What lives here: their names, each once, and reading and writing them. What never does: training (``session``), starting
a process (``executors``), deciding what becomes of a candidate.

    request.json  new.jsonl  old.jsonl   what is to be learned, and what is known already
    decides.json                         the sha256 of all that decides the weights, and the ids of every row
    progress.jsonl  session.log          while it runs
    checkpoints/                         where it can go on when it is cut off
    candidate/  refitted/  merged/       what it makes; ``candidate/evaluation.json`` is written last
"""

import json
import os
import signal
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from lorad import records
from lorad.errors import TrainingError
from lorad.records import Example, SessionResult, SessionSpec
from lorad.storage import files
from lorad.storage.memory import Recalled
from lorad.track import Track
from lorad.versions import old_papers, papers

REQUEST = "request.json"
NEW, OLD = "new.jsonl", "old.jsonl"
INPUTS = "decides.json"
PROGRESS, LOG = "progress.jsonl", "session.log"
CHECKPOINTS = "checkpoints"
REFITTED = "refitted"
MERGED = "merged"
FORGOTTEN = "forgotten"
"""In an evaluation whose weights were removed: its numbers stay for ``lorad explain``."""


class RunFolder:
    """The folder of one session; making this object touches no file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.candidate = path / papers.CANDIDATE
        self.refitted = path / REFITTED
        self.merged = path / MERGED
        """A copy of the candidate that needs no base."""
        self.checkpoints = path / CHECKPOINTS
        self.log = path / LOG

    # -- what is to be done

    def begin(self, spec: SessionSpec, new: Sequence[Example], old: Sequence[Recalled]) -> None:
        """Write a request and its rows; what a session of the very same request left here stays, to be gone on with.

        The request comes last: without it there is no session.
        """
        rows = {NEW: [records.as_json(example) for example in new], OLD: [as_row(item) for item in old]}
        request = records.as_json(spec)
        inputs = records.digest([rows, records.training_inputs(request)])
        self._remove_candidate()
        if self._inputs() != inputs:
            files.remove(self.path)
        self.remove_progress()  # what is said from now on is of this start, also if it dies before it says anything
        for name, lines in rows.items():
            files.write_lines(self.path / name, lines)
        ids = [*(example.id for example in new), *(item.example.id for item in old)]
        files.write_json(self.path / INPUTS, {"sha256": inputs, "ids": ids})
        files.write_json(self.path / REQUEST, request)

    def _remove_candidate(self) -> None:
        for left in (self.candidate, *self.path.glob(f".*{files.PART}")):
            files.remove(left)

    def _inputs(self) -> str | None:
        """Return the sha256 of all that decides the weights here, ``None`` where nothing tells."""
        try:
            return str(files.read_json(self.path / INPUTS)["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def spec(self) -> SessionSpec:
        """Return the request."""
        return records.restore(SessionSpec, old_papers.spec(files.read_json(self.path / REQUEST)))

    def new(self) -> list[Example]:
        """Return the examples to learn."""
        return [records.restore(Example, row) for row in files.read_lines(self.path / NEW)]

    def old(self) -> list[Recalled]:
        """Return the examples to keep, each with whether the parent recalls it."""
        return [from_row(row) for row in files.read_lines(self.path / OLD)]

    def row_digests(self) -> list[str]:
        """Return the sha256 of the rows to learn and of those to keep, as they stand here."""
        return [files.file_digest(self.path / name) for name in (NEW, OLD)]

    def remove_words(self) -> None:
        """Remove the rows: they are in memory, where ``lorad forget`` finds them."""
        for name in (NEW, OLD):
            files.remove(self.path / name)

    # -- how it goes

    def report(self, line: dict[str, Any]) -> None:
        """Append a line of progress; readers keep the newest value of every key."""
        with files.open_secret(self.path / PROGRESS, "a") as stream:
            stream.write(json.dumps(line) + "\n")

    def remove_progress(self) -> None:
        """Remove what a session that was cut off reported."""
        files.remove(self.path / PROGRESS)

    def reports(self) -> list[dict[str, Any]]:
        """Return every line of progress, oldest first."""
        return files.read_lines(self.path / PROGRESS)

    def progress(self) -> dict[str, Any]:
        """Return the newest value of every key, and under ``history`` the rounds that were closed."""
        lines = self.reports()
        newest: dict[str, Any] = {}
        for line in lines:
            newest |= line
        return newest | {"history": [line["closed"] for line in lines if "closed" in line]}

    def failure(self, status: int) -> TrainingError:
        """Return why a session ended with this exit status, in its own words where it could say any."""
        said = next((line["error"] for line in reversed(self.reports()) if "error" in line), None)
        if said:
            return TrainingError(said["message"], code=said["code"])
        if status == os.EX_IOERR:
            return TrainingError("the disk is full; lorad will retry", code="disk")
        killed = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        if status == -signal.SIGKILL:
            killed += ", as the system does where memory runs out (then: lorad retry JOB --settings batch=1)"
        return TrainingError(f"the session {killed}; see {self.log}", code="session_died", status=status)

    def checkpoint_names(self) -> list[str]:
        """Return the complete checkpoints, oldest first."""
        found = self.checkpoints.glob("round-*")
        return sorted(path.name for path in found if path.is_dir() and not path.suffix)

    def remove_checkpoints(self, names: Collection[str]) -> None:
        """Remove these checkpoints."""
        for name in names:
            files.remove(self.checkpoints / name)

    # -- what it made

    def result(self) -> SessionResult:
        """Return what the session said of its candidate; raise ``OSError`` or ``ValueError`` where there is none."""
        return papers.read_result(self.candidate)

    @property
    def is_complete(self) -> bool:
        """Tell whether a session has ended well here: the result is what it writes last."""
        try:
            self.result()
        except (OSError, ValueError):
            return False
        return True

    def write_result(self, result: SessionResult) -> None:
        """Complete the candidate; nothing is left to go on with."""
        papers.write_result(self.candidate, result)
        files.remove(self.checkpoints)

    def end_refit(self, *, is_better: bool) -> None:
        """Let what was refitted take the candidate's place, or remove it."""
        if is_better:
            files.remove(self.candidate)
            self.refitted.rename(self.candidate)
        else:
            files.remove(self.refitted)

    # -- what it was made with

    def trained_on(self) -> set[str] | None:
        """Return the ids of all that the session learns, rehearses and is tested on, ``None`` where nothing tells."""
        known = [ids for ids in (self._requested(), self._answered()) if ids is not None]
        return set().union(*known) if known else None

    def _requested(self) -> set[str] | None:
        try:
            return set(map(str, files.read_json(self.path / INPUTS)["ids"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _answered(self) -> set[str] | None:
        try:
            told = files.read_json(self.candidate / papers.EVALUATION)
            return {*map(str, told["right"]), *(str(pair[0]) for pair in told["learned"])}
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None

    def holds(self, ids: Collection[str]) -> bool:
        """Tell whether any of these examples went into it; a folder that does not tell may hold them."""
        known = self.trained_on()
        return known is None or not known.isdisjoint(ids)

    def remove_results(self, *, keep_numbers: bool) -> None:
        """Remove what the session has left; of a refused candidate the numbers stay."""
        kept = self.candidate / papers.EVALUATION
        try:
            numbers = dict(files.read_json(kept)) if keep_numbers else {}
        except (OSError, ValueError, TypeError):
            numbers = {}
        if numbers:  # said first: whoever is to promote it looks here
            files.write_json(kept, numbers | {FORGOTTEN: True})
        for path in sorted(self.path.rglob("*"), reverse=True):
            if not numbers or path not in {kept, kept.parent}:
                files.remove(path)
        files.remove_empty(self.path)

    def has_only_numbers(self) -> bool:
        """Tell whether the weights were removed and only the numbers are there."""
        try:
            return bool(files.read_json(self.candidate / papers.EVALUATION).get(FORGOTTEN))
        except (OSError, ValueError, AttributeError):
            return False


def as_row(item: Recalled) -> dict[str, Any]:
    """Return an old example as a line of ``old.jsonl``."""
    return records.as_json(item.example) | {"right": item.right}


def from_row(row: dict[str, Any]) -> Recalled:
    """Return the old example of a line of ``old.jsonl``."""
    known = {name: value for name, value in row.items() if name != "right"}
    return Recalled(example=records.restore(Example, known), right=row["right"])


def of_job(track: Track, job: int) -> RunFolder:
    """Return where a job's session runs."""
    return RunFolder(track.registry.candidates / f"job-{job}")


def refused(track: Track, job: int) -> RunFolder:
    """Return where a job's candidate is kept that was refused."""
    return RunFolder(track.registry.rejected / f"job-{job}")
