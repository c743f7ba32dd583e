"""Containers of rows: what tells them apart, where their limits are, and how little memory they take."""

import json
import tracemalloc
import zlib
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.datasets.containers import file_rows, text_file
from lorad.errors import SampleError
from lorad.storage import source, strict_json

DATA = Path(__file__).parents[1] / "data"
Q, A = "Where is the mill?", "By the river."
USER = {"role": "user", "content": Q}
ROW = {"instruction": Q, "output": A}
LINE = json.dumps(ROW) + "\n"


def only(reading):
    assert len(reading.examples) == 1
    return reading.examples[0]


def answers(reading):
    return {example.input[-1]["content"]: example.target for example in reading.examples}


# JSON and JSONL


@pytest.mark.parametrize(
    ("content", "name", "lines"),
    [
        (json.dumps([ROW, {"question": "x", "answer": "y"}]), "a.json", [1, 2]),
        (json.dumps([ROW, {"question": "x", "answer": "y"}], indent=2), "a.json", [1, 2]),
        (json.dumps(ROW), "a.json", [1]),
        (json.dumps(ROW, indent=2), "a.json", [1]),
        (json.dumps(ROW, indent=2) + "\n" + json.dumps({"question": "x", "answer": "y"}), "a.json", [1, 5]),
        (json.dumps({"data": [ROW]}), "a.json", [1]),
        (json.dumps({"examples": [ROW], "version": 1}), "a.json", [1]),
        (json.dumps({"version": [1], "rows": [ROW]}, indent=2), "a.json", [1]),
        (json.dumps({"rows": [ROW], "labels": ["x", "y"], "notes": "more", "prompt": None}), "a.json", [1]),
        (json.dumps({"train": [ROW]}), "a.json", [1]),
        (json.dumps(ROW), "a.jsonl", [1]),
        (LINE + '\n{"question": "x", "answer": "y"}\n', "a.jsonl", [1, 3]),
        (json.dumps(ROW) + '\r\n{"question": "x", "answer": "y"}\r\n', "a.ndjson", [1, 2]),
        (LINE + '{"question": "x", "answer": "y"}\n', "a.JSONL", [1, 2]),
        (LINE + '{"question": "x", "answer": "y"}', "a.json", [1, 2]),
        (" \n" + LINE + '{"question": "x", "answer": "y"}', "a.txt", [2, 3]),
        ("\t" + json.dumps([ROW]), "a.json", [1]),
        ("\ufeff" + json.dumps([ROW]), "a.json", [1]),
        ("\ufeff\r\n" + json.dumps(ROW), "a.jsonl", [2]),
        (json.dumps([ROW]), "a.jsonl", [1]),
        (json.dumps([ROW]), "a.csv", [1]),
        (LINE + LINE.replace("mill", "ford"), "a", [1, 2]),
    ],
)
def test_rows_come_in_a_list_or_one_a_line(read, content, name, lines):
    reading = read(content, name)

    assert [example.line for example in reading.examples] == lines
    assert reading.examples[0].input == [USER]


def test_a_list_may_be_wrapped_in_an_object_that_says_more():
    reading = reader.read(DATA / "wrapped.json", InboxSettings())

    assert answers(reading) == {Q: A, "Where is the ford?": "Below the mill."}
    assert reading.rows == 2


def test_a_line_separator_inside_a_text_does_not_end_its_line(read):
    row = json.dumps({"question": Q, "answer": "one\u2028two\x85three"}, ensure_ascii=False)

    assert only(read(row + "\n", "a.jsonl")).target == "one\u2028two\x85three"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"question": "a", "question": "b", "answer": "c"}', "the key 'question' appears twice"),
        ('{"question": "a", "answer": {"x": 1, "x": 1}}', "the key 'x' appears twice"),
        ('{"question": "a", "answer": NaN}', "NaN is not JSON"),
        ('{"question": "a", "answer": "b", "metadata": [-Infinity]}', "-Infinity is not JSON"),
    ],
)
def test_what_python_would_let_pass_is_a_problem_of_its_row_alone(read, name, bad, message):
    text = LINE + bad + "\n" + LINE.replace("mill", "ford")
    text = text if name == "a.jsonl" else f"[{text.strip().replace(chr(10), ',')}]"

    reading = read(text, name, max_bad_share=0.5)

    assert [example.line for example in reading.examples] == [1, 3]
    assert [(problem.line, problem.message.split(" in one")[0]) for problem in reading.problems] == [
        (2, message)
    ]


