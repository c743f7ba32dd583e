"""llama.cpp itself, where it is installed; what it is asked, and what follows, ``test_export`` tests with a fake."""

import sys

import fake_llama_cpp
import pytest
import tiny
import torch

from lorad.evaluation import metrics
from lorad.models import bases, peft_io
from lorad.storage import files
from lorad.tasks import find
from lorad.versions import export, llamacpp


@pytest.mark.skipif(
    not llamacpp.is_installed(), reason="llama-cpp-python is an extra that has to be compiled"
)
def test_llama_cpp_answers_like_the_version_and_makes_the_same_prompts(tmp_path):
    bases.store_base(tiny.save(tmp_path / "source"), tmp_path / "tiny")
    base = bases.load_base(tmp_path / "tiny", torch.float32)
    live = peft_io.add_lora(base.model, 4, 8)
    peft_io.write_adapter(peft_io.read_live(live), tmp_path / "v0.1", "tiny")
    rows = [find("chat").encode(base.tokenizer, example) for example in tiny.facts(4)]
    files.write_json(tmp_path / "v0.1" / metrics.PROBES, metrics.probe(find("chat"), live.eval(), rows))

    notes = export.export(tmp_path / "v0.1", tmp_path / "tiny", tmp_path / "out", "gguf").notes

    assert notes[1].startswith("llama.cpp's logits differ by at most 0.0")
    assert "another prompt" not in notes[1]


def test_whether_it_is_there_is_known_without_loading_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert not llamacpp.is_installed()

    fake_llama_cpp.install(monkeypatch)
    assert llamacpp.is_installed()
