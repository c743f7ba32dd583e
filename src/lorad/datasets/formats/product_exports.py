"""Exports. A row as another product or benchmark writes it in, what it teaches out.

What lives here: ChatGPT's and Claude's conversations, SQuAD's passages, OpenAI's batches; what of them is left out,
counted by reason. What never does: formats that are written to be learned from (``conversations``, ``pairs``).

Nobody cleaned these files for training. So what an export says beside text (hidden turns, tools, pictures, files) is
left out and told, and is no mistake of the row; an answer to a question that was left out goes with it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lorad.datasets.containers.file_rows import BadRow
from lorad.datasets.formats import conversations, row_values, tool_calls
from lorad.datasets.formats.conversations import Content, Turn, Unfolded
from lorad.datasets.formats.row_values import Row
from lorad.records import Example

#: The fields by which these rows are known.
FIELDS = frozenset({"mapping", "chat_messages", "custom_id", "paragraphs", "qas", "context", "conversations"})

HIDDEN = "turns that the product hides"
NOT_SPOKEN = "turns of the system and of tools"
NOT_TEXT = "turns that are not text alone (pictures, sound, code, thoughts)"
WITH_FILES = "questions with a file or a picture"
EMPTY = "turns without text"
UNASKED = "answers to a question that is left out"
FOLLOWING = "answers later on, which may be about what is left out"
BEFORE_TOOLS = "what the assistant says before it uses a tool"
CUT = "answers that were cut off"
CITING = "answers with marks of sources"
SILENT = "conversations without a question and its answer"
UNANSWERED = "questions without an answer"

#: Fields by which a row is one that was written to be learned from.
_TAUGHT = ("question", "prompt", "instruction", "input", "messages")

_ANSWERS = ("answer", "response", "output", "completion", "generation")

#: What ChatGPT writes where it shows a source.
_CITATION = re.compile("[\ue200-\ue20f]|【[^【】†]*†[^【】]*】")

#: Why a product says that an answer ended before its end.
_CUTS = {"length", "max_tokens", "interrupted", "content_filter", "user_canceled", "user_cancelled"}
_UNFINISHED = {"finished_partial_completion", "in_progress"}

_ROLES = {"user": "user", "human": "user", "assistant": "assistant"}

_JOIN = (
    "join it with the batch's {other} by custom_id, one row each: "
    '{{"messages": [the messages of the input, {{"role": "assistant", "content": the answer}}]}}'
)


@dataclass(frozen=True, slots=True)
class _Said:
    """A turn of an export: its text, or why it is left out."""

    role: str
    text: str = ""
    reason: str | None = None
    is_context: bool = False
    """Whether what follows rests on it, although it is not learned."""


def find(row: Row) -> Callable[[Row], Content] | None:
    """Return what reads a row that one of these products wrote, None when none of them did."""
    if FIELDS.isdisjoint(row):  # a file may have a million rows, most of them of none
        return None
    return next((read for is_it, read in _READERS if is_it(row)), None)


def _conversation(name: str, said: Sequence[_Said]) -> Content:
    """Return what is learned of a conversation, without the turns that rest on what is not there."""
    left_out: Counter[str] = Counter()
    turns: list[Turn] = []
    for turn, reason in zip(said, _reasons(said), strict=True):
        if reason:
            left_out[reason] += 1
        if not reason or (turn.is_context and reason == turn.reason):
            turns.append(Turn("", turn.role, turn.text, is_learned=not reason))
    try:
        made = conversations.content(name, turns, "")
    except BadRow:  # somebody asked and went, or an answer stands alone
        return Content(format=name, examples=[], left_out=left_out + Counter({SILENT: 1}))
    return Content(format=name, examples=made.examples, left_out=left_out + Counter(made.left_out))


def _reasons(said: Sequence[_Said]) -> Iterator[str | None]:
    """Yield why each turn is left out, None for those that stay."""
    is_asked, is_complete = True, True
    for turn, uses_tools in zip(said, _using_tools(said), strict=True):
        if turn.role == "user" and turn.reason != HIDDEN:
            is_asked = turn.reason is None
            is_complete = is_complete and turn.reason not in (WITH_FILES, NOT_TEXT)
        if turn.role != "assistant" or (turn.reason and not turn.is_context):
            yield turn.reason
        elif not is_asked:
            yield UNASKED
        elif not is_complete:
            yield FOLLOWING
        else:
            yield BEFORE_TOOLS if uses_tools else turn.reason


def _using_tools(said: Sequence[_Said]) -> list[bool]:
    """Tell behind which turns a tool is called before the next question."""
    found: list[bool] = []
    uses_tools = False
    for turn in reversed(said):
        found.append(uses_tools)
        if turn.role == "user":
            uses_tools = False
        elif turn.role == "tool" or (turn.role == "assistant" and turn.reason == NOT_SPOKEN):
            uses_tools = True
    return found[::-1]


def _spoken(role: str, text: str, *, is_cut: bool = False) -> _Said:
    if not text.strip():
        return _Said(role, reason=EMPTY)
    row_values.check_text(role, text)
    if role == "assistant" and (is_cut or _CITATION.search(text)):
        return _Said(role, text, CUT if is_cut else CITING, is_context=True)
    return _Said(role, text)


def _is_taught(row: Row) -> bool:
    """Tell whether a row has a question of its own; what else it holds says something about that."""
    return any(row_values.says(row.get(name)) for name in _TAUGHT)


# ChatGPT


def _is_chatgpt(row: Row) -> bool:
    nodes = row.get("mapping")
    return isinstance(nodes, Mapping) and (any(map(_is_node, nodes.values())) or "current_node" in row)


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and ("message" in value or {"parent", "children"} <= value.keys())


def _chatgpt(row: Row) -> Content:
    messages = (node.get("message") for node in _branch(row))
    return _conversation("chatgpt", [_from_chatgpt(each) for each in messages if isinstance(each, Mapping)])


def _branch(row: Row) -> list[Row]:
    """Return the nodes from the root to the one that was open last; what was tried beside it is not there."""
    nodes, branch, passed = row["mapping"], [], set()
    at = row.get("current_node")
    if not isinstance(at, str) or at not in nodes:
        leaves = [
            key for key, node in nodes.items() if isinstance(node, Mapping) and not node.get("children")
        ]
        at = leaves[-1] if leaves else None
    while isinstance(at, str) and at not in passed and isinstance(nodes.get(at), Mapping):
        passed.add(at)
        branch.append(nodes[at])
        at = nodes[at].get("parent")
    return branch[::-1]


def _from_chatgpt(message: Row) -> _Said:
    author, said, about = (_object(message, name) for name in ("author", "content", "metadata"))
    role = _ROLES.get(str(author.get("role")))
    other = "tool" if author.get("role") == "tool" else "system"
    if about.get("is_visually_hidden_from_conversation") or message.get("weight") == 0:
        return _Said(role or other, reason=HIDDEN)
    if role is None or message.get("recipient") not in (None, "all"):
        return _Said(role or other, reason=NOT_SPOKEN)
    parts = said.get("parts")
    parts = parts if isinstance(parts, list) else []
    if said.get("content_type") != "text" or not all(isinstance(part, str) for part in parts):
        is_shown = role == "user" and said.get("content_type") == "multimodal_text"
        return _Said(role, reason=WITH_FILES if is_shown else NOT_TEXT)
    if about.get("attachments") and role == "user":
        return _Said(role, reason=WITH_FILES)
    is_cut = message.get("status") in _UNFINISHED or _object(about, "finish_details").get("type") in _CUTS
    return _spoken(role, "".join(parts), is_cut=is_cut)


def _object(value: Row, key: str) -> Row:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


# Claude

_TOOLS = ("tool_use", "tool_result")


def _is_claude(row: Row) -> bool:
    listed = row.get("chat_messages")
    return isinstance(listed, list) and (bool(listed) or not _is_taught(row))


def _claude(row: Row) -> Content:
    listed = row["chat_messages"]
    branch = _open_last(row, listed)
    return _conversation("claude", [_from_claude(listed[at], f"chat_messages[{at}]") for at in branch])


def _open_last(row: Row, listed: Sequence[Any]) -> list[int]:
    """Return the places of the messages of the newest branch; of all where none names the one before it."""
    named = {
        each["uuid"]: at
        for at, each in enumerate(listed)
        if isinstance(each, Mapping) and isinstance(each.get("uuid"), str)
    }
    before = [
        named.get(str(each.get("parent_message_uuid"))) if isinstance(each, Mapping) else None
        for each in listed
    ]
    if all(parent is None for parent in before):
        return list(range(len(listed)))
    at: int | None = named.get(str(row.get("current_leaf_message_uuid")), len(listed) - 1)
    branch: dict[int, None] = {}
    while at is not None and at not in branch:
        branch[at] = None
        at = before[at]
    return list(branch)[::-1]


def _from_claude(message: Any, where: str) -> _Said:
    role = _ROLES.get(str(message.get("sender"))) if isinstance(message, Mapping) else None
    if role is None:
        raise BadRow(f"{where}.sender", "must be human or assistant")
    if role == "user" and (message.get("attachments") or message.get("files") or message.get("files_v2")):
        return _Said(role, reason=WITH_FILES)
    parts = message.get("content")
    parts = [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    last_tool = max((at for at, part in enumerate(parts) if part.get("type") in _TOOLS), default=-1)
    texts, answer = _texts(parts), _texts(parts[last_tool + 1 :])
    if parts and not answer:
        return _Said(role, reason=BEFORE_TOOLS if texts else NOT_TEXT)
    # the thoughts and tools between an answer's texts are not among them, in `text` they may be
    whole = message.get("text")
    told = "\n".join(filter(None, answer)) or (whole if isinstance(whole, str) and last_tool < 0 else "")
    return _spoken(role, told, is_cut=message.get("stop_reason") in _CUTS)


def _texts(parts: Sequence[Row]) -> list[str]:
    return [str(part.get("text") or "") for part in parts if part.get("type") == "text"]


# OpenAI's batches


def _batch(row: Row) -> Content:
    """Read a batch's answer beside its question, where somebody joined the two; either alone teaches nothing."""
    body = _object(row, "body") or _object(_object(row, "request"), "body")
    asked = body.get("messages", row.get("messages"))
    if "response" not in row:
        told = "a batch's input asks and has no answers; " + _JOIN.format(other="output")
        raise BadRow("body", told)
    if not isinstance(asked, list):
        told = "a batch's output has answers and not their questions; " + _JOIN.format(other="input")
        raise BadRow("response", told)
    choice = _first_choice(_object(_object(row, "response"), "body"))
    answer, is_cut = _object(choice, "message"), choice.get("finish_reason") in _CUTS
    if not answer or is_cut:
        return Content(format="openai batch", examples=[], left_out={CUT if is_cut else UNANSWERED: 1})
    functions = tool_calls.functions(body)
    question = conversations.turns(asked, "body.messages", functions)
    told_turns = conversations.turns([answer], "response.body.choices", functions)
    context = [Turn(t.where, t.role, t.content, is_learned=False, calls=t.calls) for t in question]
    turns = [*conversations.tool_turns(functions), *context, *told_turns]
    return conversations.content("openai batch", turns, "response")


