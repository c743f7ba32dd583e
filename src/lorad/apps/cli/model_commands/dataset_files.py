"""``lorad plan`` and ``lorad check``: what would happen to a dataset file. They read it as the inbox does."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from lorad import printable, records
from lorad.apps.cli import dataset_report
from lorad.apps.cli.model_commands.context import find_track, load
from lorad.apps.cli.model_commands.options import ConfigOption, HomeOption, JsonOption, SetOption
from lorad.apps.cli.model_commands.output import console, print_lines
from lorad.apps.screens import terminal
from lorad.config import Settings
from lorad.datasets import other_wordings, reader, sidecar
from lorad.errors import ConfigError, SampleError
from lorad.evaluation import judge
from lorad.home import Home
from lorad.models import bases, hardware, scratch
from lorad.records import Example
from lorad.tasks import Task, encode, find
from lorad.tasks.pretraining import Pretraining
from lorad.training import planner, preflight

app = typer.Typer()


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(help="A dataset file.", exists=True, dir_okay=False)],
    track: Annotated[str, typer.Option(help="The track that would learn it.")] = "chat",
    home_path: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the plan for training on a file, with reasons; change nothing."""
    home, settings = load(home_path, config, overrides)
    track, _, reading = read(home, settings, track, file)
    task, tokenizer = find(settings.tracks[track].task), _tokenizer(home, settings, track)
    usable, unusable = encode(task, tokenizer, reading.examples)
    if not usable:
        raise unusable[0][1]
    lengths = _lengths(task, tokenizer, usable)
    decided = _plan(home, settings, track, lengths)
    if as_json:
        terminal.write_json(records.as_json(decided))
        return
    console.print(
        Text.assemble(
            (printable.line(file.name), "bold"), f": {reading.rows} rows, {len(lengths)} examples, "
        ),
        Text(f"longest {max(lengths)} tokens\n"),
    )
    table = Table(box=None, show_header=False)
    for label, value in _settings_of(decided):
        table.add_row(label, value, style=None)
    console.print(table)
    console.print("\nwhy:")
    for reason in decided.reasons:
        console.print(f"  - {reason}")


def _lengths(task: Task, tokenizer: Any, usable: Sequence[tuple[Example, Any]]) -> list[int]:
    """Return the tokens of each example; of a document all of them, and not those of its row."""
    if isinstance(task, Pretraining):
        return task.lengths(tokenizer, [example for example, _ in usable])
    return [len(row) for _, row in usable]


