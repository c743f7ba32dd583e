"""Documents: whether a search finds the right place, whether answers rest on it, how fast, and what a kill costs.

    python bench/retrieval.py [--fresh] [--only ARM ...]

Arms, each in a process of its own and resumed from the cache: `python_METHOD` and `debian_METHOD` (the two corpora of
corpora.py, divided in each of the five ways, searched by words, by meaning, by both, and by both with lorad's reranker
over the first ten); `intake`, `scale_SIZE` and `kills` (retrieval_stores.py); `grounded`, `grounded_without` and `grounded_generated`
(grounding.py: fifty questions about ten invented documents through the daemon on SmolLM2, as lorad answers by itself, without
documents, and by the model behind the passages).

Where the machine computes bfloat16 fast, the corpora's vectors and the reranker's figures are computed in it: `bfloat16_cosine` is
the smallest cosine between a question's vector so made and the float32 one that lorad makes.
"""

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import corpora
import grounding
import report
import retrieval_stores
from lorad.config import SplitMethod, SplitSettings
from lorad.home import Home
from lorad.models import embedders, hardware, packed_linear
from lorad.models.embedders import Embedder
from lorad.retrieval import rerankers, sign_codes
from lorad.retrieval.document_store import SIEVED, DocumentStore, Passage, embedded_text
from lorad.retrieval.rerankers import CrossEncoder

METHODS: tuple[SplitMethod, ...] = ("semantic", "paragraph", "sentence", "chunk", "regex")
PATTERNS = {"python": r"^\S.*\n[=~^\"*+#-]{3,}[ \t]*$", "debian": r"^#{1,6} "}
"""Where ``regex`` begins a chunk: at headings, as each corpus writes them."""
FORMS = ("headed", "bare")
WEIGHTS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the embeddings, where both ways are joined."""
FUSED = 100
"""Passages of each way that are joined."""
DEEPEST = 20
"""Passages that are looked at; a right one behind them counts as not found."""
RERANKED = 10
DEFAULT = "semantic"
SEARCHES = tuple(f"{name}_{method}" for name, method in product(corpora.CORPORA, METHODS))
GROUNDED = {"grounded": "served", "grounded_generated": "generated", "grounded_without": "without"}
NOTES = (
    "Without a suffix: Python's documentation as it came, divided by `semantic`, searched in both ways, the defaults; `bare`: the questions",
    "are no headings. The aims are recall5 >= 0.90, citation_exact 1.0, hybrid_p50_ms_1000000 <= 50, kills_lost and kills_doubled 0.",
    "",
    "`grounded` is by quotation, which SmolLM2 needs: behind the passages it writes itself (`grounded_generated`) it repeats the right one",
    "badly, though its document is cited for every question. A larger model has what it needs in these passages, and must read them: four of",
    "up to 200 tokens for each question, some 5 TFLOP for three billion parameters: by calculation, a minute on two such cores. From a billion parameters on",
    "lorad lets the model write (`documents.answer: auto`). None was at hand, so how well is not measured.",
)
STORES = {f"scale_{size}": size for size in retrieval_stores.SIZES}
ARMS = (*GROUNDED, "intake", "kills", *STORES, *SEARCHES)


def home() -> Home:
    """Return a home with SmolLM2 and the encoder that lorad searches with."""
    found = Home(report.CACHE / "retrieval_home")
    for source in ("smollm2", "minilm"):
        report.add_base(found.root, source)
    return found


# -- searching


class Bfloat16:
    """The encoder that lorad ships, in bfloat16."""

    def __init__(self, folder: Path) -> None:
        self._plain: Any = embedders.load_encoder(folder)
        self.exact = embedders.load_encoder(folder)
        self._plain.model.to(torch.bfloat16)
        if packed_linear.can_pack(self._plain.model):
            packed_linear.pack(self._plain.model)
        self.name, self.dimension = f"{self._plain.name} in bfloat16", self._plain.dimension
        self.fingerprint = f"{self._plain.fingerprint} in bfloat16"
        self.embed, self.count_tokens = self._plain.embed, self._plain.count_tokens
        self.text_tokenizer = self._plain.text_tokenizer


def search(corpus: str, method: SplitMethod) -> dict[str, Any]:
    """Divide a corpus in one way, and return at which rank each way of searching finds each question's place."""
    encoder = home().base("minilm")
    is_bfloat16 = hardware.machine("cpu").fast_bfloat16
    embedder = Bfloat16(encoder) if is_bfloat16 else embedders.load_encoder(encoder)
    reranker = rerankers.load(encoder, "bfloat16" if is_bfloat16 else "float32")
    assert reranker is not None
    folder = report.CACHE / f"retrieval_store_{corpus}_{method}"
    split = SplitSettings(method=method, pattern=PATTERNS[corpus] if method == "regex" else None)
    found: dict[str, Any] = {}
    for form in FORMS:
        told = corpora.corpus(corpus)[form]
        store = DocumentStore(folder, split=split, embedder=embedder)
        began = time.perf_counter()
        store.add(told.documents.values())  # those of the other form are replaced
        while store.step(256):
            pass
        spent = time.perf_counter() - began
        counts = store.tables.counts()
        store.close()
        found[form] = {
            "documents": counts["documents"],
            "chunks": counts["chunks"],
            "seconds": round(spent, 1),
            "bytes_a_chunk": round(retrieval_stores.bytes_of(folder) / counts["chunks"]),
            "ranks": ranks(told.asked, folder, split, embedder, reranker),
        }
        print(
            corpus,
            method,
            form,
            {name: figures(each) for name, each in found[form]["ranks"].items()},
            flush=True,
        )
    questions = [each.question for each in corpora.corpus(corpus)["headed"].asked]
    sieve = sieved(folder, split, embedder, questions)
    shutil.rmtree(folder)  # only now: a run that was killed goes on
    if isinstance(embedder, Bfloat16):
        cosines = (embedder.embed(questions) * embedder.exact.embed(questions)).sum(1)
        found["bfloat16_cosine"] = round(float(np.min(cosines)), 5)
    return {**found, **sieve}


