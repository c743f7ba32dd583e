"""How long a search among 100,000 examples takes, without the embedding of the question.

Vectors are random, of unit length, as long as all-MiniLM-L6-v2's: what is looked at then does not depend on the texts.
Beside it the plain way: a product with the whole matrix in float32, and a full sort. Run: python bench/search.py
"""

import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import report
from lorad.records import Example
from lorad.retrieval.index import Index
from lorad.storage.database import Database
from lorad.storage.embeddings import Embeddings
from lorad.storage.ledger import Ledger
from lorad.storage.memory import Memory

EXAMPLES, DIMENSION, QUESTIONS, AT_ONCE = 100_000, 384, 200, 1000
LINEAGE = ["v0.1"]
NOTE = (
    f"Milliseconds of one search among 100,000 examples of {DIMENSION} dimensions, without the embedding of its question: of "
    f"{QUESTIONS} questions the median and the 95th percentile. `search_ms_100k`: of a question without codes; "
    "`search_codes_ms_100k`: with three, which are in one, 500 and all examples; `sort_ms_100k`: a product in float32 and a "
    "full sort, the baseline; `..._cpu_ms_...`: time of the processor, where other programs do not count. What begins with another "
    "word is in seconds: opening the file, building from SQLite after something was forgotten, after a new version."
)


class RandomEmbedder:
    """Answers with the next of some random vectors, at no cost."""

    name, fingerprint, dimension = "random", "random", DIMENSION

    def __init__(self) -> None:
        self._random = np.random.default_rng(1)
        self._made = self.embed([""] * 64)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if len(texts) == 1:
            return self._made[[self._random.integers(len(self._made))]]
        made = self._random.standard_normal((len(texts), DIMENSION), dtype=np.float32)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        return made


def examples() -> list[Example]:
    """Return texts of common and rare words; each has a number of its own, and one of 200 course codes."""
    rng = random.Random(1)
    vocabulary = ["".join(rng.choices("abcdefghijklmnop", k=7)) for _ in range(5000)]
    return [
        Example(
            task="chat",
            input=[
                {
                    "role": "user",
                    "content": f"What is {' '.join(rng.choices(vocabulary, k=8))} of CS {number % 200}?",
                }
            ],
            target=f"{' '.join(rng.choices(vocabulary, k=12))} ERR_{number}",
            dataset="random",
            line=number + 1,
        )
        for number in range(EXAMPLES)
    ]


def fill(database: Database, memory: Memory, embedder: RandomEmbedder) -> None:
    made = examples()
    memory.add(made, Ledger(database).take("a.json", "chat", 1.0).id, 1.0)
    memory.mark_learned([example.ids for example in made], LINEAGE[0])
    index = Index(database, "chat", memory, embedder, None)
    while index.step(AT_ONCE):
        pass


def milliseconds(act: Callable[[int], object], clock: Callable[[], float] = time.perf_counter) -> list[float]:
    taken = []
    for number in range(QUESTIONS):
        began = clock()
        act(number)
        taken.append(1000 * (clock() - began))
    return sorted(taken)


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return round(time.perf_counter() - began, 2)


def told(name: str, taken: Sequence[float]) -> dict[str, Any]:
    return {
        name: round(statistics.median(taken), 2),
        f"{name}_p95": round(taken[int(0.95 * (len(taken) - 1))], 2),
    }


def figures() -> dict[str, Any]:
    """Fill a database, and return how long searches in it take."""
    embedder = RandomEmbedder()
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "lorad.sqlite3")
        memory = Memory(database, "chat")
        fill(database, memory, embedder)
        found = measure(database, memory, embedder, Path(folder) / "index")
        database.close()
    return found


def main() -> None:
    found = figures()
    for name, value in found.items():
        print(f"{name:32} {value}")
    report.save("search", found, [NOTE])


def measure(database: Database, memory: Memory, embedder: RandomEmbedder, folder: Path) -> dict[str, Any]:
    def opened() -> Index:
        return Index(database, "chat", memory, embedder, folder)

    index = opened()
    figures: dict[str, Any] = {"write_seconds": seconds(index.step)}
    index.step()
    figures |= {"idle_step_ms": round(statistics.median(milliseconds(lambda _: index.step())), 3)}
    index = opened()
    figures |= {"open_seconds": seconds(lambda: index.refresh(LINEAGE))}

    def plain(_: int) -> object:
        return index.search("what is the meaning of this", LINEAGE)

    def coded(number: int) -> object:
        return index.search(f"what does ERR_{number * 97} of CS {number} mean", LINEAGE)

    figures |= told("search_ms_100k", milliseconds(plain))
    figures |= told("search_codes_ms_100k", milliseconds(coded))
    figures |= told("search_cpu_ms_100k", milliseconds(plain, time.process_time))

    Embeddings(database, "chat").remove([memory.all()[0].id])
    figures |= {"rebuild_seconds": seconds(lambda: index.refresh(LINEAGE))}
    memory.mark_learned([("", "")], LINEAGE[0])
    figures |= {"learned_seconds": seconds(lambda: index.refresh(LINEAGE))}
    figures |= {"peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}

    _, vectors = Embeddings(database, "chat").all(index._kept_as)
    asked = embedder.embed([""])[0]

    def sort(_: int) -> object:
        return np.argsort(-(vectors @ asked))[:8]

    figures |= told("sort_ms_100k", milliseconds(sort))
    return figures | told("sort_cpu_ms_100k", milliseconds(sort, time.process_time))


if __name__ == "__main__":
    main()