@pytest.mark.parametrize("text", ['{\n"a": 1, "a": 2}', '{\n"question": NaN, "answer": "b"}'])
def test_a_single_object_is_as_strict_as_a_row_of_many(refused, text):
    assert refused(text).code == "bad_rows"


@pytest.mark.parametrize(
    ("content", "told"),
    [('{"a":', "before its first row is complete, inside"), ("[{}, {}", "after row 2, inside")],
)
def test_a_file_that_is_cut_off_says_where_it_ends(refused, content, told):
    assert f"ends {told} its list or object" in str(refused(content, "a.json"))


@pytest.mark.parametrize(
    ("content", "name", "code"),
    [
        ("", "a.json", "no_rows"),
        ("", "a.csv", "no_rows"),
        ("[", "a.json", "cut_off"),
        ("[{}", "a.json", "cut_off"),
        ("[{},]", "a.json", "not_json"),
        ("[{}] {}", "a.json", "not_json"),
        ("{\n", "a.json", "cut_off"),
        ("{\n1: 2}", "a.json", "not_json"),
        ('{\n"a" 2}', "a.json", "not_json"),
        ('{\n"a": 2} x', "a.json", "not_json"),
        ("not json", "a.json", "not_json"),
        ("5 5", "a.json", "not_json"),
        ("[" * 100_000, "a.json", "too_deep"),
        ('[{"question": "a", "answer": ' + "9" * 5000 + "}]", "a.json", "bad_rows"),
        ("5", "a.json", "not_rows"),
        ('"text"', "a.json", "not_rows"),
        ("null", "a.json", "not_rows"),
        ("[]", "a.json", "no_rows"),
        ('{"data": []}', "a.json", "no_rows"),
        ("", "a.jsonl", "no_rows"),
        (" \n\n", "a.jsonl", "no_rows"),
        ("{}", "a.json", "bad_rows"),
        ("[[]]", "a.json", "bad_rows"),
        ("x" + LINE, "a.jsonl", "bad_rows"),
        ('{"a": ' + "[" * 100_000 + "\n", "a.jsonl", "bad_rows"),
        ('{"question": "a", "answer": ' + "9" * 5000 + "}", "a.jsonl", "bad_rows"),
        (json.dumps({"data": [ROW], "train": [ROW]}), "a.json", "not_rows"),
        (json.dumps({"data": [ROW]})[:-1] + ', "data": []}', "a.json", "not_rows"),
        (json.dumps({"train": [ROW], "validation": [ROW] * 100_000}), "a.json", "not_rows"),
        (json.dumps({"items": [ROW], "examples": [ROW]}), "a.json", "not_rows"),
        (json.dumps(ROW | {"examples": [{"question": "x", "answer": "y"}]}, indent=1), "a.json", "not_rows"),
        (json.dumps({"data": [ROW], "prompt": "Answer kindly."}), "a.json", "not_rows"),
    ],
)
def test_a_file_without_rows_is_refused(refused, content, name, code):
    assert refused(content, name).code == code


