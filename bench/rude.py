"""Twenty-four rude clients against the real daemon, while four polite ones ask: what it costs the daemon, and them.

    python bench/rude.py [--seconds 300] [--tiny]

Rude clients stall in a header or a body, read half a stream and stop, leave in the middle of one, send bodies of 10 MB, floods
of requests, bytes that are no HTTP, 1,000 requests in one go, and methods that no route has. The base model is SmolLM2's; with
``--tiny`` the tests' own, to see that all this runs: nothing is written to ``results`` then. They are a process of their own, so
that the polite clients' time is the daemon's.
"""

import argparse
import contextlib
import itertools
import json
import math
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

import report
import three_drops
from lorad.config import Settings
from lorad.errors import LoradError
from lorad.home import Home
from lorad.models import hardware
from lorad.serving.client import Client

RUDE, POLITE = 24, 4
TOKENS = 16
REST = 15.0
"""Seconds after which what the rude ones had taken must be given back: longer than a header may take."""
LARGE = 10_000_000
PIPELINED = 1000
FLOOD = 40
SAMPLED = 0.25
"""Seconds between two looks at the daemon's memory and descriptors."""
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
SETTINGS = Settings()
NOTES = (
    "rude_status_N: answers that rude clients got; rude_odd: of these, what does not say what was wrong (a 500, or a 200 for a body",
    "that is too long); rude_cut: connections that the daemon closed without an answer, as it may where nothing came.",
    "memory in MiB and descriptors of the daemon: before, the most meanwhile, and some seconds behind the last rude client;",
    "polite: of four clients that ask for 16 tokens again and again, alone and beside the rude ones; refused: told to come back",
    "(503), and they did; failed: everything else. log_errors: lines of the daemon's log that tell of an error.",
)

# -- rude clients


@dataclass
class Rude:
    """One rude client: its connections, and the answers it got."""

    path: str
    until: float
    numbers: random.Random
    statuses: Counter[str] = field(default_factory=Counter)
    odd: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    acts: Counter[str] = field(default_factory=Counter)

    @contextlib.contextmanager
    def connection(self) -> Iterator[socket.socket]:
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(max(0.1, min(40.0, self.until - time.monotonic())))
        try:
            stream.connect(self.path)
            yield stream
        finally:
            stream.close()

    def read(self, stream: socket.socket, most: int = 1 << 22, answers: int = 1) -> bytes:
        """Read until so many answers have begun and their bytes stop coming, the daemon closes, or it is enough."""
        found = b""
        with contextlib.suppress(OSError):
            while len(found) < most and (piece := stream.recv(1 << 16)):
                found += piece
                if len(STATUS.findall(found)) >= answers:
                    stream.settimeout(0.2)
        return found

    def count(self, act: str, found: bytes, may: Sequence[int]) -> None:
        told = [int(status) for status in STATUS.findall(found)]
        self.statuses.update(map(str, told))
        self.odd.update(f"{act} {status}" for status in told if status not in {*may, 503})
        self.cut += not told


def request(method: str, path: str, body: bytes | None = None, length: int | None = None) -> bytes:
    size = (
        "" if body is None else f"Content-Type: application/json\r\nContent-Length: {length or len(body)}\r\n"
    )
    return f"{method} {path} HTTP/1.1\r\nHost: l\r\n{size}\r\n".encode() + (body or b"")


def question(*, stream: bool) -> bytes:
    messages = [{"role": "user", "content": "Tell me a very long story."}]
    body = {
        "model": "chat",
        "messages": messages,
        "max_tokens": 200,
        "stream": stream,
        "lorad": {"retrieve": False},
    }
    return json.dumps(body).encode()


def stall_in_header(rude: Rude) -> None:
    with rude.connection() as stream:
        stream.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: l\r\nX-Slow: a")
        rude.count("stall_in_header", rude.read(stream), (400, 408))


def stall_in_body(rude: Rude) -> None:
    with rude.connection() as stream:
        stream.sendall(request("POST", "/v1/chat/completions", b'{"model": "chat", ', 500_000))
        rude.count("stall_in_body", rude.read(stream), (400, 408))


def half_read(rude: Rude) -> None:
    with rude.connection() as stream:
        stream.sendall(request("POST", "/v1/chat/completions", question(stream=True)))
        rude.count("half_read", rude.read(stream, most=300), (200,))
        time.sleep(max(0.0, min(5.0, rude.until - time.monotonic())))


