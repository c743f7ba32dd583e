"""Answers that are data: labels, spans, properties, of tasks that do not answer in text.

What lives here: ``/lorad/predict``, and ``/lorad/tag``, ``/lorad/fill-mask`` and ``/lorad/spectra`` where answers have a record of their own. What never does: what an input
or an answer is, which the track's task says.
"""

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Request

from lorad.errors import ProtocolError
from lorad.records import SPECTRA
from lorad.serving.answers import (
    FilledText,
    FilledTexts,
    MatchedSpectra,
    MatchedSpectrum,
    Predictions,
    TaggedTexts,
    TextSpans,
)
from lorad.serving.http.daemon import Daemon
from lorad.serving.http.routing import Threads, about_texts, given, predicted
from lorad.serving.http.schemas import FillMaskBody, PredictBody, SpectraBody, TagTextsBody
from lorad.serving.record_json import RecordError, read

TAGGING = "tagging"
"""The formats of tasks that find spans (``tasks.Task.formats``)."""
T = TypeVar("T")


def add(app: FastAPI, daemon: Daemon) -> None:
    """Add the routes."""
    threads = Threads()

    @app.post("/lorad/predict")
    async def predict(body: Annotated[PredictBody, given(PredictBody)], request: Request) -> Predictions:
        version, fingerprint, said = await predicted(
            threads, request, daemon.predict, body.model, body.inputs
        )
        return Predictions(model=version, system_fingerprint=fingerprint, predictions=tuple(said))

    @app.post("/lorad/tag")
    async def tag_texts(body: Annotated[TagTextsBody, given(TagTextsBody)], request: Request) -> TaggedTexts:
        with about_texts():
            version, fingerprint, said = await predicted(
                threads, request, daemon.predict, body.model, body.texts, TAGGING
            )
        return TaggedTexts(model=version, system_fingerprint=fingerprint, texts=_as(TextSpans, said))

    @app.post("/lorad/spectra")
    async def match_spectra(
        body: Annotated[SpectraBody, given(SpectraBody)], request: Request
    ) -> MatchedSpectra:
        with about_texts("spectra"):
            version, fingerprint, said = await predicted(
                threads, request, daemon.predict, body.model, body.spectra, SPECTRA
            )
        return MatchedSpectra(
            model=version, system_fingerprint=fingerprint, spectra=_as(MatchedSpectrum, said)
        )

    @app.post("/lorad/fill-mask")
    async def fill_mask(body: Annotated[FillMaskBody, given(FillMaskBody)], request: Request) -> FilledTexts:
        with about_texts():
            version, fingerprint, said = await predicted(
                threads, request, daemon.fill, body.model, body.texts, body.top_k
            )
        return FilledTexts(model=version, system_fingerprint=fingerprint, texts=_as(FilledText, said))


def _as(kind: type[T], said: Sequence[Any]) -> tuple[T, ...]:
    """Return a task's answers as records; a task of somebody's own may say something else."""
    try:
        return tuple(read(kind, each) for each in said)
    except RecordError as error:
        raise ProtocolError(
            f"the track's task answers otherwise ({error}); ask it with: POST /lorad/predict",
            code="other_way",
        ) from None
