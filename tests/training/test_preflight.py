"""A plan before anything is loaded: it fits, is made smaller, or is refused with what would fit."""

import dataclasses

import pytest
from training_runs import PLAN

from lorad.errors import TrainingError, TransientError
from lorad.models.memory_needs import Answering
from lorad.records import Machine, ModelShape
from lorad.training import preflight
from lorad.training.preflight import Room

SHAPE = ModelShape(
    name="three",
    parameters=3_200_000_000,
    layers=28,
    hidden=3072,
    vocabulary=128_256,
    linear=2_800_000_000,
    widths=28 * 50_000,
)
PLANNED = dataclasses.replace(
    PLAN, rank=16, batch=4, accumulation=2, max_length=512, pack_tokens=2048, dtype="bfloat16", max_rank=64
)
ANSWERING = Answering(rank=64, versions=3, cache_bytes=10**9)


def a_room(gigabytes, **changes):
    machine = Machine(
        device="cuda", name="a card", memory_bytes=round(gigabytes * 1e9), threads=8, fast_bfloat16=True
    )
    return Room(**{"shape": SHAPE, "machine": machine, "answering": ANSWERING} | changes)


def needed(plan, room):
    return preflight.estimate(plan, room).total / 1e9


def test_a_plan_that_fits_stays_and_tells_its_sum():
    room = a_room(80)

    fitted = preflight.fit(PLANNED, room)

    assert fitted == dataclasses.replace(PLANNED, reasons=fitted.reasons)
    assert fitted.reasons == (*PLANNED.reasons, f"memory: {preflight.estimate(PLANNED, room)}")


def test_first_a_pass_holds_fewer_tokens_then_activations_are_computed_again():
    # Given rooms in which ever less is left
    whole = needed(PLANNED, a_room(1))
    halves = needed(dataclasses.replace(PLANNED, pack_tokens=1024), a_room(1))
    row = needed(dataclasses.replace(PLANNED, pack_tokens=512), a_room(1))
    again = needed(dataclasses.replace(PLANNED, pack_tokens=512, gradient_checkpointing=True), a_room(1))
    assert whole > halves > row > again

    def fitted(size):
        found = preflight.fit(PLANNED, a_room(size / 0.9 + 0.001))
        return found.pack_tokens, found.gradient_checkpointing, found.effective_batch

    assert fitted(whole) == (2048, False, 8)
    assert fitted(halves) == (1024, False, 8)
    assert fitted(row) == (512, False, 8)
    assert fitted(again) == (512, True, 8)


def test_what_was_made_smaller_is_told():
    smallest = dataclasses.replace(PLANNED, pack_tokens=512, gradient_checkpointing=True)

    told = preflight.fit(PLANNED, a_room(needed(smallest, a_room(1)) / 0.9 + 0.001)).reasons

    assert any("a pass holds 512 tokens instead of 2048" in reason for reason in told)
    assert any("gradient checkpointing" in reason for reason in told)
    assert told[-1].startswith("memory: weights 6.4 GB + ")


def test_the_last_tenth_is_tried_before_anything_is_refused():
    smallest = dataclasses.replace(PLANNED, pack_tokens=512, gradient_checkpointing=True)

    assert preflight.fit(PLANNED, a_room(needed(smallest, a_room(1)) + 0.001)).gradient_checkpointing


def test_nobody_overrules_a_person_about_checkpointing():
    smallest = dataclasses.replace(PLANNED, pack_tokens=512, gradient_checkpointing=True)
    room = a_room(needed(smallest, a_room(1)) + 0.001, may_checkpoint=False)

    with pytest.raises(TrainingError) as refused:
        preflight.fit(PLANNED, room)
    assert refused.value.code == "does_not_fit"


def test_what_does_not_fit_is_refused_with_what_would():
    with pytest.raises(TrainingError) as refused:
        preflight.fit(PLANNED, a_room(9, may_quantize=True))

    error = refused.value
    assert error.code == "does_not_fit"
    assert "a session on three does not fit in memory: it needs weights 6.4 GB + " in error.message
    assert (
        "and 9.0 GB were free when this lorad started; with training.quantize set to 4bit it would need 8."
        in error.message
    )


