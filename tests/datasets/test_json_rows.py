"""Rows in JSON: whatever shape a program gives them, they are the same rows, or the reason names the right one."""

import json
import tracemalloc

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.datasets.containers import file_rows
from lorad.errors import SampleError
from lorad.storage import source

FERRY = {"question": "Where does the ferry leave from?", "answer": "Pier 4, below the market."}
BELL = {"question": "Who repairs the bell?", "answer": "Tove Lindqvist, on Mondays."}
TWO = [FERRY, BELL]
BOTH = {row["question"]: row["answer"] for row in TWO}
TURNS = [
    [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}]
    for row in TWO
]


@pytest.fixture
def read(tmp_path):
    def read(content, name="a.json", task="chat", **limits):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False))
        return reader.read(path, InboxSettings(**limits), task)

    return read


@pytest.fixture
def refused(read):
    def refused(content, name="a.json", **limits):
        with pytest.raises(SampleError) as caught:
            read(content, name, **limits)
        return caught.value

    return refused


def answers(reading):
    return {example.input[-1]["content"]: example.target for example in reading.examples}


def lines(reading):
    return [example.line for example in reading.examples]


def column(name):
    return [row[name] for row in TWO]


def a_line(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


# shapes


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    "shape",
    [
        {field: dict(enumerate(column(field))) for field in FERRY},
        {
            field: {str(number): row[field] for number, row in zip((3, 7), TWO, strict=True)}
            for field in FERRY
        },
        {field: column(field) for field in FERRY},
        {"q0": FERRY, "q1": BELL},
        {"0": FERRY, "1": BELL},
        BOTH,
        {"data": {"train": TWO}},
        {"data": {"q0": FERRY, "q1": BELL}, "version": "1.1"},
        {"train": {field: column(field) for field in FERRY}},
        {"dataset": {"questions": TWO}},
        {"questions": TWO},
        {"version": 2, "faq": TWO, "count": 2},
        {"Data": TWO},
        {"train": TWO, "test": []},
        {"columns": list(FERRY), "index": [0, 1], "data": [list(row.values()) for row in TWO]},
        {
            "schema": {"fields": [], "primaryKey": ["index"], "pandas_version": "1.4.0"},
            "data": [{"index": number, **row} for number, row in enumerate(TWO)],
        },
        {"values": [list(FERRY), *(list(row.values()) for row in TWO)]},
        [list(FERRY), *(list(row.values()) for row in TWO)],
        {"first": TURNS[0], "second": TURNS[1]},
        {"messages": TURNS},
        TURNS,
        [json.dumps(row) for row in TWO],
        json.dumps(TWO),
        [json.dumps(FERRY), BELL],
    ],
    ids=lambda shape: json.dumps(shape)[:40],
)
def test_case_14_rows_are_read_in_whatever_shape(read, shape, indent, name):
    assert answers(read(json.dumps(shape, indent=indent), name)) == BOTH


@pytest.mark.parametrize(
    ("shape", "code", "sentence"),
    [
        ({"question": ["a", "b"], "answer": ["c"]}, "bad_rows", "different lengths (question 2, answer 1)"),
        ({"question": ["a", "b"], "answer": ["c"]}, "bad_rows", "to_json(orient='records')"),
        ({"question": {"0": "a"}, "answer": {"1": "b"}}, "bad_rows", "columns with different rows"),
        ({"question": {"x": "a"}, "answer": {"x": "b"}}, "bad_rows", "holds columns, not rows; write a list"),
        (
            {"train": TWO, "test": [BELL]},
            "not_rows",
            'keep one list of rows, the one to learn from, such as {"train"',
        ),
        ({"data": {"train": TWO, "test": [BELL]}}, "not_rows", "(data.train, data.test)"),
        ({"data": {"train": TWO}, "validation": [BELL]}, "not_rows", "(data.train, validation)"),
        (
            [["Where?", "Pier 4"]],
            "bad_rows",
            'is a list without names; write {"question": "…", "answer": "…"}',
        ),
        ([["question", "answer"], ["Where?"]], "bad_rows", "has 1 cells, and there are 2 columns"),
    ],
)
def test_case_14_what_is_in_doubt_is_told_with_the_right_form(refused, shape, code, sentence):
    error = refused(shape)

    assert error.code == code
    assert sentence in error.message


@pytest.mark.parametrize(
    "row",
    [
        {"Full name": "Tove", "Any questions?": "no"},  # a form that somebody filled in
        {"title": "x", "body": "y"},
        {"Where?": "Pier 4"},
        {"Where?": "Pier 4", "Who?": 3},
        {"where": "Pier 4", "who?": "Tove", "why?": "so"},
    ],
)
def test_case_14_a_map_is_answers_under_questions_only_beyond_doubt(refused, row):
    assert refused(row).code == "bad_rows"


