"""Many rows in one sequence that do not see each other, with the positions that predict their answers."""

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from lorad.records import Encoded


@dataclass(frozen=True, slots=True)
class Pack:
    """Some rows as one sequence of S tokens that predicts M answer tokens."""

    tokens: Tensor
    """[1, S] int64."""
    positions: Tensor
    """[1, S] int64."""
    visible: Tensor
    """[1, 1, S, S] bool: whether a token (row) may look at another (column)."""
    predicting: Tensor
    """[M] int64: where in the sequence each answer token is predicted."""
    targets: Tensor
    """[M] int64: the answer tokens."""
    owners: Tensor
    """[M] int64: which row of the pack each answer token belongs to."""
    rows: int
    prefix: int = 0
    """P: how many tokens at the beginning all rows share, without the guests."""
    lengths: tuple[int, ...] = ()
    """Of rows and guests, behind the prefix."""
    guests: int = 0
    """How many of them, at the end, see only themselves."""


def pack(rows: Sequence[Encoded], guests: Sequence[Encoded] = ()) -> Pack:
    """Lay rows into one sequence behind their common prefix, and behind them guests that see only themselves."""
    shared = _common_prefix(rows) if rows else 0
    tokens = list(rows[0].tokens[:shared]) if rows else []
    positions = list(range(shared))
    segments = [0] * shared
    predicting: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    lengths: list[int] = []
    for number, row in enumerate((*rows, *guests)):
        begin = len(tokens)
        cut = shared if number < len(rows) else 0
        own = row.tokens[cut:-1]  # the last token is only ever predicted
        tokens += own
        lengths.append(len(own))
        positions += range(cut, cut + len(own))
        segments += [number + 1] * len(own)
        first = begin + row.start - cut - 1
        predicting += range(first, first + len(row.target))
        targets += row.target
        owners += [number] * len(row.target)
    segment = torch.tensor(segments)
    earlier = torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril()
    behind_prefix = (segment[None, :] == 0) & (segment[:, None] <= len(rows))
    visible = earlier & ((segment[None, :] == segment[:, None]) | behind_prefix)
    return Pack(
        torch.tensor([tokens]),
        torch.tensor([positions]),
        visible[None, None],
        torch.tensor(predicting),
        torch.tensor(targets),
        torch.tensor(owners),
        len(rows) + len(guests),
        shared,
        tuple(lengths),
        len(guests),
    )


def _common_prefix(rows: Sequence[Encoded]) -> int:
    """Count the tokens that all rows begin with; at least one token before the answer stays with its row."""
    return common_prefix([row.tokens[: row.start - 1] for row in rows])


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Count the tokens that all sequences begin with."""
    columns = zip(*sequences, strict=False)  # as far as the shortest goes
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def divide(rows: Sequence[Sized], most_tokens: int) -> Iterator[list[int]]:
    """Split rows, longest together, into packs of at most ``most_tokens`` (or one row); yield their numbers."""
    group: list[int] = []
    used = 0
    for number in sorted(range(len(rows)), key=lambda number: len(rows[number])):
        if group and used + len(rows[number]) > most_tokens:
            yield group
            group, used = [], 0
        group.append(number)
        used += len(rows[number])
    if group:
        yield group
