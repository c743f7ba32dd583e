"""Where a session runs: which executor the settings choose, and whether it is to be had here.

What never lives here: what a session does (``training.session``), what becomes of its candidate.
"""

from importlib.util import find_spec

import torch
from torch import distributed

from lorad.config import TrainingSettings
from lorad.errors import ConfigError
from lorad.models import hardware
from lorad.storage.busy_mark import BusyMark
from lorad.training.executors.interface import Executor
from lorad.training.executors.local import LocalExecutor
from lorad.training.executors.ray import RayExecutor
from lorad.training.executors.torchrun import TorchrunExecutor

INSTALL_RAY = "pip install 'lorad[ray]', or set training.executor to torchrun"


def choose(training: TrainingSettings, mark: BusyMark | None = None) -> Executor:
    """Return the executor that ``training.executor`` names; raise ``ConfigError`` where it cannot work here.

    With a ``mark``, sessions on this machine wait while it tells that questions are answered.
    """
    check(training)
    if training.executor == "torchrun":
        return TorchrunExecutor(training, mark)
    if training.executor == "ray":
        return RayExecutor(training, on_cards=hardware.machine(training.device).device == "cuda")
    return LocalExecutor(nice=training.nice, max_seconds=training.max_seconds, mark=mark)


def check(training: TrainingSettings) -> None:
    """Raise ``ConfigError`` where sessions cannot run as the settings say."""
    if training.executor == "ray" and not has_ray():
        raise ConfigError(f"training.executor is ray, and Ray is not installed; {INSTALL_RAY}", code="no_ray")
    if training.executor != "torchrun" and training.processes == 1:
        return
    if not distributed.is_available():
        raise ConfigError(
            "this build of torch has no torch.distributed; set training.executor to local", code="no_torchrun"
        )
    device = hardware.machine(training.device).device
    if device == "mps":
        raise ConfigError(
            "on MPS one process trains; set training.executor to local, or training.device to cpu",
            code="one_process_on_mps",
        )
    # where Ray places a session, there may be more cards than here
    if training.executor == "torchrun" and device == "cuda" and training.processes > cards():
        raise ConfigError(
            f"training.processes is {training.processes}, and this machine has {cards()} CUDA cards; set it to {cards()} or "
            "lower, or training.device to cpu",
            code="too_few_cards",
        )


def has_ray() -> bool:
    """Tell whether Ray is installed; it is not loaded for that."""
    return find_spec("ray") is not None


def cards() -> int:
    """Return how many CUDA cards this machine has."""
    return torch.cuda.device_count()
