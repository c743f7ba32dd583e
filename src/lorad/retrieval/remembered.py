"""What an embedder and a reranker said in earlier sessions, so that it is not computed again.

What lives here: both of them with a memory, and the file that it lies in. What never does: searching, and removing the file when
something is forgotten (``apps.daemon.commands``).

A session fits thresholds to, and asks, much of what sessions before it have asked. Keys are digests, but a vector tells what a text is
about: the file is to be guarded like the rows.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lorad.errors import TransientError
from lorad.models import hardware, lower_states
from lorad.models.embedders import Embedder, Wrapped
from lorad.retrieval.finding import Reranker
from lorad.retrieval.odds import Odds
from lorad.storage import files

FILE = "compared.safetensors"
"""Beside the lower states of a track (``models.lower_states``)."""
FORM = "1"
DIGEST = 16
"""Bytes of a key."""
MOST_TEXTS, MOST_PAIRS = 20_000, 100_000
"""What is kept, the last used: 30 MB of vectors of MiniLM, and 2.4 MB."""
MOST_BYTES = 32 << 20
"""Of vectors: those of a large base are long, and are held three times while they are written."""
WANTED = "texts", "vectors", "pairs", "odds"


@dataclass(frozen=True, slots=True)
class RememberingEmbedder(Wrapped):
    """An embedder that embeds no text twice."""

    known: dict[bytes, NDArray[np.float32]] = field(default_factory=dict)
    """By the digest of a text, the last used last."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a row of unit length for each text, [N, D]."""
        keys = [_key(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.known}
        if missing:
            self.known.update(zip(missing, self.own.embed(list(missing.values())), strict=True))
        found = np.zeros((len(keys), self.dimension), dtype=np.float32)
        for number, key in enumerate(keys):
            found[number] = self.known[key] = self.known.pop(key)
        return found


@dataclass(slots=True)
class RememberingReranker:
    """A reranker that compares no two texts twice."""

    reranker: Reranker
    known: dict[bytes, Odds] = field(default_factory=dict)
    """By the digest of a question and a text, the last used last."""

    @property
    def fingerprint(self) -> str:
        """Identify it."""
        return self.reranker.fingerprint

    def score(self, question: str, texts: Sequence[str]) -> list[Odds]:
        """Return what is said of the question and each text."""
        keys = [_key(question, text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.known}
        if missing:
            self.known |= zip(missing, self.reranker.score(question, list(missing.values())), strict=True)
        for key in keys:
            self.known[key] = self.known.pop(key)
        return [self.known[key] for key in keys]


class Remembered:
    """An embedder and a reranker with what a file remembers of them: nothing, where it is of others, missing or damaged."""

    def __init__(
        self, path: Path, embedder: Embedder, reranker: Reranker | None, *, vectors: str, odds: str
    ) -> None:
        """``vectors`` and ``odds`` are the precisions in which the two compute: float32, bfloat16."""
        self._path = path
        self._by = {
            "embedder": f"{embedder.fingerprint} {vectors}",
            "reranker": f"{reranker.fingerprint} {odds}" if reranker else "",
            "computes": f"torch {torch.__version__} transformers {transformers.__version__}",
            "form": FORM,
        }
        self._most_texts = min(MOST_TEXTS, MOST_BYTES // (4 * embedder.dimension))
        self._seen = _identity(path)
        known_texts, known_pairs = self._read(embedder.dimension)
        self.embedder = RememberingEmbedder(embedder, known_texts)
        self.reranker = RememberingReranker(reranker, known_pairs) if reranker else None

    def _read(self, dimension: int) -> tuple[dict[bytes, NDArray[np.float32]], dict[bytes, Odds]]:
        try:
            with safe_open(self._path, framework="pt") as stored:
                packed = {name: stored.get_tensor(name) for name in WANTED}
                told = stored.metadata()
            if told != self._by | {"sha256": lower_states.digest(packed)} or not _is_sound(packed, dimension):
                return {}, {}
            vectors = dict(zip(_keys(packed["texts"]), packed["vectors"].numpy(), strict=True))
            odds = (Odds(*row) for row in packed["odds"].tolist())
            return vectors, dict(zip(_keys(packed["pairs"]), odds, strict=True))
        except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, MemoryError):
            return {}, {}

    def keep(self) -> None:
        """Store what was used last. A failure costs time in the next session, and is not worth this one.

        Nothing is stored where the file has gone or changed since it was read: what this session did not ask may have been forgotten.
        """
        try:
            data = self._data()
            if _identity(self._path) == self._seen:
                files.write_bytes(self._path, data, mode=files.SECRET)
        except (OSError, TransientError, MemoryError):
            return
        except RuntimeError as error:
            if not hardware.is_short_of_memory(error):
                raise

    def _data(self) -> bytes:
        texts = dict(list(self.embedder.known.items())[-self._most_texts :])
        pairs = dict(list(self.reranker.known.items())[-MOST_PAIRS:]) if self.reranker else {}
        vectors = np.array([*texts.values()], dtype=np.float32).reshape(len(texts), self.embedder.dimension)
        packed = {
            "texts": _packed(texts),
            "vectors": torch.from_numpy(vectors),
            "pairs": _packed(pairs),
            "odds": torch.tensor([*pairs.values()], dtype=torch.float32).reshape(
                len(pairs), len(Odds._fields)
            ),
        }
        return save(packed, metadata=self._by | {"sha256": lower_states.digest(packed)})


def _key(*texts: str) -> bytes:
    found = hashlib.sha256()
    for text in texts:
        data = text.encode(errors="surrogatepass")
        found.update(len(data).to_bytes(8) + data)
    return found.digest()[:DIGEST]


def _packed(keys: Mapping[bytes, Any]) -> Tensor:
    return torch.tensor(list(b"".join(keys)), dtype=torch.uint8).reshape(len(keys), DIGEST)


def _keys(packed: Tensor) -> list[bytes]:
    return [bytes(row) for row in packed.numpy()]


def _is_sound(packed: Mapping[str, Tensor], dimension: int) -> bool:
    """Tell whether keys, vectors and odds are of the shapes and numbers that they must be."""
    texts, vectors, pairs, odds = (packed[name] for name in WANTED)
    shapes = [
        (len(texts), DIGEST),
        (len(texts), dimension),
        (len(pairs), DIGEST),
        (len(pairs), len(Odds._fields)),
    ]
    are_keys = texts.dtype == pairs.dtype == torch.uint8
    is_finite = bool(torch.isfinite(vectors).all() and torch.isfinite(odds).all())
    return are_keys and is_finite and [tuple(each.shape) for each in (texts, vectors, pairs, odds)] == shapes


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what is another when a file was replaced; ``None`` where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
