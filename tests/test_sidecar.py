"""NAME.meta.yaml: what it may say, and every way in which it can be wrong."""

import os

import pytest

from lorad import sidecar
from lorad.errors import SampleError
from lorad.sidecar import Sidecar

FULL = """
track: law
task: chat
fields: {question: Frage, answer: Antwort}
description: Made by hand.
"""


def write(tmp_path, text, name="a.json"):
    path = tmp_path / name
    data = text if isinstance(text, bytes) else text.encode()
    sidecar.path_of(path).write_bytes(data)
    return path


def test_it_lies_beside_its_file_under_the_whole_name(tmp_path):
    assert sidecar.path_of(tmp_path / "a.jsonl.gz").name == "a.jsonl.gz.meta.yaml"


@pytest.mark.parametrize("name", ["a" * 250 + ".json", "\udce4" * 200 + ".json"])
def test_a_name_without_room_for_more_has_one_too(tmp_path, name):
    found = sidecar.path_of(tmp_path / name).name

    assert found.endswith(".meta.yaml")
    assert len(os.fsencode(found)) <= 255


def test_all_that_it_may_say_is_read(tmp_path):
    assert sidecar.beside(write(tmp_path, FULL)) == Sidecar(
        track="law",
        task="chat",
        fields={"question": "Frage", "answer": "Antwort"},
        description="Made by hand.",
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_an_empty_one_says_nothing(tmp_path, text):
    assert sidecar.beside(write(tmp_path, text)) == Sidecar()


def test_none_says_nothing(tmp_path):
    assert sidecar.beside(tmp_path / "a.json") == Sidecar()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("feilds: {a: b}", "no key feilds; did you mean fields?"),
        ("colour: red", "no key colour; known: description, fields, labels, task, track"),
        ("track: ../other", "track: "),
        ("fields: [a, b]", "fields: "),
        ("fields: {question: 3}", "fields.question: "),
        ("track: law\ntrack: chat", "the key 'track' stands twice"),
        ("fields: {a: b, a: c}", "the key 'a' stands twice"),
        ("- track", "the whole: "),
        ("track: [", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("description: " + "x" * 2001, "description: "),
        (b"track: \xff", "not YAML"),
        ("x: " + "[" * 5000, "not YAML"),
        ("# " + "x" * 70_000, "more than 64000"),
        ("2026-99-99: 1", "not YAML"),
    ],
)
def test_whatever_is_wrong_is_one_named_error(tmp_path, text, told):
    with pytest.raises(SampleError) as caught:
        sidecar.beside(write(tmp_path, text))

    assert caught.value.code == "sidecar"
    assert told in caught.value.message
    assert "a.json.meta.yaml" in caught.value.message


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_is_never_opened(tmp_path, kind):
    path = tmp_path / "a.json.meta.yaml"
    (tmp_path / "outside").write_text("track: law")
    if kind == "pipe":
        os.mkfifo(path)  # opening it would wait for a writer
    elif kind == "link":
        path.symlink_to(tmp_path / "outside")
    else:
        path.mkdir()

    with pytest.raises(SampleError, match="no plain file"):
        sidecar.beside(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (Sidecar(task="tagging"), "learns chat, not tagging"),
        (Sidecar(labels=("PER", "LOC")), "labels"),
        (Sidecar(track="tax"), "no track tax; there is: chat, law"),
        (Sidecar(task="chat", track="law", description="fine"), None),
    ],
)
def test_what_a_track_cannot_do_is_refused(said, told):
    if told is None:
        said.fit("a.json.meta.yaml", "law", "chat", ("chat", "law"))
        return
    with pytest.raises(SampleError, match=told):
        said.fit("a.json.meta.yaml", "law", "chat", ("chat", "law"))


@pytest.mark.parametrize(
    ("said", "task", "told"),
    [
        (Sidecar(labels=("PER", "LOC"), track="law"), "tagging", None),  # the track is not asked
        (Sidecar(task="classify", labels=("good", "bad")), "classify", None),
        (Sidecar(labels=("PER",)), "retrieval", "retrieval has no labels"),
        (Sidecar(labels=("PER", "PER")), "tagging", "a name stands twice"),
        (Sidecar(labels=("1", "2", "3")), "classify", "the label of number 0 is called 1, another number"),
        (Sidecar(labels=("0", "1", "many")), "classify", None),
        (Sidecar(task="tagging"), "classify", "the file is for tagging, not classify"),
    ],
)
def test_what_a_task_cannot_do_is_refused(said, task, told):
    if told is None:
        said.fit_task("a.json.meta.yaml", task)
        return
    with pytest.raises(SampleError, match=told):
        said.fit_task("a.json.meta.yaml", task)
