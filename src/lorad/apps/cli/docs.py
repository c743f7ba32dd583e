"""Documents: ``docs add``, ``docs list``, ``docs show``, ``docs search``, ``docs questions`` and ``docs remove``."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lorad.apps.cli import drops, texts
from lorad.apps.cli.context import connect, show
from lorad.apps.cli.options import Json
from lorad.apps.screens import tables, terminal
from lorad.errors import ConfigError, LoradError
from lorad.home import find_home
from lorad.records import DOCUMENTS

app = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Add, search and remove documents.")
app.add_typer(group, name="docs")

Track = Annotated[str, typer.Option(metavar="NAME", help="The track of documents.")]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", metavar="TAG", help="Only documents with this tag; repeatable.")
]
Since = Annotated[str, typer.Option(metavar="DATE", help="Only documents of this day (YYYY-MM-DD) or later.")]
Until = Annotated[str, typer.Option(metavar="DATE", help="Only documents of this day or earlier.")]
How = Annotated[
    str | None, typer.Option(metavar="WAY", help="hybrid, bm25 or embeddings; default: documents.search.")
]


@group.command()
def add(
    ctx: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            help="Documents; a sidecar beside one (FILE.meta.yaml) is copied too.",
            show_default=False,
        ),
    ],
    track: Track = DOCUMENTS,
) -> None:
    """Copy documents into the inbox; they can be searched within seconds. A file replaces one of its name and title."""
    there = _added_under(ctx, [file.name for file in files], track)
    drops.drop(ctx, files, track)
    for name, number in there.items():
        terminal.say(
            f"{name} was added before: document {number}. With the same title this one replaces it; if it is another "
            "document, give it a name of its own and add both"
        )


def _added_under(ctx: typer.Context, names: Sequence[str], track: str) -> dict[str, int]:
    """Return the newest document of each name, of those that a running lorad has."""
    client = connect(ctx)
    if not client.is_running():
        return {}
    found: dict[str, int] = {}
    with contextlib.suppress(LoradError):  # nothing that would keep a file from being dropped
        for name in names:
            same = (each.id for each in client.documents(track, name).documents if each.name == name)
            if (number := next(same, None)) is not None:
                found[name] = number
    return found


@group.command("list")
def list_documents(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(help="Only those of this file, title or url.", show_default=False)
    ] = "",
    track: Track = DOCUMENTS,
    as_json: Json = False,
) -> None:
    """List the documents, newest first."""
    show(connect(ctx).documents(track, name), as_json, tables.documents)


@group.command("show")
def show_document(
    ctx: typer.Context,
    document: Annotated[
        int, typer.Argument(metavar="NUMBER", help="As docs list tells it.", show_default=False)
    ],
    track: Track = DOCUMENTS,
    as_json: Json = False,
) -> None:
    """Print a document's text."""
    found = connect(ctx).document(document, track)
    if as_json:
        terminal.write_json(found)
    else:
        terminal.write(f"{found.text}\n")


@group.command()
def search(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(help="Words, or a question.", show_default=False)],
    track: Track = DOCUMENTS,
    k: Annotated[int, typer.Option("--top", min=1, max=100, help="Maximum number of passages.")] = 5,
    how: How = None,
    tags: Tags = None,
    since: Since = "",
    until: Until = "",
    as_json: Json = False,
) -> None:
    """Print the passages that are nearest to a question, best first."""
    texts.check_typed(query)
    options = {"how": how, "tags": tags or None, "since": since or None, "until": until or None}
    show(connect(ctx).search(query, track, k, **options), as_json, tables.passages)


@group.command()
def questions(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(help="Only documents of this file, title or url.", show_default=False)
    ] = "",
    *,
    into: Annotated[
        Path,
        typer.Option(metavar="FILE.jsonl", help="The file to write, or to go on with.", show_default=False),
    ],
    track: Track = DOCUMENTS,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Who writes and answers the questions; better the base alone.")
    ] = "chat@base",
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Maximum number of questions.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw questions from documents into a dataset file for a chat track. Nothing is learned until you drop it."""
    from lorad.apps.cli import question_report  # noqa: PLC0415 - see lorad.apps.cli
    from lorad.apps.cli.question_asking import Asking, Wanted  # noqa: PLC0415
    from lorad.apps.cli.question_file import QuestionFile  # noqa: PLC0415

    wanted = Wanted(track=track, name=name, model=model, limit=limit)
    file = QuestionFile(into, find_home(ctx.obj.home))
    report = Asking(connect(ctx), wanted, file, time.monotonic).run()
    if as_json:
        terminal.write_json(report)
    else:
        terminal.say(*question_report.lines(report))
    if report.end == "interrupted":
        raise typer.Exit(130)


@group.command()
def remove(
    ctx: typer.Context,
    numbers: Annotated[
        list[int] | None,
        typer.Argument(metavar="[NUMBER]...", help="As docs list tells them.", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="Or all of this file, title or url.")] = "",
    track: Track = DOCUMENTS,
    as_json: Json = False,
) -> None:
    """Remove documents from the store; their files in done/ stay."""
    if bool(numbers) == bool(name):
        raise ConfigError(
            "name either documents' numbers or --name NAME; see: lorad docs list", code="no_document"
        )
    removed = connect(ctx).remove_documents(numbers or (), name, track)
    if not removed.documents:
        raise ConfigError(
            f"the track {track} has no such document; see: lorad docs list --track {track}",
            code="no_document",
        )
    show(removed, as_json, tables.removed_documents)
