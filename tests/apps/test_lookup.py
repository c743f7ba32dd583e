"""Looking a question up in what the version that answers has learned."""

from contextlib import closing
from dataclasses import replace

import pytest
import tiny
from fake_embedder import FakeEmbedder
from versions_on_disk import BASE, NOON, a_candidate
from world import evaluate

from lorad import records
from lorad.apps.daemon.fitting import Fitting, keep
from lorad.apps.daemon.lookup import Lookup
from lorad.config import AnsweringSettings, Settings
from lorad.home import Home
from lorad.records import AnswerThresholds, SessionResult, Verdict
from lorad.retrieval.finding import Finding
from lorad.retrieval.index import Index
from lorad.storage import files
from lorad.storage.database import Database
from lorad.storage.ledger import Ledger
from lorad.track import open_tracks
from lorad.versions.promotion import PromotionRecord

DOORS = tiny.facts(4, "doors")
WINDOWS = tiny.facts(4, "windows", subject="window")
LINE = AnswerThresholds(
    scored_by="similarity on fake-fingerp, form 7",
    answer=6.0,
    about=0.5,
    false_share=0.0,
    refused_share=0.0,
    questions=8,
)


class World:
    """A home whose versions learned doors, then windows."""

    def __init__(self, root, database):
        (root / "models").mkdir()
        self.home = Home(root)
        self.database = database
        self.tracks = open_tracks(self.home, Settings(), database)
        self.chat = self.tracks["chat"]
        self.index = Index(database, "chat", self.chat.memory, FakeEmbedder(dimension=2048), None)

    def learn(self, examples, *, right=True, thresholds=LINE):
        drop = Ledger(self.database).take("file.json", "chat", NOON)
        self.chat.memory.add(examples, drop.id, NOON)
        job = len(self.chat.registry.tracker.read()["checkpoints"]) + 1
        folder = a_candidate(self.chat.registry, job)
        spec = type("Spec", (), {"dataset": examples[0].dataset})
        result = SessionResult(
            parent=self.chat.registry.latest,
            base=BASE,
            evaluation=replace(evaluate(spec, examples, []), thresholds=thresholds),
            verdict=Verdict(promote=True, reasons=()),
            learned=tuple(example.ids for example in examples),
            right={example.id: right for example in examples},
        )
        files.write_json(folder / "evaluation.json", records.as_json(result))
        birth = PromotionRecord(job=job, parent=result.parent, base=BASE, description="learned")
        version = self.chat.registry.promote(folder, birth, NOON)
        self.chat.memory.mark_learned(result.learned, version)
        while self.index.step():
            pass
        return version

    def lookup(self, serving="base", **settings):
        return Lookup(
            self.tracks, AnsweringSettings(**settings), Ledger(self.database), lambda _track: serving
        )

    def indexed(self, serving="base", **settings):
        lookup = self.lookup(serving, **settings)
        lookup.add("chat", Finding(self.index))
        return lookup

    def reply(self, question, version, **settings):
        return ask(self.indexed(**settings), question, version)


def ask(lookup, question, version):
    return lookup.reply("chat", version, [{"role": "user", "content": question}])


@pytest.fixture
def world(tmp_path):
    with closing(Database(":memory:")) as database:
        yield World(tmp_path, database)


ASKED = "please tell me which colour is the door of Arlo?"


def test_a_question_is_answered_from_what_the_version_learned(world):
    version = world.learn(DOORS)
    reply = world.reply(ASKED, version)
    assert reply.mode == "taught"
    assert reply.rests_on.id == DOORS[0].id


def test_an_older_version_finds_only_what_it_learned(world):
    first, second = world.learn(DOORS), world.learn(WINDOWS)
    asked = WINDOWS[1].input[0]["content"]
    assert world.reply(asked, second).rests_on.id == WINDOWS[1].id
    assert world.reply(asked, first).rests_on.dataset == "doors"


def test_what_this_version_does_not_recall_is_quoted(world):
    version = world.learn(DOORS, right=False)
    assert (world.reply(ASKED, version).mode, world.reply(ASKED, version).text) == (
        "stored",
        DOORS[0].target,
    )


def test_the_base_and_versions_without_thresholds_answer_by_themselves(world):
    version = world.learn(DOORS, thresholds=None)
    assert world.reply(ASKED, version) is None
    assert world.reply(ASKED, "base") is None


def test_thresholds_of_another_reranker_are_not_used(world):
    version = world.learn(DOORS, thresholds=replace(LINE, scored_by="another"))
    assert world.reply(ASKED, version) is None


