"""Dataset formats. A file in, examples and row problems out.

What lives here: telling the formats of chat apart row by row, and what a file's rows come to. What never does:
containers and encodings (``file_rows``), what a format's fields mean (``pairs``, ``conversations``, ``product_exports``,
``preferences``, for other tasks ``annotations``), touching the inbox, tokenizers or models.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lorad.config import InboxSettings
from lorad.datasets import other_wordings, sidecar, suggestion
from lorad.datasets.containers import file_rows, shapes
from lorad.datasets.containers.file_rows import BadRow, shown
from lorad.datasets.formats import annotations, conversations, pairs, preferences, product_exports, row_values
from lorad.datasets.formats.conversations import IGNORED, REFUSED, Content
from lorad.datasets.formats.pairs import PAIRS
from lorad.datasets.formats.row_values import Row
from lorad.datasets.label_names import LabelNames
from lorad.datasets.other_wordings import HeldOut
from lorad.datasets.spool import Spool
from lorad.errors import SampleError
from lorad.records import Example, RowProblem
from lorad.storage.source import Source, opened
from lorad.storage.strict_json import is_deeper

__all__ = ["PAIRS", "TASKS", "Conversion", "Converted", "Purpose", "Reading", "Rows", "read"]

#: Problems that are told of a file that is refused.
_TOLD = 20
_TOLD_CONTRADICTIONS = 1000

#: Bytes of the contradicted examples that are kept to be told.
_TOLD_BYTES = 10_000_000

#: Characters of a field's name and of a problem that are kept: a file may have many, and a name may be a megabyte.
_LONGEST_FIELD, _LONGEST_MESSAGE = 200, 1000

_EXPANDED = (
    "its {count} examples exceed inbox.max_expanded_row_bytes ({most}), because each answer repeats all turns before it; "
    "split the row"
)

#: Rows of a refused file for which a sidecar is sought.
_SOUGHT = 3

#: Tasks whose formats are read; not all of them need be learned already.
TASKS = ("chat", *annotations.TASKS)

#: The fields of chat that hold questions and answers.
_NAMES = {name for _, *pair in PAIRS for name in pair} | {"messages", "conversations"}

#: Those that an object around a list of rows would not have; it may well name a query.
_OWN = _NAMES - {"query", "answers"}

#: All that a sidecar may name for chat.
_CHAT_FIELDS = _NAMES | {"context", "tools", *conversations.LISTS, *pairs.BESIDE, *preferences.FIELDS}

#: Every name that a row's field is known by, in our spelling.
_SPELLINGS = frozenset(
    {
        *_CHAT_FIELDS,
        *pairs.SHORT,
        *conversations.BESIDE,
        *IGNORED,
        *REFUSED,
        *product_exports.FIELDS,
        *annotations.REMARKS,
        *annotations.REFUSED,
        *(name for names in annotations.FIELDS.values() for name in names),
    }
)


#: Returns an example as a track learns it; raises ``SampleError`` for one that its base could not give back as taught.
Check = Callable[[Example], Example]

#: What is told of answers that ``check`` returned otherwise.
_END_TOKENS = "end tokens behind answers, which lorad writes itself"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Everything that a file said."""

    examples: Sequence[Example]
    """Of each question the latest answer; on disk, however many they are."""
    problems: tuple[RowProblem, ...]
    formats: dict[str, int]
    """Rows by detected format."""
    rows: int
    repeated: int
    """Examples that say the same as an earlier one of the file."""
    contradictions: int
    """Examples whose question a later row of the file answers differently; the later row counts."""
    contradicted: tuple[Example, ...]
    """The first of them."""
    digest: str
    """sha256 over the examples' ids, independent of order and layout."""
    left_out: dict[str, int] = field(default_factory=dict)
    """What of good rows, and of the wordings beside the file, is not learned from: reason -> how often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """What a file is read for: all that decides what its rows come to, except the base model."""

    limits: InboxSettings
    task: str = "chat"
    fields: Mapping[str, str] = field(default_factory=dict)
    """Ours -> the file's."""
    labels: Sequence[str] = ()
    """Names of what it numbers."""


