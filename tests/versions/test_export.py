"""Versions in other programs' forms: each is read back and answers like the version."""

import shutil
import sys
from types import SimpleNamespace

import fake_llama_cpp
import gguf
import pytest
import templates
import tiny
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from lorad.errors import ConfigError, RegistryError
from lorad.evaluation import metrics
from lorad.models import bases, packing, peft_io, scoring
from lorad.storage import files
from lorad.tasks import find
from lorad.versions import export, export_template, modelfile


@pytest.fixture(autouse=True)
def _no_llamacpp(monkeypatch):
    """What is tested is the same whether llama-cpp-python is installed or not."""
    monkeypatch.setitem(sys.modules, "llama_cpp", None)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, a version of it with probes, and what the version answers."""
    folder = tmp_path_factory.mktemp("export")
    bases.store_base(tiny.save(folder / "source"), folder / "tiny")
    base = bases.load_base(folder / "tiny", torch.float32)
    torch.manual_seed(3)
    live = peft_io.add_lora(base.model, 4, 8)
    with torch.no_grad():
        for weight in (w for name, w in live.named_parameters() if "lora_B" in name):
            weight.normal_(0, 0.1)
    version = folder / "v0.1"
    peft_io.write_adapter(peft_io.read_live(live), version, "tiny")
    rows = [find("chat").encode(base.tokenizer, example) for example in tiny.facts(4)]
    files.write_json(version / metrics.PROBES, metrics.probe(find("chat"), live.eval(), rows))
    with torch.inference_mode():
        logits = scoring.answer_logits(live, packing.pack(rows))
    return folder, rows, logits


def answer(model, rows):
    with torch.inference_mode():
        return scoring.answer_logits(model, packing.pack(rows)).float()


def test_an_adapter_is_one_for_plain_peft(made, tmp_path):
    folder, rows, logits = made

    difference = export.export(folder / "v0.1", folder / "tiny", tmp_path / "out", "adapter").difference

    base = AutoModelForCausalLM.from_pretrained(folder / "tiny", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    assert difference < 1e-4
    assert torch.allclose(answer(model, rows), logits, atol=1e-4)


def test_a_merged_model_needs_no_base(made, tmp_path):
    folder, rows, logits = made

    export.export(folder / "v0.1", folder / "tiny", tmp_path / "out", "merged")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    assert torch.allclose(answer(model, rows), logits, atol=0.3)  # stored in bfloat16, as the base is
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tiny.TEMPLATE


def test_gguf_is_read_back_by_transformers(made, tmp_path):
    folder, rows, logits = made

    export.export(folder / "v0.1", folder / "tiny", tmp_path / "out", "gguf")

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Modelfile", "v0.1.gguf"]
    model = export._read_gguf(tmp_path / "out", folder / "tiny")
    assert torch.allclose(answer(model, rows), logits, atol=0.05)  # stored in float16
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out", gguf_file="v0.1.gguf")
    text = "Which colour is the door of Arlo?"
    assert tokenizer(text)["input_ids"][-8:] == tiny.tokenizer()(text)["input_ids"][-8:]
    assert "FROM ./v0.1.gguf" in (tmp_path / "out" / "Modelfile").read_text()


def test_case_2_the_probes_are_asked_through_the_prompt_that_ollama_makes(made, tmp_path):
    folder, _, _ = made

    exported = export.export(folder / "v0.1", folder / "tiny", tmp_path / "out", "gguf")

    text = (tmp_path / "out" / "Modelfile").read_text(encoding="utf-8")
    messages = tiny.facts(1)[0].input
    tokenizer = tiny.tokenizer()
    asked = find("chat").prompt(tokenizer, messages)
    assert modelfile.tokens(tokenizer, modelfile.render(text, messages)) == asked
    assert exported.notes[0].startswith(
        "Ollama makes the base's prompt, token by token, in 17 conversations; 2 of 2"
    )
    assert exported.notes[1].startswith("llama-cpp-python is not installed")


def test_case_2_a_prompt_that_ollama_makes_otherwise_is_not_exported(made, tmp_path, monkeypatch):
    # Given a Modelfile that says something else
    folder, _, _ = made
    write = modelfile.write
    monkeypatch.setattr(modelfile, "write", lambda *told: write(*told).replace("<s>user", "<s>sister"))
    monkeypatch.setattr(modelfile, "compare", lambda *_: 1)

    with pytest.raises(RegistryError, match="nothing was exported"):
        export.export(folder / "v0.1", folder / "tiny", tmp_path / "out", "gguf")


def test_case_2_where_ollama_cannot_make_the_prompt_there_is_no_modelfile(made, tmp_path):
    # Given a base that trims what people write
    folder, _, _ = made
    base = tmp_path / "trims"
    shutil.copytree(folder / "tiny", base)
    template = base / "chat_template.jinja"
    template.write_text(tiny.TEMPLATE.replace("message['content']", "message['content'] | trim"))

    exported = export.export(folder / "v0.1", base, tmp_path / "out", "gguf")

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["v0.1.gguf"]
    assert "it trims or changes white space" in exported.notes[0]
    assert "llama-server --jinja" in exported.notes[0]
    assert gguf_fields(tmp_path / "out")["tokenizer.chat_template"] == template.read_text()


def gguf_fields(folder):
    (file,) = folder.glob("*.gguf")
    return {name: entry.contents() for name, entry in gguf.GGUFReader(file).fields.items()}


def test_gguf_says_which_tokens_are_text_which_control_and_where_to_stop(made, tmp_path):
    # Given a base with a word of its own that is no special token, and with a special one that no template uses
    folder, _, _ = made
    base = tmp_path / "words"
    shutil.copytree(folder / "tiny", base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    core = files.read_json(base / "tokenizer.json")
    at = {name: tokenizer.convert_tokens_to_ids(tokenizer.tokenize(name)[0]) for name in ("z", "y")}
    for name, is_special in (("z", False), ("y", True)):
        core["added_tokens"].append(
            {"id": at[name], "content": f"<{name}>", "special": is_special, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        )
    files.write_json(base / "tokenizer.json", core)
    is_made = at["y"] in modelfile.controls(AutoTokenizer.from_pretrained(base))

    export.export(folder / "v0.1", base, tmp_path / "out", "gguf", strict=False)

    fields = gguf_fields(tmp_path / "out")
    words, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert (words[at["z"]], kinds[at["z"]]) == ("<z>", gguf.TokenType.USER_DEFINED)
    assert [kinds[number] for number in (0, 1, 5)] == [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL]
    assert kinds[at["y"]] == (gguf.TokenType.CONTROL if is_made else gguf.TokenType.UNUSED)
    assert ("<y>" in words) is is_made
    assert (fields["tokenizer.ggml.add_bos_token"], fields["tokenizer.ggml.add_eos_token"]) == (False, False)
    assert fields["tokenizer.ggml.eos_token_id"] == 1


@pytest.mark.parametrize(
    ("ends", "named"),
    [([1], {"eos": 1}), ([1, 7], {"eos": 1, "eot": 7}), ([8, 7, 1], {"eos": 1, "eot": 8, "eom": 7})],
)
def test_case_4_each_token_that_ends_a_turn_is_one_at_which_llama_cpp_stops(monkeypatch, ends, named):
    monkeypatch.setattr(export.Chat, "stop_tokens", lambda *_: ends)

    assert export._ends(SimpleNamespace(eos_token_id=1)) == named


def test_llama_cpp_is_asked_where_it_is_installed(made, tmp_path, monkeypatch):
    folder, _, _ = made
    fake_llama_cpp.install(monkeypatch)

    exported = export.export(folder / "v0.1", folder / "tiny", tmp_path / "out", "gguf")

    assert "llama.cpp's logits differ by at most" in exported.notes[1]
    assert "another prompt" not in exported.notes[1]


@pytest.mark.parametrize(
    ("fault", "told"), [("logits", "GGUF in llama.cpp answers differently"), ("tokens", "makes other tokens")]
)
def test_what_llama_cpp_makes_otherwise_is_not_exported(made, tmp_path, monkeypatch, fault, told):
    folder, _, _ = made
    fake_llama_cpp.install(monkeypatch, fault)

    with pytest.raises(RegistryError, match=told):
        export.export(folder / "v0.1", folder / "tiny", tmp_path / "out", "gguf")
    assert list(tmp_path.iterdir()) == []


def test_another_prompt_of_llama_cpps_own_chat_is_told(made, tmp_path, monkeypatch):
    folder, _, _ = made
    fake_llama_cpp.install(monkeypatch, "chat")

    exported = export.export(folder / "v0.1", folder / "tiny", tmp_path / "out", "gguf")

    assert "its Python chat completion makes another prompt (user," in exported.notes[1]


@pytest.mark.parametrize("form", ["adapter", "merged", "gguf"])
def test_what_does_not_answer_like_the_version_is_not_exported(made, tmp_path, form):
    # Given probes that the version does not answer
    folder, _, _ = made
    version = tmp_path / "v0.1"
    shutil.copytree(folder / "v0.1", version)
    stored = files.read_json(version / metrics.PROBES)
    stored["probes"][0]["logits"][0][0] += 3.0
    files.write_json(version / metrics.PROBES, stored)

    with pytest.raises(RegistryError, match="nothing was exported"):
        export.export(version, folder / "tiny", tmp_path / "out", form)

    assert [path.name for path in tmp_path.iterdir()] == ["v0.1"]


def test_nothing_is_overwritten(made, tmp_path):
    folder, _, _ = made
    (tmp_path / "out").mkdir()

    with pytest.raises(ConfigError, match="exists already"):
        export.export(folder / "v0.1", folder / "tiny", tmp_path / "out", "merged")


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("config.json", lambda data: data | {"model_type": "gpt2"}, "only Llama models with BPE"),
        (
            "tokenizer.json",
            lambda data: data | {"pre_tokenizer": {"type": "Metaspace"}},
            "the pre-tokenizer Metaspace",
        ),
    ],
)
def test_models_that_gguf_is_not_written_for_are_told(made, tmp_path, file, change, told):
    folder, _, _ = made
    base = tmp_path / "other"
    shutil.copytree(folder / "tiny", base)
    files.write_json(base / file, change(files.read_json(base / file)))

    with pytest.raises(ConfigError, match=told):
        export.export(folder / "v0.1", base, tmp_path / "out", "gguf")
    assert not (tmp_path / "out").exists()


def a_version(folder, tokenizer, *, ends=None, change=None, **settings):
    """Return a version with probes, and its base, which has this tokenizer and these settings."""
    made = tiny._blank(len(tokenizer))
    for key, value in settings.items():
        setattr(made.config, key, value)
    torch.manual_seed(7)
    made = LlamaForCausalLM(made.config)
    if ends is not None:
        made.generation_config.eos_token_id = ends
    made.save_pretrained(folder / "source")
    tokenizer.save_pretrained(folder / "source")
    if change:
        path = folder / "source" / "tokenizer.json"
        files.write_json(path, change(files.read_json(path)))
    bases.store_base(folder / "source", folder / "base")
    base = bases.load_base(folder / "base", torch.float32)
    live = peft_io.add_lora(base.model, 2, 2)
    with torch.no_grad():
        for weight in (w for name, w in live.named_parameters() if "lora_B" in name):
            weight.normal_(0, 0.05)
    peft_io.write_adapter(peft_io.read_live(live), folder / "v0.1", "base")
    rows = [find("chat").encode(base.tokenizer, example) for example in tiny.facts(2)]
    files.write_json(folder / "v0.1" / metrics.PROBES, metrics.probe(find("chat"), live.eval(), rows))
    return folder / "v0.1", folder / "base"


def asked_by(exported, messages, **how):
    text = exported.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **how)
    return exported(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_case_2_an_export_says_where_an_answer_ends_as_lorad_has_trained_it(tmp_path, form):
    # Given a base whose generation_config names another end than its template writes
    tokenizer = templates.phi3()
    version, base = a_version(tmp_path, tokenizer, ends=tokenizer.eos_token_id)

    export.export(version, base, tmp_path / "out", form)

    told = files.read_json(tmp_path / "out" / "generation_config.json")["eos_token_id"]
    assert told == list(find("chat").stop_tokens(bases.load_tokenizer(base)))
    assert told[0] == tokenizer.convert_tokens_to_ids("<|end|>")


ALIKE = "makes lorad's prompt, token by token, in"
OPENED = r"put '<|im_start|>assistant\n' behind what it writes"


@pytest.mark.parametrize(
    ("form", "style", "told"),
    [
        *((form, style, ALIKE) for form in ("merged", "gguf") for style in ("smollm2", "llama3")),
        *(("merged", style, ALIKE) for style in ("phi3", "gemma")),  # GGUF takes byte-level vocabularies only
        *((form, "qwen3", 'chat_template_kwargs {"enable_thinking": false}') for form in ("merged", "gguf")),
        *((form, "chatml_without_prompt", OPENED) for form in ("merged", "gguf")),
    ],
)
def test_case_2_an_export_says_whether_its_own_template_asks_as_lorad_does(tmp_path, form, style, told):
    version, base = a_version(tmp_path, templates.STYLES[style]())

    exported = export.export(version, base, tmp_path / "out", form)

    assert told in exported.notes[-1]


def test_case_2_an_exported_template_writes_the_date_that_was_trained(tmp_path):
    version, base = a_version(tmp_path, templates.llama3())

    export.export(version, base, tmp_path / "out", "merged")

    exported = AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": "Who?"}]
    assert asked_by(exported, messages) == find("chat").prompt(bases.load_tokenizer(base), messages)
    assert "26 Jul 2024" in exported.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("form", ["adapter", "merged", "gguf"])
def test_case_2_templates_beside_the_first_are_exported_with_their_date(tmp_path, form):
    tokenizer = templates.smollm2()
    dated = "{{ strftime_now('%Y') }}" + templates.QWEN3
    tokenizer.chat_template = {"default": templates.SMOLLM2, "tool_use": dated}
    version, base = a_version(tmp_path, tokenizer)

    exported = export.export(version, base, tmp_path / "out", form)

    wanted = dated.replace("strftime_now('%Y')", "'2024'")
    if form == "gguf":
        assert gguf_fields(tmp_path / "out")["tokenizer.chat_template.tool_use"] == wanted
    else:
        assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template["tool_use"] == wanted
    assert "makes lorad's prompt" in exported.notes[-1]


def test_case_2_a_template_in_the_tokenizers_settings_has_its_date_held_too(tmp_path):
    found = [{"name": "default", "template": "{{ strftime_now('%Y') }}"}]
    files.write_json(tmp_path / "tokenizer_config.json", {"chat_template": found, "eos_token": "x"})

    export_template.pin(tmp_path)

    assert files.read_json(tmp_path / "tokenizer_config.json") == {
        "chat_template": [{"name": "default", "template": "{{ '2024' }}"}],
        "eos_token": "x",
    }


def scaled(kind, **more):
    return {"rope_parameters": {"rope_type": kind, "factor": 4.0, "rope_theta": 10000.0, **more}}


LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (scaled("linear"), "rope_type: linear"),
        (scaled("dynamic"), "rope_type: dynamic"),
        (scaled("yarn", original_max_position_embeddings=128), "rope_type: yarn"),
        (scaled("llama3", **LLAMA3_ROPE), "rope_type: llama3"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None}, "rope_type: linear"),
        ({"hidden_act": "gelu"}, "hidden_act: gelu"),
        ({"attention_bias": True}, "attention_bias: True"),
        ({"mlp_bias": True}, "mlp_bias: True"),
    ],
)
def test_case_2_what_the_gguf_would_not_tell_llama_cpp_of_a_model_is_refused_by_name(
    made, tmp_path, settings, told
):
    folder, _, _ = made
    base = tmp_path / "other"
    shutil.copytree(folder / "tiny", base)
    files.write_json(base / "config.json", files.read_json(base / "config.json") | settings)

    with pytest.raises(ConfigError, match=told) as caught:
        export.export(folder / "v0.1", base, tmp_path / "out", "gguf")
    assert caught.value.code == "no_gguf"
    assert not (tmp_path / "out").exists()


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    ("place", "change", "told"),
    [
        (None, {"normalizer": {"type": "Lowercase"}}, "the normalizer Lowercase"),
        (None, {"normalizer": {"type": "NFKC"}}, "the normalizer NFKC"),
        (None, {"pre_tokenizer": BYTE_LEVEL | {"use_regex": False}}, "use_regex: False"),
        (None, {"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}}, "add_prefix_space: True"),
        (
            None,
            {
                "pre_tokenizer": {
                    "type": "Sequence",
                    "pretokenizers": [{"type": "Digits", "individual_digits": False}, BYTE_LEVEL],
                }
            },
            "individual_digits: False",
        ),
        (None, {"pre_tokenizer": None}, "the pre-tokenizer none"),
        ("model", {"ignore_merges": True}, "ignore_merges: True"),
        ("model", {"byte_fallback": True}, "byte_fallback: True"),
        ("added", {"lstrip": True}, "lstrip on the token <s>"),
        ("added", {"single_word": True}, "single_word on the token <s>"),
    ],
)
def test_case_2_a_tokenizer_of_which_llama_cpp_makes_another_is_refused_by_name(
    made, tmp_path, place, change, told
):
    folder, _, _ = made
    base = tmp_path / "other"
    shutil.copytree(folder / "tiny", base)
    core = files.read_json(base / "tokenizer.json")
    {None: core, "model": core["model"], "added": core["added_tokens"][0]}[place].update(change)
    files.write_json(base / "tokenizer.json", core)

    with pytest.raises(ConfigError, match=told) as caught:
        export.export(folder / "v0.1", base, tmp_path / "out", "gguf")
    assert caught.value.code == "no_gguf"


def test_case_2_smollms_pre_tokenizer_has_a_word():
    digits = {"type": "Digits", "individual_digits": True}
    both = {"type": "Sequence", "pretokenizers": [digits, BYTE_LEVEL]}

    assert (export._word_for(both), export._word_for(BYTE_LEVEL)) == ("smollm", "gpt-2")
