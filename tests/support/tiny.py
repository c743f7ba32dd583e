"""A two-layer Llama with its own tokenizer, and invented facts: nothing is downloaded."""

import functools
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lorad.models import packing, scoring
from lorad.records import Example
from lorad.tasks import find

TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)

NAMES = ("Arlo", "Brix", "Cemo", "Dura", "Elva", "Fenn", "Gorm", "Hild", "Isko", "Jory", "Kest", "Lume")
COLOURS = (
    "amber",
    "blue",
    "coral",
    "dun",
    "ebony",
    "fawn",
    "gold",
    "heather",
    "indigo",
    "jade",
    "khaki",
    "lilac",
)


def facts(count=8, dataset="facts", subject="door"):
    """Return invented facts: which colour somebody's door has."""
    return [
        Example(
            task="chat",
            input=[{"role": "user", "content": f"Which colour is the {subject} of {NAMES[i]}?"}],
            target=COLOURS[(i * 5 + 3 * len(subject) + ord(subject[0])) % len(COLOURS)],
            dataset=dataset,
            line=i + 1,
        )
        for i in range(count)
    ]


def rows(examples):
    """Return examples as an inbox file holds them."""
    return [{"instruction": e.input[-1]["content"], "response": e.target} for e in examples]


def tokenizer():
    """Train a small byte-level BPE on the facts' own words."""
    text = [*NAMES, *COLOURS, "Which colour is the door of ?", "system user assistant"]
    return byte_tokenizer(text * 4, 400)


def byte_tokenizer(texts, vocabulary):
    """Train a byte-level BPE of at most so many tokens on some texts."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="</s>", chat_template=TEMPLATE
    )


def model(vocabulary):
    """Return a fresh copy of a two-layer Llama that has seen the form of the facts, but not these facts.

    A wholly random one cannot be taught by an adapter: it does not attend to the question at all.
    """
    made = _blank(vocabulary)
    made.load_state_dict(_schooled(vocabulary))
    return made.eval()


def _blank(vocabulary):
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


@functools.cache
def _schooled(vocabulary):
    made = _blank(vocabulary)
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    other = facts(len(NAMES), subject="window")
    packed = packing.pack([find("chat").encode(tokenizer(), example) for example in other])
    for _ in range(60):
        loss = scoring.loss_sum(scoring.answer_logits(made, packed), packed.targets) / len(packed.targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return made.state_dict()


def save(folder: Path) -> Path:
    """Write model and tokenizer as a Hugging Face folder, as a user would have one."""
    made = tokenizer()
    model(len(made)).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def moments(inputs):
    """Return the mean of ``x x^T`` of inputs [tokens, in]."""
    return inputs.double().T @ inputs.double() / len(inputs)
