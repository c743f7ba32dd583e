"""Thresholds from a version's own memory."""

import pytest

from lorad.retrieval import thresholds
from lorad.retrieval.thresholds import Scored


def of(dataset, scores):
    return [Scored(dataset, score) for score in scores]


def fit(taught, untaught, *, held_out=(), ordinary=(0.1, 0.2, 0.3), own=(0.7,), max_false_share=0.1):
    return fit_all(
        of("town", taught),
        of("town", untaught),
        held_out=of("town", held_out),
        ordinary=ordinary,
        own=own,
        max_false_share=max_false_share,
    )


def fit_all(taught, untaught, *, held_out=(), ordinary=(), own=(), max_false_share=0.1):
    return thresholds.fit(
        taught=taught,
        held_out=held_out,
        untaught=untaught,
        ordinary=ordinary,
        own=own,
        max_false_share=max_false_share,
        scored_by="similarity",
    )


def test_at_most_the_allowed_share_of_the_untaught_is_answered():
    found = fit([5.0] * 10, [float(number) / 10 for number in range(20)])
    assert found.false_share == pytest.approx(0.1)
    assert found.refused_share == 0.0
    assert 1.7 < found.answer <= 1.8


def test_what_was_taught_is_not_refused_for_the_sake_of_the_untaught():
    found = fit([1.0] * 100, [2.0] * 100)
    assert found.refused_share == 0.0
    assert found.false_share == 1.0


def test_a_few_of_the_taught_may_be():
    found = fit([*[5.0] * 99, -9.0], [0.0] * 100)
    assert found.refused_share == pytest.approx(0.01)
    assert found.false_share == 0.0


def test_none_may_be_false():
    assert fit([9.0], [1.0, 2.0, 3.0], max_false_share=0.0).answer > 3.0


def test_all_may_be_false():
    assert fit([9.0], [1.0, 2.0, 3.0], max_false_share=1.0).false_share == 1.0


def test_what_is_about_memory_lies_between_ordinary_and_own_questions():
    found = fit([1.0], [0.0], ordinary=[0.1] * 18 + [0.4, 0.5], own=[0.8])
    assert found.about == pytest.approx(0.6)


def test_where_ordinary_questions_sound_like_own_ones_none_of_them_is_refused():
    assert fit([1.0], [0.0], ordinary=[0.1] * 18 + [0.9, 0.9], own=[0.8]).about == pytest.approx(
        0.9, abs=1e-5
    )
    assert fit([1.0], [0.0], ordinary=[], own=[]).about == 0.0


def test_a_few_ordinary_questions_may_be_taken_for_own_ones():
    assert fit([1.0], [0.0], ordinary=[0.1] * 95 + [0.9] * 5, own=[0.3]).about == pytest.approx(0.2, abs=1e-5)


def test_a_memory_of_one_example_has_no_near_miss():
    found = fit([1.0], [], own=[])
    assert (found.answer, found.questions) == (0.0, 1)
    assert fit([], []).answer == 0.0


def test_questions_in_far_words_do_not_move_the_line_and_are_counted():
    found = fit([9.0] * 100, [1.0] * 100, held_out=[0.0] * 100)
    assert found.false_share == 0.0
    assert found.refused_share == pytest.approx(0.5)
    assert found.questions == 300


def test_a_dataset_with_questions_enough_has_a_line_of_its_own():
    catalogue, plain = [float(number) for number in range(20)], [number - 20.0 for number in range(20)]
    found = fit_all(
        of("catalogue", [30.0] * 40) + of("plain", [10.0] * 40),
        of("catalogue", catalogue) + of("plain", plain),
    )
    assert found.line("catalogue") == pytest.approx(17.0, abs=0.1)
    assert found.line("plain") == pytest.approx(-3.0, abs=0.1)
    assert found.false_share == pytest.approx(0.1)
    assert found.refused_share == 0.0


def test_a_dataset_with_few_questions_has_the_line_of_all():
    few = thresholds.LEAST_QUESTIONS - 1
    found = fit_all(of("town", [9.0] * 40), of("town", [1.0] * 40) + of("small", [-5.0] * few))
    assert "small" not in found.lines
    assert found.line("small") == found.answer
    assert found.line("never heard of") == found.answer


def test_the_taught_of_each_dataset_are_answered():
    found = fit_all(
        of("far", [1.0] * 50) + of("near", [9.0] * 50), of("far", [2.0] * 20) + of("near", [2.0] * 20)
    )
    assert found.line("far") <= 1.0
    assert found.line("near") > 2.0
