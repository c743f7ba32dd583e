"""Bad luck while it learns: kills and signals in every phase, forgetting, clocks, a full and a read-only disk."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from attacks_inbox import Act, Case
from attacks_world import IS_ROOT, TESTS, World, lines, require, wait
from lorad.errors import LoradError

sys.path.insert(0, str(TESTS))


def _facts(subject: str, count: int = 4) -> list[dict[str, str]]:
    import tiny  # noqa: PLC0415

    return tiny.rows(tiny.facts(count, subject, subject=subject))


def _drop(world: World, subject: str) -> str:
    name = f"{subject}.jsonl"
    world.put(name, lines(_facts(subject)))
    return name


def _job(world: World, dataset: str) -> dict[str, Any] | None:
    with contextlib.suppress(LoradError, OSError):
        return next(
            (job for job in world.call("GET", "/lorad/jobs")["jobs"] if job["dataset"] == dataset), None
        )
    return None


def _phase(world: World, dataset: str = "") -> str:
    """Return the phase of the session that runs, of this dataset if one is named; "" where none does."""
    with contextlib.suppress(LoradError, OSError):
        session = world.call("GET", "/lorad/status", timeout=5)["session"]
        if session and dataset in ("", session["dataset"]):
            return str(session["phase"])
    return ""


def _child(world: World) -> psutil.Process | None:
    assert world.daemon is not None
    for child in psutil.Process(world.daemon.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "lorad.training.session" in " ".join(child.cmdline()):
                return child
    return None


def _is_learned(world: World, dataset: str) -> bool:
    job = _job(world, dataset)
    return job is not None and job["state"] in {"promoted", "rejected"}


WHEN: dict[str, Callable[[World], object]] = {
    "taking": lambda _: True,
    "queued": lambda world: _job(world, "") is None and world.call("GET", "/lorad/jobs")["jobs"],
    "loading": lambda world: _phase(world) == "loading",
    "training": lambda world: _phase(world) == "training",
    "testing": lambda world: _phase(world) in {"testing", "judging", "merging", "saving"},
}


def struck(subject: str, when: str, strike: Callable[[World], object]) -> Act:
    """Return: drop a file, strike in a phase, start again if need be, and see that it is learned all the same."""

    def act(world: World) -> None:
        _drop(world, subject)
        wait(lambda: WHEN[when](world), 40)
        strike(world)
        if world.daemon is None or world.daemon.poll() is not None:
            world.daemon = None
            world.start()
        require(wait(lambda: _is_learned(world, subject), 200), f"{subject} is not learned")
        for row in _facts(subject):
            held = [example for example in _messages(world) if example == row["instruction"]]
            require(len(held) == 1, f"{row['instruction']} stands {len(held)} times")

    return act


def _messages(world: World) -> list[str]:
    page = world.call("GET", "/lorad/memory/examples")["examples"]
    return [row["messages"][0]["content"] for row in page]


def kill_daemon(world: World) -> None:
    assert world.daemon is not None
    world.daemon.kill()
    world.daemon.wait()
    require(wait(lambda: not _sessions(world), 60), "the session outlives its daemon")


def _sessions(world: World) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if (
                str(world.root) in words
                and "lorad.training.session" in words
                and process.status() != "zombie"
            ):
                found.append(process.pid)
    return found


def kill_child(world: World) -> None:
    if child := _child(world):
        child.kill()
    job = wait(lambda: next(iter(world.call("GET", "/lorad/jobs")["jobs"]), None), 20)
    if job and wait(lambda: _job(world, job["dataset"])["state"] == "failed", 10):  # type: ignore[index]
        world.call("POST", f"/lorad/jobs/{job['id']}/retry", {})


def send(how: int) -> Callable[[World], None]:
    def act(world: World) -> None:
        assert world.daemon is not None
        status = world.stop(how)
        require(status == 0, f"signal {how} ended it with {status}")

    return act


def lock_file_removed(world: World) -> None:
    """Without its lock file a second daemon must not disturb the first."""
    (world.root / "models" / ".daemon.lock").unlink()
    first = world.daemon
    second = world.start(is_awaited=False)
    world.daemon = first
    try:
        status = second.wait(timeout=60)
        require(status != 0, "a second daemon runs beside the first")
    except subprocess.TimeoutExpired:
        second.kill()
        second.wait()
        require(False, "a second daemon runs beside the first")
    require(world.is_ready(), "the first was disturbed")


def forget_then_force(world: World) -> None:
    """Forget what a job would learn that is cancelled, then force it: nothing that was forgotten comes back."""
    _drop(world, "bell")
    job = wait(lambda: _job(world, "bell"), 30)
    require(job, "bell is not accepted")
    world.call("POST", f"/lorad/jobs/{job['id']}/cancel")
    world.call("POST", "/lorad/forget", {"track": "chat", "selector": "bell"})
    with contextlib.suppress(LoradError):
        world.call("POST", f"/lorad/jobs/{job['id']}/retry", {"force": True})
    time.sleep(3)
    wait(lambda: not _phase(world), 60)
    found = _job(world, "bell")
    require(found and found["state"] != "promoted", "a job was promoted with what was forgotten")
    require(not [text for text in _messages(world) if "bell" in text], "what was forgotten is in memory")


def forget_while_it_runs(world: World) -> None:
    _drop(world, "coat")
    require(wait(lambda: _phase(world, "coat") in {"training", "loading"}, 60), "no session runs")
    world.call("POST", "/lorad/forget", {"track": "chat", "selector": "coat"})
    require(wait(lambda: not _phase(world, "coat"), 90), "the session does not end")
    job = _job(world, "coat")
    require(job, "its job is gone")
    require(job and job["state"] != "promoted", "it was promoted with what was forgotten")
    words = subprocess.run(
        ["grep", "-rl", "the coat of", str(world.root / "models" / "chat")],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    require(not words, f"the words stand in {words[:3]}")


def clock_set_back(world: World) -> None:
    """As if the clock had been a day ahead when the jobs so far were queued and ended."""
    world.stop()
    path = world.root / "models" / "lorad.sqlite3"
    database = sqlite3.connect(path)
    database.execute(
        "UPDATE jobs SET created_at = created_at + 86400, started_at = started_at + 86400, ended_at = ended_at + 86400"
    )
    database.execute("UPDATE drops SET taken_at = taken_at + 86400, ended_at = ended_at + 86400")
    database.execute("UPDATE events SET at = at + 86400")
    database.commit()
    database.close()
    _owned(path)
    world.start()
    _drop(world, "dish")
    job = wait(lambda: _job(world, "dish"), 30)
    require(job, "dish is not accepted")
    told = world.call("GET", "/lorad/status")["jobs"]
    require(told and told[0]["id"] == job["id"], "status tells of an older job first")
    done = _cli(world, "wait", "dish.jsonl", "--timeout", "100")
    require("dish" in done, f"wait tells of something else: {done[:200]}")


def _owned(path: Path) -> None:
    if IS_ROOT:
        for each in path.parent.glob(f"{path.name}*"):
            os.chown(each, path.stat().st_uid, path.stat().st_gid)


def _cli(world: World, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "lorad.apps.cli.main", "--home", str(world.root), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout + done.stderr


# disks


def full_disk(world: World) -> None:
    """Fill the home's file system, drop, and let room come back."""
    ballast = world.folder / "ballast"
    _fill(ballast)
    world.status_of("GET", "/lorad/status")
    with contextlib.suppress(Exception):
        world.put("hat.jsonl", lines(_facts("hat")))
    time.sleep(4)
    require(world.status_of("GET", "/lorad/status") == 200, "status is not answered on a full disk")
    for method, path, body in (
        ("POST", "/lorad/pause", b""),
        ("POST", "/lorad/resume", b""),
        ("POST", "/lorad/forget", b'{"track": "chat", "selector": "nothing of the kind"}'),
        ("POST", "/lorad/consolidate", b'{"track": "chat"}'),
    ):
        status, answer = world.raw(method, path, body)
        require(status != 500, f"{path} answers 500 on a full disk: {answer[:200]!r}")
    ballast.unlink()
    if not (world.inbox / "hat.jsonl").exists() and _job(world, "hat") is None:
        world.put("hat.jsonl", lines(_facts("hat")))
    require(wait(lambda: _is_learned(world, "hat"), 150), "it is not learned when there is room again")


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)


