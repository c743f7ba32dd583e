"""How long a session still takes, told from its first second."""

import pytest

from lorad.training.remaining import PARTS, Remaining, expected

USUAL = {"loading": 5.0, "testing": 2.0, "training": 60.0, "judging": 20.0, "saving": 1.0}


def test_from_the_first_second_it_is_what_the_session_before_took():
    left = Remaining(USUAL)
    left.enter("loading", 0.0)

    assert left.left(0.0) == 88.0
    assert left.left(3.0) == 85.0


def test_what_is_done_is_not_counted_any_more():
    left = Remaining(USUAL)
    for phase, now in (("loading", 0.0), ("testing", 30.0), ("training", 31.0)):
        left.enter(phase, now)

    assert left.left(31.0) == 81.0


def test_tests_between_rounds_belong_to_the_training():
    left = Remaining(USUAL)
    for phase, now in (
        ("loading", 0.0),
        ("testing", 5.0),
        ("training", 7.0),
        ("testing", 40.0),
        ("training", 42.0),
    ):
        left.enter(phase, now)

    assert left.left(47.0) == 20.0 + 21.0
    assert left.took(47.0) == {
        "loading": 5.0,
        "testing": 2.0,
        "training": 40.0,
        "judging": 0.0,
        "saving": 0.0,
    }


def test_the_gain_of_the_rounds_counts_the_more_of_them_there_were():
    left = Remaining(USUAL)
    left.enter("training", 0.0)
    left.expect_training(100.0, 30.0)

    assert left.left(30.0) == 0.5 * 30.0 + 0.5 * 100.0 + 21.0
    assert left.left(60.0) == 70.0 + 21.0


def test_what_takes_longer_than_expected_never_says_that_it_is_done():
    left = Remaining(USUAL)
    left.enter("judging", 0.0)

    assert left.left(100.0) == 10.0 + 1.0


def test_a_repair_is_trained_and_judged_again():
    left = Remaining(USUAL)
    for phase, now in (("training", 0.0), ("judging", 60.0), ("repairing", 80.0)):
        left.enter(phase, now)

    assert left.left(80.0) == 60.0 + 21.0


@pytest.mark.parametrize("phase", ["fitting when to answer", "asking in other words"])
def test_facts_belong_to_judging(phase):
    left = Remaining(USUAL)
    left.enter("judging", 0.0)
    left.enter(phase, 5.0)

    assert left.left(5.0) == 16.0


def test_without_a_session_before_only_the_training_tells():
    left = Remaining()
    left.enter("loading", 0.0)
    assert left.left(1.0) is None
    left.enter("training", 2.0)
    left.expect_training(40.0, 10.0)

    assert left.left(20.0) == 30.0


def papers(new, old):
    return {"training": {"parts": USUAL}, "materials": {"new": ["x"] * new, "old": [["y", True]] * old}}


def test_it_goes_by_the_rows():
    found = expected(papers(25, 75), new=50, total=400)

    assert (found["loading"], found["training"], found["judging"]) == (5.0, 120.0, 80.0)
    assert tuple(found) == PARTS


def test_a_refit_trains_all_rows():
    assert expected(papers(25, 75), new=0, total=100)["training"] == 240.0
    assert expected(papers(0, 100), new=25, total=100)["training"] == 15.0


def test_what_a_consolidation_mends_is_no_refit():
    found = expected(papers(25, 75), new=0, total=400, kind="consolidate")

    assert found["training"] == expected(papers(25, 75), new=25, total=100)["training"]
    assert found["judging"] == expected(papers(25, 75), new=0, total=400)["judging"]


@pytest.mark.parametrize("old", [{}, {"training": {}}, {"training": {"parts": {"loading": "long"}}}])
def test_papers_that_do_not_tell_give_no_estimate(old):
    assert expected(old, 25, 25) == {}
