"""Text as tokens come: the same as all of them together, at a cost that does not grow with the answer."""

import itertools

import pytest
import templates
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad.serving.requests import GenerationRequest, Sampling, TokenLogprobs
from lorad.serving.streaming import CUT, TAIL, GrowingText, Streamer
from lorad.tasks import find

CHAT = find("chat")
WORDS = [
    "naïve 🌫",
    "  two\n\n",
    "Zürich,",
    "\ufffd",
    "日本語",
    "</s>",
    "a",
    " ",
    "\t",
    "👩‍👩‍👧",
    "<filename>",
    "▁",
]


def streamed(tokens, text, sampling=None, ends=()):
    request = GenerationRequest("chat", "v0.1", [], sampling or Sampling())
    streamer = Streamer(request, text, set(ends))
    any(not streamer.put([token]) for token in tokens)
    streamer.close()
    return list(request.answer(0))


@pytest.mark.parametrize("style", ["smollm2", "gemma", "llama3", "qwen3", "mistral"])
def test_the_pieces_of_a_long_answer_are_its_text(style):
    tokenizer = templates.STYLES[style]()

    @given(words=st.lists(st.sampled_from(WORDS), min_size=60, max_size=120))
    @settings(max_examples=25, deadline=None, database=None)
    def check(words):
        tokens = tokenizer.encode("".join(words), add_special_tokens=False)
        pieces = streamed(tokens, lambda some: CHAT.text(tokenizer, some))
        assert "".join(piece.text for piece in pieces) == CHAT.text(tokenizer, tokens)

    check()


@given(st.lists(st.integers(0, 255), max_size=400))
@settings(max_examples=50, deadline=None, database=None)
def test_the_pieces_of_any_bytes_are_their_text(tokens):
    def text(some):
        return bytes(some).decode(errors="replace")

    assert "".join(piece.text for piece in streamed(tokens, text)) == text(tokens)


def test_what_a_token_costs_does_not_grow_with_the_answer():
    decoded = []

    def text(tokens):
        decoded.append(len(tokens))
        return "".join(map(chr, tokens))

    growing = GrowingText(text)
    sent = 0
    for number in range(2000):
        growing.add(97 + number % 26)
        sent += len(growing.after(sent, whole=False))

    assert sent == 2000
    assert max(decoded) <= CUT + TAIL


def test_an_answer_ends_at_its_last_token_its_limit_or_when_nobody_waits():
    def text(tokens):
        return "".join(map(chr, tokens))

    tokens = [97, 98, 99, 0, 100]
    assert [(c.text, c.finish) for c in streamed(tokens, text, ends={0})][-1] == ("", "stop")
    cut = streamed(tokens, text, Sampling(max_tokens=2), ends={0})
    assert "".join(c.text for c in cut) == "ab"
    assert (cut[-1].finish, cut[-1].answer_tokens) == ("length", 2)

    request = GenerationRequest("chat", "v0.1", [], Sampling())
    streamer = Streamer(request, text, {0})
    assert streamer.put([97])
    request.cancelled.set()
    assert not streamer.put([98])
    assert streamer.count == 1


def test_a_tail_is_kept_where_a_cut_would_change_the_text():
    # Given a text in which every pair of tokens is one character
    def text(tokens):
        pairs = itertools.zip_longest(tokens[::2], tokens[1::2])
        return "".join(chr(97 + one) if other is not None else "\ufffd" for one, other in pairs)

    tokens = [number % 5 for number in range(301)]

    assert "".join(piece.text for piece in streamed(tokens, text)) == text(tokens)


def with_tokens(parts, stop=(), ends=()):
    """Return the chunks of an answer whose tokens are parts of bytes, numbered."""
    request = GenerationRequest("chat", "v0.1", [], Sampling(stop=tuple(stop), logprobs=1))

    def text(some):
        return b"".join(parts[token] for token in some).decode(errors="replace")

    streamer = Streamer(request, text, set(ends), parts.__getitem__)
    for token in range(len(parts)):
        told = TokenLogprobs(token, -0.5 * token, ((0, -0.1),))
        if not streamer.put([token], [told]):
            break
    streamer.close()
    return list(request.answer(0))


def test_a_token_comes_with_the_piece_of_text_that_it_begins_in():
    chunks = with_tokens([b"A", b" \xf0\x9f", b"\x8c\xab", b"fog", b"</s>"], ends=[4])

    assert [chunk.text for chunk in chunks] == ["A", " \N{FOG}", "fog", ""]
    assert [[each.written for each in chunk.tokens] for chunk in chunks] == [
        [b"A"],
        [b" \xf0\x9f", b"\x8c\xab"],
        [b"fog"],
        [],
    ]
    tokens = [each for chunk in chunks for each in chunk.tokens]
    assert [each.offset for each in tokens] == [0, 1, 2, 3]
    assert [each.logprob for each in tokens] == [0.0, -0.5, -1.0, -1.5]
    assert {each.top for each in tokens} == {((b"A", -0.1),)}


def test_the_tokens_of_a_stop_text_are_not_the_answers():
    chunks = with_tokens([b"one", b" S", b"TO", b"P", b" two"], stop=[" STOP"])

    assert "".join(chunk.text for chunk in chunks) == "one"
    assert [each.written for chunk in chunks for each in chunk.tokens] == [b"one"]


def test_what_a_stop_text_held_back_comes_with_its_tokens_after_all():
    chunks = with_tokens([b"one", b" S", b"T", b"two"], stop=[" STOP"])

    assert "".join(chunk.text for chunk in chunks) == "one STtwo"
    assert [each.written for chunk in chunks for each in chunk.tokens] == [b"one", b" S", b"T", b"two"]
