"""Only settings that are known to be right are taken; every other is refused by its name."""

import pytest
import torch
from peft import LoraConfig

from lorad.errors import RegistryError
from lorad.models import adapter_formats

PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


def written(**settings):
    """What PEFT itself writes for these settings."""
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], **settings).to_dict()
    return config | {"peft_type": config["peft_type"].value, "target_modules": ["q_proj"]}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"r": 2, "lora_alpha": 0.5, "use_rslora": True, "lora_dropout": 0.1},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r".*\.1\..*": 3}},
        {"layers_to_transform": [0], "layers_pattern": "layers", "exclude_modules": ["lm_head"]},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"inference_mode": True, "revision": "main", "base_model_name_or_path": "x/y"},
    ],
)
def test_case_6_what_peft_writes_for_a_plain_lora_is_known(settings):
    adapter_formats.check_peft(written(**settings))


def test_case_6_keys_of_old_versions_that_say_nothing_are_known():
    adapter_formats.check_peft(
        PLAIN | {"enable_lora": None, "merge_weights": False, "some_future_list": [], "bias": "none"}
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alora_invocation_tokens", [1, 2]),
        ("arrow_config", {"top_k": 3}),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("corda_config", {"corda_method": "ipm"}),
        ("fan_in_fan_out", True),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "of_next_year"),
        ("invocation_string", "<|start|>"),
        ("layer_replication", [[0, 1], [0, 1]]),
        ("loftq_config", {"loftq_bits": 4}),
        ("lora_bias", True),
        ("megatron_config", {"tensor_parallel": 2}),
        ("modules_to_save", ["lm_head"]),
        ("of_next_year", 3),
        ("peft_type", "IA3"),
        ("peft_type", None),
        ("target_parameters", ["experts.down_proj"]),
        ("task_type", "SEQ_CLS"),
        ("trainable_token_indices", [5]),
        ("use_bdlora", {"nblocks": 2}),
        ("use_dora", True),
        ("use_qalora", True),
    ],
)
def test_a14_any_other_setting_is_refused_by_its_name(key, value):
    with pytest.raises(RegistryError, match=key) as caught:
        adapter_formats.check_peft(PLAIN | {key: value})

    assert (caught.value.code, caught.value.data["key"]) == ("adapter_kind", key)


def test_case_6_what_changes_the_base_is_told_how_to_be_saved():
    with pytest.raises(RegistryError, match="path_initial_model_for_weight_conversion"):
        adapter_formats.check_peft(PLAIN | {"init_lora_weights": "pissa"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 0),
        ("r", "4"),
        ("r", True),
        ("r", None),
        ("lora_alpha", None),
        ("lora_alpha", "8"),
        ("lora_alpha", float("nan")),
        ("rank_pattern", ["q_proj"]),
        ("rank_pattern", {"q_proj": 1.5}),
        ("alpha_pattern", {"q_proj": "8"}),
        ("alpha_pattern", {"(q_proj": 8}),
    ],
)
def test_numbers_that_are_none_are_told(key, value):
    with pytest.raises(RegistryError, match=key) as caught:
        adapter_formats.check_peft(PLAIN | {key: value})

    assert caught.value.code == "adapter_config"


TENSORS = {"model.layers.0.q.lora_a": torch.ones(3, 2), "model.layers.0.q.lora_b": torch.ones(2, 5)}


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": {"rank": 2, "scale": 20.0}}, 20),
        (
            {"num_layers": 1, "lora_parameters": {"rank": 2, "scale": 20.0, "alpha": 16}},
            20,
        ),  # ignored by then
        ({"lora_layers": 1, "lora_parameters": {"rank": 2, "scale": 10.0, "alpha": 16.0}}, 80),
        ({"lora_layers": 1, "use_dora": False, "lora_parameters": {"rank": 2, "scale": 7.0, "alpha": 2}}, 7),
    ],
)
def test_case_29_the_scale_is_what_mlx_lm_of_that_time_multiplied_by(config, scale):
    assert adapter_formats.read_mlx(TENSORS, config).scale == scale


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"fine_tune_type": "dora", "lora_parameters": {"rank": 2, "scale": 1.0}}, "dora"),
        ({"fine_tune_type": "full"}, "mlx_lm.fuse"),
        ({"use_dora": True, "lora_parameters": {"rank": 2, "scale": 1.0}}, "dora"),
        ({"fine_tune_type": "lora"}, "lora_parameters"),
        ({"lora_parameters": {"rank": 2}}, "scale"),
        ({"lora_parameters": {"rank": 2, "alpha": 16}}, "scale"),
        ({"lora_parameters": {"rank": 2, "alpha": "x", "scale": 1}}, "alpha"),
        ({"lora_parameters": {"rank": 3, "scale": 1.0}}, "rank"),
        (
            {"use_dora": False, "lora_parameters": {"rank": 2, "alpha": 16, "scale": 1}},
            "may have meant 8 or 1",
        ),
    ],
)
def test_case_29_what_mlx_lm_leaves_open_is_refused(config, told):
    with pytest.raises(RegistryError, match=told):
        adapter_formats.read_mlx(TENSORS, config)


@pytest.mark.parametrize("harm", ["m", "half", "experts"])
def test_case_29_other_tensors_are_refused(harm):
    tensors = dict(TENSORS)
    if harm == "m":
        tensors["model.layers.0.q.m"] = torch.ones(5)
    elif harm == "half":
        del tensors["model.layers.0.q.lora_b"]
    else:
        tensors["model.layers.0.q.lora_a"] = torch.ones(4, 3, 2)

    with pytest.raises(RegistryError, match=r"model\.layers\.0\.q"):
        adapter_formats.read_mlx(tensors, {"lora_parameters": {"rank": 2, "scale": 1.0}})
