"""Labels of texts through the real daemon: drops, sessions, calibration, a system of tracks, and a member that rots."""

import json

import encoder_home
import pytest
import tiny_encoder
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
from lorad.storage import files
from lorad.versions.store import Registry

TRACK = {"task": "text_classification", "base": "encoder"}
SETTINGS = encoder_home.settings(
    tracks=dict.fromkeys(("detector", "refinement", "large", "small"), TRACK),
    systems={
        "lcr": {
            "detector": {"track": "detector", "continue_on": ["fruit"]},
            "refinement": {"track": "refinement"},
            "classifier": {"variants": {"large": "large", "small": "small"}},
        }
    },
)
ENDED = {JobState.PROMOTED, JobState.REJECTED, JobState.FAILED}
PATHS = {"fruit": "things/food/fruit", "metal": "things/metal", "bird": "animals/bird"}


@pytest.fixture
def home(tmp_path):
    return encoder_home.make(tmp_path, SETTINGS)


def texts(*kinds, to=lambda kind: kind):
    """Return rows, each text also with a number behind it, which the tokenizer does not know."""
    found = [{"text": each.input, "label": to(each.target)} for each in tiny_encoder.texts(kinds)]
    return [*found, *({**row, "text": f"{row['text']} 7"} for row in found)]


def many():
    """Return so many rows that some are held out; what the numbers say the tokenizer does not know."""
    words = [(kind, word) for kind in ("fruit", "metal") for word in tiny_encoder.WORDS[kind]]
    return [
        {"text": f"she took the {words[at % 12][1]} {at}", "label": words[at % 12][0]} for at in range(300)
    ]


def put(home, track, name, rows):
    """Rename a file into a track's folder of the inbox."""
    folder = home.inbox / track
    folder.mkdir(exist_ok=True)
    hidden = folder / f".{name}.part"
    hidden.write_text(json.dumps(rows))
    hidden.rename(folder / f"{name}.json")


def learn(client, home, track, name, rows):
    put(home, track, name, rows)

    def ended():
        jobs = [job for job in client.jobs().jobs if job.dataset == name and job.state in ENDED]
        return jobs[0] if jobs else None

    job = wait_for(ended)
    assert job.state == "promoted", job.reason


def run(home, *words):
    return CliRunner().invoke(main.app, [*words, "--home", str(home.root)])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_system_of_tracks_goes_through_the_whole_cycle(home, monkeypatch):
    app = App(home, SETTINGS)
    app.start()
    try:
        client = Client(home.socket(SETTINGS.server.socket))
        with pytest.raises(ProtocolError, match="detector has learned nothing yet") as caught:
            client.ask_system("lcr", ["she took the fig"])
        assert caught.value.status == 409

        # Three drops are learned: one for each role
        learn(client, home, "detector", "kinds", many())
        learn(
            client,
            home,
            "refinement",
            "use",
            texts("fruit", to=lambda _: "eaten") + texts("metal", to=lambda _: "melted"),
        )
        learn(client, home, "small", "paths", texts("fruit", "metal", to=PATHS.get))
        said = client.classify("small", ["she took the fig", "she took the tin"])
        assert [each.label for each in said.classifications] == ["things/food/fruit", "things/metal"]
        assert said.model == "small@v0.1"

        # The chain is asked, and ends where a label does not lead on
        _check_chain(home, client)
        _check_intake(home, client)

        # A label more, and the older ones are kept
        learn(client, home, "small", "birds", texts("bird", to=PATHS.get))
        said = client.classify("small", ["she took the owl", "she took the fig"])
        assert [each.label for each in said.classifications] == ["animals/bird", "things/food/fruit"]
        assert client.retention("small").matrix == ((1.0, None), (1.0, 1.0))
    finally:
        app.stop()
    _check_calibration(home)
    _check_damage(home, _loaded_bases(monkeypatch))


