"""Answers that share llama.cpp's batches are those that each gets alone, within the cells that there are."""

import random

import pytest
import torch
from fake_binding import FakeContext
from sinks import Sink

from lorad.errors import ProtocolError
from lorad.serving.backends.interface import Generation
from lorad.serving.backends.llamacpp.slots import Limits, Slots
from lorad.serving.backends.progress import PREFIX_SHARE, SHORTEST_PREFIX
from lorad.serving.backends.sampling import Chooser
from lorad.serving.guiding import GuidedSampling
from lorad.serving.requests import Sampling

VOCABULARY = 31
PLENTY = 100_000


def says(tokens):
    """Return logits that depend on every token before."""
    rows, seen = [], 17
    for token in tokens:
        seen = (seen * 31 + token + 1) % 1_000_003
        rows.append(torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seen)))
    return torch.stack(rows)


def wanted(prompt, most, sampling=None):
    sampling = sampling or Sampling()
    return Generation(name="it", prompt=prompt, sampling=sampling, ends=frozenset(), sink=Sink(most))


def alone(asked):
    tokens, chooser = list(asked.prompt), Chooser(asked.sampling)
    for _ in range(asked.sink.most):
        tokens.append(chooser.choose(says(tokens)[-1]))
    return tokens[len(asked.prompt) :]


def prompts(count, seed=1, longest=40):
    numbers = random.Random(seed)
    return [[numbers.randrange(VOCABULARY) for _ in range(numbers.randint(1, longest))] for _ in range(count)]


def begin(rows=8, prompt_tokens=16, cells=PLENTY, true_cells=None, logits=says):
    limits = Limits(rows=rows, prompt_tokens=prompt_tokens, cells=cells)
    context = FakeContext(logits, sequences=limits.sequences, cells=true_cells or cells, batch=limits.batch)
    return Slots(context, VOCABULARY, limits), context


def run(slots, asked=()):
    for each in asked:
        slots.submit(each)
    while not slots.is_idle:
        slots.step()


def assert_whole(asked):
    assert [each.sink.tokens for each in asked] == [alone(each) for each in asked]
    assert [(each.sink.ended, each.sink.error) for each in asked] == [(1, None)] * len(asked)


@pytest.mark.parametrize(("rows", "prompt_tokens"), [(8, 16), (3, 7), (1, 500), (16, 1)])
def test_answers_that_come_and_go_are_those_that_each_gets_alone(rows, prompt_tokens):
    numbers = random.Random(rows)
    asked = [wanted(prompt, numbers.randint(1, 20)) for prompt in prompts(20)]
    slots, context = begin(rows, prompt_tokens)

    most = 0
    for each in asked:
        slots.submit(each)
        for _ in range(numbers.randint(0, 6)):
            slots.step()
            most = max(most, slots.active)
    run(slots)

    assert_whole(asked)
    assert most > 1 or rows == 1
    assert most <= rows
    assert context.taken == 0


@pytest.mark.parametrize("true_cells", [None, 60])
def test_cells_are_bounded_and_nobody_fails_for_it(true_cells):
    # Given a context that may have fewer cells free than it should
    asked = [wanted(prompt, 30) for prompt in prompts(10, seed=7, longest=15)]
    slots, context = begin(rows=10, cells=80, true_cells=true_cells)

    run(slots, asked)

    assert_whole(asked)
    assert context.highest > 40
    assert context.taken == 0


def test_a_step_makes_as_many_tokens_as_it_says():
    asked = [wanted(prompt, 9) for prompt in prompts(5)]
    slots, _ = begin()
    for each in asked:
        slots.submit(each)
    made = 0
    while not slots.is_idle:
        made += slots.step()

    assert made == 45


def test_a_long_prompt_does_not_stop_the_others():
    slots, context = begin(prompt_tokens=10)
    first, long = wanted([1, 2, 3], 60), wanted([4, 5] * 100, 2)
    slots.submit(first)
    slots.step()
    slots.submit(long)

    before = len(first.sink.tokens)
    while not long.sink.tokens:
        slots.step()

    assert len(first.sink.tokens) - before == 20
    assert max(context.read) == 11


def test_a_seed_gives_the_same_answer_whatever_else_runs():
    sampling = Sampling(temperature=1.5, seed=11)
    among = wanted([5, 6, 7], 25, sampling)
    others = [wanted(prompt, 30, Sampling(temperature=1.0, seed=7)) for prompt in prompts(6)]
    slots, _ = begin()

    run(slots, (*others[:3], among, *others[3:]))

    assert_whole([among, *others])


class Rising:
    """A grammar whose answers only rise, and which gives up above a token."""

    def __init__(self, most=VOCABULARY):
        self.most, self.last = most, -1

    def start(self):
        return Rising(self.most)

    def allow(self, logits):
        if self.last >= self.most:
            raise ProtocolError("it cannot be followed", code="bad_schema")
        return logits.masked_fill(torch.arange(VOCABULARY) <= self.last, -torch.inf)

    def take(self, token):
        assert token > self.last
        self.last = token


