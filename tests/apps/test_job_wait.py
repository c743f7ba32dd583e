"""When a wait is over, told in snapshots; no clock, no daemon."""

import pytest
from fake_daemon import NOW, event, job, promoted, rejected, snapshot, waiting_file
from fake_daemon import told as as_told

from lorad.apps.cli.job_wait import Completion, wait_for
from lorad.errors import TransientError
from lorad.records import Job
from lorad.serving.record_json import read


def wait(*snapshots, job=None, is_late=lambda: False):
    """Wait through snapshots; a wait that wants one more fails."""
    left, jobs = list(map(as_told, snapshots)), [read(Job, each) for each in job or ()]
    return wait_for(
        lambda: left.pop(0),
        job=(lambda: jobs.pop(0)) if jobs else None,
        is_late=is_late,
        rest=lambda _: None,
    )


def told(ends):
    return [(end.record.id, end.is_good) for end in ends]


def test_a_file_that_was_just_dropped_is_waited_for():
    # Given a file that is first in the inbox, then nowhere, then a job
    steps = [
        snapshot(waiting_files=[waiting_file("a.json")]),
        snapshot(),
        snapshot(jobs=[job(1, "a", "queued")]),
        snapshot(jobs=[job(1, "a", "training")]),
        snapshot(jobs=[promoted(1, "a", "v0.1", ended_at=NOW + 60)]),
        snapshot(jobs=[promoted(1, "a", "v0.1", ended_at=NOW + 60)]),
    ]
    # When it is waited for, then the wait ends with that job and not in between
    assert told(wait(*steps)) == [(1, True)]


def test_every_job_that_ended_meanwhile_counts():
    # Given an old job, and two that end while we wait
    before = promoted(1, "old", "v0.1", ended_at=NOW - 500)
    running = snapshot(jobs=[job(3, "b", "queued"), job(2, "a", "training"), before])
    after = snapshot(
        jobs=[promoted(3, "b", "v0.2", ended_at=NOW + 90), rejected(2, "a", ended_at=NOW + 50), before]
    )
    # When the wait ends, then both are told in order, and not the old one
    assert told(wait(running, after, after)) == [(2, False), (3, True)]


def test_a_file_that_failed_before_the_first_look_counts_when_it_came_with_a_job():
    # Given two files dropped together: one failed at once, the other is a job by the first look
    failure = event(8, "failed", at=NOW - 1, file="broken.json", code="sample", why="line 3 is not JSON")
    begun = snapshot(jobs=[job(1, "a", "queued") | {"created_at": NOW - 1}], events=[failure])
    after = snapshot(jobs=[promoted(1, "a", "v0.1", ended_at=NOW + 9)], events=[failure])

    assert told(wait(begun, after, after)) == [(8, False), (1, True)]


def test_when_nothing_ends_meanwhile_the_newest_result_counts():
    idle = snapshot(jobs=[rejected(2, "b", ended_at=NOW - 10), promoted(1, "a", "v0.1", ended_at=NOW - 90)])
    assert told(wait(idle, idle)) == [(2, False)]


def test_a_daemon_that_never_learned_has_nothing_to_tell():
    assert wait(snapshot(), snapshot()) == []


def test_a_file_that_failed_is_a_bad_end_though_it_never_became_a_job():
    # Given a file that is refused while we wait, and a good job from before
    earlier = [promoted(1, "a", "v0.1", ended_at=NOW - 90)]
    failure = event(8, "failed", at=NOW + 2, file="broken.json", code="sample", why="line 3 is not JSON")
    steps = [snapshot(jobs=earlier, waiting_files=[waiting_file("broken.json")])]
    steps += [snapshot(jobs=earlier, events=[failure])] * 2
    # When the wait ends, then it tells of the file
    assert told(wait(*steps)) == [(8, False)]


def test_a_file_that_says_nothing_new_is_a_good_end():
    repeated = event(9, "duplicate", at=NOW - 5, file="again.json", why="every row is already known")
    idle = snapshot(jobs=[rejected(1, "a", ended_at=NOW - 90)], events=[repeated])
    assert told(wait(idle, idle)) == [(9, True)]


def test_a_failed_session_is_told_as_its_job_and_not_twice():
    # Given the event and the job of the same failed session
    failed = job(
        1, "a", "failed", ended_at=NOW + 5, reason={"code": "session_died", "message": "it was killed"}
    )
    idle = snapshot(jobs=[failed], events=[event(3, "session_failed", at=NOW + 5, job=1)])
    assert told(wait(idle, idle)) == [(1, False)]


