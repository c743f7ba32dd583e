"""Probabilities that mean what they say: temperature scaling of a candidate on rows that no session has trained.

What lives here: fitting the temperature on one half of these rows and dividing the head's logits by it, asking the other half
before and after, and the papers of that, which go with the version. What never does: which rows are held out (the task says
so), the arithmetic (``evaluation.calibration``), checking it at a load (``versions.loader``).

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

LEAST = 10
"""With fewer rows to fit a temperature on it would be chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What a head was divided by, and how calibrated it was before, on rows that did not fit it."""

    temperature: float
    fitted_on: int
    before: CalibrationMetrics


@torch.inference_mode()
def _asked(
    task: Task, model: Any, tokenizer: Any, held: Sequence[SessionExample]
) -> list[tuple[float, bool]]:
    return task.confidences(model, tokenizer, [each.row for each in held])


def _halves(held: Sequence[SessionExample]) -> tuple[list[SessionExample], list[SessionExample]]:
    """Return the rows that fit the temperature and those that measure it, the same at every call."""
    ordered = sorted(held, key=lambda each: each.example.id)
    return ordered[::2], ordered[1::2]


def scale(task: Task, model: Any, tokenizer: Any, held: Sequence[SessionExample]) -> Scaling | None:
    """Fit a trained model's temperature and divide its head by it; ``None`` where too few rows are held out."""
    fitting, measured = _halves(held)
    if len(measured) < LEAST or not task.head.parts:
        return None
    before = calibration.measure(_asked(task, model, tokenizer, measured))
    with torch.inference_mode():
        temperature = task.temperature(model, [each.row for each in fitting])
    heads.soften(model, task.head, temperature)
    return Scaling(temperature=temperature, fitted_on=len(fitting), before=before)


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
    _, measured = _halves(held)
    answers = _asked(task, model, tokenizer, measured)
    probes = metrics.probe_rows(task, files.read_json(candidate / metrics.PROBES))
    reference = Reference(
        version="",
        measured_at=now,
        environment=confidence.environment(model),
        temperature=1.0,  # of what is served: the one that was fitted is in the weights
        fitted_on=scaling.fitted_on,
        rows=tuple(
            Asked(id=each.example.id, source=confidence.NEVER_TRAINED, confidence=sure, right=right)
            for each, (sure, right) in zip(measured, answers, strict=True)
        ),
    )
    after = calibration.measure(answers)
    told = records.as_json(calibration.report(reference)) | {
        "applied": {
            "temperature": scaling.temperature,
            "before": records.as_json(scaling.before),
            "after": records.as_json(after),
        },
        "probes": metrics.probe_confidences(task, model, tokenizer, probes),
    }
    files.write_json(candidate / calibrations.OWN, told)
    return {
        "held_out_accuracy": after.accuracy,
        "temperature": scaling.temperature,
        "ece_before": scaling.before.ece,
        "ece_after": after.ece,
        "brier_before": scaling.before.brier,
        "brier_after": after.brier,
    }
