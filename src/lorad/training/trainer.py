"""One training run: ``accelerate`` with our rounds and a task's rows, loss and grades.

What lives here: the loop that trains a fresh adapter until everything is recalled. What never does: files,
versions, choosing settings.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR

from lorad.models import lower_layers, quantized, scoring
from lorad.records import Encoded, Plan
from lorad.tasks import Task
from lorad.training.checkpoint import Checkpoints
from lorad.training.gradients import Gradients
from lorad.training.preconditioning import Preconditioner
from lorad.training.process_group import ALONE, ProcessGroup
from lorad.training.rehearsal import Rehearsal
from lorad.training.rounds import Material, Rounds
from lorad.training.run_state import RunState, Tally
from lorad.training.watcher import Report, Watcher, peak_memory

__all__ = ["CHECKPOINT_FORM", "Material", "Outcome", "repair_plan", "schedule", "train"]

CHECKPOINT_FORM = 7
"""Counted up when a checkpoint comes to hold something else: a session begins anew rather than go on from an older one."""
MOST_GRADIENT = 1.0
"""A step's gradient is scaled down to this norm: one odd batch must not throw the adapter far off."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training run went."""

    ended_by: str
    right: list[bool]
    """What was last seen of every row."""
    history: list[dict[str, Any]]
    steps: int
    tokens: int
    seconds: float
    peak_bytes: int
    pack_tokens: int
    """What a pass held at the end: less than was planned where memory ran out."""
    returned_to: int | None = None
    """The round whose weights these are, where later ones tested worse and the run was given up."""


def train(
    task: Task,
    model: Any,
    material: Material,
    plan: Plan,
    *,
    report: Report,
    clock: Callable[[], float] = time.perf_counter,
    checkpoints: Checkpoints | None = None,
    group: ProcessGroup = ALONE,
    known: Mapping[bytes, torch.Tensor] | None = None,
    roots: Mapping[str, torch.Tensor] | None = None,
) -> Outcome:
    """Train a PEFT model's adapter in rounds until the plan's stopping rule ends it.

    With ``checkpoints`` it goes on behind the last round of theirs that is complete, to the same end. All processes of a
    ``group`` call this with the same arguments, and have the same weights afterwards. ``known`` is what the layers that do not learn
    say of rows (``lower_layers``), for the tests between rounds. ``roots`` are those of what arrives with old rows, by module: what
    is learned keeps away from it (``preconditioning``).
    """
    new = [row for row, item in zip(material.rows, material.items, strict=True) if item.is_new]
    rehearsal = Rehearsal(
        material.items, plan.mix, plan.stopping, plan.seed, plan.effective_batch, task.chance(new)
    )
    tally = Tally()
    rounds = Rounds(material, rehearsal, plan)
    watcher = Watcher(
        task,
        model,
        material,
        plan,
        rehearsal=rehearsal,
        most_steps=rounds.most_steps,
        tally=tally,
        report=report,
        clock=clock,
        group=group,
    )
    run = _begin(model, plan, rehearsal, rounds, tally, roots)
    watcher.at_best = run.keep
    watcher.at_end_of_round = lambda: run.save(checkpoints) if checkpoints and group.is_first else None
    if checkpoints and (found := checkpoints.newest()):
        run.restore(found)
        report({"resumed_from": found.name, "round": rehearsal.rounds})
        for closed in tally.history:
            report({"closed": closed})
    watcher.begin(already=tally.seconds)
    began = clock() - tally.seconds
    pack_tokens = plan.pack_tokens
    if not rehearsal.ended_by:  # a checkpoint may be of the last round
        _keep_lower_layers(model, material, plan, report)
        if below := lower_layers.of(model):
            below.know(known, [row for row in material.rows if isinstance(row, Encoded)])
        pack_tokens = _train_rounds(task, run, rounds, watcher, plan, group)
    returned_to = rehearsal.best_round if rehearsal.is_past_its_best() else None
    if returned_to:
        run.return_to_best()
        report({"returned_to": returned_to, **watcher.recall()})
    return Outcome(
        ended_by=rehearsal.ended_by or "max_rounds",
        right=rehearsal.right,
        history=tally.history,
        steps=tally.steps,
        tokens=tally.tokens,
        seconds=clock() - began,
        peak_bytes=peak_memory(model.device.type),
        pack_tokens=pack_tokens,
        returned_to=returned_to,
    )