def test_an_answer_with_a_grammar_follows_it_among_others():
    rising = wanted([1, 2, 3], 3, GuidedSampling(grammar=Rising()))
    broken = wanted([1, 2, 3], 40, GuidedSampling(grammar=Rising(most=2)))
    free = wanted([1, 2, 3], 12)
    slots, _ = begin()

    run(slots, (rising, free, broken))

    assert_whole([rising, free])
    assert rising.sink.tokens == sorted(set(rising.sink.tokens)) != free.sink.tokens[:3]
    assert (broken.sink.error.code, broken.sink.ended) == ("bad_schema", 1)


def test_who_leaves_ends_between_two_steps_and_its_cells_are_free():
    asked = [wanted(prompt, 30) for prompt in prompts(6, seed=4)]
    slots, context = begin(rows=4)
    for each in asked:
        slots.submit(each)
    while not asked[3].sink.tokens:
        slots.step()

    gone = [asked[0], asked[3], asked[5]]  # the last one waits still
    for each in gone:
        each.sink.is_wanted = False
    had = [len(each.sink.tokens) for each in gone]
    run(slots)

    assert had[2] == 0
    assert [len(each.sink.tokens) for each in gone] == had
    assert [each.sink.ended for each in gone] == [1] * 3
    assert_whole([asked[1], asked[2], asked[4]])
    assert context.taken == 0


class Panic(BaseException):
    """What Rust raises where it should not."""


def test_an_answer_that_cannot_be_handed_on_ends_alone():
    asked = [wanted(prompt, 20) for prompt in prompts(3, seed=5)]

    def put(_tokens, _logprobs):
        raise Panic

    asked[1].sink.put = put
    slots, _ = begin()
    run(slots, asked)

    assert isinstance(asked[1].sink.error, Panic)
    assert_whole([asked[0], asked[2]])


def test_a_step_that_fails_ends_its_answers_and_the_next_ones_are_given():
    is_broken = []

    def breaking(tokens):
        if is_broken:
            raise MemoryError
        return says(tokens)

    asked = [wanted(prompt, 20) for prompt in prompts(3, seed=6)]
    slots, context = begin(logits=breaking)
    for each in asked:
        slots.submit(each)
    while not asked[-1].sink.tokens:
        slots.step()
    is_broken.append(True)
    slots.step()

    assert [isinstance(each.sink.error, MemoryError) for each in asked] == [True] * 3
    assert (context.taken, slots.is_idle) == (0, True)
    is_broken.clear()
    after = wanted([3, 1, 4], 10)
    run(slots, [after])
    assert_whole([after])


def test_a_prompt_that_begins_like_the_one_before_is_not_read_again():
    opening = (prompts(1, seed=8)[0] * SHORTEST_PREFIX)[: SHORTEST_PREFIX + 3]
    first, second = wanted([*opening, 1, 2], 3), wanted([*opening, 3, 4, 5], 3)
    slots, context = begin(prompt_tokens=500)
    for each in (first, second):
        run(slots, [each])

    assert_whole([first, second])
    assert context.read == [len(opening) + 2, 1, 1, 3, 1, 1]
    assert context.taken == len(second.prompt)  # is kept for the next one


def test_a_short_prompt_is_always_read_whole():
    slots, context = begin(prompt_tokens=500)
    for _ in range(2):
        run(slots, [wanted([1, 2, 3] * 10, 1)])

    assert context.read == [30, 30]


def test_the_kept_prompt_gives_way_to_an_answer_and_is_short_of_a_share():
    cells = SHORTEST_PREFIX * PREFIX_SHARE
    long = prompts(1, seed=8)[0] * cells
    slots, context = begin(prompt_tokens=cells, cells=cells)
    run(slots, [wanted(long[: cells // 2], 1)])
    assert context.taken == SHORTEST_PREFIX

    whole = wanted(long[1 : cells - 10], 8)  # begins otherwise
    run(slots, [whole])

    assert_whole([whole])


def test_what_fits_nowhere_is_told():
    slots, context = begin(cells=50)
    with pytest.raises(ProtocolError, match="max_cache_bytes") as caught:
        slots.submit(wanted([1] * 50, 3))
    assert caught.value.code == "context_length_exceeded"

    endless, other = wanted([1] * 20, 10**6), wanted([2, 3], 5)
    run(slots, [endless, other])

    assert endless.sink.error.code == "context_length_exceeded"
    assert len(endless.sink.tokens) == 31  # the last one is never read
    assert_whole([other])
    assert context.taken == 0


@pytest.mark.parametrize("prompt", [[1, VOCABULARY], [-1], []])
def test_a_prompt_that_the_model_cannot_read_is_refused(prompt):
    slots, _ = begin()
    with pytest.raises(ProtocolError, match="does not have"):
        slots.submit(wanted(prompt, 3))
