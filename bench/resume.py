"""Kill a session with SIGKILL at random steps, resume it, and compare its adapter with the unbroken session's.

    python bench/resume.py [--kills 20] [--seed 1]

The model is the tests' tiny one, so that the arithmetic and not the patience is measured; each killed session is a
process of its own (``python -m lorad.training.session``), killed once at a random step of its first training, then run again on the
same folder. Every run uses one thread.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import report

TESTS = Path(__file__).resolve().parent.parent / "tests" / "support"
sys.path.insert(0, str(TESTS))

import tiny  # noqa: E402 - the tests' own model
from training_runs import PLAN, request  # noqa: E402

from lorad.models import adapters, bases, hardware, peft_io  # noqa: E402
from lorad.training.executors.local import LocalExecutor  # noqa: E402
from lorad.training.run_folder import RunFolder  # noqa: E402

NOTES = (
    "kills: sessions killed; resumed: those that went on from a checkpoint (a kill in the first round leaves none);",
    "equal: adapters that equal the unbroken one's bit for bit; largest_difference: of any weight over all;",
    "steps_saved: share of the unbroken run's steps that the resumed ones did not repeat.",
)
ROUNDS = 30
EXECUTOR = LocalExecutor(nice=0)


def write_order(base: Path, folder: RunFolder) -> None:
    """Write the specification of a session on 8 new facts that lasts ``ROUNDS`` rounds of two steps or more."""
    plan = replace(
        PLAN,
        batch=2,
        accumulation=2,
        dtype="float32",
        stopping=replace(PLAN.stopping, recall=1.1, max_rounds=ROUNDS),
    )
    request(base, folder, plan, judge={"max_perplexity_rise": 1e9, "max_kl": 1e9})


def finish(folder: RunFolder) -> adapters.Adapter:
    session = EXECUTOR.start(folder)
    while (status := session.poll(time.monotonic())) is None:
        time.sleep(0.005)
    assert status == 0, folder.log.read_text()[-2000:]
    return peft_io.read_adapter(folder.candidate)


def kill(folder: RunFolder, after: float) -> None:
    """Start a session and kill it some seconds behind its first round."""
    session = EXECUTOR.start(folder)
    while not folder.progress()["history"] and session.poll(0.0) is None:
        time.sleep(0.005)
    time.sleep(after)
    session.kill()


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
    unbroken_folder = RunFolder(room / "unbroken")
    write_order(base, unbroken_folder)
    unbroken = finish(unbroken_folder)
    lines = unbroken_folder.reports()
    span = max(line["closed"]["seconds"] for line in lines if "closed" in line)
    resumed, equal, largest = 0, 0, 0.0
    rounds: list[int] = []
    for number in range(options.kills):
        folder = RunFolder(room / f"killed-{number}")
        write_order(base, folder)
        kill(folder, chance.uniform(0, span))
        adapter = finish(folder)
        found = next((line for line in folder.reports() if "resumed_from" in line), None)
        difference = adapters.difference(adapter, unbroken)
        resumed += found is not None
        rounds.append(found["round"] if found else 0)
        equal += difference == 0
        largest = max(largest, difference)
        print(json.dumps({"kill": number, "resumed": found, "difference": difference}), flush=True)
        shutil.rmtree(folder.path)
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
