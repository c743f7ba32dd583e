"""A layer and its adapter as one function must be what PEFT makes of them."""

import pytest
import tiny
import torch
from peft.tuners.lora import Linear
from training_runs import PLAN

from lorad.models import adapters, lora_linear, peft_io


@pytest.fixture
def layer():
    torch.manual_seed(1)
    model = tiny.model(len(tiny.tokenizer())).requires_grad_(False)
    wrapped = peft_io.add_lora(model, PLAN.rank, PLAN.alpha)
    found = next(each for each in wrapped.modules() if isinstance(each, Linear))
    with torch.no_grad():
        found.lora_B["default"].weight.normal_()
    return found


def through(forward, layer, x):
    """Return output, and the gradients of input, A and B."""
    x = x.clone().requires_grad_()
    weights = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    out = forward(x)
    return out, *torch.autograd.grad((out.float() ** 2).sum(), [x, *weights])


@pytest.mark.parametrize("shape", [(1, 7), (2, 3), (1, 1)])
def test_output_and_gradients_are_pefts(layer, shape):
    x = torch.randn(*shape, layer.in_features)

    ours = through(layer.forward, layer, x)
    theirs = through(lambda given: Linear.forward(layer, given), layer, x)

    for own, other in zip(ours, theirs, strict=True):
        assert own.shape == other.shape
        assert torch.allclose(own, other, rtol=1e-4, atol=1e-4 * float(other.detach().abs().max()))


def test_in_half_precision_the_trained_weights_gradients_are_in_single(layer):
    x = torch.randn(1, 9, layer.in_features)
    exact = through(lambda given: Linear.forward(layer, given), layer, x)
    layer.base_layer.to(torch.bfloat16)

    out, of_x, *of_weights = through(layer.forward, layer, x.bfloat16())

    assert (out.dtype, of_x.dtype) == (torch.bfloat16, torch.bfloat16)
    assert {gradient.dtype for gradient in of_weights} == {torch.float32}
    for own, other in zip((out, of_x, *of_weights), exact, strict=True):
        assert (own.float() - other).norm() < 0.02 * other.norm()


def test_a_bias_is_added_and_a_first_layer_needs_no_gradient_of_its_input(layer):
    layer.base_layer.bias = torch.nn.Parameter(torch.randn(layer.out_features), requires_grad=False)
    x = torch.randn(1, 5, layer.in_features)

    out = layer.forward(x)
    out.sum().backward()

    assert torch.allclose(out, Linear.forward(layer, x), atol=1e-4)
    assert layer.lora_A["default"].weight.grad is not None


def test_layers_with_a_parent_beside_them_stay_pefts(layer):
    fresh = tiny.model(len(tiny.tokenizer())).requires_grad_(False)
    trained = peft_io.add_lora(tiny.model(len(tiny.tokenizer())), 2, 4)
    beside = peft_io.lay(fresh, peft_io.read_live(trained))

    wrapped = peft_io.add_lora(fresh, 2, 4, beside=beside)

    assert not any("forward" in vars(each) for each in wrapped.modules() if isinstance(each, Linear))
    assert "forward" in vars(layer)


def test_another_devices_layers_stay_pefts(monkeypatch):
    monkeypatch.setattr(lora_linear, "DEVICES", frozenset())
    wrapped = peft_io.add_lora(tiny.model(len(tiny.tokenizer())).requires_grad_(False), 2, 4)

    assert not any("forward" in vars(each) for each in wrapped.modules() if isinstance(each, Linear))


def test_what_is_read_from_memory_is_what_was_computed_with(layer):
    del layer
    model = tiny.model(len(tiny.tokenizer())).requires_grad_(False)
    tokens = torch.arange(12)[None]
    wrapped = peft_io.add_lora(model, 4, 8)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    said = wrapped(input_ids=tokens).logits
    adapter = peft_io.read_live(wrapped)
    plain = peft_io.unwrap(model)
    adapters.merge(model, adapter)

    assert torch.allclose(said, model(input_ids=tokens).logits, atol=1e-4)
    assert plain is None or plain is model
