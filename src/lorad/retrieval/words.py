"""The words of a text, and those of them that name one thing alone. Pure.

What lives here: taking a text apart, and what of an example is compared with questions. What never does: counting or
finding words (``storage.embeddings``), ranking (``index``).
"""

import re

from lorad.records import Example, as_line

#: Letters and digits, also joined by underscores; those at its ends are emphasis in Markdown.
_WORD = re.compile(r"[^\W_]+(?:_+[^\W_]+)*")

#: Words inside a sentence: behind a blank that follows a word or a comma.
_INSIDE = re.compile(r"(?<=[^\W_] )[^\W_]+|(?<=[,;] )[^\W_]+")

#: Characters from which on a code's digits may be letters too: 22000 and 2201F are of one form.
LONG_CODE = 4

#: The one word that English writes with a capital wherever it stands.
_PRONOUN = "I"


def words(text: str) -> tuple[str, ...]:
    """Return a text's words in their order, case folded; signs part them, but for an underscore."""
    return tuple(word.casefold() for word in _WORD.findall(text))


def codes(text: str) -> tuple[str, ...]:
    """Return a text's codes, case folded, each once: course numbers, error names, abbreviations.

    A code has a digit or an underscore, or is two and more capitals: "CS 241" has CS and 241. An embedding takes
    codes that look alike for one another. In a text that is all in capitals, these tell nothing.
    """
    found = _WORD.findall(text)
    is_shouted = len(found) > 1 and text.isupper()
    return tuple(dict.fromkeys(word.casefold() for word in found if _is_code(word, is_shouted=is_shouted)))


def names(text: str) -> tuple[str, ...]:
    """Return what a text seems to name, case folded, each once: its codes, and words with a capital inside a sentence."""
    inside = (word.casefold() for word in _INSIDE.findall(text) if word[0].isupper() and word != _PRONOUN)
    is_shouted = text.isupper()
    return tuple(dict.fromkeys([*codes(text), *(() if is_shouted else inside)]))


def names_another(question: str, asked: str, text: str) -> bool:
    """Tell whether a question names a code where an example has another of the same form: CS 242 instead of CS 241.

    ``asked`` is the example's question, ``text`` all of it. Only codes with digits tell: other words may be said otherwise.
    """
    meant, own = set(_numbered(question)), set(_numbered(asked))
    lacking, unasked = meant - set(_numbered(text)), own - meant
    return bool({_form(code) for code in lacking} & {_form(code) for code in unasked})


def _numbered(text: str) -> list[str]:
    return [code for code in codes(text) if any(map(str.isdigit, code))]


def _form(code: str) -> str:
    if len(code) >= LONG_CODE:
        return "#" * len(code)
    return "".join("9" if char.isdigit() else "a" if char.isalpha() else char for char in code)


def _is_code(word: str, *, is_shouted: bool) -> bool:
    if "_" in word or any(map(str.isdigit, word)):
        return True
    return not is_shouted and len(word) > 1 and word.isalpha() and word.isupper()


def embedded_text(example: Example) -> str:
    """Return what of an example is embedded: its question, of a chat the user's last message, and its answer."""
    asked = example.input
    if isinstance(asked, list):
        said = [each for each in asked if isinstance(each, dict) and each.get("role") == "user"]
        asked = said[-1:] or asked
    return f"{as_line(asked)} {as_line(example.target)}"
