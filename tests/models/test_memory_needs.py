"""What a base, an adapter and a step take of memory, in bytes; and in which form a base fits."""

import dataclasses

import pytest
from model_shapes import LLAMA_8B as LLAMA

from lorad.models import memory_needs
from lorad.models.memory_needs import Answering, Pass
from lorad.records import Machine

CARD = Machine(
    device="cuda",
    name="a card",
    memory_bytes=24 * 10**9,
    total_bytes=24 * 10**9,
    threads=8,
    fast_bfloat16=True,
)


@pytest.mark.parametrize(
    ("dtype", "quantization", "gigabytes"),
    [
        ("float32", "none", 32.1),
        ("bfloat16", "none", 16.1),
        ("bfloat16", "8bit", 9.1),
        ("bfloat16", "4bit", 5.7),
        ("float32", "4bit", 7.8),
    ],
)
def test_weights_take_what_their_form_takes(dtype, quantization, gigabytes):
    found = memory_needs.weight_bytes(LLAMA, dtype, quantization)

    assert found / 1e9 == pytest.approx(gigabytes, abs=0.06)


def test_an_adapter_has_its_rank_times_the_widths():
    assert memory_needs.adapter_parameters(LLAMA, 16) == 16 * LLAMA.widths
    # where nobody has counted them, more than there are
    uncounted = dataclasses.replace(LLAMA, widths=0)
    assert memory_needs.adapter_parameters(uncounted, 16) > 16 * LLAMA.widths


def test_the_sum_has_all_its_parts():
    step = Pass(tokens=1024, is_checkpointed=False)

    needs = memory_needs.needs(
        LLAMA,
        "bfloat16",
        "4bit",
        rank=16,
        parent_rank=64,
        step=step,
        answering=Answering(rank=64, versions=3, cache_bytes=10**9),
    )

    weights = memory_needs.weight_bytes(LLAMA, "bfloat16", "4bit")
    assert needs.weights == weights
    assert needs.adapters == (16 + 64) * LLAMA.widths * 4
    assert needs.optimizer == 16 * LLAMA.widths * 16
    assert needs.activations == 1024 * (32 * 4096 * 100 + 128_256 * 8)
    assert needs.answering == weights + 3 * 64 * LLAMA.widths * 4 + 10**9
    assert needs.total == sum(getattr(needs, name) for name in needs.__slots__)
    assert str(needs).startswith("weights 5.7 GB + adapters 0.84 GB + optimizer ")
    assert str(needs).endswith(f" = {needs.total / 1e9:.1f} GB")


def test_a_parent_that_is_merged_takes_nothing_and_a_server_elsewhere_neither():
    step = Pass(tokens=1, is_checkpointed=False)

    needs = memory_needs.needs(LLAMA, "bfloat16", "none", rank=8, parent_rank=64, step=step, answering=None)

    assert needs.adapters == 8 * LLAMA.widths * 4
    assert needs.answering == 0


def test_layers_before_the_first_that_learns_keep_no_activations_and_have_no_adapter():
    def of(first_layer, *, is_checkpointed=False):
        step = Pass(tokens=1000, is_checkpointed=is_checkpointed, first_layer=first_layer)
        return memory_needs.needs(
            LLAMA, "bfloat16", "none", rank=8, parent_rank=64, step=step, answering=None
        )

    every, some = of(0), of(24)
    assert some.weights == every.weights
    assert (some.adapters, some.optimizer) == (every.adapters // 4, every.optimizer // 4)
    kept = memory_needs.KEPT_BYTES * 3 // 2
    assert every.activations - some.activations == 1000 * 24 * 4096 * 100 - kept
    less = of(0, is_checkpointed=True).activations - of(24, is_checkpointed=True).activations
    assert less == 1000 * 24 * 4096 * 4  # and nothing is kept where memory is short


def test_a_whole_model_is_trained_in_float32_and_each_version_is_one():
    step = Pass(tokens=1024, is_checkpointed=False)
    answering = Answering(versions=3, cache_bytes=10**9)

    needs = memory_needs.whole_needs(LLAMA, step, answering)

    assert needs.weights == LLAMA.parameters * 4
    assert needs.adapters == 0
    assert needs.optimizer == LLAMA.parameters * 16
    assert needs.activations == memory_needs.activation_bytes(LLAMA, step)
    assert needs.answering == 4 * LLAMA.parameters * 4 + 10**9
    assert memory_needs.whole_needs(LLAMA, step, None).answering == 0
    assert memory_needs.whole_disk(LLAMA) == LLAMA.parameters * (3 * 16 + 4)


def test_checkpointing_keeps_one_layer_and_what_enters_the_others():
    whole, checkpointed = (
        memory_needs.activation_bytes(LLAMA, Pass(tokens=1000, is_checkpointed=is_so))
        for is_so in (False, True)
    )

    assert checkpointed < whole / 6
    assert checkpointed == 1000 * (32 * 4096 * 4 + 4096 * 100 + 128_256 * 8)


# the form


def machine(gigabytes):
    return dataclasses.replace(CARD, total_bytes=round(gigabytes * 1e9))


@pytest.mark.parametrize(
    ("gigabytes", "form"),
    [(80, "none"), (41, "none"), (39, "8bit"), (24, "8bit"), (22, "4bit"), (16, "4bit"), (4, "4bit")],
)
def test_a_base_is_rounded_as_little_as_memory_allows(gigabytes, form):
    found, why = memory_needs.choose("auto", LLAMA, "bfloat16", machine(gigabytes), None)

    assert found == form
    assert ("more than 80% of" in why) is (form != "none")


@pytest.mark.parametrize("wanted", ["none", "8bit", "4bit"])
def test_what_a_person_sets_is_what_there_is(wanted):
    assert memory_needs.choose(wanted, LLAMA, "bfloat16", machine(1), "no") == (
        wanted,
        f"training.quantize is {wanted}",
    )


def test_where_nothing_can_be_quantised_the_reason_is_told():
    found, why = memory_needs.choose("auto", LLAMA, "bfloat16", machine(24), "MPS cannot")

    assert found == "none"
    assert why.endswith("of 24.0 GB, but MPS cannot")


def test_what_is_free_today_decides_nothing():
    # Given a machine that others fill just now
    busy = dataclasses.replace(machine(80), memory_bytes=1)

    # Then the form is the one of yesterday, in which versions were judged
    assert memory_needs.choose("auto", LLAMA, "bfloat16", busy, None)[0] == "none"


def test_a_machine_of_unknown_size_changes_nothing():
    assert memory_needs.choose("auto", LLAMA, "bfloat16", machine(0), None)[0] == "none"
