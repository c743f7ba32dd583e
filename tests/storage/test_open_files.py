"""Who has a file open for writing, asked of the real /proc."""

import os
from pathlib import Path

import pytest

from lorad.storage.open_files import open_for_writing

needs_proc = pytest.mark.skipif(not Path("/proc/self/fdinfo").is_dir(), reason="Linux only")


@needs_proc
@pytest.mark.parametrize(("mode", "is_found"), [("r", False), ("a", True), ("r+", True), ("w", True)])
def test_only_who_can_write_counts(tmp_path, mode, is_found):
    path = tmp_path / "a.json"
    path.write_text("[]")
    other = tmp_path / "b.json"
    other.write_text("[]")

    with path.open(mode):
        found = open_for_writing([path, other], me=-1)

    assert found == ({path: os.getpid()} if is_found else {})
    assert open_for_writing([path], me=-1) == {}


@needs_proc
def test_a_writer_is_found_behind_a_rename_and_a_linked_folder(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "linked").symlink_to(real)
    with (real / "a.part").open("w"):
        (real / "a.part").rename(real / "a.json")
        path = tmp_path / "linked" / "a.json"

        assert open_for_writing([path], me=-1) == {path: os.getpid()}


@needs_proc
def test_ones_own_reading_process_is_left_out(tmp_path):
    with (tmp_path / "a.json").open("w"):
        assert open_for_writing([tmp_path / "a.json"]) == {}


@needs_proc
def test_the_look_is_bounded(tmp_path):
    with (tmp_path / "a.json").open("w"):
        assert open_for_writing([tmp_path / "a.json"], me=-1, most=0) == {}


def test_where_nothing_can_be_known_nothing_is_said(tmp_path):
    assert open_for_writing([tmp_path / "a.json"], proc=tmp_path / "none") == {}
    assert open_for_writing([]) == {}
