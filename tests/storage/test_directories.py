"""Directories that are open: what happens in one happens there, and nowhere that a link leads to."""

import os
import stat
import threading

import pytest

from lorad.errors import ConfigError
from lorad.storage.directories import Folder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "f").mkdir()
    with Folder.open(tmp_path / "f") as opened:
        yield opened


def test_what_was_opened_is_changed_whatever_its_name_leads_to_now(folder, tmp_path):
    folder.path.rename(tmp_path / "away")
    (tmp_path / "elsewhere").mkdir()
    folder.path.symlink_to(tmp_path / "elsewhere")

    folder.write_json("a.json", {"a": 1})
    folder.make("inner", 0o700).close()

    assert sorted(path.name for path in (tmp_path / "away").iterdir()) == ["a.json", "inner"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "file", "pipe"])
def test_only_a_directory_is_entered_and_owned(folder, tmp_path, kind):
    path = folder.path / "inner"
    if kind == "link":
        path.symlink_to(tmp_path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("")

    with pytest.raises(OSError):  # noqa: PT011 - each system has its own number for it
        folder.enter("inner")
    with pytest.raises(ConfigError, match="a link or a file") as caught:
        folder.own("inner", 0o700)

    assert (caught.value.code, str(path) in caught.value.message) == ("not_own", True)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_folder_and_a_file_have_their_modes_whatever_the_umask(folder, umask):
    before = os.umask(umask)
    try:
        folder.own("inner", 0o750).close()
        folder.write_json("a.json", {})
    finally:
        os.umask(before)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.path.iterdir()}
    assert modes == {"inner": 0o750, "a.json": 0o640}


def test_a_folder_of_ours_that_others_may_write_to_is_closed(folder):
    (folder.path / "inner").mkdir()
    (folder.path / "inner").chmod(0o777)

    with folder.own("inner", 0o750) as inner:
        assert not inner.is_open_to_others()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused_by_name_with_the_command_that_mends_it(folder):
    (folder.path / "inner").mkdir()
    os.chown(folder.path / "inner", 65_534, 65_534)

    with pytest.raises(ConfigError, match=r"belongs to another user.*chown -R .*inner"):
        folder.own("inner", 0o750)


def test_a_removal_removes_links_and_not_what_they_lead_to(folder, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").write_text("")
    (folder.path / "day" / "deep").mkdir(parents=True)
    (folder.path / "day" / "link").symlink_to(tmp_path / "kept")
    (folder.path / "day" / "deep" / "b").write_text("")

    folder.remove("day")
    folder.remove("day")

    assert folder.names() == []
    assert (tmp_path / "kept" / "a").exists()


def test_two_that_list_one_folder_at_a_time_see_all_of_it(folder):
    for number in range(2000):
        (folder.path / str(number)).write_text("")
    counts = []

    def count():
        counts.append(sum(1 for _ in folder.entries()))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counts == [2000] * 4


def test_whether_files_can_be_renamed_is_asked_and_leaves_nothing_behind(folder, tmp_path):
    with folder.make("inner", 0o700) as inner:
        assert inner.takes_from(folder)
        assert inner.names() == []
    with Folder.open(tmp_path) as above, Folder.open(tmp_path / "/proc") as other:
        assert not above.takes_from(other)


def test_it_is_closed_once(folder):
    inner = folder.make("inner", 0o700)
    number = inner.descriptor
    inner.close()
    inner.close()
    del inner

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
