"""Rows in tables of text: where the header is, what parts the columns, and what a refusal says."""

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.errors import SampleError

ROWS = {"Where does it leave from?": "Pier 4, below the market.", "Who repairs the bell?": "Tove."}


@pytest.fixture
def read(tmp_path):
    def read(content, name="a.csv", **limits):
        path = tmp_path / name
        path.write_text(content, newline="")
        return reader.read(path, InboxSettings(**limits))

    return read


@pytest.fixture
def refused(read):
    def refused(content, name="a.csv"):
        with pytest.raises(SampleError) as caught:
            read(content, name)
        return caught.value

    return refused


def answers(reading):
    return {example.input[-1]["content"]: example.target for example in reading.examples}


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


@pytest.mark.parametrize("sign", [",", ";"])
def test_case_17_a_title_may_stand_above_names_in_any_case(read, sign):
    reading = read(f"My table\nQuestion{sign}Answer\nHow tall?{sign}11 metres\n")

    assert answers(reading) == {"How tall?": "11 metres"}


@pytest.mark.parametrize("above", ["Where?,Pier 4", "Author,Ann\n"])
def test_case_17_what_may_be_a_row_above_the_columns_names_is_told(refused, above):
    error = refused(f"{above}\n{table(',')}")

    assert error.code == "bad_header"
    assert (
        f"names its columns on line {2 + above.count(chr(10))}, and the lines above it may be rows"
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
    assert "has old Mac line endings" in refused("question,answer\rx,y\r").message


@pytest.mark.parametrize(
    "names", ["Question,question,Answer", "question,ANSWER,answer ", "question,answer,answer"]
)
def test_case_20_two_columns_of_one_name_are_refused(refused, names):
    error = refused(f"{names}\nWhere?,where,Pier 4\n")

    assert error.code == "bad_header"
    assert "name them apart" in error.message


# columns without a name, joined tables, stray quotes: cases A1, A7, A4


@pytest.mark.parametrize("header", ["question,answer,", "question,answer,Unnamed: 2", "question,answer, "])
def test_case_17_text_in_a_column_without_a_name_is_no_row_number(refused, read, header):
    error = refused(f"{header}\nWhat is in it?,Salt,pepper and oil\nWho?,Ann,\n")

    assert (error.code, error.data["row"]) == ("bad_rows", 2)
    assert (
        "holds 'pepper and oil' in a column without a name; put quotes around a cell that holds a comma"
        in (error.message)
    )
    assert answers(read(f"{header}\nWho?,Ann,\nHow?,Well, \n")) == {"Who?": "Ann", "How?": "Well"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("question;answer;\nWas?;Eins; zwei\n", "holds a semicolon"),
        ("question,answer,\nWhen?,1,200\n", "holds '200'"),  # a number in the last one is no row number
        (",question,answer\nContext one,a?,b\n", "or name the column"),
        ("Unnamed: 0,question,answer\nContext one,a?,b\n", "'Context one'"),
        ("question,,answer\na?,1,b\n", "holds '1'"),
    ],
)
def test_case_17_no_text_is_lost_with_a_column_without_a_name(refused, text, told):
    assert told in refused(text).message


def test_case_17_row_numbers_need_no_name(read):
    assert answers(read(",question,answer\n0,a?,b\n1.0,c?,d\n,e?,f\n")) == {"a?": "b", "c?": "d", "e?": "f"}


@pytest.mark.parametrize("again", ["question,answer", "\ufeffquestion,answer", '"Question", ANSWER '])
def test_case_17_a_header_of_a_joined_table_is_no_row(read, again):
    reading = read(f"question,answer\na?,b\n{again}\nc?,d\n")

    assert answers(reading) == {"a?": "b", "c?": "d"}
    assert reading.rows == 2
    assert [example.line for example in reading.examples] == [2, 4]


def test_case_17_a_joined_table_of_another_order_is_refused(refused):
    error = refused("question,answer\na?,b\nanswer,question\nd,c?\n")

    assert error.code == "bad_header"
    assert "names its columns again on line 3, in another order" in error.message


STRAY = [
    ['"Rosebud is what\tA sled', "Q2\tA2", 'Disk of 5"\tA3'],
    ['"Rosebud is what\tA sled', 'Disk of 5"\tA3'],
    ['Rosebud is what\t"A sled', 'How wide?\t5"'],
]


@pytest.mark.parametrize(
    ("lines", "delimiter"),
    [
        *((lines, "\t") for lines in STRAY),
        (STRAY[0], ","),
        (STRAY[0], ";"),
        (['a\t"b', "c\td", "e\tf", 'g\t5"'], ","),
    ],
)
def test_case_17_a_row_that_a_stray_quote_takes_in_is_not_lost(refused, lines, delimiter):
    text = "\n".join(["question\tanswer", *lines, "Q?\tA", "R?\tB", ""]).replace("\t", delimiter)
    error = refused(text, "a.tsv")

    assert error.code == "bad_rows"
    assert error.data["rows"][0]["row"] == 2
    rows = "row" if len(lines) == 2 else "rows"
    assert f"a quote takes in {len(lines) - 1} more {rows}, as far as line {1 + len(lines)}" in error.message


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize(
    "answer",
    [
        "Two lines,\nand no more",
        "Mix salt, oil\nand pepper, then stir\nfor ten minutes, or more",
        "def f():\n\treturn 1\n\treturn 2",
        "Here:\nname,age\nAnn,5",
        "1\n2\n3\n4\n5",
        "for a;\nfor b;\nfor c;",
    ],
)
def test_case_17_an_ordinary_answer_of_lines_stays_readable(read, answer, delimiter):
    cells = [("question", "answer"), ("What?", f'"{answer}"'), (f'"{answer}"', "So")]
    reading = read("".join(delimiter.join(row) + "\n" for row in cells))

    assert set(answers(reading).items()) == {("What?", answer), (answer, "So")}
