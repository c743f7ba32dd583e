"""A server's process, in a process group of its own, with its log.

What lives here: starting it, whether it runs, ending it. What never does: when it is started again (``backend``), HTTP.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from lorad.errors import ConfigError
from lorad.storage import files

KEEPER = Path(__file__).with_name("keeper.py")
STOP_SECONDS = 15.0
"""A little longer than the keeper gives the server."""
LONGEST_LOG = 4_000_000
"""Bytes from which on a start begins the log anew."""
LAST_WORDS = 2000
"""Bytes of the log's end that an error looks at."""


def check_program(command: Sequence[str], path: str | None = None) -> None:
    """Raise ``ConfigError`` where there is no such program; ``path`` is where it is looked for, instead of this process's PATH."""
    program = command[0] if command else ""
    if shutil.which(program, path=path) is None:
        raise ConfigError(
            f"engine.backend is vllm, and there is no program {program}; install vLLM (CUDA) in a virtual "
            "environment of its own and name it: --set engine.vllm_command='/opt/vllm/bin/vllm serve', or set "
            "engine.vllm_url to a server that runs already, or engine.backend to builtin",
            code="no_backend",
        )


class ServerProcess:
    """A server that runs beside the daemon and ends with it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path | None) -> None:
        check_program(command, environment.get("PATH"))
        self._command, self._environment, self._log = command, environment, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; one that still runs is ended first."""
        self.end()
        with contextlib.ExitStack() as stack:
            said = stack.enter_context(_open_log(self._log)) if self._log else subprocess.DEVNULL
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(KEEPER), *self._command],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,  # a Ctrl-C at the terminal is for us; we end the server ourselves
            )

    def is_running(self) -> bool:
        """Tell whether it runs."""
        return self._process is not None and self._process.poll() is None

    def wait(self, seconds: float) -> None:
        """Wait so long for its end."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=seconds)

    def last_words(self) -> str:
        """Return the last line of its log, and where the others are."""
        if self._log is None or not self._log.is_file():
            return "it has no log"
        lines = self._log.read_bytes()[-LAST_WORDS:].decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip() and not line.startswith("the server ended")]
        return f"it said {said[-1][:300]!r}; see {self._log}" if said else f"see {self._log}"

    def end(self) -> None:
        """End it and every process that it has started."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin:
            process.stdin.close()  # which the keeper sees
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_SECONDS)
        # also where the keeper has ended: the server may not have ended with it
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _open_log(log: Path) -> IO[Any]:
    is_long = log.is_file() and log.stat().st_size > LONGEST_LOG
    return files.open_secret(log, "wb" if is_long else "ab")
