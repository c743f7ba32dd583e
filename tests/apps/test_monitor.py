"""The monitor as plain text, and its loop with a daemon that goes away."""

import io

import pytest
from fake_daemon import NOW, SESSION, event, job, promoted, rejected, snapshot, told, version, waiting_file
from rich.console import Console

from lorad.apps.screens.monitor import render, render_absence, sparkline, watch
from lorad.errors import ConfigError

BUSY = snapshot(
    session=SESSION,
    home="/home/somebody/with/a/rather/long/path/to/the/place/where/lorad/lives",
    jobs=[
        job(5, "campus_sports", "queued"),
        job(4, "campus_library_opening_hours_in_the_winter_term", "queued"),
        job(3, "campus_housing", "training"),
        promoted(2, "campus_dining", "v0.2"),
        rejected(1, "campus_cs"),
    ],
    waiting_files=[waiting_file("parking.json")],
    events=[event(n, "accepted", file=f"file-{n}.json", why="a long reason " * 20) for n in range(1, 21)],
)


def lines(renderable, width=80):
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get().splitlines()


def text(data, width=80, height=24):
    return "\n".join(lines(render(told(data), width=width, height=height), width))


@pytest.mark.parametrize("data", [BUSY, snapshot(), snapshot(ready=False), snapshot(paused=True)])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (200, 60)])
def test_the_screen_is_filled_and_not_a_column_more(data, width, height):
    shown = lines(render(told(data), width=width, height=height), width)
    assert len(shown) == height
    assert max(map(len, shown)) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_a_session_is_shown_whole(width):
    shown = text(BUSY, width)
    for words in (
        "lorad 0.1.0",
        "serving chat v0.2",
        "up 3 h 12 min",
        "21.5 tokens/s",
        "campus_housing · job 3 · training",
        "62.0 %, target 95.0 %",
        "99.0 %, target 95.0 %",
        "4 of 30, step 52/390",
        "loss 0.410",
        "rate 9.1e-04",
        "tokens/s 512",
        "memory 1.9 GiB",
        "took 1 min 1 s",
        "left 1 min 35 s",
        "loss █▁  recall ▁▅",
    ):
        assert words in shown


def test_what_generates_and_what_a_session_waits_for_is_shown():
    chat = BUSY["tracks"]["chat"] | {"held_as": "merged"}
    data = BUSY | {
        "tracks": {"chat": chat},
        "engine": BUSY["engine"] | {"backend": "builtin"},
        "session": BUSY["session"] | {"paused_seconds": 12.4},
    }

    shown = text(data, 80)

    assert "serving chat v0.2 (builtin, merged)" in shown
    assert "campus_housing · job 3 · training · paused 12 s for answers" in shown


def test_bars_grow_with_what_is_done():
    def bar(recall):
        line = next(
            line
            for line in text(snapshot(session=SESSION | {"recall": recall})).splitlines()
            if "│ recall" in line
        )
        return line.count("━")

    # Given recall at nothing, half of the target, at the target and beyond
    assert bar(0.0) == 0
    assert 0 < bar(0.475) < bar(0.95) == bar(1.0)


def test_a_session_that_only_loads_has_no_numbers_yet():
    shown = text(
        snapshot(session={"job": 3, "dataset": "campus_housing", "phase": "loading", "elapsed": 1.0})
    )
    assert "campus_housing · job 3 · loading" in shown
    assert "loss - " in shown


def test_what_waits_comes_before_what_ended():
    shown = text(BUSY, 120, 40)
    # In the order in which it is worked on
    places = [shown.index(name) for name in ("parking.json", "│ 3 ", "│ 4 ", "│ 5 ", "│ 2 ", "│ 1 ")]
    assert places == sorted(places)
    assert "jobs · 3 waiting" in shown


def test_what_does_not_fit_is_counted():
    # Given six entries and five lines
    assert "and 2 more" in text(BUSY)
    # And as many as fit are not followed by a count
    assert "more" not in text(snapshot(jobs=[promoted(n, "a", "v0.1") for n in range(5, 0, -1)]))


def test_the_newest_version_is_on_top():
    shown = text(snapshot())
    assert shown.index("v0.2 learned campus_dining") < shown.index("v0.1 learned campus_cs")


def test_a_second_track_is_named():
    chat = snapshot()["tracks"]["chat"]
    tags = chat | {"serving": "v0.1", "versions": [version("v0.1", "names", 0.97)]}
    shown = text(snapshot(tracks={"chat": chat, "tags": tags}))
    assert "serving chat v0.2 · tags v0.1" in shown
    assert "tags v0.1" in shown.split("versions")[1]


def test_the_newest_events_are_shown():
    shown = text(BUSY)
    assert "file-20.json" in shown
    assert "file-16.json" in shown
    assert "file-15.json" not in shown


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "drop a JSON file into /srv/lorad/inbox"),
        ({"ready": False}, "base model is being loaded"),
        ({"paused": True}, "lorad resume"),
        ({"waiting_files": [waiting_file("a.json")]}, "starts in a moment"),
        ({"jobs": [job(1, "a", "queued")]}, "starts in a moment"),
        ({"jobs": [rejected(1, "a")]}, "job 1 a rejected after 1 min: recall on the new data is 62.0 %"),
        ({"session": SESSION, "paused": True}, "learning, then paused"),
    ],
)
def test_without_a_session_it_says_what_comes_next(changes, words):
    assert words in text(snapshot(**changes))


