"""The client against a fake daemon on a real Unix socket."""

import os
import tempfile
from pathlib import Path

import pytest
from fake_daemon import (
    FakeDaemon,
    Problem,
    Raw,
    Stream,
    delta,
    described,
    ended,
    event,
    job,
    promoted,
    snapshot,
)

from lorad.errors import ConfigError, ProtocolError, TransientError
from lorad.home import SOCKET_PATH_LIMIT
from lorad.serving.answers import Pause
from lorad.serving.client import Client
from lorad.serving.completions import Completion
from lorad.serving.record_json import as_json

DONE = "data: [DONE]"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder) / "run" / "lorad.sock"


@pytest.fixture
def daemon(path):
    fake = FakeDaemon(path)
    yield fake
    fake.close()


def test_an_answer_comes_back_as_a_record(daemon, path):
    # Given a daemon that tells its jobs
    sent = promoted(1, "doors", "v0.1")
    daemon.answers("GET /lorad/jobs", {"jobs": [sent]})
    # When they are asked for, they come as they were told
    [job] = Client(path).jobs().jobs
    assert as_json(job) == sent


def test_what_a_later_lorad_tells_besides_is_no_matter(daemon, path):
    daemon.answers("POST /lorad/pause", {"paused": True, "until": "tomorrow"})
    assert Client(path).pause() == Pause(paused=True)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({}, "paused is missing"),
        ([], "it is not an object"),
        ({"paused": "yes"}, "paused is not true or false"),
    ],
)
def test_an_answer_that_is_something_else_is_an_error_that_says_where(daemon, path, answer, told):
    daemon.answers("POST /lorad/pause", answer)
    with pytest.raises(ProtocolError, match=told) as caught:
        Client(path).pause()
    assert caught.value.code == "bad_answer"


def test_queries_and_bodies_arrive(daemon, path):
    # Given a daemon that takes everything
    daemon.answers("GET /lorad/diff", {"a": "v0.1", "b": "v0.2", "changed": []})
    daemon.answers("POST /lorad/jobs/3/retry", promoted(3, "doors", "v0.1"))
    daemon.answers("POST /lorad/rollback", {})
    client = Client(path)
    # When a query and bodies are sent, with characters that an address cannot hold
    client.diff("chat", "v0.1", "a b&c")
    client.retry(3, force=True, settings={"rank": 16})
    client.rollback("chat")
    # Then they arrive as they were meant
    assert daemon.asked == [
        ("GET /lorad/diff", {"track": "chat", "a": "v0.1", "b": "a b&c"}, None),
        ("POST /lorad/jobs/3/retry", {}, {"force": True, "settings": {"rank": 16}}),
        ("POST /lorad/rollback", {}, {"track": "chat", "to": None}),
    ]


def test_a_version_cannot_leave_its_place_in_the_path(daemon, path):
    daemon.answers("GET /lorad/versions/..%2Fjobs/explain", {"version": "odd", "promoted": True})
    daemon.answers("POST /lorad/versions/..%2Fjobs/pin", {"version": "odd", "pinned": True})
    assert Client(path).explain("chat", "../jobs").version == "odd"
    assert Client(path).pin("chat", "../jobs", pinned=True).version == "odd"


QUEUED = job(7, "doors", "queued")
ANSWERS = {
    "GET /lorad/status": snapshot(),
    "GET /lorad/jobs/7": QUEUED,
    "POST /lorad/jobs/7/cancel": QUEUED,
    "POST /lorad/pause": {"paused": True},
    "POST /lorad/resume": {"paused": False},
    "GET /lorad/versions": snapshot()["tracks"]["chat"],
    "GET /lorad/versions/good": described(),
    "POST /lorad/versions/v0.1/pin": {"version": "v0.1", "pinned": False},
    "POST /lorad/versions/v0.1/tags": {"version": "v0.1", "tag": "good", "removed": True},
    "POST /lorad/versions/prune": {"pruned": {"v0.1": "old"}, "dry_run": True},
    "GET /lorad/memory": {"datasets": []},
    "GET /lorad/retention": {"acc": 1.0, "bwt": None, "fwt": None, "forgetting": None}
    | {"versions": ["v0.1"], "datasets": ["doors"], "matrix": [[1.0]], "counts": [[[4, 4]]]},
    "GET /lorad/events": {"events": [event(6, "promoted", job=7)]},
    "POST /lorad/forget": {"forgotten": 0, "dry_run": False},
    "POST /lorad/spectra": {"model": "spectra@v0.1", "spectra": [{"matches": []}]},
    "POST /lorad/tag": {"model": "ner@v0.1", "texts": [{"spans": []}]},
    "POST /lorad/consolidate": QUEUED,
    "POST /lorad/classify": {"model": "mail@v0.1", "classifications": []},
    "POST /lorad/systems/a%2Fb": {"system": "a/b", "members": [], "results": []},
}


