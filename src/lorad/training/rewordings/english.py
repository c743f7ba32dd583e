"""English: what fits into a slot, the word order after "tell me", and the content words of a question.

What lives here: the grammar behind ``english.yaml``. What never does: the sentences themselves.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from lorad.training.rewordings import forms
from lorad.training.rewordings.forms import Check, Families, capitalized
from lorad.training.rewordings.language import Language, body, is_masked, is_name, load, words

_DATA = load("english")
_ATTRIBUTES, _NOT_HELD, _OFFICES, _ROLES, _MAKERS, _MEASURES, _PARTICIPLES, _NOUNS_IN_ED_ING, _BASE_VERBS = (
    words(_DATA["words"][name])
    for name in (
        "attributes",
        "not_held",
        "offices",
        "roles",
        "makers",
        "measures",
        "participles",
        "nouns_in_ed_ing",
        "base_verbs",
    )
)

_WH = words("what which who whom whose where when how why")
_CONTRACTED = {word + mark for word in _WH for mark in ("'s", "\u2019s")}
_BE = words("is are was were")
_DO = words("do does did")
_MODALS = words("can could must may might shall should will would")
_AUXILIARIES = _BE | _DO | _MODALS
_FIRST_WORDS = (
    _WH | _CONTRACTED | _AUXILIARIES | words("in on at by from until till for during to under within")
)
_HAVE = words("has have had")
_PREPOSITIONS = words(
    "of for at in on by from to with about into per during through without within under over after before between near "
    "as until till against among around behind beside inside outside via upon off out up down"
)
_PARTITIVE = _WH | words("many much one two some half")
"""Before an "of" that decides: "which of the two", like "free of nuts"."""
_MOMENTS = words("year time day date month week")
_TALK = words("you your yourself")
_PLACE_OR_TIME = words("at in on during per each every")
_PRONOUNS = words("i you we he she it they one people")
_DETERMINERS = words("the a an my your our his her its their this that these those")
_DEFINITE = _DETERMINERS - {"a", "an"}
_CLAUSES = words("that which who whom whose if when where while because how what why than")
_FORMER = words("did was were will would")
"""What a keyword query keeps: "when did X open" is not "when does X open"."""
_UNASKED = words("do does is are am a an the of i we my our me please")
_NOT_DEFINABLE = words("matter point use deal catch difference best worst way reason")
_PAST = {
    "begin": "began", "become": "became", "buy": "bought", "come": "came", "cost": "cost", "cut": "cut", "do": "did",
    "eat": "ate", "find": "found", "get": "got", "give": "gave", "go": "went", "grow": "grew", "have": "had",
    "hold": "held", "keep": "kept", "leave": "left", "lose": "lost", "make": "made", "mean": "meant", "meet": "met",
    "pay": "paid", "put": "put", "read": "read", "run": "ran", "say": "said", "see": "saw", "sell": "sold",
    "send": "sent", "show": "showed", "sit": "sat", "speak": "spoke", "stand": "stood", "take": "took",
    "teach": "taught", "wear": "wore", "win": "won", "write": "wrote", "stop": "stopped", "submit": "submitted",
}  # fmt: skip

_SYNONYMS: dict[str, str] = dict(_DATA["synonyms"])
_SYNONYM = re.compile(
    r"\b(" + "|".join(sorted(map(re.escape, _SYNONYMS), key=len, reverse=True)) + r")\b(?! of\b)",
    re.IGNORECASE,
)
_SHORT_NOT = re.compile(r"n['\u2019]t\b")
_IDENTITY = re.compile(r"what (?:is|are|was|were) ", re.IGNORECASE)
_CONTRACTION = re.compile(r"^(what|who|where|when|how)['\u2019]s ", re.IGNORECASE)
_LONGEST_PHRASE = 12
"""Words; nobody asks for more in one breath, and what is longer was probably understood wrong."""


def _forms(question: str) -> list[list[str]]:
    plain = _CONTRACTION.sub(r"\1 is ", question)
    # "I forgot how you are": a talk with the model is no question about a fact
    is_talk = not _TALK.isdisjoint(body(plain).lower().split(" "))
    groups = forms.groups(_FAMILIES, plain, None if is_talk else clause(plain), _DATA["openings"]["clause"])
    if plain.partition(" ")[0].casefold() in _FIRST_WORDS:
        in_place = _in_place(plain)
        keywords = [
            _bare(plain),
            *_name_first(plain),
            *([] if _IDENTITY.match(plain) else map(_bare, in_place)),
        ]
        groups.append([_synonymous(plain), *in_place, *keywords])
    return groups


class _Order(NamedTuple):
    """A question in the order of a statement: "in which room" + "CS 101" + "meets" + "on Fridays"."""

    asked: list[str]
    subject: list[str]
    verb: list[str]
    after: list[str]


def clause(question: str) -> str | None:
    """Return what follows "tell me" ("where X is"), or None where the word order is not certain."""
    order = _order(question)
    return " ".join(word for part in order for word in part) if order else None


def _in_place(question: str) -> list[str]:
    """Return the question with what is asked for where an answer would stand: "CS 101 meets in which room?"."""
    order = _order(question)
    if order is None or order.asked[0] in {"whether", "why"} or not order.subject or not order.verb:
        return []
    asked, subject, verb, after = order
    if subject[0].lower() in _PRONOUNS | {"there"}:
        return []
    is_object = asked[0] in {"what", "which"} or asked[:2] in (["how", "many"], ["how", "much"])
    is_object &= asked[-1] not in _MOMENTS
    is_object &= not after or after[-1] not in _PREPOSITIONS
    ordered = [*subject, *verb, *asked, *after] if is_object else [*subject, *verb, *after, *asked]
    return [capitalized(" ".join(ordered)) + "?"]


def _order(question: str) -> _Order | None:
    tokens = body(question).split(" ")
    tokens[0] = tokens[0].lower()
    start = 1 if tokens[0] in _PREPOSITIONS else 0
    if len(tokens) < start + 2 or "," in question or _SHORT_NOT.search(question):
        return None
    if tokens[0] in _DO | _MODALS:
        return _uninverted(["whether"], tokens[0], tokens[1:])
    place = _auxiliary(tokens, start) if tokens[start] in _WH else None
    if place == len(tokens) - 1:
        return None
    if place is not None:
        return _uninverted(tokens[:place], tokens[place], tokens[place + 1 :])
    return _Order(tokens, [], [], []) if tokens[0] in _WH and _asks_for_subject(tokens) else None


def _asks_for_subject(tokens: list[str]) -> bool:
    """Whether a question without an auxiliary asks who does something: "which garage serves X"."""
    has = tokens.index("has") if "has" in tokens[:-1] else None
    is_perfect = {"have", "had"}.intersection(tokens) or (has and _is_participle(tokens[has + 1]))
    is_adverb = tokens[0] in {"how", "where", "when", "why"} and tokens[1] not in {"many", "much"}
    return not is_perfect and not is_adverb


def _auxiliary(tokens: list[str], start: int) -> int | None:
    """Return where the verb stands that swaps with the subject, or None where the question word is the subject."""
    for place in range(start + 1, len(tokens)):
        if tokens[place] in _CLAUSES:
            return None
        if tokens[place] in _AUXILIARIES:
            return place
    return None


def _uninverted(asked: list[str], verb: str, rest: list[str]) -> _Order | None:
    first = rest[0]
    if first.lower() in _PRONOUNS or (first == "there" and verb in _BE):
        known = [] if verb == "do" else [verb]
        return None if verb in {"does", "did"} else _Order(asked, [first], known, rest[1:])
    if verb in _BE:
        return _after_be(asked, verb, rest)
    if first == "not" or (verb in _MODALS and first in _BASE_VERBS | {"be"}):
        return _Order([*asked, verb, *rest], [], [], [])
    return _after_auxiliary(asked, verb, rest)


def _after_auxiliary(asked: list[str], verb: str, rest: list[str]) -> _Order | None:
    places = [
        place
        for place, word in enumerate(rest)
        if place and word in _BASE_VERBS | {"be"} and rest[place - 1] not in _DETERMINERS | _PREPOSITIONS
    ]
    if len(places) != 1 or (_CLAUSES | {"not"}).intersection(rest[: places[0]]):
        return _Order(asked, rest, [], []) if verb == "do" else None
    subject, (main, *after) = rest[: places[0]], rest[places[0] :]
    finite = {"does": [_third(main)], "did": [_past(main)], "do": [main]}.get(verb, [verb, main])
    if main == "be" and after and _is_participle(after[0]):
        finite.append(after.pop(0))
    return _Order(asked, subject, finite, after)


def _after_be(asked: list[str], verb: str, rest: list[str]) -> _Order | None:
    if _is_participle(rest[0]) or rest[0] in _PREPOSITIONS or (asked == ["who"] and rest[0].endswith("ing")):
        # The question word is the subject: "what is taught in X"
        return _Order([*asked, verb, *rest], [], [], [])
    if rest[-1] in _PREPOSITIONS and (asked[0] in {"which", "what"} or asked[:2] == ["how", "many"]):
        order = _around_state(asked, verb, rest[:-1])  # "which room is X held in"
        return order._replace(after=[*order.after, rest[-1]]) if order else None
    return _around_state(asked, verb, rest)


def _around_state(asked: list[str], verb: str, rest: list[str]) -> _Order | None:
    """Put the verb behind the subject, and before a participle that ends it: "CS 101" + "is held" + "on Fridays"."""
    states = [place for place, word in enumerate(rest) if _is_state(rest, place, word)]
    is_subject = _is_phrase(["the", *rest[1:]] if rest[0] in {"a", "an"} else rest)
    if not is_subject or len(states) > 1 or (asked == ["why"] and not states):  # "why is the sky blue"
        return None
    if not states:
        return _Order(asked, rest, [verb], [])
    place = states[0]
    is_last = place == len(rest) - 1 or rest[place + 1] in _PLACE_OR_TIME
    if not is_last or asked in (["what"], ["who"]):
        return None
    return _Order(asked, rest[:place], [verb, rest[place]], rest[place + 1 :])


def _is_state(rest: list[str], place: int, word: str) -> bool:
    if word.endswith("ing") and rest[place + 1 : place + 2] == ["of"]:
        return False  # "the rating of"
    if word.endswith("ing") and rest[place - 1] in _PREPOSITIONS:
        return False  # "the fee for changing X"
    return _is_participle(word) and place > 0 and rest[place - 1] not in _DETERMINERS | {"and", "or"}


def _is_participle(word: str) -> bool:
    if word in _PARTICIPLES:
        return True
    return word.islower() and word.endswith(("ed", "ing")) and word not in _NOUNS_IN_ED_ING | _PREPOSITIONS


def _third(verb: str) -> str:
    if verb == "have":
        return "has"
    if verb.endswith(("s", "sh", "ch", "x", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


def _past(verb: str) -> str:
    if verb in _PAST:
        return _PAST[verb]
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + ("d" if verb.endswith("e") else "ed")


def _synonymous(question: str) -> str:
    def other(match: re.Match[str]) -> str:
        right = _SYNONYMS[match[0].lower()]
        return capitalized(right) if match[0][0].isupper() else right

    return _SYNONYM.sub(other, question)


def _bare(question: str) -> str:
    """Return the content words, as typed into a search box; what decides (who, when, tense, prepositions) stays."""
    tokens = body(question).split(" ")
    first = tokens[0].lower()
    drop = (
        _UNASKED
        | ({"can", "could"} if first in _WH else set())
        | ({first} if first in {"what", "which"} and tokens[1:2] in (["is"], ["are"]) else set())
    )
    if first in _AUXILIARIES - {"do", "does", "is", "are"} or {
        "as",
        "than",
        "instead",
        "because",
        "out",
    } & set(tokens):
        return question
    if {"it", "there"}.intersection(tokens):
        return question
    if first in _FIRST_WORDS | _DETERMINERS:
        tokens[0] = first
    auxiliary = next((place for place, word in enumerate(tokens) if word in _AUXILIARIES), -1)
    drop -= _AUXILIARIES - {"can", "could"}  # only the first of them goes, by its place
    return " ".join(
        word
        for place, word in enumerate(tokens)
        if _decides(tokens, place) or not (word in drop or word == "I" or place == auxiliary)
    )


def _decides(tokens: list[str], place: int) -> bool:
    """Whether a small word must stay: the past, what may or must be, "free of nuts", "which of the two"."""
    if tokens[place] == "of":
        return place > 0 and (_is_participle(tokens[place - 1]) or tokens[place - 1] in _PARTITIVE)
    return tokens[place] in _FORMER | _MODALS - {"can", "could"}


def _name_first(question: str) -> list[str]:
    """Return the content words with the name at the end before the others: "Kestrel Hall where park"."""
    tokens = body(question).split(" ")
    start = len(tokens)
    while start > 1 and is_name(tokens[start - 1]):
        start -= 1
    if start == len(tokens) or tokens[start - 1] not in {"of", "at", "in", "the"} or "and" in tokens:
        return []
    others = tokens[: start - 1]
    if others[-1] in {"at", "in", "of"}:
        others.pop()
    if not others or _PREPOSITIONS.intersection(others) - {"of"}:
        return []
    bare = _bare(" ".join(others))
    return [" ".join([*tokens[start:], bare])] if bare != " ".join(others) else []


# What fits into a slot.


def _is_phrase(tokens: list[str]) -> bool:
    """Whether the words are one definite thing: "the deposit for X", "our office", "Kestrel Hall", a masked code."""
    if not tokens or len(tokens) > _LONGEST_PHRASE or tokens[-1] in _PREPOSITIONS | _DETERMINERS:
        return False
    if not (tokens[0].lower() in _DEFINITE or is_name(tokens[0]) or _is_possessive(tokens)):
        return False
    return not any(word in _CLAUSES | _AUXILIARIES | _HAVE or word.endswith(",") for word in tokens[1:])


def _is_possessive(tokens: list[str]) -> bool:
    return any(word.endswith(("'s", "\u2019s")) for word in tokens[:4])


def _is_thing(text: str) -> bool:
    tokens = text.split(" ")
    if (
        not _is_phrase(tokens)
        or tokens[0].lower() not in _DEFINITE
        or _NOT_DEFINABLE.intersection(tokens[1:3])
    ):
        return False
    if any(word.endswith("est") or word in {"minimum", "maximum"} for word in tokens[1:3]):
        return (
            "called" not in tokens
        )  # "the largest dog allowed in X" is a thing, though a participle stands in it
    return (
        not any(_is_state(tokens, place, word) for place, word in enumerate(tokens))
        and "called" not in tokens
    )


def _is_entity(text: str) -> bool:
    tokens = text.split(" ")
    return _is_phrase(tokens) or (
        len(tokens) == 1 and text.isalpha() and text.lower() not in _PRONOUNS | _CLAUSES
    )


def _is_held(text: str) -> bool:
    """Whether "X has" reads well: one short thing, nothing behind it."""
    tokens = text.split(" ")
    is_short = len(tokens) <= 5 and not _PREPOSITIONS.intersection(tokens)  # noqa: PLR2004 - a short phrase
    return is_short and _is_entity(text) and not tokens[-1].endswith("s")


def _is_place(text: str) -> bool:
    tokens = text.split(" ")
    return _is_phrase(tokens) and not any(_is_state(tokens, place, word) for place, word in enumerate(tokens))


def _is_contact(text: str) -> bool:
    """Whether one can only mean to phone or write to it: "how do I call a function" asks for no number."""
    tokens = text.removeprefix("the ").split(" ")
    is_named = all(word[:1].isupper() or word in {"of", "and", "&"} for word in tokens)
    head = text.partition(" of ")[0].rpartition(" ")[2].lower()
    is_office = (
        head in _OFFICES | _ROLES and _is_phrase(text.split(" ")) and text.startswith(("the ", "my ", "our "))
    )
    return is_named or (is_office and not any(word in _PREPOSITIONS - {"of", "at", "in"} for word in tokens))


def _is_item(text: str) -> bool:
    tokens = text.split(" ")
    begins = tokens[0].lower() in _DETERMINERS or is_name(tokens[0]) or len(tokens) == 1
    is_phrase = _is_phrase(["the", *tokens[tokens[0].lower() in _DETERMINERS :]])
    is_plain = not (_MEASURES | _PRONOUNS | {"plus", "minus", "times", "divided"}).intersection(
        word.lower() for word in tokens
    )
    return (
        begins
        and is_phrase
        and is_plain
        and _is_place(" ".join(["the", *tokens[tokens[0].lower() in _DETERMINERS :]]))
    )


def _is_attribute(text: str) -> bool:
    tokens = text.split(" ")
    is_short = len(tokens) <= 4 and not _PREPOSITIONS.intersection(tokens)  # noqa: PLR2004
    is_known = (
        is_masked(tokens[-1])
        or tokens[-1].lower() in _ATTRIBUTES
        or " ".join(tokens[-2:]).lower() in _ATTRIBUTES
    )
    return is_short and is_known and not _DETERMINERS.intersection(tokens)


def _is_noun(text: str) -> bool:
    tokens = text.split(" ")
    stray = _PREPOSITIONS | _CLAUSES | _AUXILIARIES | _HAVE | _PRONOUNS | _DETERMINERS
    return len(tokens) <= 4 and not stray.intersection(tokens)  # noqa: PLR2004


def _is_verb(text: str) -> bool:
    if " " in text or not text.islower() or text in _HAVE | _AUXILIARIES | _CLAUSES:
        return False
    return (text.endswith("s") and not text.endswith("ss")) or text.endswith("ed") or text in _PAST.values()


def _is_known_verb(text: str) -> bool:
    return text == "has" or any(
        text == _third(verb)
        for verb in (text[:-1], text[:-2], text[:-3] + "y")
        if verb in _BASE_VERBS - {"do"}
    )


def _is_role(text: str) -> bool:
    tokens = text.split(" ")
    is_known = tokens[-1] in _ROLES or is_masked(tokens[-1])
    return len(tokens) <= 4 and is_known and not _PREPOSITIONS.intersection(tokens)  # noqa: PLR2004


_CHECKS: Mapping[str, Check] = {
    "x": _is_entity,
    "held": _is_held,
    "contact": _is_contact,
    "noun": lambda text: text.startswith("the ") and _is_phrase(text.split(" ")),
    "place": _is_place,
    "places": _is_place,
    "plural": lambda text: _is_phrase(["the", *text.split(" ")]) and _is_place("the " + text),
    "thing": _is_thing,
    "item": _is_item,
    "r": _is_attribute,
    "quality": lambda text: _is_attribute(text) and text.rpartition(" ")[2].lower() not in _NOT_HELD,
    "n": _is_noun,
    "acts": _is_verb,
    "does": _is_known_verb,
    "kind": lambda text: _is_noun(text.replace(" of ", " ")) and not text.partition(" of ")[0].endswith("s"),
    "what": lambda text: "," not in text and text.partition(" ")[0] not in _BASE_VERBS | {"to"},
    "role": _is_role,
    "post": lambda text: _is_role(text) and text.rpartition(" ")[2] not in _MAKERS,
    "rest": lambda text: not text or text.partition(" ")[0] in _PREPOSITIONS - {"of"},
    "day": lambda text: text.startswith(("on ", "in the ", "for breakfast", "for lunch", "for dinner")),
}


def _families() -> Iterator[dict[str, list[str]]]:
    yield from _DATA["families"]
    for row in _DATA["roles_of_verbs"]:
        verb, role = row["verb"], row["role"]
        yield {
            "read": [f"Who {verb} {{x}}?"],
            "say": [f"Who is the {role} of {{x}}?", f"{{x}}: who is the {role}?"],
        }
        if row.get("back"):
            said = [
                f"Who {verb} {{x}}?",
                f"The person who {verb} {{x}} is who?",
                f"Name the person who {verb} {{x}}.",
            ]
            yield {"read": [f"Who is the {role} of {{x}}?"], "say": said}


_FAMILIES = Families(_families(), _CHECKS, ("the ", "a ", "an "))

ENGLISH = Language(
    function_words=(
        _WH | _CONTRACTED | _AUXILIARIES | _PRONOUNS | words("the of and for to at please from give with")
    )
    - words("was will he"),  # German has them too
    first_words=_FIRST_WORDS,
    asking=_WH | _CONTRACTED,
    imperatives=words(
        "write explain describe translate summarize summarise list name give state compare tell show create make find "
        "calculate compute classify rewrite suggest define generate convert draft solve identify"
    ),
    article="the",
    forms=_forms,
    openings=_DATA["openings"]["question"],
    requests=_DATA["openings"]["request"],
)
