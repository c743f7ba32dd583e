"""What an exception means for the current file: it is retried, or it fails.

What lives here: a pure decision on an exception and how often it came. What never does: handling it.

Rule 1: what is wrong with the machine (a full disk, no memory to write with, a locked database) is no file's fault.
Rule 2: what may pass (a share that went away, a file that is written to) is tried again, but not for ever.
Rule 3: whatever else a file raises ends it at once, and nothing but it.
"""

import errno
import sqlite3

from lorad.errors import LoradError, SampleError, TransientError

#: Tries of what may pass; each waits longer than the one before, so that they take some twenty minutes.
MOST_TRIES = 12

#: What the machine lacks.
_MACHINE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EROFS),
}

#: What no later try of the same file would not meet.
_FINAL = {
    *(errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.EOVERFLOW),
    *(errno.EFBIG, errno.ENODEV, errno.ENXIO, errno.ENOTSUP, errno.EILSEQ, errno.EMLINK, errno.ETXTBSY),
}

#: What ``TransientError`` says of a file and not of the machine.
_OF_THE_FILE = {"changed", "cut_off"}


def is_passing(error: BaseException) -> bool:
    """Tell whether an exception may not happen again on a later try."""
    if isinstance(error, OSError):
        return error.errno not in _FINAL
    if isinstance(
        error, LoradError
    ):  # what is wrong with a version or the settings is no file's fault either
        return not isinstance(error, SampleError)
    return isinstance(error, (MemoryError, sqlite3.Error))


def ends_file(error: Exception, tries: int) -> bool:
    """Tell whether an exception makes a file fail, after this many failed tries."""
    if not is_passing(error):
        return True
    if isinstance(error, TransientError):
        is_own = error.code in _OF_THE_FILE or _is_of_the_file(error.__cause__)
    else:
        is_own = _is_of_the_file(error)
    return is_own and tries >= MOST_TRIES


def _is_of_the_file(error: BaseException | None) -> bool:
    if isinstance(error, OSError):
        return error.errno not in _MACHINE
    return isinstance(error, MemoryError)


def as_reason(name: str, error: Exception) -> SampleError:
    """Return why a file failed, without quoting its content."""
    if isinstance(error, SampleError):
        return error
    if isinstance(error, TransientError):
        return SampleError(f"{name} failed {MOST_TRIES} times: {error.message}", code=error.code)
    if isinstance(error, MemoryError):
        told = "takes more memory than there is; split it and drop the parts"
        return SampleError(f"{name} {told}", code="memory")
    if isinstance(error, OSError):
        told = f"cannot be read or moved ({error.strerror or type(error).__name__}); drop a copy of it"
        return SampleError(f"{name} {told}", code="unreadable")
    told = f"cannot be read ({type(error).__name__}); the log says where. Drop it in another form"
    return SampleError(f"{name} {told}", code="unexpected")
