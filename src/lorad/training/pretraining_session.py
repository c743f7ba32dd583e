"""A session that trains a whole model on plain text (``base: scratch``).

What lives here: the way from documents to a candidate, and its measurements. What never does: the loop (``pretraining``), the
judge's limits.

    random weights, or the parent's -> all of them trained on the new text and some of the old, until the loss stands still
    -> written, reloaded, measured on every dataset's held-out documents beside the parent
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from transformers import set_seed

from lorad.config import PretrainingSettings
from lorad.errors import TrainingError
from lorad.evaluation import judge, metrics
from lorad.evaluation.language_modeling import TextScore
from lorad.models import adapters, bases, scratch, version_weights
from lorad.models.adapter_stack import AdapterStack
from lorad.records import Evaluation, Example, Score, Verdict
from lorad.storage import files
from lorad.tasks.pretraining import SHARE, Pretraining
from lorad.training import corpus, pretraining
from lorad.training.corpus import Corpus
from lorad.training.measurement import CANDIDATE, Answers, TrainingResult, ask
from lorad.training.session_base import BaseSession, fresh_folder
from lorad.training.session_examples import SessionExample, spread

PROBES, PROBE_TOKENS = 4, 24
"""Documents whose beginnings are asked at every load, and how many tokens of each."""


class PretrainingSession(BaseSession):
    """One specification on its way to a candidate: a whole model."""

    def run(self) -> None:
        """Make a candidate: train and measure."""
        self._begin()
        task = cast("Pretraining", self._task)
        settings = PretrainingSettings.model_validate(self.spec.settings["pretraining"])
        base = self._load()
        if self.spec.parent:
            version_weights.put(base.model, version_weights.read(Path(self.spec.parent)))
        new, old = self.folder.new(), [item.example for item in self.folder.old()]
        if self.spec.kind == "refit":
            new, old = old, []
        text = self._corpus(task, base, new, old, settings)
        held_out = pretraining.held_out_rows(task, base.tokenizer, text, settings)
        self.report({"phase": "testing"})
        before = self._measure(task, base.model, held_out)
        made = self._train(task, base, text, settings, [*new, *old])
        evaluation = self._evaluate(task, made, held_out, before, {each.dataset for each in new})
        verdict: Verdict = judge.decide(evaluation, self._limits)
        if self._group.is_first:
            self._complete(made, new, old, text, evaluation, verdict)

    # -- text

    def _corpus(
        self,
        task: Pretraining,
        base: bases.Base,
        new: Sequence[Example],
        old: Sequence[Example],
        settings: PretrainingSettings,
    ) -> Corpus:
        """Return the text of the session in sequences; how well the tokenizer writes the new text is noted."""
        self.report({"phase": "packing"})
        found = corpus.read(
            task,
            base.tokenizer,
            new,
            old,
            length=self.spec.plan.max_length,
            validation_share=settings.validation_share,
        )
        self._notes += coverage(task, base.tokenizer, new, scratch.label(Path(self.spec.base)))
        made = Corpus(found, self.spec.plan.mix.share, self.spec.plan.seed)
        if not made.size:
            raise TrainingError("there is no text to learn", code="nothing_new")
        return made

    # -- training

    def _train(
        self,
        task: Pretraining,
        base: bases.Base,
        text: Corpus,
        settings: PretrainingSettings,
        examples: Sequence[Example],
    ) -> TrainingResult:
        """Train every weight; the base is the trained model then."""
        plan = self.spec.plan
        set_seed(plan.seed)
        checkpoints = self._checkpoints()
        outcome = pretraining.train(
            task,
            base.model,
            base.tokenizer,
            text,
            plan,
            settings,
            report=self.report,
            checkpoints=checkpoints,
            group=self._group,
        )
        self._notes += checkpoints.broken
        self._notes.append(_told_end(len(outcome.history), outcome.returned_to, outcome.ended_by))
        sample = [
            _beginning(task, base.tokenizer, each) for each in spread(examples, PROBES)
        ]  # the same words that a version of any task is asked
        weights = version_weights.read_live(base.model)
        if self._group.is_first:
            version_weights.write(base.model, fresh_folder(self.folder.candidate))
        return TrainingResult(weights, outcome, sample, ask(task, base.model, sample), 0.0)

    # -- measuring

    def _evaluate(
        self,
        task: Pretraining,
        made: TrainingResult,
        held_out: Mapping[str, Sequence[Any]],
        before: Mapping[str, TextScore],
        learned: set[str],
    ) -> Evaluation:
        """Measure the candidate as it will be served: reloaded from disk."""
        self.report({"phase": "judging"})
        self._group.wait()  # until the first process has written it
        stack = AdapterStack(self._load())
        stack.add(CANDIDATE, self.folder.candidate)
        model = stack.model(CANDIDATE)
        now = self._measure(task, model, held_out)
        logits = ask(task, model, made.sample)
        if self._group.is_first:
            files.write_json(self.folder.candidate / metrics.PROBES, metrics.probe(task, model, made.sample))
        fresh = self.spec.parent is None
        new, new_before = (_pooled(scores, learned) for scores in (now, before))
        return Evaluation(
            dataset=self.spec.dataset,
            scores={name: score.guessed for name, score in now.items()},
            before={name: score.guessed for name, score in before.items()},
            new=new,
            new_before=new_before,
            new_at_base=new_before if fresh else Score(right=0, total=0),
            perplexities={name: score.perplexity for name, score in now.items()},
            perplexities_before={name: score.perplexity for name, score in before.items()},
            broken=0,
            mended=0,
            metrics=_metrics(now, made),
            reload_difference=adapters.difference(stack.read(CANDIDATE), made.adapter),
            merge_difference=float((logits - made.logits).abs().max()),
            truncation_error=0.0,
            finite=made.adapter.is_finite(),
            ended_by=made.outcome.ended_by,
            notes=tuple(self._notes),
        )

    def _measure(
        self, task: Pretraining, model: Any, held_out: Mapping[str, Sequence[Any]]
    ) -> dict[str, TextScore]:
        return {name: pretraining.measure(task, model, rows, self._group) for name, rows in held_out.items()}

    # -- after

    def _complete(
        self,
        made: TrainingResult,
        new: Sequence[Example],
        old: Sequence[Example],
        text: Corpus,
        evaluation: Evaluation,
        verdict: Verdict,
    ) -> None:
        """Write the candidate's papers. A document that was learned is recalled; nobody asks for it word for word."""
        apart = frozenset().union(*(each.apart for each in text.datasets.values()))
        asked = [
            SessionExample(each, None, is_new=is_new, right=True, knows=True)  # type: ignore[arg-type] # text is not kept as rows
            for is_new, examples in ((True, new), (False, old))
            for each in examples
        ]
        self._held_out = [each for each in asked if each.example.id in apart]
        trained = [each for each in asked if each.example.id not in apart]
        answers = Answers({each.example.id: True for each in asked}, at_base=[])
        self._write(made, trained, replace(evaluation, notes=tuple(self._notes)), answers, verdict)


