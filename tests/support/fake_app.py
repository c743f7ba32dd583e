"""A daemon behind a real server: it answers every question with the same chunks."""

import contextlib
import threading
import time
from dataclasses import replace

import numpy as np
import uvicorn
from fake_daemon import DOCUMENT, PASSAGE

from lorad.config import SystemSettings
from lorad.errors import ProtocolError, RegistryError
from lorad.records import Job
from lorad.serving.answers import (
    Classification,
    Classifications,
    DocumentList,
    DocumentSummary,
    DocumentWithText,
    FoundPassage,
    ModelDescription,
    Pinned,
    Pruned,
    RemovedDocuments,
    ResumedJob,
    SearchResults,
    SystemMember,
    Tagged,
    VersionPapers,
)
from lorad.serving.completions import Model
from lorad.serving.http.server import build
from lorad.serving.http.unix_socket import bind
from lorad.serving.record_json import fields_of, read
from lorad.serving.requests import Chunk, GenerationRequest, PredictionRequest
from lorad.serving.systems import Chain
from lorad.states import JobState

HELLO = [{"role": "user", "content": "hello"}]


class FakeDaemon:
    """Answers every question with the same chunks, and remembers what it was asked."""

    def __init__(self):
        self.asked = []
        self.chunks = [Chunk("See https://a.example/x?y=1 "), Chunk(" and é\n"), Chunk("", "stop", 7, 3)]
        self.error = None
        self.reply = None
        self.room = 100
        self.said = None
        self.archive = self
        self.turn = threading.Event()

    def require_room(self, answers):
        if answers > self.room:
            raise ProtocolError("too many questions are waiting", status=503, code="busy", retry_after=1)

    def ask(self, model, messages, sampling, *, retrieve, schema=None, must_call=()):
        if self.error:
            raise self.error
        self.schema, self.must_call = schema, must_call
        self.asked.append((model, messages, sampling))
        self.retrieve = retrieve
        asked = GenerationRequest(
            model.partition("@")[0], "v0.1", [], sampling, self.reply if retrieve else None
        )
        for chunk in self.chunks:
            asked.chunks.put(chunk)
        return asked, "v0.1-abc"

    def complete(self, prompt, model, sampling):
        return self.ask(model, prompt, sampling, retrieve=False)

    def predict(self, model, inputs, formats=None):
        if self.error:
            raise self.error
        self.formats = formats
        request = PredictionRequest(model, "v0.1", inputs)
        untold = {"spans": []} if formats == "tagging" else None
        request.answers.put([self.said or untold or {"label": asked} for asked in inputs])
        return request, "v0.1-abc"

    def classify(self, model, texts):
        if self.error:
            raise self.error
        request = PredictionRequest(model, "v0.1", texts)
        request.answers.put([spam(text) for text in texts])
        return request, "v0.1-abc"

    def fill(self, model, texts, top_k):
        if self.error:
            raise self.error
        request = PredictionRequest(model, "v0.1", texts)
        gaps = [[{"word": " x", "probability": 0.5}] * top_k]
        request.answers.put([{"text": text.replace("[MASK]", "x"), "gaps": gaps} for text in texts])
        return request, "v0.1-abc"

    def system(self, name, variant):
        if name != "lcr":
            raise ProtocolError(f"there is no system {name!r}", status=404, code="no_such_system")
        settings = SystemSettings.model_validate({"classifier": {"track": "mail"}})
        return Chain(name, settings, {"classifier": (variant or "", "mail")})

    def ask_system(self, chain, texts):
        if self.error:
            raise self.error

        def ask(track, asked):
            said = tuple(read(Classification, spam(text)) for text in asked)
            return Classifications(model=f"{track}@v0.1", classifications=said)

        def describe(role, track, variant):
            return SystemMember(role=role, track=track, variant=variant, version="base", corrupt=("v0.2",))

        return chain.run(texts, ask, describe)

    def embed(self, model, texts):
        if self.error:
            raise self.error
        self.asked.append((model, texts))
        rows = np.array([[1.0, -0.5, len(text)] for text in texts], dtype=np.float32)
        return "minilm", rows, sum(map(len, texts))

    def is_ready(self):
        return True

    def models(self):
        return (Model(id="chat", created=1),)

    def describe(self, model):
        if model.partition("@")[0] != "chat":
            raise ProtocolError(f"there is no model {model!r}", status=404, code="model_not_found")
        return ModelDescription(
            track="chat",
            version="v0.1",
            digest="ab" * 32,
            since=1_763_700_000.0,
            base="smollm2",
            architecture="llama",
            parameters=134_515_008,
            bytes=269_060_552,
            precision="bfloat16",
            context=8192,
            width=576,
            template="{{ messages }}",
            can_call=True,
        )

    def search(self, track, query, k, how, where):
        self.asked.append((track, query, k, how, where))
        if track != "documents":
            raise ProtocolError(f"there is no track of documents {track!r}", status=404, code="no_such_track")
        return SearchResults(track=track, passages=(read(FoundPassage, PASSAGE),), left=3)

    def documents(self, track, name, before, limit):
        self.asked.append((track, name, before, limit))
        return DocumentList(track=track, documents=(read(DocumentSummary, DOCUMENT),))

    def document(self, track, document):
        self.asked.append((track, document))
        if document != DOCUMENT["id"]:
            raise ProtocolError(f"there is no document {document}", status=404, code="no_such_document")
        return DocumentWithText(**fields_of(read(DocumentSummary, DOCUMENT)), text="a mill", spans=((0, 6),))

    def remove_documents(self, track, documents, name):
        self.asked.append((track, documents, name))
        return RemovedDocuments(track=track, documents=(read(DocumentSummary, DOCUMENT),))

    def cancel(self, job):
        self.turn.wait(10)
        return made(job)

    def job(self, job):
        raise ProtocolError(f"there is no job {job}", status=404, code="no_such_job")

    def rollback(self, track, to):
        raise RegistryError(f"{to} of {track} was found damaged", code="version_damaged")

    def retry(self, job, *, force, settings):
        return replace(made(job), force=force, settings=settings)

    def resume(self, job, checkpoint):
        return ResumedJob(**fields_of(made(job)), checkpoint=checkpoint)

    def version(self, track, version):
        return VersionPapers(track=track, version=version)

    def pin(self, track, version, *, pinned):
        return Pinned(version=f"{track} {version}", pinned=pinned)

    def tag(self, track, version, tag, *, remove):
        return Tagged(version=f"{track} {version}", tag=tag, removed=remove)

    def prune(self, track, limits, *, dry_run):
        return Pruned(pruned={track: str(limits)}, dry_run=dry_run)


def spam(text):
    """Return what a classifier says of a text: that it is spam if it promises a prize."""
    label = "spam/prize" if "prize" in text else "ham"
    levels = [{"label": each, "probability": 0.9} for each in ("spam", "spam/prize") if label != "ham"]
    return {
        "label": label,
        "labels": [label],
        "confidence": 0.9,
        "probabilities": {label: 0.9},
        "levels": levels,
    }


def made(job):
    """Return a job that waits for its turn."""
    return Job(id=job, track="chat", dataset="doors", state=JobState.QUEUED, created_at=1.0)


@contextlib.contextmanager
def served(daemon, place, settings=None, token=None, more=()):
    """Answer on a real socket with a real server, and on more sockets."""
    listener = bind(place)
    app = build(daemon, settings, token)
    http_server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=http_server.run, kwargs={"sockets": [listener, *more]})
    thread.start()
    while not http_server.started:
        time.sleep(0.01)
    try:
        yield place
    finally:
        http_server.should_exit = True
        thread.join()
        listener.close()
