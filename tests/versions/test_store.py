"""Versions on disk: promoting, proving, going back, pruning, and starting again after any kind of stop."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad.config import RegistrySettings
from lorad.errors import LoradError, ProtocolError, RegistryError
from lorad.storage import fault_points, files
from lorad.versions.manifests import MANIFEST
from lorad.versions.promotion import PromotionRecord
from lorad.versions.pruning import DAY, find_surplus
from lorad.versions.store import Registry
from lorad.versions.tracker import TRACKER, Tracker
from lorad.versions.version_folders import Stored

BASE = "fingerprint of the base"
RAM = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - every step is an fsync; in memory they cost nothing
NOON = 1_790_000_000.0  # 2026-09-21 in UTC


@pytest.fixture
def registry():
    with tempfile.TemporaryDirectory(dir=RAM) as folder:
        yield Registry(Path(folder) / "chat")


def a_candidate(registry, job):
    """Write what a session leaves: an adapter, its evaluation, a tokenizer in a folder of its own."""
    folder = registry.candidates / f"job-{job}" / "candidate"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights of job %d" % job)
    (folder / "evaluation.json").write_text(json.dumps({"evaluation": {"dataset": f"d{job}"}, "right": {}}))
    (folder / "tokenizer" / "vocab.json").write_text('{"a": 1}')
    return folder


def promote(registry, count=1):
    """Promote candidates, each a child of the version before; return the last one's name."""
    for _ in range(count):
        job = len(registry.tracker.read()["checkpoints"]) + 1
        birth = PromotionRecord(
            job=job,
            parent=registry.latest,
            base=BASE,
            description=f"learned d{job}",
            performance={"recall": 1.0},
        )
        registry.promote(a_candidate(registry, job), birth, NOON)
    return registry.latest


def prune(registry, keep, needed=()):
    """Prune by number alone; return what went."""
    return list(registry.prune(RegistrySettings(keep=keep), NOON, needed))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def weights(registry, version):
    return registry.folders.folder / version / "adapter_model.safetensors"


def states(registry):
    return {entry["version"]: entry["state"] for entry in registry.tracker.read()["checkpoints"]}


def on_disk(registry):
    return sorted(path.name for path in registry.folders.folder.glob("*"))


def links(registry):
    """Return where the links lead that people and other tools follow."""
    found = {}
    for name in ("latest", "previous"):
        link = registry.folder / name
        found[name] = link.readlink().name if link.is_symlink() else None
    return found


def pointers(registry):
    """Return everything that points at versions, to put it back as it was before a power cut."""
    path = registry.folder / TRACKER
    return path.read_bytes() if path.exists() else None, links(registry)


def put_back(registry, *, tracker=None, links=None):
    if tracker is not None:
        (registry.folder / TRACKER).write_bytes(tracker)
    for name, version in (links or {}).items():
        (registry.folder / name).unlink(missing_ok=True)
        if version:
            (registry.folder / name).symlink_to(f"versions/{version}")


def assert_consistent(registry):
    """Assert what must hold whenever nobody is in the middle of something."""
    tracker = registry.tracker.read()
    names = [entry["version"] for entry in tracker["checkpoints"]]
    assert len(set(names)) == len(names)
    assert links(registry) == {"latest": tracker["latest"], "previous": tracker["previous"]}
    assert all(
        (registry.folders.folder / name).is_dir() for name, s in states(registry).items() if s == "intact"
    )
    assert not any(
        (registry.folders.folder / name).exists() for name, s in states(registry).items() if s == "pruned"
    )
    if tracker["latest"] is None:
        assert names == []
    elif "intact" in states(registry).values():
        assert states(registry)[tracker["latest"]] == "intact"
        assert registry.verify(tracker["latest"], BASE)
    assert tracker["previous"] != tracker["latest"] or tracker["latest"] is None


# reading


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


# promoting


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


def test_a_rejected_candidate_is_kept_aside_once(registry):
    # Given a job that was rejected, tried again and rejected again
    first = a_candidate(registry, 5)
    registry.workspace.reject(first.parent, 5)
    second = a_candidate(registry, 5)
    (second / "evaluation.json").write_text("second")

    kept = registry.workspace.reject(second.parent, 5)

    assert kept == registry.rejected / "job-5"
    assert (kept / "candidate" / "evaluation.json").read_text() == "second"
    assert not second.parent.exists()
    assert registry.latest is None


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


