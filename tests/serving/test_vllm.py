"""The vLLM backend behind the engine, against a stand-in server that speaks vLLM's routes and misbehaves on purpose."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import stand_in_vllm
import tiny
import torch
from running import wait_for
from sinks import Sink

from lorad.config import EngineSettings
from lorad.errors import ConfigError, ProtocolError, RegistryError, TransientError
from lorad.evaluation import metrics
from lorad.models import adapter_stack, bases, generation, peft_io
from lorad.serving.backends import choose
from lorad.serving.backends.builtin.backend import Builtin
from lorad.serving.backends.interface import Generation, Surroundings, VersionFiles
from lorad.serving.backends.vllm import backend as vllm
from lorad.serving.backends.vllm.backend import Vllm
from lorad.serving.backends.vllm.streams import PATIENCE_SECONDS
from lorad.serving.engine import Engine
from lorad.serving.requests import LONGEST_SILENCE, Sampling
from lorad.storage import files
from lorad.tasks import find
from lorad.tasks.interface import Predicting

TASK = find("chat")
BASE = "chat@base-b0"
ONE, TWO = "chat@v0.1-11", "chat@v0.2-22"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    bases.store_base(tiny.save(folder / "source"), folder / "base")
    return bases.load_base(folder / "base", torch.float32)


@pytest.fixture(scope="module")
def versions(base, tmp_path_factory):
    """Two versions that answer differently, each with its probes."""
    folder = tmp_path_factory.mktemp("versions")
    stack = adapter_stack.AdapterStack(base)
    rows = [TASK.encode(base.tokenizer, example) for example in tiny.facts(3)]
    for number, name in enumerate(("v0.1", "v0.2")):
        torch.manual_seed(number)
        live = peft_io.add_lora(bases.load_base(Path(base.model.name_or_path), torch.float32).model, 4, 8)
        with torch.no_grad():
            for parameter in (p for n, p in live.named_parameters() if "lora_B" in n):
                parameter.normal_(0, 0.3)
        peft_io.write_adapter(peft_io.read_live(live), folder / name, "tiny")
        stack.add(name, folder / name)
        files.write_json(folder / name / metrics.PROBES, metrics.probe(TASK, stack.model(name), rows))
    return folder


class Speaker:
    """Says what the tiny model says with an adapter, or without; ``spoiled`` as one whose adapter does not apply."""

    def __init__(self, base):
        self.stack = adapter_stack.AdapterStack(base)
        self.spoiled = False

    def __call__(self, path, prompt, most, ends):
        if path is not None and path not in self.stack.names:
            self.stack.add(path, Path(path))
        model = self.stack.model(None if self.spoiled else path)
        return generation.continue_each(model, [prompt], ends, most, do_sample=False)[0]


class Clock:
    """Stands still until it is moved."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def speaker(base):
    return Speaker(base)


@pytest.fixture
def server(speaker):
    return stand_in_vllm.StandIn(speaker)


@pytest.fixture
def port(server):
    with stand_in_vllm.served(server) as found:
        yield found


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def backend(port, base, clock):
    made = begin(port, base, clock)
    yield made
    made.close()


def begin(port, base, clock):
    made = Vllm(EngineSettings(backend="vllm", vllm_url=f"http://127.0.0.1:{port}"), Surroundings(), clock)
    made.attach("chat", TASK, base, BASE)
    return made


def files_of(versions, name):
    return VersionFiles(name=name, track="chat", folder=versions / name.split("@")[1].split("-")[0])


def wanted(base, name, question="Which colour is the door of Arlo?", sampling=None, most=6):
    prompt = TASK.prompt(base.tokenizer, [{"role": "user", "content": question}])
    ends = frozenset(TASK.stop_tokens(base.tokenizer))
    return Generation(
        name=name,
        prompt=prompt,
        sampling=sampling or Sampling(max_tokens=most),
        ends=ends,
        sink=Sink(most),
    )


def run(backend, *asked):
    """Step until each of these has ended."""
    for _ in range(3000):
        if all(each.sink.ended for each in asked):
            return
        backend.step()
    raise AssertionError("it did not end")


