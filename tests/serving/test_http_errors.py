"""Every error in the one form that OpenAI's clients read, with the status that fits it."""

import pytest
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from lorad.errors import ConfigError, ProtocolError, RegistryError, TransientError
from lorad.serving.http import http_errors

ROUTES = ["GET /v1/models", "POST /v1/chat/completions", "GET /lorad/jobs", "GET /healthz"]


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (ProtocolError("no", code="busy", status=503), 503, "server_error", "busy"),
        (ProtocolError("no"), 400, "invalid_request_error", "bad_request"),
        (TransientError("no"), 503, "server_error", "retry_later"),
        (RegistryError("no", code="no_version"), 404, "invalid_request_error", "no_version"),
        (RegistryError("no", code="version_damaged"), 409, "invalid_request_error", "version_damaged"),
        (ConfigError("no"), 500, "server_error", "config"),
        (ZeroDivisionError("no"), 500, "server_error", "internal"),
    ],
)
def test_case_10_every_error_has_one_form(error, status, kind, code):
    told = http_errors.form(error).error

    assert http_errors.status(error) == status
    assert (told.type, told.param, told.code) == (kind, None, code)
    assert told.message.endswith("no")


@pytest.mark.parametrize(("status", "code"), [(413, "request_entity_too_large"), (422, None), (500, None)])
def test_case_10_what_the_framework_refuses_is_a_sentence_too(status, code):
    request = Request({"type": "http", "method": "POST", "path": "/lorad/pause", "headers": []})

    error = http_errors._explained(request, HTTPException(status, "so"), ROUTES)

    assert (error.status, error.message) == (status, "POST /lorad/pause: so")
    assert error.code == code or error.code.replace("_", "").isalpha()


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("POST /v1/responses", "POST /v1/chat/completions"),
        ("POST /openai/v1/chat/completions", "POST /v1/chat/completions"),
        ("GET /models/", "GET /v1/models"),
        ("GET /health", "GET /healthz"),
        ("GET /api/ps", "GET /api/tags"),
        ("POST /v1/rerank", None),
        ("POST /v1/audio/speech", None),
        ("GET /nowhere", None),
    ],
)
def test_case_10_the_route_that_was_meant_is_named(asked, meant):
    told = http_errors._no_route(asked, ROUTES)

    assert told.startswith(f"lorad has no route {asked}; ")
    assert (f"did you mean {meant}?" in told) if meant else ("did you mean" not in told)
    assert "it has GET /v1/models, POST /v1/chat/completions, among others" in told


def test_case_11_whoever_left_is_noted_and_not_raised():
    app = FastAPI()
    http_errors.add_handlers(app)

    answer = app.exception_handlers[ClientDisconnect](None, ClientDisconnect())

    assert answer.status_code == 499
