"""Whether a plan fits into memory, before anything is loaded: estimated, made smaller, or refused by name.

What lives here: the decision, which is pure, and looking at what it is made for (``room``, ``room_from_scratch``). What never
does: the arithmetic (``models.memory_needs``), memory that runs out all the same (``gradients``).

A plan of rank 0 trains a whole model, from scratch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lorad.config import Settings
from lorad.errors import TrainingError, TransientError
from lorad.models import bases, hardware, memory_needs, quantized, scratch
from lorad.models.memory_needs import Answering, MemoryNeeds, Pass, gigabytes
from lorad.models.scratch import Recipe
from lorad.records import Machine, ModelShape, Plan

FILLED = 0.9
"""Share of the free memory that a plan may fill. One that needs more is still tried where nothing smaller is left to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a session is planned into."""

    shape: ModelShape
    machine: Machine
    answering: Answering | None
    """What the server holds on the same device; ``None``: nothing."""
    processes: int = 1
    """Which train together in this memory: on CUDA each has a card of its own."""
    may_checkpoint: bool = True
    """Whether nobody has decided about ``training.gradient_checkpointing``."""
    may_quantize: bool = False
    """Whether the base could be held in 8 or 4 bits here: it is told, not done, for the server holds the same form."""


def room(base: Path, settings: Settings) -> Room:
    """Look at a stored base and this machine."""
    engine = settings.engine
    beside = Answering(
        rank=settings.training.max_rank,
        versions=engine.max_loaded_versions,
        cache_bytes=engine.max_cache_bytes,
        is_merged=engine.merge_served and hardware.machine(settings.training.device).device == "cuda",
    )
    found = _room(bases.shape(base), beside, settings)
    return replace(found, may_quantize=quantized.objection(found.machine.device) is None)


def room_from_scratch(recipe: Recipe, settings: Settings) -> Room:
    """Look at the model that a recipe makes, which need not be made yet, and this machine."""
    engine = settings.engine
    # decoders alone keep keys and values
    cache = engine.max_cache_bytes if recipe.architecture == "decoder" else 0
    return _room(
        scratch.shape(recipe), Answering(versions=engine.max_loaded_versions, cache_bytes=cache), settings
    )


def _room(shape: ModelShape, beside: Answering, settings: Settings) -> Room:
    """Return this machine as a session on such a model finds it, with the server beside it if that is on the same device."""
    training = settings.training
    machine = hardware.machine(training.device)
    return Room(
        shape=shape,
        machine=machine,
        answering=beside if hardware.machine(settings.engine.device).device == machine.device else None,
        processes=1 if machine.device == "cuda" else training.processes,
        may_checkpoint=training.gradient_checkpointing is None,
    )


def require_disk(room: Room, free: int) -> None:
    """Raise ``TransientError`` where a session that trains a whole model finds less than it writes on a disk."""
    needed = memory_needs.whole_disk(room.shape)
    if needed > free:
        raise TransientError(
            f"the disk is too full for a session on {room.shape.name}: its checkpoints and its candidate take "
            f"{gigabytes(needed)}, and {gigabytes(free)} are free; free some space, or lower registry.keep",
            code="disk",
        )


def fit(plan: Plan, room: Room) -> Plan:
    """Return the plan, or the first smaller one, that fits: fewer tokens in a pass, then gradient checkpointing.

    The gradient is the same; the plan's reasons tell the sum. Raise ``TrainingError`` (``does_not_fit``) with what would fit,
    where even the smallest takes more than there is; outside of a CUDA card what answers need not fit beside it.
    """
    limit = FILLED * room.machine.memory_bytes
    smallest = plan
    for smallest in _smaller(plan, room):
        needed = estimate(smallest, room)
        if needed.total <= limit:
            return _told(plan, smallest, needed)
    needed = estimate(smallest, room)
    if needed.total <= room.machine.memory_bytes:
        return _told(plan, smallest, needed)
    # a card's memory is all there is; a system lays aside what nobody asks for
    if room.machine.device != "cuda" and needed.total - needed.answering <= limit:
        beside = (
            f"memory is short: {gigabytes(room.machine.memory_bytes)} are free, so the system may swap out what answers; "
            "answers are slow while the session runs"
        )
        return _told(plan, replace(smallest, reasons=(*smallest.reasons, beside)), needed)
    raise TrainingError(
        f"a session on {room.shape.name} does not fit in memory: it needs {needed}, and "
        f"{gigabytes(room.machine.memory_bytes)} were free when this lorad started; {_what_would(smallest, room)}",
        code="does_not_fit",
        needed=needed.total,
        free=room.machine.memory_bytes,
    )


def estimate(plan: Plan, room: Room) -> MemoryNeeds:
    """Return what a plan's session takes."""
    step = Pass(
        tokens=plan.pack_tokens,
        is_checkpointed=plan.gradient_checkpointing,
        first_layer=plan.first_layer,
    )
    if not plan.rank:
        return memory_needs.whole_needs(room.shape, step, room.answering).times(room.processes)
    one = memory_needs.needs(
        room.shape,
        plan.dtype,
        plan.quantization,
        rank=plan.rank,
        parent_rank=plan.max_rank,
        step=step,
        answering=room.answering,
    )
    return one.times(room.processes)


