"""What Prometheus collects, over a real socket, from a fake daemon."""

import json

import pytest
from fake_app import HELLO, FakeDaemon, served
from fake_daemon import SESSION, job, snapshot, told
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from lorad.errors import ProtocolError
from lorad.serving.client import UnixConnection
from lorad.serving.requests import Chunk


@pytest.fixture
def daemon():
    made = FakeDaemon()
    made.snapshot = lambda: told(snapshot())
    return made


@pytest.fixture
def path(tmp_path, daemon):
    with served(daemon, tmp_path / "run" / "lorad.sock") as place:
        yield place


def ask(path, method, route, body=None, **headers):
    connection = UnixConnection(path, 10)
    connection.request(method, route, body and json.dumps(body), headers)
    response = connection.getresponse()
    answer = response.status, response.headers["content-type"], response.read().decode()
    connection.close()
    return answer


def collected(path):
    """Return every sample by its name and labels."""
    status, kind, text = ask(path, "GET", "/metrics")
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_status_is_told_as_gauges(path):
    found = collected(path)

    assert found["lorad_ready",] == 1
    assert found["lorad_queue_active",] == 1
    assert found["lorad_training_active",] == 0
    assert found["lorad_versions", "chat", "intact"] == 2
    assert found["lorad_examples", "chat", "recalled"] == 181
    assert found["lorad_serving_info", "chat", "chat", "smollm2", "v0.2"] == 1
    assert found["lorad_info", "0.1.0"] == 1


def test_what_generates_is_told_with_its_form(path, daemon):
    chat = snapshot()["tracks"]["chat"] | {"held_as": "merged", "held_bytes": 7, "batches": True}
    engine = {"backend": "builtin", "max_batch": 16, "cache_bytes": 5, "max_cache_bytes": 9}
    data = snapshot()
    daemon.snapshot = lambda: told(data | {"tracks": {"chat": chat}, "engine": data["engine"] | engine})

    found = collected(path)

    assert found["lorad_backend_info", "builtin"] == 1
    assert found["lorad_held_info", "chat", "merged"] == 1
    assert (found["lorad_held_bytes", "chat"], found["lorad_batches", "chat"]) == (7, 1)
    assert (found["lorad_batch_limit",], found["lorad_cache_bytes",], found["lorad_cache_limit_bytes",]) == (
        16,
        5,
        9,
    )
    assert found["lorad_answer_tokens_per_second",] == 21.5


def test_answers_are_counted_where_they_leave(path, daemon):
    for stream in (False, True):
        assert (
            ask(path, "POST", "/v1/chat/completions", {"messages": HELLO, "stream": stream, "n": 2})[0] == 200
        )
    daemon.chunks = [Chunk("half"), ProtocolError("answering failed", status=500)]
    assert ask(path, "POST", "/v1/completions", {"prompt": "a"})[0] == 500

    found = collected(path)

    assert found["lorad_requests_total", "chat", "stop"] == 4
    assert found["lorad_requests_total", "chat", "failed"] == 1
    assert found["lorad_answer_tokens_total", "chat"] == 12
    assert found["lorad_prompt_tokens_total", "chat"] == 28
    assert found["lorad_first_token_seconds_count", "chat"] == 5
    assert found["lorad_answer_seconds_count", "chat"] == 4
    assert 0 < found["lorad_answer_seconds_sum", "chat"] < 60


def test_a_running_session_is_told_with_its_track(path, daemon):
    daemon.snapshot = lambda: told(snapshot(session=SESSION, jobs=[job(3, "campus_housing", "training")]))

    found = collected(path)

    assert ("lorad_training_paused_seconds", "campus_housing", "chat") not in found
    assert found["lorad_training_active",] == 1
    assert found["lorad_training_loss", "campus_housing", "chat"] == 0.41
    assert found["lorad_training_elapsed_seconds", "campus_housing", "chat"] == 61
    assert found["lorad_open_jobs", "chat", "training"] == 1


def test_what_a_session_cannot_tell_yet_is_left_out(path, daemon):
    daemon.snapshot = lambda: told(snapshot(session={"job": 3, "dataset": "doors"}))

    assert not any(name.startswith("lorad_training_loss") for name, *_ in collected(path))


def test_who_asks_for_openmetrics_gets_it(path):
    _, kind, text = ask(path, "GET", "/metrics", Accept="application/openmetrics-text; version=1.0.0")

    assert kind.startswith("application/openmetrics-text")
    assert any(family.name == "lorad_versions" for family in openmetrics.text_string_to_metric_families(text))


def test_two_daemons_in_one_process_do_not_count_together(path, tmp_path):
    other = FakeDaemon()
    other.snapshot = lambda: told(snapshot())
    with served(other, tmp_path / "other.sock") as place:
        ask(path, "POST", "/v1/completions", {"prompt": "a"})

        assert ("lorad_requests_total", "chat", "stop") not in collected(place)
