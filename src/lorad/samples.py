"""Materials: dataset formats. A file in, examples and row problems out.

What lives here: telling the formats of chat apart row by row, turning each into the one form that lorad learns
from, and what a file's rows come to. What never does: containers and encodings (``rows``), the formats of other
tasks (``annotations``), touching the inbox, tokenizers or models.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lorad import annotations, cells, preferences, rows
from lorad.cells import check_text, is_empty, text, unpacked
from lorad.config import InboxSettings
from lorad.domain import Example, RowProblem
from lorad.errors import SampleError
from lorad.rows import BadRow
from lorad.spool import Spool
from lorad.strict_json import Flaw, NotJson, parse

Row = Mapping[str, Any]
Message = dict[str, Any]

_SPEAKERS = ("user", "assistant")

#: Problems that are told of a file that is refused.
_TOLD = 20
_TOLD_CONTRADICTIONS = 1000

#: Tasks whose formats are read; not all of them need be learned already.
TASKS = ("chat", *annotations.TASKS)

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
IGNORED = cells.IGNORED | {"tags"}

#: Fields that may stand beside a question and its answer.
SYSTEM = {"system", "system_prompt", "history"}

_OLD_TOOLS = "functions and function_call are the old form; write tools and tool_calls"
_NO_PREFERENCE = (
    "preferences are not learned while inbox.preferences is refuse; set it to learn_chosen to learn the good answer "
    "as any other and leave the bad one out, or write the good one as the answer"
)
_NO_TOKENS = "tokens of another program are not learned; drop the text that they stand for"

#: Fields of formats that are known and cannot be learned from, and why.
REFUSED = {
    **dict.fromkeys(("functions", "function_call"), _OLD_TOOLS),
    **dict.fromkeys(preferences.FIELDS, _NO_PREFERENCE),
    "label": "must be true or false, as KTO says whether an answer is good; leave any other label out with the "
    "sidecar's fields",
    **dict.fromkeys(("input_ids", "attention_mask", "labels"), _NO_TOKENS),
    "text": "text without a question is not learned; a row needs a question and its answer",
    "segments": "segments are not learned, for they join template and text; a row needs a question and its answer",
}


@dataclass(frozen=True, slots=True)
class _Form:
    """How a format writes a turn."""

    role: str
    text: str
    roles: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Turn:
    where: str
    role: str
    content: str
    is_learned: bool
    calls: tuple[dict[str, Any], ...] = ()


OPENAI = _Form(
    "role",
    "content",
    {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"},
)
SHAREGPT = _Form(
    "from",
    "value",
    {
        "system": "system",
        "human": "user",
        "user": "user",
        "gpt": "assistant",
        "assistant": "assistant",
        "function_call": "assistant",
        "observation": "tool",
        "tool": "tool",
    },
)


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
    """Rows that say the same as an earlier row of the file."""
    contradictions: int
    """Examples whose question a later row of the file answers differently; the later row counts."""
    contradicted: tuple[Example, ...]
    """The first of them."""
    digest: str
    """sha256 over the examples' ids, independent of order and layout."""


def read(
    path: Path,
    limits: InboxSettings,
    task: str = "chat",
    fields: Mapping[str, str] | None = None,
    labels: Sequence[str] = (),
) -> Reading:
    """Read a dataset file for a task; raise ``SampleError`` when nothing in it, or too little of it, can be used.

    Given ``fields`` (ours -> the file's), each row is those and nothing else. ``labels`` names what it numbers.
    """
    _check_fields(fields or {}, task)
    convert = partial(_convert, limits) if task == "chat" else partial(_annotated, task, labels)
    is_header = partial(_is_header, fields=fields or {}, task=task)
    columns = annotations.EXAMPLE.get(task, rows.QUESTION_AND_ANSWER)
    own = (fields or {}).values() or _NAMES if task == "chat" else ()
    formats: Counter[str] = Counter()
    problems: list[RowProblem] = []
    latest = Spool(task, _dataset(path))
    contradicted: list[Example] = []
    count = bad = repeated = contradictions = 0
    listed = limits.max_bad_share * limits.max_rows + _TOLD  # with more than these no file is accepted
    for line, row in rows.read(path, limits, is_header, annotations.PLAIN.get(task), columns, own):
        count += 1
        try:
            name, examples = convert(_renamed(row, fields) if fields else row)
        except BadRow as problem:
            bad += 1
            if bad <= listed:
                field = (fields or {}).get(problem.field, problem.field)
                problems.append(RowProblem(line=line, field=field, message=str(problem)))
            continue
        formats[name] += 1
        for example in examples:
            older = latest.put(example.question, example.answer, line)
            if older is None:
                continue
            if older.id == example.id:
                repeated += 1
                continue
            contradictions += 1
            if contradictions <= _TOLD_CONTRADICTIONS:
                contradicted.append(older)
    if bad and (not latest or bad / count >= limits.max_bad_share):
        raise _bad_rows(path, bad, count, problems)
    if not latest:
        has = f"only rows that teach nothing ({count})" if count else "no rows"
        raise SampleError(f"{path.name} has {has}; {annotations.NEEDS[task]}", code="no_rows")
    return Reading(
        examples=latest,
        problems=tuple(problems),
        formats=dict(formats),
        rows=count,
        repeated=repeated,
        contradictions=contradictions,
        contradicted=tuple(contradicted),
        digest=latest.digest,
    )


