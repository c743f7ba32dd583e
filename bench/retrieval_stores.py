"""Stores of documents for the retrieval benchmark: how fast they are at which size, and what killing them costs.

What lives here: the arms ``intake``, ``scale`` and ``kills``. What never does: whether a search finds the right place.
"""

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

import corpora
import report
from lorad.config import SplitSettings
from lorad.retrieval.document_store import DocumentStore, How, embedded_text
from lorad.storage.documents import Document

DIMENSION = 384
"""Of all-MiniLM-L6-v2's vectors."""
SIZES = (10_000, 100_000, 1_000_000)
QUESTIONS = 60
"""Searches that are timed at each size."""
WAYS: tuple[How, ...] = ("bm25", "embeddings", "hybrid")
AT_ONCE = 4096
"""Chunks that are embedded in one step where embedding costs nothing."""
KILLS = 200
LONGEST_LIFE = 0.35
"""Seconds after which a filling process is killed at the latest; most need longer than that."""


class MadeEmbedder:
    """Makes a unit vector of a text's checksum: the same for the same text, at next to no cost, and no meaning."""

    name, fingerprint, dimension = "made", "made", DIMENSION

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.stack(
            [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(DIMENSION) for text in texts]
        )
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    def count_tokens(self, texts: Sequence[str]) -> int:
        return sum(len(text.split()) for text in texts)

    def text_tokenizer(self) -> None:
        return None


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# -- many chunks


