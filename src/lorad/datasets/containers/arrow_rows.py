"""Rows in Arrow's batches, as Parquet is read. A batch in, rows out, none of them larger than a row may be.

What lives here: what a file's own figures say that it comes to, and measuring what a row comes to before it is made.
What never does: opening files, what a field means (``reader``).

Columns keep a text that stands in every row once, and the length of a list of one value is a number: a few hundred
bytes can stand for gigabytes. So texts stay in their dictionaries, and the size of each row is worked out from the
lengths that a batch has.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lorad.config import InboxSettings
from lorad.datasets.containers.layout import BadRow, shown, too_long, too_many_columns, twice
from lorad.errors import SampleError

Sizes = npt.NDArray[np.int64]

#: Columns that are read as dictionaries if they are texts, counting those inside others: more than a file may have.
LEAVES = 10_000

#: Values of one column in one row group: one row may have them all.
_MOST_VALUES = 20_000_000

#: Bytes of a batch that is in memory at once, and the rows that it has at most.
_BATCH_BYTES, _MOST_ROWS = 64_000_000, 256

#: Values of a list of fixed size: where there is no list they take room as well.
_LONGEST_FIXED = 10_000

#: Bytes that a value without a length of its own takes, and that a null does.
_PLAIN = 8


def check(file: Any, name: str, limits: InboxSettings) -> None:
    """Refuse a Parquet file whose figures say that it comes to more than a file may; raise ``SampleError``."""
    metadata, names = file.metadata, file.schema_arrow.names
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    if sum(group.total_byte_size for group in groups) > limits.max_unpacked_bytes:
        raise SampleError(
            f"{name} holds more than inbox.max_unpacked_bytes ({limits.max_unpacked_bytes}) bytes; split it",
            code="too_large_unpacked",
        )
    if len(names) > limits.max_columns or metadata.num_columns > LEAVES:
        told = too_many_columns(max(len(names), metadata.num_columns), limits)
        raise SampleError(f"{name} {told}", code="too_many_columns")
    if same := twice(names):
        one, other = map(shown, same)
        raise SampleError(f"{name} has columns {one} and {other}; name them apart", code="bad_header")
    most = max((_values(group) for group in groups), default=0)
    if most > _MOST_VALUES or any(_width(field.type) > _LONGEST_FIXED for field in file.schema_arrow):
        raise SampleError(
            f"{name} holds more than {_MOST_VALUES} values of a column in one row group, or lists of a fixed size of more "
            f"than {_LONGEST_FIXED}; write it again with a smaller row_group_size",
            code="too_large_unpacked",
        )


def _values(group: Any) -> int:
    return max((group.column(at).num_values for at in range(group.num_columns)), default=0)


def _width(kind: Any) -> int:
    """Return how many values stand in a type's lists of fixed size."""
    inner = [kind.field(at).type for at in range(kind.num_fields)]
    own = getattr(kind, "list_size", 1)
    return int(own) * max(map(_width, inner), default=1)


def batch_rows(file: Any) -> int:
    """Return how many rows of a file a batch may have: few of large ones."""
    metadata = file.metadata
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return int(max(1, min(_MOST_ROWS, _BATCH_BYTES // max(largest, 1))))


def rows(batch: Any, limits: InboxSettings) -> Iterator[dict[str, Any] | BadRow]:
    """Yield a batch's rows, what is longer than a row may be unmade; a few are made at once."""
    sizes = sum((_sizes(column) for column in batch.columns), np.zeros(batch.num_rows, np.int64))
    begin = 0
    while begin < batch.num_rows:
        if sizes[begin] > limits.max_row_bytes:
            yield too_long(limits)
            begin += 1
            continue
        end, total = begin, 0
        while end < batch.num_rows and sizes[end] <= limits.max_row_bytes and total <= limits.max_row_bytes:
            total += int(sizes[end])
            end += 1
        yield from batch.slice(begin, end - begin).to_pylist()
        begin = end


def _sizes(array: Any) -> Sizes:  # noqa: PLR0911 - one for each kind
    """Return about how many bytes each value of an array comes to."""
    import pyarrow as pa  # noqa: PLC0415 - optional
    from pyarrow import compute  # noqa: PLC0415

    kind, count = array.type, len(array)
    if isinstance(array, pa.ExtensionArray):
        return _sizes(array.storage)
    if pa.types.is_dictionary(kind):
        known = np.append(_sizes(array.dictionary), 0)
        taken: Sizes = known[compute.fill_null(array.indices, len(known) - 1).to_numpy(zero_copy_only=False)]
        return taken
    if any(
        is_it(kind)
        for is_it in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    ):
        lengths = compute.fill_null(compute.binary_length(array), _PLAIN)
        return np.asarray(lengths.to_numpy(zero_copy_only=False), np.int64)
    if pa.types.is_struct(kind):
        parts = [_sizes(array.field(at)) + len(kind.field(at).name) for at in range(kind.num_fields)]
        return sum(parts, np.zeros(count, np.int64))
    if pa.types.is_map(kind):
        return _between(array.offsets, _sizes(array.keys) + _sizes(array.items))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _between(array.offsets, _sizes(array.values))
    if pa.types.is_fixed_size_list(kind):
        inner = _sizes(array.values.slice(array.offset * kind.list_size, count * kind.list_size))
        return np.asarray(inner.reshape(count, kind.list_size).sum(axis=1), np.int64)
    return np.full(count, _PLAIN, np.int64)


def _between(offsets: Any, inner: Sizes) -> Sizes:
    """Return the sizes of lists by the sizes of what is in them."""
    places = offsets.to_numpy(zero_copy_only=False)
    total = np.concatenate(([0], np.cumsum(inner + 1)))
    return np.asarray(total[places[1:]] - total[places[:-1]], np.int64)
