"""Versions as ONNX graphs: ONNX Runtime says what the version says, in texts of any number and length."""

import pytest
import tiny_encoder
import torch
from transformers import AutoTokenizer

from lorad.errors import ConfigError, RegistryError
from lorad.evaluation import metrics
from lorad.models import adapters, bases, heads, peft_io
from lorad.storage import files
from lorad.tasks import find
from lorad.versions import calibrations, export, onnx

TAGS = ("O", "B-A", "I-A")
TEXTS = ["she took the fig", "she", "she took the fig she took the owl she took the fig she took the owl"]
LABELS = ("things/fruit", "things/metal", "animals")


@pytest.fixture(scope="module")
def bases_on_disk(tmp_path_factory):
    return tiny_encoder.store_beside_causal(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def versions(bases_on_disk, tmp_path_factory):
    """Versions by base and task, with random weights, probes and a calibration."""
    return {
        (kind, name): made(base, find(name), tmp_path_factory.mktemp(f"{kind}-{name}") / "v0.1")
        for kind, base in bases_on_disk.items()
        for name in ("token_classification", "bidirectional_token_classification", "text_classification")
    }


def made(base, task, folder):
    loaded = bases.load_base(base, torch.float32, head=task.head)
    heads.build(loaded.model, task.head, TAGS if task.head is heads.TOKEN else LABELS)
    torch.manual_seed(3)
    live = peft_io.add_lora(loaded.model, 4, 8, task.head)
    with torch.no_grad():
        for weight in (w for w in live.parameters() if w.requires_grad):
            weight.normal_(0, 0.2)
    peft_io.write_adapter(peft_io.read_live(live), folder, base.name, task.head)
    rows = [task.question(loaded.tokenizer, text) for text in TEXTS]
    files.write_json(folder / metrics.PROBES, metrics.probe(task, live.eval(), rows))
    files.write_json(folder / calibrations.OWN, {"applied": {"temperature": 1.5}})
    (folder / "config.yaml").write_text("settings: {}")
    return folder


def test_without_the_packages_it_is_said_how_to_get_them(bases_on_disk, versions, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "PACKAGES", ("torch", "no_such_package"))

    with pytest.raises(
        ConfigError, match=r"needs no_such_package; install with: pip install 'lorad\[onnx\]'"
    ) as caught:
        exported(bases_on_disk, versions, "encoder", "token_classification", tmp_path)

    assert caught.value.code == "no_onnx_packages"
    assert not (tmp_path / "out").exists()


def exported(bases_on_disk, versions, kind, name, tmp_path):
    version, base = versions[kind, name], bases_on_disk[kind]
    return export.export(version, base, tmp_path / "out", "onnx", task=find(name))


def test_a_chat_model_has_no_such_form(bases_on_disk, tmp_path):
    live = peft_io.add_lora(bases.load_base(bases_on_disk["causal"], torch.float32).model, 4, 8)
    peft_io.write_adapter(peft_io.read_live(live), tmp_path / "v0.1", "causal")

    with pytest.raises(ConfigError, match="the form onnx is for versions that learn labels") as caught:
        export.export(tmp_path / "v0.1", bases_on_disk["causal"], tmp_path / "out", "onnx")

    assert caught.value.code == "no_onnx"


@pytest.fixture
def needs_packages():
    for name in onnx.PACKAGES:
        pytest.importorskip(name, exc_type=ImportError)


@pytest.mark.usefixtures("needs_packages")
@pytest.mark.parametrize("kind", ["encoder", "causal"])
@pytest.mark.parametrize(
    "name", ["token_classification", "bidirectional_token_classification", "text_classification"]
)
def test_onnx_runtime_says_what_the_version_says(bases_on_disk, versions, tmp_path, kind, name):
    told = exported(bases_on_disk, versions, kind, name, tmp_path)

    # As somebody without lorad asks it: several texts in one pass, and one alone
    import onnxruntime  # noqa: PLC0415 - an extra

    folder, task = tmp_path / "out", find(name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    base = bases.load_base(bases_on_disk[kind], torch.float32, head=task.head)
    adapter = peft_io.read_adapter(versions[kind, name])
    heads.build(base.model, task.head, adapter.labels)
    heads.put(base.model, adapter.head)
    adapters.merge(base.model, adapter)
    for asked in (TEXTS, TEXTS[:1], TEXTS[1:2] * 5):
        read = tokenizer(asked, padding=True, return_tensors="pt")
        given = {each: read[each] for each in onnx.INPUTS}
        (found,) = session.run(["logits"], {each: value.numpy() for each, value in given.items()})
        with torch.inference_mode():
            mask = task.mask(given["attention_mask"], torch.float32)
            expected = base.model(input_ids=given["input_ids"], attention_mask=mask).logits
        seen = given["attention_mask"].bool() if expected.dim() == 3 else slice(None)
        assert torch.allclose(torch.from_numpy(found)[seen], expected[seen], atol=1e-3)
    # And beside it lie its labels, as transformers and as plain JSON, and its calibration
    labels = TAGS if task.head is heads.TOKEN else LABELS
    config = files.read_json(folder / "config.json")
    assert files.read_json(folder / "labels.json") == list(labels) == list(config["id2label"].values())
    assert files.read_json(folder / calibrations.OWN) == {"applied": {"temperature": 1.5}}
    assert (folder / "config.yaml").read_text() == "settings: {}"
    assert told.difference < 1e-3
    assert any("ONNX Runtime's logits differ from the merged model's by" in note for note in told.notes)


@pytest.mark.usefixtures("needs_packages")
def test_nothing_but_lorad_speaks(bases_on_disk, versions, tmp_path, capfd):
    exported(bases_on_disk, versions, "encoder", "text_classification", tmp_path)

    assert "onnx" not in capfd.readouterr().out.lower()


@pytest.mark.usefixtures("needs_packages")
def test_a_graph_that_answers_otherwise_is_not_exported(bases_on_disk, versions, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "TOLERANCE", -1.0)

    with pytest.raises(RegistryError, match="the ONNX graph in ONNX Runtime answers differently") as caught:
        exported(bases_on_disk, versions, "encoder", "text_classification", tmp_path)

    assert caught.value.code == "export_differs"
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("needs_packages")
def test_a_graph_of_other_weights_is_seen_by_its_logits(bases_on_disk, versions, tmp_path):
    task, base = find("token_classification"), bases_on_disk["encoder"]
    exported(bases_on_disk, versions, "encoder", task.name, tmp_path)
    other = bases.load_base(base, torch.float32, head=task.head)
    heads.build(other.model, task.head, TAGS)
    rows = [task.question(other.tokenizer, text) for text in TEXTS]

    assert onnx.difference(task, other.model, onnx.OnnxModel(tmp_path / "out"), rows) > onnx.TOLERANCE
