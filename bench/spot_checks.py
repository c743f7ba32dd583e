"""How many rows a session tests, with all of memory in every test and with spot checks. Simulated: no model learns here.

    python bench/spot_checks.py [--drops 100] [--rows 25]

The real rehearsal and the real choice of tested rows, on rows that are learned and lost at random: a new row that is trained is
learned one time in four; of the old rows that a round does not train, one in 2,500 is lost, ten times as many among
the near ones; a truncation (from the ninth drop on) loses one in 500. The judge asks everything and refuses by its own
rules; then a repair rehearses what is wrong. Seconds of a laptop; it says what the choice of rows costs and misses under these
assumptions, and nothing of how much a real model forgets. Nothing is written: the table goes into LOG.md by hand.
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lorad.evaluation.retention import mcnemar
from lorad.records import ReplayMix, StoppingRule
from lorad.training import spot_checks
from lorad.training.rehearsal import Rehearsal, ReplayItem

LEARNED, LOST, LOST_NEAR, TRUNCATED = 0.25, 1 / 2500, 1 / 250, 1 / 500
RANKS = 8
"""Drops whose adapters fit without a truncation."""
MIX = ReplayMix(share=0.5, max_examples=2000, recalled_share=0.25, new_share=0.5, general=0.1)
STOPPING = StoppingRule(
    recall=0.98, max_rounds=30, patience=3, min_delta=0.01, min_rounds=10, patience_steps=48
)
SHOWN = (1, 5, 10, 20, 50, 100)


@dataclass(slots=True)
class Memory:
    """Rows, whether each is right, and which are near what is learned now."""

    dice: random.Random
    datasets: list[str] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    near: set[int] = field(default_factory=set)
    tested: int = 0

    def ask(self, numbers: Sequence[int]) -> dict[int, bool]:
        """Test rows, counted."""
        self.tested += len(numbers)
        return {number: self.right[number] for number in numbers}

    def train(self, chosen: Sequence[int], begin: int) -> dict[int, bool]:
        """Train a round; return what it saw, which is how the rows stood before."""
        seen = {number: self.right[number] for number in chosen}
        trained = set(chosen)
        for number in trained:
            self.right[number] = self.right[number] or self.dice.random() < (
                LEARNED if number >= begin else 0.6
            )
        for number in range(begin):
            if number not in trained and self.dice.random() < (LOST_NEAR if number in self.near else LOST):
                self.right[number] = False
        return seen


def session(memory: Memory, begin: int, *, is_spotted: bool, is_truncated: bool) -> tuple[int, int]:
    """Learn what stands behind ``begin``; return how many rows were tested, and how often it was repaired."""
    memory.tested = 0
    memory.near = set(memory.dice.sample(range(begin), min(begin, 50)))
    before = list(memory.right)
    new = range(begin, len(memory.right))
    memory.ask(new)  # of the parent
    knows = dict(enumerate(before))
    if is_truncated:
        for number in range(begin):
            memory.right[number] = memory.right[number] and memory.dice.random() > TRUNCATED
        knows |= _look(memory, begin, dict(enumerate(before[:begin])), is_spotted=is_spotted)
    repairs = 0
    while True:
        _train(memory, begin, before, knows, is_spotted=is_spotted, rounds=30 if not repairs else 7)
        knows = memory.ask(range(len(memory.right)))  # the judge
        if not repairs:
            memory.ask(() if is_spotted and not begin else new)  # of the base
        if _passes(memory, before, begin) or repairs:
            return memory.tested, repairs
        repairs += 1
        if not is_spotted:
            memory.ask(range(len(memory.right)))  # a repair truncates its parent, and asked everything again


def _look(memory: Memory, begin: int, knew: Mapping[int, bool], *, is_spotted: bool) -> Mapping[int, bool]:
    if not is_spotted:
        return memory.ask(range(begin))
    return spot_checks.run(spot_checks.SpotChecks(range(begin), sorted(memory.near), 1), knew, memory.ask)


def _train(
    memory: Memory,
    begin: int,
    before: Sequence[bool],
    knows: Mapping[int, bool],
    *,
    is_spotted: bool,
    rounds: int,
) -> None:
    items = [
        ReplayItem(
            dataset=memory.datasets[number],
            is_new=number >= begin,
            recalled=knows[number],
            known=before[number],
            is_near=number in memory.near,
        )
        for number in range(len(memory.right))
    ]
    stopping = StoppingRule(
        recall=0.98,
        max_rounds=rounds,
        patience=3,
        min_delta=0.01,
        min_rounds=min(10, rounds),
        patience_steps=48,
    )
    rehearsal = Rehearsal(items, MIX, stopping, memory.dice.randrange(10**6), 8)
    new = range(begin, len(items))
    while not rehearsal.ended_by:
        rehearsal.saw(memory.train(rehearsal.choose(), begin))
        if not (rehearsal.is_near() or rehearsal.rounds >= rounds):
            rehearsal.not_tested()
            continue
        right = memory.ask(new)
        rehearsal.saw(right)
        if rehearsal.is_learned() or rehearsal.rounds >= rounds:
            right |= rehearsal.test_old(memory.ask) if is_spotted else memory.ask(range(begin))
        rehearsal.tested(right)


def _passes(memory: Memory, before: Sequence[bool], begin: int) -> bool:
    """Tell whether the judge would promote: no dataset lost three, and no significant loss over all."""
    broken = [number for number in range(begin) if before[number] and not memory.right[number]]
    mended = sum(not before[number] and memory.right[number] for number in range(begin))
    lost = [memory.datasets[number] for number in broken]
    if any(lost.count(name) > 2 for name in set(lost)):
        return False
    return len(broken) <= mended or mcnemar(len(broken), mended) >= spot_checks.SIGNIFICANCE


def main() -> None:
    """Run both ways and print what drops tested."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--drops", type=int, default=100)
    parser.add_argument("--rows", type=int, default=25)
    options = parser.parse_args()
    lines: dict[bool, list[tuple[int, int]]] = {}
    for is_spotted in (False, True):
        memory = Memory(random.Random(1))
        lines[is_spotted] = []
        for drop in range(options.drops):
            begin = len(memory.right)
            memory.datasets += [f"{drop:03d}"] * options.rows
            memory.right += [False] * options.rows
            told = session(memory, begin, is_spotted=is_spotted, is_truncated=drop >= RANKS)
            lines[is_spotted].append(told)
    print(
        "| drop | old rows | tested, all each time | tested, spot checks | repairs so far, all each time | with spot checks |"
    )
    print("|---|---|---|---|---|---|")
    for drop in (number for number in SHOWN if number <= options.drops):
        (then, _), (now, _) = (lines[way][drop - 1] for way in (False, True))
        repairs = [sum(repair for _, repair in lines[way][:drop]) for way in (False, True)]
        print(f"| {drop} | {(drop - 1) * options.rows} | {then} | {now} | {repairs[0]} | {repairs[1]} |")


if __name__ == "__main__":
    main()
