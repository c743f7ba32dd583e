"""Span corruption: an encoder-decoder from scratch writes the spans that are hidden in a text (Raffel et al. 2020, T5).

What lives here: which spans are hidden, the pass that writes them, filling gaps of several words. What never does: training.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import torch
from transformers import GenerationConfig

from lorad.errors import SampleError
from lorad.models import heads
from lorad.models.scoring import Outputs
from lorad.models.scratch import SENTINELS
from lorad.records import SPANS
from lorad.tasks.interface import Predicting
from lorad.tasks.pretraining import Pretraining, cut, padded, seen

MASK = "[MASK]"
SPAN = 3
"""Tokens of a hidden span, on average."""
LONGEST_GAP = 8
"""Tokens that are written for a gap at most."""
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Corrupted:
    """A sequence with a sentinel for each hidden span, and the spans behind their sentinels."""

    tokens: tuple[int, ...]
    target: tuple[int, ...]
    """Empty where the spans are asked for."""

    def __len__(self) -> int:
        return len(self.tokens) + len(self.target)

    @property
    def weight(self) -> int:
        """Count the tokens that are to be written."""
        return len(self.target)


class SpanCorruption(Pretraining, Predicting):
    """Writes hidden spans."""

    name = SPANS
    head = heads.WHOLE_SEQ2SEQ
    row = Corrupted

    # -- sequences

    def pack(self, tokenizer: Any, documents: Sequence[Sequence[int]], length: int) -> list[tuple[int, ...]]:
        """Return documents with the end token behind each, in sequences."""
        end = tokenizer.eos_token_id
        pieces = cut([token for document in documents for token in (*document, end)], length)
        return [piece for piece in pieces if len(piece) > 1]

    def rows(
        self, tokenizer: Any, blocks: Sequence[Sequence[int]], share: float, seed: int
    ) -> list[Corrupted]:
        """Return sequences with spans of three tokens on average hidden, about this share of all tokens."""
        chance = random.Random(seed)  # noqa: S311 - reproducible choice, not a secret
        sentinels = _sentinels(tokenizer)
        return [_corrupted(block, share, sentinels, tokenizer.eos_token_id, chance) for block in blocks]

    def forward(self, model: Any, rows: Sequence[Corrupted], guests: Sequence[Corrupted] = ()) -> Outputs:
        """Return the logits of every token of the hidden spans, given those before it."""
        del guests
        tokens, device = [row.tokens for row in rows], model.device
        mask, labels = seen(tokens), padded([row.target for row in rows], _IGNORED)
        logits = model(
            input_ids=padded(tokens, model.config.pad_token_id).to(device),
            attention_mask=None if mask is None else mask.to(device),
            labels=labels.to(device),  # of which transformers makes what the decoder has seen
        ).logits
        kept = labels != _IGNORED
        return Outputs(
            logits=logits[kept.to(device)],
            targets=labels[kept],
            owners=torch.repeat_interleave(torch.tensor([row.weight for row in rows])),
            rows=len(rows),
        )

    # -- serving

    def question(self, tokenizer: Any, asked: Any) -> Corrupted:
        """Return a text with gaps, or ``{"text": …}``; raise ``SampleError``."""
        text = asked.get("text") if isinstance(asked, Mapping) else asked
        if not isinstance(text, str) or not 1 <= text.count(MASK) <= SENTINELS:
            told = f"a text with 1 to {SENTINELS} times {MASK} is needed"
            raise SampleError(told, code="no_mask", field="text")
        sentinels = _sentinels(tokenizer)
        *before, last = text.split(MASK)
        found: list[int] = []
        for sentinel, part in zip(sentinels, before, strict=False):
            found += [*self.tokens(tokenizer, part.rstrip()), sentinel]
        return Corrupted((*found, *self.tokens(tokenizer, last), tokenizer.eos_token_id), ())

    def predict(self, model: Any, rows: Sequence[Corrupted]) -> list[Any]:
        """Return for each row its tokens, what was written, and how likely each token of that was."""
        return [self._write(model, row) for row in rows]

    def _write(self, model: Any, row: Corrupted) -> dict[str, Any]:
        config = model.config
        made = model.generate(
            input_ids=torch.tensor([row.tokens], device=model.device),
            generation_config=GenerationConfig(  # type: ignore[no-untyped-call] # of transformers
                do_sample=False,
                max_new_tokens=(LONGEST_GAP + 1) * SENTINELS if len(row.tokens) > SENTINELS else 64,
                decoder_start_token_id=config.decoder_start_token_id,
                pad_token_id=config.pad_token_id,
                eos_token_id=config.eos_token_id,
                output_logits=True,
                return_dict_in_generate=True,
            ),
        )
        written = made.sequences[0, 1:].tolist()
        chances = [
            float(logits[0].float().log_softmax(-1)[token])
            for logits, token in zip(made.logits, written, strict=False)
        ]
        return {"tokens": row.tokens, "written": written, "chances": chances}

    def said(self, tokenizer: Any, answer: Any) -> Any:
        """Return the text with what was written in its gaps, and each of these with its probability."""
        sentinels = _sentinels(tokenizer)
        spans: dict[int, list[int]] = {}
        likely: dict[int, float] = {}
        at = None
        for token, chance in zip(answer["written"], answer["chances"], strict=False):
            ends = token == tokenizer.eos_token_id or token in sentinels
            if ends and at is not None:  # that it ends here is a part of what is said
                likely[at] += chance
            if token == tokenizer.eos_token_id:
                break
            if token in sentinels:
                at = token if token not in spans else None  # said again, it says nothing new
                if at is not None:
                    spans[at], likely[at] = [], 0.0
            elif at is not None and len(spans[at]) < LONGEST_GAP:
                spans[at].append(token)
                likely[at] += chance
        gaps = [token for token in answer["tokens"] if token in sentinels]
        filled = [each for token in answer["tokens"][:-1] for each in spans.get(token, [token])]
        text = tokenizer.decode([token for token in filled if token not in sentinels])
        words = [(tokenizer.decode(spans.get(gap, [])), likely.get(gap)) for gap in gaps]
        return {
            "text": text,
            "gaps": [
                [{"word": word, "probability": 0.0 if chance is None else round(exp(chance), 6)}]
                for word, chance in words
            ],
        }


def _sentinels(tokenizer: Any) -> list[int]:
    first = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    return list(range(first, first + SENTINELS))


def _corrupted(
    tokens: Sequence[int], share: float, sentinels: Sequence[int], end: int, chance: random.Random
) -> Corrupted:
    """Hide spans of one sequence, beginning with a part that is seen, as T5 does."""
    hidden = min(len(tokens) - 1, max(1, round(share * len(tokens))))
    spans = max(1, min(round(hidden / SPAN), len(sentinels), len(tokens) - hidden))
    kept: list[int] = []
    target: list[int] = []
    at = 0
    lengths = zip(_parts(len(tokens) - hidden, spans, chance), _parts(hidden, spans, chance), strict=True)
    for sentinel, (shown, gone) in zip(sentinels, lengths, strict=False):
        kept += [*tokens[at : at + shown], sentinel]
        target += [sentinel, *tokens[at + shown : at + shown + gone]]
        at += shown + gone
    return Corrupted((*kept, end), (*target, end))


def _parts(total: int, count: int, chance: random.Random) -> list[int]:
    """Divide a number into so many parts of at least 1, at random."""
    cuts = sorted(chance.sample(range(1, total), count - 1))
    return [after - before for before, after in zip([0, *cuts], [*cuts, total], strict=True)]
