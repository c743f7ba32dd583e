"""Bounds are on what a row becomes, whatever it is in its file: in every reader, for every task."""

# ruff: noqa: UP031 - what is written holds braces

import json
import tracemalloc

import pytest

from lorad.config import InboxSettings
from lorad.datasets import reader
from lorad.errors import SampleError

Q, A = "Where is the mill?", "By the river."
PAIR = {"question": Q, "answer": A}
USER = {"role": "user", "content": Q}
HALF = InboxSettings(max_bad_share=0.9)


@pytest.fixture
def read(tmp_path):
    def read(content, name="a.jsonl", task="chat", labels=(), **limits):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return reader.read(path, HALF.model_copy(update=limits), task, labels=labels)

    return read


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def bad(reading):
    """Return what the only bad row of a file is told; the row beside it was read."""
    (problem,) = reading.problems
    assert len(reading.examples) == 1
    return problem.message


def peak_of(call):
    tracemalloc.start()
    try:
        found = call()
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def chat(count):
    return [{"role": ("user", "assistant")[at % 2], "content": f"turn {at}"} for at in range(count)]


def squad(count):
    asked = [{"question": f"q{at}?", "answers": [{"text": "a"}]} for at in range(count)]
    return {"paragraphs": [{"context": "c" * 100 * count, "qas": asked}]}


def batch(count):
    said = {"choices": [{"message": {"role": "assistant", "content": A}, "finish_reason": "stop"}]}
    return {"custom_id": "1", "body": {"messages": chat(count)}, "response": {"body": said}}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": chat(1500)},
        {"messages": json.dumps(chat(1500))},
        {"conversations": [{"from": ("human", "gpt")[at % 2], "value": "x"} for at in range(1500)]},
        {"prompt": chat(1), "completion": chat(1500)[1:]},
        squad(600),
    ],
    ids=["messages", "text", "sharegpt", "completion", "squad"],
)
def test_a10_a_row_that_becomes_too_many_examples_is_told_to_be_split(read, row):
    reading, peak = peak_of(lambda: read(lines(row, PAIR), max_expanded_row_bytes=4_000_000))

    assert "exceed inbox.max_expanded_row_bytes (4000000)" in bad(reading)
    assert "split the row" in bad(reading)
    assert peak < 16 << 20


def test_a10_a_row_may_come_to_as_much_as_the_limit(read):
    row = {"messages": chat(8)}
    known = {}
    size = sum(reader._size(example, known) for example in reader._convert(HALF, row).examples)

    assert len(read(lines(row), max_expanded_row_bytes=size).examples) == 4
    with pytest.raises(SampleError, match="max_expanded_row_bytes"):
        read(lines(row), max_expanded_row_bytes=size - 1)


def test_a10_a_file_that_becomes_too_large_is_told_to_be_split(read):
    with pytest.raises(SampleError, match="split it") as caught:
        read(lines(*[{"messages": chat(20)}] * 50), max_expanded_bytes=20_000)

    assert caught.value.code == "too_large_expanded"


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a10_a_table_of_too_many_columns_is_told_at_its_header(read, name):
    sign = "\t" if name == "a.tsv" else ","
    names = sign.join(["question", "answer", *(f"c{at}" for at in range(999))])

    with pytest.raises(
        SampleError, match=r"has 1001 columns, more than inbox.max_columns \(1000\)"
    ) as caught:
        read(f"{names}\n{sign.join('x' * 1001)}\n", name)

    assert caught.value.code == "too_many_columns"


@pytest.mark.parametrize("end", ["", "\nq,a\n"])
def test_a10_a_header_longer_than_can_be_seen_is_told(read, end):
    names = ",".join(["question", "answer", *(f"c{at}" + "x" * 1400 for at in range(900))])

    with pytest.raises(SampleError, match="shorten the names") as caught:
        read(names + end, "a.csv")

    assert caught.value.code == "bad_header"


def test_a10_a_row_of_too_many_fields_is_a_bad_row(read):
    wide = PAIR | {f"k{at}": None for at in range(999)}

    assert "the row has 1001 columns" in bad(read(lines(wide, {"question": "x", "answer": "y"})))
    assert read(lines(wide), max_columns=1001).rows == 1


