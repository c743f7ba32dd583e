"""The inbox: when a file has come to rest, what is never looked at, and where each one ends."""

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader, sidecar
from lorad.datasets.inbox import rejected_entries
from lorad.datasets.inbox.drop_folders import InboxFile
from lorad.datasets.inbox.inbox import Inbox
from lorad.datasets.inbox.taken_files import unchanged
from lorad.errors import SampleError, TransientError
from lorad.storage import fault_points, files

NOON = 1_790_000_000.0
TODAY = time.strftime("%Y-%m-%d", time.localtime(NOON))


@pytest.fixture
def inbox(tmp_path):
    made = an_inbox(tmp_path)
    made.recover()
    return made


def an_inbox(tmp_path, tracks=("chat", "law"), **settings):
    return Inbox(
        tmp_path / "inbox",
        InboxSettings(**{"settle_seconds": 5, **settings}),
        tracks,
        tmp_path / "drops",
    )


def drops(inbox):
    return inbox._folders.drops.folder.path


def put(inbox, name, content="[]", mtime=None):
    path = inbox.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    if mtime is not None:
        os.utime(path, (mtime, mtime))
    return path


def names(items):
    return [item.path.name for item in items]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


# coming to rest


def test_a_file_is_taken_once_it_has_rested(inbox):
    put(inbox, "a.json")

    looks = [names(inbox.settled(ticks)) for ticks in (100.0, 104.9, 105.0, 106.0)]

    assert looks == [[], [], ["a.json"], ["a.json"]]


def test_however_old_a_file_is_it_is_looked_at_twice(inbox):
    # Given a file whose copying program keeps the old date
    put(inbox, "a.json", mtime=1000.0)

    assert inbox.settled(0.0) == []
    assert names(inbox.settled(5.0)) == ["a.json"]


@pytest.mark.parametrize("change", ["grows", "is touched", "is replaced"])
def test_a_file_that_changes_begins_its_rest_anew(inbox, change):
    path = put(inbox, "a.json", "[1]", mtime=1000.0)
    inbox.settled(0.0)

    if change == "grows":
        put(inbox, "a.json", "[1, 2]", mtime=1000.0)
    elif change == "is touched":
        os.utime(path, (1001.0, 1001.0))
    else:  # by another of the same size and age
        other = put(inbox, ".other", "[2]", mtime=1000.0)
        other.rename(path)

    assert inbox.settled(5.0) == []
    assert inbox.settled(9.9) == []
    assert names(inbox.settled(10.0)) == ["a.json"]


def test_a_file_that_went_and_came_back_begins_its_rest_anew(inbox, tmp_path):
    path = put(inbox, "a.json")
    inbox.settled(0.0)
    path.rename(tmp_path / "away")
    inbox.settled(3.0)
    (tmp_path / "away").rename(path)

    assert inbox.settled(6.0) == []
    assert names(inbox.settled(11.0)) == ["a.json"]


def test_every_file_rests_for_itself(inbox):
    put(inbox, "a.json", mtime=1.0)
    inbox.settled(0.0)
    put(inbox, "b.json", mtime=2.0)
    inbox.settled(3.0)

    assert names(inbox.settled(5.0)) == ["a.json"]
    assert names(inbox.settled(8.0)) == ["a.json", "b.json"]


def test_where_nobody_waits_a_file_is_taken_at_first_sight(tmp_path):
    inbox = an_inbox(tmp_path, settle_seconds=0)
    inbox.recover()
    put(inbox, "a.json")

    assert names(inbox.settled(0.0)) == ["a.json"]


def test_a_file_that_was_renamed_into_place_is_taken_at_once(inbox):
    path = put(inbox, "a.json")
    put(inbox, "b.json")

    inbox.hint_complete(path)

    assert names(inbox.settled(0.0)) == ["a.json"]


def test_a_hint_is_for_the_file_that_lay_there(inbox):
    # Given a file that was renamed into place and taken, and another of its name that is being written
    inbox.hint_complete(put(inbox, "a.json"))
    inbox.take(inbox.settled(0.0)[0], 1)
    inbox.settled(1.0)
    put(inbox, "a.json", "[1")

    assert inbox.settled(2.0) == []


def test_a_file_that_is_written_into_after_its_rename_rests_like_any_other(inbox):
    inbox.hint_complete(put(inbox, "a.json"))
    put(inbox, "a.json", "[1")

    assert inbox.settled(0.0) == []


