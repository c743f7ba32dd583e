"""A crash, a full disk or a jumping clock at every single change that a full cycle makes to the disk.

The cycle: good files, a bad one and a repeated one are dropped, accepted, learned, judged, promoted or rejected,
swapped in, pruned, put away. Each operation on the disk passes ``fault_points.step``; here something stands at each of
them in turn. However it ends, the story at the end must be the same.
"""

import contextlib
import errno
import json
import os
import shutil
import sqlite3
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import tiny
from world import World

from lorad.config import Settings
from lorad.errors import LoradError
from lorad.states import JobState
from lorad.storage import fault_points, files

SETTINGS = Settings.model_validate({"inbox": {"settle_seconds": 5}, "registry": {"keep": 1}})
DOORS, GATES, HATS, KEYS = (tiny.facts(2, name, name) for name in ("door", "gate", "hat", "key"))
BEFORE = {"doors.json": json.dumps(tiny.rows(DOORS)), "gates.json": json.dumps(tiny.rows(GATES))}
FILES = {
    "keys.json": json.dumps(tiny.rows([*DOORS[:1], *KEYS])),
    "bad.json": '[{"question": "a"}]',
    "copy.json": BEFORE["doors.json"],
    "hats.json": json.dumps(tiny.rows(HATS)),
}
BESIDE = {
    "keys.json.meta.yaml": "description: by hand",
    "keys.json.wordings.json": json.dumps({KEYS[0].input[-1]["content"]: ["Which hue has it?"]}),
    "bad.json.meta.yaml": "description: by foot",
}
STEPS = 400

pytestmark = pytest.mark.timeout(
    300
)  # thousands of starts; half a minute each on a machine that does nothing else


# one full cycle


@pytest.fixture
def home():
    """Return a home that has learned two files and into which more are dropped.

    It lies in memory, where there is such a folder: thousands of synchronised writes would wear a disk.
    """
    room = Path("/dev/shm")  # noqa: S108 - the folder inside is our own
    with tempfile.TemporaryDirectory(dir=room if os.access(room, os.W_OK) else None) as folder:
        yield prepare(Path(folder) / "home")


def prepare(home):
    drop(home, BEFORE)
    with daemon(home) as world:
        live(world)
    drop(home, BESIDE | FILES)
    keep(home, home.parent / "prepared")
    return home


def drop(home, contents):
    """Drop files, one after the other."""
    (home / "inbox").mkdir(parents=True, exist_ok=True)
    for age, (name, content) in enumerate(contents.items()):
        path = home / "inbox" / name
        path.write_text(content)
        os.utime(path, (age, age))


def keep(home, folder):
    """Keep what a kill would leave on disk; SQLite makes its index of the log anew."""
    shutil.copytree(home, folder, symlinks=True, ignore=shutil.ignore_patterns("*-shm"))


def put_back(home, kept="prepared"):
    """Make the home what it was when it was kept."""
    shutil.rmtree(home)
    keep(home.parent / kept, home)


def end_session(world):
    """Let the running session end as its dataset's story has it: hats are not learned well enough."""
    session = world.models.sessions[-1]
    files.remove(session.folder / "merged")  # of a session that was cut off
    files.write_bytes(session.folder / "merged" / "model.safetensors", b"everything")
    dataset = files.read_json(session.folder / "request.json")["dataset"]
    session.end(recall=0.5 if dataset == "hats" else 1.0)


def is_over(world):
    """Tell whether nothing is left to be done."""
    return (
        not world.inbox.waiting()
        and not world.inbox.processing()
        and not world.ledger.open_jobs()
        and world.loop.sessions.running is None
        and world.loop.state.is_cleaned_up
    )


def live(world, end=end_session, seconds=1.0):
    """Run the daemon's loop until nothing is left to be done."""
    for _ in range(STEPS):
        if is_over(world):
            return
        # one that had ended under an earlier daemon is none of this one's
        if world.loop.sessions.running and world.models.sessions and world.models.sessions[-1].status is None:
            end(world)
        world.now += seconds
        world.ticks += 1.0
        world.loop.step(world.now, world.ticks)
    raise AssertionError("it never came to an end")


@contextlib.contextmanager
def daemon(home):
    """Return the daemon of a home, started on whatever lies there."""
    world = World(home, SETTINGS)
    try:
        yield world
    finally:
        world.database.close()


# the story that must be told at the end


def check(world):
    """Hold inbox, ledger, memory, tracker, links and folders against the one story."""
    _check_files(world.home / "inbox", world.home / "models" / "drops")
    _check_ledger(world.ledger)
    _check_memory(world)
    _check_versions(world)
    leftovers = [path for path in world.home.rglob("*") if path.name.startswith(".") or "part" in path.suffix]
    assert leftovers == [world.registry.folder / ".lock"]


