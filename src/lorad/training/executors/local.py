"""Sessions as child processes of this one: low priority, no network, waiting for answers, ended by a signal.

A child holds the read end of a pipe whose other end is ours: if we die, even by SIGKILL, the child sees the pipe close
and stops.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from lorad.storage import files
from lorad.storage.busy_mark import BusyMark
from lorad.training.run_folder import RunFolder

STOP_SECONDS = 10.0
"""A child that has not ended so long after it was asked is killed."""


class LocalExecutor:
    """Starts sessions on this machine."""

    def __init__(self, *, nice: int, max_seconds: float | None = None, mark: BusyMark | None = None) -> None:
        """With a ``mark``, sessions wait while it tells that questions are answered."""
        self._nice = nice
        self._max_seconds = max_seconds
        self._mark = mark

    def start(self, folder: RunFolder) -> "LocalSession":
        """Start the session that a folder requests."""
        session = LocalSession(folder, self._max_seconds, self._mark)
        session.lower_priority(self._nice)
        return session


class LocalSession:
    """A session's process, watched by its folder and its exit status."""

    def __init__(self, folder: RunFolder, max_seconds: float | None, mark: BusyMark | None) -> None:
        self._folder = folder
        self._limit = max_seconds
        self._deadline: float | None = None
        handed = (mark.descriptor,) if mark else ()
        self._log = files.open_secret(folder.log, "wb")
        self._process = subprocess.Popen(
            # -P: a torch.py in the current folder is not torch
            [sys.executable, "-P", "-m", "lorad.training.session", str(folder.path), *map(str, handed)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            pass_fds=handed,
            start_new_session=True,  # a Ctrl-C at the terminal is for us; we end the child ourselves
        )

    def lower_priority(self, nice: int) -> None:
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
        return status

    def _keep_deadline(self, ticks: float, limit: float) -> None:
        if self._deadline is None:
            self._deadline = ticks + limit
        elif ticks > self._deadline and ticks > self._deadline + self._paused():
            self.kill()
            self._tell_late(limit)

    def _paused(self) -> float:
        """Return for how many seconds it has waited for answers, as it has told."""
        told = self.progress.get("paused_seconds")
        return told if isinstance(told, float | int) else 0.0

    def _tell_late(self, limit: float) -> None:
        said = {
            "code": "too_slow",
            "message": f"the session was ended after training.max_seconds ({limit:.0f} s); raise it, and continue "
            "the session with: lorad resume JOB",
        }
        with contextlib.suppress(OSError):
            self._folder.report({"error": said})

    def stop(self) -> None:
        """Ask it to end, then make it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self._close()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def _close(self) -> None:
        self._log.close()
        if self._process.stdin:
            self._process.stdin.close()

    @property
    def progress(self) -> dict[str, Any]:
        """Return the newest value of every key that it reported, and the history of its rounds."""
        return self._folder.progress()
