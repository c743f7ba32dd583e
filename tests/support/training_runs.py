"""A training run on a tiny model: its plan, its model and what it learns."""

from dataclasses import replace

import tiny
import torch

from lorad.config import Settings
from lorad.models import peft_io
from lorad.records import Plan, ReplayMix, SessionSpec, StoppingRule
from lorad.tasks import find
from lorad.training import trainer
from lorad.training.rehearsal import ReplayItem

PLAN = Plan(
    examples=6,
    rank=8,
    alpha=16,
    epochs=20,
    batch=2,
    accumulation=4,
    max_length=128,
    warmup_steps=2,
    learning_rate=1e-2,
    stopping=StoppingRule(recall=1.0, max_rounds=60, patience=60, min_delta=0.01),
    mix=ReplayMix(share=0.5, max_examples=100, recalled_share=0.5, general=0.1, general_weight=1.0),
    max_rank=64,
    seed=1,
    dtype="float32",
    gradient_checkpointing=False,
    pack_tokens=256,
)


#: Limits of a judge that refuses nothing that was learned at all.
LENIENT = {"min_recall": 0, "max_perplexity_rise": 1e9, "max_kl": 1e9, "max_degenerate_share": 1}


def specification(settings, base, plan, *, task, dataset, parent=None, track="things"):
    """Return what the daemon asks of a session that learns a dataset, on top of a parent's folder."""
    return SessionSpec(
        job=1,
        track=track,
        task=task,
        kind="learn",
        dataset=dataset,
        base=str(base),
        parent=str(parent) if parent else None,
        parent_version="v0.1" if parent else None,
        plan=plan,
        settings={
            "training": settings.training.model_dump(),
            "judge": settings.judge.model_dump(),
            "resolved": settings.model_dump(mode="json"),
        },
    )


def request(base, run, plan, *, judge=LENIENT, **training):
    """Write the request of a first session on eight facts of doors into its folder; return its training's settings."""
    settings = Settings.model_validate({"judge": judge, "training": {"threads": 1, **training}})
    spec = specification(settings, base, plan, task="chat", dataset="doors", track="chat")
    spec = replace(
        spec,
        settings=spec.settings | {"training": spec.settings["training"] | {"merge_adapters_on_save": False}},
    )
    run.begin(spec, tiny.facts(8, "doors"), [])
    return settings.training


def learner(seed=0):
    tokenizer = tiny.tokenizer()
    model = tiny.model(len(tokenizer))
    model.requires_grad_(False)
    torch.manual_seed(seed)
    return peft_io.add_lora(model, PLAN.rank, PLAN.alpha), tokenizer


def material(tokenizer, count=6, *, is_new=True):
    rows = [find("chat").encode(tokenizer, example) for example in tiny.facts(count)]
    return trainer.Material(
        rows=rows, items=[ReplayItem(dataset="facts", is_new=is_new, recalled=False)] * count
    )
