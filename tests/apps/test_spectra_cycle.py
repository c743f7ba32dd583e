"""Spectra through the real daemon: two drops, a session each, answers at the socket, on the command line and in Python."""

import json

import encoder_home
import pytest
import tiny_smiles
from running import wait_for
from typer.testing import CliRunner

from lorad import library
from lorad.apps.cli import main as cli
from lorad.apps.daemon.app import App
from lorad.errors import ProtocolError
from lorad.home import Home
from lorad.serving.client import Client
from lorad.states import JobState
from lorad.storage import files

SETTINGS = encoder_home.settings(
    tracks={"spectra": {"task": "spectra", "base": "smiles"}},
    planner={
        "table": [{"rank": 4, "alpha": 8, "epochs": 4, "batch": 4, "accumulation": 1, "max_length": 512}],
        "learning_rates": [{"learning_rate": 0.002}],
        "loraplus_ratio": 1,
        "stopping": {"recall": 1.0, "max_rounds": 60, "patience": 60},
    },
)
ENDED = {JobState.PROMOTED, JobState.REJECTED, JobState.FAILED}


@pytest.fixture
def home(tmp_path):
    for name in ("configs", "inbox", "models"):
        (tmp_path / name).mkdir()
    tiny_smiles.store(tmp_path / "source", tmp_path / "models" / "base" / "smiles")
    files.write_json(
        tmp_path / "configs" / "default.yaml", SETTINGS.model_dump(mode="json", exclude_defaults=True)
    )
    return Home(tmp_path)


def put(home, name, text):
    folder = home.inbox / "spectra"
    folder.mkdir(exist_ok=True)
    hidden = folder / f".{name}.part"
    hidden.write_text(text)
    hidden.rename(folder / name)


def learn(client, home, name, smiles):
    put(home, f"{name}.jsonl", "\n".join(map(json.dumps, tiny_smiles.rows(smiles))))

    def ended():
        jobs = [job for job in client.jobs().jobs if job.dataset == name and job.state in ENDED]
        return jobs[0] if jobs else None

    job = wait_for(ended, 240)
    assert job.state == "promoted", job.reason


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_spectra_go_through_the_whole_cycle(home, tmp_path):
    app = App(home, SETTINGS)
    app.start()
    try:
        client = Client(home.socket(SETTINGS.server.socket))
        asked = tiny_smiles.spectrum("CCCCCO") | {"candidates": list(tiny_smiles.ISOMERS)}
        with pytest.raises(ProtocolError, match="spectra has learned nothing yet") as caught:
            client.match_spectra([asked])
        assert caught.value.status == 409

        # Two drops are learned, and the first is still known after the second
        learn(client, home, "alcohols", tiny_smiles.ISOMERS)
        learn(client, home, "rings", tiny_smiles.RINGS)
        answer = client.match_spectra([asked])
        assert answer.model == "spectra@v0.2"
        assert answer.spectra[0].matches[0].smiles == "CCCCCO"
        assert client.retention("spectra").matrix[1][0] >= 0.9

        _check_refusals(home, client, asked)
        _check_command(home, tmp_path)
    finally:
        app.stop()

    model = library.load_model("v0.1", home=home.root)
    spectrum = tiny_smiles.spectrum("CCCCCO")
    said = library.infer(
        model,
        model.tokenizer,
        "CCCCCO",
        spectrum["mzs"],
        spectrum["intensities"],
        precursor_mz=spectrum["precursor_mz"],
        adduct="[M+H]+",
    )
    assert model.version == "v0.1"
    assert said.match > 0.5


def _check_refusals(home, client, asked):
    """What cannot be asked is 422 with its field; what cannot be learned fails at intake with row and field."""
    for change, param in (
        ({"candidates": ["C1C"]}, "spectra[1].smiles"),
        ({"intensities": [1.0]}, "spectra[1].intensities"),
    ):
        with pytest.raises(ProtocolError) as caught:
            client.match_spectra([asked, asked | change])
        assert (caught.value.status, caught.value.data["param"]) == (422, param)
    with pytest.raises(ProtocolError) as caught:
        client.tag_texts(["a"], "spectra")
    assert caught.value.code == "other_way"

    row = tiny_smiles.rows(["CCO"])[0] | {"smiles": "C1CC"}
    put(home, "broken.jsonl", json.dumps(row))

    def failed():
        found = [event for event in client.events().events if event.name == "failed"]
        return found[0] if found else None

    event = wait_for(failed)
    assert event.data["code"] == "bad_rows"
    assert "row 1, field 'smiles': 'C1CC' is no SMILES" in event.data["why"]


def _check_command(home, tmp_path):
    spectrum = tiny_smiles.spectrum("CCCCCO")
    typed = [
        *("--home", str(home.root), "spectrum", "--smiles", "CCCCCO", "--version", "v0.1"),
        *("--mzs", *map(str, spectrum["mzs"]), "--intensities", *map(str, spectrum["intensities"])),
    ]
    shown = CliRunner().invoke(cli.app, [*typed, "--plot", str(tmp_path / "spectrum.svg")])
    assert shown.exit_code == 0, shown.output
    assert "CCCCCO: match" in shown.stdout
    assert "by spectra@v0.1" in shown.stdout
    assert "<svg" in (tmp_path / "spectrum.svg").read_text()

    peaks = "\n".join(f"{mz} {i}" for mz, i in zip(spectrum["mzs"], spectrum["intensities"], strict=True))
    (tmp_path / "one.mgf").write_text(
        f"BEGIN IONS\nPEPMASS={spectrum['precursor_mz']}\nADDUCT=[M+H]+\n{peaks}\nEND IONS\n"
    )
    (tmp_path / "candidates.smi").write_text("\n".join(f"{smiles} name" for smiles in tiny_smiles.ISOMERS))
    ranked = CliRunner().invoke(
        cli.app,
        [
            *("--home", str(home.root), "spectrum", "rank", "--mgf", str(tmp_path / "one.mgf")),
            *("--candidates", str(tmp_path / "candidates.smi"), "--json"),
        ],
    )
    assert ranked.exit_code == 0, ranked.output
    matches = json.loads(ranked.stdout)["spectra"][0]["matches"]
    assert matches[0]["smiles"] == "CCCCCO"
    assert len(matches) == len(tiny_smiles.ISOMERS)