def until(backend, condition):
    """Step until something has happened at the server."""
    wait_for(lambda: (backend.step(), condition())[1], seconds=30)


def ask(backend, base, name, **how):
    asked = wanted(base, name, **how)
    backend.submit(asked)
    run(backend, asked)
    assert asked.sink.ended == 1
    return asked.sink


def alone(speaker, path, asked):
    return speaker(path and str(path), asked.prompt, asked.sink.most, sorted(asked.ends))


# versions


def test_each_version_answers_as_it_does_here(backend, base, versions, speaker, server):
    for name in (ONE, TWO):
        backend.load(files_of(versions, name))
    asked = [wanted(base, name) for name in (BASE, ONE, TWO)]

    for each in asked:
        backend.submit(each)
    run(backend, *asked)

    paths = (None, versions / "v0.1", versions / "v0.2")
    expected = [alone(speaker, path, each) for path, each in zip(paths, asked, strict=True)]
    assert [each.sink.tokens for each in asked] == expected
    assert len({tuple(each) for each in expected}) == 3
    assert [each.sink.error for each in asked] == [None] * 3
    assert backend.step() is None
    assert server.calls == [("load", ONE), ("load", TWO)]
    assert server.adapters == {ONE: str(versions / "v0.1"), TWO: str(versions / "v0.2")}
    salts = {body["cache_salt"] for body in server.asked if body["stream"]}
    assert salts == {BASE, ONE, TWO}
    assert [backend.prefer(name).kind for name in (BASE, ONE)] == ["base", "adapter"]


def test_tracks_with_one_base_share_the_server(backend, base, server):
    backend.attach("more", TASK, base, "more@base-b0")

    assert ask(backend, base, "more@base-b0").tokens == ask(backend, base, BASE).tokens
    assert server.asked[-1]["model"] == "the-base"


def test_a_version_is_forgotten_when_its_last_answer_has_ended(backend, base, versions, server):
    backend.load(files_of(versions, ONE))
    server.faults["stream"] = ["hold"]
    asked = wanted(base, ONE)
    backend.submit(asked)
    until(backend, server.holding.is_set)

    backend.drop(ONE)
    for _ in range(3):
        ask(backend, base, BASE)  # whatever else was to be asked of the server has been, meanwhile

    with pytest.raises(RegistryError, match="not in memory"):
        backend.submit(wanted(base, ONE))
    assert server.calls == [("load", ONE)]
    server.gate.set()
    run(backend, asked)
    assert asked.sink.error is None
    until(backend, lambda: ONE not in server.adapters)
    assert server.calls == [("load", ONE), ("unload", ONE)]


def test_a_version_that_comes_back_is_not_forgotten(backend, base, versions, server):
    backend.load(files_of(versions, ONE))
    backend.drop(ONE)

    backend.load(files_of(versions, ONE))
    backend.step()

    assert ask(backend, base, ONE).error is None
    assert server.calls == [("load", ONE)]


def test_what_the_server_holds_from_before_is_proven_and_not_loaded_again(port, base, versions, server):
    server.adapters[ONE] = str(versions / "v0.1")
    made = begin(port, base, Clock())

    made.load(files_of(versions, ONE))

    assert server.calls == []
    assert any(body["model"] == ONE for body in server.asked)
    made.close()


def test_a_version_whose_adapter_does_not_apply_is_refused_by_name(backend, base, versions, server, speaker):
    speaker.spoiled = True

    with pytest.raises(RegistryError, match=f"vLLM does not answer the probes of {ONE}") as caught:
        backend.load(files_of(versions, ONE))

    assert (caught.value.code, caught.value.data["backend"]) == ("probes_failed", "vllm")
    assert not caught.value.is_damage  # elsewhere it may serve
    assert server.adapters == {}
    with pytest.raises(RegistryError, match="not in memory"):
        backend.submit(wanted(base, ONE))


def test_the_probes_tell_the_versions_apart(base, versions):
    """What the other tests rest on: some place of the probes is decided."""
    for folder in (None, versions / "v0.1", versions / "v0.2"):
        probes = proof_of(base, folder)
        assert any(allowed for probe in probes for allowed in probe.likely)