def _check_files(inbox, drops):
    assert sorted(path.name for path in inbox.iterdir()) == ["chat", "done", "failed"]
    assert [path for path in inbox.rglob("*") if path.is_file()] == []
    ended = [path for path in drops.rglob("*") if path.is_file()]
    assert sorted(path.name for path in ended) == sorted([*BEFORE, *FILES, *BESIDE, "bad.json.reason.json"])
    failed = sorted(path.name for path in (inbox / "failed").iterdir())
    assert failed == ["bad.json", "bad.json.meta.yaml", "bad.json.reason.json"]
    assert [path.parent.parent.name for path in ended if path.name == "keys.json.meta.yaml"] == ["done"]
    reason = files.read_json(inbox / "failed" / "bad.json.reason.json")
    assert (reason["file"], reason["code"]) == ("bad.json", "bad_rows")
    for path in ended:
        if path.name in FILES:
            assert path.read_text() == FILES[path.name]


def _check_ledger(ledger):
    told = dict.fromkeys([*BEFORE, *FILES], "accepted") | {"bad.json": "failed", "copy.json": "duplicate"}
    assert {drop.name: str(drop.state) for drop in ledger.drops()} == told
    assert len(ledger.drops()) == len(told)
    assert [d.name for d in ledger.drops() if d.reason.get("description") == "by hand"] == ["keys.json"]
    events = ledger.events(limit=1000)
    for name in ("accepted", "failed", "duplicate"):
        said = sorted(event["file"] for event in events if event["name"] == name and "file" in event)
        assert said == sorted(file for file, state in told.items() if state == name)
    assert {job.dataset: (str(job.state), job.version) for job in ledger.jobs()} == {
        "doors": ("promoted", "v0.1"),
        "gates": ("promoted", "v0.2"),
        "keys": ("promoted", "v0.3"),
        "hats": ("rejected", None),
    }
    assert len(ledger.jobs()) == 4
    said = sorted(event["dataset"] for event in events if event["name"] in {"promoted", "rejected"})
    assert said == ["doors", "gates", "hats", "keys"]


def _check_memory(world):
    rows = world.database.rows(
        "SELECT e.id, l.version AS learned_in FROM examples e LEFT JOIN learnings l ON l.example_id = e.id"
    )
    learned = dict.fromkeys((e.id for e in DOORS), "v0.1") | dict.fromkeys((e.id for e in GATES), "v0.2")
    learned |= dict.fromkeys((e.id for e in HATS), None) | dict.fromkeys((e.id for e in KEYS), "v0.3")
    assert {row["id"]: row["learned_in"] for row in rows} == learned
    assert len(rows) == len(learned)
    worded = [(e.id, e.held_out) for e in world.track.memory.all() if e.held_out]
    assert worded == [(KEYS[0].id, ("Which hue has it?",))]


def _check_versions(world):
    registry = world.registry
    tracker = registry.tracker.read()
    jobs = {job.dataset: job.id for job in world.ledger.jobs()}
    assert [(e["version"], e["job"], e["state"], e["parent"]) for e in tracker["checkpoints"]] == [
        ("v0.1", jobs["doors"], "pruned", None),
        ("v0.2", jobs["gates"], "intact", "v0.1"),
        ("v0.3", jobs["keys"], "intact", "v0.2"),
    ]
    assert (tracker["latest"], tracker["previous"], world.models.serving) == ("v0.3", "v0.2", "v0.3")
    assert sorted(path.name for path in registry.folders.folder.iterdir()) == ["v0.2", "v0.3"]
    for name, version in (("latest", "v0.3"), ("previous", "v0.2")):
        assert (registry.folder / name).resolve() == registry.verify(version)
    assert list(registry.candidates.iterdir()) == []
    assert [path.name for path in registry.rejected.iterdir()] == [f"job-{jobs['hats']}"]
    assert (registry.rejected / f"job-{jobs['hats']}" / "candidate" / "evaluation.json").exists()
    assert files.read_json(registry.folder / "merged" / "lorad.json")["version"] == "v0.3"


def test_the_full_cycle_tells_the_story_when_nothing_goes_wrong(home):
    with daemon(home) as world:
        live(world)
        check(world)


# at every operation


class Camera:
    """Keeps the disk as it was before every operation: what a crash there leaves, no more and no less."""

    def __init__(self, home):
        self._home = home
        self.names = []

    @contextlib.contextmanager
    def __call__(self, name, place):
        self.shoot(f"{name} {place}")
        yield

    def shoot(self, name):
        keep(self._home, self._home.parent / str(len(self.names)))
        self.names.append(name)


