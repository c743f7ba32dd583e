"""The backend that lets a vLLM server answer.

What lives here: which versions the server holds, and when it is proven again. What never does: HTTP (``wire``), what is said
(``protocol``), which answers prove a version (``proof``), answers on their way (``streams``).

    away ── the server answers, has every version, and each answers its probes ──► ready
      ▲                                                                              │
      └───── a connection breaks, a version is forgotten, the process ends ──────────┘

While it is away, answers whose connections still stand go on, and new ones wait for some seconds.
"""

import contextlib
import selectors
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from lorad.config import EngineSettings
from lorad.errors import ConfigError, LoradError, ProtocolError, RegistryError, TransientError
from lorad.models.bases import Base
from lorad.serving.backends.interface import Capabilities, Form, Generation, Surroundings, VersionFiles
from lorad.serving.backends.vllm import proof, protocol
from lorad.serving.backends.vllm.served import Served
from lorad.serving.backends.vllm.server import Server, folder_of
from lorad.serving.backends.vllm.streams import Asked, Streams
from lorad.serving.backends.vllm.wire import BrokenExchange, Progress, Talk
from lorad.tasks import Generating, Task
from lorad.versions import loader

WAIT_SECONDS = 0.01
"""A step waits so long for the server at most: a request that comes meanwhile begins that much later."""
CHECK_SECONDS = 10.0
"""How often the server is asked whether it still has every version."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds before a server that is away is looked for again; twice as many each time."""


