"""Materials: the sidecar. ``NAME.meta.yaml`` says of the dataset file ``NAME`` what the file itself cannot.

What lives here: its keys, reading it, and whether it fits the track. What never does: reading rows (``samples``),
moving files (``inbox``).
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from lorad.config import Section, TrackName
from lorad.domain import digest
from lorad.errors import SampleError
from lorad.source import Source, opened

SUFFIX = ".meta.yaml"

#: Tasks whose examples have labels.
LABELLED = ("tagging", "classify")

#: Bytes; a sidecar is a few lines.
LARGEST = 64_000

#: Bytes that file systems allow a name.
LONGEST_NAME = 255


class Sidecar(Section):
    """What a person says of a dataset file."""

    track: TrackName | None = None
    """The track that learns it, whatever folder it lies in."""
    task: str | None = None
    """The task that its rows are for; only a check, because a track has one task."""
    fields: dict[str, str] = Field(default_factory=dict)
    """lorad's name of a field -> the file's; fields that are not named here are left out."""
    labels: Annotated[tuple[str, ...], Field(max_length=10_000)] = ()
    """Names of the labels that the file numbers."""
    description: Annotated[str, Field(max_length=2000)] = ""
    """For people; kept in the ledger."""

    def fit(self, name: str, track: str, task: str, tracks: Sequence[str]) -> None:
        """Require that a track can do what is asked; raise ``SampleError``."""
        if self.track is not None and self.track not in tracks:
            raise _wrong(name, f"there is no track {self.track}; there is: {', '.join(tracks)}")
        if self.task not in (None, task):
            raise _wrong(
                name,
                f"task: the track {track} learns {task}, not {self.task}; name another track or leave it out",
            )
        self.fit_labels(name, task)

    def fit_task(self, name: str, task: str) -> None:
        """Require that a file can be read for a task, whatever the track; raise ``SampleError``."""
        if self.task not in (None, task):
            raise _wrong(
                name, f"task: the file is for {self.task}, not {task}; read it for that task, or correct it"
            )
        self.fit_labels(name, task)

    def fit_labels(self, name: str, task: str) -> None:
        """Require that a task has labels if any are named; raise ``SampleError``."""
        if self.labels and task not in LABELLED:
            raise _wrong(name, f"labels: {task} has no labels; leave them out")
        if len(set(self.labels)) < len(self.labels):
            raise _wrong(name, "labels: a name stands twice; each number needs its own")
        # in a table a number is text as well, and would be the name and not the place
        for place, label in enumerate(self.labels):
            if label.strip().isdecimal() and int(label) != place:
                raise _wrong(
                    name,
                    f"labels: the label of number {place} is called {label}, another number; name it in words",
                )


class _Unique(yaml.SafeLoader):
    """YAML in which a key that stands twice is a mistake and not the last one's."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.YAMLError(f"the key {key.value!r} stands twice")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


def companion(name: str, suffix: str) -> str:
    """Return the name of what lies beside a file; a name too long to take the suffix is told by its digest."""
    if len(name.encode(errors="replace")) + len(suffix) <= LONGEST_NAME:
        return f"{name}{suffix}"
    return f"{digest(name.encode(errors='replace').decode())[:32]}{suffix}"


def path_of(file: Path) -> Path:
    """Return where a file's sidecar lies, if it has one."""
    return file.with_name(companion(file.name, SUFFIX))


def beside(file: Path, reads: Callable[[Source], Sidecar] | None = None) -> Sidecar:
    """Read a file's sidecar, an empty one where there is none; raise ``SampleError``, also for what is no plain file.

    ``reads`` does it elsewhere than in this process.
    """
    try:
        with opened(path_of(file)) as source:
            return (reads or read)(source)
    except FileNotFoundError:
        return Sidecar()


def read(source: Source) -> Sidecar:
    """Read a sidecar; raise ``SampleError``."""
    with source.open() as stream:
        written = stream.read(LARGEST + 1)
    if len(written) > LARGEST:
        raise _wrong(source.name, f"it has {source.size} bytes, more than {LARGEST}")
    try:
        data = yaml.load(written.decode(), _Unique)  # noqa: S506 - a SafeLoader
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise _wrong(source.name, f"it is not YAML: {' '.join(str(error).split())}") from None
    try:
        return Sidecar.model_validate({} if data is None else data)
    except ValidationError as error:
        raise _wrong(source.name, "; ".join(_explain(problem) for problem in error.errors()[:20])) from None


def line(fields: Mapping[str, str]) -> str:
    """Return the line of a sidecar that names fields, as ``beside`` reads it."""
    written = yaml.safe_dump(
        dict(fields), default_flow_style=True, sort_keys=False, allow_unicode=True, width=LARGEST
    )
    return f"fields: {written.strip()}"


def _explain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{where or 'the whole'}: {problem['msg']}"
    known = sorted(Sidecar.model_fields)
    near = difflib.get_close_matches(where, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"there is no key {where}; {hint}"


def _wrong(name: str, why: str) -> SampleError:
    return SampleError(f"{name}: {why}. Correct it and drop both files again, it first", code="sidecar")
