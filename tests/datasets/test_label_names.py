"""Names of labels: one spelling each, in a file, of a version, in a session."""

import json

import pytest

from lorad.config import InboxSettings
from lorad.datasets import label_names, reader
from lorad.datasets.label_names import LabelNames
from lorad.errors import SampleError
from lorad.records import Example

ARLO = {"text": "Arlo owns it.", "spans": [[0, 4, "PER"]]}


def tagged(*labels):
    target = [[at, at + 1, label] for at, label in enumerate(labels)]
    return Example(task="tagging", input="x" * 9, target=target)


def test_labels_are_what_an_example_is_taught():
    assert label_names.of(tagged("PER", "LOC", "PER")) == {"PER", "LOC"}
    assert label_names.of(Example(task="classify", input="x", target="spam")) == {"spam"}
    assert label_names.of(Example(task="classify", input="x", target=["a", "b"])) == {"a", "b"}
    assert label_names.of(Example(task="classify", input="x", target={"a": 0.5, "b": 0.5})) == {"a", "b"}
    assert label_names.of(Example(task="chat", input=[], target="spam")) == set()


def test_a_name_in_another_case_is_refused_and_not_remembered():
    known = LabelNames(["PER", "Straße"])

    for label in ("per", "STRASSE"):
        with pytest.raises(SampleError, match="in case only") as caught:
            known.check(tagged(label))
        assert caught.value.code == "label_case"
    known.check(tagged("PER", "loc"))
    known.check(tagged("LOC"))
    known.add(tagged("LOC"))
    with pytest.raises(SampleError, match="'loc' differs from 'LOC'"):
        known.check(tagged("loc"))


@pytest.mark.parametrize(
    ("known", "name"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("spam", "spam\u200b"),
        ("new york", "new  york"),
        ("new york", "New\u00a0York"),
        ("a/b", "a/ b"),
    ],
)
def test_a_name_that_looks_like_another_is_refused(known, name):
    with pytest.raises(SampleError, match="looks like") as caught:
        LabelNames([known]).check(tagged(name))

    assert caught.value.code == "label_spelling"
    assert str(caught.value).isascii()


def test_accents_that_are_seen_make_another_name():
    LabelNames(["resume"]).check(tagged("r\u00e9sum\u00e9"))


def test_each_level_of_a_path_is_spelled_in_one_way():
    known = LabelNames(["animals/owl"])

    known.check(tagged("animals/wren", "animals"))
    with pytest.raises(SampleError, match="'Animals' differs from 'animals'"):
        known.check(tagged("Animals/wren"))


def test_names_of_one_version_are_compared_with_each_other():
    label_names.check(["O", "B-PER", "I-PER"])
    with pytest.raises(SampleError, match="'B-per' differs from 'B-PER'"):
        label_names.check(["O", "B-PER", "I-PER", "B-per", "I-per"])


@pytest.mark.parametrize(
    ("task", "row", "other"),
    [
        ("tagging", ARLO, {"text": "Anna owns it.", "spans": [[0, 4, "per"]]}),
        ("classify", {"text": "a", "label": "fruit"}, {"text": "b", "label": "Fruit"}),
        ("classify", {"text": "a", "label": ["fruit"]}, {"text": "b", "label": ["metal", "FRUIT"]}),
        ("classify", {"text": "a", "label": "fruit"}, {"text": "b", "label": {"Fruit": 0.5, "metal": 0.5}}),
    ],
)
def test_a_file_whose_labels_differ_in_case_alone_fails_with_the_row(tmp_path, task, row, other):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, (row, other))))

    field = "label" if task == "classify" else "spans"
    with pytest.raises(SampleError, match=rf"row 2, field '{field}': the label .* in case only") as caught:
        reader.read(path, InboxSettings(), task)

    assert (caught.value.code, caught.value.data["row"]) == ("bad_rows", 2)
    assert caught.value.data["field"] == field


@pytest.mark.parametrize(
    ("task", "row"), [("tagging", ARLO), ("classify", {"text": "a", "label": ["PER", "LOC"]})]
)
def test_a_label_that_is_known_elsewhere_in_another_case_is_refused_too(tmp_path, task, row):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))

    assert reader.read(path, InboxSettings(), task, known=["PER"]).rows == 1
    with pytest.raises(SampleError, match="the label 'PER' differs from 'Per' in case only"):
        reader.read(path, InboxSettings(), task, known=["Per"])


def test_two_spellings_in_one_row_are_two_as_well(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ARLO | {"spans": [[0, 4, "PER"], [5, 9, "per"]]}))

    with pytest.raises(SampleError, match="row 1, field 'spans': the label"):
        reader.read(path, InboxSettings(), "tagging")