def _begin(
    model: Any,
    plan: Plan,
    rehearsal: Rehearsal,
    rounds: Rounds,
    tally: Tally,
    roots: Mapping[str, torch.Tensor] | None = None,
) -> RunState[Rehearsal]:
    groups = _groups(model, plan)
    preconditioner = Preconditioner(model, roots or {})
    for group in groups:
        group["params"] = [preconditioner.replaced(weight) for weight in group["params"]]
    optimizer = torch.optim.AdamW(
        groups,
        lr=plan.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        fused=model.device.type in {"cpu", "cuda"},
    )
    preconditioner.attach(optimizer)
    return RunState(
        model,
        optimizer,
        LambdaLR(optimizer, schedule(plan, rehearsal.rate)),
        rehearsal,
        rounds,
        tally,
        preconditioner=preconditioner,
    )


def _train_rounds(
    task: Task, run: RunState[Rehearsal], rounds: Rounds, watcher: Watcher, plan: Plan, group: ProcessGroup
) -> int:
    """Train round after round until one ends the run; return how many tokens a pass held at the end."""
    accelerator = Accelerator(
        cpu=run.model.device.type == "cpu"
    )  # as the settings chose, whatever else there is
    model, optimizer = accelerator.prepare(run.model, run.optimizer)
    if plan.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    gradients = Gradients(
        task,
        model,
        accelerator,
        general_weight=plan.mix.general_weight,
        pack_tokens=plan.pack_tokens,
        group=group,
    )
    is_empty = False
    while not is_empty:
        is_empty = True
        for batch in rounds:
            is_empty = False
            model.train()  # tests between rounds switch it to answering
            loss, right = gradients.add_up(batch)
            run.rehearsal.saw(right, batch.otherwise)  # before the schedule, which asks it
            run.tally.add(loss, batch.tokens)
            accelerator.clip_grad_norm_(model.parameters(), MOST_GRADIENT)
            optimizer.step()
            run.schedule.step()
            optimizer.zero_grad()
            watcher.end_step(float(run.schedule.get_last_lr()[0]))
        if watcher.end_round():
            break
    return gradients.pack_tokens


def _keep_lower_layers(model: Any, material: Material, plan: Plan, report: Report) -> None:
    """Let the layers that do not learn read once what comes again and again, with progress; a pause for answers may come between.

    That is what is to be learned, and what is most at risk, which every test asks. Of the other old rows a round trains few, ever
    others: to read all of them first would cost the more the more was learned before. Where nothing is new, these are what it is about.
    """
    if plan.gradient_checkpointing:  # where memory is short nothing is kept
        return
    if plan.quantization in quantized.READ_TOGETHER:
        return
    is_of_old = not any(item.is_new for item in material.items)
    both = zip(material.rows, material.items, strict=True)
    rows = [
        row
        for row, item in both
        if isinstance(row, Encoded) and (is_of_old or item.is_new or item.is_at_risk or not item.recalled)
    ]
    lower_layers.keep(
        model,
        plan.first_layer,
        rows,
        scoring.answer_logits,
        most_tokens=plan.pack_tokens,
        tell=lambda done: report({"phase": f"reading what will be trained: {done} of {len(rows)} rows"}),
    )


def _groups(model: Any, plan: Plan) -> list[dict[str, Any]]:
    """Return the trained weights with their rates: B learns ``loraplus_ratio`` times as fast as A.

    B begins at zero and moves the output, A only turns the input: one rate for both is too low for B
    (Hayou et al. 2024, LoRA+, section 4).
    """
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    of_b = [weight for name, weight in trained if "lora_B" in name]
    others = [weight for name, weight in trained if "lora_B" not in name]
    rate = plan.learning_rate
    return [{"params": others, "lr": rate}, {"params": of_b, "lr": rate * plan.loraplus_ratio}]


def schedule(plan: Plan, rate: Callable[[], float]) -> Callable[[int], float]:
    """Return the learning rate's factor by step: linear warm-up, then what the rehearsal thinks fit."""

    def factor(step: int) -> float:
        return (step + 1) / plan.warmup_steps if step < plan.warmup_steps else rate()

    return factor


def repair_plan(plan: Plan) -> Plan:
    """Return the plan of a repair: half the rate, few rounds, everything rehearsed."""
    return replace(
        plan,
        learning_rate=plan.learning_rate / 2,
        warmup_steps=min(plan.warmup_steps, 5),
        stopping=replace(plan.stopping, max_rounds=max(4, plan.stopping.max_rounds // 4), min_rounds=0),
        mix=replace(plan.mix, recalled_share=max(0.5, plan.mix.recalled_share)),
    )