class Killed(BaseException):
    """The process is gone: nothing catches this, and nothing reaches the disk after it."""


class Killer:
    """Ends the process before an operation, counted from 0."""

    def __init__(self, number):
        self._number = number
        self.count = 0

    @contextlib.contextmanager
    def __call__(self, name, place):
        del place
        if self.count >= self._number:
            raise Killed(name)
        self.count += 1
        yield


def shoot(home):
    """Keep the disk before every operation of a full cycle, and at its end; return the operations."""
    camera = Camera(home)
    with fault_points.guarded(camera), daemon(home) as world:
        live(world)
        camera.shoot("the end")
    return camera.names


def test_whatever_operation_a_crash_comes_before_or_behind_the_story_is_the_same(home):
    names = shoot(home)
    assert len(names) > 200

    for number, name in enumerate(names):
        with told(f"after a crash before operation {number}: {name}"):
            put_back(home, str(number))
            with daemon(home) as world:
                live(world)
                check(world)


def test_a_second_crash_while_the_first_is_mended_changes_nothing(home):
    for number, name in list(enumerate(shoot(home)))[::3]:
        second = number * 7 % 31  # somewhere in the first steps, elsewhere each time
        with told(f"after a crash before operation {number}: {name}, then at {second}"):
            put_back(home, str(number))
            with contextlib.suppress(Killed), fault_points.guarded(Killer(second)), daemon(home) as world:
                live(world)
            with daemon(home) as world:
                live(world)
                check(world)


def test_wherever_a_promotion_by_force_is_cut_off_it_happens_once(home):
    with daemon(home) as world:
        live(world)
        refused = next(job.id for job in world.ledger.jobs() if job.state is JobState.REJECTED)
    keep(home, home.parent / "refused")
    put_back(home, "refused")
    camera = Camera(home)
    with fault_points.guarded(camera), daemon(home) as world:
        world.loop.commands.retry(refused, world.now, force=True)
        live(world)
        camera.shoot("the end")
    assert len(camera.names) > 20

    for number, name in enumerate(camera.names):
        with told(f"after a crash before operation {number}: {name}"):
            put_back(home, str(number))
            with daemon(home) as world:
                if world.ledger.job(refused).state is JobState.REJECTED:  # the order was not yet heard
                    world.loop.commands.retry(refused, world.now, force=True)
                live(world)
                _check_forced(world, refused)


def _check_forced(world, job):
    registry = world.registry
    assert (registry.latest, registry.previous, world.models.serving) == ("v0.4", "v0.3", "v0.4")
    assert [(e["version"], e["job"]) for e in registry.tracker.read()["checkpoints"]][3:] == [("v0.4", job)]
    registry.verify("v0.4")
    assert str(world.ledger.job(job).state) == "promoted"
    hats = {example.id for example in HATS}
    learned = world.database.rows("SELECT example_id, version FROM learnings")
    assert {row["version"] for row in learned if row["example_id"] in hats} == {"v0.4"}
    assert [list(folder.iterdir()) for folder in (registry.candidates, registry.rejected)] == [[], []]


def test_wherever_the_very_first_start_is_cut_off_the_second_one_goes_well(home):
    shutil.rmtree(home)
    camera = Camera(home)
    home.mkdir()
    with fault_points.guarded(camera), daemon(home):
        camera.shoot("the end")

    for number, name in enumerate(camera.names):
        with told(f"after a crash before operation {number}: {name}"):
            put_back(home, str(number))
            drop(home, BEFORE)
            with daemon(home) as world:
                live(world)
                assert world.registry.latest == "v0.2"


@contextlib.contextmanager
def told(where):
    """Say with what goes wrong where it did."""
    try:
        yield
    except Exception as error:
        raise AssertionError(where) from error


# a full disk


class FullDisk:
    """Fails an operation, counted from 0, and perhaps all that follow until there is room again."""

    def __init__(self, number, *, lasts=False):
        self._number = number
        self._lasts = lasts
        self.count = 0
        self.name = ""

    @contextlib.contextmanager
    def __call__(self, name, place):
        self.count += 1
        if self.count == self._number + 1:
            self.name = f"{name} {place}"
        is_full = self._lasts and self.name and name not in {"unlink", "rmdir"}
        if is_full or self.count == self._number + 1:
            if name in {"statement", "commit"}:
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)
        yield


def end_session_on_a_full_disk(world):
    """Let a session end as one does that cannot write: it says so, and leaves half a candidate."""
    try:
        end_session(world)
    except (LoradError, OSError):
        session = world.models.sessions[-1]
        session.status = 1
        (session.folder / "progress.jsonl").write_text('{"error": {"code": "disk", "message": "full"}}\n')


