"""What a backend is: whoever keeps models in memory and generates with them.

Tokens go in and tokens come out. lorad keeps the queue's door, the choice of the version, prompts, texts, stop texts and the
socket, so that an answer is made into text in one place, whatever generated it.

A backend starts no threads. Versions are loaded, preferred and dropped in whichever thread wants it, one after the other,
while answers go on; everything else happens in the one thread that calls ``step``.

A name that a backend is given for a version holds the version's hash: what is kept under it (prefixes of prompts, say) can
never be another version's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lorad.models.bases import Base
from lorad.serving.requests import Sampling, TokenLogprobs
from lorad.tasks import Task


class Sink(Protocol):
    """Where the tokens of one answer go."""

    @property
    def is_wanted(self) -> bool:
        """Tell whether anybody still waits for it: this is how an answer is cancelled, looked at between two steps."""

    def put(self, tokens: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> bool:
        """Take the next tokens; return whether more are wanted. After ``False`` nothing but ``end`` may follow.

        ``logprobs`` has one of each token where ``Sampling.logprobs`` asks for them, and else nothing: what nobody asks for is
        not computed.
        """

    def end(self, error: BaseException | None = None) -> None:
        """Close the answer, once: whole, or with what went wrong."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Generation:
    """One answer that is to be generated."""

    name: str
    """What generates it: a name that ``attach`` or ``load`` was given."""
    prompt: Sequence[int]
    sampling: Sampling
    """How the next token is chosen. Where an answer ends is the sink's business."""
    ends: frozenset[int]
    """Tokens that end an answer, for a backend that must be told before; they are put into the sink as well."""
    sink: Sink


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFiles:
    """A version to be loaded, whose files are verified."""

    name: str
    track: str
    folder: Path
    base_folder: Path | None = None
    """Where the base's tokenizer is, to compare; ``None`` compares nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do for a track."""

    batches: bool
    """Whether several answers share a step."""
    because: str
    """Why, in a few words for people."""
    calls: bool = True
    """Whether an answer can be made to call a tool."""
    logprobs: bool = False
    """Whether it tells how likely tokens were; a request that asks for it is refused by name where it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """In which form the version that serves is held."""

    kind: str
    """``base``, ``adapter``, ``merged``, ``whole`` (from scratch, there is nothing to merge) or ``gguf``."""
    added_bytes: int = 0
    """Memory that the form takes beside the base and the adapter."""
    is_packed: bool = False
    """Whether the layers of a merged copy lie in memory as the processor's matrix unit reads them."""
    why_not_merged: str = ""
    may_pass: bool = False
    """Whether that may be another time, so that ``prefer`` is worth another try: memory is short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the program around lends a backend that needs more than memory."""

    max_rank: int = 64
    """Largest rank of a version's adapter."""
    log: Path | None = None
    """Where is written what a process of the backend's own says; ``None``: nowhere."""
    is_stopping: Callable[[], bool] = lambda: False


class Backend(Protocol):
    """Keeps versions in memory and answers from them."""

    def attach(self, track: str, task: Task, base: Base, name: str) -> None:
        """Take a track; its base answers under this name."""

    def capabilities(self, track: str) -> Capabilities:
        """Tell what can be done for a track."""

    def load(self, version: VersionFiles) -> list[str]:
        """Bring a version into memory beside the others and prove it; return what differs from where it was made.

        Raise ``RegistryError`` where it does not answer its probes, or ``TransientError`` where memory is short. Nothing is
        left behind then.
        """

    def prefer(self, name: str) -> Form:
        """Take it that most requests of the track will name this version, or its base; return how it is held then.

        What was preferred before answers as it did, until its last answer has ended.
        """

    def drop(self, name: str) -> None:
        """Forget a version; answers that it has begun are finished."""

    def submit(self, generation: Generation) -> None:
        """Accept an answer to be generated; raise ``RegistryError`` where its name is not in memory."""

    def predict(self, name: str, rows: Sequence[Any]) -> list[Any]:
        """Answer rows of a task that answers with data, at once."""

    def step(self) -> int | None:
        """Do the next bit of work; return how many tokens it has made, ``None`` where there was nothing to do."""

    @property
    def active(self) -> int:
        """Count the answers that are being generated."""

    @property
    def cache_bytes(self) -> int | None:
        """Return how much memory keys and values of the answers take, ``None`` where that is not known; from any thread."""

    def close(self) -> None:
        """Let go of everything outside this process; no other call follows."""