def leave(rude: Rude) -> None:
    with rude.connection() as stream:
        stream.sendall(request("POST", "/v1/chat/completions", question(stream=True)))
        with contextlib.suppress(OSError):
            rude.count("leave", stream.recv(200), (200,))


def large_body(rude: Rude) -> None:
    with rude.connection() as stream:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stream.sendall(request("POST", "/v1/chat/completions", b" " * LARGE))
        rude.count("large_body", rude.read(stream), (413,))


def flood(rude: Rude) -> None:
    """Ask a lot at once, and only then read what came of it."""
    asked = request("POST", "/v1/chat/completions", question(stream=False))
    with contextlib.ExitStack() as stack:
        streams = []
        for _ in range(FLOOD):
            with contextlib.suppress(OSError):
                streams.append(stack.enter_context(rude.connection()))
                streams[-1].sendall(asked)
        for stream in streams:
            stream.settimeout(1.0)
            rude.count("flood", rude.read(stream), (200,))


def garbage(rude: Rude) -> None:
    with rude.connection() as stream:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stream.sendall(rude.numbers.randbytes(rude.numbers.randrange(1, 100_000)))
            stream.shutdown(socket.SHUT_WR)
        rude.count("garbage", rude.read(stream), (400,))


def pipeline(rude: Rude) -> None:
    with rude.connection() as stream:
        sender = threading.Thread(target=_send, args=(stream, request("GET", "/healthz") * PIPELINED))
        sender.start()
        rude.count("pipeline", rude.read(stream, answers=PIPELINED), (200,))
        stream.close()
        sender.join()


def _send(stream: socket.socket, what: bytes) -> None:
    with contextlib.suppress(OSError):
        stream.sendall(what)


def wrong_methods(rude: Rude) -> None:
    for method, path in (("DELETE", "/v1/chat/completions"), ("PUT", "/lorad/status"), ("FROB", "/metrics")):
        with rude.connection() as stream:
            stream.sendall(request(method, path))
            rude.count("wrong_methods", rude.read(stream), (400, 404, 405))


ACTS: tuple[Callable[[Rude], None], ...] = (
    stall_in_header,
    stall_in_body,
    half_read,
    leave,
    large_body,
    flood,
    garbage,
    pipeline,
    wrong_methods,
)


def misbehave(rude: Rude, first: int) -> None:
    for act in itertools.islice(itertools.cycle(ACTS), first, None):
        if time.monotonic() >= rude.until:
            return
        with contextlib.suppress(OSError):
            act(rude)
            rude.acts[act.__name__] += 1


