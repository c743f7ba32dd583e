"""Looks questions up in each track's index, for the version that answers.

What lives here: the tracks' indexes and rerankers, and each version's lineage, thresholds and recall. What never does:
deciding how a question is answered (``retrieval.answering``), generating.

Looking up holds no lock that answering needs. Where a track's own base embeds its questions, they wait for the model as
every question does.
"""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorad.apps.daemon import ports
from lorad.apps.daemon.fitting import Unfitted, kept
from lorad.config import AnsweringSettings
from lorad.errors import LoradError, RegistryError, describe
from lorad.log import get_logger
from lorad.models import embedders
from lorad.models.embedders import Embedder
from lorad.models.hardware import machine
from lorad.records import BASE, CHAT, AnswerThresholds
from lorad.retrieval import answering, rerankers
from lorad.retrieval.answering import Reply
from lorad.retrieval.finding import Finding, Reranker, VersionFinder
from lorad.retrieval.index import Index
from lorad.serving.engine import Engine
from lorad.storage.database import Database
from lorad.storage.ledger import Ledger
from lorad.tasks import find
from lorad.track import Track

log = get_logger()

FOLDER = "index"
"""In a track's folder: what its index keeps beside the database."""
AUTO = "auto"
"""The embedder that nobody chose: where it is damaged, questions are answered without."""
KEPT = 8
"""Versions whose papers are held."""


@dataclass(frozen=True, slots=True)
class _Version:
    """What is known of a version: its lineage, its thresholds, and what it recalls."""

    lineage: Sequence[str]
    thresholds: AnswerThresholds | None
    right: Mapping[str, bool]
    fits: bool
    """Whether the thresholds are those of today's encoder, reranker and settings."""


@dataclass(frozen=True, slots=True)
class _OnEngine(embedders.Wrapped):
    """An embedder that takes its turn between two answers: it computes with the model that gives them."""

    between: Callable[[Callable[[], Any]], Any]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.between(partial(self.own.embed, texts))
        return found


