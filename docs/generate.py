"""Write the documents that are made from the code: ``settings.md``, ``modules.md``, ``monitor.svg``. Run with ``make docs``.

``tests/test_documents.py`` fails when the committed files are not what this script writes.
"""

import ast
import inspect
import io
import itertools
import json
import os
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from rich.terminal_theme import MONOKAI

from lorad import config
from lorad.apps.screens import monitor
from lorad.apps.screens.screen import Screen
from lorad.serving.answers import Status
from lorad.serving.record_json import read

DOCS = Path(__file__).resolve().parent
SOURCES = DOCS.parent / "src" / "lorad"

INTRO = """# Settings

This page is made from `src/lorad/config.py` with `make docs`.

A home's settings are in `configs/default.yaml`. Unset keys use the defaults. Later sources win: built-in defaults,
`configs/default.yaml`, `--config FILE`, `--set section.key=value`. An unknown key is refused, and the error suggests the
nearest known one. All problems are reported together. The daemon reads the settings when it starts; each version keeps
the settings it was made with in its `config.yaml`.
"""

MODULES_INTRO = """# Modules

This page is made from the modules' docstrings with `make docs`. [architecture.md](architecture.md) explains the folders.
"""

KINDS = {"integer": "whole number", "boolean": "`true`, `false`", "string": "text"}
UNBOUNDED = 2**31 - 1
"""A maximum from here on says how wide a number is stored, and nothing to people."""

WIDTH, HEIGHT = 100, 26
NOW = 1_795_876_980.0
LEARNED = (("v0.1", "campus_cs", 0.972), ("v0.2", "campus_housing", 0.986), ("v0.3", "campus_dining", 0.987))
HISTORY = ((2.71, 0.0), (1.94, 0.08), (1.32, 0.27), (0.88, 0.49), (0.57, 0.66), (0.38, 0.79), (0.24, 0.88))
EVENTS = (
    (-2210, "promoted", {"job": 3, "dataset": "campus_dining", "version": "v0.3", "recall": 0.987}),
    (-171, "accepted", {"file": "campus_library.json", "rows": 60, "job": 4, "new": 60}),
    (-166, "training", {"job": 4, "dataset": "campus_library"}),
    (-40, "accepted", {"file": "campus_clubs.csv", "rows": 41, "job": 5, "new": 41}),
)


# settings.md


def settings_page() -> str:
    """Return ``settings.md``: every section, every setting, what it may be, its default and its meaning."""
    first: dict[type[BaseModel], str] = {}
    parts = [INTRO]
    for name, kind in _sections(config.Settings):
        is_known = first.setdefault(kind, name) != name
        parts.append(f"## `{name}`\nAs `{first[kind]}`.\n" if is_known else _section(name, kind))
    return "\n".join(parts) + _renamed()


