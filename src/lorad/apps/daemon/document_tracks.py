"""The tracks of documents: their stores, searching them, and answering from them.

What lives here: which store a name means, what people are told of its documents, and when a question is asked behind
passages. What never does: dividing and finding (``retrieval.document_store``), taking files (``acceptance``), generating.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorad.config import Settings
from lorad.errors import ProtocolError, describe
from lorad.home import Home
from lorad.log import get_logger
from lorad.models.embedders import Embedder
from lorad.retrieval import passages, quoting
from lorad.retrieval.answering import Reply
from lorad.retrieval.citations import Citation
from lorad.retrieval.document_store import DocumentStore, How, Passage
from lorad.retrieval.passages import Messages
from lorad.serving.answers import (
    DocumentCounts,
    DocumentList,
    DocumentSummary,
    DocumentWithText,
    FoundPassage,
    RemovedDocuments,
    SearchResults,
)
from lorad.serving.queries import PAGE
from lorad.serving.record_json import fields_of
from lorad.storage.documents import LARGEST, Added, Document, Filter, Signature
from lorad.storage.ledger import Ledger

log = get_logger()

FOLDER = "documents"
"""In a track's folder: its store."""

READ_FROM = 0.15
"""Relevance from which the reranker reads a passage, to quote it; see ``documents.min_relevance``."""

SHOWN_INSTEAD = 2
"""Passages that are named where none answers: whoever asks may see at once that one does."""

ANSWERED = frozenset({"taught", "stored"})
"""Ways in which a learned example answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """A question on its way to a model, and how much may stand before it."""

    messages: Messages
    measure: Callable[[Messages], int]
    """Counts a conversation's tokens, as the model is asked it."""
    room: int
    """Tokens that it may have."""
    is_named: bool
    """Whether the request names the documents; else they are the track's default."""
    may_quote: bool
    """Whether an answer may be given without the model."""
    is_small: bool
    """Whether the model copies badly; see ``documents.answer``."""


