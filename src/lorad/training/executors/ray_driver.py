"""The program that places one session by Ray, and ends with it.

    python -m lorad.training.executors.ray_driver FOLDER ADDRESS CPUS GPUS COMMAND …

It ends as a session does when it is told to or its daemon is gone. Ray then ends the worker that it has placed; the session that this
worker has started sees its standard input close, and ends too.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from lorad.errors import TrainingError, describe
from lorad.storage import files
from lorad.training import ending
from lorad.training.executors import commands
from lorad.training.executors.child import ENVIRONMENT
from lorad.training.executors.ray import LOCAL
from lorad.training.run_folder import RunFolder

OBJECT_BYTES = 100_000_000
"""Of Ray's store of objects, where the cluster is our own: a session puts nothing into it."""


def run(command: Sequence[str], log: str) -> int:
    """Run a session's command where Ray has placed this; return its exit status."""
    # Ray tells a task to compute with as many threads as it has CPUs; the session decides by its own settings
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with (
        files.open_secret(Path(log), "ab") as stream,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # closes with this process
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=inherited | ENVIRONMENT | commands.LOOPBACK,
            start_new_session=True,
        ) as process,
    ):
        return process.wait()


def main(folder: RunFolder, address: str, cpus: int, gpus: int, command: Sequence[str]) -> int:
    """Place a command on a machine with so many CPUs and GPUs; return its exit status."""
    ending.end_when_told()
    try:
        status = _placed(folder, address, cpus, gpus, command)
        if status < 0:  # an exit status of this process cannot say so
            folder.report({"error": describe(folder.failure(status))})
        return abs(status)
    except TrainingError as error:
        told = error
    except Exception as error:  # noqa: BLE001 - Ray raises errors of many kinds, bare ones too: none has a name for people
        said = str(error).strip().splitlines() or [type(error).__name__]
        told = TrainingError(
            f"Ray could not run the session ({said[-1]}); see {folder.log}, then continue it with: lorad resume JOB",
            code="ray_failed",
        )
    folder.report({"error": describe(told)})
    return 1


def _placed(folder: RunFolder, address: str, cpus: int, gpus: int, command: Sequence[str]) -> int:
    own = (
        {"num_cpus": cpus, "num_gpus": gpus, "object_store_memory": OBJECT_BYTES} if address == LOCAL else {}
    )
    ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="WARNING", **own)
    ending.end_when_told()  # Ray has handlers of its own, which take their time
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(_has_room(machine, cpus, gpus) for machine in machines):
        largest = max((machine.get("CPU", 0) for machine in machines), default=0)
        raise TrainingError(
            f"no machine of the Ray cluster has {cpus} CPUs and {gpus} GPUs (the largest has {largest:.0f} CPUs); set "
            "training.processes or training.threads lower, then: lorad retry JOB",
            code="no_room_in_ray",
        )
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(run)
    status: int = ray.get(task.remote(list(command), str(folder.log)))
    ray.shutdown()
    return status


def _has_room(machine: dict[str, Any], cpus: int, gpus: int) -> bool:
    return bool(machine.get("CPU", 0) >= cpus and machine.get("GPU", 0) >= gpus)


if __name__ == "__main__":
    path, where, *rest = sys.argv[1:]
    sys.exit(main(RunFolder(Path(path)), where, int(rest[0]), int(rest[1]), rest[2:]))
