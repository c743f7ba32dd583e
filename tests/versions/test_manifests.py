"""Manifests prove every file of a version."""

import shutil

import pytest
from versions_on_disk import BASE, flip, promote

from lorad.errors import RegistryError
from lorad.versions.manifests import MANIFEST


def test_a_sound_version_verifies(registry):
    folder = registry.folders.folder / promote(registry)

    assert registry.verify("v0.1") == folder
    assert registry.verify("v0.1", BASE) == folder


@pytest.mark.parametrize("harm", ["flip", "truncate", "lengthen", "delete", "empty", "folder"])
@pytest.mark.parametrize("file", ["adapter_model.safetensors", "evaluation.json", "tokenizer/vocab.json"])
def test_every_harm_to_every_file_is_found(registry, file, harm):
    path = registry.folders.folder / promote(registry) / file
    content = path.read_bytes()
    if harm == "flip":
        flip(path)
    elif harm in {"delete", "folder"}:
        path.unlink()
        if harm == "folder":
            path.mkdir()
    else:
        path.write_bytes({"truncate": content[:-1], "lengthen": content + b" ", "empty": b""}[harm])

    with pytest.raises(RegistryError) as caught:
        registry.verify("v0.1", BASE)

    assert (caught.value.code, caught.value.data["file"]) == ("version_damaged", file)


def test_every_flipped_bit_in_a_manifest_is_found(registry):
    path = registry.folders.folder / promote(registry) / MANIFEST
    content = path.read_bytes()

    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)

        with pytest.raises(RegistryError) as caught:
            registry.verify("v0.1", BASE)
        assert caught.value.code == "manifest_damaged"


def test_a_whole_version_in_anothers_place_is_found(registry):
    promote(registry, 2)
    shutil.rmtree(registry.folders.folder / "v0.2")
    shutil.copytree(registry.folders.folder / "v0.1", registry.folders.folder / "v0.2")

    with pytest.raises(RegistryError, match="is that of another version"):
        registry.verify("v0.2", BASE)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "5",
        "null",
        "[]",
        "{}",
        '{"files": {}}',
        '{"files": [], "base": ""}',
        '{"files": {"evaluation.json": {}}}',
    ],
)
def test_a_manifest_that_proves_nothing_is_refused(registry, content):
    (registry.folders.folder / promote(registry) / MANIFEST).write_text(content)

    with pytest.raises(RegistryError):
        registry.verify("v0.1", BASE)


def test_a_version_of_another_base_does_not_serve(registry):
    promote(registry)

    with pytest.raises(RegistryError, match="another base model") as caught:
        registry.verify("v0.1", "another")

    assert caught.value.code == "wrong_base"
