"""From a drop's size, a model and a machine to a session's settings, with reasons.

What lives here: the table look-up, the memory estimate, the learning rate by model size. What never does:
reading files, loading models.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from annotated_types import Ge, Le

from lorad.config import (
    PlannerSettings,
    PretrainingSettings,
    RateRow,
    RehearsalSettings,
    Section,
    SizeRow,
    StoppingSettings,
    TrainingSettings,
)
from lorad.errors import ConfigError
from lorad.models import memory_needs
from lorad.models.memory_needs import Pass
from lorad.records import CHAT, LABELLED, Machine, ModelShape, Plan, ReplayMix, StoppingRule, as_json, restore

#: Share of the free memory that a session may count on; the rest is for answering and for surprises.
MEMORY_SHARE = 0.5

#: Steps that the warm-up of a model from scratch takes at most.
MOST_WARMUP = 500

#: The largest alpha that learns at the model's full rate. B moves by about the rate with every step in each of ``rank``
#: directions, so their sum, scaled by alpha / rank, moves by rate x alpha (the best rate hardly depends on the rank where
#: alpha is one for all: Schulman 2025, LoRA Without Regret). Measured: bench/LOG.md, 2026-11-28.
FULL_RATE_ALPHA = 32

LEAST_LAYERS = 12
"""A model of fewer layers learns in all of them: nobody has looked whether a few of its few are enough."""
#: Settings of a plan that a human may override with ``lorad retry --settings``.
OVERRIDABLE = ("rank", "alpha", "epochs", "batch", "accumulation", "max_length", "learning_rate", "seed")
STOPPING = tuple(
    field.name for field in fields(StoppingRule) if field.name != "min_rounds"
)  # that is `epochs`

_LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that a setting may be."""

    least: float
    most: float
    is_whole: bool

    def holds(self, value: Any) -> bool:
        """Tell whether a value is one of them; not a number is none, and neither are true and false."""
        is_number = isinstance(value, int if self.is_whole else int | float) and not isinstance(value, bool)
        return is_number and self.least <= value <= self.most

    def __str__(self) -> str:
        return f"a {'whole ' if self.is_whole else ''}number from {self.least:.10g} to {self.most:.10g}"


def _range(section: type[Section], name: str) -> Range:
    """Return what a setting may be where it is written in the settings."""
    field = section.model_fields[name]
    least = next(bound.ge for bound in field.metadata if isinstance(bound, Ge))
    most = next(bound.le for bound in field.metadata if isinstance(bound, Le))
    return Range(float(least), float(most), field.annotation is int)  # type: ignore[arg-type]


#: What a human may set of a plan is what ``config`` lets stand in the settings for the same.
RANGES = {
    **{name: _range(SizeRow, name) for name in OVERRIDABLE[:6]},
    "learning_rate": _range(RateRow, "learning_rate"),
    "seed": _range(TrainingSettings, "seed"),
    **{name: _range(StoppingSettings, name) for name in STOPPING},
}


def plan(
    *,
    lengths: Sequence[int],
    shape: ModelShape,
    machine: Machine,
    planner: PlannerSettings,
    rehearsal: RehearsalSettings,
    training: TrainingSettings,
    form: tuple[str, str] = ("none", ""),
    overrides: Mapping[str, Any] | None = None,
    drift: float = 0.0,
    formats: str = CHAT,
) -> Plan:
    """Decide a session's settings for examples of these token lengths.

    ``formats`` are those of the track's task: only a chat's questions have other wordings, and labels are not learned by heart.

    ``form`` is in which form the base is held (``none``, ``8bit``, ``4bit``), and why (``bases.quantization``).

    ``drift`` is how much of what general ability may lose the parent has lost already, 0 to 1 (``judge.drift``).
    """
    count = len(lengths)
    row = choose_row(planner.table, count)
    reasons = [_row_reason(row, planner.table, count)]
    learning_rate = _learning_rate(planner, shape, reasons)
    wordings, gapped = (planner.wordings, planner.gapped) if formats == CHAT else (0, 0)
    is_varied = wordings or gapped
    new_share = max(rehearsal.new_share, rehearsal.recalled_share) if is_varied else None
    if new_share is not None:
        reasons.append(
            f"up to {wordings} other wordings of a question and {gapped} texts with gaps take turns with "
            f"its own wording, so each round trains {new_share:.0%} of the recalled new examples again"
        )
    max_length = _max_length(row, lengths, shape, machine, reasons)
    recalled_share = rehearsal.recalled_share
    loraplus_ratio = planner.loraplus_ratio
    if formats in LABELLED:  # what is still wrong is mostly what people label differently
        recalled_share, loraplus_ratio = 1.0, 1.0
        reasons.append(
            "labels are not learned by heart: each round trains every new row, and B learns as fast as A (four times as fast a new "
            "head ends at one answer to everything)"
        )
    decided = Plan(
        examples=count,
        rank=row.rank,
        alpha=row.alpha,
        epochs=row.epochs,
        batch=row.batch,
        accumulation=row.accumulation,
        max_length=max_length,
        warmup_steps=int(min(planner.warmup_share * count, planner.warmup_max)),
        learning_rate=learning_rate,
        loraplus_ratio=loraplus_ratio,
        first_layer=_first_layer(planner, shape, formats, reasons),
        stopping=replace(planner.stopping.as_rule(), min_rounds=row.epochs),
        mix=ReplayMix(
            share=rehearsal.share,
            max_examples=rehearsal.max_examples,
            recalled_share=recalled_share,
            new_share=new_share,
            general=_general(rehearsal, drift, reasons),
            general_weight=rehearsal.general_weight,
            strategy=rehearsal.strategy,
            whitened_by=rehearsal.whitened_by if formats == CHAT else 0,
        ),
        max_rank=training.max_rank,
        seed=training.seed,
        dtype=_dtype(training, machine, reasons),
        quantization=_quantization(form, reasons),
        gradient_checkpointing=bool(training.gradient_checkpointing),
        pack_tokens=row.batch * max_length,
        wordings=wordings,
        gapped=gapped,
        reasons=tuple(reasons),
    )
    changed = _override(decided, overrides or {})
    return changed if "learning_rate" in (overrides or {}) else _steadied(changed)


