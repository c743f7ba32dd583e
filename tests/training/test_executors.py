"""Sessions in processes of their own."""

import signal
import sys

from lorad.storage.busy_mark import BusyMark
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
