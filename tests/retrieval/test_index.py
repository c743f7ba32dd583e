"""The index: what a lineage has learned is found, nothing else is, and its file is never wrong."""

import contextlib
import itertools
import math
import random
import stat
import threading

import pytest
import torch
from fake_embedder import FakeEmbedder
from safetensors.torch import load_file, save_file

from lorad.records import Example
from lorad.retrieval import index
from lorad.retrieval.index import CODE_WEIGHT, Index
from lorad.storage import fault_points
from lorad.storage.database import Database
from lorad.storage.ledger import Ledger
from lorad.storage.memory import Memory


class World:
    """A database with one track, and its index, which can be opened anew."""

    def __init__(self, folder):
        self.folder = folder / "index"
        self.file = self.folder / "vectors.safetensors"
        self.database = Database(folder / "lorad.sqlite3")
        self.memory = Memory(self.database, "chat")
        self.embedder = FakeEmbedder()
        self.start()

    def start(self, embedder=None):
        self.embedder = embedder or self.embedder
        self.index = Index(self.database, "chat", self.memory, self.embedder, self.folder)

    def accept(self, *examples, version=None):
        drop = Ledger(self.database).take("a.json", "chat", 1.0).id
        self.memory.add(examples, drop, 1.0)
        if version:
            self.memory.mark_learned([example.ids for example in examples], version)

    def embed(self, limit=64):
        while self.index.step(limit):
            pass

    def found(self, question, *lineage, most=8):
        return [near.example.target for near in self.index.search(question, lineage, most)]


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.database.close()


def an_example(asked, answer, dataset="mills"):
    return Example(task="chat", input=[{"role": "user", "content": asked}], target=answer, dataset=dataset)


MILL = an_example("Where is the mill?", "By the river.")
MOVED = an_example("Where is the mill?", "On the hill.", "news")
FORD = an_example("Where is the ford?", "Below the weir.", "fords")
INN = an_example("Who keeps the inn?", "Old Hild.", "inns")


def test_the_nearest_example_comes_first_with_what_is_known_of_it(world):
    world.accept(MILL, FORD, INN, version="v0.1")
    world.memory.record_recall("v0.1", {INN.id: True, MILL.id: False})
    world.embed()

    first, *rest = world.index.search("who keeps that inn", ["v0.1"])

    assert (first.example, first.is_recalled) == (INN, True)
    assert first.score == first.similarity > rest[0].similarity
    assert 0.5 < first.similarity <= 1
    assert not any(near.is_recalled for near in rest)
    assert world.found("where is it", "v0.1", most=1) in (["By the river."], ["Below the weir."])


def test_without_anything_learned_nothing_is_found(world):
    assert world.found("Where is the mill?", "v0.1") == []
    world.accept(MILL)
    world.embed()
    assert world.found("Where is the mill?") == []
    assert world.found("Where is the mill?", "v0.1") == []


def test_what_a_lineage_knows_is_found_a_rollback_included(world):
    world.accept(MILL, FORD, version="v0.1")
    world.accept(MOVED, version="v0.2")
    world.embed()

    def learned(*lineage):
        return set(world.found("Where is the mill?", *lineage))

    assert learned("v0.2", "v0.1") == {"On the hill.", "Below the weir."}
    assert learned("v0.1") == {"By the river.", "Below the weir."}
    assert learned("v0.3", "v0.2", "v0.1") == {"On the hill.", "Below the weir."}
    world.accept(INN, version="v0.3")
    world.embed()
    assert "Old Hild." not in learned("v0.2", "v0.1")
    assert "Old Hild." in learned("v0.3", "v0.2", "v0.1")


def test_a_search_finds_exactly_what_memory_says_is_learned(world):
    # Given a random history of answers, versions and what was forgotten
    rng = random.Random(3)
    for number in range(40):
        asked = f"question {rng.randrange(8)}"
        world.accept(
            an_example(asked, f"answer {rng.randrange(30)}", f"d{rng.randrange(9)}"),
            version=f"v0.{rng.randrange(4)}" if rng.random() < 0.8 else None,
        )
        if rng.random() < 0.2:
            world.memory.forget(f"d{rng.randrange(9)}", float(number))
        if rng.random() < 0.5:
            world.embed(limit=2)
        lineage = rng.sample(["v0.0", "v0.1", "v0.2", "v0.3"], rng.randrange(1, 5))
        world.index.search("question", lineage)
    world.embed()

    for size in range(1, 5):
        for lineage in itertools.permutations(["v0.0", "v0.1", "v0.2", "v0.3"], size):
            known = {item.example.id for item in world.memory.learned(lineage)}
            assert world.memory.learned_ids(lineage) == known
            assert {near.example.id for near in world.index.search("question", lineage, 99)} == known


