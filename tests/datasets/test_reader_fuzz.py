"""Whatever a file holds: it is read, or refused with a reason, and nothing else ever happens."""

import contextlib
import gzip
import json
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad import wordings
from lorad.config import InboxSettings
from lorad.datasets import other_wordings, reader
from lorad.errors import SampleError
from lorad.storage.strict_json import is_deeper

DATA = Path(__file__).parents[1] / "data"
Q, A = "Where is the mill?", "By the river."
ROW = {"instruction": Q, "output": A}

LIMITS = InboxSettings(max_bad_share=0.9, max_rows=50, max_row_bytes=2000, max_depth=6)


@pytest.fixture(scope="module")
def is_read_or_refused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")

    def is_read_or_refused(content, name):
        path = folder / name
        path.write_bytes(content)
        try:
            reading = reader.read(path, LIMITS)
        except SampleError as error:
            assert name in json.dumps(error.as_dict())  # noqa: PT017 - that it is refused is one of two good ends
            return
        assert reading.examples
        assert len(reading.digest) == 64
        assert reading.rows >= sum(reading.formats.values()) + len(reading.problems)
        questions = [example.input_id for example in reading.examples]
        assert len(set(questions)) == len(questions)
        for example in reading.examples:
            assert (
                example.target["tool_calls"] if isinstance(example.target, dict) else example.target.strip()
            )
            assert example.input[-1]["role"] == "user" or len(example.input) > 1
            assert max(len(example.also_asked), len(example.held_out)) <= wordings.MOST
            for wording in wordings.of(example):
                assert wordings.reworded(example, wording).input_id not in questions

    return is_read_or_refused


NAMES = st.sampled_from(["a.json", "a.jsonl", "a.csv", "a.tsv", "a.txt", "a.md", "a"])
STARTS = st.sampled_from([b"", b"[", b'{"question":', b"question,answer\n", b"\xef\xbb\xbf", b"\x1f\x8b\x08"])


@given(start=STARTS, content=st.binary(max_size=200), name=NAMES)
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_read_or_refused(is_read_or_refused, start, content, name):
    is_read_or_refused(start + content, name)


# Given the files that other programs wrote, damaged
FILES = [path.read_bytes() for path in sorted(DATA.iterdir()) if path.is_file() and path.suffix != ".parquet"]
TOKENS = st.sampled_from(
    [
        *(bytes([sign]) for sign in b'"{}[],;\t\n\r\\\x00\xff'),
        *(b"\\ud800", b"NaN", b"null", b'"question": 1,', b'""', "é".encode()),
        *(b"[" * 40, b"x" * 3000, b"\n" * 60),
        # more of what a megabyte of once took for ever, numbers that are none, texts that are read twice
        *(
            b" " * 3000,
            b"|-" * 900,
            b"<" + b"a" * 900,
            b"# " * 900,
            b"," * 900,
            "\u0315\u0316".encode() * 300,
        ),
        *(b"1e400", b"9" * 5000, b"-Infinity", b'"' + b"[" * 300 + b"]" * 300 + b'"', b'"{\\"a\\": 1e999}"'),
    ]
)
EDITS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 40), TOKENS | st.just(b"")), max_size=3)


@given(content=st.sampled_from(FILES), edits=EDITS, name=NAMES, is_packed=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_damaged_file_is_read_or_refused(is_read_or_refused, content, edits, name, is_packed):
    for at, length, token in edits:
        place = at % (len(content) + 1)
        content = content[:place] + token + content[place + length :]

    is_read_or_refused(gzip.compress(content, 1) if is_packed else content, name)


@given(
    content=st.sampled_from(FILES),
    edits=EDITS,
    name=NAMES | st.just("a.conll"),
    task=st.sampled_from(["tagging", "classify", "retrieval"]),
    labels=st.sampled_from([(), ("O", "B-PER", "I-PER")]),
)
@settings(max_examples=150, deadline=None)
def test_any_file_is_read_or_refused_for_any_task(tmp_path_factory, content, edits, name, task, labels):
    for at, length, token in edits:
        place = at % (len(content) + 1)
        content = content[:place] + token + content[place + length :]
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)

    try:
        reading = reader.read(path, LIMITS, task, labels=labels)
    except SampleError as error:
        assert name in json.dumps(error.as_dict())  # noqa: PT017 - that it is refused is one of two good ends
        return

    for example in reading.examples:
        assert json.loads(json.dumps([example.input, example.target])) == [
            example.input,
            example.target,
        ]
        if task == "tagging":
            spans = example.target
            assert spans == sorted(spans)
            assert all(0 <= start < end <= len(example.input) for start, end, _ in spans)
            assert all(one[1] <= other[0] for one, other in pairwise(spans))


