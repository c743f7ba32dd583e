"""What a home has recorded, with and without a daemon: the same answers, from files that nobody changes."""

import json
import os
import shutil
import sqlite3

import pytest
import tiny
from typer.testing import CliRunner
from world import SETTINGS, World

from lorad.apps.cli.main import app
from lorad.config import Settings
from lorad.errors import ConfigError, ProtocolError, RegistryError, TransientError
from lorad.home import Home
from lorad.records import FactRecall, Score
from lorad.serving import queries
from lorad.serving.record_json import as_json
from lorad.storage.migrations import MIGRATIONS
from lorad.versions.manifests import MANIFEST
from lorad.versions.promotion import PromotionRecord


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    made.learn("doors.json", tiny.facts(4, "doors"))
    made.learn("gates.json", tiny.facts(3, subject="gate"))
    yield made
    made.database.close()


def typed(world, *words):
    return CliRunner().invoke(app, ["--home", str(world.home), *words], prog_name="lorad")


ASKED = {
    "jobs": lambda told: told.jobs(),
    "job": lambda told: told.job(2),
    "versions": lambda told: told.versions("chat"),
    "version": lambda told: told.version("chat", "previous"),
    "explain": lambda told: told.explain("chat", "latest"),
    "memory": lambda told: told.memory("chat"),
    "examples": lambda told: list(told.examples("chat")),
    "retention": lambda told: told.retention("chat"),
    "diff": lambda told: told.diff("chat", "v0.1", "v0.2"),
    "events": lambda told: told.events(),
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("is_killed", [True, False])
def test_a_home_without_a_daemon_is_told_as_the_daemon_tells_it(world, asked, is_killed):
    told = asked(world.archive())
    if not is_killed:  # else what was written last stands in the database's log alone
        world.database.close()

    with queries.read(Home(world.home), SETTINGS) as read:
        assert asked(read) == told
    assert told


def test_reading_changes_nothing(world):
    world.database.close()
    before = {path: path.read_bytes() for path in world.home.rglob("*") if path.is_file()}

    with queries.read(Home(world.home), SETTINGS) as told:
        for asked in ASKED.values():
            asked(told)

    after = {path: path.read_bytes() for path in world.home.rglob("*") if path.is_file()}
    assert {path for path in after if "sqlite3-" not in path.name} == set(before)
    assert all(after[path] == content for path, content in before.items())
    with queries.read(Home(world.home), SETTINGS) as told, pytest.raises(TransientError, match="readonly"):
        told._ledger.record_event("never", 0.0)


def test_examples_are_read_page_by_page(world, monkeypatch):
    monkeypatch.setattr(queries.Archive.page, "__defaults__", (2,))

    rows = list(world.archive().examples("chat"))

    assert len(rows) == 7
    assert [row["dataset"] for row in world.archive().examples("chat", "gates")] == ["gates"] * 3


def test_a_home_that_never_ran_has_nothing_to_tell(tmp_path):
    (tmp_path / "models").mkdir()

    with queries.read(Home(tmp_path), SETTINGS) as told:
        assert told.jobs().jobs == ()
        assert told.versions("chat").versions == ()
        assert told.memory("chat").datasets == ()
    assert not list((tmp_path / "models").iterdir())


def test_a_track_that_is_not_there_is_told(world):
    with pytest.raises(ProtocolError, match="there is no track 'chess'; known: chat"):
        world.archive().versions("chess")


def test_a_candidate_that_was_never_refused_is_told(world):
    with pytest.raises(
        ProtocolError, match="no rejected candidate job-9; what became of the job: lorad jobs 9"
    ):
        world.archive().explain("chat", "job-9")


@pytest.mark.parametrize(("version", "code"), [(1, "older_database"), (99, "newer_database")])
def test_a_database_of_another_lorad_is_not_read(world, version, code):
    world.database.close()
    with sqlite3.connect(world.home / "models" / "lorad.sqlite3") as connection:
        connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    assert len(MIGRATIONS) not in {1, 99}

    with pytest.raises(RegistryError) as caught, queries.read(Home(world.home), SETTINGS):
        pass

    assert caught.value.code == code


def test_what_is_no_database_is_not_read(world):
    world.database.close()
    (world.home / "models" / "lorad.sqlite3").write_bytes(b"not a database at all" * 100)

    with (
        pytest.raises(RegistryError, match="is not a lorad database"),
        queries.read(Home(world.home), SETTINGS),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_who_may_not_read_is_told(world):
    (world.home / "models").chmod(0)
    try:
        with (
            pytest.raises(ConfigError, match="no permission to read"),
            queries.read(Home(world.home), SETTINGS),
        ):
            pass
    finally:
        (world.home / "models").chmod(0o755)


# on the command line


def test_what_is_recorded_is_told_where_no_daemon_runs(world):
    result = typed(world, "versions", "--json")

    assert json.loads(result.stdout) == as_json(world.archive().versions("chat"))
    assert result.stderr == "lorad is not running; showing what its home has recorded\n"
    assert typed(world, "versions", "latest").stdout == "v0.2\n"


@pytest.mark.parametrize(
    "words",
    [
        "jobs", "jobs 1", "versions show v0.1", "explain latest", "diff v0.1 v0.2", "retention", "memory",
        "memory export -", "events",
    ],
)  # fmt: skip
def test_every_listing_reads_for_itself_where_no_daemon_runs(world, words):
    result = typed(world, *words.split())

    assert (result.exit_code, bool(result.stdout)) == (0, True)


@pytest.mark.parametrize("words", ["versions pin v0.1", "cancel 1", "status", "rollback", "events --follow"])
def test_what_changes_something_needs_the_daemon(world, words):
    result = typed(world, *words.split())

    assert (result.exit_code, result.stdout) == (1, "")
    assert "start it with: lorad --home" in result.stderr


@pytest.mark.parametrize("number", [10**20, -(10**20), 2**63])
def test_case_10_a_number_that_no_database_counts_to_is_of_nothing(world, number):
    told = world.archive()

    with pytest.raises(ProtocolError, match=f"there is no job {number}") as missing:
        told.job(number)
    assert missing.value.status == 404
    assert bool(told.events(number).events) == (number < 0)
    assert bool(told.page("chat", None, number).examples) == (number < 0)


@pytest.mark.parametrize("version", ["job-" + "9" * 5000, "job-x", "job-../.."])
def test_case_10_a_candidate_that_cannot_be_is_not_looked_for(world, version):
    with pytest.raises(ProtocolError, match="no rejected candidate") as missing:
        world.archive().explain("chat", version)
    assert missing.value.status == 404


def explained(world, version, **limits):
    with queries.read(Home(world.home), Settings.model_validate({"judge": limits})) as told:
        return told.explain("chat", version)


def test_a_verdict_that_todays_settings_would_not_give_stays_and_is_told(world):
    world.learn("keys.json", tiny.facts(4, subject="key"), recall=0.5)
    assert str(world.job().state) == "rejected"

    promoted, rejected = explained(world, "v0.2", max_kl=0.05), explained(world, "job-3", min_recall=0.4)

    assert (promoted.promoted, promoted.promote, promoted.failed) == (True, True, ())
    assert (promoted.today.promote, promoted.today.failed) == (False, ("kl",))
    assert (rejected.promoted, rejected.promote, rejected.failed) == (False, False, ("new_recall",))
    assert rejected.today.promote


def test_a_verdict_that_todays_settings_would_give_again_is_told_once(world):
    assert explained(world, "v0.2").today is None
    assert explained(world, "v0.2", max_kl=0.5).today is None


def test_what_was_imported_was_never_judged_and_is_not_judged_today(world):
    candidate = world.registry.candidates / "made"
    shutil.copytree(world.registry.path("v0.1"), candidate)
    (candidate / MANIFEST).unlink()
    record = PromotionRecord(job=None, parent=None, base="base-print", description="imported")
    version = world.registry.promote(candidate, record, world.now)

    assert explained(world, version, max_kl=0.05).today is None


def test_facts_are_told_beside_recall_where_they_were_asked_for_in_other_words(world):
    # Given a version whose papers have facts of one dataset, after one whose papers have none
    score = Score(right=3, total=4)
    facts = FactRecall(trained=score, trained_served=score, other=Score(right=1, total=4), other_served=score)
    world.drop("keys.json", tiny.facts(4, subject="key"))
    world.pass_time()
    world.models.sessions[-1].end(facts={"doors": facts})
    world.pass_time()

    told = world.archive().retention("chat")

    assert told.datasets == ("doors", "gates", "keys")
    assert told.facts_other.datasets == told.facts_other_served.datasets == ("doors",)
    assert told.facts_other.matrix == ((None,), (None,), (0.25,))
    assert told.facts_other_served.counts == ((None,), (None,), ((3, 4),))
    assert world.archive().explain("chat", "latest").evaluation.facts == {"doors": facts}
    assert world.archive().versions("chat").versions[-1].performance["facts"] == 0.75


def test_without_other_words_no_facts_are_told(world):
    told = world.archive().retention("chat")

    assert (told.facts_other, told.facts_other_served) == (None, None)
    assert world.archive().explain("chat", "latest").evaluation.facts == {}