def _smaller(plan: Plan, room: Room) -> Iterator[Plan]:
    """Yield the plan, and ever smaller ones, down to one row in a pass."""
    yield plan
    tokens = plan.pack_tokens
    while tokens > plan.max_length:
        tokens = max(plan.max_length, tokens // 2)
        yield replace(plan, pack_tokens=tokens)
    if room.may_checkpoint and not plan.gradient_checkpointing:
        yield replace(plan, pack_tokens=tokens, gradient_checkpointing=True)


def _told(plan: Plan, chosen: Plan, needed: MemoryNeeds) -> Plan:
    reasons = [*chosen.reasons]
    if chosen.pack_tokens < plan.pack_tokens:
        reasons.append(
            f"memory is short: a pass holds {chosen.pack_tokens} tokens instead of {plan.pack_tokens}, slower, the same gradient"
        )
    if chosen.gradient_checkpointing and not plan.gradient_checkpointing:
        reasons.append("memory is short: gradient checkpointing, slower by about a third")
    reasons.append(f"memory: {needed}")
    return replace(chosen, reasons=tuple(reasons))


def _what_would(plan: Plan, room: Room) -> str:
    """Say what would fit: a coarser base, shorter rows, or a smaller base."""
    free = room.machine.memory_bytes
    if not plan.rank:
        return _what_model_would(plan, room)
    kinds = memory_needs.KINDS[memory_needs.KINDS.index(plan.quantization) + 1 :] if room.may_quantize else ()
    for kind in kinds:
        needed = estimate(replace(plan, quantization=kind), room)
        if needed.total <= free:
            return f"with training.quantize set to {kind} it would need {gigabytes(needed.total)}"
    if length := _fitting_length(plan, room):
        return f"rows of at most {length} tokens would fit (max_length in planner.table)"
    return "free some memory and restart lorad, or use a smaller base model"


def _what_model_would(plan: Plan, room: Room) -> str:
    """Say which model from scratch would fit: of shorter sequences, of fewer layers, or a smaller one."""
    if length := _fitting_length(plan, room):
        return f"sequences of at most {length} tokens would fit (max_seq_len of the track's model)"
    shape = room.shape
    for layers in range(shape.layers - 1, 0, -1):
        linear = shape.linear * layers // shape.layers
        fewer = replace(
            shape, layers=layers, linear=linear, parameters=shape.parameters - shape.linear + linear
        )
        if estimate(plan, replace(room, shape=fewer)).total <= room.machine.memory_bytes:
            return f"{layers} layers instead of {shape.layers} would fit (num_layers of the track's model)"
    return (
        "free some memory and restart lorad, or give the track's model a smaller d_model, d_ff or vocab_size"
    )


def _fitting_length(plan: Plan, room: Room) -> int:
    """Return the longest row that would fit, halved again and again; 0 where none does."""
    length = plan.max_length // 2
    while length:
        if (
            estimate(replace(plan, pack_tokens=length, max_length=length), room).total
            <= room.machine.memory_bytes
        ):
            return length
        length //= 2
    return 0
