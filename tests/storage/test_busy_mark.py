"""Telling another process whether questions are being answered."""

import math
import os
import subprocess
import sys

import pytest

from lorad.storage import busy_mark
from lorad.storage.busy_mark import LONGEST_CLAIM, BusyMark, FollowedMark

READ = """
import sys
from lorad.storage.busy_mark import FollowedMark
mark = FollowedMark(int(sys.argv[1]), clock=lambda: 13.0)
mark.claim(True)
print(mark.answered_at())
"""


def test_what_is_told_is_read_at_once():
    mark = BusyMark(clock=lambda: 12.5)
    followed = FollowedMark(os.dup(mark.descriptor))

    told = [followed.answered_at()]
    for is_busy in (True, False, True):
        mark.tell(is_busy)
        told.append(followed.answered_at())

    assert told == [-math.inf, math.inf, 12.5, math.inf]
    mark.close()


def test_a_claim_is_read_at_once_and_is_void_after_a_while():
    now = [12.5]
    mark = BusyMark(clock=lambda: now[0])
    followed = FollowedMark(os.dup(mark.descriptor), clock=lambda: now[0])

    claimed = [mark.is_claimed()]
    for is_claimed in (True, False, True):
        followed.claim(is_claimed)
        claimed.append(mark.is_claimed())
    now[0] += LONGEST_CLAIM
    claimed.append(mark.is_claimed())

    assert claimed == [False, True, False, True, False]
    mark.close()


def test_a_child_that_is_handed_the_mark_reads_it_and_claims():
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
    assert mark._times[busy_mark.CLAIMED] == 13.0
    mark.close()


def test_a_closed_mark_is_told_without_harm():
    mark = BusyMark()
    mark.close()

    mark.tell(True)


def test_where_there_is_no_mark_it_is_said(tmp_path):
    (tmp_path / "empty").touch()

    with pytest.raises(ValueError, match="greater than file size"):
        FollowedMark(os.open(tmp_path / "empty", os.O_RDONLY))
