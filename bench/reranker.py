"""Train the reranker that lorad ships, and say how well it tells what answers a question.

    python bench/reranker.py [--epochs 2] [--keep]

It learns from invented corpora (``data/reranker``): questions in four wordings each, near misses, and questions that
nothing answers; and from ordinary prompts (``data/ordinary_prompts.txt``), which are about nothing that was taught. It is
measured on a corpus that another author wrote (``data/harbour*.json``), on a few corpora (``data/reranker/held_out``) and prompts
that were left out, beside the cosine of the embeddings alone. ``--keep`` writes the adapter into the package.
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
from torch.nn.attention import SDPBackend, sdpa_kernel

import report
from lorad.home import Home
from lorad.models import bases, embedders, hardware, heads, peft_io
from lorad.retrieval import rerankers
from lorad.retrieval.rerankers import CrossEncoder
from lorad.storage import files

RANK, ALPHA, RATE, SEED = 32, 64, 6e-4, 20_261_129
TOGETHER = 32
"""Questions of a step, each with two examples."""
ALIKE = 20
"""Steps whose pairs are sorted by length, so that little of a step is padding."""
WARMUP = 50
NEAR = 6
"""Wrong examples that may go with a question, the nearest of all."""
FIRST_SHARE = 0.5
"""So often the wrong example is the very nearest: that is the one which is compared when nothing answers a question."""
ORDINARY = 6
"""Ordinary prompts of a step, each with one example of those near it."""
NEAR_ORDINARY = 30
HELD_OUT = 7
"""Every so-manieth ordinary prompt is only tested."""
ABOUT_WEIGHT, ORDINARY_WEIGHT = 0.3, 4.0
"""Of the second output's loss, and of an ordinary prompt in it."""
RERANKED = 4
CORPORA = report.BENCH / "data" / "reranker"

Pair = tuple[str, str, float, float]
"""Question, text, and whether the text answers it and it is about what was taught: 0 or 1 each."""


def corpora(folder: Path = CORPORA) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.json")):
        yield json.loads(path.read_text(encoding="utf-8"))


def ordinary() -> list[str]:
    return (report.BENCH / "data" / "ordinary_prompts.txt").read_text(encoding="utf-8").splitlines()


def text(row: dict[str, str]) -> str:
    return f"{row['question']} {row['answer']}"


class Questions:
    """What is trained: questions with the texts that answer them, and those near them that do not."""

    def __init__(self, embedder: embedders.Embedder) -> None:
        self.asked: list[tuple[list[str], str | None, list[str]]] = []
        """Wordings, of which an epoch takes one, the text that answers them, if any does, and the nearest that do not."""
        texts: list[str] = []
        vectors: list[Any] = []
        for corpus in corpora():
            own = [text(row) for row in corpus["rows"]]
            asked = [
                (wordings, number)
                for number, row in enumerate(corpus["rows"])
                for wordings in ([row["question"], row["light"]], *([other] for other in row["others"]))
            ]
            asked += [([each["question"]], -1) for each in corpus["untaught"]]
            read = embedder.embed(own)
            similarities = embedder.embed([wordings[0] for wordings, _ in asked]) @ read.T
            for (wordings, number), row in zip(asked, similarities, strict=True):
                nearest = [int(each) for each in np.argsort(-row) if each != number][:NEAR]
                right = own[number] if number >= 0 else None
                self.asked.append((wordings, right, [own[each] for each in nearest]))
            texts += own
            vectors.append(read)
        trained = [prompt for number, prompt in enumerate(ordinary()) if number % HELD_OUT]
        near = np.argsort(-embedder.embed(trained) @ np.concatenate(vectors).T)[:, :NEAR_ORDINARY]
        self.ordinary = [
            (prompt, [texts[each] for each in row])
            for prompt, row in zip(trained, near.tolist(), strict=True)
        ]

    def steps(self, rng: random.Random) -> Iterator[list[Pair]]:
        """Yield the pairs of one epoch's steps."""
        rng.shuffle(self.asked)
        chosen = [(rng.choice(wordings), right, wrong) for wordings, right, wrong in self.asked]
        for begin in range(0, len(chosen), TOGETHER * ALIKE):
            some = sorted(
                chosen[begin : begin + TOGETHER * ALIKE], key=lambda each: len(each[0] + each[2][0])
            )
            batches = [some[first : first + TOGETHER] for first in range(0, len(some), TOGETHER)]
            rng.shuffle(batches)
            for batch in batches:
                pairs = [pair for each in batch for pair in self._pairs(rng, *each)]
                others = rng.sample(self.ordinary, ORDINARY)
                yield pairs + [(prompt, rng.choice(near), 0.0, 0.0) for prompt, near in others]

    def _pairs(self, rng: random.Random, asked: str, right: str | None, wrong: list[str]) -> list[Pair]:
        other = rng.choice(wrong[1:])
        first = wrong[0] if rng.random() < FIRST_SHARE else other
        both = (right, first) if right else (wrong[0], other)
        return [(asked, each, float(each is right), 1.0) for each in both]


def train(base: bases.Base, questions: Questions, epochs: int) -> Any:
    """Train adapter and head; return the model."""
    rng = random.Random(SEED)
    torch.manual_seed(SEED)
    heads.build(base.model, rerankers.HEAD, rerankers.LABELS)
    model = peft_io.add_lora(base.model, RANK, ALPHA, rerankers.HEAD)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.01)
    steps = epochs * math.ceil(len(questions.asked) / TOGETHER)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / WARMUP) * max(0.02, 1 - step / steps)
    )
    began, losses = time.perf_counter(), []
    model.train(mode=False)  # without dropout: drawing it takes a fifth of the time
    for batch in (batch for _ in range(epochs) for batch in questions.steps(rng)):
        loss = loss_of(model, base.tokenizer, batch)
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
    return model


