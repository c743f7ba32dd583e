"""Backends: whoever keeps models in memory and generates with them (``interface``).

What lives here: which one the settings choose. What never lives in a backend: the queue, versions' choice, text, HTTP.
"""

from lorad.config import EngineSettings
from lorad.errors import ConfigError
from lorad.serving.backends.builtin.backend import Builtin
from lorad.serving.backends.interface import Backend
from lorad.serving.backends.llamacpp import binding
from lorad.serving.backends.llamacpp.backend import LlamaCpp


def choose(settings: EngineSettings) -> Backend:
    """Return the backend that ``engine.backend`` names; raise ``ConfigError`` where it is not to be had here."""
    if settings.backend in {"auto", "builtin"}:
        return Builtin(settings)
    if settings.backend == "llamacpp":
        return LlamaCpp(settings, binding.Model, binding.version())
    raise ConfigError(
        f"engine.backend is {settings.backend}, which this version of lorad does not have yet; set it to auto or builtin",
        code="no_backend",
    )
