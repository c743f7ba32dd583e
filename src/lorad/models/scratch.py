"""The base of a track that has none: a tokenizer trained on the first text, and a model of random weights.

What lives here: which of transformers' architectures stands for which word, their sizes, and the byte-level BPE tokenizer.
What never does: training the model (``training.pretraining``), reading files.

It is stored as any base is, so that its fingerprint, its checks and its tokenizer are those of a base. What a version brings
is every weight.
"""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from lorad.config import Architecture, ModelSettings, Settings, TrackSettings
from lorad.models import bases
from lorad.records import ModelShape, digest
from lorad.storage import files

LABEL = "scratch.json"
"""In the base's folder: what it was made of."""
SENTINELS = 100
"""Tokens that stand for a hidden span, as T5 has them."""
NEAR = 128
"""Tokens around a token that an encoder's local layers look at, as ModernBERT has it."""

SPECIAL: dict[Architecture, dict[str, str]] = {
    "encoder": {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    "decoder": {"pad_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "encoder-decoder": {"pad_token": "<pad>", "eos_token": "</s>"},
}
"""The special tokens of each architecture; they get the first numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a base from scratch is made of, its text aside."""

    architecture: Architecture
    sizes: ModelSettings
    seed: int
    tokenizer_bytes: int

    def digest(self, ids: Sequence[str]) -> str:
        """Identify the base that this makes of the text of these examples."""
        return digest([self.architecture, self.sizes.model_dump(), self.seed, self.tokenizer_bytes, *ids])


def recipe_of(track: TrackSettings, settings: Settings) -> Recipe:
    """Return what the base of a track from scratch is made of."""
    assert track.architecture is not None  # noqa: S101 - the settings see to it
    return Recipe(
        architecture=track.architecture,
        sizes=track.sizes,
        seed=settings.training.seed,
        tokenizer_bytes=settings.pretraining.tokenizer_bytes,
    )


def label(base: Path) -> dict[str, Any]:
    """Return what a base from scratch was made of; nothing where it is none, or is not there."""
    path = base / LABEL
    return dict(files.read_json(path)) if path.is_file() else {}


def store(target: Path, recipe: Recipe, texts: Sequence[str] = (), ids: Sequence[str] = ()) -> None:
    """Store a base whose tokenizer is trained on these texts; without any it writes bytes. It appears whole or not at all."""
    core = _trained(recipe, texts)
    tokenizer = _wrapped(recipe, core)
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(recipe.seed)
        made = Path(folder)
        _MODELS[recipe.architecture](recipe.sizes, tokenizer, len(tokenizer)).save_pretrained(made)
        tokenizer.save_pretrained(made)
        told = {
            "architecture": recipe.architecture,
            "sizes": recipe.sizes.model_dump(),
            "made_of": recipe.digest(ids),
            "documents": len(texts),
            "characters": sum(map(len, texts)),
            "characters_read": sum(map(len, _sampled(texts, recipe.tokenizer_bytes))),
            "characters_per_token": _characters_per_token(core, texts),
        }
        files.write_json(made / LABEL, told)
        bases.store_base(made, target, make=_copy)


def _copy(source: Path, target: Path, _: str | None) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def shape(recipe: Recipe) -> ModelShape:
    """Return the shape of the model that a recipe makes, with the largest vocabulary it may have; nothing is held for it."""
    tokenizer = _wrapped(recipe, _trained(recipe, ()))
    with torch.device("meta"):
        model = _MODELS[recipe.architecture](recipe.sizes, tokenizer, recipe.sizes.vocab_size)
    outer = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    linear = [
        module.weight
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and id(module) not in outer
    ]
    stacks = 1 + (recipe.architecture == "encoder-decoder")
    return ModelShape(
        name=f"{'a' if recipe.architecture == 'decoder' else 'an'} {recipe.architecture} from scratch",
        parameters=sum(weight.numel() for weight in model.parameters()),
        layers=stacks * recipe.sizes.num_layers,
        hidden=recipe.sizes.d_model,
        vocabulary=recipe.sizes.vocab_size,
        linear=sum(weight.numel() for weight in linear),
        widths=sum(sum(weight.shape) for weight in linear),
    )


# -- the tokenizer


def _trained(recipe: Recipe, texts: Sequence[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer (as GPT-2's): there is nothing that it cannot write."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys(SPECIAL[recipe.architecture].values()))
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.sizes.vocab_size,
        special_tokens=[*special, *_sentinels(recipe.architecture)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_sampled(texts, recipe.tokenizer_bytes), trainer)
    if recipe.architecture == "encoder":
        marks = [(word, core.token_to_id(word)) for word in ("[CLS]", "[SEP]")]
        core.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    if recipe.architecture == "encoder-decoder":
        end = [("</s>", core.token_to_id("</s>"))]
        core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=end)
    return core


def _wrapped(recipe: Recipe, core: Tokenizer) -> Any:
    """Return a tokenizer as transformers knows it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=recipe.sizes.max_seq_len,
        extra_special_tokens=_sentinels(recipe.architecture),
        **SPECIAL[recipe.architecture],
    )


def _sentinels(architecture: Architecture) -> list[str]:
    return (
        [f"<extra_id_{number}>" for number in range(SENTINELS)] if architecture == "encoder-decoder" else []
    )


def _sampled(texts: Sequence[str], most: int) -> Iterator[str]:
    """Yield the beginning of each text, of all the same share, at most so many characters."""
    share = min(1.0, most / max(1, sum(map(len, texts))))
    return (text[: int(len(text) * share)] for text in texts)


def _characters_per_token(core: Tokenizer, texts: Sequence[str]) -> float | None:
    sample = list(itertools.islice(_sampled(texts, 1_000_000), len(texts)))
    tokens = sum(len(core.encode(text, add_special_tokens=False).ids) for text in sample)
    return round(sum(map(len, sample)) / tokens, 3) if tokens else None


# -- the model


def _encoder(sizes: ModelSettings, tokenizer: Any, vocabulary: int) -> Any:
    config = ModernBertConfig(
        vocab_size=vocabulary,
        hidden_size=sizes.d_model,
        intermediate_size=sizes.d_ff,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        max_position_embeddings=sizes.max_seq_len,
        local_attention=min(NEAR, sizes.max_seq_len),
        attention_dropout=sizes.dropout,
        embedding_dropout=sizes.dropout,
        mlp_dropout=sizes.dropout,
        sparse_prediction=True,  # with labels the head reads hidden tokens only, a seventh of all
        pad_token_id=tokenizer.pad_token_id,
        cls_token_id=tokenizer.cls_token_id,
        bos_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    return ModernBertForMaskedLM(config)


def _decoder(sizes: ModelSettings, tokenizer: Any, vocabulary: int) -> Any:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=sizes.d_model,
        intermediate_size=sizes.d_ff,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        max_position_embeddings=sizes.max_seq_len,
        attention_dropout=sizes.dropout,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def _encoder_decoder(sizes: ModelSettings, tokenizer: Any, vocabulary: int) -> Any:
    config = T5Config(
        vocab_size=vocabulary,
        d_model=sizes.d_model,
        d_kv=sizes.d_model // sizes.num_heads,
        d_ff=sizes.d_ff,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        dropout_rate=sizes.dropout,
        feed_forward_proj="gated-gelu",
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    # its attention needs no number of positions, but lorad asks how long a text may be
    config.update({"n_positions": sizes.max_seq_len, "decoder_start_token_id": tokenizer.pad_token_id})
    return T5ForConditionalGeneration(config)


_MODELS: dict[Architecture, Callable[[ModelSettings, Any, int], Any]] = {
    "encoder": _encoder,
    "decoder": _decoder,
    "encoder-decoder": _encoder_decoder,
}
