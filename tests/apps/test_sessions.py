"""From a job to a session: what it is asked, how it ends, what it goes on from."""

import json
from itertools import pairwise

import pytest
import tiny
from world import World, failed_with_checkpoints

from lorad import records
from lorad.apps.daemon.settlement import MAX_ATTEMPTS
from lorad.states import JobState
from lorad.storage import files


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.database.close()


def test_a_session_on_a_parent_that_drifted_trains_more_general_conversation(world):
    rehearsal, limit = world.settings.rehearsal, world.settings.judge.max_perplexity_rise
    world.learn("doors.json", tiny.facts(4, "doors"), perplexity=10.0 * (1 + limit / 2))

    # When one learns on it, and one begins from the base
    world.drop("gates.json", tiny.facts(3, subject="gate"))
    world.pass_time()
    learned = world.order()["plan"]["mix"]["general"]
    world.models.sessions[-1].end()
    world.pass_time()
    world.loop.commands.consolidate(world.track, world.now, refit=True)
    world.pass_time()
    refitted = world.order()["plan"]["mix"]["general"]

    assert learned == pytest.approx((rehearsal.general_share + rehearsal.general_share_max) / 2)
    assert refitted == rehearsal.general_share


def test_the_second_session_gets_the_first_ones_facts_to_rehearse(world):
    world.learn("doors.json", tiny.facts(4, "doors"))
    world.drop("gates.json", tiny.facts(3, subject="gate"))
    world.pass_time()

    folder = world.models.sessions[-1].folder
    order = files.read_json(folder / "request.json")
    assert len(files.read_lines(folder / "new.jsonl")) == 3
    assert [row["right"] for row in files.read_lines(folder / "old.jsonl")] == [True] * 4
    assert order["parent_version"] == "v0.1"


def test_after_the_database_is_lost_no_job_has_a_number_that_made_a_version(world):
    world.learn("doors.json", tiny.facts(4))
    world.learn("gates.json", tiny.facts(4, subject="gate"), recall=0.5)
    world.database.close()
    for path in (world.home / "models").glob("lorad.sqlite3*"):
        path.unlink()
    world.start()

    world.learn("keys.json", tiny.facts(4, subject="key"))

    assert (world.job().id, world.job().state, world.job().version) == (3, JobState.PROMOTED, "v0.2")
    assert (world.registry.latest, world.models.serving) == ("v0.2", "v0.2")
    assert len(world.track.memory.learned(world.registry.lineage("v0.2"))) == 4


def test_a_session_that_dies_is_a_failed_job_with_its_last_words(world):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    with (world.models.sessions[0].folder / "progress.jsonl").open("w") as stream:
        stream.write(
            json.dumps({"error": {"code": "diverged", "message": "the loss is not a number"}}) + "\n"
        )
    world.models.sessions[0].end(status=1)
    world.pass_time()

    assert world.job().state is JobState.FAILED
    assert world.job().reason == {"code": "diverged", "message": "the loss is not a number"}

    world.drop("gates.json", tiny.facts(3, subject="gate"))
    world.pass_time()
    assert world.job().state is JobState.TRAINING


def test_a_session_that_met_a_full_disk_is_tried_again_later_and_later(world):
    # Given sessions that all meet a full disk
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    starts = []
    for _ in range(600):
        session = world.models.sessions[-1]
        if session.status is None:
            starts.append(world.ticks)
            files.write_lines(
                session.folder / "progress.jsonl", [{"error": {"code": "disk", "message": "full"}}]
            )
            session.end(status=1)
        world.pass_time(1)

    # Then each waits longer than the one before, and none counts as an attempt
    waits = [later - earlier for earlier, later in pairwise(starts)]
    assert waits == sorted(waits)
    assert len(starts) > MAX_ATTEMPTS
    assert max(waits) > 100 * min(waits)
    assert (world.job().state, world.job().attempts) == (JobState.QUEUED, 0)

    world.pass_time(600)
    world.models.sessions[-1].end()
    world.pass_time()

    assert world.job().state is JobState.PROMOTED


def test_killed_by_the_system_is_said(world):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    world.models.sessions[0].end(status=-9)
    world.pass_time()

    assert "killed by signal 9" in world.job().reason["message"]
    assert "where memory runs out" in world.job().reason["message"]


def test_after_a_crash_of_the_daemon_the_session_starts_again_but_not_for_ever(world):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()

    for _ in range(MAX_ATTEMPTS):
        world.database.close()
        world.start()
        world.pass_time()

    assert world.job().state is JobState.FAILED
    assert "lorad resume 1" in world.job().reason["message"]
    assert len(world.models.sessions) == MAX_ATTEMPTS


@pytest.mark.parametrize("end", ["crash", "halt"])
def test_a_session_that_had_ended_is_judged_by_the_next_daemon_and_not_trained_again(world, end):
    # Given one that has ended well when the daemon ends, before it was judged
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    world.models.sessions[0].end()
    if end == "halt":
        world.loop.sessions.halt(world.now)
    world.database.close()

    world.start()
    world.pass_time()
    world.pass_time()

    assert (world.job().state, world.registry.latest) == (JobState.PROMOTED, "v0.1")
    assert len(world.models.sessions) == 1


