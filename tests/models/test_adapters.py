"""The exact adapter arithmetic, and base models on disk."""

import errno
import json
import re
import warnings

import pytest
import templates
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from lorad.config import TrainingSettings
from lorad.errors import ConfigError, RegistryError, TransientError
from lorad.models import adapter_stack, adapters, bases, hardware, peft_io
from lorad.storage import files


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    bases.store_base(tiny.save(folder / "source"), folder / "tiny")
    return folder / "tiny"


def load(folder):
    return bases.load_base(folder, torch.float32)


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "auto"])
def test_answers_are_given_in_the_precision_that_was_judged(base_folder, asked):
    base = bases.load_to_answer(base_folder, "cpu", TrainingSettings(device="cpu", dtype=asked))

    expected = hardware.machine("cpu").precision if asked == "auto" else asked
    assert base.model.dtype == hardware.DTYPES[expected]


def random_adapter(model, rank, seed):
    torch.manual_seed(seed)
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lm_head" not in name
    ]
    return adapters.Adapter(
        {
            name: (
                torch.randn(rank, model.get_submodule(name).in_features) * 0.1,
                torch.randn(model.get_submodule(name).out_features, rank) * 0.1,
            )
            for name in names
        }
    )


def logits(model):
    with torch.inference_mode():
        return model(input_ids=torch.arange(2, 20)[None]).logits


def test_a_base_is_stored_whole_with_a_fingerprint_of_its_content(base_folder):
    stored = bases.read_fingerprint(base_folder)

    assert stored == bases.measure_fingerprint(base_folder)["fingerprint"]
    assert not list(base_folder.parent.glob(".*part"))
    assert bases.shape(base_folder).layers == 2
    assert bases.shape(base_folder).parameters == load(base_folder).parameters


def test_another_byte_is_another_fingerprint(base_folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in base_folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))

    assert bases.measure_fingerprint(copy)["fingerprint"] != bases.read_fingerprint(base_folder)


@pytest.fixture
def base_with_templates(tmp_path):
    """A base with a template for tools beside its own."""
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = {"default": tiny.TEMPLATE, "tool_use": "{{ tools }}" + tiny.TEMPLATE}
    bases.store_base(save_base(tmp_path / "many", tokenizer), tmp_path / "templates")
    return tmp_path / "templates"


@pytest.mark.parametrize("change", ["changed", "gone", "more"])
def test_case_25_templates_beside_the_first_are_part_of_the_fingerprint(base_with_templates, change):
    base = base_with_templates
    fingerprint = bases.verify_base(base)
    template = base / "additional_chat_templates" / "tool_use.jinja"
    if change == "changed":
        template.write_text("another")
    elif change == "gone":
        template.unlink()
    else:
        template.with_name("rag.jinja").write_text("one more")

    with pytest.raises(ConfigError, match="additional_chat_templates/") as caught:
        bases.verify_base(base)
    assert caught.value.code == "base_damaged"
    assert bases.measure_fingerprint(base)["fingerprint"] != fingerprint


def test_case_25_a_base_that_was_stored_before_that_stays_what_it_was(base_with_templates):
    # Given a fingerprint as it was once measured
    base = base_with_templates
    hashes = {
        path.name: files.file_digest(path)
        for path in base.iterdir()
        if path.is_file() and path.name != bases.FINGERPRINT
    }
    old = {"fingerprint": bases.digest(hashes), "files": hashes}
    files.write_json(base / bases.FINGERPRINT, old)

    assert bases.verify_base(base) == old["fingerprint"]


def test_case_25_without_such_templates_the_fingerprint_is_what_it_was(base_folder):
    found = bases.measure_fingerprint(base_folder)

    assert found["fingerprint"] == bases.digest(found["files"])
    assert found["fingerprint"] == bases.measure_fingerprint(base_folder, is_flat=True)["fingerprint"]


