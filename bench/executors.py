"""Sessions of two processes beside one: by torchrun and by a local Ray; killed at random moments; their speed.

    python bench/executors.py [--only equality kills endings speed] [--fresh] [--quick]

Arms: `equality` and `kills` run the tests' tiny model, so that the arithmetic and not the patience is measured; one thread a process.
`equality` runs whole sessions through the executors. A kill is SIGKILL to one of the two processes, drawn at random, some random time behind
the start of a random step; then the session is run again on the same folder. There torchrun's own agent forks processes that have everything
imported, so that twenty kills take minutes. `speed` runs optimizer steps of SmolLM2 on campus_cs.json, one
thread a process, each process on a core of its own.
"""

import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import report

TESTS = Path(__file__).resolve().parent.parent / "tests" / "support"
sys.path.insert(0, str(TESTS))

import tiny  # noqa: E402 - the tests' own model
import watched_process  # noqa: E402
from training_runs import PLAN, request  # noqa: E402

from lorad.config import TrainingSettings  # noqa: E402
from lorad.home import Home  # noqa: E402
from lorad.models import adapters, bases, peft_io  # noqa: E402
from lorad.tasks import find  # noqa: E402
from lorad.training import ending, executors, process_group, session  # noqa: E402
from lorad.training.executors import commands  # noqa: E402
from lorad.training.executors.child import ChildSession  # noqa: E402
from lorad.training.gradients import Gradients  # noqa: E402
from lorad.training.rounds import StepBatch  # noqa: E402
from lorad.training.run_folder import RunFolder  # noqa: E402
from lorad.versions import papers  # noqa: E402

ARMS = ("equality", "kills", "endings", "speed")
ROUNDS, STEPS_A_ROUND = 10, 2
"""Of a session on eight facts, four a step. Every round but the last is a checkpoint that a kill may need."""
TWO = {"executor": "torchrun", "processes": 2}
SIZE = {"kills": 20, "steps": 6}
NOTES = (
    "`difference_*`: the norm of the difference of a session's adapter from that of one process, as a share of its norm, after ten",
    "rounds; `right_*`: rows of eight that both judge alike. `kills`: sessions of which a process was",
    "killed; `named`: those that ended with `process_died` or, where the kill came behind the last sum, well; `resumed`: those that went on from",
    "a checkpoint (a kill in the first round leaves none); `equal`: adapters that equal the unbroken session's of two processes bit for bit;",
    "`left_behind`: processes that outlived their session; `left_when_*`: the same of a session that was cancelled, whose daemon's end of the pipe",
    "closed, and whose torchrun was killed. `steps_a_second_*`: optimizer steps of eight rows of campus_cs.json on SmolLM2 in",
    "float32 by one and two processes of one thread each, the median of six steps, one arm behind the other, beside neighbours: `load_before` and `load_after`",
    "processes wanted a core of two in the minute before. `processor_seconds_a_step_*`: what the process that worked longest computed a step, which neighbours hardly",
    "change; `speed_of_two_without_neighbours` is their ratio: what two would bring if none waited for a core, an upper bound.",
)


def hurry() -> None:
    SIZE.update(kills=2, steps=3)


# -- whole sessions of the tiny model


def make_base(room: Path) -> Path:
    bases.store_base(tiny.save(room / "source"), room / "tiny")
    return room / "tiny"


def order(
    base: Path, folder: Path, rounds: int = ROUNDS, **training: Any
) -> tuple[RunFolder, TrainingSettings]:
    """Write the specification of a session on 8 new facts."""
    plan = replace(PLAN, accumulation=2, stopping=replace(PLAN.stopping, recall=1.1, max_rounds=rounds))
    run = RunFolder(folder)
    return run, request(base, run, plan, nice=0, **training)


def wait(child: ChildSession) -> int:
    child._process.wait()
    return child.poll(0.0) or 0


def finish(run: RunFolder, training: TrainingSettings) -> adapters.Adapter:
    status = wait(executors.choose(training).start(run))
    assert status == 0, run.log.read_text()[-3000:]
    return peft_io.read_adapter(run.candidate)


