"""The closed loop of rehearsal: what each round trains, and when a session ends."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad.records import ReplayMix, StoppingRule
from lorad.training.rehearsal import LOST, Rehearsal, ReplayItem

MIX = ReplayMix(share=0.5, max_examples=100, recalled_share=0.25, general=0.1)
UNTIL = StoppingRule(recall=0.9, max_rounds=30, patience=2, min_delta=0.05)


def new(count, dataset="new"):
    return [ReplayItem(dataset=dataset, is_new=True, recalled=False)] * count


def old(right, wrong=0, dataset="old"):
    return [ReplayItem(dataset=dataset, is_new=False, recalled=True)] * right + [
        ReplayItem(dataset=dataset, is_new=False, recalled=False)
    ] * wrong


def a_session(items, *, mix=MIX, until=UNTIL, seed=7, chance=0.0):
    return Rehearsal(items, mix, until, seed, chance=chance)


def all_right(items, share=1.0):
    return {number: number < share * len(items) for number in range(len(items))}


# choosing


def test_the_first_round_trains_all_that_is_new_and_wrong_and_a_share_of_what_is_right():
    # Given 10 new examples, 20 old ones that the parent knows and 5 that it does not
    session = a_session(new(10) + old(20, wrong=5))

    chosen = session.choose()

    assert set(range(10)) <= set(chosen)
    assert set(range(30, 35)) <= set(chosen)
    assert len(set(chosen) & set(range(10, 30))) == 5
    assert len(chosen) == len(set(chosen)) == 20
    assert session.rounds == 1


def test_what_was_learned_comes_along_only_sometimes():
    session = a_session(new(40))
    session.choose()
    session.saw({number: number < 20 for number in range(40)})

    chosen = session.choose()

    assert set(range(20, 40)) <= set(chosen)
    assert len(chosen) == 32


def test_a_large_drop_brings_a_share_of_what_was_learned():
    session = a_session(new(100))
    session.choose()
    session.saw({number: number < 40 for number in range(100)})

    assert len(session.choose()) == 60 + 10


def test_more_of_what_is_new_comes_along_where_it_has_other_wordings():
    session = a_session(new(100) + old(40), mix=replace(MIX, new_share=0.5))
    session.choose()
    session.saw({number: number < 40 or number >= 100 for number in range(140)})

    chosen = session.choose()

    assert len([number for number in chosen if number < 100]) == 60 + 20
    assert len([number for number in chosen if number >= 100]) == 10  # of the old ones as much as before
    assert [session.times_trained(number) for number in range(40, 100)] == [2] * 60


def test_a_small_drop_is_trained_whole_in_every_round():
    session = a_session(new(20))
    session.choose()
    session.saw({number: number < 18 for number in range(20)})

    assert sorted(session.choose()) == list(range(20))


def test_what_was_forgotten_is_trained_again():
    session = a_session(new(4) + old(20))
    session.saw({7: False})

    assert 7 in session.choose()


def test_a_new_example_is_new_even_if_the_parent_answered_it():
    session = a_session([ReplayItem(dataset="new", is_new=True, recalled=True)])

    assert session.recall(new=True) == 0
    assert session.choose() == [0]


def test_the_order_is_shuffled_and_the_seed_decides_it():
    items = new(30)

    first = a_session(items).choose()

    assert first != sorted(first)
    assert first == a_session(items).choose()
    assert first != a_session(items, seed=8).choose()


@pytest.mark.parametrize(
    ("share", "count_new", "count_old"),
    [(0.5, 40, 40), (0.25, 30, 10), (0.0, 30, 0), (1.0, 4, 40), (0.5, 0, 100)],
)
def test_where_the_old_do_not_all_fit_they_get_their_share(share, count_new, count_old):
    mix = ReplayMix(share=share, max_examples=100, recalled_share=0.25, general=0.1)
    session = a_session(new(count_new) + old(101), mix=mix)

    chosen = session.choose()

    assert sum(number < count_new for number in chosen) == count_new
    assert sum(number >= count_new for number in chosen) == count_old


def test_up_to_the_limit_all_that_is_old_and_wrong_is_trained():
    at_limit = a_session(new(1) + old(0, wrong=100))
    beyond = a_session(new(1) + old(0, wrong=101))

    assert len(at_limit.choose()) == 101
    assert len(beyond.choose()) == 1 + 1


def test_of_many_old_the_wrong_ones_come_first():
    session = a_session(new(10) + old(200, wrong=4))

    chosen = session.choose()

    assert set(range(210, 214)) <= set(chosen)
    assert len(chosen) == 20


@pytest.mark.parametrize(
    ("alike", "others", "drawn"),
    [(200, 200, (24, 8)), (10, 200, (10, 22)), (200, 4, (28, 4)), (0, 200, (0, 32)), (200, 0, (32, 0))],
)
@pytest.mark.parametrize("most", [1000, 100])
def test_of_what_is_recalled_most_is_asked_as_the_new_rows_are_as_far_as_there_is_some(
    alike, others, drawn, most
):
    # Given old rows that the parent knows, some of them asked as the new ones are
    asked = [replace(each, is_alike=True) for each in old(alike, dataset="alike")]
    session = a_session(
        [*new(32), *asked, *old(others)], mix=replace(MIX, max_examples=most, recalled_share=0.5)
    )

    chosen = session.choose()

    counts = Counter("alike" if number < 32 + alike else "others" for number in chosen if number >= 32)
    assert (counts["alike"], counts["others"]) == drawn


def test_a_large_dataset_does_not_crowd_out_a_small_one():
    items = new(12) + old(300, dataset="large") + old(4, dataset="small") + old(5, dataset="other")
    session = a_session(items)

    drawn = Counter(items[number].dataset for number in session.choose() if number >= 12)

    assert drawn == {"large": 4, "small": 4, "other": 4}


@given(
    counts=st.tuples(*[st.integers(0, 30)] * 4),
    share=st.floats(0, 1),
    recalled_share=st.floats(0, 1),
    most=st.integers(0, 60),
    seen=st.dictionaries(st.integers(0, 200), st.booleans(), max_size=30),
)
@settings(max_examples=50, deadline=None)
def test_a_round_never_repeats_and_never_misses_a_new_wrong_one(counts, share, recalled_share, most, seen):
    n, a, b, c = counts
    items = new(n) + old(a, wrong=b, dataset="one") + old(c, dataset="two")
    session = a_session(
        items, mix=ReplayMix(share=share, max_examples=most, recalled_share=recalled_share, general=0.0)
    )
    known = {number: right for number, right in seen.items() if number < len(items)}
    session.saw(known)

    chosen = session.choose()

    assert len(chosen) == len(set(chosen))
    assert set(chosen) <= set(range(len(items)))
    assert {number for number in range(n) if not known.get(number)} <= set(chosen)


# ending


def test_recall_of_new_and_of_every_old_dataset_ends_a_session():
    items = new(10) + old(10)
    session = a_session(items)
    session.choose()

    assert session.tested({number: number != 0 for number in range(20)}) == "recall"
    assert session.ended_by == "recall"


@pytest.mark.parametrize("wrong", [{0, 1}, {10}, {20}])
def test_one_dataset_short_of_the_target_goes_on(wrong):
    # Given one new and two old datasets of 10, of which one is short
    session = a_session(new(10) + old(10, dataset="a") + old(10, dataset="b"))
    session.choose()

    assert session.tested({number: number not in wrong for number in range(30)}) is None
    assert session.ended_by is None


@pytest.mark.parametrize(
    ("items", "right", "is_near"),
    [
        (new(10), 7, False),
        (new(10), 8, True),
        (new(1) + old(10), 8, False),
        (new(1) + old(10), 9, True),
    ],
)
def test_a_test_is_worth_its_time_when_the_target_is_near(items, right, is_near):
    session = a_session(items)
    first = len(items) - 10
    session.saw({0: True} | {first + number: number < right for number in range(10)})

    assert session.is_near(slack=0.1) is is_near


@pytest.mark.parametrize(
    ("count", "unknown", "missed", "is_kept"),
    [
        (10, 0, 1, False),
        (20, 0, 1, True),
        (20, 0, 2, False),
        (100, 0, 2, True),
        (100, 0, 3, False),
        (20, 4, 4, True),
        (20, 4, 5, False),
    ],
)
def test_a_dataset_is_kept_when_it_is_as_good_as_the_parent_had_it(count, unknown, missed, is_kept):
    # Given an old dataset of which the parent does not recall some
    session = a_session(new(1) + old(count - unknown, wrong=unknown))
    session.choose()

    ended = session.tested({number: number == 0 or number > missed for number in range(count + 1)})

    assert (ended == "recall") is is_kept


def test_what_a_truncation_broke_must_come_back():
    # Given rows that the parent recalled and the truncated parent does not
    broken = [ReplayItem(dataset="old", is_new=False, recalled=False, known=True)] * 20
    session = a_session(new(1) + broken)
    session.choose()

    assert session.tested({number: number == 0 for number in range(21)}) is None


def test_a_look_before_giving_up_may_find_that_all_is_well():
    session = a_session(new(10), until=StoppingRule(recall=0.9, max_rounds=30, patience=0, min_delta=0.01))
    session.saw({number: number < 6 for number in range(10)})
    session.choose()
    session.not_tested()
    session.choose()
    assert session.not_tested() == "patience"

    assert session.tested(all_right(new(10))) == "recall"


def test_a_drop_costs_the_same_however_much_was_learned_before():
    few, many = (
        a_session(new(40) + old(count), mix=replace(MIX, max_examples=2000)) for count in (300, 1900)
    )

    assert len(few.choose()) == len(many.choose()) == 80


def test_recalled_rows_come_along_in_turn():
    # Given 60 old rows of which 15 a round come along
    session = a_session(new(40) + old(60))

    rounds = [{number for number in session.choose() if number >= 40} for _ in range(4)]

    assert set().union(*rounds) == set(range(40, 100))


def test_the_last_step_of_a_round_is_filled_up():
    # Given 10 new and 20 old rows, of which 5 come along, and steps of 8
    session = Rehearsal(new(10) + old(20), MIX, UNTIL, 7, batch=8)

    chosen = session.choose()

    assert len(chosen) == len(set(chosen)) == 16
    assert set(range(10)) <= set(chosen)


def test_a_session_smaller_than_a_step_trains_everything():
    assert sorted(Rehearsal(new(3) + old(4), MIX, UNTIL, 7, batch=8).choose()) == list(range(7))


@pytest.mark.parametrize(("strategy", "count"), [("all", 30), ("balanced", 10), ("wrong_first", 12)])
def test_the_strategy_decides_which_old_rows_come_along(strategy, count):
    # Given 10 new rows and 30 old ones, 6 of them not recalled
    session = a_session(new(10) + old(24, wrong=6), mix=replace(MIX, strategy=strategy))

    assert sum(number >= 10 for number in session.choose()) == count


def test_the_ceiling_ends_a_session():
    session = a_session(new(10), until=StoppingRule(recall=0.9, max_rounds=3, patience=99, min_delta=0.01))

    ended = []
    for _ in range(3):
        session.choose()
        ended.append(session.not_tested())

    assert ended == [None, None, "max_rounds"]


def test_the_target_counts_even_in_the_last_round():
    session = a_session(new(10), until=StoppingRule(recall=0.9, max_rounds=1, patience=0, min_delta=0.01))
    session.choose()

    assert session.tested(all_right(new(10))) == "recall"


def rounds(session, shares):
    """Run rounds in which this share of everything was answered right; return what each ended with."""
    ended = []
    for share in shares:
        session.choose()
        session.saw({number: number < share * 100 for number in range(100)})
        ended.append(session.not_tested())
    return ended


def test_patience_ends_a_session_that_stands_still():
    # Given a session that has learned most, and may stand still for two rounds
    session = a_session(new(100))

    assert rounds(session, [0.7, 0.7, 0.7, 0.7]) == [None, None, None, "patience"]


def small(**until):
    """Return a session whose rounds have one step each."""
    return Rehearsal(new(8), MIX, replace(UNTIL, **until), 7, batch=8)


def stand_still(session, count, right=6, *, tested=False):
    """Run rounds in which so many of eight rows were right; return what each ended with."""
    ended = []
    for _ in range(count):
        session.choose()
        answers = {number: number < right for number in range(8)}
        session.saw(answers)
        ended.append(session.tested(answers) if tested else session.not_tested())
    return ended


def test_patience_counts_steps_too_as_the_rounds_of_a_small_drop_have_few():
    assert stand_still(small(), 4) == [None, None, None, "patience"]

    session = small(patience_steps=5)

    assert stand_still(session, 6) == [None, None, None, None, None, "patience"]


def test_a_test_is_compared_with_tests():
    # Given a pass in which seven rows looked right, of which a test finds four
    session = small(patience=1, patience_steps=3)
    stand_still(session, 1, right=7)
    assert stand_still(session, 2, right=5, tested=True) == [None, None]

    # When tests get better, that is progress, though less than what was once seen
    assert stand_still(session, 3, right=6, tested=True) == [None, None, None]
    assert stand_still(session, 1, right=6, tested=True) == ["patience"]


@pytest.mark.parametrize(
    ("tests", "best", "is_past"),
    [
        ([4, 7, 6, 6, 5], 2, True),
        ([4, 7, 6, 7, 5], 4, True),  # of two as good the later has been trained more
        ([4, 5, 6, 6, 7], 5, False),
        ([4, 4, 4, 4, 4], 5, False),
    ],
)
def test_what_is_given_up_is_past_its_best_where_an_earlier_round_tested_better(tests, best, is_past):
    session = small(recall=1.0, max_rounds=5, patience=9)

    for count in tests:
        [ended] = stand_still(session, 1, right=count, tested=True)

    assert ended == "max_rounds"
    assert (session.best_round, session.is_past_its_best()) == (best, is_past)
    session.return_to_best()
    assert session.right.count(True) == max(tests)


def test_who_meets_the_target_is_not_past_its_best():
    session = small(recall=0.8, max_rounds=5, patience=9)

    stand_still(session, 1, right=6, tested=True)

    assert stand_still(session, 1, right=7, tested=True) == ["recall"]
    assert not session.is_past_its_best()


@pytest.mark.parametrize(
    ("tests", "best"),
    [
        ([(7, 8, False), (7, 6, True)], 2),  # what was not asked is not known to be as good
        ([(7, 6, True), (7, 8, False)], 1),
        ([(6, 8, False), (7, 8, False)], 2),
        ([(7, 7, True), (7, 6, True)], 1),
    ],
)
def test_a_test_of_everything_says_more_than_one_of_the_new_rows(tests, best):
    # Given eight new rows and eight old ones, which a test may leave out
    session = a_session(new(8) + old(8), until=replace(UNTIL, recall=1.0, max_rounds=2, patience=9))

    for right_new, right_old, asks_all in tests:
        session.choose()
        answers = {number: number < right_new for number in range(8)}
        answers |= {8 + number: number < right_old for number in range(8)} if asks_all else {}
        session.tested(answers)

    assert session.best_round == best


def test_passes_alone_are_no_best_to_return_to():
    session = small(recall=1.0, max_rounds=2)

    assert stand_still(session, 2) == [None, "max_rounds"]
    assert not session.is_past_its_best()


def test_progress_renews_patience():
    session = a_session(new(100))

    assert rounds(session, [0.6, 0.6, 0.6, 0.7, 0.7, 0.7]) == [None] * 6


def test_many_small_steps_are_progress_too():
    session = a_session(new(100))

    assert rounds(session, [0.60, 0.63, 0.66, 0.69, 0.72, 0.75, 0.78]) == [None] * 7


def test_before_half_is_learned_nobody_gives_up():
    # Given a first session: nothing is old, and whole answers are long all wrong
    session = a_session(new(100))

    assert rounds(session, [0.0] * 8 + [0.2] * 8) == [None] * 16


def test_the_rate_falls_as_recall_rises():
    rates = []
    for known in (0, 50, 75, 100):
        session = a_session(new(100))
        session.saw({number: number < known for number in range(100)})
        rates.append(session.rate())

    assert rates == pytest.approx([1.0, 0.5**0.5, 0.5, 0.1])


def test_what_was_forgotten_keeps_the_rate_up():
    session = a_session(new(4) + old(4))
    session.saw({number: number != 4 for number in range(8)})

    assert session.rate() == pytest.approx(0.5)


def test_rounds_that_bring_nothing_calm_the_rate_once_half_is_learned():
    early, late = a_session(new(100)), a_session(new(100))

    rounds(early, [0.36, 0.36, 0.36])
    rounds(late, [0.75, 0.75])
    once = late.rate()
    rounds(late, [0.75])

    assert early.rate() == pytest.approx(0.8)
    assert (once, late.rate()) == pytest.approx((0.5 * 0.5, 0.5 * 0.25))

    rounds(late, [0.84])
    assert late.rate() == pytest.approx(0.4)


def test_recall_is_told_for_new_and_old():
    session = a_session(new(4) + old(3, wrong=1))
    session.saw({0: True})

    assert (session.recall(new=True), session.recall(new=False)) == (0.25, 0.75)


def test_where_there_is_nothing_all_is_recalled():
    assert a_session(old(1)).recall(new=True) == 1.0
    assert a_session(new(1)).recall(new=False) == 1.0
    assert a_session(old(3)).tested({}) == "recall"


def test_what_one_answer_gets_right_is_not_learned():
    # Given texts of which 80 % have no names, and a model that finds none
    session = a_session(new(100), chance=0.8)

    assert rounds(session, [0.8] * 6) == [None] * 6
    assert session.rate() == pytest.approx(1.0)

    # Then patience counts from where half of what is left is learned
    assert rounds(session, [0.95, 0.95, 0.95, 0.95])[-1] == "patience"
    assert session.rate() == pytest.approx(0.1)


def test_where_one_answer_gets_all_right_it_is_to_be_learned_all_the_same():
    session = a_session(new(100), chance=1.0)
    session.saw({number: number < 75 for number in range(100)})

    assert session.rate() == pytest.approx(0.5)


def test_patience_ends_nothing_before_the_epochs_that_were_planned():
    # Given rows of which all but two are learned, and no progress with those
    until = replace(UNTIL, patience=1, min_rounds=6)
    session = Rehearsal(new(10), MIX, until, 7)
    right = {number: number > 1 for number in range(10)}

    ends = []
    while not session.ended_by:
        session.choose()
        ends.append(session.tested(right))

    assert (len(ends), session.ended_by) == (6, "patience")


# testing old rows


def asked_by(session):
    asked = []

    def ask(numbers):
        asked.extend(numbers)
        return dict.fromkeys(numbers, True)

    session.test_old(ask)
    return asked


def test_a_test_asks_a_part_of_a_large_memory_with_what_is_near_and_what_is_lost():
    near = [ReplayItem(dataset="near", is_new=False, recalled=True, is_at_risk=True)] * 3
    session = a_session(new(10) + old(990) + near)
    session.saw({500: False})

    asked = asked_by(session)

    assert {500, 1000, 1001, 1002} <= set(asked)
    assert len(asked) < 160


def test_where_nothing_is_new_a_test_asks_all():
    assert asked_by(a_session(old(1000))) == list(range(1000))


def test_a_test_of_a_part_of_the_old_rows_outranks_one_of_the_new_rows_alone():
    session = a_session(new(10) + old(990), until=replace(UNTIL, recall=1.0, patience=1))
    session.choose()
    session.tested({number: number < 9 for number in range(10)} | dict.fromkeys(range(10, 200), True))
    session.choose()
    session.tested({number: number < 9 for number in range(10)})

    assert session.best_round == 1


def test_a_session_does_not_end_while_the_judge_would_call_it_forgetting():
    # Given twelve datasets, of each of which one row may be missed
    items = [*new(5), *(item for number in range(12) for item in old(25, dataset=f"old {number}"))]
    lost = {5 + 25 * number for number in range(12)}
    session = a_session(items)
    session.choose()

    assert session.tested({number: number not in lost for number in range(len(items))}) is None
    assert session.tested(all_right(items)) == "recall"


def test_where_the_sample_stood_is_kept():
    items = new(10) + old(990)
    unbroken, resumed = a_session(items), a_session(items)
    asked_by(unbroken)
    resumed.restore(unbroken.state())

    assert asked_by(resumed) == asked_by(unbroken)


def test_labels_of_which_nothing_is_learned_for_long_are_given_up():
    # Given a session that gives one answer to everything, which a fifth of the rows have not
    session = a_session(new(100), until=replace(UNTIL, max_rounds=200), chance=0.8)
    right = {number: number < 80 for number in range(100)}

    rounds = 0
    ended = None
    while ended is None:
        session.choose()
        session.saw(right)
        ended = session.not_tested()
        rounds += 1

    # Then it waits longer than at a plateau of what was learned, and not to the last round
    assert ended == "patience"
    assert LOST * UNTIL.patience < rounds < 200


def test_facts_of_which_nothing_is_learned_for_long_are_waited_for():
    session = a_session(new(100), until=replace(UNTIL, max_rounds=50))
    for _ in range(49):
        session.choose()
        session.saw(dict.fromkeys(range(100), False))
        assert session.not_tested() is None


def test_what_another_wording_shows_is_trained_again_and_ends_nothing():
    session = a_session(new(100), mix=replace(MIX, new_share=0.0, recalled_share=0.0))
    session.choose()
    session.saw(dict.fromkeys(range(100), True))

    session.saw({number: number >= 60 for number in range(100)}, otherwise=range(50, 90))

    assert (
        session.recall(new=True) == 0.5
    )  # of those in their own wording 50 are wrong now, of the others nothing is said
    assert set(session.choose()) >= set(range(60))

    # and a test of own wordings does not make the other ones right
    session.was_asked(dict.fromkeys(range(100), True))
    assert session.recall(new=True) == 1.0
    assert set(session.choose()) >= set(range(50, 60))

    # trained in its own wording since, a row is what it was then
    session.saw(dict.fromkeys(range(50, 60), True))
    assert not session._missed_otherwise


def test_what_was_missed_in_another_wording_is_known_after_a_break():
    session, other = a_session(new(100)), a_session(new(100))
    session.choose()
    session.saw(dict.fromkeys(range(100), True))
    session.saw({3: False}, otherwise={3})

    other.restore(json.loads(json.dumps(session.state())))

    assert other.choose() == session.choose()
    assert other.state() == session.state()
