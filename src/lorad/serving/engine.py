"""Answering: requests come in at the queue's door, a backend makes the tokens, text goes out.

What lives here: the bounded queue of requests, which version a request gets and which ones stay in memory, handing answers
to a backend and their tokens on as text. What never does: threads (whoever owns one calls ``work``), HTTP, choosing versions,
generating (``backends``).

A request keeps the version that served when it was accepted, to its last token: the name is resolved at
the door, and a version stays in memory while anybody waits for it.
"""

import contextlib
import functools
import itertools
import queue
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import exp
from pathlib import Path
from statistics import median
from typing import Any, TypeVar, cast

from lorad.config import EngineSettings
from lorad.errors import LoradError, ProtocolError, RegistryError, SampleError
from lorad.models.bases import Base
from lorad.models.context import context_length
from lorad.models.hardware import is_short_of_memory
from lorad.models.token_bytes import TokenBytes
from lorad.records import BASE, canonical
from lorad.retrieval.answering import Mode, Reply
from lorad.serving import backends
from lorad.serving.backends.interface import Capabilities, Form, Generation, Surroundings, VersionFiles
from lorad.serving.requests import (
    GenerationRequest,
    PredictionRequest,
    Request,
    Sampling,
    TokenLogprobs,
)
from lorad.serving.retrieval import LookUp, nothing
from lorad.serving.streaming import Streamer, quoted
from lorad.tasks import Generating, Predicting, Task

T = TypeVar("T")

LONGEST_TOKEN = 32
"""Characters that a token has at most, on average: so many more than in any text that what is longer is not even counted."""

METERED_ANSWERS = 100
"""Answers, the last ones, of which the median time to the first token is told."""

METERED_SECONDS = 10.0
"""Work of this length behind, a step counts a third as much in the speed that is told."""

PREDICTED_TOGETHER = 16
"""Requests for data that are answered in one go."""

NAP = 0.01
"""Seconds between two looks at a session's claim."""
UNKNOWN_CONTEXT = 4096
"""Most tokens of prompt and answer together that are taken by default where a model does not name its context."""


def check_length(question: Any, context: int | None) -> None:
    """Raise ``ProtocolError`` on a question that no context of this length can hold: tokenizing it would take minutes."""
    if context is None:
        return
    length, most = len(canonical(question)), context * LONGEST_TOKEN
    if length > most:
        raise ProtocolError(
            f"the context length is {context} tokens, and the messages have {length} characters; send fewer than {most}",
            code="context_length_exceeded",
            param="messages",
        )


def answer_room(prompt: int, context: int | None, wanted: int | None) -> int:
    """Return how many tokens an answer may have; raise ``ProtocolError`` when the context has no room for them."""
    if context is None:
        return wanted or max(1, UNKNOWN_CONTEXT - prompt)
    left = context - prompt
    length = f"the context length is {context} tokens"
    if left < 1:
        raise ProtocolError(
            f"{length}, and the prompt has {prompt}, which leaves no room for an answer; shorten the messages",
            code="context_length_exceeded",
            param="messages",
        )
    if wanted is not None and wanted > left:
        raise ProtocolError(
            f"{length}; the prompt has {prompt} and max_tokens asks for {wanted} more; ask for at most {left}",
            code="context_length_exceeded",
            param="max_tokens",
        )
    return wanted or left


class ServedTrack:
    """A track's place in the engine: its task, its base, the versions in memory, and what serves."""

    def __init__(self, track: str, task: Task, base: Base) -> None:
        self._track = track
        self.task = task
        self.base = base
        self.serving = BASE
        self.form = Form(kind="base")
        """How that is held."""
        self.hashes: dict[str, str] = {BASE: base.fingerprint[:12]}
        self.recent: OrderedDict[str, None] = OrderedDict()
        """The versions in memory, the one that was asked for last behind the others."""

    @functools.cached_property
    def token_bytes(self) -> TokenBytes:
        """What each token writes; made for the first who asks for probabilities."""
        return TokenBytes(self.base.tokenizer)

    def name(self, version: str) -> str:
        """Return a version's name for the backend: it holds the hash, so that it never names another one."""
        return f"{self._track}@{version}-{self.hashes.get(version, 'unknown')}"

    def holds(self, version: str) -> bool:
        """Tell whether a version, or the base, is in memory."""
        return version == BASE or version in self.recent