class DocumentTracks:
    """The stores of a home's tracks of documents (``ports.Documents``)."""

    def __init__(self, home: Home, settings: Settings, ledger: Ledger) -> None:
        self._home = home
        self._ledger = ledger
        self._settings = settings
        self.tracks = tuple(settings.document_tracks)
        self.stores: dict[str, DocumentStore] = {}
        self._matcher: quoting.Matcher | None = None
        self._counted: dict[str, tuple[Signature, DocumentCounts]] = {}
        self.passage_share = settings.documents.passage_share
        """Of a model's context, what passages may take."""

    def open(self, embedder: Embedder | None, matcher: quoting.Matcher | None = None) -> None:
        """Open every track's store; without an embedder they are searched by words alone.

        ``matcher`` tells how well a piece answers a question; without it, the words that both have.
        """
        self._matcher = matcher
        for name in self.tracks:
            split = self._settings.track(name).split
            folder = self._home.track(name) / FOLDER
            self.stores[name] = DocumentStore(folder, self._settings.documents, split, embedder)

    def close(self) -> None:
        """Close the stores."""
        for store in self.stores.values():
            store.close()

    def add(
        self, track: str, documents: Iterable[Document], *, drop: int, now: float, earlier: Collection[int]
    ) -> Counter[Added]:
        """Add what a file says; see ``ports.Documents``."""
        return self._store(track).add(documents, drop=drop, now=now, earlier=earlier)

    def _store(self, track: str) -> DocumentStore:
        if track not in self.stores:
            known = (
                ", ".join(self.tracks)
                or "none; add one with: lorad --set tracks.documents.task=retrieval run"
            )
            raise ProtocolError(
                f"there is no track of documents {track!r}; known: {known}", status=404, code="no_such_track"
            )
        return self.stores[track]

    def require(self, track: str) -> None:
        """Raise ``ProtocolError`` (404) where there is no such track of documents."""
        self._store(track)

    # -- telling

    def counts(self) -> dict[str, DocumentCounts]:
        """Return how many documents and chunks each track has, and how many are not divided or embedded yet."""
        for name, store in self.stores.items():
            signature = store.tables.signature()
            if name not in self._counted or self._counted[name][0] != signature:
                self._counted[name] = (
                    signature,
                    DocumentCounts(**store.tables.counts(), by_meaning=store.has_embedder),
                )
        return {name: counts for name, (_, counts) in self._counted.items()}

    def search(
        self, track: str, query: str, k: int, how: How | None = None, where: Filter | None = None
    ) -> SearchResults:
        """Return the passages nearest to a query, best first."""
        store = self._store(track)
        found = store.search(query, k, how, where)
        return SearchResults(
            track=track,
            passages=tuple(
                FoundPassage(
                    **_place(cited),
                    score=round(each.score, 6),
                    coverage=round(each.coverage, 4),
                    relevant=each.is_relevant,
                )
                for cited, each in zip(passages.citations(found), found, strict=True)
            ),
            left=store.left(),
        )

    def documents(self, track: str, name: str = "", before: int = LARGEST, limit: int = PAGE) -> DocumentList:
        """Return documents of a track, the newest first: those of one file, title or url, older than the one ``before``."""
        rows = self._store(track).tables.documents(name, limit, before)
        return DocumentList(track=track, documents=tuple(map(_summary, rows)))

    def document(self, track: str, document: int) -> DocumentWithText:
        """Return a document with its text; raise ``ProtocolError`` (404) where there is none."""
        tables = self._store(track).tables
        row, text = tables.document(document), tables.text(document)
        if row is None or text is None:
            raise ProtocolError(f"there is no document {document}", status=404, code="no_such_document")
        return DocumentWithText(
            **_known(row),
            text=text,
            spans=tuple((chunk.start, chunk.end) for chunk in tables.chunks_of(document)),
        )

    def remove(self, track: str, documents: Sequence[int], name: str, now: float) -> RemovedDocuments:
        """Remove documents by number, or all of one file, title or url; return which."""
        store = self._store(track)
        wanted = set(documents)
        rows = [
            row for row in store.tables.documents(name) if row["id"] in wanted or (name and not documents)
        ]
        if store.remove([row["id"] for row in rows]):
            self._ledger.record_event("documents_removed", now, track=track, documents=len(rows))
        return RemovedDocuments(track=track, documents=tuple(map(_summary, rows)))

    # -- answering

    def reply(self, track: str, asking: Asking, known: Reply | None) -> Reply | None:
        """Return how a question is answered: by what is ``known`` of it, behind passages, or that there are none.

        ``None`` where nothing was looked up, or nothing is to be said of it.
        """
        settings = self._settings
        is_answered = known is not None and known.mode in ANSWERED
        if is_answered and settings.documents.prefer == "facts":
            return known
        found = self._search(track, asking)
        reply = self._quoted(track, asking, found) if self._quotes(asking) else _behind(track, asking, found)
        if reply is not None:
            return reply
        if is_answered:
            return known
        if asking.is_named and asking.may_quote and settings.answering.unknown == "say":
            return Reply(
                mode="not_found",
                text=settings.documents.not_found_words,
                passages=passages.citations(_readable(found)[:SHOWN_INSTEAD]),
                documents=track,
            )
        alone = known or Reply(mode="weights", messages=[dict(message) for message in asking.messages])
        return replace(alone, documents=track)

    def _quotes(self, asking: Asking) -> bool:
        chosen = self._settings.documents.answer
        return asking.may_quote and (chosen == "quote" or (chosen == "auto" and asking.is_small))

    def _quoted(self, track: str, asking: Asking, found: Sequence[Passage]) -> Reply | None:
        """Return the piece of what was found that answers the question, ``None`` where none does.

        The reranker reads pieces of all passages that are not far off: it knows better than a cosine what answers. Where nobody
        has named documents, ordinary conversation must not be answered with one of them.
        """
        question, relevant = _question(asking.messages), passages.relevant(found)
        near = relevant if self._matcher is None else _readable(found)
        best = quoting.best(question, near, self._store(track).rarities(question), self._matcher)
        if best is None or best.score < self._settings.documents.min_quote_score:
            return None
        if not (asking.is_named or relevant or best.about >= 0):
            return None
        return Reply(mode="quoted", text=best.text, passages=(best.cited,), documents=track)

    def _search(self, track: str, asking: Asking) -> list[Passage]:
        try:
            return self._store(track).search(_question(asking.messages), self._settings.documents.passages)
        except Exception as error:
            if asking.is_named:
                raise
            log.warning("documents_failed", track=track, **describe(error))
            return []  # who did not ask for documents gets the answer that there is without


def _readable(found: Sequence[Passage]) -> list[Passage]:
    """Return the passages that are not far off."""
    return [each for each in found if each.relevance >= READ_FROM]


def _behind(track: str, asking: Asking, found: Sequence[Passage]) -> Reply | None:
    """Return the question behind as many relevant passages as fit, ``None`` where there are none."""
    chosen = passages.fitting(asking.messages, passages.relevant(found), asking.measure, asking.room)
    if not chosen:
        return None
    asked = passages.asked(asking.messages, chosen)
    return Reply(mode="passages", messages=asked, passages=passages.citations(chosen), documents=track)


def _question(messages: Messages) -> str:
    return str(messages[-1].get("content", ""))


def _place(cited: Citation) -> dict[str, Any]:
    return {name: value for name, value in fields_of(cited).items() if name != "number"}


def _known(row: sqlite3.Row) -> dict[str, Any]:
    return {**dict(row), "tags": tuple(json.loads(row["tags"]))}


def _summary(row: sqlite3.Row) -> DocumentSummary:
    return DocumentSummary(**_known(row))
