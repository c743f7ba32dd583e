"""The daemon's log: for people text, for programs JSON, for a terminal nothing else."""

import io
import json
import logging
import warnings

import pytest
import structlog
from shown import is_safe
from styles import STYLES

from lorad import log
from lorad.config import LogSettings

EVIL = "a\x1b]0;t\x07\n2026-01-01 [info] forged\u2028\x9b[/red]"


@pytest.fixture
def logged(monkeypatch):
    def run(form):
        stream = io.StringIO()
        monkeypatch.setattr("sys.stderr", stream)
        log.configure(LogSettings(format=form))
        logger = log.get_logger()
        logger.warning("file_refused", file=EVIL, rows=[EVIL], why="w")
        try:
            int(EVIL + "\x07")
        except ValueError:
            logger.exception("step_failed")
        return stream.getvalue()

    before, formatter = structlog.get_config(), logging.lastResort.formatter
    filters = list(logging.lastResort.filters)
    with warnings.catch_warnings():
        yield run
    structlog.reset_defaults()
    structlog.configure(**before)
    logging.lastResort.setFormatter(formatter)
    logging.lastResort.filters[:] = filters


def test_a17_the_log_for_people_shows_escapes_as_text_and_an_event_is_one_line(logged):
    told = STYLES.sub("", logged("console"))
    assert is_safe(told)
    assert r"\x1b]0;t\x07" in told
    assert "[/red]" in told
    assert "\n2026-01-01 [info] forged" not in told.partition("Traceback")[0]


def test_a17_the_log_for_programs_is_exact_and_safe_to_look_at(logged):
    told = logged("json")
    assert is_safe(told)
    assert json.loads(told.splitlines()[0])["file"] == EVIL


def test_what_a_library_warns_of_is_text_too(logged, monkeypatch):
    logged("console")
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    record = logging.LogRecord("x", logging.WARNING, "", 0, EVIL, None, None)
    logging.lastResort.handle(record)
    assert is_safe(stream.getvalue())
    assert r"\x1b" in stream.getvalue()


def record(at, line=7):
    made = logging.LogRecord("watchdog", logging.ERROR, "inotify.py", line, "queue overflowed", None, None)
    made.created = at
    return made


def test_a7_a_library_that_repeats_itself_does_not_fill_the_log():
    seldom = log.Seldom()

    told = [seldom.filter(record(100.0 + number / 1000)) for number in range(5000)]

    assert sum(told) == log.MOST_ALIKE
    assert seldom.filter(record(101.0, line=8))  # another place
    assert seldom.filter(record(100.0 + log.ALIKE_SECONDS))  # a minute later


def test_a7_what_libraries_write_goes_through_that(logged, monkeypatch):
    logged("console")
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)

    for _ in range(100):
        logging.lastResort.handle(record(100.0))

    assert stream.getvalue().count("queue overflowed") == log.MOST_ALIKE
