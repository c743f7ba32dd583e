"""``lorad reproduce``: make a version again and compare."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from lorad import records
from lorad.apps.cli.model_commands.context import find_track, load, open_database
from lorad.apps.cli.model_commands.options import ConfigOption, HomeOption, JsonOption, SetOption, TrackOption
from lorad.apps.cli.model_commands.output import console, say
from lorad.errors import TrainingError
from lorad.models import bases
from lorad.storage import files, permissions
from lorad.storage.memory import Memory
from lorad.training import reproduction

app = typer.Typer()


@app.command("reproduce")
def reproduce_version(
    version: Annotated[str, typer.Argument(help="A version, a tag, latest or previous.")],
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep what is made, in models/TRACK/reproduced.")
    ] = False,
    track: TrackOption = "chat",
    home: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version once more from its papers and memory, and compare; exit code 1 if it is not the same."""
    os.umask(permissions.UMASK)
    place, settings = load(home, config, overrides)
    registry, base_folder = find_track(place, settings, track)
    version = registry.resolve(version)
    registry.verify(version, bases.verify_base(base_folder))
    with registry.reproducing(version, keep=keep) as folder:
        with open_database(place) as database:
            reproduction.prepare(registry, Memory(database), version, base_folder, folder)
        _run_session(folder, quiet=as_json)
        found = reproduction.compare(registry, version, folder)
    told = (
        "bit-equal"
        if found.is_equal
        else (
            f"not bit-equal: a weight differs by {found.largest_difference:.3g}; right {found.first:.2%} then, {found.again:.2%} now"
        )
    )
    why = f" ({'; '.join(found.changed)})" if found.changed else ""
    say(
        {"version": version, **records.as_json(found), "equal": found.is_equal, "close": found.is_close},
        as_json,
        f"{version} made again is {told}{why}",
    )
    if not found.is_close:
        raise typer.Exit(1)


def _standing(lines: list[dict[str, Any]]) -> str:
    """Say where a session stands."""
    newest: dict[str, Any] = {}
    for line in lines:
        newest |= line
    parts = [str(newest.get("phase", "loading"))]
    parts += [f"round {newest['round']}"] if newest.get("round") else []
    parts += [f"recall {newest['recall']:.0%}"] if newest.get("recall") is not None else []
    return ", ".join(parts)


def _run_session(folder: Path, *, quiet: bool) -> None:
    """Run a session in a process of its own, as the daemon does, and tell how it goes."""
    with (
        files.open_secret(folder / "session.log", "wb") as log,
        console.status("", spinner="dots") as status,
        subprocess.Popen(  # the open pipe tells the child that somebody waits: it ends when that closes
            [sys.executable, "-P", "-m", "lorad.training.session", str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        ) as child,
    ):
        while child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=1.0)
            if not quiet:
                status.update(Text(_standing(files.read_lines(folder / "progress.jsonl"))))
    if child.returncode:
        lines = files.read_lines(folder / "progress.jsonl")
        said = next((line["error"]["message"] for line in reversed(lines) if "error" in line), "")
        raise TrainingError(f"the session failed: {said or (folder / 'session.log')}", code="session_died")
