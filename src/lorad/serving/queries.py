"""What a home has recorded, as the socket and the command line show it.

What lives here: jobs, versions, memory, retention and events, read from the database and the versions' own papers.
What never does: changing any of it, models.

The daemon answers from this. Where none runs, whoever may read the home's files is told the same from them, for
that is when people ask why.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lorad import records
from lorad.config import Settings
from lorad.errors import ConfigError, ProtocolError, RegistryError
from lorad.evaluation.retention import tabulate
from lorad.home import Home
from lorad.records import Example, as_line
from lorad.storage.database import Database
from lorad.storage.ledger import EVENTS_KEPT, LARGEST, Ledger
from lorad.storage.memory import Memory
from lorad.versions import papers
from lorad.versions.store import Registry

EVENTS_TOLD = 50
"""Events that are told to whoever does not say since when."""
_CANDIDATE = re.compile(r"job-[0-9]{1,19}")
PAGE = 1000
"""Examples that are read at once, and that one answer may hold."""


class Archive:
    """The records of every track of a home."""

    def __init__(self, registries: Mapping[str, Registry], ledger: Ledger, memory: Memory) -> None:
        self._registries = registries
        self._ledger = ledger
        self._memory = memory

    def registry(self, track: str) -> Registry:
        """Return a track's versions; raise ``ProtocolError`` (404) when there is no such track."""
        if track not in self._registries:
            raise ProtocolError(
                f"there is no track {track!r}; known: {', '.join(self._registries)}",
                status=404,
                code="no_such_track",
            )
        return self._registries[track]

    def jobs(self) -> dict[str, Any]:
        """Return all jobs, newest first."""
        return {"jobs": [records.as_json(job) for job in self._ledger.jobs()]}

    def job(self, job: int) -> dict[str, Any]:
        """Return a job with the report of the file that it learns; what was forgotten since is not in it."""
        found = self._ledger.job(job)
        number = found.settings.get("drop")
        if not isinstance(number, int):
            return records.as_json(found) | {"drop": None}
        drop: dict[str, Any] = records.as_json(self._ledger.drop(number))
        if replaced := drop["reason"].get("replaced"):
            examples = self._memory.named(found.track, replaced)
            drop["reason"]["replaced"] = [tell(e) | {"dataset": e.dataset} for e in examples]
        return records.as_json(found) | {"drop": drop}

    def versions(self, track: str) -> dict[str, Any]:
        """Return a track's versions and their roles; which of them serves, only a daemon can add."""
        tracker = self.registry(track).tracker.read()
        roles = {role: tracker[role] for role in ("latest", "previous")}
        return {"track": track, **roles, "serving": None, "versions": tracker["checkpoints"]}

    def version(self, track: str, version: str) -> dict[str, Any]:
        """Return all that is kept about a version."""
        registry = self.registry(track)
        roles = {"latest": registry.latest, "previous": registry.previous}
        return {"track": track, **roles, "serving": None, **registry.describe(version)}

    def explain(self, track: str, version: str) -> dict[str, Any]:
        """Return why a version was promoted, or why a rejected job (``job-N``) was not."""
        registry = self.registry(track)
        if version.startswith("job-"):
            folder = registry.rejected / version / papers.CANDIDATE
            if not _CANDIDATE.fullmatch(version) or not (folder / papers.EVALUATION).is_file():
                raise ProtocolError(
                    f"there is no rejected candidate {version}", status=404, code="no_such_version"
                )
            result = papers.read_evaluation(folder)
        else:
            version = registry.resolve(version)
            result = registry.evaluation(version)
        return {
            "version": version,
            "promoted": not version.startswith("job-"),
            **result["verdict"],
            "evaluation": result["evaluation"],
        }

    def memory(self, track: str) -> dict[str, Any]:
        """Return the datasets in memory."""
        return {"datasets": self._memory.datasets(track, self._lineage(track))}

    def page(self, track: str, dataset: str | None, after: int, limit: int = PAGE) -> dict[str, Any]:
        """Return a page of memory's examples."""
        return {"examples": self._memory.page(track, dataset, _place(after), limit, self._lineage(track))}

    def examples(self, track: str, dataset: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield every example in memory, or one dataset's, as rows to export."""
        after = 0
        while page := self.page(track, dataset, after)["examples"]:
            yield from page
            after = page[-1]["provenance"]["row"]

    def retention(self, track: str) -> dict[str, Any]:
        """Return the matrix of every version on every dataset, and its four numbers."""
        registry = self.registry(track)
        rows = []
        for version in reversed(self._lineage(track)):
            with contextlib.suppress(RegistryError):
                rows.append((version, registry.evaluation(version)["evaluation"]))
        return tabulate(rows)

    def diff(self, track: str, a: str, b: str) -> dict[str, Any]:
        """Return the examples that one version answers right and the other does not."""
        registry = self.registry(track)
        a, b = registry.resolve(a), registry.resolve(b)
        right_a, right_b = registry.evaluation(a)["right"], registry.evaluation(b)["right"]
        differing = [name for name, right in right_a.items() if right_b.get(name, right) != right]
        changed = [
            {"dataset": e.dataset, **tell(e), "a_right": right_a[e.id], "b_right": right_b[e.id]}
            for e in self._memory.named(track, differing)
        ]
        return {"a": a, "b": b, "changed": changed}

    def events(self, after: int | None = None) -> dict[str, Any]:
        """Return all events after an id, or the newest, oldest first."""
        limit = EVENTS_TOLD if after is None else EVENTS_KEPT
        return {"events": self._ledger.events(after=_place(after or 0), limit=limit)}

    def _lineage(self, track: str) -> list[str]:
        registry = self.registry(track)
        return registry.lineage(registry.latest)


def _place(after: int) -> int:
    """Return a place that the database can count to, behind as many records: nothing has another number."""
    return max(0, min(after, LARGEST))


def tell(example: Example) -> dict[str, Any]:
    """Return an example's question and answer as people read them."""
    return {"question": as_line(example.input), "answer": as_line(example.target)}


@contextlib.contextmanager
def read(home: Home, settings: Settings) -> Iterator[Archive]:
    """Lend the archive of a home whose daemon does not run; nothing in the home is changed.

    Raise ``RegistryError`` when the database is damaged or of another lorad, ``ConfigError`` where others may not read.
    """
    if not os.access(home.models, os.R_OK | os.X_OK):
        raise ConfigError(
            f"you may not read {home.models}; its owner and its group may: ls -ld {home.models}",
            code="no_access",
        )
    database = Database(home.database, is_read_only=True) if home.database.exists() else Database(":memory:")
    registries = {name: Registry(home.track(name)) for name in settings.tracks}
    try:
        yield Archive(registries, Ledger(database), Memory(database))
    finally:
        database.close()
