"""Embedders: texts to vectors that lie near each other when the texts mean the same.

What lives here: an encoder base, or a track's own base, as an embedder, and which of them a home has chosen. What never does: keeping or
searching vectors (``storage.embeddings``, ``retrieval``).
"""

import copy
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModel

from lorad.errors import ConfigError
from lorad.models import bases
from lorad.models.bases import Base
from lorad.models.context import context_length
from lorad.models.hardware import passing_errors
from lorad.records import digest

PASS_TOKENS, PASS_TEXTS = 4096, 64
"""What goes through a model together at most, padding included."""

LONGEST = 512
"""Tokens of a text that are embedded by a base that reads more: what stands behind them changes the mean little."""

CHARACTERS = 64
"""Characters that are tokenised for each token that is wanted: a text may have a megabyte."""

_HALVES = re.compile("[\ud800-\udfff]")


class Embedder(Protocol):
    """What an index needs of a model."""

    @property
    def name(self) -> str:
        """Return the base's name, for people."""

    @property
    def fingerprint(self) -> str:
        """Identify the base and how it pools: vectors of another fingerprint cannot be compared with its own."""

    @property
    def dimension(self) -> int:
        """Return D, the length of a vector."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a row of unit length for each text, [N, D]; of the empty text too."""

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Return how many tokens of these texts ``embed`` reads, all together."""

    def text_tokenizer(self) -> Tokenizer | None:
        """Return a tokenizer of the caller's own that cuts nothing, ``None`` where the base has none of that kind."""


@dataclass(frozen=True, slots=True)
class Wrapped(ABC):
    """Another embedder, with something around how it embeds."""

    own: Embedder

    @property
    def name(self) -> str:
        """Return the base's name."""
        return self.own.name

    @property
    def fingerprint(self) -> str:
        """Identify the base and how it pools."""
        return self.own.fingerprint

    @property
    def dimension(self) -> int:
        """Return the length of a vector."""
        return self.own.dimension

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a row of unit length for each text, [N, D]."""

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Return how many tokens of these texts the other one reads."""
        return self.own.count_tokens(texts)

    def text_tokenizer(self) -> Tokenizer | None:
        """Return the other one's tokenizer that cuts nothing."""
        return self.own.text_tokenizer()


@dataclass(frozen=True, slots=True)
class _Pooled:
    """The mean of a model's hidden states over a text's tokens."""

    name: str
    fingerprint: str
    dimension: int
    model: Any
    tokenizer: Any
    longest: int
    layer: int
    """Which hidden states: those behind so many layers, or -1 for the last."""
    after: int
    """How many tokens at the beginning are left out, where a text has more."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [self._tokens(text) for text in texts]
        found = np.zeros((len(rows), self.dimension), dtype=np.float32)
        for numbers in _passes([len(row) for row in rows]):
            found[numbers] = self._mean([rows[number] for number in numbers]).numpy()
        return found

    def count_tokens(self, texts: Sequence[str]) -> int:
        return sum(len(self._tokens(text)) for text in texts)

    def text_tokenizer(self) -> Tokenizer | None:
        core = getattr(self.tokenizer, "backend_tokenizer", None)
        if core is None:
            return None
        with self.lock:
            own = Tokenizer.from_str(core.to_str())
        own.no_truncation()
        own.no_padding()
        return own

    def _tokens(self, text: str) -> list[int]:
        with self.lock:  # it holds what it was told to cut, and questions come in several threads
            tokens = self.tokenizer(readable(text, self.longest), truncation=True, max_length=self.longest)[
                "input_ids"
            ]
        return list(tokens) or [self.tokenizer.eos_token_id or 0]

    @torch.inference_mode()
    def _mean(self, rows: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, rows))
        tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        mask = torch.tensor([self._kept(len(row), longest) for row in rows])
        present = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        with passing_errors("embedding"):
            device = self.model.device
            states = self.model(
                input_ids=tokens.to(device), attention_mask=present.to(device), output_hidden_states=True
            ).hidden_states[self.layer]
        kept = mask[..., None].to(device)
        mean = (states.float() * kept).sum(1) / kept.sum(1)
        return nn.functional.normalize(mean, dim=1).cpu()

    def _kept(self, length: int, longest: int) -> list[int]:
        after = min(self.after, length - 1)
        return [0] * after + [1] * (length - after) + [0] * (longest - length)


def _passes(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Divide texts of these lengths into passes, those of like length together: padding costs as much as words."""
    together: list[int] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if together and (len(together) == PASS_TEXTS or (len(together) + 1) * lengths[number] > PASS_TOKENS):
            yield together
            together = []
        together.append(number)
    if together:
        yield together


def readable(text: str, tokens: int) -> str:
    """Return what of a text is tokenised for so many tokens, as a tokenizer can read it: without halves of characters."""
    return _HALVES.sub("\ufffd", text[: CHARACTERS * tokens])


def load_encoder(folder: Path) -> Embedder:
    """Load a base of kind encoder, in float32 on the CPU; a text is truncated to the length that it reads.

    sentence-transformers' models that pool otherwise than by the mean (of the first token, say) are less good here.
    Raise ``ConfigError`` where the folder holds no encoder.
    """
    fingerprint = bases.read_fingerprint(folder)
    _check_kind(folder)
    try:
        model: Any = AutoModel.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
        tokenizer = bases.load_tokenizer(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(
            f"the base model in {folder} cannot be loaded: {error}", code="base_damaged"
        ) from error
    model.requires_grad_(False)
    model.train(mode=False)
    return _pooled(folder.name, fingerprint, model, tokenizer)


def of_base(base: Base) -> Embedder:
    """Return a track's own base as an embedder: the mean of its hidden states behind a third of its layers.

    Left out is the first token, which serves as a sink of attention. Of 106 questions of campus_cs.json in other words SmolLM2 so
    finds the right fact first for 27 %, and with the last layer for 11 %: an encoder is far better.
    """
    name = Path(str(base.model.config.name_or_path)).name or "base"
    model = base.model.base_model
    third = -(-model.config.num_hidden_layers // 3)
    # its own copy: a tokenizer holds on to what it was last told to cut, and answers are made with the base's
    tokenizer = copy.deepcopy(base.tokenizer)
    return _pooled(name, base.computes, model, tokenizer, layer=third, after=1)


def _pooled(
    name: str,
    fingerprint: str,
    model: Any,
    tokenizer: Any,
    *,
    layer: int = -1,
    after: int = 0,
) -> Embedder:
    longest = min(LONGEST, tokenizer.model_max_length, context_length(model.config) or LONGEST)
    return _Pooled(
        name=name,
        fingerprint=digest([fingerprint, "mean", layer, after, longest]),
        dimension=model.config.hidden_size,
        model=model,
        tokenizer=tokenizer,
        longest=longest,
        layer=layer,
        after=after,
    )


def chosen(folder: Path, setting: str) -> Path | None:
    """Return the encoder that ``answering.embedder`` names, of the bases in a folder; ``None``: the track's own base.

    Raise ``ConfigError`` where it names what is not there or is not an encoder.
    """
    if setting == "auto":
        named = folder / "minilm"
        is_there = (named / bases.FINGERPRINT).is_file() and bases.kind(named) == "encoder"
        return named if is_there else None
    bases.read_fingerprint(folder / setting)
    _check_kind(folder / setting)
    return folder / setting


def _check_kind(folder: Path) -> None:
    if bases.kind(folder) != "encoder":
        raise ConfigError(
            f"the base model in {folder} is not an encoder; add one with: lorad base add minilm, and name it in "
            "answering.embedder, or set that to auto",
            code="no_encoder",
        )
