"""Wires everything, starts it in order, stops it in reverse.

What lives here: threads, processes, signals, clocks and the scheduler, and nothing that could be decided
elsewhere. One worker runs ``loop.step``, and the watcher only says "look"; one answers. The scheduler and the
HTTP server have their own.
"""

import argparse
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import psutil
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from lorad import __version__, log, records
from lorad.apps.daemon import forgetting
from lorad.apps.daemon.loop import Cycle
from lorad.apps.screens import terminal
from lorad.config import Settings, load_settings
from lorad.datasets.inbox import inbox, watching
from lorad.datasets.isolated.reader_process import Reader
from lorad.errors import ConfigError, LoradError, ProtocolError, TransientError
from lorad.home import Home, find_home
from lorad.models.bases import load_to_answer, shape, verify_base
from lorad.models.hardware import machine, quieten
from lorad.records import BASE, Example, Plan
from lorad.serving import queries
from lorad.serving.engine import Engine
from lorad.serving.http import connections, server
from lorad.serving.queries import Archive
from lorad.serving.requests import GenerationRequest, Sampling
from lorad.states import VersionState
from lorad.storage import files, permissions
from lorad.storage.database import Database
from lorad.tasks import encode, find
from lorad.training import planner
from lorad.training.executors.local import LocalExecutor
from lorad.versions.manifests import MANIFEST
from lorad.versions.store import Registry

logger = log.get_logger()

LOOK_SECONDS = 1.0
"""The cycle looks at least this often; events only make it look sooner."""
STOP_SECONDS = 10.0
"""A step that has not ended by then is left alone when the daemon stops."""
DESCRIPTORS = 10_240
"""Files and connections that may be open at once; macOS allows no more."""
JOBS_TOLD = 20
"""Ended jobs that a snapshot lists."""
SHOWN = 3
"""Examples that are shown before they are forgotten."""
READER_NEEDS = (
    "PATH",
    "PYTHON",
    "HOME",
    "LANG",
    "LC_",
    "LD_LIBRARY_PATH",
    "DYLD_",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
)
"""How variables of the environment begin that the process that reads files is given: no tokens."""
FILES_TOLD = 100
"""Waiting files that a snapshot lists; ten thousand would only fill a screen."""


class ReadingProcess:
    """A process that reads files, without our secrets; it ends with us by the pipe whose other end it holds."""

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-B", "-m", "lorad.datasets.isolated.worker", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # a file must not fill the log
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={name: value for name, value in os.environ.items() if name.startswith(READER_NEEDS)}
                | {"OMP_NUM_THREADS": "1"},
            )
        except BaseException:
            self.connection.close()
            raise
        finally:
            theirs.close()
        self._watched = psutil.Process(self._process.pid)  # nobody else has its number before ``end``

    @property
    def memory(self) -> int:
        """Return the bytes that it holds in memory."""
        try:
            return int(self._watched.memory_info().rss)
        except psutil.Error:  # it has ended
            return 0

    def end(self) -> int:
        """End it, if it still runs, and return its exit status."""
        self.connection.close()
        self._process.kill()
        status = self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        return status


