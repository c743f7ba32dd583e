"""What stands in a text's gaps: ``fill``."""

from dataclasses import replace
from typing import Annotated

import typer

from lorad.apps.cli import texts
from lorad.apps.cli.context import connect, show
from lorad.apps.cli.options import Json
from lorad.apps.screens import tables
from lorad.records import FILLING, SPANS
from lorad.serving.answers import FilledTexts
from lorad.serving.client import Client

app = typer.Typer()

Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A track, or track@previous, track@v0.1, track@TAG; default: the only one that fills gaps.",
    ),
]
TopK = Annotated[int, typer.Option("--top-k", min=1, max=100, help="Words that are shown for each gap.")]


@app.command()
def fill(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXTS]...",
            help="With [MASK] for each gap. Without any, or with -, each line of standard input is one.",
            show_default=False,
        ),
    ] = None,
    *,
    model: Model = None,
    top_k: TopK = 5,
    as_json: Json = False,
) -> None:
    """Fill the gaps of each text: print the likeliest words for every [MASK]."""
    asked = texts.given(words or [], 'lorad fill "The capital of [MASK]"')
    client = connect(ctx)

    def ask(named: str, part: list[str]) -> FilledTexts:
        return client.fill(named, part, top_k)

    answers = texts.asked_in_parts(ask, model or _only_track(client), asked)
    said = replace(answers[0], texts=tuple(each for answer in answers for each in answer.texts))
    show(said, as_json, tables.filled_texts)


def _only_track(client: Client) -> str:
    """Return the one track that fills gaps."""
    tracks = client.status().tracks
    return texts.only_track(tracks, {FILLING, SPANS}, "fill", "gaps", "lorad --config scratch run")
