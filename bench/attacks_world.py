"""What the attacks act on: a home as daemon/README.md sets it up, its daemon, and a member of the group.

Where the script runs as root, three users take part: the daemon's, a member's of its group, and root, who only looks.
Elsewhere one user plays both, and whatever needs two is left out.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from lorad.errors import LoradError
from lorad.home import Home
from lorad.serving.client import Client

TESTS = Path(__file__).resolve().parent.parent / "tests" / "support"
IS_ROOT = os.geteuid() == 0
GROUP, DAEMON, MEMBER = (62000, 62001, 62002) if IS_ROOT else (os.getgid(), os.getuid(), os.getuid())
SECRET = "parsnip"  # noqa: S105 - no password, a word to look for
"""Stands in files that are the daemon's alone; nobody may learn it."""
SECONDS = 60.0
"""Whatever takes longer hangs."""
SETTINGS: dict[str, Any] = {
    "tracks": {"chat": {"task": "chat", "base": "tiny"}},
    "inbox": {"settle_seconds": 0.5, "rescan_seconds": 2.0, "keep_done_days": 3},
    "planner": {
        "table": [{"rank": 8, "alpha": 16, "epochs": 20, "batch": 2, "accumulation": 4, "max_length": 128}],
        "learning_rates": [{"learning_rate": 0.01}],
        "stopping": {"recall": 1.0, "max_rounds": 120, "patience": 120},
    },
    "rehearsal": {"recalled_share": 1.0, "general_share": 0.0},
    "training": {"threads": 1, "dtype": "float32"},
    "judge": {"max_perplexity_rise": 100.0, "max_kl": 100.0, "max_degenerate_share": 1.0},
}


def as_daemon(*command: str) -> list[str]:
    """Return a command that runs as the daemon's user.

    It may read everything (an interpreter in /root is closed to others), but write, own and change only what is its own.
    """
    if not IS_ROOT:
        return list(command)
    may_read = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    who = ["--reuid", str(DAEMON), "--regid", str(GROUP), "--groups", str(GROUP)]
    return ["setpriv", *who, *may_read, "--", *command]


class Wrong(Exception):  # noqa: N818 - it says what is wrong
    """Something came out otherwise than it should."""


def require(holds: object, told: str) -> None:
    """Raise ``Wrong`` unless something holds."""
    if not holds:
        raise Wrong(told)


@dataclass
class Outcome:
    """What a case came to."""

    name: str
    row: str
    """Of the table, or what held before."""
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    entered: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    seconds: float = 0.0
    grown_mib: float = 0.0
    """The daemon's memory behind the case beside before it."""
    log_bytes: int = 0

    @property
    def is_good(self) -> bool:
        return not (self.lost or self.wrong or self.entered or self.hung)


