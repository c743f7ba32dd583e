"""Speaking to a running daemon through its Unix socket, in a program that waits for many things at once.

What lives here: the questions that such programs ask, one connection each. What never does: orders (``client`` has them),
printing, judging what an answer means.

h11 comes with uvicorn, and asyncio with Python: no other HTTP client is needed for a socket on the same machine.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import h11

from lorad.home import check_socket_path
from lorad.records import DOCUMENTS
from lorad.serving import replies
from lorad.serving.answers import (
    Classifications,
    FilledTexts,
    MatchedSpectra,
    Predictions,
    SearchResults,
    Status,
    SystemAnswer,
    TaggedTexts,
)
from lorad.serving.completions import Completion, CompletionChunk, Models, TextCompletion
from lorad.serving.replies import ANSWER_SECONDS, TOKEN_SECONDS, given

T = TypeVar("T")
Messages = Sequence[Mapping[str, Any]]

READ_BYTES = 65_536


class AsyncAnswer(replies.Told, AsyncIterator[str]):
    """A streamed answer: its text piece by piece, exactly, and behind the last piece why it ended."""

    def __init__(self, events: AsyncGenerator[CompletionChunk, None]) -> None:
        self._events = events

    async def __anext__(self) -> str:
        async for event in self._events:
            if text := self.take(event):
                return text
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the generation, if it has not ended."""
        await self._events.aclose()


class AsyncClient:
    """What can be asked of one running daemon."""

    def __init__(self, path: Path, home: Path | None = None) -> None:
        check_socket_path(path)
        self._path = path
        self._home = home or path.parent

    async def ask(self, question: str, model: str = "chat", **options: Any) -> str:
        """Return the answer to one question, as text."""
        answer = await self.chat([{"role": "user", "content": question}], model, **options)
        return answer.choices[0].message.content or ""

    async def chat(self, messages: Messages, model: str = "chat", **options: Any) -> Completion:
        """Return a whole answer in OpenAI's form."""
        body = {"model": model, "messages": list(messages), **given(options)}
        return await self._ask(Completion, "POST", "/v1/chat/completions", body, seconds=TOKEN_SECONDS)

    def stream_chat(self, messages: Messages, model: str = "chat", **options: Any) -> AsyncAnswer:
        """Return an answer to iterate over as it is generated; closing it ends the generation."""
        body = {"model": model, "messages": list(messages), "stream": True, **given(options)}
        body["stream_options"] = {"include_usage": True}
        return AsyncAnswer(self._events("POST", "/v1/chat/completions", body))

    async def complete(self, prompt: str, model: str = "chat", **options: Any) -> TextCompletion:
        """Return what continues a text, in OpenAI's form; no template is put around it."""
        body = {"model": model, "prompt": prompt, **given(options)}
        return await self._ask(TextCompletion, "POST", "/v1/completions", body, seconds=TOKEN_SECONDS)

    async def embed(self, texts: Sequence[str], model: str = "chat") -> list[tuple[float, ...]]:
        """Return the texts' vectors, of unit length, in their order."""
        body = {"model": model, "input": list(texts)}
        return replies.vectors(await self.call("POST", "/v1/embeddings", body, seconds=TOKEN_SECONDS))

    async def predict(self, model: str, inputs: Sequence[Any]) -> Predictions:
        """Return the answers of a track whose task answers with data."""
        body = {"model": model, "inputs": list(inputs)}
        return await self._ask(Predictions, "POST", "/lorad/predict", body, seconds=TOKEN_SECONDS)

    async def tag_texts(self, texts: Sequence[str], model: str = "ner") -> TaggedTexts:
        """Return the labelled spans of some texts, at most 64."""
        body = {"model": model, "texts": list(texts)}
        return await self._ask(TaggedTexts, "POST", "/lorad/tag", body, seconds=TOKEN_SECONDS)

    async def search(self, query: str, track: str = DOCUMENTS, k: int = 10, **options: Any) -> SearchResults:
        """Return the passages of documents that are nearest to a query; options as ``POST /lorad/search`` has them."""
        body = {"track": track, "query": query, "k": k, **given(options)}
        return await self._ask(SearchResults, "POST", "/lorad/search", body, seconds=TOKEN_SECONDS)

    async def match_spectra(
        self, spectra: Sequence[Mapping[str, Any]], model: str = "spectra"
    ) -> MatchedSpectra:
        """Return how well molecules match spectra, at most 64: each has ``mzs``, ``intensities``, and ``smiles`` or ``candidates``."""
        body = {"model": model, "spectra": [dict(each) for each in spectra]}
        return await self._ask(MatchedSpectra, "POST", "/lorad/spectra", body, seconds=TOKEN_SECONDS)

    async def classify(self, model: str, texts: Sequence[str]) -> Classifications:
        """Return what texts are, by a track that learns their labels."""
        body = {"model": model, "texts": list(texts)}
        return await self._ask(Classifications, "POST", "/lorad/classify", body, seconds=TOKEN_SECONDS)

    async def fill(self, model: str, texts: Sequence[str], top_k: int = 5) -> FilledTexts:
        """Return what stands in the gaps (``[MASK]``) of texts, by a model from scratch."""
        body = {"model": model, "texts": list(texts), "top_k": top_k}
        return await self._ask(FilledTexts, "POST", "/lorad/fill-mask", body, seconds=TOKEN_SECONDS)

    async def ask_system(self, system: str, texts: Sequence[str], variant: str | None = None) -> SystemAnswer:
        """Return what the chain of a system says of texts, step by step."""
        body = {"texts": list(texts), **given({"variant": variant})}
        path = f"/lorad/systems/{quote(system, safe='')}"
        return await self._ask(SystemAnswer, "POST", path, body, seconds=TOKEN_SECONDS)

    async def models(self) -> Models:
        """Return everything that can be asked."""
        return await self._ask(Models, "GET", "/v1/models")

    async def status(self) -> Status:
        """Return the snapshot that ``status`` and the monitor show."""
        return await self._ask(Status, "GET", "/lorad/status")

    async def call(
        self, method: str, path: str, body: Any = None, *, seconds: float = ANSWER_SECONDS, **query: Any
    ) -> Any:
        """Ask once and return the answer's JSON; raise what the daemon says is wrong."""
        async with self._exchange(method, replies.target(path, query), body, seconds) as pieces:
            return replies.parsed(b"".join([piece async for piece in pieces]))

    async def _ask(self, kind: type[T], method: str, path: str, body: Any = None, **options: Any) -> T:
        return replies.record(kind, await self.call(method, path, body, **options))

    async def _events(self, method: str, path: str, body: Any) -> AsyncGenerator[CompletionChunk, None]:
        async with self._exchange(method, path, body, TOKEN_SECONDS) as pieces:
            async for line in _lines(pieces):
                if replies.is_end(line):
                    return
                if event := replies.event(line):
                    yield event
            raise replies.broken_off()

    @contextlib.asynccontextmanager
    async def _exchange(
        self, method: str, target: str, body: Any, seconds: float
    ) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """Ask, and lend the pieces of the answer's body; raise what the daemon says is wrong."""
        exchange = await _Exchange.connect(self._path, self._home, seconds)
        try:
            status = await exchange.ask(method, target, body)
            if status >= HTTPStatus.BAD_REQUEST:
                raise replies.complaint(status, b"".join([piece async for piece in exchange.pieces()]))
            yield exchange.pieces()
        except (h11.ProtocolError, OSError) as error:
            raise replies.broken(error) from None
        finally:
            await exchange.close()


