"""What is kept of the layers that do not learn changes nothing but the time."""

import four_layers
import pytest
import torch
from four_layers import FIRST
from torch import nn

from lorad.models import lower_layers, peft_io, scoring


@pytest.fixture
def rows():
    return four_layers.rows()


@pytest.fixture
def model():
    base = four_layers.model()
    wrapped = peft_io.add_lora(base, 4, 8, first_layer=FIRST)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return wrapped


def keep(model, rows, **bounds):
    bounds = {"most_tokens": 64, **bounds}
    lower_layers.keep(model, FIRST, rows, scoring.answer_logits, **bounds)
    return lower_layers.of(model)


def gradients(model, rows, guests=()):
    model.zero_grad()
    outputs = scoring.causal_outputs(model, rows, guests)
    loss = scoring.loss_sum(outputs.logits, outputs.targets)
    if outputs.guests is not None:
        loss = loss + outputs.guests.float().square().mean()
    loss.backward()
    trained = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}
    return outputs.logits.detach(), trained


def test_layers_below_the_first_have_no_adapter(model):
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]

    assert {int(name.split(".layers.")[1].split(".")[0]) for name in trained} == {2, 3}
    assert len(trained) == 2 * 7 * 2


@pytest.mark.parametrize(
    ("kept", "asked", "guests"),
    [
        (range(9), range(6), ()),  # all rows are kept
        (range(9), range(5), (5, 6)),  # guests too
        (range(0, 9, 2), range(6), (7,)),  # some of both are not
        (range(6, 9), range(5), (6,)),  # of the rows none is
        ((0,), (1, 0), (2,)),
    ],
)
def test_outputs_and_gradients_are_those_of_the_whole_model(model, rows, kept, asked, guests):
    asked, guests = [rows[number] for number in asked], [rows[number] for number in guests]
    whole, of_whole = gradients(model, asked, guests)

    found = keep(model, [rows[number] for number in kept])
    read = []
    compute = found._states
    found._states = lambda packed: read.append(packed.rows) or compute(packed)
    fast, of_fast = gradients(model, asked, guests)

    assert sum(read) == sum(row not in [rows[number] for number in kept] for row in (*asked, *guests))
    assert torch.allclose(fast, whole, atol=1e-5)
    assert of_fast.keys() == of_whole.keys()
    for name, gradient in of_whole.items():
        assert gradient.abs().max() > 0
        assert torch.allclose(of_fast[name], gradient, atol=1e-4), name


def test_a_pass_without_kept_rows_is_computed_as_before(model, rows):
    whole, _ = gradients(model, rows[4:])
    keep(model, rows[:3])

    assert torch.equal(gradients(model, rows[4:])[0], whole)


def test_what_learns_meanwhile_is_used(model, rows):
    keep(model, rows)
    before, _ = gradients(model, rows)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.add_(0.1)
    after, _ = gradients(model, rows)
    setattr(model, lower_layers._ATTRIBUTE, None)
    whole, _ = gradients(model, rows)

    assert not torch.allclose(before, after, atol=1e-2)
    assert torch.allclose(after, whole, atol=1e-4)


def test_two_that_keep_the_same_say_the_same_to_the_bit(model, rows):
    keep(model, rows)
    first, _ = gradients(model, rows[2:7])
    keep(model, rows)

    assert torch.equal(gradients(model, rows[2:7])[0], first)


def test_no_more_is_kept_than_may_be(model, rows):
    room = 32 * 4 * (len(rows[0]) - 1)
    found = keep(model, rows[:1] * 3 + rows, most_bytes=room, most_tokens=8)

    assert len(found._kept) == 1


def test_the_models_own_layers_compute_again_afterwards(model, rows):
    keep(model, rows)
    plain = scoring.answer_logits(model, scoring.pack(rows))
    gradients(model, rows)

    assert torch.equal(scoring.answer_logits(model, scoring.pack(rows)), plain)
    assert not any("forward" in vars(each) for each in model.base_model.model.model.layers)


def test_a_failure_within_leaves_the_layers_as_they_were(model, rows):
    found = keep(model, rows)
    with pytest.raises(KeyError), found.laid(torch.zeros(3, 32)):
        raise KeyError

    assert not any("forward" in vars(each) for each in model.base_model.model.model.layers)


def test_a_model_whose_layers_hand_on_more_is_left_alone(model, rows):
    """As some do that give each layer something else of the tokens, or look back at lower layers' keys."""
    layers = model.base_model.model.model.layers
    said = []
    layers[0].register_forward_hook(lambda _m, _g, out: said.append(out.mean()))
    layers[3].register_forward_hook(lambda _m, _g, out: out + 0 if not said else out + said.pop())

    assert keep(model, rows) is None


def test_nothing_is_kept_where_all_layers_learn(model, rows):
    lower_layers.keep(model, 0, rows, scoring.answer_logits, most_tokens=64)

    assert lower_layers.of(model) is None


def test_how_many_rows_are_read_is_told_and_what_memory_does_not_hold_is_left_out(model, rows, monkeypatch):
    told = []
    keep(model, rows, tell=told.append)
    assert told[-1] == len(rows)
    assert sorted(told) == told

    compute = lower_layers.LowerLayers._states

    def short(self, packed):
        if packed.rows > 1 and len(self._kept) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return compute(self, packed)

    monkeypatch.setattr(lower_layers.LowerLayers, "_states", short)
    assert 2 < len(keep(model, rows, most_tokens=90)._kept) < len(rows)


def test_what_is_known_from_elsewhere_is_laid_into_tests_alone(model, rows):
    found = keep(model, rows[:3])
    strange = {lower_layers.key(row): torch.randn(len(row) - 1, 32) for row in rows[3:]}
    trained, _ = gradients(model, rows)
    found.know(strange, [])

    assert torch.equal(gradients(model, rows)[0], trained)
    with torch.no_grad():
        assert not torch.allclose(scoring.causal_outputs(model, rows).logits, trained, atol=1e-2)


def test_what_these_layers_would_not_say_is_not_laid(model, rows):
    found = keep(model, rows[:3])
    found.know({lower_layers.key(row): torch.randn(len(row) - 1, 32) for row in rows}, rows)
    whole = scoring.answer_logits(model, scoring.pack(rows))

    with torch.no_grad():
        assert torch.allclose(scoring.causal_outputs(model, rows).logits, whole, atol=1e-5)
