"""What the lower layers of a base say of rows, on the disk from one session to the next.

What lives here: the file. What never does: computing what is in it (``lower_layers``), which rows.

A version that has learned in the upper layers alone says below them what its base says. So a row that was tested once need not be read
there again, whatever was learned since. Only tests use it: what a session trains on is computed by itself, or it could not be made
again to the bit without the file.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lorad.models.lower_layers import LowerLayers, key
from lorad.models.memory_needs import KEPT_BYTES
from lorad.models.packing import common_prefix
from lorad.records import Encoded
from lorad.storage import files

FILE = "lower_states.safetensors"
"""In a track's folder."""
FORM = "1"
DIGEST = 32
"""Bytes of a row's key."""


@dataclass(frozen=True, slots=True)
class LowerStates(Mapping[bytes, Tensor]):
    """What is known of rows, by ``lower_layers.key``: [S, H] each, put together from what all begin with and what they do not share."""

    prefix: Tensor
    """[P, H]."""
    tails: Mapping[bytes, Tensor]
    """[S - P, H] each."""

    def __getitem__(self, name: bytes) -> Tensor:
        """Return what is known of a row."""
        return torch.cat([self.prefix, self.tails[name]])

    def __iter__(self) -> Iterator[bytes]:
        """Yield the keys of the rows that are known."""
        return iter(self.tails)

    def __len__(self) -> int:
        """Count the rows that are known."""
        return len(self.tails)


def read(path: Path, computes: str, first: int) -> LowerStates | None:
    """Return what a base, whose fingerprint this is, said below its layer ``first``; ``None`` where that is not at hand or damaged."""
    try:
        with safe_open(path, framework="pt") as stored:
            packed = {name: stored.get_tensor(name) for name in ("keys", "lengths", "prefix", "tails")}
            if stored.metadata() != _metadata(computes, first, packed):
                return None
        names, lengths, prefix, tails = packed.values()
        each = torch.split(tails, lengths.tolist())
        keys = names.numpy().tobytes()
        found = {keys[at * DIGEST : (at + 1) * DIGEST]: tail for at, tail in enumerate(each)}
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError):
        return None
    return LowerStates(prefix, found) if len(found) == len(each) else None


@torch.no_grad()
def write(
    path: Path,
    computes: str,
    first: int,
    rows: Sequence[Encoded],
    layers: LowerLayers,
    most_bytes: int = KEPT_BYTES,
) -> None:
    """Store what is known of these rows and nothing of others, the first ones first, as far as there is room."""
    known = [(row, states) for row in rows if (states := layers.said(row)) is not None]
    if not known:
        return
    shared = common_prefix([row.tokens[:-1] for row, _ in known])
    left, tails = most_bytes, dict[bytes, Tensor]()
    for row, states in known:
        left -= states[shared:].numel() * states.element_size()
        if left >= 0:
            tails[key(row)] = states[shared:].cpu()
    if not tails:
        return
    packed = {
        "keys": torch.frombuffer(bytearray(b"".join(tails)), dtype=torch.uint8),
        "lengths": torch.tensor([len(tail) for tail in tails.values()], dtype=torch.int32),
        "prefix": known[0][1][:shared].cpu().contiguous(),
        "tails": torch.cat(list(tails.values())),
    }
    files.write_bytes(path, save(packed, metadata=_metadata(computes, first, packed)), mode=files.SECRET)


def _metadata(computes: str, first: int, packed: Mapping[str, Tensor]) -> dict[str, str]:
    digest = hashlib.sha256()
    for tensor in packed.values():
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return {"base": computes, "first_layer": str(first), "form": FORM, "sha256": digest.hexdigest()}
