"""Every command over data full of escapes: what reaches a terminal is text, what reaches a program is exact."""

import io
import json
import sys

import pytest
import typer
from fake_daemon import (
    DOCUMENT,
    PASSAGE,
    RETENTION,
    SESSION,
    FakeDaemon,
    Problem,
    Stream,
    completion,
    delta,
    described,
    ended,
    event,
    job,
    measured,
    promoted,
    rejected,
    snapshot,
    waiting_file,
)
from shown import is_safe
from typer.testing import CliRunner

from lorad.apps.cli import ask, programs
from lorad.apps.cli.main import app
from lorad.apps.screens import state_text, terminal
from lorad.serving.completions import Origin, SourceExample, SourcePassage
from lorad.serving.record_json import read

EVIL = "é\x1b[31m\x1b]0;pwned\x07\x9b2J\x7f\u202e\u2028[/red][bold]\r\n7  forged  promoted\U000e0041"
SHOWN = r"é\x1b[31m\x1b]0;pwned\x07\x9b2J\x7f\u202e\u2028[/red][bold]"
PLAIN = {"state", "kind", "phase"}
"""Keys whose values only lorad writes, and decides by."""


def evil(value, key=""):
    """Return an answer of the API in which everybody's words, names and keys of sidecars are full of escapes."""
    if isinstance(value, str):
        return value if key in PLAIN else value + EVIL
    if isinstance(value, dict):
        return {name: evil(inner, name) for name, inner in value.items()}
    return [evil(inner) for inner in value] if isinstance(value, list) else value


REPORT = {
    "description": "about",
    "formats": {f"alpaca{EVIL}": 2},
    "bad_rows": [{"line": 3, "field": "output", "message": "is empty"}],
    "contradicted_rows": [7],
    "replaced": [{"question": "q", "answer": "a", "dataset": "d"}],
}
ONE_JOB = rejected(1, "d") | {"drop": {"name": "d.json", "rows": 2, "reason": REPORT}}
EVENTS = [event(5, "failed", file="d.json", why="line 3", **{f"key{EVIL}": "x"})]
SCORES = {f"d{EVIL}": {"right": 1, "total": 2}}
STATUS = snapshot(
    jobs=[rejected(2, "d"), job(3, "d", "queued"), promoted(1, "d", "v0.1")],
    waiting_files=[waiting_file("d.json") | {"why": "it grows"}],
    inbox={"files": 1, "not_taken": [{"name": "d", "code": "x", "message": "d is no file"}], "why": "d"},
    session=SESSION,
    events=EVENTS,
)
DONE = snapshot(jobs=[rejected(2, "d")], events=EVENTS)
ANSWER = {"choices": [{"message": {"content": f"a{EVIL}"}, "finish_reason": "stop"}]}
STREAM = Stream(delta(f"a{EVIL}"), *ended("stop", 3), "data: [DONE]")
EXPLAINED = {
    "version": "v0.1",
    "promoted": True,
    "reasons": ["failed: d"],
    "evaluation": measured(scores=SCORES, before=SCORES),
}
VERSIONS = {
    key: value for key, value in STATUS["tracks"]["chat"].items() if key not in {"task", "base", "datasets"}
} | {"track": "chat"}
CHANGED = {"dataset": "d", "question": "q", "answer": "a", "a_right": True, "b_right": False}
EXAMPLE = {"question": "q", "answer": "a", "dataset": "d", "provenance": {"row": 1}}
TAGGED = {
    "model": "ner@v0.1",
    "texts": [{"spans": [{"start": 0, "end": 1, "label": "PER", "text": "a", "confidence": 0.5}]}],
}
CLASSIFIED = {
    "model": "mail@v0.1",
    "classifications": [
        {"label": "spam", "labels": ["spam"], "confidence": 0.9, "probabilities": {f"spam{EVIL}": 0.9}}
        | {"levels": [{"label": "spam", "probability": 0.9}]}
    ],
}
MATCHED = {
    "model": f"spectra@v0.1{EVIL}",
    "spectra": [
        {
            "matches": [
                {
                    "smiles": f"C{EVIL}",
                    "match": 0.9,
                    "share": 1.0,
                    "evidence": 1.7,
                    "explained_intensity": 1.0,
                }
                | {
                    "peaks": [
                        {"mz": 16.0, "intensity": 1.0, "evidence": 0.5, "explained": True, "fragment": EVIL}
                    ]
                }
            ]
        }
    ],
}
FILLED = {
    "model": "words@v0.1",
    "texts": [{"text": f"of Spain{EVIL}", "gaps": [[{"word": f" Spain{EVIL}", "probability": 0.5}]]}],
}
MEANT = {"forgotten": 2, "dry_run": True, "examples": [{"question": "q", "answer": "a"}]}
VERSION = described()
TAGGED = {"version": "v0.3", "tag": "x", "removed": False}