def scale(folder: Path, size: int) -> dict[str, Any]:
    """Fill a store, or what a killed run has left of it, up to a size, and time searches in it.

    The text is real: Python's documentation, over and over, each copy numbered. The vectors are random, and the question's is made
    at no cost.
    """
    asked = [each.question for each in corpora.corpus("python")["headed"].asked]
    questions = random.Random(1).sample(asked, QUESTIONS)
    store = DocumentStore(folder, embedder=MadeEmbedder())
    began, before = time.perf_counter(), store.tables.counts()["chunks"]
    fill(store, size)
    spent, chunks = time.perf_counter() - began, store.tables.counts()["chunks"]
    store.close()
    began = time.perf_counter()
    store = DocumentStore(folder, embedder=MadeEmbedder())
    opened = time.perf_counter() - began
    told: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)),
        "chunks": chunks,
        "filled_a_second": round((chunks - before) / spent),
        "bytes_a_chunk": round(bytes_of(folder) / chunks),
        "open_s": round(opened, 2),
        "first_search_s": round(seconds(partial(store.search, questions[0], 5)), 2),
    }
    for how in WAYS:
        times = [1000 * seconds(partial(store.search, each, 5, how)) for each in questions]
        told |= {
            f"{how}_p50_ms": round(median(times), 1),
            f"{how}_p95_ms": round(percentile(times, 0.95), 1),
        }
    store.close()
    shutil.rmtree(folder)
    return told | {"peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def fill(store: DocumentStore, size: int) -> None:
    """Add numbered copies of the corpus until a store has so many chunks."""
    documents = list(corpora.corpus("python")["headed"].documents.values())
    have = store.tables.counts()
    copies = copied(documents, start=have["documents"])
    while (chunks := store.tables.counts()["chunks"]) < size:
        # some twenty chunks a document; the last ones are added one by one, so that the size is met closely
        store.add(islice(copies, max(1, (size - chunks) // 60)))
        while store.step(AT_ONCE):
            pass


def copied(documents: Sequence[Document], start: int) -> Iterator[Document]:
    for number in count(start):
        each = documents[number % len(documents)]
        name = f"{number:06}/{each.name}"
        yield Document(text=f"Copy {number}.\n\n{each.text}", title=name, name=name, markup=each.markup)


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


# -- kills


def kills() -> dict[str, Any]:
    """Kill processes that fill a store, at any moment, and compare what became of it with one that nobody disturbed.

    A killed process is followed by another one on the same store, which begins with the same files again. Each file has
    documents; some are another one's text, some replace one that came before.
    """
    chance = random.Random(1)
    figures: Counter[str] = Counter()
    while figures["kills"] < KILLS:
        figures["rounds"] += 1
        drops = made_drops(figures["rounds"])
        with tempfile.TemporaryDirectory(prefix="retrieval-kills-") as room:
            sound, folder = Path(room) / "sound", Path(room) / "killed"
            run(partial(filled, sound, drops))
            while not killed_or_done(partial(filled, folder, drops), chance, figures):
                figures["doubled"] += run(partial(doubled, folder))
            wanted, had = (Counter(run(partial(contents, at))) for at in (sound, folder))
            figures["chunks"] += wanted.total()
            figures["lost"] += (wanted - had).total()
            figures["doubled"] += (had - wanted).total() + run(partial(doubled, folder))
        print(dict(figures), flush=True)
    return dict(figures)


def made_drops(seed: int) -> list[list[Document]]:
    """Return files of documents: new ones, the same text again, and changed ones under the name of an earlier one."""
    chance = random.Random(seed)
    source = list(corpora.corpus("python")["bare"].documents.values())
    short = [each for each in source if len(each.text) < 12_000]
    picked = chance.sample(short, 24)
    drops = []
    for number in range(8):
        of_file = picked[3 * number : 3 * number + 3]
        drop = [each for each in of_file if each.name]
        if number:
            twin, changed = chance.choice(picked[: 3 * number]), chance.choice(picked[: 3 * number])
            drop.append(Document(text=twin.text, title="twin", name=f"twin {number}", markup=twin.markup))
            text = f"{changed.text}\n\nChanged by file {number}.\n"
            drop.append(Document(text=text, title=changed.title, name=changed.name, markup=changed.markup))
        drops.append(drop)
    return drops


def opened(folder: Path) -> DocumentStore:
    return DocumentStore(folder, split=SplitSettings(max_tokens=96), embedder=MadeEmbedder())


def filled(folder: Path, drops: Sequence[Sequence[Document]]) -> None:
    store = opened(folder)
    for number, drop in enumerate(drops, start=1):
        done = folder / f"done-{number}"  # as the ledger keeps what was accepted
        if done.exists():
            continue
        store.add(drop, drop=number)
        done.touch()
        for _ in range(3):  # the next file comes while the last one is being divided and embedded
            store.step(16)
    while store.step(16):
        pass
    store.close()


def contents(folder: Path) -> list[tuple[Any, ...]]:
    """Return a line for each document and chunk: where it stands, its words, whether full text and its own vector are there.

    Of documents with one text any may be the one that is divided: which one, hangs on the moments of the kills.
    """
    store = opened(folder)
    embedder, lines = MadeEmbedder(), []
    assert store.left() == 0
    held = store._vectors().rows(store.tables.rows())
    for document in store.tables.documents():
        text = hashlib.sha256(str(store.tables.text(document["id"])).encode()).hexdigest()
        lines.append((document["name"], text, document["state"] == "waiting"))
        for chunk in store.tables.chunks_of(document["id"]):
            is_own = chunk.slot is not None and np.allclose(
                held[chunk.slot], embedder.embed([embedded_text(chunk)])[0], atol=1e-3
            )
            rows = store._database.rows("SELECT rowid FROM chunk_words_docsize WHERE id = ?", chunk.id)
            lines.append((text, chunk.start, chunk.end, chunk.text, bool(is_own), len(rows)))
    (words,) = store._database.rows("SELECT COUNT(*) FROM chunk_words_docsize")[0]
    lines.append(("words of chunks", int(words)))
    store.close()
    return lines


def doubled(folder: Path) -> int:
    """Count what a store holds twice, whatever state it is in: chunks at one place, chunks with one row of vectors, names."""
    if not folder.exists():
        return 0
    store = opened(folder)
    found = 0
    for columns, table in (
        ("document, first", "chunks"),
        ("slot", "chunks WHERE slot IS NOT NULL"),
        ("key", "documents WHERE state != 'waiting'"),
    ):
        query = f"SELECT COUNT(*) - COUNT(DISTINCT {columns.replace(', ', ' * 10000000 + ')}) FROM {table}"
        found += int(store._database.rows(query)[0][0])
    store.close()
    return found


def killed_or_done(act: Callable[[], None], chance: random.Random, figures: Counter[str]) -> bool:
    """Run something in a process of its own and kill it at some moment; return whether it was done before."""
    child = os.fork()
    if not child:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + chance.uniform(0, LONGEST_LIFE)
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0, f"filling failed with {status}"
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0
        return True
    figures["kills"] += 1
    return False


def run(act: Callable[[], Any]) -> Any:
    """Run something in a process of its own, as this one must stay free of threads to be copied, and return its result."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "w") as stream:
                json.dump(act(), stream)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"a process ended with {status}"
    result = json.loads(said)
    return [tuple(each) for each in result] if isinstance(result, list) else result


# -- intake


def intake(embedder: Any, *, chunks: int = 1000) -> dict[str, Any]:
    """Time dividing and embedding with the model that lorad ships, as a daemon does it."""
    documents = list(corpora.corpus("python")["headed"].documents.values())
    random.Random(1).shuffle(documents)
    folder = report.CACHE / "retrieval_intake"
    shutil.rmtree(folder, ignore_errors=True)
    store = DocumentStore(folder, embedder=embedder)
    spent: Counter[str] = Counter()
    for document in documents:
        spent["divide"] += seconds(partial(store.add, [document])) + seconds(store._divide)
        if store.tables.counts()["chunks"] >= chunks:
            break
    made = store.tables.counts()["chunks"]
    spent["embed"] = seconds(store.finish)
    questions = [each.question for each in corpora.corpus("python")["headed"].asked][:40]
    asked = [1000 * seconds(partial(embedder.embed, [each])) for each in questions]
    store.close()
    size = bytes_of(folder)
    shutil.rmtree(folder)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "chunks": made,
        "chunks_a_second": round(made / (spent["divide"] + spent["embed"]), 1),
        "divided_a_second": round(made / spent["divide"]),
        "bytes_a_chunk": round(size / made),
        "question_ms": round(median(asked), 1),
    }
