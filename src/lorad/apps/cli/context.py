"""The context of a command: the home, its settings, and the source of its answers.

What lives here: the options given before every command, the daemon's client, the home's own records when no daemon
is running, and printing an answer. What never does: commands.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from lorad.apps.screens import terminal
from lorad.errors import ProtocolError
from lorad.home import Home, find_home
from lorad.serving.client import Client

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lorad.config import Settings
    from lorad.serving.queries import Archive

T = TypeVar("T")

BUSY_SECONDS = 0.2
"""Between two tries while other people's questions fill the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CliContext:
    """The home and the settings that the user named."""

    home: str | None
    config: str | None
    overrides: tuple[str, ...]

    def find(self) -> tuple[Home, "Settings"]:
        """Return the home and its settings."""
        from lorad.config import load_settings  # noqa: PLC0415 - 80 ms that `lorad status` need not spend

        home = find_home(self.home)
        return home, load_settings(home, self.config, self.overrides)

    def arguments(self, *, with_settings: bool = True) -> list[str]:
        """Return the same options for another program."""
        settings = [("--config", self.config), *(("--set", override) for override in self.overrides)]
        given = [("--home", self.home), *(settings if with_settings else [])]
        return [word for name, value in given if value is not None for word in (name, value)]


def connect(ctx: typer.Context) -> Client:
    """Return the client of the home's daemon, whether it is running or not."""
    home = find_home(ctx.obj.home)
    running = home.running_socket()
    if running is None:  # never started, or stopped cleanly: the settings name its socket
        running = home.socket(ctx.obj.find()[1].server.socket)
    return Client(running, home.root)


def connect_or_read(ctx: typer.Context) -> "Client | Archive":
    """Return the client of the daemon; if it is not running, a reader of what its home has recorded."""
    client = connect(ctx)
    if client.is_running():
        return client
    from lorad.serving import queries  # noqa: PLC0415 - see lorad.apps.cli

    terminal.say("lorad is not running; showing what its home has recorded", err=True)
    return ctx.with_resource(queries.read(*ctx.obj.find()))


def when_free(ask: Callable[[], T]) -> T:
    """Ask the daemon; as long as other people's questions fill its queue, ask again."""
    while True:
        try:
            return ask()
        except ProtocolError as error:
            if error.code != "busy":
                raise
        time.sleep(BUSY_SECONDS)


def show(answer: Any, as_json: bool, shape: "Callable[[Any], RenderableType]") -> None:
    """Print an answer as JSON, or for people as a table."""
    if as_json:
        terminal.write_json(answer)
        return
    from lorad.apps.screens.screen import Screen  # noqa: PLC0415 - see lorad.apps.cli

    Screen().print(shape(answer))
