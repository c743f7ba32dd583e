"""The learning loop with a fake trainer: what happens to files, jobs and versions, and in which order."""

import errno
import json
import os
import sqlite3
from dataclasses import replace
from itertools import pairwise

import pytest
import tiny
from world import World

from lorad import records
from lorad.apps.daemon.intake import TAKEN_AT_ONCE
from lorad.apps.daemon.settlement import MAX_ATTEMPTS, _promotion
from lorad.config import RegistrySettings, Settings
from lorad.datasets.inbox.inbox import Inbox
from lorad.datasets.isolated.reader_process import InProcessReader
from lorad.errors import ConfigError, ProtocolError, RegistryError
from lorad.serving.answers import Roles
from lorad.states import JobState
from lorad.storage import files
from lorad.versions.store import Registry
from lorad.versions.tracker import Tracker


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


def test_a_candidate_that_forgets_is_rejected_and_the_old_version_goes_on(world):
    world.learn("doors.json", tiny.facts(10, "doors"))

    world.learn("gates.json", tiny.facts(4, subject="gate"), broken=3)

    assert world.job().state is JobState.REJECTED
    assert world.job().reason["failed"] == ["retention:doors"]
    assert world.registry.latest == world.models.serving == "v0.1"
    assert (world.registry.rejected / "job-2" / "candidate" / "evaluation.json").exists()
    assert [item.example.dataset for item in world.track.memory.learned(["v0.1"])] == ["doors"] * 10


def test_a_rejected_job_can_be_retried_with_other_settings_or_promoted_by_force(world):
    world.learn("doors.json", tiny.facts(4), recall=0.5)
    assert world.job().state is JobState.REJECTED

    world.loop.commands.retry(1, world.now, force=True, settings={"rank": 4})
    world.pass_time()
    order = world.order()
    world.models.sessions[-1].end(recall=0.5)
    world.pass_time()

    assert order["plan"]["rank"] == 4
    assert world.job().state is JobState.PROMOTED
    assert world.models.serving == "v0.1"


def test_other_settings_make_a_candidate_anew_whatever_became_of_the_job_since(world):
    # Given a refused candidate, whose job was tried once more and cancelled
    world.learn("doors.json", tiny.facts(4), recall=0.5)
    world.loop.commands.retry(1, world.now)
    world.pass_time()
    world.loop.commands.cancel(1, world.now)
    world.models.sessions[-1].end(status=1)
    world.pass_time()

    world.loop.commands.retry(1, world.now, force=True, settings={"rank": 4})
    world.pass_time()

    assert world.job().state is JobState.TRAINING
    assert world.order()["plan"]["rank"] == 4


def test_short_memory_at_the_swap_is_no_fault_of_the_version(world):
    world.learn("doors.json", tiny.facts(4))
    world.models.is_short = True
    world.learn("gates.json", tiny.facts(4, subject="gate"))

    assert (world.job().state, world.models.serving) == (JobState.PROMOTED, "v0.1")
    assert (world.registry.latest, world.registry.newest_intact()) == ("v0.2", "v0.2")

    world.models.is_short = False
    world.pass_time(60)

    assert world.models.serving == "v0.2"


def test_with_short_memory_at_the_start_the_version_serves_as_soon_as_it_can(world):
    world.learn("doors.json", tiny.facts(4))
    world.models.is_short, world.models.serving = True, None
    world.start()
    assert world.models.serving is None

    world.models.is_short = False
    world.pass_time(60)

    assert world.models.serving == "v0.1"


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


def test_a_consolidation_that_came_to_nothing_is_not_repeated_every_night(world):
    world.learn("doors.json", tiny.facts(4), rank=33)
    world.loop.commands.consolidate_idle(world.now)
    world.pass_time()
    world.models.sessions[-1].end(rank=32, recall=0.1)
    world.pass_time()
    assert world.job().state is JobState.REJECTED

    assert world.loop.commands.consolidate_idle(world.now) == []

    world.learn("gates.json", tiny.facts(4, subject="gate"), rank=40)
    assert len(world.loop.commands.consolidate_idle(world.now)) == 1  # another version: it may go better


def test_a21_a_consolidation_that_came_to_nothing_after_the_clock_was_set_back_is_not_repeated(world):
    world.learn("doors.json", tiny.facts(4), rank=33)
    world.now -= 86_400
    world.loop.commands.consolidate_idle(world.now)
    world.pass_time()
    world.models.sessions[-1].end(rank=32, recall=0.1)
    world.pass_time()
    assert world.job().state is JobState.REJECTED

    assert world.loop.commands.consolidate_idle(world.now) == []


