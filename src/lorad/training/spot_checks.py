"""Which old rows a test during training asks. Pure.

What lives here: the old examples that are most likely to be lost, and a sample of the others that goes round. What
never does: models, and ending a session (``rehearsal``).

To ask every old row at every test makes a drop the dearer the more was learned before it. Asked are those that a session is
most likely to have changed (near the new ones in their words, right by the least when their parent was judged, lost at an
earlier test), and ``SAMPLE`` of the others, whatever their number, half of them asked as the new ones are (``likeness``). Where none
of n rows drawn at random is lost, fewer than 3/n of all are, in 95 of 100 cases (the rule of three, Hanley and Lippman-Hand 1983): with
150, fewer than 2 %, and with 75 of a kind fewer than 4 % of that kind. Where so many are
lost that the judge would refuse the candidate if it were the same among those that were not asked, all of them are asked. What
is promoted is judged on every row all the same.
"""

import itertools
import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lorad.evaluation.retention import is_worse
from lorad.records import Example, as_line

SAMPLE = 150
"""Old rows that a test asks beside those that are likely to have changed."""
THIN = 50
"""Old rows that count as likely to change because they were right by the least: of 34 rows that three sessions lost of 325, 18 stood
among the 50 of the least margins (decision 102)."""
NEAREST = 2
"""Old rows that count as near for each new one."""
SIGNIFICANCE = 0.05
"""Of the exact McNemar test, as the judge has it by default."""
COMMON = 0.5
"""Words that stand in more than this share of the old rows tell none from the others."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """How many old rows have gone from right to wrong, and the other way round."""

    broken: int = 0
    mended: int = 0

    @property
    def is_worse(self) -> bool:
        """Tell whether the judge would call it forgetting, whatever the datasets say one by one."""
        return is_worse(self.broken, self.mended, SIGNIFICANCE)


def changes(knew: Mapping[int, bool], right: Mapping[int, bool]) -> Changes:
    """Count the changes of the rows that were asked, ``right``, from what was known of them."""
    return Changes(
        broken=sum(knew[number] and not ok for number, ok in right.items()),
        mended=sum(ok and not knew[number] for number, ok in right.items()),
    )


class SpotChecks:
    """Chooses the old rows of one test after another; ``likely`` ones stand in each.

    Every other one of a sample is ``alike``, asked as the new rows are, as long as there are such: they are lost first. They count as if
    they had been drawn from all, so that all are asked sooner rather than later.
    """

    def __init__(
        self, old: Sequence[int], likely: Sequence[int], seed: int, alike: Collection[int] = ()
    ) -> None:
        self._likely, first = set(likely), set(alike)
        rest = [number for number in old if number not in self._likely]
        random.Random(seed).shuffle(rest)  # noqa: S311 - reproducible choice, not a secret
        parts = ([number for number in rest if (number in first) is is_alike] for is_alike in (True, False))
        pairs = itertools.zip_longest(*parts)
        self._round = [number for pair in pairs for number in pair if number is not None]
        self.at = 0
        """Where the next sample begins; all that a checkpoint needs."""

    def choose(self, lost: Sequence[int] = ()) -> tuple[list[int], list[int]]:
        """Return the rows that are likely to have changed, ``lost`` ones among them, and a sample of the others."""
        likely = sorted(self._likely | set(lost))
        if len(self._round) <= SAMPLE:
            sample = self._round
        else:
            sample = (self._round * 2)[self.at : self.at + SAMPLE]
            self.at = (self.at + SAMPLE) % len(self._round)
        known = set(likely)
        return likely, [number for number in sample if number not in known]


def run(
    checks: SpotChecks,
    knew: Mapping[int, bool],
    ask: Callable[[Sequence[int]], Mapping[int, bool]],
    lost: Sequence[int] = (),
) -> dict[int, bool]:
    """Ask the rows of one test, and all of ``knew`` where those are in doubt; return the answers."""
    likely, sample = checks.choose(lost)
    right = dict(ask([*likely, *sample]))
    of_likely, of_sample = (changes(knew, {each: right[each] for each in part}) for part in (likely, sample))
    unasked = [number for number in knew if number not in right]
    if is_doubtful(of_likely, of_sample, len(sample), len(unasked)):
        right |= ask(unasked)
    return right


def is_doubtful(likely: Changes, sample: Changes, sampled: int, unasked: int) -> bool:
    """Tell whether the judge would refuse it if those that were not asked had changed as the sample has."""
    if not sampled or not unasked:
        return False
    share = 1 + unasked / sampled
    expected = Changes(
        broken=likely.broken + round(share * sample.broken),
        mended=likely.mended + round(share * sample.mended),
    )
    return sample.broken > 0 and expected.is_worse


def near(new: Sequence[Example], old: Sequence[Example]) -> set[int]:
    """Return the numbers of the old examples that have most in common with some new one, ``NEAREST`` for each.

    Measured in words of question and answer, rare ones counting more (inverse document frequency), over the root of how many
    words an old example has.
    """
    sets = [_words(example) for example in old]
    postings = _postings(sets)
    sizes = np.sqrt([max(1, len(words)) for words in sets])
    found: set[int] = set()
    for example in new:
        scores = np.zeros(len(old))
        for word in sorted(_words(example) & postings.keys()):  # sums of floats hang on their order
            where = postings[word]
            scores[where] += np.log(len(old) / len(where))
        found |= _largest(scores / sizes)
    return found


def _postings(sets: Sequence[set[str]]) -> dict[str, npt.NDArray[np.intp]]:
    """Return in which sets each word stands that tells some from others."""
    lists: dict[str, list[int]] = {}
    for number, words in enumerate(sets):
        for word in words:
            lists.setdefault(word, []).append(number)
    return {word: np.array(where) for word, where in lists.items() if len(where) <= COMMON * len(sets)}


def _largest(scores: npt.NDArray[np.float64]) -> set[int]:
    """Return where the largest scores above 0 stand, of equal ones the first: the same on every machine."""
    if len(scores) > NEAREST:
        least = np.partition(scores, -NEAREST)[-NEAREST]
        above, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
        chosen = [*above, *equal[: NEAREST - len(above)]]
    else:
        chosen = list(range(len(scores)))
    return {int(number) for number in chosen if scores[number] > 0}


def _words(example: Example) -> set[str]:
    return set(_WORD.findall(f"{as_line(example.input)} {as_line(example.target)}".casefold()))
