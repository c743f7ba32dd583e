"""Versions served by llama.cpp: each from its own GGUF, proven, and never another's answer.

Everything runs on a stand-in for the library, and on llama.cpp itself where llama-cpp-python is installed.
"""

import gc
import shutil
import sys
import weakref
from functools import partial

import pytest
import tiny
import torch
from fake_binding import FakeModel
from sinks import Sink
from toy_task import Toy
from transformers import GPT2Config, GPT2LMHeadModel

from lorad.config import EngineSettings
from lorad.errors import ConfigError, RegistryError
from lorad.evaluation import metrics
from lorad.models import adapter_stack, bases, peft_io
from lorad.records import Encoded
from lorad.serving.backends.interface import Generation
from lorad.serving.backends.llamacpp import binding, proof
from lorad.serving.backends.llamacpp.backend import LEAST_CELLS, LlamaCpp
from lorad.serving.engine import Engine
from lorad.serving.guiding import Grammars, GuidedSampling
from lorad.serving.requests import Sampling
from lorad.storage import files
from lorad.tasks import find
from lorad.versions import gguf_copies, llamacpp

QUESTION = [{"role": "user", "content": "Which colour is the door of Arlo?"}]
VERSIONS = ("v0.1", "v0.2")

needs_library = pytest.mark.skipif(
    not llamacpp.is_installed(), reason="llama-cpp-python is an extra that has to be compiled"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A home's models: a base, and two versions of a track with probes, which answer differently."""
    models = tmp_path_factory.mktemp("llamacpp") / "models"
    folder = models / "base" / "tiny"
    bases.store_base(tiny.save(models.parent / "source"), folder)
    for number, name in enumerate(VERSIONS):
        base = bases.load_base(folder, torch.float32)
        torch.manual_seed(number)
        live = peft_io.add_lora(base.model, 4, 8)
        with torch.no_grad():
            for parameter in (p for n, p in live.named_parameters() if "lora_B" in n):
                parameter.normal_(0, 0.3)
        version = models / "chat" / "versions" / name
        peft_io.write_adapter(peft_io.read_live(live), version, "tiny")
        rows = [find("chat").encode(base.tokenizer, example) for example in tiny.facts(3)]
        files.write_json(version / metrics.PROBES, metrics.probe(find("chat"), live.eval(), rows))
    return models


@pytest.fixture
def models(made, tmp_path):
    return shutil.copytree(made, tmp_path / "models")


@pytest.fixture(params=["stand-in", pytest.param("llama.cpp", marks=needs_library)])
def opening(request):
    return FakeModel if request.param == "stand-in" else binding.Model


def base_of(models):
    return bases.load_base(models / "base" / "tiny", torch.float32)


def begin(models, opening=FakeModel, base=None, **settings):
    settings = EngineSettings(**{"gguf": "f32", "max_queued_requests": 64, **settings})
    engine = Engine(settings)
    if opening is not None:
        engine._backend = LlamaCpp(settings, opening, "0.0")
    engine.attach("chat", find("chat"), base or base_of(models))
    return engine


def digest(version):
    return version.encode().hex()


def load(engine, models, *versions):
    for version in versions:
        engine.load("chat", version, models / "chat" / "versions" / version, digest(version))


def finish(engine):
    while engine.waiting:
        engine.work(0)


def text(request):
    return "".join(piece.text for piece in request.answer(0))


def say(engine, version=None, sampling=None, question=QUESTION):
    request = engine.submit("chat", question, sampling or Sampling(max_tokens=12), version)
    finish(engine)
    return text(request)


def copy_of(models, version="v0.1", precision="f32"):
    return gguf_copies.of_version(models / "chat" / "versions" / version, digest(version), precision)


def test_base_and_versions_say_what_the_built_in_backend_says(models, opening):
    served, builtin = begin(models, opening), begin(models, None)
    for engine in (served, builtin):
        load(engine, models, *VERSIONS)
    ways = [
        None,
        Sampling(max_tokens=12, temperature=0.9, top_p=0.95, top_k=40, seed=5),
        GuidedSampling(
            max_tokens=40,
            grammar=Grammars(base_of(models).tokenizer, {1}).grammar(
                {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
            ),
        ),
    ]

    found = [
        [say(engine, version, way) for version in ("base", *VERSIONS) for way in ways]
        for engine in (served, builtin)
    ]

    assert found[0] == found[1]
    assert len(set(found[0])) >= 7
    assert found[0][2].startswith('{"a": ')


def test_what_serves_is_told(models, opening):
    engine = begin(models, opening, gguf="f16")
    load(engine, models, "v0.1")

    form = engine.serve("chat", "v0.1")

    copy = copy_of(models, precision="f16")
    assert (form.kind, form.added_bytes) == ("gguf", copy.stat().st_size)
    assert engine.capabilities("chat").batches
    assert "f16" in engine.capabilities("chat").because
    assert say(engine) == say(engine, "v0.1") != say(engine, "base")


def test_a_copy_is_made_once_and_again_where_it_is_damaged(models, opening):
    load(begin(models, opening), models, "v0.1")
    copy = copy_of(models)
    whole, made_at = copy.read_bytes(), copy.stat().st_mtime_ns

    engine = begin(models, opening)
    load(engine, models, "v0.1")
    assert copy.stat().st_mtime_ns == made_at
    expected = say(engine, "v0.1")

    copy.write_bytes(whole[:-100] + bytes(100))
    engine = begin(models, opening)
    load(engine, models, "v0.1")

    assert copy.read_bytes() == whole
    assert say(engine, "v0.1") == expected


def test_coarser_precisions_take_less(models, opening):
    sizes = []
    for precision in ("f32", "f16", "q8_0"):
        load(begin(models, opening, gguf=precision), models, "v0.1")
        sizes.append(copy_of(models, precision=precision).stat().st_size)

    assert sizes == sorted(sizes, reverse=True)
    assert not copy_of(models, precision="f32").exists()  # one copy a version


def other(change, which):
    """Open GGUFs by the stand-in, those of this name with other logits."""

    def opened(file, *, on_gpu):
        says = change if file.name.startswith(which) else lambda logits: logits
        return FakeModel(file, on_gpu=on_gpu, says=says)

    return opened


def test_a_version_that_is_answered_otherwise_is_refused_by_name_and_is_no_damage(models):
    engine = begin(models, other(lambda logits: logits * 1.5, "v0.1"))
    load(engine, models, "v0.2")
    expected = say(engine, "v0.2")

    with pytest.raises(
        RegistryError, match=r"backend llamacpp does not answer as v0\.1 does in f32"
    ) as caught:
        load(engine, models, "v0.1")

    assert (caught.value.code, caught.value.is_damage) == ("probes_failed", False)
    assert caught.value.data == {"version": "v0.1", "backend": "llamacpp"}
    assert not engine.resident("chat", "v0.1")
    assert say(engine, "v0.2") == expected


def test_a_copy_that_is_another_versions_is_refused(models, opening):
    # Given a whole copy of another version under this one's name
    load(begin(models, opening), models, *VERSIONS)
    wrong = copy_of(models, "v0.2").read_bytes()
    copy_of(models).unlink()
    gguf_copies.ensure(copy_of(models), lambda path: path.write_bytes(wrong))

    with pytest.raises(RegistryError, match="differs") as caught:
        load(begin(models, opening), models, "v0.1")

    assert caught.value.code == "probes_failed"


def test_a_probe_that_only_the_version_gets_right_refuses(models):
    # Given a probe whose logits are those of the papers, and whose answer the version gives, but not its copy
    load(begin(models), models, *VERSIONS)
    base, task = base_of(models), find("chat")
    stack = adapter_stack.AdapterStack(base)
    for version in VERSIONS:
        stack.add(version, models / "chat" / "versions" / version)
    prompt = task.prompt(base.tokenizer, QUESTION)
    with torch.inference_mode():
        answers = [
            int(stack.model(v)(input_ids=torch.tensor([prompt])).logits[0, -1].argmax()) for v in VERSIONS
        ]
    row = Encoded((*prompt, answers[1]), len(prompt))
    folder = models / "chat" / "versions" / "v0.1"
    files.write_json(folder / metrics.PROBES, metrics.probe(task, stack.model("v0.1"), [row]))
    model = FakeModel(copy_of(models), on_gpu=False)

    with pytest.raises(RegistryError, match="gets probes wrong"):
        proof.prove(task, model, stack.model("v0.2"), folder, "f32")

    proof.prove(task, model, stack.model("v0.1"), folder, "f32")
    assert answers[0] != answers[1]


def test_a_damaged_version_is_told_as_such_and_no_copy_is_made(models):
    engine = begin(models)
    versions = models / "chat" / "versions"
    shutil.copy(versions / "v0.2" / "adapter_model.safetensors", versions / "v0.1")

    with pytest.raises(RegistryError, match="does not answer its probes") as caught:
        load(engine, models, "v0.1")

    assert caught.value.is_damage
    assert not copy_of(models).exists()


def test_a_base_that_is_answered_otherwise_is_refused(models):
    with pytest.raises(ConfigError, match="does not answer as the base tiny") as caught:
        begin(models, other(lambda logits: logits.flip(-1), "tiny"))
    assert caught.value.code == "probes_failed"


def test_a_task_that_answers_with_data_is_refused_by_its_track(models):
    engine = begin(models)
    with pytest.raises(ConfigError, match="cannot serve the track toy: its task, toy") as caught:
        engine._backend.attach("toy", Toy(), engine.base("chat"), "toy@base-abc")
    assert caught.value.code == "no_backend"


def test_a_base_that_lorad_writes_no_gguf_of_is_refused(models, tmp_path):
    config = GPT2Config(vocab_size=len(tiny.tokenizer()), n_embd=32, n_layer=1, n_head=2, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "source")
    tiny.tokenizer().save_pretrained(tmp_path / "source")
    bases.store_base(tmp_path / "source", tmp_path / "models" / "base" / "gpt")

    with pytest.raises(ConfigError, match="cannot serve the track chat: GGUF export") as caught:
        begin(models, base=bases.load_base(tmp_path / "models" / "base" / "gpt", torch.float32))

    assert caught.value.code == "no_gguf"
    assert "engine.backend to auto or builtin" in caught.value.message


def test_a_swap_fails_no_answer_and_mixes_none(models, opening):
    # Given what each version says alone
    engine = begin(models, opening)
    load(engine, models, *VERSIONS)
    questions = [[{"role": "user", "content": f"Which colour is the door of {name}?"}] for name in tiny.NAMES]
    expected = {(n, v): say(engine, v, question=q) for n, q in enumerate(questions) for v in VERSIONS}

    # When versions change places again and again while answers are under way
    asked = []
    for turn in range(6):
        version = VERSIONS[turn % 2]
        engine.serve("chat", version)
        for number, question in enumerate(questions[: 4 + turn]):
            asked.append((number, version, engine.submit("chat", question, Sampling(max_tokens=12))))
            engine.work(0)
    finish(engine)

    # Then each is its version's to the last token
    for number, version, request in asked:
        assert request.version == version
        assert text(request) == expected[number, version]


def test_a_dropped_version_finishes_and_then_its_memory_is_free(models, opening):
    engine = begin(models, opening)
    load(engine, models, "v0.1")
    backend, name = engine._backend, f"chat@v0.1-{digest('v0.1')}"
    sink = Sink(6)
    backend.submit(Generation(name=name, prompt=[2, 3, 4], sampling=Sampling(), ends=frozenset(), sink=sink))
    backend.step()
    held = weakref.ref(backend._turns[0].slots)

    backend.drop(name)

    with pytest.raises(RegistryError, match="not in memory"):
        backend.drop(name)
    while backend.step() is not None:
        assert held() is not None
    assert (len(sink.tokens), sink.ended, sink.error, backend.active) == (6, 1, None, 0)
    gc.collect()
    assert held() is None


def test_tracks_with_one_base_share_its_file_and_take_turns(models):
    opened = []

    def opening(file, *, on_gpu):
        opened.append(file.name)
        return FakeModel(file, on_gpu=on_gpu)

    engine = begin(models, opening)
    engine.attach("other", find("chat"), engine.base("chat"))
    requests = [engine.submit(track, QUESTION, Sampling(max_tokens=8)) for track in ("chat", "other")]
    finish(engine)

    assert len(opened) == 1
    assert text(requests[0]) == text(requests[1])


@pytest.mark.parametrize(
    ("memory", "cells"),
    # two layers, two heads of 16 for keys and values each, in float32: 512 bytes a token, for four versions
    [(1, LEAST_CELLS), (4 * 512 * 3000, 3000), (10**12, 16 * 512)],
)
def test_memory_is_shared_among_the_versions_that_there_may_be(models, memory, cells):
    engine = begin(models, max_cache_bytes=memory)
    say(engine)
    assert engine._backend._turns[0].slots._limits.cells == cells


def test_without_the_package_the_error_says_how_to_have_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)

    with pytest.raises(ConfigError, match=r"pip install 'lorad\[llamacpp\]'") as caught:
        Engine(EngineSettings(backend="llamacpp"))

    assert caught.value.code == "no_backend"


# llama.cpp itself


@needs_library
def test_the_settings_choose_it(models):
    settings = EngineSettings(backend="llamacpp")
    engine = Engine(settings)
    engine.attach("chat", find("chat"), base_of(models))

    assert "llama.cpp" in engine.capabilities("chat").because
    assert say(engine)


@needs_library
def test_what_is_no_gguf_is_told_and_the_library_is_silent(tmp_path, capfd):
    (tmp_path / "x.gguf").write_bytes(b"GGUF, perhaps")

    with pytest.raises(RegistryError, match=r"cannot load .*x\.gguf") as caught:
        binding.Model(tmp_path / "x.gguf", on_gpu=False)

    assert (caught.value.code, caught.value.is_damage) == ("gguf_refused", False)
    assert capfd.readouterr() == ("", "")


@needs_library
def test_a_context_counts_its_cells_and_shares_beginnings(models):
    load(begin(models, binding.Model), models, "v0.1")
    model = binding.Model(copy_of(models), on_gpu=False)
    context = model.context(sequences=3, cells=256, batch=256, is_exact=True)
    piece = partial(binding.Piece, asked=1)
    tokens = [5 + number % 300 for number in range(200)]

    (whole,) = context.decode([piece(sequence=0, begin=0, tokens=tokens)])
    with pytest.raises(binding.NoRoomError):
        context.decode([piece(sequence=1, begin=0, tokens=tokens)])
    context.copy(0, 1, 190)
    (shared,) = context.decode([piece(sequence=1, begin=190, tokens=tokens[190:])])
    context.forget(0)
    context.forget(1)
    (again,) = context.decode([piece(sequence=2, begin=0, tokens=tokens)])

    assert whole.shape == (1, model.vocabulary)
    assert torch.allclose(whole, shared, atol=1e-4)
    assert torch.allclose(whole, again, atol=1e-4)
    with pytest.raises(ValueError, match="longer than a batch"):
        context.decode([piece(sequence=0, begin=0, tokens=[1] * 257)])
