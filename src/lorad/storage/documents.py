"""Documents in SQLite: their texts, the chunks that they were divided into, and the words by which these are found.

What lives here: adding, replacing and removing documents, each in one transaction; which of them are not divided or
embedded yet; full text search (FTS5). What never does: dividing, embedding, the vectors themselves (``vectors``).

A chunk is a span of its document's text and is stored as its two ends alone; so is the index of words, which keeps no text
of its own. What a citation names is what stands there.
"""

import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lorad.errors import SampleError
from lorad.records import DATE
from lorad.storage.database import UNSTORABLE, Database
from lorad.storage.vectors import Batch

FILE = "documents.sqlite3"

#: Each entry is applied once, in order. Never edit one that was released.
MIGRATIONS = (
    """
    CREATE TABLE documents (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, state TEXT NOT NULL, same_as INTEGER, replaces INTEGER,
        name TEXT NOT NULL, title TEXT NOT NULL, url TEXT NOT NULL, markup TEXT NOT NULL, method TEXT NOT NULL,
        pages TEXT NOT NULL, tags TEXT NOT NULL, date TEXT NOT NULL, digest TEXT NOT NULL, text TEXT NOT NULL,
        drop_id INTEGER, added_as TEXT NOT NULL, added_at REAL NOT NULL
    );
    CREATE INDEX documents_by_key ON documents (key);
    CREATE INDEX documents_by_digest ON documents (digest);
    CREATE INDEX documents_waiting ON documents (id) WHERE state = 'waiting';
    CREATE TABLE chunks (
        id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES documents(id), first INTEGER NOT NULL,
        behind INTEGER NOT NULL, heading TEXT NOT NULL, page INTEGER, slot INTEGER
    );
    CREATE INDEX chunks_by_document ON chunks (document, first);
    CREATE INDEX chunks_without_vector ON chunks (id) WHERE slot IS NULL;
    CREATE TABLE batches (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, checksum INTEGER NOT NULL);
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE VIRTUAL TABLE chunk_words USING fts5(
        heading, text, content='', tokenize='porter unicode61 remove_diacritics 2'
    );
    """,
)

LARGEST = 2**63 - 1
"""The largest number that SQLite knows."""

HEADING_WEIGHT = 2.0
"""Of a word in a heading, beside 1 in the text."""

SUMMARY = """
    SELECT d.id, d.state, d.name, d.title, d.url, d.markup, d.tags, d.date, d.added_at, length(d.text) AS characters,
        d.same_as, (SELECT COUNT(*) FROM chunks c WHERE c.document = d.id) AS chunks,
        (SELECT COUNT(*) FROM chunks c WHERE c.document = d.id AND c.slot IS NULL) AS unembedded
    FROM documents d
"""

State = Literal["waiting", "divided", "same"]
"""``waiting`` to be divided; ``same``: another document has this text."""

