"""A session's process, run as ``lorad.training.session``, that says when it trains, and dies when it is told to.

    python watched_process.py FOLDER

``LORAD_TEST_TELLS`` names a pipe into which the first process writes at its step ``LORAD_TEST_STEP``;
``LORAD_TEST_DIES`` the process that kills itself there instead.
"""

import os
import signal
import sys
from pathlib import Path

from lorad.training import session
from lorad.training.process_group import ProcessGroup
from lorad.training.run_folder import RunFolder


def watch(environment):
    """Let every process count its steps on their way to the sum of gradients."""
    step, dies = int(environment["LORAD_TEST_STEP"]), int(environment.get("LORAD_TEST_DIES", "-1"))
    pipe, add_up, steps = environment.get("LORAD_TEST_TELLS"), ProcessGroup.add_up, iter(range(1, 10**6))

    def counted(group, weights, numbers):
        if next(steps) == step:
            if group.number == dies:
                os.kill(os.getpid(), signal.SIGKILL)
            if group.is_first and pipe:
                Path(pipe).write_text("trains\n", encoding="ascii")
        return add_up(group, weights, numbers)

    ProcessGroup.add_up = counted


if __name__ == "__main__":
    watch(os.environ)
    sys.exit(session.main(RunFolder(Path(sys.argv[1]))))
