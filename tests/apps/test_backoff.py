"""Trying again later, each time after a longer wait."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lorad.apps.daemon.backoff import LONGEST_WAIT, Attempts, Backoff
from lorad.errors import TransientError


class Failing:
    """Fails until it is told not to, and counts."""

    def __init__(self, error):
        self.error = error
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.error:
            raise self.error


def test_each_wait_is_twice_as_long_up_to_five_minutes():
    backoff = Backoff()
    waits, ticks = [], 0.0
    for _ in range(12):
        backoff.lengthen("a", ticks)
        before = ticks
        while not backoff.is_over("a", ticks):
            ticks += 1.0
        waits.append(ticks - before)

    assert waits[:5] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert waits[-1] == LONGEST_WAIT
    assert backoff.tries("a") == 12


def test_what_went_well_begins_with_short_waits_again():
    backoff = Backoff()
    for _ in range(5):
        backoff.lengthen("a", 0.0)
    backoff.end("a")

    assert backoff.is_over("a", 0.0)
    assert backoff.lengthen("a", 0.0) == 1


def test_a_wait_can_have_a_least_length():
    backoff = Backoff()
    backoff.lengthen("a", 0.0, least=30.0)

    assert not backoff.is_over("a", 29.0)
    assert backoff.is_over("a", 30.0)


def test_one_failure_keeps_nothing_else_waiting():
    attempts, broken, sound = Attempts(), Failing(KeyError("x")), Failing(None)
    for ticks in range(10):
        attempts.attempt("broken", ticks, broken)
        attempts.attempt("sound", ticks, sound)

    assert sound.calls == 10
    assert broken.calls == 4  # at 0, 1, 3 and 7


def test_a_trouble_is_told_until_it_is_over_and_a_files_trouble_elsewhere():
    attempts, disk = Attempts(), Failing(TransientError("the disk is full", code="disk"))
    attempts.attempt("accept", 0.0, disk)
    attempts.attempt("watch", 0.0, disk)
    attempts.attempt(Path("inbox/a.json"), 0.0, disk)

    assert attempts.troubles == ["the disk is full"]
    assert attempts.why(Path("inbox/a.json")) == "the disk is full"

    disk.error = None
    for what in ("accept", "watch", Path("inbox/a.json")):
        attempts.attempt(what, 1.0, disk)
    assert attempts.troubles == []
    assert attempts.why(Path("inbox/a.json")) == ""


@pytest.mark.parametrize(
    ("error", "levels"),
    [
        (KeyError("x"), ["error", "warning", "warning"]),
        (TransientError("full", code="disk"), ["warning", "warning", "warning"]),
    ],
)
def test_the_same_error_is_logged_in_full_once(error, levels):
    attempts, failing = Attempts(), Failing(error)
    with capture_logs() as logs:
        for ticks in (0.0, 10.0, 20.0):
            attempts.attempt("a", ticks, failing)

    assert [line["log_level"] for line in logs] == levels


def test_an_error_may_ask_for_a_longer_rest():
    attempts, failing = Attempts(lambda _: 60.0), Failing(KeyError("x"))
    for ticks in range(60):
        attempts.attempt("a", ticks, failing)

    assert failing.calls == 1
