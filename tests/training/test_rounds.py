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


def test_an_example_without_other_wordings_is_trained_in_its_own():
    assert trained(None) == ["own"] * 6
    assert trained(lambda _number, _turn: None) == ["own"] * 6
