r"""The ground: text that a terminal shows as text, whatever somebody has put into it.

What lives here: visible marks for characters that steer a terminal, turn the reading direction or hide. What never
does: printing (``terminal``), knowing whose words these are.

A mark is what Python writes for the character: ``\x1b`` for an escape. JSON keeps its data exactly and writes the same
characters as JSON's own escapes.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

#: Control characters but tab and line feed, format characters but the two that join letters and emoji, the two
#: other line ends of Unicode, and halves of characters, which no encoding can write.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f\ud800-\udfff]"
)

_BREAKS = re.compile(r"\r\n|[\n\t]")


def text(value: str) -> str:
    """Return text with visible marks; tabs and line breaks stay."""
    return _UNSAFE.sub(_mark, value.replace("\r\n", "\n"))


def line(value: str) -> str:
    """Return text with visible marks on one line: a tab or a line break becomes a space."""
    return text(_BREAKS.sub(" ", value))


def record(value: T) -> T:
    """Return a record, or JSON data, with every text in it, keys too, on one line with visible marks."""
    found: T = _marked(value)
    return found


def _marked(value: Any) -> Any:
    if isinstance(value, str):
        return line(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{field.name: _marked(getattr(value, field.name)) for field in dataclasses.fields(value)}
        )
    if isinstance(value, tuple):
        return tuple(map(_marked, value))
    if isinstance(value, Mapping):
        return {_marked(key): _marked(inner) for key, inner in value.items()}
    return [_marked(inner) for inner in value] if isinstance(value, list) else value


def as_json(value: Any, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """Return JSON of exactly this data, in which letters are letters and no character is unsafe."""
    return _UNSAFE.sub(_escape, json.dumps(value, indent=indent, default=default, ensure_ascii=False))


def _mark(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1].replace(
        "\x7f", "\\u007f"
    )  # the one control character that JSON lets be
