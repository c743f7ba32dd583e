"""Memory. Every example that was ever accepted, and what is known of it.

What lives here: the examples of a track in SQLite, which versions learned each, whether the last test found it
recalled. What never does: choosing what to rehearse (``rehearsal``), tokens, models.

``learnings`` says which version learned which answer to a question, and is only ever added to. A version knows what
it and its ancestors (its *lineage*) learned; of several answers to one question the one learned last, which replaced
the others. So neither a rollback nor its undoing needs any bookkeeping here. Where no lineage is given, all versions are meant.
"""

import itertools
import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from lorad import wordings
from lorad.records import Example
from lorad.storage.database import Database
from lorad.storage.embeddings import Embeddings
from lorad.storage.example_rows import FullPage, exported, has_wordings, read_example, wording_lists

#: Examples that are looked up and kept at once; SQLite takes 999 values and more.
_BATCH = 500

#: Examples by their ids, as a list in JSON.
_THESE = "(SELECT value FROM json_each(?2))"

#: Examples whose question has other wordings.
_HAS_WORDINGS = "(also_asked != '[]' OR held_out != '[]')"

#: Every example of the track ?1, seen by the lineage ?2 (JSON; null means all versions): the version that learned it,
#: whether that is one of the lineage, and which answer to its question was learned last. What the lineage did not
#: learn is told as others did.
_SEEN = """
WITH lineage AS (SELECT value FROM json_each(?2)),
seen AS (
    SELECT e.rowid, e.*,
        (SELECT l.version FROM learnings l
            WHERE l.track = e.track AND l.question_id = e.question_id AND l.example_id = e.id
            ORDER BY l.version IN lineage DESC, l.id DESC LIMIT 1) AS learned_in,
        (SELECT l.example_id FROM learnings l
            WHERE l.track = e.track AND l.question_id = e.question_id
            ORDER BY l.version IN lineage DESC, l.id DESC LIMIT 1) AS newest
    FROM examples e WHERE e.track = ?1
)
"""
_IS_LEARNED = "learned_in IS NOT NULL AND (?2 = 'null' OR learned_in IN lineage)"
_IS_REPLACED = "learned_in IS NOT NULL AND newest != id"
_TOLD = f"{_SEEN}, told AS (SELECT *, {_IS_LEARNED} AS is_learned, {_IS_REPLACED} AS is_replaced FROM seen)"
#: Counts by dataset; without the words, which would be copied for every row.
_COUNTED = f"""
{_SEEN},
narrow AS MATERIALIZED (SELECT rowid, id, dataset, recalled, forgotten_at, learned_in, newest FROM seen),
told AS (SELECT *, {_IS_LEARNED} AS is_learned, {_IS_REPLACED} AS is_replaced FROM narrow)
SELECT dataset, COUNT(*) AS examples, SUM(is_learned) AS learned,
    SUM(recalled = 1 AND is_learned AND NOT is_replaced AND forgotten_at IS NULL) AS recalled,
    SUM(is_replaced) AS replaced, SUM(forgotten_at IS NOT NULL) AS forgotten
FROM told GROUP BY dataset ORDER BY MIN(rowid)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddResult:
    """What became of a drop's examples."""

    new: int
    known: int
    """Examples that memory already held, word for word or with the question spelled otherwise."""
    replacing: tuple[Example, ...]
    """Older examples whose question the drop answers differently; they step back once it is learned."""
    wordings: int = 0
    """Other wordings of its questions that memory did not hold before."""
    refused_wordings: int = 0
    """Other wordings, of the drop or held before, that another example in memory asks: they would teach a false fact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """An old example and whether the parent version answered it right."""

    example: Example
    right: bool


class Memory:
    """The accepted examples of one track."""

    def __init__(self, database: Database, track: str) -> None:
        self._db = database
        self._track = track
        self._embeddings = Embeddings(database, track)
        self._counted: tuple[Any, list[dict[str, Any]]] = (None, [])

    def add(
        self,
        examples: Iterable[Example],
        drop_id: int,
        now: float,
        lineage: Sequence[str] | None = None,
        open_drops: Collection[int] | None = None,
    ) -> AddResult:
        """Keep examples; one that is already the newest answer to its question is counted, not stored again.

        The last word is what waits in the newest of the ``open_drops``, else what the ``lineage`` of the version that
        serves knows. So an example is new that only a rolled-back version learned, or nobody, as its session was
        rejected, failed or cancelled; and so is the old answer that takes back a newer one which still waits. Without
        ``open_drops`` whatever no version learned is waiting.

        Other wordings are the question's: they are added to what is known of it, whatever its answer.
        """
        count = kept = added = refused = 0
        is_worded = self._has_wordings()
        asked: set[str] = set()
        replacing: list[Example] = []
        rest = iter(examples)
        with self._db.transaction():
            while read := list(itertools.islice(rest, _BATCH)):  # a drop may have a million
                batch = [self._without_questions(example) for example in read]
                refused += sum(map(wordings.count, read)) - sum(map(wordings.count, batch))
                held = self._answers(batch, lineage, open_drops)
                last = {row["question_id"]: row["answer"] for row in held}
                new = [
                    example for example in batch if last.get(example.input_id) != json.dumps(example.target)
                ]
                mine = {example.input_id: example.id for example in new}
                replacing += [
                    read_example(row) for row in held if mine.get(row["question_id"], row["id"]) != row["id"]
                ]
                added += self._gather_wordings(batch, held, new)
                self._insert(new, drop_id, now)
                if is_worded:
                    asked.update(map(wordings.rough_form, filter(None, map(wordings.question, new))))
                count += len(batch)
                kept += len(new)
            if kept:
                self._embeddings.count_arrival()
            refused += self._refuse_wordings(asked) if asked else 0
        return AddResult(
            new=kept,
            known=count - kept,
            replacing=tuple(replacing),
            wordings=added,
            refused_wordings=refused,
        )

    # -- other wordings

    def _has_wordings(self) -> bool:
        return bool(
            self._db.rows(f"SELECT 1 FROM examples WHERE track = ? AND {_HAS_WORDINGS} LIMIT 1", self._track)
        )

    def _without_questions(self, example: Example) -> Example:
        """Return an example without the wordings that memory holds as a question of another one."""
        if not wordings.count(example):
            return example
        ids = {each: wordings.reworded(example, each).input_id for each in wordings.of(example)}
        query = (
            "SELECT DISTINCT question_id FROM examples"
            " WHERE track = ?1 AND forgotten_at IS NULL AND question_id IN " + _THESE
        )
        rows = self._db.rows(query, self._track, json.dumps(list(ids.values())))
        asked = {str(row["question_id"]) for row in rows}
        return wordings.without(example, {each for each, input_id in ids.items() if input_id in asked})

    def _gather_wordings(
        self, batch: Sequence[Example], held: Sequence[sqlite3.Row], new: list[Example]
    ) -> int:
        """Bring together the wordings of a drop's questions and those that memory holds of them; count what it did not.

        Those of known examples are kept, and those of new ones go into ``new``.
        """
        places = {example.input_id: place for place, example in enumerate(new)}
        last = {str(row["question_id"]): row for row in held}
        again = self._select(f"AND {_HAS_WORDINGS} AND id IN {_THESE}", json.dumps([each.id for each in new]))
        waited = {example.input_id: example for example in again}
        known: list[Example] = []
        added = 0
        for example in batch:
            row = last.get(example.input_id)
            before = read_example(row) if row and (wordings.count(example) or has_wordings(row)) else None
            before = before or waited.get(example.input_id)
            place = places.get(example.input_id)
            if place is not None:
                new[place] = wordings.together(before, example) if before else example
                added += wordings.count(new[place]) - (wordings.count(before) if before else 0)
            elif before:
                both = wordings.with_wordings(before, example.also_asked, example.held_out)
                added += wordings.count(both) - wordings.count(before)
                known += [both] if both != before else []
        self._keep_wordings(known)
        return added

    def _keep_wordings(self, examples: Iterable[Example]) -> None:
        self._db.run_many(
            "UPDATE examples SET also_asked = ?, held_out = ? WHERE track = ? AND id = ?",
            [(*wording_lists(example), self._track, example.id) for example in examples],
        )

    def _refuse_wordings(self, asked: AbstractSet[str]) -> int:
        """Remove from the wordings of all examples what now is another one's question; return how many that were.

        Of a hundred thousand examples only those are looked at closely that have one of the texts ``asked`` (rough forms).
        """
        query = f"SELECT * FROM examples WHERE track = ? AND {_HAS_WORDINGS}"
        refused = 0
        for row in self._db.rows(query, self._track):
            texts = (*json.loads(row["also_asked"]), *json.loads(row["held_out"]))
            if asked.isdisjoint(map(wordings.rough_form, texts)):
                continue
            example = read_example(row)
            kept = self._without_questions(example)
            self._keep_wordings([kept])
            refused += wordings.count(example) - wordings.count(kept)
        return refused

    # -- examples

    def _answers(
        self,
        examples: Sequence[Example],
        lineage: Sequence[str] | None,
        open_drops: Collection[int] | None,
    ) -> list[sqlite3.Row]:
        """Return the answers that hold for these examples' questions, known or waiting, each question's last word last."""
        questions = [example.input_id for example in examples]
        rows = self._seen(
            lineage,
            f"forgotten_at IS NULL AND question_id IN ({','.join('?' * len(questions))})",
            *questions,
        )

        def is_waiting(row: sqlite3.Row) -> bool:
            return row["learned_in"] is None if open_drops is None else row["drop_id"] in open_drops

        waiting = sorted(filter(is_waiting, rows), key=lambda row: int(row["drop_id"]))
        known = [row for row in rows if row["is_learned"] and not row["is_replaced"] and not is_waiting(row)]
        return known + waiting

    def _seen(
        self,
        lineage: Sequence[str] | None,
        condition: str,
        *values: Any,
        limit: int = -1,
        is_enough: Callable[[sqlite3.Row], bool] | None = None,
    ) -> list[sqlite3.Row]:
        query = f"{_TOLD} SELECT * FROM told WHERE {condition} ORDER BY rowid LIMIT {limit}"
        return self._db.rows(query, self._track, json.dumps(lineage), *values, is_enough=is_enough)

    def _insert(self, examples: Sequence[Example], drop_id: int, now: float) -> None:
        """Keep examples; what was forgotten and comes again is learned anew, and nothing older stands in for it."""
        questions = [example.input_id for example in examples]
        self._db.run(
            f"UPDATE OR REPLACE learnings SET example_id = '' WHERE track = ? AND question_id IN ({','.join('?' * len(questions))})"
            " AND EXISTS (SELECT 1 FROM examples e WHERE e.track = learnings.track AND e.id = learnings.example_id"
            " AND e.forgotten_at IS NOT NULL)",
            self._track,
            *questions,
        )
        self._db.run_many(
            "INSERT INTO examples (id, track, question_id, dataset, task, question, answer, line, drop_id, added_at,"
            " also_asked, held_out) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (track, id) DO UPDATE SET"
            " question_id = excluded.question_id, dataset = excluded.dataset, question = excluded.question,"
            " answer = excluded.answer, line = excluded.line, also_asked = excluded.also_asked, held_out = excluded.held_out,"
            " drop_id = excluded.drop_id, recalled = CASE WHEN forgotten_at IS NULL THEN recalled END,"
            " recalled_in = CASE WHEN forgotten_at IS NULL THEN recalled_in END, forgotten_at = NULL",
            (
                (
                    e.id,
                    self._track,
                    e.input_id,
                    e.dataset,
                    e.task,
                    json.dumps(e.input),
                    json.dumps(e.target),
                    e.line,
                    drop_id,
                    now,
                    *wording_lists(e),
                )
                for e in examples
            ),
        )

    def of_drop(self, dataset: str, drop_id: int) -> list[Example]:
        """Return what a drop brought that memory did not hold before, in file order.

        Of each question the last answer: a drop that an older lorad took may hold two in other spellings.
        """
        brought = self._select("AND dataset = ? AND drop_id = ?", dataset, drop_id)
        last = {example.input_id: example.id for example in sorted(brought, key=lambda each: each.line)}
        return [example for example in brought if last[example.input_id] == example.id]

    def learned(self, lineage: Sequence[str], ids: Sequence[str] | None = None) -> list[Recalled]:
        """Return what the version at the head of ``lineage`` must know, with the last test's result; of these ``ids`` alone.

        ``lineage`` lists a version and its ancestors. Left out: what was forgotten on purpose, and what a
        version of the lineage replaced by a newer answer.
        """
        among = () if ids is None else (json.dumps(ids),)
        condition = " AND id IN (SELECT value FROM json_each(?3))" * len(among)
        rows = self._seen(
            lineage, f"is_learned AND NOT is_replaced AND forgotten_at IS NULL{condition}", *among
        )
        return [Recalled(example=read_example(row), right=bool(row["recalled"])) for row in rows]

    def answer(self, input_id: str, lineage: Sequence[str]) -> Recalled | None:
        """Return what a version learned to answer this very question (``Example.input_id``), ``None`` if nothing."""
        rows = self._seen(
            lineage, "question_id = ?3 AND is_learned AND NOT is_replaced AND forgotten_at IS NULL", input_id
        )
        return Recalled(example=read_example(rows[-1]), right=bool(rows[-1]["recalled"])) if rows else None

    def learned_ids(self, lineage: Sequence[str]) -> set[str]:
        """Return the ids of what ``learned`` returns, without reading any words: 0.3 s for 100,000."""
        newest = (
            "SELECT question_id, example_id, MAX(id) FROM learnings"
            " WHERE track = ?1 AND version IN (SELECT value FROM json_each(?2)) GROUP BY question_id"
        )
        query = (
            f"SELECT e.id FROM ({newest}) l JOIN examples e"
            " ON e.track = ?1 AND e.id = l.example_id AND e.question_id = l.question_id WHERE e.forgotten_at IS NULL"
        )
        return {row["id"] for row in self._db.rows(query, self._track, json.dumps(lineage))}

    def all(self, lineage: Sequence[str] | None = None) -> list[Example]:
        """Return every example that is neither replaced nor forgotten."""
        rows = self._seen(lineage, "NOT is_replaced AND forgotten_at IS NULL")
        return [read_example(row) for row in rows]

    def named(self, ids: Sequence[str]) -> list[Example]:
        """Return these examples in this order, the replaced ones too; what was forgotten on purpose is not there."""
        held: dict[str, Example] = {}
        for batch in (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH)):
            found = self._select(f"AND id IN ({','.join('?' * len(batch))})", *batch)
            held |= {example.id: example for example in found}
        return [held[example_id] for example_id in ids if example_id in held]

    def targets(self) -> Iterator[Any]:
        """Yield every different target that is kept, replaced ones too, oldest first: what labels a track knows."""
        query = "SELECT answer FROM examples WHERE track = ? AND forgotten_at IS NULL GROUP BY answer ORDER BY MIN(rowid)"
        for row in self._db.rows(query, self._track):
            yield json.loads(row["answer"])

    def page(
        self,
        dataset: str | None = None,
        after: int = 0,
        limit: int = 1000,
        lineage: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Return examples as rows to export, with where they come from, in order of arrival; fewer where they are long.

        ``after`` is the ``row`` of the last one seen; there are no more behind a page without any. Left out is what was replaced or forgotten. One that cannot be read
        says so under ``unreadable``: the others are wanted all the same.
        """
        held = "forgotten_at IS NULL AND NOT is_replaced AND rowid > ?3 AND (?4 IS NULL OR dataset = ?4)"
        rows = self._seen(lineage, held, after, dataset, limit=limit, is_enough=FullPage())
        return [exported(row) for row in rows]

    def _select(self, condition: str, *values: Any) -> list[Example]:
        query = f"SELECT * FROM examples WHERE track = ? AND forgotten_at IS NULL {condition} ORDER BY rowid"
        return [read_example(row) for row in self._db.rows(query, self._track, *values)]

    def mark_learned(self, learned: Iterable[Sequence[str]], version: str) -> None:
        """Record that a promoted version learned these, ids of example and question each; can be repeated.

        The question's id in an older version's papers is from before questions had a normal form; memory's counts.
        """
        self._db.run_many(
            "INSERT OR IGNORE INTO learnings (track, question_id, example_id, version) VALUES (?1,"
            " coalesce((SELECT question_id FROM examples WHERE track = ?1 AND id = ?3), ?2), ?3, ?4)",
            [(self._track, input_id, example_id, version) for example_id, input_id in learned],
        )

    def record_recall(self, version: str, right: Mapping[str, bool]) -> None:
        """Keep a test's result for every example id."""
        self._db.run_many(
            "UPDATE examples SET recalled = ?, recalled_in = ? WHERE track = ? AND id = ?",
            [(int(answered), version, self._track, example_id) for example_id, answered in right.items()],
        )

    def forget(self, selector: str, now: float) -> int:
        """Remove on purpose what ``meant`` returns, words and all; return how many examples that were.

        What stays of each is that there was one, so that an older answer to its question does not come back.
        """
        gone = self.meant(selector)
        self._remove((example.id for example in gone), now)
        return len(gone)

    def only_in(self, drops: Sequence[int], examples: Iterable[Example]) -> set[str]:
        """Return the ids of what these earlier readings of a file held and ``examples``, its newest, do not."""
        marks = ",".join("?" * len(drops))
        query = f"SELECT id FROM examples WHERE track = ? AND forgotten_at IS NULL AND drop_id IN ({marks})"
        gone = {str(row["id"]) for row in self._db.rows(query, self._track, *drops)}
        for example in examples:
            gone.discard(example.id)
        return gone

    def take_back(self, drops: Sequence[int], ids: Collection[str], now: float) -> None:
        """Remove, words and all, what is ``only_in`` earlier readings of a file.

        A file that went on after it was read may have ended in the middle of an answer.
        """
        self._remove(ids, now)
        marks = ",".join("?" * len(drops))
        self._db.run(  # the file says anew what else its questions are called
            f"UPDATE examples SET also_asked = '[]', held_out = '[]' WHERE track = ? AND drop_id IN ({marks})",
            self._track,
            *drops,
        )

    def _remove(self, ids: Iterable[str], now: float) -> None:
        gone = list(ids)
        with self._db.transaction():
            self._db.run_many(
                "UPDATE examples SET forgotten_at = ?, question = 'null', answer = 'null',"
                " also_asked = '[]', held_out = '[]' WHERE track = ? AND id = ?",
                [(now, self._track, example_id) for example_id in gone],
            )
            self._embeddings.remove(gone)

    def forgotten(self, ids: Collection[str]) -> set[str]:
        """Return those of these examples that were forgotten on purpose and did not come again."""
        query = "SELECT id FROM examples WHERE track = ?1 AND forgotten_at IS NOT NULL AND id IN " + _THESE
        return {str(row["id"]) for row in self._db.rows(query, self._track, json.dumps(sorted(ids)))}

    def learned_in(self, ids: Collection[str]) -> set[str]:
        """Return the versions that learned any of these examples."""
        query = "SELECT DISTINCT version FROM learnings WHERE track = ?1 AND example_id IN " + _THESE
        return {str(row["version"]) for row in self._db.rows(query, self._track, json.dumps(sorted(ids)))}

    def drops_of(self, ids: Collection[str]) -> set[int]:
        """Return the drops that brought any of these examples last."""
        query = "SELECT DISTINCT drop_id FROM examples WHERE track = ?1 AND id IN " + _THESE
        rows = self._db.rows(query, self._track, json.dumps(sorted(ids)))
        return {int(row["drop_id"]) for row in rows if row["drop_id"] is not None}

    def meant(self, selector: str) -> list[Example]:
        """Return a dataset by name, else every example whose question, in any wording, or answer holds the text."""
        if self.has_dataset(selector):
            return self._select("AND dataset = ?", selector)
        if not selector.strip():
            return []
        return [example for example in self._select("") if _holds(example, selector)]

    def has_dataset(self, name: str) -> bool:
        """Tell whether a dataset of this name ever came."""
        query = "SELECT 1 FROM examples WHERE track = ? AND dataset = ? LIMIT 1"
        return bool(self._db.rows(query, self._track, name))

    def datasets(self, lineage: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return one row a dataset: counts of examples, learned, recalled at the last test, replaced, forgotten."""
        seen_by, state = json.dumps(lineage), self._db.state()
        known_for, counts = self._counted
        if known_for != (seen_by, state):  # asked every second, and changed now and then
            rows = self._db.rows(_COUNTED, self._track, seen_by)
            counts = [{name: row[name] or 0 for name in row.keys()} for row in rows]  # noqa: SIM118 - a Row iterates values
            self._counted = (seen_by, state), counts
        return list(counts)


def _holds(example: Example, text: str) -> bool:
    """Tell whether a text stands in an example's own words, not in the names of its parts."""
    parts: list[Any] = [example.input, example.target, *wordings.of(example)]
    while parts:  # not by recursion: an older lorad may have kept what is nested as deep as Python goes
        part = parts.pop()
        if isinstance(part, dict):
            parts += (value for name, value in part.items() if name != "role")
        elif isinstance(part, list):
            parts += part
        elif text in str(part):
            return True
    return False
