"""One session, run as a child process. A specification in a folder in, a candidate in the same folder out.

    python -m lorad.training.session FOLDER [DESCRIPTOR]

alone, or several times at once by torchrun: then all processes train together (``process_group``).

Its only result is the folder: ``progress.jsonl`` while it runs, ``candidate/`` when it is done. It never
touches the ledger, the versions or the inbox, so that killing it loses nothing but time. Where it is handed a mark
(``storage.busy_mark``), it waits while questions are answered.

    base + parent, merged exactly (on a quantised base: side by side; a consolidation attenuates it first) -> fresh LoRA on new data + rehearsal
    -> parent and fresh as one adapter
    -> written, reloaded onto the pristine base (what was merged is put back from its files), measured; one repair, one refit, if the judge says no
"""

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from lorad.config import AnsweringSettings, PlannerSettings, TrainingSettings
from lorad.datasets import label_names
from lorad.errors import ConfigError, TrainingError, TransientError, describe
from lorad.evaluation import judge, metrics
from lorad.models import adapters, bases, hardware, heads, peft_io, second_moments, soft_targets
from lorad.models.adapter_stack import AdapterStack
from lorad.models.context import context_length
from lorad.records import Encoded, Evaluation, Plan, SessionSpec, Verdict
from lorad.storage import files, permissions
from lorad.storage.busy_mark import FollowedMark
from lorad.tasks import Generating, encode, find
from lorad.training import (
    calibrating,
    distillation,
    ending,
    known_rows,
    merged_candidate,
    planner,
    preconditioning,
    process_group,
    spot_checks,
    trainer,
)
from lorad.training.checkpoint import Checkpoints
from lorad.training.fact_measurement import FactMeasurement, FactReport
from lorad.training.known_rows import NOTHING, KnownRows
from lorad.training.measurement import CANDIDATE, Answers, TrainingResult, ask, ask_all, measure
from lorad.training.pauses import Pauses
from lorad.training.pretraining_session import PretrainingSession
from lorad.training.process_group import ALONE, ProcessGroup
from lorad.training.rehearsal import ReplayItem
from lorad.training.rewording import Rewording
from lorad.training.run_folder import RunFolder
from lorad.training.session_base import BaseSession, fresh_folder
from lorad.training.session_examples import (
    SessionExample,
    anew,
    select,
    spread,
    with_alike,
    with_near,
    with_thin,
)
from lorad.versions import export, loader, papers

PROBES = 4
MOST_NUMBERS = 1 << 26
"""Of moments: half a gigabyte while they are added up, and half of that while training holds their roots. SmolLM2's last layers have
52 million at most."""
MANY = 256
"""Old rows from which on a round rehearses so few of them that what is learned must keep away from the others by itself."""
REFIT_ROUNDS = 10
"""Rounds that learning everything anew takes at least."""
LOSS_SECONDS = 5.0
"""A process that has lost another one ends by itself so long afterwards, where it is on another machine."""


def _is_lost(evaluation: Evaluation) -> bool:
    """Tell whether a candidate gives one and the same answer to everything: what a rate too high ends at, which no repair mends."""
    chance, new = evaluation.new_chance, evaluation.new
    return chance is not None and bool(new.total) and new.recall <= chance


def _refusals(verdict: Verdict) -> str:
    """Return why a candidate did not pass, in a sentence's end."""
    return "; ".join(
        reason.removeprefix(judge.FAILED) for reason in verdict.reasons if reason.startswith(judge.FAILED)
    )


@dataclass(frozen=True, slots=True)
class StartingModel:
    """What training begins with: the base with the parent merged into it, or laid over it where it is quantised."""

    base: bases.Base
    parent: adapters.Adapter | None
    truncation: float
    general: list[soft_targets.SoftTargets]
    """General conversation as the pristine base says it."""
    beside: Any = None
    """PEFT's wrapper of the model, where the parent lies beside its layers."""
    is_attenuated: bool = False
    """Whether the parent is not quite what was judged, for another reason than a truncation."""


