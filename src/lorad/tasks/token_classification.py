"""The token classification task: text in, labelled spans out (named entities, say).

What lives here: aligning spans of characters with tokens, BIO tags and back, what a dataset's silence about a label
means, and entity scores. What never does: formats of files (``datasets``), heads (``models.heads``).

Spans are ``[start, end, label]`` in characters, the end exclusive. Each token that holds text gets one tag of the BIO
scheme: ``O``, or ``B-`` (an entity's first token) or ``I-`` (its others) with the label. Tags are of tokens and not of
words: what a word is differs between tokenizers, and a merged model is read token by token by ``pipeline("ner")``.

The tokens of one word are tagged together, with its likeliest tags as a whole (``_of_words``): a name never ends in the middle of
a word because one token was unsure. Only where the rows themselves mark inside words is each token tagged by itself.

Drops bring labels one after another, and none annotates those of the others. So where a dataset annotates no ``LOC``,
its ``O`` means "no person and no firm", and may well be a place. In its rows, probabilities of labels that it does not
annotate are added to that of ``O`` (``_fold``): they are neither taught nor tested as "not a place". What it does annotate
still competes with all labels: a person is no place.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

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
    inner: tuple[int, ...] = ()
    """The numbers of those among them that go on with the word of the one before."""
    bounds: tuple[tuple[int, int], ...] = ()
    """Start and end in characters of each tagged token; of a question alone, as its text: papers hold no words."""
    text: str = ""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def weight(self) -> int:
        """Count the tagged tokens."""
        return len(self.places)


@dataclass(frozen=True, slots=True, kw_only=True)
class TagOutputs(Outputs):
    """What a model says of each tagged token."""

    firsts: Tensor
    """[M] int64, on the CPU: the number of the prediction for the token that its word begins with."""
    follow: Tensor
    """[C] int64, on the CPU: the tag that goes on with this one."""


class TokenClassification(Predicting):
    """Labelled spans of a text, by an encoder or by a causal model as it is.

    A row is right when all its tags are.
    """

    name = "token_classification"
    formats = "tagging"
    head = heads.TOKEN
    row = Tagged

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
            return self._row(tokenizer, example)
        except SampleError as error:
            raise SampleError(f"row {example.line}: {error.message}", code=error.code, **error.data) from None

    def check(self, tokenizer: Any, example: Example) -> Example:
        """Return the example; raise ``SampleError`` when ``encode`` would: who reads the file names the row."""
        self._row(tokenizer, example)
        return example

    def _row(self, tokenizer: Any, example: Example) -> Tagged:
        row = self.question(tokenizer, example.input)
        return replace(row, tags=_tags(example.target, row), bounds=(), text="")

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
        """Return a text as a row without tags."""
        if not isinstance(asked, str) or not asked.strip():
            raise SampleError("an input must be a text with words", code="no_text", field="text")
        read = tokenizer(asked, return_offsets_mapping=True, verbose=False)
        if (length := len(read["input_ids"])) > tokenizer.model_max_length:
            raise SampleError(
                f"the text has {length} tokens, and the base model reads {tokenizer.model_max_length}; split it",
                code="too_long",
                field="text",
            )
        held = list(_held(asked, read["offset_mapping"]))
        if not held:
            raise SampleError(
                "the base model's tokenizer reads nothing in this text", code="no_text", field="text"
            )
        return Tagged(
            tokens=tuple(read["input_ids"]),
            places=tuple(place for place, _ in held),
            inner=tuple(_inner(asked, [bounds for _, bounds in held])),
            bounds=tuple(bounds for _, bounds in held),
            text=asked,
        )

    def splits_words(self, rows: Sequence[Tagged]) -> bool:
        """Tell whether any of these rows marks a part of a word."""
        return any(row.tags[at] != goes_on(row.tags[at - 1]) for row in rows for at in row.inner if row.tags)

    # -- learning and grading

    def forward(self, model: Any, rows: Sequence[Tagged], guests: Sequence[Any] = ()) -> TagOutputs:
        """Return what a model says of each tagged token, with what a row's dataset does not annotate counted as ``O``."""
        del guests
        longest = max(map(len, rows))
        tokens = torch.tensor([[*row.tokens] + [PADDING] * (longest - len(row)) for row in rows])
        seen = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        mask = self.mask(seen, model.dtype).to(model.device)
        output = model(input_ids=tokens.to(model.device), attention_mask=mask)
        owners = torch.tensor([number for number, row in enumerate(rows) for _ in row.places])
        places = torch.tensor([place for row in rows for place in row.places])
        known = model.config.label2id
        tags = (tag for row in rows for tag in row.tags or [OUTSIDE] * row.weight)
        return TagOutputs(
            logits=_fold(output.logits[owners, places], _outside_of(rows, known)[owners], known),
            targets=torch.tensor([known.get(tag, scoring.UNKNOWN) for tag in tags]),
            owners=owners,
            rows=len(rows),
            firsts=_firsts(rows, splits_words=getattr(model.config, "splits_words", False)),
            follow=torch.tensor([known.get(goes_on(tag), at) for tag, at in known.items()]),
        )

    def grade(self, outputs: Outputs) -> list[bool]:
        """Tell for each row whether all its words are tagged right."""
        return scoring.grade(_of_words(cast("TagOutputs", outputs)))

    def confidences(
        self, model: Any, tokenizer: Any, rows: Sequence[Any], tell: Callable[[int], None] = lambda _: None
    ) -> list[tuple[float, bool]]:
        """Return how likely the tags of all words of each row together are, and whether they are its own."""
        del tokenizer
        found = [(0.0, False)] * len(rows)
        for numbers in packing.divide(rows, PASS_TOKENS):
            said = _of_words(self.forward(model, [rows[number] for number in numbers]))
            for number, answer in zip(numbers, scoring.confidences(said), strict=True):
                found[number] = answer
            tell(len(numbers))
        return found

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
            sure, tags = _tagged(self.forward(model, asked))
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
    own_mask = True

    def mask(self, seen: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a mask [B, 1, S, S] to be added to attention's scores, which hides padding alone."""
        hidden = (seen == 0)[:, None, None, :].expand(-1, 1, seen.shape[1], -1)
        return torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)


