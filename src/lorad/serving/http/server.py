"""The HTTP application: every face of the socket, put together.

What lives here: the order in which routes, errors and the document are added. What never does: a route (``health``,
``openai``, ``ollama``, ``admin``), the socket (``unix_socket``), reading bodies (``schemas``), the form of errors (``http_errors``).
"""

from fastapi import Depends, FastAPI
from starlette.routing import Route

from lorad import __version__
from lorad.config import ServerSettings
from lorad.serving.http import (
    admin,
    classification,
    document,
    documents,
    embeddings,
    health,
    http_errors,
    loopback,
    metrics,
    ollama,
    openai,
    prediction,
)
from lorad.serving.http.bodies import Bodies
from lorad.serving.http.daemon import Daemon
from lorad.serving.http.generation import Answering
from lorad.serving.http.metrics import Meters
from lorad.serving.http.routing import Orders, use_routes


def build(daemon: Daemon, settings: ServerSettings | None = None, token: str | None = None) -> FastAPI:
    """Return the HTTP application for a daemon; who does not come through the Unix socket must show the token."""
    app = FastAPI(
        title="lorad",
        version=__version__,
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
        dependencies=[Depends(http_errors.refuse_unknown_query)],
    )
    use_routes(app)
    app.state.bodies = Bodies((settings or ServerSettings()).max_body_bytes)
    http_errors.add_handlers(app)
    meters = Meters()
    for face in (health, prediction, classification, documents, admin):
        face.add(app, daemon)
    answering, embedding = Answering(daemon, meters), Orders(embeddings.AT_ONCE, embeddings.MOST)
    openai.add(app, daemon, answering)
    embeddings.add(app, daemon, embedding)
    ollama.add(app, daemon, answering, embedding)
    metrics.add(app, daemon, meters)
    document.add(app)
    _answer_head(app)
    app.add_middleware(admin.OldNames, routes=app.routes)
    app.add_middleware(loopback.Bearer, expected=token)
    return app


def _answer_head(app: FastAPI) -> None:
    """Let whatever can be got be asked for by its head alone, as watchdogs do."""
    for route in app.routes:
        if isinstance(route, Route) and route.methods == {"GET"}:
            route.methods = {"GET", "HEAD"}
