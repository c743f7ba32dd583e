"""``lorad reproduce``: make a version again and compare."""

import contextlib
import os
import time
from typing import Annotated, Any

import typer
from rich.text import Text

from lorad import records
from lorad.apps.cli.model_commands.context import find_track, load
from lorad.apps.cli.model_commands.options import ConfigOption, HomeOption, JsonOption, SetOption, TrackOption
from lorad.apps.cli.model_commands.output import console, say
from lorad.models import bases
from lorad.storage import permissions
from lorad.storage.database import Database
from lorad.track import open_track
from lorad.training import executors, reproduction
from lorad.training.executors.interface import Executor
from lorad.training.run_folder import RunFolder

app = typer.Typer()

POLL_SECONDS = 0.5
"""Pause between two polls of the running session."""


@app.command("reproduce")
def reproduce_version(
    version: Annotated[str, typer.Argument(help="A version, a tag, latest or previous.")],
    keep: Annotated[bool, typer.Option("--keep", help="Keep the result in models/TRACK/reproduced.")] = False,
    track: TrackOption = "chat",
    home_path: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a version again from its records and memory, and compare; exit code 1 if it is not the same."""
    os.umask(permissions.UMASK)
    home, settings = load(home_path, config, overrides)
    registry, base_folder = find_track(home, settings, track)
    version = registry.resolve(version)
    registry.verify(version, bases.verify_base(base_folder))
    with registry.workspace.reproducing(version, keep=keep) as path:
        folder = RunFolder(path)
        with contextlib.closing(Database(home.database)) as database:
            spec = reproduction.prepare(open_track(home, settings, database, track), version, folder)
        training = reproduction.training(spec, settings.training.nice)
        _run_session(folder, executors.choose(training), quiet=as_json)
        found = reproduction.compare(registry, version, folder)
        folder.remove_words()
    say(
        {"version": version, **records.as_json(found), "equal": found.is_equal, "close": found.is_close},
        as_json,
        f"the reproduced {version} is {_result(found)}",
    )
    if not found.is_close:
        raise typer.Exit(1)


def _result(found: reproduction.Comparison) -> str:
    """Return how the two versions compare, and what differs between their environments."""
    why = f" ({'; '.join(found.changed)})" if found.changed else ""
    if found.is_equal:
        together = f", both made by {found.processes} processes" if found.processes > 1 else ""
        return f"bit-equal{together}{why}"
    return (
        f"not bit-equal: weights differ by up to {found.largest_difference:.3g}; "
        f"correct answers {found.first:.2%} then, {found.again:.2%} now{why}"
    )


def _summary(progress: dict[str, Any]) -> str:
    """Return a session's progress in a few words."""
    parts = [str(progress.get("phase", "loading"))]
    parts += [f"round {progress['round']}"] if progress.get("round") else []
    parts += [f"recall {progress['recall']:.0%}"] if progress.get("recall") is not None else []
    return ", ".join(parts)


def _run_session(folder: RunFolder, executor: Executor, *, quiet: bool) -> None:
    """Run a session as the daemon does and show its progress; raise ``TrainingError`` if it fails."""
    running = executor.start(folder)
    try:
        with console.status("", spinner="dots") as status:
            while (ended := running.poll(time.monotonic())) is None:
                if not quiet:
                    status.update(Text(_summary(running.progress)))
                time.sleep(POLL_SECONDS)
    finally:
        running.stop()
    if ended:
        raise folder.failure(ended)
