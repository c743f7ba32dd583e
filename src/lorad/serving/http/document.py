"""``/openapi.json``: what can be asked and what is answered, made of the routes, their bodies and their records.

What lives here: what FastAPI cannot know by itself: bodies that are read by their content, fields that records do not
name, numbers that JSON has no word for. What never does: describing a field; its docstring does.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from lorad.serving import answers, completions
from lorad.serving.http.routing import Route
from lorad.serving.record_json import rest_of

REFERENCE = "#/components/schemas/{model}"


def add(app: FastAPI) -> None:
    """Let the application serve its document, made when it is asked for the first time."""
    app.openapi = functools.cache(functools.partial(_document, app))  # type: ignore[method-assign] # as FastAPI says


def _document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = made["components"]["schemas"]
    for name, kind in _open_records():
        if name in schemas:
            _open(schemas[name], str(rest_of(kind)))
    _allow_null(schemas)
    for route in app.routes:
        if isinstance(route, Route) and route.body_kind:
            _add_body(made, route)
    return made


def _open_records() -> Iterator[tuple[str, type]]:
    """Return the records that may hold more than they name."""
    for module in (answers, completions):
        for name, kind in vars(module).items():
            if isinstance(kind, type) and dataclasses.is_dataclass(kind) and rest_of(kind):
                yield name, kind


def _open(schema: dict[str, Any], other: str) -> None:
    """Say that a record's other fields stand beside the named ones."""
    schema["properties"].pop(other, None)
    schema["required"] = [name for name in schema.get("required", ()) if name != other]
    schema["additionalProperties"] = True


def _allow_null(value: Any) -> None:
    """Say that a number may be ``null``: it was infinite or none at all, and JSON has no word for that."""
    if isinstance(value, dict):
        if value.get("type") == "number":
            value["type"] = ["number", "null"]
        for inner in value.values():
            _allow_null(inner)
    elif isinstance(value, list):
        for inner in value:
            _allow_null(inner)


def _add_body(made: dict[str, Any], route: Route) -> None:
    assert route.body_kind is not None  # noqa: S101 - the caller asked
    schema = route.body_kind.model_json_schema(ref_template=REFERENCE)
    made["components"]["schemas"] |= schema.pop("$defs", {})
    is_needed = bool(schema.get("required"))
    body = {"required": is_needed, "content": {"application/json": {"schema": schema}}}
    made["paths"][route.path]["post"]["requestBody"] = body