#: A row's line, and what it says or why it is bad.
Converted = tuple[int, Content | BadRow]


class Rows(Protocol):
    """A file's rows while they are converted: in this process (``Conversion``) or in one of its own (``reader_process``)."""

    def __iter__(self) -> Generator[Converted]:
        """Yield what each row comes to; raise ``SampleError`` when the file cannot be read on."""

    def suggested(self, code: str) -> Iterable[Mapping[str, str]]:
        """Return fields with which the file might be read, now that it was refused with this code."""


#: Begins to convert a file's rows.
Convert = Callable[[Source, Purpose], Rows]


class Conversion:
    """A file's rows on their way to examples: all of reading that looks at the file, and nothing that needs a model."""

    def __init__(self, source: Source, purpose: Purpose) -> None:
        self._source, self._purpose = source, purpose
        self._labels = annotations.Labels(purpose.labels)
        self._size = 0
        self._refused: dict[tuple[str, ...], Row] = {}
        """The first bad rows that have different fields."""

    def __iter__(self) -> Generator[Converted]:
        """Yield what each row comes to."""
        limits, task, fields = self._purpose.limits, self._purpose.task, self._purpose.fields
        is_header = partial(_is_header, fields=fields, task=task)
        columns = annotations.EXAMPLE.get(task, file_rows.QUESTION_AND_ANSWER)
        own = fields.values() or _OWN if task == "chat" else ()
        listed = {fields.get(name, name).strip().lower() for name in file_rows.LISTED}
        plain, packed = annotations.PLAIN.get(task), annotations.PACKED.get(task)
        for line, row in file_rows.read(self._source, limits, is_header, plain, columns, own, listed, packed):
            yield line, self._said(row)
            if self._size > limits.max_expanded_bytes:
                raise SampleError(
                    f"{self._source.name} exceeds inbox.max_expanded_bytes ({limits.max_expanded_bytes}), because "
                    "each answer repeats all turns before it; split it",
                    code="too_large_expanded",
                )

    def _said(self, row: Any) -> Content | BadRow:
        fields = self._purpose.fields
        try:
            return self._bounded(self._convert(_renamed(row, fields) if fields else row))
        except BadRow as problem:
            self._remember(row)
            field = shown(fields.get(problem.field, problem.field), _LONGEST_FIELD)
            return BadRow(field, shown(str(problem), _LONGEST_MESSAGE))
        except SampleError as error:
            return BadRow("", error.message)

    def _convert(self, row: Any) -> Content:
        try:
            return _convert(self._purpose.limits, row, self._purpose.task, self._labels)
        except RecursionError:
            raise BadRow("", "the row is nested too deeply to be read") from None

    def _bounded(self, said: Content) -> Content:
        """Return what a row says; raise ``BadRow`` when its examples together are larger than they may be, or one is too deep."""
        limits = self._purpose.limits
        found: list[Example] = []
        size, known = 0, dict[int, int]()
        for example in said.examples:
            size += _size(example, known)
            if size > limits.max_expanded_row_bytes:
                raise BadRow(
                    "", _EXPANDED.format(count=len(said.examples), most=limits.max_expanded_row_bytes)
                )
            found.append(example)
        # the last question of a conversation holds those before it
        deepest = [found[-1].input, *(each.target for each in found)] if found else None
        if is_deeper(deepest, limits.max_depth + 1):
            raise BadRow("", f"the row is nested deeper than inbox.max_depth ({limits.max_depth})")
        self._size += size
        return replace(said, examples=found)

    def _remember(self, row: Any) -> None:
        if isinstance(row, Mapping) and len(self._refused) < _SOUGHT:
            self._refused.setdefault(tuple(row), row)

    def suggested(self, code: str) -> Iterable[Mapping[str, str]]:
        """Return lorad's names for fields that the file calls otherwise."""
        task = self._purpose.task
        if code == "no_header":
            return suggestion.columns(self._source, self._purpose.limits, task)
        if code != "bad_rows":
            return ()
        held = [each for row in self._refused.values() for each in shapes.held(row)]
        found = [named for row in held if (named := suggestion.fields(row, task, self._convert))]
        if task != "chat":
            return found
        return [named for named in found if not any(suggestion.lacks(row, named) for row in held)]