def test_a_broken_list_is_told_with_the_row_and_the_line(refused):
    error = refused('[\n{"question": "a", "answer": "b"},\n{"question": "c" "answer": "d"}\n]')

    assert error.code == "not_json"
    assert error.data["row"] == 2
    assert "row 2: Expecting ',' delimiter (line 3)" in error.message


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_stream_reads_the_same_whatever_the_size_of_its_chunks(size):
    values = [
        {"a": [1, -2.5e10, True, None, ' \\u00e9\\ud83d\\ude00"\\ '.strip()]},
        12,
        "é😀",
        [],
        {},
        1234567,
    ]
    text = json.dumps(values, indent=1).replace("é", "\\u00e9")
    pieces = iter([text[at : at + size] for at in range(0, len(text), size)] + [""] * 9)
    stream = strict_json.Stream(lambda _: next(pieces), 1000)

    found = []
    stream.expect("[")
    sign = ","
    while sign == ",":
        found.append(stream.value())
        sign = stream.expect(",]")
    stream.end()

    assert found == values
    assert stream.passed == len(text)


# tables


@pytest.mark.parametrize(
    ("name", "rows", "lines"),
    [
        (
            "excel.csv",
            [(Q, 'By the river; ask for "Old Ann".'), ("Where is\nthe ford?", "Below the mill.")],
            [2, 3],
        ),
        ("pandas.csv", [(Q, A), ("Name the place.\nIt grinds corn, slowly.", "The mill.")], [2, 3]),
        ("sheet.tsv", [(Q, A), ("Where is the ford?", 'Below the "old" mill, on the left.')], [2, 3]),
        ("messages.csv", [(Q, A)], [2]),
    ],
)
def test_a_table_is_read_as_its_program_wrote_it(name, rows, lines):
    reading = reader.read(DATA / name, InboxSettings())

    assert [(e.input[-1]["content"], e.target) for e in reading.examples] == rows
    assert [example.line for example in reading.examples] == lines
    assert reading.problems == ()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a", "a.json"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_first_row_says_that_it_is_a_table_and_how_it_is_parted(read, name, delimiter):
    reading = read(f"\n question {delimiter}ANSWER\n\nx{delimiter}y\n", name)

    assert answers(reading) == {"x": "y"}
    assert reading.examples[0].line == 4


def test_a_column_without_a_name_is_a_row_number(read):
    assert answers(read("Unnamed: 0,,question,answer\n0,0,x,y\n", "a.csv")) == {"x": "y"}
    assert answers(read("\n \n\t\tquestion\tanswer\n0\t0\tx\ty\n", "a.tsv")) == {"x": "y"}


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ("x,", "answer", "is empty"),
        ("x,y,z", "", "has 3 cells, and there are 2 columns"),
        ("x", "", "has 1 cells"),
        ('"x"x,y', "", "not CSV"),
        ("x\ry,z", "", "not CSV"),
        ("x,\x00", "answer", "NUL"),
        ("x," + "y" * 200, "", "longer than inbox.max_row_bytes (100)"),
        ('x,"y' + "\ny" * 60 + '"', "", "longer than inbox.max_row_bytes (100)"),
    ],
)
def test_a_bad_row_of_a_table_is_told_and_the_next_one_read(read, row, field, message):
    text = f"question,answer\na,b\n{row}\n" + "c,d\n" * 100

    reading = read(text, "a.csv", max_row_bytes=100, max_bad_share=0.9)

    assert answers(reading)["a"] == "b"
    assert answers(reading)["c"] == "d"
    assert (reading.problems[0].line, reading.problems[0].field) == (3, field)
    assert message in reading.problems[0].message


def test_rows_that_are_empty_are_passed_over(read):
    # Given what Excel writes behind the last row, and a line of blanks
    reading = read("question;answer;notes\nx;y;\n;;\n   \n ; ;\nz;w;\n;;", "a.csv")

    assert answers(reading) == {"x": "y", "z": "w"}
    assert (reading.rows, reading.problems) == (2, ())


def test_a_blank_behind_each_comma_is_no_part_of_a_cell(read):
    reading = read('question, "answer"\n"Where, then?", "By the ""old"" mill."\nx, y\n', "a.csv")

    assert answers(reading) == {"Where, then?": 'By the "old" mill.', "x": "y"}


