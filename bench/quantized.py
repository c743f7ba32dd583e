"""A base in 4 and in 8 bits beside one that is not rounded, on this machine's CPU: campus_cs.json learned on SmolLM2.

    python bench/quantized.py [--fresh] [--only ARM ...] [--quick]

Arms `none`, `8bit`, `4bit`, each in a process of its own and resumed from the cache: one session as the daemon starts it, whose
judge measures recall and facts over the base in the form that it was trained on; then the candidate loaded with plain PEFT
on the same base, quantised by transformers alone. `--quick` takes twelve facts and three rounds, to see whether all works;
its results are not kept.
"""

import gc
import json
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import learn
import report
import wordings
from lorad.config import Settings
from lorad.datasets import reader
from lorad.models import bases, hardware, quantized
from lorad.records import FactRecall, Score
from lorad.storage import files
from lorad.training import planner
from lorad.versions import papers

ARMS = ("none", "8bit", "4bit")
"""As `training.quantize` names them."""
DTYPE = "bfloat16" if hardware.machine("cpu").fast_bfloat16 else "float32"
"""In which a base is held and computes: bfloat16 where the processor multiplies in it, else many times slower."""
QUICK_FACTS, QUICK_ROUNDS = 12, 3
NOTES = (
    "recall_X: of the 106 facts word for word, by the judge; facts_X and facts_other_X: the fact in the answer, in the trained",
    "wording and in wordings that were held out, weights only; seconds_X: of the whole session; peak_gib_X: of its process up to the",
    "end of training; weights_gib_X: of the base alone, as it lies in memory; plain_peft_recall_X: by PeftModel.from_pretrained on the base quantised by",
    "transformers; ratio: to `none`, in `dtype`.",
)


quick = False


def arm(name: str) -> dict[str, Any]:
    form, settings = name, Settings()
    base = learn.base_folder()
    others = {row["response"]: row["instruction"] for row in wordings.rows(learn.PARAPHRASES["reworded"])}
    examples = [
        replace(example, held_out=(others[example.target],)) if example.target in others else example
        for example in reader.read(learn.DATASET, settings.inbox).examples[: QUICK_FACTS if quick else None]
    ]
    tokenizer = bases.load_tokenizer(base)
    rows = [learn.TASK.encode(tokenizer, example) for example in examples]
    training = settings.training.model_copy(update={"quantize": form, "dtype": DTYPE})
    plan = planner.plan(
        lengths=[len(row) for row in rows],
        shape=bases.shape(base),
        machine=hardware.machine("cpu"),
        planner=settings.planner,
        rehearsal=settings.rehearsal,
        training=training,
        form=bases.quantization(base, training),
    )
    if quick:
        stopping = replace(plan.stopping, max_rounds=QUICK_ROUNDS, min_rounds=0)
        plan = replace(plan, stopping=stopping)
    asked = {"settings": settings.answering.model_dump(), "encoder": None}
    with tempfile.TemporaryDirectory() as scratch:
        candidate, result = learn.session(Path(scratch), base, plan, examples, answering=asked)
        told = files.read_json(candidate / papers.METADATA)["training"]
        evaluation = result.evaluation
        facts = evaluation.facts["campus_cs"]
        plain = plain_peft(base, candidate, form, rows)
    return {
        "quantization": form,
        "recall": round(evaluation.scores["campus_cs"].recall, 4),
        **fact_shares(facts),
        "seconds": told["session_seconds"],
        "training_seconds": told["seconds"],
        "rounds": told["rounds"],
        "ended_by": told["ended_by"],
        "peak_gib": told["peak_gib"],
        "perplexity_rise": round(evaluation.perplexity / evaluation.perplexity_base - 1, 4),
        "perplexity_base": round(evaluation.perplexity_base, 3),
        "merge_difference": round(evaluation.merge_difference, 4),
        "promoted": result.verdict.promote,
        "failed": list(result.verdict.failed),
        "notes": list(evaluation.notes),
        **plain,
    }


def fact_shares(facts: FactRecall) -> dict[str, float | None]:
    def share(score: Score | None) -> float | None:
        return round(score.recall, 4) if score else None

    return {
        "facts": share(facts.trained),
        "facts_served": share(facts.trained_served),
        "facts_other": share(facts.other),
        "facts_other_served": share(facts.other_served),
    }


def plain_peft(base: Path, candidate: Path, form: str, rows: list[Any]) -> dict[str, Any]:
    """Load the candidate as anybody would, without lorad, and ask it all rows."""
    from peft import PeftModel  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    how = quantized.how_to_load(form, hardware.DTYPES[DTYPE], "cpu")
    began = time.perf_counter()
    pristine = AutoModelForCausalLM.from_pretrained(str(base), dtype=hardware.DTYPES[DTYPE], **how)
    loading = time.perf_counter() - began
    weights = sum(each.numel() * each.element_size() for each in pristine.parameters())
    model = PeftModel.from_pretrained(pristine, str(candidate)).eval()
    with torch.inference_mode():
        recall = learn.recall(model, rows)
    gc.collect()
    return {
        "plain_peft_recall": round(recall, 4),
        "load_seconds": round(loading, 2),
        "weights_gib": round(weights / 2**30, 3),
        "plain_peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        "peak_before_gib": round(before / 2**20, 3),
    }


def figures(arms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"dtype": DTYPE}
    found |= {f"{key}_{name}": value for name, told in arms.items() for key, value in told.items()}
    for name in ("8bit", "4bit"):
        for key in ("seconds", "training_seconds", "peak_gib", "weights_gib"):
            found[f"{key}_ratio_{name}"] = round(arms[name][key] / arms["none"][key], 3)
    return found


def plot(arms: dict[str, dict[str, Any]]) -> None:
    """Draw what is learned in each form, and what it costs."""
    plt = report.pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(9, 3))
    for axis, (label, keys) in zip(
        axes,
        (
            ("share right", ("recall", "facts_other")),
            ("seconds", ("seconds", "training_seconds")),
            ("GiB", ("peak_gib", "weights_gib")),
        ),
        strict=True,
    ):
        for number, key in enumerate(keys):
            axis.bar(
                [at + 0.4 * number - 0.2 for at in range(len(arms))],
                [told[key] for told in arms.values()],
                width=0.4,
                label=key,
            )
        axis.set(ylabel=label, xticks=range(len(arms)), xticklabels=list(arms))
        axis.legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(report.RESULTS / "quantized.png", dpi=120)


def hurry() -> None:
    globals()["quick"] = True


def main() -> None:
    hardware.quieten()
    arms = report.arms(__file__, [*ARMS], arm, hurry=hurry)
    if set(arms) != set(ARMS):
        print(json.dumps(arms, indent=2))
        return
    found = figures(arms)
    if not quick:
        plot(arms)
        report.save("quantized", found, [*(__doc__ or "").splitlines(), "", *NOTES])
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
