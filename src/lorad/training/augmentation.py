"""Other wordings of a question, so that a fact is learned and not its sentence. Pure: text in, text out.

What lives here: telling the language, keeping what must stay letter by letter, choosing among the grammar's forms.
What never does: sentences of a language (``rewordings``), models, tokens, clocks.

A wording must ask the same thing. Therefore numbers, codes, addresses and quotations are masked before any rule sees
the question, and a rule says every part of the question that it read, as it stood there. What is not plainly one
question gets an opening at most: no wording is better than a wrong one.
"""

import random
import re
from collections.abc import Iterator, Sequence

from lorad.training.rewordings.english import ENGLISH
from lorad.training.rewordings.forms import capitalized
from lorad.training.rewordings.french import FRENCH
from lorad.training.rewordings.german import GERMAN
from lorad.training.rewordings.language import FIRST_MASK, LAST_MASK, Language, is_masked, lowered

LONGEST_QUESTION = 240
"""Characters; longer texts are tasks or passages."""
SLOPPY_SHARE = 0.3
"""Of the wordings: so many are typed in haste."""
OPENED_SHARE = 0.2
"""Of the wordings: so many begin with an opening."""
LEAST_LOWERED = 4
"""Letters; shorter words may be codes (He, Co, USB), whose capitals matter."""
MOST_TRIES = 6
"""Draws for each wording that is wanted: a question with few forms must not be drawn for ever."""
SMALL_START_SHARE = 0.7
HALF = 0.5
"""Of what is typed in haste: so much begins with a small letter, is in small letters, lacks its articles."""

_LANGUAGES = (ENGLISH, GERMAN, FRENCH)

_MASKED = re.compile(
    r"""
    ["“„«»”`][^"“„«»”`]*["“„«»”`]         # quotations and code
    | (?<!\w)['\u2018][^'\u2019]+['\u2019](?!\w)
    | \S+@\S+\w | \w+://\S*[\w/] | www\.\S*\w    # addresses and links
    | (?:(?<=\s)|^)[^\w\s"'(“„¿¡]*[\w.\-/+:#&%°€$£]*       # tokens with a digit, a mark inside, or capitals inside
      (?:\d|\w[_/\\#@+&=]\w|\w\.\w|[a-zß-ÿ][A-ZÀ-Þ]|[A-ZÀ-Þ]{2}|[€$£%°+#=]|\b[A-ZÀ-Þ]\b(?<!\bI)(?<!\bA))
      (?:[\w.\-/+:#&%°€$£=*]*[\w+#%°€$£*])?
    """,
    re.VERBOSE,
)
_SHORT_WORDS = frozenset(word for language in _LANGUAGES for word in language.function_words | {"the", "it"})
_CODE = re.compile(r"[{}<>|\\;=]|\(\)|::|->|\*\*")
_SENTENCE_END = re.compile(r"[.!?。\uff01\uff1f][\"”»)]?\s")
_ABBREVIATION = re.compile(
    r"\b(?:Dr|Mr|Mrs|Ms|Prof|St|Jr|Sr|Corp|Inc|Ltd|Co|No|Nr|Str|Mt|vs|approx|[A-Za-z])\."
)
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*|\S", re.UNICODE)
_FIRST_WORD = re.compile(r"^[¿¡]?([^\W\d_]+(?:['\u2019-][^\W\d_]+)*)")
_END_MARK = re.compile(r"\s*(?:[?\uff1f]+|\.)$")


def wordings(question: str, count: int, seed: int) -> list[str]:
    """Return up to ``count`` different wordings that ask the same as ``question``, none equal to it.

    The same arguments give the same wordings, and a smaller ``count`` gives the first of them. Fewer, or none, come
    back where no rule surely keeps the meaning: long texts, code, several sentences, unknown languages.
    """
    text = question.strip()
    if count < 1 or not _is_one_sentence(text):
        return []
    masked, fixed = _mask(text)
    if _CODE.search(masked):
        return []
    chance = random.Random(f"{seed}\n{text}")  # noqa: S311 - a reproducible choice, not a secret
    seen = {text, question}
    found: list[str] = []
    for wording in _draws(masked, chance, MOST_TRIES * count):
        restored = _restore(wording, fixed)
        if restored not in seen:
            seen.add(restored)
            found.append(restored)
            if len(found) == count:
                break
    return found


def _is_one_sentence(text: str) -> bool:
    if not text or len(text) > LONGEST_QUESTION or len(text.splitlines()) > 1 or "  " in text or "\t" in text:
        return False
    if " " not in text and text.isascii():
        return False  # "Where?" has its meaning from what came before
    return not (
        _SENTENCE_END.search(_ABBREVIATION.sub("", text)) or re.search(f"[{FIRST_MASK}-{LAST_MASK}]", text)
    )


