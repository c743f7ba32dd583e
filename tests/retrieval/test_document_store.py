"""The store: what is added is found once, what changes replaces, what is removed is gone, and no kill costs anything."""

import contextlib
import random

import numpy as np
import pytest
from fake_embedder import FakeEmbedder

from lorad.config import DocumentSettings, SplitSettings
from lorad.errors import ConfigError, SampleError
from lorad.retrieval import document_store
from lorad.retrieval.document_store import DocumentStore
from lorad.storage import fault_points
from lorad.storage.documents import Document, Filter

MILL = Document(
    text="# The mill\n\nIt stands by the river.\n\n# The ford\n\nIt lies below the weir, and carts cross there.\n",
    title="Village",
    name="village.md",
    markup="markdown",
    tags=("village", "water"),
    date="2026-05-01",
)
INN = Document(
    text="Old Hild keeps the inn.\n\nThe inn serves eel pie on Fridays.",
    title="Inn",
    name="inn.txt",
    tags=("village",),
    date="2025-01-31",
)
SPLIT = SplitSettings(min_tokens=0, max_tokens=40, overlap_tokens=0)


@pytest.fixture
def open_store(tmp_path):
    """Open the store of a folder, as after a restart; at the end all are closed."""
    with contextlib.ExitStack() as stack:

        def opened(folder="store", embedder="fake", **given):
            chosen = FakeEmbedder(embedder) if embedder else None
            given = {"split": SPLIT, **given}
            made = DocumentStore(folder and tmp_path / folder, embedder=chosen, **given)
            stack.callback(made.close)
            return made

        yield opened


@pytest.fixture(params=["store", None], ids=["on disk", "in memory"])
def store(request, open_store):
    return open_store(request.param)


def add(store, *documents, **given):
    found = store.add(documents, **given)
    store.finish()
    return dict(found)


def found(store, question, k=10, how=None, **where):
    return [each.chunk.text for each in store.search(question, k, how, Filter(**where))]


@pytest.mark.parametrize("how", ["bm25", "embeddings", "hybrid"])
def test_what_is_added_is_found_by_words_and_by_meaning(store, how):
    assert add(store, MILL, INN) == {"new": 2}

    best = store.search("who keeps the inn", 3, how)[0]

    assert best.chunk.text == "Old Hild keeps the inn.\n\nThe inn serves eel pie on Fridays."
    assert (best.chunk.title, best.chunk.name, best.chunk.heading) == ("Inn", "inn.txt", ())
    assert best.is_relevant
    assert (best.similarity is None) == (how == "bm25")
    assert store.search("carts cross", 1, how)[0].chunk.heading == ("The ford",)


def test_offsets_slice_the_text_that_is_stored(store):
    add(store, MILL, INN)

    for passage in store.search("the mill, the ford and the inn"):
        text = store.tables.text(passage.chunk.document)
        assert text[passage.chunk.start : passage.chunk.end] == passage.chunk.text


def test_both_ways_of_joining_prefer_what_both_find(open_store):
    for fusion in ("rank", "weighted"):
        store = open_store(fusion, settings=DocumentSettings(fusion=fusion))
        add(store, MILL, INN)

        assert found(store, "eel pie on Fridays", 1)[0].startswith("Old Hild")


def test_without_an_embedder_words_find_alone(open_store):
    store = open_store(embedder=None)
    add(store, MILL, INN)

    for how in ("bm25", "hybrid", "embeddings"):
        assert found(store, "weirs", 1, how)[0].startswith("# The ford")  # by its stem
    assert store.left() == 0


def test_a_question_without_words_or_of_function_words_alone_finds_what_there_is(store):
    add(store, MILL)

    assert found(store, "?!", how="bm25") == []
    assert len(found(store, "where is it", how="bm25")) == 2
    assert found(store, 'quote" OR (', how="bm25") == []
    assert len(found(store, "x" * 10_000)) == 2  # by meaning, whatever that is


