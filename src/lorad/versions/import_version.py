"""Importing what another program trained, as a candidate.

What lives here: reading an adapter or a whole model from outside, and writing it as a candidate like any other: plain
PEFT safetensors for the pristine base, with probes. What never does: judging it, entering it (``store``).

An adapter is compared with PEFT's own loading of it (one of mlx-lm's with mlx-lm's formula) before it is a candidate.

A whole model becomes the difference to its base as an adapter. Whether that is the same model is measured, not assumed.
"""

import contextlib
import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorad import __version__, records
from lorad.errors import RegistryError
from lorad.evaluation import general_ability, metrics
from lorad.models import (
    adapter_formats,
    adapter_stack,
    adapters,
    base_source,
    bases,
    packing,
    peft_io,
    scoring,
)
from lorad.records import Encoded, Evaluation, Example, Score
from lorad.storage import files
from lorad.tasks import chat_template
from lorad.tasks.chat import Chat
from lorad.versions import loader, papers

CONFIG = "config.json"
MANIFEST = "manifest.json"
"""A version of lorad's own, or one that it exported with its papers, says here which base it was made for."""
ADAPTERS = ("adapter_model.safetensors", "adapters.safetensors")
"""PEFT's file, and mlx-lm's last one: beside it lie checkpoints like ``0000100_adapters.safetensors``."""
PICKLES = ("*.bin", "*.pt", "*.pth")
MOST_DIVERGENCE = 0.01
"""Nats a token between a whole model and its adapter: bfloat16's rounding of all weights makes some 0.001."""
MOST_DIFFERENCE = 1e-4
"""Of the largest logit: how far one may be from what PEFT (or mlx-lm's formula) makes of an adapter, in float32."""
COMPARED_ROWS = 4
TEXT_ROWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An imported adapter or model."""

    adapter: adapters.Adapter
    kind: str
    """``adapter`` or ``model``."""
    files: dict[str, str]
    """The sha256 of every file that was read."""
    notes: tuple[str, ...]


def check_source(source: Path) -> None:
    """Raise ``RegistryError`` if there is nothing to read, or a pipe, a device or an enormous file."""
    try:
        objection = base_source.unreadable(source) if source.exists() else f"there is no {source}"
    except (OSError, ValueError) as error:
        objection = f"{source} cannot be read: {getattr(error, 'strerror', None) or error}"
    if objection:
        raise RegistryError(objection, code="no_such_path")


def made_for(source: Path) -> str | None:
    """Return the fingerprint of the base that an external folder was made for, if it says so."""
    try:
        return str(files.read_json(source / MANIFEST)["base"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read(source: Path, base: bases.Base, rank: int) -> Found:
    """Read a folder (or one file) of tensors; raise ``RegistryError`` when it is nothing that lorad can keep."""
    check_source(source)
    paths = _tensor_files(source)
    tensors = _tensors(source, paths)
    folder = _folder(source)
    if _is_adapter(tensors, folder, base):
        kind = "adapter"
        _check_vocabulary(folder, base)
        adapter, notes = _adapter(tensors, folder, base)
    else:
        kind = "model"
        peft_io.check_settings(folder, base.model)
        adapter, lost = adapters.subtract(tensors, base.model, rank)
        notes = [f"the difference to the base was cut to rank {adapter.rank}, relative error {lost:.4f}"]
        if not (folder / CONFIG).is_file():
            notes.append("there is no config.json beside it, so it is taken for computing as its base does")
        adapter = _fitted(adapter, base, source)
    if adapter.rank > rank:
        adapter, told = _cut(adapter, base, rank)
        notes = [*notes, told]
    notes = [*notes, *_look_beside(folder, base)]
    if any(path.suffix != ".safetensors" for path in paths):
        notes = [*notes, "read from a pickle as tensors alone, and written anew as safetensors"]
    digests = {path.name: files.file_digest(path) for path in paths}
    return Found(adapter=adapter, kind=kind, files=digests, notes=tuple(notes))


def _check_vocabulary(folder: Path, base: bases.Base) -> None:
    known = set(base.tokenizer.get_vocab())
    if (theirs := base_source.vocabulary(folder)) and len(theirs) > len(known):
        raise RegistryError(
            f"the tokenizer beside the adapter in {folder} knows {len(theirs)} tokens, its base's {len(known)} "
            f"({min(theirs - known)!r} is new), and lorad asks with the base's; train it again with that tokenizer, or "
            f"add the base that it was made for",
            code="wrong_base",
        )


def _look_beside(folder: Path, base: bases.Base) -> list[str]:
    """Return notes on parts of an external folder that lorad does not use, such as a chat template."""
    notes = []
    theirs, ours = base_source.chat_template(folder), base_source.first_template(base.tokenizer.chat_template)
    if theirs and chat_template.pinned(str(theirs)).strip() != chat_template.pinned(str(ours)).strip():
        notes.append("it brings another chat template than the base; lorad asks with the base's")
    words = base_source.vocabulary(folder)
    if words and words != set(base.tokenizer.get_vocab()):
        notes.append("it brings another vocabulary than the base; lorad asks with the base's")
    return notes


def _cut(adapter: adapters.Adapter, base: bases.Base, rank: int) -> tuple[adapters.Adapter, str]:
    """Return the best adapter of ``rank`` and its distance from the full one; raise ``RegistryError`` if that is too large."""
    cut, lost = adapters.consolidate(adapter, rank)
    whole, less = (copy.deepcopy(base.model) for _ in range(2))
    adapters.merge(whole, adapter)
    adapters.merge(less, cut)
    found = general_ability.divergence(whole, less, base.tokenizer)
    told = f"cut from rank {adapter.rank} to training.max_rank ({rank})"
    if not found <= MOST_DIVERGENCE:
        raise RegistryError(
            f"{told}, this adapter would change too much: {found:.3g} nats per token away (at most {MOST_DIVERGENCE}), "
            f"relative error {lost:.4f}; raise training.max_rank to {adapter.rank}",
            code="not_low_rank",
        )
    return (
        cut,
        f"then {told}: {found:.2g} nats per token away (at most {MOST_DIVERGENCE}), relative error {lost:.4f}",
    )


def _folder(source: Path) -> Path:
    return source if source.is_dir() else source.parent


def _tensor_files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise RegistryError(f"there is no {source}", code="no_such_path")
    for patterns in (*((name,) for name in ADAPTERS), ("*.safetensors",), PICKLES):
        found = sorted(path for pattern in patterns for path in source.glob(pattern))
        kept = [path for path in found if path.stem not in {"training_args", "optimizer", "scheduler"}]
        if kept:
            return kept
    raise RegistryError(f"{source} holds no .safetensors, .bin, .pt or .pth file", code="no_tensors")


def _tensors(source: Path, paths: Sequence[Path]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for path in paths:
        found = peft_io.read_tensors(path)
        if twice := sorted(found.keys() & tensors.keys()):
            raise RegistryError(
                f"two files in {source} hold {twice[0]}, {path.name} is one of them; name the file that is meant",
                code="several_models",
            )
        tensors |= found
    return tensors


def _is_adapter(tensors: dict[str, Any], folder: Path, base: bases.Base) -> bool:
    """Tell an adapter of any kind from a whole model, which may have an adapter's configuration beside it."""
    is_whole = base.model.state_dict().keys() - {"lm_head.weight"} <= tensors.keys()
    is_described = (folder / peft_io.ADAPTER_FILES[0]).is_file()
    return any(".lora_" in name for name in tensors) or (is_described and not is_whole)


