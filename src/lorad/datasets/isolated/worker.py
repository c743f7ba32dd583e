"""The process that reads dropped files, so that no file can crash, block or bloat the daemon.

    python -P -m lorad.datasets.isolated.worker SOCKET

It is sent descriptors of files, never paths, reads each as ``reader`` does, and sends back what its rows come to
(``messages``). What never lives here: a model, a tokenizer, writing anything. It has no rights that it can give away:
no core dumps, no files to write, few descriptors, bounded memory; and it is gone when the daemon is.
"""

import contextlib
import fcntl
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lorad.config import InboxSettings
from lorad.datasets import other_wordings, sidecar
from lorad.datasets.isolated import messages
from lorad.datasets.reader import Conversion, Purpose
from lorad.errors import SampleError
from lorad.storage.source import Source

NICE = 5
"""Answering comes first."""
DESCRIPTORS = 64
"""Most that are open at once: pyarrow's libraries, one file."""
FLUSH_SECONDS = 1.0
"""Rows are sent at least this often: who is silent for long is ended."""
GRACE_SECONDS = 10.0
"""After the daemon should have ended this process it ends by itself."""


class Sender:
    """Sends messages. A timer runs between two of them: without a daemon to watch, the system ends this process."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rows: list[str] = []
        self._size = 0
        self._flushed = time.monotonic()
        self._seconds = 0.0

    def begin(self, limits: InboxSettings) -> None:
        """Let the clock run for a file."""
        self._seconds = limits.reader_silent_seconds + GRACE_SECONDS
        self._flushed = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def row(self, text: str) -> None:
        """Send a row, now or together with those that follow."""
        self._rows.append(text)
        self._size += len(text)
        if self._size >= messages.BATCH or time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send the rows that wait."""
        if self._rows:
            rows, self._rows, self._size = self._rows, [], 0
            self._send(f"[{','.join(rows)}]")
            self._flushed = time.monotonic()

    def end(self, message: str) -> None:
        """Send a file's last message, and stop the clock."""
        self.flush()
        self._seconds = 0.0
        self._send(message)

    def _send(self, message: str) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)  # the daemon may take its time
        try:
            self._connection.sendall(messages.framed(message))
        except OSError:
            raise SystemExit(0) from None  # it is gone
        signal.setitimer(signal.ITIMER_REAL, self._seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer requests until there are no more."""
    (number,) = map(int, arguments or sys.argv[1:])
    lower_rights()
    with socket.socket(fileno=number) as connection:
        sender = Sender(connection)
        sender.end(messages.ready())
        while asked := _receive(connection):
            request, descriptor = asked
            end = _answer(sender, request, Source(request["name"], descriptor))
            os.close(descriptor)
            sender.end(end)


def lower_rights() -> None:
    """Give up what reading does not need; ends with whoever holds the other end of standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at a terminal it is the daemon's
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, DESCRIPTORS),
    ):
        resource.setrlimit(kind, (most, most))
    os.umask(0o077)
    os.nice(NICE)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123 - Linux
        file.write("1000")  # before the daemon
    # where a pipe's end tells of its other one by a signal, it ends us even inside of C
    fcntl.fcntl(sys.stdin.fileno(), fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(sys.stdin.fileno(), fcntl.F_GETFL)
    fcntl.fcntl(sys.stdin.fileno(), fcntl.F_SETFL, flags | os.O_ASYNC)


def _receive(connection: socket.socket) -> tuple[Any, int] | None:
    """Return a request and the file that it is about, ``None`` when there will be no more."""
    try:
        head, descriptors, _, _ = socket.recv_fds(connection, messages.HEADER.size, 1)
        if not head:
            return None
        rest = messages.HEADER.size - len(head)
        (size,) = messages.HEADER.unpack(head + connection.recv(rest, socket.MSG_WAITALL))
        return messages.parsed(connection.recv(size, socket.MSG_WAITALL)), descriptors[0]
    except OSError:
        return None


def _answer(sender: Sender, request: Any, source: Source) -> str:
    """Send what is asked for, and return how it ended."""
    limits = InboxSettings.model_validate(request["limits"])
    with contextlib.suppress(ValueError):  # a limit that is lower already stays
        resource.setrlimit(resource.RLIMIT_DATA, (limits.reader_bytes, limits.reader_bytes))
    sender.begin(limits)
    if request.get("sidecar"):
        return _sidecar(source)
    if request.get("wordings"):
        return _wordings(sender, source)
    return _rows(sender, source, messages.purpose_of(request))


def _sidecar(source: Source) -> str:
    try:
        return messages.said(sidecar.read(source))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this file's end
        return messages.end(error)


def _wordings(sender: Sender, source: Source) -> str:
    try:
        for held in other_wordings.read(source):
            sender.row(messages.held_out(held))
    except Exception as error:  # noqa: BLE001 - as above
        return messages.end(error)
    return messages.end(None)


def _rows(sender: Sender, source: Source, purpose: Purpose) -> str:
    conversion, longest = Conversion(source, purpose), messages.row_limit(purpose.limits)
    try:
        for line, said in conversion:
            sender.row(messages.row(line, said, longest))
    except Exception as error:  # noqa: BLE001 - as above
        code = error.code if isinstance(error, SampleError) else ""
        return messages.end(error, _suggested(conversion, purpose, code))
    return messages.end(None, _suggested(conversion, purpose, "bad_rows"))


def _suggested(conversion: Conversion, purpose: Purpose, code: str) -> Sequence[Mapping[str, str]]:
    if not purpose.fields:
        with contextlib.suppress(Exception):  # nothing rests on them
            return list(conversion.suggested(code))
    return ()


if __name__ == "__main__":
    main()