Added = Literal["new", "replacing", "same", "known"]
"""What became of a document: ``same`` is another document's text, ``known`` its own of before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text with what is known of it."""

    text: str
    title: str
    name: str = ""
    """The file that it came from."""
    url: str = ""
    markup: str = "plain"
    """``plain``, ``markdown`` or ``rst``."""
    method: str = ""
    """How it is divided; empty: as its track does."""
    pages: tuple[int, ...] = ()
    """The characters at which its pages begin."""
    tags: tuple[str, ...] = ()
    date: str = ""
    """As YYYY-MM-DD, or its beginning."""
    label: str = ""
    """What tells it apart from others of one file: an id, or else its title."""

    @property
    def key(self) -> str:
        """Return what a changed document keeps: its url, or else its file's name and its title; with neither, nothing."""
        if self.url:
            return f"url {self.url}"
        return f"file {self.name}\n{self.label or self.title}" if self.name else f"text {self.digest}"

    @property
    def digest(self) -> str:
        """Return the sha256 of its text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def check(self) -> None:
        """Raise ``SampleError`` for a document that cannot be stored."""
        for name in ("text", "title", "name", "url"):
            if UNSTORABLE.search(getattr(self, name)):
                raise SampleError(
                    f"the document {self.title!r} holds a NUL or half a character in its {name}; remove it",
                    code="unstorable_text",
                )
        if not self.text.strip():
            raise SampleError(f"the document {self.title!r} has no text", code="no_text")
        if not re.fullmatch(DATE, self.date):
            raise SampleError(
                f"the date {self.date!r} of {self.title!r} must be written as YYYY-MM-DD", code="bad_date"
            )


class Chunk(NamedTuple):
    """A chunk with what is known of its document."""

    id: int
    slot: int | None
    """Its row in the file of vectors."""
    document: int
    title: str
    name: str
    url: str
    start: int
    end: int
    heading: tuple[str, ...]
    page: int | None
    text: str
    markup: str = "plain"


class Span(NamedTuple):
    """Where a chunk is, to be stored."""

    start: int
    end: int
    heading: tuple[str, ...]
    page: int | None


class Signature(NamedTuple):
    """How often what a search sees has changed."""

    changes: int
    removals: int
    """Of these, removals: as long as there is none, chunks were only added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which documents are searched; an empty one leaves all."""

    documents: tuple[int, ...] = ()
    """Their numbers."""
    tags: tuple[str, ...] = ()
    """All of which a document must have."""
    since: str = ""
    until: str = ""
    """Dates, both included, as YYYY-MM-DD or their beginnings; what has no date is left out where one is given."""

    def __bool__(self) -> bool:
        """Tell whether it leaves anything out."""
        return bool(self.documents or self.tags or self.since or self.until)

    def sql(self) -> tuple[str, list[Any]]:
        """Return a condition on ``chunks c``, and its values."""
        parts, values = ["1"], list[Any]()
        if self.documents:
            parts.append("d.id IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(self.documents))
        for tag in self.tags:
            parts.append("EXISTS (SELECT 1 FROM json_each(d.tags) WHERE value = ?)")
            values.append(tag)
        if self.since:
            parts.append("d.date >= ?")
            values.append(self.since)
        if self.until:
            parts.append("d.date != '' AND substr(d.date, 1, ?) <= ?")
            values += [len(self.until), self.until]
        # where two documents have one text, its chunks are the first one's
        chosen = f"SELECT coalesce(d.same_as, d.id) FROM documents d WHERE {' AND '.join(parts)}"
        return (f"c.document IN ({chosen})", values) if self else ("1", [])


def open_database(folder: Path | None) -> Database:
    """Open the database of a folder, or one in memory."""
    return Database(folder / FILE if folder else ":memory:", migrations=MIGRATIONS)


class DocumentTables:
    """The documents of one store."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # -- documents

    def add(
        self, documents: Iterable[Document], drop: int | None, now: float, earlier: Collection[int] = ()
    ) -> Counter[Added]:
        """Add the documents of one file; return what became of them. All or none, and a second time nothing.

        ``earlier`` are the drops of the same file as it was read before: what they added and this one does not is removed.
        Raise ``SampleError`` for a document that cannot be stored.
        """
        found: Counter[Added] = Counter()
        with self._db.transaction():
            keys: Counter[str] = Counter()
            for document in documents:
                document.check()
                keys[document.key] += 1
                # several of one file with one name are all kept, each by its number among them
                numbered = (
                    f"{document.key}\n#{keys[document.key]}" if keys[document.key] > 1 else document.key
                )
                found[self._add(document, numbered, drop, now)] += 1
            if earlier:
                gone = self._ids("drop_id IN (SELECT value FROM json_each(?))", json.dumps(list(earlier)))
                self._remove(gone)
            self._count_change()
        return found

    def _add(self, document: Document, key: str, drop: int | None, now: float) -> Added:
        digest = document.digest
        rows = self._db.rows("SELECT id, digest, state, drop_id, added_as FROM documents WHERE key = ?", key)
        same = next((row for row in rows if row["digest"] == digest), None)
        if same is not None:
            if drop is not None and same["drop_id"] == drop:  # a crash had this drop read twice
                return str(same["added_as"])  # type: ignore[return-value]
            self._remove([row["id"] for row in rows if row["state"] == "waiting" and row is not same])
            self._describe(same["id"], document, drop)
            return "known"
        live = next((row["id"] for row in rows if row["state"] != "waiting"), None)
        self._remove([row["id"] for row in rows if row["state"] == "waiting"])
        query = "SELECT id FROM documents WHERE digest = ? AND state != 'same' LIMIT 1"
        twin = next((int(row["id"]) for row in self._db.rows(query, digest)), None)
        became: Added = "replacing" if rows else "same" if twin is not None else "new"
        self._db.run(
            "INSERT INTO documents (key, state, same_as, replaces, name, title, url, markup, method, pages, tags, date,"
            " digest, text, drop_id, added_as, added_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *(key, "waiting" if twin is None else "same", twin, live if twin is None else None),
            *(document.name, document.title, document.url, document.markup, document.method),
            *(json.dumps(document.pages), json.dumps(document.tags), document.date),
            *(digest, document.text, drop, became, now),
        )
        if twin is not None and live is not None:
            self._remove([live])
        return became

    def _describe(self, document_id: int, document: Document, drop: int | None) -> None:
        self._db.run(
            "UPDATE documents SET name = ?, title = ?, tags = ?, date = ?, drop_id = ?, added_as = 'known' WHERE id = ?",
            *(document.name, document.title, json.dumps(document.tags), document.date, drop, document_id),
        )

    def remove(self, ids: Sequence[int]) -> int:
        """Remove documents with their chunks; return how many there were. What has the text of one takes its place."""
        with self._db.transaction():
            gone = self._ids("id IN (SELECT value FROM json_each(?))", json.dumps(list(ids)))
            self._remove(gone)
            if gone:
                self._set("removed", "1")  # until their vectors are gone as well
        return len(gone)

    def _ids(self, where: str, *values: Any) -> list[int]:
        return [int(row["id"]) for row in self._db.rows(f"SELECT id FROM documents WHERE {where}", *values)]

    def _remove(self, ids: Sequence[int]) -> None:
        for document in ids:
            self._remove_chunks(document)
            self._db.run("DELETE FROM documents WHERE id = ?", document)
            self._promote_twin(document)
        if ids:
            self._set("unmerged", "1")
            self._count_change(is_removal=True)

    def _promote_twin(self, gone: int) -> None:
        """Let the first document that has the text of one that is gone be divided, and stand for the others."""
        twins = self._ids("same_as = ? ORDER BY id", gone)
        if twins:
            self._db.run("UPDATE documents SET state = 'waiting', same_as = NULL WHERE id = ?", twins[0])
            self._db.run("UPDATE documents SET same_as = ? WHERE same_as = ?", twins[0], gone)

    def _remove_chunks(self, document: int) -> None:
        # an index without text is told again what it is to forget
        self._db.run_many(
            "INSERT INTO chunk_words (chunk_words, rowid, heading, text) VALUES ('delete', ?, ?, ?)",
            [(each.id, _joined(each.heading), each.text) for each in self.chunks_of(document)],
        )
        self._db.run("DELETE FROM chunks WHERE document = ?", document)

    def documents(self, name: str = "", limit: int = -1, before: int = LARGEST) -> list[sqlite3.Row]:
        """Return what is known of documents, without their texts, the newest first.

        Of one file, title or url, and with a lower number than ``before``, where these are given.
        """
        named, values = ("AND (d.name = ? OR d.title = ? OR d.url = ?)", [name] * 3) if name else ("", [])
        query = f"{SUMMARY} WHERE d.id < ? {named} ORDER BY d.id DESC LIMIT ?"
        return self._db.rows(query, before, *values, limit)

    def document(self, document_id: int) -> sqlite3.Row | None:
        """Return what is known of one document."""
        return next(iter(self._db.rows(f"{SUMMARY} WHERE d.id = ?", document_id)), None)

    def text(self, document_id: int) -> str | None:
        """Return a document's text."""
        rows = self._db.rows("SELECT text FROM documents WHERE id = ?", document_id)
        return str(rows[0]["text"]) if rows else None

    def count_left(self) -> tuple[int, int]:
        """Count the documents that are not divided and the chunks that are not embedded yet."""
        ((waiting, unembedded),) = self._db.rows(
            "SELECT (SELECT COUNT(*) FROM documents WHERE state = 'waiting'),"
            " (SELECT COUNT(*) FROM chunks WHERE slot IS NULL)"
        )
        return int(waiting), int(unembedded)

    def counts(self) -> dict[str, int]:
        """Return how many documents and chunks there are, and how many wait to be divided and embedded."""
        ((documents, waiting, chunks, unembedded),) = self._db.rows(
            "SELECT (SELECT COUNT(*) FROM documents), (SELECT COUNT(*) FROM documents WHERE state = 'waiting'),"
            " (SELECT COUNT(*) FROM chunks), (SELECT COUNT(*) FROM chunks WHERE slot IS NULL)"
        )
        return {"documents": documents, "waiting": waiting, "chunks": chunks, "unembedded": unembedded}

    def highest_chunk(self) -> int:
        """Return the number of the last chunk: about how many there are, in no time."""
        return int(self._db.rows("SELECT COALESCE(MAX(id), 0) FROM chunks")[0][0])

    # -- dividing

    def waiting(self) -> tuple[int, Document] | None:
        """Return the oldest document that is not divided yet."""
        rows = self._db.rows("SELECT * FROM documents WHERE state = 'waiting' ORDER BY id LIMIT 1")
        if not rows:
            return None
        row = rows[0]
        return row["id"], Document(
            text=row["text"],
            title=row["title"],
            markup=row["markup"],
            method=row["method"],
            pages=tuple(json.loads(row["pages"])),
        )

    def put_chunks(self, document: int, text: str, spans: Sequence[Span]) -> None:
        """Store a document's chunks, in place of those of the document that it replaces."""
        with self._db.transaction():
            rows = self._db.rows(
                "SELECT replaces FROM documents WHERE id = ? AND state = 'waiting'", document
            )
            if not rows:  # it was removed meanwhile
                return
            self._remove_chunks(document)
            for start, end, heading, page in spans:
                added = self._db.run(
                    "INSERT INTO chunks (document, first, behind, heading, page) VALUES (?, ?, ?, ?, ?)",
                    *(document, start, end, json.dumps(heading, ensure_ascii=False), page),
                )
                self._db.run(
                    "INSERT INTO chunk_words (rowid, heading, text) VALUES (?, ?, ?)",
                    *(added.lastrowid, _joined(heading), text[start:end]),
                )
            self._db.run("UPDATE documents SET state = 'divided', replaces = NULL WHERE id = ?", document)
            if rows[0]["replaces"] is not None:
                self._remove([rows[0]["replaces"]])
            self._count_change()

    def divide_again(self) -> None:
        """Let all documents wait to be divided anew: they are to be divided in another way."""
        with self._db.transaction():
            self._db.run("UPDATE documents SET state = 'waiting' WHERE state = 'divided'")
            self._count_change()

    # -- embedding

    def unembedded(self, limit: int) -> list[Chunk]:
        """Return chunks that have no vector yet, in the order in which they came."""
        return self._chunks("c.id IN (SELECT id FROM chunks WHERE slot IS NULL ORDER BY id LIMIT ?)", limit)

    def put_slots(self, chunks: Sequence[int], batch: Batch) -> None:
        """Say that these chunks' vectors are the rows of a batch, in this order; chunks that are gone leave theirs empty."""
        with self._db.transaction():
            self._db.run_many(
                "UPDATE chunks SET slot = ? WHERE id = ?",
                [(batch.first + at, chunk) for at, chunk in enumerate(chunks)],
            )
            self._db.run("INSERT INTO batches VALUES (?, ?, ?)", *batch)
            self._count_change()

    def batches(self) -> list[Batch]:
        """Return what was added to the file of vectors."""
        return [Batch(*row) for row in self._db.rows("SELECT * FROM batches ORDER BY first")]

    def count_slots(self) -> int:
        """Count the chunks that have a vector."""
        ((all_of_them, without),) = self._db.rows(
            "SELECT (SELECT COUNT(*) FROM chunks), (SELECT COUNT(*) FROM chunks WHERE slot IS NULL)"
        )
        return int(all_of_them) - int(without)

    def rows(self) -> int:
        """Return how many rows the file of vectors has, the empty ones included."""
        ((found,),) = self._db.rows("SELECT COALESCE(MAX(first + count), 0) FROM batches")
        return int(found)

    def forget_batches(self, damaged: Iterable[Batch]) -> None:
        """Let the chunks of these batches be embedded again."""
        with self._db.transaction():
            for batch in damaged:
                self._db.run(
                    "UPDATE chunks SET slot = NULL WHERE slot >= ? AND slot < ?",
                    *(batch.first, batch.first + batch.size),
                )
                self._db.run("DELETE FROM batches WHERE first = ?", batch.first)
            self._count_change(is_removal=True)

    def move_slots(self, slots: Sequence[tuple[int, int]], batches: Sequence[Batch], generation: int) -> None:
        """Say that chunks' vectors are in another file now: slots and chunks, in the file's order."""
        with self._db.transaction():
            self._db.run("UPDATE chunks SET slot = NULL")
            self._db.run_many("UPDATE chunks SET slot = ? WHERE id = ?", slots)
            self._db.run("DELETE FROM batches")
            self._db.run_many("INSERT INTO batches VALUES (?, ?, ?)", list(batches))
            self._set("generation", str(generation))
            self._set("removed", "0")
            self._count_change(is_removal=True)

    def slots(self, after: int = -1, where: Filter | None = None) -> list[tuple[int, int]]:
        """Return the slots behind one, in their order, each with its chunk; those of some documents alone."""
        condition, values = (where or Filter()).sql()
        query = f"SELECT c.slot, c.id FROM chunks c WHERE c.slot > ? AND {condition} ORDER BY c.slot"
        rows = self._db.rows(query, after, *values)
        return [(row[0], row[1]) for row in rows]

    # -- finding

    def chunks(self, ids: Sequence[int]) -> dict[int, Chunk]:
        """Return chunks by number; those that are gone are missing."""
        found = self._chunks("c.id IN (SELECT value FROM json_each(?))", json.dumps(list(ids)))
        return {each.id: each for each in found}

    def chunks_of(self, document: int) -> list[Chunk]:
        """Return a document's chunks in their order."""
        return self._chunks("c.document = ?", document)

    def _chunks(self, where: str, *values: Any) -> list[Chunk]:
        rows = self._db.rows(
            "SELECT c.id, c.slot, c.document, d.title, d.name, d.url, c.first, c.behind, c.heading, c.page, d.markup"
            f" FROM chunks c JOIN documents d ON d.id = c.document WHERE {where} ORDER BY c.document, c.first",
            *values,
        )
        # sliced here: SQLite would read a document once for each of its chunks
        texts = {document: self.text(document) or "" for document in {row["document"] for row in rows}}
        return [
            Chunk(
                id=row["id"],
                slot=row["slot"],
                document=row["document"],
                title=row["title"],
                name=row["name"],
                url=row["url"],
                start=row["first"],
                end=row["behind"],
                heading=tuple(json.loads(row["heading"])),
                page=row["page"],
                text=texts[row["document"]][row["first"] : row["behind"]],
                markup=row["markup"],
            )
            for row in rows
        ]

    def matching(
        self, words: Sequence[str], limit: int, where: Filter | None = None
    ) -> list[tuple[int, float]]:
        """Return the chunks that hold one of these words or more, the best by BM25 first, with their scores (more is better)."""
        condition, values = (where or Filter()).sql()
        among = f"AND rowid IN (SELECT c.id FROM chunks c WHERE {condition})" if where else ""
        rows = self._db.rows(
            f"SELECT rowid, bm25(chunk_words, {HEADING_WEIGHT}, 1.0) AS score FROM chunk_words"
            f" WHERE chunk_words MATCH ? {among} ORDER BY score LIMIT ?",
            " OR ".join(map(_quoted, words)),
            *values,
            limit,
        )
        return [(row[0], -row[1]) for row in rows]

    def count_matching(self, word: str, limit: int) -> int:
        """Count the chunks that hold a word, up to a limit."""
        query = "SELECT COUNT(*) FROM (SELECT 1 FROM chunk_words WHERE chunk_words MATCH ? LIMIT ?)"
        return int(self._db.rows(query, _quoted(word), limit)[0][0])

    def holding(self, word: str, chunks: Sequence[int]) -> set[int]:
        """Return which of these chunks hold a word."""
        query = "SELECT rowid FROM chunk_words WHERE chunk_words MATCH ? AND rowid IN (SELECT value FROM json_each(?))"
        return {row[0] for row in self._db.rows(query, _quoted(word), json.dumps(list(chunks)))}

    def merge_words(self, pages: int = 500) -> bool:
        """Take what was removed out of the index of words, some pages at a time; return whether more is left.

        FTS5 only notes that a row is gone: its words stand in the index until its parts are merged.
        """
        with self._db.transaction():
            self._db.run("INSERT INTO chunk_words (chunk_words, rank) VALUES ('merge', ?)", -pages)
            before = self._changes()
            self._db.run("INSERT INTO chunk_words (chunk_words, rank) VALUES ('merge', ?)", pages)
            is_more = self._changes() - before > 1  # as SQLite's documentation has it
            if not is_more:
                self._set("unmerged", "0")
        return is_more

    def _changes(self) -> int:
        return int(self._db.rows("SELECT total_changes()")[0][0])

    # -- what is noted

    def meta(self, name: str) -> str:
        """Return what is noted under a name, empty where nothing is."""
        rows = self._db.rows("SELECT value FROM meta WHERE name = ?", name)
        return str(rows[0][0]) if rows else ""

    def note(self, **values: str) -> None:
        """Note values under names, all at once."""
        with self._db.transaction():
            for name, value in values.items():
                self._set(name, value)

    def _set(self, name: str, value: str) -> None:
        self._db.run(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            name,
            value,
        )

    def _count_change(self, *, is_removal: bool = False) -> None:
        self._db.run_many(
            "INSERT INTO meta VALUES (?, '1') ON CONFLICT (name) DO UPDATE SET value = value + 1",
            [("changes",), *([("removals",)] if is_removal else [])],
        )

    def signature(self) -> Signature:
        """Return what is another as soon as anything was added, embedded or removed."""
        return Signature(int(self.meta("changes") or 0), int(self.meta("removals") or 0))


def _joined(heading: Sequence[str]) -> str:
    return " ".join(heading)


def _quoted(word: str) -> str:
    """Return a word as FTS5 takes it for a phrase, whatever signs it has."""
    return '"' + UNSTORABLE.sub(" ", word).replace('"', '""') + '"'
