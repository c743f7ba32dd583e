"""HTTP on the socket: OpenAI's forms, errors that say what to do, answers untouched. The daemon is a fake."""

import http.client
import json
import queue
import socket
import stat
import threading

import pytest
from fake_app import HELLO, made

from lorad.errors import ConfigError, ProtocolError
from lorad.retrieval.answering import Reply, Source
from lorad.serving.answers import Pinned, Pruned, ResumedJob, Tagged, VersionPapers
from lorad.serving.client import Client, UnixConnection
from lorad.serving.http.routing import MOST_ORDERS
from lorad.serving.http.unix_socket import bind
from lorad.serving.record_json import as_json, fields_of
from lorad.serving.requests import Chunk


@pytest.fixture(autouse=True)
def forget(daemon):
    daemon.asked.clear()
    daemon.error = daemon.said = None


def post(path, route, body):
    """Return status, headers and the raw body of an answer."""
    connection = UnixConnection(path, 10)
    connection.request("POST", route, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    answer = response.status, response.headers, response.read().decode()
    connection.close()
    return answer


def test_a_whole_answer_has_openais_form_and_is_exactly_what_was_generated(path):
    answer = Client(path).call("POST", "/v1/chat/completions", {"messages": HELLO})

    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "See https://a.example/x?y=1  and é\n"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert (answer["model"], answer["system_fingerprint"]) == ("chat@v0.1", "v0.1-abc")


def test_a19_however_many_orders_wait_for_their_turn_questions_are_answered(path, daemon):
    # Given more orders than may wait, while a step reads a long file
    extra = 10
    answers = queue.Queue()
    givers = [
        threading.Thread(target=lambda: answers.put(post(path, "/lorad/jobs/1/cancel", {})))
        for _ in range(MOST_ORDERS + extra)
    ]
    for giver in givers:
        giver.start()
    refused = [answers.get(timeout=10) for _ in range(extra)]

    # Then a route that needs a thread is answered, and those too many are told
    assert Client(path).call("GET", "/v1/models", timeout=5)["data"]
    assert {(status, headers["retry-after"]) for status, headers, _ in refused} == {(503, "1")}

    # And when the step has ended, all others have their answer
    daemon.turn.set()
    for giver in givers:
        giver.join()
    assert [answers.get()[0] for _ in range(MOST_ORDERS)] == [200] * MOST_ORDERS


def test_predictions_come_in_the_order_of_the_inputs_with_the_version_that_made_them(path):
    answer = Client(path).call("POST", "/lorad/predict", {"model": "mail", "inputs": ["a", "b"]})

    assert answer == {
        "model": "mail@v0.1",
        "system_fingerprint": "v0.1-abc",
        "predictions": [{"label": "a"}, {"label": "b"}],
    }


SPAN = {"start": 0, "end": 4, "label": "PER", "text": "John", "confidence": 0.98}


def test_texts_are_tagged_by_a_track_for_tagging(path, daemon, monkeypatch):
    monkeypatch.setattr(daemon, "said", {"spans": [SPAN]})

    answer = Client(path).tag_texts(["John works", "John rests"], model="names")

    assert (answer.model, answer.system_fingerprint) == ("names@v0.1", "v0.1-abc")
    assert [[as_json(span) for span in text.spans] for text in answer.texts] == [[SPAN], [SPAN]]
    assert daemon.formats == "tagging"


def test_a_text_that_cannot_be_tagged_is_told_by_its_number(path, daemon, monkeypatch):
    refused = ProtocolError("the text is empty", status=422, code="no_text", param="inputs[1]")
    monkeypatch.setattr(daemon, "error", refused)

    status, _, answer = post(path, "/lorad/tag", {"texts": ["John works", " "]})

    error = json.loads(answer)["error"]
    assert (status, error["code"], error["param"]) == (422, "no_text", "texts[1]")


def test_a_task_that_answers_without_spans_is_asked_another_way(path, daemon):
    daemon.said = {"label": "spam"}
    status, _, answer = post(path, "/lorad/tag", {"texts": ["John works"]})

    assert (status, json.loads(answer)["error"]["code"]) == (400, "other_way")
    assert "POST /lorad/predict" in json.loads(answer)["error"]["message"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "texts: is missing"),
        ({"texts": []}, "texts"),
        ({"texts": "a"}, "texts"),
        ({"texts": [7]}, "texts"),
        ({"texts": ["a"] * 65}, "texts"),
        ({"inputs": ["a"]}, "texts: is missing"),
    ],
)
def test_what_is_no_request_for_tags_is_refused(path, body, says):
    status, _, answer = post(path, "/lorad/tag", body)

    assert status == 422
    assert says in json.loads(answer)["error"]["message"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"inputs": ["a"]}, "model"),
        ({"model": "mail", "inputs": []}, "inputs"),
        ({"model": "mail", "inputs": "a"}, "inputs"),
        ({"model": "mail", "inputs": ["a"] * 65}, "inputs"),
        ({"model": "mail", "input": ["a"]}, "inputs: is missing"),
    ],
)
def test_what_is_no_request_for_predictions_is_refused(path, body, says):
    status, _, answer = post(path, "/lorad/predict", body)

    assert status == 422
    assert says in json.loads(answer)["error"]["message"]


