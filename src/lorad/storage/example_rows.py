"""Rows of the examples' table: as examples, and as rows of an export.

What lives here: reading them, also what an older lorad kept and JSON cannot say. What never does: queries (``memory``).
"""

import json
import math
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lorad.records import SPECTRA, Example, as_message
from lorad.storage.strict_json import LEVELS, Flaw, NotJson, is_deeper, parse

#: Characters of questions and answers after which a page ends: a row may have a megabyte.
PAGE_LENGTH = 4_000_000

#: Levels of an example that is exported, which stands in a row and its messages: a call's arguments may have LEVELS.
_DEEPEST = LEVELS + 4


class FullPage:
    """Tells of one row after the other whether a page is full with it."""

    def __init__(self) -> None:
        self._length = 0

    def __call__(self, row: sqlite3.Row) -> bool:
        """Tell whether this row fills the page."""
        for name in ("question", "answer", "also_asked", "held_out"):
            self._length += len(str(row[name]))  # whatever somebody has put there
        return self._length >= PAGE_LENGTH


def exported(row: sqlite3.Row) -> dict[str, Any]:
    """Return an example as a row of an export, with where it comes from; what cannot be read says so."""
    names = ("line", "added_at", "learned_in", "recalled", "recalled_in")
    provenance = {"row": row["rowid"], **{name: row[name] for name in names}}
    try:
        example = _readable(row)
        told = _ROWS.get(example.task, _as_chat)(example)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        told = {"unreadable": f"{type(error).__name__}: {error}"}
    return told | {"dataset": _clean(row["dataset"]), "provenance": provenance}


def _as_chat(example: Example) -> dict[str, Any]:
    tools = [message["content"] for message in example.input if message["role"] == "tools"]
    # what is learned of a conversation has a row for each turn: here the turns before are context
    asked = [
        message | ({"weight": 0} if message["role"] == "assistant" else {})
        for message in example.input
        if message["role"] != "tools"
    ]
    return {
        "messages": [*asked, {"role": "assistant", **as_message(example.target)}],
        **({"tools": _functions(tools[0])} if tools else {}),
        **_wordings(example),
    }


#: Rows of each task's own, as its datasets may be written; all others are conversations.
_ROWS: dict[str, Callable[[Example], dict[str, Any]]] = {
    "tagging": lambda example: {"text": example.input, "spans": example.target},
    "classify": lambda example: {"text": example.input, "label": example.target},
    SPECTRA: lambda example: {"smiles": example.target, **example.input},
}


def _wordings(example: Example) -> dict[str, list[str]]:
    """Return an example's other wordings, both lists: else a reader would choose anew which ones are held out."""
    if not example.also_asked and not example.held_out:
        return {}
    return {"also_asked": list(example.also_asked), "held_out": list(example.held_out)}


def _readable(row: sqlite3.Row) -> Example:
    """Return an example that can be written as JSON and read again: what an older lorad kept need not be.

    Then a half of a character, a number that JSON lacks and what is nested too deeply are told as text.
    """
    try:
        example = read_example(row)
    except RecursionError:
        return Example(task=row["task"], input=[], target=row["answer"], dataset=row["dataset"])
    try:
        json.dumps([example.input, example.target], ensure_ascii=False, allow_nan=False).encode()
    except (RecursionError, ValueError):
        return replace(example, input=_clean(example.input), target=_clean(example.target))
    if is_deeper([example.input, example.target], _DEEPEST):
        return replace(example, input=_clean(example.input), target=_clean(example.target))
    return example


def _clean(value: Any, levels: int = _DEEPEST) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict | list) and not levels:
        return json.dumps(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(each, levels - 1) for key, each in value.items()}
    return [_clean(each, levels - 1) for each in value] if isinstance(value, list) else value


def _functions(written: str) -> Any:
    """Return what a conversation may call; as text where an older lorad kept what cannot be written as a value."""
    try:
        found = parse(written, levels=LEVELS)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (NotJson, Flaw, ValueError):
        return written
    return found


def has_wordings(row: sqlite3.Row) -> bool:
    """Tell whether a row's question has other wordings."""
    return (row["also_asked"], row["held_out"]) != ("[]", "[]")


def wording_lists(example: Example) -> tuple[str, str]:
    """Return an example's other wordings as the table has them."""
    return json.dumps(example.also_asked), json.dumps(example.held_out)


def read_example(row: sqlite3.Row) -> Example:
    """Return the example that a row holds."""
    return Example(
        task=row["task"],
        input=json.loads(row["question"]),
        target=json.loads(row["answer"]),
        dataset=row["dataset"],
        line=row["line"],
        also_asked=tuple(json.loads(row["also_asked"])),
        held_out=tuple(json.loads(row["held_out"])),
    )
