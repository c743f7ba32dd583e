"""Names that people give are checked before anything is read, written or removed; what was there stays."""

import errno
import json
import os
import threading

import pytest
import tiny
from home import Track
from typer.testing import CliRunner

from lorad.apps.cli.memory import _split_by_dataset
from lorad.apps.cli.model_commands import base_models, main
from lorad.errors import ConfigError, LoradError, RegistryError
from lorad.models import base_source, bases, peft_io
from lorad.storage import files, targets
from lorad.versions import export, import_version
from lorad.versions.store import Registry


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    return Track(tmp_path_factory.mktemp("home"))


@pytest.fixture
def theirs(track, tmp_path):
    peft_io.write_adapter(peft_io.read_adapter(track.registry.path("v0.1")), tmp_path / "theirs", "x")
    return tmp_path / "theirs"


def typed(track, *words):
    result = CliRunner().invoke(main.app, [*map(str, words), "--home", str(track.root)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def everything(folder):
    return {
        str(p.relative_to(folder)): p.lstat().st_mtime_ns for p in folder.rglob("*") if ".lock" not in p.name
    }


BAD_VERSIONS = [
    *(
        "/../../../../keep",
        "../keep",
        "",
        ".",
        "..",
        "v0.3/../../x",
        "v0.3\n",
        "v0.3 ",
        "V0.3",
        "latest",
        "v٣.1",
    ),
    *("v0.03", "v00.3", f"v0.{'9' * 300}", "x" * 300, "/var/v0.3", "v0.3\x1b[0m"),
]


@pytest.mark.parametrize("name", BAD_VERSIONS)
def test_a13_a_name_is_checked_before_anything_is_written(track, theirs, name):
    kept = track.registry.folder / "keep"
    kept.mkdir(exist_ok=True)
    (kept / "precious").touch()
    before = everything(track.root)

    with pytest.raises(RegistryError, match="invalid version name") as caught:
        typed(track, "versions", "add", name, theirs)

    assert caught.value.code == "bad_version"
    assert everything(track.root) == before


def test_a13_a_name_that_is_taken_is_told_before_anything_is_read(track):
    with pytest.raises(RegistryError, match=r"there is a v0\.1 already"):
        typed(track, "versions", "add", "v0.1", "/nowhere")


@pytest.mark.parametrize(
    "words",
    [
        ["--metric", "x=nan"],
        ["--metric", "=1"],
        ["--metric", "a\nb=1"],
        ["--description", "\x1b]0;x\x07"],
        ["--description", "x" * 2000],
        ["--base", "../../etc"],
        ["--base", "a" * 300],
    ],
)
def test_a13_whatever_is_said_of_a_version_is_checked_first(track, theirs, words):
    before = everything(track.root)

    with pytest.raises(ConfigError):
        typed(track, "versions", "add", "v0.9", theirs, *words)

    assert everything(track.root) == before


def test_a13_what_is_brought_is_made_in_a_place_of_its_own_by_one_at_a_time(track, theirs):
    with track.registry.workspace.adopting(), pytest.raises(LoradError, match="another lorad process"):
        typed(track, "versions", "add", "v0.9", theirs)

    # what a kill has left of an earlier one goes
    files.write_json(track.registry.folder / "adopting" / "candidate" / "old.json", {})
    typed(track, "versions", "add", "v0.9", theirs)
    registry = Registry(track.registry.folder)
    assert not (registry.path("v0.9") / "old.json").exists()
    assert [p.name for p in (registry.folder / "adopting").iterdir()] == [".lock"]


# exports


@pytest.fixture
def version(track):
    return track.registry.path("v0.1")


def test_a_version_that_answers_in_text_is_not_imported_where_answers_are_data(track, theirs):
    words = ["--set", "tracks.things={task: 'toy_task:Toy', base: tiny}", "--track", "things"]

    with pytest.raises(ConfigError, match=r"things answers with data \(toy\)"):
        typed(track, "versions", "add", "v0.1", theirs, *words)


def test_a13_what_lies_beside_an_export_stays(version, track, tmp_path):
    (tmp_path / ".mine.part").mkdir()
    (tmp_path / ".mine.part" / "precious").touch()

    export.export(version, track.base, tmp_path / "mine", "adapter")

    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.part", "mine"]
    assert (tmp_path / ".mine.part" / "precious").exists()
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o777 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("kind", ["file", "folder", "link", "link to nowhere", "pipe"])
def test_a13_what_has_the_name_of_an_export_stays(version, track, tmp_path, kind):
    target = tmp_path / "mine"
    {
        "file": target.touch,
        "folder": target.mkdir,
        "link": lambda: target.symlink_to(tmp_path),
        "link to nowhere": lambda: target.symlink_to(tmp_path / "nowhere"),
        "pipe": lambda: os.mkfifo(target),
    }[kind]()
    before = target.lstat()

    with pytest.raises(ConfigError, match="exists already"):
        export.export(version, track.base, target, "adapter")

    assert target.lstat() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["", ".", "..", "new/..", "x" * 300, "a\0b", "new/x/../.."])
def test_a13_what_can_be_no_name_of_an_export_leaves_nothing(track, version, tmp_path, name):
    before = everything(tmp_path)

    with pytest.raises(ConfigError):
        export.export(version, track.base, tmp_path / name, "adapter")

    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "place", ["inbox/x", "models/chat/versions/v9.9", "models/base/x", "configs/../inbox/x"]
)
def test_a13_nothing_is_exported_into_what_the_daemon_looks_after(track, place):
    with pytest.raises(ConfigError, match="lorad uses itself"):
        typed(track, "export", "v0.1", track.root / place)

    assert not (track.root / place).exists()


