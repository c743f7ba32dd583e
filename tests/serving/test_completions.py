"""Several answers to one request, and texts that are continued: over a real socket, from a fake daemon."""

import json
import queue

import pytest
from fake_app import HELLO

from lorad.errors import ProtocolError
from lorad.serving.client import UnixConnection
from lorad.serving.http.openai_bodies import CompletionBody
from lorad.serving.requests import Chunk

TEXT = "See https://a.example/x?y=1  and é\n"


@pytest.fixture(autouse=True)
def forget(daemon):
    daemon.asked.clear()
    daemon.error = None


def post(path, route, **body):
    connection = UnixConnection(path, 10)
    connection.request("POST", route, json.dumps(body))
    response = connection.getresponse()
    answer = response.status, response.read().decode()
    connection.close()
    return answer


def whole(path, route, **body):
    status, answer = post(path, route, **body)
    assert status == 200, answer
    return json.loads(answer)


def events(path, route, **body):
    status, answer = post(path, route, stream=True, **body)
    assert status == 200
    *told, done = answer.removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(each.removeprefix("data: ")) for each in told]


def test_a_text_is_continued_as_it_stands(path, daemon):
    answer = whole(path, "/v1/completions", prompt="Once", max_tokens=5, stop="\n")

    assert answer["object"] == "text_completion"
    assert answer["choices"] == [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}]
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert (answer["model"], answer["system_fingerprint"]) == ("chat@v0.1", "v0.1-abc")
    [(model, prompt, sampling)] = daemon.asked
    assert (model, prompt, sampling.max_tokens, sampling.stop) == ("chat", "Once", 5, ("\n",))


def test_several_answers_to_several_prompts_come_in_order_and_each_prompt_counts_once(path, daemon):
    answer = whole(path, "/v1/completions", prompt=["a", "b"], n=2)

    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert [prompt for _, prompt, _ in daemon.asked] == ["a", "a", "b", "b"]
    assert answer["usage"] == {"prompt_tokens": 14, "completion_tokens": 12, "total_tokens": 26}


def test_a_streamed_completion_is_pieces_of_text_with_its_usage_at_the_end(path):
    told = events(path, "/v1/completions", prompt="Once", stream_options={"include_usage": True})

    assert "".join(choice["text"] for event in told for choice in event["choices"]) == TEXT
    assert told[-2]["choices"][0]["finish_reason"] == "stop"
    assert (told[-1]["choices"], told[-1]["usage"]["total_tokens"]) == ([], 10)
    assert all("usage" not in event for event in events(path, "/v1/completions", prompt="Once"))


def test_several_answers_of_a_chat_have_their_places_and_one_version(path, daemon):
    answer = whole(path, "/v1/chat/completions", messages=HELLO, n=3, seed=5)

    assert [(each["index"], each["message"]["content"]) for each in answer["choices"]] == [
        (place, TEXT) for place in range(3)
    ]
    assert answer["usage"] == {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}
    # whatever is swapped between them, and with a seed each
    assert [model for model, _, _ in daemon.asked] == ["chat", "chat@v0.1", "chat@v0.1"]
    assert [sampling.seed for _, _, sampling in daemon.asked] == [5, 6, 7]


def test_pieces_of_several_answers_say_whose_they_are(path):
    told = events(path, "/v1/chat/completions", messages=HELLO, n=2, stream_options={"include_usage": True})

    texts, ends = {0: "", 1: ""}, {}
    for choice in (choice for event in told for choice in event["choices"]):
        texts[choice["index"]] += choice["delta"].get("content", "")
        ends |= {choice["index"]: choice["finish_reason"]} if choice["finish_reason"] else {}
    assert texts == {0: TEXT, 1: TEXT}
    assert ends == {0: "stop", 1: "stop"}
    assert told[-1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 6, "total_tokens": 13}


