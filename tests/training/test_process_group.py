"""What a process takes of a step, and what all shares together are; sessions of two processes, by torchrun and by Ray."""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace

import psutil
import pytest
import tiny
import torch
import watched_process
from accelerate import Accelerator
from training_runs import PLAN, learner, request

from lorad.config import TrainingSettings
from lorad.models import bases, peft_io, soft_targets
from lorad.storage import files
from lorad.tasks import find
from lorad.training import executors, reproduction
from lorad.training.checkpoint import Checkpoints
from lorad.training.executors import commands
from lorad.training.executors.child import ChildSession
from lorad.training.gradients import Gradients
from lorad.training.process_group import ALONE, ProcessGroup
from lorad.training.rounds import StepBatch
from lorad.training.run_folder import RunFolder

ROUNDS = 4
"""Of two steps each."""


def test_shares_are_everything_once_and_weigh_alike():
    items = ["x" * length for length in (9, 1, 4, 4, 2, 8, 7)]

    shares = [ProcessGroup(number, 3).share(items) for number in range(3)]

    assert sorted(number for share in shares for number in share) == list(range(7))
    assert [sum(len(items[number]) for number in share) for share in shares] == [14, 9, 12]


def test_one_process_has_it_all_in_order():
    assert ALONE.share(["aaa", "b", "cc"]) == [0, 1, 2]
    assert ALONE.ask(["a", "b"], lambda rows: [row == "b" for row in rows]) == [False, True]
    assert ALONE.total([1.5]) == ALONE.add_up([], [1.5]) == [1.5]
    assert ALONE.first(bool, lambda: True)
    assert ALONE.agree("folder") == "folder"


class Apart(ProcessGroup):
    """A process whose sum is its own share: a test adds up."""

    def add_up(self, weights, numbers):
        del weights
        return list(numbers)


@pytest.mark.parametrize("size", [2, 9])
def test_the_gradients_of_all_shares_add_up_to_that_of_the_step(size):
    # Given a step of rows of several lengths, with general conversation beside them; for 9 processes there are too few rows
    model, tokenizer = learner()
    rows = [find("chat").encode(tokenizer, example) for example in tiny.facts(6)]
    said = soft_targets.record_soft_targets(model, rows[:2])
    step = StepBatch(list(range(6)), rows, said)

    def gradient(group):
        model.zero_grad(set_to_none=True)
        gradients = Gradients(
            find("chat"), model, Accelerator(cpu=True), general_weight=2.0, pack_tokens=40, group=group
        )
        loss, _ = gradients.add_up(step)
        found = [
            weight.grad.reshape(-1) if weight.grad is not None else torch.zeros(weight.numel())
            for weight in model.parameters()
            if weight.requires_grad
        ]
        return loss, torch.cat(found)

    loss, whole = gradient(ALONE)
    shares = [gradient(Apart(number, size)) for number in range(size)]

    assert sum(each for each, _ in shares) == pytest.approx(loss, rel=1e-6)
    summed = torch.stack([share for _, share in shares]).sum(0)
    assert (
        float((summed - whole).norm() / whole.norm()) < 1e-5
    )  # other shares are other packs, which round otherwise


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_a_process_opens_what_only_its_parent_was_handed():
    code = "import os, sys; from lorad.training.process_group import ProcessGroup as Group; "
    code += "print(os.read(Group(0, 2).inherited(int(sys.argv[1])), 4).decode())"
    with tempfile.TemporaryFile() as mark:  # no child inherits it
        mark.write(b"mark")
        mark.flush()
        said = subprocess.run(
            [sys.executable, "-c", code, str(mark.fileno())], capture_output=True, text=True, check=True
        )

    assert said.stdout == "mark\n"


# -- sessions


def order(base, folder, **training):
    """Write the order of a session of so many rounds on eight new facts; whatever it has learned, it is not repaired."""
    plan = replace(PLAN, accumulation=2, stopping=replace(PLAN.stopping, recall=1.0, max_rounds=ROUNDS))
    run = RunFolder(folder)
    return run, request(base, run, plan, **training)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    bases.store_base(tiny.save(folder / "source"), folder / "tiny")
    return folder / "tiny"


def end(child):
    child._process.wait()
    return child.poll(0.0)


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory):
    """What one process makes."""
    run, training = order(base, tmp_path_factory.mktemp("alone"))
    assert end(executors.choose(training).start(run)) == 0, run.log.read_text()
    return run


