"""Wordings to test with. ``NAME.wordings.json`` holds other wordings of the questions of the dataset file ``NAME``.

What lives here: reading that sidecar, finding the example that each wording belongs to, and refusing the wordings of a
file that would teach a false fact. What never does: the wordings inside of rows (``formats``), the files' names
(``sidecar``), models.

A sidecar is an object ``{"question": ["other wording", …], …}``, or a list of rows, each with the other wording as its
question and with the answer of the row that it belongs to.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorad import wordings
from lorad.datasets import sidecar
from lorad.datasets.containers.layout import BadRow
from lorad.datasets.formats import pairs, row_values
from lorad.datasets.spool import Spool
from lorad.errors import SampleError
from lorad.records import Example, as_message, normal_form
from lorad.storage.source import Source, opened
from lorad.storage.strict_json import Flaw, NotJson, parse

#: Bytes of a sidecar, and entries in it.
LARGEST, MOST = 16_000_000, 100_000

#: Levels of lists and objects in a sidecar; two are needed.
_LEVELS = 8

#: Wordings of one reason whose places are told.
_TOLD = 10

#: Why wordings are not used.
FITS_NONE = "wordings beside the file that fit no row"
FITS_SEVERAL = "wordings beside the file that fit several rows"
IS_TRAINED = "wordings beside the file that the rows have already"
TOO_MANY = f"wordings beside the file beyond {wordings.MOST} of one question"
IS_ASKED_BESIDE = "wordings beside the file that are another row's question"
IS_ASKED = "wordings that are another row's question"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """An entry of a sidecar: other wordings, with what says whose they are: the row's question or its answer."""

    place: int
    """Which entry of the sidecar it is, from 1."""
    wordings: tuple[str, ...]
    question: str | None = None
    answer: str | None = None


# reading the sidecar


def beside(file: Path) -> list[HeldOut]:
    """Read the wordings beside a file, none where there is no such sidecar; raise ``SampleError``."""
    try:
        with opened(sidecar.path_of(file, sidecar.WORDINGS)) as source:
            return read(source)
    except FileNotFoundError:
        return []


def read(source: Source) -> list[HeldOut]:
    """Read a sidecar; raise ``SampleError``."""
    with source.open() as stream:
        return parsed(source.name, stream.read(LARGEST + 1))


def parsed(name: str, content: bytes) -> list[HeldOut]:
    """Return what the bytes of a sidecar say; raise ``SampleError`` whatever is wrong with them."""
    if len(content) > LARGEST:
        raise _wrong(name, f"it has more than {LARGEST} bytes")
    try:
        said = parse(content.decode("utf-8-sig"), levels=_LEVELS)
    except UnicodeDecodeError:
        raise _wrong(name, "it is not UTF-8") from None
    except (Flaw, NotJson) as error:
        raise _wrong(name, f"it is not JSON that can be read: {error}") from None
    if isinstance(said, dict | list) and len(said) > MOST:
        raise _wrong(name, f"it holds wordings of more than {MOST} rows")
    try:
        return list(_listed(said))
    except BadRow as problem:
        raise _wrong(name, f"{problem.field}: {problem}" if problem.field else str(problem)) from None


def _listed(said: Any) -> Iterator[HeldOut]:
    if isinstance(said, dict):
        for place, (question, given) in enumerate(said.items(), start=1):
            where = sidecar.shown(question)
            row_values.check_text(where, question)
            texts = row_values.texts({where: given}, where, wordings.MOST, wordings.LONGEST)
            yield HeldOut(place=place, wordings=tuple(texts or ()), question=question)
    elif isinstance(said, list):
        for place, row in enumerate(said, start=1):
            wording, answer = _of_row(row, f"row {place}")
            yield HeldOut(place=place, wordings=(wording,), answer=answer)
    else:
        raise BadRow("", 'it must be {"question": ["other wording", …]}, or a list of rows')


def _of_row(row: Any, where: str) -> tuple[str, str]:
    """Return the wording of a row, and the answer of the row that it belongs to; raise ``BadRow``."""
    if not isinstance(row, dict) or not (pair := pairs.find(row)):
        raise BadRow(
            where, "must have another wording as its question, and the answer of the row that it belongs to"
        )
    _, asked, told = pair
    try:
        row_values.refuse_unknown(row, {asked, told}, reasons={})
        wording, answer = row_values.text(row, asked), row_values.text(row, told)
    except BadRow as problem:
        raise BadRow(f"{where}, {sidecar.shown(problem.field)}", str(problem)) from None
    if len(wording) > wordings.LONGEST:
        raise BadRow(where, f"its wording has more than {wordings.LONGEST} characters; shorten it")
    return wording, answer


