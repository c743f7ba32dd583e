"""Vectors over a real socket, from a fake daemon."""

import base64
import json
import struct

import pytest

from lorad.errors import ProtocolError
from lorad.serving.client import Client, UnixConnection
from lorad.serving.http.openai_bodies import TEXTS, EmbeddingsBody


def embed(path, **body):
    return Client(path).call("POST", "/v1/embeddings", body)


def test_each_text_gets_its_vector_in_order(path, daemon):
    answer = embed(path, model="minilm", input=["a", "bcd"], user="Ann")

    assert answer == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [1.0, -0.5, 1.0]},
            {"object": "embedding", "index": 1, "embedding": [1.0, -0.5, 3.0]},
        ],
        "model": "minilm",
        "usage": {"prompt_tokens": 4, "completion_tokens": 0, "total_tokens": 4},
    }
    assert daemon.asked[-1] == ("minilm", ["a", "bcd"])
    assert embed(path, input="a")["data"] == answer["data"][:1]


def test_in_base64_the_same_numbers_are_sent(path):
    [one] = embed(path, input="a", encoding_format="base64")["data"]

    assert struct.unpack("<3f", base64.b64decode(one["embedding"])) == (1.0, -0.5, 1.0)


def test_what_the_embedder_cannot_is_told(path, daemon):
    daemon.error = ProtocolError("no embedder is loaded", status=409, code="no_embedder")
    connection = UnixConnection(path, 10)
    connection.request("POST", "/v1/embeddings", json.dumps({"input": "a"}))
    response = connection.getresponse()
    daemon.error = None

    assert (response.status, json.loads(response.read())["error"]["code"]) == (409, "no_embedder")
    connection.close()


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        ({}, "input", "is missing"),
        ({"input": 5}, "input", "a text or a list of texts"),
        ({"input": []}, "input", "a text or a list of texts"),
        ({"input": ["a", None]}, "input", "a text or a list of texts"),
        ({"input": [1, 2]}, "input", "these are tokens"),
        ({"input": [[1], [2]]}, "input", "these are tokens"),
        ({"input": ["a"] * (TEXTS + 1)}, "input", "at most 256"),
        ({"input": "a", "dimensions": 64}, "dimensions", "does not shorten vectors"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(body, field, told):
    with pytest.raises(ProtocolError, match=told) as caught:
        EmbeddingsBody.read(json.dumps(body).encode()).texts()

    assert (caught.value.status, caught.value.data["param"]) == (400, field)
