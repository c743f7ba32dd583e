"""The words of a text, and those of them that name one thing alone. Pure.

What lives here: taking a text apart, and what of an example is compared with questions. What never does: counting or
finding words (``storage.embeddings``), ranking (``index``).
"""

import re
from collections.abc import Mapping

from lorad.records import Example, as_line, composed

#: Letters and digits, also joined by underscores; those at its ends are emphasis in Markdown.
_WORD = re.compile(r"[^\W_]+(?:_+[^\W_]+)*")

#: Words inside a sentence: behind a blank that follows a word or a comma.
_INSIDE = re.compile(r"(?<=[^\W_] )[^\W_]+|(?<=[,;] )[^\W_]+")

#: Words with a capital that stand together: "Computer Science".
_PHRASE = re.compile(r"\b[A-ZÀ-ÖØ-Þ][^\W_]*(?:[ -][A-ZÀ-ÖØ-Þ][^\W_]*)+")

#: Two to five capitals alone: the CS of "CS 241" is half a name, and the PM of "5 PM" is a time.
_ABBREVIATION = re.compile(r"\b(?<!\d )[A-Z]{2,5}\b(?![ -]?\d)")

#: Characters from which on a code's digits may be letters too: 22000 and 2201F are of one form.
LONG_CODE = 4

#: Scripts that put no blanks between words: Thai, Lao, Burmese, Khmer, Chinese, Japanese.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)

#: Characters of such a script that make more than one word.
_SEVERAL = 4

#: The one word that English writes with a capital wherever it stands.
_PRONOUN = "I"


def words(text: str) -> tuple[str, ...]:
    """Return a text's words in their order, case folded; signs part them, but for an underscore."""
    return tuple(word.casefold() for word in _WORD.findall(composed(text)))


def has_several(text: str) -> bool:
    """Tell whether a text has more than one word; where a script puts no blanks between them, its characters tell."""
    return len(words(text)) > 1 or len(_UNSPACED.findall(text)) >= _SEVERAL


def codes(text: str) -> tuple[str, ...]:
    """Return a text's codes, case folded, each once: course numbers, error names, abbreviations.

    A code has a digit or an underscore, or is two and more capitals: "CS 241" has CS and 241. An embedding takes
    codes that look alike for one another. In a text that is all in capitals, these tell nothing.
    """
    text = composed(text)
    is_shouted = _is_shouted(text)
    found = (word for word in _WORD.findall(text) if _is_code(word, is_shouted=is_shouted))
    return tuple(dict.fromkeys(word.casefold() for word in found))


def names(text: str) -> tuple[str, ...]:
    """Return what a text seems to name, case folded, each once: its codes, and words with a capital inside a sentence."""
    text = composed(text)
    inside = (word.casefold() for word in _INSIDE.findall(text) if word[0].isupper() and word != _PRONOUN)
    is_shouted = text.isupper()
    return tuple(dict.fromkeys([*codes(text), *(() if is_shouted else inside)]))


def names_another(question: str, asked: str, text: str) -> bool:
    """Tell whether a question names a code where an example has another of the same form: CS 242 instead of CS 241.

    ``asked`` is the example's question, ``text`` all of it. Only codes with a digit or an underscore tell: abbreviations may be
    said otherwise.
    """
    meant, own = set(_exact(question)), set(_exact(asked))
    lacking, unasked = meant - set(_exact(text)), own - meant
    if any("_" in code for code in meant & own):  # both are about this one, whatever else they name
        lacking = {code for code in lacking if "_" not in code}
    return bool({_form(code) for code in lacking} & {_form(code) for code in unasked})


def _exact(text: str) -> list[str]:
    return [code for code in codes(text) if "_" in code or any(map(str.isdigit, code))]


def _form(code: str) -> str:
    if "_" in code:
        return "_"  # identifiers of a program are of any length
    if len(code) >= LONG_CODE:
        return "#" * len(code)
    return "".join("9" if char.isdigit() else "a" if char.isalpha() else char for char in code)


def _is_shouted(text: str) -> bool:
    """Tell whether a text of several words is all in capitals."""
    return text.isupper() and len(_WORD.findall(text)) > 1


def _is_code(word: str, *, is_shouted: bool) -> bool:
    if "_" in word or any(map(str.isdigit, word)):
        return True
    return not is_shouted and len(word) > 1 and word.isalpha() and word.isupper()


def abbreviations(text: str) -> tuple[str, ...]:
    """Return a text's abbreviations, each once: the CS of "the CS office"; not that of "CS 241", and none in a text all in capitals."""
    return () if _is_shouted(text) else tuple(dict.fromkeys(_ABBREVIATION.findall(text)))


def spelled_out(text: str) -> dict[str, str]:
    """Return what a text would write as an abbreviation, by it: {"CS": "Computer Science"}.

    It is all words with a capital that stand together; a word that opens the text is none of them, as it may owe that its capital.
    """
    if _is_shouted(text):
        return {}
    phrases = (found.group() for found in _PHRASE.finditer(text) if found.start())
    return {"".join(word[0] for word in _WORD.findall(phrase)): phrase for phrase in phrases}


def written_out(text: str, meanings: Mapping[str, str]) -> str:
    """Return a text with abbreviations replaced by what they stand for."""
    return _ABBREVIATION.sub(lambda found: meanings.get(found.group(), found.group()), text)


def embedded_text(example: Example) -> str:
    """Return what of an example is embedded: its question, of a chat the user's last message, and its answer."""
    asked = example.input
    if isinstance(asked, list):
        said = [each for each in asked if isinstance(each, dict) and each.get("role") == "user"]
        asked = said[-1:] or asked
    return composed(f"{as_line(asked)} {as_line(example.target)}")
