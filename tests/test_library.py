"""Versions in a program of one's own: loaded as the daemon loads them, or refused as it refuses them."""

import shutil

import pytest
import tiny
from home import Track

from lorad import library
from lorad.errors import ConfigError, ProtocolError, RegistryError
from lorad.evaluation import metrics
from lorad.storage import files


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
