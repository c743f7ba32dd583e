"""Options that several of these commands share."""

from typing import Annotated

import typer

HomeOption = Annotated[
    str | None, typer.Option("--home", help="The home; default: LORAD_HOME, then this folder.")
]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE|NAME",
        help="A file of settings that override default.yaml, or the name of one in configs/ or in lorad itself.",
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, section.key=value; repeatable.")
]
TrackOption = Annotated[str, typer.Option("--track", help="The track.")]
BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="NAME", help="The base model; it must be the one that the version was made for."
    ),
]
DifferentOption = Annotated[
    bool, typer.Option("--allow-different-base", help="Allow another base model, and record that.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
