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
from lorad import examine, files, loader, weights
from lorad.registry import Birth, Registry

RANKS = (16, 64)
NOTES = (
    "load_ratio: lorad's seconds over plain PEFT's, aim at most 1.3 (the larger of both ranks);",
    "verify_base_ratio: hashing the base over loading it, at every start of the daemon.",
)


def make_version(base: weights.Base, source: Path, room: Path, rank: int) -> tuple[Registry, str]:
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
    weights.write_adapter(weights.Adapter(factors), candidate, source.name)
    for name in loader.TOKENIZER_FILES:
        if (source / name).is_file():
            files.write_bytes(candidate / name, (source / name).read_bytes())
    files.write_json(candidate / loader.METADATA, {"framework": loader.environment("cpu", "float32")})
    deck = weights.Deck(base)
    deck.add("made", candidate)
    with deck.use("made") as model:
        rows = examine.text_rows(base.tokenizer, 4, 32)
        files.write_json(candidate / examine.PROBES, examine.probe(model, rows))
    deck.drop("made")
    birth = Birth(job=1, parent=None, base=base.fingerprint, description="random")
    return registry, registry.promote(candidate, birth, time.time())


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    weights.quieten()
    source = base_folder()
    hashing = [seconds(lambda: weights.verify_base(source)) for _ in range(3)]
    loading = [seconds(lambda: weights.load_base(source, torch.float32)) for _ in range(3)]
    base = weights.load_base(source, torch.float32)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for rank in RANKS:
            registry, version = make_version(base, source, Path(scratch), rank)
            folder = registry.path(version)
            plain: list[float] = []
            ours: list[float] = []
            for _ in range(options.repeats):
                began = time.perf_counter()
                model = PeftModel.from_pretrained(base.model, str(folder))
                plain.append(time.perf_counter() - began)
                model.unload()
                deck = weights.Deck(base)
                began = time.perf_counter()
                registry.verify(version, base.fingerprint)
                loader.load(deck, "it", folder, source)
                ours.append(time.perf_counter() - began)
                deck.drop("it")
            figures[f"plain_seconds_r{rank}"] = round(statistics.median(plain), 4)
            figures[f"load_seconds_r{rank}"] = round(statistics.median(ours), 4)
            figures[f"load_ratio_r{rank}"] = round(statistics.median(ours) / statistics.median(plain), 3)
    figures["load_ratio"] = max(figures[f"load_ratio_r{rank}"] for rank in RANKS)
    figures["verify_base_seconds"] = round(statistics.median(hashing), 3)
    figures["load_base_seconds"] = round(statistics.median(loading), 3)
    figures["verify_base_ratio"] = round(statistics.median(hashing) / statistics.median(loading), 3)
    report.save("load", figures, [*(__doc__ or "").splitlines(), "", *NOTES])
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
