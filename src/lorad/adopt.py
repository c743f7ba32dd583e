"""A capability: making a candidate of what another program trained.

What lives here: reading an adapter or a whole model from outside, and writing it as a candidate like any other: plain
PEFT safetensors for the pristine base, with probes. What never does: judging it, entering it (``registry``).

A whole model becomes the difference to its base as an adapter. Whether that is the same model is measured, not assumed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorad import __version__, domain, examine, files, loader, teacher, weights
from lorad.domain import Encoded, Evaluation, Example, Score
from lorad.errors import RegistryError

MANIFEST = "manifest.json"
"""A version of lorad's own, or one that it exported with its papers, says here which base it was made for."""
PICKLES = ("*.bin", "*.pt", "*.pth")
MOST_DIVERGENCE = 0.01
"""Nats a token between a whole model and its adapter: bfloat16's rounding of all weights makes some 0.001."""
TEXT_ROWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was read from outside."""

    adapter: weights.Adapter
    kind: str
    """``adapter`` or ``model``."""
    files: dict[str, str]
    """The sha256 of every file that was read."""
    notes: tuple[str, ...]


def made_for(source: Path) -> str | None:
    """Return the fingerprint of the base that an outside folder was made for, if it says so."""
    try:
        return str(files.read_json(source / MANIFEST)["base"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read(source: Path, base: weights.Base, rank: int) -> Found:
    """Read a folder (or one file) of tensors; raise ``RegistryError`` when it is nothing that lorad can keep."""
    paths = _tensor_files(source)
    folder = source if source.is_dir() else source.parent
    tensors: dict[str, Any] = {}
    for path in paths:
        tensors |= weights.read_tensors(path)
    digests = {path.name: files.file_digest(path) for path in paths}
    if any(".lora_" in name for name in tensors):
        adapter, notes = _adapter(tensors, folder), []
        kind = "adapter"
    else:
        kind = "model"
        adapter, lost = weights.subtract(tensors, base.model, rank)
        notes = [f"the difference to the base was cut to rank {adapter.rank}, relative error {lost:.4f}"]
    if not adapter.is_finite():
        raise RegistryError(f"{source} holds numbers that are not finite", code="not_finite")
    if adapter.rank > rank:
        adapter, lost = weights.consolidate(adapter, rank)
        notes = [*notes, f"its rank was cut to training.max_rank ({rank}), relative error {lost:.4f}"]
    if any(path.suffix != ".safetensors" for path in paths):
        notes = [*notes, "read from a pickle as tensors alone, and written anew as safetensors"]
    return Found(adapter=adapter, kind=kind, files=digests, notes=tuple(notes))


def _tensor_files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise RegistryError(f"there is no {source}", code="no_such_path")
    for patterns in (("adapter_model.safetensors",), ("*.safetensors",), PICKLES):
        found = sorted(path for pattern in patterns for path in source.glob(pattern))
        kept = [path for path in found if path.stem not in {"training_args", "optimizer", "scheduler"}]
        if kept:
            return kept
    raise RegistryError(f"{source} holds no .safetensors, .bin, .pt or .pth file", code="no_tensors")


def _adapter(tensors: dict[str, Any], folder: Path) -> weights.Adapter:
    path = folder / weights.ADAPTER_FILES[0]
    try:
        config = dict(files.read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise RegistryError(
            f"{path} cannot be read ({error}): without it nobody knows the adapter's alpha",
            code="no_adapter_config",
        ) from error
    plain = {
        name.replace(".default.", "."): tensor for name, tensor in tensors.items()
    }  # as a live model names them
    strange = [name for name in plain if not name.endswith((".lora_A.weight", ".lora_B.weight"))]
    if strange:
        raise RegistryError(
            f"the adapter in {folder} also holds {strange[0]}; only LoRA weights of linear layers can be kept",
            code="adapter_kind",
        )
    return weights.fold(plain, config, folder)


def write(
    found: Found,
    candidate: Path,
    base_folder: Path,
    base: weights.Base,
    rows: Sequence[Encoded],
    metadata: dict[str, Any],
) -> weights.Deck:
    """Write a complete candidate and return it loaded; raise ``RegistryError`` when it does not fit the base."""
    files.remove(candidate)
    weights.write_adapter(found.adapter, candidate, base_folder.name)
    loader.keep_tokenizer(base_folder, candidate)
    dtype = str(base.model.dtype).removeprefix("torch.")
    files.write_json(
        candidate / loader.METADATA,
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
    deck = weights.Deck(base)
    loader.load(deck, "candidate", candidate, base_folder)
    asked = [*rows, *examine.text_rows(base.tokenizer, 2)]
    with deck.use("candidate") as model:
        files.write_json(candidate / examine.PROBES, examine.probe(model, asked))
    return deck


def compare(source: Path, deck: weights.Deck, whole: Any) -> float:
    """Return how far a whole model is from the adapter made of it; raise ``RegistryError`` when too far."""
    whole.load_state_dict(
        {
            name: tensor
            for path in _tensor_files(source)
            for name, tensor in weights.read_tensors(path).items()
        },
        strict=False,
    )
    with deck.use("candidate") as model:
        found = examine.divergence(whole, model, deck.base.tokenizer)
    if not found <= MOST_DIVERGENCE:
        raise RegistryError(
            f"as an adapter this model would be another one: {found:.3g} nats a token away (at most {MOST_DIVERGENCE}); "
            "raise training.max_rank, or add it as a base of its own with: lorad base add",
            code="not_low_rank",
        )
    return found


def evaluate(
    deck: weights.Deck,
    examples: Sequence[Example],
    rows: Sequence[Encoded],
    candidate: Path,
    notes: Sequence[str],
) -> dict[str, bool]:
    """Test a candidate on memory, write what came of it beside its weights, and return what it recalls."""
    tokenizer = deck.base.tokenizer
    with deck.use(None) as model:
        perplexity_base = examine.perplexity(model, tokenizer)
    with deck.use("candidate") as model:
        answers = teacher.recalled(model, rows)
        perplexity = examine.perplexity(model, tokenizer)
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
        kl_base=examine.distance_from_base(deck, "candidate", examine.text_rows(tokenizer, TEXT_ROWS)),
        degenerate=0,
        sampled=0,
        reload_difference=0.0,
        merge_difference=0.0,
        truncation_error=0.0,
        finite=True,
        ended_by="brought from outside",
        repairs=(),
        notes=tuple(notes),
    )
    files.write_json(
        candidate / "evaluation.json",
        {
            "parent": None,
            "base": deck.base.fingerprint,
            "evaluation": domain.as_json(evaluation),
            "verdict": {
                "promote": True,
                "reasons": ["brought from outside by hand, not judged"],
                "failed": [],
            },
            "learned": [],
            "right": right,
        },
    )
    return right
