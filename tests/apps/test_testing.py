"""``lorad test`` against a fake daemon on a real Unix socket."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from fake_daemon import ORIGIN, FakeDaemon, Problem, Stream, began, delta, ended
from typer.testing import CliRunner

from lorad.apps.cli.main import app

DONE = "data: [DONE]"
SOURCE = str(Path(__file__).parents[2] / "src")
ROWS = [
    {"instruction": "What is the phone number of CS?", "response": "Call 555-0142."},
    {"instruction": "When does the desk open?", "response": "At 9 am."},
]


@pytest.fixture
def daemon(home):
    fake = FakeDaemon(home / "run" / "lorad.sock")
    yield fake
    fake.close()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "desk.json"
    path.write_text(json.dumps(ROWS))
    return path


@pytest.fixture
def lorad(home):
    def run(*words):
        return CliRunner().invoke(app, ["--home", str(home), "test", *map(str, words)])

    return run


def said(text, mode=None):
    head = [began(ORIGIN | {"mode": mode})] if mode else []
    return Stream(*head, delta(text), *ended("stop", 3), DONE)


def all_right_but_one(daemon):
    daemon.answers(
        "POST /v1/chat/completions",
        said("Call 555-0142.", "taught"),
        said("Call 555-0176."),
        said("I don't know.", "unknown"),
        said("At 9 am."),
    )


def test_each_question_is_asked_as_it_is_served_and_of_the_weights_alone(lorad, daemon, file):
    all_right_but_one(daemon)

    result = lorad(file, "--model", "chat@v0.1")

    assert result.exit_code == 0
    assert [body["messages"][-1]["content"] for _, _, body in daemon.asked] == [
        row["instruction"] for row in ROWS for _ in range(2)
    ]
    assert [body.get("lorad") for _, _, body in daemon.asked] == [None, {"retrieve": False}] * 2
    assert {(body["model"], body["temperature"]) for _, _, body in daemon.asked} == {("chat@v0.1", 0.0)}
    lines = result.stdout.splitlines()
    assert "as served     1 of 2 facts right, 50.0 % (95 %: 9.5 to 90.5 %), 1 refused" in lines[1]
    assert "weights only  1 of 2 facts right, 50.0 %" in lines[2]
    assert "    said      Call 555-0176." in lines
    assert result.stderr == ""  # no bar in a pipe


def test_in_json_all_is_told(lorad, daemon, file):
    all_right_but_one(daemon)

    told = json.loads(lorad(file, "--json", "--misses", "0").stdout)

    assert [(each["way"], each["right"], each["total"], each["refused"]) for each in told["results"]] == [
        ("served", 1, 2, 1),
        ("weights", 1, 2, 0),
    ]
    assert told["results"][0]["modes"] == {"taught": 1, "unknown": 1}
    assert [each["said"] for each in told["misses"]] == ["Call 555-0176.", "I don't know."]
    assert (told["file"], told["left_out"]) == ("desk.json", 0)


def test_the_weights_alone_are_asked_if_nothing_else_is_wanted(lorad, daemon, file):
    daemon.answers("POST /v1/chat/completions", said("Call 555-0142."), said("At 9 am."))

    result = lorad(file, "--weights-only")

    assert [body["lorad"] for _, _, body in daemon.asked] == [{"retrieve": False}] * 2
    assert "weights only  2 of 2" in result.stdout
    assert "as served" not in result.stdout


def test_one_question_that_is_too_long_does_not_end_the_test(lorad, daemon, file):
    refused = Problem(400, "context_length_exceeded", "the context length is 8 tokens")
    daemon.answers("POST /v1/chat/completions", refused, said("At 9 am."))

    result = lorad(file, "--weights-only")

    assert "1 of 2 facts right" in result.stdout
    assert "said      (the context length is 8 tokens)" in result.stdout


def test_who_is_told_to_come_back_does(lorad, daemon, file):
    busy = Problem(503, "busy", "too many questions are waiting; try again in a second")
    daemon.answers("POST /v1/chat/completions", busy, said("Call 555-0142."), busy, busy, said("At 9 am."))

    assert "2 of 2 facts right" in lorad(file, "--weights-only").stdout


def test_an_answer_that_does_not_end_is_left(lorad, daemon, file):
    endless = Stream(*[delta("555-0176 ")] * 2000)  # the fake cuts it without an end, which would be an error
    daemon.answers("POST /v1/chat/completions", endless)

    result = lorad(file, "--weights-only", "--json")

    assert result.exit_code == 0
    assert all(400 < len(miss["said"]) < 420 for miss in json.loads(result.stdout)["misses"])


def test_a_daemon_that_does_not_run_is_told(lorad, file):
    assert "lorad is not running" in lorad(file).stderr


def test_a_file_that_asks_nothing_in_text_is_told(lorad, daemon, tmp_path):
    call = {"type": "function", "function": {"name": "ring", "arguments": "{}"}}
    row = {"messages": [{"role": "user", "content": "Ring!"}, {"role": "assistant", "tool_calls": [call]}]}
    (tmp_path / "tools.json").write_text(json.dumps([row]))

    result = lorad(tmp_path / "tools.json")

    assert (result.exit_code, daemon.asked) == (1, [])
    assert "tools.json has no question that is answered in text alone" in result.stderr


def test_who_watches_sees_how_far_it_is(daemon, home, file):
    all_right_but_one(daemon)
    controller, terminal = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", "from lorad.apps.cli.main import main; main()", "test", str(file)],
        env={**os.environ, "PYTHONPATH": SOURCE, "LORAD_HOME": str(home), "COLUMNS": "80"},
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        check=True,
        timeout=30,
    )
    os.close(terminal)
    shown = os.read(controller, 100_000).decode()
    os.close(controller)

    assert "[....................] 0 of 4\r" in shown
    assert "[###############.....] 3 of 4, about 0 s left" in shown
    assert shown.endswith("\r\x1b[2K")
