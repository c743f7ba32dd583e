"""Attention within the rows of a pack, instead of over all of it under a mask.

What lives here: which tokens of a pack see which as a batch of rows, and attention over that. What never does: laying rows into a
pack (``packing``), anything but attention.

A pack of eight short rows is one sequence, of which each token may see a tenth. The general kernel computes all of it and masks
the rest. Here each row becomes one of a batch, with the shared prefix before its keys. The mask that a model is given carries how
(``Tensor`` takes attributes): a model that hands it on unchanged gets the fast way, any other the general one, with the same numbers. On a CPU alone:
elsewhere the general kernel is the fast one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_ATTRIBUTE = "lorad_rows"
_OTHERWISE = ("softcap", "position_bias", "s_aux", "cache")
"""What some models ask of attention beside all this."""
LEAST_SAVED = 2
"""Where a batch of rows would not be that many times smaller than the whole mask, moving them costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A pack's tokens as a batch of N rows of at most L tokens, each behind the pack's first P tokens."""

    prefix: int
    places: Tensor
    """[N * L] int64: which token of the pack stands there; behind the end of a row any."""
    origins: Tensor
    """[S] int64: where in the batch each token of the pack stands."""
    hidden: Tensor
    """[N, 1, L, P + L] float32: added to the scores."""

    @property
    def count(self) -> int:
        """Return N."""
        return self.hidden.shape[0]


def rows_of(lengths: Sequence[int], prefix: int, seeing: int, device: Any) -> Rows | None:
    """Return the rows of a pack: its prefix, then rows of these lengths, of which the first ``seeing`` see the prefix.

    ``None`` where that would save little, or another device has better.
    """
    if torch.device(device).type != "cpu":
        return None
    own = [length for length in (prefix, *lengths) if length]
    sees = [False] * bool(prefix) + [number < seeing for number, length in enumerate(lengths) if length]
    longest = max(own, default=0)
    if not own or LEAST_SAVED * len(own) * longest * (prefix + longest) > sum(own) ** 2:
        return None
    begins = torch.tensor(own).cumsum(0) - torch.tensor(own)
    within = torch.arange(longest)
    is_there = within < torch.tensor(own)[:, None]
    places = (begins[:, None] + within).masked_fill(~is_there, 0)
    seen_prefix = torch.tensor(sees)[:, None, None].expand(-1, longest, prefix)
    earlier = torch.ones(longest, longest, dtype=torch.bool).tril().expand(len(own), -1, -1)
    visible = torch.cat([seen_prefix, earlier], dim=-1)[:, None]
    hidden = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    return Rows(
        prefix, places.flatten().to(device), is_there.flatten().nonzero()[:, 0].to(device), hidden.to(device)
    )


def carry(mask: Tensor, rows: Rows | None) -> Tensor:
    """Let a mask carry the rows that it is made of."""
    setattr(mask, _ATTRIBUTE, rows)
    return mask


class _ToRows(torch.autograd.Function):
    """Take tokens to their places in rows; each is in one, so the gradient is taken back the same way."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return tokens.index_select(0, rows.places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (above,) = gradients
        return above.index_select(0, ctx.rows.origins), None


class _FromRows(torch.autograd.Function):
    """Take them back; what stands behind the end of a row has no gradient."""

    @staticmethod
    def forward(ctx: Any, batch: Tensor, rows: Rows) -> Tensor:
        ctx.rows = rows
        return batch.index_select(0, rows.origins)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (above,) = gradients
        found = above.new_zeros(len(ctx.rows.places), *above.shape[1:])
        return found.index_copy_(0, ctx.rows.origins, above), None


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Return attention as transformers' ``sdpa`` does: [1, S, heads, D] of a pack whose mask carries its rows."""
    rows = None if torch.compiler.is_compiling() else _rows(attention_mask, query, key, more)
    if rows is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return found
    asked, keys, values = (_batch(each, rows) for each in (query, key, value))
    keys, values = (_behind_prefix(batch, each, rows) for batch, each in ((keys, key), (values, value)))
    scores = _by_key_head(asked, keys) @ keys.transpose(-1, -2)
    scale = asked.shape[-1] ** -0.5 if scaling is None else scaling
    likely = functional.softmax(_by_query_head(scores * scale, asked) + rows.hidden, dim=-1)
    out = _by_query_head(_by_key_head(likely, keys) @ values, asked)
    tokens = _FromRows.apply(out.transpose(1, 2).flatten(0, 1).to(query.dtype), rows)
    return tokens[None], None


def _rows(mask: Tensor | None, query: Tensor, key: Tensor, more: Mapping[str, Any]) -> Rows | None:
    """Return the rows that a mask carries, where they are all that this attention is about."""
    rows: Rows | None = getattr(mask, _ATTRIBUTE, None)
    if rows is None or any(more.get(name) is not None for name in _OTHERWISE):
        return None
    is_whole = query.shape[0] == 1 and query.shape[2] == key.shape[2] == len(rows.origins)
    return rows if is_whole else None


def _batch(tensor: Tensor, rows: Rows) -> Tensor:
    """Return float32 [N, heads, L, D] of [1, heads, S, D]."""
    found: Tensor = _ToRows.apply(tensor[0].transpose(0, 1), rows)
    batch: Tensor = found.float().unflatten(0, (rows.count, -1))
    return batch.transpose(1, 2)


def _behind_prefix(own: Tensor, tensor: Tensor, rows: Rows) -> Tensor:
    """Return keys or values [N, heads, P + L, D]: of the pack's prefix, then a row's own."""
    shared = tensor[:, :, : rows.prefix].float().expand(rows.count, -1, -1, -1)
    return torch.cat([shared, own], dim=2)


def _by_key_head(tensor: Tensor, keys: Tensor) -> Tensor:
    """Lay the heads of queries that look at the same keys behind one another: [N, key heads, G * L, ...]."""
    laid: Tensor = tensor.unflatten(1, (keys.shape[1], -1)).flatten(2, 3)
    return laid


def _by_query_head(tensor: Tensor, asked: Tensor) -> Tensor:
    """Take them apart again: [N, heads, L, ...]."""
    taken: Tensor = tensor.unflatten(2, (-1, asked.shape[2])).flatten(1, 2)
    return taken


AttentionInterface.register("sdpa", attend)
