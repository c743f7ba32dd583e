"""Answering from an example: which conversations are looked up, what the engine makes of a reply, what it counts."""

import copy
import threading

import pytest
import tiny
import torch

from lorad.config import EngineSettings
from lorad.errors import ProtocolError
from lorad.models import bases, peft_io
from lorad.retrieval.answering import Reply, Source
from lorad.serving.engine import Engine
from lorad.serving.requests import Sampling
from lorad.serving.retrieval import is_looked_up
from lorad.tasks import find

QUESTION = [{"role": "user", "content": "What colour has Arlo's door?"}]
TRAINED = [{"role": "user", "content": "Which colour is the door of Arlo?"}]
SOURCE = Source(dataset="doors", row=1, question=TRAINED[0]["content"], similarity=0.8, confidence=0.9)
STORED = Reply(mode="stored", text="amber is the colour of the door", sources=(SOURCE,))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrieval")
    bases.store_base(tiny.save(folder / "source"), folder / "base")
    return bases.load_base(folder / "base", torch.float32)


@pytest.fixture
def engine(base):
    made = Engine(EngineSettings(max_queued_requests=2, max_loaded_versions=1))
    made.attach("chat", find("chat"), base)
    return made


def answered(engine, reply, sampling=None):
    """Return the pieces of an answer, its request and what was looked up."""
    looked_up = []

    def look_up(version, messages):
        looked_up.append((version, messages))
        return reply

    request = engine.submit("chat", QUESTION, sampling or Sampling(max_tokens=6), None, look_up)
    while engine.waiting:
        engine.work(0)
    return list(request.answer(0)), request, looked_up


def text(chunks):
    return "".join(chunk.text for chunk in chunks)


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (["user"], True),
        (["user", "assistant", "user"], True),
        (["system", "user"], False),
        (["tools", "user"], False),
        (["user", "assistant", "tool"], False),
    ],
)
def test_a_conversation_that_says_how_to_answer_is_not_looked_up(roles, expected):
    assert is_looked_up([{"role": role, "content": "x"} for role in roles]) is expected


def test_a_taught_question_is_asked_in_its_trained_wording(engine):
    told = answered(engine, Reply(mode="taught", messages=TRAINED, sources=(SOURCE,)))
    trained = engine.submit("chat", TRAINED, Sampling(max_tokens=6))
    while engine.waiting:
        engine.work(0)

    assert told[1].prompt == trained.prompt
    assert text(told[0]) == text(trained.answer(0))
    assert told[1].reply.sources == (SOURCE,)
    assert told[2] == [("base", QUESTION)]


@pytest.mark.parametrize("reply", [None, Reply(mode="weights")])
def test_without_an_example_the_model_is_asked_as_it_is(engine, reply):
    plain = engine.submit("chat", QUESTION, Sampling(max_tokens=6))
    while engine.waiting:
        engine.work(0)

    chunks, request, _ = answered(engine, reply)

    assert (request.prompt, text(chunks), request.reply) == (plain.prompt, text(plain.answer(0)), reply)


def test_a_stored_answer_is_there_at_once_whole_and_in_one_piece(engine):
    request = engine.submit(
        "chat", QUESTION, Sampling(temperature=1.0), None, lambda _version, _messages: STORED
    )

    assert engine.waiting == 0  # it never stood in the queue
    piece, end = request.answer(0)
    assert (piece.text, piece.finish) == (STORED.text, None)
    assert (end.text, end.finish, end.prompt_tokens) == ("", "stop", 0)
    assert end.answer_tokens > 1


def test_limits_hold_for_a_stored_answer(engine):
    (whole, end), _, _ = answered(engine, STORED, Sampling(max_tokens=500))
    count = end.answer_tokens

    (exact, exact_end), _, _ = answered(engine, STORED, Sampling(max_tokens=count))
    (cut, cut_end), _, _ = answered(engine, STORED, Sampling(max_tokens=count - 1))
    (stopped, stop_end), _, _ = answered(engine, STORED, Sampling(max_tokens=500, stop=(" of", " the")))

    assert (exact.text, exact_end.finish) == (whole.text, "stop")
    assert whole.text.startswith(cut.text)
    assert len(cut.text) < len(whole.text)
    assert (cut_end.finish, cut_end.answer_tokens) == ("length", count - 1)
    assert (stopped.text, stop_end.finish) == ("amber is", "stop")
    assert stop_end.answer_tokens < count


