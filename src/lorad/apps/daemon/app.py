"""Wires everything, starts it in order, stops it in reverse.

What lives here: threads, processes, signals, clocks and the scheduler, and nothing that could be decided
elsewhere. One worker runs ``loop.step``, and the watcher only asks for a scan; one answers. The scheduler and the
HTTP server have their own.
"""

import argparse
import contextlib
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

import psutil
from apscheduler.schedulers.background import BackgroundScheduler

from lorad import log
from lorad.apps.daemon import lookup, nightly
from lorad.apps.daemon.api import Api
from lorad.apps.daemon.core_sharing import CoreSharing
from lorad.apps.daemon.document_tracks import DocumentTracks
from lorad.apps.daemon.fitting import Fitting
from lorad.apps.daemon.indexing import Indexing
from lorad.apps.daemon.lookup import Lookup
from lorad.apps.daemon.loop import LearningLoop
from lorad.apps.daemon.model_host import ModelHost
from lorad.apps.daemon.ports import Index
from lorad.apps.daemon.reading_process import ReadingProcess
from lorad.apps.daemon.snapshot import Snapshot
from lorad.apps.daemon.turn import Turn
from lorad.apps.screens import terminal
from lorad.config import Settings, load_settings
from lorad.datasets.inbox import watching
from lorad.datasets.inbox.inbox import Inbox
from lorad.datasets.isolated.reader_process import Reader
from lorad.errors import ConfigError, LoradError, TransientError
from lorad.home import Home, find_home
from lorad.models import hardware
from lorad.retrieval import quoting
from lorad.serving.backends.interface import Surroundings
from lorad.serving.engine import Engine
from lorad.serving.http import connections, loopback, server, unix_socket
from lorad.serving.queries import Archive
from lorad.storage import files, locks, permissions
from lorad.storage.busy_mark import BusyMark
from lorad.storage.database import Database
from lorad.storage.ledger import Ledger
from lorad.track import open_tracks
from lorad.training import executors

logger = log.get_logger()

