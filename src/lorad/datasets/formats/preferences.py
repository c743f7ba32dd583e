"""Preferences. A row that prefers one answer to another in, a plain chat row with the good one out.

What lives here: TRL's and LLaMA-Factory's ``chosen`` and ``rejected``, KTO's ``label`` and OpenAI's
``preferred_output``. What never does: deciding whether they are learned (``inbox.preferences``), reading the plain
row (``reader``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorad.datasets.containers.file_rows import BadRow
from lorad.datasets.formats import row_values
from lorad.datasets.formats.row_values import Row, unpacked

#: Fields of a question, and of an answer beside it.
_ANSWERS = {"prompt": "completion", "question": "answer", "instruction": "output"}

#: lorad's names of these fields, which a sidecar may map.
FIELDS = ("chosen", "rejected", "label", "kto_tag", "preferred_output", "non_preferred_output")

#: What says how good the answers are, not what they are.
_SCORES = {"score_chosen", "score_rejected", "prompt_id"}

#: What a label says of an answer; a number may be a category's as well.
_VERDICTS = ("true", "True", "TRUE", "false", "False", "FALSE")

_TRUE = (True, 1, "true", "True", "TRUE", "1")
_FALSE = (False, 0, "false", "False", "FALSE", "0")


@dataclass(frozen=True, slots=True)
class Preference:
    """What a row prefers."""

    format: str
    field: str
    """The field by which it is known."""
    row: Row | None = None
    """The good answer as a plain row; None when the row only says what is bad."""
    answer: tuple[str, str] = ("", "")
    """The answer's field in the plain row, and what the file calls it."""

    def own(self, field: str) -> str:
        """Return the file's own name of a field of the plain row."""
        plain, theirs = self.answer
        return theirs + field[len(plain) :] if plain and field.startswith(plain) else field


def find(row: Row) -> str | None:
    """Return the field by which a row is known to hold a preference, None when it holds none."""
    for name in ("chosen", "rejected", "preferred_output", "non_preferred_output"):
        if not row_values.is_empty(row.get(name)):
            return name
    if row.get("kto_tag") not in (None, "") and _is_chat(row):
        return "kto_tag"
    return "label" if _is_verdict(row.get("label")) and _is_chat(row) else None


def _is_verdict(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, str) and value in _VERDICTS)


def may_judge(row: Row) -> bool:
    """Tell whether a row says, or may say, that an answer is a bad one."""
    return find(row) is not None or any(row.get(name) in (*_TRUE, *_FALSE) for name in ("label", "kto_tag"))


def _is_chat(row: Row) -> bool:
    is_pair = any(question in row and answer in row for question, answer in _ANSWERS.items())
    return is_pair or "messages" in row or "conversations" in row


def read(row: Row) -> Preference:
    """Return the good answer of a row that ``find`` knows; raise ``BadRow``."""
    field = find(row) or ""
    if field in {"kto_tag", "label"}:
        return _kto(row, field)
    return _openai(row) if field.endswith("preferred_output") else _chosen(row)


def _kto(row: Row, field: str) -> Preference:
    value = row[field]
    if value not in _TRUE and value not in _FALSE:
        raise BadRow(field, "must be true or false: whether the answer is good")
    plain = {key: value for key, value in row.items() if key != field}
    if value in _FALSE:
        return Preference("kto", field)
    for key in ("messages", "conversations"):
        if isinstance(turns := unpacked(row, key), list):
            plain[key] = [*_context(turns[:-1]), *turns[-1:]]
    return Preference("kto", field, plain)


def _openai(row: Row) -> Preference:
    source = row.get("input")
    if not isinstance(source, Mapping) or not isinstance(source.get("messages"), list):
        raise BadRow("input.messages", "must be a list of messages")
    if not isinstance(row.get("preferred_output"), list):
        raise BadRow("preferred_output", "must be a list of messages")
    rest = {key: value for key, value in source.items() if key not in ("messages", "parallel_tool_calls")}
    rest |= {key: value for key, value in row.items() if key not in ("input", *FIELDS)}
    plain = {**rest, "prompt": source["messages"], "completion": row["preferred_output"]}
    return Preference("openai preference", "preferred_output", plain, ("completion", "preferred_output"))


def _chosen(row: Row) -> Preference:
    rest = {key: value for key, value in row.items() if key not in {"chosen", "rejected", *_SCORES}}
    good, bad = _turns(row, "chosen"), _turns(row, "rejected")
    if row_values.is_empty(good):
        raise BadRow("chosen", "is empty")
    for key in ("messages", "conversations"):
        turns = unpacked(rest, key)
        if turns == good:  # UltraFeedback repeats the good conversation
            del rest[key]
        elif isinstance(turns, list):
            told = [*_context(turns), *(good if isinstance(good, list) else [good])]
            return Preference("preference", "chosen", {**rest, key: told}, (f"{key}[{len(turns)}]", "chosen"))
    if isinstance(good, Mapping):
        good, bad = [good], [bad]
    if isinstance(good, list):
        asked = _asked(rest, good, _shared(good, bad))
        plain = {**rest, "prompt": asked, "completion": good[_shared(good, bad) :]}
        return Preference("preference", "chosen", plain, ("completion", "chosen"))
    question = next((name for name in _ANSWERS if name in rest), "prompt")
    answer = _ANSWERS[question]
    return Preference("preference", "chosen", {**rest, answer: good}, (answer, "chosen"))


def _turns(row: Row, key: str) -> Any:
    """Return a field's messages; an answer may well be a list in JSON itself, and stays text."""
    value = unpacked(row, key)
    is_text = isinstance(row.get(key), str) and isinstance(value, list)
    return row[key] if is_text and not all(isinstance(turn, Mapping) for turn in value) else value


def _context(turns: Sequence[Any]) -> list[Any]:
    """Return turns none of which is learned."""
    return [{**turn, "weight": 0} if isinstance(turn, Mapping) else turn for turn in turns]


def _shared(good: Sequence[Any], bad: Any) -> int:
    """Return how many messages two conversations begin with together: their question, as TRL finds it."""
    most = len(good) - 1
    if not isinstance(bad, list):
        return most
    same = zip(good[:most], bad, strict=False)
    return next((at for at, (one, other) in enumerate(same) if one != other), min(most, len(bad)))


def _asked(row: Row, good: Sequence[Any], shared: int) -> list[Any]:
    """Return the question: the prompt, and what the two conversations share."""
    prompt = _turns(row, "prompt")
    told = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt or []
    if not isinstance(told, list):
        raise BadRow("prompt", "must be text or a list of messages")
    begun = list(good[:shared])
    if begun and isinstance(begun[0], Mapping) and begun[0].get("role") != "assistant":
        if told and begun[-len(told) :] != told:
            raise BadRow("prompt", "differs from the beginning of chosen and rejected; remove one of the two")
        return begun
    return [*told, *begun]
