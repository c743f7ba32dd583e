"""Three campus sets dropped in turn into a real daemon on SmolLM2: what is kept, and what is served.

    python bench/three_drops.py [--fresh]

After the third drop `latest` is loaded with plain `PeftModel.from_pretrained` on the untouched base and compared
with the logits of a deck as the daemon's engine has it, and with the sum of the three adapters merged one by one.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel

import report
from lorad.config import Settings
from lorad.datasets import reader
from lorad.errors import LoradError
from lorad.home import Home
from lorad.models import adapter_stack, adapters, bases, hardware, packing, peft_io, scoring
from lorad.serving.client import Client
from lorad.tasks import find
from lorad.versions.store import Registry

CHECKOUT = report.BENCH.parent
NAMES = ("campus_cs", "campus_housing", "campus_dining")
SETTINGS = Settings()


@contextmanager
def daemon(home: Home, settings: Sequence[str] = ()) -> Iterator[Client]:
    """Run the daemon of a home, with some settings (``section.key=value``), until the block ends."""
    log = (home.root / "daemon.log").open("w")
    command = [
        sys.executable,
        "-m",
        "lorad.apps.daemon.app",
        "--home",
        str(home.root),
        "--set",
        "inbox.settle_seconds=1",
        *(part for setting in settings for part in ("--set", setting)),
    ]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    client = Client(home.socket(SETTINGS.server.socket))
    try:
        while not _is_ready(client):
            assert process.poll() is None, (home.root / "daemon.log").read_text()
            time.sleep(0.3)
        yield client
    finally:
        process.terminate()
        process.wait(timeout=60)


def _is_ready(client: Client) -> bool:
    try:
        return bool(client.status().ready)
    except LoradError:
        return False


def learn(client: Client, home: Home, name: str) -> dict[str, Any]:
    """Drop one set and wait for its job, asking a question now and then while it trains."""
    shutil.copy(CHECKOUT / "examples" / f"{name}.json", home.inbox / f".{name}.part")
    (home.inbox / f".{name}.part").rename(home.inbox / f"{name}.json")
    waits: list[float] = []
    while True:
        time.sleep(10)
        began = time.perf_counter()
        client.chat([{"role": "user", "content": "What is the capital of France?"}], "chat", max_tokens=8)
        waits.append(time.perf_counter() - began)
        jobs = [job for job in client.call("GET", "/lorad/jobs")["jobs"] if job["dataset"] == name]
        if jobs and jobs[0]["state"] not in {"queued", "training", "judging"}:
            return {**jobs[0], "seconds": jobs[0]["ended_at"] - jobs[0]["started_at"], "waits": waits}


def compare(home: Home) -> dict[str, float]:
    """Return the largest logit differences over every tenth question of all three sets."""
    base = home.base("smollm2")
    registry = Registry(home.track("chat"))
    chain = [registry.path(version) for version in reversed(registry.lineage(registry.latest))]
    pristine = bases.load_base(base, torch.float32)
    stack = adapter_stack.AdapterStack(pristine)
    stack.add("latest", chain[-1])
    plain = PeftModel.from_pretrained(
        bases.load_base(base, torch.float32).model, str(home.track("chat") / "latest")
    ).eval()
    summed = bases.load_base(base, torch.float32)
    several = [peft_io.read_adapter(folder) for folder in chain]
    begin = 0
    for adapter in several:
        own = {name: (a[begin:], b[:, begin:]) for name, (a, b) in adapter.factors.items()}
        adapters.merge(summed.model, adapters.Adapter(own))
        begin = adapter.rank
    packed = packing.pack([row for name in NAMES for row in _rows(pristine.tokenizer, name)[::10]])
    with torch.inference_mode():
        with stack.use("latest") as model:
            engine = scoring.answer_logits(model, packed)
        return {
            "max_logit_difference_plain_peft": float(
                (scoring.answer_logits(plain, packed) - engine).abs().max()
            ),
            "max_logit_difference_merged_sum": float(
                (scoring.answer_logits(summed.model, packed) - engine).abs().max()
            ),
            "largest_logit": float(engine.abs().max()),
            "rank": several[-1].rank,
        }


def _rows(tokenizer: Any, name: str) -> list[Any]:
    reading = reader.read(CHECKOUT / "examples" / f"{name}.json", SETTINGS.inbox)
    return [find("chat").encode(tokenizer, example) for example in reading.examples]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="begin with an empty home")
    options = parser.parse_args()
    hardware.quieten()
    home = Home(report.CACHE / "three_drops")
    if options.fresh:
        shutil.rmtree(home.root, ignore_errors=True)
    report.add_smollm2(home.root)
    done = home.root / "jobs.json"
    jobs: dict[str, Any] = json.loads(done.read_text()) if done.exists() else {}
    with daemon(home) as client:
        for name in NAMES:
            if name not in jobs:
                jobs[name] = learn(client, home, name)
                done.write_text(json.dumps(jobs))
            print(name, jobs[name]["state"], f"{jobs[name]['seconds']:.0f} s", flush=True)
        retention = client.call("GET", "/lorad/retention")
        plotted = [
            sys.executable,
            "-m",
            "lorad.apps.cli.main",
            "--home",
            str(home.root),
            "retention",
            "--plot",
            str(report.RESULTS / "three_drops.png"),
        ]
        report.RESULTS.mkdir(exist_ok=True)
        subprocess.run(plotted, check=False)
    save(home, jobs, retention)


def save(home: Home, jobs: dict[str, Any], retention: dict[str, Any]) -> None:
    figures: dict[str, Any] = {}
    for number, name in enumerate(NAMES, start=1):
        job = jobs[name]
        waits = sorted(job["waits"])
        figures |= {
            f"drop{number}": f"{name}: {job['state']}",
            f"seconds{number}": round(job["seconds"], 1),
            f"answer_p50_s{number}": round(waits[len(waits) // 2], 2),
            f"answer_max_s{number}": round(waits[-1], 2),
        }
    figures |= {key: retention[key] for key in ("acc", "bwt", "forgetting")}
    figures |= compare(home)
    rows = [
        f"| {version} | " + " | ".join(_cell(cell) for cell in row) + " |"
        for version, row in zip(retention["versions"], retention["counts"], strict=True)
    ]
    table = [
        "## Retention: examples recalled, by version and dataset",
        "",
        "| version | " + " | ".join(retention["datasets"]) + " |",
    ]
    table += ["|---" * (1 + len(retention["datasets"])) + "|", *rows]
    report.save(
        "three_drops",
        figures,
        [line for line in (__doc__ or "").splitlines() if line.strip()][:1],
        tables=table,
    )
    print(json.dumps(figures, indent=2))


def _cell(count: list[int] | None) -> str:
    return f"{count[0]} of {count[1]}" if count else ""


if __name__ == "__main__":
    main()