@pytest.fixture
def accepted(daemon):
    """Answer nothing, and hand out what is accepted."""
    made, ask, chunks = queue.Queue(), daemon.ask, daemon.chunks

    def note(*given, **how):
        answer = ask(*given, **how)
        made.put(answer[0])
        return answer

    daemon.ask, daemon.chunks = note, []
    yield made
    daemon.ask, daemon.chunks = ask, chunks


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_all_its_answers(path, accepted, stream):
    connection = UnixConnection(path, 10)
    connection.request(
        "POST", "/v1/chat/completions", json.dumps({"messages": HELLO, "n": 3, "stream": stream})
    )
    asked = [accepted.get(timeout=10) for _ in range(3)]

    connection.close()

    for each in asked:
        assert each.cancelled.wait(10)
        each.chunks.put(Chunk("", "cancelled"))  # as the engine does: nothing is left waiting


def test_where_one_of_several_finds_no_place_none_is_answered(path, daemon, accepted):
    full, ask = (
        ProtocolError("too many questions are waiting", status=503, code="busy", retry_after=1),
        daemon.ask,
    )

    def two(*given, **how):
        daemon.error = full if len(daemon.asked) == 2 else None
        return ask(*given, **how)

    daemon.ask = two
    status, answer = post(path, "/v1/chat/completions", messages=HELLO, n=3)

    assert (status, json.loads(answer)["error"]["code"]) == (503, "busy")
    assert [accepted.get(timeout=1).cancelled.is_set() for _ in range(2)] == [True, True]


def test_what_goes_wrong_with_one_ends_the_others(path, accepted):
    connection = UnixConnection(path, 10)
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "a", "n": 2}))
    first, second = (accepted.get(timeout=10) for _ in range(2))
    second.chunks.put(ProtocolError("answering failed", status=500, code="internal"))

    response = connection.getresponse()

    assert (response.status, json.loads(response.read())["error"]["message"]) == (500, "answering failed")
    assert first.cancelled.wait(10)
    first.chunks.put(Chunk("", "cancelled"))
    connection.close()


def test_where_not_all_of_several_answers_find_room_none_is_begun(path, daemon):
    daemon.room = 2
    status, answer = post(path, "/v1/completions", prompt=["a", "b"], n=2)
    daemon.room = 100

    assert (status, json.loads(answer)["error"]["code"]) == (503, "busy")
    assert daemon.asked == []


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("", [""]),
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_a_prompt_is_a_text_or_tokens_or_several_of_them(prompt, read):
    assert CompletionBody.read(json.dumps({"prompt": prompt}).encode()).prompts() == read


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        ({}, "prompt", "is missing"),
        ({"prompt": 5}, "prompt", "must be a text"),
        ({"prompt": []}, "prompt", "must be a text"),
        ({"prompt": ["a", 5]}, "prompt", "must be a text"),
        ({"prompt": [True]}, "prompt", "must be a text"),
        ({"prompt": [[1], []]}, "prompt[1]", "must be a text"),
        ({"prompt": ["a", "b"], "n": 9}, "prompt", "asks for 18 answers"),
        ({"prompt": "a", "n": 17}, "n", "less than or equal to 16"),
        ({"prompt": "a", "n": 0}, "n", "greater than or equal to 1"),
        ({"prompt": "a", "messages": HELLO}, "messages", "write prompt"),
        ({"prompt": "a", "tools": [{}]}, "tools", "no conversation"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "does not support suffix"),
        ({"prompt": "a", "echo": True}, "echo", "does not support echo"),
        ({"prompt": "a", "logprobs": 6}, "logprobs", "less than or equal to 5"),
        ({"prompt": "a", "logprobs": True}, "logprobs", "must be a valid integer"),
        ({"prompt": "a", "top_logprobs": 5}, "top_logprobs", "says with logprobs how many"),
        ({"prompt": "a", "best_of": 2}, "best_of", "does not support best_of"),
        ({"prompt": "a", "lorad": {"retrieve": True}}, "lorad", "looks nothing up"),
    ],
)
def test_what_is_no_prompt_or_is_not_done_is_refused_by_name(body, field, told):
    with pytest.raises(ProtocolError, match=told) as caught:
        CompletionBody.read(json.dumps(body).encode()).prompts()

    assert (caught.value.status, caught.value.data["param"]) == (400, field)