def far(one, other):
    """Return how far two candidates are apart, as a share of the first one's norm."""
    first, second = (peft_io.read_adapter(run.candidate) for run in (one, other))
    pairs = [
        (a, b)
        for name, factors in first.factors.items()
        for a, b in zip(factors, second.factors[name], strict=True)
    ]
    apart = sum(float((a - b).norm()) ** 2 for a, b in pairs)
    return (apart / sum(float(a.norm()) ** 2 for a, _ in pairs)) ** 0.5


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("executor", ["torchrun", "ray"])
def test_two_processes_make_what_one_makes(base, alone, tmp_path, executor):
    if executor == "ray" and not executors.has_ray():
        pytest.skip("Ray is an extra")
    run, training = order(base, tmp_path, executor=executor, processes=2)

    assert end(executors.choose(training).start(run)) == 0, run.log.read_text()

    assert (
        0 < far(alone, run) < 1e-4
    )  # AdamW makes rounding of small gradients larger, the more so the more rounds
    one, two = alone.result(), run.result()
    assert two.right == one.right
    assert set(two.thinnest) == set(one.thinnest) != set()
    assert two.evaluation.scores == one.evaluation.scores
    papers = files.read_json(run.candidate / "metadata.json")
    assert papers["reproducibility"]["processes"] == 2
    assert [closed["recall"] for closed in run.progress()["history"]] == [
        closed["recall"] for closed in alone.progress()["history"]
    ]


def watched(run, training, **told):
    """Start a session whose processes say when they train."""
    command = commands.several_processes(training, [str(run.path)], [watched_process.__file__])
    environment = {f"LORAD_TEST_{name.upper()}": str(value) for name, value in told.items()}
    return ChildSession(
        run,
        command,
        nice=0,
        max_seconds=None,
        environment=environment,
        explain=commands.explain_death,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_that_is_killed_ends_the_session_by_name_and_the_checkpoint_stays(base, tmp_path):
    run, training = order(base, tmp_path, executor="torchrun", processes=2)

    status = end(watched(run, training, step=6, dies=1))  # in the third round

    error = run.failure(status)
    assert error.code == "process_died"
    assert "process 1 of the session was killed by signal 9" in error.message
    assert "lorad resume JOB" in error.message
    assert run.checkpoint_names() == ["round-0001", "round-0002"]
    name = files.read_json(run.checkpoints / "round-0002" / "manifest.json")["run"]
    assert Checkpoints(run.checkpoints, name).newest().name == "round-0002"
    assert not run.candidate.exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", ["cancelled", "daemon gone", "torchrun killed"])
def test_no_process_is_left(base, tmp_path, how):
    run, training = order(base, tmp_path, executor="torchrun", processes=2)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    child = watched(run, training, step=3, tells=pipe)
    pipe.read_text()  # it trains
    started = child._below()
    assert len(started) == 2

    if how == "cancelled":
        child.stop()
    elif how == "daemon gone":
        child._process.stdin.close()
    else:
        child._process.kill()

    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive
    assert child._process.wait(timeout=60) != 0
    child.stop()


# -- what it takes


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"processes": 2}, "need executor: torchrun"),
        ({"processes": 0}, "greater than or equal to 1"),
        ({"executor": "ray", "nodes": 2}, "one machine"),
        ({"executor": "torchrun", "nodes": 2}, "rendezvous"),
        ({"executor": "torchrun", "nodes": 2, "rendezvous": "elsewhere"}, "pattern"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        TrainingSettings.model_validate(settings)


def test_a_session_is_made_again_by_as_many_processes_on_this_machine(base, tmp_path):
    run, _ = order(base, tmp_path, executor="torchrun", processes=2, nodes=2, rendezvous="a:1")

    again = reproduction.training(reproduction._at(run.spec(), str(base), None), nice=3)

    assert (again.executor, again.processes, again.nodes, again.nice) == ("torchrun", 4, 1, 3)
    assert again.max_seconds > run.spec().settings["training"]["max_seconds"]


def test_the_number_of_processes_decides_the_weights_and_who_starts_them_does_not(base, tmp_path):
    def checkpoints(**training):
        run, _ = order(base, tmp_path, **training)
        (run.checkpoints / "round-0001").mkdir(parents=True, exist_ok=True)
        return lambda **other: order(base, tmp_path, **other)[0].checkpoint_names()

    two = {"processes": 2}
    assert checkpoints(executor="torchrun", **two)(executor="ray", ray_address="auto", **two) == [
        "round-0001"
    ]
    assert checkpoints(executor="torchrun", **two)() == []
