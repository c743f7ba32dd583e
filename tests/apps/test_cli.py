"""The ``lorad`` command against a fake daemon on a real Unix socket."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fake_daemon import (
    NOW,
    ORIGIN,
    RETENTION,
    SESSION,
    FakeDaemon,
    Problem,
    Stream,
    began,
    completion,
    delta,
    described,
    ended,
    event,
    job,
    promoted,
    rejected,
    snapshot,
    waiting_file,
    whole,
)
from typer.testing import CliRunner

from lorad.apps.cli import tracker_alias
from lorad.apps.cli.main import app
from lorad.config import Settings, load_settings
from lorad.home import Home
from lorad.serving import answers
from lorad.storage import fault_points

DONE = "data: [DONE]"
SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture
def daemon(home):
    fake = FakeDaemon(home / "run" / "lorad.sock")
    fake.answers("GET /lorad/events", {"events": []})
    yield fake
    fake.close()


@pytest.fixture
def lorad(home):
    def run(*words, typed=None):
        return CliRunner().invoke(app, ["--home", str(home), *words], input=typed, prog_name="lorad")

    return run


def process(*words, executable=None, **environment):
    """Run the command in a process of its own, as its script would."""
    program = "import sys; from lorad.apps.cli.main import main; "
    program += f"sys.executable = {executable!r}; " if executable else ""
    return subprocess.run(
        [sys.executable, "-c", program + "main()", *words],
        env={**os.environ, "PYTHONPATH": SOURCE, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def in_shell(redirected, home, *words, typed=""):
    """Run the command as a process of its own, with its streams as a shell redirects them."""
    line = f'"$@" {redirected}'
    command = [
        sys.executable,
        "-c",
        "from lorad.apps.cli.main import main; main()",
        "--home",
        str(home),
        *words,
    ]
    return subprocess.run(
        ["/bin/sh", "-c", line, "sh", *command],
        env={**os.environ, "PYTHONPATH": SOURCE},
        input=typed,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


# Errors and global options


def test_a_daemon_that_does_not_run_is_one_sentence(lorad, home):
    # Given a home without a daemon
    result = lorad("status")
    # Then standard error has one sentence, standard output nothing
    socket = home / "run" / "lorad.sock"
    assert (
        result.stderr
        == f"lorad: lorad is not running for {home} (no answer at {socket}); start it with: lorad --home {home} run\n"
    )
    assert (result.stdout, result.exit_code) == ("", 1)


def test_with_json_an_error_is_json(lorad):
    result = lorad("status", "--json")
    assert json.loads(result.stdout)["error"]["code"] == "not_running"
    assert (result.stderr, result.exit_code) == ("", 1)


def test_what_the_daemon_says_is_wrong_is_passed_on(lorad, daemon):
    daemon.answers("POST /lorad/jobs/9/cancel", Problem(404, "no_such_job", "there is no job 9"))
    result = lorad("cancel", "9")
    assert (result.stderr, result.exit_code) == ("lorad: there is no job 9\n", 1)


def test_no_home_is_one_sentence(tmp_path):
    result = process("--home", str(tmp_path / "nowhere"), "status")
    assert (
        result.stderr
        == f"lorad: the home {tmp_path}/nowhere does not exist; make it with: lorad init {tmp_path}/nowhere\n"
    )
    assert result.returncode == 1


@pytest.mark.parametrize("place", ["before", "after", "equals", "environment"])
def test_the_home_may_be_named_anywhere(home, daemon, monkeypatch, place):
    # Given a daemon in a home that is not this folder
    daemon.answers("GET /lorad/status", snapshot())
    if place == "environment":
        monkeypatch.setenv("LORAD_HOME", str(home))
    words = {
        "before": ["--home", str(home), "status"],
        "after": ["status", "--home", str(home)],
        "equals": ["status", f"--home={home}", "--json"],
        "environment": ["status"],
    }
    # When its state is asked for, it is found
    assert CliRunner().invoke(app, words[place]).exit_code == 0


def test_settings_say_where_the_socket_is(lorad, home):
    other = FakeDaemon(home / "run" / "other.sock")
    other.answers("GET /lorad/status", snapshot())
    try:
        assert lorad("status", "--set", "server.socket=run/other.sock").exit_code == 0
        (home / "configs" / "odd.yaml").write_text("server: {socket: run/other.sock}")
        assert lorad("--config", "odd", "status").exit_code == 0
    finally:
        other.close()


def test_what_follows_two_dashes_is_no_option(lorad, daemon):
    daemon.answers("POST /v1/chat/completions", Stream(delta("fine"), DONE))
    assert lorad("ask", "--", "--home").stdout == "fine"
    assert daemon.asked[0][2]["messages"] == [{"role": "user", "content": "--home"}]


def test_the_version_is_printed_without_a_home():
    assert CliRunner().invoke(app, ["--version"]).stdout == "lorad 0.1.0\n"


# What other programs do


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--home", "/h", "run", "--set", "a.b=1", "--set", "c.d=2", "--config", "x"],
            "-P -m lorad.apps.daemon.app --home /h --config x --set a.b=1 --set c.d=2",
        ),
        (["run"], "-P -m lorad.apps.daemon.app"),
        (["base", "--help"], "-P -m lorad.apps.cli.model_commands base --help"),
        (["--home", "/h", "base", "--help"], "-P -m lorad.apps.cli.model_commands base --help"),
        (["--home", "/h", "base"], "-P -m lorad.apps.cli.model_commands base"),
        (
            ["base", "add", "smollm2", "--home", "/h"],
            "-P -m lorad.apps.cli.model_commands base add smollm2 --home /h",
        ),
        (
            ["--config", "x", "--home", "/h", "base", "add", "smollm2"],  # settings say nothing about a base
            "-P -m lorad.apps.cli.model_commands base add smollm2 --home /h",
        ),
        (["export", "v0.1", "out"], "-P -m lorad.apps.cli.model_commands export v0.1 out"),
        (["verify", "--home", "/h"], "-P -m lorad.apps.cli.model_commands verify --home /h"),
        (["reproduce", "v0.1", "--keep"], "-P -m lorad.apps.cli.model_commands reproduce v0.1 --keep"),
        (
            ["--set", "a=1", "versions", "add", "v0.3", "theirs", "--set-latest", "--metric", "f1=0.9"],
            "-P -m lorad.apps.cli.model_commands versions add v0.3 theirs --set-latest --metric f1=0.9 --set a=1",
        ),
        (
            ["calibrate", "--check", "--home", "/h"],
            "-P -m lorad.apps.cli.model_commands calibrate --check --home /h",
        ),
        (
            ["--home", "/h", "plan", "f.json", "--json", "-v"],
            "-P -m lorad.apps.cli.model_commands plan f.json --json -v --home /h",
        ),
        (
            ["--set", "a=1", "check", "--deep", "x", "--", "--home"],
            "-P -m lorad.apps.cli.model_commands check --deep x --set a=1 -- --home",
        ),
    ],
)
def test_programs_with_models_take_over(words, expected):
    # Given an interpreter that only prints what it is told to run
    result = process(*words, executable="/bin/echo")
    # Then it is told everything
    assert (result.stdout, result.stderr, result.returncode) == (f"{expected}\n", "", 0)


# Homes


def test_init_makes_a_home_and_spares_what_is_there(tmp_path):
    # Given a folder in which somebody has begun
    home = tmp_path / "new"
    (home / "inbox").mkdir(parents=True)
    (home / "inbox" / "README.md").write_text("mine")
    # When it is made a home, twice
    for _ in range(2):
        result = CliRunner().invoke(app, ["init", str(home)])
        assert result.exit_code == 0
    # Then all is there and what was there is as it was
    assert sorted(path.name for path in home.iterdir()) == ["configs", "inbox", "models"]
    assert (home / "inbox" / "README.md").read_text() == "mine"
    assert "default.yaml" in (home / "configs" / "README.md").read_text()
    assert load_settings(Home(home)) == Settings()
    assert f"lorad --home {home} run" in result.stdout


def test_a_setting_of_a_new_home_is_changed_by_taking_its_marks_away(tmp_path):
    CliRunner().invoke(app, ["init", str(tmp_path / "new")])
    file = tmp_path / "new" / "configs" / "default.yaml"

    text = file.read_text().replace("#registry:", "registry:")
    file.write_text(re.sub(r"(?m)^#  keep: \d+", "  keep: 9", text))

    assert load_settings(Home(tmp_path / "new")).registry.keep == 9


def test_init_into_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["init", str(tmp_path / "file")])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "cannot be created" in result.stderr


# Status, monitor, events


def test_status_is_a_summary(lorad, daemon):
    daemon.answers("GET /lorad/status", snapshot(session=SESSION))
    lines = lorad("status").stdout.splitlines()
    assert lines[0] == "lorad 0.1.0 in /srv/lorad: learning, up 3 h 12 min"
    assert "recall 62.0 % of 95.0 %, about 1 min 35 s left" in lines[2]


HEAVY = (
    "torch",
    "transformers",
    "peft",
    "fastapi",
    "uvicorn",
    "httpx",
    "rich.console",
    "numpy",
    "matplotlib",
    "lorad.serving.completions",  # ten records that only an answer needs
)


def test_status_loads_nothing_heavy(home, daemon):
    # Given a daemon that answers
    daemon.answers("GET /lorad/status", snapshot())
    # When its state is asked for in a fresh process that tells what it has loaded
    program = (
        "import sys; from lorad.apps.cli.main import app\n"
        "try: app()\n"
        "except SystemExit as end: assert not end.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, "status", "--home", str(home)],
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    # Then nothing was loaded that takes time
    assert found.stdout.splitlines()[0].startswith("lorad 0.1.0")
    assert found.stdout.splitlines()[-1] == "[]"


def test_a_version_tells_how_it_is_calibrated(lorad, daemon):
    # Given a version whose confidence was measured
    measured = {"figures": {"ece": 0.0312, "brier": 0.02}, "temperature": 1.31}
    daemon.answers("GET /lorad/versions/v0.3", described(calibration=measured))
    shown = " ".join(lorad("versions", "show", "v0.3").stdout.split())
    assert "ECE 0.031, Brier 0.020, T = 1.31" in shown
    assert "lorad calibrate v0.3" in shown


def test_reading_commands_tell_the_same_in_json(lorad, daemon):
    # Given everything that can be read
    told = {
        "status": ("GET /lorad/status", snapshot()),
        "jobs": ("GET /lorad/jobs", {"jobs": [rejected(1, "é")]}),
        "versions": ("GET /lorad/versions", whole(answers.Versions, snapshot()["tracks"]["chat"])),
        "versions show good": ("GET /lorad/versions/good", described()),
        "memory": ("GET /lorad/memory", {"datasets": []}),
        "retention": ("GET /lorad/retention", RETENTION),
        "explain v0.1": (
            "GET /lorad/versions/v0.1/explain",
            whole(answers.Explanation, {"version": "v0.1", "promoted": True}),
        ),
        "diff v0.1 v0.2": ("GET /lorad/diff", {"a": "v0.1", "b": "v0.2", "changed": []}),
        "events": ("GET /lorad/events", {"events": [event(1, "paused")]}),
    }
    for words, (route, answer) in told.items():
        daemon.answers(route, answer)
        # When it is asked for in JSON, then it is what the daemon told
        assert json.loads(lorad(*words.split(), "--json").stdout) == answer
        # And without, it is something for people
        shown = lorad(*words.split())
        assert shown.exit_code == 0
        assert not shown.stdout.startswith("{")


SPAM = {
    "label": "spam/prize",
    "labels": ["spam/prize"],
    "confidence": 0.914,
    "probabilities": {"spam/prize": 0.914, "ham": 0.086},
    "levels": [{"label": "spam", "probability": 0.914}, {"label": "spam/prize", "probability": 0.914}],
}


def test_texts_are_classified_by_the_only_track_that_learns_labels(lorad, daemon):
    tracks = snapshot()["tracks"]
    mail = tracks["chat"] | {"task": "text_classification"}
    daemon.answers("GET /lorad/status", snapshot(tracks=tracks | {"mail": mail}))
    told = whole(answers.Classifications, {"model": "mail@v0.2", "classifications": [SPAM, SPAM]})
    daemon.answers("POST /lorad/classify", told)

    shown = lorad("classify", typed="\ufeffWin a prize\n\nWin [two]\n")

    assert shown.exit_code == 0
    assert daemon.asked[-1][2] == {"model": "mail", "texts": ["Win a prize", "Win [two]"]}
    for part in ("mail@v0.2", "Win [two]", "spam/prize", "0.914"):
        assert part in shown.stdout
    assert json.loads(lorad("classify", "--model", "mail", "a", "b", "--json").stdout) == told

    daemon.answers("GET /lorad/status", snapshot(tracks=tracks))
    refused = lorad("classify", "a")
    assert "no track learns labels; start the daemon with one: lorad --set" in refused.stderr
    assert refused.exit_code == 1
    assert "no text given" in lorad("classify", "-", typed="").stderr


MATCH = {
    "smiles": "c1ccccc1",
    "match": 0.914,
    "share": 1.0,
    "evidence": 1.7,
    "explained_intensity": 0.77,
    "peaks": [
        {"mz": 51.02, "intensity": 0.3, "evidence": -0.25, "explained": False, "fragment": None},
        {"mz": 78.05, "intensity": 1.0, "evidence": 1.5, "explained": True, "fragment": "C6H6+"},
    ],
}
MATCHED = {"model": "spectra@v0.2", "system_fingerprint": "", "spectra": [{"matches": [MATCH]}]}


def test_a_spectrum_is_asked_with_the_words_of_the_seed(lorad, daemon):
    daemon.answers("POST /lorad/spectra", MATCHED)
    words = ["--smiles", "C1=CC=CC=C1", "--mzs", "100", "200", "300", "--intensities", "0.5", "0.7", "0.9"]

    shown = lorad("spectrum", *words, "--version", "v0.2")

    assert shown.exit_code == 0, shown.stderr
    body = {"smiles": "C1=CC=CC=C1", "mzs": [100.0, 200.0, 300.0], "intensities": [0.5, 0.7, 0.9]}
    assert daemon.asked[-1][2] == {"model": "spectra@v0.2", "spectra": [body]}
    for part in ("match 91.4%", "77% of the intensity", "78.0500", "+1.50", "explained", "C6H6+"):
        assert part in shown.stdout
    assert json.loads(lorad("spectrum", *words, "--json").stdout) == MATCHED
    assert daemon.asked[-1][2]["model"] == "spectra"
    told = lorad("spectrum", "--mzs", "1", "--smiles", "C")
    assert (told.exit_code, "its peaks are needed" in told.stderr) == (1, True)


def test_a_spectrum_is_drawn_with_its_explained_peaks(lorad, daemon, tmp_path):
    daemon.answers("POST /lorad/spectra", MATCHED)
    words = ["--smiles", "C", "--mzs", "51.02", "78.05", "--intensities", "0.3", "1"]
    for name, begins in (("a.svg", b"<?xml"), ("a.png", b"\x89PNG")):
        shown = lorad("spectrum", *words, "--plot", str(tmp_path / name))
        assert shown.exit_code == 0, shown.stderr
        assert (tmp_path / name).read_bytes().startswith(begins)
    assert "C6H6+" in (tmp_path / "a.svg").read_text()


def test_candidates_are_ranked_for_each_spectrum_of_a_file(lorad, daemon, tmp_path):
    # Given more candidates than a request may have
    daemon.answers("POST /lorad/spectra", MATCHED)
    (tmp_path / "two.mgf").write_text("BEGIN IONS\n16 1\nEND IONS\nBEGIN IONS\n17 1\nEND IONS\n")
    (tmp_path / "some.smi").write_text("\n".join(f"{'C' * n} alkane-{n}" for n in range(1, 71)))

    words = [
        "spectrum",
        "rank",
        "--mgf",
        str(tmp_path / "two.mgf"),
        "--candidates",
        str(tmp_path / "some.smi"),
    ]
    shown = lorad(*words)

    assert shown.exit_code == 0, shown.stderr
    asked = [body["spectra"][0] for _, _, body in daemon.asked]
    assert [(each["mzs"], len(each["candidates"])) for each in asked] == [
        ([16.0], 64), ([16.0], 6), ([17.0], 64), ([17.0], 6),
    ]  # fmt: skip
    assert "c1ccccc1" in shown.stdout
    (tmp_path / "two.mgf").write_text("BEGIN IONS\n16 0\nEND IONS\n")
    told = lorad(*words)
    assert (told.exit_code, "on line 1, field 'intensities[0]'" in told.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "becomes"),
    [
        (
            "--version v0.3 --description Fine-tuned --accuracy 0.90 --f1_score 0.89 --set_as_latest",
            "v0.3 checkpoints/v0.3 --description Fine-tuned --metric accuracy=0.90 --metric f1_score=0.89 --set-latest",
        ),
        ("--version=v0.3 elsewhere --track mail", "v0.3 elsewhere --track mail"),
    ],
)
def test_the_words_of_the_checkpoint_tracker_are_those_of_versions_add(words, becomes):
    assert tracker_alias.as_versions_add(words.split()) == becomes.split()


def test_a_checkpoint_without_a_version_is_told(lorad):
    told = lorad("update-checkpoint-tracker", "--accuracy", "0.9")
    assert (told.exit_code, "--version v0.3" in told.stderr) == (1, True)


def chain(count=1, **of_member):
    """Return what a system with one member says of so many texts."""
    member = {"role": "classifier", "track": "mail", "version": "v0.1", **of_member}
    step = {"role": "classifier", "input": "a", "classification": SPAM}
    result = {"label": "spam/prize", "ended_at": "classifier", "steps": [step]}
    return whole(answers.SystemAnswer, {"system": "lcr", "members": [member], "results": [result] * count})


def test_a_system_is_asked_step_by_step(lorad, daemon):
    told = chain(variant="small", corrupt=["v0.2"])
    daemon.answers("POST /lorad/systems/lcr", told)

    shown = " ".join(lorad("classify", "--system", "lcr", "--variant", "small", "a").stdout.split())

    assert daemon.asked[-1][2] == {"texts": ["a"], "variant": "small"}
    assert "classifier: mail@v0.1 small" in shown
    assert "v0.2 of mail corrupt, v0.1 stands in" in shown
    assert json.loads(lorad("classify", "--system", "lcr", "a", "--json").stdout) == told


def test_a_system_is_asked_any_number_of_texts_from_a_pipe(lorad, daemon):
    daemon.answers("POST /lorad/systems/lcr", chain(64, system_fingerprint="v0.1-abc"), chain(2))

    shown = lorad("classify", "--system", "lcr", "--json", typed="Win a prize\n" * 66)

    assert [len(body["texts"]) for _, _, body in daemon.asked] == [64, 2]
    assert len(json.loads(shown.stdout)["results"]) == 66


def test_answers_of_a_system_that_learned_something_meanwhile_are_not_mixed(lorad, daemon):
    daemon.answers("POST /lorad/systems/lcr", chain(64), chain(2, version="v0.2"))

    refused = lorad("classify", "--system", "lcr", typed="Win a prize\n" * 66)

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "a member of lcr learned something new while it was asked" in refused.stderr


def test_tables_are_printed(lorad, daemon):
    daemon.answers("GET /lorad/jobs", {"jobs": [promoted(2, "campus_dining", "v0.2")]})
    assert "promoted v0.2" in lorad("jobs").stdout


def test_one_job_is_shown_in_full(lorad, daemon):
    drop = {"id": 1, "name": "a.json", "track": "chat", "state": "accepted", "taken_at": 1.0}
    drop |= {"rows": 2, "reason": {"formats": {"alpaca": 2}, "new": 2}}
    daemon.answers("GET /lorad/jobs/2", promoted(2, "campus_dining", "v0.2") | {"drop": drop})

    assert "2 alpaca" in lorad("jobs", "2").stdout


def test_the_track_is_passed_on(lorad, daemon):
    daemon.answers("GET /lorad/memory", {"datasets": []})
    lorad("memory")
    lorad("memory", "--track", "tags")
    assert [query for _, query, _ in daemon.asked] == [{"track": "chat"}, {"track": "tags"}]


def test_the_monitor_prints_one_picture(lorad, daemon):
    daemon.answers("GET /lorad/status", snapshot())
    result = lorad("monitor", "--once")
    assert "Nothing to learn" in result.stdout
    assert result.exit_code == 0


def test_events_are_followed_from_where_they_were(lorad, daemon):
    # Given events that come in two answers, then one without any, then a daemon that goes away
    daemon.answers(
        "GET /lorad/events",
        {"events": [event(6, "training", job=1), event(7, "promoted", job=1)]},
        {"events": []},
        {"events": [event(8, "paused")]},
        Problem(503, "stopping", "lorad stops"),
    )
    # When they are followed
    result = lorad("events", "--follow", "--interval", "0", "--json")
    # Then each is told once, as a line of JSON
    assert [json.loads(line).get("id") for line in result.stdout.splitlines()] == [6, 7, 8, None]
    assert [query.get("after") for _, query, _ in daemon.asked] == [None, "7", "7", "8"]
    assert result.exit_code == 1


def test_events_for_people(lorad, daemon):
    daemon.answers(
        "GET /lorad/events", {"events": [event(6, "training", job=1), event(7, "promoted", job=1)]}
    )
    lines = lorad("events").stdout.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["training job=1", "promoted job=1"]


# Asking


def test_an_answer_is_printed_exactly(lorad, daemon):
    # Given an answer with white space at both ends
    daemon.answers(
        "POST /v1/chat/completions", Stream(delta("  In the"), delta(" old\n"), delta("mill \n\n"), DONE)
    )
    # When it is asked for, streamed
    result = lorad(
        "ask", "Where is it?", "--system", "Be brief.", "--model", "chat@v0.1", "--max-tokens", "9"
    )
    # Then not a byte is missing, and not one was added
    assert result.stdout == "  In the old\nmill \n\n"
    assert daemon.asked[0][2] == {
        "model": "chat@v0.1",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is it?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "temperature": 0.0,
    }


def test_an_answer_can_be_had_whole(lorad, daemon):
    answer = completion(" a mill\n")
    daemon.answers("POST /v1/chat/completions", answer)
    assert lorad("ask", "Where?", "--no-stream").stdout == " a mill\n"
    assert json.loads(lorad("ask", "Where?", "--json", "--temperature", "0.7").stdout) == answer
    assert [body.get("stream") for _, _, body in daemon.asked] == [None, None]
    assert [body["temperature"] for _, _, body in daemon.asked] == [0.0, 0.7]


JOHN = {"start": 0, "end": 4, "label": "PER", "text": "John", "confidence": 0.984}
FIRM = {"start": 14, "end": 23, "label": "ORG", "text": "Microsoft", "confidence": 0.9}


def spans(*found, version="ner@v0.1"):
    return {"model": version, "system_fingerprint": "", "texts": [{"spans": each} for each in found]}


def test_a_text_is_printed_with_its_spans(lorad, daemon):
    daemon.answers("POST /lorad/tag", spans([JOHN, FIRM]))
    result = lorad("tag", "John works at Microsoft", "--model", "names@v0.1")
    assert result.stdout == "John (PER, 98.4 %) works at Microsoft (ORG, 90.0 %)\n"
    assert daemon.asked[0][2] == {"model": "names@v0.1", "texts": ["John works at Microsoft"]}
    assert json.loads(lorad("tag", "John works at Microsoft", "--json").stdout) == spans([JOHN, FIRM])
    assert daemon.asked[1][2]["model"] == "ner"


def test_a_long_text_stays_on_its_line(lorad, daemon):
    daemon.answers("POST /lorad/tag", spans([JOHN]))
    assert lorad("tag", "John" + " rests" * 40).stdout == "John (PER, 98.4 %)" + " rests" * 40 + "\n"


def test_texts_to_tag_are_read_from_a_pipe_one_a_line_and_one_version_tags_all(lorad, daemon):
    daemon.answers("POST /lorad/tag", spans(*[[JOHN]] * 64), spans([], version="ner@v0.1"))
    result = lorad("tag", typed="John\n\n" * 64 + "[b]nobody[/b]\n")
    assert result.stdout == "John (PER, 98.4 %)\n" * 64 + "[b]nobody[/b]\n"
    assert [(body["model"], len(body["texts"])) for _, _, body in daemon.asked] == [
        ("ner", 64),
        ("ner@v0.1", 1),
    ]


@pytest.mark.parametrize(
    ("words", "typed"), [((), ""), (("-",), " \n"), ((" ",), "John"), (("",), "the rest of a script's input")]
)
def test_no_text_to_tag_is_one_sentence(lorad, daemon, words, typed):
    result = lorad("tag", *words, typed=typed)
    assert result.stderr.startswith("lorad: no text given; use: lorad tag TEXT")
    assert (result.exit_code, daemon.asked) == (1, [])


def test_an_answer_that_breaks_off_fails(lorad, daemon):
    daemon.answers("POST /v1/chat/completions", Stream(delta("In the")))
    result = lorad("ask", "Where?")
    assert (result.stdout, result.exit_code) == ("In the", 1)
    assert "broke off" in result.stderr


@pytest.mark.parametrize(("options", "status"), [((), 1), (("--max-tokens", "3"), 0)])
@pytest.mark.parametrize("form", ["streamed", "--no-stream", "--json"])
def test_case_7_an_answer_that_was_cut_is_told(lorad, daemon, options, status, form):
    # Given an answer that ends because it may not be longer
    answer = completion("In the old", "length")
    answer["usage"]["completion_tokens"] = 3
    stream = Stream(delta("In the"), delta(" old"), *ended("length", 3), DONE)
    daemon.answers("POST /v1/chat/completions", stream if form == "streamed" else answer)
    # When it is asked for, it is printed exactly, and standard error says that it goes on
    result = lorad("ask", "Where?", *options, *([] if form == "streamed" else [form]))
    assert json.loads(result.stdout) == answer if form == "--json" else result.stdout == "In the old"
    assert result.stderr == (
        "lorad: the answer was cut after 3 tokens; ask for more with --max-tokens, "
        "or shorten the conversation if the context is full\n"
    )
    # Then it has failed, unless whoever asked had set the limit
    assert result.exit_code == status


def test_case_7_a_whole_answer_is_status_0(lorad, daemon):
    daemon.answers("POST /v1/chat/completions", Stream(delta("In"), *ended("stop", 2), DONE))
    result = lorad("ask", "Where?")
    assert (result.stdout, result.stderr, result.exit_code) == ("In", "", 0)


def test_case_7_a_talk_says_what_was_cut(lorad, daemon):
    daemon.answers("POST /v1/chat/completions", Stream(delta("In"), *ended("length", 1), DONE))
    result = lorad("chat", typed="hello\n")
    assert "the answer was cut after 1 token;" in result.stderr
    assert result.exit_code == 0


def test_a_pipe_gets_the_answer_and_nothing_of_its_source(lorad, daemon):
    streamed = Stream(began(ORIGIN), delta("Dr. Vale"), *ended("stop", 2), DONE)
    daemon.answers("POST /v1/chat/completions", streamed, completion("Dr. Vale", "stop", ORIGIN))
    for words in ((), ("--no-stream",)):
        result = lorad("ask", "Who?", *words)
        assert (result.stdout, result.stderr) == ("Dr. Vale", "")


def test_in_json_an_answer_has_its_source(lorad, daemon):
    daemon.answers("POST /v1/chat/completions", completion("Dr. Vale", "stop", ORIGIN))
    assert json.loads(lorad("ask", "Who?", "--json").stdout)["lorad"] == ORIGIN


def test_no_example_is_looked_for_if_none_is_wanted(lorad, daemon):
    streamed = Stream(delta("x"), *ended("stop", 2), DONE)
    daemon.answers("POST /v1/chat/completions", streamed, completion("x"), streamed)
    lorad("ask", "Who?", "--no-retrieve")
    lorad("ask", "Who?", "--no-retrieve", "--json")
    lorad("chat", "--no-retrieve", typed="Who?\n")
    assert [body["lorad"] for _, _, body in daemon.asked] == [{"retrieve": False}] * 3


@pytest.mark.parametrize("words", [(), ("-",)])
def test_a_question_is_read_from_a_pipe(lorad, daemon, words):
    daemon.answers("POST /v1/chat/completions", Stream(delta("In"), *ended("stop", 2), DONE))
    assert lorad("ask", *words, typed="Where\nis it?\n").stdout == "In"
    assert daemon.asked[0][2]["messages"] == [{"role": "user", "content": "Where\nis it?"}]


def test_no_question_is_one_sentence(lorad, daemon):
    result = lorad("ask", typed="")
    assert result.stderr.startswith("lorad: no question given; use: lorad ask QUESTION")
    assert (result.exit_code, daemon.asked) == (1, [])


# Terminals


def on_terminal(*words, **environment):
    """Run the command with a terminal for its output; return what it showed, its errors and its status."""
    controller, terminal = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-c", "from lorad.apps.cli.main import main; main()", *words],
        env={**os.environ, "PYTHONPATH": SOURCE, **environment},
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=subprocess.PIPE,
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # so a terminal ends
        while more := os.read(controller, 4096):
            shown += more
    os.close(controller)
    errors = running.stderr.read()
    running.stderr.close()
    return shown, errors, running.wait(30)


def read_by_a_person(home, *words, typed=b"", **environment):
    """Run the command with a terminal for its errors; return its output and what the terminal showed."""
    controller, terminal = pty.openpty()
    running = subprocess.run(
        [sys.executable, "-c", "from lorad.apps.cli.main import main; main()", "--home", str(home), *words],
        env={**os.environ, "PYTHONPATH": SOURCE, **environment},
        input=typed,
        stdout=subprocess.PIPE,
        stderr=terminal,
        check=True,
        timeout=30,
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):
        while more := os.read(controller, 4096):
            shown += more
    os.close(controller)
    return running.stdout, shown


FROM = b'from campus_cs, row 12: "Who chairs CS?" (similarity 0.83)'


@pytest.mark.parametrize("words", [("ask", "Who?"), ("ask", "Who?", "--no-stream"), ("chat",)])
def test_a_person_is_told_in_a_dim_line_where_an_answer_comes_from(daemon, home, words):
    streamed = Stream(began(ORIGIN), delta("Dr. Vale"), *ended("stop", 2), DONE)
    answer = completion("Dr. Vale", "stop", ORIGIN) if "--no-stream" in words else streamed
    daemon.answers("POST /v1/chat/completions", answer)

    written, shown = read_by_a_person(home, *words, typed=b"Who?\n", TERM="xterm", NO_COLOR="")
    assert shown == b"\x1b[2m" + FROM + b"\x1b[0m\r\n"
    assert written == (b"> Dr. Vale\n> \n" if words == ("chat",) else b"Dr. Vale")

    _, shown = read_by_a_person(home, *words, typed=b"Who?\n", TERM="dumb")
    assert shown == FROM + b"\r\n"


NOT_UTF8 = [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]


@pytest.mark.parametrize("environment", NOT_UTF8)
def test_case_27_what_a_terminal_cannot_show_is_replaced(daemon, home, environment):
    answer = Stream(delta("the Mühle"), delta(" 🌾"), *ended("stop", 2), DONE)
    daemon.answers("POST /v1/chat/completions", answer)
    daemon.answers("GET /lorad/status", snapshot())

    shown, errors, status = on_terminal("--home", str(home), "ask", "Where?", **environment)
    assert (shown, errors, status) == (b"the M?hle ?\r\n", b"", 0)
    shown, errors, status = on_terminal("--home", str(home), "monitor", "--once", **environment)
    assert (b"Nothing to learn" in shown, errors, status) == (True, b"", 0)


@pytest.mark.parametrize("environment", NOT_UTF8)
def test_case_27_data_in_a_pipe_is_exact_whatever_the_terminal_shows(daemon, home, environment):
    answer = completion("the Mühle 🌾", "stop")
    streamed = Stream(delta("the Mühle"), delta(" 🌾"), *ended("stop", 2), DONE)
    daemon.answers("POST /v1/chat/completions", streamed, answer, answer)
    row = {"instruction": "Wo?", "response": "die Mühle", "provenance": {"row": 1}}
    daemon.answers("GET /lorad/memory/examples", {"examples": [row]}, {"examples": []})

    def piped(*words):
        program = "from lorad.apps.cli.main import main; main()"
        environ = {**os.environ, "PYTHONPATH": SOURCE, **environment}
        command = [sys.executable, "-c", program, "--home", str(home), *words]
        return subprocess.run(command, env=environ, capture_output=True, check=True, timeout=30).stdout

    assert piped("ask", "Where?") == "the Mühle 🌾".encode()
    assert piped("ask", "Where?", "--no-stream") == "the Mühle 🌾".encode()
    assert json.loads(piped("ask", "Where?", "--json").decode()) == answer
    assert json.loads(piped("memory", "export", "-").decode()) == row


def test_case_27_a_question_that_is_not_text_is_told(daemon, home):
    program = "import sys; sys.argv.append('caf\\udce9'); from lorad.apps.cli.main import main; main()"
    command = [sys.executable, "-c", program, "--home", str(home), "ask"]
    result = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert result.stderr.startswith("lorad: the input is not valid text in this terminal's encoding")
    assert (result.returncode, daemon.asked) == (1, [])


@pytest.mark.parametrize(
    "words", [("versions",), ("events",), ("events", "--json"), ("ask", "Where?"), ("--help",)]
)
def test_case_27_a_pipe_that_is_closed_is_no_traceback(daemon, home, words):
    # Given more than a pipe holds, and a reader that leaves at once
    daemon.answers("GET /lorad/events", {"events": [event(n, "promoted", job=n) for n in range(5000)]})
    daemon.answers("GET /lorad/versions", {"track": "chat", "latest": None, "previous": None, "versions": []})
    daemon.answers(
        "POST /v1/chat/completions", Stream(*[delta("word " * 1000)] * 50, *ended("stop", 2), DONE)
    )
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-c", "from lorad.apps.cli.main import main; main()", "--home", str(home), *words],
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
        timeout=30,
    )
    os.close(writer)
    assert result.stderr == b""
    assert result.returncode in {0, 1}


def test_a_talk_keeps_its_history(lorad, daemon):
    # Given a daemon that answers, fails once, and answers again
    busy = Problem(503, "busy", "too many requests wait")
    daemon.answers("POST /v1/chat/completions", Stream(delta("Hi."), DONE), busy, Stream(delta("Bye."), DONE))
    # When somebody talks, changes the model and leaves with Ctrl-D
    result = lorad("chat", typed="hello\n\nlost?\n/model chat@v0.1\n/model\nbye\n")
    # Then each question goes with what was said before, without the one that got no answer
    assert daemon.asked[2][2]["messages"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "bye"},
    ]
    assert [body["model"] for _, _, body in daemon.asked] == ["chat", "chat", "chat@v0.1"]
    assert "too many requests wait" in result.stderr
    assert result.exit_code == 0


def test_a_talk_ends_with_quit(lorad, daemon):
    assert lorad("chat", typed="/quit\nhello\n").exit_code == 0
    assert daemon.asked == []


# Learning


def test_a_file_is_dropped_whole(lorad, home, tmp_path):
    # Given a file with an old date
    source = tmp_path / "campus.json"
    source.write_text("[1, 2]")
    os.utime(source, (1, 1))
    # When it is dropped, with no daemon running
    result = lorad("drop", str(source))
    # Then it lies in the inbox, fresh, readable for others, and nothing hidden is left beside it
    dropped = home / "inbox" / "campus.json"
    assert dropped.read_text() == "[1, 2]"
    assert dropped.stat().st_mtime > 1
    assert dropped.stat().st_mode & 0o777 == source.stat().st_mode & 0o777
    assert [path.name for path in (home / "inbox").iterdir()] == ["campus.json"]
    assert str(home / "inbox") in result.stdout


def test_a_waiting_file_is_never_overwritten(lorad, home, tmp_path):
    (home / "inbox" / "a.json").write_text("waiting")
    (tmp_path / "a.json").write_text("newer")
    result = lorad("drop", str(tmp_path / "a.json"))
    assert result.exit_code == 1
    assert "is still in the inbox" in result.stderr
    assert (home / "inbox" / "a.json").read_text() == "waiting"


def test_a1_a_drop_writes_through_no_link_that_lies_in_the_inbox(lorad, home, tmp_path):
    # Given links to a file of the user's under every name that a copy of an older lorad might have had
    mine = tmp_path / "mine"
    mine.write_text("precious")
    file = tmp_path / "a.json"
    file.write_text('{"instruction": "?", "response": "!"}')
    (home / "inbox" / f".a.json.{os.getpid()}.part").symlink_to(mine)

    result = lorad("drop", str(file))

    assert result.exit_code == 0
    assert mine.read_text() == "precious"
    assert (home / "inbox" / "a.json").read_text() == file.read_text()
    assert not (home / "inbox" / "a.json").is_symlink()


def test_a1_a_drop_goes_into_no_folder_that_is_a_link(lorad, home, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (home / "inbox" / "chat").symlink_to(elsewhere)
    file = tmp_path / "a.json"
    file.write_text("{}")

    result = lorad("drop", str(file), "--track", "chat")

    assert result.exit_code == 1
    assert "could not be copied" in result.stderr
    assert not list(elsewhere.iterdir())


def test_a18_a_name_of_255_bytes_is_dropped(lorad, home, tmp_path):
    file = tmp_path / f"{'n' * 250}.json"
    file.write_text("{}")
    assert lorad("drop", str(file)).exit_code == 0
    assert (home / "inbox" / file.name).exists()


def test_a20_no_pipe_and_no_device_is_imported(lorad, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "pipe", "/dev/zero"):
        result = lorad("memory", "import", str(file))
        assert result.exit_code == 1
        assert "is not a regular file" in result.stderr


def test_nothing_is_dropped_when_one_file_is_missing(lorad, home, tmp_path):
    (tmp_path / "a.json").write_text("1")
    result = lorad("drop", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert (result.exit_code, list((home / "inbox").iterdir())) == (1, [])


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("faq.tmp", "*.tmp"),
        ("README.md", "README.md"),
        ("Faq.json.SHA256", "*.sha256"),
        ("LICENSE", "LICENSE"),
        ("faq.json.bak", "*.bak"),
    ],
)
def test_what_the_inbox_would_pass_by_is_not_dropped(lorad, home, tmp_path, name, pattern):
    (tmp_path / "a.json").write_text("1")
    (tmp_path / name).write_text("1")
    result = lorad("drop", str(tmp_path / "a.json"), str(tmp_path / name))
    assert f"the inbox ignores files named {pattern}; rename {tmp_path / name}" in result.stderr
    assert (result.exit_code, list((home / "inbox").iterdir())) == (1, [])


def test_where_there_is_no_chat_track_a_command_says_how_another_is_named(lorad, home):
    (home / "configs").mkdir(exist_ok=True)
    (home / "configs" / "default.yaml").write_text("tracks: {mail: {task: text_classification, base: b}}\n")

    result = lorad("versions")

    told = "lorad: there is no track 'chat'; known: mail; name another one with: --track NAME\n"
    assert result.exit_code == 1
    assert result.stderr.endswith(told)


def test_a_new_home_has_its_track_beside_which_others_come(lorad, tmp_path):
    made = lorad("init", str(tmp_path / "new"))

    assert "base add smollm2" in made.stdout
    home = Home(tmp_path / "new")
    assert load_settings(home) == Settings()
    assert list(load_settings(home, "documents").tracks) == ["chat", "documents"]


def test_a_track_has_its_own_folder(lorad, home, tmp_path):
    (tmp_path / "a.json").write_text("1")
    assert lorad("drop", str(tmp_path / "a.json"), "--track", "chat").exit_code == 0
    assert (home / "inbox" / "chat" / "a.json").is_file()
    result = lorad("drop", str(tmp_path / "a.json"), "--track", "chad")
    hint = "if the daemon was started with --config or --set, give it here too"
    assert result.stderr == f"lorad: there is no track 'chad'; known: chat; {hint}\n"


def test_a2_drop_writes_through_no_link_that_a_member_lays_in_the_inbox(lorad, home, tmp_path):
    # Given links under the names that a drop would use, to a file and to a folder of whoever drops
    (tmp_path / "a.json").write_text("[1]")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("keep")
    hidden = home / "inbox" / f".a.json.{os.getpid()}.part"
    hidden.symlink_to(precious / "file")

    assert lorad("drop", str(tmp_path / "a.json")).exit_code == 0
    assert (home / "inbox" / "a.json").read_text() == "[1]"

    (home / "inbox" / "chat").symlink_to(precious)
    refused = lorad("drop", str(tmp_path / "a.json"), "--track", "chat")

    assert refused.exit_code != 0
    assert "could not be copied" in refused.output
    assert {path.name: path.read_text() for path in precious.iterdir()} == {"file": "keep"}


@pytest.mark.parametrize(("inbox", "folder", "file"), [(0o770, 0o770, 0o640), (0o750, 0o750, 0o600)])
def test_what_is_dropped_is_for_whom_the_inbox_is_for(lorad, home, tmp_path, inbox, folder, file):
    # Given an inbox that the daemon's group shares, or does not, and a person who hides new files from others
    (home / "inbox").chmod(inbox)
    (tmp_path / "a.json").write_text("1")
    before = os.umask(0o077)
    try:
        lorad("drop", str(tmp_path / "a.json"), "--track", "chat")
    finally:
        os.umask(before)

    dropped = home / "inbox" / "chat" / "a.json"
    assert [path.stat().st_mode & 0o777 for path in (dropped.parent, dropped)] == [folder, file]


def test_a_failed_copy_leaves_nothing(lorad, home, tmp_path):
    # Given an inbox that is not a folder
    (home / "inbox").rmdir()
    (home / "inbox").write_text("")
    (tmp_path / "a.json").write_text("1")
    result = lorad("drop", str(tmp_path / "a.json"))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_waiting_ends_well_when_all_is_promoted(lorad, daemon):
    # Given a file that becomes a version while we wait
    done = snapshot(jobs=[promoted(1, "a", "v0.1", ended_at=NOW + 9)])
    daemon.answers(
        "GET /lorad/status",
        snapshot(waiting_files=[waiting_file("a.json")]),
        snapshot(jobs=[job(1, "a", "training")]),
        done,
    )
    result = lorad("wait", "--interval", "0")
    assert (result.stdout, result.exit_code) == ("job 1 a promoted as v0.1 after 2 min 5 s\n", 0)


def test_waiting_ends_badly_with_the_reason(lorad, daemon):
    # Given two jobs under way, of which the first ends badly
    begun = [job(2, "b", "queued"), job(1, "a", "training")]
    jobs = [promoted(2, "b", "v0.1", ended_at=NOW + 9), rejected(1, "a", ended_at=NOW + 5)]
    daemon.answers("GET /lorad/status", snapshot(jobs=begun), snapshot(jobs=jobs))
    result = lorad("wait", "--interval", "0")
    assert result.stderr == "job 1 a rejected after 1 min: recall on the new data is 62.0 %\n"
    assert "job 2 b promoted as v0.1" in result.stdout
    assert result.exit_code == 1


def test_waiting_tells_of_a_refused_file(lorad, daemon):
    # Given so many events that the snapshot does not hold that of the file any more
    failure = event(3, "failed", at=NOW + 1, file="a.json", why="line 3 is not JSON")
    daemon.answers(
        "GET /lorad/status", snapshot(events=[event(number, "accepted") for number in range(4, 24)])
    )
    daemon.answers("GET /lorad/events", {"events": [failure, event(23, "accepted")]}, {"events": []})
    result = lorad("wait", "--interval", "0", "--json")
    assert json.loads(result.stdout) == {"ok": False, "ended": [failure]}
    assert [query["after"] for route, query, _ in daemon.asked if route.endswith("events")] == ["0", "23"]
    assert result.exit_code == 1


def test_waiting_for_one_job(lorad, daemon):
    daemon.answers("GET /lorad/status", snapshot(jobs=[job(2, "b", "queued")]))
    daemon.answers("GET /lorad/jobs/1", job(1, "a", "training"), promoted(1, "a", "v0.1"))
    assert lorad("wait", "--job", "1", "--interval", "0").exit_code == 0


def test_waiting_gives_up(lorad, daemon):
    daemon.answers("GET /lorad/status", snapshot(jobs=[job(1, "a", "training")]))
    result = lorad("wait", "--timeout", "0")
    assert (result.stdout, result.exit_code) == ("", 1)
    assert result.stderr.startswith("lorad: timed out")


def test_waiting_shows_progress_on_a_terminal_only(home, daemon):
    # Given a session, then its end, and standard error on a terminal
    daemon.answers("GET /lorad/status", snapshot(session=SESSION, jobs=[job(3, "c", "training")]), snapshot())
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-c",
        "from lorad.apps.cli.main import main; main()",
        "wait",
        "--home",
        str(home),
        "--interval",
        "0",
    ]
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": SOURCE}, stderr=theirs, check=False, timeout=30
    )
    os.close(theirs)
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    # Then one line tells where it is, and is wiped at the end
    assert "\r\x1b[2Kjob 3 campus_housing: training" in shown
    assert shown.endswith("\r\x1b[2K")
    assert ended.returncode == 0


def test_a_job_is_tried_again_with_other_settings(lorad, daemon):
    daemon.answers("POST /lorad/jobs/3/retry", job(3, "a", "queued"))
    result = lorad(
        "retry", "3", "--force", "--settings", "rank=16", "--settings", "dtype=float32", "--settings", "x=a=b"
    )
    assert daemon.asked[0][2] == {"force": True, "settings": {"rank": 16, "dtype": "float32", "x": "a=b"}}
    assert result.exit_code == 0


@pytest.mark.parametrize("setting", ["rank", "=16"])
def test_a_setting_without_a_key_or_value_is_refused(lorad, daemon, setting):
    result = lorad("retry", "3", "--settings", setting)
    assert "use the form key=value" in result.stderr
    assert daemon.asked == []


@pytest.mark.parametrize(
    ("word", "route"),
    [
        ("pause", "POST /lorad/pause"),
        ("resume", "POST /lorad/resume"),
        ("cancel 3", "POST /lorad/jobs/3/cancel"),
    ],
)
def test_simple_orders(lorad, daemon, word, route):
    daemon.answers(route, job(3, "a", "cancelled") | {"paused": True})
    assert lorad(*word.split()).exit_code == 0
    assert [asked for asked, _, _ in daemon.asked] == [route]


# Versions and memory


def test_the_latest_version_is_printed_alone(lorad, daemon):
    daemon.answers("GET /lorad/versions", snapshot()["tracks"]["chat"], {"latest": None})
    assert lorad("versions", "latest").stdout == "v0.2\n"
    result = lorad("versions", "latest", "--track", "chat")
    assert (result.stdout, result.exit_code) == ("", 1)
    assert "chat has no latest version" in result.stderr


@pytest.mark.parametrize(
    ("words", "route", "body", "told"),
    [
        ("pin good", "good/pin", {"pinned": True}, "v0.1 is pinned; undo it with: lorad versions unpin v0.1"),
        ("unpin v0.1", "v0.1/pin", {"pinned": False}, "v0.1 is no longer pinned"),
        (
            "tag v0.1 good",
            "v0.1/tags",
            {"tag": "good", "remove": False},
            "v0.1 has the tag good; ask it with: lorad ask --model chat@good QUESTION",
        ),
        ("untag good good", "good/tags", {"tag": "good", "remove": True}, "v0.1 no longer has the tag good"),
    ],
)
def test_versions_are_marked(lorad, daemon, words, route, body, told):
    daemon.answers(
        f"POST /lorad/versions/{route}", {"version": "v0.1", "tag": "good", "removed": True} | body
    )
    result = lorad("versions", *words.split())
    assert (result.stdout, result.exit_code) == (f"{told}\n", 0)
    assert [sent for _, _, sent in daemon.asked] == [{"track": "chat", **body}]


@pytest.mark.parametrize(
    "words",
    [
        ("versions", "--track", "notes", "prune"),
        ("versions", "--json", "show", "v0.1"),
        ("memory", "--track", "notes", "export", "f.jsonl"),
    ],
)
def test_an_option_in_front_of_the_subcommand_is_refused_and_not_ignored(lorad, words):
    result = lorad(*words)

    assert result.exit_code == 1
    assert f"put {words[1]} after" in result.output


def test_an_import_into_a_track_that_is_not_there_is_refused(lorad, home, tmp_path):
    file = tmp_path / "memory.jsonl"
    file.write_text(json.dumps(exported(1, "mills")) + "\n")

    result = lorad("memory", "import", str(file), "--track", "typo")

    assert result.exit_code == 1
    assert "typo" in result.stderr
    assert not (home / "inbox" / "typo").exists()


def test_pruning_tells_what_went_and_why(lorad, daemon):
    # Given a daemon that finds something, the same again, and then nothing
    found = {"pruned": {"v0.1": "older than max_age_days (30)"}, "dry_run": False}
    daemon.answers("POST /lorad/versions/prune", found, found, found, {"pruned": {}, "dry_run": False})
    limits = ["--keep", "3", "--older-than", "30", "--max-bytes", "1000"]
    # When it is told to prune, with limits and without
    told = [
        lorad("versions", "prune", *words).stdout
        for words in (limits, ["--dry-run"], ["--json"], ["--keep", "9"])
    ]
    # Then it tells what it did, or would do
    assert told[:2] == [
        "removed v0.1: older than max_age_days (30)\n",
        "would remove v0.1: older than max_age_days (30)\n",
    ]
    assert json.loads(told[2]) == found
    assert told[3].startswith("no version is beyond the limits")
    assert [body for _, _, body in daemon.asked] == [
        {"track": "chat", "dry_run": False, "keep": 3, "max_age_days": 30, "max_bytes": 1000},
        {"track": "chat", "dry_run": True},
        {"track": "chat", "dry_run": False},
        {"track": "chat", "dry_run": False, "keep": 9},
    ]


@pytest.mark.parametrize("limit", ["--keep", "--older-than", "--max-bytes"])
def test_a_limit_of_nothing_is_refused(lorad, daemon, limit):
    assert lorad("versions", "prune", limit, "0").exit_code == 2
    assert daemon.asked == []


def test_a_rollback_tells_what_serves(lorad, daemon):
    daemon.answers("POST /lorad/rollback", {"latest": "v0.1", "previous": None, "serving": "v0.1"})
    assert lorad("rollback", "--to", "v0.1").stdout == "v0.1 serves; latest is v0.1, previous is none\n"
    daemon.answers("POST /lorad/rollback", {"latest": None, "previous": "v0.1", "serving": None})
    assert lorad("rollback", "--to", "base").stdout == "the base serves; latest is none, previous is v0.1\n"
    assert daemon.asked[0][2] == {"track": "chat", "to": "v0.1"}


@pytest.mark.parametrize(
    ("typed", "flags", "is_asked"),
    [("y\n", [], True), ("n\n", [], False), ("", [], False), (None, ["--yes"], True)],
)
def test_nothing_is_forgotten_by_accident(lorad, daemon, typed, flags, is_asked):
    examples = [{"question": "Where is the mill?", "answer": "By the river."}]
    told = {"forgotten": 2, "dry_run": True, "examples": examples}
    daemon.answers("POST /lorad/forget", *[told] * (not flags), {"forgotten": 2, "dry_run": False})
    result = lorad("forget", "campus_cs", *flags, typed=typed)
    asked = [body["dry_run"] for _, _, body in daemon.asked]
    assert asked == [True] * (not flags) + [False] * is_asked
    assert ("By the river." in result.stdout and "and 1 more" in result.stdout) is (not flags)
    assert ("forgot 2 examples" in result.stdout) is is_asked
    assert result.exit_code == (0 if is_asked else 1)


@pytest.mark.parametrize("is_done", [True, False])
def test_a16_what_still_holds_forgotten_words_is_told(lorad, daemon, is_done):
    told = {"forgotten": 2, "dry_run": not is_done, "examples": [], "told": "v0.1 (pinned) still holds them"}
    daemon.answers("POST /lorad/forget", told)

    result = lorad("forget", "mills", "--yes" if is_done else "--dry-run")

    assert "; v0.1 (pinned) still holds them\n" in result.stdout


@pytest.mark.parametrize("flags", [[], ["--force"]])
def test_a13_an_export_of_memory_replaces_a_file_only_when_told(lorad, daemon, tmp_path, flags):
    daemon.answers("GET /lorad/memory/examples", {"examples": [exported(1, "mills")]}, {"examples": []})
    file = tmp_path / "memory.jsonl"
    file.write_text("precious")

    result = lorad("memory", "export", str(file), *flags)

    assert (result.exit_code, file.read_text() == "precious") == ((0, False) if flags else (1, True))
    assert bool(daemon.asked) is bool(flags)
    assert [path.name for path in tmp_path.iterdir()] == ["memory.jsonl"]


def test_what_would_be_forgotten_is_told_and_kept(lorad, daemon):
    daemon.answers("POST /lorad/forget", {"forgotten": 0, "dry_run": True, "examples": []})
    result = lorad("forget", "campsu_cs", "--dry-run")
    assert result.stdout == "'campsu_cs' matches 0 examples; nothing was forgotten\n"
    assert (result.exit_code, len(daemon.asked)) == (0, 1)


def exported(row, dataset, question="Where is the mill?"):
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "é"}]
    return {"messages": messages, "dataset": dataset, "provenance": {"row": row, "learned_in": "v0.1"}}


def test_memory_is_exported_page_by_page(lorad, daemon, tmp_path):
    # Given a memory of two pages
    pages = [[exported(1, "mills"), exported(4, "mills")], [exported(9, "inns")], []]
    daemon.answers("GET /lorad/memory/examples", *({"examples": page} for page in pages))
    # When it is exported
    file = tmp_path / "memory.jsonl"
    result = lorad("memory", "export", str(file))
    # Then every example is in the file, and each page was asked for behind the one before
    assert result.stdout == f"wrote 3 examples to {file}\n"
    assert [json.loads(line) for line in file.read_text().splitlines()] == [*pages[0], *pages[1]]
    assert [query["after"] for _, query, _ in daemon.asked] == ["0", "4", "9"]
    assert [path.name for path in tmp_path.iterdir()] == ["memory.jsonl"]


def test_memory_is_exported_to_standard_output(lorad, daemon):
    daemon.answers("GET /lorad/memory/examples", {"examples": [exported(1, "mills")]}, {"examples": []})
    result = lorad("memory", "export", "-", "--dataset", "mills")
    assert json.loads(result.stdout) == exported(1, "mills")
    assert daemon.asked[0][1] == {"track": "chat", "after": "0", "dataset": "mills"}


def test_an_export_that_breaks_off_leaves_no_file(lorad, daemon, tmp_path):
    daemon.answers(
        "GET /lorad/memory/examples",
        {"examples": [exported(1, "mills")]},
        Problem(503, "stopping", "lorad stops"),
    )
    result = lorad("memory", "export", str(tmp_path / "memory.jsonl"))
    assert (result.stderr, result.exit_code) == ("lorad: lorad stops\n", 1)
    assert list(tmp_path.iterdir()) == []


def test_an_exported_memory_is_imported_dataset_by_dataset(lorad, home, tmp_path):
    # Given an export of two datasets, one with a name that is no file's name
    rows = [exported(1, "mills"), exported(2, "../up"), exported(3, "mills", "Where is the inn?")]
    file = tmp_path / "memory.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) + "\n")
    # When it is imported
    result = lorad("memory", "import", str(file))
    # Then each dataset waits in the inbox under its own name, and nothing is anywhere else
    assert result.exit_code == 0, result.stderr
    found = {path.name: path.read_text().splitlines() for path in (home / "inbox" / "chat").iterdir()}
    assert {name: len(lines) for name, lines in found.items()} == {"mills.jsonl": 2, "_up.jsonl": 1}
    assert json.loads(found["mills.jsonl"][0]) == rows[0]


def test_only_an_export_is_imported(lorad, tmp_path):
    file = tmp_path / "other.jsonl"
    file.write_text('{"instruction": "a", "response": "b"}\n')
    result = lorad("memory", "import", str(file))
    assert "line 1: not a row written by lorad memory export" in result.stderr
    assert result.exit_code == 1


def test_consolidating_names_its_job(lorad, daemon):
    daemon.answers("POST /lorad/consolidate", job(7, "memory", "queued"))
    assert "lorad wait --job 7" in lorad("consolidate", "--refit").stdout
    assert daemon.asked[0][2] == {"track": "chat", "refit": True}


def test_retention_is_drawn(lorad, daemon, tmp_path):
    pytest.importorskip("matplotlib")
    daemon.answers("GET /lorad/retention", RETENTION)
    result = lorad("retention", "--plot", str(tmp_path / "r.png"))
    assert (tmp_path / "r.png").stat().st_size > 0
    assert "ACC 0.900" in result.stdout


def test_retention_of_facts_is_shown_and_drawn(lorad, daemon, tmp_path):
    pytest.importorskip("matplotlib")
    facts = {key: RETENTION[key] for key in RETENTION if not key.startswith("facts")}
    told = RETENTION | {"facts_other": facts | {"acc": 0.3}, "facts_other_served": facts | {"acc": 0.8}}
    daemon.answers("GET /lorad/retention", told)
    result = lorad("retention", "--wordings", "--plot", str(tmp_path / "r.png"))
    assert (tmp_path / "r.png").stat().st_size > 0
    assert result.stdout.index("ACC 0.800") < result.stdout.index("ACC 0.300")
    assert "ACC 0.900" not in result.stdout
    # Both are in JSON, whatever is shown
    for words in (["retention", "--json"], ["retention", "--wordings", "--json"]):
        assert json.loads(lorad(*words).stdout) == told


def test_ctrl_c_ends_with_130(home, daemon):
    # Given a wait that would last
    daemon.answers("GET /lorad/status", snapshot(jobs=[job(1, "a", "training")]))
    # (who starts the tests in the background lets them ignore Ctrl-C, and that is inherited)
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "from lorad.apps.cli.main import main; main()"
    command = [sys.executable, "-c", program, "wait", "--home", str(home), "--interval", "60"]
    running = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": SOURCE}, stderr=subprocess.PIPE, text=True
    )
    # When it is interrupted once it has asked
    while not daemon.asked:
        assert running.poll() is None
    running.send_signal(2)
    # Then it ends without a word
    assert running.communicate(timeout=10)[1] == ""
    assert running.returncode == 130


@pytest.mark.parametrize(
    ("behind", "told"),
    [("round-0003", "continues after round-0003"), (None, "starts over: it has no complete")],
)
def test_resuming_tells_where_a_job_goes_on(lorad, daemon, behind, told):
    daemon.answers("POST /lorad/jobs/3/resume", job(3, "a", "queued") | {"checkpoint": behind})

    assert told in lorad("resume", "3").output


def test_a_job_is_resumed_from_a_checkpoint(lorad, daemon):
    daemon.answers("POST /lorad/jobs/3/resume", job(3, "a", "queued") | {"checkpoint": "round-0002"})

    result = lorad("resume", "3", "--from", "round-0002")

    assert result.exit_code == 0, result.output
    assert "continues after round-0002" in result.output
    assert daemon.asked[-1][2] == {"checkpoint": "round-0002"}


def test_a_checkpoint_without_its_job_is_refused(lorad, daemon):
    result = lorad("resume", "--from", "round-0002")

    assert result.exit_code != 0
    assert not daemon.asked


# failed files


@pytest.fixture
def failed(home):
    folder = home / "inbox" / "failed"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text("[1]")
    (folder / "a.json.reason.json").write_text('{"file": "a.json", "code": "bad_rows", "track": "chat"}')
    return folder


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a2_retry_moves_through_no_link_that_takes_the_place_of_a_tracks_folder(lorad, home, tmp_path):
    # Given a member who swaps the track's folder for a link just before a failed file is moved there
    failed = home / "models" / "drops" / "failed"
    failed.mkdir(parents=True)
    (failed / "evil.pth").write_text("[1]")
    (failed / "evil.pth.reason.json").write_text('{"track": "chat"}')
    (home / "inbox" / "chat").mkdir()
    precious = tmp_path / "precious"
    precious.mkdir()

    @contextlib.contextmanager
    def swap(operation, place):
        if operation == "rename" and place.endswith("evil.pth"):
            (home / "inbox" / "chat").rename(home / "inbox" / "away")
            (home / "inbox" / "chat").symlink_to(precious)
        yield

    with fault_points.guarded(swap):
        lorad("retry", "evil.pth")

    assert list(precious.iterdir()) == []
    assert [path.name for path in (home / "inbox" / "away").iterdir()] == ["evil.pth"]


@pytest.mark.parametrize(("has_folder", "place"), [(False, "a.json"), (True, "chat/a.json")])
def test_a_failed_file_goes_back_to_where_it_was_dropped(lorad, home, failed, has_folder, place):
    # Given no daemon: the file is read when one runs
    (failed / "a.json.meta.yaml").write_text("description: x")
    (failed / "a.json.wordings.json").write_text("[]")
    if has_folder:
        (home / "inbox" / "chat").mkdir()

    result = lorad("retry", "a.json")

    assert (result.exit_code, result.stderr) == (0, "")
    assert tree(home / "inbox") == [place, f"{place}.meta.yaml", f"{place}.wordings.json"]


@pytest.mark.parametrize("reason", ["{", "[]", '{"track": "gone"}', None])
def test_a_failed_file_goes_back_whatever_its_reason_says(lorad, home, failed, reason):
    if reason is None:
        (failed / "a.json.reason.json").unlink()
    else:
        (failed / "a.json.reason.json").write_text(reason)

    assert lorad("retry", "a.json").exit_code == 0
    assert tree(home / "inbox") == ["a.json"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("other.csv", "there is: a.json"),
        ("a.jsn", "did you mean a.json?"),
        ("a.json.reason.json", "no file"),
        ("../failed/a.json", "no file"),
        ("..", "no file"),
    ],
)
@pytest.mark.usefixtures("failed")
def test_only_a_failed_file_goes_back(lorad, home, name, told):
    result = lorad("retry", name)

    assert told in result.stderr
    assert result.exit_code == 1
    assert tree(home / "inbox") == ["failed/a.json", "failed/a.json.reason.json"]


def test_a_failed_file_does_not_replace_one_that_waits(lorad, home, failed):
    (home / "inbox" / "a.json").write_text("[2]")

    assert "is still in the inbox" in lorad("retry", "a.json").stderr
    assert (home / "inbox" / "a.json").read_text() == "[2]"
    assert (failed / "a.json").read_text() == "[1]"


def test_a_sidecar_is_dropped_before_its_file(lorad, home, tmp_path):
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "a.json.meta.yaml").write_text("description: x")

    result = lorad("drop", str(tmp_path / "a.json"))

    assert result.exit_code == 0
    files = sorted((home / "inbox").glob("a.*"), key=lambda path: path.stat().st_mtime_ns)
    assert [path.name for path in files] == ["a.json.meta.yaml", "a.json"]


def test_wordings_are_dropped_and_put_back_with_their_file(lorad, home, tmp_path):
    for name in ("a.json", "a.json.wordings.json"):
        (tmp_path / name).write_text("[]")

    result = lorad("drop", str(tmp_path / "a.json"), str(tmp_path / "a.json.wordings.json"))

    assert result.exit_code == 0
    assert sorted(path.name for path in (home / "inbox").glob("a.*")) == ["a.json", "a.json.wordings.json"]
    assert "name only a.json" in lorad("drop", str(tmp_path / "a.json.wordings.json")).output


def test_a_sidecar_that_is_named_beside_its_file_goes_along_once(lorad, home, tmp_path):
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "a.json.meta.yaml").write_text("description: x")

    result = lorad("drop", str(tmp_path / "a.json.meta.yaml"), str(tmp_path / "a.json"))

    assert result.exit_code == 0
    assert sorted(path.name for path in (home / "inbox").glob("a.*")) == ["a.json", "a.json.meta.yaml"]


def test_a_sidecar_is_not_dropped_alone(lorad, home, tmp_path):
    (tmp_path / "a.json.meta.yaml").write_text("description: x")

    result = lorad("drop", str(tmp_path / "a.json.meta.yaml"))

    assert result.exit_code == 1
    assert "name only a.json" in result.output
    assert not list((home / "inbox").glob("a.*"))


@pytest.mark.parametrize(
    ("redirected", "words", "told", "status"),
    [
        ("<&-", ("ask",), "lorad: no question given", 1),
        ("0> /dev/null", ("ask",), "lorad: standard input cannot be read: Bad file descriptor", 1),
        ("<&-", ("chat",), "", 0),
        (">&-", ("ask", "Where?"), "", 0),
        ("2>&-", ("ask", "Where?"), "", 0),
        (">&-", ("status",), "", 0),
        ("> /dev/full", ("ask", "Where?"), "lorad: No space left on device", 1),
        ("> /dev/full", ("chat",), "lorad: No space left on device", 1),
        ("> /dev/full", ("status",), "lorad: No space left on device", 1),
        ("> /dev/full", ("status", "--json"), "lorad: No space left on device", 1),
        ("> /dev/full", ("jobs",), "lorad: No space left on device", 1),
        ("> /dev/full", ("--help",), "lorad: No space left on device", 1),
        ("> /dev/full", ("check", "--help"), "lorad: No space left on device", 1),
        ("<&- >&- 2>&-", ("ask",), "", 1),
    ],
)
def test_case_27_streams_that_are_closed_or_full_end_in_a_sentence(
    home, daemon, redirected, words, told, status
):
    daemon.answers("POST /v1/chat/completions", Stream(delta("Here."), *ended("stop", 2), DONE))
    daemon.answers("GET /lorad/status", snapshot())
    daemon.answers("GET /lorad/jobs", {"jobs": [promoted(1, "campus", "v0.1")]})

    result = in_shell(redirected, home, *words, typed="hello\n")

    assert result.stderr.startswith(told) if told else result.stderr == ""
    assert result.stderr.count("\n") == bool(result.stderr)
    assert result.returncode == status


@pytest.mark.parametrize("typed", ["\ufeffWhere?\n", "Where?\n\n"])
def test_case_27_a_mark_of_byte_order_is_no_part_of_a_question(lorad, daemon, typed):
    daemon.answers("POST /v1/chat/completions", Stream(delta("Here."), *ended("stop", 2), DONE))

    assert lorad("ask", typed=typed).stdout == "Here."
    assert daemon.asked[-1][2]["messages"] == [{"role": "user", "content": "Where?"}]


@pytest.mark.parametrize("words", [("ask",), ("ask", "-"), ("ask", " ")])
def test_case_27_a_blank_question_is_not_asked(lorad, daemon, words):
    result = lorad(*words, typed="\ufeff \n\t\n")

    assert "no question given" in result.stderr
    assert (result.exit_code, daemon.asked) == (1, [])


def test_case_27_a_command_that_chat_does_not_know_is_said(lorad, daemon):
    daemon.answers("POST /v1/chat/completions", Stream(delta("Here."), *ended("stop", 2), DONE))

    result = lorad("chat", typed="/modelx\n/models chat@v0.1\n/help\n/etc/hosts is what?\n/quit\n")

    told = [line.split(";")[0] for line in result.stderr.splitlines()]
    assert told == ["unknown command /modelx", "unknown command /models", "unknown command /help"]
    (only,) = [body["messages"] for _, _, body in daemon.asked]
    assert only == [{"role": "user", "content": "/etc/hosts is what?"}]
    assert "now talking" not in result.stdout


def test_case_27_a_name_of_very_many_digits_is_a_files(lorad):
    assert f"no file {'9' * 5000}" in lorad("retry", "9" * 5000).stderr


def test_a11_an_example_that_cannot_be_read_is_told_and_the_others_are_exported(lorad, daemon, tmp_path):
    odd = exported(2, "mills") | {"more": "half \ud83d"}
    unread = {"unreadable": "JSONDecodeError: \x1b[31m", "dataset": "\x1b]0;", "provenance": {"row": 3}}
    pages = [[exported(1, "mills"), odd, unread], [exported(9, "inns")], []]
    daemon.answers("GET /lorad/memory/examples", *({"examples": page} for page in pages))

    result = lorad("memory", "export", str(tmp_path / "memory.jsonl"))

    lines = (tmp_path / "memory.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [exported(1, "mills"), odd, exported(9, "inns")]
    assert result.exit_code == 0
    assert "example 3 of '\\x1b]0;' cannot be read and is skipped" in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize("value", ["[" * 5000, "9" * 5000, "NaN", '"\\ud800"'])
def test_a12_what_is_typed_for_a_plan_is_passed_on_and_never_a_traceback(lorad, daemon, value):
    daemon.answers("POST /lorad/jobs/1/retry", Problem(400, "bad_setting", "rank must be a whole number"))

    result = lorad("retry", "1", "--settings", f"rank={value}")

    assert result.exit_code == 1
    assert result.output.startswith("lorad: rank must be")


@pytest.mark.parametrize("interval", ["inf", "1e300", "nan"])
def test_a12_a_rest_that_no_clock_takes_is_refused(lorad, interval):
    result = lorad("wait", "--interval", interval)

    assert result.exit_code == 2
    assert not isinstance(result.exception, ValueError | OverflowError)