# -- spans and tags


def goes_on(tag: str) -> str:
    """Return the tag that goes on with what this one says."""
    return tag if tag == OUTSIDE else f"I-{tag[2:]}"


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
    """Return a tag for each token; raise ``SampleError`` for a span that is not made of whole tokens."""
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
        f"{told} begins or ends inside {inside[:_SHOWN]!r}, which is one token of the base model; mark all of that, "
        "or none of it",
        code="unaligned",
    )


def _held(text: str, offsets: Iterable[tuple[int, int]]) -> Iterator[tuple[int, tuple[int, int]]]:
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


def _inner(text: str, bounds: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield which tokens go on with a word or a number: two letters touch, or two digits, which are of two tokens.

    Between a letter and a digit a span may end ("20km"), and at any other sign ("John's").
    """
    for at, ((_, behind), (start, _)) in enumerate(pairwise(bounds), start=1):
        pair = text[start - 1 : start + 1]
        if behind == start and (pair.isalpha() or pair.isdecimal()):
            yield at


# -- words


def _firsts(rows: Sequence[Tagged], *, splits_words: bool) -> Tensor:
    """Return the number of the first token of each token's word; where words are split, each token is by itself."""
    inner: list[bool] = []
    for row in rows:
        goes = set(() if splits_words else row.inner)
        inner += (at in goes for at in range(row.weight))
    own = torch.arange(len(inner))
    return own.masked_fill(torch.tensor(inner, dtype=torch.bool), 0).cummax(0).values


def _of_words(outputs: TagOutputs) -> Outputs:
    """Return what is said of whole words: for each tag, how likely its first token has it and the others go on with it.

    The geometric mean over a word's tokens, so that a long word is no less sure than a short one; a word of one token says
    what the token says. A word whose tags do not go on with one another cannot be right.
    """
    firsts, follow = outputs.firsts, outputs.follow
    inner = firsts != torch.arange(len(firsts))
    if not inner.any():
        return outputs
    said, device = outputs.logits.float().log_softmax(-1), outputs.logits.device
    going_on = said[inner.to(device)][:, follow.to(device)]
    scores = said.index_add(0, firsts[inner].to(device), going_on)
    sizes = torch.bincount(firsts, minlength=len(firsts)).clamp(min=1).to(device)
    targets = outputs.targets.clone()
    split = inner & (targets != follow[targets[firsts].clamp(min=0)])
    targets[firsts[split]] = scoring.UNKNOWN
    return Outputs(
        logits=(scores / sizes[:, None])[~inner.to(device)],
        targets=targets[~inner],
        owners=outputs.owners[~inner],
        rows=outputs.rows,
    )


def _tagged(outputs: TagOutputs) -> tuple[Tensor, Tensor]:
    """Return how likely the best tag of each token is [M], and that tag [M]; of a word's tokens together."""
    words = torch.unique_consecutive(outputs.firsts, return_inverse=True)[1]
    sure, tags = _of_words(outputs).logits.float().softmax(-1).cpu().max(-1)
    inner = outputs.firsts != torch.arange(len(outputs.firsts))
    return sure[words], torch.where(inner, outputs.follow[tags[words]], tags[words])


# -- tensors


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
