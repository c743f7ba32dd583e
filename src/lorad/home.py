"""The folder that holds ``configs/``, ``inbox/`` and ``models/``, and where things lie in it.

Apart from ``config`` so that ``lorad status`` finds a running daemon without reading any settings.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from lorad.errors import ConfigError
from lorad.records import SCRATCH

SOCKET_PATH_LIMIT = 103
"""Bytes: the limit of macOS; Linux allows 107."""


APART = ".drops"
"""The folder in the inbox that stands in for ``models/drops`` where a file cannot be renamed from one into the other."""


class Home:
    """The folders and files of one home."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.configs = self.root / "configs"
        self.inbox = self.root / "inbox"
        self.models = self.root / "models"
        self.drops = self.models / "drops"
        """Where the daemon keeps what it took out of the inbox; see ``dropped``."""
        self.database = self.models / "lorad.sqlite3"
        self.address = self.models / ".daemon.json"
        """Where a running daemon says which socket it answers on."""
        self.backend_log = self.models / ".backend.log"
        """What a program says that the daemon runs to answer; see ``engine.backend``."""

    def dropped(self, name: str) -> Path:
        """Return where ``done`` or ``failed`` is: in ``drops``, or in the inbox where that is on another file system."""
        apart = self.inbox / APART
        is_apart = (
            apart.is_dir() and not apart.is_symlink() and apart.stat().st_uid == self.models.stat().st_uid
        )
        places = [self.drops / name, *([apart / name] if is_apart else []), self.inbox / name]
        return next((place for place in places if place.is_dir()), self.drops / name)

    def base(self, name: str) -> Path:
        """Return where the base model of this name lies."""
        return self.models / "base" / name

    def base_of(self, track: str, base: str) -> Path:
        """Return where the base of a track lies that names it so; one from scratch is the track's own."""
        return self.track(track) / "base" if base == SCRATCH else self.base(base)

    def track(self, name: str) -> Path:
        """Return the folder of a track: its tracker, versions, candidates."""
        return self.models / name

    def socket(self, configured: str) -> Path:
        """Return the socket's path as set by ``server.socket``."""
        return self.root / configured

    def running_socket(self) -> Path | None:
        """Return the socket that the daemon of this home last bound, if one ever ran and did not stop well."""
        try:
            return Path(json.loads(self.address.read_text(encoding="utf-8"))["socket"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def check_socket_path(path: Path) -> None:
    """Raise ``ConfigError`` for a path that is too long for a Unix socket."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT:
        raise ConfigError(
            f"the socket path {path} has {length} bytes, and the limit is {SOCKET_PATH_LIMIT}; set a shorter, absolute one: "
            "--set server.socket=/run/lorad/lorad.sock",
            code="socket_path_too_long",
        )


def find_home(given: str | None, environment: Mapping[str, str] = os.environ) -> Home:
    """Return the home named by ``--home``, ``LORAD_HOME`` or the current folder, in this order."""
    named = given or environment.get("LORAD_HOME")
    if named:
        root = Path(named).expanduser()
        if not root.is_dir():
            raise ConfigError(
                f"the home {root} does not exist; make it with: lorad init {root}",
                code="no_home",
                path=str(root),
            )
        return Home(root)
    here = Path.cwd()
    if all((here / part).is_dir() for part in ("configs", "inbox", "models")):
        return Home(here)
    raise ConfigError(
        f"{here} is not a lorad home (no configs/, inbox/ and models/ in it); "
        "go to one, name one with --home or LORAD_HOME, or make one with: lorad init FOLDER",
        code="no_home",
        path=str(here),
    )