class ModelHost:
    """The cycle's view of models: plans with real token counts, starts children, swaps versions."""

    def __init__(
        self, settings: Settings, home: Home, engine: Engine, registries: dict[str, Registry]
    ) -> None:
        self._settings = settings
        self._home = home
        self._engine = engine
        self._registries = registries

    def attach(self) -> None:
        """Load every track's base model, once."""
        loaded: dict[str, Any] = {}
        for name, track in self._settings.tracks.items():
            if track.base not in loaded:
                folder = self._home.base(track.base)
                if self._settings.engine.verify_base:
                    verify_base(folder)
                loaded[track.base] = load_to_answer(
                    folder, self._settings.engine.device, self._settings.training.dtype
                )
            self._engine.attach(name, find(track.task), loaded[track.base])

    def check(self, track: str, example: Example) -> Example:
        """Return an example as the track learns it; raise ``SampleError`` for one that its base could not give back."""
        return self._engine.task(track).check(self._engine.base(track).tokenizer, example)

    def plan(self, track: str, examples: Sequence[Example], overrides: dict[str, Any], drift: float) -> Plan:
        """Plan a session for these examples, on a parent that has drifted so far from its base."""
        usable, unusable = encode(self._engine.task(track), self._engine.base(track).tokenizer, examples)
        if not usable and unusable:
            raise unusable[0][1]
        return planner.plan(
            lengths=[len(encoded) for _, encoded in usable],
            shape=shape(self._home.base(self._settings.tracks[track].base)),
            machine=machine(self._settings.training.device),
            planner=self._settings.planner,
            rehearsal=self._settings.rehearsal,
            training=self._settings.training,
            overrides=overrides,
            drift=drift,
        )

    def fingerprint(self, track: str) -> str:
        """Return the fingerprint of the track's base model."""
        return self._engine.base(track).fingerprint

    def damaged_bases(self) -> list[LoradError]:
        """Hash the base models' files anew; return one error for each base that is not what was added."""
        found: list[LoradError] = []
        for name in dict.fromkeys(track.base for track in self._settings.tracks.values()):
            try:
                verify_base(self._home.base(name))
            except LoradError as error:
                found.append(error)
        return found

    def ensure_loaded(self, track: str, version: str) -> None:
        """Verify a version and bring it into memory."""
        if self._engine.resident(track, version):
            return
        folder = self._registries[track].verify(version, self.fingerprint(track))
        base_folder = self._home.base(self._settings.tracks[track].base)
        digest = files.file_digest(folder / MANIFEST)
        differs = self._engine.load(track, version, folder, digest, base_folder)
        if differs:
            logger.warning("environment_differs", track=track, version=version, differs=differs)

    def serve(self, track: str, version: str | None) -> None:
        """Verify a version, bring it into memory and answer from it."""
        if version is not None:
            self.ensure_loaded(track, version)
        self._engine.serve(track, version)


def _scheduler() -> BackgroundScheduler:
    """Return a scheduler that knows when the clocks of this place change; else one by today's offset."""
    here = datetime.now().astimezone()
    with contextlib.suppress(LookupError, ValueError, OSError, Warning):  # TZ may name no zone
        scheduler = BackgroundScheduler()
        if here.astimezone(scheduler.timezone).utcoffset() == here.utcoffset():
            return scheduler
    told = "the system does not name its zone; nightly work is an hour off after the clocks change, until a restart"
    logger.info("no_time_zone", why=told)
    return BackgroundScheduler(timezone=here.tzinfo)


