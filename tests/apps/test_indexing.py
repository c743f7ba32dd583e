"""Indexing between the loop's other work: how many examples fit, whose turn it is. The clock is the embedder's own."""

import pytest
from world import World

from lorad.apps.daemon.indexing import MOST, STEP_SECONDS, Indexing


class FakeIndex:
    """Embeds in no time, and moves a clock on by what it would have taken."""

    def __init__(self, count, seconds, clock):
        self.waiting = [seconds] * count if isinstance(seconds, float) else seconds
        self.batches = []
        self._clock = clock

    def step(self, limit):
        done, self.waiting = self.waiting[:limit], self.waiting[limit:]
        self.batches.append(len(done))
        self._clock.now += sum(done)
        return bool(self.waiting)

    def left(self):
        return len(self.waiting)


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def took(indexing, clock):
    before = clock.now
    is_more = indexing.step()
    return is_more, clock.now - before


@pytest.mark.parametrize("seconds", [0.0001, 0.003, 0.02, 0.1, 0.24])
def test_a_step_takes_no_longer_than_it_may(clock, seconds):
    index = FakeIndex(300, seconds, clock)
    indexing = Indexing({"chat": index}, clock)
    steps = []
    while index.left():
        steps.append(took(indexing, clock)[1])

    assert max(steps) <= STEP_SECONDS * 1.0001
    assert sum(index.batches) == 300
    assert max(index.batches) <= MOST
    if 0.001 < seconds < 0.1:  # and the time is used
        assert steps[1] > STEP_SECONDS / 2


def test_one_example_that_takes_longer_is_indexed_all_the_same(clock):
    index = FakeIndex(3, 2.0, clock)
    indexing = Indexing({"chat": index}, clock)

    assert [indexing.step() for _ in range(3)] == [True, True, False]
    assert index.batches == [1, 1, 1]


def test_long_examples_behind_short_ones_do_not_come_as_one_batch(clock):
    index = FakeIndex(0, [0.0005] * 40 + [0.2] * 40, clock)
    indexing = Indexing({"chat": index}, clock)
    indexing.step()

    assert max(index.batches) <= 32  # 1, 2, 4, 8, 16, 32: a batch of 64 would have had 39 long ones


def test_a_long_track_keeps_none_waiting(clock):
    long, short = FakeIndex(10_000, 0.01, clock), FakeIndex(10, 0.01, clock)
    indexing = Indexing({"a": long, "b": short}, clock)
    for _ in range(3):
        assert indexing.step()

    assert (indexing.left("b"), indexing.left("a") > 0) == (0, True)


def test_without_an_index_nothing_is_done(clock):
    indexing = Indexing({}, clock)

    assert (indexing.step(), indexing.left("chat")) == (False, 0)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.database.close()


def test_the_loop_says_whether_its_next_step_has_work_already(world, clock):
    world.indexes["chat"] = FakeIndex(5, 0.2, clock)
    world.loop.indexing = Indexing(world.indexes, clock)

    assert [world.loop.step(world.now, world.ticks) for _ in range(5)] == [True, True, True, True, False]


def test_an_index_that_fails_rests_and_the_rest_of_the_step_is_done(world, clock):
    class Broken(FakeIndex):
        def step(self, limit):
            del limit
            raise OSError(28, "No space left on device")

    world.loop.indexing = Indexing({"chat": Broken(5, 0.2, clock)}, clock)

    assert world.loop.step(world.now, world.ticks) is False
    assert "No space left" in world.loop.attempts.troubles[0]