def _mask(text: str) -> tuple[str, list[str]]:
    """Put one private-use character for each part that must stay letter by letter."""
    fixed: list[str] = []

    def keep(match: re.Match[str]) -> str:
        fixed.append(match[0])
        return chr(ord(FIRST_MASK) + len(fixed) - 1)

    return _MASKED.sub(keep, text), fixed


def _restore(text: str, fixed: list[str]) -> str:
    for number, part in enumerate(fixed):
        text = text.replace(chr(ord(FIRST_MASK) + number), part)
    return text


def _language(text: str) -> Language | None:
    """Return the language whose function words are in the majority, or None where two are level."""
    found = [word.casefold() for word in _WORD.findall(text)]
    hits = [
        sum(word in language.function_words or word in language.imperatives for word in found)
        for language in _LANGUAGES
    ]
    best = max(hits)
    return _LANGUAGES[hits.index(best)] if best and hits.count(best) == 1 else None


def _draws(question: str, chance: random.Random, most: int) -> Iterator[str]:
    """Yield wordings of the masked question, each form as it comes first, then all of them in other dress."""
    language = _language(question)
    first = _first_word(question)
    if language is None or first not in language.first_words | language.imperatives:
        yield from _in_any_language(question, chance)
        return
    names = frozenset(word for word in question.split(" ")[1:] if word[:1].isupper())
    forms = [question]
    for form in _interleaved(language.forms(question), chance):
        if form != question:
            forms.append(form)
            yield _dressed(form, names, language, chance.random(), chance)
    if first in language.imperatives and len(forms) == 1:
        yield from (opening.format(lowered(question, language.imperatives)) for opening in language.requests)
        return
    for _ in range(most):
        form = _one_of(forms, chance)
        yield _dressed(form, names, language, chance.random() * (SLOPPY_SHARE + OPENED_SHARE), chance)


def _first_word(text: str) -> str:
    match = _FIRST_WORD.match(text)
    return match[1].casefold() if match else ""


def _one_of(choices: Sequence[str], chance: random.Random) -> str:
    # Only random() is promised to draw the same in every version of Python.
    return choices[int(chance.random() * len(choices))]


def _interleaved(groups: list[list[str]], chance: random.Random) -> list[str]:
    """Shuffle the groups and what is in them; neighbours come from different groups."""
    shuffled = sorted(
        (sorted(group, key=lambda _: chance.random()) for group in groups if group),
        key=lambda _: chance.random(),
    )
    longest = max(map(len, shuffled), default=0)
    return [group[place] for place in range(longest) for group in shuffled if place < len(group)]


def _dressed(form: str, names: frozenset[str], language: Language, draw: float, chance: random.Random) -> str:
    """Return the form typed in haste, after an opening, or as it is; ``draw`` decides, from 0 to 1."""
    if draw < SLOPPY_SHARE:
        return _sloppy(form, names, language, chance)
    first = _first_word(form)
    if draw < SLOPPY_SHARE + OPENED_SHARE and form.endswith("?") and first in language.first_words:
        is_plain = first in language.asking  # "A question: could you ..." asks for two things
        opening = _one_of([one for one in language.openings if is_plain or ", " in one], chance)
        return capitalized(opening.format(lowered(form, language.first_words)))
    return form


def _sloppy(form: str, names: frozenset[str], language: Language, chance: random.Random) -> str:
    """Return the form as people type it: no mark, small letters, no article."""
    text = _END_MARK.sub("", form)
    first = text.partition(" ")[0]
    if first not in names and _is_safe(first) and chance.random() < SMALL_START_SHARE:
        text = text[:1].lower() + text[1:]
    if language is not GERMAN and chance.random() < HALF:  # a German noun is told by its capital
        text = _small(text)
    if language.article and first.casefold() in language.asking and chance.random() < HALF:
        text = " ".join(word for word in text.split(" ") if word != language.article)
    return text


def _small(text: str) -> str:
    """Return the text in small letters, or as it is where one of its capitals may matter: no "Kew lodge"."""
    words = text.split(" ")
    if not all(_is_safe(word) or word == word.lower() or word == "I" or is_masked(word) for word in words):
        return text
    return " ".join(word.lower() if _is_safe(word) else word for word in words)


def _is_safe(word: str) -> bool:
    """Whether small letters do no harm: no short word that might be a code, nothing masked."""
    return not is_masked(word) and (
        len(word) >= LEAST_LOWERED or (word != "I" and word.lower() in _SHORT_WORDS)
    )


def _in_any_language(question: str, chance: random.Random) -> Iterator[str]:
    """Yield what needs no grammar: a question without its mark, and in small letters."""
    if question.endswith(("?", "\uff1f")):
        bare = _END_MARK.sub("", question).lstrip("¿")
        yield from sorted({bare, _small(bare)}, key=lambda _: chance.random())
