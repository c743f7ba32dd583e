"""Conversations. A row that lists turns in, one example for each learned answer out.

What lives here: telling how a turn is written by the keys that it has, whatever its list is called; which answers are
learned. What never does: questions and answers in fields side by side (``pairs``), the
exports of other products (``product_exports``).
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, overload

from lorad import wordings
from lorad.datasets.containers.file_rows import BadRow
from lorad.datasets.formats import preferences, row_values, tool_calls
from lorad.datasets.formats.row_values import Row, check_text, is_empty, unpacked
from lorad.records import Example

Message = dict[str, Any]

#: What a row calls its list of turns; the first two are nothing else, the others are only where turns stand in them.
LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns", "contents")
_LISTS, _SURE = frozenset(LISTS), LISTS[:2]

#: Fields of a system message, also as Anthropic, Bedrock and Gemini have it beside the turns.
SYSTEM = ("system", "system_prompt", "systeminstruction", "system_instruction")

#: Other wordings of a row's question; those that a row holds out it never trains.
ALSO_ASKED, HELD_OUT = WORDINGS = ("also_asked", "held_out")

#: Fields that may stand beside turns.
BESIDE = frozenset({*SYSTEM, *WORDINGS, "tools", "parallel_tool_calls", "schemaversion"})

#: Fields that say something about a row and teach nothing.
IGNORED = row_values.IGNORED | {"tags"}

_OLD_TOOLS = "functions and function_call are the old form; write tools and tool_calls"
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "chain_of_thought", "complex_cot")
_REASONING = "reasoning is not learned, and an answer without it may be wrong; remove it from the file to learn only the answer"

NO_PREFERENCE = (
    "preferences are not learned while inbox.preferences is refuse; set it to learn_chosen to train on the chosen answer "
    "only, or write that one as the answer"
)
_NO_TOKENS = "token ids of another program are not learned; give their text"

#: Fields of formats that are known and cannot be learned from, and why.
REFUSED = {
    **dict.fromkeys(("functions", "function_call"), _OLD_TOOLS),
    **dict.fromkeys(preferences.FIELDS, NO_PREFERENCE),
    "label": "must be true or false, as KTO says whether an answer is good; leave any other label out with the "
    "sidecar's fields",
    **dict.fromkeys(("input_ids", "attention_mask", "labels"), _NO_TOKENS),
    "text": "text without a question is not learned; a row needs a question and its answer",
    "segments": "segments are not learned, because they mix template and text; a row needs a question and its answer",
    **dict.fromkeys(_THOUGHTS, _REASONING),
    "chunkedprompt": "AI Studio's prompts are not read; write their chunks as messages, each with role and content",
}

OPENING = "what the assistant says before any question"
NULLS = "null arguments of calls of functions that the row does not describe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a row says."""

    format: str
    examples: Sequence[Example]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """What of it is not learned from: reason -> how often."""


class Unfolded(Sequence[Example]):
    """Examples that are made when they are asked for: all of a long conversation's together repeat it a thousand times."""

    def __init__(self, made: Sequence[Callable[[], Example]]) -> None:
        self.made = made

    def __len__(self) -> int:
        return len(self.made)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> "Unfolded": ...
    def __getitem__(self, at: int | slice) -> "Example | Unfolded":
        return Unfolded(self.made[at]) if isinstance(at, slice) else self.made[at]()


@dataclass(frozen=True, slots=True)
class Form:
    """How a program writes a turn."""

    name: str
    role: str
    text: str
    roles: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing said."""

    where: str
    role: str
    content: str
    is_learned: bool
    calls: tuple[dict[str, Any], ...] = ()
    nulls: int = 0
    """Null arguments of its calls that were left out unseen."""


OPENAI = Form(
    "openai",
    "role",
    "content",
    {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"},
)
SHAREGPT = Form(
    "sharegpt",
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

#: Keys of a turn, and every role that one of them may hold: programs mix them.
_ROLE_KEYS = ("role", "from", "sender", "speaker")
_TEXT_KEYS = ("content", "value", "text", "parts")
_ROLES = {
    **OPENAI.roles,
    **SHAREGPT.roles,
    "model": "assistant",
    "ai": "assistant",
    "chatgpt": "assistant",
    "chatbot": "assistant",
}
_TURN = frozenset({*_ROLE_KEYS, *_TEXT_KEYS, "weight", "name", "tool_calls", "tool_call_id"})


def find(row: Row) -> str | None:
    """Return the field that holds a row's turns, None when it has none."""
    if _LISTS.isdisjoint(row):  # a file may have a million rows of another form
        return None
    for name in LISTS:
        if row.get(name) is not None and (name in _SURE or are_turns(unpacked(row, name))):
            return name
    return None