def be_rude(path: str, seconds: float, out: Path) -> None:
    """Be so many rude clients for so long, and write what came of it."""
    until = time.monotonic() + seconds
    clients = [Rude(path, until, random.Random(number)) for number in range(RUDE)]
    threads = [
        threading.Thread(target=misbehave, args=(client, number % len(ACTS)))
        for number, client in enumerate(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {
        name: dict(sum((getattr(client, name) for client in clients), Counter()))
        for name in ("statuses", "odd", "acts")
    }
    out.write_text(json.dumps(found | {"cut": sum(client.cut for client in clients)}), encoding="utf-8")


# -- polite ones


@dataclass
class Politeness:
    """What polite clients met."""

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    def ask(self, client: Client, until: float, number: int) -> None:
        asked = [{"role": "user", "content": f"What is the number {number}?"}]
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                client.chat(asked, max_tokens=TOKENS, temperature=0, lorad={"retrieve": False})
            except LoradError as error:
                if error.code == "busy":
                    self.refused += 1
                    time.sleep(1.0)  # as Retry-After says
                else:
                    self.failed[error.code] += 1
            else:
                self.seconds.append(time.monotonic() - began)

    @property
    def p95(self) -> float:
        return sorted(self.seconds)[math.ceil(0.95 * len(self.seconds)) - 1] if self.seconds else math.nan


def be_polite(place: Path, seconds: float) -> Politeness:
    found, until = Politeness(), time.monotonic() + seconds
    threads = [
        threading.Thread(target=found.ask, args=(Client(place), until, number)) for number in range(POLITE)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


# -- the daemon


class Sampler:
    """Looks at the daemon's memory and descriptors again and again, for the time of a block."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.most = self.look()

    def look(self) -> tuple[float, int]:
        return self._process.memory_info().rss / 2**20, self._process.num_fds()

    def _run(self) -> None:
        while not self._stop.wait(SAMPLED):
            with contextlib.suppress(psutil.Error):
                memory, descriptors = self.look()
                self.most = max(self.most[0], memory), max(self.most[1], descriptors)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def home(*, is_tiny: bool) -> Home:
    """Return a home with a base model alone."""
    made = Home(report.CACHE / ("rude_tiny" if is_tiny else "rude"))
    if not is_tiny:
        report.add_smollm2(made.root)
        return made
    sys.path.insert(0, str(report.BENCH.parent / "tests" / "support"))
    import running  # noqa: PLC0415
    import tiny  # noqa: PLC0415

    from lorad.models import bases  # noqa: PLC0415

    shutil.rmtree(made.root, ignore_errors=True)
    for name in ("configs", "inbox", "models"):
        (made.root / name).mkdir(parents=True)
    bases.store_base(tiny.save(made.root / "source"), made.base("tiny"))
    settings = running.SETTINGS.model_dump(mode="json", exclude_unset=True)
    (made.root / "configs" / "default.yaml").write_text(json.dumps(settings), encoding="utf-8")
    return made


def measure(place: Home, seconds: float) -> dict[str, Any]:
    path, out = place.socket(SETTINGS.server.socket), place.root / "rude.json"
    with three_drops.daemon(place) as client:
        process = psutil.Process(client.status().pid)
        be_polite(path, 3.0)  # warm
        alone = be_polite(path, max(5.0, seconds / 5))
        before = Sampler(process).look()
        with Sampler(process) as sampler:
            rude = subprocess.Popen([sys.executable, __file__, "--rude", str(path), str(seconds), str(out)])
            beside = be_polite(path, seconds)
            assert rude.wait(timeout=seconds + 120) == 0, "the rude clients failed"
        time.sleep(REST)
        is_alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        after = sampler.look() if is_alive else (math.nan, 0)
        answers = client.status().engine if is_alive else None
    log = (place.root / "daemon.log").read_text(errors="replace")
    return {
        "rude_clients": RUDE,
        "rude_seconds": seconds,
        **told_of_rude(json.loads(out.read_text(encoding="utf-8"))),
        "rude_crashes": int(not is_alive),
        "rude_left_waiting": answers.waiting if answers else None,
        "rude_log_errors": len(re.findall(r'"level": ?"(?:error|critical)"|^Traceback', log, re.MULTILINE)),
        **of_daemon(before, sampler.most, after),
        **of_polite(alone, beside),
    }


def told_of_rude(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{f"rude_acts_{name}": count for name, count in sorted(found["acts"].items())},
        **{f"rude_status_{status}": count for status, count in sorted(found["statuses"].items())},
        "rude_odd": sum(found["odd"].values()),
        "rude_odd_answers": ", ".join(f"{what} x {count}" for what, count in sorted(found["odd"].items())),
        "rude_cut": found["cut"],
    }


def of_daemon(before: tuple[float, int], most: tuple[float, int], after: tuple[float, int]) -> dict[str, Any]:
    looks = {"start": before, "peak": most, "end": after}
    return {f"rude_memory_mib_{name}": round(look[0], 1) for name, look in looks.items()} | {
        f"rude_descriptors_{name}": look[1] for name, look in looks.items()
    }


def of_polite(alone: Politeness, beside: Politeness) -> dict[str, Any]:
    return {
        "rude_polite_alone_p95_s": round(alone.p95, 3),
        "rude_polite_p95_s": round(beside.p95, 3),
        "rude_polite_p95_ratio": round(beside.p95 / alone.p95, 2),
        "rude_polite_alone_answers": len(alone.seconds),
        "rude_polite_answers": len(beside.seconds),
        "rude_polite_refused": beside.refused,
        "rude_polite_failed": sum(beside.failed.values()) + sum(alone.failed.values()),
        "rude_polite_failures": ", ".join(f"{code} x {count}" for code, count in beside.failed.items()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0, help="how long the rude clients are there")
    parser.add_argument("--tiny", action="store_true", help="on the tests' model, to see that it runs")
    parser.add_argument("--rude", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rude:
        path, seconds, out = options.rude
        be_rude(path, float(seconds), Path(out))
        return
    hardware.quieten()
    found = measure(home(is_tiny=options.tiny), options.seconds)
    if not options.tiny:
        report.save("rude", found, [*(__doc__ or "").splitlines(), "", *NOTES])
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
