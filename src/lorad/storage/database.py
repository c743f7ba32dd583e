"""The SQLite file that the ledger and the memory share.

One file, so that a drop's acceptance (its rows in memory, its job in the queue) is one transaction. WAL,
full synchronisation: a committed transaction survives a power cut.
"""

import contextlib
import json
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lorad.errors import ConfigError, LoradError, RegistryError, TransientError
from lorad.records import Example
from lorad.storage.fault_points import step

#: Results that a later try may not meet: a full disk, short memory, somebody else who writes.
PASSING = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
}

#: Those of them that only say that somebody else writes.
BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

#: Results that blame the reader's rights: SQLite writes beside a database even to read it.
DENIED = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}

#: The database holds everybody's words.
MODE = 0o600

#: Seconds to wait for somebody else who writes.
PATIENCE = 30

#: Seconds after which a reader does not wait any longer for a transaction of another thread of this process.
OTHERS_PATIENCE = 0.05

#: Each entry is applied once, in order; ``PRAGMA user_version`` counts them. Never edit one that was released.
MIGRATIONS = (
    """
    CREATE TABLE drops (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, track TEXT NOT NULL, state TEXT NOT NULL,
        digest TEXT NOT NULL DEFAULT '', rows INTEGER NOT NULL DEFAULT 0,
        taken_at REAL NOT NULL, ended_at REAL, reason TEXT NOT NULL DEFAULT '{}'
    );
    CREATE TABLE jobs (
        id INTEGER PRIMARY KEY, track TEXT NOT NULL, dataset TEXT NOT NULL, state TEXT NOT NULL,
        kind TEXT NOT NULL DEFAULT 'learn', created_at REAL NOT NULL, started_at REAL, ended_at REAL,
        attempts INTEGER NOT NULL DEFAULT 0, force INTEGER NOT NULL DEFAULT 0,
        settings TEXT NOT NULL DEFAULT '{}', version TEXT, reason TEXT NOT NULL DEFAULT '{}'
    );
    CREATE TABLE events (
        id INTEGER PRIMARY KEY, at REAL NOT NULL, name TEXT NOT NULL, data TEXT NOT NULL DEFAULT '{}'
    );
    CREATE TABLE flags (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE examples (
        id TEXT NOT NULL, track TEXT NOT NULL, question_id TEXT NOT NULL, dataset TEXT NOT NULL,
        task TEXT NOT NULL, question TEXT NOT NULL, answer TEXT NOT NULL, line INTEGER NOT NULL DEFAULT 0,
        drop_id INTEGER REFERENCES drops(id), added_at REAL NOT NULL,
        superseded_by TEXT, forgotten_at REAL, learned_in TEXT, recalled INTEGER, recalled_in TEXT,
        PRIMARY KEY (track, id)
    );
    CREATE INDEX examples_by_question ON examples (track, question_id);
    CREATE INDEX examples_by_dataset ON examples (track, dataset);
    """,
    # what was forgotten kept its words at first, here and in two other places
    """
    UPDATE examples SET question = 'null', answer = 'null' WHERE forgotten_at IS NOT NULL;
    UPDATE drops SET reason = json_remove(reason, '$.replaced') WHERE reason LIKE '%"replaced"%';
    UPDATE events SET data = json_remove(data, '$.selector') WHERE name = 'forgotten';
    """,
    # one example may be learned by several versions: once more after a rollback, and the rollback undone
    """
    CREATE TABLE learnings (
        id INTEGER PRIMARY KEY, track TEXT NOT NULL, question_id TEXT NOT NULL, example_id TEXT NOT NULL,
        version TEXT NOT NULL, UNIQUE (track, question_id, version)
    );
    INSERT OR REPLACE INTO learnings (track, question_id, example_id, version)
        SELECT track, question_id, id, learned_in FROM examples WHERE learned_in IS NOT NULL
        ORDER BY CAST(substr(learned_in, 2) AS INTEGER),
            CAST(substr(learned_in, instr(learned_in, '.') + 1) AS INTEGER), superseded_by IS NULL;
    ALTER TABLE examples DROP COLUMN learned_in;
    ALTER TABLE examples DROP COLUMN superseded_by;
    """,
    # one question in several spellings is one now, and a version may have learned two answers to it: those that no
    # longer hold are told. What was forgotten has no words. It keeps its place, and with it the answers that it
    # replaced, so that it replaces no others
    """
    CREATE TABLE asked (track TEXT, id TEXT, was TEXT NOT NULL, now TEXT NOT NULL, PRIMARY KEY (track, id));
    INSERT INTO asked SELECT track, id, question_id, question_id_of(task, question) FROM examples e
        WHERE forgotten_at IS NULL AND NOT EXISTS (
            SELECT 1 FROM learnings newer
            LEFT JOIN examples by ON by.track = newer.track AND by.id = newer.example_id
            WHERE newer.track = e.track AND newer.question_id = e.question_id
                AND (by.id IS NULL OR by.forgotten_at IS NOT NULL)
                AND newer.id > (
                    SELECT MAX(mine.id) FROM learnings mine
                    WHERE mine.track = e.track AND mine.question_id = e.question_id AND mine.example_id = e.id
                )
        );
    UPDATE examples SET question_id = (
        SELECT now FROM asked WHERE asked.track = examples.track AND asked.id = examples.id
    ) WHERE EXISTS (SELECT 1 FROM asked WHERE asked.track = examples.track AND asked.id = examples.id);
    CREATE TABLE learned (
        id INTEGER PRIMARY KEY, track TEXT NOT NULL, question_id TEXT NOT NULL, example_id TEXT NOT NULL,
        version TEXT NOT NULL, UNIQUE (track, question_id, example_id, version)
    );
    INSERT OR REPLACE INTO learned (id, track, question_id, example_id, version)
        SELECT l.id, l.track, coalesce(now, l.question_id), l.example_id, l.version FROM learnings l
        LEFT JOIN asked ON asked.track = l.track AND asked.id = l.example_id AND asked.was = l.question_id
        ORDER BY l.id;
    INSERT INTO events (at, name, data)
        SELECT CAST(strftime('%s', 'now') AS REAL), 'spellings joined', json_object(
            'track', e.track, 'replaced', COUNT(*), 'datasets', json_group_array(DISTINCT e.dataset)
        ) FROM asked JOIN examples e ON e.track = asked.track AND e.id = asked.id
        WHERE e.id = (
            SELECT example_id FROM learnings l WHERE l.track = e.track AND l.question_id = asked.was
            ORDER BY l.id DESC LIMIT 1
        ) AND e.id != (
            SELECT example_id FROM learned l WHERE l.track = e.track AND l.question_id = asked.now
            ORDER BY l.id DESC LIMIT 1
        ) GROUP BY e.track;
    DROP TABLE learnings;
    ALTER TABLE learned RENAME TO learnings;
    DROP TABLE asked;
    """,
    # a file may go on after it was read, and one may end the daemon that reads it. Sizes, times and numbers of files
    # are larger than SQLite's numbers on some file systems, so they are text
    """
    ALTER TABLE drops ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE drops ADD COLUMN again_of INTEGER;
    ALTER TABLE drops ADD COLUMN read_as TEXT NOT NULL DEFAULT '';
    ALTER TABLE drops ADD COLUMN kept_as TEXT NOT NULL DEFAULT '';
    """,
    # the field's words for states and settings
    """
    UPDATE drops SET state = 'processing' WHERE state = 'taken';
    UPDATE drops SET state = 'duplicate' WHERE state = 'repeated';
    UPDATE events SET name = 'duplicate' WHERE name = 'repeated';
    UPDATE jobs SET reason = json_set(reason, '$.ended_by', 'max_rounds')
        WHERE json_extract(reason, '$.ended_by') = 'ceiling';
    UPDATE jobs SET settings = json_remove(
        json_set(settings, '$.max_rounds', json_extract(settings, '$.max_epochs')), '$.max_epochs'
    ) WHERE json_extract(settings, '$.max_epochs') IS NOT NULL;
    """,
)