def test_a13_of_an_export_that_fails_nothing_stays(version, track, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_expect", lambda *_: (_ for _ in ()).throw(RegistryError("differs")))

    with pytest.raises(RegistryError, match="differs"):
        export.export(version, track.base, tmp_path / "new" / "folder" / "mine", "adapter")

    assert list(tmp_path.iterdir()) == []


def test_a13_of_two_exports_to_one_name_the_first_stays(version, track, tmp_path):
    def meanwhile(source, target):
        export.export(version, track.base, target, "adapter")
        (target / "mark").touch()
        return put(source, target)

    put = targets.put
    told = []

    def second():
        try:
            with targets.beside(tmp_path / "mine") as scratch:
                (scratch / "made" / "x").mkdir(parents=True)
                meanwhile(scratch / "made", tmp_path / "mine")
        except ConfigError as error:
            told.append(error)

    thread = threading.Thread(target=second)
    thread.start()
    thread.join()

    assert [error.code for error in told] == ["target_exists"]
    assert (tmp_path / "mine" / "mark").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# files that people name


@pytest.mark.parametrize("kind", ["file", "folder", "link", "link to nowhere", "pipe", "device"])
def test_a13_a_file_is_only_replaced_where_that_was_said(tmp_path, kind):
    target = tmp_path / "memory.jsonl"
    (tmp_path / "elsewhere").write_text("precious")
    {
        "file": lambda: target.write_text("precious"),
        "folder": target.mkdir,
        "link": lambda: target.symlink_to(tmp_path / "elsewhere"),
        "link to nowhere": lambda: target.symlink_to(tmp_path / "nowhere"),
        "pipe": lambda: os.mkfifo(target),
        "device": lambda: target.symlink_to("/dev/null"),
    }[kind]()
    before = everything(tmp_path)

    for replace in (False, True)[: 1 if kind == "file" else 2]:
        with pytest.raises(ConfigError), targets.writing(target, replace=replace):
            raise AssertionError("it was opened")
    assert everything(tmp_path) == before
    if kind == "file":
        with targets.writing(target, replace=True) as stream:
            stream.write("new \ud800")
        assert target.read_text() == "new \\ud800"


def test_a_file_is_written_where_files_have_one_name_only(tmp_path, monkeypatch):
    # Given a memory stick
    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted", source, None, target)

    monkeypatch.setattr(os, "link", refuse)

    with targets.writing(tmp_path / "memory.jsonl", replace=False) as stream:
        stream.write("rows")

    assert (tmp_path / "memory.jsonl").read_text() == "rows"
    assert [path.name for path in tmp_path.iterdir()] == ["memory.jsonl"]


def test_a13_what_comes_while_a_file_is_written_stays(tmp_path):
    target = tmp_path / "memory.jsonl"

    def write():
        with targets.writing(target, replace=False) as stream:
            stream.write("mine")
            target.write_text("yours")

    with pytest.raises(ConfigError, match="--force"):
        write()

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("memory.jsonl", "yours")]