def test_a_streamed_answer_is_events_that_end_with_done(path):
    status, headers, body = post(path, "/v1/chat/completions", {"messages": HELLO, "stream": True})

    events = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
    chunks = [json.loads(event) for event in events[:-1]]
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert events[-1] == "[DONE]"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert (
        "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
        == "See https://a.example/x?y=1  and é\n"
    )
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_how_to_generate_is_passed_on_and_strange_fields_are_let_through(path, daemon):
    body = {
        "model": "chat@previous",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
        ],
        "max_completion_tokens": 5,
        "temperature": 0.5,
        "stop": "\n",
        "seed": 3,
        "logit_bias": {},
    }

    assert post(path, "/v1/chat/completions", body)[0] == 200

    model, messages, sampling = daemon.asked[0]
    assert (model, messages) == ("chat@previous", [{"role": "user", "content": "ab"}])
    assert (sampling.max_tokens, sampling.temperature, sampling.stop, sampling.seed) == (5, 0.5, ("\n",), 3)


def test_what_openais_clients_send_is_understood(path, daemon):
    messages = [
        {"role": "developer", "content": "Be brief.", "name": None},
        {"role": "user", "content": "hello", "tool_calls": None},
    ]
    nothing = dict.fromkeys(("temperature", "top_p", "stream", "tools", "stop", "seed", "stream_options"))

    status, _, _ = post(
        path, "/v1/chat/completions", {"messages": messages, **nothing, "max_tokens": 5, "stop": ["", "x"]}
    )

    _, asked, sampling = daemon.asked[0]
    assert status == 200
    assert asked == [{"role": "system", "content": "Be brief."}, *HELLO]
    assert (sampling.temperature, sampling.top_p, sampling.stop) == (0.0, 1.0, ("x",))


def test_a_stream_tells_its_usage_when_asked(path):
    _, _, body = post(
        path,
        "/v1/chat/completions",
        {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}},
    )

    last = json.loads(body.split("\n\n")[-3].removeprefix("data: "))
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def test_a_stream_says_nothing_of_usage_unless_asked(path):
    _, _, body = post(path, "/v1/chat/completions", {"messages": HELLO, "stream": True})

    events = [json.loads(event.removeprefix("data: ")) for event in body.split("\n\n")[:-2]]
    assert len(events) > 2
    assert all("usage" not in event for event in events)


