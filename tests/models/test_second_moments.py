"""What arrives at linear layers, added up over rows and texts."""

import pytest
import tiny
import torch

from lorad.models import adapters, second_moments
from lorad.models.packing import pack
from lorad.records import Encoded

ROWS = [Encoded((1, 2, 3, 4 + number, 9, 5), 4) for number in range(5)]
TEXTS = [Encoded((7, 3, 5, 11), 1), Encoded((4, 4, 8), 1)]


@pytest.fixture(scope="module")
def model():
    return tiny.model(len(tiny.tokenizer()))


@pytest.fixture(scope="module")
def names(model):
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "layers" in name
    ]


def arriving(model, name, tokens):
    """Return what arrives at a layer for each token of one text by itself, [tokens, in]."""
    found = []
    hook = adapters.linear(model, name).register_forward_pre_hook(lambda _, given: found.append(given[0][0]))
    with torch.inference_mode():
        model(torch.tensor([tokens]))
    hook.remove()
    return found[0].double()


def test_moments_of_texts_are_those_of_each_read_by_itself(model, names):
    found = second_moments.of_texts(model, names, TEXTS)

    for name in names:
        alone = torch.cat([arriving(model, name, text.tokens[:-1]) for text in TEXTS])
        assert torch.allclose(found[name], alone.T @ alone / len(alone), atol=1e-4)


def test_what_rows_begin_with_alike_counts_once(model, names):
    told = []
    found = second_moments.of_rows(model, names, ROWS, told.append)

    shared = pack(ROWS).prefix
    assert shared == 3
    for name in names:
        alone = [arriving(model, name, row.tokens[:-1]) for row in ROWS]
        each = torch.cat([alone[0][:shared], *(inputs[shared:] for inputs in alone)])
        assert torch.allclose(found[name], each.T @ each / len(each), atol=1e-4)
    assert told == [5]


def test_layers_that_are_given_the_same_share_their_moments(model, names):
    found = second_moments.of_texts(model, names, TEXTS)

    by_last = {name.rpartition(".")[2]: moments for name, moments in found.items() if ".0." in name}
    assert by_last["q_proj"] is by_last["k_proj"] is by_last["v_proj"]
    assert by_last["gate_proj"] is by_last["up_proj"]
    assert by_last["o_proj"] is not by_last["q_proj"]


def test_nothing_stays_on_the_model(model, names):
    second_moments.of_texts(model, names, TEXTS)

    assert not any(adapters.linear(model, name)._forward_pre_hooks for name in names)


def test_what_does_not_fit_together_is_read_in_parts_and_each_layer_once(model, names, monkeypatch):
    monkeypatch.setattr(second_moments, "TOGETHER_BYTES", 40_000)

    found = list(second_moments.parts(model, list(reversed(names))))

    assert len(found) > 1
    assert [name for part in found for name in part] == names
    monkeypatch.setattr(second_moments, "TOGETHER_BYTES", 1)
    assert list(second_moments.parts(model, names)) == [[name] for name in names]
