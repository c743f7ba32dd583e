"""Linear layers whose weights lie in memory as the processor's matrix unit reads them.

torch reorders a layer's bfloat16 weights at every call on a CPU; a model that only answers can have that done once. Such a
layer has no ``weight`` any more: it cannot be trained, saved or copied.
"""

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 16
"""Rows of the input that the order is chosen for; other numbers are hardly slower."""


class PackedLinear(nn.Module):
    """Computes what a linear layer does, up to rounding."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)  # noqa: SLF001 - what torch's compiler calls too

    def forward(self, given: Tensor) -> Tensor:
        """Return ``given`` [..., in] times the weights, [..., out]."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(given, self._packed, self.bias, "none", [], "")  # noqa: SLF001
        return found


def can_pack(model: Any) -> bool:
    """Tell whether packing a model's layers pays here: in bfloat16, on a CPU whose library can."""
    return bool(
        model.device.type == "cpu"
        and model.dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001
    )


def packed_bytes(model: Any) -> int:
    """Return how much memory the packed layers of a model take."""
    return sum(layer.weight.numel() * layer.weight.element_size() for _, layer in _layers(model))


@torch.no_grad()
def pack(model: Any) -> None:
    """Put packed layers in the place of a model's linear ones; their own weights are freed where nothing else has them."""
    for name, layer in _layers(model):
        model.set_submodule(name, PackedLinear(layer))


def _layers(model: Any) -> list[tuple[str, nn.Linear]]:
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16
    ]
