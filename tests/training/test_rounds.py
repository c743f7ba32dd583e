"""The rows of a session's rounds: which wording of an example has its turn."""

from dataclasses import replace

import tiny
from training_runs import PLAN, material

from lorad.training.rehearsal import Rehearsal
from lorad.training.rounds import Rounds


def trained(reworded, rounds=6):
    """Return what is trained of one example, round by round."""
    made = material(tiny.tokenizer(), count=1)
    made = replace(made, reworded=reworded) if reworded else made
    plan = replace(PLAN, mix=replace(PLAN.mix, general=0.0))
    rehearsal = Rehearsal(made.items, plan.mix, plan.stopping, plan.seed)
    round_by_round = Rounds(made, rehearsal, plan)
    own = made.rows[0]
    found = []
    for _ in range(rounds):
        found += ["own" if row is own else row for batch in round_by_round for row in batch.rows]
    return found


def test_an_examples_own_wording_is_trained_every_second_time():
    assert trained(lambda number, turn: f"{number}.{turn}") == ["own", "0.0", "own", "0.1", "own", "0.2"]


def test_every_second_example_begins_with_another_wording_and_towards_the_target_each_has_its_own():
    made = replace(material(tiny.tokenizer(), count=4), reworded=lambda number, turn: f"{number}.{turn}")
    plan = replace(PLAN, mix=replace(PLAN.mix, general=0.0))
    rehearsal = Rehearsal(made.items, plan.mix, plan.stopping, plan.seed)
    rounds = Rounds(made, rehearsal, plan)

    def trained_now():
        found = {}
        for batch in rounds:
            for number, row in zip(batch.numbers, batch.rows, strict=True):
                found[number] = "own" if row is made.rows[number] else row
            assert batch.otherwise == {n for n in batch.numbers if found[n] != "own"}
        return dict(sorted(found.items()))

    assert trained_now() == {0: "own", 1: "1.0", 2: "own", 3: "3.0"}
    rehearsal.saw(dict.fromkeys(range(4), False), otherwise={1, 3})
    assert trained_now() == {0: "0.0", 1: "own", 2: "2.0", 3: "own"}
    rehearsal.was_asked(dict.fromkeys(range(4), True))  # as a test finds it
    assert trained_now() == dict.fromkeys(range(4), "own")
    rehearsal.was_asked({0: False})  # three of four are not far from it
    assert trained_now() == dict.fromkeys(range(4), "own")
    rehearsal.was_asked({1: False})  # far from the target again
    assert trained_now() == {0: "own", 1: "1.2", 2: "own", 3: "3.2"}


def test_an_example_without_other_wordings_is_trained_in_its_own():
    assert trained(None) == ["own"] * 6
    assert trained(lambda _number, _turn: None) == ["own"] * 6
