"""What the lower layers of a base say of rows, on the disk from one session to the next.

What lives here: the file. What never does: computing what is in it (``lower_layers``), which rows.

A version that has learned in the upper layers alone says below them what its base says. So a row that was tested once need not be read
there again, whatever was learned since. Only tests use it: what a session trains on is computed by itself, or it could not be made
again to the bit without the file. Keys are digests, but whoever has the base can work out from the states which tokens a row has: the
file is to be guarded like the rows.
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

FOLDER, FILE = "lower_states", "rows.safetensors"
"""In a track's folder: a folder of its own, so that what a writer left that was killed goes with it."""
MOST_BYTES = KEPT_BYTES // 2
"""Of a file: it is held three times while it is written."""
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

    def __contains__(self, name: object) -> bool:
        """Tell whether a row is known."""
        return name in self.tails

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


def fitting(
    rows: Sequence[Encoded], hidden: int, dtype: torch.dtype, most_bytes: int = MOST_BYTES
) -> list[Encoded]:
    """Return those of these rows that a file holds, each once, the first ones first; ``hidden`` is the model's width."""
    once = list({key(row): row for row in rows}.values())
    shared = _shared(once)
    room, each = most_bytes, hidden * dtype.itemsize
    held = []
    for row in once:
        room -= (len(row) - 1 - shared) * each
        if room < 0:
            break
        held.append(row)
    return held


def _shared(rows: Sequence[Encoded]) -> int:
    return common_prefix([row.tokens[:-1] for row in rows]) if rows else 0


@torch.no_grad()
def write(path: Path, computes: str, first: int, rows: Sequence[Encoded], layers: LowerLayers) -> None:
    """Store what is known of these rows, different ones, and nothing of others."""
    known = [row for row in rows if layers.knows(row)]
    if not known:
        return
    shared = _shared(known)
    states = layers.said(known[0])
    lengths = [len(row) - 1 - shared for row in known]
    tails = torch.empty(sum(lengths), states.shape[1], dtype=states.dtype)
    # one by one: a list of them would hold all twice
    for row, part in zip(known, tails.split(lengths), strict=True):
        part.copy_(layers.said(row)[shared:])
    packed = {
        "keys": torch.frombuffer(bytearray(b"".join(map(key, known))), dtype=torch.uint8),
        "lengths": torch.tensor(lengths, dtype=torch.int32),
        "prefix": states[:shared].cpu().contiguous(),
        "tails": tails,
    }
    files.write_bytes(path, save(packed, metadata=_metadata(computes, first, packed)), mode=files.SECRET)


def _metadata(computes: str, first: int, packed: Mapping[str, Tensor]) -> dict[str, str]:
    return {"base": computes, "first_layer": str(first), "form": FORM, "sha256": digest(packed)}


def digest(packed: Mapping[str, Tensor]) -> str:
    """Return the sha256 of tensors, one behind the other."""
    found = hashlib.sha256()
    for tensor in packed.values():
        found.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
