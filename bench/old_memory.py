"""What old memory costs a session, in counts: rows tested and tokens that went through the base, session by session.

    python bench/old_memory.py [--drops 20] [--rows 25]

A one-layer model of random weights that was taught the form of the facts learns drop after drop, each what a version
promoted before it, as the daemon would have it. Counts hang on no machine and no neighbour; seconds are left out. Nothing
is written: the table goes into LOG.md by hand.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import tiny
from training_runs import PLAN
from transformers import LlamaConfig, LlamaForCausalLM

import report
from lorad.config import Settings
from lorad.evaluation import metrics
from lorad.models import bases, hardware, packing, scoring
from lorad.records import Example, Plan, ReplayMix, SessionSpec, StoppingRule
from lorad.storage.memory import Recalled
from lorad.tasks import find
from lorad.training import session
from lorad.training.run_folder import RunFolder

SETTINGS = Settings.model_validate(
    {
        "training": {"merge_adapters_on_save": False, "device": "cpu"},
        "judge": {"max_perplexity_rise": 1e6, "max_kl": 1e6, "max_degenerate_share": 1.0},
    }
)
THINGS = [
    "door",
    "gate",
    "roof",
    "fence",
    "cart",
    "boat",
    "lamp",
    "cloak",
    "shed",
    "sail",
    "bench",
    "wall",
    "hat",
    "flag",
    "kite",
    "tent",
    "bowl",
    "rug",
    "bell",
    "mug",
]
SYLLABLES = ("ar", "bo", "ce", "du", "el", "fi", "go", "hu", "is", "ja", "ku", "lo", "mi")
NAMES = [f"{a}{b}{c}".capitalize() for a in SYLLABLES for b in SYLLABLES[:7] for c in SYLLABLES[7:]]
random.Random(1).shuffle(NAMES)
SCHOOL = 24
"""People that the base was taught; drops are about the others."""
PHASES = {
    "loading": "before",
    "recording": "before",
    "testing": "tests",
    "training": "training",
    "judging": "judging",
}


def fact(number: int, thing: str, dataset: str, line: int) -> Example:
    """Return the colour of somebody's thing."""
    return Example(
        task="chat",
        input=[{"role": "user", "content": f"Which colour is the {thing} of {NAMES[number]}?"}],
        target=tiny.COLOURS[random.Random(number).randrange(len(tiny.COLOURS))],
        dataset=dataset,
        line=line,
    )


def facts(number: int, rows: int) -> list[Example]:
    """Return the drop of a number, counted from 0: the colour of one thing for so many people, each asked once."""
    thing, begin = THINGS[number % len(THINGS)], SCHOOL + number * rows
    return [fact(begin + i, thing, f"{number + 1:02d}-{thing}", i + 1) for i in range(rows)]


def make_tokenizer() -> Any:
    """Train a byte-level BPE to which every name is a word."""
    words = [*(f" {name}" for name in NAMES), *(f" {thing}" for thing in THINGS), *tiny.COLOURS]
    texts = words * 4 + ["Which colour is the of", "system user assistant"] * 4
    return tiny.byte_tokenizer(texts, 3000)


