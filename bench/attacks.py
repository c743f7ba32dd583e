"""Attack a daemon in every way that we could think of, and see what is lost, wrong, entered and hung.

    python bench/attacks.py [--only GROUP] [--case TEXT]

Each case is one attack or misfortune on a real daemon with the tests' tiny model, set up as daemon/README.md says: the
daemon's user, a member of its group who drops files, and (as root) both with their real uids. After each case a new
file is dropped and must be accepted, and everything that was dropped before must be in memory, once.

lost: rows that were dropped and are not in memory.
wrong: something came out otherwise than it should, a traceback, an answer 500, a daemon that is gone.
in: somebody read, wrote or ran what is not theirs: a secret learned, a file of the daemon's user changed or removed.
hung: something that did not end, or a daemon that answered or learned nothing any more.

`memory_grown_mib` is the most that one case let the daemon's resident memory grow for good, `log_bytes` the most that
one case wrote into its log. Cases that need two users or a mount are left out where those cannot be had, and counted in
`left_out`.
"""

import argparse
import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attacks_inbox
import attacks_offline
import attacks_sessions
import attacks_socket
import report
from attacks_inbox import Case
from attacks_world import IS_ROOT, Outcome, World, Wrong, save_base, world

KINDS = ("lost", "wrong", "entered", "hung")
CASES = {
    "inbox": attacks_inbox.cases,
    "socket": attacks_socket.cases,
    "offline": attacks_offline.cases,
    "sessions": attacks_sessions.cases,
}
LANES = (("inbox", "socket", "offline"), ("sessions", "disk"))


def attempt(place: World, case: Case) -> Outcome:
    """Do one case and hold the world against what must be true behind it."""
    row, name, act = case
    outcome = Outcome(name, row)
    before, memory, log = place.precious(), place.memory_mib(), len(place.said())
    began = time.monotonic()
    try:
        act(place)
    except (Wrong, TimeoutError, subprocess.TimeoutExpired) as error:
        kind = outcome.hung if isinstance(error, TimeoutError | subprocess.TimeoutExpired) else outcome.wrong
        kind.append(str(error)[:600])
    except Exception as error:  # noqa: BLE001 - what an attack raises is its outcome
        outcome.wrong.append(f"{type(error).__name__}: {error}"[:600])
    place.check(outcome, before)
    outcome.seconds = time.monotonic() - began
    outcome.grown_mib = place.memory_mib() - memory if memory else 0.0
    said = place.said()[log:]
    outcome.log_bytes = len(said.encode(errors="replace"))
    if "Traceback" in said and "step_failed" in said:
        outcome.wrong.append("a step failed with a traceback in the log")
    return outcome


def tell(outcome: Outcome) -> None:
    found = "; ".join(
        f"{kind}: {', '.join(getattr(outcome, kind))[:400]}" for kind in KINDS if getattr(outcome, kind)
    )
    print(f"{outcome.row:5} {outcome.name:55} {outcome.seconds:6.1f} s  {found or 'good'}", flush=True)


def in_one_home(
    base: Path, cases: Iterator[Case], wanted: Callable[[Case], bool], *, paused: bool
) -> Iterator[Outcome]:
    chosen = [case for case in cases if wanted(case)]
    if not chosen:
        return
    with world(base) as place:
        place.start()
        if paused:
            place.call("POST", "/lorad/pause")
        for case in chosen:
            yield attempt(place, case)


@contextlib.contextmanager
def disk(megabytes: int = 300) -> Iterator[Path]:
    """Mount a small file system of its own."""
    image = Path(tempfile.mkstemp(suffix=".img", dir="/var/tmp")[1])
    place = Path(tempfile.mkdtemp(prefix="d", dir="/tmp"))
    try:
        with image.open("wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        made = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True, text=True)
        device = made.stdout.strip()
        subprocess.run(["mount", "-o", "errors=remount-ro", device, place], check=True)
        place.chmod(0o755)
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)
        subprocess.run(["losetup", "-d", device], check=False, capture_output=True)
        shutil.rmtree(place, ignore_errors=True)
        image.unlink()


def on_a_disk(base: Path, wanted: Callable[[Case], bool]) -> Iterator[Outcome]:
    for case in attacks_sessions.disk_cases():
        if wanted(case):
            with disk() as place, world(base, place=place) as made:
                made.start()
                yield attempt(made, case)


