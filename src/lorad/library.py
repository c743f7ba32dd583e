"""Lorad's versions in a Python program of one's own, without the daemon.

What lives here: ``load``, ``load_all`` and ``load_system``, which check all that the daemon checks before a version answers. What
never does: learning, sharing, changing anything in the home.

    from lorad.library import load
    print(load(home="/var/lib/lorad").answer("Where is the library?"))
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorad.config import load_settings
from lorad.errors import ProtocolError, RegistryError
from lorad.home import find_home
from lorad.models import adapter_stack, bases, generation, hardware
from lorad.models.heads import Head
from lorad.serving import systems
from lorad.serving.answers import Classification, Classifications, SystemAnswer, SystemMember
from lorad.serving.engine import answer_room, context_length
from lorad.serving.record_json import read
from lorad.serving.systems import Chain
from lorad.tasks import Generating, Predicting, Task, find
from lorad.versions import loader
from lorad.versions.store import Registry

PARAMETER_BYTES = 4
"""Of a base in memory, in the widest precision that it may be held in."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that has proven itself, in this process's memory; for one thread at a time."""

    track: str
    version: str
    differs: tuple[str, ...]
    """What is otherwise here than where it was made, one sentence each."""
    _slot: str
    _stack: adapter_stack.AdapterStack
    _task: Task

    @property
    def tokenizer(self) -> Any:
        """The base model's tokenizer."""
        return self._stack.base.tokenizer

    @contextmanager
    def model(self) -> Iterator[Any]:
        """Lend the model with this version laid over it; another one's may be the same object with other weights."""
        with self._stack.use(self._slot) as model:
            yield model

    def answer(self, question: str | Sequence[Mapping[str, Any]], max_tokens: int | None = None) -> str:
        """Answer a question, or the last of these messages, greedily; without ``max_tokens`` as long as the context is.

        Raise ``ProtocolError`` when the context has no room for that.
        """
        asked = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
        if not isinstance(self._task, Generating):
            raise ProtocolError(f"{self.track} answers with data; use predict()", code="other_way")
        prompt = self._task.prompt(self.tokenizer, asked)
        with self.model() as model:
            room = answer_room(len(prompt), context_length(model.config), max_tokens)
            (tokens,) = generation.greedy(model, [prompt], self._task.stop_tokens(self.tokenizer), room)
        return self._task.text(self.tokenizer, tokens)

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """Answer inputs of a task that answers with data; raise ``SampleError`` for one that is no input of it."""
        if not isinstance(self._task, Predicting):
            raise ProtocolError(f"{self.track} answers in text; use answer()", code="other_way")
        rows = [self._task.question(self.tokenizer, asked) for asked in inputs]
        with self.model() as model, torch.inference_mode():
            return self._task.predict(model, rows)


def load(
    track: str = "chat",
    version: str = "latest",
    *,
    home: str | Path | None = None,
    config: str | None = None,
    strict: bool | None = None,
) -> Loaded:
    """Load a version (also ``previous`` or a tag) of a track, after every check that the daemon makes.

    ``strict`` refuses another environment than the version was made in; without it ``engine.strict_environment`` decides. Raise
    ``ConfigError`` when there is no such track, ``RegistryError`` when there is no such version or it is not what was
    promoted (``is_damage``).
    """
    return _Library(home, config, strict).load(track, version)


def load_all(
    *, home: str | Path | None = None, config: str | None = None, strict: bool | None = None
) -> dict[str, Loaded]:
    """Load ``latest`` of every track that has one; tracks with one base share it in memory."""
    library = _Library(home, config, strict)
    return {track: library.load(track, "latest") for track in library.learned()}


