"""``lorad test``: how many facts of a dataset file a running lorad answers right.

What lives here: the command, and reading its file. What never does: asking (``fact_asking``), which answers are right,
the report (``fact_test``).
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorad.apps.cli.context import connect
from lorad.apps.cli.options import Json
from lorad.apps.screens import terminal
from lorad.errors import ConfigError

if TYPE_CHECKING:
    from lorad.records import Example

app = typer.Typer()


@app.command("test")
def ask_file(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(help="A dataset file: questions and expected answers.", exists=True, dir_okay=False),
    ],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="A track, or track@previous, track@v0.1, track@TAG.")
    ] = "chat",
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Only ask the model alone; look for no taught examples.")
    ] = False,
    misses: Annotated[int, typer.Option(min=0, metavar="N", help="Maximum number of printed misses.")] = 10,
    as_json: Json = False,
) -> None:
    """Ask a running lorad every question of a file; count the answers that hold the expected facts."""
    from lorad.apps.cli import fact_asking, fact_test  # noqa: PLC0415 - see lorad.apps.cli

    client, began = connect(ctx), time.monotonic()
    examples = _read(ctx, file)
    asked = fact_test.questions(examples)
    if not asked:
        raise ConfigError(f"{file.name} has no question that is answered in text alone", code="no_question")
    ways: Sequence[fact_test.Way] = ("weights",) if weights_only else ("served", "weights")
    outcomes, models = fact_asking.ask_all(client, asked, ways, model, time.monotonic)
    report = fact_test.Report(
        file=file.name,
        models=models,
        seconds=round(time.monotonic() - began, 1),
        left_out=len(examples) - sum(question.form == "as_written" for question in asked),
        results=fact_test.results(outcomes),
        misses=tuple(outcome for outcome in outcomes if not outcome.is_right),
    )
    if as_json:
        terminal.write_json(report)
    else:
        terminal.say(*fact_test.lines(report, misses))


def _read(ctx: typer.Context, file: Path) -> "Sequence[Example]":
    """Read a file, and its sidecars, as the inbox does."""
    from lorad.datasets import other_wordings, reader, sidecar  # noqa: PLC0415 - 80 ms that `lorad status` need not spend

    _, settings = ctx.obj.find()
    about = sidecar.beside(file)
    about.fit_task(sidecar.path_of(file).name, "chat")
    held_out = other_wordings.beside(file)
    return reader.read(file, settings.inbox, "chat", about.fields, held_out=held_out).examples