#: Every command that asks the daemon: its words, and what the daemon answers.
ASKING = {
    "status": ([], {"GET /lorad/status": STATUS}),
    "monitor": (["--once"], {"GET /lorad/status": STATUS}),
    "events": ([], {"GET /lorad/events": {"events": EVENTS}}),
    "ask": (["why?"], {"POST /v1/chat/completions": STREAM}),
    "chat": ([], {"POST /v1/chat/completions": STREAM}),
    "tag": (["a name"], {"POST /lorad/tag": TAGGED}),
    "classify": (["a text", "--model", "mail"], {"POST /lorad/classify": CLASSIFIED}),
    "fill": (["of [MASK]", "--model", "words"], {"POST /lorad/fill-mask": FILLED}),
    "spectrum": (
        ["--smiles", "C", "--mzs", "16", "--intensities", "1"],
        {"POST /lorad/spectra": MATCHED},
    ),
    "spectrum rank": (["--mgf", "{file}", "--candidates", "{file}"], {"POST /lorad/spectra": MATCHED}),
    "test": (["{rows}"], {"POST /v1/chat/completions": STREAM}),
    "drop": (["{file}"], {}),
    "docs": ([], {}),
    "docs add": (["{file}"], {}),
    "docs list": ([], {"GET /lorad/documents": {"track": "t", "documents": [DOCUMENT]}}),
    "docs show": (["7"], {"GET /lorad/documents/7": DOCUMENT | {"text": "a mill", "spans": []}}),
    "docs search": (["mill"], {"POST /lorad/search": {"track": "t", "passages": [PASSAGE], "left": 1}}),
    "docs questions": (
        ["--into", "{rows}.jsonl"],
        {
            "GET /lorad/documents": {"track": "t", "documents": [DOCUMENT]},
            "GET /lorad/documents/7": DOCUMENT | {"text": "5 mills", "spans": []},
            "POST /v1/chat/completions": completion("a"),
            "POST /api/show": {
                "details": {"parent_model": "tiny", "parameter_size": "1M"},
                "model_info": {"general.parameter_count": 1},
            },
        },
    ),
    "docs remove": (["7"], {"POST /lorad/documents/remove": {"track": "t", "documents": [DOCUMENT]}}),
    "wait": ([], {"GET /lorad/status": DONE, "GET /lorad/events": {"events": EVENTS}}),
    "jobs": ([], {"GET /lorad/jobs": {"jobs": STATUS["jobs"]}}),
    "jobs 1": ([], {"GET /lorad/jobs/1": ONE_JOB}),
    "retry": (["{file}"], {}),
    "cancel": (["1"], {"POST /lorad/jobs/1/cancel": Problem(400, "x", f"job 1 {EVIL}")}),
    "pause": ([], {"POST /lorad/pause": Problem(400, "x", f"no {EVIL}")}),
    "resume": (["1"], {"POST /lorad/jobs/1/resume": job(1, "d", "queued") | {"checkpoint": "round-0003"}}),
    "versions": ([], {"GET /lorad/versions": VERSIONS}),
    "versions latest": ([], {"GET /lorad/versions": VERSIONS}),
    "versions show": (["v0.3"], {"GET /lorad/versions/v0.3": VERSION}),
    "versions pin": (["v0.3"], {"POST /lorad/versions/v0.3/pin": {"version": "v0.3", "pinned": True}}),
    "versions unpin": (["v0.3"], {"POST /lorad/versions/v0.3/pin": {"version": "v0.3", "pinned": True}}),
    "versions tag": (["v0.3", f"x{EVIL}"], {"POST /lorad/versions/v0.3/tags": TAGGED}),
    "versions untag": (["v0.3", f"x{EVIL}"], {"POST /lorad/versions/v0.3/tags": TAGGED}),
    "versions prune": (
        [],
        {"POST /lorad/versions/prune": {"pruned": {f"v0.1{EVIL}": "old"}, "dry_run": False}},
    ),
    "explain": (["v0.1"], {"GET /lorad/versions/v0.1/explain": EXPLAINED}),
    "diff": (["a", "b"], {"GET /lorad/diff": {"a": "v0.1", "b": "v0.2", "changed": [CHANGED]}}),
    "retention": ([], {"GET /lorad/retention": RETENTION}),
    "rollback": ([], {"POST /lorad/rollback": {"serving": "v0.1", "latest": "v0.1", "previous": None}}),
    "memory": ([], {"GET /lorad/memory": {"datasets": STATUS["tracks"]["chat"]["datasets"]}}),
    "memory export": (["-"], {"GET /lorad/memory/examples": {"examples": []}}),
    "memory import": (["{file}"], {}),
    "forget": (["q", "--dry-run"], {"POST /lorad/forget": MEANT}),
    "consolidate": ([], {"POST /lorad/consolidate": job(4, "d", "queued")}),
}
#: Commands that hand over to another program, and those that say nothing of anybody's: tests of their own.
OTHERS = {*programs.FORWARDED, "versions add", "update-checkpoint-tracker", "run", "init"}


