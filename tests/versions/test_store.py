"""The registry of a track: what serves, going back, and that whatever is done ends in a consistent state."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from versions_on_disk import (
    BASE,
    NOON,
    RAM,
    a_candidate,
    assert_consistent,
    flip,
    links,
    pointers,
    promote,
    prune,
    states,
    weights,
)

from lorad.errors import RegistryError
from lorad.storage import files
from lorad.versions.manifests import MANIFEST
from lorad.versions.promotion import PromotionRecord
from lorad.versions.store import Registry
from lorad.versions.tracker import TRACKER


def test_a_new_track_has_nothing(registry):
    assert (registry.latest, registry.previous) == (None, None)
    assert registry.tracker.read() == {"latest": None, "previous": None, "checkpoints": []}
    assert registry.lineage(None) == []
    assert registry.of_job(1) is None
    assert registry.newest_intact() is None
    assert prune(registry, 1) == []


@pytest.mark.parametrize(
    "name", ["v0.2", "v1", "0.1", "v0.1x", "latest", "", "..", "../versions/v0.1", "v0.1/.."]
)
def test_what_is_not_a_version_is_told(registry, name):
    promote(registry)

    with pytest.raises(RegistryError, match="there is no version") as caught:
        registry.path(name)

    assert (caught.value.code, caught.value.data["version"]) == ("no_such_version", name)


def test_lineage_goes_back_to_the_first(registry):
    promote(registry, 3)
    assert registry.lineage("v0.3") == ["v0.3", "v0.2", "v0.1"]

    registry.rollback("v0.1")
    promote(registry)

    assert registry.lineage("v0.4") == ["v0.4", "v0.1"]
    assert registry.lineage("v0.2") == ["v0.2", "v0.1"]


def test_lineage_ends_even_in_a_circle(registry):
    circle = [{"version": "v0.1", "parent": "v0.2"}, {"version": "v0.2", "parent": "v0.1"}]
    files.write_json(registry.folder / TRACKER, {"latest": "v0.2", "previous": None, "checkpoints": circle})

    assert registry.lineage("v0.2") == ["v0.2", "v0.1"]


def test_a_version_is_found_by_its_job(registry):
    promote(registry, 2)

    assert [registry.of_job(job) for job in (1, 2, 3)] == ["v0.1", "v0.2", None]


def test_an_evaluation_is_read_from_its_version(registry):
    promote(registry, 2)

    assert registry.evaluation("v0.1")["evaluation"] == {"dataset": "d1"}


@pytest.mark.parametrize("content", [None, "", "{", "5", "null"])
@pytest.mark.parametrize(
    ("file", "read", "code"),
    [
        ("evaluation.json", Registry.evaluation, "evaluation_damaged"),
        (MANIFEST, Registry.manifest, "manifest_damaged"),
    ],
)
def test_what_cannot_be_read_is_told(registry, file, read, code, content):
    path = registry.folders.folder / promote(registry) / file
    if content is None:
        path.unlink()
        code = "no_such_version" if file == MANIFEST else code
    else:
        path.write_text(content)

    with pytest.raises(RegistryError) as caught:
        read(registry, "v0.1")

    assert caught.value.code == code


def test_latest_serves_while_it_is_sound(registry):
    promote(registry, 3)

    assert registry.newest_intact(BASE) == "v0.3"
    assert set(states(registry).values()) == {"intact"}


@pytest.mark.parametrize(
    ("damaged", "serves"),
    [
        (["v0.3"], "v0.2"),
        (["v0.3", "v0.2"], "v0.1"),
        (["v0.2"], "v0.3"),
        (["v0.3", "v0.2", "v0.1"], None),
    ],
)
def test_when_latest_is_damaged_an_older_one_serves(registry, damaged, serves):
    promote(registry, 3)
    for version in damaged:
        flip(weights(registry, version))

    assert registry.newest_intact(BASE) == serves

    looked_at = damaged if serves != "v0.3" else []
    assert [name for name, state in states(registry).items() if state == "corrupt"] == sorted(looked_at)


def test_previous_comes_before_newer_ones(registry):
    # Given that v0.3 was rolled back: v0.1 is latest, v0.2 previous
    promote(registry, 3)
    registry.rollback("v0.2")
    registry.rollback("v0.1")
    flip(weights(registry, "v0.1"))

    assert registry.newest_intact(BASE) == "v0.2"


def test_a_version_marked_as_damaged_is_not_tried_again(registry):
    # Given a version whose files are whole, but that could not be loaded
    promote(registry, 2)
    registry.mark_corrupt("v0.2")

    assert registry.newest_intact(BASE) == "v0.1"
    assert states(registry) == {"v0.1": "intact", "v0.2": "corrupt"}


def test_a_base_that_comes_back_finds_its_versions(registry):
    # Given a day on which another base lay in the base's place
    promote(registry, 2)
    assert registry.newest_intact("another") is None

    assert registry.newest_intact(BASE) == "v0.2"


def test_marking_twice_or_what_does_not_exist_is_harmless(registry):
    promote(registry, 3)
    prune(registry, 2)
    registry.mark_corrupt("v0.2")
    registry.mark_corrupt("v0.2")
    registry.mark_corrupt("v0.1")
    registry.mark_corrupt("v9.9")

    assert states(registry) == {"v0.1": "pruned", "v0.2": "corrupt", "v0.3": "intact"}


def test_rolling_back_twice_is_where_one_was(registry):
    promote(registry, 2)

    assert registry.rollback() == ("v0.1", "v0.2")
    assert (registry.latest, registry.previous) == ("v0.1", "v0.2")
    assert_consistent(registry)

    assert registry.rollback() == ("v0.2", "v0.1")
    assert_consistent(registry)


def test_any_version_can_be_gone_back_to(registry):
    promote(registry, 3)

    assert registry.rollback("v0.1") == ("v0.1", "v0.3")
    assert_consistent(registry)


def test_going_back_to_where_one_is_changes_nothing(registry):
    promote(registry, 2)
    before = pointers(registry)

    assert registry.rollback("v0.2") == ("v0.2", "v0.1")
    assert pointers(registry) == before


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("flipped", "version_damaged"),
        ("marked", "version_damaged"),
        ("pruned", "no_such_version"),
        ("unknown", "no_such_version"),
    ],
)
def test_nobody_goes_back_to_what_cannot_serve(registry, reason, code):
    promote(registry, 4)
    if reason == "flipped":
        flip(weights(registry, "v0.1"))
    elif reason == "marked":
        registry.mark_corrupt("v0.1")
    elif reason == "pruned":
        assert prune(registry, 3) == ["v0.1"]
    before = pointers(registry)

    with pytest.raises(RegistryError) as caught:
        registry.rollback("v9.9" if reason == "unknown" else "v0.1")

    assert caught.value.code == code
    assert pointers(registry) == before


def test_without_a_previous_version_there_is_no_way_back(registry):
    promote(registry)

    with pytest.raises(RegistryError) as caught:
        registry.rollback()

    assert caught.value.code == "no_previous"


def test_the_base_alone_can_serve_again(registry):
    promote(registry, 2)

    assert registry.rollback("base") == (None, "v0.2")

    # Then no version is served, and a start changes nothing of it
    assert registry.recover() == []
    assert registry.newest_intact(BASE) is None
    assert links(registry) == {"latest": None, "previous": "v0.2"}
    # and the way back is the one that people know
    assert registry.rollback() == ("v0.2", None)


def test_learning_goes_on_from_the_base(registry):
    promote(registry, 2)
    registry.rollback("base")

    assert promote(registry) == "v0.3"

    assert registry.lineage("v0.3") == ["v0.3"]
    assert (registry.latest, registry.previous) == ("v0.3", None)


def test_learning_goes_on_from_where_one_went_back_to(registry):
    promote(registry, 2)
    registry.rollback("v0.1")

    assert promote(registry) == "v0.3"

    assert registry.previous == "v0.1"
    assert registry.manifest("v0.3")["parent"] == "v0.1"
    assert_consistent(registry)


def test_one_goes_back_to_a_tag(registry):
    promote(registry, 3)
    registry.tracker.tag("v0.1", "good")

    assert registry.rollback("good") == ("v0.1", "v0.3")
    assert registry.rollback("previous") == ("v0.3", "v0.1")
    assert_consistent(registry)


def test_a_version_is_described_whole(registry):
    promote(registry, 2)
    candidate = a_candidate(registry, 3)
    files.write_json(candidate / "metadata.json", {"lorad": "0.1.0"})
    birth = PromotionRecord(job=3, parent="v0.2", base=BASE, description="learned d3")
    folder = registry.path(registry.promote(candidate, birth, NOON))
    registry.tracker.tag("v0.3", "good")

    found = registry.describe("good")

    assert found["version"] == "v0.3"
    assert (found["pinned"], found["tags"], found["state"]) == (False, ["good"], "intact")
    assert (found["parent"], found["ancestors"]) == ("v0.2", ["v0.2", "v0.1"])
    assert found["manifest"] == registry.manifest("v0.3")
    assert found["metadata"] == {"lorad": "0.1.0"}
    assert found["bytes"] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("content", [None, "", "5", "null"])
def test_without_metadata_the_rest_is_described(registry, content):
    folder = registry.path(promote(registry))
    if content is not None:
        (folder / "metadata.json").write_text(content)

    assert registry.describe("v0.1")["metadata"] == {}


def serve_newest(registry):
    """Do what the program does at its start and when a version fails."""
    version = registry.newest_intact(BASE)
    if version and version != registry.latest:
        registry.rollback(version)


def choose(registry, number):
    names = list(states(registry))
    return names[number % len(names)] if names else "v0.1"


def act(registry, action, number):
    if action == "promote":
        promote(registry)
    elif action == "go back":
        registry.rollback()
    elif action == "go back to":
        registry.rollback(choose(registry, number))
    elif action == "tag":
        registry.tracker.tag(choose(registry, number), f"tag-{number % 3}")
    elif action == "prune":
        prune(registry, 1 + number % 4)
    elif action == "restart":
        assert registry.recover() == []
    else:
        version = choose(registry, number)
        if action == "fail to load":
            registry.mark_corrupt(version)
        elif weights(registry, version).exists():
            flip(weights(registry, version))
        serve_newest(registry)


ACTIONS = (
    "promote",
    "promote",
    "go back",
    "go back to",
    "tag",
    "prune",
    "fail to load",
    "flip a bit",
    "restart",
)


@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 9)), max_size=12))
@settings(max_examples=40, deadline=None)
def test_whatever_is_done_in_whatever_order_ends_in_a_consistent_state(actions):
    with tempfile.TemporaryDirectory(dir=RAM) as folder:
        registry = Registry(Path(folder))
        registry.recover()
        for action, number in actions:
            with suppress(RegistryError):
                act(registry, action, number)

            assert_consistent(registry)


def test_a_version_is_never_changed_after_it_was_made(registry):
    # Given a version and everything that can happen around it
    promote(registry)
    folder = registry.path("v0.1")
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()
    }

    promote(registry, 2)
    registry.rollback("v0.1")
    registry.mark_corrupt("v0.3")
    prune(registry, 1)
    registry.recover()
    registry.newest_intact(BASE)

    after = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()
    }
    assert after == before
    assert os.access(folder / MANIFEST, os.R_OK)


def test_a12_an_empty_name_leads_to_no_version(registry):
    with pytest.raises(RegistryError, match="there is no version"):
        registry.rollback("")
