"""A task of one's own through the real daemon: drop, session in a child process, rehearsal, judge, swap, answer, rollback."""

import json
from pathlib import Path

import encoder_home
import pytest
import tiny_encoder
import toy_task
from running import wait_for
from typer.testing import CliRunner

from lorad import library
from lorad.apps.cli import main as cli
from lorad.apps.cli.model_commands import main
from lorad.apps.daemon.app import App
from lorad.errors import ProtocolError
from lorad.models import bases
from lorad.serving.client import Client
from lorad.storage import files

SETTINGS = encoder_home.settings(tracks={"things": {"task": "toy_task:Toy", "base": "encoder"}})
THINGS = tiny_encoder.texts(["fruit", "metal"], "things")
BIRDS = tiny_encoder.texts(["bird"], "birds")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home whose sessions find the task where it is: a user would have installed it."""
    monkeypatch.setenv("PYTHONPATH", str(Path(toy_task.__file__).parent), prepend=":")
    return encoder_home.make(tmp_path)


def drop(client, home, name, examples):
    """Drop rows of texts and labels and wait until they are learned; return the job."""
    rows = [{"text": example.input, "label": example.target} for example in examples]
    hidden = home.inbox / f".{name}.part"
    hidden.write_text(json.dumps(rows))
    hidden.rename(home.inbox / name)

    def ended():
        found = client.call("GET", "/lorad/jobs")["jobs"]
        known = {job["dataset"]: job for job in found if job["state"] in {"promoted", "rejected", "failed"}}
        return known.get(name.removesuffix(".json"))

    return wait_for(ended)


def predict(client, examples, model="things"):
    """Return what is said of each text, and which version said it."""
    answer = client.predict(model, [example.input for example in examples])
    return [said["label"] for said in answer.predictions], answer.model


def targets(examples):
    return [example.target for example in examples]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_task_of_ones_own_goes_through_the_whole_cycle(home):
    app = App(home, SETTINGS)
    app.start()
    try:
        client = Client(home.socket(SETTINGS.server.socket))
        with pytest.raises(ProtocolError, match="has learned nothing yet"):
            predict(client, THINGS)

        # A file is read, learned in a child process, judged and served
        job = drop(client, home, "things.json", THINGS)
        assert job["state"] == "promoted", job["reason"]
        assert predict(client, THINGS) == (targets(THINGS), "things@v0.1")

        # The next one brings a label, and the older dataset is rehearsed and kept
        job = drop(client, home, "birds.json", BIRDS)
        assert job["state"] == "promoted", job["reason"]
        assert predict(client, [*THINGS, *BIRDS]) == (targets([*THINGS, *BIRDS]), "things@v0.2")
        matrix = client.call("GET", "/lorad/retention", track="things")
        assert matrix["matrix"] == [[1.0, None], [1.0, 1.0]]

        # Any version answers by its name
        assert predict(client, THINGS, "things@v0.1") == (targets(THINGS), "things@v0.1")
        _check_refusals(client)
        _check_papers(home)

        # Back to the one before, which knows no birds
        client.call("POST", "/lorad/rollback", {"track": "things"})
        said, version = predict(client, BIRDS)
        assert version == "things@v0.1"
        assert set(said) <= {"fruit", "metal"}
    finally:
        app.stop()
    _check_restart(home)
    _check_commands(home)


def _check_refusals(client):
    for body, code in (
        ({"model": "things", "inputs": []}, "invalid_request"),
        ({"model": "things", "inputs": [7]}, "no_text"),
        ({"model": "things@v9", "inputs": ["she took the fig"]}, "no_such_version"),
        ({"model": "nothing", "inputs": ["she took the fig"]}, "model_not_found"),
    ):
        with pytest.raises(ProtocolError) as caught:
            client.call("POST", "/lorad/predict", body)
        assert caught.value.code == code
    with pytest.raises(ProtocolError, match="POST /lorad/predict"):
        client.chat([{"role": "user", "content": "Is it a fruit?"}], model="things")


def _check_papers(home):
    """What only causal models have was not measured, and the probes are rows of the task."""
    told = files.read_json(home.track("things") / "checkpoint_tracker.json")["checkpoints"]
    assert [sorted(entry["performance"]) for entry in told] == [
        ["log_loss", "recall"],
        ["log_loss", "recall", "retention"],
    ]
    version = home.track("things") / "versions" / "v0.2"
    result = files.read_json(version / "evaluation.json")
    assert result["verdict"]["promote"]
    assert result["evaluation"]["perplexity"] is None
    probes = files.read_json(version / "probes.json")["probes"]
    assert probes
    assert all({"tokens", "label", "logits"} <= entry.keys() for entry in probes)
    assert not list(home.base("encoder").parent.glob("*.general.safetensors"))


def _check_restart(home):
    """After a restart, with every check and the probes, what served serves again."""
    app = App(home, SETTINGS)
    app.start()
    try:
        client = Client(home.socket(SETTINGS.server.socket))
        assert predict(client, THINGS) == (targets(THINGS), "things@v0.1")
    finally:
        app.stop()


def _check_commands(home):
    """What works on versions without the daemon knows the task by its word too."""
    files.write_json(home.configs / "default.yaml", SETTINGS.model_dump(mode="json", exclude_defaults=True))
    for words in (["verify"], ["reproduce", "v0.2"], ["calibrate", "v0.2"]):
        done = CliRunner().invoke(main.app, [*words, "--track", "things", "--home", str(home.root)])
        assert done.exit_code == 0, (words, done.output)
    for words in (["versions"], ["versions", "show", "v0.2"], ["explain", "v0.2"], ["memory"], ["retention"]):
        told = CliRunner().invoke(cli.app, [*words, "--track", "things", "--home", str(home.root)])
        assert told.exit_code == 0, (words, told.output)
        assert "perplexity" not in told.output
    loaded = library.load("things", "v0.2", home=home.root)
    assert [said["label"] for said in loaded.predict([each.input for each in BIRDS])] == targets(BIRDS)
    with pytest.raises(ProtocolError, match="answers with data"):
        loaded.answer("Is it a fruit?")


def test_a_base_is_added_for_the_task_that_will_use_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(toy_task.__file__).parent), prepend=":")
    (tmp_path / "models" / "base").mkdir(parents=True)
    tiny_encoder.store(tmp_path / "source", tmp_path / "stored")
    arguments = ["base", "add", str(tmp_path / "source"), "--home", str(tmp_path), "--json"]

    compares = CliRunner().invoke(main.app, [*arguments, "--name", "compares"])
    assert compares.exit_code == 0, compares.output  # without a task an encoder is there to compare texts
    assert json.loads(compares.stdout)["kind"] == "encoder"

    added = CliRunner().invoke(main.app, [*arguments, "--name", "encoder", "--task", "toy_task:Toy"])

    assert added.exit_code == 0, added.output
    assert bases.verify_base(tmp_path / "models" / "base" / "encoder") == bases.verify_base(
        tmp_path / "stored"
    )
