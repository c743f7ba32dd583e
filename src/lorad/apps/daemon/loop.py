"""One learning step. Settle, accept, plan, train, judge, promote, swap, prune.

What lives here: the order of things, and moving drops and jobs along their states. What never does:
threads, processes, clocks, tensors; whatever starts a child or loads weights is handed in.

Every step can be repeated: the disk and the ledger are the truth, so start-up is ``recover`` and then the
same ``step`` as always. What meets a full disk or short memory is tried again later, each time after a longer
wait, and at once after a restart.
"""

import contextlib
import json
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lorad import records
from lorad.apps.daemon import forgetting
from lorad.config import InboxSettings, RegistrySettings, Settings
from lorad.datasets import reader as samples
from lorad.datasets import sidecar
from lorad.datasets.inbox import failures
from lorad.datasets.inbox.inbox import PATIENCE, Inbox, InboxFile, RejectedEntry, Taken, unchanged
from lorad.datasets.isolated.reader_process import InProcessReader
from lorad.errors import (
    LoradError,
    ProtocolError,
    RegistryError,
    SampleError,
    TrainingError,
    TransientError,
    describe,
)
from lorad.evaluation import judge
from lorad.log import get_logger
from lorad.records import BASE, Example, Job, Plan, Score, SessionResult, SessionSpec
from lorad.states import OPEN_JOBS, TRANSITIONS, DropState, JobState
from lorad.storage import files
from lorad.storage.database import Database
from lorad.storage.file_names import readable
from lorad.storage.ledger import Ledger
from lorad.storage.memory import Memory, Recalled
from lorad.storage.source import Signature, Source, together
from lorad.training import planner
from lorad.training.executors.interface import Executor, RunningSession
from lorad.training.run_folder import RunFolder
from lorad.versions.promotion import PromotionRecord
from lorad.versions.store import Registry

log = get_logger()

MAX_ATTEMPTS = 3
"""A job whose daemon died under it is started again this often; then it waits for a human."""

LONGEST_WAIT = 300.0
"""Seconds between two tries of what meets a full disk."""

PASSING = {"disk", "memory", "locked"}
"""What a session may have failed of that has nothing to do with what it learns."""
WHY_NOT = {
    JobState.QUEUED: "it waits for its turn; take it out of the queue with: lorad cancel {job}",
    JobState.TRAINING: "its session runs; end it with: lorad cancel {job}",
    JobState.JUDGING: "its session has ended and is being judged; look again in a moment",
    JobState.PROMOTED: "it became {version}; what serves is changed with: lorad rollback --to VERSION",
    JobState.REJECTED: "it has ended; queue it again with: lorad retry {job}",
    JobState.FAILED: "it has ended; queue it again with: lorad retry {job}",
    JobState.CANCELLED: "it has ended; queue it again with: lorad retry {job}",
}
"""Why a job does not take an order, and which one it would take."""
LEARNED_FORGOTTEN = "it was trained on what was forgotten meanwhile"
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


class ModelPort(Protocol):
    """What the cycle asks of those who hold models: measure rows, start sessions, swap versions."""

    def check(self, track: str, example: Example) -> Example:
        """Return an example as the track learns it; raise ``SampleError`` for one that its base could not give back."""

    def plan(self, track: str, examples: Sequence[Example], overrides: dict[str, Any], drift: float) -> Plan:
        """Plan a session for these examples, on a parent that has drifted so far from its base (``judge.drift``)."""

    def serve(self, track: str, version: str | None) -> None:
        """Answer from this version from now on; raise ``RegistryError`` when it cannot be loaded."""

    def fingerprint(self, track: str) -> str:
        """Return the fingerprint of the track's base model."""

    def damaged_bases(self) -> list[LoradError]:
        """Hash the base models' files anew; return one error for each base that is not what was added."""


class Reader(Protocol):
    """Reads dropped files, in this process or in one of its own (``reader_process``)."""

    def read(
        self,
        file: Source,
        limits: InboxSettings,
        task: str,
        fields: Mapping[str, str],
        labels: Sequence[str],
        check: samples.Check,
    ) -> samples.Reading:
        """Read a dataset file; raise ``SampleError`` for one of which too little can be used."""

    def sidecar(self, source: Source) -> sidecar.Sidecar:
        """Read a sidecar; raise ``SampleError``."""


class Backoff:
    """What has to wait before it is tried again, in seconds of a steady clock."""

    def __init__(self) -> None:
        self._waits: dict[Hashable, tuple[int, float]] = {}

    def is_over(self, what: Hashable, ticks: float) -> bool:
        """Tell whether this may be tried."""
        return ticks >= self._waits.get(what, (0, ticks))[1]

    def lengthen(self, what: Hashable, ticks: float, least: float = 0.0) -> int:
        """Let this wait twice as long as the last time, ``least`` seconds or more; return how often it has failed."""
        tries = self._waits.get(what, (0, 0.0))[0] + 1
        self._waits[what] = (tries, ticks + max(least, min(LONGEST_WAIT, 2.0 ** (tries - 1))))
        return tries

    def tries(self, what: Hashable) -> int:
        """Return how often this has failed."""
        return self._waits.get(what, (0, 0.0))[0]

    def end(self, what: Hashable) -> None:
        """Note that this went well."""
        self._waits.pop(what, None)


