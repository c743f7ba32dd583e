"""Materials: exports. A row as another product or benchmark writes it in, what it teaches out.

What lives here: ChatGPT's and Claude's conversations, SQuAD's passages, OpenAI's batches; what of them is left out,
counted by reason. What never does: formats that are written to be learned from (``conversations``, ``pairs``).

Nobody cleaned these files for training. So what an export says beside text (hidden turns, tools, pictures, files) is
left out and told, and is no mistake of the row; an answer to a question that was left out goes with it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorad import calls, cells, conversations
from lorad.cells import Row
from lorad.conversations import Content, Turn
from lorad.domain import Example
from lorad.rows import BadRow

#: The fields by which these rows are known.
FIELDS = frozenset({"mapping", "chat_messages", "custom_id", "paragraphs", "qas", "context"})

HIDDEN = "turns that the product hides"
NOT_SPOKEN = "turns of the system and of tools"
NOT_TEXT = "turns that are not text alone (pictures, sound, code, thoughts)"
WITH_FILES = "questions with a file or a picture"
EMPTY = "turns without text"
UNASKED = "answers to a question that is left out"
SILENT = "conversations without a question and its answer"
UNANSWERED = "questions without an answer"

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


def find(row: Row) -> Callable[[Row], Content] | None:
    """Return what reads a row that one of these products wrote, None when none of them did."""
    if FIELDS.isdisjoint(row):  # a file may have a million rows, most of them of none
        return None
    return next((read for is_it, read in _READERS if is_it(row)), None)


def _conversation(name: str, said: Sequence[_Said]) -> Content:
    """Return what is learned of a conversation; turns that stand without the question before them go too."""
    left_out: Counter[str] = Counter()
    turns: list[Turn] = []
    is_asked = True
    for turn in said:
        is_answer = turn.role == "assistant"
        reason = turn.reason or (UNASKED if is_answer and not is_asked else None)
        if turn.role == "user" and turn.reason != HIDDEN:
            is_asked = turn.reason is None
        if reason:
            left_out[reason] += 1
            continue
        turns.append(Turn("", turn.role, turn.text, is_learned=True))
    try:
        made = conversations.content(name, turns, "")
    except BadRow:  # somebody asked and went, or an answer stands alone
        return Content(format=name, examples=[], left_out=left_out + Counter({SILENT: 1}))
    return Content(format=name, examples=made.examples, left_out=left_out + Counter(made.left_out))


def _spoken(role: str, text: str) -> _Said:
    if not text.strip():
        return _Said(role, reason=EMPTY)
    cells.check_text(role, text)
    return _Said(role, text)


# ChatGPT


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
    if about.get("is_visually_hidden_from_conversation") or message.get("weight") == 0:
        return _Said(role or "system", reason=HIDDEN)
    if role is None or message.get("recipient") not in (None, "all"):
        return _Said(role or "system", reason=NOT_SPOKEN)
    parts = said.get("parts")
    parts = parts if isinstance(parts, list) else []
    if said.get("content_type") != "text" or not all(isinstance(part, str) for part in parts):
        is_shown = role == "user" and said.get("content_type") == "multimodal_text"
        return _Said(role, reason=WITH_FILES if is_shown else NOT_TEXT)
    if about.get("attachments") and role == "user":
        return _Said(role, reason=WITH_FILES)
    return _spoken(role, "".join(parts))


def _object(value: Row, key: str) -> Row:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


# Claude


def _claude(row: Row) -> Content:
    return _conversation(
        "claude", [_from_claude(each, f"chat_messages[{at}]") for at, each in enumerate(row["chat_messages"])]
    )


def _from_claude(message: Any, where: str) -> _Said:
    role = _ROLES.get(str(message.get("sender"))) if isinstance(message, Mapping) else None
    if role is None:
        raise BadRow(f"{where}.sender", "must be human or assistant")
    if role == "user" and (message.get("attachments") or message.get("files") or message.get("files_v2")):
        return _Said(role, reason=WITH_FILES)
    parts = message.get("content")
    parts = [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
    texts = [str(part.get("text") or "") for part in parts if part.get("type") == "text"]
    if parts and not texts:
        return _Said(role, reason=NOT_TEXT)
    # the thoughts and tools between an answer's texts are not among them, in `text` they may be
    whole = message.get("text")
    return _spoken(role, "\n".join(filter(None, texts)) or (whole if isinstance(whole, str) else ""))


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
    answer = _first_choice(_object(_object(row, "response"), "body"))
    if not answer:
        return Content(format="openai batch", examples=[], left_out={UNANSWERED: 1})
    functions = calls.functions(body)
    question = conversations.turns(asked, "body.messages", functions)
    told_turns = conversations.turns([answer], "response.body.choices", functions)
    context = [Turn(t.where, t.role, t.content, is_learned=False, calls=t.calls) for t in question]
    turns = [*conversations.tool_turns(functions), *context, *told_turns]
    return conversations.content("openai batch", turns, "response")


def _first_choice(body: Row) -> Row:
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    return _object(first, "message") if isinstance(first, Mapping) else {}


# SQuAD


def _squad(row: Row) -> Content:
    """Read an article, or one of its passages: a file has them in ``data``."""
    given = row["paragraphs"] if isinstance(row.get("paragraphs"), list) else [row]
    examples: list[Example] = []
    unanswered = 0
    for at, passage in enumerate(given):
        for where, asked in _asked(passage, f"paragraphs[{at}]"):
            example = _squad_example(asked, passage, where)
            examples += [example] if example else []
            unanswered += example is None
    return Content(format="squad", examples=examples, left_out=+Counter({UNANSWERED: unanswered}))


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
    example = _squad_example(row, row, "")
    return Content(
        format="squad",
        examples=[example] if example else [],
        left_out={} if example else {UNANSWERED: 1},
    )


def _squad_example(asked: Row, passage: Row, where: str) -> Example | None:
    """Return a question behind the passage on which it rests, and the first answer; None when it has none."""
    answer = None if asked.get("is_impossible") else _first_answer(asked.get("answers"))
    if answer is None:
        return None
    try:
        context, question = cells.text(passage, "context"), cells.text(asked, "question")
        told = cells.text({"answers": answer}, "answers")
    except BadRow as problem:
        raise BadRow(where + problem.field, str(problem)) from None
    return Example(task="chat", question=[{"role": "user", "content": f"{context}\n{question}"}], answer=told)


def _first_answer(answers: Any) -> Any:
    """Return the first of several people's answers: a list of objects, or the hub's object of lists."""
    if isinstance(answers, Mapping):
        answers = answers.get("text")
    if isinstance(answers, list):
        answers = answers[0] if answers else None
    return answers.get("text") if isinstance(answers, Mapping) else answers


def _is_squad_question(row: Row) -> bool:
    return {"question", "context", "answers"} <= row.keys() and not isinstance(row["answers"], str)


_READERS: tuple[tuple[Callable[[Row], bool], Callable[[Row], Content]], ...] = (
    (lambda row: isinstance(row.get("mapping"), Mapping), _chatgpt),
    (lambda row: isinstance(row.get("chat_messages"), list), _claude),
    (
        lambda row: "custom_id" in row and not isinstance(row.get("response", row.get("body", "")), str),
        _batch,
    ),
    (lambda row: isinstance(row.get("paragraphs"), list) or isinstance(row.get("qas"), list), _squad),
    (_is_squad_question, _squad_question),
)