def _dataset(path: Path) -> str:
    """Return a file's name without what says how it is written."""
    return (Path(path.stem) if path.suffix.lower() == ".gz" else path).stem


def _bad_rows(path: Path, bad: int, count: int, problems: Sequence[RowProblem]) -> SampleError:
    first = problems[0]
    return SampleError(
        f"{path.name}: {bad} of {count} rows cannot be used; the first is row {first.line}, "
        f"field {first.field!r}: {first.message}. Correct them and drop the file again",
        code="bad_rows",
        rows=[{"row": p.line, "field": p.field, "message": p.message} for p in problems[:_TOLD]],
        row=first.line,
        field=first.field,
    )


def _check_fields(fields: Mapping[str, str], task: str) -> None:
    known = set(annotations.FIELDS.get(task, ())) or _NAMES | SYSTEM | set(preferences.FIELDS)
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
    if not found:
        raise BadRow(next(iter(fields.values())), "the field that the sidecar names is missing")
    return found


def _is_header(columns: Sequence[str], fields: Mapping[str, str], task: str = "chat") -> bool:
    """Tell whether a table with these columns holds rows of a known format, if of another task's."""
    if fields:
        return any(name in columns for name in fields.values())
    if task in annotations.TASKS and annotations.is_header(columns, task):
        return True
    if any(name in columns for name in _SHAPES) or any(
        question in columns and answer in columns for _, question, answer in PAIRS
    ):
        return True
    # one word that another task knows may well begin a text
    return len(columns) > 1 and any(annotations.is_header(columns, each) for each in annotations.TASKS)


def _annotated(task: str, labels: Sequence[str], row: Any) -> tuple[str, list[Example]]:
    return annotations.convert(row, task, labels)


def _convert(limits: InboxSettings, row: Any) -> tuple[str, list[Example]]:
    if isinstance(row, BadRow):
        raise row
    if isinstance(row, Mapping) and (field := preferences.find(row)):
        if limits.preferences == "refuse":
            raise BadRow(field, _NO_PREFERENCE)
        return _preferred(preferences.read(row))
    return _plain(row)


def _preferred(preference: preferences.Preference) -> tuple[str, list[Example]]:
    if preference.row is None:
        return preference.format, []
    try:
        return preference.format, _plain(preference.row)[1]
    except BadRow as problem:
        raise BadRow(preference.own(problem.field), str(problem)) from None


def _plain(row: Any) -> tuple[str, list[Example]]:
    if not isinstance(row, Mapping):
        told = f"a row must be an object with named fields, not a {type(row).__name__}"
        raise annotations.foreign(row, "chat") or BadRow("", told)
    for name, convert in _SHAPES.items():
        if row.get(name) is not None:
            return convert(row)
    for name, question, answer in PAIRS:
        if question in row and answer in row and not row[question] is row[answer] is None:
            if name == "prompt-completion" and (turns := _prompt_and_completion(row)):
                return f"{name} messages", turns
            return name, [_pair(row, question, answer)]
    raise _no_format(row)


def _no_format(row: Row) -> BadRow:
    known = ", ".join(f"{question}/{answer}" for _, question, answer in PAIRS)
    known = f"a row has {known}, or messages, or conversations"
    if _NAMES.isdisjoint(row) and (foreign := annotations.foreign(row, "chat")):
        return foreign
    strange = [str(key) for key in row if key not in _NAMES | SYSTEM | IGNORED]
    if refused := next((key for key in strange if key in REFUSED), None):
        return BadRow(refused, REFUSED[refused])
    if strange:
        return BadRow(strange[0], f"the field is unknown here; {known}")
    if empty := next((name for name in _SHAPES if name in row), None):
        return BadRow(empty, "is empty")
    asked = next((pair for _, *pair in PAIRS if pair[0] in row or pair[1] in row), PAIRS[0][1:])
    return BadRow(asked[1] if asked[0] in row else asked[0], f"the field is missing; {known}")