def test_nothing_relevant_is_marked_so(store):
    add(store, MILL, INN)

    assert not any(each.is_relevant for each in store.search("quarterly turbine revenue"))


# the same and other documents


def test_the_same_text_twice_is_one_and_takes_the_others_place(store):
    add(store, MILL)
    again = Document(text=MILL.text, title="Copy", name="copy.md", markup="markdown", tags=("copy",))

    assert add(store, MILL) == {"known": 1}
    assert add(store, again) == {"same": 1}
    assert store.tables.counts()["chunks"] == 2
    assert len(found(store, "mill", tags=("copy",))) == 2

    original = store.tables.documents("village.md")[0]["id"]
    assert store.remove([original]) == 1
    store.finish()
    assert {each.chunk.name for each in store.search("mill")} == {"copy.md"}


def test_of_several_with_one_text_one_takes_the_others_place(store):
    rows = [Document(text="Grain is ground.", title=name, name=name) for name in ("a", "b", "c")]
    add(store, *rows)

    add(store, Document(text="Bread is baked.", title="a", name="a"))

    assert sorted(found(store, "grain bread")) == ["Bread is baked.", "Grain is ground."]
    assert store.tables.counts()["chunks"] == 2
    store.remove([row["id"] for row in store.tables.documents() if row["title"] == "b"])
    store.finish()
    assert [each.chunk.name for each in store.search("grain", how="bm25")] == ["c"]


def test_a_changed_document_replaces_its_chunks_once_it_is_divided(store):
    add(store, MILL, INN)
    changed = Document(text="The mill has burnt down.", title="Village", name="village.md")

    assert dict(store.add([changed])) == {"replacing": 1}
    assert "It stands by the river." in "".join(found(store, "mill"))  # until then the old one answers
    store.finish()

    assert "It stands by the river." not in "".join(found(store, "mill"))
    assert found(store, "mill", 1) == ["The mill has burnt down."]
    assert store.tables.counts()["documents"] == 2


def test_an_url_makes_a_document_whatever_its_name_is(store):
    first = Document(text="Two pence.", title="Prices", name="a.jsonl", url="https://mill.example/prices")
    second = Document(text="Three pence.", title="New prices", name="b.jsonl", url=first.url)

    assert add(store, first) == {"new": 1}
    assert add(store, second) == {"replacing": 1}
    assert found(store, "pence") == ["Three pence."]


def test_a_change_taken_back_before_it_was_divided_changes_nothing(store):
    add(store, MILL)
    store.add([Document(text="Gone.", title="Village", name="village.md")])

    assert dict(store.add([MILL])) == {"known": 1}
    store.finish()
    assert store.tables.counts()["documents"] == 1
    assert found(store, "mill")


def test_documents_of_one_file_with_one_name_are_all_kept(store):
    rows = [Document(text=f"Fact {number}.", title="Facts", name="facts.jsonl") for number in range(3)]

    assert add(store, *rows) == {"new": 3}
    assert add(store, *rows) == {"known": 3}
    assert len(found(store, "fact")) == 3


def test_what_a_later_reading_of_a_file_lacks_is_removed(store):
    rows = [
        Document(text=f"Fact {number}.", title=f"Facts {number}", name="facts.jsonl") for number in range(3)
    ]
    add(store, *rows, drop=1)

    add(store, *rows[:2], drop=2, earlier=[1])

    assert sorted(found(store, "fact")) == ["Fact 0.", "Fact 1."]


def test_a_drop_that_is_read_twice_says_the_same_twice(store):
    add(store, MILL, drop=1)
    changed = Document(text="The mill has burnt down.", title="Village", name="village.md")

    assert add(store, changed, drop=2) == {"replacing": 1}
    assert add(store, changed, drop=2) == {"replacing": 1}
    assert add(store, changed, drop=3) == {"known": 1}


