"""What another program trained becomes a candidate like any other, or is refused with the reason."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import tiny
from lorad import adopt, examine, files, teacher, weights
from lorad.errors import RegistryError
from lorad.tasks import find


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    weights.store_base(tiny.save(folder / "source"), folder / "base")
    return folder / "base"


@pytest.fixture
def base(base_folder):
    return weights.load_base(base_folder, torch.float32)


@pytest.fixture(scope="module")
def trained(base_folder, tmp_path_factory):
    """An adapter as PEFT saves one: alpha is not the rank, and not every layer has one."""
    torch.manual_seed(5)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(weights.load_base(base_folder, torch.float32).model, config).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1)
    folder = tmp_path_factory.mktemp("outside")
    model.save_pretrained(folder / "adapter")
    merged = model.merge_and_unload()
    merged.save_pretrained(folder / "model")
    return folder, merged


def rows():
    return [find("chat").encode(tiny.tokenizer(), example) for example in tiny.facts(3)]


def logits(model):
    with torch.inference_mode():
        return teacher.answer_logits(model, teacher.pack(rows()))


def brought(deck):
    with deck.use("candidate") as model:
        return logits(model)


def test_an_adapter_of_pefts_own_says_the_same_as_a_candidate(base, base_folder, trained, tmp_path):
    folder, merged = trained

    found = adopt.read(folder / "adapter", base, 64)
    deck = adopt.write(found, tmp_path / "candidate", base_folder, base, rows()[:2], {"source": "x"})

    assert (found.kind, found.adapter.rank) == ("adapter", 4)
    assert torch.allclose(brought(deck), logits(merged), atol=1e-4)
    assert files.read_json(tmp_path / "candidate" / "adapter_config.json")["lora_alpha"] == 4
    probes = files.read_json(tmp_path / "candidate" / examine.PROBES)
    assert probes["probes"]
    imported = files.read_json(tmp_path / "candidate" / "metadata.json")["imported"]
    assert imported["files"] == {
        "adapter_model.safetensors": files.file_digest(folder / "adapter" / "adapter_model.safetensors")
    }
    assert imported["source"] == "x"


def test_a_whole_model_becomes_the_adapter_that_makes_it(base, base_folder, trained, tmp_path):
    folder, merged = trained

    found = adopt.read(folder / "model", base, 16)
    deck = adopt.write(found, tmp_path / "candidate", base_folder, base, [], {})
    whole = weights.load_base(base_folder, torch.float32).model

    assert found.kind == "model"
    assert adopt.compare(folder / "model", deck, whole) < 1e-5
    assert torch.allclose(brought(deck), logits(merged), atol=1e-2)


def test_a_model_that_is_no_low_rank_change_is_refused(base, base_folder, trained, tmp_path):
    folder, _ = trained

    found = adopt.read(folder / "model", base, 1)
    deck = adopt.write(found, tmp_path / "candidate", base_folder, base, [], {})

    with pytest.raises(RegistryError, match="would be another one") as caught:
        adopt.compare(folder / "model", deck, weights.load_base(base_folder, torch.float32).model)
    assert caught.value.code == "not_low_rank"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_is_read_as_tensors_alone_and_written_as_safetensors(
    base, base_folder, trained, tmp_path, wrapped
):
    folder, merged = trained
    source = tmp_path / "source"
    source.mkdir()
    (source / "adapter_config.json").write_bytes((folder / "adapter" / "adapter_config.json").read_bytes())
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    torch.save({"state_dict": tensors} if wrapped else tensors, source / "adapter_model.bin")

    found = adopt.read(source, base, 64)
    deck = adopt.write(found, tmp_path / "candidate", base_folder, base, [], {})

    assert torch.allclose(brought(deck), logits(merged), atol=1e-4)
    assert "pickle" in found.notes[-1]
    assert not list((tmp_path / "candidate").glob("*.bin"))


class Trap:
    """A pickle that would run something."""

    def __reduce__(self):
        return print, ("this must not be run",)


def test_nothing_in_a_pickle_is_run(base, tmp_path, capsys):
    torch.save({"lora_A": Trap()}, tmp_path / "adapter_model.bin")

    with pytest.raises(RegistryError, match="as tensors alone") as caught:
        adopt.read(tmp_path, base, 64)

    assert caught.value.code == "not_tensors"
    assert capsys.readouterr().out == ""


def harmed(folder, target, harm):
    target.mkdir()
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    first = next(iter(tensors))
    if harm == "not finite":
        tensors[first][0, 0] = float("nan")
    elif harm == "more than LoRA":
        tensors["base_model.model.model.norm.weight"] = torch.ones(64)
    elif harm == "dora":
        config["use_dora"] = True
    elif harm == "another rank":
        config["r"] = 5
    elif harm == "another base":
        tensors = {name.replace("layers.1", "layers.9"): tensor for name, tensor in tensors.items()}
    elif harm == "no pair":
        del tensors[first.replace("lora_A", "lora_B")]
    if harm != "no config":
        files.write_json(target / "adapter_config.json", config)
    if harm != "no weights":
        save_file(tensors, target / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        ("not finite", "not_finite"),
        ("more than LoRA", "adapter_kind"),
        ("dora", "adapter_kind"),
        ("another rank", "adapter_config"),
        ("another base", "wrong_base"),
        ("no pair", "adapter_config"),
        ("no config", "no_adapter_config"),
        ("no weights", "no_tensors"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(base, base_folder, trained, tmp_path, harm, code):
    harmed(trained[0], tmp_path / "source", harm)

    with pytest.raises(RegistryError) as caught:
        adopt.write(
            adopt.read(tmp_path / "source", base, 64), tmp_path / "candidate", base_folder, base, [], {}
        )

    assert caught.value.code == code


@pytest.mark.parametrize("harm", ["norm", "shape", "lacks", "same"])
def test_a_model_that_is_none_of_this_bases_is_refused(base, trained, tmp_path, harm):
    tensors = load_file(trained[0] / "model" / "model.safetensors")
    if harm == "norm":
        tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    elif harm == "shape":
        tensors["model.norm.weight"] = torch.ones(3)
    elif harm == "lacks":
        del tensors["model.norm.weight"]
    else:
        tensors = {
            name: tensor.clone()
            for name, tensor in base.model.state_dict().items()
            if name != "lm_head.weight"
        }
    save_file(tensors, tmp_path / "model.safetensors")

    with pytest.raises(RegistryError) as caught:
        adopt.read(tmp_path, base, 16)

    codes = {"norm": "not_a_lora", "shape": "wrong_base", "lacks": "wrong_base", "same": "nothing_new"}
    assert caught.value.code == codes[harm]


def test_its_evaluation_counts_what_it_recalls(base, base_folder, trained, tmp_path):
    found = adopt.read(trained[0] / "adapter", base, 64)
    candidate = tmp_path / "candidate"
    deck = adopt.write(found, candidate, base_folder, base, [], {})
    examples = tiny.facts(3)

    right = adopt.evaluate(deck, examples, rows(), candidate, found.notes)

    result = files.read_json(candidate / "evaluation.json")
    assert result["right"] == right
    assert list(right) == [example.id for example in examples]
    assert result["evaluation"]["scores"] == {"facts": {"right": sum(right.values()), "total": 3}}
    assert result["base"] == base.fingerprint
