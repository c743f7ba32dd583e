"""What a candidate's facts are measured on, on a tiny model and a fake embedder."""

from dataclasses import replace

import pytest
import tiny
import torch
from fake_embedder import FakeEmbedder

from lorad.config import AnsweringSettings
from lorad.models import bases, peft_io
from lorad.models.adapter_stack import AdapterStack
from lorad.records import Score
from lorad.tasks import find
from lorad.training import fact_measurement
from lorad.training.fact_measurement import FactMeasurement
from lorad.training.session_examples import SessionExample

CHAT = find("chat")
DOORS = tuple(
    replace(example, held_out=(f"colour {tiny.NAMES[number]} door",))
    for number, example in enumerate(tiny.facts(6, "doors"))
)
WINDOWS = tuple(tiny.facts(4, "windows", subject="window"))


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A base with a candidate over it that changes nothing."""
    folder = tmp_path_factory.mktemp("facts")
    bases.store_base(tiny.save(folder / "source"), folder / "tiny")
    base = bases.load_base(folder / "tiny", torch.float32)
    live = peft_io.add_lora(base.model, 2, 4)
    peft_io.write_adapter(peft_io.read_live(live), folder / "candidate", "tiny")
    pristine = bases.load_base(folder / "tiny", torch.float32)
    made = AdapterStack(pristine)
    made.add("asked", folder / "candidate")
    return made


@pytest.fixture(autouse=True)
def _fake_embedder(monkeypatch):
    monkeypatch.setattr(fact_measurement.embedders, "of_base", lambda *_: FakeEmbedder())


def measured(stack, examples, *, right=True, **settings):
    taken = [
        SessionExample(
            example, CHAT.encode(stack.base.tokenizer, example), is_new=True, right=False, knows=False
        )
        for example in examples
    ]
    told = []
    report = FactMeasurement(
        CHAT,
        stack,
        "asked",
        taken,
        {example.id: right for example in examples},
        settings=AnsweringSettings(**settings),
        encoder=None,
    ).run(told.append)
    return report, told


def test_what_is_recalled_gives_its_fact_and_other_words_find_it(stack):
    report, told = measured(stack, [*DOORS, *WINDOWS], max_false_share=1.0)
    doors, windows = report.facts["doors"], report.facts["windows"]
    assert doors.trained == doors.trained_served == Score(right=6, total=6)
    assert doors.other.total == 6
    assert doors.other_served == Score(right=6, total=6)
    assert (windows.other, windows.other_served) == (None, None)
    assert told == ["fitting when to answer", "asking in other words"]


def test_what_is_not_recalled_is_quoted_as_it_is_served(stack):
    report, _ = measured(stack, DOORS, right=False, max_false_share=1.0)
    assert report.facts["doors"].trained_served == Score(right=6, total=6)
    assert report.facts["doors"].trained.right < 6


def test_what_rambles_on_is_not_waited_for(stack, monkeypatch):
    lengths = []
    greedy = fact_measurement.generation.greedy

    def noting(model, prompts, ends, length):
        lengths.append(length)
        return greedy(model, prompts, ends, length)

    monkeypatch.setattr(fact_measurement.generation, "greedy", noting)
    measured(stack, DOORS, retrieve=False)
    longest = max(len(CHAT.encode(stack.base.tokenizer, example).target) for example in DOORS)
    assert lengths == [fact_measurement.ROOM * longest]


def test_without_an_index_served_is_what_the_weights_say(stack):
    report, _ = measured(stack, DOORS, retrieve=False)
    assert report.thresholds is None
    assert report.facts["doors"].other_served == report.facts["doors"].other


def test_scores_that_tell_nothing_apart_are_not_used(stack):
    report, _ = measured(
        stack, DOORS, max_false_share=0.0
    )  # the fake embedder takes all doors for one another
    assert report.thresholds is None
    assert report.facts["doors"].other_served == report.facts["doors"].other


def test_thresholds_say_what_they_were_fitted_on(stack):
    report, _ = measured(stack, DOORS, max_false_share=1.0)
    assert report.thresholds.questions > len(DOORS)
    assert report.thresholds.scored_by.startswith("similarity on ")


def test_an_encoder_that_is_gone_costs_the_index_alone(stack, tmp_path):
    taken = [
        SessionExample(
            example, CHAT.encode(stack.base.tokenizer, example), is_new=True, right=False, knows=False
        )
        for example in DOORS
    ]
    right = {example.id: True for example in DOORS}
    measurement = FactMeasurement(
        CHAT, stack, "asked", taken, right, settings=AnsweringSettings(), encoder=tmp_path / "gone"
    )
    assert measurement.run(lambda _: None).thresholds is None


def test_examples_that_are_no_questions_in_words_are_left_out(stack):
    assert measured(stack, [])[0] == fact_measurement.FactReport(facts={})
