"""The checks of ``lorad doctor``: the device, the home and the system.

What lives here: judging what was measured; each check returns findings, and a remedy for each problem. What never
does: importing torch or the settings; ``model_commands.doctor_command`` measures what needs them.
"""

import os
import platform
import pwd
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lorad.apps.cli.findings import Finding
from lorad.home import SOCKET_PATH_LIMIT, Home, check_socket_path
from lorad.models import memory_needs
from lorad.records import Machine, ModelShape, Trial
from lorad.storage import permissions

#: Linux's default limits, shared by all programs of a user that watch files.
INOTIFY = {"max_user_instances": 128, "max_user_watches": 8192, "max_queued_events": 16_384}

#: Half the widest gap between two levels of NF4, -1 and -0.696, plus a little for rounding.
NF4_ERROR = 0.16

#: A session's files besides the adapter: tokenizer, examples, log, and room for the database to grow.
SESSION_BYTES = 200_000_000

#: Trials of a chat template whose failure cannot be avoided by refusing rows.
UNSAFE = ("date", "markup")
UNIT = "lorad"
AGENT = "org.lorad.daemon"
TORCH_SITE = "https://pytorch.org/get-started/locally"


def device(machine: Machine, needed: int, *, unused_card: bool = False) -> Finding:
    """Check the device and its memory for two copies of a base model, one of which answers while the other is trained."""
    detail = f"{machine.name}, {machine.threads} threads, {_gigabytes(machine.memory_bytes)} free"
    if unused_card:
        return Finding(
            "device",
            "warn",
            f"{detail}; torch does not detect the NVIDIA GPU of this machine",
            f"install the NVIDIA driver and a CUDA build of torch: {TORCH_SITE}",
        )
    if machine.memory_bytes < needed:
        return Finding(
            "device",
            "warn",
            f"{detail}; two copies of the base model need {_gigabytes(needed)}",
            "close other programs, or choose a smaller base model",
        )
    return Finding("device", "ok", detail)


def bfloat16(machine: Machine, dtype: str) -> Finding:
    """Compare the measured speed of bfloat16 with the configured precision."""
    if machine.fast_bfloat16:
        return Finding("bfloat16", "ok", "is faster than float32 on this device")
    if dtype == "bfloat16":
        return Finding(
            "bfloat16",
            "warn",
            "is configured, but slower than float32 on this device",
            "set training.dtype to auto",
        )
    return Finding("bfloat16", "ok", "is slower than float32 on this device; auto uses float32")


def card(
    index: int,
    name: str,
    capability: tuple[int, int],
    libraries: Mapping[str, str],
    compute: Callable[[], object],
) -> Finding:
    """Check a CUDA device by computing on it, which fails if torch was built without kernels for it."""
    compute()
    told = ", ".join(f"{library} {version}" for library, version in libraries.items())
    capable = f"compute capability {capability[0]}.{capability[1]}"
    return Finding(f"cuda:{index}", "ok", f"{name}, {capable}, {told}")


def four_bit(round_trip: Callable[[], float] | None) -> Finding:
    """Check 4-bit weights by the largest error of quantising -1 to 1; ``None`` without bitsandbytes."""
    if round_trip is None:
        return Finding("4-bit", "ok", "bitsandbytes is not installed; lorad works without it")
    error = round_trip()
    if not error <= NF4_ERROR:
        return Finding(
            "4-bit",
            "warn",
            f"bitsandbytes computes wrong results: the error is {error:.2g}, at most {NF4_ERROR} is expected",
            "pip install --upgrade bitsandbytes",
        )
    return Finding("4-bit", "ok", "bitsandbytes works")


def executor(name: str, processes: int, nodes: int, others: Sequence[str]) -> Finding:
    """Say what runs a session, by how many processes, and what else could."""
    many = f"{processes} processes" if processes > 1 else "one process"
    where = f" on each of {nodes} machines" if nodes > 1 else ""
    return Finding("executor", "ok", f"{name}: a session is {many}{where}; {', '.join(others)}")


def template(base: str, trials: Sequence[Trial]) -> Finding:
    """Check a base model's chat template by what it did in its trials."""
    name = f"template {base}"
    if not trials:
        return Finding(name, "ok", "has no chat template, so a chat track cannot use this base")
    detail = "; ".join(f"{trial.name}: {trial.detail}" for trial in trials if trial.status != "ok")
    unsafe = [trial for trial in trials if trial.name in UNSAFE and trial.status == "unsupported"]
    if any(trial.status == "broken" for trial in trials):
        return Finding(name, "fail", detail, "use another base model: lorad base add SOURCE --name NAME")
    if unsafe:
        return Finding(
            name, "warn", detail, "use another base model if people you do not trust ask questions"
        )
    return Finding(name, "ok", detail or "passed all trials")


def embedder(name: str | None, *, retrieves: bool) -> Finding:
    """Say what compares a question with the examples: an encoder by its name, or each track's own base (``None``)."""
    if not retrieves:
        return Finding("embedder", "ok", "is not used: answering.retrieve is false")
    if name is None:
        return Finding(
            "embedder",
            "ok",
            "each track's own base; questions in other words are found better with an encoder: lorad base add minilm",
        )
    return Finding("embedder", "ok", f"{name}, a base of kind encoder")


def adapter_bytes(shape: ModelShape, rank: int) -> int:
    """Estimate generously the bytes of an adapter of this rank as float32."""
    return 4 * memory_needs.adapter_parameters(shape, rank)


