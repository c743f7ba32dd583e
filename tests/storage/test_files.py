"""Durable files: what readers see, what a kill may leave behind, who holds a lock."""

import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad.errors import TransientError
from lorad.storage import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# writing


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "a.bin"

    files.write_bytes(path, b"a long first content")
    files.write_bytes(path, b"short")

    assert path.read_bytes() == b"short"
    assert names(path.parent) == ["a.bin"]


def test_who_reads_the_old_file_goes_on_reading_it(tmp_path):
    path = tmp_path / "a.txt"
    files.write_bytes(path, b"old")

    with path.open("rb") as reader:
        files.write_bytes(path, b"new")

        assert reader.read() == b"old"


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_a_file_has_the_mode_asked_for_whatever_the_umask(tmp_path, mode):
    old = os.umask(0o077)
    try:
        files.write_bytes(tmp_path / "a", b"", mode=mode)
    finally:
        os.umask(old)

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    # Given a folder where the file should go
    (tmp_path / "a").mkdir()

    with pytest.raises(IsADirectoryError):
        files.write_bytes(tmp_path / "a", b"data")

    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "disk"),
        (errno.EDQUOT, "disk"),
        (errno.EIO, "disk"),
        (errno.EBUSY, "disk"),
        (errno.ENOMEM, "memory"),
    ],
)
def test_what_may_pass_is_tried_again(number, code):
    with (
        pytest.raises(TransientError, match=r"doing it: .*lorad will retry") as caught,
        files.passing_errors("doing it"),
    ):
        raise OSError(number, os.strerror(number))

    assert caught.value.code == code


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT])
def test_what_will_not_pass_is_not_tried_again(number):
    with pytest.raises(OSError) as caught, files.passing_errors("doing it"):  # noqa: PT011 - the number says which
        raise OSError(number, os.strerror(number))

    assert caught.value.errno == number


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_is_tried_again():
    with pytest.raises(TransientError, match="No space left"), files.passing_errors("writing"):
        Path("/dev/full").write_bytes(b"x")


# A device that takes every request but fsync shows which one was made.


def test_where_the_system_can_flush_the_drive_it_is_asked_to(monkeypatch):
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", fcntl.F_GETFD, raising=False)

    files.sync(Path(os.devnull))


@pytest.mark.parametrize("request_", [None, 9999])
def test_where_the_drive_cannot_be_flushed_the_file_is_synced(tmp_path, monkeypatch, request_):
    # Given a system that has no such request, or a file system that does not know it
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", request_, raising=False)

    files.write_bytes(tmp_path / "a", b"1")
    with pytest.raises(OSError, match=r".+"):
        files.sync(Path(os.devnull))


# JSON


def test_json_is_for_people(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": "é", "a": [1]})

    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "b": "é",\n  "a": [\n    1\n  ]\n}\n'
    assert files.read_json(tmp_path / "a.json") == {"b": "é", "a": [1]}


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": "\xff"}'])
def test_damaged_json_is_an_error(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)

    with pytest.raises(ValueError, match=r".+"):
        files.read_json(tmp_path / "a.json")


def test_a_missing_file_has_no_lines(tmp_path):
    assert files.read_lines(tmp_path / "none.jsonl") == []


def test_rows_are_one_a_line(tmp_path):
    files.write_lines(tmp_path / "a.jsonl", iter([{"a": "é\n"}, [1], None]))

    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == '{"a": "é\\n"}\n[1]\nnull\n'
    assert files.read_lines(tmp_path / "a.jsonl") == [{"a": "é\n"}, [1], None]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\r"])
def test_a_row_may_hold_what_looks_like_the_end_of_a_line(tmp_path, separator):
    files.write_lines(tmp_path / "a.jsonl", [f"one{separator}two"])

    assert files.read_lines(tmp_path / "a.jsonl") == [f"one{separator}two"]


WORDS = st.text('aé日"\\\n\r\t\x85\u2028\u2029\x1c', max_size=4)


@given(st.lists(st.none() | st.integers() | WORDS | st.dictionaries(WORDS, WORDS, max_size=2), max_size=5))
@settings(max_examples=20, deadline=None)
def test_whatever_is_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "a.jsonl"

    files.write_lines(path, rows)

    assert files.read_lines(path) == rows


@pytest.mark.parametrize("torn_at", range(1, 10))
def test_a_torn_last_line_is_left_out(tmp_path, torn_at):
    # Given a writer that was killed anywhere in its second line, even between the bytes of a character
    second = '{"é": "é"}'.encode()
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n' + second[:torn_at])

    assert files.read_lines(tmp_path / "a.jsonl") == [{"a": 1}]


# digests


@pytest.mark.parametrize("size", [0, 1, files.CHUNK, files.CHUNK + 1])
def test_a_digest_is_of_all_bytes(tmp_path, size):
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").write_bytes(content[:size])

    assert files.file_digest(tmp_path / "a") == hashlib.sha256(content[:size]).hexdigest()


# moving, pointing, removing


def test_a_file_is_moved_into_a_folder_that_is_made(tmp_path):
    (tmp_path / "a.json").write_text("1")

    went = files.move(tmp_path / "a.json", tmp_path / "done" / "today" / "a.json")

    assert went == tmp_path / "done" / "today" / "a.json"
    assert went.read_text() == "1"
    assert names(tmp_path) == ["done"]


def test_a_taken_name_gets_a_number(tmp_path):
    # Given three files that come one after the other under one name
    went = []
    for content in "123":
        (tmp_path / "a.json").write_text(content)
        went.append(files.move(tmp_path / "a.json", tmp_path / "done" / "a.json"))

    assert [path.name for path in went] == ["a.json", "a-2.json", "a-3.json"]
    assert [path.read_text() for path in went] == ["1", "2", "3"]


def test_moving_what_is_gone_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.move(tmp_path / "a", tmp_path / "b")


def test_a_link_is_made_moved_and_left_alone(tmp_path):
    link = tmp_path / "latest"

    files.point(link, "versions/v0.1")
    assert str(link.readlink()) == "versions/v0.1"

    files.point(link, "versions/v0.2")
    assert str(link.readlink()) == "versions/v0.2"

    made = link.lstat().st_ino
    files.point(link, "versions/v0.2")
    assert link.lstat().st_ino == made


def test_a_link_that_was_being_made_when_the_power_went_does_not_stand_in_the_way(tmp_path):
    (tmp_path / ".latest.part").symlink_to("versions/v0.1")

    files.point(tmp_path / "latest", "versions/v0.2")

    assert names(tmp_path) == ["latest"]


def test_a_link_is_removed_and_not_what_it_points_at(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").touch()
    (tmp_path / "link").symlink_to("folder")

    files.remove(tmp_path / "link")

    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["kept"]


@pytest.mark.parametrize("kind", ["file", "folder", "broken link", "nothing"])
def test_whatever_it_is_is_gone(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "file":
        path.touch()
    elif kind == "folder":
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "file").touch()
    elif kind == "broken link":
        path.symlink_to("nowhere")

    files.remove(path)

    assert names(tmp_path) == []


def test_a_tree_is_made_durable_whatever_lies_in_it(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    (tmp_path / "a" / "link").symlink_to("nowhere")

    files.sync_tree(tmp_path)

    with pytest.raises(FileNotFoundError):
        files.sync_tree(tmp_path / "none")