def test_asked_for_twice_a_consolidation_is_queued_once(world):
    world.learn("doors.json", tiny.facts(4))

    jobs = [
        world.loop.commands.consolidate(world.track, world.now, refit=refit) for refit in (True, True, False)
    ]

    assert [(job.id, job.kind) for job in jobs] == [(2, "refit"), (2, "refit"), (3, "consolidate")]


def test_an_adapter_that_has_grown_is_made_smaller_at_night(world):
    # Given a version of more than half the rank limit, and no more to learn
    world.learn("doors.json", tiny.facts(4), rank=33)

    queued = world.loop.commands.consolidate_idle(world.now)
    world.pass_time()

    assert [(job.kind, job.dataset) for job in queued] == [("consolidate", "memory")]
    order = world.order()
    assert (order["kind"], order["plan"]["rank"], order["parent_version"]) == ("consolidate", 8, "v0.1")
    assert len(files.read_lines(world.models.sessions[-1].folder / "old.jsonl")) == 4
    assert world.loop.commands.consolidate_idle(world.now) == []  # one is under way

    world.models.sessions[-1].end(rank=32)
    world.pass_time()

    assert world.registry.latest == "v0.2"
    assert world.loop.commands.consolidate_idle(world.now) == []  # small enough


def test_at_night_a_home_without_versions_or_with_work_is_left_alone(world):
    assert world.loop.commands.consolidate_idle(world.now) == []

    world.learn("doors.json", tiny.facts(4), rank=64)
    world.drop("gates.json", tiny.facts(4, subject="gate"))
    world.pass_time()

    assert world.loop.commands.consolidate_idle(world.now) == []


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


def test_a_merged_copy_goes_with_its_version(world):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    session = world.models.sessions[-1]
    files.write_bytes(session.folder / "merged" / "model.safetensors", b"everything")
    session.end()
    world.pass_time()

    assert files.read_json(world.registry.folder / "merged" / "lorad.json")["version"] == "v0.1"
    assert not session.folder.exists()


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


def test_a_crash_between_promotion_and_ledger_is_finished_at_the_next_start(world):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    world.models.sessions[0].end()
    run = world.models.sessions[0].run
    birth = _promotion(world.ledger.job(1), run.result())
    world.registry.promote(run.candidate, birth, world.now)  # and here the power fails

    world.database.close()
    world.start()

    assert world.job().state is JobState.PROMOTED
    assert world.job().version == "v0.1"
    assert world.models.serving == "v0.1"
    assert world.track.memory.datasets()[0]["learned"] == 4


def test_a_crash_while_accepting_takes_the_file_up_again_exactly_once(world):
    path = world.drop("doors.json", tiny.facts(4))
    world.loop.intake.take(world.inbox.waiting()[0], world.now)  # taken, and here the power fails
    assert not path.exists()

    world.database.close()
    world.start()
    world.pass_time(0)

    assert world.done() == ["doors.json"]
    assert world.track.memory.datasets()[0]["examples"] == 4
    assert len(world.ledger.jobs()) == 1


def test_a_version_that_cannot_be_loaded_is_damaged_and_the_last_sound_one_serves(world):
    world.learn("doors.json", tiny.facts(4))
    world.models.broken = {"v0.2"}

    world.learn("gates.json", tiny.facts(3, subject="gate"))

    assert world.models.serving == world.registry.latest == "v0.1"
    assert (
        next(e["state"] for e in world.registry.tracker.read()["checkpoints"] if e["version"] == "v0.2")
        == "corrupt"
    )
    told = [event["name"] for event in world.ledger.events()]
    assert [name for name in told if name in {"promoted", "rolled_back"}] == [
        "promoted",
        "promoted",
        "rolled_back",
    ]


def test_a_version_answers_before_its_promotion_is_told(world):
    # Given somebody who looks at the job at the moment in which its version begins to serve
    seen = []
    world.models.as_it_serves = lambda: seen.append(world.job().state)

    world.learn("doors.json", tiny.facts(2))

    # Then whoever waits for the job to end is answered by what it made
    assert seen == [JobState.JUDGING]
    assert world.job().state is JobState.PROMOTED


