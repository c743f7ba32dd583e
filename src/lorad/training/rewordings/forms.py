"""Families of sentences that ask the same thing, and the small language they are written in.

What lives here: reading a question with a family's forms and saying it in the others. What never does: knowing a
language; the words that decide what fits into a slot come from the caller.

A form is a sentence with ``(one|or another)`` wording, ``(optional |)`` parts and slots: ``{x}`` is filled with
whatever passes the check of its kind, ``{v:open|close}`` with one of the words named. A slot is copied letter by
letter, so that a form can lose or change nothing that stands in one.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from lorad.training.rewordings.language import body

Check = Callable[[str], bool]

_PART = re.compile(r"\{(\w+)(?::([^}]*))?\}|\(([^()]*)\)")
_OPTIONAL = re.compile(r" (?=\{rest\})")
_ALIASES = {"contact": "x", "day": "rest"}
"""Slots with a stricter check, which are said like another."""
_MAY_GO = {"p", "at", "be", "article"}
"""Small words that a terse form may drop ("the fee for X", "X: fee?"); what else was read must be said."""


@dataclass(frozen=True, slots=True)
class _Reader:
    first_words: frozenset[str]
    pattern: re.Pattern[str]
    slots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """Forms that ask the same thing: those understood, and those said."""

    readers: tuple[_Reader, ...]
    said: tuple[tuple[str, frozenset[str]], ...]


class Families:
    """All families of a language, found by the first word of a question."""

    def __init__(
        self,
        rows: Iterable[Mapping[str, Sequence[str]]],
        checks: Mapping[str, Check],
        articles: tuple[str, ...] = (),
    ) -> None:
        """Compile the rows ``{read, both, say}``; a slot without a check in ``checks`` takes anything.

        ``{x_bare}`` says the slot ``{x}`` without one of the ``articles`` (with their spaces) before it.
        """
        self._checks = checks
        self._articles = articles
        self._by_word: dict[str, list[tuple[_Reader, Family]]] = {}
        for row in rows:
            family = _family(row)
            for reader in family.readers:
                for word in reader.first_words:
                    self._by_word.setdefault(word, []).append((reader, family))

    def reword(self, question: str) -> Iterator[list[str]]:
        """Yield, for every family that understands ``question``, its other forms with the same slots."""
        question = body(question)
        word = question.partition(" ")[0].casefold()
        done: set[int] = set()
        for reader, family in (*self._by_word.get(word, ()), *self._by_word.get("", ())):
            if id(family) in done or not (match := reader.pattern.fullmatch(question)):
                continue
            slots = {name: match[name] or "" for name in reader.slots}
            if all(self._fits(name, value) for name, value in slots.items()):
                done.add(id(family))
                yield self._said(family, {_ALIASES.get(name, name): value for name, value in slots.items()})

    def _said(self, family: Family, slots: dict[str, str]) -> list[str]:
        must = {name for name, value in slots.items() if value} - _MAY_GO
        # An empty end is the only slot that may be empty: it brings its own space.
        filled = {"p": "of", **slots, "rest": f" {slots['rest']}" if slots.get("rest") else ""}
        bare = {f"{name}_bare": self._without_article(value) for name, value in slots.items()}
        return [
            _say(form, filled | bare)
            for form, named in family.said
            if must <= {name.removesuffix("_bare") for name in named} and named <= (filled | bare).keys()
        ]

    def _without_article(self, value: str) -> str:
        article = next((article for article in self._articles if value.lower().startswith(article)), "")
        return value[len(article) :]

    def _fits(self, name: str, value: str) -> bool:
        check = self._checks.get(name)
        return check is None or check(value)


def spelled_out(form: str) -> list[str]:
    """Return every sentence that a form's alternatives stand for."""
    parts: list[list[str]] = []
    end = 0
    for match in _PART.finditer(form):
        parts.append([form[end : match.start()]])
        parts.append([f"{{{match[1]}}}"] if match[1] else match[3].split("|"))
        end = match.end()
    return ["".join(choice) for choice in product(*parts, [form[end:]])]


def capitalized(sentence: str) -> str:
    """Return the sentence with a capital first letter."""
    return sentence[:1].upper() + sentence[1:]


def _family(row: Mapping[str, Sequence[str]]) -> Family:
    both = row.get("both", ())
    said = dict.fromkeys(
        _OPTIONAL.sub("", form) for rule in (*both, *row.get("say", ())) for form in spelled_out(rule)
    )
    return Family(
        tuple(map(_reader, (*both, *row.get("read", ())))),
        tuple((form, frozenset(match[1] for match in _PART.finditer(form))) for form in said),
    )


def _reader(form: str) -> _Reader:
    pattern, end, slots = "", 0, []
    bare = form.rstrip("?. ")
    for match in _PART.finditer(bare):
        pattern += re.escape(bare[end : match.start()])
        name, words, choices = match.groups()
        if name:
            slots.append(name)
            pattern += rf"(?P<{name}>{words or '.+?'})"
        else:
            pattern += "(?:" + "|".join(map(re.escape, choices.split("|"))) + ")"
        end = match.end()
    # An optional ending brings its own space, which the form may have written already.
    pattern = (pattern + re.escape(bare[end:])).replace(r"\ (?P<rest>.+?)", r"(?:\ (?P<rest>.+))?")
    firsts = {sentence.partition(" ")[0].casefold() for sentence in spelled_out(bare)}
    return _Reader(
        frozenset("" if "{" in first else first for first in firsts),
        re.compile(pattern, re.IGNORECASE),
        tuple(slots),
    )


def _say(form: str, slots: Mapping[str, str]) -> str:
    return capitalized(form.format_map(slots).strip())


def groups(families: Families, question: str, clause: str | None, openings: Sequence[str]) -> list[list[str]]:
    """Return a question's forms in groups of a kind: those of its families, and its ``clause`` behind each opening."""
    found = list(families.reword(question))
    if clause:
        found.append([opening.format(clause) for opening in openings])
    return found
