"""Options that several groups of commands share."""

from typing import Annotated

import typer

from lorad.errors import ConfigError

LONGEST_REST = 86_400.0
"""Seconds; ``time.sleep`` takes no infinite number of them."""

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Track = Annotated[str, typer.Option(metavar="NAME", help="The track.")]
Interval = Annotated[
    float, typer.Option(min=0.0, max=LONGEST_REST, metavar="S", help="Seconds between two requests.")
]


def refuse_options_in_front(ctx: typer.Context) -> None:
    """Refuse options before the subcommand: it has options of the same names, so these would be ignored."""
    for name, parameter in (("track", "--track"), ("as_json", "--json")):
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(
                f"put {parameter} after {ctx.invoked_subcommand}: lorad {ctx.info_name} {ctx.invoked_subcommand} … {parameter}",
                code="bad_option",
            )
