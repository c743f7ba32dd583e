"""Suggestions: the line of a sidecar that a refusal shows has the file read."""

import datetime as dt
import json

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader, sidecar, suggestion
from lorad.errors import SampleError

Q, A = "Where does the ferry leave from?", "Pier 4, below the fish market."
OTHER = {"question": "Who repairs the bell?", "answer": "Tove Lindqvist, on Mondays."}
USER, ASSISTANT = {"role": "user", "content": Q}, {"role": "assistant", "content": A}
ROW = {"question": Q, "answer": A}
TAGGED = {"tokens": ["Anna", "sang"], "ner_tags": ["B-PER", "O"]}


def refusal(path, task="chat"):
    with pytest.raises(SampleError) as caught:
        reader.read(path, InboxSettings(), task)
    return caught.value


def written(path, rows):
    path.write_text(rows if isinstance(rows, str) else "\n".join(map(json.dumps, rows)))
    return path


CASES = [
    ("chat", [ROW | {"topic": "ferry", "created_at": "2026-01-02", "score": 0.9}, OTHER]),
    ("chat", [{"Question": Q, "Answer": A, "Categories": "x", "URL": "y"}]),
    ("chat", [ROW | {"Complex_CoT": "Think of the pier."}]),
    ("chat", [ROW | {"reasoning": "Think of the pier.", "system": "Be brief."}]),
    ("chat", [ROW | {"Question": "Who?"}]),
    ("chat", [ROW | {"label": "places"}]),
    ("chat", [{"messages": [USER, ASSISTANT], "timestamp": 5, "tools": [], "system": "Be brief."}]),
    ("chat", [{"dialogue_turns": [USER, ASSISTANT], "topic": "x", "n": 5}]),
    ("chat", [{"Frage": Q, "Antwort": A, "id": 7}]),
    ("chat", [{"question": Q, "reply": A}]),
    ("chat", [{"user's question: all of it": Q, "null": A}]),
    ("chat", [{"question": Q, "context": "Note.", "answers": ["a", "b"], "answer": A}]),
    ("chat", "Frage;Antwort\nA?;a\nB?;b\n"),
    ("chat", "Question,Answer,Topic\nA?,a,x\n"),
    ("chat", "Nr;Frage;Antwort\n1;A?;a\n2;B?;b\n"),
    ("chat", "Antwort\tquestion\na\tA?\n"),
    ("tagging", [TAGGED | {"topic": "x"}]),
    ("tagging", [{"Wörter": ["Anna", "sang"], "Marken": ["B-PER", "O"]}]),
    ("classify", [{"text": "Bread.", "label": "food", "stars": 3}]),
    ("classify", [{"Satz": "Bread.", "Urteil": "food"}]),
    ("classify", [{"text": "Bread.", "label": "food", "labels": ["food", "place"]}]),
    ("retrieval", [{"title": "Ferry", "text": "It leaves.", "topic": "x"}]),
    ("retrieval", [{"url": "a", "Inhalt": "It leaves."}]),
]


@pytest.mark.parametrize(("task", "rows"), CASES)
def test_case_19_the_suggested_sidecar_written_out_reads_the_file(tmp_path, task, rows):
    path = written(tmp_path / ("a.csv" if isinstance(rows, str) else "a.jsonl"), rows)
    error = refusal(path, task)
    line = error.data["sidecar"]
    assert f"write in {path.name}.meta.yaml: {line} " in error.message

    sidecar.path_of(path).write_text(line)
    meta = sidecar.beside(path)
    meta.fit_task(path.name, task)

    reading = reader.read(path, InboxSettings(), task, meta.fields, meta.labels)
    assert reading.examples
    assert not reading.problems


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (
            [
                {
                    "question": "Does it leave?",
                    "answer": True,
                    "passage": "It leaves at noon.",
                    "title": "Ferry",
                }
            ],
            "fields: {question: question, answer: answer, context: passage}",
        ),
        (
            [{"Frage": Q, "Antwort": A, "url": "https://x.example"}],
            "fields: {question: Frage, answer: Antwort}",
        ),
        (CASES[0][1], "fields: {question: question, answer: answer}"),
        (CASES[1][1], "fields: {question: Question, answer: Answer}"),
        (CASES[3][1], "fields: {question: question, answer: answer, system: system}"),
        (CASES[12][1], "fields: {question: Frage, answer: Antwort}"),
        (CASES[13][1], "fields: {question: Question, answer: Answer}"),
        (CASES[15][1], "fields: {question: question, answer: Antwort}"),
    ],
)
def test_case_19_the_line_names_the_files_own_fields(tmp_path, rows, line):
    path = written(tmp_path / ("a.csv" if isinstance(rows, str) else "a.jsonl"), rows)

    assert refusal(path).data["sidecar"] == line


