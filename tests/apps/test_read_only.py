"""A disk that the system makes read-only is told, changes nothing, and is tried again, like one that is full."""

import contextlib
import errno
import os
import sqlite3

import pytest
import tiny
from world import World

from lorad.errors import ConfigError, LoradError, TransientError
from lorad.serving.http.http_errors import status
from lorad.states import JobState
from lorad.storage import fault_points, locks
from lorad.storage.database import Database
from lorad.versions.store import Registry

DOORS, GATES = tiny.facts(2, "doors", "door"), tiny.facts(2, "gates", "gate")
READ_ONLY = sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR


class ReadOnlyDisk:
    """Fails every operation from one on, counted from 0, until it is mended."""

    def __init__(self, number=0, result=sqlite3.SQLITE_READONLY):
        self._number = number
        self._result = result
        self.count = 0

    @contextlib.contextmanager
    def __call__(self, name, place):
        self.count += 1
        if self.count > self._number:
            if name in {"statement", "commit", "empty log"}:
                error = sqlite3.OperationalError("attempt to write a readonly database")
                error.sqlite_errorcode = self._result
                raise error
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), place)
        yield


@pytest.fixture
def world(tmp_path):
    (tmp_path / "inbox").mkdir()
    made = World(tmp_path)
    made.learn("doors.json", DOORS)
    made.learn("gates.json", GATES)
    yield made
    made.database.close()


def story(world):
    """Return what must not change: what serves, the tracker, memory, the jobs, what happened."""
    ledger = world.ledger
    return (
        world.models.serving,
        world.registry.tracker.read(),
        [example.id for example in world.track.memory.all()],
        ledger.jobs(),
        ledger.events(limit=1000),
        sorted(str(path) for path in world.registry.folder.rglob("*")),
    )


ORDERS = {
    "rollback": lambda world: world.loop.commands.rollback(world.track, None, world.now),
    "rollback to base": lambda world: world.loop.commands.rollback(world.track, "base", world.now),
    "forget": lambda world: world.loop.commands.forget(world.track, "doors", world.now),
    "retry": lambda world: world.loop.commands.retry(3, world.now, force=True, settings={"rank": 4}),
    "resume": lambda world: world.loop.commands.resume(3, None, world.now),
    "cancel": lambda world: world.loop.commands.cancel(4, world.now),
    "consolidate": lambda world: world.loop.commands.consolidate(world.track, world.now, refit=True),
    "pin": lambda world: world.registry.tracker.pin("v0.1", pinned=True),
    "tag": lambda world: world.registry.tracker.tag("v0.1", "gold"),
}


@pytest.mark.parametrize("result", READ_ONLY)
@pytest.mark.parametrize("order", ORDERS)
def test_a22_an_order_on_a_read_only_disk_is_a_named_error_and_changes_nothing(world, order, result):
    # Given a refused job, one that waits, and a disk that has become read-only
    for name, examples in (
        ("hats.json", tiny.facts(2, "hats", "hat")),
        ("keys.json", tiny.facts(2, "keys", "key")),
    ):
        world.drop(name, examples)
        world.pass_time()
        if name == "hats.json":
            world.models.sessions[-1].end(recall=0.5)
            world.pass_time()
    before = story(world)

    with fault_points.guarded(ReadOnlyDisk(result=result)), pytest.raises(TransientError) as caught:
        ORDERS[order](world)

    assert (status(caught.value), caught.value.code) == (503, "disk")
    assert story(world) == before


def test_a22_a_rollback_that_meets_it_half_way_is_done_or_undone(world):
    counter = ReadOnlyDisk(10**9)
    with fault_points.guarded(counter):
        world.loop.commands.rollback(world.track, "v0.1", world.now)
    world.loop.commands.rollback(world.track, "v0.2", world.now)

    for number in range(counter.count):
        with fault_points.guarded(ReadOnlyDisk(number)), pytest.raises(LoradError):
            world.loop.commands.rollback(world.track, "v0.1", world.now)
        # when it can be written again
        for _ in range(3):
            world.pass_time(600)
        assert world.models.serving == world.registry.latest, number
        world.loop.commands.rollback(world.track, "v0.2", world.now)


