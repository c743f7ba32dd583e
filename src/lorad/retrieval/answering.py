"""From a question and what is near it to the way it is answered. Pure.

What lives here: the four ways and which one is taken. What never does: searching (``index``), generating.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["taught", "stored", "weights", "unknown"]
"""``taught``: the model is asked the nearest question in its trained wording. ``stored``: the same, but the version does not
recall that answer, so it is quoted. ``weights``: the model is asked the question as it is. ``unknown``: nothing that was
taught answers it, and that is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The example that an answer rests on."""

    dataset: str
    row: int
    """Its row in the file, counted from 1; 0 where it came from none."""
    question: str
    """In its trained wording."""
    similarity: float
    """Cosine of the embeddings, -1 to 1."""
    confidence: float
    """Estimated probability that the example answers the question, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How a question is answered."""

    mode: Mode
    messages: Sequence[dict[str, Any]] | None = None
    """What the model is asked; ``None`` where it is not asked."""
    text: str | None = None
    """What is said without asking the model."""
    sources: tuple[Source, ...] = ()
    """What the answer rests on; of ``unknown`` the nearest example, which does not answer it."""
