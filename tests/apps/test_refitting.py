"""By night what has drifted is consolidated, or learned again from the base, and everything else goes first."""

import pytest
import tiny
from world import SETTINGS, World, told

from lorad.apps.daemon.refitting import Hours, Standing, wanted, yields_to
from lorad.records import Job
from lorad.states import JobState
from lorad.storage import files
from lorad.versions import papers
from lorad.versions.promotion import PromotionRecord

NIGHT, DAY = 2 * 3600.0, 12 * 3600.0
DRIFTED = 10.0 * (1 + 0.6 * SETTINGS.judge.max_perplexity_rise)


def without(*names):
    """Return the settings with some of training's turned off."""
    changed = SETTINGS.training.model_copy(update=dict.fromkeys(names))
    return SETTINGS.model_copy(update={"training": changed})


@pytest.fixture
def world(tmp_path):
    """A home in which nothing is consolidated by night, but refitted."""
    made = World(tmp_path, without("consolidate_at_drift"))
    made.now = DAY
    yield made
    made.database.close()


@pytest.fixture
def drifted(world):
    """A home whose version has drifted, at night."""
    world.learn("doors.json", tiny.facts(4), perplexity=DRIFTED)
    world.now = 86_400 + NIGHT
    return world


def running(world):
    return world.loop.state.running[0] if world.loop.state.running else None


# deciding


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [("01:00-06:00", (60, 359), (59, 360, 720)), ("22:30-05:00", (1350, 1439, 0, 299), (300, 1349))],
)
def test_hours_may_go_past_midnight(text, inside, outside):
    hours = Hours.read(text)

    assert all(map(hours.holds, inside))
    assert not any(map(hours.holds, outside))


BOTH = frozenset({"consolidate", "refit"})
AT = {"consolidate": 0.2, "refit": 0.5}


@pytest.mark.parametrize(
    ("standing", "found"),
    [
        (Standing(drift=0.19), None),
        (Standing(drift=0.2), "consolidate"),
        (Standing(drift=1.0), "consolidate"),  # what takes minutes goes first
        (Standing(drift=1.0, tried=frozenset({"refit"})), "consolidate"),
        (Standing(drift=0.49, tried=frozenset({"consolidate"})), None),  # it drifted all the same
        (Standing(drift=0.5, tried=frozenset({"consolidate"})), "refit"),
        (Standing(drift=1.0, tried=BOTH), None),  # in vain
    ],
)
def test_what_is_wanted_is_the_cheapest_that_was_not_tried_since_something_was_learned(standing, found):
    assert wanted(standing, AT) == found


@pytest.mark.parametrize("off", [None, 0.0])
def test_what_is_turned_off_is_not_wanted(off):
    assert wanted(Standing(drift=1.0), {"consolidate": off, "refit": off}) is None
    assert wanted(Standing(drift=1.0), AT | {"consolidate": off}) == "refit"
    assert wanted(Standing(drift=1.0, tried=frozenset({"consolidate"})), AT | {"refit": off}) is None


def test_a_refit_makes_room_for_any_other_job_and_for_the_day():
    job = Job(
        id=7,
        track="chat",
        dataset="memory",
        state=JobState.TRAINING,
        created_at=0.0,
        settings={"nightly": True},
    )
    drop = Job(id=8, track="chat", dataset="doors", state=JobState.QUEUED, created_at=0.0)

    assert yields_to(job, [job], is_time=True) is None
    assert yields_to(job, [job, drop], is_time=True) == "there is something to learn"
    assert yields_to(job, [job], is_time=False) == "the night is over"


# doing


def test_by_night_what_has_drifted_is_learned_again_from_the_base_and_judged(drifted):
    drifted.pass_time()

    assert (running(drifted).kind, running(drifted).is_nightly) == ("refit", True)
    assert drifted.order()["parent"] is None
    assert len(files.read_lines(drifted.models.sessions[-1].folder / "old.jsonl")) == 4
    (event,) = told(drifted, "refitting")
    assert (event["track"], event["version"], event["drift"]) == ("chat", "v0.1", 0.6)

    drifted.models.sessions[-1].end()
    drifted.pass_time()

    assert drifted.registry.latest == "v0.2"
    drifted.pass_time()
    assert running(drifted) is None  # it has not drifted


