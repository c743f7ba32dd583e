"""Who may read and change what lies in a home, under any umask, and how a home is closed."""

import os
import stat

import pytest
from typer.testing import CliRunner

from lorad.apps.cli import main
from lorad.errors import ConfigError
from lorad.home import Home
from lorad.storage import files, locks, permissions
from lorad.storage.database import Database
from lorad.training.checkpoint import Checkpoints

UMASKS = [0o000, 0o022, 0o027, 0o077]
ME = os.geteuid()


@pytest.fixture(params=UMASKS, ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def modes(folder):
    return {str(path.relative_to(folder)): mode(path) for path in folder.rglob("*")}


# What lorad makes


@pytest.mark.usefixtures("umask")
def test_a15_a_new_home_is_closed_to_others_under_any_umask(tmp_path):
    result = CliRunner().invoke(main.app, ["init", str(tmp_path / "home")])

    assert result.exit_code == 0, result.output
    assert mode(tmp_path / "home") == 0o750
    assert modes(tmp_path / "home") == {
        **dict.fromkeys(("configs", "inbox", "models"), 0o750),
        **dict.fromkeys(("configs/README.md", "inbox/README.md", "models/README.md"), 0o640),
        "configs/default.yaml": 0o640,
    }


def test_a15_init_leaves_an_inbox_as_open_as_its_owner_made_it(tmp_path):
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox").chmod(0o2770)

    CliRunner().invoke(main.app, ["init", str(tmp_path)])

    assert mode(tmp_path / "inbox") == 0o2770


@pytest.mark.usefixtures("umask")
def test_a15_files_folders_and_locks_have_their_modes_under_any_umask(tmp_path):
    files.write_json(tmp_path / "a" / "b" / "paper.json", {})
    files.write_lines(tmp_path / "a" / "new.jsonl", [{"question": "secret"}])
    with files.open_secret(tmp_path / "a" / "session.log", "wb"), locks.locked(tmp_path / "a" / ".lock"):
        pass
    Checkpoints(tmp_path / "a" / "checkpoints", "run").save(1, {}, {})

    assert modes(tmp_path) == {
        **dict.fromkeys(("a", "a/b"), 0o750),
        "a/b/paper.json": 0o640,
        **dict.fromkeys(("a/new.jsonl", "a/session.log", "a/.lock"), 0o600),
        **dict.fromkeys(("a/checkpoints", "a/checkpoints/round-0001"), 0o700),
        **{
            f"a/checkpoints/round-0001/{name}": 0o640
            for name in ("manifest.json", "state.json", "tensors.safetensors")
        },
    }


def test_a15_a_folder_in_a_shared_one_keeps_the_group(tmp_path):
    tmp_path.chmod(0o2770)
    files.make_folder(tmp_path / "chat")
    assert mode(tmp_path / "chat") & ~stat.S_ISGID == 0o750
    assert mode(tmp_path / "chat") & stat.S_ISGID


@pytest.mark.usefixtures("umask")
def test_a15_the_database_and_what_sqlite_writes_beside_it_are_the_daemons_alone(tmp_path):
    database = Database(tmp_path / "lorad.sqlite3")
    database.run("INSERT INTO flags VALUES ('a', 'b')")
    assert modes(tmp_path) == dict.fromkeys(
        ("lorad.sqlite3", "lorad.sqlite3-wal", "lorad.sqlite3-shm"), 0o600
    )
    database.close()


def test_a15_an_open_database_of_an_older_lorad_is_closed_when_it_is_opened(tmp_path):
    path = tmp_path / "lorad.sqlite3"
    Database(path).close()
    path.chmod(0o644)
    wal = tmp_path / "lorad.sqlite3-wal"
    wal.touch(mode=0o644)

    database = Database(path)

    assert set(modes(tmp_path).values()) == {0o600}
    database.close()


def test_a15_a_link_in_the_place_of_what_sqlite_writes_changes_no_other_file(tmp_path):
    other = tmp_path / "other"
    other.touch()
    other.chmod(0o644)
    (tmp_path / "lorad.sqlite3-journal").symlink_to(other)

    with pytest.raises(ConfigError, match="unable to open"):  # SQLite does not follow it either
        Database(tmp_path / "lorad.sqlite3")

    assert mode(other) == 0o644


def test_a15_a_log_is_never_written_through_a_link(tmp_path):
    (tmp_path / "session.log").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic link"):
        files.open_secret(tmp_path / "session.log", "wb")
    assert not (tmp_path / "other").exists()


# Finding and closing what is open


@pytest.fixture
def home(tmp_path):
    """Return a home as an older lorad left it under umask 022."""
    root = tmp_path / "home"
    for name in ("configs", "inbox/chat", "models/chat/versions/v0.1", "models/drops/done/1", "run"):
        (root / name).mkdir(parents=True)
    for name in (
        "configs/default.yaml",
        "models/lorad.sqlite3",
        "models/lorad.sqlite3-wal",
        "models/chat/tracker.json",
        "models/chat/versions/v0.1/session.log",
        "models/drops/done/1/mine.json",
    ):
        (root / name).touch()
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Home(root)


def socket_of(home):
    return home.socket("run/lorad.sock")


def told(home, exposures):
    return {str(each.path.relative_to(home.root)): each.wanted for each in exposures}


def test_what_is_open_is_found_with_what_it_should_be(home):
    assert told(home, permissions.exposed(home, socket_of(home), ME)) == {
        ".": 0o750,
        "run": 0o750,
        "inbox": 0o770,
        "inbox/chat": 0o770,
        "configs": 0o750,
        "configs/default.yaml": 0o640,
        "models": 0o750,
        "models/lorad.sqlite3": 0o600,
        "models/lorad.sqlite3-wal": 0o600,
        "models/chat": 0o750,
        "models/chat/tracker.json": 0o640,
        "models/chat/versions": 0o750,
        "models/chat/versions/v0.1": 0o750,
        "models/chat/versions/v0.1/session.log": 0o600,
        "models/drops": 0o750,
        "models/drops/done": 0o750,
    }


def test_what_is_open_is_closed_once_and_nothing_is_opened(home):
    (home.models / "chat" / "tracker.json").chmod(0o400)
    home.inbox.chmod(0o2770)

    done, left = permissions.close(home, socket_of(home), ME)

    assert len(done) == 14
    assert left == []
    assert mode(home.database) == 0o600
    assert mode(home.models / "drops" / "done") == 0o750
    assert mode(home.models / "drops" / "done" / "1" / "mine.json") == 0o644
    assert mode(home.models / "chat" / "tracker.json") == 0o400
    assert mode(home.inbox) == 0o2770
    assert permissions.close(home, socket_of(home), ME) == ([], [])


def test_only_models_is_closed_at_a_start(home):
    done, _ = permissions.close_below(home.models, ME)
    assert {each.path.relative_to(home.root).parts[0] for each in done} == {"models"}
    assert (mode(home.root), mode(home.configs)) == (0o755, 0o755)


@pytest.mark.parametrize("kind", ["link to a file", "link to a folder", "second name"])
def test_what_somebody_put_there_never_changes_what_lies_elsewhere(home, tmp_path, kind):
    # Given a file and a folder of the daemon's elsewhere, and a link or another name of them in the home
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    key = tmp_path / "elsewhere" / "key"
    key.touch()
    key.chmod(0o644)
    trap = home.models / "chat" / "trap"
    if kind == "second name":
        trap.hardlink_to(key)
    else:
        trap.symlink_to(key if kind == "link to a file" else key.parent)

    _, left = permissions.close(home, socket_of(home), ME)

    assert (mode(key), mode(key.parent)) == (0o644, 0o755)
    assert [each.path for each in left] == ([trap] if kind == "second name" else [])


def test_a_folder_that_turns_into_a_link_between_looking_and_closing_is_left(home, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o755)
    looks = permissions._everything(home, socket_of(home), ME)
    found = next(each for each in looks if each.exposure.path == home.models / "chat")
    (home.models / "chat").rename(home.models / "aside")
    (home.models / "chat").symlink_to(tmp_path / "elsewhere")

    assert not permissions._close(found, ME)
    assert mode(tmp_path / "elsewhere") == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_another_user_owns_is_found_and_left(home):
    os.chown(home.database, 12345, -1)
    os.chmod(home.database, 0o600)  # noqa: PTH101 - beside chown
    _, left = permissions.close(home, socket_of(home), ME)
    assert [(each.path, each.is_foreign, each.owner) for each in left] == [(home.database, True, 12345)]


def test_a_socket_in_a_folder_that_all_share_is_none_of_ours_to_close(home, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    assert all(
        each.path != tmp_path / "shared"
        for each in permissions.exposed(home, tmp_path / "shared" / "lorad.sock", ME)
    )


@pytest.mark.parametrize(("bits", "is_unsafe"), [(0o777, True), (0o1777, False), (0o755, False)])
def test_a_home_in_a_folder_of_everybodys_can_be_replaced(home, bits, is_unsafe):
    home.root.parent.chmod(bits)  # the test's own folder, of which pytest makes a new one
    assert (home.root.parent in permissions.unsafe_parents(home.root)) is is_unsafe


def test_a15_folders_that_the_user_linked_into_the_home_are_looked_at_and_closed(tmp_path):
    # Given models/ on another disk and an inbox on a share, both too open
    home, disk, share = Home(tmp_path / "home"), tmp_path / "disk", tmp_path / "share"
    for folder in (home.configs, disk, share):
        folder.mkdir(parents=True)
    home.root.chmod(0o750)
    home.configs.chmod(0o750)
    (disk / "lorad.sqlite3").touch()
    (disk / "lorad.sqlite3").chmod(0o644)
    disk.chmod(0o755)
    share.chmod(0o777)
    home.models.symlink_to(disk)
    home.inbox.symlink_to(share)

    done, left = permissions.close(home, home.root / "run" / "lorad.sock", ME)

    assert {each.path for each in done} == {share, disk, disk / "lorad.sqlite3"}
    assert not left
    assert (mode(share), mode(disk), mode(disk / "lorad.sqlite3")) == (0o770, 0o750, 0o600)


@pytest.mark.skipif(ME != 0, reason="only root can give a link away")
def test_a15_a_link_of_somebody_else_in_place_of_a_folder_is_not_followed(tmp_path):
    home, theirs = Home(tmp_path / "home"), tmp_path / "theirs"
    for folder in (home.configs, home.models, theirs):
        folder.mkdir(parents=True)
    theirs.chmod(0o777)
    home.inbox.symlink_to(theirs)
    os.lchown(home.inbox, 62_002, 62_000)

    permissions.close(home, home.root / "run" / "lorad.sock", ME)

    assert mode(theirs) == 0o777