def far(one: adapters.Adapter, other: adapters.Adapter) -> float:
    """Return the norm of the difference of two adapters' factors, as a share of the first one's norm."""
    pairs = [
        (a, b)
        for name, factors in one.factors.items()
        for a, b in zip(factors, other.factors[name], strict=True)
    ]
    return float((sum((a - b).norm() ** 2 for a, b in pairs) / sum(a.norm() ** 2 for a, _ in pairs)) ** 0.5)


def equality(room: Path) -> dict[str, Any]:
    """Run the same session by one process, by torchrun and by Ray, all at once."""
    base, figures = cached_base(), {}
    kinds: dict[str, dict[str, Any]] = {"one": {}, "torchrun": TWO}
    if executors.has_ray():
        kinds["ray"] = {"executor": "ray", "processes": 2}
    runs = {name: order(base, room / name, **told) for name, told in kinds.items()}
    started = {name: executors.choose(training).start(run) for name, (run, training) in runs.items()}
    for name, child in started.items():
        assert wait(child) == 0, runs[name][0].log.read_text()[-3000:]
    adapter, right = peft_io.read_adapter(runs["one"][0].candidate), right_of(runs["one"][0])
    for name in list(kinds)[1:]:
        run, _ = runs[name]
        said = right_of(run)
        figures[f"difference_{name}_x2"] = far(adapter, peft_io.read_adapter(run.candidate))
        figures[f"right_{name}_x2"] = sum(right[each] == said[each] for each in right)
        print(name, figures, flush=True)
    return figures


def right_of(run: RunFolder) -> dict[str, bool]:
    return run.result().right


def cached_base() -> Path:
    """Return the tiny base, with its general conversation recorded by a session of two processes that nothing ends."""
    place = report.CACHE / "executors"
    if not (place / "unbroken" / "candidate" / papers.EVALUATION).exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        make_base(place)
        finish(*order(place / "tiny", place / "unbroken", **TWO))
    return place / "tiny"


def kills(room: Path) -> dict[str, Any]:
    """Kill one of two processes at random moments, and run the session again; what is done stays done if the bench is cut off."""
    del room
    place = cached_base().parent
    told = [place / f"kill-{number}.json" for number in range(SIZE["kills"])]
    # each in a process that has computed nothing yet: torch cannot be forked behind a backward pass
    workers = [
        multiprocessing.get_context("fork").Process(target=work, args=(place, told, half)) for half in (0, 1)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done = [json.loads(path.read_text(encoding="utf-8")) for path in told]
    return {
        "kills": len(done),
        "of_the_first_process": sum(each["process"] == 0 for each in done),
        "named": sum(each["named"] for each in done),
        "left_behind": sum(each["left_behind"] for each in done),
        "resumed": sum(each["round"] > 0 for each in done),
        "equal": sum(each["difference"] == 0 for each in done),
        "largest_difference": max(each["difference"] for each in done),
        "rounds": [each["round"] for each in done],
    }


def work(place: Path, told: list[Path], half: int) -> None:
    for number in range(half, len(told), 2):
        if not told[number].exists():
            found = json.dumps(kill_and_resume(place, number))
            told[number].write_text(found, encoding="utf-8")
            print(number, found, flush=True)


class Forked:
    """A session of two processes by torchrun's own agent, forked from this process: nothing is imported again."""

    def __init__(self, run: RunFolder, environment: dict[str, str]) -> None:
        self.run = run
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.environ.update(environment, **commands.LOOPBACK)
            log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os._exit(agent(run))

    def started(self) -> list[psutil.Process]:
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]

    def wait(self) -> int:
        """Return the exit status; report what the executor reports."""
        _, waited = os.waitpid(self.pid, 0)
        status = os.waitstatus_to_exitcode(waited)
        error = commands.explain_death(self.run, status) if status else None
        if error and "error" not in self.run.progress():
            self.run.report({"error": error.as_dict()})
        return status


