"""Probabilities that mean what they say: temperature scaling of a candidate on rows that no session has trained.

What lives here: fitting the temperature on these rows and dividing the head's logits by it, how calibrated it is before and after,
and the papers of that, which go with the version. What never does: which rows are held out (the task says so), the arithmetic
(``evaluation.calibration``), checking it at a load (``versions.loader``).

A small drop holds a few dozen rows out, and a temperature of half of them is chance: so all of them fit the one that serves, and
what is told of it is cross-fitted: each half is asked at the temperature that the other half gives.
The temperature is folded into the head's last layer, so that whatever loads the adapter gives calibrated probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorad import records
from lorad.evaluation import calibration, confidence, metrics
from lorad.evaluation.calibration import Asked, CalibrationMetrics, Reference
from lorad.models import heads
from lorad.storage import files
from lorad.tasks import Task
from lorad.training.session_examples import SessionExample
from lorad.versions import calibrations

LEAST = 5
"""Rows in each half from which on a temperature is fitted: the prior of ``Task.temperature`` holds it near 1 where they say little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What a head was divided by, and how calibrated it is before and after, on rows that did not fit the temperature."""

    temperature: float
    fitted_on: int
    before: CalibrationMetrics
    after: CalibrationMetrics


@torch.inference_mode()
def _asked(
    task: Task, model: Any, tokenizer: Any, held: Sequence[SessionExample]
) -> list[tuple[float, bool]]:
    return task.confidences(model, tokenizer, [each.row for each in held])


def scale(task: Task, model: Any, tokenizer: Any, held: Sequence[SessionExample]) -> Scaling | None:
    """Fit a trained model's temperature and divide its head by it; ``None`` where too few rows are held out."""
    ordered = sorted(held, key=lambda each: each.example.id)
    halves = ordered[::2], ordered[1::2]
    if len(halves[1]) < LEAST or not task.head.parts:
        return None
    before = calibration.measure(_asked(task, model, tokenizer, ordered))
    temperature, *of_halves = (_fitted(task, model, each) for each in (ordered, *halves))
    after: list[tuple[float, bool]] = []
    now = 1.0
    for half, of_the_other in zip(halves, reversed(of_halves), strict=True):
        heads.soften(model, task.head, of_the_other / now)
        now = of_the_other
        after += _asked(task, model, tokenizer, half)
    heads.soften(model, task.head, temperature / now)
    return Scaling(
        temperature=temperature, fitted_on=len(ordered), before=before, after=calibration.measure(after)
    )


@torch.inference_mode()
def _fitted(task: Task, model: Any, held: Sequence[SessionExample]) -> float:
    return task.temperature(model, [each.row for each in held])


def keep(
    task: Task,
    model: Any,
    tokenizer: Any,
    candidate: Path,
    scaling: Scaling,
    held: Sequence[SessionExample],
    now: float,
) -> dict[str, float]:
    """Ask a candidate as it will be served, write its calibration beside it, and return the figures for its papers."""
    ordered = sorted(held, key=lambda each: each.example.id)
    answers = _asked(task, model, tokenizer, ordered)
    probes = metrics.probe_rows(task, files.read_json(candidate / metrics.PROBES))
    reference = Reference(
        version="",
        measured_at=now,
        environment=confidence.environment(model),
        temperature=1.0,  # of what is served: the one that was fitted is in the weights
        fitted_on=0,
        rows=tuple(
            Asked(id=each.example.id, source=confidence.NEVER_TRAINED, confidence=sure, right=right)
            for each, (sure, right) in zip(ordered, answers, strict=True)
        ),
    )
    told = records.as_json(calibration.report(reference)) | {
        "applied": {
            "temperature": scaling.temperature,
            "fitted_on": scaling.fitted_on,
            "before": records.as_json(scaling.before),
            "after": records.as_json(scaling.after),
        },
        "probes": metrics.probe_confidences(task, model, tokenizer, probes),
    }
    files.write_json(candidate / calibrations.OWN, told)
    return {
        "held_out_accuracy": scaling.after.accuracy,
        "temperature": scaling.temperature,
        "ece_before": scaling.before.ece,
        "ece_after": scaling.after.ece,
        "brier_before": scaling.before.brier,
        "brier_after": scaling.after.brier,
    }
