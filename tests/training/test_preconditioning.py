"""What an adapter learns keeps away from the inputs of old rows."""

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lorad.models.adapters import usual
from lorad.training.preconditioning import Preconditioner, roots

INPUTS = 6


class Two(nn.Module):
    """Two linear layers, of which one is looked at."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(INPUTS, 4, bias=False)
        self.down = nn.Linear(4, 3, bias=False)

    def forward(self, inputs):
        return self.down(self.up(inputs))


@pytest.fixture
def model():
    return a_model()


def a_model():
    torch.manual_seed(0)
    made = get_peft_model(Two(), LoraConfig(r=2, lora_alpha=2, target_modules=["up", "down"]))
    for name, weight in made.named_parameters():  # B begins at zero, and A has no gradient then
        if "lora_B" in name:
            nn.init.normal_(weight)
    return made


@pytest.fixture
def old():
    """What arrives with old rows: a thousand times more in one input, little in the last ones."""
    torch.manual_seed(1)
    return torch.randn(50, INPUTS) * torch.tensor([1000.0, 3, 3, 1, 1, 0.1])


def a_of(model, layer):
    return model.base_model.model.get_submodule(layer).lora_A["default"].weight


def trained(model):
    return [weight for weight in model.parameters() if weight.requires_grad]


def take_step(model, preconditioner, inputs, rate=0.1):
    optimizer = torch.optim.SGD([preconditioner.replaced(weight) for weight in trained(model)], lr=rate)
    preconditioner.attach(optimizer)
    model(inputs).square().sum().backward()
    gradient = a_of(model, "up").grad.clone()
    optimizer.step()
    optimizer.zero_grad()
    return gradient


def test_a_begins_as_large_as_it_would_and_as_another_one(model, old):
    before = a_of(model, "up").detach().clone()

    Preconditioner(model, roots({"up": tiny.moments(old)}))

    assert float(a_of(model, "up").detach().norm()) == pytest.approx(float(before.norm()), rel=1e-4)
    assert not torch.allclose(a_of(model, "up"), before)


def test_a_step_is_the_gradient_by_the_inverse_of_what_arrived(model, old):
    before, of_down = a_of(model, "up").detach().clone(), a_of(model, "down").detach().clone()
    made = Preconditioner(model, roots({"up": tiny.moments(old)}))
    begun = a_of(model, "up").detach().clone()
    size = float(before.norm())

    gradient = take_step(model, made, torch.randn(3, INPUTS))

    known = tiny.moments(old)
    inverse = torch.linalg.inv(known + usual(known) * torch.eye(INPUTS, dtype=torch.float64))
    root = torch.linalg.inv(
        torch.linalg.cholesky(known + usual(known) * torch.eye(INPUTS, dtype=torch.float64))
    )
    scale = (size / float((before.double() @ root).norm())) ** 2
    assert torch.allclose(
        a_of(model, "up").double(), begun - 0.1 * scale * gradient.double() @ inverse, atol=1e-4
    )
    assert not torch.allclose(a_of(model, "down"), of_down)  # of which nothing is known: as ever
    assert a_of(model, "up").grad is None


def test_a_step_for_a_new_row_changes_what_old_ones_hear_less(old):
    new = torch.tensor([[1000.0, 0, 0, 0, 0, 1.0]])

    def moved(known):
        model = a_model()
        made = Preconditioner(model, roots(known))
        before = a_of(model, "up").detach().clone()
        take_step(model, made, new, rate=1e-6)
        change = a_of(model, "up").detach() - before
        return float((old @ change.T).norm() / (new @ change.T).norm())

    assert moved({"up": tiny.moments(old)}) < 0.6 * moved({})


def test_it_stands_where_it_stood(model, old):
    made = Preconditioner(model, roots({"up": tiny.moments(old)}))
    take_step(model, made, torch.randn(3, INPUTS))
    state = {name: tensor.clone() for name, tensor in made.state().items()}
    stood = a_of(model, "up").detach().clone()
    take_step(model, made, torch.randn(3, INPUTS))

    made.restore(state)

    assert list(state) == ["base_model.model.up.lora_A.default.weight"]
    assert torch.equal(a_of(model, "up"), stood)
    assert torch.equal(
        made.state()["base_model.model.up.lora_A.default.weight"],
        state["base_model.model.up.lora_A.default.weight"],
    )


def test_without_old_rows_nothing_is_replaced(model):
    before = a_of(model, "up").detach().clone()
    made = Preconditioner(model, {})

    assert all(made.replaced(weight) is weight for weight in trained(model))
    assert torch.equal(a_of(model, "up"), before)
    assert made.state() == {}


def test_where_most_inputs_are_dead_the_others_are_learned_all_the_same(model):
    inputs = torch.randn(4, INPUTS) * torch.tensor([1.0, 2.0, 0, 0, 0, 0])

    Preconditioner(model, roots({"up": tiny.moments(inputs)}))

    assert a_of(model, "up")[:, :2].norm() > 0.05 * a_of(model, "up").norm()