# base models


@pytest.mark.parametrize("name", ["../x", "/var/x", ".", "..", ".hidden", "a" * 300, "a\nb", "a b", "ø"])
def test_a13_a_base_is_named_like_one(track, tmp_path, name):
    source = tiny.save(tmp_path / "source")

    with pytest.raises(ConfigError, match="invalid base model name"):
        typed(track, "base", "add", source, "--name", name)


def test_a13_a_base_replaces_nothing_but_a_damaged_base(tmp_path):
    source = tiny.save(tmp_path / "source")
    (tmp_path / "bases" / "tiny").mkdir(parents=True)
    (tmp_path / "bases" / "tiny" / "precious").touch()
    (tmp_path / "bases" / ".tiny.part").mkdir()

    with pytest.raises(ConfigError, match="exists already"):
        bases.store_base(source, tmp_path / "bases" / "tiny")
    for target in (source / "inside", source, tmp_path):
        with pytest.raises(ConfigError):
            bases.store_base(source, target)

    assert (tmp_path / "bases" / "tiny" / "precious").exists()
    assert (tmp_path / "bases" / ".tiny.part").exists()


def test_a13_what_was_made_again_and_kept_is_not_removed_by_the_next(track):
    with track.registry.workspace.reproducing("v0.1", keep=True) as folder:
        files.write_json(folder / "first.json", {})
    with track.registry.workspace.reproducing("v0.1", keep=False) as folder:
        files.write_json(folder / "second.json", {})
    with pytest.raises(RegistryError), track.registry.workspace.reproducing("v0.1", keep=True):
        raise RegistryError("it failed")

    kept = track.registry.folder / "reproduced"
    assert [path.name for path in (kept / "v0.1").iterdir()] == ["first.json"]
    assert sorted(path.name for path in kept.iterdir()) == [".lock", "v0.1"]


# what is brought: names of datasets


@pytest.mark.parametrize(
    "name",
    [
        "x" * 300,
        "é" * 200,
        "a\nb\x1b[0m",
        "\ud800",
        "",
        ".",
        "..",
        "../../up",
        "/etc/passwd",
        "😀" * 100,
        "a/b",
    ],
)
def test_a20_a_datasets_name_becomes_a_files_name_whatever_it_is(tmp_path, name):
    file = tmp_path / "memory.jsonl"
    folder = tmp_path / "split"
    folder.mkdir()
    file.write_text(
        "".join(json.dumps({"dataset": each, "n": n}) + "\n" for n, each in enumerate([name, "b", name]))
    )

    found = _split_by_dataset(file, folder)

    assert len(found) == 2
    assert all(path.parent == folder and len(os.fsencode(path.name)) < 215 for path in found)
    assert all(path.stem.isprintable() for path in found)
    assert sorted(len(path.read_text().splitlines()) for path in found) == [1, 2]


def test_a20_names_that_look_alike_stay_apart_and_there_may_be_thousands(tmp_path):
    file = tmp_path / "memory.jsonl"
    (tmp_path / "split").mkdir()
    names = ["a/b", "a_b", "a:b", "x" * 300, "x" * 301, *map(str, range(2000))]
    file.write_text("".join(json.dumps({"dataset": name}) + "\n" for name in names))

    assert len(_split_by_dataset(file, tmp_path / "split")) == len(names)


@pytest.mark.parametrize(
    "row", ['{"dataset": {"a": 1}}', '{"dataset": null}', '{"a": ' + "[" * 100_000, "[]"]
)
def test_a20_a_row_of_no_export_is_a_sentence(tmp_path, row):
    (tmp_path / "memory.jsonl").write_text(row + "\n")

    with pytest.raises(ConfigError, match="line 1: not a row"):
        _split_by_dataset(tmp_path / "memory.jsonl", tmp_path)