def test_a10_names_and_reasons_are_kept_short(read):
    # Given rows with a megabyte of a name each, of which a file may have many
    row = PAIR | {"x" * 900_000: 1}

    reading, peak = peak_of(lambda: read(lines(*[row] * 20, PAIR), max_bad_share=1.0))

    assert all(len(problem.field) < 300 and len(problem.message) < 1100 for problem in reading.problems)
    assert peak < 48 << 20


def test_a10_contradictions_are_told_as_far_as_they_are_small(read):
    long = [{"question": Q, "answer": f"{at}" + "x" * 500_000} for at in range(60)]

    reading, peak = peak_of(lambda: read(lines(*long)))

    assert reading.contradictions == 59
    assert 0 < len(reading.contradicted) < 25
    assert peak < 64 << 20


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    "row",
    [
        '{"question": "a", "answer": %s}' % ("9" * 5000),
        '{"question": "a", "answer": -%s}' % ("9" * 500_000),
        '{"question": "a", "answer": "b", "metadata": %s1%s}' % ("[" * 5000, "]" * 5000),
        '{"question": "a", "answer": "b", "metadata": "%s", "id": %s}' % ("[" * 90, "[" * 3000 + "]" * 3000),
        '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": %s1%s}]}'
        % ('{"a":' * 2000, "}" * 2000),
    ],
    ids=["digits", "very many digits", "deep", "deep beside brackets in a text", "deep content"],
)
def test_a11_what_cannot_be_read_of_a_row_is_that_rows_problem(read, name, row):
    rows = [row, json.dumps(PAIR)]

    reading = read(f"[{rows[0]}, {rows[1]}]" if name == "a.json" else "\n".join(rows), name)

    assert [example.target for example in reading.examples] == [A]
    assert len(reading.problems) == 1


NESTED = "[" * 300 + "]" * 300


def call(arguments, key="tool_calls"):
    return {
        "messages": [USER, {"role": "assistant", "content": "", key: [{"name": "f", "arguments": arguments}]}]
    }


@pytest.mark.parametrize(
    "row",
    [
        call('{"a": %s}' % NESTED),
        call('{"a": %s}' % ("[" * 40 + "]" * 40)),
        call('{"\\ud800": 1}'),
        call({"\ud800": 1}),
        call({"a": [{"b": {"\udfff": 1}}]}),
        call({"a": [{"b": ["half \ud83d"]}]}),
        call('{"a": [{"b": "\\ud83d"}]}'),
        call('{"a": {"b": 1e400}}'),
        call('{"a": [-1E999]}'),
        call('{"a": NaN}'),
        call('{"a": Infinity}'),
        call('{"a": "\\u0000"}'),
        call({"a": {"b\x00": 1}}),
        call('{"a": %s}' % ("7" * 5000)),
        call('{"a": 1, "a": 2}'),
        {"conversations": [{"from": "human", "value": Q}, {"from": "function_call", "value": '{"name": "f", "arguments": {"a": %s}}' % NESTED}]},
        {"conversations": [{"from": "human", "value": Q}, {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1e999}}'}]},
        {"conversations": [{"from": "human", "value": Q}, {"from": "function_call", "value": '{"name": "\\udc00"}'}]},
        {"conversations": [{"from": "human", "value": Q}, {"from": "function_call", "value": NESTED}]},
        {"messages": [USER, {"role": "assistant", "content": A}], "tools": [{"name": "f", "x": {"\ud800": 1}}]},
        {"messages": [USER, {"role": "assistant", "content": A}], "tools": '[{"name": "f", "x": %s}]' % NESTED},
        {"messages": [USER, {"role": "assistant", "content": A}], "tools": '[{"name": "f", "x": 1e400}]'},
        {"messages": [USER, {"role": "assistant", "content": A}], "tools": '[{"name": "f", "x": "\\u0000"}]'},
        {"messages": '[{"role": "user", "content": %s}]' % NESTED},
        {"messages": [USER, {"role": "assistant", "content": "\ud800"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "\udc00"}]}, {"role": "assistant", "content": A}]},
        {"history": '[["a", %s]]' % NESTED, **PAIR},
        {"history": [["a", "\ud800"]], **PAIR},
        {"\ud800": 1, **PAIR},
        {"metadata": {"\ud800": 1}, "question": "\udfff", "answer": A},
    ],
)  # fmt: skip
def test_a11_the_limits_hold_inside_texts_and_the_row_is_bad_not_the_file(read, row):
    reading = read(lines(row, PAIR))

    assert bad(reading).isprintable()
    assert all(
        json.dumps([e.input, e.target], ensure_ascii=False, allow_nan=False).encode()
        for e in reading.examples
    )
    reading.problems[0].field.encode()


