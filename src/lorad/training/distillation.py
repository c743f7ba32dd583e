"""General conversation, as a base says it. Sampled once per base and task, and stored.

What lives here: what protects general ability while a session trains, and what measures it afterwards. What
never does: deciding how much of it a session trains.

Data-free distillation: the base answers everyday questions in its own template and goes on from openings of
plain text, sampled from its own distribution; at every position its 64 likeliest tokens are kept. Questions and half
of the openings are only ever measured. Sampled and not greedy, because what is held is the
distribution: a cut answer teaches nothing about stopping, a dull one would be all that is held.

Plain text alone is trained. A model that is held to the base's words on questions does not carry what
it learns to questions in other words (bench/LOG.md has the figures); the answers to questions are measured all the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lorad.models import generation, packing, soft_targets
from lorad.records import Encoded
from lorad.storage import files
from lorad.tasks import Generating

CONTINUATIONS = 16
"""Of every opening that is trained. With 2, after five sessions a base had moved four times as far on texts that none of them trained."""
LENGTH = 32
"""Tokens that the base adds to a prompt."""
MEASURED = 20
"""Rows that are measured: enough to see a change, few enough to cost seconds."""
SEED = 1
"""Of the sampling: made anew after a loss, the texts are the same, and so are the sessions that train on them."""
FORM = "7"
"""Of the file; another one is made anew."""


@dataclass(frozen=True, slots=True)
class General:
    """What the pristine base said."""

    trained: list[soft_targets.SoftTargets]
    measured: list[Encoded]


def prompts() -> list[str]:
    """Return the fixed everyday questions."""
    return _lines("general_prompts.txt")


def openings() -> list[str]:
    """Return the fixed beginnings of plain text."""
    return _lines("general_openings.txt")


def _lines(name: str) -> list[str]:
    return resources.files("lorad.training").joinpath(name).read_text(encoding="utf-8").splitlines()


def read(path: Path, fingerprint: str, task: Generating) -> General | None:
    """Return what was stored, or ``None`` when it is not there, damaged, or another base's."""
    try:
        with safe_open(path, framework="pt") as handle:
            if handle.metadata() != _metadata(fingerprint, task):
                return None
            found = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError):
        return None
    return _unfold(found)


def make(
    path: Path,
    model: Any,
    tokenizer: Any,
    task: Generating,
    fingerprint: str,
    tell: Callable[[int, int], object] = lambda _done, _total: None,
) -> General:
    """Let a pristine base speak, store it, and return it; three minutes for 135 million parameters on two cores.

    ``tell`` is told after every batch how many texts are there, of how many.
    """
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        rows = _speak(model, tokenizer, task, tell)
    tensors = _fold(soft_targets.record_soft_targets(model, rows))
    files.write_bytes(path, save(tensors, metadata=_metadata(fingerprint, task)))
    return _unfold(tensors)


def _speak(model: Any, tokenizer: Any, task: Generating, tell: Callable[[int, int], object]) -> list[Encoded]:
    """Return the answer to every question, every other opening continued once, and the rest again and again."""
    asked = [task.prompt(tokenizer, [{"role": "user", "content": text}]) for text in prompts()]
    plain = [list(tokenizer(text)["input_ids"]) for text in openings()]
    begun = [(asked, packing.common_prefix(asked)), (plain[1::2], 1)] + [(plain[::2], 1)] * CONTINUATIONS
    total = sum(len(begins) for begins, _ in begun)
    rows: list[Encoded] = []
    for begins, start in begun:
        tell(len(rows), total)
        said = generation.continue_each(
            model, begins, task.stop_tokens(tokenizer), LENGTH, do_sample=True, top_p=0.95, top_k=0
        )
        rows += [Encoded((*begin, *more), start) for begin, more in zip(begins, said, strict=True)]
    return rows


def _metadata(fingerprint: str, task: Generating) -> dict[str, str]:
    return {"fingerprint": fingerprint, "task": task.name, "form": FORM}


def _fold(said: Sequence[soft_targets.SoftTargets]) -> dict[str, Tensor]:
    return {
        "tokens": torch.tensor([token for each in said for token in each.row.tokens], dtype=torch.int32),
        "lengths": torch.tensor([len(each.row) for each in said], dtype=torch.int32),
        "starts": torch.tensor([each.row.start for each in said], dtype=torch.int32),
        "likeliest": torch.cat([each.likeliest for each in said]).to(torch.int32),
        "probabilities": torch.cat([each.probabilities for each in said]),
    }


def _unfold(tensors: dict[str, Tensor]) -> General:
    lengths, starts = tensors["lengths"].tolist(), tensors["starts"].tolist()
    tokens = torch.split(tensors["tokens"], lengths)
    rows = [Encoded(tuple(t.tolist()), start) for t, start in zip(tokens, starts, strict=True)]
    answers = [len(row.target) for row in rows]
    likeliest = torch.split(tensors["likeliest"].long(), answers)
    probabilities = torch.split(tensors["probabilities"], answers)
    said = [soft_targets.SoftTargets(*parts) for parts in zip(rows, likeliest, probabilities, strict=True)]
    asked, trained = len(prompts()), len(prompts()) + len(openings()) // 2  # the order of ``_speak``
    return General(said[trained:], [*_spread(rows[:asked]), *_spread(rows[asked:trained])])


def _spread(rows: Sequence[Encoded]) -> Sequence[Encoded]:
    return rows[:: max(1, len(rows) * 2 // MEASURED)]