class Lookup:
    """Looks questions up in the indexes of a home's chat tracks (``serving.retrieval.Retrieving``)."""

    def __init__(
        self,
        tracks: Mapping[str, Track],
        settings: AnsweringSettings,
        ledger: Ledger,
        serving: Callable[[str], str],
    ) -> None:
        self._tracks = tracks
        self._settings = settings
        self._ledger = ledger
        self._serving = serving
        """Tells by a track which version answers, or ``BASE``."""
        self._findings: dict[str, Finding] = {}
        self.embedders: dict[str, Embedder] = {}
        """By track; a track whose encoder is damaged has none."""
        self._versions: dict[tuple[str, str], _Version] = {}
        self._lock = threading.Lock()

    def attach(self, database: Database, engine: Engine) -> dict[str, ports.Index]:
        """Open the index of every track that learns chat; return them by their tracks.

        An encoder, or a base that embeds by itself, is loaded once for all its tracks. Raise ``ConfigError`` where ``answering.embedder`` names none.
        """
        loaded: dict[Path, tuple[Embedder, rerankers.CrossEncoder | None]] = {}
        indexes: dict[str, ports.Index] = {}
        for name, track in self._tracks.items():
            if find(track.settings.task).formats != CHAT:
                continue
            encoder = embedders.chosen(track.base.parent, self._settings.embedder)
            place = encoder or track.base
            try:
                if place not in loaded:
                    loaded[place] = _load(encoder) if encoder else (_own_base(engine, name), None)
            except LoradError as error:
                if self._settings.embedder != AUTO:
                    raise
                log.warning("encoder_damaged", track=name, **describe(error))
                continue
            embedder, reranker = loaded[place]
            index = Index(database, name, track.memory, embedder, track.registry.folder / FOLDER)
            indexes[name] = index
            self.embedders[name] = embedder
            self.add(name, Finding(index, reranker))
        return indexes

    def encoder(self, bases: Path) -> tuple[Embedder | None, Reranker | None]:
        """Return the encoder that ``answering.embedder`` names, of the bases in a folder, and its reranker, if there is one.

        They are those that compare questions, if these are loaded. One that nobody chose and that is damaged is none.
        """
        chosen = embedders.chosen(bases, self._settings.embedder)
        if chosen is None:
            return None, None
        for track, embedder in self.embedders.items():
            if embedder.name == chosen.name:
                return embedder, self._findings[track].reranker
        try:
            return _load(chosen)
        except LoradError as error:
            if self._settings.embedder != AUTO:
                raise
            log.warning("encoder_damaged", **describe(error))
            return None, None

    def add(self, track: str, finding: Finding) -> None:
        """Look a track's questions up here from now on."""
        self._findings[track] = finding

    def reply(self, track: str, version: str, messages: Sequence[Mapping[str, Any]]) -> Reply | None:
        """Return how to answer; ``None`` where the version has learned nothing that can be found."""
        finding = self._findings.get(track)
        if finding is None or version == BASE:
            return None
        try:
            known = self._version(track, version)
            if known.thresholds is None:
                return None
            return answering.reply(
                [dict(message) for message in messages],
                VersionFinder(finding, known.lineage, known.right),
                known.thresholds,
                unknown_words=self._settings.refusal,
            )
        except Exception as error:  # noqa: BLE001 - whoever asks gets the model's own answer
            log.warning("lookup_failed", track=track, version=version, **describe(error))
            return None

    def why_not(self, track: str) -> str:
        """Return why the version that serves answers by its weights alone; empty where it does not, and for the base."""
        version = self._serving(track)
        if version == BASE or find(self._tracks[track].settings.task).formats != CHAT:
            return ""
        if not self._settings.retrieve:
            return "as answering.retrieve is off"
        finding = self._findings.get(track)
        if finding is None:
            return "as its encoder is damaged: lorad doctor"
        known = self._version(track, version)
        if not finding.index.has_all(known.lineage):
            return "until all that it has learned is indexed"
        if known.thresholds is None:
            return "as scores tell nothing of these examples" if known.fits else "until thresholds are fitted"
        return ""

    # -- thresholds

    def unfitted(self) -> Unfitted | None:
        """Return a version that serves and has no thresholds that fit, if there is one whose index is whole."""
        for track, finding in self._findings.items():
            version = self._serving(track)
            if version == BASE:
                continue
            known = self._version(track, version)
            if not known.fits and finding.index.has_all(known.lineage):
                return self._unfitted(track, version)
        return None

    def use(self, track: str, version: str, thresholds: AnswerThresholds | None) -> None:
        """Answer with these from now on; ``None``: without the index."""
        known = self._version(track, version)
        with self._lock:
            self._versions[track, version] = replace(known, thresholds=thresholds, fits=True)

    def _unfitted(self, track: str, version: str) -> Unfitted:
        return Unfitted(
            track=self._tracks[track],
            version=version,
            finding=self._findings[track],
            max_false_share=self._settings.max_false_share,
        )

    def _version(self, track: str, version: str) -> _Version:
        with self._lock:
            if (track, version) in self._versions:
                return self._versions[track, version]
        registry = self._tracks[track].registry
        own, right = None, {}
        with contextlib.suppress(RegistryError):  # imported, or its papers are gone
            result = registry.result(version)
            own, right = result.evaluation.thresholds, dict(result.right)
        thresholds, fits = self._thresholds(self._unfitted(track, version), own)
        found = _Version(registry.lineage(version), thresholds, right, fits)
        with self._lock:
            while len(self._versions) >= KEPT:
                self._versions.pop(next(iter(self._versions)))
            return self._versions.setdefault((track, version), found)  # it may have been fitted meanwhile

    def _thresholds(self, of: Unfitted, own: AnswerThresholds | None) -> tuple[AnswerThresholds | None, bool]:
        """Return the thresholds of a version, its own or those that were fitted since, and whether they fit."""
        is_usable = own is not None and own.scored_by == of.finding.scored_by
        if is_usable and own is not None and own.max_false_share in {None, of.max_false_share}:
            return own, True
        was_fitted, found = kept(self._ledger, of)
        if was_fitted:
            return found, True
        if own is not None and not is_usable:
            why = "its thresholds were fitted to another encoder or reranker; new ones are fitted while it serves"
            log.warning("lookup_off", track=of.track.name, version=of.version, why=why)
        return own if is_usable else None, False


def _load(encoder: Path) -> tuple[Embedder, rerankers.CrossEncoder | None]:
    return embedders.load_encoder(encoder), rerankers.load(encoder, machine("cpu").precision)


def _own_base(engine: Engine, track: str) -> Embedder:
    return _OnEngine(embedders.of_base(engine.base(track)), engine.between_requests)
