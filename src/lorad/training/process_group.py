"""The processes that train one session together: what of a step is mine, the sum of our gradients, our answers together.

What lives here: all that they say to each other, by ``torch.distributed``. What never does: starting them (``executors``),
what is trained and tested.

Every process runs the whole session on the same rows, so that all come to the same decisions. They differ in three things: each
computes its own share of a step's rows and of a test's; their gradients are summed before the optimizer sees them; the first
process alone reports and writes (``is_first``), and tells the others what only it can know (``first``). In a group of one, which is
the default everywhere, nothing is shared and nobody is told anything.

A share is computed as one process computes a pass: its loss is divided by the number of all predictions of the whole step. So the
sum is the gradient of one process up to rounding, and bit-equal for the same number of processes.

torch calls a process's number its rank; here that word belongs to adapters.
"""

import contextlib
import ctypes
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import is_dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from torch import Tensor, distributed

from lorad import records
from lorad.errors import TrainingError

T = TypeVar("T")

PATIENCE = timedelta(days=20)
"""How long a process waits for the others: whoever takes too long is ended by the daemon, and who has died is noticed at once."""
LOST = "process_died"
"""Code of the error where another process has ended."""
TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""What torchrun tells a process in its environment."""
PR_SET_PDEATHSIG = 1
"""Of Linux's ``prctl``: the signal that a process gets when its parent dies."""


