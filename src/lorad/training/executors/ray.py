"""Sessions that Ray places on a machine with room for them, which shares the home's folder.

The child here is a small program (``ray_driver``), so that the daemon never loads Ray; it places the command of the other executors.
"""

import sys

from lorad.config import TrainingSettings
from lorad.training.executors import commands
from lorad.training.executors.child import ChildSession
from lorad.training.run_folder import RunFolder

DRIVER = ("-P", "-m", "lorad.training.executors.ray_driver")
#: Statistics would go over the network; what Ray starts here has ``training.nice`` already, and Ray would add 15.
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
LOCAL = "local"
"""Ray's word for a cluster of its own on this machine, which ends with the session."""


class RayExecutor:
    """Starts sessions by Ray, each on one machine. Nobody there tells them that questions are answered: they do not wait."""

    def __init__(self, training: TrainingSettings, *, on_cards: bool) -> None:
        """``on_cards`` says that each process needs a CUDA card."""
        self._training = training
        self._cards = training.processes * on_cards

    def start(self, folder: RunFolder) -> ChildSession:
        """Start the session that a folder requests."""
        training = self._training
        session = commands.one_process(folder)
        if training.processes > 1:
            session = commands.several_processes(training, [str(folder.path)])
        room = [training.ray_address or LOCAL, training.processes * (training.threads or 1), self._cards]
        return ChildSession(
            folder,
            [sys.executable, *DRIVER, str(folder.path), *map(str, room), *session],
            nice=training.nice,
            max_seconds=training.max_seconds,
            environment=ENVIRONMENT,
            explain=commands.explain_death,
        )