def _sections(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield each section with its dotted name, outer ones first."""
    for name, field in model.model_fields.items():
        section = _model_in(field.annotation)
        if section:
            path = f"{before}{name}{_index(field.annotation)}"
            yield path, section
            yield from _sections(section, f"{path}.")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _index(annotation: Any) -> str:
    """Return what stands between a collection and its members' keys."""
    return {dict: ".NAME", tuple: "[]"}.get(getattr(annotation, "__origin__", None), "")


def _section(name: str, model: type[BaseModel]) -> str:
    schema, meanings = model.model_json_schema(), _meanings(model)
    lines = [f"## `{name}`", inspect.cleandoc(model.__doc__ or "").replace("``", "`"), ""]
    rows = [
        f"| `{key}` | {_values(field, schema)} | {_default(field)} | {meanings.get(key, '')} |"
        for key, field in schema["properties"].items()
        if not _model_in(model.model_fields[key].annotation)
    ]
    table = ["| setting | values | default | meaning |", "|---|---|---|---|", *rows] if rows else []
    return "\n".join([*lines, *table, ""])


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return the text below each field of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    body = getattr(definition, "body", [])
    return {
        field.target.id: " ".join(str(text.value.value).split())
        .replace("``None``", "`null`")
        .replace("``", "`")
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _values(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return what a setting may be, as words: a kind and its range, or the choices."""
    if "$ref" in field:
        field = schema["$defs"][field["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in field:
        return " or ".join(_values(choice, schema) for choice in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{choice}`" for choice in field.get("enum", [field.get("const")]))
    if ":[0-5]" in (pattern := field.get("pattern", "")):
        return "hours of the day, `HH:MM-HH:MM`" if "-(" in pattern else "time of day, `HH:MM`"
    return _ranged(KINDS.get(field["type"], field["type"]), field)


def _ranged(kind: str, field: dict[str, Any]) -> str:
    """Return a kind with its bounds; one that only keeps a number within the machine's is left out."""
    low, above, high = field.get("minimum"), field.get("exclusiveMinimum"), field.get("maximum")
    bounds = [
        "" if above is None else f"above {above:,g}",
        "" if low is None else f"at least {_plain(low)}",
        "" if high is None or high >= UNBOUNDED else f"at most {_plain(high)}",
    ]
    return ", ".join(filter(None, [kind, *bounds]))


def _plain(number: float) -> str:
    return (
        f"{number:,}"
        if isinstance(number, int)
        else f"{number:g}"
        if number < UNBOUNDED
        else f"{number:,.0f}"
    )


def _default(field: dict[str, Any]) -> str:
    return f"`{json.dumps(field['default'])}`" if "default" in field else "none"


def _renamed() -> str:
    rows = [f"| `{old}` | {new} |" for old, new in config.RENAMED.items()]
    head = ["", "## Renamed settings", "The old name is refused, and the error gives the new one.", ""]
    return "\n".join([*head, "| old | new |", "|---|---|", *rows, ""])


# modules.md


def modules_page() -> str:
    """Return ``modules.md``: every module with the first sentence of its docstring, folder by folder."""
    lines = [MODULES_INTRO]
    for folder in sorted(path.parent for path in SOURCES.rglob("__init__.py")):
        lines += _folder(folder)
    return "\n".join(lines)


def _folder(folder: Path) -> list[str]:
    heading = f"## `{folder.relative_to(SOURCES.parent)}`\n{_first_sentences(folder / '__init__.py')}\n"
    modules = [module for module in sorted(folder.glob("*.py")) if not module.name.startswith("__")]
    rows = [f"| `{module.stem}` | {_first_sentences(module)} |" for module in modules]
    return [heading, *(["| module | |", "|---|---|", *rows, ""] if rows else [])]


def _first_sentences(module: Path) -> str:
    """Return the first paragraph of a module's docstring on one line."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")


# monitor.svg


def monitor_picture() -> str:
    """Return the monitor during a session, drawn by the monitor's own code."""
    screen = Screen(width=WIDTH, height=HEIGHT, record=True, file=io.StringIO(), force_terminal=True)
    screen.print(monitor.render(read(Status, status()), width=WIDTH, height=HEIGHT))
    return screen.export_svg(title="lorad monitor", theme=MONOKAI, unique_id="lorad")


def status() -> dict[str, Any]:
    """Return what ``GET /lorad/status`` says while a fourth dataset is learned; figures as in ``bench/results``."""
    return {
        "lorad": "0.1.0",
        "home": "/var/lib/lorad",
        "now": NOW,
        "started_at": NOW - 11_525,
        "pid": 4242,
        "paused": False,
        "ready": True,
        "tracks": {"chat": _track()},
        "jobs": _jobs(),
        "waiting_files": [
            {"name": "campus_sports.jsonl", "track": "chat", "bytes": 15_320, "age_seconds": 2.1}
        ],
        "session": _session(),
        "engine": {"requests": 128, "waiting": 0, "active": 1, "tokens_per_second": 21.5},
        "events": [
            {"id": number, "at": NOW + at, "name": name, **data}
            for number, (at, name, data) in enumerate(EVENTS, start=40)
        ],
    }


def _track() -> dict[str, Any]:
    versions = [
        {
            "version": name,
            "date": "2026-11-28",
            "description": f"learned {dataset}",
            "state": "intact",
            "performance": {"recall": recall, "retention": 0.99},
        }
        for name, dataset, recall in LEARNED
    ]
    return {
        "task": "chat",
        "base": "smollm2",
        "latest": "v0.3",
        "previous": "v0.2",
        "serving": "v0.3",
        "versions": versions,
        "datasets": [],
    }


def _jobs() -> list[dict[str, Any]]:
    ended = [
        _job(number, dataset, "promoted", ended_at=NOW - 9000 + 1000 * number, version=name)
        for number, (name, dataset, _) in enumerate(LEARNED, start=1)
    ]
    return [
        _job(5, "campus_clubs", "queued"),
        _job(4, "campus_library", "training", started_at=NOW - 166),
        *reversed(ended),
    ]


def _job(number: int, dataset: str, state: str, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "track": "chat",
        "dataset": dataset,
        "state": state,
        "kind": "learn",
        "created_at": NOW - 10_000,
        "started_at": None,
        "ended_at": None,
        "attempts": 0,
        "force": False,
        "settings": {},
        "version": None,
        "reason": {},
        **more,
    }


def _session() -> dict[str, Any]:
    loss, recall = HISTORY[-1]
    return {
        "job": 4,
        "dataset": "campus_library",
        "phase": "training",
        "round": len(HISTORY) + 1,
        "rounds": 30,
        "step": 87,
        "steps": 330,
        "loss": loss,
        "learning_rate": 8.3e-4,
        "tokens_per_second": 235.0,
        "recall": recall,
        "old_recall": 0.99,
        "target": 0.98,
        "eta_seconds": 95.0,
        "elapsed": 166.0,
        "peak_gib": 2.1,
        "history": [
            {"round": number, "loss": loss, "recall": recall, "old_recall": 0.99}
            for number, (loss, recall) in enumerate(HISTORY, start=1)
        ],
    }


MADE = {"settings.md": settings_page, "modules.md": modules_page, "monitor.svg": monitor_picture}
"""Each generated file with the function that returns its text."""


def main() -> None:
    """Write every generated file."""
    os.environ["TZ"] = "UTC"  # so that the picture's clock is the same everywhere
    time.tzset()
    for name, make in MADE.items():
        (DOCS / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
