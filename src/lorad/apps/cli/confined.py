"""Doing something in a process of its own, within limits of memory and time.

What lives here: both ends of it, for what somebody else's files may make endless or enormous: ``run`` starts a program
and hears what comes of it, ``answer`` is what that program does. What never does: knowing what is done.

The program writes one JSON value a line: the end of each stage, and in the end its result or one of lorad's errors.
"""

import contextlib
import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

from lorad.errors import ConfigError, LoradError, describe

GIB = 2**30
MOST_SAID = 64 * 2**20


def run(command: Sequence[str], stages: Mapping[str, float], memory: int) -> Any:
    """Return a program's result, or raise its error; ``ConfigError`` when a stage takes too many seconds or too much memory.

    ``memory`` is what it was told that it may take beyond its own.
    """
    with subprocess.Popen(
        [*command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        try:
            said, stage = _listen(program, stages)
        finally:
            program.kill()
    if not said:
        raise _beyond(f"{stage} ended at once, as where it takes more than {memory / GIB:.0f} GiB of memory")
    if "result" in said:
        return said["result"]
    data = said["error"]
    if data["code"] == "memory":
        raise _beyond(f"{stage} takes more than {memory / GIB:.0f} GiB of memory")
    kinds = {kind.__name__: kind for kind in LoradError.__subclasses__()}
    raise kinds.get(said["kind"], ConfigError)(data["message"], code=data["code"])


def _listen(program: subprocess.Popen[bytes], stages: Mapping[str, float]) -> tuple[dict[str, Any], str]:
    """Return the last thing that a program says, nothing if it dies before, and at which stage that was."""
    left = list(stages)
    heard = b""
    deadline = time.monotonic() + stages[left[0]]
    assert program.stdout is not None  # noqa: S101 - it was started with a pipe
    while True:
        rest = max(0.0, deadline - time.monotonic())
        if not select.select([program.stdout], [], [], rest)[0]:
            raise _beyond(f"{left[0]} takes longer than {stages[left[0]]:.0f} seconds")
        more = os.read(program.stdout.fileno(), 1 << 16)
        heard += more
        while b"\n" in heard:
            line, _, heard = heard.partition(b"\n")
            told = json.loads(line)
            if "done" not in told:
                return told, left[0]
            left = left[1:] or left
            deadline = time.monotonic() + stages[left[0]]
        if not more or len(heard) > MOST_SAID:
            return {}, left[0]


def answer(act: Callable[[Callable[[str], None]], Any], memory: int) -> None:
    """Do something within this much memory, and say on standard output what came of it; nothing else may write there."""
    limit = psutil.Process().memory_info().vms + memory
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        said = {"result": act(lambda stage: _say({"done": stage}))}
    except MemoryError:
        said = {"kind": "RetryLater", "error": {"code": "memory", "message": ""}}
    except Exception as error:  # noqa: BLE001 - the other process raises it
        said = {"kind": type(error).__name__, "error": describe(error)}
    _say(said)


def _say(told: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(told, default=str) + "\n")  # noqa: TID251 - a pipe to the other process
    sys.stdout.flush()


def _beyond(told: str) -> ConfigError:
    return ConfigError(f"{told}; nothing of it was kept", code="beyond_limits")
