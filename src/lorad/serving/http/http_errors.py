"""Errors over HTTP, in the one form that OpenAI's clients read.

What lives here: the form, the status that fits an error, sentences for what the framework refuses by itself (a route
that is not there, a method, a query). What never does: raising lorad's own errors for what a route does.
"""

import difflib
from collections.abc import Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from lorad.errors import ConfigError, LoradError, ProtocolError, RegistryError, TransientError, describe
from lorad.serving.completions import Complaint, Failure
from lorad.serving.http import schemas
from lorad.serving.http.bodies import Json
from lorad.serving.ollama import OllamaError

CHAT = "POST /v1/chat/completions"

CLIENT_LEFT = 499
"""The status that proxies note for a client that left before its answer."""

ASKED_FOR = {"bad_setting", "no_such_setting"}
"""What is wrong with settings that a request brings, not with the daemon's own."""

MEANT = {
    "/v1/responses": CHAT,
    "/v1/messages": CHAT,
    "/completion": "POST /v1/completions",
    "/api/embeddings": "POST /api/embed",
    "/api/ps": "GET /api/tags",
}
"""Routes of other APIs, and which of lorad's does the same; none that is only spelled alike is guessed for them."""

OLLAMA = "/api/"
"""Paths whose clients read errors in Ollama's form, a sentence; lorad's own routes once had such names (``admin.OldNames``)."""


def add_handlers(app: FastAPI) -> None:
    """Answer every error in OpenAI's form, or in Ollama's."""

    @app.exception_handler(LoradError)
    def known(request: Request, error: LoradError) -> Json:
        return response(error, path=request.url.path)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Json:
        problems = [
            {**each, "loc": each["loc"][1:]} for each in error.errors()
        ]  # without query, path or body
        return response(schemas.invalid(problems), path=request.url.path)

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Json:
        told = _explained(request, error, _routes(app))
        return response(told, dict(error.headers or {}), path=request.url.path)

    @app.exception_handler(ClientDisconnect)
    def left(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=CLIENT_LEFT)  # nobody hears it, and nothing is wrong here

    @app.exception_handler(Exception)
    def unknown(request: Request, error: Exception) -> Json:
        return response(error, path=request.url.path)


def response(error: Exception, headers: dict[str, str] | None = None, path: str = "") -> Json:
    """Return an error as an answer to who asks at this path."""
    data = error.data if isinstance(error, LoradError) else {}
    more = {"Retry-After": str(data["retry_after"])} if "retry_after" in data else {}
    told = OllamaError(error=describe(error)["message"]) if path.startswith(OLLAMA) else form(error)
    return Json(told, status_code=status(error), headers={**(headers or {}), **more})


def form(error: Exception) -> Failure:
    """Return any exception as OpenAI's clients read it: message, type, param and code."""
    kind = "invalid_request_error" if status(error) < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    told = describe(error)
    known = {name: told.pop(name, None) for name in ("message", "code", "param")}
    return Failure(error=Complaint(**known, type=kind, data=told))


def status(error: Exception) -> int:
    """Return the status that fits an error."""
    if isinstance(error, ProtocolError):
        return error.status
    if isinstance(error, ConfigError) and error.code in ASKED_FOR:
        return HTTPStatus.BAD_REQUEST
    if isinstance(error, TransientError):
        return HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(error, RegistryError):
        return HTTPStatus.NOT_FOUND if error.code.startswith("no_") else HTTPStatus.CONFLICT
    return HTTPStatus.INTERNAL_SERVER_ERROR


def refuse_encoding(request: Request) -> None:
    """Raise ``ProtocolError`` on a body that is compressed."""
    encoding = request.headers.get("content-encoding", "")
    if any(each.strip().lower() not in ("", "identity") for each in encoding.split(",")):
        raise ProtocolError(
            f"the body is compressed ({encoding}); send it uncompressed",
            status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            code="unsupported_encoding",
        )


def refuse_unknown_query(request: Request) -> None:
    """Raise ``ProtocolError`` on a question to lorad's own routes that holds what none of them reads."""
    if request.url.path.startswith("/lorad/"):
        known = [field.alias for field in request.scope["route"].dependant.query_params]
        for name in request.query_params:
            if name not in known:
                raise schemas.invalid([{"type": "extra_forbidden", "loc": (name,)}], known)


def _explained(request: Request, error: HTTPException, routes: Sequence[str]) -> LoradError:
    """Return in a sentence what the framework refuses with a status."""
    asked = f"{request.method} {request.url.path}"
    if error.status_code == HTTPStatus.NOT_FOUND:
        return ProtocolError(_no_route(asked, routes), status=error.status_code, code="unknown_route")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        methods = (error.headers or {}).get("Allow", "another method").split(", ")
        allowed = ", ".join(sorted(set(methods) - {"HEAD"}))
        return ProtocolError(
            f"{request.url.path} does not accept {request.method}; use {allowed}",
            status=error.status_code,
            code="method_not_allowed",
        )
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return ProtocolError(f"{asked}: {error.detail}", status=error.status_code, code=code)


def _no_route(asked: str, routes: Sequence[str]) -> str:
    method, _, path = asked.partition(" ")
    meant = MEANT.get(path, _alike(path, routes))
    hint = f"did you mean {meant}? " if meant else ""
    families = ("/lorad/", OLLAMA) if path not in MEANT else ()
    family = next((each for each in families if path.startswith(each)), "/v1/")
    known = ", ".join(route for route in routes if route.partition(" ")[2].startswith(family))
    return f"lorad has no route {method} {path}; {hint}it has {known}, among others"


def _alike(path: str, routes: Sequence[str]) -> str:
    """Return the route whose path ends as this one does, or is spelled much like it."""
    paths = {route.partition(" ")[2]: route for route in routes}
    wanted = f"/{path.strip('/')}"
    ends = next((known for known in paths if known.endswith(wanted) or wanted.endswith(known)), None)
    near = difflib.get_close_matches(wanted, paths, n=1, cutoff=0.7)
    found = ends or (near[0] if near else None)
    return paths[found] if found else ""


def _routes(app: FastAPI) -> list[str]:
    return [f"{min(route.methods or ())} {route.path}" for route in app.routes if isinstance(route, Route)]
