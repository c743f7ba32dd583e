"""What ``lorad test`` asks, and what came of it.

What lives here: the questions that a dataset's examples make, which answers hold the facts, the counts, and the report as
text. What never does: reading files, asking, clocks, printing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lorad import printable
from lorad.apps.screens.state_text import duration, plural, share
from lorad.evaluation import facts
from lorad.records import Example, as_message

Form = Literal["as_written", "also_asked", "held_out"]
Way = Literal["served", "weights"]

FORMS: Mapping[Form, str] = {
    "as_written": "as written",
    "also_asked": "trained wordings",
    "held_out": "held-out wordings",
}
"""How a question is worded: as the file has it, or as one of its other wordings, trained or not."""

WAYS: Mapping[Way, str] = {"served": "as served", "weights": "weights only"}
"""Whether the example that a question asks for is looked for, as everybody's questions are, or the model is asked alone."""

ROLES = frozenset({"system", "user", "assistant"})
"""Roles of the conversations that are asked; others speak of tools."""

TIMES_LONGER = 4
LEAST_CHARACTERS = 400
"""An answer is read up to so many times the characters of the expected one, or so many: a model may never end."""

BAR = 20
"""Characters of the progress bar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, and the answer that is expected."""

    form: Form
    row: int
    """The example's row in the file, counted from 1."""
    messages: Sequence[Mapping[str, Any]]
    written: str
    """The question as the file words it."""
    expected: str

    @property
    def asked(self) -> str:
        """Return the last message."""
        return str(self.messages[-1]["content"])

    @property
    def most_characters(self) -> int:
        """Return up to where an answer is read."""
        return max(LEAST_CHARACTERS, TIMES_LONGER * len(self.expected))


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An answer."""

    text: str
    model: str = ""
    """The track and the version that answered, as ``chat@v0.1``."""
    mode: str | None = None
    """See ``completions.Origin``; ``None`` where no example was looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A question that was asked."""

    form: Form
    way: Way
    row: int
    asked: str
    expected: str
    said: str
    mode: str | None
    is_right: bool
    """Whether all facts of the expected answer are in it, and no other in their place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How many facts were right in one form, asked in one way."""

    form: Form
    way: Way
    right: int
    total: int
    low: float
    high: float
    """Wilson's interval of the share, 95 %."""
    refused: int
    """How often lorad said that it does not know; none of these is right."""
    modes: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a test."""

    file: str
    models: tuple[str, ...]
    """Who answered: one, unless another version began to serve meanwhile."""
    seconds: float
    left_out: int
    """Examples that were not asked: they speak of tools."""
    results: tuple[Result, ...]
    misses: tuple[Outcome, ...]


def questions(examples: Iterable[Example]) -> list[Question]:
    """Return what the examples ask: each as it is written, then each of its other wordings."""
    return [question for example in examples if _is_told_in_text(example) for question in _forms(example)]


def _is_told_in_text(example: Example) -> bool:
    is_plain = all(message["role"] in ROLES for message in example.input)
    return is_plain and "tool_calls" not in as_message(example.target)


def _forms(example: Example) -> Iterator[Question]:
    *before, last = example.input
    wordings: Mapping[Form, Sequence[str]] = {
        "as_written": [last["content"]],
        "also_asked": example.also_asked,
        "held_out": example.held_out,
    }
    for form, texts in wordings.items():
        for text in texts:
            yield Question(
                form=form,
                row=example.line,
                messages=[*before, last | {"content": text}],
                written=last["content"],
                expected=as_message(example.target)["content"],
            )


class Grader:
    """Tells which answers hold the facts; the facts of the other rows are wrong in their place."""

    def __init__(self, asked: Iterable[Question]) -> None:
        self._others = facts.all_slots((each.written, each.expected) for each in asked)

    def outcome(self, question: Question, way: Way, said: Said) -> Outcome:
        """Return what came of a question.

        What the file's wording names is asked for, whatever words name it now: that it stands in the answer is no fact.
        """
        named = question.written if question.form == "as_written" else f"{question.written}\n{question.asked}"
        is_right = facts.has_fact(named, question.expected, said.text, self._others)
        return Outcome(
            form=question.form,
            way=way,
            row=question.row,
            asked=question.asked,
            expected=question.expected,
            said=said.text,
            mode=said.mode,
            is_right=is_right and said.mode != "unknown",
        )


def results(outcomes: Sequence[Outcome]) -> tuple[Result, ...]:
    """Count the outcomes by form and way, in the order of ``FORMS`` and ``WAYS``."""
    groups = [
        [each for each in outcomes if (each.form, each.way) == (form, way)] for form in FORMS for way in WAYS
    ]
    return tuple(_result(group) for group in groups if group)


def _result(group: Sequence[Outcome]) -> Result:
    right = sum(each.is_right for each in group)
    low, high = facts.wilson(right, len(group))
    modes = Counter(each.mode for each in group if each.mode is not None)
    return Result(
        form=group[0].form,
        way=group[0].way,
        right=right,
        total=len(group),
        low=low,
        high=high,
        refused=modes["unknown"],
        modes=dict(modes),
    )


def progress(done: int, total: int, seconds: float) -> str:
    """Return a bar and the time that is left if the rest is as fast as what is done."""
    filled = BAR * done // max(1, total)
    left = f", about {duration(seconds / done * (total - done))} left" if done else ""
    return f"[{'#' * filled}{'.' * (BAR - filled)}] {done} of {total}{left}"


def lines(report: Report, most_misses: int) -> Iterator[str]:
    """Yield the report as text; of the misses the first ones."""
    yield f"{report.file}, asked of {' and '.join(report.models)} in {duration(report.seconds)}"
    for result in report.results:
        interval = f"95 %: {100 * result.low:.1f} to {100 * result.high:.1f} %"
        refused = f", {result.refused} refused" if result.refused else ""
        counted = f"{result.right} of {result.total} facts right, {share(result.right / result.total)}"
        yield f"  {FORMS[result.form]:<18}{WAYS[result.way]:<13} {counted} ({interval}){refused}"
    if report.left_out:
        yield f"  not asked: {plural(report.left_out, 'example')} with tools"
    shown = report.misses[:most_misses]
    if shown:
        of = f"the first {len(shown)} of {len(report.misses)}" if len(shown) < len(report.misses) else "all"
        yield f"misses, {of}:"
    for miss in shown:
        yield from _miss(miss)


def _miss(miss: Outcome) -> Iterator[str]:
    refused = ", refused" if miss.mode == "unknown" else ""
    yield f"  row {miss.row}, {FORMS[miss.form]}, {WAYS[miss.way]}{refused}"
    for heading, text in (("asked", miss.asked), ("expected", miss.expected), ("said", miss.said)):
        yield f"    {heading:<9} {' '.join(printable.text(text).split())}"
