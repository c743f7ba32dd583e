"""``lorad doctor``: examine this machine and this home.

What lives here: the examinations that need torch or the settings. What never does: judging; see ``doctor``.
"""

import contextlib
import importlib
import shlex
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from rich.text import Text
from torch import distributed

from lorad import printable, records
from lorad.apps.cli import doctor, packages
from lorad.apps.cli.findings import Finding, attempt, broken, failed
from lorad.apps.cli.model_commands.context import load
from lorad.apps.cli.model_commands.options import ConfigOption, HomeOption, JsonOption, SetOption
from lorad.apps.cli.model_commands.output import console
from lorad.apps.screens import terminal
from lorad.config import Settings, load_settings
from lorad.errors import ConfigError, LoradError, RegistryError
from lorad.home import Home, find_home
from lorad.models import bases, embedders, hardware, memory_needs, quantized, scratch
from lorad.serving import backends
from lorad.serving.backends.llamacpp import binding
from lorad.serving.backends.vllm import server_process
from lorad.states import VersionState
from lorad.storage import permissions
from lorad.tasks import find
from lorad.training import executors, planner, preflight
from lorad.versions.store import Registry

USUAL_ROWS = 200
"""Of a dataset, whose session's memory is told."""

app = typer.Typer()


@app.command("doctor")
def examine(
    strict: Annotated[bool, typer.Option("--strict", help="Count warnings as failures.")] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="First remove the permissions that others should not have.")
    ] = False,
    home_path: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check this machine and this home, and suggest remedies; exit code 1 if something failed."""
    fixed = _fix_permissions(home_path, config, overrides) if fix else []
    findings = [*fixed, *_check_installed(), *_check_home(home_path, config, overrides)]
    if as_json:
        terminal.write_json([records.as_json(f) for f in findings])
    else:
        console.print(_chart(findings))
    if failed(findings, strict=strict):
        raise typer.Exit(1)


def _fix_permissions(home_path: str | None, config: str | None, overrides: list[str] | None) -> list[Finding]:
    """Remove permissions that others should not have; what cannot be removed is found again by the checks."""
    home, settings = load(home_path, config, overrides)
    done, _ = permissions.close(home, home.socket(settings.server.socket), doctor.owner(home))
    return [doctor.fixed(exposure) for exposure in done]


def _chart(findings: list[Finding]) -> Table:
    """Return a table with each remedy below its problem; none of it is rich's markup."""
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        text = Text(printable.text(finding.detail), overflow="fold")
        if finding.status != "ok":
            text.append(f"\n-> {printable.line(finding.remedy)}", style="bold")
        table.add_row(Text(finding.status, style=colours[finding.status]), finding.name, text)
    return table


def _check_installed() -> Iterator[Finding]:
    yield packages.check_python(sys.version_info[:3])
    yield from packages.check_packages()
    yield from doctor.inotify()
    yield from doctor.service()


def _check_home(home_path: str | None, config: str | None, overrides: list[str] | None) -> Iterator[Finding]:
    """Check the home, and the machine for its settings; with invalid settings for the defaults."""
    settings = Settings()
    try:
        home = find_home(home_path)
    except ConfigError as error:
        yield broken("home", error, "lorad init FOLDER")
        yield from _check_devices(settings, 0)
        return
    yield Finding("home", "ok", str(home.root))
    try:
        settings = load_settings(home, config, overrides or ())
        yield Finding("settings", "ok", "valid")
    except ConfigError as error:
        yield broken("settings", error, "correct them; the other checks use the defaults")
    shapes, needed = [], 0
    for name, track in settings.learning_tracks.items():
        with contextlib.suppress(LoradError):  # a missing or corrupt base has a finding of its own
            base = home.base_of(name, track.base)
            shapes.append(bases.shape(base))
            needed = max(needed, _two_copies(base, settings))
    yield from _check_devices(settings, needed)
    for named in sorted({track.base for track in settings.learning_tracks.values()} - {records.SCRATCH}):
        if (home.base(named) / bases.FINGERPRINT).is_file():
            check = partial(_memory, home.base(named), settings)
            yield attempt(f"memory {named}", check, "free some memory, or do as it says", "warn")
    for name, track in settings.learning_tracks.items():
        if track.base == records.SCRATCH:
            check = partial(_memory_from_scratch, name, settings)
            yield attempt(f"memory {name}", check, "free some memory, or do as it says", "warn")
    yield attempt("backend", partial(_backend, settings), "set engine.backend to auto")
    yield attempt(
        "executor", partial(_executor, settings), "set training.executor to local, and processes to 1"
    )
    yield from _check_storage(home, settings, shapes)
    yield from _check_bases(home, settings)
    yield from _check_versions(home, settings)


