"""Lorad's versions and stores of documents in a Python program of one's own, without the daemon.

What lives here: ``load``, ``load_all`` and ``load_system``, which check all that the daemon checks before a version answers, and
``DocumentStore``. What never does: learning, sharing, changing anything in the home.

    from lorad.library import DocumentStore, load
    print(load(home="/var/lib/lorad").answer("Where is the library?"))

    model = load_model("v0.2")
    infer(model, model.tokenizer, "C1=CC=CC=C1", [51.02, 78.05], [0.3, 1.0]).match

    store = DocumentStore(embedder="/var/lib/lorad/models/base/minilm")
    store.add_documents([Path("manual.md"), "The mill stands by the river."])
    store.search("Where is the mill?")[0].chunk.text
    store.generate("Where is the mill?", load(home="/var/lib/lorad"), top_k=3).text
    store.save("manuals")
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from lorad.config import DocumentSettings, SplitMethod, SplitSettings, load_settings
from lorad.datasets import documents
from lorad.errors import ConfigError, ProtocolError, RegistryError
from lorad.home import find_home
from lorad.models import adapter_stack, bases, embedders, generation, hardware
from lorad.models.context import context_length
from lorad.models.embedders import Embedder
from lorad.models.heads import Head
from lorad.retrieval import document_store, passages
from lorad.retrieval.citations import Citation
from lorad.retrieval.document_store import How, Passage
from lorad.serving import systems
from lorad.serving.answers import (
    Classification,
    Classifications,
    MatchedSpectrum,
    SpectrumMatch,
    SystemAnswer,
    SystemMember,
)
from lorad.serving.engine import UNKNOWN_CONTEXT, answer_room
from lorad.serving.record_json import read
from lorad.serving.systems import Chain
from lorad.storage.documents import FILE as STORE_FILE
from lorad.storage.documents import Document, Filter
from lorad.tasks import Generating, Predicting, Task, find
from lorad.versions import loader
from lorad.versions.store import Registry

PARAMETER_BYTES = 4
"""Of a base in memory, in the widest precision that it may be held in."""

LONGEST_TITLE = 200
"""Characters of a text's first line, which is its title."""


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

    def room_for(self, max_tokens: int | None) -> int:
        """Return how many tokens a prompt may have before an answer of so many, or of an eighth of the context."""
        with self.model() as model:
            context = context_length(model.config) or UNKNOWN_CONTEXT
        return context - (max_tokens or context // 8)

    def prompt_tokens(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """Return how many tokens a conversation is."""
        if not isinstance(self._task, Generating):
            raise ProtocolError(f"{self.track} answers with data; use predict()", code="other_way")
        return len(self._task.prompt(self.tokenizer, list(messages)))

    def predict(self, inputs: Sequence[Any]) -> list[Any]:
        """Answer inputs of a task that answers with data; raise ``SampleError`` for one that is no input of it."""
        if not isinstance(self._task, Predicting):
            raise ProtocolError(f"{self.track} answers in text; use answer()", code="other_way")
        rows = [self._task.question(self.tokenizer, asked) for asked in inputs]
        with self.model() as model, torch.inference_mode():
            said = self._task.predict(model, rows)
        return [self._task.said(self.tokenizer, each) for each in said]


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


def load_model(
    version: str | None = None, *, track: str = "spectra", home: str | Path | None = None
) -> Loaded:
    """Load a version of a track of spectra, the latest by default, for ``infer``; as ``load`` does."""
    return load(track, version or "latest", home=home)


def infer(
    model: Loaded,
    tokenizer: Any,
    smiles: str,
    mzs: Sequence[float],
    intensities: Sequence[float],
    **beside: Any,
) -> SpectrumMatch:
    """Return how well a molecule matches a spectrum, and which peaks speak for it.

    ``beside`` may be ``precursor_mz``, ``charge`` and ``adduct``. The ``tokenizer`` is the model's own, whatever is given. Raise
    ``SampleError`` that names the field.
    """
    del tokenizer  # model and tokenizer are checked together, and one without the other answers nonsense
    asked = {"smiles": smiles, "mzs": list(mzs), "intensities": list(intensities), **beside}
    (said,) = model.predict([asked])
    return read(MatchedSpectrum, said).matches[0]


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


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer from documents."""

    text: str
    citations: tuple[Citation, ...]
    """The passages that it was asked with; none where none was relevant, and then no model was asked."""


class DocumentStore:
    """Documents that are divided, embedded, searched and asked; one program may have a store's folder open at a time."""

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        embedder: str | Path | Embedder | None = None,
        split: SplitSettings | SplitMethod | None = None,
        settings: DocumentSettings | None = None,
    ) -> None:
        """Open the store of a folder, made if it must be; without a folder it is in memory until ``save``.

        ``embedder`` is the folder of a base of kind encoder (``lorad base add minilm``); without one, documents are found by
        their words alone. Raise ``ConfigError`` where it names none.
        """
        if isinstance(embedder, str | Path):
            embedder = embedders.load_encoder(Path(embedder))
        if isinstance(split, str):
            split = SplitSettings(method=split)
        self._settings = settings or DocumentSettings()
        place = None if folder is None else Path(folder)
        self._store = document_store.DocumentStore(place, self._settings, split, embedder)

    @classmethod
    def load(cls, folder: str | Path, **options: Any) -> "DocumentStore":
        """Open a store that is there, with the options of a new one; raise ``ConfigError`` where there is none."""
        if not (Path(folder) / STORE_FILE).is_file():
            raise ConfigError(f"{folder} holds no store of documents", code="no_such_store")
        return cls(folder, **options)

    def save(self, folder: str | Path) -> None:
        """Copy the store into a folder that holds none yet; one with a folder of its own is always saved there."""
        self._store.copy_to(Path(folder))

    def close(self) -> None:
        """Close it."""
        self._store.close()

    def __enter__(self) -> Self:
        """Return the store, to be closed at the block's end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def add_documents(
        self,
        documents: Iterable[str | Path | Document],
        tell: Callable[[int], None] = lambda _: None,
    ) -> dict[str, int]:
        """Add texts, files, folders of files or ``Document`` records, and return how many were new, replacing, same or known.

        They can be found when this returns. ``tell`` is told how many documents and chunks are left, after each step. What a
        kill has left is done by the next call. A file of your own is read in this process. Raise ``SampleError`` for what
        cannot be read or stored.
        """
        found = self._store.add(itertools.chain.from_iterable(map(_as_documents, documents)), now=time.time())
        while self._store.step():
            tell(self._store.left())
        return {str(name): count for name, count in found.items()}

    def remove(self, *documents: int) -> int:
        """Remove documents by number; return how many there were."""
        return self._store.remove(documents)

    def search(
        self, query: str, k: int = 10, how: How | None = None, where: Filter | None = None
    ) -> list[Passage]:
        """Return the ``k`` passages nearest to a query, best first: by ``bm25``, ``embeddings`` or ``hybrid``."""
        return self._store.search(query, k, how, where)

    def generate(
        self, query: str, model: Loaded, top_k: int | None = None, max_tokens: int | None = None
    ) -> Generated:
        """Answer a question from the ``top_k`` nearest passages that are relevant, as far as the model's context has room."""
        found = self.search(query, top_k or self._settings.passages)
        messages = [{"role": "user", "content": query}]
        room = int(model.room_for(max_tokens) * self._settings.passage_share)
        chosen = passages.fitting(messages, passages.relevant(found), model.prompt_tokens, room)
        if not chosen:
            return Generated(self._settings.not_found_words, ())
        text = model.answer(passages.asked(messages, chosen), max_tokens)
        return Generated(text, passages.citations(chosen))

    @property
    def counts(self) -> dict[str, int]:
        """Return how many documents and chunks there are, and how many are not divided or embedded yet."""
        return self._store.tables.counts()

    def text(self, document: int) -> str | None:
        """Return a document's text, which the offsets of passages and citations slice."""
        return self._store.tables.text(document)


def _as_documents(given: str | Path | Document) -> Iterable[Document]:
    if isinstance(given, Path):
        return documents.read_folder(given) if given.is_dir() else documents.read_file(given)
    if isinstance(given, str):
        title = next(filter(None, (line.strip() for line in given.splitlines())), "")[:LONGEST_TITLE]
        return [Document(text=given, title=title)]
    return [given]


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
        parameters = bases.shape(self._home.base_of(track, self._settings.track(track).base)).parameters
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
        folder = self._home.base_of(track, chosen.base)
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
            base = bases.load_to_answer(folder, self._settings.engine.device, self._settings.training, head)
            self._stacks[folder, head] = adapter_stack.AdapterStack(base)
        return self._stacks[folder, head]
