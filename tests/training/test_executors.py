"""Sessions in processes of their own: which, and how they end."""

import os
import signal
import sys

import pytest

from lorad.config import TrainingSettings
from lorad.errors import ConfigError
from lorad.models import hardware
from lorad.storage.busy_mark import BusyMark
from lorad.training import executors
from lorad.training.executors import commands
from lorad.training.executors.local import LocalExecutor
from lorad.training.run_folder import RunFolder


def test_a_session_that_takes_too_long_is_ended_and_says_what_to_do(tmp_path):
    folder = RunFolder(tmp_path)
    folder.report({"round": 2})
    child = LocalExecutor(nice=10, max_seconds=60).start(folder)
    assert child.poll(1000.0) is None
    assert child.poll(1059.0) is None

    assert child.poll(1061.0) == -signal.SIGKILL

    said = child.progress
    assert (said["round"], said["error"]["code"]) == (2, "too_slow")
    assert "raise it, and continue the session with: lorad resume JOB" in said["error"]["message"]


def test_a_session_takes_no_library_from_the_current_folder(tmp_path):
    child = LocalExecutor(nice=10).start(RunFolder(tmp_path))
    child.stop()

    assert child._process.args[:3] == [sys.executable, "-P", "-m"]


def test_a_session_without_a_limit_runs_on(tmp_path):
    child = LocalExecutor(nice=10).start(RunFolder(tmp_path))

    assert child.poll(0.0) is None
    assert child.poll(1e9) is None
    child.stop()


def test_time_spent_waiting_for_answers_does_not_count_as_too_long(tmp_path):
    folder = RunFolder(tmp_path)
    child = LocalExecutor(nice=10, max_seconds=60).start(folder)
    assert child.poll(1000.0) is None
    folder.report({"paused_seconds": 30.0})

    assert child.poll(1089.0) is None
    assert child.poll(1091.0) == -signal.SIGKILL


def test_a_session_is_handed_the_mark_that_it_waits_by(tmp_path):
    mark = BusyMark()
    descriptor = mark.descriptor
    child = LocalExecutor(nice=10, mark=mark).start(RunFolder(tmp_path))
    child.stop()
    mark.close()

    assert child._process.args[-2:] == [str(tmp_path), str(descriptor)]


def asked(**settings):
    return TrainingSettings.model_validate({"device": "cpu", **settings})


def test_the_settings_choose_what_runs_a_session(monkeypatch):
    monkeypatch.setattr(executors, "has_ray", lambda: True)
    names = ("local", "torchrun", "ray")

    found = [type(executors.choose(asked(executor=name))).__name__ for name in names]

    assert found == ["LocalExecutor", "TorchrunExecutor", "RayExecutor"]


def test_ray_that_is_not_installed_is_told_at_the_start(monkeypatch):
    monkeypatch.setattr(executors, "has_ray", lambda: False)

    with pytest.raises(ConfigError, match=r"pip install 'lorad\[ray\]'") as caught:
        executors.choose(asked(executor="ray"))

    assert caught.value.code == "no_ray"


@pytest.mark.parametrize(("device", "code"), [("cuda", "too_few_cards"), ("mps", "one_process_on_mps")])
def test_more_processes_than_a_device_has_room_for_are_told_at_the_start(monkeypatch, device, code):
    monkeypatch.setattr(executors, "cards", lambda: 1)
    machine = type("Machine", (), {"device": device})
    monkeypatch.setattr(hardware, "machine", lambda _: machine)

    with pytest.raises(ConfigError) as caught:
        executors.check(asked(executor="torchrun", processes=2))

    assert caught.value.code == code
    executors.check(asked())


def test_torchrun_starts_the_same_session_as_often_as_is_asked(tmp_path):
    here = commands.several_processes(asked(executor="torchrun", processes=3), [str(tmp_path)])
    assert here[:4] == [sys.executable, "-P", "-m", "torch.distributed.run"]
    assert "--nproc-per-node=3" in here
    assert here[-6:] == ["--no-python", sys.executable, "-P", "-m", "lorad.training.session", str(tmp_path)]

    there = commands.several_processes(
        asked(executor="torchrun", nodes=2, rendezvous="one.example:29400"), []
    )
    assert {"--nnodes=2", "--rdzv-backend=c10d", "--rdzv-endpoint=one.example:29400"} <= set(there)
    assert there[-1] == "lorad.training.session"


@pytest.mark.parametrize(
    ("exitcode", "code", "words"),
    [
        (-9, "process_died", "process 1 of the session was killed by signal 9, as the system does where"),
        (1, "process_died", "process 1 of the session ended with status 1"),
        (os.EX_IOERR, "disk", "lorad will retry"),
    ],
)
def test_what_torchrun_writes_of_a_process_that_died_is_told(tmp_path, exitcode, code, words):
    folder = RunFolder(tmp_path)
    folder.log.write_text(
        f"E1130 failed (exitcode: {exitcode}) local_rank: 1 (pid: 12) of binary: /usr/bin/x\n"
    )

    error = commands.explain_death(folder, 1)

    assert error.code == code
    assert words in error.message


def test_of_a_session_that_was_told_to_end_nothing_is_explained(tmp_path):
    folder = RunFolder(tmp_path)
    assert commands.explain_death(folder, 1) is None
    folder.log.write_text("failed (exitcode: 75) local_rank: 0 (pid: 12)")
    assert commands.explain_death(folder, 1) is None
