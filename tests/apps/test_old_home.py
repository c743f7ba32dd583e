"""A home that an older lorad left, cut off in the middle of a session: see ``tests/data/old_home``."""

import contextlib
import sqlite3
import tarfile
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from running import ask, wait_for
from structlog.testing import capture_logs

from lorad.apps.daemon.app import App
from lorad.config import RENAMED, load_settings
from lorad.errors import ConfigError, RegistryError
from lorad.home import Home
from lorad.serving import queries
from lorad.serving.client import Client
from lorad.states import DropState, JobState
from lorad.storage import files
from lorad.storage.database import Database
from lorad.storage.ledger import Ledger
from lorad.track import open_track
from lorad.training import reproduction, session
from lorad.training.run_folder import RunFolder
from lorad.versions.store import Registry

OLD = Path(__file__).parents[1] / "data" / "old_home" / "home.tar.gz"
ENDED = {"promoted", "rejected", "failed", "cancelled"}


def unpacked(folder):
    with tarfile.open(OLD) as archive:
        archive.extractall(folder, filter="data")
    return Home(folder / "home")


def rename_settings(home):
    """Do as the refusal says; return the settings."""
    path = home.configs / "default.yaml"
    tree = yaml.safe_load(path.read_text())
    for old, new in RENAMED.items():
        *above, key = old.split(".")
        section = tree
        for name in above:
            section = section[name]
        section[new.rpartition(".")[2]] = section.pop(key)
    tree["planner"]["gapped"] = 0  # the tiny tokenizer knows no gaps
    path.write_text(yaml.safe_dump(tree))
    return load_settings(home)


def digests(home):
    """Return what is in the folders of versions."""
    below = home.track("chat") / "versions"
    return {str(path): files.file_digest(path) for path in below.rglob("*") if path.is_file()}


@contextlib.contextmanager
def running(home):
    # less than the old home had: on some processors its last session does not learn at 0.01
    app = App(home, load_settings(home, None, ["planner.learning_rates=[{learning_rate: 0.004}]"]))
    app.start()
    try:
        yield app, Client(home.socket(app.settings.server.socket))
    finally:
        app.stop()


def jobs(client):
    return {job["id"]: job for job in client.call("GET", "/lorad/jobs")["jobs"]}


class Opened:
    """The old home after a day with today's daemon, and what that said."""

    def __init__(self, home):
        self.home = home
        rename_settings(home)
        self.before = digests(home)
        with capture_logs() as self.log, running(home) as (_, client):
            # the session that was cut off, and the file that was taken
            wait_for(
                lambda: len(jobs(client)) == 7 and all(j["state"] in ENDED for j in jobs(client).values()),
                seconds=240.0,  # two sessions, on a machine that does other things as well
            )
            self.versions = {
                each["version"]: each for each in client.call("GET", "/lorad/versions")["versions"]
            }
            self.jobs = jobs(client)
            self.events = client.call("GET", "/lorad/events", after=0)["events"]
            self.explained = client.call("GET", "/lorad/versions/v0.3/explain")
            self.rejected = client.call("GET", "/lorad/versions/job-4/explain")
            self.described = client.call("GET", "/lorad/versions/good")
            taught = [
                *tiny.facts(4, "doors"),
                *tiny.facts(4, "gates", subject="gate"),
                *tiny.facts(3, "coats", subject="coat"),
            ]
            self.answers = [(ask(client, fact)[0], fact.target) for fact in taught]
            self.good = ask(client, taught[0], "chat@good")
        self.registry = Registry(home.track("chat"))


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return Opened(unpacked(tmp_path_factory.mktemp("old")))


@pytest.fixture
def home(tmp_path):
    return unpacked(tmp_path)


def test_every_setting_with_an_old_name_is_refused_with_the_new_one(home):
    with pytest.raises(ConfigError) as caught:
        load_settings(home)

    told = caught.value.message
    assert "planner.until was renamed to planner.stopping, and its max_epochs to max_rounds" in told
    outer = {old: new for old, new in RENAMED.items() if old != "planner.stopping.max_epochs"}
    assert all(f"{old} was renamed to {new}" in told for old, new in outer.items())
    assert len(caught.value.data["problems"]) == len(outer)


