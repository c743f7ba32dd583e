"""Bases from scratch: their tokenizer, their sizes, and that they are bases like any other."""

import dataclasses

import plain_text
import pytest
import torch
from transformers import AutoModelForMaskedLM

from lorad.models import bases, heads, scratch

TEXT = "The mill stands by the river. 東京 🙂 [MASK] <extra_id_0>\n\tnaïve"


@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder-decoder"])
def test_the_tokenizer_writes_everything_and_the_base_is_verified(tmp_path, architecture):
    base = plain_text.store(tmp_path / "base", architecture)
    tokenizer = bases.load_tokenizer(base)

    assert bases.verify_base(base) == bases.read_fingerprint(base)
    tokens = tokenizer.encode("The mill stands by the river. 東京 🙂\n\tnaïve", add_special_tokens=False)
    assert tokenizer.decode(tokens) == "The mill stands by the river. 東京 🙂\n\tnaïve"
    assert tokenizer.unk_token_id not in tokens
    assert len(tokenizer) <= 400
    assert scratch.label(base)["characters_per_token"] > 1


def test_the_same_text_makes_the_same_base(tmp_path):
    one, other = plain_text.store(tmp_path / "one"), plain_text.store(tmp_path / "other")
    assert bases.read_fingerprint(one) == bases.read_fingerprint(other)
    third = plain_text.store(tmp_path / "third", texts=["something else altogether"])
    assert bases.read_fingerprint(one) != bases.read_fingerprint(third)


def test_without_a_text_it_writes_bytes(tmp_path):
    base = plain_text.store(tmp_path / "base", texts=[])
    tokenizer = bases.load_tokenizer(base)
    assert len(tokenizer.encode("mill", add_special_tokens=False)) == 4
    assert scratch.label(base)["characters_per_token"] is None


@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder-decoder"])
def test_the_shape_is_known_before_the_model_is_made(tmp_path, architecture):
    recipe = plain_text.recipe(architecture)
    base = plain_text.store(tmp_path / "base", architecture)
    # Given a vocabulary as large as the text made it
    made = len(bases.load_tokenizer(base))
    sizes = recipe.sizes.model_copy(update={"vocab_size": made})
    shape = scratch.shape(dataclasses.replace(recipe, sizes=sizes))

    stored = bases.shape(base)
    assert (shape.parameters, shape.vocabulary) == (stored.parameters, stored.vocabulary)
    assert shape.layers == (4 if architecture == "encoder-decoder" else 2)
    assert shape.hidden == 32
    assert shape.parameters // 4 < shape.linear < shape.parameters


def test_what_the_tokenizer_read_of_much_text_is_told(tmp_path):
    recipe = dataclasses.replace(plain_text.recipe(), tokenizer_bytes=500)
    scratch.store(tmp_path / "base", recipe, plain_text.documents(), ["a"])

    told = scratch.label(tmp_path / "base")
    assert told["characters"] == sum(map(len, plain_text.documents()))
    assert 400 < told["characters_read"] <= 500


def test_a_base_is_replaced(tmp_path):
    base = plain_text.store(tmp_path / "base", texts=[])
    before = bases.read_fingerprint(base)
    plain_text.store(base)
    assert bases.read_fingerprint(base) != before
    assert bases.verify_base(base)


def test_transformers_loads_it_as_it_stands(tmp_path):
    base = plain_text.store(tmp_path / "base")
    ours = bases.load_base(base, torch.float32, head=heads.WHOLE_MASKED).model
    theirs = AutoModelForMaskedLM.from_pretrained(str(base)).eval()
    tokens = torch.tensor([[2, 30, 40, 3]])
    with torch.inference_mode():
        assert torch.equal(ours(input_ids=tokens).logits, theirs(input_ids=tokens).logits)
