"""Which version each track answers from.

What lives here: swapping, going on to a version later when memory is short, going back from one that cannot serve. What
never does: loading it (``model_host``), choosing what becomes ``latest`` (``settlement``, ``commands``).
"""

import contextlib
from collections.abc import Mapping
from functools import partial

from lorad.apps.daemon.backoff import Attempts
from lorad.apps.daemon.ports import ModelPort
from lorad.errors import LoradError, RegistryError, TransientError, describe
from lorad.log import get_logger
from lorad.storage.ledger import Ledger
from lorad.track import Track

log = get_logger()


class ServedVersions:
    """Brings ``latest`` of every track into memory, or what stands in for it."""

    def __init__(
        self, *, tracks: Mapping[str, Track], ledger: Ledger, models: ModelPort, attempts: Attempts
    ) -> None:
        self._tracks = tracks
        self._ledger = ledger
        self._models = models
        self._attempts = attempts
        self._waiting: set[str] = set()
        """Tracks whose newest version could not be brought into memory yet."""
        self._slow: set[str] = set()
        """Tracks that answer slower than they could while memory is short."""

    def serve_all(self, ticks: float) -> None:
        """Serve every track's newest intact version, as after a start; what cannot be loaded now is tried later."""
        self._waiting.update(self._tracks)
        self.serve_waiting(ticks)

    def serve_waiting(self, ticks: float) -> None:
        """Try again what could not be brought into memory."""
        for name in sorted(self._waiting):
            self._attempts.attempt(("serve", name), ticks, partial(self.serve_newest, self._tracks[name]))
        for name in sorted(self._slow - self._waiting):
            self._attempts.attempt(("merge", name), ticks, partial(self._serve_faster, self._tracks[name]))

    def serve(self, track: Track, version: str | None) -> None:
        """Answer from this version; until that has gone well ``serve_waiting`` tries what is ``latest`` then."""
        self._waiting.add(track.name)
        why = self._models.serve(track, version)
        self._waiting.discard(track.name)
        self._attempts.end(("merge", track.name))
        self._slow.discard(track.name)
        if why:
            self._slow.add(track.name)

    def _serve_faster(self, track: Track) -> None:
        """Try again what memory was too short for at the swap, when two versions were held."""
        if why := self._models.serve_faster(track):
            raise TransientError(f"{track.name} answers slower than it could: {why}", code="memory")
        self._slow.discard(track.name)

    def serve_newest(self, track: Track) -> None:
        """Serve ``latest`` or what stands in for it; the base, when there is neither."""
        registry = track.registry
        refused: set[str] = set()
        while version := registry.newest_intact(self._models.fingerprint(track), refused):
            try:
                self.serve(track, version)
            except RegistryError as error:
                refused.add(version)
                if error.is_damage:
                    registry.mark_corrupt(version)
                log.warning("version_refused", track=track.name, **error.as_dict())
            else:
                if version != registry.latest:
                    registry.rollback(version)
                    log.warning("serving_older", track=track.name, version=version)
                return
        self._waiting.discard(track.name)
        if registry.latest:
            log.error("no_version_serves", track=track.name, answers="base")

    def swap(self, track: Track, version: str) -> LoradError | None:
        """Serve a version, now or later; return what speaks against it, if anything does."""
        try:
            self.serve(track, version)
        except (TransientError, OSError, MemoryError) as error:  # short memory: the version is not to blame
            log.warning("serving_later", track=track.name, version=version, **describe(error))
        except LoradError as error:
            return error
        return None

    def retreat(self, track: Track, version: str, error: LoradError, now: float) -> None:
        """Go back to the newest intact version: this one cannot serve."""
        registry = track.registry
        if isinstance(error, RegistryError) and error.is_damage:  # whatever else is wrong, the version is not
            registry.mark_corrupt(version)
        intact = registry.newest_intact(self._models.fingerprint(track), {version})
        if intact:
            registry.rollback(intact)
        self.serve(track, intact)
        facts = {"track": track.name, "version": version, "to": intact, "why": error.message}
        self._ledger.record_event("rolled_back", now, **facts)
        log.error("rolled_back", code=error.code, **facts)

    def put_back(self, track: Track, latest: str | None, previous: str | None) -> None:
        """Undo a rollback that failed half-way; what cannot be undone either is told by the first error."""
        registry = track.registry
        with contextlib.suppress(LoradError, OSError):
            if (registry.latest, registry.previous) != (latest, previous):
                self._waiting.add(track.name)
                registry.put_back(latest, previous)
