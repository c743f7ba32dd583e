"""Bodies: never more is held than is allowed, alone or together, and whatever is stored can be answered."""

import asyncio
import contextlib
import json
import math

import pytest
from fastapi import Request
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad.errors import ProtocolError
from lorad.serving.http.bodies import SMALL, TOGETHER, Bodies, Json

LONGEST = 1_000_000
PIECE = b"x" * 50_000


class Sender:
    """A client that sends pieces for ever, or a few, and counts those that were taken."""

    def __init__(self, pieces=10**9, *, declared=None, holds=None):
        self.taken = 0
        self._pieces = pieces
        self._holds = holds
        headers = [] if declared is None else [(b"content-length", str(declared).encode())]
        self.request = Request({"type": "http", "headers": headers}, self._receive)

    async def _receive(self):
        self.taken += 1
        if self._holds is not None and self.taken == self._pieces:
            await self._holds.wait()
        return {"type": "http.request", "body": PIECE, "more_body": self.taken < self._pieces}


def read(sender, bodies=None):
    return asyncio.run((bodies or Bodies(LONGEST)).read(sender.request, len))


def test_a_body_in_pieces_is_read_whole():
    assert read(Sender(1)) == len(PIECE)
    assert read(Sender(20, declared=LONGEST)) == LONGEST


@pytest.mark.parametrize("declared", [None, 10, LONGEST])
def test_a19_a_body_beyond_the_limit_is_not_held_whatever_was_said_of_its_length(declared):
    sender = Sender(declared=declared)

    with pytest.raises(ProtocolError, match="longer than 1000000 bytes") as refused:
        read(sender)

    assert (refused.value.status, refused.value.code) == (413, "body_too_long")
    assert sender.taken == LONGEST // len(PIECE) + 1


@pytest.mark.parametrize("declared", [LONGEST + 1, 18_000_000, 10**19])
def test_a19_a_body_that_says_that_it_is_too_long_is_not_begun(declared):
    sender = Sender(declared=declared)

    with pytest.raises(ProtocolError, match="send a shorter one"):
        read(sender)

    assert sender.taken == 0


def test_a19_many_long_bodies_at_once_are_bounded_together_and_small_ones_find_room():
    async def crowd():
        bodies, hold = Bodies(LONGEST), asyncio.Event()
        senders = [Sender(20, holds=hold) for _ in range(4 * TOGETHER)]
        reading = [asyncio.create_task(bodies.read(sender.request, len)) for sender in senders]
        for _ in range(2000):  # as far as they come
            await asyncio.sleep(0)
        small = await bodies.read(Sender(1).request, len)
        hold.set()
        ends = await asyncio.gather(*reading, return_exceptions=True)
        return small, ends, await bodies.read(Sender(20).request, len)

    small, ends, afterwards = asyncio.run(crowd())

    refused = [end for end in ends if isinstance(end, ProtocolError)]
    assert small == len(PIECE) < SMALL
    assert refused
    assert {(error.status, error.code, error.data["retry_after"]) for error in refused} == {(503, "busy", 1)}
    assert set(ends) - set(refused) <= {LONGEST}
    assert afterwards == LONGEST  # what was counted is given back


def test_a_body_that_cannot_be_read_gives_its_room_back():
    async def fail():
        bodies = Bodies(LONGEST)
        for _ in range(2 * TOGETHER):
            with contextlib.suppress(ValueError):
                await bodies.read(Sender(20).request, json.loads)
        return await bodies.read(Sender(20).request, len)

    assert asyncio.run(fail()) == LONGEST


# Answers


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"rank": "\ud800"}, {"rank": "\ud800"}),
        ({"\udfff": 1, "é": "\U0001f600"}, {"\udfff": 1, "é": "\U0001f600"}),
        ([math.nan, math.inf, -math.inf, 1.5], [None, None, None, 1.5]),
        ([10**5000, 10**23], [None, 10**23]),
        ({1: (2, {3})}, {"1": [2, "{3}"]}),
        ({None: b"x"}, {"None": "b'x'"}),
    ],
)
def test_a12_an_answer_is_written_whatever_it_holds(value, told):
    body = Json(value).body

    assert json.loads(body.decode("utf-8")) == told


@pytest.mark.parametrize("levels", [10, 300, 5000])
def test_a11_an_answer_may_be_nested_as_deep_as_it_likes(levels):
    assert Json({"deep": nested(levels), "other": 1}).body.startswith(b'{"deep":')


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    )
)
@settings(max_examples=60, deadline=None)
def test_what_json_can_say_is_said_as_it_is(value):
    told = json.loads(Json(value).body)

    assert told == json.loads(json.dumps(value), parse_constant=lambda _: None)
