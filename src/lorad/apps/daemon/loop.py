"""One learning step. Scan, accept, start or watch a session, serve, clean up, index.

What lives here: the order of things, and which part does them. What never does: threads, processes, clocks, tensors;
whatever starts a child or loads weights is handed in.

Every step can be repeated: the disk and the ledger are the truth, so start-up is ``recovery`` and then the same
``step`` as always. What meets a full disk or short memory is tried again later, each time after a longer wait, and at
once after a restart.
"""

from collections.abc import Callable, Mapping
from functools import partial

from lorad.apps.daemon.acceptance import Acceptance
from lorad.apps.daemon.backoff import Attempts
from lorad.apps.daemon.commands import Commands
from lorad.apps.daemon.housekeeping import Housekeeping
from lorad.apps.daemon.indexing import Indexing
from lorad.apps.daemon.intake import Intake, least_rest
from lorad.apps.daemon.loop_state import LoopState
from lorad.apps.daemon.ports import Documents, ModelPort, Reader, Stepping
from lorad.apps.daemon.preparation import Preparation
from lorad.apps.daemon.recovery import Recovery
from lorad.apps.daemon.refitting import Hours, Refitting, minute_of_day
from lorad.apps.daemon.served_versions import ServedVersions
from lorad.apps.daemon.sessions import Sessions
from lorad.apps.daemon.settlement import Settlement
from lorad.config import Settings
from lorad.datasets.inbox.inbox import Inbox
from lorad.storage.ledger import Ledger
from lorad.track import Track
from lorad.training.executors.interface import Executor


class LearningLoop:
    """The learning loop of one home; ``step`` is called again and again by whoever owns the clock."""

    def __init__(
        self,
        *,
        settings: Settings,
        tracks: Mapping[str, Track],
        ledger: Ledger,
        inbox: Inbox,
        reader: Reader,
        models: ModelPort,
        executor: Executor,
        indexing: Indexing,
        fitting: Stepping,
        documents: Documents,
        minute_of: Callable[[float], int] = minute_of_day,
    ) -> None:
        """``minute_of`` returns the minute of the local day of a time."""
        hours = Hours.read(settings.training.refit_hours)
        self.indexing = indexing
        self.fitting = fitting
        self.state = LoopState()
        self.attempts = Attempts(partial(least_rest, settings.inbox.settle_seconds))
        self.served = ServedVersions(tracks=tracks, ledger=ledger, models=models, attempts=self.attempts)
        acceptance = Acceptance(
            settings=settings.inbox,
            tracks=tracks,
            ledger=ledger,
            inbox=inbox,
            models=models,
            reader=reader,
            documents=documents,
            state=self.state,
        )
        self.intake = Intake(
            settings=settings.inbox,
            ledger=ledger,
            inbox=inbox,
            acceptance=acceptance,
            attempts=self.attempts,
        )
        self.settlement = Settlement(
            tracks=tracks, ledger=ledger, models=models, served=self.served, state=self.state
        )
        self.sessions = Sessions(
            tracks=tracks,
            ledger=ledger,
            models=models,
            executor=executor,
            preparation=Preparation(settings, models, ledger),
            settlement=self.settlement,
            attempts=self.attempts,
            state=self.state,
            is_night=lambda now: hours.holds(minute_of(now)),
        )
        self.refitting = Refitting(
            hours=hours,
            minute_of=minute_of,
            consolidate_at=settings.training.consolidate_at_drift,
            refit_at=settings.training.refit_at_drift,
            limits=settings.judge,
            tracks=tracks,
            ledger=ledger,
            sessions=self.sessions,
            state=self.state,
        )
        self.housekeeping = Housekeeping(
            settings=settings.registry, tracks=tracks, ledger=ledger, inbox=inbox, state=self.state
        )
        self.recovery = Recovery(
            tracks=tracks,
            ledger=ledger,
            models=models,
            intake=self.intake,
            settlement=self.settlement,
            served=self.served,
            state=self.state,
        )
        self.commands = Commands(
            settings=settings,
            tracks=tracks,
            ledger=ledger,
            models=models,
            served=self.served,
            housekeeping=self.housekeeping,
            state=self.state,
        )

    def step(self, now: float, ticks: float) -> bool:
        """Do what can be done now, without waiting; return whether the next step has work already.

        ``now`` is the time of day, ``ticks`` a steady clock.
        """
        attempt = self.attempts.attempt
        attempt("scan", ticks, partial(self.intake.scan, now, ticks))
        attempt("accept", ticks, partial(self.intake.accept_all, now, ticks))
        attempt("look back", ticks, partial(self.intake.look_back, now, ticks))
        attempt("refit", ticks, partial(self.refitting.step, now, ticks))
        if self.state.running is None:
            attempt("start", ticks, partial(self.sessions.start_next, now, ticks))
        else:
            attempt("watch", ticks, partial(self.sessions.watch, now, ticks))
        attempt("serve", ticks, partial(self.served.serve_waiting, ticks))
        if not self.state.is_cleaned_up:
            attempt("clean up", ticks, partial(self.housekeeping.clean_up, now))
        if not self.state.is_log_empty:
            attempt("empty log", ticks, self.housekeeping.empty_log)
        self.state.has_unindexed = False  # also when it fails: it is tried again later
        attempt("index", ticks, self._index)
        return self.state.has_unindexed

    def _index(self) -> None:
        self.state.has_unindexed = self.indexing.step() or self.fitting.step()
