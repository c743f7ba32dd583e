"""A session's process on this machine: low priority, ended by a signal, watched by its folder and its exit status.

What lives here: what is the same for all executors. What never does: which command a session is (``commands``), how many processes
train (``local``, ``torchrun``, ``ray``).

A child holds the read end of a pipe whose other end is ours, and so do the processes that it starts itself: if we die, even by SIGKILL,
they see the pipe close and stop.
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from lorad.errors import LoradError
from lorad.storage import files
from lorad.storage.busy_mark import BusyMark
from lorad.training.run_folder import RunFolder

_KEPT = str(1 << 30)
"""Bytes of a block up to which glibc keeps what is freed: a step takes the same blocks again, and to get them from the kernel each time, zeroed
page by page, costs 5 % of it (decision 95). A session's memory goes back when it ends."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_MMAP_THRESHOLD_": _KEPT,
    "MALLOC_TRIM_THRESHOLD_": _KEPT,
}
"""The environment of whatever trains."""
STOP_SECONDS = 10.0
"""A child that has not ended so long after it was asked is killed."""

Explain = Callable[[RunFolder, int], LoradError | None]
"""Tell why a session ended with an exit status, where its processes could not; ``None``: nothing more is known."""


class ChildSession:
    """The running session of a folder."""

    def __init__(
        self,
        folder: RunFolder,
        command: Sequence[str],
        *,
        nice: int,
        max_seconds: float | None,
        mark: BusyMark | None = None,
        environment: Mapping[str, str] | None = None,
        explain: Explain = lambda _folder, _status: None,
    ) -> None:
        """Start a command; it inherits the descriptor of a ``mark``."""
        self._folder = folder
        self._limit = max_seconds
        self._explain = explain
        self._deadline: float | None = None
        files.open_secret(folder.log, "wb").close()
        self._log = files.open_secret(folder.log)  # behind what others write: Ray's worker opens it too
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT | dict(environment or {}),
            pass_fds=(mark.descriptor,) if mark else (),
            start_new_session=True,  # a Ctrl-C at the terminal is for us; we end the child ourselves
        )
        self._lower_priority(nice)

    def _lower_priority(self, nice: int) -> None:
        """Let everything else on this machine go before it."""
        with contextlib.suppress(OSError, psutil.Error):
            psutil.Process(self._process.pid).nice(nice)
            # Linux shares its time among sessions first, and the child's is its own: inside it nice says nothing
            Path(f"/proc/{self._process.pid}/autogroup").write_text(str(nice))

    def poll(self, ticks: float) -> int | None:
        """Return the exit status, or ``None`` while it runs; end it when it takes too long."""
        if self._limit is not None:
            self._keep_deadline(ticks, self._limit)
        status = self._process.poll()
        if status is not None:
            self._close()
            self._tell_why(status)
        return status

    def _tell_why(self, status: int) -> None:
        """Report why it failed, unless it could say so itself."""
        if status and "error" not in self.progress and (error := self._explain(self._folder, status)):
            self._report(error.as_dict())

    def _keep_deadline(self, ticks: float, limit: float) -> None:
        if self._deadline is None:
            self._deadline = ticks + limit
        elif ticks > self._deadline and ticks > self._deadline + self._paused():
            self.kill()
            self._report(
                {
                    "code": "too_slow",
                    "message": f"the session was ended after training.max_seconds ({limit:.0f} s); raise it, and continue "
                    "the session with: lorad resume JOB",
                }
            )

    def _paused(self) -> float:
        """Return for how many seconds it has waited for answers, as it has told."""
        told = self.progress.get("paused_seconds")
        return told if isinstance(told, float | int) else 0.0

    def _report(self, error: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self._folder.report({"error": error})

    def stop(self) -> None:
        """Ask it to end, then make it; no process of it is left."""
        if self._process.poll() is None:
            below = self._below()
            self._process.terminate()
            self._close()  # what it started sees that too
            try:
                self._process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
            _kill(below)
        self._close()

    def kill(self) -> None:
        """End it at once, with all that it has started."""
        below = self._below()
        self._process.kill()
        self._process.wait()
        _kill(below)

    def _below(self) -> list[psutil.Process]:
        """Return the processes that it has started, and those that they have."""
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self._process.pid).children(recursive=True)
        return []

    def _close(self) -> None:
        self._log.close()
        if self._process.stdin:
            self._process.stdin.close()

    @property
    def progress(self) -> dict[str, Any]:
        """Return the newest value of every key that it reported, and the history of its rounds."""
        return self._folder.progress()


def _kill(processes: Sequence[psutil.Process]) -> None:
    """End processes that are no children of ours: whose exit status nobody but their parent may take."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=STOP_SECONDS)
