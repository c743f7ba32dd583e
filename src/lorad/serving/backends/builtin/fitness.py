"""Whether a model's answers can share a step: what its cache is said to be, and then tried.

A model that keeps more than the keys and values of every token (a state, a window) cannot; one that counts positions in a
way of its own may say otherwise in a batch than alone, and no list of architectures tells that for certain.
"""

import inspect
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from lorad.serving.backends.builtin.row_cache import RowCache, logits_behind, next_logits
from lorad.serving.backends.interface import Capabilities

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""How far the logits in a batch may be from those alone, as a part of the largest: bfloat16 rounds by the shape of a product."""
PROMPTS = (5, 2, 9)
"""Lengths of the prompts that are tried together."""


def fitness(model: Any) -> Capabilities:
    """Tell whether a causal model's answers can share steps, and why."""
    if why := _objection(model):
        return Capabilities(batches=False, because=why)
    try:
        difference = _difference(model)
    except Exception as error:  # noqa: BLE001 - a model that cannot be asked so is asked otherwise
        return Capabilities(batches=False, because=f"a batch fails: {type(error).__name__}: {error}"[:200])
    if not difference <= TOLERANCE.get(model.dtype, TOLERANCE[torch.bfloat16]):
        return Capabilities(batches=False, because=f"logits differ by {difference:.2g} in a batch")
    return Capabilities(batches=True, because="all layers attend to every token before")


def _objection(model: Any) -> str:
    takes = inspect.signature(model.forward).parameters
    if lacks := {"position_ids", "past_key_values", "attention_mask"} - takes.keys():
        return f"{type(model).__name__} takes no {', '.join(sorted(lacks))}"
    if getattr(model, "_is_stateful", False):
        return f"{type(model).__name__} keeps a state"
    others = {
        type(layer).__name__
        for layer in DynamicCache(config=model.config).layers
        if type(layer) is not DynamicLayer
    }
    return f"its cache has {', '.join(sorted(others))}" if others else ""


@torch.inference_mode()
def _difference(model: Any) -> float:
    """Return how far the logits of prompts that are read in one batch, and go on in one, are from those of each alone."""
    vocabulary, device = model.get_input_embeddings().weight.shape[0], model.device
    texts = [[(7 * place + 3 * size + 1) % vocabulary for place in range(size + 1)] for size in PROMPTS]
    alone = torch.stack(
        [model(input_ids=torch.tensor([text], device=device)).logits[0, -2:] for text in texts]
    )
    caches, rows = [DynamicCache() for _ in texts], RowCache()
    behind = logits_behind(model, [text[:-1] for text in texts], caches)
    for cache in caches:
        rows.join(cache)
    together = torch.stack([behind, next_logits(model, rows, [text[-1] for text in texts])], dim=1)
    return float((together - alone).abs().max() / alone.abs().max().clamp_min(1e-6))