class _Exchange:
    """One request and its answer, on a connection of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
        self._reader, self._writer, self._seconds = reader, writer, seconds
        self._http = h11.Connection(h11.CLIENT)

    @classmethod
    async def connect(cls, path: Path, home: Path, seconds: float) -> "_Exchange":
        """Connect; raise ``ConfigError`` or ``TransientError`` that says why it cannot be."""
        try:
            async with asyncio.timeout(seconds):
                return cls(*await asyncio.open_unix_connection(path), seconds)
        except TimeoutError as error:
            raise replies.broken(error) from None
        except OSError as error:
            raise replies.no_connection(error, path, home) from None

    async def ask(self, method: str, target: str, body: Any) -> int:
        """Send a request; return the status of its answer."""
        payload = b"" if body is None else json.dumps(body).encode()
        headers = [("Host", "lorad"), ("Connection", "close"), ("Content-Length", str(len(payload)))]
        if payload:
            headers.append(("Content-Type", "application/json"))
        request = h11.Request(method=method, target=target, headers=headers)
        for part in (request, h11.Data(data=payload), h11.EndOfMessage()):
            self._writer.write(self._http.send(part) or b"")
        async with asyncio.timeout(self._seconds):
            with contextlib.suppress(ConnectionError):  # refused before all was sent: the answer says why
                await self._writer.drain()
        event = await self._next()
        if not isinstance(event, h11.Response):
            raise h11.RemoteProtocolError("no answer came")
        return event.status_code

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the answer's body as it comes."""
        while isinstance(event := await self._next(), h11.Data):
            yield bytes(event.data)

    async def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            async with asyncio.timeout(self._seconds):
                self._http.receive_data(await self._reader.read(READ_BYTES))
        return event

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield whole lines, however they were cut on their way."""
    held = b""
    async for piece in pieces:
        *lines, held = (held + piece).split(b"\n")
        for line in lines:
            yield line
