"""What texts are: the labels of a track, or of a system's chain.

What lives here: ``/lorad/classify`` and ``/lorad/systems/{system}``. What never does: what a label is (the track's task says
so), the chain (``serving.systems``).
"""

import contextlib
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Annotated

from fastapi import FastAPI, Request

from lorad.errors import ProtocolError
from lorad.serving.answers import Classification, Classifications, SystemAnswer
from lorad.serving.http.daemon import Daemon
from lorad.serving.http.routing import Threads, cancelled_when_left, given, predicted
from lorad.serving.http.schemas import ClassifyBody, SystemBody
from lorad.serving.record_json import read

ABOUT_TEXTS = {"no_text", "context_length_exceeded"}
"""What may be wrong with a text that a body may well hold."""


def add(app: FastAPI, daemon: Daemon) -> None:
    """Add the routes."""
    threads = Threads()

    @app.post("/lorad/classify")
    async def classify(
        body: Annotated[ClassifyBody, given(ClassifyBody)], request: Request
    ) -> Classifications:
        _check(body.texts)
        with _unprocessable():
            version, fingerprint, said = await predicted(
                threads, request, daemon.classify, body.model, body.texts
            )
        return Classifications(
            model=version,
            system_fingerprint=fingerprint,
            classifications=tuple(read(Classification, each) for each in said),
        )

    @app.post("/lorad/systems/{system}")
    async def ask_system(
        system: str, body: Annotated[SystemBody, given(SystemBody)], request: Request
    ) -> SystemAnswer:
        _check(body.texts)
        chain = daemon.system(system, body.variant)
        async with cancelled_when_left(request, chain):
            with _unprocessable():
                return await threads.run(daemon.ask_system, chain, body.texts)


def _check(texts: Sequence[str]) -> None:
    """Raise ``ProtocolError`` (422) that names the first text without words."""
    for number, text in enumerate(texts):
        if not text.strip():
            raise ProtocolError(
                f"texts[{number}] is empty; send a text with words",
                status=HTTPStatus.UNPROCESSABLE_ENTITY,
                code="no_text",
                param=f"texts[{number}]",
            )


@contextlib.contextmanager
def _unprocessable() -> Iterator[None]:
    """Tell with 422 that a body is well-formed and one of its texts cannot be classified."""
    try:
        yield
    except ProtocolError as error:
        if error.code not in ABOUT_TEXTS:
            raise
        told = {**error.data, "param": "texts"}
        raise ProtocolError(
            error.message, status=HTTPStatus.UNPROCESSABLE_ENTITY, code=error.code, **told
        ) from None
