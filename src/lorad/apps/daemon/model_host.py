"""The learning loop's view of models: plans with real token counts, and swaps versions in the engine.

What lives here: verifying what is loaded. What never does: answering (``serving.engine``), training.
"""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lorad.config import Settings
from lorad.errors import ConfigError, LoradError
from lorad.log import get_logger
from lorad.models import scratch, version_weights
from lorad.models.bases import Base, load_to_answer, quantization, shape, verify_base
from lorad.models.hardware import give_back_memory, machine
from lorad.models.heads import Head
from lorad.records import BASE, SCRATCH, Example, Plan
from lorad.serving.backends.interface import Form
from lorad.serving.engine import Engine
from lorad.storage import files
from lorad.tasks import encode, find
from lorad.tasks.pretraining import Pretraining
from lorad.track import Track
from lorad.training import planner, preflight
from lorad.versions.manifests import MANIFEST

log = get_logger()


def _at_once(act: Callable[[], Any]) -> Any:
    return act()


class ModelHost:
    """Every track's base model and the versions on it, held in one engine."""

    def __init__(
        self,
        settings: Settings,
        tracks: Mapping[str, Track],
        engine: Engine,
        beside: Callable[[Callable[[], Any]], Any] = _at_once,
    ) -> None:
        """``beside`` runs what computes long, waits for it and returns what it returns; answers go on meanwhile."""
        self._settings = settings
        self._tracks = tracks
        self._engine = engine
        self._beside = beside
        self._labels: dict[tuple[str, str], frozenset[str]] = {}
        """By track and version, those of the versions that were loaded."""

    def attach(self) -> None:
        """Load every track's base model, each once with each head that a task puts on it."""
        loaded: dict[tuple[Path, Head], Base] = {}
        for name, track in self._tracks.items():
            task = find(track.settings.task)
            place = track.base, task.head
            if track.settings.base == SCRATCH:
                self._require_scratch(track)
            if place not in loaded:
                if self._settings.engine.verify_base:
                    verify_base(track.base)
                loaded[place] = self._load(track.base, task.head)
            self._engine.attach(name, task, loaded[place])
            able = self._engine.capabilities(name)
            log.info("attached", track=name, batches=able.batches, because=able.because)

    def _load(self, folder: Path, head: Head) -> Base:
        base = load_to_answer(folder, self._settings.engine.device, self._settings.training, head)
        if base.is_quantized and self._engine.choice.name != "builtin":
            raise ConfigError(
                f"{folder.name} is trained in {base.quantization} ({base.why_quantized}), which {self._engine.choice.name} "
                "does not serve alike; set engine.backend to builtin, or training.quantize to none",
                code="backend_cannot_quantize",
            )
        if base.is_quantized:
            log.info(
                "quantized", base=folder.name, quantization=base.quantization, because=base.why_quantized
            )
        return base

    def check(self, track: Track, example: Example) -> Example:
        """Return an example as the track learns it; raise ``SampleError`` for one that its base could not give back."""
        return self._engine.task(track.name).check(self._engine.base(track.name).tokenizer, example)

    def labels(self, track: Track) -> frozenset[str]:
        """Return the labels that the version knows from which a track answers, as its datasets write them."""
        return self._labels.get((track.name, self._engine.serving(track.name)), frozenset())

    def plan(
        self, track: Track, examples: Sequence[Example], overrides: dict[str, Any], drift: float
    ) -> Plan:
        """Plan a session for these examples, on a parent that has drifted so far from its base.

        A model from scratch that has no version yet gets its tokenizer from them, and its first weights.
        """
        if track.settings.base == SCRATCH:
            return self._plan_pretraining(track, examples, overrides)
        tokenizer = self._engine.base(track.name).tokenizer
        usable, unusable = encode(self._engine.task(track.name), tokenizer, examples)
        if not usable and unusable:
            raise unusable[0][1]
        decided = planner.plan(
            lengths=[len(encoded) for _, encoded in usable],
            shape=shape(track.base),
            machine=machine(self._settings.training.device),
            planner=self._settings.planner,
            rehearsal=self._settings.rehearsal,
            training=self._settings.training,
            form=quantization(track.base, self._settings.training),
            overrides=overrides,
            drift=drift,
            formats=self._engine.task(track.name).formats,
        )
        return preflight.fit(decided, preflight.room(track.base, self._settings))

    def _plan_pretraining(self, track: Track, examples: Sequence[Example], overrides: dict[str, Any]) -> Plan:
        room = preflight.room_from_scratch(scratch.recipe_of(track.settings, self._settings), self._settings)

        def decide(lengths: Sequence[int]) -> Plan:
            decided = planner.plan_pretraining(
                lengths=lengths,
                context=track.settings.sizes.max_seq_len,
                machine=room.machine,
                settings=self._settings.pretraining,
                rehearsal=self._settings.rehearsal,
                training=self._settings.training,
                is_first=track.registry.latest is None,
                overrides=overrides,
            )
            return preflight.fit(decided, room)

        decide([0] * len(examples))  # refused before its weights are made, if at all
        preflight.require_disk(room, shutil.disk_usage(track.base.parent).free)
        if not track.registry.has_versions():
            self._begin_anew(track, examples)
        task, base = cast("Pretraining", self._engine.task(track.name)), self._engine.base(track.name)
        return decide(task.lengths(base.tokenizer, examples))

    def _begin_anew(self, track: Track, examples: Sequence[Example]) -> None:
        """Make the base of a model from scratch of its first text, unless it is made of it already."""
        recipe, ids = (
            scratch.recipe_of(track.settings, self._settings),
            sorted(example.id for example in examples),
        )
        if scratch.label(track.base).get("made_of") == recipe.digest(ids):
            return
        scratch.store(track.base, recipe, [str(example.target) for example in examples], ids)
        task = find(track.settings.task)
        base = self._load(track.base, task.head)
        self._engine.attach(track.name, task, base)
        log.info("tokenizer_trained", track=track.name, documents=len(ids), vocabulary=len(base.tokenizer))

    def _require_scratch(self, track: Track) -> None:
        """See that there is a base of the sizes that the settings say; without a version one that writes bytes will do.

        Raise ``ConfigError`` where its versions have other sizes.
        """
        recipe, made_of = scratch.recipe_of(track.settings, self._settings), scratch.label(track.base)
        is_same = (made_of.get("architecture"), made_of.get("sizes")) == (
            recipe.architecture,
            recipe.sizes.model_dump(),
        )
        if is_same:
            return
        if made_of and track.registry.has_versions():
            raise ConfigError(
                f"tracks.{track.name}.model has other sizes than the versions of {track.name} ({made_of['sizes']}); set these "
                "again, or give the new model a track of its own",
                code="other_sizes",
            )
        if not track.registry.has_versions():
            scratch.store(track.base, recipe)

    def fingerprint(self, track: Track) -> str:
        """Return the fingerprint of the track's base model."""
        return self._engine.base(track.name).fingerprint

    def damaged_bases(self) -> list[LoradError]:
        """Hash the base models' files anew; return one error for each base that is not what was added."""
        found: list[LoradError] = []
        for folder in dict.fromkeys(track.base for track in self._tracks.values()):
            try:
                verify_base(folder)
            except LoradError as error:
                found.append(error)
        return found

    def can_answer(self, track: str) -> bool:
        """Tell whether a track has learned something and its model is in memory."""
        return self._engine.serving(track) != BASE

    def ensure_loaded(self, track: Track, version: str) -> None:
        """Verify a version and bring it into memory."""
        if self._engine.resident(track.name, version):
            return
        folder = track.registry.verify(version, self.fingerprint(track))
        digest = files.file_digest(folder / MANIFEST)
        differs = self._beside(lambda: self._engine.load(track.name, version, folder, digest, track.base))
        labels = version_weights.read_labels(folder)
        is_tagging = find(track.settings.task).formats == "tagging"
        self._labels[track.name, version] = frozenset(
            re.sub("^[BI]-", "", label) if is_tagging else label for label in labels
        )
        if differs:
            log.warning("environment_differs", track=track.name, version=version, differs=differs)

    def serve_faster(self, track: Track) -> str:
        """Try again to hold what serves as a merged copy; return why not if that may pass, else an empty text."""
        version = self._engine.serving(track.name)
        form = self._prefer(track, version)
        if form.may_pass:
            return form.why_not_merged
        _log_form(track, version, form)
        return ""

    def serve(self, track: Track, version: str | None) -> str:
        """Verify a version, bring it into memory and answer from it; return why it is not merged if that may pass."""
        with self._engine.hold(track.name, version or BASE):
            if version is not None:
                self.ensure_loaded(track, version)
            form = self._prefer(track, version)
        _log_form(track, version or BASE, form)
        return form.why_not_merged if form.may_pass else ""

    def _prefer(self, track: Track, version: str | None) -> Form:
        def serve() -> Form:
            form = self._engine.serve(track.name, version)
            give_back_memory()  # of the copy before the last: the last one may still be answering
            return form

        form: Form = self._beside(serve)
        return form


def _log_form(track: Track, version: str, form: Form) -> None:
    log.info("serving", track=track.name, version=version, held_as=form.kind, added_bytes=form.added_bytes)
    if form.why_not_merged:
        log.warning("served_unmerged", track=track.name, version=version, why=form.why_not_merged)
