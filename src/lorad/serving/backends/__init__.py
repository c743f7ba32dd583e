"""Backends: whoever keeps models in memory and generates with them (``interface``).

What lives here: which one the settings choose. What never lives in a backend: the queue, versions' choice, text, HTTP.
"""

from lorad.config import EngineSettings
from lorad.errors import ConfigError
from lorad.serving.backends.builtin.backend import Builtin
from lorad.serving.backends.interface import Backend, Surroundings
from lorad.serving.backends.vllm.backend import Vllm


def choose(settings: EngineSettings, surroundings: Surroundings | None = None) -> Backend:
    """Return the backend that ``engine.backend`` names; raise ``ConfigError`` where this lorad has none of that name."""
    if settings.backend in {"auto", "builtin"}:
        return Builtin(settings)
    if settings.backend == "vllm":
        return Vllm(settings, surroundings or Surroundings())
    raise ConfigError(
        f"engine.backend is {settings.backend}, which this version of lorad does not have yet; set it to auto or builtin",
        code="no_backend",
    )
