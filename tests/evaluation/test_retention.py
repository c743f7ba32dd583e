"""Retention arithmetic, against numbers worked out by hand and laws that hold for all matrices."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad.evaluation.retention import mcnemar, summarise, tabulate

SHARE = st.floats(0, 1)
MATRICES = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.lists(SHARE, min_size=n, max_size=n), min_size=n, max_size=n)
)


def with_gaps(matrices):
    return matrices.flatmap(
        lambda matrix: st.tuples(*(st.tuples(*(st.sampled_from([v, None]) for v in row)) for row in matrix))
    )


def test_three_versions_by_hand():
    # Given three datasets: the first is forgotten a little at each step; the second was known before it was
    # learned, and what was not yet learned cannot be forgotten
    matrix = [
        [1.0, 0.95, 0.0],
        [0.9, 0.8, 0.3],
        [0.7, 0.9, 1.0],
    ]

    found = summarise(matrix, baseline=[0.0, 0.05, 0.1])

    assert found.acc == pytest.approx((0.7 + 0.9 + 1.0) / 3)
    assert found.bwt == pytest.approx(((0.7 - 1.0) + (0.9 - 0.8)) / 2)
    assert found.fwt == pytest.approx(((0.95 - 0.05) + (0.3 - 0.1)) / 2)
    assert found.forgetting == pytest.approx(((1.0 - 0.7) + (0.8 - 0.9)) / 2)


def score(right, total=10):
    return {"right": right, "total": total}


def test_the_matrix_of_versions_by_hand():
    # Given two versions that learned something and one that was consolidated
    versions = [
        (
            "v0.1",
            {"dataset": "a", "scores": {"a": score(10)}, "new_before": score(3), "new_at_base": score(1)},
        ),
        (
            "v0.2",
            {
                "dataset": "b",
                "scores": {"a": score(9), "b": score(8)},
                "new_before": score(4),
                "new_at_base": score(2),
            },
        ),
        ("v0.3", {"dataset": "memory", "scores": {"a": score(7), "b": score(9)}}),
    ]

    found = tabulate(versions)

    assert found["versions"] == ["v0.1", "v0.2", "v0.3"]
    assert found["datasets"] == ["a", "b"]
    assert found["matrix"] == [[1.0, None], [0.9, 0.8], [0.7, 0.9]]
    assert found["counts"] == [[[10, 10], None], [[9, 10], [8, 10]], [[7, 10], [9, 10]]]
    assert found["acc"] == pytest.approx(0.8)
    assert found["bwt"] == pytest.approx(((0.7 - 1.0) + (0.9 - 0.8)) / 2)
    assert found["fwt"] == pytest.approx(0.4 - 0.2)
    assert found["forgetting"] == pytest.approx(((1.0 - 0.7) + (0.8 - 0.9)) / 2)


def test_a_dataset_whose_own_version_was_pruned_still_counts():
    # Given the last two of four versions, and the first one's dataset fading
    versions = [
        ("v0.3", {"dataset": "c", "scores": {"a": score(4), "b": score(9), "c": score(10)}}),
        ("v0.4", {"dataset": "d", "scores": {"a": score(0), "b": score(1), "c": score(10), "d": score(10)}}),
    ]

    found = tabulate(versions)

    assert found["acc"] == pytest.approx((0.0 + 0.1 + 1.0 + 1.0) / 4)
    assert found["bwt"] == pytest.approx((-0.4 - 0.8 + 0.0) / 3)
    assert found["forgetting"] == pytest.approx((0.4 + 0.8 + 0.0) / 3)
    assert found["fwt"] is None


def test_the_only_version_left_says_what_it_recalls():
    found = tabulate([("v0.9", {"dataset": "memory", "scores": {"a": score(4), "b": score(8)}})])

    assert (found["acc"], found["bwt"], found["forgetting"]) == (pytest.approx(0.6), None, None)


def test_versions_from_outside_and_empty_datasets_have_a_place_in_the_matrix():
    assert tabulate([])["acc"] is None

    found = tabulate([("v0.7", {"dataset": "", "scores": {"a": score(5), "b": score(0, 0)}})])

    assert found["matrix"] == [[0.5, None]]
    assert found["fwt"] is None


def test_forgetting_counts_from_the_best_and_not_from_the_first():
    # Given a dataset that was best at the second of three versions
    matrix = [[0.5, None, None], [0.9, 0.8, None], [0.6, 0.8, 0.8]]

    found = summarise(matrix)

    assert found.forgetting == pytest.approx((0.3 + 0.0) / 2)
    assert found.bwt == pytest.approx((0.1 + 0.0) / 2)


@pytest.mark.parametrize(
    ("matrix", "baseline", "told"),
    [
        ([], [], (None, None, None, None)),
        ([[0.9]], [], (0.9, None, None, None)),
        ([[0.9]], [0.1], (0.9, None, None, None)),
        ([[0.9, 0.2], [0.8, 1.0]], [], (0.9, -0.1, None, 0.1)),
        ([[0.9, 0.2], [0.8, 1.0]], [0.1, 0.1], (0.9, -0.1, 0.1, 0.1)),
        ([[0.9, None], [None, 1.0]], [0.1, 0.1], (1.0, None, None, None)),
        ([[None, 0.2], [0.8, None]], [None, None], (0.8, None, None, None)),
    ],
)
def test_where_there_is_too_little_to_say_nothing_is_said(matrix, baseline, told):
    found = summarise(matrix, baseline)

    numbers = (found.acc, found.bwt, found.fwt, found.forgetting)
    assert [n is None for n in numbers] == [n is None for n in told]
    assert [n for n in numbers if n is not None] == pytest.approx([n for n in told if n is not None])


@given(MATRICES)
@settings(max_examples=30, deadline=None)
def test_laws_of_full_matrices(matrix):
    found = summarise(matrix, baseline=[0.0] * len(matrix))

    assert 0 <= found.acc <= 1
    if len(matrix) > 1:
        assert -1 <= found.bwt <= 1
        assert 0 <= found.fwt <= 1
        assert -found.bwt - 1e-9 <= found.forgetting <= 1  # the best is at least the first


@given(SHARE, st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_what_never_changes_is_never_forgotten(share, size):
    found = summarise([[share] * size] * size, [share] * size)

    assert (found.acc, found.bwt, found.fwt, found.forgetting) == pytest.approx((share, 0, 0, 0))


@given(with_gaps(MATRICES), st.lists(st.none() | SHARE, max_size=6))
@settings(max_examples=30, deadline=None)
def test_gaps_never_stop_the_arithmetic(matrix, baseline):
    found = summarise(matrix, baseline)

    assert found.acc is None or 0 <= found.acc <= 1
    assert found.forgetting is None or -1 <= found.forgetting <= 1


def by_counting(broken, mended):
    """Try every way in which the changed answers could have fallen."""
    changed = broken + mended
    tails = [
        min(sum(way), changed - sum(way)) <= min(broken, mended) for way in product((0, 1), repeat=changed)
    ]
    return sum(tails) / len(tails)


@pytest.mark.parametrize(
    ("broken", "mended"), [(0, 0), (1, 0), (0, 5), (5, 0), (6, 0), (3, 3), (7, 2), (2, 8), (1, 9)]
)
def test_mcnemar_is_exact(broken, mended):
    assert mcnemar(broken, mended) == pytest.approx(by_counting(broken, mended))


@given(st.integers(0, 400), st.integers(0, 400))
@settings(max_examples=30, deadline=None)
def test_mcnemar_is_a_probability_and_has_no_side(broken, mended):
    p = mcnemar(broken, mended)

    assert 0 < p <= 1
    assert p == mcnemar(mended, broken)
    if broken >= mended:
        assert mcnemar(broken + 1, mended) <= p  # one more broken answer is never less evidence


def facts(other, other_served):
    return {"trained": score(10), "trained_served": score(10), "other": other, "other_served": other_served}


def test_the_matrix_of_facts_by_hand():
    # Given three versions: the papers of the first are from before facts were looked for, c brought no other words
    versions = [
        ("v0.1", {"dataset": "a", "scores": {"a": score(10)}, "new_before": score(3)}),
        (
            "v0.2",
            {
                "dataset": "b",
                "scores": {"a": score(10), "b": score(10)},
                "facts": {"a": facts(score(6), score(9)), "b": facts(score(5), score(8))},
                "new_before": score(4),
                "new_at_base": score(2),
            },
        ),
        (
            "v0.3",
            {
                "dataset": "c",
                "scores": {"a": score(10), "b": score(10), "c": score(10)},
                "facts": {
                    "a": facts(score(3), score(9)),
                    "b": facts(score(7), score(7)),
                    "c": facts(None, None),
                },
            },
        ),
    ]

    weights, served = tabulate(versions, "other"), tabulate(versions, "other_served")

    assert weights["datasets"] == served["datasets"] == ["a", "b"]
    assert weights["versions"] == ["v0.1", "v0.2", "v0.3"]
    assert weights["matrix"] == [[None, None], [0.6, 0.5], [0.3, 0.7]]
    assert served["matrix"] == [[None, None], [0.9, 0.8], [0.9, 0.7]]
    assert weights["counts"][2] == [[3, 10], [7, 10]]
    assert weights["acc"] == pytest.approx(0.5)
    # a counts from the first version that was asked for its facts
    assert weights["bwt"] == pytest.approx((-0.3 + 0.2) / 2)
    assert weights["forgetting"] == pytest.approx((0.3 - 0.2) / 2)
    assert served["bwt"] == pytest.approx((0.0 - 0.1) / 2)
    # nobody asked the base, and recall is no measure of facts
    assert weights["fwt"] is None
    assert tabulate(versions)["fwt"] == pytest.approx(0.4 - 0.2)


def test_without_facts_their_matrix_is_empty():
    versions = [("v0.1", {"dataset": "a", "scores": {"a": score(10)}, "facts": {}})]

    found = tabulate(versions, "other_served")

    assert (found["datasets"], found["matrix"], found["acc"]) == ([], [[]], None)


def test_a_dataset_that_was_tested_before_it_was_learned_counts_from_its_own_version():
    # Given a version from outside, which was tested on all of memory, before a session learned it
    versions = [
        ("v0.1", {"dataset": "", "scores": {"a": score(2)}}),
        ("v0.2", {"dataset": "a", "scores": {"a": score(10)}}),
        ("v0.3", {"dataset": "b", "scores": {"a": score(9), "b": score(10)}}),
    ]

    assert tabulate(versions)["bwt"] == pytest.approx(-0.1)
