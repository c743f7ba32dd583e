"""Speaking to a running daemon through its Unix socket.

What lives here: one method per answer of the API, which returns the record that the daemon made. What never does: starting a
daemon, printing, judging what an answer means.

The standard library speaks enough HTTP for a socket on the same machine. httpx would read nicer and costs
0.2 s to import, which is more than everything else that ``lorad status`` does.
"""

import contextlib
import http.client
import json
import socket
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from lorad.errors import ConfigError
from lorad.home import check_socket_path
from lorad.records import DOCUMENTS, Job
from lorad.serving import replies
from lorad.serving.answers import (
    Classifications,
    Datasets,
    Difference,
    DocumentList,
    DocumentWithText,
    Events,
    ExamplesPage,
    Explanation,
    FilledTexts,
    Forgotten,
    Jobs,
    JobWithFile,
    MatchedSpectra,
    Pause,
    Pinned,
    Predictions,
    Pruned,
    RemovedDocuments,
    ResumedJob,
    RetentionMatrix,
    Roles,
    SearchResults,
    Status,
    SystemAnswer,
    Tagged,
    TaggedTexts,
    VersionPapers,
    Versions,
)
from lorad.serving.replies import ANSWER_SECONDS, TOKEN_SECONDS, given, version_path

if TYPE_CHECKING:
    from lorad.serving.completions import Completion, CompletionChunk, Models, TextCompletion

T = TypeVar("T")
Messages = Sequence[Mapping[str, Any]]


