"""Tagging and classification on real data, through the real daemon on MiniLM, beside plain fine-tunes and simple baselines.

    python bench/labels.py [--fresh] [--only ARM ...] [--quick]

Arms, each in a process of its own and resumed from the cache: `ner` (three drops: entities in contracts, parts of persons'
names, parts of companies'), `sentiment` (three drops of human ratings: tweets, films, products), `spam`, `levels` (paths of
four levels), `X_plain` (the same rows by `transformers.Trainer`, and something that learns next to nothing), `lcr` (a
chain of three tracks as configs/lcr.yaml has it, of which one is damaged, and one drifts) and `speed` (requests a
second, beside `transformers.pipeline` on the merged copy). What the rows are and how they are divided: `labels_data.py`; how the
plain fine-tunes are made: `labels_plain.py`. `--quick` takes fewer rows, to see whether all works; its results are not kept.

What is asked was never trained, and goes through `/lorad/tag` and `/lorad/classify`. Of spans, seqeval counts entities (exact start,
end and label) in tags of characters; a span whose label the row's dataset does not annotate is neither right nor
wrong (docs/decisions/0068), `_strict` counts it as wrong. Times are one core's, all of a job's: loading, learning, judging.

scikit-learn and seqeval are no dependencies: pip install '.[bench]' first.
"""

import json
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import labels_data
import report
import three_drops
from labels_data import RATINGS, Labelled, Sentence, Split
from lorad.evaluation import calibration
from lorad.home import Home
from lorad.models import hardware
from lorad.serving.client import Client
from lorad.storage import files
from lorad.versions import calibrations, manifests
from lorad.versions.store import Registry

CONFIGS = report.BENCH.parent / "configs"
NAMES = ("finance", "person", "company")
DOMAINS = tuple(labels_data.RATED)
ROWS = {
    "ner": (200, 200),
    "sentiment": (200, 500),
    "spam": (150, 300),
    "levels": (400, 300),
    "lcr": (160, 60),
}
"""Of each drop: how many rows are trained, and how many are asked at most: so many that a slow core takes two hours."""
QUICK = {
    "ner": (100, 80),
    "sentiment": (220, 300),
    "spam": (110, 150),
    "levels": (220, 150),
    "lcr": (220, 40),
}
"""The same with `--quick`; still so many that probabilities are calibrated."""
LARGE_ROWS = 60
"""Of the system's large variant, whose base is SmolLM2."""
TOGETHER = 32
"""Texts of one request, where nothing is timed."""
CLIENTS = (1, 16)
REQUESTS = 320
"""Of an arm of speed, a text each."""
SYSTEM = "lcr"
ARMS = (
    "ner",
    "ner_plain",
    "sentiment",
    "sentiment_plain",
    "spam",
    "spam_plain",
    "levels",
    "levels_plain",
    "lcr",
    "speed",
)

Spans = list[tuple[int, int, str]]
Chances = list[dict[str, float]]

quick = False


def rows_of(arm: str, name: str) -> Split[Any]:
    trained, asked = (QUICK if quick else ROWS)[arm]
    if arm == "ner":
        return labels_data.split(labels_data.names(name), trained, asked)
    if arm == "sentiment":
        return labels_data.split(labels_data.rated(name), trained, asked)
    if arm == "spam":
        return labels_data.split(labels_data.mail(), trained, asked, balanced=True)
    return labels_data.split(labels_data.taxonomy(), trained, asked, balanced=True)


# -- the daemon


def home_of(arm: str, settings: str | None = None, bases: Sequence[str] = ("minilm",)) -> Home:
    """Return an arm's home with its bases, and these settings if any are given."""
    home = Home(report.CACHE / f"labels_{arm}{'_quick' * quick}")
    for base in bases:
        known = next(report.CACHE.glob(f"*/models/base/{base}/fingerprint.json"), None)
        if known is None:
            report.add_base(home.root, base)
        elif not home.base(base).is_dir():  # fetched once for all homes
            shutil.copytree(known.parent, home.base(base))
    for folder in (home.configs, home.inbox):
        folder.mkdir(exist_ok=True)
    if settings is not None:
        (home.configs / "default.yaml").write_text(settings, encoding="utf-8")
    return home


def track_settings(track: str, task: str) -> str:
    return f"tracks:\n  {track}: {{task: {task}, base: minilm}}\n"


