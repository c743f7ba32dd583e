"""Measuring a candidate. Numbers only; ``judge`` decides.

What lives here: perplexity on a fixed text, distance from the base on its own conversations, sampled
answers that went wrong, how sure greedy answers are. What never does: thresholds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from itertools import takewhile
from math import exp
from typing import Any

import torch
from torch.nn import functional

from lorad.models import packing, scoring
from lorad.models.adapter_stack import AdapterStack
from lorad.records import Encoded
from lorad.tasks import Task

PROBES = "probes.json"
PROBE_TOKENS = 48
PROBE_TOLERANCE = {"float32": 0.05, "bfloat16": 2.0}
"""Logits, which reach 45 here. The same weights in float32 differ by some 1e-4 between machines; bfloat16 rounds."""
TEXT_BLOCK = 256
SAMPLED = 6
ENDLESS = 128
"""Tokens after which a greedy answer that has not ended counts as endless."""
TOGETHER = 16
"""Questions that are answered in one batch."""


def _resource(name: str) -> str:
    return resources.files("lorad.evaluation").joinpath(name).read_text(encoding="utf-8").strip()


def greedy(model: Any, tokenizer: Any, task: Task, questions: Sequence[Any], length: int) -> list[list[int]]:
    """Answer questions together, greedily; return each answer's tokens without the end token."""
    prompts = [task.prompt(tokenizer, question) for question in questions]
    ends = task.stop_tokens(tokenizer)
    answers = continue_each(model, prompts, ends, length, do_sample=False)
    return [list(takewhile(lambda token: token not in ends, answer)) for answer in answers]


