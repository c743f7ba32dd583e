"""Requests that schemathesis makes up, to the real application on a real socket: no route answers 500 to bad input, and
every answer is what ``/openapi.json`` says of it.
"""

import functools
import json
import types
from urllib.parse import urlsplit

import jsonschema_rs
import pytest
import requests
import schemathesis
from fastapi.routing import APIRoute
from home import Track
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from structlog.testing import capture_logs

from lorad.apps.daemon.app import App
from lorad.config import Settings, SystemSettings
from lorad.errors import ProtocolError, SampleError
from lorad.home import Home
from lorad.records import CLASSIFICATION, FILLING, Encoded, Example
from lorad.serving.client import Client, UnixConnection
from lorad.serving.http.ollama_bodies import OptionsBody
from lorad.serving.http.schemas import Body
from lorad.serving.http.server import build
from lorad.storage.documents import Document
from lorad.storage.ledger import Ledger
from lorad.tasks import Predicting
from lorad.tasks.chat import Chat

SETTINGS = Settings.model_validate(
    {
        "training": {"threads": 1, "dtype": "float32"},
        "engine": {"max_new_tokens": 2},
        "server": {"max_body_bytes": 200_000},
        "tracks": {"chat": {}, "documents": {"task": "retrieval"}},
    }
)
MANUAL = Document(
    text="# The mill\n\nIt stands by the river.\n", title="The mill", name="village.md", markup="markdown"
)
EXPECTED = {200, 400, 404, 405, 409, 413, 422, 503}
FEW = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

NASTY = [
    '"\\ud800"',
    '"\\udfff\\u0000"',
    '"\\u0000"',
    '"\\u001b]0;x\\u0007"',
    '"../../../etc/passwd"',
    '"job-1/../../x"',
    '"job-' + "9" * 300 + '"',
    '"v1.' + "9" * 5000 + '"',
    '"' + "x" * 100_000 + '"',
    '"\\u202e\\ufeff"',
    "1" + "0" * 23,
    "-1" + "0" * 23,
    "1" + "0" * 5000,
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "0.5",
    "true",
    "null",
    "[]",
    "{}",
    '""',
    "[" * 60 + "]" * 60,
    "[" * 5000 + "]" * 5000,
    '{"a":' * 5000 + "1" + "}" * 5000,
    '{"\\ud800": {"\\u0000": 1e400}}',
    '{"rank": "\\ud800"}',
    '{"rank": NaN}',
    '{"rank": 1e400}',
    '{"rank": 1' + "0" * 23 + "}",
    '{"recall": true, "seed": -1}',
    '[{"role": "user", "content": "\\u0000"}]',
    '[{"role": "user", "content": ["\\ud800"]}]',
    '[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "' + "[" * 500 + '"}}]}]',
    '[{"role": "user", "content": "' + "x " * 50_000 + '"}]',
    "[" + ",".join(['"stop"'] * 5000) + "]",
]
IN_PATHS = [
    "1" + "0" * 23,
    "-1",
    "9" * 5000,
    "1e400",
    "NaN",
    "%00",
    "%ff",
    "%ed%a0%80",
    "..%2f..%2f",
    "job-" + "9" * 300,
    "job-1%00",
    "v1.%d9%a1",
    "x" * 9000,
    "%0a",
    "latest",
]


class Lengths(Chat, Predicting):
    """A task that tells how long a text is."""

    def question(self, tokenizer, asked):
        if not isinstance(asked, str):
            raise SampleError("an input must be a text", code="no_text")
        return Encoded((*tokenizer(asked)["input_ids"], 0), 0)

    def predict(self, model, rows):
        del model
        return [len(row) for row in rows]


class Whole(Lengths):
    """A task that marks all of a text."""

    formats = "tagging"

    def predict(self, model, rows):
        span = {"start": 0, "end": 1, "label": "X", "text": "x", "confidence": 0.5}
        return [{"spans": [span]} for _ in super().predict(model, rows)]


class Labels(Lengths):
    """A task that says of every text that it is long."""

    name = CLASSIFICATION

    def predict(self, model, rows):
        del model
        said = {"label": "long", "labels": ["long"], "confidence": 1.0, "probabilities": {"long": 1.0}}
        return [said | {"levels": [{"label": "long", "probability": 1.0}]} for _ in rows]


