"""Adapters as other programs write them.

What lives here: which settings of a PEFT adapter lorad understands, and mlx-lm's form turned into PEFT's. What never
does: files, models, comparing what comes of it (``import_version``).

Only what is known to be right is taken. A key that nobody here has heard of may change what the adapter computes.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from torch import Tensor

from lorad.errors import RegistryError

WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "eva_config",  # EVA chooses where A begins; B begins at zero
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "lora_dropout",
        "megatron_core",  # a module's name, for megatron_config alone
        "peft_version",
        "qalora_group_size",  # for use_qalora alone
        "revision",
        "runtime_config",
        "target_modules",
    }
)
"""Keys of which any value is fine: they tell where the adapter is from or where it lies, which its tensors tell too."""
READ = frozenset({"alpha_pattern", "lora_alpha", "r", "rank_pattern", "use_rslora"})
"""Keys that lorad reads as PEFT does."""
ONLY: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", "mica"),
    "peft_type": ("LORA",),
    "task_type": (None, "CAUSAL_LM"),
}
"""Keys of which these values are fine."""
MERGE = "merge it into its base with PEFT's merge_and_unload and add the whole model"
MORE_THAN_LINEAR = (
    "it changes more than linear layers, which no version can hold: train it again without that, or merge it with "
    "PEFT's merge_and_unload and add the result as a base of its own with: lorad base add"
)
REMEDIES = {
    "alora_invocation_tokens": "it applies only after certain tokens and cannot be merged; train it again without that",
    "bias": MORE_THAN_LINEAR,
    "init_lora_weights": "it may change the weights of the base itself; save the adapter with "
    "path_initial_model_for_weight_conversion and add that",
    "layer_replication": MORE_THAN_LINEAR,
    "lora_bias": MORE_THAN_LINEAR,
    "modules_to_save": MORE_THAN_LINEAR,
    "peft_type": "only LoRA can be kept; " + MERGE,
    "task_type": "only language models (CAUSAL_LM) are supported",
    "trainable_token_indices": MORE_THAN_LINEAR,
}
MLX_PARTS = (".lora_a", ".lora_b")


def check_peft(config: Mapping[str, Any]) -> None:
    """Raise ``RegistryError`` naming the first setting of which lorad does not know that it computes as PEFT would."""
    for key, value in sorted(config.items()):
        if not _is_known(key, value):
            raise RegistryError(
                f"adapter_config.json sets {key} to {str(value)[:80]}, which lorad does not know; "
                f"{REMEDIES.get(key, MERGE)}",
                code="adapter_kind",
                key=key,
            )
    if "peft_type" not in config:
        raise RegistryError("adapter_config.json names no peft_type", code="adapter_kind", key="peft_type")
    _check_numbers(config)


def _is_known(key: str, value: Any) -> bool:
    if key in ONLY:
        return any(value is known or (isinstance(known, str) and value == known) for known in ONLY[key])
    return (
        key in WITHOUT_EFFECT | READ or not value
    )  # None, false and empty are what PEFT writes for "not used"


def _check_numbers(config: Mapping[str, Any]) -> None:
    ranks = {"r": config.get("r")} | _pattern(config, "rank_pattern")
    alphas = {"lora_alpha": config.get("lora_alpha")} | _pattern(config, "alpha_pattern")
    for name, rank in ranks.items():
        if not _is_number(rank) or rank != int(rank) or rank < 1:
            raise _no_number(name, rank, "a whole number of 1 or more")
    for name, alpha in alphas.items():
        if not _is_number(alpha):
            raise _no_number(name, alpha, "a number")


def _pattern(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key) or {}
    if not isinstance(found, dict):
        raise _no_number(key, found, "an object of layers and numbers")
    for layer in found:
        try:
            re.compile(layer)
        except re.error as error:
            raise _no_number(key, layer, f"a regular expression ({error})") from None
    return {f"{key}, {layer}": value for layer, value in found.items()}


def _no_number(name: str, value: Any, wanted: str) -> RegistryError:
    return RegistryError(
        f"adapter_config.json says {name}: {value!r}, which is not {wanted}", code="adapter_config"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MlxLora:
    """A LoRA as mlx-lm has it: ``y = x W' + scale (x a) b``, with a [in, rank] and b [rank, out] for each layer."""

    pairs: dict[str, tuple[Tensor, Tensor]]
    scale: float

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each layer's A [rank, in] and B [out, rank], the scale in B."""
        return {
            name: (a.T.contiguous(), (b.T * self.scale).contiguous()) for name, (a, b) in self.pairs.items()
        }