@torch.inference_mode()
def continue_each(
    model: Any, prompts: Sequence[list[int]], ends: Sequence[int], length: int, **how: Any
) -> list[list[int]]:
    """Return what the model adds to each prompt, the first end token included; ``how`` goes to ``generate``."""
    longest = max(map(len, prompts), default=0)
    padded = [[ends[0]] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    output = model.generate(
        input_ids=torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        max_new_tokens=length,
        eos_token_id=list(ends),
        pad_token_id=ends[0],
        **how,
    )
    return [_up_to_end(row, ends) for row in output[:, longest:].tolist()]


def _up_to_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    stop = next((number for number, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: stop + 1]


def confidences(
    model: Any, rows: Sequence[Encoded], ends: Sequence[int], tell: Callable[[int], None] = lambda _: None
) -> list[tuple[float, bool]]:
    """Answer the rows' questions greedily; return how sure each answer is, and whether it is the row's own.

    How sure is the probability of the whole answer: the *product* over its tokens, the end token included. The
    geometric mean, the field's other measure, compares answers of different lengths (Malinin and Gales 2021);
    but right is here what is right to the last token, and only the product is a probability of that (as in
    Jiang et al. 2021). Twenty tokens of 0.9 each are right one time in eight, not nine in ten.

    A row that is recalled is its own greedy answer, so one teacher-forced pass is enough; only the others are
    generated. An answer that does not end within ``ENDLESS`` tokens is weighed as far as it goes. ``tell`` is
    told how many more rows are done.
    """
    found = [(0.0, False)] * len(rows)
    others = []
    for number, is_recalled, likely in scoring.score(model, rows):
        if is_recalled:
            found[number] = exp(likely), True
            tell(1)
        else:
            others.append(number)
    for begin in range(0, len(others), TOGETHER):  # still in order of length: little padding
        numbers = others[begin : begin + TOGETHER]
        prompts = [list(rows[number].tokens[: rows[number].start]) for number in numbers]
        said = continue_each(model, prompts, ends, ENDLESS, do_sample=False)
        answers = [Encoded((*prompt, *more), len(prompt)) for prompt, more in zip(prompts, said, strict=True)]
        for at, _, likely in scoring.score(model, answers):
            found[numbers[at]] = exp(likely), False
        tell(len(numbers))
    return found


@torch.inference_mode()
def perplexity(model: Any, tokenizer: Any) -> float:
    """Return exp(mean negative log likelihood) a token over the fixed text, in blocks of 256 tokens."""
    total = count = 0.0
    for block in _blocks(tokenizer, model.device):
        logits = model(input_ids=block[:, :-1], use_cache=False).logits[0].float()
        total += float(functional.cross_entropy(logits, block[0, 1:], reduction="sum"))
        count += block.shape[1] - 1
    return exp(total / max(1.0, count))


@torch.inference_mode()
def divergence(one: Any, other: Any, tokenizer: Any) -> float:
    """Return the mean KL(one || other) in nats per token over the fixed text."""
    total = count = 0.0
    for block in _blocks(tokenizer, one.device):
        ours, theirs = (
            functional.log_softmax(model(input_ids=block, use_cache=False).logits[0].float(), -1)
            for model in (one, other)
        )
        total += float(functional.kl_div(theirs, ours, reduction="sum", log_target=True))
        count += block.shape[1]
    return total / max(1.0, count)


def text_rows(tokenizer: Any, count: int, length: int = 48) -> list[Encoded]:
    """Return pieces of the fixed text as rows, for probes where there are no examples."""
    tokens = tokenizer(_resource("general_text.txt"), add_special_tokens=False)["input_ids"]
    return [Encoded(tuple(tokens[i * length : (i + 1) * length]), length // 2) for i in range(count)]


def _blocks(tokenizer: Any, device: Any) -> Iterator[torch.Tensor]:
    tokens = tokenizer(_resource("general_text.txt"), add_special_tokens=False)["input_ids"]
    for begin in range(0, len(tokens) - 1, TEXT_BLOCK):
        block = tokens[begin : begin + TEXT_BLOCK + 1]
        if len(block) > 1:  # else nothing is predicted
            yield torch.tensor([block], device=device)


@torch.inference_mode()
def probe(model: Any, rows: Sequence[Encoded], likeliest: int = 5) -> dict[str, Any]:
    """Return known inputs and what this model gives for them, to be asked again whenever it is loaded.

    Of the rows the shortest are asked, as many as ``PROBE_TOKENS`` allow and at least one: all in one pass, since
    at every load somebody waits for it.
    """
    asked = [rows[number] for number in next(packing.divide(rows, PROBE_TOKENS), [])]
    probes = [
        {
            "tokens": list(row.tokens),
            "start": row.start,
            "top": top.indices.tolist(),
            "logits": top.values.tolist(),
        }
        for row, logits in zip(asked, _answers(model, asked), strict=True)
        for top in [logits.topk(likeliest)]
    ]
    return {"dtype": str(model.dtype).removeprefix("torch."), "probes": probes}


def _answers(model: Any, rows: Sequence[Encoded]) -> Sequence[torch.Tensor]:
    """Return each row's logits [answer tokens, vocabulary], in fp32 on the CPU."""
    if not rows:
        return []
    logits = scoring.answer_logits(model, packing.pack(rows)).float().cpu()
    return torch.split(logits, [len(row.target) for row in rows])


@torch.inference_mode()
def probe_again(model: Any, stored: Mapping[str, Any]) -> tuple[float, float]:
    """Return the largest difference of a logit from what ``probe`` stored, and how large it may be.

    Raise ``KeyError``, ``TypeError``, ``ValueError``, ``IndexError`` or ``RuntimeError`` when it is no such record.
    """
    coarse = "bfloat16" in {stored["dtype"], str(model.dtype).removeprefix("torch.")}
    rows = [Encoded(tuple(entry["tokens"]), int(entry["start"])) for entry in stored["probes"]]
    worst = 0.0
    for entry, logits in zip(stored["probes"], _answers(model, rows), strict=True):
        then = torch.tensor(entry["logits"])
        worst = max(worst, float((logits.gather(1, torch.tensor(entry["top"])) - then).abs().max()))
    return worst, PROBE_TOLERANCE["bfloat16" if coarse else "float32"]


@torch.inference_mode()
def distance_from_base(
    deck: AdapterStack, name: str, rows: Sequence[Encoded], most_tokens: int = 512
) -> float:
    """Return the mean KL(base || version) in nats per token over the base's own answers."""
    total = count = 0.0
    for numbers in packing.divide(rows, most_tokens):
        packed = packing.pack([rows[number] for number in numbers])
        with deck.use(name) as model:
            ours = functional.log_softmax(scoring.answer_logits(model, packed).float(), -1)
        with deck.use(None) as model:
            theirs = functional.log_softmax(scoring.answer_logits(model, packed).float(), -1)
        total += float(functional.kl_div(ours, theirs, reduction="sum", log_target=True))
        count += len(packed.targets)
    return total / count if count else 0.0


def degenerate(
    model: Any, tokenizer: Any, task: Task, questions: Sequence[Any], own: Sequence[Sequence[int]]
) -> int:
    """Count greedy answers that are empty, endless or say the same again and again, unless the row's ``own`` does."""
    ends = task.stop_tokens(tokenizer)
    answers = greedy(model, tokenizer, task, questions, ENDLESS)
    return sum(
        not tokens or (_repeats(tokens) and not _repeats(right)) or len(tokens) >= ENDLESS > 2 * len(right)
        for tokens, answer in zip(answers, own, strict=True)
        for right in [[token for token in answer if token not in ends]]
    )


def _repeats(tokens: Sequence[int], span: int = 4) -> bool:
    """Tell whether fewer than a third of the runs of ``span`` tokens are different ones."""
    runs = [tuple(tokens[i : i + span]) for i in range(len(tokens) - span + 1)]
    return len(set(runs)) < len(runs) / 3
