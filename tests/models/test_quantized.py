"""A base in 8 and 4 bits: rounded once, shared by all versions, never merged into."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import tiny
import torch
from torch import nn

from lorad.config import TrainingSettings
from lorad.errors import ConfigError, RegistryError
from lorad.models import adapters, bases, merged_model, peft_io, quantized
from lorad.models.adapter_stack import AdapterStack
from lorad.models.shared_copy import shared_copy

FORMS = ("8bit", "4bit")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not there")
QUESTION = torch.arange(2, 40)[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("quantized")
    bases.store_base(tiny.save(place / "source"), place / "tiny")
    return place / "tiny"


def load(folder, form, dtype=torch.float32):
    return bases.load_base(folder, dtype, quantization=form)


def linears(model):
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}


def an_adapter(model, seed, rank=4):
    dice = torch.Generator().manual_seed(seed)
    return adapters.Adapter(
        {
            name: tuple(
                torch.randn(shape, generator=dice) * 0.1
                for shape in ((rank, layer.in_features), (layer.out_features, rank))
            )
            for name, layer in linears(model).items()
            if name != "lm_head"
        }
    )


@torch.inference_mode()
def logits(model):
    return model(input_ids=QUESTION).logits.float()


@needs_bitsandbytes
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_linear_layers_are_rounded_and_the_output_layer_is_not(folder, form, dtype):
    plain, rounded = load(folder, "none", dtype), load(folder, form, dtype)

    layers = linears(rounded.model)
    assert not layers.pop("lm_head").weight.requires_grad
    assert all(quantized.is_quantized(layer) for layer in layers.values())
    assert rounded.model.dtype == rounded.model.lm_head.weight.dtype == dtype
    difference = (logits(rounded.model) - logits(plain.model)).abs().mean() / logits(plain.model).std()
    assert 0 < difference < 0.3
    assert rounded.parameters == plain.parameters


@needs_bitsandbytes
@pytest.mark.parametrize("form", FORMS)
def test_what_computes_has_a_name_of_its_own_and_its_files_do_not(folder, form):
    plain, rounded = load(folder, "none"), load(folder, form)

    assert rounded.fingerprint == plain.fingerprint == plain.computes
    assert rounded.computes == f"{plain.fingerprint}-{form}"


@needs_bitsandbytes
@pytest.mark.parametrize("form", FORMS)
def test_it_computes_the_same_whenever_it_is_asked_and_whenever_it_is_loaded(folder, form):
    base = load(folder, form)
    first = logits(base.model)

    base.model.train()
    base.model.eval()

    assert torch.equal(logits(base.model), first)
    assert torch.equal(logits(load(folder, form).model), first)


@needs_bitsandbytes
@pytest.mark.parametrize("form", FORMS)
def test_versions_share_its_weights_and_leave_it_alone(folder, form, tmp_path):
    base = load(folder, form)
    pristine, held = logits(base.model), {each.data_ptr() for each in base.model.parameters()}
    stack = AdapterStack(base)
    for number in (1, 2):
        peft_io.write_adapter(an_adapter(base.model, number), tmp_path / str(number), "tiny")
        stack.add(str(number), tmp_path / str(number))

    said = [logits(stack.model(name)) for name in stack.names]

    assert not torch.equal(*said)
    assert torch.equal(logits(base.model), pristine)
    for name in stack.names:
        own = {each.data_ptr() for path, each in stack.model(name).named_parameters() if "lora_" not in path}
        assert own <= held


@needs_bitsandbytes
@pytest.mark.parametrize("form", FORMS)
def test_a_copy_shares_scales_too(folder, form):
    base = load(folder, form)
    ours = {id(part) for part in quantized.shared_parts(base.model)}

    assert ours
    assert {id(part) for part in quantized.shared_parts(shared_copy(base.model))} == ours


@needs_bitsandbytes
@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_merged_into_it(folder, form):
    base = load(folder, form)
    adapter = an_adapter(base.model, 1)

    assert "quantised" in merged_model.objection(base.model, adapter)
    with pytest.raises(RegistryError, match="nothing is merged into quantised weights") as refused:
        adapters.merge(base.model, adapter)
    assert refused.value.code == "quantized"


@needs_bitsandbytes
@pytest.mark.parametrize("form", ["none", *FORMS])
def test_a_parent_beside_the_layers_and_a_fresh_adapter_are_their_concatenation(folder, form, tmp_path):
    # Given a model on which a parent lies, and a fresh adapter that has learned something
    base = load(folder, form)
    parent = an_adapter(base.model, 1, rank=3)
    trained = peft_io.add_lora(base.model, 4, 8, beside=peft_io.lay(base.model, parent))
    torch.manual_seed(2)
    with torch.no_grad():
        for name, weight in trained.named_parameters():
            if "lora_B.default" in name:
                weight.normal_(0, 0.1)
    said = logits(trained.eval())

    # When both are written as one, and loaded onto the base again
    both = adapters.concatenate(parent, peft_io.read_live(trained))
    peft_io.write_adapter(both, tmp_path / "both", "tiny")
    stack = AdapterStack(load(folder, form))
    stack.add("both", tmp_path / "both")

    # Then it is the same model, but for the order of a sum
    assert both.rank == 7
    apart = (logits(stack.model("both")) - said).abs()
    assert apart.median() < 1e-4
    # in 8 bits what goes into a layer is rounded too, and on some processors now and then to the other side
    assert apart.max() < (1e-2 if form == "8bit" else 1e-4)


@needs_bitsandbytes
@pytest.mark.parametrize("form", FORMS)
def test_the_fresh_adapter_learns_and_the_parent_stays(folder, form):
    base = load(folder, form)
    parent = an_adapter(base.model, 1)
    model = peft_io.add_lora(base.model, 4, 8, beside=peft_io.lay(base.model, parent)).train()

    model(input_ids=QUESTION).logits.float().pow(2).mean().backward()

    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert learning
    assert all(".default." in name for name in learning)
    gradients = [weight.grad for name, weight in model.named_parameters() if "lora_B.default" in name]
    assert all(each is not None and each.abs().sum() > 0 for each in gradients)
    assert adapters.difference(peft_io.read_live(model, peft_io.PARENT), parent) == 0


# where it cannot be


def test_mps_is_refused_with_the_reason(folder):
    with pytest.raises(
        ConfigError, match=r"CPU and CUDA only, not on MPS; or set training\.quantize to none"
    ) as refused:
        bases.load_base(folder, torch.float32, "mps", quantization="4bit")
    assert refused.value.code == "no_quantization"


def test_without_the_library_the_command_is_told(folder, monkeypatch):
    monkeypatch.setattr(quantized, "find_spec", lambda _: None)

    with pytest.raises(ConfigError, match="not installed: pip install bitsandbytes"):
        load(folder, "8bit")
    # and what need not be rounded is not
    assert not load(folder, "none").is_quantized


@needs_bitsandbytes
def test_what_answers_is_held_as_the_settings_say(folder):
    base = bases.load_to_answer(
        folder, "cpu", TrainingSettings(device="cpu", dtype="float32", quantize="4bit")
    )

    assert (base.quantization, base.why_quantized) == ("4bit", "training.quantize is 4bit")
    assert not bases.load_to_answer(
        folder, "cpu", TrainingSettings(device="cpu", dtype="float32")
    ).is_quantized


def test_a_shape_counts_the_layers_of_an_adapter(folder):
    found = bases.shape(folder)

    model = load(folder, "none").model
    layers = [layer for name, layer in linears(model).items() if name != "lm_head"]
    assert found.linear == sum(layer.weight.numel() for layer in layers)
    assert found.widths == sum(layer.in_features + layer.out_features for layer in layers)
    assert found.parameters == sum(weight.numel() for weight in model.parameters())


@needs_bitsandbytes
@pytest.mark.parametrize("first", ["training.session", "apps.daemon.app"])
def test_no_library_fetches_code_from_the_network(tmp_path, first):
    # Given a package `kernels` that would
    (tmp_path / "kernels.py").write_text("raise SystemExit('code was fetched')")
    program = f"import lorad.{first}, bitsandbytes.backends.cpu.ops, sys; print(sys.modules['kernels'])"

    made = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )

    # Then it is not there, and nobody is told to install it
    assert made.stdout.strip() == "None"
    assert "kernels" not in made.stderr
