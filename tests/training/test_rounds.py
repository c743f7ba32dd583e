"""The rows of a session's rounds: which wording of an example has its turn."""

from dataclasses import replace

import tiny
from training_runs import PLAN, material

from lorad.training.rehearsal import Rehearsal
from lorad.training.rounds import Rounds


def trained(reworded, rounds=6, right_in=1):
    """Return what is trained of one example, round by round; it is right from one of them on."""
    made = material(tiny.tokenizer(), count=1)
    made = replace(made, reworded=reworded) if reworded else made
    plan = replace(PLAN, mix=replace(PLAN.mix, general=0.0))
    rehearsal = Rehearsal(made.items, plan.mix, plan.stopping, plan.seed)
    round_by_round = Rounds(made, rehearsal, plan)
    own = made.rows[0]
    found = []
    for at in range(1, rounds + 1):
        found += ["own" if row is own else row for batch in round_by_round for row in batch.rows]
        rehearsal.saw({0: at >= right_in})
    return found


def worded(number, turn):
    return f"{number}.{turn}"


def test_a_known_examples_own_wording_is_trained_every_second_time():
    assert trained(worded) == ["own", "0.0", "own", "0.1", "own", "0.2"]


def test_an_example_is_trained_in_its_own_wording_until_it_is_known():
    assert trained(worded, right_in=3) == ["own", "own", "own", "0.0", "own", "0.1"]
    assert trained(worded, right_in=9) == ["own"] * 6


def test_a_known_example_that_is_lost_again_keeps_its_turns():
    made = replace(material(tiny.tokenizer(), count=1), reworded=worded)
    plan = replace(PLAN, mix=replace(PLAN.mix, general=0.0))
    rehearsal = Rehearsal(made.items, plan.mix, plan.stopping, plan.seed)
    rounds = Rounds(made, rehearsal, plan)
    found = []
    for right in (True, False, False, True):
        found += [row for batch in rounds for row in batch.rows]
        rehearsal.saw({0: right})
    assert found[1::2] == ["0.0", "0.1"]


def test_an_example_without_other_wordings_is_trained_in_its_own():
    assert trained(None) == ["own"] * 6
    assert trained(lambda _number, _turn: None) == ["own"] * 6