def test_one_model_is_shown_by_its_name(path):
    assert Client(path).call("GET", "/v1/models/chat")["id"] == "chat"
    with pytest.raises(ProtocolError, match="no model 'other'") as missing:
        Client(path).call("GET", "/v1/models/other")
    assert (missing.value.status, missing.value.code) == (404, "model_not_found")


def test_tools_and_calls_are_asked_as_examples_hold_them(path, daemon):
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"at": "mill"}'}}
    said = {"role": "tool", "tool_call_id": "1", "content": "fog"}
    body = {
        "messages": [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}, said],
        "tools": [{"type": "function", "function": {"name": "weather", "description": "of a place"}}],
    }

    assert post(path, "/v1/chat/completions", body)[0] == 200

    assert daemon.asked[0][1] == [
        {"role": "tools", "content": '[{"name": "weather", "description": "of a place"}]'},
        *HELLO,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"name": "weather", "arguments": {"at": "mill"}}],
        },
        {"role": "tool", "content": "fog"},
    ]


def test_without_a_limit_the_engine_sets_it_and_greedy_is_the_default(path, daemon):
    Client(path).chat(HELLO)

    assert (daemon.asked[0][2].max_tokens, daemon.asked[0][2].temperature) == (None, 0.0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": []}, "messages"),
        ({"messages": HELLO, "temperature": -1}, "temperature"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text only"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "tools", "content": "[]"}]}, "under tools"),
        ({"messages": HELLO, "tools": [{"function": {"description": "nameless"}}]}, "name"),
        ({}, "messages"),
    ],
)
def test_a_request_that_makes_no_sense_is_told_what_is_wrong(path, body, message):
    status, _, answer = post(path, "/v1/chat/completions", body)

    error = json.loads(answer)["error"]
    assert status == 400
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_full_queue_is_503_with_when_to_come_back(path, daemon):
    daemon.error = ProtocolError("too many questions are waiting", status=503, code="busy", retry_after=1)

    status, headers, body = post(path, "/v1/chat/completions", {"messages": HELLO})

    assert (status, headers["retry-after"]) == (503, "1")
    assert json.loads(body)["error"]["code"] == "busy"


def test_what_nobody_foresaw_is_told_in_openais_form_too(path, daemon):
    daemon.error = TypeError("no such luck")

    status, _, body = post(path, "/v1/chat/completions", {"messages": HELLO})

    assert status == 500
    assert json.loads(body)["error"] == {
        "code": "internal",
        "message": "TypeError: no such luck",
        "param": None,
        "type": "server_error",
    }


def test_half_of_a_character_is_told_and_not_passed_on(path, daemon):
    status, _, body = post(
        path, "/v1/chat/completions", {"messages": [{"role": "user", "content": "so \ud83d"}]}
    )

    assert (status, json.loads(body)["error"]["code"]) == (400, "bad_text")
    assert not daemon.asked


def test_health_is_told_however_many_wait(path, daemon):
    # Given more questions without an answer than the default pool has threads
    daemon.chunks, kept = [], daemon.chunks
    accepted = queue.Queue()
    ask = daemon.ask
    daemon.ask = lambda *given, **how: accepted.put(made := ask(*given, **how)) or made
    body = json.dumps({"messages": HELLO})
    connections = [UnixConnection(path, 10) for _ in range(45)]
    for connection in connections:
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    waiting = [accepted.get(timeout=10)[0] for _ in connections]

    client = Client(path)

    assert client.call("GET", "/healthz") == {"alive": True}
    assert client.call("GET", "/readyz") == {"ready": True}
    assert client.call("GET", "/v1/models")["data"]  # a route that takes a thread
    for request in waiting:
        request.chunks.put(Chunk("", "stop"))
    for connection in connections:
        assert connection.getresponse().status == 200
        connection.close()
    daemon.chunks, daemon.ask = kept, ask