def _first_choice(body: Row) -> Row:
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    return first if isinstance(first, Mapping) else {}


def _is_batch(row: Row) -> bool:
    if "custom_id" not in row or isinstance(row.get("response", row.get("body", "")), str):
        return False
    return not _is_taught(row) or isinstance(row.get("messages"), list)


# SQuAD


def _squad(row: Row) -> Content:
    """Read an article, or one of its passages: a file has them in ``data``."""
    given = row["paragraphs"] if isinstance(row.get("paragraphs"), list) else [row]
    made: list[Callable[[], Example]] = []
    unanswered = 0
    for at, passage in enumerate(given):
        context: str | None = None
        for where, asked in _asked(passage, f"paragraphs[{at}]"):
            answer = _squad_answer(asked)
            if answer is None:
                unanswered += 1
                continue
            context = context or _squad_text(passage, "context", where)
            question = _squad_text(asked, "question", where)
            told = _squad_text({"answers": answer}, "answers", where)
            made.append(partial(_squad_example, context, question, told))
    left_out = +Counter({UNANSWERED: unanswered})
    return Content(format="squad", examples=Unfolded(made), left_out=left_out)


def _asked(passage: Any, where: str) -> Iterator[tuple[str, Row]]:
    questions = passage.get("qas") if isinstance(passage, Mapping) else None
    if not isinstance(questions, list):
        raise BadRow(f"{where}.qas", "must be a list of questions")
    for at, asked in enumerate(questions):
        if not isinstance(asked, Mapping) or "question" not in asked or "context" not in passage:
            raise BadRow(f"{where}.qas[{at}]", "must be a question about the passage's context")
        yield f"{where}.qas[{at}].", asked