class Matches(Lengths):
    """A task that says of every molecule that it matches."""

    formats = "spectra"

    def question(self, tokenizer, asked):
        del asked
        return super().question(tokenizer, "x")

    def predict(self, model, rows):
        peak = {"mz": 78.05, "intensity": 1.0, "evidence": 0.5, "explained": True, "fragment": "C6H6+"}
        match = {
            "smiles": "c1ccccc1",
            "match": 0.9,
            "share": 1.0,
            "evidence": 1.7,
            "explained_intensity": 1.0,
        }
        return [{"matches": [match | {"peaks": [peak]}]} for _ in super().predict(model, rows)]


class Gaps(Lengths):
    """A task that knows one word for every gap."""

    name = FILLING

    def question(self, tokenizer, asked):
        return super().question(tokenizer, asked["text"])

    def predict(self, model, rows):
        del model
        return [{"text": "x", "gaps": [[{"word": "x", "probability": 0.5}]]} for _ in rows]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """Run a daemon with a version, examples and an ended job, that starts no session."""
    root = tmp_path_factory.mktemp("home")
    database = Track(root).memory._db
    ledger = Ledger(database)
    ledger.close_drop(ledger.drop(1), "accept", 1.0)
    database.close()
    started = App(Home(root), SETTINGS)
    for begin in (started._claim, started._wire, started._answer, started._listen):
        begin()
    started.engine.attach("lengths", Lengths(), started.engine.base("chat"))
    started.engine.attach("ner", Whole(), started.engine.base("chat"))
    started.engine.attach("spectra", Matches(), started.engine.base("chat"))
    started.engine.attach("labels", Labels(), started.engine.base("chat"))
    started.engine.attach("gaps", Gaps(), started.engine.base("chat"))
    started.tracks["gaps"] = started.tracks["chat"]
    started.tracks["labels"] = started.tracks["chat"]
    started.api._systems = {"chain": SystemSettings.model_validate({"classifier": {"track": "labels"}})}
    started.documents.add("documents", [MANUAL], drop=1, now=1.0, earlier=())
    while started.documents.stores["documents"].step():
        pass
    job = started.ledger.queue("chat", "doors", 1.0, settings={"drop": 1})
    started.ledger.move_job(job, "cancel", 2.0)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def path(app):
    return app.home.socket(SETTINGS.server.socket)


def send(path, method, target, body=None, headers=None):
    """Return status and answer; whatever is answered is JSON in UTF-8, as the document says of its route."""
    connection = UnixConnection(path, 60)
    connection.putrequest(method, target, skip_accept_encoding=True)
    for name, value in (headers or {}).items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body or b"")))
    connection.endheaders(body)
    response = connection.getresponse()
    status, answer = response.status, response.read().decode("utf-8")
    kind = response.headers["content-type"] or ""
    is_stream = kind.startswith(("text/event-stream", "application/x-ndjson"))
    is_text = status == 200 and kind.startswith("text/plain")  # /metrics
    is_plain = status == 400 and "Invalid HTTP" in answer  # uvicorn's own word on what is no HTTP
    connection.close()
    if not is_stream and not is_plain and not is_text:
        told = json.loads(answer, parse_constant=pytest.fail)
        assert_is_documented(method, target, status, told)
    return status, answer


def assert_is_documented(method, target, status, told):
    """Hold an answer to the schema that the document has for its route and status."""
    found = SCHEMA.find_operation_by_path(method, urlsplit(target).path)
    if found is None:  # there is no such route
        return
    responses = found.definition.raw["responses"]
    schema = responses.get(str(status), responses["default"])["content"]["application/json"]["schema"]
    validator(schema["$ref"]).validate(told)


@functools.cache
def validator(reference):
    return jsonschema_rs.Draft202012Validator({"$ref": reference, "components": DOCUMENT["components"]})


def assert_is_expected(path, *request):
    status, answer = send(path, *request)
    assert status in EXPECTED, f"{request[:2]}: {status} {answer[:500]}"


# The document


BUILT = build(types.SimpleNamespace(archive=None))
ROUTES = [route for route in BUILT.routes if isinstance(route, APIRoute)]
DOCUMENT = BUILT.openapi()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]


def test_the_document_names_every_route_and_body():
    bodies = [
        told["requestBody"]
        for each in DOCUMENT["paths"].values()
        for told in each.values()
        if "requestBody" in told
    ]

    assert len(OPERATIONS) == len(ROUTES) > 20
    assert {each.method for each in OPERATIONS} == {"get", "post"}
    assert len(bodies) == len([kind for kind in _kinds(Body) if not _is_part(kind)])