def test_an_error_in_the_middle_of_a_stream_is_an_event_and_the_stream_ends(path, daemon):
    chunks, daemon.chunks = daemon.chunks, [Chunk("half"), ProtocolError("answering failed", status=500)]

    _, _, body = post(path, "/v1/chat/completions", {"messages": HELLO, "stream": True})

    daemon.chunks = chunks
    told = json.loads(body.split("\n\n")[-3].removeprefix("data: "))
    assert told["error"] == {
        "message": "answering failed",
        "type": "server_error",
        "param": None,
        "code": "bad_request",
    }
    assert body.endswith("data: [DONE]\n\n")


def test_errors_keep_their_code_and_get_the_fitting_status(path):
    client = Client(path)
    with pytest.raises(ProtocolError, match="no job 9") as missing:
        client.call("GET", "/lorad/jobs/9")
    with pytest.raises(ProtocolError, match="damaged") as damaged:
        client.call("POST", "/lorad/rollback", {"to": "v0.2"})

    assert (missing.value.status, missing.value.code) == (404, "no_such_job")
    assert (damaged.value.status, damaged.value.code) == (409, "version_damaged")


def test_a_job_goes_on_behind_the_checkpoint_that_is_named(path):
    client = Client(path)

    assert client.resume_job(3) == ResumedJob(**fields_of(made(3)), checkpoint=None)
    assert client.resume_job(3, "round-0002") == ResumedJob(**fields_of(made(3)), checkpoint="round-0002")


def test_retry_passes_on_force_and_settings(path):
    answer = Client(path).call("POST", "/lorad/jobs/3/retry", {"force": True, "settings": {"rank": 4}})

    assert (answer["id"], answer["force"], answer["settings"]) == (3, True, {"rank": 4})


def test_versions_are_shown_pinned_tagged_and_pruned(path):
    client = Client(path)

    assert client.version("chat", "v0.1") == VersionPapers(track="chat", version="v0.1")
    assert client.pin("chat", "v0.1", pinned=False) == Pinned(version="chat v0.1", pinned=False)
    assert client.tag("chat", "v0.1", "good") == Tagged(version="chat v0.1", tag="good", removed=False)
    assert client.tag("other", "good", "good", remove=True) == Tagged(
        version="other good", tag="good", removed=True
    )
    assert client.prune("chat", keep=3, max_age_days=None, max_bytes=5, dry_run=True) == Pruned(
        pruned={"chat": "{'keep': 3, 'max_bytes': 5}"}, dry_run=True
    )


def test_without_a_body_a_version_is_pinned_and_the_settings_limits_hold(path):
    client = Client(path)

    assert client.call("POST", "/lorad/versions/v0.1/pin")["pinned"]
    assert client.call("POST", "/lorad/versions/prune") == {"pruned": {"chat": "{}"}, "dry_run": False}


@pytest.mark.parametrize(
    ("route", "body", "field"),
    [
        ("/lorad/versions/prune", {"keep": 0}, "keep"),
        ("/lorad/versions/prune", {"max_age_days": -1}, "max_age_days"),
        ("/lorad/versions/prune", {"max_bytes": "all"}, "max_bytes"),
        ("/lorad/versions/v0.1/tags", {}, "tag"),
    ],
)
def test_limits_and_tags_that_make_no_sense_are_told(path, route, body, field):
    status, _, answer = post(path, route, body)

    assert status == 400
    assert json.loads(answer)["error"]["message"].startswith(f"{field}: ")


def ask_raw(path, method, route, payload=None, **headers):
    """Return status, headers and the error of a request that is sent as it is."""
    connection = UnixConnection(path, 10)
    connection.request(method, route, payload, headers)
    response = connection.getresponse()
    answer = response.status, response.headers, json.loads(response.read())
    connection.close()
    return answer