def _squad_question(row: Row) -> Content:
    """Read a question with its passage in one row, as the hub has them."""
    known = {"title", "context", "question", "answers", "is_impossible"}
    conversations.refuse_unknown(row, known)
    answer = _squad_answer(row)
    if answer is None:
        return Content(format="squad", examples=[], left_out={UNANSWERED: 1})
    context, question = _squad_text(row, "context"), _squad_text(row, "question")
    example = _squad_example(context, question, _squad_text({"answers": answer}, "answers"))
    return Content(format="squad", examples=[example])


def _squad_answer(asked: Row) -> Any:
    """Return the first answer to a question, None when it has none."""
    return None if asked.get("is_impossible") else _first_answer(asked.get("answers"))


def _squad_text(row: Row, key: str, where: str = "") -> str:
    try:
        return row_values.text(row, key)
    except BadRow as problem:
        raise BadRow(where + problem.field, str(problem)) from None


def _squad_example(context: str, question: str, answer: str) -> Example:
    """Return a question behind the passage on which it rests."""
    return Example(task="chat", input=[{"role": "user", "content": f"{context}\n{question}"}], target=answer)


def _first_answer(answers: Any) -> Any:
    """Return the first of several people's answers: a list of objects, or the hub's object of lists."""
    if isinstance(answers, Mapping):
        answers = answers.get("text")
    if isinstance(answers, list):
        answers = answers[0] if answers else None
    return answers.get("text") if isinstance(answers, Mapping) else answers


