"""What texts are: ``classify``."""

import sys
from dataclasses import replace
from typing import Annotated

import typer

from lorad.apps.cli.context import connect, show
from lorad.apps.cli.options import Json
from lorad.apps.screens import tables
from lorad.errors import ConfigError
from lorad.records import CLASSIFICATION
from lorad.serving.answers import Classifications
from lorad.serving.client import Client

app = typer.Typer()

TEXTS_AT_ONCE = 64
"""Texts of one request; the daemon takes no more."""
BYTE_ORDER_MARK = "\ufeff"

Texts = Annotated[
    list[str] | None,
    typer.Argument(help="Without any, or with -, each line of standard input is one.", show_default=False),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A track, or track@previous, track@v0.1, track@TAG; default: the only one that learns labels.",
    ),
]
System = Annotated[
    str | None, typer.Option(metavar="NAME", help="Ask the chain of a system instead of a track.")
]
Variant = Annotated[str | None, typer.Option(metavar="NAME", help="Which variant of the system answers.")]


@app.command()
def classify(
    ctx: typer.Context,
    texts: Texts = None,
    *,
    model: Model = None,
    system: System = None,
    variant: Variant = None,
    as_json: Json = False,
) -> None:
    """Print the label of each text with its probability; of several labels all that are likely."""
    asked = _asked(texts)
    client = connect(ctx)
    if system is not None:
        told = client.ask_system(system, asked, variant)
        show(told, as_json, lambda answer: tables.system_answer(answer, asked))
        return
    said = _classified(client, model or _only_track(client), asked)
    show(said, as_json, lambda answer: tables.classifications(answer, asked))


def _classified(client: Client, model: str, asked: list[str]) -> Classifications:
    """Return what the texts are, asked in parts, by one version for all."""
    parts = [asked[begin : begin + TEXTS_AT_ONCE] for begin in range(0, len(asked), TEXTS_AT_ONCE)]
    first = client.classify(model, parts[0])
    rest = [client.classify(first.model, part) for part in parts[1:]]
    found = tuple(each for answer in (first, *rest) for each in answer.classifications)
    return replace(first, classifications=found)


def _asked(texts: list[str] | None) -> list[str]:
    """Return the texts from the command line, or the lines of standard input that say something."""
    if texts and texts != ["-"]:
        return texts
    piped = "" if sys.stdin.isatty() else sys.stdin.read().removeprefix(BYTE_ORDER_MARK)
    lines = [line for line in piped.splitlines() if line.strip()]
    if not lines:
        raise ConfigError("no text given; use: lorad classify TEXT, or pipe lines in", code="no_text")
    return lines


def _only_track(client: Client) -> str:
    """Return the only track that learns labels; raise ``ConfigError`` where none does, or several do."""
    found = [name for name, track in client.status().tracks.items() if track.task == CLASSIFICATION]
    if len(found) != 1:
        told = f"these tracks learn labels: {', '.join(found)}" if found else "no track learns labels"
        raise ConfigError(f"{told}; name one with: --model NAME", code="no_model")
    return found[0]