def test_a_folder_without_a_model_is_a_named_error(tmp_path):
    (tmp_path / "empty").mkdir()

    with pytest.raises(ConfigError, match="no language model"):
        bases.store_base(tmp_path / "empty", tmp_path / "base")
    with pytest.raises(ConfigError, match="lorad base add"):
        bases.load_base(tmp_path / "base", torch.float32)


@pytest.fixture
def source(tmp_path):
    return tiny.save(tmp_path / "source")


def harm(source, what):
    config = json.loads((source / "config.json").read_text())
    if what == "gptq":
        config |= {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    elif what == "own code":
        config |= {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}
    elif what == "unknown":
        config |= {"model_type": "of_next_year"}
    elif what == "no number":
        config |= {"hidden_size": "wide"}
    elif what == "another shape":
        config |= {"intermediate_size": 96}
    elif what == "another layer":
        config |= {"num_hidden_layers": 3}
    elif what == "torn":
        weight = source / "model.safetensors"
        weight.write_bytes(weight.read_bytes()[:-50])
    elif what == "tokenizer":
        (source / "tokenizer.json").write_text('{"version": "1.0"}')
    elif what == "tokenizers":
        (source / "tokenizer.json").unlink()
        (source / "tokenizer_config.json").unlink()
    text = json.dumps(config)
    text = {"deep": "[" * 9999, "list": "[]", "broken": "{"}.get(what, text)
    (source / "config.json").write_text(text)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("gptq", "quantised (gptq, 4 bits)"),
        ("own code", "never runs"),
        ("unknown", "of_next_year"),
        ("no number", "transformers can load"),
        ("another shape", "transformers can load"),
        ("another layer", "9 of its weights are missing"),
        ("torn", "transformers can load"),
        ("tokenizer", "transformers can load"),
        ("tokenizers", "transformers can load"),
        ("deep", "transformers can load"),
        ("list", "transformers can load"),
        ("broken", "transformers can load"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_case_25_whatever_cannot_be_a_base_is_told_in_one_sentence(source, tmp_path, what, told):
    harm(source, what)

    with pytest.raises(ConfigError) as caught:
        bases.store_base(source, tmp_path / "base")

    assert told in caught.value.message
    assert caught.value.code == "no_model"
    assert "\n" not in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def add_tensor(source, **extra):
    tensors = load_file(source / "model.safetensors")
    save_file(tensors | extra, source / "model.safetensors", metadata={"format": "pt"})


def set_in(path, **settings):
    files.write_json(path, files.read_json(path) | settings)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.layers.7.mlp.up_proj.weight",
    ],
)
def test_case_25_tensors_that_the_architecture_has_no_place_for_are_refused_by_name(source, tmp_path, name):
    add_tensor(source, **{name: torch.ones(4, 64)})

    with pytest.raises(ConfigError, match=re.escape(name)) as caught:
        bases.store_base(source, tmp_path / "base")
    assert caught.value.code == "no_model"
    assert not (tmp_path / "base").exists()


def test_case_25_a_config_with_a_layer_fewer_than_the_weights_is_refused(source, tmp_path):
    set_in(source / "config.json", num_hidden_layers=1)

    with pytest.raises(ConfigError, match=r"model\.layers\.1\."):
        bases.store_base(source, tmp_path / "base")


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"]
)
def test_case_25_buffers_of_older_programs_are_passed_by(source, tmp_path, name):
    add_tensor(source, **{name: torch.ones(8)})

    assert bases.store_base(source, tmp_path / "base")


