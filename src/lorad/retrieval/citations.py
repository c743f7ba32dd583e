"""What an answer from documents rests on: a record, and nothing else, so that whoever tells of it loads no model."""

from dataclasses import dataclass


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