def _check_chain(home, client):
    answer = client.ask_system("lcr", ["she took the fig 7", "she took the tin 7"])
    fruit, metal = answer.results
    assert [step.classification.label for step in fruit.steps] == ["fruit", "eaten", "things/food/fruit"]
    assert (metal.ended_at, metal.label) == ("detector", "metal")
    assert [(each.role, each.version, each.variant) for each in answer.members] == [
        ("detector", "v0.1", ""),
        ("refinement", "v0.1", ""),
        ("classifier", "v0.1", "small"),
    ]
    for step in fruit.steps:
        assert sum(step.classification.probabilities.values()) == pytest.approx(1, abs=1e-4)
    with pytest.raises(ProtocolError, match="large has learned nothing yet"):
        client.ask_system("lcr", ["she took the fig"], "large")
    typed = ["--home", str(home.root), "classify", "--system", "lcr", "she took the fig 7"]
    assert "things/food/fruit" in CliRunner().invoke(cli.app, typed).stdout
    with pytest.raises(ProtocolError) as caught:
        client.classify("small", ["fig " * 70])
    assert (caught.value.status, caught.value.code) == (422, "context_length_exceeded")


def _check_intake(home, client):
    """What does not fit the labels that the track knows fails with its row and field, and nothing is trained."""
    put(home, "small", "shouted", texts("metal", to=lambda _: "Things/Metal"))

    def failed():
        found = [event for event in client.events().events if event.name == "failed"]
        return found[0] if found else None

    event = wait_for(failed)
    assert event.data["code"] == "bad_rows"
    assert "row 1, field 'label': the label 'Things' differs from 'things' in case only" in event.data["why"]


def _check_calibration(home):
    """The session's own calibration is the reference, and drift is named."""
    papers = files.read_json(home.track("detector") / "versions" / "v0.1" / "calibration.json")
    assert papers["applied"]["temperature"] > 0
    assert run(home, "calibrate", "--track", "detector", "--check").exit_code == 0
    registry = Registry(home.track("detector"))
    moved = [row | {"confidence": row["confidence"] * 0.8} for row in papers["rows"]]
    registry.keep_calibration("v0.1", papers | {"version": "v0.1", "rows": moved})
    drifted = run(home, "calibrate", "--track", "detector", "--check", "--json")
    assert drifted.exit_code == 1
    assert "confidence" in json.loads(drifted.stdout)["check"]["drifted"]


def _loaded_bases(monkeypatch):
    """Note which bases are loaded from now on."""
    loaded, load = [], bases.load_to_answer

    def note(folder, *how):
        loaded.append(folder.name)
        return load(folder, *how)

    monkeypatch.setattr(bases, "load_to_answer", note)
    return loaded


def _check_damage(home, loaded_bases):
    """All members are verified together; a damaged one is named, and the newest intact version stands in for it."""
    # the large variant has learned nothing, and that is said
    told = run(home, "verify", "--system", "lcr", "--json")
    assert told.exit_code == 0  # another variant of its role has
    assert loaded_bases == ["encoder"]  # on which all of them stand
    rows = json.loads(told.stdout)
    assert [(row["track"], row["version"], row["intact"]) for row in rows] == [
        ("detector", "v0.1", True),
        ("refinement", "v0.1", True),
        ("large", "base", False),
        ("small", "v0.2", True),
    ]
    loaded = library.load_system("lcr", home=home.root)
    assert (loaded.damaged, loaded.members["classifier"].version) == ((), "v0.2")

    weights = home.track("small") / "versions" / "v0.2" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))

    loaded_bases.clear()
    told = run(home, "verify", "--system", "lcr")
    assert (told.exit_code, loaded_bases) == (1, ["encoder"])
    assert "classifier small" in told.stdout
    assert "v0.1 stands in for it" in " ".join(told.stdout.split())
    loaded = library.load_system("lcr", home=home.root)
    (reason,) = loaded.damaged
    assert reason.startswith("classifier (small): v0.2 is corrupt")
    (result,) = loaded.answer(["she took the fig 7"]).results
    assert result.label == "things/food/fruit"

    app = App(home, SETTINGS)
    app.start()
    try:
        answer = Client(home.socket(SETTINGS.server.socket)).ask_system("lcr", ["she took the fig 7"])
        member = answer.members[-1]
        assert (member.track, member.version, member.corrupt) == ("small", "v0.1", ("v0.2",))
        assert answer.results[0].label == "things/food/fruit"
    finally:
        app.stop()
