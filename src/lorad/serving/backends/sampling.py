"""Choosing the next token.

What lives here: one row of logits to one token, as a request's ``Sampling`` has it, and how likely it was. What never does: models, answers, what
a schema allows (``serving.guiding``).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lorad.serving.guiding import GuidedSampling
from lorad.serving.requests import Sampling, TokenLogprobs

UNLIKELIEST = -9999.0
"""What OpenAI tells of a token that cannot be: JSON has no word for minus infinity."""
GREEDY = 1e-5
"""A temperature below this only ever takes the likeliest token, and the smallest cannot be divided by."""
FEW = 256
"""Tokens that are looked at first: most often all that ``top_p`` leaves is among them, and sorting a vocabulary is slow."""


class Chooser:
    """Chooses the tokens of one answer, in order."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._numbers = generator(sampling)
        self._guide = sampling.grammar.start() if isinstance(sampling, GuidedSampling) else None

    @property
    def takes_likeliest(self) -> bool:
        """Tell whether the likeliest token is always the next."""
        return self._guide is None and is_greedy(self._sampling)

    def choose(self, logits: Tensor) -> int:
        """Return the next token for its logits, [V]; raise ``ProtocolError`` where a schema cannot be followed on."""
        if self._guide is None:
            return choose(logits, self._sampling, self._numbers)
        token = choose(self._guide.allow(logits), self._sampling, self._numbers)
        self._guide.take(token)
        return token


def logprobs(logits: Tensor, token: int, sampling: Sampling) -> Sequence[TokenLogprobs]:
    """Return how likely a token was by a model's own logits [V], as far as the request asks: once, or not at all."""
    if sampling.logprobs is None:
        return ()
    likely = logits.float().log_softmax(-1)
    values, tokens = likely.topk(min(sampling.logprobs, likely.numel()))
    top = zip(tokens.tolist(), map(_told, values.tolist()), strict=True)
    return (TokenLogprobs(token, _told(float(likely[token])), tuple(top)),)


def _told(value: float) -> float:
    return max(UNLIKELIEST, value)  # in this order what is no number is taken for unlikely too


def is_greedy(sampling: Sampling) -> bool:
    """Tell whether the likeliest token is always the next."""
    return sampling.temperature < GREEDY


def generator(sampling: Sampling) -> torch.Generator:
    """Return a source of random numbers of a request's own: nothing else that runs can change what it draws."""
    made = torch.Generator()
    if sampling.seed is None:
        made.seed()
    else:
        made.manual_seed(sampling.seed)
    return made


def choose(logits: Tensor, sampling: Sampling, numbers: torch.Generator) -> int:
    """Draw a token from logits [V].

    As transformers has it: divided by the temperature, then the ``top_k`` likeliest, of these the fewest that together
    have ``top_p``, of these the ones at least ``min_p`` times as likely as the likeliest. One is always left.
    """
    if is_greedy(sampling):
        return int(logits.argmax())
    scores = logits.float().cpu() / sampling.temperature
    kept = scores.numel()
    if 0 < sampling.top_k < kept:
        scores, tokens = scores.topk(sampling.top_k)
        likely = scores.softmax(0)
    else:
        likely, tokens = scores.softmax(0), torch.arange(kept)
    if sampling.top_p < 1:
        likely, tokens = _likeliest(likely, tokens, sampling.top_p)
    likely = likely * (likely >= sampling.min_p * likely.max())
    return int(tokens[torch.multinomial(likely, 1, generator=numbers)])


def _likeliest(likely: Tensor, tokens: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return the fewest tokens that together have this share of the probability."""
    found, places = likely.topk(min(FEW, likely.numel()))
    if found.sum() < share:
        found, places = likely.sort(descending=True)
    kept = found.cumsum(0) - found < share
    kept[0] = True
    return found[kept], tokens[places[kept]]
