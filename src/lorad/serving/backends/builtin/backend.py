"""The backend that lorad brings along: transformers' models in this process.

What lives here: which model a name means, in which form it is held, whose turn it is. What never does: making tokens
(``group``, ``solo``), proving what is loaded (``versions.loader``).
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch

from lorad.config import EngineSettings
from lorad.errors import RegistryError, TransientError
from lorad.models import hardware, merged_model, packed_linear
from lorad.models.adapter_stack import AdapterStack
from lorad.models.bases import Base
from lorad.serving.backends.builtin.fitness import fitness
from lorad.serving.backends.builtin.group import Answers, Group, Limits
from lorad.serving.backends.builtin.solo import Solo
from lorad.serving.backends.interface import Capabilities, Form, Generation, VersionFiles
from lorad.serving.backends.reading_pace import ReadingPace
from lorad.tasks import Generating, Predicting, Task
from lorad.versions import loader

SPARE = 1.25
"""A merged copy is made where so many times its memory is free."""


@dataclass(frozen=True, slots=True)
class _Merged:
    """A version's merged copy."""

    name: str
    model: Any


@dataclass(slots=True)
class _Track:
    """A track's base and what is loaded on it; tracks with the same base share one stack."""

    task: Task
    stack: AdapterStack
    base_name: str
    fitness: Capabilities
    pace: ReadingPace
    loaded: dict[str, VersionFiles] = field(default_factory=dict)
    merged: _Merged | None = None
    form: Form = field(default_factory=lambda: Form(kind="base"))
    """How the preferred version is held."""

    def model(self, name: str) -> Any:
        """Return the model that answers under a name."""
        merged = self.merged
        if merged is not None and merged.name == name:
            return merged.model
        return self.stack.model(None if name == self.base_name else name)


@dataclass(frozen=True, slots=True)
class _Turn:
    """The answers of one version in one form."""

    track: _Track
    name: str
    model: Any
    answers: Answers

    @property
    def is_current(self) -> bool:
        """Tell whether new answers of this version come here."""
        try:
            return self.track.model(self.name) is self.model
        except RegistryError:
            return False


