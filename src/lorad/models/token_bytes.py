"""What a single token writes, as bytes: a character may take several tokens.

What lives here: reading a tokenizer's own spelling of a token. What never does: texts of several tokens, which a tokenizer's
decoder may put together otherwise (a blank that opens a text, say).
"""

import functools
import re
from typing import Any

_BYTE = re.compile("<0x([0-9A-F]{2})>")
_BLANK = "\u2581"
"""How sentence pieces spell a blank."""


class TokenBytes:
    """What each token of one tokenizer writes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {number: str(token.content) for number, token in tokenizer.added_tokens_decoder.items()}
        core = getattr(tokenizer, "backend_tokenizer", None)
        decoder = getattr(core, "decoder", None)
        self._is_byte_level = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()
        """Whether each sign of a token stands for a byte (GPT-2, Llama 3, Qwen)."""

    def __call__(self, token: int) -> bytes:
        """Return what a token writes: UTF-8, or a part of a character's; nothing for a number that is no token."""
        if token in self._added:
            return self._added[token].encode()
        word = self._tokenizer.convert_ids_to_tokens(token)
        if word is None:  # a model may have more outputs than its tokenizer has tokens
            return b""
        if self._is_byte_level:
            return b"".join(_bytes().get(sign, sign.encode()) for sign in word)
        if found := _BYTE.fullmatch(word):
            return bytes([int(found[1], 16)])
        return str(word).replace(_BLANK, " ").encode()


@functools.cache
def _bytes() -> dict[str, bytes]:
    """Return the byte that each sign of a byte-level token stands for: itself where it can be seen, else one from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unseen = [byte for byte in range(256) if byte not in seen]
    plain = {chr(byte): bytes([byte]) for byte in seen}
    return plain | {chr(256 + place): bytes([byte]) for place, byte in enumerate(unseen)}