class UnixConnection(http.client.HTTPConnection):
    """HTTP to a socket in the file system instead of a host and a port."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Answer(replies.Told, Iterator[str]):
    """A streamed answer: its text piece by piece, exactly, and behind the last piece why it ended."""

    def __init__(self, events: "Generator[CompletionChunk, None, None]") -> None:
        self._events = events

    def __next__(self) -> str:
        for event in self._events:
            if text := self.take(event):
                return text
        raise StopIteration

    def close(self) -> None:
        """End the generation, if it has not ended."""
        self._events.close()


class Client:
    """The API of one running daemon."""

    def __init__(self, path: Path, home: Path | None = None) -> None:
        check_socket_path(path)
        self._path = path
        self._home = home or path.parent

    # -- asking

    def is_running(self) -> bool:
        """Tell whether anybody listens; raise ``ConfigError`` where only others may ask."""
        connection = UnixConnection(self._path, ANSWER_SECONDS)
        try:
            self._connect(connection)
        except ConfigError as error:
            if error.code != "not_running":
                raise
            return False
        finally:
            connection.close()
        return True

    def call(
        self, method: str, path: str, body: Any = None, *, timeout: float = ANSWER_SECONDS, **query: Any
    ) -> Any:
        """Ask once and return the answer's JSON; raise what the daemon says is wrong."""
        with self._exchange(method, path, body, timeout, query) as response:
            return replies.parsed(response.read())

    def _ask(self, kind: type[T], method: str, path: str, body: Any = None, **options: Any) -> T:
        """Ask once and return the answer as a record."""
        return replies.record(kind, self.call(method, path, body, **options))

    def stream_chat(self, messages: Messages, model: str = "chat", **options: Any) -> "Answer":
        """Return an answer to iterate over as it is generated; closing it ends the generation."""
        body = {"model": model, "messages": list(messages), "stream": True, **given(options)}
        body["stream_options"] = {"include_usage": True}
        return Answer(self._events("POST", "/v1/chat/completions", body))

    def _events(self, method: str, path: str, body: Any) -> "Generator[CompletionChunk, None, None]":
        with self._exchange(method, path, body, TOKEN_SECONDS) as response:
            yield from _events_of(response)

    def chat(self, messages: Messages, model: str = "chat", **options: Any) -> "Completion":
        """Return a whole answer in OpenAI's form."""
        from lorad.serving.completions import Completion  # noqa: PLC0415 - see lorad.apps.cli

        body = {"model": model, "messages": list(messages), **given(options)}
        return self._ask(Completion, "POST", "/v1/chat/completions", body, timeout=TOKEN_SECONDS)

    def ask(self, question: str, model: str = "chat", **options: Any) -> str:
        """Return the answer to one question, as text."""
        answer = self.chat([{"role": "user", "content": question}], model, **options)
        return answer.choices[0].message.content or ""

    def complete(self, prompt: str, model: str = "chat", **options: Any) -> "TextCompletion":
        """Return what continues a text, in OpenAI's form; no template is put around it."""
        from lorad.serving.completions import TextCompletion  # noqa: PLC0415 - see lorad.apps.cli

        body = {"model": model, "prompt": prompt, **given(options)}
        return self._ask(TextCompletion, "POST", "/v1/completions", body, timeout=TOKEN_SECONDS)

    def embed(self, texts: Sequence[str], model: str = "chat") -> list[tuple[float, ...]]:
        """Return the texts' vectors, of unit length, in their order."""
        body = {"model": model, "input": list(texts)}
        return replies.vectors(self.call("POST", "/v1/embeddings", body, timeout=TOKEN_SECONDS))

    def models(self) -> "Models":
        """Return everything that can be asked."""
        from lorad.serving.completions import Models  # noqa: PLC0415 - see lorad.apps.cli

        return self._ask(Models, "GET", "/v1/models")

    def predict(self, model: str, inputs: Sequence[Any]) -> Predictions:
        """Return the answers of a track whose task answers with data."""
        body = {"model": model, "inputs": list(inputs)}
        return self._ask(Predictions, "POST", "/lorad/predict", body, timeout=TOKEN_SECONDS)

    def tag_texts(self, texts: Sequence[str], model: str = "ner") -> TaggedTexts:
        """Return the labelled spans of some texts, at most 64."""
        body = {"model": model, "texts": list(texts)}
        return self._ask(TaggedTexts, "POST", "/lorad/tag", body, timeout=TOKEN_SECONDS)

    def match_spectra(self, spectra: Sequence[Mapping[str, Any]], model: str = "spectra") -> MatchedSpectra:
        """Return how well molecules match spectra, at most 64: each has ``mzs``, ``intensities``, and ``smiles`` or ``candidates``."""
        body = {"model": model, "spectra": [dict(each) for each in spectra]}
        return self._ask(MatchedSpectra, "POST", "/lorad/spectra", body, timeout=TOKEN_SECONDS)

    def classify(self, model: str, texts: Sequence[str]) -> Classifications:
        """Return what texts are, by a track that learns their labels."""
        body = {"model": model, "texts": list(texts)}
        return self._ask(Classifications, "POST", "/lorad/classify", body, timeout=TOKEN_SECONDS)

    def fill(self, model: str, texts: Sequence[str], top_k: int = 5) -> FilledTexts:
        """Return what stands in the gaps (``[MASK]``) of texts, by a model from scratch."""
        body = {"model": model, "texts": list(texts), "top_k": top_k}
        return self._ask(FilledTexts, "POST", "/lorad/fill-mask", body, timeout=TOKEN_SECONDS)

    def ask_system(self, system: str, texts: Sequence[str], variant: str | None = None) -> SystemAnswer:
        """Return what the chain of a system says of texts, step by step."""
        body = {"texts": list(texts), **given({"variant": variant})}
        return self._ask(
            SystemAnswer, "POST", f"/lorad/systems/{quote(system, safe='')}", body, timeout=TOKEN_SECONDS
        )

    def search(self, query: str, track: str = DOCUMENTS, k: int = 10, **options: Any) -> SearchResults:
        """Return the passages of documents that are nearest to a query; options as ``POST /lorad/search`` has them."""
        body = {"track": track, "query": query, "k": k, **given(options)}
        return self._ask(SearchResults, "POST", "/lorad/search", body, timeout=TOKEN_SECONDS)

    def documents(self, track: str = DOCUMENTS, name: str = "", before: int | None = None) -> DocumentList:
        """Return a track's newest thousand documents, or those older than one; of all, or of one file, title or url."""
        return self._ask(
            DocumentList, "GET", "/lorad/documents", track=track, name=name, **given({"before": before})
        )

    def document(self, document: int, track: str = DOCUMENTS) -> DocumentWithText:
        """Return a document with its text."""
        return self._ask(DocumentWithText, "GET", f"/lorad/documents/{document}", track=track)

    def remove_documents(
        self, documents: Sequence[int] = (), name: str = "", track: str = DOCUMENTS
    ) -> RemovedDocuments:
        """Remove documents by number, or all of one file, title or url."""
        body = {"track": track, "documents": list(documents), "name": name}
        return self._ask(RemovedDocuments, "POST", "/lorad/documents/remove", body)

    @contextlib.contextmanager
    def _exchange(
        self, method: str, path: str, body: Any, timeout: float, query: Mapping[str, Any] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = UnixConnection(self._path, timeout)
        try:
            self._connect(connection)
            with _broken_connections():
                payload = None if body is None else json.dumps(body).encode()
                headers = {} if payload is None else {"Content-Type": "application/json"}
                with contextlib.suppress(BrokenPipeError):  # refused before all was sent: the answer says why
                    connection.request(method, replies.target(path, query or {}), payload, headers)
                response = connection.getresponse()
                if response.status >= http.client.BAD_REQUEST:
                    raise replies.complaint(response.status, response.read())
                yield response
        finally:
            connection.close()

    def _connect(self, connection: UnixConnection) -> None:
        try:
            connection.connect()
        except OSError as error:
            raise replies.no_connection(error, self._path, self._home) from None

    # -- the API

    def status(self) -> Status:
        """Return the snapshot that ``status`` and the monitor show."""
        return self._ask(Status, "GET", "/lorad/status")

    def jobs(self) -> Jobs:
        """Return the jobs, newest first."""
        return self._ask(Jobs, "GET", "/lorad/jobs")

    def job(self, job: int) -> JobWithFile:
        """Return one job."""
        return self._ask(JobWithFile, "GET", f"/lorad/jobs/{job}")

    def retry(self, job: int, *, force: bool = False, settings: Mapping[str, Any] | None = None) -> Job:
        """Queue a job again, perhaps by force or with other settings."""
        body = {"force": force, "settings": dict(settings or {})}
        return self._ask(Job, "POST", f"/lorad/jobs/{job}/retry", body)

    def resume_job(self, job: int, checkpoint: str | None = None) -> ResumedJob:
        """Queue a job again, to continue after its newest complete checkpoint or the one named."""
        return self._ask(ResumedJob, "POST", f"/lorad/jobs/{job}/resume", {"checkpoint": checkpoint})

    def cancel(self, job: int) -> Job:
        """Take a job out of the queue or end its session."""
        return self._ask(Job, "POST", f"/lorad/jobs/{job}/cancel", {})

    def pause(self) -> Pause:
        """Start no more sessions."""
        return self._ask(Pause, "POST", "/lorad/pause", {})

    def resume(self) -> Pause:
        """Start sessions again."""
        return self._ask(Pause, "POST", "/lorad/resume", {})

    def versions(self, track: str) -> Versions:
        """Return a track's versions and which of them serve."""
        return self._ask(Versions, "GET", "/lorad/versions", track=track)

    def version(self, track: str, version: str) -> VersionPapers:
        """Return all that is kept about a version."""
        return self._ask(VersionPapers, "GET", version_path(version), track=track)

    def pin(self, track: str, version: str, *, pinned: bool) -> Pinned:
        """Keep a version whatever the limits say, or no longer."""
        body = {"track": track, "pinned": pinned}
        return self._ask(Pinned, "POST", f"{version_path(version)}/pin", body)

    def tag(self, track: str, version: str, tag: str, *, remove: bool = False) -> Tagged:
        """Give a version a name of its own, or take it away."""
        body = {"track": track, "tag": tag, "remove": remove}
        return self._ask(Tagged, "POST", f"{version_path(version)}/tags", body)

    def prune(self, track: str, *, dry_run: bool = False, **limits: int | None) -> Pruned:
        """Remove the versions beyond the limits: the settings', or those given."""
        body = {"track": track, "dry_run": dry_run, **given(limits)}
        return self._ask(Pruned, "POST", "/lorad/versions/prune", body)

    def explain(self, track: str, version: str) -> Explanation:
        """Return why a version was promoted."""
        return self._ask(Explanation, "GET", f"{version_path(version)}/explain", track=track)

    def rollback(self, track: str, to: str | None = None) -> Roles:
        """Serve ``previous`` again, or the version named, or ``base`` alone."""
        body = {"track": track, "to": to}  # a version may have to be read, behind the answers that wait
        return self._ask(Roles, "POST", "/lorad/rollback", body, timeout=TOKEN_SECONDS)

    def memory(self, track: str) -> Datasets:
        """Return what is kept of each dataset."""
        return self._ask(Datasets, "GET", "/lorad/memory", track=track)

    def examples(self, track: str, dataset: str | None = None) -> Iterator[Mapping[str, Any]]:
        """Yield every example in memory, or one dataset's, as rows to export; asks page by page."""
        after = 0
        only = given({"dataset": dataset})
        while page := self._page(track, after, only):
            yield from page
            after = page[-1]["provenance"]["row"]

    def _page(self, track: str, after: int, only: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
        return self._ask(
            ExamplesPage, "GET", "/lorad/memory/examples", track=track, after=after, **only
        ).examples

    def forget(self, track: str, selector: str, *, dry_run: bool = False) -> Forgotten:
        """Remove examples from memory, or only count them."""
        body = {"track": track, "selector": selector, "dry_run": dry_run}
        return self._ask(Forgotten, "POST", "/lorad/forget", body)

    def consolidate(self, track: str, *, refit: bool = False) -> Job:
        """Queue a job that makes the adapter smaller, or learns everything anew."""
        return self._ask(Job, "POST", "/lorad/consolidate", {"track": track, "refit": refit})

    def retention(self, track: str) -> RetentionMatrix:
        """Return the retention matrix."""
        return self._ask(RetentionMatrix, "GET", "/lorad/retention", track=track)

    def diff(self, track: str, a: str, b: str) -> Difference:
        """Return the examples that one version answers right and the other does not."""
        return self._ask(Difference, "GET", "/lorad/diff", track=track, a=a, b=b)

    def events(self, after: int | None = None) -> Events:
        """Return all events after an id, or the newest, oldest first."""
        return self._ask(Events, "GET", "/lorad/events", **given({"after": after}))


@contextlib.contextmanager
def _broken_connections() -> Iterator[None]:
    """Say in a sentence that the daemon went away, or is silent, in the middle of an exchange."""
    try:
        yield
    except (http.client.HTTPException, OSError) as error:
        raise replies.broken(error) from None


def _events_of(response: http.client.HTTPResponse) -> "Iterator[CompletionChunk]":
    for line in response:
        if replies.is_end(line):
            return
        if event := replies.event(line):
            yield event
    raise replies.broken_off()
