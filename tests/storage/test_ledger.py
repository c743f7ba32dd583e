"""The ledger: drops and jobs move only by the law, the queue keeps its order, events and flags are kept."""

import pytest

from lorad.errors import ProtocolError, RegistryError
from lorad.states import OPEN_JOBS, DropState, JobState
from lorad.storage.database import Database
from lorad.storage.ledger import EVENTS_KEPT, Ledger


@pytest.fixture
def ledger(database):
    return Ledger(database)


def run(ledger, job, events, now=50.0):
    for event in events.split():
        job = ledger.move_job(job, event, now)
    return job


# drops


def test_a_drop_is_taken_and_accepted(ledger):
    drop = ledger.take("a.json", "chat", now=10.0)
    assert (drop.name, drop.track, drop.state, drop.taken_at) == (
        "a.json",
        "chat",
        DropState.PROCESSING,
        10.0,
    )
    assert drop.ended_at is None

    ended = ledger.close_drop(drop, "accept", 12.0, content="abc", rows=3, reason={"new": 3})

    assert (ended.state, ended.ended_at, ended.digest, ended.rows) == (DropState.ACCEPTED, 12.0, "abc", 3)
    assert ended.reason == {"new": 3}
    assert ledger.drop(drop.id) == ended


@pytest.mark.parametrize("end", ["accept", "repeat", "fail"])
def test_a_drop_never_leaves_where_it_ended(ledger, end):
    ended = ledger.close_drop(ledger.take("a.json", "chat", 1.0), end, 2.0)

    with pytest.raises(RegistryError):
        ledger.close_drop(ended, "fail", 3.0, reason={"code": "late"})

    assert ledger.drop(ended.id) == ended


def test_drops_are_listed_newest_first(ledger):
    first, second, third = (ledger.take(name, "chat", 1.0) for name in ("a", "b", "c"))
    ledger.close_drop(second, "repeat", 2.0)

    assert [drop.name for drop in ledger.drops()] == ["c", "b", "a"]
    assert [drop.name for drop in ledger.drops(limit=2)] == ["c", "b"]
    assert ledger.drops(state=DropState.PROCESSING) == [third, first]


def test_the_same_content_is_found_only_where_it_was_accepted(ledger):
    # Given one content that came again and again
    for name, track, event in [
        ("refused", "chat", "fail"),
        ("accepted", "chat", "accept"),
        ("duplicate", "chat", "repeat"),
        ("elsewhere", "law", "accept"),
        ("accepted again", "chat", "accept"),
    ]:
        ledger.close_drop(ledger.take(name, track, 1.0), event, 2.0, content="abc")

    assert ledger.find_content("chat", "abc").name == "accepted"
    assert ledger.find_content("chat", "abd") is None


@pytest.mark.parametrize(("kind", "code"), [("drop", "no_such_drop"), ("job", "no_such_job")])
def test_what_does_not_exist_is_answered_with_404(ledger, kind, code):
    with pytest.raises(ProtocolError, match=f"there is no {kind} 7") as caught:
        getattr(ledger, kind)(7)

    assert (caught.value.status, caught.value.code) == (404, code)


# jobs


def test_a_job_is_queued_with_its_settings(ledger):
    job = ledger.queue("chat", "a", 5.0, kind="refit", settings={"rank": 8})

    assert (job.track, job.dataset, job.state, job.kind) == ("chat", "a", JobState.QUEUED, "refit")
    assert (job.created_at, job.started_at, job.ended_at) == (5.0, None, None)
    assert (job.attempts, job.force, job.settings, job.version, job.reason) == (
        0,
        False,
        {"rank": 8},
        None,
        {},
    )
    assert ledger.queue("chat", "b", 5.0).kind == "learn"


def test_a_job_on_its_way_to_a_version(ledger):
    job = ledger.queue("chat", "a", 1.0)

    started = ledger.move_job(job, "start", 2.0)
    assert (started.state, started.started_at, started.attempts) == (JobState.TRAINING, 2.0, 1)

    judged = ledger.move_job(started, "trained", 3.0)
    assert (judged.state, judged.ended_at) == (JobState.JUDGING, None)

    ended = ledger.move_job(judged, "promote", 4.0, version="v0.1", reason={"reasons": ["all is well"]})
    assert (ended.state, ended.started_at, ended.ended_at) == (JobState.PROMOTED, 2.0, 4.0)
    assert (ended.version, ended.reason) == ("v0.1", {"reasons": ["all is well"]})
    assert ledger.job(job.id) == ended


@pytest.mark.parametrize(
    ("events", "attempts"),
    [("start requeue", 1), ("start trained requeue", 1), ("start requeue start requeue", 2)],
)
def test_a_requeued_job_waits_again_and_remembers_how_often(ledger, events, attempts):
    job = run(ledger, ledger.queue("chat", "a", 1.0), events)

    assert (job.state, job.started_at, job.ended_at, job.attempts) == (JobState.QUEUED, None, None, attempts)


