"""Backends: whoever keeps models in memory and generates with them (``interface``).

What lives here: which one the settings choose. What never lives in a backend: the queue, versions' choice, text, HTTP.
"""

from dataclasses import dataclass

from lorad.config import EngineSettings
from lorad.errors import ConfigError
from lorad.serving.backends.builtin.backend import Builtin
from lorad.serving.backends.interface import Backend, Surroundings
from lorad.serving.backends.vllm.backend import Vllm


@dataclass(frozen=True, slots=True)
class Choice:
    """Which backend the settings choose, and why."""

    name: str
    because: str


def chosen(settings: EngineSettings) -> Choice:
    """Return which backend it is; raise ``ConfigError`` where this lorad has none of that name."""
    if settings.backend == "auto":
        return Choice("builtin", "engine.backend is auto")
    if settings.backend == "builtin":
        return Choice("builtin", "engine.backend names it")
    if settings.backend == "vllm":
        return Choice("vllm", "engine.backend names it")
    raise ConfigError(
        f"engine.backend is {settings.backend}, which this version of lorad does not have yet; set it to auto or builtin",
        code="no_backend",
    )


def choose(settings: EngineSettings, surroundings: Surroundings | None = None) -> Backend:
    """Return the backend that ``engine.backend`` chooses; raise ``ConfigError`` as ``chosen`` does."""
    if chosen(settings).name == "vllm":
        return Vllm(settings, surroundings or Surroundings())
    return Builtin(settings)
