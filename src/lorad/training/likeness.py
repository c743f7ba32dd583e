"""Which old examples are asked as the new ones are: what is learned pushes those out first. Pure.

What lives here: comparing the words of questions. What never does: choosing what is rehearsed (``rehearsal``) or tested
(``spot_checks``).

"Which CAS number identifies radon?" and "Which CAS number identifies iron?" differ in one word, and an adapter that learns the one
changes what is said to the other: of 42 rows that four sessions lost on the way, 36 were of the same catalogue as the new ones, a fifth of
all old rows (decision 105).
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lorad.records import Example, as_line

ALIKE = 2 / 3
"""Cosine of two questions' words (each word once) from which on they are asked alike. Among five public catalogues, two questions of the
same form have 0.75 to 0.91, others mostly less than 0.6."""
MOST_WORDS = 512
"""Words that are compared, those that stand in most of the new questions: what they are about is rarer."""
MOST_NEW = 1000
"""New examples that need be compared."""
_TOGETHER = 4096

_WORD = re.compile(r"\w+")


def alike(new: Sequence[Example], old: Sequence[Example]) -> set[int]:
    """Return the numbers of the old examples that are asked in the words of some new one."""
    asked = list(map(_words, new))
    counts = Counter(word for words in asked for word in words)
    places = {word: place for place, (word, _) in enumerate(counts.most_common(MOST_WORDS))}
    if not places:
        return set()
    theirs = _vectors(asked, places)
    found: set[int] = set()
    for begin in range(0, len(old), _TOGETHER):
        own = _vectors([_words(example) for example in old[begin : begin + _TOGETHER]], places)
        nearest = (own @ theirs.T).max(axis=1)
        found.update(begin + int(number) for number in np.flatnonzero(nearest >= ALIKE))
    return found


def _vectors(asked: Sequence[set[str]], places: dict[str, int]) -> npt.NDArray[np.float32]:
    """Return which of the words that are compared stand in each question, over the root of how many words it has, [questions, words]."""
    vectors = np.zeros((len(asked), len(places)), np.float32)
    for row, words in enumerate(asked):
        vectors[row, [places[word] for word in words & places.keys()]] = max(1, len(words)) ** -0.5
    return vectors


def _words(example: Example) -> set[str]:
    return set(_WORD.findall(as_line(example.input).casefold()))
