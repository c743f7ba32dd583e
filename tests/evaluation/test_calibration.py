"""Calibration arithmetic, against numbers worked out by hand and laws that hold for all answers."""

import json
from dataclasses import replace
from math import exp, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad import records
from lorad.evaluation.calibration import (
    COLDEST,
    HOTTEST,
    Asked,
    Reference,
    compare,
    divide,
    draw,
    fit_temperature,
    measure,
    reliability,
    report,
    temper,
)
from lorad.records import Example

CONFIDENCE = st.floats(0, 1)
ANSWERS = st.lists(st.tuples(CONFIDENCE, st.booleans()), min_size=1, max_size=40)


def answers(confidence, right, wrong):
    return [(confidence, True)] * right + [(confidence, False)] * wrong


def test_bins_by_hand():
    # Given answers in three bins, some on their edges: 0.1 is in the first, 1 in the last
    pairs = [(0.0, False), (0.05, False), (0.1, True), (0.25, True), (0.95, True), (1.0, False)]

    bins = reliability(pairs)

    assert [part.count for part in bins] == [3, 0, 1, 0, 0, 0, 0, 0, 0, 2]
    assert (bins[0].low, bins[0].high) == (0.0, 0.1)
    assert bins[0].confidence == pytest.approx(0.05)
    assert bins[0].accuracy == pytest.approx(1 / 3)
    assert bins[1].confidence is bins[1].accuracy is None
    assert bins[9].confidence == pytest.approx(0.975)
    assert bins[9].accuracy == pytest.approx(0.5)


def test_every_edge_belongs_to_the_bin_below():
    bins = reliability([(number / 10, True) for number in range(1, 11)])

    assert [part.count for part in bins] == [1] * 10


def test_figures_by_hand():
    # Given two bins of two answers each, half of them right
    pairs = [(0.95, True), (0.95, False), (0.25, True), (0.25, False)]

    found = measure(pairs)

    assert found.count == 4
    assert found.accuracy == pytest.approx(0.5)
    assert found.confidence == pytest.approx(0.6)
    assert found.ece == pytest.approx(0.5 * (0.95 - 0.5) + 0.5 * (0.5 - 0.25))
    assert found.brier == pytest.approx((0.05**2 + 0.95**2 + 0.75**2 + 0.25**2) / 4)


def test_certain_and_right_is_perfect_and_certain_and_wrong_the_worst():
    best, worst = measure(answers(1.0, 5, 0)), measure(answers(1.0, 0, 5))

    assert (best.ece, best.brier) == (0.0, 0.0)
    assert (worst.ece, worst.brier) == (1.0, 1.0)


