"""Attention within rows must change nothing but the time."""

import pytest
import tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lorad.models import packing, row_attention, scoring
from lorad.tasks import find


@pytest.fixture(scope="module")
def made():
    """A model whose four heads of queries share two of keys, and rows of different lengths."""
    tokenizer = tiny.tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    rows = [find("chat").encode(tokenizer, example) for example in tiny.facts(9)]
    return LlamaForCausalLM(config), rows


def gradients(model, packed):
    model.zero_grad()
    logits = scoring.answer_logits(model, packed)
    scoring.loss_sum(logits, packed.targets).backward()
    return logits.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize(("count", "guests"), [(7, 0), (6, 2), (0, 7)])
def test_logits_and_gradients_are_those_of_the_whole_under_its_mask(made, monkeypatch, count, guests):
    model, rows = made
    packed = packing.pack(rows[:count], rows[count : count + guests])
    used = []
    seen = row_attention._rows
    monkeypatch.setattr(row_attention, "_rows", lambda *given: used.append(seen(*given)) or used[-1])

    fast, of_fast = gradients(model, packed)
    assert all(used)
    assert used
    monkeypatch.setattr(row_attention, "rows_of", lambda *_: None)
    whole, of_whole = gradients(model, packed)

    assert not used[-1]
    assert torch.allclose(fast, whole, atol=1e-5)
    assert of_fast.keys() == of_whole.keys()
    for name, gradient in of_whole.items():
        assert torch.allclose(of_fast[name], gradient, atol=1e-4), name


def test_in_half_precision_it_is_as_near_to_single_as_the_whole(made, monkeypatch):
    model, rows = made
    packed = packing.pack(rows[:7])
    exact, _ = gradients(model, packed)
    half = LlamaForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half.to(torch.bfloat16)

    fast = scoring.answer_logits(half, packed)
    monkeypatch.setattr(row_attention, "rows_of", lambda *_: None)
    whole = scoring.answer_logits(half, packed)

    assert (fast - exact).norm() < 1.1 * (whole - exact).norm()


def test_where_nothing_is_saved_the_whole_is_computed():
    assert row_attention.rows_of([40], 0, 1, "cpu") is None
    assert row_attention.rows_of([40, 2, 2], 4, 3, "cpu") is None  # padded, this is more
    assert row_attention.rows_of([], 0, 0, "cpu") is None
    assert row_attention.rows_of([10] * 8, 4, 8, "meta") is None  # another device has its own ways


def test_a_mask_that_is_not_handed_on_and_a_model_that_asks_for_more_get_the_general_way(made):
    _, rows = made
    packed = packing.pack(rows[:7])
    told = row_attention.rows_of(packed.lengths, packed.prefix, 7, "cpu")
    mask = row_attention.carry(torch.zeros(1, 1, len(told.origins), len(told.origins)), told)
    query = torch.zeros(1, 4, len(told.origins), 8)

    assert row_attention._rows(mask, query, query, {"is_causal": None}) is told
    assert row_attention._rows(mask.clone(), query, query, {}) is None
    assert row_attention._rows(mask, query, query, {"softcap": 30.0}) is None
    assert (
        row_attention._rows(mask, query[:, :, :1], query, {}) is None
    )  # a token behind what is in the cache
    assert row_attention._rows(None, query, query, {}) is None
