"""What a candidate's facts are measured on, on a tiny model and a fake embedder."""

from collections import Counter
from dataclasses import replace

import pytest
import tiny
import torch
from fake_embedder import FakeEmbedder

from lorad.config import AnsweringSettings
from lorad.models import bases, peft_io
from lorad.models.adapter_stack import AdapterStack
from lorad.records import AnswerThresholds, FactRecall, Score
from lorad.tasks import find
from lorad.training import fact_measurement, threshold_fitting
from lorad.training.fact_measurement import FactMeasurement, FactReport
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


def measured(stack, examples, *, right=True, remembered=None, **settings):
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
        remembered=remembered,
    ).run(told.append)
    return report, told


def test_what_an_earlier_session_has_embedded_is_not_embedded_again(stack, tmp_path, monkeypatch):
    asked = []

    class Counting(FakeEmbedder):
        def embed(self, texts):
            asked.extend(texts)
            return super().embed(texts)

    monkeypatch.setattr(fact_measurement.embedders, "of_base", lambda *_: Counting())
    path = tmp_path / "compared"
    plain, _ = measured(stack, DOORS, max_false_share=1.0)
    asked.clear()

    first, _ = measured(stack, DOORS, max_false_share=1.0, remembered=path)
    often = Counter(asked).values()
    asked.clear()
    second, _ = measured(stack, (*DOORS, *WINDOWS), max_false_share=1.0, remembered=path)

    assert first == plain
    assert set(often) == {1}
    assert asked
    assert not any("door" in text for text in asked)
    assert second.facts["doors"].other_served.right == first.facts["doors"].other_served.right


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


@pytest.fixture
def generated(monkeypatch):
    """Prompts and longest answer of each batch that is generated, as they come."""
    batches = []
    greedy = fact_measurement.generation.greedy

    def noting(model, prompts, ends, length):
        batches.append((prompts, length))
        return greedy(model, prompts, ends, length)

    monkeypatch.setattr(fact_measurement.generation, "greedy", noting)
    return batches


def test_what_rambles_on_is_not_waited_for(stack, generated):
    measured(stack, DOORS, retrieve=False)
    longest = max(len(CHAT.encode(stack.base.tokenizer, example).target) for example in DOORS)
    assert [length for _, length in generated] == [fact_measurement.ROOM * longest]


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


# old datasets in turn

OLD = [f"old{number}" for number in range(6)]


def in_turn(stack, parent, *, near=(), wordings="", **settings):
    """Measure a new dataset beside six old ones of two examples each; return the report."""
    examples = [(example, True) for example in DOORS] + [
        (example, False)
        for number, name in enumerate(OLD)
        for example in tiny.facts(2, name, subject=f"gate{number}")
    ]
    examples = [
        (example if example.held_out or not wordings else replace(example, held_out=(wordings,)), is_new)
        for example, is_new in examples
    ]
    taken = [
        SessionExample(
            example,
            CHAT.encode(stack.base.tokenizer, example),
            is_new=is_new,
            right=True,
            knows=True,
            is_near=example.dataset in near,
        )
        for example, is_new in examples
    ]
    return FactMeasurement(
        CHAT,
        stack,
        "asked",
        taken,
        {example.id: True for example, _ in examples},
        settings=AnsweringSettings(**settings),
        encoder=None,
        parent=parent,
    ).run(lambda _: None)


def papers(ages, *, other=None, **thresholds):
    """Return what a parent's papers say: two of nine questions right, asked so many sessions ago."""
    told = Score(right=2, total=9)
    facts = {
        name: FactRecall(trained=told, trained_served=told, other=other, sessions_ago=ago)
        for name, ago in zip(OLD, ages, strict=False)
    }
    return FactReport(facts=facts, thresholds=AnswerThresholds(**thresholds) if thresholds else None)


def asked_now(report):
    return {name for name, found in report.facts.items() if not found.sessions_ago}


def test_old_datasets_are_asked_in_turn_and_the_others_keep_what_was_found(stack):
    report = in_turn(stack, papers([3, 0, 5, 1, 4, 2]), retrieve=False)
    assert asked_now(report) == {"doors", "old0", "old2", "old4", "old5"}
    assert list(report.facts) == ["doors", *OLD]
    assert report.facts["old1"].sessions_ago == 1
    assert report.facts["old3"] == replace(papers([0] * 6).facts["old3"], sessions_ago=2)
    assert report.facts["old4"].trained == Score(right=2, total=2)


def test_what_was_never_asked_goes_before_what_waits(stack):
    assert "old5" in asked_now(in_turn(stack, papers([9, 9, 9, 9, 9]), retrieve=False))


def test_two_of_them_are_those_most_like_what_is_new(stack):
    report = in_turn(stack, papers([0, 0, 9, 9, 9, 9]), near=("old0", "old1"), retrieve=False)
    assert asked_now(report) == {"doors", "old0", "old1", "old2", "old3"}


def test_without_papers_of_a_parent_all_are_asked(stack):
    assert asked_now(in_turn(stack, None, retrieve=False)) == {"doors", *OLD}


@pytest.mark.parametrize(("share", "kept"), [(1.0, {"old1": 7.0}), (0.9, {})])
def test_lines_of_those_whose_turn_it_is_not_are_kept_where_they_hold(stack, share, kept, monkeypatch):
    monkeypatch.setattr(threshold_fitting, "OTHERS", 1)
    fitted = in_turn(stack, papers([0] * 6), max_false_share=1.0).thresholds
    before = {
        "answer": 0.0,
        "false_share": 0.0,
        "refused_share": 0.0,
        "questions": 9,
        "max_false_share": share,
    }
    parent = papers(
        [1, 0, 1, 1, 1, 0],
        scored_by=fitted.scored_by,
        lines={"old1": 7.0, "old2": 8.0, "gone": 9.0},
        **before,
    )

    found = in_turn(stack, parent, max_false_share=1.0).thresholds

    assert {name: line for name, line in found.lines.items() if name != "doors"} == kept
    everything = in_turn(stack, None, max_false_share=1.0).thresholds.questions
    if kept:
        assert found.questions < everything
    else:  # they mean something else, so all are fitted anew
        assert found.questions == everything


def test_examples_that_are_no_questions_in_words_are_left_out(stack):
    assert measured(stack, [])[0] == FactReport(facts={})


def test_other_words_of_old_datasets_are_not_asked_of_the_weights_again_where_the_index_answers(
    stack, generated
):
    def asked():
        return sum(len(prompts) for prompts, _ in generated)

    before = papers([0] * 6, other=Score(right=1, total=2))
    report = in_turn(stack, before, wordings="which gate", max_false_share=1.0)
    assert asked() == len(DOORS)
    assert report.facts["old0"].other == Score(right=1, total=2)
    assert report.facts["old0"].other_served.total == 2
    assert report.facts["old0"].other_sessions_ago == 1
    report = in_turn(stack, before, wordings="which gate", retrieve=False)  # what the weights say is served
    assert asked() == len(DOORS) * 2 + 2 * fact_measurement.IN_TURN
    assert report.facts["old0"].other == report.facts["old0"].other_served
    assert report.facts["old0"].other_sessions_ago == 0
