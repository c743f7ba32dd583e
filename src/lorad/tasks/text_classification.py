"""The text classification task: a text in, its label or its labels out, with probabilities that mean what they say.

What lives here: one head over whole paths of labels, the losses, answers, the metrics of the field.
What never does: which targets fit together (``label_targets``), when it is calibrated (``training``), HTTP.

A target is one of three, told by the rows alone:

- a text, the label: of all labels one is right (softmax);
- an object, the shares of human ratings by label: the likeliest one is right, all of them are learned (soft labels);
- a list of labels: each is its own yes or no (sigmoid), and so it is for the whole track.

A label such as ``animals/birds/owl`` is a path. The head has one output for each whole path, and a level's probability is
the sum over the paths that go through it, so that an answer's levels can never contradict each other.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from lorad.errors import SampleError
from lorad.models import heads, packing, scoring
from lorad.models.scoring import UNKNOWN, Outputs
from lorad.records import CLASSIFICATION, Example
from lorad.tasks import label_targets
from lorad.tasks.interface import PASS_TOKENS, Predicting
from lorad.tasks.label_targets import LabelChecker

MULTIPLE = "multi_label_classification"
"""transformers' word for a head whose outputs are each a yes or no."""
SEPARATOR = "/"
"""Between the levels of a label."""
HELD_OUT_EVERY = {1000: 10, 100: 5}
"""Of a dataset of so many examples or more every so many-th is never trained: a temperature needs some fifty rows, or it is
chance. The tenth is among the fifth, so that a dataset that grows holds out nothing that was trained."""
SURE = 0.5
"""Where a text may have several labels, those that are at least so likely are its own."""
ALIKE = 1e-6
"""Shares of ratings that differ by less are the same."""


