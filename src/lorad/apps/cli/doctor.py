"""What ``lorad doctor`` says of the machine, the home and what lies in it.

What lives here: judging what was found; each look gives findings, and for what is wrong the remedy. What never
does: importing torch or the settings. What needs them is handed in by ``model_commands``, so that this module loads
where they are missing, and can say so.
"""

import os
import platform
import pwd
import stat
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from lorad.errors import describe
from lorad.home import SOCKET_PATH_LIMIT, Home, check_socket_path
from lorad.records import Machine, ModelShape, Trial
from lorad.storage import permissions

Status = Literal["ok", "warn", "fail"]

PYTHON = (3, 11)

#: What was tested together: of constraints.txt, what lorad itself imports. A test holds that they agree.
TESTED = {
    "accelerate": "1.15.0",
    "anyio": "4.16.0",
    "APScheduler": "3.11.3",
    "fastapi": "0.165.0",
    "gguf": "0.19.0",
    "Jinja2": "3.1.6",
    "numpy": "2.4.6",
    "peft": "0.21.2",
    "psutil": "7.2.2",
    "pydantic": "2.14.3",
    "PyYAML": "6.0.3",
    "rich": "15.0.0",
    "safetensors": "0.8.0",
    "structlog": "26.1.0",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "typer": "0.29.2",
    "uvicorn": "0.54.0",
    "watchdog": "7.1.0",
}

#: Linux's own limits, of which every watching program of the user takes a share: less was set by somebody.
INOTIFY = {"max_user_instances": 128, "max_user_watches": 8192, "max_queued_events": 16_384}

#: Half the widest gap between two of NF4's levels, -1 and -0.696, and a little for rounding.
NF4_ERROR = 0.16

#: Inputs and outputs of a decoder layer's seven matrices, counted in hidden sizes, where the MLP is eight wide (Gemma).
LAYER_WIDTHS = 35

#: A session's files beside the adapter: tokenizer, lessons, log, and room for the database to grow.
SESSION_BYTES = 200_000_000

#: Trials of a chat template whose failing no refusal of rows makes good.
UNSAFE = ("date", "markup")

UNIT = "lorad"
AGENT = "org.lorad.daemon"

TORCH_SITE = "https://pytorch.org/get-started/locally"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found, and what to do about it."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def failed(findings: Iterable[Finding], *, strict: bool = False) -> bool:
    """Tell whether something must be mended before lorad can be relied on; ``strict`` minds warnings too."""
    return any(finding.status == "fail" or (strict and finding.status == "warn") for finding in findings)


def broken(name: str, error: Exception, remedy: str, status: Status = "fail") -> Finding:
    """Turn an error into a finding."""
    return Finding(name, status, str(describe(error)["message"]), remedy)


def attempt(name: str, look: Callable[[], Finding], remedy: str, status: Status = "fail") -> Finding:
    """Try a look; whatever it raises is the finding."""
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - a doctor that dies of what it finds tells nobody
        return broken(name, error, remedy, status)


# -- what is installed


def python(version: Sequence[int]) -> Finding:
    """Judge Python's version."""
    told = ".".join(map(str, version[:3]))
    if tuple(version) < PYTHON:
        needed = ".".join(map(str, PYTHON))
        return Finding(
            "python",
            "fail",
            f"{told} is too old",
            f"install Python {needed} or newer, then: make clean && make test",
        )
    return Finding("python", "ok", told)


