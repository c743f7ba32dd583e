"""What the parts of the loop share and no table holds."""

from dataclasses import dataclass

from lorad.records import Job
from lorad.training.executors.interface import RunningSession


@dataclass(slots=True)
class LoopState:
    """Lost with the process: a start begins with ``recovery``."""

    running: tuple[Job, RunningSession] | None = None
    """The job whose session runs, as it was when that started."""
    is_cleaned_up: bool = False
    """Whether nothing that ended sessions left has to be put away."""
    is_log_empty: bool = False
    """Whether the database's log, where forgotten words may still stand, was emptied since they were forgotten."""
    has_unindexed: bool = False
    """Whether the last step left examples that can be indexed at once."""

    @property
    def running_job(self) -> int | None:
        """Return the number of the job whose session runs."""
        return self.running[0].id if self.running else None

    def request_clean_up(self) -> None:
        """Let the next step clean up."""
        self.is_cleaned_up = False

    def request_purge(self) -> None:
        """Let the next step remove what was made with forgotten words, from the database's log too."""
        self.is_cleaned_up = self.is_log_empty = False
