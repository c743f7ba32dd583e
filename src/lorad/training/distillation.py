"""General conversation, as a base says it. Sampled once per base and task, and stored.

What lives here: what protects general ability while a session trains, and what measures it afterwards, the base's own
perplexity with it. What never does: deciding how much of it a session trains.

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

from lorad.evaluation import general_ability
from lorad.models import bases, generation, packing, soft_targets
from lorad.records import Encoded
from lorad.storage import files
from lorad.tasks import Generating

CONTINUATIONS = 16
"""Of every opening that is trained. With 2, after five sessions a base had moved four times as far on texts that none of them trained."""
LENGTH = 32
"""Tokens that the base adds to a prompt."""
TOGETHER = 64
"""Texts that are continued in one batch: more of them use a processor no better, and what attention remembers of them grows."""
MEASURED = 20
"""Rows that are measured: enough to see a change, few enough to cost seconds."""
SEED = 1
"""Of the sampling: made anew after a loss, the texts are the same, and so are the sessions that train on them."""
FORM = "7"
"""Of the texts; others are said anew."""
STORED = "8"
"""Of the file beside a base; another one is made anew."""
READY = Path(__file__).with_name("general_texts")
"""What comes with lorad, a file for each base: the tokens alone. Their likeliest 64 are 5 MB, and one pass makes them."""


@dataclass(frozen=True, slots=True)
class General:
    """What the pristine base said."""

    trained: list[soft_targets.SoftTargets]
    measured: list[Encoded]
    perplexity: float | None = None
    """Of the fixed text (``general_ability``): the base does not change, so no session asks it again."""


def prompts() -> list[str]:
    """Return the fixed everyday questions."""
    return _lines("general_prompts.txt")


def openings() -> list[str]:
    """Return the fixed beginnings of plain text."""
    return _lines("general_openings.txt")


def _lines(name: str) -> list[str]:
    return resources.files("lorad.training").joinpath(name).read_text(encoding="utf-8").splitlines()


def ensure(
    base: bases.Base, task: Generating, tell: Callable[[int, int], object] = lambda _done, _total: None
) -> General:
    """Return what a base said, as it is stored beside its folder; let it speak first where nothing is there.

    Once for a base in each form that it is held in; ``tell`` as in ``make``.
    """
    found = stored(base, task) or _completed(base, task)
    if found is None:
        ready = shipped(base.folder, base.tokenizer, task)
        found = make(_path(base, task), base.model, base.tokenizer, task, base.computes, tell, ready)
    return found


def stored(base: bases.Base, task: Generating) -> General | None:
    """Return what a base said, as it is stored beside its folder; ``None`` where nothing is there."""
    return read(_path(base, task), base.computes, task)


def beside(base: bases.Base, task: Generating, what: str) -> Path:
    """Return the file of this name beside a base's folder, of the form that the base is held in."""
    form = f".{base.quantization}" if base.is_quantized else ""
    return base.folder.with_name(f"{base.folder.name}{form}.{task.name}.{what}.safetensors")


def _path(base: bases.Base, task: Generating) -> Path:
    return beside(base, task, "general")


def read(path: Path, fingerprint: str, task: Generating) -> General | None:
    """Return what was stored, or ``None`` when it is not there, damaged, or another base's."""
    found = _read(path, _metadata(fingerprint, task))
    return None if found is None else _unfold(found)


def _completed(base: bases.Base, task: Generating) -> General | None:
    """Add the perplexity to a file of the form before: to say everything again would take minutes."""
    tensors = _read(_path(base, task), _metadata(base.computes, task) | {"form": FORM})
    if tensors is None:
        return None
    return _keep(_path(base, task), tensors, base.model, base.tokenizer, task, base.computes)


def _read(path: Path, metadata: dict[str, str]) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, framework="pt") as handle:
            if handle.metadata() != metadata:
                return None
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError):
        return None


def make(
    path: Path,
    model: Any,
    tokenizer: Any,
    task: Generating,
    fingerprint: str,
    tell: Callable[[int, int], object] = lambda _done, _total: None,
    ready: Sequence[Encoded] | None = None,
) -> General:
    """Let a pristine base speak, store it, and return it.

    ``tell`` is told before every batch how many texts are there, of how many. ``ready`` is what this base has said
    elsewhere; then one pass over it tells how likely each token was.
    """
    rows = list(ready) if ready else speak(model, tokenizer, task, tell)
    tensors = _fold(soft_targets.record_soft_targets(model, rows))
    return _keep(path, tensors, model, tokenizer, task, fingerprint)