@pytest.mark.parametrize(
    ("row", "task", "count"),
    [
        ({"tokens": ["EU", "x"], "ner_tags": ["B-ORG", "O"]}, "tagging", 1),
        ({"tokens": [["EU"], ["x"]], "ner_tags": [["B-ORG"], ["O"]]}, "tagging", 2),
        ({"text": ["a", "b"], "label": ["x", "y"]}, "classify", 2),
        ({"prompt": TURNS[0][:1], "completion": TURNS[0][1:]}, "chat", 1),
        ({"messages": TURNS[0]}, "chat", 1),
        ({"id": 7, "data": {"text": "Ann mills"}, "annotations": [{"result": []}]}, "tagging", 1),
    ],
)
def test_case_14_a_row_with_lists_is_one_row(read, row, task, count):
    assert len(read(row, task=task).examples) == count


def test_case_14_an_object_of_many_rows_that_is_too_long_is_told_how(refused):
    error = refused({"question": ["x" * 50] * 9, "answer": ["y"] * 9}, max_row_bytes=300)

    assert error.code == "row_too_long"
    assert "write one object per line; in pandas: to_json(orient='records', lines=True)" in error.message


@pytest.mark.parametrize(
    "text",
    [
        '{"questions": [' + ",".join([json.dumps(FERRY)] * 20_000) + "]}",
        '{"data": {"train": [' + ",".join([json.dumps(FERRY)] * 20_000) + "]}}",
        '{"columns": ["question", "answer"], "index": ['
        + ",".join(map(str, range(20_000)))
        + '], "data": ['
        + ",".join(['["a", "b"]'] * 20_000)
        + "]}",
        "[\n" + json.dumps(FERRY, indent=1) + (",\n" + json.dumps(FERRY, indent=1)) * 20_000 + "]",
        (json.dumps(FERRY, indent=1) + "\n") * 20_000,
        json.dumps(FERRY) + "\n" + (json.dumps(FERRY, indent=1) + ",\n") * 20_000,
    ],
    ids=["by content", "nested", "split", "list", "pretty", "pretty behind a line"],
)
def test_memory_is_a_rows_in_every_shape(tmp_path, text):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    limits = InboxSettings(max_row_bytes=1000)

    tracemalloc.start()
    try:
        known = set(FERRY)
        with source.opened(path) as file:
            found = file_rows.read(file, limits, lambda names: known <= set(names), own=tuple(known))
            assert sum(isinstance(row, dict) for _, row in found) >= 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 6 << 20


# the dataset viewer


def viewer(cut=(), **more):
    found = [
        {"row_idx": number, "row": row, "truncated_cells": list(cut) if number == 0 else []}
        for number, row in enumerate(TWO)
    ]
    return {"rows": found, **more}


FEATURES = [{"feature_idx": 0, "name": "question", "type": {"dtype": "string", "_type": "Value"}}]


@pytest.mark.parametrize(
    "answer",
    [
        {"features": FEATURES, **viewer(num_rows_total=2, partial=False)},
        viewer(features=FEATURES),
        viewer()["rows"],
    ],
)
def test_case_15_the_dataset_viewers_answer_is_read(read, answer):
    assert answers(read(answer)) == BOTH


def test_case_15_a_cell_that_the_viewer_cut_is_a_bad_row(read):
    reading = read(viewer(["answer"], features=FEATURES), max_bad_share=0.6)

    assert answers(reading) == {BELL["question"]: BELL["answer"]}
    assert [(problem.line, problem.field) for problem in reading.problems] == [(1, "answer")]
    assert "was cut by the dataset viewer" in reading.problems[0].message


# one after another


