"""What a session writes of itself beside the adapter: how it was made, and all that is needed to make it again.

What never lives here: an example's words. One that is forgotten must not live on in a version's papers.
"""

import json
import platform
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from lorad import __version__, records
from lorad.models import hardware
from lorad.records import Evaluation, SessionSpec
from lorad.storage import files
from lorad.training import trainer
from lorad.training.measurement import TrainingResult
from lorad.training.session_examples import SessionExample, digests
from lorad.versions import loader, papers


def write(
    candidate: Path,
    spec: SessionSpec,
    made: TrainingResult,
    examples: Sequence[SessionExample],
    held_out: Collection[str],
    evaluation: Evaluation,
    seconds: float,
    paused: float,
    parts: Mapping[str, float],
    processes: int,
) -> None:
    """Write a candidate's ``config.yaml`` and ``metadata.json``.

    ``held_out`` are the ids of those examples that were never trained; ``seconds`` is what the whole session took, ``paused``
    how much of that it waited for answers, ``parts`` how long each of its parts took; ``processes`` is how many trained together.
    """
    resolved = {"settings": spec.settings["resolved"], "plan": records.as_json(spec.plan)}
    text = yaml.safe_dump(json.loads(json.dumps(resolved)), sort_keys=False)
    files.write_bytes(candidate / papers.CONFIG, text.encode())
    files.write_json(
        candidate / papers.METADATA,
        _metadata(spec, made, examples, held_out, evaluation, seconds, paused, parts, processes),
    )


def _metadata(
    spec: SessionSpec,
    made: TrainingResult,
    examples: Sequence[SessionExample],
    held_out: Collection[str],
    evaluation: Evaluation,
    seconds: float,
    paused: float,
    parts: Mapping[str, float],
    processes: int,
) -> dict[str, Any]:
    machine = hardware.machine(spec.settings["training"]["device"])
    return {
        "lorad": __version__,
        "framework": loader.environment(machine.device, spec.plan.dtype, spec.plan.quantization),
        "order": records.as_json(spec),
        "materials": {
            "new": [each.example.id for each in examples if each.is_new],
            "old": [[each.example.id, each.right] for each in examples if not each.is_new],
            "held_out": sorted(held_out),
        },
        "datasets": digests(examples),
        "hardware": {**records.as_json(machine), "platform": platform.platform()},
        "training": _training(spec, made.outcome, seconds, paused) | {"parts": dict(parts)},
        "curves": made.outcome.history,
        "final": {"recall": evaluation.headline_score.recall},
        "reproducibility": {
            "seed": spec.plan.seed,
            "deterministic": machine.device == "cpu",
            "processes": processes,
            "threads": torch.get_num_threads(),
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        },
        "adapter": {
            "rank": made.adapter.rank,
            "parameters": made.adapter.parameters,
            "labels": made.adapter.labels,
            "merge_difference": evaluation.merge_difference,
            "truncation_error": made.truncation,
        },
    }


def _training(spec: SessionSpec, outcome: trainer.Outcome, seconds: float, paused: float) -> dict[str, Any]:
    return {
        "plan": records.as_json(spec.plan),
        "ended_by": outcome.ended_by,
        "rounds": len(outcome.history),
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "seconds": round(outcome.seconds, 2),
        "tokens_per_second": round(outcome.tokens / max(outcome.seconds, 1e-9), 1),
        "peak_gib": round(outcome.peak_bytes / 2**30, 3),
        "session_seconds": round(seconds, 2),
        "paused_seconds": round(paused, 2),
    }
