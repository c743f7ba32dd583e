"""Whether the daemon lives and answers: what watchdogs and load balancers ask."""

from fastapi import FastAPI

from lorad.serving.answers import Health, Readiness
from lorad.serving.http.bodies import Json
from lorad.serving.http.daemon import Daemon


def add(app: FastAPI, daemon: Daemon) -> None:
    """Add the routes. They need no thread: they answer however many wait."""

    @app.get("/healthz")
    async def healthz() -> Health:
        return Health(alive=True)

    @app.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
    async def readyz() -> Json:
        ready = daemon.is_ready()
        return Json(Readiness(ready=ready), status_code=200 if ready else 503)