def _adapter(tensors: dict[str, Any], folder: Path, base: bases.Base) -> tuple[adapters.Adapter, list[str]]:
    path = folder / peft_io.ADAPTER_FILES[0]
    try:
        config = dict(files.read_json(path))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RegistryError(
            f"{path} cannot be read ({error}): without it nobody knows the adapter's alpha",
            code="no_adapter_config",
        ) from error
    if adapter_formats.is_mlx(tensors, config):
        return _from_mlx(adapter_formats.read_mlx(tensors, config), folder, base)
    return _from_peft(tensors, config, folder, base)


def _from_peft(
    tensors: dict[str, Any], config: dict[str, Any], folder: Path, base: bases.Base
) -> tuple[adapters.Adapter, list[str]]:
    adapter_formats.check_peft(config)
    plain = {
        name.replace(".default.", "."): tensor for name, tensor in tensors.items()
    }  # as a live model names them
    strange = [name for name in plain if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    if strange:
        raise RegistryError(
            f"the adapter in {folder} also holds {strange[0]}; only LoRA weights of linear layers can be kept",
            code="adapter_kind",
        )
    adapter = peft_io.fold(plain, config, folder)
    fitted = _fitted(adapter, base, folder)
    with peft_io.as_peft_loads(base.model, folder, plain) as model:
        expected = _logits(model, base)
        apart = adapters.difference(peft_io.read_live(model), adapter)
    if apart:  # in a weak layer, the logits would not show another scale
        raise _another(f"a weight is {apart:.3g} from what it is where PEFT loads it", apart)
    return fitted, [_agree(fitted, base, expected, "PEFT loads it")]


def _from_mlx(
    lora: adapter_formats.MlxLora, folder: Path, base: bases.Base
) -> tuple[adapters.Adapter, list[str]]:
    adapter = _fitted(adapters.Adapter(lora.factors()), base, folder)
    with _as_mlx_computes(base.model, lora) as model:
        expected = _logits(model, base)
    told = f"converted from mlx-lm's form, scale {lora.scale:g}"
    return adapter, [told, _agree(adapter, base, expected, "mlx-lm computes")]


@contextlib.contextmanager
def _as_mlx_computes(model: Any, lora: adapter_formats.MlxLora) -> Iterator[Any]:
    """Yield the base with mlx-lm's formula over it, from the tensors as they lie in its file."""

    def over(a: torch.Tensor, b: torch.Tensor) -> Callable[..., torch.Tensor]:
        return lambda _, given, out: out + lora.scale * ((given[0] @ a.to(out)) @ b.to(out))

    with contextlib.ExitStack() as stack:
        for name, pair in lora.pairs.items():
            handle = model.get_submodule(name).register_forward_hook(over(*pair))
            stack.callback(handle.remove)
        yield model


def _fitted(adapter: adapters.Adapter, base: bases.Base, source: Path) -> adapters.Adapter:
    if not adapter.is_finite():
        raise RegistryError(f"{source} holds numbers that are not finite", code="not_finite")
    adapters.check_fit(adapter, base.model)
    return adapters.complete(adapter, base.model)


@torch.inference_mode()
def _logits(model: Any, base: bases.Base) -> torch.Tensor:
    rows = general_ability.text_rows(base.tokenizer, COMPARED_ROWS)
    return scoring.answer_logits(model, packing.pack(rows)).float().cpu()


def _agree(adapter: adapters.Adapter, base: bases.Base, expected: torch.Tensor, how: str) -> str:
    """Compare an adapter as lorad writes and loads it with what it should compute; return how near it is.

    Raise ``RegistryError`` when it is another one.
    """
    with tempfile.TemporaryDirectory() as scratch:
        peft_io.write_adapter(adapter, Path(scratch), "base")
        stack = adapter_stack.AdapterStack(base)
        stack.add("outside", Path(scratch))
        try:
            with stack.use("outside") as model:
                found = _logits(model, base)
        finally:
            stack.unload("outside")
    worst = float((found - expected).abs().max())
    most = MOST_DIFFERENCE * max(1.0, float(expected.abs().max()))
    if not worst <= most:
        raise _another(f"a logit is {worst:.3g} from what it is where {how} (at most {most:.3g})", worst)
    return f"its logits are within {worst:.2g} of what they are where {how} (at most {most:.2g})"


def _another(told: str, difference: float) -> RegistryError:
    return RegistryError(
        f"as a version this adapter would change too much: {told}; merge it into its base and add the whole model",
        code="not_the_same",
        difference=difference,
    )


def write(
    found: Found,
    candidate: Path,
    base_folder: Path,
    base: bases.Base,
    rows: Sequence[Encoded],
    metadata: dict[str, Any],
) -> adapter_stack.AdapterStack:
    """Write a complete candidate and return it loaded; raise ``RegistryError`` when it does not fit the base."""
    files.remove(candidate)
    peft_io.write_adapter(found.adapter, candidate, base_folder.name)
    loader.keep_tokenizer(base_folder, candidate)
    dtype = str(base.model.dtype).removeprefix("torch.")
    files.write_json(
        candidate / papers.METADATA,
        {
            "lorad": __version__,
            "framework": loader.environment(base.model.device.type, dtype),
            "imported": {
                "kind": found.kind,
                "files": found.files,
                "notes": list(found.notes),
                "at": time.time(),
                **metadata,
            },
        },
    )
    stack = adapter_stack.AdapterStack(base)
    loader.load(Chat(), stack, "candidate", candidate, base_folder)
    asked = [*rows, *general_ability.text_rows(base.tokenizer, 2)]
    with stack.use("candidate") as model:
        files.write_json(candidate / metrics.PROBES, metrics.probe(Chat(), model, asked))
    return stack


def compare(source: Path, stack: adapter_stack.AdapterStack, whole: Any) -> float:
    """Return how far a whole model is from the adapter made of it; raise ``RegistryError`` when too far.

    It is loaded as its own config.json tells, or into ``whole``, a pristine base, where there is none.
    """
    tensors, folder = _tensors(source, _tensor_files(source)), _folder(source)
    if (folder / CONFIG).is_file():
        whole = peft_io.load_as_told(folder, tensors)
    else:
        whole.load_state_dict(tensors, strict=False)
    with stack.use("candidate") as model:
        found = general_ability.divergence(whole, model, stack.base.tokenizer)
    if not found <= MOST_DIVERGENCE:
        raise RegistryError(
            f"as an adapter this model would change too much: {found:.3g} nats per token away (at most {MOST_DIVERGENCE}); "
            "raise training.max_rank, or add it as a base of its own with: lorad base add",
            code="not_low_rank",
        )
    return found


def evaluate(
    stack: adapter_stack.AdapterStack,
    examples: Sequence[Example],
    rows: Sequence[Encoded],
    candidate: Path,
    notes: Sequence[str],
) -> dict[str, bool]:
    """Test a candidate on memory, write the result beside its weights, and return which examples it recalls."""
    tokenizer = stack.base.tokenizer
    with stack.use(None) as model:
        perplexity_base = general_ability.perplexity(model, tokenizer)
    with stack.use("candidate") as model:
        answers = metrics.recalled(Chat(), model, rows)
        perplexity = general_ability.perplexity(model, tokenizer)
    right = {example.id: bool(ok) for example, ok in zip(examples, answers, strict=True)}
    names = dict.fromkeys(example.dataset for example in examples)
    by_name = {name: [right[e.id] for e in examples if e.dataset == name] for name in names}
    evaluation = Evaluation(
        dataset="",
        scores={name: Score(right=sum(tally), total=len(tally)) for name, tally in by_name.items()},
        before={},
        broken=0,
        mended=0,
        perplexity=perplexity,
        perplexity_base=perplexity_base,
        kl_base=general_ability.distance_from_base(
            stack, "candidate", general_ability.text_rows(tokenizer, TEXT_ROWS)
        ),
        degenerate=0,
        sampled=0,
        reload_difference=0.0,
        merge_difference=0.0,
        truncation_error=0.0,
        finite=True,
        ended_by="imported",
        repairs=(),
        notes=tuple(notes),
    )
    files.write_json(
        candidate / papers.EVALUATION,
        {
            "parent": None,
            "base": stack.base.fingerprint,
            "evaluation": records.as_json(evaluation),
            "verdict": {
                "promote": True,
                "reasons": ["imported by hand, not judged"],
                "failed": [],
            },
            "learned": [],
            "right": right,
        },
    )
    return right