STEP_SECONDS = 1.0
"""The loop steps at least this often; events only make it step sooner."""
PAUSE_SECONDS = 1.0
"""After a thread's work has failed, before it goes on."""
REST_SECONDS = 0.02
"""Between two steps of which the second has work already: people's orders take their turn then."""
STOP_SECONDS = 10.0
"""A step that has not ended by then is left alone when the daemon stops."""
DESCRIPTORS = 10_240
"""Files and connections that may be open at once; macOS allows no more."""


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
        self._ready = False
        self._turn = Turn()
        self._cores = CoreSharing(hardware.cores())
        self._undo: list[tuple[str, Callable[[], object]]] = []

    # -- life

    def start(self) -> None:
        """Start everything, in the order in which things need each other; on failure undo what was started."""
        hardware.compute_with(1)  # all that computes beside the thread that answers
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
        self._turn.wake.set()
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
            stack.enter_context(locks.locked(lock, wait=False, apart=apart))
        except TransientError as error:
            if error.code != "locked":
                raise
            raise ConfigError(
                f"another lorad runs in {self.home.root}; stop it first", code="already_running"
            ) from None
        self._undo.append(("lock", stack.close))
        for path in (self.home.running_socket(), self.home.socket(self.settings.server.socket)):
            if path and unix_socket.is_alive(path):  # whatever became of the lock
                raise ConfigError(f"another lorad answers at {path}; stop it first", code="already_running")

    def _wire(self) -> None:
        """Make everything that the daemon consists of, and bring what is on disk to one story."""
        tightened, open_still = permissions.close_below(self.home.models, os.geteuid())
        database = Database(self.home.database)
        self._undo.append(("database", database.close))
        self.ledger = Ledger(database)
        self.tracks = open_tracks(self.home, self.settings, database)
        self._busy_mark = BusyMark()
        self._undo.append(("busy mark", self._busy_mark.close))
        around = Surroundings(
            max_rank=self.settings.training.max_rank,
            log=self.home.backend_log,
            is_stopping=self.stopping.is_set,
        )
        self.engine = Engine(
            self.settings.engine, self._busy_mark.tell, around, is_claimed=self._busy_mark.is_claimed
        )
        self._undo.append(("engine", self.engine.close))
        self.models = ModelHost(self.settings, self.tracks, self.engine, beside=self._cores.beside)
        self.lookup = Lookup(self.tracks, self.settings.answering, self.ledger, self.engine.serving)
        self.indexes: dict[str, Index] = {}
        self.documents = DocumentTracks(self.home, self.settings, self.ledger)
        self.inbox = Inbox(self.home.inbox, self.settings.inbox, tuple(self.settings.tracks), self.home.drops)
        self._wire_loop()
        self._wire_api()
        self._tell_modes(tightened, open_still)
        self.loop.recovery.recover(time.time())
        self.models.attach()
        if self.settings.answering.retrieve:
            self.indexes |= self.lookup.attach(database, self.engine)
        else:  # nobody would take out of it what is forgotten
            for track in self.tracks.values():
                files.remove(track.registry.folder / lookup.FOLDER)
        self._open_documents()

    def _open_documents(self) -> None:
        """Open the stores of documents, with the encoder that compares questions if there is one."""
        if not self.documents.tracks:
            return
        embedder, reranker = self.lookup.encoder(self.home.models / "base")
        self._undo.append(("documents", self.documents.close))
        matcher = quoting.Matcher(reranker.score, embedder.embed) if embedder and reranker else None
        self.documents.open(embedder, matcher)
        self.indexes |= self.documents.stores
        if embedder is None:
            told = "there is no encoder, so documents are found by their words alone; add one with: lorad base add minilm"
            logger.warning("documents_without_encoder", why=told)

    def _wire_loop(self) -> None:
        self.reader = Reader(
            self.settings.inbox, start=ReadingProcess, clock=time.monotonic, is_stopping=self.stopping.is_set
        )
        self._undo.append(("reader", self.reader.close))
        self.loop = LearningLoop(
            settings=self.settings,
            tracks=self.tracks,
            ledger=self.ledger,
            inbox=self.inbox,
            reader=self.reader,
            models=self.models,
            executor=executors.choose(
                self.settings.training, self._busy_mark if self._trains_beside_answering() else None
            ),
            indexing=Indexing(self.indexes, time.monotonic),
            fitting=Fitting(self.lookup, self.ledger, time.monotonic),
            documents=self.documents,
        )

    def _trains_beside_answering(self) -> bool:
        """Tell whether a session computes where answers are computed, and has to wait for them."""
        training, engine = self.settings.training, self.settings.engine
        # vLLM computes on the GPU; engine.device is where the daemon's own copy of the base is
        answers = "cuda" if engine.backend == "vllm" else hardware.machine(engine.device).device
        return hardware.machine(training.device).device == answers and training.min_share < 1

    def _wire_api(self) -> None:
        started_at = time.time()
        archive = Archive(self.tracks, self.ledger, self.settings.judge)
        self.snapshot = Snapshot(
            home=self.home,
            started_at=started_at,
            tracks=self.tracks,
            ledger=self.ledger,
            inbox=self.inbox,
            loop=self.loop,
            engine=self.engine,
            limits=self.settings.engine,
            archive=archive,
            not_looked_up=self.lookup.why_not,
            documents=self.documents.counts,
        )
        self.api = Api(
            tracks=self.tracks,
            commands=self.loop.commands,
            models=self.models,
            engine=self.engine,
            retrieving=self.lookup if self.settings.answering.retrieve else None,
            archive=archive,
            snapshot=self.snapshot,
            documents=self.documents,
            turn=self._turn,
            started_at=started_at,
            is_ready=self.is_ready,
            chains=self.settings.systems,
        )

    def _tell_modes(
        self, tightened: Sequence[permissions.Exposure], open_still: Sequence[permissions.Exposure]
    ) -> None:
        """Say once what an older lorad, or somebody, had left open in models/ and is closed now."""
        if tightened:
            first = str(tightened[0].path)
            self.ledger.record_event("closed_to_others", time.time(), files=len(tightened), first=first)
            logger.warning("closed_to_others", files=len(tightened), first=first)
        if open_still:
            told = "see: lorad doctor"
            logger.warning("open_to_others", files=len(open_still), first=str(open_still[0].path), why=told)

    def _answer(self) -> None:
        """Start the thread that generates, and serve the newest intact version."""

        def answer() -> None:
            self._cores.take()
            self.engine.work(timeout=0.2)

        self._thread("answer", answer)
        self._cores.settle()
        self.loop.served.serve_all(time.monotonic())

    def _listen(self) -> None:
        path = self.home.socket(self.settings.server.socket)
        _raise_descriptors()
        listener = unix_socket.bind(path)
        more, token = loopback.listen(self.settings.server.tcp_port, path)
        http = connections.serve(server.build(self.api, self.settings.server, token), self.settings.server)
        thread = threading.Thread(
            target=http.run, kwargs={"sockets": [listener, *more]}, name="http", daemon=True
        )
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
        scheduler = nightly.scheduler()
        self._watch(scheduler)
        nightly.every_day(scheduler, self.settings.training.consolidate_at, self._consolidate)
        nightly.every_day(scheduler, self.settings.registry.scrub_at, self._scrub)
        scheduler.start()
        self._undo.append(("scheduler", lambda: scheduler.shutdown(wait=False)))

    def _halt(self) -> None:
        """Stop the session and excuse the file that is being read; a step that hangs does not keep the daemon up."""

        def halt(has_turn: bool) -> None:
            if not has_turn:
                logger.error("step_hangs", why="a step did not end; the daemon ends without it")
            self.loop.intake.excuse_readings()
            self.loop.sessions.halt(time.time())

        self._turn.take_within(STOP_SECONDS, halt)

    def _watch(self, scheduler: BackgroundScheduler) -> None:
        """Be told of what happens in the inbox, or look every second where nobody would tell."""
        watcher = watching.watch(
            self.home.inbox, tuple(self.settings.tracks), self.inbox.hint_complete, self._scan_soon
        )
        polls_because = watching.start(watcher, self.home.inbox, psutil.disk_partitions(all=True))
        self.snapshot.polls_because = polls_because
        if watcher.is_alive():
            self._undo.append(("watcher", lambda: (watcher.stop(), watcher.join(timeout=5))))
        if polls_because:
            logger.warning("inbox_polled", why=polls_because, seconds=watching.POLL_SECONDS)
            nightly.every(scheduler, watching.POLL_SECONDS, self._scan_soon)
        else:
            self.inbox.rely_on_events()

    def _scan_soon(self) -> None:
        self.inbox.request_scan()
        self._turn.wake.set()

    def _thread(self, name: str, work: Callable[[], object]) -> None:
        stop = threading.Event()  # its own: what depends on this thread is stopped before it is

        def loop() -> None:
            while not stop.is_set():
                try:
                    work()
                except BaseException:  # a panic of Rust's is no Exception; a dead thread would answer nobody
                    logger.exception("thread_failed", thread=name)
                    stop.wait(PAUSE_SECONDS)

        thread = threading.Thread(target=loop, name=name, daemon=True)
        thread.start()

        def join() -> None:
            stop.set()
            self._turn.wake.set()
            thread.join(timeout=15)

        self._undo.append((name, join))

    def _tick(self) -> None:
        # by a steady clock: the scheduler's stands still when the time of day jumps
        self._turn.wake.wait(STEP_SECONDS)
        self._turn.wake.clear()
        if self.stopping.is_set():
            return
        try:
            if self._turn.take(lambda: self.loop.step(time.time(), time.monotonic())):
                self.stopping.wait(REST_SECONDS)
                self._turn.wake.set()
        except Exception:  # one bad step must not end the daemon
            logger.exception("step_failed")
        self.reader.rest()

    def _consolidate(self) -> None:
        self._turn.take(lambda: self.loop.commands.consolidate_idle(time.time()))
        self._turn.wake.set()

    def _scrub(self) -> None:
        self._turn.take(lambda: self.loop.recovery.scrub(time.time()))

    def is_ready(self) -> bool:
        """Tell whether questions are answered and drops are taken."""
        return self._ready and not self.stopping.is_set()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon in the foreground; ``lorad run`` and ``python daemon`` end up here."""
    parser = argparse.ArgumentParser(prog="lorad run", description="Run the daemon in the foreground.")
    parser.add_argument("--home", help="the folder that holds configs/, inbox/ and models/")
    parser.add_argument(
        "--config",
        metavar="FILE|NAME",
        help="a file of settings that override default.yaml, or the name of one in configs/ or in lorad itself",
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    options = parser.parse_args(arguments)
    terminal.prepare()
    os.umask(permissions.UMASK)
    try:
        home = find_home(options.home)
        settings = load_settings(home, options.config, options.set)
        log.configure(settings.log)
        hardware.quieten()
        App(home, settings).run()
    except LoradError as error:
        terminal.complain(error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
