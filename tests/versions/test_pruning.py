"""Which versions go, why, and that what is needed stays."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from versions_on_disk import NOON, assert_consistent, on_disk, pointers, promote, prune, states

from lorad.config import RegistrySettings
from lorad.versions.manifests import MANIFEST
from lorad.versions.pruning import DAY, find_surplus
from lorad.versions.tracker import TRACKER
from lorad.versions.version_folders import Stored


def stored(*ages, size=10):
    """Return versions of these ages in days, oldest first."""
    return [
        Stored(version=f"v0.{number}", created_at=NOON - age * DAY, bytes=size)
        for number, age in enumerate(ages, 1)
    ]


@pytest.mark.parametrize(
    ("limits", "protected", "gone"),
    [
        ({}, set(), []),
        ({"keep": 3}, set(), ["v0.1"]),
        ({"keep": 1}, {"v0.4", "v0.1"}, ["v0.2", "v0.3"]),
        ({"max_age_days": 9}, set(), []),
        ({"max_age_days": 8}, set(), ["v0.1"]),
        ({"max_age_days": 8}, {"v0.1"}, []),
        ({"max_bytes": 40}, set(), []),
        ({"max_bytes": 39}, set(), ["v0.1"]),
        ({"max_bytes": 39}, {"v0.1"}, ["v0.2"]),
        ({"max_bytes": 1}, {"v0.4"}, ["v0.1", "v0.2", "v0.3"]),
        ({"keep": 3, "max_age_days": 8, "max_bytes": 30}, set(), ["v0.1"]),
        ({"keep": 3, "max_age_days": 8, "max_bytes": 20}, set(), ["v0.1", "v0.2"]),
    ],
)
def test_each_limit_removes_the_oldest_beyond_it(limits, protected, gone):
    found = find_surplus(stored(9, 5, 1, 0), protected, RegistrySettings(**limits), NOON)

    assert list(found) == gone


def test_every_removal_has_its_reason():
    limits = RegistrySettings(keep=3, max_age_days=8, max_bytes=25)

    assert find_surplus(stored(9, 7, 5, 3, 1), set(), limits, NOON) == {
        "v0.1": "older than max_age_days (8)",
        "v0.2": "more than keep (3)",
        "v0.3": "larger together than max_bytes (25)",
    }


def test_age_comes_first_however_the_clock_went():
    # Given a clock that was put right: the second version says that it is older than the first
    found = find_surplus(stored(1, 99), set(), RegistrySettings(keep=1, max_age_days=8), NOON)

    assert found == {"v0.2": "older than max_age_days (8)"}


@given(
    ages=st.lists(st.integers(0, 30), max_size=8),
    sizes=st.lists(st.integers(0, 30), min_size=8, max_size=8),
    protected=st.sets(st.sampled_from([f"v0.{n}" for n in range(1, 9)])),
    keep=st.integers(1, 8),
    max_age_days=st.none() | st.integers(1, 30),
    max_bytes=st.none() | st.integers(1, 100),
)
def test_no_more_is_removed_than_must_be(ages, sizes, protected, keep, max_age_days, max_bytes):
    limits = RegistrySettings(keep=keep, max_age_days=max_age_days, max_bytes=max_bytes)
    there = [
        Stored(version=item.version, created_at=item.created_at, bytes=size)
        for item, size in zip(stored(*ages), sizes, strict=False)
    ]

    gone = find_surplus(there, protected, limits, NOON)

    # Nothing protected goes, and what is left keeps to the limits unless it is protected
    assert not set(gone) & protected
    left = [item for item in there if item.version not in gone]

    def is_beyond(items):
        return len(items) > keep or (max_bytes is not None and sum(i.bytes for i in items) > max_bytes)

    free = [item for item in left if item.version not in protected]
    assert not (free and is_beyond(left))
    assert find_surplus(left, protected, limits, NOON) == {}
    # And the newest of those that went for room would have been too much
    crowded = [item for item in there if not gone.get(item.version, "older").startswith("older")]
    assert not crowded or is_beyond([*left, crowded[-1]])


def test_what_people_have_marked_is_never_pruned(registry):
    promote(registry, 6)
    registry.tracker.pin("v0.1", pinned=True)
    registry.tracker.tag("v0.3", "good")

    assert prune(registry, 1) == ["v0.2", "v0.4"]
    registry.tracker.pin("v0.1", pinned=False)
    registry.tracker.untag("v0.3", "good")
    assert prune(registry, 1) == ["v0.1", "v0.3"]
    assert_consistent(registry)


def test_what_would_be_pruned_can_be_told_without_doing_it(registry):
    promote(registry, 4)
    before = pointers(registry)

    found = registry.prune(RegistrySettings(keep=3), NOON, dry_run=True)

    assert found == {"v0.1": "more than keep (3)"}
    assert on_disk(registry) == ["v0.1", "v0.2", "v0.3", "v0.4"]
    assert pointers(registry) == before


def test_age_and_size_are_those_of_the_folder(registry):
    promote(registry, 4)
    size = registry.describe("v0.4")["bytes"]

    assert registry.prune(RegistrySettings(max_bytes=4 * size), NOON, dry_run=True) == {}
    assert list(registry.prune(RegistrySettings(max_bytes=3 * size), NOON, dry_run=True)) == ["v0.1"]
    assert registry.prune(RegistrySettings(max_age_days=1), NOON + DAY, dry_run=True) == {}
    assert list(registry.prune(RegistrySettings(max_age_days=1), NOON + DAY + 1)) == ["v0.1", "v0.2"]


def test_a_version_whose_manifest_is_damaged_is_as_old_as_its_folder(registry):
    promote(registry, 3)
    folder = registry.path("v0.1")
    (folder / MANIFEST).write_text("{")
    os.utime(folder, (NOON - 9 * DAY, NOON - 9 * DAY))

    assert list(registry.prune(RegistrySettings(max_age_days=8), NOON)) == ["v0.1"]


@pytest.mark.parametrize(
    ("keep", "needed", "gone"),
    [
        (9, [], []),
        (6, [], []),
        (5, [], []),
        (4, [], ["v0.1"]),
        (3, [], ["v0.1", "v0.2"]),
        (2, [], ["v0.1", "v0.2", "v0.3"]),
        (1, [], ["v0.1", "v0.2", "v0.3"]),
        (3, ["v0.1"], ["v0.2", "v0.3"]),
    ],
)
def test_the_oldest_go_first_and_what_is_needed_stays(registry, keep, needed, gone):
    promote(registry, 5)

    assert prune(registry, keep, needed) == gone

    assert on_disk(registry) == [f"v0.{n}" for n in range(1, 6) if f"v0.{n}" not in gone]
    assert [name for name, state in states(registry).items() if state == "pruned"] == gone
    assert (registry.latest, registry.previous) == ("v0.5", "v0.4")
    assert_consistent(registry)


def test_latest_and_previous_stay_however_old(registry):
    promote(registry, 4)
    registry.rollback("v0.2")
    registry.rollback("v0.1")

    assert prune(registry, 1) == ["v0.3", "v0.4"]
    assert_consistent(registry)


def test_pruning_again_prunes_no_more(registry):
    promote(registry, 4)
    prune(registry, 2)

    assert prune(registry, 2) == []
    promote(registry)
    assert prune(registry, 3) == []
    assert on_disk(registry) == ["v0.3", "v0.4", "v0.5"]


def test_pruned_ancestors_are_still_ancestors(registry):
    promote(registry, 4)
    prune(registry, 2)

    assert registry.lineage("v0.4") == ["v0.4", "v0.3", "v0.2", "v0.1"]


def test_a_rebuilt_tracker_still_knows_pruned_ancestors(registry):
    promote(registry, 5)
    prune(registry, 2)
    (registry.folder / TRACKER).unlink()

    registry.recover()

    assert registry.lineage("v0.5") == ["v0.5", "v0.4", "v0.3", "v0.2", "v0.1"]
