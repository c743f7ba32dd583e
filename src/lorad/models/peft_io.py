"""Adapters in PEFT's form: read, written, checked against their base, as PEFT itself would apply them.

PEFT lives here alone. What never does: the arithmetic (``adapters``), several adapters on one base (``adapter_stack``).
"""

import contextlib
import json
import math
import pickle
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper, get_pattern_key
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
)
from transformers.pytorch_utils import Conv1D

from lorad.errors import RegistryError, TransientError
from lorad.models import base_source, heads, lora_linear
from lorad.models.adapters import Adapter, linear, padded, tied
from lorad.models.bases import HARMLESS
from lorad.models.hardware import first_line, passing_errors
from lorad.models.heads import CAUSAL, Head
from lorad.storage import files

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


PREFIX = "base_model.model."

_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")
"""The first number in a module's name, as PEFT reads it."""


#: What PEFT calls an adapter that stays as it is, beside the one that is trained.
PARENT = "parent"
#: What an adapter's labels are called in the header of its tensors: PEFT's configuration has no place for them.
_LABELS = "labels"
#: What its outputs say together, in the same header.
_PROBLEM_TYPE = "problem_type"
#: There where its spans may begin or end inside words.
_SPLITS_WORDS = "splits_words"


def add_lora(
    model: Any, rank: int, alpha: int, head: Head = CAUSAL, beside: Any = None, *, first_layer: int = 0
) -> Any:
    """Wrap a frozen model with a fresh fp32 LoRA on all linear layers but the head, and with a head that learns too.

    ``beside`` is what ``lay`` has made of it, if its parent lies beside the layers: their deltas add up, the fresh one learns. Layers
    before the ``first_layer`` get none.
    """
    every = "all-linear" if beside is None and not first_layer else sorted(_linear_names(model, first_layer))
    learning = list(range(first_layer, model.config.num_hidden_layers)) if first_layer else None
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(head.layers) or every,
        layers_to_transform=learning,
        lora_dropout=0.0,
        bias="none",
        task_type=head.task_type,
        modules_to_save=heads.parts(model, head) or None,
    )
    if beside is None:
        wrapped = get_peft_model(model, config)
        lora_linear.fuse(wrapped)
        return wrapped
    beside.add_adapter("default", config)
    beside.base_model.set_adapter([PARENT, "default"])
    for name, weight in beside.named_parameters():
        if f".{PARENT}." in name:
            weight.requires_grad_(requires_grad=False)
    return beside


def _linear_names(model: nn.Module, first_layer: int) -> set[str]:
    """Return the last names of the linear layers from this one on; an adapter may lie on them."""
    return {
        name.removesuffix(".base_layer").rpartition(".")[2]
        for name, layer in model.named_modules()
        if isinstance(layer, (BaseTunerLayer, nn.Linear, Conv1D)) and ".lora_" not in name
        if (number := _layer_number(name)) is not None and number >= first_layer
    }


def lowest_layer(names: Iterable[str]) -> int:
    """Return the first of a model's layers that modules of these names stand in; 0 where one stands outside of them."""
    numbers = [_layer_number(name) for name in names]
    return min((number or 0 for number in numbers), default=0)


def _layer_number(name: str) -> int | None:
    """Return in which of a model's layers a module is, ``None`` for what is outside of them."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None


def lay(model: Any, adapter: Adapter, head: Head = CAUSAL) -> Any:
    """Lay an adapter beside a model's layers, all of them, frozen: where nothing may be merged into these.

    The model itself computes with it from now on. Return PEFT's wrapper of it, for ``add_lora``.
    """
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.rank,
        target_modules=list(head.layers) or "all-linear",
        lora_dropout=0.0,
        bias="none",
        task_type=head.task_type,
    )
    wrapped = get_peft_model(model, config, adapter_name=PARENT)
    for name, layer in wrapped.named_modules():
        if isinstance(layer, BaseTunerLayer):
            _put(layer, adapter.factors.get(name.removeprefix(PREFIX)), adapter.rank)
    return wrapped.requires_grad_(requires_grad=False).eval()


@torch.no_grad()
def _put(layer: Any, pair: tuple[Tensor, Tensor] | None, rank: int) -> None:
    """Give a layer's parent these factors; without any it adds nothing, for PEFT begins with zeros in B."""
    if pair is not None:
        for weight, factor in zip((layer.lora_A, layer.lora_B), padded(pair, rank), strict=True):
            weight[PARENT].weight.copy_(factor)


