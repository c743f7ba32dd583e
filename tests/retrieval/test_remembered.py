"""What an embedder and a reranker said in earlier sessions is not computed again."""

import numpy as np
import pytest
from fake_embedder import FakeEmbedder

from lorad.retrieval import remembered
from lorad.retrieval.odds import Odds
from lorad.retrieval.remembered import Remembered
from lorad.storage import files


class Counting(FakeEmbedder):
    """Notes what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def embed(self, texts):
        self.asked += texts
        return super().embed(texts)


class Lengths:
    """A reranker that goes by how long texts are, and notes what it was asked."""

    fingerprint = "lengths"

    def __init__(self):
        self.asked = []

    def score(self, question, texts):
        self.asked += [(question, text) for text in texts]
        return [Odds(float(len(text)), float(len(question))) for text in texts]


def opened(path, embedder=None, reranker=None, precision="float32"):
    return Remembered(path, embedder or Counting(), reranker or Lengths(), precision)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kept" / remembered.FILE


def test_nothing_is_computed_twice_and_the_next_session_knows_it(path):
    embedder, reranker = Counting(), Lengths()
    first = opened(path, embedder, reranker)
    vectors = first.embedder.embed(["one", "two", "one"])
    odds = first.reranker.score("who?", ["one", "seven", "one"])
    first.keep()

    assert embedder.asked == ["one", "two"]
    assert np.array_equal(vectors, FakeEmbedder().embed(["one", "two", "one"]))
    assert odds == [Odds(3, 4), Odds(5, 4), Odds(3, 4)]

    later_embedder, later_reranker = Counting(), Lengths()
    later = opened(path, later_embedder, later_reranker)
    assert np.array_equal(later.embedder.embed(["two", "three", "one"])[[0, 2]], vectors[[1, 0]])
    assert later.reranker.score("who?", ["seven", "one"]) == odds[1:]
    assert later.reranker.score("whose?", ["one"]) == [Odds(3, 6)]
    assert later_embedder.asked == ["three"]
    assert later_reranker.asked == [("whose?", "one")]


def test_where_question_and_text_meet_counts():
    assert remembered._key("ab", "c") != remembered._key("a", "bc")


def test_without_a_reranker_vectors_are_remembered(path):
    embedder = Counting()
    first = Remembered(path, embedder, None, "float32")
    first.embedder.embed(["one"])
    first.keep()

    again = Remembered(path, embedder, None, "float32")
    again.embedder.embed(["one"])
    assert again.reranker is None
    assert embedder.asked == ["one"]


@pytest.mark.parametrize("change", ["precision", "reranker", "damage", "gone"])
def test_what_another_one_said_or_a_damaged_file_is_not_believed(path, change):
    first = opened(path)
    first.embedder.embed(["one"])
    first.keep()
    reranker = Lengths()
    if change == "reranker":
        reranker.fingerprint = "another"
    elif change == "damage":
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.write_bytes(data)
    elif change == "gone":
        path.unlink()

    embedder = Counting()
    opened(path, embedder, reranker, "bfloat16" if change == "precision" else "float32").embedder.embed(
        ["one"]
    )

    assert embedder.asked == ["one"]


def test_what_was_not_used_for_longest_goes_first(path, monkeypatch):
    monkeypatch.setattr(remembered, "MOST_TEXTS", 2)
    first = opened(path)
    first.embedder.embed(["one", "two", "three"])
    first.embedder.embed(["one"])
    first.keep()

    embedder = Counting()
    opened(path, embedder).embedder.embed(["one", "three", "two"])

    assert embedder.asked == ["two"]


def test_a_full_disk_costs_time_alone_and_only_its_owner_reads_the_file(path, monkeypatch):
    first = opened(path)
    first.embedder.embed(["one"])
    first.keep()
    assert path.stat().st_mode & 0o077 == 0

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_bytes", full)
    opened(path).keep()