def full_in_session(world: World) -> None:
    _drop(world, "lamp")
    require(wait(lambda: _phase(world) == "training" or _is_learned(world, "lamp"), 60), "no session runs")
    ballast = world.folder / "ballast"
    _fill(ballast)
    time.sleep(8)
    require(world.status_of("GET", "/lorad/status") == 200, "status is not answered")
    ballast.unlink()
    require(wait(lambda: _is_learned(world, "lamp"), 150), "it is not learned when there is room again")


def start_on_full_disk(world: World) -> None:
    world.stop()
    ballast = world.folder / "ballast"
    _fill(ballast)
    daemon = world.start(is_awaited=False)
    wait(lambda: daemon.poll() is not None, 15)
    said = world.said()[-3000:]
    require("Traceback" not in said, f"a traceback: {said[-400:]}")
    ballast.unlink()
    if daemon.poll() is not None:
        world.start()
    require(wait(world.is_ready, 60), "it does not start when there is room again")


def read_only(world: World) -> None:
    """The disk meets an error and turns read-only while a session runs; it is mended, and the daemon started again."""
    _drop(world, "moth")
    wait(lambda: _phase(world) == "training", 60)
    mounted = world.folder.parent
    device = Path(_said("findmnt", "-no", "SOURCE", str(mounted))).name
    (Path("/sys/fs/ext4") / device / "trigger_fs_error").write_text("attack")
    try:
        time.sleep(8)
        _require_told(world)
    finally:
        world.end()
        subprocess.run(["umount", str(mounted)], check=True)
        subprocess.run(["fsck.ext4", "-y", f"/dev/{device}"], check=False, capture_output=True)
        subprocess.run(["mount", "-o", "errors=remount-ro", f"/dev/{device}", str(mounted)], check=True)
    world.start()
    if _job(world, "moth") is None and not (world.inbox / "moth.jsonl").exists():
        world.put("moth.jsonl", lines(_facts("moth")))
    require(wait(lambda: _is_learned(world, "moth"), 200), "it is not learned when the disk is mended")