def test_a_fresh_home_is_told_what_there_will_be():
    chat = snapshot()["tracks"]["chat"] | {
        "serving": "base",
        "versions": [],
        "latest": None,
        "previous": None,
    }
    shown = text(
        snapshot(
            tracks={"chat": chat},
            engine={"requests": 0, "active": 0, "waiting": 0, "tokens_per_second": None},
        )
    )
    for words in (
        "serving chat base",
        "only the base model so far",
        "no file was dropped yet",
        "nothing happened yet",
        "0 requests",
    ):
        assert words in shown


def test_ages_are_counted_from_the_snapshot():
    # Given the same daemon, told a minute later
    later = snapshot(now=NOW + 60)
    assert "up 3 h 13 min" in text(later)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], ""), ([1, 1, 1], "▁▁▁"), ([0, 1, None, 2], "▁▅ █"), ([3, 2, 1], "█▅▁")],
)
def test_sparklines(values, expected):
    assert sparkline(values) == expected


def test_a_sparkline_between_given_ends():
    assert sparkline([0.0, 0.5, 1.0, 1.5], low=0.0, high=1.0) == "▁▅██"


def test_absence_says_why():
    shown = "\n".join(lines(render_absence(ConfigError("lorad is not running"))))
    assert "no answer, trying again" in shown
    assert "lorad is not running" in shown


class Steps:
    """What a daemon does from look to look; Ctrl-C comes after the last step."""

    def __init__(self, *steps):
        self.left = list(steps)
        self.rests = []

    def fetch(self):
        step = self.left.pop(0)
        if isinstance(step, Exception):
            raise step
        return told(step)

    def sleep(self, seconds):
        self.rests.append(seconds)
        if not self.left:
            raise KeyboardInterrupt


def screen():
    return Console(file=io.StringIO(), width=80, height=24, force_terminal=True, color_system=None)


def test_a_daemon_that_goes_away_is_waited_for():
    # Given a daemon that answers, goes away and comes back
    steps = Steps(snapshot(), ConfigError("lorad is not running for /srv/lorad"), snapshot(paused=True))
    console = screen()
    # When it is watched until Ctrl-C
    with pytest.raises(KeyboardInterrupt):
        watch(steps.fetch, console=console, sleep=steps.sleep, interval=2.0)
    # Then all three were shown in this order, with a rest after each, and the screen was given back
    shown = console.file.getvalue()
    places = [
        shown.index(words) for words in ("Nothing to learn", "no answer, trying again", "Learning is paused")
    ]
    assert places == sorted(places)
    assert steps.rests == [2.0, 2.0, 2.0]
    assert shown.index("\x1b[?1049h") < places[0]
    assert shown.rindex("\x1b[?1049l") > places[-1]


def test_once_prints_one_picture_and_no_screen():
    steps, console = Steps(snapshot()), screen()
    watch(steps.fetch, console=console, sleep=steps.sleep, once=True)
    assert "Nothing to learn" in console.file.getvalue()
    assert "\x1b[?1049h" not in console.file.getvalue()
    assert steps.rests == []


def test_once_has_nothing_to_wait_for():
    steps = Steps(ConfigError("lorad is not running"))
    with pytest.raises(ConfigError):
        watch(steps.fetch, console=screen(), sleep=steps.sleep, once=True)


def test_a17_data_steers_no_screen_and_every_panel_keeps_its_lines():
    evil = "\x1b[2J\x9b[/red]\nforged"
    data = snapshot(
        home=evil,
        jobs=[promoted(1, evil, "v0.1")],
        events=[event(1, "failed", file=evil)],
        waiting_files=[waiting_file(evil)],
        session=SESSION | {"dataset": evil, "phase": evil},
    )
    shown = lines(render(told(data)), 80)
    assert len(shown) == 24
    assert not any(sign in "".join(shown) for sign in "\x1b\x9b\x07")
    assert not any(line.lstrip("│ ").startswith("forged") for line in shown)


def test_a21_the_last_result_is_the_newest_by_number_or_event():
    jobs = [promoted(2, "new", "v0.2", ended_at=NOW - 86_400), promoted(1, "old", "v0.1", ended_at=NOW)]
    assert "job 2 new promoted" in text(snapshot(jobs=jobs))
    assert "job 1 old promoted" in text(snapshot(jobs=jobs, events=[event(7, "promoted", job=1)]))


@pytest.mark.parametrize("width", [80, 120])
def test_facts_stand_beside_recall_where_they_were_measured(width):
    chat = snapshot()["tracks"]["chat"]
    assert "facts" not in text(snapshot(), width)
    chat["versions"][1]["performance"]["facts"] = 0.9312

    shown = lines(render(told(snapshot(tracks={"chat": chat})), width=width, height=24), width)

    assert any("versions · recall, facts" in line for line in shown)
    assert any("v0.2 learned" in line and "96.2 % 93.1 %" in line for line in shown)
    assert any("v0.1 learned" in line and "98.1 %      -" in line for line in shown)
    assert max(map(len, shown)) <= width
