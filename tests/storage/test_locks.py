"""Locks between processes: held by one, and free again whatever happens to its holder."""

import pytest

from lorad.errors import TransientError
from lorad.storage import locks


def test_a_lock_is_held_by_one(tmp_path):
    path = tmp_path / "run" / "lock"

    with locks.locked(path), pytest.raises(TransientError) as caught, locks.locked(path, wait=False):
        raise AssertionError("two hold one lock")

    assert caught.value.code == "locked"
    assert caught.value.data["path"] == str(path)


def test_a_lock_is_free_again_after_its_holder_even_if_it_failed(tmp_path):
    with pytest.raises(ZeroDivisionError), locks.locked(tmp_path / "lock"):
        raise ZeroDivisionError

    with locks.locked(tmp_path / "lock", wait=False):
        pass


def test_a_lock_does_not_touch_what_the_file_holds(tmp_path):
    (tmp_path / "lock").write_text("kept")

    with locks.locked(tmp_path / "lock"):
        pass

    assert (tmp_path / "lock").read_text() == "kept"