def _pair(row: Row, question: str, answer: str) -> Example:
    allowed = {question, answer} | SYSTEM
    allowed |= {"input"} if question.lower() == "instruction" else set()
    if isinstance(row.get("text"), str):
        _refuse_other_text(row, (question, "input", answer))
        allowed.add("text")
    _refuse_unknown(row, allowed)
    asked = text(row, question)
    context = row.get("input")
    is_blank = context is None or (isinstance(context, str) and not context.strip())
    if question != "input" and not is_blank:
        asked = f"{asked}\n{text(row, 'input')}"  # Alpaca joins the two with a line break
    messages: list[Message] = []
    if system := _system(row):
        messages.append({"role": "system", "content": text(row, system)})
    messages += _history(row)
    messages.append({"role": "user", "content": asked})
    return Example(task="chat", question=messages, answer=text(row, answer))


def _refuse_other_text(row: Row, keys: Sequence[str]) -> None:
    """Refuse a text that is not just the row behind a template, as it is in Alpaca's own file."""
    parts = [row[key].strip() for key in keys if isinstance(row.get(key), str)]
    if not all(part in row["text"] for part in parts) and row["text"].strip():
        raise BadRow(
            "text", f"stands beside {keys[0]} and {keys[-1]}; name those that count in the sidecar's fields"
        )


def _system(row: Row) -> str | None:
    """Return the field that holds the system message; raise ``BadRow`` when there are two messages."""
    found = [key for key in ("system", "system_prompt") if row.get(key)]
    if len(found) > 1 and row[found[0]] != row[found[1]]:
        raise BadRow(found[1], f"stands beside {found[0]}; name the one that counts in the sidecar's fields")
    return found[0] if found else None


def _history(row: Row) -> list[Message]:
    """Return Alpaca's earlier turns: a list of [question, answer] pairs."""
    turns = unpacked(row, "history") or []
    messages: list[Message] = []
    for turn in turns if isinstance(turns, list) else [turns]:
        if not (
            isinstance(turn, list)
            and all(isinstance(part, str) for part in turn)
            and len(turn) == len(_SPEAKERS)
        ):
            raise BadRow("history", "must be a list of [question, answer] pairs")
        for role, part in zip(_SPEAKERS, turn, strict=True):
            check_text("history", part)
            messages.append({"role": role, "content": part})
    return messages


def _openai(row: Row) -> tuple[str, list[Example]]:
    _refuse_unknown(row, {"messages", "parallel_tool_calls", "tools"})
    turns = [*_tools(row), *_turns(unpacked(row, "messages"), "messages", OPENAI)]
    return "openai", _examples(turns, "messages")


def _sharegpt(row: Row) -> tuple[str, list[Example]]:
    _refuse_unknown(row, {"conversations", "system", "tools"})
    turns = [*_tools(row), *_turns(unpacked(row, "conversations"), "conversations", SHAREGPT)]
    if row.get("system"):
        turns = [_Turn("system", "system", text(row, "system"), is_learned=False), *turns]
    return "sharegpt", _examples(turns, "conversations")


def _tools(row: Row) -> list[_Turn]:
    """Return what a conversation may call, as its first message: the JSON of each function."""
    tools = unpacked(row, "tools")
    if is_empty(tools):
        return []
    if not isinstance(tools, list):
        raise BadRow("tools", "must be a list of functions, in a table its JSON")
    functions = [tool.get("function", tool) if isinstance(tool, Mapping) else tool for tool in tools]
    for index, function in enumerate(functions):
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadRow(f"tools[{index}]", "must be a function with a name")
    content = json.dumps(functions, ensure_ascii=False)
    check_text("tools", content)
    return [_Turn("tools", "tools", content, is_learned=False)]


def _prompt_and_completion(row: Row) -> list[Example]:
    """Return the examples of TRL's conversational form, none when both are plain text."""
    prompt, completion = _dialogue(row, "prompt"), _dialogue(row, "completion")
    if prompt is None and completion is None:
        return []
    _refuse_unknown(row, {"prompt", "completion", "tools"})
    asked = _turns(prompt or [{"role": "user", "content": text(row, "prompt")}], "prompt", OPENAI)
    told = completion or [{"role": "assistant", "content": text(row, "completion")}]
    asked = [replace(turn, is_learned=False) for turn in asked]
    return _examples([*_tools(row), *asked, *_turns(told, "completion", OPENAI)], "completion")


def _dialogue(row: Row, key: str) -> list[Any] | None:
    """Return a field's list of messages; None when it is plain text, which may well be a list in JSON itself."""
    value = row[key]
    if isinstance(value, str):
        if value.startswith(("[{'role'", "[{'content'")):
            raise BadRow(key, "is a list as Python prints it; write it as JSON")
        value = unpacked(row, key)
        return value if isinstance(value, list) and all(map(_is_message, value)) else None
    return value if isinstance(value, list) else None


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and {OPENAI.role, OPENAI.text} <= set(value)


