"""``lorad verify``: load versions with every check."""

import time
from typing import Annotated, Any

import typer
from rich.text import Text

from lorad import printable
from lorad.apps.cli.model_commands.context import find_track, load
from lorad.apps.cli.model_commands.options import ConfigOption, HomeOption, JsonOption, SetOption, TrackOption
from lorad.apps.cli.model_commands.output import console
from lorad.apps.screens import terminal
from lorad.errors import RegistryError
from lorad.models import adapter_stack, bases
from lorad.states import VersionState
from lorad.tasks import find
from lorad.versions import loader

app = typer.Typer()


@app.command("verify")
def verify_versions(
    version: Annotated[
        str | None, typer.Argument(help="A version, a tag, latest or previous; default: all.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if the environment differs from the one it was made in.")
    ] = False,
    track: TrackOption = "chat",
    home_path: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load versions as the daemon does and run all checks and probes; exit code 1 if one fails."""
    home, settings = load(home_path, config, overrides)
    registry, base_folder = find_track(home, settings, track)
    bases.verify_base(base_folder)
    task = find(settings.tracks[track].task)
    base = bases.load_to_answer(base_folder, settings.engine.device, settings.training.dtype, task.head)
    entries = registry.tracker.read()["checkpoints"]
    there = [e["version"] for e in entries if e.get("state") != VersionState.PRUNED]
    rows: list[dict[str, Any]] = []
    for name in [registry.resolve(version)] if version else there:
        stack = adapter_stack.AdapterStack(base)
        began = time.perf_counter()
        try:
            folder = registry.verify(name, base.fingerprint)
            differs = loader.load(task, stack, name, folder, base_folder, strict=strict)
            rows.append({"version": name, "intact": True, "differs": differs})
        except RegistryError as error:
            rows.append({"version": name, "intact": False, **error.as_dict()})
        rows[-1] |= {"seconds": round(time.perf_counter() - began, 3)}
        stack.unload(name)
    if as_json:
        terminal.write_json(rows)
    for row in rows if not as_json else ():
        text = "; ".join(row["differs"]) or "intact" if row["intact"] else row["message"]
        style = "green" if row["intact"] else "red"
        console.print(
            Text(f"{row['version']:>8}  "), Text(printable.line(text), style=style), f" ({row['seconds']} s)"
        )
    if not all(row["intact"] for row in rows):
        raise typer.Exit(1)
