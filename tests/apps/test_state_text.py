"""How states are told."""

import time

import pytest
from fake_daemon import NOW, SESSION, event, job, promoted, rejected, told, waiting_file
from fake_daemon import snapshot as sent

from lorad.apps.screens import state_text
from lorad.records import Job
from lorad.serving.answers import Event, SessionProgress
from lorad.serving.completions import Origin, SourceExample
from lorad.serving.record_json import read


def snapshot(**changes):
    return told(sent(**changes))


def job_result(data):
    return state_text.job_result(read(Job, data))


def session_line(data):
    return state_text.session_line(read(SessionProgress, data))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "-"),
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (3605, "1 h"),
        (11_525, "3 h 12 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_have_two_units(seconds, expected):
    assert state_text.duration(seconds) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 bytes"), (999, "999 bytes"), (15_320, "15.3 kB"), (2e6, "2.0 MB"), (3.4e12, "3400.0 GB")],
)
def test_sizes(count, expected):
    assert state_text.size(count) == expected


def test_shares_and_plurals():
    assert [state_text.share(0.9811), state_text.share(1), state_text.share(None)] == [
        "98.1 %",
        "100.0 %",
        "-",
    ]
    assert [state_text.plural(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


def test_times_are_local(monkeypatch):
    # Given a machine in Berlin, in winter
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        # Then a time is told as it stands on the wall there
        assert state_text.moment(1_763_700_000.0) == "2025-11-21 05:40"
        assert state_text.clock(1_763_700_000.0) == "05:40:00"
    finally:
        monkeypatch.undo()
        time.tzset()
    # And a version's date stays the day that it says
    assert state_text.moment("2025-11-21") == "2025-11-21"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ready": False, "session": SESSION}, "starting"),
        ({"session": SESSION, "paused": True}, "learning"),
        ({"paused": True}, "paused"),
        ({}, "idle"),
    ],
)
def test_one_word_says_what_the_daemon_does(changes, expected):
    assert state_text.state(snapshot(**changes)) == expected


def test_a_job_tells_what_came_of_it():
    died = job(4, "d", "failed", ended_at=NOW, reason={"code": "session_died", "message": "it was\nkilled"})
    assert job_result(promoted(2, "b", "v0.2")) == "job 2 b promoted as v0.2 after 2 min 5 s"
    assert job_result(rejected(3, "c")) == "job 3 c rejected after 1 min: recall on the new data is 62.0 %"
    assert job_result(died) == "job 4 d failed: it was killed"
    assert job_result(job(5, "e", "queued")) == "job 5 e queued"


def test_a_session_tells_only_what_is_known():
    loading = {"job": 3, "dataset": "c", "phase": "loading", "elapsed": 1.0}
    assert session_line(loading) == "job 3 c: loading"
    line = "job 3 campus_housing: training, round 4 of 30, recall 62.0 % of 95.0 %, about 1 min 35 s left"
    assert session_line(SESSION) == line


def test_an_event_is_one_line():
    failed = event(
        1, "failed", file="a b.json", why="two\nlines", rows=3, formats={"x": 1}, bad_rows=[], version=None
    )
    assert (
        state_text.event_line(read(Event, failed))
        == 'failed file=a b.json why=two lines rows=3 formats={"x": 1}'
    )


def test_the_summary_of_a_busy_daemon():
    jobs = [job(5, "e", "queued"), job(4, "d", "queued"), job(3, "c", "training"), promoted(2, "b", "v0.2")]
    lines = state_text.summary(
        snapshot(session=SESSION, jobs=jobs, waiting_files=[waiting_file("f.json")])
    ).splitlines()
    assert lines[:-1] == [
        "lorad 0.1.0 in /srv/lorad: learning, up 3 h 12 min",
        "  serving  chat v0.2 (recall 96.2 %, retention 99.0 %, previous v0.1, 2 datasets)",
        f"  session  {session_line(SESSION)}",
        "  queue    2 jobs: d, e",
        "  inbox    1 file: f.json",
    ]
    assert lines[-1].startswith("  last     job 2 b promoted as v0.2 after 2 min 5 s (2025-11-")