def proof_of(base, folder):
    return vllm.proof.of_base(TASK, base) if folder is None else vllm.proof.of_version(folder, base)


def test_a_server_that_will_not_load_says_why(backend, versions, server):
    server.faults["load"] = ["LoRA rank 64 is greater than max_lora_rank 16"]

    with pytest.raises(RegistryError, match="rank 64 is greater") as caught:
        backend.load(files_of(versions, ONE))

    assert caught.value.code == "backend_refused"
    assert not caught.value.is_damage


def test_a_server_without_run_time_adapters_is_told_of(speaker, base, versions, clock):
    with stand_in_vllm.served(stand_in_vllm.StandIn(speaker, updates=False)) as port:
        made = begin(port, base, clock)
        with pytest.raises(RegistryError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            made.load(files_of(versions, ONE))
        made.close()


def test_a_server_that_takes_no_such_prompt_refuses_the_version(backend, versions, server):
    server.faults["whole"] = ["400"]

    with pytest.raises(RegistryError, match="a 400") as caught:
        backend.load(files_of(versions, ONE))

    assert caught.value.code == "backend_refused"
    assert server.adapters == {}


@pytest.mark.parametrize("fault", ["500", "other_model"])
def test_a_server_in_trouble_is_asked_again_later(backend, versions, server, fault):
    server.faults["whole"] = [fault]

    with pytest.raises(TransientError) as caught:
        backend.load(files_of(versions, ONE))

    assert caught.value.code in {"backend_failed", "backend_away"}
    assert backend.load(files_of(versions, ONE)) == []


# bases and servers that cannot be


def test_where_no_server_answers_the_next_command_is_told(base, clock):
    listener = stand_in_vllm.bind()
    port = listener.getsockname()[1]
    listener.close()

    with pytest.raises(ConfigError, match=f"vllm serve {base.model.name_or_path} --enable-lora") as caught:
        begin(port, base, clock)

    assert caught.value.code == "no_backend"


@pytest.mark.parametrize("fault", ["garbage", "500"])
def test_what_is_no_vllm_is_told_of(port, base, clock, server, fault):
    server.faults["models"] = [fault]

    with pytest.raises(ConfigError, match="no vLLM server answers"):
        begin(port, base, clock)


def test_a_server_with_another_base_is_refused(port, base, clock, server):
    server.say = lambda _path, prompt, most, _ends: [len(prompt) % 7 + 3] * most

    with pytest.raises(ConfigError, match="the-base") as caught:
        begin(port, base, clock)

    assert caught.value.code == "other_base"


def test_a_second_base_is_refused(backend, base):
    other = replace(base, fingerprint="another-fingerprint")

    with pytest.raises(ConfigError, match="one base"):
        backend.attach("more", TASK, other, "more@base-c0")


def test_a_task_that_answers_with_data_is_refused(backend, base):
    class Labels(Predicting):
        name = "labels"

        def encode(self, tokenizer, example): ...
        def forward(self, model, rows, guests=()): ...
        def question(self, tokenizer, asked): ...
        def predict(self, model, rows): ...

    with pytest.raises(ConfigError, match=r"learns labels.*engine.backend to builtin"):
        backend.attach("more", Labels(), base, "more@base-b0")


def test_the_settings_choose_it():
    assert isinstance(choose(EngineSettings(backend="auto")), Builtin)
    made = choose(EngineSettings(backend="vllm", vllm_url="http://127.0.0.1:1"))
    assert isinstance(made, Vllm)
    made.close()


# what goes wrong with an answer


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("400", "backend_refused"),
        ("500", "backend_failed"),
        ("drop", "backend_away"),
        ("truncate", "backend_away"),
        ("garbage", "backend_away"),
        ("no_event", "backend_away"),
        ("endless_line", "backend_away"),
        ("done", "backend_away"),
        ("error", "backend_failed"),
        ("many", "backend_away"),
        ("other_model", "backend_away"),
        ("other_id", "backend_away"),
        ("other_prompt", "backend_away"),
        ("no_tokens", "backend_away"),
        ("bad_tokens", "backend_away"),
        ("two", "backend_away"),
        ("abort", "backend_failed"),
    ],
)
def test_one_answer_ends_with_a_named_error_and_the_others_go_on(backend, base, server, speaker, fault, code):
    server.faults["stream"] = [fault]
    first = wanted(base, BASE)
    others = [wanted(base, BASE, f"Which colour is the door of {name}?") for name in tiny.NAMES[:3]]

    for each in (first, *others):
        backend.submit(each)
    run(backend, first, *others)

    assert isinstance(first.sink.error, ProtocolError)
    assert first.sink.error.code == code
    assert first.sink.error.data["backend"] == "vllm"
    assert len(first.sink.tokens) <= 1
    for each in others:
        assert each.sink.error is None
        assert each.sink.tokens == alone(speaker, None, each)
    assert ask(backend, base, BASE).error is None


