"""Embedders: an encoder or a track's own base; unit length, whatever the text, and never disturbed nor disturbing."""

import numpy as np
import pytest
import tiny
import tiny_encoder
import torch
from transformers import BertForMaskedLM, BertModel, RobertaConfig, RobertaModel

from lorad.errors import ConfigError
from lorad.models import adapter_stack, bases, embedders, peft_io
from lorad.storage import files

ODD = ("", " ", "\0", "\ud800", "she took the apple", "apple " * 170_000, "x" * 1_000_000, "😀" * 99)


def encoder_source(folder, kind=BertModel):
    """Save a random encoder as somebody else's folder."""
    tiny_encoder.store(folder / "source", folder / "unused", kind)
    return folder / "source"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    bases.store_base(encoder_source(folder), folder / "base" / "little")
    return folder / "base" / "little"


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("causal")
    bases.store_base(tiny.save(folder / "source"), folder / "base" / "tiny")
    return folder / "base" / "tiny"


@pytest.fixture(params=["encoder", "own"])
def embedder(request, encoder, own):
    if request.param == "encoder":
        return embedders.load_encoder(encoder)
    return embedders.of_base(bases.load_base(own, torch.float32))


def test_rows_are_of_unit_length_whatever_the_text(embedder):
    found = embedder.embed(ODD)

    assert (found.dtype, found.shape) == (np.float32, (len(ODD), embedder.dimension))
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(len(ODD)), abs=1e-5)
    assert embedder.embed([]).shape == (0, embedder.dimension)


def test_a_text_is_embedded_alike_alone_and_among_others(embedder):
    texts = [
        f"she took the {word} " * (1 + number % 5)
        for number, word in enumerate(tiny_encoder.WORDS["bird"] * 30)
    ]

    together = embedder.embed(texts)

    for number in (0, 77, 179):
        assert together[number] == pytest.approx(embedder.embed([texts[number]])[0], abs=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_an_encoder_gives_the_mean_of_its_last_states(encoder):
    text = "she sold the heron"
    tokenizer = bases.load_tokenizer(encoder)
    model = BertModel.from_pretrained(encoder).eval()

    with torch.no_grad():
        states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    mean = states.mean(0)

    found = embedders.load_encoder(encoder)
    assert found.embed([text])[0] == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)
    assert (found.name, found.dimension) == ("little", 32)


def test_the_own_base_gives_the_mean_behind_a_third_of_its_layers_without_the_first_token(own):
    base = bases.load_base(own, torch.float32)
    tokens = base.tokenizer("Which colour?", return_tensors="pt")

    with torch.no_grad():
        states = base.model(**tokens, output_hidden_states=True).hidden_states[1][0]
    mean = states[1:].mean(0)

    found = embedders.of_base(base).embed(["Which colour?"])[0]
    assert found == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)


def test_a_long_text_is_truncated_to_what_the_model_reads(tmp_path):
    source = encoder_source(tmp_path)
    files.write_json(source / "sentence_bert_config.json", {"max_seq_length": 6})
    bases.store_base(source, tmp_path / "base")
    found = embedders.load_encoder(tmp_path / "base")
    assert found.count_tokens(["she took the apple pear plum", "pear"]) == 6 + 3  # its ends are read too

    same, other = found.embed(["she took the apple pear", "she took the apple plum"])
    assert same == pytest.approx(other)  # with its ends a text of four words has six tokens
    assert np.abs(found.embed(["she took the pear"])[0] - same).max() > 1e-3


def test_an_encoder_whose_positions_begin_behind_the_padding_reads_no_more_than_it_has(tmp_path):
    words = tiny_encoder.tokenizer()
    config = RobertaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=18,
        pad_token_id=0,
    )
    torch.manual_seed(1)
    RobertaModel(config).save_pretrained(tmp_path / "source")
    words.save_pretrained(tmp_path / "source")
    bases.store_base(tmp_path / "source", tmp_path / "base")

    found = embedders.load_encoder(tmp_path / "base")

    assert np.isfinite(found.embed(["apple " * 100, "pear"])).all()