@pytest.mark.parametrize(
    ("method", "route", "meant"),
    [
        ("POST", "/v1/responses", "did you mean POST /v1/chat/completions?"),
        ("POST", "/chat/completions", "did you mean POST /v1/chat/completions?"),
        ("POST", "/v1/v1/chat/completions", "did you mean POST /v1/chat/completions?"),
        ("POST", "/v1/chat/completions/", "did you mean POST /v1/chat/completions?"),
        ("POST", "/v1/chat/completion", "did you mean POST /v1/chat/completions?"),
        ("POST", "/v1/messages", "did you mean POST /v1/chat/completions?"),
        ("GET", "/models", "did you mean GET /v1/models?"),
        ("GET", "/lorad/job", "did you mean GET /lorad/jobs?"),
        ("POST", "/v1/rerank", "it has GET /v1/models"),
        ("GET", "/nowhere", "it has GET /v1/models"),
        ("PUT", "/nothing/like/it", "it has GET /v1/models"),
    ],
)
def test_case_10_a_route_that_is_not_there_is_told_with_those_that_are(path, method, route, meant):
    status, _, body = ask_raw(path, method, route)

    error = body["error"]
    assert status == 404
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", "unknown_route")
    assert error["message"].startswith(f"lorad has no route {method} {route}; ")
    assert meant in error["message"]
    assert "POST /v1/chat/completions" in error["message"] or "GET /lorad/jobs" in error["message"]
    assert ("did you mean" in error["message"]) == meant.startswith("did you mean")


def test_case_10_a_wrong_method_is_told_the_right_one(path):
    status, headers, body = ask_raw(path, "GET", "/v1/chat/completions")

    assert (status, headers["allow"], body["error"]["code"]) == (405, "POST", "method_not_allowed")
    assert body["error"]["message"] == "/v1/chat/completions does not accept GET; use POST"


def test_case_10_what_an_address_asks_is_checked_too(path):
    status, _, body = ask_raw(path, "GET", "/lorad/versions/v0.1?trak=other")
    assert (status, body["error"]["param"]) == (400, "trak")
    assert body["error"]["message"] == "trak: there is no such field; did you mean track?"
    status, _, body = ask_raw(path, "GET", "/lorad/jobs/first")
    assert (status, body["error"]["param"]) == (400, "job")
    assert ask_raw(path, "GET", "/v1/models?api-version=1")[0] == 200  # other clients' business


@pytest.mark.parametrize(
    "kind", [None, "application/x-www-form-urlencoded", "text/plain", "application/json"]
)
def test_case_11_a_body_is_read_whatever_its_content_type(path, daemon, kind):
    body = json.dumps({"messages": HELLO}).encode()

    status, _, _ = ask_raw(
        path, "POST", "/v1/chat/completions", body, **({"Content-Type": kind} if kind else {})
    )

    assert (status, daemon.asked[0][1]) == (200, HELLO)


@pytest.mark.parametrize("raw", [b"", b"{", b'{"messages": "caf\xe9"}', b"[" * 100_000, b"a=b"])
def test_case_11_a_body_that_cannot_be_read_is_400_and_says_what_to_send(path, daemon, raw):
    status, _, body = ask_raw(path, "POST", "/v1/chat/completions", raw)

    assert (status, body["error"]["code"]) == (400, "invalid_json")
    assert 'send a JSON object such as {"model": "chat", "messages": [{"role"' in body["error"]["message"]
    assert not daemon.asked


def test_case_11_a_compressed_body_is_told(path):
    status, _, body = ask_raw(path, "POST", "/lorad/rollback", b"\x1f\x8b", **{"Content-Encoding": "gzip"})

    assert (status, body["error"]["code"]) == (415, "unsupported_encoding")


def test_case_9_what_is_not_done_is_400_by_name(path, daemon):
    status, _, body = post(path, "/v1/chat/completions", {"messages": HELLO, "num_beams": 2})

    assert status == 400
    assert json.loads(body)["error"] == {
        "message": "lorad does not support num_beams: it samples with temperature, top_p, top_k and min_p only; "
        "leave it out or send 1",
        "type": "invalid_request_error",
        "param": "num_beams",
        "code": "unsupported_parameter",
    }
    assert not daemon.asked


