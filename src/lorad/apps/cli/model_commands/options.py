"""Options that several of these commands share."""

from typing import Annotated

import typer

HomeOption = Annotated[
    str | None, typer.Option("--home", help="The home folder; else LORAD_HOME, else this folder.")
]


ConfigOption = Annotated[
    str | None, typer.Option("--config", help="A settings file, or the name of one in configs/.")
]


SetOption = Annotated[list[str] | None, typer.Option("--set", help="A setting: section.key=value.")]


TrackOption = Annotated[str, typer.Option("--track", help="The line of learning.")]


BaseOption = Annotated[
    str | None,
    typer.Option("--base", metavar="NAME", help="The base model to use; it must be the one it was made for."),
]


DifferentOption = Annotated[
    bool, typer.Option("--allow-different-base", help="Take another base all the same; that is recorded.")
]


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