def test_after_a_crash_the_same_order_finds_its_checkpoints(world):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    kept = world.models.sessions[0].folder / "checkpoints" / "round-0001"
    kept.mkdir(parents=True)

    world.database.close()
    world.start()
    world.pass_time()

    assert len(world.models.sessions) == 2
    assert kept.is_dir()


def test_another_order_for_the_same_job_begins_anew(world):
    # Given a session that was cut off, and a row that is forgotten before it goes on
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    kept = world.models.sessions[0].folder / "checkpoints" / "round-0001"
    kept.mkdir(parents=True)
    world.database.close()
    world.start()
    world.track.memory.forget("Arlo", world.now)

    world.pass_time()

    assert not kept.exists()
    assert len(files.read_lines(world.models.sessions[-1].folder / "new.jsonl")) == 3


def test_a_new_answer_replaces_the_old_one_once_it_is_learned(world):
    world.learn("doors.json", tiny.facts(4, "doors"))
    changed = [records.Example(task="chat", input=tiny.facts(1)[0].input, target="no colour")]

    world.drop("news.json", changed)
    world.pass_time()
    rehearsed = files.read_lines(world.models.sessions[-1].folder / "old.jsonl")
    world.models.sessions[-1].end()
    world.pass_time()

    assert len(rehearsed) == 3
    known = {item.example.target for item in world.track.memory.learned(world.registry.lineage("v0.2"))}
    assert "no colour" in known
    assert tiny.facts(1)[0].target not in known


def test_while_paused_files_are_accepted_and_wait(world):
    world.ledger.set_flag("paused", "yes")

    world.drop("doors.json", tiny.facts(4))
    world.pass_time()

    assert world.job().state is JobState.QUEUED
    world.ledger.set_flag("paused", "")
    world.pass_time()
    assert world.job().state is JobState.TRAINING


def test_stopping_the_daemon_puts_the_session_back_into_the_queue(world):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()

    world.loop.sessions.halt(world.now)

    assert world.models.sessions[0].stopped
    assert (world.job().state, world.job().attempts) == (JobState.QUEUED, 0)


def test_old_rows_are_compared_with_what_the_version_that_serves_recalled(world):
    # Given a version that memory was not asked of last
    world.learn("doors.json", tiny.facts(4, "doors"))
    ids = [item.example.id for item in world.track.memory.learned(["v0.1"])]
    world.track.memory.record_recall("v0.2", dict.fromkeys(ids, False))

    world.drop("gates.json", tiny.facts(3, subject="gate"))
    world.pass_time()

    old = files.read_lines(world.models.sessions[-1].folder / "old.jsonl")
    assert [row["right"] for row in old] == [True] * 4


def test_whatever_stands_in_a_jobs_way_the_next_one_has_its_turn(world, monkeypatch):
    plan = world.models.plan

    def stumble(track, examples, *asked):
        if len(examples) == 3:
            raise KeyError("a template's mistake")
        return plan(track, examples, *asked)

    monkeypatch.setattr(world.models, "plan", stumble)
    world.drop("doors.json", tiny.facts(3))
    world.pass_time()
    world.drop("gates.json", tiny.facts(4, subject="gate"))
    world.pass_time()

    assert world.ledger.job(1).state is JobState.FAILED
    assert world.ledger.job(2).state is JobState.TRAINING


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.TRAINING])
def test_a_job_of_a_track_that_is_gone_waits_and_keeps_nobody(world, state):
    job = world.ledger.queue("notes", "old", world.now)
    if state is JobState.TRAINING:
        world.ledger.move_job(job, "start", world.now)
    world.database.close()
    world.start()

    world.drop("doors.json", tiny.facts(4))
    world.pass_time()

    assert world.ledger.job(1).state is state
    assert world.ledger.job(2).state is JobState.TRAINING


@pytest.mark.parametrize("paused", [True, False])
def test_a_session_that_waits_or_never_starts_again_holds_no_forgotten_words(world, paused):
    # Given a session that the daemon's end cut off
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    world.loop.sessions.halt(world.now)
    world.database.close()
    world.start()
    folder = world.registry.candidates / "job-1"
    assert (folder / "new.jsonl").exists()
    world.ledger.set_flag("paused", "yes" if paused else "")

    world.loop.commands.forget(world.track, "doors", world.now)
    world.pass_time()

    assert world.job().state is (JobState.QUEUED if paused else JobState.FAILED)
    assert not list(folder.glob("*.jsonl"))


def test_a_failed_session_leaves_no_rows_and_goes_on_behind_its_checkpoints(world):
    folder = failed_with_checkpoints(world)
    assert not list(folder.parent.glob("*.jsonl"))

    world.loop.commands.retry(1, world.now)
    world.pass_time()

    assert len(list(folder.glob("round-*"))) == 3
    assert len(files.read_lines(folder.parent / "new.jsonl")) == 4


def test_more_time_and_other_limits_do_not_cost_a_session_its_checkpoints(world):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    folder = world.models.sessions[0].folder
    kept = folder / "checkpoints" / "round-0001"
    kept.mkdir(parents=True)

    world.database.close()
    training = world.settings.training.model_copy(update={"max_seconds": 99_999})
    judge = world.settings.judge.model_copy(update={"min_recall": 0.5})
    world.settings = world.settings.model_copy(update={"training": training, "judge": judge})
    world.start()
    world.pass_time()

    assert kept.is_dir()
    assert files.read_json(folder / "request.json")["settings"]["training"]["max_seconds"] == 99_999
