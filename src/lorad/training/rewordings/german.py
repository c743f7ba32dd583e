"""German: what fits into a slot, and the verb at the end of a clause.

What lives here: the grammar behind ``german.yaml``. What never does: the sentences themselves.
"""

from collections.abc import Mapping

from lorad.training.rewordings import forms
from lorad.training.rewordings.forms import Check, Families
from lorad.training.rewordings.language import Language, body, is_name, load, words

_DATA = load("german")
_WH = words("was wer wen wem wessen wo wohin woher wann wie warum wieso weshalb wozu womit")
_WHICH = words("welche welcher welches welchen welchem")
_FINITE = words(
    "ist sind war waren hat haben hatte wird werden wurde wurden kann können konnte muss müssen darf dürfen soll sollen "
    "gilt gelten gehört gehören liegt liegen steht stehen kostet kosten braucht brauchen"
)
_DEGREES = words("viel viele lange hoch groß oft spät weit alt teuer breit schwer schnell tief lang")
_PREFIXES = words("an ab auf aus ein mit nach vor zu zurück statt teil bei los")
_PREPOSITIONS = words("in im an am auf aus bei von vom zu zum zur ab bis seit mit nach für über unter um")
_LONGEST_PHRASE = 10
"""Words; what is longer was probably understood wrong."""


def _forms(question: str) -> list[list[str]]:
    return forms.groups(_FAMILIES, question, clause(question), _DATA["openings"]["clause"])


def clause(question: str) -> str | None:
    """Return what follows "sag mir," ("wo X ist"): the finite verb moves to the end, None where it is not certain."""
    tokens = body(question).split(" ")
    tokens[0] = tokens[0].lower()
    place = _finite(tokens)
    if place is None or place + 1 >= len(tokens) or "," in question:
        return None
    verb, rest = tokens[place], tokens[place + 1 :]
    if rest[-1] in _PREFIXES:
        verb = rest.pop() + verb
    return " ".join([*tokens[:place], *rest, verb])


def _finite(tokens: list[str]) -> int | None:
    """Return where the finite verb stands."""
    start = 1 if tokens[0] in _PREPOSITIONS else 0
    if len(tokens) <= start + 1:
        return None
    if tokens[start] in _WH:
        place = start + 2 if tokens[start + 1] in _DEGREES else start + 1
        if start or (place == start + 2 and tokens[start + 1] != "viel"):
            return _known(tokens, start + 1)
        return place if place < len(tokens) and tokens[place].islower() else _known(tokens, start + 1)
    return _known(tokens, start + 1) if tokens[start] in _WHICH else None


def _known(tokens: list[str], start: int) -> int | None:
    places = [place for place in range(start, min(start + 4, len(tokens))) if tokens[place] in _FINITE]
    return places[0] if places else None


def _is_thing(text: str) -> bool:
    tokens = text.split(" ")
    is_short = 2 <= len(tokens) <= _LONGEST_PHRASE  # noqa: PLR2004 - an article and a noun
    return is_short and tokens[0] in {"die", "das"} and "," not in text and _ends_in_noun(tokens)


def _is_entity(text: str) -> bool:
    tokens = text.split(" ")
    begins = tokens[0] in {"die", "das"} or is_name(tokens[0])
    return begins and len(tokens) <= _LONGEST_PHRASE and "," not in text and _ends_in_noun(tokens)


def _ends_in_noun(tokens: list[str]) -> bool:
    """Whether no participle or adjective ends the words: "die Mensa geöffnet" is no thing."""
    return is_name(tokens[-1]) and not _FINITE.intersection(tokens)


_CHECKS: Mapping[str, Check] = {
    "thing": _is_thing,
    "x": _is_entity,
    "name": lambda text: is_name(text) and "," not in text,
    "n": lambda text: text[:1].isupper() and " " not in text,
    "rest": lambda text: "," not in text,
}
_FAMILIES = Families(_DATA["families"], _CHECKS, ("die ", "das "))

GERMAN = Language(
    function_words=(
        _WH
        | _WHICH
        | _PREPOSITIONS
        | words("der die das den dem des ein eine einen einer")
        | words("ist sind wird wurde hat haben kann muss ich du sie wir und oder nicht mir bitte")
    )
    - words("was an in am"),  # English has them too
    first_words=_WH | _WHICH | _PREPOSITIONS | _FINITE,
    asking=_WH | _WHICH | _PREPOSITIONS,
    imperatives=words("nenne nennen schreibe schreib erkläre beschreibe übersetze"),
    article="",
    forms=_forms,
    openings=_DATA["openings"]["question"],
    requests=_DATA["openings"]["request"],
)
