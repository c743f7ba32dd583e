"""A tool: JSON as the standard has it, whole or as a stream.

What lives here: refusing what Python's reader lets pass (``NaN``, a key that stands twice), and reading value
after value from text that is too large to hold. What never does: files, what a value means.
"""

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

#: Characters; what a cut may hide at the end of a text: ``-Infinity``, an escaped surrogate pair.
_LONGEST_WORD = 16

#: Characters that a stream asks for at least.
_CHUNK = 1 << 16

_SPACE = re.compile(r"[ \t\n\r]*")


class NotJson(ValueError):  # noqa: N818 - it says what the text is
    """The text cannot be read on: it is not JSON, is nested too deeply or holds too long a value."""

    def __init__(self, message: str, code: str = "not_json", *, is_cut: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.is_cut = is_cut
        """Whether more text might have made it JSON."""


class Flaw(ValueError):  # noqa: N818 - it says what the value has
    """A value that can be read and says something twice or nothing; a stream stands behind it."""


class _Decoder(json.JSONDecoder):
    """Note flaws instead of stopping at them: only a value's end says where the next one begins."""

    def __init__(self) -> None:
        self.flaws: list[str] = []
        super().__init__(object_pairs_hook=self._object, parse_constant=self._constant)

    def checked(self, value: Any) -> Any:
        """Return what was read; raise ``Flaw`` when anything was noted."""
        if self.flaws:
            raise Flaw(self.flaws[0])
        return value

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            self.flaws.append(f"the key {twice!r} stands twice in one object")
        return found

    def _constant(self, name: str) -> None:
        self.flaws.append(f"{name} is not JSON")


def parse(text: str) -> Any:
    """Return the value of a whole text; raise ``NotJson`` or ``Flaw``."""
    decoder = _Decoder()
    try:
        value = decoder.decode(text)
    except RecursionError:
        raise NotJson("nested too deeply", "too_deep") from None
    except json.JSONDecodeError as error:
        raise NotJson(str(error), is_cut=_may_be_cut(error, text.rstrip())) from None
    except ValueError as error:  # a number of too many digits
        raise NotJson(str(error)) from None
    return decoder.checked(value)


def _may_be_cut(error: json.JSONDecodeError, text: str) -> bool:
    if error.msg.startswith("Extra data"):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= len(text) - _LONGEST_WORD


def is_deeper(value: Any, levels: int) -> bool:
    """Tell whether lists and objects stand in one another on more levels than these."""
    containers = [value] if isinstance(value, dict | list) else []
    while containers and levels:
        levels -= 1
        containers = [
            inner
            for outer in containers
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(containers)


class Stream:
    """JSON text that is read on as needed; it holds one value and a chunk at most.

    ``read`` returns about as many characters as it is asked for, "" only at the end. ``longest`` is in bytes.
    """

    def __init__(self, read: Callable[[int], str], longest: int, line: int = 1) -> None:
        self._read = read
        self._longest = longest
        self._decoder = _Decoder()
        self._text = ""
        self._at = 0
        self._line = line
        self._dropped = 0
        self._has_ended = False

    @property
    def passed(self) -> int:
        """Return the number of characters that were passed."""
        return self._dropped + self._at

    def peek(self) -> str:
        """Pass white space and return the next character, "" at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr] # it always matches
            if self._at < len(self._text) or self._has_ended:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def expect(self, signs: str) -> str:
        """Pass the next character and return it; raise ``NotJson`` when it is none of these."""
        found = self.peek()
        if not found or found not in signs:
            raise self._not_json(f"expecting {' or '.join(signs)}", self._at)
        self._at += 1
        return found

    def end(self) -> None:
        """Raise ``NotJson`` when anything follows."""
        if self.peek():
            raise self._not_json("expecting the end", self._at)

    def value(self) -> Any:
        """Pass the next value and return it; raise ``NotJson``, or ``Flaw`` behind it."""
        self.peek()
        value, end = self._decode()
        size = len(self._text[self._at : end].encode(errors="replace"))
        if size > self._longest:
            raise self._too_long()
        self._at = end
        return self._decoder.checked(value)

    def _decode(self) -> tuple[Any, int]:
        while True:
            self._decoder.flaws.clear()
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except RecursionError:
                raise NotJson("nested too deeply", "too_deep") from None
            except json.JSONDecodeError as error:
                if self._has_ended or not _may_be_cut(error, self._text):
                    raise self._not_json(error.msg, error.pos) from None
            except ValueError as error:  # a number of too many digits
                raise self._not_json(str(error), self._at) from None
            else:
                if end < len(self._text) or self._has_ended:  # else a number may go on
                    return value, end
            if len(self._text) - self._at > self._longest:
                raise self._too_long()
            self._read_on()

    def _read_on(self) -> None:
        """Read as much again as is held, so that a long value is not decoded more than a few times."""
        self._line += self._text.count("\n", 0, self._at)
        self._dropped += self._at
        held = self._text[self._at :]
        more = self._read(max(_CHUNK, len(held)))
        self._has_ended = not more
        self._text, self._at = held + more, 0

    def _not_json(self, message: str, position: int) -> NotJson:
        return NotJson(f"{message} (line {self._line + self._text.count(chr(10), 0, position)})")

    def _too_long(self) -> NotJson:
        return NotJson("a row is too long", "row_too_long")
