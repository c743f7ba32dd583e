"""Materials: suggestions. A row that was refused in, the fields that a sidecar could name to have it read out.

What lives here: which fields of a row may be the question and the answer (of any task: the text and what is said of
it), and trying that. What never does: deciding anything: a person writes the sidecar, or mends the file.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lorad import annotations, cells, conversations, csv_rows, pairs, preferences
from lorad.cells import Row, unpacked
from lorad.config import InboxSettings
from lorad.rows import BadRow
from lorad.textfile import opened

Fields = dict[str, str]

#: Characters of a field's name that a person would copy.
_LONGEST_NAME = 60

#: What people call the numbers of their rows.
_NUMBERS = {"nr", "no", "number", "index", "row"}

#: What a column may be called, and a sentence hardly.
_NAME = re.compile(r"[^\W\d][\w-]*( [\w-]+){0,2}")

#: By task, the fields that a row of each format must have, and those that may stand beside them.
_SHAPES = {
    "chat": (
        *(((name,), (*conversations.SYSTEM[:2], "tools")) for name in conversations.LISTS),
        *(((question, answer), ("input", "context", *pairs.BESIDE)) for _, question, answer in pairs.PAIRS),
    ),
    "tagging": (
        *((("tokens", tags), ()) for tags in ("ner_tags", "tags", "labels")),
        (("tokenized_text", "ner"), ()),
        *((("text", spans), ()) for spans in ("spans", "entities", "label", "labels")),
    ),
    "classify": tuple(
        ((text, label), ()) for text in ("text", "sentence", "content") for label in ("label", "labels")
    ),
    "retrieval": tuple(
        ((body,), ("title", "url", "source", "id"))
        for body in ("text", "content", "document", "body", "passage")
    ),
}

#: By task, what fields that nobody knows are taken for, in their order: nothing else is as likely.
_GUESSED = {
    "chat": ("question", "answer"),
    "tagging": ("tokens", "tags"),
    "classify": ("text", "label"),
    "retrieval": ("text",),
}


def fields(row: Any, task: str, reads: Callable[[Row], Any]) -> Fields | None:
    """Return lorad's names for a row's fields with which ``reads`` takes it; None when there are none."""
    if not isinstance(row, Mapping):
        return None
    if task == "chat" and preferences.may_judge({cells.fold(name): value for name, value in row.items()}):
        return None  # to leave a verdict out would teach the answers that it calls bad
    for named in _candidates(row, task):
        if all(len(name) <= _LONGEST_NAME and cells.is_whole(name) for name in named.values()):
            try:
                reads({ours: row[theirs] for ours, theirs in named.items()})
            except BadRow:
                continue
            return named
    return None


def columns(path: Path, limits: InboxSettings, task: str) -> Iterator[Fields]:
    """Yield what the first lines of a table name, if one's cells look like names: a header that nobody knows.

    Where those of every line do, each may be a row: a sidecar for the first one would lose it.
    """
    with opened(path, limits) as text:
        lines = csv_rows.first_lines(text.head)
    said, below = csv_rows.said_delimiter(lines[0])
    for delimiter in said or csv_rows.DELIMITERS:
        found = [_names(line, delimiter) for line in lines[below:]]
        filled = [names for names, line in zip(found, lines[below:], strict=True) if line.strip()]
        if len(filled) > 1 and all(len(names) == len(filled[0]) for names in filled) and all(filled):
            continue
        if names := next(filter(None, found), None):
            yield from itertools.islice(_candidates(dict.fromkeys(names, "…"), task), 1)


def _names(line: str, delimiter: str) -> list[str]:
    """Return a line's cells if all look like names."""
    names = [name.strip(' "') for name in line.split(delimiter)]
    return names if len(names) > 1 and all(map(_NAME.fullmatch, names)) else []


def _candidates(row: Row, task: str) -> Iterator[Fields]:
    """Yield what fields may be called: by their names, else the one that is left over, else by their order."""
    own = {cells.fold(name): name for name, value in row.items() if not cells.is_empty(value)}
    shapes = _SHAPES[task]
    for needed, beside in shapes:
        if all(name in own for name in needed):
            yield {name: own[name] for name in (*needed, *beside) if name in own}
            yield {name: own[name] for name in needed}
    known = {
        *conversations.IGNORED,
        *annotations.REMARKS,
        *_NUMBERS,
        *(name for _, beside in shapes for name in beside),
    }
    left = [own[name] for name in own if name not in known and isinstance(row[own[name]], str | list)]
    for needed, _ in shapes:
        rest = [name for name in left if cells.fold(name) not in needed]
        if len(rest) == 1 and len(needed) == len(left) > 1:
            yield {name: own.get(name, rest[0]) for name in needed}
    if task == "chat":
        yield from ({"messages": name} for name in left if conversations.are_turns(unpacked(row, name)))
    if len(left) == len(_GUESSED[task]):
        yield dict(zip(_GUESSED[task], left, strict=True))
