"""The inbox measured: rows a second and memory, latency, idle processor time, and 200 kills with drops in flight.

    python bench/inbox.py [--rows 1000000] [--files 200] [--idle 60] [--kills 200] [--only ARM] [--fresh]

Four arms, each once: a finished one is read from ``bench/cache``, so the whole may be interrupted between two.
``rows`` reads JSONL with the real reader, in the process that the daemon has read files (``lorad``) and as the command
line does (``here``), and with a plain ``json.loads`` of each line that keeps nothing, each in a process of its own. The others run the real daemon on the tests' tiny model with learning paused, so that the inbox
alone works: ``accept`` renames files into place one by one, half of them from another folder, and takes the time
until each lies in ``done/``; ``idle`` leaves it alone; ``kills`` ends it with SIGKILL at random moments while files
(new, known, broken; renamed into place or written in two parts) are dropped, and counts at the very end.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import report
from lorad import samples, source
from lorad.client import Client
from lorad.config import InboxSettings
from lorad.database import Database
from lorad.errors import LoradError
from lorad.home import Home
from lorad.ledger import Ledger
from lorad.reader import Reader

LIMITS = InboxSettings(max_bytes=1 << 40, max_rows=2**31 - 1, reader_seconds=1e6)
TESTS = Path(__file__).resolve().parent.parent / "tests"
SETTINGS: dict[str, Any] = {
    "tracks": {"chat": {"task": "chat", "base": "tiny"}},
    "inbox": {"settle_seconds": 0.5},
}
KEYS = ("rows_seconds", "rows_peak_mib", "accept_p50_s", "accept_p95_s", "idle_cpu_percent")
KEYS += ("kills", "lost", "repeated")
NOTES = (
    "Aims: accept_p50_s and accept_p95_s <= 0.5, idle_cpu_percent <= 0.5 (of one core), lost 0, repeated 0.",
    "rows_peak_mib: of the whole process that reads, interpreter included; `here` it keeps every example as well, as the",
    "daemon does, and the plain loop none.",
    "lost: examples that are not in memory, and files that are nowhere; repeated: examples that are in memory twice,",
    "and files that the ledger or the folders know twice.",
)


# rows


def write_rows(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row = {
                "instruction": f"Which key opens room {number} of the eastern wing, and who keeps it?",
                "response": f"Key {number * 7919 % 1_000_003}; the porter of floor {number % 12} keeps it.",
            }
            file.write(json.dumps(row) + "\n")


def read_plainly(path: Path) -> tuple[int, float]:
    with path.open(encoding="utf-8") as file:
        return sum(bool(json.loads(line)) for line in file), peak()


def read_as_the_daemon(path: Path) -> tuple[int, float]:
    from lorad.app import ReadingProcess  # noqa: PLC0415 - loads torch, which the others' memory must not count

    made: list[ReadingProcess] = []
    reader = Reader(
        LIMITS,
        start=lambda: made.append(ReadingProcess()) or made[-1],
        clock=time.monotonic,
        is_stopping=lambda: False,
    )
    with source.opened(path) as file:
        reading = reader.read(file, LIMITS)
    memory = made[0].memory / (1 << 20)
    reader.close()
    return kept(reading), memory


def read_here(path: Path) -> tuple[int, float]:
    return kept(samples.read(path, LIMITS)), peak()


def kept(reading: samples.Reading) -> int:
    assert len(reading.digest) == 64
    return sum(1 for _ in reading.examples)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1 << (20 if sys.platform == "darwin" else 10)
    )


READERS = {"lorad": read_as_the_daemon, "here": read_here, "plain": read_plainly}


def read_once(name: str, path: Path) -> None:
    if name == "lorad":
        import lorad.app  # noqa: F401, PLC0415 - a daemon has loaded it before
    began = time.perf_counter()
    count, memory = READERS[name](path)
    seconds = time.perf_counter() - began
    print(json.dumps({"rows": count, "seconds": round(seconds, 2), "peak_mib": round(memory)}))


def rows(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, options.rows)
        found: dict[str, Any] = {"bytes": path.stat().st_size}
        for name in READERS:
            command = [sys.executable, __file__, "--read", name, str(path)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[name] = json.loads(done.stdout)
            assert found[name]["rows"] == options.rows
    return found


# the daemon


@contextmanager
def home() -> Iterator[Home]:
    """Make a home with the tests' tiny model, in which learning is paused."""
    sys.path.insert(0, str(TESTS))
    import tiny  # noqa: PLC0415 - loads torch, which the reader's memory must not count
    from lorad import weights  # noqa: PLC0415

    weights.quieten()
    root = Path(tempfile.mkdtemp(prefix="inbox-"))
    try:
        for name in ("configs", "inbox", "models", "made"):
            (root / name).mkdir()
        weights.store_base(tiny.save(root / "source"), root / "models" / "base" / "tiny")
        (root / "configs" / "bench.yaml").write_text(json.dumps(SETTINGS))
        made = Home(root)
        database = Database(made.database)
        Ledger(database).set_flag("paused", "yes")
        database.close()
        yield made
    finally:
        shutil.rmtree(root)


