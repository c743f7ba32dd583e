"""A store of documents: what is added is divided, embedded step by step, and found by its words and its meaning.

What lives here: the steps, and a search that joins BM25 and embeddings. What never does: reading files (``datasets``), which
passages answer a question and how (``passages``), generating.

SQLite is the truth (``storage.documents``). The vectors lie in a file beside it (``storage.vectors``), of which SQLite knows
how many rows count and what they hash to: a file that is missing or damaged costs embedding its rows again. ``step`` may be
killed anywhere, and goes on where it was.
"""

import contextlib
import math
import threading
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorad.config import DocumentSettings, SplitSettings
from lorad.errors import ConfigError, TransientError
from lorad.models.embedders import Embedder
from lorad.records import digest
from lorad.retrieval import sign_codes
from lorad.retrieval.outline import markup_of
from lorad.retrieval.splitting import Splitter
from lorad.retrieval.words import words
from lorad.storage import files
from lorad.storage.documents import (
    FILE,
    Added,
    Chunk,
    Document,
    DocumentTables,
    Filter,
    Signature,
    Span,
    open_database,
)
from lorad.storage.vectors import ROW, Batch, VectorFile

How = Literal["hybrid", "bm25", "embeddings"]

CANDIDATES = 100
"""Chunks that each way of searching finds, at least, before both are joined."""

SPARE = 8
"""Extra candidates that are read: some may have been removed since they were found."""

RANK_CONSTANT = 60
"""Of reciprocal rank fusion, as in Cormack, Clarke and Büttcher (SIGIR 2009): a chunk's score is the sum of 1 / (60 + rank)."""

MOST_WORDS, LONGEST_WORD = 16, 64
"""Words of a question that are looked up, the rarest; and characters of a word."""

MOST_ASKED = 256
"""Words of a question that are counted: each takes a look into the index, and somebody may paste a log."""

LEAST_TELLING, UNKNOWN_TELLS = 0.3, 0.5
"""What a word of a question tells that all chunks have, beside 1 for one that only one has; and one that none has."""

COVERAGE_WEIGHT = 0.5
"""Of a passage's coverage beside its similarity, where there is one, to tell whether it is relevant."""

MOST_MATCHES, MOST_COUNTED = 20_000, 20_000
"""Chunks that BM25 compares, about; counting those that hold a word stops at the second. A word that is nearly everywhere tells
next to nothing, and to compare a million chunks takes a second."""

LONGEST_HEADING = 160
"""Characters of the headings above a chunk that are embedded with it, the last ones: what an embedder reads is bounded."""

MOST_FILTERS = 16
"""Filters whose rows are kept: the next search by the same one need not look them up."""

BLOCK_ROWS = 8192
"""Rows that are multiplied together: as float32 they fit into a processor's cache."""

SIEVED_FROM, SIEVED = 50_000, 2_000
"""Rows from which on a search compares those alone whose sign codes are nearest, and how many: to read a million vectors takes half
a second."""

LEAST_EMPTY, EMPTY_SHARE = 1024, 4
"""The file of vectors is written anew when more rows than the first, and more than one in so many, belong to nothing."""

_FUNCTION_WORDS = (
    "a an and are as at be been by can could did do does for from had has have how i if in is it its me my not of on or our"
    " she should so that the their them there they this to was we were what when where which who whom whose why will with"
    " would you your"
    " auf aus bei das dem den der des die ein eine einem einen einer es für hat ich im in ist kann man mit nicht sich sie"
    " sind und von wann war warum was welche welcher welches wer wie wo zu zum zur"
    " au aux avec ce ces combien comment dans de des du elle est et il ils je la le les où par pas pour pourquoi qu quand"
    " que quel quelle quelles quels qui quoi se son sont sur un une"
)

