"""What is quoted of documents, in one process: search, pieces and their scores, no daemon.

    python bench/quotes.py

`data/documents_tuning` (fourteen documents; near and far wordings, and what they do not answer) is what quoting was fitted
on; `data/documents` is the bench's own (`grounding.py` asks it through the daemon). For some lines of
`documents.min_quote_score`: how many are quoted rightly and wrongly, and how many untaught questions get an answer.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import report
from lorad.apps.daemon.document_tracks import READ_FROM
from lorad.config import DocumentSettings
from lorad.models import embedders, hardware
from lorad.retrieval import quoting, rerankers
from lorad.retrieval.document_store import DocumentStore
from lorad.storage.documents import Document

DATA = report.BENCH / "data"
MARKUPS = {".md": "markdown", ".rst": "rst", ".html": "html", ".txt": "text"}
LINES = (-2, -1, 0, 1, 2, 3)
UNTAUGHT = "untaught"


def tuning() -> list[dict[str, Any]]:
    parts = sorted((DATA / "documents_tuning").glob("part_*.json"))
    return [row for path in parts for row in json.loads(path.read_text(encoding="utf-8"))]


def own() -> list[dict[str, Any]]:
    found = json.loads((DATA / "documents.questions.json").read_text(encoding="utf-8"))
    untaught = [{"question": question, "slot": [], "kind": UNTAUGHT} for question in found[UNTAUGHT]]
    return [*({**row, "kind": "answered"} for row in found["answered"]), *untaught]


def holds(text: str, slots: Iterable[str]) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(slot)}(?!\w)", text, re.IGNORECASE) for slot in slots)


def ask(
    folder: Path, rows: Sequence[Mapping[str, Any]], encoder: Path
) -> dict[str, list[tuple[float, bool]]]:
    """Return the score of the best piece for each question, and whether it holds the answer, by kind of question."""
    embedder = embedders.load_encoder(encoder)
    reranker = rerankers.load(encoder, hardware.machine("cpu").precision)
    assert reranker is not None
    store, matcher = DocumentStore(None, embedder=embedder), quoting.Matcher(reranker.score, embedder.embed)
    paths = [
        path for path in sorted(folder.iterdir()) if path.suffix in MARKUPS and "hostile" not in path.name
    ]
    store.add(
        Document(text=path.read_text("utf-8"), title=path.stem, name=path.name, markup=MARKUPS[path.suffix])
        for path in paths
    )
    store.finish()
    found: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for row in rows:
        near = [
            each
            for each in store.search(row["question"], DocumentSettings().passages)
            if each.relevance >= READ_FROM
        ]
        best = quoting.best(row["question"], near, store.rarities(row["question"]), matcher)
        told = (best.score, holds(best.text, row["slot"])) if best else (min(LINES) - 1.0, False)
        found[row["kind"]].append(told)
    store.close()
    return found


def main() -> None:
    hardware.quieten()
    report.add_base(report.CACHE / "lookups", "minilm")
    encoder = report.CACHE / "lookups" / "models" / "base" / "minilm"
    for name, rows in (("documents_tuning", tuning()), ("documents", own())):
        for kind, told in ask(DATA / name, rows, encoder).items():
            print(
                f"{name}, {kind}: {len(told)} questions, best piece right {sum(right for _, right in told)}"
            )
            for line in LINES:
                quoted = [right for score, right in told if score >= line]
                wrong = f", {quoted.count(True)} rightly" if kind != UNTAUGHT else ""
                print(f"    from {line:2}: {len(quoted)} quoted{wrong}", flush=True)


if __name__ == "__main__":
    main()