def _is_squad_question(row: Row) -> bool:
    if not {"question", "context", "answers"} <= row.keys() or isinstance(row["answers"], str):
        return False
    # a table has a column for everybody: where it is empty, another one has the answer
    return row_values.says(row["answers"]) or not any(row_values.says(row.get(name)) for name in _ANSWERS)


def _is_squad(row: Row) -> bool:
    listed = row.get("paragraphs")
    if isinstance(listed, list):
        return any(isinstance(each, Mapping) and "qas" in each for each in listed) or not (
            listed or _is_taught(row)
        )
    return isinstance(row.get("qas"), list) and (bool(row["qas"]) or not _is_taught(row))


# several conversations in one row


def _are_conversations(row: Row) -> bool:
    listed = row.get("conversations")
    return (
        isinstance(listed, list)
        and bool(listed)
        and all(isinstance(each, Mapping) and (_is_chatgpt(each) or _is_claude(each)) for each in listed)
    )


def _conversations(row: Row) -> Content:
    """Read what somebody put around an export."""
    conversations.refuse_unknown(row, {"conversations"})
    made = [_chatgpt(each) if _is_chatgpt(each) else _claude(each) for each in row["conversations"]]
    left_out = sum((Counter(each.left_out) for each in made), Counter[str]())
    examples = [make for each in made for make in _made(each.examples)]
    return Content(format=made[0].format, examples=Unfolded(examples), left_out=left_out)


def _made(examples: Sequence[Example]) -> Sequence[Callable[[], Example]]:
    return examples.made if isinstance(examples, Unfolded) else []  # of an export all are, or none is there


_READERS: tuple[tuple[Callable[[Row], bool], Callable[[Row], Content]], ...] = (
    (_is_chatgpt, _chatgpt),
    (_is_claude, _claude),
    (_are_conversations, _conversations),
    (_is_batch, _batch),
    (_is_squad, _squad),
    (_is_squad_question, _squad_question),
)
