"""What lower layers said of rows lies on the disk for the next session, and of no other base, layer or row."""

import four_layers
import pytest
import torch
from four_layers import FIRST

from lorad.models import lower_layers, lower_states, packing, scoring


@pytest.fixture
def rows():
    return four_layers.rows()


@pytest.fixture
def model():
    return four_layers.model()


def reading(model, rows, known=None):
    """Keep rows; return what is kept, and how many rows were read for it."""
    read = []
    compute = lower_layers.LowerLayers._states
    lower_layers.keep(
        model,
        FIRST,
        rows,
        lambda asked, packed: read.append(packed.rows) or scoring.answer_logits(asked, packed),
        most_tokens=64,
        known=known,
    )
    assert lower_layers.LowerLayers._states is compute
    looked = 3 + bool(known)  # to see whether the model lets it, and whether it said what is known
    return lower_layers.of(model), sum(read[looked:])


def test_what_was_stored_is_not_computed_again(model, rows, tmp_path):
    path = tmp_path / "states"
    layers, read = reading(model, rows)
    lower_states.write(path, "base", FIRST, rows[:6], layers)
    whole = scoring.answer_logits(model, scoring.pack(rows[2:8]))

    known = lower_states.read(path, "base", FIRST)
    again, read_again = reading(model, rows, known)

    assert (read, read_again, len(known)) == (9, 3, 6)
    with torch.no_grad():
        for row in rows:
            assert torch.allclose(again.said(row), layers.said(row), atol=1e-6)
        assert torch.allclose(scoring.causal_outputs(model, rows[2:8]).logits, whole, atol=1e-5)


def test_a_single_row_comes_back_whole(model, rows, tmp_path):
    layers, _ = reading(model, rows[:1])
    lower_states.write(tmp_path / "states", "base", FIRST, rows[:1], layers)

    known = lower_states.read(tmp_path / "states", "base", FIRST)
    assert torch.equal(known[lower_layers.key(rows[0])], layers.said(rows[0]))


@pytest.mark.parametrize(("base", "first"), [("another", FIRST), ("base", FIRST + 1)])
def test_what_was_stored_for_something_else_is_nothing(model, rows, tmp_path, base, first):
    layers, _ = reading(model, rows)
    lower_states.write(tmp_path / "states", "base", FIRST, rows, layers)

    assert lower_states.read(tmp_path / "states", base, first) is None


@pytest.mark.parametrize(
    "damage", [lambda held: held[:-40], lambda held: held[:-9] + bytes(9), lambda _: b""]
)
def test_a_damaged_or_missing_file_is_nothing(model, rows, tmp_path, damage):
    path = tmp_path / "states"
    assert lower_states.read(path, "base", FIRST) is None
    layers, _ = reading(model, rows)
    lower_states.write(path, "base", FIRST, rows, layers)
    path.write_bytes(damage(path.read_bytes()))

    assert lower_states.read(path, "base", FIRST) is None


def test_a_file_holds_each_row_once_and_the_first_ones_that_fit(rows):
    shared = packing.common_prefix([row.tokens[:-1] for row in rows])
    each = max(len(row) - 1 - shared for row in rows) * 32 * 4

    assert lower_states.fitting([rows[0], *rows], 32, torch.float32) == rows
    assert lower_states.fitting(rows, 32, torch.float32, 2 * each + 1) == rows[:2]
    assert lower_states.fitting([], 32, torch.float32) == []


def test_what_another_program_computed_is_not_used(model, rows, tmp_path):
    """As after an upgrade that changes what these layers compute."""
    layers, _ = reading(model, rows)
    lower_states.write(tmp_path / "states", "base", FIRST, rows, layers)
    known = lower_states.read(tmp_path / "states", "base", FIRST)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.1)
    whole = scoring.answer_logits(model, scoring.pack(rows))
    reading(model, rows, known)

    with torch.no_grad():
        assert torch.allclose(scoring.causal_outputs(model, rows).logits, whole, atol=1e-5)


def test_no_tokens_stand_in_the_file_and_nobody_else_may_read_it(model, rows, tmp_path):
    layers, _ = reading(model, rows)
    lower_states.write(tmp_path / "states", "base", FIRST, rows, layers)
    held = (tmp_path / "states").read_bytes()
    told = torch.tensor(rows[0].tokens[:-1], dtype=torch.int32)

    assert told.numpy().tobytes() not in held
    assert (tmp_path / "states").stat().st_mode & 0o077 == 0