class Database:
    """One connection to the home's SQLite file, shared by the threads of one process.

    While one of them changes much at once, the others read what was committed before, by a second one.
    """

    def __init__(self, path: Path | str, *, is_read_only: bool = False) -> None:
        if path != ":memory:" and not is_read_only:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._depth = 0
        self._path = None if is_read_only or path == ":memory:" else Path(path)
        self._reading = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        if path != ":memory:" and not is_read_only:
            _close_to_others(Path(path))
        address = f"{Path(path).absolute().as_uri()}?mode=ro" if is_read_only else path
        try:
            self._connection = sqlite3.connect(
                address, uri=is_read_only, isolation_level=None, check_same_thread=False, timeout=PATIENCE
            )
        except sqlite3.OperationalError as error:
            raise _unreadable(path, error) from error
        self._connection.row_factory = sqlite3.Row
        try:
            if is_read_only:
                self._check_age()
            else:
                self._prepare()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise _unreadable(path, error) from error
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        self._connection.create_function("question_id_of", 2, _question_id, deterministic=True)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("PRAGMA fullfsync=ON")  # macOS: out of the drive's own cache as well
        self._connection.execute("PRAGMA foreign_keys=ON")
        self._connection.execute("PRAGMA secure_delete=ON")  # what is forgotten is overwritten
        self._migrate()

    def _version(self) -> int:
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise RegistryError(
                "the database was written by a newer lorad; upgrade this one", code="newer_database"
            )
        return version

    def _check_age(self) -> None:
        if self._version() < len(MIGRATIONS):
            raise RegistryError(
                "the database was written by an older lorad; it is upgraded by: lorad run",
                code="older_database",
            )

    def _migrate(self) -> None:
        with self.transaction():
            version = self._version()
            for script in MIGRATIONS[version:]:
                for statement in script.split(";"):
                    if statement.strip():
                        with step("statement", statement):
                            self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")

    def empty_log(self) -> None:
        """Write everything into the file itself and empty the log: what was overwritten still stands there.

        Raise ``TransientError`` while somebody else reads, or where there is no room.
        """
        with self._lock:
            self._connection.execute("PRAGMA busy_timeout=0")  # whoever waits holds everybody up
            try:
                with step("empty log"):
                    is_busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            except sqlite3.OperationalError as error:
                raise _later(error) from error
            finally:
                self._connection.execute(f"PRAGMA busy_timeout={PATIENCE * 1000}")
        if is_busy:
            raise TransientError("another process is reading the database", code="locked")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything inside or nothing; nests into the outermost one."""
        with self._lock:
            if not self._depth:
                self._begin()
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if not self._depth:
                    self._roll_back()
                raise
            self._depth -= 1
            if not self._depth:
                self._commit()

    def _begin(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise _later(error) from error

    def _commit(self) -> None:
        try:
            with step("commit"):
                self._connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, sqlite3.OperationalError):
                raise _later(error) from error
            raise

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # SQLite has done it itself when the disk was full
            self._connection.execute("ROLLBACK")

    def run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Execute one statement, in a transaction of its own unless one is open."""
        with self.transaction():
            try:
                with step("statement", statement):
                    return self._connection.execute(statement, values)
            except sqlite3.OperationalError as error:
                raise _later(error) from error

    def run_many(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Execute one statement for every row, all or none."""
        with self.transaction():
            try:
                with step("statement", statement):
                    self._connection.executemany(statement, rows)
            except sqlite3.OperationalError as error:
                raise _later(error) from error

    def prove_writable(self) -> None:
        """Write what is there once more; raise ``TransientError`` where that cannot be done."""
        self.run(f"PRAGMA user_version={len(MIGRATIONS)}")

    def rows(
        self, query: str, *values: Any, is_enough: Callable[[sqlite3.Row], bool] | None = None
    ) -> list[sqlite3.Row]:
        """Return all rows of a query, or those up to the one that ``is_enough``.

        Of another thread's transaction nothing is seen, if that takes long.
        """
        with self._free_connection() as connection:
            try:
                found = connection.execute(query, values)
                return found.fetchall() if is_enough is None else _up_to(is_enough, found)
            except sqlite3.OperationalError as error:
                if _result(error) in PASSING | DENIED:
                    raise _later(error) from error
                raise

    @contextlib.contextmanager
    def _free_connection(self) -> Iterator[sqlite3.Connection]:
        if self._lock.acquire(timeout=-1 if self._path is None else OTHERS_PATIENCE):
            try:
                yield self._connection
            finally:
                self._lock.release()
            return
        with self._reading:
            yield self._second()

    def _second(self) -> sqlite3.Connection:
        if self._reader is None:
            assert self._path is not None  # noqa: S101 - what has no path waits for ever
            self._reader = sqlite3.connect(
                f"{self._path.absolute().as_uri()}?mode=ro",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=PATIENCE,
            )
            self._reader.row_factory = sqlite3.Row
        return self._reader

    def state(self) -> tuple[int, ...]:
        """Return what is another as soon as anything was written, by this process or another one."""
        with self._free_connection() as connection:
            by_others = connection.execute("PRAGMA data_version").fetchone()[0]
            return id(connection), by_others, connection.total_changes

    def close(self) -> None:
        """Close the connections."""
        with self._lock, self._reading:
            self._connection.close()
            if self._reader is not None:
                self._reader.close()


def _up_to(is_enough: Callable[[sqlite3.Row], bool], found: sqlite3.Cursor) -> list[sqlite3.Row]:
    rows = []
    with contextlib.closing(found):  # what is not read must not keep the database from changes
        for row in found:
            rows.append(row)
            if is_enough(row):
                break
    return rows


def _close_to_others(path: Path) -> None:
    """Let the file and what SQLite writes beside it be its owner's alone, whatever the umask.

    SQLite gives what it makes beside a database the mode of the database.
    """
    with contextlib.suppress(OSError):  # what cannot be opened, opening it says
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, MODE))
    for suffix in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(OSError):  # it is not there, or another user's
            descriptor = os.open(f"{path}{suffix}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & MODE)
            finally:
                os.close(descriptor)


def _question_id(task: str, question: str) -> str:
    """Return what an example's question is known by; for a migration, which has the words alone."""
    return Example(task=task, input=json.loads(question), target=None).input_id


def _later(error: sqlite3.Error) -> TransientError:
    if _result(error) in BUSY:
        return TransientError(f"the database is busy: {error}", code="locked")
    return TransientError(f"the database could not be written: {error}; lorad will retry", code="disk")


def _result(error: sqlite3.Error) -> int:
    """Return SQLite's result without what extends it; 0 for what Python itself has raised."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_read_only(path: Path) -> bool:
    """Tell whether the system has made the whole file system read-only, which rights do not show."""
    with contextlib.suppress(OSError):
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    return False


def _unreadable(path: Path | str, error: sqlite3.DatabaseError) -> LoradError:
    result = _result(error)
    if result in PASSING or (result in DENIED and _is_read_only(Path(path).parent)):
        return _later(error)  # nothing is wrong with what the file holds
    if result in DENIED and not Path(path).is_dir():
        return ConfigError(
            f"no permission to open {path} ({error}); SQLite creates files beside it even for reading, so run this "
            f"as its owner: ls -l {path}",
            code="no_access",
        )
    return RegistryError(
        f"{path} is not a lorad database ({error}); move it away and restart; the files in inbox/done can be "
        "dropped again",
        code="database_damaged",
    )
