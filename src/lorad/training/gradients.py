"""The gradient of one optimizer step, in as many passes as memory wants.

What lives here: adding up gradients pack by pack, and smaller packs where memory runs out. What never does: which
rows (``rounds``), the optimizer (``trainer``).
"""

from typing import Any

import torch
from accelerate import Accelerator

from lorad.errors import TrainingError
from lorad.models import hardware, soft_targets
from lorad.tasks import Task
from lorad.training.rounds import StepBatch


class Gradients:
    """Adds up the gradients of a model's trained weights, step by step."""

    def __init__(
        self, task: Task, model: Any, accelerator: Accelerator, *, general_weight: float, pack_tokens: int
    ) -> None:
        self._task = task
        self._model = model
        self._accelerator = accelerator
        self._general_weight = general_weight
        self.pack_tokens = pack_tokens
        """Tokens of a pass; halved where memory runs out, which changes no gradient."""

    def add_up(self, batch: StepBatch) -> tuple[float, dict[int, bool]]:
        """Add up one step's gradient; return the rows' mean loss, and which rows were right before it.

        Raise ``TrainingError`` when the loss is no number, or memory does not hold a single row.
        """
        while True:
            try:
                loss, right = self._accumulate(batch)
            except RuntimeError as error:
                if not hardware.is_short_of_memory(error):
                    raise
                self._check_divisible(batch, error)
            else:
                break
            # outside of `except`: the error holds on to what the failed pass had made
            self._model.zero_grad(set_to_none=True)
            self.pack_tokens //= 2
        if not torch.isfinite(loss):
            raise TrainingError(
                "the loss is not a number (NaN); lower planner.learning_rates, or retry with --settings learning_rate=1e-4",
                code="diverged",
            )
        return float(loss), right

    def _accumulate(self, batch: StepBatch) -> tuple[torch.Tensor, dict[int, bool]]:
        """Add up the gradient of the rows' mean loss and that of general conversation; return what was right."""
        weight = sum(row.weight for row in batch.rows)
        predicted = sum(each.row.weight for each in batch.general)
        total = torch.zeros((), device=self._model.device)
        right: dict[int, bool] = {}
        for numbers, rows, general in batch.passes(self.pack_tokens):
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