def _turns(turns: Any, field: str, form: _Form) -> list[_Turn]:
    if not isinstance(turns, list) or not turns:
        raise BadRow(field, "must be a list of turns that is not empty, in a table its JSON")
    return [_turn(turn, f"{field}[{index}]", form) for index, turn in enumerate(turns)]


def _turn(turn: Any, where: str, form: _Form) -> _Turn:
    role = turn.get(form.role) if isinstance(turn, Mapping) else None
    if not isinstance(role, str) or role not in form.roles:
        raise BadRow(f"{where}.{form.role}", f"must be one of {', '.join(sorted(form.roles))}")
    _refuse_unknown(turn, {form.role, form.text, "weight", "name", "tool_calls", "tool_call_id"}, f"{where}.")
    weight = turn.get("weight")
    if weight not in (None, 0, 1):
        raise BadRow(f"{where}.weight", "must be 0, which leaves the answer out, or 1")
    content, spoken = turn.get(form.text), f"{where}.{form.text}"
    if role == "function_call":
        return _Turn(where, "assistant", "", is_learned=weight != 0, calls=_calls(content, spoken))
    calls = () if is_empty(turn.get("tool_calls")) else _calls(turn["tool_calls"], f"{where}.tool_calls")
    if calls and form.roles[role] != "assistant":
        raise BadRow(f"{where}.tool_calls", "only the assistant calls tools")
    text = "" if calls and is_empty(content) else _content(content, spoken)
    return _Turn(where, form.roles[role], text, is_learned=weight != 0, calls=calls)


def _calls(calls: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Return calls as name and arguments; OpenAI writes the arguments as JSON, templates want them as they are."""
    found = _parsed(calls, where) if isinstance(calls, str) else calls
    listed = found if isinstance(found, list) else [found]
    return tuple(_call(call, f"{where}[{index}]") for index, call in enumerate(listed))


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise BadRow(where, "must be a call of a function with a name")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _parsed(arguments or "{}", f"{where}.arguments")
    if not isinstance(arguments, Mapping):
        raise BadRow(f"{where}.arguments", "must be an object, or its JSON")
    check_text(where, json.dumps([function["name"], arguments], ensure_ascii=False))
    return {"name": function["name"], "arguments": dict(arguments)}


def _parsed(text: str, where: str) -> Any:
    try:
        return parse(text)
    except (Flaw, NotJson) as error:
        raise BadRow(where, f"is not JSON: {error}") from None


def _content(content: Any, where: str) -> str:
    """Return a turn's text; text parts stand one behind the other, as they do on the socket."""
    if isinstance(content, list):
        content = "".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))
    if not isinstance(content, str) or not content.strip():
        raise BadRow(where, "must be text that is not empty")
    check_text(where, content)
    return content


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind != "text":
        raise BadRow(f"{where}.type", "must be text; pictures, sound and files are not learned")
    if not isinstance(part.get("text"), str):
        raise BadRow(f"{where}.text", "must be text")
    return str(part["text"])


def _examples(turns: Sequence[_Turn], field: str) -> list[Example]:
    """Return one example for each learned answer, with everything before it as its question."""
    messages: list[Message] = []
    examples: list[Example] = []
    for turn in turns:
        called = {"tool_calls": list(turn.calls)} if turn.calls else {}
        if turn.role == "assistant":
            if not any(message["role"] == "user" for message in messages):
                raise BadRow(turn.where, "an answer must follow a question")
            if turn.is_learned:
                answer = {"content": turn.content, **called} if called else turn.content
                examples.append(Example(task="chat", question=list(messages), answer=answer))
        elif turn.role == "tool" and not _is_answered(messages):
            raise BadRow(turn.where, "what a tool said must follow the call of it")
        messages.append({"role": turn.role, "content": turn.content, **called})
    if not examples:
        raise BadRow(field, "holds no answer of the assistant to learn")
    return examples


def _is_answered(messages: Sequence[Message]) -> bool:
    """Tell whether the last message that is not a tool's calls one."""
    last = next((message for message in reversed(messages) if message["role"] != "tool"), {})
    return "tool_calls" in last


def _refuse_unknown(row: Row, known: set[str], where: str = "") -> None:
    """Refuse fields that would be lost; what is empty says nothing that could be."""
    if not row.keys() <= known:  # a file may have a million rows, most of them with known fields alone
        cells.refuse_unknown(row, known, where, ignored=IGNORED, reasons=REFUSED)


_SHAPES: dict[str, Callable[[Row], tuple[str, list[Example]]]] = {
    "messages": _openai,
    "conversations": _sharegpt,
}

#: The fields of chat that hold questions and answers.
_NAMES = {name for _, *pair in PAIRS for name in pair} | set(_SHAPES)
