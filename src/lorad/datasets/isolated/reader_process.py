"""Reading in a separate process: a file in, the rows that ``reader`` makes of it out, whatever the file does.

What lives here: asking that process (``worker``), and the limits of time, memory and size within which it answers;
one that goes over them is ended, and the file with it. What never does: starting processes (``app``), reading files.
"""

import select
import signal
import socket
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

from lorad.config import InboxSettings
from lorad.datasets import other_wordings, reader
from lorad.datasets.isolated import messages
from lorad.datasets.isolated.messages import HEADER, Malformed
from lorad.datasets.other_wordings import HeldOut
from lorad.datasets.reader import Check, Converted, Purpose, Reading
from lorad.datasets.sidecar import Sidecar
from lorad.errors import SampleError, TransientError
from lorad.storage.source import Signature, Source

T = TypeVar("T")

#: Seconds without a file after which the process is ended.
IDLE_SECONDS = 60.0

#: Seconds between two looks at the process, and at whether the daemon stops.
LOOK_SECONDS = 0.1

#: Deaths of the process over one file after which the file is to blame.
DEATHS = 3

#: Share of ``reader_bytes`` that the process may keep after a file; the rest is for the next one.
KEPT = 0.5


class Child(Protocol):
    """The reader process, as the daemon sees it."""

    connection: socket.socket

    @property
    def memory(self) -> int:
        """Return the bytes that it holds in memory."""

    def end(self) -> int:
        """End it, if it still runs, and return its exit status."""