def test_a_blank_that_the_header_does_not_have_is_the_cells_own(read):
    # Given how completions were once written; the second is quoted as the csv module quotes it
    reading = read('prompt,completion\nThe mill, stands.\nSay yes," ""Yes"""\n', "a.csv")

    assert answers(reading) == {"The mill": " stands.", "Say yes": ' "Yes"'}


def test_quotes_behind_such_a_blank_are_not_learned(refused):
    error = refused('question,answer\nx,y\nWhere?, "By the river."\n', "a.csv")

    assert (error.data["row"], error.data["field"]) == (3, "answer")
    assert "a blank before its quotes" in error.message


def swallowing(first, last, delimiter=","):
    """Return a table of 99 rows, of which two have a stray quote."""
    rows = [f"q{number}{delimiter}a{number}" for number in range(2, 101)]
    rows[8], rows[58] = first.replace(",", delimiter), last.replace(",", delimiter)
    return "\n".join([f"question{delimiter}answer", *rows, ""])


@pytest.mark.parametrize(
    ("first", "last", "why"),
    [
        ('q,"opens', "q,a", "the row is longer than inbox.max_row_bytes (400); a quote takes in"),
        ('"Open" is,a', "q,a", None),
        ('"Open is,a', '"Other" is,a', "not CSV: '"),
        ('q,"opens', 'q,closes"', "a quote takes in 50 more rows, as far as line 60; close it, or double"),
        ('q,"opens', 'q closes",a', "has 3 cells, and there are 2 columns; a quote takes in 50 more rows"),
    ],
    ids=["never closed", "in its row", "closed wrongly", "closed", "closed in another column"],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_rows_that_a_stray_quote_takes_in_are_counted(read, first, last, why, delimiter):
    limit = 400 if why and "longer" in why else 10_000

    reading = read(swallowing(first, last, delimiter), "a.csv", max_bad_share=0.9, max_row_bytes=limit)

    assert reading.rows - len(reading.problems) == len(reading.examples)
    assert all("\n" not in answer for answer in answers(reading).values())
    if why is None:
        assert [problem.line for problem in reading.problems] == [10]
        return
    assert len(reading.problems) > 30
    assert reading.problems[0].line == 10
    assert reading.problems[0].message.startswith(why)
    assert (reading.problems[1].line, reading.problems[1].message) == (
        11,
        "lies inside the row that begins on line 10",
    )


def test_rows_with_empty_cells_are_counted_too(refused):
    lines = ["instruction,input,output", 'q,,"opens', *(f"{n},,a" for n in range(3)), 'q,,closes"', "x,,y"]

    assert "5 of 6 rows cannot be used; the first is row 2" in refused("\n".join(lines), "a.csv").message


@pytest.mark.parametrize(
    "lines",
    [
        ["Roses are red,", "violets are blue,", "sugar is sweet,", "and so,", "are you."],
        ["Three cities:", "Paris, France", "Rome, Italy", "Berlin, Germany", "Madrid, Spain", ""],
        ["a,b", "c,d", "e,f"],
        ["def f(a,b):", "return a,b", "", "f(1,2)", "g(1,2)"],
        ["one", "two", "three", "four", "five"],
    ],
)
def test_an_answer_of_several_lines_stays_one(read, lines):
    answer = "\n".join(lines)

    assert answers(read(f'question,answer\nx,"{answer}"\n', "a.csv")) == {"x": answer}


def test_a_column_alone_may_hold_any_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text\n"' + "\n".join(["a line"] * 9) + '"\n')

    assert reader.read(path, InboxSettings(), "retrieval").rows == 1


def test_an_unknown_column_is_told_as_an_unknown_field(refused):
    error = refused("question,answer,antwort\nx,y,z\n", "a.csv")

    assert (error.data["row"], error.data["field"]) == (2, "antwort")


def test_a_cell_may_be_longer_than_pythons_own_limit(read):
    assert len(answers(read(f"question,answer\nx,{'y' * 200_000}\n", "a.csv"))["x"]) == 200_000


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("Where is the mill?,By the river.\n", "no_header"),
        ("frage;antwort\nx;y\n", "no_header"),
        ('"question,answer\nx,y\n', "no_header"),
        ("question,answer,answer\nx,y,z\n", "bad_header"),
        ("question,answer\n", "no_rows"),
        ("question,answer", "no_rows"),
    ],
)
def test_a_table_without_columns_or_rows_is_refused(refused, content, code):
    assert refused(content, "a.csv").code == code


