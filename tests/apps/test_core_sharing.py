"""The thread that answers computes with all cores, but for one while something long is computed beside it."""

import threading

import pytest

from lorad.apps.daemon.core_sharing import CoreSharing


class Answering:
    """A thread that takes its cores again and again, as answering does between two steps."""

    def __init__(self, sharing):
        self._sharing = sharing
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._is_over.is_set():
            self._sharing.take()

    def __enter__(self):
        self._thread.start()
        return self._thread

    def __exit__(self, *_):
        self._is_over.set()
        self._thread.join()


def sharing(cores):
    """Return it with a list of which thread has computed with how many."""
    told = []
    return CoreSharing(cores, lambda count: told.append((threading.current_thread(), count))), told


@pytest.mark.parametrize(("cores", "left"), [(1, 1), (2, 1), (8, 7)])
def test_what_is_computed_beside_answering_has_a_core_of_its_own(cores, left):
    shared, told = sharing(cores)
    shared.take()
    during = []

    with Answering(shared) as answering:
        found = shared.beside(
            lambda: during.append(told[-1]) or [count for who, count in told if who is answering]
        )

    here = threading.current_thread()
    assert during == [(here, 1)]  # set last: what a new thread would get
    assert found == ([left] if left != cores else [])
    assert told[-1] == (here, 1)
    assert [count for who, count in told if who is answering] == ([left, cores] if left != cores else [])


def test_two_at_once_cost_one_core_and_it_comes_back_behind_the_last():
    shared, told = sharing(4)
    shared.take()

    with Answering(shared) as answering:
        shared.beside(lambda: shared.beside(lambda: None))

    assert [count for who, count in told if who is answering] == [3, 4]


def test_what_goes_wrong_beside_answering_gives_the_core_back():
    shared, told = sharing(4)
    shared.take()

    with Answering(shared) as answering, pytest.raises(ValueError, match="no"):
        shared.beside(lambda: int("no"))

    assert [count for who, count in told if who is answering] == [3, 4]


def test_before_anybody_answers_nobody_is_waited_for():
    shared, told = sharing(4)
    assert shared.beside(lambda: "done") == "done"
    assert [count for _, count in told] == [1, 1]


def test_who_begins_answering_is_waited_for():
    shared, told = sharing(4)

    with Answering(shared) as answering:
        shared.settle()

    assert told == [(answering, 4), (threading.current_thread(), 1)]
