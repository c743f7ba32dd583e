"""``lorad calibrate``: measure a version's confidence, and whether it has drifted."""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.progress import Progress

from lorad import records
from lorad.apps.cli.model_commands.context import find_track, load
from lorad.apps.cli.model_commands.dataset_files import read
from lorad.apps.cli.model_commands.options import ConfigOption, HomeOption, JsonOption, SetOption, TrackOption
from lorad.apps.cli.model_commands.output import console
from lorad.apps.screens import tables, terminal
from lorad.apps.screens.screen import Screen
from lorad.config import Settings
from lorad.errors import ConfigError
from lorad.evaluation import calibration, confidence
from lorad.home import Home
from lorad.models import bases
from lorad.storage.database import Database
from lorad.storage.memory import Memory
from lorad.tasks import find
from lorad.versions import calibrations, papers
from lorad.versions.store import Registry

app = typer.Typer()

NO_REFERENCE = 2
"""Exit code of a check without a reference; 1 is drift, or an error as everywhere."""


@app.command()
def calibrate(
    version: Annotated[str, typer.Argument(help="A version, a tag, latest or previous.")] = "latest",
    track: TrackOption = "chat",
    held_out: Annotated[
        Path | None,
        typer.Option(
            "--on",
            exists=True,
            dir_okay=False,
            help="Also test this dataset, which the version never learned.",
        ),
    ] = None,
    most: Annotated[
        int, typer.Option("--rows", min=2, help="Maximum number of questions from memory, and from the file.")
    ] = 500,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Measure again and compare: exit code 1 on drift, 2 without a reference."
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing measurement.")] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw a reliability diagram into FILE.png.")
    ] = None,
    home_path: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how well a version's confidence matches its accuracy; keep that as a reference, or report drift."""
    home, settings = load(home_path, config, overrides)
    registry, _ = find_track(home, settings, track)
    name = registry.resolve(version)
    is_anew = (force and not check) or (held_out is not None and registry.is_calibration_its_own(name))
    stored = None if is_anew else _reference(registry, name)
    if check and stored is None:
        terminal.complain(f"{name} has no reference yet; measure it with: lorad calibrate {name}")
        raise typer.Exit(NO_REFERENCE)
    if stored and held_out and not check:
        raise ConfigError(
            f"{name} is already measured; replace the measurement with --force", code="measured_before"
        )
    if stored and not check:
        found, comparison = stored, None
    else:
        model, questions = _prepare(home, settings, track, name, held_out)
        found, comparison = _measure(model, questions, stored, most)
    report = calibration.report(found)
    if stored is None:
        registry.keep_calibration(name, records.as_json(report))
    _print_calibration(report, comparison, plot, as_json)
    if comparison and comparison.drifted:
        raise typer.Exit(1)


def _reference(registry: Registry, version: str) -> calibration.Reference | None:
    found = registry.calibration(version)
    if found is None:
        return None
    try:
        return records.restore(calibration.Reference, found)
    except ValidationError as error:
        raise calibrations.unreadable(version, error) from None


def _prepare(
    home: Home, settings: Settings, track: str, version: str, held_out: Path | None
) -> tuple[confidence.CalibratedModel, list[confidence.Question]]:
    """Load a version and find its questions."""
    registry, base = find_track(home, settings, track)
    folder = registry.verify(version, bases.read_fingerprint(base))
    unseen = _unseen(home, settings, track, held_out) if held_out else ()
    task = find(settings.tracks[track].task)
    with contextlib.closing(Database(home.database)) as database:
        memory = Memory(database, track)
        apart = papers.read_held_out(folder)
        questions = confidence.find_questions(memory, registry.lineage(version), apart, unseen)
    longest = max(row.max_length for row in settings.planner.table)
    held = bases.load_to_answer(base, settings.engine.device, settings.training, task.head)
    model = confidence.CalibratedModel(folder, held, task, questions, longest)
    return model, questions


def _unseen(home: Home, settings: Settings, track: str, file: Path) -> Sequence[records.Example]:
    whose, _, reading = read(home, settings, track, file)
    if whose != track:
        raise ConfigError(
            f"the sidecar of {file.name} names the track {whose}; use one of its versions: --track {whose}",
            code="other_track",
        )
    return reading.examples


def _measure(
    model: confidence.CalibratedModel,
    questions: list[confidence.Question],
    stored: calibration.Reference | None,
    most: int,
) -> tuple[calibration.Reference, calibration.Comparison | None]:
    """Measure for the first time, or again and compare."""
    with _progress() as tell:
        if stored is None:
            return confidence.measure(model, questions, most, time.time(), tell), None
        found = confidence.measure_again(model, questions, stored, time.time(), tell)
    return found, calibration.compare(stored, found)


@contextlib.contextmanager
def _progress() -> Iterator[confidence.Tell]:
    """Show a progress bar on a terminal."""
    with Progress(console=Screen(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("asking", total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tell


def _print_calibration(
    report: calibration.CalibrationReport,
    comparison: calibration.Comparison | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    if plot:
        tables.reliability(report, plot)
    if as_json:
        terminal.write_json(_without_rows(report, comparison))
    else:
        console.print(tables.calibration(report, comparison))


def _without_rows(
    report: calibration.CalibrationReport, comparison: calibration.Comparison | None
) -> dict[str, Any]:
    """Return a report and its comparison as JSON data."""
    shown = {name: value for name, value in records.as_json(report).items() if name != "rows"}
    if comparison:
        shown["check"] = {**records.as_json(comparison), "drifted": list(comparison.drifted)}
    return shown