def test_an_answer_that_is_cut_off_before_its_first_token_is_asked_again(backend, base, server, speaker):
    server.faults["stream"] = ["drop_first"]
    asked = wanted(base, BASE)
    before = len(server.asked)

    backend.submit(asked)
    run(backend, asked)

    assert asked.sink.error is None
    assert asked.sink.tokens == alone(speaker, None, asked)
    streams = [body["stream"] for body in server.asked[before:]]
    assert streams[0] is streams[-1] is True
    assert False in streams[1:-1]  # proven between the two


def test_an_answer_that_is_cut_off_twice_ends(backend, base, server):
    server.faults["stream"] = ["drop_first", "drop_first"]

    sink = ask(backend, base, BASE)

    assert (sink.error.status, sink.error.code, sink.error.data["retry_after"]) == (503, "backend_away", 5)


def test_a_silent_server_ends_the_answer(backend, base, server, clock):
    server.faults["stream"] = ["hold"]
    asked = wanted(base, BASE)
    backend.submit(asked)
    until(backend, lambda: server.holding.is_set() and asked.sink.tokens)

    clock.now += LONGEST_SILENCE + 1
    run(backend, asked)

    assert asked.sink.error.code == "backend_away"
    until(backend, server.left.is_set)


def test_a_step_does_not_wait_for_a_slow_answer(backend, base, server, speaker):
    server.faults["stream"] = ["hold"]
    slow, fast = wanted(base, BASE), wanted(base, BASE, "Which colour is the door of Brix?")
    backend.submit(slow)
    until(backend, server.holding.is_set)

    backend.submit(fast)
    run(backend, fast)

    assert not slow.sink.ended
    assert fast.sink.tokens == alone(speaker, None, fast)
    server.gate.set()
    run(backend, slow)
    assert slow.sink.tokens == alone(speaker, None, slow)


def test_a_cancelled_answer_ends_at_the_server_too(backend, base, server):
    server.faults["stream"] = ["hold"]
    asked = wanted(base, BASE)
    backend.submit(asked)
    until(backend, server.holding.is_set)

    asked.sink.is_wanted = False
    run(backend, asked)

    assert asked.sink.error is None
    assert backend.active == 0
    until(backend, server.left.is_set)


def test_what_cannot_be_made_into_text_ends_its_answer_alone(backend, base):
    bad, good = wanted(base, BASE), wanted(base, BASE)

    def fail(_):
        raise ValueError("no text")

    bad.sink.put = fail
    for each in (bad, good):
        backend.submit(each)
    run(backend, bad, good)

    assert isinstance(bad.sink.error, ValueError)
    assert good.sink.error is None


# a server that goes and comes


def test_a_version_that_the_server_has_forgotten_is_loaded_and_proven_again(
    backend, base, versions, server, speaker
):
    backend.load(files_of(versions, ONE))
    server.adapters.clear()
    before = len(server.asked)
    asked = wanted(base, ONE)

    backend.submit(asked)
    run(backend, asked)

    assert asked.sink.tokens == alone(speaker, versions / "v0.1", asked)
    assert server.calls == [("load", ONE)] * 2
    assert [body["model"] for body in server.asked[before:]].count("the-base") > 0  # the base is proven too


def test_that_it_has_forgotten_is_noticed_without_a_request(backend, base, versions, server, clock):
    backend.load(files_of(versions, ONE))
    server.adapters.clear()

    clock.now += vllm.CHECK_SECONDS + 1
    until(backend, lambda: ONE in server.adapters)
    until(backend, lambda: backend.step() is None)

    assert ask(backend, base, ONE).error is None