# halves of files


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (LINE * 50 + LINE[:30], "a.jsonl"),
        (LINE * 50 + LINE[:-3], "a.jsonl"),
        (LINE * 50 + "{", "a.json"),
        ("question,answer\n" + "x,y\n" * 50 + "Where is", "a.csv"),
        ("question,answer\n" + "x,y\n" * 50 + 'x,"By the', "a.csv"),
        ("question,answer\n" + "x,y\n" * 50 + 'x,"By the\n', "a.csv"),
    ],
)
def test_half_a_file_is_not_accepted_for_its_good_half(refused, text, name):
    error = refused(text, name)

    assert error.code == "cut_off"
    assert error.data["row"] in {51, 52}


@pytest.mark.parametrize(
    "last", ['{"question": "x", "answer": "y"},', '{"question": "x"; "answer": "y, and a few words more"}']
)
def test_a_last_line_that_is_whole_and_wrong_is_a_bad_row(read, last):
    reading = read(LINE + last, "a.jsonl", max_bad_share=0.6)

    assert [problem.line for problem in reading.problems] == [2]


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        ("half_written.json", "not_json", "is not JSON: row 2"),
        ("latin1.json", "encoding", "is not UTF-8 (byte 19)"),
        ("notes.md", "plain_text", "is plain text"),
    ],
)
def test_a_file_that_is_no_dataset_is_refused(name, code, sentence):
    with pytest.raises(SampleError) as caught:
        reader.read(DATA / name, InboxSettings())

    assert caught.value.code == code
    assert sentence in caught.value.message


# encodings


@pytest.mark.parametrize(
    ("content", "code", "sentence"),
    [
        (json.dumps([ROW]).encode("utf-16-le"), "encoding", "is UTF-16"),
        (json.dumps([ROW]).encode("utf-16-be"), "encoding", "is UTF-16"),
        ("question,answer\nx,y".encode("utf-16")[:-1], "encoding", "is corrupt UTF-16 (truncated data)"),
        ("question,answer\nx,\ud800y\n".encode("utf-16", "surrogatepass"), "encoding", "is corrupt UTF-16"),
        (json.dumps([ROW]).encode("utf-32"), "encoding", "is UTF-32"),
        (b"\x00\x00\x00\x00", "encoding", "is not text"),
        (b"\x00\x01\x00\x00\x00", "encoding", "is not text"),
        (LINE.encode() * 3 + b'{"question": "\xff', "encoding", f"(byte {3 * len(LINE) + 14})"),
        (b"\xef\xbb\xbf[\xff", "encoding", "(byte 4)"),
        (b'["\xc3\xa9", "\xe2\x82', "encoding", "(byte 8)"),
        (b"question,answer\nx,\xe9\n", "encoding", "(byte 18)"),
        (b"PK\x03\x04 and so on", "unknown_format", "a zip archive or an Excel workbook"),
        (b"\x28\xb5\x2f\xfd", "unknown_format", "zstd"),
        (b"%PDF-1.7", "unknown_format", "a PDF"),
        ("Wo ist die Mühle?".encode(), "plain_text", 'write one JSON object per line, such as {"question"'),
    ],
)
def test_what_is_not_utf8_text_is_named(refused, content, code, sentence):
    error = refused(content, "a.txt")

    assert sentence in error.message
    assert error.code == code


