"""Testing a GGUF with llama.cpp itself, if ``llama-cpp-python`` is installed.

What lives here: its logits, its tokens and its own chat prompts beside what they must be. What never does: writing
GGUF; needing the package, which is an extra.
"""

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TOLERANCE = 0.25
"""Logits, which reach 45 here: llama.cpp rounds activations to float16 as well as weights, 0.02 with SmolLM2."""
COMPLETED = 4
"""Number of conversations to answer; each takes as long as an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A conversation, the prompt that lorad makes of it, and its tokens."""

    name: str
    messages: Sequence[Mapping[str, str]]
    text: str
    tokens: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The largest difference of a probe's logit, and the conversations that are made into other tokens."""

    difference: float
    other_tokens: tuple[str, ...] = ()
    other_chats: tuple[str, ...] = ()


def is_installed() -> bool:
    """Tell whether llama-cpp-python is there."""
    return find_spec("llama_cpp") is not None


def ask(file: Path, probes: Mapping[str, Any], chats: Sequence[Asked]) -> Findings:
    """Test a GGUF on a version's probes, and compare llama.cpp's prompts of conversations."""
    longest = max(
        [len(probe["tokens"]) for probe in probes["probes"]] + [len(chat.tokens) for chat in chats], default=0
    )
    with opened(file, longest + 8, logits_all=True) as llama:
        return Findings(
            difference=max((_difference(llama, probe) for probe in probes["probes"]), default=0.0),
            other_tokens=tuple(chat.name for chat in chats if _tokens(llama, chat.text) != [*chat.tokens]),
            other_chats=tuple(
                chat.name for chat in chats[:COMPLETED] if _prompt(llama, chat) != [*chat.tokens]
            ),
        )


@contextlib.contextmanager
def opened(file: Path, context: int, **how: Any) -> Iterator[Any]:
    """Load a GGUF as a ``llama_cpp.Llama``, silently, and close it in the end."""
    library: Any = importlib.import_module("llama_cpp")
    llama = library.Llama(
        model_path=str(file), n_ctx=context, n_batch=context, n_gpu_layers=0, verbose=False, seed=0, **how
    )
    try:
        yield llama
    finally:
        llama.close()


def _difference(llama: Any, probe: Mapping[str, Any]) -> float:
    llama.reset()
    llama.eval(probe["tokens"])
    logits = llama.scores[probe["start"] - 1 : len(probe["tokens"]) - 1]
    worst = 0.0
    for row, tops, then in zip(logits, probe["top"], probe["logits"], strict=True):
        for token, was in zip(tops, then, strict=True):
            worst = max(worst, abs(float(row[token]) - was))
    return worst


def _tokens(llama: Any, text: str) -> list[int]:
    return list(llama.tokenize(text.encode(), add_bos=True, special=True))


def _prompt(llama: Any, chat: Asked) -> list[int]:
    """Return the tokens that its own chat completion has read."""
    llama.reset()
    said = llama.create_chat_completion([*chat.messages], max_tokens=1, temperature=0.0)
    return [int(token) for token in llama.input_ids[: said["usage"]["prompt_tokens"]]]
