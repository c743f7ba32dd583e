"""Masked language modelling: an encoder from scratch guesses the words that are hidden in a text.

What lives here: which tokens are hidden (BERT's 80/10/10), the pass that guesses them, filling gaps and vectors of texts. What
never does: training, HTTP.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lorad.errors import SampleError
from lorad.models import heads, packing
from lorad.models.scoring import Outputs
from lorad.records import FILLING
from lorad.tasks.interface import PASS_TOKENS, Predicting
from lorad.tasks.pretraining import Pretraining, cut, padded, seen

MASK = "[MASK]"
TOP, MOST_TOP = 5, 100
"""Words that are offered for a gap, usually and at most."""
REPLACED, KEPT = 0.8, 0.1
"""Of the hidden tokens these shares become the mask, and stay as they are; the rest become any other (Devlin et al. 2019)."""
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Masked:
    """A sequence of tokens, and which of them are to be guessed."""

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    """Where in it something is hidden, in order; none where its vector is asked for."""
    targets: tuple[int, ...]
    """What is hidden there."""
    words: int = TOP
    """Words that are asked for."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def weight(self) -> int:
        """Count the hidden tokens."""
        return len(self.places)


class MaskedLanguageModeling(Pretraining, Predicting):
    """Guesses hidden tokens."""

    name = FILLING
    head = heads.WHOLE_MASKED
    row = Masked

    # -- sequences

    def pack(self, tokenizer: Any, documents: Sequence[Sequence[int]], length: int) -> list[tuple[int, ...]]:
        """Return ``[CLS]`` and documents with ``[SEP]`` behind each, in sequences."""
        begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
        stream = [token for document in documents for token in (*document, end)]
        return [(begin, *piece) for piece in cut(stream, length - 1) if set(piece) != {end}]

    def rows(self, tokenizer: Any, blocks: Sequence[Sequence[int]], share: float, seed: int) -> list[Masked]:
        """Return sequences with each token hidden with this chance, special ones never, and at least one in each."""
        chance = torch.Generator().manual_seed(seed)
        special = torch.tensor(sorted(tokenizer.all_special_ids))
        return [
            _masked(torch.tensor(block), share, special, tokenizer.mask_token_id, len(tokenizer), chance)
            for block in blocks
        ]

    def forward(self, model: Any, rows: Sequence[Masked], guests: Sequence[Masked] = ()) -> Outputs:
        """Return the logits at the hidden places of some rows."""
        del guests
        tokens, mask = self._batch(model, rows)
        labels = torch.full(tokens.shape, _IGNORED)
        for number, row in enumerate(rows):
            labels[number, list(row.places)] = torch.tensor(row.targets)
        device = model.device
        logits = model(input_ids=tokens.to(device), attention_mask=mask, labels=labels.to(device)).logits
        return Outputs(
            logits=logits,  # ``sparse_prediction`` of the configuration: those of labels alone, in order
            targets=labels[labels != _IGNORED],
            owners=torch.repeat_interleave(torch.tensor([row.weight for row in rows])),
            rows=len(rows),
        )

    def _batch(self, model: Any, rows: Sequence[Masked]) -> tuple[Tensor, Tensor | None]:
        tokens = [row.tokens for row in rows]
        mask = seen(tokens)
        return padded(tokens, model.config.pad_token_id), None if mask is None else mask.to(model.device)

    # -- serving

    def question(self, tokenizer: Any, asked: Any) -> Masked:
        """Return a text with gaps, or ``{"text": …, "top_k": …}``; or ``{"embed": text}``, whose vector is wanted.

        White space before ``[MASK]`` belongs to the word that is hidden, as the tokenizer has it. Raise ``SampleError``.
        """
        told: Mapping[str, Any] = asked if isinstance(asked, Mapping) else {"text": asked}
        if isinstance(text := told.get("embed"), str):
            most = tokenizer.model_max_length - 2
            tokens = self.tokens(tokenizer, text)[:most]
            return Masked((tokenizer.cls_token_id, *tokens, tokenizer.sep_token_id), (), ())
        text, top = told.get("text"), told.get("top_k", TOP)
        if not isinstance(text, str) or MASK not in text:
            raise SampleError(f"a text with at least one {MASK} is needed", code="no_mask", field="text")
        if not isinstance(top, int) or isinstance(top, bool) or not 1 <= top <= MOST_TOP:
            raise SampleError(f"top_k must be from 1 to {MOST_TOP}", code="bad_top_k", field="top_k")
        *before, last = text.split(MASK)
        parts = [self.tokens(tokenizer, part) for part in (*(each.rstrip() for each in before), last)]
        found = [tokenizer.cls_token_id]
        places = []
        for part in parts[:-1]:
            found += [*part, tokenizer.mask_token_id]
            places.append(len(found) - 1)
        found += [*parts[-1], tokenizer.sep_token_id]
        return Masked(tuple(found), tuple(places), (tokenizer.mask_token_id,) * len(places), top)

    def predict(self, model: Any, rows: Sequence[Masked]) -> list[Any]:
        """Return for each row its tokens and the likeliest at each gap with their chances, or its vector."""
        found: list[Any] = [None] * len(rows)
        for is_asked_words in (True, False):
            chosen = [number for number, row in enumerate(rows) if bool(row.places) == is_asked_words]
            for group in packing.divide([rows[number] for number in chosen], PASS_TOKENS):
                numbers = [chosen[at] for at in group]
                answer = self._guess if is_asked_words else self._vectors
                said = answer(model, [rows[number] for number in numbers])
                for number, each in zip(numbers, said, strict=True):
                    found[number] = each
        return found

    def _guess(self, model: Any, rows: Sequence[Masked]) -> list[dict[str, Any]]:
        chances = self.forward(model, rows).logits.float().softmax(-1).cpu()
        ends = list(accumulate(row.weight for row in rows))
        told = []
        for row, end in zip(rows, ends, strict=True):
            best = chances[end - row.weight : end].topk(min(row.words, chances.shape[-1]))
            gaps = [
                [(int(token), float(chance)) for token, chance in zip(*each, strict=True)]
                for each in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
            told.append({"tokens": row.tokens, "places": row.places, "gaps": gaps})
        return told

    def _vectors(self, model: Any, rows: Sequence[Masked]) -> list[list[float]]:
        """Return the mean of each row's last hidden states, of unit length."""
        tokens, mask = self._batch(model, rows)
        states = model.base_model(input_ids=tokens.to(model.device), attention_mask=mask).last_hidden_state
        kept = torch.ones(states.shape[:2], device=states.device) if mask is None else mask
        mean = (states.float() * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
        vectors: list[list[float]] = functional.normalize(mean, dim=1).cpu().tolist()
        return vectors

    def said(self, tokenizer: Any, answer: Any) -> Any:
        """Return guessed tokens as words, and the text with the likeliest in its gaps."""
        if not isinstance(answer, dict):
            return answer
        tokens = list(answer["tokens"])
        for place, gap in zip(answer["places"], answer["gaps"], strict=True):
            tokens[place] = gap[0][0]
        return {
            "text": tokenizer.decode(tokens[1:-1]),
            "gaps": [
                [
                    {"word": tokenizer.decode([token]), "probability": round(chance, 6)}
                    for token, chance in gap
                ]
                for gap in answer["gaps"]
            ],
        }


def _masked(
    tokens: Tensor, share: float, special: Tensor, mask: int, vocabulary: int, chance: torch.Generator
) -> Masked:
    """Hide tokens of one sequence [S]."""
    drawn = torch.rand(len(tokens), generator=chance)
    drawn[torch.isin(tokens, special)] = 2.0  # never
    places = torch.nonzero(drawn < share)[:, 0]
    if not len(places):
        places = drawn.argmin()[None]
    how = torch.rand(len(places), generator=chance)
    others = torch.randint(len(special), vocabulary, (len(places),), generator=chance)
    hidden = tokens.clone()
    hidden[places] = torch.where(
        how < REPLACED, mask, torch.where(how < REPLACED + KEPT, tokens[places], others)
    )
    return Masked(tuple(hidden.tolist()), tuple(places.tolist()), tuple(tokens[places].tolist()))