def test_a_server_that_comes_back_with_something_else_does_not_serve(
    backend, base, versions, server, speaker
):
    backend.load(files_of(versions, ONE))
    server.adapters.clear()
    speaker.spoiled = True

    backend.submit(asked := wanted(base, BASE))
    run(backend, asked)
    backend.submit(noticed := wanted(base, ONE))
    run(backend, noticed)

    assert (noticed.sink.error.code, noticed.sink.tokens) == ("probes_failed", [])
    for _ in range(2):
        with pytest.raises(RegistryError) as caught:
            backend.submit(wanted(base, ONE))
        assert caught.value.code == "probes_failed"
    until(backend, lambda: backend.step() is None)
    assert ask(backend, base, BASE).error is None


def test_answers_wait_for_a_server_that_is_away_but_not_for_long(base, server, clock, speaker):
    with stand_in_vllm.served(server) as port:
        made = begin(port, base, clock)
    early, late = wanted(base, BASE), wanted(base, BASE)

    made.submit(early)
    for _ in range(5):
        made.step()
    assert not early.sink.ended
    assert "away" in made.capabilities("chat").because
    clock.now += PATIENCE_SECONDS + 1
    run(made, early)
    assert early.sink.error.code == "backend_away"

    made.submit(late)
    made.step()
    assert not late.sink.ended
    with stand_in_vllm.served(server, port):
        clock.now += vllm.LONGEST_PAUSE - 1
        run(made, late)
        assert late.sink.tokens == alone(speaker, None, late)
        assert "away" not in made.capabilities("chat").because
        made.close()


def test_closing_ends_what_is_left(port, base, clock, server):
    made = begin(port, base, clock)
    server.faults["stream"] = ["hold"]
    begun, waiting = wanted(base, BASE), wanted(base, BASE)
    made.submit(begun)
    until(made, server.holding.is_set)
    made.submit(waiting)

    made.close()

    assert [each.sink.error.code for each in (begun, waiting)] == ["backend_away"] * 2


def test_versions_come_and_go_while_answers_go_on(backend, base, versions, server, speaker):
    """Loads in another thread, as the daemon does; no answer fails or is of another version."""
    backend.load(files_of(versions, ONE))
    stop, wrong = threading.Event(), []

    def swap():
        try:
            for number in range(10):
                name = f"chat@v0.2-{number}"
                backend.load(VersionFiles(name=name, track="chat", folder=versions / "v0.2"))
                backend.drop(name)
        except Exception as error:  # noqa: BLE001 - told below
            wrong.append(error)
        finally:
            stop.set()

    thread = threading.Thread(target=swap)
    thread.start()
    asked = []
    while not stop.is_set():
        asked.append(wanted(base, ONE))
        backend.submit(asked[-1])
        run(backend, asked[-1])
    thread.join()

    assert wrong == []
    expected = alone(speaker, versions / "v0.1", asked[0])
    assert all(each.sink.tokens == expected and each.sink.error is None for each in asked)
    until(backend, lambda: list(server.adapters) == [ONE])


def test_the_engine_says_the_same_text_on_either_backend(port, base, versions):
    said = []
    for settings in (
        EngineSettings(backend="builtin"),
        EngineSettings(backend="vllm", vllm_url=f"http://127.0.0.1:{port}"),
    ):
        engine = Engine(settings)
        engine.attach("chat", TASK, base)
        texts = []
        for version in ("base", "v0.1", "v0.2"):
            if version != "base":
                engine.load("chat", version, versions / version, "0123456789abcdef")
            engine.serve("chat", None if version == "base" else version)
            question = [{"role": "user", "content": "Which colour is the door of Arlo?"}]
            request = engine.submit("chat", question, Sampling(max_tokens=6))
            while engine.waiting:
                engine.work(0)
            pieces = list(request.answer(0))
            texts.append(("".join(piece.text for piece in pieces), pieces[-1]))
        said.append(texts)
        engine.close()

    assert said[0] == said[1]
    assert len({text for text, _ in said[0]}) == 3
