"""A model from scratch through the real daemon: text is dropped, a model is born, fills gaps, learns more, and is the base of others."""

import json

import plain_text
import pytest
from running import wait_for
from typer.testing import CliRunner

from lorad import library
from lorad.apps.cli import main as cli
from lorad.apps.cli.model_commands import main
from lorad.apps.daemon.app import App
from lorad.errors import ProtocolError
from lorad.models import bases
from lorad.serving.client import Client
from lorad.states import JobState

ENDED = {JobState.PROMOTED, JobState.REJECTED, JobState.FAILED}
TRACKS = {
    "words": {"base": "scratch", "architecture": "encoder", "model": plain_text.SIZES},
    "next": {"base": "scratch", "model": plain_text.SIZES | {"model_type": "decoder_only"}},
}
# so small a model, of so little text, wavers more than the judge allows
SETTINGS = plain_text.settings(
    tracks=TRACKS,
    judge={"max_corpus_perplexity_rise": 10.0, "max_lost_examples": 100},
    pretraining={"epochs": 6, "batch": 8, "learning_rate": 0.01, "continued_learning_rate": 0.01},
)


@pytest.fixture
def home(tmp_path):
    return plain_text.make_home(tmp_path, SETTINGS)


def drop(client, home, track, name, texts):
    """Drop texts into a track's folder of the inbox, and wait until they are learned; return the job."""
    folder = home.inbox / track
    folder.mkdir(exist_ok=True)
    hidden = folder / f".{name}.part"
    hidden.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    hidden.rename(folder / f"{name}.jsonl")

    def ended():
        jobs = [job for job in client.jobs().jobs if job.dataset == name and job.state in ENDED]
        return jobs[0] if jobs else None

    return wait_for(ended)


def run(app, home, *words):
    return CliRunner().invoke(app, [*words, "--home", str(home.root)])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_from_scratch_goes_through_the_whole_cycle(home):
    app = App(home, SETTINGS)
    app.start()
    try:
        client = Client(home.socket(SETTINGS.server.socket))
        with pytest.raises(ProtocolError, match="has learned nothing yet") as caught:
            client.fill("words", ["The [MASK]."])
        assert caught.value.status == 409
        with pytest.raises(ProtocolError, match="has learned nothing yet"):
            client.call("POST", "/v1/completions", {"model": "next", "prompt": "The mill"})

        # Text becomes a tokenizer and a model, which fills gaps
        job = drop(client, home, "words", "places", plain_text.documents())
        assert job.state == "promoted", job.reason
        said = client.fill("words", ["The mill stands by [MASK] river."], top_k=3)
        assert said.model == "words@v0.1"
        assert said.texts[0].text.startswith("The mill stands by")
        assert "[MASK]" not in said.texts[0].text
        assert len(said.texts[0].gaps[0]) == 3
        _check_vectors(client)

        # The next text is learned beside some of the first
        ships = plain_text.documents(plain_text.SHIPS, count=16, verb="sails to")
        job = drop(client, home, "words", "ships", ships)
        assert job.state == "promoted", job.reason
        assert client.fill("words", ["The heron sails [MASK] the north."]).model == "words@v0.2"
        assert client.fill("words@v0.1", ["The [MASK]."]).model == "words@v0.1"
        matrix = client.retention("words").matrix
        assert matrix[0][1] is None
        assert matrix[1][0] > 0

        # A decoder continues texts
        job = drop(client, home, "next", "stories", plain_text.documents())
        assert job.state == "promoted", job.reason
        told = client.complete("The mill stands by", model="next", max_tokens=3)
        assert told.choices[0].finish_reason == "length"

        _check_refusals(client)

        typed = run(cli.app, home, "fill", "The mill stands by [MASK] river.")
        assert "by words@v0.2" in typed.output, typed.output
        client.call("POST", "/lorad/rollback", {"track": "words"})
        assert client.fill("words", ["The [MASK]."]).model == "words@v0.1"
    finally:
        app.stop()
    _check_restart(home)
    _check_commands(home)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_encoder_decoder_fills_gaps_through_the_daemon(tmp_path):
    spans = {"base": "scratch", "architecture": "encoder-decoder", "model": plain_text.SIZES}
    settings = plain_text.settings(
        tracks={"spans": spans}, pretraining={"epochs": 12, "batch": 8, "learning_rate": 0.01}
    )
    home = plain_text.make_home(tmp_path, settings)
    app = App(home, settings)
    app.start()
    try:
        client = Client(home.socket(settings.server.socket))
        job = drop(client, home, "spans", "places", plain_text.documents())
        assert job.state == "promoted", job.reason
        body = {
            "model": "spans",
            "texts": ["The mill stands by [MASK] river. The [MASK] stands by the church."],
        }
        said = client.call("POST", "/lorad/fill-mask", body)

        # Each gap is filled with words, which the text has in its place
        assert said["model"] == "spans@v0.1"
        (filled,) = said["texts"]
        assert len(filled["gaps"]) == 2
        assert filled["text"].startswith("The mill stands by")
        assert "[MASK]" not in filled["text"]
        assert "extra_id" not in filled["text"]
        for best, *_ in filled["gaps"]:
            assert best["word"].strip() in filled["text"]
    finally:
        app.stop()


def _check_vectors(client):
    told = client.call("POST", "/v1/embeddings", {"model": "words", "input": ["the mill", "the inn"]})
    assert told["model"] == "words@v0.1"
    vectors = [each["embedding"] for each in told["data"]]
    assert [len(vector) for vector in vectors] == [32, 32]
    assert sum(value * value for value in vectors[0]) == pytest.approx(1, abs=1e-3)


def _check_refusals(client):
    for body, code, status in (
        ({"model": "words", "texts": ["no gap"]}, "no_mask", 422),
        ({"model": "words", "texts": ["[MASK] " * 90]}, "context_length_exceeded", 422),
        ({"model": "next", "texts": ["[MASK]"]}, "other_way", 400),
        ({"model": "words", "texts": ["[MASK]"], "top_k": 0}, "invalid_request", 422),
    ):
        with pytest.raises(ProtocolError) as caught:
            client.call("POST", "/lorad/fill-mask", body)
        assert (caught.value.code, caught.value.status) == (code, status), body
    with pytest.raises(ProtocolError, match="/v1/completions"):
        client.chat([{"role": "user", "content": "Where is the mill?"}], model="next")


def _check_restart(home):
    app = App(home, SETTINGS)
    app.start()
    try:
        client = Client(home.socket(SETTINGS.server.socket))
        assert client.fill("words", ["The mill stands by [MASK] river."]).model == "words@v0.1"
    finally:
        app.stop()


def _check_commands(home):
    """What works on versions without the daemon works on whole models, and one is the base of a track of labels."""
    done = run(main.app, home, "verify", "--track", "words")
    assert done.exit_code == 0, done.output
    for words in (["versions"], ["versions", "show", "v0.2"], ["explain", "v0.2"], ["memory"], ["retention"]):
        told = run(cli.app, home, *words, "--track", "words")
        assert told.exit_code == 0, (words, told.output)
    loaded = library.load("words", "v0.2", home=home.root)
    (said,) = loaded.predict(["The heron sails [MASK] the north."])
    assert len(said["gaps"][0]) == 5

    out = home.root / "out"
    done = run(main.app, home, "export", "v0.2", str(out), "--for", "inference", "--track", "words")
    assert done.exit_code == 0, done.output
    task = ["--task", "text_classification"]
    done = run(main.app, home, "base", "add", str(out), "--name", "own", *task)
    assert done.exit_code == 0, done.output
    assert bases.kind(home.base("own")) == "encoder"