def read_live(model: Any, adapter: str = "default") -> Adapter:
    """Return an adapter of a PEFT model in memory, copied, with its scale folded in; its labels are the model's."""
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    head: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, ModulesToSaveWrapper) and adapter in module.modules_to_save:
            trained = module.modules_to_save[adapter].state_dict()
            head |= {f"{name.removeprefix(PREFIX)}.{key}": _kept(value) for key, value in trained.items()}
        if hasattr(module, "lora_A") and adapter in module.lora_A:
            a = module.lora_A[adapter].weight.detach().float().cpu().clone()
            b = module.lora_B[adapter].weight.detach().float().cpu() * module.scaling[adapter]
            factors[name.removeprefix(PREFIX)] = (a, b)
    if not head:
        return Adapter(factors)
    config = model.config
    labels, splits_words = tuple(config.id2label.values()), getattr(config, _SPLITS_WORDS, False)
    return Adapter(factors, head, labels, config.problem_type, splits_words)


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu().clone()


def _targets(names: Collection[str]) -> dict[str, Any]:
    """Return PEFT's words for the modules that have an adapter: what they are called in every layer, and which layers where not all.

    Where layers differ in this each module is named.
    """
    layers: dict[int | None, set[str]] = {}
    for name in names:
        layers.setdefault(_layer_number(name), set()).add(name.rpartition(".")[2])
    first, *others = layers.values() or [set()]
    if any(each != first for each in others):
        return {"target_modules": sorted(names)}
    numbers = sorted(number for number in layers if number is not None)
    if not numbers or numbers[0] == 0 or None in layers:
        return {"target_modules": sorted(first)}
    return {"target_modules": sorted(first), "layers_to_transform": numbers}