@pytest.mark.parametrize("answer", [NESTED, "1e400", '{"a": NaN}', "[1", "\\ud800 in letters"])
def test_a11_an_answer_that_only_looks_like_json_is_text(read, answer):
    (example,) = read(lines({"question": Q, "answer": answer})).examples

    assert example.target == answer


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("tagging", {"tokens": ["a", "\ud800"], "ner_tags": ["O", "O"]}),
        ("tagging", {"tokens": ["a"], "ner_tags": ["B-\ud800"]}),
        ("tagging", {"text": "abc", "spans": [{"start": 0, "end": 1, "label": "\ud800"}]}),
        ("tagging", {"text": "abc", "spans": [{"start": 10**4000, "end": 1, "label": "X"}]}),
        ("tagging", {"tokens": '["a", %s]' % NESTED, "ner_tags": ["O", "O"]}),
        ("classify", {"text": "abc", "label": "\ud800"}),
        ("classify", {"text": "abc", "label": 10**4000}),
        ("classify", {"text": "abc", "labels": [1e308, 10**4000]}),
        ("retrieval", {"text": "abc", "title": "\ud800"}),
        ("retrieval", {"text": "abc", "id": [NESTED, NESTED]}),
    ],
)  # fmt: skip
def test_a11_other_tasks_are_held_to_the_same(read, task, row):
    good = {"tagging": {"tokens": ["a"], "ner_tags": ["O"]}, "classify": {"text": "b", "label": "c"}}

    assert bad(read(lines(row, good.get(task, {"text": "x"})), task=task))


MANY = 400_000


@pytest.mark.parametrize(
    ("content", "name", "task"),
    [
        (b'{"a":' + b" " * 3 * MANY + b"x", "a.jsonl", "chat"),
        (b'{"a":' + b"," * 3 * MANY, "a.jsonl", "chat"),
        (b"<" + b"a" * MANY + b" ", "a.txt", "chat"),
        (b"-" + b" " * MANY + b".", "a.txt", "chat"),
        (b"- a" + b" " * MANY + b".", "a.yaml", "chat"),
        (b"question|answer\n" + b" " * MANY + b"x\nq|a\n", "a.csv", "chat"),
        (b"question|answer\n" + b"|-" * MANY + b"x\nq|a\n", "a.csv", "chat"),
        (b"# x" + b" " * MANY + b"y\n", "a.md", "retrieval"),
        (b"# x" + b" #" * MANY + b"y\n", "a.md", "retrieval"),
        (b"#" + b" " * MANY + b"\n", "a.md", "retrieval"),
        (json.dumps(PAIR | {"question": "a" + "\u0315\u0316" * MANY}, ensure_ascii=False)[:900_000].encode(), "a.txt", "retrieval"),
        (json.dumps(PAIR | {"question": "a" + "\u0315\u0316" * 200_000}, ensure_ascii=False).encode(), "a.jsonl", "chat"),
        (json.dumps(PAIR | {"question": "a" + "\u0f73" * 200_000}, ensure_ascii=False).encode(), "a.jsonl", "chat"),
        (json.dumps([{"chat_messages": [{"sender": "human", "text": "q"}, {"sender": "assistant", "text": "【†" * 100_000}]}]).encode(), "a.json", "chat"),
        (b'{"data":[["a"]],' * 100_000, "a.json", "chat"),
        (b"question,answer," + b"x" * 3 * MANY + b"\nq,a,b\n", "a.csv", "chat"),
    ],
)  # fmt: skip
def test_a10_a_megabyte_that_once_took_for_ever_ends(read, content, name, task):
    # Given what a pattern tried in every division, and what Python sorts step by step
    try:
        assert read(content, name, task).rows
    except SampleError as error:
        assert len(error.message) < 3000  # noqa: PT017 - that it is refused is one of two good ends


