"""The file of vectors: what counts is never lost, what is damaged is told, and nobody else may read it."""

import contextlib
import stat

import numpy as np
import pytest

from lorad.storage import fault_points
from lorad.storage.vectors import VectorFile


@pytest.fixture
def file(tmp_path):
    return VectorFile(tmp_path / "in" / "vectors.f16", 4)


def rows(count, begin=0):
    return (np.arange(count * 4).reshape(count, 4) + begin).astype(np.float32)


def test_rows_are_added_behind_one_another_and_read_back(file):
    batches = [file.add(0, rows(3)), file.add(3, rows(2, 50))]

    assert file.rows(5).tolist() == [*rows(3).tolist(), *rows(2, 50).tolist()]
    assert list(file.damaged(batches)) == []
    assert file.rows(0).shape == (0, 4)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_rows_that_do_not_count_are_written_over(file):
    first = file.add(0, rows(2))
    file.add(2, rows(9, 100))  # and before it was counted, somebody was killed
    second = file.add(2, rows(1, 7))

    assert list(file.damaged([first, second])) == []
    assert file.path.stat().st_size == 3 * 4 * 2


def test_damage_is_told_by_batch_and_a_missing_file_is_all_damaged(file):
    batches = [file.add(0, rows(2)), file.add(2, rows(2)), file.add(4, rows(2))]
    content = bytearray(file.path.read_bytes())
    content[20] ^= 1
    file.path.write_bytes(content[:-1])

    assert list(file.damaged(batches)) == [batches[1], batches[2]]
    file.remove()
    assert list(file.damaged(batches)) == batches


def test_a_kill_at_any_write_leaves_what_counted(file):
    class Killed(BaseException):
        pass

    first = file.add(0, rows(3))
    moments = []

    def killing(number):
        def guard(name, _place):
            moments.append(name)
            if len(moments) == number:
                raise Killed
            return contextlib.nullcontext()

        return guard

    for number in range(1, 10):
        moments.clear()
        with contextlib.suppress(Killed), fault_points.guarded(killing(number)):
            file.add(3, rows(2, 30))
            break
        assert list(file.damaged([first])) == []
    assert moments == ["truncate", "write", "sync"]
    assert list(file.damaged([first, file.add(3, rows(2, 30))])) == []
