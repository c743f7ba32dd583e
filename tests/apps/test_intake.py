"""What an attacker and bad luck do to the intake: each file ends by itself, and nothing else happens."""

import contextlib
import errno
import json
import os
import shutil
import stat
import tempfile
import traceback
from pathlib import Path

import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from world import InProcessReader, World

from lorad.apps.daemon.acceptance import MAX_READS
from lorad.apps.daemon.intake import MOST_AGAIN
from lorad.config import Settings
from lorad.datasets.inbox import sidecars
from lorad.datasets.inbox.inbox import Inbox
from lorad.errors import ConfigError, RegistryError, SampleError, TransientError
from lorad.models import lower_states
from lorad.states import DropState
from lorad.storage import fault_points, files
from lorad.storage.directories import Folder


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.database.close()


def drops(world):
    return world.home / "models" / "drops"


def told(world, name):
    return [event for event in world.ledger.events(limit=1000) if event["name"] == name]


def pass_long(world, steps=12, seconds=61.0):
    for _ in range(steps):
        world.pass_time(seconds)


def tree(folder):
    """Return what lies in a folder, and what it says."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in folder.rglob("*")
    }


# A4: what is read is what was taken


@contextlib.contextmanager
def meddling(name, act):
    """Let somebody do something just before a file of this name is moved out of the inbox."""

    @contextlib.contextmanager
    def guard(operation, place):
        if operation == "rename" and "processing" in place and place.endswith(name):
            act()
        yield

    with fault_points.guarded(guard):
        yield


def put_in_its_place(path, kind, secret):
    path.unlink()
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
        (path / "inner").write_text("x")
    else:
        os.link(secret, path)


@pytest.mark.parametrize("content", ['[{"instruction": "half"}]', '[{"instruction": "a", "response": "b"}]'])
def test_a15_what_was_taken_is_closed_to_others(world, content):
    path = world.home / "inbox" / "a.json"
    path.write_text(content)
    path.chmod(0o644)

    pass_long(world, 3)

    (end,) = [found for found in (world.home / "models" / "drops").rglob("a.json") if found.is_file()]
    assert stat.S_IMODE(end.stat().st_mode) == 0o640


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "hard link"])
@pytest.mark.parametrize("is_sidecar", [False, True])
def test_a4_what_is_swapped_at_the_last_moment_is_not_opened(world, kind, is_sidecar):
    # Given a file of the daemon's own that nobody else may read, and an inbox that others may write to
    (world.home / "inbox").chmod(0o770)
    secret = world.home / "secret"
    secret.write_text(json.dumps(tiny.rows(tiny.facts(2, "zyzzyva"))))
    secret.chmod(0o600)
    path = world.drop("a.json", tiny.facts(2))
    if is_sidecar:
        path = world.home / "inbox" / "a.json.meta.yaml"
        path.write_text("description: x")
    world.drop("b.json", tiny.facts(3, subject="gate"))

    with meddling(path.name, lambda: put_in_its_place(path, kind, secret) if path.exists() else None):
        world.pass_time()
    pass_long(world, 3)

    assert "a.json" in world.failed()
    reason = files.read_json(world.home / "inbox" / "failed" / "a.json.reason.json")
    assert reason["code"] == ("hard_link" if kind == "hard link" else "no_file")
    assert world.done() == ["b.json"]
    assert "zyzzyva" not in str(world.track.memory.all())
    assert world.inbox.processing() == []
    assert json.loads(secret.read_text())


def test_a4_a_hard_link_is_as_good_as_a_file_where_nobody_else_writes(world):
    (world.home / "inbox").chmod(0o700)
    path = world.drop("a.json", tiny.facts(2))
    os.link(path, world.home / "kept")

    world.pass_time()

    assert world.done() == ["a.json"]


# A5, and whatever else one file raises


ODD = [
    KeyError("x"),
    RecursionError("deep"),
    OverflowError("too large"),
    StopIteration(),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    OSError(errno.ENAMETOOLONG, "File name too long"),
    OSError(errno.ELOOP, "Too many levels of symbolic links"),
    AssertionError(),
]


class Odd(InProcessReader):
    """A reader that stumbles over one file."""

    def __init__(self, error):
        self.error = error

    def read(self, file, *rest, **named):
        if self.error and file.name == "odd.json":
            raise self.error
        return super().read(file, *rest, **named)


def stumble(world, error):
    world.wire(Odd(error))


@pytest.mark.parametrize("error", ODD, ids=repr)
def test_a5_whatever_a_file_raises_ends_that_file_alone(world, error):
    stumble(world, error)
    world.drop("odd.json", tiny.facts(2))
    world.drop("doors.json", tiny.facts(4, subject="gate"))

    world.pass_time()

    assert world.failed() == ["odd.json", "odd.json.reason.json"]
    assert world.done() == ["doors.json"]
    reason = files.read_json(world.home / "inbox" / "failed" / "odd.json.reason.json")
    assert reason["code"] in {"unexpected", "unreadable"}
    assert [event["file"] for event in told(world, "failed")] == ["odd.json"]
    assert world.inbox.processing() == []


@pytest.mark.parametrize(
    "error", [MemoryError(), PermissionError(errno.EACCES, "no"), OSError(errno.EIO, "bad")]
)
def test_a5_what_may_pass_and_does_not_ends_too(world, error):
    stumble(world, error)
    world.drop("odd.json", tiny.facts(2))

    pass_long(world, 40)

    assert world.failed() == ["odd.json", "odd.json.reason.json"]


@pytest.mark.parametrize(
    "text",
    [
        'track: !!int ""',
        'track: !!float ""',
        "track: !!bool maybe",
        "track: !!set [1]",
        "track: !!timestamp x",
    ],
)
def test_a5_a_sidecar_that_no_yaml_reader_survives_is_one_files_end(world, text):
    (world.home / "inbox" / "a.json.meta.yaml").write_text(text)
    world.drop("a.json", tiny.facts(2))
    world.drop("doors.json", tiny.facts(4, subject="gate"))

    world.pass_time()

    assert world.failed() == ["a.json", "a.json.meta.yaml", "a.json.reason.json"]
    assert world.done() == ["doors.json"]


@pytest.mark.parametrize(
    ("part", "does"),
    [
        ("intake", "scan"),
        ("intake", "look_back"),
        ("sessions", "start_next"),
        ("served", "serve_waiting"),
        ("housekeeping", "clean_up"),
        ("housekeeping", "empty_log"),
    ],
)
def test_a5_each_part_of_a_step_is_guarded_by_itself(world, monkeypatch, part, does):
    calls = []

    def stumble(*_):
        calls.append(does)
        raise KeyError(does)

    world.drop("doors.json", tiny.facts(4))
    world.pass_time(0)
    world.loop.state.is_cleaned_up = world.loop.state.is_log_empty = False
    with monkeypatch.context() as patched:
        patched.setattr(getattr(world.loop, part), does, stumble)
        for _ in range(60):
            world.pass_time(1)
        assert 2 < len(calls) < 15  # ever more rarely
        if does != "scan":
            assert world.done() == ["doors.json"]

    pass_long(world, 6)

    assert world.done() == ["doors.json"]
    assert len(world.models.sessions) == 1


def test_a5_a_letter_that_another_one_equals_stops_nothing(world):
    # Given a name that a pattern matches and no pattern is found for: a long s is an s, in another case
    world.drop("odd.\u017fwp", tiny.facts(2))
    world.drop("doors.json", tiny.facts(4, subject="gate"))

    world.pass_time()

    assert world.done() == ["doors.json"]


# A6, A7: our own folders


@pytest.mark.parametrize("name", ["9" * 23, "zz", "٣", "-1", "0", "1e3"])
def test_a7_a_folder_that_no_ledger_numbered_holds_a_file_that_is_taken_anew(world, name):
    folder = drops(world) / "processing" / "chat" / name
    folder.mkdir(parents=True)
    (folder / "a.json").write_text(json.dumps(tiny.rows(tiny.facts(2))))

    world.pass_time()

    assert world.done() == ["a.json"]
    assert not folder.exists()


def test_a7_a_number_that_sqlite_does_not_know_names_no_drop(world):
    assert world.archive() is not None
    with pytest.raises(Exception, match="no drop"):
        world.ledger.drop(10**23)


# A8: a file that goes on


ROWS = [json.dumps(row) for row in tiny.rows(tiny.facts(5))]


def append(path, text):
    with path.open("a") as stream:
        stream.write(text)


def test_a8_a_file_that_goes_on_after_it_was_read_is_read_again_and_that_is_said(world):
    # Given somebody who writes a line, pauses longer than files rest, and writes on through the same handle
    path = world.drop("slow.jsonl", ROWS[0] + "\n")
    with path.open("a") as stream:
        world.pass_time()
        assert len(world.track.memory.all()) == 1
        stream.write("".join(row + "\n" for row in ROWS[1:]))

    pass_long(world, 4)

    assert len(world.track.memory.all()) == 5
    assert [event["file"] for event in told(world, "changed_later")] == ["slow.jsonl"]
    assert "was changed after it was read" in told(world, "changed_later")[0]["why"]
    assert [path.name for path in (drops(world) / "done").rglob("*.jsonl")] == ["slow.jsonl"]
    pass_long(world, 4)
    assert len(world.ledger.drops()) == 2


def test_a8_a_file_that_failed_and_goes_on_is_read_again(world):
    path = world.drop("slow.jsonl", ROWS[0] + '\n{"instruction": "only half"}\n')
    with path.open("a") as stream:
        world.pass_time()
        assert world.failed() == ["slow.jsonl", "slow.jsonl.reason.json"]
        stream.write("".join(row + "\n" for row in [ROWS[n % 5] for n in range(60)]))

    pass_long(world, 4)

    assert world.failed() == []
    assert len(world.track.memory.all()) == 5


def test_a8_half_a_cell_that_was_learned_as_whole_is_forgotten(world):
    path = world.drop("slow.csv", "instruction,response\nWhich colour?,dark blue\nWhich car?,ye\n")
    with path.open("r+") as stream:
        world.pass_time()
        assert "ye" in [example.target for example in world.track.memory.all()]
        told_of_it = world.track.registry.folder / lower_states.FOLDER
        files.write_json(told_of_it / lower_states.FILE, "what a session has computed of it")
        stream.seek(len("instruction,response\nWhich colour?,dark blue\nWhich car?,ye"))
        stream.write("llow\nWhich hat?,red\n")

    session = world.models.sessions[-1]
    pass_long(world, 4)

    assert sorted(example.target for example in world.track.memory.all()) == [
        "dark blue",
        "red",
        "yellow",
    ]
    assert [event["examples"] for event in told(world, "forgotten")] == [1]
    # and the session that was learning it began anew, its folder with it
    assert session.stopped
    anew = world.models.sessions[1]
    assert (anew.run.spec().job, sorted(example.target for example in anew.run.new())) == (1, ["dark blue"])
    assert [event["job"] for event in told(world, "requeued")] == [1]
    assert b'"ye"' not in (world.home / "models" / "lorad.sqlite3").read_bytes()
    assert not told_of_it.exists()


def test_a8_what_a_file_said_in_every_reading_stays_whoever_taught_it(world):
    world.learn("slow.jsonl", ROWS[0] + "\n" + ROWS[1] + "\n")
    path = next((drops(world) / "done").rglob("slow.jsonl"))
    append(path, ROWS[2] + "\n")
    pass_long(world, 4)
    world.models.sessions[-1].end()
    append(next((drops(world) / "done").rglob("slow.jsonl")), ROWS[3] + "\n")
    pass_long(world, 4)

    assert len(world.track.memory.all()) == 4
    assert told(world, "forgotten") == []
    assert world.ledger.origins(world.ledger.drops()[0]) == [2, 1]


def test_a8_a_file_that_never_ends_is_given_up(world):
    world.drop("slow.jsonl", ROWS[0] + "\n")
    for number in range(MOST_AGAIN + 3):
        pass_long(world, 4)
        for path in (drops(world) / "done").rglob("slow.jsonl"):
            append(path, json.dumps({"instruction": f"What is {number}?", "response": str(number)}) + "\n")

    assert len(world.ledger.drops()) == MOST_AGAIN + 1
    assert "still changes" in told(world, "changed_later")[-1]["why"]


def test_a8_what_lies_long_or_is_another_file_is_left_alone(world):
    world.drop("old.jsonl", ROWS[0] + "\n")
    world.drop("other.jsonl", ROWS[1] + "\n")
    world.pass_time()
    done = next((drops(world) / "done").iterdir())
    (done / "new").write_text(ROWS[2] + "\n")
    (done / "new").replace(done / "other.jsonl")
    pass_long(world, 4)
    assert len(world.ledger.drops()) == 2

    world.now += 2 * 86_400
    append(done / "old.jsonl", ROWS[3] + "\n")
    pass_long(world, 4)

    assert len(world.ledger.drops()) == 2


@pytest.mark.parametrize("number", range(0, 60, 3))
def test_a8_wherever_reading_again_is_cut_off_it_happens_once(tmp_path, number):
    class Killed(BaseException):
        pass

    count = 0

    @contextlib.contextmanager
    def killer(name, place):
        nonlocal count
        if count >= number:
            raise Killed(f"{name} {place}")
        count += 1
        yield

    world = World(tmp_path)
    world.learn("slow.jsonl", ROWS[0] + "\n")
    append(next((drops(world) / "done").rglob("slow.jsonl")), ROWS[1] + "\n")
    with contextlib.suppress(Killed), fault_points.guarded(killer):
        pass_long(world, 2)
    world.database.close()
    again = World(tmp_path)
    again.now, again.ticks = world.now, world.ticks
    pass_long(again, 4)

    assert len(again.track.memory.all()) == 2
    assert len(told(again, "changed_later")) == 1
    assert len([path for path in drops(again).rglob("slow*") if path.is_file()]) == 1
    assert again.inbox.processing() == []
    again.database.close()


@pytest.mark.parametrize(
    ("text", "waits"),
    [
        ('{"instruction": "a", "respon', True),
        ("instruction,response\na,b", True),
        ("", True),
        ("instruction,response\na,b\n", False),
        ('[{"instruction": "a", "response": "b"}]', False),
        ('{"instruction": "a", "response": "b"}', False),
        ('[{"instruction": "a", "response": "b"}]  ', False),
    ],
)
def test_a8_a_text_without_an_end_waits_longer(world, text, waits):
    path = world.drop("a.csv", text)

    world.pass_time(6)
    assert path.exists() == waits
    assert ("its end is missing" in world.inbox.delayed.get(path, "")) == waits

    for _ in range(6):
        world.pass_time(6)
    assert not path.exists()


def test_a8_a_sidecar_that_goes_on_after_it_was_taken_is_read_again(world):
    # Given half a sidecar, which names another field than the whole one
    row = {"Frage": "where?", "Antwort": "here", "Antw": "nowhere"}
    beside = world.home / "inbox" / "a.jsonl.meta.yaml"
    beside.write_text("fields:\n  instruction: Frage\n  response: Antw")
    world.drop("a.jsonl", json.dumps(row) + "\n")
    with beside.open("a") as writer:
        world.pass_time(6)
        assert [example.target for example in world.track.memory.all()] == ["nowhere"]

        # When its writer goes on
        writer.write("ort\n")
    pass_long(world, 4)

    # Then the file says what the whole one makes of it, and that is told
    assert [example.target for example in world.track.memory.all()] == ["here"]
    assert "was changed" in told(world, "changed_later")[-1]["why"]


def test_a5_a_folder_in_a_sidecars_place_is_told_of_at_once(world):
    (world.home / "inbox" / "a.json.meta.yaml").mkdir()
    path = world.drop("a.json", tiny.facts(2))

    for _ in range(3):
        world.pass_time(6)

    assert "is a folder where a sidecar would be" in world.inbox.not_taken[path].message
    assert [event["file"] for event in told(world, "not_taken")].count("a.json") == 1
    world.drop("b.json", tiny.facts(2))
    world.pass_time(6)
    assert world.ledger.open_jobs()


def test_a6_a_sidecar_that_cannot_be_moved_out_again_stops_neither_intake_nor_start(world):
    # Given a sidecar that lies alone in processing/, as a folder that its owner closed after it was taken
    alone = drops(world) / "processing" / "chat" / "7"
    alone.mkdir(parents=True)
    (alone / "x.json.meta.yaml").write_text("description: x")

    @contextlib.contextmanager
    def guard(operation, place):
        if operation == "rename" and place.endswith("x.json.meta.yaml"):
            raise PermissionError(errno.EACCES, "Permission denied")
        yield

    with fault_points.guarded(guard):
        world.inbox.recover()
        world.drop("a.json", tiny.facts(2))
        world.pass_time(6)

    assert world.ledger.open_jobs()


def test_a6_why_a_file_cannot_be_moved_is_told_while_it_is_tried_again(world):
    path = world.drop("a.json", tiny.facts(2))

    @contextlib.contextmanager
    def guard(operation, place):
        if operation == "rename" and place.endswith("a.json"):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        yield

    with fault_points.guarded(guard):
        for _ in range(3):
            world.pass_time(6)
        (waiting,) = world.inbox.waiting()

    assert path.exists()
    assert "not permitted" in world.loop.intake.why_waiting(waiting)


def test_a10_sidecars_of_a_flood_are_read_once_each(world, monkeypatch):
    read = []
    monkeypatch.setattr(sidecars, "with_named_track", lambda _, item: read.append(item.name) or item)
    monkeypatch.setattr("lorad.apps.daemon.intake.TAKEN_AT_ONCE", 2)
    for number in range(6):
        world.drop(f"{number}.json", tiny.facts(2))

    for _ in range(6):
        world.pass_time(6)

    assert sorted(read) == [f"{number}.json" for number in range(6)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a8_a_line_ends_in_other_encodings_too(world, encoding):
    path = world.home / "inbox" / "a.csv"
    path.write_bytes("instruction,response\na,b\n".encode(encoding))

    world.pass_time(6)

    assert not path.exists()


def test_a8_a_file_that_is_cut_off_is_read_once_more_before_it_fails(world):
    world.drop("a.json", json.dumps(tiny.rows(tiny.facts(2)))[:-1])  # ends with a brace
    world.pass_time(6)
    (taken,) = world.inbox.processing()
    assert "read again" in world.inbox.delayed[taken.path]
    append(taken.path, "]")

    for _ in range(8):
        world.pass_time(6)

    assert world.done() == ["a.json"]
    world.drop("b.json", json.dumps(tiny.rows(tiny.facts(2)))[:-1])
    for _ in range(9):
        world.pass_time(6)
    assert world.failed() == ["b.json", "b.json.reason.json"]


# a file that ends the daemon


class Dead(BaseException):
    """The process is gone."""


def test_a10_a_file_that_has_ended_the_daemon_three_times_fails(world):
    world.drop("odd.json", tiny.facts(2))
    for _ in range(MAX_READS):
        stumble(world, Dead())
        with pytest.raises(Dead):
            world.pass_time()
        world.database.close()
        world.start()
    world.drop("doors.json", tiny.facts(4, subject="gate"))

    world.pass_time()

    assert world.failed() == ["odd.json", "odd.json.reason.json"]
    reason = files.read_json(world.home / "inbox" / "failed" / "odd.json.reason.json")
    assert reason["code"] == "ended_the_daemon"
    assert world.done() == ["doors.json"]


def test_a10_an_end_that_is_no_crash_does_not_count(world):
    world.drop("odd.json", tiny.facts(2))
    for _ in range(MAX_READS + 1):
        stumble(world, Dead())
        with pytest.raises(Dead):
            world.pass_time()
        world.loop.intake.excuse_readings()  # as the daemon does when it is asked to stop
        world.database.close()
        world.start()
    world.pass_time()

    assert world.done() == ["odd.json"]


def test_a10_errors_that_pass_do_not_count(world):
    stumble(world, MemoryError())
    world.drop("odd.json", tiny.facts(2))
    pass_long(world, 4)

    assert world.ledger.drops()[0].attempts == 0
    world.reader.error = None
    pass_long(world, 6)
    assert world.done() == ["odd.json"]


# the eighteenth: names


LONG_NAMES = [
    "a" * 250 + ".json",
    "é" * 125 + ".json",
    "\x01" * 250,
    "\x1b]0;" + "x" * 240 + ".json",
    os.fsdecode(b"\xff" * 250),
    "a" * 253 + ".b",
]


@pytest.mark.parametrize("name", LONG_NAMES, ids=lambda name: ascii(name)[:12])
@pytest.mark.parametrize("is_good", [True, False])
@pytest.mark.parametrize("has_sidecar", [True, False])
def test_a18_a_name_as_long_as_there_are_dropped_three_times_ends_three_times(
    world, name, is_good, has_sidecar
):
    from lorad.datasets import sidecar  # noqa: PLC0415

    for number in range(3):
        if has_sidecar:
            beside = sidecar.path_of(world.home / "inbox" / name)
            beside.write_text("description: x")
        world.drop(name, tiny.facts(2, subject=f"door {number}") if is_good else "[7]")
        world.pass_time()
        world.pass_time()

    assert world.inbox.processing() == []
    assert world.inbox.waiting() == []
    states = {str(drop.state) for drop in world.ledger.drops()}
    assert states == {"accepted" if is_good else "failed"}
    assert len(world.ledger.drops()) == 3
    place = drops(world) / ("done" if is_good else "failed")
    ended = [path for path in place.rglob("*") if path.is_file()]
    assert len(ended) == 3 * (1 + has_sidecar + (not is_good))
    if not is_good:
        for reason in place.glob("*.reason.json"):
            assert (place / files.read_json(reason)["file"]).exists()


# what cannot be moved


def test_a_file_that_can_never_be_moved_is_left_and_told_of_once(world):
    class Stuck(Inbox):
        def take(self, item, drop):
            if item.path.name == "stuck.json":
                raise OSError(errno.EPERM, "Operation not permitted")
            return super().take(item, drop)

    world.inbox.__class__ = Stuck
    path = world.drop("stuck.json", tiny.facts(2))
    pass_long(world, 40)

    assert world.inbox.waiting() == []  # or `lorad wait` would never end
    assert path.exists()
    assert [event["file"] for event in told(world, "not_taken")] == ["stuck.json"]
    assert path in world.inbox.not_taken
    assert path not in world.inbox.delayed
    assert len(world.ledger.drops()) == 0

    # When it is another file, it is tried again
    world.inbox.__class__ = Inbox
    world.drop("stuck.json", tiny.facts(3))
    pass_long(world, 4)
    assert world.done() == ["stuck.json"]


# two users


DAEMON, MEMBER, GROUP = 20_001, 20_002, 20_001
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


def as_member(act):
    """Do something as somebody of the group that drops files, in a process of his own."""
    child = os.fork()
    if child == 0:
        try:
            os.setresuid(0, 0, 0)
            os.setgroups([GROUP])
            os.setresgid(MEMBER, MEMBER, MEMBER)
            os.setresuid(MEMBER, MEMBER, MEMBER)
            act()
        except BaseException:  # noqa: BLE001 - nothing of this process may go on in the child
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def shared():
    """Return a home as daemon/README.md sets it up, of a daemon whose inbox a group shares."""
    root = Path(tempfile.mkdtemp(prefix="lorad-two-"))
    groups, umask, home = os.getgroups(), os.umask(0o007), root / "home"
    for path, mode in ((root, 0o755), (home, 0o750), (home / "models", 0o750), (home / "inbox", 0o2770)):
        path.mkdir(exist_ok=True)
        os.chown(path, DAEMON, GROUP)
        path.chmod(mode)
    os.setgroups([GROUP])
    os.setresgid(GROUP, GROUP, 0)
    os.setresuid(DAEMON, DAEMON, 0)
    settings = Settings.model_validate({"inbox": {"settle_seconds": 5, "keep_done_days": 2}})
    world = World(home, settings)
    try:
        yield world
    finally:
        world.database.close()
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)
        os.umask(umask)
        shutil.rmtree(root)


@needs_root
def test_the_documented_set_up_serves_a_group(shared):
    inbox = shared.home / "inbox"

    # When a member copies, moves and slowly writes files, one of them bad
    def drop():
        (inbox / "copied.json").write_text(json.dumps(tiny.rows(tiny.facts(2, subject="mill"))))
        (inbox / ".moved.part").write_text(json.dumps(tiny.rows(tiny.facts(2, subject="gate"))))
        (inbox / ".moved.part").rename(inbox / "moved.json")
        (inbox / "chat" / "bad.json").write_text("[7]")
        (inbox / "slow.jsonl").write_text(ROWS[0] + "\n" + ROWS[1][:20])

    as_member(drop)
    shared.pass_time()
    as_member(lambda: append(inbox / "slow.jsonl", ROWS[1][20:] + "\n"))
    shared.pass_time()

    assert shared.done() == ["copied.json", "moved.json"]
    assert len(shared.track.memory.all()) == 2 + 2 + 2

    # Then he reads what became of them where he dropped them, and changes nothing there
    def read():
        reason = json.loads((inbox / "failed" / "bad.json.reason.json").read_text())
        assert reason["code"] == "bad_rows"
        for name in ("done", "failed", "processing"):
            with contextlib.suppress(FileNotFoundError), pytest.raises(PermissionError):
                (shared.home / "models" / "drops" / name / "mine").symlink_to("/etc")
        with pytest.raises(PermissionError):
            (inbox / "failed" / "bad.json").rename(inbox / "failed" / "x.json")
        with pytest.raises(PermissionError):
            list((shared.home / "models" / "drops" / "processing").iterdir())

    as_member(read)


@needs_root
def test_a1_a2_a3_what_a_member_puts_under_our_names_leads_nowhere_and_is_said(shared):
    # Given folders of the daemon's own beside the home, and what is in them
    inbox, victim = shared.home / "inbox", shared.home / "site-packages"
    victim.mkdir()
    (victim / "2020-01-01").mkdir()
    (victim / "2020-01-01" / "kept").write_text("x")
    before = tree(victim)

    # When a member puts links to them in the places of ours
    def attack():
        (inbox / "processing" / "chat").mkdir(parents=True)
        (inbox / "processing" / "chat" / "999").symlink_to(shared.home / "models")
        for name in ("done", "failed"):
            (inbox / name).unlink()
            (inbox / name).symlink_to(victim)
        (inbox / "evil.pth").write_text("import os\n")
        (inbox / "good.json").write_text(json.dumps(tiny.rows(tiny.facts(2))))

    as_member(attack)
    for _ in range(4):
        shared.pass_time()
    shared.loop.housekeeping.clean_up(shared.now)
    shared.database.close()
    shared.start()
    for _ in range(3):
        shared.pass_time()

    assert tree(victim) == before
    assert (shared.home / "models" / "lorad.sqlite3").exists()
    assert "evil.pth" in [path.name for path in (drops(shared) / "failed").iterdir()]
    assert [path.name for path in (drops(shared) / "done").rglob("*.json")] == ["good.json"]
    said = {(event["file"], event["code"]) for event in told(shared, "not_taken")}
    assert said == {(name, "reserved_name") for name in ("processing", "done", "failed")}
    assert len(shared.track.memory.all()) == 2


@needs_root
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a4_what_a_member_swaps_at_the_last_moment_is_not_opened(shared, kind):
    inbox, secret = shared.home / "inbox", shared.home / "secret.json"
    secret.write_text(json.dumps(tiny.rows(tiny.facts(2, "zyzzyva"))))
    secret.chmod(0o600)
    as_member(lambda: (inbox / "a.json").write_text("[7]"))

    with meddling("a.json", lambda: as_member(lambda: put_in_its_place(inbox / "a.json", kind, secret))):
        shared.pass_time()
    pass_long(shared, 2)

    assert "zyzzyva" not in str(shared.track.memory.all())
    assert "no_file" in [event["code"] for event in told(shared, "failed")]
    assert shared.inbox.processing() == []


@needs_root
def test_a4_a_file_that_a_member_links_to_is_refused_where_the_system_lets_him(shared):
    inbox, secret = shared.home / "inbox", shared.home / "secret.json"
    secret.write_text(json.dumps(tiny.rows(tiny.facts(2, "zyzzyva"))))
    secret.chmod(0o600)
    os.link(secret, inbox / "a.json")  # as he can where fs.protected_hardlinks is 0
    shared.pass_time()

    assert [event["code"] for event in told(shared, "failed")] == ["hard_link"]
    assert shared.track.memory.all() == []


@needs_root
def test_a6_a_folder_that_is_closed_is_passed_by_and_told_of(shared):
    closed = drops(shared) / "processing" / "chat" / "zz"
    closed.mkdir(parents=True)
    closed.chmod(0)
    shared.drop("good.json", tiny.facts(2))
    shared.database.close()
    shared.start()

    shared.pass_time()
    shared.pass_time()

    assert shared.done() == ["good.json"]
    assert [(e["file"], e["code"]) for e in told(shared, "not_taken")] == [("zz", "closed_folder")]
    assert shared.inbox.processing() == []


# an inbox elsewhere


needs_shm = pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no second file system")  # noqa: S108


@pytest.fixture
def elsewhere(tmp_path):
    """Return an inbox on another file system than the home."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as share:
        if Path(share).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("no second file system")
        (tmp_path / "inbox").symlink_to(share)
        yield Path(share)


