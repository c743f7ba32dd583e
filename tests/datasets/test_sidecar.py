"""NAME.meta.yaml: what it may say, and every way in which it can be wrong."""

import os
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad.datasets import sidecar
from lorad.datasets.sidecar import Sidecar
from lorad.errors import SampleError

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
        ("colour: red", "no key colour; known: date, description, fields, labels, split, tags, task, track"),
        ("track: ../other", "track: "),
        ("fields: [a, b]", "fields: "),
        ("fields: {question: 3}", "fields.question: "),
        ("track: law\ntrack: chat", "the key 'track' appears twice"),
        ("fields: {a: b, a: c}", "the key 'a' appears twice"),
        ("- track", "the document: "),
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


BOMB = "a: &a [x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnop")
)
MERGED = "a: &a {x: 1}\nb: &b {<<: [*a, *a]}\n" + "c: {<<: [*b, *b, *b]}\n" * 9
TAGS = (
    "int",
    "float",
    "bool",
    "null",
    "set",
    "omap",
    "pairs",
    "timestamp",
    "binary",
    "str",
    "seq",
    "map",
    "merge",
)


@pytest.mark.parametrize(
    "text",
    [
        *(f"track: !!{tag} {value}" for tag in TAGS for value in ('""', "maybe", "[1]", "{a: b}")),
        *("!!set {a, b}", "track: ! law", "track: !law x", "!<tag:yaml.org,2002:int> ''"),
        *(
            "track: !!python/name:os.system",
            "!!python/object/new:os.system [id]",
            "%TAG ! x:\n---\ntrack: !y z",
        ),
        *(
            BOMB,
            MERGED,
            "track: &x law",
            "track: *x",
            "a: &a [*a]",
            "<<: {track: law}",
            "track: <<",
            "track: =",
        ),
        *("track: 2026-01-01", "track: 2026-99-99", "track: 017", "track: 1_000", "track: 1:30:59"),
        *("track: 1.0e+999", "track: .nan", "track: .inf", "track: -.INF", "track: no", "labels: [O, yes]"),
        *("track: " + "9" * 10_000, "9" * 10_000 + ": 1", "labels: [0x" + "f" * 20_000 + "]"),
        *("? [a, b]\n: c", "? {a: b}\n: c", "~: x", "1.5: x", "[a]: b", "? \n: x", "fields: {~: x}"),
        *(
            "[" * 60_000,
            "{" * 60_000,
            "- " * 30_000,
            "? " * 30_000,
            "a:\n" * 10_000,
            "labels: " + "[]," * 20_000,
        ),
        *(
            "- x\n" * 20_001,
            "labels: [" + "x," * 20_001 + "]",
            "labels: [" + "a" * 1001 + "]",
            "task: " + "x" * 50_000,
        ),
        *("x" * 60_000 + ": 1", "fields: {" + "q" * 50_000 + ": a}", "--- a\n--- b", "%YAML 9.9\n---\na: b"),
        *("%YAML " + "9" * 9000 + ".1\n--- a", '"\\ud800": x', 'track: "\\ud800"', 'labels: ["\\ud83d"]'),
        *(
            'description: "\\e[31m"',
            '"\\0": x',
            'description: "\\x9b2J"',
            "\x00",
            "\x1b[2J: x",
            "track: 'x",
            "@",
            "`",
        ),
        *(b"\xff\xfea\x00", b"\x80", "\ufeff\ufeffa: b", "a\rb\rc: [", "!", "&", "*", "|", ">", "%", "!!"),
        *("labels: ['" + "9" * 900 + "', b]", "fields: {q: ['a']}", "description: [[[[[[[a]]]]]]]"),
    ],
)
def test_a5_a_sidecar_of_any_content_is_one_short_named_error(tmp_path, text):
    with pytest.raises(SampleError) as caught:
        sidecar.beside(write(tmp_path, text)).fit_task("a.json.meta.yaml", "classify")

    assert caught.value.code == "sidecar"
    assert caught.value.message.startswith("a.json.meta.yaml: ")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 3000


def test_a10_an_alias_makes_nothing_of_a_kilobyte(tmp_path):
    path = write(tmp_path, BOMB)

    tracemalloc.start()
    try:
        with pytest.raises(SampleError, match="an anchor or an alias"):
            sidecar.beside(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 1 << 20


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")))
@settings(max_examples=100, deadline=None)
def test_a5_any_bytes_are_a_sidecar_or_a_named_error(content):
    for text in (content, b"track: " + content, b"labels: [" + content + b"]", b"fields: {" + content):
        try:
            sidecar.parse("a.json.meta.yaml", text)
        except SampleError as error:
            assert error.code == "sidecar"  # noqa: PT017 - that it is refused is one of two good ends
            error.message.encode()


@pytest.mark.parametrize(
    "text",
    [
        'track: "law"\nlabels:\n- "0"\n- \'no\'\n- ü\n',
        "{track: law, labels: ['0', 'no', 'ü']}",
        "# by hand\n--- \ntrack: law\nlabels: ['0', 'no', \"\\xFC\"]\n...\n",
        "\ufefftrack: law\nlabels: ['0', 'no', ü]",
    ],
)
def test_plain_values_are_read_in_every_spelling(tmp_path, text):
    assert sidecar.beside(write(tmp_path, text)) == Sidecar(track="law", labels=("0", "no", "ü"))


def test_a_description_may_have_several_lines(tmp_path):
    text = "description: |\n  Made by hand,\n  \tlate. 🙂 \u202b\n"

    assert sidecar.beside(write(tmp_path, text)).description.splitlines()[0] == "Made by hand,"


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

    with pytest.raises(SampleError, match="not a regular file"):
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
        (Sidecar(task="text_classification", labels=("good", "bad")), "classify", None),
        (Sidecar(task="token_classification"), "tagging", None),
        (Sidecar(labels=("PER",)), "retrieval", "retrieval has no labels"),
        (Sidecar(labels=("PER", "PER")), "tagging", "a name appears twice"),
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
