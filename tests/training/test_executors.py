"""Sessions in processes of their own."""

import signal
import sys

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
