import os
import socket

import pytest

from lorad.errors import SampleError
from lorad.storage import source


def test_what_is_read_is_what_was_opened(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"first")

    with source.opened(path) as opened:
        path.unlink()
        path.symlink_to("/etc/hostname")
        assert opened.open().read() == b"first"


def test_two_streams_read_independently_of_each_other(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\ntwo\n")

    with source.opened(path) as opened:
        first, second = opened.open(), opened.open()
        assert (first.readline(), second.readline()) == (b"one\n", b"one\n")
        first.close()
        assert second.readline() == b"two\n"
        second.seek(-4, os.SEEK_END)
        assert second.read() == b"two\n"


def test_a_signature_tells_of_what_is_appended(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\n")

    with source.opened(path) as opened:
        before = opened.signature
        with path.open("ab") as stream:
            stream.write(b"two\n")
        assert opened.signature != before


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "socket", "folder"])
def test_only_a_plain_file_is_opened(tmp_path, kind):
    path = tmp_path / "a.jsonl"
    if kind == "link":
        path.symlink_to("/etc/hostname")
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))

    with pytest.raises(SampleError) as caught, source.opened(path):
        pass

    assert caught.value.code == "no_file"


def test_a_file_is_found_in_the_directory_that_is_open(tmp_path):
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a.jsonl").write_bytes(b"ours")
    folder = os.open(tmp_path / "inbox", os.O_RDONLY | os.O_DIRECTORY)
    (tmp_path / "inbox").rename(tmp_path / "away")
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "a.jsonl").write_bytes(b"theirs")

    try:
        with source.opened("a.jsonl", folder=folder) as opened:
            assert opened.open().read() == b"ours"
    finally:
        os.close(folder)


def test_a_person_may_name_a_link(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"first")
    (tmp_path / "link").symlink_to("a.jsonl")

    with source.opened(tmp_path / "link", follow=True) as opened:
        assert opened.open().read() == b"first"