# proof


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


# serving the newest sound version


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


# going back


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


@pytest.mark.parametrize("harm", ["a field was added", "damaged", "gone"])
def test_that_the_base_serves_outlives_the_tracker(registry, harm):
    promote(registry, 2)
    registry.rollback("base")
    path = registry.folder / TRACKER
    if harm == "a field was added":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"note": "mine"}))
    elif harm == "damaged":
        path.write_text("{")

    else:
        path.unlink()
    registry.recover()

    if harm == "gone":  # nothing tells it from a promotion that was cut off
        assert registry.latest == "v0.2"
    else:
        assert (registry.latest, registry.previous, registry.newest_intact(BASE)) == (None, "v0.2", None)


def test_what_nobody_asked_to_serve_is_not_latest_when_the_tracker_is_rebuilt(registry):
    birth = PromotionRecord(job=None, parent=None, base=BASE, description="brought", serve=False)
    promote(registry)
    registry.promote(a_candidate(registry, 8), birth, NOON, "v0.7")
    (registry.folder / TRACKER).write_text("{")
    (registry.folder / "latest").unlink()

    registry.recover()

    assert registry.latest == "v0.1"


def test_a_merged_copy_of_nobody_knows_what_goes_when_the_base_serves(registry):
    promote(registry)
    merged = registry.folder / "merged"
    merged.mkdir()
    (merged / "lorad.json").write_text("{")

    registry.rollback("base")

    assert not merged.exists()


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


# names and pins


def test_a_version_is_found_by_every_name_it_has(registry):
    promote(registry, 3)
    registry.tracker.tag("v0.1", "good")

    assert [registry.resolve(name) for name in ("v0.1", "good", "previous", "latest")] == [
        "v0.1",
        "v0.1",
        "v0.2",
        "v0.3",
    ]


@pytest.mark.parametrize("name", ["v0.9", "better", "previous", "", "..", "v0.2"])
def test_a_name_that_nothing_has_is_told(registry, name):
    # Given one version, and a folder beside it that the tracker does not know yet
    promote(registry)
    shutil.copytree(registry.path("v0.1"), registry.folders.folder / "v0.2")

    for act in (registry.resolve, registry.describe, lambda name: registry.tracker.pin(name, pinned=True)):
        with pytest.raises(RegistryError, match="there is no version") as caught:
            act(name)
        assert caught.value.code == "no_such_version"


def test_a_pruned_version_has_no_name_any_more(registry):
    promote(registry, 3)
    prune(registry, 2)

    with pytest.raises(RegistryError, match=r"there is no version v0\.1"):
        registry.tracker.tag("v0.1", "good")


def test_a_tag_moves(registry):
    promote(registry, 3)

    assert registry.tracker.tag("v0.1", "good") == "v0.1"
    assert registry.tracker.tag("latest", "good") == "v0.3"
    assert registry.tracker.tag("good", "best") == "v0.3"
    assert registry.tracker.tag("v0.3", "good") == "v0.3"

    tags = {entry["version"]: entry.get("tags") for entry in registry.tracker.read()["checkpoints"]}
    assert tags == {"v0.1": [], "v0.2": None, "v0.3": ["best", "good"]}


def test_a_tag_is_taken_away_from_the_version_that_has_it(registry):
    promote(registry, 2)
    registry.tracker.tag("v0.1", "good")
    registry.tracker.tag("v0.1", "old")

    with pytest.raises(RegistryError) as caught:
        registry.tracker.untag("v0.2", "good")
    assert caught.value.code == "no_such_tag"
    assert registry.tracker.untag("good", "good") == "v0.1"

    assert registry.tracker.read()["checkpoints"][0]["tags"] == ["old"]


@pytest.mark.parametrize(
    "tag",
    ["", "latest", "previous", "base", "v0.1", "v10.20", "job-3", "Good", "-a", ".a", "a b", "ä", "a\n"],
)
def test_what_cannot_be_a_tag_is_told(registry, tag):
    promote(registry)
    before = pointers(registry)

    with pytest.raises(ProtocolError) as caught:
        registry.tracker.tag("v0.1", tag)

    assert (caught.value.code, caught.value.status) == ("bad_tag", 400)
    assert pointers(registry) == before