def read(
    file: Path | Source,
    limits: InboxSettings,
    task: str = "chat",
    fields: Mapping[str, str] | None = None,
    labels: Sequence[str] = (),
    check: Check = lambda example: example,
    convert: Convert = Conversion,
    held_out: Sequence[HeldOut] = (),
    known: Collection[str] = (),
) -> Reading:
    """Read a dataset file for a task; raise ``SampleError`` when nothing in it, or too little of it, can be used.

    Given ``fields`` (ours -> the file's), each row is those and nothing else. ``labels`` names what it numbers. A row
    with an example for which ``check`` raises ``SampleError`` is a bad row, and so is one with a label that differs in
    case only from another, or from one that is ``known``. ``held_out`` are the wordings of its sidecar. A path is one that
    a person named: where it is a link, what it leads to is read.
    """
    if isinstance(file, Path):
        with opened(file, follow=True) as source:
            return read(source, limits, task, fields, labels, check, convert, held_out, known)
    purpose = Purpose(limits=limits, task=task, fields=fields or {}, labels=labels)
    _check_fields(purpose.fields, task)
    converted = convert(file, purpose)
    try:
        return _tallied(_Tally(file.name, purpose, check, known), converted, held_out)
    except SampleError as error:
        suggested = () if purpose.fields else converted.suggested(error.code)

        def is_read(named: Mapping[str, str]) -> bool:
            again = replace(purpose, fields=named)
            with contextlib.suppress(SampleError):
                return bool(_tallied(_Tally(file.name, again, check, known), convert(file, again)).rows)
            return False

        # the file is read with them, to be sure
        named = next(filter(is_read, suggested), None)
        if named is None:
            raise
        raise _with_sidecar(error, file.name, named) from None


def _tallied(tally: "_Tally", converted: Rows, held_out: Sequence[HeldOut] = ()) -> Reading:
    with contextlib.closing(iter(converted)) as stream:  # at once: a process may be at its other end
        for line, said in stream:
            tally.take(line, said)
    return tally.reading(held_out)


class _Tally:
    """What a file's rows come to while it is read."""

    def __init__(self, name: str, purpose: Purpose, check: Check, known: Collection[str] = ()) -> None:
        self._name, self._purpose, self._check = name, purpose, check
        self._formats: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._problems: list[RowProblem] = []
        self._latest = Spool(purpose.task, _dataset(name))
        self._labels = LabelNames(known)
        self._contradicted: list[Example] = []
        self._count = self._bad = self._repeated = self._contradictions = self._told = 0
        # with more problems than these no file is accepted
        self._listed = purpose.limits.max_bad_share * purpose.limits.max_rows + _TOLD

    def take(self, line: int, said: Content | BadRow) -> None:
        """Count a row, and keep what it says."""
        self._count += 1
        if isinstance(said, BadRow):
            self._refuse(line, said)
            return
        try:
            examples = [self._check(example) for example in said.examples]
            for example in examples:
                self._labels.check(example)
        except SampleError as error:
            field = error.data.get("field") or annotations.LABELLED_IN.get(said.format, "")
            self._refuse(line, BadRow(str(field), error.message))
            return
        self._formats[said.format] += 1
        if said.left_out:
            self._left_out.update(said.left_out)
        if changed := sum(one is not other for one, other in zip(examples, said.examples, strict=True)):
            self._left_out[_END_TOKENS] += changed
        for example in examples:
            self._labels.add(example)
            self._keep(example, line)

    def _refuse(self, line: int, problem: BadRow) -> None:
        self._bad += 1
        if self._bad <= self._listed:
            message = shown(str(problem), _LONGEST_MESSAGE)
            self._problems.append(RowProblem(line=line, field=problem.field, message=message))

    def _keep(self, example: Example, line: int) -> None:
        older = self._latest.put(example.input, example.target, line, example.also_asked, example.held_out)
        if older is None:
            return
        if older.target == example.target:
            self._repeated += 1
            return
        self._contradictions += 1
        self._told += _size(older, {})
        if self._contradictions <= _TOLD_CONTRADICTIONS and self._told <= _TOLD_BYTES:
            self._contradicted.append(older)

    def reading(self, held_out: Sequence[HeldOut] = ()) -> Reading:
        """Return everything that the file said; raise ``SampleError`` when that is too little."""
        if self._bad and (not self._latest or self._bad / self._count >= self._purpose.limits.max_bad_share):
            raise _bad_rows(self._name, self._bad, self._count, self._problems)
        if not self._latest:
            raise _no_rows(self._name, self._purpose.task, self._count, self._left_out)
        self._left_out.update(other_wordings.settle(self._latest, held_out, self._name))
        return Reading(
            examples=self._latest,
            problems=tuple(self._problems),
            formats=dict(self._formats),
            rows=self._count,
            repeated=self._repeated,
            contradictions=self._contradictions,
            contradicted=tuple(self._contradicted),
            digest=self._latest.digest,
            left_out=dict(self._left_out),
        )