def save_base(folder, tokenizer, vocabulary=None):
    tiny._blank(vocabulary or len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_case_25_a_vocabulary_smaller_than_the_tokenizers_is_refused(tmp_path):
    source = save_base(tmp_path / "source", tiny.tokenizer(), 100)

    with pytest.raises(ConfigError, match="for which the model has no weights") as caught:
        bases.store_base(source, tmp_path / "base")
    assert caught.value.code == "no_model"


@pytest.mark.parametrize(
    ("template", "is_taken"), [(tiny.TEMPLATE, True), ("{{ '<image>' }}" + tiny.TEMPLATE, False)]
)
def test_case_25_a_special_token_beyond_the_vocabulary_may_be_one_that_is_never_made(
    tmp_path, template, is_taken
):
    # Given a tokenizer like Gemma 3's of text alone: one token more than the model, for pictures
    tokenizer = tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.chat_template = template
    source = save_base(tmp_path / "source", tokenizer, len(tokenizer) - 1)

    if is_taken:
        assert bases.store_base(source, tmp_path / "base")
        return
    with pytest.raises(ConfigError, match="<image>"):
        bases.store_base(source, tmp_path / "base")


@pytest.mark.parametrize(
    "name", ["LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizer", "PreTrainedTokenizerFast"]
)
def test_case_25_the_tokenizer_that_is_stored_makes_the_tokens_of_the_sources_own(tmp_path, name):
    # Given a Unigram tokenizer under a class of which transformers builds another one
    signs = [(chr(sign), -5.0) for sign in range(33, 127)] + [("▁", -4.0), ("▁a", -3.0)]
    special = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<pad>", 0.0)]
    octets = [(f"<0x{byte:02X}>", -20.0) for byte in range(256)]
    core = Tokenizer(models.Unigram([*special, *octets, *signs], unk_id=0, byte_fallback=True))
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="never", split=False)
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made = templates._finish(
        core, tiny.TEMPLATE, ("<s>", "</s>", "<pad>"), (), {"eos_token": "</s>", "unk_token": "<unk>"}
    )
    source = save_base(tmp_path / "source", made)
    set_in(source / "tokenizer_config.json", tokenizer_class=name)

    bases.store_base(source, tmp_path / "base")

    stored = bases.load_tokenizer(tmp_path / "base")
    for text in ("① a", "two  blanks\n", "漢 é", "<s>a</s>"):
        wanted = core.encode(text, add_special_tokens=False).ids
        assert stored(text, add_special_tokens=False)["input_ids"] == wanted
    assert (stored.chat_template, stored.eos_token) == (tiny.TEMPLATE, "</s>")


def test_case_25_a_tokenizer_that_cannot_be_kept_is_refused_by_name(source, tmp_path, monkeypatch):
    # Given a source whose tokenizer no way of storing it keeps
    monkeypatch.setattr(bases.base_source, "other_tokens", lambda *_: "Óskarsdóttir")

    with pytest.raises(ConfigError, match="makes other tokens of 'Óskarsdóttir' than"):
        bases.store_base(source, tmp_path / "base")


@pytest.mark.parametrize("content", [b"GGUF", b"nothing of it", b""])
def test_case_25_a_gguf_that_transformers_does_not_know_is_told(tmp_path, content):
    (tmp_path / "x.gguf").write_bytes(content)

    with pytest.raises(ConfigError, match=r"x\.gguf holds no language model") as caught:
        bases.store_base(tmp_path, tmp_path / "base", "x.gguf")

    assert "\n" not in caught.value.message


@pytest.mark.parametrize(("rank", "other"), [(4, 4), (4, 8), (1, 16)])
def test_concatenated_adapters_add_their_deltas_exactly(base_folder, rank, other):
    model = load(base_folder).model
    one, two = random_adapter(model, rank, 1), random_adapter(model, other, 2)

    both = adapters.concatenate(one, two)

    assert both.rank == rank + other
    for name in one.factors:
        assert torch.allclose(both.delta(name), one.delta(name) + two.delta(name), atol=1e-6)


def test_without_a_parent_the_fresh_adapter_stands_alone(base_folder):
    fresh = random_adapter(load(base_folder).model, 4, 1)

    assert adapters.concatenate(None, fresh) is fresh


