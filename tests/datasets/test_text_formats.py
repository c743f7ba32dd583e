"""Sentences in columns and documents: where they begin and end, and how long they may be."""

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.errors import SampleError


@pytest.fixture
def read(tmp_path):
    def read(text, name="a.txt", task="tagging", **limits):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return reader.read(path, InboxSettings(**limits), task)

    return read


@pytest.fixture
def refused(read):
    def refused(*given, **limits):
        with pytest.raises(SampleError) as caught:
            read(*given, **limits)
        return caught.value

    return refused


def texts(reading):
    return [(example.line, example.input) for example in reading.examples]


# columns


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a O\nb O\n\nc O\n", [(1, "a b"), (4, "c")]),
        ("a O\nb O", [(1, "a b")]),
        ("a\tX\tO\r\n\r\n\r\nb\tX\tO\r\n", [(1, "a"), (4, "b")]),
        ("a  NN   O \n \t\nb NN O\n", [(1, "a"), (3, "b")]),
        ("-DOCSTART- -X- O O\n\na NN B-NP O\n", [(3, "a")]),
        ("# text = a\na O\n", [(2, "a")]),
        ("# id 7\n\na O\n", [(3, "a")]),
        ("a O\n# O\n", [(1, "a #")]),  # inside a sentence it is a word
        ("a O\n\n# O\n", [(1, "a"), (3, "#")]),
        ("a O\n\n# one two O\nb O\n", [(1, "a"), (4, "b")]),  # as wide as no other line
        ("[ O\na O\n", [(1, "[ a")]),
        ("{ O\na O\n", [(1, "{ a")]),
        ("Mill Lane\tB-LOC\n", [(1, "Mill Lane")]),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.conll", "a.bio", "a.tsv", "a"])
def test_a_blank_line_ends_a_sentence(read, text, expected, name):
    assert texts(read(text, name)) == expected


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("b O X", "tokens", "line 3 has 3 columns, and the first one has 2"),
        ("b PER", "tags", "line 3 ends with 'PER', which is no tag"),
        ("b O\nc PER\nd O", "tags", "line 4 ends with 'PER'"),
        ("b " + "x" * 200 + " O", "", "longer than inbox.max_row_bytes (100)"),
        ("b O\n" * 60, "", "longer than inbox.max_row_bytes (100)"),
    ],
)
def test_a_bad_sentence_is_told_and_the_next_one_read(read, text, field, message):
    reading = read(f"a O\n\n{text}\n\nz O\n", max_row_bytes=100, max_bad_share=0.5)

    assert [question for _, question in texts(reading)] == ["a", "z"]
    (problem,) = reading.problems
    assert (problem.line, problem.field) == (3, field)
    assert message in problem.message


@pytest.mark.parametrize(
    "text", ["The mill stands by the river.", "The O\nmill PER", "a\n\nb\n", "# a comment\n"]
)
def test_text_without_tags_is_not_taken_for_sentences(refused, text):
    error = refused(text, max_bad_share=0.1)

    assert error.code == ("bad_rows" if "PER" in text else "no_rows" if "#" in text else "plain_text")


def test_half_a_file_is_not_accepted_for_its_good_half(refused):
    error = refused("a NN O\n\nb NN O\nc N")

    assert (error.code, error.data["row"]) == ("cut_off", 4)


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl"])
def test_columns_under_another_formats_name_are_not_taken(refused, name):
    assert refused("a O\nb O\n", name).code in {"no_header", "not_json", "bad_rows"}


# documents


@pytest.mark.parametrize(
    ("text", "name", "title"),
    [
        ("# The mill\nIt grinds.", "a.md", "The mill"),
        ("It grinds.\n\n### The mill ###\n", "a.markdown", "The mill"),
        ("The mill\n========\n\nIt grinds.", "a.md", "The mill"),
        ("========\nThe mill\n========\n\nIt grinds.", "a.rst", "The mill"),
        ("```\n# no\n```\n# The mill\n", "a.md", "The mill"),
        ("~~~~\n~~~\n# no\n~~~~\n# The mill\n", "a.md", "The mill"),
        ("#\n#hash\n# The mill\n", "a.md", "The mill"),
        ("It grinds.", "a.md", "a"),
        ("# The mill\n", "a.txt", "a"),
        ("[link](https://example.org) {x}", "a.md", "a"),
        ("[[The mill]]", "a.md", "a"),
        ("{curly}", "a.txt", "a"),
        ("text", "a.txt", "a"),
        ("It grinds.", "README", "README"),
    ],
)
def test_a_document_has_its_first_headings_or_its_files_name(read, text, name, title):
    (example,) = read(text, name, "retrieval").examples

    assert example.input == {"title": title, "source": name}
    assert example.target == text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"text": "x"}\n', "a.txt"),
        ('[\n{"text": "x"}]', "a.md"),
        ("title,text\nt,x\n", "a.txt"),
        ("text\nx\n", "a.tsv"),
    ],
)
def test_rows_are_rows_under_any_name(read, text, name):
    reading = read(text, name, "retrieval")

    assert (reading.formats, reading.examples[0].target) == ({"document": 1}, "x")


@pytest.mark.parametrize("name", ["a.py", "a.log", "a.css"])
def test_other_text_is_no_document(refused, name):
    error = refused("It grinds.", name, "retrieval")

    assert error.code == "plain_text"
    assert "only .txt, .md, .rst and .html are taken for documents" in error.message


def test_a_document_may_be_as_long_as_the_limit(read, refused):
    text = "é" * 50

    assert read(text, "a.txt", "retrieval", max_row_bytes=100).examples[0].target == text
    error = refused(text, "a.txt", "retrieval", max_row_bytes=99)
    assert error.code == "row_too_long"
    assert "inbox.max_row_bytes (99)" in error.message


def test_a_file_may_have_a_name_that_is_no_text(read):
    (example,) = read("It grinds.", "m\udcfchle.txt", "retrieval").examples

    assert example.input == {"title": "m?hle", "source": "m?hle.txt"}
    assert len(example.id) == 64


def test_a_document_that_is_not_text_is_named(refused):
    assert refused(b"It grinds.\xff", "a.txt", "retrieval").code == "encoding"
    assert refused("It grinds\x00.", "a.txt", "retrieval").code == "bad_rows"