def plan_pretraining(
    *,
    lengths: Sequence[int],
    context: int,
    machine: Machine,
    settings: PretrainingSettings,
    rehearsal: RehearsalSettings,
    training: TrainingSettings,
    is_first: bool,
    overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """Decide how a model from scratch learns documents of these lengths in tokens; it reads ``context`` tokens at once."""
    steps = math.ceil(sum(lengths) / (context * settings.batch)) * settings.epochs
    rate = settings.learning_rate if is_first else settings.continued_learning_rate
    stopping = StoppingRule(
        recall=1.0,
        max_rounds=settings.epochs,
        patience=settings.early_stopping_patience,
        min_delta=settings.early_stopping_min_delta,
    )
    decided = Plan(
        examples=len(lengths),
        rank=0,
        alpha=0,
        epochs=1,
        batch=settings.batch,
        accumulation=1,
        max_length=context,
        warmup_steps=min(MOST_WARMUP, math.ceil(settings.warmup_share * steps)),
        learning_rate=rate,
        stopping=stopping,
        mix=ReplayMix(
            share=rehearsal.share, max_examples=rehearsal.max_examples, recalled_share=0.0, general=0.0
        ),
        max_rank=training.max_rank,
        seed=training.seed,
        dtype="float32",
        gradient_checkpointing=bool(training.gradient_checkpointing),
        pack_tokens=settings.batch * context,
        reasons=(
            f"{len(lengths)} documents of about {sum(lengths)} tokens: every weight is trained in float32 on {machine.name}",
            f"at most {settings.epochs} epochs of {settings.batch} sequences of {context} tokens a step",
            f"the {'first' if is_first else 'next'} text of a model from scratch: learning rate {rate:g}",
        ),
    )
    return _override(decided, overrides or {})


def refit_plan(decided: Plan, planner: PlannerSettings, count: int) -> Plan:
    """Return the plan of a refit on ``count`` examples: a drop's rank is too small for everything that its track has learned.

    A rank that somebody set by hand stays.
    """
    own, row = choose_row(planner.table, decided.examples), choose_row(planner.table, count)
    rank = min(row.rank, decided.max_rank)
    if (decided.rank, decided.alpha) != (own.rank, own.alpha) or rank <= decided.rank:
        return decided
    rate = decided.learning_rate * _rate_share(row.alpha) / _rate_share(own.alpha)
    return replace(decided, rank=rank, alpha=row.alpha, learning_rate=rate)


def choose_row(table: Sequence[SizeRow], count: int) -> SizeRow:
    """Return the first row whose bound is above ``count``; the last row has none."""
    for row in table:
        if row.below is None or count < row.below:
            return row
    raise ConfigError(f"planner.table has no row for {count} examples; its last row must have no `below`")


def _row_reason(row: SizeRow, table: Sequence[SizeRow], count: int) -> str:
    lower = max((other.below for other in table if other.below and other.below <= count), default=1)
    size = f"{lower} to {row.below - 1}" if row.below else f"{lower} and more"
    return (
        f"{count} examples, so the row for {size}: rank {row.rank}, alpha {row.alpha}, {row.epochs} epochs or more, "
        f"batch {row.batch} x {row.accumulation}, length {row.max_length}"
    )


def _learning_rate(planner: PlannerSettings, shape: ModelShape, reasons: list[str]) -> float:
    for row in planner.learning_rates:
        if row.below_parameters is None or shape.parameters < row.below_parameters:
            reasons.append(
                f"{shape.name} has {shape.parameters / 1e6:.0f} million parameters: learning rate {row.learning_rate:g}"
            )
            return row.learning_rate
    raise ConfigError("planner.learning_rates must end with a row without `below_parameters`")


def _first_layer(planner: PlannerSettings, shape: ModelShape, formats: str, reasons: list[str]) -> int:
    """Return from which layer on the adapter learns: facts are learned as fast in the last ones alone, and a step is shorter."""
    if formats != CHAT or shape.layers < LEAST_LAYERS:
        return 0
    trained = math.ceil(planner.trained_layers * shape.layers)
    if trained < shape.layers:
        reasons.append(
            f"the adapter learns in the last {trained} of {shape.layers} layers (planner.trained_layers)"
        )
    return shape.layers - trained


def _rate_share(alpha: int) -> float:
    """Return the share of the model's rate at which an adapter of this alpha learns."""
    return min(1.0, FULL_RATE_ALPHA / alpha)


def _steadied(decided: Plan) -> Plan:
    """Lower the rate of a large adapter, which would move too far with every step."""
    if decided.alpha <= FULL_RATE_ALPHA:
        return decided
    rate = decided.learning_rate * _rate_share(decided.alpha)
    reason = (
        f"alpha {decided.alpha} moves an adapter further with every step: learning rate {rate:g} instead of "
        f"{decided.learning_rate:g}"
    )
    return replace(decided, learning_rate=rate, reasons=(*decided.reasons, reason))


def _max_length(
    row: SizeRow, lengths: Sequence[int], shape: ModelShape, machine: Machine, reasons: list[str]
) -> int:
    ordered = sorted(lengths)
    percentile = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] if ordered else 0
    usual = row.max_length
    if shape.positions:
        percentile, usual = min(percentile, shape.positions), min(usual, shape.positions)
        if ordered and ordered[-1] > shape.positions:
            reasons.append(f"{shape.name} reads {shape.positions} tokens: longer examples are left out")
    if percentile <= usual:
        return usual
    if _fits(percentile, shape, machine):  # one row: ``preflight`` divides a pass down to that
        reasons.append(
            f"1 % of the examples or more are longer than {row.max_length} tokens: length raised to {percentile}"
        )
        return percentile
    too_long = sum(length > row.max_length for length in lengths)
    reasons.append(
        f"{too_long} examples are longer than {row.max_length} tokens and memory allows no more: they are left out"
    )
    return row.max_length