class Reader:
    """Reads files in a process that is started for the first file and kept for the next ones."""

    def __init__(
        self,
        limits: InboxSettings,
        *,
        start: Callable[[], Child],
        clock: Callable[[], float],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._limits, self._start, self._clock, self._is_stopping = limits, start, clock, is_stopping
        self._child: Child | None = None
        self._used = 0.0
        self._deaths: dict[tuple[str, Signature], int] = {}

    def read(
        self,
        file: Source,
        limits: InboxSettings,
        task: str = "chat",
        fields: Mapping[str, str] | None = None,
        labels: Sequence[str] = (),
        check: Check = lambda example: example,
        *,
        held_out: Sequence[HeldOut] = (),
        known: Collection[str] = (),
    ) -> Reading:
        """Read a dataset file as ``reader.read`` does; raise ``SampleError`` also for one that takes too much."""

        def convert(source: Source, purpose: Purpose) -> _Rows:
            return _Rows(partial(self._asked, source, messages.ask_rows(source, purpose)), purpose.task)

        act = partial(
            reader.read, file, limits, task, fields, labels, check, convert, held_out=held_out, known=known
        )
        return self._blaming(file, act)

    def sidecar(self, source: Source) -> Sidecar:
        """Return what a sidecar says; raise ``SampleError``."""

        def act() -> Sidecar:
            with self._asked(source, messages.ask_sidecar(source, self._limits)) as call:
                return messages.sidecar(call.last(call.receive()))

        return self._blaming(source, act)

    def wordings(self, source: Source) -> list[HeldOut]:
        """Return the wordings that a sidecar holds out; raise ``SampleError``."""

        def act() -> list[HeldOut]:
            with self._asked(source, messages.ask_wordings(source, self._limits)) as call:
                found: list[HeldOut] = []
                size = 0
                while isinstance(message := call.receive(), list):
                    found += (sent := messages.all_held_out(message))
                    size += sum(
                        len(text or "")
                        for each in sent
                        for text in (*each.wordings, each.question, each.answer)
                    )
                    if len(found) > other_wordings.MOST or size > other_wordings.LARGEST:
                        raise Malformed("there are more wordings than a sidecar may hold")
                call.last(message)
                return found

        return self._blaming(source, act)

    @property
    def is_running(self) -> bool:
        """Tell whether a process is idle, waiting for files."""
        return self._child is not None and _is_waiting(self._child.connection)

    def rest(self) -> None:
        """End the process when there was no file for a while."""
        if self._child is not None and self._clock() - self._used >= IDLE_SECONDS:
            self.close()

    def close(self) -> int:
        """End the process, of which the next file starts another; return its exit status."""
        child, self._child = self._child, None
        return 0 if child is None else child.end()

    # -- the process

    def _blaming(self, source: Source, act: Callable[[], T]) -> T:
        """Do something for a file; a file that kills the process repeatedly is refused."""
        key = source.name, source.signature
        try:
            found = act()
        except _Died as death:
            raise self._blamed(key, death.status) from None
        except SampleError:
            self._deaths.pop(key, None)
            raise
        self._deaths.pop(key, None)
        return found

    def _blamed(self, key: tuple[str, Signature], status: int) -> SampleError | TransientError:
        name = key[0]
        if status == -signal.SIGALRM:  # by the clock that it sets itself
            return _too_slow(name, "reader_silent_seconds", self._limits.reader_silent_seconds)
        deaths = self._deaths[key] = self._deaths.get(key, 0) + 1
        if deaths < DEATHS:
            told = f"the process that reads {name} ended ({_ended_by(status)}); it is read again"
            return TransientError(told, code="reader_died")
        del self._deaths[key]
        return SampleError(
            f"{name} ended the process that reads it {DEATHS} times ({_ended_by(status)}): it is damaged, or needs more "
            f"memory than there is; save it again, as one JSON object per line, or split it",
            code="ended_the_reader",
        )

    @contextmanager
    def _asked(self, source: Source, request: str) -> "Iterator[_Call]":
        """Send a request; the process is ended unless the whole answer arrives."""
        call = self._call(self._ready(), source.name)
        try:
            call.send(messages.framed(request), source.descriptor)
            yield call
        except Malformed as error:
            raise SampleError(
                f"{source.name} could not be read: the process that reads it sent an unexpected message ({error}); save it again, as one "
                "JSON object per line",
                code="unreadable",
            ) from None
        except _Gone:
            raise _Died(self.close()) from None
        finally:
            self._used = self._clock()
            if self._child and (not call.is_over or self._child.memory > KEPT * self._limits.reader_bytes):
                self.close()

    def _ready(self) -> Child:
        if self._child is None or not self.is_running:
            self.close()
            self._child = self._begun()
        return self._child

    def _begun(self) -> Child:
        try:
            child = self._start()
        except OSError as error:
            raise _not_started(str(error)) from error
        child.connection.setblocking(False)
        why = "it does not say that it is ready"
        try:
            if self._call(child, "").receive() == messages.READY:
                return child
        except TransientError:
            child.end()
            raise
        except _Gone:
            why = _ended_by(child.end())
        except (SampleError, Malformed):
            pass
        child.end()
        raise _not_started(why)

    def _call(self, child: Child, name: str) -> "_Call":
        return _Call(child, name, self._limits, self._clock, self._is_stopping)


class _Rows:
    """A file's rows, converted by the process."""

    def __init__(self, ask: "Callable[[], AbstractContextManager[_Call]]", task: str) -> None:
        self._ask, self._task = ask, task
        self._suggested: list[dict[str, str]] = []

    def __iter__(self) -> Generator[Converted]:
        with self._ask() as call:
            while isinstance(message := call.receive(), list):
                yield from messages.rows(message, self._task)
            self._suggested = messages.suggestions(message)
            call.last(message)

    def suggested(self, code: str) -> Iterable[Mapping[str, str]]:
        """Return what the process suggested for this refusal."""
        return self._suggested if code in {"bad_rows", "no_header"} else ()


class _Call:
    """One request, and what is said to it, within the limits."""

    def __init__(
        self,
        child: Child,
        name: str,
        limits: InboxSettings,
        clock: Callable[[], float],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._child, self._name, self._limits = child, name, limits
        self._clock, self._is_stopping = clock, is_stopping
        self._began = clock()
        self._waited = 0.0
        self.is_over = False
        """Whether the process waits for the next request."""

    def send(self, data: bytes, descriptor: int) -> None:
        """Send a request, and the file that it is about."""
        connection = self._child.connection
        sent = self._try(lambda: socket.send_fds(connection, [data[:1]], [descriptor]), select.POLLOUT)
        view = memoryview(data)
        while sent < len(data):
            sent += self._try(partial(connection.send, view[sent:]), select.POLLOUT)

    def receive(self) -> Any:
        """Return the next message; raise ``SampleError`` when it does not come, or is too long."""
        self._began = self._clock()
        (size,) = HEADER.unpack(self._exactly(HEADER.size))
        if size > messages.message_limit(self._limits):
            raise SampleError(
                f"{self._name} holds a row that becomes too large for the memory; split it", code="too_large"
            )
        message = messages.parsed(self._exactly(size))
        self._waited += self._clock() - self._began
        return message

    def last(self, message: Any) -> Mapping[str, Any]:
        """Return the message that ends a request; raise what it says has happened."""
        if not isinstance(message, dict):
            raise Malformed("an end was expected")
        error = messages.failure(message, self._name, self._limits)
        self.is_over = not messages.is_exhausted(message)
        if error is not None:
            raise error
        return message

    def _exactly(self, size: int) -> bytearray:
        data, at = bytearray(size), 0
        view = memoryview(data)
        while at < size:
            count = self._try(partial(self._child.connection.recv_into, view[at:]), select.POLLIN)
            if not count:
                raise _Gone
            at += count
        view.release()
        return data

    def _try(self, act: Callable[[], int], event: int) -> int:
        """Do something as soon as the connection allows it."""
        while True:
            self._look()
            try:
                return act()
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._child.connection, event)
                poll.poll(1000 * LOOK_SECONDS)
            except ConnectionError:
                raise _Gone from None

    def _look(self) -> None:
        if self._is_stopping():
            raise TransientError("the daemon stops; the file is read when it runs again", code="stopping")
        waits = self._clock() - self._began
        if waits > self._limits.reader_silent_seconds:
            raise _too_slow(self._name, "reader_silent_seconds", self._limits.reader_silent_seconds)
        if self._waited + waits > self._limits.reader_seconds:
            raise _too_slow(self._name, "reader_seconds", self._limits.reader_seconds)
        if self._child.memory > self._limits.reader_bytes:
            raise messages.too_much_memory(self._name, self._limits)


class _Gone(Exception):  # noqa: N818 - see _Died
    """The process has closed its end of the connection."""


class _Died(Exception):  # noqa: N818 - carried to whoever counts, never to the user as it is
    """The process ended by itself."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _is_waiting(connection: socket.socket) -> bool:
    """Tell whether a process is there and waits for a request: it says nothing unasked, not even its end."""
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _ended_by(status: int) -> str:
    try:
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"
    except ValueError:
        return f"signal {-status}"


def _not_started(why: str) -> TransientError:
    return TransientError(
        f"the process that reads files does not start ({why}); lorad will retry",
        code="reader_not_started",
    )


def _too_slow(name: str, setting: str, seconds: float) -> SampleError:
    return SampleError(
        f"reading {name} takes longer than inbox.{setting} ({seconds:g} s); split it, or raise that",
        code="too_slow",
    )
