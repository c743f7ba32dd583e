"""From a file that was taken to examples in memory and a job in the queue, or to a reason why not.

What lives here: reading a file once, telling the ledger all at once, and where the file goes. What never does: which
files are taken (``intake``), formats (``datasets.reader``).
"""

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorad import records
from lorad.apps.daemon import forgetting
from lorad.apps.daemon.loop_state import LoopState
from lorad.apps.daemon.ports import Documents, ModelPort, Reader
from lorad.config import InboxSettings
from lorad.datasets import documents, label_names, reader, sidecar
from lorad.datasets.inbox.drop_folders import InboxFile
from lorad.datasets.inbox.inbox import Inbox
from lorad.datasets.inbox.taken_files import Taken, unchanged
from lorad.errors import ProtocolError, SampleError, TransientError
from lorad.log import get_logger
from lorad.records import LABELLED, RETRIEVAL, Drop, Example, Job
from lorad.states import DropState
from lorad.storage.ledger import Ledger
from lorad.storage.memory import AddResult
from lorad.tasks import find
from lorad.track import Track

log = get_logger()

TOLD = 20
"""Bad rows, contradictions and replaced answers that a drop's report lists."""
MAX_READS = 3
"""A file that the daemon died of so often while it read it is not read again."""


class Acceptance:
    """Brings taken files to their end; what a crash has left of that is done again."""

    def __init__(
        self,
        *,
        settings: InboxSettings,
        tracks: Mapping[str, Track],
        ledger: Ledger,
        inbox: Inbox,
        models: ModelPort,
        reader: Reader,
        documents: Documents,
        state: LoopState,
    ) -> None:
        self._settings = settings
        self._documents = documents
        self._tracks = tracks
        self._ledger = ledger
        self._inbox = inbox
        self._models = models
        self._reader = reader
        self._state = state
        self._begun: dict[int, Drop] = {}
        """The drops whose reading is counted in the ledger as one that the daemon has not survived yet."""
        self._cut: set[Path] = set()
        """Files whose end was missing when they were read; they are read once more."""

    def accept(self, drop: Drop, file: InboxFile, now: float) -> None:
        """Bring a taken file to its end: its examples into memory and a job into the queue, or it to ``failed/``.

        The ledger is told first, and all at once; moving the file is what a crash may leave to be done.
        """
        if drop.state is DropState.PROCESSING:
            drop = self._close(drop, file, now)
        self._put_away(drop, file, now)

    def _put_away(self, drop: Drop, file: InboxFile, now: float) -> None:
        """Move a file whose drop has ended to where people find it, the ledger told of the place before."""
        is_failed = drop.state is DropState.FAILED
        place = self._inbox.place_of_failed(file.path) if is_failed else self._inbox.place_of(file.path, now)
        if drop.read_as:
            self._ledger.keep(drop.id, place)
        if is_failed:
            self._inbox.fail(file.path, drop.reason | {"track": drop.track})
        else:
            self._inbox.finish(file.path, now)
        self._cut.discard(file.path)

    def end_unread(self, file: InboxFile, now: float, error: SampleError) -> None:
        """End a file that raised what no reader should."""
        reason = error.as_dict()
        with contextlib.suppress(ProtocolError):
            drop = self._ledger.drop(file.drop)
            reason |= {"track": drop.track}
            if drop.state is DropState.PROCESSING:
                self._fail(drop, error, now)
            elif drop.state is not DropState.FAILED:
                reason["message"] = f"{drop.name} was read, but could not be moved to done/: {error.message}"
        self._inbox.fail(file.path, reason)
        self._begun.pop(file.drop, None)

    # -- reading

    def _close(self, drop: Drop, file: InboxFile, now: float) -> Drop:
        """Read a file and remember what it says, or fail it. The ledger counts the readings that end the daemon."""
        if drop.id not in self._begun:
            if drop.attempts >= MAX_READS:
                return self._fail(drop, _deadly(drop), now)
            self._ledger.count_attempt(drop, 1)
            self._begun[drop.id] = drop
        try:
            closed = self._read_and_remember(drop, file, now)
        except Exception:
            with contextlib.suppress(Exception):  # it is not counted again before it is taken back
                self.excuse_readings()
            raise
        self._begun.pop(drop.id, None)
        return closed

    def excuse_readings(self) -> None:
        """Take back the count of files that are being read: the daemon ends, or goes on, for another reason."""
        for number, drop in list(self._begun.items()):
            self._ledger.count_attempt(drop, -1)
            self._begun.pop(number, None)

    def _read_and_remember(self, drop: Drop, file: InboxFile, now: float) -> Drop:
        read_as = ""
        try:
            with self._inbox.opened(file) as taken:
                read_as = json.dumps(taken.signature)
                with unchanged(taken):
                    meta, reading = self._read(taken)
            if drop.track in self._documents.tracks:
                return self._store(drop, reading, meta, now, read_as)
            return self._remember(drop, reading, now, meta.description, read_as)
        except SampleError as error:
            if error.code == "cut_off" and file.path not in self._cut:
                self._cut.add(file.path)
                raise TransientError(
                    f"{file.name} is incomplete; it is read again in case it is still being written",
                    code="cut_off",
                ) from error
            return self._fail(drop, error, now, read_as)

    def _read(self, taken: Taken) -> tuple[sidecar.Sidecar, reader.Reading]:
        meta = self._reader.sidecar(taken.beside) if taken.beside else sidecar.Sidecar()
        holds_documents = taken.track in self._documents.tracks
        formats = RETRIEVAL if holds_documents else find(self._tracks[taken.track].settings.task).formats
        known = (*self._tracks, *self._documents.tracks)
        meta.fit(sidecar.path_of(taken.path).name, taken.track, formats, known)
        if holds_documents:
            return meta, self._reader.read(
                taken.source,
                self._settings,
                formats,
                meta.fields,
                (),
                lambda document: document,
                held_out=(),
                known=(),
            )
        track = self._tracks[taken.track]
        task = find(track.settings.task)
        beside = task.checker(track.memory.targets, meta.labels)

        def check(example: Example) -> Example:
            beside(example)
            return self._models.check(track, example)

        held_out = self._reader.wordings(taken.wordings) if taken.wordings else ()
        reading = self._reader.read(
            taken.source,
            self._settings,
            formats,
            meta.fields,
            meta.labels,
            check,
            held_out=held_out,
            known=self._known_labels(track, formats),
        )
        return meta, reading

    def _known_labels(self, track: Track, formats: str) -> set[str]:
        """Return the labels of what a track knows, of what waits to be learned, and of what only the weights still know."""
        if formats not in LABELLED:
            return set()
        kept = (label_names.of_target(formats, target) for target in track.memory.targets())
        return set(self._models.labels(track)).union(*kept)

    def _fail(self, drop: Drop, error: SampleError, now: float, read_as: str = "") -> Drop:
        with self._ledger.transaction():
            self._tell_again(drop, now)
            closed = self._ledger.close_drop(drop, "fail", now, reason=error.as_dict(), read_as=read_as)
            self._ledger.record_event("failed", now, file=drop.name, code=error.code, why=error.message)
        log.warning("file_failed", file=drop.name, code=error.code, why=error.message)
        return closed

    # -- documents

    def _store(
        self, drop: Drop, reading: reader.Reading, meta: sidecar.Sidecar, now: float, read_as: str
    ) -> Drop:
        """Store a file's documents, which need no session, and then tell the ledger.

        These are two databases: a crash between them has the same drop stored again, which changes nothing and says the same.
        """
        found = (
            documents.of_example(example, drop.name, tags=meta.tags, date=meta.date, method=meta.split)
            for example in reading.examples
        )
        earlier = self._ledger.origins(drop)
        added = dict(self._documents.add(drop.track, found, drop=drop.id, now=now, earlier=earlier))
        is_new = bool(added.keys() - {"known"})
        with self._ledger.transaction():
            self._tell_again(drop, now)
            closed = self._ledger.close_drop(
                drop,
                "accept" if is_new else "repeat",
                now,
                content=reading.digest,
                rows=reading.rows,
                reason=_report(reading, meta.description) | {"documents": added},
                read_as=read_as,
            )
            if is_new:
                self._ledger.record_event("stored", now, file=drop.name, track=drop.track, **added)
            else:
                self._ledger.record_event(
                    "duplicate", now, file=drop.name, why="every document is already known"
                )
        log.info("stored", file=drop.name, track=drop.track, **added)
        return closed

    # -- remembering

    def _remember(
        self, drop: Drop, reading: reader.Reading, now: float, description: str, read_as: str
    ) -> Drop:
        twin = self._ledger.find_content(drop.track, reading.digest)
        track = self._tracks[drop.track]
        earlier = self._ledger.origins(drop)
        gone = track.memory.only_in(earlier, reading.examples) if earlier else set()
        with forgetting.begun_anew(track, self._ledger, self._state, gone, now):
            self._tell_again(drop, now)
            if earlier:
                self._take_back_rows(drop, earlier, gone, now)
            open_drops = {int(job.settings.get("drop", 0)) for job in self._ledger.open_jobs()}
            added = track.memory.add(reading.examples, drop.id, now, track.lineage(), open_drops)
            closed = self._ledger.close_drop(
                drop,
                "accept" if added.new else "repeat",
                now,
                content=reading.digest,
                rows=reading.rows,
                reason=_report(reading, description) | _counts(added) | _replaced(added),
                read_as=read_as,
            )
            job = self._queue(drop, reading, added, now) if added.new else None
            if job is None:
                same = f"it has the same content as {twin.name}" if twin else "every row is already known"
                more = f"; {added.wordings} wordings added" if added.wordings else ""
                self._ledger.record_event("duplicate", now, file=drop.name, why=f"{same}{more}")
        if job is not None:
            log.info(
                "accepted", file=drop.name, rows=reading.rows, new=added.new, known=added.known, job=job.id
            )
        return closed

    def _queue(self, drop: Drop, reading: reader.Reading, added: AddResult, now: float) -> Job:
        job = self._ledger.queue(drop.track, reading.examples[0].dataset, now, settings={"drop": drop.id})
        counts = _counts(added) | {"bad": len(reading.problems), "contradictions": reading.contradictions}
        told = {name: count for name, count in counts.items() if count}
        self._ledger.record_event("accepted", now, file=drop.name, rows=reading.rows, job=job.id, **told)
        return job

    def _tell_again(self, drop: Drop, now: float) -> None:
        """Say that a file went on after it was read; its earlier reading is not looked at again."""
        if drop.again_of is None:
            return
        why = f"{drop.name} was changed after it was read; it is read again"
        self._ledger.keep(drop.again_of, "")
        self._ledger.record_event("changed_later", now, file=drop.name, why=why)
        log.warning("changed_later", file=drop.name, why=why)

    def _take_back_rows(self, drop: Drop, earlier: Sequence[int], gone: Collection[str], now: float) -> None:
        """Forget what earlier readings of the same file said and this one does not: half an answer, say."""
        self._tracks[drop.track].memory.take_back(earlier, gone, now)
        if gone:
            why = f"{drop.name} no longer contains it; a version that learned it keeps it until: lorad consolidate --refit"
            facts = {"track": drop.track, "file": drop.name, "examples": len(gone), "why": why}
            self._ledger.record_event("forgotten", now, **facts)


def _report(reading: reader.Reading, description: str) -> dict[str, Any]:
    """Return what people are told of a file's rows."""
    return {
        "formats": reading.formats,
        "repeated_rows": reading.repeated,
        "contradictions": reading.contradictions,
        "contradicted_rows": [example.line for example in reading.contradicted[:TOLD]],
        "bad": len(reading.problems),
        "bad_rows": [records.as_json(problem) for problem in reading.problems[:TOLD]],
        **({"left_out": reading.left_out} if reading.left_out else {}),
        **({"description": description} if description else {}),
    }


def _counts(added: AddResult) -> dict[str, int]:
    counts = {"wordings": added.wordings, "refused_wordings": added.refused_wordings}
    told = {name: count for name, count in counts.items() if count}
    return {"new": added.new, "known": added.known, "replacing": len(added.replacing), **told}


def _replaced(added: AddResult) -> dict[str, Any]:
    """Return the ids of answers that gave way: no words, for ``lorad forget``."""
    return {"replaced": [example.id for example in added.replacing[:TOLD]]}


def _deadly(drop: Drop) -> SampleError:
    return SampleError(
        f"the daemon stopped {drop.attempts} times while reading {drop.name}; split it and drop the parts",
        code="ended_the_daemon",
    )