def agent(run: RunFolder) -> int:
    """Be torchrun, and return its exit status."""
    logging.getLogger("torch.distributed.elastic").handlers = [logging.StreamHandler(os.fdopen(2, "w"))]
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
        max_restarts=0,
        local_addr="127.0.0.1",
    )
    try:
        elastic_launch(settings, one_of_two)(str(run.path))
    except ChildFailedError:
        return 1
    return 0


def one_of_two(folder: str) -> None:
    """Be a process of a session; standard input is closed here, so that only a signal ends it."""
    ending.end_when_told = lambda: signal.signal(signal.SIGTERM, lambda *_: os._exit(ending.STOPPED))
    if "LORAD_TEST_STEP" in os.environ:
        watched_process.watch(os.environ)
    status = session.main(RunFolder(Path(folder)))
    if status:
        raise SystemExit(status)


def kill_and_resume(place: Path, number: int) -> dict[str, Any]:
    """Kill one process of a session at a moment that its number draws, run it again, and compare."""
    chance = random.Random(number)
    run, _ = order(place / "tiny", place / f"killed-{number}", **TWO)
    victim = chance.randrange(2)
    step, after = chance.randint(1, ROUNDS * STEPS_A_ROUND), chance.uniform(0, 0.1)
    status, left = kill(run, step=step, after=after, victim=victim)
    code = run.failure(status).code if status else ""
    again = Forked(run, {}).wait()
    assert again == 0, run.log.read_text()[-3000:]
    adapter = peft_io.read_adapter(run.candidate)
    resumed = next((line["round"] for line in run.reports() if "resumed_from" in line), 0)
    difference = far(peft_io.read_adapter(place / "unbroken" / "candidate"), adapter)
    shutil.rmtree(run.path)
    return {
        "process": victim,
        "step": step,
        "status": status,
        "named": not status or code == "process_died",
        "left_behind": left,
        "round": resumed,
        "difference": difference,
    }


def kill(run: RunFolder, *, step: int, after: float, victim: int) -> tuple[int, int]:
    """Run a session until some seconds behind a step, kill one of its processes; return its status and how many are left."""
    pipe = run.path / "pipe"
    os.mkfifo(pipe)
    child = Forked(run, {"LORAD_TEST_STEP": str(step), "LORAD_TEST_TELLS": str(pipe)})
    pipe.read_text(encoding="ascii")
    _, *processes = started = child.started()
    time.sleep(after)
    processes[victim].kill()
    status = child.wait()
    _, alive = psutil.wait_procs(started[1:], timeout=60)
    pipe.unlink()
    return status, len(alive)


def endings(room: Path) -> dict[str, Any]:
    """End sessions that train in three ways; count the processes that are left."""
    base, left = cached_base(), {}
    for how in ("cancelled", "daemon_gone", "torchrun_killed"):
        run, training = order(base, room / how, **TWO)
        pipe = run.path / "pipe"
        os.mkfifo(pipe)
        child = ChildSession(
            run,
            commands.several_processes(training, [str(run.path)], [watched_process.__file__]),
            nice=0,
            max_seconds=None,
            environment={"LORAD_TEST_STEP": "3", "LORAD_TEST_TELLS": str(pipe)},
        )
        pipe.read_text(encoding="ascii")
        started = [psutil.Process(child._process.pid), *child._below()]
        assert len(started) == 3
        if how == "cancelled":
            child.stop()
        elif how == "daemon_gone":
            assert child._process.stdin
            child._process.stdin.close()
        else:
            child._process.kill()
        _, alive = psutil.wait_procs(started, timeout=120)
        left[f"left_when_{how}"] = len(alive)
        child.stop()
    return left


# -- steps of SmolLM2


def speed(room: Path) -> dict[str, Any]:
    """Time steps by one process and by two."""
    del room
    home = Home(report.CACHE / "home")
    report.add_smollm2(home.root)
    load = os.getloadavg()[0]
    found: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for processes in (1, 2):
        found[processes] += steps_by(processes, home.base("smollm2"))
    (one, own), (two, share) = (
        [statistics.median(each) for each in zip(*found[processes], strict=True)] for processes in (1, 2)
    )
    return {
        "steps_a_second_one": round(1 / one, 4),
        "steps_a_second_two": round(1 / two, 4),
        "speed_of_two": round(one / two, 3),
        "processor_seconds_a_step_one": round(own, 4),
        "processor_seconds_a_step_two": round(share, 4),
        "speed_of_two_without_neighbours": round(own / share, 3),
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
    }


