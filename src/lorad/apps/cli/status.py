"""What lorad is doing: ``status``, ``monitor`` and ``events``."""

import contextlib
import time
from typing import Annotated

import typer

from lorad.apps.cli.context import connect, connect_or_read
from lorad.apps.cli.options import Interval, Json
from lorad.apps.screens import state_text, tables, terminal

app = typer.Typer()
Once = Annotated[bool, typer.Option("--once", help="Render once and exit.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new events.")]


@app.command()
def status(ctx: typer.Context, as_json: Json = False) -> None:
    """Show what lorad serves and what it is doing."""
    snapshot = connect(ctx).status()
    if as_json:
        terminal.write_json(snapshot)
    else:
        terminal.say(*state_text.summary(snapshot).split("\n"))


@app.command()
def monitor(ctx: typer.Context, once: Once = False, interval: Interval = 1.0) -> None:
    """Show a live dashboard; Ctrl-C ends it."""
    from lorad.apps.screens.monitor import watch  # noqa: PLC0415 - see lorad.apps.cli
    from lorad.apps.screens.screen import Screen  # noqa: PLC0415

    with contextlib.suppress(KeyboardInterrupt):
        watch(connect(ctx).status, console=Screen(), sleep=time.sleep, once=once, interval=interval)


@app.command()
def events(
    ctx: typer.Context, follow: Follow = False, interval: Interval = 1.0, as_json: Json = False
) -> None:
    """Show the events, oldest first."""
    client = connect(ctx) if follow else connect_or_read(ctx)
    after: int | None = None
    if as_json and not follow:
        terminal.write_json(client.events())
        return
    while True:
        for event in client.events(after).events:
            if as_json:
                terminal.write_json(event, indent=None)
            else:
                terminal.say(tables.event(event))
            after = event.id
        if not follow:
            return
        time.sleep(interval)