def _raise_descriptors() -> None:
    """Allow as many open files as the system lets this user have: the usual limit is for programs that open few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # the system may have a limit that it does not name
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class App:
    """The daemon of one home: ``start``, ``run``, ``stop``."""

    def __init__(self, home: Home, settings: Settings) -> None:
        self.home = home
        self.settings = settings
        self.stopping = threading.Event()
        self._wake = threading.Event()
        self._ready = False
        self._started_at = time.time()
        self._polls_because = ""
        self._turn = threading.RLock()
        self._undo: list[tuple[str, Callable[[], object]]] = []

    # -- life

    def start(self) -> None:
        """Start everything, in the order in which things need each other; on failure undo what was started."""
        try:
            for begin in (self._claim, self._wire, self._answer, self._listen, self._learn):
                begin()
        except BaseException:
            self.stop()
            raise
        self._ready = True
        logger.info(
            "ready", home=str(self.home.root), socket=str(self.home.socket(self.settings.server.socket))
        )

    def stop(self) -> None:
        """Stop everything in reverse order; what fails to stop is said and does not keep the rest running."""
        self._ready = False
        self.stopping.set()
        self._wake.set()
        while self._undo:
            name, undo = self._undo.pop()
            try:
                undo()
            except Exception:
                logger.exception("stop_failed", part=name)
        logger.info("stopped")

    def run(self) -> None:
        """Serve until a signal asks to stop; a second one forces.

        But SIGHUP asks and never forces: a closed terminal sends several, and others besides. SIGPIPE stays ignored, as
        Python has it: whoever reads the log may go away.
        """
        is_told = False

        def handle(signum: int, _: object) -> None:
            nonlocal is_told
            if is_told and signum != signal.SIGHUP:
                os._exit(128 + signum)
            is_told = is_told or signum != signal.SIGHUP
            self.stopping.set()

        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(name, handle)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(signal.SIGHUP, handle)
        self.start()
        try:
            while not self.stopping.wait(timeout=0.5):
                pass
        finally:
            self.stop()

    # -- starting, in order

    def _claim(self) -> None:
        """One daemon a home."""
        with files.passing_errors(f"starting in {self.home.root}"):
            for folder in (self.home.inbox, self.home.models):
                files.make_folder(folder)
        stack = contextlib.ExitStack()
        try:
            lock, apart = self.home.models / ".daemon.lock", self.home.models / ".daemon"
            stack.enter_context(files.locked(lock, wait=False, apart=apart))
        except TransientError as error:
            if error.code != "locked":
                raise
            raise ConfigError(
                f"another lorad runs in {self.home.root}; stop it first", code="already_running"
            ) from None
        self._undo.append(("lock", stack.close))
        for path in (self.home.running_socket(), self.home.socket(self.settings.server.socket)):
            if path and server.is_alive(path):  # whatever became of the lock
                raise ConfigError(f"another lorad answers at {path}; stop it first", code="already_running")

    def _wire(self) -> None:
        tightened, open_still = permissions.close_below(self.home.models, os.geteuid())
        database = Database(self.home.database)
        self._undo.append(("database", database.close))
        self.engine = Engine(self.settings.engine)
        self.registries = {name: Registry(self.home.track(name)) for name in self.settings.tracks}
        self.models_held = ModelHost(self.settings, self.home, self.engine, self.registries)
        self.reader = Reader(
            self.settings.inbox, start=ReadingProcess, clock=time.monotonic, is_stopping=self.stopping.is_set
        )
        self._undo.append(("reader", self.reader.close))
        self.cycle = Cycle(
            settings=self.settings,
            database=database,
            inbox=inbox.Inbox(
                self.home.inbox, self.settings.inbox, tuple(self.settings.tracks), self.home.drops
            ),
            registries=self.registries,
            tracks=self.models_held,
            executor=LocalExecutor(
                nice=self.settings.training.nice, max_seconds=self.settings.training.max_seconds
            ),
            base_folder=self.home.base,
            reader=self.reader,
        )
        self.archive = Archive(self.registries, self.cycle.ledger, self.cycle.memory)
        self._tell_modes(tightened, open_still)
        self.cycle.recover(time.time())
        self.models_held.attach()

    def _tell_modes(
        self, tightened: Sequence[permissions.Exposure], open_still: Sequence[permissions.Exposure]
    ) -> None:
        """Say once what an older lorad, or somebody, had left open in models/ and is closed now."""
        if tightened:
            first = str(tightened[0].path)
            self.cycle.ledger.record_event("closed_to_others", time.time(), files=len(tightened), first=first)
            logger.warning("closed_to_others", files=len(tightened), first=first)
        if open_still:
            told = "see: lorad doctor"
            logger.warning("open_to_others", files=len(open_still), first=str(open_still[0].path), why=told)

    def _answer(self) -> None:
        """Start the thread that generates, and serve the newest sound version."""
        self._thread("answer", lambda: self.engine.work(timeout=0.2))
        self.cycle.serve_all(time.monotonic())

    def _listen(self) -> None:
        path = self.home.socket(self.settings.server.socket)
        _raise_descriptors()
        listener = server.bind(path)
        http = connections.serve(server.build(self, self.settings.server), self.settings.server)
        thread = threading.Thread(target=http.run, kwargs={"sockets": [listener]}, name="http", daemon=True)
        thread.start()

        def close() -> None:
            http.should_exit = True
            thread.join(timeout=10)
            listener.close()
            path.unlink(missing_ok=True)
            self.home.address.unlink(missing_ok=True)

        self._undo.append(("http", close))
        while not http.started and thread.is_alive():
            time.sleep(0.01)
        files.write_json(self.home.address, {"socket": str(path), "pid": os.getpid()})

    def _learn(self) -> None:
        """Start the worker, the watcher and the scheduler."""
        self._undo.append(("session", self._halt))
        self._thread("learn", self._tick)
        scheduler = _scheduler()
        self._watch(scheduler)
        nightly = {
            self._tidy: self.settings.training.consolidate_at,
            self._scrub: self.settings.registry.scrub_at,
        }
        for act, at in nightly.items():
            if at:
                hour, _, minute = at.partition(":")
                trigger = CronTrigger(hour=hour, minute=minute, timezone=scheduler.timezone)
                scheduler.add_job(act, trigger, coalesce=True, misfire_grace_time=3600)
        scheduler.start()
        self._undo.append(("scheduler", lambda: scheduler.shutdown(wait=False)))

    def _halt(self) -> None:
        """Stop the session and excuse the file that is being read; a step that hangs does not keep the daemon up."""
        has_turn = self._turn.acquire(timeout=STOP_SECONDS)
        if not has_turn:
            logger.error("step_hangs", why="a step did not end; the daemon ends without it")
        try:
            self.cycle.excuse_readings()
            self.cycle.halt(time.time())
        finally:
            if has_turn:
                self._turn.release()

    def _watch(self, scheduler: BackgroundScheduler) -> None:
        """Be told of what happens in the inbox, or look every second where nobody would tell."""
        tracks = tuple(self.settings.tracks)
        watcher = watching.watch(self.home.inbox, tracks, self.cycle.inbox.hint_complete, self._look)
        self._polls_because = watching.start(watcher, self.home.inbox, psutil.disk_partitions(all=True))
        if watcher.is_alive():
            self._undo.append(("watcher", lambda: (watcher.stop(), watcher.join(timeout=5))))
        if self._polls_because:
            logger.warning("inbox_polled", why=self._polls_because, seconds=watching.POLL_SECONDS)
            scheduler.add_job(
                self._look, "interval", seconds=watching.POLL_SECONDS, max_instances=1, coalesce=True
            )
        else:
            self.cycle.inbox.rely_on_events()

    def _look(self) -> None:
        self.cycle.inbox.look()
        self._wake.set()

    def _thread(self, name: str, work: Callable[[], object]) -> None:
        stop = threading.Event()  # its own: what depends on this thread is stopped before it is

        def loop() -> None:
            while not stop.is_set():
                work()

        thread = threading.Thread(target=loop, name=name, daemon=True)
        thread.start()

        def join() -> None:
            stop.set()
            self._wake.set()
            thread.join(timeout=15)

        self._undo.append((name, join))

    def _tick(self) -> None:
        self._wake.wait(
            LOOK_SECONDS
        )  # by a steady clock: the scheduler's stands still when the time of day jumps
        self._wake.clear()
        if self.stopping.is_set():
            return
        try:
            self._exclusively(lambda: self.cycle.step(time.time(), time.monotonic()))
        except Exception:  # one bad step must not end the daemon
            logger.exception("step_failed")
        self.reader.rest()

    def _tidy(self) -> None:
        self._exclusively(lambda: self.cycle.consolidate_idle(time.time()))
        self._wake.set()

    def _scrub(self) -> None:
        self._exclusively(lambda: self.cycle.scrub(time.time()))

    def _exclusively(self, act: Callable[[], Any]) -> Any:
        """Take the cycle's turn: steps and people's commands never overlap."""
        with self._turn, files.passing_errors("it could not be done"):
            return act()

    # -- what the socket asks (server.Daemon)

    def is_ready(self) -> bool:
        """Tell whether questions are answered and drops are taken."""
        return self._ready and not self.stopping.is_set()

    def ask(
        self, model: str, messages: list[dict[str, Any]], sampling: Sampling
    ) -> tuple[GenerationRequest, str]:
        """Accept a question for ``track`` or ``track@latest|previous|vN|TAG|base``."""
        track, named, wanted = model.partition("@")
        version = self._resolve(track, wanted) if named else None
        ticket = self.engine.submit(track, messages, sampling, version)
        return ticket, self.engine.fingerprint(track, ticket.version)

    def _resolve(self, track: str, wanted: str) -> str | None:
        registry = self.archive.registry(track)
        if not wanted:
            raise ProtocolError(
                f"there is no model '{track}@'; name a version behind the @, or leave the @ out",
                status=404,
                code="model_not_found",
            )
        if wanted == "latest":
            return None
        if wanted == BASE:
            return BASE
        if wanted == "previous" and registry.previous is None:
            raise ProtocolError(f"{track} has no previous version yet", status=404, code="model_not_found")
        version = registry.resolve(wanted)
        self.models_held.ensure_loaded(track, version)
        return version

    def models(self) -> list[dict[str, Any]]:
        """Return what ``/v1/models`` lists: every track and each of its versions."""
        names = [(track, int(self._started_at)) for track in self.registries]
        for track, registry in self.registries.items():
            names += [(f"{track}@{BASE}", int(self._started_at))]
            names += [
                (f"{track}@{e['version']}", int(self._started_at))
                for e in registry.tracker.read()["checkpoints"]
                if e.get("state") == VersionState.INTACT
            ]
        return [{"id": name, "object": "model", "created": at, "owned_by": "lorad"} for name, at in names]

    def snapshot(self) -> dict[str, Any]:
        """Return everything that ``lorad status`` and ``lorad monitor`` show."""
        now = time.time()
        return {
            "lorad": __version__,
            "home": str(self.home.root),
            "now": now,
            "started_at": self._started_at,
            "pid": os.getpid(),
            "paused": bool(self.cycle.ledger.flag("paused")),
            "ready": self.is_ready(),
            "tracks": {track: self._track(track) for track in self.registries},
            "jobs": self._jobs_told(),
            "waiting_files": self._waiting_files(now),
            "inbox": self._inbox(),
            "session": self._session(now),
            "troubles": self.cycle.troubles,
            "engine": {
                "requests": self.engine.requests,
                "waiting": self.engine.waiting,
                "active": self.engine.active,
                "tokens_per_second": self.engine.tokens_per_second,
            },
            "events": self.cycle.ledger.events(limit=20),
        }

    def _jobs_told(self) -> list[dict[str, Any]]:
        """Return every job that is not done and those that ended last, so that nobody misses an end."""
        told = [*self.cycle.ledger.open_jobs(), *self.cycle.ledger.ended_jobs(limit=JOBS_TOLD)]
        newest_first = sorted({job.id: job for job in told}.values(), key=lambda job: -job.id)
        return [records.as_json(job) for job in newest_first]

    def _track(self, track: str) -> dict[str, Any]:
        settings = self.settings.tracks[track]
        return {
            "task": settings.task,
            "base": settings.base,
            **self.versions(track),
            **self.archive.memory(track),
        }

    def _waiting_files(self, now: float) -> list[dict[str, Any]]:
        waiting = [*self.cycle.inbox.processing(), *self.cycle.inbox.waiting()]
        return [
            {
                "name": w.name,
                "track": w.track,
                "bytes": w.size,
                "age_seconds": max(0.0, now - w.changed_at),
                "why": self.cycle.why_waiting(w),
            }
            for w in waiting[:FILES_TOLD]
        ]

    def _inbox(self) -> dict[str, Any]:
        left = dict(self.cycle.inbox.left)
        return {
            "watching": "polling" if self._polls_because else "events",
            "why": self._polls_because,
            "files": self.cycle.inbox.count,
            "not_taken": [{"name": inbox.readable(p.name), **e.as_dict()} for p, e in left.items()][
                :FILES_TOLD
            ],
        }

    def _session(self, now: float) -> dict[str, Any] | None:
        running = self.cycle.session
        if running is None:
            return None
        job, progress = running
        elapsed = max(0.0, now - (job.started_at or now))  # the clock may have been set back
        return {"job": job.id, "dataset": job.dataset, "phase": "loading", "elapsed": elapsed, **progress}

    def retry(self, job: int, *, force: bool, settings: dict[str, Any]) -> dict[str, Any]:
        """Queue a job again."""
        changed = self._exclusively(
            lambda: self.cycle.retry(job, time.time(), force=force, settings=settings)
        )
        self._wake.set()
        return records.as_json(changed)

    def resume(self, job: int, checkpoint: str | None) -> dict[str, Any]:
        """Queue a job again, to go on behind a checkpoint; return it and which that is."""
        changed, found = self._exclusively(lambda: self.cycle.resume(job, checkpoint, time.time()))
        self._wake.set()
        return records.as_json(changed) | {"checkpoint": found}

    def cancel(self, job: int) -> dict[str, Any]:
        """End a job."""
        return records.as_json(self._exclusively(lambda: self.cycle.cancel(job, time.time())))

    def pause(self, *, paused: bool) -> dict[str, Any]:
        """Start no more sessions, or start them again."""
        self.cycle.ledger.set_flag("paused", "yes" if paused else "")
        self.cycle.ledger.record_event("paused" if paused else "resumed", time.time())
        self._wake.set()
        return {"paused": paused}

    def versions(self, track: str) -> dict[str, Any]:
        """Return a track's versions and what serves."""
        return self.archive.versions(track) | {"serving": self.engine.serving(track)}

    def rollback(self, track: str, to: str | None) -> dict[str, Any]:
        """Serve an earlier version again, or the base alone.

        The previous one is that of now, not of when the turn comes: asked twice, because the first answer was slow,
        it must not lead back.
        """
        registry = self.archive.registry(track)
        to = registry.previous if to is None else to
        found: dict[str, Any] = self._exclusively(lambda: self.cycle.rollback(track, to, time.time()))
        return found

    def version(self, track: str, version: str) -> dict[str, Any]:
        """Return all that is kept about a version, and what serves."""
        return self.archive.version(track, version) | {"serving": self.engine.serving(track)}

    def pin(self, track: str, version: str, *, pinned: bool) -> dict[str, Any]:
        """Keep a version whatever the limits say, or no longer."""
        registry = self.archive.registry(track)
        self.cycle.ledger.prove_writable()
        found = self._exclusively(lambda: registry.pin(version, pinned=pinned))
        self.cycle.ledger.record_event(
            "pinned" if pinned else "unpinned", time.time(), track=track, version=found
        )
        return {"version": found, "pinned": pinned}

    def tag(self, track: str, version: str, tag: str, *, remove: bool) -> dict[str, Any]:
        """Give a version a name of its own, or take it away."""
        registry = self.archive.registry(track)
        change = registry.untag if remove else registry.tag
        self.cycle.ledger.prove_writable()
        found = self._exclusively(lambda: change(version, tag))
        self.cycle.ledger.record_event(
            "untagged" if remove else "tagged", time.time(), track=track, version=found, tag=tag
        )
        return {"version": found, "tag": tag, "removed": remove}

    def prune(self, track: str, limits: dict[str, int], *, dry_run: bool) -> dict[str, Any]:
        """Remove the versions beyond the settings' limits, or beyond these where given, or only tell which."""
        self.archive.registry(track)
        wanted = self.settings.registry.model_copy(update=limits)
        if not dry_run:
            self.cycle.ledger.prove_writable()
        gone = self._exclusively(lambda: self.cycle.prune(track, wanted, time.time(), dry_run=dry_run))
        return {"pruned": gone, "dry_run": dry_run}

    def forget(self, track: str, selector: str, *, dry_run: bool) -> dict[str, Any]:
        """Remove examples from memory on purpose, or only tell which these would be."""
        self.archive.registry(track)
        if not selector.strip():
            raise ProtocolError(
                "say what to forget: a dataset's name, or a text that its examples hold",
                code="empty_selector",
            )
        forgotten: dict[str, Any] = self._exclusively(lambda: self._forget(track, selector, dry_run=dry_run))
        self._wake.set()
        return forgotten

    def _forget(self, track: str, selector: str, *, dry_run: bool) -> dict[str, Any]:
        """Look at what is meant and what holds it before that is gone."""
        remains = self.cycle.remains(track, selector)
        told = {
            "dry_run": dry_run,
            "held": records.as_json(remains),
            "told": forgetting.tell(remains, is_done=not dry_run),
        }
        if dry_run:
            meant = self.cycle.memory.meant(track, selector)
            shown = [queries.tell(example) for example in meant[:SHOWN]]
            return {"forgotten": len(meant), **told, "examples": shown}
        return {"forgotten": self.cycle.forget(track, selector, time.time()), **told}

    def consolidate(self, track: str, *, refit: bool) -> dict[str, Any]:
        """Queue a session that makes one adapter of all, or refits one from the pristine base."""
        self.archive.registry(track)
        job = self._exclusively(lambda: self.cycle.consolidate(track, time.time(), refit=refit))
        self._wake.set()
        return records.as_json(job)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon in the foreground; ``lorad run`` and ``python daemon`` end up here."""
    parser = argparse.ArgumentParser(prog="lorad run", description="Run the daemon in the foreground.")
    parser.add_argument("--home", help="the folder that holds configs/, inbox/ and models/")
    parser.add_argument("--config", help="a settings file, or the name of one in configs/")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    options = parser.parse_args(arguments)
    terminal.prepare()
    os.umask(permissions.UMASK)
    try:
        home = find_home(options.home)
        settings = load_settings(home, options.config, options.set)
        log.configure(settings.log)
        quieten()
        App(home, settings).run()
    except LoradError as error:
        terminal.complain(error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
