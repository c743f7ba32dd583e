"""French: what fits into a slot, and which questions follow "dites-moi" as they are.

What lives here: the grammar behind ``french.yaml``. What never does: the sentences themselves.
"""

from collections.abc import Mapping

from lorad.training.rewordings import forms
from lorad.training.rewordings.forms import Check, Families
from lorad.training.rewordings.language import Language, body, is_name, load, words

_DATA = load("french")
_WH = words("quel quelle quels quelles qui où quand comment combien pourquoi lequel laquelle")
_ARTICLES = (
    "le ",
    "la ",
    "les ",
    "l'",
    "l\u2019",
    "mon ",
    "ma ",
    "mes ",
    "votre ",
    "notre ",
    "son ",
    "sa ",
    "ses ",
)
_VERBS = words("est sont était étaient a ont peut doit faut")
_LONGEST_PHRASE = 12
"""Words; what is longer was probably understood wrong."""


def _forms(question: str) -> list[list[str]]:
    return forms.groups(_FAMILIES, question, clause(question), _DATA["openings"]["clause"])


def clause(question: str) -> str | None:
    """Return what follows "dites-moi" ("où se trouve X"), or None where the verb would have to move."""
    tokens = body(question).lower().split(" ")
    first = tokens[1] if tokens[0] in {"à", "de", "dans", "en", "depuis", "sur", "pour", "par"} else tokens[0]
    is_turned = any(
        word.endswith(("-je", "-tu", "-il", "-elle", "-on", "-nous", "-vous", "-ils")) for word in tokens
    )
    if first not in _WH or is_turned or "," in question or len(tokens) < 3:  # noqa: PLR2004 - too short to tell
        return None
    text = body(question)
    return (text[:1].lower() + text[1:]).replace(" est-ce que ", " ").replace(" est-ce qu'", " ")


def _is_thing(text: str) -> bool:
    is_one = text.startswith(_ARTICLES) and not _VERBS.intersection(text.split(" "))
    return is_one and "," not in text and len(text.split(" ")) <= _LONGEST_PHRASE


_CHECKS: Mapping[str, Check] = {
    "thing": _is_thing,
    "x": lambda text: _is_thing(text) or (is_name(text) and "," not in text),
    "name": lambda text: is_name(text) and "," not in text,
}
_FAMILIES = Families(_DATA["families"], _CHECKS, ("le ", "la ", "les ", "l'", "l\u2019"))

FRENCH = Language(
    function_words=_WH
    | words(
        "le la les des du un une est sont et ou de à dans pour quelle je vous il nous est-ce que qu'est-ce"
    ),
    first_words=_WH | words("à de dans depuis sur pour par est-ce"),
    asking=_WH | {"à", "de", "dans"},
    imperatives=words("donnez-moi donne-moi écris écrivez traduis traduisez expliquez explique décris"),
    article="",
    forms=_forms,
    openings=_DATA["openings"]["question"],
    requests=_DATA["openings"]["request"],
)
