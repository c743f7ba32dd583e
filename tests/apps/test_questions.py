"""``lorad docs questions`` against a fake daemon on a real Unix socket, whose model is a function."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from fake_daemon import DOCUMENT, FakeDaemon, Problem, completion
from typer.testing import CliRunner

from lorad.apps.cli import question_report
from lorad.apps.cli.main import app
from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.errors import ConfigError
from lorad.retrieval import question_drawing
from lorad.storage import targets

CHAT = "POST /v1/chat/completions"
SOURCE = str(Path(__file__).parents[2] / "src")
PROGRAM = "from lorad.apps.cli.main import main; main()"
TOO_LONG = Problem(400, "context_length_exceeded", "the context length is 8 tokens")


def manual(first, count):
    """Return a text that states so many facts."""
    return "# Boats\n\n" + "".join(f"- Boat B{n} costs {n}.50.\n" for n in range(first, first + count))


def draws(prompt):
    """Tell a prompt that asks for a question from one that asks it."""
    return prompt.endswith("Question:")


def sentence_in(prompt):
    return [line for line in prompt.splitlines() if line.startswith("> ")][-1].removeprefix("> ")


def good(prompt):
    """Ask for the price of a boat by its name, and answer with the sentence."""
    sentence = sentence_in(prompt)
    return f"What does boat {sentence.split()[1]} cost?" if draws(prompt) else sentence


def weak(prompt):
    """Ask like ``good`` for every tenth boat, else nothing in particular."""
    return good(prompt) if "0 costs" in sentence_in(prompt) else "What is this sentence about?"


class Documents(FakeDaemon):
    """A daemon with documents and a model."""

    def __init__(self, path):
        super().__init__(path)
        self.texts = {7: manual(10, 3), 9: manual(30, 2)}
        self.model = good
        self.has_base("smollm2", "135M", 135_000_000)

    def has_base(self, name, size, count):
        details = {"parent_model": name, "parameter_size": size}
        self.answers("POST /api/show", {"details": details, "model_info": {"general.parameter_count": count}})

    def next_answer(self, route):
        _, query, body = self.asked[-1]
        if route == CHAT:
            said = self.model(body["messages"][-1]["content"])
            return completion(said, "stop") if isinstance(said, str) else said
        if route == "GET /lorad/documents" and query["track"] == "documents":
            before = int(query.get("before", 1000))
            known = [self.document(number) for number in sorted(self.texts, reverse=True) if number < before]
            return {"track": "documents", "documents": known[:1]}
        if route.startswith("GET /lorad/documents/"):
            number = int(route.rpartition("/")[2])
            return self.document(number) | {"text": self.texts[number], "spans": []}
        return super().next_answer(route)

    def document(self, number):
        characters = len(self.texts[number])
        return DOCUMENT | {"id": number, "name": f"{number}.md", "title": "Harbour", "characters": characters}

    def questions(self):
        """Return which sentences were asked about."""
        prompts = [body["messages"][-1]["content"] for route, _, body in self.asked if route == CHAT]
        return [sentence_in(prompt) for prompt in prompts if draws(prompt)]


@pytest.fixture
def daemon(home):
    fake = Documents(home / "run" / "lorad.sock")
    yield fake
    fake.close()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "drawn.jsonl"


@pytest.fixture
def lorad(home, file):
    def run(*words, into=file):
        command = ["--home", str(home), "docs", "questions", "--into", str(into), *map(str, words)]
        return CliRunner().invoke(app, command)

    return run


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_questions_are_written_as_a_dataset_and_nothing_is_dropped(lorad, daemon, file, home):
    result = lorad()

    assert (result.exit_code, result.stderr) == (0, "")
    found = rows(file)
    assert [(row["question"], row["answer"]) for row in found] == [
        (f"What does boat B{n} cost?", f"Boat B{n} costs {n}.50.") for n in (10, 11, 12, 30, 31)
    ]
    for row in found:
        source = row["metadata"]
        assert daemon.texts[source["document"]][source["start"] : source["end"]] == row["answer"]
        told = [source[name] for name in ("track", "name", "title", "heading", "model")]
        assert told == ["documents", f"{source['document']}.md", "Harbour", "Boats", "chat@base"]
    lines = result.stdout.splitlines()
    assert lines[0].startswith("asked chat@base about 5 pieces with a fact in 2 documents in")
    assert lines[0].endswith(": 5 questions passed")
    assert lines[-1] == f"{file} has 5 rows; nothing is learned yet: read them, then: lorad drop {file}"
    assert list((home / "inbox").iterdir()) == []
    asked = [body for route, _, body in daemon.asked if route == CHAT]
    assert all(
        (body["temperature"], body["lorad"], body["model"]) == (0.0, {"retrieve": False}, "chat@base")
        for body in asked
    )


@pytest.mark.usefixtures("daemon")
def test_a_chat_track_reads_what_was_written(lorad, file):
    lorad()

    read = reader.read(file, InboxSettings(), "chat")

    assert read.problems == ()
    assert [(each.input[-1]["content"], each.target) for each in read.examples] == [
        (row["question"], row["answer"]) for row in rows(file)
    ]


def test_in_json_the_counts_are_told(lorad, daemon, file):
    daemon.texts = {7: manual(10, 3) + "\nBoat B99 is 9 metres long.\n"}
    daemon.model = lambda prompt: "Why is it?" if "B99" in prompt else good(prompt)

    told = json.loads(lorad("7.md", "--model", "boats@v0.2", "--json").stdout)

    del told["seconds"]
    assert told == {
        "file": str(file),
        "model": "boats@v0.2",
        "track": "boats",
        "documents": 1,
        "pieces": 4,
        "questions": 3,
        "rows": 3,
        "refused": {"names_nothing": 1},
        "end": "all_asked",
    }
    assert daemon.asked[0][1]["name"] == "7.md"


def test_a_base_that_is_too_small_is_told_so_and_leaves_no_file(lorad, daemon, file):
    daemon.texts, daemon.model = {7: manual(10, 40)}, weak

    result = lorad()

    assert result.exit_code == 1
    assert (
        "the base smollm2 (135M) passes 2 of 20: it is too small to draw questions from documents; try one of a billion"
        " parameters or more with --model. Refused: 18 does not name what it is about"
    ) in result.stderr
    assert len(daemon.questions()) == 20
    assert not file.exists()
    error = json.loads(lorad("--json").stdout)["error"]
    assert (error["code"], error["passed"], error["tried"]) == ("base_not_good_enough", 2, 20)


def test_a_large_base_is_not_blamed_for_its_size(lorad, daemon):
    daemon.has_base("big", "7.0B", 7_000_000_000)
    daemon.model = lambda _: "Why is it?"

    told = lorad().stderr

    assert (
        "the base big (7.0B) passes 0 of 5: it does not draw questions from these documents well enough"
        in told
    )
    assert "too small" not in told


def test_a_base_that_echoes_is_too_small(lorad, daemon, file):
    daemon.model = lambda prompt: prompt

    assert "passes 0 of 5" in lorad().stderr
    assert not file.exists()


def test_what_was_interrupted_goes_on_behind_the_last_row(lorad, daemon, file, monkeypatch):
    # Given somebody who stops it after 22 of 40
    daemon.texts = {7: manual(10, 40)}
    draw, count = question_drawing.draw, iter(range(22))

    def stopped(*words):
        if next(count, None) is None:
            raise KeyboardInterrupt
        return draw(*words)

    monkeypatch.setattr(question_drawing, "draw", stopped)
    result = lorad()
    assert result.exit_code == 130
    assert "interrupted; the same command goes on" in result.stdout
    assert len(rows(file)) == 22
    monkeypatch.setattr(question_drawing, "draw", draw)
    before, daemon.asked = file.read_text(), []

    # When the same command runs again, and for a while nothing passes
    daemon.model = lambda prompt: good(prompt) if "B4" in prompt else ""
    assert lorad().exit_code == 0

    # Then only the rest is asked about, and the base is not tried again
    assert daemon.questions() == [f"Boat B{n} costs {n}.50." for n in range(32, 50)]
    assert file.read_text().startswith(before)
    assert len(rows(file)) == 32
    assert lorad().exit_code == 0
    assert len(rows(file)) == 32


@pytest.mark.usefixtures("daemon")
def test_who_stops_a_trial_keeps_nothing(lorad, file, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(question_drawing, "draw", stopped)

    assert lorad().exit_code == 130
    assert not file.exists()


def test_a_document_that_came_later_is_asked_about(lorad, daemon, file):
    lorad("--limit", 2)
    assert [row["metadata"]["document"] for row in rows(file)] == [7, 7]
    daemon.texts[11] = manual(60, 1)

    result = lorad("--limit", 3)
    assert "limit reached; the same command goes on" in result.stdout
    lorad()

    assert [row["metadata"]["document"] for row in rows(file)] == [7, 7, 7, 9, 9, 11]


def test_another_model_is_tried_before_it_goes_on(lorad, daemon, file):
    lorad("--limit", 1)
    daemon.model = weak

    assert "passes 1 of 4" in lorad("--model", "chat@v0.1").stderr
    assert len(rows(file)) == 1


def test_a_question_that_the_file_has_is_not_written_twice(lorad, daemon, file):
    daemon.texts = {7: manual(10, 2), 9: manual(10, 2)}

    assert "refused: 2 asked before" in lorad().stdout
    assert len(rows(file)) == 2


def test_a_document_that_is_not_divided_or_the_same_is_left_out(lorad, daemon):
    daemon.document = lambda number: (
        Documents.document(daemon, number) | {"state": {7: "same", 9: "waiting"}[number]}
    )

    result = lorad()

    assert (
        "documents has no document that is divided; see: lorad docs list --track documents" in result.stderr
    )


def test_an_empty_store_is_told(lorad, daemon, file):
    daemon.texts = {}

    assert "documents has no document of the name x.md" in lorad("x.md").stderr
    assert not file.exists()


def test_a_track_that_has_no_documents_is_told(lorad, daemon, file):
    daemon.answers(
        "GET /lorad/documents",
        Problem(404, "no_such_track", "there is no track of documents 'chat'; known: documents"),
    )

    result = lorad("--track", "chat")

    assert (result.exit_code, file.exists()) == (1, False)
    assert "there is no track of documents 'chat'; known: documents" in result.stderr


def test_documents_that_state_nothing_make_no_file(lorad, daemon, file):
    daemon.texts = {7: "It is late.\n"}

    result = lorad()

    assert (result.exit_code, file.exists()) == (0, False)
    assert "about 0 pieces with a fact in 1 document" in result.stdout
    assert "lorad drop" not in result.stdout


def test_who_is_told_to_come_back_does_and_what_is_too_long_is_counted(lorad, daemon):
    busy = [Problem(503, "busy", "too many questions are waiting; try again in a second")]

    def model(prompt):
        return busy.pop() if busy else TOO_LONG if "B30" in prompt else good(prompt)

    daemon.model = model

    assert "4 questions passed" in (result := lorad()).stdout
    assert "refused: 1 no single question" in result.stdout


def test_another_error_of_the_daemon_keeps_what_was_written(lorad, daemon, file):
    daemon.texts = {7: manual(10, 40)}
    away = Problem(503, "backend_away", "the server is away")
    daemon.model = lambda prompt: away if "B35" in prompt else good(prompt)

    assert "the server is away" in lorad().stderr
    assert len(rows(file)) == 25


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"question": "q?", "answer": "a"}\n', "line 1: not a row that lorad docs questions wrote"),
        ("[1]\n", "line 1: not a row that lorad docs questions wrote"),
        ("\xff\x00\n", "line 1: not a row"),
        ('{"question": "q?", "answ', "line 1 has no end"),
    ],
)
def test_a_file_of_somebody_elses_stays_as_it_is(lorad, daemon, file, content, told):
    file.write_text(content, encoding="latin-1")

    result = lorad()

    assert (result.exit_code, daemon.asked) == (1, [])
    assert told in result.stderr
    assert file.read_text(encoding="latin-1") == content


def test_the_inbox_is_no_place_for_it(lorad, daemon, home):
    result = lorad(into=home / "inbox" / "drawn.jsonl")

    assert "is in the inbox, where it would be learned unseen" in result.stderr
    assert daemon.asked == []


def test_a_folder_that_is_not_there_is_told_before_an_hour_of_asking(lorad, daemon, tmp_path):
    result = lorad(into=tmp_path / "none" / "drawn.jsonl")

    assert "could not be written: there is no folder" in result.stderr
    assert daemon.asked == []


def test_a_disk_that_is_full_tears_no_row(file, monkeypatch):
    targets.append_line(file, b"one")
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:2]))

    with pytest.raises(OSError, match="No space"):
        targets.append_line(file, b"two")

    assert file.read_bytes() == b"one\n"
    assert file.stat().st_mode & 0o777 == 0o600


def test_no_link_is_followed(file, tmp_path):
    (tmp_path / "other").write_text("kept")
    file.symlink_to(tmp_path / "other")

    with pytest.raises(ConfigError):
        targets.append_line(file, b"two")

    assert (tmp_path / "other").read_text() == "kept"


@pytest.mark.parametrize(
    ("share", "passed", "limit", "line"),
    [
        (0.0, 0, None, "[....................] 0 questions of 8 pieces"),
        (0.25, 2, None, "[#####...............] 2 questions of 8 pieces, about 30 s left"),
        (0.25, 2, 3, "[#####...............] 2 questions of 8 pieces, about 5 s left"),
        (0.25, 0, 3, "[#####...............] 0 questions of 8 pieces, about 30 s left"),
        (1.0, 1, None, "[####################] 1 question of 8 pieces, about 0 s left"),
    ],
)
def test_what_is_left_is_told_by_what_is_done(share, passed, limit, line):
    assert question_report.progress(share, 8, passed, 10.0, limit) == line


@pytest.mark.usefixtures("daemon")
def test_who_watches_sees_how_far_it_is(home, file):
    controller, terminal = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", PROGRAM, "docs", "questions", "--into", str(file)],
        env={**os.environ, "PYTHONPATH": SOURCE, "LORAD_HOME": str(home), "COLUMNS": "80"},
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        check=True,
        timeout=30,
    )
    os.close(terminal)
    shown = os.read(controller, 100_000).decode()
    os.close(controller)

    assert shown.startswith("\r\x1b[2K[#...................] 0 questions of 0 pieces\r")
    assert "4 questions of 4 pieces, about" in shown
    assert shown.endswith("\r\x1b[2K")