def _general(rehearsal: RehearsalSettings, drift: float, reasons: list[str]) -> float:
    """Return the share of general conversation, in proportion between what is usual and the most that it may be."""
    usual = rehearsal.general_share
    share = round(usual + max(0.0, rehearsal.general_share_max - usual) * drift, 3) if usual else usual
    if share > usual:
        reasons.append(
            f"the parent has used {drift:.0%} of what general ability may lose: {share:.0%} of every step is "
            f"general conversation instead of {usual:.0%}"
        )
    return share


def _fits(tokens: int, shape: ModelShape, machine: Machine) -> bool:
    needed = memory_needs.activation_bytes(shape, Pass(tokens=tokens, is_checkpointed=False))
    return needed < MEMORY_SHARE * machine.memory_bytes


def _dtype(training: TrainingSettings, machine: Machine, reasons: list[str]) -> str:
    if training.dtype != "auto":
        return training.dtype
    if machine.fast_bfloat16:
        reasons.append(f"{machine.name}: base in bfloat16, adapters in float32")
        return "bfloat16"
    reasons.append(f"{machine.name} gains nothing from bfloat16: base in float32")
    return "float32"


def _quantization(form: tuple[str, str], reasons: list[str]) -> str:
    quantization, why = form
    if quantization != "none":
        reasons.append(f"base held in {quantization}, adapters beside it: {why}")
    return quantization


def check_changes(overrides: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` when a plan has no setting of such a name, or none that may be so."""
    known = (*OVERRIDABLE, *STOPPING)
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ConfigError(
            f"a plan has no setting {_shown(unknown[0])}; known: {', '.join(known)}", code="no_such_setting"
        )
    for name, value in overrides.items():
        if not RANGES[name].holds(value):
            raise ConfigError(
                f"{name} must be {RANGES[name]} (given: {_shown(value)})", code="bad_setting", param=name
            )


def _shown(value: Any) -> str:
    """Return a value as it is printed, in ASCII: it may be half of a character, or very long."""
    try:
        told = ascii(value)
    except (ValueError, RecursionError):  # a number of more digits than Python prints
        return f"a {type(value).__name__}"
    return told if len(told) <= _LONGEST_SHOWN else f"{told[:_LONGEST_SHOWN]}..."


def _override(decided: Plan, overrides: Mapping[str, Any]) -> Plan:
    check_changes(overrides)
    if not overrides:
        return decided
    stopping = {key: value for key, value in overrides.items() if key in STOPPING}
    direct = {key: value for key, value in overrides.items() if key in OVERRIDABLE}
    reason = "set by hand: " + ", ".join(f"{key} = {value}" for key, value in sorted(overrides.items()))
    changed = restore(Plan, as_json(decided) | direct | {"stopping": as_json(decided.stopping) | stopping})
    return replace(
        changed,
        pack_tokens=changed.batch * changed.max_length,
        stopping=replace(changed.stopping, min_rounds=changed.epochs),
        reasons=(*decided.reasons, reason),
    )