ASKING = frozenset(_FUNCTION_WORDS.split())
"""Words of questions that say nothing of what is asked, in English, German and French: a question of these alone keeps them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A chunk that a search has found."""

    chunk: Chunk
    score: float
    """By which passages are ordered: comparable within one search alone."""
    similarity: float | None
    """Cosine of its embedding and the question's; ``None`` where there is none."""
    coverage: float
    """Share of the question's words that it holds, weighted by rarity, 0 to 1."""
    relevance: float
    """Similarity and coverage together: more is nearer to the question."""
    is_relevant: bool
    """Whether it is near enough to the question to answer it; see ``documents.min_relevance``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """The vectors that counted at one time."""

    signature: Signature
    generation: str
    rows: Tensor
    """[N, D] in float16, in a mapped file."""
    chunks: NDArray[np.int64]
    """[N]: each row's chunk, -1 where it belongs to nothing."""
    codes: NDArray[np.uint64] | None
    """[W, N]: their sign codes, where they are many."""
    held: dict[Filter, Tensor] = field(default_factory=dict)
    """Which rows belong to the documents of a filter, as a mask [N]."""


class DocumentStore:
    """Documents of one track, or of a program's own. Its methods may be called by several threads, ``step`` by one."""

    def __init__(
        self,
        folder: Path | None,
        settings: DocumentSettings | None = None,
        split: SplitSettings | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        """Open the store of a folder, made if it must be, or one in memory.

        Without an ``embedder`` it finds by words alone. Where documents were divided in another way, or embedded by another
        model, they are so anew, step by step.
        """
        self._settings = settings or DocumentSettings()
        self._embedder = embedder
        self._folder = folder
        if folder:
            files.make_folder(folder, mode=files.CLOSED)
        self._database = open_database(folder)
        self.tables = DocumentTables(self._database)
        self._lock = threading.Lock()
        self._seen: _View | None = None
        self._settled: Signature | None = None
        """What there was when nothing was left to do."""
        self._rarities: tuple[int, dict[str, int]] = (0, {})
        self._in_memory: list[NDArray[np.float16]] = []
        """The vectors of a store without a folder."""
        try:
            chosen = split or self._settings.split
            tokenizer = embedder.text_tokenizer() if embedder else None
            self._splitter = Splitter(chosen, tokenizer)
            self._recover(chosen)
        except BaseException:
            self._database.close()
            raise

    @property
    def has_embedder(self) -> bool:
        """Tell whether it finds by meaning, and not by words alone."""
        return self._embedder is not None

    def close(self) -> None:
        """Close its database."""
        self._seen = None
        self._database.close()

    def copy_to(self, folder: Path) -> None:
        """Copy the store into a new folder; what is not embedded yet is so there. Raise ``ConfigError`` where one is."""
        if (folder / FILE).exists():
            raise ConfigError(f"{folder} holds a store already; name another folder", code="exists")
        files.make_folder(folder, mode=files.CLOSED)
        if self._embedder is not None and (count := self.tables.rows()):
            rows = self._rows(self._embedder, count).numpy()
            copy = VectorFile(folder / self._vectors_name(), self._embedder.dimension)
            for at in range(0, count, BLOCK_ROWS):
                copy.add(at, rows[at : at + BLOCK_ROWS])
        self._database.copy_to(folder / FILE)

    def _recover(self, split: SplitSettings) -> None:
        """Bring the file of vectors and SQLite to one story, whoever was killed."""
        tables, embedder = self.tables, self._embedder
        divided_by, measured_by = (
            digest(split.model_dump(mode="json")),
            embedder.fingerprint if embedder else "",
        )
        noted = tables.meta("divided_by"), tables.meta("measured_by")
        # without an embedder, which may be damaged today, what it has measured holds
        if noted != (divided_by, measured_by or noted[1]):
            tables.divide_again()
            tables.note(divided_by=divided_by, measured_by=measured_by)
        if embedder is None:
            return
        if tables.meta("embedder") != embedder.fingerprint:
            tables.move_slots([], [], int(tables.meta("generation") or 0) + 1)
            tables.note(embedder=embedder.fingerprint)
        batches = tables.batches()
        if self._folder:
            for path in self._folder.glob("vectors-*.f16"):
                if path != self._vectors().path:
                    files.remove(path)
            batches = list(self._vectors().damaged(batches))
        if batches:
            tables.forget_batches(batches)

    def _vectors(self) -> VectorFile:
        assert self._folder is not None and self._embedder is not None  # noqa: S101, PT018 - callers have asked
        return VectorFile(self._folder / self._vectors_name(), self._embedder.dimension)

    def _vectors_name(self) -> str:
        return f"vectors-{self.tables.meta('generation')}.f16"

    # -- filling

    def add(
        self,
        documents: Iterable[Document],
        *,
        drop: int | None = None,
        now: float = 0.0,
        earlier: Collection[int] = (),
    ) -> Counter[Added]:
        """Add documents, all or none; they can be found once ``step`` has divided them. See ``DocumentTables.add``."""
        return self.tables.add(documents, drop, now, earlier)

    def remove(self, documents: Sequence[int]) -> int:
        """Remove documents by number; return how many there were."""
        return self.tables.remove(documents)

    def step(self, limit: int = 64) -> bool:
        """Divide one document, or embed ``limit`` chunks at most, or tidy up; return whether more is left."""
        signature = self.tables.signature()
        if signature == self._settled:
            return False
        is_more = self._divide() or self._embed(limit) or self._purge() or self._compact()
        self._settled = None if is_more else signature
        return is_more

    def finish(self) -> None:
        """Do all that is left."""
        while self.step():
            pass

    def left(self) -> int:
        """Count the documents that are not divided and the chunks that are not embedded yet."""
        waiting, unembedded = self.tables.count_left()
        return waiting + (unembedded if self._embedder else 0)

    def _divide(self) -> bool:
        waiting = self.tables.waiting()
        if waiting is None:
            return False
        number, document = waiting
        chunks = self._splitter.split(
            document.text,
            markup_of(document.markup),
            document.pages,
            document.method or None,  # type: ignore[arg-type] # checked where it came in
        )
        spans = [Span(chunk.start, chunk.end, chunk.heading, chunk.page) for chunk in chunks]
        self.tables.put_chunks(number, document.text, spans)
        return True

    def _embed(self, limit: int) -> bool:
        if self._embedder is None:
            return False
        chunks = self.tables.unembedded(limit)
        if not chunks:
            return False
        vectors = self._embedder.embed([embedded_text(chunk) for chunk in chunks])
        first = self.tables.rows()
        self.tables.put_slots([chunk.id for chunk in chunks], self._append(first, vectors))
        return True

    def _append(self, first: int, vectors: NDArray[np.float32]) -> Batch:
        if self._folder:
            return self._vectors().add(first, vectors)
        rows = vectors.astype(ROW)
        self._in_memory.append(rows)
        return Batch(first, len(rows), zlib.crc32(rows.tobytes()))

    def _purge(self) -> bool:
        """Take the words of what was removed out of the index, and then out of the database's log."""
        if self.tables.meta("unmerged") != "1":
            return False
        if self.tables.merge_words():
            return True
        with contextlib.suppress(TransientError):  # somebody reads: the next removal does it
            self._database.empty_log()
        return False

    def _compact(self) -> bool:
        """Write the vectors anew without those that belong to nothing, where these are many or somebody removed them."""
        if self._embedder is None or self._folder is None:
            return False
        rows = self.tables.rows()
        empty = rows - self.tables.count_slots()
        is_wanted = empty > 0 and self.tables.meta("removed") == "1"
        if not is_wanted and empty <= max(LEAST_EMPTY, rows // EMPTY_SHARE):
            return False
        slots = self.tables.slots()
        old, held = self._vectors(), self._vectors().rows(rows)
        generation = int(self.tables.meta("generation") or 0) + 1
        new = VectorFile(self._folder / f"vectors-{generation}.f16", self._embedder.dimension)
        new.remove()
        batches = [
            new.add(at, held[[slot for slot, _ in slots[at : at + BLOCK_ROWS]]])
            for at in range(0, len(slots), BLOCK_ROWS)
        ]
        moved = [(place, chunk) for place, (_, chunk) in enumerate(slots)]
        self.tables.move_slots(moved, batches, generation)
        old.remove()
        return True

    # -- finding

    def search(
        self, question: str, k: int = 10, how: How | None = None, where: Filter | None = None
    ) -> list[Passage]:
        """Return the ``k`` chunks nearest to a question, best first.

        ``how`` is ``documents.search`` unless it is given. Without an embedder only words are compared, whatever it is.
        """
        chosen = how or self._settings.search
        where = where or Filter()
        view, asked = self._asked(question) if chosen != "bm25" else (None, None)
        looked_up, most = self.rarities(question), max(CANDIDATES, k + SPARE)
        by_words, by_meaning = dict[int, float](), dict[int, float]()
        if view is not None and asked is not None:
            by_meaning = _nearest(view, asked, most, self._mask(view, where))
        if looked_up and (chosen != "embeddings" or view is None):
            by_words = dict(self.tables.matching(list(looked_up), most, where))
        scores = self._joined(by_words, by_meaning)
        best = sorted(scores, key=lambda chunk: (-scores[chunk], chunk))[: k + SPARE]
        chunks = self.tables.chunks(best)
        coverages = self._coverages(looked_up, list(chunks))
        found = []
        for chunk_id in best:
            if chunk_id in chunks:
                chunk = chunks[chunk_id]
                similarity = by_meaning.get(chunk_id, _similarity(view, asked, chunk))
                found.append(self._passage(chunk, scores[chunk_id], similarity, coverages[chunk_id]))
        return found[:k]

    def _passage(self, chunk: Chunk, score: float, similarity: float | None, coverage: float) -> Passage:
        relevance = coverage if similarity is None else similarity + COVERAGE_WEIGHT * coverage
        return Passage(
            chunk=chunk,
            score=score,
            similarity=similarity,
            coverage=coverage,
            relevance=relevance,
            is_relevant=relevance >= self._settings.min_relevance,
        )

    def _joined(self, by_words: Mapping[int, float], by_meaning: Mapping[int, float]) -> dict[int, float]:
        """Return a score for each chunk that was found in one way or in both."""
        if not (by_words and by_meaning):
            return dict(by_words or by_meaning)
        share, is_by_rank = self._settings.embeddings_weight, self._settings.fusion == "rank"
        found: defaultdict[int, float] = defaultdict(float)
        for weight, scores in ((1 - share, by_words), (share, by_meaning)):
            highest = max(1e-9, *scores.values())
            for rank, chunk in enumerate(sorted(scores, key=lambda each: -scores[each]), start=1):
                found[chunk] += 1 / (RANK_CONSTANT + rank) if is_by_rank else weight * scores[chunk] / highest
        return dict(found)

    def _asked(self, question: str) -> tuple[_View, Tensor] | tuple[None, None]:
        if self._embedder is None:
            return None, None
        asked = torch.from_numpy(self._embedder.embed([question])[0])
        with self._lock:
            return self._current(self._embedder), asked

    def _current(self, embedder: Embedder) -> _View:
        """Return the vectors that count now; the caller holds the lock."""
        while True:
            signature = self.tables.signature()  # before the rest: what comes meanwhile is seen next time
            if self._seen is not None and self._seen.signature == signature:
                return self._seen
            try:
                self._seen = self._open(embedder, signature)
            except (OSError, ValueError):  # the file was written anew meanwhile, and this one is gone
                if self.tables.signature() == signature:
                    raise

    def _open(self, embedder: Embedder, signature: Signature) -> _View:
        before, generation = self._seen, self.tables.meta("generation")
        count, slots = self.tables.rows(), []
        is_only_more = (
            before is not None
            and before.generation == generation
            and before.signature.removals == signature.removals
        )
        chunks = np.full(count, -1, np.int64)
        if before is not None and is_only_more:
            chunks[: len(before.chunks)] = before.chunks
            slots = self.tables.slots(after=len(before.chunks) - 1)
        else:
            slots = self.tables.slots()
        if slots:
            places, ids = np.array(slots, np.int64).T
            known = places < count  # more may have come since they were counted
            chunks[places[known]] = ids[known]
        rows = self._rows(embedder, count)
        known_codes = before.codes if before is not None and is_only_more else None
        codes = _codes(rows, known_codes) if count >= SIEVED_FROM else None
        return _View(signature=signature, generation=generation, rows=rows, chunks=chunks, codes=codes)

    def _rows(self, embedder: Embedder, count: int) -> Tensor:
        if self._folder:
            return torch.from_numpy(self._vectors().rows(count))
        none = np.zeros((0, embedder.dimension), np.float16)
        return torch.from_numpy(np.concatenate([none, *self._in_memory]))

    def _mask(self, view: _View, where: Filter) -> Tensor:
        """Return which rows may be found, as a mask [N]."""
        found = view.held.get(where)
        if found is None:
            allowed = view.chunks >= 0
            if where:
                chosen = np.array([slot for slot, _ in self.tables.slots(where=where)], np.int64)
                among = np.zeros_like(allowed)
                among[chosen[chosen < len(among)]] = True
                allowed &= among
            if len(view.held) >= MOST_FILTERS:
                view.held.clear()  # requests bring ever new filters, in several threads
            view.held[where] = found = torch.from_numpy(allowed)
        return found

    # -- words

    def rarities(self, question: str) -> dict[str, float]:
        """Return the words of a question that are looked up, each with what it tells, 0 to 1: more the rarer it is.

        A word that no chunk has tells half: it may be a name of something else, or another word for what the chunks say.
        """
        said = [word for word in dict.fromkeys(words(question)) if len(word) <= LONGEST_WORD]
        asked = ([word for word in said if word not in ASKING] or said)[:MOST_ASKED]
        total = self.tables.highest_chunk()
        counts = {word: self._count(word, total) for word in asked}
        found, matches = dict[str, float](), 0
        for word in sorted(asked, key=lambda each: (counts[each], each))[:MOST_WORDS]:
            if found and matches + counts[word] > MOST_MATCHES:
                break
            matches += counts[word]
            found[word] = _telling(counts[word], total)
        return found

    def _count(self, word: str, total: int) -> int:
        """Count the chunks that hold a word; counts are kept until a tenth more chunks have come."""
        then, known = self._rarities
        if not then <= total <= then + then // 10 or len(known) > MOST_COUNTED:
            then, known = self._rarities = (total, {})
        if word not in known:
            known[word] = self.tables.count_matching(word, MOST_COUNTED)
        return known[word]

    def _coverages(self, looked_up: Mapping[str, float], chunks: Sequence[int]) -> dict[int, float]:
        total = sum(looked_up.values())
        found = dict.fromkeys(chunks, 0.0)
        for word, rarity in looked_up.items():
            for chunk in self.tables.holding(word, chunks):
                found[chunk] += rarity / total
        return found


def _telling(count: int, total: int) -> float:
    """Return what a word tells that so many chunks have."""
    if not count or not total:
        return UNKNOWN_TELLS
    rarity = max(0.0, math.log((1 + total) / (1 + count)) / math.log(1 + total))
    return LEAST_TELLING + (1 - LEAST_TELLING) * rarity


def embedded_text(chunk: Chunk) -> str:
    """Return what of a chunk is embedded: its text behind the headings above it, without which it may speak of anything."""
    above = " > ".join(chunk.heading or (chunk.title,))
    return f"{above[-LONGEST_HEADING:]}\n{chunk.text}"


def _codes(rows: Tensor, known: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
    """Return the sign codes of rows [N, D], of which the first may be known."""
    found = [] if known is None else [known]
    start = 0 if known is None else known.shape[1]
    found += [
        sign_codes.codes(rows[at : at + BLOCK_ROWS].numpy()) for at in range(start, len(rows), BLOCK_ROWS)
    ]
    return np.concatenate(found, axis=1)


def _nearest(view: _View, asked: Tensor, most: int, allowed: Tensor) -> dict[int, float]:
    """Return the chunks nearest to a question by cosine, the nearest first; of many rows those that pass the sieve are compared."""
    if not len(view.rows):
        return {}
    if view.codes is None:
        places = np.flatnonzero(allowed.numpy())
        blocks = (view.rows[at : at + BLOCK_ROWS] for at in range(0, len(view.rows), BLOCK_ROWS))
        scores = torch.cat([block.float() @ asked for block in blocks])[places]
    else:
        places = sign_codes.nearest(view.codes, asked.numpy(), max(SIEVED, most), allowed.numpy())
        scores = view.rows[places].float() @ asked
    best = scores.topk(min(most, len(scores)))
    nearest = zip(places[best.indices.numpy()], best.values.tolist(), strict=True)
    return {int(view.chunks[place]): score for place, score in nearest}


def _similarity(view: _View | None, asked: Tensor | None, chunk: Chunk) -> float | None:
    if view is None or asked is None or chunk.slot is None or chunk.slot >= len(view.rows):
        return None
    if view.chunks[chunk.slot] != chunk.id:  # the file was written anew meanwhile
        return None
    return float(view.rows[chunk.slot].float() @ asked)
