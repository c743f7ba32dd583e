"""An index over memory: the learned examples nearest to a question.

What lives here: embedding what memory holds, step by step, and searching what a version has learned. What never does:
computing embeddings (``models.embedders``), deciding how a question is answered (``answering``).

SQLite is the truth. The vectors also lie in ``vectors.safetensors`` in the index's folder, as bfloat16, which is mapped
into memory: it is checked when it is opened, made anew where it is missing, stale or damaged, and removed when one of its
examples was forgotten. Examples that were embedded since it was made are held in memory.
"""

import hashlib
import itertools
import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lorad.models.embedders import Embedder
from lorad.records import CHAT, Example
from lorad.retrieval.neighbours import Neighbour
from lorad.retrieval.words import abbreviations, codes, embedded_text, names, spelled_out, words, written_out
from lorad.storage import files
from lorad.storage.database import Database
from lorad.storage.embeddings import Embeddings, Signature
from lorad.storage.memory import Memory, Recalled

CODE_WEIGHT = 0.4
"""Of the squared rarity of a code that the question has and an example lacks, beside 1 for the cosine. Found by trial: of
questions that name an SQLSTATE or a result of SQLite it found half without, and all with it."""

NEAREST = 50
"""Candidates by cosine, and at most as many more for each code of the question."""

MOST_CODES = 16
"""Codes of a question that are looked up: a log that somebody pastes has thousands."""

LONGEST_CODE = 64
"""Characters of a code or name; what is longer names nothing that anybody types."""

MOST_HELD_COUNTS = 10_000
"""Codes and names whose rarity is held."""

SPARE = 8
"""Extra candidates that are read, because some may have been forgotten or replaced since the view was made."""

MOST_HOLDING, MOST_COUNTED = 2_000, 10_000
"""A code that more examples than MOST_HOLDING hold is not looked up; counting stops at MOST_COUNTED. Such a code has next to
no weight."""

MEANT = 16
"""Examples that are read for what an abbreviation stands for."""

_SHORT = "\ue001"
"""Marks an abbreviation among an example's words that it does not hold but writes out. Unicode leaves it to private use."""

_FORM = "words 3"
"""What is kept of an example beside its vector; what was kept in another form is made anew."""

TAIL_SHARE = 8
"""The file is written anew when the vectors it lacks are more than one in this many of those it has."""

ROUNDED = torch.bfloat16
"""A product with 100,000 vectors takes as long as to read them: half as long as of float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What SQLite held at one time, ready to be searched."""

    signature: Signature
    numbers: dict[str, int]
    """Each example's row number in SQLite, ascending."""
    vectors: tuple[Tensor, Tensor]
    """Of these, in their order: [N, D] of the file, and behind them those that it lacks."""
    ids: list[str]
    places: dict[str, int]
    """Where each example stands in ``ids``."""
    counts: dict[str, int] = field(default_factory=dict)
    """How many examples hold a name or code that was asked for."""
    learned: dict[tuple[str, ...], Tensor] = field(default_factory=dict)
    """What each lineage has learned, as a mask [N]."""
    incomplete: set[tuple[str, ...]] = field(default_factory=set)
    """The lineages that have learned what is not embedded yet."""

    @property
    def last(self) -> int:
        """Return the last row's number in SQLite."""
        return self.numbers[self.ids[-1]] if self.ids else 0


def _view(signature: Signature, numbers: dict[str, int], vectors: tuple[Tensor, Tensor]) -> _View:
    ids = list(numbers)
    places = dict(zip(ids, range(len(ids)), strict=True))
    return _View(signature=signature, numbers=numbers, vectors=vectors, ids=ids, places=places)


