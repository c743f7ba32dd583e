"""Sign codes: one bit for each dimension of a vector, by which most of a million vectors are ruled out unread. Pure.

What lives here: making codes, and finding those that differ least from a question's. What never does: comparing the vectors
themselves (``document_store``), files.

The signs of two vectors differ in about as many dimensions as the angle between them is wide (Charikar, STOC 2002), so the
nearest by cosine are among the nearest by signs, if enough of these are looked at: binary quantisation with exact rescoring
(Yamada, Asai and Hajishirzi, ACL 2021). A code is 48 bytes where a vector is 768.
"""

import numpy as np
from numpy.typing import NDArray

WORD = 64
"""Bits of a number that codes are made of."""
AT_ONCE = 32_768
"""Codes that are compared together: they and their differences stay in a processor's cache."""
NEVER = np.iinfo(np.uint16).max
"""The difference of what must not be found; no code is so long."""


def codes(vectors: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Return the codes of vectors [N, D], column by column: [ceil(D / 64), N]."""
    bits = np.packbits(vectors > 0, axis=1)
    padded = np.zeros((len(vectors), -(-vectors.shape[1] // WORD) * (WORD // 8)), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return np.ascontiguousarray(padded.view(np.uint64).T)


def nearest(
    held: NDArray[np.uint64], asked: NDArray[np.floating], most: int, allowed: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the places of the allowed codes, of all [W, N], that differ least from the code of a vector [D].

    These are at least ``most``, if so many are allowed, and those that differ as little as the last of them.
    """
    differing = np.where(allowed, _differing(held, codes(asked[None])[:, 0]), NEVER)
    counts = np.cumsum(np.bincount(differing, minlength=NEVER + 1)[:NEVER])
    line = int(np.searchsorted(counts, most))
    return np.flatnonzero(differing <= min(line, NEVER - 1))


def _differing(held: NDArray[np.uint64], asked: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Return in how many bits each code differs, [N]."""
    found = np.zeros(held.shape[1], np.uint16)
    for start in range(0, len(found), AT_ONCE):
        part = found[start : start + AT_ONCE]
        for word, bits in zip(held, asked, strict=True):
            part += np.bitwise_count(word[start : start + AT_ONCE] ^ bits)
    return found
