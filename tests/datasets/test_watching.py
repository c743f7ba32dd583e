"""Being told of changes in the inbox: its own folder and the tracks' are watched, whatever is made below them."""

import contextlib
import errno
import shutil
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
from watchdog import events

from lorad.datasets.inbox.watching import _Handler, start, watch

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only inotify tells it")


class Told:
    """What a watcher tells of an inbox that has the folder of one track."""

    def __init__(self, inbox):
        self.inbox = inbox
        self.complete, self.scans = [], threading.Semaphore(0)
        (inbox / "law").mkdir(parents=True)

    @contextlib.contextmanager
    def watching(self):
        watcher = watch(
            self.inbox, ("law",), lambda path: self.complete.append(path.name), self.scans.release
        )
        watcher.start()
        try:
            yield watcher
        finally:
            watcher.stop()
            watcher.join()

    def rename_in(self, name, folder=""):
        """Rename a file from beside the inbox into it, and wait until it is told of."""
        made = self.inbox.parent / name
        made.write_text("[]")
        made.rename(self.inbox / folder / name)
        while name not in self.complete:
            assert self.scans.acquire(timeout=10)


@pytest.fixture
def told(tmp_path):
    return Told(tmp_path / "inbox")


@pytest.mark.parametrize(
    ("event", "complete", "appeared", "scans"),
    [
        (events.FileCreatedEvent("inbox/a.json"), [], [], 1),
        (events.FileModifiedEvent("inbox/a.json"), [], [], 1),
        (events.FileClosedEvent("inbox/a.json"), [], [], 1),
        (events.FileMovedEvent("inbox/.a.part", "inbox/a.json"), ["a.json"], [], 1),
        (events.FileMovedEvent("", "inbox/a.json"), ["a.json"], [], 1),
        (events.FileMovedEvent("inbox/a.json", ""), [], [], 0),
        (events.FileOpenedEvent("inbox/a.json"), [], [], 0),
        (events.FileClosedNoWriteEvent("inbox/a.json"), [], [], 0),
        (events.FileDeletedEvent("inbox/a.json"), [], [], 0),
        (events.DirCreatedEvent("inbox/law"), [], ["law"], 0),
        (events.DirMovedEvent("inbox/old", "inbox/law"), [], ["law"], 0),
        (events.DirMovedEvent("inbox/law", ""), [], [], 0),
        (events.DirModifiedEvent("inbox/law"), [], [], 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_a_rename_says_complete_and_only_a_change_says_scan(event, complete, appeared, scans):
    completed, folders, scanned = [], [], []
    handler = _Handler(
        lambda path: completed.append(path.name),
        lambda: scanned.append(1),
        lambda path: folders.append(path.name),
    )

    handler.dispatch(event)

    assert completed == complete
    assert folders == appeared
    assert len(scanned) == scans


def test_a_watcher_is_not_started_by_who_makes_it(tmp_path):
    (tmp_path / "law").mkdir()
    watcher = watch(tmp_path, ("law", "no-folder-yet"), print, print)

    assert not watcher.is_alive()
    assert {(emitter.watch.path, emitter.watch.is_recursive) for emitter in watcher.emitters} == {
        (str(tmp_path), False),
        (str(tmp_path / "law"), False),
    }


@ON_LINUX
def test_a_rename_from_outside_the_inbox_says_complete_and_a_copy_does_not(told):
    # Given a watched folder
    with told.watching():
        # When one file is written in it and another, from beside it, renamed into it
        (told.inbox / "written.json").write_text("[]")
        told.rename_in("renamed.json")

    assert told.complete == ["renamed.json"]


def watched_by_inotify():
    """Return how many files and folders this process watches."""
    held = 0
    for path in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(OSError):  # a descriptor that is closed by now
            held += path.read_text().count("inotify wd:")
    return held


@ON_LINUX
def test_a7_folders_that_a_member_makes_are_not_watched_and_hold_up_no_file(told, caplog):
    # Given a watched inbox
    before = watched_by_inotify()
    with told.watching():
        # When somebody makes folders in it, deep and many, and drops a file
        (told.inbox / "/".join(["d"] * 100)).mkdir(parents=True)
        for number in range(300):
            (told.inbox / "law" / "many" / str(number)).mkdir(parents=True)
        told.rename_in("a.json", "law")

        # Then the file is told of, and nothing was spent on the folders
        assert watched_by_inotify() == before + 2
        assert not caplog.records


@ON_LINUX
@pytest.mark.parametrize("how", ["removed", "moved away"])
def test_a_tracks_folder_that_is_made_anew_is_watched_again(told, how):
    with told.watching() as watcher:
        # Given a track's folder that went
        if how == "removed":
            shutil.rmtree(told.inbox / "law")
        else:
            (told.inbox / "law").rename(told.inbox / "old")

        # When it is made anew
        (told.inbox / "law").mkdir()

        # Then somebody looks at what is in it, and a file that comes later is told of
        assert told.scans.acquire(timeout=10)
        told.rename_in("a.json", "law")
        assert len(watcher.emitters) == 2


# being told, or not


class FakeWatcher:
    """A watcher that starts, or cannot."""

    def __init__(self, error=None):
        self.error = error
        self.is_started = False

    def start(self):
        if self.error:
            raise self.error
        self.is_started = True


class Line(NamedTuple):
    mountpoint: str
    fstype: str


@pytest.mark.parametrize(
    ("error", "fstype", "why"),
    [
        (None, "ext4", ""),
        (None, "cifs", "it lies on SMB, which"),
        (OSError(errno.ENOSPC, "inotify watch limit reached"), "ext4", "inotify watch limit reached"),
        (OSError(errno.EMFILE, "inotify instance limit reached"), "ext4", "inotify instance limit reached"),
    ],
)
def test_where_events_cannot_be_relied_on_the_reason_is_told(tmp_path, error, fstype, why):
    watcher = FakeWatcher(error)

    found = start(watcher, tmp_path, [Line("/", fstype)])

    assert (why in found) if why else found == ""
    assert watcher.is_started == (error is None)


def test_an_inbox_that_is_a_link_to_a_share_is_one_on_a_share(tmp_path):
    (tmp_path / "share").mkdir()
    (tmp_path / "inbox").symlink_to(tmp_path / "share")
    table = [Line("/", "ext4"), Line(str((tmp_path / "share").resolve()), "nfs4")]

    assert "NFS" in start(FakeWatcher(), tmp_path / "inbox", table)
