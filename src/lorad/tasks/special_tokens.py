"""A base's special tokens in what people wrote: text stays text.

What lives here: telling the special tokens that a template writes from the same words in a message, and turning
a rendered conversation into tokens. What never does: templates, what an answer is.

A chat template joins its own markup and people's text into one string, in which ``<|im_end|>`` from a message looks
like the end of a turn, and SmolLM2's ``<filename>`` is one token that a server leaves out of answers. So the words in
messages are *masked*, each by one private-use character, before the template sees them. In what it renders the special
tokens that stand there are its own; those, and only those, become the tokens.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer

from lorad.errors import SampleError

#: Characters of Unicode's last private-use plane: a word in a message, and a special token of the template's own.
_WORDS, _TOKENS = 0x100000, 0x108000
_PRIVATE = re.compile("[\U00100000-\U0010fffd]")


class Markup:
    """The special tokens of one tokenizer, and other added tokens that its template writes for its own."""

    def __init__(self, tokenizer: Any, written: str = "") -> None:
        """Take what the template has ``written`` around words of nobody's for its own."""
        self._tokenizer = tokenizer
        found = sorted(
            (number, token.content)
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.content and (token.special or token.content in written)
        )
        self.tokens = {content: number for number, content in found}
        """Each special token's text and number."""
        words = [content for _, content in found]
        unknown = tokenizer.unk_token_id  # may stand for any sign, wherever that comes from
        self._steering = {number for number in self.tokens.values() if number != unknown}
        self._pattern = re.compile(
            "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)) or r"(?!)"
        )
        self._masks = {word: chr(_WORDS + at) for at, word in enumerate(words)}
        self._unmasks = {mask: word for word, mask in self._masks.items()}
        self._aliases = {word: chr(_TOKENS + at) for at, word in enumerate(words)}
        self._numbers = {
            self._aliases.get(token.content, token.content): number
            for number, token in tokenizer.added_tokens_decoder.items()
        }
        """Of added tokens, by what ``_without_words`` calls them: it numbers them anew."""
        is_fast = getattr(tokenizer, "is_fast", False)
        self._core: Tokenizer | None = tokenizer.backend_tokenizer if is_fast else None
        """The same tokens a few times sooner."""
        self._plain: Tokenizer | None = None

    def is_in(self, value: Any) -> bool:
        """Tell whether a message, or several, hold the text of a special token."""
        return any(self._pattern.search(text) for text in _texts(value))

    def mask(self, value: Any) -> Any:
        """Return messages with a private-use character for each special token's text.

        Raise ``SampleError`` when such characters stand beside such texts: the two could not be told apart.
        """
        if not self.is_in(value):
            return value
        if any(_PRIVATE.search(text) for text in _texts(value)):
            raise SampleError(
                "the text holds a special token of the base model and private-use characters of Unicode's plane 16; "
                "remove one of the two",
                code="private_use",
            )
        return _mapped(value, lambda text: self._pattern.sub(lambda word: self._masks[word[0]], text))

    def unmask(self, text: str) -> str:
        """Return a text with the words that ``mask`` took out."""
        return _PRIVATE.sub(lambda sign: self._unmasks.get(sign[0], sign[0]), text)

    def find(self, text: str) -> re.Match[str] | None:
        """Return the first special token of a rendered text that is the template's own."""
        return self._pattern.search(text)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text in which every special token is the template's own; raise ``SampleError``."""
        if self._core is None:
            found = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        else:
            _settle(self._core)
            found = list(self._core.encode(text, add_special_tokens=False).ids)
        return self._checked(found, text)

    def encode_text(self, text: str) -> list[int]:
        """Return the tokens of what people wrote, in which no special token is one."""
        return self.encode_masked(self.mask(text)) if self.is_in(text) else self.encode(text)

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens as it is, special ones included."""
        if self._core is None:
            return str(
                self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            )
        return self._core.decode(tokens, skip_special_tokens=False)

    def encode_masked(self, text: str) -> list[int]:
        """Return the tokens of a text of masked messages: the template's special tokens, and masked words as text."""
        aliased = self._pattern.sub(lambda word: self._aliases[word[0]], text)
        encoded = self._without_words().encode(self.unmask(aliased), add_special_tokens=False)
        found = [
            self._numbers.get(token, number)
            for token, number in zip(encoded.tokens, encoded.ids, strict=True)
        ]
        return self._checked(found, text)

    def _checked(self, tokens: list[int], text: str) -> list[int]:
        """Require that only the template's special tokens became such.

        Some vocabularies hold them as pieces of text, and some tokenizers normalise other signs to them.
        """
        written = sum(self.tokens[word] in self._steering for word in self._pattern.findall(text))
        if sum(token in self._steering for token in tokens) != written:
            raise SampleError(
                "the base model's tokenizer takes a part of this text for a special token; write it otherwise",
                code="special_token",
            )
        return tokens

    def _without_words(self) -> Tokenizer:
        """Return the tokenizer with an alias for every special token, so that their words are plain text to it.

        A copy, made when it is first needed: the library's own switch for this changes the tokenizer that other
        threads use.
        """
        if self._plain is None:
            if self._core is None:
                raise SampleError(
                    "the text holds a special token of the base model, which its tokenizer cannot write as plain text; "
                    "write it otherwise",
                    code="special_token",
                )
            _settle(self._core)
            data = json.loads(self._core.to_str())
            for token in data["added_tokens"]:
                token["content"] = self._aliases.get(token["content"], token["content"])
            self._plain = Tokenizer.from_str(json.dumps(data))
        return self._plain


def _settle(core: Tokenizer) -> None:
    """Undo what a trainer or a call has left behind in a tokenizer: cutting, padding, splitting of special tokens."""
    if core.truncation is not None:
        core.no_truncation()
    if core.padding is not None:
        core.no_padding()
    if core.encode_special_tokens:
        core.encode_special_tokens = False


def _texts(value: Any) -> Iterable[str]:
    """Yield every text in JSON data, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {_mapped(key, change): _mapped(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(inner, change) for inner in value]
    return value
