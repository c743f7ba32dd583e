"""The gradient of one optimizer step, in as many passes as memory wants.

What lives here: adding up gradients pack by pack and process by process, and smaller packs where memory runs out. What
never does: which rows (``rounds``), how processes talk (``process_group``), the optimizer (``trainer``).
"""

import math
from typing import Any

import torch
from accelerate import Accelerator

from lorad.errors import TrainingError
from lorad.models import hardware, soft_targets
from lorad.tasks import Task
from lorad.training.process_group import ALONE, ProcessGroup
from lorad.training.rounds import StepBatch


class Gradients:
    """Adds up the gradients of a model's trained weights, step by step."""

    def __init__(
        self,
        task: Task,
        model: Any,
        accelerator: Accelerator,
        *,
        general_weight: float,
        pack_tokens: int,
        group: ProcessGroup = ALONE,
    ) -> None:
        self._task = task
        self._model = model
        self._accelerator = accelerator
        self._general_weight = general_weight
        self._group = group
        self._trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.pack_tokens = pack_tokens
        """Tokens of a pass; halved where memory runs out, which changes no gradient."""

    def add_up(self, batch: StepBatch) -> tuple[float, dict[int, bool]]:
        """Add up one step's gradient; return the rows' mean loss, and which rows were right before it.

        Each process computes its share of the rows. Raise ``TrainingError`` when the loss is no number, memory does not hold a
        single row, or another process has died.
        """
        mine = batch.part(
            self._group.share(batch.rows), self._group.share([each.row for each in batch.general])
        )
        while True:
            try:
                own_loss, own_right = self._accumulate(mine, batch)
            except RuntimeError as error:
                if not hardware.is_short_of_memory(error):
                    raise
                self._check_divisible(mine, error)
            else:
                break
            # outside of `except`: the error holds on to what the failed pass had made
            self._model.zero_grad(set_to_none=True)
            self.pack_tokens //= 2
        loss, right = self._add_up(batch, own_loss, own_right)
        if not math.isfinite(loss):
            raise TrainingError(
                "the loss is not a number (NaN); lower planner.learning_rates, or retry with --settings learning_rate=1e-4",
                code="diverged",
            )
        return loss, right

    def _add_up(
        self, batch: StepBatch, loss: torch.Tensor, right: dict[int, bool]
    ) -> tuple[float, dict[int, bool]]:
        """Add up what all processes found: gradients, the loss, and what was right."""
        told = [float(right.get(number, False)) for number in batch.numbers]
        loss_sum, *found = self._group.add_up(self._trained, [float(loss), *told])
        return loss_sum, {number: is_right > 0 for number, is_right in zip(batch.numbers, found, strict=True)}

    def _accumulate(self, mine: StepBatch, step: StepBatch) -> tuple[torch.Tensor, dict[int, bool]]:
        """Add up what these rows are of the gradient of the step's mean loss and of general conversation; return what was right."""
        weight = sum(row.weight for row in step.rows)
        predicted = sum(each.row.weight for each in step.general)
        total = torch.zeros((), device=self._model.device)
        right: dict[int, bool] = {}
        for numbers, rows, general in mine.passes(self.pack_tokens):
            outputs = self._task.forward(self._model, rows, [each.row for each in general])
            rows_loss = self._task.loss(outputs) / weight
            loss = rows_loss
            if outputs.guests is not None:
                distilled = soft_targets.distillation_loss_sum(outputs.guests, general) / predicted
                loss = loss + self._general_weight * distilled
            self._accelerator.backward(loss)
            total += rows_loss.detach()
            right |= dict(zip(numbers, self._task.grade(outputs), strict=True))
        return total, right

    def _check_divisible(self, batch: StepBatch, error: RuntimeError) -> None:
        longest = max(map(len, batch.both))
        if self.pack_tokens <= longest:
            raise TrainingError(
                f"memory does not hold one row of {longest} tokens; free some of it, set training.gradient_checkpointing to "
                "true, or leave long rows out with a smaller max_length in planner.table",
                code="out_of_memory",
            ) from error
