"""Train the reranker that lorad ships, and say how well it tells what answers a question.

    python bench/reranker.py [--epochs 2] [--keep]

It learns from invented corpora (``data/reranker``): questions in four wordings each, near misses, and questions that
nothing answers. It is measured on a tenth, ``data/harbour*.json``, which another author wrote, beside the cosine of the
embeddings alone. ``--keep`` writes the adapter into the package.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import report
from lorad.home import Home
from lorad.models import bases, embedders, hardware, heads, peft_io
from lorad.retrieval import rerankers
from lorad.retrieval.rerankers import CrossEncoder
from lorad.storage import files

RANK, ALPHA, RATE, SEED = 32, 64, 5e-4, 20_261_128
TOGETHER = 16
"""Questions of a step, each with two examples."""
WARMUP = 50
NEAR = 6
"""Wrong examples that may go with a question, the nearest of all."""
FIRST_SHARE = 0.5
"""So often the wrong example is the very nearest: that is the one which is compared when nothing answers a question."""
RERANKED = 4


def corpora() -> Iterator[dict[str, Any]]:
    for path in sorted((report.BENCH / "data" / "reranker").glob("*.json")):
        yield json.loads(path.read_text(encoding="utf-8"))


def text(row: dict[str, str]) -> str:
    return f"{row['question']} {row['answer']}"


def training_questions(embedder: embedders.Embedder) -> list[tuple[str, str | None, list[str]]]:
    """Return questions, each with the text that answers it, if any does, and the nearest that do not."""
    found = []
    for corpus in corpora():
        texts = [text(row) for row in corpus["rows"]]
        asked = [
            (wording, number)
            for number, row in enumerate(corpus["rows"])
            for wording in (row["question"], row["light"], *row["others"])
        ]
        asked += [(each["question"], -1) for each in corpus["untaught"]]
        similarities = embedder.embed([wording for wording, _ in asked]) @ embedder.embed(texts).T
        for (wording, number), row in zip(asked, similarities, strict=True):
            nearest = [int(each) for each in np.argsort(-row) if each != number][:NEAR]
            found.append((wording, texts[number] if number >= 0 else None, [texts[each] for each in nearest]))
    return found


def train(base: bases.Base, questions: list[tuple[str, str | None, list[str]]], epochs: int) -> Any:
    """Train adapter and head; return the model."""
    rng = random.Random(SEED)
    torch.manual_seed(SEED)
    heads.build(base.model, rerankers.HEAD, [rerankers.LABEL])
    model = peft_io.add_lora(base.model, RANK, ALPHA, rerankers.HEAD)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.01)
    steps = epochs * math.ceil(len(questions) / TOGETHER)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARMUP) * max(0.02, 1 - step / steps)
    )
    began, losses = time.perf_counter(), []
    model.train()
    for _ in range(epochs):
        rng.shuffle(questions)
        for begin in range(0, len(questions), TOGETHER):
            pairs, wanted = [], []
            for asked, right, wrong in questions[begin : begin + TOGETHER]:
                other = rng.choice(wrong[1:])
                both = (
                    [right, wrong[0] if rng.random() < FIRST_SHARE else other] if right else [wrong[0], other]
                )
                pairs += [(asked, each) for each in both]
                wanted += [float(each is right) for each in both]
            target = torch.tensor(wanted)
            tokens = base.tokenizer(
                [one for one, _ in pairs],
                [other for _, other in pairs],
                padding=True,
                truncation="longest_first",
                max_length=rerankers.LONGEST,
                return_tensors="pt",
            )
            with torch.autocast("cpu", torch.bfloat16):
                odds = model(**tokens).logits[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(odds.float(), target)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses.append(loss.item())
            if len(losses) % 50 == 0:
                spent = time.perf_counter() - began
                left = spent / len(losses) * (steps - len(losses))
                print(
                    f"step {len(losses)} of {steps}: loss {np.mean(losses[-50:]):.3f}, {left:.0f} s left",
                    flush=True,
                )
    model.train(mode=False)
    return model


def harbour(kind: str) -> list[dict[str, str]]:
    name = f"harbour.{kind}.json" if kind else "harbour.json"
    found: list[dict[str, str]] = json.loads((report.BENCH / "data" / name).read_text(encoding="utf-8"))
    return found


def measure(encoder: CrossEncoder, embedder: embedders.Embedder) -> dict[str, float]:
    """Return how often the right example comes first, and how well taught and untaught questions are told apart."""
    rows = harbour("")
    texts = [f"{row['instruction']} {row['response']}" for row in rows]
    number = {row["response"]: place for place, row in enumerate(rows)}
    vectors = embedder.embed(texts)
    best: dict[str, dict[str, list[float]]] = {"cosine": {}, "reranker": {}}
    figures: dict[str, float] = {}
    for kind in ("reworded", "paraphrases", "untaught"):
        asked = harbour(kind)
        similarities = embedder.embed([each["instruction"] for each in asked]) @ vectors.T
        for name, of in best.items():
            scores, first = [], []
            for each, row in zip(asked, similarities, strict=True):
                nearest = [int(place) for place in np.argsort(-row)[:RERANKED]]
                own = (
                    [float(row[place]) for place in nearest]
                    if name == "cosine"
                    else encoder.score(each["instruction"], [texts[place] for place in nearest])
                )
                top = int(np.argmax(own))
                scores.append(own[top])
                first.append(nearest[top] == number.get(each.get("response", ""), -1))
            of[kind] = scores
            if kind != "untaught":
                figures[f"{name}_first_{kind}"] = round(float(np.mean(first)), 4)
    for name, scores in best.items():
        line = sorted(scores["untaught"], reverse=True)[len(scores["untaught"]) // 10]
        for kind in ("reworded", "paraphrases"):
            figures[f"{name}_auc_{kind}"] = round(_auc(scores[kind], scores["untaught"]), 4)
            figures[f"{name}_refused_{kind}_at_10_false"] = round(
                float(np.mean([score <= line for score in scores[kind]])), 4
            )
    return figures


def _auc(higher: Sequence[float], lower: Sequence[float]) -> float:
    wins = [(one > other) + 0.5 * (one == other) for one in higher for other in lower]
    return float(np.mean(wins))


def keep(model: Any, weights: str, folder: Path) -> None:
    """Write adapter and description into the package."""
    files.make_folder(folder)
    peft_io.write_adapter(peft_io.read_live(model), folder, "minilm", rerankers.HEAD)
    digest = files.file_digest(folder / "adapter_model.safetensors")
    about = {"weights": weights, "fingerprint": digest, "made_by": "bench/reranker.py", "seed": SEED}
    files.write_json(folder / rerankers.ABOUT, about)
    files.set_modes(folder, folder_mode=0o755, file_mode=0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="write the adapter into the package")
    options = parser.parse_args()
    hardware.quieten()
    home = Home(report.CACHE / "home")
    report.add_base(home.root, "minilm")
    folder = home.base("minilm")
    embedder = embedders.load_encoder(folder)
    base = bases.load_base(folder, torch.float32, "cpu", rerankers.HEAD)
    weights = rerankers.weights_digest(base)
    questions = training_questions(embedder)
    began = time.perf_counter()
    model = train(base, questions, options.epochs)
    seconds = time.perf_counter() - began
    figures: dict[str, Any] = measure(CrossEncoder(model, base.tokenizer, ""), embedder)
    figures |= {"questions": len(questions), "epochs": options.epochs, "seconds": round(seconds)}
    if options.keep:
        target = report.BENCH.parent / "src" / "lorad" / "retrieval" / rerankers.FOLDER
        keep(model, weights, target)
        figures["bytes"] = (target / "adapter_model.safetensors").stat().st_size
    report.save("reranker", figures, (__doc__ or "").strip().splitlines()[:1])
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
