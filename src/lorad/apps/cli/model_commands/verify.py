"""``lorad verify``: load versions with every check."""

import contextlib
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text

from lorad import printable
from lorad.apps.cli.model_commands.context import find_track, load
from lorad.apps.cli.model_commands.options import ConfigOption, HomeOption, JsonOption, SetOption, TrackOption
from lorad.apps.cli.model_commands.output import console
from lorad.apps.screens import terminal
from lorad.config import Settings
from lorad.errors import RegistryError
from lorad.home import Home
from lorad.models import adapter_stack, bases
from lorad.states import VersionState
from lorad.tasks import find
from lorad.versions import loader

app = typer.Typer()

UNTAUGHT = "nothing_learned"
"""The code of a member that has no version yet."""


@app.command("verify")
def verify_versions(
    version: Annotated[
        str | None, typer.Argument(help="A version, a tag, latest or previous; default: all.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if the environment differs from the one it was made in.")
    ] = False,
    system: Annotated[
        str | None,
        typer.Option(
            "--system", help="Instead of a track: the latest version of each member of this system."
        ),
    ] = None,
    track: TrackOption = "chat",
    home_path: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load versions as the daemon does and run all checks and probes; exit code 1 if one fails."""
    home, settings = load(home_path, config, overrides)
    if system is None:
        rows = list(_of_track(home, settings, track, version, strict=strict))
    else:
        rows = list(_of_system(home, settings, system, version or "latest", strict=strict))
    if as_json:
        terminal.write_json(rows)
    for row in rows if not as_json else ():
        text = "; ".join(row["differs"]) or "intact" if row["intact"] else row["message"]
        if row.get("stands_in"):
            text += f"; {row['stands_in']} stands in for it"
        style = "green" if row["intact"] else "red"
        whose = f"{row['role']} {row['track']} " if system else ""
        console.print(
            Text(f"{whose}{row['version']:>8}  "),
            Text(printable.line(text), style=style),
            f" ({row['seconds']} s)",
        )
    if not all(row["intact"] or _is_spare(row, rows) for row in rows):
        raise typer.Exit(1)


def _is_spare(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Tell whether a variant has merely learned nothing yet, and another one of its role has."""
    others = [each for each in rows if each.get("role") == row.get("role") and each is not row]
    return row.get("code") == UNTAUGHT and any(each.get("code") != UNTAUGHT for each in others)


def _of_track(
    home: Home, settings: Settings, track: str, version: str | None, *, strict: bool
) -> Iterator[dict[str, Any]]:
    """Yield what came of loading one version of a track, or each."""
    registry, base_folder = find_track(home, settings, track)
    bases.verify_base(base_folder)
    task = find(settings.tracks[track].task)
    base = bases.load_to_answer(base_folder, settings.engine.device, settings.training.dtype, task.head)
    entries = registry.tracker.read()["checkpoints"]
    there = [e["version"] for e in entries if e.get("state") != VersionState.PRUNED]
    for name in [registry.resolve(version)] if version else there:
        stack = adapter_stack.AdapterStack(base)
        began = time.perf_counter()
        row: dict[str, Any]
        try:
            folder = registry.verify(name, base.fingerprint)
            is_checked = settings.engine.calibration_check
            differs = loader.load(
                task, stack, name, folder, base_folder, strict=strict, is_calibration_checked=is_checked
            )
            row = {"version": name, "intact": True, "differs": differs}
        except RegistryError as error:
            row = {"version": name, "intact": False, **error.as_dict()}
        stack.unload(name)
        yield row | {"seconds": round(time.perf_counter() - began, 3)}


def _of_system(
    home: Home, settings: Settings, system: str, version: str, *, strict: bool
) -> Iterator[dict[str, Any]]:
    """Yield what came of loading one version of each member, all variants included; of a damaged one what stands in for it."""
    for role, member in settings.system(system).roles.items():
        for variant, track in member.tracks.items():
            told = {"role": role, "track": track, **({"variant": variant} if variant else {})}
            registry, _ = find_track(home, settings, track)
            if registry.latest is None:
                yield told | {
                    "version": "base",
                    "intact": False,
                    "code": UNTAUGHT,
                    "message": f"{track} has learned nothing yet; drop a dataset first",
                    "seconds": 0.0,
                }
                continue
            (row,) = _of_track(home, settings, track, version, strict=strict)
            yield (
                told
                | row
                | ({} if row["intact"] else _stand_in(home, settings, track, row["version"], strict))
            )


def _stand_in(home: Home, settings: Settings, track: str, refused: str, strict: bool) -> dict[str, str]:
    """Return the newest version before a damaged one that passes all checks, where there is one."""
    registry, _ = find_track(home, settings, track)
    for name in registry.lineage(refused)[1:]:
        with contextlib.suppress(RegistryError):
            (row,) = _of_track(home, settings, track, name, strict=strict)
            if row["intact"]:
                return {"stands_in": name}
    return {}
