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
            message, stage = _read_messages(program, stages)
        finally:
            program.kill()
    if not message:
        raise _beyond(
            f"{stage} ended unexpectedly, probably because it needs more than {memory / GIB:.0f} GiB of memory"
        )
    if "result" in message:
        return message["result"]
    data = message["error"]
    if data["code"] == "memory":
        raise _beyond(f"{stage} needs more than {memory / GIB:.0f} GiB of memory")
    kinds = {kind.__name__: kind for kind in LoradError.__subclasses__()}
    raise kinds.get(message["kind"], ConfigError)(data["message"], code=data["code"])


def _read_messages(
    program: subprocess.Popen[bytes], stages: Mapping[str, float]
) -> tuple[dict[str, Any], str]:
    """Return a program's last message, empty if it died before, and its stage at that time."""
    remaining = list(stages)
    buffer = b""
    deadline = time.monotonic() + stages[remaining[0]]
    assert program.stdout is not None  # noqa: S101 - it was started with a pipe
    while True:
        seconds = max(0.0, deadline - time.monotonic())
        if not select.select([program.stdout], [], [], seconds)[0]:
            raise _beyond(f"{remaining[0]} takes longer than {stages[remaining[0]]:.0f} seconds")
        chunk = os.read(program.stdout.fileno(), 1 << 16)
        buffer += chunk
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            message = json.loads(line)
            if "done" not in message:
                return message, remaining[0]
            remaining = remaining[1:] or remaining
            deadline = time.monotonic() + stages[remaining[0]]
        if not chunk or len(buffer) > MAX_OUTPUT_BYTES:
            return {}, remaining[0]


def answer(act: Callable[[Callable[[str], None]], Any], memory: int) -> None:
    """Do some work within this much memory and report the result on standard output; nothing else may write there."""
    limit = psutil.Process().memory_info().vms + memory
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        message = {"result": act(lambda stage: _send({"done": stage}))}
    except MemoryError:
        message = {"kind": "TransientError", "error": {"code": "memory", "message": ""}}
    except Exception as error:  # noqa: BLE001 - the other process raises it
        message = {"kind": type(error).__name__, "error": describe(error)}
    _send(message)


def _send(message: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(message, default=str) + "\n")  # noqa: TID251 - a pipe to the other process
    sys.stdout.flush()


def _beyond(message: str) -> ConfigError:
    return ConfigError(f"{message}; nothing was kept", code="beyond_limits")