def sieved(
    folder: Path, split: SplitSettings, embedder: Embedder, questions: Sequence[str]
) -> dict[str, float]:
    """Return the share of the ten nearest chunks that pass the sieve of sign codes.

    As many pass as in any large store, and, for the second figure, the same share as in one of a million chunks.
    """
    store = DocumentStore(folder, split=split, embedder=embedder)
    rows = np.asarray(store._vectors().rows(store.tables.rows()), np.float32)
    store.close()
    codes, every = sign_codes.codes(rows), np.ones(len(rows), np.bool_)
    found: dict[str, float] = {}
    for name, most in (("", SIEVED), ("_as_of_a_million", max(10, SIEVED * len(rows) // 1_000_000))):
        shares = []
        for asked in embedder.embed(questions):
            best = set(np.argsort(-(rows @ asked))[:10].tolist())
            shares.append(len(best & set(sign_codes.nearest(codes, asked, most, every).tolist())) / 10)
        found[f"sieve_recall10{name}"] = round(float(np.mean(shares)), 4)
    return found


def ranks(
    asked: Sequence[corpora.Asked],
    folder: Path,
    split: SplitSettings,
    embedder: Embedder,
    reranker: CrossEncoder,
) -> dict[str, list[int | None]]:
    """Return, for each way of searching, the rank of the first right passage for each question, ``None`` if there is none."""
    store = DocumentStore(folder, split=split, embedder=embedder)
    found: dict[str, list[int | None]] = defaultdict(list)
    for each in asked:
        words, meaning = (store.search(each.question, FUSED, how) for how in ("bm25", "embeddings"))
        hybrid = store.search(each.question, DEEPEST, "hybrid")
        first = hybrid[:RERANKED]
        said = reranker.score(each.question, [embedded_text(passage.chunk) for passage in first])
        reranked = [
            first[at] for at in sorted(range(len(first)), key=lambda at, said=said: -said[at].answers)
        ]
        ways = {"bm25": words, "embeddings": meaning, "hybrid": hybrid, "reranked": reranked}
        for (name, scale), weight in product(SCALES.items(), WEIGHTS):
            ways[f"{name}_{weight}"] = fused(words, meaning, scale, weight)
        for name, passages in ways.items():
            found[name].append(rank(each, passages[:DEEPEST]))
    store.close()
    return found


def fused(
    words: Sequence[Passage],
    meaning: Sequence[Passage],
    scale: Callable[[Sequence[float]], Sequence[float]],
    weight: float,
) -> list[Passage]:
    """Join two lists, best first, by the sum of their scores on one scale, the second's with this weight."""
    scores: dict[int, float] = defaultdict(float)
    for share, passages in ((1 - weight, words), (weight, meaning)):
        for passage, score in zip(passages, scale([each.score for each in passages]), strict=True):
            scores[passage.chunk.id] += share * score
    known = {passage.chunk.id: passage for passage in (*words, *meaning)}
    return sorted(known.values(), key=lambda passage: -scores[passage.chunk.id])


def by_rank(scores: Sequence[float]) -> list[float]:
    return [1 / (60 + place) for place in range(1, len(scores) + 1)]


def by_share(scores: Sequence[float]) -> list[float]:
    return [score / (max(scores) or 1) for score in scores]


def by_span(scores: Sequence[float]) -> list[float]:
    least = min(scores, default=0)
    return [(score - least) / (max(scores) - least or 1) for score in scores]


SCALES = {"rank": by_rank, "share": by_share, "span": by_span}
"""How the scores of two ways are made comparable: by their ranks, as shares of the best, or between the worst and the best."""


def rank(asked: corpora.Asked, passages: Sequence[Passage]) -> int | None:
    chunks = [passage.chunk for passage in passages]
    return next(
        (
            place
            for place, chunk in enumerate(chunks, start=1)
            if corpora.is_right(asked, chunk.name, chunk.start, chunk.end)
        ),
        None,
    )


def figures(places: Sequence[int | None]) -> dict[str, float]:
    """Return the shares of questions whose place is first, or among the first five, and the mean reciprocal rank."""
    known = [place for place in places if place is not None]
    return {
        "recall1": round(sum(place == 1 for place in known) / len(places), 4),
        "recall5": round(sum(place <= 5 for place in known) / len(places), 4),
        "mrr": round(sum(1 / place for place in known) / len(places), 4),
    }


# -- all together


def flat(arms: Mapping[str, Any]) -> dict[str, Any]:
    """Return all figures under keys of their own, of the arms that were run."""
    found: dict[str, Any] = {}
    for name, form in product(corpora.CORPORA, FORMS):
        if default := arms.get(f"{name}_{DEFAULT}"):
            end = ("" if name == "python" else f"_{name}") + ("" if form == "headed" else "_bare")
            places = default[form]["ranks"]["hybrid"]
            found |= {f"{key}{end}": value for key, value in figures(places).items()}
            found |= {f"questions{end}": len(places), f"chunks{end}": default[form]["chunks"]}
    return found | answered(arms) | stored(arms) | searched(arms)


def answered(arms: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = dict(arms.get("grounded", {}).get("figures", {}))
    for arm in GROUNDED:
        if arm in arms:
            told = arms[arm]["figures"]
            found |= {arm: told["grounded"], f"{arm}_strict": told["grounded_strict"]}
    return found


def stored(arms: Mapping[str, Any]) -> dict[str, Any]:
    told = dict(arms.get("intake", {}))
    found: dict[str, Any] = {
        f"intake_{key}" if key in {"chunks", "cores"} else key: value for key, value in told.items()
    }
    for arm, size in STORES.items():
        found |= {f"{key}_{size}": value for key, value in arms.get(arm, {}).items()}
    kills = arms.get("kills", {})
    return found | {f"kills_{key}" if key != "kills" else key: value for key, value in kills.items()}


def searched(arms: Mapping[str, Any]) -> dict[str, Any]:
    known = [name for name in SEARCHES if name in arms]
    found: dict[str, Any] = {}
    if known:
        for key in ("bfloat16_cosine", "sieve_recall10", "sieve_recall10_as_of_a_million"):
            if told := [arms[name][key] for name in known if key in arms[name]]:
                found[key] = min(told)
    for name, form in product(known, FORMS):
        for way, places in arms[name][form]["ranks"].items():
            found |= {f"{key}_{name}_{form}_{way}": value for key, value in figures(places).items()}
    return found


def table(arms: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, form in product(corpora.CORPORA, FORMS):
        told = {method: arms[f"{name}_{method}"][form] for method in METHODS if f"{name}_{method}" in arms}
        if not told:
            continue
        ways = ("bm25", "embeddings", "hybrid", "reranked")
        lines += ["", f"## {name}, {form}: recall@1 / recall@5 / MRR", ""]
        lines += ["| splitter | chunks | " + " | ".join(ways) + " |", "|---" * (2 + len(ways)) + "|"]
        for method, each in told.items():
            cells = [
                " / ".join(f"{value:.3f}" for value in figures(each["ranks"][way]).values()) for way in ways
            ]
            lines.append(f"| {method} | {each['chunks']:,} | " + " | ".join(cells) + " |")
    return [*lines, *fusions(arms), *grounding.table(arms)]


def fusions(arms: Mapping[str, Any]) -> list[str]:
    """Return recall@5 for each way of joining words and meanings, divided in the default way."""
    known = [(name, form) for name, form in product(corpora.CORPORA, FORMS) if f"{name}_{DEFAULT}" in arms]
    heads = [f"{name}, {form}" for name, form in known]
    lines = ["", "## Joining words and meanings: recall@5 by scale and weight of the embeddings", ""]
    lines += ["| | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for scale, weight in product(SCALES, WEIGHTS):
        way = f"{scale}_{weight}"
        told = [arms[f"{name}_{DEFAULT}"][form]["ranks"].get(way) for name, form in known]
        cells = [f"{figures(places)['recall5']:.3f}" if places else "" for places in told]
        lines.append(f"| {scale}, {weight} | " + " | ".join(cells) + " |")
    return lines if known else []


def draw(arms: Mapping[str, Any]) -> None:
    """Plot recall@5 without headings by splitter and way, and milliseconds of a search by size."""
    plt = report.pyplot()
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4))
    ways = ("bm25", "embeddings", "hybrid", "reranked")
    for axes, name in ((left, "python"), (middle, "debian")):
        methods = [method for method in METHODS if f"{name}_{method}" in arms]
        for number, way in enumerate(ways):
            shares = [figures(arms[f"{name}_{each}"]["bare"]["ranks"][way])["recall5"] for each in methods]
            axes.bar([place + 0.2 * number for place in range(len(methods))], shares, 0.2, label=way)
        axes.set_xticks([place + 0.3 for place in range(len(methods))], methods, fontsize=8)
        axes.set_ylim(0, 1)
        axes.set_title(f"{name}, headings taken out: recall@5")
        if methods:
            axes.legend(loc="upper right", ncols=2, fontsize=8)
    filled = {size: arms[arm] for arm, size in STORES.items() if arm in arms}
    for way in retrieval_stores.WAYS:
        right.plot(list(filled), [each[f"{way}_p50_ms"] for each in filled.values()], marker="o", label=way)
    right.axhline(50, color="#cc6677", linestyle=":")
    if filled:
        right.set_xscale("log")
        right.set_yscale("log")
        right.set_yticks([10, 20, 50, 100], ["10", "20", "50", "100"])
        right.minorticks_off()
        right.legend(fontsize=8)
    right.set_xlabel("chunks")
    right.set_title("one search: median milliseconds")
    figure.tight_layout()
    report.RESULTS.mkdir(exist_ok=True)
    figure.savefig(report.RESULTS / "retrieval.png", dpi=110)


def run_arm(arm: str) -> dict[str, Any]:
    if arm == "kills":
        return retrieval_stores.kills()
    if arm in STORES:
        return retrieval_stores.scale(report.CACHE / f"retrieval_{arm}", STORES[arm])
    if arm == "intake":
        return retrieval_stores.intake(embedders.load_encoder(home().base("minilm")))
    if arm in GROUNDED:
        return grounding.ask(home(), GROUNDED[arm])
    corpus, _, method = arm.partition("_")
    return search(corpus, method)


def main() -> None:
    hardware.quieten()
    report.arms(__file__, ARMS, run_arm)
    arms = report.finished(__file__, ARMS)
    found = flat(arms)
    draw(arms)
    missing = [name for name in ARMS if name not in arms]
    notes = [
        *(__doc__ or "").strip().splitlines()[:1],
        *([f"Not run yet: {', '.join(missing)}."] if missing else []),
        "",
        *NOTES,
    ]
    notes += [f"{name}: {arm['note']}" for name, arm in arms.items() if "note" in arm]
    report.save("retrieval", found, notes, tables=table(arms))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
