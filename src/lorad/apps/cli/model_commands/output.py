"""Printing what these commands found: one sentence, a table of headings and texts, or JSON."""

from collections.abc import Iterable
from typing import Any

from rich.table import Table
from rich.text import Text

from lorad import printable
from lorad.apps.screens import terminal
from lorad.apps.screens.screen import Screen

console = Screen()


def print_lines(rows: list[tuple[str, str]]) -> None:
    """Print headings and their texts; none of it is rich's markup."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, justify="right", style="bold")
    table.add_column(overflow="fold")
    for heading, text in rows:
        table.add_row(Text(printable.line(heading)), Text(printable.text(text)))
    console.print(table)


def say(data: dict[str, Any], as_json: bool, sentence: str, notes: Iterable[str] = ()) -> None:
    """Print a result: as JSON, or as one sentence with its notes below."""
    if as_json:
        terminal.write_json(data, indent=None)
    else:
        terminal.say(sentence, *(f"  - {note}" for note in notes))
