"""Asking the running daemon: whether an example is looked for, and for which version."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from lorad.apps.daemon.api import Api
from lorad.config import EngineSettings, TrackSettings
from lorad.errors import ProtocolError
from lorad.models import bases
from lorad.retrieval.answering import Reply
from lorad.serving import called_tools, guiding
from lorad.serving.backends.interface import Capabilities
from lorad.serving.engine import Engine
from lorad.serving.requests import Sampling
from lorad.tasks.chat import Chat

QUESTION = [{"role": "user", "content": "Which colour is the door of Arlo?"}]
SYSTEM = {"role": "system", "content": "Be brief."}
KNOWN = Reply(mode="stored", text="amber")


class Letters(Chat):
    """Answers in text, but its examples are no conversations."""

    formats = "letters"


class FakeEmbedder:
    """Makes a vector of a text's length, and remembers how many came together."""

    name = "minilm"

    def __init__(self):
        self.together = []

    def embed(self, texts):
        self.together.append(len(texts))
        return np.array([[float(len(text))] for text in texts], dtype=np.float32)

    def count_tokens(self, texts):
        return sum(map(len, texts))


class FakeRetrieving:
    """Knows every question, and remembers what it was asked."""

    def __init__(self):
        self.asked = []
        self.embedders = {"chat": FakeEmbedder()}

    def reply(self, track, version, messages):
        self.asked.append((track, version, messages))
        return KNOWN


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    bases.store_base(tiny.save(folder / "source"), folder / "base")
    return folder / "base"


@pytest.fixture(scope="module")
def engine(base_folder):
    base = bases.load_base(base_folder, torch.float32)
    made = Engine(EngineSettings())
    made.attach("chat", Chat(), base)
    made.attach("letters", Letters(), base)
    return made


def api(engine, retrieving):
    nobody = dict.fromkeys(("commands", "models", "snapshot", "documents", "turn"))
    archive = Archive()
    return Api(
        tracks={},
        engine=engine,
        retrieving=retrieving,
        archive=archive,
        started_at=0.0,
        is_ready=bool,
        **nobody,
    )


class Archive:
    """Has every track."""

    def track(self, name):
        return name


def reply(api, model="chat", messages=QUESTION, *, retrieve=True):
    request, fingerprint = api.ask(model, messages, Sampling(max_tokens=1), retrieve=retrieve)
    request.cancelled.set()
    assert fingerprint.startswith("base-")
    return request.reply


def test_the_version_that_answers_is_looked_up_in(engine):
    retrieving = FakeRetrieving()

    assert reply(api(engine, retrieving)) == KNOWN
    assert reply(api(engine, retrieving), "chat@base") == KNOWN
    assert retrieving.asked == [("chat", "base", QUESTION)] * 2


@pytest.mark.parametrize(
    ("given", "how"),
    [
        ({"messages": [SYSTEM, *QUESTION]}, {}),
        ({"model": "letters"}, {}),
        ({}, {"retrieve": False}),
    ],
)
def test_what_must_not_be_looked_up_is_not(engine, given, how):
    retrieving = FakeRetrieving()

    assert reply(api(engine, retrieving), **given, **how) is None
    assert retrieving.asked == []


def test_without_an_index_the_model_is_asked(engine):
    assert reply(api(engine, None)) is None


def test_a_track_that_is_not_there_is_told_before_anything_is_looked_up(engine):
    retrieving = FakeRetrieving()

    with pytest.raises(ProtocolError, match="no model 'poems'"):
        api(engine, retrieving).ask("poems", QUESTION, Sampling(), retrieve=True)
    assert retrieving.asked == []


def continued(engine, prompt, model="chat"):
    request, fingerprint = api(engine, FakeRetrieving()).complete(prompt, model, Sampling(max_tokens=1))
    request.cancelled.set()
    assert fingerprint.startswith("base-")
    return request


def test_a_text_is_continued_as_it_stands_and_nothing_is_looked_up(engine):
    tokenizer = engine.base("chat").tokenizer
    request = continued(engine, "<s>user\nWhich", "chat@base")

    assert request.prompt == tokenizer("<s>user\nWhich")["input_ids"]
    assert request.prompt[0] == tokenizer.bos_token_id  # special tokens are what they are
    assert request.reply is None
    assert continued(engine, request.prompt).prompt == request.prompt


