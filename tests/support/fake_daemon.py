"""A daemon that only talks: it answers on a real Unix socket what a test tells it to.

Nothing here imports FastAPI or torch, so tests of the command line stay fast and tell what they import.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from urllib.parse import parse_qs, urlsplit

from lorad.serving.answers import Status, VersionEntry, VersionPapers
from lorad.serving.completions import Completion
from lorad.serving.record_json import as_json, read

NOW = 1_763_700_000.0

DOCUMENT = {
    "id": 7,
    "title": "Village",
    "name": "village.md",
    "url": "",
    "markup": "markdown",
    "tags": ["water"],
    "date": "2026-05-01",
    "added_at": 1_763_700_000.0,
    "characters": 6,
    "chunks": 1,
    "unembedded": 0,
    "state": "divided",
    "same_as": None,
}
PASSAGE = {
    "document": 7,
    "title": "Village",
    "name": "village.md",
    "url": "",
    "heading": ["The mill"],
    "page": 2,
    "start": 0,
    "end": 6,
    "text": "a mill",
    "score": 0.03,
    "similarity": 0.5,
    "coverage": 1.0,
    "relevant": True,
}


class Problem:
    """An answer that says what is wrong."""

    def __init__(self, status, code, message, **data):
        self.status = status
        self.body = json.dumps({"error": {"code": code, "message": message, **data}}).encode()


class Raw(Problem):
    """An answer that is not what anybody expects."""

    def __init__(self, status, body):
        self.status, self.body = status, body


class Stream:
    """An answer in server-sent events; ``None`` among them cuts the connection."""

    def __init__(self, *events):
        self.events = events


def delta(text):
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]})


def began(origin):
    """Return the first event of a streamed answer that says where it comes from."""
    choices = [{"index": 0, "delta": {"role": "assistant", "content": ""}}]
    return "data: " + json.dumps({"choices": choices, "lorad": origin})


ORIGIN = {
    "mode": "taught",
    "sources": [
        {
            "dataset": "campus_cs",
            "row": 12,
            "question": "Who chairs CS?",
            "similarity": 0.834,
            "confidence": 0.9,
        }
    ],
}
"""Where an answer comes from, as the API tells it."""


def ended(finish, tokens):
    """Return the events behind a streamed answer's last piece."""
    told = [{"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}]
    told += [
        {
            "choices": [],
            "usage": {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens},
        }
    ]
    return [f"data: {json.dumps(event)}" for event in told]


class FakeDaemon(ThreadingMixIn, UnixStreamServer):
    """Answers every ``METHOD /path`` with the next of its answers, the last one again and again."""

    request_queue_size = (
        64  # as many as connect at once: to who finds no place a Unix socket says nothing good
    )

    daemon_threads = True

    def __init__(self, path: Path):
        self.path = path
        self.asked = []
        self._answers = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(str(path), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    def answers(self, route, *answers):
        self._answers[route] = list(answers)

    def next_answer(self, route):
        waiting = self._answers.get(route, [Problem(404, "no_route", f"nobody told the fake about {route}")])
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    def handle_error(self, request, client_address):
        """Say nothing of clients that hang up before the last event, as lorad's may: socketserver prints it."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def close(self):
        self.shutdown()
        self._thread.join()
        self.server_close()
        self.path.unlink(missing_ok=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def _answer(self):
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.server.asked.append((f"{self.command} {url.path}", query, body))
        answer = self.server.next_answer(f"{self.command} {url.path}")
        if isinstance(answer, Stream):
            self._stream(answer)
        elif isinstance(answer, Problem):
            self._whole(answer.status, answer.body)
        else:
            self._whole(200, json.dumps(answer).encode())

    def _whole(self, status, payload):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _stream(self, answer):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        for event in answer.events:
            if event is None:
                return
            payload = f"{event}\n\n".encode()
            self.wfile.write(f"{len(payload):x}\r\n".encode() + payload + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def address_string(self):
        return "a Unix socket"

    def log_message(self, *_):
        pass


def told(data):
    """Return what a client makes of an answer to ``/lorad/status``."""
    return read(Status, data)


def job(number, dataset, state, **changes):
    """Return a job as the API tells it."""
    return {
        "id": number,
        "track": "chat",
        "dataset": dataset,
        "state": state,
        "kind": "learn",
        "created_at": NOW - 1000,
        "started_at": None,
        "ended_at": None,
        "attempts": 0,
        "force": False,
        "settings": {},
        "version": None,
        "reason": {},
        **changes,
    }


def promoted(number, dataset, version, ended_at=NOW - 100):
    reason = {"reasons": ["recall on the new data is 97.0 %"], "failed": [], "ended_by": "recall"}
    times = {"started_at": ended_at - 125, "ended_at": ended_at}
    return job(number, dataset, "promoted", version=version, reason=reason, **times)


def rejected(number, dataset, ended_at=NOW - 100):
    reason = {
        "reasons": ["failed: recall on the new data is 62.0 %"],
        "failed": ["recall"],
        "ended_by": "max_rounds",
    }
    return job(number, dataset, "rejected", reason=reason, started_at=ended_at - 60, ended_at=ended_at)


def whole(kind, data):
    """Return JSON data with everything that a record of this kind holds, as a daemon sends it."""
    return json.loads(json.dumps(as_json(read(kind, data))))


def version(name, dataset, recall):
    return whole(
        VersionEntry,
        {
            "version": name,
            "date": "2025-11-21",
            "description": f"learned {dataset}",
            "performance": {"recall": recall, "retention": 0.99},
        },
    )


def described(name="v0.3", **changes):
    """Return a version with all that is kept about it, as the API tells it."""
    papers = {
        "track": "chat",
        "latest": "v0.3",
        "previous": "v0.2",
        "serving": "v0.3",
        **version(name, "campus_dining", 0.962),
        "pinned": True,
        "tags": ["good"],
        "parent": "v0.2",
        "ancestors": ["v0.2", "v0.1"],
        "bytes": 4_212_000,
        "manifest": {
            "base": "5af571cbf074e6d21a03528d2330792e",
            "job": 2,
            "files": {"adapter_model.safetensors": {"sha256": "ab" * 32, "bytes": 4_200_000}},
        },
        "metadata": {
            "framework": {"python": "3.11.7", "torch": "2.9.1"},
            "hardware": {"device": "cpu", "name": "AMD EPYC"},
            "training": {"rounds": 7, "seconds": 312.4, "ended_by": "recall", "tokens_per_second": 512.0},
            "adapter": {"rank": 24, "parameters": 1_053_696},
            "reproducibility": {"seed": 20_261_121, "deterministic": True},
        },
        "calibration": None,
    }
    return whole(VersionPapers, papers | changes)


def completion(content, finish=None, origin=None):
    """Return a whole answer in OpenAI's form."""
    choices = [{"message": {"content": content}, "finish_reason": finish}]
    return whole(Completion, {"id": "chatcmpl-1", "choices": choices, "lorad": origin})


RETENTION = {
    "versions": ["v0.1"],
    "datasets": ["d"],
    "matrix": [[0.9]],
    "counts": [[[9, 10]]],
    "acc": 0.9,
    "bwt": None,
    "fwt": None,
    "forgetting": None,
    "facts_other": None,
    "facts_other_served": None,
}
"""A retention matrix as the API tells it."""


def measured(**changes):
    """Return an evaluation as the API tells it."""
    return {
        "dataset": "campus_cs",
        "scores": {},
        "before": {},
        "broken": 0,
        "mended": 0,
        "perplexity": 9.1,
        "perplexity_base": 9.0,
        "kl_base": 0.01,
        "degenerate": 0,
        "sampled": 6,
        "reload_difference": 0.0,
        "merge_difference": 0.0,
        "truncation_error": 0.0,
        "finite": True,
        "ended_by": "recall",
        **changes,
    }


SESSION = {
    "job": 3,
    "dataset": "campus_housing",
    "phase": "training",
    "round": 4,
    "rounds": 30,
    "step": 52,
    "steps": 390,
    "loss": 0.41,
    "learning_rate": 0.00091,
    "tokens_per_second": 512.0,
    "recall": 0.62,
    "old_recall": 0.99,
    "target": 0.95,
    "eta_seconds": 95.0,
    "elapsed": 61.0,
    "peak_gib": 1.9,
    "history": [
        {"round": 1, "loss": 2.9, "recall": 0.02, "old_recall": None},
        {"round": 2, "loss": 0.41, "recall": 0.62, "old_recall": 0.99},
    ],
}
"""A running session as the API tells it."""


def snapshot(**changes):
    """Return what ``/lorad/status`` tells of a daemon that has learned two datasets and rests."""
    chat = {
        "task": "chat",
        "base": "smollm2",
        "latest": "v0.2",
        "previous": "v0.1",
        "serving": "v0.2",
        "versions": [version("v0.1", "campus_cs", 0.981), version("v0.2", "campus_dining", 0.962)],
        "datasets": [
            {
                "dataset": "campus_cs",
                "examples": 106,
                "learned": 106,
                "recalled": 104,
                "replaced": 0,
                "forgotten": 0,
            },
            {
                "dataset": "campus_dining",
                "examples": 80,
                "learned": 80,
                "recalled": 77,
                "replaced": 0,
                "forgotten": 0,
            },
        ],
    }
    told = {
        "lorad": "0.1.0",
        "home": "/srv/lorad",
        "now": NOW,
        "started_at": NOW - 11_525,
        "pid": 4242,
        "paused": False,
        "ready": True,
        "tracks": {"chat": chat},
        "jobs": [],
        "waiting_files": [],
        "session": None,
        "engine": {"requests": 12, "waiting": 0, "active": 1, "tokens_per_second": 21.5},
        "events": [],
    }
    return whole(Status, told | changes)


def waiting_file(name):
    return {"name": name, "track": "chat", "bytes": 15_320, "age_seconds": 2.1}


def event(number, name, at=NOW, **data):
    return {"id": number, "at": at, "name": name, **data}
