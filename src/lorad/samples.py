"""Materials: dataset formats. A file in, examples and row problems out.

What lives here: telling the formats of chat apart row by row, and what a file's rows come to. What never does:
containers and encodings (``rows``), what a format's fields mean (``pairs``, ``conversations``, ``exports``,
``preferences``, for other tasks ``annotations``), touching the inbox, tokenizers or models.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lorad import (
    annotations,
    cells,
    conversations,
    exports,
    pairs,
    preferences,
    rows,
    shapes,
    sidecar,
    suggestion,
)
from lorad.cells import Row
from lorad.config import InboxSettings
from lorad.conversations import IGNORED, REFUSED, Content
from lorad.domain import Example, RowProblem
from lorad.errors import SampleError
from lorad.pairs import PAIRS
from lorad.rows import BadRow, shown
from lorad.spool import Spool
from lorad.strict_json import is_deeper

__all__ = ["PAIRS", "TASKS", "Reading", "read"]

#: Problems that are told of a file that is refused.
_TOLD = 20
_TOLD_CONTRADICTIONS = 1000

#: Bytes of the contradicted examples that are kept to be told.
_TOLD_BYTES = 10_000_000

#: Characters of a field's name and of a problem that are kept: a file may have many, and a name may be a megabyte.
_LONGEST_FIELD, _LONGEST_MESSAGE = 200, 1000

_TOO_LARGE = "too_large_expanded"
_EXPANDED = (
    "its {count} examples come to more than inbox.max_expanded_row_bytes ({most}), because each answer stands behind all "
    "before it; split the row into shorter ones"
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
        *exports.FIELDS,
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
    """What of good rows is not learned from: reason -> how often."""


def read(
    path: Path,
    limits: InboxSettings,
    task: str = "chat",
    fields: Mapping[str, str] | None = None,
    labels: Sequence[str] = (),
    check: Check = lambda example: example,
) -> Reading:
    """Read a dataset file for a task; raise ``SampleError`` when nothing in it, or too little of it, can be used.

    Given ``fields`` (ours -> the file's), each row is those and nothing else. ``labels`` names what it numbers. A row
    with an example for which ``check`` raises ``SampleError`` is a bad row.
    """
    named = fields or {}
    _check_fields(named, task)
    tally = _Tally(path, limits, task, named, labels, check)
    try:
        return _read(tally)
    except SampleError as error:
        found = None if named else _helpful(tally, error)
        if found is None:
            raise
        raise _with_sidecar(error, path, found) from None


def _read(tally: "_Tally") -> Reading:
    path, limits, task = tally.path, tally.limits, tally.task
    is_header = partial(_is_header, fields=tally.fields, task=task)
    columns = annotations.EXAMPLE.get(task, rows.QUESTION_AND_ANSWER)
    own = tally.fields.values() or _OWN if task == "chat" else ()
    listed = {tally.fields.get(name, name).strip().lower() for name in rows.LISTED}
    for line, row in rows.read(path, limits, is_header, annotations.PLAIN.get(task), columns, own, listed):
        tally.take(line, row)
    return tally.reading()


class _Tally:
    """What a file's rows come to while it is read."""

    def __init__(
        self,
        path: Path,
        limits: InboxSettings,
        task: str,
        fields: Mapping[str, str],
        labels: Sequence[str],
        check: Check,
    ) -> None:
        self.path, self.limits, self.task, self.fields = path, limits, task, fields
        self.labels, self.check = annotations.Labels(labels), check
        self.refused: dict[tuple[str, ...], Row] = {}
        """The first bad rows that have different fields."""
        self._formats: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._problems: list[RowProblem] = []
        self._latest = Spool(task, _dataset(path))
        self._contradicted: list[Example] = []
        self._count = self._bad = self._repeated = self._contradictions = self._size = self._told = 0
        # with more problems than these no file is accepted
        self._listed = limits.max_bad_share * limits.max_rows + _TOLD

    def convert(self, row: Any) -> Content:
        """Return what a row says under the names that we know; raise ``BadRow`` with the file's own."""
        try:
            return _convert(self.limits, row, self.task, self.labels)
        except RecursionError:
            raise BadRow("", "the row is nested too deeply to be read") from None

    def take(self, line: int, row: Any) -> None:
        """Count a row, and keep what it says."""
        self._count += 1
        try:
            said = self.convert(_renamed(row, self.fields) if self.fields else row)
            given = self._bounded(said)
            examples = [self.check(example) for example in given]
        except BadRow as problem:
            self._refuse(line, row, problem)
            return
        except SampleError as error:
            if error.code == _TOO_LARGE:
                raise
            self._refuse(line, row, BadRow("", error.message))
            return
        self._formats[said.format] += 1
        if said.left_out:
            self._left_out.update(said.left_out)
        if changed := sum(one is not other for one, other in zip(examples, given, strict=True)):
            self._left_out[_END_TOKENS] += changed
        for example in examples:
            self._keep(example, line)

    def _bounded(self, said: Content) -> list[Example]:
        """Return a row's examples; raise ``BadRow`` when together they are larger than a row's may be, or one is too deep."""
        found: list[Example] = []
        size, known = 0, dict[int, int]()
        for example in said.examples:
            size += _size(example, known)
            if size > self.limits.max_expanded_row_bytes:
                raise BadRow(
                    "", _EXPANDED.format(count=len(said.examples), most=self.limits.max_expanded_row_bytes)
                )
            found.append(example)
        # the last question of a conversation holds those before it
        if is_deeper(
            [found[-1].question, *(each.answer for each in found)] if found else None,
            self.limits.max_depth + 1,
        ):
            raise BadRow("", f"the row is nested deeper than inbox.max_depth ({self.limits.max_depth})")
        self._size += size
        if self._size > self.limits.max_expanded_bytes:
            raise SampleError(
                f"{self.path.name} comes to more than inbox.max_expanded_bytes ({self.limits.max_expanded_bytes}) with "
                "each answer behind all that it rests on; split it",
                code=_TOO_LARGE,
            )
        return found

    def _refuse(self, line: int, row: Any, problem: BadRow) -> None:
        self._bad += 1
        if self._bad <= self._listed:
            field = shown(self.fields.get(problem.field, problem.field), _LONGEST_FIELD)
            message = shown(str(problem), _LONGEST_MESSAGE)
            self._problems.append(RowProblem(line=line, field=field, message=message))
        if isinstance(row, Mapping) and len(self.refused) < _SOUGHT:
            self.refused.setdefault(tuple(row), row)

    def _keep(self, example: Example, line: int) -> None:
        older = self._latest.put(example.question, example.answer, line)
        if older is None:
            return
        if older.answer == example.answer:
            self._repeated += 1
            return
        self._contradictions += 1
        self._told += _size(older, {})
        if self._contradictions <= _TOLD_CONTRADICTIONS and self._told <= _TOLD_BYTES:
            self._contradicted.append(older)

    def reading(self) -> Reading:
        """Return everything that the file said; raise ``SampleError`` when that is too little."""
        if self._bad and (not self._latest or self._bad / self._count >= self.limits.max_bad_share):
            raise _bad_rows(self.path, self._bad, self._count, self._problems)
        if not self._latest:
            raise _no_rows(self.path, self.task, self._count, self._left_out)
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
    parts = example.question if isinstance(example.question, list) else [example.question]
    for part in parts:
        if id(part) not in known:
            known[id(part)] = len(json.dumps(part)) + 2
    return sum(known[id(part)] for part in parts) + len(json.dumps(example.answer))


def _dataset(path: Path) -> str:
    """Return a file's name without what says how it is written."""
    return (Path(path.stem) if path.suffix.lower() == ".gz" else path).stem


# refusals


def _bad_rows(path: Path, bad: int, count: int, problems: Sequence[RowProblem]) -> SampleError:
    first = problems[0]
    return SampleError(
        f"{path.name}: {bad} of {count} rows cannot be used; the first is row {first.line}"
        + (f", field {first.field!r}" if first.field else "")
        + f": {first.message}. Correct them and drop the file again",
        code="bad_rows",
        rows=[{"row": p.line, "field": p.field, "message": p.message} for p in problems[:_TOLD]],
        row=first.line,
        field=first.field,
    )


def _no_rows(path: Path, task: str, count: int, left_out: Mapping[str, int]) -> SampleError:
    has = f"only rows that teach nothing ({count})" if count else "no rows"
    why = ", ".join(f"{often} {reason}" for reason, often in left_out.items())
    told = f"{has}: {why}" if why else has
    return SampleError(f"{path.name} has {told}; {annotations.NEEDS[task]}", code="no_rows")


def _helpful(tally: _Tally, error: SampleError) -> Mapping[str, str] | None:
    """Return the fields with which a sidecar would have the file read: the file is read with them, to be sure."""
    found: list[Mapping[str, str] | None] = []
    if error.code == "bad_rows":
        held = [each for row in tally.refused.values() for each in shapes.held(row)]
        found = [suggestion.fields(row, tally.task, tally.convert) for row in held]
        if tally.task == "chat":
            found = [
                named for named in found if named and not any(suggestion.lacks(row, named) for row in held)
            ]
    elif error.code == "no_header":
        found = list(suggestion.columns(tally.path, tally.limits, tally.task))
    return next((fields for fields in found if fields and _is_read(tally, fields)), None)


def _is_read(tally: _Tally, fields: Mapping[str, str]) -> bool:
    try:
        _read(_Tally(tally.path, tally.limits, tally.task, fields, tally.labels, tally.check))
    except SampleError:
        return False
    return True


def _with_sidecar(error: SampleError, path: Path, fields: Mapping[str, str]) -> SampleError:
    line, name = sidecar.line(fields), sidecar.path_of(path).name
    message = (
        f"{error.message}. Or, to read these fields and leave the others out, write in {name}: {line} "
        "(lorad's name, then the file's), and drop both, it first"
    )
    return SampleError(message, code=error.code, **error.data, sidecar=line)


# fields


def _check_fields(fields: Mapping[str, str], task: str) -> None:
    known = set(annotations.FIELDS.get(task, ())) or _CHAT_FIELDS
    if strange := next((name for name in fields if name not in known), None):
        raise SampleError(
            f"the sidecar maps a field {strange}, which lorad does not know; write lorad's name first and the "
            f"file's second (question: Frage); lorad's for {task} are {', '.join(sorted(known))}",
            code="sidecar",
        )


def _renamed(row: Any, fields: Mapping[str, str]) -> Any:
    if not isinstance(row, Mapping):
        return row
    found = {ours: row[theirs] for ours, theirs in fields.items() if theirs in row}
    if len(found) < len(fields):
        own = {cells.fold(name): value for name, value in row.items()}
        found |= {
            ours: own[name]
            for ours, theirs in fields.items()
            if ours not in found and (name := cells.fold(theirs)) in own
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
    row, own = cells.matched(row, _SPELLINGS) if isinstance(row, Mapping) else (row, {})
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
    if convert := exports.find(row):
        return convert(row)
    name, pair = conversations.find(row), pairs.find(row)
    if name and (cells.says(row[name]) or not pair):
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