def are_turns(value: Any) -> bool:
    """Tell whether a value is a list of turns."""
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def is_turn(value: Any) -> bool:
    """Tell whether a value has a turn's keys."""
    keys = {row_values.fold(key) for key in value} if isinstance(value, Mapping) else set()
    return not keys.isdisjoint(_ROLE_KEYS) and not keys.isdisjoint({*_TEXT_KEYS, "tool_calls"})


def read(row: Row, field: str) -> Content:
    """Return a row's learned answers, each with all before it as its question; raise ``BadRow``."""
    listed, described = unpacked(row, field), tool_calls.functions(row)
    said = turns(listed, field, described)
    refuse_unknown(row, BESIDE | {field} | _repeated(row, said))
    system = system_turns(row)
    if system and (own := next((turn for turn in said if turn.role == "system"), None)):
        if own.content.strip() != system[0].content.strip():
            raise BadRow(system[0].where, f"conflicts with the system message in {own.where}; keep one")
        system = []
    return worded(content(_form_name(listed[0]), [*system, *tool_turns(described), *said], field), row)


def _repeated(row: Row, said: Sequence[Turn]) -> set[str]:
    """Return the fields of a prompt that says what the first question says again, as UltraChat has it."""
    first = next((turn.content for turn in said if turn.role == "user"), None)
    return {"prompt", "prompt_id"} if first is not None and row.get("prompt") == first else set()


def _form_name(turn: Row) -> str:
    role, text = _keys_of(row_values.matched(turn, _TURN)[0])
    return next((form.name for form in (OPENAI, SHAREGPT) if (form.role, form.text) == (role, text)), "turns")


def system_turns(row: Row) -> list[Turn]:
    """Return the system message that stands beside the turns, or nothing; raise ``BadRow`` when there are two."""
    found = [name for name in SYSTEM if row.get(name)]
    if len(found) > 1 and any(row[name] != row[found[0]] for name in found):
        raise BadRow(found[1], f"conflicts with {found[0]}; choose one in the sidecar's fields")
    if not found:
        return []
    where, value = found[0], unpacked(row, found[0])
    if isinstance(value, Mapping):  # Gemini's
        value = value.get("parts")
    are_parts = isinstance(value, list) and any(isinstance(part, Mapping) for part in value)
    text = _content(value, where) if are_parts else row_values.text(row, where)
    return [Turn(where, "system", text, is_learned=False)]


# other wordings


def worded(said: Content, row: Row, asked: Callable[[str], str] = str) -> Content:
    """Return what a row says with the other wordings of its question; raise ``BadRow``.

    ``asked`` returns a wording as the last message would have it. A row that does not say what is held out keeps the last
    of two or more wordings for the tests.
    """
    given = {name: row_values.texts(row, name, wordings.MOST, wordings.LONGEST) for name in WORDINGS}
    first = next((name for name in WORDINGS if given[name]), None)
    if first is None:
        return said
    question = wordings.question(said.examples[0]) if len(said.examples) == 1 else None
    if question is None:
        raise BadRow(first, "needs a row with one learned answer, right behind the user's question")
    also, held = (tuple(map(asked, given[name] or ())) for name in WORDINGS)
    if given[HELD_OUT] is None:
        also, held = wordings.parted(wordings.distinct(also, [question]))
    return replace(said, examples=[wordings.with_wordings(said.examples[0], also, held)])


# turns


def tool_turns(functions: Sequence[Message]) -> list[Turn]:
    """Return what may be called as a conversation's first message: the JSON of each function."""
    if not functions:
        return []
    content = json.dumps(functions, ensure_ascii=False)
    check_text("tools", content)
    return [Turn("tools", "tools", content, is_learned=False)]


def turns(listed: Any, field: str, functions: Sequence[Message] = ()) -> list[Turn]:
    """Return a list's turns; raise ``BadRow``."""
    if not isinstance(listed, list) or not listed:
        raise BadRow(field, "must be a list of turns that is not empty, in a table its JSON")
    described = tool_calls.by_name(functions)
    made = [_turn(turn, f"{field}[{index}]", described) for index, turn in enumerate(listed)]
    return [made[at] for at in tool_calls.order(listed, field)]


def _keys_of(turn: Row) -> tuple[str, str]:
    """Return the keys of a turn's role and text: those that hold something, else those that are there."""
    role, text = (
        next((key for key in keys if turn.get(key) is not None), None)
        or next((key for key in keys if key in turn), keys[0])
        for keys in (_ROLE_KEYS, _TEXT_KEYS)
    )
    return role, text


