"""A tool: what a program may write where people read, and where programs do.

What lives here: making a terminal that knows few characters print something instead of failing, and writing data as it
is. What never does: what is written.
"""

import errno
import io
import os
import sys


def prepare() -> None:
    """Let what standard output cannot show be replaced, and what standard input cannot read be noticed later.

    Standard error needs nothing: Python writes there what it cannot show as an escape.
    """
    _open_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def _open_closed() -> None:
    """Let a stream that the caller closed (``<&-``, ``>&-``) be empty, here and in the program that this one becomes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115 - it lives as long as the program
            os.set_inheritable(
                stream.fileno(), True
            )  # it has the number of the closed one, which is the lowest free
            setattr(sys, name, stream)


def fail(error: OSError) -> int:
    """Say what the system refuses, such as output to a full disk; return the exit status.

    What standard output still holds is dropped: Python would try to write it once more, and complain, at its end.
    """
    where = f"{error.filename}: " if error.filename else ""
    if error.errno != errno.EPIPE:  # whoever closed the pipe wants no more, and knows
        sys.stderr.write(f"lorad: {where}{error.strerror or error}\n")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return 1


def write(text: str) -> None:
    """Write data to standard output: for a terminal in its own characters, for a pipe or a file exactly, as UTF-8."""
    if sys.stdout.isatty() or not hasattr(sys.stdout, "buffer"):
        sys.stdout.write(text)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode(errors="replace"))
    sys.stdout.flush()