def coverage(
    task: Pretraining, tokenizer: Any, examples: Sequence[Example], label: Mapping[str, Any]
) -> list[str]:
    """Return how well the tokenizer writes some documents, beside the text that it was trained on, as a note."""
    tokens = [token for each in spread(examples, 100) for token in task.tokens(tokenizer, each.target)]
    characters = sum(len(each.target) for each in spread(examples, 100))
    if not tokens:
        return []
    bytewise = sum(len(word) == 1 for word in tokenizer.convert_ids_to_tokens(tokens))
    first = label.get("characters_per_token")
    beside = f", {first:.2f} in the text that it was trained on" if first else ""
    read, written = label.get("characters_read", 0), label.get("characters", 0)
    if read < written:
        beside += f" (the beginnings of its documents, {read} of {written} characters)"
    told = (
        f"the tokenizer can write every character; here a token is {characters / len(tokens):.2f} characters{beside}, and "
        f"{bytewise / len(tokens):.0%} of the tokens are single bytes"
    )
    return [told]


def _beginning(task: Pretraining, tokenizer: Any, example: Example) -> Any:
    """Return the first tokens of a document as a row."""
    tokens = task.tokens(tokenizer, example.target[: PROBE_TOKENS * 8])[: PROBE_TOKENS - 2]
    (block,) = task.pack(tokenizer, [tokens], PROBE_TOKENS)[:1]
    return task.rows(tokenizer, [block], SHARE, seed=int(example.id[:8], 16))[0]


def _told_end(epochs: int, best: int | None, ended_by: str) -> str:
    """Return what ended the training, and whose weights are kept."""
    stopped = "stopped early, as the loss stood still," if ended_by == "patience" else "ended"
    kept = f"; the weights are those of epoch {best}, which was best" if best else ""
    return f"training {stopped} after {epochs} epochs{kept}"


def _pooled(scores: Mapping[str, TextScore], names: set[str]) -> Score:
    found = [score.guessed for name, score in scores.items() if name in names]
    return Score(right=sum(each.right for each in found), total=sum(each.total for each in found))


def _metrics(scores: Mapping[str, TextScore], made: TrainingResult) -> dict[str, float]:
    """Return what the list of versions tells: means over all datasets, and how training ended."""
    return {
        "perplexity": pretraining.mean(score.perplexity for score in scores.values()),
        "token_accuracy": pretraining.mean(score.guessed.recall for score in scores.values()),
        "epochs_completed": float(len(made.outcome.history)),
        "early_stopped": float(made.outcome.ended_by == "patience"),
    }
