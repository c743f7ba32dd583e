"""The token classification task: text in, labelled spans out (named entities, say).

What lives here: aligning spans of characters with tokens, BIO tags and back, what a dataset's silence about a label
means, and entity scores. What never does: formats of files (``datasets``), heads (``models.heads``).

Spans are ``[start, end, label]`` in characters, the end exclusive. Each token that holds text gets one tag of the BIO
scheme: ``O``, or ``B-`` (an entity's first token) or ``I-`` (its others) with the label. Tags are of tokens, because a merged
model is read token by token by ``pipeline("ner")``. But a span neither begins nor ends inside a word: a word's tag is that of
its first token when a text is asked (``_words``).

Drops bring labels one after another, and none annotates those of the others. So where a dataset annotates no ``LOC``,
its ``O`` means "no person and no firm", and may well be a place. In its rows, probabilities of labels that it does not
annotate are added to that of ``O`` (``_fold``): they are neither taught nor tested as "not a place". What it does annotate
still competes with all labels: a person is no place.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor

from lorad.errors import ConfigError, SampleError
from lorad.models import heads, packing, scoring
from lorad.models.scoring import Outputs
from lorad.records import Example
from lorad.tasks.interface import PASS_TOKENS, Predicting

OUTSIDE = "O"
FOLDED = -8192.0
"""The logit of a label whose probability was added to ``O``'s: far below any other, and a number, to be compared."""
PADDING = 0
"""A token that no other looks at."""
_SHOWN = 40

Span = tuple[int, int, str]
"""First, behind the last, label: of tags or of characters."""
Held = tuple[int, tuple[int, int]]
"""A token that holds text: its place among all tokens, and its start and end in characters."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """A text's tokens, which of them are tagged, and how."""

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    """Where the tagged tokens stand among all."""
    tags: tuple[str, ...] = ()
    """Of each of those; none of a question's."""
    annotated: tuple[str, ...] | None = None
    """The labels that the row's dataset annotates; ``None``: all that there are."""
    bounds: tuple[tuple[int, int], ...] = ()
    """Start and end in characters of each word that gets a tag; of a question alone, as its text: papers hold no words."""
    text: str = ""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def weight(self) -> int:
        """Count the tagged tokens."""
        return len(self.places)


