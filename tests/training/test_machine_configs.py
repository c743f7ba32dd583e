"""The settings that ship for a machine: each is loaded, and a session planned for that machine without it."""

from pathlib import Path

import pytest
from model_shapes import LLAMA_3B, LLAMA_8B, SMOLLM2

from lorad.config import load_settings
from lorad.home import Home
from lorad.models import memory_needs
from lorad.models.memory_needs import Answering
from lorad.records import Machine
from lorad.training import planner, preflight
from lorad.training.preflight import Room

CONFIGS = Path(__file__).parents[2] / "configs"
# name: base, device, GB in all, GB that are free when nothing else runs, the form of the base, whether all of it fits
MACHINES = {
    "apple-m4-16gb": (LLAMA_3B, "mps", 16, 11, "none", False),
    "cuda-24gb": (LLAMA_8B, "cuda", 25.3, 24.9, "4bit", True),
    "cuda-80gb": (LLAMA_8B, "cuda", 85, 84, "none", True),
    "cpu": (SMOLLM2, "cpu", 16, 12, "none", True),
}


@pytest.fixture
def home(tmp_path):
    (tmp_path / "configs").mkdir()
    return Home(tmp_path)


def test_there_is_one_for_each_machine():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} >= MACHINES.keys()


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("examples", [50, 106, 2000])
def test_a_session_is_planned_for_it_and_the_sum_is_told(home, name, examples):
    shape, device, total, free, form, fits = MACHINES[name]
    settings = load_settings(home, str(CONFIGS / f"{name}.yaml"))
    training, engine = settings.training, settings.engine
    machine = Machine(
        device=device,
        name=name,
        memory_bytes=round(free * 1e9),
        total_bytes=round(total * 1e9),
        threads=8,
        fast_bfloat16=True,
    )
    chosen = memory_needs.choose(training.quantize, shape, "bfloat16", machine, None)
    room = Room(
        shape=shape,
        machine=machine,
        answering=Answering(
            rank=training.max_rank, versions=engine.max_loaded_versions, cache_bytes=engine.max_cache_bytes
        ),
        may_checkpoint=training.gradient_checkpointing is None,
    )

    plan = preflight.fit(
        planner.plan(
            lengths=[300] * examples,
            shape=shape,
            machine=machine,
            planner=settings.planner,
            rehearsal=settings.rehearsal,
            training=training,
            form=chosen,
        ),
        room,
    )

    needed = preflight.estimate(plan, room)
    assert (training.device, engine.device) == (device, device)
    assert settings.track("chat").base == shape.name
    assert plan.quantization == form
    assert (needed.total <= machine.memory_bytes) is fits
    assert needed.total - needed.answering <= 0.9 * machine.memory_bytes
    assert plan.reasons[-1] == f"memory: {needed}"
    assert plan.effective_batch == 8
