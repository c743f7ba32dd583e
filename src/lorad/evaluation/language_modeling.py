"""How well a model from scratch knows a text: the loss on its hidden tokens, and how many are guessed.

What never lives here: which tokens are hidden (``tasks.pretraining``), thresholds (``judge``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf
from typing import Any

import torch

from lorad.models import packing
from lorad.records import Score
from lorad.tasks import Task

PASS_TOKENS = 8192
"""Tokens that go through a model together."""
_MOST_NATS = 700.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScore:
    """What a model makes of some hidden tokens."""

    loss: float
    """Mean cross entropy in nats."""
    guessed: Score

    @property
    def perplexity(self) -> float:
        """Return exp(loss)."""
        return exp(self.loss) if self.loss < _MOST_NATS else inf


@torch.inference_mode()
def measure(task: Task, model: Any, rows: Sequence[Any], most_tokens: int = PASS_TOKENS) -> TextScore:
    """Measure a model on some rows; its mode is left as it was."""
    total, right, count = 0.0, 0, 0
    for numbers in packing.divide(rows, most_tokens):
        outputs = task.forward(model, [rows[number] for number in numbers])
        total += float(task.loss(outputs))
        right += int((outputs.logits.argmax(-1).cpu() == outputs.targets).sum())
        count += len(outputs.targets)
    return TextScore(loss=total / max(1, count), guessed=Score(right=right, total=count))
