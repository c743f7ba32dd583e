"""How a route takes its body and gives its answer, whatever it is about.

What lives here: routes that read bodies by their content and write records as JSON, and where those wait that wait for a
model or for the end of a step. What never does: a route itself (``health``, ``openai``, ``admin``).
"""

import asyncio
import contextlib
import functools
import inspect
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Annotated, Any, Protocol, TypeVar, get_args, get_origin

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from lorad.errors import ProtocolError
from lorad.serving.completions import Failure
from lorad.serving.http import http_errors
from lorad.serving.http.bodies import Bodies, Json
from lorad.serving.http.schemas import Body
from lorad.serving.requests import PredictionRequest

T = TypeVar("T")

ORDERS_AT_ONCE = 8
"""Orders that wait for the end of a step in threads; answers to questions have their own."""
_INPUTS = "inputs"
"""What the engine calls what it is asked to answer with data."""
MOST_ORDERS = 128
"""Orders that wait at all; whoever gives one more is asked to come back."""


class Route(APIRoute):
    """A route that returns a record: its return type is the schema of its answer in the document.

    The answer is written by ``Json``: FastAPI's own writing fails on what JSON has no word for, and one strange value
    that is stored must not silence a route. A test holds every answer to its schema instead.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], *, orders: "Orders", **options: Any) -> None:
        is_order = "POST" in options["methods"] and not inspect.iscoroutinefunction(endpoint)
        act = orders.given_by(endpoint) if is_order else endpoint
        options["responses"] = {**ON_ERROR, **(options.get("responses") or {})}
        super().__init__(path, _written(act), **options)
        self.body_kind = _body_kind(endpoint)


ON_ERROR: dict[int | str, dict[str, Any]] = {
    "default": {"model": Failure, "description": "What is wrong, and what to do."}
}


def given(kind: type[Body]) -> Any:
    """Let a route have its body as this kind, read from the bytes: content types are often wrong or missing."""

    async def read(request: Request) -> Body:
        http_errors.refuse_encoding(request)
        bodies: Bodies = request.app.state.bodies
        return await bodies.read(request, kind.read)

    return Depends(read)


def _body_kind(endpoint: Callable[..., Any]) -> type[Body] | None:
    """Return what a route reads its body as."""
    for parameter in inspect.signature(endpoint, eval_str=True).parameters.values():
        if get_origin(parameter.annotation) is Annotated:
            kind = get_args(parameter.annotation)[0]
            if isinstance(kind, type) and issubclass(kind, Body):
                return kind
    return None


def _written(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Return a route's function so that what it returns is the answer itself."""

    def answer(made: Any) -> Response:
        return made if isinstance(made, Response) else Json(made)

    @functools.wraps(endpoint)
    async def wait(*given: Any, **named: Any) -> Response:
        return answer(await endpoint(*given, **named))

    @functools.wraps(endpoint)
    def call(*given: Any, **named: Any) -> Response:
        return answer(endpoint(*given, **named))

    return wait if inspect.iscoroutinefunction(endpoint) else call


class Threads:
    """Where answers are waited for: threads of their own, so that status and health find one however many wait.

    How many wait is bounded by ``engine.max_queued_requests``.
    """

    def __init__(self, most: float = math.inf) -> None:
        self._most = most
        self._limiter: CapacityLimiter | None = None

    async def run(self, act: Callable[..., T], *arguments: Any) -> T:
        """Wait in a thread; whoever is cancelled leaves it behind."""
        self._limiter = self._limiter or CapacityLimiter(self._most)  # belongs to the loop that runs
        return await to_thread.run_sync(act, *arguments, abandon_on_cancel=True, limiter=self._limiter)


class Asked(Protocol):
    """Something that is being answered, and can be ended."""

    @property
    def cancelled(self) -> threading.Event:
        """Set when nobody waits for it any more."""


@contextlib.asynccontextmanager
async def cancelled_when_left(request: Request, *asked: Asked) -> AsyncIterator[None]:
    """End answers when the client closes its connection: nobody needs the rest."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        for each in asked:
            each.cancelled.set()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()


@contextlib.contextmanager
def about_texts(name: str = "texts") -> Iterator[None]:
    """Tell what is wrong with an input as what is wrong with a text, or whatever the route's body calls it."""
    try:
        yield
    except ProtocolError as error:
        param = str(error.data.get("param"))
        if not param.startswith(_INPUTS):
            raise
        told = {**error.data, "param": f"{name}{param.removeprefix(_INPUTS)}"}
        raise ProtocolError(error.message, status=error.status, code=error.code, **told) from None


async def predicted(
    threads: Threads,
    request: Request,
    accept: Callable[..., tuple[PredictionRequest, str]],
    *asked: Any,
) -> tuple[str, str, list[Any]]:
    """Let a daemon accept inputs, and wait; return the version that answered, its fingerprint, and an answer for each input."""
    accepted, fingerprint = await threads.run(accept, *asked)
    async with cancelled_when_left(request, accepted):
        said = await threads.run(accepted.answer)
    return f"{accepted.track}@{accepted.version}", fingerprint, said


class Orders:
    """Where work that is no answer waits: in few threads, so that status finds one however much there is."""

    def __init__(self, at_once: int = ORDERS_AT_ONCE, most: int = MOST_ORDERS) -> None:
        self._threads = Threads(at_once)
        self._most = most
        self._count = 0

    async def run(self, act: Callable[..., T], *arguments: Any) -> T:
        """Do something in its turn; raise ``ProtocolError`` (503) if too much waits already."""
        if self._count >= self._most:
            raise ProtocolError(
                "too many commands are waiting; try again in a second", status=503, code="busy", retry_after=1
            )
        self._count += 1
        try:
            return await self._threads.run(act, *arguments)
        finally:
            self._count -= 1

    def given_by(self, endpoint: Callable[..., T]) -> Callable[..., Awaitable[T]]:
        """Return a route's function so that it has its turn among the orders."""

        @functools.wraps(endpoint)
        async def give(*given: Any, **named: Any) -> T:
            return await self.run(functools.partial(endpoint, *given, **named))

        return give


def use_routes(app: FastAPI) -> None:
    """Make every route that is added from now on one of these."""
    app.router.route_class = functools.partial(Route, orders=Orders())  # type: ignore[assignment] # it makes one
