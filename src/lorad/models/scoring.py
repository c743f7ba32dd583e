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
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lorad.records import Encoded


@dataclass(frozen=True, slots=True)
class Pack:
    """Some rows as one sequence of S tokens that predicts M answer tokens."""

    tokens: Tensor
    """[1, S] int64."""
    positions: Tensor
    """[1, S] int64."""
    visible: Tensor
    """[1, 1, S, S] bool: whether a token (row) may look at another (column)."""
    predicting: Tensor
    """[M] int64: where in the sequence each answer token is predicted."""
    targets: Tensor
    """[M] int64: the answer tokens."""
    owners: Tensor
    """[M] int64: which row of the pack each answer token belongs to."""
    rows: int


def pack(rows: Sequence[Encoded], guests: Sequence[Encoded] = ()) -> Pack:
    """Lay rows into one sequence behind their common prefix, and behind them guests that see only themselves."""
    shared = _common_prefix(rows) if rows else 0
    tokens = list(rows[0].tokens[:shared]) if rows else []
    positions = list(range(shared))
    segments = [0] * shared
    predicting: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for number, row in enumerate((*rows, *guests)):
        begin = len(tokens)
        cut = shared if number < len(rows) else 0
        own = row.tokens[cut:-1]  # the last token is only ever predicted
        tokens += own
        positions += range(cut, cut + len(own))
        segments += [number + 1] * len(own)
        first = begin + row.start - cut - 1
        predicting += range(first, first + len(row.target))
        targets += row.target
        owners += [number] * len(row.target)
    segment = torch.tensor(segments)
    earlier = torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril()
    behind_prefix = (segment[None, :] == 0) & (segment[:, None] <= len(rows))
    visible = earlier & ((segment[None, :] == segment[:, None]) | behind_prefix)
    return Pack(
        torch.tensor([tokens]),
        torch.tensor([positions]),
        visible[None, None],
        torch.tensor(predicting),
        torch.tensor(targets),
        torch.tensor(owners),
        len(rows) + len(guests),
    )


def _common_prefix(rows: Sequence[Encoded]) -> int:
    """Count the tokens that all rows begin with; at least one token before the answer stays with its row."""
    return common_prefix([row.tokens[: row.start - 1] for row in rows])


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Count the tokens that all sequences begin with."""
    columns = zip(*sequences, strict=False)  # as far as the shortest goes
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def divide(rows: Sequence[Encoded], most_tokens: int) -> Iterator[list[int]]:
    """Split rows, longest together, into packs of at most ``most_tokens`` (or one row); yield their numbers."""
    group: list[int] = []
    used = 0
    for number in sorted(range(len(rows)), key=lambda number: len(rows[number])):
        if group and used + len(rows[number]) > most_tokens:
            yield group
            group, used = [], 0
        group.append(number)
        used += len(rows[number])
    if group:
        yield group


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
    voices: dict[int, SoftTargets] = {}
    for numbers in divide(rows, most_tokens):
        scores = answer_logits(model, pack([], [rows[number] for number in numbers])).float()
        top = scores.topk(min(likeliest, scores.shape[-1]))
        lengths = [len(rows[number].target) for number in numbers]
        probabilities = (top.values - scores.logsumexp(-1, keepdim=True)).exp()
        parts = (torch.split(part.cpu(), lengths) for part in (top.indices, probabilities))
        for number, *part in zip(numbers, *parts, strict=True):
            voices[number] = SoftTargets(rows[number], *part)
    return [voices[number] for number in range(len(rows))]


def distillation_loss_sum(logits: Tensor, voices: Sequence[SoftTargets]) -> Tensor:
    """Return the summed cross entropy in nats against the voices' own distributions, in fp32.

    All tokens but the likeliest count as one: were their share left out, the model would learn to think them
    impossible, and be surprised by every text.
    """
    likeliest = torch.cat([voice.likeliest for voice in voices]).to(logits.device)
    probabilities = torch.cat([voice.probabilities for voice in voices]).to(logits.device)
    spoken = functional.log_softmax(logits.float(), -1).gather(1, likeliest)
    rest = torch.log1p(-spoken.logsumexp(-1).exp().clamp(max=1 - 1e-6))
    left = (1 - probabilities.sum(-1)).clamp(min=0.0)
    return -(probabilities * spoken).sum() - (left * rest).sum()


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