# bases from outside


@pytest.fixture
def source(tmp_path):
    return tiny.save(tmp_path / "source")


def change(folder, name="config.json", **values):
    files.write_json(folder / name, files.read_json(folder / name) | values)


@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 10**400},
        {"hidden_size": 10**9},
        {"intermediate_size": 10**9},
        {"vocab_size": 10**9},
        {"num_attention_heads": 10**9},
        {"head_dim": 10**9},
        {"num_local_experts": 10**6},
        {"text_config": {"num_hidden_layers": 10**6}},
        {"layer_types": ["full_attention"] * 100_000},
    ],
)
def test_a20_sizes_that_no_tensor_has_are_told_before_they_are_built(source, tmp_path, values):
    change(source, **values)

    with pytest.raises(ConfigError, match="the 20 tensors beside it are not of such a model"):
        bases.store_base(source, tmp_path / "base")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a20_ordinary_numbers_are_no_sizes(source):
    change(
        source,
        rope_theta=10**7,
        max_position_embeddings=10**7,
        eos_token_id=[10**6, 2],
        sliding_window=10**9,
        original_max_position_embeddings=10**9,
        rms_norm_eps=1e-6,
    )

    assert base_source.objection(source) is None


@pytest.mark.parametrize("kind", ["pipe", "device", "many", "large tokenizer", "large template"])
def test_a20_a_folder_that_would_stop_whoever_opens_it_is_refused(source, tmp_path, kind):
    name = {"large tokenizer": "tokenizer.json", "large template": "chat_template.jinja"}.get(
        kind, "generation.json"
    )
    if kind == "pipe":
        os.mkfifo(source / name)
    elif kind == "device":
        (source / name).symlink_to("/dev/zero")
    elif kind == "many":
        for number in range(base_source.MOST_FILES + 1):
            (source / f"{number}.txt").touch()
    else:
        with (source / name).open("ab") as stream:
            stream.truncate(500 * 2**20)

    with pytest.raises(ConfigError, match=r"not a regular file|more than 10000 files|is larger than"):
        bases.store_base(source, tmp_path / "base")
    with pytest.raises(RegistryError, match=r"not a regular file|more than 10000 files|is larger than"):
        import_version.check_source(source)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", "missing.safetensors", "a\0b"])
def test_a20_an_index_names_files_of_its_folder_alone(source, tmp_path, name):
    files.write_json(source / "model.safetensors.index.json", {"weight_map": {"model.norm.weight": name}})

    with pytest.raises(ConfigError, match="which is no file beside it"):
        bases.store_base(source, tmp_path / "base")


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02}q\x00.", b"\xff" * 64, b"\x40\0\0\0\0\0\0\0" + b"{" * 64]
)
def test_a20_weights_that_lie_are_a_sentence(source, tmp_path, content):
    (source / "model.safetensors").write_bytes(content)

    with pytest.raises(ConfigError, match="holds no language model"):
        bases.store_base(source, tmp_path / "base")

    assert not (tmp_path / "base").exists()


def test_a20_a_pickle_beside_safetensors_is_never_opened(source, tmp_path):
    mark = tmp_path / "it-was-run"
    (source / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'touch {mark}'\ntR.".encode())

    bases.store_base(source, tmp_path / "base")

    assert not (tmp_path / "base" / "pytorch_model.bin").exists()
    assert not mark.exists()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10 ** 10 }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a20_a_chat_template_without_end_is_ended(track, source, monkeypatch, template):
    (source / "chat_template.jinja").write_text(template)
    monkeypatch.setattr(base_models, "TRYING_SECONDS", 3.0)

    with pytest.raises(LoradError) as caught:
        typed(track, "base", "add", source, "--name", "endless")

    assert "Traceback" not in caught.value.message
    left = sorted(
        p.name for p in (track.root / "models" / "base").iterdir() if not p.name.startswith("smollm2")
    )
    assert left == [".lock"]
