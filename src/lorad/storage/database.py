"""The SQLite file that the ledger and the memory share.

One file, so that a drop's acceptance (its rows in memory, its job in the queue) is one transaction. WAL,
full synchronisation: a committed transaction survives a power cut.
"""

import contextlib
import os
import re
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lorad.errors import ConfigError, LoradError, RegistryError, TransientError
from lorad.storage import files
from lorad.storage.fault_points import step
from lorad.storage.migrations import MIGRATIONS, question_id

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
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""What SQLite takes for a text's end, and halves of characters, which it cannot write."""
MODE = 0o600

#: Seconds to wait for somebody else who writes.
PATIENCE = 30

#: Seconds after which a reader does not wait any longer for a transaction of another thread of this process.
OTHERS_PATIENCE = 0.05


class Database:
    """One connection to an SQLite file, the home's for the most part, shared by the threads of one process.

    While one of them changes much at once, the others read what was committed before, by a second one.
    """

    def __init__(
        self, path: Path | str, *, is_read_only: bool = False, migrations: Sequence[str] = MIGRATIONS
    ) -> None:
        """Open a file that has been through these ``migrations``: those of a home, unless others are given."""
        self._migrations = migrations
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
        self._connection.create_function("question_id_of", 2, question_id, deterministic=True)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("PRAGMA fullfsync=ON")  # macOS: out of the drive's own cache as well
        self._connection.execute("PRAGMA foreign_keys=ON")
        self._connection.execute("PRAGMA secure_delete=ON")  # what is forgotten is overwritten
        self._migrate()

    def _version(self) -> int:
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if version > len(self._migrations):
            raise RegistryError(
                "the database was written by a newer lorad; upgrade this one", code="newer_database"
            )
        return version

    def _check_age(self) -> None:
        if self._version() < len(self._migrations):
            raise RegistryError(
                "the database was written by an older lorad; it is upgraded by: lorad run",
                code="older_database",
            )

    def _migrate(self) -> None:
        with self.transaction():
            version = self._version()
            for script in self._migrations[version:]:
                for statement in script.split(";"):
                    if statement.strip():
                        with step("statement", statement):
                            self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version={len(self._migrations)}")

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
        self.run(f"PRAGMA user_version={len(self._migrations)}")

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

    def copy_to(self, path: Path) -> None:
        """Copy the whole database, as it is now, into a new file."""
        files.write_bytes(path, b"", mode=MODE)
        with self._lock, contextlib.closing(sqlite3.connect(path)) as copy, step("copy", path):
            self._connection.backup(copy)
        files.sync(path)

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