class Engine:
    """Answers questions about any track from any of its versions.

    Raise ``ConfigError`` where the settings ask for a backend that is not there. ``tell_busy`` is told, with a lock held,
    whether anybody waits for an answer. While ``is_claimed``, a session has the device for itself, and answers wait.
    """

    def __init__(
        self,
        settings: EngineSettings,
        tell_busy: Callable[[bool], None] = lambda _: None,
        surroundings: Surroundings | None = None,
        is_claimed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self.choice = backends.chosen(settings)
        self._backend = backends.choose(settings, surroundings)
        self._tell_busy = tell_busy
        self._is_claimed = is_claimed
        self._served: dict[str, ServedTrack] = {}
        self._queue: queue.Queue[Request | Callable[[], None]] = queue.Queue()
        self._door = threading.Lock()
        self._loading = threading.Lock()
        """Held while versions come, go, or change places: seconds."""
        self._accepted: list[Request] = []
        self._preparing: list[tuple[str, str]] = []
        """Track and version of the requests whose prompt is being made: they have their places in the queue."""
        self._held: list[tuple[str, str]] = []
        """Track and version of what somebody is about to ask or to serve."""
        self._predictions: deque[PredictionRequest] = deque()
        self.requests = 0
        self._modes: Counter[Mode] = Counter()
        self._speed = _Speed()
        self._firsts: deque[float] = deque(maxlen=METERED_ANSWERS)
        """Seconds from the door to the first token."""
        self._is_busy = False
        """Whether the backend had something to do the last time."""
        self._is_predicting = False

    # -- versions

    def attach(self, track: str, task: Task, base: Base) -> None:
        """Give a track its place; until a version is served the base answers."""
        task.check_tokenizer(base.tokenizer)
        served = ServedTrack(track, task, base)
        self._backend.attach(track, task, base, served.name(BASE))
        self._served[track] = served

    def base(self, track: str) -> Base:
        """Return the track's base model."""
        return self._find(track).base

    def capabilities(self, track: str) -> Capabilities:
        """Return what the backend can do for a track."""
        self._find(track)
        return self._backend.capabilities(track)

    def task(self, track: str) -> Task:
        """Return the track's task."""
        return self._find(track).task

    def serving(self, track: str) -> str:
        """Return the version that new requests get."""
        return self._find(track).serving

    def form(self, track: str) -> Form:
        """Return how that version is held."""
        return self._find(track).form

    def load(
        self, track: str, version: str, folder: Path, fingerprint: str, base_folder: Path | None = None
    ) -> list[str]:
        """Bring a version into memory beside what answers; raise ``RegistryError`` when it proves unsound.

        Return what differs from the environment that it was made in.
        """
        served = self._find(track)
        differs: list[str] = []
        with self._loading:
            if not served.holds(version):
                served.hashes[version] = fingerprint[:12]
                name = served.name(version)
                differs = self._backend.load(
                    VersionFiles(name=name, track=track, folder=folder, base_folder=base_folder)
                )
            self._make_room(track, served, version)
        return differs

    def serve(self, track: str, version: str | None) -> Form:
        """Give new requests this version (or the base); requests already accepted keep theirs.

        Return how it is held from now on.
        """
        served, wanted = self._find(track), version or BASE
        with self._loading:
            if not served.holds(wanted):
                raise RegistryError(f"{version} is not loaded", code="not_loaded", version=version)
            form = self._backend.prefer(served.name(wanted))
            with self._door:
                served.serving, served.form = wanted, form
        return form

    @contextlib.contextmanager
    def hold(self, track: str, version: str) -> Iterator[None]:
        """Keep a version in memory for the time of a block, in which it is loaded, and then asked or served."""
        with self._door:
            self._held.append((track, version))
        try:
            yield
        finally:
            with self._door:
                self._held.remove((track, version))

    def _make_room(self, track: str, served: ServedTrack, keep: str) -> None:
        with self._door:
            served.recent[keep] = None
            served.recent.move_to_end(keep)
        self._drop_old(track, served, keep)

    def _drop_old(self, track: str, served: ServedTrack, keep: str) -> None:
        """Drop what was asked for longest ago beyond the limit, but nothing that somebody waits for."""
        with self._door:
            waiting = ((request.track, request.version) for request in self._accepted)
            asked = [*self._preparing, *self._held, *waiting]
            busy = {waited_for for name, waited_for in asked if name == track} | {keep, served.serving}
            for version in list(served.recent):
                if len(served.recent) <= self._settings.max_loaded_versions:
                    break
                if version not in busy:
                    del served.recent[version]
                    self._backend.drop(served.name(version))

    def between_requests(self, act: Callable[[], T]) -> T:
        """Run something on the thread that generates, wait for it, and return what it returns."""
        done: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

        def run() -> None:
            try:
                done.put((act(), None))
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits; a panic of Rust's is no Exception
                done.put((None, error))

        self._queue.put(run)
        found, error = done.get()
        if error is not None:
            raise error
        return cast("T", found)

    def _find(self, track: str) -> ServedTrack:
        if track not in self._served:
            raise ProtocolError(
                f"there is no model {track!r}; known: {', '.join(self._served)}",
                status=404,
                code="model_not_found",
            )
        return self._served[track]

    # -- requests

    def resident(self, track: str, version: str) -> bool:
        """Tell whether a version is in memory."""
        return self._find(track).holds(version)

    def fingerprint(self, track: str, version: str) -> str:
        """Return ``system_fingerprint``: the version and the first digits of its hash."""
        return f"{version}-{self._find(track).hashes.get(version, 'unknown')}"

    def submit(
        self,
        track: str,
        question: Any,
        sampling: Sampling,
        version: str | None = None,
        look_up: LookUp = nothing,
        guided: Callable[[Sampling], Sampling] | None = None,
    ) -> GenerationRequest:
        """Accept a question at the end of the queue; raise ``ProtocolError`` (503) when the queue is full.

        ``look_up`` is asked first, in this thread and with no lock held. What it has a text for is answered at once, and
        never stands in the queue. ``guided`` makes what else the sampling needs, which may take a second: only for who has a
        place, and before anything is generated.
        """
        served = self._find(track)
        self._check_logprobs(track, sampling)
        with self._place(track, version) as kept:
            task = _generating(served.task, track)
            _require_learned(task, track, kept)
            check_length(question, context_length(served.base.model.config))
            reply = look_up(kept, question)
            if reply is not None and reply.text is not None:
                return self._quote(served, GenerationRequest(track, kept, [], sampling, reply), reply.text)
            reply, prompt, room = self._prompt(served, task, question, reply, sampling)
            sampling = replace(sampling, max_tokens=self._capped(room, sampling.max_tokens))
            sampling = guided(sampling) if guided else sampling
            request = GenerationRequest(track, kept, prompt, sampling, reply)
            with self._door:
                self._enter(request)
        return request

    def _check_logprobs(self, track: str, sampling: Sampling) -> None:
        if sampling.logprobs is not None and not self.capabilities(track).logprobs:
            raise ProtocolError(
                f"the backend that answers for {track} does not tell how likely tokens are; leave logprobs out, or set "
                "engine.backend to builtin",
                code="unsupported_parameter",
                param="logprobs",
            )

    def _prompt(
        self, served: ServedTrack, task: Generating, question: Any, reply: Reply | None, sampling: Sampling
    ) -> tuple[Reply | None, list[int], int]:
        """Return the prompt, and how many tokens its answer may have.

        Where the example's own conversation, or the passages before a question, leave no room for the answer that is asked
        for, or cannot be written, the question is asked as it is: nobody is told off for messages that they did not send.
        """
        tokenizer, context = served.base.tokenizer, context_length(served.base.model.config)
        if reply is not None and reply.messages is not None and reply.mode in ("taught", "passages"):
            with contextlib.suppress(ProtocolError, SampleError):
                prompt = task.prompt(tokenizer, reply.messages)
                return reply, prompt, answer_room(len(prompt), context, sampling.max_tokens)
            reply = None
        with _as_protocol_errors():
            prompt = task.prompt(tokenizer, question)
        return reply, prompt, answer_room(len(prompt), context, sampling.max_tokens)

    def predict(self, track: str, inputs: Sequence[Any], version: str | None = None) -> PredictionRequest:
        """Accept inputs to be answered with data, all at once; raise ``ProtocolError`` as ``submit`` does."""
        served = self._find(track)
        with self._place(track, version) as kept:
            rows = [self._question(served, track, asked, at) for at, asked in enumerate(inputs)]
            request = PredictionRequest(track, kept, rows)
            with self._door:
                self._enter(request)
        return request

    def _enter(self, request: Request) -> None:
        self._count(request)
        self._accepted.append(request)
        self._note_busy()
        self._queue.put(request)

    def _note_busy(self) -> None:
        """Tell whether anybody waits for an answer, or for a prompt: it may be looked up first, which computes too."""
        self._tell_busy(bool(self._accepted or self._preparing))

    def _count(self, request: Request) -> None:
        self.requests += 1
        if isinstance(request, GenerationRequest) and request.reply is not None:
            self._modes[request.reply.mode] += 1

    @property
    def modes(self) -> Mapping[Mode, int]:
        """Return how many questions were answered in which way; those that were not looked up are in none."""
        with self._door:
            return dict(self._modes)

    def _quote(self, served: ServedTrack, request: GenerationRequest, text: str) -> GenerationRequest:
        """Answer with a known text, within the limits that generating it would have had."""
        task, tokenizer = _generating(served.task, request.track), served.base.tokenizer
        sampling = request.sampling
        most = sampling.max_tokens or self._settings.max_new_tokens
        for chunk in quoted(
            text,
            replace(sampling, max_tokens=most),
            partial(tokenizer.encode, add_special_tokens=False),
            partial(task.text, tokenizer),
        ):
            request.chunks.put(chunk)
        with self._door:
            self._count(request)
        return request

    def _question(self, served: ServedTrack, track: str, asked: Any, number: int) -> Any:
        if not isinstance(served.task, Predicting):
            raise _other_way(track, served.task, "POST /v1/chat/completions")
        context = context_length(served.base.model.config)
        with _about_input(number, has_fields=isinstance(asked, Mapping)):
            if served.task.is_text:
                check_length(asked, context)
            row = served.task.question(served.base.tokenizer, asked)
            if context is not None and len(row) > context:
                raise ProtocolError(
                    f"the context length is {context} tokens, and the input has {len(row)}; send a shorter one",
                    code="context_length_exceeded",
                )
        return row

    def require_room(self, answers: int = 1) -> None:
        """Raise ``ProtocolError`` (503) where the queue has no room for so many answers.

        It holds no place: it spares the work for a request that would be sent away at once.
        """
        with self._door:
            self._require_room(answers)

    def _require_room(self, answers: int = 1) -> None:
        self._drop_cancelled()
        if self._wanted() + len(self._preparing) + answers > self._settings.max_queued_requests:
            raise ProtocolError(
                "too many questions are waiting; try again in a second",
                status=503,
                code="busy",
                retry_after=1,
            )

    @contextlib.contextmanager
    def _place(self, track: str, version: str | None) -> Iterator[str]:
        """Hold a place in the queue while a prompt is made; raise ``ProtocolError`` (503) when there is none.

        Yield the version that answers: the one named, or what serves now. It stays in memory meanwhile.
        """
        with self._door:
            self._require_room()
            served = self._find(track)
            kept = track, version or served.serving
            self._preparing.append(kept)
            self._note_busy()
            if kept[1] in served.recent:  # what was asked last is dropped last
                served.recent.move_to_end(kept[1])
        try:
            yield kept[1]
        finally:
            with self._door:
                self._preparing.remove(kept)
                self._note_busy()

    def _drop_cancelled(self) -> None:
        """Take those out of the queue for which nobody waits any more: whoever asks and leaves must not fill it."""
        with self._queue.mutex:
            queued = self._queue.queue
            left = [item for item in queued if isinstance(item, Request) and item.cancelled.is_set()]
            for request in left:
                queued.remove(request)
        for request in left:
            self._accepted.remove(request)
            request.end_cancelled()  # whoever still listens is not left waiting
        if left:
            self._note_busy()

    def _capped(self, room: int, wanted: int | None) -> int:
        """Hold an answer of no stated length to the operator's limit, if there is one."""
        cap = self._settings.max_new_tokens
        return room if wanted is not None or cap is None else min(room, cap)

    @property
    def waiting(self) -> int:
        """Count the requests that are not yet answered, those being answered included."""
        with self._door:
            return self._wanted()

    def _wanted(self) -> int:
        """Count those that somebody still waits for: who has left must not keep others out."""
        return sum(not request.cancelled.is_set() for request in self._accepted)

    @property
    def active(self) -> int:
        """Count the requests that are being answered."""
        return self._backend.active + self._is_predicting

    @property
    def tokens_per_second(self) -> float | None:
        """Return how many tokens are made in a second of work, of all answers together; ``None`` before the first."""
        return self._speed.per_second

    @property
    def cache_bytes(self) -> int | None:
        """Return how much memory keys and values of the answers take, ``None`` where the backend cannot tell."""
        return self._backend.cache_bytes

    @property
    def first_token_seconds(self) -> float | None:
        """Return the median time from the door to the first token, of the last answers; ``None`` before the first."""
        return median(firsts) if (firsts := list(self._firsts)) else None

    # -- work

    def close(self) -> None:
        """End what the backend runs outside this process; nothing is answered any more."""
        self._backend.close()

    def work(self, timeout: float) -> bool:
        """Take in what has come, then do the next bit of work; return whether there was any within ``timeout`` seconds."""
        is_busy = self._is_busy or bool(self._predictions)
        if is_busy and self._is_claimed():
            self._take_in(NAP)
            return True
        came = self._take_in(0 if is_busy else timeout)
        predicted, self._is_busy = self._predict_next(), self._step()
        return came or predicted or self._is_busy

    def _take_in(self, timeout: float) -> bool:
        """Begin everything that waits at the door, for whose first one so many seconds are waited."""
        came = False
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._queue.get(block=timeout > 0 and not came, timeout=timeout)
                came = True
                if not isinstance(item, Request):
                    item()
                    break  # answers take a step between two of these, or who keeps asking stops them all
                self._begin(item)
        return came

    def _begin(self, request: Request) -> None:
        served = self._find(request.track)
        try:
            if request.cancelled.is_set():
                request.end_cancelled()  # whoever still listens is not left waiting
            elif not served.holds(request.version):
                request.fail(RegistryError(f"{request.version} is not in memory", code="not_loaded"))
            elif isinstance(request, PredictionRequest):
                self._predictions.append(request)
                return
            else:
                self._backend.submit(self._generation(served, request))
                return
        except BaseException as error:  # noqa: BLE001 - the client is told; a panic of Rust's is no Exception
            request.fail(_as_error(error))
        self._leave(request)

    def _generation(self, served: ServedTrack, request: GenerationRequest) -> Generation:
        tokenizer, task = served.base.tokenizer, cast("Generating", served.task)
        ends = set(task.stop_tokens(tokenizer))
        written = None if request.sampling.logprobs is None else served.token_bytes
        return Generation(
            name=served.name(request.version),
            prompt=request.prompt,
            sampling=request.sampling,
            ends=frozenset(ends),
            sink=_Answer(
                request,
                Streamer(request, partial(task.text, tokenizer), ends, written),
                leave=self._leave,
                note_first=self._firsts.append,
            ),
        )

    def _leave(self, request: Request) -> None:
        with self._door:
            self._accepted.remove(request)
            self._note_busy()
        served = self._served[request.track]
        is_crowded = len(served.recent) > self._settings.max_loaded_versions
        # whoever is loading makes room at the end, and answers do not wait for that
        if is_crowded and self._loading.acquire(blocking=False):
            try:
                self._drop_old(request.track, served, served.serving)
            finally:
                self._loading.release()

    def _step(self) -> bool:
        began = time.perf_counter()
        made = self._backend.step()
        if made is None:
            return False
        self._speed.add(made, time.perf_counter() - began)
        return True

    def _predict_next(self) -> bool:
        """Answer the next request with data, and with it those behind it that ask the same version."""
        came = self._next_predictions()
        together = []
        for request in came:
            request.end_cancelled() if request.cancelled.is_set() else together.append(request)
        self._is_predicting = bool(together)
        error = self._try(together) if together else None
        if error is not None:  # one of them alone may be too much
            for request in together:
                failed = error if len(together) == 1 else self._try([request])
                if failed is not None:
                    request.fail(_as_error(failed))
        self._is_predicting = False
        for request in came:
            self._leave(request)
        return bool(came)

    def _next_predictions(self) -> list[PredictionRequest]:
        found: list[PredictionRequest] = []
        while self._predictions and len(found) < PREDICTED_TOGETHER:
            request = self._predictions[0]
            if found and (request.track, request.version) != (found[0].track, found[0].version):
                break
            found.append(self._predictions.popleft())
        return found

    def _try(self, together: Sequence[PredictionRequest]) -> BaseException | None:
        try:
            self._predict(together)
        except BaseException as error:  # noqa: BLE001 - the client is told; a panic of Rust's is no Exception
            return error
        return None

    def _predict(self, together: Sequence[PredictionRequest]) -> None:
        track, version = together[0].track, together[0].version
        served = self._find(track)
        _require_learned(served.task, track, version)
        rows = [row for request in together for row in request.rows]
        task, tokenizer = cast("Predicting", served.task), served.base.tokenizer
        said = self._backend.predict(served.name(version), rows)
        answers = iter([task.said(tokenizer, each) for each in said])
        for request in together:
            request.answers.put(list(itertools.islice(answers, len(request.rows))))


class _Answer:
    """Where a backend puts the tokens of a request (``backends.interface.Sink``): they go on as text."""

    def __init__(
        self,
        request: GenerationRequest,
        streamer: Streamer,
        *,
        leave: Callable[[Request], None],
        note_first: Callable[[float], None],
    ) -> None:
        self._request = request
        self._streamer = streamer
        self._leave = leave
        self._note_first = note_first
        self._has_begun = self._is_ended = False

    @property
    def is_wanted(self) -> bool:
        return not self._request.cancelled.is_set()

    def put(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> bool:
        if not self._has_begun:
            self._has_begun = True
            self._note_first(time.perf_counter() - self._request.accepted_at)
        return self._streamer.put(tokens, logprobs)

    def end(self, error: BaseException | None = None) -> None:
        if self._is_ended:
            return
        self._is_ended = True
        try:
            if error is not None:
                self._request.fail(_as_error(error))
            elif not self.is_wanted:
                self._request.end_cancelled()
            else:
                self._streamer.close()
        except BaseException as failure:  # noqa: BLE001 - the last tokens cannot be made into text
            self._request.fail(_as_error(failure))
        finally:
            self._leave(self._request)


class _Speed:
    """Tokens in a second of work, of late; what lies ``METERED_SECONDS`` of work back counts a third."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """Count a step."""
        kept = exp(-seconds / METERED_SECONDS)
        self._tokens = self._tokens * kept + tokens
        self._seconds = self._seconds * kept + seconds

    @property
    def per_second(self) -> float | None:
        """Return the speed, ``None`` where nothing was made yet."""
        return round(self._tokens / self._seconds, 1) if self._tokens and self._seconds else None


def _as_error(error: BaseException) -> LoradError:
    """Return what a client is told."""
    if isinstance(error, LoradError):
        return error
    if is_short_of_memory(error):
        return ProtocolError(
            "memory is short; try again later, or with a shorter question",
            status=503,
            code="memory",
            retry_after=5,
        )
    return ProtocolError(f"answering failed: {type(error).__name__}: {error}", status=500, code="internal")


@contextlib.contextmanager
def _as_protocol_errors(status: int = 400) -> Iterator[None]:
    """Tell a client what is wrong with what it asks."""
    try:
        yield
    except SampleError as error:
        raise ProtocolError(error.message, status=status, code=error.code) from None


@contextlib.contextmanager
def _about_input(number: int, *, has_fields: bool) -> Iterator[None]:
    """Tell a client which of its inputs is wrong, where an input is an object which field of it, and how."""
    try:
        yield
    except (SampleError, ProtocolError) as error:
        field = error.data.get("field") if has_fields else None
        param = f"inputs[{number}]" + (f".{field}" if field else "")
        raise ProtocolError(error.message, status=422, code=error.code, param=param) from None


def _require_learned(task: Task, track: str, version: str) -> None:
    """Raise ``ProtocolError`` (409) where the base would answer, and has nothing to answer with."""
    if version == BASE and task.head.is_learned:
        raise ProtocolError(
            f"{track} has learned nothing yet: its base cannot answer alone; drop a dataset first",
            status=409,
            code="nothing_learned",
        )


def _generating(task: Task, track: str) -> Generating:
    if not isinstance(task, Generating):
        raise _other_way(track, task, "POST /lorad/predict")
    return task


def _other_way(track: str, task: Task, way: str) -> ProtocolError:
    return ProtocolError(f"{track} learns {task.name}; ask it with: {way}", code="other_way")
