"""The answers to one request: accepted together, timed, whole or piece by piece.

What lives here: several places in the queue for one request, all for one version, and their ways out of it. What never
does: the forms of answers (``openai``, ``ollama``), generating.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from fastapi import Request

from lorad.serving import called_tools
from lorad.serving.called_tools import Call, Reader, Said
from lorad.serving.completions import Origin, SourceExample
from lorad.serving.http.metrics import Meters
from lorad.serving.http.routing import Threads, cancelled_when_left
from lorad.serving.record_json import fields_of
from lorad.serving.requests import Chunk, GenerationRequest, Sampling

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
        return Origin(mode=reply.mode, sources=sources)

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
        text = "".join(chunk.text for chunk in chunks)
        said = called_tools.read(text, self.declared) if self.declared else Said(text)
        return _piece(place, said, chunks[-1])

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Yield the pieces of all answers as they come; raise what goes wrong with any.

        Where tools are declared, what may be a call of one is held until it is whole. Leaving early ends the rest.
        """
        readers = [Reader(self.declared) for _ in self.answers] if self.declared else []
        async with contextlib.aclosing(self._arriving()) as arriving:
            async for place, chunk in arriving:
                said = Said(readers[place].add(chunk.text) if readers else chunk.text)
                if readers and chunk.finish:
                    end = readers[place].end()
                    said = Said(said.text + end.text, end.calls)
                if said.text or chunk.finish:
                    yield _piece(place, said, chunk)

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


class Answering:
    """Where requests for answers are accepted, and their answers waited for."""

    def __init__(self, meters: Meters) -> None:
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


def _piece(place: int, said: Said, chunk: Chunk) -> Piece:
    return Piece(
        place=place,
        text=said.text,
        calls=said.calls,
        finish=chunk.finish,
        prompt_tokens=chunk.prompt_tokens,
        answer_tokens=chunk.answer_tokens,
    )
