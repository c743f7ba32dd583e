"""The learning loop with a fake trainer: what happens to files, jobs and versions, and in which order."""

import json
import sqlite3
from dataclasses import replace

import pytest
import tiny
from world import World

from lorad.states import JobState
from lorad.storage import files


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.database.close()


def test_a_dropped_file_becomes_a_version_that_serves(world):
    world.learn("doors.json", tiny.facts(4))

    assert world.job().state is JobState.PROMOTED
    assert world.job().version == world.registry.latest == world.models.serving == "v0.1"
    assert world.done() == ["doors.json"]
    assert world.track.memory.datasets()[0]["learned"] == 4
    assert not list(world.registry.candidates.iterdir())


def test_a_file_that_still_grows_is_left_alone(world):
    path = world.drop("doors.json", tiny.facts(2))
    world.pass_time(3)
    path.write_text(json.dumps(tiny.rows(tiny.facts(4))))
    world.pass_time(3)
    assert path.exists()

    world.pass_time(5)

    assert not path.exists()
    assert len(files.read_lines(world.models.sessions[0].folder / "new.jsonl")) == 4


@pytest.mark.parametrize(
    ("content", "field", "row"),
    [
        ("{not json\n", None, 1),
        ("[]", None, None),
        ('[{"instruction": "a", "response": "b"}, {"instruction": "c", "colour": "d"}]', "colour", 2),
    ],
)
def test_a_bad_file_is_put_aside_with_its_reason_and_nothing_else_is_touched(world, content, field, row):
    world.drop("bad.json", content)
    world.drop("doors.json", tiny.facts(4))

    world.pass_time()

    reason = files.read_json(world.home / "inbox" / "failed" / "bad.json.reason.json")
    assert world.failed() == ["bad.json", "bad.json.reason.json"]
    assert reason["file"] == "bad.json"
    assert reason.get("field") == field
    assert reason.get("row") == row
    assert [job.dataset for job in world.ledger.jobs()] == ["doors"]


def test_the_same_content_under_another_name_is_recognised_and_not_learned_twice(world):
    world.learn("doors.json", tiny.facts(4))

    world.drop("copy.json", tiny.facts(4))
    world.pass_time()

    assert len(world.ledger.jobs()) == 1
    assert world.done() == ["copy.json", "doors.json"]
    assert "same content as doors.json" in next(
        e["why"] for e in world.ledger.events() if e["name"] == "duplicate"
    )


def test_after_forgetting_no_file_of_the_home_but_the_dropped_ones_holds_the_words(world):
    # Given a word that was learned, replaced, and met by a session that failed
    old, *others = tiny.facts(3)
    secret = replace(old, target="zyzzyva")
    world.learn("doors.json", [secret, *others])
    world.learn("news.json", [old, tiny.facts(4)[3]])
    world.drop("again.json", [secret])
    world.pass_time()
    world.models.sessions[-1].status = -9
    world.pass_time()
    assert world.job().state is JobState.FAILED

    assert world.loop.commands.forget(world.track, "zyzzyva", world.now) == 1
    world.pass_time()

    holding = [p for p in world.home.rglob("*") if p.is_file() and b"zyzzyva" in p.read_bytes()]
    assert sorted(path.name for path in holding) == ["again.json", "doors.json"]  # in inbox/done
    told = [event for event in world.ledger.events(limit=5) if event["name"] == "forgotten"]
    assert [event["examples"] for event in told] == [1]


def test_forgotten_words_leave_the_log_as_soon_as_nobody_reads(world):
    world.learn("doors.json", [replace(tiny.facts(1)[0], target="zyzzyva")])
    log = world.home / "models" / "lorad.sqlite3-wal"
    reader = sqlite3.connect(world.home / "models" / "lorad.sqlite3")
    reader.execute("BEGIN")
    reader.execute("SELECT COUNT(*) FROM examples").fetchall()

    world.loop.commands.forget(world.track, "zyzzyva", world.now)
    world.pass_time()

    assert log.stat().st_size
    reader.close()
    world.pass_time(60)
    assert log.stat().st_size == 0
    assert b"zyzzyva" not in (world.home / "models" / "lorad.sqlite3").read_bytes()
