"""Materials: dataset formats. A file in, examples and row problems out.

What lives here: reading JSON and JSONL, telling the formats apart row by row, and turning each into the
one form that lorad learns from. What never does: touching the inbox, tokenizers or models.
"""

import codecs
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorad.config import InboxSettings
from lorad.domain import Example, RowProblem, canonical, digest
from lorad.errors import SampleError

Row = Mapping[str, Any]
Message = dict[str, str]

_SPEAKERS = ("user", "assistant")

#: Question and answer fields by format, in the order in which they are tried.
PAIRS = (
    ("alpaca", "instruction", "output"),
    ("instruction-response", "instruction", "response"),
    ("question-answer", "question", "answer"),
    ("prompt-completion", "prompt", "completion"),
    ("input-output", "input", "output"),
    ("prompt-generation", "prompt", "generation"),
    ("question-response", "question", "response"),
    ("INSTRUCTION-RESPONSE", "INSTRUCTION", "RESPONSE"),
)

#: Fields that say something about a row and teach nothing.
IGNORED = {"id", "source", "category", "metadata", "tags", "difficulty"}

#: Fields that may stand beside a question and its answer.
SYSTEM = {"system", "system_prompt", "history"}

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
ROLES = {"system", "user", "assistant"}


class _BadRow(Exception):  # noqa: N818 - carried to the row's report, never leaves this module
    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Everything that a file said."""

    examples: tuple[Example, ...]
    problems: tuple[RowProblem, ...]
    formats: dict[str, int]
    """Rows by detected format."""
    rows: int
    repeated: int
    """Rows that say the same as an earlier row of the file."""
    contradicted: tuple[Example, ...]
    """Examples whose question a later row of the file answers differently; the later row counts."""

    @property
    def digest(self) -> str:
        """Identify the content: sha256 over the examples' ids, independent of order and layout."""
        return digest(sorted(example.id for example in self.examples))


def read(path: Path, limits: InboxSettings, task: str = "chat") -> Reading:
    """Read a dataset file; raise ``SampleError`` when nothing in it, or too little of it, can be used."""
    formats: Counter[str] = Counter()
    problems: list[RowProblem] = []
    latest: dict[str, Example] = {}
    contradicted: list[Example] = []
    rows = repeated = 0
    for line, row in _rows(path, limits):
        rows += 1
        try:
            if isinstance(row, _BadRow):
                raise row
            name, examples = _convert(row)
        except _BadRow as bad:
            problems.append(RowProblem(line=line, field=bad.field, message=str(bad)))
            continue
        formats[name] += 1
        for example in examples:
            kept = replace(example, task=task, dataset=path.stem, line=line)
            older = latest.pop(kept.question_id, None)
            latest[kept.question_id] = kept
            repeated += older is not None and older.id == kept.id
            if older is not None and older.id != kept.id:
                contradicted.append(older)
    _check(path, rows, latest, problems, limits)
    return Reading(
        examples=tuple(latest.values()),
        problems=tuple(problems),
        formats=dict(formats),
        rows=rows,
        repeated=repeated,
        contradicted=tuple(contradicted),
    )


def _check(
    path: Path, rows: int, usable: Mapping[str, Example], problems: list[RowProblem], limits: InboxSettings
) -> None:
    listed = [{"row": p.line, "field": p.field, "message": p.message} for p in problems[:20]]
    if problems and (not usable or len(problems) > limits.max_bad_share * rows):
        first = problems[0]
        raise SampleError(
            f"{path.name}: {len(problems)} of {rows} rows cannot be used; the first is row {first.line}, "
            f"field {first.field!r}: {first.message}. Correct them and drop the file again",
            code="bad_rows",
            rows=listed,
            row=first.line,
            field=first.field,
        )
    if not usable:
        raise SampleError(
            f"{path.name} has no rows; drop a file with at least one question and answer", code="no_rows"
        )


