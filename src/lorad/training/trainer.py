"""One training run. ``transformers.Trainer`` with our rounds, packs and grading.

What lives here: the loop that trains a fresh adapter until everything is recalled. What never does: files,
versions, choosing settings.
"""

import math
import os
import random
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from lorad.errors import TrainingError
from lorad.models import hardware, packing, scoring, soft_targets
from lorad.records import Encoded, Plan
from lorad.training.checkpoint import Checkpoint, Checkpoints
from lorad.training.rehearsal import Rehearsal, ReplayItem

Report = Callable[[dict[str, Any]], None]

REPORT_SECONDS = 1.0
CHECKPOINT_FORM = 3
"""Counted up when a checkpoint comes to hold something else: a session begins anew rather than go on from an older one."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a session trains on: rows with their bookkeeping, and general conversation beside them."""

    rows: Sequence[Encoded]
    items: Sequence[ReplayItem]
    general: Sequence[soft_targets.SoftTargets] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training run went."""

    ended_by: str
    right: list[bool]
    """The last test of every row."""
    history: list[dict[str, Any]]
    steps: int
    tokens: int
    seconds: float
    seconds_testing: float
    peak_bytes: int
    pack_tokens: int
    """What a pass held at the end: less than was planned where memory ran out."""
    returned_to: int | None = None
    """The round whose weights these are, where later ones tested worse and the run was given up."""


@dataclass(slots=True)
class _Tally:
    steps: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)
    testing: float = 0.0
    seconds: float = 0.0
    """Spent up to the last checkpoint."""
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class _Run:
    """Everything that decides what a run does next: what a checkpoint holds."""

    model: Any
    optimizer: torch.optim.Optimizer
    schedule: LambdaLR
    rehearsal: Rehearsal
    rounds: "_Rounds"
    tally: _Tally
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    """The trained weights after the round that tested best."""

    def keep(self) -> None:
        """Remember the weights as the best so far."""
        self.best = {name: weight.detach().clone() for name, weight in self._weights().items()}

    def return_to_best(self) -> None:
        """Put the best weights back."""
        self._put(self.best)
        self.rehearsal.return_to_best()

    def _put(self, found: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self._weights().items():
                weight.copy_(found[name])

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def save(self, checkpoints: Checkpoints) -> None:
        optimizer = self.optimizer.state_dict()
        tensors = {f"weight/{name}": weight.detach() for name, weight in self._weights().items()}
        tensors |= {f"best/{name}": weight for name, weight in self.best.items()}
        for number, state in optimizer["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in state.items()}
        state = {
            "optimizer": optimizer["param_groups"],
            "schedule": {
                name: value for name, value in self.schedule.state_dict().items() if name != "lr_lambdas"
            },
            "rehearsal": self.rehearsal.state(),
            "rounds": self.rounds.state(),
            "tally": {
                name: getattr(self.tally, name)
                for name in ("steps", "tokens", "testing", "seconds", "history")
            },
        }
        checkpoints.save(self.rehearsal.rounds, tensors, state)

    def restore(self, found: Checkpoint) -> None:
        moments: dict[int, dict[str, torch.Tensor]] = {}
        kinds: dict[str, dict[str, torch.Tensor]] = {"weight": {}, "best": {}}
        for key, value in found.tensors.items():
            kind, _, rest = key.partition("/")
            if kind == "optimizer":
                number, _, name = rest.partition("/")
                moments.setdefault(int(number), {})[name] = value
            else:
                kinds[kind][rest] = value
        self._put(kinds["weight"])
        self.best = kinds["best"]
        groups = [group | {"betas": tuple(group["betas"])} for group in found.state["optimizer"]]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.schedule.load_state_dict(
            found.state["schedule"] | {"lr_lambdas": [None] * len(groups)}  # functions are not kept
        )
        self.rehearsal.restore(found.state["rehearsal"])
        self.rounds.restore(found.state["rounds"])
        for name, value in found.state["tally"].items():
            setattr(self.tally, name, value)


def train(
    model: Any,
    material: Material,
    plan: Plan,
    *,
    report: Report,
    clock: Callable[[], float] = time.perf_counter,
    checkpoints: Checkpoints | None = None,
) -> Outcome:
    """Train a PEFT model's adapter in rounds until the plan's ``until`` is met.

    With ``checkpoints`` it goes on behind the last round of theirs that is complete, to the same end.
    """
    rehearsal = Rehearsal(material.items, plan.mix, plan.stopping, plan.seed, plan.effective_batch)
    tally = _Tally()
    rounds = _Rounds(material, rehearsal, plan)
    watcher = _Watcher(model, material, plan, rehearsal=rehearsal, tally=tally, report=report, clock=clock)
    optimizer = torch.optim.AdamW(
        _groups(model, plan),
        lr=plan.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        fused=model.device.type in {"cpu", "cuda"},
    )
    schedule_ = LambdaLR(optimizer, schedule(plan, rehearsal.rate))
    run = _Run(model, optimizer, schedule_, rehearsal, rounds, tally)
    watcher.at_best = run.keep
    watcher.at_end_of_round = lambda: run.save(checkpoints) if checkpoints else None
    if checkpoints and (found := checkpoints.newest()):
        run.restore(found)
        report({"resumed_from": found.name, "round": rehearsal.rounds})
        for closed in tally.history:
            report({"closed": closed})
    watcher.begin(already=tally.seconds)
    began = clock() - tally.seconds
    trainer = _Trainer(
        model=model,
        args=_arguments(plan, rounds.most_steps, model.device.type),
        train_dataset=rounds,
        data_collator=rounds.collate,
        optimizers=(optimizer, schedule_),
        callbacks=[watcher],
    )
    trainer.remove_callback(PrinterCallback)  # progress is told through `report` alone
    trainer.tally, trainer.saw = tally, rehearsal.saw
    trainer.general_weight, trainer.pack_tokens = plan.mix.general_weight, plan.pack_tokens
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' hints about settings that are ours to choose
        if not rehearsal.ended_by:  # a checkpoint may be of the last round
            trainer.train()
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
        seconds_testing=tally.testing,
        peak_bytes=peak_memory(model.device.type),
        pack_tokens=trainer.pack_tokens,
        returned_to=returned_to,
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


def peak_memory(device: str) -> int:
    """Return the most bytes that this process has used on the device that trains."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS and KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _arguments(plan: Plan, most_steps: int, device: str) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=os.sep,  # nothing is saved, but what is not there is made: a service's own folder is not its to change
        per_device_train_batch_size=plan.effective_batch,  # packs bound the memory of a pass, see Plan.pack_tokens
        max_steps=most_steps,
        max_grad_norm=1.0,
        activation_checkpointing=plan.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if plan.gradient_checkpointing else None,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        seed=plan.seed,
        use_cpu=device == "cpu",  # as the settings chose, whatever else the machine has
    )
    if arguments.n_gpu > 1:  # else it wraps the model for all of them
        arguments._n_gpu = 1  # noqa: SLF001 - there is no other way to say it
    return arguments


