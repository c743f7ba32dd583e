"""Other wordings of a question: which are trained, which are only tested, and how those of two rows come together.

What lives here: the rules. Pure. What never does: reading wordings from files (``datasets``), keeping them (``storage``).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from lorad.records import CHAT, Example, normal_form

MOST = 64
"""Wordings of a question that are trained, at most, and as many that are tested."""

LONGEST = 10_000
"""Characters of a wording."""


def question(example: Example) -> str | None:
    """Return the text that other wordings stand for: a chat's last message, where the user says it; else ``None``."""
    is_chat = example.task == CHAT and isinstance(example.input, list) and bool(example.input)
    last = example.input[-1] if is_chat else {}
    return str(last["content"]) if last.get("role") == "user" else None


def reworded(example: Example, wording: str) -> Example:
    """Return an example asked in other words, with no further wordings."""
    *before, last = example.input
    return replace(example, input=[*before, last | {"content": wording}], also_asked=(), held_out=())


def distinct(texts: Iterable[str], known: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the texts that differ in normal form from what is known and from those before them."""
    forms = set(map(normal_form, known))
    found = []
    for text in texts:
        if (form := normal_form(text)) not in forms:
            forms.add(form)
            found.append(text)
    return tuple(found)


def rough_form(text: str) -> str:
    """Return what all texts of one normal form share, and some others: a filter that takes a tenth of the time."""
    return "".join((text if text.isascii() else normal_form(text)).split()).lower()


def parted(texts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return which of a row's wordings are trained, and the last one to test with if there are two or more."""
    return (tuple(texts[:-1]), tuple(texts[-1:])) if len(texts) > 1 else (tuple(texts), ())


def with_wordings(example: Example, also_asked: Iterable[str], held_out: Iterable[str]) -> Example:
    """Return an example with more wordings, at most ``MOST`` of each kind.

    A wording stays what it was first: one that was trained cannot test any more, and one that tests is not to be trained,
    or two versions' figures would not mean the same.
    """
    known = [question(example) or "", *example.also_asked, *example.held_out]
    trained = distinct(also_asked, known)
    tested = distinct(held_out, [*known, *trained])
    return replace(
        example,
        also_asked=(example.also_asked + trained)[:MOST],
        held_out=(example.held_out + tested)[:MOST],
    )


def together(older: Example, newer: Example) -> Example:
    """Return the newer example of one question with the wordings of both: they are the question's, whatever its answer."""
    if not (older.also_asked or older.held_out):
        return newer
    bare = replace(newer, also_asked=(), held_out=())
    both = with_wordings(bare, older.also_asked, older.held_out)
    return with_wordings(both, newer.also_asked, newer.held_out)


def of(example: Example) -> tuple[str, ...]:
    """Return an example's other wordings, trained or not."""
    return example.also_asked + example.held_out


def without(example: Example, texts: Collection[str]) -> Example:
    """Return an example without these wordings."""
    return replace(
        example,
        also_asked=tuple(each for each in example.also_asked if each not in texts),
        held_out=tuple(each for each in example.held_out if each not in texts),
    )


def count(example: Example) -> int:
    """Count an example's other wordings."""
    return len(example.also_asked) + len(example.held_out)