def _rows(path: Path, limits: InboxSettings) -> Iterator[tuple[int, Any]]:
    size = path.stat().st_size
    if size > limits.max_bytes:
        raise SampleError(
            f"{path.name} has {size} bytes, more than inbox.max_bytes ({limits.max_bytes}); split it",
            code="too_large",
        )
    text = _decode(path)
    reader = _jsonl if _is_jsonl(path, text) else _json
    for count, (line, row) in enumerate(reader(path, text), start=1):
        if count > limits.max_rows:
            raise SampleError(
                f"{path.name} has more than inbox.max_rows ({limits.max_rows}) rows; split it",
                code="too_many_rows",
            )
        if (
            not isinstance(row, _BadRow)
            and len(canonical(row).encode(errors="replace")) > limits.max_row_bytes
        ):
            yield line, _BadRow("", f"the row is longer than inbox.max_row_bytes ({limits.max_row_bytes})")
            continue
        yield line, row


def _decode(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise SampleError(f"{path.name} is UTF-16; save it as UTF-8 and drop it again", code="encoding")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SampleError(
            f"{path.name} is not UTF-8 (byte {error.start}); save it as UTF-8 and drop it again",
            code="encoding",
        ) from None


def _is_jsonl(path: Path, text: str) -> bool:
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        return True
    stripped = text.lstrip()
    if not stripped.startswith("{"):
        return False
    first, _, rest = stripped.partition("\n")  # one object a line under a .json name is common
    try:
        return isinstance(_loads(first), dict) and bool(rest.strip())
    except (ValueError, RecursionError):
        return False


def _json(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    try:
        data = _loads(text)
    except RecursionError:
        raise SampleError(f"{path.name} is nested too deeply", code="not_json") from None
    except ValueError as error:
        raise SampleError(f"{path.name} is not JSON: {error}", code="not_json") from None
    if isinstance(data, dict):
        lists = [key for key in ("data", "examples", "rows", "train") if isinstance(data.get(key), list)]
        data = data[lists[0]] if len(lists) == 1 else [data]
    if not isinstance(data, list):
        raise SampleError(
            f"{path.name} holds a {type(data).__name__}; it must be a list of rows or one JSON object a line",
            code="not_rows",
        )
    yield from enumerate(data, start=1)


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    del path
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, _loads(line)
        except RecursionError:
            yield number, _BadRow("", "nested too deeply")
        except ValueError as error:
            yield number, _BadRow("", f"not JSON: {error}")


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constants)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _no_constants(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _convert(row: Any) -> tuple[str, list[Example]]:
    if not isinstance(row, Mapping):
        raise _BadRow("", f"a row must be an object with named fields, not a {type(row).__name__}")
    for name, convert in _SHAPES.items():
        if name in row:
            return convert(row)
    for name, question, answer in PAIRS:
        if question in row and answer in row:
            return name, [_pair(row, question, answer)]
    return _no_format(row)


def _no_format(row: Row) -> tuple[str, list[Example]]:
    known = ", ".join(f"{question}/{answer}" for _, question, answer in PAIRS)
    names = {name for _, *pair in PAIRS for name in pair}
    strange = next((str(key) for key in row if key not in names | SYSTEM | IGNORED), None)
    if strange is not None:
        raise _BadRow(strange, f"the field is unknown here; a row has {known}, or messages, or conversations")
    asked = next((pair for _, *pair in PAIRS if pair[0] in row or pair[1] in row), PAIRS[0][1:])
    missing = asked[1] if asked[0] in row else asked[0]
    raise _BadRow(missing, f"the field is missing; a row has {known}, or messages, or conversations")


def _pair(row: Row, question: str, answer: str) -> Example:
    allowed = {question, answer} | SYSTEM | IGNORED
    allowed |= {"input"} if question.lower() == "instruction" else set()
    _refuse_unknown(row, allowed)
    asked = _text(row, question)
    context = row.get("input")
    is_blank = context is None or (isinstance(context, str) and not context.strip())
    if question != "input" and not is_blank:
        asked = f"{asked}\n{_text(row, 'input')}"  # Alpaca joins the two with a line break
    messages: list[Message] = []
    system = next((key for key in ("system", "system_prompt") if row.get(key)), None)
    if system:
        messages.append({"role": "system", "content": _text(row, system)})
    messages += _history(row)
    messages.append({"role": "user", "content": asked})
    return Example(task="chat", question=messages, answer=_text(row, answer))


def _history(row: Row) -> list[Message]:
    """Return Alpaca's earlier turns: a list of [question, answer] pairs."""
    turns = row.get("history") or []
    messages: list[Message] = []
    for turn in turns if isinstance(turns, list) else [turns]:
        if not (
            isinstance(turn, list)
            and all(isinstance(part, str) for part in turn)
            and len(turn) == len(_SPEAKERS)
        ):
            raise _BadRow("history", "must be a list of [question, answer] pairs")
        for role, part in zip(_SPEAKERS, turn, strict=True):
            _check_text("history", part)
            messages.append({"role": role, "content": part})
    return messages


def _openai(row: Row) -> tuple[str, list[Example]]:
    _refuse_unknown(row, {"messages"} | IGNORED)
    return "openai", _turns(_listed(row, "messages"), "messages", "role", "content", dict.fromkeys(ROLES))


def _sharegpt(row: Row) -> tuple[str, list[Example]]:
    _refuse_unknown(row, {"conversations", "system"} | IGNORED)
    turns = _listed(row, "conversations")
    if row.get("system"):
        turns = [{"from": "system", "value": _text(row, "system")}, *turns]
    return "sharegpt", _turns(turns, "conversations", "from", "value", dict(SHAREGPT_ROLES))


def _turns(
    turns: list[Any], field: str, role_key: str, text_key: str, roles: Mapping[str, str | None]
) -> list[Example]:
    messages: list[Message] = []
    examples: list[Example] = []
    for index, turn in enumerate(turns):
        where = f"{field}[{index}]"
        if not (
            isinstance(turn, Mapping) and isinstance(turn.get(role_key), str) and turn[role_key] in roles
        ):
            raise _BadRow(f"{where}.{role_key}", f"must be one of {', '.join(sorted(roles))}")
        role = roles[turn[role_key]] or turn[role_key]
        content = turn.get(text_key)
        if not isinstance(content, str) or not content.strip():
            raise _BadRow(f"{where}.{text_key}", "must be text that is not empty")
        _check_text(f"{where}.{text_key}", content)
        if role == "assistant":
            if not any(message["role"] == "user" for message in messages):
                raise _BadRow(where, "an answer must follow a question")
            examples.append(Example(task="chat", question=list(messages), answer=content))
        messages.append({"role": role, "content": content})
    if not examples:
        raise _BadRow(field, "holds no answer of the assistant to learn")
    return examples


def _listed(row: Row, key: str) -> list[Any]:
    value = row[key]
    if not isinstance(value, list) or not value:
        raise _BadRow(key, "must be a list of turns that is not empty")
    return value


def _refuse_unknown(row: Row, known: set[str]) -> None:
    unknown = sorted(str(key) for key in row if key not in known)
    if unknown:
        raise _BadRow(unknown[0], f"the field is unknown here; known: {', '.join(sorted(known - IGNORED))}")


def _text(row: Row, key: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise _BadRow(key, f"must be text, not {type(value).__name__}")
    if not value.strip():
        raise _BadRow(key, "is empty")
    _check_text(key, value)
    return value


def _check_text(key: str, value: str) -> None:
    if "\x00" in value:
        raise _BadRow(key, "holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _BadRow(key, "holds half of a surrogate pair") from None


_SHAPES: dict[str, Callable[[Row], tuple[str, list[Example]]]] = {
    "messages": _openai,
    "conversations": _sharegpt,
}
