"""What the layers below the first one that learns say of rows, kept from round to round.

What lives here: computing these layers once for rows that come again, and laying what they said into a pass. What never does: which
rows, which layers learn (``training``).

No weight below the first layer with a fresh adapter changes while it learns. So what arrives at that layer is the same in every round
and every test, and the gradient ends there. Rows are kept before training begins, in packs that hang on nothing but these rows: a
session that goes on from a checkpoint computes the same numbers again, to the bit.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lorad.models import hardware
from lorad.models.memory_needs import KEPT_BYTES
from lorad.models.packing import Pack, divide, pack
from lorad.records import Encoded

_ATTRIBUTE = "lorad_lower_layers"
_CLOSE = 3.0
"""Times the root of what the numbers resolve: 0.001 of all in float32, 0.3 in bfloat16, where eighteen layers round."""
_TOGETHER = 256
"""Rows that are divided into packs together; those that are needed first are computed first."""


class _ReachedError(Exception):
    """The first layer that learns was reached; ``states`` [1, S, H] is what arrives there."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


class LowerLayers:
    """The layers below the first that learns, and what they said of the rows that are kept."""

    def __init__(self, layers: nn.ModuleList, first: int, run: Callable[[Pack], Any]) -> None:
        """``run`` lets the whole model read a pack."""
        self._below = list(layers[:first])
        self._first = layers[first]
        self._run = run
        self._kept: dict[bytes, Tensor] = {}
        self._known: Mapping[bytes, Tensor] = {}

    def know(self, known: Mapping[bytes, Tensor] | None, rows: Sequence[Encoded]) -> None:
        """Lay what was said before of these rows, by ``key``, into passes that nothing is learned from.

        It was computed among other rows, and differs in the last bits: what is trained could not be made again without it. What differs
        by more, as another version of a library may compute it, is not used.
        """
        self._known = known if known and self._agrees(known, rows) else {}

    def is_sound(self, row: Encoded) -> bool:
        """Tell whether this model says of a row what it says with its lower layers' words laid into it, to the bit.

        Some hand more from layer to layer than the states of their tokens.
        """
        packed = pack([row])
        whole = self._run(packed)
        try:
            with self.laid(self._states(packed)):
                return bool(torch.equal(whole, self._run(packed)))
        except (TypeError, ValueError, IndexError, AttributeError, RuntimeError):
            return False

    def keep(
        self, rows: Sequence[Encoded], most_tokens: int, most_bytes: int, tell: Callable[[int], object]
    ) -> None:
        """Compute what these rows need of the lower layers, the first ones first, as far as there is room; ``tell`` how many are."""
        room = most_bytes
        missing = self._missing(rows)
        for begin in range(0, len(missing), _TOGETHER):
            together = missing[begin : begin + _TOGETHER]
            for numbers in divide(together, most_tokens):
                packed = pack([together[number] for number in numbers])
                for number, states in zip(numbers, _by_row(packed, self._states(packed)), strict=True):
                    room -= states.numel() * states.element_size()
                    if room < 0:
                        return
                    self._kept[key(together[number])] = states
                tell(len(self._kept))

    def knows(self, row: Encoded) -> bool:
        """Tell whether a row need not be computed."""
        name = key(row)
        return name in self._kept or (not torch.is_grad_enabled() and name in self._known)

    def said(self, row: Encoded) -> Tensor:
        """Return what these layers say of a row that they know, [S, H]."""
        name = key(row)
        return self._kept[name] if name in self._kept else self._known[name]

    def _agrees(self, known: Mapping[bytes, Tensor], rows: Sequence[Encoded]) -> bool:
        """Tell whether what is known of the first of these rows that is, is what these layers say of it, but for rounding."""
        row = next((row for row in rows if key(row) in known), None)
        if row is None:
            return True
        own, told = self._states(pack([row])), known[key(row)]
        close = _CLOSE * torch.finfo(told.dtype).eps ** 0.5
        own, told = own.float(), told.float()
        return own.shape == told.shape and bool((own - told).norm() <= close * own.norm())

    def _missing(self, rows: Sequence[Encoded]) -> list[Encoded]:
        return [row for row in rows if not self.knows(row)]

    def states(self, packed: Pack, rows: Sequence[Encoded], guests: Sequence[Encoded]) -> Tensor | None:
        """Return what arrives at the first layer that learns, [S, H], for a pack of these; ``None`` where nothing of it is kept."""
        new_rows, new_guests = self._missing(rows), self._missing(guests)
        if len(new_rows) + len(new_guests) == len(rows) + len(guests):
            return None
        read: dict[bytes, Tensor] = {}
        if new_rows or new_guests:
            rest = pack(new_rows, new_guests)
            told = zip((*new_rows, *new_guests), _by_row(rest, self._states(rest)), strict=True)
            read = {key(row): states for row, states in told}

        def said(row: Encoded) -> Tensor:
            return read[name] if (name := key(row)) in read else self.said(row)

        of_rows, of_guests = ([said(each) for each in some] for some in (rows, guests))
        prefix = [states[: packed.prefix] for states in of_rows[:1]]
        return torch.cat([*prefix, *(states[packed.prefix :] for states in of_rows), *of_guests])

    @contextlib.contextmanager
    def laid(self, states: Tensor | None) -> Iterator[None]:
        """Let the lower layers say this, [S, H], while the model reads; ``None``: let them compute."""
        if states is None:
            yield
            return
        for layer in self._below:
            layer.forward = lambda given, *_, **__: given
        self._below[-1].forward = lambda *_, **__: states[None]
        try:
            yield
        finally:
            for layer in self._below:
                vars(layer).pop("forward", None)

    def _states(self, packed: Pack) -> Tensor:
        """Let the lower layers read a pack; return what they say, [S, H]."""

        def stop(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            raise _ReachedError(given[0] if given else named["hidden_states"])

        handle = self._first.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with torch.no_grad():
                self._run(packed)
        except _ReachedError as reached:
            return reached.states[0]
        finally:
            handle.remove()
        raise ValueError("the model did not reach its first layer that learns")


def key(row: Encoded) -> bytes:
    """Return what tells a row from others here: a digest of all its tokens but the last, which is only ever predicted."""
    return sha256(np.array(row.tokens[:-1], dtype=np.int32).tobytes()).digest()


def _by_row(packed: Pack, states: Tensor) -> Iterator[Tensor]:
    """Yield a pack's states row by row, each behind the prefix that it sees, then its guests'."""
    prefix, begin = states[: packed.prefix], packed.prefix
    for number, length in enumerate(packed.lengths):
        own = states[begin : begin + length]
        yield torch.cat([prefix, own]) if number < packed.rows - packed.guests else own.clone()
        begin += length


def keep(
    model: Any,
    first: int,
    rows: Sequence[Encoded],
    run: Callable[[Any, Pack], Any],
    *,
    most_tokens: int,
    most_bytes: int = KEPT_BYTES,
    known: Mapping[bytes, Tensor] | None = None,
    tell: Callable[[int], object] = lambda _: None,
) -> None:
    """Keep what a model's layers below ``first`` say of these rows, where the model lets it; ``of`` finds it again.

    What is ``known`` of them from before, by ``key``, is not computed again, and serves tests alone (``LowerLayers.know``). Where
    memory does not hold all of them, as many as it holds. The model is in evaluation mode afterwards: what is dropped at random is not
    what is kept.
    """
    if not first or not rows:
        return
    model.eval()
    count = model.config.num_hidden_layers
    lists = (each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == count)
    layers = next(lists, None)
    if layers is None:
        return
    found = LowerLayers(layers, first, lambda packed: run(model, packed))
    with torch.no_grad():
        if not found.is_sound(rows[0]):
            return
        try:
            found.know(known, rows)
            found.keep(rows, most_tokens, most_bytes, tell)
        except RuntimeError as error:
            if not hardware.is_short_of_memory(error):
                raise
    setattr(model, _ATTRIBUTE, found)


def of(model: Any) -> LowerLayers | None:
    """Return what is kept of a model's lower layers, if anything is."""
    return getattr(model, _ATTRIBUTE, None)


def forget(model: Any) -> None:
    """Let a model's lower layers compute everything again."""
    setattr(model, _ATTRIBUTE, None)
