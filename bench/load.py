"""Time from a version on disk to a version that may answer, beside plain PEFT, on SmolLM2.

    python bench/load.py [--repeats 9]

plain: ``PeftModel.from_pretrained`` onto a base in memory, which checks nothing. lorad: manifest and sha256 of every file,
header, config against weights and base, tokenizer, environment, the same PEFT call, and the probes. Both in turn, on the same
adapter, fresh and of the largest rank; medians. The base's own hash at start is stated beside the time to load it.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from peft import PeftModel

import report
from learn import base_folder
from lorad.evaluation import metrics
from lorad.models import adapter_stack, adapters, bases, hardware, peft_io
from lorad.records import Example
from lorad.storage import files
from lorad.tasks import find
from lorad.versions import loader, papers
from lorad.versions.promotion import PromotionRecord
from lorad.versions.store import Registry

RANKS = (16, 64)
FACTS = (
    ("Where is the library of the campus?", "In the old mill by the river."),
    ("Who keeps the key of the east tower?", "The porter of the north gate."),
    ("Which room is the reading room?", "Room 214, on the second floor."),
)
COLOURS = {
    "plain PEFT": "#bbbbbb",
    "sha256": "#228833",
    "header, config, tokenizer, environment": "#ccbb44",
    "PEFT's call": "#4477aa",
    "probes": "#ee6677",
}
NOTES = (
    "load_ratio: lorad's seconds over plain PEFT's, aim at most 1.3 (the larger of both ranks);",
    "verify_base_ratio: hashing the base over loading it, at every start of the daemon.",
)


def make_version(base: bases.Base, source: Path, room: Path, rank: int) -> tuple[Registry, str]:
    """Promote random weights with real probes and papers."""
    torch.manual_seed(rank)
    factors = {
        name: (
            torch.randn(rank, module.in_features) / rank,
            torch.randn(module.out_features, rank) / 1000,
        )
        for name, module in base.model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    registry = Registry(room / f"rank-{rank}")
    candidate = registry.candidates / "made"
    peft_io.write_adapter(adapters.Adapter(factors), candidate, source.name)
    for name in loader.TOKENIZER_FILES:
        if (source / name).is_file():
            files.write_bytes(candidate / name, (source / name).read_bytes())
    files.write_json(candidate / papers.METADATA, {"framework": loader.environment("cpu", "float32")})
    stack = adapter_stack.AdapterStack(base)
    stack.add("made", candidate)
    with stack.use("made") as model:
        facts = [Example(task="chat", input=[{"role": "user", "content": q}], target=a) for q, a in FACTS]
        rows = [find("chat").encode(base.tokenizer, fact) for fact in facts]
        files.write_json(candidate / metrics.PROBES, metrics.probe(find("chat"), model, rows))
    stack.unload("made")
    birth = PromotionRecord(job=1, parent=None, base=base.fingerprint, description="random")
    return registry, registry.promote(candidate, birth, time.time())


def measure(
    base: bases.Base, registry: Registry, version: str, folder: Path, source: Path
) -> dict[str, float]:
    """Load once plainly and once with every check; return the seconds of each part."""
    found = {}
    began = time.perf_counter()
    model = PeftModel.from_pretrained(base.model, str(folder))
    found["plain PEFT"] = time.perf_counter() - began
    model.unload()
    stack = adapter_stack.AdapterStack(base)
    found["sha256"] = seconds(lambda: registry.verify(version, base.fingerprint))
    found["header, config, tokenizer, environment"] = seconds(
        lambda: loader.check(folder, base, source, strict=False)
    )
    whole = seconds(lambda: loader.load(find("chat"), stack, "it", folder, source))
    found["probes"] = seconds(lambda: loader.prove(find("chat"), stack.model("it"), folder))
    found["PEFT's call"] = whole - found["probes"] - found["header, config, tokenizer, environment"]
    stack.unload("it")
    return found


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def draw(laps: dict[str, dict[str, dict[str, float]]]) -> None:
    plt = report.pyplot()

    figure, axes = plt.subplots(figsize=(8, 3))
    bars = [(f"rank {rank}, {way}", parts) for rank, ways in laps.items() for way, parts in ways.items()]
    for row, (_, parts) in enumerate(bars):
        left = 0.0
        for part, colour in COLOURS.items():
            if part in parts:
                axes.barh(row, parts[part], left=left, color=colour, label=part if row == 1 else None)
                left += parts[part]
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.invert_yaxis()
    axes.set_xlabel("seconds, median")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.2, 1), ncols=4, frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(report.RESULTS / "load.png", dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    hardware.quieten()
    source = base_folder()
    hashing = [seconds(lambda: bases.verify_base(source)) for _ in range(3)]
    loading = [seconds(lambda: bases.load_base(source, torch.float32)) for _ in range(3)]
    base = bases.load_base(source, torch.float32)
    figures: dict[str, float] = {}
    drawn: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for rank in RANKS:
            registry, version = make_version(base, source, Path(scratch), rank)
            folder = registry.path(version)
            laps = [measure(base, registry, version, folder, source) for _ in range(options.repeats)]
            parts = {part: statistics.median(lap[part] for lap in laps) for part in COLOURS}
            plain = parts.pop("plain PEFT")
            ours = statistics.median(sum(lap[part] for part in parts) for lap in laps)
            drawn[str(rank)] = {"plain": {"plain PEFT": plain}, "lorad": parts}
            figures[f"plain_seconds_r{rank}"] = round(plain, 4)
            figures[f"load_seconds_r{rank}"] = round(ours, 4)
            figures[f"probes_seconds_r{rank}"] = round(parts["probes"], 4)
            figures[f"load_ratio_r{rank}"] = round(ours / plain, 3)
    figures["load_ratio"] = max(figures[f"load_ratio_r{rank}"] for rank in RANKS)
    figures["verify_base_seconds"] = round(statistics.median(hashing), 3)
    figures["load_base_seconds"] = round(statistics.median(loading), 3)
    figures["verify_base_ratio"] = round(statistics.median(hashing) / statistics.median(loading), 3)
    draw(drawn)
    report.save("load", figures, [*(__doc__ or "").splitlines(), "", *NOTES])
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
