"""Rows in tables of text: where the header is, what parts the columns, and what a refusal says."""

import pytest

from lorad import samples
from lorad.config import InboxSettings
from lorad.errors import SampleError

ROWS = {"Where does it leave from?": "Pier 4, below the market.", "Who repairs the bell?": "Tove."}


@pytest.fixture
def read(tmp_path):
    def read(content, name="a.csv", **limits):
        path = tmp_path / name
        path.write_text(content, newline="")
        return samples.read(path, InboxSettings(**limits))

    return read


@pytest.fixture
def refused(read):
    def refused(content, name="a.csv"):
        with pytest.raises(SampleError) as caught:
            read(content, name)
        return caught.value

    return refused


def answers(reading):
    return {example.question[-1]["content"]: example.answer for example in reading.examples}


def table(delimiter, header=("question", "answer"), end="\n"):
    rows = [header, *(tuple(f'"{cell}"' for cell in row) for row in ROWS.items())]
    return "".join(delimiter.join(row) + end for row in rows)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("said", "delimiter"),
    [
        ("sep=;", ";"),
        ("SEP=,", ","),
        ("sep=|", "|"),
        ('"sep=;"', ";"),
        ("sep=\t", "\t"),
        (r"sep=\t", "\t"),
        ("sep=^", "^"),
    ],
)
def test_case_17_a_first_line_may_say_what_parts_columns(read, said, delimiter, end, name):
    reading = read(said + end + table(delimiter, end=end), name)

    assert answers(reading) == ROWS
    assert [example.line for example in reading.examples] == [3, 4]


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a"])
def test_case_17_a_pipe_parts_columns(read, name):
    assert answers(read("question|answer\nWhere?|Pier 4, below.\n", name)) == {"Where?": "Pier 4, below."}
    assert answers(read("Question | Answer\nWhere? | Pier 4\n", name)) == {"Where?": "Pier 4"}


@pytest.mark.parametrize(
    "above",
    [
        ["Frequently asked questions"],
        ["Frequently asked questions,"],
        ["Frequently asked questions,,", ""],
        ["Asked at the pier, in May"],
        ["FAQ", "", "  ", "# by Ann, and Tove"],
        ['"Our ""FAQ"""'],
    ],
)
def test_case_17_a_title_above_the_columns_names_is_passed_over(read, above):
    reading = read("\n".join([*above, table(",")]))

    assert answers(reading) == ROWS
    assert [example.line for example in reading.examples] == [len(above) + 2, len(above) + 3]


@pytest.mark.parametrize("above", ["Where?,Pier 4", "Author,Ann\n"])
def test_case_17_what_may_be_a_row_above_the_columns_names_is_told(refused, above):
    error = refused(f"{above}\n{table(',')}")

    assert error.code == "bad_header"
    assert (
        f"names its columns on line {2 + above.count(chr(10))}, and what stands above may be rows"
        in error.message
    )


def test_case_17_a_text_is_no_table_for_a_word_in_it(refused):
    assert refused("Some notes\n\ntext, url\n\nmore\n", "a.md").code == "plain_text"
    assert refused("Notes\nmessages\n", "a.csv").code == "no_header"


@pytest.mark.parametrize("names", ["Q,A", "q, a", "A,Q"])
def test_case_17_q_and_a_are_question_and_answer(read, names):
    row = "Pier 4,Where?" if names.startswith("A") else "Where?,Pier 4"

    assert answers(read(f"{names}\n{row}\n")) == {"Where?": "Pier 4"}


def test_case_17_q_and_a_beside_others_are_not(refused):
    assert refused("Q,A,B\nx,y,z\n").code == "no_header"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            "What does it cost?,Three crowns, five with a bicycle.",
            'quotes around a cell that holds a comma: "…"',
        ),
        ("What does it cost?", "put quotes around a cell that holds a line break"),
    ],
)
def test_case_17_a_row_of_too_many_or_few_cells_is_told_how(refused, row, sentence):
    error = refused(f"question,answer\n{row}\nx,y\n")

    assert (error.code, error.data["row"]) == ("bad_rows", 2)
    assert sentence in error.message


@pytest.mark.parametrize(
    "text",
    [
        "| question | answer |\n| --- | :-: |\n| Where? | Pier 4 |\n",
        "question | answer\n---|---\nWhere? | Pier 4\n",
        "# FAQ\n\n|question|answer|\n|-|-|\n|Where?|Pier 4|\n",
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.md", "a.txt"])
def test_case_17_a_table_in_markdown_is_refused_by_name(refused, text, name):
    assert "is a table in Markdown; write it as CSV" in refused(text, name).message


def test_case_17_lines_that_end_as_on_old_macs_are_named(refused):
    assert "ends its lines as old Macs did" in refused("question,answer\rx,y\r").message


@pytest.mark.parametrize(
    "names", ["Question,question,Answer", "question,ANSWER,answer ", "question,answer,answer"]
)
def test_case_20_two_columns_of_one_name_are_refused(refused, names):
    error = refused(f"{names}\nWhere?,where,Pier 4\n")

    assert error.code == "bad_header"
    assert "name them apart" in error.message
