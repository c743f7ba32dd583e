"""``/openapi.json``: what can be asked and what is answered, made of the routes, their bodies and their records.

What lives here: what FastAPI cannot know by itself: bodies that are read by their content, what the text below a field
says, fields that a record does not name. What never does: describing a field; its record does.
"""

import ast
import dataclasses
import inspect
import itertools
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from lorad import records
from lorad.evaluation import retention
from lorad.serving import answers, completions, ollama
from lorad.serving.http.routing import Route
from lorad.serving.record_json import optional_of, rest_of

REFERENCE = "#/components/schemas/{model}"


def add(app: FastAPI) -> None:
    """Let the application serve the document of the routes that it has."""
    made = _document(app)
    app.openapi = lambda: made  # type: ignore[method-assign] # FastAPI's own way to extend it


def _document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(title=app.title, version=app.version, routes=app.routes)
    schemas = made["components"]["schemas"]
    for kind in _records():
        if kind.__name__ in schemas:
            _complete(schemas[kind.__name__], kind)
    _allow_null(schemas[records.Evaluation.__name__])
    for route in app.routes:
        if isinstance(route, Route) and route.body_kind:
            _add_body(made, route)
    return made


def _records() -> set[type]:
    """Return every record that may be part of an answer."""
    modules = (records, retention, answers, completions, ollama)
    found = itertools.chain.from_iterable(vars(module).values() for module in modules)
    return {kind for kind in found if isinstance(kind, type) and dataclasses.is_dataclass(kind)}


def _complete(schema: dict[str, Any], kind: type) -> None:
    """Say what each field means, which of them are always there, and that others may stand beside them."""
    other, optional, meanings = rest_of(kind), optional_of(kind), _meanings(kind)
    if other:
        del schema["properties"][other]
        schema["additionalProperties"] = True
    schema["required"] = [name for name in schema["properties"] if name not in optional]
    for name, field in schema["properties"].items():
        if name in meanings:
            field["description"] = meanings[name]


def _meanings(kind: type) -> dict[str, str]:
    """Return the text below each field of a record, those that it inherits too."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        (definition,) = ast.parse(inspect.getsource(each)).body
        body = definition.body if isinstance(definition, ast.ClassDef) else []
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                found[ast.unparse(field.target)] = inspect.cleandoc(ast.literal_eval(text.value))
    return found


def _allow_null(schema: dict[str, Any]) -> None:
    """Say that what was measured is ``null`` if it was no number: JSON has no other word for that."""
    for field in schema["properties"].values():
        if field.get("type") == "number":
            field["type"] = ["number", "null"]


def _add_body(made: dict[str, Any], route: Route) -> None:
    assert route.body_kind is not None  # noqa: S101 - whoever calls has looked
    schema = route.body_kind.model_json_schema(ref_template=REFERENCE)
    made["components"]["schemas"] |= schema.pop("$defs", {})
    body = {"required": "required" in schema, "content": {"application/json": {"schema": schema}}}
    made["paths"][route.path]["post"]["requestBody"] = body