def start(home: Home) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "lorad.app", "--home", str(home.root), "--config", "bench"]
    with (home.root / "daemon.log").open("ab") as log:
        return subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stdout=log, stderr=log)


def is_ready(home: Home) -> bool:
    try:
        path = home.running_socket()
        return path is not None and bool(Client(path).status()["ready"])
    except (LoradError, OSError):
        return False


def wait_until_ready(home: Home, daemon: subprocess.Popen[bytes]) -> None:
    while not is_ready(home):
        assert daemon.poll() is None, (home.root / "daemon.log").read_text()[-2000:]
        time.sleep(0.02)


@contextmanager
def running(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    daemon = start(home)
    try:
        wait_until_ready(home, daemon)
        yield daemon
    finally:
        daemon.terminate()
        daemon.wait(timeout=60)


def write_facts(path: Path, subject: str, count: int = 20) -> None:
    made = [
        {"instruction": f"What is {subject}, part {n}?", "response": f"{subject} {n}"} for n in range(count)
    ]
    path.write_text(json.dumps(made))


def accept(options: argparse.Namespace) -> dict[str, Any]:
    found = []
    with home() as at, running(at):
        time.sleep(3)
        for number in range(options.files):
            name = f"file-{number}.json"
            made = at.root / "made" / name if number % 2 else at.inbox / f".{name}.part"
            write_facts(made, f"thing {number}")
            time.sleep(0.1 + random.Random(number).random())  # whatever the daemon does periodically
            began = time.perf_counter()
            made.rename(at.inbox / name)
            while not any((at.inbox / "done").glob(f"*/{name}")):
                time.sleep(0.001)
            found.append(round(time.perf_counter() - began, 4))
    return {"seconds": found}


def idle(options: argparse.Namespace) -> dict[str, Any]:
    with home() as at, running(at) as daemon:
        time.sleep(5)
        process = psutil.Process(daemon.pid)
        before, threads = process.cpu_times(), {t.id: t.user_time + t.system_time for t in process.threads()}
        time.sleep(options.idle)
        after = process.cpu_times()
        spent = after.user + after.system - before.user - before.system
        busiest = sorted(
            ((t.user_time + t.system_time - threads.get(t.id, 0.0), t.id) for t in process.threads()),
            reverse=True,
        )
    return {
        "percent": round(100 * spent / options.idle, 3),
        "threads": [round(100 * seconds / options.idle, 3) for seconds, _ in busiest[:6]],
    }


# kills


class Dropper:
    """Drops files of every kind and remembers what must have become of each."""

    def __init__(self, at: Home, seed: int) -> None:
        self._at = at
        self.chance = random.Random(seed)
        self.names: list[str] = []
        self.subjects: list[str] = []

    def drop(self) -> None:
        """Drop one file, of a kind and in a way left to chance."""
        number = len(self.names)
        kind = self.chance.choice(("new", "new", "known", "broken"))
        name = f"{kind}-{number}.json"
        made = self._at.root / "made" / name
        if kind == "new" or not self.subjects:
            self.subjects.append(f"thing {number}")
            write_facts(made, self.subjects[-1])
        elif kind == "known":
            write_facts(made, self.chance.choice(self.subjects))
        else:
            made.write_text('[{"instruction": "only half"}]')
        if self.chance.random() < 0.5:
            made.rename(self._at.inbox / name)
        else:
            self._write_in_parts(made, self._at.inbox / name)
        self.names.append(name)

    def _write_in_parts(self, made: Path, target: Path) -> None:
        content = made.read_bytes()
        with target.open("wb", buffering=0) as file:
            file.write(content[: len(content) // 2])
            time.sleep(self.chance.uniform(0, 0.1))
            file.write(content[len(content) // 2 :])
        made.unlink()


def kill_once(at: Home, dropper: Dropper) -> None:
    """Kill a daemon while it starts (one time in five) or takes what is dropped."""
    daemon = start(at)
    span = 3.0 if dropper.chance.random() < 0.2 else 0.0
    if span:
        dropper.drop()
    else:
        wait_until_ready(at, daemon)
    moment = dropper.chance.uniform(0, span or 1.5)
    dropping = threading.Thread(target=lambda: [dropper.drop() for _ in range(4)])
    dropping.start()
    time.sleep(moment)
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    dropping.join()


def kills(options: argparse.Namespace) -> dict[str, Any]:
    with home() as at:
        dropper = Dropper(at, seed=1)
        for number in range(options.kills):
            kill_once(at, dropper)
            print(f"kill {number + 1} of {options.kills}", flush=True)
        with running(at):
            deadline = time.monotonic() + 600
            while unfinished(at) and time.monotonic() < deadline:
                time.sleep(0.2)
        return {"kills": options.kills, "files": len(dropper.names), **count(at, dropper)}


def unfinished(at: Home) -> list[Path]:
    waiting = [path for path in at.inbox.iterdir() if path.is_file() and not path.name.startswith("README")]
    return waiting + [path for path in (at.drops / "processing").rglob("*") if path.is_file()]


def count(at: Home, dropper: Dropper) -> dict[str, int]:
    """Hold folders, ledger and memory against what was dropped."""
    places = Counter(
        path.name
        for place in ("done", "failed")
        for path in (at.inbox / place).rglob("*")
        if path.is_file() and not path.name.endswith(".reason.json")
    )
    reasons = {path.name for path in (at.inbox / "failed").glob("*.reason.json")}
    database = Database(at.database)
    drops = Counter(row["name"] for row in database.rows("SELECT name FROM drops"))
    answers = Counter(json.loads(row["answer"]) for row in database.rows("SELECT answer FROM examples"))
    database.close()
    wanted = {f"{subject} {number}" for subject in dropper.subjects for number in range(20)}
    lost = sum(not places[name] or not drops[name] for name in dropper.names)
    lost += sum(f"{name}.reason.json" not in reasons for name in dropper.names if name.startswith("broken"))
    repeated = sum(places[name] > 1 or drops[name] > 1 for name in dropper.names)
    repeated += len(set(places) - set(dropper.names))  # a second copy has a number in its name
    return {
        "lost": lost + len(wanted - set(answers)),
        "repeated": repeated + sum(number > 1 for number in answers.values()),
    }


# all together


ARMS = {"rows": rows, "accept": accept, "idle": idle, "kills": kills}
SIZES = {"rows": "rows", "accept": "files", "idle": "idle", "kills": "kills"}


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def draw(found: dict[str, dict[str, Any]]) -> None:
    plt = report.pyplot()

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6))
    read = found["rows"]
    for axes, key, title in ((left, "seconds", "seconds"), (middle, "peak_mib", "peak memory, MiB")):
        axes.bar(
            list(READERS), [read[name][key] for name in READERS], color=("#4477aa", "#66ccee", "#bbbbbb")
        )
        axes.set_title(f"{read['lorad']['rows']:,} rows: {title}")
    seconds = sorted(found["accept"]["seconds"])
    right.plot(seconds, [(n + 1) / len(seconds) for n in range(len(seconds))], color="#4477aa")
    right.axvline(0.5, color="#cc6677", linestyle=":")
    right.set_title(f"renamed into place until accepted, {len(seconds)} files")
    right.set_xlabel("seconds")
    right.set_xlim(left=0)
    figure.tight_layout()
    report.RESULTS.mkdir(exist_ok=True)
    figure.savefig(report.RESULTS / "inbox.png", dpi=120)


def save(found: dict[str, dict[str, Any]]) -> None:
    seconds = found["accept"]["seconds"]
    values = (
        found["rows"]["lorad"]["seconds"],
        found["rows"]["lorad"]["peak_mib"],
        percentile(seconds, 0.5),
        percentile(seconds, 0.95),
        found["idle"]["percent"],
        *(found["kills"][key] for key in ("kills", "lost", "repeated")),
    )
    figures = dict(zip(KEYS, values, strict=True))
    table = ["| reader | rows | seconds | peak MiB |", "|---|---|---|---|"]
    for name in READERS:
        told = found["rows"][name]
        table.append(f"| {name} | {told['rows']:,} | {told['seconds']} | {told['peak_mib']} |")
    table.append(f"\n{found['kills']['files']} files were dropped while it was killed.")
    draw(found)
    report.save("inbox", figures, [*(__doc__ or "").splitlines(), "", *NOTES], tables=table)
    print(json.dumps(figures, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--idle", type=int, default=60)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--only", choices=ARMS)
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--read", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("path", type=Path, nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read_once(options.read, options.path)
        return
    if options.arm:
        options.path.write_text(json.dumps(ARMS[options.arm](options)))
        return
    found = {}
    for name, size in SIZES.items():
        if options.only in {None, name}:
            wanted = str(getattr(options, size))
            command = [__file__, "--arm", name, f"--{size}", wanted]
            found[name] = report.arm(f"inbox-{name}-{wanted}", command, fresh=options.fresh)
            print(f"{name}: {str(found[name])[:200]}", flush=True)
    if len(found) == len(ARMS):
        save(found)


if __name__ == "__main__":
    main()