@dataclass(frozen=True, slots=True)
class Text:
    """A text's tokens, and what it is labelled."""

    tokens: tuple[int, ...]
    labels: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    """How much of the answer each of them is: 1, or its share of the ratings."""
    is_multiple: bool = False
    """Whether each of all labels is its own yes or no."""
    judged: tuple[str, ...] = ()
    """Where it is: the labels of which its dataset says yes or no (``label_targets.judged``). Empty: all."""
    weights: tuple[float, ...] = ()
    """How much each of ``labels`` counts in the loss; empty: 1."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def weight(self) -> int:
        """Count its predictions: one row of logits."""
        return 1

    @property
    def best(self) -> str | None:
        """Return the label with the largest share, the first of several."""
        return (
            max(zip(self.shares, self.labels, strict=True), key=lambda each: each[0])[1]
            if self.labels
            else None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled(Outputs):
    """What a model says of texts: one row of logits each."""

    wanted: Tensor
    """[M, C] float32, on the CPU: how much of the answer each class is."""
    importance: Tensor
    """[M, C] float32, on the CPU: how much each class counts in the loss."""
    is_multiple: bool


class TextClassification(Predicting):
    """One label for each text, or several.

    A row is right when the likeliest label is its own (of soft labels the one with the largest share); where a text may have
    several, when exactly its own are at least as likely as not.
    """

    name = CLASSIFICATION
    formats = "classify"
    head = heads.SEQUENCE
    row = Text

    # -- rows

    def encode(self, tokenizer: Any, example: Example) -> Text:
        """Return text and target; raise ``SampleError`` for a path with an empty level, or a text without words."""
        try:
            return self._row(tokenizer, example)
        except SampleError as error:
            raise SampleError(f"row {example.line}: {error.message}", code=error.code, **error.data) from None

    def check(self, tokenizer: Any, example: Example) -> Example:
        """Return the example; raise ``SampleError`` when ``encode`` would: who reads the file names the row."""
        self._row(tokenizer, example)
        return example

    def _row(self, tokenizer: Any, example: Example) -> Text:
        labels, shares, is_multiple = label_targets.read(example.target)
        for label in labels:
            if not all(level.strip() for level in label.split(SEPARATOR)):
                raise SampleError(
                    f"{label!r} has an empty level; write it as l1/l2/l3", code="bad_path", field="label"
                )
        asked = self.question(tokenizer, example.input)
        return replace(asked, labels=labels, shares=shares, is_multiple=is_multiple)

    def question(self, tokenizer: Any, asked: Any) -> Text:
        """Return a text's tokens; raise ``SampleError`` when it is none, or is empty."""
        if not isinstance(asked, str) or not asked.strip():
            raise SampleError("a text with words is needed", code="no_text", field="text")
        read = tokenizer(asked, return_special_tokens_mask=True)
        tokens = tuple(read["input_ids"])
        if all(read["special_tokens_mask"]):  # an encoder puts its own around nothing too
            raise SampleError(
                "the base model's tokenizer finds nothing in the text", code="no_text", field="text"
            )
        return Text(tokens)

    def labels(self, rows: Sequence[Text]) -> Sequence[str]:
        """Return the rows' labels, whole paths, in alphabetical order."""
        return sorted({label for row in rows for label in row.labels})

    def problem_type(self, rows: Sequence[Text]) -> str | None:
        """Return ``multi_label_classification`` where texts have lists of labels."""
        return MULTIPLE if any(row.is_multiple for row in rows) else None

    def checker(
        self, targets: Callable[[], Iterable[Any]], named: Sequence[str] = ()
    ) -> Callable[[Example], None]:
        """Return what refuses a set of labels that shrinks, and one label among lists."""
        return LabelChecker(targets(), named)

    def complete(self, examples: Sequence[Example], rows: Sequence[Text]) -> Sequence[Text]:
        """Return the rows with the weights of rare labels, and with what each dataset can say no to."""
        judged = label_targets.judged([example.dataset for example in examples], rows)
        weights = label_targets.weights(label_targets.counts(rows))
        return [
            replace(
                row,
                judged=judged[example.dataset] if row.is_multiple else (),
                weights=tuple(weights[label] for label in row.labels) if weights else (),
            )
            for example, row in zip(examples, rows, strict=True)
        ]

    def notes(self, rows: Sequence[Text]) -> Sequence[str]:
        """Return how much rare labels weigh, where they do."""
        counts = label_targets.counts(rows)
        weights = {
            label: weight for row in rows for label, weight in zip(row.labels, row.weights, strict=False)
        }
        if not weights or len(counts) < 2:  # noqa: PLR2004 - what is rare may stand in the rows that are held out
            return ()
        rare, *_, common = sorted(counts, key=counts.__getitem__)
        note = (
            f"the labels are imbalanced, from {counts[rare]:g} rows ({rare}) to {counts[common]:g} ({common}): in the loss a "
            f"row counts {weights[rare]:.2g} to {weights[common]:.2g} (square root of the inverse share, 1 on average)"
        )
        return (note,)

    def chance(self, rows: Sequence[Text]) -> float:
        """Return the share of the commonest label; where a text may have several, that of texts without any."""
        own = Counter(row.best for row in rows if row.labels or row.is_multiple)
        is_multiple = any(row.is_multiple for row in rows)
        return (own[None] if is_multiple else max(own.values(), default=0)) / max(1, len(rows))

    def held_out(
        self, examples: Sequence[Example], already: AbstractSet[str] = frozenset()
    ) -> AbstractSet[str]:
        """Return a fifth of every dataset of a hundred examples or more, a tenth of one of a thousand.

        They are chosen by their digests: the same at every call. Of each label a row is trained, or it would be in no answer.
        """
        sizes = Counter(example.dataset for example in examples)
        every = {
            dataset: next((every for least, every in HELD_OUT_EVERY.items() if size >= least), None)
            for dataset, size in sizes.items()
        }

        def is_drawn(example: Example) -> bool:
            part = every[example.dataset]
            return int(example.id[:8], 16) % part == 0 if part else example.id in already

        drawn = {example.id: example for example in examples if is_drawn(example)}
        taught = {each for example in examples if example.id not in drawn for each in _taught(example)}
        apart = set()
        for name, example in sorted(drawn.items()):
            if _taught(example) <= taught:
                apart.add(name)
            taught |= _taught(example)
        return apart

    # -- learning and grading

    def forward(self, model: Any, rows: Sequence[Text], guests: Sequence[Text] = ()) -> Labelled:
        """Return the logits of some texts, padded on the right to one length."""
        del guests
        longest, pad = max(map(len, rows)), model.config.get_text_config().pad_token_id or 0
        tokens = [[*row.tokens, *[pad] * (longest - len(row))] for row in rows]
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        logits = model(
            input_ids=torch.tensor(tokens, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
        ).logits
        return _labelled(model, logits, rows)

    def loss(self, outputs: Outputs) -> Tensor:
        """Return the cross entropy with the shares of the labels, or the binary one of each label; summed."""
        said = cast("Labelled", outputs)
        logits = said.logits.float()
        wanted, importance = said.wanted.to(logits.device), said.importance.to(logits.device)
        if said.is_multiple:
            return (
                functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * importance
            ).sum()
        return -(importance * wanted * functional.log_softmax(logits, -1)).sum()

    def grade(self, outputs: Outputs) -> list[bool]:
        """Tell for each text whether its answer is right."""
        said = cast("Labelled", outputs)
        known = said.targets != UNKNOWN
        logits = said.logits.detach().float().cpu()
        if said.is_multiple:
            right = (((logits >= 0) == (said.wanted > 0)) | (said.importance == 0)).all(-1)
        else:
            given = said.wanted.gather(1, logits.argmax(-1, keepdim=True))[:, 0]
            right = given >= said.wanted.max(-1).values - ALIKE
        return [bool(each) for each in right & known]

    def log_probabilities(self, outputs: Outputs) -> list[float]:
        """Return the log probability of each text's answer, in nats; of several labels that of all of them together."""
        said = cast("Labelled", outputs)
        if not said.is_multiple:
            return scoring.log_probabilities(outputs)
        surprise = functional.binary_cross_entropy_with_logits(
            said.logits.detach().float().cpu(), said.wanted, reduction="none"
        )
        sums = -(surprise * (said.importance > 0)).sum(-1)
        found: list[float] = sums.masked_fill(said.targets == UNKNOWN, -torch.inf).tolist()
        return found

    def confidences(
        self, model: Any, tokenizer: Any, rows: Sequence[Text], tell: Callable[[int], None] = lambda _: None
    ) -> list[tuple[float, bool]]:
        """Return how likely each text's whole answer is, as far as its dataset judges it, and whether it is right."""
        del tokenizer
        found = [(0.0, False)] * len(rows)
        for numbers in packing.divide(rows, PASS_TOKENS):
            said = self.forward(model, [rows[number] for number in numbers])
            likely = _probabilities(model, said.logits)
            if said.is_multiple:  # what a dataset does not judge is neither right nor wrong
                likely = likely.masked_fill(said.importance == 0, 1.0)
            sure = _sure(likely, is_multiple=said.is_multiple)
            for number, answer in zip(numbers, zip(sure, self.grade(said), strict=True), strict=True):
                found[number] = answer
            tell(len(numbers))
        return found

    def temperature(self, model: Any, rows: Sequence[Text]) -> float:
        """Return the temperature with the least cross entropy on these rows (Guo et al. 2017).

        Of soft labels the target is what ``grade`` calls right, and not the shares: a text that most people call good is
        answered rightly more often than single people agree. The targets are smoothed by one row that may be anything: where
        all rows are right the least would else be at 0. Few rows count for less: ``scoring.SPREAD``.
        """
        logits, wanted, judged = [], [], []
        for numbers in packing.divide(rows, PASS_TOKENS):
            said = self.forward(model, [rows[number] for number in numbers])
            logits.append(said.logits.detach().cpu().double())
            wanted.append(_right(said))
            judged.append(said.importance.double().sign())
        given, asked, told = torch.cat(logits), torch.cat(wanted), torch.cat(judged)
        smooth = 1 / (len(rows) + 1)
        if model.config.problem_type == MULTIPLE:
            hoped = asked * (1 - smooth) + smooth / 2
            return scoring.fit_temperature(
                lambda t: float(
                    functional.binary_cross_entropy_with_logits(
                        given / t, hoped, weight=told, reduction="sum"
                    )
                ),
                spread=scoring.SPREAD,
            )
        hoped = asked * (1 - smooth) + smooth / given.shape[-1]
        return scoring.fit_temperature(
            lambda t: float(-(hoped * functional.log_softmax(given / t, -1)).sum()), spread=scoring.SPREAD
        )

    def metrics(self, model: Any, rows: Sequence[Text]) -> Mapping[str, float]:
        """Return accuracy, of each level too where labels are paths, and the macro-averaged F1 of the labels."""
        said: list[tuple[Text, dict[str, Any]]] = []
        for numbers in packing.divide(rows, PASS_TOKENS):
            group = [rows[number] for number in numbers]
            said += zip(group, self.predict(model, group), strict=True)
        if not said:
            return {}
        pairs: list[tuple[AbstractSet[str | None], AbstractSet[str | None]]]
        if any(row.is_multiple for row, _ in said):
            pairs = [(set(row.labels), set(answer["labels"])) for row, answer in said]
            return {"accuracy": _share(own == given for own, given in pairs), **_f1(pairs)}
        pairs = [({row.best}, {answer["label"]}) for row, answer in said]
        paths = [(_levels(row.best or ""), _levels(answer["label"])) for row, answer in said]
        deepest = max(len(own) for own, _ in paths)
        by_level = {
            f"accuracy_l{level}": _share(
                own[:level] == given[:level] for own, given in paths if len(own) >= level
            )
            for level in range(1, deepest + 1)
            if deepest > 1
        }
        return {"accuracy": _share(own == given for own, given in pairs), **_f1(pairs), **by_level}

    # -- serving

    def predict(self, model: Any, rows: Sequence[Text]) -> list[Any]:
        """Return label or labels, how sure that is, the probability of every label, and those of the path's levels."""
        found: list[dict[str, Any]] = [{} for _ in rows]
        for numbers in packing.divide(rows, PASS_TOKENS):
            logits = self.forward(model, [rows[number] for number in numbers]).logits
            for number, likely in zip(numbers, _probabilities(model, logits), strict=True):
                found[number] = _answer(model, likely)
        return found


def _taught(example: Example) -> set[tuple[str, str]]:
    """Return the labels that an example names, each with its dataset."""
    return {(example.dataset, label) for label in label_targets.names(example.target)}


# -- outputs


def _labelled(model: Any, logits: Tensor, rows: Sequence[Text]) -> Labelled:
    """Return logits with what is wanted of them."""
    places: Mapping[str, int] = model.config.label2id
    is_multiple = model.config.problem_type == MULTIPLE
    size = logits.shape[0], logits.shape[1]
    wanted, importance = torch.zeros(size), torch.ones(size)
    targets = torch.zeros(len(rows), dtype=torch.int64)
    for number, row in enumerate(rows):
        if is_multiple and row.judged:
            importance[number] = 0
            importance[number, [places[label] for label in row.judged if label in places]] = 1
        for at, label in enumerate(row.labels):
            if label in places:
                wanted[number, places[label]] = row.shares[at]
                importance[number, places[label]] = row.weights[at] if row.weights else 1
        targets[number] = _target(places, row, is_multiple=is_multiple)
    return Labelled(
        logits=logits,
        targets=targets,
        owners=torch.arange(len(rows)),
        rows=len(rows),
        wanted=wanted,
        importance=importance,
        is_multiple=is_multiple,
    )


def _right(said: Labelled) -> Tensor:
    """Return what is right [M, C], in float64: of shares the largest one, or those that are alike in equal parts."""
    wanted = said.wanted.double()
    if said.is_multiple:
        return wanted
    most = wanted.max(-1, keepdim=True).values
    best = ((wanted >= most - ALIKE) & (wanted > 0)).double()
    return best / best.sum(-1, keepdim=True).clamp(min=1)


def _target(places: Mapping[str, int], row: Text, *, is_multiple: bool) -> int:
    """Return the class that is right; of several 0, and ``UNKNOWN`` for a row that this model cannot get right."""
    if is_multiple != row.is_multiple and row.labels:
        return UNKNOWN
    if is_multiple:
        return 0 if all(label in places for label in row.labels) else UNKNOWN
    return places.get(row.best or "", UNKNOWN)


def _probabilities(model: Any, logits: Tensor) -> Tensor:
    """Return each label's probability [M, C], in float64 on the CPU."""
    given = logits.detach().cpu().double()
    return given.sigmoid() if model.config.problem_type == MULTIPLE else given.softmax(-1)


def _sure(likely: Tensor, *, is_multiple: bool) -> list[float]:
    """Return how likely whole answers are: the likeliest label, or all of the yes and no together."""
    found: list[float]
    found = likely.clamp(min=1 - likely).prod(-1).tolist() if is_multiple else likely.max(-1).values.tolist()
    return found


# -- answers


def _answer(model: Any, likely: Tensor) -> dict[str, Any]:
    """Return what is said of one text: its probabilities [C] by label, the likeliest first, and what follows from them."""
    is_multiple = model.config.problem_type == MULTIPLE
    names: Mapping[int, str] = model.config.id2label
    order = likely.argsort(descending=True, stable=True).tolist()
    chances = {names[place]: float(likely[place]) for place in order}
    first = next(iter(chances))
    own = [label for label, chance in chances.items() if chance >= SURE] if is_multiple else [first]
    return {
        "label": None if is_multiple else first,
        "labels": own,
        "confidence": round(_sure(likely[None], is_multiple=is_multiple)[0], 6),
        "probabilities": {label: round(chance, 6) for label, chance in chances.items()},
        "levels": [] if is_multiple else _told_levels(first, chances),
    }


def _told_levels(label: str, chances: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the levels of a path, each with the probability of all paths through it; none where no label is a path."""
    if not any(SEPARATOR in each for each in chances):
        return []
    path = _levels(label)
    prefixes = [path[: depth + 1] for depth in range(len(path))]
    split = [(_levels(each), chance) for each, chance in chances.items()]
    return [
        {
            "label": SEPARATOR.join(prefix),
            "probability": round(
                min(1.0, sum(chance for each, chance in split if each[: len(prefix)] == prefix)), 6
            ),
        }
        for prefix in prefixes
    ]


def _levels(label: str) -> tuple[str, ...]:
    return tuple(label.split(SEPARATOR))


# -- metrics


def _share(found: Iterable[bool]) -> float:
    each = list(found)
    return sum(each) / len(each)


def _f1(pairs: Sequence[tuple[AbstractSet[str | None], AbstractSet[str | None]]]) -> dict[str, float]:
    """Return the F1 of each label, averaged: every label counts alike, however rare."""
    right: Counter[str | None] = Counter()
    either: Counter[str | None] = Counter()
    for own, given in pairs:
        right.update(own & given)
        either.update([*own, *given])
    return (
        {"macro_f1": sum(2 * right[label] / count for label, count in either.items()) / len(either)}
        if either
        else {}
    )