@pytest.mark.parametrize("tag", ["good", "0", "v0.1-rc", "v1", "job-x", "a._-9", "latest2"])
def test_what_can_be_a_tag(registry, tag):
    promote(registry)
    registry.tracker.tag("v0.1", tag)

    assert registry.resolve(tag) == "v0.1"


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


def test_a_calibration_is_described_without_its_rows(registry):
    promote(registry)
    assert registry.describe("v0.1")["calibration"] is None

    registry.keep_calibration("v0.1", {"temperature": 1.3, "rows": [1, 2]})

    described = registry.describe("v0.1")["calibration"]
    assert described["temperature"] == 1.3
    assert "rows" not in described


def test_a_calibration_that_cannot_be_read_is_no_reason_to_describe_nothing(registry):
    promote(registry)
    (registry.folder / "calibration").mkdir()
    (registry.folder / "calibration" / "v0.1.json").write_text("{")

    assert registry.describe("v0.1")["calibration"] is None
    with pytest.raises(RegistryError, match=r"lorad calibrate v0\.1 --force"):
        registry.calibration("v0.1")


def test_a_calibration_of_another_version_of_that_name_does_not_count(registry):
    promote(registry)
    registry.keep_calibration("v0.1", {"temperature": 1.3})
    manifest = registry.path("v0.1") / MANIFEST

    manifest.write_text(manifest.read_text().replace('"job": 1', '"job": 2'))

    assert registry.calibration("v0.1") is None


def test_what_is_gone_has_no_calibration_to_keep(registry):
    with pytest.raises(RegistryError, match=r"no version v0\.1"):
        registry.keep_calibration("v0.1", {"temperature": 1.3})


@pytest.mark.parametrize("content", [None, "", "5", "null"])
def test_without_metadata_the_rest_is_described(registry, content):
    folder = registry.path(promote(registry))
    if content is not None:
        (folder / "metadata.json").write_text(content)

    assert registry.describe("v0.1")["metadata"] == {}


def test_fields_that_lorad_does_not_know_survive_every_change(registry):
    # Given a tracker into which another tool has written
    promote(registry, 4)
    tracker = registry.tracker.read() | {"owner": {"team": 5}}
    for entry in tracker["checkpoints"]:
        entry["f1_score"] = 0.86
    files.write_json(registry.folder / TRACKER, tracker)

    # When everything is done that changes the tracker
    registry.tracker.pin("v0.2", pinned=True)
    registry.tracker.pin("v0.2", pinned=False)
    registry.tracker.tag("v0.3", "good")
    registry.tracker.untag("v0.3", "good")
    registry.rollback("v0.3")
    registry.mark_corrupt("v0.4")
    assert promote(registry) == "v0.5"
    prune(registry, 3)
    registry.recover()

    # Then all of it is still there
    after = registry.tracker.read()
    assert after["owner"] == {"team": 5}
    assert [entry.get("f1_score") for entry in after["checkpoints"]] == [0.86] * 4 + [None]
    assert states(registry)["v0.1"] == "pruned"


WRITER = """
import sys
from pathlib import Path
from lorad.versions.store import Registry

registry, number = Registry(Path(sys.argv[1])), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for turn in range(3):
    registry.tracker.tag("v0.%d" % (2 + (number + turn) % 3), "tag-%d-%d" % (number, turn))
    registry.tracker.tag("v0.%d" % (2 + turn % 3), "shared")
    registry.tracker.pin("v0.2", pinned=bool(turn % 2))
"""
WRITERS = 50


def test_writers_in_many_processes_lose_nothing(registry):
    # Given versions of which only the first may be pruned, and fifty processes that wait for the same word
    promote(registry, 4)
    for version in ("v0.2", "v0.3", "v0.4"):
        registry.tracker.tag(version, f"own-{version}")
    command = [sys.executable, "-c", WRITER, str(registry.folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*command, str(number)], **pipes) for number in range(WRITERS)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"

    # When all write at once, while this process promotes, rolls back and prunes
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    promote(registry)
    prune(registry, 1)
    while any(writer.poll() is None for writer in writers):
        registry.rollback()
        prune(registry, 1)
        assert len(registry.tracker.read()["checkpoints"]) == 5
    for writer in writers:
        writer.communicate()

    # Then every tag is where it was put, and the contested one is on one version
    assert [writer.returncode for writer in writers] == [0] * WRITERS
    placed = sorted(
        (tag, e["version"]) for e in registry.tracker.read()["checkpoints"] for tag in e.get("tags", ())
    )
    own = [(f"own-v0.{number}", f"v0.{number}") for number in (2, 3, 4)]
    theirs = [
        (f"tag-{number}-{turn}", f"v0.{2 + (number + turn) % 3}")
        for number in range(WRITERS)
        for turn in range(3)
    ]
    assert placed == sorted([*own, *theirs, ("shared", "v0.4")])
    assert states(registry) == {"v0.1": "pruned"} | {f"v0.{number}": "intact" for number in range(2, 6)}
    assert_consistent(registry)


