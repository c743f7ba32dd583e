"""The answers to one request: accepted together, timed, whole or piece by piece.

What lives here: several places in the queue for one request, all for one version, and their ways out of it. What never
does: the forms of answers (``openai``, ``ollama``), generating.
"""

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from fastapi import Request

from lorad.serving.called_tools import Call, Reader, Said
from lorad.serving.completions import Origin, SourceExample, SourcePassage
from lorad.serving.http.daemon import Daemon
from lorad.serving.http.metrics import Meters
from lorad.serving.http.routing import Threads, cancelled_when_left
from lorad.serving.record_json import fields_of
from lorad.serving.requests import Chunk, GenerationRequest, Sampling, WrittenToken

Submit = Callable[[str, Sampling], tuple[GenerationRequest, str]]
"""Asks a model (named as in a request) for one answer; returns it and the version's fingerprint."""


@dataclass(slots=True)
class Answer:
    """One answer on its way, and when what came of it, by a clock that only goes forwards, in seconds."""

    asked: GenerationRequest
    meters: Meters
    began: float
    first: float | None = None
    """When its first text came."""
    ended: float | None = None

    def chunks(self) -> Iterator[Chunk]:
        """Yield the answer as it is generated, and count it."""
        track, finish = self.asked.track, "cancelled"
        try:
            for chunk in self.asked.answer():
                now = time.perf_counter()
                if chunk.text and self.first is None:
                    self.first = now
                    self.meters.first_token.labels(track).observe(now - self.began)
                if chunk.finish:
                    self.ended, finish = now, chunk.finish
                    self.meters.prompt_tokens.labels(track).inc(chunk.prompt_tokens)
                    self.meters.answer_tokens.labels(track).inc(chunk.answer_tokens)
                    self.meters.answer.labels(track).observe(now - self.began)
                yield chunk
        except Exception:
            finish = "failed"
            raise
        finally:
            self.meters.requests.labels(track, finish).inc()

    def whole(self) -> list[Chunk]:
        """Return the answer's chunks once it is complete."""
        return list(self.chunks())

    @property
    def has_logprobs(self) -> bool:
        """Tell whether it says how likely its tokens were: if the request asks, and a model is asked."""
        return self.asked.sampling.logprobs is not None and not self.asked.is_quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What comes next of an answer, or all of it."""

    place: int
    """Which of the answers this is of."""
    text: str
    calls: tuple[Call, ...] = ()
    """Tools that are called, told with the last piece."""
    finish: str | None = None
    prompt_tokens: int = 0
    answer_tokens: int = 0
    tokens: Sequence[WrittenToken] | None = None
    """The text's, with their probabilities; ``None`` where these are not told."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that has its places in the queue: one for each answer."""

    answers: Sequence[Answer]
    fingerprint: str
    threads: Threads
    declared: Collection[str]
    """Names of the tools that an answer may call."""

    @property
    def model(self) -> str:
        """Return the track and the version that answers, as ``chat@v0.1``."""
        return _model(self.answers[0].asked)

    @property
    def origin(self) -> Origin | None:
        """Return where the answers come from: each was looked up for the same question."""
        reply = self.answers[0].asked.reply
        if reply is None:
            return None
        sources = tuple(SourceExample(**fields_of(source)) for source in reply.sources)
        cited = tuple(SourcePassage(**fields_of(passage)) for passage in reply.passages)
        return Origin(
            mode=reply.mode, sources=sources, passages=cited or None, documents=reply.documents or None
        )

    async def whole(self, request: Request) -> list[Piece]:
        """Return every answer once all are complete; raise what goes wrong with any."""
        try:
            async with cancelled_when_left(request, *(answer.asked for answer in self.answers)):
                waits = (self.threads.run(answer.whole) for answer in self.answers)
                wholes = await asyncio.gather(*waits)
                return [self._joined(place, chunks) for place, chunks in enumerate(wholes)]
        finally:
            self.cancel()

    def _joined(self, place: int, chunks: Sequence[Chunk]) -> Piece:
        end = replace(
            chunks[-1],
            text="".join(chunk.text for chunk in chunks),
            tokens=tuple(itertools.chain.from_iterable(chunk.tokens for chunk in chunks)),
        )
        return self._piece(place, _Reading(self.declared), end)

    def _piece(self, place: int, reading: "_Reading", chunk: Chunk) -> Piece:
        said, tokens = reading.add(chunk)
        return Piece(
            place=place,
            text=said.text,
            calls=said.calls,
            finish=chunk.finish,
            prompt_tokens=chunk.prompt_tokens,
            answer_tokens=chunk.answer_tokens,
            tokens=tokens if self.answers[place].has_logprobs else None,
        )

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of all answers as they come; raise what goes wrong with any.

        Where tools are declared, what may be a call of one is held until it is whole. Leaving early ends the rest.
        """
        readings = [_Reading(self.declared) for _ in self.answers]
        async with contextlib.aclosing(self._arriving()) as arriving:
            async for place, chunk in arriving:
                piece = self._piece(place, readings[place], chunk)
                if piece.text or piece.finish:
                    yield piece

    async def _arriving(self) -> AsyncGenerator[tuple[int, Chunk], None]:
        """Yield the chunks of all answers as they come, each with its answer's place."""
        arrived: asyncio.Queue[tuple[int, Chunk | Exception]] = asyncio.Queue()
        followers = [
            asyncio.create_task(self._follow(place, answer, arrived))
            for place, answer in enumerate(self.answers)
        ]
        left = len(followers)
        try:
            while left:
                place, chunk = await arrived.get()
                if isinstance(chunk, Exception):
                    raise chunk
                left -= bool(chunk.finish)
                yield place, chunk
        finally:
            self.cancel()
            for follower in followers:
                follower.cancel()

    async def _follow(
        self, place: int, answer: Answer, arrived: "asyncio.Queue[tuple[int, Chunk | Exception]]"
    ) -> None:
        chunks = answer.chunks()
        try:
            while (chunk := await self.threads.run(next, chunks, None)) is not None:
                arrived.put_nowait((place, chunk))
        except Exception as error:  # noqa: BLE001 - raised where the pieces are read
            arrived.put_nowait((place, error))

    def cancel(self) -> None:
        """End what is not ended: nobody needs the rest."""
        for answer in self.answers:
            answer.asked.cancelled.set()


