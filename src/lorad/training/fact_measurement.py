"""Measuring what a session was for: the fact in the answer, in words that were not trained, as it is served.

What lives here: which questions are asked, and asking them of the candidate with and without its index. What never does:
what a fact is (``evaluation.facts``), how a question is answered (``retrieval.answering``), the judge's limits.

A session has no database. What it learns and what it must keep stand in a database in memory, under the same index that
serves: up to ``MOST_INDEXED`` examples, what is measured is what people get.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

from lorad import wordings
from lorad.config import AnsweringSettings
from lorad.errors import ConfigError
from lorad.evaluation import facts
from lorad.models import embedders, generation
from lorad.models.adapter_stack import AdapterStack
from lorad.models.embedders import Embedder
from lorad.models.hardware import machine
from lorad.records import AnswerThresholds, Example, FactRecall, Score, as_line
from lorad.retrieval import answering, rerankers
from lorad.retrieval.answering import Reply
from lorad.retrieval.finding import Finding, Reranker, VersionFinder, stands_alone
from lorad.retrieval.index import Index
from lorad.retrieval.remembered import Remembered
from lorad.storage.database import Database
from lorad.storage.ledger import Ledger
from lorad.storage.memory import Memory
from lorad.tasks import Generating
from lorad.training.session_examples import SessionExample, score, spread
from lorad.training.threshold_fitting import ThresholdFitting

VERSION = "candidate"
"""What the examples in memory were learned by."""
MOST_INDEXED = 4000
"""Examples that a session indexes: as many take half a minute."""
ASKED = 32
"""Examples of each dataset whose facts are asked for: as many when it is new as when it is old, to be compared."""
MOST_ASKED = 480
"""Examples whose facts are asked for in all."""
IN_TURN, NEAR_IN_TURN = 4, 2
"""Old datasets that one session asks, and how many of these are those most like what is new. The rest waits for its turn, the one that has
waited longest first: to ask all of them would cost the more the more was learned before."""
LONGEST = 96
"""Tokens of an answer in which its fact is looked for, at most."""
ROOM = 2
"""Times the longest answer that was trained, of those that are generated together: what rambles on has no fact by then, and a
batch takes as long as its longest answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactReport:
    """What was found of a candidate's facts."""

    facts: dict[str, FactRecall]
    thresholds: AnswerThresholds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A question whose answer is known, and whether it is worded as it was trained."""

    example: Example
    text: str
    is_trained: bool

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Return the conversation that asks it."""
        found: list[dict[str, Any]] = wordings.reworded(self.example, self.text).input
        return found


