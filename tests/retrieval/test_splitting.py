"""From a text to chunks: what is too short is joined, what is too long divided, and a chunk's offsets are its text."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from lorad.config import SplitSettings
from lorad.retrieval.splitting import Splitter, words_and_signs

MANUAL = """# The mill

It stands by the river. Its wheel is of oak.

## Hours

The mill is open on Monday. It closes at noon!

| day | from | to   |
|-----|------|------|
| Mon | nine | noon |

## Prices

A sack costs two pence. Dr. Hild takes eggs, e.g. Ten of them. Nothing is free?

```
price = sacks * 2
```
"""


def split(text, markup="markdown", **chosen):
    pages = chosen.pop("pages", ())
    chosen = {"min_tokens": 0, "max_tokens": 1000, "overlap_tokens": 0, **chosen}
    found = Splitter(SplitSettings(**chosen)).split(text, markup, pages)
    return [(each.heading, text[each.start : each.end]) for each in found]


def texts(*given, **chosen):
    return [text for _, text in split(*given, **chosen)]


def tokens(text):
    return len(words_and_signs().encode(text).ids)


def test_semantic_chunks_are_sections():
    chunks = split(MANUAL)

    assert [heading for heading, _ in chunks] == [
        ("The mill",),
        ("The mill", "Hours"),
        ("The mill", "Prices"),
    ]
    assert " ".join(text for _, text in chunks).split() == MANUAL.split()


def test_paragraphs_keep_their_heading_and_sentences_theirs():
    paragraphs, sentences = texts(MANUAL, method="paragraph"), texts(MANUAL, method="sentence")

    assert paragraphs[0] == "# The mill\n\nIt stands by the river. Its wheel is of oak."
    assert paragraphs[2].startswith("| day") and paragraphs[2].endswith("| Mon | nine | noon |")  # noqa: PT018
    assert sentences[:4] == [
        "# The mill\n\nIt stands by the river.",
        "Its wheel is of oak.",
        "## Hours\n\nThe mill is open on Monday.",
        "It closes at noon!",
    ]
    assert sentences[4] == paragraphs[2]
    assert sentences[5:] == [
        "## Prices\n\nA sack costs two pence.",
        "Dr. Hild takes eggs, e.g. Ten of them.",
        "Nothing is free?",
        "```\nprice = sacks * 2\n```",
    ]


def test_equal_parts_overlap_and_no_word_is_lost():
    text = " ".join(f"word{number}" for number in range(100))
    chunks = texts(text, "plain", method="chunk", max_tokens=20, overlap_tokens=5)

    assert all(tokens(chunk) <= 20 for chunk in chunks)
    for before, after in itertools.pairwise(chunks):
        shared = set(before.split()) & set(after.split())
        assert len(shared) == 5
    assert {word for chunk in chunks for word in chunk.split()} == set(text.split())


def test_equal_parts_keep_words_whole_where_they_can():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(["ab"], trainer)  # a token a byte
    text = "one twenty three " * 20 + "x" * 50 + " é" * 10
    chosen = SplitSettings(method="chunk", min_tokens=0, max_tokens=20, overlap_tokens=4)

    parts = [text[each.start : each.end] for each in Splitter(chosen, tokenizer).split(text)]

    assert all(len(part.encode()) <= 20 for part in parts)
    assert all(
        word in {"one", "twenty", "three", "é"} or set(word) == {"x"}
        for part in parts
        for word in part.split()
    )
    assert "x" * 16 in "".join(parts)


def test_a_pattern_begins_chunks_and_stays_in_them():
    text = "Preamble.\n§ 1 Grain is ground.\n§ 2 Bread is not.\n"

    assert texts(text, "plain", method="regex", pattern=r"^§ \d+") == [
        "Preamble.",
        "§ 1 Grain is ground.",
        "§ 2 Bread is not.",
    ]


@pytest.mark.parametrize("method", ["paragraph", "semantic", "sentence"])
def test_what_is_too_short_is_joined_with_what_follows(method):
    chunks = texts(MANUAL, method=method, min_tokens=25, max_tokens=60)

    assert all(25 <= tokens(chunk) <= 60 for chunk in chunks)
    assert " ".join(chunks).split() == MANUAL.split()


@pytest.mark.parametrize("method", ["paragraph", "semantic"])
def test_tables_and_code_are_whole_where_they_fit(method):
    chunks = texts(MANUAL, method=method, max_tokens=40)

    assert all(tokens(chunk) <= 40 for chunk in chunks)
    table = "| day | from | to   |\n|-----|------|------|\n| Mon | nine | noon |"
    assert any(table in chunk for chunk in chunks)
    assert any("```\nprice = sacks * 2\n```" in chunk for chunk in chunks)


def test_a_section_too_long_is_divided_between_its_paragraphs_then_sentences():
    long = "# A\n\n" + "One two three. " * 4 + "\n\n" + "Four five six. " * 4 + "\n"

    assert texts(long, max_tokens=20) == [
        "# A\n\n" + ("One two three. " * 4).strip(),
        ("Four five six. " * 4).strip(),
    ]
    assert all(chunk.endswith(".") for chunk in texts(long, max_tokens=10))
    assert (
        texts("# A heading of many words\n\nOne two three.", max_tokens=8)[0] == "# A heading of many words"
    )


def test_a_chunk_knows_its_page():
    text = "First page.\n\nSecond page.\n\nThird."
    pages = (0, text.index("Second"), text.index("Third"))
    found = Splitter(SplitSettings(method="paragraph", min_tokens=0)).split(text, "plain", pages)

    assert [each.page for each in found] == [1, 2, 3]


@pytest.mark.parametrize("method", ["paragraph", "sentence", "chunk", "semantic", "regex"])
@settings(max_examples=60, deadline=None)
@given(
    text=st.text(alphabet="ab é😀#=-`|.!\n\r\t ", max_size=300),
    markup=st.sampled_from(["plain", "markdown", "rst"]),
    least=st.integers(0, 8),
)
def test_chunks_are_never_too_long_and_no_word_is_lost(method, text, markup, least):
    pattern = "#" if method == "regex" else None
    chosen = SplitSettings(method=method, pattern=pattern, min_tokens=least, max_tokens=8, overlap_tokens=2)
    found = Splitter(chosen).split(text, markup)

    assert [each.start for each in found] == sorted(each.start for each in found)
    assert all(text[each.start : each.end].strip() for each in found)
    inside = {place for each in found for place in range(each.start, each.end)}
    assert not any(text[place].isalnum() for place in range(len(text)) if place not in inside)
    if method != "chunk":
        assert all(a.end <= b.start for a, b in itertools.pairwise(found))


def test_an_empty_text_has_no_chunks():
    assert split("", "plain") == split(" \n\n", "markdown") == []
