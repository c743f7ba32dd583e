"""Teacher-forced passes. Many rows in one sequence, scores for the answers alone.

What lives here: packing rows so that nothing is computed twice or for nothing, and grading them. What never
does: optimizers, deciding what to train.

The rows of a pack share their longest common prefix (the template's head, the system prompt), which is
computed once; the rest of the rows follow one another without padding, each seeing the prefix and itself
(a four-dimensional attention mask) at positions that restart behind the prefix. Logits are computed only
where an answer token is predicted. Same numbers as one padded row at a time; a test holds that.

A short answer is *recalled* when each of its tokens, the end token included, is the most likely one given
the question and the answer so far: the same as greedy decoding giving exactly that answer.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lorad.models.packing import Pack, divide, pack
from lorad.records import Encoded


def answer_logits(model: Any, packed: Pack) -> Tensor:
    """Return the logits [M, vocabulary] that predict the answer tokens of a pack."""
    device, dtype = model.device, model.dtype
    hidden = torch.zeros(packed.visible.shape, dtype=dtype).masked_fill(
        ~packed.visible, torch.finfo(dtype).min
    )
    output = model(
        input_ids=packed.tokens.to(device),
        position_ids=packed.positions.to(device),
        attention_mask=hidden.to(device),
        logits_to_keep=packed.predicting.to(device),
        use_cache=False,
    )
    logits: Tensor = output.logits[0]
    return logits


def loss_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the summed cross entropy in nats over answer tokens [M], in fp32."""
    return functional.cross_entropy(logits.float(), targets.to(logits.device), reduction="sum")


def grade(logits: Tensor, packed: Pack) -> list[bool]:
    """Tell for every row of a pack whether its answer is recalled."""
    wrong = logits.detach().argmax(-1).cpu() != packed.targets
    missed = torch.zeros(packed.rows, dtype=torch.bool)
    missed[packed.owners[wrong]] = True
    return [not bool(m) for m in missed]


@torch.inference_mode()
def recalled(model: Any, rows: Sequence[Encoded], most_tokens: int = 1024) -> list[bool]:
    """Test every row with one pass; the model's mode is left as it was."""
    results = [False] * len(rows)
    for numbers in divide(rows, most_tokens):
        packed = pack([rows[number] for number in numbers])
        for number, right in zip(numbers, grade(answer_logits(model, packed), packed), strict=True):
            results[number] = right
    return results


@torch.inference_mode()
def score(model: Any, rows: Sequence[Encoded], most_tokens: int = 1024) -> Iterator[tuple[int, bool, float]]:
    """Test rows pack by pack; yield each one's number, whether it is recalled, and its answer's log probability."""
    for numbers in divide(rows, most_tokens):
        packed = pack([rows[number] for number in numbers])
        logits = answer_logits(model, packed).float()
        surprise = functional.cross_entropy(logits, packed.targets.to(logits.device), reduction="none").cpu()
        likely = torch.zeros(packed.rows, dtype=torch.float64).index_add_(
            0, packed.owners, -surprise.double()
        )
        yield from zip(numbers, grade(logits, packed), likely.tolist(), strict=True)