def test_nothing_is_refitted_by_day_or_without_drift_or_beside_other_work(world):
    world.learn("doors.json", tiny.facts(4), perplexity=DRIFTED)
    world.pass_time()
    assert running(world) is None

    world.learn("gates.json", tiny.facts(4, subject="gate"), perplexity=10.1)
    world.now = 86_400 + NIGHT
    world.pass_time()
    assert running(world) is None


def test_turned_off_nothing_is_refitted(tmp_path):
    world = World(tmp_path, without("refit_at_drift", "consolidate_at_drift"))
    world.learn("doors.json", tiny.facts(4), perplexity=DRIFTED)
    world.now = 86_400 + NIGHT

    world.pass_time()

    assert running(world) is None
    world.database.close()


def test_paused_learning_begins_no_refit(drifted):
    drifted.loop.commands.pause(drifted.now, paused=True)

    drifted.pass_time()

    assert drifted.ledger.open_jobs() == []


def test_a_drop_goes_first_and_a_refit_without_it_is_not_wanted_any_more(drifted):
    # Given a refit that runs, and a file
    drifted.pass_time()
    refit = running(drifted)
    session = drifted.models.sessions[-1]
    drifted.drop("gates.json", tiny.facts(3, "gates", subject="gate"))

    drifted.pass_time()
    drifted.pass_time(1)

    # Then the refit was stopped, and the file is learned
    assert session.stopped
    assert running(drifted).kind == "learn"
    assert drifted.ledger.job(refit.id).state is JobState.QUEUED
    assert drifted.ledger.job(refit.id).attempts == 0

    # and behind it another refit has its turn, with what was learned
    drifted.models.sessions[-1].end(perplexity=DRIFTED)
    drifted.pass_time()
    drifted.pass_time(1)
    assert drifted.ledger.job(refit.id).state is JobState.CANCELLED
    assert running(drifted).id > refit.id
    assert len(files.read_lines(drifted.models.sessions[-1].folder / "old.jsonl")) == 7


def test_in_the_morning_it_stops_and_goes_on_from_its_checkpoint_in_the_next_night(drifted):
    drifted.pass_time()
    refit, folder = running(drifted), drifted.models.sessions[-1].folder
    files.write_json(folder / "checkpoints" / "round-0001" / "manifest.json", {})
    drifted.now = 86_400 + DAY

    drifted.pass_time()
    assert drifted.models.sessions[-1].stopped
    assert running(drifted) is None
    drifted.pass_time()
    assert running(drifted) is None

    drifted.now = 2 * 86_400 + NIGHT
    drifted.pass_time()
    assert running(drifted).id == refit.id
    assert (folder / "checkpoints" / "round-0001").is_dir()
    assert told(drifted, "session_begins_again") == []


def test_a_refit_that_came_to_nothing_is_not_repeated_until_something_is_learned(drifted):
    drifted.pass_time()
    drifted.models.sessions[-1].end(recall=0.1)
    drifted.pass_time()
    drifted.pass_time()
    assert running(drifted) is None

    drifted.learn("gates.json", tiny.facts(3, "gates", subject="gate"), perplexity=DRIFTED)
    drifted.pass_time()
    assert running(drifted).is_nightly


def test_one_that_has_ended_as_it_is_to_make_room_is_settled(drifted):
    drifted.pass_time()
    drifted.drop("gates.json", tiny.facts(3, "gates", subject="gate"))
    drifted.models.sessions[-1].end()

    drifted.pass_time()

    assert not drifted.models.sessions[0].stopped
    assert drifted.registry.latest == "v0.2"


def test_a_person_who_asks_for_a_refit_does_not_wait_for_the_night(drifted):
    drifted.pass_time()
    drifted.now = 86_400 + DAY
    drifted.pass_time()

    asked = drifted.loop.commands.consolidate(drifted.track, drifted.now, refit=True)
    drifted.pass_time()

    assert running(drifted).id == asked.id
    assert not asked.is_nightly


def test_a_person_who_retries_it_does_not_wait_for_the_night(drifted):
    drifted.pass_time()
    refit = running(drifted)
    drifted.models.sessions[-1].end(recall=0.1)
    drifted.pass_time()
    drifted.now = 86_400 + DAY

    drifted.loop.commands.retry(refit.id, drifted.now)
    drifted.pass_time()

    assert running(drifted).id == refit.id


