"""Which files are taken out of the inbox, and in which order they come to their end.

What lives here: taking complete files while there is room, refusing what is no dataset file, taking again what went on
after it was read. What never does: finding files and moving them (``datasets.inbox``), what they say (``acceptance``).
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from lorad.apps.daemon.acceptance import Acceptance
from lorad.apps.daemon.backoff import Attempts
from lorad.config import InboxSettings
from lorad.datasets.inbox import failures
from lorad.datasets.inbox.drop_folders import InboxFile
from lorad.datasets.inbox.inbox import Inbox
from lorad.datasets.inbox.rejected_entries import RejectedEntry
from lorad.datasets.inbox.settling import PATIENCE
from lorad.errors import ProtocolError, SampleError, TransientError, describe
from lorad.log import get_logger
from lorad.records import Drop
from lorad.states import DropState
from lorad.storage.ledger import Ledger
from lorad.storage.source import Signature

log = get_logger()

LOOK_BACK_SECONDS = 86_400.0
"""A file that ended is looked at so long: whoever wrote it may go on."""
LOOK_BACK_FILES = 1000
"""The newest files that are looked at again."""
MOST_AGAIN = 10
"""How often a file is read again that goes on after it was read."""

TAKEN_AT_ONCE = 100
"""Files that one step takes: a flood must not keep the session and people's commands waiting."""


class Intake:
    """Takes files out of the inbox and brings each to its end."""

    def __init__(
        self,
        *,
        settings: InboxSettings,
        ledger: Ledger,
        inbox: Inbox,
        acceptance: Acceptance,
        attempts: Attempts,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._inbox = inbox
        self._acceptance = acceptance
        self._attempts = attempts
        self._is_full = False

    def recover(self, now: float) -> None:
        """Bring the ledger and the folders of files to one story after any kind of stop."""
        for sentence in self._inbox.recover():
            log.warning("folders_moved", what=sentence)
            self._ledger.record_event("recovered", now, what=sentence)
        taken = {file.drop for file in self._inbox.processing()}
        for drop in self._ledger.drops(state=DropState.PROCESSING, limit=-1):
            if drop.id not in taken:
                self._ledger.withdraw(drop)  # its file still lies in the inbox, or somebody took it away

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
            leave = partial(self._inbox.leave, entry.file.path)
            self._attempt(entry.file, ticks, partial(self._refuse, entry, now), leave)

    def _tell_full(self, ready: Sequence[InboxFile], room: int, now: float) -> None:
        was_full, self._is_full = self._is_full, self._inbox.count > room and len(ready) >= room
        if self._is_full and not was_full:
            why = (
                f"{self._inbox.count} files are in the inbox, and at most inbox.max_queued_files "
                f"({self._settings.max_queued_files}) may be queued; the others are taken when there is room"
            )
            self._ledger.record_event("inbox_full", now, code="too_many_files", why=why)
            log.warning("inbox_full", code="too_many_files", why=why)

    def take(self, file: InboxFile, now: float) -> None:
        """Move a complete file out of its writer's reach, into the folder of a new drop."""
        drop = self._ledger.take(file.name, file.track, now)
        with self._withdrawing(drop):
            self._inbox.take(file, drop.id)

    @contextlib.contextmanager
    def _withdrawing(self, drop: Drop) -> Iterator[None]:
        """Forget a drop whose file could not be taken; one that is gone meanwhile is nobody's fault."""
        try:
            yield
        except FileNotFoundError:
            self._ledger.withdraw(drop)
            log.warning("withdrawn", file=drop.name)
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
            end = partial(self._acceptance.end_unread, file, now)
            self._attempt(file, ticks, partial(self._accept, file, now), end)

    def _accept(self, file: InboxFile, now: float) -> None:
        drop = self._drop_of(file)
        if drop is None:
            self.take(file, now)  # another ledger took it, one that was lost
        else:
            self._acceptance.accept(drop, file, now)

    def _drop_of(self, file: InboxFile) -> Drop | None:
        try:
            drop = self._ledger.drop(file.drop)
        except ProtocolError:
            return None
        return drop if (drop.name, drop.track) == (file.name, file.track) else None

    def excuse_readings(self) -> None:
        """Count no file that is being read as one that ends the daemon."""
        self._acceptance.excuse_readings()

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
            why = f"{drop.name} was read {MOST_AGAIN} times and still changes; drop it again when it is complete"
            self._ledger.keep(drop.id, "")
            self._ledger.record_event("changed_later", now, file=drop.name, why=why)
            log.warning("changed_later", file=drop.name, why=why)
            return
        again = self._ledger.take(drop.name, drop.track, now, again_of=drop.id)
        with self._withdrawing(again):
            self._inbox.take_back(drop.kept_as, drop.name, drop.track, again.id)

    # -- trying

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

    def why_waiting(self, file: InboxFile) -> str:
        """Return why a file is not taken or accepted yet, as far as it is known."""
        return self._inbox.delayed.get(file.path) or self._attempts.why(file.path)


def least_rest(settle_seconds: float, error: Exception) -> float:
    """Return the seconds that a file rests at least which somebody writes to, or whose end is missing."""
    times = {"changed": 1, "cut_off": PATIENCE}.get(getattr(error, "code", ""), 0)
    return settle_seconds * times * isinstance(error, TransientError)


def _signature(drop: Drop) -> Signature:
    """Return what a drop's file was when it was read."""
    size, changed_at, number = json.loads(drop.read_as)
    return size, changed_at, number