# pruning


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


def test_a_pruned_version_takes_its_calibration_along(registry):
    for _ in range(3):
        registry.keep_calibration(promote(registry), {"temperature": 1.0})

    prune(registry, keep=2)

    left = sorted(path.name for path in (registry.folder / "calibration").iterdir())
    assert left == ["v0.2.json", "v0.3.json"]


def test_a_calibration_that_a_crash_left_behind_goes_at_the_next_start(registry):
    # Given a prune that was cut short between the tracker and the folders
    class Crash(BaseException):
        pass

    @contextmanager
    def crash_before_removals(name, place):
        del place
        if name in {"unlink", "rmdir"}:
            raise Crash
        yield

    for _ in range(3):
        registry.keep_calibration(promote(registry), {"temperature": 1.0})
    with pytest.raises(Crash), fault_points.guarded(crash_before_removals):
        prune(registry, keep=2)

    registry.recover()

    left = sorted(path.name for path in (registry.folder / "calibration").iterdir())
    assert left == ["v0.2.json", "v0.3.json"]


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


# starting, after any kind of stop


def test_a_first_start_makes_an_empty_track(registry):
    assert registry.recover() == []

    assert registry.tracker.read() == {"latest": None, "previous": None, "checkpoints": []}
    assert_consistent(registry)


def test_a_start_after_a_clean_stop_has_nothing_to_do(registry):
    promote(registry, 3)
    registry.rollback("v0.1")
    prune(registry, 2)
    before = pointers(registry)

    assert registry.recover() == []

    assert pointers(registry) == before


CUTS = ("candidate", "manifest", "renamed", "tracker", "one link", "all")


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("older", [0, 1, 3])
def test_a_power_cut_in_any_step_of_promotion_ends_in_a_sound_state(registry, older, cut):
    # Given some versions, and a promotion of which the steps up to `cut` reached the disk
    if older:
        promote(registry, older)
    registry.recover()
    tracker, old_links = pointers(registry)
    new = f"v0.{older + 1}"
    candidate = a_candidate(registry, older + 1)
    if cut != "candidate":
        copy = registry.folder / "copy"
        shutil.copytree(candidate, copy)
        birth = PromotionRecord(job=older + 1, parent=registry.latest, base=BASE, description="learned")
        assert registry.promote(candidate, birth, NOON) == new
        if cut == "manifest":
            (registry.folders.folder / new).rename(candidate)
            put_back(registry, tracker=tracker, links=old_links)
        elif cut == "renamed":
            put_back(registry, tracker=tracker, links=old_links)
        elif cut == "tracker":
            put_back(registry, links=old_links)
        elif cut == "one link":
            put_back(registry, links={"previous": old_links["previous"]})

    # When lorad starts again
    done = registry.recover()

    # Then either the promotion never happened, or it happened whole
    is_there = cut not in {"candidate", "manifest"}
    old = f"v0.{older}" if older else None
    assert registry.latest == (new if is_there else old)
    assert registry.newest_intact(BASE) == registry.latest
    assert (registry.of_job(older + 1) == new) is is_there
    if is_there:
        assert registry.previous == old
    told = [sentence for sentence in done if "pointed at" not in sentence]
    assert told == (
        [f"{new} was complete but not in the tracker: it is now latest"] if cut == "renamed" else []
    )
    assert len(done) == {"renamed": 1, "tracker": 2 if older else 1, "one link": 1 if older else 0}.get(
        cut, 0
    )
    assert_consistent(registry)

    # And starting again does nothing, and the next promotion gets a number of its own
    assert registry.recover() == []
    shutil.rmtree(registry.candidates, ignore_errors=True)
    assert promote(registry) == (f"v0.{older + 2}" if is_there else new)
    assert_consistent(registry)


