"""The inbox: when a file has come to rest, what is never looked at, and where each one ends."""

import json
import os
import time

import pytest
from watchdog import events

from lorad import samples
from lorad.config import InboxSettings
from lorad.errors import SampleError
from lorad.inbox import Inbox, Waiting, _Handler, watch

NOON = 1_790_000_000.0
TODAY = time.strftime("%Y-%m-%d", time.localtime(NOON))


@pytest.fixture
def inbox(tmp_path):
    made = an_inbox(tmp_path)
    made.recover()
    return made


def an_inbox(tmp_path, tracks=("chat", "law"), **settings):
    return Inbox(tmp_path / "inbox", InboxSettings(**{"settle_seconds": 5, **settings}), tracks)


def put(inbox, name, content="[]", mtime=None):
    path = inbox.folder / name
    path.parent.mkdir(exist_ok=True)
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
    inbox.take(inbox.settled(0.0)[0])
    inbox.settled(1.0)
    put(inbox, "a.json", "[1")

    assert inbox.settled(2.0) == []


def test_a_file_that_goes_while_it_is_looked_at_is_not_ready(inbox):
    gone = Waiting(inbox.folder / "gone.json", "chat", 2, 1.0)

    assert not inbox._is_ready(gone, 100.0)


# what is looked at


@pytest.mark.parametrize(
    "name", ["a.json", "a.jsonl", "data.txt", "no_suffix", "a b (1).json", "日本.json", "my.README.json"]
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


def test_the_folders_are_made_and_kept(inbox):
    put(inbox, "done/a.json")

    inbox.recover()

    assert sorted(path.name for path in inbox.folder.iterdir()) == ["done", "failed", "processing"]
    assert (inbox.folder / "done" / "a.json").exists()


# where each one ends


def take(inbox, name, content="[]"):
    put(inbox, name, content)
    return inbox.take(next(item for item in inbox.waiting() if item.path.name == name.split("/")[-1]))


def test_a_taken_file_is_out_of_its_writers_reach(inbox):
    taken = take(inbox, "law/a.json", "[1]")

    assert taken == inbox.folder / "processing" / "law" / "a.json"
    assert inbox.waiting() == []
    assert [(item.path, item.track, item.size) for item in inbox.processing()] == [(taken, "law", 3)]


def test_an_accepted_file_is_kept_under_its_day(inbox):
    ended = inbox.finish(take(inbox, "a.json", "[1]"), NOON)

    assert ended == inbox.folder / "done" / TODAY / "a.json"
    assert contents(inbox.folder) == {f"done/{TODAY}/a.json": "[1]"}


def test_a_failed_file_lies_beside_its_reason(inbox):
    ended = inbox.fail(take(inbox, "law/a.json", "[1]"), {"code": "no_rows", "message": "é"})

    assert ended == inbox.folder / "failed" / "a.json"
    assert ended.read_text() == "[1]"
    reason = json.loads((inbox.folder / "failed" / "a.json.reason.json").read_text(encoding="utf-8"))
    assert reason == {"file": "a.json", "code": "no_rows", "message": "é"}
    assert inbox.processing() == []


def test_files_of_one_name_never_overwrite_each_other(inbox):
    # Given three files of one name in processing at once
    taken = [take(inbox, "a.json", content) for content in ("[1]", "[2]", "[3]")]
    assert names(inbox.processing()) == ["a-2.json", "a-3.json", "a.json"]

    # When one is accepted after the other under its own name again
    for path in taken:
        inbox.finish(path.rename(path.with_name("a.json")), NOON)

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
        inbox.take(waiting[0])


def test_what_was_being_processed_is_found_after_a_restart(inbox, tmp_path):
    # Given files of two tracks that were taken before the daemon was killed
    take(inbox, "law/b.json")
    take(inbox, "a.json")
    take(inbox, "c.json")
    (inbox.folder / "processing" / "chat" / "folder").mkdir()

    again = an_inbox(tmp_path)
    again.recover()

    assert [(item.path.name, item.track) for item in again.processing()] == [
        ("a.json", "chat"),
        ("c.json", "chat"),
        ("b.json", "law"),
    ]


def test_a_reason_is_written_however_long_the_name(inbox):
    # Given a name as long as the file system allows
    name = "a" * 250 + ".json"

    ended = inbox.fail(take(inbox, name), {"code": "no_rows"})

    assert ended.exists()
    assert [json.loads(text) for path, text in contents(inbox.folder).items() if "reason" in path] == [
        {"file": ended.name, "code": "no_rows"}
    ]


def test_a_reason_is_written_whatever_the_file_held(inbox):
    # Given a row with a field whose name no text file can hold
    path = take(inbox, "a.json", '[{"\\ud800": "x"}]')
    with pytest.raises(SampleError) as caught:
        samples.read(path, InboxSettings())

    inbox.fail(path, caught.value.as_dict())

    assert (inbox.folder / "failed" / "a.json.reason.json").exists()


# being told


@pytest.mark.parametrize(
    ("event", "complete", "looks"),
    [
        (events.FileCreatedEvent("inbox/a.json"), [], 1),
        (events.FileModifiedEvent("inbox/a.json"), [], 1),
        (events.FileClosedEvent("inbox/a.json"), [], 1),
        (events.FileMovedEvent("inbox/.a.part", "inbox/a.json"), ["a.json"], 1),
        (events.FileOpenedEvent("inbox/a.json"), [], 0),
        (events.FileClosedNoWriteEvent("inbox/a.json"), [], 0),
        (events.FileDeletedEvent("inbox/a.json"), [], 0),
        (events.DirCreatedEvent("inbox/law"), [], 0),
        (events.DirMovedEvent("inbox/old", "inbox/law"), [], 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_a_rename_says_complete_and_only_a_change_says_look(event, complete, looks):
    told, looked = [], []

    _Handler(lambda path: told.append(path.name), lambda: looked.append(1)).dispatch(event)

    assert told == complete
    assert len(looked) == looks


def test_a_watcher_is_not_started_by_who_makes_it(tmp_path):
    watcher = watch(tmp_path, print, print)

    assert not watcher.is_alive()
    assert [(emitter.watch.path, emitter.watch.is_recursive) for emitter in watcher.emitters] == [
        (str(tmp_path), True)
    ]