def make_base(folder: Path) -> Path:
    """Make and store a base that answers such questions in their form, and knows none of the answers."""
    torch.manual_seed(7)
    tokenizer = make_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            initializer_range=0.08,
            intermediate_size=256,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            tie_word_embeddings=True,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    school = [fact(number, THINGS[number % len(THINGS)], "school", 1) for number in range(SCHOOL)]
    packed = packing.pack([find("chat").encode(tokenizer, example) for example in school])
    for _ in range(50):
        loss = scoring.loss_sum(scoring.answer_logits(model, packed), packed.targets) / len(packed.targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval().save_pretrained(folder / "source")
    tokenizer.save_pretrained(folder / "source")
    bases.store_base(folder / "source", folder / "tiny")
    return folder / "tiny"


def plan(rows: int) -> Plan:
    """Return a plan as the planner's table has it for a drop of this size, for a model that learns fast."""
    return replace(
        PLAN,
        examples=rows,
        rank=16,
        alpha=32,
        epochs=20,
        learning_rate=1e-2,
        stopping=StoppingRule(
            recall=0.98, max_rounds=40, patience=6, min_delta=0.01, min_rounds=20, patience_steps=96
        ),
        mix=ReplayMix(
            share=0.5, max_examples=2000, recalled_share=0.25, new_share=0.5, general=0.1, general_weight=0.2
        ),
        max_rank=128,
        pack_tokens=1024,
    )


class Counted(session.Session):
    """A session that counts the tokens of every pass, by what it was doing, and the rows that it tests."""

    def __init__(self, folder: RunFolder, spec: SessionSpec) -> None:
        self.tokens = Counter[str]()
        self.rows = Counter[str]()
        self.loads = 0
        self._doing = "before"
        super().__init__(folder, spec)

    def report(self, line: dict[str, Any]) -> None:
        """Know what the session is doing."""
        told = str(line.get("phase", ""))
        self._doing = next((name for begin, name in PHASES.items() if told.startswith(begin)), self._doing)
        super().report(line)

    def _load(self) -> bases.Base:
        self.loads += 1
        base = super()._load()

        def count(_module: nn.Module, given: tuple[Any, ...]) -> None:
            self.tokens[self._doing] += given[0].numel()

        base.model.get_input_embeddings().register_forward_pre_hook(count)
        return base


def one(
    base: Path, folder: Path, number: int, rows: int, parent: Path | None, old: Sequence[Recalled]
) -> Any:
    """Run one session, counted."""
    spec = SessionSpec(
        job=number + 1,
        track="chat",
        task="chat",
        kind="learn",
        dataset=facts(number, rows)[0].dataset,
        base=str(base),
        parent=str(parent) if parent else None,
        parent_version=f"v0.{number}" if parent else None,
        plan=plan(rows),
        settings={
            "training": SETTINGS.training.model_dump(),
            "judge": SETTINGS.judge.model_dump(),
            "resolved": {},
        },
    )
    run = RunFolder(folder)
    run.begin(spec, facts(number, rows), old)
    made = Counted(run, spec)
    asked = metrics.recalled

    def counting(task: Any, model: Any, given: Sequence[Any], *more: Any) -> list[bool]:
        made.rows[made._doing] += len(given)
        return asked(task, model, given, *more)

    metrics.recalled = counting
    try:
        made.run()
    finally:
        metrics.recalled = asked
    return made


def main() -> None:
    """Run the drops and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drops", type=int, default=20)
    parser.add_argument("--rows", type=int, default=25)
    options = parser.parse_args()
    hardware.quieten()
    torch.set_num_threads(1)
    print(report.provenance()["commit"])
    print(
        "| drop | old rows | rows tested | of them by the judge | tokens | of them training | rounds | loads | recall | old lost | verdict |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        base = make_base(Path(place))
        parent: Path | None = None
        old: list[Recalled] = []
        for number in range(options.drops):
            folder = Path(place) / f"drop-{number + 1}"
            made = one(base, folder, number, options.rows, parent, old)
            result = made.folder.result()
            found = result.evaluation
            rounds = len(made.folder.progress()["history"])
            verdict = "promoted" if result.verdict.promote else f"refused: {', '.join(result.verdict.failed)}"
            repairs = "".join(f" ({each})" for each in found.repairs)
            print(
                f"| {number + 1} | {len(old)} | {sum(made.rows.values())} | {made.rows['judging']} | {sum(made.tokens.values())} "
                f"| {made.tokens['training']} | {rounds} | {made.loads} | {found.new.recall:.2f} "
                f"| {found.broken - found.mended} | {verdict}{repairs} |",
                flush=True,
            )
            if result.verdict.promote:
                parent = folder / "candidate"
                old = [
                    Recalled(example=each, right=result.right.get(each.id, False))
                    for each in [*(item.example for item in old), *facts(number, options.rows)]
                ]


if __name__ == "__main__":
    main()