@contextlib.contextmanager
def stubborn_daemon(home):
    """Return the daemon of a home, started again if it could not start on a full disk."""
    try:
        world = World(home, SETTINGS)
    except (LoradError, OSError):
        world = World(home, SETTINGS)
    try:
        yield world
    finally:
        world.database.close()


def count_operations(home):
    """Return how many operations a full cycle has."""
    counter = FullDisk(10**9)
    with fault_points.guarded(counter), daemon(home) as world:
        live(world)
    return counter.count


def test_whatever_operation_meets_a_full_disk_the_daemon_lives_and_the_story_is_the_same(home):
    for number in range(count_operations(home)):
        disk = FullDisk(number)
        with told(f"after a full disk at operation {number}"):
            put_back(home)
            with fault_points.guarded(disk), stubborn_daemon(home) as world:
                live(world, end_session_on_a_full_disk)
                check(world)
            assert disk.count > number


def test_a_disk_that_stays_full_costs_nothing_but_time(home):
    for number in range(count_operations(home)):
        with told(f"after a disk full from operation {number} on"):
            # Given a disk that is full from some operation on, and a daemon that tries for minutes, if it can start
            put_back(home)
            with fault_points.guarded(FullDisk(number, lasts=True)):
                struggle(home)
            # When it is started again and there is room
            with daemon(home) as world:
                live(world)
                check(world)


def struggle(home, minutes=3):
    """Run the daemon's loop for some minutes, whatever comes of it; only its start may fail."""
    try:
        world = World(home, SETTINGS)
    except (LoradError, OSError):
        return
    for _ in range(minutes * 4):
        if world.loop.sessions.running and world.models.sessions[-1].status is None:
            end_session_on_a_full_disk(world)
        world.now += 15
        world.ticks += 15
        world.loop.step(world.now, world.ticks)
    world.database.close()


def test_a_full_disk_is_asked_ever_more_rarely(home):
    counts = []
    for minutes in (10, 20):
        put_back(home)
        disk = FullDisk(30, lasts=True)
        with fault_points.guarded(disk):
            struggle(home, minutes)
        counts.append(disk.count)

    assert counts[1] - counts[0] < counts[0] / 3


# the trainer


class KilledAt:
    """Kills the trainer before an operation of its own, counted from 0 over all sessions of a cycle."""

    def __init__(self, number):
        self._number = number
        self.count = 0

    @contextlib.contextmanager
    def __call__(self, name, place):
        del place
        self.count += 1
        if self.count == self._number + 1:
            raise Killed(name)
        yield


def end_session_unless(world, killer):
    """Let the session end, unless it is killed before; then somebody tries its job again."""
    try:
        with fault_points.guarded(killer):
            end_session(world)
    except Killed:
        world.models.sessions[-1].status = -9
        world.loop.step(world.now, world.ticks)
        job = next(job for job in world.ledger.jobs() if job.state is JobState.FAILED)
        assert "killed by signal 9" in job.reason["message"]
        world.loop.commands.retry(job.id, world.now)


def test_whenever_the_trainer_is_killed_its_job_can_be_tried_again(home):
    counter = KilledAt(10**9)
    with daemon(home) as world:
        live(world, partial(end_session_unless, killer=counter))

    for number in range(counter.count):
        with told(f"after the trainer was killed before its operation {number}"):
            put_back(home)
            killer = KilledAt(number)
            with daemon(home) as world:
                live(world, partial(end_session_unless, killer=killer))
                check(world)
            assert killer.count > number


# clocks


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_an_hour_between_two_steps_changes_nothing(home, jump):
    with daemon(home) as world:
        live(world, seconds=jump)
        check(world)


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumps_while_the_daemon_is_down_changes_nothing(home, jump):
    for number, name in list(enumerate(shoot(home)))[::15]:
        with told(f"after a crash before operation {number}: {name}"):
            put_back(home, str(number))
            with daemon(home) as world:
                world.now += jump
                live(world)
                check(world)


# the order of things


class Recorder:
    """Notes every operation, in order."""

    def __init__(self):
        self.done = []

    @contextlib.contextmanager
    def __call__(self, name, place):
        self.done.append((name, place))
        yield


def test_what_a_power_cut_could_undo_is_never_built_upon(home):
    # Given the operations of a full cycle
    recorder = Recorder()
    with fault_points.guarded(recorder), daemon(home) as world:
        live(world)
    done = [(name, Path(place)) for name, place in recorder.done]

    # Then every rename and new folder is made durable before anything else is done
    for (name, place), following in pairwise(done):
        if name in {"rename", "mkdir"}:
            assert following == ("sync", place.parent), (name, place, following)
    # And what was written is durable before its name is
    for (name, place), following in pairwise(done):
        if name == "write":
            assert following == ("sync", place)