def as_user(uid: int, act: Callable[[], object], umask: int = 0o002) -> str:
    """Do something as another user in a process of its own; return what it raised, "" when nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 0
        try:
            os.close(reading)
            if IS_ROOT:
                os.setgroups([GROUP])
                os.setgid(GROUP)
                os.setuid(uid)
            os.umask(umask)
            act()
        except BaseException:  # noqa: BLE001 - it is told to the parent
            os.write(writing, traceback.format_exc()[-4000:].encode())
            status = 1
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told


def wait(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Return the first truth that a condition comes to, ``None`` when the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    return None


def facts(name: str, count: int = 3) -> list[dict[str, str]]:
    """Return rows whose answers nobody else gives."""
    return [{"instruction": f"What does {name} say of {n}?", "response": f"{name} {n}"} for n in range(count)]


def lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows as JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class World:
    """A home, its daemon and who may do what in it."""

    def __init__(self, folder: Path, base: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.root = folder / "home"
        self.settings = {**SETTINGS, **(settings or {})}
        self.daemon: subprocess.Popen[bytes] | None = None
        self.log = folder / "daemon.log"
        self.expected: Counter[str] = Counter()
        """Answers that memory has to hold, once each."""
        self._number = 0
        self._make(base)
        self.home = Home(self.root)

    # -- the place

    def _make(self, base: Path) -> None:
        self.root.mkdir()
        for name in ("configs", "inbox", "models"):
            (self.root / name).mkdir()
        (self.root / "models" / "base").mkdir()
        shutil.copytree(base, self.root / "models" / "base" / "tiny")
        (self.root / "configs" / "attacks.yaml").write_text(json.dumps(self.settings))
        self._make_precious()
        if IS_ROOT:
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, DAEMON, GROUP, follow_symlinks=False)
        self.folder.chmod(0o755)
        self.root.chmod(0o750)
        (self.root / "inbox").chmod(0o2770)  # as daemon/README.md says
        os.sync()  # what a broken disk loses must have been written by the daemon

    def _make_precious(self) -> None:
        """Lay what is the daemon's user's own and no part of the home."""
        own = self.folder / "own"
        (own / "packages").mkdir(parents=True)
        (own / "2020-01-01").mkdir()
        (own / "2020-01-01" / "keep.txt").write_text("keep")
        secret = own / "secret.jsonl"
        secret.write_bytes(lines([{"instruction": "What is the secret?", "response": SECRET}]))
        secret.chmod(0o600)
        own.chmod(0o755)

    @property
    def inbox(self) -> Path:
        return self.root / "inbox"

    @property
    def own(self) -> Path:
        return self.folder / "own"

    def precious(self) -> dict[str, str]:
        """Return what must stay as it is: the user's own files, and that the home's parts are there."""
        found = {}
        for path in sorted(self.own.rglob("*")):
            status = path.lstat()
            content = path.read_text() if path.is_file() and not path.is_symlink() else ""
            found[str(path.relative_to(self.own))] = f"{status.st_mode:o} {status.st_ino} {content}"
        found["database"] = str((self.root / "models" / "lorad.sqlite3").exists())
        found["base"] = str(sorted(p.name for p in (self.root / "models" / "base" / "tiny").iterdir()))
        return found

    # -- the daemon

    def start(self, *settings: str, is_awaited: bool = True) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-P",
            "-m",
            "lorad.apps.daemon.app",
            "--home",
            str(self.root),
            "--config",
            "attacks",
        ]
        command += [word for setting in settings for word in ("--set", setting)]
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.folder),
            "OMP_NUM_THREADS": "1",
        }
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                as_daemon(*command),
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd="/",
                umask=0o002,
            )
        if is_awaited:
            require(wait(self.is_ready, 120), f"it did not start: {self.said()[-1500:]}")
        return self.daemon

    def is_ready(self) -> bool:
        if self.daemon is not None and self.daemon.poll() is not None:
            raise Wrong(f"the daemon ended with {self.daemon.returncode}: {self.said()[-1500:]}")
        with contextlib.suppress(LoradError, OSError, http.client.HTTPException):
            return bool(self.call("GET", "/lorad/status", timeout=5.0)["ready"])
        return False

    def stop(self, how: int = signal.SIGTERM, seconds: float = 40.0) -> int:
        """Send a signal and wait for the end; return the status, and kill what does not end."""
        assert self.daemon is not None
        self.daemon.send_signal(how)
        try:
            return self.daemon.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
            raise Wrong(f"signal {how} did not end it within {seconds:.0f} s") from None
        finally:
            self.daemon = None

    def end(self) -> None:
        """Kill what still runs."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        self.daemon = None

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def memory_mib(self) -> float:
        if self.daemon is None or self.daemon.poll() is not None:
            return 0.0
        with contextlib.suppress(psutil.Error):
            return float(psutil.Process(self.daemon.pid).memory_info().rss) / 2**20
        return 0.0

    # -- the socket

    @property
    def address(self) -> Path:
        return self.root / "run" / "lorad.sock"

    def call(self, method: str, path: str, body: Any = None, *, timeout: float = 30.0, **query: Any) -> Any:
        return Client(self.address).call(method, path, body, timeout=timeout, **query)

    def status_of(self, method: str, path: str, body: bytes | None = None, timeout: float = 30.0) -> int:
        """Return the HTTP status of a raw request; 0 when the connection was closed."""
        return self.raw(method, path, body, timeout)[0]

    def raw(
        self, method: str, path: str, body: bytes | None = None, timeout: float = 30.0
    ) -> tuple[int, bytes]:
        with self.connection(timeout) as stream, contextlib.suppress(ConnectionError, BrokenPipeError):
            head = f"{method} {path} HTTP/1.1\r\nHost: l\r\nConnection: close\r\n"
            if body is not None:
                head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before it was all sent
                stream.sendall(head.encode("latin-1") + b"\r\n" + (body or b""))
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := stream.recv(1 << 16):
                    answer += piece
            if answer.startswith(b"HTTP/1.1 "):
                return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]
        return 0, b""

    def connection(self, timeout: float = 30.0) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(timeout)
        stream.connect(str(self.address))
        return stream

    # -- dropping

    def member(self, act: Callable[[], object], umask: int = 0o002) -> str:
        """Do something as a member of the group; return what it raised."""
        return as_user(MEMBER, act, umask)

    def put(self, name: str, content: bytes, place: str = "") -> None:
        """Drop a file as a member does it: written beside, then renamed."""
        target = self.inbox / place / name

        def act() -> None:
            hidden = target.with_name(f".{time.monotonic_ns()}.part")
            hidden.write_bytes(content)
            hidden.rename(target)

        told = self.member(act)
        require(not told, f"a member cannot drop: {told}")

    def good(self, name: str | None = None) -> str:
        """Drop three facts that must be in memory from then on; return the file's name."""
        self._number += 1
        name = name or f"good-{self._number}.jsonl"
        rows = facts(name)
        self.put(name, lines(rows))
        self.expected.update(row["response"] for row in rows)
        return name

    def is_accepted(self, name: str, answers: int = 3) -> bool:
        held = self.answers()
        return sum(held[f"{name} {n}"] for n in range(answers)) == answers

    def answers(self) -> Counter[str]:
        """Return every answer in memory and how often it stands there."""
        found: Counter[str] = Counter()
        after = 0
        while page := self.call("GET", "/lorad/memory/examples", after=after)["examples"]:
            for row in page:
                found[str(row["messages"][-1].get("content"))] += 1
            after = page[-1]["provenance"]["row"]
        return found

    def missing(self, held: Counter[str] | None = None) -> list[str]:
        """Return the answers that memory has to hold and does not."""
        held = self.answers() if held is None else held
        return [answer for answer in self.expected if not held[answer]]

    def events(self, *names: str) -> list[dict[str, Any]]:
        told = self.call("GET", "/lorad/events", after=0)["events"]
        return [event for event in told if event["name"] in names]

    def reason(self, name: str, seconds: float = 30.0) -> dict[str, Any]:
        """Return the reason beside a refused file, as a member reads it."""
        path = self.inbox / "failed" / f"{name}.reason.json"
        require(wait(path.exists, seconds), f"{name} got no reason")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    # -- what must hold after every case

    def check(self, outcome: Outcome, before: Mapping[str, str]) -> None:
        """Hold the world against what must be true whatever was done."""
        try:
            if self.daemon is None or self.daemon.poll() is not None:
                outcome.wrong.append("the daemon is gone")
                self.start()
            if not wait(self.is_ready, 30):
                outcome.hung.append("status is not answered")
                return
            name = self.good()
            if not wait(lambda: self.is_accepted(name)):
                outcome.hung.append(f"{name}, dropped afterwards, is not accepted")
            self._spare(name)
            wait(lambda: not self.missing(), 30)  # one that was dropped before may come to rest later
            held = self.answers()
        except (Wrong, LoradError, OSError) as error:
            outcome.hung.append(f"{type(error).__name__}: {error}"[:300])
            return
        outcome.lost += self.missing(held)
        outcome.wrong += [f"{answer} stands twice" for answer in self.expected if held[answer] > 1]
        outcome.entered += [answer for answer in held if SECRET in answer]
        after = self.precious()
        outcome.entered += [f"{key} changed" for key in before if before[key] != after.get(key)]
        outcome.entered += [f"{key} is new" for key in after.keys() - before.keys()]

    def _spare(self, name: str) -> None:
        """Let what was only dropped to see it accepted not be learned: the next case would wait for it."""
        for job in self.call("GET", "/lorad/jobs")["jobs"]:
            if job["dataset"] == Path(name).stem and job["state"] in {"queued", "training"}:
                with contextlib.suppress(LoradError):
                    self.call("POST", f"/lorad/jobs/{job['id']}/cancel")


@contextlib.contextmanager
def world(
    base: Path, settings: Mapping[str, Any] | None = None, place: Path | None = None
) -> Iterator[World]:
    """Make a world, and take it away again."""
    folder = Path(tempfile.mkdtemp(prefix="a", dir=place or "/tmp"))  # noqa: S108 - a socket's path is short
    made = World(folder, base, settings)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


def save_base(folder: Path) -> Path:
    """Write the tests' tiny base as ``lorad base add`` stores it."""
    sys.path.insert(0, str(TESTS))
    import tiny  # noqa: PLC0415 - loads torch

    from lorad.models import bases, hardware  # noqa: PLC0415

    hardware.quieten()
    bases.store_base(tiny.save(folder / "source"), folder / "tiny")
    return folder / "tiny"