class Session(BaseSession):
    """One specification on its way to a candidate: an adapter."""

    def __init__(
        self,
        folder: RunFolder,
        spec: SessionSpec,
        pauses: Pauses | None = None,
        group: ProcessGroup = ALONE,
    ) -> None:
        """With ``pauses`` the session waits for answers. Each process of a ``group`` runs a session of the same request."""
        super().__init__(folder, spec, pauses, group)
        self._held: bases.Base | None = None
        """The base in memory; what is merged into it is put back before anything else is done with it."""
        self._is_clean = False
        """Whether nothing was put into it since it was loaded or put back."""
        self._merged: list[str] = []
        self._known = self._known_general = NOTHING
        self._of_base: dict[str, bool] = {}
        """Which examples the base has right by itself, by id, of those that it was asked."""
        self._parent_form = loader.made_for(Path(spec.parent)) if spec.parent else spec.plan.quantization
        """In which form of the base the parent was judged."""

    # -- the picture

    def run(self) -> None:
        """Make a candidate: train, measure, and mend it once or twice if it does not pass."""
        self._begin()
        parent = peft_io.read_adapter(Path(self.spec.parent)) if self.spec.parent else None
        examples = self._examples(self._pristine())
        attenuated = self._attenuate(parent, examples) if parent and self._is_attenuable else None
        parent = attenuated or parent
        start, examples = self._start(parent, examples, is_attenuated=attenuated is not None)
        taught = anew(examples) if self.spec.kind == "refit" else examples
        made = self._train(start, taught, self.spec.plan, self._checkpoints())
        del start  # or its base would be in memory beside the one that is judged
        evaluation, answers, verdict = self._measure(made, examples)
        is_lost = _is_lost(evaluation)
        if not verdict.promote and self._repairable(verdict) and not is_lost:
            self._repairs.append("repair")
            self._notes.append(f"the first candidate was repaired: {_refusals(verdict)}")
            made = self._repair(made, examples, answers.right)
            evaluation, answers, verdict = self._measure(made, examples)
        is_worth_it = not verdict.promote and self._refittable(verdict) and (parent is not None or is_lost)
        if (
            is_worth_it
            and self._may_refit()
            and self._group.first(bool, lambda: self._has_time_to_refit(made.outcome, examples))
        ):
            self._repairs.append("refit")
            self._notes.append(f"everything was learned anew from the base: {_refusals(verdict)}")
            refitted = self._refit(examples, slower=is_lost)
            measured = self._measure(refitted, examples, self.folder.refitted)
            if measured[2].promote:
                made, (evaluation, answers, verdict) = refitted, measured
            else:
                self._notes.append(f"the refit failed too: {', '.join(measured[2].failed)}")
            if self._group.is_first:
                self.folder.end_refit(is_better=measured[2].promote)
        if self._group.is_first:
            self._complete(made, examples, evaluation, answers, verdict)

    def _complete(
        self,
        made: TrainingResult,
        examples: Sequence[SessionExample],
        evaluation: Evaluation,
        answers: Answers,
        verdict: Verdict,
    ) -> None:
        """Write what lies beside the adapter."""
        if verdict.promote and self._training.merge_adapters_on_save and export.has_known_head(self._task):
            self.report({"phase": "merging"})
            self._notes += merged_candidate.write(
                self.folder, Path(self.spec.base), self._task, self.spec.plan.quantization
            )
        evaluation = replace(evaluation, repairs=tuple(self._repairs), notes=tuple(self._notes))
        self._write(made, examples, evaluation, answers, verdict)

    @property
    def _imported(self) -> str | None:
        """Return the version from outside that the parent is or carries on, if there is one: what it knows stands in no memory."""
        return self.spec.settings.get("imported")

    @property
    def _is_attenuable(self) -> bool:
        """Tell whether what the parent's rows do not need may be taken out of it: it must be as its papers say, and memory all it knows."""
        return self.spec.kind == "consolidate" and self._is_parent_believed and not self._imported

    def _may_refit(self) -> bool:
        """Tell whether everything may be learned anew from the base where that might do; a note says why not."""
        if self.spec.kind == "consolidate":  # what was to take minutes
            return False
        if self._imported:
            self._notes.append(
                f"no refit: {self._imported} came from outside, and what it knows stands in no memory"
            )
        return not self._imported

    def _has_time_to_refit(self, so_far: trainer.Outcome, examples: Sequence[SessionExample]) -> bool:
        """Tell whether every row can be learned anew, at the pace so far, before the session is stopped."""
        seconds_per_token = max(0.0, so_far.seconds - self._paused_training) / max(1, so_far.tokens)
        rounds = max(REFIT_ROUNDS, 2 * self.spec.plan.epochs)
        needed = rounds * seconds_per_token * sum(len(each.row) for each in examples)
        left = self._training.max_seconds - (time.monotonic() - self._began - self._paused)
        if needed > left:
            self._notes.append(
                f"no refit: it would take about {needed:.0f} s, of training.max_seconds {left:.0f} s are left"
            )
        return needed <= left

    def _repairable(self, verdict: Verdict) -> bool:
        """Only what more training can mend is worth its time."""
        return all(
            name.startswith(("new_recall", "retention", "significance", "facts")) for name in verdict.failed
        )

    def _refittable(self, verdict: Verdict) -> bool:
        """Learning everything anew also ends what has drifted over many sessions; a broken machine it does not mend."""
        return not {"finite", "reload", "merge"} & set(verdict.failed)

    # -- before

    def _prepare(self, parent: adapters.Adapter | None, plan: Plan) -> StartingModel:
        """Take the pristine base and merge the parent into it, truncated first if the ranks would not fit.

        Truncating before training and not after it lets the training mend what the truncation broke.
        """
        base = self._to_change()
        general = self._general(base).trained  # the pristine base's, so before anything is merged into it
        truncation = 0.0
        if parent is not None and parent.rank + plan.rank > plan.max_rank:
            parent, truncation = adapters.consolidate(parent, max(1, plan.max_rank - plan.rank))
            self._notes.append(
                f"the parent was truncated to rank {parent.rank}, relative error {truncation:.4f}"
            )
        if parent is not None and not base.is_quantized:
            self._merge(base, parent)
        if self._task.head.parts:
            labels, problem_type, splits_words = self._outputs(base, parent)
            heads.build(base.model, self._task.head, labels, problem_type, splits_words=splits_words)
            heads.put(base.model, parent.head if parent else {})
        is_laid = parent is not None and base.is_quantized
        beside = peft_io.lay(base.model, parent, self._task.head) if parent and is_laid else None
        return StartingModel(base, parent, truncation, general, beside)

    def _start(
        self,
        parent: adapters.Adapter | None,
        examples: Sequence[SessionExample],
        *,
        is_attenuated: bool,
    ) -> tuple[StartingModel, list[SessionExample]]:
        """Return what training begins with, and the examples beside what the parent knows of them.

        Where its papers may not hold it is asked before it is truncated: what that breaks is forgotten, and not what it never knew.
        """
        plan, is_believed = self.spec.plan, self._is_parent_believed
        whole = parent.rank + plan.rank if parent else 0
        as_it_is = plan if is_believed or whole <= plan.max_rank else replace(plan, max_rank=whole)
        start = replace(self._prepare(parent, as_it_is), is_attenuated=is_attenuated)
        self._known, self._known_general = self._known_rows(start.base, parent)
        examples = self._ask_parent(start, examples, is_believed=is_believed)
        if as_it_is is not plan:
            del start  # or its base might be in memory beside another one
            start = self._prepare(parent, plan)
            examples = self._ask_parent(start, examples)
        return start, examples

    def _merge(self, base: bases.Base, parent: adapters.Adapter) -> None:
        self._merged = list(parent.factors)
        adapters.merge(base.model, parent)

    def _attenuate(
        self, parent: adapters.Adapter, examples: Sequence[SessionExample]
    ) -> adapters.Adapter | None:
        """Return the parent without what it changes of general texts and its rows do not need; ``None`` for a task without such texts.

        In closed form, before training and not after it, which mends what it breaks. Rows are read with the parent, which is to be kept,
        texts by the pristine base, which is to be left as it is. One base is in memory, whatever is put back into it or loaded anew.
        """
        texts = [each.row for each in self._general(self._pristine()).trained]
        rows = [each.row for each in examples if isinstance(each.row, Encoded)]
        if not texts or not rows:
            return None
        rank = max(1, self.spec.plan.max_rank - self.spec.plan.rank)
        factors: dict[str, Any] = {}
        errors = []

        def tell(done: int) -> None:
            self.report({"phase": f"attenuating what was learned: {done} of {len(rows)} rows are read"})

        for part in list(second_moments.parts(self._pristine().model, list(parent.factors))):
            of_texts = second_moments.of_texts(self._pristine().model, part, texts)
            of_rows = second_moments.of_rows(self._with(parent), part, rows, tell)
            own = replace(parent, factors={name: parent.factors[name] for name in part})
            found, error = adapters.attenuate(own, of_rows, of_texts, rank)
            factors |= found.factors
            errors.append(error)
        self._notes.append(
            f"the parent's effect on general texts was taken out of it as far as its {len(rows)} rows allow; before training mended it, its "
            f"outputs on them were off by {max(errors):.1%}"
        )
        return replace(parent, factors=factors)

    def _with(self, parent: adapters.Adapter) -> Any:
        """Return the pristine base's model with the parent merged into it, or beside it where it is quantised."""
        base = self._to_change()
        if base.is_quantized:
            peft_io.lay(base.model, parent, self._task.head)
        else:
            self._merge(base, parent)
        return base.model

    def _pristine(self) -> bases.Base:
        """Return the base as its files have it. It is loaded once; a later call takes out what training has put in."""
        held, self._held = self._held, None  # or an old one would be in memory while another is loaded
        if held is None or not (self._is_clean or self._put_back(held)):
            held = None
            held = self._load()
        self._held, self._merged, self._is_clean = held, [], True
        return held

    def _to_change(self) -> bases.Base:
        """Return it to somebody who puts something into it."""
        base = self._pristine()
        self._is_clean = False
        return base

    def _put_back(self, base: bases.Base) -> bool:
        """Undo what training has done to a base, to the bit; return whether it could be done."""
        if base.is_quantized or self._task.head.is_learned or self.spec.plan.gradient_checkpointing:
            return False
        peft_io.unwrap(base.model)
        bases.make_ready(base.model)
        return bases.put_back(base, self._merged)

    def _outputs(
        self, base: bases.Base, parent: adapters.Adapter | None
    ) -> tuple[list[str], str | None, bool]:
        """Return the labels that the candidate knows: its parent's, and behind them those that are new.

        And what they say together, which is what its parent's say, if it has any; and whether spans may begin or end inside
        words.
        """
        examples = [*self.folder.new(), *(item.example for item in self.folder.old())]
        usable, _ = encode(self._task, base.tokenizer, examples)
        rows = [row for _, row in usable]
        known, told = parent.labels if parent else (), self._task.labels(rows)
        # learned anew, labels stand where they stood, but for those that no row has any more
        before = peft_io.read_labels(Path(self.spec.parent)) if self.spec.parent and parent is None else ()
        labels = list(dict.fromkeys([*known, *(label for label in before if label in told), *told]))
        label_names.check(labels)
        if rows and not labels:
            raise TrainingError("no row has a label; drop some with labels first", code="no_labels")
        asked, splits_words = self._task.problem_type(rows), self._task.splits_words(rows)
        if parent is None or not known:
            return labels, asked, splits_words
        if rows and asked != parent.problem_type:
            raise TrainingError(
                "the version before was taught texts with one label each, and these have lists of labels, or the other "
                "way round; drop them into another track",
                code="other_labels",
            )
        return labels, parent.problem_type, splits_words or parent.splits_words

    @property
    def _is_parent_believed(self) -> bool:
        """Tell whether what the parent's papers say of it holds over the base as it is held here."""
        return self._parent_form == self.spec.plan.quantization

    def _ask_parent(
        self, start: StartingModel, examples: Sequence[SessionExample], *, is_believed: bool = True
    ) -> list[SessionExample]:
        """Test what the parent knows of the new examples; of the old ones too where its papers may not hold.

        After a truncation, or an attenuation, a part of them is asked, and all where that part has lost much (``spot_checks``).
        """
        self.report({"phase": "testing"})
        asked = [each for each in examples if each.is_new or not is_believed]
        said = self._ask(start.base.model, asked)
        if start.parent is None and not self._task.head.is_learned:
            self._of_base |= said
        if (start.truncation or start.is_attenuated) and is_believed:
            said |= self._ask_some(start, examples)
        found = []
        for each in examples:
            knows = said.get(each.example.id, each.knows)
            is_measured = each.is_new or not is_believed
            found.append(replace(each, knows=knows, right=knows if is_measured else each.right))
        if not is_believed:
            lost = sum(then.right and not now.right for then, now in zip(examples, found, strict=True))
            self._notes.append(
                f"the parent was judged with quantization {self._parent_form}, this session has "
                f"{self.spec.plan.quantization}: its answers were measured again, {lost} old ones are wrong now"
            )
        return found

    def _known_rows(self, base: bases.Base, parent: adapters.Adapter | None) -> tuple[KnownRows, KnownRows]:
        """Return what is known of this track's rows, and of general texts; where several processes share the rows, each reads its own."""
        path = self.spec.settings.get("lower_states")
        is_short = self.spec.plan.gradient_checkpointing  # of memory
        if path is None or self._group.size > 1 or is_short or not isinstance(self._task, Generating):
            return NOTHING, NOTHING
        places = Path(path), distillation.beside(base, self._task, "lower_states")
        of_rows, of_texts = (
            known_rows.find(each, base, parent, self.spec.plan.first_layer) for each in places
        )
        return of_rows, of_texts

    @property
    def _is_exact(self) -> bool:
        """Tell whether numbers that were computed among other rows give the same answers: in bfloat16 near ties come out otherwise.

        What a test says before training and between rounds decides what is trained, and that must come out the same again.
        """
        return self.spec.plan.dtype == "float32"

    def _ask(self, model: Any, examples: Sequence[SessionExample]) -> dict[str, bool]:
        asked = [each.row for each in examples]
        with (self._known if self._is_exact else NOTHING).laid(model, asked):
            answers = self._group.ask(asked, lambda rows: metrics.recalled(self._task, model, rows))
        return {each.example.id: bool(ok) for each, ok in zip(examples, answers, strict=True)}

    def _ask_some(self, start: StartingModel, examples: Sequence[SessionExample]) -> dict[str, bool]:
        """Return what a truncated parent says of old examples that it may have lost; how many is noted."""
        old = [each for each in examples if not each.is_new]
        if self.spec.kind == "consolidate":  # to mend what was broken so is all that it does
            return self._ask(start.base.model, old)

        def ask(numbers: Sequence[int]) -> dict[int, bool]:
            found = self._ask(start.base.model, [old[number] for number in numbers])
            return {number: found[old[number].example.id] for number in numbers}

        likely = [number for number, each in enumerate(old) if each.is_at_risk]
        checks = spot_checks.SpotChecks(range(len(old)), likely, self.spec.plan.seed)
        knew = {number: each.knows for number, each in enumerate(old)}
        said = spot_checks.run(checks, knew, ask)
        lost = spot_checks.changes(knew, said).broken
        self._notes.append(
            f"the truncation made {lost} of {len(said)} old examples wrong that were asked before training"
        )
        return {old[number].example.id: ok for number, ok in said.items()}

    def _examples(self, base: bases.Base) -> list[SessionExample]:
        """Return the examples of the specification with their rows; what is left out is noted."""
        most = context_length(base.model.config)
        selection = select(self.folder, self._task, base.tokenizer, self.spec, most)
        self._notes += selection.notes
        self._too_long = len(selection.too_long)
        if selection.too_long:
            self.report({"too_long": selection.too_long})
        marked = with_alike(with_near(self._set_apart(selection.examples)))
        return with_thin(marked, self._thinnest())

    def _thinnest(self) -> Sequence[str]:
        """Return the ids of what the parent had right by the least; nothing where its papers do not say, or do not hold."""
        if not self.spec.parent or not self._is_parent_believed:
            return ()
        try:
            return papers.read_result(Path(self.spec.parent)).thinnest
        except (OSError, ValueError):  # imported, or of an older lorad
            return ()

    def _set_apart(self, examples: Sequence[SessionExample]) -> list[SessionExample]:
        """Return the examples that are trained; keep the others to be asked.

        What an ancestor has trained, when its dataset was smaller, stays trained.
        """
        already = set(papers.read_held_out(Path(self.spec.parent))) if self.spec.parent else set()
        untrained = {each.example.id for each in examples if each.is_new or not self.spec.parent} | already
        apart = self._task.held_out([each.example for each in examples], already) & untrained
        self._held_out = [each for each in examples if each.example.id in apart]
        trained = [each for each in examples if each.example.id not in apart]
        self._notes += self._task.notes([each.row for each in trained])
        if self._held_out:
            self._notes.append(
                f"{len(self._held_out)} rows are held out of training, so that probabilities are calibrated on them"
            )
        return trained

    def _general(self, base: bases.Base) -> distillation.General:
        """Return general conversation in the pristine base's own words; made once per base and kept beside it."""
        task = self._task
        if "kl" not in task.checks or not isinstance(task, Generating):
            return distillation.General([], [])
        found = self._record_general(base, task) if self._group.is_first else None
        self._group.wait()
        found = found or distillation.stored(base, task)
        if found is None:
            raise TrainingError(
                f"general texts of {base.folder} were written by another process of this session, and are not here; let all "
                "machines share the home's folder, then continue it with: lorad resume JOB",
                code="not_shared",
            )
        return found

    def _record_general(self, base: bases.Base, task: Generating) -> distillation.General:
        """Return what was stored, or let the base speak."""

        def tell(done: int, total: int) -> None:
            self.report(
                {"phase": f"recording the base's answers, once for all sessions: {done} of {total} texts"}
            )

        return distillation.ensure(base, task, tell)

    # -- training

    def _train(
        self,
        start: StartingModel,
        examples: Sequence[SessionExample],
        plan: Plan,
        checkpoints: Checkpoints | None = None,
    ) -> TrainingResult:
        """Train a fresh adapter on the merged parent, and put both side by side."""
        roots = self._roots(start, examples, plan)
        set_seed(plan.seed)  # here and not once: a session that goes on from a checkpoint repairs alike
        model = self._fresh_lora(start, plan)
        material = trainer.Material(
            rows=[each.row for each in examples],
            items=[
                ReplayItem(
                    dataset=each.example.dataset,
                    is_new=each.is_new,
                    recalled=each.knows,
                    known=each.right,
                    is_at_risk=each.is_at_risk,
                    is_alike=each.is_alike,
                )
                for each in examples
            ],
            general=start.general,
            reworded=Rewording(
                self._task,
                start.base.tokenizer,
                [each.example for each in examples],
                most=plan.wordings,
                most_gapped=plan.gapped,
                longest=plan.max_length,
                seed=plan.seed,
            ).row,
        )
        self.report({"phase": "training", "rounds": plan.stopping.max_rounds, "target": plan.stopping.recall})
        paused = self._paused
        outcome = trainer.train(
            self._task,
            model,
            material,
            plan,
            report=self.report,
            checkpoints=checkpoints,
            group=self._group,
            known=self._known.states if self._is_exact else None,
            roots=roots,
        )
        self._paused_training = self._paused - paused
        self._notes += checkpoints.broken if checkpoints else []
        if outcome.pack_tokens < plan.pack_tokens:
            self._notes.append(
                f"memory ran out, so a pass held {outcome.pack_tokens} tokens at the end instead of {plan.pack_tokens}: "
                "slower, the same gradient"
            )
        if outcome.returned_to:
            self._notes.append(
                f"training continued to round {len(outcome.history)} without improvement, so the weights of round "
                f"{outcome.returned_to} are used, which tested better"
            )
        model.eval()
        scaling = calibrating.scale(self._task, model, start.base.tokenizer, self._held_out)
        sample = [each.row for each in examples[:PROBES]]
        return TrainingResult(
            adapters.concatenate(start.parent, peft_io.read_live(model)),
            outcome,
            sample,
            ask(self._task, model, sample),
            start.truncation,
            scaling,
        )

    def _roots(
        self, start: StartingModel, examples: Sequence[SessionExample], plan: Plan
    ) -> dict[str, torch.Tensor]:
        """Return the roots of what arrives with some old rows at the layers that will learn; nothing where few are old.

        Nothing either where they would take much memory, where nothing is new, and where several processes train: each would compute its own.
        """
        old = [each.row for each in examples if not each.is_new and isinstance(each.row, Encoded)]
        if start.parent is None or len(old) < MANY or len(old) == len(examples) or self._group.size > 1:
            return {}
        some = spread(old, plan.mix.whitened_by)
        learning = [name for name in start.parent.factors if peft_io.lowest_layer([name]) >= plan.first_layer]
        numbers = sum(start.parent.factors[name][0].shape[1] ** 2 for name in learning)
        if not some or numbers > MOST_NUMBERS:
            return {}

        def tell(done: int) -> None:
            self.report({"phase": f"reading some old rows: {done} of {len(some)}"})

        return preconditioning.roots(second_moments.of_rows(start.base.model, learning, some, tell))

    def _fresh_lora(self, start: StartingModel, plan: Plan) -> Any:
        """Return the base with what will be trained around it."""
        return peft_io.add_lora(
            start.base.model,
            plan.rank,
            plan.alpha,
            self._task.head,
            start.beside,
            first_layer=plan.first_layer,
        )

    def _repair(
        self, made: TrainingResult, examples: Sequence[SessionExample], right: dict[str, bool]
    ) -> TrainingResult:
        """Go on from the candidate, rehearsing above all what it gets wrong."""
        self.report({"phase": "repairing"})
        plan = trainer.repair_plan(self.spec.plan)
        start = self._prepare(made.adapter, plan)
        knowing = [replace(each, knows=right[each.example.id]) for each in examples]  # of the judge's test
        if start.truncation:
            said = self._ask_some(start, knowing)
            knowing = [replace(each, knows=said.get(each.example.id, each.knows)) for each in knowing]
        mended = self._train(start, anew(knowing) if self.spec.kind == "refit" else knowing, plan)
        return replace(mended, truncation=max(made.truncation, mended.truncation))

    def _refit(self, examples: Sequence[SessionExample], *, slower: bool = False) -> TrainingResult:
        """Train one adapter from the pristine base on everything; ``slower`` at half the rate."""
        self.report({"phase": "refitting"})
        settings = PlannerSettings.model_validate(self.spec.settings["resolved"].get("planner", {}))
        plan = planner.refit_plan(self.spec.plan, settings, len(examples))
        if slower:
            plan = replace(plan, learning_rate=plan.learning_rate / 2)
            self._notes.append(
                f"nothing was learned beyond one answer to everything, so it was begun anew at half the learning rate, {plan.learning_rate:g}"
            )
        return self._train(self._prepare(None, plan), anew(examples), plan)

    # -- measuring

    def _measure(
        self, made: TrainingResult, examples: Sequence[SessionExample], candidate: Path | None = None
    ) -> tuple[Evaluation, Answers, Verdict]:
        """Write the adapter, reload it onto the pristine base as it will be served, and measure that."""
        self.report({"phase": "judging"})
        candidate = candidate or self.folder.candidate
        if self._group.is_first:
            peft_io.write_adapter(made.adapter, fresh_folder(candidate), self.spec.base, self._task.head)
        self._group.wait()
        stack = AdapterStack(self._to_change())
        stack.add(CANDIDATE, candidate)
        general = self._general(stack.base)
        answers = ask_all(
            self._task,
            stack,
            examples,
            self._held_out,
            self._of_base,
            self._group,
            self._known,
        )

        def evaluate() -> Evaluation:
            evaluation = measure(
                self._task,
                stack,
                candidate,
                made,
                examples,
                answers,
                dataset=self.spec.dataset,
                general=general,
                held_out=self._held_out,
                known=self._known_general,
                now=time.time(),
            )
            return replace(
                evaluation,
                **self._facts(stack, examples, answers.right),
                too_long=self._too_long,
                repairs=tuple(self._repairs),
                notes=tuple(self._notes),
            )

        told = self._group.first(Evaluation, evaluate)
        return told, answers, judge.decide(told, self._limits)

    def _facts(
        self, stack: AdapterStack, examples: Sequence[SessionExample], right: dict[str, bool]
    ) -> dict[str, Any]:
        """Measure the candidate's facts, beside what its parent's papers say of them."""
        asked = self.spec.settings.get("answering")
        if asked is None or not isinstance(self._task, Generating):
            return {}
        encoder = asked["encoder"]
        parent = None
        if self.spec.parent and self._is_parent_believed:
            told = papers.read_result(Path(self.spec.parent)).evaluation
            parent = FactReport(facts=told.facts, thresholds=told.thresholds)
        # what is learned anew owes nothing to the parent, so nothing that was said of that one stands for it
        goes_on = self.spec.kind != "refit" and "refit" not in self._repairs
        measurement = FactMeasurement(
            self._task,
            stack,
            CANDIDATE,
            examples,
            right,
            settings=AnsweringSettings.model_validate(asked["settings"]),
            encoder=Path(encoder) if encoder else None,
            parent=parent if goes_on else None,
            remembered=Path(asked["remembered"]) if asked.get("remembered") else None,
        )
        found = measurement.run(lambda phase: self.report({"phase": phase}))
        before = parent.facts if parent else {}
        return {"facts": found.facts, "facts_before": before, "thresholds": found.thresholds}


