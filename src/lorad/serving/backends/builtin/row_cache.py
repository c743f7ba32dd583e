"""Keys and values of several answers that one model writes together.

What lives here: one buffer a layer, in which every row is an answer and all end at the same column, so that each step writes
one more column; rows come and go between steps. What never does: choosing tokens, prompts.

    columns    begin                end       room for more
    row 0      . . . . k k k k k k k |  .  .  .  .
    row 1      . k k k k k k k k k k |  .  .  .  .
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

HEADROOM = 64
"""Columns that are free behind the end when a buffer is made, at least: a quarter of its width where that is more."""


@dataclass(slots=True)
class _Window:
    """What of the buffers is in use, the same for every layer."""

    rows: int = 0
    begin: int = 0
    end: int = 0


class _Layer(DynamicLayer):
    """One layer's buffers, [rows, heads, columns, width of a head]."""

    keys: Any
    values: Any

    def __init__(self, window: _Window) -> None:
        super().__init__()
        self._window = window
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the next columns; return all that are in use with them."""
        window = self._window
        end = window.end + key_states.shape[-2]
        found = []
        for held, fresh in ((self.keys, key_states), (self.values, value_states)):
            held[: window.rows, :, window.end : end] = fresh
            found.append(held[: window.rows, :, window.begin : end])
        return found[0], found[1]

    def get_seq_length(self) -> int:
        """Return the width in use, which is what a mask must have before the next column."""
        return self._window.end - self._window.begin

    def rebuild(self, like: tuple[Tensor, Tensor], rows: int, columns: int, end: int) -> None:
        """Make buffers of another size; what is in use is copied to end at the column ``end``."""
        window = self._window
        width = window.end - window.begin
        for name, sample in zip(("keys", "values"), like, strict=True):
            shape = rows, sample.shape[1], columns, sample.shape[3]
            made = torch.zeros(shape, dtype=sample.dtype, device=sample.device)
            if window.rows:
                used = getattr(self, name)[: window.rows, :, window.begin : window.end]
                made[: window.rows, :, end - width : end] = used
            setattr(self, name, made)

    def join(self, row: int, prompt: tuple[Tensor, Tensor], before: int) -> None:
        """Write a prompt's keys and values as a new row; what is left of any row must be zeros.

        Nothing there is attended to, but zero times what is not a number is none either.
        """
        window = self._window
        for held, fresh in zip((self.keys, self.values), prompt, strict=True):
            begin = window.end - fresh.shape[-2]
            held[:row, :, window.begin : before] = 0
            held[row, :, window.begin : begin] = 0
            held[row, :, begin : window.end] = fresh[0]

    def move(self, source: int, target: int) -> None:
        """Write one row over another."""
        used = slice(self._window.begin, self._window.end)
        for held in (self.keys, self.values):
            held[target, :, used] = held[source, :, used]


class RowCache:
    """The rows of one model; transformers' models take ``cache``."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        """Tokens of each row, in order."""
        self.clear()

    def clear(self) -> None:
        """Take all rows out and free the buffers."""
        self._window = _Window()
        self._layers: list[_Layer] = []
        self.cache = Cache(layers=[])
        self.lengths.clear()

    @property
    def width(self) -> int:
        """Return the length of the longest row."""
        return self._window.end - self._window.begin

    @property
    def bytes(self) -> int:
        """Return how much memory the buffers take."""
        return sum(_size(layer.keys) + _size(layer.values) for layer in self._layers)

    def bytes_with(self, more: int, length: int, per_token: int) -> int:
        """Return how much memory it takes with so many more rows of at most this length."""
        rows, columns = _roomy(len(self.lengths) + more, max(self.width, length))
        return max(self.bytes, rows * columns * per_token)

    def join(self, prompt: Cache) -> None:
        """Take what a model has made of a prompt as the last row."""
        pairs = pairs_of(prompt)
        length = int(pairs[0][0].shape[-2])
        window, width = self._window, max(self.width, length)
        if not self._layers:
            self._layers = [_Layer(window) for _ in pairs]
            self.cache = Cache(layers=list(self._layers))
        self._reserve(pairs, window.rows + 1, width)
        before, row = window.begin, window.rows
        window.begin = window.end - width
        window.rows += 1
        self.lengths.append(length)
        for layer, pair in zip(self._layers, pairs, strict=True):
            layer.join(row, pair, before)

    def leave(self, row: int) -> None:
        """Take a row out; the last one takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self._layers:
                layer.move(last, row)
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        self._window.rows = last
        if self.lengths:
            self._window.begin = self._window.end - max(self.lengths)
        else:
            self.clear()

    def mask(self, device: torch.device) -> Tensor | None:
        """Return which columns each row attends to in the next step, [rows, width + 1]; ``None``: all of them."""
        width = self.width
        if all(length == width for length in self.lengths):
            return None
        empty = width - torch.tensor(self.lengths, device=device)
        return torch.arange(width + 1, device=device) >= empty[:, None]

    def make_room(self) -> None:
        """See that the next step has a column to write; to be called before it."""
        self._reserve(pairs_of(self.cache), len(self.lengths), self.width)

    def shrink(self) -> None:
        """Give back what rows that have left do not need any more."""
        if self._layers:
            self._rebuild(pairs_of(self.cache), len(self.lengths), self.width)

    def advance(self) -> None:
        """Count the column that a step has written."""
        self._window.end += 1
        self.lengths[:] = [length + 1 for length in self.lengths]

    def _reserve(self, like: list[tuple[Tensor, Tensor]], rows: int, width: int) -> None:
        window = self._window
        held = self._layers[0].keys
        if held is not None and rows <= held.shape[0] and width <= window.end < held.shape[2]:
            return
        self._rebuild(like, rows, width)

    def _rebuild(self, like: list[tuple[Tensor, Tensor]], rows: int, width: int) -> None:
        window = self._window
        capacity, columns = _roomy(rows, width)
        for layer, pair in zip(self._layers, like, strict=True):
            layer.rebuild(pair, capacity, columns, width)
        window.begin, window.end = width - self.width, width


def next_logits(model: Any, rows: RowCache, tokens: list[int]) -> Tensor:
    """Put one more token of every row through a model; return the logits behind them, [rows, V]."""
    device = model.device
    rows.make_room()
    logits: Tensor = model(
        input_ids=torch.tensor([[token] for token in tokens], device=device),
        position_ids=torch.tensor([[length] for length in rows.lengths], device=device),
        attention_mask=rows.mask(device),
        past_key_values=rows.cache,
        use_cache=True,
    ).logits[:, -1]
    rows.advance()
    return logits


def logits_behind(model: Any, pieces: Sequence[list[int]], caches: Sequence[DynamicCache]) -> Tensor:
    """Put the next pieces of prompts through a model; return the logits behind their last tokens, [prompts, V].

    Each cache holds what the model has made of its prompt so far, all of the same length, and takes what comes.
    """
    device, read = model.device, caches[0].get_seq_length()
    longest = max(map(len, pieces))
    ends = sorted({len(piece) - 1 for piece in pieces})
    kept: Any = 1 if ends == [longest - 1] else torch.tensor(ends, device=device)
    can_keep = "logits_to_keep" in inspect.signature(model.forward).parameters
    together = caches[0] if len(caches) == 1 else _stacked(caches)
    logits: Tensor = model(
        # what is filled up stands behind a text, where none of its tokens looks
        input_ids=torch.tensor([[*piece, *[0] * (longest - len(piece))] for piece in pieces], device=device),
        position_ids=torch.arange(read, read + longest, device=device).expand(len(pieces), -1),
        past_key_values=together,
        use_cache=True,
        **({"logits_to_keep": kept} if can_keep else {}),
    ).logits
    if len(caches) > 1:
        _deal(together, caches, [read + len(piece) for piece in pieces])
    place = {end: number if can_keep else end for number, end in enumerate(ends)}
    return torch.stack([row[place[len(piece) - 1]] for row, piece in zip(logits, pieces, strict=True)])


def _stacked(caches: Sequence[DynamicCache]) -> DynamicCache:
    """Return one cache that holds what each of these holds as a row, all of the same length."""
    made = DynamicCache()
    if caches[0].get_seq_length():
        for number, layer in enumerate(zip(*map(pairs_of, caches), strict=True)):
            keys, values = zip(*layer, strict=True)
            made.update(torch.cat(keys), torch.cat(values), number)
    return made


def _deal(together: DynamicCache, caches: Sequence[DynamicCache], lengths: Sequence[int]) -> None:
    """Put into each cache what its row of a stacked one has more than it."""
    for number, (keys, values) in enumerate(pairs_of(together)):
        for row, (cache, length) in enumerate(zip(caches, lengths, strict=True)):
            begin = cache.get_seq_length(number)
            more = slice(row, row + 1), slice(None), slice(begin, length)
            cache.update(keys[more].clone(), values[more].clone(), number)


def _roomy(rows: int, width: int) -> tuple[int, int]:
    """Return how many rows and columns a buffer gets for so many, so that it is not made anew at every step."""
    return rows + rows // 4, width + max(HEADROOM, width // 4)


def pairs_of(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """Return the keys and values of each layer, [rows, heads, tokens, width of a head]."""
    layers: Any = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


def bytes_per_token(prompt: Cache) -> int:
    """Return how much memory keys and values of one token take, as a model has made them of a prompt."""
    return sum(held[0, :, 0].numel() * held.element_size() for pair in pairs_of(prompt) for held in pair)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
