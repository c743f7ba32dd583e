"""Fits thresholds for what serves, where its own cannot be used: a little at a time between the loop's other work.

What lives here: whose turn it is, and keeping what was fitted. What never does: asking the index (``training``), clocks; one
is handed in.

A version's thresholds hang on the encoder and the reranker that they were fitted with, and on what the settings allowed.
After any of these has changed, and for a version that never had any, they are fitted anew, and what was fitted is kept
with the ledger: a version is never changed. Until then it answers with its old ones, or without its index.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lorad.apps.daemon.indexing import STEP_SECONDS
from lorad.log import get_logger
from lorad.records import AnswerThresholds, as_json, restore
from lorad.retrieval.finding import Finding
from lorad.storage.ledger import Ledger
from lorad.track import Track
from lorad.training.fact_measurement import MOST_INDEXED
from lorad.training.session_examples import spread
from lorad.training.threshold_fitting import ThresholdFitting

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfitted:
    """A version that serves without thresholds that fit, with what finds its examples."""

    track: Track
    version: str
    finding: Finding
    max_false_share: float


class Versions(Protocol):
    """Whoever knows which thresholds are missing (``lookup.Lookup``)."""

    def unfitted(self) -> Unfitted | None:
        """Return a version that serves and has no thresholds that fit, if there is one whose index is whole."""

    def use(self, track: str, version: str, thresholds: AnswerThresholds | None) -> None:
        """Answer with these from now on; ``None``: without the index."""


class Fitting:
    """The thresholds of all tracks; ``step`` is called again and again."""

    def __init__(self, versions: Versions, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._versions = versions
        self._ledger = ledger
        self._clock = clock
        self._under_way: tuple[Unfitted, ThresholdFitting] | None = None

    def step(self) -> bool:
        """Ask what fits into a quarter of a second; return whether more is left."""
        self._under_way = self._under_way or self._begin()
        if self._under_way is None:
            return False
        of, fitting = self._under_way
        end = self._clock() + STEP_SECONDS
        while fitting.step():
            if self._clock() >= end:
                return True
        self._under_way = None
        found = fitting.result()
        keep(self._ledger, of, found)
        self._versions.use(of.track.name, of.version, found)
        log.info("thresholds_fitted", track=of.track.name, version=of.version, usable=found is not None)
        return True

    def _begin(self) -> tuple[Unfitted, ThresholdFitting] | None:
        of = self._versions.unfitted()
        if of is None:
            return None
        lineage = of.track.registry.lineage(of.version)
        learned = [each.example for each in of.track.memory.learned(lineage)]
        return of, ThresholdFitting(of.finding, lineage, spread(learned, MOST_INDEXED), of.max_false_share)


def keep(ledger: Ledger, of: Unfitted, found: AnswerThresholds | None) -> None:
    """Keep what was fitted; of each track the last."""
    ledger.set_flag(_flag(of.track.name), json.dumps({**_key(of), "thresholds": found and as_json(found)}))


def kept(ledger: Ledger, of: Unfitted) -> tuple[bool, AnswerThresholds | None]:
    """Return whether thresholds were fitted for just this, and which."""
    try:
        held = json.loads(ledger.flag(_flag(of.track.name)))
        if {name: held[name] for name in _key(of)} != _key(of):
            return False, None
        found = held["thresholds"]
        return True, restore(AnswerThresholds, found) if found else None
    except (ValueError, KeyError, TypeError):  # none, or written by another lorad: it is fitted again
        return False, None


def _flag(track: str) -> str:
    return f"thresholds:{track}"


def _key(of: Unfitted) -> dict[str, object]:
    return {
        "version": of.version,
        "scored_by": of.finding.scored_by,
        "max_false_share": of.max_false_share,
    }
