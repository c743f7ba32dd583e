"""Asking a version what it learned and what it never saw, and how sure it is.

What lives here: finding the questions, loading the version as the engine does, fitting and measuring. What
never does: the arithmetic of calibration (``calibration``), keeping what was measured (``store``).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import torch

from lorad.errors import ConfigError, RegistryError
from lorad.evaluation.calibration import Asked, Reference, divide, draw, fit_temperature
from lorad.models import adapter_stack, bases, hardware
from lorad.models.context import context_length
from lorad.records import Example
from lorad.storage.memory import Memory
from lorad.tasks import Task, sampled

NEVER_TRAINED = "held out"
"""The source of what a version's own drops brought and no session has trained (``Task.held_out``)."""

Tell = Callable[[int, int], None]
"""Told how many questions are answered, and of how many."""


@dataclass(frozen=True, slots=True)
class Question:
    """An example to ask, and where it comes from."""

    example: Example
    source: str


def find_questions(
    memory: Memory,
    lineage: Sequence[str],
    never_trained: Collection[str] = (),
    others: Sequence[Example] = (),
) -> list[Question]:
    """Return what the version at the head of ``lineage`` must know, and those of ``others`` that it never saw.

    ``never_trained`` are the ids that its papers say were held out of training.
    """
    learned = [known.example for known in memory.learned(lineage)]
    asked = {example.input_id for example in learned}
    unseen = [example for example in others if example.input_id not in asked]
    return [
        *(
            Question(example, NEVER_TRAINED if example.id in never_trained else "memory")
            for example in learned
        ),
        *(Question(example, f"held out: {example.dataset}") for example in unseen),
    ]


def environment(model: Any) -> dict[str, str]:
    """Return what usually differs when a model's figures drift: device, precision, libraries."""
    return {
        "device": hardware.machine(model.device.type).name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "torch": installed("torch"),
        "transformers": installed("transformers"),
        **hardware.cuda_libraries(model.device.type),
    }


class CalibratedModel:
    """A version in memory that answers for itself, on the device and in the precision of the engine."""

    def __init__(
        self, version: Path, base: bases.Base, task: Task, questions: Sequence[Question], longest: int
    ) -> None:
        """``questions`` are all that there are: it is asked some of them, and what these mean may hang on the others."""
        self._examples = [question.example for question in questions]
        self._stack = adapter_stack.AdapterStack(base)
        self._stack.add(version.name, version)
        self._task = task
        self._longest = min(longest, context_length(base.model.config) or longest)
        self.version = version.name
        self.environment = environment(base.model)

    def ask(self, questions: Sequence[Question], tell: Tell) -> list[Asked]:
        """Return what came of the questions; those with more than ``longest`` tokens, or than the model reads, are left out."""
        tokenizer = self._stack.base.tokenizer
        held = sampled(self._task, tokenizer, [question.example for question in questions], self._examples)
        rows = [
            (question, row)
            for question in questions
            if (row := held.get(question.example.id)) is not None and len(row) <= self._longest
        ]
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            tell(done, len(rows))

        with self._stack.use(self.version) as model, torch.inference_mode():
            answers = self._task.confidences(model, tokenizer, [row for _, row in rows], count)
        return [
            Asked(id=question.example.id, source=question.source, confidence=confidence, right=right)
            for (question, _), (confidence, right) in zip(rows, answers, strict=True)
        ]


def measure(
    model: CalibratedModel, questions: Sequence[Question], most: int, now: float, tell: Tell
) -> Reference:
    """Ask at most so many questions of each source; one half fits the temperature, the other is measured."""
    fitting, measured = _halves(questions, most)
    asked = model.ask([*fitting, *measured], tell)
    ids = {question.example.id for question in fitting}
    fit = [(row.confidence, row.right) for row in asked if row.id in ids]
    rows = tuple(row for row in asked if row.id not in ids)
    if not rows:
        raise ConfigError(
            f"there are too few questions for {model.version}: at least two are needed; name a file of questions and "
            "answers that it never learned with --on FILE",
            code="no_questions",
        )
    return Reference(
        version=model.version,
        measured_at=now,
        environment=model.environment,
        temperature=fit_temperature(fit),
        fitted_on=len(fit),
        rows=rows,
    )


def measure_again(
    model: CalibratedModel, questions: Sequence[Question], reference: Reference, now: float, tell: Tell
) -> Reference:
    """Ask what the reference was measured on, as far as it is still among the questions."""
    ids = {row.id for row in reference.rows}
    rows = tuple(model.ask([question for question in questions if question.example.id in ids], tell))
    if not rows:
        raise RegistryError(
            f"none of the questions that {reference.version} was measured on are in memory any more; measure it again with: "
            f"lorad calibrate {reference.version} --force",
            code="nothing_to_compare",
        )
    return replace(reference, measured_at=now, environment=model.environment, rows=rows)


def _halves(questions: Sequence[Question], most: int) -> tuple[list[Question], list[Question]]:
    fitting: list[Question] = []
    measured: list[Question] = []
    for source in dict.fromkeys(question.source for question in questions):
        one, other = divide(draw([q.example for q in questions if q.source == source], most))
        fitting += [Question(example, source) for example in one]
        measured += [Question(example, source) for example in other]
    return fitting, measured