def test_a10_marks_of_any_script_are_composed_as_before(read):
    # Given one word in two spellings of its letters, and more marks than any script has on one letter
    composed, apart = "caf\u00e9", "cafe\u0301"

    reading = read(
        lines(
            {"question": composed, "answer": A},
            {"question": apart, "answer": A},
            {"question": "e" + "\u0301" * 40, "answer": A},
        )
    )

    assert (len(reading.examples), reading.repeated) == (2, 1)


# Parquet


@pytest.fixture
def parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet  # noqa: PLC0415

    def read(table, **limits):
        path = tmp_path / "a.parquet"
        table = pa.table(table) if isinstance(table, dict) else table
        parquet.write_table(table, path, compression="zstd")
        return reader.read(path, HALF.model_copy(update=limits))

    return read


def test_a10_a_text_in_every_row_of_parquet_is_held_once(parquet):
    # Given a few kilobytes that stand for 800 MB
    pa = pytest.importorskip("pyarrow")
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1000), pa.array(["q" * 800_000]))
    before = pa.total_allocated_bytes()

    with pytest.raises(SampleError) as caught:
        parquet({"question": text, "answer": ["a"] * 1000}, max_row_bytes=500_000)

    assert caught.value.code == "bad_rows"
    assert "longer than inbox.max_row_bytes" in caught.value.message
    assert pa.total_allocated_bytes() - before < 64 << 20


@pytest.mark.parametrize("size", [300_000, 30_000_000])
def test_a10_a_list_of_one_value_in_parquet_is_not_made(parquet, size):
    pa = pytest.importorskip("pyarrow")
    numbers = pa.ListArray.from_arrays(pa.array([0, size, size]), pa.nulls(size, pa.int8()))

    (found, peak) = peak_of(
        lambda: _ended(lambda: parquet({"question": ["q", "x"], "answer": ["a", "b"], "metadata": numbers}))
    )

    assert found in {"too_large_unpacked", 1}
    assert peak < 16 << 20


def _ended(call):
    try:
        return len(call().problems)
    except SampleError as error:
        return error.code


def test_a10_lists_of_a_fixed_size_take_room_where_there_are_none(parquet):
    pa = pytest.importorskip("pyarrow")
    nothing = pa.array([None] * 4, type=pa.list_(pa.int8(), 1_000_000))

    with pytest.raises(SampleError, match="lists of a fixed size"):
        parquet({"question": ["q"] * 4, "answer": ["a"] * 4, "metadata": nothing})


def test_a10_parquet_of_too_many_columns_is_refused(parquet):
    with pytest.raises(SampleError, match="has 1001 columns"):
        parquet({"question": ["q"], "answer": ["a"], **{f"c{at}": [1] for at in range(999)}})


def test_rows_of_every_kind_of_column_are_measured(parquet):
    pa = pytest.importorskip("pyarrow")
    columns = {
        "question": ["q", "r", "s"],
        "answer": pa.array(["a", "b", "c"]).dictionary_encode(),
        "metadata": pa.array([{"x": [1, 2], "y": "z"}, None, {"x": None, "y": "é" * 2000}]),
        "id": pa.array([[("k", "v")], [], None], type=pa.map_(pa.string(), pa.string())),
        "source": pa.array([[1, 2], None, [3, 4]], type=pa.list_(pa.int8(), 2)),
        "category": pa.array([["a", "b"], None, []], type=pa.large_list(pa.string())),
        "difficulty": pa.array([b"1", b"2", None]),
        "dataset": pa.nulls(3),
    }

    reading = parquet(columns, max_row_bytes=1000)

    assert [example.target for example in reading.examples] == ["a", "b"]
    assert [problem.line for problem in reading.problems] == [3]


@pytest.mark.parametrize("kind", ["duration", "date", "zone"])
def test_a_value_that_python_cannot_hold_ends_the_file_by_name(parquet, kind):
    pa = pytest.importorskip("pyarrow")
    column = {
        "duration": pa.array([1], type=pa.int64()).cast(pa.duration("ns")),
        "date": pa.array([10**8], type=pa.int32()).cast(pa.date32()),
        "zone": pa.array([1], type=pa.int64()).cast(pa.timestamp("us", tz="Mars/Base")),
    }[kind]

    with pytest.raises(SampleError, match="corrupt Parquet"):
        parquet({"question": ["q"], "answer": ["a"], "metadata": column})