def test_merging_three_adapters_is_the_same_as_laying_their_concatenation_over_the_base(
    base_folder, tmp_path
):
    merged, plain = load(base_folder), load(base_folder)
    several = [random_adapter(merged.model, rank, rank) for rank in (2, 4, 8)]
    carried = adapters.concatenate(adapters.concatenate(several[0], several[1]), several[2])

    for adapter in several:
        adapters.merge(merged.model, adapter)
    peft_io.write_adapter(carried, tmp_path, "tiny")
    loaded = PeftModel.from_pretrained(plain.model, str(tmp_path)).eval()

    assert torch.allclose(logits(merged.model), logits(loaded), atol=1e-4)


def test_merging_changes_what_is_answered(base_folder):
    pristine, merged = load(base_folder), load(base_folder)

    adapters.merge(merged.model, random_adapter(merged.model, 4, 3))

    assert not torch.allclose(logits(pristine.model), logits(merged.model), atol=1e-2)


@pytest.mark.parametrize("alpha", [8, 32])
@pytest.mark.parametrize("rslora", [False, True])
def test_reading_an_adapter_folds_its_scale_as_peft_applies_it(base_folder, tmp_path, alpha, rslora):
    base = load(base_folder)
    config = LoraConfig(
        r=8, lora_alpha=alpha, use_rslora=rslora, target_modules="all-linear", init_lora_weights=False
    )
    live = get_peft_model(base.model, config).eval()
    expected = logits(live)
    live.save_pretrained(tmp_path)

    merged = load(base_folder)
    adapters.merge(merged.model, peft_io.read_adapter(tmp_path))

    assert torch.allclose(logits(merged.model), expected, atol=1e-4)
    assert adapters.difference(peft_io.read_live(live), peft_io.read_adapter(tmp_path)) == 0


def test_what_is_written_is_what_is_read(base_folder, tmp_path):
    adapter = random_adapter(load(base_folder).model, 4, 5)

    peft_io.write_adapter(adapter, tmp_path, "tiny")

    assert adapters.difference(peft_io.read_adapter(tmp_path), adapter) == 0


def test_modules_of_unequal_rank_are_padded_and_mean_the_same(base_folder, tmp_path):
    model = load(base_folder).model
    adapter = random_adapter(model, 4, 5)
    first = next(iter(adapter.factors))
    a, b = adapter.factors[first]
    uneven = adapters.Adapter({**adapter.factors, first: (a[:2], b[:, :2])})

    peft_io.write_adapter(uneven, tmp_path, "tiny")
    read = peft_io.read_adapter(tmp_path)

    assert read.rank == 4
    assert torch.allclose(read.delta(first), uneven.delta(first))


def test_a9_an_adapter_of_a_rank_above_its_smallest_layer_is_read_back_the_same(base_folder, tmp_path):
    # Given a layer of 32 outputs: no matrix that it can be changed by has a higher rank
    model = load(base_folder).model
    adapter, _ = adapters.consolidate(random_adapter(model, 130, 5), 128)
    ranks = {a.shape[0] for a, _ in adapter.factors.values()}

    peft_io.write_adapter(adapter, tmp_path, "tiny")
    read = peft_io.read_adapter(tmp_path)
    stack = adapter_stack.AdapterStack(load(base_folder))
    stack.add("v0.1", tmp_path)

    assert (ranks, read.rank, adapter.rank) == ({32, 64}, 64, 64)
    assert adapters.difference(adapter, read) == 0
    assert adapters.difference(stack.read("v0.1"), adapter) == 0
    assert all(torch.equal(read.delta(name), adapter.delta(name)) for name in adapter.factors)


def test_a9_what_an_adapter_has_in_its_other_ranks_is_a_difference(base_folder):
    adapter = random_adapter(load(base_folder).model, 8, 5)
    first = next(iter(adapter.factors))
    a, b = adapter.factors[first]
    shorter = adapters.Adapter(adapter.factors | {first: (a[:4], b[:, :4])})
    narrower = adapters.Adapter(adapter.factors | {first: (a[:, :9], b)})

    assert adapters.difference(adapter, shorter) == max(a[4:].abs().max(), b[:, 4:].abs().max())
    assert adapters.difference(shorter, adapter) == adapters.difference(adapter, shorter)
    assert adapters.difference(adapter, narrower) == float("inf")


