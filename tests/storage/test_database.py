"""The SQLite file: all or nothing, one version of its tables, third-party errors as ours."""

import contextlib
import json
import resource
import sqlite3
import threading

import pytest

from lorad.errors import ConfigError, RegistryError, TransientError
from lorad.records import Example
from lorad.storage.database import Database
from lorad.storage.ledger import Ledger
from lorad.storage.memory import Memory
from lorad.storage.migrations import MIGRATIONS

ADD = "INSERT INTO flags VALUES (?, ?)"


@contextlib.contextmanager
def files_of_at_most(size):
    """Let every write beyond this size fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def flags(database):
    return [row["name"] for row in database.rows("SELECT name FROM flags ORDER BY name")]


# transactions


def test_what_is_written_is_there(database):
    cursor = database.run(ADD, "a", "1")

    assert cursor.rowcount == 1
    assert [tuple(row) for row in database.rows("SELECT * FROM flags WHERE name = ?", "a")] == [("a", "1")]


def test_a_transaction_is_all_or_nothing(database):
    def fail_half_way():
        with database.transaction():
            database.run(ADD, "a", "1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()

    assert flags(database) == []


def test_a_transaction_inside_another_is_part_of_it(database):
    def fail_after_the_inner_one():
        with database.transaction():
            with database.transaction():
                database.run(ADD, "a", "1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_the_inner_one()

    assert flags(database) == []


def test_after_a_failed_transaction_comes_a_good_one(database):
    def say_it_twice():
        with database.transaction():
            database.run(ADD, "a", "1")
            database.run(ADD, "a", "2")

    with pytest.raises(sqlite3.IntegrityError):
        say_it_twice()

    with database.transaction():
        database.run(ADD, "b", "1")

    assert flags(database) == ["b"]


def test_many_rows_are_all_or_none(database):
    with pytest.raises(sqlite3.IntegrityError):
        database.run_many(ADD, [("a", "1"), ("b", "1"), ("a", "2")])

    assert flags(database) == []


def test_threads_take_turns(database):
    # Given threads that each count up, reading and writing in one transaction
    database.run(ADD, "count", "0")

    def count():
        for _ in range(50):
            with database.transaction():
                now = int(database.rows("SELECT value FROM flags")[0]["value"])
                database.run("UPDATE flags SET value = ?", str(now + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert database.rows("SELECT value FROM flags")[0]["value"] == "200"


# on disk


def test_the_file_is_made_and_kept(tmp_path):
    # Given a folder that does not exist yet
    path = tmp_path / "models" / "lorad.sqlite3"
    first = Database(path)
    first.run(ADD, "a", "1")
    first.close()

    again = Database(path)

    assert flags(again) == ["a"]
    assert again.rows("PRAGMA user_version")[0][0] == len(MIGRATIONS)
    again.close()


def test_a_commit_survives_a_power_cut(tmp_path):
    database = Database(tmp_path / "a.sqlite3")

    assert database.rows("PRAGMA journal_mode")[0][0] == "wal"
    assert database.rows("PRAGMA synchronous")[0][0] == 2  # FULL
    assert database.rows("PRAGMA fullfsync")[0][0] == 1
    assert database.rows("PRAGMA foreign_keys")[0][0] == 1
    database.close()


def test_what_was_not_committed_is_not_there_after_a_kill(tmp_path):
    # Given a process that is killed inside a transaction: its connection is gone, nobody rolled back
    path = tmp_path / "a.sqlite3"
    killed = Database(path)
    killed.run(ADD, "a", "1")
    killed.rows("BEGIN IMMEDIATE")
    killed.rows("INSERT INTO flags VALUES ('b', '1')")
    killed.close()

    again = Database(path)

    assert flags(again) == ["a"]
    again.close()


def an_older_one(path, version):
    """Return a connection to a database as it was after so many migrations."""
    older = sqlite3.connect(path)
    for script in MIGRATIONS[:version]:
        older.executescript(script)
    older.execute(f"PRAGMA user_version={version}")
    return older


def test_words_that_an_older_lorad_kept_of_the_forgotten_go(tmp_path):
    # Given the first form of the database, with a forgotten example and what was told of it
    path = tmp_path / "a.sqlite3"
    older = an_older_one(path, 1)
    reason = '{"new": 1, "replacing": 1, "replaced": [{"question": "q?", "answer": "zyzzyva"}]}'
    older.execute(
        "INSERT INTO drops (name, track, state, taken_at, reason) VALUES ('a', 't', 'accepted', 1, ?)",
        [reason],
    )
    columns = "(id, track, question_id, dataset, task, question, answer, added_at, forgotten_at)"
    for name, at in (("old", 5.0), ("kept", None)):
        values = [name, "t", name, "d", "chat", '"q?"', '"zyzzyva"' if at else '"moss"', 1.0, at]
        older.execute(f"INSERT INTO examples {columns} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    event = '{"track": "t", "selector": "zyzzyva", "examples": 1}'
    older.execute("INSERT INTO events (at, name, data) VALUES (1, 'forgotten', ?)", [event])
    older.commit()
    older.close()

    database = Database(path)
    database.empty_log()

    assert b"zyzzyva" not in path.read_bytes()
    assert database.rows("SELECT reason FROM drops")[0][0] == '{"new":1,"replacing":1}'
    assert database.rows("SELECT data FROM events")[0][0] == '{"track":"t","examples":1}'
    kept = database.rows("SELECT question, answer FROM examples WHERE forgotten_at IS NULL")
    assert [tuple(row) for row in kept] == [('"q?"', '"moss"')]
    database.close()


def test_what_an_older_lorad_wrote_of_learning_is_kept(tmp_path):
    # Given the second form of the database: an answer that the tenth version replaced, and one that nobody learned
    path = tmp_path / "a.sqlite3"
    older = an_older_one(path, 2)
    columns = "(id, track, question_id, dataset, task, question, answer, added_at, learned_in, superseded_by)"
    for name, asked, version, newer in (
        ("new", "q", "v0.10", None),
        ("old", "q", "v0.9", "new"),
        ("waits", "r", None, None),
    ):
        values = [name, "t", asked, "d", "chat", '"?"', '"!"', 1.0, version, newer]
        older.execute(f"INSERT INTO examples {columns} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    older.commit()
    older.close()

    database = Database(path)

    found = database.rows("SELECT track, example_id, version FROM learnings ORDER BY id")
    assert [tuple(row) for row in found] == [("t", "old", "v0.9"), ("t", "new", "v0.10")]
    asked = Example(task="chat", input="?", target="!").input_id
    assert [row[0] for row in database.rows("SELECT DISTINCT question_id FROM learnings")] == [asked]
    assert len(database.rows("SELECT * FROM examples")) == 3
    database.close()


def a_home_before_normal_forms(path):
    """Return a database of the third form: one question in two spellings, forgotten once, and a text to tag."""
    older = an_older_one(path, 3)
    columns = "(id, track, question_id, dataset, task, question, answer, added_at, forgotten_at)"
    for name, asked, task, question, gone in (
        ("lower", "q1", "chat", '[{"role": "user", "content": "where is it?"}]', None),
        ("upper", "q2", "chat", '[{"role": "user", "content": "Where is  it?"}]', None),
        ("gone", "q2", "chat", "null", 5.0),
        ("alone", "q3", "chat", "null", 5.0),
        ("text", "q4", "tagging", '"Where is  it?"', None),
    ):
        values = [name, "t", asked, "d", task, question, '"a"', 1.0, gone]
        older.execute(f"INSERT INTO examples {columns} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
    for asked, name, version in (
        ("q1", "lower", "v0.1"),
        ("q2", "gone", "v0.1"),
        ("q2", "upper", "v0.2"),
        ("q1", "lower", "v0.2"),
        ("q3", "alone", "v0.2"),
    ):
        older.execute(
            "INSERT INTO learnings (track, question_id, example_id, version) VALUES ('t', ?, ?, ?)",
            (asked, name, version),
        )
    older.commit()
    older.close()


def test_case_21_questions_of_an_older_home_get_their_normal_form(tmp_path):
    path = tmp_path / "a.sqlite3"
    a_home_before_normal_forms(path)

    database = Database(path)

    now = Example(task="chat", input=[{"role": "user", "content": "Where is it?"}], target="").input_id
    text = Example(task="tagging", input="Where is  it?", target="").input_id
    found = {row["id"]: row["question_id"] for row in database.rows("SELECT id, question_id FROM examples")}
    assert found == {"lower": now, "upper": now, "gone": "q2", "alone": "q3", "text": text}
    learned = database.rows("SELECT question_id, example_id, version FROM learnings ORDER BY id")
    assert [tuple(row) for row in learned] == [
        (now, "lower", "v0.1"),
        ("q2", "gone", "v0.1"),
        (now, "upper", "v0.2"),
        (now, "lower", "v0.2"),
        ("q3", "alone", "v0.2"),
    ]
    assert database.rows("SELECT 1 FROM sqlite_master WHERE name IN ('asked', 'learned')") == []
    database.close()


def an_older_home(path, *told):
    """Return a home of the third form that learned these in this order: question, answer, and whether it was forgotten."""
    older = an_older_one(path, 3)
    examples = []
    for number, (question, answer, is_forgotten) in enumerate(told, 1):
        asked = [{"role": "user", "content": question}]
        example = Example(task="chat", input=asked, target=answer, dataset=f"d{number}")
        kept = ("null", "null", 9.0) if is_forgotten else (json.dumps(asked), json.dumps(answer), None)
        older.execute(
            "INSERT INTO examples (id, track, question_id, dataset, task, added_at, question, answer, forgotten_at)"
            " VALUES (?, 't', ?, ?, 'chat', 1, ?, ?, ?)",
            (example.id, question, f"d{number}", *kept),
        )
        older.execute(
            "INSERT INTO learnings (track, question_id, example_id, version) VALUES ('t', ?, ?, ?)",
            (question, example.id, f"v0.{number}"),
        )
        examples.append(example)
    older.commit()
    older.close()
    return examples


def answers(memory, last):
    return [item.example.target for item in memory.learned([f"v0.{n}" for n in range(1, last + 1)])]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
def test_case_21_what_was_forgotten_replaces_what_it_replaced_and_nothing_else(tmp_path, order):
    # Given a question in one spelling, and in another one whose newer answer was forgotten, learned in any order
    told = [("Why so?", "kept", False), ("why so?", "replaced", False), ("why so?", "gone", True)]
    path = tmp_path / "a.sqlite3"
    an_older_home(path, *(told[place] for place in order))

    database = Database(path)
    memory = Memory(database, "t")

    assert answers(memory, 3) == ["kept"]
    assert [example.target for example in memory.all()] == ["kept"]
    assert len(memory.page()) == 1
    assert [event["name"] for event in Ledger(database).events()] == []
    database.close()


def test_case_21_a_forgotten_question_that_comes_again_is_learned_anew(tmp_path):
    path = tmp_path / "a.sqlite3"
    told = [("Why so?", "kept", False), ("why so?", "replaced", False), ("why so?", "gone", True)]
    *_, gone = an_older_home(path, *told)
    database = Database(path)
    memory = Memory(database, "t")
    drop = Ledger(database).take("a.json", "t", 1.0).id

    intake = memory.add([gone], drop, 2.0)

    assert (intake.new, [example.target for example in intake.replacing]) == (1, ["kept"])
    memory.mark_learned([gone.ids], "v0.4")
    assert answers(memory, 4) == ["gone"]
    database.close()


def test_case_21_an_answer_that_another_spelling_replaces_is_told(tmp_path):
    path = tmp_path / "a.sqlite3"
    an_older_home(path, ("Why so?", "older", False), ("why so?", "newer", False), ("Else?", "other", False))

    database = Database(path)

    assert answers(Memory(database, "t"), 3) == ["newer", "other"]
    (event,) = Ledger(database).events()
    assert event["name"] == "spellings joined"
    assert (event["track"], event["replaced"], event["datasets"]) == ("t", 1, ["d1"])
    database.close()


def test_case_21_a_waiting_drop_has_one_answer_to_a_question(tmp_path):
    path = tmp_path / "a.sqlite3"
    older = an_older_one(path, 3)
    older.execute("INSERT INTO drops (id, name, track, state, taken_at) VALUES (1, 'a', 't', 'accepted', 1)")
    for line, question in enumerate(("Why so?", "Else?", "why so?"), 1):
        older.execute(
            "INSERT INTO examples (id, track, question_id, dataset, task, added_at, question, answer, line, drop_id)"
            " VALUES (?1, 't', ?1, 'd', 'chat', 1, ?2, '\"!\"', ?3, 1)",
            (question, json.dumps([{"role": "user", "content": question}]), line),
        )
    older.commit()
    older.close()

    database = Database(path)

    assert [example.line for example in Memory(database, "t").of_drop("d", 1)] == [2, 3]
    database.close()


def test_case_21_a_migration_that_is_cut_off_leaves_the_older_home(tmp_path):
    path = tmp_path / "a.sqlite3"
    a_home_before_normal_forms(path)
    broken = sqlite3.connect(path)
    broken.execute("UPDATE examples SET question = '{' WHERE id = 'upper'")  # not JSON: the function raises
    broken.commit()

    with pytest.raises((RegistryError, TransientError)):
        Database(path)

    assert broken.execute("PRAGMA user_version").fetchone() == (3,)
    assert broken.execute("SELECT question_id FROM examples WHERE id = 'lower'").fetchone() == ("q1",)
    broken.execute("UPDATE examples SET question = ? WHERE id = 'upper'", ['[{"role":"user","content":"x"}]'])
    broken.commit()
    broken.close()
    Database(path).close()


def test_a_database_of_a_newer_lorad_is_not_touched(tmp_path):
    path = tmp_path / "a.sqlite3"
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    newer.close()

    with pytest.raises(RegistryError) as caught:
        Database(path)

    assert caught.value.code == "newer_database"
    unchanged = sqlite3.connect(path)
    assert unchanged.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (0,)
    unchanged.close()


@pytest.mark.parametrize("kind", ["text", "folder"])
def test_what_is_not_a_database_is_refused_in_a_sentence(tmp_path, kind):
    path = tmp_path / "a.sqlite3"
    if kind == "text":
        path.write_bytes(b"this was never a database, and is long enough to be read as one" * 100)
    else:
        path.mkdir()

    with pytest.raises(RegistryError, match="not a lorad database") as caught:
        Database(path)

    assert caught.value.code == "database_damaged"


@pytest.mark.parametrize("is_read_only", [True, False])
def test_a_database_that_one_may_not_open_is_not_called_damaged(tmp_path, is_read_only):
    # Given what SQLite cannot write beside it; rights do not stop root, a folder in the way does
    path = tmp_path / "a.sqlite3"
    Database(path).close()
    (tmp_path / "a.sqlite3-wal").mkdir()

    with pytest.raises(ConfigError, match="no permission to open") as caught:
        Database(path, is_read_only=is_read_only)

    assert caught.value.code == "no_access"


# what may pass


def test_a_database_that_another_process_writes_to_is_tried_again_later(tmp_path):
    # Given another connection in the middle of its transaction
    path = tmp_path / "a.sqlite3"
    ours, theirs = Database(path), Database(path)
    ours.rows("PRAGMA busy_timeout=1")

    with theirs.transaction():
        theirs.run(ADD, "theirs", "1")
        with pytest.raises(TransientError) as caught:
            ours.run(ADD, "ours", "1")

    assert caught.value.code == "locked"
    ours.run(ADD, "ours", "1")
    assert flags(ours) == ["ours", "theirs"]
    ours.close()
    theirs.close()


def test_a_full_disk_is_tried_again_later(tmp_path):
    # Given a database that may not grow
    database = Database(tmp_path / "a.sqlite3")
    database.rows(f"PRAGMA max_page_count={database.rows('PRAGMA page_count')[0][0]}")

    def grow():
        with database.transaction():
            database.run(ADD, "small", "1")
            database.run(ADD, "large", "1" * 1_000_000)

    with pytest.raises(TransientError) as caught:
        grow()

    assert caught.value.code == "disk"
    assert flags(database) == []
    database.close()


def test_a_disk_that_is_full_only_at_the_commit_is_tried_again_later(tmp_path):
    # Given a row that fits in memory, and a disk that has no room for it
    path = tmp_path / "a.sqlite3"
    database = Database(path)

    with (
        pytest.raises(TransientError) as caught,
        files_of_at_most(path.with_name("a.sqlite3-wal").stat().st_size),
    ):
        database.run(ADD, "a", "1" * 100_000)

    # Then the row is not there, and once there is room it can be
    assert caught.value.code == "disk"
    assert flags(database) == []
    database.run(ADD, "a", "1" * 100_000)
    assert flags(database) == ["a"]
    database.close()


# readers beside a long transaction


def test_a10_whoever_asks_while_much_is_written_is_told_what_was_committed_before(tmp_path):
    # Given a thread that is in the middle of a long transaction, as while a large file is accepted
    database = Database(tmp_path / "lorad.sqlite3")
    database.run(ADD, "before", "1")
    began, may_end = threading.Event(), threading.Event()

    def write():
        with database.transaction():
            database.run(ADD, "meanwhile", "1")
            began.set()
            may_end.wait(60)

    writer = threading.Thread(target=write)
    writer.start()
    began.wait(60)
    try:
        # Then another one reads at once what was there before, and its own thread what it wrote itself
        assert flags(database) == ["before"]
        state = database.state()
    finally:
        may_end.set()
        writer.join()
    assert flags(database) == ["before", "meanwhile"]
    assert database.state() != state
    database.empty_log()  # nothing of the reader's keeps it
    database.close()
