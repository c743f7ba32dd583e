"""The functions of llama.cpp that are used, and nothing above them: the one place that knows llama-cpp-python.

What lives here: a GGUF in memory, and contexts on it, which keep keys and values of several sequences of tokens. What never
does: whose sequences these are, choosing tokens.
"""

import importlib
import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorad.errors import ConfigError, RegistryError

ALL_LAYERS = 2**31 - 1
NO_ROOM, NO_MEMORY = 1, -2
"""What ``llama_decode`` returns where no cells are free, and where memory is short."""
TYPE_F32, TYPE_F16 = 0, 1
"""ggml's numbers for how keys and values are stored."""
FLASH_OFF = 0
LARGEST_PASS = 512
"""Tokens that go through the layers together; more of a batch follow. Memory of a context grows with it."""


class NoRoomError(Exception):
    """No cells are free for a batch; the context is as it was before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Tokens that follow one another in a sequence."""

    sequence: int
    begin: int
    """The position of the first one; all before it are in the context."""
    tokens: Sequence[int]
    asked: int
    """Of so many, the last ones, the logits behind them are wanted."""


def version() -> str:
    """Return the installed version of llama-cpp-python; raise ``ConfigError`` where it is missing or does not load."""
    try:
        _library()
        return metadata.version("llama-cpp-python")
    except (ImportError, OSError, RuntimeError) as error:
        raise ConfigError(
            f"engine.backend is llamacpp, which needs the package llama-cpp-python ({error}): pip install 'lorad[llamacpp]'; or "
            "set engine.backend to auto or builtin",
            code="no_backend",
        ) from None


def _library() -> Any:
    # it prints what is not below this, and takes llama.cpp's warnings for errors
    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
    return importlib.import_module("llama_cpp")


class Model:
    """A GGUF, mapped into memory. Raise ``RegistryError`` where llama.cpp does not take it."""

    def __init__(self, file: Path, *, on_gpu: bool) -> None:
        self._library = _library()
        self._library.llama_backend_init()
        how = self._library.llama_model_default_params()
        how.n_gpu_layers = ALL_LAYERS if on_gpu else 0
        how.use_extra_bufts = (
            False  # weights repacked for AMX: a small model in q8_0 ended the process (0.3.36)
        )
        self._on_gpu = on_gpu
        self._handle = self._library.llama_model_load_from_file(str(file).encode(), how)
        if not self._handle:
            raise RegistryError(
                f"llama.cpp cannot load {file}; update llama-cpp-python, or set engine.backend to builtin",
                code="gguf_refused",
                backend="llamacpp",
            )
        weakref.finalize(self, self._library.llama_model_free, self._handle)
        self.vocabulary = int(
            self._library.llama_vocab_n_tokens(self._library.llama_model_get_vocab(self._handle))
        )
        self.most_sequences = int(self._library.llama_max_parallel_sequences())

    def context(self, *, sequences: int, cells: int, batch: int, is_exact: bool) -> "Context":
        """Make room for so many tokens of all sequences together, of which one batch may bring ``batch``.

        ``is_exact`` keeps keys and values in float32 instead of float16. Raise ``MemoryError`` where memory is short.
        """
        how = self._library.llama_context_default_params()
        how.n_ctx = max(cells, batch)  # a longer batch would end the process
        how.n_batch, how.n_ubatch = batch, min(batch, LARGEST_PASS)
        how.n_seq_max = sequences
        how.kv_unified = True  # cells belong to whoever needs them, and sequences can share some
        how.type_k = how.type_v = TYPE_F32 if is_exact else TYPE_F16
        how.no_perf = True
        if not self._on_gpu:
            how.flash_attn_type = FLASH_OFF  # it sums in float16 there
        handle = self._library.llama_init_from_model(self._handle, how)
        if not handle:
            raise MemoryError(f"llama.cpp has no memory for a context of {cells} tokens")
        return Context(self._library, self, handle, batch=batch)


class Context:
    """Keys and values of several sequences on one model; for one thread."""

    def __init__(self, library: Any, model: Model, handle: Any, *, batch: int) -> None:
        self._library = library
        self._model = model
        self._handle = handle
        self._memory = library.llama_get_memory(handle)
        self._batch = library.llama_batch_init(batch, 0, 1)
        self._most = batch
        weakref.finalize(self, _free, library, handle, self._batch, model)

    def decode(self, pieces: Sequence[Piece]) -> list[Tensor]:
        """Put pieces of different sequences through the model in one batch; return the logits asked of each, [asked, V].

        Raise ``NoRoomError`` where no cells are free for them, ``MemoryError`` or ``RuntimeError`` where it fails.
        """
        asked = self._fill(pieces)
        threads = torch.get_num_threads()  # as this thread has been told, see hardware.compute_with
        self._library.llama_set_n_threads(self._handle, threads, threads)
        failed = self._library.llama_decode(self._handle, self._batch)
        if failed == NO_ROOM:
            raise NoRoomError
        if failed == NO_MEMORY:
            raise MemoryError("llama.cpp is short of memory")
        if failed:
            raise RuntimeError(f"llama_decode returned {failed}")
        return [self._logits(places) for places in asked]

    def _fill(self, pieces: Sequence[Piece]) -> list[range]:
        """Write the batch; return the places in it of which logits are asked, for each piece."""
        batch, end, asked = self._batch, 0, []
        if sum(len(piece.tokens) for piece in pieces) > self._most:
            raise ValueError("the pieces are longer than a batch")
        for piece in pieces:
            begin, end = end, end + len(piece.tokens)
            asked.append(range(end - piece.asked, end))
            for place, token in enumerate(piece.tokens, begin):
                batch.token[place] = token
                batch.pos[place] = piece.begin + place - begin
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = piece.sequence
                batch.logits[place] = place >= end - piece.asked
        batch.n_tokens = end
        return asked

    def _logits(self, places: Sequence[int]) -> Tensor:
        rows = np.empty((len(places), self._model.vocabulary), dtype=np.float32)
        for number, place in enumerate(places):
            found = self._library.llama_get_logits_ith(self._handle, place)
            rows[number] = np.ctypeslib.as_array(found, (self._model.vocabulary,))
        return torch.from_numpy(rows)

    def copy(self, source: int, target: int, length: int) -> None:
        """Let a sequence begin with the first tokens of another; they take no cells of their own."""
        self._library.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def forget(self, sequence: int) -> None:
        """Free a sequence's cells."""
        self._library.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def clear(self) -> None:
        """Free all cells."""
        self._library.llama_memory_clear(self._memory, False)


def _free(library: Any, context: Any, batch: Any, _model: Model) -> None:
    """Free a context. Its model is named so that it lives until then, whatever the order in which garbage is collected."""
    library.llama_batch_free(batch)
    library.llama_free(context)
