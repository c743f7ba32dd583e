"""The answers to one request: accepted together, whole or piece by piece.

What lives here: several places in the queue for one request, all for one version, and their ways out of it. What never
does: the forms of answers (``openai``, ``ollama``), generating.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace

from fastapi import Request

from lorad.serving.http.routing import Threads, cancelled_when_left
from lorad.serving.requests import Chunk, GenerationRequest, Sampling

Submit = Callable[[str, Sampling], tuple[GenerationRequest, str]]
"""Asks a model (named as in a request) for one answer; returns it and the version's fingerprint."""


@dataclass(frozen=True, slots=True)
class Written:
    """A whole answer."""

    text: str
    finish: str | None
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that has its places in the queue: one for each answer."""

    asked: Sequence[GenerationRequest]
    fingerprint: str
    threads: Threads

    @property
    def model(self) -> str:
        """Return the track and the version that answers, as ``chat@v0.1``."""
        return _model(self.asked[0])

    async def whole(self, request: Request) -> list[Written]:
        """Return every answer once all are complete; raise what goes wrong with any."""
        try:
            async with cancelled_when_left(request, *self.asked):
                waits = (self.threads.run(lambda asked=asked: list(asked.answer())) for asked in self.asked)
                return [_joined(chunks) for chunks in await asyncio.gather(*waits)]
        finally:
            self.cancel()

    async def pieces(self) -> AsyncGenerator[tuple[int, Chunk], None]:
        """Yield the pieces of all answers as they come, each with its answer's place; raise what goes wrong with any.

        Leaving early ends the rest.
        """
        arrived: asyncio.Queue[tuple[int, Chunk | Exception]] = asyncio.Queue()
        followers = [
            asyncio.create_task(self._follow(place, asked, arrived)) for place, asked in enumerate(self.asked)
        ]
        left = len(followers)
        try:
            while left:
                place, piece = await arrived.get()
                if isinstance(piece, Exception):
                    raise piece
                left -= bool(piece.finish)
                yield place, piece
        finally:
            self.cancel()
            for follower in followers:
                follower.cancel()

    async def _follow(
        self, place: int, asked: GenerationRequest, arrived: "asyncio.Queue[tuple[int, Chunk | Exception]]"
    ) -> None:
        chunks = asked.answer()
        try:
            while (chunk := await self.threads.run(next, chunks, None)) is not None:
                arrived.put_nowait((place, chunk))
        except Exception as error:  # noqa: BLE001 - raised where the pieces are read
            arrived.put_nowait((place, error))

    def cancel(self) -> None:
        """End what is not ended: nobody needs the rest."""
        for asked in self.asked:
            asked.cancelled.set()


async def accept(
    threads: Threads, model: str, submit: Sequence[Submit], sampling: Sampling, n: int
) -> Accepted:
    """Ask for ``n`` answers to each of some questions, in this order; raise ``ProtocolError``, and then none is asked.

    The version that the first gets is everyone's, whatever is swapped meanwhile. Answers of one seed would be one answer,
    so each has the next one.
    """
    asked: list[GenerationRequest] = []
    fingerprint = ""
    try:
        for number, question in enumerate(question for question in submit for _ in range(n)):
            seed = None if sampling.seed is None else sampling.seed + number % n
            named = _model(asked[0]) if asked else model
            one, fingerprint = await threads.run(question, named, replace(sampling, seed=seed))
            asked.append(one)
    except BaseException:
        for one in asked:
            one.cancelled.set()
        raise
    return Accepted(asked, fingerprint, threads)


def _model(asked: GenerationRequest) -> str:
    return f"{asked.track}@{asked.version}"


def _joined(chunks: Sequence[Chunk]) -> Written:
    last = chunks[-1]
    return Written(
        "".join(chunk.text for chunk in chunks), last.finish, last.prompt_tokens, last.answer_tokens
    )