def is_mlx(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> bool:
    """Tell whether an adapter is one of mlx-lm's."""
    named = {"fine_tune_type", "lora_parameters"} & config.keys() and "peft_type" not in config
    return bool(named) or any(name.endswith(MLX_PARTS) for name in tensors)


def read_mlx(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> MlxLora:
    """Read an mlx-lm LoRA; raise ``RegistryError`` when it is another kind, or says two things."""
    kind = config.get("fine_tune_type") or ("dora" if config.get("use_dora") else "lora")
    if kind != "lora":
        raise RegistryError(
            f"mlx-lm says fine_tune_type: {kind!r}; only its lora can be converted, so fuse it with mlx_lm.fuse "
            "and add the whole model",
            code="adapter_kind",
            key="fine_tune_type",
        )
    strange = [name for name in tensors if not name.endswith(MLX_PARTS)]
    if strange:
        raise RegistryError(
            f"the mlx-lm adapter also holds {strange[0]}; only LoRA weights of linear layers can be converted, so "
            "fuse it with mlx_lm.fuse and add the whole model",
            code="adapter_kind",
        )
    settings = config.get("lora_parameters")
    if not isinstance(settings, dict):
        raise RegistryError(
            "these are mlx-lm's tensors, but adapter_config.json has no lora_parameters with rank and scale",
            code="adapter_config",
        )
    layers = sorted({name.rpartition(".")[0] for name in tensors})
    return MlxLora(
        pairs={layer: _mlx_pair(layer, tensors, settings.get("rank")) for layer in layers},
        scale=_mlx_scale(settings, config),
    )


def _mlx_pair(layer: str, tensors: Mapping[str, Tensor], rank: Any) -> tuple[Tensor, Tensor]:
    a, b = (tensors.get(f"{layer}{part}") for part in MLX_PARTS)
    if a is None or b is None or not rank or (a.shape[1:], b.shape[:-1]) != ((rank,), (rank,)):
        raise RegistryError(
            f"lora_a and lora_b of {layer} are not one pair of the rank that adapter_config.json says ({rank!r})",
            code="adapter_config",
        )
    return a.float(), b.float()


def _mlx_scale(settings: Mapping[str, Any], config: Mapping[str, Any]) -> float:
    """Return what mlx-lm multiplies by.

    That is ``scale``. Until June 2024 it was ``scale * alpha / rank``; ``alpha`` is ignored since. An adapter's age
    shows in its other keys: ``use_dora`` came in May 2024, ``num_layers`` and ``fine_tune_type`` after September.
    """
    scale, alpha = settings.get("scale"), settings.get("alpha")
    if not _is_number(scale):
        raise _no_number("lora_parameters.scale", scale, "the number that mlx-lm multiplies the adapter by")
    if alpha is None or {"num_layers", "fine_tune_type"} & config.keys():
        return float(scale)
    if not _is_number(alpha):
        raise _no_number("lora_parameters.alpha", alpha, "a number")
    old = float(scale * alpha / settings["rank"])
    if old != scale and "use_dora" in config:
        raise RegistryError(
            f"adapter_config.json names alpha and scale, and mlx-lm of summer 2024 may have meant {old:g} or {scale:g} "
            "by that; remove alpha, write the right one as scale, and add it again",
            code="adapter_config",
        )
    return old


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
