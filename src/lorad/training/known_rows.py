"""What a base's lower layers said of rows in earlier tests, so that a test reads them in the upper ones alone.

What lives here: when that may be used, and what is stored for the next session. What never does: the file (``lower_states``), laying
it into a model (``lower_layers``).
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lorad.errors import TransientError
from lorad.models import hardware, lower_layers, lower_states, peft_io, quantized, scoring
from lorad.models.adapters import Adapter
from lorad.models.bases import Base
from lorad.models.lower_layers import LowerLayers
from lorad.models.lower_states import LowerStates
from lorad.records import Encoded
from lorad.tasks import Row
from lorad.tasks.interface import PASS_TOKENS


class KnownRows:
    """What is known of rows below the first layer that learns."""

    def __init__(self, path: Path | None, computes: str, first: int) -> None:
        """``path`` is where it lies, or nothing is known; ``computes`` identifies the base, and in what numbers it computes."""
        self._path = path
        self._computes = computes
        self._first = first
        self._states: LowerStates | None = None

    @property
    def states(self) -> Mapping[bytes, Tensor] | None:
        """What earlier tests have stored, by ``lower_layers.key``."""
        if self._states is None and self._path:
            self._states = lower_states.read(self._path, self._computes, self._first)
        return self._states

    @contextlib.contextmanager
    def laid(self, model: Any, rows: Sequence[Row], *, is_stored: bool = False) -> Iterator[None]:
        """Let a model that is tested on these rows say below what is known; ``is_stored``: keep for the next session what was not."""
        encoded = [row for row in rows if isinstance(row, Encoded)]
        if self._path is None or not encoded:
            yield
            return
        lower_layers.keep(
            model,
            self._first,
            encoded,
            scoring.answer_logits,
            most_tokens=PASS_TOKENS,
            known=self.states,
        )
        try:
            yield
            found = lower_layers.of(model)
            if is_stored and found:
                self._store(self._path, model, encoded, found)
        finally:
            lower_layers.forget(model)

    def _store(self, path: Path, model: Any, rows: Sequence[Encoded], layers: LowerLayers) -> None:
        """Store these rows, unless just they are stored. A failure costs time in the next session, and is not worth this one."""
        held = lower_states.fitting(rows, model.config.hidden_size, model.dtype)
        if set(map(lower_layers.key, held)) == set(self.states or ()):
            return
        try:
            lower_states.write(path, self._computes, self._first, held, layers)
        except (OSError, TransientError, MemoryError):
            return
        except RuntimeError as error:
            if not hardware.is_short_of_memory(error):
                raise
        self._states = None  # read anew where it is needed again


NOTHING = KnownRows(None, "", 0)


def find(path: Path | None, base: Base, parent: Adapter | None, first: int) -> KnownRows:
    """Return what is known of rows below a session's first layer that learns.

    Nothing where its parent has learned below it, or where what is said of a row hangs on others. A graphics card reads all rows in
    seconds.
    """
    is_pristine = parent is None or peft_io.lowest_layer(parent.factors) >= first
    is_apt = base.model.device.type == "cpu" and base.quantization not in quantized.READ_TOGETHER
    if not first or not is_pristine or not is_apt:
        return NOTHING
    return KnownRows(path, f"{base.computes} {base.model.dtype}", first)
