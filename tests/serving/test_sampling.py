"""Choosing a token: within what a request allows, and repeatable by its seed alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lorad.serving.backends.sampling import FEW, choose, generator, is_greedy
from lorad.serving.requests import Sampling


def drawn(logits, sampling, count=300):
    numbers = generator(sampling)
    return [choose(logits, sampling, numbers) for _ in range(count)]


def allowed(logits, sampling):
    """Return the tokens that transformers' own warpers leave."""
    scores = TemperatureLogitsWarper(sampling.temperature)(None, logits[None])
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    if sampling.min_p:
        scores = MinPLogitsWarper(sampling.min_p)(None, scores)
    return set(torch.isfinite(scores[0]).nonzero().flatten().tolist())


@given(
    size=st.sampled_from([7, 40, 3 * FEW]),
    seed=st.integers(0, 2**31),
    top_k=st.sampled_from([0, 1, 5, 2**31 - 1]),
    top_p=st.sampled_from([0.0, 0.3, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.1, 1.0]),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
)
@settings(max_examples=60, deadline=None, database=None)
def test_what_is_drawn_is_what_transformers_would_leave(size, seed, top_k, top_p, min_p, temperature):
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 2
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)

    found = set(drawn(logits, sampling, 50))

    assert found <= allowed(logits, sampling)


def test_every_token_that_is_left_is_drawn():
    logits = torch.tensor([1.0, 1.0, 1.0, 0.9, -9.0])
    sampling = Sampling(temperature=1.0, top_k=4, seed=3)

    assert set(drawn(logits, sampling)) == {0, 1, 2, 3}


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-6])
def test_next_to_nothing_is_greedy(temperature):
    sampling = Sampling(temperature=temperature, seed=1)

    assert is_greedy(sampling)
    assert set(drawn(torch.tensor([0.1, 0.3, 0.2]), sampling, 5)) == {1}


def test_a_seed_draws_the_same_whatever_else_draws():
    logits = torch.randn(50, generator=torch.Generator().manual_seed(1))
    sampling = Sampling(temperature=1.0, seed=-(2**63))
    first = drawn(logits, sampling, 20)

    torch.rand(9)  # somebody else's number
    drawn(logits, Sampling(temperature=1.0, seed=4), 7)

    assert drawn(logits, sampling, 20) == first
    assert drawn(logits, Sampling(temperature=1.0, seed=5), 20) != first
    assert drawn(logits, Sampling(temperature=1.0), 20) != drawn(logits, Sampling(temperature=1.0), 20)