@pytest.mark.parametrize("order", ["le", "be"])
@pytest.mark.parametrize("is_packed", [True, False])
def test_case_04b_utf16_is_read_where_its_mark_says_so(read, order, is_packed):
    # Given what Excel calls Unicode text
    text = "\ufeffquestion\tanswer\r\nWo legt die Fähre ab?\tAm Pier 4 \u2013 für 3 €. ⛴😀\r\n"
    content = text.encode(f"utf-16-{order}")

    reading = read(packed(content) if is_packed else content, "a.txt")

    assert answers(reading) == {"Wo legt die Fähre ab?": "Am Pier 4 \u2013 für 3 €. ⛴😀"}
    assert only(reading).line == 2


def test_case_04b_utf16_is_read_in_every_container(read):
    row = {"question": "Wo?", "answer": "Über der Mühle."}
    for name, text in [
        ("a.json", json.dumps([row], ensure_ascii=False)),
        ("a.jsonl", json.dumps(row, ensure_ascii=False) + "\n"),
    ]:
        assert answers(read(text.encode("utf-16"), name)) == {"Wo?": "Über der Mühle."}
    assert answers(reader.read(DATA / "utf16.json", InboxSettings())) == {Q: A}


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_case_04_another_encoding_is_told_with_its_line_and_a_guess(refused, name):
    rows = [["question", "answer"], ["Wo?", "Hier."], ["Wann?", "Um fünf."]]
    text = (
        "\n".join(map(";".join, rows)) if name == "a.csv" else json.dumps(rows, indent=0, ensure_ascii=False)
    )
    content = text.encode("cp1252")
    line = 1 + content[: content.index(b"\xfc")].count(b"\n")

    error = refused(content, name)

    assert error.code == "encoding"
    assert (
        f"is not UTF-8 (byte {content.index(0xFC)}) on line {line}; it looks like Windows-1252"
        in error.message
    )
    assert "in which this byte is 'ü'; save it as UTF-8 (in Excel: CSV UTF-8)" in error.message


@pytest.mark.parametrize(
    "content", ["Где?".encode("koi8-r"), "ここ".encode("shift-jis"), b"mill\x81", b"\xc3"]
)
def test_case_04_what_may_be_anything_is_not_guessed(refused, content):
    assert "looks like" not in refused(b"question,answer\nx," + content, "a.csv").message


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_sign_may_lie_across_two_chunks(tmp_path, size):
    path = tmp_path / "a.json"
    path.write_text("é€😀", encoding="utf-8")

    with source.opened(path) as opened, text_file.opened(opened, InboxSettings()) as text:
        assert "".join(iter(lambda: text.chunk(size), "")) == "é€😀"


# gzip


