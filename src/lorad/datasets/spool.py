"""The spool. A file's examples while it is read, of each question the latest answer.

What lives here: an unnamed database of this process, of which SQLite holds in memory what its cache takes and the
rest in a file that goes with it. What never does: formats (``reader``), what is kept for good (``memory``).
"""

import hashlib
import json
import sqlite3
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload

from lorad import wordings
from lorad.errors import TransientError
from lorad.records import Example
from lorad.storage.example_rows import wording_lists

#: KiB of memory that the examples of a file may take, however many they are.
CACHE_KIB = 64 * 1024

_COLUMNS = "question, answer, line, also_asked, held_out"

#: Examples that are looked at together.
_BATCH = 500


class Spool(Sequence[Example]):
    """Examples in the order in which their questions were last asked; ``TransientError`` when there is no room for them."""

    def __init__(self, task: str, dataset: str) -> None:
        self._task = task
        self._dataset = dataset
        self._count = 0
        self.has_wordings = False
        """Whether any example may have other wordings of its question."""
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._connection.close)
        with _room():
            self._connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            self._connection.execute(
                "CREATE TABLE examples (place INTEGER PRIMARY KEY, question_id BLOB NOT NULL UNIQUE, id BLOB NOT NULL,"
                " question TEXT NOT NULL, answer TEXT NOT NULL, line INTEGER NOT NULL,"
                " also_asked TEXT NOT NULL, held_out TEXT NOT NULL)"
            )
            self._connection.execute("BEGIN")  # and never committed: nobody else will see it

    def put(
        self,
        question: Any,
        answer: Any,
        line: int,
        also_asked: tuple[str, ...] = (),
        held_out: tuple[str, ...] = (),
    ) -> Example | None:
        """Keep an example; return the one that had its question before, with the same answer or another.

        Its other wordings are of the question, and stay.
        """
        example = self._example(question, answer, line, also_asked, held_out)
        asked = bytes.fromhex(example.input_id)
        with _room():
            older = self._connection.execute(
                f"SELECT {_COLUMNS} FROM examples WHERE question_id = ?", (asked,)
            ).fetchone()
            before = self._restored(older) if older else None
            if self.has_wordings and before:
                example = wordings.together(before, example)
            self._connection.execute(  # the older one goes, and this one stands last
                f"INSERT OR REPLACE INTO examples (question_id, id, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    asked,
                    bytes.fromhex(example.id),
                    json.dumps(question),
                    json.dumps(answer),
                    line,
                    *wording_lists(example),
                ),
            )
        self.has_wordings = self.has_wordings or wordings.count(example) > 0
        self._count += before is None
        return before

    def placed(self) -> Iterator[tuple[int, Example]]:
        """Yield the examples with their places, by which ``reword`` changes them meanwhile."""
        place = 0
        while rows := self._behind(place):
            for place, *row in rows:
                yield place, self._restored(row)

    def _behind(self, place: int) -> list[Any]:
        query = f"SELECT place, {_COLUMNS} FROM examples WHERE place > ? ORDER BY place LIMIT {_BATCH}"
        with _room():
            return self._connection.execute(query, (place,)).fetchall()

    def reword(self, place: int, example: Example) -> None:
        """Keep the other wordings of the example at a place."""
        with _room():
            self._connection.execute(
                "UPDATE examples SET also_asked = ?, held_out = ? WHERE place = ?",
                (*wording_lists(example), place),
            )

    def asks(self, example: Example) -> bool:
        """Tell whether an example with this one's question is kept."""
        with _room():
            found = self._connection.execute(
                "SELECT 1 FROM examples WHERE question_id = ?", (bytes.fromhex(example.input_id),)
            )
            return found.fetchone() is not None

    @property
    def digest(self) -> str:
        """Identify the content: sha256 over the examples' ids, independent of order and layout."""
        sha = hashlib.sha256()
        with _room():
            for (identity,) in self._connection.execute("SELECT id FROM examples ORDER BY id"):
                sha.update(identity)
        return sha.hexdigest()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Example]:
        with _room():
            for row in self._connection.execute(f"SELECT {_COLUMNS} FROM examples ORDER BY place"):
                yield self._restored(row)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> list[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | list[Example]:
        if isinstance(at, slice):
            return list(self)[at]
        place = at + self._count if at < 0 else at
        with _room():
            row = self._connection.execute(
                f"SELECT {_COLUMNS} FROM examples ORDER BY place LIMIT 1 OFFSET ?", (max(place, 0),)
            ).fetchone()
        if row is None or place < 0:
            raise IndexError(at)
        return self._restored(row)

    def _restored(self, row: Sequence[Any]) -> Example:
        question, answer, line, also_asked, held_out = row
        given = tuple(json.loads(also_asked)), tuple(json.loads(held_out))
        return self._example(json.loads(question), json.loads(answer), line, *given)

    def _example(
        self, question: Any, answer: Any, line: int, also_asked: tuple[str, ...], held_out: tuple[str, ...]
    ) -> Example:
        return Example(
            task=self._task,
            input=question,
            target=answer,
            dataset=self._dataset,
            line=line,
            also_asked=also_asked,
            held_out=held_out,
        )


@contextmanager
def _room() -> Iterator[None]:
    """Turn a full temporary folder into what may pass."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise TransientError(
            f"a file's examples do not fit into the temporary folder: {error}; lorad will retry",
            code="disk",
        ) from error
