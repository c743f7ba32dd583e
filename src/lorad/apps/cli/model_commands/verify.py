"""``lorad verify``: load versions with every check."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from lorad import printable
from lorad.apps.cli.model_commands.context import find_track, load
from lorad.apps.cli.model_commands.options import ConfigOption, HomeOption, JsonOption, SetOption
from lorad.apps.cli.model_commands.output import console
from lorad.apps.screens import terminal
from lorad.config import Settings
from lorad.errors import RegistryError
from lorad.home import Home
from lorad.models import adapter_stack, bases
from lorad.models.heads import Head
from lorad.states import VersionState
from lorad.tasks import find
from lorad.versions import loader
from lorad.versions.store import Registry

app = typer.Typer()

UNTAUGHT = "nothing_learned"
"""The code of a member that has no version yet."""


@app.command("verify")
def verify_versions(
    version: Annotated[
        str | None,
        typer.Argument(
            help="A version, a tag, latest or previous (of the track chat by default); default: all."
        ),
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
    track: Annotated[str | None, typer.Option("--track", help="The track; default: all of them.")] = None,
    home_path: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load versions as the daemon does and run all checks and probes; exit code 1 if one fails."""
    home, settings = load(home_path, config, overrides)
    verification = Verification(home, settings, strict=strict)
    if system is not None:
        rows = list(verification.of_system(system, version or "latest"))
    elif track or version:
        rows = list(verification.of_track(track or "chat", version))
    else:
        rows = list(verification.of_all())
    if as_json:
        terminal.write_json(rows)
    tracks = {row["track"] for row in rows}
    for row in rows if not as_json else ():
        text = "; ".join(row["differs"]) or "intact" if row["intact"] else row["message"]
        if row.get("stands_in"):
            text += f"; {row['stands_in']} stands in for it"
        style = "green" if row["intact"] else "red"
        who = (row.get("role"), row.get("variant"), row["track"]) if system or len(tracks) > 1 else ()
        whose = "".join(f"{name} " for name in who if name)
        console.print(
            Text(f"{whose}{row['version']:>8}  "),
            Text(printable.line(text), style=style),
            f" ({row['seconds']} s)",
        )
    if not (rows or as_json):
        console.print("there is no version yet")
    if not all(row["intact"] or _is_spare(row, rows) for row in rows):
        raise typer.Exit(1)


def _is_spare(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Tell whether a variant has merely learned nothing yet, and another one of its role has."""
    others = [each for each in rows if each.get("role") == row.get("role") and each is not row]
    return row.get("code") == UNTAUGHT and any(each.get("code") != UNTAUGHT for each in others)


class Verification:
    """Loads versions with every check; a base that several stand on is hashed and loaded once."""

    def __init__(self, home: Home, settings: Settings, *, strict: bool) -> None:
        self._home = home
        self._settings = settings
        self._strict = strict
        self._stacks: dict[tuple[Path, Head], adapter_stack.AdapterStack] = {}

    def of_all(self) -> Iterator[dict[str, Any]]:
        """Yield what came of loading each version of each track that has some."""
        for name in self._settings.learning_tracks:
            if Registry(self._home.track(name)).tracker.read()["checkpoints"]:
                yield from self.of_track(name, None)

    def of_track(self, track: str, version: str | None) -> Iterator[dict[str, Any]]:
        """Yield what came of loading one version of a track, or each."""
        registry, base = find_track(self._home, self._settings, track)
        self._stack(track, base)  # what is wrong with the base is no version's fault
        entries = registry.tracker.read()["checkpoints"]
        there = [e["version"] for e in entries if e.get("state") != VersionState.PRUNED]
        for name in [registry.resolve(version)] if version else there:
            yield self._load(track, name)

    def of_system(self, system: str, version: str) -> Iterator[dict[str, Any]]:
        """Yield what came of loading one version of each member, all variants included; of a damaged one what stands in for it."""
        for role, member in self._settings.system(system).roles.items():
            for variant, track in member.tracks.items():
                told = {"role": role, "track": track, **({"variant": variant} if variant else {})}
                registry, _ = find_track(self._home, self._settings, track)
                if registry.latest is None:
                    yield told | {
                        "version": "base",
                        "intact": False,
                        "code": UNTAUGHT,
                        "message": f"{track} has learned nothing yet; drop a dataset first",
                        "seconds": 0.0,
                    }
                    continue
                row = self._load(track, registry.resolve(version))
                yield told | row | ({} if row["intact"] else self._stand_in(track, row["version"]))

    def _stand_in(self, track: str, refused: str) -> dict[str, str]:
        """Return the newest version before a damaged one that passes all checks, where there is one."""
        registry, _ = find_track(self._home, self._settings, track)
        before = registry.lineage(refused)[1:]
        found = next((name for name in before if self._load(track, name)["intact"]), None)
        return {"stands_in": found} if found else {}

    def _load(self, track: str, version: str) -> dict[str, Any]:
        """Return what came of loading a version, and forget it again."""
        registry, base = find_track(self._home, self._settings, track)
        stack = self._stack(track, base)
        slot = f"{track}-{version}"
        row: dict[str, Any]
        began = time.perf_counter()
        try:
            folder = registry.verify(version, stack.base.fingerprint)
            differs = loader.load(
                find(self._settings.tracks[track].task),
                stack,
                slot,
                folder,
                base,
                strict=self._strict,
                is_calibration_checked=self._settings.engine.calibration_check,
            )
            row = {"track": track, "version": version, "intact": True, "differs": differs}
        except RegistryError as error:
            row = {"track": track, "version": version, "intact": False, **error.as_dict()}
        stack.unload(slot)
        return row | {"seconds": round(time.perf_counter() - began, 3)}

    def _stack(self, track: str, base: Path) -> adapter_stack.AdapterStack:
        head = find(self._settings.tracks[track].task).head
        if (base, head) not in self._stacks:
            bases.verify_base(base)
            held = bases.load_to_answer(base, self._settings.engine.device, self._settings.training, head)
            self._stacks[base, head] = adapter_stack.AdapterStack(held)
        return self._stacks[base, head]
