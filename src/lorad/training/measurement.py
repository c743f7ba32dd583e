"""Measuring what a session has made, as it will be served.

What lives here: the candidate reloaded onto the pristine base, beside its parent and the base. What never does: the
judge's limits (``evaluation.judge``), training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lorad.evaluation import general_ability, metrics
from lorad.models import adapters
from lorad.models.adapter_stack import AdapterStack
from lorad.records import Evaluation
from lorad.storage import files
from lorad.tasks import Generating, Row, Task
from lorad.training import calibrating, trainer
from lorad.training.calibrating import Scaling
from lorad.training.distillation import General
from lorad.training.known_rows import NOTHING, KnownRows
from lorad.training.process_group import ProcessGroup
from lorad.training.session_examples import SessionExample, score, scores, spread
from lorad.training.spot_checks import THIN

CANDIDATE = "candidate"
"""Of the candidate beside its base in memory."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """A trained adapter for the pristine base, and how it came about."""

    adapter: adapters.Adapter
    outcome: trainer.Outcome
    sample: Sequence[Row]
    """The rows that become the version's probes."""
    logits: torch.Tensor
    """What the model in memory said to ``sample``, to be compared with the one reloaded from disk."""
    truncation: float
    scaling: Scaling | None = None
    """How its probabilities were calibrated; ``None`` where nothing was held out."""


def ask(task: Task, model: Any, rows: Sequence[Row]) -> torch.Tensor:
    """Return a model's logits for a few rows, in fp32 on the CPU."""
    with torch.inference_mode():
        return task.forward(model, rows).logits.float().cpu()


@dataclass(frozen=True, slots=True)
class Answers:
    """Which rows are right, by a candidate and by its base."""

    right: dict[str, bool]
    """Of each example's id, of those that are held out too: whether the candidate has it right."""
    at_base: list[bool]
    """Of each new example: whether the base has it right by itself."""
    margins: dict[str, float] = field(default_factory=dict)
    """By how much, in logits, where the task tells (``metrics.margins``)."""

    @property
    def thinnest(self) -> tuple[str, ...]:
        """Return the ids of what is right by the least, the least first: twice as many as a test asks, since some may be forgotten."""
        right = sorted((margin, name) for name, margin in self.margins.items() if margin > 0)
        return tuple(name for _, name in right[: 2 * THIN])


def ask_all(
    task: Task,
    stack: AdapterStack,
    examples: Sequence[SessionExample],
    held_out: Sequence[SessionExample],
    of_base: dict[str, bool],
    group: ProcessGroup,
    known: KnownRows = NOTHING,
) -> Answers:
    """Test every row with what was reloaded as ``CANDIDATE``, and new ones with the base; each process takes its share.

    ``of_base`` is which examples the base has right, by id, as far as this session has asked: nothing is asked of it twice.
    What is ``known`` of rows is not computed again, and what was not is known from then on.
    """
    right: dict[str, bool] = {}
    margins: dict[str, float] = {}
    rows = [each.row for each in (*examples, *held_out)]
    with (
        stack.use(CANDIDATE) as model,
        known.laid(model, rows, is_stored=True),
    ):
        for several in (examples, held_out):
            ids = [each.example.id for each in several]
            asked = [each.row for each in several]
            if isinstance(task, Generating):
                found = group.measure(asked, lambda rows: metrics.margins(task, model, rows))
                margins |= zip(ids, found, strict=True)
                answers = [margin > 0 for margin in found]
            else:
                answers = group.ask(asked, lambda rows: metrics.recalled(task, model, rows))
            right |= zip(ids, answers, strict=True)
    # behind the candidate, which has stored what the layers below say of new rows
    at_base = _at_base(task, stack, [each for each in examples if each.is_new], of_base, group, known)
    return Answers(right, at_base, margins)


