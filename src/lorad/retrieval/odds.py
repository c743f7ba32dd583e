"""What a reranker says of a question and a text."""

from typing import NamedTuple


class Odds(NamedTuple):
    """Log-odds: 0 is even, more is likelier."""

    answers: float
    """That the text answers the question."""
    about: float
    """That the question asks for a fact of somebody's own, as the text tells one, and is no ordinary conversation."""
