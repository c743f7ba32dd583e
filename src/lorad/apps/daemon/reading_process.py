"""The process that reads dropped files: started without our secrets, watched, ended.

What never lives here: what it reads, and how it is talked to (``datasets.isolated``).
"""

import os
import socket
import subprocess
import sys

import psutil

NEEDS = (
    "PATH",
    "PYTHON",
    "HOME",
    "LANG",
    "LC_",
    "LD_LIBRARY_PATH",
    "DYLD_",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
)
"""How variables of the environment begin that it is given: no tokens."""


class ReadingProcess:
    """A process that reads files, without our secrets; it ends with us by the pipe whose other end it holds."""

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-B", "-m", "lorad.datasets.isolated.worker", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # a file must not fill the log
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={name: value for name, value in os.environ.items() if name.startswith(NEEDS)}
                | {"OMP_NUM_THREADS": "1"},
            )
        except BaseException:
            self.connection.close()
            raise
        finally:
            theirs.close()
        self._watched = psutil.Process(self._process.pid)  # nobody else has its number before ``end``

    @property
    def memory(self) -> int:
        """Return the bytes that it holds in memory."""
        try:
            return int(self._watched.memory_info().rss)
        except psutil.Error:  # it has ended
            return 0

    def end(self) -> int:
        """End it, if it still runs, and return its exit status."""
        self.connection.close()
        self._process.kill()
        status = self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        return status
