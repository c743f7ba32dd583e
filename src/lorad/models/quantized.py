"""Base models in 4 and 8 bits, as bitsandbytes holds them: NF4 with double quantisation, and LLM.int8().

What lives here: that library, whether it can be used, and loading with it. What never does: which form is wanted
(``memory_needs``), adapters: nothing is ever merged into such weights.

4 bits: Dettmers et al. 2023, QLoRA, section 3. 8 bits: Dettmers et al. 2022, LLM.int8(), with its outlier threshold of 6.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig

PIP = "pip install bitsandbytes"
READ_TOGETHER = frozenset({"8bit"})
"""Forms in which what is said of a row hangs on the rows that are read with it: LLM.int8() looks for outliers by column, in all rows of
a pass. On SmolLM2 the logits of four rows move by 3 when twenty others go along."""


def objection(device: str) -> str | None:
    """Tell why a base cannot be held quantised on a device, ``None`` where it can."""
    if device == "mps":
        return "bitsandbytes computes on CPU and CUDA only, not on MPS"
    if find_spec("bitsandbytes") is None:
        return f"bitsandbytes is not installed: {PIP}"
    return None


def how_to_load(kind: str, compute: torch.dtype, device: str) -> dict[str, Any]:
    """Return what ``from_pretrained`` is told, to hold a model's linear layers in ``4bit`` or ``8bit``; for ``none`` nothing.

    The output layer, and what is tied to it, stays as it is.
    """
    if kind == "none":
        return {}
    if kind == "4bit":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
    else:
        config = BitsAndBytesConfig(load_in_8bit=True)
    return {"quantization_config": config, "device_map": {"": device}}


def settle(model: nn.Module) -> None:
    """Bring quantised layers into the state that they keep, whoever shares their weights.

    bitsandbytes moves weights about when a layer is first asked. And on some CPUs it lays 4-bit weights out anew, with
    coarser scales, when an evaluation begins: what was tested would not be what was trained.
    """
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
        if hasattr(layer, "init_8bit_state") and getattr(layer.weight, "CB", None) is not None:
            layer.init_8bit_state()


def shared_parts(model: nn.Module) -> Iterator[Any]:
    """Yield what belongs to quantised weights beside the parameters: another model of the same weights shares it."""
    for layer in model.modules():
        state = getattr(layer, "state", None)  # of 8 bits: rewritten at every call, but for these
        yield from (
            each for each in (getattr(state, "CB", None), getattr(state, "SCB", None)) if each is not None
        )
        found = getattr(layer, "quant_state", None)  # of 4 bits: only read
        if found is not None:
            yield found


def is_quantized(layer: nn.Linear) -> bool:
    """Tell whether a layer's weights are quantised."""
    return not layer.weight.is_floating_point()
