"""The home, its settings, a track's versions and its base model."""

import re
from pathlib import Path

from lorad.config import Settings, load_settings
from lorad.errors import ConfigError
from lorad.home import Home, find_home
from lorad.versions.store import Registry

BASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def named_base(home: Home, name: str) -> Path:
    """Return the folder of a base model; raise ``ConfigError`` for an invalid name."""
    if not BASE_NAME.fullmatch(name):
        raise ConfigError(
            f"invalid base model name {name!r}; use at most 100 letters, digits, dots, dashes and underscores: --name NAME",
            code="bad_name",
        )
    return home.base(name)


def find_track(home: Home, settings: Settings, track: str) -> tuple[Registry, Path]:
    """Return the registry of a track and the folder of its base model."""
    return Registry(home.track(track)), home.base_of(track, settings.track(track).base)


def load(home_path: str | None, config: str | None, overrides: list[str] | None) -> tuple[Home, Settings]:
    """Return the home and its settings; raise ``ConfigError`` naming every problem."""
    home = find_home(home_path)
    return home, load_settings(home, config, overrides or ())
