"""The sidecar. ``NAME.meta.yaml`` says of the dataset file ``NAME`` what the file itself cannot.

What lives here: its keys, reading it, and whether it fits the track. What never does: reading rows (``reader``),
moving files (``inbox``).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, ValidationError

from lorad.config import Section, SplitMethod, TrackName
from lorad.errors import SampleError, did_you_mean
from lorad.records import DATE, FORMATS_OF, LABELLED, RETRIEVAL, digest
from lorad.storage.source import Source, opened

META, WORDINGS = SUFFIXES = (".meta.yaml", ".wordings.json")
"""What lies beside a dataset and goes with it: what is said of it, and wordings to test with (``other_wordings``)."""

#: Bytes; a sidecar is a few lines.
LARGEST = 64_000

#: Values in a sidecar, and levels of lists and mappings in one another: twice what its keys need.
MOST_VALUES, DEEPEST = 20_000, 6

#: Bytes that file systems allow a name.
LONGEST_NAME = 255

#: Characters of a text that a reason shows, and of what PyYAML says.
LONGEST_SHOWN, _LONGEST_REASON = 60, 500

#: What no name of a field and no description needs: control characters and halves of characters.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")

#: The name of a field or a label.
_Text = Annotated[str, Field(max_length=1000)]


class Sidecar(Section):
    """What a person says of a dataset file."""

    track: TrackName | None = None
    """The track that learns it, whatever folder it lies in."""
    task: Annotated[_Text | None, AfterValidator(lambda task: FORMATS_OF.get(task, task))] = None
    """The task that its rows are for, by its own name or its rows'; only a check, because a track has one task."""
    fields: dict[_Text, _Text] = Field(default_factory=dict)
    """lorad's name of a field -> the file's; fields that are not named here are left out."""
    labels: Annotated[tuple[_Text, ...], Field(max_length=10_000)] = ()
    """Names of the labels that the file numbers."""
    description: Annotated[str, Field(max_length=2000)] = ""
    """For people; kept in the ledger."""
    tags: Annotated[tuple[_Text, ...], Field(max_length=100)] = ()
    """Of the file's documents, by which a search may choose among them."""
    date: Annotated[str, Field(pattern=DATE)] = ""
    """The same: YYYY-MM-DD or its beginning, in quotes."""
    split: SplitMethod | None = None
    """How the file's documents are divided; their track's lengths, and its pattern for ``regex``, hold."""

    def fit(self, name: str, track: str, task: str, tracks: Sequence[str]) -> None:
        """Require that a track can do what is asked; raise ``SampleError``."""
        if self.track is not None and self.track not in tracks:
            raise _wrong(name, f"there is no track {self.track}; there is: {', '.join(tracks)}")
        if self.task not in (None, task):
            raise _wrong(
                name,
                f"task: the track {track} learns {task}, not {self.task}; name another track or leave it out",
            )
        self._fit_rest(name, task)

    def fit_task(self, name: str, task: str) -> None:
        """Require that a file can be read for a task, whatever the track; raise ``SampleError``."""
        if self.task not in (None, task):
            raise _wrong(
                name, f"task: the file is for {self.task}, not {task}; read it for that task, or correct it"
            )
        self._fit_rest(name, task)

    def _fit_rest(self, name: str, task: str) -> None:
        self.fit_labels(name, task)
        if (self.tags or self.date or self.split) and task != RETRIEVAL:
            raise _wrong(
                name, f"tags, date and split: these are for documents, and not for {task}; leave them out"
            )

    def fit_labels(self, name: str, task: str) -> None:
        """Require that a task has labels if any are named; raise ``SampleError``."""
        if self.labels and task not in LABELLED:
            raise _wrong(name, f"labels: {task} has no labels; leave them out")
        if len(set(self.labels)) < len(self.labels):
            raise _wrong(name, "labels: a name appears twice; each number needs its own")
        # in a table a number is text as well, and would be the name and not the place
        for place, label in enumerate(self.labels):
            if label.strip().isdecimal() and int(label) != place:
                raise _wrong(
                    name,
                    f"labels: the label of number {place} is called {label}, another number; name it in words",
                )


