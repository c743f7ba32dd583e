"""The shapes that programs give to rows in JSON. A value in, rows out; nothing here reads.

What lives here: rows under ids, columns, answers under their questions, lists without names, what the dataset
viewer and double encoding put around a row. What never does: files and streams (``json_rows``), what a field
means (``reader``).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lorad.datasets.containers.layout import QUESTION_AND_ANSWER, BadRow, Layout
from lorad.storage.strict_json import Flaw, NotJson, parse

#: By which a turn of a conversation is known, and the field in which a row has its turns.
_TURNS = (("role", "messages"), ("from", "conversations"))

#: What a turn says; a person in a row may have a role as well.
_SAID = frozenset({"content", "value", "text", "parts", "tool_calls"})

#: Conversations of one row, of which one is preferred to the other.
_JUDGED = frozenset({"chosen", "rejected", "preferred_output", "non_preferred_output"})

#: How a question ends, in the scripts that have a sign for it.
_ASKING = ("?", "\uff1f", "\u061f", "\u037e", "\u055e", "\u2e2e")

_RECORDS = "write a list of rows; in pandas: to_json(orient='records')"


def decoded(value: Any) -> Any:
    """Return what a text holds that is the JSON of an object or a list, as programs write that encode twice."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return parse(value)
    except (Flaw, NotJson):
        return value


def field_of_turns(value: Any) -> str | None:
    """Return the field under which a list of turns belongs, None when its first value is no turn."""
    first = value[0] if isinstance(value, list) and value else None
    if not isinstance(first, dict) or _SAID.isdisjoint(first):
        return None
    return next((field for key, field in _TURNS if key in first), None)


def is_list_of_rows(value: Any) -> bool:
    """Tell whether a list holds rows and is not a row itself, as a conversation is."""
    return (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict) and not field_of_turns(value)
    )


def is_row(value: Any, layout: Layout) -> bool:
    """Tell whether a value is a row by its fields."""
    return isinstance(value, dict) and layout.columns(list(value)) is not None


def spread(whole: dict[str, Any], layout: Layout) -> list[Any]:
    """Return the rows of an object that is all there is: itself, unless it is plain that it holds several."""
    columns = layout.columns(list(whole))
    values = list(whole.values())
    if values and all(isinstance(value, dict) for value in values):
        if columns or _are_numbered(values):
            return _from_numbered_columns(whole)
        if any(is_row(value, layout) for value in values):
            return values
    if values and all(isinstance(value, list) for value in values):
        is_judged = any(name.strip().lower() in _JUDGED for name in whole)  # one of them is the bad answer
        if all(map(field_of_turns, values)) and not columns and not is_judged:
            return values
        if columns and _are_columns(whole, layout):
            return _from_columns(whole)
    if not columns and layout.is_chat and _are_answers(whole):
        return [dict(zip(QUESTION_AND_ANSWER, pair, strict=True)) for pair in whole.items()]
    return [whole]


def held(whole: Any) -> Iterator[Any]:
    """Yield what a refused value may hold as a row, had its fields the right names: itself, or one inside of it."""
    yield whole
    values = list(whole.values()) if isinstance(whole, dict) else []
    if values and all(isinstance(value, dict) for value in values):
        yield values[0]
        yield {name: next(iter(column.values()), None) for name, column in whole.items()}
    if values and all(isinstance(value, list) and value for value in values):
        yield {name: column[0] for name, column in whole.items()}
    lists = [value for value in values if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) == 1:
        yield lists[0][0]


def _are_numbered(values: Sequence[Mapping[str, Any]]) -> bool:
    return all(value and all(key.isdecimal() for key in value) for value in values)


def _from_numbered_columns(whole: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Return the rows of pandas' ``to_json()``: in each column the cells under their row's number."""
    numbers = list(next(iter(whole.values())))
    if not _are_numbered(list(whole.values())):
        is_turn = any(field_of_turns([value]) for value in whole.values())
        return [whole if is_turn else BadRow("", f"holds columns, not rows; {_RECORDS}")]
    if any(list(column) != numbers for column in whole.values()):
        return [BadRow("", f"holds columns with different rows; {_RECORDS}")]
    return [{name: column[number] for name, column in whole.items()} for number in numbers]


def _are_columns(whole: Mapping[str, Sequence[Any]], layout: Layout) -> bool:
    """Tell whether lists are columns of cells, and not the turns of one conversation or the words of one text."""
    firsts = {name.strip().lower(): column[0] for name, column in whole.items() if column}
    if any(name in layout.listed and not isinstance(first, list) for name, first in firsts.items()):
        return False
    return any(not isinstance(first, dict) for first in firsts.values()) and not any(
        map(field_of_turns, whole.values())
    )


def _from_columns(whole: Mapping[str, Sequence[Any]]) -> list[Any]:
    sizes = {name: len(column) for name, column in whole.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        return [BadRow("", f"holds columns of different lengths ({told}); {_RECORDS}")]
    return [dict(zip(whole, cells, strict=True)) for cells in zip(*whole.values(), strict=True)]


def _are_answers(whole: Mapping[str, Any]) -> bool:
    """Tell whether texts stand under questions: none is a word as fields' names are, most end as questions do."""
    asked = sum(key.rstrip().endswith(_ASKING) for key in whole)
    return (
        len(whole) > 1
        and asked > len(whole) / 2
        and not any(key.isidentifier() for key in whole)
        and all(isinstance(value, str) for value in whole.values())
    )


def without_frame(value: Any) -> Any:
    """Return the row inside of what the dataset viewer's API puts around it; a cell that it cut makes a bad row."""
    if not isinstance(value, dict) or not isinstance(value.get("row"), dict) or "row_idx" not in value:
        return value
    if cut := value.get("truncated_cells"):
        field = cut[0] if isinstance(cut, list) and isinstance(cut[0], str) else "truncated_cells"
        return BadRow(field, "was cut by the dataset viewer; download the dataset's own files")
    return value["row"]


def _are_names(row: Sequence[Any], names: Sequence[Any]) -> bool:
    """Tell whether a list names the cells once more, as where files were joined."""
    return len(row) == len(names) and all(
        isinstance(cell, str) and isinstance(name, str) and cell.strip().casefold() == name.strip().casefold()
        for cell, name in zip(row, names, strict=True)
    )


class Names:
    """The names of rows that are lists, given before the first of them or by it."""

    def __init__(self, layout: Layout, names: Sequence[Any] | None = None) -> None:
        self._layout = layout
        self._names = names
        self._is_first = True

    def named(self, row: Any) -> Any:
        """Return a list of cells as a row, None for the one that names them, and any other row as it is."""
        is_first, self._is_first = self._is_first, False
        if not isinstance(row, list) or not row:
            return row
        if self._names is not None:
            return None if _are_names(row, self._names) else self._zipped(self._names, row)
        if any(isinstance(cell, list | dict) for cell in row):
            return row
        if is_first and all(isinstance(cell, str) for cell in row) and self._layout.columns(row):
            self._names = row
            return None
        form = ", ".join(f'"{name}": "…"' for name in self._layout.example)
        return BadRow("", f"is a list without names; write {{{form}}}")

    @staticmethod
    def _zipped(names: Sequence[Any], row: Sequence[Any]) -> Any:
        if len(row) != len(names):
            return BadRow("", f"has {len(row)} cells, and there are {len(names)} columns")
        return dict(zip(names, row, strict=True))