def _turn(turn: Any, where: str, functions: Mapping[str, Message]) -> Turn:
    turn = row_values.matched(turn, _TURN)[0] if isinstance(turn, Mapping) else {}
    role_key, text_key = _keys_of(turn)
    role = row_values.fold(turn[role_key]) if isinstance(turn.get(role_key), str) else ""
    if role not in _ROLES:
        roles = SHAREGPT.roles if role_key == SHAREGPT.role else OPENAI.roles
        raise BadRow(f"{where}.{role_key}", f"must be one of {', '.join(sorted(roles))}")
    known = {role_key, text_key, "weight", "name", "tool_calls", "tool_call_id"}
    refuse_unknown(turn, known, f"{where}.")
    is_learned, spoken, said = _weight(turn, where) != 0, f"{where}.{text_key}", turn.get(text_key)
    if role == "function_call":
        return Turn(where, "assistant", "", is_learned, *tool_calls.read(said, spoken, functions))
    if is_empty(turn.get("tool_calls")):
        return Turn(where, _ROLES[role], _content(said, spoken), is_learned)
    called, nulls = tool_calls.read(turn["tool_calls"], f"{where}.tool_calls", functions)
    if _ROLES[role] != "assistant":
        raise BadRow(f"{where}.tool_calls", "only the assistant calls tools")
    text = "" if is_empty(said) else _content(said, spoken)
    return Turn(where, _ROLES[role], text, is_learned, called, nulls)


def _weight(turn: Row, where: str) -> Any:
    weight = turn.get("weight")
    if weight not in (None, 0, 1):
        raise BadRow(f"{where}.weight", "must be 0, which leaves the answer out, or 1")
    return weight


def _content(content: Any, where: str) -> str:
    """Return a turn's text; text parts stand one behind the other, as they do on the socket."""
    if isinstance(content, list) and not (len(content) == 1 and isinstance(content[0], str)):
        content = "".join(_part(part, f"{where}[{index}]") for index, part in enumerate(content))
    text = "" if content is None or isinstance(content, Mapping) else row_values.as_text(content, where)
    if not text.strip():
        raise BadRow(where, "must be text that is not empty")
    check_text(where, text)
    return text


def _part(part: Any, where: str) -> str:
    """Return a part's text; Bedrock's and Gemini's have no type."""
    is_bare = isinstance(part, Mapping) and part.keys() == {"text"}
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind != "text" and not is_bare:
        raise BadRow(f"{where}.type", "must be text; pictures, sound and files are not learned")
    if not isinstance(part.get("text"), str):
        raise BadRow(f"{where}.text", "must be text")
    return str(part["text"])


def content(format: str, turns: Sequence[Turn], field: str) -> Content:  # noqa: A002 - the field's own word
    """Return one example for each learned answer, with everything before it as its question; raise ``BadRow``.

    ShareGPT's conversations often begin in the middle: an answer before any question is left out, as FastChat does.
    """
    messages: list[Message] = []
    learned: list[Callable[[], Example]] = []
    opening: list[Turn] = []
    is_asked = is_called = False
    for turn in turns:
        called = {"tool_calls": list(turn.calls)} if turn.calls else {}
        if turn.role == "assistant" and not is_asked:
            opening.append(turn)
            continue
        if turn.role == "assistant" and turn.is_learned:
            answer = {"content": turn.content, **called} if called else turn.content
            learned.append(partial(_example, messages, len(messages), answer))
        elif turn.role == "tool" and not is_called:
            raise BadRow(turn.where, "the result of a tool must follow its call")
        is_asked = is_asked or turn.role == "user"
        is_called = turn.role == "tool" or bool(called)
        messages.append({"role": turn.role, "content": turn.content, **called})
    if not learned:
        told = (
            "an answer must follow a question of the user" if opening else "holds no answer of the assistant"
        )
        raise BadRow(opening[0].where if opening else field, told)
    left_out = Counter({OPENING: len(opening), NULLS: sum(turn.nulls for turn in turns)})
    return Content(format=format, examples=Unfolded(learned), left_out=+left_out)


def _example(messages: Sequence[Message], place: int, answer: Any) -> Example:
    return Example(task="chat", input=list(messages[:place]), target=answer)


def is_called(messages: Sequence[Message]) -> bool:
    """Tell whether the last message that is not a tool's calls one."""
    last = next((message for message in reversed(messages) if message["role"] != "tool"), {})
    return "tool_calls" in last


def refuse_unknown(row: Row, known: AbstractSet[str], where: str = "") -> None:
    """Refuse fields that would be lost; what is empty says nothing that could be."""
    if not row.keys() <= known:  # a file may have a million rows, most of them with known fields alone
        row_values.refuse_unknown(row, known, where, ignored=IGNORED, reasons=REFUSED)