def test_a_file_that_goes_while_it_is_looked_at_is_not_ready(inbox):
    gone = InboxFile(inbox.folder / "gone.json", "chat", 2, 1.0)

    assert not inbox._settling.is_ready(gone, 100.0)


# what is looked at


@pytest.mark.parametrize(
    "name",
    [
        "a.json",
        "a.jsonl",
        "data.txt",
        "no_suffix",
        "a b (1).json",
        "日本.json",
        "my.README.json",
        "readme_questions.csv",
        "LICENSE.jsonl.gz",
        "licenses.txt",
        "noticeboard.md",
        "checksums_explained.json",
        "10:30.json",
        "49131",
        "success.json",
        "gold.json",
        "clock",
    ],
)
def test_whatever_its_name_a_file_is_looked_at(inbox, name):
    put(inbox, name)

    assert names(inbox.waiting()) == [name]


@pytest.mark.parametrize(
    "name",
    [
        ".hidden.json",
        ".a.json.x7.part",
        "a.json.part",
        "a.json.filepart",
        "a.json.crdownload",
        "a.tmp",
        ".a.json.swp",
        "a.swp",
        "a.json~",
        "~$a.json",
        "@eaDir",
        "README.md",
        "README",
        "a.json.reason.json",
        "a.json.meta.yaml",
    ],
)
@pytest.mark.parametrize("folder", ["", "law/"])
def test_what_other_programs_are_still_writing_is_left_alone(inbox, folder, name):
    inbox.hint_complete(put(inbox, f"{folder}{name}"))

    assert inbox.waiting() == inbox.settled(0.0) == inbox.settled(99.0) == []


@pytest.mark.parametrize(
    "name",
    [
        "data.json:Zone.Identifier",
        "data.json\uf03aZone.Identifier",
        "Thumbs.db:encryptable",
        "photo.json:com.apple.quarantine",
        "THUMBS.DB",
        "Desktop.ini",
        "Icon\r",
        ".DS_Store",
        "._data.json",
        "~$book.xlsx",
        ".~lock.book.csv#",
        "data.json.lock",
        "data.csv.LCK",
        "4913",
        "faq.json.bak",
        "faq.json.orig",
        "faq.JSON.OLD",
        "A.TMP",
        "data.json.md5",
        "data.json.sha1",
        "data.json.SHA256",
        "data.json.sha512sum",
        "data.json.crc",
        "data.json.asc",
        "data.json.sig",
        "SHA256SUMS",
        "MD5SUMS",
        "md5sum.txt",
        "checksums.txt",
        "_SUCCESS",
        "_committed_4711",
        "_metadata",
        "dataset_info.json",
        "dataset_infos.json",
        "croissant.json",
        "LICENSE",
        "LICENSE.txt",
        "License-MIT",
        "LICENCE",
        "COPYING",
        "NOTICE",
        "NOTICE.md",
        "Readme.md",
        "README.rst",
        "README_de.md",
    ],
)
@pytest.mark.parametrize("folder", ["", "law/"])
def test_case_13_what_lies_beside_a_dataset_is_passed_by(inbox, folder, name):
    inbox.hint_complete(put(inbox, f"{folder}{name}", "no rows"))

    assert inbox.waiting() == inbox.settled(0.0) == inbox.settled(99.0) == []
    assert inbox.rejected() == []
    assert inbox.not_taken == {}


@pytest.mark.parametrize("kind", ["link", "broken link", "link to a folder", "folder", "pipe"])
def test_only_a_file_is_a_file(inbox, tmp_path, kind):
    # Given something under a good name that could lead out of the inbox, or block whoever reads it
    outside = tmp_path / "outside.json"
    outside.write_text("[]")
    path = inbox.folder / "a.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(
            {"link": outside, "broken link": tmp_path / "none", "link to a folder": tmp_path}[kind]
        )

    inbox.hint_complete(path)

    assert inbox.waiting() == inbox.settled(0.0) == inbox.settled(99.0) == []
    assert outside.exists()


def test_a_folder_names_the_track(inbox):
    put(inbox, "a.json", mtime=1.0)
    put(inbox, "law/b.json", mtime=2.0)
    put(inbox, "chat/c.json", "[1]", mtime=3.0)
    put(inbox, "elsewhere/d.json")

    waiting = inbox.waiting()

    assert [(item.path.name, item.track, item.size, item.changed_at) for item in waiting] == [
        ("a.json", "chat", 2, 1.0),
        ("b.json", "law", 2, 2.0),
        ("c.json", "chat", 3, 3.0),
    ]


