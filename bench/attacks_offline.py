"""Attacks through the command line's arguments: bases with absurd sizes and looping templates, names, links."""

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attacks_inbox import Act, Case
from attacks_world import DAEMON, GROUP, IS_ROOT, World, as_daemon, facts, lines, require

LIMIT = 6 << 30
"""Bytes of address space that a command may take; torch alone maps some gigabytes."""
SECONDS = 100.0


def run(world: World, *words: str, seconds: float = SECONDS) -> tuple[int, str]:
    """Run a command as the daemon's user, with a bound on its memory; return its status and what it said."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))

    done = subprocess.run(
        as_daemon(sys.executable, "-P", "-m", "lorad.apps.cli.main", "--home", str(world.root), *words),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"HOME": str(world.folder), "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"},
        cwd="/",
        preexec_fn=limit,
        umask=0o022,
    )
    return done.returncode, done.stdout + done.stderr


def _refused(world: World, *words: str) -> str:
    status, said = run(world, *words)
    require("Traceback" not in said, f"{words[0]}: a traceback: {said[-400:]}")
    require(status not in {0, -9, -6, -11}, f"{' '.join(words)[:80]}: ended with {status}: {said[-300:]}")
    return said


def _base(world: World) -> Path:
    """Return a copy of the tiny base as somebody may offer one."""
    folder = world.folder / "offered"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world.root / "models" / "base" / "tiny", folder)
    for extra in folder.glob("*.json"):
        if extra.name in {"base.json", "fingerprint.json", "manifest.json", "trials.json"}:
            extra.unlink()
    return folder


def _config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _template(folder: Path, text: str) -> None:
    for path in folder.glob("*.jinja"):
        path.unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": text}))


def _header(folder: Path, content: bytes) -> None:
    path = next(folder.glob("*.safetensors"))
    path.write_bytes(content)


def _pickle(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch /tmp/pickled'\ntR.")


def _lying(folder: Path) -> None:
    header = json.dumps(
        {"w": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}}
    ).encode()
    _header(folder, struct.pack("<Q", len(header)) + header + b"\0" * 64)


def _bases(world: World) -> set[str]:
    """Return what lies among the bases; the lock stays, whoever held it."""
    return {path.name for path in (world.root / "models" / "base").iterdir()} - {".lock"}


ODD_BASES: dict[str, Callable[[Path], object]] = {
    "a billion layers": lambda folder: _config(folder, num_hidden_layers=10**9),
    "a hidden size of a trillion": lambda folder: _config(folder, hidden_size=10**12),
    "a vocabulary of a billion": lambda folder: _config(folder, vocab_size=10**9),
    "negative sizes": lambda folder: _config(folder, hidden_size=-64, num_hidden_layers=-1),
    "pickled weights": _pickle,
    "custom code": lambda folder: (
        _config(folder, auto_map={"AutoModelForCausalLM": "evil.Evil"}, model_type="evil"),
        (folder / "evil.py").write_text("import os\nos.system('touch /tmp/customcode')\n"),
    ),
    "a header of 2^62 bytes": lambda folder: _header(folder, struct.pack("<Q", 2**62) + b"{}"),
    "a header that lies": _lying,
    "a template that loops": lambda folder: _template(
        folder, "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"
    ),
    "a template that grows": lambda folder: _template(folder, "{{ 'x' * 10**10 }}"),
    "a template that calls itself": lambda folder: _template(
        folder, "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"
    ),
    "a template that looks inside": lambda folder: _template(
        folder, "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    ),
    "a link to a secret": lambda folder: (folder / "README.md").symlink_to("/etc/shadow"),
    "a named pipe": lambda folder: os.mkfifo(folder / "pipe.safetensors"),
}


def odd_base(name: str) -> Act:
    def act(world: World) -> None:
        folder = _base(world)
        ODD_BASES[name](folder)
        if IS_ROOT:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, DAEMON, GROUP, follow_symlinks=False)
        before = _bases(world)
        began = time.monotonic()
        status, said = run(world, "base", "add", str(folder), "--name", "odd")
        for path in (Path("/tmp/pickled"), Path("/tmp/customcode")):  # noqa: S108
            require(not path.exists(), "code of the base was run")
        require("Traceback" not in said, f"a traceback: {said[-400:]}")
        require(status >= 0, f"it was ended by signal {-status}")
        require(time.monotonic() - began < 90, "it took more than ninety seconds")
        if status:
            require(_bases(world) == before, f"it left {_bases(world) - before}")
        else:
            kept = world.root / "models" / "base" / "odd"
            require(not any(path.is_symlink() for path in kept.rglob("*")), "a link was kept")
            shutil.rmtree(kept)

    return act


def names_of_versions(world: World) -> None:
    keep = world.own / "keep"
    keep.mkdir(exist_ok=True)
    (keep / "mine.txt").write_text("mine")
    for name in (
        "/../../../../keep",
        "../../own/keep",
        str(keep),
        "..",
        ".",
        "",
        "v0.1/../../x",
        "v" * 300,
        "v0.1\n",
    ):
        _refused(world, "versions", "add", name, str(world.root / "models" / "base" / "tiny"))
    require((keep / "mine.txt").read_text() == "mine", "a folder of somebody was overwritten")
    shutil.rmtree(keep)


def temporary_names(world: World) -> None:
    target = world.own / "exports"
    target.mkdir(exist_ok=True)
    if IS_ROOT:
        os.chown(target, DAEMON, GROUP)
    part = target / ".mine.part"
    part.mkdir(exist_ok=True)
    (part / "precious.txt").write_text("mine")
    _refused(world, "export", "nothing", str(target / "mine"))
    _refused(world, "export", "v9.9", str(target / "mine"))
    require((part / "precious.txt").exists(), "the user's own .mine.part was deleted")
    shutil.rmtree(target)


def odd_memory(world: World) -> None:
    rows: tuple[Any, ...] = (
        {"dataset": "d" * 300, **facts("imported a")[0]},
        {"dataset": "../../../own/x", **facts("imported b")[0]},
        {"dataset": "a\0b\n\x1b[31m", **facts("imported c")[0]},
        {"dataset": "\ud800", **facts("imported d")[0]},
        {"dataset": "", **facts("imported e")[0]},
        {"dataset": 10**30, **facts("imported f")[0]},
    )
    for number, row in enumerate(rows):
        path = world.folder / f"memory-{number}.jsonl"
        path.write_bytes(lines([row]))
        status, said = run(world, "memory", "import", str(path))
        require("Traceback" not in said, f"a traceback: {said[-300:]}")
        require("\x1b[31m" not in said, "an escape is printed")
        require(status in {0, 1, 2}, f"it ended with {status}")


def odd_settings(world: World) -> None:
    for setting in (
        "training.max_rank=1e400",
        "engine.max_new_tokens=" + "9" * 30,
        "inbox.settle_seconds=NaN",
        "server.socket=\x1b[31mx",
        "a.b.c=1",
        "=",
        "inbox.max_rows=-1",
    ):
        said = _refused(world, "--set", setting, "plan", str(world.root / "configs" / "attacks.yaml"))
        require("\x1b[31m" not in said, "an escape is printed")


def modes(world: World) -> None:
    """Whatever the umask: nobody else may read a home."""
    for umask in (0o000, 0o022, 0o077):
        folder = world.folder / f"made-{umask:o}"
        done = subprocess.run(
            as_daemon(sys.executable, "-P", "-m", "lorad.apps.cli.main", "init", str(folder)),
            capture_output=True,
            text=True,
            check=False,
            umask=umask,
            cwd="/",
        )
        require(done.returncode == 0, f"init fails: {done.stderr[-300:]}")
        open_ones = [
            f"{path} {path.lstat().st_mode & 0o777:o}"
            for path in (folder, *folder.rglob("*"))
            if not path.is_symlink() and path.lstat().st_mode & 0o027
        ]
        require(not open_ones, f"umask {umask:o}: {open_ones[:4]}")
        shutil.rmtree(folder)


def modes_of_a_daemon(world: World) -> None:
    """What a daemon under umask 002 wrote: nobody but the group may read, and the database nobody."""
    open_ones = [
        f"{path.relative_to(world.root)} {path.lstat().st_mode & 0o777:o}"
        for path in world.root.rglob("*")
        if not path.is_symlink()
        and path.lstat().st_mode & 0o007
        and not path.is_relative_to(world.root / "models" / "base" / "tiny")
        and path.parent != world.root / "configs"
        and path not in {world.root / name for name in ("configs", "models", "models/base", "inbox")}
        and path.lstat().st_uid == (DAEMON if IS_ROOT else os.getuid())
    ]
    require(not open_ones, f"others may read {open_ones[:4]}")
    database = world.root / "models" / "lorad.sqlite3"
    require(not database.stat().st_mode & 0o077, f"the database has mode {database.stat().st_mode & 0o777:o}")


def cases() -> Iterator[Case]:
    for name in ODD_BASES:
        yield "held", f"base add: {name}", odd_base(name)
    yield "A13", "versions add with names that are paths", names_of_versions
    yield "A13", "export beside somebody's .mine.part", temporary_names
    yield "A20", "memory import with odd names", odd_memory
    yield "A12", "settings on the command line", odd_settings
    yield "A15", "init under three umasks", modes
    yield "A15", "what the daemon wrote under umask 002", modes_of_a_daemon
