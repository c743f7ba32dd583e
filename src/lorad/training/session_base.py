"""What every session is: a specification on its way to a candidate, whatever is trained.

What lives here: loading the base, telling how it goes, checkpoints of this very request, completing the candidate. What never
does: training (``session`` an adapter, ``pretraining_session`` a whole model).
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorad import records
from lorad.config import JudgeSettings, TrainingSettings
from lorad.models import bases, hardware
from lorad.records import Evaluation, SessionResult, SessionSpec, Verdict
from lorad.storage import files
from lorad.tasks import Task, find
from lorad.training import session_papers, trainer
from lorad.training.checkpoint import Checkpoints
from lorad.training.measurement import Answers, TrainingResult
from lorad.training.pauses import Pauses
from lorad.training.process_group import ALONE, ProcessGroup
from lorad.training.remaining import Remaining
from lorad.training.run_folder import RunFolder
from lorad.training.session_examples import SessionExample
from lorad.versions import loader


class BaseSession(ABC):
    """One specification on its way to a candidate."""

    def __init__(
        self,
        folder: RunFolder,
        spec: SessionSpec,
        pauses: Pauses | None = None,
        group: ProcessGroup = ALONE,
    ) -> None:
        """With ``pauses`` the session waits for answers. Each process of a ``group`` runs a session of the same request."""
        self.folder = folder
        self._group = group
        self._pauses = pauses
        if pauses:
            pauses.tell = lambda: self.report({})
        self._paused_training = 0.0
        """How long the newest training waited; its ``seconds`` count that."""
        self.spec = spec
        self._training = TrainingSettings.model_validate(spec.settings["training"])
        self._limits = JudgeSettings.model_validate(spec.settings["judge"])
        self._task: Task = find(spec.task)
        self._notes: list[str] = []
        self._repairs: list[str] = []
        self._too_long = 0
        self._held_out: list[SessionExample] = []
        """What is asked and never trained."""
        self._began = time.monotonic()
        self._remaining = Remaining(spec.settings.get("pace"))

    @abstractmethod
    def run(self) -> None:
        """Make a candidate."""

    def _begin(self) -> None:
        """Say that this session is at work."""
        self.report({"phase": "loading"})

    def _checkpoints(self) -> Checkpoints:
        """Return where this very specification, with these very rows, keeps its rounds in case it is cut off."""
        rows = self.folder.row_digests()
        spec = records.training_inputs(records.as_json(self.spec))
        return Checkpoints(self.folder.checkpoints, records.digest([trainer.CHECKPOINT_FORM, spec, rows]))

    def _load(self) -> bases.Base:
        dtype = hardware.DTYPES[self.spec.plan.dtype]
        device = hardware.machine(self._training.device).device
        base = bases.load_base(
            Path(self.spec.base), dtype, device, self._task.head, quantization=self.spec.plan.quantization
        )
        if self._pauses:
            self._pauses.watch(base.model)
        return base

    # -- after

    def _write(
        self,
        made: TrainingResult,
        examples: Sequence[SessionExample],
        evaluation: Evaluation,
        answers: Answers,
        verdict: Verdict,
    ) -> None:
        """Complete the candidate; ``evaluation.json`` comes last, without it there is no candidate."""
        self.report({"phase": "saving"})
        candidate = self.folder.candidate
        base = Path(self.spec.base)
        loader.keep_tokenizer(base, candidate)
        seconds = time.monotonic() - self._began
        everything = [*examples, *self._held_out]
        apart = {each.example.id for each in self._held_out}
        session_papers.write(
            candidate,
            self.spec,
            made,
            everything,
            apart,
            evaluation,
            seconds,
            self._paused,
            self._remaining.took(time.monotonic()),
            self._group.size,
        )
        learned = [each.example for each in everything if each.is_new]
        self.folder.write_result(
            SessionResult(
                parent=self.spec.parent_version,
                base=bases.read_fingerprint(base),
                evaluation=evaluation,
                verdict=verdict,
                learned=tuple(example.ids for example in learned),  # no words, see `_metadata`
                right=answers.right,
                thinnest=answers.thinnest,
            )
        )

    def report(self, line: dict[str, Any]) -> None:
        """Append a line of progress, when the session will end, and how long it has waited.

        Readers keep the newest value of every key. The first process of several reports for all.
        """
        if not self._group.is_first:
            return
        now = time.monotonic()
        if "phase" in line:
            self._remaining.enter(str(line["phase"]), now)
        if "eta_seconds" in line:  # of the training alone
            self._remaining.expect_training(line["eta_seconds"], now)
        left = self._remaining.left(now)
        line = line | {"ends_at": None if left is None else round(time.time() + left, 1)}
        waited = {"paused_seconds": round(self._paused, 1)} if self._paused else {}
        self.folder.report(line | waited)

    @property
    def _paused(self) -> float:
        return self._pauses.seconds if self._pauses else 0.0


def fresh_folder(folder: Path) -> Path:
    """Return a folder that is there and empty."""
    files.remove(folder)
    files.make_folder(folder)
    return folder