@pytest.mark.parametrize("is_child_hit", [True, False])
def test_a22_a_session_on_a_read_only_disk_is_told_and_goes_on_later(world, is_child_hit):
    world.drop("hats.json", tiny.facts(2, "hats", "hat"))
    world.pass_time()
    session = world.models.sessions[-1]
    if is_child_hit:
        session.status = os.EX_IOERR
    else:
        session.end()

    with fault_points.guarded(ReadOnlyDisk()):
        world.pass_time(600)
        _, progress = world.loop.sessions.running
        assert progress["phase"].startswith("ended, and waits to be judged: ")
        assert any("readonly" in why for why in world.loop.attempts.troubles)

    for _ in range(3):
        world.pass_time(600)
    if is_child_hit:
        world.models.sessions[-1].end()
        world.pass_time(600)
    assert (world.job().state, world.job().attempts) == (JobState.PROMOTED, 1)
    assert world.loop.attempts.troubles == []


def test_a22_a_daemon_that_starts_on_it_says_what_it_is(tmp_path):
    with fault_points.guarded(ReadOnlyDisk()), pytest.raises(LoradError, match="Read-only file system"):
        locks.locked(tmp_path / "new" / ".daemon.lock").__enter__()


def test_a22_a_disk_that_becomes_read_only_anywhere_in_a_cycle_costs_nothing(tmp_path):
    counter = ReadOnlyDisk(10**9)
    with fault_points.guarded(counter):
        run(tmp_path / "all")
    for number in range(0, counter.count, 5):
        home = tmp_path / str(number)
        disk = ReadOnlyDisk(number)
        with fault_points.guarded(disk), contextlib.suppress(LoradError, OSError):
            run(home)
        run(home)
        registry = Registry(home / "models" / "chat")
        assert registry.latest == "v0.1", number
        registry.verify("v0.1")


def run(home):
    """Run a home until a file is learned, or for an hour."""
    (home / "inbox").mkdir(parents=True, exist_ok=True)
    world = World(home)
    try:
        if not world.ledger.drops() and not list((home / "inbox").glob("*.json")):
            world.drop("doors.json", DOORS)
        for _ in range(12):
            world.pass_time(300)
            if world.loop.sessions.running and world.models.sessions[-1].status is None:
                with contextlib.suppress(LoradError, OSError):
                    world.models.sessions[-1].end()
                if world.models.sessions[-1].status is None:
                    world.models.sessions[-1].status = os.EX_IOERR
    finally:
        world.database.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a22_a_database_on_a_disk_that_is_read_only_is_no_fault_of_its_rights(tmp_path, read_only):
    Database(tmp_path / "disk" / "lorad.sqlite3").close()
    read_only(tmp_path / "disk")

    with pytest.raises(TransientError, match=r"readonly|read-only|unable to open"):
        Database(tmp_path / "disk" / "lorad.sqlite3")


@pytest.fixture
def read_only(tmp_path):
    """Return how to make a folder read-only as the system does; it is mounted over itself."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def make(folder):
        assert folder == disk
        for how in ("--bind", "-o remount,ro,bind"):
            if os.system(f"mount {how} {disk} {disk} 2>/dev/null"):  # noqa: S605 - a path of our own
                pytest.skip("nothing can be mounted here")

    yield make
    os.system(f"umount {disk} 2>/dev/null")  # noqa: S605


def test_a22_rights_are_still_told_as_rights(tmp_path):
    Database(tmp_path / "lorad.sqlite3").close()
    with contextlib.closing(Database(tmp_path / "lorad.sqlite3")) as database:
        error = sqlite3.OperationalError("no such column")
        error.sqlite_errorcode = sqlite3.SQLITE_ERROR
        with pytest.raises(sqlite3.OperationalError):
            database.rows("SELECT nothing FROM flags")
    (tmp_path / "x").mkdir()
    with pytest.raises((ConfigError, LoradError)):
        Database(tmp_path / "x")