def test_a_retried_job_begins_anew_by_force_and_with_other_settings(ledger):
    rejected = run(ledger, ledger.queue("chat", "a", 1.0, settings={"drop": 4}), "start trained reject")
    assert rejected.ended_at == 50.0

    job = ledger.move_job(rejected, "retry", 60.0, force=1, attempts=0, settings={"drop": 4, "rank": 2})

    assert (job.state, job.started_at, job.ended_at) == (JobState.QUEUED, None, None)
    assert (job.force, job.attempts, job.settings) == (True, 0, {"drop": 4, "rank": 2})


def test_an_illegal_move_changes_nothing(ledger):
    job = ledger.queue("chat", "a", 1.0)

    with pytest.raises(RegistryError):
        ledger.move_job(job, "promote", 2.0, version="v0.1")

    assert ledger.job(job.id) == job


@pytest.mark.parametrize("set_back", [0.0, 86_400.0])
def test_a21_the_jobs_that_ended_last_come_first_whatever_their_number_and_the_clock(ledger, set_back):
    # Given jobs that end in another order than they came, of two kinds, while the clock may be set back
    jobs = [ledger.queue("chat", "a", 1.0, kind=kind) for kind in ("learn", "consolidate", "learn", "learn")]
    for number, at in ((2, 60.0), (0, 70.0 - set_back), (1, 80.0 - 2 * set_back)):
        run(ledger, jobs[number], "start crash", at)
        ledger.record_event("session_failed", at, job=jobs[number].id)

    assert [job.id for job in ledger.ended_jobs(limit=2)] == [2, 1]
    assert [job.id for job in ledger.ended_jobs(kind="learn")] == [1, 3]
    assert ledger.ended_jobs(track="law") == []


def test_jobs_begin_where_they_are_told_to(ledger):
    ledger.jobs_begin_at = 7

    assert [ledger.queue("chat", "a", 1.0).id for _ in range(2)] == [7, 8]


def test_the_queue_keeps_its_order(ledger):
    # Given jobs in every open state, and some that ended
    jobs = [ledger.queue("chat", name, 1.0) for name in "abcde"]
    run(ledger, jobs[0], "start trained promote")
    run(ledger, jobs[1], "start trained")
    run(ledger, jobs[2], "cancel")
    run(ledger, jobs[4], "start")

    assert [job.dataset for job in ledger.open_jobs()] == ["b", "d", "e"]
    assert {job.state for job in ledger.open_jobs()} == set(OPEN_JOBS)
    assert [job.dataset for job in ledger.jobs(limit=3)] == ["e", "d", "c"]


# events and flags


def test_events_are_told_oldest_first(ledger):
    for number in range(5):
        ledger.record_event("tick", float(number), count=number)

    assert [event["count"] for event in ledger.events()] == [0, 1, 2, 3, 4]
    assert [event["count"] for event in ledger.events(limit=2)] == [3, 4]
    assert ledger.events(after=4) == [{"id": 5, "at": 4.0, "name": "tick", "count": 4}]


def test_an_event_may_carry_what_json_does_not_know(ledger, tmp_path):
    ledger.record_event("failed", 1.0, path=tmp_path, why="é")

    assert ledger.events()[0]["path"] == str(tmp_path)
    assert ledger.events()[0]["why"] == "é"


def test_only_the_newest_events_are_kept(ledger, database):
    with database.transaction():
        for number in range(EVENTS_KEPT + 3):
            ledger.record_event("tick", float(number))

    kept = ledger.events(limit=EVENTS_KEPT * 2)
    assert len(kept) == EVENTS_KEPT
    assert kept[-1]["at"] == EVENTS_KEPT + 2


def test_flags(ledger):
    assert ledger.flag("paused") == ""

    ledger.set_flag("paused", "1")
    ledger.set_flag("other", "x")
    assert ledger.flag("paused") == "1"

    ledger.set_flag("paused", "")
    assert ledger.flag("paused") == ""


def test_all_of_it_survives_a_restart(tmp_path):
    # Given a ledger with a drop, a job, an event and a flag
    path = tmp_path / "lorad.sqlite3"
    before = Database(path)
    ledger = Ledger(before)
    drop, job = ledger.take("a.json", "chat", 1.0), ledger.queue("chat", "a", 2.0)
    ledger.record_event("accepted", 2.0, job=job.id)
    ledger.set_flag("paused", "1")
    before.close()

    after = Database(path)
    again = Ledger(after)

    assert (again.drops(), again.open_jobs()) == ([drop], [job])
    assert (again.events()[0]["job"], again.flag("paused")) == (job.id, "1")
    after.close()
