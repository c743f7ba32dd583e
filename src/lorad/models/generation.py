"""Greedy and sampled answers of a causal model, several prompts together, and how sure it is of them.

What never lives here: prompts and texts (``tasks``), streaming to clients (``serving``).
"""

from collections.abc import Callable, Sequence
from itertools import takewhile
from math import exp
from typing import Any

import torch

from lorad.models import scoring
from lorad.records import Encoded

TOGETHER = 16
"""Questions that are answered in one batch."""
ENDLESS = 128
"""Tokens after which a greedy answer that has not ended counts as endless."""


def greedy(
    model: Any, prompts: Sequence[list[int]], ends: Sequence[int], length: int = ENDLESS
) -> list[list[int]]:
    """Answer prompts together, greedily; return each answer's tokens without the end token."""
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
