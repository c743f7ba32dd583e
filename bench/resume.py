"""Kill a session with SIGKILL at random steps, resume it, and compare its adapter with the unbroken session's.

    python bench/resume.py [--kills 20] [--seed 1]

The model is the tests' tiny one, so that the arithmetic and not the patience is measured; each killed session is a
process of its own (``python -m lorad.training.session``), killed once at a random step of its first training, then run again on the
same folder. Every run uses one thread.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import report

TESTS = Path(__file__).resolve().parent.parent / "tests" / "support"
sys.path.insert(0, str(TESTS))

import tiny  # noqa: E402 - the tests' own model
from training_runs import PLAN  # noqa: E402

from lorad import records  # noqa: E402
from lorad.config import Settings  # noqa: E402
from lorad.models import adapters, bases, hardware, peft_io  # noqa: E402
from lorad.records import SessionSpec  # noqa: E402
from lorad.storage import files  # noqa: E402

NOTES = (
    "kills: sessions killed; resumed: those that went on from a checkpoint (a kill in the first round leaves none);",
    "equal: adapters that equal the unbroken one's bit for bit; largest_difference: of any weight over all;",
    "steps_saved: share of the unbroken run's steps that the resumed ones did not repeat.",
)
ROUNDS = 30


def write_order(base: Path, folder: Path) -> None:
    """Write an order of 8 new facts that lasts ``ROUNDS`` rounds of two steps or more."""
    plan = replace(
        PLAN,
        batch=2,
        accumulation=2,
        dtype="float32",
        stopping=replace(PLAN.stopping, recall=1.1, max_rounds=ROUNDS),
    )
    settings = Settings.model_validate({"judge": {"max_perplexity_rise": 1e9, "max_kl": 1e9}})
    order = SessionSpec(
        job=1,
        track="chat",
        task="chat",
        kind="learn",
        dataset="doors",
        base=str(base),
        parent=None,
        parent_version=None,
        plan=plan,
        settings={
            "training": settings.training.model_dump() | {"threads": 1},
            "judge": settings.judge.model_dump(),
            "resolved": settings.model_dump(mode="json"),
        },
    )
    folder.mkdir(parents=True)
    files.write_lines(folder / "new.jsonl", [records.as_json(e) for e in tiny.facts(8, "doors")])
    files.write_lines(folder / "old.jsonl", [])
    files.write_json(folder / "request.json", records.as_json(order))


def start(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "session.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "lorad.training.session", str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )


def finish(folder: Path) -> adapters.Adapter:
    child = start(folder)
    assert child.wait(timeout=600) == 0, (folder / "session.log").read_text()[-2000:]
    return peft_io.read_adapter(folder / "candidate")


def rounds_done(folder: Path) -> int:
    return sum("closed" in line for line in files.read_lines(folder / "progress.jsonl"))


def kill(folder: Path, after: float) -> None:
    """Start a session and kill it some seconds behind its first round."""
    child = start(folder)
    while not rounds_done(folder) and child.poll() is None:
        time.sleep(0.005)
    time.sleep(after)
    child.send_signal(signal.SIGKILL)
    child.wait()


def draw(rounds: list[int]) -> None:
    plt = report.pyplot()

    figure, axes = plt.subplots(figsize=(8, 3.4))
    axes.bar(range(1, len(rounds) + 1), [ROUNDS] * len(rounds), color="#ccd4da", label="trained after it")
    axes.bar(range(1, len(rounds) + 1), rounds, color="#4477aa", label="kept by the checkpoint")
    axes.set_xlabel("kill")
    axes.set_ylabel("rounds")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    axes.set_xticks(range(1, len(rounds) + 1))
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(report.RESULTS / "resume.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    hardware.quieten()
    chance = random.Random(options.seed)
    room = Path(tempfile.mkdtemp(prefix="resume-"))
    base = room / "tiny"
    bases.store_base(tiny.save(room / "source"), base)
    write_order(base, room / "unbroken")
    unbroken = finish(room / "unbroken")
    lines = files.read_lines(room / "unbroken" / "progress.jsonl")
    span = max(line["closed"]["seconds"] for line in lines if "closed" in line)
    resumed, equal, largest = 0, 0, 0.0
    rounds: list[int] = []
    for number in range(options.kills):
        folder = room / f"killed-{number}"
        write_order(base, folder)
        kill(folder, chance.uniform(0, span))
        adapter = finish(folder)
        found = next((x for x in files.read_lines(folder / "progress.jsonl") if "resumed_from" in x), None)
        difference = adapters.difference(adapter, unbroken)
        resumed += found is not None
        rounds.append(found["round"] if found else 0)
        equal += difference == 0
        largest = max(largest, difference)
        print(json.dumps({"kill": number, "resumed": found, "difference": difference}), flush=True)
        shutil.rmtree(folder)
    shutil.rmtree(room)
    figures = {
        "kills": options.kills,
        "resumed": resumed,
        "equal": equal,
        "largest_difference": largest,
        "steps_saved": round(sum(rounds) / ROUNDS / options.kills, 4),
    }
    draw(rounds)
    report.save("resume", figures, [*(__doc__ or "").splitlines(), "", *NOTES])
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
