"""Vectors and words of examples: kept together, found, and gone when they are forgotten."""

import contextlib
import itertools

import numpy as np
import pytest

from lorad.records import Example
from lorad.storage import fault_points
from lorad.storage.database import Database
from lorad.storage.embeddings import Embeddings
from lorad.storage.ledger import Ledger
from lorad.storage.memory import Memory


@pytest.fixture
def stored(database):
    return Embeddings(database, "chat")


def an_example(asked, answer="By the river.", dataset="mills"):
    return Example(
        task="chat", input=[{"role": "user", "content": asked}], target=answer, dataset=dataset, line=1
    )


MILL, FORD = an_example("Where is the mill?"), an_example("Where is the ford?", "Below it.", "fords")
MOVED = an_example("Where is the mill?", "On the hill.", "news")


def accept(database, *examples, track="chat", version=None):
    drop = Ledger(database).take("a.json", track, 1.0).id
    memory = Memory(database, track)
    memory.add(examples, drop, 1.0)
    if version:
        memory.mark_learned([example.ids for example in examples], version)


def put(stored, *examples, embedder="one", seed=0):
    """Embed examples with random vectors, which are returned."""
    made = np.random.default_rng(seed).standard_normal((len(examples), 4)).astype(np.float32)
    stored.put(
        embedder,
        [
            (example.id, f"{example.input[-1]['content']} {example.target}", vector)
            for example, vector in zip(examples, made, strict=True)
        ],
    )
    return made


def test_what_is_not_embedded_is_pending_in_order_of_arrival(database, stored):
    accept(database, MILL, FORD)
    accept(database, an_example("Where is the inn?"), track="other")

    assert [e.id for e in stored.pending("one", 9)] == [MILL.id, FORD.id]
    assert [e.id for e in stored.pending("one", 1)] == [MILL.id]
    put(stored, MILL)
    assert [e.id for e in stored.pending("one", 9)] == [FORD.id]
    assert [e.id for e in stored.pending("two", 9)] == [MILL.id, FORD.id]


def test_what_is_forgotten_is_not_pending_until_it_comes_again(database, memory, stored):
    accept(database, MILL, FORD)
    put(stored, MILL, FORD)

    memory.forget("mills", 2.0)

    assert stored.pending("one", 9) == []
    assert list(stored.numbers("one")) == [FORD.id]
    accept(database, MILL)
    assert [e.id for e in stored.pending("one", 9)] == [MILL.id]


def test_only_what_every_version_has_replaced_is_left_out(database, memory, stored):
    # Given an answer that one version learned, and another one in its place
    accept(database, MILL, version="v0.1")
    accept(database, MOVED, version="v0.2")

    assert [e.id for e in stored.pending("one", 9)] == [MILL.id, MOVED.id]  # after a rollback the first holds
    memory.mark_learned([MOVED.ids], "v0.1")
    assert [e.id for e in stored.pending("one", 9)] == [MOVED.id]


def test_vectors_come_back_in_order(database, stored):
    accept(database, MILL, FORD)
    assert stored.all("one")[1].shape == (0, 0)
    made = put(stored, MILL, FORD)

    numbers, vectors = stored.all("one")

    assert list(numbers) == [MILL.id, FORD.id]
    assert np.abs(vectors - made).max() < 2e-3
    assert numbers == stored.numbers("one")
    rest, _ = stored.all("one", after=numbers[MILL.id])
    assert list(rest) == [FORD.id]
    assert stored.numbers("two") == {}


def test_another_embedder_replaces_what_the_first_made(database, stored):
    accept(database, MILL, FORD)
    put(stored, MILL, FORD)
    before = stored.signature()

    made = put(stored, MILL, embedder="two", seed=1)

    assert list(stored.numbers("one")) == [FORD.id]
    assert np.abs(stored.all("two")[1] - made).max() < 2e-3
    assert stored.count_matching("mill") == 1
    assert stored.signature().removals > before.removals


def test_what_was_forgotten_while_it_was_embedded_does_not_come_back(database, memory, stored):
    accept(database, MILL, FORD)
    memory.forget("mills", 2.0)

    put(stored, MILL, FORD)

    assert list(stored.numbers("one")) == [FORD.id]
    assert stored.matching("mill", 9) == []


