"""The machine: which device computes, in which precision, and what it says when memory runs out.

What never lives here: models.
"""

import contextlib
import ctypes
import functools
import math
import platform
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from transformers.utils import logging as transformers_logging

from lorad.errors import ConfigError, TransientError
from lorad.models import memory_limits
from lorad.records import Machine
from lorad.storage import files

#: A plan's word for a precision, and torch's.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


#: bfloat16 halves the memory that a step reads, so it may be a little slower per product and still pay.
BFLOAT16_SLOWER = 1.2


SHORT = ("can't allocate memory", "cannot allocate memory", "out of memory", "alloc_failed")
"""What torch, the system and CUDA say where memory ran out."""


def quieten() -> None:
    """Silence the libraries' bars and hints; lorad tells what happens itself. Only programs call this."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")


@functools.cache
def machine(wanted: str = "auto") -> Machine:
    """Look at the machine once: which device, how much memory, whether bfloat16 pays."""
    device = wanted
    if wanted == "auto":
        device = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                "CUDA is configured, but torch finds no CUDA device; see: lorad doctor", code="no_device"
            )
        name = torch.cuda.get_device_name()
    elif device == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(
            "MPS is configured, but torch finds no GPU of Apple's; set the device to auto, or see: lorad doctor",
            code="no_device",
        )
    else:
        name = platform.processor() or platform.machine()
    return Machine(
        device=device,
        name=f"{device} ({name})",
        memory_bytes=free_bytes(device),
        total_bytes=total_bytes(device),
        threads=cores(),
        fast_bfloat16=_bfloat16_pays(device),
    )


@functools.cache
def cores() -> int:
    """Return with how many threads torch computes here by itself; the first call must come before ``compute_with``."""
    return torch.get_num_threads()


def cuda_libraries(device: str) -> dict[str, str]:
    """Return the versions of CUDA and cuDNN that torch computes with on a CUDA device; of other devices nothing."""
    if not device.startswith("cuda"):
        return {}
    return {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}


def repeat_alike() -> None:
    """Let cuDNN compute the same way each time: not by what was fastest just now, and not by adding up in any order."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def compute_with(threads: int) -> None:
    """Let this thread compute with so many threads, and all others that have not computed yet.

    In a process with several threads that compute, one alone may have more than one. Each that has keeps helpers, and as
    soon as libgomp counts more of these than cores, they all sleep between two operations instead of waiting awake
    (``gomp_throttled_spin_count_var``): a step of a small model then takes nearly twice as long.
    """
    torch.set_num_threads(threads)
    torch.get_num_threads()  # what this thread has been told holds from its first use on


def give_back_memory() -> None:
    """Give the system what was freed. glibc keeps it for the thread that took it: a copy of a model for each that made one.

    On a graphics card torch keeps it, where a session, which is another process, could not have it.
    """
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL(None).malloc_trim(0)


def _bfloat16_pays(device: str) -> bool:
    """Time one product of the size that matters, both ways, instead of reading flags."""
    timings = {}
    for dtype in (torch.float32, torch.bfloat16):
        try:
            x = torch.randn(256, 576, device=device).to(dtype)
            w = torch.randn(1536, 576, device=device).to(dtype)
            best = math.inf
            for _ in range(5):
                began = time.perf_counter()
                torch.nn.functional.linear(x, w).sum().item()
                best = min(best, time.perf_counter() - began)
            timings[dtype] = best
        except RuntimeError:
            timings[dtype] = math.inf
    return timings[torch.bfloat16] < BFLOAT16_SLOWER * timings[torch.float32]


def free_bytes(device: str) -> int:
    """Return how much memory a device has left now."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    available = int(psutil.virtual_memory().available)
    limited = memory_limits.free_bytes()
    return available if limited is None else min(available, limited)


def first_line(error: Exception) -> str:
    """Return what a library says in its first line, and the kind of its error."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__


def total_bytes(device: str) -> int:
    """Return how much memory a device has for lorad in all, whoever uses it now."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[1])
    limit = memory_limits.limit_bytes()
    installed = int(psutil.virtual_memory().total)
    return installed if limit is None else min(installed, limit)


@contextlib.contextmanager
def passing_errors(doing: str) -> Iterator[None]:
    """Turn what is no fault of the files' into ``TransientError``: short memory, a device or a disk in trouble."""
    try:
        with files.passing_errors(doing):
            yield
    except MemoryError as error:
        raise TransientError(
            f"{doing}: {str(error) or 'memory is short'}; lorad will retry", code="memory"
        ) from error
    except FileNotFoundError as error:
        if _is_there_all_the_same(error):
            raise TransientError(
                f"{doing}: a file that is there cannot be opened, as where too many are open; lorad will retry",
                code="disk",
            ) from error
        raise
    except RuntimeError as error:
        if is_short_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise TransientError(f"{doing}: {error}; lorad will retry", code="memory") from error
        raise


def _is_there_all_the_same(error: FileNotFoundError) -> bool:
    """Tell whether safetensors has said of a file that it is missing, as it does of whatever it cannot open."""
    path = str(error).partition(": ")[2]
    return error.errno is None and bool(path) and Path(path).is_file()


def is_short_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out; torch has a type for it on CUDA alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in SHORT)
