"""A text with its spans marked, as ``lorad tag`` prints it.

What lives here: colours and labels beside words. What never does: asking, printing.
"""

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lorad.apps.screens.state_text import share
from lorad.serving.answers import LabelledSpan

if TYPE_CHECKING:
    from rich.text import Text

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")


def marked(texts: Sequence[str], found: Sequence[Sequence[LabelledSpan]]) -> "Text":
    """Return texts, one behind the other, with their spans in colour, each with its label and how sure it is."""
    from rich.text import Text  # noqa: PLC0415 - see lorad.apps.cli

    lines = []
    for text, spans in zip(texts, found, strict=True):
        line, behind = Text(), 0
        for span in spans:
            line.append(text[behind : span.start])
            line.append(text[span.start : span.end], style=f"bold {colour(span.label)}")
            line.append(f" ({span.label}, {share(span.confidence)})", style="dim")
            behind = span.end
        lines.append(line.append(text[behind:]))
    return Text("\n").join(lines)


def colour(label: str) -> str:
    """Return a label's colour, which is the same in every text."""
    return COLOURS[zlib.crc32(label.encode()) % len(COLOURS)]