@pytest.mark.parametrize("number", range(7))
def test_a_crash_at_any_write_leaves_the_whole_or_nothing(database, stored, number):
    # Given an example that another embedder has embedded, and one that none has
    accept(database, MILL, FORD)
    put(stored, MILL, embedder="two")
    before = stored.signature()
    steps = itertools.count()

    def killer(name, place):
        if next(steps) == number:
            raise KeyboardInterrupt(f"{name} {place}")
        return contextlib.nullcontext()

    with contextlib.suppress(KeyboardInterrupt), fault_points.guarded(killer):
        put(stored, MILL, FORD)

    is_done = next(steps) <= number
    assert list(stored.numbers("one")) == [MILL.id, FORD.id] * is_done
    assert list(stored.numbers("two")) == [MILL.id] * (not is_done)
    assert (stored.count_matching("mill"), stored.count_matching("ford")) == (1, int(is_done))
    assert (stored.signature() == before) == (not is_done)
    assert is_done == (number == 6)


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("sqlite_ioerr", True),
        ("SQLITE_IOERR", True),
        ("sqlite", False),
        ("ioerr", False),
        ("sqlite_ioerr_read", False),
        ("sqlite ioerr", False),
        ("42p01", True),
        ("42", False),
        ("the error", True),
        ("error the", False),
        ("", False),
        ("___", False),
        ("\0", False),
        ("\ud800", False),
        ('" OR NOT "', False),
        ('"', False),
        ("error*", True),
        ("words: error", False),
        ("^", False),
        ("NEAR(the error)", False),
        ("e" * 100_000, False),
    ],
)
def test_words_are_found_whole_whatever_is_asked(database, stored, word, found):
    accept(database, MILL)
    stored.put("one", [(MILL.id, "see the error SQLITE_IOERR or 42P01 \0 \ud800", np.ones(4))])

    assert stored.matching(word, 9) == [MILL.id] * found
    assert stored.count_matching(word) == int(found)


def test_only_the_own_track_is_searched(database, stored):
    other = Embeddings(database, "other")
    accept(database, MILL, FORD)
    accept(database, MILL, track="other")
    put(stored, MILL, FORD)
    put(other, MILL)

    assert other.matching("where", 9) == [MILL.id]
    assert (stored.count_matching("where"), stored.count_matching("where", 1)) == (2, 1)
    other.remove([MILL.id])
    assert stored.matching("mill", 9) == [MILL.id]
    assert stored.words([MILL.id, FORD.id])[FORD.id] == ["Where", "is", "the", "ford?", "Below", "it."]


def test_the_signature_changes_with_what_a_search_sees(database, memory, stored):
    told = [stored.signature()]

    def is_new():
        told.append(stored.signature())
        return told[-1] not in told[:-1]

    accept(database, MILL, FORD)
    assert is_new()
    put(stored, MILL, FORD)
    assert is_new()
    memory.mark_learned([MILL.ids], "v0.1")
    assert is_new()
    memory.forget("mills", 2.0)
    assert is_new()
    assert told[-1].removals > told[-2].removals
    # and with nothing else
    accept(database, FORD)
    Ledger(database).record_event("woken", 3.0)
    assert not is_new()


@pytest.mark.parametrize("count", [1, 40])
def test_a16_what_is_forgotten_stands_in_no_page_of_the_file(tmp_path, count):
    # Given embedded examples with rare words, some alone and some among others, written in several transactions
    path = tmp_path / "lorad.sqlite3"
    database = Database(path)
    stored = Embeddings(database, "chat")
    kept = [an_example(f"Where is mill {number}?", dataset="kept") for number in range(count)]
    gone = [an_example(f"Who is zyzzyva{number}x?", "A qwyjibo.", "gone") for number in range(count)]
    accept(database, *kept, *gone)
    for example in [*gone, *kept]:
        stored.put("one", [(example.id, f"{example.input[-1]['content']} {example.target}", np.ones(4))])
    database.empty_log()
    assert b"zyzzyva0x" in path.read_bytes()

    assert Memory(database, "chat").forget("gone", 2.0) == count
    database.empty_log()  # as housekeeping does

    held = path.read_bytes()
    assert b"zyzzyva" not in held
    assert b"qwyjibo" not in held
    assert stored.count_matching("mill") == count
    database.close()


def test_words_with_an_underscore_come_back(database, stored):
    accept(database, MILL)
    stored.put("one", [(MILL.id, "sqlite_ioerr is", np.ones(4))])

    assert stored.words([MILL.id]) == {MILL.id: ["sqlite_ioerr", "is"]}