def _keep(
    path: Path, tensors: dict[str, Tensor], model: Any, tokenizer: Any, task: Generating, fingerprint: str
) -> General:
    perplexity = general_ability.perplexity(model, tokenizer)
    tensors["perplexity"] = torch.tensor([perplexity], dtype=torch.float64)
    files.write_bytes(path, save(tensors, metadata=_metadata(fingerprint, task)))
    return _unfold(tensors)


def speak(
    model: Any,
    tokenizer: Any,
    task: Generating,
    tell: Callable[[int, int], object] = lambda _done, _total: None,
) -> list[Encoded]:
    """Return the answer to every question, every other opening continued once, and the rest again and again."""
    begins = _begins(tokenizer, task)
    rows: list[Encoded] = []
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        for first in range(0, len(begins), TOGETHER):
            some = begins[first : first + TOGETHER]
            tell(len(rows), len(begins))
            said = generation.continue_each(
                model,
                [begin for begin, _ in some],
                task.stop_tokens(tokenizer),
                LENGTH,
                do_sample=True,
                top_p=0.95,
                top_k=0,
            )
            rows += [Encoded((*begin, *more), at) for (begin, at), more in zip(some, said, strict=True)]
    return rows


def _begins(tokenizer: Any, task: Generating) -> list[tuple[list[int], int]]:
    """Return what the base goes on from, in the order of the file, each with where its trained tokens start."""
    asked = [task.prompt(tokenizer, [{"role": "user", "content": text}]) for text in prompts()]
    plain = [list(tokenizer(text)["input_ids"]) for text in openings()]
    head = packing.common_prefix(asked)
    return [(tokens, head) for tokens in asked] + [
        (tokens, 1) for tokens in [*plain[1::2], *(plain[::2] * CONTINUATIONS)]
    ]


# -- ready-made


def pack_ready(rows: Sequence[Encoded], weights: str) -> bytes:
    """Return texts as the file that comes with lorad, for a base whose weights have this sha256."""
    return save(_packed(rows), metadata={"weights": weights, "form": FORM})


def shipped(folder: Path, tokenizer: Any, task: Generating, ready: Path = READY) -> list[Encoded] | None:
    """Return what a base said before lorad was released, if it comes with it.

    The same weights, and a tokenizer that still makes the tokens that the texts begin with: then it is what the base would
    say here, but for the seed. How likely each token was is measured anew.
    """
    weights = bases.weights_digest(folder)
    if weights is None:
        return None
    for path in sorted(ready.glob("*.safetensors")):
        tensors = _read(path, {"weights": weights, "form": FORM})
        if tensors is None:
            continue
        begins = _begins(tokenizer, task)
        if len(tensors["lengths"]) != len(begins):
            continue
        rows = _unpacked(tensors, [at for _, at in begins])
        if all(list(row.tokens[: len(begin)]) == begin for row, (begin, _) in zip(rows, begins, strict=True)):
            return rows
    return None


def _metadata(fingerprint: str, task: Generating) -> dict[str, str]:
    return {"fingerprint": fingerprint, "task": task.name, "form": STORED}


def _packed(rows: Sequence[Encoded]) -> dict[str, Tensor]:
    """Return the tokens of all texts behind one another, and how many each has."""
    return {
        "tokens": torch.tensor([token for row in rows for token in row.tokens], dtype=torch.int32),
        "lengths": torch.tensor([len(row) for row in rows], dtype=torch.int32),
    }


def _unpacked(tensors: dict[str, Tensor], starts: Sequence[int]) -> list[Encoded]:
    texts = torch.split(tensors["tokens"], tensors["lengths"].tolist())
    return [Encoded(tuple(text.tolist()), start) for text, start in zip(texts, starts, strict=True)]


def _fold(said: Sequence[soft_targets.SoftTargets]) -> dict[str, Tensor]:
    return _packed([each.row for each in said]) | {
        "starts": torch.tensor([each.row.start for each in said], dtype=torch.int32),
        "likeliest": torch.cat([each.likeliest for each in said]).to(torch.int32),
        "probabilities": torch.cat([each.probabilities for each in said]),
    }


def _unfold(tensors: dict[str, Tensor]) -> General:
    rows = _unpacked(tensors, tensors["starts"].tolist())
    answers = [len(row.target) for row in rows]
    likeliest = torch.split(tensors["likeliest"].long(), answers)
    probabilities = torch.split(tensors["probabilities"], answers)
    said = [soft_targets.SoftTargets(*parts) for parts in zip(rows, likeliest, probabilities, strict=True)]
    asked, trained = len(prompts()), len(prompts()) + len(openings()) // 2  # the order of ``_begins``
    measured = [*_spread(rows[:asked]), *_spread(rows[asked:trained])]
    return General(said[trained:], measured, float(tensors["perplexity"]))


def _spread(rows: Sequence[Encoded]) -> Sequence[Encoded]:
    return rows[:: max(1, len(rows) * 2 // MEASURED)]