@pytest.mark.parametrize(
    ("formats", "says"),
    [
        ("tagging", "chat learns chat; ask it with: POST /v1/chat/completions"),
        (None, "ask it with: POST /v1/chat"),
    ],
)
def test_a_track_that_does_not_tag_is_asked_another_way(engine, formats, says):
    with pytest.raises(ProtocolError, match=says) as caught:
        api(engine, None).predict("chat", ["John works"], formats)
    assert caught.value.code == "other_way"


def test_an_empty_text_begins_one(engine):
    assert continued(engine, "").prompt == [engine.base("chat").tokenizer.bos_token_id]


@pytest.mark.parametrize(
    ("prompt", "model", "code"),
    [
        ([0, -1], "chat", "unknown_token"),
        ([0, 10**9], "chat", "unknown_token"),
        ("a", "letters", "other_way"),
        ("a", "poems", "model_not_found"),
    ],
)
def test_what_cannot_be_continued_is_refused(engine, prompt, model, code):
    with pytest.raises(ProtocolError) as caught:
        continued(engine, prompt, model)
    assert caught.value.code == code


def test_a_prompt_that_is_too_long_is_told_by_its_own_name(engine):
    with pytest.raises(ProtocolError, match="context length") as caught:
        continued(engine, [5] * 600)
    assert (caught.value.code, caught.value.data["param"]) == ("context_length_exceeded", "prompt")


@pytest.mark.parametrize("model", ["chat", "chat@v0.1", "minilm"])
def test_texts_are_embedded_in_parts_by_the_tracks_embedder(engine, model):
    retrieving = FakeRetrieving()

    name, rows, tokens = api(engine, retrieving).embed(model, ["x" * length for length in range(40)])

    assert (name, rows.shape, tokens) == ("minilm", (40, 1), sum(range(40)))
    assert [row[0] for row in rows] == list(range(40))
    assert retrieving.embedders["chat"].together == [16, 16, 8]


def test_what_embeds_nothing_is_told(engine):
    with pytest.raises(ProtocolError, match="no embedder 'letters'; known: chat, minilm"):
        api(engine, FakeRetrieving()).embed("letters", ["a"])
    with pytest.raises(ProtocolError, match="retrieve is off"):
        api(engine, None).embed("chat", ["a"])


def test_a_model_is_described_without_being_loaded(engine, base_folder):
    made = api(engine, None)
    stored = {"version": "v0.1", "files": {}}
    registry = SimpleNamespace(resolve={"good": "v0.1"}.__getitem__, manifest={"v0.1": stored}.__getitem__)
    track = SimpleNamespace(base=base_folder, settings=TrackSettings(base="tiny"), registry=registry)
    made.archive.track = {"chat": track}.__getitem__

    told, base = made.describe("chat@good"), made.describe("chat")

    assert (told.track, told.version, base.version) == ("chat", "v0.1", "base")
    assert (told.base, told.architecture, told.precision) == ("tiny", "llama", "float32")
    assert (told.context, told.width, told.template) == (512, 64, tiny.TEMPLATE)
    assert told.bytes > 2 * told.parameters > 100_000
    assert not told.can_call
    assert len(told.digest) == 64
    assert told.digest != base.digest
    assert not engine.resident("chat", "v0.1")


def test_a_models_digest_comes_from_what_is_stored(base_folder):
    # Given a version that is not in memory, then is, then is another one of the same name
    engine = Engine(EngineSettings())
    engine.attach("chat", Chat(), bases.load_base(base_folder, torch.float32))
    made, stored = api(engine, None), {"version": "v0.1", "job": 1}
    registry = SimpleNamespace(resolve=str, manifest=lambda _: stored)
    made.archive.track = lambda _: SimpleNamespace(
        base=base_folder, settings=TrackSettings(base="tiny"), registry=registry
    )

    before = made.describe("chat@v0.1").digest
    engine._served["chat"].hashes["v0.1"] = "abc"

    assert made.describe("chat@v0.1").digest == before
    stored["job"] = 2
    assert made.describe("chat@v0.1").digest != before


