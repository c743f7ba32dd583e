"""How many bytes a base model, its adapter or a whole model, and a session take, and in which form a base fits into a machine.

What lives here: arithmetic over shapes. What never does: models, devices.
"""

from dataclasses import dataclass

from lorad.records import Machine, ModelShape

BYTES = {"float32": 4.0, "bfloat16": 2.0}
"""Of one number."""
#: Of one quantised weight. 4 bits: half a byte, a byte for the scale of each 64, and of 256 such scales one in 4 bytes (QLoRA,
#: section 3). 8 bits: the scale of a row is next to nothing.
QUANTIZED_BYTES = {"8bit": 1.0, "4bit": 0.5 + 1 / 64 + 4 / (64 * 256)}
KINDS = ("none", "8bit", "4bit")
"""The forms that ``auto`` chooses among, the most exact one first."""
COPIES = 2
"""Of the base: one answers while another is trained."""
FILLED = 0.8
"""Share of a device's memory that these may fill; the rest is for a step, for answers and for the system."""
LAYER_WIDTHS = 35
"""Inputs and outputs of a decoder layer's seven matrices, counted in hidden sizes, where the MLP is eight wide (Gemma): what is
taken where nobody has counted them."""
KEPT_BYTES = 1 << 28
"""Of what layers that do not learn say of rows, at most: of those that come again (``lower_layers``), and half as much of those that were
tested before (``lower_states``)."""
#: Bytes kept for the backward pass per token, layer and hidden unit: about 34 values of 2 bytes each
#: (Korthikanti et al. 2022, eq. 1 without attention scores), times 1.5 because adapters run in fp32.
ACTIVATION_BYTES = 100
#: Bytes of one logit with its gradient, in fp32. Counted for every token, though answers alone have any.
LOGIT_BYTES = 8
#: Bytes for each number that is trained: its gradient, AdamW's two moments, and the best weights so far, in fp32.
OPTIMIZER_BYTES = 16
#: Bytes on disk for each number of a model from scratch: a checkpoint holds the weights, both moments and the best weights so far.
CHECKPOINT_BYTES = 16
CHECKPOINTS = 3
"""Of a session on disk at once: two that are kept, and the one that is being written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeeds:
    """What lorad takes of a device's memory while a session trains, in bytes."""

    weights: int
    adapters: int
    optimizer: int
    activations: int
    answering: int
    """The server's share, where it computes on the same device."""

    @property
    def total(self) -> int:
        """Return all of it."""
        return self.weights + self.adapters + self.optimizer + self.activations + self.answering

    def times(self, processes: int) -> "MemoryNeeds":
        """Return what so many processes take that train together in the same memory; the server is there once."""
        return MemoryNeeds(
            weights=self.weights * processes,
            adapters=self.adapters * processes,
            optimizer=self.optimizer * processes,
            activations=self.activations * processes,
            answering=self.answering,
        )

    def __str__(self) -> str:
        parts = {name: getattr(self, name) for name in self.__slots__}
        return (
            " + ".join(f"{name} {gigabytes(size)}" for name, size in parts.items())
            + f" = {gigabytes(self.total)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What goes through a model at once while it trains."""

    tokens: int
    is_checkpointed: bool
    """Whether activations are computed again instead of kept."""
    first_layer: int = 0
    """The first layer that the gradient reaches; those before it keep nothing for it, but what they say of rows that come again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """What the server holds beside the base."""

    rank: int = 0
    """Of each version's adapter, at most."""
    versions: int = 0
    cache_bytes: int = 0
    """Keys and values of all answers, at most."""
    is_merged: bool = False
    """Whether what serves has a copy of the weights of its own in memory that can be had by nobody else."""


def gigabytes(size: float) -> str:
    """Return a size for people."""
    found = size / 1e9
    return f"{found:.2f} GB" if found < 1 else f"{found:.1f} GB"


def activation_bytes(shape: ModelShape, step: Pass) -> int:
    """Return what a pass keeps for its backward half; checkpointed, the input of each layer, and all of one layer."""
    one, layers = shape.hidden * ACTIVATION_BYTES, shape.layers - step.first_layer
    kept = layers * shape.hidden * round(BYTES["float32"]) + one if step.is_checkpointed else layers * one
    return step.tokens * (kept + shape.vocabulary * LOGIT_BYTES)


def needs(
    shape: ModelShape,
    dtype: str,
    quantization: str,
    *,
    rank: int,
    parent_rank: int,
    step: Pass,
    answering: Answering | None,
) -> MemoryNeeds:
    """Return what a session takes on the device that trains, and beside it the server (``None``: it computes elsewhere).

    A merged copy of what serves is not counted in a computer's memory, where it is made if there is room, and laid aside if need be.
    """
    weights, number = weight_bytes(shape, dtype, quantization), round(BYTES["float32"])
    fresh = adapter_parameters(shape, rank) * (shape.layers - step.first_layer) // shape.layers
    said = KEPT_BYTES * 3 // 2 if step.first_layer and not step.is_checkpointed else 0
    laid = adapter_parameters(shape, parent_rank) if quantization != "none" else 0
    served = 0
    if answering is not None:
        held = answering.versions * adapter_parameters(shape, answering.rank) * number
        copies = 2 if answering.is_merged and quantization == "none" else 1
        served = copies * weights + held + answering.cache_bytes
    return MemoryNeeds(
        weights=weights,
        adapters=(fresh + laid) * number,
        optimizer=fresh * OPTIMIZER_BYTES,
        activations=activation_bytes(shape, step) + said,
        answering=served,
    )


def whole_needs(shape: ModelShape, step: Pass, answering: Answering | None) -> MemoryNeeds:
    """Return what a session takes that trains all weights of a model from scratch, and beside it the server.

    All in float32. A version holds a whole model there, beside the random weights that stand for its base.
    """
    weights = weight_bytes(shape, "float32")
    served = 0 if answering is None else (1 + answering.versions) * weights + answering.cache_bytes
    return MemoryNeeds(
        weights=weights,
        adapters=0,
        optimizer=shape.parameters * OPTIMIZER_BYTES,
        activations=activation_bytes(shape, step),
        answering=served,
    )


def whole_disk(shape: ModelShape) -> int:
    """Return what such a session takes of the disk: its checkpoints, and the candidate."""
    return CHECKPOINTS * shape.parameters * CHECKPOINT_BYTES + weight_bytes(shape, "float32")


def weight_bytes(shape: ModelShape, dtype: str, quantization: str = "none") -> int:
    """Return what a base's weights take: its linear layers in their form, all else in ``dtype``."""
    plain = BYTES[dtype]
    linear = shape.linear if quantization != "none" else 0
    return round(linear * QUANTIZED_BYTES.get(quantization, plain) + (shape.parameters - linear) * plain)


def adapter_parameters(shape: ModelShape, rank: int) -> int:
    """Count the numbers of an adapter of this rank on all linear layers."""
    return rank * (shape.widths or shape.layers * LAYER_WIDTHS * shape.hidden)


def choose(
    wanted: str, shape: ModelShape, dtype: str, machine: Machine, objection: str | None
) -> tuple[str, str]:
    """Return in which form a base is held (``none``, ``8bit``, ``4bit``), and why, in a sentence's end.

    ``auto`` goes by all the memory that the device has, not by what is free now: what a version was judged in must be what it
    is served in, today and tomorrow. ``objection`` says why this machine cannot quantise.
    """
    if wanted != "auto":
        return wanted, f"training.quantize is {wanted}"
    limit = FILLED * machine.total_bytes
    both = {kind: COPIES * weight_bytes(shape, dtype, kind) for kind in KINDS}
    if not machine.total_bytes or both["none"] <= limit:
        return "none", f"two copies of {shape.name} in {dtype} fit in memory"
    too_much = (
        f"two copies of {shape.name} in {dtype} take {gigabytes(both['none'])}, more than {FILLED:.0%} of "
        f"{gigabytes(machine.total_bytes)}"
    )
    if objection:
        return "none", f"{too_much}, but {objection}"
    return next((kind for kind in KINDS[1:] if both[kind] <= limit), KINDS[-1]), too_much
