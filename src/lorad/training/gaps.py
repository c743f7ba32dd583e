"""A question and its answer with gaps, so that whatever is remembered of a fact brings the rest. Pure: text in, text out.

What lives here: which words of an example become gaps. What never does: other wordings of its question
(``augmentation``), models, tokens, clocks.

A question in other words shares with the trained one what it shares with the answer: "The office can be reached at" says
of a phone number what its question does not. So an example is also asked with the sentence of its answer, from which the
fact is taken out, alone or beside the question, and with some other words missing. The model completes it with the answer.
Reconstructing masked text instead of rewording it is Kang et al., arXiv 2510.09885; what it brings here is in bench/LOG.md.
"""

import random
from collections.abc import Sequence

from lorad.evaluation import facts
from lorad.retrieval.words import names, words

GAP = "___"
MISSING_SHARE = 0.3
"""Of the words so many are left out beside the fact, but no names."""
MISSING_SHARE_ALONE = 0.1
"""The same where the answer's sentence asks alone: with less of it, it would ask for several things."""
LONGEST = 400
"""Characters of question and answer together; longer ones are texts and no facts."""
LEAST_WORDS = 3
"""Words of an answer's sentence that must be left to ask with it alone."""
LEAST_LETTERS = 4
"""Of a word that question and answer share, to say what both are about where neither names anything."""
ALONE_SHARE = 0.4
"""Of the texts with gaps: so many are the answer's sentence alone, where it says what is asked."""
MOST_TRIES = 4
"""Draws for each text that is wanted: a short example has few."""


def with_gaps(question: str, answer: str, count: int, seed: int) -> list[str]:
    """Return up to ``count`` different texts with gaps, of question and answer or the answer alone, without its fact.

    The same arguments give the same texts, and a smaller ``count`` gives the first of them. None come back where either
    is not one line of words between spaces, or both are long.
    """
    asked, told = question.split(), answer.split()
    lines = len(question.strip().splitlines()) + len(answer.strip().splitlines())
    if count < 1 or lines != 2 or len(question) + len(answer) > LONGEST or len(asked) < 2:  # noqa: PLR2004 - one line each
        return []
    chance = random.Random(f"{seed}\n{question}\n{answer}")  # noqa: S311 - a reproducible choice, not a secret
    named = frozenset(names(question))
    hidden = _fact(question, answer)
    can_ask_alone = _says_what_is_asked(asked, told, hidden, named)
    found: list[str] = []
    for _ in range(count * MOST_TRIES):
        text = _draw(asked, told, hidden, named, chance, can_ask_alone=can_ask_alone)
        if text not in found:
            found.append(text)
        if len(found) == count:
            break
    return found


def _draw(
    asked: Sequence[str],
    told: Sequence[str],
    hidden: frozenset[int],
    named: frozenset[str],
    chance: random.Random,
    *,
    can_ask_alone: bool,
) -> str:
    if can_ask_alone and chance.random() < ALONE_SHARE:
        return _gapped(told, hidden, named, chance, MISSING_SHARE_ALONE)
    both = [_gapped(asked, frozenset(), named, chance), _gapped(told, hidden, named, chance)]
    return " ".join(both if chance.random() < 0.5 else both[::-1])  # noqa: PLR2004 - either order


def _fact(question: str, answer: str) -> frozenset[int]:
    """Return the places of the words of an answer that the fact stands in; where it has none, of all that is new in it."""
    told = answer.split()
    known = set(words(question))
    kept = {part for slot in facts.slots(question, answer) for key in slot.key for part in words(key)}
    new = [(place, set(words(word)) - known) for place, word in enumerate(told)]
    found = {place for place, parts in new if parts & kept or any(map(_has_digit, parts))}
    return frozenset(found or {place for place, parts in new if parts})


def _has_digit(word: str) -> bool:
    return any(map(str.isdigit, word))


def _says_what_is_asked(
    asked: Sequence[str], told: Sequence[str], hidden: frozenset[int], named: frozenset[str]
) -> bool:
    """Tell whether an answer's sentence asks for its fact by itself: "It is ___." might ask for anything."""
    left = {part for place, word in enumerate(told) if place not in hidden for part in words(word)}
    shared = left & {part for word in asked for part in words(word)}
    says_of_what = named <= left if named else any(len(word) >= LEAST_LETTERS for word in shared)
    return says_of_what and len(left) >= LEAST_WORDS


def _gapped(
    text: Sequence[str],
    hidden: frozenset[int],
    named: frozenset[str],
    chance: random.Random,
    missing_share: float = MISSING_SHARE,
) -> str:
    """Return the words with gaps for what is hidden and for some of the others, but for names; gaps side by side are one."""
    open_to_gaps = [
        place for place, word in enumerate(text) if place not in hidden and not named & set(words(word))
    ]
    # sorted by draws: only random() is promised to draw the same in every version of Python
    missing = sorted(open_to_gaps, key=lambda _: chance.random())[: round(missing_share * len(text))]
    found: list[str] = []
    for place, word in enumerate(text):
        if place not in hidden and place not in missing:
            found.append(word)
        elif found[-1:] != [GAP]:
            found.append(GAP)
    return " ".join(found)
