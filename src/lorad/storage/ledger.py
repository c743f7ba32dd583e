"""The ledger. Which files came, which jobs they became, and what happened.

What lives here: drops, jobs, events and flags in SQLite, every state change through ``states.advance``.
What never does: examples (that is ``memory``), files, deciding.
"""

import contextlib
import json
import sqlite3
from collections.abc import Collection
from typing import Any

from lorad.errors import ProtocolError
from lorad.records import Drop, Job
from lorad.states import OPEN_JOBS, DropState, JobState, advance
from lorad.storage.database import Database

EVENTS_KEPT = 2000

_LONGEST_SHOWN = 200

LARGEST = 2**63 - 1
"""The largest number that SQLite knows; nothing has a larger one."""


class Ledger:
    """The record of drops, jobs and events."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self.jobs_begin_at = 1
        """The least number of a new job: a lost database must not give one that a version was made by."""

    def prove_writable(self) -> None:
        """Raise ``TransientError`` if the database cannot be written now; call it before changing what will be recorded."""
        self._db.prove_writable()

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Do several things completely or not at all; memory is in the same database."""
        return self._db.transaction()

    def empty_log(self) -> None:
        """Empty the database's log, where removed words may still stand."""
        self._db.empty_log()

    # -- drops

    def take(self, name: str, track: str, now: float, again_of: int | None = None) -> Drop:
        """Record that a file is taken out of the inbox; the drop's number names its folder in ``processing/``.

        ``again_of`` is the earlier drop of a file that went on after it was read.
        """
        cursor = self._db.run(
            "INSERT INTO drops (name, track, state, taken_at, again_of) VALUES (?, ?, ?, ?, ?)",
            name,
            track,
            DropState.PROCESSING,
            now,
            again_of,
        )
        return self.drop(int(cursor.lastrowid or 0))

    def withdraw(self, drop: Drop) -> None:
        """Forget a drop whose file was not taken after all."""
        self._db.run("DELETE FROM drops WHERE id = ? AND state = ?", drop.id, DropState.PROCESSING)

    def drop(self, drop_id: int) -> Drop:
        """Return one drop; raise ``ProtocolError`` (404) when there is none."""
        rows = self._db.rows("SELECT * FROM drops WHERE id = ?", drop_id) if abs(drop_id) <= LARGEST else []
        if not rows:
            raise ProtocolError(f"there is no drop {drop_id}", status=404, code="no_such_drop")
        return _drop(rows[0])

    def drops(self, *, state: DropState | None = None, limit: int = 100) -> list[Drop]:
        """Return drops, newest first."""
        where, values = ("WHERE state = ?", [state]) if state else ("", [])
        return [
            _drop(row)
            for row in self._db.rows(f"SELECT * FROM drops {where} ORDER BY id DESC LIMIT ?", *values, limit)
        ]

    def drop_names(self, drops: Collection[int]) -> list[str]:
        """Return the files' names of these drops, oldest first."""
        query = "SELECT DISTINCT name FROM drops WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
        return [str(row["name"]) for row in self._db.rows(query, json.dumps(sorted(drops)))]

    def find_content(self, track: str, content: str) -> Drop | None:
        """Return the accepted drop with the same content, if there is one."""
        rows = self._db.rows(
            "SELECT * FROM drops WHERE track = ? AND digest = ? AND state = ? ORDER BY id LIMIT 1",
            track,
            content,
            DropState.ACCEPTED,
        )
        return _drop(rows[0]) if rows else None

    def close_drop(
        self,
        drop: Drop,
        event: str,
        now: float,
        *,
        content: str = "",
        rows: int = 0,
        reason: dict[str, Any] | None = None,
        read_as: str = "",
    ) -> Drop:
        """Move a drop to where ``event`` leads."""
        self._db.run(
            "UPDATE drops SET state = ?, ended_at = ?, digest = ?, rows = ?, reason = ?, read_as = ?, attempts = 0"
            " WHERE id = ?",
            advance(drop.state, event),
            now,
            content,
            rows,
            json.dumps(reason or {}),
            read_as,
            drop.id,
        )
        return self.drop(drop.id)

    def count_attempt(self, drop: Drop, by: int) -> None:
        """Count an attempt to read a file, or take it back (-1) when the daemon survived it."""
        self._db.run("UPDATE drops SET attempts = MAX(0, attempts + ?) WHERE id = ?", by, drop.id)

    def keep(self, drop_id: int, place: str) -> None:
        """Note where a drop's file lies that has ended; an empty place ends the looking."""
        self._db.run("UPDATE drops SET kept_as = ? WHERE id = ?", place, drop_id)

    def kept(self, since: float, limit: int) -> list[Drop]:
        """Return the drops that ended ``since`` then and whose files are still looked at, of the last ``limit``."""
        rows = self._db.rows(
            "SELECT * FROM drops WHERE id > (SELECT MAX(id) FROM drops) - ? AND kept_as != '' AND read_as != ''"
            " AND ended_at >= ?",
            limit,
            since,
        )
        return [_drop(row) for row in rows]

    def origins(self, drop: Drop) -> list[int]:
        """Return the earlier drops of the same file, the newest first."""
        found: list[int] = []
        while drop.again_of is not None and drop.again_of not in found:
            found.append(drop.again_of)
            try:
                drop = self.drop(drop.again_of)
            except ProtocolError:
                break
        return found

    # -- jobs

    def queue(
        self,
        track: str,
        dataset: str,
        now: float,
        *,
        kind: str = "learn",
        settings: dict[str, Any] | None = None,
    ) -> Job:
        """Add a job to the end of the queue."""
        cursor = self._db.run(
            "INSERT INTO jobs (id, track, dataset, state, kind, created_at, settings)"
            " SELECT MAX(?, COALESCE(MAX(id), 0) + 1), ?, ?, ?, ?, ?, ? FROM jobs",
            self.jobs_begin_at,
            track,
            dataset,
            JobState.QUEUED,
            kind,
            now,
            json.dumps(settings or {}),
        )
        return self.job(int(cursor.lastrowid or 0))

    def job(self, job_id: int) -> Job:
        """Return one job; raise ``ProtocolError`` (404) when there is none."""
        rows = self._db.rows("SELECT * FROM jobs WHERE id = ?", job_id) if abs(job_id) <= LARGEST else []
        if not rows:
            raise ProtocolError(
                f"there is no job {job_id}; list them with: lorad jobs", status=404, code="no_such_job"
            )
        return _job(rows[0])

    def jobs(self, *, limit: int = 100) -> list[Job]:
        """Return jobs, newest first."""
        return [_job(row) for row in self._db.rows("SELECT * FROM jobs ORDER BY id DESC LIMIT ?", limit)]

    def is_kind(self, job_id: Any, kind: str) -> bool:
        """Tell whether there is such a job and it is of this kind; what a version's papers name may be anything."""
        try:
            return isinstance(job_id, int) and self.job(job_id).kind == kind
        except ProtocolError:
            return False

    def ended_jobs(self, *, limit: int = 100, track: str | None = None, kind: str | None = None) -> list[Job]:
        """Return the jobs that ended last, of one track or kind if given.

        Which those are, events tell and then numbers, never the clock, which may have been set back.
        """
        rows = self._db.rows(
            "SELECT jobs.* FROM jobs LEFT JOIN"
            " (SELECT json_extract(data, '$.job') AS job, MAX(id) AS newest FROM events GROUP BY 1) ON job = jobs.id"
            " WHERE ended_at IS NOT NULL AND (?1 IS NULL OR track = ?1) AND (?2 IS NULL OR kind = ?2)"
            " ORDER BY COALESCE(newest, 0) DESC, jobs.id DESC LIMIT ?3",
            track,
            kind,
            limit,
        )
        return [_job(row) for row in rows]

    def open_jobs(self) -> list[Job]:
        """Return the jobs that are queued or running, oldest first."""
        marks = ",".join("?" * len(OPEN_JOBS))
        return [
            _job(row)
            for row in self._db.rows(f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY id", *OPEN_JOBS)
        ]

    def move_job(self, job: Job, event: str, now: float, **changes: Any) -> Job:
        """Move a job to where ``event`` leads, with changes to its other columns."""
        state = advance(job.state, event)
        columns: dict[str, Any] = {"state": state, **changes}
        if event == "start":
            columns |= {"started_at": now, "attempts": job.attempts + 1}
        elif state not in OPEN_JOBS:
            columns |= {"ended_at": now}
        elif event in {"retry", "requeue"}:
            columns |= {"started_at": None, "ended_at": None}
        names = ", ".join(f"{name} = ?" for name in columns)
        values = [json.dumps(value) if isinstance(value, dict) else value for value in columns.values()]
        self._db.run(f"UPDATE jobs SET {names} WHERE id = ?", *values, job.id)
        return self.job(job.id)

    # -- events and flags

    def record_event(self, name: str, now: float, **data: Any) -> None:
        """Append an event for the monitor and ``/lorad/events``; only the newest are kept."""
        with self._db.transaction():
            self._db.run(
                "INSERT INTO events (at, name, data) VALUES (?, ?, ?)",
                now,
                name,
                json.dumps(data, default=str),
            )
            self._db.run("DELETE FROM events WHERE id <= (SELECT MAX(id) FROM events) - ?", EVENTS_KEPT)

    def events(self, *, after: int = 0, limit: int = 50) -> list[dict[str, Any]]:
        """Return the newest events after an id, oldest first."""
        rows = self._db.rows("SELECT * FROM events WHERE id > ? ORDER BY id DESC LIMIT ?", after, limit)
        return [
            {"id": row["id"], "at": row["at"], "name": row["name"], **_stored(row["data"])}
            for row in reversed(rows)
        ]

    def flag(self, name: str) -> str:
        """Return a flag's value, or an empty string."""
        rows = self._db.rows("SELECT value FROM flags WHERE name = ?", name)
        return str(rows[0]["value"]) if rows else ""

    def set_flag(self, name: str, value: str) -> None:
        """Set a flag; it survives a restart."""
        self._db.run(
            "INSERT INTO flags VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            name,
            value,
        )


def _stored(text: str) -> dict[str, Any]:
    """Return what a column holds; one that cannot be read, as something else may have written it, is told as it is."""
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    return {"unreadable": str(text)[:_LONGEST_SHOWN]}


def _drop(row: sqlite3.Row) -> Drop:
    return Drop(**{**dict(row), "state": DropState(row["state"]), "reason": _stored(row["reason"])})


def _job(row: sqlite3.Row) -> Job:
    return Job(
        **{
            **dict(row),
            "state": JobState(row["state"]),
            "force": bool(row["force"]),
            "settings": _stored(row["settings"]),
            "reason": _stored(row["reason"]),
        }
    )
