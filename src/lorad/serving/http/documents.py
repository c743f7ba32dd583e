"""Documents: searching them, listing them, reading one, removing some.

What lives here: the routes. What never does: searching (``lorad.retrieval``), how documents come in, which is the inbox.
"""

from typing import Annotated

from fastapi import FastAPI, Path, Query

from lorad.records import DOCUMENTS
from lorad.serving.answers import DocumentList, DocumentWithText, RemovedDocuments, SearchResults
from lorad.serving.http.daemon import Daemon
from lorad.serving.http.routing import Orders, given
from lorad.serving.http.schemas import RemoveDocumentsBody, SearchBody
from lorad.serving.queries import PAGE
from lorad.storage.documents import LARGEST

AT_ONCE, MOST = 4, 64
"""Searches at one time, and that may wait: they must not keep people's orders from their turn."""


def add(app: FastAPI, daemon: Daemon) -> None:
    """Add the routes."""
    searches = Orders(AT_ONCE, MOST)

    @app.post("/lorad/search")
    async def search(body: Annotated[SearchBody, given(SearchBody)]) -> SearchResults:
        return await searches.run(daemon.search, body.track, body.query, body.k, body.how, body.where())

    @app.get("/lorad/documents")
    def documents(
        track: str = DOCUMENTS,
        name: str = "",
        before: Annotated[int, Query(ge=1, le=LARGEST)] = LARGEST,
        limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE,
    ) -> DocumentList:
        return daemon.documents(track, name, before, limit)

    @app.get("/lorad/documents/{document}")
    def document(
        document: Annotated[int, Path(ge=1, le=LARGEST)], track: str = DOCUMENTS
    ) -> DocumentWithText:
        return daemon.document(track, document)

    @app.post("/lorad/documents/remove")
    def remove_documents(
        body: Annotated[RemoveDocumentsBody, given(RemoveDocumentsBody)],
    ) -> RemovedDocuments:
        return daemon.remove_documents(body.track, body.documents, body.name)
