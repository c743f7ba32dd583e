"""The file that ``lorad docs questions`` writes: a dataset for a chat track, a row a question, and where each was drawn.

What lives here: reading what is there, adding a row. What never does: asking, which questions are fit
(``retrieval.question_drawing``), the inbox: nothing is learned until somebody drops the file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorad.errors import ConfigError
from lorad.home import Home
from lorad.records import normal_form
from lorad.storage import strict_json
from lorad.storage.targets import append_line, check_replaceable

Place = tuple[str, int, str]
"""A document: its track, number and file name."""


class QuestionFile:
    """A file of drawn questions: what it holds, and adding to it."""

    def __init__(self, path: Path, home: Home) -> None:
        """Read what is there; raise ``ConfigError`` where the file holds anything else, or must not be written."""
        self.path = path
        self.asked: set[str] = set()
        """Its questions, in normal form."""
        self.models: set[str] = set()
        """Who drew them."""
        self._behind: dict[Place, int] = {}
        self.rows = 0
        self._check_place(home)
        for number, line in enumerate(self._lines(), 1):
            self._note(self._row(line, number))

    def behind(self, place: Place) -> int:
        """Return the character of a document behind which it has not been asked about yet."""
        return self._behind.get(place, -1)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row, whole or not at all."""
        try:
            append_line(self.path, strict_json.encoded(row))
        except OSError as error:
            raise self._not_written(error.strerror) from None
        self._note(row)

    def _note(self, row: Mapping[str, Any]) -> None:
        source = row["metadata"]
        place = source["track"], source["document"], source["name"]
        self._behind[place] = max(self.behind(place), source["start"])
        self.asked.add(normal_form(row["question"]))
        self.models.add(source["model"])
        self.rows += 1

    def _check_place(self, home: Home) -> None:
        """Refuse what would fail after an hour of asking, and the inbox, where rows would be learned unseen."""
        check_replaceable(self.path, replace=True)
        folder = self.path.absolute().parent
        if folder.resolve().is_relative_to(home.inbox.resolve()):
            raise ConfigError(
                f"{self.path} is in the inbox, where it would be learned unseen; choose another folder, read the file, and"
                " drop it then",
                code="in_inbox",
            )
        if not folder.is_dir():
            raise self._not_written(f"there is no folder {folder}")

    def _not_written(self, why: str | None) -> ConfigError:
        return ConfigError(f"{self.path} could not be written: {why}", code="not_written")

    def _lines(self) -> list[bytes]:
        try:
            *lines, rest = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror}", code="unreadable") from None
        if rest:
            raise ConfigError(
                f"{self.path}, line {len(lines) + 1} has no end; remove or complete that line, and ask again",
                code="unreadable",
            )
        return lines

    def _row(self, line: bytes, number: int) -> Mapping[str, Any]:
        try:
            row = strict_json.parse(line.decode())
        except (strict_json.NotJson, strict_json.Flaw, UnicodeDecodeError):
            row = None
        source = row.get("metadata") if isinstance(row, dict) else None
        if (
            isinstance(row, dict)
            and isinstance(source, dict)
            and isinstance(row.get("question"), str)
            and all(isinstance(source.get(name), str) for name in ("track", "name", "model"))
            and all(type(source.get(name)) is int for name in ("document", "start"))
        ):
            return row
        raise ConfigError(
            f"{self.path}, line {number}: not a row that lorad docs questions wrote; choose another file",
            code="target_exists",
        )