def test_rollback_serves_previous_and_what_it_never_knew_is_not_expected_of_it(world):
    world.learn("doors.json", tiny.facts(4, "doors"))
    world.learn("gates.json", tiny.facts(3, "gates", subject="gate"))

    answer = world.loop.commands.rollback(world.track, None, world.now)

    assert answer == Roles(track="chat", latest="v0.1", previous="v0.2", serving="v0.1")
    assert world.models.serving == "v0.1"
    assert {item.example.dataset for item in world.track.memory.learned(world.registry.lineage("v0.1"))} == {
        "doors"
    }


def test_the_sessions_verdict_holds_though_the_settings_were_changed_meanwhile(tmp_path):
    # Given a session that was judged before somebody asked for more
    stricter = Settings.model_validate({"inbox": {"settle_seconds": 5}, "judge": {"max_kl": 0.05}})
    world = World(tmp_path, stricter)
    world.learn("doors.json", tiny.facts(4))

    # Then it is promoted, its papers say so, and so do job and explanation
    assert (world.job().state, world.registry.latest) == (JobState.PROMOTED, "v0.1")
    assert world.registry.result("v0.1").verdict.promote
    assert world.job().reason["failed"] == []
    assert world.archive().explain("chat", "v0.1").today.failed == ("kl",)
    world.database.close()


class Unwritable(Tracker):
    """A tracker that cannot be written."""

    def write(self, content):
        del content
        raise OSError(errno.EACCES, "Permission denied")


def test_a_promotion_that_fails_is_not_found_promoted_at_the_next_start(world):
    # Given a tracker that becomes unwritable before the second version is promoted
    world.learn("doors.json", tiny.facts(4))
    registry = Registry(world.registry.folder)
    registry.tracker = Unwritable(world.registry.folder)
    world.tracks["chat"] = replace(world.track, registry=registry)
    world.learn("gates.json", tiny.facts(3, subject="gate"))
    assert world.job().state is JobState.FAILED

    # When the daemon starts again
    world.database.close()
    world.start()

    # Then the job is as failed as it was, and trying again learns it
    assert world.registry.latest == "v0.1"
    world.loop.commands.retry(world.job().id, world.now)
    world.pass_time()
    world.models.sessions[-1].end()
    world.pass_time()
    assert (world.job().state, world.registry.latest) == (JobState.PROMOTED, "v0.2")


