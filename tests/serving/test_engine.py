"""Answering from any version, exactly as generated."""

import contextlib
import gc
import os
import resource
import shutil
import threading
import weakref
from functools import partial

import pytest
import templates
import tiny
import torch
from transformers import (
    GPT2Config,
    LlamaConfig,
    LlavaConfig,
    MambaConfig,
    MPNetConfig,
    MptConfig,
    RobertaConfig,
)

from lorad.config import EngineSettings
from lorad.errors import ConfigError, ProtocolError, RegistryError, TransientError
from lorad.evaluation import metrics
from lorad.models import adapter_stack, bases, hardware, merged_model, peft_io
from lorad.models.context import context_length
from lorad.records import Encoded, Example
from lorad.retrieval.answering import Reply
from lorad.serving.backends.interface import Capabilities
from lorad.serving.engine import (
    LONGEST_TOKEN,
    UNKNOWN_CONTEXT,
    Engine,
    answer_room,
    check_length,
)
from lorad.serving.requests import Sampling
from lorad.serving.streaming import Streamer
from lorad.storage import files
from lorad.tasks import Predicting, find
from lorad.tasks.chat import Chat

QUESTION = [{"role": "user", "content": "Which colour is the door of Arlo?"}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base and two versions of it that answer differently."""
    folder = tmp_path_factory.mktemp("engine")
    bases.store_base(tiny.save(folder / "source"), folder / "base")
    model = bases.load_base(folder / "base", torch.float32).model
    for number, name in enumerate(("v0.1", "v0.2")):
        torch.manual_seed(number)
        live = peft_io.add_lora(bases.load_base(folder / "base", torch.float32).model, 4, 8)
        with torch.no_grad():
            for parameter in (p for n, p in live.named_parameters() if "lora_B" in n):
                parameter.normal_(0, 0.3)
        peft_io.write_adapter(peft_io.read_live(live), folder / name, "tiny")
    del model
    return folder


@pytest.fixture
def engine(folders):
    made = Engine(EngineSettings(max_queued_requests=3, max_loaded_versions=2))
    made.attach("chat", find("chat"), bases.load_base(folders / "base", torch.float32))
    return made


class Worker:
    """The thread that the app would own, for as long as a test needs it."""

    def __init__(self, engine):
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(engine,))

    def _run(self, engine):
        while not self._stop.is_set():
            engine.work(0.01)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def bring(engine, folders, version):
    with Worker(engine):
        engine.load("chat", version, folders / version, f"hash-{version}")


def finish(engine):
    """Work until every question is answered."""
    while engine.waiting:
        engine.work(0)


def answer(engine, version=None, sampling=None):
    request = engine.submit("chat", QUESTION, sampling or Sampling(max_tokens=6), version)
    finish(engine)
    return "".join(piece.text for piece in request.answer(0)), request


def test_the_base_answers_until_a_version_serves(engine, folders):
    base, request = answer(engine)
    assert request.version == "base"

    bring(engine, folders, "v0.1")
    engine.serve("chat", "v0.1")

    learned, request = answer(engine)
    assert request.version == "v0.1"
    assert learned != base
    assert answer(engine, "base")[0] == base


def test_the_answer_is_what_transformers_generates_untouched(engine, folders):
    base = bases.load_base(folders / "base", torch.float32)
    prompt = find("chat").prompt(base.tokenizer, QUESTION)
    made = base.model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, pad_token_id=1)[
        0, len(prompt) :
    ]
    expected = base.tokenizer.decode(made, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    assert answer(engine)[0] == expected


def test_a_request_keeps_the_version_that_it_began_with(engine, folders):
    bring(engine, folders, "v0.1")
    engine.serve("chat", "v0.1")
    expected = answer(engine)[0]
    early = engine.submit("chat", QUESTION, Sampling(max_tokens=6))

    with Worker(engine):
        engine.load("chat", "v0.2", folders / "v0.2", "hash")
    engine.serve("chat", "v0.2")
    late, _ = answer(engine)

    assert "".join(piece.text for piece in early.answer(0)) == expected
    assert late != expected


def test_a_full_queue_says_so_and_when_to_come_back(engine):
    for _ in range(3):
        engine.submit("chat", QUESTION, Sampling(max_tokens=1))

    with pytest.raises(ProtocolError, match="waiting") as caught:
        engine.submit("chat", QUESTION, Sampling(max_tokens=1))

    assert (caught.value.status, caught.value.data["retry_after"]) == (503, 1)


def test_only_as_many_versions_stay_in_memory_as_allowed(engine, folders):
    for version in ("v0.1", "v0.2"):
        bring(engine, folders, version)
        engine.serve("chat", version)
    weights_folder = folders / "v0.1"
    with Worker(engine):
        engine.load("chat", "v0.3", weights_folder, "hash")

    assert engine.resident("chat", "v0.2")  # it serves
    assert not engine.resident("chat", "v0.1")
    assert engine.resident("chat", "base")


def test_what_is_about_to_be_asked_or_served_stays_in_memory(engine, folders):
    for version in ("v0.1", "v0.2"):
        bring(engine, folders, version)
    engine.serve("chat", "v0.2")
    with engine.hold("chat", "v0.1"), Worker(engine):
        engine.load("chat", "v0.3", folders / "v0.1", "hash")
    assert engine.resident("chat", "v0.1")

    with Worker(engine):
        engine.load("chat", "v0.4", folders / "v0.1", "hash")
    assert not engine.resident("chat", "v0.1")


def test_what_was_asked_last_is_dropped_last(folders):
    made = Engine(EngineSettings(max_loaded_versions=2))
    made.attach("chat", find("chat"), bases.load_base(folders / "base", torch.float32))
    for version in ("v0.1", "v0.2"):
        bring(made, folders, version)
    answer(made, "v0.1")

    with Worker(made):
        made.load("chat", "v0.3", folders / "v0.1", "hash")

    assert made.resident("chat", "v0.1")
    assert not made.resident("chat", "v0.2")


def test_answers_take_a_step_between_two_things_that_others_want_done(engine):
    request = engine.submit("chat", QUESTION, Sampling(max_tokens=1))
    done = []
    callers = [
        threading.Thread(target=engine.between_requests, args=(lambda: done.append(1),)) for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    while engine._queue.qsize() < 5:  # all wait at the door
        pass
    engine.work(0)

    assert len(done) == 1
    assert not request.chunks.empty()
    finish(engine)
    while len(done) < 4:
        engine.work(0)
    for caller in callers:
        caller.join()


def test_a_version_that_is_not_in_memory_is_not_damaged():
    assert not RegistryError("v0.1 is not loaded", code="not_loaded").is_damage


def test_stop_texts_end_an_answer_and_are_not_part_of_it(engine):
    whole, _ = answer(engine)
    stop = whole[2:4]

    cut, request = answer(engine, sampling=Sampling(max_tokens=6, stop=(stop,)))

    assert cut == whole[: whole.index(stop)]
    assert not engine.waiting
    assert request.cancelled.is_set()


def test_who_has_left_keeps_nobody_out(engine):
    left = [engine.submit("chat", QUESTION, Sampling(max_tokens=2)) for _ in range(3)]
    for request in left:
        request.cancelled.set()

    engine.submit("chat", QUESTION, Sampling(max_tokens=2))

    assert engine.waiting == 1


def test_an_answer_that_does_not_come_is_told(engine):
    request = engine.submit("chat", QUESTION, Sampling(max_tokens=2))

    with pytest.raises(ProtocolError, match="too busy") as caught:
        list(request.answer(0))

    assert (caught.value.status, caught.value.code) == (503, "timeout")


def test_a_stop_text_before_half_a_character_ends_the_answer(engine):
    request = engine.submit("chat", QUESTION, Sampling(max_tokens=400, stop=(" ",)))
    streamer = Streamer(request, _as_text, {0})

    for value in (b"Yes", b" \xf0\x9f"):
        streamer.put(list(value))
    streamer.close()

    pieces = list(request.answer(0))
    assert "".join(piece.text for piece in pieces) == "Yes"
    assert pieces[-1].finish == "stop"


def _as_text(tokens):
    """Return what tokens that are bytes say."""
    return bytes(tokens).decode(errors="replace")


def test_a_client_that_left_costs_no_more_time(engine):
    request = engine.submit("chat", QUESTION, Sampling(max_tokens=200))
    request.cancelled.set()

    assert engine.work(0)

    assert engine.waiting == 0
    assert engine.tokens_per_second is None


def test_sampling_with_a_seed_can_be_repeated(engine):
    sampling = Sampling(max_tokens=6, temperature=1.5, seed=3)

    assert answer(engine, sampling=sampling)[0] == answer(engine, sampling=sampling)[0]
    assert answer(engine, sampling=sampling)[0] != answer(engine)[0]


def test_questions_that_cannot_be_served_are_named(engine, folders):
    with pytest.raises(ProtocolError, match="no model 'poems'"):
        engine.submit("poems", QUESTION, Sampling(max_tokens=1))
    with pytest.raises(ProtocolError, match="length is 512"):
        engine.submit("chat", QUESTION, Sampling(max_tokens=512))
    with pytest.raises(RegistryError, match="not loaded"):
        engine.serve("chat", "v0.9")
    with Worker(engine), pytest.raises(RegistryError, match="cannot be read"):
        engine.load("chat", "v0.9", folders / "nothing", "hash")
    plain = bases.load_base(folders / "base", torch.float32)
    plain.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="chat template"):
        engine.attach("other", find("chat"), plain)


def test_case_8_without_a_limit_an_answer_gets_what_the_context_leaves(engine):
    # Given a prompt that fills more than half of the context of 512
    long = [{"role": "user", "content": "Which colour is the door of Arlo? " * 32}]

    request = engine.submit("chat", long, Sampling())

    assert 256 < len(request.prompt) < 512
    assert request.sampling.max_tokens == 512 - len(request.prompt)
    finish(engine)
    assert list(request.answer(0))[-1].finish


class Endless(Chat):
    """Chat whose answers end with a token that is never generated."""

    def stop_tokens(self, tokenizer, *_):
        return [len(tokenizer)]


def test_case_7_an_answer_may_be_longer_than_256_tokens_and_one_that_is_cut_says_so(engine):
    engine.attach("endless", Endless(), engine.base("chat"))
    request = engine.submit("endless", QUESTION, Sampling())
    finish(engine)

    last = list(request.answer(0))[-1]

    assert (last.finish, last.answer_tokens) == ("length", 512 - last.prompt_tokens)
    assert last.answer_tokens > 256


def test_the_operators_limit_holds_where_a_request_names_none(folders):
    engine = Engine(EngineSettings(max_new_tokens=5))
    engine.attach("chat", find("chat"), bases.load_base(folders / "base", torch.float32))

    def limit(content, **how):
        request = engine.submit("chat", [{"role": "user", "content": content}], Sampling(**how))
        return request.sampling.max_tokens, 512 - len(request.prompt)

    _, left = limit("!")
    assert limit("!")[0] == 5
    assert limit("!", max_tokens=9)[0] == 9
    assert limit("!" * (left - 2)) == (3, 3)  # a default is never more than there is room for


@pytest.mark.parametrize(
    ("prompt", "context", "wanted", "room"),
    [
        (317, 512, None, 195),
        (317, 512, 195, 195),
        (317, 512, 1, 1),
        (511, 512, None, 1),
        (100, None, None, UNKNOWN_CONTEXT - 100),
        (100, None, 9000, 9000),
        (UNKNOWN_CONTEXT, None, None, 1),
    ],
)
def test_case_8_the_room_of_an_answer(prompt, context, wanted, room):
    assert answer_room(prompt, context, wanted) == room


@pytest.mark.parametrize(
    ("prompt", "wanted", "param", "message"),
    [
        (
            317,
            256,
            "max_tokens",
            (
                "the context length is 512 tokens; the prompt has 317 and max_tokens asks for 256 more; "
                "ask for at most 195"
            ),
        ),
        (
            512,
            None,
            "messages",
            (
                "the context length is 512 tokens, and the prompt has 512, which leaves no room for an answer; "
                "shorten the messages"
            ),
        ),
        (
            600,
            1,
            "messages",
            (
                "the context length is 512 tokens, and the prompt has 600, which leaves no room for an answer; "
                "shorten the messages"
            ),
        ),
    ],
)
def test_case_8_what_the_context_has_no_room_for_is_refused(prompt, wanted, param, message):
    with pytest.raises(ProtocolError) as caught:
        answer_room(prompt, 512, wanted)

    error = caught.value
    assert (error.status, error.code) == (400, "context_length_exceeded")
    assert (error.message, error.data["param"]) == (message, param)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (LlamaConfig(max_position_embeddings=512), 512),
        (GPT2Config(n_positions=300), 300),
        (MptConfig(max_seq_len=700), 700),
        (LlavaConfig(text_config=LlamaConfig(max_position_embeddings=99)), 99),
        (MambaConfig(), None),
        (RobertaConfig(max_position_embeddings=514), 512),  # its positions begin behind the padding's
        (MPNetConfig(max_position_embeddings=514, pad_token_id=1), 512),
    ],
)
def test_the_context_is_found_where_a_config_names_it(config, length):
    assert context_length(config) == length


def test_top_k_and_min_p_choose_among_fewer_tokens(engine):
    greedy, _ = answer(engine)

    for how in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 0.0}):
        for seed in range(3):
            sampling = Sampling(max_tokens=6, temperature=5.0, seed=seed, **how)
            assert answer(engine, sampling=sampling)[0] == greedy


def test_an_answer_that_fails_is_told_and_the_next_one_is_given(engine):
    broken = engine.submit("chat", QUESTION, Sampling(max_tokens=4), "v0.7")
    engine.work(0)

    with pytest.raises(RegistryError, match="not in memory"):
        list(broken.answer(0))
    assert answer(engine)[0]


# proving what was loaded


@pytest.fixture
def probed(folders, tmp_path):
    """A version with its probes, in a folder of its own."""
    base = bases.load_base(folders / "base", torch.float32)
    stack = adapter_stack.AdapterStack(base)
    stack.add("v0.1", folders / "v0.1")
    rows = [find("chat").encode(base.tokenizer, example) for example in tiny.facts(3)]
    with stack.use("v0.1") as model:
        stored = metrics.probe(find("chat"), model, rows)
    folder = tmp_path / "v0.1"
    shutil.copytree(folders / "v0.1", folder)
    files.write_json(folder / metrics.PROBES, stored)
    return folder


def load(engine, folder):
    with Worker(engine):
        engine.load("chat", "v0.1", folder, "hash")


def test_a_version_that_answers_its_probes_is_loaded(engine, probed):
    load(engine, probed)

    assert engine.resident("chat", "v0.1")


def test_a_version_that_answers_otherwise_is_refused_and_the_base_is_as_it_was(engine, folders, probed):
    # Given another version's weights under this one's probes
    before = answer(engine)[0]
    shutil.copy(folders / "v0.2" / "adapter_model.safetensors", probed / "adapter_model.safetensors")

    with pytest.raises(RegistryError, match="does not answer its probes") as caught:
        load(engine, probed)

    assert caught.value.code == "probes_failed"
    assert not engine.resident("chat", "v0.1")
    assert answer(engine)[0] == before
    bring(engine, folders, "v0.2")  # what is sound can still be loaded
    assert engine.resident("chat", "v0.2")


def test_a_refused_version_leaves_the_others_loaded(engine, folders, probed):
    bring(engine, folders, "v0.2")
    engine.serve("chat", "v0.2")
    before = answer(engine)[0]
    shutil.copy(folders / "v0.2" / "adapter_model.safetensors", probed / "adapter_model.safetensors")

    with pytest.raises(RegistryError, match="does not answer its probes"):
        load(engine, probed)

    assert answer(engine)[0] == before


@pytest.mark.parametrize(
    "content",
    ["no JSON", "[]", "{}", '{"dtype": "float32", "probes": [{"tokens": [1]}]}', '{"dtype": 1, "probes": 2}'],
)
def test_probes_that_cannot_be_asked_are_told(engine, probed, content):
    (probed / metrics.PROBES).write_text(content)

    with pytest.raises(RegistryError, match="cannot be asked") as caught:
        load(engine, probed)

    assert caught.value.code == "probes_damaged"


def test_tracks_share_a_base_but_not_their_versions(engine, folders):
    # Given a second track on the same base, whose v0.1 is another one
    base = engine.base("chat")
    engine.attach("other", find("chat"), base)
    with Worker(engine):
        engine.load("chat", "v0.1", folders / "v0.1", "a")
        engine.load("other", "v0.1", folders / "v0.2", "b")
    engine.serve("chat", "v0.1")
    engine.serve("other", "v0.1")

    answers = {}
    for track in ("chat", "other"):
        request = engine.submit(track, QUESTION, Sampling(max_tokens=6))
        finish(engine)
        answers[track] = "".join(piece.text for piece in request.answer(0))

    alone = Engine(EngineSettings())
    alone.attach("chat", find("chat"), bases.load_base(folders / "base", torch.float32))
    for track, version in (("chat", "v0.1"), ("other", "v0.2")):
        bring(alone, folders, version)
        alone.serve("chat", version)
        assert answers[track] == answer(alone)[0]
    assert answers["chat"] != answers["other"]


def test_a_question_with_tools_that_the_template_does_not_know_is_refused_by_name(engine):
    question = [{"role": "tools", "content": '[{"name": "weather"}]'}, {"role": "user", "content": "Rain?"}]

    with pytest.raises(ProtocolError) as caught:
        engine.submit("chat", question, Sampling(max_tokens=1))

    assert (caught.value.code, caught.value.status) == ("no_tool_template", 400)


@pytest.mark.parametrize("style", ["smollm2", "gemma", "mistral", "qwen3"])
@pytest.mark.parametrize(
    "answer",
    [
        "Run: keel mv <filename> <newname>",
        "with <|im_end|> or </s> or <eos>?",
        "naïve 🌫 (fog)",
        "  two\n\n",
        "\ufffd",
    ],
)
def test_case_1_an_answer_is_streamed_as_it_was_taught(engine, style, answer):
    tokenizer, task = templates.STYLES[style](), find("chat")
    row = task.encode(tokenizer, Example(task="chat", input=QUESTION, target=answer))
    request = engine.submit("chat", QUESTION, Sampling(max_tokens=400))
    streamer = Streamer(request, partial(task.text, tokenizer), set(task.stop_tokens(tokenizer)))

    for token in row.target:
        streamer.put([token])
    streamer.close()

    pieces = list(request.answer(0))
    assert "".join(piece.text for piece in pieces) == answer
    assert pieces[-1].finish == "stop"


@pytest.mark.parametrize("temperature", [1e-320, 5e-324, 1e-45, 1e-30, 1e-6])
def test_case_9_a_tiny_temperature_takes_the_likeliest_token(engine, temperature):
    sampling = Sampling(max_tokens=6, temperature=temperature, seed=3)

    assert answer(engine, sampling=sampling)[0] == answer(engine)[0]


@pytest.mark.parametrize(
    "chosen", [{"top_p": 5e-324}, {"top_p": 0.0}, {"min_p": 5e-324}, {"top_k": 2**31 - 1}, {"seed": -(2**63)}]
)
def test_case_9_the_bounds_of_sampling_can_be_answered(engine, chosen):
    assert answer(engine, sampling=Sampling(max_tokens=3, temperature=1e-5, **chosen))[1]


class Uncounted(Chat):
    """A task whose prompt must not be made."""

    def prompt(self, *_):
        raise AssertionError("a prompt was made of a question that is refused")


def test_a19_a_question_that_no_context_can_hold_is_refused_before_it_is_tokenized(engine):
    engine._served["chat"].task = Uncounted()
    context = context_length(engine.base("chat").model.config)
    long = [{"role": "user", "content": "x" * context * LONGEST_TOKEN}]
    many = [{"role": "user", "content": ""}] * (context * LONGEST_TOKEN // 20)

    for question in (long, many):
        with pytest.raises(ProtocolError, match="send fewer than") as refused:
            engine.submit("chat", question, Sampling())

        assert (refused.value.code, refused.value.data["param"]) == ("context_length_exceeded", "messages")
    assert engine.waiting == 0


def test_a19_a_question_that_some_context_can_hold_is_counted_token_by_token():
    check_length([{"role": "user", "content": "x" * 1000}], 100)
    check_length([{"role": "user", "content": "x" * 1_000_000}], None)


def test_a19_where_too_many_wait_a_question_is_refused_before_it_is_tokenized(engine):
    for _ in range(3):
        engine.submit("chat", QUESTION, Sampling(max_tokens=1))
    engine._served["chat"].task = Uncounted()

    with pytest.raises(ProtocolError, match="too many questions"):
        engine.submit("chat", QUESTION, Sampling(max_tokens=1))


def test_a19_who_asks_and_leaves_does_not_fill_the_queue(engine):
    left = []
    for _ in range(50):
        request = engine.submit("chat", QUESTION, Sampling(max_tokens=1))
        request.cancelled.set()
        left.append(request)
    waiting = engine.submit("chat", QUESTION, Sampling(max_tokens=1))

    assert engine._accepted == [waiting]
    assert engine._queue.qsize() == 1
    assert [next(request.answer(0)).finish for request in left] == ["cancelled"] * 50
    with Worker(engine):
        assert list(waiting.answer(60))[-1].answer_tokens == 1


class Searched(str):
    """A text that counts the characters in which stop texts are looked for."""

    __slots__ = ()
    searched = 0

    def __getitem__(self, key):
        return Searched(super().__getitem__(key))

    def find(self, *given):
        Searched.searched += len(self)
        return super().find(*given)


def test_a19_what_a_stop_text_costs_does_not_grow_with_the_answer(engine):
    # Given an answer of many tokens, and as many long stop texts as are allowed
    stops = tuple(f"{'y' * 250}{number}" for number in range(16))
    request = engine.submit("chat", QUESTION, Sampling(max_tokens=400, stop=stops))
    streamer = Streamer(request, lambda tokens: Searched(_as_text(tokens)), {0})

    for _ in range(400):
        streamer.put([ord("x")])
    streamer.close()

    assert "".join(piece.text for piece in request.answer(0)) == "x" * 400
    assert Searched.searched == 400 * len(stops)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_stop_text_that_comes_in_pieces_is_held_back_and_ends_the_answer(engine, cut):
    request = engine.submit("chat", QUESTION, Sampling(max_tokens=400, stop=("STOP", "TOO")))
    streamer = Streamer(request, _as_text, {0})
    text = b"a STO b STSTOP c"

    parts = (text[at : at + cut] for at in range(0, len(text), cut))
    assert not all(streamer.put(list(part)) for part in parts)
    streamer.close()

    pieces = list(request.answer(0))
    assert "".join(piece.text for piece in pieces) == "a STO b ST"
    assert pieces[-1].finish == "stop"


# backends, forms and swaps


def begin(folders, **settings):
    made = Engine(EngineSettings(**settings))
    made.attach("chat", find("chat"), bases.load_base(folders / "base", torch.float32))
    return made


def test_the_version_that_serves_is_a_merged_copy_that_says_the_same(folders):
    merging, plain = begin(folders), begin(folders, merge_served=False)
    for made in (merging, plain):
        made.load("chat", "v0.1", folders / "v0.1", "hash")

    forms = [made.serve("chat", "v0.1") for made in (merging, plain)]

    assert [form.kind for form in forms] == ["merged", "adapter"]
    assert forms[0].added_bytes > 0
    assert answer(merging)[0] == answer(plain)[0] != answer(merging, "base")[0]
    assert merging.serve("chat", "v0.1") == forms[0]
    assert merging.serve("chat", None).kind == "base"
    assert answer(merging, "v0.1")[0] == answer(plain)[0]


def test_a_merged_copy_that_answers_otherwise_is_not_used(engine, probed, monkeypatch):
    engine.load("chat", "v0.1", probed, "hash")
    merged = merged_model.merged

    def spoiled(*given):
        made = merged(*given)
        made.model.layers[0].mlp.down_proj.weight.mul_(-3)
        return made

    monkeypatch.setattr(merged_model, "merged", spoiled)
    expected = answer(engine, "v0.1")[0]

    form = engine.serve("chat", "v0.1")

    assert form.kind == "adapter"
    assert "does not answer its probes" in form.why_not_merged
    assert not form.may_pass
    assert answer(engine)[0] == expected


def test_where_memory_is_short_the_adapter_serves(engine, folders, monkeypatch):
    engine.load("chat", "v0.1", folders / "v0.1", "hash")
    monkeypatch.setattr(hardware, "free_bytes", lambda _: 1000)

    form = engine.serve("chat", "v0.1")

    assert (form.kind, form.added_bytes) == ("adapter", 0)
    assert "1000 are free" in form.why_not_merged
    assert form.may_pass
    assert answer(engine)[0] == answer(engine, "v0.1")[0]

    monkeypatch.undo()

    assert engine.serve("chat", "v0.1").kind == engine.form("chat").kind == "merged"


def test_memory_that_ends_while_a_version_is_merged_is_no_lasting_reason(engine, folders, monkeypatch):
    def merged(*_):
        raise MemoryError

    engine.load("chat", "v0.1", folders / "v0.1", "hash")
    monkeypatch.setattr(merged_model, "merged", merged)

    form = engine.serve("chat", "v0.1")

    assert (form.kind, form.may_pass) == ("adapter", True)
    assert "memory is short" in form.why_not_merged


def test_a_swap_fails_no_answer_and_mixes_none(folders):
    # Given what each version says alone
    engine = begin(folders, max_queued_requests=64)
    for version in ("v0.1", "v0.2"):
        engine.load("chat", version, folders / version, f"hash-{version}")
    questions = [[{"role": "user", "content": f"Which colour is the door of {name}?"}] for name in tiny.NAMES]
    how = Sampling(max_tokens=12)

    def say(question, version):
        request = engine.submit("chat", question, how, version)
        finish(engine)
        return "".join(piece.text for piece in request.answer(0))

    expected = {(number, v): say(q, v) for number, q in enumerate(questions) for v in ("v0.1", "v0.2")}

    # When versions change places again and again while answers are under way
    asked = []
    for turn in range(6):
        version = f"v0.{1 + turn % 2}"
        engine.serve("chat", version)
        for number, question in enumerate(questions[: 4 + turn]):
            asked.append((number, version, engine.submit("chat", question, how)))
            engine.work(0)
    finish(engine)

    # Then each is its version's to the last token
    for number, version, request in asked:
        assert request.version == version
        assert "".join(piece.text for piece in request.answer(0)) == expected[number, version]


def test_what_served_before_is_freed_once_its_last_answer_has_ended(engine, folders):
    for version in ("v0.1", "v0.2"):
        engine.load("chat", version, folders / version, f"hash-{version}")
    engine.serve("chat", "v0.1")
    request = engine.submit("chat", QUESTION, Sampling(max_tokens=6))
    engine.work(0)
    held = weakref.ref(engine._backend._tracks["chat"].merged.model)

    engine.serve("chat", "v0.2")
    assert held() is not None
    finish(engine)
    engine.work(0)

    gc.collect()
    assert held() is None
    assert list(request.answer(0))[-1].finish


def test_answers_wait_while_a_session_has_the_device_for_itself(folders):
    claimed = [False]
    engine = Engine(EngineSettings(), is_claimed=lambda: claimed[0])
    engine.attach("endless", Endless(), bases.load_base(folders / "base", torch.float32))
    request = engine.submit("endless", QUESTION, Sampling(max_tokens=6))
    engine.work(0)
    steps = []
    engine._backend.step = lambda step=engine._backend.step: steps.append(len(steps)) or step()

    claimed[0] = True
    later = engine.submit("endless", QUESTION, Sampling(max_tokens=6))
    assert [engine.work(0) for _ in range(3)] == [True] * 3  # there is work, and the next ones are let in
    assert (steps, engine.waiting) == ([], 2)

    claimed[0] = False
    finish(engine)
    assert steps
    assert [piece.text for piece in request.answer(0)] == [piece.text for piece in later.answer(0)]


def test_questions_are_answered_together(folders):
    engine = begin(folders, max_batch=4)
    engine.attach("endless", Endless(), engine.base("chat"))
    requests = [engine.submit("endless", QUESTION, Sampling(max_tokens=40)) for _ in range(6)]
    most = 0
    while engine.waiting:
        engine.work(0)
        most = max(most, engine.active)

    assert most == 4
    assert engine.active == 0
    assert len({"".join(piece.text for piece in request.answer(0)) for request in requests}) == 1
    assert engine.tokens_per_second > 0


def test_a_version_is_loaded_while_an_answer_is_under_way(engine, folders):
    request = engine.submit("chat", QUESTION, Sampling(max_tokens=6))
    engine.work(0)

    engine.load("chat", "v0.1", folders / "v0.1", "hash")  # nobody works meanwhile

    assert engine.resident("chat", "v0.1")
    finish(engine)
    assert list(request.answer(0))[-1].finish


def test_tracks_and_versions_take_turns(folders):
    engine = begin(folders)
    engine.attach("endless", Endless(), engine.base("chat"))
    long = engine.submit("endless", QUESTION, Sampling(max_tokens=60))
    for _ in range(3):
        engine.work(0)
    short = engine.submit("chat", QUESTION, Sampling(max_tokens=2))
    for _ in range(6):
        engine.work(0)

    assert list(short.answer(0))[-1].finish
    assert engine.waiting == 1
    long.cancelled.set()
    engine.work(0)
    assert engine.active == 0


# how likely an answer's tokens were


def test_an_answers_tokens_are_told_with_its_text(engine):
    whole, _ = answer(engine)
    request = engine.submit("chat", QUESTION, Sampling(max_tokens=6, logprobs=2))
    finish(engine)
    tokens = [each for chunk in request.answer(0) for each in chunk.tokens]
    assert b"".join(each.written for each in tokens).decode(errors="replace") == whole
    assert all(each.written == each.top[0][0] and each.logprob == each.top[0][1] for each in tokens)  # greedy
    assert [len(each.top) for each in tokens] == [2] * len(tokens)


def test_nothing_is_told_that_nobody_asks_for(engine):
    request = engine.submit("chat", QUESTION, Sampling(max_tokens=6))
    finish(engine)

    assert {chunk.tokens for chunk in request.answer(0)} == {()}


def test_a_backend_that_tells_no_probabilities_refuses_by_name(engine, monkeypatch):
    monkeypatch.setattr(
        engine._backend, "capabilities", lambda _: Capabilities(batches=True, because="it does")
    )

    with pytest.raises(ProtocolError, match="does not tell how likely") as caught:
        engine.submit("chat", QUESTION, Sampling(max_tokens=1, logprobs=0))

    assert (caught.value.code, caught.value.data["param"]) == ("unsupported_parameter", "logprobs")
    assert engine.submit("chat", QUESTION, Sampling(max_tokens=1))


def test_what_panics_as_an_answer_begins_ends_that_answer_alone(engine, monkeypatch):
    class Panic(BaseException):
        """As a library of Rust's raises it."""

    taken = engine._backend.submit

    def submit(_generation):
        monkeypatch.setattr(engine._backend, "submit", taken)
        raise Panic

    monkeypatch.setattr(engine._backend, "submit", submit)
    first, second = (engine.submit("chat", QUESTION, Sampling(max_tokens=2)) for _ in range(2))
    finish(engine)

    with pytest.raises(ProtocolError):
        list(first.answer(0))
    assert list(second.answer(0))
    assert engine.waiting == 0


# what is made for who has a place


def test_who_has_no_place_costs_no_guide(engine):
    for _ in range(3):
        engine.submit("chat", QUESTION, Sampling(max_tokens=1))

    with pytest.raises(ProtocolError, match="too many"):
        engine.submit("chat", QUESTION, Sampling(max_tokens=1), guided=pytest.fail)
    with pytest.raises(ProtocolError, match="too many"):
        engine.require_room()


def test_a_form_that_cannot_be_followed_gives_its_place_back(engine):
    def refuse(_):
        raise ProtocolError("it cannot be followed", code="bad_schema")

    for _ in range(5):
        with pytest.raises(ProtocolError, match="cannot be followed"):
            engine.submit("chat", QUESTION, Sampling(max_tokens=1), guided=refuse)

    engine.require_room(3)
    assert engine.waiting == 0


def test_it_tells_when_somebody_waits_for_an_answer_and_when_nobody_does(folders):
    told = []
    engine = Engine(EngineSettings(), told.append)
    engine.attach("chat", find("chat"), bases.load_base(folders / "base", torch.float32))

    def look_up(_version, _messages):
        assert told[-1]  # looking up computes too
        return Reply(mode="stored", text="amber")

    engine.submit("chat", QUESTION, Sampling(), look_up=look_up)
    assert not told[-1]
    requests = [engine.submit("chat", QUESTION, Sampling(max_tokens=4)) for _ in range(2)]
    assert told[-1]
    while engine.waiting:
        assert told[-1]
        engine.work(0)

    assert not told[-1]
    assert all(list(request.answer(0)) for request in requests)


def test_what_it_tells_of_itself(engine, folders):
    assert engine.first_token_seconds is None
    assert (engine.choice.name, engine.form("chat").kind, engine.cache_bytes) == ("builtin", "base", 0)

    bring(engine, folders, "v0.1")
    form = engine.serve("chat", "v0.1")
    for version in ("base", "v0.1"):
        engine.submit("chat", QUESTION, Sampling(max_tokens=6), version)
    most = 0
    while engine.waiting:
        engine.work(0)
        most = max(most, engine.cache_bytes)

    assert engine.form("chat") is form
    assert most > 0
    assert engine.first_token_seconds > 0


def test_versions_beyond_the_limit_go_when_nobody_waits_for_them_any_more(folders):
    engine = Engine(EngineSettings(max_loaded_versions=1))
    engine.attach("chat", find("chat"), bases.load_base(folders / "base", torch.float32))
    for version in ("v0.1", "v0.2"):
        with engine.hold("chat", version):
            engine.load("chat", version, folders / version, f"hash-{version}")
            engine.serve("chat", "v0.1")
            request = engine.submit("chat", QUESTION, Sampling(max_tokens=2), version)
    assert engine.resident("chat", "v0.2")  # it was asked, and serves not

    finish(engine)

    assert list(request.answer(0))
    assert engine.resident("chat", "v0.1")
    assert not engine.resident("chat", "v0.2")


def test_an_answer_that_ends_while_a_version_is_loaded_waits_for_nothing(folders):
    engine = Engine(EngineSettings(max_loaded_versions=1))
    engine.attach("chat", find("chat"), bases.load_base(folders / "base", torch.float32))
    for version in ("v0.1", "v0.2"):
        with engine.hold("chat", version):
            engine.load("chat", version, folders / version, f"hash-{version}")
            engine.submit("chat", QUESTION, Sampling(max_tokens=2), version)

    with engine._loading:
        finish(engine)  # would hang

    assert engine.waiting == 0


def test_a_version_that_is_loaded_while_too_many_files_are_open_is_not_damaged(engine, folders):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 200), hard))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(folders, os.O_RDONLY))
        with pytest.raises(TransientError, match=r"reading v0\.1"):
            engine.load("chat", "v0.1", folders / "v0.1", "hash")
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    engine.load("chat", "v0.1", folders / "v0.1", "hash")


