"""Two questions in one, taken apart. Pure: text in, text out.

What lives here: where one question ends and the next begins. What never does: finding what answers them.
"""

import re

MOST = 3
"""Parts; a longer list is no question of facts any more."""
LEAST_WORDS = 2
"""Words of a part."""

_STARTS = (
    "who|whom|whose|what|when|where|which|why|how|is|are|was|were|do|does|did|can|could|may|must|until|since|at what|in which|on which"
    "|wer|wen|wem|was|wann|wo|wohin|welche[rsnm]?|warum|wie|bis|seit|ist|sind|kann|darf|muss"
    "|qui|quand|où|quel(?:le)?s?|pourquoi|comment|combien|est-ce"
)
_BORDER = re.compile(
    rf"(?:\s*[?!.;]\s+(?:(?:and|und|et)\s+)?|\s*,?\s+(?:and|und|et)\s+)(?=(?:{_STARTS})\b)", re.IGNORECASE
)
_ASKS = re.compile(rf"(?:{_STARTS})\b", re.IGNORECASE)


def parts(question: str) -> list[str]:
    """Return the questions in a text, in order; the whole text where it is one.

    Each must begin with a question word, behind "and" or the end of a sentence: "When is it open on Saturdays and Sundays?"
    is one, and so is "My novel is overdue; what does that cost?", which tells first what it asks for.
    """
    # a long run of blanks would be tried at each of its places, and hold up the whole process
    found = [part.strip() for part in _BORDER.split(" ".join(question.split()))]
    is_apart = 1 < len(found) <= MOST and all(
        len(part.split()) >= LEAST_WORDS and _ASKS.match(part) for part in found
    )
    return found if is_apart else [question]
