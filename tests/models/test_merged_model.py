"""A merged copy: the version's numbers in weights of its own, all others shared with a base that stays as it is."""

import pytest
import tiny
import torch

from lorad.models import adapters, bases, heads, merged_model, packed_linear, peft_io
from lorad.models.shared_copy import shared_copy


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged")
    bases.store_base(tiny.save(folder / "source"), folder / "base")
    return folder / "base"


def load(folder, dtype=torch.float32):
    return bases.load_base(folder, dtype).model


def an_adapter(folder):
    live = peft_io.add_lora(load(folder), 4, 8)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in live.named_parameters():
            if "lora_B" in name and "q_proj" in name:
                weight.normal_(0, 0.3)
    read = peft_io.read_live(live)
    changed = {name: pair for name, pair in read.factors.items() if "q_proj" in name}
    return adapters.Adapter(changed)


@torch.inference_mode()
def logits(model):
    return model(torch.arange(1, 20)[None]).logits


@pytest.fixture
def plain(monkeypatch):
    """Pack no layers, as on a machine where that does not pay."""
    monkeypatch.setattr(packed_linear, "can_pack", lambda _: False)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_copy_computes_what_merging_into_the_base_computes(base_folder, dtype):
    base, adapter = load(base_folder, dtype), an_adapter(base_folder)
    pristine, state = logits(base), {name: tensor.clone() for name, tensor in base.state_dict().items()}
    alone = load(base_folder, dtype)
    adapters.merge(alone, adapter)

    made = merged_model.merged(base, adapter)

    assert torch.equal(logits(made), logits(alone))
    assert not torch.equal(logits(made), pristine)
    assert torch.equal(logits(base), pristine)
    assert all(torch.equal(tensor, state[name]) for name, tensor in base.state_dict().items())


def test_only_what_the_adapter_changes_takes_memory(base_folder):
    base, adapter = load(base_folder), an_adapter(base_folder)

    made = merged_model.merged(base, adapter)

    own = {
        name
        for (name, ours), theirs in zip(made.named_parameters(), base.parameters(), strict=True)
        if ours.data_ptr() != theirs.data_ptr()
    }
    assert own == {f"{name}.weight" for name in adapter.factors}
    assert merged_model.added_bytes(base, adapter) == sum(
        made.get_parameter(name).numel() * 4 for name in own
    )
    assert made.lm_head.weight is made.model.embed_tokens.weight is base.model.embed_tokens.weight


def test_packed_layers_compute_the_same_up_to_rounding(base_folder):
    base, adapter = load(base_folder, torch.bfloat16), an_adapter(base_folder)
    if not packed_linear.can_pack(base):
        pytest.skip("this processor's library packs no bfloat16")
    alone = load(base_folder, torch.bfloat16)
    adapters.merge(alone, adapter)
    pristine = logits(base)

    made = merged_model.merged(base, adapter)

    expected, found = logits(alone).float(), logits(made).float()
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()
    assert (found - pristine.float()).abs().max() > 0.1 * expected.abs().max()
    assert not any(isinstance(layer, torch.nn.Linear) for layer in made.modules())
    assert torch.equal(logits(base), pristine)
    linear = [layer for layer in base.modules() if isinstance(layer, torch.nn.Linear)]
    assert merged_model.added_bytes(base, adapter) == 2 * sum(layer.weight.numel() for layer in linear)


def test_in_float32_nothing_is_packed(base_folder):
    assert not packed_linear.can_pack(load(base_folder))


def test_what_must_not_be_merged_says_why(base_folder):
    base, adapter = load(base_folder), an_adapter(base_folder)
    assert merged_model.objection(base, adapter) is None

    quantised = shared_copy(base)
    name = next(iter(adapter.factors))
    quantised.get_submodule(name).weight = torch.nn.Parameter(
        torch.zeros(64, 64, dtype=torch.uint8), requires_grad=False
    )

    assert "quantised" in merged_model.objection(quantised, adapter)


@pytest.mark.usefixtures("plain")
def test_a_merged_copy_has_the_head_that_its_version_brings(base_folder):
    base = bases.load_base(base_folder, torch.float32, head=heads.TOKEN)
    head = {"score.weight": torch.randn(3, 64), "score.bias": torch.randn(3)}
    adapter = adapters.Adapter(an_adapter(base_folder).factors, head, ("O", "B-A", "I-A"), "some_type")
    pristine, named = logits(base.model), base.model.config.label2id
    alone = bases.load_base(base_folder, torch.float32, head=heads.TOKEN).model
    heads.build(alone, heads.TOKEN, adapter.labels)
    heads.put(alone, head)
    adapters.merge(alone, adapter)

    made = merged_model.merged(base.model, adapter, heads.TOKEN)

    assert torch.equal(logits(made), logits(alone))
    assert (made.config.label2id, made.config.problem_type) == ({"O": 0, "B-A": 1, "I-A": 2}, "some_type")
    assert torch.equal(logits(base.model), pristine)
    assert base.model.config.label2id == named