def test_a_job_that_a_person_has_cancelled_is_not_queued_again_at_once(drifted):
    drifted.pass_time()
    drifted.loop.commands.cancel(running(drifted).id, drifted.now)
    drifted.models.sessions[-1].status = 75

    drifted.pass_time()
    drifted.pass_time()

    assert (running(drifted), drifted.ledger.open_jobs()) == (None, [])
    drifted.learn("gates.json", tiny.facts(3, "gates", subject="gate"), perplexity=DRIFTED)
    drifted.pass_time()
    assert running(drifted).is_nightly


def test_a_job_of_a_track_that_is_gone_neither_stops_the_night_nor_interrupts_it(drifted):
    lost = drifted.ledger.queue("law", "verdicts", drifted.now)

    drifted.pass_time()
    session = drifted.models.sessions[-1]
    drifted.pass_time()

    assert (running(drifted).kind, session.stopped) == ("refit", False)
    assert drifted.ledger.job(lost.id).state is JobState.QUEUED


def test_nothing_is_done_unasked_to_what_carries_on_a_version_from_outside(drifted):
    # Given a version that somebody imported and taught something on top of
    record = PromotionRecord(job=None, parent="v0.1", base="base-print", description="theirs")
    theirs = drifted.registry.folder / "theirs"
    files.write_json(theirs / "adapter_config.json", {"r": 8})
    files.write_json(
        theirs / "evaluation.json", files.read_json(drifted.registry.path("v0.1") / "evaluation.json")
    )
    drifted.registry.promote(theirs, record, drifted.now, "v0.9")
    drifted.learn("gates.json", tiny.facts(3, "gates", subject="gate"), perplexity=DRIFTED)
    assert drifted.registry.manifest(drifted.registry.latest)["parent"] == "v0.9"

    drifted.pass_time()
    assert running(drifted) is None

    # When a session learns more, it is told so
    drifted.drop("walls.json", tiny.facts(3, "walls", subject="wall"))
    drifted.pass_time()
    assert drifted.order()["settings"]["imported"] == "v0.9"


def test_one_that_is_withdrawn_says_why(tmp_path):
    world = World(tmp_path, without("consolidate_at_drift"))
    world.now = DAY
    world.learn("doors.json", tiny.facts(4), perplexity=DRIFTED)
    waiting = world.ledger.queue("chat", "memory", world.now, kind="refit", settings={"nightly": True})
    world.database.close()

    # When refits are turned off before it has its turn
    again = World(tmp_path, without("consolidate_at_drift", "refit_at_drift"))
    again.pass_time()

    assert again.ledger.job(waiting.id).state is JobState.CANCELLED
    assert "not wanted any more" in told(again, "cancelled")[-1]["why"]
    again.database.close()


# consolidating


@pytest.fixture
def nightly(tmp_path):
    """A home with the settings as they are, whose version has drifted, at night."""
    made = World(tmp_path)
    made.now = DAY
    made.learn("doors.json", tiny.facts(4), perplexity=DRIFTED)
    made.now = 86_400 + NIGHT
    yield made
    made.database.close()


def test_by_night_what_has_drifted_is_consolidated_at_its_rank_and_once(nightly):
    nightly.pass_time()

    # Then the version goes on, with all of the rank that it may have, though it is small
    assert (running(nightly).kind, running(nightly).is_nightly) == ("consolidate", True)
    order = nightly.order()
    assert (order["parent_version"], order["plan"]["max_rank"]) == ("v0.1", SETTINGS.training.max_rank)
    (event,) = told(nightly, "consolidating")
    assert (event["track"], event["drift"]) == ("chat", 0.6)

    nightly.models.sessions[-1].end(perplexity=10.0 * (1 + 0.4 * SETTINGS.judge.max_perplexity_rise))
    nightly.pass_time()
    assert nightly.registry.latest == "v0.2"
    nightly.pass_time()
    assert running(nightly) is None  # that much is what its rows need
    assert nightly.loop.commands.consolidate_idle(nightly.now) == []