@pytest.mark.parametrize("folder", ["processing", "done", "failed"])
def test_what_was_taken_is_not_taken_again(inbox, folder):
    put(inbox, f"{folder}/a.json")

    assert inbox.waiting() == []


def test_the_oldest_comes_first_and_a_tie_goes_by_name(inbox):
    for name, mtime in [("c.json", 5.0), ("b.json", 9.0), ("law/a.json", 9.0), ("d.json", 1.0)]:
        put(inbox, name, mtime=mtime)

    assert names(inbox.waiting()) == ["d.json", "c.json", "a.json", "b.json"]


def test_an_inbox_that_is_not_there_holds_nothing(tmp_path):
    inbox = an_inbox(tmp_path)

    assert (inbox.waiting(), inbox.processing(), inbox.settled(0.0)) == ([], [], [])


def test_an_inbox_that_goes_while_the_daemon_runs_holds_nothing_until_it_is_back(inbox):
    put(inbox, "a.json")
    inbox.folder.rename(inbox.folder.with_name("away"))
    assert (inbox.waiting(), inbox.processing(), inbox.settled(0.0)) == ([], [], [])

    inbox.folder.with_name("away").rename(inbox.folder)
    inbox.settled(1.0)

    assert names(inbox.settled(6.0)) == ["a.json"]


def test_the_folders_are_made_and_kept(inbox):
    put(inbox, "done/a.json")

    inbox.recover()

    assert sorted(path.name for path in inbox.folder.iterdir()) == ["chat", "done", "failed", "law"]
    assert sorted(path.name for path in drops(inbox).iterdir()) == ["done", "failed", "processing"]
    assert (inbox.folder / "done" / "a.json").exists()


def test_the_tracks_folders_are_as_open_as_the_inbox(tmp_path):
    # Given an inbox that a group shares, and a daemon that leaves the group what it has
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox").chmod(0o2770)
    before = os.umask(0o007)
    try:
        an_inbox(tmp_path).recover()
    finally:
        os.umask(before)

    assert [(tmp_path / "inbox" / name).stat().st_mode & 0o777 for name in ("chat", "law")] == [0o770] * 2


def test_a_file_that_is_named_like_a_track_is_a_file(tmp_path):
    inbox = an_inbox(tmp_path)
    put(inbox, "law")

    inbox.recover()

    assert names(inbox.waiting()) == ["law"]


# where each one ends


def take(inbox, name, content="[]", drop=1):
    path = put(inbox, name, content)
    for now in (0.0, 99.0):
        ready = inbox.settled(now)
    return inbox.take(next(item for item in ready if item.path == path), drop)


def test_a_taken_file_is_out_of_its_writers_reach(inbox):
    taken = take(inbox, "law/a.json", "[1]")

    assert taken == drops(inbox) / "processing" / "law" / "1" / "a.json"
    assert inbox.waiting() == []
    assert [(item.path, item.track, item.size, item.drop) for item in inbox.processing()] == [
        (taken, "law", 3, 1)
    ]


def test_an_accepted_file_is_kept_under_its_day(inbox):
    ended = inbox.finish(take(inbox, "a.json", "[1]"), NOON)

    assert ended == drops(inbox) / "done" / TODAY / "a.json"
    assert (inbox.folder / "done" / TODAY / "a.json").read_text() == "[1]"  # where people look
    assert contents(drops(inbox)) == {f"done/{TODAY}/a.json": "[1]"}


def test_a_failed_file_lies_beside_its_reason(inbox):
    ended = inbox.fail(take(inbox, "law/a.json", "[1]"), {"code": "no_rows", "message": "é"})

    assert ended == drops(inbox) / "failed" / "a.json"
    assert ended.read_text() == "[1]"
    reason = json.loads((inbox.folder / "failed" / "a.json.reason.json").read_text(encoding="utf-8"))
    assert reason == {"file": "a.json", "code": "no_rows", "message": "é"}
    assert inbox.processing() == []


def test_files_of_one_name_never_overwrite_each_other(inbox):
    # Given three files of one name in processing at once
    taken = [take(inbox, "a.json", f"[{drop}]", drop) for drop in (1, 2, 3)]
    assert names(inbox.processing()) == ["a.json"] * 3

    # When one is accepted after the other
    for path in taken:
        inbox.finish(path, NOON)

    done = inbox.folder / "done" / TODAY
    assert contents(done) == {"a.json": "[1]", "a-2.json": "[2]", "a-3.json": "[3]"}


