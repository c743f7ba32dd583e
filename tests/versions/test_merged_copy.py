"""The merged copy is of the version that serves, or not there."""

import json

import pytest
from versions_on_disk import promote

from lorad.storage import files


def a_merged_copy(registry):
    folder = registry.candidates / "job-9" / "merged"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"everything")
    return folder


def test_a_merged_copy_stays_with_latest_and_says_whose_it_is(registry):
    promote(registry)

    assert registry.keep_merged(a_merged_copy(registry), "v0.1")

    merged = registry.folder / "merged"
    told = json.loads((merged / "lorad.json").read_text())
    assert told == {
        "version": "v0.1",
        "files": {"model.safetensors": files.file_digest(merged / "model.safetensors")},
    }


def test_a_merged_copy_has_the_settings_that_its_version_was_made_with(registry):
    promote(registry)
    settings = registry.path("v0.1") / "config.yaml"
    settings.write_text("settings: {}")

    registry.keep_merged(a_merged_copy(registry), "v0.1")

    kept = registry.folder / "merged" / "config.yaml"
    assert kept.read_text() == "settings: {}"
    assert "config.yaml" in json.loads((registry.folder / "merged" / "lorad.json").read_text())["files"]


@pytest.mark.parametrize("change", ["promote", "rollback", "damage"])
def test_a_merged_copy_of_another_version_than_latest_is_removed(registry, change):
    promote(registry, 2)
    registry.keep_merged(a_merged_copy(registry), "v0.2")
    merged = registry.folder / "merged"

    if change == "promote":
        promote(registry)
    elif change == "rollback":
        registry.rollback()
    else:
        (merged / "lorad.json").write_text("{")
        registry.recover()

    assert not merged.exists()


def test_a_start_leaves_the_merged_copy_of_latest(registry):
    promote(registry)
    registry.keep_merged(a_merged_copy(registry), "v0.1")

    registry.recover()

    assert (registry.folder / "merged" / "model.safetensors").exists()


def test_only_what_is_there_and_of_latest_is_kept(registry):
    promote(registry, 2)

    assert not registry.keep_merged(registry.folder / "nowhere", "v0.2")
    assert not registry.keep_merged(a_merged_copy(registry), "v0.1")
    assert not (registry.folder / "merged").exists()


def test_a_merged_copy_of_nobody_knows_what_goes_when_the_base_serves(registry):
    promote(registry)
    merged = registry.folder / "merged"
    merged.mkdir()
    (merged / "lorad.json").write_text("{")

    registry.rollback("base")

    assert not merged.exists()