class Cycle:
    """The learning loop of one home; ``step`` is called again and again by whoever owns the clock."""

    def __init__(
        self,
        *,
        settings: Settings,
        database: Database,
        inbox: Inbox,
        registries: dict[str, Registry],
        tracks: ModelPort,
        executor: Executor,
        base_folder: Callable[[str], Path],
        reader: Reader | None = None,
    ) -> None:
        self.settings = settings
        self._reader: Reader = reader or InProcessReader()
        self.ledger = Ledger(database)
        self.memory = Memory(database)
        self.registries = registries
        self.inbox = inbox
        self._database = database
        self._tracks = tracks
        self._executor = executor
        self._base_folder = base_folder
        self._running: tuple[Job, RunningSession] | None = None
        self._waits = Backoff()
        self._told: set[tuple[Hashable, str]] = set()
        """What has been logged in full: the same again is told in a line."""
        self._begun: dict[int, records.Drop] = {}
        """The drops whose reading is counted in the ledger as one that the daemon has not survived yet."""
        self._cut: set[Path] = set()
        """Files whose end was missing when they were read; they are read once more."""
        self._troubles: dict[Hashable, str] = {}
        """What could not be done at its last try, and why."""
        self._is_swept = False
        self._is_log_empty = False
        """Whether the database's log, where forgotten words may still stand, was emptied since they were forgotten."""
        self._is_full = False
        self._to_serve: set[str] = set()
        """Tracks whose newest version could not be brought into memory yet."""

    # -- the picture

    def step(self, now: float, ticks: float) -> None:
        """Do what can be done now, without waiting. ``now`` is the time of day, ``ticks`` a steady clock."""
        self._try("look", ticks, partial(self.look, now, ticks))
        self._try("accept", ticks, partial(self._accept_all, now, ticks))
        self._try("look back", ticks, partial(self._look_back, now, ticks))
        if self._running is None:
            self._try("start", ticks, partial(self.start_next, now, ticks))
        else:
            self._try("watch", ticks, partial(self.watch, now, ticks))
        self._try("serve", ticks, partial(self._serve_waiting, ticks))
        if not self._is_swept:
            self._try("clean up", ticks, partial(self.clean_up, now))
        if not self._is_log_empty:
            self._try("empty log", ticks, self._empty_log)

    def _try(self, what: Hashable, ticks: float, act: Callable[[], None]) -> None:
        """Do something unless it has to wait; what cannot be done now waits, and nothing waits for it."""
        if not self._waits.is_over(what, ticks):
            return
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever it is, the rest of a step has its turn
            self._put_off(what, ticks, error)
        else:
            self._waits.end(what)
            self._troubles.pop(what, None)
            self._told = {told for told in self._told if told[0] != what}
            if isinstance(what, Path):
                self.inbox.held.pop(what, None)

    def _put_off(self, what: Hashable, ticks: float, error: Exception) -> None:
        tries = self._waits.lengthen(what, ticks, self._least_wait(error))
        self._troubles[what] = str(error) or type(error).__name__
        if isinstance(what, Path):
            self.inbox.held[what] = self._troubles[what]
        facts = {"what": readable(str(what)), "tries": tries, **describe(error)}
        kind = (what, type(error).__name__)
        if failures.is_passing(error) or kind in self._told:
            log.warning("tried_again_later", **facts)
        else:
            self._told.add(kind)
            log.error("step_failed", **facts, exc_info=error)

    def _least_wait(self, error: Exception) -> float:
        """Return the seconds that a file rests at least which somebody writes to, or whose end is missing."""
        times = {"changed": 1, "cut_off": PATIENCE}.get(getattr(error, "code", ""), 0)
        return self.settings.inbox.settle_seconds * times * isinstance(error, TransientError)

    def _try_file(
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
                if not failures.ends_file(error, self._waits.tries(file.path) + 1):
                    raise
                tell = (
                    log.warning if isinstance(error, SampleError) else log.exception
                )  # which says what it is
                tell("file_ended", file=file.name, **describe(error))
                end(failures.as_reason(file.name, error))

        self._try(file.path, ticks, attempt)

    def _accept_all(self, now: float, ticks: float) -> None:
        for file in self.inbox.processing():
            self._try_file(file, ticks, partial(self.accept, file, now), partial(self._end_unread, file, now))

    def _empty_log(self) -> None:
        self._database.empty_log()
        self._is_log_empty = True

    # -- start

    def recover(self, now: float) -> None:
        """Bring ledger, folders and tracker to one story after any kind of stop."""
        for sentence in self.inbox.recover():
            log.warning("folders_moved", what=sentence)
            self.ledger.record_event("recovered", now, what=sentence)
        taken = {file.drop for file in self.inbox.processing()}
        for drop in self.ledger.drops(state=DropState.PROCESSING, limit=-1):
            if drop.id not in taken:
                self.ledger.withdraw(drop)  # its file still lies in the inbox, or somebody took it away
        for track in self.registries:
            self._recover_registry(track, now)
        newest = max((registry.newest_job() for registry in self.registries.values()), default=0)
        self.ledger.jobs_begin_at = newest + 1
        for job in self.ledger.open_jobs():
            if job.track not in self.registries:
                log.warning(
                    "no_such_track", job=job.id, track=job.track, why="it waits until the track is back"
                )
            elif job.state is not JobState.QUEUED:
                self._recover_job(job, now)
        self._is_swept = False

    def _recover_job(self, job: Job, now: float) -> None:
        version = self.registries[job.track].of_job(job.id)
        if version is not None:  # promoted on disk, not yet in the ledger
            self._enter(job, version, now)
        elif job.attempts >= MAX_ATTEMPTS:
            reason = {
                "code": "interrupted",
                "message": f"the daemon stopped {job.attempts} times during this session; let it go on with: lorad resume "
                f"{job.id}, or from an earlier round with --from",
            }
            self.ledger.move_job(job, "crash", now, reason=reason)
        else:
            with self._database.transaction():
                self.ledger.move_job(job, "requeue", now)
                self.ledger.record_event(
                    "requeued", now, job=job.id, why="the daemon stopped during the session"
                )

    def serve_all(self, ticks: float) -> None:
        """Serve every track's newest version; what short memory prevents is tried again by ``step``."""
        self._to_serve.update(self.registries)
        self._serve_waiting(ticks)

    def _serve_waiting(self, ticks: float) -> None:
        for track in sorted(self._to_serve):
            self._try(("serve", track), ticks, partial(self.serve_newest, track))

    def _serve(self, track: str, version: str | None) -> None:
        """Answer from this version; until that has gone well ``step`` tries what is ``latest`` then."""
        self._to_serve.add(track)
        self._tracks.serve(track, version)
        self._to_serve.discard(track)

    def serve_newest(self, track: str) -> None:
        """Serve ``latest`` or what stands in for it; the base, when there is neither."""
        registry = self.registries[track]
        refused: set[str] = set()
        while version := registry.newest_intact(self._tracks.fingerprint(track), refused):
            try:
                self._serve(track, version)
            except RegistryError as error:
                refused.add(version)
                if error.is_damage:
                    registry.mark_corrupt(version)
                log.warning("version_refused", track=track, **error.as_dict())
            else:
                if version != registry.latest:
                    registry.rollback(version)
                    log.warning("serving_older", track=track, version=version)
                return
        self._to_serve.discard(track)
        if registry.latest:
            log.error("no_version_serves", track=track, answers="base")

    # -- settle and accept

    def look(self, now: float, ticks: float) -> None:
        """Take what lies complete in the inbox while there is room, and refuse what is no dataset file."""
        taken = len(self.inbox.processing()) + len(self.ledger.open_jobs())
        room = self.settings.inbox.max_queued_files - taken
        if room <= 0 and self._is_full:
            return
        most = max(0, min(room, TAKEN_AT_ONCE))
        ready = self.inbox.settled(ticks, most)
        self._tell_full(ready, room, now)
        for file in ready[:most]:
            self._try_file(file, ticks, partial(self.take, file, now), partial(self.inbox.leave, file.path))
        for stranger in self.inbox.strangers():
            file = stranger.file
            self._try_file(
                file, ticks, partial(self._refuse, stranger, now), partial(self.inbox.leave, file.path)
            )

    def _tell_full(self, ready: Sequence[InboxFile], room: int, now: float) -> None:
        was_full, self._is_full = self._is_full, self.inbox.count > room and len(ready) >= room
        if self._is_full and not was_full:
            why = (
                f"{self.inbox.count} files lie in the inbox, and no more than inbox.max_queued_files "
                f"({self.settings.inbox.max_queued_files}) wait to be learned; the others are taken as there is room"
            )
            self.ledger.record_event("inbox_full", now, code="too_many_files", why=why)
            log.warning("inbox_full", code="too_many_files", why=why)

    def take(self, file: InboxFile, now: float) -> None:
        """Move a complete file out of its writer's reach, into the folder of a new drop."""
        drop = self.ledger.take(file.name, file.track, now)
        try:
            self.inbox.take(file, drop.id)
        except FileNotFoundError:
            self.ledger.withdraw(drop)
            log.warning("withdrawn", file=file.name)
        except BaseException:
            self.ledger.withdraw(drop)
            raise

    def _refuse(self, stranger: RejectedEntry, now: float) -> None:
        """Tell of what is no dataset file; links, pipes and devices are put aside, unopened."""
        file, error = stranger.file, stranger.error
        if not stranger.is_left:
            self.inbox.fail(file.path, error.as_dict() | {"track": file.track})
        name = "not_taken" if stranger.is_left else "failed"
        self.ledger.record_event(name, now, file=file.name, code=error.code, why=error.message)
        log.warning("file_refused", file=file.name, code=error.code, why=error.message)

    def accept(self, file: InboxFile, now: float) -> None:
        """Bring a taken file to its end: its examples into memory and a job into the queue, or it to ``failed/``.

        The ledger is told first, and all at once; moving the file is what a crash may leave to be done.
        """
        try:
            drop = self.ledger.drop(file.drop)
        except ProtocolError:
            drop = None
        if drop is None or (drop.name, drop.track) != (file.name, file.track):
            self.take(file, now)  # another ledger took it, one that was lost
            return
        if drop.state is DropState.PROCESSING:
            drop = self._close(drop, file, now)
        self._put_away_file(drop, file, now)

    def _put_away_file(self, drop: records.Drop, file: InboxFile, now: float) -> None:
        """Move a file whose drop has ended to where people find it, the ledger told of the place before."""
        is_failed = drop.state is DropState.FAILED
        place = self.inbox.place_of_failed(file.path) if is_failed else self.inbox.place_of(file.path, now)
        if drop.read_as:
            self.ledger.keep(drop.id, place)
        if is_failed:
            self.inbox.fail(file.path, drop.reason | {"track": drop.track})
        else:
            self.inbox.finish(file.path, now)
        self._cut.discard(file.path)

    def _end_unread(self, file: InboxFile, now: float, error: SampleError) -> None:
        """End a file that raised what no reader should."""
        reason = error.as_dict()
        with contextlib.suppress(ProtocolError):
            drop = self.ledger.drop(file.drop)
            reason |= {"track": drop.track}
            if drop.state is DropState.PROCESSING:
                self._fail(drop, error, now)
            elif drop.state is not DropState.FAILED:
                reason["message"] = f"{drop.name} was read, but could not be moved to done/: {error.message}"
        self.inbox.fail(file.path, reason)
        self._begun.pop(file.drop, None)

    def _close(self, drop: records.Drop, file: InboxFile, now: float) -> records.Drop:
        """Read a file and remember what it says, or fail it. The ledger counts the readings that end the daemon."""
        if drop.id not in self._begun:
            if drop.attempts >= MAX_READS:
                return self._fail(drop, _deadly(drop), now)
            self.ledger.count_attempt(drop, 1)
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
            self.ledger.count_attempt(drop, -1)
            self._begun.pop(number, None)

    def _read_and_remember(self, drop: records.Drop, file: InboxFile, now: float) -> records.Drop:
        read_as = ""
        try:
            with self.inbox.opened(file) as taken:
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

    def _fail(self, drop: records.Drop, error: SampleError, now: float, read_as: str = "") -> records.Drop:
        with self._database.transaction():
            self._tell_again(drop, now)
            closed = self.ledger.close_drop(drop, "fail", now, reason=error.as_dict(), read_as=read_as)
            self.ledger.record_event("failed", now, file=drop.name, code=error.code, why=error.message)
        log.warning("file_failed", file=drop.name, code=error.code, why=error.message)
        return closed

    def _read(self, taken: Taken) -> tuple[sidecar.Sidecar, samples.Reading]:
        meta = self._reader.sidecar(taken.beside) if taken.beside else sidecar.Sidecar()
        task = self.settings.tracks[taken.track].task
        meta.fit(sidecar.path_of(taken.path).name, taken.track, task, tuple(self.settings.tracks))
        check = partial(self._tracks.check, taken.track)
        limits = self.settings.inbox
        return meta, self._reader.read(taken.source, limits, task, meta.fields, meta.labels, check)

    def _remember(
        self, drop: records.Drop, reading: samples.Reading, now: float, description: str, read_as: str
    ) -> records.Drop:
        twin = self.ledger.find_content(drop.track, reading.digest)
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
        with self._database.transaction():
            self._tell_again(drop, now)
            self._take_back_rows(drop, reading, now)
            registry = self.registries[drop.track]
            lineage = registry.lineage(registry.latest)
            open_drops = {int(job.settings.get("drop", 0)) for job in self.ledger.open_jobs()}
            intake = self.memory.add(drop.track, reading.examples, drop.id, now, lineage, open_drops)
            counts = {"new": intake.new, "known": intake.known, "replacing": len(intake.replacing)}
            report |= counts | {
                # no words, for `lorad forget`
                "replaced": [example.id for example in intake.replacing[:TOLD]],
            }
            event = "accept" if intake.new else "repeat"
            closed = self.ledger.close_drop(
                drop, event, now, content=reading.digest, rows=reading.rows, reason=report, read_as=read_as
            )
            if intake.new == 0:
                same = f"it says the same as {twin.name}" if twin else "every row was known already"
                self.ledger.record_event("duplicate", now, file=drop.name, why=same)
                return closed
            dataset = reading.examples[0].dataset
            job = self.ledger.queue(drop.track, dataset, now, settings={"drop": drop.id})
            counts |= {"bad": len(reading.problems), "contradictions": reading.contradictions}
            told = {name: count for name, count in counts.items() if count}
            self.ledger.record_event("accepted", now, file=drop.name, rows=reading.rows, job=job.id, **told)
        log.info(
            "accepted", file=drop.name, rows=reading.rows, new=intake.new, known=intake.known, job=job.id
        )
        return closed

    # -- what was written to after it was read

    def _look_back(self, now: float, ticks: float) -> None:
        """Take files again that have ended and went on since."""
        if not self.inbox.is_to_look_back(ticks):
            return
        kept = {drop.kept_as: drop for drop in self.ledger.kept(now - LOOK_BACK_SECONDS, LOOK_BACK_FILES)}
        ended = {place: _signature(drop) for place, drop in kept.items()}
        for place in self.inbox.changed(ended, ticks):
            self._try(("again", place), ticks, partial(self._take_again, kept[place], now))

    def _take_again(self, drop: records.Drop, now: float) -> None:
        if len(self.ledger.origins(drop)) >= MOST_AGAIN:
            why = f"{drop.name} was read {MOST_AGAIN} times and still goes on; drop it again when it is finished"
            self.ledger.keep(drop.id, "")
            self.ledger.record_event("changed_later", now, file=drop.name, why=why)
            log.warning("changed_later", file=drop.name, why=why)
            return
        again = self.ledger.take(drop.name, drop.track, now, again_of=drop.id)
        try:
            self.inbox.take_back(drop.kept_as, drop.name, drop.track, again.id)
        except FileNotFoundError:
            self.ledger.withdraw(again)
        except BaseException:
            self.ledger.withdraw(again)
            raise

    def _tell_again(self, drop: records.Drop, now: float) -> None:
        if drop.again_of is None:
            return
        why = f"{drop.name} went on after it was read; it is read again"
        self.ledger.keep(drop.again_of, "")
        self.ledger.record_event("changed_later", now, file=drop.name, why=why)
        log.warning("changed_later", file=drop.name, why=why)

    def _take_back_rows(self, drop: records.Drop, reading: samples.Reading, now: float) -> None:
        """Forget what an earlier reading of the same file said and this one does not: half an answer, say."""
        earlier = self.ledger.origins(drop)
        gone = self.memory.take_back(drop.track, earlier, reading.examples, now) if earlier else 0
        if gone:
            why = f"{drop.name} no longer says it; a version that learned it keeps it until: lorad consolidate --refit"
            self.ledger.record_event(
                "forgotten", now, track=drop.track, file=drop.name, examples=gone, why=why
            )
            self._is_swept = self._is_log_empty = False

    # -- plan and train

    def start_next(self, now: float, ticks: float) -> None:
        """Start the oldest queued job, unless learning is paused."""
        jobs = self.ledger.open_jobs()
        for job in jobs:
            if job.state is not JobState.QUEUED and job.track in self.registries:  # nothing runs: see `watch`
                self._recover_job(job, now)
        if self.ledger.flag("paused") or not self._waits.is_over("session", ticks):
            return
        queued = next(
            (job for job in jobs if job.state is JobState.QUEUED and job.track in self.registries), None
        )
        if queued is not None:
            self._start(queued, now)

    def _start(self, job: Job, now: float) -> None:
        if job.force and self._promote_kept(job, now):
            return
        try:
            with files.passing_errors(f"preparing job {job.id}"):
                folder = self._prepare(job)
        except (TransientError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the jobs behind this one must have their turn
            self._crash(self.ledger.move_job(job, "start", now), error, now)
            return
        with self._database.transaction():
            started = self.ledger.move_job(job, "start", now)
            self.ledger.record_event("training", now, job=job.id, dataset=job.dataset)
        try:
            with files.passing_errors(f"starting job {job.id}"):
                self._running = (started, self._executor.start(folder))
        except TransientError:
            self.ledger.move_job(started, "requeue", now, attempts=job.attempts)
            raise
        except (LoradError, OSError) as error:
            self._crash(started, error, now)
        else:
            log.info("training", job=job.id, dataset=job.dataset)

    def _prepare(self, job: Job) -> RunFolder:
        registry = self.registries[job.track]
        track = self.settings.tracks[job.track]
        parent = registry.newest_intact(self._tracks.fingerprint(job.track))
        new, old = self.materials(job, registry.lineage(parent))
        # of the parent itself: memory tells of the version that was tested last
        right = registry.result(parent).right if parent else {}
        old = [replace(item, right=right.get(item.example.id, item.right)) for item in old]
        if job.kind == "learn" and not new:
            raise TrainingError(
                "nothing is left to learn from this drop; it was forgotten or replaced", code="nothing_new"
            )
        if job.kind != "learn" and not old:
            raise TrainingError(
                "nothing in memory belongs to what serves now, so there is nothing to make a version of; "
                + (
                    "the base alone serves after: lorad rollback --to base"
                    if parent
                    else "drop the files again, or go back to a version: lorad versions"
                ),
                code="nothing_learned",
            )
        overrides = {key: value for key, value in job.settings.items() if key != "drop"}
        grown_from = parent if job.kind != "refit" else None
        drift = (
            judge.drift(registry.result(grown_from).evaluation, self.settings.judge) if grown_from else 0.0
        )
        if job.kind == "consolidate":  # what mends a truncation is small, or nothing would be gained
            rank = max(1, self.settings.training.max_rank // 8)
            limit = self.settings.training.max_rank // 2
            if parent and registry.rank(parent) <= limit:
                raise TrainingError(
                    f"{parent} has rank {registry.rank(parent)}, no more than {limit} (half of training.max_rank): "
                    "there is nothing to make smaller; with --refit everything is learned anew",
                    code="nothing_to_consolidate",
                )
            overrides = {"rank": rank, "alpha": 2 * rank, **overrides}
        order = SessionSpec(
            job=job.id,
            track=job.track,
            task=track.task,
            kind=job.kind,
            dataset=job.dataset,
            base=str(self._base_folder(track.base)),
            parent=str(registry.path(grown_from)) if grown_from else None,
            parent_version=parent,
            plan=self._tracks.plan(job.track, new or [item.example for item in old], overrides, drift),
            settings={
                "training": self.settings.training.model_dump(),
                "judge": self.settings.judge.model_dump(),
                "resolved": self.settings.model_dump(mode="json"),
            },
        )
        folder = self._run_folder(job)
        folder.begin(order, new, old)
        return folder

    def _run_folder(self, job: Job) -> RunFolder:
        return RunFolder(self.registries[job.track].candidates / f"job-{job.id}")

    def _promote_kept(self, job: Job, now: float) -> bool:
        """By force, promote the candidate that was refused, if what it was trained on serves still; tell whether it was."""
        registry = self.registries[job.track]
        kept, folder = RunFolder(registry.rejected / f"job-{job.id}"), self._run_folder(job)
        try:
            result = kept.result()
        except (OSError, ValueError):
            return False
        if result.parent != registry.newest_intact(self._tracks.fingerprint(job.track)):
            return False
        if kept.is_empty() or self._was_forgotten(job.track, kept):
            return False
        files.remove(folder.path)
        files.rename(kept.path, folder.path)
        self._settle(self.ledger.move_job(job, "start", now), folder, now)
        self._is_swept = False
        return True

    def materials(self, job: Job, lineage: Sequence[str]) -> tuple[list[Example], list[Recalled]]:
        """Return a job's new examples, and the old ones that its answers do not replace."""
        new = (
            self.memory.of_drop(job.track, job.dataset, int(job.settings.get("drop", 0)))
            if job.kind == "learn"
            else []
        )
        answered = {example.input_id for example in new}
        ids = {example.id for example in new}
        learned = self.memory.learned(job.track, lineage)
        old = [
            item for item in learned if item.example.input_id not in answered and item.example.id not in ids
        ]
        return new, old

    # -- judge and promote

    def watch(self, now: float, ticks: float) -> None:
        """Look at the running session; when it has ended, judge what it left.

        Until that is done the session counts as running, so that what a full disk prevents is done later.
        """
        assert self._running is not None  # noqa: S101 - step asks only when one runs
        number, session = self._running[0].id, self._running[1]
        status = session.poll(ticks)
        if status is None:
            return
        job = self.ledger.job(number)
        is_queued_again = job.state is JobState.QUEUED  # it was cancelled and retried: this is not its end
        if job.state in OPEN_JOBS and not is_queued_again:
            self._end_session(job, status, now, ticks)
        self._running = None
        self._is_swept = False

    def _end_session(self, job: Job, status: int, now: float, ticks: float) -> None:
        folder = self._run_folder(job)
        error = folder.failure(status) if status else None
        if error is not None and error.code in PASSING:
            tries = self._waits.lengthen("session", ticks)
            with self._database.transaction():
                self.ledger.move_job(job, "requeue", now, attempts=job.attempts - 1)
                self.ledger.record_event("requeued", now, job=job.id, why=error.message)
            log.warning("session_tried_again_later", job=job.id, tries=tries, **error.as_dict())
            return
        self._waits.end("session")
        if error is not None:
            self._crash(job, error, now)
        else:
            self._settle(job, folder, now)

    def _settle(self, job: Job, folder: RunFolder, now: float) -> None:
        """Settle a candidate; what cannot be settled is a failed job, what may pass is raised."""
        try:
            with files.passing_errors(f"judging job {job.id}"):
                self.settle_candidate(job, folder, now)
        except TransientError:
            raise
        except (LoradError, OSError) as failure:
            self._crash(self.ledger.job(job.id), failure, now)

    def settle_candidate(self, job: Job, folder: RunFolder, now: float) -> None:
        """Judge a candidate; promote it and swap, or keep it aside with its numbers. Can be repeated."""
        registry = self.registries[job.track]
        if job.state is JobState.TRAINING:
            job = self.ledger.move_job(job, "trained", now)
        if not folder.candidate.exists():
            registry.recover()  # it had become a version when the disk was full
        version = registry.of_job(job.id)
        if version is None:
            result = folder.result()
            parent = registry.newest_intact(self._tracks.fingerprint(job.track))
            if result.parent != parent:
                then, serves = result.parent or "the base", parent or "the base"
                self._begin_again(job, folder, f"it was trained on {then}, and {serves} serves now", now)
                return
            if self._was_forgotten(job.track, folder):
                self._begin_again(job, folder, LEARNED_FORGOTTEN, now)
                return
            if not result.verdict.promote and not job.force:
                self._report(job, "reject", result, now)
                return
            version = registry.promote(folder.candidate, self._birth(job, result), now)
        # before it is told: whoever hears of the promotion asks the version at once
        refusal = self._swap(job.track, version)
        self._enter(job, version, now)
        if refusal:
            self._retreat(job.track, version, refusal, now)

    def _was_forgotten(self, track: str, folder: RunFolder) -> bool:
        """Tell whether any of what a session's folder was made with was forgotten since."""
        return bool(self.memory.forgotten(track, folder.trained_on() or ()))

    def _begin_again(self, job: Job, folder: RunFolder, why: str, now: float) -> None:
        """Queue a job anew whose candidate nobody wants: it carries what does not serve any more, or was forgotten."""
        files.remove(folder.path)
        with self._database.transaction():
            self.ledger.move_job(job, "requeue", now, attempts=job.attempts - 1)
            self.ledger.record_event("requeued", now, job=job.id, why=why)
        log.warning("session_begins_again", job=job.id, why=why)

    def _birth(self, job: Job, result: SessionResult) -> PromotionRecord:
        evaluation = result.evaluation
        new = {evaluation.dataset: evaluation.new}
        old = [score - new.get(name, Score(right=0, total=0)) for name, score in evaluation.scores.items()]
        performance = {
            "recall": round(evaluation.headline_score.recall, 4),
            "retention": round(sum(s.right for s in old) / max(1, sum(s.total for s in old)), 4),
            **({} if evaluation.perplexity is None else {"perplexity": round(evaluation.perplexity, 3)}),
        }
        if not any(score.total for score in old):
            del performance["retention"]
        words = {
            "learn": f"learned {job.dataset}",
            "refit": "refitted from all of memory",
            "consolidate": "consolidated",
        }
        return PromotionRecord(
            job=job.id,
            parent=result.parent,
            base=result.base,
            description=words[job.kind],
            performance=performance,
        )

    def _enter(self, job: Job, version: str, now: float) -> None:
        """Make ledger and memory agree with a version that is already on disk; can be repeated."""
        result = self.registries[job.track].result(version)
        with self._database.transaction():
            if job.state is JobState.TRAINING:
                job = self.ledger.move_job(job, "trained", now)
            self.memory.mark_learned(job.track, result.learned, version)
            self.memory.record_recall(job.track, version, result.right)
            self._report(replace(job, version=version), "promote", result, now)

    def _swap(self, track: str, version: str) -> LoradError | None:
        """Serve a version, now or later; return what speaks against it, if anything does."""
        try:
            self._serve(track, version)
        except (
            TransientError,
            OSError,
            MemoryError,
        ) as error:  # short memory, say: the version is not to blame
            log.warning("serving_later", track=track, version=version, **describe(error))
        except LoradError as error:
            return error
        return None

    def _report(self, job: Job, event: str, result: SessionResult, now: float) -> None:
        verdict, evaluation = result.verdict, result.evaluation
        reason = {
            "reasons": list(verdict.reasons),
            "failed": list(verdict.failed),
            "ended_by": evaluation.ended_by,
        }
        facts = {
            "job": job.id,
            "dataset": job.dataset,
            "version": job.version,
            "recall": round(evaluation.headline_score.recall, 4),
        }
        with self._database.transaction():
            moved = self.ledger.move_job(job, event, now, version=job.version, reason=reason)
            self.ledger.record_event(str(moved.state), now, **facts, failed=list(verdict.failed))
        log.info(str(moved.state), **facts, failed=list(verdict.failed), ended_by=evaluation.ended_by)

    def _retreat(self, track: str, version: str, error: LoradError, now: float) -> None:
        """Go back to the newest sound version: the promoted one cannot serve."""
        registry = self.registries[track]
        if getattr(error, "is_damage", True):
            registry.mark_corrupt(version)
        sound = registry.newest_intact(self._tracks.fingerprint(track), {version})
        if sound:
            registry.rollback(sound)
        self._serve(track, sound)
        self.ledger.record_event(
            "rolled_back", now, track=track, version=version, to=sound, why=error.message
        )
        log.error("rolled_back", track=track, version=version, to=sound, code=error.code, why=error.message)

    def _crash(self, job: Job, error: BaseException, now: float) -> None:
        reason = describe(error)
        self._is_swept = False
        with self._database.transaction():
            self.ledger.move_job(job, "crash", now, reason=reason)
            self.ledger.record_event(
                "session_failed", now, job=job.id, dataset=job.dataset, why=reason["message"]
            )
        log.error("session_failed", job=job.id, **reason)

    # -- prune

    def clean_up(self, now: float) -> None:
        """Put away what ended sessions left, and prune; can be repeated.

        A cancelled session writes until it is gone; its folder's turn comes when ``watch`` has seen its end.
        """
        running = self._running[0].id if self._running else None
        for track, registry in self.registries.items():
            for number, folder in registry.left():
                if number != running:
                    self._put_away(registry, number, folder)
            self._remove_forgotten(track)
            registry.remove_unfinished()
            registry.prune_rejected(self.settings.registry.keep_rejected)
            try:
                self.prune(track, self.settings.registry, now)
            except TransientError:
                raise
            except LoradError as error:  # versions serve; what is too much can go another day
                log.warning("prune_failed", track=track, **describe(error))
        if days := self.inbox.prune_done(now):
            self.ledger.record_event("done_pruned", now, days=days)
            log.info("done_pruned", days=days)
        self._is_swept = True

    def _remove_forgotten(self, track: str) -> None:
        """Remove what was made with forgotten words and is there still: the daemon ended while they were forgotten."""
        registry = self.registries[track]
        for is_kept, made in ((True, registry.kept()), (False, registry.left())):
            for _, folder in made:
                known = RunFolder(folder).trained_on() or set()
                if gone := self.memory.forgotten(track, known):
                    log.warning("forgotten_removed", folder=folder.name, examples=len(gone))
                    RunFolder(folder).empty(keep_numbers=is_kept)

    def _put_away(self, registry: Registry, number: int, folder: Path) -> None:
        """Do with a session's folder what its job's state says; of one that may go on, log and checkpoints stay."""
        try:
            job = self.ledger.job(number)
        except ProtocolError:  # of a ledger that was lost
            files.remove(folder)
            return
        left = RunFolder(folder)
        if job.state is JobState.REJECTED:
            left.remove_words()
            registry.reject(folder, job.id)
        elif job.state is JobState.PROMOTED and job.version:
            try:
                registry.keep_merged(left.merged, job.version)
            except TransientError:
                raise
            except (LoradError, OSError) as error:  # the version stands without it
                log.warning("no_merged_copy", job=job.id, version=job.version, error=str(error))
            files.remove(folder)
        elif job.state is JobState.CANCELLED:
            files.remove(folder)
        elif job.state in {JobState.FAILED, JobState.QUEUED}:
            left.remove_words()

    # -- what people ask for

    @property
    def session(self) -> tuple[Job, dict[str, Any]] | None:
        """Return the running job and its newest progress, or ``None``."""
        running = self._running
        if running is None:
            return None
        progress = running[1].progress
        if why := self._troubles.get("watch"):
            progress = progress | {"phase": f"ended, and waits to be judged: {why}"}
        return running[0], progress

    def why_waiting(self, file: InboxFile) -> str:
        """Return why a file is not taken or accepted yet, as far as it is known."""
        return self.inbox.held.get(file.path) or self._troubles.get(file.path, "")

    @property
    def troubles(self) -> list[str]:
        """Return why something waits that could not be done, each reason once; of files their own line tells."""
        told = [why for what, why in self._troubles.copy().items() if not isinstance(what, Path)]
        return list(dict.fromkeys(told))

    def cancel(self, job_id: int, now: float) -> Job:
        """Take a job out of the queue, or end its session; nothing but its time is lost."""
        with self._database.transaction():
            job = self.ledger.move_job(self._job_for(job_id, "cancel"), "cancel", now)
            self.ledger.record_event("cancelled", now, job=job_id)
        if self._running and self._running[0].id == job_id:
            self._running[1].stop()
        self._is_swept = False
        return job

    def retry(
        self, job_id: int, now: float, *, force: bool = False, settings: dict[str, Any] | None = None
    ) -> Job:
        """Queue a rejected, failed or cancelled job again, perhaps with other settings or by force.

        By force alone, the candidate that was refused is promoted as it is; with other settings it is made anew.
        """
        job = self._job_for(job_id, "retry")
        planner.check_changes(settings or {})
        with self._database.transaction():
            changed = self.ledger.move_job(
                job, "retry", now, force=int(force), settings=job.settings | (settings or {}), attempts=0
            )
            self.ledger.record_event("retry", now, job=job_id, force=force)
            if settings:  # the last thing that can fail but the commit
                files.remove(self.registries[job.track].rejected / f"job-{job.id}")
        return changed

    def _job_for(self, job_id: int, order: str) -> Job:
        """Return a job that can be given this order, or raise ``ProtocolError`` (409) that says why it cannot."""
        job = self.ledger.job(job_id)
        if order not in TRANSITIONS[JobState][job.state]:
            why = WHY_NOT[job.state].format(job=job.id, version=job.version)
            raise ProtocolError(
                f"job {job.id} is {job.state}: {why}", status=409, code="illegal_transition", job=job.id
            )
        return job

    def resume(self, job_id: int, checkpoint: str | None, now: float) -> tuple[Job, str | None]:
        """Queue a job again, to go on behind its newest complete checkpoint or the one named; later ones go.

        Return the job and that checkpoint, ``None`` when there is none and it begins anew.
        """
        job = self._job_for(job_id, "retry")
        folder = self._run_folder(job)
        known = folder.checkpoint_names()
        if checkpoint is not None and checkpoint not in known:
            raise ProtocolError(
                f"job {job_id} has no checkpoint {checkpoint}; it has: {', '.join(known) or 'none'}",
                status=404,
                code="no_such_checkpoint",
            )
        changed = self.retry(job_id, now, force=bool(job.force))
        if checkpoint is not None:
            folder.remove_checkpoints(known[known.index(checkpoint) + 1 :])
        return changed, checkpoint or (known[-1] if known else None)

    def consolidate_idle(self, now: float) -> list[Job]:
        """Queue the consolidation of every track that is idle and whose adapter has grown over half its limit.

        One that came to nothing for what serves now would come to nothing again, and is not repeated.
        """
        busy = {job.track for job in self.ledger.open_jobs()}
        queued = []
        for track, registry in self.registries.items():
            version = registry.newest_intact(self._tracks.fingerprint(track))
            if (
                version
                and track not in busy
                and registry.rank(version) > self.settings.training.max_rank // 2
                and not self._was_consolidated_in_vain(track, version)
            ):
                with self._database.transaction():
                    queued.append(self.ledger.queue(track, "memory", now, kind="consolidate"))
                    self.ledger.record_event(
                        "consolidating", now, track=track, version=version, job=queued[-1].id
                    )
        return queued

    def consolidate(self, track: str, now: float, *, refit: bool) -> Job:
        """Queue a session that makes one adapter of all, or refits one; return the one that waits already, if so."""
        kind = "refit" if refit else "consolidate"
        waiting = (job for job in self.ledger.open_jobs() if job.state is JobState.QUEUED)
        same = next((job for job in waiting if (job.track, job.kind) == (track, kind)), None)
        return same or self.ledger.queue(track, "memory", now, kind=kind)

    def _was_consolidated_in_vain(self, track: str, version: str) -> bool:
        made_by = self.registries[track].manifest(version)["job"] or 0  # by number: the clock may be set back
        return any(
            job.state in {JobState.REJECTED, JobState.FAILED} and job.id > made_by
            for job in self.ledger.ended_jobs(track=track, kind="consolidate", limit=1)
        )

    def scrub(self, now: float) -> list[LoradError]:
        """Hash every version and base anew, to find bit rot before it is needed; return what was found.

        A version that serves from memory and is damaged on disk is replaced by the newest sound one: it could
        not be loaded again.
        """
        found: list[LoradError] = [*self._tracks.damaged_bases()]
        for track, registry in self.registries.items():
            self._recover_registry(track, now)
            damaged = registry.scrub()
            if registry.latest in damaged:
                self._retreat(track, str(registry.latest), damaged[registry.latest], now)
            found += damaged.values()
        for error in found:
            self.ledger.record_event("damaged", now, why=error.message)
            log.error("damaged", **error.as_dict())
        self.ledger.record_event("scrubbed", now, damaged=len(found))
        self._is_swept = False  # days have passed, whether or not a session has ended
        return found

    def _recover_registry(self, track: str, now: float) -> None:
        for sentence in self.registries[track].recover():
            log.warning("registry_recovered", track=track, what=sentence)
            self.ledger.record_event("recovered", now, track=track, what=sentence)

    def rollback(self, track: str, to: str | None, now: float) -> dict[str, str | None]:
        """Serve ``previous`` (or the version named, or the base) again; nothing changes when it cannot be loaded."""
        registry = self.registries[track]
        before = registry.latest, registry.previous
        self.ledger.prove_writable()
        try:
            latest, previous = registry.rollback(to)
            self._serve(track, latest)
            with self._database.transaction():
                if latest is not None:
                    self.memory.record_recall(track, latest, registry.result(latest).right)
                self.ledger.record_event("rolled_back", now, track=track, to=latest or BASE, why="asked for")
        except Exception:
            self._take_back(track, before)
            raise
        return {"latest": latest, "previous": previous, "serving": latest}

    def _take_back(self, track: str, before: tuple[str | None, str | None]) -> None:
        """Undo a rollback that failed half-way; what cannot be undone either is told by the first error."""
        registry = self.registries[track]
        with contextlib.suppress(LoradError, OSError):
            if (registry.latest, registry.previous) != before:
                self._to_serve.add(track)
                registry.put_back(*before)

    def remains(self, track: str, selector: str) -> forgetting.Remains:
        """Return what holds the words that forgetting this would remove from memory."""
        ids = {example.id for example in self.memory.meant(track, selector)}
        running = self._running[0].id if self._running else None
        return forgetting.find(self.registries[track], self.memory, self.ledger, track, ids, running)

    def forget(self, track: str, selector: str, now: float) -> int:
        """Remove on purpose a dataset, or what holds a text, and its words; return how many examples that were.

        A running session that learns or rehearses them begins anew without them, and what others left of them goes.
        """
        ids = {example.id for example in self.memory.meant(track, selector)}
        begun = self._learning(track, ids)
        with self._database.transaction():
            is_dataset = self.memory.has_dataset(track, selector)
            gone = self.memory.forget(track, selector, now)
            what = {"dataset": selector} if is_dataset else {}  # a text may be the very words to be forgotten
            self.ledger.record_event("forgotten", now, track=track, **what, examples=gone)
            if begun and begun.state in {JobState.TRAINING, JobState.JUDGING}:
                self.ledger.move_job(begun, "requeue", now, attempts=begun.attempts - 1)
                self.ledger.record_event("requeued", now, job=begun.id, why=LEARNED_FORGOTTEN)
        if begun and self._running:
            self._running[1].stop()
            self._running = None
        self._is_swept = self._is_log_empty = False
        if ids:
            self._remove_made_with(track, ids)
        return gone

    def _learning(self, track: str, ids: Collection[str]) -> Job | None:
        """Return the job whose session runs and has any of these examples."""
        if not ids or self._running is None or self._running[0].track != track:
            return None
        job = self.ledger.job(self._running[0].id)
        return job if self._run_folder(job).holds(ids) else None

    def _remove_made_with(self, track: str, ids: Collection[str]) -> None:
        """Remove what ended sessions that had these examples have left; what a full disk keeps here ``sweep`` removes."""
        registry = self.registries[track]
        running = self._running[0].id if self._running else None
        for is_kept, made in ((True, registry.kept()), (False, registry.left())):
            for number, folder in made:
                if number != running and RunFolder(folder).holds(ids):
                    RunFolder(folder).empty(keep_numbers=is_kept)

    def prune(
        self, track: str, limits: RegistrySettings, now: float, *, dry_run: bool = False
    ) -> dict[str, str]:
        """Remove the versions beyond the limits, but not the one that the running session builds on."""
        gone = self.registries[track].prune(limits, now, self._needed(track), dry_run=dry_run)
        if gone and not dry_run:
            self.ledger.record_event("pruned", now, track=track, versions=list(gone))
            log.info("pruned", track=track, versions=gone)
        return gone

    def _needed(self, track: str) -> list[str]:
        if self._running is None or self._running[0].track != track:
            return []
        parent = self._run_folder(self._running[0]).spec().parent_version
        return [parent] if parent else []

    def halt(self, now: float) -> None:
        """Stop the running session before the daemon ends; its job is queued again."""
        if self._running:
            job, session = self._running
            session.stop()
            self._running = None
            current = self.ledger.job(job.id)
            if current.state is JobState.TRAINING:
                self.ledger.move_job(current, "requeue", now, attempts=job.attempts - 1)


def _signature(drop: records.Drop) -> Signature:
    """Return what a drop's file was when it was read."""
    size, changed_at, number = json.loads(drop.read_as)
    return size, changed_at, number


def _deadly(drop: records.Drop) -> SampleError:
    return SampleError(
        f"the daemon ended {drop.attempts} times while it read {drop.name}; split it and drop the parts",
        code="ended_the_daemon",
    )