def test_no_route_is_without_a_schema_of_its_answer_and_of_its_errors():
    for operation in OPERATIONS:
        responses = operation.definition.raw["responses"]
        for status in ("200", "default"):
            content = responses[status]["content"]
            is_text = operation.path in {"/metrics", "/"} and status == "200"
            assert is_text or content["application/json"]["schema"]["$ref"], operation.label


def test_the_document_is_served_and_tells_of_every_field_of_a_record():
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["Event"]["additionalProperties"]  # what is told of it stands beside its name
    assert schemas["Event"]["required"] == ["id", "at", "name"]
    assert schemas["VersionPapers"]["required"] == list(schemas["VersionPapers"]["properties"])
    assert "Counts up from 1" in schemas["Event"]["properties"]["id"]["description"]
    assert "day it was made" in schemas["VersionPapers"]["properties"]["date"]["description"]


def test_an_answer_that_is_not_as_documented_is_found_out():
    told = {"version": "v0.1", "pinned": "yes"}
    with pytest.raises(jsonschema_rs.ValidationError, match="boolean"):
        assert_is_documented("POST", "/lorad/versions/v0.1/pin", 200, told)


def _is_part(kind):
    """Tell whether a body is what others have in common, or stands in another."""
    return kind.__subclasses__() or kind.__name__.endswith("Options") or kind is OptionsBody


def _kinds(kind):
    for each in kind.__subclasses__():
        yield each
        yield from _kinds(each)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.label)
def test_no_route_answers_500_to_what_schemathesis_makes_up(path, operation):
    takes = (
        operation.body or operation.path_parameters or operation.query
    )  # else nothing can be wrong with it
    modes = [GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if takes else [])]

    @given(case=st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes]))
    @FEW
    def ask(case):
        told = case.as_transport_kwargs(base_url="http://localhost")
        told.pop("cookies", None)
        made = requests.Request(**{name: told[name] for name in told if name in REQUESTED}).prepare()
        body = made.body.encode("utf-8", "surrogatepass") if isinstance(made.body, str) else made.body
        assert_is_expected(path, made.method, made.path_url, body)

    ask()


NEEDED = {
    "model": '"chat"',
    "messages": '[{"role": "user", "content": "a"}]',
    "prompt": '"a"',
    "input": '"a"',
    "texts": '["a"]',
}
REQUESTED = ("method", "url", "params", "json", "data")


# Nasty values by hand: in every field of every body, and in every part of an address


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "route", [each for each in ROUTES if "POST" in each.methods], ids=lambda each: each.path
)
def test_no_route_answers_500_to_a_nasty_body(path, route):
    target = route.path.replace("{job}", "2").replace("{version}", "v0.1").replace("{system}", "chain")
    schema = DOCUMENT["paths"][route.path]["post"].get("requestBody")
    fields = schema["content"]["application/json"]["schema"]["properties"] if schema else {"none": {}}
    for field in fields:
        asked = "".join(f'"{name}": {NEEDED[name]}, ' for name in NEEDED if name in fields and name != field)
        for value in NASTY:
            body = f'{{{asked}"{field}": {value}}}'
            assert_is_expected(path, "POST", target, body.encode())
    for value in NASTY:
        assert_is_expected(path, "POST", target, value.encode())
    for raw in (b"\xff\xfe{}", b"\x00", b"{" * 100_000, b"[" * 199_999, b"x" * 300_000):
        assert_is_expected(path, "POST", target, raw)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("route", ROUTES, ids=lambda each: each.path)
def test_a7_no_route_answers_500_to_a_nasty_address(path, route):
    method = min(route.methods)
    names = [each["name"] for each in DOCUMENT["paths"][route.path][method.lower()].get("parameters", ())]
    plain = {"job": "2", "version": "v0.1", "name": "chat", "system": "chain"}
    for name in names:
        for value in IN_PATHS:
            target = route.path.replace(f"{{{name}}}", value)
            for other, usual in plain.items():
                target = target.replace(f"{{{other}}}", usual)
            more = f"?{name}={value}" if target == route.path or f"{{{name}}}" not in route.path else ""
            assert_is_expected(path, method, target + more, b"{}")


@pytest.mark.parametrize(
    "number", ["1" + "0" * 23, "9223372036854775808", "-9223372036854775809", "9" * 5000]
)
@pytest.mark.parametrize(
    "target",
    ["/lorad/jobs/{}", "/lorad/jobs/{}/retry", "/lorad/events?after={}", "/lorad/memory/examples?after={}"],
)
def test_a7_numbers_that_no_database_counts_to_are_answered(path, target, number):
    method = "POST" if target.endswith("retry") else "GET"

    assert send(path, method, target.format(number))[0] in {200, 400, 404}


