"""Other wordings of a file's questions: beside a row, in a sidecar, and those that would teach a false fact."""

import json

import pytest

from lorad import wordings
from lorad.config import InboxSettings
from lorad.datasets import other_wordings, reader, sidecar
from lorad.errors import SampleError

Q, A = "Where is the mill?", "By the river."
USER, ASSISTANT = {"role": "user", "content": Q}, {"role": "assistant", "content": A}
ROW = {"question": Q, "answer": A}
FORD = {"question": "Where is the ford?", "answer": "Below the mill."}
INN = {"question": "Where is the inn?", "answer": "By the river."}


def given(example):
    return example.also_asked, example.held_out


@pytest.fixture
def read_beside(tmp_path):
    """Return a way to read rows with a sidecar of wordings beside them."""

    def read_beside(rows, said):
        path = tmp_path / "a.json"
        path.write_text(json.dumps(rows))
        sidecar.path_of(path, sidecar.WORDINGS).write_text(json.dumps(said))
        return reader.read(path, InboxSettings(), held_out=other_wordings.beside(path))

    return read_beside


# beside a row


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        {"instruction": Q, "output": A, "input": ""},
        {"q": Q, "a": A},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"messages": [USER, ASSISTANT]},
        {"messages": [{"role": "user", "content": "Hi"}, ASSISTANT | {"weight": 0}, USER, ASSISTANT]},
    ],
    ids="-".join,
)
@pytest.mark.parametrize(
    ("said", "trained", "tested"),
    [
        ("Mill where?", ("Mill where?",), ()),
        (["Mill where?"], ("Mill where?",), ()),
        (["Mill where?", "The mill?", "Find the mill"], ("Mill where?", "The mill?"), ("Find the mill",)),
        ('["Mill where?", "The mill?"]', ("Mill where?",), ("The mill?",)),
        ("Mill where?\n\n The mill?\n", ("Mill where?",), ("The mill?",)),
        (["Mill where?", "where is the  mill?", "MILL where?"], ("Mill where?",), ()),
        ([], (), ()),
        ("", (), ()),
        (None, (), ()),
    ],
)
def test_a_row_may_have_other_wordings_of_its_question(read, row, said, trained, tested):
    (example,) = read([row | {"Also_asked": said}]).examples

    assert given(example) == (trained, tested)
    assert example.input[-1] == USER


def test_a_row_may_say_itself_what_is_held_out(read):
    rows = [
        ROW | {"also_asked": ["a", "b"], "held_out": ["c"]},
        FORD | {"also_asked": ["d", "e"], "held_out": []},
    ]

    assert list(map(given, read(rows).examples)) == [(("a", "b"), ("c",)), (("d", "e"), ())]


def test_a_context_stands_beside_every_wording(read):
    (example,) = read(
        [{"instruction": Q, "context": "A map.", "response": A, "also_asked": ["Mill?"]}]
    ).examples

    assert (example.input[-1]["content"], example.also_asked) == (f"{Q}\nA map.", ("Mill?\nA map.",))


def test_a_table_has_them_as_json_or_on_lines(read):
    table = f'question,answer,also_asked\n{Q},{A},"[""Mill?"", ""The mill?""]"\n{FORD["question"]},x,"Ford?\nThe ford?"\n'

    found = read(table, "a.csv").examples

    assert list(map(given, found)) == [(("Mill?",), ("The mill?",)), (("Ford?",), ("The ford?",))]


@pytest.mark.parametrize(
    ("row", "field", "told"),
    [
        (ROW | {"also_asked": [f"wording {n}" for n in range(65)]}, "also_asked", "at most 64"),
        (ROW | {"also_asked": ["Mill?", " "]}, "also_asked[1]", "is empty"),
        (ROW | {"also_asked": ["x" * 10_001]}, "also_asked[0]", "more than 10000 characters"),
        (ROW | {"also_asked": {"a": "b"}}, "also_asked", "must be a list of texts"),
        (ROW | {"also_asked": [{"a": "b"}]}, "also_asked[0]", "must be text"),
        (ROW | {"also_asked": ["a\x00b"]}, "also_asked[0]", "NUL"),
        (ROW | {"held_out": [5, None]}, "held_out[1]", "is empty"),
        (
            {"messages": [USER, ASSISTANT, USER, ASSISTANT], "also_asked": ["Mill?"]},
            "also_asked",
            "one learned answer",
        ),
    ],
)
def test_a_wording_that_cannot_be_kept_makes_a_bad_row(refused, row, field, told):
    error = refused([row])

    assert (error.code, error.data["field"]) == ("bad_rows", field)
    assert told in error.message


