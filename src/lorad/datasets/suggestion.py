"""Suggestions. A row that was refused in, the fields that a sidecar could name to have it read out.

What lives here: which fields of a row may be the question and the answer (of any task: the text and what is said of
it), and trying that. What never does: deciding anything: a person writes the sidecar, or mends the file.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lorad.config import InboxSettings
from lorad.datasets.containers import csv_rows
from lorad.datasets.containers.file_rows import BadRow
from lorad.datasets.containers.text_file import opened
from lorad.datasets.formats import (
    annotations,
    conversations,
    pairs,
    preferences,
    product_exports,
    row_values,
    spectra,
)
from lorad.datasets.formats.row_values import Row, unpacked
from lorad.storage.source import Source

Fields = dict[str, str]

#: Characters of a field's name that a person would copy.
_LONGEST_NAME = 60

#: What people call the numbers of their rows.
_NUMBERS = {"nr", "no", "number", "index", "row"}

#: What a column may be called, and a sentence hardly.
_NAME = re.compile(r"[^\W\d][\w-]*( [\w-]+){0,2}")

#: Words in the names of fields that may say an answer is a bad one.
_JUDGING = re.compile(
    "(in)?correct(ness)?|right|wrong|ratings?|rated|feedback|(up|down)?votes?|thumbs?|verdict|good|bad|accepted|approved|"
    "rejected|quality|helpful(ness)?|harmful|toxic(ity)?|hallucinat(ion|ed)|reward|rank|grade|(in)?valid|preferred|"
    "preference|flag(ged)?|(dis)?liked?s?|stars|passed|failed"
)

#: Words in the names of fields without which a question may not be whole, or its answer only a choice's number.
_COMPLETING = re.compile(
    "choices?|options?|distractors?|candidates?|endings?|op[a-d]|input|contexts?|history|system|passages?|documents?|"
    "articles?|paragraphs?|story|background|images?|pictures?|photos?|audio|video|table|figure|attachments?"
)
_ASKING = frozenset(question for _, question, _ in pairs.PAIRS)

#: What a question may rest on, as others call its context.
_CONTEXTS = ("passage", "document", "article", "paragraph", "story", "background")

#: Letters of choices; two of them are no accident.
_LETTERS = frozenset("abcde")

#: What is neither a question nor an answer, whatever else a row has.
_REMARKS = re.compile(
    "title|ur[li]|link|href|[ug]uid|date|time|timestamp|(created|updated)_at|(create|update)_time|author|user|username|"
    "user_id|name|lang|language|locale|file|filename|path|type|status|version|model|tags|topic"
)

#: Fields of exports, of which nothing is guessed.
_EXPORTED = product_exports.FIELDS - {"context", "conversations"} | {"current_node"}

#: Stands for a value in a row of which the names alone are known.
_ANY = "…"

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_ADDRESS = re.compile(r"\w+:/\S+|www\.\S+|[\W\d_]+")

#: What stands between the cells of a table, and how many of its lines are looked at.


#: By task, the fields that a row of each format must have, and those that may stand beside them.
_SHAPES = {
    "chat": (
        *(
            ((name,), (*conversations.SYSTEM[:2], *conversations.WORDINGS, "tools"))
            for name in conversations.LISTS
        ),
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
    "spectra": ((("smiles", *spectra.PEAKS), spectra.BESIDE),),
}

#: By task, what fields that nobody knows are taken for, in their order: nothing else is as likely.
_GUESSED = {
    "chat": ("question", "answer"),
    "tagging": ("tokens", "tags"),
    "classify": ("text", "label"),
    "retrieval": ("text",),
    "spectra": ("smiles", *spectra.PEAKS),
}


def fields(row: Any, task: str, reads: Callable[[Row], Any]) -> Fields | None:
    """Return lorad's names for a row's fields with which ``reads`` takes it; None when there are none."""
    if not isinstance(row, Mapping):
        return None
    if task == "chat" and preferences.may_judge(
        {row_values.fold(name): value for name, value in row.items()}
    ):
        return None  # to leave a verdict out would teach the answers that it calls bad
    if task == "chat" and product_exports.find(row) and not _EXPORTED.isdisjoint(row):
        return None
    for named in _candidates(row, task):
        if task == "chat" and lacks(row, named):
            continue
        if all(len(name) <= _LONGEST_NAME and row_values.is_whole(name) for name in named.values()):
            try:
                reads({ours: row[theirs] for ours, theirs in named.items()})
            except BadRow:
                continue
            return named
    return None


def lacks(row: Row, named: Mapping[str, str]) -> bool:
    """Tell whether a field that a sidecar would leave out may judge a chat answer, or complete its question."""
    kept = set(map(row_values.fold, named.values()))
    out = {
        name for name, value in row.items() if row_values.fold(name) not in kept and row_values.says(value)
    }
    words = {word.lower() for name in out for word in _WORDS.findall(name)}
    whole = set(map(row_values.fold, out))
    return (
        any(_JUDGING.fullmatch(word) or _COMPLETING.fullmatch(word) for word in words)
        or len(_LETTERS & whole) > 1
        or not _ASKING.isdisjoint(whole)
    )


def columns(source: Source, limits: InboxSettings, task: str) -> Iterator[Fields]:
    """Yield what the first lines of a table name, if one's cells look like names: a header that nobody knows.

    Where those of every line do, each may be a row: a sidecar for the first one would lose it.
    """
    with opened(source, limits) as text:
        lines = csv_rows.first_lines(text.head)
    said, below = csv_rows.said_delimiter(lines[0])
    for delimiter in said or csv_rows.DELIMITERS:
        found = [_names(line, delimiter) for line in lines[below:]]
        filled = [names for names, line in zip(found, lines[below:], strict=True) if line.strip()]
        if len(filled) > 1 and all(len(names) == len(filled[0]) for names in filled) and all(filled):
            continue
        if names := next(filter(None, found), None):
            yield from itertools.islice(_candidates(dict.fromkeys(names, _ANY), task), 1)


def _names(line: str, delimiter: str) -> list[str]:
    """Return a line's cells if all look like names."""
    names = [name.strip(' "') for name in line.split(delimiter)]
    return names if len(names) > 1 and all(map(_NAME.fullmatch, names)) else []


