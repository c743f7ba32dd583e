"""Starting again after any kind of stop."""

import json
import shutil

import pytest
from versions_on_disk import (
    BASE,
    NOON,
    a_candidate,
    assert_consistent,
    links,
    on_disk,
    pointers,
    promote,
    prune,
    states,
)

from lorad.errors import RegistryError
from lorad.storage import files
from lorad.versions.manifests import MANIFEST
from lorad.versions.promotion import PromotionRecord
from lorad.versions.tracker import TRACKER


def put_back(registry, *, tracker=None, links=None):
    if tracker is not None:
        (registry.folder / TRACKER).write_bytes(tracker)
    for name, version in (links or {}).items():
        (registry.folder / name).unlink(missing_ok=True)
        if version:
            (registry.folder / name).symlink_to(f"versions/{version}")


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


def test_a_version_from_outside_that_nobody_asked_to_serve_does_not_serve_for_want_of_another(registry):
    birth = PromotionRecord(job=None, parent=None, base=BASE, description="brought", serve=False)
    registry.promote(a_candidate(registry, 8), birth, NOON, "v0.7")

    assert registry.newest_intact(BASE) is None


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
