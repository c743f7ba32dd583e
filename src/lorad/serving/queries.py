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
from dataclasses import replace
from typing import Any, TypeVar

from lorad.config import JudgeSettings, Settings
from lorad.errors import ConfigError, ProtocolError, RegistryError
from lorad.evaluation import judge
from lorad.evaluation.retention import tabulate
from lorad.home import Home
from lorad.records import Example, Verdict, as_line
from lorad.serving import record_json
from lorad.serving.answers import (
    ChangedAnswer,
    DatasetCounts,
    Datasets,
    Difference,
    Event,
    Events,
    ExamplesPage,
    Explanation,
    Jobs,
    JobWithFile,
    RetentionMatrix,
    ShownExample,
    VersionEntry,
    VersionPapers,
    Versions,
)
from lorad.states import VersionState
from lorad.storage.database import Database
from lorad.storage.ledger import EVENTS_KEPT, LARGEST, Ledger
from lorad.track import Track, open_tracks
from lorad.versions import papers
from lorad.versions.store import Registry

T = TypeVar("T")

EVENTS_TOLD = 50
"""Events that are told to whoever does not say since when."""
_CANDIDATE = re.compile(r"job-[0-9]{1,19}")
PAGE = 1000
"""Examples that are read at once, and that one answer may hold."""


class Archive:
    """The records of every track of a home."""

    def __init__(self, tracks: Mapping[str, Track], ledger: Ledger, limits: JudgeSettings) -> None:
        self._tracks = tracks
        self._ledger = ledger
        self._limits = limits
        """What a candidate must prove today; what was decided stays."""

    def track(self, name: str) -> Track:
        """Return a track; raise ``ProtocolError`` (404) when there is none of this name."""
        if name not in self._tracks:
            raise ProtocolError(
                f"there is no track {name!r}; known: {', '.join(self._tracks)}",
                status=404,
                code="no_such_track",
            )
        return self._tracks[name]

    def jobs(self) -> Jobs:
        """Return all jobs, newest first."""
        return Jobs(jobs=tuple(self._ledger.jobs()))

    def job(self, job: int) -> JobWithFile:
        """Return a job with the report of the file that it learns; what was forgotten since is not in it."""
        found = self._ledger.job(job)
        number = found.settings.get("drop")
        drop = self._ledger.drop(number) if isinstance(number, int) else None
        if drop and (replaced := drop.reason.get("replaced")):
            examples = self._tracks[found.track].memory.named(replaced)
            shown = [record_json.as_json(show(example)) for example in examples]
            drop = replace(drop, reason=drop.reason | {"replaced": shown})
        return JobWithFile(**record_json.fields_of(found), drop=drop)

    def versions(self, track: str) -> Versions:
        """Return a track's versions and their roles; which of them serves, only a daemon can add."""
        tracker = self.track(track).registry.tracker.read()
        return Versions(
            track=track,
            latest=tracker["latest"],
            previous=tracker["previous"],
            versions=tuple(_entry(stored) for stored in tracker["checkpoints"]),
        )

    def version(self, track: str, version: str) -> VersionPapers:
        """Return all that is kept about a version."""
        registry = self.track(track).registry
        roles = {"track": track, "latest": registry.latest, "previous": registry.previous}
        return _papers(VersionPapers, version, {**registry.describe(version), **roles})

    def explain(self, track: str, version: str) -> Explanation:
        """Return why a version was promoted, or why a rejected job (``job-N``) was not."""
        registry = self.track(track).registry
        if version.startswith("job-"):
            folder = registry.rejected / version / papers.CANDIDATE
            is_name = _CANDIDATE.fullmatch(version) is not None
            if not is_name or not (folder / papers.EVALUATION).is_file():
                job = f"lorad jobs {version.removeprefix('job-')}" if is_name else "lorad jobs"
                raise ProtocolError(
                    f"there is no rejected candidate {version}; what became of the job: {job}",
                    status=404,
                    code="no_such_version",
                )
            result = papers.read_evaluation(folder)
        else:
            version = registry.resolve(version)
            result = registry.evaluation(version)
        told = {"version": version, "promoted": not version.startswith("job-")}
        found = _papers(
            Explanation, version, {**result["verdict"], **told, "evaluation": result["evaluation"]}
        )
        return found if _is_imported(registry, version) else replace(found, today=self._today(found))

    def _today(self, found: Explanation) -> Verdict | None:
        """Return what the judge would say today, if it would decide otherwise."""
        if found.evaluation is None:
            return None
        verdict = judge.decide(found.evaluation, self._limits)
        return verdict if verdict.promote != found.promote else None

    def memory(self, track: str) -> Datasets:
        """Return the datasets in memory."""
        return Datasets(datasets=self.datasets(track))

    def datasets(self, track: str) -> tuple[DatasetCounts, ...]:
        """Return what is kept of each dataset, in order of arrival."""
        found = self.track(track)
        counted = found.memory.datasets(found.lineage())
        return tuple(DatasetCounts(**counts) for counts in counted)

    def page(self, track: str, dataset: str | None, after: int, limit: int = PAGE) -> ExamplesPage:
        """Return a page of memory's examples."""
        found = self.track(track)
        rows = found.memory.page(dataset, _place(after), limit, found.lineage())
        return ExamplesPage(examples=tuple(rows))

    def examples(self, track: str, dataset: str | None = None) -> Iterator[Mapping[str, Any]]:
        """Yield every example in memory, or one dataset's, as rows to export."""
        after = 0
        while page := self.page(track, dataset, after).examples:
            yield from page
            after = page[-1]["provenance"]["row"]

    def retention(self, track: str) -> RetentionMatrix:
        """Return the matrix of every version on every dataset and its four numbers, and the same of facts."""
        registry = self.track(track).registry
        rows = []
        for version in reversed(self.track(track).lineage()):
            with contextlib.suppress(RegistryError):
                rows.append((version, registry.evaluation(version)["evaluation"]))
        facts = {"facts_other": tabulate(rows, "other"), "facts_other_served": tabulate(rows, "other_served")}
        measured = {name: found for name, found in facts.items() if found["datasets"]}
        return record_json.read(RetentionMatrix, tabulate(rows) | measured)

    def diff(self, track: str, a: str, b: str) -> Difference:
        """Return the examples that one version answers right and the other does not."""
        registry = self.track(track).registry
        a, b = registry.resolve(a), registry.resolve(b)
        right_a, right_b = registry.evaluation(a)["right"], registry.evaluation(b)["right"]
        differing = [name for name, right in right_a.items() if right_b.get(name, right) != right]
        changed = (
            ChangedAnswer(**record_json.fields_of(show(e)), a_right=right_a[e.id], b_right=right_b[e.id])
            for e in self.track(track).memory.named(differing)
        )
        return Difference(a=a, b=b, changed=tuple(changed))

    def events(self, after: int | None = None) -> Events:
        """Return all events after an id, or the newest, oldest first."""
        limit = EVENTS_TOLD if after is None else EVENTS_KEPT
        return Events(events=self.newest_events(limit, after or 0))

    def newest_events(self, limit: int, after: int = 0) -> tuple[Event, ...]:
        """Return the newest events after an id, oldest first."""
        return tuple(_event(**told) for told in self._ledger.events(after=_place(after), limit=limit))