def test_for_another_task_the_field_is_unknown(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": Q, "label": "where", "also_asked": ["Mill?"]}]))

    with pytest.raises(SampleError, match="also_asked"):
        reader.read(path, InboxSettings(), "classify")


def test_the_wordings_of_rows_that_repeat_a_question_come_together(read):
    rows = [ROW | {"also_asked": ["a", "b"]}, ROW | {"answer": "Gone.", "also_asked": ["b", "c", "d"]}]

    (example,) = read(rows).examples

    assert (example.target, given(example)) == ("Gone.", (("a", "c"), ("b", "d")))


def test_wordings_do_not_change_what_identifies_a_file(read):
    assert read([ROW | {"also_asked": ["a"]}]).digest == read([ROW]).digest


def test_a_wording_that_is_another_rows_question_is_refused(read):
    # whichever row is first, and however it is spelled
    rows = [ROW | {"also_asked": ["where is  the FORD?", "Mill?"]}, FORD, INN | {"also_asked": [Q]}]

    reading = read(rows)

    assert list(map(given, reading.examples)) == [((), ("Mill?",)), ((), ()), ((), ())]
    assert reading.left_out == {f"{other_wordings.IS_ASKED} (row 1, 3)": 2}


def test_a_question_behind_other_messages_is_another_one(read):
    rows = [
        ROW | {"also_asked": ["And now?"]},
        {"question": "And now?", "answer": "x", "system": "Be brief."},
    ]

    assert read(rows).examples[0].also_asked == ("And now?",)


def test_wordings_count_to_what_a_row_may_become(refused):
    row = {
        "instruction": "Q",
        "context": "x" * 900,
        "response": A,
        "also_asked": [f"w{n}" for n in range(20)],
    }

    assert "max_expanded_row_bytes" in refused([row], max_expanded_row_bytes=10_000).message


# beside a file


@pytest.mark.parametrize(
    "said",
    [
        {Q: ["Mill?", "The mill?"], "where is the FORD?": "Ford?"},
        [
            {"instruction": "Mill?", "response": A},
            {"question": "Ford?", "answer": "below the mill."},
            {"instruction": "The mill?", "response": A},
        ],
    ],
    ids=["by question", "by answer"],
)
def test_wordings_beside_a_file_are_held_out(read_beside, said):
    reading = read_beside([ROW, FORD], said)

    assert list(map(given, reading.examples)) == [((), ("Mill?", "The mill?")), ((), ("Ford?",))]
    assert reading.left_out == {}


def test_where_an_answer_is_not_unique_the_order_decides(read_beside):
    rows = [ROW, FORD, INN]
    said = [{"question": wording, "answer": row["answer"]} for wording, row in zip("mfi", rows, strict=True)]

    assert [example.held_out for example in read_beside(rows, said).examples] == [("m",), ("f",), ("i",)]


def test_what_fits_no_row_or_several_is_told_by_its_place(read_beside):
    said = [
        {"question": "Whose?", "answer": A},
        {"question": "Ford?", "answer": FORD["answer"]},
        *({"question": f"What {n}?", "answer": "Nobody knows."} for n in range(12)),
    ]

    reading = read_beside([ROW, FORD, INN], said)

    assert [example.held_out for example in reading.examples] == [(), ("Ford?",), ()]
    assert reading.left_out == {
        f"{other_wordings.FITS_SEVERAL} (entry 1)": 1,
        f"{other_wordings.FITS_NONE} (entry 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, …)": 12,
    }


def test_what_a_row_has_already_or_another_row_asks_is_left_out(read_beside):
    rows = [ROW | {"also_asked": ["Mill?"]}, FORD]

    reading = read_beside(rows, {Q: ["mill?", "Find it", Q], FORD["question"]: [Q, "Ford?"]})

    assert list(map(given, reading.examples)) == [(("Mill?",), ("Find it",)), ((), ("Ford?",))]
    assert reading.left_out == {
        f"{other_wordings.IS_TRAINED} (entry 1)": 2,
        f"{other_wordings.IS_ASKED_BESIDE} (entry 2)": 1,
    }


def test_beyond_what_a_question_may_have_the_rest_is_left_out(read_beside):
    said = [{"question": f"Mill {n}?", "answer": A} for n in range(wordings.MOST + 2)]

    reading = read_beside([ROW], said)

    assert len(reading.examples[0].held_out) == wordings.MOST
    assert list(reading.left_out.values()) == [2]


def test_where_nothing_fits_the_file_is_refused(read_beside):
    with pytest.raises(SampleError, match=r"a\.json\.wordings\.json: none of its 2 entries") as caught:
        read_beside([ROW], {"Who?": ["x"], "When?": ["y"]})

    assert caught.value.code == "wordings"


@pytest.mark.parametrize("said", [{}, []])
def test_a_sidecar_may_be_empty(read_beside, said):
    assert read_beside([ROW], said).rows == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"a": ["x"], "a": ["y"]}', "appears twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b"5", "a list of rows"),
        (b'{"a": {"b": "c"}}', "must be a list of texts"),
        (b'{"a": ["\\ud800"]}', "surrogate"),
        (b'{"\\u0000": ["x"]}', "NUL"),
        (b'[["x"]]', "row 1: must have another wording"),
        (b'[{"question": "x", "answer": "y", "topic": "z"}]', "row 1, 'topic': the field is unknown"),
        (b'[{"question": "x", "answer": ""}]', "row 1, 'answer': is empty"),
        (json.dumps([{"question": "x" * 10_001, "answer": "y"}]).encode(), "more than 10000 characters"),
        (json.dumps({"a": ["x"] * 65}).encode(), "at most 64"),
        (b"[" * 9 + b"]" * 9, "more than 8 levels deep"),
        (b" " * (other_wordings.LARGEST + 1), "more than 16000000 bytes"),
        (b"[" + b"0," * other_wordings.MOST + b"0]", "more than 100000 rows"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_wrong_sidecar_is_refused_and_named(content, told):
    with pytest.raises(SampleError, match=r"a\.json\.wordings\.json") as caught:
        other_wordings.parsed("a.json.wordings.json", content)

    assert caught.value.code == "wordings"
    assert told in caught.value.message
