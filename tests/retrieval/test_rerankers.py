"""The cross-encoder on a tiny encoder."""

import pytest
import tiny_encoder
import torch

from lorad.models import bases, heads, peft_io
from lorad.retrieval import rerankers
from lorad.storage import files


@pytest.fixture
def encoder(tmp_path):
    tiny_encoder.store(tmp_path / "source", tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def shipped(tmp_path, encoder, monkeypatch):
    """A reranker that was made for this encoder."""
    base = bases.load_base(encoder, torch.float32, "cpu", rerankers.HEAD)
    heads.build(base.model, rerankers.HEAD, rerankers.LABELS)
    weights = rerankers.weights_digest(base)
    live = peft_io.add_lora(base.model, 2, 4, rerankers.HEAD)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in live.named_parameters():
            if "lora_B" in name or "classifier" in name:
                weight.normal_(0, 0.5)
    live.train(mode=False)
    folder = tmp_path / "package" / rerankers.FOLDER
    files.make_folder(folder.parent)
    peft_io.write_adapter(peft_io.read_live(live), folder, "tiny", rerankers.HEAD)
    files.write_json(folder / rerankers.ABOUT, {"weights": weights, "fingerprint": "made for a test"})
    monkeypatch.setattr(rerankers.resources, "files", lambda _: folder.parent)
    return rerankers.CrossEncoder(live, base.tokenizer, "")


TEXTS = ["she took the apple", "she saw the iron", "heron"]


def told(encoder, question="the apple", texts=TEXTS):
    """Return all that is said of the texts, one number after the other."""
    return [number for odds in encoder.score(question, texts) for number in odds]


def test_loaded_it_says_what_it_said_when_it_was_made(encoder, shipped):
    loaded = rerankers.load(encoder)
    assert loaded.fingerprint == "made for a test"
    assert told(loaded) == pytest.approx(told(shipped), abs=1e-4)
    assert len(set(told(loaded))) == 2 * len(TEXTS)


@pytest.mark.usefixtures("shipped")
def test_a_text_scores_the_same_alone_and_beside_others(encoder):
    loaded = rerankers.load(encoder)
    alone = [number for text in TEXTS for number in told(loaded, texts=[text])]
    assert alone == pytest.approx(told(loaded), abs=1e-5)


@pytest.mark.usefixtures("shipped")
def test_in_bfloat16_it_says_the_same_up_to_rounding(encoder):
    exact, rounded = rerankers.load(encoder), rerankers.load(encoder, "bfloat16")
    assert told(rounded) == pytest.approx(told(exact), abs=0.05)


@pytest.mark.usefixtures("shipped")
def test_on_another_encoder_there_is_none(tmp_path):
    torch.manual_seed(9)
    tiny_encoder.store(tmp_path / "other source", tmp_path / "other", seed=9)
    assert rerankers.load(tmp_path / "other") is None


@pytest.mark.usefixtures("shipped")
def test_nothing_and_very_much_can_be_scored(encoder):
    loaded = rerankers.load(encoder)
    assert loaded.score("the apple", []) == []
    assert len(loaded.score("apple " * 5000, ["iron " * 5000, ""])) == 2


def test_without_its_files_there_is_none(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(rerankers.resources, "files", lambda _: tmp_path)
    assert rerankers.load(encoder) is None
