"""When to answer, fitted to what a version has learned (``retrieval.thresholds``).

What lives here: which questions are asked for it, and asking them of an index, an example at a time. What never does: the
arithmetic, models that generate, clocks.

No model is asked: what a version knows is not measured here, only what an index finds. So thresholds can be fitted anew to
a version that was made long ago, when the encoder, the reranker or the settings have changed.
"""

from collections import deque
from collections.abc import Collection, Sequence

from lorad.evaluation import facts
from lorad.records import AnswerThresholds, Example, as_line
from lorad.retrieval import thresholds
from lorad.retrieval.answering import Found
from lorad.retrieval.finding import Finding, stands_alone
from lorad.retrieval.thresholds import Scored
from lorad.training import augmentation, distillation
from lorad.training.session_examples import spread

FITTED = 80
"""Examples that the thresholds are fitted on. Each is asked in up to two of the grammar's wordings and one that was held out,
and, as if it had not been learned, in its own wording and one of the grammar's."""
EACH = 12
"""Examples of each dataset at least, if it has so many: a few plain facts beside a catalogue get a line of their own
(``thresholds.LEAST_QUESTIONS``)."""
MOST = 400
"""Examples in all, however many datasets there are."""
OTHERS = 20
"""Examples of all those datasets together whose turn it is not: they say where the line lies that all share."""


class ThresholdFitting:
    """Fits thresholds to the examples that a version has learned."""

    def __init__(
        self,
        finding: Finding,
        lineage: Sequence[str],
        examples: Sequence[Example],
        max_false_share: float,
        before: AnswerThresholds | None = None,
        in_turn: Collection[str] | None = None,
    ) -> None:
        """Fit anew the lines of the datasets ``in_turn``; the others keep those that they had ``before``, where these hold. Else all."""
        self._finding = finding
        self._lineage = lineage
        self._max_false_share = max_false_share
        found = [example for example in examples if stands_alone(example)]
        self._slots = facts.all_slots((as_line(each.input), as_line(each.target)) for each in found)
        names = {example.dataset for example in found}
        if before is None or in_turn is None or not _holds(before, finding.scored_by, max_false_share):
            in_turn = names
        kept = names.difference(in_turn)
        self._known = {name: line for name, line in before.lines.items() if name in kept} if before else {}
        self._left: deque[Example | str] = deque([*_chosen(found, in_turn), *distillation.prompts()])
        """Examples to ask for, and ordinary prompts."""
        self._taught: list[Scored] = []
        self._held_out: list[Scored] = []
        self._untaught: list[Scored] = []
        self._ordinary: list[float] = []
        self._own: list[float] = []

    def step(self) -> bool:
        """Ask for one more example, or one ordinary prompt; return whether more are left."""
        if self._left:
            asked = self._left.popleft()
            self._ask_ordinary(asked) if isinstance(asked, str) else self._ask(asked)
        return bool(self._left)

    def texts(self) -> list[str]:
        """Return what it will ask."""
        return [
            text
            for asked in self._left
            for text in ([asked] if isinstance(asked, str) else [*_wordings(asked), *asked.held_out[:1]])
        ]

    def _ask_ordinary(self, prompt: str) -> None:
        if hit := self._finding.find(prompt, self._lineage):
            self._ordinary.append(hit.about)

    def _ask(self, example: Example) -> None:
        asked, *others = _wordings(example)
        self._taught += self._scores(others)
        self._held_out += self._scores(example.held_out[:1])
        for text in (asked, *others[:1]):
            hit = self._finding.find(text, self._lineage, without={example.id})
            if hit is None or self._says_the_same(example, hit):
                continue  # then it is taught
            self._untaught.append(_scored(hit))
            self._own.append(hit.about)

    def _scores(self, texts: Sequence[str]) -> list[Scored]:
        """Return the score of the nearest example for each text for which any is found."""
        return [_scored(hit) for text in texts if (hit := self._finding.find(text, self._lineage))]

    def _says_the_same(self, example: Example, hit: Found) -> bool:
        given = as_line(hit.neighbour.example.target)
        return facts.has_fact(as_line(example.input), as_line(example.target), given, self._slots)

    def result(self) -> AnswerThresholds | None:
        """Return the thresholds; ``None`` where scores do not tell taught from untaught questions."""
        found = thresholds.fit(
            taught=self._taught,
            held_out=self._held_out,
            untaught=self._untaught,
            ordinary=self._ordinary,
            own=self._own,
            max_false_share=self._max_false_share,
            scored_by=self._finding.scored_by,
            known=self._known,
        )
        return found if thresholds.is_useful(found, self._max_false_share) else None


def _wordings(example: Example) -> list[str]:
    """Return an example's question and up to two other wordings of the grammar's."""
    asked = as_line(example.input)
    return [asked, *augmentation.wordings(asked, 2, len(asked))]


def _holds(before: AnswerThresholds, scored_by: str, max_false_share: float) -> bool:
    """Tell whether lines that were fitted before mean the same now."""
    return (before.scored_by, before.max_false_share) == (scored_by, max_false_share)


def _chosen(examples: Sequence[Example], in_turn: Collection[str]) -> list[Example]:
    shelves: dict[str, list[Example]] = {}
    for example in examples:
        shelves.setdefault(example.dataset, []).append(example)
    each = max(EACH, FITTED // max(1, len(shelves)))
    asked = [name for name in shelves if name in in_turn]
    others = [example for name in shelves if name not in asked for example in shelves[name]]
    chosen = spread([example for name in asked for example in spread(shelves[name], each)], MOST)
    return [*chosen, *spread(others, OTHERS)]


def _scored(hit: Found) -> Scored:
    return Scored(hit.neighbour.example.dataset, hit.score)
