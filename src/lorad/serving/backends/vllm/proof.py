"""Whether a server answers as a version did when it was made: greedy answers to known prompts.

What lives here: what is asked, and which answers will do. What never does: asking (``protocol``), what happens to a version
that answers otherwise (``backend``).

The server rounds otherwise, so near ties may fall the other way. Where a second token is about as likely as the first, in the
coarser of both precisions, either may come, and what follows a different one is not compared. A probe that is nothing but
near ties proves nothing.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorad.errors import ProtocolError, RegistryError
from lorad.evaluation import metrics
from lorad.models import generation
from lorad.models.bases import Base
from lorad.serving.backends.vllm import protocol
from lorad.serving.backends.vllm.wire import Talk
from lorad.serving.requests import Sampling
from lorad.storage import files
from lorad.tasks import Generating

BASE_TOKENS = 16
"""Length of the answers by which a base is known."""
BASE_QUESTIONS = ("What is the capital of France?", "Count from one to ten.")


@dataclass(frozen=True, slots=True)
class Probe:
    """A known prompt with its answer, and which tokens may come at each place of it; ``None``: any."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    likely: tuple[frozenset[int] | None, ...]

    def objection(self, said: Sequence[int]) -> str | None:
        """Return what is wrong with a greedy answer, ``None`` for one that will do."""
        for place, (wanted, allowed) in enumerate(zip(self.answer, self.likely, strict=True)):
            if place >= len(said):
                return f"its answer ends after {place} tokens"
            if allowed is not None and said[place] not in allowed:
                return f"it says token {said[place]} where {wanted} was said"
            if said[place] != wanted:
                return None  # another text from here on
        return None


def of_version(folder: Path, base: Base) -> tuple[Probe, ...]:
    """Return a version's own probes; raise ``RegistryError`` where they cannot be read. One without a file has none."""
    path = folder / metrics.PROBES
    if not path.is_file():  # whether it should be there is the manifest's business
        return ()
    try:
        stored = files.read_json(path)
        near = _near(str(stored["dtype"]), _dtype(base))
        return tuple(_probe(entry, near) for entry in stored["probes"])
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RegistryError(
            f"the probes of {folder.name} cannot be asked: {error}",
            code="probes_damaged",
            version=folder.name,
        ) from error


def _dtype(base: Base) -> str:
    return str(base.model.dtype).removeprefix("torch.")


def _near(*precisions: str) -> float:
    """Return how many logits may be between two tokens of which either may come first."""
    is_fine = set(precisions) == {"float32"}
    return metrics.PROBE_TOLERANCE["float32" if is_fine else "bfloat16"]


def _probe(entry: Any, near: float) -> Probe:
    start = int(entry["start"])
    tokens = tuple(int(token) for token in entry["tokens"])
    likely = tuple(
        _likely(top, logits, near) for top, logits in zip(entry["top"], entry["logits"], strict=True)
    )
    if not 0 < start < len(tokens) or len(likely) != len(tokens) - start:
        raise ValueError("it is no probe of a model that answers in text")
    return Probe(tokens[:start], tokens[start:], likely)


def _likely(top: Sequence[int], logits: Sequence[float], near: float) -> frozenset[int] | None:
    """Return the tokens that are about as likely as the likeliest, ``None`` where there may be more than were kept."""
    found = [int(token) for token, logit in zip(top, logits, strict=True) if max(logits) - logit <= near]
    return None if len(found) == len(top) else frozenset(found)


@torch.inference_mode()
def of_base(task: Generating, base: Base) -> tuple[Probe, ...]:
    """Return what a base in this process says to some questions: the server's must be the same one."""
    ends = list(task.stop_tokens(base.tokenizer))
    prompts = [task.prompt(base.tokenizer, [{"role": "user", "content": asked}]) for asked in BASE_QUESTIONS]
    answers = generation.continue_each(base.model, prompts, ends, BASE_TOKENS, do_sample=False)
    return tuple(_of_answer(base, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True))


def _of_answer(base: Base, prompt: list[int], answer: list[int]) -> Probe:
    ids = torch.tensor([[*prompt, *answer]], device=base.model.device)
    logits = base.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().cpu()
    top = logits.topk(min(metrics.LIKELIEST, logits.shape[-1]))
    near = _near(_dtype(base))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return Probe(tuple(prompt), tuple(answer), tuple(_likely(*pair, near) for pair in pairs))


def prove(served_as: str, salt: str, probes: Iterable[Probe], ends: Collection[int]) -> Talk[None]:
    """Ask a model of the server its probes; raise ``RegistryError`` where it answers otherwise."""
    for probe in probes:
        sampling = Sampling(max_tokens=len(probe.answer))
        body = protocol.completion(served_as, salt, probe.prompt, sampling, ends)
        try:
            said = yield from protocol.answer(body, ends)
        except ProtocolError as error:
            if error.code != "backend_refused":
                raise
            raise RegistryError(error.message, code=error.code, backend="vllm", version=salt) from error
        if objection := probe.objection(said):
            raise RegistryError(
                f"vLLM does not answer the probes of {salt} as when it was made: {objection}",
                code="probes_failed",
                backend="vllm",
                version=salt,
            )