@dataclass(frozen=True, slots=True)
class _Batch:
    """The rows of one optimizer step with their numbers, and some general conversation beside them."""

    numbers: list[int]
    rows: list[Encoded]
    voices: list[soft_targets.SoftTargets]

    @property
    def both(self) -> list[Encoded]:
        """Return everything that goes through the model."""
        return [*self.rows, *(voice.row for voice in self.voices)]

    def packs(
        self, most_tokens: int
    ) -> Iterator[tuple[packing.Pack, list[int], list[soft_targets.SoftTargets]]]:
        """Yield packs of at most so many tokens, each with its rows' numbers and the conversation behind them."""
        both = self.both
        for group in packing.divide(both, most_tokens):
            own = [i for i in group if i < len(self.rows)]
            other = [i for i in group if i >= len(self.rows)]
            packed = packing.pack([both[i] for i in own], [both[i] for i in other])
            yield packed, [self.numbers[i] for i in own], [self.voices[i - len(self.rows)] for i in other]


class _Rounds(IterableDataset[int]):
    """One pass over this is one round: the numbers of the rows that the rehearsal chose."""

    def __init__(self, material: Material, rehearsal: Rehearsal, plan: Plan) -> None:
        self._material = material
        self._rehearsal = rehearsal
        self._plan = plan
        self._random = random.Random(plan.seed + 1)  # noqa: S311 - reproducible choice, not a secret
        self.most_steps = math.ceil(len(material.rows) / plan.effective_batch) * plan.stopping.max_rounds

    def state(self) -> Any:
        """Return where the choice of general conversation stands, as JSON data."""
        return self._random.getstate()

    def restore(self, state: Any) -> None:
        """Stand where ``state`` was taken."""
        version, numbers, gauss = state
        self._random.setstate((version, tuple(numbers), gauss))

    def __iter__(self) -> Iterator[int]:
        yield from self._rehearsal.choose()

    def collate(self, numbers: list[int]) -> dict[str, Any]:
        """Return the rows of one optimizer step, with some general conversation beside them."""
        rows = [self._material.rows[number] for number in numbers]
        return {"batch": _Batch(numbers, rows, self._general(len(numbers)))}

    def _general(self, rows: int) -> list[soft_targets.SoftTargets]:
        share = self._plan.mix.general
        wanted = max(1, round(share * rows)) if share else 0
        return self._random.sample(self._material.general, min(wanted, len(self._material.general)))