@settings(max_examples=20, deadline=None)
@given(rank=st.integers(1, 12), kept=st.integers(1, 16), seed=st.integers(0, 999))
def test_consolidating_is_the_best_approximation_and_says_its_error(rank, kept, seed):
    torch.manual_seed(seed)
    adapter = adapters.Adapter({"layer": (torch.randn(rank, 10), torch.randn(14, rank))})

    small, error = adapters.consolidate(adapter, kept)

    exact = adapter.delta("layer").double()
    found = small.delta("layer").double()
    best = torch.linalg.svdvals(exact)[kept:].norm() / exact.norm()
    assert small.rank <= kept
    assert torch.allclose((found - exact).norm() / exact.norm(), best, atol=1e-5)
    assert error == pytest.approx(float(best), abs=1e-5)


def objective(delta, adapter, of_rows, of_texts):
    """Return what attenuating makes as small as it can be."""
    off = delta.double() - adapter.delta("layer").double()
    texts = (delta.double() @ of_texts * delta).sum()
    own = (of_rows + adapters.TEXTS_WEIGHT * of_texts).diagonal()
    lift = adapters.RARELY * own[own > 0].median()
    return float((off @ of_rows * off).sum() + lift * off.square().sum() + adapters.TEXTS_WEIGHT * texts)


@settings(max_examples=20, deadline=None)
@given(rank=st.integers(1, 8), kept=st.integers(1, 10), seed=st.integers(0, 999))
def test_attenuating_is_the_best_of_its_rank_and_says_what_rows_lose(rank, kept, seed):
    torch.manual_seed(seed)
    adapter = adapters.Adapter({"layer": (torch.randn(rank, 10), torch.randn(14, rank))})
    of_rows, of_texts = (tiny.moments(torch.randn(40, 10) * torch.rand(10)) for _ in range(2))

    found, error = adapters.attenuate(adapter, {"layer": of_rows}, {"layer": of_texts}, kept)

    # Then no other delta of this rank does better: a truncation, or one that is a little different
    delta = found.delta("layer")
    least = objective(delta, adapter, of_rows, of_texts)
    others = [adapters.consolidate(adapter, kept)[0]]
    for _ in range(4):
        a, b = found.factors["layer"]
        others.append(
            adapters.Adapter(
                {
                    "layer": (
                        a + 0.05 * torch.randn_like(a) * a.std(),
                        b + 0.05 * torch.randn_like(b) * b.std(),
                    )
                }
            )
        )
    assert found.rank <= kept
    assert all(
        least <= objective(other.delta("layer"), adapter, of_rows, of_texts) * 1.0001 for other in others
    )
    off, whole = (each.double() for each in (delta - adapter.delta("layer"), adapter.delta("layer")))
    lost = ((off @ of_rows * off).sum() / (whole @ of_rows * whole).sum()).sqrt()
    assert error == pytest.approx(float(lost), abs=1e-5)


def test_attenuating_keeps_what_is_said_of_rows_and_takes_out_what_is_said_of_other_texts():
    # Given rows and texts that have no direction in common, of sizes that float32 tells apart only one by one
    torch.manual_seed(0)
    adapter = adapters.Adapter({"layer": (torch.randn(3, 8), torch.randn(5, 3))})
    rows = torch.cat([1000 * torch.randn(30, 1), torch.randn(30, 3), torch.zeros(30, 4)], dim=1)
    texts = torch.cat([torch.zeros(30, 4), torch.randn(30, 3), torch.zeros(30, 1)], dim=1)

    found, error = adapters.attenuate(
        adapter, {"layer": tiny.moments(rows)}, {"layer": tiny.moments(texts)}, 3
    )

    def said(adapter, inputs):
        return inputs @ adapter.delta("layer").T

    assert error < 1e-4
    assert torch.allclose(said(found, rows), said(adapter, rows), rtol=1e-3, atol=0.05)
    assert said(found, texts).abs().max() < 0.05
    assert said(adapter, texts).abs().max() > 1


