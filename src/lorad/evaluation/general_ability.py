"""What a causal model can do beside what it learns: the measurements behind three of the judge's checks.

What lives here: perplexity on a fixed text, distance from the base on its own conversations, sampled answers that
went wrong. What never does: thresholds (``judge``), what a task grades (``metrics``).
"""

from collections.abc import Sequence
from importlib import resources
from math import exp
from typing import Any

import torch
from torch.nn import functional

from lorad.models import packing, scoring
from lorad.models.adapter_stack import AdapterStack
from lorad.models.generation import ENDLESS, greedy
from lorad.records import Encoded
from lorad.tasks import Generating

TEXT_BLOCK = 256


SAMPLED = 6
"""Questions that are asked for the degenerate answers."""


def _resource(name: str) -> str:
    return resources.files("lorad.evaluation").joinpath(name).read_text(encoding="utf-8").strip()


@torch.inference_mode()
def perplexity(model: Any, tokenizer: Any) -> float:
    """Return exp(mean negative log likelihood) a token over the fixed text, in blocks of 256 tokens."""
    total = count = 0.0
    for block in text_blocks(tokenizer):
        outputs = scoring.causal_outputs(model, [block])
        total += float(scoring.loss_sum(outputs.logits, outputs.targets))
        count += block.weight
    return exp(total / max(1.0, count))


@torch.inference_mode()
def divergence(one: Any, other: Any, tokenizer: Any) -> float:
    """Return the mean KL(one || other) in nats per token over the fixed text."""
    total = count = 0.0
    for block in text_blocks(tokenizer):
        ours, theirs = (_log_probabilities(model, [block]) for model in (one, other))
        total += float(functional.kl_div(theirs, ours, reduction="sum", log_target=True))
        count += block.weight
    return total / max(1.0, count)


def text_rows(tokenizer: Any, count: int, length: int = 48) -> list[Encoded]:
    """Return parts of the fixed text as rows, for probes where there are no examples."""
    tokens = tokenizer(_resource("general_text.txt"), add_special_tokens=False)["input_ids"]
    return [Encoded(tuple(tokens[i * length : (i + 1) * length]), length // 2) for i in range(count)]


def text_blocks(tokenizer: Any) -> list[Encoded]:
    """Return the fixed text as rows of 256 tokens of which all but the first are told."""
    tokens = tokenizer(_resource("general_text.txt"), add_special_tokens=False)["input_ids"]
    blocks = (tokens[at : at + TEXT_BLOCK + 1] for at in range(0, len(tokens) - 1, TEXT_BLOCK))
    return [Encoded(tuple(block), 1) for block in blocks if len(block) > 1]  # else nothing is told


def _log_probabilities(model: Any, rows: Sequence[Encoded]) -> torch.Tensor:
    return functional.log_softmax(scoring.causal_outputs(model, rows).logits.float(), -1)


@torch.inference_mode()
def distance_from_base(
    stack: AdapterStack, name: str, rows: Sequence[Encoded], most_tokens: int = 512
) -> float:
    """Return the mean KL(base || version) in nats per token over the base's own answers."""
    total = count = 0.0
    for numbers in packing.divide(rows, most_tokens):
        some = [rows[number] for number in numbers]
        with stack.use(name) as model:
            ours = _log_probabilities(model, some)
        with stack.use(None) as model:
            theirs = _log_probabilities(model, some)
        total += float(functional.kl_div(ours, theirs, reduction="sum", log_target=True))
        count += sum(row.weight for row in some)
    return total / count if count else 0.0


def degenerate(
    model: Any, tokenizer: Any, task: Generating, questions: Sequence[Any], own: Sequence[Sequence[int]]
) -> int:
    """Count greedy answers that are empty, endless or say the same again and again, unless the row's ``own`` does."""
    ends = task.stop_tokens(tokenizer)
    answers = greedy(model, [task.prompt(tokenizer, question) for question in questions], ends)
    return sum(
        not tokens or (_repeats(tokens) and not _repeats(right)) or len(tokens) >= ENDLESS > 2 * len(right)
        for tokens, answer in zip(answers, own, strict=True)
        for right in [[token for token in answer if token not in ends]]
    )


def _repeats(tokens: Sequence[int], span: int = 4) -> bool:
    """Tell whether fewer than a third of the runs of ``span`` tokens are different ones."""
    runs = [tuple(tokens[i : i + span]) for i in range(len(tokens) - span + 1)]
    return len(set(runs)) < len(runs) / 3