class Unprunable(Registry):
    """A registry in which nothing can be removed."""

    def prune(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system")


def test_a_version_is_promoted_though_older_ones_cannot_be_pruned(world):
    world.tracks["chat"] = replace(world.track, registry=Unprunable(world.registry.folder))

    world.learn("doors.json", tiny.facts(4))

    assert world.job().state is JobState.PROMOTED
    assert world.models.serving == "v0.1"


def test_what_the_running_session_builds_on_is_not_pruned(world):
    # Given a session that builds on v0.3, which people leave behind meanwhile
    for number in range(3):
        world.learn(f"doors{number}.json", tiny.facts(number + 2, f"doors{number}", subject=f"door {number}"))
    world.drop("gates.json", tiny.facts(3, subject="gate"))
    world.pass_time()
    world.loop.commands.rollback(world.track, "v0.1", world.now)
    world.loop.commands.rollback(world.track, "v0.2", world.now)
    limits = RegistrySettings(keep=1)

    # When everything is pruned that can be
    assert world.loop.commands.prune(world.track, limits, world.now) == {}
    world.loop.sessions.halt(world.now)

    # Then that version goes once the session is over, and one is told
    assert list(world.loop.commands.prune(world.track, limits, world.now, dry_run=True)) == ["v0.3"]
    assert list(world.loop.commands.prune(world.track, limits, world.now)) == ["v0.3"]
    told = [e for e in world.ledger.events() if e["name"] == "pruned"]
    assert [event["versions"] for event in told] == [["v0.3"]]


def test_a_first_session_builds_on_nothing(world):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()

    assert world.loop.commands.prune(world.track, RegistrySettings(keep=1), world.now) == {}


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


def test_cancelling_ends_the_session_and_leaves_nothing(world):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()

    world.loop.commands.cancel(1, world.now)
    session = world.models.sessions[0]
    session.status = 75
    world.pass_time()

    assert session.stopped
    assert world.job().state is JobState.CANCELLED
    assert not session.folder.exists()


def test_what_a_cancelled_session_still_writes_to_is_swept_when_it_is_gone(world):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    session = world.models.sessions[0]

    world.loop.commands.cancel(1, world.now)
    world.pass_time()

    assert (session.folder / "request.json").exists()
    session.status = 75
    world.pass_time()
    assert not session.folder.exists()


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


def test_a_file_dropped_again_after_a_rollback_is_learned_again(world):
    world.learn("doors.json", tiny.facts(4, "doors"))
    world.learn("gates.json", tiny.facts(3, "gates", subject="gate"))
    world.loop.commands.rollback(world.track, None, world.now)

    world.learn("gates.json", tiny.facts(3, "gates", subject="gate"))

    assert world.job().state is JobState.PROMOTED
    assert world.registry.lineage("v0.3") == ["v0.3", "v0.1"]
    assert len(world.track.memory.learned(world.registry.lineage("v0.3"))) == 7


def test_a_file_whose_name_is_not_utf8_is_taken_like_any_other(world):
    path = world.home / "inbox" / os.fsdecode(b"d\xf6rs.json")
    path.write_text(json.dumps(tiny.rows(tiny.facts(2))))

    world.pass_time()

    assert world.job().state is JobState.TRAINING
    assert world.done() == ["d\ufffdrs.json"]


def test_a_scrub_finds_rot_under_a_version_that_serves_and_leaves_sound_ones_alone(world):
    world.learn("doors.json", tiny.facts(4, "doors"))
    world.learn("gates.json", tiny.facts(4, "gates", subject="gate"))
    assert world.loop.recovery.scrub(world.now) == []
    assert world.models.serving == "v0.2"
    path = next((world.registry.folders.folder / "v0.2").glob("*.json"))
    path.write_bytes(path.read_bytes() + b" ")
    world.models.bad_bases = [ConfigError("the base has changed", code="base_damaged")]

    found = world.loop.recovery.scrub(world.now)

    assert [error.code for error in found] == ["base_damaged", "version_damaged"]
    assert world.models.serving == world.registry.latest == "v0.1"
    assert [e["name"] for e in world.ledger.events(limit=3)].count("damaged") == 2
    assert world.loop.recovery.scrub(world.now) == found[:1]


def test_a_scrub_mends_a_tracker_that_something_else_has_changed(world):
    world.learn("doors.json", tiny.facts(4, "doors"))
    path = world.registry.folder / "checkpoint_tracker.json"
    files.write_json(path, files.read_json(path) | {"latest": "v9.9"})

    world.loop.recovery.scrub(world.now)

    assert world.registry.latest == "v0.1"


def failed_with_checkpoints(world):
    """Let a session die behind its third round; return the folder of its checkpoints."""
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    folder = world.registry.candidates / "job-1" / "checkpoints"
    for number in (1, 2, 3):
        files.write_json(folder / f"round-000{number}" / "manifest.json", {})
    world.models.sessions[-1].status = -9
    world.pass_time()
    assert world.job().state is JobState.FAILED
    return folder


def test_a_job_goes_on_behind_the_checkpoint_that_is_named(world):
    folder = failed_with_checkpoints(world)

    assert world.loop.commands.resume(1, "round-0002", world.now)[1] == "round-0002"
    world.pass_time()

    assert world.job().state is JobState.TRAINING
    assert sorted(path.name for path in folder.iterdir()) == ["round-0001", "round-0002"]


def test_without_a_name_every_checkpoint_stays(world):
    folder = failed_with_checkpoints(world)

    assert world.loop.commands.resume(1, None, world.now)[1] == "round-0003"
    world.pass_time()

    assert len(list(folder.iterdir())) == 3


def test_a_checkpoint_that_is_not_there_is_told_and_nothing_changes(world):
    folder = failed_with_checkpoints(world)

    with pytest.raises(ProtocolError, match="round-0001, round-0002, round-0003"):
        world.loop.commands.resume(1, "round-0009", world.now)

    assert world.job().state is JobState.FAILED
    assert len(list(folder.iterdir())) == 3


@pytest.mark.parametrize(
    ("state", "order", "told"),
    [
        ("queued", "retry", "is queued; remove it from the queue with: lorad cancel 1"),
        ("training", "retry", "its session is running; stop it with: lorad cancel 1"),
        ("promoted", "cancel", "it became v0.1; serve another version with: lorad rollback"),
        ("promoted", "retry", "it became v0.1"),
        ("rejected", "cancel", "queue it again with: lorad retry 1"),
        ("failed", "cancel", "queue it again with: lorad retry 1"),
        ("cancelled", "cancel", "queue it again with: lorad retry 1"),
    ],
)
def test_an_order_that_a_job_does_not_take_says_which_it_would(world, state, order, told):
    world.ledger.set_flag("paused", "yes" if state == "queued" else "")
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    if state == "cancelled":
        world.loop.commands.cancel(1, world.now)
    elif state in {"promoted", "rejected"}:
        world.models.sessions[-1].end(**({"recall": 0.0} if state == "rejected" else {}))
        world.pass_time()
    elif state == "failed":
        world.models.sessions[-1].status = -9
        world.pass_time()
    assert world.job().state == state

    with pytest.raises(ProtocolError, match=told) as caught:
        getattr(world.loop.commands, order)(1, world.now)

    assert caught.value.status == 409
    assert world.job().state == state


def test_a_drop_says_which_rows_were_bad_contradicted_and_which_answers_it_replaces(world):
    world.learn("doors.json", tiny.facts(2))
    first, second = tiny.facts(2)
    rows = tiny.rows(
        [replace(first, target="plaid"), *(replace(second, target=f"hue {n}") for n in range(30))]
    )
    world.drop("news.json", json.dumps([*rows, {"instruction": "half"}]))

    world.pass_time()

    report = world.ledger.drops()[0].reason
    counts = ("new", "known", "replacing", "bad", "contradictions")
    assert [report[name] for name in counts] == [2, 0, 2, 1, 29]
    assert [bad["line"] for bad in report["bad_rows"]] == [32]
    assert report["contradicted_rows"] == list(range(2, 22))
    replaced = world.archive().job(2).drop.reason["replaced"]
    assert [(old["answer"], old["dataset"]) for old in replaced] == [
        (first.target, "doors"),
        (second.target, "doors"),
    ]
    accepted = [e for e in world.ledger.events(limit=50) if e["name"] == "accepted"][-1]
    assert (accepted["bad"], accepted["contradictions"]) == (1, 29)


def test_case_1_a_row_that_its_base_could_not_give_back_is_refused_at_intake(world):
    world.models.refuses = "ﬁ"
    rows = tiny.rows(tiny.facts(8)) * 4 + [{"instruction": "Which?", "response": "ﬁg"}]
    world.drop("doors.json", json.dumps(rows))

    world.pass_time()

    report = world.ledger.drops()[0].reason
    (bad,) = report["bad_rows"]
    assert (bad["line"], bad["message"]) == (33, "the base model would answer otherwise")
    assert report["new"] == 8


def test_case_1_a_file_of_such_rows_fails_with_the_reason(world):
    world.models.refuses = "ﬁ"
    world.drop("doors.json", json.dumps([{"instruction": "Which?", "response": "ﬁg"}]))

    world.pass_time()

    reason = files.read_json(world.home / "inbox" / "failed" / "doors.json.reason.json")
    assert reason["code"] == "bad_rows"
    assert "row 1: the base model would answer otherwise" in reason["message"]
    assert world.ledger.jobs() == []


# what people drop beside good files


def told(world, name):
    return [event for event in world.ledger.events() if event["name"] == name]


def test_a_sidecar_says_how_a_file_is_read_and_is_kept_with_it(world):
    rows = [{"Frage": f"Where is {n}?", "Antwort": n, "Autor": "me"} for n in ("Rome", "Oslo")]
    (world.home / "inbox" / "a.json.meta.yaml").write_text(
        "fields: {question: Frage, answer: Antwort}\ndescription: by hand"
    )
    world.drop("a.json", json.dumps(rows))

    world.pass_time()

    assert [example.target for example in world.track.memory.all()] == ["Rome", "Oslo"]
    assert world.ledger.drops()[0].reason["description"] == "by hand"
    done = sorted(path.name for path in (world.home / "inbox" / "done").rglob("a.*"))
    assert done == ["a.json", "a.json.meta.yaml"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("track: tax", "no track tax"),
        ("labels: [PER]", "labels"),
        ("task: tagging", "not tagging"),
        ("colour: red", "no key colour"),
        ("fields: {frage: question}", "an unknown field frage"),
    ],
)
def test_a_wrong_sidecar_fails_its_file_and_names_the_key(world, text, told):
    (world.home / "inbox" / "a.json.meta.yaml").write_text(text)
    world.drop("a.json", tiny.facts(2))

    world.pass_time()

    assert world.failed() == ["a.json", "a.json.meta.yaml", "a.json.reason.json"]
    reason = files.read_json(world.home / "inbox" / "failed" / "a.json.reason.json")
    assert (reason["code"], reason["track"]) == ("sidecar", "chat")
    assert told in reason["message"]


