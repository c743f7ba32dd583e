"""Work in a child process with limits of memory and time, for files from outside that may be huge or never end.

What lives here: both ends: ``run`` starts a program and reads its result, ``answer`` runs in that program. What never
does: the work itself.

The program writes one JSON value per line: the end of each stage, and finally its result or an error.
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
MAX_OUTPUT_BYTES = 64 * 2**20


def run(command: Sequence[str], stages: Mapping[str, float], memory: int) -> Any:
    """Return a program's result, or raise its error; ``ConfigError`` if a stage exceeds its seconds or the memory.

    ``memory`` is the limit in bytes that the program was given, beyond its own size.
    """
    with subprocess.Popen(
        [*command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        try:
            said, stage = _listen(program, stages)
        finally:
            program.kill()
    if not said:
        raise _beyond(
            f"{stage} ended unexpectedly, probably because it needs more than {memory / GIB:.0f} GiB of memory"
        )
    if "result" in said:
        return said["result"]
    data = said["error"]
    if data["code"] == "memory":
        raise _beyond(f"{stage} needs more than {memory / GIB:.0f} GiB of memory")
    kinds = {kind.__name__: kind for kind in LoradError.__subclasses__()}
    raise kinds.get(said["kind"], ConfigError)(data["message"], code=data["code"])


def _listen(program: subprocess.Popen[bytes], stages: Mapping[str, float]) -> tuple[dict[str, Any], str]:
    """Return a program's last message, empty if it died before, and its stage at that time."""
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
        if not more or len(heard) > MAX_OUTPUT_BYTES:
            return {}, left[0]


def answer(act: Callable[[Callable[[str], None]], Any], memory: int) -> None:
    """Do some work within this much memory and report the result on standard output; nothing else may write there."""
    limit = psutil.Process().memory_info().vms + memory
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        said = {"result": act(lambda stage: _say({"done": stage}))}
    except MemoryError:
        said = {"kind": "TransientError", "error": {"code": "memory", "message": ""}}
    except Exception as error:  # noqa: BLE001 - the other process raises it
        said = {"kind": type(error).__name__, "error": describe(error)}
    _say(said)


def _say(told: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(told, default=str) + "\n")  # noqa: TID251 - a pipe to the other process
    sys.stdout.flush()


def _beyond(told: str) -> ConfigError:
    return ConfigError(f"{told}; nothing was kept", code="beyond_limits")