def disk(free: int, adapter: int, keep: int) -> Finding:
    """Check that the disk has room for one more session, and for all versions that may be kept."""
    session, later = adapter + SESSION_BYTES, keep * adapter + SESSION_BYTES
    detail = f"{_gigabytes(free)} free; a session needs up to {_gigabytes(session)}"
    remedy = "free some space: remove models/*/rejected, or set registry.keep to fewer versions"
    if free < session:
        return Finding("disk", "fail", detail, remedy)
    if free < later:
        return Finding("disk", "warn", f"{detail}, {keep} versions up to {_gigabytes(later)}", remedy)
    return Finding("disk", "ok", detail)


def can_write(folder: Path) -> bool:
    """Tell whether this user may list, enter and change a folder."""
    return os.access(folder, os.R_OK | os.W_OK | os.X_OK)


def folders(home: Home, socket: Path, may: Callable[[Path], bool] = can_write) -> list[Finding]:
    """Check that the home's folders exist, that this user can write them, and that not everybody can."""
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
        return Finding("folder", "warn", f"{path} is writable for everybody", f"chmod o-w {path}")
    return None


def owner(home: Home) -> int:
    """Return the user id of the home's owner, who runs the daemon."""
    return home.root.stat().st_uid


def private(home: Home, socket: Path) -> list[Finding]:
    """Check who else can read or change the daemon's files."""
    found = permissions.exposed(home, socket, owner(home))
    kinds = [
        (
            "others can change",
            [each for each in found if each.surplus & stat.S_IWOTH],
        ),
        ("others can read", [each for each in found if each.surplus & stat.S_IRWXO & ~stat.S_IWOTH]),
        ("the group can change", [each for each in found if each.surplus & stat.S_IWGRP]),
        ("the group can read", [each for each in found if each.surplus & stat.S_IRWXG & ~stat.S_IWGRP]),
    ]
    remedy = f"lorad doctor --home {home.root} --fix"
    findings = [_exposed(words, which, remedy) for words, which in kinds if which]
    if foreign := [each for each in found if each.is_foreign]:
        name = _user(owner(home))
        theirs = _user(foreign[0].owner)
        findings.append(
            _exposed(f"{theirs}, and not {name}, owns", foreign, f"sudo chown -h {name} {foreign[0].path}")
        )
    findings += [
        Finding(
            "privacy",
            "warn",
            f"anybody can replace the home by another folder: {parent} is writable for everybody",
            f"chmod +t {parent}, or move the home",
        )
        for parent in permissions.unsafe_parents(home.root)
    ]
    return findings or [Finding("privacy", "ok", "others can read and change nothing")]


def _exposed(words: str, which: Sequence[permissions.Exposure], remedy: str) -> Finding:
    more = f" and {len(which) - 1} more" if len(which) > 1 else ""
    return Finding("privacy", "warn", f"{words} {which[0].path} (mode {which[0].mode:04o}){more}", remedy)


def fixed(exposure: permissions.Exposure) -> Finding:
    """Report a permission that was removed."""
    now = exposure.mode & ~exposure.surplus
    return Finding("fixed", "ok", f"chmod {now:04o} {exposure.path} (was {exposure.mode:04o})")


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def socket_path(path: Path) -> Finding:
    """Check the length of the socket's path."""
    check_socket_path(path)
    return Finding("socket", "ok", f"{path}, {len(os.fsencode(path))} of {SOCKET_PATH_LIMIT} bytes")


def inotify(folder: Path = Path("/proc/sys/fs/inotify")) -> list[Finding]:
    """Check Linux's limits on watching folders; other systems have none."""
    limits = {name: int((folder / name).read_text()) for name in INOTIFY if (folder / name).is_file()}
    low = [
        Finding(
            "inotify",
            "warn",
            f"{name} is only {limit}; if other programs use it up, lorad scans the inbox every second",
            f"sudo sysctl fs.inotify.{name}={INOTIFY[name]}",
        )
        for name, limit in limits.items()
        if limit < INOTIFY[name]
    ]
    if low or not limits:
        return low
    detail = ", ".join(f"{name} {limit}" for name, limit in limits.items())
    return [Finding("inotify", "ok", detail)]


def run(command: Sequence[str]) -> str | None:
    """Return the output of a command, or ``None`` if it is missing, fails or hangs."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def service(
    system: str = platform.system(), ask: Callable[[Sequence[str]], str | None] = run
) -> list[Finding]:
    """Check the systemd unit or the launchd agent, if there is one."""
    checks = [_agent(ask)] if system == "Darwin" else [_unit(ask, user=False), _unit(ask, user=True)]
    found = [finding for finding in checks if finding]
    return found or [Finding("service", "ok", "not installed; see daemon/README.md")]


def _unit(ask: Callable[[Sequence[str]], str | None], *, user: bool) -> Finding | None:
    scope = ["--user"] if user else []
    answer = ask(["systemctl", *scope, "show", UNIT, "--property=LoadState,ActiveState"]) or ""
    state = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
    active = state.get("ActiveState", "")
    words = " ".join(["systemctl", *scope])
    if state.get("LoadState", "not-found") == "not-found":
        return None
    if active == "failed":
        log = f"{' '.join(['journalctl', *scope])} -u {UNIT} -n 50"
        again = f"{words} reset-failed {UNIT} && {words} start {UNIT}"
        return Finding("service", "fail", f"{words}: failed", f"{log}; then: {again}")
    if active != "active":
        return Finding("service", "warn", f"{words}: {active or 'unknown'}", f"{words} start {UNIT}")
    return Finding("service", "ok", f"{words}: active")


def _agent(ask: Callable[[Sequence[str]], str | None]) -> Finding | None:
    answer = ask(["launchctl", "list", AGENT])
    if answer is None:
        return None
    if '"PID"' not in answer:
        return Finding("service", "warn", f"{AGENT} is loaded but not running", f"launchctl start {AGENT}")
    return Finding("service", "ok", f"{AGENT} is running")


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