def test_what_is_unknown_is_said_in_the_settings_words(world):
    facts = [replace(example, target=f"It is {number + 41}.") for number, example in enumerate(DOORS)]
    version = world.learn(facts, thresholds=replace(LINE, answer=50.0, about=0.1))
    asked = "Which colour is the roof of Arlo?"
    assert world.reply(asked, version, unknown_words="No idea.").text == "No idea."
    assert world.reply(asked, version, unknown="answer").mode == "weights"


def test_a_forgotten_example_is_found_no_more(world):
    version = world.learn(DOORS)
    world.chat.memory.forget("doors", NOON)
    assert world.reply(ASKED, version).mode == "weights"


def test_a_track_without_an_index_answers_by_itself(world):
    version = world.learn(DOORS)
    assert world.lookup().reply("chat", version, []) is None


# thresholds that are fitted while a version serves


def fit(world, lookup, *, steps=100):
    """Fit in steps until nothing is left; return how many it took."""
    ticks = iter(range(10_000))
    fitting = Fitting(lookup, Ledger(world.database), lambda: float(next(ticks)))
    for number in range(steps):
        if not fitting.step():
            return number
    raise AssertionError("it never ends")


@pytest.mark.parametrize(
    "thresholds", [None, replace(LINE, scored_by="another"), replace(LINE, max_false_share=0.9)]
)
def test_a_version_whose_thresholds_do_not_fit_gets_new_ones(world, thresholds):
    version = world.learn(DOORS, thresholds=thresholds)
    lookup = world.indexed(version)
    assert fit(world, lookup) > 1
    assert lookup.unfitted() is None
    assert ask(lookup, ASKED, version).rests_on.id == DOORS[0].id


def test_what_was_fitted_is_there_after_a_restart(world):
    version = world.learn(DOORS, thresholds=None)
    fit(world, world.indexed(version))
    again = world.indexed(version)
    assert again.unfitted() is None
    assert ask(again, ASKED, version).mode == "taught"
    assert world.indexed(version, max_false_share=0.05).unfitted().version == version


def test_thresholds_that_only_allow_another_share_answer_until_new_ones_are_fitted(world):
    version = world.learn(DOORS, thresholds=replace(LINE, max_false_share=0.9))
    lookup = world.indexed(version)
    assert lookup.unfitted().version == version
    assert ask(lookup, ASKED, version).mode == "taught"


def test_thresholds_that_fit_are_left_alone(world):
    for thresholds in (LINE, replace(LINE, max_false_share=0.2)):
        version = world.learn(DOORS, thresholds=thresholds)
        assert fit(world, world.indexed(version)) == 0


def test_the_base_and_a_version_whose_index_is_not_whole_are_not_fitted(world):
    version = world.learn(DOORS, thresholds=None)
    assert world.indexed("base").unfitted() is None
    more = tiny.facts(4, "gates", subject="gate")
    world.chat.memory.add(more, Ledger(world.database).take("more.json", "chat", NOON).id, NOON)
    world.chat.memory.mark_learned([example.ids for example in more], version)
    assert world.indexed(version).unfitted() is None


def test_where_scores_tell_nothing_the_version_goes_on_without_and_is_not_asked_again(world):
    version = world.learn(DOORS, thresholds=None)
    lookup = world.indexed(version)
    keep(Ledger(world.database), lookup.unfitted(), None)
    again = world.indexed(version)
    assert again.unfitted() is None
    assert ask(again, ASKED, version) is None


@pytest.mark.parametrize(
    "held", ["", "no JSON", "[]", '{"version": "v0.1"}', '{"version": 1, "thresholds": {"answer": "x"}}']
)
def test_what_is_kept_and_cannot_be_read_is_fitted_again(world, held):
    version = world.learn(DOORS, thresholds=None)
    Ledger(world.database).set_flag("thresholds:chat", held)
    lookup = world.indexed(version)
    assert lookup.unfitted().version == version
    fit(world, lookup)
    assert ask(lookup, ASKED, version).mode == "taught"


def test_it_is_told_why_a_version_answers_by_its_weights_alone(world):
    assert world.indexed("base").why_not("chat") == ""
    version = world.learn(DOORS, thresholds=None)
    assert world.indexed(version, retrieve=False).why_not("chat") == "as answering.retrieve is off"
    assert world.lookup(version).why_not("chat").startswith("as its encoder is damaged")
    lookup = world.indexed(version)
    assert lookup.why_not("chat") == "until thresholds are fitted"
    lookup.use("chat", version, None)
    assert lookup.why_not("chat").startswith("as scores tell nothing")
    lookup.use("chat", version, LINE)
    assert lookup.why_not("chat") == ""
    more = tiny.facts(4, "gates", subject="gate")
    world.chat.memory.add(more, Ledger(world.database).take("more.json", "chat", NOON).id, NOON)
    world.chat.memory.mark_learned([example.ids for example in more], version)
    assert lookup.why_not("chat") == "until all that it has learned is indexed"