def _require_told(world: World) -> None:
    """Require that a daemon on a read-only disk says so, and answers orders with a named error."""
    told = world.call("GET", "/lorad/status")
    session = told["session"]
    require(told["troubles"] or not session, f"status says that it trains: {session}")
    for path, body in (
        ("/lorad/rollback", b'{"track": "chat"}'),
        ("/lorad/rollback", b'{"track": "chat", "to": "base"}'),
        ("/lorad/pause", b""),
        ("/lorad/forget", b'{"track": "chat", "selector": "moth"}'),
    ):
        code, answer = world.raw("POST", path, body)
        require(code != 500, f"{path} answers 500 on a read-only disk: {answer[:200]!r}")


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def cases() -> Iterator[Case]:
    yield "held", "the daemon is killed while it takes", struck("apple", "taking", kill_daemon)
    yield "held", "the daemon is killed while a job is queued", struck("boat", "queued", kill_daemon)
    yield "held", "the daemon is killed while a session loads", struck("cup", "loading", kill_daemon)
    yield "held", "the daemon is killed while it trains", struck("desk", "training", kill_daemon)
    yield "held", "the daemon is killed while it tests", struck("egg", "testing", kill_daemon)
    yield "held", "the session is killed while it loads", struck("fan", "loading", kill_child)
    yield "held", "the session is killed while it trains", struck("goat", "training", kill_child)
    yield "held", "the session is killed while it tests", struck("hill", "testing", kill_child)
    yield "held", "SIGTERM while it trains", struck("ink", "training", send(signal.SIGTERM))
    yield "A20", "SIGHUP while it trains", struck("jar", "training", send(signal.SIGHUP))
    yield "held", "SIGINT while it takes", struck("kite", "taking", send(signal.SIGINT))
    yield "A20", "the lock file is removed, and a second daemon starts", lock_file_removed
    yield "A16", "forget, then retry by force", forget_then_force
    yield "A16", "forget while its session runs", forget_while_it_runs
    yield "A21", "the clock is set back a day", clock_set_back


def disk_cases() -> Iterator[Case]:
    yield "held", "the disk is full when a file is dropped", full_disk
    yield "held", "the disk is full in a session", full_in_session
    yield "held", "start on a full disk", start_on_full_disk
    yield "A22", "the disk turns read-only in a session", read_only
