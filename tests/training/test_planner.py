"""The plan: the table by size, the learning rate by model, length and memory by machine, a human's word last."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorad.config import (
    PlannerSettings,
    PretrainingSettings,
    RateRow,
    RehearsalSettings,
    SizeRow,
    StoppingSettings,
    TrainingSettings,
)
from lorad.errors import ConfigError
from lorad.records import Machine, ModelShape, ReplayMix, StoppingRule
from lorad.training.planner import RANGES, check_changes, choose_row, plan, plan_pretraining, refit_plan

SMOLLM2 = ModelShape(name="smollm2", parameters=135_000_000, layers=30, hidden=576, vocabulary=49_152)
LLAMA = dataclasses.replace(SMOLLM2, name="llama", parameters=8_000_000_000, layers=32, hidden=4096)
LAPTOP = Machine(device="cpu", name="a laptop", memory_bytes=16_000_000_000, threads=4, fast_bfloat16=False)
COST = 30 * 576 * 100 + 49_152 * 8  # bytes a token, see planner.ACTIVATION_BYTES


def a_plan(lengths=(20,) * 50, shape=SMOLLM2, machine=LAPTOP, overrides=None, **sections):
    return plan(
        lengths=lengths,
        shape=shape,
        machine=machine,
        planner=sections.get("planner", PlannerSettings()),
        rehearsal=sections.get("rehearsal", RehearsalSettings()),
        training=sections.get("training", TrainingSettings()),
        overrides=overrides,
        drift=sections.get("drift", 0.0),
        formats=sections.get("formats", "chat"),
    )


def a_machine(tokens):
    """Return a machine whose memory holds the activations of just fewer than this many tokens."""
    return dataclasses.replace(LAPTOP, memory_bytes=2 * tokens * COST)


def told(decided, words):
    return any(words in reason for reason in decided.reasons)


# by size


@pytest.mark.parametrize(
    ("count", "rank", "alpha", "epochs", "batch", "accumulation", "max_length", "warmup", "row"),
    [
        (1, 8, 16, 10, 2, 4, 512, 0, "1 to 99"),
        (99, 8, 16, 10, 2, 4, 512, 9, "1 to 99"),
        (100, 16, 32, 5, 2, 4, 640, 10, "100 to 499"),
        (499, 16, 32, 5, 2, 4, 640, 49, "100 to 499"),
        (500, 32, 64, 3, 4, 2, 768, 50, "500 and more"),
        (5000, 32, 64, 3, 4, 2, 768, 50, "500 and more"),
    ],
)
def test_the_table(count, rank, alpha, epochs, batch, accumulation, max_length, warmup, row):
    decided = a_plan(lengths=[20] * count)

    assert decided.examples == count
    assert (decided.rank, decided.alpha, decided.epochs) == (rank, alpha, epochs)
    assert (decided.batch, decided.accumulation, decided.effective_batch) == (batch, accumulation, 8)
    assert decided.max_length == max_length
    assert decided.warmup_steps == warmup
    assert decided.pack_tokens == batch * max_length
    assert decided.reasons[0].startswith(f"{count} examples, so the row for {row}: rank {rank},")


@pytest.mark.parametrize(
    ("share", "most", "count", "steps"),
    [(0.1, 50, 300, 30), (0.1, 20, 300, 20), (0.5, 50, 15, 7), (0.0, 50, 300, 0), (0.1, 0, 300, 0)],
)
def test_warm_up_is_a_share_of_the_examples_up_to_a_limit(share, most, count, steps):
    chosen = PlannerSettings(warmup_share=share, warmup_max=most)

    assert a_plan(lengths=[20] * count, planner=chosen).warmup_steps == steps


def test_a_table_must_end_with_everything_larger():
    # Given a table whose last row has a bound
    row = SizeRow(below=10, rank=1, alpha=1, epochs=1, batch=1, accumulation=1, max_length=1)

    assert choose_row([row], 9) is row
    with pytest.raises(ConfigError, match="no row for 10 examples"):
        choose_row([row], 10)


# by model


@pytest.mark.parametrize(
    ("parameters", "rate"),
    [
        (22_700_000, 5e-4),
        (99_999_999, 5e-4),
        (100_000_000, 1e-3),
        (135_000_000, 1e-3),
        (1_999_999_999, 1e-3),
        (2_000_000_000, 3e-4),
        (8_000_000_000, 3e-4),
    ],
)
def test_small_encoders_and_large_models_learn_more_slowly(parameters, rate):
    decided = a_plan(shape=dataclasses.replace(SMOLLM2, parameters=parameters))

    assert decided.learning_rate == rate
    assert told(decided, f"smollm2 has {parameters / 1e6:.0f} million parameters: learning rate {rate:g}")


@pytest.mark.parametrize(
    ("count", "overrides", "rate"),
    [
        (499, {}, 1e-3),
        (500, {}, 5e-4),
        (500, {"rank": 8, "alpha": 16}, 1e-3),
        (20, {"alpha": 128}, 2.5e-4),
        (500, {"learning_rate": 2e-3}, 2e-3),
    ],
)
def test_a_large_alpha_learns_at_a_lower_rate_unless_a_human_set_it(count, overrides, rate):
    decided = a_plan(lengths=[20] * count, overrides=overrides)

    assert decided.learning_rate == rate
    is_lowered = rate < 1e-3
    assert told(decided, f"learning rate {rate:g} instead of 0.001") == is_lowered


def test_the_rates_must_end_with_everything_larger():
    rates = (RateRow(below_parameters=1e6, learning_rate=1e-3),)

    with pytest.raises(ConfigError, match="learning_rates must end with a row without"):
        a_plan(planner=PlannerSettings(learning_rates=rates))


# by length and machine


@pytest.mark.parametrize(
    ("lengths", "max_length", "reason"),
    [
        ([512] * 50, 512, None),
        ([20] * 49 + [513], 513, "longer than 512 tokens: length raised to 513"),
        ([20] * 98 + [700], 700, "length raised to 700"),
        ([20] * 198 + [700] * 2, 700, "length raised to 700"),
        # fewer than 1 in 100 does not make every row pay
        ([20] * 199 + [700], 640, None),
    ],
)
def test_the_length_grows_with_the_examples(lengths, max_length, reason):
    decided = a_plan(lengths=lengths)

    assert decided.max_length == max_length
    assert decided.pack_tokens == 2 * max_length
    assert told(decided, reason or "length raised") is (reason is not None)


def test_the_length_does_not_depend_on_the_order_of_the_file():
    lengths = [700, *[20] * 49]

    assert a_plan(lengths=lengths).max_length == a_plan(lengths=lengths[::-1]).max_length == 700


@pytest.mark.parametrize(("room", "max_length"), [(701, 700), (700, 512)])
def test_the_length_grows_only_as_far_as_memory(room, max_length):
    # Given three long examples, and memory for one of 700 tokens, to which a pass can be divided, or for one token less
    decided = a_plan(lengths=[20] * 47 + [600, 650, 700], machine=a_machine(room))

    assert decided.max_length == max_length
    assert told(decided, "3 examples are longer than 512 tokens and memory allows no more") is (
        max_length == 512
    )


def test_whether_activations_fit_is_not_decided_here():
    """Smaller passes come before gradient checkpointing, which ``preflight`` knows."""
    assert not a_plan(machine=a_machine(1)).gradient_checkpointing


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("room", [1, 10_000])
def test_a_human_decides_about_checkpointing(asked, room):
    decided = a_plan(machine=a_machine(room), training=TrainingSettings(gradient_checkpointing=asked))

    assert decided.gradient_checkpointing is asked


@pytest.mark.parametrize(
    ("asked", "is_fast", "dtype", "reason"),
    [
        ("auto", True, "bfloat16", "a laptop: base in bfloat16, adapters in float32"),
        ("auto", False, "float32", "a laptop gains nothing from bfloat16"),
        ("bfloat16", False, "bfloat16", None),
        ("float32", True, "float32", None),
    ],
)
def test_numbers_are_as_wide_as_the_machine_likes(asked, is_fast, dtype, reason):
    decided = a_plan(
        machine=dataclasses.replace(LAPTOP, fast_bfloat16=is_fast), training=TrainingSettings(dtype=asked)
    )

    assert decided.dtype == dtype
    assert told(decided, reason or "float") is (reason is not None)


# other wordings


def test_other_wordings_are_planned_and_told():
    decided = a_plan(planner=PlannerSettings(wordings=3, gapped=5))

    assert (decided.wordings, decided.gapped) == (3, 5)
    assert decided.mix.new_share == 0.5
    assert told(decided, "3 other wordings of a question and 5 texts with gaps")


@pytest.mark.parametrize("of", ["wordings", "gapped"])
def test_one_kind_of_variety_is_enough_to_train_more_again(of):
    assert (
        a_plan(planner=PlannerSettings(wordings=0, gapped=0).model_copy(update={of: 2})).mix.new_share == 0.5
    )


def test_without_other_wordings_nothing_more_is_trained_again():
    decided = a_plan(planner=PlannerSettings(wordings=0, gapped=0))

    assert (decided.wordings, decided.gapped, decided.mix.new_share) == (0, 0, None)
    assert not told(decided, "wordings")


# what comes from the settings as it is


def test_the_settings_reach_the_plan():
    decided = a_plan(
        planner=PlannerSettings(
            stopping=StoppingSettings(recall=0.8, max_rounds=7, patience=2, min_delta=0.05, patience_steps=9)
        ),
        rehearsal=RehearsalSettings(
            share=0.3,
            max_examples=9,
            recalled_share=0.2,
            new_share=0.7,
            general_share=0.15,
            whitened_by=7,
        ),
        training=TrainingSettings(seed=11, max_rank=48),
    )

    assert decided.stopping == StoppingRule(
        recall=0.8, max_rounds=7, patience=2, min_delta=0.05, min_rounds=10, patience_steps=9
    )
    assert decided.mix == ReplayMix(
        share=0.3, max_examples=9, recalled_share=0.2, new_share=0.7, general=0.15, whitened_by=7
    )
    assert (decided.seed, decided.max_rank) == (11, 48)


# a parent that has drifted


@pytest.mark.parametrize(
    ("usual", "most", "drift", "share"),
    [
        (0.1, 0.5, 0.0, 0.1),
        (0.1, 0.5, 0.5, 0.3),
        (0.1, 0.5, 1.0, 0.5),
        (0.3, 0.2, 1.0, 0.3),  # never less than is usual
        (0.0, 0.5, 1.0, 0.0),  # left out on purpose
    ],
)
def test_the_further_a_parent_drifted_the_more_general_conversation(usual, most, drift, share):
    chosen = RehearsalSettings(general_share=usual, general_share_max=most)

    decided = a_plan(rehearsal=chosen, drift=drift)

    assert decided.mix.general == pytest.approx(share)
    assert told(decided, "of what general ability may lose") is (share > usual)


def test_the_drift_is_told_with_its_figures():
    assert told(a_plan(drift=0.5), "used 50% of what general ability may lose: 30% of every step")


# a human's word


@pytest.mark.parametrize("overrides", [None, {}])
def test_without_a_human_nothing_is_set_by_hand(overrides):
    assert not told(a_plan(overrides=overrides), "set by hand")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rank", 4),
        ("alpha", 31),
        ("epochs", 2),
        ("batch", 1),
        ("accumulation", 16),
        ("max_length", 900),
        ("learning_rate", 5e-5),
        ("seed", 1),
    ],
)
def test_a_human_may_set_one_thing_and_keeps_the_rest(key, value):
    before, decided = a_plan(), a_plan(overrides={key: value})

    assert getattr(decided, key) == value
    changed = {
        f.name for f in dataclasses.fields(decided) if getattr(decided, f.name) != getattr(before, f.name)
    }
    assert changed <= {key, "reasons", "pack_tokens", *(["stopping"] if key == "epochs" else [])}
    assert decided.reasons == (*before.reasons, f"set by hand: {key} = {value}")


@pytest.mark.parametrize(
    ("key", "value"), [("recall", 0.5), ("max_rounds", 3), ("patience", 9), ("min_delta", 0.2)]
)
def test_a_human_may_set_when_a_session_ends(key, value):
    before, decided = a_plan(), a_plan(overrides={key: value, "rank": 4})

    assert decided.stopping == dataclasses.replace(before.stopping, **{key: value})
    assert decided.rank == 4
    first, second = sorted([(key, value), ("rank", 4)])
    assert decided.reasons[-1] == f"set by hand: {first[0]} = {first[1]}, {second[0]} = {second[1]}"


def test_a_pass_holds_the_batch_that_a_human_set():
    decided = a_plan(overrides={"batch": 3, "max_length": 2048})

    assert decided.pack_tokens == 3 * 2048


@pytest.mark.parametrize("key", ["examples", "stopping", "dtype", "ranks"])
def test_what_a_plan_does_not_offer_is_refused(key):
    with pytest.raises(ConfigError) as caught:
        a_plan(overrides={"rank": 4, key: 1})

    assert caught.value.code == "no_such_setting"
    assert f"no setting {key!r}" in caught.value.message
    assert "rank, alpha" in caught.value.message
    assert "min_delta" in caught.value.message


# laws


@given(
    lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=200),
    memory=st.integers(0, 10**11),
    layers=st.integers(1, 100),
)
@settings(max_examples=40, deadline=None)
def test_every_plan_can_be_trained(lengths, memory, layers):
    machine = dataclasses.replace(LAPTOP, memory_bytes=memory)
    shape = dataclasses.replace(SMOLLM2, layers=layers)

    decided = a_plan(lengths=lengths, machine=machine, shape=shape)

    row = choose_row(PlannerSettings().table, len(lengths))
    assert row.max_length <= decided.max_length <= max(row.max_length, *lengths)
    assert decided.pack_tokens >= decided.max_length
    assert 0 <= decided.warmup_steps <= 50
    assert decided == a_plan(lengths=lengths, machine=machine, shape=shape)


@pytest.mark.parametrize(
    "overrides", [{"rank": "many"}, {"rank": 0}, {"learning_rate": -1.0}, {"batch": None}]
)
def test_an_override_that_no_plan_can_have_is_refused(overrides):
    with pytest.raises(ConfigError):
        a_plan(overrides=overrides)


def ascii_type(value):
    """Return what names a value that cannot be printed."""
    return value if isinstance(value, str) and value.isascii() else type(value).__name__


@pytest.mark.parametrize("name", list(RANGES))
@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        float("-inf"),
        10**23,
        10**5000,
        -(10**23),
        -1,
        True,
        "8",
        "\ud800",
        None,
        [],
        {},
    ],
    ids=ascii_type,
)
def test_a12_a_value_that_no_plan_can_have_is_refused_with_its_field_and_range(name, value):
    with pytest.raises(ConfigError) as refused:
        check_changes({name: value})

    assert (refused.value.code, refused.value.data["param"]) == ("bad_setting", name)
    assert refused.value.message.startswith(
        f"{name} must be a {'whole ' if RANGES[name].is_whole else ''}number from"
    )
    assert refused.value.message.isascii()
    assert len(refused.value.message) < 200


def test_a12_ranges_are_told_in_full():
    with pytest.raises(
        ConfigError, match=r"^rank must be a whole number from 1 to 4096 \(given: '.ud800'\)$"
    ):
        check_changes({"rank": "\ud800"})


@pytest.mark.parametrize("name", list(RANGES))
def test_a12_the_ends_of_a_range_make_a_plan(name):
    for end in (RANGES[name].least, RANGES[name].most):
        value = int(end) if RANGES[name].is_whole else end
        decided = a_plan(overrides={name: value})

        assert value in (getattr(decided, name, None), getattr(decided.stopping, name, None))


@pytest.mark.parametrize("name", ["\ud800", "x" * 10_000, "\x1b[31m"])
def test_a12_a_name_that_no_plan_has_is_told_in_plain_text(name):
    with pytest.raises(ConfigError) as refused:
        check_changes({name: 1})

    assert refused.value.message.isascii()
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 300


def a_pretraining(lengths=(1000,) * 40, *, is_first=True, **overrides):
    return plan_pretraining(
        lengths=lengths,
        context=128,
        machine=LAPTOP,
        settings=PretrainingSettings(),
        rehearsal=RehearsalSettings(),
        training=TrainingSettings(),
        is_first=is_first,
        overrides=overrides,
    )


def test_a_model_from_scratch_is_planned_by_its_tokens():
    decided = a_pretraining()

    steps = 20 * 30  # 40,000 tokens in 16 sequences of 128 a step, 30 epochs
    assert (decided.rank, decided.max_length, decided.pack_tokens) == (0, 128, 16 * 128)
    assert decided.warmup_steps == round(0.06 * steps)
    assert (decided.learning_rate, a_pretraining(is_first=False).learning_rate) == (1e-3, 5e-4)
    assert (decided.dtype, decided.stopping.patience, decided.stopping.max_rounds) == ("float32", 3, 30)
    assert len(decided.reasons) == 3


def test_a_humans_word_is_the_last_for_a_model_from_scratch_too():
    decided = a_pretraining(patience=5, learning_rate=1e-4, max_rounds=7)

    assert (decided.stopping.patience, decided.learning_rate, decided.stopping.max_rounds) == (5, 1e-4, 7)
    assert "set by hand" in decided.reasons[-1]


def test_the_warm_up_of_a_large_text_is_bounded():
    assert a_pretraining(lengths=(100_000,) * 100).warmup_steps == 500


# labels


@pytest.mark.parametrize("formats", ["tagging", "classify"])
def test_of_labels_each_round_trains_every_row(formats):
    decided = a_plan(formats=formats)

    assert (decided.mix.recalled_share, decided.mix.new_share) == (1.0, None)
    assert (decided.wordings, decided.gapped) == (0, 0)
    assert (decided.loraplus_ratio, a_plan().loraplus_ratio) == (1.0, 4.0)
    assert told(decided, "each round trains every new row")


def test_of_facts_each_round_trains_a_share_of_those_that_are_recalled():
    assert a_plan().mix.recalled_share == RehearsalSettings().recalled_share


# what a model can read


@pytest.mark.parametrize(
    ("longest", "positions", "length"), [(700, 600, 600), (20, 256, 256), (5000, 512, 512), (700, 0, 700)]
)
def test_no_row_is_planned_that_the_model_cannot_read(longest, positions, length):
    shape = dataclasses.replace(SMOLLM2, positions=positions)
    decided = a_plan(lengths=[longest] * 50, shape=shape)

    assert decided.max_length == length
    assert told(decided, f"reads {positions} tokens") == (0 < positions < longest)


def test_rows_as_long_as_the_model_reads_must_fit_in_memory_all_the_same():
    shape = dataclasses.replace(SMOLLM2, positions=32_768)
    decided = a_plan(lengths=[40_000] * 50, shape=shape, machine=a_machine(20_000))

    assert decided.max_length == 512
    assert told(decided, "memory allows no more")


@pytest.mark.parametrize(
    ("own", "count", "overrides", "rank", "alpha", "rate"),
    [
        (50, 50, None, 8, 16, 1e-3),
        (50, 300, None, 16, 32, 1e-3),
        (50, 600, None, 32, 64, 5e-4),
        (600, 50, None, 32, 64, 5e-4),
        (50, 600, {"rank": 4}, 4, 16, 1e-3),
    ],
)
def test_a_refit_has_the_rank_of_all_that_it_learns_unless_a_human_set_one(
    own, count, overrides, rank, alpha, rate
):
    decided = a_plan(lengths=[20] * own, overrides=overrides)

    anew = refit_plan(decided, PlannerSettings(), count)

    assert (anew.rank, anew.alpha, anew.learning_rate) == (rank, alpha, pytest.approx(rate))
    assert anew.stopping == decided.stopping


# by layers


def test_a_chat_models_adapter_learns_in_its_last_layers_and_the_plan_says_so():
    decided = a_plan()

    assert decided.first_layer == 18
    assert told(decided, "the adapter learns in the last 12 of 30 layers")


@pytest.mark.parametrize(("share", "first"), [(1.0, 0), (0.5, 15), (0.01, 29)])
def test_how_many_layers_learn_is_a_setting(share, first):
    decided = a_plan(planner=PlannerSettings(trained_layers=share))

    assert decided.first_layer == first
    assert told(decided, "the adapter learns in the last") == bool(first)


def test_few_layers_and_models_that_label_learn_in_all_of_them():
    assert a_plan(shape=dataclasses.replace(SMOLLM2, layers=11)).first_layer == 0
    assert a_plan(formats="classification").first_layer == 0
