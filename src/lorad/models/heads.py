"""Heads: which class of transformers stands on a base's weights, and the part of it that learns in full.

What lives here: building a head for given labels, and putting a trained one in its place. What never does: reading and
writing (``peft_io``), what its outputs mean (``tasks``).

A causal model brings its head along. A classifier's is new for each set of labels, so that a version carries it: all of
its tensors beside the LoRA's factors, in PEFT's own form (``modules_to_save``). It is held in float32 whatever the base
is, because it learns at full rate from the first step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

#: Of a new head's weights: made anew, a session makes the same adapter.
SEED = 1
#: Standard deviation of a new head's weights, as BERT has it.
SPREAD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a task needs on top of a base; a task with a model class of its own makes one of its own."""

    name: str
    loads: Any
    """The class whose ``from_pretrained`` reads a base's folder."""
    task_type: str | None
    """PEFT's word for it, in ``adapter_config.json``; ``None`` where it has none."""
    parts: tuple[str, ...] = ()
    """Modules that are trained in full and kept with each version, as far as the model has them; none where the base's
    own head stays as it is."""
    layers: tuple[str, ...] = ()
    """How the names of those linear layers end that get a LoRA; empty: all but the head's."""
    make: Callable[[Any, int], nn.Module] | None = None
    """Returns a part of one's own for a model, with random weights and so many outputs; without it the linear layers of the
    base's own part are made anew."""
    is_whole: bool = False
    """Whether a version brings every weight, because its base has only random ones (``models.scratch``)."""

    @property
    def is_learned(self) -> bool:
        """Tell whether only a version can answer: the base has no such head, or no trained weights at all."""
        return self.is_whole or bool(self.parts)


CAUSAL = Head(name="causal", loads=AutoModelForCausalLM, task_type="CAUSAL_LM")
MASKED = Head(name="masked", loads=AutoModelForMaskedLM, task_type=None)
SEQUENCE = Head(
    name="sequence",
    loads=AutoModelForSequenceClassification,
    task_type="SEQ_CLS",
    parts=("classifier", "score"),
)
TOKEN = Head(
    name="token", loads=AutoModelForTokenClassification, task_type="TOKEN_CLS", parts=("classifier", "score")
)
WHOLE_MASKED = Head(name="whole masked", loads=AutoModelForMaskedLM, task_type=None, is_whole=True)
WHOLE_CAUSAL = Head(name="whole causal", loads=AutoModelForCausalLM, task_type="CAUSAL_LM", is_whole=True)
WHOLE_SEQ2SEQ = Head(
    name="whole seq2seq", loads=AutoModelForSeq2SeqLM, task_type="SEQ_2_SEQ_LM", is_whole=True
)


def parts(model: Any, head: Head) -> list[str]:
    """Return the names of the modules that a head's versions carry."""
    return [name for name in head.parts if isinstance(getattr(model, name, None), nn.Module)]


@torch.no_grad()
def build(
    model: Any,
    head: Head,
    labels: Sequence[str],
    problem_type: str | None = None,
    *,
    splits_words: bool = False,
) -> None:
    """Give a base a fresh head with an output for each label, and name its outputs (``config.label2id``).

    ``problem_type`` is transformers' word for what they say together, ``splits_words`` whether spans may begin or end inside
    words. Where PEFT has put heads of versions beside the
    base's own, the base's own is replaced.
    """
    for name in parts(model, head):
        part = getattr(model, name)
        owner, key = (part, "original_module") if hasattr(part, "modules_to_save") else (model, name)
        setattr(owner, key, _made(model, head, getattr(owner, key), max(1, len(labels))))
    name_outputs(model, labels)
    model.config.problem_type = problem_type
    model.config.splits_words = splits_words
    config = model.config.get_text_config()
    if config.pad_token_id is None:  # a causal model finds a text's last token by what pads the others
        config.pad_token_id = 0
    if hasattr(model, "num_labels"):
        model.num_labels = len(labels)


def name_outputs(model: Any, labels: Sequence[str]) -> None:
    """Let a model's configuration tell which output is which label."""
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}


@torch.no_grad()
def put(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Put trained head tensors into a head of the same labels, or of these and more behind them."""
    own = model.state_dict()
    for name, tensor in tensors.items():
        own[name][: tensor.shape[0]] = tensor.to(own[name])


@torch.no_grad()
def soften(model: Any, head: Head, temperature: float) -> None:
    """Divide the logits of a trained head by a temperature, for good: in its last layer, which is linear."""
    for name in parts(model, head):
        part = getattr(model, name)
        trained = part.modules_to_save["default"] if hasattr(part, "modules_to_save") else part
        *_, last = (layer for layer in trained.modules() if isinstance(layer, nn.Linear))
        for weight in last.parameters():
            weight.div_(temperature)


def _made(model: Any, head: Head, part: nn.Module, outputs: int) -> nn.Module:
    """Return a fresh part of a head, the same at every call."""
    if head.make is None:
        return _sized(part, outputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        made = head.make(model, outputs)
    return made.to(device=model.device, dtype=torch.float32).requires_grad_(False)


def _sized(part: nn.Module, outputs: int) -> nn.Module:
    """Return a head whose last layer has so many outputs, in float32 and freshly initialised."""
    layers = [(name, layer) for name, layer in part.named_modules() if isinstance(layer, nn.Linear)]
    last = layers[-1][0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for name, layer in layers:
            size = outputs if name == last else layer.out_features
            fresh = nn.Linear(layer.in_features, size, bias=layer.bias is not None, dtype=torch.float32)
            fresh.weight.normal_(std=SPREAD)
            if fresh.bias is not None:
                fresh.bias.zero_()
            fresh = fresh.to(layer.weight.device).requires_grad_(False)
            if name:
                part.set_submodule(name, fresh)
            else:
                part = fresh
    part.register_forward_pre_hook(_in_float32)
    return part


def _in_float32(_part: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        value.float() if isinstance(value, Tensor) and value.is_floating_point() else value for value in given
    )
