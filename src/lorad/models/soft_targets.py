"""A model's own distribution over its likeliest tokens, recorded and trained towards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lorad.models.packing import divide, pack
from lorad.models.scoring import answer_logits
from lorad.records import Encoded


@dataclass(frozen=True, slots=True)
class SoftTargets:
    """A row to say as another model says it: its likeliest tokens and their probabilities at every position."""

    row: Encoded
    likeliest: Tensor
    """[M, K] int64."""
    probabilities: Tensor
    """[M, K] float32; what is missing to 1 lies on all other tokens."""


@torch.inference_mode()
def record_soft_targets(
    model: Any, rows: Sequence[Encoded], likeliest: int = 64, most_tokens: int = 512
) -> list[SoftTargets]:
    """Return what a model would say at every position of these rows from ``start`` on, in their order."""
    targets: dict[int, SoftTargets] = {}
    for numbers in divide(rows, most_tokens):
        scores = answer_logits(model, pack([], [rows[number] for number in numbers])).float()
        top = scores.topk(min(likeliest, scores.shape[-1]))
        lengths = [len(rows[number].target) for number in numbers]
        probabilities = (top.values - scores.logsumexp(-1, keepdim=True)).exp()
        parts = (torch.split(part.cpu(), lengths) for part in (top.indices, probabilities))
        for number, *part in zip(numbers, *parts, strict=True):
            targets[number] = SoftTargets(rows[number], *part)
    return [targets[number] for number in range(len(rows))]


def distillation_loss_sum(logits: Tensor, targets: Sequence[SoftTargets]) -> Tensor:
    """Return the summed cross entropy in nats against rows' own distributions, in fp32.

    All tokens but the likeliest count as one: were their share left out, the model would learn to think them
    impossible, and be surprised by every text.
    """
    likeliest = torch.cat([target.likeliest for target in targets]).to(logits.device)
    probabilities = torch.cat([target.probabilities for target in targets]).to(logits.device)
    spoken = functional.log_softmax(logits.float(), -1).gather(1, likeliest)
    rest = torch.log1p(-spoken.logsumexp(-1).exp().clamp(max=1 - 1e-6))
    left = (1 - probabilities.sum(-1)).clamp(min=0.0)
    return -(probabilities * spoken).sum() - (left * rest).sum()
