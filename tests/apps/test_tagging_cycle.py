"""Tagging through the real daemon: three drops, labels that grow, answers with spans, refusals, exports, rollback."""

import json

import encoder_home
import pytest
import tiny_encoder
from running import wait_for
from transformers import pipeline
from typer.testing import CliRunner

from lorad import library
from lorad.apps.cli import main as cli
from lorad.apps.cli.model_commands.main import app as models_app
from lorad.apps.daemon.app import App
from lorad.errors import ProtocolError
from lorad.serving.client import Client
from lorad.storage import files

SETTINGS = encoder_home.settings(tracks={"ner": {"task": "token_classification", "base": "encoder"}})
WORDS = tiny_encoder.WORDS


def spans_row(text, word, label):
    start = text.index(word)
    return {"text": text, "spans": [{"start": start, "end": start + len(word), "label": label, "text": word}]}


def tags_row(text, word, label):
    tokens = text.split()
    return {"tokens": tokens, "tags": [f"B-{label}" if token == word else "O" for token in tokens]}


FRUIT = [(f"she took the {fruit}", fruit) for fruit in WORDS["fruit"]]
BIRDS = [(f"she saw the {bird}", bird) for bird in WORDS["bird"]]
METALS = [(f"she sold the {metal}", metal) for metal in WORDS["metal"]]


@pytest.fixture
def home(tmp_path):
    return encoder_home.make(tmp_path, SETTINGS)


def drop(client, home, name, rows):
    """Drop a file and wait until it is learned or has failed; return its job, or the reason of the failure."""
    hidden = home.inbox / f".{name}.part"
    hidden.write_text("\n".join(map(json.dumps, rows)))
    hidden.rename(home.inbox / name)
    reason = home.inbox / "failed" / f"{name}.reason.json"

    def ended():
        found = client.call("GET", "/lorad/jobs")["jobs"]
        known = {job["dataset"]: job for job in found if job["state"] in {"promoted", "rejected", "failed"}}
        return known.get(name.removesuffix(".jsonl")) or (reason.is_file() and json.loads(reason.read_text()))

    return wait_for(ended)


def tagged(client, texts, model="ner"):
    answer = client.tag_texts(texts, model)
    return [[(span.text, span.label) for span in text.spans] for text in answer.texts], answer.model


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_labels_grow_from_drop_to_drop_and_every_version_answers(home):
    app = App(home, SETTINGS)
    app.start()
    try:
        client = Client(home.socket(SETTINGS.server.socket))
        with pytest.raises(ProtocolError, match="has learned nothing yet"):
            client.tag_texts(["she took the fig"])

        # Three drops in two formats, each with a label of its own
        job = drop(client, home, "fruit.jsonl", [spans_row(*each, "fruit") for each in FRUIT])
        assert job["state"] == "promoted", job["reason"]
        assert tagged(client, ["she took the fig"]) == ([[("fig", "fruit")]], "ner@v0.1")
        for name, rows, label in (("birds", BIRDS, "bird"), ("metals", METALS, "metal")):
            job = drop(client, home, f"{name}.jsonl", [tags_row(*each, label) for each in rows])
            assert job["state"] == "promoted", job["reason"]

        # All three are kept
        said, version = tagged(client, [text for text, _ in (*FRUIT, *BIRDS, *METALS)])
        assert version == "ner@v0.3"
        assert said[:6] == [[(fruit, "fruit")] for fruit in WORDS["fruit"]]
        assert said[6:12] == [[(bird, "bird")] for bird in WORDS["bird"]]
        assert said[12:] == [[(metal, "metal")] for metal in WORDS["metal"]]
        assert client.retention("ner").matrix[-1] == (1.0, 1.0, 1.0)

        _check_refusals(client, home)
        _check_papers(client, home)
        client.rollback("ner", "v0.1")
        assert tagged(client, ["she took the fig"]) == ([[("fig", "fruit")]], "ner@v0.1")
        _check_commands(home)
    finally:
        app.stop()
    _check_restart(home)
    _check_exports(home)


