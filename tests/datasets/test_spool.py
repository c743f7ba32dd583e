"""The spool: of each question the latest answer, in order, on disk and not in memory."""

import itertools
import sqlite3
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorad.datasets import spool
from lorad.datasets.spool import Spool
from lorad.errors import TransientError
from lorad.records import Example

PUTS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=12)


@given(PUTS)
def test_it_is_a_dictionary_that_remembers_when_a_question_was_last_asked(puts):
    kept, model = Spool("chat", "mills"), {}

    for line, (question, answer) in enumerate(puts, start=1):
        older = kept.put(question, answer, line)
        before = model.pop(question, None)
        assert (older and (older.target, older.line)) == before
        model[question] = (answer, line)

    expected = [
        Example(task="chat", input=question, target=answer, dataset="mills", line=line)
        for question, (answer, line) in model.items()
    ]
    assert list(kept) == expected == kept[:]
    assert len(kept) == len(model)
    assert [kept[at] for at in range(-len(model), len(model))] == expected * 2


def test_there_is_nothing_beyond_its_ends():
    kept = Spool("chat", "mills")
    kept.put("a", "x", 1)

    for at in (1, -2):
        with pytest.raises(IndexError):
            kept[at]


def test_what_it_says_is_known_whatever_the_order():
    digests = set()
    for order in itertools.permutations("abc"):
        kept = Spool("chat", "mills")
        for line, question in enumerate(order):
            kept.put(question, "x", line)
        digests.add(kept.digest)
    kept.put("a", "y", 9)

    assert len(digests) == 1
    assert kept.digest not in digests


def test_what_is_kept_is_what_json_holds():
    kept = Spool("tagging", "mills")
    question, answer = {"text": "é😀", "n": [1, 2.5, None]}, [[0, 1, "PER"]]

    kept.put(question, answer, 3)

    assert (kept[0].input, kept[0].target) == (question, answer)


def test_case_21_a_question_that_is_only_spelled_otherwise_is_the_same_and_stored_as_given():
    kept = Spool("chat", "mills")
    asked = [[{"role": "user", "content": text}] for text in ("Where is it?", "where  is it? ")]
    kept.put(asked[0], "a", 1)

    older = kept.put(asked[1], "b", 2)

    assert (older.input, older.target) == (asked[0], "a")
    assert [(example.input, example.target) for example in kept] == [(asked[1], "b")]


def test_many_examples_take_no_more_memory_than_a_few():
    kept = Spool("chat", "mills")
    tracemalloc.start()
    try:
        for line in range(20_000):
            kept.put(f"question {line}", "x" * 200, line)
        assert sum(1 for _ in kept) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 500_000


def test_a_full_temporary_folder_is_tried_again_later(monkeypatch):
    class Full:
        def execute(self, *_):
            raise sqlite3.OperationalError("database or disk is full")

        def close(self):
            pass

    monkeypatch.setattr(spool.sqlite3, "connect", lambda *_, **__: Full())

    with pytest.raises(TransientError, match="do not fit into the temporary folder"):
        Spool("chat", "mills")