@pytest.mark.parametrize(
    ("gigabytes", "words"),
    [
        (15.9, "rows of at most 256 tokens would fit"),
        (3, "free some memory and restart lorad, or use a smaller base model"),
    ],
)
def test_without_quantising_shorter_rows_are_named_or_a_smaller_base(gigabytes, words):
    with pytest.raises(TrainingError, match=words):
        preflight.fit(PLANNED, a_room(gigabytes))


def test_a_server_elsewhere_leaves_its_share():
    room = a_room(80)

    assert needed(PLANNED, dataclasses.replace(room, answering=None)) < needed(PLANNED, room) - 6.4


def test_outside_of_a_card_what_answers_may_be_swapped_out():
    # Given memory for the session, and not for the server beside it
    smallest = dataclasses.replace(PLANNED, pack_tokens=512, gradient_checkpointing=True)
    needs = preflight.estimate(smallest, a_room(1))
    room = a_room((needs.total - needs.answering) / 0.9e9 + 0.001)

    with pytest.raises(TrainingError):
        preflight.fit(PLANNED, room)
    mac = dataclasses.replace(room, machine=dataclasses.replace(room.machine, device="mps"))
    fitted = preflight.fit(PLANNED, mac)
    assert fitted.gradient_checkpointing
    assert any("the system may swap out what answers" in reason for reason in fitted.reasons)


def test_processes_that_share_a_memory_are_counted_each_and_the_server_once():
    one, two = a_room(80), a_room(80, processes=2)

    assert preflight.estimate(PLANNED, two).answering == preflight.estimate(PLANNED, one).answering
    assert needed(PLANNED, two) == pytest.approx(
        2 * needed(PLANNED, one) - preflight.estimate(PLANNED, one).answering / 1e9
    )


# models from scratch: plans of rank 0

WHOLE = dataclasses.replace(
    PLANNED, rank=0, alpha=0, batch=16, accumulation=1, pack_tokens=8192, dtype="float32", max_rank=64
)
MODEL = dataclasses.replace(SHAPE, name="an encoder from scratch")


def whole_room(gigabytes):
    return a_room(gigabytes, shape=MODEL, answering=Answering(versions=1))


def test_a_model_from_scratch_is_added_up_whole():
    fitted = preflight.fit(WHOLE, whole_room(200))

    needs = preflight.estimate(WHOLE, whole_room(200))
    assert needs.optimizer == 16 * MODEL.parameters
    assert needs.answering == 2 * needs.weights == 8 * MODEL.parameters
    assert fitted.reasons[-1] == f"memory: {needs}"


def test_its_passes_are_made_smaller_where_memory_is_short():
    smaller = dataclasses.replace(WHOLE, pack_tokens=1024)

    fitted = preflight.fit(WHOLE, whole_room(needed(smaller, whole_room(1)) / 0.9 + 0.001))

    assert (fitted.pack_tokens, fitted.batch) == (1024, 16)


@pytest.mark.parametrize(
    ("gigabytes", "words"),
    [
        (89.9, r"sequences of at most 128 tokens would fit \(max_seq_len of the track's model\)"),
        (60, r"1\d layers instead of 28 would fit \(num_layers of the track's model\)"),
        (
            1,
            "free some memory and restart lorad, or give the track's model a smaller d_model, d_ff or vocab_size",
        ),
    ],
)
def test_one_that_does_not_fit_is_refused_with_the_model_that_would(gigabytes, words):
    with pytest.raises(TrainingError, match=words) as refused:
        preflight.fit(WHOLE, whole_room(gigabytes))
    assert refused.value.code == "does_not_fit"
    assert "a session on an encoder from scratch does not fit in memory: it needs weights 12.8 GB + " in str(
        refused.value
    )


def test_a_disk_that_is_too_full_is_told_before_anything_is_written():
    room, enough = whole_room(200), MODEL.parameters * 52

    preflight.require_disk(room, enough)
    with pytest.raises(
        TransientError, match="the disk is too full for a session on an encoder from scratch"
    ) as told:
        preflight.require_disk(room, enough - 1)
    assert told.value.code == "disk"
