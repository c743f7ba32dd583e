"""Where a running session is, by what it has reported."""

from lorad.apps.daemon.snapshot import session_progress
from lorad.records import Job
from lorad.serving.answers import Round, SessionProgress
from lorad.states import JobState

JOB = Job(id=3, track="chat", dataset="doors", state=JobState.TRAINING, created_at=1.0, started_at=5.0)


def test_a_session_is_where_it_reports_to_be():
    progress = {"phase": "training", "round": 2, "recall": 0.5, "history": [{"round": 1, "loss": 2.5}]}

    told = session_progress(JOB, progress | {"mood": "good"}, now=9.0)

    assert told == SessionProgress(
        job=3,
        dataset="doors",
        phase="training",
        elapsed=4.0,
        round=2,
        recall=0.5,
        history=(Round(round=1, loss=2.5),),
    )


def test_what_is_reported_in_no_known_form_does_not_silence_the_rest():
    assert session_progress(JOB, {"round": "two"}, now=9.0) == SessionProgress(
        job=3, dataset="doors", elapsed=4.0
    )


def test_a_clock_that_was_set_back_makes_no_negative_time():
    assert session_progress(JOB, {}, now=1.0).elapsed == 0.0


def test_what_is_left_counts_down_while_a_session_reports_nothing():
    told = {"phase": "judging", "ends_at": 100.0, "eta_seconds": 3.0}

    assert session_progress(JOB, told, now=60.0).eta_seconds == 40.0
    assert session_progress(JOB, told, now=101.0).eta_seconds is None  # late: nobody knows
    assert session_progress(JOB, told | {"ends_at": None}, now=60.0).eta_seconds == 3.0