def outcomes(base: Path, groups: Sequence[str], wanted: Callable[[Case], bool]) -> Iterator[Outcome]:
    for group in groups:
        if group == "disk":
            if IS_ROOT and shutil.which("mkfs.ext4"):
                yield from on_a_disk(base, wanted)
        else:
            yield from in_one_home(base, CASES[group](), wanted, paused=group != "sessions")


def in_lanes() -> list[Outcome]:
    """Run all groups, two at a time: most of what they do is waiting."""
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / "-".join(groups) for groups in LANES]
        command = [sys.executable, __file__]
        running = [
            subprocess.Popen([*command, *(f"--only={group}" for group in groups), f"--found={place}"])
            for groups, place in zip(LANES, places, strict=True)
        ]
        for process in running:
            process.wait()
        return [Outcome(**each) for place in places for each in json.loads(place.read_text())]


def figures(found: list[Outcome], left_out: int, seconds: float) -> dict[str, Any]:
    told = {"cases": len(found)}
    told |= {
        key: sum(bool(getattr(outcome, kind)) for outcome in found)
        for key, kind in zip(("lost", "wrong", "in", "hung"), KINDS, strict=True)
    }
    return {
        **told,
        "memory_grown_mib": round(max(outcome.grown_mib for outcome in found)),
        "log_bytes": max(outcome.log_bytes for outcome in found),
        "left_out": left_out,
        "seconds": round(seconds),
    }


def table(found: list[Outcome]) -> list[str]:
    rows = ["| row | case | lost | wrong | in | hung | seconds | memory grown, MiB | log, bytes |"]
    rows.append("|---|---|---|---|---|---|---|---|---|")
    for outcome in found:
        counts = " | ".join(str(len(getattr(outcome, kind))) for kind in KINDS)
        rows.append(
            f"| {outcome.row} | {outcome.name} | {counts} | {outcome.seconds:.1f} | {outcome.grown_mib:.0f} | {outcome.log_bytes} |"
        )
    return rows


def draw(found: list[Outcome]) -> None:
    plt = report.pyplot()

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.16 * len(found) + 1.2), sharey=True)
    colours = ["#4477aa" if outcome.is_good else "#cc6677" for outcome in found]
    names = [f"{outcome.row}  {outcome.name}" for outcome in found]
    left.barh(names, [outcome.seconds for outcome in found], color=colours)
    left.set_xlabel("seconds, the file dropped afterwards included")
    right.barh(names, [max(0.0, outcome.grown_mib) for outcome in found], color=colours)
    right.set_xlabel("memory grown for good, MiB")
    left.invert_yaxis()
    left.tick_params(axis="y", labelsize=6)
    for axes in (left, right):
        axes.margins(y=0.005)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    report.RESULTS.mkdir(exist_ok=True)
    figure.savefig(report.RESULTS / "attacks.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=(*CASES, "disk"), action="append", help="a group, repeatable")
    parser.add_argument("--case", default="", help="only cases whose row or name has this text")
    parser.add_argument("--found", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    began = time.monotonic()
    is_whole = not options.only and not options.case
    if is_whole:
        found = in_lanes()
    else:
        found = []
        with tempfile.TemporaryDirectory() as folder:
            base = save_base(Path(folder))
            groups = options.only or [*CASES, "disk"]
            for outcome in outcomes(base, groups, lambda case: options.case in f"{case[0]} {case[1]}"):
                tell(outcome)
                found.append(outcome)
    if options.found:
        options.found.write_text(json.dumps([dataclasses.asdict(outcome) for outcome in found]))
        return
    if not found:
        sys.exit("no such case")
    left_out = 0 if IS_ROOT and shutil.which("mkfs.ext4") else len(list(attacks_sessions.disk_cases()))
    told = figures(found, left_out, time.monotonic() - began)
    print(json.dumps(told, indent=2))
    if is_whole:
        draw(found)
        notes = [*(__doc__ or "").splitlines(), "", "Aims: lost, wrong, in and hung 0; cases at least 60."]
        report.save("attacks", told, notes, tables=table(found))
    sys.exit(any(not outcome.is_good for outcome in found))


if __name__ == "__main__":
    main()
