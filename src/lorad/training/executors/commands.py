"""The command that is a session: one process, or several by torchrun; and what torchrun says of one that died.

What never lives here: running it (``child``, ``ray_driver``).
"""

import os
import re
import signal
import sys
from collections.abc import Sequence

from lorad.config import TrainingSettings
from lorad.errors import TrainingError, TransientError
from lorad.training.ending import STOPPED
from lorad.training.process_group import LOST
from lorad.training.run_folder import RunFolder

# -P: a torch.py in the current folder is not torch
SESSION = ("-P", "-m", "lorad.training.session")
TORCHRUN = ("-P", "-m", "torch.distributed.run")
#: On one machine nobody outside of it can reach what processes say to each other (torchrun's own store listens everywhere).
LOOPBACK = dict.fromkeys(
    ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"), "lo0" if sys.platform == "darwin" else "lo"
)
RENDEZVOUS = "lorad"
"""Name of the meeting of all machines; a daemon runs one session at a time."""
DIED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
"""What torchrun writes of the first process that fails."""


def one_process(folder: RunFolder, *arguments: str) -> list[str]:
    """Return a session as one process."""
    return [sys.executable, *SESSION, str(folder.path), *arguments]


def several_processes(
    training: TrainingSettings, arguments: Sequence[str], program: Sequence[str] = SESSION
) -> list[str]:
    """Return a session as the settings' number of processes on this machine, which torchrun starts and watches.

    With several machines each runs this, all but the daemon's without ``arguments``; they meet at ``training.rendezvous`` (c10d).
    """
    meeting = ["--standalone", "--local-addr=127.0.0.1"]
    if training.nodes > 1:
        meeting = [
            f"--nnodes={training.nodes}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={training.rendezvous}",
            f"--rdzv-id={RENDEZVOUS}",
        ]
    # --no-python: what torchrun starts by itself begins without -P
    session = ["--no-python", sys.executable, *program, *arguments]
    return [sys.executable, *TORCHRUN, *meeting, f"--nproc-per-node={training.processes}", *session]


def explain_death(folder: RunFolder, status: int) -> TrainingError | TransientError | None:
    """Tell which process of a session died, and of what, by what torchrun has written."""
    try:
        said = DIED.search(folder.log.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        said = None
    if said is None:
        return None
    how, number = int(said[1]), int(said[2])
    if how == STOPPED:
        return None
    if how == os.EX_IOERR:
        return TransientError("the disk is full; lorad will retry", code="disk")
    killed = f"was killed by signal {-how}" if how < 0 else f"ended with status {how}"
    if how == -signal.SIGKILL:
        killed += ", as the system does where memory runs out"
    return TrainingError(
        f"process {number} of the session {killed}; its checkpoints are kept, continue it with: lorad resume JOB; see {folder.log}",
        code=LOST,
        status=status,
    )