def test_what_is_forgotten_is_found_no_more_and_its_vector_goes(world):
    world.accept(MILL, FORD, version="v0.1")
    world.embed()
    assert len(load_file(world.file)["vectors"]) == 2

    world.memory.forget("mills", 2.0)

    assert world.found("Where is the mill?", "v0.1") == ["Below the weir."]
    assert not world.file.exists()
    world.embed()
    assert len(load_file(world.file)["vectors"]) == 1
    assert world.found("Where is the mill?", "v0.1") == ["Below the weir."]


def test_what_is_forgotten_goes_without_a_search_and_after_a_crash(world):
    world.accept(MILL, FORD, version="v0.1")
    world.embed()
    world.memory.forget("mills", 2.0)

    world.start()
    world.embed()

    assert len(load_file(world.file)["vectors"]) == 1


def test_what_is_forgotten_during_a_search_is_not_found(world):
    # Given an embedder during whose work somebody forgets
    world.accept(MILL, FORD, version="v0.1")
    world.embed()

    class Forgetting(FakeEmbedder):
        def embed(self, texts):
            world.memory.forget("mills", 2.0)
            return super().embed(texts)

    world.start(Forgetting())

    assert world.found("Where is the mill?", "v0.1") == ["Below the weir."]


def test_examples_are_embedded_a_few_at_a_time_and_each_once(world):
    world.accept(MILL, FORD, INN, version="v0.1")

    assert world.index.step(limit=2)
    assert len(world.found("Where is the mill?", "v0.1")) == 2
    assert not world.index.has_all(["v0.1"])
    assert world.index.left() == 1
    assert not world.index.step(limit=2)
    assert world.index.has_all(["v0.1"])
    assert world.index.left() == 0
    assert not world.index.step(limit=2)

    asked = "Where is the mill?"
    assert sorted(text for text in world.embedder.embedded if text != asked) == sorted(
        f"{e.input[0]['content']} {e.target}" for e in (MILL, FORD, INN)
    )
    world.start()
    world.embed()
    assert len(world.found(asked, "v0.1")) == 3
    assert world.embedder.embedded.count(asked) == 2


def test_new_examples_are_found_beside_those_of_the_file(world):
    many = [an_example(f"What is thing {number}?", f"It is {number}.") for number in range(40)]
    world.accept(*many, version="v0.1")
    world.embed()
    made = world.file.read_bytes()

    world.accept(INN, version="v0.1")
    world.embed()

    assert world.file.read_bytes() == made  # not made anew for one more
    assert world.found("Who keeps the inn?", "v0.1")[0] == "Old Hild."
    assert world.found("What is thing 39?", "v0.1")[0] == "It is 39."
    world.start()
    assert world.found("Who keeps the inn?", "v0.1")[0] == "Old Hild."
    world.accept(*[an_example(f"What is stuff {number}?", f"Stuff {number}.") for number in range(9)])
    world.embed()
    assert len(load_file(world.file)["vectors"]) == 50


