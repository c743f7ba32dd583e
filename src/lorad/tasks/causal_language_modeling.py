"""Causal language modelling: a decoder from scratch says how a text goes on.

What lives here: sequences whose every token is predicted by those before it, and prompts that are continued as they stand.
What never does: training, chat (it knows no turns).
"""

from collections.abc import Sequence
from typing import Any

import torch

from lorad.errors import SampleError
from lorad.models import heads
from lorad.models.scoring import Outputs
from lorad.records import Encoded
from lorad.tasks.interface import Generating
from lorad.tasks.pretraining import Pretraining, cut, padded, seen


class CausalLanguageModeling(Pretraining, Generating):
    """Continues texts."""

    name = "causal_language_modeling"
    head = heads.WHOLE_CAUSAL
    row = Encoded

    def pack(self, tokenizer: Any, documents: Sequence[Sequence[int]], length: int) -> list[tuple[int, ...]]:
        """Return documents with the end token before each, in sequences."""
        end = tokenizer.eos_token_id
        pieces = cut([token for document in documents for token in (end, *document)], length)
        return [piece for piece in pieces if len(piece) > 1]

    def rows(self, tokenizer: Any, blocks: Sequence[Sequence[int]], share: float, seed: int) -> list[Encoded]:
        """Return sequences of which every token but the first is predicted: none is hidden."""
        del tokenizer, share, seed
        return [Encoded(tuple(block), 1) for block in blocks]

    def forward(self, model: Any, rows: Sequence[Encoded], guests: Sequence[Encoded] = ()) -> Outputs:
        """Return the logits of every token but the first of each row."""
        del guests
        tokens = [row.tokens for row in rows]
        inputs = padded(tokens, model.config.pad_token_id)
        mask = seen(tokens)
        logits = model(
            input_ids=inputs.to(model.device),
            attention_mask=None if mask is None else mask.to(model.device),
            logits_to_keep=torch.arange(inputs.shape[1] - 1, device=model.device),
            use_cache=False,
        ).logits
        targets, owners = inputs[:, 1:], torch.arange(len(rows))[:, None].expand(-1, inputs.shape[1] - 1)
        if mask is None:
            return Outputs(
                logits=logits.flatten(0, 1),
                targets=targets.flatten(),
                owners=owners.flatten(),
                rows=len(rows),
            )
        kept = mask[:, 1:].bool()
        return Outputs(
            logits=logits[kept.to(logits.device)], targets=targets[kept], owners=owners[kept], rows=len(rows)
        )

    # -- serving

    def prompt(self, tokenizer: Any, question: Any) -> list[int]:
        """Return the tokens of a text that is to be continued; raise ``SampleError`` for a conversation."""
        if isinstance(question, str):
            return [tokenizer.eos_token_id, *self.tokens(tokenizer, question)]
        if question and all(isinstance(token, int) for token in question):
            if max(question) >= len(tokenizer):
                raise SampleError(f"the vocabulary has {len(tokenizer)} tokens", code="no_such_token")
            return list(question)
        raise SampleError(
            "a model from scratch continues texts and knows no conversations; ask it with: POST /v1/completions",
            code="other_way",
        )

    def stop_tokens(self, tokenizer: Any) -> Sequence[int]:
        """Return the token that ends a document."""
        return (tokenizer.eos_token_id,)

    def text(self, tokenizer: Any, tokens: Sequence[int]) -> str:
        """Return the text of an answer's tokens."""
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True))
