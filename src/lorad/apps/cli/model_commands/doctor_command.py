"""``lorad doctor``: examine this machine and this home.

What lives here: the examinations that need torch or the settings. What never does: judging; see ``doctor``.
"""

import contextlib
import importlib
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from rich.text import Text

from lorad import printable, records
from lorad.apps.cli import doctor
from lorad.apps.cli.doctor import Finding
from lorad.apps.cli.model_commands.context import load
from lorad.apps.cli.model_commands.options import ConfigOption, HomeOption, JsonOption, SetOption
from lorad.apps.cli.model_commands.output import console
from lorad.apps.screens import terminal
from lorad.config import Settings, load_settings
from lorad.errors import ConfigError, LoradError, RegistryError
from lorad.home import Home, find_home
from lorad.models import bases, hardware
from lorad.states import VersionState
from lorad.storage import permissions
from lorad.tasks import find
from lorad.versions.store import Registry

app = typer.Typer()


@app.command("doctor")
def look_over(
    strict: Annotated[bool, typer.Option("--strict", help="Count warnings as failures.")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Close what others may read or change, before looking.")
    ] = False,
    home: HomeOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong with this machine and this home, and the remedy; exit code 1 if something failed."""
    mended = _mend(home, config, settings) if fix else []
    findings = [*mended, *_installed(), *_place(home, config, settings)]
    if as_json:
        terminal.write_json([records.as_json(f) for f in findings])
    else:
        console.print(_chart(findings))
    if doctor.failed(findings, strict=strict):
        raise typer.Exit(1)


def _mend(home: str | None, config: str | None, overrides: list[str] | None) -> list[Finding]:
    """Close an open home, and say what was closed; what could not be closed is found again by the looks."""
    place, chosen = load(home, config, overrides)
    done, _ = permissions.close(place, place.socket(chosen.server.socket), doctor.owner(place))
    return [doctor.mended(exposure) for exposure in done]


def _chart(findings: list[Finding]) -> Table:
    """Show a remedy below what it is for; none of it is rich's markup."""
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        told = Text(printable.text(finding.detail), overflow="fold")
        if finding.status != "ok":
            told.append(f"\n-> {printable.line(finding.remedy)}", style="bold")
        table.add_row(Text(finding.status, style=colours[finding.status]), finding.name, told)
    return table


def _installed() -> Iterator[Finding]:
    yield doctor.python(sys.version_info[:3])
    yield from doctor.packages()
    yield from doctor.inotify()
    yield from doctor.service()


def _place(home: str | None, config: str | None, overrides: list[str] | None) -> Iterator[Finding]:
    """Look at the home and at the machine as its settings want it; with broken settings as the defaults do."""
    chosen = Settings()
    try:
        place = find_home(home)
    except ConfigError as error:
        yield doctor.broken("home", error, "lorad init FOLDER")
        yield from _compute(chosen, [])
        return
    yield Finding("home", "ok", str(place.root))
    try:
        chosen = load_settings(place, config, overrides or ())
        yield Finding("settings", "ok", "can be read")
    except ConfigError as error:
        yield doctor.broken("settings", error, "correct them; what follows is judged by the defaults")
    shapes = []
    for track in chosen.tracks.values():
        with contextlib.suppress(LoradError):  # a base that is missing or damaged has a finding of its own
            shapes.append(bases.shape(place.base(track.base)))
    yield from _compute(chosen, shapes)
    yield from _storage(place, chosen, shapes)
    yield from _bases(place, chosen)
    yield from _versions(place, chosen)


def _compute(chosen: Settings, shapes: list[records.ModelShape]) -> Iterator[Finding]:
    parameters = max((shape.parameters for shape in shapes), default=0)
    for wanted in dict.fromkeys((chosen.training.device, chosen.engine.device)):
        try:
            machine = hardware.machine(wanted)
            torch.ones(8, device=machine.device).sum().item()
        except (LoradError, RuntimeError) as error:
            yield doctor.broken("device", error, "set training.device and engine.device to auto")
            continue
        unused = wanted == "auto" and machine.device == "cpu" and Path("/dev/nvidiactl").exists()
        yield doctor.device(machine, parameters, unused_card=unused)
        yield doctor.bfloat16(machine, chosen.training.dtype)
        packing = partial(_round_trip, machine.device) if find_spec("bitsandbytes") else None
        yield doctor.attempt(
            "4-bit", partial(doctor.four_bit, packing), "pip install --upgrade bitsandbytes", "warn"
        )
    for index in range(torch.cuda.device_count()):
        yield doctor.attempt(
            f"cuda:{index}",
            partial(_card, index),
            f"install a torch that has kernels for this card: {doctor.TORCH_SITE}",
        )


def _round_trip(device: str) -> float:
    """Return the largest error that packing into 4 bits and unpacking makes."""
    library: Any = importlib.import_module("bitsandbytes.functional")
    exact = torch.linspace(-1, 1, 64, device=device).repeat(64)  # every block of 64 meets every level
    packed, state = library.quantize_4bit(exact, quant_type="nf4")
    return float((library.dequantize_4bit(packed, state) - exact).abs().max())


def _card(index: int) -> Finding:
    return doctor.card(
        index,
        torch.cuda.get_device_name(index),
        torch.cuda.get_device_capability(index),
        lambda: (
            torch.ones(8, 8, device=f"cuda:{index}").mm(torch.ones(8, 8, device=f"cuda:{index}")).sum().item()
        ),
    )


def _storage(place: Home, chosen: Settings, shapes: list[records.ModelShape]) -> Iterator[Finding]:
    adapter = max((doctor.adapter_bytes(shape, chosen.training.max_rank) for shape in shapes), default=0)
    socket = place.socket(chosen.server.socket)
    yield doctor.disk(shutil.disk_usage(place.root).free, adapter, chosen.registry.keep)
    yield from doctor.folders(place, socket)
    yield from doctor.private(place, socket)
    yield doctor.attempt(
        "socket", partial(doctor.socket_path, socket), "lorad --set server.socket=/tmp/lorad/lorad.sock run"
    )


def _bases(place: Home, chosen: Settings) -> Iterator[Finding]:
    stored = {path.parent.name for path in (place.models / "base").glob(f"*/{bases.FINGERPRINT}")}
    for name in sorted({track.base for track in chosen.tracks.values()} | stored):
        known = name in bases.WHEELS
        remedy = f"lorad base add {name}" if known else f"lorad base add SOURCE --name {name}"
        yield doctor.attempt(f"base {name}", partial(_base, place.base(name), remedy), remedy)
        if name in stored:
            yield doctor.attempt(f"template {name}", partial(_template, place.base(name)), remedy)


def _base(folder: Path, remedy: str) -> Finding:
    if not (folder / bases.FINGERPRINT).is_file():
        return Finding(f"base {folder.name}", "fail", "is not there", remedy)
    fingerprint = bases.verify_base(folder)
    return Finding(f"base {folder.name}", "ok", f"verified, fingerprint {fingerprint[:12]}")


def _template(folder: Path) -> Finding:
    return doctor.template(folder.name, find("chat").trials(bases.load_tokenizer(folder)))


def _versions(place: Home, chosen: Settings) -> Iterator[Finding]:
    for name, track in chosen.tracks.items():
        registry = Registry(place.track(name))
        base = None
        with contextlib.suppress(ConfigError):  # a base that is missing or damaged has a finding of its own
            base = bases.read_fingerprint(place.base(track.base))
        try:
            entries = registry.tracker.read()["checkpoints"]
        except RegistryError as error:
            yield doctor.broken(f"track {name}", error, "lorad run")
            continue
        for version in (e["version"] for e in entries if e.get("state") != VersionState.PRUNED):
            yield doctor.attempt(
                f"{name} {version}",
                partial(_version, registry, version, base),
                f"put the folder back from a backup, or learn all anew: lorad consolidate --refit --track {name}",
            )


def _version(registry: Registry, version: str, base: str | None) -> Finding:
    registry.verify(version, base)
    return Finding(f"{registry.folder.name} {version}", "ok", "verified")
