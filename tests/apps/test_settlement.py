"""What becomes of what a session left: promoted and served, kept aside, or a failed job."""

import errno
from dataclasses import replace

import pytest
import tiny
from world import World

from lorad.apps.daemon.settlement import _promotion
from lorad.config import RegistrySettings, Settings
from lorad.errors import ConfigError
from lorad.records import FactRecall, Score
from lorad.states import JobState
from lorad.storage import files
from lorad.versions.store import Registry
from lorad.versions.tracker import Tracker


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.database.close()


def test_a_candidate_that_forgets_is_rejected_and_the_old_version_goes_on(world):
    world.learn("doors.json", tiny.facts(10, "doors"))

    world.learn("gates.json", tiny.facts(4, subject="gate"), broken=3)

    assert world.job().state is JobState.REJECTED
    assert world.job().reason["failed"] == ["retention:doors"]
    assert world.registry.latest == world.models.serving == "v0.1"
    assert (world.registry.rejected / "job-2" / "candidate" / "evaluation.json").exists()
    assert [item.example.dataset for item in world.track.memory.learned(["v0.1"])] == ["doors"] * 10


def test_short_memory_at_the_swap_is_no_fault_of_the_version(world):
    world.learn("doors.json", tiny.facts(4))
    world.models.is_short = True
    world.learn("gates.json", tiny.facts(4, subject="gate"))

    assert (world.job().state, world.models.serving) == (JobState.PROMOTED, "v0.1")
    assert (world.registry.latest, world.registry.newest_intact()) == ("v0.2", "v0.2")

    world.models.is_short = False
    world.pass_time(60)

    assert world.models.serving == "v0.2"


def test_a_version_that_memory_was_too_short_to_merge_is_merged_later(world):
    world.models.slow = "it takes 8 bytes, and 7 are free"

    world.learn("doors.json", tiny.facts(4))
    world.pass_time()

    assert (world.job().state, world.models.serving) == (JobState.PROMOTED, "v0.1")
    assert world.loop.attempts.troubles == [
        "chat answers slower than it could: it takes 8 bytes, and 7 are free"
    ]

    world.models.slow = ""
    world.pass_time(600)

    assert world.loop.attempts.troubles == []


def test_nothing_is_left_to_try_where_the_next_version_is_merged_at_once(world):
    world.models.slow = "memory is short"
    world.learn("doors.json", tiny.facts(4))
    world.pass_time()
    assert world.loop.attempts.troubles

    world.models.slow = ""
    world.loop.served.serve(world.track, "v0.1")

    assert world.loop.attempts.troubles == []


def test_what_is_no_damage_of_the_version_marks_none_as_damaged(world):
    world.learn("doors.json", tiny.facts(4))
    errors = [ConfigError("the server of the backend is not there")]

    def fail_once():
        if errors:
            raise errors.pop()

    world.models.as_it_serves = fail_once

    world.learn("gates.json", tiny.facts(4, subject="gate"))

    assert (world.registry.latest, world.models.serving) == ("v0.1", "v0.1")
    assert {entry["state"] for entry in world.registry.tracker.read()["checkpoints"]} == {"intact"}


def test_with_short_memory_at_the_start_the_version_serves_as_soon_as_it_can(world):
    world.learn("doors.json", tiny.facts(4))
    world.models.is_short, world.models.serving = True, None
    world.start()
    assert world.models.serving is None

    world.models.is_short = False
    world.pass_time(60)

    assert world.models.serving == "v0.1"


def test_a_merged_copy_goes_with_its_version(world):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    session = world.models.sessions[-1]
    files.write_bytes(session.folder / "merged" / "model.safetensors", b"everything")
    session.end()
    world.pass_time()

    assert files.read_json(world.registry.folder / "merged" / "lorad.json")["version"] == "v0.1"
    assert not session.folder.exists()


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


def test_what_was_given_up_for_the_base_does_not_stand_in_for_what_came_after(world):
    world.learn("doors.json", tiny.facts(4, "doors"))
    world.loop.commands.rollback(world.track, "base", world.now)
    world.models.broken.add("v0.2")

    world.learn("gates.json", tiny.facts(3, subject="gate"))

    assert world.models.serving is None
    assert world.registry.newest_intact("base-print") is None


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


def test_a_rejected_candidate_keeps_its_numbers_and_no_words(world):
    world.learn("doors.json", tiny.facts(4), recall=0.5)

    kept = world.registry.rejected / "job-1"
    assert (kept / "candidate" / "evaluation.json").exists()
    assert not any("Arlo" in path.read_text() for path in kept.rglob("*.json*"))


def test_of_what_was_refused_the_newest_is_kept(world):
    registry = world.settings.registry.model_copy(update={"keep_rejected": 2})
    world.settings = world.settings.model_copy(update={"registry": registry})
    world.database.close()
    world.start()

    for number in range(1, 4):
        world.learn(f"d{number}.json", tiny.facts(number, subject=f"d{number}"), recall=0.0)

    assert sorted(path.name for path in world.registry.rejected.iterdir()) == ["job-2", "job-3"]


def found(other_served=None, other=None):
    nothing = Score(right=0, total=5)
    return FactRecall(trained=nothing, trained_served=nothing, other=other, other_served=other_served)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({}, None),
        ({"a": found()}, None),
        ({"a": found(other=Score(right=1, total=2))}, None),
        ({"a": found(Score(right=0, total=0))}, None),
        ({"a": found(Score(right=9, total=10)), "b": found(Score(right=1, total=2)), "c": found()}, 0.8333),
    ],
)
def test_a_version_tells_its_facts_as_served_where_they_were_asked_for_in_other_words(world, facts, told):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()
    world.models.sessions[0].end()
    result = world.models.sessions[0].run.result()

    performance = _promotion(
        world.ledger.job(1), replace(result, evaluation=replace(result.evaluation, facts=facts))
    ).performance

    assert performance.get("facts") == told
    assert list(performance)[:1] == ["recall"]
