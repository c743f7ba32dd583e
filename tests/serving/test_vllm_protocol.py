"""What is said to a vLLM server and believed of it, without one: bodies, streams, proofs, the command line."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lorad.config import EngineSettings
from lorad.errors import ConfigError, ProtocolError, RegistryError
from lorad.evaluation import metrics
from lorad.serving.backends.vllm import command, proof, protocol
from lorad.serving.backends.vllm.proof import Probe
from lorad.serving.backends.vllm.wire import Address, BrokenExchange, Reply
from lorad.serving.guiding import Grammar, GuidedSampling
from lorad.serving.requests import Sampling
from lorad.storage import files

PROMPT = [3, 4, 5]
ENDS = frozenset({1, 2})


def body(sampling=None):
    return protocol.completion(
        "chat@v0.1-ab", "chat@v0.1-ab", PROMPT, sampling or Sampling(max_tokens=4), ENDS
    )


def event(tokens, finish=None, **more):
    choice = {"index": 0, "text": "?", "token_ids": tokens, "finish_reason": finish, **more}
    return {"id": "cmpl-1", "model": "chat@v0.1-ab", "choices": [choice]}


def line(told):
    return b"data: " + json.dumps(told).encode() + b"\n\n"


def test_a_request_says_everything_that_vllm_would_else_choose():
    sampling = Sampling(max_tokens=9, temperature=0.7, top_p=0.9, top_k=40, min_p=0.1, seed=-5, stop=("X",))

    assert body(sampling) == {
        "model": "chat@v0.1-ab",
        "prompt": PROMPT,
        "n": 1,
        "max_tokens": 9,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "seed": -5,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": [1, 2],
        "ignore_eos": False,
        "return_token_ids": True,
        "cache_salt": "chat@v0.1-ab",
    }


def test_a_top_p_of_nothing_is_greedy():
    told = body(Sampling(max_tokens=1, temperature=1.0, top_p=0.0))

    assert (told["temperature"], told["top_p"]) == (0.0, 1.0)


def test_a_schema_goes_along_and_another_grammar_is_refused_by_name():
    schema = {"type": "object"}

    told = body(GuidedSampling(max_tokens=4, grammar=Grammar(None, "", schema)))

    assert told["response_format"]["json_schema"]["schema"] == schema
    with pytest.raises(ProtocolError) as caught:
        body(GuidedSampling(max_tokens=4, grammar=Grammar(None, "")))
    assert (caught.value.status, caught.value.code) == (400, "unsupported")


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_tokens_come_out_of_a_stream_however_it_is_cut(cut):
    stream = protocol.TokenStream(body(), ENDS)
    said = [event([8], prompt_token_ids=PROMPT), event([]), event([9, 10]), event([1], "stop")]
    data = b": hello\n\n" + b"".join(map(line, said)) + b"data: [DONE]\n\n"

    tokens = [stream.feed(data[at : at + cut]) for at in range(0, len(data), cut)]

    assert [token for part in tokens for token in part] == [8, 9, 10, 1]
    assert stream.is_over
    assert stream.count == 4


@pytest.mark.parametrize(("stop", "end"), [(2, 2), (None, 1), ("</s>", 1), ([2], 1)])
def test_an_end_token_that_is_left_out_is_put_in(stop, end):
    stream = protocol.TokenStream(body(), ENDS)

    assert stream.take(event([8], "stop", stop_reason=stop)) == [8, end]


def test_an_answer_that_is_cut_by_its_length_has_no_end():
    stream = protocol.TokenStream(body(), ENDS)

    assert stream.take(event([8, 9, 8, 9], "length")) == [8, 9, 8, 9]
    assert stream.is_over


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({**event([8]), "model": "the-base"}, "'the-base' answered instead of chat@v0.1-ab"),
        (event([8], prompt_token_ids=[9]), "another request"),
        (event([8] * 6), "more tokens"),
        (event(["8"]), "no answer of vLLM"),
        (event([True]), "no answer of vLLM"),
        (event([-1]), "no answer of vLLM"),
        (event(7), "no answer of vLLM"),
        ({"id": "cmpl-1", "model": "chat@v0.1-ab"}, "no answer of vLLM"),
        ({"id": "cmpl-1", "model": "chat@v0.1-ab", "choices": [1]}, "no answer of vLLM"),
        ({"id": "cmpl-1", "model": "chat@v0.1-ab", "choices": [{"index": 0, "text": "x"}]}, "no answer"),
        ([1], "no answer of vLLM"),
    ],
)
def test_what_is_no_answer_to_this_request_breaks_it(told, why):
    stream = protocol.TokenStream(body(), ENDS)

    with pytest.raises(BrokenExchange, match=why):
        stream.feed(line(told))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"data: {\n", "no answer of vLLM"),
        (b"<html>\n", "no answer of vLLM"),
        (b"data: [DONE]\n", "broke off"),
        (b"data: " + b"[" * 100_000 + b"\n", "no answer of vLLM"),
        (b"x" * (protocol.LONGEST_LINE + 1), "an event of more than"),
    ],
)
def test_what_is_no_stream_breaks_it(data, why):
    with pytest.raises(BrokenExchange, match=why):
        protocol.TokenStream(body(), ENDS).feed(data)


@pytest.mark.parametrize(
    "told", [event([8], "abort"), {"error": {"message": "EngineCore died"}}, {"error": "it died"}]
)
def test_what_the_server_says_went_wrong_is_told(told):
    with pytest.raises(ProtocolError, match=r"abort|EngineCore died|it died") as caught:
        protocol.TokenStream(body(), ENDS).take(told)

    assert (caught.value.status, caught.value.code, caught.value.data) == (
        502,
        "backend_failed",
        {"backend": "vllm"},
    )


@pytest.mark.parametrize(
    ("status", "said", "wanted"),
    [
        (400, {"error": {"message": "too long"}}, (400, "backend_refused", "too long")),
        (422, {"detail": "no"}, (400, "backend_refused", "no")),
        (500, {"message": "died"}, (502, "backend_failed", "died")),
        (503, None, (502, "backend_failed", "no reason")),
    ],
)
def test_a_refusal_says_what_the_server_said(status, said, wanted):
    found = protocol.refusal(Reply(status, b"<html>" if said is None else json.dumps(said).encode()))

    assert (found.status, found.code) == wanted[:2]
    assert wanted[2] in found.message


# proofs


def probe(*likely):
    return Probe((3,), (7, 8, 1), tuple(None if each is None else frozenset(each) for each in likely))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([7, 8, 1], None),
        ([9, 8, 1], "token 9 where 7"),
        ([7, 5, 5], None),  # nearly as likely, and another text from there on
        ([7, 6, 1], "token 6 where 8"),
        ([7, 8, 2], None),  # anything may come there
        ([7], "ends after 1 tokens"),
        ([], "ends after 0 tokens"),
    ],
)
def test_only_near_ties_may_fall_the_other_way(said, why):
    found = probe({7}, {8, 5}, None).objection(said)

    assert found is None if why is None else why in found


def base(dtype=torch.bfloat16):
    return SimpleNamespace(model=SimpleNamespace(dtype=dtype))


@pytest.mark.parametrize(
    ("stored", "here", "wanted"),
    [
        ("float32", torch.bfloat16, ({7}, None, {1})),
        ("bfloat16", torch.float32, ({7}, None, {1})),
        ("float32", torch.float32, ({7}, {8}, {1})),
    ],
)
def test_a_versions_probes_are_read_with_what_is_about_as_likely(tmp_path, stored, here, wanted):
    entry = {
        "tokens": [3, 7, 8, 1],
        "start": 1,
        "top": [[7, 9], [8, 5], [1, 2]],
        "logits": [[9.0, 4.0], [9.0, 8.0], [9.0, 6.9]],
    }
    files.write_json(tmp_path / metrics.PROBES, {"dtype": stored, "probes": [entry]})

    assert proof.of_version(tmp_path, base(here)) == (probe(*wanted),)


@pytest.mark.parametrize(
    "stored",
    [
        [],
        {"probes": [{}]},
        {"probes": [{"tokens": [1], "start": 1, "top": [], "logits": []}]},
        {"probes": [{"tokens": [1, 2], "start": 1, "top": [[1]], "logits": [[]]}]},
        {"probes": [{"tokens": [1, 2], "start": 1, "top": [["a"]], "logits": [[1.0]]}]},
        {"probes": 3},
    ],
)
def test_damaged_probes_are_refused_by_name(tmp_path, stored):
    told = {"dtype": "float32", **stored} if isinstance(stored, dict) else stored
    files.write_json(tmp_path / metrics.PROBES, told)

    with pytest.raises(RegistryError) as caught:
        proof.of_version(tmp_path, base())

    assert caught.value.code == "probes_damaged"


def test_a_version_without_probes_has_none(tmp_path):
    assert proof.of_version(tmp_path, base()) == ()


# where the server is, and how it is started


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://gpu.lan:8000/vllm/", "http://gpu.lan:8000/vllm"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
        ("http://gpu.lan", "http://gpu.lan:80"),
    ],
)
def test_an_address_is_read(url, told):
    assert str(Address.of_url(url)) == told


@pytest.mark.parametrize(
    "url",
    [
        "https://a:1",
        "http://",
        "http://a:b",
        "http://a:99999",
        "http://u@a",
        "http://a/?q",
        "a",
        "http://[::1",
    ],
)
def test_another_address_is_refused_with_an_example(url):
    with pytest.raises(ConfigError, match="write it like http://127") as caught:
        Address.of_url(url)

    assert caught.value.code == "bad_vllm_url"


def words(begin="vllm serve", **more):
    how = {"dtype": "bfloat16", "max_rank": 64, "max_loaded": 3, **more}
    return command.command_line(begin, Path("/m/base"), "chat@base-ab12", Path("/run/x.sock"), **how)


def test_the_default_command_line():
    assert words(EngineSettings().vllm_command) == [
        *("vllm", "serve", "/m/base"),
        *("--served-model-name", "chat@base-ab12"),
        *("--uds", "/run/x.sock"),
        *("--enable-lora", "--disable-log-stats"),
        *("--dtype", "bfloat16"),
        *("--max-lora-rank", "64"),
        *("--max-loras", "2"),
        *("--max-cpu-loras", "4"),
        *("--generation-config", "vllm"),
        *("--uvicorn-log-level", "warning"),
    ]


def test_an_option_of_the_commands_own_stays():
    found = words("'/opt/my vllm' serve --max-lora-rank=128 --dtype half --gpu-memory-utilization 0.5")

    assert found[0] == "/opt/my vllm"
    assert found.count("--dtype") == 1
    assert "--max-lora-rank" not in found
    assert "--gpu-memory-utilization" in found


@pytest.mark.parametrize(("max_rank", "rank"), [(1, 8), (8, 8), (9, 16), (64, 64), (257, 320), (512, 512)])
def test_the_rank_is_the_next_that_vllm_takes(max_rank, rank):
    assert command.lora_rank(max_rank) == rank


def test_a_rank_that_vllm_cannot_serve_is_refused():
    with pytest.raises(ConfigError, match=r"training\.max_rank is 513"):
        command.lora_rank(513)


def test_a_server_of_ours_is_offline_and_takes_adapters():
    found = command.environment({"PATH": "/bin", "HF_HUB_OFFLINE": "0"})

    assert found["PATH"] == "/bin"
    assert found["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert (found["HF_HUB_OFFLINE"], found["VLLM_NO_USAGE_STATS"]) == ("1", "1")
