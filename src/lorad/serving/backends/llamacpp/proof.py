"""Whether llama.cpp answers as the model does that its GGUF was made of.

What lives here: a version's probes, asked in llama.cpp; a few tokens for a base, which has none. What never does: making the
GGUF, what follows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorad.errors import ConfigError, RegistryError
from lorad.evaluation import metrics
from lorad.records import Encoded
from lorad.serving.backends.llamacpp.binding import Model, Piece
from lorad.storage import files
from lorad.tasks import Task

TOLERANCE = {"f32": 0.05, "f16": 0.25, "q8_0": 2.0}
"""Logits, which reach 45 here. With matrices in float16 llama.cpp rounds activations to it as well: 0.02 with SmolLM2."""
BASE_TOLERANCE = 0.25
"""How far the logits of a base may be from torch's, as a part of the largest: that one may compute in bfloat16."""
PROMPTS = (3, 6, 10)
"""Lengths of the prompts that a base is asked."""


def prove(task: Task, model: Model, reference: Any, folder: Path, precision: str) -> None:
    """Ask llama.cpp a version's probes; ``reference`` is the version in torch, which has passed them.

    Raise ``RegistryError`` where a logit is further from the papers than the precision explains, or where a probe is wrong that
    the version gets right.
    """
    path, version = folder / metrics.PROBES, folder.name
    if not path.is_file():  # whether it should be there is the manifest's business
        return
    stored = files.read_json(path)
    rows: list[Encoded] = metrics.probe_rows(task, stored)
    answers = _answers(model, rows)
    found = metrics.difference(stored, answers)
    limit = max(TOLERANCE[precision], metrics.PROBE_TOLERANCE.get(stored["dtype"], 0.0))
    if not found <= limit:
        raise _refused(
            version, f"a logit of its probes differs by {found:.3g} (at most {limit:g})", precision=precision
        )
    right = [answer.argmax(-1).tolist() == [*row.target] for answer, row in zip(answers, rows, strict=True)]
    wanted = metrics.recalled(task, reference, rows)
    if any(was and not now for was, now in zip(wanted, right, strict=True)):
        raise _refused(version, "it gets probes wrong that the version gets right", precision=precision)


def _refused(version: str, why: str, *, precision: str) -> RegistryError:
    return RegistryError(
        f"the backend llamacpp does not answer as {version} does in {precision}: {why}; set engine.gguf to a finer precision, or "
        "engine.backend to builtin",
        code="probes_failed",
        version=version,
        backend="llamacpp",
    )


@torch.inference_mode()
def prove_base(model: Model, base: Any, name: str) -> None:
    """Compare llama.cpp's answers with a base's in torch; raise ``ConfigError`` where they are others."""
    count = min(model.vocabulary, base.config.vocab_size)
    asked = [tuple((7 * place + 3 * size + 1) % count for place in range(size)) for size in PROMPTS]
    ids = [torch.tensor([tokens], device=base.device) for tokens in asked]
    expected = [base(input_ids=each).logits[0, -1].float().cpu() for each in ids]
    rows = [Encoded((*tokens, 0), len(tokens)) for tokens in asked]  # the answer is never read
    found = max(
        float((answer[0, :count] - logits[:count]).abs().max() / logits.abs().max().clamp_min(1e-6))
        for answer, logits in zip(_answers(model, rows), expected, strict=True)
    )
    if not found <= BASE_TOLERANCE:
        raise ConfigError(
            f"the backend llamacpp does not answer as the base {name} does: logits differ by {found:.2g} of the largest; set "
            "engine.backend to builtin",
            code="probes_failed",
            backend="llamacpp",
        )


def _answers(model: Model, rows: Sequence[Encoded]) -> list[Tensor]:
    """Return the logits of each row's answer, [answer tokens, V], each row alone in an exact context."""
    longest = max((len(row) - 1 for row in rows), default=1)
    context = model.context(sequences=1, cells=longest, batch=longest, is_exact=False)
    answers = []
    for row in rows:
        piece = Piece(sequence=0, begin=0, tokens=row.tokens[:-1], asked=row.weight)
        answers += context.decode([piece])
        context.clear()
    return answers