class _Plain(yaml.SafeLoader):
    """YAML of texts, lists and mappings alone: what it makes of a document is never larger than the document.

    Tags make values of any type, and some of them from nothing; anchors and merge keys make a gigabyte of a kilobyte.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call] # PyYAML's stubs leave it so
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise yaml.YAMLError("it has an anchor or an alias (& or *); write out what they stand for")
        if event.tag is not None:
            raise yaml.YAMLError(
                f"it has the tag {event.tag[:LONGEST_SHOWN]}; write plain values without tags"
            )
        self._nodes += 1
        self._depth += 1
        if self._nodes > MOST_VALUES:
            raise yaml.YAMLError(f"it holds more than {MOST_VALUES} values")
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _value(node: yaml.Node, where: str = "") -> Any:
    """Return what a node says; raise ``YAMLError`` for what is neither text, list, mapping nor nothing."""
    if isinstance(node, yaml.SequenceNode):
        return [_value(each, f"{where}[{at}]") for at, each in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, where)
    kind = node.tag.rpartition(":")[2]
    if kind == "null":
        return None
    if kind != "str":
        raise yaml.YAMLError(
            f"{where or 'the document'}: YAML reads {shown(node.value)} as {kind}; put quotes around it"
        )
    if _UNPRINTABLE.search(node.value):
        raise yaml.YAMLError(
            f"{where or 'the document'}: {shown(node.value)} holds a control character; remove it"
        )
    return node.value


def _mapping(node: yaml.MappingNode, where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = _value(key_node, where)
        if not isinstance(key, str):
            raise yaml.YAMLError(f"{where or 'the document'}: a key must be a text")
        if key in found:
            raise yaml.YAMLError(f"the key {shown(key)} appears twice")
        found[key] = _value(value_node, f"{where}.{key}" if where else key)
    return found


def shown(text: str) -> str:
    """Return a text as it may be shown: in quotes, printable, and its beginning if it is long."""
    cut = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
    return repr(cut)


def companion(name: str, suffix: str) -> str:
    """Return the name of what lies beside a file; a name too long to take the suffix is told by its digest."""
    if len(name.encode(errors="replace")) + len(suffix) <= LONGEST_NAME:
        return f"{name}{suffix}"
    return f"{digest(name.encode(errors='replace').decode())[:32]}{suffix}"


def path_of(file: Path, suffix: str = META) -> Path:
    """Return where a file's sidecar lies, if it has one."""
    return file.with_name(companion(file.name, suffix))


def paths_of(file: Path) -> tuple[Path, ...]:
    """Return where a file's sidecars lie, if it has any."""
    return tuple(path_of(file, suffix) for suffix in SUFFIXES)


def file_of(name: str) -> str:
    """Return the name of the file that a sidecar's name names."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def beside(file: Path) -> Sidecar:
    """Read a file's sidecar, an empty one where there is none; raise ``SampleError``, also for what is no plain file."""
    try:
        with opened(path_of(file)) as source:
            return read(source)
    except FileNotFoundError:
        return Sidecar()


def read(source: Source) -> Sidecar:
    """Read a sidecar; raise ``SampleError``."""
    with source.open() as stream:
        return parse(source.name, stream.read(LARGEST + 1))


def parse(name: str, content: bytes) -> Sidecar:
    """Return what the bytes of a sidecar say; raise ``SampleError`` whatever is wrong with them."""
    if len(content) > LARGEST:
        raise _wrong(name, f"it has more than {LARGEST} bytes")
    try:
        loader = _Plain(content.decode())
        node = loader.get_single_node()
        data = {} if node is None else _value(node)
    except Exception as error:  # noqa: BLE001 - PyYAML lets any exception of Python's out, and it is this file's end
        raise _wrong(name, f"it is not YAML that can be read: {_told(error)}") from None
    try:
        return Sidecar.model_validate({} if data is None else data)
    except ValidationError as error:
        raise _wrong(name, "; ".join(_explain(problem) for problem in error.errors()[:20])) from None


def _told(error: Exception) -> str:
    told = " ".join(str(error)[:_LONGEST_REASON].split()) or type(error).__name__
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in told)


def line(fields: Mapping[str, str]) -> str:
    """Return the line of a sidecar that names fields, as ``beside`` reads it."""
    written = yaml.safe_dump(
        dict(fields), default_flow_style=True, sort_keys=False, allow_unicode=True, width=LARGEST
    )
    return f"fields: {written.strip()}"


def _explain(problem: Any) -> str:
    where = ".".join(shown(str(part))[1:-1] for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{where or 'the document'}: {problem['msg']}"
    known = sorted(Sidecar.model_fields)
    hint = did_you_mean(where, known, f"known: {', '.join(known)}")
    return f"there is no key {where}; {hint}"


def _wrong(name: str, why: str) -> SampleError:
    return SampleError(
        f"{name}: {why}. Correct it and drop both files again, the sidecar first", code="sidecar"
    )
