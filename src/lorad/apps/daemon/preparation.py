"""From a queued job to what its session is asked.

What lives here: the parent, the new examples and the old ones, the plan. What never does: starting the session
(``sessions``), choosing ranks and rates (``planner``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorad.apps.daemon import origins
from lorad.apps.daemon.ports import ModelPort
from lorad.config import Settings
from lorad.errors import RegistryError, TrainingError
from lorad.evaluation import judge
from lorad.models import embedders, lower_states
from lorad.records import SCRATCH, Example, Job, Plan, SessionSpec
from lorad.retrieval import remembered
from lorad.storage.ledger import Ledger
from lorad.storage.memory import Recalled
from lorad.track import Track
from lorad.training import remaining, run_folder
from lorad.training.run_folder import RunFolder
from lorad.versions import papers

NOTHING_TO_GAIN = "nothing_to_consolidate"
"""The code of a consolidation that was refused before it began: it was not tried."""


@dataclass(frozen=True, slots=True)
class Materials:
    """What a session learns, and what it must not forget."""

    new: list[Example]
    old: list[Recalled]


class Preparation:
    """Writes the requests of sessions."""

    def __init__(self, settings: Settings, models: ModelPort, ledger: Ledger) -> None:
        self._settings = settings
        self._models = models
        self._ledger = ledger

    def prepare(self, track: Track, job: Job) -> RunFolder:
        """Write what a job's session is asked; raise ``TrainingError`` when there is nothing to ask."""
        parent = track.registry.newest_intact(self._models.fingerprint(track))
        found = _of_parent(track, parent, materials(track, job, track.registry.lineage(parent)))
        _require_something(job, found, parent)
        grown_from = parent if job.kind != "refit" else None
        spec = SessionSpec(
            job=job.id,
            track=track.name,
            task=track.settings.task,
            kind=job.kind,
            dataset=job.dataset,
            base=str(track.base),
            parent=str(track.registry.path(grown_from)) if grown_from else None,
            parent_version=parent,
            plan=self._plan(track, job, parent, found),
            settings={
                "training": self._settings.training.model_dump(),
                "judge": self._settings.judge.model_dump(),
                "answering": self._answering(track),
                "lower_states": str(track.registry.folder / lower_states.FOLDER / lower_states.FILE),
                "pace": _pace(track, parent, found, job.kind),
                **self._pretraining(track),
                **self._imported(track, grown_from),
                "resolved": self._settings.model_dump(mode="json"),
            },
        )
        folder = run_folder.of_job(track, job.id)
        folder.begin(spec, found.new, found.old)
        return folder

    def _plan(self, track: Track, job: Job, parent: str | None, found: Materials) -> Plan:
        """Return the job's plan; a consolidation halves the rank, but for one that is about drift alone."""
        decided = self._models.plan(
            track,
            found.new or [item.example for item in found.old],
            self._overrides(track, job, parent),
            self._drift(track, parent if job.kind != "refit" else None),
        )
        is_halved = job.kind == "consolidate" and not job.settings.get(Job.FOR_DRIFT)
        return replace(decided, max_rank=decided.max_rank // 2) if is_halved else decided

    def _pretraining(self, track: Track) -> dict[str, Any]:
        """Return how a whole model is trained; nothing for adapters, whose requests stay what they were."""
        is_scratch = track.settings.base == SCRATCH
        return {"pretraining": self._settings.pretraining.model_dump()} if is_scratch else {}

    def _imported(self, track: Track, parent: str | None) -> dict[str, Any]:
        """Return the version from outside that the parent carries on; nothing where there is none, so that requests stay what they were."""
        found = origins.imported(track, self._ledger, parent)
        return {"imported": found} if found else {}

    def _answering(self, track: Track) -> dict[str, Any]:
        """Return how the candidate is to be asked for its facts: as it will be served."""
        asked = self._settings.answering
        is_found = asked.retrieve and track.settings.base != SCRATCH  # whose text answers no questions
        encoder = embedders.chosen(track.base.parent, asked.embedder) if is_found else None
        return {
            "settings": self._settings.answering.model_dump(),
            "encoder": str(encoder) if encoder else None,
            "remembered": str(track.registry.folder / lower_states.FOLDER / remembered.FILE),
        }

    def _drift(self, track: Track, parent: str | None) -> float:
        return judge.drift(track.registry.result(parent).evaluation, self._settings.judge) if parent else 0.0

    def _overrides(self, track: Track, job: Job, parent: str | None) -> dict[str, Any]:
        """Return the settings of the job's own, and those that consolidating needs."""
        own = {
            key: value
            for key, value in job.settings.items()
            if key not in {"drop", Job.NIGHTLY, Job.FOR_DRIFT}
        }
        if job.kind == "refit" and track.settings.base == SCRATCH:  # from random weights again
            return {"learning_rate": self._settings.pretraining.learning_rate, **own}
        if job.kind != "consolidate":
            return own
        if not job.settings.get(Job.FOR_DRIFT):
            self._require_gain(track, parent)
        # what mends a truncation is small, or nothing would be gained
        rank = max(1, self._settings.training.max_rank // 8)
        return {"rank": rank, "alpha": 2 * rank, **own}

    def _require_gain(self, track: Track, parent: str | None) -> None:
        """Raise ``TrainingError`` where an adapter is neither large nor has drifted."""
        limit = self._settings.training.max_rank // 2
        drift = self._drift(track, parent)
        asked = self._settings.training.consolidate_at_drift
        is_drifted = drift >= asked if asked else drift > 0
        if parent and track.registry.rank(parent) <= limit and not is_drifted:
            raise TrainingError(
                f"{parent} has rank {track.registry.rank(parent)}, no more than {limit} (half of training.max_rank), and has used up "
                f"{drift:.0%} of what perplexity may rise: there is nothing to gain; use --refit to learn everything again",
                code=NOTHING_TO_GAIN,
            )


def _pace(track: Track, parent: str | None, found: Materials, kind: str) -> dict[str, float]:
    """Return how long the parts of this session are expected to take, by the papers of the newest version that learned."""
    for version in track.registry.lineage(parent):
        try:
            told = papers.read_metadata(track.registry.path(version))
        except (OSError, ValueError, RegistryError):
            return {}
        is_of_learning = bool((told.get("materials") or {}).get("new"))
        if is_of_learning or kind == "refit":  # what a consolidation takes tells little of what learning does
            return remaining.expected(told, len(found.new), len(found.new) + len(found.old), kind)
    return {}


def materials(track: Track, job: Job, lineage: Sequence[str]) -> Materials:
    """Return a job's new examples, and the old ones that its answers do not replace."""
    new: list[Example] = []
    if job.kind == "learn":
        new = track.memory.of_drop(job.dataset, int(job.settings.get("drop", 0)))
    answered = {example.input_id for example in new}
    ids = {example.id for example in new}
    learned = track.memory.learned(lineage)
    old = [item for item in learned if item.example.input_id not in answered and item.example.id not in ids]
    return Materials(new, old)


def _of_parent(track: Track, parent: str | None, found: Materials) -> Materials:
    """Return the materials with what the parent itself recalled: memory tells of the version that was tested last."""
    right = track.registry.result(parent).right if parent else {}
    return replace(
        found, old=[replace(item, right=right.get(item.example.id, item.right)) for item in found.old]
    )


def _require_something(job: Job, found: Materials, parent: str | None) -> None:
    if job.kind == "learn" and not found.new:
        raise TrainingError(
            "nothing is left to learn from this drop; it was forgotten or replaced", code="nothing_new"
        )
    if job.kind != "learn" and not found.old:
        instead = (
            "serve the base with: lorad rollback --to base"
            if parent
            else "drop the files again, or go back to a version: lorad versions"
        )
        raise TrainingError(
            "no example in memory belongs to the serving version, so there is nothing to learn; " + instead,
            code="nothing_learned",
        )
