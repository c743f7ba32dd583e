"""What is asked of whatever runs sessions.

A session's only result is its folder, so that an executor starts it, tells whether it runs, and ends it.
"""

from typing import Any, Protocol

from lorad.training.run_folder import RunFolder


class RunningSession(Protocol):
    """A session that was started."""

    def poll(self, ticks: float) -> int | None:
        """Return the exit status, or ``None`` while it runs; ``ticks`` are seconds of a steady clock."""

    def stop(self) -> None:
        """End it soon; it leaves no candidate behind."""

    @property
    def progress(self) -> dict[str, Any]:
        """Return the newest value of every key that it reported, and the history of its rounds."""


class Executor(Protocol):
    """Starts sessions."""

    def start(self, folder: RunFolder) -> RunningSession:
        """Start the session that a folder requests; raise ``OSError`` when it cannot be started."""