def loss_of(model: Any, tokenizer: Any, batch: Sequence[Pair]) -> torch.Tensor:
    tokens = tokenizer(
        [pair[0] for pair in batch],
        [pair[1] for pair in batch],
        padding=True,
        truncation="longest_first",
        max_length=rerankers.LONGEST,
        return_tensors="pt",
    )
    # torch's own fused attention takes half the time of a step in its backward pass here
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        odds = model(**tokens).logits
    answers, about = (torch.tensor([pair[place] for pair in batch]) for place in (2, 3))
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    weights = 1 + (ORDINARY_WEIGHT - 1) * (1 - about)
    return entropy(odds[:, 0].float(), answers) + ABOUT_WEIGHT * entropy(odds[:, 1].float(), about, weights)


def harbour(kind: str) -> list[dict[str, str]]:
    name = f"harbour.{kind}.json" if kind else "harbour.json"
    found: list[dict[str, str]] = json.loads((report.BENCH / "data" / name).read_text(encoding="utf-8"))
    return found


def world(corpus: dict[str, Any]) -> tuple[list[str], dict[str, list[tuple[str, int]]]]:
    """Return the texts of a corpus, and by kind what is asked, with the place of the text that answers it or -1."""
    rows = list(enumerate(corpus["rows"]))
    asked = {
        "reworded": [(row["light"], place) for place, row in rows],
        "paraphrases": [(other, place) for place, row in rows for other in row["others"]],
        "untaught": [(each["question"], -1) for each in corpus["untaught"]],
    }
    return [text(row) for _, row in rows], asked


def the_harbour() -> tuple[list[str], dict[str, list[tuple[str, int]]]]:
    """Return the same of the harbour."""
    rows = harbour("")
    place = {row["response"]: number for number, row in enumerate(rows)}
    asked = {
        kind: [(each["instruction"], place.get(each.get("response", ""), -1)) for each in harbour(kind)]
        for kind in ("reworded", "paraphrases", "untaught")
    }
    return [f"{row['instruction']} {row['response']}" for row in rows], asked


def measure(encoder: CrossEncoder, embedder: embedders.Embedder) -> dict[str, float]:
    """Return how often the right example comes first, and how well taught and untaught questions are told apart."""
    texts, asked = the_harbour()
    figures = told_apart(encoder, embedder, texts, asked)
    held_out = [told_apart(encoder, embedder, *world(corpus)) for corpus in corpora(CORPORA / "held_out")]
    figures |= {
        f"held_out_{key}": round(float(np.mean([each[key] for each in held_out])), 4)
        for key in ("reranker_first_paraphrases", "reranker_auc_paraphrases")
    }
    return figures | about(encoder, embedder, texts, embedder.embed(texts))


def told_apart(
    encoder: CrossEncoder,
    embedder: embedders.Embedder,
    texts: list[str],
    asked: dict[str, list[tuple[str, int]]],
) -> dict[str, float]:
    vectors = embedder.embed(texts)
    best: dict[str, dict[str, list[float]]] = {"cosine": {}, "reranker": {}}
    figures: dict[str, float] = {}
    for kind, questions in asked.items():
        similarities = embedder.embed([question for question, _ in questions]) @ vectors.T
        for name, of in best.items():
            scores, first = [], []
            for (question, right), row in zip(questions, similarities, strict=True):
                nearest = [int(place) for place in np.argsort(-row)[:RERANKED]]
                own = (
                    [float(row[place]) for place in nearest]
                    if name == "cosine"
                    else [
                        odds.answers for odds in encoder.score(question, [texts[place] for place in nearest])
                    ]
                )
                top = int(np.argmax(own))
                scores.append(own[top])
                first.append(nearest[top] == right)
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


def about(
    encoder: CrossEncoder, embedder: embedders.Embedder, texts: list[str], vectors: Any
) -> dict[str, float]:
    """Return how well questions about the harbour are told from ordinary prompts that were not trained."""
    told: dict[str, list[float]] = {}
    prompts = [prompt for number, prompt in enumerate(ordinary()) if number % HELD_OUT == 0]
    for kind in ("paraphrases", "untaught", "ordinary"):
        asked = prompts if kind == "ordinary" else [each["instruction"] for each in harbour(kind)]
        near = np.argsort(-embedder.embed(asked) @ vectors.T)[:, :RERANKED].tolist()
        told[kind] = [
            max(odds.about for odds in encoder.score(question, [texts[place] for place in row]))
            for question, row in zip(asked, near, strict=True)
        ]
    line = sorted(told["ordinary"])[-max(1, len(prompts) // 50)]
    return {
        key: value
        for kind in ("paraphrases", "untaught")
        for key, value in (
            (f"about_auc_{kind}", round(_auc(told[kind], told["ordinary"]), 4)),
            (f"about_{kind}_at_2_ordinary", round(float(np.mean([odds > line for odds in told[kind]])), 4)),
        )
    }


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
    questions = Questions(embedder)
    began = time.perf_counter()
    model = train(base, questions, options.epochs)
    seconds = time.perf_counter() - began
    figures: dict[str, Any] = measure(CrossEncoder(model, base.tokenizer, ""), embedder)
    figures |= {"questions": len(questions.asked), "epochs": options.epochs, "seconds": round(seconds)}
    if options.keep:
        target = report.BENCH.parent / "src" / "lorad" / "retrieval" / rerankers.FOLDER
        keep(model, weights, target)
        figures["bytes"] = (target / "adapter_model.safetensors").stat().st_size
    report.save("reranker", figures, (__doc__ or "").strip().splitlines()[:1])
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
