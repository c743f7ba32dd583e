"""The ``lorad`` program: puts the groups of commands together.

What lives here: global options, errors and exit codes. What never does: commands; each group has a module.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from lorad import __version__
from lorad.apps.cli import (
    ask,
    classify,
    docs,
    drops,
    fill,
    init,
    jobs,
    memory,
    programs,
    spectrum,
    status,
    testing,
    versions,
)
from lorad.apps.cli.context import CliContext
from lorad.apps.cli.remedies import remedy
from lorad.apps.screens import terminal
from lorad.errors import LoradError

GLOBAL_OPTIONS = ("--home", "--config", "--set")
HomeFolder = Annotated[
    str | None, typer.Option(metavar="FOLDER", help="Default: LORAD_HOME, then this folder.")
]
ConfigFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|NAME",
        help="A file of settings that override default.yaml, or the name of one in configs/ or in lorad itself.",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting; repeatable.")
]


class Commands(terminal.Commands):
    """All commands; global options may stand anywhere, and errors become one sentence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move global options to the front, where typer expects them."""
        ctx.meta["lorad.json"] = "--json" in args
        return super().parse_args(ctx, _hoist(args))

    def invoke(self, ctx: Any) -> Any:
        """Run a command; an error becomes a sentence on standard error and exit code 1."""
        try:
            return super().invoke(ctx)
        except LoradError as error:
            if ctx.meta["lorad.json"]:
                terminal.write_json({"error": error.as_dict()}, indent=None)
            else:
                terminal.complain(error.message + remedy(error))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def _hoist(args: Sequence[str]) -> list[str]:
    front: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--" or (word in programs.FORWARDED and not rest):
            return [*front, *rest, word, *words]
        if word in GLOBAL_OPTIONS and (value := next(words, None)) is not None:
            front += [word, value]
        elif word.partition("=")[0] in GLOBAL_OPTIONS and "=" in word:
            front.append(word)
        else:
            rest.append(word)
    return front + rest


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Keeps a local language model learning, and tests after every session what was forgotten.",
)
for module in (
    init,
    programs,
    status,
    ask,
    classify,
    fill,
    spectrum,
    testing,
    drops,
    docs,
    jobs,
    versions,
    memory,
):
    app.add_typer(module.app)


def main() -> None:
    """Run the command line; the entry point of the ``lorad`` script."""
    terminal.prepare()
    try:
        app(prog_name="lorad")
    except OSError as error:
        sys.exit(terminal.fail(error))


def _print_version(wanted: bool) -> None:
    if wanted:
        terminal.say(f"lorad {__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
]


@app.callback()
def _globals(
    ctx: typer.Context,
    home: HomeFolder = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    _version: Version = False,
) -> None:
    ctx.obj = CliContext(home=home, config=config, overrides=tuple(overrides or ()))


if __name__ == "__main__":
    main()
