"""What an answer from documents rests on, and how a text of somebody's stands in a prompt. Nothing here loads a model.

What lives here: the record, and the quotation. What never does: which passages are cited (``passages``).
"""

from collections.abc import Iterable
from dataclasses import dataclass

LONGEST_NAME = 200
"""Characters of a title and headings that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A passage that stood before a question: characters ``start`` to ``end`` of its document's text."""

    number: int
    """By which the model knows it, counted from 1."""
    document: int
    title: str
    name: str
    url: str
    heading: tuple[str, ...]
    page: int | None
    start: int
    end: int
    text: str
    similarity: float | None


def quoted(names: Iterable[str], text: str) -> str:
    """Return a text below its title and headings, each of its lines quoted (``> ``): nothing in it ends the quotation."""
    title = " ".join(" > ".join(dict.fromkeys(filter(None, names))).split())[:LONGEST_NAME]
    # splitlines knows every sign that ends a line anywhere, so that none is left without its mark
    return "\n".join([title, *(f"> {line}" for line in text.splitlines())])
