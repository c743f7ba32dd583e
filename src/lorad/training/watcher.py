"""Watching a training run: progress about once a second, a test at the end of a round when it is worth its time.

What never lives here: gradients (``gradients``), what to train next and when to stop (``rehearsal``).
"""

import math
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lorad.evaluation import metrics
from lorad.records import Plan
from lorad.tasks import Task
from lorad.training.process_group import ALONE, ProcessGroup
from lorad.training.rehearsal import Rehearsal
from lorad.training.rounds import Material
from lorad.training.run_state import Tally

Report = Callable[[dict[str, Any]], None]

REPORT_SECONDS = 1.0


class Watcher:
    """Report progress, test at the end of a round when it is worth it, and end the session."""

    def __init__(
        self,
        task: Task,
        model: Any,
        material: Material,
        plan: Plan,
        *,
        rehearsal: Rehearsal,
        most_steps: int,
        tally: Tally,
        report: Report,
        clock: Callable[[], float],
        group: ProcessGroup = ALONE,
    ) -> None:
        self._task = task
        self._group = group
        self._model = model
        self._material = material
        self._plan = plan
        self._rehearsal = rehearsal
        self._most_steps = most_steps
        self._tally = tally
        self._report = report
        self._clock = clock
        self.at_best: Callable[[], object] = lambda: None
        self.at_end_of_round: Callable[[], object] = lambda: None
        self._began = 0.0
        self._reported = -math.inf
        self._new = [number for number, item in enumerate(material.items) if item.is_new]
        self._old = [number for number, item in enumerate(material.items) if not item.is_new]

    def begin(self, *, already: float) -> None:
        """Count seconds from now, and those spent before a break."""
        self._began = self._clock() - already

    def end_step(self, learning_rate: float) -> None:
        """Say where the run stands, about once a second."""
        now = self._clock()
        if now - self._reported < REPORT_SECONDS:
            return
        self._reported = now
        elapsed = now - self._began - self._tally.testing
        self._report(
            {
                "phase": "training",
                "round": self._rehearsal.rounds,
                "rounds": self._plan.stopping.max_rounds,
                "step": self._tally.steps,
                "steps": self._most_steps,
                "tokens": self._tally.tokens,
                "loss": round(sum(self._tally.losses[-10:]) / max(1, len(self._tally.losses[-10:])), 4),
                "learning_rate": learning_rate,
                "tokens_per_second": round(self._tally.tokens / max(elapsed, 1e-9), 1),
                "target": self._plan.stopping.recall,
                "peak_gib": round(peak_memory(self._model.device.type) / 2**30, 2),
                **self.recall(),
            }
        )

    def recall(self) -> dict[str, float | None]:
        """Return the share of new and of old rows last seen answered right."""
        old = round(self._rehearsal.recall(new=False), 4) if self._old else None
        return {"recall": round(self._rehearsal.recall(new=True), 4), "old_recall": old}

    def end_round(self) -> str | None:
        """Close a round: test if the target is near, note the numbers; return what ends the run, if anything does."""
        near = self._rehearsal.is_near() or self._rehearsal.rounds >= self._plan.stopping.max_rounds
        ended = self._test() if near else self._rehearsal.not_tested()
        if ended and not near:
            ended = self._test()  # before giving up, look
        if self._rehearsal.best_round == self._rehearsal.rounds:
            self.at_best()
        loss = sum(self._tally.losses) / max(1, len(self._tally.losses))
        self._tally.losses.clear()
        elapsed = self._clock() - self._began
        closed = {
            "round": self._rehearsal.rounds,
            "loss": round(loss, 4),
            "tested": near,
            "seconds": round(elapsed, 2),
            **self.recall(),
        }
        self._tally.history.append(closed)
        # judging comes behind the last round, and nobody knows how long that takes
        left = None if ended else self._eta(elapsed)
        self._report({"closed": closed, **self.recall(), "eta_seconds": left})
        self._tally.seconds = self._clock() - self._began
        self.at_end_of_round()
        return ended

    def _test(self) -> str | None:
        """Test the new rows, and if they are at the target the old ones too; return what ends the session."""
        began = self._clock()
        self._report({"phase": "testing"})
        self._model.eval()
        right = self._ask(self._new)
        self._rehearsal.was_asked(right)
        last = self._rehearsal.rounds >= self._plan.stopping.max_rounds
        if last or self._rehearsal.is_learned():
            right |= self._rehearsal.test_old(self._ask)
        self._tally.testing += self._clock() - began
        return self._rehearsal.tested(right)

    def _ask(self, numbers: Sequence[int]) -> dict[int, bool]:
        answers = self._group.ask(
            [self._material.rows[number] for number in numbers],
            lambda rows: metrics.recalled(self._task, self._model, rows),
        )
        return dict(zip(numbers, answers, strict=True))

    def _eta(self, elapsed: float) -> float | None:
        """Extrapolate the last rounds' gain in recall to the target; ``None`` while nothing moves."""
        recent: list[float] = [line["recall"] for line in self._tally.history[-3:]]
        gain = (recent[-1] - recent[0]) / max(1, len(recent) - 1)
        if gain <= 0 or len(recent) < 2:  # noqa: PLR2004 - a slope needs two points
            return None
        missing = max(0.0, self._plan.stopping.recall - recent[-1])
        return round(missing / gain * elapsed / self._rehearsal.rounds, 1)


def peak_memory(device: str) -> int:
    """Return the most bytes that this process has used on the device that trains."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS and KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
