"""A tool: what a program may write where people read, and where programs do.

What lives here: making a terminal that knows few characters print something instead of failing, and writing data as it
is. What never does: what is written.
"""

import io
import sys


def prepare() -> None:
    """Let what standard output cannot show be replaced, and what standard input cannot read be noticed later.

    Standard error needs nothing: Python writes there what it cannot show as an escape.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")


def write(text: str) -> None:
    """Write data to standard output: for a terminal in its own characters, for a pipe or a file exactly, as UTF-8."""
    if sys.stdout.isatty() or not hasattr(sys.stdout, "buffer"):
        sys.stdout.write(text)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode(errors="replace"))
    sys.stdout.flush()
