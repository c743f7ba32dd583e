"""Labels of texts over HTTP, of a track and of a system: forms, and what is wrong with a text. The daemon is a fake."""

import json

import pytest
from test_server import post

from lorad.errors import ProtocolError
from lorad.serving.answers import Classifications, SystemAnswer
from lorad.serving.client import Client


@pytest.fixture(autouse=True)
def forget(daemon):
    daemon.error = None


def test_labels_come_in_the_order_of_the_texts_with_the_version_that_made_them(path):
    answer = Client(path).classify("mail", ["a prize", "a letter"])

    assert isinstance(answer, Classifications)
    assert (answer.model, answer.system_fingerprint) == ("mail@v0.1", "v0.1-abc")
    assert [said.label for said in answer.classifications] == ["spam/prize", "ham"]
    assert [level.label for level in answer.classifications[0].levels] == ["spam", "spam/prize"]


def test_a_system_tells_each_step_and_who_answered(path):
    answer = Client(path).ask_system("lcr", ["a prize"], "small")

    assert isinstance(answer, SystemAnswer)
    (member,) = answer.members
    assert (member.role, member.variant, member.version, member.corrupt) == (
        "classifier",
        "small",
        "v0.1",
        ("v0.2",),
    )
    (result,) = answer.results
    assert (result.label, result.ended_at, len(result.steps)) == ("spam/prize", "classifier", 1)
    with pytest.raises(ProtocolError, match="no system 'lrc'") as caught:
        Client(path).ask_system("lrc", ["a prize"])
    assert caught.value.status == 404


@pytest.mark.parametrize("route", ["/lorad/classify", "/lorad/systems/lcr"])
@pytest.mark.parametrize(
    ("texts", "status", "says"),
    [
        (["a", " "], 422, "texts[1] is empty"),
        ([], 422, "texts"),
        ("a", 422, "texts"),
        ([7], 422, "texts[0]"),
        (["a"] * 65, 422, "texts"),
        (None, 422, "texts: is missing"),
    ],
)
def test_what_cannot_be_classified_is_refused_by_name(path, route, texts, status, says):
    body = {"texts": texts} | ({"model": "mail"} if route.endswith("classify") else {})

    found, _, answer = post(path, route, body)

    assert found == status
    assert says in json.loads(answer)["error"]["message"]


@pytest.mark.parametrize("route", ["/lorad/classify", "/lorad/systems/lcr"])
@pytest.mark.parametrize(
    ("code", "status", "param"),
    [
        ("context_length_exceeded", 422, "inputs[0]"),
        ("no_text", 422, "inputs[0]"),
        ("nothing_learned", 409, "model"),
    ],
)
def test_an_input_that_the_model_cannot_take_is_told_as_a_text(path, daemon, route, code, status, param):
    daemon.error = ProtocolError("it cannot", status=status, code=code, param=param)
    body = {"texts": ["a"]} | ({"model": "mail"} if route.endswith("classify") else {})

    found, _, answer = post(path, route, body)

    error = json.loads(answer)["error"]
    assert (found, error["code"]) == (status, code)
    assert error["param"] == ("texts[0]" if status == 422 else "model")
