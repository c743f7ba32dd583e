"""The loopback port, for programs that speak no Unix sockets: opt-in, and each request needs a token.

What lives here: binding the port, the token's file, who needs the token. What never does: HTTP's routes, the Unix socket
(``unix_socket``).

File permissions say who may use the Unix socket. A port on 127.0.0.1 has none: every user of the machine reaches it, and every
page that a browser on it shows may try to. So whoever comes that way must show what only those can read who may read the file.
"""

import hmac
import os
import secrets
import socket
import stat
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from lorad.errors import ConfigError, ProtocolError
from lorad.serving.http import http_errors
from lorad.serving.http.connections import BACKLOG
from lorad.storage import files

ADDRESS = "127.0.0.1"
SUFFIX = ".token"
"""The token's file is called as the socket beside it, with this for its ending."""
SHORTEST = 32
"""Characters of a token that somebody has written."""


def bind(port: int) -> socket.socket:
    """Bind a port on the loopback address alone; raise ``ConfigError`` where it is taken or not to be had."""
    try:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        told = (
            f"this process may open no port ({error.strerror}); under systemd allow it with: systemctl edit lorad, "
            "[Service] RestrictAddressFamilies=AF_UNIX AF_INET and IPAddressAllow=localhost"
        )
        raise ConfigError(told, code="tcp_port") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        told = (
            f"port {port} on {ADDRESS} cannot be used: {error.strerror}; set another: --set server.tcp_port=N"
        )
        raise ConfigError(told, code="tcp_port") from error
    return listener


def token(unix_socket: Path) -> str:
    """Return the token that stands beside the Unix socket; the first time, make it, 0600.

    Raise ``ConfigError`` where others may read it, or it is not a token.
    """
    path = unix_socket.with_suffix(SUFFIX)
    if not files.is_there(path):
        files.write_bytes(path, f"{secrets.token_urlsafe(SHORTEST)}\n".encode(), mode=files.SECRET)
    try:
        found, mode = _read(path)
    except OSError as error:
        raise _bad(path, f"cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode) or mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise _bad(path, "may be read or changed by others")
    if len(found) < SHORTEST or not found.isascii() or not found.isprintable():
        raise _bad(path, f"holds no token of at least {SHORTEST} plain characters")
    return found


def _read(path: Path) -> tuple[str, int]:
    """Return what the file itself holds, never one that a link leads to, and its mode."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(4096).decode("ascii", "replace").strip(), os.fstat(descriptor).st_mode


def _bad(path: Path, what: str) -> ConfigError:
    told = f"{path} {what}; remove it, and the next start makes a new one, or: chmod 600 {path}"
    return ConfigError(told, code="bad_token_file")


class Bearer:
    """Lets in who comes through the Unix socket, and of the others who shows the token; without a token nobody else."""

    def __init__(self, app: ASGIApp, expected: str | None) -> None:
        self._app = app
        self._expected = None if expected is None else f"bearer {expected}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if _is_from_unix_socket(scope) or self._is_shown(scope):
            await self._app(scope, receive, send)
            return
        error = ProtocolError(
            "this port needs the token that stands beside lorad's socket; send the header: Authorization: Bearer TOKEN",
            status=401,
            code="unauthorized",
        )
        response = http_errors.response(error, {"WWW-Authenticate": "Bearer"}, path=scope.get("path", ""))
        await response(scope, receive, send)

    def _is_shown(self, scope: Scope) -> bool:
        given = [value for name, value in scope.get("headers", ()) if name == b"authorization"]
        if self._expected is None or len(given) != 1:
            return False
        kind, _, shown = given[0].partition(b" ")
        return hmac.compare_digest(kind.lower() + b" " + shown.strip(), self._expected)


def _is_from_unix_socket(scope: Scope) -> bool:
    """Tell whether the server's own end is a path, which has no port; whatever is not known came from elsewhere."""
    server = scope.get("server")
    return server is not None and server[1] is None


def listen(port: int | None, unix_socket: Path) -> tuple[list[socket.socket], str | None]:
    """Return what to listen on beside the Unix socket, and the token for it: nothing where no port is set."""
    return ([bind(port)], token(unix_socket)) if port is not None else ([], None)
