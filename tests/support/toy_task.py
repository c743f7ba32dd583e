"""The smallest complete task: one label for a text, by a two-layer encoder. A new task looks like this."""

from dataclasses import dataclass

import torch

from lorad.errors import SampleError
from lorad.models import heads, scoring
from lorad.tasks import Predicting


@dataclass(frozen=True, slots=True)
class Text:
    """A text's tokens, and what it is labelled."""

    tokens: tuple[int, ...]
    label: str = ""

    def __len__(self):
        return len(self.tokens)

    @property
    def weight(self):
        return 1


class Toy(Predicting):
    """One label for each text."""

    name = "toy"
    formats = "classify"
    head = heads.SEQUENCE
    row = Text

    def encode(self, tokenizer, example):
        if not isinstance(example.target, str):
            raise SampleError(f"row {example.line}: a text has one label here", code="several_labels")
        return Text(self.question(tokenizer, example.input).tokens, example.target)

    def labels(self, rows):
        return sorted({row.label for row in rows})

    def forward(self, model, rows, guests=()):
        del guests
        longest = max(map(len, rows))
        tokens = [[*row.tokens] + [0] * (longest - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        output = model(
            input_ids=torch.tensor(tokens, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
        )
        known = model.config.label2id
        return scoring.Outputs(
            logits=output.logits,
            targets=torch.tensor([known.get(row.label, scoring.UNKNOWN) for row in rows]),
            owners=torch.arange(len(rows)),
            rows=len(rows),
        )

    def metrics(self, model, rows):
        likely = self.log_probabilities(self.forward(model, rows))
        return {"log_loss": -sum(likely) / len(likely)}

    def question(self, tokenizer, asked):
        if not isinstance(asked, str) or not asked.strip():
            raise SampleError("an input must be a text with words", code="no_text")
        return Text(tuple(tokenizer(asked)["input_ids"]))

    def predict(self, model, rows):
        chances = self.forward(model, rows).logits.float().softmax(-1).cpu()
        best = chances.max(-1)
        return [
            {"label": model.config.id2label[place], "confidence": round(sure, 4)}
            for sure, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
