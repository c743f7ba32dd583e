"""Sessions as one process each, on this machine."""

from lorad.storage.busy_mark import BusyMark
from lorad.training.executors import commands
from lorad.training.executors.child import ChildSession
from lorad.training.run_folder import RunFolder


class LocalExecutor:
    """Starts sessions of one process."""

    def __init__(self, *, nice: int, max_seconds: float | None = None, mark: BusyMark | None = None) -> None:
        """With a ``mark``, sessions wait while it tells that questions are answered."""
        self._nice = nice
        self._max_seconds = max_seconds
        self._mark = mark

    def start(self, folder: RunFolder) -> ChildSession:
        """Start the session that a folder requests."""
        handed = [str(self._mark.descriptor)] if self._mark else []
        return ChildSession(
            folder,
            commands.one_process(folder, *handed),
            nice=self._nice,
            max_seconds=self._max_seconds,
            mark=self._mark,
        )
