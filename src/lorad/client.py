"""The daemon's socket in a Python program of one's own, waiting or not. See docs/client.md.

What lives here: finding a home's socket, and the public names. What never does: HTTP (``serving.client``), loading models
(``lorad.library`` answers without a daemon).

    from lorad.client import connect
    print(connect("/var/lib/lorad").ask("Where is the library?"))
"""

from pathlib import Path

from lorad.errors import ConfigError, LoradError, ProtocolError, TransientError
from lorad.home import find_home
from lorad.serving.async_client import AsyncAnswer, AsyncClient
from lorad.serving.client import Answer, Client

__all__ = [
    "Answer",
    "AsyncAnswer",
    "AsyncClient",
    "Client",
    "ConfigError",
    "LoradError",
    "ProtocolError",
    "TransientError",
    "connect",
    "connect_async",
]


def connect(home: str | Path | None = None) -> Client:
    """Return the client of a home's daemon, whether it runs or not; without a home that of ``LORAD_HOME``, or here.

    Raise ``ConfigError`` where there is no such home.
    """
    return Client(*_socket(home))


def connect_async(home: str | Path | None = None) -> AsyncClient:
    """Return the same for a program with an event loop."""
    return AsyncClient(*_socket(home))


def _socket(given: str | Path | None) -> tuple[Path, Path]:
    """Return a home's socket, and the home."""
    home = find_home(None if given is None else str(given))
    running = home.running_socket()
    if running is None:  # never started, or stopped cleanly: the settings name its socket
        from lorad.config import load_settings  # noqa: PLC0415 - 80 ms that a running daemon spares

        running = home.socket(load_settings(home, None, ()).server.socket)
    return running, home.root