class _Trainer(Trainer):
    """Trainer whose step runs packs and notes which rows were right before it learned from them."""

    tally: _Tally
    saw: Callable[[dict[int, bool]], None]
    general_weight: float
    pack_tokens: int
    """Tokens of a pass; halved where memory runs out, which changes no gradient."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the rounds as they are: accelerate would look for tensors in our packs."""
        rounds: Any = self.train_dataset
        return DataLoader(rounds, batch_size=self.args.train_batch_size, collate_fn=self.data_collator)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Accumulate the gradient of one optimizer step, in smaller packs where memory does not hold them."""
        del num_items_in_batch
        model.train()
        batch: _Batch = inputs["batch"]
        while True:
            try:
                loss, right = self._accumulate(model, batch)
            except RuntimeError as error:
                if not hardware.is_short_of_memory(error):
                    raise
                self._check_divisible(batch, error)
            else:
                break
            # outside of `except`: the error holds on to what the failed pass had made
            model.zero_grad(set_to_none=True)
            self.pack_tokens //= 2
        if not torch.isfinite(loss):
            raise TrainingError(
                "the loss is not a number any more; lower planner.learning_rates, or retry with --settings learning_rate=1e-4",
                code="diverged",
            )
        self.saw(right)
        self.tally.losses.append(float(loss))
        self.tally.tokens += sum(map(len, batch.both))
        self.tally.steps += 1
        return loss

    def _accumulate(self, model: Any, batch: _Batch) -> tuple[torch.Tensor, dict[int, bool]]:
        """Add up the gradient of the answers' mean loss and that of general conversation; return what was right."""
        answers = sum(len(row.target) for row in batch.rows)
        general = sum(len(voice.row.target) for voice in batch.voices)
        total = torch.zeros((), device=model.device)
        right: dict[int, bool] = {}
        for packed, numbers, voices in batch.packs(self.pack_tokens):
            logits = scoring.answer_logits(model, packed)
            cut = int((packed.owners < len(numbers)).sum())  # answers come first in a pack
            answer_loss = scoring.loss_sum(logits[:cut], packed.targets[:cut]) / answers
            loss = answer_loss
            if voices:
                loss = (
                    loss
                    + self.general_weight * soft_targets.distillation_loss_sum(logits[cut:], voices) / general
                )
            self.accelerator.backward(loss)
            total += answer_loss.detach()
            graded = zip(numbers, scoring.grade(logits, packed), strict=False)  # the rest is conversation
            right |= dict(graded)
        return total, right

    def _check_divisible(self, batch: _Batch, error: RuntimeError) -> None:
        longest = max(map(len, batch.both))
        if self.pack_tokens <= longest:
            raise TrainingError(
                f"memory does not hold one row of {longest} tokens; free some of it, set training.gradient_checkpointing to "
                "true, or leave long rows out with a smaller max_length in planner.table",
                code="out_of_memory",
            ) from error


