"""What texts are: the labels of a track, or of a system's chain.

What lives here: ``/lorad/classify`` and ``/lorad/systems/{system}``. What never does: what a label is (the track's task says
so), the chain (``serving.systems``).
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

from fastapi import FastAPI, Request

from lorad.errors import ProtocolError
from lorad.serving.answers import Classification, Classifications, SystemAnswer
from lorad.serving.http.daemon import Daemon
from lorad.serving.http.routing import Threads, about_texts, cancelled_when_left, given, predicted
from lorad.serving.http.schemas import ClassifyBody, SystemBody
from lorad.serving.record_json import read


def add(app: FastAPI, daemon: Daemon) -> None:
    """Add the routes."""
    threads = Threads()

    @app.post("/lorad/classify")
    async def classify(
        body: Annotated[ClassifyBody, given(ClassifyBody)], request: Request
    ) -> Classifications:
        _check(body.texts)
        with about_texts():
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
            with about_texts():
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