def test_attenuating_leaves_alone_what_hardly_ever_arrives():
    # Given an input that a layer norm has all but taken out, and that what is said of the rows would profit from a little
    torch.manual_seed(2)
    adapter = adapters.Adapter({"layer": (torch.randn(3, 8), torch.randn(5, 3))})
    sizes = torch.tensor([3.0, 2, 1, 1, 1, 1, 1, 1e-5])
    rows, texts = torch.randn(200, 8) * sizes, torch.randn(200, 8) * sizes
    rows[:, 7] += 1e-5 * rows[:, 0]

    found, _ = adapters.attenuate(adapter, {"layer": tiny.moments(rows)}, {"layer": tiny.moments(texts)}, 3)

    assert found.delta("layer")[:, 7].norm() < 2 * adapter.delta("layer")[:, 7].norm()
    assert found.delta("layer").norm() < 2 * adapter.delta("layer").norm()


def test_attenuating_goes_well_where_most_inputs_are_dead_and_tokens_are_few():
    torch.manual_seed(3)
    adapter = adapters.Adapter({"layer": (torch.randn(3, 60), torch.randn(5, 3))})
    alive = (torch.arange(60) < 25).float()
    rows, texts = (torch.randn(15, 60) * alive for _ in range(2))

    found, error = adapters.attenuate(
        adapter, {"layer": tiny.moments(rows)}, {"layer": tiny.moments(texts)}, 3
    )

    assert found.is_finite()
    assert error < 0.5


def test_attenuating_to_a_rank_with_no_texts_beside_loses_what_a_truncation_of_outputs_does():
    torch.manual_seed(1)
    adapter = adapters.Adapter({"layer": (torch.randn(6, 8), torch.randn(9, 6))})
    rows = torch.randn(50, 8) * torch.tensor([9.0, 5, 3, 1, 1, 1, 0.1, 0.1])

    _, error = adapters.attenuate(adapter, {"layer": tiny.moments(rows)}, {"layer": torch.zeros(8, 8)}, 2)

    outputs = torch.linalg.svdvals((rows @ adapter.delta("layer").T).double())
    assert error == pytest.approx(float(outputs[2:].norm() / outputs.norm()), rel=0.01)


def test_consolidating_within_the_rank_loses_nothing(base_folder):
    adapter = random_adapter(load(base_folder).model, 4, 6)

    same, error = adapters.consolidate(adapter, 4)

    assert error < 1e-6
    assert all(torch.allclose(same.delta(name), adapter.delta(name), atol=1e-5) for name in adapter.factors)


def test_an_adapter_for_another_base_is_refused(base_folder):
    model = load(base_folder).model
    stranger = adapters.Adapter({"model.layers.9.self_attn.q_proj": (torch.zeros(1, 64), torch.zeros(64, 1))})

    with pytest.raises(RegistryError, match="does not have"):
        adapters.merge(model, stranger)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"r": 5}, "rank 5"), ({"peft_type": "IA3"}, "plain LoRA"), ({"use_dora": True}, "plain LoRA")],
)
def test_a_configuration_that_does_not_fit_its_weights_is_refused(base_folder, tmp_path, change, message):
    peft_io.write_adapter(random_adapter(load(base_folder).model, 4, 1), tmp_path, "tiny")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(RegistryError, match=message):
        peft_io.read_adapter(tmp_path)


def test_a_truncated_file_is_refused(base_folder, tmp_path):
    peft_io.write_adapter(random_adapter(load(base_folder).model, 4, 1), tmp_path, "tiny")
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(RegistryError, match="cannot be read"):
        peft_io.read_adapter(tmp_path)


