"""The console that tables are printed on: nothing from data is a command, to rich or to the terminal."""

import io

from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from shown import is_safe
from styles import STYLES

from lorad.apps.screens.screen import Screen

EVIL = "[/red][bold]x[/] :smile: \x1b[31m \x1b]0;t\x07 \x9b2J \u202e"


def printed(*renderables, **options):
    file = io.StringIO()
    Screen(file=file, width=200, **options).print(*renderables)
    return file.getvalue()


def test_a17_brackets_emoji_codes_and_escapes_are_only_text():
    table = Table(EVIL)
    table.add_row(EVIL)
    for told in (printed(EVIL), printed(Text(EVIL)), printed(table), printed(Panel(Text(EVIL)))):
        assert r"[/red][bold]x[/] :smile: \x1b[31m" in told
        assert is_safe(told)


def test_a_terminal_gets_the_styles_and_no_escape_of_the_data():
    told = printed(Text(EVIL, style="red"), force_terminal=True, color_system="truecolor")
    assert STYLES.findall(told)
    assert is_safe(STYLES.sub("", told))


def test_a_screen_that_is_drawn_again_still_moves_the_cursor():
    file = io.StringIO()
    with Live("", console=Screen(file=file, force_terminal=True), screen=True, auto_refresh=False) as live:
        live.update(Text(EVIL), refresh=True)
    assert "\x1b[?1049h" in file.getvalue()
    assert "\x1b]0;" not in file.getvalue()
    assert "\x9b" not in file.getvalue()
