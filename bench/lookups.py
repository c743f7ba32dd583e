"""Which taught example a question is answered with, in one process: index, reranker and thresholds, no model that generates.

    python bench/lookups.py [campus] [harbour] [public]

What `wordings.py` finds through the daemon in an hour comes out here in minutes, to the last digit where the version recalls
what it was taught: thresholds are fitted as the daemon fits them. `campus` and `public` are the bench's own questions, so
what is tried out belongs on `harbour`. Prints figures, and keeps every question that went wrong in the cache.
"""

import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import report
import wordings
from lorad.config import Settings
from lorad.evaluation import facts
from lorad.models import embedders, hardware
from lorad.records import AnswerThresholds, Example
from lorad.retrieval import answering, rerankers
from lorad.retrieval.answering import Reply
from lorad.retrieval.finding import Finding, VersionFinder
from lorad.retrieval.index import Index
from lorad.storage.database import Database
from lorad.storage.ledger import Ledger
from lorad.storage.memory import Memory
from lorad.training.threshold_fitting import ThresholdFitting

Facts = Sequence[tuple[str, str]]
"""Questions and answers."""
LINEAGE = ["v0.1"]


class Taught:
    """Datasets that a version has learned, and how it answers."""

    def __init__(self, encoder: Path, sets: Iterable[tuple[str, Facts]]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lookups-")
        database = Database(Path(self._folder.name) / "lorad.sqlite3")
        memory, ledger = Memory(database, "chat"), Ledger(database)
        known: list[Example] = []
        for name, pairs in sets:
            examples = [
                Example(
                    task="chat",
                    input=[{"role": "user", "content": question}],
                    target=answer,
                    dataset=name,
                    line=line,
                )
                for line, (question, answer) in enumerate(pairs, start=1)
            ]
            memory.add(examples, ledger.take(f"{name}.json", "chat", 1.0).id, 1.0)
            memory.mark_learned([example.ids for example in examples], LINEAGE[0])
            known += examples
        index = Index(database, "chat", memory, embedders.load_encoder(encoder), None)
        while index.step():
            pass
        finding = Finding(index, rerankers.load(encoder, hardware.machine("cpu").precision))
        fitting = ThresholdFitting(finding, LINEAGE, known, Settings().answering.max_false_share)
        while fitting.step():
            pass
        thresholds = fitting.result()
        assert thresholds is not None, "scores do not tell taught from untaught questions"
        self.thresholds: AnswerThresholds = thresholds
        self._finder = VersionFinder(finding, LINEAGE, {})

    def ask(self, question: str | list[dict[str, str]]) -> Reply:
        messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
        return answering.reply(messages, self._finder, self.thresholds, unknown_words="?")

    def asked(
        self, name: str, asked: Iterable[tuple[str, str, str]], slots: frozenset[facts.Slot]
    ) -> list[Any]:
        """Ask (wording, trained question, answer) each; print shares, and return what went wrong."""
        wrong, modes, count = [], list[str](), 0
        for wording, question, answer in asked:
            reply = self.ask(wording)
            text = reply.text if reply.mode == "stored" else reply.rests_on and reply.rests_on.target
            count += 1
            modes.append(reply.mode)
            if reply.mode == "unknown" or not facts.has_fact(question, answer, str(text or ""), slots):
                source = reply.sources[0].question if reply.sources else None
                wrong.append({"asked": wording, "wanted": question, "mode": reply.mode, "source": source})
        right = 1 - len(wrong) / count
        print(f"{name}: {right:.4f} of {count} right, {modes.count('unknown')} refused", flush=True)
        return wrong

    def untaught(self, name: str, questions: Iterable[str]) -> list[Any]:
        """Ask what was never taught; print the share that is not refused, and return it."""
        replies = [(question, self.ask(question)) for question in questions]
        false = [
            {"asked": question, "mode": reply.mode} for question, reply in replies if reply.mode != "unknown"
        ]
        print(f"{name}, untaught: {len(false) / len(replies):.4f} of {len(replies)} answered", flush=True)
        return false


def campus(encoder: Path) -> list[Any]:
    _, questions, slots = wordings.campus()
    taught = Taught(
        encoder,
        [
            (name, [(row["instruction"], row["response"]) for row in wordings.rows(path)])
            for name, path in wordings.campus_sets()
        ],
    )
    wrong = [
        each
        for kind in ("reworded", "other")
        for each in taught.asked(f"campus, {kind}", questions[kind], slots)
    ]
    wrong += taught.untaught(
        "campus", (row["instruction"] for row in wordings.rows(wordings.DATA / "untaught.json"))
    )
    ordinary = [taught.ask(row["messages"]).mode for row in wordings.rows(wordings.DATA / "ordinary.json")]
    print(f"ordinary prompts looked up: {sum(mode != 'weights' for mode in ordinary)} of {len(ordinary)}")
    return wrong


def harbour(encoder: Path) -> list[Any]:
    rows = wordings.rows(wordings.DATA / "harbour.json")
    pairs = [(row["instruction"], row["response"]) for row in rows]
    taught, slots = Taught(encoder, [("harbour", pairs)]), facts.all_slots(pairs)
    by_answer = {answer: question for question, answer in pairs}
    wrong: list[Any] = []
    for kind in ("reworded", "paraphrases"):
        asked = [
            (row["instruction"], by_answer[row["response"]], row["response"])
            for row in wordings.rows(wordings.DATA / f"harbour.{kind}.json")
        ]
        wrong += taught.asked(f"harbour, {kind}", asked, slots)
    untaught = (row["instruction"] for row in wordings.rows(wordings.DATA / "harbour.untaught.json"))
    return wrong + taught.untaught("harbour", untaught)


def public(encoder: Path) -> list[Any]:
    known = wordings.public_facts()
    pairs = {name: [(fact.question, fact.answer) for fact in found] for name, found in known.items()}
    taught = Taught(encoder, pairs.items())
    slots = facts.all_slots(pair for each in pairs.values() for pair in each)
    wrong: list[Any] = []
    for name, found in known.items():
        asked = [(fact.paraphrase, fact.question, fact.answer) for fact in found]
        wrong += taught.asked(f"public, {name}", asked, slots)
    return wrong


def main() -> None:
    hardware.quieten()
    ways = {"campus": campus, "harbour": harbour, "public": public}
    report.add_base(report.CACHE / "lookups", "minilm")
    encoder = report.CACHE / "lookups" / "models" / "base" / "minilm"
    wrong = {name: ways[name](encoder) for name in sys.argv[1:] or ways}
    (report.CACHE / "lookups.json").write_text(json.dumps(wrong, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
