"""When a session waits for answers, by a clock of the test's own."""

import copy
import math
from itertools import pairwise

import pytest
import tiny
import torch

from lorad.training.pauses import LINGER, LONGEST, SHORTEST, TOLD_EVERY, Pauses


class Place:
    """A clock, a mark, and somebody who answers at given times."""

    def __init__(self, min_share=0.25, answering=()):
        self.now = 100.0
        self.answering = [(100.0 + begin, 100.0 + end) for begin, end in answering]
        self.waits = []
        self.claims = []
        self.pauses = Pauses(
            min_share,
            self.answered_at,
            claim=lambda is_claimed: self.claims.append((self.now, is_claimed)),
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    def answered_at(self):
        if any(begin <= self.now < end for begin, end in self.answering):
            return math.inf
        return max((end for _, end in self.answering if end <= self.now), default=-math.inf)

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds

    def work(self, seconds):
        """Compute so long, then look, as a layer does."""
        self.now += seconds
        began = self.now
        self.pauses.look()
        self.waits.append((began, self.now))

    @property
    def waited(self):
        return [(begin, end) for begin, end in self.waits if end > begin]


def test_a_session_waits_until_an_answer_has_ended_and_a_moment_longer():
    place = Place(answering=[(5.0, 7.0)])

    for _ in range(200):
        place.work(0.05)

    [(begin, end)] = place.waited
    assert 105.0 <= begin <= 105.05
    assert end == pytest.approx(107.0 + LINGER, abs=0.02)
    assert place.pauses.seconds == pytest.approx(end - begin)


def test_nobody_asks_and_nobody_waits():
    place = Place()

    for _ in range(100):
        place.work(0.05)

    assert (place.waited, place.pauses.seconds) == ([], 0.0)


def test_a_long_wait_is_told_while_it_lasts():
    place = Place(answering=[(0.0, math.inf)])
    told = []
    place.pauses.tell = lambda: told.append(place.pauses.seconds)

    for _ in range(400):
        place.work(0.05)

    assert len(told) > 2
    assert all(TOLD_EVERY <= later - earlier < TOLD_EVERY + LONGEST for earlier, later in pairwise(told))


def test_the_next_question_is_expected_before_a_session_goes_on():
    place = Place(answering=[(1.0, 1.2), (1.2 + LINGER / 2, 2.0)])

    for _ in range(40):
        place.work(0.05)

    assert len(place.waited) == 1


@pytest.mark.parametrize("min_share", [0.1, 0.25, 0.9])
@pytest.mark.parametrize("layer", [0.001, 0.05, 2.0])
def test_where_answering_never_ends_a_session_keeps_its_share(min_share, layer):
    place = Place(min_share, answering=[(0.0, math.inf)])

    began = place.now
    for _ in range(4000):
        place.work(layer)
        if place.now - began > 600:
            break

    elapsed = place.now - began
    assert elapsed - place.pauses.seconds >= min_share * (elapsed - LONGEST) - 1e-6
    assert max(end - begin for begin, end in place.waited) <= LONGEST + 1e-6
    assert place.pauses.seconds > (1 - min_share) * elapsed / 2  # and it does wait


def test_where_answering_never_ends_work_comes_in_short_pieces():
    place = Place(answering=[(0.0, math.inf)])

    for _ in range(3000):
        place.work(0.01)

    pieces = [later - earlier for (_, earlier), (later, _) in pairwise(place.waited)]
    assert SHORTEST / 3 - 0.02 <= min(pieces) <= max(pieces) <= SHORTEST / 3 + 0.02


def test_what_is_worked_while_answers_are_wanted_is_claimed_and_nothing_else():
    place = Place(answering=[(0.0, 30.0)])

    for _ in range(4000):
        place.work(0.01)

    worked = [
        (earlier, later)
        for (_, earlier), (later, _) in pairwise(place.waited)
        if later < 130.0  # then nobody asks any more, and one claim is given back
    ]
    claimed = [(begin, end) for (begin, _), (end, is_claimed) in pairwise(place.claims) if not is_claimed]
    assert claimed[: len(worked)] == worked
    assert len(claimed) <= len(worked) + 1
    assert place.claims[-1][1] is False


def test_whoever_keeps_all_of_the_time_never_waits():
    place = Place(min_share=1.0, answering=[(0.0, math.inf)])

    for _ in range(100):
        place.work(1.0)

    assert place.pauses.seconds == 0.0


class Counting(Pauses):
    def __init__(self):
        super().__init__(0.5, lambda: -math.inf, clock=lambda: 0.0, sleep=lambda _: None)
        self.looks = 0

    def look(self):
        self.looks += 1


def test_a_model_looks_before_its_layers_forwards_and_backwards_and_answers_as_before():
    made = tiny.model(len(tiny.tokenizer()))
    ids = torch.arange(8)[None]
    expected = made(input_ids=ids).logits
    expected.sum().backward()
    gradients = [weight.grad.clone() for weight in made.parameters()]
    made.zero_grad()
    pauses = Counting()

    pauses.watch(made)
    logits = made(input_ids=ids).logits
    forwards = pauses.looks
    logits.sum().backward()

    layers = 2 * (7 + 2) + 3
    assert forwards == layers
    assert pauses.looks == 2 * layers
    assert torch.equal(logits, expected)
    assert all(
        torch.equal(weight.grad, then) for weight, then in zip(made.parameters(), gradients, strict=True)
    )


def test_a_copy_of_a_model_looks_too_and_without_gradients_nothing_is_left_behind():
    made = tiny.model(len(tiny.tokenizer()))
    pauses = Counting()
    pauses.watch(made)

    with torch.inference_mode():
        copy.deepcopy(made)(input_ids=torch.arange(8)[None])

    assert pauses.looks == 2 * (7 + 2) + 3
