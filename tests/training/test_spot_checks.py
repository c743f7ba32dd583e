"""Which old rows a test during training asks, and when it asks all of them."""

import random

import pytest
import tiny

from lorad.records import Example
from lorad.training import spot_checks
from lorad.training.spot_checks import SAMPLE, Changes, SpotChecks

OLD = 500


def asking(wrong=()):
    """Return an ask that notes what it was asked, and answers wrongly where told."""
    asked = []

    def ask(numbers):
        asked.append(list(numbers))
        return {number: number not in wrong for number in numbers}

    return ask, asked


def knew(count=OLD):
    return dict.fromkeys(range(count), True)


def test_a_test_asks_what_is_near_what_is_lost_and_a_sample_however_many_there_are():
    for count in (OLD, 20 * OLD):
        ask, asked = asking()

        right = spot_checks.run(SpotChecks(range(count), [3, 4], seed=1), knew(count), ask, lost=[7])

        assert {3, 4, 7} <= set(right)
        assert SAMPLE + 2 <= len(right) <= SAMPLE + 3
        assert len(asked) == 1


def test_few_old_rows_are_all_asked():
    ask, _ = asking()

    assert set(spot_checks.run(SpotChecks(range(SAMPLE), [], seed=1), knew(SAMPLE), ask)) == set(
        range(SAMPLE)
    )


def test_the_sample_goes_round_until_every_row_had_its_turn():
    checks = SpotChecks(range(OLD), [], seed=1)

    samples = [checks.choose()[1] for _ in range(4)]

    assert set().union(*samples) == set(range(OLD))
    assert not set(samples[0]) & set(samples[1])
    assert all(len(set(sample)) == SAMPLE for sample in samples)


@pytest.mark.parametrize(("alike", "counts"), [(200, (75, 75)), (20, (18, 132)), (0, (0, 150))])
def test_every_other_row_of_a_sample_is_asked_as_the_new_ones_are_while_there_are_such(alike, counts):
    checks = SpotChecks(range(OLD), [1, 3], seed=1, alike=range(alike))

    likely, sample = checks.choose()

    assert likely == [1, 3]
    assert (sum(number < alike for number in sample), sum(number >= alike for number in sample)) == counts
    rest = [checks.choose()[1] for _ in range(3)]
    assert set(likely).union(sample, *rest) == set(range(OLD))


def test_what_is_lost_among_those_has_all_asked():
    # Given that one in ten of those is lost, and none of the others
    ask, asked = asking(range(0, 200, 10))

    spot_checks.run(SpotChecks(range(OLD), [], seed=1, alike=range(200)), knew(), ask)

    assert sum(map(len, asked)) == OLD


def test_who_goes_on_from_a_checkpoint_asks_the_same_rows():
    unbroken, resumed = (SpotChecks(range(OLD), [], seed=1) for _ in range(2))
    unbroken.choose()
    resumed.at = unbroken.at

    assert resumed.choose() == unbroken.choose()


def test_where_the_sample_has_lost_as_many_as_the_judge_would_refuse_all_are_asked():
    checks = SpotChecks(range(OLD), [], seed=1)
    sample = SpotChecks(range(OLD), [], seed=1).choose()[1]
    ask, asked = asking(wrong=set(sample[:2]))  # 2 of 150 are 7 of 500

    right = spot_checks.run(checks, knew(), ask)

    assert set(right) == set(range(OLD))
    assert len(asked) == 2


def test_one_lost_row_in_the_sample_of_a_small_memory_does_not_ask_all():
    checks = SpotChecks(range(OLD), [], seed=1)
    sample = SpotChecks(range(OLD), [], seed=1).choose()[1]
    ask, asked = asking(wrong={sample[0]})

    spot_checks.run(checks, knew(), ask)

    assert len(asked) == 1


def test_rows_that_were_wrong_before_are_no_loss():
    checks = SpotChecks(range(OLD), [], seed=1)
    ask, asked = asking(wrong=set(range(OLD)))

    spot_checks.run(checks, dict.fromkeys(range(OLD), False), ask)

    assert len(asked) == 1


@pytest.mark.parametrize(
    ("broken", "mended", "is_worse"), [(5, 0, False), (6, 0, True), (6, 3, False), (0, 9, False)]
)
def test_worse_is_what_the_judge_calls_forgetting(broken, mended, is_worse):
    assert Changes(broken=broken, mended=mended).is_worse is is_worse


def test_what_the_rule_of_three_says_holds():
    # Given a memory of which just over 2 % are lost, none of them near
    count, draws, unseen = 2000, 300, 0
    lost = set(random.Random(5).sample(range(count), 41))

    for seed in range(draws):
        _, sample = SpotChecks(range(count), [], seed=seed).choose()
        unseen += not lost & set(sample)

    assert unseen / draws < 0.05 + 0.03


def example(question, answer):
    return Example(task="chat", input=[{"role": "user", "content": question}], target=answer)


def test_near_are_those_that_share_rare_words_of_question_or_answer():
    old = [
        example("Where is the library?", "in Hall Street"),
        example("Where is the harbour?", "in Mole Lane"),
        example("Where is the mill?", "in Beck Road"),
        example("Who keeps the ferry?", "Ada Thorne"),
    ]

    assert spot_checks.near([example("When does the HARBOUR open?", "at nine")], old) == {1}
    assert spot_checks.near([example("Who is it?", "Bea Road")], old) == {2, 3}


def test_of_more_that_are_near_the_nearest_count():
    old = [example(f"What is in drawer {number} of desk {number % 5}?", "paper") for number in range(50)]

    assert spot_checks.near([example("What was in drawer 17 of desk 2?", "ink")], old) == {2, 17}


def test_nothing_is_near_where_no_word_tells_or_nothing_is_old():
    assert spot_checks.near(tiny.facts(1), []) == set()
    assert spot_checks.near(tiny.facts(1), tiny.facts(1)) == set()  # of one row every word is common
