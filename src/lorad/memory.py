"""Materials: memory. Every example that was ever accepted, and what is known of it.

What lives here: the examples of a track in SQLite, which version learned each, which was replaced by a
newer answer, whether the last test found it recalled. What never does: choosing what to rehearse
(``rehearsal``), tokens, models.

An example counts as *learned* by a version when the version that learned it is that version or one of its
ancestors. So a rollback needs no bookkeeping here: what only the rolled-back version knew is no longer
expected of anybody.
"""

import itertools
import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorad.database import Database
from lorad.domain import Example, as_message

#: Examples that are looked up and kept at once; SQLite takes 999 values and more.
_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What became of a drop's examples."""

    new: int
    known: int
    """Examples that memory already held, word for word."""
    replacing: tuple[Example, ...]
    """Older examples whose question the drop answers differently; they step back once it is learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """An old example and whether the parent version answered it right."""

    example: Example
    right: bool


class Memory:
    """The accepted examples of every track."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(
        self,
        track: str,
        examples: Iterable[Example],
        drop_id: int,
        now: float,
        lineage: Sequence[str] | None = None,
        open_drops: Collection[int] | None = None,
    ) -> Intake:
        """Keep examples; what is known word for word is counted and not kept twice.

        Given the ``lineage`` of the version that serves, an example that only a version outside it learned
        (it was rolled back) counts as new, so that dropping a file again learns it again. Given the ``open_drops``,
        so does one that no version learned and no job is going to: its session was rejected, failed or cancelled.
        """
        count = kept = 0
        replacing: list[Example] = []
        rest = iter(examples)
        with self._db.transaction():
            while batch := list(itertools.islice(rest, _BATCH)):  # a drop may have a million
                held = self._same_questions(track, batch)
                known = {row["id"] for row in held if _is_known(row, lineage, open_drops)}
                new = [example for example in batch if example.id not in known]
                mine = {example.question_id: example.id for example in new}
                replacing += [
                    _example(row) for row in held if mine.get(row["question_id"], row["id"]) != row["id"]
                ]
                self._insert(track, new, drop_id, now)
                count += len(batch)
                kept += len(new)
        return Intake(new=kept, known=count - kept, replacing=tuple(replacing))

    def _same_questions(self, track: str, examples: Sequence[Example]) -> list[sqlite3.Row]:
        """Return what memory holds of these examples' questions, whatever the answers."""
        questions = [example.question_id for example in examples]
        return self._db.rows(
            "SELECT * FROM examples WHERE track = ? AND forgotten_at IS NULL AND superseded_by IS NULL"
            f" AND question_id IN ({','.join('?' * len(questions))}) ORDER BY rowid",
            track,
            *questions,
        )

    def _insert(self, track: str, examples: Sequence[Example], drop_id: int, now: float) -> None:
        self._db.run_many(
            "INSERT INTO examples (id, track, question_id, dataset, task, question, answer, line, drop_id, added_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (track, id) DO UPDATE SET"
            " dataset = excluded.dataset, question = excluded.question, answer = excluded.answer, line = excluded.line,"
            " drop_id = excluded.drop_id, forgotten_at = NULL, learned_in = NULL, superseded_by = NULL,"
            " recalled = NULL, recalled_in = NULL",
            (
                (
                    e.id,
                    track,
                    e.question_id,
                    e.dataset,
                    e.task,
                    json.dumps(e.question),
                    json.dumps(e.answer),
                    e.line,
                    drop_id,
                    now,
                )
                for e in examples
            ),
        )

    def of_drop(self, track: str, dataset: str, drop_id: int) -> list[Example]:
        """Return what a drop brought that memory did not hold before, in file order."""
        return self._select(track, "AND dataset = ? AND drop_id = ?", dataset, drop_id)

    def learned(self, track: str, lineage: Sequence[str]) -> list[Recalled]:
        """Return what the version at the head of ``lineage`` must know, with the last test's result.

        ``lineage`` lists a version and its ancestors. Left out: what was forgotten on purpose, and what a
        version of the lineage replaced by a newer answer.
        """
        age = {version: number for number, version in enumerate(lineage)}
        rows = self._db.rows(
            "SELECT * FROM examples WHERE track = ? AND learned_in IS NOT NULL ORDER BY rowid", track
        )
        found = [row for row in rows if row["learned_in"] in age]
        newest: dict[str, int] = {}
        for row in found:
            newest[row["question_id"]] = min(newest.get(row["question_id"], len(age)), age[row["learned_in"]])
        return [
            Recalled(example=_example(row), right=bool(row["recalled"]))
            for row in found
            if row["forgotten_at"] is None and age[row["learned_in"]] == newest[row["question_id"]]
        ]

    def all(self, track: str) -> list[Example]:
        """Return every example that is neither replaced nor forgotten."""
        return self._select(track, "AND superseded_by IS NULL")

    def named(self, track: str, ids: Sequence[str]) -> list[Example]:
        """Return these examples in this order, the replaced ones too; what was forgotten on purpose is not there."""
        held: dict[str, Example] = {}
        for batch in (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH)):
            found = self._select(track, f"AND id IN ({','.join('?' * len(batch))})", *batch)
            held |= {example.id: example for example in found}
        return [held[example_id] for example_id in ids if example_id in held]

    def page(
        self, track: str, dataset: str | None = None, after: int = 0, limit: int = 1000
    ) -> list[dict[str, Any]]:
        """Return examples as rows to export, with where they come from, in order of arrival.

        ``after`` is the ``row`` of the last one seen. Left out is what was replaced or forgotten.
        """
        rows = self._db.rows(
            "SELECT rowid, * FROM examples WHERE track = ? AND rowid > ? AND forgotten_at IS NULL"
            " AND superseded_by IS NULL AND (? IS NULL OR dataset = ?) ORDER BY rowid LIMIT ?",
            track,
            after,
            dataset,
            dataset,
            limit,
        )
        return [_exported(row) for row in rows]

    def _select(self, track: str, condition: str, *values: Any) -> list[Example]:
        query = f"SELECT * FROM examples WHERE track = ? AND forgotten_at IS NULL {condition} ORDER BY rowid"
        return [_example(row) for row in self._db.rows(query, track, *values)]

    def mark_learned(self, track: str, learned: Iterable[Sequence[str]], version: str) -> None:
        """Record that a promoted version learned these, ids of example and question each; older answers step back."""
        with self._db.transaction():
            for example_id, question_id in learned:
                self._db.run(
                    "UPDATE examples SET learned_in = ?, superseded_by = NULL WHERE track = ? AND id = ?",
                    version,
                    track,
                    example_id,
                )
                self._db.run(
                    "UPDATE examples SET superseded_by = ? WHERE track = ? AND question_id = ? AND id != ? AND learned_in IS NOT NULL",
                    example_id,
                    track,
                    question_id,
                    example_id,
                )

    def record_recall(self, track: str, version: str, right: Mapping[str, bool]) -> None:
        """Keep a test's result for every example id."""
        self._db.run_many(
            "UPDATE examples SET recalled = ?, recalled_in = ? WHERE track = ? AND id = ?",
            [(int(answered), version, track, example_id) for example_id, answered in right.items()],
        )

    def forget(self, track: str, selector: str, now: float) -> int:
        """Remove on purpose what ``meant`` returns, words and all; return how many examples that were.

        What stays of each is that there was one, so that an older answer to its question does not come back.
        """
        gone = self.meant(track, selector)
        self._db.run_many(
            "UPDATE examples SET forgotten_at = ?, question = 'null', answer = 'null' WHERE track = ? AND id = ?",
            [(now, track, example.id) for example in gone],
        )
        return len(gone)

    def meant(self, track: str, selector: str) -> list[Example]:
        """Return a dataset by name, else every example whose question or answer holds the text."""
        if self.has_dataset(track, selector):
            return self._select(track, "AND dataset = ?", selector)
        if not selector.strip():
            return []
        return [example for example in self._select(track, "") if _holds(example, selector)]

    def has_dataset(self, track: str, name: str) -> bool:
        """Tell whether a dataset of this name ever came."""
        query = "SELECT 1 FROM examples WHERE track = ? AND dataset = ? LIMIT 1"
        return bool(self._db.rows(query, track, name))

    def datasets(self, track: str) -> list[dict[str, Any]]:
        """Return one row a dataset: counts of examples, learned, recalled at the last test, replaced, forgotten."""
        rows = self._db.rows(
            "SELECT dataset, COUNT(*) AS examples, SUM(learned_in IS NOT NULL) AS learned,"
            " SUM(recalled = 1 AND superseded_by IS NULL AND forgotten_at IS NULL) AS recalled,"
            " SUM(superseded_by IS NOT NULL) AS replaced, SUM(forgotten_at IS NOT NULL) AS forgotten"
            " FROM examples WHERE track = ? GROUP BY dataset ORDER BY MIN(rowid)",
            track,
        )
        return [{key: row[key] or 0 if key != "dataset" else row[key] for key in row.keys()} for row in rows]  # noqa: SIM118 - a Row iterates values