def test_a_pipe_and_a_folder_keep_nobody_waiting(world):
    os.mkfifo(world.home / "inbox" / "pipe.json")
    (world.home / "inbox" / "elsewhere").mkdir()
    world.drop("doors.json", tiny.facts(4))

    world.pass_time()
    world.pass_time()

    assert world.failed() == ["pipe.json", "pipe.json.reason.json"]
    assert [(e["file"], e["code"]) for e in told(world, "failed")] == [("pipe.json", "no_file")]
    assert [(e["file"], e["code"]) for e in told(world, "not_taken")] == [("elsewhere", "no_such_track")]
    assert world.job().state is JobState.TRAINING


def test_a_flood_waits_where_it_lies_and_is_taken_as_there_is_room(world):
    # Given room for three, of which one is being learned, and five more files
    world.settings = Settings.model_validate({"inbox": {"settle_seconds": 5, "max_queued_files": 3}})
    world.wire(world.reader)
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    for number in range(5):
        world.drop(f"{number}.json", tiny.facts(2, subject=f"gate {number}"))

    world.pass_time()
    world.pass_time()

    assert len(world.ledger.open_jobs()) == 3
    assert len(world.inbox.waiting()) == 3
    assert [event["code"] for event in told(world, "inbox_full")] == ["too_many_files"]

    # When all are learned in turn
    while world.ledger.open_jobs():
        world.models.sessions[-1].end()
        world.pass_time()

    assert world.done() == [f"{number}.json" for number in range(5)] + ["doors.json"]
    assert len(world.ledger.jobs()) == 6
    assert len(told(world, "inbox_full")) == 1