def test_where_that_is_not_enough_or_in_vain_it_is_learned_anew_and_that_is_all(nightly):
    for kind, result in (("consolidate", {"recall": 0.1}), ("refit", {"perplexity": DRIFTED})):
        nightly.pass_time()
        assert running(nightly).kind == kind
        nightly.models.sessions[-1].end(**result)
        nightly.pass_time()

    nightly.pass_time()
    assert running(nightly) is None


def test_one_that_was_asked_for_and_had_nothing_to_gain_was_not_tried(tmp_path):
    world = World(tmp_path)
    world.now = DAY
    little = 10.0 * (1 + 0.2 * SETTINGS.judge.max_perplexity_rise)
    world.learn("doors.json", tiny.facts(4), rank=8, perplexity=little)
    world.ledger.queue("chat", "memory", world.now, kind="consolidate")
    world.pass_time()
    assert world.job().reason["code"] == "nothing_to_consolidate"
    world.database.close()

    # When the settings want one sooner, and it is night
    sooner = SETTINGS.training.model_copy(update={"consolidate_at_drift": 0.1})
    again = World(tmp_path, SETTINGS.model_copy(update={"training": sooner}))
    again.now = 86_400 + NIGHT
    again.pass_time()

    assert running(again).kind == "consolidate"
    again.database.close()


def test_a_drop_that_was_refused_has_taught_nothing_and_starts_nothing_again(nightly):
    for result in ({"recall": 0.1}, {"perplexity": DRIFTED}):
        nightly.pass_time()
        nightly.models.sessions[-1].end(**result)
        nightly.pass_time()
    nightly.drop("gates.json", tiny.facts(3, "gates", subject="gate"))
    nightly.pass_time()
    nightly.models.sessions[-1].end(recall=0.1)

    nightly.pass_time()
    nightly.pass_time()

    assert running(nightly) is None


def test_a_drop_that_is_retried_with_success_has_taught_something(nightly):
    # Given a refused drop, and a night behind it
    nightly.now = DAY
    nightly.drop("gates.json", tiny.facts(3, "gates", subject="gate"))
    nightly.pass_time()
    refused = running(nightly)
    nightly.models.sessions[-1].end(recall=0.1)
    nightly.pass_time()
    nightly.now = 86_400 + NIGHT
    nightly.pass_time()
    nightly.models.sessions[-1].end(perplexity=10.1)
    nightly.pass_time()

    # When it is retried, and what it teaches drifts
    nightly.loop.commands.retry(refused.id, nightly.now)
    nightly.pass_time()
    assert running(nightly).id == refused.id
    nightly.models.sessions[-1].end(perplexity=DRIFTED)
    nightly.pass_time()

    nightly.pass_time()
    assert running(nightly).kind == "consolidate"


def test_a_refit_that_was_begun_goes_on_before_a_consolidation(nightly):
    refit = nightly.ledger.queue("chat", "memory", nightly.now, kind="refit", settings={"nightly": True})

    nightly.pass_time()

    assert running(nightly).id == refit.id


def test_a_consolidation_that_is_retried_keeps_its_rank(nightly):
    nightly.pass_time()
    job = running(nightly)
    nightly.models.sessions[-1].end(recall=0.1)
    nightly.pass_time()

    nightly.loop.commands.retry(job.id, nightly.now)
    nightly.pass_time()

    assert running(nightly).id == job.id
    assert nightly.order()["plan"]["max_rank"] == SETTINGS.training.max_rank


def test_a_drop_behind_a_consolidation_expects_what_learning_took(nightly):
    def written(version, new, old, training):
        parts = {"loading": 1.0, "testing": 1.0, "training": training, "judging": 1.0, "saving": 1.0}
        told = {"training": {"parts": parts}, "materials": {"new": ["id"] * new, "old": ["id"] * old}}
        files.write_json(nightly.registry.path(version) / papers.METADATA, told)

    nightly.pass_time()
    nightly.models.sessions[-1].end(perplexity=10.1)
    nightly.pass_time()
    written("v0.1", new=4, old=0, training=80.0)
    written("v0.2", new=0, old=4, training=5.0)

    nightly.drop("gates.json", tiny.facts(2, "gates", subject="gate"))
    nightly.pass_time()

    assert nightly.order()["settings"]["pace"]["training"] == 40.0
