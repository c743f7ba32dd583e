"""What a model says at the places where rows have something to predict, and how good that is.

What lives here: the outputs of a teacher-forced pass, loss and grades by cross entropy, and such a pass of a causal
model. What never does: optimizers, deciding what to train, which rows a task has (``tasks``).

The rows of a causal pack share their longest common prefix (the template's head, the system prompt), which is computed
once; the rest of the rows follow one another without padding, each seeing the prefix and itself (a four-dimensional
attention mask) at positions that restart behind the prefix. Logits are computed only where an answer token is predicted.
Same numbers as one padded row at a time; a test holds that.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import exp, log
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lorad.models import lower_layers, row_attention
from lorad.models.packing import Pack, divide, pack
from lorad.records import Encoded

TOGETHER = 1 << 20
"""Logits whose cross entropy is computed together: what fits into a processor's cache, and not a few."""
UNKNOWN = -1
"""The target of a row whose label this model has no output for: it cannot be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a model says of some rows: M predictions, each among C classes (tokens of a vocabulary, labels)."""

    logits: Tensor
    """[M, C], on the model's device, with its gradient where one is wanted."""
    targets: Tensor
    """[M] int64, on the CPU: the right class of each, or ``UNKNOWN``."""
    owners: Tensor
    """[M] int64, on the CPU: which row each prediction belongs to, in order."""
    rows: int
    guests: Tensor | None = None
    """[G, C]: the same at every position of the guests, in their order."""


class _CrossEntropy(torch.autograd.Function):
    """The summed cross entropy, some predictions after the other, so that no copy of all logits in float32 is ever made."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        total = torch.zeros((), device=logits.device)
        sums = []
        size = max(1, TOGETHER // logits.shape[-1])
        for part, wanted in zip(logits.split(size), targets.split(size), strict=True):
            given = part.float()
            sums.append(given.logsumexp(-1))
            total += (sums[-1] - given.gather(1, wanted[:, None])[:, 0]).sum()
        ctx.save_for_backward(logits, targets, *sums)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (above,) = gradients
        logits, targets, *sums = ctx.saved_tensors
        found = torch.empty_like(logits)
        size = len(sums[0])
        for number, at in enumerate(range(0, len(targets), size)):
            rows = slice(at, at + size)
            likely = (logits[rows].float() - sums[number][:, None]).exp_()
            likely[torch.arange(len(likely), device=likely.device), targets[rows]] -= 1
            found[rows] = likely.mul_(above)
        return found, None


def loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the summed cross entropy in nats over predictions [M], in fp32."""
    if not len(targets):
        return logits.float().sum()
    loss: Tensor = _CrossEntropy.apply(logits, targets.to(logits.device))
    return loss


def grade(outputs: Outputs) -> list[bool]:
    """Tell for every row whether each of its predictions is the right class.

    Of a causal model's answer, the end token included, this is the same as greedy decoding giving exactly that answer.
    """
    wrong = outputs.logits.detach().argmax(-1).cpu() != outputs.targets
    missed = torch.zeros(outputs.rows, dtype=torch.bool)
    missed[outputs.owners[wrong]] = True
    return [not bool(m) for m in missed]


