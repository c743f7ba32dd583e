"""A vLLM server that lorad starts: a process of its own, which ends with the daemon and is started again when it dies."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import stand_in_vllm
import tiny
import torch
from running import wait_for
from sinks import Sink

from lorad.config import EngineSettings
from lorad.errors import ConfigError, TransientError
from lorad.models import bases
from lorad.serving.backends.interface import Generation, Surroundings
from lorad.serving.backends.vllm import keeper, proof
from lorad.serving.backends.vllm.backend import Vllm
from lorad.serving.backends.vllm.server_process import ServerProcess
from lorad.serving.requests import Sampling
from lorad.tasks import find

TASK = find("chat")
NAME = "chat@base-b0"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("process")
    bases.store_base(tiny.save(folder / "source"), folder / "base")
    return bases.load_base(folder / "base", torch.float32)


@pytest.fixture
def answers(base, tmp_path):
    """What the stand-in is to say: what the base does."""
    path = tmp_path / "answers.json"
    path.write_text(json.dumps([[probe.prompt, probe.answer] for probe in proof.of_base(TASK, base)]))
    return path


def settings(answers, **more):
    command = f"{sys.executable} {stand_in_vllm.__file__} --answers {answers}"
    return EngineSettings(backend="vllm", vllm_command=command, **more)


def starts(answers):
    path = answers.with_suffix(".starts")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ask(backend, probe, base):
    sink = Sink()
    ends = frozenset(TASK.stop_tokens(base.tokenizer))
    sampling = Sampling(max_tokens=len(probe.answer))
    backend.submit(Generation(name=NAME, prompt=probe.prompt, sampling=sampling, ends=ends, sink=sink))
    wait_for(lambda: backend.step() is None and sink.ended)
    return sink


def test_a_server_is_started_asked_started_again_and_ended(base, answers, tmp_path):
    log = tmp_path / "backend.log"
    backend = Vllm(settings(answers), Surroundings(max_rank=20, log=log))
    backend.attach("chat", TASK, base, NAME)
    try:
        (first,) = starts(answers)
        words = first["words"]
        assert words[words.index("--max-lora-rank") + 1] == "32"
        assert words[words.index("--served-model-name") + 1] == NAME
        assert words[words.index("--dtype") + 1] == "float32"
        assert base.model.name_or_path in words
        socket = Path(words[words.index("--uds") + 1])
        assert socket.parent.stat().st_mode & 0o077 == 0
        probe = proof.of_base(TASK, base)[0]
        assert ask(backend, probe, base).tokens == list(probe.answer)

        # When it dies
        os.kill(first["pid"], signal.SIGKILL)
        wait_for(lambda: backend.step() is not None or len(starts(answers)) > 1)
        wait_for(lambda: backend.step() is None and "away" not in backend.capabilities("chat").because)
        assert ask(backend, probe, base).tokens == list(probe.answer)
    finally:
        backend.close()

    pids = [start["pid"] for start in starts(answers)]
    assert len(pids) == 2
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert not socket.parent.exists()
    assert log.stat().st_mode & 0o077 == 0
    assert "ended with status -9" in log.read_text()


def test_a_program_that_is_not_there_is_told_with_the_next_command(base, tmp_path):
    backend = Vllm(
        EngineSettings(backend="vllm", vllm_command=str(tmp_path / "vllm") + " serve"), Surroundings()
    )

    with pytest.raises(ConfigError, match=r"there is no program .*engine.vllm_command=") as caught:
        backend.attach("chat", TASK, base, NAME)

    assert caught.value.code == "no_backend"
    backend.close()


def test_a_server_that_does_not_start_is_told_with_its_last_words(base, tmp_path):
    script = tmp_path / "serve.py"
    script.write_text("import sys; sys.exit('ValueError: no CUDA device')")
    log = tmp_path / "backend.log"
    backend = Vllm(
        EngineSettings(backend="vllm", vllm_command=f"{sys.executable} {script}"), Surroundings(log=log)
    )

    with pytest.raises(ConfigError, match=r"does not start: .*no CUDA device.*backend\.log"):
        backend.attach("chat", TASK, base, NAME)

    backend.close()


@pytest.mark.parametrize(
    ("is_stopping", "seconds", "error"),
    [(lambda: True, 600.0, TransientError), (lambda: False, 1e-3, ConfigError)],
)
def test_nobody_waits_longer_than_told_for_a_server_that_says_nothing(
    base, tmp_path, is_stopping, seconds, error
):
    script = tmp_path / "serve.py"
    script.write_text("import sys; sys.stdin.read(); import signal; signal.pause()")
    command = f"{sys.executable} {script}"
    backend = Vllm(
        EngineSettings(backend="vllm", vllm_command=command, vllm_start_seconds=seconds),
        Surroundings(is_stopping=is_stopping),
    )

    with pytest.raises(error, match=r"the daemon stops|engine.vllm_start_seconds"):
        backend.attach("chat", TASK, base, NAME)

    backend.close()


CHILDREN = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def pid_in(log):
    return wait_for(lambda: log.exists() and log.read_text().strip() and int(log.read_text().split()[0]))


def test_what_a_server_has_started_ends_with_it(tmp_path):
    log = tmp_path / "log"
    process = ServerProcess([sys.executable, "-c", CHILDREN], dict(os.environ), log)
    process.start()
    child = pid_in(log)

    process.end()

    assert not process.is_running()
    wait_for(lambda: not is_alive(child))


def test_a_server_ends_with_a_daemon_that_is_killed(tmp_path):
    log = tmp_path / "log"
    daemon = f"""
import os, sys, signal
from pathlib import Path
from lorad.serving.backends.vllm.server_process import ServerProcess
process = ServerProcess([sys.executable, "-c", {CHILDREN!r}], dict(os.environ), Path({str(log)!r}))
process.start()
signal.pause()
"""
    started = subprocess.Popen([sys.executable, "-c", daemon])
    child = pid_in(log)

    started.kill()
    started.wait()

    wait_for(lambda: not is_alive(child))


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_log_that_has_grown_long_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("lorad.serving.backends.vllm.server_process.LONGEST_LOG", 10)
    log = tmp_path / "log"
    log.write_text("x" * 11)
    process = ServerProcess([sys.executable, "-c", "print('hello')"], dict(os.environ), log)

    process.start()
    process.wait(60)

    assert log.read_text().startswith("hello")
    assert "hello" in process.last_words()
    process.end()


def test_the_keeper_imports_nothing_of_lorad():
    source = Path(keeper.__file__).read_text(encoding="utf-8")

    assert "lorad" not in [
        line.split()[1].split(".")[0] for line in source.splitlines() if "import " in line[:7]
    ]
