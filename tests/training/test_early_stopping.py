"""Early stopping: patience, the smallest gain that counts, and the best epoch."""

import pytest

from lorad.training.early_stopping import EarlyStopping


def watch(losses, *, max_epochs=100, patience=2, min_delta=0.1):
    stopping = EarlyStopping(max_epochs, patience, min_delta)
    for loss in losses:
        if stopping.saw(loss):
            break
    return stopping


def test_a_loss_that_falls_goes_on_to_the_last_epoch():
    stopping = watch([5, 4, 3, 2, 1], max_epochs=4)
    assert (stopping.rounds, stopping.best_round, stopping.ended_by) == (4, 4, "max_rounds")


def test_a_loss_that_stands_still_ends_it_and_the_lowest_is_kept():
    stopping = watch([5, 4, 4.2, 3.95, 1])
    assert (stopping.rounds, stopping.best_round, stopping.ended_by) == (4, 4, "patience")


def test_small_gains_add_up():
    # each epoch gains less than counts, two together do
    stopping = watch([5, 4.94, 4.88, 4.82, 4.76, 4.7], patience=2, max_epochs=6)
    assert stopping.ended_by == "max_rounds"


def test_an_epoch_that_tests_worse_is_not_the_best():
    stopping = watch([5, 3, 4, 4])
    assert (stopping.rounds, stopping.best_round) == (4, 2)


@pytest.mark.parametrize("cut", range(1, 4))
def test_it_goes_on_after_a_break(cut):
    losses = [5, 4, 4.2, 3.95]
    before = watch(losses[:cut])
    after = EarlyStopping(100, 2, 0.1)
    after.restore(before.state())
    for loss in losses[cut:]:
        after.saw(loss)
    assert after.state() == watch(losses).state()