def margins(outputs: Outputs) -> list[float]:
    """Return by how many logits every row is right: the right class above the likeliest other one, where that is least.

    Negative of a row that is wrong.
    """
    least = torch.full((outputs.rows,), torch.inf)
    logits, targets = outputs.logits.detach(), outputs.targets
    size = max(1, TOGETHER // logits.shape[-1])
    above = []
    for part, wanted in zip(logits.split(size), targets.to(logits.device).split(size), strict=True):
        others = part.float()
        own = others.gather(1, wanted[:, None])
        others = others.scatter(1, wanted[:, None], -torch.inf)
        above.append((own[:, 0] - others.amax(-1)).cpu())
    if above:
        least.scatter_reduce_(0, outputs.owners, torch.cat(above), "amin")
    return least.tolist()


def log_probabilities(outputs: Outputs) -> list[float]:
    """Return the log probability of every row's targets together, in nats."""
    logits, targets = outputs.logits.float(), outputs.targets
    surprise = functional.cross_entropy(
        logits, targets.to(logits.device), reduction="none", ignore_index=UNKNOWN
    ).cpu()
    return _by_row(outputs, -surprise.masked_fill(targets == UNKNOWN, torch.inf))


def confidences(outputs: Outputs) -> list[tuple[float, bool]]:
    """Return how sure the likeliest classes of every row together are, as a probability, and whether they are right."""
    surest = functional.log_softmax(outputs.logits.float(), -1).max(-1).values.cpu()
    sums = _by_row(outputs, surest)
    return [(exp(likely), right) for likely, right in zip(sums, grade(outputs), strict=True)]


SPREAD = 0.25
"""Of the logarithm of a head's temperature, before a row is asked. Of 800 ratings of a newspaper's sentences, with temperatures fitted
on 30 to 240 others, the calibration error was at most 0.007 above the least of 0.15 to 1 and none (bench/LOG.md, 2026-11-30)."""


def fit_temperature(
    surprise: Callable[[float], float],
    coldest: float = 0.05,
    hottest: float = 20.0,
    spread: float | None = None,
) -> float:
    """Return the temperature at which a surprise is least that has one minimum, by golden section over its logarithm.

    ``spread`` is the standard deviation of a normal prior on that logarithm, where the surprise is a sum in nats: a few dozen rows
    say little (the mode of the posterior is returned).
    """

    def cost(temperature: float) -> float:
        return surprise(temperature) + (log(temperature) ** 2 / (2 * spread**2) if spread else 0.0)

    low, high = log(coldest), log(hottest)
    golden = (5**0.5 - 1) / 2
    for _ in range(40):  # (hottest / coldest) ** (golden ** 40) is 1 to the eighth digit
        left, right = high - golden * (high - low), low + golden * (high - low)
        if cost(exp(left)) < cost(exp(right)):
            high = right
        else:
            low = left
    return exp((low + high) / 2)


def _by_row(outputs: Outputs, values: Tensor) -> list[float]:
    sums = torch.zeros(outputs.rows, dtype=torch.float64)
    added: list[float] = sums.index_add_(0, outputs.owners, values.double()).tolist()
    return added


def answer_logits(model: Any, packed: Pack) -> Tensor:
    """Return the logits [M, vocabulary] with which a causal model predicts the answer tokens of a pack."""
    device, dtype = model.device, model.dtype
    hidden = torch.zeros(packed.visible.shape, dtype=dtype).masked_fill(
        ~packed.visible, torch.finfo(dtype).min
    )
    rows = row_attention.rows_of(packed.lengths, packed.prefix, packed.rows - packed.guests, device)
    output = model(
        input_ids=packed.tokens.to(device),
        position_ids=packed.positions.to(device),
        attention_mask=row_attention.carry(hidden.to(device), rows),
        logits_to_keep=packed.predicting.to(device),
        use_cache=False,
    )
    logits: Tensor = output.logits[0]
    return logits


def causal_outputs(model: Any, rows: Sequence[Encoded], guests: Sequence[Encoded] = ()) -> Outputs:
    """Return what a causal model says of rows' answers, all in one pass, and of guests that see only themselves."""
    packed = pack(rows, guests)
    below = lower_layers.of(model)
    with below.laid(below.states(packed, rows, guests)) if below else nullcontext():
        logits = answer_logits(model, packed)
    cut = int((packed.owners < len(rows)).sum())  # answers come first in a pack
    return Outputs(
        logits=logits[:cut],
        targets=packed.targets[:cut],
        owners=packed.owners[:cut],
        rows=len(rows),
        guests=logits[cut:] if guests else None,
    )


@torch.inference_mode()
def score(model: Any, rows: Sequence[Encoded], most_tokens: int = 1024) -> Iterator[tuple[int, bool, float]]:
    """Test answers pack by pack; yield each one's number, whether it is recalled, and its log probability."""
    for numbers in divide(rows, most_tokens):
        outputs = causal_outputs(model, [rows[number] for number in numbers])
        yield from zip(numbers, grade(outputs), log_probabilities(outputs), strict=True)
