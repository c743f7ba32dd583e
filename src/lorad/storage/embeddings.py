"""Embeddings. Where the examples of a track are found by their meaning and by their words.

What lives here: an example's vector and its words in SQLite, written and removed together. What never does: computing
vectors, ranking, deciding what a version has learned (``memory``).

A row of ``embeddings`` and the row of ``example_words`` (FTS5) with its number are one thing.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lorad.records import Example
from lorad.storage.database import UNSTORABLE, Database
from lorad.storage.example_rows import read_example

#: How a vector lies in SQLite; half the bytes of float32, and cosines change in the fourth digit.
_STORED = np.dtype("<f2")

#: FTS5 splits words at an underscore. It keeps what Unicode leaves to private use.
_UNDERSCORE = str.maketrans("_", "\ue000")

#: Each version that learned it has learned another answer to its question since.
_REPLACED_EVERYWHERE = """
    EXISTS (
        SELECT 1 FROM learnings l
        WHERE l.track = e.track AND l.question_id = e.question_id AND l.example_id = e.id
    ) AND NOT EXISTS (
        SELECT 1 FROM learnings l
        WHERE l.track = e.track AND l.question_id = e.question_id AND l.example_id = e.id AND NOT EXISTS (
            SELECT 1 FROM learnings newer
            WHERE newer.track = l.track AND newer.question_id = l.question_id AND newer.version = l.version
                AND newer.id > l.id AND newer.example_id != l.example_id
        )
    )
