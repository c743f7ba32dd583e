"""The home, its settings, a track's versions and its base model."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from lorad.config import Settings, load_settings
from lorad.errors import ConfigError
from lorad.home import Home, find_home
from lorad.storage.database import Database
from lorad.versions.store import Registry

BASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def named_base(place: Home, name: str) -> Path:
    """Return where the base model of a name that somebody typed lies; raise ``ConfigError`` for one that none can have."""
    if not BASE_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a base model: a hundred letters, digits, dots, dashes and underscores at "
            "most; give one with --name",
            code="bad_name",
        )
    return place.base(name)


def find_track(place: Home, settings: Settings, track: str) -> tuple[Registry, Path]:
    """Return a track's versions and the folder of its base model."""
    return Registry(place.track(track)), place.base(settings.track(track).base)


@contextlib.contextmanager
def open_database(place: Home) -> Iterator[Database]:
    """Open the home's database, and close it afterwards."""
    database = Database(place.database)
    try:
        yield database
    finally:
        database.close()


def load(home: str | None, config: str | None, overrides: list[str] | None) -> tuple[Home, Settings]:
    """Return the home and its settings; raise ``ConfigError`` naming every problem."""
    place = find_home(home)
    return place, load_settings(place, config, overrides or ())
