"""Marks in a text that comes in pieces: where one may have begun.

What lives here: how much of a text must be held back. What never does: what the marks mean (``streaming``, ``called_tools``).
"""

from collections.abc import Iterable


def begun(text: str, marks: Iterable[str]) -> int:
    """Return how many last characters of a text may be the beginning of a mark."""
    lengths = (
        size
        for mark in marks
        for size in range(min(len(mark) - 1, len(text)), 0, -1)
        if mark.startswith(text[-size:])
    )
    return max(lengths, default=0)