class TokenClassification(Predicting):
    """Labelled spans of a text, by an encoder or by a causal model as it is.

    A row is right when all its tags are.
    """

    name = "token_classification"
    formats = "tagging"
    head = heads.TOKEN
    row = Tagged
    reads_both_ways: ClassVar[bool] = False
    """Whether attention is given a mask that hides nothing but padding."""

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Require a tokenizer that tells where its tokens stand."""
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(
                "the base model's tokenizer does not tell which characters a token stands for; use a base with a "
                "tokenizer.json for tagging",
                code="no_offsets",
            )

    # -- rows

    def encode(self, tokenizer: Any, example: Example) -> Tagged:
        """Return an example's tokens with their tags.

        Raise ``SampleError`` where a span begins or ends inside a token: it could not be given back as it was taught.
        """
        try:
            tokens, held = self._read(tokenizer, example.input)
            words = _words(example.input, held)
            tags = _tags(example.target, self._asked(example.input, tokens, held))
        except SampleError as error:
            raise SampleError(f"row {example.line}: {error.message}", code=error.code) from None
        inner = [at > 0 and word == words[at - 1] for at, word in enumerate(words)]
        return Tagged(
            tokens=tokens,
            places=tuple(place for place, _ in held),
            tags=tuple(
                f"I-{tags[word][2:]}" if goes_on and tags[word] != OUTSIDE else tags[word]
                for word, goes_on in zip(words, inner, strict=True)
            ),
        )

    def complete(self, examples: Sequence[Example], rows: Sequence[Any]) -> list[Tagged]:
        """Return the rows with the labels that their datasets annotate.

        A dataset in which nothing is marked annotates all: it is there to say where nothing is.
        """
        found: dict[str, set[str]] = defaultdict(set)
        for example in examples:
            found[example.dataset].update(label for _, _, label in example.target)
        known = {dataset: tuple(sorted(labels)) or None for dataset, labels in found.items()}
        return [
            replace(row, annotated=known[example.dataset])
            for example, row in zip(examples, rows, strict=True)
        ]

    def labels(self, rows: Sequence[Tagged]) -> Sequence[str]:
        """Return ``O``, and ``B-`` and ``I-`` of each label that the rows mark."""
        marked = {tag[2:] for row in rows for tag in row.tags if tag != OUTSIDE}
        return [OUTSIDE, *(f"{sign}-{label}" for label in sorted(marked) for sign in "BI")]

    def chance(self, rows: Sequence[Tagged]) -> float:
        """Return the share of rows in which nothing is marked."""
        return sum(set(row.tags) <= {OUTSIDE} for row in rows) / len(rows) if rows else 0.0

    def question(self, tokenizer: Any, asked: Any) -> Tagged:
        """Return a text as a row without tags, with a place for each word."""
        return self._asked(asked, *self._read(tokenizer, asked))

    def _read(self, tokenizer: Any, asked: Any) -> tuple[tuple[int, ...], list[Held]]:
        """Return a text's tokens, and those that hold text."""
        if not isinstance(asked, str) or not asked.strip():
            raise SampleError("an input must be a text with words", code="no_text")
        read = tokenizer(asked, return_offsets_mapping=True, verbose=False)
        if (length := len(read["input_ids"])) > tokenizer.model_max_length:
            raise SampleError(
                f"the text has {length} tokens, and the base model reads {tokenizer.model_max_length}; split it",
                code="too_long",
            )
        held = list(_held(asked, read["offset_mapping"]))
        if not held:
            raise SampleError("the base model's tokenizer reads nothing in this text", code="no_text")
        return tuple(read["input_ids"]), held

    def _asked(self, text: str, tokens: tuple[int, ...], held: Sequence[Held]) -> Tagged:
        groups = [
            [each for _, each in group]
            for _, group in groupby(zip(_words(text, held), held, strict=True), key=lambda each: each[0])
        ]
        return Tagged(
            tokens=tokens,
            places=tuple(group[0][0] for group in groups),
            bounds=tuple((group[0][1][0], group[-1][1][1]) for group in groups),
            text=text,
        )

    # -- learning and grading

    def forward(self, model: Any, rows: Sequence[Tagged], guests: Sequence[Any] = ()) -> Outputs:
        """Return what a model says of each tagged token, with what a row's dataset does not annotate counted as ``O``."""
        del guests
        longest = max(map(len, rows))
        tokens = torch.tensor([[*row.tokens] + [PADDING] * (longest - len(row)) for row in rows])
        seen = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        mask = _both_ways(seen, model.dtype) if self.reads_both_ways else seen
        output = model(input_ids=tokens.to(model.device), attention_mask=mask.to(model.device))
        owners = torch.tensor([number for number, row in enumerate(rows) for _ in row.places])
        places = torch.tensor([place for row in rows for place in row.places])
        known = model.config.label2id
        tags = (tag for row in rows for tag in row.tags or [OUTSIDE] * row.weight)
        return Outputs(
            logits=_fold(output.logits[owners, places], _outside_of(rows, known)[owners], known),
            targets=torch.tensor([known.get(tag, scoring.UNKNOWN) for tag in tags]),
            owners=owners,
            rows=len(rows),
        )

    def metrics(self, model: Any, rows: Sequence[Tagged]) -> Mapping[str, float]:
        """Return precision, recall and F1 of entities, of all and of each label, as ``entity_scores`` has them."""
        pairs = ((spans(rows[number].tags), spans(said)) for number, said, _ in self._said(model, rows))
        return entity_scores(pairs)

    # -- serving

    def predict(self, model: Any, rows: Sequence[Tagged]) -> list[Any]:
        """Return the spans of each text, in their order; a span is as sure as its least sure tag."""
        answers: list[Any] = [None] * len(rows)
        for number, said, sure in self._said(model, rows):
            row = rows[number]
            found = []
            for first, behind, label in spans(said):
                start, end = row.bounds[first][0], row.bounds[behind - 1][1]
                confidence = round(min(sure[first:behind]), 4)
                found.append(
                    {"start": start, "end": end, "label": label, "text": row.text[start:end]}
                    | {"confidence": confidence}
                )
            answers[number] = {"spans": found}
        return answers

    def _said(self, model: Any, rows: Sequence[Tagged]) -> Iterator[tuple[int, list[str], list[float]]]:
        """Yield each row's number, its likeliest tags, and their probabilities."""
        for numbers in packing.divide(rows, PASS_TOKENS):
            asked = [rows[number] for number in numbers]
            sure, tags = self.forward(model, asked).logits.float().softmax(-1).cpu().max(-1)
            sizes = [row.weight for row in asked]
            names = model.config.id2label
            for number, likely, best in zip(
                numbers, torch.split(sure, sizes), torch.split(tags, sizes), strict=True
            ):
                yield number, [names[tag] for tag in best.tolist()], likely.tolist()


class BidirectionalTokenClassification(TokenClassification):
    """The same with a causal model whose mask is lifted: each token sees the whole text.

    A word's tag often hangs on what follows it. Elsewhere such a model answers alike only with the same mask.
    """

    name = "bidirectional_token_classification"
    reads_both_ways = True
    own_mask = True


# -- spans and tags


def spans(tags: Sequence[str]) -> list[Span]:
    """Return what tags mark, in their numbers; an ``I-`` that continues nothing of its label begins a span."""
    found: list[Span] = []
    begin, label = 0, ""
    for at, tag in enumerate([*tags, OUTSIDE]):
        goes_on = label and tag == f"I-{label}"
        if label and not goes_on:
            found.append((begin, at, label))
        if not goes_on:
            begin, label = at, tag[2:]
    return found


