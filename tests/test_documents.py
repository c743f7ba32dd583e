"""What documents say, held against the code: names of tests, paths, settings, routes, decisions."""

import json
import re
import runpy
import types
from pathlib import Path

import named_tests
import pytest
import typer

from lorad.apps.cli import main
from lorad.config import Settings
from lorad.serving.http.server import build

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
WRITTEN = [
    path
    for path in (
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        *(ROOT / "bench").glob("*.md"),
        ROOT / "daemon/README.md",
    )
    if path.name != "LICENSE"
]
SECTIONS = tuple(Settings.model_fields)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[\w-]+)?\)")
PATH = re.compile(r"`((?:src|docs|tests|bench|examples|configs|daemon)/[\w./-]*)`")


def read(path):
    return path.read_text(encoding="utf-8")


def relative(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def generate():
    return types.SimpleNamespace(**runpy.run_path(str(DOCS / "generate.py")))


def test_every_test_that_the_seeds_name_is_there():
    text = read(DOCS / "seeds.md")

    assert len(named_tests.named(text)) > 100
    assert named_tests.named(text) - named_tests.defined() == set()
    assert named_tests.misplaced(text) == set()


@pytest.mark.parametrize("path", WRITTEN, ids=relative)
def test_every_link_leads_to_something(path):
    targets = [target for target in LINK.findall(read(path)) if "://" not in target]

    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("path", WRITTEN, ids=relative)
def test_every_path_that_is_named_is_there(path):
    assert [named for named in PATH.findall(read(path)) if not (ROOT / named).exists()] == []


@pytest.mark.parametrize("name", ["settings.md", "modules.md"])
def test_a_page_that_is_made_from_the_code_says_what_the_code_says(generate, name):
    assert read(DOCS / name) == generate.MADE[name](), "run: make docs"


def test_every_setting_has_a_meaning(generate):
    rows = [row.split(" | ") for row in generate.settings_page().splitlines() if row.startswith("| `")]

    assert [row[0] for row in rows if len(row) == 4 and not row[3].strip(" |")] == []


def test_every_setting_that_is_named_is_there(generate):
    # Given the page of settings, with sections such as ``planner.stopping`` and ``tracks.NAME``
    page = generate.settings_page().partition("## Renamed")[0]
    known, section = set(), ""
    for kind, name in re.findall(r"^(## |\| )`([\w.\[\]]+)`", page, re.MULTILINE):
        section = name if kind == "## " else section
        known |= {section, f"{section}.{name}"}
    known |= {name.split("[", 1)[0] for name in known} | {"tracks.chat.base", "log.*", "documents.jsonl"}

    named = {
        (relative(path), name)
        for path in WRITTEN
        if path.name != "settings.md" and path.parent.name != "bench"
        for name in re.findall(r"`((?:" + "|".join(SECTIONS) + r")\.[\w.*]+)`", read(path))
    }

    assert {(path, name) for path, name in named if name not in known} == set()


CODE = re.compile(r"^```\w*\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^lorad(?: --\w+ \S+)* ([a-z][a-z-]*)(?: ([a-z]+))?", re.MULTILINE)


@pytest.mark.parametrize("path", WRITTEN, ids=relative)
def test_every_command_that_is_named_is_there(path):
    known = typer.main.get_command(main.app).commands

    def is_known(command, following):
        inner = getattr(known.get(command), "commands", None)
        return command in known and (not inner or following in {"", *inner})

    code = "\n".join(block or span for block, span in CODE.findall(read(path)))
    assert [words for words in COMMAND.findall(code) if not is_known(*words)] == []


def test_the_picture_of_the_monitor_can_be_drawn_again(generate):
    picture = generate.monitor_picture()

    assert picture.startswith("<svg")
    for shown in ("campus_library", "v0.3", "98.0", "training"):
        assert shown in picture


ROUTE = re.compile(r"^\| `((?:GET|POST) \S+)` \|(.*?)\|(.*?)\|$", re.MULTILINE)


def in_code(text):
    return set(re.findall(r"`(\w+)`", text))


def test_the_page_of_the_socket_is_what_the_daemon_says_of_itself():
    """Hold routes, what each takes and what it answers against openapi.json."""
    document = build(types.SimpleNamespace(archive=None)).openapi()

    def takes(told):
        body = told.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        queries = {field["name"] for field in told.get("parameters", ()) if field["in"] == "query"}
        return queries | set(body.get("properties", ()))

    def answers(told):
        content = told["responses"]["200"]["content"]
        if "application/json" not in content:
            return "text"
        return content["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]

    real = {
        f"{method.upper()} {path}": (takes(told), answers(told))
        for path, methods in document["paths"].items()
        for method, told in methods.items()
        if method != "head"
    }
    written = ROUTE.findall(read(DOCS / "http.md"))

    assert {route: in_code(fields) for route, fields, _ in written} == {
        r: fields for r, (fields, _) in real.items()
    }
    assert {route: re.search(r"`(\w+)`", told)[1] for route, _, told in written} == {
        r: made for r, (_, made) in real.items()
    }


def test_the_page_of_the_socket_says_where_an_answer_may_come_from():
    schemas = build(types.SimpleNamespace(archive=None)).openapi()["components"]["schemas"]
    part = read(DOCS / "http.md").split("### Where an answer comes from")[1].split("\n## ")[0]
    example, with_passages = (
        json.loads("{" + written.split("```")[0] + "}")["lorad"] for written in part.split("```json\n")[1:3]
    )

    assert (
        re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)[1:]
        == schemas["Origin"]["properties"]["mode"]["enum"]
    )
    assert (
        example.keys() | {"passages", "documents"}
        == schemas["Origin"]["properties"].keys()
        == with_passages.keys()
    )
    assert with_passages["passages"][0].keys() == schemas["SourcePassage"]["properties"].keys()
    assert example["sources"][0].keys() == schemas["SourceExample"]["properties"].keys()
    assert "lorad" not in schemas["Completion"]["required"]


DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))


def test_the_index_names_every_decision():
    listed = re.findall(
        r"^\| (\d+) \| \[.*\]\((\d\S+)\) \|", read(DOCS / "decisions/README.md"), re.MULTILINE
    )

    assert [name for _, name in listed] == [path.name for path in DECISIONS]
    assert [int(number) for number, _ in listed] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_a_decision_says_why_what_and_what_follows(path):
    text = read(path)

    assert text.startswith(f"# {int(path.stem[:4])}. ")
    assert re.search(r"^Date: 20\d\d-\d\d-\d\d.* Status: (accepted|superseded)", text, re.MULTILINE)
    for part in ("**Context.** ", "**Decision.** ", "**Consequences.** "):
        assert part in text