def test_renamed_as_told_the_settings_are_what_they_were(home):
    old = yaml.safe_load((home.configs / "default.yaml").read_text())

    today = rename_settings(home)

    assert today.planner.stopping.max_rounds == old["planner"]["until"]["max_epochs"]
    assert today.judge.max_lost_examples == old["judge"]["max_drop_examples"]
    assert today.engine.max_loaded_versions == old["engine"]["resident_versions"]


def test_who_only_reads_says_that_the_database_is_older(home):
    settings = rename_settings(home)

    with pytest.raises(RegistryError, match="lorad run"), queries.read(home, settings):
        pass


def test_the_database_has_todays_words(home):
    with contextlib.closing(sqlite3.connect(home.database)) as database:
        states = {row[0] for row in database.execute("SELECT state FROM drops")}
        assert {"taken", "repeated"} <= states

    ledger = Ledger(Database(home.database))

    drops = {drop.name: drop.state for drop in ledger.drops(limit=-1)}
    assert drops["socks.json"] is DropState.PROCESSING
    assert drops["gates-again.json"] is DropState.DUPLICATE
    assert drops["broken.json"] is DropState.FAILED
    assert ledger.job(4).settings["max_rounds"] == 2
    assert ledger.job(3).reason["ended_by"] == "max_rounds"
    assert ledger.job(6).state is JobState.TRAINING


def test_the_versions_of_an_old_home_have_todays_states(home):
    tracker = Registry(home.track("chat")).tracker.read()

    assert {entry["version"]: entry["state"] for entry in tracker["checkpoints"]} == {
        "v0.1": "intact",
        "v0.2": "intact",
        "v0.3": "corrupt",
        "v0.4": "intact",
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_session_under_way_begins_anew_and_says_so(opened):
    assert opened.jobs[6]["state"] == "promoted"
    assert "session_begins_again" in {event["name"] for event in opened.events if event.get("job") == 6}
    assert [line["job"] for line in opened.log if line["event"] == "session_begins_again"] == [6]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_file_that_was_taken_is_accepted_and_learned(opened):
    assert opened.jobs[7]["dataset"] == "socks"
    assert opened.jobs[7]["state"] == "promoted"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_was_learned_is_served_and_what_was_marked_stays_marked(opened):
    assert [answer for answer, _ in opened.answers] == [target for _, target in opened.answers]
    assert opened.good == ("ebony", "chat@v0.2")
    assert opened.versions["v0.1"]["pinned"]
    assert opened.versions["v0.2"]["tags"] == ["good"]
    assert (opened.registry.latest, opened.registry.previous) == ("v0.6", "v0.5")
    assert opened.registry.lineage("v0.6") == ["v0.6", "v0.5", "v0.4", "v0.2", "v0.1"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_papers_are_read_in_todays_words(opened):
    assert opened.explained["evaluation"]["ended_by"] == "max_rounds"
    assert opened.rejected["evaluation"]["ended_by"] == "max_rounds"
    order = opened.described["metadata"]["order"]
    assert order["plan"]["stopping"]["max_rounds"] == 120
    assert order["plan"]["mix"]["recalled_share"] == 1.0
    assert order["settings"]["judge"]["max_lost_examples"] == 3
    assert order["settings"]["resolved"]["inbox"]["max_queued_files"] == 900


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_file_of_an_old_version_was_touched(opened):
    after = digests(opened.home)

    assert opened.before
    assert {path: after.get(path) for path in opened.before} == opened.before


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_version_verifies_but_the_damaged_one(opened):
    assert set(opened.versions) == {"v0.1", "v0.2", "v0.3", "v0.4", "v0.5", "v0.6"}
    for version in sorted(set(opened.versions) - {"v0.3"}):
        opened.registry.verify(version)
    with pytest.raises(RegistryError) as caught:
        opened.registry.verify("v0.3")
    assert caught.value.code == "version_damaged"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", ["v0.1", "v0.4"])
def test_an_old_version_is_reproduced(opened, tmp_path, version):
    # Given its papers, its parent's and what memory holds
    home, folder = opened.home, RunFolder(tmp_path / "again")
    track = open_track(home, load_settings(home), Database(home.database), "chat")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        # When it is made once more
        order = reproduction.prepare(track, version, folder)
        session.Session(folder, order).run()
    finally:
        torch.set_num_threads(threads)
    found = reproduction.compare(opened.registry, version, folder)

    # Then it is the same where the processor multiplies as the one that made it, and as right everywhere
    assert found.is_equal or found.again == pytest.approx(found.first, abs=reproduction.TOLERANCE)
