"""Pairs. A row with a question and its answer in fields side by side in, what it says out.

What lives here: the names of such fields, what may stand beside them (Alpaca's ``input``, Dolly's ``context``,
LLaMA-Factory's ``history``), TRL's prompt and completion. What never does: lists of turns by themselves
(``conversations``).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from lorad.datasets.containers.file_rows import BadRow
from lorad.datasets.formats import conversations, row_values, tool_calls
from lorad.datasets.formats.conversations import Content, Message, Turn
from lorad.datasets.formats.row_values import Row, check_text, text, unpacked
from lorad.records import Example

_SPEAKERS = ("user", "assistant")

_QUESTIONS = ("instruction", "question", "prompt", "query", "input")
_ANSWERS = ("output", "answer", "completion", "response", "generation", "answers")

#: Formats by question and answer field, in the order in which they are tried: first those that a program writes.
WRITTEN = (
    ("alpaca", "instruction", "output"),
    ("instruction-response", "instruction", "response"),
    ("question-answer", "question", "answer"),
    ("prompt-completion", "prompt", "completion"),
    ("input-output", "input", "output"),
    ("prompt-generation", "prompt", "generation"),
    ("question-response", "question", "response"),
)
PAIRS = WRITTEN + tuple(
    (f"{question}-{answer}", question, answer)
    for question in _QUESTIONS
    for answer in _ANSWERS
    if (question, answer) not in {(asked, told) for _, asked, told in WRITTEN}
)

#: How people shorten question and answer; two letters say so only where nothing else is in a row.
SHORT = ("q", "a")

#: Text on which the question is asked: Alpaca's, and Dolly's. It stands behind an instruction, and before a question.
_CONTEXTS = ("input", "context")

#: Fields that may stand beside a question and its answer.
BESIDE = frozenset({"system", "system_prompt", "history", *conversations.WORDINGS})


def find(row: Row) -> tuple[str, str, str] | None:
    """Return the format of a row, and its question's and answer's fields; None when it has none.

    Tables of several sources have empty columns: fields that say something count first.
    """
    found = [pair for pair in PAIRS if pair[1] in row and pair[2] in row]
    for name, question, answer in found:
        if row_values.says(row[question]) and row_values.says(row[answer]):
            return name, question, answer
    for name, question, answer in found:  # to be told what it lacks
        if not row[question] is row[answer] is None:
            return name, question, answer
    return ("question-answer", *SHORT) if set(row).difference(conversations.WORDINGS) == set(SHORT) else None


def read(row: Row, name: str, question: str, answer: str) -> Content:
    """Return what a row says; raise ``BadRow``."""
    if question == "prompt" and (said := _prompt_and_answer(row, name, answer)):
        return said
    said = Content(format=name, examples=[_pair(row, question, answer)])
    return conversations.worded(said, row, partial(_asked, row, question))


def _pair(row: Row, question: str, answer: str) -> Example:
    allowed = {question, answer, "context", *BESIDE}
    allowed |= {"input"} if question == "instruction" else set()
    if isinstance(row.get("text"), str):
        _refuse_other_text(row, (question, "input", answer))
        allowed.add("text")
    conversations.refuse_unknown(row, allowed)
    messages: list[Message] = [_message(turn) for turn in conversations.system_turns(row)]
    messages += _history(row)
    messages.append({"role": "user", "content": _asked(row, question, text(row, question))})
    return Example(task="chat", input=messages, target=text(row, answer))


def _message(turn: Turn) -> Message:
    return {"role": turn.role, "content": turn.content}


def _asked(row: Row, question: str, wording: str) -> str:
    """Return the question in these words and its context; Alpaca joins the two with a line break."""
    asked = [wording]
    for name in _CONTEXTS:
        context = row.get(name) if name != question else None
        if context is None or (isinstance(context, str) and not context.strip()):
            continue
        asked.insert(len(asked) if question == "instruction" else 0, text(row, name))
    return "\n".join(asked)


def _refuse_other_text(row: Row, keys: Sequence[str]) -> None:
    """Refuse a text that is not just the row behind a template, as it is in Alpaca's own file."""
    parts = [row[key].strip() for key in keys if isinstance(row.get(key), str)]
    if not all(part in row["text"] for part in parts) and row["text"].strip():
        raise BadRow(
            "text", f"conflicts with {keys[0]} and {keys[-1]}; choose two of them in the sidecar's fields"
        )


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


def _prompt_and_answer(row: Row, name: str, answer: str) -> Content | None:
    """Return what TRL's conversational form says, None when prompt and answer are plain text."""
    prompt, told = _dialogue(row, "prompt"), _dialogue(row, answer)
    if prompt is None and told is None:
        return None
    conversations.refuse_unknown(row, {"prompt", answer, "tools", *conversations.WORDINGS})
    functions = tool_calls.functions(row)
    prompt = prompt or [{"role": "user", "content": text(row, "prompt")}]
    told = told or [{"role": "assistant", "content": text(row, answer)}]
    asked = [replace(turn, is_learned=False) for turn in conversations.turns(prompt, "prompt", functions)]
    said = conversations.turns(told, answer, functions)
    tools = conversations.tool_turns(functions)
    whole = conversations.content(f"{name} messages", [*tools, *asked, *said], answer)
    return conversations.worded(whole, row)


def _dialogue(row: Row, key: str) -> list[Any] | None:
    """Return a field's list of messages; None when it is text, which may well be a list in JSON itself."""
    value = row[key]
    if isinstance(value, str):
        if value.startswith(("[{'role'", "[{'content'")):
            raise BadRow(key, "is a list as Python prints it; write it as JSON")
        value = unpacked(row, key)
        return value if isinstance(value, list) and all(map(conversations.is_turn, value)) else None
    are_texts = isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)
    return value if isinstance(value, list) and not are_texts else None
