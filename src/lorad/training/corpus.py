"""The text of a session that trains a whole model: which documents are trained, and which are only measured.

What lives here: the split by document, packing, and the sequences of one epoch with those of old text beside them. What never
does: models, which tokens are hidden (the task).

A document is held out by its digest, so it is the same one in every session.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorad.records import Example
from lorad.tasks.pretraining import Pretraining

FEW = 10
"""Of fewer documents sequences are held out instead: one document may be most of a dataset."""
_DIGITS = 8

Block = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset's text in sequences."""

    new: Sequence[Block]
    """What is to be learned."""
    old: Sequence[Block]
    """What was learned before."""
    held_out: Sequence[Block]
    """What no session trains."""
    apart: frozenset[str]
    """The ids of the documents that are held out; none where sequences are."""


class Corpus:
    """All text of a session, by dataset."""

    def __init__(self, datasets: Mapping[str, Dataset], share: float, seed: int) -> None:
        """``share`` is how much of an epoch may be old text."""
        self.datasets = datasets
        self._seed = seed
        self._new = [block for each in datasets.values() for block in each.new]
        self._old = [list(each.old) for each in datasets.values() if each.old]
        wanted = round(share / (1 - min(share, 0.9)) * len(self._new))
        self._quota = max(1, wanted // len(self._old)) if self._old and wanted else 0

    @property
    def size(self) -> int:
        """Count the sequences of an epoch."""
        return len(self._new) + sum(min(self._quota, len(blocks)) for blocks in self._old)

    def epoch(self, number: int) -> list[Block]:
        """Return the sequences of an epoch, shuffled: all new ones, and of each old dataset others every time."""
        chance = random.Random(f"{self._seed} {number}")  # noqa: S311 - reproducible choice, not a secret
        chosen = list(self._new)
        for blocks in self._old:
            chosen += chance.sample(blocks, min(self._quota, len(blocks)))
        chance.shuffle(chosen)
        return chosen


def read(
    task: Pretraining,
    tokenizer: Any,
    new: Sequence[Example],
    old: Sequence[Example],
    *,
    length: int,
    validation_share: float,
) -> dict[str, Dataset]:
    """Return the datasets of a session's documents, the newest last; every part in sequences of ``length`` tokens."""
    names = dict.fromkeys(example.dataset for example in (*old, *new))
    return {
        name: _dataset(
            task,
            tokenizer,
            [example for example in new if example.dataset == name],
            [example for example in old if example.dataset == name],
            length,
            validation_share,
        )
        for name in names
    }


def _dataset(
    task: Pretraining,
    tokenizer: Any,
    new: Sequence[Example],
    old: Sequence[Example],
    length: int,
    share: float,
) -> Dataset:
    def packed(examples: Sequence[Example]) -> list[Block]:
        ordered = sorted(examples, key=lambda example: example.id)
        return task.pack(tokenizer, [task.tokens(tokenizer, each.target) for each in ordered], length)

    if len(new) + len(old) >= FEW:
        apart = _apart([*new, *old], share)
        kept = [[each for each in examples if each.id not in apart] for examples in (new, old)]
        held = [each for each in (*new, *old) if each.id in apart]
        return Dataset(new=packed(kept[0]), old=packed(kept[1]), held_out=packed(held), apart=apart)
    every = max(2, round(1 / share))
    parts = [packed(examples) for examples in (new, old)]
    held_out = [block for part in parts for block in part[every - 1 :: every]] or _shortest(parts)
    trained = [[block for block in part if block not in held_out] or part for part in parts]
    return Dataset(new=trained[0], old=trained[1], held_out=held_out, apart=frozenset())


def _apart(examples: Sequence[Example], share: float) -> frozenset[str]:
    """Return the ids of the documents that are held out, at least one."""
    most = share * 16**_DIGITS
    found = {each.id for each in examples if int(each.id[:_DIGITS], 16) < most}
    return frozenset(found or {min(each.id for each in examples)})


def _shortest(parts: Sequence[Sequence[Block]]) -> list[Block]:
    """Return the shortest sequence of a text of very few: it is trained as well where it is the only one."""
    return [min((block for part in parts for block in part), key=len)]
