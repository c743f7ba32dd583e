"""Vectors of texts, from the model that compares questions: OpenAI's ``/v1/embeddings``.

What lives here: the route, and a vector's two forms. What never does: choosing or running the embedder.
"""

import base64
from typing import Annotated

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray

from lorad.serving.completions import Embedding, Embeddings, Usage
from lorad.serving.http.daemon import Daemon
from lorad.serving.http.openai_bodies import EmbeddingsBody
from lorad.serving.http.routing import Orders, given

AT_ONCE, MOST = 2, 64
"""Requests that are embedded together, and that may wait: they must not keep people's orders from their turn."""


def add(app: FastAPI, daemon: Daemon, orders: Orders) -> None:
    """Add the route."""

    @app.post("/v1/embeddings")
    async def embeddings(body: Annotated[EmbeddingsBody, given(EmbeddingsBody)]) -> Embeddings:
        model, rows, tokens = await orders.run(daemon.embed, body.model, body.texts())
        write = _in_base64 if body.encoding_format == "base64" else _in_numbers
        data = tuple(Embedding(index=place, embedding=write(row)) for place, row in enumerate(rows))
        return Embeddings(data=data, model=model, usage=Usage(prompt_tokens=tokens, total_tokens=tokens))


def _in_numbers(row: NDArray[np.float32]) -> tuple[float, ...]:
    return tuple(map(float, row))


def _in_base64(row: NDArray[np.float32]) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()
