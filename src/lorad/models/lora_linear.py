"""A linear layer and its LoRA as one function, forward and backward.

What lives here: the two products of an adapter that learns, laid into those of the frozen layer. What never does: which layers have
an adapter, its files (``peft_io``).

PEFT computes the low-rank path in float32 beside the layer and adds it up: six casts and as many passes over the activations for each
layer. Here the products run in the layer's own precision, the second one adds into the layer's output, and nothing scaled is ever
made; the trained weights, their gradients and the optimizer stay in float32. The gradient is written by hand, as in Unsloth (Han
2024) and LoRAFusion (Zhu et al. 2025); in float32 it is PEFT's to rounding.
"""

from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

DEVICES = {"cpu", "cuda"}
"""Where this is PEFT's way to rounding, and faster; elsewhere nobody has looked."""


class _LoraProduct(torch.autograd.Function):
    """x W^T + bias + scale (x A^T) B^T; T tokens, I inputs, O outputs, rank R."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        a, b = a.to(weight.dtype), b.to(weight.dtype)
        low = tokens @ a.T
        out = functional.linear(tokens, weight, bias).addmm_(low, b.T, alpha=scale)
        ctx.save_for_backward(tokens, low, weight, a, b)
        ctx.scale, ctx.shape = scale, x.shape
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (above,) = gradients
        tokens, low, weight, a, b = ctx.saved_tensors
        above = above.reshape(-1, above.shape[-1])
        through = (above @ b).mul_(ctx.scale)
        of_a = (through.T @ tokens).float()
        of_b = (above.T @ low).float().mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (above @ weight).addmm_(through, a).view(ctx.shape)
        return of_x, None, None, of_a, of_b, None


def fuse(model: nn.Module, adapter: str = "default") -> None:
    """Let every plain linear layer that has this adapter, and no other at work, compute with it in one function."""
    if next(model.parameters()).device.type not in DEVICES:
        return
    for layer in model.modules():
        if not isinstance(layer, LoraLinear) or type(layer.get_base_layer()) is not nn.Linear:
            continue
        if layer.active_adapters == [adapter] and adapter in layer.lora_A:
            layer.forward = partial(_forward, layer, adapter)  # type: ignore[method-assign] # this layer's alone


def _forward(layer: Any, adapter: str, x: Tensor) -> Tensor:
    base = layer.base_layer
    product: Tensor = _LoraProduct.apply(
        x,
        base.weight,
        base.bias,
        layer.lora_A[adapter].weight,
        layer.lora_B[adapter].weight,
        layer.scaling[adapter],
    )
    return product