def _check_refusals(client, home):
    for texts, model, status, code in (
        ([" "], "ner", 422, "no_text"),
        (["fig " * 70], "ner", 422, "context_length_exceeded"),
        (["fig"], "ner@v9", 404, "no_such_version"),
        (["fig"], "nothing", 404, "model_not_found"),
    ):
        with pytest.raises(ProtocolError) as caught:
            client.tag_texts(texts, model)
        assert (caught.value.status, caught.value.code) == (status, code)
    for name, row, says in (
        (
            "case.jsonl",
            spans_row("she took the plum", "plum", "Fruit"),
            "'Fruit' differs from 'fruit' in case only",
        ),
        (
            "inside.jsonl",
            spans_row("she took the plum", "plu", "fruit"),
            "row 1, field 'spans': fruit (13 to 16, 'plu') begins or ends inside 'plum'",
        ),
        ("blank.jsonl", {"text": "\u00a0", "spans": []}, "field 'text'"),
        ("length.jsonl", {"tokens": ["she", "took"], "tags": ["O"]}, "has 1 tags, and there are 2 tokens"),
        ("number.jsonl", {"tokens": ["she"], "tags": [3]}, "is the number 3; say what it stands for"),
        (
            "prefix.jsonl",
            {"tokens": ["fig"], "tags": ["fruit"]},
            "is 'fruit'; a tag is O, or a label after B-",
        ),
        ("other.jsonl", {"question": "Who?", "answer": "She."}, "for a chat track"),
    ):
        reason = drop(client, home, name, [row])
        assert (reason["code"], reason["row"]) == ("bad_rows", 1)
        assert says in reason["message"]


def _check_papers(client, home):
    told = client.version("ner", "v0.3")
    assert told.performance["entity_f1"] == told.performance["entity_f1[bird]"] == 1.0
    assert files.read_json(home.track("ner") / "merged" / "config.json")["architectures"] == [
        "BertForTokenClassification"
    ]


def _check_commands(home):
    told = CliRunner().invoke(cli.app, ["tag", "she took the fig", "--home", str(home.root)])
    assert (told.exit_code, told.stdout[: len("she took the fig (fruit, ")]) == (
        0,
        "she took the fig (fruit, ",
    )
    for words in (["versions"], ["versions", "show", "v0.2"], ["explain", "v0.2"], ["memory"], ["retention"]):
        told = CliRunner().invoke(cli.app, [*words, "--track", "ner", "--home", str(home.root)])
        assert told.exit_code == 0, (words, told.output)


def _check_restart(home):
    """After a restart, with every check and the probes, what served serves again."""
    app = App(home, SETTINGS)
    app.start()
    try:
        client = Client(home.socket(SETTINGS.server.socket))
        assert tagged(client, ["she took the fig"]) == ([[("fig", "fruit")]], "ner@v0.1")
    finally:
        app.stop()


def _check_exports(home):
    for words in (["verify"], ["reproduce", "v0.2"], ["calibrate", "v0.3"]):
        done = CliRunner().invoke(models_app, [*words, "--track", "ner", "--home", str(home.root)])
        assert done.exit_code == 0, (words, done.output)
    out = home.root / "out"
    words = ["export", "v0.3", str(out), "--format", "merged", "--track", "ner", "--home", str(home.root)]
    done = CliRunner().invoke(models_app, words)
    assert done.exit_code == 0, done.output
    found = pipeline("ner", model=str(out), aggregation_strategy="simple")(FRUIT[0][0])
    loaded = library.load("ner", "v0.3", home=home.root)
    assert [(each["start"], each["end"]) for each in found] == [
        (span["start"], span["end"]) for span in loaded.predict([FRUIT[0][0]])[0]["spans"]
    ]