def test_case_12_a_call_without_arguments_is_asked(path, daemon):
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": ""}}
    messages = [*HELLO, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "noon"}]

    assert post(path, "/v1/chat/completions", {"messages": messages})[0] == 200
    assert daemon.asked[0][1][1]["tool_calls"] == [{"name": "now", "arguments": {}}]


def test_the_socket_is_private_and_only_a_dead_one_is_replaced(path, tmp_path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
    with pytest.raises(ConfigError, match="another lorad answers"):
        bind(path)
    with pytest.raises(ConfigError, match="the limit is"):
        bind(tmp_path / ("x" * 120))


def test_a_folder_that_is_not_lorads_keeps_its_rights(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)

    bind(shared / "lorad.sock").close()

    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
    assert stat.S_IMODE((shared / "lorad.sock").stat().st_mode) == 0o660


def test_a_socket_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="cannot be made"):
        bind(tmp_path / "file" / "lorad.sock")


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_generation(path, daemon, stream):
    daemon.chunks, kept = [Chunk("first")], daemon.chunks
    accepted = queue.Queue()
    ask = daemon.ask
    daemon.ask = lambda *given, **how: accepted.put(made := ask(*given, **how)) or made
    connection = UnixConnection(path, 10)
    body = json.dumps({"messages": HELLO, "stream": stream})

    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    request, _ = accepted.get(timeout=10)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    request.chunks.put(Chunk("nobody hears this"))
    request.chunks.put(Chunk("nor this"))

    assert request.cancelled.wait(10)
    request.chunks.put(Chunk("", "cancelled"))  # as the engine ends what nobody waits for
    daemon.chunks, daemon.ask = kept, ask
    assert isinstance(connection, http.client.HTTPConnection)


@pytest.mark.parametrize("encoding", ["", "identity", "Identity", "identity, identity"])
def test_case_11_a_body_that_is_said_to_be_as_it_is_is_read(path, daemon, encoding):
    body = json.dumps({"messages": HELLO}).encode()

    status, _, _ = ask_raw(path, "POST", "/v1/chat/completions", body, **{"Content-Encoding": encoding})

    assert (status, daemon.asked[0][1]) == (200, HELLO)


@pytest.mark.parametrize("encoding", ["br", "identity, gzip"])
def test_case_11_an_encoding_that_is_not_done_is_told(path, encoding):
    assert ask_raw(path, "POST", "/lorad/rollback", b"{}", **{"Content-Encoding": encoding})[0] == 415


@pytest.mark.parametrize(
    ("route", "wanted"),
    [("/healthz", 200), ("/readyz", 200), ("/v1/models", 200), ("/nowhere", 404), ("/lorad/rollback", 405)],
)
def test_case_10_what_can_be_got_can_be_asked_for_by_its_head(path, route, wanted):
    connection = UnixConnection(path, 10)
    connection.request("HEAD", route)
    response = connection.getresponse()

    assert (response.status, response.read()) == (wanted, b"")
    connection.close()


def test_case_10_a_route_that_can_be_got_is_told_with_get(path):
    _, _, body = ask_raw(path, "POST", "/healthz")

    assert body["error"]["message"] == "/healthz does not accept POST; use GET"


def test_case_10_a_route_that_reads_nothing_says_so(path):
    status, _, body = ask_raw(path, "GET", "/lorad/status?x=1")

    assert status == 400
    assert body["error"]["message"] == "x: there is no such field; none is known here; leave it out"


def test_case_11_a_client_that_leaves_in_its_body_is_no_error(path, daemon, caplog):
    answered = Client(path)
    for _ in range(3):
        connection = UnixConnection(path, 10)
        connection.connect()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        connection.sock.sendall(head + b'{"messages"')
        connection.close()
        assert answered.call("GET", "/healthz") == {
            "alive": True
        }  # the loop has seen it leave by the next one

    assert not [record for record in caplog.records if record.exc_info]
    assert not daemon.asked