def _two_copies(base: Path, settings: Settings) -> int:
    """Return the bytes of two copies of a base, in the form in which it is held."""
    dtype = settings.training.dtype
    precision = hardware.machine(settings.training.device).precision if dtype == "auto" else dtype
    form, _ = bases.quantization(base, settings.training)
    return memory_needs.COPIES * memory_needs.weight_bytes(bases.shape(base), precision, form)


def _memory(base: Path, settings: Settings) -> Finding:
    """Tell what a session takes, of as many rows as most have; raise where its base cannot be held or it does not fit."""
    form, why = bases.quantization(base, settings.training)
    room = preflight.room(base, settings)
    if form != "none" and (lacks := quantized.objection(room.machine.device)):
        raise ConfigError(f"{base.name} cannot be held in {form}: {lacks}", code="no_quantization")
    decided = planner.plan(
        lengths=[0] * USUAL_ROWS,
        shape=room.shape,
        machine=room.machine,
        planner=settings.planner,
        rehearsal=settings.rehearsal,
        training=settings.training,
        form=(form, why),
    )
    *_, told = preflight.fit(decided, room).reasons
    return Finding(
        f"memory {base.name}",
        "ok",
        f"a session takes {told.removeprefix('memory: ')}; quantization {form}: {why}",
    )


def _memory_from_scratch(name: str, settings: Settings) -> Finding:
    """Tell what a session of a track from scratch takes; raise where it does not fit."""
    track = settings.track(name)
    room = preflight.room_from_scratch(scratch.recipe_of(track, settings), settings)
    decided = planner.plan_pretraining(
        lengths=[0],
        context=track.sizes.max_seq_len,
        machine=room.machine,
        settings=settings.pretraining,
        rehearsal=settings.rehearsal,
        training=settings.training,
        is_first=True,
    )
    *_, told = preflight.fit(decided, room).reasons
    return Finding(f"memory {name}", "ok", f"a session takes {told.removeprefix('memory: ')}")


def _check_devices(settings: Settings, needed: int) -> Iterator[Finding]:
    for wanted in dict.fromkeys((settings.training.device, settings.engine.device)):
        try:
            machine = hardware.machine(wanted)
            torch.ones(8, device=machine.device).sum().item()
        except (LoradError, RuntimeError) as error:
            yield broken("device", error, "set training.device and engine.device to auto")
            continue
        unused = wanted == "auto" and machine.device == "cpu" and Path("/dev/nvidiactl").exists()
        yield doctor.device(machine, needed, unused_card=unused)
        yield doctor.bfloat16(machine, settings.training.dtype)
        packing = partial(_round_trip, machine.device) if find_spec("bitsandbytes") else None
        yield attempt(
            "4-bit", partial(doctor.four_bit, packing), "pip install --upgrade bitsandbytes", "warn"
        )
    for index in range(torch.cuda.device_count()):
        yield attempt(
            f"cuda:{index}",
            partial(_card, index),
            f"install a torch that has kernels for this card: {doctor.TORCH_SITE}",
        )


def _backend(settings: Settings) -> Finding:
    """Tell what generates; raise ``ConfigError`` where it is not to be had here."""
    found, engine = backends.chosen(settings.engine), settings.engine
    told = f"{found.name} ({found.because})"
    if found.name == "llamacpp":
        told += f"; llama-cpp-python {binding.version()}, versions as {engine.gguf} GGUF"
    elif found.name == "vllm" and engine.vllm_url:
        told += f"; the server at {engine.vllm_url}, which is asked when lorad starts"
    elif found.name == "vllm":
        server_process.check_program(shlex.split(engine.vllm_command))
        told += f"; lorad starts: {engine.vllm_command}"
    if found.name == "builtin":
        form = (
            "a merged copy where memory allows" if settings.engine.merge_served else "an adapter on the base"
        )
        told += (
            f"; what serves is {form}; at most {settings.engine.max_batch} answers of a version share a step"
        )
    return Finding("backend", "ok", told)


