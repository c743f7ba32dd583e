"""What `labels.py` compares lorad with: plain fine-tunes by `transformers.Trainer`, and baselines that learn next to nothing.

A fine-tune has the same base and the same rows as lorad's drop, and settings of its own that are usual for so few rows:
AdamW, linear decay behind a tenth of warm-up, batches of 16 of like length, and ``EPOCHS``. `lora` has lorad's rank, alpha and
layers at ``RATES["lora"]``; `full` trains all weights at ``RATES["full"]``. A word's tag is that of its first token, as in
transformers' own examples. Nothing is chosen by what is asked afterwards.

What lives here: training, asking and timing these. What never does: lorad's own training.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from labels_data import SEED, Labelled, Sentence
from lorad.config import Settings
from lorad.training import planner

BATCH = 16
EPOCHS = 6
RATES = {"lora": 1e-3, "full": 2e-4}
KINDS = tuple(RATES)
IGNORED = -100
"""What transformers' loss leaves out."""

Chances = list[dict[str, float]]
"""Each text's labels with their probabilities."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A fine-tuned model, and what it took."""

    model: Any
    tokenizer: Any
    labels: tuple[str, ...]
    seconds: float
    cpu_seconds: float


# -- learning


def tagger(
    base: Path, rows: Sequence[Sentence], labels: Sequence[str], kind: str, before: Trained | None = None
) -> Trained:
    """Fine-tune a base, or what was trained before, on tagged sentences; ``labels`` are tags."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    made = (
        before.model if before else _prepared(AutoModelForTokenClassification, base, labels, kind, len(rows))
    )
    places = {label: number for number, label in enumerate(labels)}
    data = [_aligned(tokenizer, row, places) for row in rows]
    return _train(made, tokenizer, labels, data, DataCollatorForTokenClassification(tokenizer), kind)


def classifier(base: Path, rows: Sequence[Labelled], labels: Sequence[str], kind: str) -> Trained:
    """Fine-tune a base on texts with one label each."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    made = _prepared(AutoModelForSequenceClassification, base, labels, kind, len(rows))
    data = [{**tokenizer(row.text, truncation=True), "labels": labels.index(row.label)} for row in rows]
    return _train(made, tokenizer, labels, data, DataCollatorWithPadding(tokenizer), kind)


def _prepared(loads: Any, base: Path, labels: Sequence[str], kind: str, count: int) -> Any:
    set_seed(SEED)
    model = loads.from_pretrained(base, num_labels=len(labels), dtype=torch.float32)
    if kind == "full":
        return model
    row = planner.choose_row(Settings().planner.table, count)
    task = "TOKEN_CLS" if loads is AutoModelForTokenClassification else "SEQ_CLS"
    adapted = LoraConfig(
        r=row.rank,
        lora_alpha=row.alpha,
        target_modules="all-linear",
        exclude_modules=["classifier"],  # the head is trained whole
        task_type=task,
    )
    return get_peft_model(model, adapted)


def _aligned(tokenizer: Any, row: Sentence, places: dict[str, int]) -> dict[str, Any]:
    read = tokenizer(list(row.words), is_split_into_words=True, truncation=True)
    words = read.word_ids()
    firsts = [
        IGNORED if word is None or (at and words[at - 1] == word) else places[row.tags[word]]
        for at, word in enumerate(words)
    ]
    return {**read, "labels": firsts}


def _train(
    model: Any, tokenizer: Any, labels: Sequence[str], data: list[dict[str, Any]], collator: Any, kind: str
) -> Trained:
    steps = -(-len(data) // BATCH) * EPOCHS
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=scratch,
                learning_rate=RATES[kind],
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=BATCH,
                warmup_steps=steps // 10,
                lr_scheduler_type="linear",
                weight_decay=0.01,
                train_sampling_strategy="group_by_length",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
                use_cpu=True,
                seed=SEED,
            ),
            train_dataset=data,
            data_collator=collator,
        )
        began, used = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, cpu = time.perf_counter() - began, time.process_time() - used
    model.eval()
    return Trained(model, tokenizer, tuple(labels), seconds, cpu)


# -- asking


@torch.inference_mode()
def tags(trained: Trained, rows: Sequence[Sentence]) -> list[tuple[str, ...]]:
    """Return a tag for each word: that of its first token."""
    found = []
    for begin in range(0, len(rows), BATCH):
        group = rows[begin : begin + BATCH]
        read = trained.tokenizer(
            [list(row.words) for row in group],
            is_split_into_words=True,
            truncation=True,
            padding=True,
            return_tensors="pt",
        )
        best = trained.model(**read).logits.argmax(-1).tolist()
        for number, row in enumerate(group):
            said = ["O"] * len(row.words)
            for at, word in reversed(list(enumerate(read.word_ids(number)))):
                if word is not None:
                    said[word] = trained.labels[best[number][at]]
            found.append(tuple(said))
    return found


@torch.inference_mode()
def chances(trained: Trained, rows: Sequence[Labelled]) -> Chances:
    found: Chances = []
    for begin in range(0, len(rows), BATCH):
        texts = [row.text for row in rows[begin : begin + BATCH]]
        read = trained.tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
        likely = trained.model(**read).logits.softmax(-1).tolist()
        found += [dict(zip(trained.labels, each, strict=True)) for each in likely]
    return found


# -- next to nothing


def usual_tags(trained: Sequence[Sentence], rows: Sequence[Sentence]) -> list[tuple[str, ...]]:
    """Return each word's most frequent tag in what is trained, ``O`` for a word that is not there."""
    counted: dict[str, Counter[str]] = {}
    for row in trained:
        for word, tag in zip(row.words, row.tags, strict=True):
            counted.setdefault(word.casefold(), Counter())[tag] += 1
    usual = {word: tags.most_common(1)[0][0] for word, tags in counted.items()}
    return [tuple(usual.get(word.casefold(), "O") for word in row.words) for row in rows]


def usual_label(trained: Sequence[Labelled]) -> str:
    """Return the label that is trained most."""
    return Counter(row.label for row in trained).most_common(1)[0][0]


def tf_idf(trained: Sequence[Labelled], rows: Sequence[Labelled]) -> list[str]:
    """Return what logistic regression over TF-IDF of words and pairs of words says, as scikit-learn has it."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - of the extra `bench`
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - the same
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415 - the same

    made = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=10, max_iter=1000),
    )
    made.fit([row.text for row in trained], [row.label for row in trained])
    found: list[str] = made.predict([row.text for row in rows]).tolist()
    return found
