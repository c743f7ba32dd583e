"""What the socket asks of the running daemon (``serving.http.daemon.Daemon``).

What lives here: finding what a name means, waiting for the turn between two steps, telling the outcome. What never
does: the orders themselves (``commands``), HTTP.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from lorad.apps.daemon import forgetting
from lorad.apps.daemon.commands import Commands
from lorad.apps.daemon.document_tracks import Asking, DocumentTracks
from lorad.apps.daemon.model_host import ModelHost
from lorad.apps.daemon.snapshot import Snapshot
from lorad.apps.daemon.turn import Turn
from lorad.config import SystemSettings
from lorad.errors import ProtocolError, SampleError
from lorad.models import bases
from lorad.models.context import context_length
from lorad.records import BASE, CHAT, CLASSIFICATION, FILLING, RETRIEVAL, SPANS, Job, digest
from lorad.retrieval.answering import Reply
from lorad.retrieval.document_store import How
from lorad.retrieval.passages import Messages
from lorad.serving import queries, systems
from lorad.serving.answers import (
    Classification,
    Classifications,
    DocumentList,
    DocumentWithText,
    Forgotten,
    ModelDescription,
    Pause,
    Pinned,
    Pruned,
    RemovedDocuments,
    ResumedJob,
    Roles,
    SearchResults,
    Status,
    SystemAnswer,
    SystemMember,
    Tagged,
    VersionPapers,
    Versions,
)
from lorad.serving.completions import Model
from lorad.serving.engine import UNKNOWN_CONTEXT, Engine
from lorad.serving.guiding import Grammars, GuidedSampling
from lorad.serving.queries import Archive
from lorad.serving.record_json import fields_of, read
from lorad.serving.requests import GenerationRequest, PredictionRequest, Sampling
from lorad.serving.retrieval import Embedding, LookUp, Retrieving, is_looked_up, nothing
from lorad.serving.systems import Chain
from lorad.states import VersionState
from lorad.storage.documents import Filter
from lorad.tasks import Generating, Predicting
from lorad.track import Track

T = TypeVar("T")

EMBEDDED_AT_ONCE = 16
"""Texts between which answers may take their turn."""
SMALL = 1e9
"""Parameters of a base below which it is not asked to copy from passages; see ``documents.answer``."""
SHOWN = 3
"""Examples that are shown before they are forgotten."""


class Api:
    """Answers what people ask over the socket."""

    def __init__(
        self,
        *,
        tracks: Mapping[str, Track],
        commands: Commands,
        models: ModelHost,
        engine: Engine,
        retrieving: Retrieving | None,
        archive: Archive,
        snapshot: Snapshot,
        documents: DocumentTracks,
        turn: Turn,
        started_at: float,
        is_ready: Callable[[], bool],
        chains: Mapping[str, SystemSettings] | None = None,
    ) -> None:
        self.archive = archive
        self.is_ready = is_ready
        self._tracks = tracks
        self._commands = commands
        self._models = models
        self._engine = engine
        self._retrieving = retrieving
        self._snapshot = snapshot
        self._documents = documents
        self._turn = turn
        self._started_at = started_at
        self._systems = chains or {}
        self._grammars: dict[str, Grammars] = {}
        self._making_grammars = threading.Lock()

    # -- asking

    def require_room(self, answers: int) -> None:
        """Raise ``ProtocolError`` (503) where so many more answers find no place: who is sent away must cost no work."""
        self._engine.require_room(answers)

    def ask(
        self,
        model: str,
        messages: list[dict[str, Any]],
        sampling: Sampling,
        *,
        retrieve: bool | str,
        schema: Mapping[str, Any] | None = None,
        must_call: Sequence[Mapping[str, Any]] = (),
    ) -> tuple[GenerationRequest, str]:
        """Accept a question for ``track`` or ``track@latest|previous|vN|TAG|base``.

        The example that it asks for is looked up first, if ``retrieve`` and the conversation allow it; not if the answer
        must follow a schema or call one of some functions, for a taught or quoted answer does neither. Passages of documents
        are looked up if ``retrieve`` names their track, or the track that is asked has one by default.
        """
        is_free = schema is None and not must_call
        with self._named(model) as (track, version):
            look_up = self._look_up(track) if retrieve and is_free and is_looked_up(messages) else nothing
            if documents := self._documents_of(track, retrieve):
                look_up = partial(
                    self._look_up_passages,
                    track,
                    documents,
                    look_up,
                    sampling,
                    isinstance(retrieve, str),
                    is_free,
                )
            guided = None if is_free else partial(self._guided, track, schema, must_call)
            request = self._engine.submit(track, messages, sampling, version, look_up, guided)
        return request, self._engine.fingerprint(track, request.version)

    def _guided(
        self,
        track: str,
        schema: Mapping[str, Any] | None,
        must_call: Sequence[Mapping[str, Any]],
        sampling: Sampling,
    ) -> Sampling:
        if must_call and not self._engine.capabilities(track).calls:
            raise ProtocolError(
                f'the backend that answers for {track} cannot make a model call a tool; send tool_choice "auto", or set '
                "engine.backend to builtin",
                code="unsupported_parameter",
                param="tool_choice",
            )
        task, tokenizer = cast("Generating", self._engine.task(track)), self._engine.base(track).tokenizer
        with self._making_grammars:  # of one base once, however many ask together
            if track not in self._grammars:
                self._grammars[track] = Grammars(tokenizer, task.stop_tokens(tokenizer))
        made = self._grammars[track]
        grammar = (
            made.grammar(schema) if schema is not None else made.call(task.call_form(tokenizer), must_call)
        )
        return GuidedSampling(**fields_of(sampling), grammar=grammar)

    def complete(
        self, prompt: str | list[int], model: str, sampling: Sampling
    ) -> tuple[GenerationRequest, str]:
        """Accept a text, or its tokens, to be continued as it stands; the model is named as ``ask`` has it."""
        with self._named(model) as (track, version), _about_prompt():
            task = self._engine.task(track)
            # of chat, and of plain text: what another task generates is not its input's next words
            if not isinstance(task, Generating) or task.formats not in {CHAT, RETRIEVAL}:
                told = f"{track} learns {task.name}, and continues no texts; ask a track of chat or of plain text"
                raise ProtocolError(told, code="other_way")
            request = self._engine.submit(track, prompt, sampling, version)
        return request, self._engine.fingerprint(track, request.version)

    def _look_up(self, track: str) -> LookUp:
        retrieving = self._retrieving
        if retrieving is None or self._engine.task(track).formats != CHAT:
            return nothing
        return partial(retrieving.reply, track)

    def _documents_of(self, track: str, retrieve: bool | str) -> str | None:
        """Return the track of documents that a question is looked up in."""
        if isinstance(retrieve, str):
            self._documents.require(retrieve)
            return retrieve
        if not retrieve or track not in self._tracks:
            return None
        return self._tracks[track].settings.retrieve

    def _look_up_passages(
        self,
        track: str,
        documents: str,
        facts: LookUp,
        sampling: Sampling,
        is_named: bool,
        is_free: bool,
        version: str,
        messages: Sequence[Mapping[str, Any]],
    ) -> Reply | None:
        """Return how a version is to answer a conversation: from what it has learned, or behind passages."""
        known = facts(version, messages)
        if messages[-1]["role"] != "user" or self._engine.task(track).formats != CHAT:
            return known
        base, task = self._engine.base(track), cast("Generating", self._engine.task(track))

        def measure(asked: Messages) -> int:
            return len(task.prompt(base.tokenizer, list(asked)))

        try:
            own = measure(messages)
        except SampleError:  # the template refuses the conversation, and the engine says so
            return known
        context = context_length(base.model.config) or UNKNOWN_CONTEXT
        share = int(context * self._documents.passage_share)
        room = min(context - (sampling.max_tokens or context // 8), own + share)
        asking = Asking(
            messages=messages,
            measure=measure,
            room=room,
            is_named=is_named,
            may_quote=is_free,
            is_small=base.parameters < SMALL,
        )
        return self._documents.reply(documents, asking, known)

    def predict(
        self, model: str, inputs: Sequence[Any], formats: str | None = None
    ) -> tuple[PredictionRequest, str]:
        """Accept inputs for a track whose task answers with data, named as ``ask`` has it.

        Raise ``ProtocolError`` where its task takes other ``formats`` than those asked for.
        """
        with self._named(model) as (track, version):
            task = self._engine.task(track)
            if formats not in (None, task.formats):
                way = "/lorad/predict" if isinstance(task, Predicting) else "/v1/chat/completions"
                told = f"{track} learns {task.name}; ask it with: POST {way}"
                raise ProtocolError(told, code="other_way")
            request = self._engine.predict(track, inputs, version)
        return request, self._engine.fingerprint(track, request.version)

    def classify(self, model: str, texts: Sequence[str]) -> tuple[PredictionRequest, str]:
        """Accept texts for a track that learns their labels, named as ``ask`` has it."""
        task = self._engine.task(model.partition("@")[0])
        if task.name != CLASSIFICATION:
            told = f"{model} learns {task.name}, and not the labels of texts; ask a track with task: {CLASSIFICATION}"
            raise ProtocolError(told, code="other_way")
        return self.predict(model, texts)

    def fill(self, model: str, texts: Sequence[str], top_k: int) -> tuple[PredictionRequest, str]:
        """Accept texts with gaps for a track that learned to fill them, named as ``ask`` has it."""
        task = self._engine.task(model.partition("@")[0])
        if task.name not in (FILLING, SPANS):
            told = f"{model} learns {task.name}, and fills no gaps; ask one that learns hidden words (lorad --config scratch run)"
            raise ProtocolError(told, code="other_way")
        return self.predict(model, [{"text": text, "top_k": top_k} for text in texts])

    def system(self, name: str, variant: str | None) -> Chain:
        """Return a system's chain with the variants that answer; raise ``ProtocolError`` where there is none of the name."""
        if name not in self._systems:
            known = ", ".join(self._systems) or "none; see systems in configs/default.yaml"
            raise ProtocolError(
                f"there is no system {name!r}; known: {known}", status=404, code="no_such_system"
            )
        settings = self._systems[name]
        return Chain(name, settings, systems.choose(settings, variant, self._models.can_answer))

    def ask_system(self, chain: Chain, texts: Sequence[str]) -> SystemAnswer:
        """Run a system's chain, each step at the end of the queue as any other request, and wait for it."""

        def ask(track: str, asked: Sequence[str]) -> Classifications:
            request, fingerprint = self.classify(track, asked)
            said = tuple(read(Classification, each) for each in request.answer())
            model = f"{track}@{request.version}"
            return Classifications(model=model, system_fingerprint=fingerprint, classifications=said)

        return chain.run(texts, ask, self._member)

    def _member(self, role: str, track: str, variant: str) -> SystemMember:
        return SystemMember(
            role=role,
            track=track,
            variant=variant,
            version=self._engine.serving(track),
            corrupt=tuple(self._track(track).registry.corrupt_since(self._engine.serving(track))),
        )

    def embed(self, model: str, texts: Sequence[str]) -> tuple[str, NDArray[np.float32], int]:
        """Return the embedder's name, the texts' vectors, [N, D], and how many tokens it has read.

        ``model`` names it, or a track that it serves.
        The texts go through it in parts: where it is a track's own base, answers take their turn between them.
        """
        track = self._tracks.get(model.partition("@")[0])
        if track is not None and track.settings.task == FILLING:
            return self._embed_by_version(model, texts)
        embedder = self._embedder(model)
        parts = (texts[at : at + EMBEDDED_AT_ONCE] for at in range(0, len(texts), EMBEDDED_AT_ONCE))
        rows = np.concatenate([embedder.embed(part) for part in parts])
        return embedder.name, rows, embedder.count_tokens(texts)

    def _embed_by_version(self, model: str, texts: Sequence[str]) -> tuple[str, NDArray[np.float32], int]:
        """Return vectors by a version of an encoder from scratch; its answers take their turn between the parts."""
        rows, tokens, answered = [], 0, model
        for at in range(0, len(texts), EMBEDDED_AT_ONCE):
            asked = [{"embed": text} for text in texts[at : at + EMBEDDED_AT_ONCE]]
            request, _ = self.predict(answered, asked)
            answered = f"{request.track}@{request.version}"  # all of them by the same version
            rows += request.answer()
            tokens += sum(map(len, request.rows))
        return answered, np.array(rows, dtype=np.float32), tokens

    def _embedder(self, model: str) -> Embedding:
        if self._retrieving is None:
            told = "no embedder is loaded: answering.retrieve is off; switch it on in configs/default.yaml"
            raise ProtocolError(told, status=409, code="no_embedder")
        by_track = self._retrieving.embedders
        by_name = {embedder.name: embedder for embedder in by_track.values()}
        found = by_track.get(model.partition("@")[0]) or by_name.get(model)
        if found is None:
            known = ", ".join([*by_track, *by_name]) or "none, see the log"
            raise ProtocolError(
                f"there is no embedder {model!r}; known: {known}", status=404, code="model_not_found"
            )
        return found

    @contextlib.contextmanager
    def _named(self, model: str) -> Iterator[tuple[str, str | None]]:
        """Yield the track and the version that a model's name means, ``None`` for the one that serves.

        A version that is named is in memory, and stays there for the time of the block.
        """
        track, named, wanted = model.partition("@")
        version = self._resolve(track, wanted) if named else None
        if version is None:
            yield track, None
            return
        self._engine.require_room()  # loading costs seconds: not for who is sent away
        with self._engine.hold(track, version):
            if version != BASE:
                self._models.ensure_loaded(self._track(track), version)
            yield track, version

    def _resolve(self, name: str, wanted: str) -> str | None:
        track = self._track(name)
        if not wanted:
            raise ProtocolError(
                f"there is no model '{name}@'; name a version after the @, or leave the @ out",
                status=404,
                code="model_not_found",
            )
        if wanted == "latest":
            return None
        if wanted == BASE:
            return BASE
        if wanted == "previous" and track.registry.previous is None:
            raise ProtocolError(f"{name} has no previous version yet", status=404, code="model_not_found")
        return track.registry.resolve(wanted)

    def models(self) -> tuple[Model, ...]:
        """Return what ``/v1/models`` lists: every track and each of its versions."""
        names = [*self._tracks]
        for name, track in self._tracks.items():
            entries = track.registry.tracker.read()["checkpoints"]
            intact = [entry["version"] for entry in entries if entry.get("state") == VersionState.INTACT]
            names += [f"{name}@{version}" for version in (BASE, *intact)]
        created = int(self._started_at)
        return tuple(Model(id=name, created=created) for name in names)

    def describe(self, model: str) -> ModelDescription:
        """Return what answers under a model's name; nothing is loaded for it.

        Its digest comes from what is stored, so that it is the same before a version is loaded and after.
        """
        name, _, wanted = model.partition("@")
        track = self._track(name)
        serves = wanted in ("", "latest")
        version = (
            self._engine.serving(name)
            if serves
            else track.registry.resolve(wanted)
            if wanted != BASE
            else BASE
        )
        base, task = self._engine.base(name), self._engine.task(name)
        config = base.model.config.get_text_config()
        made_of = bases.shape(track.base)
        trials = task.trials(base.tokenizer)
        stored = "" if version == BASE else digest(track.registry.manifest(version))
        return ModelDescription(
            track=name,
            version=version,
            digest=hashlib.sha256(f"{base.fingerprint} {name}@{version} {stored}".encode()).hexdigest(),
            since=self._started_at,
            base=track.settings.base,
            architecture=str(config.model_type),
            parameters=made_of.parameters,
            bytes=sum(path.stat().st_size for path in track.base.glob("*.safetensors")),
            precision=str(base.model.dtype).removeprefix("torch."),
            context=context_length(base.model.config),
            width=made_of.hidden,
            template=str(getattr(base.tokenizer, "chat_template", None) or ""),
            can_call=any((trial.name, trial.status) == ("tools", "ok") for trial in trials),
        )

    # -- telling

    def snapshot(self) -> Status:
        """Return everything that ``lorad status`` and ``lorad monitor`` show."""
        return self._snapshot.take(time.time(), is_ready=self.is_ready())

    def versions(self, track: str) -> Versions:
        """Return a track's versions and what serves."""
        return self._snapshot.versions(track)

    def version(self, track: str, version: str) -> VersionPapers:
        """Return all that is kept about a version, and what serves."""
        return replace(self.archive.version(track, version), serving=self._engine.serving(track))

    # -- documents

    def search(self, track: str, query: str, k: int, how: How | None, where: Filter) -> SearchResults:
        """Return the passages of a track of documents that are nearest to a query."""
        return self._documents.search(track, query, k, how, where)

    def documents(self, track: str, name: str, before: int, limit: int) -> DocumentList:
        """Return documents of a track, the newest first; or of one file, title or url."""
        return self._documents.documents(track, name, before, limit)

    def document(self, track: str, document: int) -> DocumentWithText:
        """Return one document with its text."""
        return self._documents.document(track, document)

    def remove_documents(self, track: str, documents: Sequence[int], name: str) -> RemovedDocuments:
        """Remove documents by number, or all of one file, title or url."""
        return self._obey(lambda now: self._documents.remove(track, documents, name, now), wakes=True)

    # -- orders about jobs

    def retry(self, job: int, *, force: bool, settings: dict[str, Any]) -> Job:
        """Queue a job again."""
        return self._obey(
            lambda now: self._commands.retry(job, now, force=force, settings=settings), wakes=True
        )

    def resume(self, job: int, checkpoint: str | None) -> ResumedJob:
        """Queue a job again, to continue after a checkpoint; return both."""
        changed, found = self._obey(lambda now: self._commands.resume(job, checkpoint, now), wakes=True)
        return ResumedJob(**fields_of(changed), checkpoint=found)

    def cancel(self, job: int) -> Job:
        """End a job."""
        return self._obey(lambda now: self._commands.cancel(job, now))

    def pause(self, *, paused: bool) -> Pause:
        """Start no more sessions, or start them again; this waits for no turn."""
        self._commands.pause(time.time(), paused=paused)
        self._turn.wake.set()
        return Pause(paused=paused)

    def consolidate(self, track: str, *, refit: bool) -> Job:
        """Queue a session that makes one adapter of all, or refits one from the pristine base."""
        found = self._track(track)
        return self._obey(lambda now: self._commands.consolidate(found, now, refit=refit), wakes=True)

    # -- orders about versions

    def rollback(self, track: str, to: str | None) -> Roles:
        """Serve an earlier version again, or the base alone.

        The previous one is that of now, not of when the turn comes: asked twice, because the first answer was slow,
        it must not lead back.
        """
        found = self._track(track)
        wanted = found.registry.previous if to is None else to
        return self._obey(lambda now: self._commands.rollback(found, wanted, now))

    def pin(self, track: str, version: str, *, pinned: bool) -> Pinned:
        """Keep a version whatever the limits say, or no longer."""
        found = self._track(track)
        name = self._obey(lambda now: self._commands.pin(found, version, now, pinned=pinned))
        return Pinned(version=name, pinned=pinned)

    def tag(self, track: str, version: str, tag: str, *, remove: bool) -> Tagged:
        """Give a version a name of its own, or take it away."""
        found = self._track(track)
        name = self._obey(lambda now: self._commands.tag(found, version, tag, now, remove=remove))
        return Tagged(version=name, tag=tag, removed=remove)

    def prune(self, track: str, limits: dict[str, int], *, dry_run: bool) -> Pruned:
        """Remove the versions beyond the settings' limits, or beyond these where given, or only tell which."""
        found = self._track(track)
        gone = self._obey(lambda now: self._commands.prune(found, limits, now, dry_run=dry_run))
        return Pruned(pruned=gone, dry_run=dry_run)

    # -- orders about memory

    def forget(self, track: str, selector: str, *, dry_run: bool) -> Forgotten:
        """Remove examples from memory on purpose, or only tell which these would be."""
        found = self._track(track)
        if not selector.strip():
            raise ProtocolError(
                "say what to forget: a dataset's name, or a text that its examples hold",
                code="empty_selector",
            )
        return self._obey(lambda now: self._forget(found, selector, now, dry_run=dry_run), wakes=True)

    def _forget(self, track: Track, selector: str, now: float, *, dry_run: bool) -> Forgotten:
        """Look at what is meant and what holds it before that is gone."""
        remains, meant = self._commands.remains(track, selector), track.memory.meant(selector)
        return Forgotten(
            forgotten=len(meant) if dry_run else self._commands.forget(track, selector, now),
            dry_run=dry_run,
            held=remains,
            told=forgetting.tell(remains, is_done=not dry_run),
            examples=tuple(map(queries.show, meant[:SHOWN])) if dry_run else (),
        )

    # -- how orders are obeyed

    def _track(self, name: str) -> Track:
        return self.archive.track(name)

    def _obey(self, order: Callable[[float], T], *, wakes: bool = False) -> T:
        """Obey an order in its turn; let the loop see at once what it has changed, if it wants to."""
        done = self._turn.take(lambda: order(time.time()))
        if wakes:
            self._turn.wake.set()
        return done


@contextlib.contextmanager
def _about_prompt() -> Iterator[None]:
    """Say what is wrong with a prompt, where the engine knows of messages alone."""
    try:
        yield
    except ProtocolError as error:
        if error.data.get("param") == "messages":
            error.data["param"] = "prompt"
        raise