def test_a_deck_lays_one_version_at_a_time_over_one_base(base_folder, tmp_path):
    base = load(base_folder)
    pristine = logits(base.model)
    expected = {}
    stack = adapter_stack.AdapterStack(base)
    for number, name in enumerate(("v0.1", "v0.2")):
        adapter = random_adapter(load(base_folder).model, 4, number)
        peft_io.write_adapter(adapter, tmp_path / name, "tiny")
        alone = load(base_folder)
        adapters.merge(alone.model, adapter)
        expected[name] = logits(alone.model)
        stack.add(name, tmp_path / name)

    for name in ("v0.2", "v0.1", "v0.2"):
        with stack.use(name) as model:
            assert torch.allclose(logits(model), expected[name], atol=1e-4)
        with stack.use(None) as model:
            assert torch.equal(logits(model), pristine)

    stack.unload("v0.1")
    with stack.use("v0.2") as model:
        assert torch.allclose(logits(model), expected["v0.2"], atol=1e-4)


@pytest.mark.parametrize("is_first", [True, False])
def test_an_adapter_that_cannot_be_loaded_leaves_nothing_in_the_base(base_folder, tmp_path, is_first):
    # Given an adapter whose numbers do not fit what its config says
    base = load(base_folder)
    pristine, modules = logits(base.model), [name for name, _ in base.model.named_modules()]
    for number, name in enumerate(("v0.1", "v0.2", "v0.3")):
        adapter = random_adapter(load(base_folder).model, 4, number)
        peft_io.write_adapter(adapter, tmp_path / name, "tiny")
    path = tmp_path / "v0.2" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"r": 8, "rank_pattern": {}}))
    stack = adapter_stack.AdapterStack(base)
    if not is_first:
        stack.add("v0.1", tmp_path / "v0.1")

    with pytest.raises(RegistryError, match="cannot be loaded"):
        stack.add("v0.2", tmp_path / "v0.2")

    # Then the base and the other versions answer as before, and a sound one of that name is taken
    with stack.use(None) as model:
        assert torch.equal(logits(model), pristine)
    if is_first:
        assert [name for name, _ in base.model.named_modules()] == modules
    stack.add("v0.2", tmp_path / "v0.3")
    alone = load(base_folder)
    adapters.merge(alone.model, peft_io.read_adapter(tmp_path / "v0.3"))
    with stack.use("v0.2") as model:
        assert torch.allclose(logits(model), logits(alone.model), atol=1e-4)


def test_a_base_whose_files_have_changed_is_named(tmp_path):
    folder = tmp_path / "base"
    fingerprint = bases.store_base(tiny.save(tmp_path / "source"), folder)
    assert bases.verify_base(folder) == fingerprint
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"model\.safetensors has changed") as caught:
        bases.verify_base(folder)

    assert caught.value.code == "base_damaged"


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("", "fingerprint.json"),
        ("[]", "fingerprint.json"),
        ('{"fingerprint": "0", "files": {}}', "config.json"),
    ],
)
def test_a_fingerprint_that_cannot_be_trusted_is_damage_and_not_a_missing_base(tmp_path, content, names):
    folder = tmp_path / "base"
    bases.store_base(tiny.save(tmp_path / "source"), folder)
    (folder / bases.FINGERPRINT).write_text(content)

    with pytest.raises(ConfigError, match=names) as caught:
        bases.verify_base(folder)

    assert caught.value.code == "base_damaged"


def test_a_changed_digest_of_a_file_is_found(tmp_path):
    folder = tmp_path / "base"
    bases.store_base(tiny.save(tmp_path / "source"), folder)
    stored = json.loads((folder / bases.FINGERPRINT).read_text())
    stored["files"]["config.json"] = "0" * 64
    (folder / bases.FINGERPRINT).write_text(json.dumps(stored))

    with pytest.raises(ConfigError, match=r"config\.json has changed"):
        bases.verify_base(folder)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("unable to mmap 8 bytes from file <a>: Cannot allocate memory (12)"),
        OSError(errno.EMFILE, "Too many open files"),
        MemoryError("Cannot allocate memory (os error 12)"),
        MemoryError(),
    ],
)
def test_a_machine_in_trouble_is_no_damage(error):
    with pytest.raises(TransientError, match=r"loading v0\.1"), hardware.passing_errors("loading v0.1"):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("size mismatch for lora_A"),
        OSError(errno.ENOENT, "No such file"),
        FileNotFoundError("No such file or directory: /nowhere/at/all"),
        FileNotFoundError(""),
    ],
)
def test_what_is_wrong_with_a_file_stays_wrong(error):
    with pytest.raises(type(error)) as caught, hardware.passing_errors("loading v0.1"):
        raise error

    assert caught.value is error