def test_removed_words_are_found_no_more_and_leave_the_index(store):
    add(store, MILL, INN)

    store.remove([store.tables.documents("Inn")[0]["id"]])

    assert found(store, "eel pie", how="bm25") == []
    assert "Hild" not in "".join(found(store, "Hild"))
    store.finish()
    assert store.tables.meta("unmerged") == "0"
    assert store.remove([99]) == 0


def test_what_somebody_removes_leaves_no_vector_and_no_word_on_the_disk(open_store, tmp_path):
    store = open_store()
    add(store, MILL, INN)
    store.remove([store.tables.documents("Inn")[0]["id"]])
    store.finish()

    (vectors,) = (tmp_path / "store").glob("*.f16")
    assert vectors.stat().st_size == 2 * 64 * 2
    store.close()
    for path in (tmp_path / "store").iterdir():
        assert not any(word in path.read_bytes().lower() for word in (b"hild", b"eel", b"friday"))


@pytest.mark.parametrize("text", ["a\0b", "a\ud800", " \n"])
def test_a_text_that_cannot_be_stored_is_refused_and_nothing_is_added(store, text):
    with pytest.raises(SampleError):
        store.add([INN, Document(text=text, title="t")])

    assert store.tables.counts()["documents"] == 0


# filters


def test_filters_by_document_tag_and_date(store):
    add(store, MILL, INN)
    number = store.tables.documents("Inn")[0]["id"]
    everything = "the mill, the ford and the inn"

    for how in ("bm25", "embeddings", "hybrid"):
        assert len(found(store, everything, how=how, tags=("village",))) == 3
        assert len(found(store, everything, how=how, tags=("village", "water"))) == 2
        assert len(found(store, everything, how=how, documents=(number,))) == 1
        assert len(found(store, everything, how=how, since="2025-02")) == 2
        assert len(found(store, everything, how=how, until="2025")) == 1
        assert found(store, everything, how=how, since="2027") == []


# restarts, damage, kills


def test_a_store_is_there_after_a_restart_and_nothing_is_embedded_again(open_store):
    add(open_store(), MILL, INN)
    again = open_store()

    assert again.left() == 0
    assert found(again, "eel pie", 1)[0].startswith("Old Hild")


def test_a_missing_or_torn_file_of_vectors_is_made_anew(open_store, tmp_path):
    add(open_store(), MILL, INN)
    (file,) = (tmp_path / "store").glob("*.f16")
    whole = file.read_bytes()

    for content in (None, whole[:-3], whole[:5], bytes(len(whole))):
        file.unlink() if content is None else file.write_bytes(content)
        again = open_store()
        assert again.left() > 0
        again.finish()
        vectors = FakeEmbedder().embed(["who keeps the inn"])
        assert again.search("who keeps the inn", 1, "embeddings")[0].chunk.title == "Inn"
        assert np.isfinite(vectors).all()
        assert again.left() == 0


def test_another_embedder_or_another_way_to_divide_does_all_again(open_store, tmp_path):
    add(open_store(), MILL, INN)

    other = open_store(embedder="other")
    assert other.left() > 0
    other.finish()
    assert other.search("who keeps the inn", 1, "embeddings")[0].chunk.title == "Inn"
    assert len(list((tmp_path / "store").glob("*.f16"))) == 1

    sentences = open_store(embedder="other", split=SplitSettings(method="sentence", min_tokens=0))
    sentences.finish()
    assert "Old Hild keeps the inn." in found(sentences, "inn")


def test_many_removals_have_the_vectors_written_anew(open_store, tmp_path, monkeypatch):
    monkeypatch.setattr(document_store, "LEAST_EMPTY", 2)
    store = open_store()
    add(store, MILL, INN, *(Document(text=f"Filler {n}.", title="f", name=f"{n}.txt") for n in range(20)))
    before = sum(path.stat().st_size for path in (tmp_path / "store").glob("*.f16"))

    store.remove([row["id"] for row in store.tables.documents() if row["title"] == "f"])
    store.finish()

    assert sum(path.stat().st_size for path in (tmp_path / "store").glob("*.f16")) < before / 4
    assert found(store, "eel pie", 1, "embeddings")[0].startswith("Old Hild")
    assert found(open_store(), "eel pie", 1, "embeddings")[0].startswith("Old Hild")