PRETTY = [json.dumps(row, indent=2) for row in TWO]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "a.txt", "a"])
@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("\n".join(PRETTY), [1, 5]),
        ("\n\n".join(PRETTY) + "\n", [1, 6]),
        (",\n".join(PRETTY), [1, 5]),
        (",\n".join(PRETTY) + ",\n", [1, 5]),
        (",\n".join(map(json.dumps, TWO)) + "\n", [1, 2]),
        (",\n".join(map(json.dumps, TWO)) + ",\n", [1, 2]),
        (json.dumps(FERRY) + "\n" + PRETTY[1] + "\n", [1, 2]),
        (PRETTY[0] + "\n" + json.dumps(BELL), [1, 5]),
        (json.dumps(FERRY) + "\n" + json.dumps([BELL]) + "\n", [1, 2]),
        (json.dumps(FERRY) + "\n" + json.dumps([BELL], indent=2) + "\n", [1, 2]),
        (PRETTY[0] + "\n" + json.dumps([BELL], indent=2) + "\n", [1, 5]),
        (a_line(*TURNS), [1, 2]),
        (a_line(*map(json.dumps, TWO)), [1, 2]),
        (a_line([FERRY], [BELL]), [1, 2]),
        (a_line(list(FERRY), *(list(row.values()) for row in TWO)), [2, 3]),
        (a_line(FERRY) + "\ufeff" + a_line(BELL), [1, 2]),
    ],
)
def test_case_16_values_one_after_another_are_read_by_content(read, name, text, numbers):
    reading = read(text, name)

    assert answers(reading) == BOTH
    assert lines(reading) == numbers


def test_case_16_a_conversation_may_be_the_whole_file(read):
    assert answers(read(TURNS[0])) == {FERRY["question"]: FERRY["answer"]}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_case_16_problems_tell_the_line_on_which_a_row_begins(read, name):
    text = "\n".join(
        [*PRETTY, '{\n "question": "x",\n "answer": ""\n}', json.dumps({"question": "z", "answer": "w"})]
    )

    reading = read(text, name, max_bad_share=0.5)

    assert lines(reading) == [1, 5, 13]
    assert [(problem.line, problem.message) for problem in reading.problems] == [(9, "is empty")]


@pytest.mark.parametrize(
    ("half", "at"),
    [
        ('{"question": "x", "answer":', "start"),
        ('{"question": "x", "answer":', "middle"),
        ('{"question": "x", "ans', "start"),
        ('{"question": "x", "messages": [{"role": "user",', "middle"),
    ],
)
def test_case_16_half_a_line_takes_no_other_line_with_it(read, half, at):
    text = half + "\n" + a_line(*TWO, {"question": "z", "answer": "w"})
    text = a_line({"question": "a", "answer": "b"}) + text if at == "middle" else text

    reading = read(text, "a.jsonl", max_bad_share=0.6)

    assert BOTH.items() <= answers(reading).items()
    assert [problem.line for problem in reading.problems] == [1 if at == "start" else 2]


def test_case_16_lists_without_names_are_told_how_to_name_them(refused):
    error = refused(a_line(*(list(row.values()) for row in TWO)), "a.jsonl")

    assert (error.code, error.data["row"]) == ("bad_rows", 1)
    assert 'is a list without names; write {"question": "…", "answer": "…"}' in error.message


# what is not JSON


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    ("bad", "advice"),
    [
        (
            "{'question': 'Where?', 'answer': 'Pier 4, below.'}",
            "how Python prints a value; write it with json.dumps",
        ),
        ('{"question": "Is it so, really?", "answer": True}', "how Python prints a value"),
        ('{"question": "Where?", "answer": "Pier 4", }', "remove the comma before }"),
        ('{question: "Where?", answer: "Pier 4"}', "write the name of a field in double quotes"),
        ('{"question": "Where?", /* ferry */ "answer": "Pier 4"}', "JSON has no comments; remove it"),
        ('{"question": "Where?", "answer": "Pier 4,\nbelow the market."}', "a line break inside"),
        (
            '{"question": "Where?", "answer": "Pier\t4, below the market."}',
            r"a tab inside a string must be written \t",
        ),
        (
            '{"question": "Where is the log?", "answer": "C:\\ferry\\logs\\xray"}',
            r"doubled: C:\\ferry\\logs\\xray",
        ),
        (
            '{"question": "Where?", "answer": "say "Pier 4" loudly"}',
            r"a quote inside a string is not written \"",
        ),
        ("{\u201cquestion\u201d: \u201cWhere?\u201d}", "the quotes are typographic"),
        ('{"question": "Where?", "answer": undefined}', "undefined is JavaScript's; write null"),
    ],
)
def test_case_16_a_refusal_names_the_true_reason_and_the_way(refused, name, bad, advice):
    text = f"[{json.dumps(FERRY)},\n{bad}]" if name == "a.json" else a_line(FERRY) + bad + "\n"

    error = refused(text, name)

    assert advice in error.message
    if name == "a.json":
        assert "row 2: " in error.message
        assert "(line 2)" in error.message
    else:
        assert error.data["row"] == 2


def test_case_16_a_comma_before_the_end_of_a_list_is_told(refused):
    error = refused("[\n" + ",\n".join(map(json.dumps, TWO)) + ",\n]")

    assert error.code == "not_json"
    assert "Expecting value (line 4); remove the comma before ]" in error.message