class Builtin:
    """Continuous batching over any causal model of transformers whose attention is ordinary; others one at a time."""

    def __init__(self, settings: EngineSettings) -> None:
        self._strict = settings.strict_environment
        self._checks_calibration = settings.calibration_check
        self._merges = settings.merge_served
        self._limits = Limits(
            rows=settings.max_batch, prompt_tokens=settings.prefill_tokens, max_bytes=settings.max_cache_bytes
        )
        self._tracks: dict[str, _Track] = {}
        self._names: dict[str, _Track] = {}
        self._turns: deque[_Turn] = deque()
        self.cache_bytes = 0
        """As of the last step: what is counted changes under whoever counts it in another thread."""

    # -- versions

    def attach(self, track: str, task: Task, base: Base, name: str) -> None:
        """Take a track; its base answers under this name."""
        alike = [held for held in self._tracks.values() if held.stack.base is base]
        stack = alike[0].stack if alike else AdapterStack(base)
        if not isinstance(task, Generating):
            fit = Capabilities(batches=False, because=f"{task.name} answers with data")
        else:
            tried = (held.fitness for held in alike if isinstance(held.task, Generating))
            fit = next(tried, None) or fitness(base.model)
        self._tracks[track] = self._names[name] = _Track(
            task, stack, name, fit, ReadingPace(self._limits.prompt_tokens, time.perf_counter)
        )

    def capabilities(self, track: str) -> Capabilities:
        """Tell whether a track's answers share steps, and that it tells how likely their tokens are."""
        return replace(self._tracks[track].fitness, logprobs=True)

    def load(self, version: VersionFiles) -> list[str]:
        """Bring a version into memory and prove it; return what differs from the environment that it was made in."""
        held = self._tracks[version.track]
        differs = loader.load(
            held.task,
            held.stack,
            version.name,
            version.folder,
            version.base_folder,
            strict=self._strict,
            is_calibration_checked=self._checks_calibration,
        )
        held.loaded[version.name] = version
        self._names[version.name] = held
        return differs

    def prefer(self, name: str) -> Form:
        """Hold this version as a merged copy, if that may be and answers as the version does."""
        held = self._find(name)
        if held.merged is None or held.merged.name != name:
            held.form, made = self._merged(held, name)
            held.merged = _Merged(name, made) if made is not None else None
        return held.form

    def _merged(self, held: _Track, name: str) -> tuple[Form, Any]:
        if name == held.base_name or held.stack.base.head.is_whole:
            return Form(kind="base" if name == held.base_name else "whole"), None
        if not self._merges:
            return Form(kind="adapter", why_not_merged="engine.merge_served is off"), None
        base, adapter = held.stack.base.model, held.stack.read(name)
        added = merged_model.added_bytes(base, adapter)
        try:
            if why := merged_model.objection(base, adapter):
                return Form(kind="adapter", why_not_merged=why), None
            if why := _short_of_memory(base, added):
                return Form(kind="adapter", why_not_merged=why, may_pass=True), None
            with hardware.passing_errors(f"merging {name}"):
                made = merged_model.merged(base, adapter, held.stack.base.head)
            _prove(held, name, made)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong with the copy, the adapter serves
            may_pass = isinstance(error, TransientError | MemoryError)
            return Form(
                kind="adapter", why_not_merged=str(error) or type(error).__name__, may_pass=may_pass
            ), None
        return Form(kind="merged", added_bytes=added, is_packed=packed_linear.can_pack(base)), made

    def drop(self, name: str) -> None:
        """Forget a version; answers that it has begun are finished."""
        held = self._find(name)
        del self._names[name], held.loaded[name]
        held.stack.unload(name)
        if held.merged is not None and held.merged.name == name:
            held.merged = None

    def _find(self, name: str) -> _Track:
        try:
            return self._names[name]
        except KeyError:
            raise RegistryError(f"{name} is not in memory", code="not_loaded") from None

    # -- answering

    def submit(self, generation: Generation) -> None:
        """Accept an answer to be generated by what its name means now."""
        held = self._find(generation.name)
        model = held.model(generation.name)
        for turn in self._turns:
            if turn.model is model and turn.track is held:
                break
        else:
            made: Answers = (
                Group(model, self._limits, self._bytes, held.pace) if held.fitness.batches else Solo(model)
            )
            turn = _Turn(held, generation.name, model, made)
            self._turns.append(turn)
        turn.answers.submit(generation)

    @torch.inference_mode()
    def predict(self, name: str, rows: Sequence[Any]) -> list[Any]:
        """Answer rows of a task that answers with data, at once."""
        held = self._find(name)
        return cast("Predicting", held.task).predict(held.model(name), rows)

    def step(self) -> int | None:
        """Let the next version that has something to do take a step; return how many tokens that made."""
        try:
            return self._step()
        finally:
            self.cache_bytes = self._bytes()

    def _step(self) -> int | None:
        for turn in list(self._turns):
            if turn.answers.is_idle and not turn.is_current:
                self._turns.remove(turn)
        for _ in range(len(self._turns)):
            turn = self._turns[0]
            self._turns.rotate(-1)
            if not turn.answers.is_idle:
                return turn.answers.step()
        return None

    @property
    def active(self) -> int:
        """Count the answers that are being generated."""
        return sum(turn.answers.active for turn in list(self._turns))

    def close(self) -> None:
        """Let go of nothing: all of it is in this process."""

    def _bytes(self) -> int:
        return sum(turn.answers.bytes for turn in self._turns)


def _short_of_memory(base: Any, wanted: int) -> str | None:
    free = hardware.free_bytes(base.device.type)
    return f"it takes {wanted} bytes, and {free} are free" if wanted * SPARE > free else None


def _prove(held: _Track, name: str, made: Any) -> None:
    """Raise ``RegistryError`` where a merged copy answers otherwise than its version, or otherwise in a batch."""
    loader.prove_alike(held.task, made, held.stack.model(name), held.loaded[name].folder)
    if held.fitness.batches and not (tried := fitness(made)).batches:
        raise RegistryError(f"the merged copy cannot batch: {tried.because}", code="probes_failed")