def installed(name: str) -> str | None:
    """Return the installed version of a package without its build (``+cpu``), if it is there."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def packages(
    find: Callable[[str], str | None] = installed, tested: Mapping[str, str] = TESTED
) -> list[Finding]:
    """Compare packages with the tested set: one finding for all that agree, one for each other."""
    found = {name: find(name) for name in tested}
    agreeing = sum(found[name] == version for name, version in tested.items())
    findings = [Finding("packages", "ok", f"{agreeing} of {len(tested)} are the tested versions")]
    for name, version in tested.items():
        remedy = f"pip install '{name}=={version}'"
        if found[name] is None:
            findings.append(Finding(name, "fail", "is not installed", remedy))
        elif found[name] != version:
            findings.append(Finding(name, "warn", f"is {found[name]}, tested with {version}", remedy))
    return findings


# -- what computes


def device(machine: Machine, parameters: int, *, unused_card: bool = False) -> Finding:
    """Judge the device and its memory for a base model of so many parameters."""
    told = f"{machine.name}, {machine.threads} threads, {_gigabytes(machine.memory_bytes)} free"
    needed = 2 * parameters * (2 if machine.fast_bfloat16 else 4)  # one copy answers while another learns
    if unused_card:
        return Finding(
            "device",
            "warn",
            f"{told}; torch does not see the NVIDIA card of this machine",
            f"install the driver and a torch for it: {TORCH_SITE}",
        )
    if machine.memory_bytes < needed:
        return Finding(
            "device",
            "warn",
            f"{told}; two copies of the base model take {_gigabytes(needed)}",
            "close other programs, or choose a smaller base model",
        )
    return Finding("device", "ok", told)


def bfloat16(machine: Machine, dtype: str) -> Finding:
    """Judge what came of timing bfloat16 against the precision that is set."""
    if machine.fast_bfloat16:
        return Finding("bfloat16", "ok", "pays on this device")
    if dtype == "bfloat16":
        return Finding(
            "bfloat16", "warn", "is set, but slower than float32 on this device", "set training.dtype to auto"
        )
    return Finding("bfloat16", "ok", "slower than float32 on this device, so float32 is used")


def card(index: int, name: str, capability: tuple[int, int], compute: Callable[[], object]) -> Finding:
    """Judge a CUDA device by computing on it: a torch that was built without its kernels fails here."""
    compute()
    return Finding(f"cuda:{index}", "ok", f"{name}, compute capability {capability[0]}.{capability[1]}")


def four_bit(round_trip: Callable[[], float] | None) -> Finding:
    """Judge 4-bit weights by the largest error of packing -1 to 1; ``None`` where bitsandbytes is missing."""
    if round_trip is None:
        return Finding("4-bit", "ok", "bitsandbytes is not installed; lorad runs without it")
    error = round_trip()
    if not error <= NF4_ERROR:
        return Finding(
            "4-bit",
            "warn",
            f"bitsandbytes computes wrongly here: off by {error:.2g} where {NF4_ERROR} is the most",
            "pip install --upgrade bitsandbytes",
        )
    return Finding("4-bit", "ok", "bitsandbytes works")


def template(base: str, trials: Sequence[Trial]) -> Finding:
    """Judge what trying a base model's chat template has shown."""
    name = f"template {base}"
    if not trials:
        return Finding(name, "ok", "has no chat template, so no chat track can learn on it")
    told = "; ".join(f"{trial.name}: {trial.detail}" for trial in trials if trial.status != "ok")
    unsafe = [trial for trial in trials if trial.name in UNSAFE and trial.status == "unsupported"]
    if any(trial.status == "broken" for trial in trials):
        return Finding(name, "fail", told, "take another base model: lorad base add SOURCE --name NAME")
    if unsafe:
        return Finding(name, "warn", told, "take another base model where people you do not trust ask it")
    return Finding(name, "ok", told or "does all that it was tried for")


# -- the home


def adapter_bytes(shape: ModelShape, rank: int) -> int:
    """Estimate, rather high, what an adapter of this rank takes on disk as float32."""
    return 4 * rank * shape.layers * LAYER_WIDTHS * shape.hidden


def disk(free: int, adapter: int, keep: int) -> Finding:
    """Judge the free space of the home for one more session, and for all versions that are to be kept."""
    session, later = adapter + SESSION_BYTES, keep * adapter + SESSION_BYTES
    told = f"{_gigabytes(free)} free; a session takes up to {_gigabytes(session)}"
    remedy = "make room; models/*/rejected can go, and a lower registry.keep keeps fewer versions"
    if free < session:
        return Finding("disk", "fail", told, remedy)
    if free < later:
        return Finding("disk", "warn", f"{told}, {keep} versions up to {_gigabytes(later)}", remedy)
    return Finding("disk", "ok", told)


def can_write(folder: Path) -> bool:
    """Tell whether this user may list, enter and change a folder."""
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def folders(home: Home, socket: Path, may: Callable[[Path], bool] = can_write) -> list[Finding]:
    """Judge the home's folders: there, ours to write, nobody else's."""
    needed = (home.root, home.configs, home.inbox, home.models)
    inside = [
        Path(parent, name)
        for top in (home.configs, home.inbox, home.models)
        for parent, names, _ in os.walk(top)
        for name in sorted(names)
    ]
    looked_at = [*needed, *inside, *([socket.parent] if socket.parent.is_dir() else [])]
    wrong = [finding for path in looked_at if (finding := _folder(path, home.root, may))]
    return wrong or [Finding("folders", "ok", f"all {len(looked_at)} are writable and private")]


def _folder(path: Path, root: Path, may: Callable[[Path], bool]) -> Finding | None:
    if not path.is_dir():
        return Finding("folder", "fail", f"{path} is missing", f"lorad init {root}")
    if not may(path):
        return Finding(
            "folder",
            "fail",
            f"{path} is not writable for this user",
            f"sudo chown -R $USER {path}, or run lorad as its owner",
        )
    if path.stat().st_mode & stat.S_IWOTH:
        return Finding("folder", "warn", f"{path} can be changed by everybody", f"chmod o-w {path}")
    return None


def owner(home: Home) -> int:
    """Return the user whose home this is: the daemon's."""
    return home.root.stat().st_uid


