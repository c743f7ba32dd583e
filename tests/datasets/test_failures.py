"""What an exception means for the file that was in hand."""

import errno
import os
import sqlite3

import pytest

from lorad.datasets.inbox.failures import MOST_TRIES, as_reason, ends_file
from lorad.errors import RegistryError, SampleError, TransientError


def later(code, cause=None):
    error = TransientError("later", code=code)
    error.__cause__ = cause
    return error


def system(number):
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "error",
    [
        *(system(n) for n in (errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.EINVAL, errno.EOVERFLOW)),
        *(RecursionError(), OverflowError(), KeyError("x"), StopIteration(), ValueError()),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        SampleError("no rows"),
    ],
    ids=repr,
)
def test_what_no_later_try_would_not_meet_ends_the_file_at_once(error):
    assert ends_file(error, 1)


@pytest.mark.parametrize(
    "error",
    [
        *(system(n) for n in (errno.EIO, errno.EACCES, errno.ESTALE, errno.EAGAIN, errno.EXDEV)),
        *(MemoryError(), later("changed"), later("cut_off"), later("disk", system(errno.EIO))),
    ],
    ids=repr,
)
def test_what_may_pass_is_tried_again_but_not_for_ever(error):
    assert not ends_file(error, MOST_TRIES - 1)
    assert ends_file(error, MOST_TRIES)


@pytest.mark.parametrize(
    "error",
    [
        *(system(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENOMEM, errno.EROFS)),
        *(later("disk", system(errno.ENOSPC)), later("locked"), later("disk", sqlite3.OperationalError())),
        *(sqlite3.OperationalError("disk I/O error"), RegistryError("damaged")),
    ],
    ids=repr,
)
def test_what_the_machine_lacks_is_no_files_fault(error):
    assert not ends_file(error, 10_000)


@pytest.mark.parametrize(
    "error",
    [KeyError("zyzzyva\x1b"), system(errno.EIO), MemoryError(), later("changed"), ValueError("zyzzyva")],
)
def test_a_reason_says_what_to_do_and_nothing_of_what_the_file_holds(error):
    reason = as_reason("a.json", error)

    assert reason.message.startswith("a.json ")
    assert "zyzzyva" not in reason.message
    assert "drop" in reason.message.lower() or "later" in reason.message