def packed(*parts):
    """Compress piece by piece, the same at any time of day."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*map(packer.compress, parts), packer.flush()])


@pytest.mark.parametrize("name", ["alpaca.json", "openai.jsonl", "excel.csv"])
def test_a_packed_file_says_the_same_as_the_file(tmp_path, name):
    packed = reader.read(DATA / f"{name}.gz", InboxSettings())

    plain = reader.read(DATA / name, InboxSettings())
    assert list(packed.examples) == list(plain.examples)
    assert replace(packed, examples=()) == replace(plain, examples=())
    # whatever it is called
    other = tmp_path / "other.json"
    other.write_bytes((DATA / f"{name}.gz").read_bytes())
    assert reader.read(other, InboxSettings()).digest == packed.digest


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (packed(LINE.encode() * 100)[:-9], "cut_off"),
        (packed(LINE.encode() * 100)[:20], "cut_off"),
        (packed(LINE.encode())[:-8] + b"\x00" * 8, "damaged"),
        (b"\x1f\x8b\xff\xff and so on", "damaged"),
        (packed(LINE.encode())[:10] + b"\xff" * 50, "damaged"),
        (packed(packed(LINE.encode())), "unknown_format"),
        (packed((DATA / "table.parquet").read_bytes()), "unknown_format"),
        (packed(b""), "no_rows"),
        (packed(b"text"), "no_header"),
    ],
)
def test_a_packed_file_without_rows_is_refused(refused, content, code):
    assert refused(content, "a.csv.gz").code == code


def test_a_file_may_unpack_to_as_much_as_the_limit(read, refused):
    text = (LINE * 3).encode()

    assert read(packed(text), "a.jsonl.gz", max_unpacked_bytes=len(text)).rows == 3
    error = refused(packed(text), "a.jsonl.gz", max_unpacked_bytes=len(text) - 1)
    assert error.code == "too_large_unpacked"
    assert f"inbox.max_unpacked_bytes ({len(text) - 1})" in error.message


@pytest.mark.parametrize(
    ("start", "filling", "code"),
    [
        (b"[", b" ", "too_large_unpacked"),
        (b"", b" ", "too_large_unpacked"),
        (b'{"question": "', b"x", "row_too_long"),
        (b'[{"question": "', b"x", "row_too_long"),
        (b'{\n"question": "', b"x", "row_too_long"),
        (b'{\n"question": [', b"1,", "row_too_long"),
        (b"question,answer\n", b"x", "too_large_unpacked"),
        (b'question,answer\n"', b"x\n", "too_many_rows"),
        (b"[", b"[", "too_deep"),
        (b"[", b"1,", "too_many_rows"),
    ],
)
def test_a_bomb_is_refused_in_little_memory(tmp_path, start, filling, code):
    # Given a few kilobytes that unpack to 32 megabytes
    size = 1 << 25
    path = tmp_path / "a.json.gz"
    path.write_bytes(packed(start, *[filling * (1 << 16)] * (size >> 16)))
    limits = InboxSettings(max_unpacked_bytes=size - 1, max_rows=1000, max_row_bytes=100_000)

    tracemalloc.start()
    try:
        with pytest.raises(SampleError) as caught:
            reader.read(path, limits)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert caught.value.code == code
    assert peak < 1 << 24


# limits


def test_a_file_may_be_as_large_as_the_limit(read, refused):
    text = json.dumps([ROW])

    assert read(text, max_bytes=len(text)).rows == 1
    assert refused(text, max_bytes=len(text) - 1).code == "too_large"


def test_a_file_that_still_grows_has_an_end(tmp_path):
    # Given a writer that goes on after the file was measured
    path = tmp_path / "a.jsonl"
    path.write_text(LINE * 10)
    with source.opened(path) as opened:
        found = file_rows.read(opened, InboxSettings(max_bytes=20 * len(LINE)), lambda _: False)
        path.write_text(LINE * 21)

        with pytest.raises(SampleError) as caught:
            list(found)

    assert caught.value.code == "too_large"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_a_file_may_have_as_many_rows_as_the_limit(read, refused, name):
    pairs = [{"question": str(number), "answer": A} for number in range(3)]
    text = {
        "a.json": json.dumps(pairs),
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in pairs),
        "a.csv": "question,answer\n" + "".join(f"{row['question']},{A}\n" for row in pairs),
    }[name]

    assert read(text, name, max_rows=3).rows == 3
    assert refused(text, name, max_rows=2).code == "too_many_rows"


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_a_row_may_be_as_long_as_the_limit(read, ending):
    row = json.dumps({"question": "a", "answer": "é" * 50}, ensure_ascii=False)
    size = len(row.encode())

    assert read(row + ending, "a.jsonl", max_row_bytes=size).rows == 1
    reading = read(f"{LINE}{row}{ending}", "a.jsonl", max_row_bytes=size - 1, max_bad_share=0.6)
    assert [(problem.line, problem.message) for problem in reading.problems] == [
        (2, f"the row is longer than inbox.max_row_bytes ({size - 1})")
    ]


def test_a_row_of_a_list_may_be_as_long_as_the_limit(read, refused):
    # Given that nobody can tell where a longer one ends without reading it
    row = json.dumps({"question": "a", "answer": "é" * 50}, ensure_ascii=False)
    size = len(row.encode())

    assert read(f"[{row}]", max_row_bytes=size).rows == 1
    error = refused(f"[{LINE},{row}]", max_row_bytes=size - 1)
    assert (error.code, error.data["row"]) == ("row_too_long", 2)
    assert refused(row.replace("{", "{\n"), max_row_bytes=size - 30).code == "row_too_long"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_a_row_may_be_as_deep_as_the_limit(read, name):
    deep = [
        {"question": str(depth), "answer": A, "metadata": json.loads("[" * depth + "]" * depth)}
        for depth in (2, 3)
    ]
    text = json.dumps(deep) if name == "a.json" else "".join(json.dumps(row) + "\n" for row in deep)

    reading = read(text, name, max_depth=3, max_bad_share=0.6)

    assert only(reading).line == 1
    assert reading.problems[0].message == "the row is nested deeper than inbox.max_depth (3)"


def test_a_row_that_can_only_just_be_read_is_a_row_like_any_other(read):
    # Given nesting around the depth where Python's reader gives up
    for depth in range(940, 1000, 2):
        row = json.dumps(ROW)[:-1] + ', "metadata": ' + "[" * depth + "]" * depth + "}\n"

        reading = read(row + '{"question": "x", "answer": "y"}', "a.jsonl", max_bad_share=0.6, max_depth=2000)

        assert len(reading.examples) + len(reading.problems) == 2


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.jsonl.gz"])
def test_memory_is_a_rows_not_a_files(tmp_path, name):
    # Given 10000 rows of a kilobyte, which teach one thing
    row = json.dumps({"question": Q, "answer": "x" * 1000})
    count = 10_000
    text = {
        "a.json": f"[{row}" + f",\n{row}" * (count - 1) + "]",
        "a.csv": "question,answer\n" + f"{Q},{'x' * 1000}\n" * count,
    }.get(name, f"{row}\n" * count)
    path = tmp_path / name
    path.write_bytes(packed(text.encode()) if name.endswith("gz") else text.encode())

    tracemalloc.start()
    try:
        with source.opened(path) as opened:
            found = sum(
                1 for _ in file_rows.read(opened, InboxSettings(), partial(reader._is_header, fields={}))
            )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert found == count
    assert peak < 6 << 20


# Parquet


def test_parquet_is_read_where_pyarrow_is(tmp_path):
    # Given rows of two formats in one table, and one row without an answer
    pytest.importorskip("pyarrow")
    reading = reader.read(DATA / "table.parquet", InboxSettings(max_bad_share=0.5))

    assert answers(reading) == {Q: A, "Where is the ford?": "Below the mill."}
    assert reading.formats == {"question-answer": 1, "openai": 1}
    assert [(problem.line, problem.field) for problem in reading.problems] == [(3, "answer")]
    for limits, code in (
        ({"max_unpacked_bytes": 100}, "too_large_unpacked"),
        ({"max_rows": 2}, "too_many_rows"),
        ({"max_row_bytes": 100}, "bad_rows"),
        ({"max_depth": 2}, "bad_rows"),
    ):
        with pytest.raises(SampleError) as caught:
            reader.read(DATA / "table.parquet", InboxSettings(**limits))
        assert caught.value.code == code
    half = tmp_path / "half.parquet"
    half.write_bytes((DATA / "table.parquet").read_bytes()[:-20])
    with pytest.raises(SampleError, match="is corrupt Parquet"):
        reader.read(half, InboxSettings())


@pytest.mark.skipif(find_spec("pyarrow") is not None, reason="pyarrow is installed")
def test_without_pyarrow_parquet_is_refused_with_the_way_to_get_it():
    with pytest.raises(SampleError) as caught:
        reader.read(DATA / "table.parquet", InboxSettings())

    assert caught.value.code == "needs_pyarrow"
    assert "pip install 'lorad[parquet]'" in caught.value.message