def steps_by(processes: int, base: Path) -> list[tuple[float, float]]:
    """Return of steps by so many processes the seconds, and the processor's seconds of the one that took most of them."""
    training = TrainingSettings(executor="torchrun", processes=processes)
    with tempfile.NamedTemporaryFile() as out:
        command = commands.several_processes(training, ["--steps", str(base), out.name], [__file__])
        subprocess.run(command, check=True, env=os.environ | {"LORAD_STEPS": str(SIZE["steps"])})
        seconds: list[tuple[float, float]] = json.loads(Path(out.name).read_text(encoding="utf-8"))
    return seconds


def run_steps(base: Path, out: Path) -> None:
    """Run optimizer steps as a process of a group, on a core of its own; the first process writes their seconds."""
    group = process_group.join()
    os.sched_setaffinity(0, {group.number})
    torch.set_num_threads(1)
    loaded = bases.load_base(base, torch.float32)
    loaded.model.requires_grad_(False)
    torch.manual_seed(0)
    model = peft_io.add_lora(loaded.model, 16, 32)
    facts = json.loads((report.BENCH.parent / "examples" / "campus_cs.json").read_text(encoding="utf-8"))
    task = find("chat")
    examples = [
        replace(
            tiny.facts(1)[0],
            input=[{"role": "user", "content": fact["instruction"]}],
            target=fact["response"],
        )
        for fact in facts
    ]
    rows = [task.encode(loaded.tokenizer, example) for example in examples]
    from accelerate import Accelerator  # noqa: PLC0415 - as the trainer does

    gradients = Gradients(task, model, Accelerator(cpu=True), general_weight=0, pack_tokens=1024, group=group)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
    model.train()
    seconds = []
    for step in range(int(os.environ["LORAD_STEPS"]) + 1):
        numbers = list(range(8 * step, 8 * step + 8))
        group.wait()
        began, worked = time.perf_counter(), time.process_time()
        gradients.add_up(StepBatch(numbers, [rows[number % len(rows)] for number in numbers], []))
        optimizer.step()
        optimizer.zero_grad()
        own = time.process_time() - worked
        each = group.total([own * (number == group.number) for number in range(group.size)])
        seconds.append((time.perf_counter() - began, max(each)))
    if group.is_first:
        out.write_text(json.dumps(seconds[1:]), encoding="utf-8")  # the first step warms up
    group.leave()


def draw(rounds: list[int]) -> None:
    plt = report.pyplot()
    figure, axes = plt.subplots(figsize=(8, 3.2))
    numbers = range(1, len(rounds) + 1)
    axes.bar(numbers, [ROUNDS] * len(rounds), color="#ccd4da", label="trained after the kill")
    axes.bar(numbers, rounds, color="#4477aa", label="kept by the checkpoint")
    axes.set_xlabel("kill of one of two processes")
    axes.set_ylabel("rounds")
    axes.set_xticks(list(numbers))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(report.RESULTS / "executors.png", dpi=120)


def run_arm(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="executors-") as room:
        return {"equality": equality, "kills": kills, "endings": endings, "speed": speed}[name](Path(room))


def main() -> None:
    found = report.arms(__file__, ARMS, run_arm, hurry=hurry)
    figures = {key: value for arm in found.values() for key, value in arm.items() if key != "rounds"}
    print(json.dumps(figures, indent=2))
    # `speed` says something on a machine with two free cores alone: the others do not wait for it
    if {*ARMS} - {*found} <= {"speed"} and "--quick" not in sys.argv:
        draw(found["kills"]["rounds"])
        report.save("executors", figures, [*(__doc__ or "").splitlines(), "", *NOTES])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--steps"]:
        run_steps(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
