"""``/metrics``: what Prometheus collects.

What lives here: the names, what is counted as answers go out, and the daemon's status as gauges. What never does: taking
the status (``apps.daemon.snapshot``).

Names follow Prometheus' rules: base units, ``_total`` for what only grows. One server has one registry of its own: nothing is
global, and two daemons in one process do not count together.
"""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from lorad.serving.answers import EngineStatus, SessionProgress, Status
from lorad.serving.http.daemon import Daemon

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""Upper bounds of the histograms' buckets: from a quoted answer on a GPU to a long one behind a queue on a small CPU."""

TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

IN_TRAINING = ("round", "rounds", "loss", "recall", "old_recall", "tokens_per_second", "paused_seconds")
"""What of a running session is told as it reports it."""


@dataclass(frozen=True, slots=True)
class Meters:
    """Counts answers as they go out."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    requests: Counter = field(init=False)
    prompt_tokens: Counter = field(init=False)
    answer_tokens: Counter = field(init=False)
    first_token: Histogram = field(init=False)
    answer: Histogram = field(init=False)

    def __post_init__(self) -> None:
        """Register each under its name."""
        told, by_track = self.registry, ("track",)
        meters = {
            "requests": Counter(
                "lorad_requests", "Answers that ended, by how.", (*by_track, "finish"), registry=told
            ),
            "prompt_tokens": Counter("lorad_prompt_tokens", "Tokens of prompts.", by_track, registry=told),
            "answer_tokens": Counter("lorad_answer_tokens", "Tokens of answers.", by_track, registry=told),
            "first_token": Histogram(
                "lorad_first_token_seconds",
                "From a request to the first text of its answer, waiting included.",
                by_track,
                registry=told,
                buckets=SECONDS,
            ),
            "answer": Histogram(
                "lorad_answer_seconds",
                "From a request to the end of its answer, waiting included.",
                by_track,
                registry=told,
                buckets=SECONDS,
            ),
        }
        for name, meter in meters.items():
            object.__setattr__(self, name, meter)


def add(app: FastAPI, daemon: Daemon, meters: Meters) -> None:
    """Add the route."""
    meters.registry.register(_StatusCollector(daemon))
    ProcessCollector(registry=meters.registry)

    @app.get("/metrics", response_class=Response, responses=TEXT)
    def metrics(request: Request) -> Response:
        write, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(write(meters.registry), media_type=kind)


class _StatusCollector(Collector):
    """Tells the daemon's status anew whenever it is collected."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def collect(self) -> Iterable[Metric]:
        """Yield every metric that the status holds."""
        status = self._daemon.snapshot()
        yield from _daemon(status)
        yield from _tracks(status)
        yield from _training(status)


def _daemon(status: Status) -> Iterator[Metric]:
    yield InfoMetricFamily("lorad", "The daemon.", {"version": status.lorad})
    yield _gauge("lorad_ready", "Whether questions are answered.", status.ready)
    yield _gauge("lorad_paused", "Whether sessions are kept from starting.", status.paused)
    yield _gauge("lorad_troubles", "What could not be done and is tried again.", len(status.troubles))
    yield _gauge("lorad_queue_waiting", "Requests without an answer yet.", status.engine.waiting)
    yield _gauge("lorad_queue_active", "Requests that are being answered.", status.engine.active)
    yield _gauge("lorad_inbox_files", "Files in the inbox.", status.inbox.files)
    yield _gauge("lorad_inbox_rejected_files", "Of these, what is not taken.", len(status.inbox.not_taken))
    yield from _backend(status.engine)
    modes = CounterMetricFamily("lorad_lookups", "Questions that were looked up, by how.", labels=["mode"])
    for mode, count in status.engine.modes.items():
        modes.add_metric([mode], count)
    yield modes


def _backend(engine: EngineStatus) -> Iterator[Metric]:
    yield InfoMetricFamily("lorad_backend", "What generates.", {"name": engine.backend})
    told = (
        ("lorad_batch_limit", "Answers of one version that share a step at most.", engine.max_batch),
        ("lorad_cache_bytes", "Attention caches of all answers.", engine.cache_bytes),
        ("lorad_cache_limit_bytes", "What they may take.", engine.max_cache_bytes),
        ("lorad_answer_tokens_per_second", "Tokens in a second of work, of late.", engine.tokens_per_second),
    )
    for name, meaning, value in told:
        if value is not None:
            yield _gauge(name, meaning, value)


def _tracks(status: Status) -> Iterator[Metric]:
    tracks = status.tracks
    held = InfoMetricFamily("lorad_held", "In which form what answers is held.", labels=["track"])
    held_bytes = GaugeMetricFamily(
        "lorad_held_bytes", "Memory of that form beside the base and the adapter.", labels=["track"]
    )
    batches = GaugeMetricFamily("lorad_batches", "Whether answers share steps.", labels=["track"])
    versions = GaugeMetricFamily("lorad_versions", "Versions on disk, by state.", labels=["track", "state"])
    examples = GaugeMetricFamily(
        "lorad_examples",
        "Examples in memory: all, and those learned and recalled.",
        labels=["track", "state"],
    )
    serving = InfoMetricFamily("lorad_serving", "What answers.", labels=["track"])
    unindexed = GaugeMetricFamily(
        "lorad_unindexed_examples", "Examples that cannot be found by their meaning yet.", labels=["track"]
    )
    jobs = GaugeMetricFamily(
        "lorad_open_jobs", "Jobs that have not ended, by state.", labels=["track", "state"]
    )
    for name, track in tracks.items():
        for state, count in Tally(str(entry.state) for entry in track.versions).items():
            versions.add_metric([name, state], count)
        for state in ("examples", "learned", "recalled"):
            examples.add_metric([name, state], sum(getattr(each, state) for each in track.datasets))
        serving.add_metric([name], {"version": track.serving or "", "base": track.base, "task": track.task})
        unindexed.add_metric([name], track.not_indexed)
        held.add_metric([name], {"form": track.held_as})
        held_bytes.add_metric([name], track.held_bytes)
        batches.add_metric([name], track.batches)
    for (name, state), count in Tally(
        (job.track, str(job.state)) for job in status.jobs if not job.ended_at
    ).items():
        jobs.add_metric([name, state], count)
    yield from (versions, examples, serving, held, held_bytes, batches, unindexed, jobs)


def _training(status: Status) -> Iterator[Metric]:
    session = status.session
    yield _gauge("lorad_training_active", "Whether a session runs.", session is not None)
    if session is not None:
        tracks = {job.id: job.track for job in status.jobs}
        yield from _session(session, {"track": tracks.get(session.job, ""), "dataset": session.dataset})


def _session(session: SessionProgress, labels: Mapping[str, str]) -> Iterator[Metric]:
    told = {name: getattr(session, name) for name in IN_TRAINING}
    told |= {"elapsed_seconds": session.elapsed, "eta_seconds": session.eta_seconds}
    for name, value in told.items():
        if value is not None:
            made = GaugeMetricFamily(
                f"lorad_training_{name}", f"The running session's {name.replace('_', ' ')}.", labels=[*labels]
            )
            made.add_metric([*labels.values()], value)
            yield made


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(name, meaning, value=float(value))