class _Watcher(TrainerCallback):
    """Report progress, test at the end of a round when it is worth it, and end the session."""

    def __init__(
        self,
        model: Any,
        material: Material,
        plan: Plan,
        *,
        rehearsal: Rehearsal,
        tally: _Tally,
        report: Report,
        clock: Callable[[], float],
    ) -> None:
        self._model = model
        self._material = material
        self._plan = plan
        self._rehearsal = rehearsal
        self._tally = tally
        self._report = report
        self._clock = clock
        self.at_best: Callable[[], object] = lambda: None
        self.at_end_of_round: Callable[[], object] = lambda: None
        self._began = 0.0
        self._reported = -math.inf
        self._new = [number for number, item in enumerate(material.items) if item.is_new]
        self._old = [number for number, item in enumerate(material.items) if not item.is_new]

    def begin(self, *, already: float) -> None:
        """Count seconds from now, and those spent before a break."""
        self._began = self._clock() - already

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Say where the run stands, about once a second."""
        del args, control
        now = self._clock()
        if now - self._reported < REPORT_SECONDS:
            return
        self._reported = now
        elapsed = now - self._began - self._tally.testing
        self._report(
            {
                "phase": "training",
                "round": self._rehearsal.rounds,
                "rounds": self._plan.stopping.max_rounds,
                "step": self._tally.steps,
                "steps": state.max_steps,
                "loss": round(sum(self._tally.losses[-10:]) / max(1, len(self._tally.losses[-10:])), 4),
                "learning_rate": kwargs["lr_scheduler"].get_last_lr()[0],
                "tokens_per_second": round(self._tally.tokens / max(elapsed, 1e-9), 1),
                "target": self._plan.stopping.recall,
                "peak_gib": round(peak_memory(self._model.device.type) / 2**30, 2),
                **self.recall(),
            }
        )

    def recall(self) -> dict[str, float | None]:
        """Return the share of new and of old rows last seen answered right."""
        old = round(self._rehearsal.recall(new=False), 4) if self._old else None
        return {"recall": round(self._rehearsal.recall(new=True), 4), "old_recall": old}

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close a round: test if the target is near, note the numbers, stop if that is it."""
        del args, state, kwargs
        near = self._rehearsal.is_near() or self._rehearsal.rounds >= self._plan.stopping.max_rounds
        ended = self._test() if near else self._rehearsal.not_tested()
        if ended and not near:
            ended = self._test()  # before giving up, look
        if self._rehearsal.best_round == self._rehearsal.rounds:
            self.at_best()
        loss = sum(self._tally.losses) / max(1, len(self._tally.losses))
        self._tally.losses.clear()
        elapsed = self._clock() - self._began
        closed = {
            "round": self._rehearsal.rounds,
            "loss": round(loss, 4),
            "tested": near,
            "seconds": round(elapsed, 2),
            **self.recall(),
        }
        self._tally.history.append(closed)
        # judging comes behind the last round, and nobody knows how long that takes
        left = None if ended else self._eta(elapsed)
        self._report({"closed": closed, **self.recall(), "eta_seconds": left})
        self._tally.seconds = self._clock() - self._began
        self.at_end_of_round()
        if ended:
            control.should_training_stop = True

    def _test(self) -> str | None:
        """Test the new rows, and if they are at the target all others too; return what ends the session."""
        began = self._clock()
        self._report({"phase": "testing"})
        self._model.eval()
        right = self._ask(self._new)
        self._rehearsal.saw(right)
        last = self._rehearsal.rounds >= self._plan.stopping.max_rounds
        if last or self._rehearsal.is_learned():
            right |= self._ask(self._old)
        self._tally.testing += self._clock() - began
        return self._rehearsal.tested(right)

    def _ask(self, numbers: Sequence[int]) -> dict[int, bool]:
        answers = scoring.recalled(self._model, [self._material.rows[number] for number in numbers])
        return dict(zip(numbers, answers, strict=True))

    def _eta(self, elapsed: float) -> float | None:
        """Extrapolate the last rounds' gain in recall to the target; ``None`` while nothing moves."""
        recent: list[float] = [line["recall"] for line in self._tally.history[-3:]]
        gain = (recent[-1] - recent[0]) / max(1, len(recent) - 1)
        if gain <= 0 or len(recent) < 2:  # noqa: PLR2004 - a slope needs two points
            return None
        missing = max(0.0, self._plan.stopping.recall - recent[-1])
        return round(missing / gain * elapsed / self._rehearsal.rounds, 1)


def repair_plan(plan: Plan) -> Plan:
    """Return the plan of a repair: half the rate, few rounds, everything rehearsed."""
    return replace(
        plan,
        learning_rate=plan.learning_rate / 2,
        warmup_steps=min(plan.warmup_steps, 5),
        stopping=replace(plan.stopping, max_rounds=max(4, plan.stopping.max_rounds // 4), min_rounds=0),
        mix=replace(plan.mix, recalled_share=max(0.5, plan.mix.recalled_share)),
    )