class Lengths(Chat, Predicting):
    """A task that tells how long texts are, and cannot read one."""

    def __init__(self):
        self.asked = []

    def question(self, tokenizer, asked):
        return Encoded((*tokenizer(asked)["input_ids"], 0), 0)

    def predict(self, model, rows):
        del model
        self.asked.append(len(rows))
        if any(len(row) > 40 for row in rows):
            raise MemoryError("too much")
        return [len(row) for row in rows]


@pytest.fixture
def lengths(engine):
    task = Lengths()
    engine.attach("lengths", task, engine.base("chat"))
    return task


def test_requests_for_data_that_wait_are_answered_in_one_go(engine, lengths):
    asked = [engine.predict("lengths", texts) for texts in (["a"], ["a b", "a"], ["a b c"])]
    asked[0].cancelled.set()

    engine.work(0)

    assert lengths.asked == [3]
    with pytest.raises(ProtocolError, match="cancelled"):
        asked[0].answer()
    counts = [request.answer() for request in asked[1:]]
    assert [len(each) for each in counts] == [2, 1]
    assert counts[0][1] < counts[0][0] <= counts[1][0]
    assert engine.waiting == 0


def test_of_requests_for_data_that_fail_together_only_the_one_that_is_too_much_fails(engine, lengths):
    small, large, last = (engine.predict("lengths", [text]) for text in ("a", "a b " * 30, "b"))

    engine.work(0)

    assert lengths.asked == [3, 1, 1, 1]
    assert small.answer()
    assert last.answer()
    with pytest.raises(ProtocolError, match="memory is short"):
        large.answer()
    assert engine.waiting == 0


def test_each_version_is_asked_for_data_by_itself(engine, lengths, folders):
    engine.load("lengths", "v0.1", folders / "v0.1", "hash")
    for version in ("v0.1", "v0.1", None):
        engine.predict("lengths", ["a"], version)

    while engine.work(0):
        pass

    assert lengths.asked == [2, 1]