SOURCE = Source(dataset="doors", row=1, question="Whose door?", similarity=0.83, confidence=0.9)
ORIGIN = {
    "mode": "taught",
    "sources": [
        {"dataset": "doors", "row": 1, "question": "Whose door?", "similarity": 0.83, "confidence": 0.9}
    ],
}


@pytest.fixture
def found(daemon):
    """Let the daemon find an example for every question."""
    daemon.reply = Reply(mode="taught", messages=HELLO, sources=(SOURCE,))
    yield
    daemon.reply = None


def streamed(path, **fields):
    _, _, body = post(path, "/v1/chat/completions", {"messages": HELLO, "stream": True, **fields})
    return [json.loads(event.removeprefix("data: ")) for event in body.split("\n\n")[:-2]]


@pytest.mark.usefixtures("found")
def test_an_answer_says_where_it_comes_from(path):
    whole = Client(path).call("POST", "/v1/chat/completions", {"messages": HELLO})
    events = streamed(path, stream_options={"include_usage": True})

    assert whole["lorad"] == ORIGIN
    assert events[0]["lorad"] == ORIGIN
    assert not any("lorad" in event for event in events[1:])


@pytest.mark.usefixtures("found")
def test_a_client_reads_where_an_answer_comes_from(path):
    client = Client(path)
    answer = client.stream_chat(HELLO)
    text = "".join(answer)

    assert (text, answer.tokens) == ("See https://a.example/x?y=1  and é\n", 3)
    assert as_json(answer.origin) == ORIGIN
    assert client.chat(HELLO).lorad == answer.origin
    assert client.chat(HELLO, lorad={"retrieve": False}).lorad is None


@pytest.mark.usefixtures("found")
@pytest.mark.parametrize(
    ("fields", "is_wanted"),
    [
        ({}, True),
        ({"lorad": None}, True),
        ({"lorad": {}}, True),
        ({"lorad": {"retrieve": None}}, True),
        ({"lorad": {"retrieve": True}}, True),
        ({"lorad": {"retrieve": False}}, False),
    ],
)
def test_a_request_may_switch_retrieval_off(path, daemon, fields, is_wanted):
    answer = Client(path).call("POST", "/v1/chat/completions", {"messages": HELLO, **fields})

    assert daemon.retrieve is is_wanted
    assert ("lorad" in answer) is is_wanted
    assert ("lorad" in streamed(path, **fields)[0]) is is_wanted


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"lorad": {"retreive": False}},
            "lorad.retreive: there is no such field; did you mean lorad.retrieve?",
        ),
        ({"lorad": {"x": 1}}, "lorad.x: there is no such field; known here: lorad.retrieve"),
        (
            {"lorad": {"retrieve": 3}},
            "lorad.retrieve: must be true, false, or the name of a track of documents",
        ),
        (
            {"lorad": {"retrieve": ""}},
            "lorad.retrieve: must be true, false, or the name of a track of documents",
        ),
        ({"lorad": False}, "lorad: "),
        ({"Lorad": {"retrieve": False}}, "did you mean lorad?"),
        ({"lorrad": {"retrieve": False}}, "did you mean lorad?"),
    ],
)
def test_what_lorad_does_not_know_of_itself_is_refused(path, daemon, fields, told):
    status, _, body = post(path, "/v1/chat/completions", {"messages": HELLO, **fields})

    assert status == 400
    assert told in json.loads(body)["error"]["message"]
    assert daemon.asked == []


def test_lorads_own_routes_answer_by_their_old_names_too(path):
    status, _, body = ask_raw(path, "GET", "/api/jobs/9")
    assert (status, body["error"]["code"]) == (404, "no_such_job")
    assert ask_raw(path, "POST", "/api/versions/v0.1/pin", b"{}")[0] == 200
