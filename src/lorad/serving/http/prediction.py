"""Answers that are data: labels, spans, properties, of tasks that do not answer in text.

What lives here: ``/lorad/predict``. What never does: what an input or an answer is, which the track's task says.
"""

from typing import Annotated

from fastapi import FastAPI, Request

from lorad.serving.answers import Predictions
from lorad.serving.http.daemon import Daemon
from lorad.serving.http.routing import Threads, cancelled_when_left, given
from lorad.serving.http.schemas import PredictBody


def add(app: FastAPI, daemon: Daemon) -> None:
    """Add the route."""
    threads = Threads()

    @app.post("/lorad/predict")
    async def predict(body: Annotated[PredictBody, given(PredictBody)], request: Request) -> Predictions:
        asked, fingerprint = await threads.run(daemon.predict, body.model, body.inputs)
        async with cancelled_when_left(request, asked):
            said = await threads.run(asked.answer)
        return Predictions(
            model=f"{asked.track}@{asked.version}", system_fingerprint=fingerprint, predictions=tuple(said)
        )