def main(folder: RunFolder | None, mark: int | None = None) -> int:
    """Run the specification in a folder; return the process's exit status.

    ``mark`` is the descriptor of a ``BusyMark``. Without a folder this process takes that of the group it was started in: so
    another machine helps the one whose daemon has the folder.
    """
    os.umask(permissions.UMASK)
    hardware.quieten()
    hardware.repeat_alike()
    if folder is not None:  # who helps another machine has no daemon
        ending.end_when_told()
    group = process_group.join()
    place = group.agree(str(folder.path) if folder else "")
    if not place:
        raise ConfigError(
            "no process of this session names its folder; start it on the daemon's machine with: lorad run",
            code="no_folder",
        )
    folder = RunFolder(Path(place))
    spec = folder.spec()
    threads = spec.settings["training"]["threads"] or group.threads
    if threads:
        torch.set_num_threads(threads)
    kind = PretrainingSession if find(spec.task).head.is_whole else Session
    session = kind(folder, spec, _pauses(spec, mark, group), group)
    try:
        with files.passing_errors("training"):
            session.run()
    except TransientError as error:  # the line that says so may not find room either
        with contextlib.suppress(OSError):
            folder.report({"error": describe(error)})
        return os.EX_IOERR
    except Exception as error:
        if process_group.is_loss(error):  # torchrun ends this one too, and names the one that has died
            time.sleep(LOSS_SECONDS)
        else:
            folder.report({"error": describe(_named(error))})
        raise
    group.leave()
    return 0


def _pauses(spec: SessionSpec, mark: int | None, group: ProcessGroup) -> Pauses | None:
    """Return what lets this process wait for answers; of several on a machine the first waits, and the others wait for it."""
    if mark is None or group.number_on_machine:
        return None
    share = TrainingSettings.model_validate(spec.settings["training"]).min_share
    try:
        followed = FollowedMark(group.inherited(mark))
        return Pauses(
            share, followed.answered_at, claim=followed.claim, clock=time.monotonic, sleep=time.sleep
        )
    except (OSError, ValueError):  # it trains all the same
        return None


def _named(error: Exception) -> Exception:
    """Return what says what to do where memory ran out outside of training, which takes less at once by itself."""
    if isinstance(error, RuntimeError) and hardware.is_short_of_memory(error):
        said = f"memory ran out ({error}); free some of it, or give this job a base model that is smaller"
        return TrainingError(said, code="out_of_memory")
    return error


if __name__ == "__main__":
    told = sys.argv[1:]
    sys.exit(main(RunFolder(Path(told[0])) if told else None, *map(int, told[1:2])))