def test_the_summary_of_a_fresh_daemon():
    fresh = {"base": "smollm2", "previous": None, "serving": "base", "versions": [], "datasets": []}
    assert state_text.summary(snapshot(tracks={"chat": fresh})).splitlines() == [
        "lorad 0.1.0 in /srv/lorad: idle, up 3 h 12 min",
        "  serving  chat base (nothing learned yet)",
    ]


def test_the_summary_tells_what_generates_and_in_which_form():
    chat = sent()["tracks"]["chat"] | {"held_as": "merged", "batches": True, "batches_because": "x"}
    mail = {
        "serving": "v0.1",
        "held_as": "adapter",
        "not_merged_because": "memory is short",
        "batches": False,
    }
    engine = {
        "requests": 12,
        "waiting": 0,
        "active": 0,
        "tokens_per_second": 21.5,
        "first_token_seconds": 0.124,
        "backend": "builtin",
        "backend_because": "engine.backend is auto",
        "max_batch": 16,
        "cache_bytes": 1_500_000,
        "max_cache_bytes": 1_000_000_000,
        "modes": {"taught": 7, "stored": 2},
    }

    told = state_text.summary(
        snapshot(tracks={"chat": chat, "mail": mail | {"batches_because": "it keeps a state"}}, engine=engine)
    ).splitlines()

    assert "previous v0.1, 2 datasets" in told[1]
    assert "held as merged, 16 share a step" in told[1]
    assert told[2] == "  serving  mail v0.1 (held as adapter, nothing learned yet)"
    assert told[3:] == [
        "  backend  builtin (engine.backend is auto), caches 1.5 MB of 1.0 GB, 21.5 tokens/s, first token after 0.12 s",
        "  backend  mail: not merged, memory is short",
        "  backend  mail: one answer at a time, it keeps a state",
        "  answered 12 requests, of those looked up 2 stored, 7 taught",
    ]


def test_a_session_that_waited_for_answers_says_so():
    assert ", paused 12 s for answers, about 1 min 35 s left" in session_line(
        SESSION | {"paused_seconds": 12.4}
    )


def test_the_summary_says_that_a_running_session_is_the_last_for_now():
    assert "learning, learning paused, up" in state_text.summary(snapshot(session=SESSION, paused=True))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"session": SESSION}, session_line(SESSION)),
        (
            {"jobs": [job(1, "a", "queued")], "paused": True},
            "paused with 1 job in the queue; go on with: lorad resume",
        ),
        (
            {"waiting_files": [waiting_file(f"{n}.json") for n in range(5)]},
            "0.json, 1.json, 2.json and 2 more in the inbox, not taken yet",
        ),
        ({"jobs": [job(1, "a", "queued")]}, "1 job in the queue"),
    ],
)
def test_who_waits_is_told_for_what(changes, expected):
    assert state_text.progress(snapshot(**changes)) == expected


def test_a_summary_tells_why_a_file_waits_and_what_is_not_taken():
    held = {**waiting_file("a.json"), "why": "process 7 has it open for writing"}
    inbox = {
        "watching": "polling",
        "why": "it lies on SMB",
        "files": 12_000,
        "not_taken": [{"name": "elsewhere", "code": "no_such_track", "message": "elsewhere is a folder"}],
    }

    shown = state_text.summary(snapshot(waiting_files=[held], inbox=inbox))

    for line in (
        "inbox    12000 files: a.json",
        "inbox    a.json waits: process 7 has it open for writing",
        "inbox    elsewhere is a folder",
        "inbox    read every second: it lies on SMB",
    ):
        assert f"  {line}\n" in f"{shown}\n"