@needs_shm
def test_where_the_inbox_is_on_another_file_system_the_folders_are_in_it(elsewhere, tmp_path):
    world = World(tmp_path)
    world.drop("bad.json", "[7]")
    world.learn("good.json", tiny.facts(2))

    assert world.failed() == ["bad.json", "bad.json.reason.json"]
    assert world.done() == ["good.json"]
    assert stat.S_IMODE((elsewhere / ".drops").stat().st_mode) & 0o027 == 0
    assert not (tmp_path / "models" / "drops").exists()
    world.database.close()


@needs_shm
@pytest.mark.parametrize("kind", ["link", "file", "stranger"])
def test_a1_there_a_start_refuses_what_is_not_its_own_by_name(elsewhere, tmp_path, kind):
    place = elsewhere / ".drops"
    if kind == "link":
        place.symlink_to(tmp_path)
    elif kind == "file":
        place.write_text("")
    elif os.geteuid() == 0:
        place.mkdir()
        os.chown(place, MEMBER, MEMBER)
    else:
        pytest.skip("only root can give a folder away")

    with pytest.raises(ConfigError, match=r"\.drops") as caught:
        World(tmp_path)

    assert caught.value.code == "not_own"


# a property


EXCEPTIONS = st.sampled_from(
    [
        *ODD,
        *(
            OSError(n, os.strerror(n))
            for n in (errno.EIO, errno.EACCES, errno.ENOSPC, errno.ESTALE, errno.EMFILE)
        ),
        *(
            FileNotFoundError(errno.ENOENT, "gone"),
            NotADirectoryError(errno.ENOTDIR, "swapped"),
            MemoryError(),
        ),
        *(TransientError("later", code="disk"), SampleError("bad"), RegistryError("damaged")),
    ]
)