@pytest.mark.parametrize(
    "rows",
    [
        [{"question": Q}],
        [{"question": Q, "answer": ""}],
        [{"messages": [USER, ASSISTANT | {"thoughts": "x"}]}],
        [{"prompt": Q, "chosen": A, "rejected": "No."}],
        [{"prompt": Q, "completion": A, "label": True}],  # without it, what it calls bad would be learned
        [{"Prompt": Q, "Completion": A, "Label": 0}],
        [{"text": "x"}],
        ["x"],
        [ROW | {"topic": "x"}, *({"q": 5} for _ in "abcd")],  # the others would still be bad
        [{"a": Q, "b": A, "c": "x"}],
        [{"x" * 100: Q, "answer": A}],
        [{"title": "Ferry", "mapping": {"a": {"message": 5}}, "current_node": "a", "bad": "x"}],
        [{"title": "Ferry", "mapping": "x", "current_node": "abc"}],
        [{"name": "Ferry", "chat_messages": [{"sender": "bot"}]}],
        [ROW | {"is_correct": False}],
        [ROW | {"isCorrect": "no"}],
        [ROW | {"topic": "x"}, OTHER | {"topic": "x", "is_correct": False}],  # only a later row says so
        [ROW | {"rating": 1}],
        [ROW | {"user_rating": 1}],
        [ROW | {"feedback": "thumbs_down"}],
        [ROW | {"Thumbs": "down"}],
        [ROW | {"quality": "low"}],
        [{"question": Q, "choices": ["Pier 4", "Pier 9"], "answer": 1}],
        [{"question": Q, "A": "Pier 4", "B": "Pier 9", "answer": "A"}],
        [{"question": Q, "option_1": "Pier 4", "option_2": "Pier 9", "answer": 1}],
        [ROW | {"image": "a.png"}],
        [ROW | {"input": "Pier 9"}],
        [{"title": "Ferry", "url": "https://ferry.example"}],
        [{"question": Q, "url": "https://ferry.example"}],
        [{"question": Q, "date": "2026-01-02"}],
        "dog\tHund\ncat\tKatze\ncow\tKuh\n",
        "dog,Hund\nsea gull,Möwe\n",
        "Where is the ferry?,At the pier.\nWho steers?,Tove.\n",
        "5,6\n7,8\n",
    ],
)
def test_case_19_where_no_sidecar_would_help_none_is_shown(tmp_path, rows):
    path = written(tmp_path / ("a.csv" if isinstance(rows, str) else "a.jsonl"), rows)

    error = refusal(path)

    assert "sidecar" not in error.data
    assert "meta.yaml" not in error.message


def test_case_19_a_file_with_a_sidecar_is_told_what_is_wrong_with_it_alone(tmp_path):
    path = written(tmp_path / "a.jsonl", [ROW])

    with pytest.raises(SampleError) as caught:
        reader.read(path, InboxSettings(), fields={"question": "question"})

    assert "meta.yaml" not in caught.value.message


def test_a_sidecar_finds_its_names_in_any_case(tmp_path):
    path = written(tmp_path / "a.jsonl", [{"FRAGE": Q, "Antwort ": A}])

    reading = reader.read(path, InboxSettings(), fields={"question": "Frage", "answer": "Antwort"})

    assert [example.target for example in reading.examples] == [A]


def test_fields_are_only_those_that_read_the_row():
    assert suggestion.fields({"a": "x", "b": "y"}, "chat", lambda _: None) == {"question": "a", "answer": "b"}
    assert suggestion.fields("x", "chat", lambda _: None) is None


def test_case_q03_a_table_of_parquet_with_more_columns_is_suggested_too(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [ROW | {"created_at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "score": 0.5}, OTHER]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path)

    line = refusal(path).data["sidecar"]
    assert line == "fields: {question: question, answer: answer}"

    sidecar.path_of(path).write_text(line)
    assert reader.read(path, InboxSettings(), fields=sidecar.beside(path).fields).rows == 2


FRAGE = {"Frage": Q, "Antwort": A}
ANOTHER = {"Frage": "Who repairs the bell?", "Antwort": "Tove Lindqvist, on Mondays."}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", {"1": FRAGE, "2": ANOTHER}),
        ("a.json", {"Frage": [Q, "Who?"], "Antwort": [A, "Tove."]}),
        ("a.json", {"Frage": {"0": Q, "1": "Who?"}, "Antwort": {"0": A, "1": "Tove."}}),
        ("a.json", {"fragen": [FRAGE, ANOTHER]}),
        ("a.json", {"version": "1", "fragen": [FRAGE, ANOTHER]}),
        ("a.csv", "sep=;\nFrage;Antwort\nWo?;Am Kai\nWer?;Tove\n"),
        ("a.csv", "Häufige Fragen\nFrage;Antwort\nWo?;Am Kai\nWer?;Tove\n"),
        ("a.csv", "Häufige Fragen;\n;\nFrage;Antwort\nWo?;Am Kai\nWer?;Tove\n"),
    ],
)
def test_case_b4_a_sidecar_is_suggested_in_every_shape_that_it_reads(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))

    line = refusal(path).data["sidecar"]
    assert line == "fields: {question: Frage, answer: Antwort}"

    sidecar.path_of(path).write_text(line)
    assert len(reader.read(path, InboxSettings(), fields=sidecar.beside(path).fields).examples) == 2


@pytest.mark.parametrize("text", ["dog\tHund\ncat\tKatze\n", "dog,Hund\ncat,Katze\nthe bird,der Vogel\n"])
def test_case_b1_a_table_without_a_header_loses_no_row_to_a_sidecar(tmp_path, text):
    path = written(tmp_path / "a.csv", text)

    assert "sidecar" not in refusal(path).data
    assert "has no header line" in refusal(path).message