@pytest.mark.parametrize(
    ("call", "route", "body"),
    [
        (lambda c: c.status(), "GET /lorad/status", None),
        (lambda c: c.job(7), "GET /lorad/jobs/7", None),
        (lambda c: c.cancel(7), "POST /lorad/jobs/7/cancel", {}),
        (lambda c: c.pause(), "POST /lorad/pause", {}),
        (lambda c: c.resume(), "POST /lorad/resume", {}),
        (lambda c: c.versions("chat"), "GET /lorad/versions", None),
        (lambda c: c.version("chat", "good"), "GET /lorad/versions/good", None),
        (
            lambda c: c.pin("chat", "v0.1", pinned=False),
            "POST /lorad/versions/v0.1/pin",
            {"track": "chat", "pinned": False},
        ),
        (
            lambda c: c.tag("chat", "v0.1", "good", remove=True),
            "POST /lorad/versions/v0.1/tags",
            {"track": "chat", "tag": "good", "remove": True},
        ),
        (
            lambda c: c.prune("chat", dry_run=True, keep=3, max_bytes=None),
            "POST /lorad/versions/prune",
            {"track": "chat", "dry_run": True, "keep": 3},
        ),
        (lambda c: c.classify("mail", ("a",)), "POST /lorad/classify", {"model": "mail", "texts": ["a"]}),
        (lambda c: c.ask_system("a/b", ["a"]), "POST /lorad/systems/a%2Fb", {"texts": ["a"]}),
        (lambda c: c.memory("chat"), "GET /lorad/memory", None),
        (lambda c: c.retention("chat"), "GET /lorad/retention", None),
        (lambda c: c.events(5), "GET /lorad/events", None),
        (
            lambda c: c.match_spectra(({"smiles": "C", "mzs": [16.0], "intensities": [1.0]},)),
            "POST /lorad/spectra",
            {"model": "spectra", "spectra": [{"smiles": "C", "mzs": [16.0], "intensities": [1.0]}]},
        ),
        (lambda c: c.tag_texts(("a",)), "POST /lorad/tag", {"model": "ner", "texts": ["a"]}),
        (
            lambda c: c.forget("chat", "x"),
            "POST /lorad/forget",
            {"track": "chat", "selector": "x", "dry_run": False},
        ),
        (
            lambda c: c.consolidate("chat", refit=True),
            "POST /lorad/consolidate",
            {"track": "chat", "refit": True},
        ),
    ],
)
def test_every_method_asks_its_route(daemon, path, call, route, body):
    daemon.answers(route, ANSWERS[route])
    assert call(Client(path))
    assert [(asked, sent) for asked, _, sent in daemon.asked] == [(route, body)]


def test_a_stream_is_yielded_exactly(daemon, path):
    # Given an answer with spaces, line ends and signs of life between its pieces
    pieces = ["  In ", "the\n", "old Mühle", " \n\n"]
    daemon.answers("POST /v1/chat/completions", Stream(": alive", *map(delta, pieces), DONE))
    # When it is streamed
    told = list(Client(path).stream_chat(HELLO, "chat@v0.1", temperature=0, max_tokens=None))
    # Then nothing is trimmed, and options without a value are not sent
    assert told == pieces
    body = daemon.asked[0][2]
    assert body == {
        "model": "chat@v0.1",
        "messages": HELLO,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
    }


def test_case_7_a_stream_tells_at_its_end_why_it_ended(daemon, path):
    daemon.answers("POST /v1/chat/completions", Stream(delta("In "), delta("the"), *ended("length", 2), DONE))
    stream = Client(path).stream_chat(HELLO)
    assert (next(stream), stream.finish_reason, stream.tokens) == ("In ", None, None)
    assert list(stream) == ["the"]
    assert (stream.finish_reason, stream.tokens) == ("length", 2)


def test_a_stream_that_is_closed_yields_no_more(daemon, path):
    daemon.answers("POST /v1/chat/completions", Stream(delta("In "), delta("the"), *ended("stop", 2), DONE))
    stream = Client(path).stream_chat(HELLO)
    assert next(stream) == "In "
    stream.close()
    assert list(stream) == []


def test_a_stream_that_breaks_off_is_an_error(daemon, path):
    # Given a daemon that stops in the middle of an answer
    daemon.answers("POST /v1/chat/completions", Stream(delta("In the"), None))
    stream = Client(path).stream_chat(HELLO)
    # When it is read, what came is told, and then that more should have come
    assert next(stream) == "In the"
    with pytest.raises(TransientError) as caught:
        next(stream)
    assert caught.value.code == "connection_lost"