class Index:
    """The examples of one track by their meaning. Its methods may be called by several threads."""

    def __init__(
        self, database: Database, track_name: str, memory: Memory, embedder: Embedder, folder: Path | None
    ) -> None:
        """``folder`` is where its file lies; without one everything is held in memory."""
        self._stored = Embeddings(database, track_name)
        self._memory = memory
        self._embedder = embedder
        self._kept_as = f"{embedder.fingerprint} {_FORM}"
        self._file = folder / "vectors.safetensors" if folder else None
        self._lock = threading.Lock()
        self._seen: _View | None = None
        self._known: dict[tuple[str, ...], tuple[tuple[int, int], set[str]]] = {}
        self._finished: Signature | None = None
        self._left: tuple[Signature | None, int] = (None, 0)

    @property
    def embedder(self) -> str:
        """Identify what its similarities mean."""
        return self._embedder.fingerprint

    def answer(self, messages: Sequence[Mapping[str, Any]], lineage: Sequence[str]) -> Recalled | None:
        """Return the example whose conversation this is, but for its spelling, of what a version has learned."""
        asked = Example(task=CHAT, input=[dict(message) for message in messages], target=None)
        return self._memory.answer(asked.input_id, lineage)

    def has_all(self, lineage: Sequence[str]) -> bool:
        """Tell whether everything that a version has learned can be found: thresholds are fitted to all of it."""
        with self._lock:
            view = self._current()
            self._learned(view, tuple(lineage))
            return tuple(lineage) not in view.incomplete

    def step(self, limit: int = 64) -> bool:
        """Embed at most ``limit`` examples that are not embedded yet; return whether more are left.

        When none is left the file is brought up to date. A crash loses no more than this step, and what it left is
        not done again.
        """
        signature = self._stored.signature()
        if signature == self._finished:
            return False
        found = self._stored.pending(self._kept_as, limit + 1)
        self._embed(found[:limit])
        if len(found) > limit:
            return True
        self._keep()
        if not found:
            self._finished = signature
        return False

    def left(self) -> int:
        """Count the examples that are not embedded yet."""
        signature = self._stored.signature()
        if signature == self._finished:
            return 0
        then, count = self._left
        if then != signature:  # asked with every status, and changed now and then
            count = self._stored.count_pending(self._kept_as)
            self._left = signature, count
        return count

    def _embed(self, examples: Sequence[Example]) -> None:
        if not examples:
            return
        texts = [embedded_text(example) for example in examples]
        vectors = self._embedder.embed(texts)
        rows = [
            (example.id, " ".join([*words(text), *(_SHORT + short for short in spelled_out(text))]), vector)
            for example, text, vector in zip(examples, texts, vectors, strict=True)
        ]
        self._stored.put(self._kept_as, rows)

    def refresh(self, lineage: Sequence[str]) -> None:
        """Make ready what the next search needs: after a new version of 100,000 examples that takes a second."""
        with self._lock:
            self._learned(self._current(), tuple(lineage))

    def written_out(self, question: str, lineage: Sequence[str]) -> str:
        """Return a question with its abbreviations written out as what a version has learned writes them.

        With "the Computer Science office" in memory, "the CS office" is read so.
        """
        meanings = {}
        for short in abbreviations(question)[:MOST_CODES]:
            ids = self._stored.matching(_SHORT + short, MEANT)
            held = self._memory.learned(lineage, ids) if ids else []
            phrases = Counter(spelled_out(embedded_text(each.example)).get(short) for each in held)
            if phrases:
                ((phrase, _),) = phrases.most_common(1)
                meanings[short] = phrase or short
        return written_out(question, meanings) if meanings else question

    def search(self, question: str, lineage: Sequence[str], most: int = 8) -> list[Neighbour]:
        """Return the examples nearest to a question, best first, of those that a version has learned.

        ``lineage`` lists the version and its ancestors. Never found are examples that were forgotten, and those that the
        lineage has replaced by a newer answer.
        """
        with self._lock:
            view = self._current()
            learned = self._learned(view, tuple(lineage))
        if not learned.any():
            return []
        asked = torch.from_numpy(self._embedder.embed([question])[0])
        rough = torch.cat([torch.mv(part, asked.to(part.dtype)) for part in view.vectors]).float()
        rough.masked_fill_(~learned, -math.inf)
        codes_asked = [code for code in codes(question) if len(code) <= LONGEST_CODE][:MOST_CODES]
        named = [name for name in names(question) if len(name) <= LONGEST_CODE][:MOST_CODES]
        counts = self._counted(view, [*codes_asked, *named])
        rare = [code for code in codes_asked if counts[code] <= MOST_HOLDING]
        candidates = self._candidates(view, rough, rare)
        rarities = {name: _rarity(count, len(view.ids)) for name, count in counts.items()}
        return self._ranked(view, asked, codes_asked, rarities, sorted(candidates), lineage, most)

    def _candidates(self, view: _View, rough: Tensor, rare: Iterable[str]) -> set[int]:
        # twice as many: products in bfloat16 have three digits at most, and are computed anew in float32
        found = _best(rough, torch.arange(len(rough)), 2 * NEAREST)
        for code in rare:
            holding = self._stored.matching(code, MOST_HOLDING)
            places = [view.places[each] for each in holding if each in view.places]
            found |= _best(rough, torch.tensor(places, dtype=torch.long), NEAREST)
        return found

    def _ranked(
        self,
        view: _View,
        asked: Tensor,
        codes_asked: Sequence[str],
        rarities: Mapping[str, float],
        candidates: Sequence[int],
        lineage: Sequence[str],
        most: int,
    ) -> list[Neighbour]:
        similarities = (_rows(view.vectors, candidates).float() @ asked).tolist()
        ids = [view.ids[place] for place in candidates]
        held = self._stored.words(ids) if rarities else {}
        scored = []
        for example_id, similarity in zip(ids, similarities, strict=True):
            own = set(held.get(example_id, ()))
            codes_lacking = sum(rarities[code] ** 2 for code in codes_asked if code not in own)
            lacking = sum(rarity for name, rarity in rarities.items() if name not in own)
            scored.append((similarity - CODE_WEIGHT * codes_lacking, similarity, lacking, example_id))
        scored.sort(reverse=True)
        # asked anew: an example may have been forgotten since the view was made
        found = self._memory.learned(lineage, [example_id for *_, example_id in scored[: most + SPARE]])
        by_id = {item.example.id: item for item in found}
        return [
            Neighbour(
                example=by_id[example_id].example,
                similarity=similarity,
                score=score,
                lacking=lacking,
                is_recalled=by_id[example_id].right,
            )
            for score, similarity, lacking, example_id in scored[: most + SPARE]
            if example_id in by_id
        ][:most]

    def _counted(self, view: _View, named: Iterable[str]) -> dict[str, int]:
        """Return how many examples hold each of these names and codes, counted up to ``MOST_COUNTED``."""
        if len(view.counts) >= MOST_HELD_COUNTS:
            view.counts.clear()  # questions bring ever new ones
        found = {}
        for name in named:
            count = view.counts.get(name)
            if count is None:
                count = view.counts[name] = self._stored.count_matching(name, MOST_COUNTED)
            found[name] = count
        return found

    def _learned(self, view: _View, lineage: tuple[str, ...]) -> Tensor:
        """Return what a lineage has learned, as a mask [N]; the caller holds the lock."""
        if lineage not in view.learned:
            now = view.signature.learned, view.signature.removals
            then, known = self._known.get(lineage, ((-1, -1), set()))
            if then != now:
                known = self._memory.learned_ids(lineage)
                self._known = {lineage: (now, known)}
            view.learned[lineage] = torch.tensor([each in known for each in view.ids], dtype=torch.bool)
            if not known <= view.places.keys():
                view.incomplete.add(lineage)
        return view.learned[lineage]

    def _current(self) -> _View:
        """Return what SQLite holds now; the caller holds the lock."""
        signature = self._stored.signature()  # before the rest: what comes meanwhile is seen next time
        view = self._seen
        if view is None or view.signature.removals != signature.removals:
            view = self._open(signature)
        elif view.signature != signature:
            numbers, vectors = self._stored.all(self._kept_as, after=view.last)
            tail = torch.cat([view.vectors[1], _tensor(vectors, self._embedder.dimension)])
            view = _view(signature, view.numbers | numbers, (view.vectors[0], tail))
        self._seen = view
        return view

    def _open(self, signature: Signature) -> _View:
        """Return a view of the file and of what it lacks; a file of anything else than SQLite holds goes."""
        embedder = self._embedder
        numbers = self._stored.numbers(self._kept_as)
        mapped = _read(self._file, embedder, list(numbers)) if self._file else None
        if mapped is None:
            if self._file:
                files.remove(self._file)
            numbers, vectors = self._stored.all(self._kept_as)
            return _view(
                signature, numbers, (_none(embedder.dimension), _tensor(vectors, embedder.dimension))
            )
        last = list(numbers.values())[len(mapped) - 1]
        more, vectors = self._stored.all(self._kept_as, after=last)
        held = dict(itertools.islice(numbers.items(), len(mapped)))
        return _view(signature, held | more, (mapped, _tensor(vectors, embedder.dimension)))

    def _keep(self) -> None:
        """Write the file if it lacks much, for the next start; searches go on meanwhile."""
        with self._lock:
            view = self._current()
        mapped, tail = view.vectors
        if self._file is None or len(tail) <= len(mapped) // TAIL_SHARE:
            return
        files.make_folder(self._file.parent, mode=files.CLOSED)
        files.remove_parts(self._file.parent)
        files.write_bytes(self._file, _packed(view, self._embedder), mode=files.SECRET)
        with self._lock:
            self._seen = (
                None  # opened anew, it is mapped; and checked: something may have been forgotten meanwhile
            )
            self._current()