def _is_known(row: sqlite3.Row, lineage: Sequence[str] | None, open_drops: Collection[int] | None) -> bool:
    if row["learned_in"] is None:
        return open_drops is None or row["drop_id"] in open_drops
    return lineage is None or row["learned_in"] in lineage


def _exported(row: sqlite3.Row) -> dict[str, Any]:
    example = _example(row)
    provenance = ("line", "added_at", "learned_in", "recalled", "recalled_in")
    tools = [message["content"] for message in example.question if message["role"] == "tools"]
    asked = [message for message in example.question if message["role"] != "tools"]
    return {
        "messages": [*asked, {"role": "assistant", **as_message(example.answer)}],
        **({"tools": json.loads(tools[0])} if tools else {}),
        "dataset": example.dataset,
        "provenance": {"row": row["rowid"], **{name: row[name] for name in provenance}},
    }


def _example(row: sqlite3.Row) -> Example:
    return Example(
        task=row["task"],
        question=json.loads(row["question"]),
        answer=json.loads(row["answer"]),
        dataset=row["dataset"],
        line=row["line"],
    )


def _holds(example: Example, text: str) -> bool:
    """Tell whether a text stands in an example's own words, not in the names of its parts."""

    def within(value: Any) -> bool:
        if isinstance(value, dict):
            return any(within(part) for name, part in value.items() if name != "role")
        return any(map(within, value)) if isinstance(value, list) else text in str(value)

    return within(example.question) or within(example.answer)