@given(st.sets(st.integers(1, 99), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_who_is_as_right_as_sure_has_no_calibration_error(percents):
    # Given of every hundred answers with confidence p exactly p that are right
    pairs = [pair for p in percents for pair in answers(p / 100, p, 100 - p)]

    found = measure(pairs)

    assert found.ece == pytest.approx(0, abs=1e-9)
    assert found.brier == pytest.approx(sum(p * (100 - p) / 1e4 for p in percents) / len(percents))


@given(ANSWERS)
@settings(max_examples=60, deadline=None)
def test_laws_of_all_answers(pairs):
    found = measure(pairs)

    assert (
        abs(found.accuracy - found.confidence) - 1e-9 <= found.ece <= 1
    )  # gaps cancel between bins, not in them
    assert found.ece**2 <= found.brier + 1e-9  # Jensen
    assert sum(part.count for part in reliability(pairs)) == found.count


@pytest.mark.parametrize(
    ("confidence", "right", "wrong", "expected"),
    [
        (0.95, 700, 300, log(19) / log(7 / 3)),  # overconfident: 3.475
        (0.6, 900, 100, log(1.5) / log(9)),  # underconfident: 0.185
        (0.8, 800, 200, 1.0),
    ],
)
def test_temperature_by_hand(confidence, right, wrong, expected):
    # Given one confidence, the fit must bring it to the share that is right
    temperature = fit_temperature(answers(confidence, right, wrong))

    assert temperature == pytest.approx(expected, rel=0.01)
    assert temper(confidence, temperature) == pytest.approx(right / (right + wrong), abs=1e-3)


def test_fifty_right_answers_do_not_make_certain():
    # Given a version that recalls all of its memory, by the law of succession 51 of 52
    temperature = fit_temperature(answers(0.99, 50, 0))

    assert temperature == pytest.approx(log(99) / log(51), rel=1e-6)


@pytest.mark.parametrize(
    ("pairs", "temperature"),
    [
        ([], 1.0),
        (answers(0.5, 3, 1), 1.0),
        (answers(0.99, 0, 1000), HOTTEST),
        (answers(0.500001, 1000, 0), COLDEST),
    ],
)
def test_where_no_temperature_helps_it_stays_within_bounds(pairs, temperature):
    assert fit_temperature(pairs) == pytest.approx(temperature, rel=1e-6)


@given(ANSWERS, st.floats(COLDEST, HOTTEST))
@settings(max_examples=60, deadline=None)
def test_no_temperature_is_likelier_than_the_fitted_one(pairs, other):
    right = sum(is_right for _, is_right in pairs)
    targets = {True: (right + 1) / (right + 2), False: 1 / (len(pairs) - right + 2)}

    def surprise(temperature):
        scaled = [(temper(p, temperature), targets[is_right]) for p, is_right in pairs]
        return -sum(t * log(max(p, 1e-300)) + (1 - t) * log(max(1 - p, 1e-300)) for p, t in scaled)

    assert surprise(fit_temperature(pairs)) <= surprise(other) + 1e-6


@given(CONFIDENCE, CONFIDENCE, st.floats(COLDEST, HOTTEST))
@settings(max_examples=60, deadline=None)
def test_a_temperature_keeps_the_order_and_the_middle(one, other, temperature):
    low, high = sorted((one, other))

    assert 0 <= temper(low, temperature) <= temper(high, temperature) <= 1
    assert temper(0.5, temperature) == 0.5
    assert temper(low, 1.0) == pytest.approx(low, abs=2e-6)


def test_a_temperature_of_two_by_hand():
    assert temper(0.8, 2.0) == pytest.approx(2 / 3)  # odds of 4 become odds of 2
    assert temper(1.0, 2.0) == pytest.approx(1 / (1 + exp(-log(1e6) / 2)), rel=1e-3)


# -- whom to ask


def examples(count):
    return [Example(task="chat", input=f"q{i}", target="a") for i in range(count)]


def test_the_same_examples_are_drawn_however_they_lie():
    some = examples(40)

    assert draw(some[::-1], 10) == draw(some, 10)
    assert len(draw(some, 10)) == 10
    assert draw(some, 10) == draw(some, 40)[:10]
    assert sorted(map(str, draw(some, 99))) == sorted(map(str, some))


def test_what_fits_the_temperature_is_not_measured():
    fitting, measured = divide(draw(examples(9), 9))

    assert (len(fitting), len(measured)) == (5, 4)
    assert not {e.id for e in fitting} & {e.id for e in measured}


# -- the reference


def reference(rows, **changes):
    made = Reference(
        version="v0.1",
        measured_at=1.0,
        environment={"device": "cpu", "torch": "2.13.0"},
        temperature=2.0,
        fitted_on=7,
        rows=tuple(rows),
    )
    return replace(made, **changes)


def asked(count, right, confidence=0.9, source="memory"):
    return [
        Asked(id=f"{source} {i}", source=source, confidence=confidence, right=i < right) for i in range(count)
    ]


def test_a_reference_is_read_back_from_its_report():
    made = reference([*asked(4, 3), *asked(4, 0, 0.2, "held out: x")])

    told = json.loads(json.dumps(records.as_json(report(made))))

    assert records.restore(Reference, told) == made
    assert told["figures"]["accuracy"] == pytest.approx(3 / 8)
    assert told["scaled"]["confidence"] == pytest.approx((3 / 4 + 1 / 3) / 2)  # odds of 9 and 1/4, at T = 2
    assert told["sources"]["held out: x"]["accuracy"] == 0.0
    assert [part["count"] for part in told["bins"]] == [0, 4, 0, 0, 0, 0, 0, 0, 4, 0]
    assert sum(part["count"] for part in told["scaled_bins"]) == 8


def test_what_stays_within_its_bounds_has_not_drifted():
    found = compare(reference(asked(100, 90)), reference(asked(100, 88)))

    assert found.drifted == ()
    assert (found.compared, found.missing, found.broken, found.mended) == (100, 0, 2, 0)


@pytest.mark.parametrize(
    ("now", "drifted"),
    [
        (asked(100, 80), ("accuracy", "ece", "brier")),
        (asked(100, 100), ("accuracy", "ece", "brier")),  # better is another version, too
        (asked(100, 90, 0.93), ("confidence",)),
        (asked(100, 90, 0.5), ("confidence", "ece", "brier")),
    ],
)
def test_what_has_drifted_is_named(now, drifted):
    assert compare(reference(asked(100, 90)), reference(now)).drifted == drifted


def test_one_answer_of_a_few_may_tip_over():
    assert compare(reference(asked(5, 5)), reference(asked(5, 4))).drifted == ()
    assert "accuracy" in compare(reference(asked(5, 5)), reference(asked(5, 3))).drifted


def test_only_what_both_were_asked_is_compared():
    # Given ten right answers, of which the wrong one's question was forgotten since
    before = reference(asked(10, 9))

    found = compare(before, reference(asked(9, 9), environment={"device": "cuda", "torch": "2.13.0"}))

    assert found.moves[0].before == found.moves[0].now == 1.0
    assert (found.compared, found.missing) == (9, 1)
    assert found.environment == {"device": ("cpu", "cuda")}