def _wrong(name: str, why: str) -> SampleError:
    return SampleError(
        f"{name}: {why}. Correct it and drop both files again, the sidecar first", code="wordings"
    )


# what becomes of a file's wordings


def settle(examples: Spool, held: Sequence[HeldOut], name: str) -> dict[str, int]:
    """Give a file's examples the wordings beside it, and take from them those that are another example's question.

    Return how many wordings are not used, by reason, which names the first of them by place and not by its words: a
    report outlives what is forgotten. Raise ``SampleError`` when none of the sidecar's wordings fits a row.
    """
    unused = _Unused()
    found = _owners(examples, held, unused) if held else {}
    if held and not found:
        beside = sidecar.companion(name, sidecar.WORDINGS)
        raise _wrong(
            beside,
            f"none of its {len(held)} entries fits one row of {name}; each names its row's question or answer",
        )
    for place, example in examples.placed() if found or examples.has_wordings else ():
        bare = _without_questions(examples, example, unused)
        full = _with_held_out(examples, bare, found.get(place, ()), unused)
        if full is not example:
            examples.reword(place, full)
    return unused.told()


class _Unused:
    """The wordings that are not used."""

    def __init__(self) -> None:
        self._places: defaultdict[str, list[int]] = defaultdict(list)

    def note(self, reason: str, place: int, count: int = 1) -> None:
        """Note wordings by their row, or by which entry of the sidecar they are."""
        self._places[reason] += [place] * count

    def told(self) -> dict[str, int]:
        """Return how many there are by reason."""
        return {
            f"{reason} ({_first(reason, places)})": len(places) for reason, places in self._places.items()
        }


def _first(reason: str, places: Sequence[int]) -> str:
    once = sorted(set(places))
    shown = [*map(str, once[:_TOLD]), *(["…"] if len(once) > _TOLD else [])]
    return f"{'row' if reason == IS_ASKED else 'entry'} {', '.join(shown)}"


def _owners(examples: Spool, held: Sequence[HeldOut], unused: _Unused) -> dict[int, list[HeldOut]]:
    """Return the wordings of a sidecar by the place of their example.

    Where several examples have one answer and there is one wording for each, these stand in the examples' order.
    """
    named: defaultdict[tuple[bool, str], list[HeldOut]] = defaultdict(list)
    for each in held:
        named[_named(each)].append(each)
    places: defaultdict[tuple[bool, str], list[tuple[int, int]]] = defaultdict(list)
    for place, example in examples.placed():
        for key in _names(example):
            if key in named:
                places[key].append((example.line, place))
    owners: defaultdict[int, list[HeldOut]] = defaultdict(list)
    for key, group in named.items():
        own = [place for _, place in sorted(places[key])]
        if len(own) == 1:
            owners[own[0]] += group
        elif own and not key[0] and len(own) == len(group):
            for place, each in zip(own, group, strict=True):
                owners[place].append(each)
        else:
            for each in group:
                unused.note(FITS_SEVERAL if own else FITS_NONE, each.place, len(each.wordings))
    return dict(owners)


def _named(held: HeldOut) -> tuple[bool, str]:
    """Return whether a wording names its row by the question, and the normal form of what it names."""
    return held.question is not None, normal_form(
        held.question if held.question is not None else held.answer or ""
    )


def _names(example: Example) -> Iterator[tuple[bool, str]]:
    """Yield what may name an example; nothing where its question has no other wordings."""
    question = wordings.question(example)
    if question is not None:
        yield True, normal_form(question)
        yield False, normal_form(as_message(example.target)["content"])


def _without_questions(examples: Spool, example: Example, unused: _Unused) -> Example:
    """Return an example without the wordings that are another example's question: they would teach a false fact."""
    asked = {each for each in wordings.of(example) if examples.asks(wordings.reworded(example, each))}
    for _ in asked:
        unused.note(IS_ASKED, example.line)
    return wordings.without(example, asked) if asked else example


def _with_held_out(examples: Spool, example: Example, held: Sequence[HeldOut], unused: _Unused) -> Example:
    for place, wording in ((each.place, wording) for each in held for wording in each.wordings):
        more = wordings.with_wordings(example, (), [wording])
        if more == example:
            is_full = len(example.held_out) == wordings.MOST
            unused.note(TOO_MANY if is_full else IS_TRAINED, place)
        elif examples.asks(wordings.reworded(example, wording)):
            unused.note(IS_ASKED_BESIDE, place)
        else:
            example = more
    return example
