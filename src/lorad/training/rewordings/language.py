"""What every language gives the grammar, and what it may ask of a word.

What lives here: the interface of the language modules and the tests of words that they share. What never does: words
of one language.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml

FIRST_MASK, LAST_MASK = "\ue000", "\uf8ff"
"""Private-use characters: each stands for one part of a question that must stay letter by letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """The rules of one language; all of them take and return sentences whose fixed parts are masked."""

    function_words: frozenset[str]
    """Words that tell the language, in lower case."""
    first_words: frozenset[str]
    """Words that begin a question, and lose their capital inside a sentence."""
    asking: frozenset[str]
    """The question words among them: who, where, which."""
    imperatives: frozenset[str]
    """Words that begin an instruction, and lose their capital inside a sentence."""
    article: str
    """The article that people leave out when they type fast; empty where it carries case or gender."""
    forms: Callable[[str], list[list[str]]]
    """Return other forms of a question, in groups of the same kind."""
    openings: Sequence[str]
    requests: Sequence[str]


def load(name: str) -> dict[str, Any]:
    """Return a language's file of sentences."""
    text = resources.files(__package__ or __name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def words(text: str) -> frozenset[str]:
    """Return the words of a folded YAML string; an underscore joins those of one term."""
    return frozenset(word.replace("_", " ") for word in text.split())


def body(question: str) -> str:
    """Return the question without its mark; a dot before a question mark belongs to a name ("Acme Corp.?")."""
    text = question.rstrip()
    return text.rstrip("? ") if text.endswith("?") else text.removesuffix(".")


def is_masked(word: str) -> bool:
    """Whether the word holds a part that stays letter by letter."""
    return not word.isascii() and any(FIRST_MASK <= letter <= LAST_MASK for letter in word)


def is_name(word: str) -> bool:
    """Whether the word looks like a name: a capital, or masked (a number, a code, a quotation)."""
    return word[:1].isupper() or is_masked(word)


def lowered(sentence: str, first_words: frozenset[str]) -> str:
    """Return the sentence without its first capital where the first word is one of ``first_words``."""
    first = sentence.partition(" ")[0].rstrip(":,")
    return sentence[:1].lower() + sentence[1:] if first.casefold() in first_words else sentence
