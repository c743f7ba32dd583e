"""What is measured of a candidate beside its rows, on a tiny model."""

import pytest
import tiny
import torch

from lorad.evaluation import general_ability
from lorad.models import bases, peft_io
from lorad.models.adapter_stack import AdapterStack
from lorad.tasks import find
from lorad.training import measurement
from lorad.training.distillation import General


@pytest.fixture
def stack(tmp_path):
    """A base with a candidate over it that changes nothing."""
    bases.store_base(tiny.save(tmp_path / "source"), tmp_path / "tiny")
    live = peft_io.add_lora(bases.load_base(tmp_path / "tiny", torch.float32).model, 2, 4)
    peft_io.write_adapter(peft_io.read_live(live), tmp_path / "candidate", "tiny")
    made = AdapterStack(bases.load_base(tmp_path / "tiny", torch.float32))
    made.add(measurement.CANDIDATE, tmp_path / "candidate")
    return made


def test_the_bases_perplexity_is_taken_from_its_texts_and_measured_where_there_are_none(stack):
    class Perplexed(type(find("chat"))):
        checks = frozenset({"perplexity"})

    measured = general_ability.perplexity(stack.base.model, stack.base.tokenizer)

    told = [
        measurement._general_ability(Perplexed(), stack, [], general)["perplexity_base"]
        for general in (General([], [], 7.5), General([], []))
    ]

    assert told == [7.5, pytest.approx(measured)]
