"""Heads that versions bring along: whole, in PEFT's own form, with the labels of their outputs."""

import json
from dataclasses import replace

import pytest
import tiny_encoder
import torch
from peft import PeftModel
from toy_task import Toy
from transformers import AutoModelForSequenceClassification

from lorad.errors import RegistryError
from lorad.models import adapter_stack, adapters, bases, heads, peft_io
from lorad.storage import files

TOY = Toy()
KINDS = ("fruit", "metal", "bird")


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    return tiny_encoder.store(folder / "source", folder / "base")


def load(base_folder, dtype=torch.float32):
    return bases.load_base(base_folder, dtype, head=heads.SEQUENCE)


def learned(base, labels, seed=0):
    """Return an adapter with a head for these labels, as training might leave it."""
    heads.build(base.model, base.head, labels)
    torch.manual_seed(seed)
    wrapped = peft_io.add_lora(base.model, 4, 8, base.head)
    with torch.no_grad():
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.normal_(std=0.3)
    made = peft_io.read_live(wrapped.eval())
    peft_io.unwrap(base.model)
    return made


@pytest.fixture
def versions(tmp_path, base_folder):
    """Two versions: the second knows a label more."""
    made = {}
    for number, labels in enumerate((KINDS[:2], KINDS), start=1):
        adapter = learned(load(base_folder), labels, number)
        made[f"v0.{number}"] = tmp_path / f"v0.{number}"
        peft_io.write_adapter(adapter, made[f"v0.{number}"], "base", heads.SEQUENCE)
    return made


def rows(base):
    return [TOY.encode(base.tokenizer, example) for example in tiny_encoder.texts(KINDS)]


@torch.inference_mode()
def said(base, model):
    return TOY.forward(model, rows(base)).logits


def test_what_is_written_is_read_back_with_its_head_and_labels(versions, base_folder):
    adapter = peft_io.read_adapter(versions["v0.2"])

    assert adapter.labels == KINDS
    assert set(adapter.head) == {"classifier.weight", "classifier.bias"}
    assert adapters.difference(adapter, learned(load(base_folder), KINDS, 2)) == 0


def test_plain_peft_computes_what_lorad_computes(versions, base_folder):
    base = load(base_folder)
    stack = adapter_stack.AdapterStack(base)
    stack.add("it", versions["v0.2"])
    with stack.use("it") as model:
        ours = said(base, model)

    plain = AutoModelForSequenceClassification.from_pretrained(base_folder, num_labels=3, dtype=torch.float32)
    plain = PeftModel.from_pretrained(plain, str(versions["v0.2"])).eval()
    plain.config.label2id = {label: number for number, label in enumerate(KINDS)}

    assert torch.equal(said(base, plain), ours)


def test_versions_with_other_labels_lie_beside_one_another(versions, base_folder):
    # Given each alone
    alone = {}
    for name, folder in versions.items():
        base = load(base_folder)
        stack = adapter_stack.AdapterStack(base)
        stack.add(name, folder)
        with stack.use(name) as model:
            alone[name] = said(base, model)

    # Then together they say the same, whichever was used before, and each names its own labels
    base = load(base_folder)
    stack = adapter_stack.AdapterStack(base)
    for name in ("v0.2", "v0.1"):
        stack.add(name, versions[name])
        for other in stack.names:
            with stack.use(other) as model:
                assert torch.equal(said(base, model), alone[other])
                assert tuple(model.config.label2id) == KINDS[: alone[other].shape[1]]
    stack.unload("v0.2")
    with stack.use("v0.1") as model:
        assert torch.equal(said(base, model), alone["v0.1"])
    assert stack.read("v0.1").labels == KINDS[:2]


def test_after_the_last_version_is_dropped_the_base_stands_alone(versions, base_folder):
    base = load(base_folder)
    stack = adapter_stack.AdapterStack(base)
    stack.add("v0.1", versions["v0.1"])

    stack.unload("v0.1")
    stack.add("v0.2", versions["v0.2"])

    assert stack.names == ["v0.2"]
    with stack.use("v0.2") as model:
        assert said(base, model).shape == (18, 3)


def test_a_version_that_cannot_be_loaded_leaves_the_base_as_it_was(versions, base_folder):
    base = load(base_folder)
    path = versions["v0.1"] / peft_io.ADAPTER_FILES[1]
    path.write_bytes(path.read_bytes()[:-8])

    with pytest.raises(RegistryError):
        adapter_stack.AdapterStack(base).add("v0.1", versions["v0.1"])

    assert isinstance(base.model.classifier, torch.nn.Linear)


