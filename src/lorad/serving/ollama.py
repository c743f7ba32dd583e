"""Ollama's forms, as far as lorad answers in them.

What lives here: the records of ``/api/chat`` and its kin. What never does: what requests hold (``http.ollama_bodies``),
lorad's own answers (``answers``).

Durations are nanoseconds, times as ``2026-11-29T12:00:00.000000Z``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lorad.serving.completions import Origin
from lorad.serving.record_json import OPTIONAL


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaError:
    """The answer to every request that cannot be served."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaVersion:
    """Which lorad this is."""

    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaMessage:
    """What the model says, or a piece of it."""

    role: str = "assistant"
    content: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaProgress:
    """What every answer and every piece of one says."""

    model: str
    """As the request named it."""
    created_at: str
    done: bool
    done_reason: str | None = field(default=None, metadata=OPTIONAL)
    """``stop``, ``length``, or ``load`` where nothing was asked; with the last piece, as all that follows."""
    total_duration: int | None = field(default=None, metadata=OPTIONAL)
    load_duration: int | None = field(default=None, metadata=OPTIONAL)
    """0: a version is loaded before it is asked."""
    prompt_eval_count: int | None = field(default=None, metadata=OPTIONAL)
    prompt_eval_duration: int | None = field(default=None, metadata=OPTIONAL)
    """Up to the first text, waiting included."""
    eval_count: int | None = field(default=None, metadata=OPTIONAL)
    eval_duration: int | None = field(default=None, metadata=OPTIONAL)
    lorad: Origin | None = field(default=None, metadata=OPTIONAL)
    """With the first piece; left out where no example was looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaChat(OllamaProgress):
    """An answer to ``/api/chat``, or a piece of it."""

    message: OllamaMessage = OllamaMessage()


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaGenerate(OllamaProgress):
    """An answer to ``/api/generate``, or a piece of it."""

    response: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaEmbed:
    """The vectors of some texts, in their order."""

    model: str
    embeddings: tuple[tuple[float, ...], ...]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    """Of the texts' tokens, those that the embedder has read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaDetails:
    """What a model is."""

    parent_model: str = ""
    """The base's name."""
    format: str = "safetensors"
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization_level: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaModel:
    """A model that can be asked: a track (``chat:latest``), or a version of it (``chat:v0.1``)."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: OllamaDetails


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaTags:
    """Everything that can be asked."""

    models: tuple[OllamaModel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaShow:
    """All that is known of a model."""

    modelfile: str
    parameters: str = ""
    template: str
    """The base's own, in Jinja."""
    details: OllamaDetails
    model_info: Mapping[str, Any]
    capabilities: tuple[str, ...]
    modified_at: str