def test_a_job_that_was_retried_counts_by_its_last_end():
    bad, good = rejected(1, "a", ended_at=NOW + 5), promoted(1, "a", "v0.1", ended_at=NOW + 50)
    seen = Completion()
    # Given a job that is rejected, queued again and promoted while we wait
    for jobs in ([job(1, "a", "training")], [bad], [job(1, "a", "queued")], [good], [good]):
        seen.update(as_told(snapshot(jobs=jobs)))
    assert told(seen.results()) == [(1, True)]


def test_one_job_is_waited_for_alone():
    # Given a busy daemon, and a job of it that ends
    busy = snapshot(jobs=[job(2, "b", "queued"), job(1, "a", "training")])
    states = [job(1, "a", "training"), job(1, "a", "judging"), promoted(1, "a", "v0.1")]
    assert told(wait(busy, busy, busy, job=states)) == [(1, True)]


def test_one_job_is_waited_for_though_the_snapshot_no_longer_lists_it():
    idle = snapshot()
    states = [job(1, "a", "queued")] * 3 + [promoted(1, "a", "v0.1")]
    assert told(wait(*[idle] * 4, job=states)) == [(1, True)]


def test_patience_ends():
    with pytest.raises(TransientError) as caught:
        wait(snapshot(jobs=[job(1, "a", "training")]), is_late=lambda: True)
    assert caught.value.code == "timeout"


DAY = 86_400


def test_a21_a_clock_that_is_set_back_does_not_bring_old_jobs_forward():
    # Given jobs of "tomorrow", and one that is learned after the clock was set back a day
    old = [rejected(2, "old", ended_at=NOW + DAY), promoted(1, "older", "v0.1", ended_at=NOW + DAY - 50)]
    steps = [
        snapshot(jobs=[job(3, "a", "training") | {"created_at": NOW + DAY}, *old]),
        snapshot(jobs=[promoted(3, "a", "v0.2", ended_at=NOW), *old]),
    ]
    # When it is waited for, then only that one is told
    assert told(wait(*steps, steps[-1])) == [(3, True)]


def test_a21_a_clock_that_is_set_back_while_a_job_ends_unseen_hides_nothing():
    steps = [snapshot(now=NOW), snapshot(now=NOW - DAY, jobs=[promoted(1, "a", "v0.1", ended_at=NOW - DAY)])]
    assert told(wait(*steps, steps[-1])) == [(1, True)]


def test_a21_a_file_that_fails_after_the_clock_was_set_back_counts():
    old = event(4, "failed", at=NOW + DAY, file="old.json", why="x")
    new = event(5, "failed", at=NOW - DAY, file="new.json", why="x")
    steps = [snapshot(events=[old], waiting_files=[waiting_file("new.json")]), snapshot(events=[old, new])]
    assert told(wait(*steps, steps[-1])) == [(5, False)]


def test_a21_what_ended_last_is_told_by_number():
    idle = snapshot(jobs=[promoted(2, "b", "v0.1", ended_at=NOW - DAY), rejected(1, "a", ended_at=NOW)])
    assert told(wait(idle, idle)) == [(2, True)]


def test_a21_an_older_job_that_was_tried_again_ended_last_if_events_say_so():
    again = event(9, "promoted", at=NOW - DAY, job=1)
    jobs = [rejected(2, "b", ended_at=NOW), promoted(1, "a", "v0.1", ended_at=NOW - DAY)]
    idle = snapshot(jobs=jobs, events=[event(8, "rejected", job=2), again])
    assert told(wait(idle, idle)) == [(1, True)]


def test_a_job_that_is_retried_and_ends_between_two_looks_counts():
    before, after = rejected(1, "a", ended_at=NOW), promoted(1, "a", "v0.1", ended_at=NOW - DAY)
    steps = [
        snapshot(jobs=[before], waiting_files=[waiting_file("b")]),
        snapshot(jobs=[after | {"attempts": 2}]),
    ]
    assert told(wait(*steps, steps[-1])) == [(1, True)]


def test_an_old_job_that_a_snapshot_tells_of_only_later_is_not_ours():
    steps = [
        snapshot(jobs=[job(9, "b", "queued"), rejected(8, "a")]),
        snapshot(jobs=[promoted(9, "b", "v0.1"), rejected(8, "a"), rejected(1, "a")]),
    ]
    assert told(wait(*steps, steps[-1])) == [(9, True)]