def test_an_answer_that_must_follow_a_schema_is_guided_and_not_looked_up(engine):
    asked = api(engine, FakeRetrieving())
    schema = {"enum": [7]}
    request, _ = asked.ask("chat", QUESTION, Sampling(max_tokens=5, seed=1), retrieve=True, schema=schema)
    request.cancelled.set()

    assert request.reply is None
    assert (request.sampling.max_tokens, request.sampling.seed) == (5, 1)
    allowed = request.sampling.grammar.start().allow(torch.zeros(400)).isfinite().nonzero().flatten()
    assert engine.base("chat").tokenizer.decode(allowed) == "7"
    with pytest.raises(ProtocolError, match="cannot be followed"):
        asked.ask("chat", QUESTION, Sampling(), retrieve=True, schema={"type": "no"})


CHATML_WITH_TOOLS = (
    "{% if tools %}{{ '<s>system\n' + tools | tojson + '</s>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<s>' + m.role + '\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '<tool_call>\n' + c.function | tojson + '\n</tool_call>' }}{% endfor %}"
    "{{ '</s>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
WEATHER = {
    "name": "weather",
    "description": "of a place",
    "parameters": {
        "type": "object",
        "properties": {"at": {"enum": ["mill", "port"]}},
        "required": ["at"],
        "additionalProperties": False,
    },
}
ASKED_WITH_TOOLS = [{"role": "tools", "content": json.dumps([WEATHER])}, *QUESTION]


@pytest.fixture
def calling(base_folder):
    """An engine on a base whose template has a form for calls."""
    base = bases.load_base(base_folder, torch.float32)
    base.tokenizer.chat_template = CHATML_WITH_TOOLS
    made = Engine(EngineSettings(max_queued_requests=4))
    made.attach("chat", Chat(), base)
    return made


def said(engine, request):
    while engine.waiting:
        engine.work(0)
    return "".join(chunk.text for chunk in request.answer(0))


def test_a_backend_that_cannot_force_a_call_refuses_it_by_name(calling, monkeypatch):
    monkeypatch.setattr(
        calling._backend, "capabilities", lambda _: Capabilities(batches=True, because="it does", calls=False)
    )
    with pytest.raises(ProtocolError, match="cannot make a model call") as caught:
        api(calling, None).ask("chat", ASKED_WITH_TOOLS, Sampling(), retrieve=True, must_call=[WEATHER])
    assert caught.value.data["param"] == "tool_choice"


def test_an_answer_that_must_call_a_tool_calls_it_in_the_templates_form(calling):
    request, _ = api(calling, FakeRetrieving()).ask(
        "chat", ASKED_WITH_TOOLS, Sampling(), retrieve=True, must_call=[WEATHER]
    )

    answer = said(calling, request)

    assert answer.startswith("<tool_call>\n")
    [call] = called_tools.read(answer, {"weather"}).calls
    assert call.name == "weather"
    assert call.arguments["at"] in {"mill", "port"}
    assert request.reply is None


def test_where_a_template_has_no_form_for_calls_none_can_be_forced(engine):
    with pytest.raises(ProtocolError, match="no form of calling tools") as caught:
        api(engine, None).ask("chat", QUESTION, Sampling(), retrieve=True, must_call=[WEATHER])

    assert (caught.value.code, caught.value.data["param"]) == ("unsupported_parameter", "tool_choice")
    assert engine.waiting == 0


def test_who_finds_no_room_costs_no_grammar_and_no_version(calling, monkeypatch):
    asked = api(calling, None)
    for _ in range(4):
        asked.ask("chat", QUESTION, Sampling(), retrieve=True)
    monkeypatch.setattr(guiding.Grammars, "__init__", pytest.fail)
    asked._models = SimpleNamespace(ensure_loaded=pytest.fail)
    asked.archive.track = lambda _: SimpleNamespace(registry=SimpleNamespace(resolve=str))

    for model in ("chat", "chat@v0.1"):
        with pytest.raises(ProtocolError, match="too many") as caught:
            asked.ask(model, QUESTION, Sampling(), retrieve=True, schema={"enum": [7]})
        assert caught.value.status == 503
    with pytest.raises(ProtocolError, match="too many"):
        asked.require_room(1)


def test_answers_to_one_request_share_its_grammar(calling):
    asked = api(calling, None)
    requests = [
        asked.ask("chat", QUESTION, Sampling(), retrieve=True, schema={"enum": [7]})[0] for _ in range(3)
    ]

    assert len({id(request.sampling.grammar) for request in requests}) == 1
    assert [said(calling, request) for request in requests] == ["7", "7", "7"]
