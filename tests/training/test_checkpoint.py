"""Checkpoints: complete or not there, and a run that goes on from one ends as if it had never stopped."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from training_runs import PLAN, learner, material

from lorad.models import adapters, peft_io
from lorad.tasks import find
from lorad.training import trainer
from lorad.training.checkpoint import Checkpoints

LONG = replace(PLAN, batch=2, accumulation=1, stopping=replace(PLAN.stopping, recall=1.1, max_rounds=8))


class Killed(BaseException):
    """What a signal does to a run."""


def run(folder, *, die_at=None, plan=LONG):
    """Train with checkpoints; die in the middle of a step when told to."""
    model, tokenizer = learner()
    steps = 0

    def report(line):
        nonlocal steps
        steps += "step" in line
        if steps == die_at:
            raise Killed

    outcome = trainer.train(
        find("chat"),
        model,
        material(tokenizer),
        plan,
        report=report,
        clock=iter(range(10**6)).__next__,  # every step is worth a report
        checkpoints=Checkpoints(folder, "run") if folder else None,
    )
    return peft_io.read_live(model), outcome


@pytest.fixture(scope="module")
def unbroken():
    return run(None)


@pytest.mark.parametrize("die_at", [1, 3, 5, 10, 15])
def test_a_run_that_is_killed_goes_on_to_the_same_end(unbroken, tmp_path, die_at):
    with pytest.raises(Killed):
        run(tmp_path, die_at=die_at)

    adapter, outcome = run(tmp_path)

    assert adapters.difference(adapter, unbroken[0]) == 0
    without_time = [{**line, "seconds": 0} for line in outcome.history]
    assert without_time == [{**line, "seconds": 0} for line in unbroken[1].history]
    assert (outcome.steps, outcome.tokens, outcome.ended_by, outcome.right) == (
        unbroken[1].steps,
        unbroken[1].tokens,
        unbroken[1].ended_by,
        unbroken[1].right,
    )


def test_a_run_that_was_at_its_end_trains_no_more(unbroken, tmp_path):
    run(tmp_path)

    adapter, outcome = run(tmp_path, die_at=1)  # a single step would kill it

    assert adapters.difference(adapter, unbroken[0]) == 0
    assert outcome.ended_by == unbroken[1].ended_by


def test_a_broken_checkpoint_is_skipped_and_told(unbroken, tmp_path):
    # Given a killed run whose newest checkpoint has a flipped bit
    with pytest.raises(Killed):
        run(tmp_path, die_at=12)
    newest = max(tmp_path.iterdir())
    content = bytearray((newest / "tensors.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "tensors.safetensors").write_bytes(content)

    checkpoints = Checkpoints(tmp_path, "run")
    found = checkpoints.newest()
    adapter, _ = run(tmp_path)

    assert found is not None
    assert found.name < newest.name
    assert checkpoints.broken == [
        f"checkpoint {newest.name} is broken and was skipped: tensors.safetensors is not what was written"
    ]
    assert adapters.difference(adapter, unbroken[0]) == 0


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path, "run")
    for number in (1, 2, 3):
        checkpoints.save(number, {"w": torch.tensor([float(number)])}, {"round": number})
    return tmp_path


def test_the_newest_is_found_and_one_more_is_kept(saved):
    found = Checkpoints(saved, "run").newest()

    assert (found.name, found.tensors["w"].tolist(), found.state) == ("round-0003", [3.0], {"round": 3})
    assert sorted(path.name for path in saved.iterdir()) == ["round-0002", "round-0003"]


@pytest.mark.parametrize("lost", ["manifest.json", "state.json", "tensors.safetensors"])
def test_what_is_incomplete_is_skipped(saved, lost):
    (saved / "round-0003" / lost).unlink()

    assert Checkpoints(saved, "run").newest().name == "round-0002"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"run": "run", "files": []}', "no json"])
def test_a_manifest_that_proves_nothing_is_skipped(saved, content):
    (saved / "round-0003" / "manifest.json").write_text(content)

    assert Checkpoints(saved, "run").newest().name == "round-0002"


def test_another_runs_checkpoints_are_not_mine(saved):
    assert Checkpoints(saved, "another").newest() is None


def test_those_of_another_run_do_not_push_out_what_is_written_now(saved):
    again = Checkpoints(saved, "another")
    again.newest()
    for number in (1, 2):
        again.save(number, {"w": torch.tensor([0.0])}, {})
        assert Checkpoints(saved, "another").newest().name == f"round-{number:04d}"

    assert sorted(path.name for path in saved.iterdir()) == ["round-0001", "round-0002"]


def test_a_run_that_goes_on_before_a_broken_one_keeps_its_own(saved):
    (saved / "round-0003" / "state.json").write_text("{")
    going_on = Checkpoints(saved, "run")
    going_on.newest()
    going_on.save(3, {"w": torch.tensor([3.5])}, {"round": 3})

    assert Checkpoints(saved, "run").newest().tensors["w"].tolist() == [3.5]
    assert sorted(path.name for path in saved.iterdir()) == ["round-0002", "round-0003"]


def test_a_checkpoint_in_the_making_is_none(saved):
    shutil.copytree(saved / "round-0003", saved / "round-0004.part")

    assert Checkpoints(saved, "run").newest().name == "round-0003"


def test_no_checkpoints_are_no_error(tmp_path):
    assert Checkpoints(tmp_path / "nowhere", "run").newest() is None


def test_a_manifest_names_its_files_digests(saved):
    manifest = json.loads((saved / "round-0003" / "manifest.json").read_text())

    assert sorted(manifest["files"]) == ["state.json", "tensors.safetensors"]