def _size(example: Example, known: dict[int, int]) -> int:
    """Return about the bytes of an example as memory keeps it; messages that several share are measured once."""
    parts = example.input if isinstance(example.input, list) else [example.input]
    for part in parts:
        if id(part) not in known:
            known[id(part)] = len(json.dumps(part)) + 2
    wordings = sum(map(len, (*example.also_asked, *example.held_out)))
    return sum(known[id(part)] for part in parts) + len(json.dumps(example.target)) + wordings


def _dataset(name: str) -> str:
    """Return a file's name without what says how it is written."""
    path = Path(name)
    return (Path(path.stem) if path.suffix.lower() == ".gz" else path).stem


# refusals


def _bad_rows(name: str, bad: int, count: int, problems: Sequence[RowProblem]) -> SampleError:
    first = problems[0]
    return SampleError(
        f"{name}: {bad} of {count} rows cannot be used; the first is row {first.line}"
        + (f", field {first.field!r}" if first.field else "")
        + f": {first.message}. Correct them and drop the file again",
        code="bad_rows",
        rows=[{"row": p.line, "field": p.field, "message": p.message} for p in problems[:_TOLD]],
        row=first.line,
        field=first.field,
    )


def _no_rows(name: str, task: str, count: int, left_out: Mapping[str, int]) -> SampleError:
    has = f"only rows with nothing to learn ({count})" if count else "no rows"
    why = ", ".join(f"{often} {reason}" for reason, often in left_out.items())
    told = f"{has}: {why}" if why else has
    return SampleError(f"{name} has {told}; {annotations.NEEDS[task]}", code="no_rows")


def _with_sidecar(error: SampleError, name: str, fields: Mapping[str, str]) -> SampleError:
    line, beside = sidecar.line(fields), sidecar.companion(name, sidecar.META)
    message = (
        f"{error.message}. Or, to read these fields and leave the others out, write in {beside}: {line} "
        "(lorad's name, then the file's), and drop both, the sidecar first"
    )
    return SampleError(message, code=error.code, **error.data, sidecar=line)


# fields


def _check_fields(fields: Mapping[str, str], task: str) -> None:
    known = set(annotations.FIELDS.get(task, ())) or _CHAT_FIELDS
    if strange := next((name for name in fields if name not in known), None):
        raise SampleError(
            f"the sidecar names an unknown field {strange}; write lorad's name first and the "
            f"file's second (question: Frage); lorad's names for {task} are {', '.join(sorted(known))}",
            code="sidecar",
        )


