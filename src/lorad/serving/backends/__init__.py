"""Backends: whoever keeps models in memory and generates with them (``interface``).

What lives here: which one the settings choose. What never lives in a backend: the queue, versions' choice, text, HTTP.
"""

from dataclasses import dataclass

from lorad.config import EngineSettings
from lorad.serving.backends.builtin.backend import Builtin
from lorad.serving.backends.interface import Backend, Surroundings
from lorad.serving.backends.llamacpp import binding
from lorad.serving.backends.llamacpp.backend import LlamaCpp
from lorad.serving.backends.vllm.backend import Vllm


@dataclass(frozen=True, slots=True)
class Choice:
    """Which backend the settings choose, and why."""

    name: str
    because: str


def chosen(settings: EngineSettings) -> Choice:
    """Return which backend it is, and why."""
    if settings.backend == "auto":
        return Choice("builtin", "engine.backend is auto")
    return Choice(settings.backend, "engine.backend names it")


def choose(settings: EngineSettings, surroundings: Surroundings | None = None) -> Backend:
    """Return the backend that ``engine.backend`` chooses; raise ``ConfigError`` where it is not to be had here."""
    name = chosen(settings).name
    if name == "vllm":
        return Vllm(settings, surroundings or Surroundings())
    if name == "llamacpp":
        return LlamaCpp(settings, binding.Model, binding.version())
    return Builtin(settings)
