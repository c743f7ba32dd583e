"""Materials: the values of one row. A row and a field in, its text or its list out.

What lives here: what every format asks of a value, whatever it means: text that can be kept, lists that a table
holds as JSON, fields that would be lost. What never does: knowing a format (``samples``, ``annotations``).
"""

from collections.abc import Collection, Mapping
from typing import Any

from lorad.rows import BadRow
from lorad.strict_json import Flaw, NotJson, parse

Row = Mapping[str, Any]

#: Fields that say something about a row and teach nothing. The last three are what ``lorad memory export``
#: and pandas add.
IGNORED = frozenset(
    {"id", "source", "category", "metadata", "difficulty", "dataset", "provenance", "__index_level_0__"}
)


def text(row: Row, key: str) -> str:
    """Return a field's text; raise ``BadRow`` when there is none, or none that can be kept."""
    value = row[key]
    if value is None:
        raise BadRow(key, "is empty")
    if not isinstance(value, str):
        raise BadRow(key, f"must be text, not {type(value).__name__}")
    if not value.strip():
        raise BadRow(key, "is empty")
    check_text(key, value)
    return value


def check_text(key: str, value: str) -> None:
    """Raise ``BadRow`` when a text holds what neither a database nor a tokenizer takes."""
    if "\x00" in value:
        raise BadRow(key, "holds a NUL character")
    if not is_whole(value):
        raise BadRow(key, "holds half of a surrogate pair")


def is_whole(value: str) -> bool:
    """Tell whether a text holds no half of a character (a lone surrogate)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def unpacked(row: Row, key: str, sign: str = "[") -> Any:
    """Return a field's list, also where a table holds it as the text of its JSON."""
    value = row.get(key)
    if not isinstance(value, str) or not value.lstrip().startswith(sign):
        return value
    try:
        return parse(value)
    except (Flaw, NotJson):
        return value


def is_empty(value: Any) -> bool:
    """Tell whether a value says nothing, also as a table writes it."""
    return value is None or value in ("", [], {}, "[]", "{}")


def refuse_unknown(
    row: Row,
    known: Collection[str],
    where: str = "",
    *,
    ignored: Collection[str] = IGNORED,
    reasons: Mapping[str, str],
) -> None:
    """Refuse fields that would be lost, with a reason where there is one; what is empty says nothing."""
    unknown = sorted(str(key) for key in row if not (key in known or key in ignored or is_empty(row[key])))
    if unknown:
        # a known reason first: it says more
        key = next((key for key in unknown if key in reasons), unknown[0])
        told = f"the field is unknown here; known: {', '.join(sorted(known))}"
        raise BadRow(where + key, reasons.get(key, told))