def write_adapter(adapter: Adapter, folder: Path, base_name: str, head: Head = CAUSAL) -> None:
    """Write a standard PEFT adapter (scale 1) for the pristine base with this head."""
    rank = adapter.rank
    tensors = {}
    for name, pair in adapter.factors.items():
        a, b = padded(pair, rank)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = a.contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = b.contiguous()
    tensors |= {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in adapter.head.items()}
    files.make_folder(folder)
    config = {
        "peft_type": "LORA",
        "task_type": head.task_type,
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": rank,
        **({"target_modules": sorted(head.layers)} if head.layers else _targets(adapter.factors)),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    told = {"format": "pt"}
    if adapter.head:
        config["modules_to_save"] = sorted({name.partition(".")[0] for name in adapter.head})
        told[_LABELS] = json.dumps(adapter.labels)
    if adapter.problem_type:
        told[_PROBLEM_TYPE] = adapter.problem_type
    if adapter.splits_words:
        told[_SPLITS_WORDS] = "true"
    files.write_json(folder / ADAPTER_FILES[0], config)
    files.write_bytes(folder / ADAPTER_FILES[1], save(tensors, metadata=told))


def read_adapter(folder: Path) -> Adapter:
    """Read a PEFT LoRA from disk with its scale folded in; raise ``RegistryError`` on anything unsound."""
    try:
        config = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
        tensors = load_file(folder / ADAPTER_FILES[1])
        return replace(
            fold(tensors, config, folder),
            labels=read_labels(folder),
            problem_type=read_problem_type(folder),
            splits_words=read_splits_words(folder),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise RegistryError(
            f"the adapter in {folder} cannot be read: {error}", code="adapter_damaged"
        ) from error


def fold(tensors: dict[str, Tensor], config: dict[str, Any], folder: Path) -> Adapter:
    """Return a PEFT LoRA's tensors as an adapter with the scale folded in."""
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        raise RegistryError(f"the adapter in {folder} is not a plain LoRA", code="adapter_kind")
    head = {name.removeprefix(PREFIX): t.float() for name, t in tensors.items() if _is_of_head(name, config)}
    return Adapter(dict(_fold(tensors, config, folder)), head)


def _is_of_head(name: str, config: Mapping[str, Any]) -> bool:
    parts = config.get("modules_to_save") or ()
    return name.removeprefix(PREFIX).startswith(tuple(f"{part}." for part in parts))


def read_labels(folder: Path) -> tuple[str, ...]:
    """Return the labels of an adapter's head, from the header alone; none where the base's own head stands."""
    return tuple(json.loads(_header(folder).get(_LABELS, "[]")))


def read_problem_type(folder: Path) -> str | None:
    """Return what the outputs of an adapter's head say together, from the header alone."""
    return _header(folder).get(_PROBLEM_TYPE)


def read_splits_words(folder: Path) -> bool:
    """Tell whether an adapter was taught spans that begin or end inside words, from the header alone."""
    return _SPLITS_WORDS in _header(folder)


def _header(folder: Path) -> Mapping[str, str]:
    with safe_open(folder / ADAPTER_FILES[1], framework="pt") as handle:
        return handle.metadata() or {}


@contextlib.contextmanager
def as_peft_loads(model: Any, folder: Path, tensors: dict[str, Tensor]) -> Iterator[Any]:
    """Yield a pristine base with an outside adapter as PEFT itself lays it over, and take it off again.

    Raise ``RegistryError`` with PEFT's reason when it cannot, or when it would pass over tensors without a word.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT only warns of is looked at here
        try:
            wrapped, told = _load_with_peft(model, folder, tensors)
            lacks = [name for name in told.missing_keys if ".lora_" in name]
            for names, what in ((told.unexpected_keys, "passes over"), (lacks, "finds no weights for")):
                if names:
                    raise RegistryError(
                        f"PEFT {what} {names[0]} in {folder}: the adapter was made for another base model, or its "
                        "adapter_config.json names other layers than its weights",
                        code="wrong_base",
                    )
            yield wrapped
        finally:
            unwrap(model)


def _load_with_peft(model: Any, folder: Path, tensors: dict[str, Tensor]) -> tuple[Any, Any]:
    try:
        with passing_errors(f"loading {folder.name}"):
            config = LoraConfig.from_pretrained(str(folder))
            for key in ("rank_pattern", "alpha_pattern"):  # null, as other programs write them, stops PEFT
                setattr(config, key, getattr(config, key) or {})
            wrapped = get_peft_model(model, config)
            told = set_peft_model_state_dict(wrapped, tensors)
    except TransientError:
        raise
    except Exception as error:  # whatever PEFT may raise is its reason
        raise RegistryError(
            f"PEFT cannot load the adapter in {folder}: {first_line(error)}", code="peft_cannot_load"
        ) from error
    return wrapped.eval(), told


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read tensors that another program wrote; nothing else in the file is ever run.

    ``.bin``, ``.pt`` and ``.pth`` are pickles: ``weights_only`` builds tensors and plain containers and refuses all else.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise RegistryError(
            f"{path} cannot be read as tensors alone: {str(error).splitlines()[0]}; save it as safetensors",
            code="not_tensors",
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):  # as training scripts wrap them
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    found = (
        {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
        if isinstance(loaded, dict)
        else {}
    )
    if not found:
        raise RegistryError(f"{path} holds no named tensors", code="not_tensors")
    return found


def load_as_told(folder: Path, tensors: dict[str, Tensor]) -> Any:
    """Return an outside model as its own config.json describes it, with these tensors, in float32.

    Raise ``RegistryError`` when they are not all that it has.
    """
    try:
        with passing_errors(f"loading {folder.name}"):
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            told = model.load_state_dict(tensors, strict=False)
    except TransientError:
        raise
    except Exception as error:  # whatever a configuration may lead to
        raise RegistryError(
            f"{folder} holds no language model that transformers can load: {first_line(error)}",
            code="no_model",
        ) from error
    lacks = set(told.missing_keys) - tied(model)
    strange = [name for name in told.unexpected_keys if not HARMLESS.search(name)]
    for names, what in ((sorted(lacks), "lacks"), (strange, "does not know")):
        if names:
            raise RegistryError(
                f"the model that config.json in {folder} describes {what} {names[0]}; put its own config.json there",
                code="wrong_base",
            )
    return model.requires_grad_(False).train(mode=False)


def check_settings(folder: Path, model: Any) -> None:
    """Raise ``RegistryError`` when a folder's config.json, if there is one, computes otherwise than a model's own."""
    if not (folder / "config.json").is_file():
        return
    try:
        theirs = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise RegistryError(
            f"{folder / 'config.json'} cannot be read: {first_line(error)}", code="no_model"
        ) from error
    known = type(model.config)().to_dict().keys()  # what no code reads computes nothing
    read, ours = (
        {key: told.get(key) for key in known} for told in (theirs.to_dict(), model.config.to_dict())
    )
    if key := base_source.another_setting(read, ours):
        raise RegistryError(
            f"the model's config.json says {key}: {str(read[key])[:80]}, its base's {str(ours[key])[:80]}, which no LoRA "
            "can hold; add it as a base of its own with: lorad base add",
            code="not_a_lora",
            key=key,
        )


def check_adapter(folder: Path, model: nn.Module) -> None:
    """Compare a version's adapter with its own config and with the base, reading headers alone.

    Raise ``TransientError`` when the machine is in trouble, and ``RegistryError``: ``adapter_damaged`` when a header cannot be read, ``adapter_config`` when config and
    weights disagree, ``wrong_base`` when the base has no such layers.
    """
    try:
        with passing_errors(f"reading {folder.name}"):
            config = files.read_json(folder / ADAPTER_FILES[0])
            with safe_open(folder / ADAPTER_FILES[1], framework="pt") as handle:
                # the library has checked that offsets, shapes and the file's length agree
                shapes = {name: handle.get_slice(name).get_shape() for name in handle.keys()}  # noqa: SIM118 - not a mapping
        rank, alpha, targets = int(config["r"]), config["lora_alpha"], set(config["target_modules"])
        told_layers = config.get("layers_to_transform")
        kind = (config["peft_type"], bool(config.get("use_dora")), bool(config.get("use_rslora")))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RegistryError(
            f"the adapter in {folder} cannot be read: {error}", code="adapter_damaged", version=folder.name
        ) from error
    head = {name: shapes.pop(name) for name in list(shapes) if _is_of_head(name, config)}
    modules = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in shapes}
    for told, is_so in {
        "is not a plain LoRA": kind == ("LORA", False, False),
        f"has alpha {alpha} and rank {rank}, which lorad writes alike": alpha == rank > 0,
        "has patterns of rank or alpha, which lorad never writes": not (
            config.get("rank_pattern") or config.get("alpha_pattern")
        ),
        f"names the layers {sorted(targets)}, its weights others": targets
        == {_target(name, targets) for name in modules},
        f"names the layers {told_layers}, its weights others": told_layers is None
        or told_layers == sorted({number for name in modules if (number := _layer_number(name)) is not None}),
        "holds weights that are no pair of A and B": set(shapes)
        == {f"{PREFIX}{name}.lora_{part}.weight" for name in modules for part in "AB"},
    }.items():
        if not is_so:
            raise RegistryError(
                f"the adapter of {folder.name} {told}", code="adapter_config", version=folder.name
            )
    for name in modules:
        layer = linear(model, name, wrapped=True)
        expected = ([rank, layer.in_features], [layer.out_features, rank])
        found = tuple(shapes[f"{PREFIX}{name}.lora_{part}.weight"] for part in "AB")
        if found[0][1:] != expected[0][1:] or found[1][:1] != expected[1][:1]:
            raise RegistryError(
                f"the adapter of {folder.name} does not fit {name} of this base model", code="wrong_base"
            )
        if found != expected:
            raise RegistryError(
                f"the adapter of {folder.name} has rank {rank} in its configuration, and another in its weights",
                code="adapter_config",
                version=folder.name,
            )
    _check_head(folder.name, model, {name.removeprefix(PREFIX): shape for name, shape in head.items()})


def _target(module: str, targets: set[str]) -> str:
    """Return which of these ends of names is a module's, its last name where none is."""
    return next((end for end in targets if f".{module}".endswith(f".{end}")), module.rpartition(".")[2])


def _check_head(version: str, model: nn.Module, shapes: Mapping[str, list[int]]) -> None:
    """Compare a version's head with the base's: the same tensors, of as many inputs."""
    for part in {name.partition(".")[0] for name in shapes}:
        own = getattr(model, part, None)
        own = getattr(own, "original_module", own)
        held = {name: shape for name, shape in shapes.items() if name.startswith(f"{part}.")}
        fits = isinstance(own, nn.Module) and (
            {f"{part}.{name}": list(tensor.shape[1:]) for name, tensor in own.state_dict().items()}
            == {name: shape[1:] for name, shape in held.items()}
        )
        if not fits:
            raise RegistryError(
                f"the head {part} of {version} does not fit this base model",
                code="wrong_base",
                version=version,
            )


def _fold(
    tensors: dict[str, Tensor], config: dict[str, Any], folder: Path
) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    for key, a in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        stem = key.removesuffix(".lora_A.weight")
        b = tensors.get(f"{stem}.lora_B.weight")
        rank = a.shape[0]
        name = stem.removeprefix(PREFIX)
        if (
            b is None
            or b.shape[1] != rank
            or rank != _of_layer(config, "rank_pattern", name, config.get("r"))
        ):
            raise RegistryError(
                f"the adapter in {folder} says rank {config.get('r')}, its weights do not",
                code="adapter_config",
            )
        alpha = float(_of_layer(config, "alpha_pattern", name, config["lora_alpha"]))
        scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
        yield name, (a.float(), b.float() * scale)


def _of_layer(config: dict[str, Any], key: str, name: str, otherwise: Any) -> Any:
    """Return what a pattern of PEFT's says of a layer; its keys are ends of names, or regular expressions of them."""
    pattern = config.get(key) or {}
    return pattern.get(get_pattern_key(list(pattern), name), otherwise)


def unwrap(model: Any) -> None:
    """Put a base's own layers back in the place of PEFT's."""
    for path, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            model.set_submodule(path, layer.get_base_layer())
        elif isinstance(layer, ModulesToSaveWrapper):
            model.set_submodule(path, layer.original_module)
    if hasattr(model, "peft_config"):
        del model.peft_config
