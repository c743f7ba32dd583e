"""What an embedder and a reranker said in earlier sessions is not computed again."""

import errno

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


def opened(path, embedder=None, reranker=None, *, vectors="float32", odds="float32"):
    return Remembered(path, embedder or Counting(), reranker or Lengths(), vectors=vectors, odds=odds)


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
    first = Remembered(path, embedder, None, vectors="float32", odds="float32")
    first.embedder.embed(["one"])
    first.keep()

    again = Remembered(path, embedder, None, vectors="float32", odds="float32")
    again.embedder.embed(["one"])
    assert again.reranker is None
    assert embedder.asked == ["one"]


def kept(path):
    """Keep one vector and one comparison."""
    first = opened(path)
    first.embedder.embed(["one"])
    first.reranker.score("who?", ["one"])
    first.keep()


def asked(path, embedder=None, reranker=None, **precisions):
    """Ask for the same again; return what of it was computed."""
    embedder, reranker = embedder or Counting(), reranker or Lengths()
    again = opened(path, embedder, reranker, **precisions)
    again.embedder.embed(["one"])
    again.reranker.score("who?", ["one"])
    return len(embedder.asked), len(reranker.asked)


@pytest.mark.parametrize("change", ["vectors", "odds", "embedder", "reranker", "library"])
def test_what_another_one_said_is_not_believed(path, change, monkeypatch):
    kept(path)
    assert asked(path) == (0, 0)
    embedder, reranker, precisions = Counting(), Lengths(), {}
    if change in {"vectors", "odds"}:
        precisions[change] = "bfloat16"
    elif change == "library":
        monkeypatch.setattr(remembered.transformers, "__version__", "0.1")
    else:
        (embedder if change == "embedder" else reranker).fingerprint = "another"

    assert asked(path, embedder, reranker, **precisions) == (1, 1)


@pytest.mark.parametrize(
    "change", ["damaged", "gone", "no file of its kind", "of another width", "not finite"]
)
def test_a_file_that_says_nothing_sound_is_not_believed(path, change, monkeypatch):
    kept(path)
    if change == "damaged":
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.write_bytes(data)
    elif change == "gone":
        path.unlink()
    elif change == "no file of its kind":
        path.write_bytes(b"not at all")
    else:
        strange = opened(path)
        vector = np.full(strange.embedder.dimension, np.nan, dtype=np.float32)
        keys = list(strange.embedder.known)
        strange.embedder.known.update(dict.fromkeys(keys, vector))
        if change == "of another width":
            strange.embedder.known.clear()
            strange.embedder.known.update({key[:-1]: vector for key in keys})
            monkeypatch.setattr(remembered, "DIGEST", remembered.DIGEST - 1)
            strange.reranker.known = {key[:-1]: odds for key, odds in strange.reranker.known.items()}
        strange.keep()
        monkeypatch.undo()

    assert asked(path) == (1, 1)


def test_what_was_not_used_for_longest_goes_first(path, monkeypatch):
    monkeypatch.setattr(remembered, "MOST_TEXTS", 2)
    monkeypatch.setattr(remembered, "MOST_PAIRS", 2)
    first = opened(path)
    first.embedder.embed(["one", "two", "three"])
    first.embedder.embed(["one"])
    first.reranker.score("who?", ["one", "two", "three"])
    first.reranker.score("who?", ["one"])
    first.keep()

    embedder, reranker = Counting(), Lengths()
    again = opened(path, embedder, reranker)
    again.embedder.embed(["one", "three", "two"])
    again.reranker.score("who?", ["one", "three", "two"])

    assert embedder.asked == ["two"]
    assert reranker.asked == [("who?", "two")]


def test_long_vectors_are_fewer(path, monkeypatch):
    monkeypatch.setattr(remembered, "MOST_BYTES", 4 * FakeEmbedder().dimension)
    first = opened(path)
    first.embedder.embed(["one", "two"])
    first.keep()

    assert list(opened(path).embedder.known) == [remembered._key("two")]


def test_what_was_forgotten_while_a_session_ran_does_not_come_back(path):
    kept(path)
    running = opened(path)
    running.embedder.embed(["another"])
    files.remove(path.parent)
    running.keep()

    assert not path.exists()


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), MemoryError(), RuntimeError("can't allocate memory")],
)
def test_what_cannot_be_kept_costs_time_alone(path, monkeypatch, error):
    def fails(place, *_, **__):
        with files.passing_errors(f"writing {place}"):
            raise error

    kept(path)
    before = path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(remembered.files, "write_bytes", fails)

    opened(path).keep()

    assert path.read_bytes() == before
