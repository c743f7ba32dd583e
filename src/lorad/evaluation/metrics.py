"""Measuring a model with its task: which rows it recalls, and known answers to be asked again. ``judge`` decides.

What never lives here: thresholds of the judge, what only causal models have (``general_ability``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch

from lorad.models import packing, scoring
from lorad.records import restore
from lorad.tasks import Generating, Task
from lorad.tasks.interface import PASS_TOKENS

PROBES = "probes.json"
PROBE_TOKENS = 48
PROBE_TOLERANCE = {"float32": 0.05, "bfloat16": 2.0}
"""Logits, which reach 45 here. The same weights in float32 differ by some 1e-4 between machines; bfloat16 rounds."""
TIE = 1e-3
"""The margin of a row of which two classes are as likely: whether it is recalled must still be seen."""
LIKELIEST = 5
"""Classes whose logits a probe keeps."""


@torch.inference_mode()
def recalled(task: Task, model: Any, rows: Sequence[Any], most_tokens: int = PASS_TOKENS) -> list[bool]:
    """Test every row, pass by pass; the model's mode is left as it was."""
    results = [False] * len(rows)
    for numbers in packing.divide(rows, most_tokens):
        outputs = task.forward(model, [rows[number] for number in numbers])
        for number, right in zip(numbers, task.grade(outputs), strict=True):
            results[number] = right
    return results


@torch.inference_mode()
def margins(task: Generating, model: Any, rows: Sequence[Any], most_tokens: int = PASS_TOKENS) -> list[float]:
    """Return of every row by how much it is recalled, in logits (``scoring.margins``): above 0 where it is, else below."""
    results = [0.0] * len(rows)
    for numbers in packing.divide(rows, most_tokens):
        outputs = task.forward(model, [rows[number] for number in numbers])
        # of equal logits, as bfloat16 has them, the first is what greedy decoding takes
        told = zip(numbers, task.grade(outputs), scoring.margins(outputs), strict=True)
        for number, is_right, margin in told:
            results[number] = max(TIE, margin) if is_right else min(-TIE, margin)
    return results


@torch.inference_mode()
def probe(task: Task, model: Any, rows: Sequence[Any]) -> dict[str, Any]:
    """Return known rows and what this model says of them, to be asked again whenever it is loaded.

    Of the rows the shortest are asked, as many as ``PROBE_TOKENS`` allow and at least one: all in one pass, since
    at every load somebody waits for it.
    """
    asked = [rows[number] for number in next(packing.divide(rows, PROBE_TOKENS), [])]
    probes = [
        {**asdict(row), "top": top.indices.tolist(), "logits": top.values.tolist()}
        for row, logits in zip(asked, _answers(task, model, asked), strict=True)
        for top in [logits.topk(min(LIKELIEST, logits.shape[-1]))]
    ]
    return {"dtype": str(model.dtype).removeprefix("torch."), "probes": probes}


@torch.inference_mode()
def probe_again(task: Task, model: Any, stored: Mapping[str, Any]) -> tuple[float, float]:
    """Return the largest difference of a logit from what ``probe`` stored, and how large it may be.

    Raise ``KeyError``, ``TypeError``, ``ValueError``, ``IndexError`` or ``RuntimeError`` when it is no such record.
    """
    coarse = "bfloat16" in {stored["dtype"], str(model.dtype).removeprefix("torch.")}
    answers = _answers(task, model, probe_rows(task, stored))
    return difference(stored, answers), PROBE_TOLERANCE["bfloat16" if coarse else "float32"]


@torch.inference_mode()
def says_the_same(task: Task, model: Any, stored: Mapping[str, Any]) -> bool:
    """Tell whether the likeliest classes of all probes are those that ``probe`` stored; raise as ``probe_again`` does."""
    answers = _answers(task, model, probe_rows(task, stored))
    return all(
        logits.argmax(-1).tolist() == [likeliest for likeliest, *_ in entry["top"]]
        for entry, logits in zip(stored["probes"], answers, strict=True)
    )


def difference(stored: Mapping[str, Any], answers: Sequence[torch.Tensor]) -> float:
    """Return the largest difference of a logit from what ``probe`` stored; of each row [predictions, classes].

    Raise as ``probe_again`` does.
    """
    worst = 0.0
    for entry, logits in zip(stored["probes"], answers, strict=True):
        then = torch.tensor(entry["logits"])
        worst = max(worst, float((logits.gather(1, torch.tensor(entry["top"])) - then).abs().max()))
    return worst


def probe_rows(task: Task, stored: Mapping[str, Any]) -> list[Any]:
    """Return the rows that ``probe`` has stored; raise as ``probe_again`` does."""
    names = {field.name for field in fields(task.row)}
    return [
        restore(task.row, {name: value for name, value in entry.items() if name in names})
        for entry in stored["probes"]
    ]


@torch.inference_mode()
def probe_confidences(task: Task, model: Any, tokenizer: Any, rows: Sequence[Any]) -> list[float]:
    """Return how sure a model is of known rows, as a probability each."""
    return [sure for sure, _ in task.confidences(model, tokenizer, rows)]


def _answers(task: Task, model: Any, rows: Sequence[Any]) -> Sequence[torch.Tensor]:
    """Return each row's logits [predictions, classes], in fp32 on the CPU."""
    if not rows:
        return []
    logits = task.forward(model, rows).logits.float().cpu()
    return torch.split(logits, [row.weight for row in rows])
