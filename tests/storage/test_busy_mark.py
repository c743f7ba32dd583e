"""Telling another process whether questions are being answered."""

import math
import os
import subprocess
import sys

import pytest

from lorad.storage import busy_mark
from lorad.storage.busy_mark import BusyMark

READ = "import sys; from lorad.storage import busy_mark; print(busy_mark.follow(int(sys.argv[1]))())"


def test_what_is_told_is_read_at_once():
    mark = BusyMark(clock=lambda: 12.5)
    read = busy_mark.follow(os.dup(mark.descriptor))

    told = [read()]
    for is_busy in (True, False, True):
        mark.tell(is_busy)
        told.append(read())

    assert told == [-math.inf, math.inf, 12.5, math.inf]
    mark.close()


def test_a_child_that_is_handed_the_mark_reads_it():
    mark = BusyMark(clock=lambda: 12.5)
    mark.tell(False)

    done = subprocess.run(
        [sys.executable, "-c", READ, str(mark.descriptor)],
        pass_fds=[mark.descriptor],
        capture_output=True,
        text=True,
        check=True,
    )

    assert float(done.stdout) == 12.5
    mark.close()


def test_a_closed_mark_is_told_without_harm():
    mark = BusyMark()
    mark.close()

    mark.tell(True)


def test_where_there_is_no_mark_it_is_said(tmp_path):
    (tmp_path / "empty").touch()

    with pytest.raises(ValueError, match="greater than file size"):
        busy_mark.follow(os.open(tmp_path / "empty", os.O_RDONLY))
