"""A random model of four layers, of which the last two may learn, and rows that it can read."""

import tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lorad.tasks import find

FIRST = 2
"""The first layer that learns."""


def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny.tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).requires_grad_(False).eval()


def rows():
    tokenizer = tiny.tokenizer()
    return [find("chat").encode(tokenizer, example) for example in tiny.facts(9)]