def _settings_of(plan: records.Plan) -> list[tuple[str, str]]:
    stopping = plan.stopping
    if not plan.rank:  # a model from scratch
        return [
            ("weights", f"all of them, in {plan.dtype}"),
            ("epochs", f"until {stopping.patience} bring no progress; at most {stopping.max_rounds}"),
            ("batch", f"{plan.batch} sequences of {plan.max_length} tokens"),
            ("learning rate", f"{plan.learning_rate:g}, {plan.warmup_steps} warm-up steps, then a cosine"),
        ]
    return [
        ("rank / alpha", f"{plan.rank} / {plan.alpha}"),
        (
            "rounds",
            (
                f"until recall is {stopping.recall:.0%}, or {stopping.patience} of them ({stopping.patience_steps} steps) bring no progress; "
                f"at least {stopping.min_rounds}, at most {stopping.max_rounds}"
            ),
        ),
        (
            "batch x accumulation",
            f"{plan.batch} x {plan.accumulation}, up to {plan.pack_tokens} tokens in one pass",
        ),
        ("max length", f"{plan.max_length} tokens"),
        (
            "learning rate",
            f"{plan.learning_rate:g}, {plan.warmup_steps} warm-up steps, falling as recall rises",
        ),
        ("base", f"{plan.dtype}, gradient checkpointing {'on' if plan.gradient_checkpointing else 'off'}"),
    ]


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="A dataset file.", exists=True, dir_okay=False)],
    track: Annotated[str, typer.Option(help="The track that would learn it.")] = "chat",
    task: Annotated[
        str | None,
        typer.Option(help=f"Read it for this task, without a track or a model: {', '.join(reader.TASKS)}."),
    ] = None,
    home_path: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read a file (and NAME.meta.yaml and NAME.wordings.json beside it) as the inbox does, and report; change nothing."""
    home, settings = load(home_path, config, overrides)
    try:
        about, reading = _read_for(settings, task, file) if task else _read_as(home, settings, track, file)
    except SampleError as error:
        if as_json:
            terminal.write_json({"file": file.name, "error": error.as_dict()})
        else:
            print_lines([("rejected", error.message), *_bad_rows(error)])
        raise typer.Exit(1) from None
    alone = f"not counted: read for the task {task} only, without a model"
    report = (
        dataset_report.summarize(file.name, reading)
        | about
        | {"model": None, "no_model": alone if task else ""}
    )
    try:
        report["model"] = _measured(home, settings, about["track"], reading) if about["track"] else None
    except ConfigError as error:  # the file's content can be reported without a model
        report["no_model"] = f"not counted: {error.message}"
    refusal = dataset_report.refusal(report)
    if as_json:
        shown = report | ({"error": refusal} if refusal else {})
        terminal.write_json(shown)
    else:
        print_lines([*dataset_report.lines(report), *([("rejected", refusal["message"])] if refusal else [])])
    if refusal:
        raise typer.Exit(1)


def _read_as(home: Home, settings: Settings, track: str, file: Path) -> tuple[dict[str, Any], reader.Reading]:
    track, meta, reading = read(home, settings, track, file)
    task = settings.tracks[track].task
    return {"track": track, "task": task, "description": meta.description}, reading


def _read_for(settings: Settings, task: str, file: Path) -> tuple[dict[str, Any], reader.Reading]:
    task = records.FORMATS_OF.get(task, task)
    if task not in reader.TASKS:
        raise ConfigError(f"there is no task {task!r}; known: {', '.join(reader.TASKS)}", code="no_such_task")
    meta = sidecar.beside(file)
    meta.fit_task(sidecar.path_of(file).name, task)
    held_out = other_wordings.beside(file)
    reading = reader.read(file, settings.inbox, task, meta.fields, meta.labels, held_out=held_out)
    return {"track": None, "task": task, "description": meta.description}, reading


def _measured(home: Home, settings: Settings, track: str, reading: reader.Reading) -> dict[str, Any]:
    decide = partial(_plan, home, settings, track)
    task = find(settings.tracks[track].task)
    tokenizer = _tokenizer(home, settings, track)
    return dataset_report.measure(
        reading.examples, task, tokenizer, lambda lengths: decide(lengths).max_length
    )


def _bad_rows(error: SampleError) -> list[tuple[str, str]]:
    rows = error.data.get("rows", ())
    return [("bad row", f"line {row['row']}, field {row['field'] or '-'}: {row['message']}") for row in rows]


def read(
    home: Home, settings: Settings, track: str, file: Path
) -> tuple[str, sidecar.Sidecar, reader.Reading]:
    """Read a file and its sidecars as the inbox does; return also its track, which the sidecar may name."""
    meta = sidecar.beside(file)
    track = meta.track or track
    holds_documents = settings.track(track).task == records.RETRIEVAL
    formats = records.RETRIEVAL if holds_documents else find(settings.track(track).task).formats
    meta.fit(sidecar.path_of(file).name, track, formats, tuple(settings.tracks))
    check = _as_it_is if holds_documents else _row_check(home, settings, track, meta.labels)
    held_out = other_wordings.beside(file)
    reading = reader.read(file, settings.inbox, formats, meta.fields, meta.labels, check, held_out=held_out)
    return track, meta, reading


def _as_it_is(document: Example) -> Example:
    return document


def _row_check(home: Home, settings: Settings, track: str, labels: Sequence[str]) -> reader.Check:
    """Return the check that the inbox runs on each row; without the track's base model, none.

    Labels are compared within the file, and not with those that the track knows.
    """
    task = find(settings.tracks[track].task)
    beside = task.checker(tuple, labels)
    try:
        tokenizer = _tokenizer(home, settings, track)
    except ConfigError:
        return lambda example: example

    def check(example: Example) -> Example:
        beside(example)
        return task.check(tokenizer, example)

    return check


def _tokenizer(home: Home, settings: Settings, track: str) -> Any:
    base = home.base_of(track, settings.tracks[track].base)
    bases.read_fingerprint(base)
    return bases.load_tokenizer(base)


def _plan(home: Home, settings: Settings, track: str, lengths: Sequence[int]) -> records.Plan:
    registry, base = find_track(home, settings, track)
    latest = registry.latest
    if settings.track(track).base == records.SCRATCH:
        whole = planner.plan_pretraining(
            lengths=lengths,
            context=settings.track(track).sizes.max_seq_len,
            machine=hardware.machine(settings.training.device),
            settings=settings.pretraining,
            rehearsal=settings.rehearsal,
            training=settings.training,
            is_first=latest is None,
        )
        recipe = scratch.recipe_of(settings.track(track), settings)
        return preflight.fit(whole, preflight.room_from_scratch(recipe, settings))
    decided = planner.plan(
        lengths=lengths,
        shape=bases.shape(base),
        machine=hardware.machine(settings.training.device),
        planner=settings.planner,
        rehearsal=settings.rehearsal,
        training=settings.training,
        form=bases.quantization(base, settings.training),
        drift=judge.drift(registry.result(latest).evaluation, settings.judge) if latest else 0.0,
        formats=find(settings.track(track).task).formats,
    )
    return preflight.fit(decided, preflight.room(base, settings))