class Lessons:
    """What a home has learned, drop by drop, and what was asked after each; kept, so that a run goes on where it was."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._path = home.root / "lessons.json"
        self.done: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def learn(
        self,
        client: Client,
        track: str,
        name: str,
        rows: Sequence[Mapping[str, Any]],
        ask: Callable[[], Any] = lambda: None,
    ) -> Any:
        """Drop rows and wait for their job; return it with what is asked then."""
        if name not in self.done:
            job = self._drop(client, track, name, rows)
            told = f"{job['state']} in {job['seconds']:.0f} s, {job['cpu_seconds']:.0f} s of the core"
            print(track, name, told, job.get("reason") or "", flush=True)
            self._keep(name, {"job": job})
        if "asked" not in self.done[name]:
            self._keep(name, {**self.done[name], "asked": ask()})
        return self.done[name]

    def _keep(self, name: str, lesson: dict[str, Any]) -> None:
        self.done[name] = lesson
        self._path.write_text(json.dumps(self.done))

    def _drop(self, client: Client, track: str, name: str, rows: Sequence[Mapping[str, Any]]) -> Any:
        folder = self._home.inbox / track
        folder.mkdir(exist_ok=True)
        part = folder / f".{name}.part"
        part.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        used = _session_seconds()
        part.rename(folder / f"{name}.jsonl")
        while True:
            time.sleep(1)
            failed = [
                event for event in client.call("GET", "/lorad/events")["events"] if event["name"] == "failed"
            ]
            assert not failed, failed
            jobs = [job for job in client.call("GET", "/lorad/jobs")["jobs"] if job["dataset"] == name]
            if jobs and jobs[0]["state"] not in {"queued", "training", "judging"}:
                return {
                    **jobs[0],
                    "seconds": jobs[0]["ended_at"] - jobs[0]["started_at"],
                    "cpu_seconds": _session_seconds() - used,
                    "rows": len(rows),
                }


def _session_seconds() -> float:
    """Return the processor's seconds that this process's daemon has spent in children that ended: sessions."""
    times = [child.cpu_times() for child in psutil.Process().children()]
    return sum(each.children_user + each.children_system for each in times)


def keep_answers(home: Home, known: Sequence[str], said: Mapping[str, Any]) -> None:
    """Keep what was said after a drop, so that it can be looked at."""
    (home.root / f"said_after_{known[-1]}.json").write_text(json.dumps(said))


def papers(client: Client, track: str) -> dict[str, float]:
    """Return what the version that serves says of itself."""
    found = client.versions(track)
    return dict(client.version(track, found.latest).performance) if found.latest else {}


def groups(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(texts), TOGETHER):
        yield texts[begin : begin + TOGETHER]


def classified(client: Client, track: str, texts: Sequence[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for group in groups(texts):
        body = {"model": track, "texts": list(group)}
        found += client.call("POST", "/lorad/classify", body)["classifications"]
    return found


# -- names


def char_spans(row: Sentence, tags: Sequence[str]) -> Spans:
    """Return what tags of words mark, in characters of the row's text."""
    starts, at = [], 0
    for word in row.words:
        starts.append(at)
        at += len(word) + 1
    found: Spans = []
    label, begin, end = "", 0, 0
    for number, tag in enumerate([*tags, "O"]):
        if label and tag != f"I-{label}":
            found.append((begin, end, label))
            label = ""
        if tag != "O":
            if not label:
                label, begin = tag[2:], starts[number]
            end = starts[number] + len(row.words[number])
    return found


def entity_f1(rows: Sequence[Sentence], said: Sequence[Spans], annotated: frozenset[str] | None) -> float:
    """Return seqeval's F1 of entities, of all labels or of those that are annotated."""
    from seqeval.metrics import f1_score  # noqa: PLC0415 - of the extra `bench`

    gold = [_char_tags(row.text, char_spans(row, row.tags)) for row in rows]
    kept = [
        _char_tags(row.text, [span for span in spans if annotated is None or span[2] in annotated])
        for row, spans in zip(rows, said, strict=True)
    ]
    return float(f1_score(gold, kept))