def _is_imported(registry: Registry, version: str) -> bool:
    """Tell whether a version was imported, so that nobody has judged it."""
    with contextlib.suppress(RegistryError):
        return registry.manifest(version)["job"] is None
    return False


def _place(after: int) -> int:
    """Return a place that the database can count to, behind as many records: nothing has another number."""
    return max(0, min(after, LARGEST))


def show(example: Example) -> ShownExample:
    """Return an example as people read it."""
    return ShownExample(
        question=as_line(example.input), answer=as_line(example.target), dataset=example.dataset
    )


def _event(id: int, at: float, name: str, **data: Any) -> Event:  # noqa: A002 - the field's name
    return Event(id=id, at=at, name=name, data=data)


def _entry(stored: Mapping[str, Any]) -> VersionEntry:
    """Return a version as the tracker has it; one that somebody else has changed must not silence the others."""
    try:
        return record_json.read(VersionEntry, stored)
    except record_json.RecordError as error:
        name, state = str(stored["version"]), VersionState.CORRUPT
        return VersionEntry(version=name, state=state, others={"unreadable": str(error)})


def _papers(kind: type[T], version: str, stored: Mapping[str, Any]) -> T:
    """Return what is kept of a version as a record."""
    try:
        return record_json.read(kind, stored)
    except record_json.RecordError as error:
        raise RegistryError(
            f"the files of {version} are incomplete: {error}",
            code="papers_damaged",
            version=version,
        ) from error


@contextlib.contextmanager
def read(home: Home, settings: Settings) -> Iterator[Archive]:
    """Lend the archive of a home whose daemon does not run; nothing in the home is changed.

    Raise ``RegistryError`` when the database is damaged or of another lorad, ``ConfigError`` where others may not read.
    """
    if not os.access(home.models, os.R_OK | os.X_OK):
        raise ConfigError(
            f"no permission to read {home.models}; its owner and its group have it: ls -ld {home.models}",
            code="no_access",
        )
    database = Database(home.database, is_read_only=True) if home.database.exists() else Database(":memory:")
    try:
        yield Archive(open_tracks(home, settings, database), Ledger(database), settings.judge)
    finally:
        database.close()
