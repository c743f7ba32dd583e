"""The files of one session."""

import os
import signal
from dataclasses import replace

import pytest
import tiny
import world
from training_runs import PLAN

from lorad.evaluation import judge
from lorad.records import SessionResult, SessionSpec
from lorad.storage import files
from lorad.storage.memory import Recalled
from lorad.training.run_folder import RunFolder

SPEC = SessionSpec(
    job=1,
    track="chat",
    task="chat",
    kind="learn",
    dataset="doors",
    base="models/base/tiny",
    parent=None,
    parent_version=None,
    plan=PLAN,
    settings={"training": {"nice": 10, "max_seconds": 60.0, "threads": 1}, "judge": {}, "resolved": {}},
)
NEW = tiny.facts(3, "doors")
OLD = [Recalled(example=example, right=number > 0) for number, example in enumerate(tiny.facts(2, "gates"))]


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path / "job-1")
    run.begin(SPEC, NEW, OLD)
    return run


def measured(folder, right):
    evaluation = world.evaluate(folder.spec(), folder.new(), folder.old())
    return SessionResult(
        parent=None,
        base="base-print",
        evaluation=evaluation,
        verdict=judge.decide(evaluation, world.SETTINGS.judge),
        learned=tuple(example.ids for example in NEW),
        right=right,
    )


def test_what_is_requested_is_read_again(folder):
    assert (folder.spec(), folder.new(), folder.old()) == (SPEC, NEW, OLD)
    assert folder.trained_on() == {example.id for example in (*NEW, *(item.example for item in OLD))}


def test_the_same_request_goes_on_where_it_was_cut_off_but_for_a_candidate(folder):
    files.write_json(folder.checkpoints / "round-0001" / "state.json", {})
    files.write_json(folder.candidate / "adapter_config.json", {})

    folder.begin(replace(SPEC, settings=SPEC.settings | {"judge": {"min_recall": 0.5}}), NEW, OLD)

    assert folder.checkpoint_names() == ["round-0001"]
    assert not folder.candidate.exists()


@pytest.mark.parametrize(
    ("spec", "new", "old"),
    [
        (replace(SPEC, plan=replace(PLAN, seed=PLAN.seed + 1)), NEW, OLD),
        (SPEC, NEW[:2], OLD),
        (SPEC, NEW, OLD[:1]),
    ],
)
def test_another_request_begins_anew(folder, spec, new, old):
    files.write_json(folder.checkpoints / "round-0001" / "state.json", {})

    folder.begin(spec, new, old)

    assert folder.checkpoint_names() == []


def test_checkpoints_that_are_being_written_do_not_count(folder):
    for name in ("round-0002", "round-0001", "round-0003.part"):
        files.make_folder(folder.checkpoints / name)

    assert folder.checkpoint_names() == ["round-0001", "round-0002"]


def test_progress_is_the_newest_of_every_key_and_the_rounds(folder):
    for line in ({"phase": "training", "round": 1}, {"closed": {"round": 1}}, {"round": 2}):
        folder.report(line)

    assert folder.progress() == {
        "phase": "training",
        "round": 2,
        "closed": {"round": 1},
        "history": [{"round": 1}],
    }
    folder.begin(SPEC, NEW, OLD)  # the next start says nothing of this one
    assert folder.progress() == {"history": []}


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (os.EX_IOERR, "disk", "the disk is full"),
        (-signal.SIGKILL, "session_died", "killed by signal 9, as the system does where memory runs out"),
        (3, "session_died", "ended with status 3; see"),
    ],
)
def test_a_session_that_could_not_say_why_it_failed(folder, status, code, says):
    error = folder.failure(status)

    assert (error.code, says in error.message) == (code, True)


def test_a_session_that_said_why_it_failed(folder):
    folder.report({"error": {"code": "too_long", "message": "every row is too long"}})

    assert (folder.failure(1).code, folder.failure(1).message) == ("too_long", "every row is too long")


def test_the_result_is_read_again_and_ends_the_checkpoints(folder):
    files.make_folder(folder.checkpoints / "round-0001")
    result = measured(folder, {example.id: True for example in NEW})

    folder.write_result(result)

    assert folder.result() == result
    assert not folder.checkpoints.exists()


def test_of_what_is_emptied_the_numbers_stay_if_they_shall(folder):
    folder.write_result(measured(folder, {"an-older-one": False}))
    assert "an-older-one" in folder.trained_on()
    assert not folder.has_only_numbers()

    folder.remove_results(keep_numbers=True)

    assert [path.name for path in folder.path.rglob("*")] == ["candidate", "evaluation.json"]
    assert folder.has_only_numbers()
    assert folder.result().verdict.promote
    folder.remove_results(keep_numbers=False)
    assert not folder.path.exists()


def test_a_folder_that_does_not_tell_may_hold_anything(tmp_path):
    assert RunFolder(tmp_path).trained_on() is None
    assert RunFolder(tmp_path).holds({"x"})


def test_the_words_go_and_the_request_stays(folder):
    folder.remove_words()

    assert (folder.new(), folder.old(), folder.spec()) == ([], [], SPEC)