def test_a7_a_track_that_is_not_there_is_404_whatever_else_is_asked(path):
    for body in (b'{"track": "", "to": "v0.1"}', b'{"track": "no", "to": "base"}', b'{"track": "no"}'):
        assert send(path, "POST", "/lorad/rollback", body)[0] == 404


@pytest.mark.parametrize("value", ['"\\ud800"', "NaN", "1e400", "1" + "0" * 23, '"8"', "true", "0", "[]"])
def test_a12_retry_stores_no_value_that_a_plan_cannot_have(app, path, value):
    before = app.ledger.job(2)

    status, answer = send(
        path, "POST", "/lorad/jobs/2/retry", f'{{"settings": {{"rank": {value}}}}}'.encode()
    )

    assert status == 400
    assert json.loads(answer)["error"]["code"] in {"bad_setting", "bad_text", "invalid_json"}
    assert app.ledger.job(2).settings == before.settings


def test_a19_a_question_of_18_megabytes_is_refused(path):
    with pytest.raises(ProtocolError, match="the body is longer than 200000 bytes") as refused:
        Client(path).chat([{"role": "user", "content": "word " * 3_600_000}])

    assert (refused.value.status, refused.value.code) == (413, "body_too_long")


def test_a19_a_body_without_a_length_is_refused_as_soon_as_it_is_too_long(path):
    connection = UnixConnection(path, 60)
    pieces = (b"x" * 50_000 for _ in range(100))
    connection.request("POST", "/v1/chat/completions", pieces, encode_chunked=True, headers=CHUNKED)
    response = connection.getresponse()

    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == "body_too_long"
    connection.close()


CHUNKED = {"Transfer-Encoding": "chunked"}


def test_a12_after_all_that_status_answers(path):
    assert send(path, "GET", "/lorad/status")[0] == 200
    assert send(path, "GET", "/lorad/jobs")[0] == 200


def test_questions_and_what_is_wrong_with_them_stand_in_no_log(path, caplog):
    word = "quincunx"
    with capture_logs() as told, caplog.at_level("DEBUG"):
        for body in (
            {"model": "chat", "messages": [{"role": "user", "content": word}], "max_tokens": 2},
            {"model": "chat", "messages": [{"role": word, "content": word}]},
            {"model": "chat", "messages": [{"role": "user", "content": word * 20_000}]},
        ):
            send(path, "POST", "/v1/chat/completions", json.dumps(body).encode())

    assert word not in str(told) + caplog.text


# What an older lorad stored

ROWS = [
    ("settings", '{"rank": "\\ud800"}'),
    ("settings", '{"rank": NaN, "drop": 1e400}'),
    ("settings", '{"drop": 1' + "0" * 23 + "}"),
    ("settings", "[1]"),
    ("settings", "not json"),
    ("settings", "[" * 5000),
    ("reason", '{"message": "\\udfff", "failed": Infinity}'),
    ("reason", "null"),
    ("dataset", "\x00\x1b]0;x\x07"),
]


@pytest.mark.parametrize(("column", "stored"), ROWS)
def test_a12_a_bad_row_that_is_stored_does_not_silence_status(app, path, column, stored):
    database = app.ledger._db
    held = database.rows("SELECT * FROM jobs WHERE id = 2")[0][column]
    database.run(f"UPDATE jobs SET {column} = ? WHERE id = 2", stored)

    told = [send(path, "GET", target) for target in ("/lorad/status", "/lorad/jobs", "/lorad/jobs/2")]

    database.run(f"UPDATE jobs SET {column} = ? WHERE id = 2", held)
    assert [status for status, _ in told[:2]] == [200, 200]
    assert told[2][0] in {200, 404}


EXAMPLES = [
    '"half \\ud83d"',
    "NaN",
    '[{"name": "f", "arguments": {"a": Infinity, "\\udfff": 1}}]',
    '{"content": "", "tool_calls": [{"name": "f", "arguments": {"x": ' + "[" * 300 + "]" * 300 + "}}]}",
    "[" * 5000 + "]" * 5000,
    "nothing",
]