def commands():
    """Return the name of every command."""
    top = typer.main.get_command(app)
    for name, command in top.commands.items():
        yield name
        yield from (f"{name} {inner}" for inner in getattr(command, "commands", {}))


@pytest.fixture
def lorad(home):
    fake = FakeDaemon(home / "run" / "lorad.sock")
    fake.answers("GET /lorad/events", {"events": []})

    def run(*words, answers=(), typed=None):
        for route, answer in dict(answers).items():
            fake.answers(route, answer if isinstance(answer, Problem | Stream) else evil(answer))
        return CliRunner().invoke(app, ["--home", str(home), *words], input=typed, prog_name="lorad")

    yield run
    fake.close()


def test_every_command_is_tried():
    assert set(commands()) == {name for name in ASKING if name != "jobs 1"} | OTHERS


@pytest.mark.parametrize("command", ASKING)
def test_a17_no_command_lets_data_steer_the_terminal(lorad, tmp_path, monkeypatch, command):
    # Given a terminal, and data full of escapes
    file = tmp_path / f"d{EVIL}.json".replace("/", "_")
    file.write_text(json.dumps({"dataset": EVIL}) + "\n")
    rows = tmp_path / f"rows{EVIL}.json".replace("/", "_")
    rows.write_text(json.dumps([{"question": f"q{EVIL}", "answer": f"right{EVIL}"}]))
    words, answers = ASKING[command]
    monkeypatch.setattr(terminal, "_is_for_people", lambda: True)

    result = lorad(
        *command.split(),
        *(word.replace("{file}", str(file)).replace("{rows}", str(rows)) for word in words),
        answers=answers,
        typed="hello\n",
    )

    # Then all of it is text, and no line of it is forged
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    told = result.stdout + result.stderr
    assert is_safe(told, also="\n"), repr(told)
    if command not in {
        "ask",
        "chat",
        "docs show",
        "docs questions",
        "cancel",
        "pause",
        "retry",
        "spectrum rank",
    }:  # an answer's and an error's lines are its own
        assert "\n7  forged" not in told


