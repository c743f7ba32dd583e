"""What texts are: ``classify``."""

from dataclasses import replace
from typing import Annotated

import typer

from lorad.apps.cli import texts
from lorad.apps.cli.context import connect, show
from lorad.apps.cli.options import Json
from lorad.apps.screens import tables
from lorad.errors import ProtocolError
from lorad.records import CLASSIFICATION
from lorad.serving.answers import SystemAnswer
from lorad.serving.client import Client

app = typer.Typer()

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
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXTS]...",
            help="Without any, or with -, each line of standard input is one.",
            show_default=False,
        ),
    ] = None,
    *,
    model: Model = None,
    system: System = None,
    variant: Variant = None,
    as_json: Json = False,
) -> None:
    """Print the label or labels of each text, with their probabilities."""
    asked = texts.given(words or [], "lorad classify TEXT")
    client = connect(ctx)
    if system is not None:
        told = _asked_chain(client, system, asked, variant)
        show(told, as_json, lambda answer: tables.system_answer(answer, asked))
        return
    answers = texts.asked_in_parts(client.classify, model or _only_track(client), asked)
    found = tuple(each for answer in answers for each in answer.classifications)
    said = replace(answers[0], classifications=found)
    show(said, as_json, lambda answer: tables.classifications(answer, asked))


def _only_track(client: Client) -> str:
    """Return the one track that learns labels."""
    example = "lorad --set tracks.mail.task=text_classification --set tracks.mail.base=minilm run"
    return texts.only_track(client.status().tracks, {CLASSIFICATION}, "learn", "labels", example)


def _asked_chain(client: Client, system: str, asked: list[str], variant: str | None) -> SystemAnswer:
    """Return what a system says of texts of any number, all of them by the same versions of its members."""
    answers = [client.ask_system(system, part, variant) for part in texts.in_parts(asked)]
    who = [[(member.track, member.version) for member in answer.members] for answer in answers]
    if any(members != who[0] for members in who):
        raise ProtocolError(
            f"a member of {system} learned something new while it was asked, so the answers are not of one system; ask "
            "again",
            code="version_changed",
        )
    return replace(answers[0], results=tuple(each for answer in answers for each in answer.results))
