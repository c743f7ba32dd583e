"""The backend that answers with llama.cpp in this process.

What lives here: which GGUF a name means, made and proven when it is loaded; whose turn it is. What never does: making tokens
(``slots``), calling the library (``binding``).

Every name has a model and a context of its own, so that nothing that one version has read can be taken for another's
(llama.cpp#26207).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lorad.config import EngineSettings
from lorad.errors import ConfigError, RegistryError
from lorad.models import hardware
from lorad.models.adapter_stack import AdapterStack
from lorad.models.bases import Base
from lorad.records import Encoded
from lorad.serving.backends.interface import Capabilities, Form, Generation, VersionFiles
from lorad.serving.backends.llamacpp import proof
from lorad.serving.backends.llamacpp.binding import Model
from lorad.serving.backends.llamacpp.slots import Limits, Slots
from lorad.tasks import Generating, Task
from lorad.versions import export, gguf_copies, loader

LEAST_CELLS = 2048
"""Tokens that a version has room for at least, whatever ``engine.max_cache_bytes`` says, if its context is so long."""


class Opening(Protocol):
    """How a GGUF is opened: ``binding.Model``, or what stands for it."""

    def __call__(self, file: Path, *, on_gpu: bool) -> Model:
        """Open a file."""


@dataclass(frozen=True, slots=True)
class _Track:
    """A track and the GGUF of its base."""

    task: Task
    base: Base
    model: Model
    file: Path


@dataclass(frozen=True, slots=True, eq=False)
class _Served:
    """A version, or a base, in memory."""

    name: str
    track: _Track
    model: Model
    file: Path


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """The answers of a version; they are there from the first one on."""

    served: _Served
    slots: Slots


class LlamaCpp:
    """A GGUF copy for each version, and for the base; answers of one version share every step."""

    def __init__(self, settings: EngineSettings, opening: Opening, library: str) -> None:
        self._settings = settings
        self._open = opening
        self._library = library
        self._tracks: dict[str, _Track] = {}
        self._served: dict[str, _Served] = {}
        self._turns: deque[_Turn] = deque()

    # -- versions

    def attach(self, track: str, task: Task, base: Base, name: str) -> None:
        """Take a track; its base answers under this name.

        Raise ``ConfigError`` for a task that answers with data, and a base that lorad writes no GGUF of.
        """
        if not isinstance(task, Generating) or not issubclass(task.row, Encoded):
            raise _cannot_serve(track, f"its task, {task.name}, does not write tokens")
        alike = next((held for held in self._tracks.values() if held.base is base), None)
        file = gguf_copies.of_base(base.folder, base.fingerprint[:12], self._settings.gguf)
        if alike is None:
            try:
                model = self._opened(file, base, None)
            except ConfigError as error:
                raise _cannot_serve(track, error.message, code=error.code) from error
            with hardware.passing_errors("proving the base in llama.cpp"):
                proof.prove_base(model, base.model, base.folder.name)
        else:
            model = alike.model
        held = self._tracks[track] = _Track(task, base, model, file)
        self._served[name] = _Served(name, held, model, file)

    def _opened(self, file: Path, base: Base, version: Path | None) -> Model:
        """Open the GGUF of a base, or of a version on it, which is made if it must be."""
        write = partial(export.write_gguf, base=base.folder, version=version, precision=self._settings.gguf)
        with hardware.passing_errors(f"making {file.name}"):
            gguf_copies.ensure(file, write)
        return self._open(file, on_gpu=base.model.device.type != "cpu")

    def capabilities(self, track: str) -> Capabilities:
        """Tell whether a track's answers share steps: they do."""
        del track
        return Capabilities(
            batches=True,
            logprobs=True,
            because=f"llama.cpp ({self._library}) with {self._settings.gguf} GGUF",
        )

    def load(self, version: VersionFiles) -> list[str]:
        """Bring a version into memory and prove it; return what differs from the environment that it was made in.

        It is proven in torch first, as the built-in backend does: a version that is damaged is told from a copy that
        answers otherwise.
        """
        track = self._tracks[version.track]
        stack = AdapterStack(track.base)
        differs = loader.load(
            track.task,
            stack,
            version.name,
            version.folder,
            version.base_folder,
            strict=self._settings.strict_environment,
        )
        digest = version.name.rpartition("-")[2]
        file = gguf_copies.of_version(version.folder, digest, self._settings.gguf)
        model = self._opened(file, track.base, version.folder)
        label = version.folder.name
        try:
            with hardware.passing_errors(f"asking llama.cpp the probes of {label}"):
                proof.prove(track.task, model, stack.model(version.name), version.folder, self._settings.gguf)
        except RuntimeError as error:
            raise RegistryError(
                f"llama.cpp cannot be asked the probes of {label}: {error}",
                code="probes_failed",
                version=label,
                backend="llamacpp",
            ) from error
        self._served[version.name] = _Served(version.name, track, model, file)
        return differs

    def prefer(self, name: str) -> Form:
        """Tell how a version is held: all are held alike."""
        return Form(kind="gguf", added_bytes=self._find(name).file.stat().st_size)

    def drop(self, name: str) -> None:
        """Forget a version; answers that it has begun are finished."""
        self._find(name)
        del self._served[name]

    def _find(self, name: str) -> _Served:
        try:
            return self._served[name]
        except KeyError:
            raise RegistryError(f"{name} is not in memory", code="not_loaded") from None

    # -- answering

    def submit(self, generation: Generation) -> None:
        """Accept an answer to be generated by what its name means."""
        served = self._find(generation.name)
        turn = next((turn for turn in self._turns if turn.served is served), None)
        if turn is None:
            turn = _Turn(served, self._begin(served))
            self._turns.append(turn)
        turn.slots.submit(generation)

    def _begin(self, served: _Served) -> Slots:
        model, settings = served.model, self._settings
        rows = min(settings.max_batch, model.most_sequences - 1)
        limits = Limits(
            rows=rows, prompt_tokens=settings.prefill_tokens, cells=self._cells(served.track.base, rows)
        )
        context = model.context(
            sequences=limits.sequences, cells=limits.cells, batch=limits.batch, is_exact=self._is_exact
        )
        return Slots(context, model.vocabulary, limits)

    @property
    def _is_exact(self) -> bool:
        return self._settings.gguf == "f32"

    def _cells(self, base: Base, rows: int) -> int:
        """Return how many tokens a version has room for: an equal share of the memory for each that there may be."""
        shares = len(self._tracks) * (self._settings.max_loaded_versions + 1)
        share = (
            self._settings.max_cache_bytes // shares // _bytes_per_token(base.model.config, self._is_exact)
        )
        context: int = base.model.config.max_position_embeddings
        return min(max(share, LEAST_CELLS), rows * context)

    def predict(self, name: str, rows: Sequence[Any]) -> list[Any]:
        """Never asked: ``attach`` takes no task that answers with data."""
        raise NotImplementedError(f"{name} answers in text; {len(rows)} rows cannot be answered with data")

    def step(self) -> int | None:
        """Let the next version that has something to do take a step; return how many tokens that made."""
        for turn in list(self._turns):
            if turn.slots.is_idle and self._served.get(turn.served.name) is not turn.served:
                self._turns.remove(turn)  # its context and its model go with it
        for _ in range(len(self._turns)):
            slots = self._turns[0].slots
            self._turns.rotate(-1)
            if not slots.is_idle:
                return slots.step()
        return None

    @property
    def active(self) -> int:
        """Count the answers that are being generated."""
        return sum(turn.slots.active for turn in list(self._turns))

    @property
    def cache_bytes(self) -> int | None:
        """Return ``None``: llama.cpp takes the memory of its contexts when they are made."""
        return None

    def close(self) -> None:
        """Let go of nothing: all of it is in this process."""


def _cannot_serve(track: str, why: str, code: str = "no_backend") -> ConfigError:
    return ConfigError(
        f"engine.backend llamacpp cannot serve the track {track}: {why}; set engine.backend to auto or builtin",
        code=code,
    )


def _bytes_per_token(config: Any, is_exact: bool) -> int:
    """Return how much memory keys and values of a token take."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    pairs: int = 2 * config.num_hidden_layers * (config.num_key_value_heads or heads) * width
    return pairs * (4 if is_exact else 2)
