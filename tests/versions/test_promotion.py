"""Turning a candidate into a version, or changing nothing."""

import errno
import resource
import shutil
from contextlib import contextmanager

import pytest
from versions_on_disk import (
    BASE,
    NOON,
    a_candidate,
    assert_consistent,
    links,
    promote,
    prune,
)

from lorad.errors import LoradError, RegistryError
from lorad.storage import files
from lorad.versions.manifests import MANIFEST
from lorad.versions.promotion import PromotionRecord
from lorad.versions.store import Registry
from lorad.versions.tracker import TRACKER, Tracker


def test_the_first_version(registry):
    candidate = a_candidate(registry, 7)
    birth = PromotionRecord(
        job=7, parent=None, base=BASE, description="learned mills", performance={"recall": 0.98}
    )

    version = registry.promote(candidate, birth, NOON)

    assert version == registry.latest == "v0.1"
    assert registry.previous is None
    assert not candidate.exists()
    assert registry.tracker.read()["checkpoints"] == [
        {
            "version": "v0.1",
            "date": "2026-09-21",
            "description": "learned mills",
            "performance": {"recall": 0.98},
            "parent": None,
            "job": 7,
            "state": "intact",
        }
    ]
    assert_consistent(registry)


def test_a_manifest_proves_every_file(registry):
    folder = registry.path(promote(registry))

    manifest = registry.manifest("v0.1")

    assert sorted(manifest["files"]) == [
        "adapter_model.safetensors",
        "evaluation.json",
        "tokenizer/vocab.json",
    ]
    assert manifest["files"]["adapter_model.safetensors"] == {
        "sha256": files.file_digest(folder / "adapter_model.safetensors"),
        "bytes": len(b"weights of job 1"),
    }
    del manifest["files"]
    assert manifest == {
        "version": "v0.1",
        "parent": None,
        "ancestors": [],
        "base": BASE,
        "job": 1,
        "created_at": NOON,
        "description": "learned d1",
        "performance": {"recall": 1.0},
        "serve": True,
    }


def test_a_candidate_whose_promotion_was_cut_short_can_be_promoted_again(registry):
    # Given a candidate that has a manifest already
    candidate = a_candidate(registry, 1)
    (candidate / MANIFEST).write_text("{}")

    registry.promote(candidate, PromotionRecord(job=1, parent=None, base=BASE, description="learned"), NOON)

    assert MANIFEST not in registry.manifest("v0.1")["files"]
    assert registry.newest_intact(BASE) == "v0.1"


def test_versions_are_counted_and_latest_becomes_previous(registry):
    promote(registry, 11)

    assert (registry.latest, registry.previous) == ("v0.11", "v0.10")
    assert [entry["version"] for entry in registry.tracker.read()["checkpoints"]][8:] == [
        "v0.9",
        "v0.10",
        "v0.11",
    ]
    assert_consistent(registry)


@pytest.mark.parametrize("lost", ["the newest version", "the tracker's entries"])
def test_a_number_is_never_given_twice(registry, lost):
    promote(registry, 3)
    if lost == "the newest version":
        registry.rollback("v0.1")
        registry.rollback("v0.2")
        assert prune(registry, 1) == ["v0.3"]
    else:
        (registry.folder / TRACKER).unlink()

    assert (
        registry.promote(
            a_candidate(registry, 4), PromotionRecord(job=4, parent=None, base=BASE, description=""), NOON
        )
        == "v0.4"
    )


def test_the_next_version_follows_the_highest_whatever_its_order(registry):
    promote(registry)
    shutil.copytree(registry.path("v0.1"), registry.folders.folder / "v1.9")

    assert promote(registry) == "v1.10"


class FailsHalfWay(Tracker):
    """A tracker whose disk fails while it is written, before the new content counts or after."""

    def __init__(self, folder, moment):
        super().__init__(folder)
        self._moment = moment

    def write(self, content):
        if self._moment == "after":
            super().write(content)
        raise OSError(errno.ENOSPC, "No space left on device")


@contextmanager
def no_file_longer_than(limit):
    """Let the operating system refuse longer files, as a full disk would."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


@pytest.mark.parametrize("failure", ["before the tracker", "after the tracker", "no room"])
@pytest.mark.parametrize("older", [0, 2])
def test_a_promotion_that_fails_leaves_everything_as_it_was(registry, older, failure):
    # Given some versions, and a disk that fails after the folder has its new name
    promote(registry, older)
    registry.recover()
    registry.tracker.write(registry.tracker.read() | {"notes": "x" * 5000})
    failing = registry
    if failure.endswith("the tracker"):
        failing = Registry(registry.folder)
        failing.tracker = FailsHalfWay(registry.folder, failure.partition(" ")[0])
    before = registry.tracker.read(), links(registry)
    candidate = a_candidate(registry, 9)
    birth = PromotionRecord(job=9, parent=registry.latest, base=BASE, description="learned")

    # When a candidate is promoted
    with no_file_longer_than(4000 if failure == "no room" else -1), pytest.raises((OSError, LoradError)):
        failing.promote(candidate, birth, NOON)

    # Then its failure changed nothing, and neither does the next start
    assert (registry.tracker.read(), links(registry)) == before
    assert (candidate / "adapter_model.safetensors").is_file()
    assert registry.recover() == []
    assert registry.tracker.read() == before[0]
    assert registry.of_job(9) is None
    assert_consistent(registry)

    # And the same candidate can be promoted once there is room
    assert registry.promote(candidate, birth, NOON) == f"v0.{older + 1}"
    assert_consistent(registry)


def test_a_version_from_outside_serves_only_when_asked(registry):
    promote(registry, 1)
    birth = PromotionRecord(job=None, parent=None, base=BASE, description="brought", serve=False)

    assert registry.promote(a_candidate(registry, 8), birth, NOON, "v0.7") == "v0.7"

    assert (registry.latest, registry.previous) == ("v0.1", None)
    assert registry.rollback("v0.7") == ("v0.7", "v0.1")
    assert promote(registry) == "v0.8"


@pytest.mark.parametrize(
    ("name", "code"), [("v0.1", "version_exists"), ("0.2", "bad_version"), ("v1.2.3", "bad_version")]
)
def test_a_name_that_cannot_be_had_is_told(registry, name, code):
    promote(registry)
    candidate = a_candidate(registry, 8)

    with pytest.raises(RegistryError) as caught:
        registry.promote(
            candidate, PromotionRecord(job=None, parent=None, base=BASE, description=""), NOON, name
        )

    assert caught.value.code == code
    assert candidate.exists()