def measure(
    task: Task,
    stack: AdapterStack,
    candidate: Path,
    made: TrainingResult,
    examples: Sequence[SessionExample],
    answers: Answers,
    *,
    dataset: str,
    general: General,
    held_out: Sequence[SessionExample] = (),
    known: KnownRows = NOTHING,
    now: float = 0.0,
) -> Evaluation:
    """Measure what was reloaded as ``CANDIDATE`` over the pristine base, beside which rows are right.

    The probes and its calibration are written beside the adapter. ``general`` is what the base says of everyday texts; ``held_out``
    are examples that were not trained. What is ``known`` of those texts is not computed again.
    Of an old dataset that has such they alone say what was forgotten: what was trained is partly known by heart.
    """
    new = [each for each in examples if each.is_new]
    answered = answers.right
    with stack.use(CANDIDATE) as model:
        logits = ask(task, model, made.sample)
        with torch.inference_mode():
            own_metrics = dict(task.metrics(model, [each.row for each in examples]))
            own_metrics |= task.held_out_metrics(model, [each.row for each in held_out])
        files.write_json(candidate / metrics.PROBES, metrics.probe(task, model, made.sample))
        if made.scaling:
            own_metrics |= calibrating.keep(
                task, model, stack.base.tokenizer, candidate, made.scaling, held_out, now
            )
    untrained = [each for each in held_out if not each.is_new]
    apart = {each.example.dataset for each in untrained}
    trained = [each for each in examples if not each.is_new and each.example.dataset not in apart]
    old = [(each.right, answered[each.example.id]) for each in (*trained, *untrained)]
    return Evaluation(
        dataset=dataset,
        scores=scores(examples, answered),
        before=scores(examples, {each.example.id: each.right for each in examples}),
        new=score([answered[each.example.id] for each in new]),
        new_before=score([each.right for each in new]),
        new_chance=None if isinstance(task, Generating) else task.chance([each.row for each in new]),
        new_at_base=score(answers.at_base),
        untrained=scores(untrained, answered),
        untrained_before=scores(untrained, {each.example.id: each.right for each in untrained}),
        broken=sum(before and not now for before, now in old),
        mended=sum(now and not before for before, now in old),
        metrics=own_metrics,
        reload_difference=adapters.difference(stack.read(CANDIDATE), made.adapter),
        merge_difference=float((logits - made.logits).abs().max()),
        truncation_error=made.truncation,
        finite=made.adapter.is_finite(),
        ended_by=made.outcome.ended_by,
        **_general_ability(task, stack, examples, general, known),
    )


def _at_base(
    task: Task,
    stack: AdapterStack,
    examples: Sequence[SessionExample],
    of_base: dict[str, bool],
    group: ProcessGroup,
    known: KnownRows,
) -> list[bool]:
    """Return which examples the base gets right by itself: none, where a version brings the head."""
    if task.head.is_learned:
        return [False] * len(examples)
    asked = [each for each in examples if each.example.id not in of_base]
    rows = [each.row for each in asked]
    with stack.use(None) as pristine, known.laid(pristine, rows):
        answers = group.ask(rows, lambda rows: metrics.recalled(task, pristine, rows))
    of_base |= {each.example.id: ok for each, ok in zip(asked, answers, strict=True)}
    return [of_base[each.example.id] for each in examples]


def _general_ability(
    task: Task,
    stack: AdapterStack,
    examples: Sequence[SessionExample],
    general: General,
    known: KnownRows = NOTHING,
) -> dict[str, Any]:
    """Measure what those checks of the judge need that apply to this task alone."""
    found: dict[str, Any] = {}
    tokenizer = stack.base.tokenizer
    if "perplexity" in task.checks:
        found["perplexity_base"] = general.perplexity
        if general.perplexity is None:  # no texts are recorded for this task
            with stack.use(None) as pristine:
                found["perplexity_base"] = general_ability.perplexity(pristine, tokenizer)
    is_told = {"perplexity", "kl"} & task.checks
    texts = [*general.measured, *general_ability.text_blocks(tokenizer)] if is_told else []
    with (
        stack.use(CANDIDATE) as model,
        stack.use(None) as pristine,
        known.laid(model, texts, is_stored=True),
        known.laid(pristine, general.measured if "kl" in task.checks else []),
    ):
        if "perplexity" in task.checks:
            found["perplexity"] = general_ability.perplexity(model, tokenizer)
        if "kl" in task.checks:
            found["kl_base"] = general_ability.distance_from_base(stack, CANDIDATE, general.measured)
    if "degenerate" in task.checks and isinstance(task, Generating):
        sampled = spread(examples, general_ability.SAMPLED)
        asked = [each.example.input for each in sampled]
        own = [task.encode(tokenizer, each.example).target for each in sampled]
        with stack.use(CANDIDATE) as model:
            found["degenerate"] = general_ability.degenerate(model, tokenizer, task, asked, own)
        found["sampled"] = len(asked)
    return found
