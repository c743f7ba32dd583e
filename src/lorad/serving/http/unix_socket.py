"""The Unix socket that the daemon listens on.

What lives here: binding it privately, and telling a living one from what a killed daemon has left. What never does:
HTTP, connections.
"""

import socket
from pathlib import Path

from lorad.errors import ConfigError
from lorad.home import check_socket_path
from lorad.serving.http.connections import BACKLOG


def bind(path: Path) -> socket.socket:
    """Bind the Unix socket privately: socket 0660, its folder 0750 if it is made here; only a dead socket is removed."""
    check_socket_path(path)
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        return _bind(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}", code="socket_path") from error


def _bind(path: Path) -> socket.socket:
    if path.is_socket():
        _refuse_if_alive(path)
        path.unlink()
    elif path.exists():
        raise ConfigError(f"{path} exists and is not a socket; move it away", code="socket_path")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o660)
    listener.listen(BACKLOG)
    return listener


def is_alive(path: Path) -> bool:
    """Tell whether somebody answers at a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _refuse_if_alive(path: Path) -> None:
    if not is_alive(path):
        return
    raise ConfigError(
        f"another lorad answers at {path}; stop it first, or use another home", code="already_running"
    )
