"""Training all weights of a model on plain text: epochs over packed sequences, until the loss stands still.

What lives here: the loop, its schedule, and the best epoch's weights. What never does: which text (``corpus``), when to stop
(``early_stopping``), files.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR

from lorad.config import PretrainingSettings
from lorad.evaluation import language_modeling
from lorad.evaluation.language_modeling import TextScore
from lorad.records import Plan, Score
from lorad.tasks.pretraining import Pretraining
from lorad.training.checkpoint import Checkpoints
from lorad.training.corpus import Corpus
from lorad.training.early_stopping import EarlyStopping
from lorad.training.gradients import Gradients
from lorad.training.process_group import ALONE, ProcessGroup
from lorad.training.rounds import StepBatch
from lorad.training.run_state import RunState, Tally
from lorad.training.trainer import MOST_GRADIENT, Outcome
from lorad.training.watcher import REPORT_SECONDS, Report, peak_memory

LEAST_RATE = 0.1
"""Share of the learning rate at which the decay ends."""
DROPOUT_SEED = 1_000_003
"""Between the seeds of two processes."""
HELD_OUT_SEED = 0
"""Of the tokens that are hidden in held-out text: the same in every session, so that its numbers can be compared."""


def held_out_rows(
    task: Pretraining, tokenizer: Any, corpus: Corpus, settings: PretrainingSettings
) -> dict[str, list[Any]]:
    """Return the rows of each dataset that are only measured."""
    return {
        name: task.rows(tokenizer, each.held_out, settings.masked_share, HELD_OUT_SEED)
        for name, each in corpus.datasets.items()
    }


def measure(task: Pretraining, model: Any, rows: Sequence[Any], group: ProcessGroup) -> TextScore:
    """Measure a model on some rows, of which each process of a group takes its share."""
    own = language_modeling.measure(task, model, [rows[number] for number in group.share(rows)])
    if group.size == 1:
        return own
    seen = own.guessed
    loss_sum, right, total = group.total([own.loss * seen.total, float(seen.right), float(seen.total)])
    return TextScore(loss=loss_sum / max(1.0, total), guessed=Score(right=int(right), total=int(total)))


class _Epochs:
    """The steps of each epoch; an epoch follows from its number alone, so there is no state beside that."""

    def __init__(
        self, task: Pretraining, tokenizer: Any, corpus: Corpus, plan: Plan, settings: PretrainingSettings
    ) -> None:
        self._task, self._tokenizer, self._corpus = task, tokenizer, corpus
        self._plan, self._settings = plan, settings
        self.steps = math.ceil(corpus.size / plan.effective_batch)

    def steps_of(self, number: int) -> Iterator[StepBatch]:
        blocks, size = self._corpus.epoch(number), self._plan.effective_batch
        seed = self._plan.seed + 1000 * number
        for at in range(0, len(blocks), size):
            rows = self._task.rows(
                self._tokenizer, blocks[at : at + size], self._settings.masked_share, seed + at
            )
            yield StepBatch(list(range(len(rows))), rows, [])

    def state(self) -> Any:
        return None

    def restore(self, state: Any) -> None:
        del state


def train(
    task: Pretraining,
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    plan: Plan,
    settings: PretrainingSettings,
    *,
    report: Report,
    clock: Callable[[], float] = time.perf_counter,
    checkpoints: Checkpoints | None = None,
    group: ProcessGroup = ALONE,
) -> Outcome:
    """Train a model until early stopping, or the plan, ends it; it has the best epoch's weights then.

    With ``checkpoints`` it goes on behind the last epoch of theirs that is complete, to the same end. All processes of a
    ``group`` call this with the same arguments, and have the same weights afterwards.
    """
    model.requires_grad_(True)
    rule = plan.stopping
    stopping = EarlyStopping(rule.max_rounds, rule.patience, rule.min_delta)
    epochs = _Epochs(task, tokenizer, corpus, plan, settings)
    optimizer = torch.optim.AdamW(
        _groups(model, settings.weight_decay),
        lr=plan.learning_rate,
        betas=(0.9, 0.98),
        fused=model.device.type in {"cpu", "cuda"},
    )
    most_steps = epochs.steps * plan.stopping.max_rounds
    rate = LambdaLR(optimizer, schedule(plan.warmup_steps, most_steps))
    run = RunState(model, optimizer, rate, stopping, epochs, Tally())
    if checkpoints and (found := checkpoints.newest()):
        run.restore(found)
        report({"resumed_from": found.name, "round": stopping.rounds})
        for closed in run.tally.history:
            report({"closed": closed})
    watched = _Watched(task, run, held_out_rows(task, tokenizer, corpus, settings), report, clock, group)
    watched.begin(most_steps, plan.stopping.max_rounds)
    pack_tokens = _train_epochs(
        task, run, epochs, plan, watched, settings, checkpoints if group.is_first else None, group
    )
    returned_to = stopping.best_round if stopping.best_round < stopping.rounds else None
    if returned_to:
        run.return_to_best()
        report({"returned_to": returned_to})
    model.requires_grad_(False)
    model.train(mode=False)
    return Outcome(
        ended_by=stopping.ended_by or "max_rounds",
        right=[],
        history=run.tally.history,
        steps=run.tally.steps,
        tokens=run.tally.tokens,
        seconds=watched.elapsed,
        peak_bytes=peak_memory(model.device.type),
        pack_tokens=pack_tokens,
        returned_to=returned_to,
    )


def _train_epochs(
    task: Pretraining,
    run: RunState[EarlyStopping],
    epochs: _Epochs,
    plan: Plan,
    watched: "_Watched",
    settings: PretrainingSettings,
    checkpoints: Checkpoints | None,
    group: ProcessGroup,
) -> int:
    """Train epoch after epoch until one ends the run; return how many tokens a pass held at the end."""
    accelerator = Accelerator(cpu=run.model.device.type == "cpu")
    model, optimizer = accelerator.prepare(run.model, run.optimizer)
    if plan.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    gradients = Gradients(
        task, model, accelerator, general_weight=0.0, pack_tokens=plan.pack_tokens, group=group
    )
    stopping = run.rehearsal
    while not stopping.ended_by:
        number = stopping.rounds + 1
        # of dropout: an epoch follows from its number, and no two processes drop alike
        torch.manual_seed(plan.seed + number + DROPOUT_SEED * group.number)
        model.train()
        for batch in epochs.steps_of(number):
            loss, _ = gradients.add_up(batch)
            run.tally.add(loss, batch.tokens)
            accelerator.clip_grad_norm_(model.parameters(), MOST_GRADIENT)
            optimizer.step()
            run.schedule.step()
            optimizer.zero_grad()
            watched.end_step(number)
        losses = watched.measure(number)
        is_validated = settings.early_stopping_monitor == "validation"
        stopping.saw(mean(losses.values()) if is_validated else watched.trained_loss)
        if stopping.best_round == stopping.rounds:
            run.keep()
        watched.close(number, losses)
        if checkpoints:
            run.save(checkpoints)
    return gradients.pack_tokens


class _Watched:
    """Measures held-out text behind each epoch, and tells how the run goes."""

    def __init__(
        self,
        task: Pretraining,
        run: RunState[EarlyStopping],
        held_out: Mapping[str, Sequence[Any]],
        report: Report,
        clock: Callable[[], float],
        group: ProcessGroup,
    ) -> None:
        self._task, self._run, self._held_out, self._group = task, run, held_out, group
        self._report, self._clock = report, clock
        self._began = clock() - run.tally.seconds
        self._reported = -math.inf
        self._fixed: dict[str, Any] = {}
        self._scores: dict[str, TextScore] = {}

    def begin(self, most_steps: int, rounds: int) -> None:
        """Note what every report tells."""
        self._fixed = {"phase": "training", "steps": most_steps, "rounds": rounds}

    @property
    def elapsed(self) -> float:
        """Return the seconds of the run, those before a break included."""
        return self._clock() - self._began

    @property
    def trained_loss(self) -> float:
        """Return the mean loss of the epoch's steps."""
        return mean(self._run.tally.losses)

    def end_step(self, number: int) -> None:
        """Say where the run stands, about once a second."""
        now, tally = self._clock(), self._run.tally
        if now - self._reported < REPORT_SECONDS:
            return
        self._reported = now
        working = max(self.elapsed - tally.testing, 1e-9)
        self._report(
            {
                **self._fixed,
                "round": number,
                "step": tally.steps,
                "tokens": tally.tokens,
                "loss": round(mean(tally.losses[-10:]), 4),
                "learning_rate": float(self._run.schedule.get_last_lr()[0]),
                "tokens_per_second": round(tally.tokens / working, 1),
                "peak_gib": round(peak_memory(self._run.model.device.type) / 2**30, 2),
            }
        )

    def measure(self, number: int) -> dict[str, float]:
        """Return the loss on each dataset's held-out text."""
        began = self._clock()
        self._report({"phase": "testing", "round": number})
        self._run.model.eval()
        self._scores = {
            name: measure(self._task, self._run.model, rows, self._group)
            for name, rows in self._held_out.items()
        }
        self._run.tally.testing += self._clock() - began
        return {name: score.loss for name, score in self._scores.items()}

    def close(self, number: int, losses: Mapping[str, float]) -> None:
        """Note an epoch's numbers."""
        tally = self._run.tally
        guessed = [score.guessed for score in self._scores.values()]
        closed = {
            "round": number,
            "loss": round(self.trained_loss, 4),
            "tested": True,
            "seconds": round(self.elapsed, 2),
            "recall": round(guessed[-1].recall, 4),
            "old_recall": round(mean(each.recall for each in guessed[:-1]), 4) if guessed[1:] else None,
            "validation": {name: round(loss, 4) for name, loss in losses.items()},
        }
        tally.losses.clear()
        tally.history.append(closed)
        tally.seconds = self.elapsed
        told = {name: closed[name] for name in ("recall", "old_recall")}
        self._report({"closed": {k: v for k, v in closed.items() if k != "validation"}, **told})


def schedule(warmup_steps: int, most_steps: int) -> Callable[[int], float]:
    """Return the learning rate's factor by step: linear warm-up, then a cosine down to ``LEAST_RATE``."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, most_steps - warmup_steps))
        return LEAST_RATE + (1 - LEAST_RATE) * (1 + math.cos(math.pi * done)) / 2

    return factor


def mean(values: Any) -> float:
    """Return the mean of some numbers; 0 of none."""
    each = list(values)
    return sum(each) / len(each) if each else 0.0


def _groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Return the weights: only matrices decay, not norms and biases."""
    weights = list(model.parameters())
    matrices = [weight for weight in weights if weight.dim() > 1]
    others = [weight for weight in weights if weight.dim() <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
