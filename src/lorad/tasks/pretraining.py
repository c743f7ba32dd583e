"""What the tasks of models from scratch share: documents in, packed sequences out, of which tokens are hidden.

What lives here: plain text as tokens, packing, and how a document is checked. What never does: which tokens are hidden and how
they are guessed (each task's own file), which documents are trained (``training.corpus``).

Documents follow one another in a sequence with a mark between them, and attention is not stopped there: RoBERTa's
FULL-SENTENCES (Liu et al. 2019, section 4.2). So no token is padding.
"""

import functools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lorad.errors import SampleError
from lorad.models.scoring import Outputs
from lorad.records import RETRIEVAL, Example
from lorad.tasks.interface import Task
from lorad.tasks.special_tokens import Markup

SHARE = 0.15
"""Share of the tokens that a row of its own hides, where no session says how many."""
COUNTED = 2_000_000
"""Characters whose tokens are counted for a plan."""
MOST = 0.5
"""A document counts as recalled when more of its hidden tokens are guessed."""


class Pretraining(Task):
    """A task whose examples are documents, and whose model has all its weights from this track."""

    formats = RETRIEVAL

    # -- documents

    def check(self, tokenizer: Any, example: Example) -> Example:
        """Return a document; raise ``SampleError`` for one without words.

        Its tokens are not looked at: the tokenizer may still be trained on it.
        """
        del tokenizer
        if not any(sign.isprintable() and not sign.isspace() for sign in str(example.target)):
            raise SampleError("a document needs words", code="no_text", field="text")
        return example

    def tokens(self, tokenizer: Any, text: str) -> list[int]:
        """Return a text's tokens; words that look like special tokens are text."""
        return _markup(tokenizer).encode_text(text)

    def lengths(self, tokenizer: Any, examples: Sequence[Example]) -> list[int]:
        """Return how many tokens each document has, with the mark behind it.

        Of much text they are counted in the beginning of each document, ``COUNTED`` characters in all, and the rest is taken to
        have as many: a gigabyte would hold the daemon up for a quarter of an hour.
        """
        texts = [str(example.target) for example in examples]
        share = min(1.0, COUNTED / max(1, sum(map(len, texts))))
        read = [text[: math.ceil(len(text) * share)] for text in texts]
        counts = [len(self.tokens(tokenizer, text)) for text in read]
        if share == 1.0:
            return [count + 1 for count in counts]
        rate = sum(counts) / sum(map(len, read))
        return [round(len(text) * rate) + 1 for text in texts]

    def encode(self, tokenizer: Any, example: Example) -> Any:
        """Return the beginning of a document as a row, with the same tokens hidden at every call."""
        self.check(tokenizer, example)
        blocks = self.pack(tokenizer, [self.tokens(tokenizer, example.target)], tokenizer.model_max_length)
        return self.rows(tokenizer, blocks[:1], SHARE, seed=int(example.id[:8], 16))[0]

    # -- sequences

    @abstractmethod
    def pack(self, tokenizer: Any, documents: Sequence[Sequence[int]], length: int) -> list[tuple[int, ...]]:
        """Return documents as sequences of ``length`` tokens, one behind the other; the last may be shorter."""

    @abstractmethod
    def rows(self, tokenizer: Any, blocks: Sequence[Sequence[int]], share: float, seed: int) -> list[Any]:
        """Return sequences as rows, with about this share of their tokens hidden; the same ones for the same ``seed``."""

    def grade(self, outputs: Outputs) -> list[bool]:
        """Tell for each row whether more than half of its hidden tokens are guessed."""
        right = (outputs.logits.detach().argmax(-1).cpu() == outputs.targets).float()
        sums = torch.zeros(outputs.rows).index_add_(0, outputs.owners, right)
        counts = torch.bincount(outputs.owners, minlength=outputs.rows)
        return [bool(each) for each in sums > MOST * counts]


def cut(stream: Sequence[int], length: int) -> list[tuple[int, ...]]:
    """Return a stream of tokens in pieces of so many, the last one shorter."""
    return [tuple(stream[at : at + length]) for at in range(0, len(stream), length)]


def padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """Return rows of tokens [B, S], padded on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])


def seen(rows: Sequence[Sequence[int]]) -> Tensor | None:
    """Return which tokens of padded rows are none of the padding, [B, S]; ``None`` where all are of one length."""
    longest = max(map(len, rows))
    if all(len(row) == longest for row in rows):
        return None
    return torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


@functools.lru_cache(maxsize=16)
def _markup(tokenizer: Any) -> Markup:
    return Markup(tokenizer)