def test_a_stop_text_behind_the_last_token_that_is_allowed_is_not_seen(engine):
    (piece, end), _, _ = answered(engine, STORED, Sampling(max_tokens=1, stop=("door",)))

    assert end.finish == "length"
    assert "door" not in piece.text


def test_a_stored_answer_that_is_cut_ends_with_a_whole_character(engine):
    reply = Reply(mode="stored", text="é" * 5)
    for most in range(1, 10):
        (piece, _), _, _ = answered(engine, reply, Sampling(max_tokens=most))
        assert set(piece.text) <= {"é"}


def test_the_operators_limit_holds_for_a_stored_answer_of_no_stated_length(base):
    engine = Engine(EngineSettings(max_new_tokens=2))
    engine.attach("chat", find("chat"), base)

    request = engine.submit("chat", QUESTION, Sampling(), None, lambda _version, _messages: STORED)

    assert list(request.answer(0))[-1].finish == "length"


def test_ways_are_counted_and_questions_that_were_not_looked_up_are_in_none(engine):
    for reply in (STORED, STORED, Reply(mode="unknown", text="I don't know."), Reply(mode="weights"), None):
        answered(engine, reply)

    assert engine.modes == {"stored": 2, "unknown": 1, "weights": 1}
    assert engine.requests == 5


def test_a_look_up_takes_a_place_and_keeps_nobody_from_generating(engine):
    # Given two questions whose look-ups do not end
    begun, end = threading.Semaphore(0), threading.Event()

    def slow(_version, _messages):
        begun.release()
        end.wait(10)
        return STORED

    asking = [
        threading.Thread(target=engine.submit, args=("chat", QUESTION, Sampling(), None, slow))
        for _ in range(2)
    ]
    waiting = engine.submit("chat", QUESTION, Sampling(max_tokens=2))
    asking[0].start()
    assert begun.acquire(timeout=10)
    # When another one is generated meanwhile, then it is answered
    engine.work(0)
    assert text(waiting.answer(0)) is not None
    # And with all places taken, one more is told to come back
    asking[1].start()
    assert begun.acquire(timeout=10)
    with pytest.raises(ProtocolError, match="waiting"):
        engine.submit("chat", QUESTION, Sampling(max_tokens=1))
    end.set()
    for thread in asking:
        thread.join()


def test_a_version_stays_in_memory_while_its_question_is_looked_up(engine, tmp_path, base):
    # Given room for one version, and a question to it that is looked up
    live = peft_io.add_lora(copy.deepcopy(base.model), 2, 4)
    for name in ("v0.1", "v0.2"):
        peft_io.write_adapter(peft_io.read_live(live), tmp_path / name, "tiny")

    def load(version):
        loading = threading.Thread(target=engine.load, args=("chat", version, tmp_path / version, "hash"))
        loading.start()
        while loading.is_alive():
            engine.work(0.01)

    load("v0.1")
    engine.serve("chat", "v0.1")

    def look_up(version, _messages):
        # When the next version takes its place meanwhile
        load("v0.2")
        engine.serve("chat", "v0.2")
        load("v0.2")
        assert version == "v0.1"
        return Reply(mode="taught", messages=TRAINED)

    request = engine.submit("chat", QUESTION, Sampling(max_tokens=2), None, look_up)
    while engine.waiting:
        engine.work(0)

    # Then it is still answered by the one that it began with
    assert request.version == "v0.1"
    assert list(request.answer(0))[-1].finish


def test_what_goes_wrong_in_a_look_up_is_raised_and_gives_the_place_back(engine):
    def broken(_version, _messages):
        raise ProtocolError("no index", status=500)

    for _ in range(5):
        with pytest.raises(ProtocolError, match="no index"):
            engine.submit("chat", QUESTION, Sampling(), None, broken)

    assert engine.submit("chat", QUESTION, Sampling(max_tokens=1)).version == "base"