def _may_be_said(value: Any, task: str) -> bool:
    """Tell whether a value may be a text or a list; in chat not an address, a number or a date."""
    is_bare = task == "chat" and isinstance(value, str) and _ADDRESS.fullmatch(value.strip())
    return isinstance(value, str | list) and (value == _ANY or not is_bare)


def _candidates(row: Row, task: str) -> Iterator[Fields]:
    """Yield what fields may be called: by their names, else the one that is left over, else by their order."""
    own = {row_values.fold(name): name for name, value in row.items() if not row_values.is_empty(value)}
    shapes = _SHAPES[task]
    for needed, beside in shapes:
        if all(name in own for name in needed):
            if task == "chat" and len(needed) > 1 and (rests := [name for name in _CONTEXTS if name in own]):
                yield {**{name: own[name] for name in needed}, "context": own[rests[0]]}
            yield {name: own[name] for name in (*needed, *beside) if name in own}
            yield {name: own[name] for name in needed}
    known = {
        *conversations.IGNORED,
        *annotations.REMARKS,
        *_NUMBERS,
        *(name for _, beside in shapes for name in beside),
    }
    if task == "chat":
        known |= {name for name in own if _REMARKS.fullmatch(name)}
        if not _EXPORTED.isdisjoint(own):
            return
    left = [own[name] for name in own if name not in known and _may_be_said(row[own[name]], task)]
    for needed, _ in shapes:
        rest = [name for name in left if row_values.fold(name) not in needed]
        if len(rest) == 1 and len(needed) == len(left) > 1:
            yield {name: own.get(name, rest[0]) for name in needed}
    if task == "chat":
        yield from ({"messages": name} for name in left if conversations.are_turns(unpacked(row, name)))
    if len(left) == len(_GUESSED[task]):
        yield dict(zip(_GUESSED[task], left, strict=True))
