"""Versions in a program of one's own: loaded as the daemon loads them, or refused as it refuses them."""

import shutil

import pytest
import tiny
import tiny_encoder
from home import Track

from lorad import library
from lorad.config import SplitSettings
from lorad.errors import ConfigError, ProtocolError, RegistryError
from lorad.evaluation import metrics
from lorad.storage import files
from lorad.storage.documents import Document


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Track(tmp_path_factory.mktemp("home"))


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made.root, tmp_path / "home", symlinks=True)


def test_a_version_answers_what_it_learned(made):
    loaded = library.load(home=made.root)

    assert (loaded.track, loaded.version, loaded.differs) == ("chat", "v0.1", ())
    for fact in tiny.facts(3, "doors"):
        assert loaded.answer(fact.input) == fact.target
    asked = tiny.facts(1, "doors")[0]
    assert loaded.answer(asked.input[-1]["content"], max_tokens=8) == asked.target
    assert loaded.answer("Which colour is the door of Arlo? " * 20)  # as long as the context is, by default
    with pytest.raises(ProtocolError, match="ask for at most"):
        loaded.answer(asked.input, max_tokens=512)


def test_latest_of_every_track_is_loaded_and_a_base_only_once(root):
    # Given a second track with the same base and versions, and one that has learned nothing
    shutil.copytree(root / "models" / "chat", root / "models" / "law", symlinks=True)
    tracks = {name: {"task": "chat", "base": "smollm2"} for name in ("chat", "law", "tax")}
    files.write_json(root / "configs" / "three.yaml", {"tracks": tracks})

    loaded = library.load_all(home=root, config="three")

    assert loaded.keys() == {"chat", "law"}
    assert loaded["chat"].tokenizer is loaded["law"].tokenizer
    fact = tiny.facts(1, "doors")[0]
    assert [each.answer(fact.input) for each in loaded.values()] == [fact.target] * 2


@pytest.mark.parametrize("name", ["adapter_model.safetensors", metrics.PROBES, "manifest.json"])
def test_what_is_not_what_was_promoted_is_refused_and_nothing_is_changed(root, name):
    path = root / "models" / "chat" / "versions" / "v0.1" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    tracker = (root / "models" / "chat" / "checkpoint_tracker.json").read_bytes()

    with pytest.raises(RegistryError) as caught:
        library.load(home=root)

    assert caught.value.is_damage
    assert (root / "models" / "chat" / "checkpoint_tracker.json").read_bytes() == tracker


def test_another_environment_is_told_or_refused(root, monkeypatch):
    monkeypatch.setattr(library.loader, "environment", lambda *_: {"torch": "9.9"})

    assert "torch was" in library.load(home=root).differs[0]
    with pytest.raises(RegistryError, match="another environment"):
        library.load(home=root, strict=True)


def test_what_is_not_there_is_told(made):
    with pytest.raises(ConfigError, match="no track 'law'; known: chat"):
        library.load("law", home=made.root)
    with pytest.raises(RegistryError, match=r"v0\.9"):
        library.load(version="v0.9", home=made.root)


# documents


MANUAL = "# The mill\n\nIt stands by the river.\n\n# The ford\n\nCarts cross below the weir.\n"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    return tiny_encoder.store(folder / "source", folder / "encoder")


def test_a_store_is_filled_searched_saved_and_loaded(tmp_path, encoder):
    (tmp_path / "mill.md").write_text(MANUAL)
    told = []
    with library.DocumentStore(embedder=encoder, split=SplitSettings(min_tokens=0)) as store:
        counts = store.add_documents([tmp_path / "mill.md", "The inn serves eel pie."], told.append)
        assert counts == {"new": 2}
        assert told[-1] == 0
        assert store.counts == {"documents": 2, "chunks": 3, "waiting": 0, "unembedded": 0}
        (best,) = store.search("carts cross", 1, "bm25")
        assert store.text(best.chunk.document)[best.chunk.start : best.chunk.end] == best.chunk.text
        assert len(store.search("carts cross", 3, "embeddings")) == 3
        store.save(tmp_path / "saved")

    with library.DocumentStore.load(
        tmp_path / "saved", embedder=encoder, split=SplitSettings(min_tokens=0)
    ) as again:
        assert again.search("carts cross", 1, "bm25")[0].chunk.heading == ("The ford",)
        assert again.add_documents([tmp_path / "mill.md"]) == {"known": 1}
        assert again.remove(best.chunk.document) == 1
    with pytest.raises(ConfigError, match="no store"):
        library.DocumentStore.load(tmp_path)


@pytest.mark.parametrize("split", ["paragraph", "sentence", "chunk", "semantic"])
def test_a_store_divides_as_it_is_told(split):
    with library.DocumentStore(split=split) as store:
        store.add_documents([Document(text=MANUAL, title="t", markup="markdown")])

        assert store.search("weir", 1)[0].chunk.text in MANUAL


def test_an_answer_is_asked_with_passages_and_cites_them(made):
    loaded = library.load(home=made.root)
    with library.DocumentStore(split=SplitSettings(min_tokens=0)) as store:
        store.add_documents([Document(text=MANUAL, title="Village", name="v.md", markup="markdown")])

        answer = store.generate("Where do carts cross?", loaded, top_k=1, max_tokens=4)

        (cited,) = answer.citations
        assert (cited.title, cited.heading, cited.number) == ("Village", ("The ford",), 1)
        assert store.text(cited.document)[cited.start : cited.end] == cited.text
        nothing = store.generate("quarterly turbine revenue", loaded)
        assert (nothing.text, nothing.citations) == ("I found nothing about that in the documents.", ())