def test_a_version_without_a_manifest_is_no_version(registry):
    # Given a folder that somebody began to copy back
    promote(registry)
    (registry.folders.folder / "v0.2").mkdir()
    (registry.folders.folder / "v0.2" / "adapter_model.safetensors").write_bytes(b"half")

    assert registry.recover() == ["v0.2 has no manifest and was moved to damaged/"]

    assert on_disk(registry) == ["v0.1"]
    assert registry.latest == "v0.1"
    assert_consistent(registry)


def test_when_latest_has_lost_its_manifest_previous_serves(registry):
    promote(registry, 2)
    (registry.folders.folder / "v0.2" / MANIFEST).unlink()
    registry.recover()

    assert registry.newest_intact(BASE) == "v0.1"

    assert registry.rollback("v0.1")[0] == registry.latest == "v0.1"
    assert states(registry)["v0.2"] == "corrupt"


@pytest.mark.parametrize("remains", ["whole", "without weights", "without manifest", "empty"])
def test_a_power_cut_while_pruning_is_finished(registry, remains):
    # Given versions that the tracker calls pruned, of which a part is still there
    promote(registry, 3)
    kept = registry.folder / "kept"
    shutil.copytree(registry.path("v0.1"), kept)
    prune(registry, 2)
    if remains == "empty":
        kept = registry.folder / "empty"
        kept.mkdir()
    elif remains != "whole":
        (kept / (MANIFEST if remains == "without manifest" else "adapter_model.safetensors")).unlink()
    kept.rename(registry.folders.folder / "v0.1")

    registry.recover()

    assert on_disk(registry) == ["v0.2", "v0.3"]
    assert registry.newest_intact(BASE) == "v0.3"
    assert_consistent(registry)


DAMAGE = {
    "truncated": b'{"latest": "v0.2", "prev',
    "empty": b"",
    "binary": bytes(range(256)),
    "a list": b"[]",
    "null": b"null",
    "without checkpoints": b'{"latest": "v0.2"}',
    "checkpoints of nothing": b'{"latest": "v0.2", "checkpoints": null}',
    "checkpoints of numbers": b'{"latest": "v0.2", "previous": "v0.1", "checkpoints": [1, 2]}',
    "checkpoints without names": b'{"latest": "v0.2", "previous": "v0.1", "checkpoints": [{}]}',
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_tracker_is_rebuilt_from_the_versions(registry, content):
    promote(registry, 3)
    (registry.folder / TRACKER).write_bytes(content)

    done = registry.recover()

    assert done == ["the tracker was corrupt and was rebuilt from the versions, without pins and tags"]
    assert (registry.folder / f"{TRACKER}.damaged").read_bytes() == content
    assert (registry.latest, registry.previous) == ("v0.3", "v0.2")
    assert registry.lineage("v0.3") == ["v0.3", "v0.2", "v0.1"]
    assert registry.of_job(2) == "v0.2"
    assert registry.newest_intact(BASE) == "v0.3"
    assert_consistent(registry)


def test_a_damaged_tracker_is_told_before_it_is_rebuilt(registry):
    promote(registry)
    (registry.folder / TRACKER).write_text("{")

    with pytest.raises(RegistryError, match="rebuilds it") as caught:
        _ = registry.latest

    assert caught.value.code == "tracker_damaged"


def test_a_lost_tracker_is_rebuilt_in_the_order_of_versions(registry):
    promote(registry, 11)
    (registry.folder / TRACKER).unlink()

    registry.recover()

    assert (registry.latest, registry.previous) == ("v0.11", "v0.10")
    assert_consistent(registry)


@pytest.mark.parametrize("content", ["", "{", "null", "{}"])
@pytest.mark.parametrize("damaged", ["v0.1", "v0.2", "v0.3"])
def test_a_damaged_version_does_not_stop_the_rebuilding(registry, damaged, content):
    promote(registry, 3)
    (registry.folder / TRACKER).unlink()
    (registry.folders.folder / damaged / MANIFEST).write_text(content)

    registry.recover()

    assert registry.newest_intact(BASE) == ("v0.2" if damaged == "v0.3" else "v0.3")


@pytest.mark.parametrize("harm", ["missing", "elsewhere"])
def test_the_links_are_repaired(registry, harm):
    promote(registry, 3)
    put_back(registry, links=dict.fromkeys(("latest", "previous"), None if harm == "missing" else "v0.1"))

    found = "nothing" if harm == "missing" else "versions/v0.1"
    assert registry.recover() == [
        f"latest pointed at {found} and points at versions/v0.3 again",
        f"previous pointed at {found} and points at versions/v0.2 again",
    ]

    assert links(registry) == {"latest": "v0.3", "previous": "v0.2"}


def test_a_folder_in_a_links_place_is_put_aside(registry):
    promote(registry, 2)
    (registry.folder / "latest").unlink()
    (registry.folder / "latest").mkdir()
    (registry.folder / "latest" / "mine.txt").write_text("kept")

    assert registry.recover() == ["latest was another file and points at versions/v0.2 again"]

    assert links(registry) == {"latest": "v0.2", "previous": "v0.1"}
    assert (registry.folder / "latest.aside" / "mine.txt").read_text() == "kept"


def test_every_flipped_bit_in_the_tracker_is_found_and_changes_nothing(registry):
    # Given three versions, one of them tagged, one gone back to
    promote(registry, 3)
    registry.tracker.tag("v0.1", "good")
    registry.rollback("v0.2")
    path = registry.folder / TRACKER
    content, whole = path.read_bytes(), registry.tracker.read()

    for position in range(0, len(content), 5):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)

        # When lorad starts, it says so, and every version is what and where it was
        assert "the tracker was" in registry.recover()[0]
        assert pointers(registry)[1] == {"latest": "v0.2", "previous": "v0.3"}
        facts = [
            {k: v for k, v in e.items() if k in {"version", "job", "performance", "state"}}
            for e in registry.tracker.read()["checkpoints"]
        ]
        assert facts == [{k: e[k] for k in f} for e, f in zip(whole["checkpoints"], facts, strict=True)]
        assert registry.recover() == []