class Vllm:
    """Answers from one vLLM server with one base. Raise ``ConfigError`` where its settings cannot work."""

    def __init__(
        self,
        settings: EngineSettings,
        surroundings: Surroundings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._clock = settings, clock
        self._server = Server(settings, surroundings, clock)
        self._base: Base | None = None
        self._base_model = ""
        self._tracks: dict[str, frozenset[int]] = {}
        """The end tokens of each track's task."""
        self._names: dict[str, Served] = {}
        self._leaving: dict[str, None] = {}
        """Versions that are dropped; the server forgets each as soon as its last answer has ended."""
        self._lock = threading.Lock()
        """Held while names come and go: they do in another thread than the answers."""
        self._selector = selectors.DefaultSelector()
        self._streams = Streams(self._server, self._selector)
        self._talk: Progress[None] | None = None
        """What the server is asked beside answers, one thing at a time."""
        self._unloading: str | None = None
        self._why_away = ""
        """Empty while the server is there and proven."""
        self._due = 0.0
        self._pause = FIRST_PAUSE

    # -- versions

    def attach(self, track: str, task: Task, base: Base, name: str) -> None:
        """Take a track; its base answers under this name. Wait for the server before the first one.

        Raise ``ConfigError`` where there is no server, or one that answers otherwise than the base does here.
        """
        if not isinstance(task, Generating):
            raise ConfigError(
                f"the track {track} learns {task.name}, which vLLM does not serve; set engine.backend to builtin",
                code="no_backend",
            )
        if self._base is None:
            self._base_model = self._server.arrive(base, name)
        elif self._base.fingerprint != base.fingerprint:
            raise ConfigError(
                f"a vLLM server has one base, and the track {track} has another than those before it; give it a home of "
                "its own, or set engine.backend to builtin",
                code="no_backend",
            )
        ends = frozenset(task.stop_tokens(base.tokenizer))
        served = Served(name, self._base_model, ends, proof.of_base(task, base))
        try:
            self._server.run(served.bring())
        except RegistryError as error:
            raise ConfigError(
                f"{error.message}: the model {self._base_model} at {self._server.address} is not the base of the track "
                f"{track}; start that server with {folder_of(base)}",
                code="other_base",
            ) from error
        self._base, self._tracks[track], self._names[name] = base, ends, served
        self._due = self._clock() + CHECK_SECONDS

    def capabilities(self, track: str) -> Capabilities:
        """Tell that answers share steps, and where the server is."""
        del track
        state = f", which is away: {self._why_away}" if self._why_away else ""
        return Capabilities(batches=True, because=f"vLLM at {self._server.address}{state}", calls=False)

    def load(self, version: VersionFiles) -> list[str]:
        """Let the server load a version beside the others and prove it; return what differs from where it was made."""
        if self._base is None:
            raise RegistryError(f"{version.track} has no base in memory", code="not_loaded")
        differs = loader.check(
            version.folder, self._base, version.base_folder, strict=self._settings.strict_environment
        )
        probes = proof.of_version(version.folder, self._base)
        served = Served(version.name, version.name, self._tracks[version.track], probes, version.folder)
        with self._lock:
            if version.name == self._unloading:
                raise TransientError(f"{version.name} is being unloaded; lorad will retry", code="unloading")
            self._leaving.pop(version.name, None)
        try:
            self._server.run(served.bring())
        except RegistryError:
            with contextlib.suppress(TransientError):  # why it is refused is what matters
                self._server.run(protocol.unload_adapter(served.model))
            raise
        with self._lock:
            self._names[version.name] = served
        return differs

    def prefer(self, name: str) -> Form:
        """Change nothing: the server answers as fast for every version."""
        return Form(kind="base" if self._find(name).folder is None else "adapter")

    def drop(self, name: str) -> None:
        """Forget a version; the server does when its last answer has ended."""
        with self._lock:
            served = self._find(name)
            del self._names[name]
            self._leaving[served.model] = None

    def _find(self, name: str) -> Served:
        try:
            return self._names[name]
        except KeyError:
            raise RegistryError(f"{name} is not in memory", code="not_loaded") from None

    # -- answering

    def submit(self, generation: Generation) -> None:
        """Accept an answer; raise ``RegistryError`` where its version is not there, or does not answer its probes now."""
        served = self._find(generation.name)
        served.check()
        body = protocol.completion(
            served.model, served.name, generation.prompt, generation.sampling, generation.ends
        )
        self._streams.submit(Asked(generation, served, body, self._clock()))

    def predict(self, name: str, rows: Sequence[Any]) -> list[Any]:
        """Raise ``ProtocolError``: no track here answers with data."""
        del rows
        raise ProtocolError(f"{name} does not answer with data on vLLM", code="other_way")

    def step(self) -> int | None:
        """Take what has come; return how many tokens that is, ``None`` where nobody waits for any."""
        self._streams.let_go(self._why_away)
        self._look_after()
        if not self._why_away:
            self._streams.begin()
        if self._streams.is_idle and self._talk is None:
            return None
        made = 0
        for key, ready in self._selector.select(WAIT_SECONDS):
            if key.data is self:
                self._go_on(ready)
            else:
                made += self._streams.advance(key.data, ready)
        self._streams.check_time()
        return made

    @property
    def active(self) -> int:
        """Count the answers that are being generated."""
        return len(self._streams)

    @property
    def cache_bytes(self) -> int | None:
        """Return ``None``: the server does not say."""
        return None

    def close(self) -> None:
        """End the answers, and the server where it is ours."""
        self._stop_talk()
        self._streams.close()
        self._selector.close()
        self._server.close()

    # -- looking after the server

    def _look_after(self) -> None:
        """Begin what there is to ask of the server beside answers."""
        if self._streams.lost or self._server.has_ended:
            self._lose(self._streams.lost or f"its process ended: {self._server.last_words()}")
            self._streams.lost = ""
        if self._talk is not None:
            self._go_on(0)  # looks at the clock
        elif not self._why_away and (model := self._next_to_leave()):
            self._begin(protocol.unload_adapter(model))
        elif self._clock() >= self._due:
            self._begin(self._check())

    def _lose(self, why: str) -> None:
        if not self._why_away:
            self._why_away, self._pause, self._due = why, FIRST_PAUSE, self._clock()
            self._stop_talk()

    def _next_to_leave(self) -> str | None:
        """Return a version that the server may forget now."""
        with self._lock:
            found = next((model for model in self._leaving if not self._streams.asks(model)), None)
            if found is not None:
                del self._leaving[found]
                self._unloading = found
        return found

    def _check(self) -> Talk[None]:
        """Find every version at the server; where one is missing, or it was away, prove all of them again."""
        listed = yield from protocol.list_models()
        with self._lock:
            held = list(self._names.values())
        if not self._why_away and all(served.model in listed or served.trouble for served in held):
            return
        self._why_away = self._why_away or "it has forgotten a version"
        for served in held:
            try:
                yield from served.bring()
            except RegistryError as error:  # this one's alone
                served.trouble = error
            else:
                served.trouble = None

    def _begin(self, talk: Talk[None]) -> None:
        try:
            self._server.revive()
            self._talk = self._server.begin(talk)
        except BrokenExchange as error:
            self._fail(str(error))
        else:
            self._watch()

    def _go_on(self, ready: int) -> None:
        talk = self._talk
        if talk is None or talk.exchange is None:
            return
        self._selector.unregister(talk.exchange.socket)
        try:
            talk.advance(ready)
        except (BrokenExchange, LoradError) as error:
            self._talk = None
            self._fail(str(error))
            return
        if self._watch():
            return
        self._talk = None
        if self._unloading is None:  # it was a check
            self._why_away, self._pause = "", FIRST_PAUSE
            self._due = self._clock() + CHECK_SECONDS
        self._unloading = None

    def _watch(self) -> bool:
        """Look out for the talk's next reply; return whether one is to come."""
        exchange = None if self._talk is None else self._talk.exchange
        if exchange is None:
            return False
        self._selector.register(exchange.socket, exchange.wants, self)
        return True

    def _fail(self, why: str) -> None:
        """Note that a talk has failed, and when to begin the next one."""
        self._leave_later()
        self._why_away = why
        self._due = self._clock() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _stop_talk(self) -> None:
        if self._talk is not None:
            if self._talk.exchange is not None:
                self._selector.unregister(self._talk.exchange.socket)
            self._talk.close()
            self._talk = None
        self._leave_later()

    def _leave_later(self) -> None:
        """Let the server forget a version at another time, if that was what was asked of it."""
        with self._lock:
            if self._unloading is not None:
                self._leaving[self._unloading] = None
            self._unloading = None
