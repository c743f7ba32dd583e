"""What a search finds.

What lives here: the record of one found example. What never does: searching (``index``), deciding (``answering``).
"""

from dataclasses import dataclass

from lorad.records import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """An example near a question."""

    example: Example
    similarity: float
    """Cosine of the embeddings of the question and of the example (its question and answer): -1 to 1."""
    score: float
    """By which neighbours are ranked: the similarity, less what the example lacks of the question's codes."""
    lacking: float = 0.0
    """What the question names and the example does not hold, each from 0 (all examples do) to 1 (none does)."""
    is_recalled: bool
    """Whether the version gives the example's own answer when it is asked as it was trained."""