def test_fingerprints_tell_bases_and_pooling_apart(tmp_path, encoder, own):
    source = encoder_source(tmp_path)
    files.write_json(source / "sentence_bert_config.json", {"max_seq_length": 6})
    bases.store_base(source, tmp_path / "base")
    made = [
        embedders.load_encoder(encoder),
        embedders.load_encoder(tmp_path / "base"),
        embedders.of_base(bases.load_base(own, torch.float32)),
    ]

    assert len({each.fingerprint for each in made}) == 3
    assert embedders.load_encoder(encoder).fingerprint == made[0].fingerprint


def test_a_causal_base_is_no_encoder(own):
    with pytest.raises(ConfigError, match="is not an encoder"):
        embedders.load_encoder(own)


def test_the_own_base_is_embedded_by_without_the_versions_on_it(tmp_path, own):
    # Given an adapter on the base that answers otherwise
    base = bases.load_base(own, torch.float32)
    pristine = embedders.of_base(bases.load_base(own, torch.float32)).embed(["Which colour is the door?"])
    wrapped = peft_io.add_lora(bases.load_base(own, torch.float32).model, 4, 8, base.head)
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.3)
    peft_io.write_adapter(peft_io.read_live(wrapped), tmp_path / "v0.1", "base", base.head)
    stack = adapter_stack.AdapterStack(base)
    stack.add("v0.1", tmp_path / "v0.1")

    with stack.use("v0.1"):
        found = embedders.of_base(base).embed(["Which colour is the door?"])

    assert (found == pristine).all()


@pytest.mark.parametrize(
    ("there", "setting", "expected"),
    [
        ([], "auto", None),
        (["tiny"], "auto", None),
        (["tiny", "little"], "auto", None),
        (["minilm", "tiny"], "auto", "minilm"),
        (["minilm", "little"], "little", "little"),
    ],
)
def test_the_embedder_is_chosen_by_the_settings(tmp_path, encoder, own, there, setting, expected):
    for name in there:
        (tmp_path / name).symlink_to(own if name == "tiny" else encoder)

    assert embedders.chosen(tmp_path, setting) == (tmp_path / expected if expected else None)


def test_a_named_embedder_must_be_there_and_an_encoder(tmp_path, own):
    (tmp_path / "tiny").symlink_to(own)
    (tmp_path / "minilm").symlink_to(own)

    with pytest.raises(ConfigError, match="no base model"):
        embedders.chosen(tmp_path, "little")
    with pytest.raises(ConfigError, match="is not an encoder"):
        embedders.chosen(tmp_path, "tiny")
    assert embedders.chosen(tmp_path, "auto") is None  # somebody has given a causal base that name


# what a base is for


def test_an_encoder_is_stored_in_its_own_precision_and_is_no_chat_base(encoder, own):
    assert (bases.kind(encoder), bases.kind(own)) == ("encoder", "causal")
    assert files.read_json(encoder / "config.json")["dtype"] == "float32"
    assert files.read_json(own / "config.json")["dtype"] == "bfloat16"
    with pytest.raises(ConfigError, match="is an encoder, which writes no text"):
        bases.load_base(encoder, torch.float32)


def test_an_encoder_with_a_head_for_masked_words_is_one(tmp_path):
    bases.store_base(encoder_source(tmp_path, BertForMaskedLM), tmp_path / "base")

    assert bases.kind(tmp_path / "base") == "encoder"
    assert embedders.load_encoder(tmp_path / "base").embed(["apple"]).shape == (1, 32)


@pytest.mark.parametrize(
    ("architectures", "kind"),
    [
        (["BertModel"], "encoder"),
        (["MPNetForMaskedLM"], "encoder"),
        (["XLMRobertaForSequenceClassification"], "encoder"),
        (["GPT2LMHeadModel"], "causal"),
        (["LlamaForCausalLM"], "causal"),
        (["Gemma3ForConditionalGeneration"], "causal"),
        (["SomethingNew"], "causal"),
        ([], "causal"),
        (None, "causal"),
        ("BertModel", "causal"),
        ([{}], "causal"),
    ],
)
def test_the_architecture_says_what_a_model_is_for(tmp_path, architectures, kind):
    files.write_json(tmp_path / "config.json", {"architectures": architectures})

    assert bases.kind(tmp_path) == kind