@dataclass(frozen=True, slots=True)
class LoadedSystem:
    """A system whose members have proven themselves, in this process's memory; for one thread at a time."""

    name: str
    members: Mapping[str, Loaded]
    """By role, in the order of the chain."""
    damaged: tuple[str, ...]
    """The versions that were refused and that others stand in for: one sentence each, with role and track."""
    _chain: Chain

    def answer(self, texts: Sequence[str]) -> SystemAnswer:
        """Return what each step says of each text; raise ``SampleError`` for one that cannot be asked."""
        by_track = {member.track: member for member in self.members.values()}

        def classify(track: str, asked: Sequence[str]) -> Classifications:
            loaded = by_track[track]
            said = tuple(read(Classification, each) for each in loaded.predict(asked))
            return Classifications(model=f"{track}@{loaded.version}", classifications=said)

        def describe(role: str, track: str, variant: str) -> SystemMember:
            return SystemMember(role=role, track=track, variant=variant, version=by_track[track].version)

        return self._chain.run(texts, classify, describe)


def load_system(
    name: str,
    variant: str | None = None,
    *,
    home: str | Path | None = None,
    config: str | None = None,
    strict: bool | None = None,
) -> LoadedSystem:
    """Load the members of a system, all with every check; a damaged one's newest intact version stands in for it.

    Of variants the one that is named here or in the settings is loaded, else the largest that fits in memory. Raise
    ``ConfigError`` when there is no such system, ``RegistryError`` when a member has no intact version.
    """
    return _Library(home, config, strict).load_system(name, variant)


class _Library:
    def __init__(self, home: str | Path | None, config: str | None, strict: bool | None) -> None:
        self._home = find_home(None if home is None else str(home))
        self._settings = load_settings(self._home, config, ())
        self._strict = self._settings.engine.strict_environment if strict is None else strict
        self._stacks: dict[tuple[Path, Head], adapter_stack.AdapterStack] = {}

    def learned(self) -> list[str]:
        return [track for track in self._settings.tracks if Registry(self._home.track(track)).latest]

    def load_system(self, name: str, variant: str | None) -> LoadedSystem:
        settings = self._settings.system(name)
        chain = Chain(name, settings, systems.choose(settings, variant, self._fits))
        members: dict[str, Loaded] = {}
        damaged: list[str] = []
        for role, (_, track) in chain.tracks.items():
            members[role], refused = self._newest_intact(track)
            damaged += (f"{role} ({track}): {error.message}" for error in refused)
        return LoadedSystem(name, members, tuple(damaged), chain)

    def _fits(self, track: str) -> bool:
        """Tell whether a track has learned something, and the memory that is free holds its base."""
        if not Registry(self._home.track(track)).latest:
            return False
        parameters = bases.shape(self._home.base(self._settings.track(track).base)).parameters
        device = hardware.machine(self._settings.engine.device).device
        return parameters * PARAMETER_BYTES <= hardware.free_bytes(device)

    def _newest_intact(self, track: str) -> tuple[Loaded, list[RegistryError]]:
        """Load ``latest`` or the newest version before it that is intact; return why newer ones are not."""
        registry, refused = Registry(self._home.track(track)), list[RegistryError]()
        for version in registry.lineage(registry.resolve("latest")):
            try:
                return self.load(track, version), refused
            except RegistryError as error:
                if not error.is_damage and error.code != "no_such_version":
                    raise
                refused.append(error)
        raise refused[0]

    def load(self, track: str, version: str) -> Loaded:
        chosen = self._settings.track(track)
        registry = Registry(self._home.track(track))
        name = registry.resolve(version)
        folder = self._home.base(chosen.base)
        task = find(chosen.task)
        stack = self._stack(folder, task.head)
        proven = registry.verify(name, stack.base.fingerprint)
        slot = f"{track}-{name}"
        is_checked = self._settings.engine.calibration_check
        differs = loader.load(
            task, stack, slot, proven, folder, strict=self._strict, is_calibration_checked=is_checked
        )
        return Loaded(track, name, tuple(differs), slot, stack, task)

    def _stack(self, folder: Path, head: Head) -> adapter_stack.AdapterStack:
        if (folder, head) not in self._stacks:
            bases.verify_base(folder)
            base = bases.load_to_answer(
                folder, self._settings.engine.device, self._settings.training.dtype, head
            )
            self._stacks[folder, head] = adapter_stack.AdapterStack(base)
        return self._stacks[folder, head]
