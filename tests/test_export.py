"""Versions in other programs' forms: each is read back and answers like the version."""

import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from lorad import examine, export, files, teacher, weights
from lorad.errors import ConfigError, RegistryError
from lorad.tasks import find


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, a version of it with probes, and what the version answers."""
    folder = tmp_path_factory.mktemp("export")
    weights.store_base(tiny.save(folder / "source"), folder / "tiny")
    base = weights.load_base(folder / "tiny", torch.float32)
    torch.manual_seed(3)
    live = weights.add_lora(base.model, 4, 8)
    with torch.no_grad():
        for weight in (w for name, w in live.named_parameters() if "lora_B" in name):
            weight.normal_(0, 0.1)
    version = folder / "v0.1"
    weights.write_adapter(weights.read_live(live), version, "tiny")
    rows = [find("chat").encode(base.tokenizer, example) for example in tiny.facts(4)]
    files.write_json(version / examine.PROBES, examine.probe(live.eval(), rows))
    with torch.inference_mode():
        logits = teacher.answer_logits(live, teacher.pack(rows))
    return folder, rows, logits


def answer(model, rows):
    with torch.inference_mode():
        return teacher.answer_logits(model, teacher.pack(rows)).float()


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


@pytest.mark.parametrize("form", export.FORMATS)
def test_what_does_not_answer_like_the_version_is_not_exported(made, tmp_path, form):
    # Given probes that the version does not answer
    folder, _, _ = made
    version = tmp_path / "v0.1"
    shutil.copytree(folder / "v0.1", version)
    stored = files.read_json(version / examine.PROBES)
    stored["probes"][0]["logits"][0][0] += 3.0
    files.write_json(version / examine.PROBES, stored)

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
        ("config.json", lambda data: data | {"model_type": "gpt2"}, "Llama models with BPE only"),
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
