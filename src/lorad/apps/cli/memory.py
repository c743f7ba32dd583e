"""Memory: ``memory …``, ``forget`` and ``consolidate``."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lorad.apps.cli.context import connect, connect_or_read, show
from lorad.apps.cli.drops import copy_all
from lorad.apps.cli.options import DryRun, Json, Track, refuse_options_in_front
from lorad.apps.screens import state_text, tables, terminal
from lorad.errors import ConfigError
from lorad.storage import strict_json
from lorad.storage.files import free_name
from lorad.storage.targets import check_replaceable, writing

app = typer.Typer()
group = typer.Typer(invoke_without_command=True)
app.add_typer(group, name="memory")


MAX_STEM_BYTES = 200
"""Bytes; a file name has 255 at most, and lorad adds suffixes to it."""

ExportFile = Annotated[
    Path, typer.Argument(metavar="FILE.jsonl", help="The file to write; - is standard output.")
]
Replace = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
Dataset = Annotated[str | None, typer.Option(metavar="NAME", help="Only this dataset.")]
Refit = Annotated[bool, typer.Option("--refit", help="Train all of memory again from the base model.")]
Selector = Annotated[str, typer.Argument(help="The name of a dataset, or a text that the examples contain.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


@group.callback()
def _memory(ctx: typer.Context, track: Track = "chat", as_json: Json = False) -> None:
    """List the datasets in memory and the recall of each."""
    if ctx.invoked_subcommand is None:
        show(connect_or_read(ctx).memory(track), as_json, tables.memory)
    else:
        refuse_options_in_front(ctx)


@group.command("export")
def memory_export(
    ctx: typer.Context,
    file: ExportFile,
    track: Track = "chat",
    dataset: Dataset = None,
    force: Replace = False,
) -> None:
    """Export the examples as JSONL; the inbox and import can read it."""
    if str(file) != "-":
        check_replaceable(file, replace=force)
    rows = connect_or_read(ctx).examples(track, dataset)
    if str(file) == "-":
        for row in _readable(rows):
            terminal.write_json(row, indent=None)
        return
    count = 0
    try:
        with writing(file, replace=force) as stream:
            for count, row in enumerate(_readable(rows), 1):  # noqa: B007 - the last number is the count
                stream.write(f"{strict_json.encoded(row).decode()}\n")
    except OSError as error:
        raise ConfigError(f"{file} could not be written: {error.strerror}", code="not_written") from None
    terminal.say(f"wrote {state_text.plural(count, 'example')} to {file}")


def _readable(rows: Iterator[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the readable rows, and report the others."""
    for row in rows:
        if "unreadable" in row:
            place = f"example {row['provenance']['row']} of {row['dataset']!a}"
            terminal.complain(f"{place} cannot be read and is skipped: {row['unreadable']!a}")
        else:
            yield row


@group.command("import")
def memory_import(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A file written by export.")],
    track: Track = "chat",
) -> None:
    """Drop an exported memory into the inbox, as one file per dataset."""
    home, settings = ctx.obj.find()
    settings.track(track)
    inbox = home.inbox / track
    with tempfile.TemporaryDirectory() as folder:
        sources = _split_by_dataset(file, Path(folder))
        copy_all(sources, home.inbox, track)
    names = ", ".join(source.stem for source in sources)
    terminal.say(f"dropped {state_text.plural(len(sources), 'dataset')} into {inbox}: {names}")


def _split_by_dataset(file: Path, folder: Path) -> list[Path]:
    """Write one JSONL file per dataset, named after it."""
    paths: dict[str, Path] = {}
    for number, line in enumerate(_lines_of(file), 1):
        try:
            name = json.loads(line)["dataset"]
        except (ValueError, KeyError, TypeError, RecursionError):
            name = None
        if not isinstance(name, str):
            raise ConfigError(
                f"{file}, line {number}: not a row written by lorad memory export; drop other "
                f"datasets with: lorad drop {file}",
                code="not_exported",
            )
        if name not in paths:
            paths[name] = _file_named(name, folder)
        with paths[name].open(
            "a", encoding="utf-8"
        ) as stream:  # opened one at a time: there may be thousands
            stream.write(line.rstrip("\n") + "\n")
    return sorted(paths.values())


def _file_named(dataset: str, folder: Path) -> Path:
    """Create a file named after a dataset, without characters that file names cannot have; no two share one."""
    safe = "".join(sign if sign.isalnum() or sign in "._- " else "_" for sign in dataset).lstrip(".")
    short = safe.encode()[:MAX_STEM_BYTES].decode(errors="ignore")
    path = free_name(folder / f"{short or 'dataset'}.jsonl")
    path.touch()
    return path


def _lines_of(file: Path) -> Iterator[str]:
    if file.exists() and not file.is_file():  # a pipe may never send anything, a device may never end
        raise ConfigError(f"{file} is not a regular file; copy its content into one", code="unreadable")
    try:
        with file.open(encoding="utf-8") as stream:
            yield from (line for line in stream if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}", code="unreadable") from None


@app.command()
def forget(
    ctx: typer.Context, selector: Selector, track: Track = "chat", yes: Yes = False, dry_run: DryRun = False
) -> None:
    """Remove examples from memory: a dataset by name, or all that contain a text."""
    client = connect(ctx)
    if dry_run or not yes:
        meant = client.forget(track, selector, dry_run=True)
        for example in meant.examples:
            terminal.say(f"  {example.question}  →  {example.answer}")
        more = meant.forgotten - len(meant.examples)
        if more:
            terminal.say(f"  … and {more} more")
        count = state_text.plural(meant.forgotten, "example")
        remains = f"; {meant.told}" if meant.forgotten and meant.told else ""
        if dry_run or not meant.forgotten:
            terminal.say(f"{selector!r} matches {count}; nothing was forgotten{remains}")
            return
        if not typer.confirm(f"Forget {count}?"):
            raise typer.Exit(1)
    done = client.forget(track, selector)
    terminal.say(f"forgot {state_text.plural(done.forgotten, 'example')}; {done.told}".rstrip("; "))


@app.command()
def consolidate(ctx: typer.Context, track: Track = "chat", refit: Refit = False) -> None:
    """Undo drift and make a large adapter smaller; with --refit, learn everything again from the base."""
    job = connect(ctx).consolidate(track, refit=refit)
    terminal.say(f"queued job {job.id}; wait for it with: lorad wait --job {job.id}")
