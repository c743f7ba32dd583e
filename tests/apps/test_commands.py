"""What people ask of the loop: jobs, versions and memory, obeyed or refused with what would work."""

import pytest
import tiny
from world import SETTINGS, World, failed_with_checkpoints

from lorad.errors import ConfigError, ProtocolError, RegistryError
from lorad.serving.answers import Roles
from lorad.states import JobState
from lorad.storage import files


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.database.close()


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
    assert order["plan"]["max_rank"] == SETTINGS.training.max_rank // 2
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


def test_rollback_serves_previous_and_what_it_never_knew_is_not_expected_of_it(world):
    world.learn("doors.json", tiny.facts(4, "doors"))
    world.learn("gates.json", tiny.facts(3, "gates", subject="gate"))

    answer = world.loop.commands.rollback(world.track, None, world.now)

    assert answer == Roles(track="chat", latest="v0.1", previous="v0.2", serving="v0.1")
    assert world.models.serving == "v0.1"
    assert {item.example.dataset for item in world.track.memory.learned(world.registry.lineage("v0.1"))} == {
        "doors"
    }


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


def test_a_file_dropped_again_after_a_rollback_is_learned_again(world):
    world.learn("doors.json", tiny.facts(4, "doors"))
    world.learn("gates.json", tiny.facts(3, "gates", subject="gate"))
    world.loop.commands.rollback(world.track, None, world.now)

    world.learn("gates.json", tiny.facts(3, "gates", subject="gate"))

    assert world.job().state is JobState.PROMOTED
    assert world.registry.lineage("v0.3") == ["v0.3", "v0.1"]
    assert len(world.track.memory.learned(world.registry.lineage("v0.3"))) == 7


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


def test_a_job_that_is_cancelled_and_retried_at_once_starts_again(world):
    world.drop("doors.json", tiny.facts(4))
    world.pass_time()

    world.loop.commands.cancel(1, world.now)
    world.loop.commands.retry(1, world.now)
    world.models.sessions[0].status = 75  # only now it is gone
    world.pass_time()

    assert world.job().state is JobState.TRAINING
    assert len(world.models.sessions) == 2


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


def test_a_setting_that_no_plan_has_is_refused_before_it_is_kept(world):
    world.learn("doors.json", tiny.facts(4), recall=0.5)

    with pytest.raises(ConfigError, match="rnak"):
        world.loop.commands.retry(1, world.now, settings={"rnak": 16})

    assert (world.job().state, "rnak" in world.job().settings) == (JobState.REJECTED, False)


def test_a_refit_of_nothing_says_so(world):
    world.learn("doors.json", tiny.facts(4, "doors"))
    world.track.memory.forget("doors", world.now)
    world.ledger.queue("chat", "memory", world.now, kind="refit")

    world.pass_time()

    assert world.job().state is JobState.FAILED
    assert world.job().reason["code"] == "nothing_learned"


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


def test_what_is_small_and_has_drifted_is_consolidated(world):
    risen = SETTINGS.training.consolidate_at_drift * SETTINGS.judge.max_perplexity_rise
    world.learn("doors.json", tiny.facts(4), rank=8, perplexity=10.0 * (1 + risen) + 0.1)
    world.ledger.queue("chat", "memory", world.now, kind="consolidate")

    world.pass_time()

    assert world.job().state is JobState.TRAINING


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