DEEP = "[" * 70 + "]" * 70
WORDS = st.sampled_from(
    [
        *(Q, A, "", " ", "user", "assistant", "human", "gpt", "\ud800", "\x00", "x", "[1]", "[{"),
        *(
            DEEP,
            f'{{"a": {DEEP}}}',
            '{"a": 1e400}',
            '{"\\ud800": 1}',
            '{"name": "f", "arguments": {"a": NaN}}',
        ),
    ]
)
VALUES = st.recursive(
    WORDS | st.none() | st.integers() | st.floats(allow_nan=False) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
EXTRAS = (
    "also_asked",
    "held_out",
    "input",
    "system",
    "system_prompt",
    "history",
    "metadata",
    "\ud800",
    "tools",
    "text",
)
HISTORY = st.lists(st.lists(WORDS | VALUES, min_size=2, max_size=2) | VALUES, max_size=2)
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text") | VALUES, "text": WORDS | VALUES}) | VALUES)
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": WORDS | VALUES, "content": WORDS | PARTS},
        optional=dict.fromkeys(("weight", "tool_calls", "name"), VALUES),
    )
    | st.fixed_dictionaries({"from": WORDS | VALUES, "value": WORDS | VALUES})
    | VALUES,
    max_size=3,
)
CALLS = st.lists(
    st.fixed_dictionaries(
        {"name": st.just("f"), "arguments": WORDS | st.dictionaries(WORDS, VALUES, max_size=3) | VALUES}
    ),
    max_size=2,
)
TOOLS = st.lists(st.fixed_dictionaries({"name": st.just("f"), "parameters": VALUES}) | VALUES, max_size=2)
NODES = st.dictionaries(
    st.sampled_from("abc"),
    st.fixed_dictionaries(
        {"parent": st.sampled_from("abc") | VALUES},
        optional={
            "message": st.fixed_dictionaries(
                {
                    "author": st.fixed_dictionaries({"role": WORDS | VALUES}) | VALUES,
                    "content": st.fixed_dictionaries(
                        {
                            "content_type": st.just("text") | VALUES,
                            "parts": st.lists(WORDS | VALUES, max_size=2),
                        }
                    )
                    | VALUES,
                },
                optional={"metadata": VALUES, "recipient": VALUES, "weight": VALUES},
            )
            | VALUES
        },
    )
    | VALUES,
    max_size=3,
)
SPOKEN = st.lists(
    st.fixed_dictionaries(
        {"sender": st.sampled_from(["human", "assistant"]) | VALUES},
        optional={"text": WORDS | VALUES, "content": PARTS | VALUES, "files": VALUES},
    )
    | VALUES,
    max_size=3,
)
ASKED = st.fixed_dictionaries(
    {"question": WORDS | VALUES},
    optional={
        "answers": st.lists(st.fixed_dictionaries({"text": WORDS | VALUES})) | VALUES,
        "context": VALUES,
    },
)
EXPORTS = st.one_of(
    st.fixed_dictionaries({"mapping": NODES | VALUES, "current_node": st.sampled_from("abcd") | VALUES}),
    st.fixed_dictionaries({"chat_messages": SPOKEN | VALUES}),
    st.fixed_dictionaries(
        {"custom_id": VALUES},
        optional={
            "body": st.fixed_dictionaries({"messages": TURNS | VALUES}) | VALUES,
            "response": st.fixed_dictionaries({"body": st.fixed_dictionaries({"choices": VALUES})}) | VALUES,
        },
    ),
    st.fixed_dictionaries(
        {"qas": st.lists(ASKED | VALUES, max_size=2) | VALUES},
        optional={"context": WORDS, "paragraphs": VALUES},
    ),
    ASKED,
)
ROWS = st.one_of(
    VALUES,
    EXPORTS,
    st.fixed_dictionaries(
        {
            "messages": TURNS.flatmap(
                lambda turns: CALLS.map(lambda calls: [*turns, {"role": "assistant", "tool_calls": calls}])
            )
        },
        optional={"tools": TOOLS, "System": VALUES, "prompt": WORDS | VALUES, "also_asked": VALUES},
    ),
    st.dictionaries(
        st.sampled_from(["Question", "question ", "ANSWER", "answers", "context"]), WORDS | VALUES
    ),
    st.fixed_dictionaries({"turns": TURNS | VALUES, "Tools": TOOLS | VALUES}),
    st.fixed_dictionaries({"instruction": WORDS, "output": WORDS}),
    st.fixed_dictionaries(
        {name: st.just(text) for name, text in ROW.items()}, optional=dict.fromkeys(EXTRAS, VALUES)
    ),
    st.fixed_dictionaries({name: st.just(text) for name, text in ROW.items()} | {"history": HISTORY}),
    st.fixed_dictionaries({"prompt": TURNS | VALUES, "completion": TURNS | VALUES}),
    st.fixed_dictionaries({"messages": TURNS | VALUES}),
    st.fixed_dictionaries({"messages": TURNS.map(json.dumps)}),
    st.fixed_dictionaries({"conversations": TURNS | VALUES}, optional={"system": VALUES}),
)