def test_a_file_that_safetensors_misses_although_it_is_there_is_no_damage(tmp_path):
    # Given what it says where too many files are open: it has no number
    (tmp_path / "weights").touch()
    error = FileNotFoundError(f"No such file or directory: {tmp_path / 'weights'}")

    with pytest.raises(TransientError, match="cannot be opened"), hardware.passing_errors("loading v0.1"):
        raise error


def test_a_lora_lies_on_all_linear_layers_but_the_head(base_folder):
    model = load(base_folder).model
    linear = {name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}

    adapter = peft_io.read_live(peft_io.add_lora(model, 4, 8))

    assert set(adapter.factors) == linear - {"lm_head"}
    assert {a.shape[0] for a, _ in adapter.factors.values()} == {4}
    assert adapter.parameters == sum(
        4 * sum(model.get_submodule(name).base_layer.weight.shape) for name in adapter.factors
    )


def test_a_head_counts_among_an_adapters_parameters():
    factors = {"layer": (torch.zeros(2, 3), torch.zeros(5, 2))}

    assert adapters.Adapter(factors).parameters == 16
    assert adapters.Adapter(factors, {"score.weight": torch.zeros(2, 7)}, ("a", "b")).parameters == 30


def of_layers(adapter, *numbers):
    """Return an adapter's part in these layers."""
    chosen = tuple(f".layers.{number}." for number in numbers)
    return adapters.Adapter(
        {name: pair for name, pair in adapter.factors.items() if any(each in name for each in chosen)}
    )


@pytest.mark.parametrize("parent_layers", [(0, 1), (1,), ()])
def test_an_adapter_of_the_last_layers_is_served_as_peft_loads_it_whatever_its_parent_has(
    base_folder, tmp_path, parent_layers
):
    merged, plain = load(base_folder), load(base_folder)
    fresh = of_layers(random_adapter(merged.model, 4, 2), 1)
    parent = of_layers(random_adapter(merged.model, 2, 3), *parent_layers) if parent_layers else None
    for adapter in (parent, fresh):
        if adapter:
            adapters.merge(merged.model, adapter)

    peft_io.write_adapter(adapters.concatenate(parent, fresh), tmp_path, "tiny")
    peft_io.check_adapter(tmp_path, plain.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT warns of modules that it finds no weights for
        loaded = PeftModel.from_pretrained(plain.model, str(tmp_path)).eval()

    assert torch.allclose(logits(merged.model), logits(loaded), atol=1e-4)
    with_lora = {name for name, _ in loaded.named_modules() if name.endswith(".lora_A")}
    assert bool([name for name in with_lora if ".layers.0." in name]) == (0 in parent_layers)


def test_modules_that_differ_from_layer_to_layer_are_each_named(base_folder, tmp_path):
    merged, plain = load(base_folder), load(base_folder)
    whole = random_adapter(merged.model, 4, 2)
    some = adapters.Adapter(
        {name: pair for name, pair in whole.factors.items() if ".layers.1." in name or "q_proj" in name}
    )
    adapters.merge(merged.model, some)

    peft_io.write_adapter(some, tmp_path, "tiny")
    peft_io.check_adapter(tmp_path, plain.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = PeftModel.from_pretrained(plain.model, str(tmp_path)).eval()

    assert torch.allclose(logits(merged.model), logits(loaded), atol=1e-4)