@pytest.mark.parametrize("column", ["question", "answer"])
@pytest.mark.parametrize("stored", EXAMPLES)
def test_a11_whatever_memory_holds_is_exported(app, path, column, stored):
    # Given memory as an older lorad left it
    database = app.ledger._db
    example = Example(task="chat", input=[{"role": "user", "content": "x"}], target="y", dataset="old")
    app.tracks["chat"].memory.add([example], 1, 1.0)
    database.run(f"UPDATE examples SET {column} = ? WHERE dataset = 'old'", stored)

    status, answer = send(path, "GET", "/lorad/memory/examples?dataset=old")

    database.run("DELETE FROM examples WHERE dataset = 'old'")
    assert status == 200
    row = json.loads(answer)["examples"][0]
    assert row["dataset"] == "old"
    assert row["provenance"]["row"]
    assert ("unreadable" in row) != ("messages" in row)


# Every route as it is meant to be asked

QUESTION = {"messages": [{"role": "user", "content": "Where is door 1?"}], "max_tokens": 2}
ASKED = {
    "GET /": None,
    "GET /healthz": None,
    "GET /readyz": None,
    "GET /v1/models": None,
    "GET /v1/models/chat@v0.1": None,
    "POST /v1/chat/completions": QUESTION,
    "POST /v1/completions": {"prompt": "Where is", "max_tokens": 2},
    "POST /v1/embeddings": {"input": "Where is it?"},
    "GET /metrics": None,
    "POST /api/chat": QUESTION | {"model": "chat", "stream": False, "max_tokens": None},
    "POST /api/generate": {"model": "chat", "prompt": "Where is it?", "stream": False},
    "POST /api/embed": {"model": "chat", "input": "Where is it?"},
    "POST /api/show": {"model": "chat:v0.1"},
    "GET /api/tags": None,
    "GET /api/version": None,
    "POST /lorad/predict": {"model": "lengths", "inputs": ["Where is it?", "There."]},
    "POST /lorad/tag": {"texts": ["Where is it?", "There."]},
    "POST /lorad/spectra": {"spectra": [{"smiles": "C", "mzs": [16.0], "intensities": [1.0]}]},
    "POST /lorad/classify": {"model": "labels", "texts": ["Where is it?", "There."]},
    "POST /lorad/fill-mask": {"model": "gaps", "texts": ["Where is [MASK]?", "[MASK]."], "top_k": 3},
    "POST /lorad/systems/chain": {"texts": ["Where is it?", "There."]},
    "POST /lorad/search": {"query": "Where is the mill?"},
    "GET /lorad/documents": None,
    "GET /lorad/documents/1": None,
    "POST /lorad/documents/remove": {"documents": [1]},
    "GET /lorad/status": None,
    "GET /lorad/events?after=0": None,
    "POST /lorad/pause": None,
    "GET /lorad/jobs": None,
    "GET /lorad/jobs/2": None,
    "POST /lorad/jobs/2/retry": {"settings": {"rank": 8}},
    "POST /lorad/jobs/2/cancel": None,
    "POST /lorad/jobs/2/resume": {},
    "GET /lorad/versions": None,
    "GET /lorad/versions/v0.1": None,
    "GET /lorad/versions/v0.1/explain": None,
    "GET /lorad/diff?a=v0.1&b=v0.1": None,
    "POST /lorad/versions/v0.1/pin": {"pinned": True},
    "POST /lorad/versions/v0.1/tags": {"tag": "good"},
    "POST /lorad/versions/prune": {"keep": 1, "dry_run": True},
    "GET /lorad/memory": None,
    "GET /lorad/memory/examples": None,
    "GET /lorad/retention": None,
    "POST /lorad/forget": {"selector": "door", "dry_run": True},
    "POST /lorad/consolidate": {},
    "POST /lorad/rollback": {"to": "base"},
    "POST /lorad/resume": None,
}


def test_every_route_is_asked_below():
    found = [SCHEMA.find_operation_by_path(*asked.split("?")[0].split()) for asked in ASKED]
    assert sorted(each.label for each in found) == sorted(each.label for each in OPERATIONS)


@pytest.mark.parametrize(("asked", "body"), ASKED.items(), ids=ASKED)
def test_every_answer_is_as_documented(path, asked, body):
    status, answer = send(path, *asked.split(), body and json.dumps(body).encode())
    assert status == (503 if asked == "GET /readyz" else 200), answer[:500]


def test_the_document_that_is_served_is_this_one(path):
    assert json.loads(send(path, "GET", "/openapi.json")[1]) == DOCUMENT
