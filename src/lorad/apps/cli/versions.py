"""Versions: ``versions …``, ``explain``, ``diff``, ``retention`` and ``rollback``."""

from pathlib import Path
from typing import Annotated

import typer

from lorad.apps.cli import tracker_alias
from lorad.apps.cli.context import connect, connect_or_read, show
from lorad.apps.cli.options import DryRun, Json, Track, refuse_options_in_front
from lorad.apps.cli.programs import AS_TYPED, hand_over
from lorad.apps.screens import tables, terminal
from lorad.errors import RegistryError

app = typer.Typer()
group = typer.Typer(invoke_without_command=True)
app.add_typer(group, name="versions")


Wordings = Annotated[bool, typer.Option("--wordings", help="Show facts asked for in other words instead.")]
PlotFile = Annotated[Path | None, typer.Option(metavar="FILE.png", help="Also draw it as an image.")]
Target = Annotated[
    str | None, typer.Option(metavar="V", help="A version, a tag, or base; default: previous.")
]
OneVersion = Annotated[
    str, typer.Argument(metavar="V", help="A version, a tag, latest or previous.", show_default=False)
]
Explained = Annotated[
    str, typer.Argument(metavar="V", help="A version, a tag, latest, previous, or job-N.", show_default=False)
]
Tag = Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits, dots, dashes.")]
Keep = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Maximum number of versions; default: registry.keep.")
]
OlderThan = Annotated[int | None, typer.Option(min=1, metavar="DAYS", help="Maximum age in days.")]
MaxBytes = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Maximum size of all together, in bytes.")
]


@group.callback()
def _versions(ctx: typer.Context, track: Track = "chat", as_json: Json = False) -> None:
    """List the versions of a track."""
    if ctx.invoked_subcommand is None:
        show(connect_or_read(ctx).versions(track), as_json, tables.versions)
    else:
        refuse_options_in_front(ctx)


@group.command("latest")
def versions_latest(ctx: typer.Context, track: Track = "chat") -> None:
    """Print the name of the latest version."""
    latest = connect_or_read(ctx).versions(track).latest
    if latest is None:
        raise RegistryError(
            f"{track} has no latest version, so its base serves; drop a file, or go back to a version with: "
            "lorad rollback",
            code="no_version",
        )
    terminal.say(latest)


@group.command("show")
def versions_show(
    ctx: typer.Context, version: OneVersion, track: Track = "chat", as_json: Json = False
) -> None:
    """Show one version in full."""
    show(connect_or_read(ctx).version(track, version), as_json, tables.version)


@group.command("add", **AS_TYPED)  # type: ignore[arg-type]
def versions_add(ctx: typer.Context) -> None:
    """Import an externally trained adapter or model; see: lorad versions add --help."""
    hand_over(ctx, "versions", "add")


@app.command("update-checkpoint-tracker", **AS_TYPED)  # type: ignore[arg-type]
def update_checkpoint_tracker(ctx: typer.Context) -> None:
    """Import a version with the words of update_checkpoint_tracker.py; see: lorad versions add --help."""
    ctx.args = tracker_alias.as_versions_add(ctx.args)
    hand_over(ctx, "versions", "add")


@group.command("pin")
def versions_pin(ctx: typer.Context, version: OneVersion, track: Track = "chat") -> None:
    """Protect a version from pruning."""
    pinned = connect(ctx).pin(track, version, pinned=True).version
    terminal.say(f"{pinned} is pinned; undo it with: lorad versions unpin {pinned}")


@group.command("unpin")
def versions_unpin(ctx: typer.Context, version: OneVersion, track: Track = "chat") -> None:
    """Allow a version to be pruned again."""
    unpinned = connect(ctx).pin(track, version, pinned=False).version
    terminal.say(f"{unpinned} is no longer pinned")


@group.command("tag")
def versions_tag(ctx: typer.Context, version: OneVersion, name: Tag, track: Track = "chat") -> None:
    """Give a version a tag; another version with this tag loses it."""
    tagged = connect(ctx).tag(track, version, name).version
    terminal.say(f"{tagged} has the tag {name}; ask it with: lorad ask --model {track}@{name} QUESTION")


@group.command("untag")
def versions_untag(ctx: typer.Context, version: OneVersion, name: Tag, track: Track = "chat") -> None:
    """Remove a tag from a version."""
    untagged = connect(ctx).tag(track, version, name, remove=True).version
    terminal.say(f"{untagged} no longer has the tag {name}")


@group.command("prune")
def versions_prune(
    ctx: typer.Context,
    *,
    track: Track = "chat",
    keep: Keep = None,
    older_than: OlderThan = None,
    max_bytes: MaxBytes = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Remove the versions beyond the limits: those of the settings, or those given here."""
    limits = {"keep": keep, "max_age_days": older_than, "max_bytes": max_bytes}
    answer = connect(ctx).prune(track, dry_run=dry_run, **limits)
    if as_json:
        terminal.write_json(answer)
        return
    for version, why in answer.pruned.items():
        terminal.say(f"{'would remove' if dry_run else 'removed'} {version}: {why}")
    if not answer.pruned:
        terminal.say(
            "no version is beyond the limits; latest, previous, pinned and tagged versions are always kept"
        )


@app.command()
def explain(ctx: typer.Context, version: Explained, track: Track = "chat", as_json: Json = False) -> None:
    """Explain why a version was promoted, or why a job (job-N) was not."""
    show(connect_or_read(ctx).explain(track, version), as_json, tables.explanation)


@app.command()
def diff(
    ctx: typer.Context, a: OneVersion, b: OneVersion, track: Track = "chat", as_json: Json = False
) -> None:
    """Show the examples that only one of two versions answers correctly."""
    show(connect_or_read(ctx).diff(track, a, b), as_json, tables.difference)


@app.command()
def retention(
    ctx: typer.Context,
    *,
    track: Track = "chat",
    wordings: Wordings = False,
    plot: PlotFile = None,
    as_json: Json = False,
) -> None:
    """Show the retention matrix: recall of every dataset at every version. JSON has the facts too."""
    answer = connect_or_read(ctx).retention(track)
    draw, table = (tables.plot_facts, tables.facts_retention) if wordings else (tables.plot, tables.retention)
    if plot:
        draw(answer, plot)
    show(answer, as_json, table)


@app.command()
def rollback(ctx: typer.Context, to: Target = None, track: Track = "chat") -> None:
    """Serve an earlier version again, or the base model."""
    now = connect(ctx).rollback(track, to)
    latest, previous = now.latest or "none", now.previous or "none"
    terminal.say(f"{now.serving or 'the base'} serves; latest is {latest}, previous is {previous}")
