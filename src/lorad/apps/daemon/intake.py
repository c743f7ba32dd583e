"""From a file in the inbox to examples in memory and a job in the queue.

What lives here: moving drops along their states, and what is told of them. What never does: finding files and moving
them (``datasets.inbox``), reading them (``datasets.reader``).

Every file ends: accepted, as a duplicate, or failed with a reason.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from lorad import records
from lorad.apps.daemon.backoff import Attempts
from lorad.apps.daemon.loop_state import LoopState
from lorad.apps.daemon.ports import ModelPort, Reader
from lorad.config import InboxSettings
from lorad.datasets import reader, sidecar
from lorad.datasets.inbox import failures
from lorad.datasets.inbox.drop_folders import InboxFile
from lorad.datasets.inbox.inbox import Inbox
from lorad.datasets.inbox.rejected_entries import RejectedEntry
from lorad.datasets.inbox.settling import PATIENCE
from lorad.datasets.inbox.taken_files import Taken, unchanged
from lorad.errors import ProtocolError, SampleError, TransientError, describe
from lorad.log import get_logger
from lorad.records import Drop
from lorad.states import DropState
from lorad.storage.ledger import Ledger
from lorad.storage.source import Signature, together
from lorad.track import Track

log = get_logger()

TOLD = 20
"""Bad rows, contradictions and replaced answers that a drop's report lists."""

MAX_READS = 3
"""A file that the daemon died of so often while it read it is not read again."""

LOOK_BACK_SECONDS = 86_400.0
"""A file that ended is looked at so long: whoever wrote it may go on."""
LOOK_BACK_FILES = 1000
"""The newest files that are looked at again."""
MOST_AGAIN = 10
"""How often a file is read again that goes on after it was read."""

TAKEN_AT_ONCE = 100
"""Files that one step takes: a flood must not keep the session and people's commands waiting."""