def test_a_step_takes_no_more_than_it_can_do_at_once(world):
    world.ledger.set_flag("paused", "yes")
    for number in range(TAKEN_AT_ONCE + 3):
        world.drop(f"{number}.json", tiny.facts(1, subject=f"gate {number}"))

    world.pass_time()
    assert len(world.done()) == TAKEN_AT_ONCE
    world.pass_time()
    assert len(world.done()) == TAKEN_AT_ONCE + 3


class Meddled(InProcessReader):
    """A reader that does something to a file just after its rows were read, once for each thing to do."""

    def __init__(self, inbox, meddling):
        self.inbox = inbox
        self.meddling = meddling

    def read(self, file, *rest):
        if self.meddling and isinstance(self.meddling[0], BaseException):
            raise self.meddling.pop(0)
        found = super().read(file, *rest)
        if self.meddling:
            (taken,) = self.inbox.processing()
            self.meddling.pop(0)(taken.path)
        return found


def meddle(world, *meddling):
    world.wire(Meddled(world.inbox, list(meddling)))


def test_a_file_that_is_written_to_while_it_is_read_is_read_again_once_it_rests(world):
    # Given a program that overwrites a file through the handle that it still has
    meddle(world, lambda path: path.write_text(json.dumps(tiny.rows(tiny.facts(4)))))
    world.drop("doors.json", tiny.facts(2))

    world.pass_time()
    assert world.track.memory.all() == []
    assert "changed while it was read" in next(iter(world.inbox.delayed.values()))
    world.pass_time(4)  # less than it must rest
    assert world.track.memory.all() == []
    world.pass_time(6)

    assert len(world.track.memory.all()) == 4
    assert world.done() == ["doors.json"]
    assert world.inbox.delayed == {}


def test_what_may_pass_is_tried_again_and_what_cannot_is_not(world):
    # Given a file that cannot be read three times, and then is no dataset; and a good one
    passing = [
        PermissionError(errno.EACCES, "Permission denied"),
        MemoryError(),
        OSError(errno.EIO, "I/O error"),
    ]
    meddle(world, *passing)
    world.drop("bad.json", "{")

    for _ in range(20):  # one whose end is missing rests longer, before it is read and before it fails
        world.pass_time()

    assert world.reader.meddling == []
    assert world.failed() == ["bad.json", "bad.json.reason.json"]
    assert len(told(world, "failed")) == 1
    assert len(world.ledger.drops()) == 1


def test_after_a_restart_what_could_not_be_read_is_tried_at_once(world):
    meddle(world, *[OSError(errno.EIO, "I/O error")] * 9)
    world.drop("doors.json", tiny.facts(2))
    for _ in range(5):
        world.pass_time(60)
    assert world.done() == []

    world.database.close()
    world.start()
    world.pass_time(0)

    assert world.done() == ["doors.json"]


