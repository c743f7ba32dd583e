"""The console that tables, reports and the monitor are printed on.

What lives here: rich's console, told that no text is markup, and a net below whatever is laid out on it. What never
does: layouts.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from lorad import printable


class Screen(Console):
    """A console on which brackets, emoji codes and escapes in a text are only text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a plain string into text before anything is measured by it."""
        return super().render_str(printable.text(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Lay something out; of what comes of it only rich's own commands to the terminal are not text."""
        return _without_escapes(super().render(renderable, options))


def _without_escapes(segments: Iterable[Segment]) -> Iterator[Segment]:
    for segment in segments:
        yield segment if segment.control else Segment(printable.text(segment.text), segment.style)
