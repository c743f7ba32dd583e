"""Names, tags and pins of versions, and writers in many processes."""

import shutil
import subprocess
import sys

import pytest
from versions_on_disk import assert_consistent, pointers, promote, prune, states

from lorad.errors import ProtocolError, RegistryError
from lorad.storage import files
from lorad.versions.tracker import TRACKER


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


WRITERS = """
import os, sys
from pathlib import Path
from lorad.versions.store import Registry

registry = Registry(Path(sys.argv[1]))

def write(number):
    for turn in range(3):
        registry.tracker.tag("v0.%d" % (2 + (number + turn) % 3), "tag-%d-%d" % (number, turn))
        registry.tracker.tag("v0.%d" % (2 + turn % 3), "shared")
        registry.tracker.pin("v0.2", pinned=bool(turn % 2))

word, closed = os.pipe()
children = []
for number in range(int(sys.argv[2])):
    child = os.fork()
    if child == 0:
        os.close(closed)
        os.read(word, 1)  # until the other end is closed
        try:
            write(number)
        except BaseException as error:
            print(number, repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    children.append(child)
print("ready", flush=True)
sys.stdin.readline()
os.close(closed)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


WRITING = 50


def test_writers_in_many_processes_lose_nothing(registry):
    # Given versions of which only the first may be pruned, and fifty processes that wait for the same word
    promote(registry, 4)
    for version in ("v0.2", "v0.3", "v0.4"):
        registry.tracker.tag(version, f"own-{version}")
    command = [sys.executable, "-c", WRITERS, str(registry.folder), str(WRITING)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    writers = subprocess.Popen(command, text=True, **pipes)
    assert writers.stdout.readline() == "ready\n"

    # When all write at once, while this process promotes, rolls back and prunes
    writers.stdin.write("go\n")
    writers.stdin.flush()
    promote(registry)
    prune(registry, 1)
    while writers.poll() is None:
        registry.rollback()
        prune(registry, 1)
        assert len(registry.tracker.read()["checkpoints"]) == 5
    _, complaints = writers.communicate()
    assert (writers.returncode, complaints) == (0, "")

    # Then every tag is where it was put, and the contested one is on one version
    placed = sorted(
        (tag, e["version"]) for e in registry.tracker.read()["checkpoints"] for tag in e.get("tags", ())
    )
    own = [(f"own-v0.{number}", f"v0.{number}") for number in (2, 3, 4)]
    theirs = [
        (f"tag-{number}-{turn}", f"v0.{2 + (number + turn) % 3}")
        for number in range(WRITING)
        for turn in range(3)
    ]
    assert placed == sorted([*own, *theirs, ("shared", "v0.4")])
    assert states(registry) == {"v0.1": "pruned"} | {f"v0.{number}": "intact" for number in range(2, 6)}
    assert_consistent(registry)
