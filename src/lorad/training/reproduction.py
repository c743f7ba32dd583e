"""Making a version once more, from its papers and memory, and comparing.

What lives here: rebuilding a session's specification and rows, and saying how equal two candidates are. What never does: training
(``session``), changing versions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorad import records
from lorad.config import TrainingSettings
from lorad.errors import RegistryError
from lorad.models import adapters, version_weights
from lorad.records import SessionSpec
from lorad.storage import files
from lorad.storage.memory import Recalled
from lorad.track import Track
from lorad.training.run_folder import RunFolder
from lorad.versions import loader, papers
from lorad.versions.store import Registry

MOST_SECONDS = 31_536_000.0
"""A person waits for it, and ends it if it takes too long."""
TOLERANCE = 0.005
"""Of the share of right answers, where bit-equality cannot be expected: other packages, another device (seed 001)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How a version that was made again compares with the first one."""

    largest_difference: float
    """Of any number of the two adapters; infinite when they differ in shape."""
    first: float
    """Share of right answers over all rows of the session."""
    again: float
    changed: tuple[str, ...]
    """What differs between the environments."""
    processes: int = 1
    """Which trained the first one together, and so the second one."""
    is_deterministic: bool = True
    """Whether the device adds up in the same order each time; a graphics card does not."""

    @property
    def is_equal(self) -> bool:
        """Tell whether the two are bit-equal."""
        return self.largest_difference == 0

    @property
    def is_close(self) -> bool:
        """Tell whether they agree within the tolerance; on a processor, in the same environment, only equality will do."""
        may_differ = bool(self.changed) or not self.is_deterministic
        return self.is_equal or (may_differ and round(abs(self.first - self.again), 6) <= TOLERANCE)


def prepare(track: Track, version: str, folder: RunFolder) -> SessionSpec:
    """Write the request that made a version into a fresh folder; raise ``RegistryError`` when something is gone."""
    told = _papers(track.registry, version)
    spec = records.restore(SessionSpec, told["order"])
    parent = None
    if spec.parent_version and spec.parent:
        parent = str(_parent(track.registry, spec.parent_version, version))
    spec = _at(spec, str(track.base), parent)
    new = track.memory.named(told["materials"]["new"])
    right = dict(told["materials"]["old"])
    old = track.memory.named(list(right))
    gone = len(told["materials"]["new"]) + len(right) - len(new) - len(old)
    if gone:
        raise RegistryError(
            f"{gone} of the examples that made {version} were forgotten since; it cannot be made again",
            code="examples_gone",
            version=version,
        )
    files.remove(folder.path)
    folder.begin(spec, new, [Recalled(example=example, right=right[example.id]) for example in old])
    return spec


def _papers(registry: Registry, version: str) -> dict[str, Any]:
    try:
        told = papers.read_metadata(registry.path(version))
        _ = told["order"]["plan"], told["materials"]["new"], told["materials"]["old"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RegistryError(
            f"{version} has no record of the session that made it; imported versions have none",
            code="no_order",
            version=version,
        ) from error
    return told


def _parent(registry: Registry, parent: str, version: str) -> Path:
    try:
        return registry.verify(parent)
    except RegistryError as error:
        raise RegistryError(
            f"{version} was made on {parent}, which is missing or corrupt: {error.message}",
            code="parent_gone",
            version=version,
        ) from error


def _at(spec: SessionSpec, base: str, parent: str | None) -> SessionSpec:
    """Return the specification for this home: it may have moved, and a copy beside the version is not wanted."""
    own = spec.settings["training"]
    # as many processes as then, for their number decides how sums are rounded; all of them here
    processes = TrainingSettings.model_validate(own).all_processes
    training = own | {
        "merge_adapters_on_save": False,
        "executor": "torchrun" if processes > 1 else "local",
        "processes": processes,
        "nodes": 1,
    }
    # its facts are not measured again: they hang on an encoder, which may be elsewhere now; and the track's files stay as they are
    settings = spec.settings | {"training": training, "answering": None, "lower_states": None}
    return records.restore(
        SessionSpec, records.as_json(spec) | {"base": base, "parent": parent, "settings": settings}
    )


def training(spec: SessionSpec, nice: int) -> TrainingSettings:
    """Return the settings with which to run a session again: as ``nice``, and as long as it takes."""
    asked = TrainingSettings.model_validate(spec.settings["training"])
    return asked.model_copy(update={"nice": nice, "max_seconds": MOST_SECONDS})


def compare(registry: Registry, version: str, folder: RunFolder) -> Comparison:
    """Compare a version with what its specification made the second time."""
    first, again = registry.path(version), folder.candidate
    rights = [_share([*papers.read_result(place).right.values()]) for place in (first, again)]
    told, now = _papers(registry, version), papers.read_metadata(again)
    return Comparison(
        largest_difference=adapters.difference(version_weights.read(first), version_weights.read(again)),
        first=rights[0],
        again=rights[1],
        changed=tuple(loader.compare(told["framework"], now["framework"])),
        processes=now["reproducibility"]["processes"],
        is_deterministic=now["reproducibility"]["deterministic"],
    )


def _share(answers: Sequence[bool]) -> float:
    return sum(answers) / max(1, len(answers))