def test_marks_of_a_changed_tracker_are_kept_where_they_can_be(registry):
    promote(registry, 2)
    registry.tracker.pin("v0.1", pinned=True)
    registry.tracker.tag("v0.1", "good")
    tracker = registry.tracker.read()
    tracker["checkpoints"][0] |= {"description": "somebody else's", "owner": "me"}
    tracker["checkpoints"][1]["tags"] = ["no tag!", 5]
    tracker["checkpoints"].append({"version": "v0.9", "state": "intact"})
    files.write_json(registry.folder / TRACKER, tracker)

    registry.recover()

    first, second = registry.tracker.read()["checkpoints"]
    assert first == first | {"description": "learned d1", "owner": "me", "pinned": True, "tags": ["good"]}
    assert second["tags"] == []
    assert registry.latest == "v0.2"


def test_a_version_from_outside_serves_only_when_asked(registry):
    promote(registry, 1)
    birth = PromotionRecord(job=None, parent=None, base=BASE, description="brought", serve=False)

    assert registry.promote(a_candidate(registry, 8), birth, NOON, "v0.7") == "v0.7"

    assert (registry.latest, registry.previous) == ("v0.1", None)
    assert registry.rollback("v0.7") == ("v0.7", "v0.1")
    assert promote(registry) == "v0.8"


def test_a_version_from_outside_that_nobody_asked_to_serve_does_not_serve_for_want_of_another(registry):
    birth = PromotionRecord(job=None, parent=None, base=BASE, description="brought", serve=False)
    registry.promote(a_candidate(registry, 8), birth, NOON, "v0.7")

    assert registry.newest_intact(BASE) is None


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


def test_a_link_to_nothing_is_removed(registry):
    promote(registry)
    put_back(registry, links={"previous": "v0.0"})

    registry.recover()

    assert links(registry) == {"latest": "v0.1", "previous": None}


def test_an_old_tracker_without_states_is_understood(registry):
    promote(registry, 2)
    tracker = registry.tracker.read()
    for entry in tracker["checkpoints"]:
        del entry["state"]
    registry.tracker.write(tracker)

    assert registry.newest_intact(BASE) == "v0.2"
    registry.mark_corrupt("v0.2")
    assert registry.newest_intact(BASE) == "v0.1"


# whatever the order


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
