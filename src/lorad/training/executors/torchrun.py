"""Sessions as several processes that train together, started and watched by torchrun (``torch.distributed.run``).

torchrun ends all of them when one fails. Each holds the pipe of the child that torchrun is, and ends when the daemon is gone.
"""

from lorad.config import TrainingSettings
from lorad.storage.busy_mark import BusyMark
from lorad.training.executors import commands
from lorad.training.executors.child import ChildSession
from lorad.training.run_folder import RunFolder


class TorchrunExecutor:
    """Starts sessions of ``training.processes`` processes on each of ``training.nodes`` machines."""

    def __init__(self, training: TrainingSettings, mark: BusyMark | None = None) -> None:
        """With a ``mark``, sessions wait while it tells that questions are answered."""
        self._training = training
        self._mark = mark

    def start(self, folder: RunFolder) -> ChildSession:
        """Start the session that a folder requests."""
        handed = [str(self._mark.descriptor)] if self._mark else []
        return ChildSession(
            folder,
            commands.several_processes(self._training, [str(folder.path), *handed]),
            nice=self._training.nice,
            max_seconds=self._training.max_seconds,
            mark=self._mark,
            environment=commands.LOOPBACK if self._training.nodes == 1 else None,
            explain=commands.explain_death,
        )
