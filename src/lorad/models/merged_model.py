"""A version as a model without extra layers: the base's modules, with weights of its own where the adapter changes them.

It computes faster than the adapter laid beside the layers, which stays what a version is compared with. What never lives
here: the arithmetic (``adapters``).
"""

from typing import Any

from torch import nn

from lorad.models import adapters, heads, packed_linear, quantized
from lorad.models.adapters import Adapter
from lorad.models.heads import Head
from lorad.models.shared_copy import shared_copy


def objection(model: Any, adapter: Adapter) -> str | None:
    """Tell why an adapter must not be merged into a copy of this base, ``None`` where it may."""
    if any(quantized.is_quantized(adapters.linear(model, name)) for name in adapter.factors):
        return "the base is quantised: merging would round what was learned away"
    return None


def added_bytes(model: Any, adapter: Adapter) -> int:
    """Return how much memory a merged copy takes beside its base."""
    if packed_linear.can_pack(model):
        return packed_linear.packed_bytes(model)
    weights = (adapters.linear(model, name).weight for name in adapter.factors)
    return sum(weight.numel() * weight.element_size() for weight in weights)


def merged(model: Any, adapter: Adapter, head: Head = heads.CAUSAL) -> Any:
    """Return a pristine base with an adapter added into its weights: exactly, in float32, cast once.

    All other weights are the base's own, which is left as it is; but where packing its layers pays, all of these are packed.
    A ``head`` that the adapter brings is put in the place of the base's.
    """
    made = shared_copy(model)
    for name in adapter.factors:
        layer = adapters.linear(made, name)
        layer.weight = nn.Parameter(layer.weight.clone(), requires_grad=False)
    adapters.merge(made, adapter)
    if adapter.head:
        heads.build(made, head, adapter.labels, adapter.problem_type, splits_words=adapter.splits_words)
        heads.put(made, adapter.head)
    if packed_linear.can_pack(made):
        packed_linear.pack(made)
    return made