def test_the_file_and_its_folder_are_private(world):
    world.accept(MILL)
    world.embed()

    assert stat.S_IMODE(world.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(world.folder.stat().st_mode) == 0o700
    assert [path.name for path in world.folder.iterdir()] == [world.file.name]


def flipped(world):
    content = bytearray(world.file.read_bytes())
    content[-1] ^= 1
    world.file.write_bytes(content)


def of_others(world):
    torch.manual_seed(1)
    told = {"embedder": world.embedder.fingerprint}
    save_file({"vectors": torch.randn(2, 64).bfloat16()}, world.file, metadata=told)


def of_another_history(world):
    """Leave the file of a database that was lost: the same row numbers, other examples."""
    world.database.close()
    for path in world.folder.parent.glob("lorad.sqlite3*"):
        path.unlink()
    file = world.file.read_bytes()
    other = World(world.folder.parent)
    other.accept(INN, FORD, version="v0.1")
    other.embed()
    world.file.write_bytes(file)
    world.database, world.memory = other.database, other.memory


@pytest.mark.parametrize(
    "damage",
    [
        lambda world: world.file.unlink(),
        lambda world: world.file.write_bytes(b""),
        lambda world: world.file.write_bytes(world.file.read_bytes()[:-3]),
        lambda world: world.file.write_bytes(b"\xff" * 4096),
        lambda world: save_file({"other": torch.ones(2)}, world.file),
        lambda world: save_file({"vectors": torch.ones(2, 3, 4, dtype=torch.bfloat16)}, world.file),
        lambda world: save_file({"vectors": torch.ones((), dtype=torch.bfloat16)}, world.file),
        lambda world: save_file({"vectors": torch.ones(2, 64)}, world.file),
        flipped,
        of_others,
        of_another_history,
    ],
)
def test_a_file_that_is_missing_stale_or_damaged_is_made_anew(world, damage):
    world.accept(MILL, FORD, version="v0.1")
    world.embed()
    damage(world)

    world.start()

    assert world.found("Where is the ford?", "v0.1", most=1) == ["Below the weir."]
    world.embed()
    mine = load_file(world.file)["vectors"]
    numbers, vectors = world.index._stored.all(world.index._kept_as)
    assert len(numbers) == 2
    assert torch.equal(mine, torch.from_numpy(vectors).bfloat16())


def test_the_file_is_read_and_not_the_database(world):
    # Given vectors that mean nothing, behind a file that is sound
    world.accept(MILL, FORD, version="v0.1")
    world.embed()
    world.database.run("UPDATE embeddings SET vector = zeroblob(length(vector))")

    world.start()

    assert world.found("Where is the ford?", "v0.1", most=1) == ["Below the weir."]
    world.file.unlink()
    world.start()
    assert {near.similarity for near in world.index.search("Where is the ford?", ["v0.1"])} == {0.0}


def test_another_embedder_embeds_everything_anew(world):
    world.accept(MILL, FORD, version="v0.1")
    world.embed()

    world.start(FakeEmbedder("other", 32))
    assert world.found("Where is the ford?", "v0.1") == []
    world.embed(limit=1)

    assert world.found("Where is the ford?", "v0.1", most=1) == ["Below the weir."]
    assert load_file(world.file)["vectors"].shape == (2, 32)


def test_codes_decide_between_texts_that_look_alike(world):
    world.start(FakeEmbedder(dimension=1024))
    courses = [an_example(f"Who teaches CS {number}?", f"Lecturer {number}.") for number in (241, 242, 341)]
    world.accept(*courses, INN, version="v0.1")
    world.embed()

    near = world.index.search("cs 342 or CS 241 which person gives it", ["v0.1"])

    assert near[0].example == courses[0]
    # of four examples one has 241, none has 342 and three have cs
    log = math.log
    rarity = {"241": log(5 / 2) / log(5), "342": 1.0, "cs": log(5 / 4) / log(5)}
    lacking = {
        courses[0].id: ["342"],
        courses[1].id: ["342", "241"],
        courses[2].id: ["342", "241"],
        INN.id: ["342", "241", "cs"],
    }
    for each in near:
        missing = sum(rarity[code] ** 2 for code in lacking[each.example.id])
        assert each.score == pytest.approx(each.similarity - CODE_WEIGHT * missing, abs=1e-6)
    assert [n.score for n in near] == sorted((n.score for n in near), reverse=True)


def test_an_example_with_the_code_is_found_however_far_its_meaning_is(world):
    # Given more examples that are nearer than are looked at
    near = [an_example(f"what does error mean {'x' * number}", "Nothing.") for number in range(150)]
    far = an_example("SQLITE_IOERR", "A disk that fails.")
    world.accept(*near, far, version="v0.1")
    world.embed()

    assert "A disk that fails." in world.found("what does error SQLITE_IOERR mean", "v0.1", most=999)
    assert "A disk that fails." not in world.found("what does error mean", "v0.1", most=999)


def test_more_codes_may_be_asked_for_than_are_held(world, monkeypatch):
    monkeypatch.setattr(index, "MOST_HELD_COUNTS", 1)
    world.accept(MILL, FORD, INN, version="v0.1")
    world.embed()

    for _ in range(2):
        assert world.found("Where are ERR_1, ERR_2 and CS 241 of the mill?", "v0.1")


def test_a_question_may_be_anything(world):
    world.accept(MILL, version="v0.1")
    world.embed()

    for question in ("", "\0", '"', "A1 " * 50_000, "___", "* OR NEAR(", "\ud800 X1"):
        assert world.found(question, "v0.1") == ["By the river."]


def test_a_crash_at_any_write_loses_nothing_and_repeats_nothing(tmp_path):
    for number in itertools.count():
        (tmp_path / str(number)).mkdir()
        world = World(tmp_path / str(number))
        world.accept(MILL, FORD, INN, version="v0.1")
        steps = itertools.count()

        def killer(name, place, steps=steps, number=number):
            if next(steps) == number:
                raise KeyboardInterrupt(f"{name} {place}")
            return contextlib.nullcontext()

        with contextlib.suppress(KeyboardInterrupt), fault_points.guarded(killer):
            world.embed(limit=2)
        embedded = list(world.index._stored.numbers(world.index._kept_as))
        world.embedder.embedded.clear()

        world.start()
        world.embed(limit=2)

        assert len(world.embedder.embedded) == 3 - len(embedded)
        assert len(load_file(world.file)["vectors"]) == 3
        assert len(world.found("Where is the mill?", "v0.1")) == 3
        assert [path.name for path in world.folder.iterdir()] == [world.file.name]
        world.database.close()
        if next(steps) <= number:
            break
    assert number > 15


def test_searches_are_right_while_others_write(world):
    world.accept(MILL, FORD, version="v0.1")
    world.embed()
    wrong, stop = [], threading.Event()

    def search():
        while not stop.is_set():
            found = world.found("Where is the mill?", "v0.1")
            if found[:1] != ["By the river."]:
                wrong.append(found)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(30):
        world.accept(an_example(f"What is {number}?", f"It is {number}.", f"d{number}"), version="v0.1")
        world.embed()
        if number % 3 == 0:
            world.memory.forget(f"d{number}", 2.0)
    stop.set()
    for thread in threads:
        thread.join()

    assert wrong == []


def test_a_lineage_is_made_ready_before_it_is_asked(world):
    world.accept(MILL, version="v0.1")
    world.embed()

    world.index.refresh(["v0.1"])

    assert world.index._seen.learned[("v0.1",)].tolist() == [True]


def test_three_rows_of_one_megabyte_are_embedded(world):
    world.accept(
        *[an_example(f"What is X{number}?", "word " * 200_000) for number in range(3)], version="v0.1"
    )
    world.embed()

    assert world.index.search("X1", ["v0.1"])[0].example.input[0]["content"] == "What is X1?"


OFFICE = an_example("Where is the Alderwick office of Corn Milling?", "In the tithe barn.")
CORN = an_example("Who heads Corn Milling?", "Ada Birch.")
NAMESAKE = an_example("Who lives at Castle Mound?", "Nobody.")


def test_an_abbreviation_is_written_out_as_most_of_memory_writes_it(world):
    world.accept(OFFICE, CORN, NAMESAKE, version="v0.1")
    world.embed()

    def read(question, *lineage):
        return world.index.written_out(question, lineage or ["v0.1"])

    assert read("who runs CM at Alderwick?") == "who runs Corn Milling at Alderwick?"
    assert read("who runs CM 12, the cm or the XY?") == "who runs CM 12, the cm or the XY?"
    assert read("is AB there?") == "is Ada Birch there?"
    assert read("who runs CM?", "v0.2") == "who runs CM?"


def test_what_an_abbreviation_stood_for_is_gone_with_what_was_forgotten(world):
    world.accept(CORN, version="v0.1")
    world.embed()
    world.memory.forget("mills", 2.0)
    assert world.index.written_out("who runs CM?", ["v0.1"]) == "who runs CM?"


def test_no_code_is_lacking_where_an_abbreviation_is_kept_beside_the_words(world):
    world.accept(CORN, version="v0.1")
    world.embed()
    assert world.index._stored.matching("CM", 9) == []
    assert world.index._stored.matching("corn milling", 9) == [CORN.id]


def test_what_was_kept_in_another_form_is_made_anew(world, monkeypatch):
    monkeypatch.setattr(index, "_FORM", "words 1")
    world.start()
    world.accept(CORN, version="v0.1")
    world.embed()
    monkeypatch.undo()
    world.start()
    assert world.found("Who heads Corn Milling?", "v0.1") == []
    assert world.index.left() == 1
    world.embed()
    assert world.found("Who heads Corn Milling?", "v0.1") == ["Ada Birch."]