def test_a_grown_head_keeps_its_outputs_in_their_places(base_folder):
    base = load(base_folder)
    two = learned(base, KINDS[:2])

    heads.build(base.model, base.head, KINDS)
    heads.put(base.model, two.head)

    grown = base.model.classifier
    assert torch.equal(grown.weight[:2], two.head["classifier.weight"])
    assert grown.weight.shape == (3, 32)
    assert 0 < grown.weight[2].abs().max() < 0.2


def test_a_new_head_is_the_same_each_time(base_folder):
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        base = load(base_folder)
        heads.build(base.model, base.head, KINDS)
        made.append(base.model.classifier.weight)

    assert torch.equal(*made)


def test_a_head_is_exact_on_a_base_in_bfloat16(versions, base_folder):
    base = load(base_folder, torch.bfloat16)
    stack = adapter_stack.AdapterStack(base)
    stack.add("it", versions["v0.2"])

    with stack.use("it") as model:
        logits = said(base, model)

    assert logits.dtype == torch.float32
    assert adapters.difference(stack.read("it"), peft_io.read_adapter(versions["v0.2"])) == 0


def test_of_two_heads_the_newer_one_counts_and_truncating_keeps_it(base_folder):
    base = load(base_folder)
    old, new = learned(base, KINDS[:2], 1), learned(base, KINDS, 2)

    both = adapters.concatenate(old, new)
    smaller, _ = adapters.consolidate(both, 2)

    assert both.rank == 8
    assert (smaller.rank, smaller.labels) == (2, KINDS)
    assert torch.equal(smaller.head["classifier.weight"], new.head["classifier.weight"])


def test_another_head_is_another_adapter(base_folder):
    one = learned(load(base_folder), KINDS)
    spoiled = one.head | {"classifier.bias": one.head["classifier.bias"] + 0.5}

    assert adapters.difference(one, replace(one, head=spoiled)) == pytest.approx(0.5)
    assert adapters.difference(one, replace(one, head={})) == float("inf")
    assert not replace(one, head=one.head | {"classifier.bias": torch.tensor([float("nan")])}).is_finite()


@pytest.mark.parametrize("named", [None, ["score"]])
def test_a_head_that_the_config_does_not_name_is_refused(versions, base_folder, named):
    path = versions["v0.1"] / "adapter_config.json"
    path.write_text(json.dumps(files.read_json(path) | {"modules_to_save": named}))

    with pytest.raises(RegistryError, match="its weights others") as caught:
        peft_io.check_adapter(versions["v0.1"], load(base_folder).model)

    assert caught.value.code == "adapter_config"


def test_a_head_of_another_width_is_refused(versions, base_folder):
    adapter = peft_io.read_adapter(versions["v0.1"])
    wide = adapter.head | {"classifier.weight": torch.zeros(2, 33)}
    peft_io.write_adapter(replace(adapter, head=wide), versions["v0.1"], "base", heads.SEQUENCE)

    with pytest.raises(RegistryError, match=r"the head classifier of v0\.1 does not fit") as caught:
        peft_io.check_adapter(versions["v0.1"], load(base_folder).model)

    assert caught.value.code == "wrong_base"
    peft_io.write_adapter(adapter, versions["v0.1"], "base", heads.SEQUENCE)
    peft_io.check_adapter(versions["v0.1"], load(base_folder).model)


def test_a_head_is_divided_by_a_temperature_where_it_is_trained(base_folder):
    base = load(base_folder)
    heads.build(base.model, base.head, KINDS[:2])
    wrapped = peft_io.add_lora(base.model, 4, 8, base.head).eval()
    with torch.inference_mode():
        before = TOY.forward(wrapped, rows(base)).logits

    heads.soften(wrapped, base.head, 4.0)

    with torch.inference_mode():
        assert torch.allclose(TOY.forward(wrapped, rows(base)).logits, before / 4, atol=1e-6)


def test_what_the_outputs_of_a_head_say_together_is_kept(base_folder, tmp_path):
    base = load(base_folder)
    made = replace(learned(base, KINDS[:2]), problem_type="multi_label_classification")
    peft_io.write_adapter(made, tmp_path, "base", heads.SEQUENCE)

    stack = adapter_stack.AdapterStack(load(base_folder))
    stack.add("it", tmp_path)

    assert peft_io.read_adapter(tmp_path).problem_type == "multi_label_classification"
    assert stack.model("it").config.problem_type == "multi_label_classification"
    assert stack.read("it").problem_type == "multi_label_classification"
    assert stack.base.model.config.problem_type is None
