"""Making a version once more from its papers and memory."""

from dataclasses import replace

import pytest
import tiny
import torch
from home import Track, drop

from lorad import records
from lorad.errors import RegistryError
from lorad.records import Example
from lorad.storage import files
from lorad.storage.database import Database
from lorad.storage.memory import Memory
from lorad.training import reproduction
from lorad.training.reproduction import Comparison
from lorad.training.run_folder import RunFolder
from lorad.versions.promotion import PromotionRecord
from lorad.versions.store import Registry


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    return Track(tmp_path_factory.mktemp("track"))


def test_a_version_made_again_is_bit_equal(track):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        version = track.learn(tiny.facts(3, "gates", subject="gate"), 2)

        found = track.again(version)
    finally:
        torch.set_num_threads(threads)

    assert found.largest_difference == 0
    assert (found.is_equal, found.is_close, found.changed) == (True, True, ())
    assert found.first == found.again > 0


def test_papers_name_examples_and_hold_none_of_their_words(track):
    metadata = (track.registry.path("v0.1") / "metadata.json").read_text()

    assert tiny.NAMES[0] not in metadata
    assert tiny.facts(1, "doors")[0].id in metadata


def test_what_was_forgotten_is_told(track, tmp_path):
    other = Memory(Database(tmp_path / "empty.sqlite3"), "chat")
    drop(other, tiny.facts(2, "doors"))

    with pytest.raises(RegistryError, match="1 of the examples") as caught:
        reproduction.prepare(replace(track.track, memory=other), "v0.1", RunFolder(tmp_path / "again"))

    assert caught.value.code == "examples_gone"
    assert not (tmp_path / "again").exists()


def test_a_version_without_papers_is_told(track, tmp_path):
    candidate = tmp_path / "chat" / "candidates" / "adopted"
    files.write_json(candidate / "metadata.json", {"imported": {}})
    registry = Registry(tmp_path / "chat")
    version = registry.promote(
        candidate, PromotionRecord(job=None, parent=None, base="b", description=""), 0.0
    )

    with pytest.raises(RegistryError) as caught:
        reproduction.prepare(replace(track.track, registry=registry), version, RunFolder(tmp_path / "again"))

    assert caught.value.code == "no_order"


@pytest.mark.parametrize(
    ("difference", "first", "again", "changed", "is_close"),
    [
        (0.0, 1.0, 1.0, (), True),
        (1e-9, 1.0, 1.0, (), False),
        (0.1, 0.97, 0.975, ("torch was 1 and is 2",), True),
        (0.1, 0.97, 0.98, ("torch was 1 and is 2",), False),
    ],
)
def test_only_another_environment_excuses_a_difference(difference, first, again, changed, is_close):
    found = Comparison(largest_difference=difference, first=first, again=again, changed=changed)
    on_a_card = replace(found, is_deterministic=False)

    assert on_a_card.is_close is (replace(found, changed=("torch",)).is_close)
    assert found.is_close is is_close


def test_replaced_answers_are_found_by_id_and_forgotten_ones_are_not(tmp_path):
    memory = Memory(Database(tmp_path / "m.sqlite3"), "chat")
    old = tiny.facts(2)
    newer = Example(**{**records.as_json(old[0]), "target": "white"})
    drop(memory, old)
    memory.mark_learned([example.ids for example in old], "v0.1")
    drop(memory, [newer])
    memory.mark_learned([newer.ids], "v0.2")

    assert memory.named([old[1].id, old[0].id, "none"]) == [old[1], old[0]]

    memory.forget("Brix", 1.0)
    assert memory.named([old[1].id, old[0].id]) == [old[0]]