def _char_tags(text: str, spans: Spans) -> list[str]:
    tags = ["O"] * len(text)
    for start, end, label in spans:
        tags[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
    return tags


def labels_of(rows: Sequence[Sentence]) -> frozenset[str]:
    return frozenset(tag[2:] for row in rows for tag in row.tags if tag != "O")


def tagged(client: Client, rows: Sequence[Sentence]) -> list[Spans]:
    found: list[Spans] = []
    for group in groups([row.text for row in rows]):
        said = client.call("POST", "/lorad/tag", {"model": "ner", "texts": list(group)})["texts"]
        found += [[(span["start"], span["end"], span["label"]) for span in each["spans"]] for each in said]
    return found


def both_scores(split: Split[Sentence], said: Sequence[Spans]) -> dict[str, float]:
    annotated = labels_of(split.trained)
    return {
        "f1": entity_f1(split.held_out, said, annotated),
        "strict": entity_f1(split.held_out, said, None),
    }


def ner() -> dict[str, Any]:
    home = home_of("ner", (CONFIGS / "ner.yaml").read_text(encoding="utf-8"))
    splits = {name: rows_of("ner", name) for name in NAMES}
    lessons = Lessons(home)
    with three_drops.daemon(home) as client:
        for number, name in enumerate(NAMES, start=1):
            rows = [{"tokens": row.words, "tags": row.tags} for row in splits[name].trained]
            known = NAMES[:number]

            def ask(known: Sequence[str] = known) -> Any:
                said = {each: tagged(client, splits[each].held_out) for each in known}
                keep_answers(home, known, said)
                return {each: both_scores(splits[each], said[each]) for each in known}

            print(name, lessons.learn(client, "ner", name, rows, ask)["asked"], flush=True)
        found = papers(client, "ner")
    counts = {name: [len(split.trained), len(split.held_out)] for name, split in splits.items()}
    return {"lessons": lessons.done, "counts": counts, "papers": found}


def ner_plain() -> dict[str, Any]:
    import labels_plain  # noqa: PLC0415 - what it imports takes seconds

    base = home_of("ner").base("minilm")
    splits = {name: rows_of("ner", name) for name in NAMES}
    every = sorted({label for split in splits.values() for label in labels_of(split.trained)})
    found: dict[str, Any] = {
        "usual": {
            name: both_scores(
                split, _plain_spans(split, labels_plain.usual_tags(split.trained, split.held_out))
            )["f1"]
            for name, split in splits.items()
        }
    }
    for kind in labels_plain.KINDS:
        alone: dict[str, Any] = {}
        in_turn: list[dict[str, float]] = []
        before = None
        for number, name in enumerate(NAMES):
            split = splits[name]
            before = labels_plain.tagger(base, split.trained, _tags(every), kind, before)
            own = before  # the first of those in turn has seen no other
            if number:
                own = labels_plain.tagger(base, split.trained, _tags(sorted(labels_of(split.trained))), kind)
            alone[name] = {
                **both_scores(split, _plain_spans(split, labels_plain.tags(own, split.held_out))),
                "seconds": own.seconds,
                "cpu_seconds": own.cpu_seconds,
            }
            in_turn.append(
                {
                    each: both_scores(
                        splits[each],
                        _plain_spans(splits[each], labels_plain.tags(before, splits[each].held_out)),
                    )["f1"]
                    for each in NAMES[: number + 1]
                }
            )
            print(kind, name, alone[name], in_turn[-1], flush=True)
        found[kind] = {"alone": alone, "in_turn": in_turn}
    return found


def _tags(names: Sequence[str]) -> list[str]:
    return ["O", *(f"{sign}-{label}" for label in names for sign in "BI")]


def _plain_spans(split: Split[Sentence], said: Sequence[Sequence[str]]) -> list[Spans]:
    return [char_spans(row, _mended(tags)) for row, tags in zip(split.held_out, said, strict=True)]


def _mended(tags: Sequence[str]) -> list[str]:
    """Let an ``I-`` that continues nothing of its label begin an entity, as conlleval and seqeval read it."""
    before = ["O", *tags]
    return [
        f"B-{tag[2:]}" if tag[0] == "I" and before[at][1:] != tag[1:] else tag for at, tag in enumerate(tags)
    ]


# -- labels


def row_of(row: Labelled) -> dict[str, Any]:
    return {"text": row.text, "label": row.shares or row.label}


def as_chances(answers: Sequence[Mapping[str, Any]]) -> Chances:
    return [dict(answer["probabilities"]) for answer in answers]


def accuracy(rows: Sequence[Labelled], said: Chances) -> float:
    return statistics.mean(
        max(each, key=each.__getitem__) == row.label for row, each in zip(rows, said, strict=True)
    )


def heated(said: Chances, temperature: float) -> Chances:
    """Return probabilities as they were before their logits were divided by a temperature."""
    found = []
    for each in said:
        raised = {label: chance**temperature for label, chance in each.items()}
        total = sum(raised.values())
        found.append({label: chance / total for label, chance in raised.items()})
    return found


def pairs(rows: Sequence[Labelled], said: Chances) -> list[tuple[float, bool]]:
    """Return how sure each answer is, and whether it is right."""
    best = [max(each.items(), key=lambda item: item[1]) for each in said]
    return [(chance, label == row.label) for row, (label, chance) in zip(rows, best, strict=True)]


def ece(rows: Sequence[Labelled], said: Chances) -> float:
    return calibration.measure(pairs(rows, said)).ece


def ece_of_votes(rows: Sequence[Labelled], said: Chances) -> float:
    """Return the calibration error where right is not the majority, but each vote: as many agree as it is sure."""
    counted: list[tuple[float, bool]] = []
    for row, each in zip(rows, said, strict=True):
        label, chance = max(each.items(), key=lambda item: item[1])
        agree = round(20 * (row.shares or {row.label: 1.0}).get(label, 0.0))
        counted += [(chance, vote < agree) for vote in range(20)]
    return calibration.measure(counted).ece


def ece_by_chance(rows: Sequence[Labelled], said: Chances) -> float:
    """Return the mean calibration error of answers that are exactly as often right as they are sure, of so many rows."""
    dice = random.Random(labels_data.SEED)
    sure = [chance for chance, _ in pairs(rows, said)]
    drawn = [calibration.measure([(each, dice.random() < each) for each in sure]).ece for _ in range(50)]
    return statistics.mean(drawn)


def figures_of(rows: Sequence[Labelled], said: Chances, temperature: float = 1.0) -> dict[str, float]:
    return {
        "accuracy": accuracy(rows, said),
        "ece_before": ece(rows, heated(said, temperature)),
        "ece_after": ece(rows, said),
        "ece_of_votes": ece_of_votes(rows, said),
        "ece_by_chance": ece_by_chance(rows, said),
        "brier": calibration.measure(pairs(rows, said)).brier,
    }


def sentiment() -> dict[str, Any]:
    home = home_of("sentiment", track_settings("sentiment", "text_classification"))
    splits = {name: rows_of("sentiment", name) for name in DOMAINS}
    lessons = Lessons(home)
    with three_drops.daemon(home) as client:
        for number, name in enumerate(DOMAINS, start=1):
            known = DOMAINS[:number]

            def ask(known: Sequence[str] = known) -> Any:
                heat = papers(client, "sentiment").get("temperature", 1.0)
                said = {each: _asked(client, splits[each].held_out) for each in known}
                keep_answers(home, known, said)
                asked = [row for each in known for row in splits[each].held_out]
                everything = [answer for each in known for answer in said[each]]
                return {
                    **{each: figures_of(splits[each].held_out, said[each], heat) for each in known},
                    "all": figures_of(asked, everything, heat),
                    "bins": {
                        "before": _bins(asked, heated(everything, heat)),
                        "after": _bins(asked, everything),
                    },
                }

            rows = [row_of(row) for row in splits[name].trained]
            lesson = lessons.learn(client, "sentiment", name, rows, ask)
            print(
                name, {each: found for each, found in lesson["asked"].items() if each != "bins"}, flush=True
            )
        found = papers(client, "sentiment")
    counts = {name: [len(split.trained), len(split.held_out)] for name, split in splits.items()}
    return {"lessons": lessons.done, "counts": counts, "papers": found}


def _asked(client: Client, rows: Sequence[Labelled]) -> Chances:
    return as_chances(classified(client, "sentiment", [row.text for row in rows]))


def _bins(rows: Sequence[Labelled], said: Chances) -> list[list[float]]:
    return [
        [part.confidence, part.accuracy, part.count]
        for part in calibration.reliability(pairs(rows, said))
        if part.confidence is not None and part.accuracy is not None
    ]


def sentiment_plain() -> dict[str, Any]:
    import labels_plain  # noqa: PLC0415 - what it imports takes seconds

    base = home_of("sentiment").base("minilm")
    found: dict[str, Any] = {}
    for name in DOMAINS:
        split = rows_of("sentiment", name)
        usual = labels_plain.usual_label(split.trained)
        found[name] = {"usual": statistics.mean(row.label == usual for row in split.held_out)}
        for kind in labels_plain.KINDS:
            made = labels_plain.classifier(base, split.trained, RATINGS, kind)
            said = labels_plain.chances(made, split.held_out)
            found[name][kind] = {
                **figures_of(split.held_out, said),
                "seconds": made.seconds,
                "cpu_seconds": made.cpu_seconds,
            }
            print(name, kind, found[name][kind], flush=True)
    return found


def label_f1(rows: Sequence[Labelled], said: Sequence[str], label: str = "spam") -> float:
    """Return the F1 of one label."""
    right = sum(each == row.label == label for row, each in zip(rows, said, strict=True))
    either = sum(each == label for each in said) + sum(row.label == label for row in rows)
    return 2 * right / either if either else 0.0


def best_of(said: Chances) -> list[str]:
    return [max(each, key=each.__getitem__) for each in said]


def spam() -> dict[str, Any]:
    split = rows_of("spam", "mail")
    home = home_of("spam", track_settings("mail", "text_classification"))
    lessons = Lessons(home)
    with three_drops.daemon(home) as client:

        def ask() -> Any:
            said = as_chances(classified(client, "mail", [row.text for row in split.held_out]))
            heat = papers(client, "mail").get("temperature", 1.0)
            return {**figures_of(split.held_out, said, heat), "f1": label_f1(split.held_out, best_of(said))}

        lesson = lessons.learn(client, "mail", "spam_assassin", [row_of(row) for row in split.trained], ask)
    print(lesson["asked"], flush=True)
    counts = {"mail": [len(split.trained), len(split.held_out)]}
    return {"lessons": lessons.done, "counts": counts}


def spam_plain() -> dict[str, Any]:
    import labels_plain  # noqa: PLC0415 - what it imports takes seconds

    split = rows_of("spam", "mail")
    base = home_of("spam").base("minilm")
    found: dict[str, Any] = {
        "tf_idf": label_f1(split.held_out, labels_plain.tf_idf(split.trained, split.held_out)),
        "usual": label_f1(split.held_out, ["spam"] * len(split.held_out)),
    }
    for kind in labels_plain.KINDS:
        made = labels_plain.classifier(base, split.trained, ("ham", "spam"), kind)
        said = labels_plain.chances(made, split.held_out)
        found[kind] = {
            "f1": label_f1(split.held_out, best_of(said)),
            "seconds": made.seconds,
            "cpu_seconds": made.cpu_seconds,
        }
        print(found, flush=True)
    return found


def by_level(rows: Sequence[Labelled], said: Sequence[str]) -> dict[str, float]:
    """Return the share of texts that are right down to each level."""
    told = [(row.label.split("/"), each.split("/")) for row, each in zip(rows, said, strict=True)]
    return {
        f"l{level}": statistics.mean(own[:level] == given[:level] for own, given in told)
        for level in range(1, 5)
    }


def consistent(answer: Mapping[str, Any]) -> bool:
    """Tell whether an answer's levels are those of its label, each at least as likely as the one below it."""
    told = [level["label"] for level in answer["levels"]]
    chances = [level["probability"] for level in answer["levels"]]
    parts = answer["label"].split("/")
    own = ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
    return told == own and chances == sorted(chances, reverse=True)


def levels() -> dict[str, Any]:
    split = rows_of("levels", "taxonomy")
    home = home_of("levels", track_settings("things", "text_classification"))
    lessons = Lessons(home)
    with three_drops.daemon(home) as client:

        def ask() -> Any:
            said = classified(client, "things", [row.text for row in split.held_out])
            heat = papers(client, "things").get("temperature", 1.0)
            return {
                **figures_of(split.held_out, as_chances(said), heat),
                **by_level(split.held_out, [answer["label"] for answer in said]),
                "consistent": statistics.mean(map(consistent, said)),
            }

        lesson = lessons.learn(client, "things", "wordnet", [row_of(row) for row in split.trained], ask)
    print(lesson["asked"], flush=True)
    return {"lessons": lessons.done, "counts": {"taxonomy": [len(split.trained), len(split.held_out)]}}


def levels_plain() -> dict[str, Any]:
    import labels_plain  # noqa: PLC0415 - what it imports takes seconds

    split = rows_of("levels", "taxonomy")
    base = home_of("levels").base("minilm")
    usual = labels_plain.usual_label(split.trained)
    found: dict[str, Any] = {"usual": by_level(split.held_out, [usual] * len(split.held_out))}
    names = sorted({row.label for row in split.trained})
    for kind in labels_plain.KINDS:
        made = labels_plain.classifier(base, split.trained, names, kind)
        said = best_of(labels_plain.chances(made, split.held_out))
        found[kind] = {
            **by_level(split.held_out, said),
            "seconds": made.seconds,
            "cpu_seconds": made.cpu_seconds,
        }
        print(found, flush=True)
    return found


# -- a system


def lcr_rows() -> dict[str, Split[Labelled]]:
    """Return what the members learn: is it an opinion, a good or a bad one, of what.

    From the ratings of all three domains, as many of each. The classifier's labels are paths.
    """
    trained, asked = (QUICK if quick else ROWS)["lcr"]
    pool = [
        (domain, row)
        for domain in DOMAINS
        for row in labels_data.split(labels_data.rated(domain), trained + asked, 0).trained
    ]
    random.Random(labels_data.SEED).shuffle(pool)
    kinds: dict[str, list[Labelled]] = {
        "detector": [Labelled(row.text, "none" if row.label == "neutral" else "opinion") for _, row in pool],
        "refinement": [row for _, row in pool if row.label != "neutral"],
        "classifier": [
            Labelled(row.text, f"{'text/post' if domain == 'tweets' else 'review'}/{domain}")
            for domain, row in pool
        ],
    }
    kinds["refinement"] = [Labelled(row.text, row.label) for row in kinds["refinement"]]
    asked_texts = {row.text for _, row in pool[:asked]}
    return {
        role: Split(
            [row for row in rows if row.text not in asked_texts],
            [row for row in rows if row.text in asked_texts],
        )
        for role, rows in kinds.items()
    }


def lcr() -> dict[str, Any]:
    home = home_of("lcr", (CONFIGS / "lcr.yaml").read_text(encoding="utf-8"), ("minilm", "smollm2"))
    splits = lcr_rows()
    most = (QUICK if quick else ROWS)["lcr"][0]
    large = LARGE_ROWS // (3 if quick else 1)
    drops = (
        ("detector", "opinions", splits["detector"].trained[:most]),
        ("detector", "opinions_more", splits["detector"].trained[most : 2 * most]),
        ("refinement", "polarity", splits["refinement"].trained[:most]),
        ("classifier-small", "kinds", splits["classifier"].trained[:most]),
        ("classifier-large", "kinds_few", splits["classifier"].trained[:large]),
    )
    lessons = Lessons(home)
    with three_drops.daemon(home) as client:
        for track, name, rows in drops:
            lessons.learn(client, track, name, [row_of(row) for row in rows])
        texts = [row.text for row in splits["classifier"].held_out]
        chain = {variant: _chained(client, texts, variant) for variant in ("small", "large")}
    expected = {role: {row.text: row.label for row in split.held_out} for role, split in splits.items()}
    found = {
        f"accuracy_{role}_{variant}": statistics.mean(
            steps[role] == expected[role][text]
            for text, steps in zip(texts, said["steps"], strict=True)
            if text in expected[role]
        )
        for variant, said in chain.items()
        for role in expected
    }
    return {
        "lessons": lessons.done,
        "figures": found,
        "members": {variant: said["members"] for variant, said in chain.items()},
        "complete": statistics.mean(len(steps) == 3 for said in chain.values() for steps in said["steps"]),
        # each in a home of its own: a version that is found damaged does not serve again by itself
        **_damaged(_copy(home, "damaged"), texts, chain["small"]),
        **_drifted(_copy(home, "drifted"), texts),
    }


def _copy(home: Home, name: str) -> Home:
    made = Home(home.root.with_name(f"{home.root.name}_{name}"))
    shutil.rmtree(made.root, ignore_errors=True)
    shutil.copytree(home.root, made.root, symlinks=True, ignore=shutil.ignore_patterns("*.sock", "*.log"))
    return made


def _chained(client: Client, texts: Sequence[str], variant: str) -> dict[str, Any]:
    """Ask the system texts; return who answered, and what each step said."""
    steps: list[dict[str, str]] = []
    members: Any = None
    for group in groups(texts):
        said = client.call("POST", f"/lorad/systems/{SYSTEM}", {"texts": list(group), "variant": variant})
        members = said["members"]
        steps += [
            {step["role"]: step["classification"]["label"] for step in result["steps"]}
            for result in said["results"]
        ]
    return {"members": members, "steps": steps}


def _command(home: Home, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "lorad.apps.cli.model_commands", *words, "--home", str(home.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@contextmanager
def _changed(path: Path, content: bytes) -> Iterator[None]:
    """Let a file say something else for a while."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def _stand_in(home: Home, texts: Sequence[str]) -> dict[str, Any]:
    """Start the daemon and ask; return the detector as the chain names it."""
    with three_drops.daemon(home) as client:
        said = _chained(client, texts[:TOGETHER], "small")
        named = [event for event in client.call("GET", "/lorad/events")["events"] if event.get("code")]
    detector = next(member for member in said["members"] if member["role"] == "detector")
    return {"detector": detector, "steps": said["steps"], "codes": sorted({each["code"] for each in named})}


def _damaged(home: Home, texts: Sequence[str], before: dict[str, Any]) -> dict[str, Any]:
    """Flip one bit of the detector's newest version; see what names it and what serves."""
    registry = Registry(home.track("detector"))
    newest = registry.latest
    weights = registry.path(newest) / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    others = ("refinement", "classifier")
    with _changed(weights, bytes(content)):
        status, told = _command(home, "verify", "--system", SYSTEM)
        found = _stand_in(home, texts)
    same = [
        all(now[role] == then[role] for role in others)
        for now, then in zip(found["steps"], before["steps"], strict=False)
    ]
    return {
        "damage": {
            "newest": newest,
            "verify_fails": status == 1 and newest in told,
            "served": found["detector"]["version"],
            "named": newest in found["detector"].get("corrupt", ()),
            "others_same": statistics.mean(same),
            "told": told[-600:],
        }
    }


def _drifted(home: Home, texts: Sequence[str]) -> dict[str, Any]:
    """Let the detector's newest version have been calibrated otherwise, in two ways; see whether that is named.

    At a load: its papers tell of probes of which it was a fifth less sure, under a manifest that fits. For `lorad calibrate
    --check`: a reference kept beside it in which every row was a fifth less sure.
    """
    registry = Registry(home.track("detector"))
    newest = registry.latest
    folder = registry.path(newest)
    own = files.read_json(folder / calibrations.OWN)
    moved = [row | {"confidence": row["confidence"] * 0.8} for row in own["rows"]]
    sound, _ = _command(home, "calibrate", newest, "--track", "detector", "--check")
    registry.keep_calibration(newest, own | {"version": newest, "rows": moved})
    status, told = _command(home, "calibrate", newest, "--track", "detector", "--check")
    calibrations.path_of(home.track("detector"), newest).unlink()
    papers = json.dumps(own | {"probes": [each * 0.8 for each in own["probes"]]}).encode()
    manifest = manifests.read(folder)
    entry = dict(manifest["files"][calibrations.OWN])
    with _changed(folder / calibrations.OWN, papers):
        entry |= {"sha256": files.file_digest(folder / calibrations.OWN), "bytes": len(papers)}
        resealed = manifests.sealed({**manifest, "files": {**manifest["files"], calibrations.OWN: entry}})
        with _changed(folder / manifests.MANIFEST, json.dumps(resealed).encode()):
            found = _stand_in(home, texts)
    return {
        "drift": {
            "check_passes_sound": sound == 0,
            "check_names": status == 1 and "confidence" in told,
            "load_served": found["detector"]["version"],
            "load_named": newest in found["detector"].get("corrupt", ()),
            "codes": found["codes"],
            "told": told[-600:],
        }
    }


# -- speed


def speed() -> dict[str, Any]:
    """Ask what `ner` and `sentiment` have learned, text by text; then transformers, in this process and without a socket."""
    from transformers import pipeline  # noqa: PLC0415 - takes seconds

    found: dict[str, Any] = {}
    for arm, track, route, kind, first in (
        ("ner", "ner", "tag", "token-classification", "finance"),
        ("sentiment", "sentiment", "classify", "text-classification", "tweets"),
    ):
        home = home_of(arm)
        texts = [row.text for row in rows_of(arm, first).held_out]
        asked = [texts[number % len(texts)] for number in range(REQUESTS // (10 if quick else 1))]
        with three_drops.daemon(home) as client:
            _timed(client, route, track, asked[:16], 1)
            for count in CLIENTS:
                found[f"{route}_requests_per_second_{count}"] = _timed(client, route, track, asked, count)
            found[f"{route}_texts_per_second_together"] = _timed_together(client, route, track, asked)
        how = {"aggregation_strategy": "simple"} if route == "tag" else {"top_k": None}
        plain = pipeline(kind, model=str(home.track(track) / "merged"), device="cpu", **how)
        plain(asked[:4])
        began = time.perf_counter()
        for text in asked:
            plain(text)
        found[f"{route}_pipeline_texts_per_second_1"] = len(asked) / (time.perf_counter() - began)
        began = time.perf_counter()
        plain(asked, batch_size=16)
        found[f"{route}_pipeline_texts_per_second_16"] = len(asked) / (time.perf_counter() - began)
        print(found, flush=True)
    return found


def _timed(client: Client, route: str, track: str, texts: Sequence[str], clients: int) -> float:
    """Return requests a second of so many threads, a text each."""
    waiting, lock = iter(texts), threading.Lock()

    def ask() -> None:
        while True:
            with lock:
                text = next(waiting, None)
            if text is None:
                return
            client.call("POST", f"/lorad/{route}", {"model": track, "texts": [text]})

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(texts) / (time.perf_counter() - began)


def _timed_together(client: Client, route: str, track: str, texts: Sequence[str]) -> float:
    began = time.perf_counter()
    for begin in range(0, len(texts), 16):
        client.call("POST", f"/lorad/{route}", {"model": track, "texts": list(texts[begin : begin + 16])})
    return len(texts) / (time.perf_counter() - began)


# -- figures


def mean_of(found: Mapping[str, Mapping[str, float]], key: str) -> float:
    return statistics.mean(each[key] for each in found.values())


def better(found: Mapping[str, Any], key: str) -> float:
    """Return the better one of the plain fine-tunes."""
    return float(max(found["lora"][key], found["full"][key]))


def ner_figures(ours: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    asked = [ours["lessons"][name]["asked"] for name in NAMES]
    own = {name: asked[number][name] for number, name in enumerate(NAMES)}
    alone = {name: max(plain[kind]["alone"][name]["f1"] for kind in ("lora", "full")) for name in NAMES}
    lost = {
        kind: plain[kind]["in_turn"][0]["finance"] - plain[kind]["in_turn"][-1]["finance"]
        for kind in ("lora", "full")
    }
    found: dict[str, Any] = {
        "ner_f1": mean_of(own, "f1"),
        "ner_f1_plain": statistics.mean(alone.values()),
        "ner_f1_usual": statistics.mean(plain["usual"].values()),
        "ner_f1_strict": mean_of(own, "strict"),
        "ner_f1_final": mean_of(asked[-1], "f1"),
        "ner_f1_final_strict": mean_of(asked[-1], "strict"),
        "ner_f1_drop_first": own["finance"]["f1"] - asked[-1]["finance"]["f1"],
        "ner_f1_drop_first_strict": own["finance"]["strict"] - asked[-1]["finance"]["strict"],
        # of the one that has learned more: what was never learned cannot be lost
        "ner_f1_drop_first_plain": lost[max(lost, key=lambda kind: plain[kind]["alone"]["finance"]["f1"])],
        "ner_f1_drop_second": own["person"]["f1"] - asked[-1]["person"]["f1"],
    }
    for kind in ("lora", "full"):
        found[f"ner_f1_plain_{kind}"] = mean_of(plain[kind]["alone"], "f1")
        found[f"ner_f1_drop_first_plain_{kind}"] = lost[kind]
        found[f"ner_f1_in_turn_final_plain_{kind}"] = statistics.mean(plain[kind]["in_turn"][-1].values())
    for name in NAMES:
        found[f"ner_f1_{name}"] = own[name]["f1"]
        found[f"ner_f1_{name}_final"] = asked[-1][name]["f1"]
        found[f"ner_f1_{name}_plain_lora"] = plain["lora"]["alone"][name]["f1"]
        found[f"ner_f1_{name}_plain_full"] = plain["full"]["alone"][name]["f1"]
        found[f"ner_f1_{name}_usual"] = plain["usual"][name]
    return found


def sentiment_figures(ours: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    asked = [ours["lessons"][name]["asked"] for name in DOMAINS]
    last = asked[-1]
    found: dict[str, Any] = {
        "sentiment_accuracy": mean_of({name: last[name] for name in DOMAINS}, "accuracy"),
        "sentiment_accuracy_plain": statistics.mean(better(plain[name], "accuracy") for name in DOMAINS),
        "sentiment_accuracy_usual": statistics.mean(plain[name]["usual"] for name in DOMAINS),
        "ece_before": last["all"]["ece_before"],
        "ece_after": last["all"]["ece_after"],
        "ece_by_chance": last["all"]["ece_by_chance"],
        "ece_of_votes": last["all"]["ece_of_votes"],
        "ece_plain": statistics.mean(
            min(plain[name][kind]["ece_after"] for kind in ("lora", "full")) for name in DOMAINS
        ),
    }
    for number, name in enumerate(DOMAINS):
        own = asked[number][name]
        found[f"sentiment_accuracy_{name}"] = own["accuracy"]
        found[f"sentiment_accuracy_{name}_final"] = last[name]["accuracy"]
        for kind in ("lora", "full"):
            found[f"sentiment_accuracy_{name}_plain_{kind}"] = plain[name][kind]["accuracy"]
        found[f"sentiment_accuracy_{name}_usual"] = plain[name]["usual"]
        found[f"sentiment_drop_{name}"] = own["accuracy"] - last[name]["accuracy"]
        found[f"ece_before_{name}"] = last[name]["ece_before"]
        found[f"ece_after_{name}"] = last[name]["ece_after"]
        found[f"ece_by_chance_{name}"] = last[name]["ece_by_chance"]
        found[f"ece_plain_{name}_full"] = plain[name]["full"]["ece_after"]
    return found


def other_figures(arms: Mapping[str, Any]) -> dict[str, Any]:
    mail, taxonomy = (
        arms["spam"]["lessons"]["spam_assassin"]["asked"],
        arms["levels"]["lessons"]["wordnet"]["asked"],
    )
    found: dict[str, Any] = {
        "spam_f1": mail["f1"],
        "spam_f1_tf_idf": arms["spam_plain"]["tf_idf"],
        "spam_f1_usual": arms["spam_plain"]["usual"],
        "spam_ece_before": mail["ece_before"],
        "spam_ece_after": mail["ece_after"],
        "levels_consistent": taxonomy["consistent"],
    }
    for kind in ("lora", "full"):
        found[f"spam_f1_plain_{kind}"] = arms["spam_plain"][kind]["f1"]
    for level in ("l1", "l2", "l3", "l4"):
        found[f"levels_accuracy_{level}"] = taxonomy[level]
        for kind in ("lora", "full", "usual"):
            found[f"levels_accuracy_{level}_{'plain_' * (kind != 'usual')}{kind}"] = arms["levels_plain"][
                kind
            ][level]
    system = arms["lcr"]
    found |= {f"lcr_{name}": value for name, value in system["figures"].items()}
    found["lcr_complete"] = system["complete"]
    for part in ("damage", "drift"):
        found |= {
            f"lcr_{part}_{name}": ", ".join(value) if isinstance(value, list) else value
            for name, value in system[part].items()
            if name != "told"
        }
    return found | arms["speed"]


def learning_figures(arms: Mapping[str, Any]) -> dict[str, Any]:
    """Return what learning took: lorad's whole job, and the training alone of the fine-tunes."""
    found: dict[str, Any] = {}
    plain = {
        **{
            name: {kind: arms["ner_plain"][kind]["alone"][name] for kind in ("lora", "full")}
            for name in NAMES
        },
        **{name: arms["sentiment_plain"][name] for name in DOMAINS},
        "spam_assassin": arms["spam_plain"],
        "wordnet": arms["levels_plain"],
    }
    for arm in ("ner", "sentiment", "spam", "levels", "lcr"):
        for name, lesson in arms[arm]["lessons"].items():
            job = lesson["job"]
            found[f"learn_state_{name}"] = job["state"]
            found[f"learn_rows_{name}"] = job["rows"]
            found[f"learn_seconds_{name}"] = job["seconds"]
            found[f"learn_core_seconds_{name}"] = job["cpu_seconds"]
            for kind in ("lora", "full"):
                if name in plain:
                    found[f"learn_core_seconds_{name}_plain_{kind}"] = plain[name][kind]["cpu_seconds"]
    return found


def aims(found: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Return each aim of the issue, what was found, and whether that meets it."""
    told: list[tuple[str, str, bool]] = [
        (
            "`ner_f1` at least the plain fine-tune's less 0.01",
            f"{found['ner_f1']:.4f}, plain {found['ner_f1_plain']:.4f}",
            found["ner_f1"] >= found["ner_f1_plain"] - 0.01,
        ),
        (
            "`ner_f1_drop_first` at most 0.01",
            f"{found['ner_f1_drop_first']:.4f}, in turn without rehearsal {found['ner_f1_drop_first_plain']:.4f}",
            found["ner_f1_drop_first"] <= 0.01,
        ),
        (
            "`ece_after` at most 0.03",
            f"{found['ece_after']:.4f}, before {found['ece_before']:.4f}",
            found["ece_after"] <= 0.03,
        ),
        *(
            (
                f"`sentiment_drop_{name}` at most 0.01",
                f"{found[f'sentiment_drop_{name}']:.4f}",
                found[f"sentiment_drop_{name}"] <= 0.01,
            )
            for name in DOMAINS
        ),
        (
            "`spam_f1` above that of TF-IDF with logistic regression",
            f"{found['spam_f1']:.4f}, TF-IDF {found['spam_f1_tf_idf']:.4f}",
            found["spam_f1"] > found["spam_f1_tf_idf"],
        ),
        (
            "`levels_consistent` 1",
            f"{found['levels_consistent']:.4f}",
            found["levels_consistent"] == 1,
        ),
        (
            "`lcr`: a damaged member is named, the newest intact version serves",
            f"named {found['lcr_damage_named']}, served {found['lcr_damage_served']}",
            found["lcr_damage_named"] and found["lcr_damage_verify_fails"],
        ),
        (
            "`lcr`: drift is named by the check and at a load",
            f"check {found['lcr_drift_check_names']}, load {found['lcr_drift_load_named']}",
            found["lcr_drift_check_names"] and found["lcr_drift_load_named"],
        ),
    ]
    return told


def plot(arms: Mapping[str, Any]) -> None:
    """Draw reliability before and after, and what is kept of each set."""
    plt = report.pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    bins = arms["sentiment"]["lessons"][DOMAINS[-1]]["asked"]["bins"]
    left.plot([0, 1], [0, 1], color="grey", linestyle=":", label="as right as sure")
    for name, marker in (("before", "s"), ("after", "o")):
        sure, right_share, counts = zip(*bins[name], strict=True)
        left.scatter(sure, right_share, [8 + count / 15 for count in counts], marker=marker)
        left.plot(sure, right_share, label=f"{name} temperature scaling")
    left.set(xlabel="confidence", ylabel="accuracy (majority of ratings)", xlim=(0.3, 1), ylim=(0.3, 1))
    left.set_title("sentiment, three domains, never trained")
    left.legend(loc="upper left")
    bars = _kept(arms)
    places = np.arange(len(bars))
    for offset, key, label in ((-0.27, "own", "after its own drop"), (0.0, "last", "after the third drop")):
        right.bar(places + offset, [each[key] for each in bars.values()], 0.26, label=f"lorad, {label}")
    turned = [each.get("in_turn", np.nan) for each in bars.values()]
    right.bar(places + 0.27, turned, 0.26, label="plain, in turn without rehearsal")
    right.set_xticks(places, list(bars), rotation=20)
    right.set(ylabel="entity F1 (names), accuracy (ratings)", ylim=(0, 1.2))
    right.legend(loc="upper right", fontsize="small")
    figure.tight_layout()
    report.RESULTS.mkdir(exist_ok=True)
    figure.savefig(report.RESULTS / "labels.png", dpi=120)


def _kept(arms: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return how well each set was answered after its own drop and after the third."""
    found: dict[str, dict[str, float]] = {}
    for arm, order, key in (("ner", NAMES, "f1"), ("sentiment", DOMAINS, "accuracy")):
        lessons = arms[arm]["lessons"]
        for name in order:
            found[name] = {
                "own": lessons[name]["asked"][name][key],
                "last": lessons[order[-1]]["asked"][name][key],
            }
    for name in NAMES:
        found[name]["in_turn"] = max(
            arms["ner_plain"][kind]["in_turn"][-1][name] for kind in ("lora", "full")
        )
    return found


def tables(arms: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    lines = ["## Aims", "", "| aim | found | met |", "|---|---|---|"]
    lines += [f"| {aim} | {told} | {'yes' if met else '**no**'} |" for aim, told, met in aims(found)]
    lines += ["", "## Rows", "", "| set | trained | asked |", "|---|---|---|"]
    for arm in ("ner", "sentiment", "spam", "levels"):
        lines += [f"| {name} | {counts[0]} | {counts[1]} |" for name, counts in arms[arm]["counts"].items()]
    for arm, order, key in (("ner", NAMES, "f1"), ("sentiment", DOMAINS, "accuracy")):
        lines += [
            "",
            f"## {arm}: {key} on what is asked, by drop",
            "",
            "| after | " + " | ".join(order) + " |",
        ]
        lines += ["|---" * (1 + len(order)) + "|"]
        for name in order:
            asked = arms[arm]["lessons"][name]["asked"]
            cells = " | ".join(f"{asked[each][key]:.4f}" if each in asked else "" for each in order)
            lines.append(f"| {name} | {cells} |")
    return lines


def rounded(found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: (round(value, 1 if "second" in name else 4) if isinstance(value, float) else value)
        for name, value in found.items()
    }


def run_arm(arm: str) -> dict[str, Any]:
    known: dict[str, Callable[[], dict[str, Any]]] = {
        "ner": ner,
        "ner_plain": ner_plain,
        "sentiment": sentiment,
        "sentiment_plain": sentiment_plain,
        "spam": spam,
        "spam_plain": spam_plain,
        "levels": levels,
        "levels_plain": levels_plain,
        "lcr": lcr,
        "speed": speed,
    }
    return known[arm]()


def hurry() -> None:
    globals()["quick"] = True


def forget(names: Sequence[str]) -> None:
    for name in names:
        shutil.rmtree(report.CACHE / f"labels_{name}{'_quick' * quick}", ignore_errors=True)


def main() -> None:
    hardware.quieten()
    arms = report.arms(__file__, ARMS, run_arm, forget, hurry)
    if set(arms) != set(ARMS):
        print(json.dumps(arms, indent=2))
        return
    found = {
        **ner_figures(arms["ner"], arms["ner_plain"]),
        **sentiment_figures(arms["sentiment"], arms["sentiment_plain"]),
        **other_figures(arms),
        **learning_figures(arms),
    }
    for aim, told, met in aims(found):
        print("met   " if met else "MISSED", aim, told)
    if not quick:
        plot(arms)
        report.save("labels", rounded(found), (__doc__ or "").splitlines(), tables=tables(arms, found))


if __name__ == "__main__":
    main()