class _Reading:
    """Reads one answer's chunks: what may be a call is held, and the tokens go with the text that they begin in."""

    def __init__(self, declared: Collection[str]) -> None:
        self._reader = Reader(declared) if declared else None
        self._length = 0
        """Characters that were handed on."""
        self._tokens: deque[WrittenToken] = deque()

    def add(self, chunk: Chunk) -> tuple[Said, tuple[WrittenToken, ...]]:
        """Return what of the answer can be handed on, and its tokens; a call has none."""
        if self._reader is None:
            return Said(chunk.text), chunk.tokens
        said = Said(self._reader.add(chunk.text))
        if chunk.finish:
            end = self._reader.end()
            said = Said(said.text + end.text, end.calls)
        self._length += len(said.text)
        self._tokens += chunk.tokens
        is_all = bool(chunk.finish) and not said.calls
        told = []
        while self._tokens and (is_all or self._tokens[0].offset < self._length):
            told.append(self._tokens.popleft())
        return said, tuple(told)


class Answering:
    """Where requests for answers are accepted, and their answers waited for."""

    def __init__(self, daemon: Daemon, meters: Meters) -> None:
        self._daemon = daemon
        self._meters = meters
        self.threads = Threads()

    async def accept(
        self,
        model: str,
        submit: Sequence[Submit],
        sampling: Sampling,
        n: int = 1,
        declared: Collection[str] = (),
    ) -> Accepted:
        """Ask for ``n`` answers to each of some questions, in order; raise ``ProtocolError``, and then none is asked.

        The version that the first gets is everyone's, whatever is swapped meanwhile. Answers of one seed would be one
        answer, so each has the next one.
        """
        began, fingerprint = time.perf_counter(), ""
        asked: list[GenerationRequest] = []
        # before anything is loaded or made
        await self.threads.run(self._daemon.require_room, len(submit) * n)
        try:
            for number, question in enumerate(question for question in submit for _ in range(n)):
                seed = None if sampling.seed is None else sampling.seed + number % n
                named = _model(asked[0]) if asked else model
                one, fingerprint = await self.threads.run(question, named, replace(sampling, seed=seed))
                asked.append(one)
        except BaseException:
            for one in asked:
                one.cancelled.set()
            raise
        answers = [Answer(one, self._meters, began) for one in asked]
        return Accepted(answers, fingerprint, self.threads, declared)


def _model(asked: GenerationRequest) -> str:
    return f"{asked.track}@{asked.version}"