@given(rows=st.lists(ROWS, min_size=1, max_size=4), is_list=st.booleans())
@settings(max_examples=100, deadline=None)
def test_any_json_is_read_or_refused(is_read_or_refused, rows, is_list):
    content = json.dumps(rows) if is_list else "\n".join(map(json.dumps, rows))

    is_read_or_refused(content.encode(), "a.json" if is_list else "a.jsonl")


@given(said=st.dictionaries(WORDS, VALUES, max_size=3) | st.lists(ROWS, max_size=3) | VALUES)
@settings(max_examples=100, deadline=None)
def test_any_sidecar_of_wordings_is_read_or_refused(said):
    try:
        found = other_wordings.parsed("a.json.wordings.json", json.dumps(said).encode())
    except SampleError as error:
        assert error.code == "wordings"  # noqa: PT017 - that it is refused is one of two good ends
        return
    assert [each.place for each in found] == list(range(1, len(found) + 1))
    assert all(wording.strip() for each in found for wording in each.wordings)


@given(content=st.binary(max_size=200), start=STARTS)
def test_any_bytes_beside_a_file_are_wordings_or_refused(start, content):
    with contextlib.suppress(SampleError):
        other_wordings.parsed("a.json.wordings.json", start + content)


@given(rows=st.lists(ROWS, min_size=1, max_size=3), times=st.sampled_from([1, 30, 200]), name=NAMES)
@settings(max_examples=40, deadline=None)
def test_a10_whatever_is_repeated_takes_no_more_than_its_bounds(tmp_path_factory, rows, times, name):
    # Given lists that go on, up to what a row may have
    longer = [
        {key: value * times if isinstance(value, list) else value for key, value in row.items()}
        if isinstance(row, dict)
        else row
        for row in rows
    ]
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes("\n".join(map(json.dumps, longer)).encode())
    limits = LIMITS.model_copy(update={"max_row_bytes": 50_000, "max_expanded_row_bytes": 500_000})

    tracemalloc.start()
    try:
        reader.read(path, limits)
    except SampleError as error:
        assert len(json.dumps(error.as_dict())) < 60_000  # noqa: PT017 - that it is refused is one of two good ends
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak < 16 << 20


@given(rows=st.lists(ROWS, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_a11_what_is_read_can_be_written_and_read_again(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows, ROW])))

    for example in reader.read(path, LIMITS).examples:
        written = json.dumps([example.input, example.target], ensure_ascii=False, allow_nan=False).encode()
        assert not is_deeper(json.loads(written), LIMITS.max_depth + 1)


@given(
    answers=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1, max_size=8),
    name=st.sampled_from(["a.json", "a.jsonl", "a.csv", "a.csv.gz"]),
)
@settings(max_examples=60, deadline=None)
def test_no_row_is_lost(tmp_path_factory, answers, name):
    path = tmp_path_factory.getbasetemp() / name
    rows = [json.dumps({"question": q, "answer": a}) for q, a in answers]
    text = {
        "a.json": f"[{','.join(rows)}]",
        "a.jsonl": "\n".join(rows),
    }.get(name, "question;answer\n" + "\n".join(f"{q};{a}" for q, a in answers))
    path.write_bytes(gzip.compress(text.encode(), 1) if name.endswith("gz") else text.encode())

    reading = reader.read(path, InboxSettings())

    assert {(e.input[-1]["content"], e.target) for e in reading.examples} == set(dict(answers).items())
    assert len(reading.examples) + reading.repeated + len(reading.contradicted) == len(answers)