class Intake:
    """Takes files out of the inbox and accepts what they say."""

    def __init__(
        self,
        *,
        settings: InboxSettings,
        tracks: Mapping[str, Track],
        ledger: Ledger,
        inbox: Inbox,
        models: ModelPort,
        reader: Reader,
        attempts: Attempts,
        state: LoopState,
    ) -> None:
        self._settings = settings
        self._tracks = tracks
        self._ledger = ledger
        self._inbox = inbox
        self._models = models
        self._reader = reader
        self._attempts = attempts
        self._state = state
        self._begun: dict[int, Drop] = {}
        """The drops whose reading is counted in the ledger as one that the daemon has not survived yet."""
        self._cut: set[Path] = set()
        """Files whose end was missing when they were read; they are read once more."""
        self._is_full = False

    # -- taking

    def scan(self, now: float, ticks: float) -> None:
        """Take what lies complete in the inbox while there is room, and refuse what is no dataset file."""
        taken = len(self._inbox.processing()) + len(self._ledger.open_jobs())
        room = self._settings.max_queued_files - taken
        if room <= 0 and self._is_full:
            return
        most = max(0, min(room, TAKEN_AT_ONCE))
        ready = self._inbox.settled(ticks, most)
        self._tell_full(ready, room, now)
        for file in ready[:most]:
            self._attempt(file, ticks, partial(self.take, file, now), partial(self._inbox.leave, file.path))
        for entry in self._inbox.rejected():
            file = entry.file
            self._attempt(
                file, ticks, partial(self._refuse, entry, now), partial(self._inbox.leave, file.path)
            )

    def _tell_full(self, ready: Sequence[InboxFile], room: int, now: float) -> None:
        was_full, self._is_full = self._is_full, self._inbox.count > room and len(ready) >= room
        if self._is_full and not was_full:
            why = (
                f"{self._inbox.count} files lie in the inbox, and no more than inbox.max_queued_files "
                f"({self._settings.max_queued_files}) wait to be learned; the others are taken as there is room"
            )
            self._ledger.record_event("inbox_full", now, code="too_many_files", why=why)
            log.warning("inbox_full", code="too_many_files", why=why)

    def _attempt(
        self,
        file: InboxFile,
        ticks: float,
        act: Callable[[], None],
        end: Callable[[SampleError], None],
    ) -> None:
        """Try something with one file; what cannot pass, or will not, is the ``end`` of that file and of no other."""

        def attempt() -> None:
            try:
                act()
            except Exception as error:
                if not failures.ends_file(error, self._attempts.backoff.tries(file.path) + 1):
                    self._inbox.delayed[file.path] = str(error) or type(error).__name__
                    raise
                # an exception's traceback says what it is
                tell = log.warning if isinstance(error, SampleError) else log.exception
                tell("file_ended", file=file.name, **describe(error))
                end(failures.as_reason(file.name, error))
            self._inbox.delayed.pop(file.path, None)

        self._attempts.attempt(file.path, ticks, attempt)

    def take(self, file: InboxFile, now: float) -> None:
        """Move a complete file out of its writer's reach, into the folder of a new drop."""
        drop = self._ledger.take(file.name, file.track, now)
        try:
            self._inbox.take(file, drop.id)
        except FileNotFoundError:
            self._ledger.withdraw(drop)
            log.warning("withdrawn", file=file.name)
        except BaseException:
            self._ledger.withdraw(drop)
            raise

    def _refuse(self, entry: RejectedEntry, now: float) -> None:
        """Tell of what is no dataset file; links, pipes and devices are put aside, unopened."""
        file, error = entry.file, entry.error
        if not entry.is_left:
            self._inbox.fail(file.path, error.as_dict() | {"track": file.track})
        name = "not_taken" if entry.is_left else "failed"
        self._ledger.record_event(name, now, file=file.name, code=error.code, why=error.message)
        log.warning("file_refused", file=file.name, code=error.code, why=error.message)

    # -- accepting

    def accept_all(self, now: float, ticks: float) -> None:
        """Bring every file that was taken to its end."""
        for file in self._inbox.processing():
            self._attempt(file, ticks, partial(self.accept, file, now), partial(self._end_unread, file, now))

    def accept(self, file: InboxFile, now: float) -> None:
        """Bring a taken file to its end: its examples into memory and a job into the queue, or it to ``failed/``.

        The ledger is told first, and all at once; moving the file is what a crash may leave to be done.
        """
        try:
            drop = self._ledger.drop(file.drop)
        except ProtocolError:
            drop = None
        if drop is None or (drop.name, drop.track) != (file.name, file.track):
            self.take(file, now)  # another ledger took it, one that was lost
            return
        if drop.state is DropState.PROCESSING:
            drop = self._close(drop, file, now)
        self._put_away_file(drop, file, now)

    def _put_away_file(self, drop: Drop, file: InboxFile, now: float) -> None:
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

    def _end_unread(self, file: InboxFile, now: float, error: SampleError) -> None:
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
                read_as = json.dumps(together(*taken.signature))
                with unchanged(taken):
                    meta, reading = self._read(taken)
            return self._remember(drop, reading, now, meta.description, read_as)
        except SampleError as error:
            if error.code == "cut_off" and file.path not in self._cut:
                self._cut.add(file.path)
                raise TransientError(
                    f"{file.name} is cut off; in case somebody still writes it, it is read again",
                    code="cut_off",
                ) from error
            return self._fail(drop, error, now, read_as)

    def _fail(self, drop: Drop, error: SampleError, now: float, read_as: str = "") -> Drop:
        with self._ledger.transaction():
            self._tell_again(drop, now)
            closed = self._ledger.close_drop(drop, "fail", now, reason=error.as_dict(), read_as=read_as)
            self._ledger.record_event("failed", now, file=drop.name, code=error.code, why=error.message)
        log.warning("file_failed", file=drop.name, code=error.code, why=error.message)
        return closed

    def _read(self, taken: Taken) -> tuple[sidecar.Sidecar, reader.Reading]:
        meta = self._reader.sidecar(taken.beside) if taken.beside else sidecar.Sidecar()
        track = self._tracks[taken.track]
        task = track.settings.task
        meta.fit(sidecar.path_of(taken.path).name, taken.track, task, tuple(self._tracks))
        check = partial(self._models.check, track)
        return meta, self._reader.read(taken.source, self._settings, task, meta.fields, meta.labels, check)

    def _remember(
        self, drop: Drop, reading: reader.Reading, now: float, description: str, read_as: str
    ) -> Drop:
        twin = self._ledger.find_content(drop.track, reading.digest)
        report = {
            "formats": reading.formats,
            "repeated_rows": reading.repeated,
            "contradictions": reading.contradictions,
            "contradicted_rows": [example.line for example in reading.contradicted[:TOLD]],
            "bad": len(reading.problems),
            "bad_rows": [records.as_json(problem) for problem in reading.problems[:TOLD]],
            **({"left_out": reading.left_out} if reading.left_out else {}),
            **({"description": description} if description else {}),
        }
        with self._ledger.transaction():
            self._tell_again(drop, now)
            self._take_back_rows(drop, reading, now)
            track = self._tracks[drop.track]
            open_drops = {int(job.settings.get("drop", 0)) for job in self._ledger.open_jobs()}
            intake = track.memory.add(reading.examples, drop.id, now, track.lineage(), open_drops)
            counts = {"new": intake.new, "known": intake.known, "replacing": len(intake.replacing)}
            report |= counts | {
                # no words, for `lorad forget`
                "replaced": [example.id for example in intake.replacing[:TOLD]],
            }
            event = "accept" if intake.new else "repeat"
            closed = self._ledger.close_drop(
                drop, event, now, content=reading.digest, rows=reading.rows, reason=report, read_as=read_as
            )
            if intake.new == 0:
                same = f"it says the same as {twin.name}" if twin else "every row was known already"
                self._ledger.record_event("duplicate", now, file=drop.name, why=same)
                return closed
            dataset = reading.examples[0].dataset
            job = self._ledger.queue(drop.track, dataset, now, settings={"drop": drop.id})
            counts |= {"bad": len(reading.problems), "contradictions": reading.contradictions}
            told = {name: count for name, count in counts.items() if count}
            self._ledger.record_event("accepted", now, file=drop.name, rows=reading.rows, job=job.id, **told)
        log.info(
            "accepted", file=drop.name, rows=reading.rows, new=intake.new, known=intake.known, job=job.id
        )
        return closed

    # -- what was written to after it was read

    def look_back(self, now: float, ticks: float) -> None:
        """Take files again that have ended and went on since."""
        if not self._inbox.is_to_look_back(ticks):
            return
        kept = {drop.kept_as: drop for drop in self._ledger.kept(now - LOOK_BACK_SECONDS, LOOK_BACK_FILES)}
        ended = {place: _signature(drop) for place, drop in kept.items()}
        for place in self._inbox.changed(ended, ticks):
            self._attempts.attempt(("again", place), ticks, partial(self._take_again, kept[place], now))

    def _take_again(self, drop: Drop, now: float) -> None:
        if len(self._ledger.origins(drop)) >= MOST_AGAIN:
            why = (
                f"{drop.name} was read {MOST_AGAIN} times and still goes on; drop it anew when it is finished"
            )
            self._ledger.keep(drop.id, "")
            self._ledger.record_event("changed_later", now, file=drop.name, why=why)
            log.warning("changed_later", file=drop.name, why=why)
            return
        again = self._ledger.take(drop.name, drop.track, now, again_of=drop.id)
        try:
            self._inbox.take_back(drop.kept_as, drop.name, drop.track, again.id)
        except FileNotFoundError:
            self._ledger.withdraw(again)
        except BaseException:
            self._ledger.withdraw(again)
            raise

    def _tell_again(self, drop: Drop, now: float) -> None:
        if drop.again_of is None:
            return
        why = f"{drop.name} went on after it was read; it is read again"
        self._ledger.keep(drop.again_of, "")
        self._ledger.record_event("changed_later", now, file=drop.name, why=why)
        log.warning("changed_later", file=drop.name, why=why)

    def _take_back_rows(self, drop: Drop, reading: reader.Reading, now: float) -> None:
        """Forget what an earlier reading of the same file said and this one does not: half an answer, say."""
        earlier = self._ledger.origins(drop)
        gone = self._tracks[drop.track].memory.take_back(earlier, reading.examples, now) if earlier else 0
        if gone:
            why = f"{drop.name} no longer says it; a version that learned it keeps it until: lorad consolidate --refit"
            self._ledger.record_event(
                "forgotten", now, track=drop.track, file=drop.name, examples=gone, why=why
            )
            self._state.hide_words()

    def why_waiting(self, file: InboxFile) -> str:
        """Return why a file is not taken or accepted yet, as far as it is known."""
        return self._inbox.delayed.get(file.path) or self._attempts.why(file.path)

    def recover(self, now: float) -> None:
        """Bring the ledger and the folders of files to one story after any kind of stop."""
        for sentence in self._inbox.recover():
            log.warning("folders_moved", what=sentence)
            self._ledger.record_event("recovered", now, what=sentence)
        taken = {file.drop for file in self._inbox.processing()}
        for drop in self._ledger.drops(state=DropState.PROCESSING, limit=-1):
            if drop.id not in taken:
                self._ledger.withdraw(drop)  # its file still lies in the inbox, or somebody took it away


def least_rest(settle_seconds: float, error: Exception) -> float:
    """Return the seconds that a file rests at least which somebody writes to, or whose end is missing."""
    times = {"changed": 1, "cut_off": PATIENCE}.get(getattr(error, "code", ""), 0)
    return settle_seconds * times * isinstance(error, TransientError)


def _signature(drop: Drop) -> Signature:
    """Return what a drop's file was when it was read."""
    size, changed_at, number = json.loads(drop.read_as)
    return size, changed_at, number


def _deadly(drop: Drop) -> SampleError:
    return SampleError(
        f"the daemon ended {drop.attempts} times while it read {drop.name}; split it and drop the parts",
        code="ended_the_daemon",
    )