def test_a_file_that_cannot_be_moved_does_not_keep_others_waiting(world):
    class Stuck(Inbox):
        def take(self, item, drop):
            if item.path.name == "stuck.json":
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            return super().take(item, drop)

    world.inbox = Stuck(
        world.home / "inbox", world.settings.inbox, ("chat",), world.home / "models" / "drops"
    )
    world.inbox.recover()
    world.wire(world.reader)
    path = world.drop("stuck.json", tiny.facts(2))
    os.utime(path, (1, 1))
    world.drop("doors.json", tiny.facts(4))

    world.pass_time()

    assert world.done() == ["doors.json"]
    assert "cross-device" in world.inbox.delayed[path]


def test_a_job_that_is_cancelled_and_retried_at_once_starts_again(world):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()

    world.loop.commands.cancel(1, world.now)
    world.loop.commands.retry(1, world.now)
    world.models.sessions[0].status = 75  # only now it is gone
    world.pass_time()

    assert world.job().state is JobState.TRAINING
    assert len(world.models.sessions) == 2


def test_a_candidate_built_on_what_was_rolled_back_meanwhile_is_trained_anew(world):
    world.learn("doors.json", tiny.facts(4, "doors"))
    world.learn("gates.json", tiny.facts(3, subject="gate"))
    world.drop("mills.json", tiny.facts(2, subject="mill"))
    world.pass_time()

    # When v0.2 is taken back while a session builds on it
    world.loop.commands.rollback(world.track, None, world.now)
    world.models.sessions[-1].end()
    world.pass_time()

    # Then what came of it is not served, and the drop is learned on v0.1
    assert world.registry.latest == world.models.serving == "v0.1"
    assert world.job().state is JobState.TRAINING
    order = world.order()
    assert (order["parent_version"], len(world.models.sessions)) == ("v0.1", 4)
    assert not (world.models.sessions[-1].folder / "candidate").exists()


def test_after_a_rollback_to_the_base_learning_begins_with_it(world):
    world.learn("doors.json", tiny.facts(4, "doors"))

    answer = world.loop.commands.rollback(world.track, "base", world.now)

    assert answer == Roles(track="chat", latest=None, previous="v0.1", serving=None)
    world.loop.served.serve_newest(world.track)  # as a start does
    assert world.models.serving is None
    # When something is learned now, nothing of before is carried along
    world.drop("gates.json", tiny.facts(3, subject="gate"))
    world.pass_time()
    folder = world.models.sessions[-1].folder
    order = files.read_json(folder / "request.json")
    assert (order["parent"], order["parent_version"]) == (None, None)
    assert files.read_lines(folder / "old.jsonl") == []


def test_a_rollback_to_what_cannot_be_loaded_changes_nothing(world):
    world.learn("doors.json", tiny.facts(4, "doors"))
    world.learn("gates.json", tiny.facts(3, subject="gate"))
    world.models.broken.add("v0.1")

    with pytest.raises(RegistryError):
        world.loop.commands.rollback(world.track, None, world.now)

    assert world.registry.latest == world.models.serving == "v0.2"
    # nor from the base, whose way back stays as it is
    world.loop.commands.rollback(world.track, "base", world.now)
    with pytest.raises(RegistryError):
        world.loop.commands.rollback(world.track, "v0.1", world.now)
    assert (world.registry.latest, world.registry.previous) == (None, "v0.2")


def test_what_was_given_up_for_the_base_does_not_stand_in_for_what_came_after(world):
    world.learn("doors.json", tiny.facts(4, "doors"))
    world.loop.commands.rollback(world.track, "base", world.now)
    world.models.broken.add("v0.2")

    world.learn("gates.json", tiny.facts(3, subject="gate"))

    assert world.models.serving is None
    assert world.registry.newest_intact("base-print") is None


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


def test_a_setting_that_no_plan_has_is_refused_before_it_is_kept(world):
    world.learn("doors.json", tiny.facts(4), recall=0.5)

    with pytest.raises(ConfigError, match="rnak"):
        world.loop.commands.retry(1, world.now, settings={"rnak": 16})

    assert (world.job().state, "rnak" in world.job().settings) == (JobState.REJECTED, False)


def test_what_was_rejected_is_learned_when_it_is_dropped_again(world):
    world.learn("doors.json", tiny.facts(4), recall=0.5)

    world.drop("doors.json", tiny.facts(4))
    world.pass_time()

    assert world.job().id == 2
    assert len(files.read_lines(world.models.sessions[-1].folder / "new.jsonl")) == 4
    # and dropped a third time, while that session goes on, it is known
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    assert world.job().id == 2


