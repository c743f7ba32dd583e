"""What a program may write where people read, and where programs do.

What lives here: the one way to standard output and standard error. What people read passes ``say``, ``remark``,
``complain`` or ``redraw`` (and tables ``screen``), where nothing that came from a file, a question or an answer can steer the
terminal; what programs read passes ``write``, exactly. What never does: what is written. No other module may print:
ruff's ``banned-api`` in pyproject.toml sees to it.
"""

import contextlib
import errno
import io
import os
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, cast

import typer
from typer.core import TyperGroup

from lorad import printable
from lorad.serving.record_json import as_json

CLEAR_LINE = "\r\x1b[2K"
DIM, NORMAL = "\x1b[2m", "\x1b[0m"

#: Words that a command cannot take; typer does not name the class.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__base__)


class Commands(TyperGroup):
    """The commands of a program: typer tells of words that it cannot take, such as a file's name, as text."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the words before the command."""
        with _told_as_text():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Read the other words and run the command."""
        with _told_as_text():
            return super().invoke(ctx)


@contextlib.contextmanager
def _told_as_text() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        error.message = printable.line(error.message)
        raise


def prepare() -> None:
    """Let what standard output cannot show be replaced, and what standard input cannot read be noticed later.

    Standard error needs nothing: Python writes there what it cannot show as an escape.
    """
    _open_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    sys.excepthook = _tell_crash


def _open_closed() -> None:
    """Let a stream that the caller closed (``<&-``, ``>&-``) be empty, here and in the program that this one becomes."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115 - it lives as long as the program
            os.set_inheritable(
                stream.fileno(), True
            )  # it has the number of the closed one, which is the lowest free
            setattr(sys, name, stream)


def _tell_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback of a fault of our own: its message may quote anything."""
    sys.stderr.write(printable.text("".join(traceback.format_exception(kind, error, trace))))


def say(*lines: str, err: bool = False) -> None:
    """Print lines for people: each stays one, whatever is in it."""
    stream = sys.stderr if err else sys.stdout
    stream.write("".join(f"{printable.line(line)}\n" for line in lines))
    stream.flush()


def remark(line: str) -> None:
    """Print a dim line on standard error, where a person reads it: a log or a pipe gets none."""
    if not sys.stderr.isatty():
        return
    is_plain = os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))
    shown = printable.line(line)
    sys.stderr.write(f"{shown}\n" if is_plain else f"{DIM}{shown}{NORMAL}\n")
    sys.stderr.flush()


def complain(message: str) -> None:
    """Print on standard error what is wrong; a message may have several lines."""
    sys.stderr.write(f"lorad: {printable.text(message)}\n")
    sys.stderr.flush()


def redraw(line: str) -> None:
    """Replace the last line of standard error, where somebody watches."""
    sys.stderr.write(f"{CLEAR_LINE}{printable.line(line)}")
    sys.stderr.flush()


def fail(error: OSError) -> int:
    """Say what the system refuses, such as output to a full disk; return the exit status.

    What standard output still holds is dropped: Python would try to write it once more, and complain, at its end.
    """
    where = f"{error.filename}: " if error.filename else ""
    if error.errno != errno.EPIPE:  # whoever closed the pipe wants no more, and knows
        complain(f"{where}{error.strerror or error}")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return 1


def write(text: str) -> None:
    """Write to standard output: exactly, as UTF-8, to a pipe or a file; to a terminal as it shows text, without escapes."""
    if _is_for_people() or not hasattr(sys.stdout, "buffer"):
        sys.stdout.write(printable.text(text))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode(errors="replace"))
    sys.stdout.flush()


def _is_for_people() -> bool:
    return sys.stdout.isatty()


def write_json(data: Any, indent: int | None = 2) -> None:
    """Write records or data for programs as JSON, exactly: what would steer a terminal is escaped as JSON escapes it."""
    write(printable.as_json(data, indent, default=as_json) + "\n")
