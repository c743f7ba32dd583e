"""Formats of labelling tools: what each says, and what is told of a row that says nothing.

The files in ``data`` are written by hand as the tools write them. From memory, not from a tool that ran here: doccano,
Label Studio, spaCy, GLiNER and Hugging Face's token files; CoNLL-2003's sentences are invented, its columns are not.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorad.config import InboxSettings
from lorad.datasets import reader, sidecar
from lorad.datasets.containers.file_rows import BadRow
from lorad.datasets.formats import annotations
from lorad.errors import SampleError
from lorad.records import Example

DATA = Path(__file__).parents[1] / "data"
ANNA = "Anna Berg visited the Old Mill."
IN_ANNA = [[0, 9, "PER"], [22, 30, "LOC"]]
TOKENS = "Anna Berg visited the Old Mill ."
IN_TOKENS = [[0, 9, "PER"], [22, 30, "LOC"]]


def from_file(name, task):
    """Read a file of the tests with its sidecar, as the inbox does."""
    meta = sidecar.beside(DATA / name)
    meta.fit_task(name, task)
    return reader.read(DATA / name, InboxSettings(), task, meta.fields, meta.labels)


def said(reading):
    return [(example.input, example.target) for example in reading.examples]


# files


@pytest.mark.parametrize(
    ("name", "formats", "expected"),
    [
        (
            "conll2003.txt",
            {"conll": 3},
            [
                ("Anna Berg visited the Old Mill .", IN_TOKENS),
                ("Grain Guild Mill Trust", [[0, 11, "ORG"], [12, 22, "ORG"]]),
                ("# 7", []),
            ],
        ),
        (
            "columns.conll",
            {"conll": 2},
            [("Anna lives in Mill Lane", [[0, 4, "PER"], [14, 23, "LOC"]]), ("Rain", [])],
        ),
        ("hf_tokens.jsonl", {"tokens": 2}, [(TOKENS, IN_TOKENS), ("Rain fell .", [])]),
        ("bioes.csv", {"tokens": 1}, [("Anna Berg met Arlo", [[0, 9, "PER"], [14, 18, "PER"]])]),
        (
            "spans.jsonl",
            {"spans": 3},
            [
                (ANNA, IN_ANNA),
                ("Rain fell.", []),
                ("Zoë 😀 met Arlo.", [[0, 3, "PER"], [10, 14, "PER"]]),
            ],
        ),
        (
            "doccano.jsonl",
            {"doccano": 3, "spans": 1},
            [
                (ANNA, IN_ANNA),
                ("Rain fell.", []),
                ("Arlo owns it.", [[0, 4, "PER"]]),
                ("Arlo owns the ford.", [[0, 4, "PER"]]),
            ],
        ),
        (
            "spacy.json",
            {"spacy": 3},
            [(ANNA, IN_ANNA), ("Rain fell.", []), ("Arlo owns it.", [[0, 4, "PER"]])],
        ),
        (
            "label_studio.json",
            {"label studio": 3},
            [(ANNA, IN_ANNA), ("Rain fell.", []), ("Arlo owns it.", [[0, 4, "PER"]])],
        ),
        ("label_studio_min.json", {"doccano": 1}, [(ANNA, IN_ANNA)]),
        (
            "gliner.json",
            {"gliner": 2},
            [(TOKENS, [[0, 9, "person"], [22, 30, "location"]]), ("Rain fell .", [])],
        ),
    ],
)
def test_a_tagged_file_is_read_as_its_tool_means_it(name, formats, expected):
    reading = from_file(name, "tagging")

    assert said(reading) == expected
    assert (reading.formats, reading.problems) == (formats, ())
    assert {example.task for example in reading.examples} == {"tagging"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "reviews.csv",
            [("The bread is warm, and the miller kind.", "good"), ("The ford was flooded.", "bad")],
        ),
        ("reviews.jsonl", [("The bread is warm.", "good"), ("The ford was flooded.", "bad")]),
        (
            "topics.jsonl",
            [
                ("The mill by the ford sells bread.", ["food", "place"]),
                ("Rain fell.", []),
                ("Bread is dear.", ["food"]),
            ],
        ),
        (
            "topics_hot.jsonl",
            [
                ("The mill by the ford sells bread.", ["food", "place"]),
                ("Rain fell.", ["weather"]),
                ("Nothing happened.", []),
                ("It rained on the mill.", ["place", "weather"]),
            ],
        ),
    ],
)
def test_a_file_of_labels_is_read_as_its_tool_means_it(name, expected):
    reading = from_file(name, "classify")

    assert said(reading) == expected
    assert (reading.formats, reading.problems) == ({"classification": len(expected)}, ())
    assert {example.task for example in reading.examples} == {"classify"}


def test_documents_are_read_with_what_names_them():
    reading = from_file("documents.jsonl", "retrieval")

    assert [example.target for example in reading.examples] == [
        "The mill stands by the river.",
        "The ford is below the mill.",
        "Bread is baked on Fridays.",
        "Rain is common.",
    ]
    first, second, *others = (example.input for example in reading.examples)
    assert first == {"title": "The mill", "url": "https://example.org/mill", "id": "7"}
    assert second == {"title": "The ford", "id": "doc2", "digest": second["digest"]}
    assert [other["source"] for other in others] == ["village", "village"]
    assert reading.formats == {"document": 4}


@pytest.mark.parametrize(
    ("name", "title", "start"),
    [
        ("village.md", "The village", "---\nlang: en"),
        ("ford.txt", "ford", "The ford is"),
        ("notes.md", "The village", "#"),
    ],
)
def test_a_plain_file_is_one_document(name, title, start):
    reading = from_file(name, "retrieval")

    (example,) = reading.examples
    assert example.input == {"title": title, "source": name}
    assert example.target.startswith(start)
    assert example.target == (DATA / name).read_text(encoding="utf-8")
    assert (example.line, reading.formats) == (1, {"file": 1})


@pytest.mark.parametrize(
    ("task", "rows"),
    [
        (
            "tagging",
            [
                {"tokens": ["Arlo"], "tags": ["B-PER"]},
                {"tokens": ["Rain"], "tags": ["O"]},
                {"text": "Arlo.", "spans": [{"start": 0, "end": 4, "label": "PER"}]},
            ],
        ),
        ("classify", [{"text": "x", "label": "a"}, {"sentence": "y", "labels": ["a", "b"]}]),
        ("retrieval", [{"text": "x"}, {"title": "t", "body": "y"}]),
    ],
)
def test_parquet_and_every_json_say_the_same(tmp_path, task, rows):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    digests = set()
    for name, text in {
        "a.json": json.dumps(rows),
        "b.json": json.dumps({"data": rows}, indent=2),
        "a.jsonl": "\n".join(map(json.dumps, rows)),
        "a.txt": "\n".join(map(json.dumps, rows)),
    }.items():
        (tmp_path / name).write_text(text)
        digests.add(reader.read(tmp_path / name, InboxSettings(), task).digest)
    if task != "classify":  # a column has one type
        columns = {name: [row.get(name) for row in rows] for row in rows for name in row}
        parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
        digests.add(reader.read(tmp_path / "a.parquet", InboxSettings(), task).digest)

    assert len(digests) == 1


def test_rows_that_are_lists_may_stand_one_a_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps([text, {"entities": [[0, 4, "PER"]]}]) + "\n" for text in ("Arlo.", "Anna."))
    )

    assert [example.line for example in reader.read(path, InboxSettings(), "tagging").examples] == [1, 2]


def test_a_mapping_names_the_files_own_fields(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("Satz;Urteil;Nr\nDas Brot ist warm.;gut;1\n", encoding="utf-8")

    reading = reader.read(path, InboxSettings(), "classify", {"text": "Satz", "label": "Urteil"})

    assert said(reading) == [("Das Brot ist warm.", "gut")]
    with pytest.raises(
        SampleError, match=r"an unknown field question; .* lorad's names for classify are content, label, "
    ):
        reader.read(path, InboxSettings(), "classify", {"question": "Satz"})


# tags

LABELS = st.sampled_from(["PER", "LOC", "ORG-X"])
TAGS = st.lists(
    st.just("O") | st.builds("{}-{}".format, st.sampled_from("BI"), LABELS), min_size=1, max_size=12
)
WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=4)


def bio(spans, count):
    """Return the IOB2 tags of entities, which is the way back."""
    tags = ["O"] * count
    for first, end, label in spans:
        tags[first:end] = [f"B-{label}"] + [f"I-{label}"] * (end - first - 1)
    return tags


@given(tags=TAGS)
def test_any_tags_become_entities_and_the_same_again(tags):
    found = annotations.entities(tags)

    again = bio(found, len(tags))
    assert annotations.entities(again) == found
    assert [tag == "O" for tag in again] == [tag == "O" for tag in tags]
    assert [tag[2:] for tag in again] == [tag[2:] for tag in tags]
    # a B- always begins one, and an I- goes on with what has its label
    begins = {first for first, _, _ in found}
    for at, tag in enumerate(tags):
        before = tags[at - 1] if at else "O"
        assert (at in begins) == (tag != "O" and (tag[0] == "B" or before[2:] != tag[2:]))


@given(
    pairs=st.lists(
        st.tuples(WORDS, st.just("O") | st.builds("{}-{}".format, st.sampled_from("BI"), LABELS)), min_size=1
    )
)
def test_a_span_holds_its_words_joined(pairs):
    tokens, tags = map(list, zip(*pairs, strict=True))

    _, (example,) = annotations.convert({"tokens": tokens, "tags": tags}, "tagging", ())

    assert example.input == " ".join(tokens)
    assert [(example.input[start:end], label) for start, end, label in example.target] == [
        (" ".join(tokens[first:end]), label) for first, end, label in annotations.entities(tags)
    ]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("I-A I-A O", [(0, 2, "A")]),  # IOB1, as CoNLL-2003 has it
        ("I-A I-B", [(0, 1, "A"), (1, 2, "B")]),
        ("B-A I-B", [(0, 1, "A"), (1, 2, "B")]),
        ("B-A B-A", [(0, 1, "A"), (1, 2, "A")]),
        ("S-A S-A", [(0, 1, "A"), (1, 2, "A")]),
        ("B-A I-A E-A I-A", [(0, 3, "A"), (3, 4, "A")]),
        ("B-A L-A U-A", [(0, 2, "A"), (2, 3, "A")]),
        ("E-A E-A", [(0, 1, "A"), (1, 2, "A")]),
        ("B-A S-A", [(0, 1, "A"), (1, 2, "A")]),
        ("B-A L-A I-A", [(0, 2, "A"), (2, 3, "A")]),
        ("U-A I-A", [(0, 1, "A"), (1, 2, "A")]),
        ("O O", []),
    ],
)
def test_every_scheme_is_read_as_seqeval_reads_it(tags, expected):
    assert annotations.entities(tags.split()) == expected


def test_blanks_at_the_edges_of_a_span_are_not_marked():
    row = {"text": "Zoe\u0301 Berg came.", "spans": [[0, 5, "PER"], [5, 10, "PER"]]}

    _, (example,) = annotations.convert(row, "tagging", ())

    assert example.target == [[0, 4, "PER"], [5, 9, "PER"]]


# bad rows

FULL = {"text": "Arlo owns it."}


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        # tokens
        ({"tokens": ["a", "b"], "tags": ["O"]}, "tags", "has 1 tags, and there are 2 tokens"),
        ({"tokens": ["a"], "tags": ["PER"]}, "tags[0]", "is 'PER'; a tag is O, or a label after"),
        ({"tokens": ["a"], "ner_tags": [1]}, "ner_tags[0]", "in the sidecar: labels"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "tokens[1]", "must be text that is not empty"),
        ({"tokens": ["a", 5], "tags": ["O", "O"]}, "tokens[1]", "must be text"),
        ({"tokens": ["a\x00"], "tags": ["O"]}, "tokens", "NUL"),
        ({"tokens": [], "tags": []}, "tokens", "holds no token"),
        ({"tokens": "a b", "tags": ["O", "O"]}, "tokens", "must be a list, in a table its JSON"),
        ({"tokens": ["a"], "tags": ["O"], "ner_tags": ["O"]}, "tags", "conflicts with ner_tags"),
        ({"tokens": ["a"], "tags": ["O"], "text": "a"}, "text", "the field is unknown here"),
        ({"tokens": ["a"], "labels": [0], "input_ids": [1]}, "input_ids", "token ids of another program"),
        ({"tokens": ["a"]}, "ner_tags", "the field is missing or empty; a row needs tokens"),
        # spans with tags of tokens
        (FULL | {"spans": [[0, 4, "B-PER"]]}, "spans[0]", "has the label 'B-PER', a tag of tokens"),
        (FULL | {"spans": [{"start": 0, "end": 4, "label": "O"}]}, "spans[0]", "leave out what is O"),
        # GLiNER
        (
            {"tokenized_text": ["a"], "ner": [[0, 1, "X"]]},
            "ner[0]",
            "names the tokens 0 to 1, and there are 1",
        ),
        ({"tokenized_text": ["a"], "ner": [[0, "X"]]}, "ner[0]", "must be start, end and label"),
        ({"tokenized_text": ["a", "b"], "ner": [[0, 1, "X"], [1, 1, "Y"]]}, "ner", "overlap"),
        # spans
        (FULL | {"spans": [{"start": 0, "end": 99, "label": "X"}]}, "spans[0]", "the text has 13 characters"),
        (FULL | {"spans": [{"start": 4, "end": 4, "label": "X"}]}, "spans[0]", "goes from 4 to 4"),
        (FULL | {"spans": [{"start": -1, "end": 4, "label": "X"}]}, "spans[0]", "goes from -1"),
        (FULL | {"spans": [{"start": 0.0, "end": 4, "label": "X"}]}, "spans[0]", "whole numbers"),
        (FULL | {"spans": [{"start": True, "end": 4, "label": "X"}]}, "spans[0]", "whole numbers"),
        (FULL | {"spans": [{"start": 0, "end": 4}]}, "spans[0]", "the name of a label"),
        (FULL | {"spans": [{"start": 0, "end": 4, "label": 2}]}, "spans[0]", "is the number 2"),
        (
            FULL | {"spans": [{"start": 0, "end": 4, "label": "X", "kb_id": "Q1"}]},
            "spans[0].kb_id",
            "unknown",
        ),
        (
            FULL | {"spans": [{"start": 0, "end": 4, "label": "X", "text": "owns"}]},
            "spans[0]",
            "the text says 'Arlo'",
        ),
        (FULL | {"spans": [[0, 4, "X"], [2, 6, "Y"]]}, "spans", "X (0 to 4) and Y (2 to 6) overlap"),
        (FULL | {"spans": 5}, "spans", "must be a list"),
        (FULL | {"spans": [[4, 5, "X"]]}, "spans[0]", "marks nothing but blanks"),
        (
            {"text": "Zoe\u0301 Berg", "spans": [[0, 3, "X"]]},
            "spans[0]",
            "inside the character 'e\u0301', at 3",
        ),
        (
            {"text": "Zoe\u0301 Berg", "spans": [[3, 9, "X"]]},
            "spans[0]",
            "inside the character 'e\u0301', at 3",
        ),
        ({"text": "👩\u200d🌾", "spans": [[0, 1, "X"]]}, "spans[0]", "mark whole characters"),
        ({"text": "👩\u200d🌾", "spans": [[2, 3, "X"]]}, "spans[0]", "mark whole characters"),
        ({"text": "👍🏽 yes", "spans": [[0, 1, "X"]]}, "spans[0]", "mark whole characters"),
        ({"text": "🇫🇷🇩🇪", "spans": [[0, 3, "X"]]}, "spans[0]", "mark whole characters"),
        ({"text": "🏴\U000e0067\U000e007f", "spans": [[0, 1, "X"]]}, "spans[0]", "mark whole characters"),
        ({"text": "\u1112\u1161\u11ab", "spans": [[0, 1, "X"]]}, "spans[0]", "mark whole characters"),
        (FULL | {"spans": [[0, 4, "X"]], "entities": [[0, 4, "X"]]}, "entities", "conflicts with spans"),
        ({"text": " ", "spans": []}, "text", "is empty"),
        (FULL | {"label": [[0, 4, "X"]], "relations": [{"id": 1}]}, "relations", "relations between spans"),
        ([FULL["text"], {"entities": [], "cats": {"a": 1}}], "[1].cats", "unknown here"),
        # Label Studio
        ({"data": {"text": "x"}, "annotations": []}, "annotations", "holds no annotation"),
        ({"data": {"image": 1}, "annotations": [{"result": []}]}, "data.text", "is missing"),
        ({"data": {"text": ""}, "annotations": [{"result": []}]}, "data.text", "is empty"),
        ({"data": {"text": "x"}, "annotations": [{}]}, "annotations[0].result", "must be a list"),
        (
            {"data": {"text": "x"}, "annotations": [{"result": [{"value": {"choices": ["a"]}}]}]},
            "annotations[0].result[0]",
            "choices, relations and ratings are not read",
        ),
        (
            {
                "data": {"text": "x y"},
                "annotations": [
                    {"result": []},
                    {"result": [{"value": {"start": 0, "end": 1, "labels": ["A"]}}]},
                ],
            },
            "annotations",
            "several that differ",
        ),
        ({"data": {"text": "x"}, "completions": []}, "completions", "before 1.0"),
        # other tasks' rows
        (FULL | {"label": "statement"}, "label", "a text and its label are for a classify track"),
        ({"title": "x", "text": "y"}, "text", "a document is for a retrieval track"),
        ({"question": "x", "answer": "y"}, "question", "questions and answers are for a chat track"),
        ({"words": ["a"]}, "words", "the field is unknown here; a row needs tokens"),
        (5, "", "not a int"),
        ({}, "tokens", "missing"),
    ],
)
def test_a_bad_tagged_row_is_told_with_its_field(row, field, message):
    with pytest.raises(BadRow) as caught:
        annotations.convert(row, "tagging", ())

    assert caught.value.field == field
    assert message in str(caught.value)


NAMES = ("bad", "good", "fair")


@pytest.mark.parametrize(
    ("row", "labels", "field", "message"),
    [
        ({"text": "x", "label": 1}, (), "label", "is the number 1; say what it stands for in the sidecar"),
        ({"text": "x", "label": "1"}, (), "label", "is the number 1"),
        ({"text": "x", "label": "1.0"}, (), "label", "is the number 1"),
        ({"text": "x", "label": 1.0}, (), "label", "is the number 1"),
        ({"text": "x", "label": "x" * 1001}, (), "label", "has 1001 characters"),
        ({"text": "x", "label": 3}, NAMES, "label", "names the labels 0 to 2"),
        ({"text": "x", "label": -1}, NAMES, "label", "is -1"),
        ({"text": "x", "label": "ugly"}, NAMES, "label", "not among the sidecar's labels"),
        ({"text": "x", "label": True}, NAMES, "label", "must be the name of a label"),
        ({"text": "x", "label": 0.5}, NAMES, "label", "must be the name of a label"),
        ({"text": "x", "label": None}, (), "label", "must be the name of a label"),
        ({"text": "x", "label": "a\x00"}, (), "label", "NUL"),
        (
            {"text": "x", "label": "['a', 'b']"},
            (),
            "label",
            "is no name; write several labels as a list in JSON",
        ),
        ({"text": "x", "label": '{"choices": ["a", "b"]}'}, (), "label", "is no name"),
        ({"text": "x", "label": "[0 1]"}, (), "label", "is no name"),
        ({"text": "", "label": "a"}, (), "text", "is empty"),
        ({"text": "x", "labels": [1, 0]}, (), "labels", "holds numbers"),
        (
            {"text": "x", "labels": [1, 1]},
            NAMES,
            "labels",
            "must be 0 or 1 for each of the sidecar's 3 labels",
        ),
        ({"text": "x", "labels": [0]}, NAMES[:2], "labels", "must be 0 or 1 for each of the sidecar's 2"),
        ({"text": "x", "labels": [0, 7]}, NAMES, "labels[1]", "names the labels 0 to 2"),
        ({"text": "x", "labels": ["a", None]}, (), "labels[1]", "must be the name"),
        ({"text": "x", "label": "a", "labels": ["a"]}, (), "labels", "conflicts with label"),
        ({"text": "x", "sentence": "y", "label": "a"}, (), "sentence", "conflicts with text"),
        ({"title": "x", "content": "y", "label": "a"}, (), "title", "a text in two fields"),
        ({"sentence1": "x", "sentence2": "y", "label": 0}, (), "sentence1", "pairs of texts"),
        ({"text": "x", "text_pair": "y", "label": "a"}, (), "text_pair", "pairs of texts"),
        ({"text": "x", "label": [[0, 1, "A"]]}, (), "label", "a text and its spans are for a tagging track"),
        ({"tokens": ["a"], "tags": ["O"]}, (), "tokens", "tokens and tags are for a tagging track"),
        ({"text": "x"}, (), "text", "a document is for a retrieval track"),
    ],
)
def test_a_bad_label_is_told_with_its_field(row, labels, field, message):
    with pytest.raises(BadRow) as caught:
        annotations.convert(row, "classify", labels)

    assert caught.value.field == field
    assert message in str(caught.value)


def test_a_tables_numbers_are_the_same_labels_as_jsons():
    found = [
        annotations.convert({"text": "x", "label": label}, "classify", NAMES)[1] for label in (1, "1", "good")
    ]

    assert found == [[Example(task="classify", input="x", target="good")]] * 3


@pytest.mark.parametrize("label", ["[other]", "{}", "a [b]"])
def test_a_label_may_have_brackets(label):
    _, (example,) = annotations.convert({"text": "x", "label": label}, "classify", ())

    assert example.target == label


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ({"text": {"a": 5}}, "text", "must be text, not dict"),
        ({"text": "x", "body": "y"}, "body", "conflicts with text"),
        ({"text": "x", "title": ["y", "z"]}, "title", "holds 2 texts, and one is wanted"),
        ({"text": "x", "author": "y"}, "author", "unknown here"),
        ({"query": "x", "positive": "y"}, "query", "pairs of questions and passages"),
        ({"title": "x"}, "text", "missing"),
        ({"messages": []}, "messages", "questions and answers are for a chat track"),
        (
            {"tokens": ["a"], "tags": ["O"]},
            "tokens",
            "for a tagging track; in a retrieval track a row needs a text",
        ),
    ],
)
def test_a_bad_document_is_told_with_its_field(row, field, message):
    with pytest.raises(BadRow) as caught:
        annotations.convert(row, "retrieval", ())

    assert caught.value.field == field
    assert message in str(caught.value)


def test_two_documents_of_one_source_are_two_and_a_page_read_again_replaces_itself(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [
        {"source": "village", "title": "Part", "text": "one"},
        {"source": "village", "title": "Part", "text": "two"},
        {"url": "https://example.org", "text": "old"},
        {"url": "https://example.org", "text": "new"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))

    reading = reader.read(path, InboxSettings(), "retrieval")

    assert [example.target for example in reading.examples] == ["one", "two", "new"]
    assert [example.target for example in reading.contradicted] == ["old"]


@pytest.mark.parametrize(
    ("name", "task", "told"),
    [
        ("hf_tokens.jsonl", "tokens", "tokens and tags are for a tagging track"),
        ("gliner.json", "tokenized_text", "tokens and entities are for a tagging track"),
        ("spans.jsonl", "spans", "a text and its spans are for a tagging track"),
        ("doccano.jsonl", "label", "a text and its spans are for a tagging track"),
        ("spacy.json", "entities", "a text and its entities are for a tagging track"),
        ("label_studio.json", "annotations", "Label Studio's annotations are for a tagging track"),
        ("reviews.csv", "label", "a text and its label are for a classify track"),
        ("topics_hot.jsonl", "labels", "a text and its label are for a classify track"),
        ("documents.jsonl", "text", "a document is for a retrieval track"),
    ],
)
def test_a_chat_track_says_what_a_file_is_and_whose(name, task, told):
    with pytest.raises(SampleError) as caught:
        reader.read(DATA / name, InboxSettings())

    first = caught.value.data["rows"][0]
    assert (caught.value.code, first["field"]) == ("bad_rows", task)
    assert told in first["message"]
    assert "in a chat track a row needs a question and its answer" in first["message"]


# soft labels


def read_rows(tmp_path, *rows, labels=()):
    path = tmp_path / "rated.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return reader.read(path, InboxSettings(), "classify", labels=labels)


def test_the_shares_of_ratings_are_a_label(tmp_path):
    rows = [
        {"text": "fine", "label": {"good": 0.75, "bad": 0.25, "none": 0}},
        {"text": "bad", "label": {"1": 1}},
    ]

    assert said(read_rows(tmp_path, rows[0])) == [("fine", {"bad": 0.25, "good": 0.75})]
    assert said(read_rows(tmp_path, rows[1], labels=("good", "bad"))) == [("bad", {"bad": 1.0})]


@pytest.mark.parametrize(
    ("label", "field", "told"),
    [
        ({"good": 0.7, "bad": 0.2}, "label", "must be probabilities that sum to 1, and these sum to 0.9"),
        ({"good": 7, "bad": 3}, "label.good", "must be a probability, 0 to 1"),
        ({"good": True}, "label.good", "must be a probability, 0 to 1"),
        ({"good": "1"}, "label.good", "must be a probability, 0 to 1"),
        ({"0": 1.0}, "label.0", "is the number 0; say what it stands for"),
        ({}, "label", "sum to 0"),
    ],
)
def test_shares_that_are_none_are_refused_with_row_and_field(tmp_path, label, field, told):
    with pytest.raises(SampleError, match="cannot be used") as caught:
        read_rows(tmp_path, {"text": "fine", "label": label})

    (problem,) = caught.value.data["rows"]
    assert problem["row"] == 1
    assert told in problem["message"] or not label  # an empty label may be told as missing
    assert problem["field"] == field
