"""The one server: lorad's own, or one that it was pointed to.

What lives here: where it is, starting it and waiting for its first word, talks with it, starting it again. What never does:
versions and answers (``backend``, ``streams``).
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lorad.config import EngineSettings
from lorad.errors import ConfigError, ProtocolError, TransientError
from lorad.models.bases import Base
from lorad.serving.backends.interface import Surroundings
from lorad.serving.backends.vllm import command, protocol
from lorad.serving.backends.vllm.server_process import ServerProcess
from lorad.serving.backends.vllm.wire import Address, BrokenExchange, Exchange, Progress, Question, Talk, run

T = TypeVar("T")

LOOK_SECONDS = 0.2
"""How often a server that starts is asked whether it is there."""


class Server:
    """A vLLM server; ``engine.vllm_url`` says where, else it is lorad's own, on a socket that nobody else may open."""

    def __init__(
        self,
        settings: EngineSettings,
        surroundings: Surroundings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._around, self.clock = settings, surroundings, clock
        self._process: ServerProcess | None = None
        self._folder: Path | None = None
        if settings.vllm_url is None:
            self._folder = Path(tempfile.mkdtemp(prefix="lorad-"))
            self.address = Address(path=self._folder / "vllm.sock")
        else:
            self.address = Address.of_url(settings.vllm_url)

    # -- talking

    def run(self, talk: Talk[T]) -> T:
        """Wait for a talk's end and return its result; raise what it raises, or ``TransientError``."""
        with _passing_errors(self.address):
            return run(talk, self.address, self.clock)

    def begin(self, talk: Talk[T]) -> Progress[T]:
        """Begin a talk that the caller goes on with; raise ``BrokenExchange``."""
        return Progress(talk, self.address, self.clock)

    def ask(self, question: Question) -> Exchange:
        """Begin one exchange; raise ``BrokenExchange``."""
        return Exchange(self.address, question, self.clock)

    # -- life

    def arrive(self, base: Base, name: str) -> str:
        """Start the server, if it is ours, and wait until it answers; return what it calls its base.

        Raise ``ConfigError`` where there is none, or ours does not start.
        """
        if self._folder is not None:
            words = command.command_line(
                self._settings.vllm_command,
                folder_of(base),
                name,
                self._folder / "vllm.sock",
                dtype=str(base.model.dtype).removeprefix("torch."),
                max_rank=self._around.max_rank,
                max_loaded=self._settings.max_loaded_versions,
            )
            self._process = ServerProcess(words, command.environment(os.environ), self._around.log)
            self._start(self._process)
        deadline = self.clock() + self._settings.vllm_start_seconds
        while True:
            try:
                listed = run(protocol.list_models(), self.address, self.clock)
            except BrokenExchange as error:
                self._check_start(str(error), base, deadline)
            else:
                return self._base_among(listed, name)

    def _base_among(self, listed: dict[str, str | None], name: str) -> str:
        own = [known for known, parent in listed.items() if parent is None]
        if not own:
            raise ConfigError(f"the server at {self.address} names no base model", code="no_backend")
        return name if name in own else own[0]

    def _check_start(self, why: str, base: Base, deadline: float) -> None:
        """Wait a moment for a server of ours; raise where there is nothing to wait for."""
        process = self._process
        if process is None:
            raise ConfigError(
                f"no vLLM server answers at {self.address} ({why}); start it with: VLLM_ALLOW_RUNTIME_LORA_UPDATING=True "
                f"vllm serve {folder_of(base)} --enable-lora --max-lora-rank {command.lora_rank(self._around.max_rank)} "
                "--generation-config vllm; or unset engine.vllm_url, and lorad starts one",
                code="no_backend",
            )
        if self._around.is_stopping():
            raise TransientError("the daemon stops while the vLLM server starts", code="stopping")
        if not process.is_running():
            raise ConfigError(f"the vLLM server does not start: {process.last_words()}", code="no_backend")
        if self.clock() > deadline:
            raise ConfigError(
                "the vLLM server does not answer within engine.vllm_start_seconds "
                f"({self._settings.vllm_start_seconds:g} s): {process.last_words()}",
                code="no_backend",
            )
        process.wait(LOOK_SECONDS)

    @property
    def has_ended(self) -> bool:
        """Tell whether the process has ended, where it is ours."""
        return self._process is not None and not self._process.is_running()

    def revive(self) -> None:
        """Start our process again if it has ended; raise ``BrokenExchange`` where the system cannot."""
        if self._process is not None and self.has_ended:
            try:
                self._start(self._process)
            except OSError as error:
                raise BrokenExchange(f"its process does not start: {error}") from None

    def _start(self, process: ServerProcess) -> None:
        if self.address.path is not None:
            self.address.path.unlink(
                missing_ok=True
            )  # one that has died leaves it, and nobody can bind it again
        process.start()

    def last_words(self) -> str:
        """Return what our process said last, if it is ours."""
        return self._process.last_words() if self._process else ""

    def close(self) -> None:
        """End the process, if it is ours."""
        if self._process is not None:
            self._process.end()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def folder_of(base: Base) -> Path:
    """Return where a base in memory was loaded from: transformers keeps that."""
    return Path(base.model.name_or_path)


def away(address: Address, why: str) -> ProtocolError:
    """Return what a client is told whose answer the server cannot give, or not to its end."""
    return ProtocolError(
        f"the vLLM server at {address} went away: {why}; try again later",
        status=503,
        code="backend_away",
        backend="vllm",
        retry_after=5,
    )


@contextmanager
def _passing_errors(address: Address) -> Iterator[None]:
    """Tell as ``TransientError`` what is the server's fault and no version's."""
    try:
        yield
    except BrokenExchange as error:
        raise TransientError(
            f"the vLLM server at {address} cannot be asked: {error}; lorad will retry",
            code="backend_away",
            backend="vllm",
        ) from None
    except ProtocolError as error:
        raise TransientError(f"{error.message}; lorad will retry", code=error.code, backend="vllm") from error
