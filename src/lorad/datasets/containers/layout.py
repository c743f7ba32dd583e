"""What a task's rows look like, and what is told of one that does not.

What lives here: the names by which a row is known, whatever its container. What never does: reading containers
(``file_rows``), what a row's fields mean (``reader``).
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lorad.config import InboxSettings
from lorad.datasets.containers.text_file import TextFile
from lorad.errors import SampleError

IsHeader = Callable[[Sequence[str]], bool]

#: Reads what is neither JSON nor a table.
Plain = Callable[[TextFile, InboxSettings], Iterator[tuple[int, Any]]]

#: Fields of a row that errors give as an example.
QUESTION_AND_ANSWER = ("question", "answer")

#: Fields of words and of peaks, under their own names; a sidecar may say that a file has others.
LISTED = frozenset({"tokens", "tokenized_text", "mzs", "intensities"})

#: What rows may need that stands beside their list, in any spelling: what they ask about, and who answers.
_AROUND = frozenset(
    {
        *("context", "passage", "paragraph", "article", "document", "story", "text", "background"),
        *("system", "systemprompt", "systemmessage", "systeminstruction", "systeminstructions"),
        *("instruction", "instructions", "prompt", "preamble", "persona", "character", "role"),
        *("history", "tools", "functions"),
    }
)

_SEPARATORS = re.compile(r"[\W_]+")

#: How people shorten these.
_SHORT = dict(zip(("q", "a"), QUESTION_AND_ANSWER, strict=True))


class BadRow(Exception):  # noqa: N818 - carried to the row's report, never to the user as it is
    """Why one row cannot be used, and which field of it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class TooDeep(BadRow):
    """A value whose lists and objects stand in one another on too many levels."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a task's files may look like."""

    is_header: IsHeader
    plain: Plain | None
    example: tuple[str, ...]
    own: Collection[str]
    """Fields that only a row has; none when the task does not tell."""
    listed: Collection[str] = LISTED
    """Fields that hold a list in a single row, so that lists of the same length are no columns."""

    def columns(self, names: Sequence[str]) -> tuple[str, ...] | None:
        """Return the names of a row's fields as its format writes them, None when they are of no format.

        Case and blanks around a name do not count: people write Question and Answer, and Q and A.
        """
        written = tuple(name.strip() for name in names)
        lowered = tuple(map(str.lower, written))
        for columns in (written, lowered):
            if self.is_header(columns):
                return columns
        is_short = self.is_chat and len(lowered) == len(_SHORT) and set(lowered) == set(_SHORT)
        return tuple(map(_SHORT.__getitem__, lowered)) if is_short else None

    def is_around(self, name: str) -> bool:
        """Tell whether what has this name beside a list of rows may belong to each of them."""
        return self.is_chat and _SEPARATORS.sub("", name).lower() in _AROUND

    @property
    def is_chat(self) -> bool:
        """Tell whether a row is a question and its answer."""
        return self.example == QUESTION_AND_ANSWER


def shown(text: str, longest: int = 60) -> str:
    """Return a text as an error may show it: its beginning if it is long, and nothing that cannot be written."""
    cut = text if len(text) <= longest else f"{text[:longest]}…"
    return cut.encode(errors="backslashreplace").decode()


def twice(names: Sequence[str]) -> tuple[str, str] | None:
    """Return the first two names that differ in case and blanks at most; what has no name differs from nothing."""
    seen: dict[str, str] = {}
    for name in names:
        key = name.strip().casefold()
        if key and key in seen:
            return seen[key], name
        seen[key] = name
    return None


def too_many_columns(count: int, limits: InboxSettings) -> str:
    """Return what a row or a table with too many fields is told."""
    return f"has {count} columns, more than inbox.max_columns ({limits.max_columns}); remove the columns that are not needed"


def too_long(limits: InboxSettings) -> BadRow:
    """Return what a row longer than the limit is told."""
    return BadRow("", f"the row is longer than inbox.max_row_bytes ({limits.max_row_bytes})")


def cut_off(text: TextFile, line: int) -> SampleError:
    """Return why a file that ends inside a row is refused."""
    return SampleError(
        f"{text.source.name} ends inside the row that begins on line {line}: half of the file is missing, or the end "
        "of that row; drop the whole file",
        code="cut_off",
        row=line,
    )
