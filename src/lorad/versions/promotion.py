"""Turning a candidate into a version: four durable steps, each of which may be the last before a power cut.

What lives here: manifest, rename into ``versions/``, tracker, links; and undoing them. What never does: deciding
whether a candidate deserves it (``evaluation.judge``), finishing at the next start what was cut short (``recovery``).
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorad.errors import LoradError
from lorad.storage import files
from lorad.versions import manifests, version_names
from lorad.versions.tracker import Tracker


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRecord:
    """What is said about a candidate when it becomes a version."""

    job: int | None
    parent: str | None
    base: str
    """The base model's fingerprint."""
    description: str
    performance: dict[str, float] = field(default_factory=dict)
    serve: bool = True
    """Whether it becomes ``latest``; what people bring from outside does when they say so."""


def promote(
    tracker: Tracker, candidate: Path, record: PromotionRecord, now: float, version: str | None = None
) -> str:
    """Turn a complete candidate folder into a version and make it ``latest``, or change nothing.

    Without a name it gets the next one; raise ``RegistryError`` when the name cannot be had.
    """
    with tracker.locked():
        before = tracker.read()
        version = _free_name(tracker, version)
        manifests.write(candidate, _told(version, record, tracker.lineage(record.parent), now))
        try:
            files.rename(candidate, tracker.folders.folder / version)
            tracker.enter(version)
        except BaseException:
            _retract(tracker, version, candidate, before)
            raise
    return version


def _told(version: str, record: PromotionRecord, ancestors: Sequence[str], now: float) -> dict[str, Any]:
    """Return what a manifest says beside the files."""
    return {
        "version": version,
        "parent": record.parent,
        "ancestors": ancestors,
        "base": record.base,
        "job": record.job,
        "created_at": now,
        "description": record.description,
        "performance": record.performance,
        "serve": record.serve,
    }


def _free_name(tracker: Tracker, version: str | None) -> str:
    taken = tracker.taken_names()
    if version is None:
        return version_names.following(taken)
    version_names.check_new(version, taken)
    return version


def _retract(tracker: Tracker, version: str, candidate: Path, before: dict[str, Any]) -> None:
    """Undo a promotion that failed; else the next start would serve what its job calls failed.

    The tracker goes first, for it must never name a folder that is gone. The links go last: every start
    repairs them.
    """
    with contextlib.suppress(LoradError, OSError):  # the error to tell is the promotion's own
        if tracker.read() != before:
            tracker.write_alone(before)
        if not candidate.exists():
            files.rename(tracker.folders.folder / version, candidate)
        tracker.follow(before)
