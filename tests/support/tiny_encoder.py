"""A two-layer BERT with its own tokenizer, and texts to label: nothing is downloaded."""

from functools import partial

import tiny
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from lorad.models import bases, heads
from lorad.records import Example

WORDS = {
    "fruit": ("apple", "pear", "plum", "cherry", "quince", "fig"),
    "metal": ("iron", "copper", "tin", "zinc", "lead", "gold"),
    "bird": ("heron", "wren", "crow", "finch", "owl", "swift"),
}


def texts(labels, dataset="things", verb="took"):
    """Return texts that name a thing, labelled with what kind of thing it is."""
    return [
        Example(
            task="classify", input=f"she {verb} the {word}", target=label, dataset=dataset, line=number + 1
        )
        for number, (label, word) in enumerate((label, word) for label in labels for word in WORDS[label])
    ]


def tokenizer():
    """Return a tokenizer of whole words."""
    core = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    words = [word for group in WORDS.values() for word in group]
    trainer = trainers.WordLevelTrainer(
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    core.train_from_iterator([*words, "she took saw sold the a"], trainer)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def store(folder, target, kind=BertModel, seed=5):
    """Store a random encoder as a base model, of this class of transformers."""
    torch.manual_seed(seed)
    words = tokenizer()
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    kind(config).save_pretrained(folder)
    words.save_pretrained(folder)
    bases.store_base(folder, target, make=partial(bases.make_base, head=heads.SEQUENCE))
    return target


def store_beside_causal(folder):
    """Store a tiny encoder and a tiny causal model in a folder; return the folder of each by its kind."""
    bases.store_base(tiny.save(folder / "llama"), folder / "causal")
    return {"encoder": store(folder / "bert", folder / "encoder"), "causal": folder / "causal"}
