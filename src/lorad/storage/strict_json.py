"""JSON as the standard has it, whole or as a stream.

What lives here: refusing what Python's reader lets pass (``NaN``, a key that stands twice), telling how what it
refuses is mended, reading value after value from text that is too large to hold, and writing whatever is held. What
never does: files, what a value means.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

#: Characters; what a cut may hide at the end of a text: ``-Infinity``, an escaped surrogate pair.
_LONGEST_WORD = 16

#: What a text may end with where something was expected: nothing, half of a word, or of a number.
_BEGUN = re.compile(
    r"\s*(t|tr|tru|f|fa|fal|fals|n|nu|nul|N|Na|-?(I|In|Inf|Infi|Infin|Infini|Infinit)?|\.|[eE][+-]?)"
)

#: Characters that a stream asks for at least.
_CHUNK = 1 << 16

_SPACE = re.compile(r"[ \t\n\r]*")

#: A text with the quote that ends it, or a bracket.
PART = re.compile(r'"(?:[^"\\]++|\\.)*+("?)|[{}\[\]]', re.DOTALL)

#: How a backslash is written, and what another program would have made of it.
_BACKSLASH = re.compile(r"\\\\?")
_DOUBLED = r"\\\\"

#: Characters of a word that errors show, on either side of what is wrong with it.
_LONGEST_SHOWN = 30
_REST_OF_WORD = re.compile(rf'[^\s"]{{0,{2 * _LONGEST_SHOWN}}}')

#: What must not stand in a string as it is.
_CONTROLS = {
    "\n": "a line break inside a string must be written \\n, or the quote that ends the string is missing",
    "\r": "a line break inside a string must be written \\n, or the quote that ends the string is missing",
    "\t": "a tab inside a string must be written \\t",
}

#: Digits of a whole number: Python makes no text of a longer one, and JSON can say it in a text.
MOST_DIGITS = 4300

#: Levels of lists and objects in the JSON that a text inside a row holds, whatever a row itself may have.
LEVELS = 64

_TOO_DEEP = "nested too deeply"

_PYTHON = "this is how Python prints a value; write it with json.dumps"
_COMMENT = "JSON has no comments; remove it"
_TYPOGRAPHIC = 'the quotes are typographic; write "'

#: How other notations begin where JSON has a value or the name of a field.
_FOREIGN = (
    *((begin, _PYTHON) for begin in ("'", "True", "False", "None", "b'", "u'", "(", "datetime.")),
    *((begin, _COMMENT) for begin in ("//", "/*", "#")),
    *((begin, _TYPOGRAPHIC) for begin in ("\u201c", "\u201d", "\u201e", "\u2018", "\u2019", "\u00ab")),
    ("undefined", "undefined is JavaScript's; write null"),
)


#: What mostly is behind a message of Python's reader.
_USUAL = (
    (
        "Unterminated string",
        "the quote that ends a string is missing, or a line break inside it is not written \\n",
    ),
    ("Expecting property name", "write the name of a field in double quotes"),
    ("Expecting ',' delimiter", 'a comma is missing, or a quote inside a string is not written \\"'),
    ("expecting , or ", "a comma is missing, or the value before it ends too early"),
    ("Extra data", "the value ends before it; what follows belongs on a line of its own"),
)


#: Lists and objects in one another that are written; what is deeper costs Python its stack.
_DEEPEST = 200

#: Bits of the longest whole number that Python prints, with room to spare.
_LONGEST_NUMBER = 4096

_LEFT_OUT = "nested too deeply"


class NotJson(ValueError):  # noqa: N818 - it says what the text is
    """The text cannot be read on: it is not JSON, is nested too deeply or holds too long a value."""

    def __init__(self, message: str, code: str = "not_json", *, is_cut: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.is_cut = is_cut
        """Whether more text might have made it JSON."""


class Flaw(ValueError):  # noqa: N818 - it says what the value has
    """A value that can be read and says something twice or nothing; a stream stands behind it."""


class Number(float):
    """A number that keeps how it was written: as text 19.90 is not 19.9, and not every digit fits a float."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Decoder(json.JSONDecoder):
    """Note flaws instead of stopping at them: only a value's end says where the next one begins."""

    def __init__(self) -> None:
        self.flaws: list[str] = []
        super().__init__(
            object_pairs_hook=self._object,
            parse_float=Number,
            parse_int=self._int,
            parse_constant=self._constant,
        )

    def checked(self, value: Any) -> Any:
        """Return what was read; raise ``Flaw`` when anything was noted."""
        if self.flaws:
            raise Flaw(self.flaws[0])
        return value

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            self.flaws.append(f"the key {twice!r} appears twice in one object")
        return found

    def _constant(self, name: str) -> None:
        self.flaws.append(f"{name} is not JSON")

    def _int(self, text: str) -> int:
        if len(text.lstrip("-")) <= MOST_DIGITS:
            try:
                return int(text)
            except ValueError:  # whoever started this Python allows fewer
                pass
        self.flaws.append(f"a number has more than {MOST_DIGITS} digits; put quotes around it")
        return 0


def parse(text: str, line: int = 1, *, levels: int | None = None) -> Any:
    """Return the value of a whole text, which begins on this line; raise ``NotJson`` or ``Flaw``.

    With ``levels`` a value whose lists and objects stand in one another on more of them is ``NotJson`` as well.
    """
    decoder = _Decoder()
    try:
        value = decoder.decode(text)
    except RecursionError:
        raise NotJson(_TOO_DEEP, "too_deep") from None
    except json.JSONDecodeError as error:
        place = f"character {error.pos + 1}"
        if "\n" in text.strip():
            place = f"line {line + error.lineno - 1}"
        told = _told(error.msg, place, text, error.pos)
        raise NotJson(told, is_cut=_may_be_cut(error, text.rstrip())) from None
    if levels is not None and is_deeper(value, levels):
        raise NotJson(f"nested more than {levels} levels deep", "too_deep")
    return decoder.checked(value)


