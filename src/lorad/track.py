"""A track: one thing that is learned drop by drop, with all that belongs to it.

What lives here: which task and base it has, and where its versions and its examples are. What never does: changing any
of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lorad.config import Settings, TrackSettings
from lorad.home import Home
from lorad.storage.database import Database
from lorad.storage.memory import Memory
from lorad.versions.store import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """A track of a home."""

    name: str
    settings: TrackSettings
    base: Path
    """The folder of its base model."""
    registry: Registry
    """Its versions."""
    memory: Memory
    """Its examples."""

    def lineage(self) -> list[str]:
        """Return ``latest`` and its ancestors, newest first."""
        return self.registry.lineage(self.registry.latest)


def open_track(home: Home, settings: Settings, database: Database, name: str) -> Track:
    """Return a track by its name; raise ``ConfigError`` naming the known ones."""
    chosen = settings.track(name)
    return Track(
        name=name,
        settings=chosen,
        base=home.base_of(name, chosen.base),
        registry=Registry(home.track(name)),
        memory=Memory(database, name),
    )


def open_tracks(home: Home, settings: Settings, database: Database) -> Mapping[str, Track]:
    """Return every track that learns, by its name; tracks of documents are not among them."""
    return {name: open_track(home, settings, database, name) for name in settings.learning_tracks}