def test_case_16_a_comment_first_is_told(refused):
    assert "JSON has no comments" in refused('// ferry\n[{"question": "x", "answer": "y"}]').message


# names


@pytest.mark.parametrize("names", [("Question", "Answer"), (" question", "ANSWER "), ("Q", "A"), ("q", "a")])
def test_case_20_names_are_matched_without_regard_to_case(read, names):
    renamed = [dict(zip(names, row.values(), strict=True)) for row in TWO]

    for content, name in [(renamed, "a.json"), (a_line(*renamed), "a.jsonl")]:
        assert answers(read(content, name)) == BOTH
    assert answers(read({name: [row[name] for row in renamed] for name in names})) == BOTH


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_case_20_two_names_that_differ_in_case_alone_are_a_bad_row(read, name):
    bad = {"Question": "Where?", "question": "where", "Answer": "Pier 4"}
    text = [bad, *TWO] if name == "a.json" else a_line(bad, *TWO)

    reading = read(text, name, max_bad_share=0.5)

    assert answers(reading) == BOTH
    assert [(problem.line, problem.field) for problem in reading.problems] == [(1, "question")]
    assert "conflicts with Question" in reading.problems[0].message


# Parquet


def parquet(path, table, **options):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq  # noqa: PLC0415 - optional

    pq.write_table(table, path, **options)
    return reader.read(path, InboxSettings())


def test_case_20_parquet_is_read_by_the_same_rules(tmp_path):
    pa = pytest.importorskip("pyarrow")
    questions = pa.array(column("question")).dictionary_encode()
    found = pa.array(column("answer"), pa.large_string())

    reading = parquet(tmp_path / "a", pa.table({"Question": questions, "ANSWER": found}), compression="zstd")

    assert answers(reading) == BOTH


def test_case_20_parquet_with_a_name_twice_is_refused(tmp_path):
    pa = pytest.importorskip("pyarrow")
    for names in (["Question", "question", "answer"], ["question", "answer", "answer"]):
        table = pa.table([pa.array(["x"])] * 3, names=names)

        with pytest.raises(SampleError) as caught:
            parquet(tmp_path / "a", table)

        assert caught.value.code == "bad_header"
        assert "name them apart" in caught.value.message


def test_case_14_names_that_stand_in_a_list_once_more_are_no_row(read):
    reading = read(
        a_line(["question", "answer"], list(FERRY.values()), ["Question", "answer"], list(BELL.values()))
    )

    assert answers(reading) == BOTH
    assert reading.rows == 2


# numbers, and ends: cases A10, C5, D6


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    "number", ["19.90", "1e3", "1E400", "12345678901234567.5", "-0.0", "3", "12345678901234567890"]
)
def test_case_20_a_number_keeps_how_it_was_written(read, number, name):
    row = f'{{"question": "How much?", "answer": {number}}}'

    assert answers(read(f"[{row}]" if name == "a.json" else row + "\n", name)) == {"How much?": number}


def test_case_20_a_short_float_of_parquet_is_the_number_that_was_meant(tmp_path):
    pa = pytest.importorskip("pyarrow")
    meant = [19.9, 0.1, 1e-45, 3.4028235e38, 20.0]
    table = pa.table({"question": [f"{n}?" for n in meant], "answer": pa.array(meant, pa.float32())})
    reading = parquet(tmp_path / "a.parquet", table)

    assert [example.target for example in reading.examples] == [
        "19.9",
        "0.1",
        "1e-45",
        "3.4028235e+38",
        "20.0",
    ]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_case_c5_a_number_of_too_many_digits_is_told_in_our_words(refused, name):
    error = refused(f'{{"question": "How much?", "answer": {"7" * 5000}}}\n{json.dumps(FERRY)}\n', name)

    assert "a number has more than 4300 digits; put quotes around it" in error.message
    assert "sys." not in error.message


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(TWO)[:-1],
        json.dumps(TWO)[:-1] + ",",
        json.dumps(TWO, indent=1)[:-2],
        '{"data": [' + json.dumps(FERRY),
    ],
)
def test_case_16_a_list_that_ends_behind_a_row_is_cut_off(refused, text):
    error = refused(text)

    assert error.code == "cut_off"
    assert "the rest of the file is missing" in error.message


@pytest.mark.parametrize("end", ["Done.", "Done.\n", "total 2"])
def test_case_16_words_behind_a_list_are_no_half_of_a_row(read, refused, end):
    reading = read(f"{json.dumps(TWO)}\n{end}", "a.jsonl", max_bad_share=0.5)

    assert answers(reading) == BOTH
    assert [problem.line for problem in reading.problems] == [2]
    assert "half of the file" not in refused(f"{json.dumps(TWO, indent=1)}\n{end}").message