"""

#: The numbers of a track's rows that hold a phrase.
_HOLDING = "FROM example_words w CROSS JOIN embeddings m ON m.id = w.rowid WHERE example_words MATCH ? AND m.track = ?"

#: The examples of the track ?1 that the embedder ?2 has not embedded.
_PENDING = f"""
FROM examples e WHERE rowid IN (
    SELECT rowid FROM examples WHERE track = ?1 AND id NOT IN (
        SELECT example_id FROM embeddings NOT INDEXED WHERE track = ?1 AND embedder = ?2
    )
) AND forgotten_at IS NULL AND NOT ({_REPLACED_EVERYWHERE})
"""


class Signature(NamedTuple):
    """How often what a search sees has changed."""

    changes: int
    """Examples that came, were embedded or removed."""
    removals: int
    """Of these, removals: as long as there is none, rows are only added behind the others."""
    learned: int
    """The last thing that any version has learned."""


class Embeddings:
    """The embedded examples of one track."""

    def __init__(self, database: Database, track: str) -> None:
        self._db = database
        self._track = track
        self._changes = f"embeddings of {track}: changes"
        self._removals = f"embeddings of {track}: removals"

    def pending(self, embedder: str, limit: int) -> list[Example]:
        """Return examples that this embedder (its fingerprint) has not embedded, at most ``limit``, in order of arrival.

        Left out: what was forgotten, and what each version that learned it has replaced.
        """
        query = f"SELECT * {_PENDING} ORDER BY rowid LIMIT ?3"
        return [read_example(row) for row in self._db.rows(query, self._track, embedder, limit)]

    def count_pending(self, embedder: str) -> int:
        """Count the examples that this embedder has not embedded."""
        return int(self._db.rows(f"SELECT COUNT(*) {_PENDING}", self._track, embedder)[0][0])

    def put(self, embedder: str, rows: Sequence[tuple[str, str, NDArray[np.floating[Any]]]]) -> None:
        """Keep examples' ids, words and vectors, all or none, in place of what another embedder made.

        An example that was forgotten meanwhile is left out: its words must not come back.
        """
        held = "SELECT 1 FROM examples WHERE track = ?1 AND id = ?2 AND forgotten_at IS NULL"
        with self._db.transaction():
            replaced = self._delete([example_id for example_id, _, _ in rows])
            self._db.run_many(
                "INSERT INTO embeddings (track, example_id, embedder, vector)"
                f" SELECT ?1, ?2, ?3, ?4 WHERE EXISTS ({held})",
                [(self._track, example_id, embedder, _packed(vector)) for example_id, _, vector in rows],
            )
            self._db.run_many(
                "INSERT INTO example_words (rowid, words)"
                " SELECT id, ?3 FROM embeddings WHERE track = ?1 AND example_id = ?2",
                [(self._track, example_id, _written(words)) for example_id, words, _ in rows],
            )
            self._count_change(is_removal=bool(replaced))

    def remove(self, ids: Iterable[str]) -> None:
        """Remove examples, words and all, in the caller's transaction or one of its own."""
        gone = list(ids)
        with self._db.transaction():
            if self._delete(gone):
                # FTS5 only notes that a row is gone: its words stand in the index until that is merged
                self._db.run("INSERT INTO example_words (example_words) VALUES ('optimize')")
                self._count_change(is_removal=True)

    def _delete(self, ids: Sequence[str]) -> int:
        these = "track = ? AND example_id IN (SELECT value FROM json_each(?))"
        listed = json.dumps(ids)
        self._db.run(
            f"DELETE FROM example_words WHERE rowid IN (SELECT id FROM embeddings WHERE {these})",
            self._track,
            listed,
        )
        return self._db.run(f"DELETE FROM embeddings WHERE {these}", self._track, listed).rowcount

    def count_arrival(self) -> None:
        """Let the signature be another one because examples came, in the transaction that adds them."""
        self._count_change(is_removal=False)

    def _count_change(self, *, is_removal: bool) -> None:
        self._db.run_many(
            "INSERT INTO flags VALUES (?, '1') ON CONFLICT (name) DO UPDATE SET value = value + 1",
            [(self._changes,), *([(self._removals,)] if is_removal else [])],
        )

    def numbers(self, embedder: str) -> dict[str, int]:
        """Return the examples that this embedder has embedded, by id, and the numbers of their rows, which ascend."""
        return {row[1]: row[0] for row in self._embedded("id, example_id", embedder, 0)}

    def all(self, embedder: str, after: int = 0) -> tuple[dict[str, int], NDArray[np.float32]]:
        """Return ``numbers``, of rows after that number alone, and their vectors [N, D]."""
        rows = self._embedded("id, example_id, vector", embedder, after)
        joined = np.frombuffer(b"".join(row[2] for row in rows), _STORED)
        return {row[1]: row[0] for row in rows}, joined.reshape(len(rows), -1 if rows else 0).astype(
            np.float32
        )

    def _embedded(self, columns: str, embedder: str, after: int) -> list[sqlite3.Row]:
        # in the order of the table itself: by the index of tracks, each row would be looked up apart
        return self._db.rows(
            f"SELECT {columns} FROM embeddings NOT INDEXED WHERE id > ? AND track = ? AND embedder = ? ORDER BY id",
            after,
            self._track,
            embedder,
        )

    def matching(self, word: str, limit: int) -> list[str]:
        """Return the ids of examples that hold a word, or several in this order, whole and in any case."""
        query = f"SELECT m.example_id {_HOLDING} ORDER BY w.rowid LIMIT ?"
        return [row[0] for row in self._holding(query, word, limit)]

    def count_matching(self, word: str, limit: int = -1) -> int:
        """Count the examples that hold a word, or several in this order; up to ``limit``, where one is given."""
        query = f"SELECT COUNT(*) FROM (SELECT 1 {_HOLDING} LIMIT ?)"
        return sum(row[0] for row in self._holding(query, word, limit))

    def _holding(self, query: str, word: str, limit: int) -> list[sqlite3.Row]:
        phrase = _written(word)
        if not any(map(str.isalnum, phrase)):  # nothing that FTS5 keeps
            return []
        quoted = '"' + phrase.replace('"', '""') + '"'
        return self._db.rows(query, quoted, self._track, limit)

    def words(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """Return the words of examples, as ``put`` was given them, split at blanks."""
        query = (
            "SELECT m.example_id, w.words FROM embeddings m JOIN example_words w ON w.rowid = m.id"
            " WHERE m.track = ? AND m.example_id IN (SELECT value FROM json_each(?))"
        )
        rows = self._db.rows(query, self._track, json.dumps(ids))
        return {row[0]: row[1].replace("\ue000", "_").split() for row in rows}

    def signature(self) -> Signature:
        """Return what is another as soon as an example came, was embedded, forgotten or learned. Takes microseconds."""
        flag = "(SELECT value FROM flags WHERE name = ?)"
        query = f"SELECT {flag}, {flag}, (SELECT MAX(id) FROM learnings)"
        ((changes, removals, learned),) = self._db.rows(query, self._changes, self._removals)
        return Signature(int(changes or 0), int(removals or 0), int(learned or 0))


def _packed(vector: NDArray[np.floating[Any]]) -> bytes:
    return np.asarray(vector, _STORED).tobytes()


def _written(text: str) -> str:
    """Return a text as FTS5 is given it: words that hold underscores stay whole."""
    return UNSTORABLE.sub(" ", text).translate(_UNDERSCORE)