class ProcessGroup:
    """The processes of a session, as one of them sees them."""

    def __init__(
        self, number: int = 0, size: int = 1, number_on_machine: int = 0, on_machine: int = 1
    ) -> None:
        self.number = number
        """Of this process, from 0."""
        self.size = size
        self.number_on_machine = number_on_machine
        """Of this process among those of its machine, from 0."""
        self._on_machine = on_machine

    @property
    def is_first(self) -> bool:
        """Tell whether this is the process that reports, writes and decides."""
        return self.number == 0

    @property
    def threads(self) -> int | None:
        """Return with how many threads each process computes, for the cores to be shared; ``None``: all by itself."""
        cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
        return max(1, cores // self._on_machine) if self._on_machine > 1 else None

    def inherited(self, descriptor: int) -> int:
        """Return a descriptor that torchrun was handed, opened here too, for it hands on none (Linux); raise ``OSError``."""
        return descriptor if self.size == 1 else os.open(f"/proc/{os.getppid()}/fd/{descriptor}", os.O_RDWR)

    # -- what is mine

    def share(self, items: Sequence[Sized]) -> list[int]:
        """Return the numbers of those items that are this process's, in order: dealt out from the shortest to the longest."""
        by_length = sorted(range(len(items)), key=lambda number: len(items[number]))
        return sorted(by_length[self.number :: self.size])

    # -- what is ours

    def add_up(self, weights: Sequence[Tensor], numbers: Sequence[float]) -> list[float]:
        """Sum the gradients of these weights over all processes, in place; return the sums of some numbers beside them.

        All of it goes in one flat float32 tensor. A weight without a gradient counts as zeros: who had no row has none.
        """
        if self.size == 1:
            return list(numbers)
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        told = torch.tensor(numbers, dtype=torch.float32, device=weights[0].device)
        flat = torch.cat([*(gradient.float().reshape(-1) for gradient in gradients), told])
        self._sum(flat)
        *summed, told = torch.split(flat, [*(gradient.numel() for gradient in gradients), len(numbers)])
        for gradient, found in zip(gradients, summed, strict=True):
            gradient.copy_(found.view_as(gradient))
        return [float(number) for number in told.tolist()]

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums of some numbers over all processes, in float64."""
        if self.size == 1:
            return list(numbers)
        found = torch.tensor(numbers, dtype=torch.float64)
        self._sum(found)
        return [float(number) for number in found.tolist()]

    def ask(self, rows: Sequence[T], test: Callable[[list[T]], Sequence[float]]) -> list[bool]:
        """Let each process test its share of some rows; return which are above 0 (or true), in the rows' order."""
        return [number > 0 for number in self.measure(rows, test)]

    def measure(self, rows: Sequence[T], test: Callable[[list[T]], Sequence[float]]) -> list[float]:
        """Let each process measure its share of some rows; return the numbers that all found, in the rows' order."""
        if self.size == 1:
            return list(test(list(rows)))
        mine = self.share(rows)  # type: ignore[arg-type] # rows have a length
        found = [0.0] * len(rows)
        for number, measured in zip(mine, test([rows[number] for number in mine]), strict=True):
            found[number] = float(measured)
        return self.total(found)

    # -- what the first one knows

    def first(self, kind: type[T], make: Callable[[], T]) -> T:
        """Let the first process alone make a record (or a number); return it in all of them."""
        if self.size == 1:
            return make()
        made = make() if self.is_first else None
        data = records.as_json(made) if is_dataclass(made) else made
        told = self._tell(json.dumps(data).encode() if self.is_first else b"")
        return made if made is not None else records.restore(kind, json.loads(told))

    def wait(self) -> None:
        """Wait for the others: what the first process has written is there then."""
        self.total([0.0])

    def agree(self, said: str) -> str:
        """Return what the first of those processes said that said anything."""
        sizes = self.total(
            [float(len(said.encode())) * (number == self.number) for number in range(self.size)]
        )
        speaker = next((number for number, size in enumerate(sizes) if size), 0)
        return self._tell(said.encode(), speaker).decode() if self.size > 1 else said

    def leave(self) -> None:
        """End the group, when all have come to their end."""
        if self.size > 1:
            self.wait()
            distributed.destroy_process_group()

    def _sum(self, tensor: Tensor) -> None:
        with _naming_the_loss():
            distributed.all_reduce(tensor)

    def _tell(self, said: bytes, speaker: int = 0) -> bytes:
        """Return the bytes that one process says. JSON in them, for what comes over a network is not unpickled."""
        with _naming_the_loss():
            size = torch.tensor([len(said)])
            distributed.broadcast(size, speaker)
            data = torch.tensor(list(said.ljust(int(size), b"\0")[: int(size)]), dtype=torch.uint8)
            distributed.broadcast(data, speaker)
        return bytes(data.tolist())


ALONE = ProcessGroup()
"""The group of a session that is one process."""


@contextlib.contextmanager
def _naming_the_loss() -> Iterator[None]:
    """Say by name that another process has gone: gloo and NCCL tell of a closed connection."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"another process of this session has ended ({str(error).splitlines()[0]}); its checkpoints are kept, continue it "
            "with: lorad resume JOB",
            code=LOST,
        ) from error


def join() -> ProcessGroup:
    """Return the group that this process was started in, by torchrun or alone.

    Messages and gradients on a CPU go by gloo, gradients on a card by NCCL. What torchrun has put into the environment is taken out of
    it: accelerate would wrap the model, and sum gradients a second time.
    """
    told = {name: int(os.environ.get(name, "0")) for name in TORCHRUN}
    if told["WORLD_SIZE"] <= 1:
        return ALONE
    _end_with_parent()
    # torch's share of the cores has its own setting; nice counts within a session of processes, and this one has its own
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(os.nice(0)), encoding="ascii")
    has_card = torch.cuda.is_available()
    if has_card:
        torch.cuda.set_device(told["LOCAL_RANK"] % torch.cuda.device_count())
    distributed.init_process_group("cpu:gloo,cuda:nccl" if has_card else "gloo", timeout=PATIENCE)
    for name in TORCHRUN:
        os.environ.pop(name, None)
    return ProcessGroup(told["RANK"], told["WORLD_SIZE"], told["LOCAL_RANK"], told["LOCAL_WORLD_SIZE"])


def is_loss(error: Exception) -> bool:
    """Tell whether an error says that another process has ended."""
    return isinstance(error, TrainingError) and error.code == LOST


def _end_with_parent() -> None:
    """Die with torchrun, whatever kills it: an orphan would write into the folder of the session that follows (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