def test_failed_files_of_one_name_keep_their_own_reasons(inbox):
    for code in ("first", "second"):
        inbox.fail(take(inbox, "a.json", code), {"code": code})

    failed = inbox.folder / "failed"
    assert contents(failed).keys() == {"a.json", "a.json.reason.json", "a-2.json", "a-2.json.reason.json"}
    for name, code in [("a.json", "first"), ("a-2.json", "second")]:
        assert (failed / name).read_text() == code
        assert json.loads((failed / f"{name}.reason.json").read_text()) == {"file": name, "code": code}


def test_a_file_that_is_gone_cannot_be_taken(inbox):
    put(inbox, "a.json")
    waiting = inbox.waiting()
    waiting[0].path.unlink()

    with pytest.raises(FileNotFoundError):
        inbox.take(waiting[0], 1)


def test_what_was_being_processed_is_found_after_a_restart(inbox, tmp_path):
    # Given files of two tracks that were taken before the daemon was killed
    take(inbox, "law/b.json", drop=9)
    take(inbox, "a.json", drop=10)
    take(inbox, "c.json", drop=2)
    (drops(inbox) / "processing" / "chat" / "11").mkdir()

    again = an_inbox(tmp_path)
    again.recover()

    assert [(item.path.name, item.track, item.drop) for item in again.processing()] == [
        ("c.json", "chat", 2),
        ("b.json", "law", 9),
        ("a.json", "chat", 10),
    ]
    assert sorted(path.name for path in (drops(inbox) / "processing" / "chat").iterdir()) == ["10", "2"]


def test_a_reason_is_written_however_long_the_name(inbox):
    # Given a name as long as the file system allows
    name = "a" * 250 + ".json"

    ended = inbox.fail(take(inbox, name), {"code": "no_rows"})

    assert ended.exists()
    reason = ended.with_name(f"{ended.name}.reason.json")
    assert json.loads(reason.read_text()) == {"file": ended.name, "code": "no_rows"}


def test_a_reason_is_written_whatever_the_file_held(inbox):
    # Given a row with a field whose name no text file can hold
    path = take(inbox, "a.json", '[{"\\ud800": "x"}]')
    with pytest.raises(SampleError) as caught:
        reader.read(path, InboxSettings())

    inbox.fail(path, caught.value.as_dict())

    assert (inbox.folder / "failed" / "a.json.reason.json").exists()


# who still writes