def encoded(value: Any) -> bytes:
    """Return a value as JSON in UTF-8, whatever it holds: what JSON cannot say is null, half a character is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError):
        return json.dumps(_sayable(value, _DEEPEST)).encode()


def _sayable(value: Any, levels: int) -> Any:
    """Return a value with nothing in it that JSON has no word for."""
    if isinstance(value, dict | list | tuple):
        if not levels:
            return _LEFT_OUT
        if isinstance(value, dict):
            return {str(key): _sayable(each, levels - 1) for key, each in value.items()}
        return [_sayable(each, levels - 1) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, int):
        return value if value.bit_length() <= _LONGEST_NUMBER else None
    return value if value is None or isinstance(value, str) else str(value)


def _may_be_cut(error: json.JSONDecodeError, text: str) -> bool:
    if error.msg.startswith("Extra data"):
        return False
    if error.msg.startswith("Expecting"):
        return bool(_BEGUN.fullmatch(text, error.pos))
    return error.msg.startswith("Unterminated string") or error.pos >= len(text) - _LONGEST_WORD


def _told(message: str, place: str, text: str, at: int) -> str:
    """Return what the reader says, where, and how it is mended if that can be seen."""
    advice = _advice(message, text, at)
    return f"{message.removesuffix(' at')} ({place}){advice and f'; {advice}'}"


def _advice(message: str, text: str, at: int) -> str:
    sign = text[at : at + 1]
    if message.startswith("Invalid control character"):
        return _CONTROLS.get(sign, f"inside a string it must be written \\u{ord(sign):04x}")
    if message.startswith("Invalid \\"):
        return f"a backslash must be doubled: {_BACKSLASH.sub(_DOUBLED, _word(text, at))}"
    if sign in ("]", "}") and text[:at].rstrip().endswith(","):
        return f"remove the comma before {sign}"
    foreign = (advice for begin, advice in _FOREIGN if text.startswith(begin, at))
    usual = (advice for begin, advice in _USUAL if message.startswith(begin))
    return next(foreign, next(usual, ""))


def _word(text: str, at: int) -> str:
    """Return what stands around a place without a blank, of a long word a part."""
    begin = max((text.rfind(sign, max(0, at - _LONGEST_SHOWN), at) for sign in ' "\n'), default=-1)
    return _REST_OF_WORD.match(text, max(begin + 1, at - _LONGEST_SHOWN))[0]  # type: ignore[index] # it always matches


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


def _ended() -> NotJson:
    return NotJson("the text ends here", "cut_off", is_cut=True)


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
        self._counted = 0
        """As far as this the lines of the text held are counted."""
        self._dropped = 0
        self._has_ended = False
        self._before = ""
        """The last character before the text held that is no white space: a comma, if one stands too much."""

    @property
    def passed(self) -> int:
        """Return the number of characters that were passed."""
        return self._dropped + self._at

    @property
    def line(self) -> int:
        """Return the line of the next character."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

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
        if not found:
            raise _ended()
        if found not in signs:
            raise self._not_json(f"expecting {' or '.join(signs)}", self._at)
        self._at += 1
        return found

    def end(self) -> None:
        """Raise ``NotJson`` when anything follows."""
        if self.peek():
            raise self._not_json("expecting the end", self._at)

    def value(self) -> Any:
        """Pass the next value and return it; raise ``NotJson``, or ``Flaw`` behind it."""
        if not self.peek():
            raise _ended()
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
                if found := self._end_of_deep():
                    self._decoder.flaws[:] = [f"the row is {_TOO_DEEP} to be read"]
                    return None, found
                if self._has_ended or len(self._text) - self._at > self._longest:
                    raise NotJson(_TOO_DEEP, "too_deep") from None
            except json.JSONDecodeError as error:
                if self._has_ended or not _may_be_cut(error, self._text):
                    raise self._not_json(error.msg, error.pos) from None
            else:
                if end < len(self._text) or self._has_ended:  # else a number may go on
                    return value, end
            if len(self._text) - self._at > self._longest:
                raise self._too_long()
            self._read_on()

    def _end_of_deep(self) -> int | None:
        """Return where a value ends that is too deep for Python's reader, None when more text must say so."""
        depth = 0
        for part in PART.finditer(self._text, self._at):
            sign = part[0][0]
            if sign == '"' and not part[1]:
                return None
            depth += (sign in "{[") - (sign in "}]")
            if not depth:
                return part.end()
        return None

    def _read_on(self) -> None:
        """Read as much again as is held, so that a long value is not decoded more than a few times."""
        self._line = self.line
        self._dropped += self._at
        self._before = self._text[max(0, self._at - _LONGEST_WORD) : self._at].rstrip()[-1:] or self._before
        held = self._text[self._at :]
        more = self._read(max(_CHUNK, len(held)))
        self._has_ended = not more
        self._text, self._at, self._counted = held + more, 0, 0

    def _not_json(self, message: str, position: int) -> NotJson:
        line = self.line + self._text.count("\n", self._at, position)
        return NotJson(
            _told(message, f"line {line}", f"{self._before}{self._text}", position + len(self._before))
        )

    def _too_long(self) -> NotJson:
        return NotJson("take it out", "row_too_long")