def _renamed(row: Any, fields: Mapping[str, str]) -> Any:
    if not isinstance(row, Mapping):
        return row
    found = {ours: row[theirs] for ours, theirs in fields.items() if theirs in row}
    if len(found) < len(fields):
        own = {row_values.fold(name): value for name, value in row.items()}
        found |= {
            ours: own[name]
            for ours, theirs in fields.items()
            if ours not in found and (name := row_values.fold(theirs)) in own
        }
    if not found:
        raise BadRow(next(iter(fields.values())), "the field that the sidecar names is missing")
    return found


def _is_header(columns: Collection[str], fields: Mapping[str, str], task: str = "chat") -> bool:
    """Tell whether a table with these columns holds rows of a known format, if of another task's."""
    columns = frozenset(columns)
    if fields:
        return not columns.isdisjoint(fields.values())
    if task in annotations.TASKS and annotations.is_header(columns, task):
        return True
    if any(name in columns for name in conversations.LISTS[:2]) or any(
        question in columns and answer in columns for _, question, answer in PAIRS
    ):
        return True
    # one word that another task knows may well begin a text
    return len(columns) > 1 and any(annotations.is_header(columns, each) for each in annotations.TASKS)


# rows


def _convert(limits: InboxSettings, row: Any, task: str = "chat", labels: Sequence[str] = ()) -> Content:
    """Return what a row says; raise ``BadRow`` with the row's own name of the field."""
    if isinstance(row, BadRow):
        raise row
    row, own = row_values.matched(row, _SPELLINGS) if isinstance(row, Mapping) else (row, {})
    try:
        if task != "chat":
            name, examples = annotations.convert(row, task, labels)
            return Content(format=name, examples=examples)
        return _chat(limits, row)
    except BadRow as problem:
        raise BadRow(own.get(problem.field, problem.field), str(problem)) from None


def _chat(limits: InboxSettings, row: Any) -> Content:
    if isinstance(row, Mapping) and (field := preferences.find(row)):
        if limits.preferences == "refuse":
            raise BadRow(field, conversations.NO_PREFERENCE)
        return _preferred(preferences.read(row))
    return _plain(row)


def _preferred(preference: preferences.Preference) -> Content:
    if preference.row is None:
        return Content(format=preference.format, examples=[])
    try:
        return replace(_plain(preference.row), format=preference.format)
    except BadRow as problem:
        raise BadRow(preference.own(problem.field), str(problem)) from None


def _plain(row: Any) -> Content:
    if not isinstance(row, Mapping):
        told = f"a row must be an object with named fields, not a {type(row).__name__}"
        raise annotations.foreign(row, "chat") or BadRow("", told)
    if convert := product_exports.find(row):
        return convert(row)
    name, pair = conversations.find(row), pairs.find(row)
    if name and (row_values.says(row[name]) or not pair):
        return conversations.read(row, name)
    if pair:
        return pairs.read(row, *pair)
    raise _no_format(row)


def _no_format(row: Row) -> BadRow:
    known = ", ".join(f"{question}/{answer}" for _, question, answer in pairs.WRITTEN)
    known = f"a row has {known}, or messages, or conversations"
    if _NAMES.isdisjoint(row) and (foreign := annotations.foreign(row, "chat")):
        return foreign
    named = _NAMES | conversations.BESIDE | pairs.BESIDE | IGNORED
    strange = [str(key) for key in row if key not in named]
    if refused := next((key for key in strange if key in REFUSED), None):
        return BadRow(refused, REFUSED[refused])
    if isinstance(row.get("chat"), Mapping):
        return BadRow("chat", "Open WebUI's chats are not read; write the list chat.messages as messages")
    if strange:
        return BadRow(strange[0], f"the field is unknown here; {known}")
    if empty := next((name for name in conversations.LISTS if name in row), None):
        return BadRow(empty, "is empty")
    asked = next((pair for _, *pair in PAIRS if pair[0] in row or pair[1] in row), PAIRS[0][1:])
    return BadRow(asked[1] if asked[0] in row else asked[0], f"the field is missing; {known}")