def hold_open(path):
    """Return a process of its own that has a file open for writing; it ends when its input does."""
    held = subprocess.Popen(
        [sys.executable, "-c", f"f = open({str(path)!r}, 'a'); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    held.stdout.readline()
    return held


needs_proc = pytest.mark.skipif(not Path("/proc/self/fdinfo").is_dir(), reason="Linux only")


@needs_proc
@pytest.mark.parametrize("is_renamed", [False, True])
def test_a_file_that_somebody_still_writes_to_is_not_taken(inbox, is_renamed):
    path = put(inbox, "a.json")
    if is_renamed:
        inbox.hint_complete(path)
    with hold_open(path) as writer:
        inbox.settled(0.0)

        assert inbox.settled(99.0) == []
        assert inbox.delayed == {path: f"process {writer.pid} has it open for writing"}
        writer.communicate(b"\n")

    assert names(inbox.settled(99.0)) == ["a.json"]
    assert inbox.delayed == {}


@contextlib.contextmanager
def reading(inbox, name="a.json", content="[1]"):
    """Take a file and open it as a reader does, to be left unchanged."""
    taken = take(inbox, name, content)
    (item,) = inbox.processing()
    with inbox.opened(item) as opened, unchanged(opened):
        yield taken


def test_a_file_that_changes_while_it_is_read_is_read_again(inbox):
    with pytest.raises(TransientError, match="changed while it was read"), reading(inbox) as path:
        path.write_text("[1, 2]")


def _cut_off(path):
    path.write_text("[1, 2, 3")
    raise SampleError("cut off")


def test_what_is_wrong_with_half_a_file_is_no_fault_of_its_rows(inbox):
    with pytest.raises(TransientError), reading(inbox) as path:
        _cut_off(path)


def test_a_sidecar_that_changes_while_its_file_is_read_is_read_again(inbox):
    put(inbox, "a.json.meta.yaml", "description: x")

    with pytest.raises(TransientError, match="changed while it was read"), reading(inbox) as path:
        path.with_name("a.json.meta.yaml").write_text("description: y and z")


def test_a_file_that_rests_while_it_is_read_keeps_its_own_error(inbox):
    with pytest.raises(SampleError, match="cut off"), reading(inbox):
        raise SampleError("cut off")


@needs_proc
def test_a_file_that_can_still_be_written_to_is_read_again(inbox):
    taken = take(inbox, "a.json", "[1]")
    (item,) = inbox.processing()

    with hold_open(taken) as writer:
        with (
            pytest.raises(TransientError, match=f"process {writer.pid}"),
            inbox.opened(item) as opened,
            unchanged(opened),
        ):
            pass
        writer.communicate(b"\n")


# when it is looked at


def test_where_events_tell_the_folder_is_read_when_told_and_now_and_then(tmp_path):
    inbox = an_inbox(tmp_path, rescan_seconds=30)
    inbox.recover()
    inbox.rely_on_events()
    inbox.settled(0.0)
    inbox.hint_complete(put(inbox, "a.json"))

    assert inbox.settled(1.0) == []  # nobody said so
    inbox.request_scan()
    assert names(inbox.settled(2.0)) == ["a.json"]

    inbox.take(inbox.settled(2.0)[0], 1)
    inbox.settled(3.0)
    put(inbox, "b.json")
    assert inbox.settled(31.0) == []
    assert not inbox._settling.resting  # not seen yet
    inbox.settled(33.0)
    assert names(inbox.settled(38.0)) == ["b.json"]  # what rests is looked at until it is taken


def test_where_nothing_tells_the_folder_is_read_every_time(inbox):
    inbox.settled(0.0)
    inbox.hint_complete(put(inbox, "a.json"))

    assert names(inbox.settled(0.1)) == ["a.json"]


class Slow(Inbox):
    """An inbox in which a file appears just after it was listed."""

    def _counted(self, others):
        yield from super()._counted(others)
        if not (self.folder / "late.json").exists():
            self.hint_complete(put(self, "late.json"))


def test_what_is_told_while_the_folder_is_read_is_kept_for_the_next_look(tmp_path):
    inbox = Slow(tmp_path / "inbox", InboxSettings(settle_seconds=5), ("chat",))
    inbox.recover()

    assert inbox.settled(0.0) == []
    assert names(inbox.settled(0.1)) == ["late.json"]


def test_hints_are_for_what_lies_in_the_inbox_alone(inbox):
    for name in ("done/a.json", "elsewhere/a.json"):
        inbox.hint_complete(put(inbox, name))

    assert not inbox._settling.renamed


def test_of_a_flood_only_the_oldest_are_held_in_memory(tmp_path):
    inbox = an_inbox(tmp_path, max_queued_files=3, settle_seconds=0)
    inbox.recover()
    for number in range(10):
        put(inbox, f"{number}.json", mtime=float(number + 1))

    assert names(inbox.settled(0.0)) == ["0.json", "1.json", "2.json"]
    assert (len(inbox.waiting()), inbox.count) == (3, 10)


# sidecars


def test_a_sidecar_goes_where_its_file_goes(inbox):
    put(inbox, "a.json", "[1]")
    put(inbox, "a.json.meta.yaml", "description: x")
    inbox.settled(0.0)

    taken = inbox.take(inbox.settled(5.0)[0], 7)
    assert contents(drops(inbox)) == {
        "processing/chat/7/a.json": "[1]",
        "processing/chat/7/a.json.meta.yaml": "description: x",
    }
    assert [item.path for item in inbox.processing()] == [taken]

    inbox.finish(taken, NOON)
    assert contents(drops(inbox)) == {
        f"done/{TODAY}/a.json": "[1]",
        f"done/{TODAY}/a.json.meta.yaml": "description: x",
    }


WORDINGS = '{"Where?": ["Whereabouts?"]}'


def test_wordings_go_where_their_file_goes(inbox):
    put(inbox, "a.json", "[1]")
    put(inbox, "a.json.meta.yaml", "description: x")
    put(inbox, "a.json.wordings.json", WORDINGS)
    inbox.settled(0.0)

    (item,) = inbox.settled(5.0)
    taken = inbox.take(item, 7)
    with inbox.opened(inbox.processing()[0]) as opened:
        assert (opened.beside.name, opened.wordings.name) == ("a.json.meta.yaml", "a.json.wordings.json")
        signature = opened.signature
    inbox.finish(taken, NOON)

    place = f"done/{TODAY}/a.json"
    ended = {place: "[1]", f"{place}.meta.yaml": "description: x", f"{place}.wordings.json": WORDINGS}
    assert contents(drops(inbox)) == ended
    # a later change of them is noticed
    assert inbox.changed({place: signature}, 100.0) == inbox.changed({place: signature}, 150.0) == []
    (drops(inbox) / f"{place}.wordings.json").write_text("{}")
    inbox.changed({place: signature}, 200.0)
    assert inbox.changed({place: signature}, 300.0) == [place]


def test_a_failed_file_has_its_wordings_beside_it(inbox):
    put(inbox, "a.json.wordings.json", WORDINGS)

    inbox.fail(take(inbox, "a.json", "[1]"), {"code": "no_rows"})

    assert contents(inbox.folder / "failed").keys() == {
        "a.json",
        "a.json.wordings.json",
        "a.json.reason.json",
    }


def test_a_file_waits_for_wordings_that_are_still_written_and_for_none_that_are_not_there(inbox):
    inbox.hint_complete(put(inbox, "b.json"))
    inbox.hint_complete(put(inbox, "a.json"))
    put(inbox, "a.json.wordings.json", "{")

    assert names(inbox.settled(0.0)) == ["b.json"]
    assert names(inbox.settled(6.0)) == ["b.json", "a.json"]


def test_lone_wordings_are_no_dataset(inbox, tmp_path):
    put(inbox, "a.json.wordings.json", WORDINGS)
    put(inbox, "law/b.json")
    put(inbox, drops(inbox) / "processing/law/7/b.json.wordings.json", WORDINGS)

    assert told(inbox, 60.0, 61.0, 999.0) == [("a.json.wordings.json", "lone_sidecar", True)]
    an_inbox(tmp_path).recover()
    assert (inbox.folder / "law" / "b.json.wordings.json").read_text() == WORDINGS


def test_a_failed_file_has_its_sidecar_beside_it(inbox):
    # Given that another file of its name failed before
    put(inbox, "failed/a.json", "[0]")
    put(inbox, "a.json.meta.yaml", "description: x")

    inbox.fail(take(inbox, "a.json", "[1]"), {"code": "no_rows"})

    assert contents(inbox.folder / "failed").keys() == {
        "a.json",
        "a-2.json",
        "a-2.json.meta.yaml",
        "a-2.json.reason.json",
    }


def test_a_file_waits_for_its_sidecar_to_rest(inbox):
    inbox.hint_complete(put(inbox, "a.json"))
    put(inbox, "a.json.meta.yaml", "desc")
    assert inbox.settled(0.0) == []
    put(inbox, "a.json.meta.yaml", "description: x")

    assert inbox.settled(3.0) == inbox.settled(7.9) == []
    assert names(inbox.settled(8.0)) == ["a.json"]


def test_a_sidecar_names_the_track(inbox):
    for number, text in enumerate(["track: law", "track: tax", "track: [", "{}"]):
        put(inbox, f"{number}.json.meta.yaml", text)
        take(inbox, f"{number}.json", drop=number)

    # one that cannot be read, or names no track, is refused when the file is read
    assert {item.path.name: item.track for item in inbox.processing()} == {
        "0.json": "law",
        "1.json": "chat",
        "2.json": "chat",
        "3.json": "chat",
    }


def test_two_pairs_of_one_name_are_not_mixed(inbox):
    for number, text in enumerate(("first", "second")):
        put(inbox, "a.json.meta.yaml", f"description: {text}")
        take(inbox, "a.json", text, drop=number)
    take(inbox, "a.json", "none", drop=2)

    folder = drops(inbox) / "processing" / "chat"
    assert contents(folder) == {
        "0/a.json": "first",
        "0/a.json.meta.yaml": "description: first",
        "1/a.json": "second",
        "1/a.json.meta.yaml": "description: second",
        "2/a.json": "none",
    }


def test_a_sidecar_goes_back_when_its_file_is_gone_before_it_could_be_taken(inbox):
    put(inbox, "a.json.meta.yaml", "description: x")
    put(inbox, "a.json")
    waiting = inbox.waiting()[0]
    waiting.path.unlink()
    with pytest.raises(FileNotFoundError):
        inbox.take(waiting, 1)

    # When somebody puts the file there again
    inbox.hint_complete(put(inbox, "a.json"))
    inbox.settled(0.0)

    assert contents(inbox.folder) == {"a.json": "[]", "a.json.meta.yaml": "description: x"}


def test_a_file_is_not_taken_again_without_the_sidecar_that_a_full_disk_kept(inbox):
    # Given a disk that is full when the sidecar was moved and the file was not
    @contextlib.contextmanager
    def full(name, place):
        if name == "rename" and place.endswith("a.json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        yield

    put(inbox, "a.json.meta.yaml", "description: x")
    with pytest.raises(TransientError), fault_points.guarded(full):
        take(inbox, "a.json")

    (again,) = inbox.settled(200.0)
    taken = inbox.take(again, 2)

    assert contents(taken.parent) == {"a.json": "[]", "a.json.meta.yaml": "description: x"}


def test_a_pair_that_was_torn_apart_when_it_was_taken_is_whole_after_a_restart(inbox, tmp_path):
    put(inbox, "law/a.json")
    # moved first, and here the power failed
    put(inbox, drops(inbox) / "processing/law/7/a.json.meta.yaml", "description: x")

    again = an_inbox(tmp_path)
    again.recover()

    assert contents(inbox.folder) == {"law/a.json": "[]", "law/a.json.meta.yaml": "description: x"}
    assert list((drops(inbox) / "processing" / "law").iterdir()) == []


def test_a_pair_that_was_torn_apart_when_it_ended_ends_together(inbox):
    # Given a file whose sidecar was moved to done/ when the power failed
    put(inbox, "a.json.meta.yaml", "description: x")
    taken = take(inbox, "a.json")
    put(inbox, f"done/{TODAY}/a.json", "an older one")
    files.rename(sidecar.path_of(taken), inbox.folder / "done" / TODAY / "a-2.json.meta.yaml")

    inbox.finish(taken, NOON)

    assert contents(inbox.folder / "done" / TODAY).keys() == {"a.json", "a-2.json", "a-2.json.meta.yaml"}


def test_a_sidecar_whose_file_somebody_took_away_is_nobody_elses(inbox, tmp_path):
    # Given a sidecar that was taken when the power failed, and a new pair of its name
    put(inbox, drops(inbox) / "processing/chat/7/a.json.meta.yaml", "description: old")
    put(inbox, "a.json")
    put(inbox, "a.json.meta.yaml", "description: new")

    an_inbox(tmp_path).recover()

    assert (inbox.folder / "a.json.meta.yaml").read_text() == "description: new"
    assert (inbox.folder / "done" / "a.json.meta.yaml").read_text() == "description: old"


# strangers


def told(inbox, *moments):
    found = []
    for now in moments:
        inbox.settled(now)
        found += [(news.file.name, news.error.code, news.is_left) for news in inbox.rejected()]
    return found


@pytest.mark.parametrize(
    ("kind", "words"),
    [("link", "symbolic link"), ("pipe", "named pipe"), ("socket", "socket")],
)
def test_what_is_no_file_is_refused_by_name_and_never_opened(inbox, tmp_path, kind, words):
    path = inbox.folder / "a.json"
    (tmp_path / "outside.json").write_text("[]")
    if kind == "link":
        path.symlink_to(tmp_path / "outside.json")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(path))
        bound.close()

    inbox.settled(0.0)
    assert inbox.rejected() == []
    inbox.settled(5.0)
    (stranger,) = inbox.rejected()
    inbox.fail(stranger.file.path, stranger.error.as_dict())

    assert (stranger.error.code, stranger.is_left) == ("no_file", False)
    assert words in stranger.error.message
    assert sorted(p.name for p in (inbox.folder / "failed").iterdir()) == ["a.json", "a.json.reason.json"]
    assert (tmp_path / "outside.json").read_text() == "[]"
    assert told(inbox, 6.0, 20.0) == []


def test_a_device_is_no_file(inbox):
    why = rejected_entries.why_strange(
        inbox._folders, InboxFile(inbox.folder / "null", "chat", 0, 0.0), Path(os.devnull).stat().st_mode
    )

    assert "a device" in why.message


def test_a_folder_that_names_no_track_is_told_of_once_and_left(inbox):
    put(inbox, "elsewhere/a.json")
    put(inbox, "law/deeper/a.json")

    assert told(inbox, 0.0, 4.0) == []
    assert sorted(told(inbox, 5.0, 6.0, 99.0)) == [
        ("deeper", "no_such_track", True),
        ("elsewhere", "no_such_track", True),
    ]
    assert "chat, law" in inbox.not_taken[inbox.folder / "elsewhere"].message
    assert not inbox._settling.resting  # nothing has to be waited for


def test_a_track_that_is_a_link_is_not_followed(inbox, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.json").write_text("[]")
    (inbox.folder / "law").rmdir()
    (inbox.folder / "law").symlink_to(outside)

    assert told(inbox, 0.0, 5.0, 9.0) == [("law", "foreign_folder", True)]
    assert inbox.waiting() == []


# what is closed


NOBODY = 65_534


@pytest.fixture
def bound(tmp_path, monkeypatch):
    """Return an inbox of somebody whom permissions bind: root may read and change everything."""
    monkeypatch.chdir(tmp_path)  # nobody may come here from above
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(tmp_path, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        made = an_inbox(Path())
        made.recover()
        yield made
    finally:
        if is_root:
            os.setresuid(0, 0, 0)


@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_a_tracks_folder_that_its_owner_closed_is_told_of_and_keeps_nobody_waiting(bound, mode):
    # Given the files of two people, one of whom made the folder and let nobody else empty it
    put(bound, "a.json")
    put(bound, "law/b.json")
    (bound.folder / "law").chmod(mode)

    assert told(bound, 0.0, 5.0, 9.0) == [("law", "closed_folder", True)]
    assert names(bound.settled(10.0)) == ["a.json"]
    assert "chmod g+rwx" in bound.not_taken[bound.folder / "law"].message

    # When it is opened
    (bound.folder / "law").chmod(0o770)
    bound.settled(11.0)

    assert names(bound.settled(16.0)) == ["a.json", "b.json"]
    assert bound.not_taken == {}


@pytest.mark.parametrize("closed", ["a.json", "a.json.meta.yaml"])
def test_a_file_that_may_not_be_read_fails_instead_of_waiting_for_ever(bound, closed):
    put(bound, "a.json.meta.yaml", "description: x")
    taken = take(bound, "a.json")
    taken.with_name(closed).chmod(0)
    (item,) = bound.processing()

    with (
        pytest.raises(SampleError, match=rf"^{closed} cannot be read.*chmod g\+r") as caught,
        bound.opened(item),
    ):
        pass

    assert caught.value.code == "unreadable"


def test_a_refusal_that_is_not_the_files_own_is_passed_on(bound):
    with pytest.raises(PermissionError), reading(bound):
        raise PermissionError


def test_a_sidecar_without_a_file_waits_long_and_is_then_told_of(inbox):
    beside = put(inbox, "a.json.meta.yaml", "description: x")

    assert told(inbox, 0.0, 59.0) == []
    assert told(inbox, 60.0, 61.0, 999.0) == [("a.json.meta.yaml", "lone_sidecar", True)]

    # and when its file comes at last it is of use
    put(inbox, "a.json")
    inbox.settled(1000.0)
    assert inbox.not_taken == {}
    inbox.take(inbox.settled(1005.0)[0], 1)
    assert not beside.exists()


def test_a_stranger_that_went_and_came_back_is_told_of_again(inbox):
    folder = inbox.folder / "elsewhere"
    folder.mkdir()
    assert len(told(inbox, 0.0, 5.0)) == 1
    folder.rmdir()
    inbox.settled(6.0)
    folder.mkdir()

    assert len(told(inbox, 7.0, 12.0)) == 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.json", "a.json"),
        ("a b é 日本.json", "a b é 日本.json"),
        ("\x1b]0;owned\x07.json", "\ufffd]0;owned\ufffd~*.json"),
        ("a\nb.json", "a\ufffdb~*.json"),
        ("gpj.\u202enosj.exe", "gpj.\ufffdnosj~*.exe"),
        (os.fsdecode(b"d\xf6rs.json"), "d\ufffdrs~*.json"),
    ],
)
def test_no_name_can_steer_a_terminal_or_break_a_record(inbox, name, shown):
    put(inbox, name)
    (waiting,) = inbox.waiting()

    assert fnmatchcase(waiting.name, shown)
    assert inbox.take(waiting, 1).name == waiting.name