class FactMeasurement:
    """The facts of one candidate.

    New datasets are asked, and a few old ones in turn; the others keep what the parent's papers say of them. So a fact that is lost
    in other words alone is seen when its dataset's turn comes, of n old datasets after n / 2 sessions at the latest.
    """

    def __init__(
        self,
        task: Generating,
        stack: AdapterStack,
        name: str,
        examples: Sequence[SessionExample],
        right: Mapping[str, bool],
        *,
        settings: AnsweringSettings,
        encoder: Path | None,
        parent: FactReport | None = None,
        remembered: Path | None = None,
    ) -> None:
        """``parent`` is what its papers say of the parent, where they hold; without it every dataset is asked.

        ``remembered`` is the file of what earlier sessions have embedded and compared.
        """
        self._task = task
        self._stack = stack
        self._name = name
        self._settings = settings
        self._right = right
        questions = [each for each in examples if stands_alone(each.example)]
        self._examples = spread(questions, MOST_INDEXED)
        """What the session indexes, asks and fits to: a question whose example is not there would be a stranger."""
        self._parent = parent or FactReport(facts={})
        self._new = {each.example.dataset for each in self._examples if each.is_new}
        self._asked = _in_turn(self._examples, parent.facts) if parent else _datasets(self._examples)
        self._slots = facts.all_slots(
            (as_line(each.example.input), as_line(each.example.target)) for each in self._examples
        )
        self._remembered: Remembered | None = None
        self._finding = self._build(encoder, remembered) if settings.retrieve else None

    def _build(self, encoder: Path | None, path: Path | None) -> Finding | None:
        embedder: Embedder
        if encoder is None:
            embedder = embedders.of_base(self._stack.base)
        else:
            try:
                embedder = embedders.load_encoder(encoder)
            except ConfigError:  # removed since the session began: what was trained is not lost for it
                return None
        precision = machine("cpu").precision
        reranker: Reranker | None = rerankers.load(encoder, precision) if encoder else None
        if path:
            of_base = str(self._stack.base.model.dtype).removeprefix("torch.")
            vectors = of_base if encoder is None else "float32"
            self._remembered = Remembered(path, embedder, reranker, vectors=vectors, odds=precision)
            embedder, reranker = self._remembered.embedder, self._remembered.reranker
        database = Database(":memory:")
        memory = Memory(database, VERSION)
        held = [each.example for each in self._examples]
        memory.add(held, Ledger(database).take(VERSION, VERSION, 0.0).id, 0.0)
        memory.mark_learned([example.ids for example in held], VERSION)
        index = Index(database, VERSION, memory, embedder, None)
        while index.step():
            pass
        return Finding(index, reranker)

    def run(self, tell: Callable[[str], None]) -> FactReport:
        """Fit the thresholds, and ask for the facts of some examples of each dataset."""
        if not self._examples:
            return FactReport(facts={})
        found = None
        if self._finding is not None:
            tell("fitting when to answer")
            found = self._fit(self._finding)
        tell("asking in other words")
        questions = self._questions()
        if self._remembered:
            others = [question.text for question in questions if not question.is_trained]
            self._remembered.embedder.embed(others)  # what is asked as it was trained is not searched
        replies = self._replies(questions, found)
        alone = self._alone(questions, replies)
        served = [
            self._is_served(question, reply, alone.get(number))
            for number, (question, reply) in enumerate(zip(questions, replies, strict=True))
        ]
        if self._remembered:
            self._remembered.keep()
        return FactReport(facts=self._with_old(self._by_dataset(questions, alone, served)), thresholds=found)

    def _with_old(self, asked: Mapping[str, FactRecall]) -> dict[str, FactRecall]:
        """Return what was found, and what was found before of the datasets whose turn it is not."""
        kept = {
            name: replace(told, sessions_ago=told.sessions_ago + 1, other_sessions_ago=_older(told))
            for name, told in self._parent.facts.items()
        }
        both = {**kept, **asked}
        return {name: both[name] for name in _datasets(self._examples) if name in both}

    def _fit(self, finding: Finding) -> AnswerThresholds | None:
        known = [each.example for each in self._examples]
        share, before = self._settings.max_false_share, self._parent.thresholds
        fitting = ThresholdFitting(finding, [VERSION], known, share, before, self._asked)
        if self._remembered:
            self._remembered.embedder.embed(fitting.texts())  # together: one by one takes twice as long
        while fitting.step():
            pass
        return fitting.result()

    # -- which questions

    def _questions(self) -> list[_Question]:
        shelves: dict[str, list[Example]] = {}
        for each in self._examples:
            if each.example.dataset in self._asked:
                shelves.setdefault(each.example.dataset, []).append(each.example)
        most = min(ASKED, max(1, MOST_ASKED // len(shelves)))
        questions: list[_Question] = []
        for shelf in shelves.values():
            questions += [
                _Question(example=example, text=as_line(example.input), is_trained=True)
                for example in spread(shelf, most)
            ]
            questions += [
                _Question(example=example, text=example.held_out[0], is_trained=False)
                for example in spread([example for example in shelf if example.held_out], most)
            ]
        return questions

    # -- asking

    def _replies(self, questions: Sequence[_Question], found: AnswerThresholds | None) -> list[Reply]:
        """Return how each question is answered as it is served: by the weights, where there is no index."""
        if self._finding is None or found is None:
            return [Reply(mode="weights", messages=each.messages) for each in questions]
        finder = VersionFinder(self._finding, [VERSION], self._right)
        unknown = self._settings.refusal
        return [answering.reply(each.messages, finder, found, unknown_words=unknown) for each in questions]

    def _alone(self, questions: Sequence[_Question], replies: Sequence[Reply]) -> dict[int, bool]:
        """Tell by question's number whether the weights alone give its fact; what is recalled need not be generated.

        Of old datasets other wordings are asked only where that is what is served: nothing else hangs on it, and it takes longest.
        """
        right: dict[int, bool] = {}
        left = []
        for number, (question, reply) in enumerate(zip(questions, replies, strict=True)):
            if question.is_trained and self._right[question.example.id]:
                right[number] = True
            elif question.is_trained or self._carried(question) is None or reply.mode == "weights":
                left.append(number)
        tokenizer = self._stack.base.tokenizer
        prompts = {number: self._task.prompt(tokenizer, questions[number].messages) for number in left}
        left.sort(key=lambda number: len(prompts[number]))
        ends = self._task.stop_tokens(tokenizer)
        lengths = {
            number: len(self._task.encode(tokenizer, questions[number].example).target) for number in left
        }
        for begin in range(0, len(left), generation.TOGETHER):
            numbers = left[begin : begin + generation.TOGETHER]
            longest = min(LONGEST, ROOM * max(lengths[number] for number in numbers))
            with self._stack.use(self._name) as model:
                answers = generation.greedy(model, [prompts[number] for number in numbers], ends, longest)
            for number, tokens in zip(numbers, answers, strict=True):
                right[number] = self._has_fact(questions[number].example, self._task.text(tokenizer, tokens))
        return right

    def _carried(self, question: _Question) -> Score | None:
        """Return what the parent's papers say of a dataset in other words by the weights alone, where that need not be asked again."""
        dataset = question.example.dataset
        known = self._parent.facts.get(dataset)
        return known.other if known and dataset not in self._new else None

    def _is_served(self, question: _Question, reply: Reply, alone: bool | None) -> bool:
        """Tell whether the answer that is served gives the question's fact."""
        if reply.mode == "weights":
            return bool(alone)
        # asked as it was trained, what is recalled is the example's own answer; what is not is quoted
        said = as_line(reply.rests_on.target) if reply.rests_on else reply.text or ""
        return reply.mode != "unknown" and self._has_fact(question.example, said)

    def _by_dataset(
        self, questions: Sequence[_Question], alone: Mapping[int, bool], served: Sequence[bool]
    ) -> dict[str, FactRecall]:
        numbers: dict[tuple[str, bool], list[int]] = {}
        for number, each in enumerate(questions):
            numbers.setdefault((each.example.dataset, each.is_trained), []).append(number)
        found = {}
        for name in dict.fromkeys(each.example.dataset for each in questions):
            trained, others = numbers[name, True], numbers.get((name, False), [])
            carried = self._carried(questions[others[0]]) if others else None
            is_asked = not carried or all(number in alone for number in others)
            asked = score([alone[number] for number in others]) if others and is_asked else None
            found[name] = FactRecall(
                trained=score([alone[number] for number in trained]),
                trained_served=score([served[number] for number in trained]),
                other=asked or carried,
                other_sessions_ago=0 if is_asked else _older(self._parent.facts[name]),
                other_served=score([served[number] for number in others]) if others else None,
            )
        return found

    def _has_fact(self, example: Example, given: str) -> bool:
        return facts.has_fact(as_line(example.input), as_line(example.target), given, self._slots)


def _datasets(examples: Sequence[SessionExample]) -> list[str]:
    return list(dict.fromkeys(each.example.dataset for each in examples))


def _in_turn(examples: Sequence[SessionExample], before: Mapping[str, FactRecall]) -> list[str]:
    """Return the new datasets, the old ones most like them, and those that were not asked for longest."""
    new = {each.example.dataset for each in examples if each.is_new}
    old = [name for name in _datasets(examples) if name not in new]
    near = Counter(each.example.dataset for each in examples if each.is_near and each.example.dataset in old)
    alike = [name for name, _ in near.most_common(NEAR_IN_TURN)]
    waited = sorted(old, key=lambda name: before[name].sessions_ago if name in before else inf, reverse=True)
    return [*new, *list(dict.fromkeys([*alike, *waited]))[:IN_TURN]]


def _older(told: FactRecall) -> int:
    """Return how many sessions ago a dataset was asked in other words by the weights alone, a session later."""
    return told.other_sessions_ago + 1 if told.other else 0
