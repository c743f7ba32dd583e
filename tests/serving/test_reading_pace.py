"""How long the pieces of prompts are: as many tokens as answers under way may wait for."""

import pytest

from lorad.serving.backends.reading_pace import LEAST, LONGEST_WAIT, ReadingPace


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def read(pace, clock, tokens, seconds):
    with pace.reading(tokens):
        clock.now += seconds


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0, 256), (0.02, 256), (2 * LONGEST_WAIT, 128), (LONGEST_WAIT * 64, LEAST)]
)
def test_a_piece_takes_no_longer_than_others_may_wait(seconds, expected):
    clock = Clock()
    pace = ReadingPace(256, clock)
    assert pace.tokens(are_others_waiting=True) == 256
    read(pace, clock, 256, seconds)
    assert pace.tokens(are_others_waiting=True) == expected
    assert pace.tokens(are_others_waiting=False) == 256


def test_it_follows_what_is_measured():
    clock = Clock()
    pace = ReadingPace(256, clock)
    read(pace, clock, 100, 100 * LONGEST_WAIT / 64)
    assert pace.tokens(are_others_waiting=True) == 64
    for _ in range(20):
        read(pace, clock, 100, 100 * LONGEST_WAIT / 200)
    assert pace.tokens(are_others_waiting=True) == 200


def test_a_few_tokens_are_taken_for_the_least():
    clock = Clock()
    pace = ReadingPace(256, clock)
    read(pace, clock, 2, LEAST * LONGEST_WAIT / 64)
    assert pace.tokens(are_others_waiting=True) == 64


def test_the_setting_may_be_less_than_the_least():
    clock = Clock()
    pace = ReadingPace(8, clock)
    read(pace, clock, 8, 100.0)
    assert pace.tokens(are_others_waiting=True) == 8


def test_what_fails_is_not_measured():
    clock = Clock()
    pace = ReadingPace(256, clock)
    with pytest.raises(TypeError):
        read(pace, clock, 256, "not a number")
    assert pace.tokens(are_others_waiting=True) == 256