def test_a_stream_that_ends_without_done_is_an_error(daemon, path):
    daemon.answers("POST /v1/chat/completions", Stream(delta("In the")))
    with pytest.raises(TransientError, match="broke off"):
        list(Client(path).stream_chat(HELLO))


def test_an_error_inside_a_stream_is_raised(daemon, path):
    # Given an answer that fails after it began
    failure = 'data: {"error": {"code": "out_of_memory", "message": "memory is short", "free": 3}}'
    daemon.answers("POST /v1/chat/completions", Stream(delta("In"), failure, DONE))
    # When it is read
    with pytest.raises(ProtocolError) as caught:
        list(Client(path).stream_chat(HELLO))
    # Then the daemon's own words are heard
    assert caught.value.as_dict() == {"code": "out_of_memory", "message": "memory is short", "free": 3}


def test_a_whole_answer_is_not_streamed(daemon, path):
    daemon.answers("POST /v1/chat/completions", {"choices": []})
    assert Client(path).chat(HELLO, max_tokens=5) == Completion(choices=())
    assert daemon.asked[0][2] == {"model": "chat", "messages": HELLO, "max_tokens": 5}


def test_a_complaint_keeps_status_code_and_data(daemon, path):
    # Given a daemon whose queue is full
    openai = {"type": "server_error", "param": None}
    daemon.answers(
        "GET /lorad/status", Problem(503, "busy", "too many requests wait", retry_after=2, **openai)
    )
    # When it is asked
    with pytest.raises(ProtocolError) as caught:
        Client(path).status()
    # Then the error tells all that the daemon told
    assert (caught.value.status, caught.value.code) == (503, "busy")
    assert caught.value.message == "too many requests wait"
    assert caught.value.data == {"retry_after": 2}


@pytest.mark.parametrize("body", [b"<html>", b'{"detail": "Not Found"}', b'{"error": "text"}', b"[]"])
def test_a_complaint_in_no_known_form_is_still_told(daemon, path, body):
    daemon.answers("GET /lorad/status", Raw(502, body))
    with pytest.raises(ProtocolError, match="status 502") as caught:
        Client(path).status()
    assert caught.value.code == "bad_answer"


def test_an_answer_that_is_no_json_is_an_error(daemon, path):
    daemon.answers("GET /lorad/status", Raw(200, b"hello"))
    with pytest.raises(ProtocolError, match="not JSON"):
        Client(path).status()


def test_no_socket_means_not_running(path):
    # Given a home whose daemon never ran
    client = Client(path, path.parent.parent)
    # When it is asked
    with pytest.raises(ConfigError) as caught:
        client.status()
    # Then the sentence names home and socket, and says how to start it
    assert caught.value.code == "not_running"
    expected = f"lorad is not running for {path.parent.parent} (no answer at {path}); start it with: lorad --home {path.parent.parent} run"
    assert caught.value.message == expected


def test_a_socket_that_a_killed_daemon_left_means_not_running(path):
    # Given a daemon that was killed: its socket is there and nobody listens
    fake = FakeDaemon(path)
    left = path.with_name("left.sock")
    path.rename(left)
    fake.close()
    # When it is asked
    with pytest.raises(ConfigError) as caught:
        Client(left).status()
    assert caught.value.code == "not_running"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every socket")
def test_a_socket_of_somebody_else_is_told_apart(daemon, path):
    daemon.path.chmod(0)
    with pytest.raises(ConfigError) as caught:
        Client(path).status()
    assert caught.value.code == "no_access"


def test_a_path_that_leads_nowhere_is_told_apart(tmp_path):
    # Given a file where a folder should be
    (tmp_path / "run").write_text("")
    with pytest.raises(TransientError) as caught:
        Client(tmp_path / "run" / "s").status()
    assert caught.value.code == "no_connection"


def test_a_silent_daemon_is_not_waited_for_forever(daemon, path):
    # Given a daemon that takes the call and never answers
    daemon.shutdown()
    # When it is asked
    with pytest.raises(TransientError) as caught:
        Client(path).call("GET", "/lorad/status", timeout=0.05)
    assert caught.value.code == "timeout"


def test_a_path_that_no_socket_can_have_is_refused():
    # Given a path with one byte more than the system allows, though fewer characters
    longest = "/" + "a" * (SOCKET_PATH_LIMIT - 1)
    Client(Path(longest))
    too_long = "/" + "ä" * (SOCKET_PATH_LIMIT // 2) + "a" * (SOCKET_PATH_LIMIT % 2)
    # When a client is made for it, it is refused before anything is tried
    with pytest.raises(ConfigError, match=f"the limit is {SOCKET_PATH_LIMIT}") as caught:
        Client(Path(too_long))
    assert caught.value.code == "socket_path_too_long"