def private(home: Home, socket: Path) -> list[Finding]:
    """Judge who else may read or change what is the daemon's."""
    found = permissions.exposed(home, socket, owner(home))
    kinds = [
        (
            "others may change",
            [each for each in found if each.surplus & stat.S_IWOTH],
        ),
        ("others may read", [each for each in found if each.surplus & stat.S_IRWXO & ~stat.S_IWOTH]),
        ("the group may change", [each for each in found if each.surplus & stat.S_IWGRP]),
        ("the group may read", [each for each in found if each.surplus & stat.S_IRWXG & ~stat.S_IWGRP]),
    ]
    remedy = f"lorad doctor --home {home.root} --fix"
    told = [_exposed(words, which, remedy) for words, which in kinds if which]
    if foreign := [each for each in found if each.is_foreign]:
        name = _user(owner(home))
        theirs = _user(foreign[0].owner)
        told.append(
            _exposed(f"{theirs}, and not {name}, owns", foreign, f"sudo chown -h {name} {foreign[0].path}")
        )
    told += [
        Finding(
            "privacy",
            "warn",
            f"anybody may put another folder in the place of the home: {parent} can be changed by everybody",
            f"chmod +t {parent}, or move the home",
        )
        for parent in permissions.unsafe_parents(home.root)
    ]
    return told or [Finding("privacy", "ok", "others may read and change nothing")]


def _exposed(words: str, which: Sequence[permissions.Exposure], remedy: str) -> Finding:
    more = f" and {len(which) - 1} more" if len(which) > 1 else ""
    return Finding("privacy", "warn", f"{words} {which[0].path} (mode {which[0].mode:04o}){more}", remedy)


def mended(exposure: permissions.Exposure) -> Finding:
    """Say what was closed."""
    now = exposure.mode & ~exposure.surplus
    return Finding("mended", "ok", f"chmod {now:04o} {exposure.path} (was {exposure.mode:04o})")


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def socket_path(path: Path) -> Finding:
    """Judge the length of the socket's path."""
    check_socket_path(path)
    return Finding("socket", "ok", f"{path}, {len(os.fsencode(path))} of {SOCKET_PATH_LIMIT} bytes")


# -- the system


def inotify(folder: Path = Path("/proc/sys/fs/inotify")) -> list[Finding]:
    """Judge Linux's limits on watching folders; elsewhere there are none."""
    limits = {name: int((folder / name).read_text()) for name in INOTIFY if (folder / name).is_file()}
    low = [
        Finding(
            "inotify",
            "warn",
            f"{name} is {limit}; when other programs use it up, lorad reads the inbox every second instead of being told",
            f"sudo sysctl fs.inotify.{name}={INOTIFY[name]}",
        )
        for name, limit in limits.items()
        if limit < INOTIFY[name]
    ]
    if low or not limits:
        return low
    told = ", ".join(f"{name} {limit}" for name, limit in limits.items())
    return [Finding("inotify", "ok", told)]


def run(command: Sequence[str]) -> str | None:
    """Return what a command prints, or ``None`` when it is missing, fails or hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def service(
    system: str = platform.system(), ask: Callable[[Sequence[str]], str | None] = run
) -> list[Finding]:
    """Judge the systemd unit or the launchd agent, where there is one."""
    looks = [_agent(ask)] if system == "Darwin" else [_unit(ask, user=False), _unit(ask, user=True)]
    there = [finding for finding in looks if finding]
    return there or [Finding("service", "ok", "not installed; daemon/README.md says how")]


def _unit(ask: Callable[[Sequence[str]], str | None], *, user: bool) -> Finding | None:
    scope = ["--user"] if user else []
    answer = ask(["systemctl", *scope, "show", UNIT, "--property=LoadState,ActiveState"]) or ""
    state = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
    active = state.get("ActiveState", "")
    words = " ".join(["systemctl", *scope])
    if state.get("LoadState", "not-found") == "not-found":
        return None
    if active == "failed":
        look = f"{' '.join(['journalctl', *scope])} -u {UNIT} -n 50"
        again = f"{words} reset-failed {UNIT} && {words} start {UNIT}"
        return Finding("service", "fail", f"{words}: failed", f"{look}; then: {again}")
    if active != "active":
        return Finding("service", "warn", f"{words}: {active or 'unknown'}", f"{words} start {UNIT}")
    return Finding("service", "ok", f"{words}: active")


def _agent(ask: Callable[[Sequence[str]], str | None]) -> Finding | None:
    answer = ask(["launchctl", "list", AGENT])
    if answer is None:
        return None
    if '"PID"' not in answer:
        return Finding("service", "warn", f"{AGENT} is loaded and does not run", f"launchctl start {AGENT}")
    return Finding("service", "ok", f"{AGENT} runs")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