@pytest.mark.parametrize("command", ["jobs", "events", "versions", "forget", "explain"])
def test_a17_brackets_are_printed_as_they_are(lorad, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    words, answers = ASKING[command]
    told = lorad(*command.split(), *words, answers=answers).stdout
    assert r"\x1b[31m" in "".join(told.split())
    assert "[/red]" in "".join(told.split())


def test_a17_a_word_that_a_command_cannot_take_is_told_as_text(lorad):
    for words in (
        ["status", f"x{EVIL}"],
        ["--x\x1b[31m"],
        [f"no{EVIL}"],
        ["cancel", f"1{EVIL}"],
        ["versions", EVIL],
    ):
        result = lorad(*words)
        assert result.exit_code == 2
        assert is_safe(result.stdout + result.stderr), repr(result.stderr)


class Watched(io.StringIO):
    """A stream that a person reads."""

    def isatty(self):
        return True


def test_a17_where_an_answer_comes_from_is_told_as_text(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Watched())
    source = SourceExample(dataset=f"d{EVIL}", row=1, question=f"q{EVIL}", similarity=0.5, confidence=0.5)

    terminal.remark(state_text.origin(Origin(mode="taught", sources=(source,))))

    told = sys.stderr.getvalue()
    assert (told[:4], told[-5:]) == (terminal.DIM, f"{terminal.NORMAL}\n")
    assert is_safe(told[4:-5]), repr(told)


def test_a17_footnotes_are_told_as_text_a_line_each(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Watched())
    monkeypatch.setenv("NO_COLOR", "1")
    passage = read(SourcePassage, evil(PASSAGE) | {"number": 1})

    ask._name_origin(Origin(mode="passages", passages=(passage, passage)))

    told = sys.stderr.getvalue()
    assert told.count("\n") == 2
    assert told.startswith(f"[1] Village{SHOWN}")
    assert is_safe(told, also="\n"), repr(told)


def test_passages_that_may_not_answer_are_told_as_such(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Watched())
    monkeypatch.setenv("NO_COLOR", "1")
    passage = read(SourcePassage, evil(PASSAGE) | {"number": 1, "text": "By the\nriver " * 100})

    ask._name_origin(Origin(mode="not_found", passages=(passage,)))

    head, place, text = sys.stderr.getvalue().splitlines()
    assert head == "nearest, which may not answer it:"
    assert place.startswith(f"[1] Village{SHOWN}")
    assert text.startswith("    By the river By the river")
    assert (len(text), text[-1]) == (4 + state_text.PASSAGE_SHOWN, "…")
    assert is_safe(place + text)


def test_a_remark_is_plain_where_no_styles_are_wanted_and_none_where_nobody_reads(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Watched())
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.remark("from d")
    assert sys.stderr.getvalue() == "from d\n"

    monkeypatch.setattr(sys, "stderr", io.StringIO())
    terminal.remark("from d")
    assert sys.stderr.getvalue() == ""


def test_a17_an_error_is_told_as_text(lorad):
    problem = Problem(404, "x", f"no job{EVIL}")
    result = lorad("jobs", "1", answers={"GET /lorad/jobs/1": problem})
    assert result.stderr.startswith(f"lorad: no job{SHOWN}\n")
    assert is_safe(result.stderr)


def test_a17_a_home_with_escapes_in_its_name_is_made_and_told(tmp_path):
    folder = tmp_path / "h\x1b]0;t\x07[/red]"
    result = CliRunner().invoke(app, ["init", str(folder)])
    assert folder.is_dir()
    assert r"h\x1b]0;t\x07[/red] is a lorad home" in result.stdout
    assert is_safe(result.stdout)


@pytest.mark.parametrize("flags", [[], ["--no-stream"]])
def test_a17_a_pipe_gets_an_answer_exactly(lorad, flags):
    answer = STREAM if not flags else None
    answers = {"POST /v1/chat/completions": answer or Problem(200, "", "")}
    if flags:
        answers["POST /v1/chat/completions"].body = json.dumps(ANSWER).encode()
    result = lorad("ask", "why?", *flags, answers=answers)
    assert result.stdout_bytes.decode() == f"a{EVIL}"


def test_a17_json_is_exact_data_and_safe_to_look_at(lorad):
    told = lorad("status", "--json", answers={"GET /lorad/status": STATUS}).stdout
    assert json.loads(told) == evil(STATUS)
    assert is_safe(told, also="\n")


def test_an_error_in_json_is_safe_too(lorad):
    told = lorad("jobs", "1", "--json", answers={"GET /lorad/jobs/1": Problem(404, "x", EVIL)}).stdout
    assert json.loads(told)["error"]["message"] == EVIL
    assert is_safe(told)


def test_a17_our_own_fault_is_told_as_text(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    terminal._tell_crash(ValueError, ValueError(EVIL), None)
    assert "ValueError: é" in stream.getvalue()
    assert is_safe(stream.getvalue())


@pytest.mark.parametrize("words", [["7"], ["--name", "old.md"]])
def test_to_remove_what_is_not_there_is_an_error_that_says_where_to_look(lorad, words):
    result = lorad(
        "docs", "remove", *words, answers={"POST /lorad/documents/remove": {"track": "t", "documents": []}}
    )

    assert result.exit_code == 1
    assert "lorad docs list --track documents" in result.stderr