def test_200_kills_lose_nothing_and_double_nothing(open_store):
    """Documents are added, then changed, and the process dies 200 times meanwhile."""

    class Killed(BaseException):
        pass

    rng, kills, left = random.Random(7), 0, 0

    def guard(_name, _place):
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        return contextlib.nullcontext()

    def mill(number, said):
        text = f"# Mill {number}\n\nIt has {said}.\n\n# Ford {number}\n\nIt is {number} feet deep."
        return Document(text=text, title=f"d{number}", name=f"{number}.md", markup="markdown")

    store, drop, wanted = open_store(), 0, {}
    while kills < 200:
        drop += 1
        some = [mill(rng.randrange(20), f"{rng.randrange(9)} wheels") for _ in range(3)]
        some = list({each.name: each for each in some}.values())
        wanted |= {each.name: each.text for each in some}
        is_done = False
        while not is_done:
            left = rng.randrange(1, 60)
            try:
                with fault_points.guarded(guard):
                    store.add(some, drop=drop)
                    while store.step(limit=2):
                        pass
                is_done = True
            except Killed:
                kills += 1
                store.close()
                store = open_store()

    rows = store.tables.documents()
    assert {row["name"]: store.tables.text(row["id"]) for row in rows} == wanted
    counts = store.tables.counts()
    assert counts == {"documents": len(wanted), "chunks": 2 * len(wanted), "waiting": 0, "unembedded": 0}
    slots = [slot for slot, _ in store.tables.slots()]
    assert len(slots) == len(set(slots)) == counts["chunks"]
    for name, text in wanted.items():
        number = name.removesuffix(".md")
        best = store.search(f"mill {number} has wheels", 1, "bm25")[0].chunk
        assert best.text in text
        assert found(store, f"# Ford {number}\n\nIt is {number} feet deep.", 1, "embeddings")[0] in text


def test_a_copy_holds_the_same_and_a_folder_is_not_written_over(store, open_store, tmp_path):
    add(store, MILL, INN)

    store.copy_to(tmp_path / "copy")

    copy = open_store("copy")
    assert copy.left() == 0
    for how in ("bm25", "embeddings"):
        assert found(copy, "eel pie", 2, how) == found(store, "eel pie", 2, how)
    with pytest.raises(ConfigError):
        store.copy_to(tmp_path / "copy")


def test_a_sieve_of_many_rows_finds_what_comparing_all_of_them_does(open_store, monkeypatch):
    # Given a store that compares all rows, and one that sieves them first, which grows and loses some
    chance = random.Random(4)
    words = ["eel", "pie", "weir", "cart", "mill", "inn", "ford", "river", "bell", "rope"]
    documents = [
        Document(
            text=" ".join(chance.choices(words, k=12)),
            title="T",
            name=f"{number}.txt",
            tags=("odd",) * (number % 2),
        )
        for number in range(60)
    ]

    def asked(store):
        cases = [(question, where) for question in ("eel pie", "bell ford") for where in ((), ("odd",))]
        return [found(store, question, 3, "embeddings", tags=where) for question, where in cases]

    def filled(folder):
        store = open_store(folder)
        for begin in range(0, 60, 20):
            add(store, *documents[begin : begin + 20])
            asked(store)  # what it has made for that is extended later
        store.remove([3, 4])
        store.finish()
        return store

    plain = filled("plain")
    expected = asked(plain)
    monkeypatch.setattr(document_store, "SIEVED_FROM", 1)
    monkeypatch.setattr(document_store, "SIEVED", 12)
    sieved = filled("sieved")

    assert asked(sieved) == expected
    assert plain._seen.codes is None
    assert sieved._seen.codes.shape[1] == len(sieved._seen.rows)
