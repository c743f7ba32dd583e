"""Text in, the same text out: whatever an answer holds, it is served as it was taught, or refused with the reason."""

import itertools
from collections import Counter

import pytest
import templates
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad.errors import SampleError
from lorad.records import Example
from lorad.tasks import find

CHAT = find("chat")
STYLES = ("smollm2", "gemma", "llama3", "qwen3", "mistral")
EXAMPLES = 180
PIECES = 6
"""Of an example; each two of them, in either order, are one answer: what stands beside what is what goes wrong."""

#: Words that some base takes for tokens, and pieces that tokenizers and templates have been seen to lose.
WORDS = sorted(
    {token.content for made in templates.STYLES.values() for token in made().added_tokens_decoder.values()}
    | {"[INST]", "[/INST]", "<<SYS>>", "{{", "{%", "▁", "<0x0A>", "\ufffd", "\r\n", "\u2028", "\x1b[0m"}
)
PIECE = st.one_of(
    st.text(min_size=1, max_size=8), st.sampled_from(WORDS), st.sampled_from([" ", "  ", "\n", "\t"])
)


@pytest.mark.parametrize("style", STYLES)
def test_any_answer_is_served_as_taught_or_refused(style):
    tokenizer = templates.STYLES[style]()
    ends = CHAT.stop_tokens(tokenizer)
    own = tuple(tokenizer.convert_ids_to_tokens(ends))
    seen = Counter()

    @given(pieces=st.lists(PIECE, min_size=PIECES, max_size=PIECES))
    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    def are_served_or_refused(pieces):
        for question, answer in itertools.pairwise(map("".join, itertools.product(pieces, repeat=2))):
            if question.strip() and answer.strip():
                is_served_or_refused(question, answer)

    def is_served_or_refused(question, answer):
        asked = [{"role": "user", "content": question}]
        try:
            row = CHAT.encode(tokenizer, Example(task="chat", input=asked, target=answer))
        except SampleError as error:
            assert error.code in {"not_served", "empty_answer", "private_use"}  # noqa: PT017 - one of two good ends
            assert error.code != "not_served" or "▁" in answer  # noqa: PT017 - which stands for a blank there
            seen[error.code] += 1
            return
        served = CHAT.text(tokenizer, row.target[:-1])
        if not answer.rstrip().endswith(own):
            assert served == answer
        assert row.target[-1] == ends[0]
        assert not set(ends) & set(row.target[:-1])
        assert list(row.tokens[: row.start]) == CHAT.prompt(tokenizer, asked)
        seen["served"] += 1

    are_served_or_refused()

    assert sum(seen.values()) >= 4000  # of each of five tokenizers
    assert seen["served"] > 0.9 * sum(seen.values())