class Trouble:
    """Which of the coming operations raise what."""

    plan: dict = {}  # noqa: RUF012 - set by each example
    count = 0
    is_on = False

    @classmethod
    def meet(cls):
        if cls.is_on:
            cls.count += 1
            if error := cls.plan.get(cls.count):
                raise error


def _troubled(name):
    def method(self, *arguments, **named):
        Trouble.meet()
        return getattr(Folder, name).__get__(self, type(self))(*arguments, **named)

    return method


OPERATIONS = (
    "enter",
    "make",
    "own",
    "entries",
    "names",
    "status",
    "holds",
    "free_name",
    "rename",
    "write_json",
)
OPERATIONS += (
    "points",
    "link",
    "remove",
    "remove_empty",
    "sync",
    "state",
    "is_usable",
    "takes_from",
    "close_to",
)
Troubled = type("Troubled", (Folder,), {name: _troubled(name) for name in OPERATIONS})


class TroubledWorld(World):
    """A home whose folders may raise anything."""

    def start(self):
        super().start()
        place = self.home / "models" / "drops"
        inbox = Inbox(self.home / "inbox", self.settings.inbox, ("chat",), place, Troubled.open)
        inbox.recover()
        self.inbox = inbox
        self.wire(self.reader)


FILES = {
    "doors.json": json.dumps(tiny.rows(tiny.facts(2, subject="door"))),
    "gates.json": json.dumps(tiny.rows(tiny.facts(2, subject="gate"))),
    "bad.json": "[7]",
}


