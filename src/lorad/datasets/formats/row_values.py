"""The values of one row. A row and a field in, its text or its list out.

What lives here: what every format asks of a row, whatever it means: names found in any spelling, text that can be
kept, lists that a table holds as JSON, fields that would be lost. What never does: knowing a format (``reader``,
``annotations``).
"""

import functools
import json
import math
import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Any

from lorad.datasets.containers.file_rows import BadRow, TooDeep
from lorad.storage.strict_json import LEVELS, Flaw, NotJson, Number, is_deeper, parse

Row = Mapping[str, Any]

#: Fields that say something about a row and teach nothing. The last three are what ``lorad memory export``
#: and pandas add.
IGNORED = frozenset(
    {"id", "source", "category", "metadata", "difficulty", "dataset", "provenance", "__index_level_0__"}
)

#: A NUL character as JSON writes it: behind an even number of backslashes.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def matched(row: Row, names: frozenset[str]) -> tuple[Row, Mapping[str, str]]:
    """Return a row under the names that we know, whatever their case and blanks, and what it calls those itself.

    People write Question, QUESTION and "Question ", and what a table says JSON may say too. Raise ``BadRow`` when two
    fields differ only so and both hold something.
    """
    known = _known(tuple(row), names)
    if known is None:
        return row, {}
    found: dict[str, Any] = {}
    own: dict[str, str] = {}
    for name, value in row.items():
        ours = known.get(name, name)
        if ours in found and is_empty(value):
            continue
        if ours in found and not is_empty(found[ours]):
            raise BadRow(name, f"conflicts with {own[ours]}, which differs only in case or blanks; keep one")
        found[ours], own[ours] = value, name
    return found, own


@functools.lru_cache(maxsize=32)
def _known(names: tuple[str, ...], known: frozenset[str]) -> dict[str, str] | None:
    """Return our spelling of the names that need it; None when none does: a file's rows have the same names."""
    spelled = {name: folded for name in names if name not in known and (folded := fold(name)) in known}
    return spelled or None


def fold(name: str) -> str:
    """Return a name without what people write in several ways."""
    return name.strip().lower()


def text(row: Row, key: str) -> str:
    """Return a field's text; raise ``BadRow`` when there is none, or none that can be kept."""
    value = as_text(row[key], key)
    if not value.strip():
        raise BadRow(key, "is empty")
    check_text(key, value)
    return value


def as_text(value: Any, where: str) -> str:
    """Return what a value says as text; raise ``BadRow`` when it is none.

    CSV has no types: there 3 and "3" are one answer. So that a table means the same in every container, a number, true
    and false are their JSON everywhere. A list of one text is that text, as some programs give every answer a list.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Number):
        return value.text
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        raise BadRow(where, "is empty")
    if isinstance(value, Decimal) and value.is_finite():
        return str(value)
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        if len(value) > 1:
            raise BadRow(where, f"holds {len(value)} texts, and one is wanted; keep the one that counts")
        return str(value[0])
    raise BadRow(where, f"must be text, not {type(value).__name__}")


def texts(row: Row, key: str, most: int, longest: int) -> list[str] | None:
    """Return a field's list of texts, one text's lines, or ``None`` where there is neither; raise ``BadRow``.

    A table holds a list as its JSON or as lines; so that it means the same everywhere, one text is its lines everywhere.
    """
    value = unpacked(row, key)
    if value is None or not (isinstance(value, list) or says(value)):
        return None
    if isinstance(value, str):
        value = [line.strip() for line in value.splitlines() if line.strip()]
    if not isinstance(value, list):
        raise BadRow(key, "must be a list of texts; in a table its JSON, or one text on each line")
    if len(value) > most:
        raise BadRow(key, f"holds {len(value)} texts, and at most {most} are taken; leave some out")
    found = [text({f"{key}[{at}]": each}, f"{key}[{at}]") for at, each in enumerate(value)]
    if too_long := [at for at, each in enumerate(found) if len(each) > longest]:
        raise BadRow(f"{key}[{too_long[0]}]", f"has more than {longest} characters; shorten it")
    return found


def check_text(key: str, value: str) -> None:
    """Raise ``BadRow`` when a text holds what neither a database nor a tokenizer takes."""
    if "\x00" in value:
        raise BadRow(key, "holds a NUL character")
    if not is_whole(value):
        raise BadRow(key, "holds half of a surrogate pair")


def check_json(key: str, value: Any) -> None:
    """Raise ``BadRow`` when a value from inside a row holds what its JSON, a database or a tokenizer does not take."""
    if is_deeper(value, LEVELS):
        raise TooDeep(key, f"is nested more than {LEVELS} levels deep")
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise BadRow(key, "holds a number that is too large, or none; put quotes around it") from None
    if "\\u0000" in written and _NUL.search(written):
        raise BadRow(key, "holds a NUL character")
    check_text(key, written)


def is_whole(value: str) -> bool:
    """Tell whether a text holds no half of a character (a lone surrogate)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def parsed(value: str, where: str) -> Any:
    """Return what a text says as JSON; raise ``BadRow`` when it is none."""
    try:
        return parse(value, levels=LEVELS)
    except (Flaw, NotJson) as error:
        if isinstance(error, NotJson) and error.code == "too_deep":
            raise TooDeep(where, f"is {error}") from None
        raise BadRow(where, f"is not JSON: {error}") from None


def unpacked(row: Row, key: str, sign: str = "[") -> Any:
    """Return a field's list, also where a table holds it as the text of its JSON."""
    value = row.get(key)
    if not isinstance(value, str) or not value.lstrip().startswith(sign):
        return value
    try:
        return parse(value, levels=LEVELS)
    except (Flaw, NotJson):
        return value


def is_empty(value: Any) -> bool:
    """Tell whether a value says nothing, also as a table writes it."""
    return value is None or value in ("", [], {}, "[]", "{}")


def says(value: Any) -> bool:
    """Tell whether a value says something, blanks and what pandas writes for nothing aside."""
    is_blank = isinstance(value, str) and not value.strip()
    return not (is_empty(value) or is_blank or (isinstance(value, float) and math.isnan(value)))


def refuse_unknown(
    row: Row,
    known: Collection[str],
    where: str = "",
    *,
    ignored: Collection[str] = IGNORED,
    reasons: Mapping[str, str],
) -> None:
    """Refuse fields that would be lost, with a reason where there is one; what is empty says nothing."""
    unknown = sorted(str(key) for key in row if not (key in known or key in ignored) and says(row[key]))
    if unknown:
        # a known reason first: it says more
        key = next((key for key in unknown if key in reasons), unknown[0])
        told = f"the field is unknown here; known: {', '.join(sorted(known))}"
        raise BadRow(where + key, reasons.get(key, told))