def _executor(settings: Settings) -> Finding:
    """Tell what runs sessions, and what else could; raise ``ConfigError`` where it cannot work here."""
    training = settings.training
    executors.check(training)
    found = f"Ray {metadata.version('ray')}" if executors.has_ray() else "Ray is not installed"
    others = "torchrun is there" if distributed.is_available() else "this torch has no torchrun"
    return doctor.executor(training.executor, training.processes, training.nodes, (others, found))


def _round_trip(device: str) -> float:
    """Return the largest error of quantising to 4 bits and back."""
    library: Any = importlib.import_module("bitsandbytes.functional")
    exact = torch.linspace(-1, 1, 64, device=device).repeat(64)  # every block of 64 reaches every level
    packed, state = library.quantize_4bit(exact, quant_type="nf4")
    return float((library.dequantize_4bit(packed, state) - exact).abs().max())


def _card(index: int) -> Finding:
    return doctor.card(
        index,
        torch.cuda.get_device_name(index),
        torch.cuda.get_device_capability(index),
        hardware.cuda_libraries("cuda"),
        lambda: (
            torch.ones(8, 8, device=f"cuda:{index}").mm(torch.ones(8, 8, device=f"cuda:{index}")).sum().item()
        ),
    )


def _check_storage(home: Home, settings: Settings, shapes: list[records.ModelShape]) -> Iterator[Finding]:
    adapter = max((doctor.adapter_bytes(shape, settings.training.max_rank) for shape in shapes), default=0)
    socket = home.socket(settings.server.socket)
    yield doctor.disk(shutil.disk_usage(home.root).free, adapter, settings.registry.keep)
    yield from doctor.folders(home, socket)
    yield from doctor.private(home, socket)
    yield attempt(
        "socket", partial(doctor.socket_path, socket), "lorad --set server.socket=/tmp/lorad/lorad.sock run"
    )


def _check_bases(home: Home, settings: Settings) -> Iterator[Finding]:
    stored = {path.parent.name for path in (home.models / "base").glob(f"*/{bases.FINGERPRINT}")}
    named = {track.base for track in settings.learning_tracks.values()} - {records.SCRATCH}
    for name in sorted(named | stored):
        remedy = f"lorad base add {bases.source_of(home.base(name))}"
        yield attempt(f"base {name}", partial(_base, home.base(name), remedy), remedy)
        if name in stored and bases.kind(home.base(name)) == "causal":
            yield attempt(f"template {name}", partial(_template, home.base(name)), remedy)
    for name, track in settings.learning_tracks.items():
        try:
            bases.check_kind(home.base_of(name, track.base), find(track.task).head)
        except LoradError as error:
            yield broken(f"track {name}", error, f"set tracks.{name}.base to a causal base model")
    yield attempt(
        "embedder",
        partial(_embedder, home, settings),
        "lorad base add minilm, and set answering.embedder to auto",
    )


def _embedder(home: Home, settings: Settings) -> Finding:
    found = embedders.chosen(home.models / "base", settings.answering.embedder)
    return doctor.embedder(found.name if found else None, retrieves=settings.answering.retrieve)


def _base(folder: Path, remedy: str) -> Finding:
    if not (folder / bases.FINGERPRINT).is_file():
        return Finding(f"base {folder.name}", "fail", "is missing", remedy)
    fingerprint = bases.verify_base(folder)
    return Finding(
        f"base {folder.name}", "ok", f"{bases.kind(folder)}, verified, fingerprint {fingerprint[:12]}"
    )


def _template(folder: Path) -> Finding:
    return doctor.template(folder.name, find("chat").trials(bases.load_tokenizer(folder)))


def _check_versions(home: Home, settings: Settings) -> Iterator[Finding]:
    for name, track in settings.learning_tracks.items():
        registry = Registry(home.track(name))
        base = None
        with contextlib.suppress(ConfigError):  # a missing or corrupt base has a finding of its own
            base = bases.read_fingerprint(home.base_of(name, track.base))
        try:
            entries = registry.tracker.read()["checkpoints"]
        except RegistryError as error:
            yield broken(f"track {name}", error, "lorad run")
            continue
        for version in (e["version"] for e in entries if e.get("state") != VersionState.PRUNED):
            yield attempt(
                f"{name} {version}",
                partial(_version, registry, version, base),
                f"restore the folder from a backup, or learn everything again: lorad consolidate --refit --track {name}",
            )


def _version(registry: Registry, version: str, base: str | None) -> Finding:
    registry.verify(version, base)
    return Finding(f"{registry.folder.name} {version}", "ok", "verified")