def test_a21_the_last_job_is_the_newest_by_number_though_the_clock_was_set_back():
    jobs = [promoted(2, "new", "v0.2", ended_at=NOW - 86_400), promoted(1, "old", "v0.1", ended_at=NOW)]
    assert "job 2 new promoted" in state_text.summary(snapshot(jobs=jobs)).splitlines()[-1]
    tried_again = snapshot(jobs=jobs, events=[event(7, "promoted", job=1)])
    assert "job 1 old promoted" in state_text.summary(tried_again).splitlines()[-1]


def test_a21_no_time_is_told_below_nothing():
    back = {"started_at": NOW, "ended_at": NOW - 86_400}
    assert state_text.took(read(Job, job(1, "a", "promoted", **back))) == "0 s"
    assert state_text.duration(-5.0) == "0 s"
    assert "up 0 s" in state_text.summary(snapshot(started_at=NOW + 86_400))


def test_a17_the_summary_is_text_and_nobody_adds_a_line_to_it():
    evil = snapshot(home="/h\x1b]0;t\x07", jobs=[promoted(1, "d\nlast  job 9 forged", "v0.1")])
    shown = state_text.summary(evil)
    assert "/h\\x1b]0;t\\x07" in shown
    assert len(shown.splitlines()) == len(
        state_text.summary(snapshot(jobs=[promoted(1, "d", "v0.1")])).splitlines()
    )


def test_the_summary_tells_what_is_not_indexed_yet_only_when_there_is_any():
    data = sent()
    assert "indexed" not in state_text.summary(told(data))

    data["tracks"]["chat"]["not_indexed"] = 12

    assert "\n  index    chat: 12 examples not indexed yet\n" in state_text.summary(told(data)) + "\n"


def test_the_summary_tells_why_questions_are_not_looked_up():
    data = sent()
    data["tracks"]["chat"]["not_looked_up"] = "as answering.retrieve is off"

    assert (
        "\n  index    chat: answers by its weights alone, as answering.retrieve is off\n"
        in f"{state_text.summary(told(data))}\n"
    )


def source(**changes):
    known = {"dataset": "campus_cs", "row": 12, "question": "Who chairs CS?", "similarity": 0.834}
    return SourceExample(**{**known, "confidence": 0.9, **changes})


@pytest.mark.parametrize(
    ("mode", "sources", "expected"),
    [
        ("taught", [source()], 'from campus_cs, row 12: "Who chairs CS?" (similarity 0.83)'),
        ("stored", [source(row=0)], 'quoted from campus_cs: "Who chairs CS?" (similarity 0.83)'),
        (
            "unknown",
            [source()],
            'nearest: campus_cs, row 12: "Who chairs CS?" (similarity 0.83), which does not answer it',
        ),
        (
            "taught",
            [source(dataset="a", question="Who?"), source(dataset="b", question="Who?", row=3)],
            'from a, row 12: "Who?" (similarity 0.83); b, row 3: "Who?" (similarity 0.83)',
        ),
        ("unknown", [], ""),
        ("weights", [], ""),
        ("weights", [source()], ""),
    ],
)
def test_where_an_answer_comes_from_is_one_line(mode, sources, expected):
    assert state_text.origin(Origin(mode=mode, sources=tuple(sources))) == expected


def test_a_long_question_of_several_lines_stays_short():
    told = state_text.origin(Origin(mode="taught", sources=(source(question="a\nb " * 500),)))

    assert "\n" not in told
    assert len(told) < state_text.QUESTION_SHOWN + 60
    assert "…" in told


def test_the_summary_tells_facts_beside_recall_where_they_were_measured():
    chat = sent()["tracks"]["chat"]
    chat["versions"][1]["performance"]["facts"] = 0.9312

    shown = state_text.summary(snapshot(tracks={"chat": chat}))

    assert "recall 96.2 %, retention 99.0 %, facts 93.1 %, previous v0.1" in shown


def test_a_session_says_that_it_looks_for_facts():
    line = session_line(SESSION | {"phase": "looking for facts", "eta_seconds": None})
    assert line == "job 3 campus_housing: looking for facts, round 4 of 30, recall 62.0 % of 95.0 %"