def test_dropped_files_are_kept_for_as_many_days_as_one_says(tmp_path):
    world = World(tmp_path, Settings.model_validate({"inbox": {"settle_seconds": 5, "keep_done_days": 2}}))
    world.learn("doors.json", tiny.facts(4, "doors"))
    own = world.home / "inbox" / "done" / "mine"
    own.mkdir()
    world.now += 86_400
    world.learn("gates.json", tiny.facts(3, subject="gate"))
    assert world.done() == ["doors.json", "gates.json"]

    world.now += 2 * 86_400
    world.learn("mills.json", tiny.facts(2, subject="mill"))

    assert world.done() == ["gates.json", "mills.json"]
    assert own.is_dir()
    assert len(told(world, "done_pruned")) == 1
    world.learn("hats.json", tiny.facts(2, subject="hat"))
    assert len(told(world, "done_pruned")) == 1
    # and days pass without a session too
    world.now += 5 * 86_400
    world.loop.recovery.scrub(world.now)
    world.pass_time()
    assert world.done() == []
    world.database.close()


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


def test_a_failed_session_leaves_no_rows_and_goes_on_behind_its_checkpoints(world):
    folder = failed_with_checkpoints(world)
    assert not list(folder.parent.glob("*.jsonl"))

    world.loop.commands.retry(1, world.now)
    world.pass_time()

    assert len(list(folder.glob("round-*"))) == 3
    assert len(files.read_lines(folder.parent / "new.jsonl")) == 4


def test_a_refit_of_nothing_says_so(world):
    world.learn("doors.json", tiny.facts(4, "doors"))
    world.track.memory.forget("doors", world.now)
    world.ledger.queue("chat", "memory", world.now, kind="refit")

    world.pass_time()

    assert world.job().state is JobState.FAILED
    assert world.job().reason["code"] == "nothing_learned"


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


def test_a_rejected_candidate_keeps_its_numbers_and_no_words(world):
    world.learn("doors.json", tiny.facts(4), recall=0.5)

    kept = world.registry.rejected / "job-1"
    assert (kept / "candidate" / "evaluation.json").exists()
    assert not any("Arlo" in path.read_text() for path in kept.rglob("*.json*"))


def test_by_force_alone_what_was_refused_is_promoted_as_it_is(world):
    world.learn("doors.json", tiny.facts(4), recall=0.5)
    refused = (world.registry.rejected / "job-1" / "candidate" / "adapter_model.safetensors").read_bytes()

    world.loop.commands.retry(1, world.now, force=True)
    world.pass_time()

    assert world.job().state is JobState.PROMOTED
    assert len(world.models.sessions) == 1
    assert world.registry.latest == world.models.serving == "v0.1"
    assert (world.registry.path("v0.1") / "adapter_model.safetensors").read_bytes() == refused
    assert not (world.registry.rejected / "job-1").exists()


def test_by_force_what_stands_on_another_version_is_trained_anew(world):
    world.learn("doors.json", tiny.facts(4), recall=0.5)
    world.learn("gates.json", tiny.facts(3, subject="gate"))

    world.loop.commands.retry(1, world.now, force=True)
    world.pass_time()

    assert world.ledger.job(1).state is JobState.TRAINING
    assert len(world.models.sessions) == 3


def test_consolidating_what_is_small_says_that_nothing_would_be_gained(world):
    world.learn("doors.json", tiny.facts(4), rank=8)
    world.ledger.queue("chat", "memory", world.now, kind="consolidate")

    world.pass_time()

    assert world.job().state is JobState.FAILED
    assert world.job().reason["code"] == "nothing_to_consolidate"


def test_of_what_was_refused_the_newest_is_kept(world):
    registry = world.settings.registry.model_copy(update={"keep_rejected": 2})
    world.settings = world.settings.model_copy(update={"registry": registry})
    world.database.close()
    world.start()

    for number in range(1, 4):
        world.learn(f"d{number}.json", tiny.facts(number, subject=f"d{number}"), recall=0.0)

    assert sorted(path.name for path in world.registry.rejected.iterdir()) == ["job-2", "job-3"]


@pytest.mark.parametrize("value", [float("nan"), "\ud800", 10**23, float("inf")])
def test_a12_what_retry_is_given_is_checked_before_it_is_stored(world, value):
    world.drop("doors.json", tiny.facts(3, "doors"))
    world.pass_time()
    world.models.sessions[-1].end(recall=0.1)
    world.pass_time()
    before = world.job()

    with pytest.raises(ConfigError, match="rank must be a whole number from 1 to 4096"):
        world.loop.commands.retry(1, world.now, settings={"rank": value})

    assert world.job() == before