@pytest.mark.parametrize("end", ["tru", "-", "1.", "2e", '"Pi', "", "[", '"x"'])
def test_case_16_a_last_row_that_is_half_of_one_is_cut_off(refused, end):
    assert refused(a_line(*TWO) + '{"question": "Who?", "answer": ' + end, "a.jsonl").code == "cut_off"


# what stands around rows: cases A2, D1, D5


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    ("key", "rows"),
    [
        ("context", {"questions": TWO}),
        ("Passage", {"data": TWO}),
        ("system", {"data": TWO}),
        ("system_prompt", {"examples": TWO}),
        ("systemPrompt", {"faq": TWO}),
        ("instructions", {"rows": TWO}),
        ("text", {"data": {"q0": FERRY, "q1": BELL}}),
        ("system", {"train": {field: column(field) for field in FERRY}}),
        ("context", {"dataset": {"questions": TWO}}),
        ("system", {"data": [TURNS[0]]}),
        ("tools", {"data": [TURNS[0]]}),
    ],
)
def test_case_14_what_belongs_to_rows_and_stands_beside_them_is_not_lost(refused, key, rows, is_first):
    said = {key: "Anna lives in Rome."}
    error = refused(said | rows if is_first else rows | said)

    assert error.code == "not_rows"
    assert f"holds {key} beside its rows" in error.message


def test_case_14_it_may_stand_in_a_frame(refused):
    assert "data.context beside" in refused({"data": {"context": "Rome.", "questions": TWO}}).message


@pytest.mark.parametrize(
    "beside", [{"context": ""}, {"system": None}, {"tools": []}, {"description": "By Ann."}]
)
def test_case_14_what_says_nothing_about_rows_may_stand_beside_them(read, beside):
    assert answers(read(beside | {"data": TWO})) == BOTH


@pytest.mark.parametrize("key", ["role", "from"])
def test_case_14_rows_with_a_role_are_no_conversation(refused, key):
    rows = [{key: "doctor", **row} for row in TWO]

    assert refused(rows).data["sidecar"] == "fields: {question: question, answer: answer}"
    assert len(refused(rows).data["rows"]) == len(TWO)


@pytest.mark.parametrize("frame", [lambda whole: whole, lambda whole: {"result": whole}])
def test_case_14_names_may_stand_behind_the_cells(read, frame):
    split = {"data": [list(row.values()) for row in TWO], "index": [0, 1], "columns": list(FERRY)}

    assert answers(read(frame(split))) == BOTH


# other files: cases D7, D8


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_case_16_lines_may_end_as_on_old_macs(read, name):
    assert answers(read(a_line(*TWO).replace("\n", "\r"), name)) == BOTH


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\x89PNG\r\n\x1a\n\x00\x00", "a picture"),
        (b"\xff\xd8\xff\xe0", "a picture"),
        (b"\x80\x04\x95\x10\x00", "a pickle of Python"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "git lfs pull"),
        (b'<?xml version="1.0"?>\n<faq><q>a</q></faq>', "is XML"),
        (b"<faq>\n<q>a</q>\n</faq>\n", "is XML"),
        (b"<!DOCTYPE html><p>x", "a web page"),
        (b"- question: Where?\n  answer: Pier 4\n", "is YAML"),
        (b"---\n- question: Where?\n", "is YAML"),
        (b"rows:\n  - question: Where?\n", "is YAML"),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt", "a"])
def test_case_d7_what_is_no_table_is_named(tmp_path, content, told, name):
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(SampleError) as caught:
        reader.read(path, InboxSettings())

    assert told in caught.value.message


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Where?", "answer": "x" * 1_100_000},
        {"messages": [{"role": "user", "content": "x" * 1_100_000}]},
    ],
)
def test_case_d8_a_first_line_that_is_too_long_is_one_bad_row(read, row):
    reading = read(a_line(row, *TWO), "a.jsonl", max_bad_share=0.5)

    assert answers(reading) == BOTH
    assert [(problem.line, "is longer than" in problem.message) for problem in reading.problems] == [
        (1, True)
    ]


def test_case_d8_one_long_object_of_rows_is_still_read_by_content(read):
    text = json.dumps(
        {"version": 1, "data": [*TWO, *({"question": f"{n}?", "answer": "x" * 1000} for n in range(1100))]}
    )

    assert len(read(text, "a.jsonl").examples) == 1102