def _tags(marked: Sequence[Any], row: Tagged) -> tuple[str, ...]:
    """Return a tag for each word; raise ``SampleError`` for a span that is not made of whole words."""
    begins = {start: number for number, (start, _) in enumerate(row.bounds)}
    ends = {end: number for number, (_, end) in enumerate(row.bounds)}
    tags = [OUTSIDE] * row.weight
    for start, end, label in marked:
        first, last = begins.get(start), ends.get(end)
        if first is None or last is None:
            raise _unaligned(row, start, end, label, start if first is None else end)
        tags[first : last + 1] = [f"B-{label}", *[f"I-{label}"] * (last - first)]
    return tuple(tags)


def _unaligned(row: Tagged, start: int, end: int, label: str, edge: int) -> SampleError:
    inside = next((row.text[first:last] for first, last in row.bounds if first < edge < last), None)
    told = f"{label} ({start} to {end}, {row.text[start:end][:_SHOWN]!r})"
    if inside is None:
        return SampleError(
            f"{told} begins or ends with what the base model's tokenizer does not read; mark its words alone",
            code="unaligned",
        )
    return SampleError(
        f"{told} begins or ends inside {inside[:_SHOWN]!r}, which is one word, or one token of the base model; mark all of that, "
        "or none of it",
        code="unaligned",
    )


def _held(text: str, offsets: Iterable[tuple[int, int]]) -> Iterator[Held]:
    """Yield the tokens that are tagged: their place, and where their text is without blanks at its edges.

    Special tokens hold none. Of several tokens for one character the first stands for it.
    """
    behind = 0
    for place, (start, end) in enumerate(offsets):
        piece = text[start:end]
        start += len(piece) - len(piece.lstrip())  # noqa: PLW2901 - the same edge, without blanks
        end = start + len(piece.strip())  # noqa: PLW2901 - the same
        if behind <= start < end:
            behind = end
            yield place, (start, end)


def _words(text: str, held: Sequence[Held]) -> list[int]:
    """Return for each token the number of its word.

    Tokens are of one word where they touch between two digits, or two letters that have case (Latin, Cyrillic, Greek): scripts
    without case often write words without blanks, so there each token stands for itself, as signs do everywhere.
    """
    found: list[int] = []
    behind = 0
    for _, (start, end) in held:
        goes_on = found and start == behind and _kind(text[start - 1]) == _kind(text[start]) != ""
        found.append(found[-1] + (not goes_on) if found else 0)
        behind = end
    return found


def _kind(sign: str) -> str:
    return "digit" if sign.isdecimal() else "letter" if sign.lower() != sign.upper() else ""


# -- tensors


def _both_ways(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask [B, 1, S, S] to be added to attention's scores, which hides padding [B, S] alone."""
    hidden = (seen == 0)[:, None, None, :].expand(-1, 1, seen.shape[1], -1)
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)


def _outside_of(rows: Sequence[Tagged], known: Mapping[str, int]) -> Tensor:
    """Return which tags [rows, C] are of labels that a row's dataset does not annotate."""
    found = torch.zeros(len(rows), len(known), dtype=torch.bool)
    for number, row in enumerate(rows):
        if row.annotated is not None:
            kept = {OUTSIDE, *(f"{sign}-{label}" for label in row.annotated for sign in "BI")}
            found[number, [output for tag, output in known.items() if tag not in kept]] = True
    return found


def _fold(logits: Tensor, folded: Tensor, known: Mapping[str, int]) -> Tensor:
    """Return logits [M, C] in which the probabilities of some tags [M, C] are added to ``O``'s.

    The sum over all stays the same, so the loss of a tag that is annotated is that of a softmax over everything.
    """
    if not folded.any():
        return logits
    folded = folded.to(logits.device)
    outside = torch.zeros_like(folded)
    outside[:, known[OUTSIDE]] = True
    together = logits.masked_fill(~(folded | outside), -torch.inf).logsumexp(-1, keepdim=True)
    return torch.where(outside, together, logits.masked_fill(folded, FOLDED))


# -- scores


def entity_scores(pairs: Iterable[tuple[Sequence[Span], Sequence[Span]]]) -> dict[str, float]:
    """Return scores of spans, given those taught and those said of each text; 0 to 1.

    A span counts as right when start, end and label are (CoNLL 2003, seqeval). ``entity_precision``, ``entity_recall`` and
    ``entity_f1`` are of all spans together (micro), with ``[LABEL]`` behind them of one label. No scores where nothing was
    taught and nothing said.
    """
    taught: Counter[str] = Counter()
    said: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for gold, found in pairs:
        taught.update(label for _, _, label in gold)
        said.update(label for _, _, label in found)
        right.update(label for _, _, label in set(gold) & set(found))
    labels = sorted({*taught, *said})
    scores = _scores("", right.total(), said.total(), taught.total()) if labels else {}
    for label in labels:
        scores |= _scores(f"[{label}]", right[label], said[label], taught[label])
    return scores


def _scores(suffix: str, right: int, said: int, taught: int) -> dict[str, float]:
    return {
        f"entity_precision{suffix}": right / said if said else 0.0,
        f"entity_recall{suffix}": right / taught if taught else 0.0,
        f"entity_f1{suffix}": 2 * right / (said + taught),
    }