def _rarity(count: int, total: int) -> float:
    """Return how rare is what so many of all examples hold, from 0 (all do) to 1 (none does)."""
    return max(0.0, math.log((1 + total) / (1 + count)) / math.log(1 + total))


def _best(rough: Tensor, places: Tensor, most: int) -> set[int]:
    """Return the learned ones nearest to the question of these places."""
    found = rough[places].topk(min(most, len(places)))
    nearest = zip(places[found.indices].tolist(), found.values.tolist(), strict=True)
    return {place for place, score in nearest if score > -math.inf}


def _rows(vectors: tuple[Tensor, Tensor], places: Sequence[int]) -> Tensor:
    mapped, tail = vectors
    count = len(mapped)
    return torch.stack([mapped[place] if place < count else tail[place - count] for place in places])


def _tensor(vectors: NDArray[np.float32], dimension: int) -> Tensor:
    return torch.from_numpy(vectors).to(ROUNDED).reshape(len(vectors), dimension)


def _none(dimension: int) -> Tensor:
    return torch.empty(0, dimension, dtype=ROUNDED)


def _packed(view: _View, embedder: Embedder) -> bytes:
    """Return the file: the vectors, and of what and by what they are."""
    vectors = torch.cat(view.vectors)
    return save({"vectors": vectors}, metadata=_told(vectors, embedder, view.ids))


def _told(vectors: Tensor, embedder: Embedder, ids: Sequence[str]) -> dict[str, str]:
    return {
        "embedder": embedder.fingerprint,
        "examples": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        "vectors": hashlib.sha256(vectors.view(torch.int16).numpy().data).hexdigest(),
    }


def _read(path: Path, embedder: Embedder, ids: Sequence[str]) -> Tensor | None:
    """Return the vectors of the first of these examples, mapped into memory; ``None``: the file is of no use."""
    try:
        with safe_open(path, framework="pt") as stored:
            vectors: Tensor = stored.get_tensor("vectors")
            told = stored.metadata()
    except (OSError, SafetensorError):
        return None
    count = vectors.shape[0] if vectors.ndim else 0
    if vectors.dtype != ROUNDED or vectors.shape[1:] != (embedder.dimension,) or not 0 < count <= len(ids):
        return None
    return vectors if told == _told(vectors, embedder, ids[:count]) else None