@given(plan=st.dictionaries(st.integers(1, 450), EXCEPTIONS, min_size=1, max_size=12))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_any_operation_raises_every_file_comes_to_its_end_once(plan):
    room = "/dev/shm"  # noqa: S108 - the folder inside is our own
    with (
        capture_logs(),  # tracebacks take their time
        tempfile.TemporaryDirectory(dir=room if os.access(room, os.W_OK) else None) as folder,
    ):
        world = TroubledWorld(Path(folder))
        for name, text in FILES.items():
            world.drop(name, text)
        (world.home / "inbox" / "gates.json.meta.yaml").write_text("description: x")
        Trouble.plan, Trouble.count, Trouble.is_on = plan, 0, True
        try:
            pass_long(world, 8)  # nothing escapes a step
        finally:
            Trouble.is_on = False
        world.database.close()
        world.start()
        pass_long(world, 12)

        ended = [
            p
            for p in drops(world).rglob("*")
            if p.is_file() and p.suffix == ".json" and ".reason." not in p.name
        ]
        assert len(ended) == len(FILES)
        assert {path.read_text() for path in ended} == set(FILES.values())
        learned = world.track.memory.all()
        assert len({example.id for example in learned}) == len(learned)
        accepted = [d.name for d in world.ledger.drops() if d.state is DropState.ACCEPTED]
        assert len(accepted) == len(set(accepted))
        assert len(learned) == 2 * len(accepted)
        assert world.inbox.processing() == []
        world.database.close()
