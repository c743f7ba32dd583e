"""What another program trained becomes a candidate like any other, or is refused with the reason."""

import json
import shutil

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from lorad.errors import RegistryError
from lorad.evaluation import metrics
from lorad.models import adapter_formats, adapters, bases, packing, peft_io, scoring
from lorad.storage import files
from lorad.tasks import find
from lorad.versions import import_version


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    bases.store_base(tiny.save(folder / "source"), folder / "base")
    return folder / "base"


@pytest.fixture
def base(base_folder):
    return bases.load_base(base_folder, torch.float32)


@pytest.fixture(scope="module")
def trained(base_folder, tmp_path_factory):
    """An adapter as PEFT saves one: alpha is not the rank, and not every layer has one."""
    torch.manual_seed(5)
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(bases.load_base(base_folder, torch.float32).model, config).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1)
    folder = tmp_path_factory.mktemp("outside")
    model.save_pretrained(folder / "adapter")
    merged = model.merge_and_unload()
    merged.save_pretrained(folder / "model")
    return folder, merged


def rows():
    return [find("chat").encode(tiny.tokenizer(), example) for example in tiny.facts(3)]


def logits(model):
    with torch.inference_mode():
        return scoring.answer_logits(model, packing.pack(rows()))


def brought(stack):
    with stack.use("candidate") as model:
        return logits(model)


def test_an_adapter_of_pefts_own_says_the_same_as_a_candidate(base, base_folder, trained, tmp_path):
    folder, merged = trained

    found = import_version.read(folder / "adapter", base, 64)
    stack = import_version.write(
        found, tmp_path / "candidate", base_folder, base, rows()[:2], {"source": "x"}
    )

    assert (found.kind, found.adapter.rank) == ("adapter", 4)
    assert torch.allclose(brought(stack), logits(merged), atol=1e-4)
    assert files.read_json(tmp_path / "candidate" / "adapter_config.json")["lora_alpha"] == 4
    probes = files.read_json(tmp_path / "candidate" / metrics.PROBES)
    assert probes["probes"]
    imported = files.read_json(tmp_path / "candidate" / "metadata.json")["imported"]
    assert imported["files"] == {
        "adapter_model.safetensors": files.file_digest(folder / "adapter" / "adapter_model.safetensors")
    }
    assert imported["source"] == "x"


def test_a_whole_model_becomes_the_adapter_that_makes_it(base, base_folder, trained, tmp_path):
    folder, merged = trained

    found = import_version.read(folder / "model", base, 16)
    stack = import_version.write(found, tmp_path / "candidate", base_folder, base, [], {})
    whole = bases.load_base(base_folder, torch.float32).model

    assert found.kind == "model"
    assert import_version.compare(folder / "model", stack, whole) < 1e-5
    assert torch.allclose(brought(stack), logits(merged), atol=1e-2)


def test_a_model_that_is_no_low_rank_change_is_refused(base, base_folder, trained, tmp_path):
    folder, _ = trained

    found = import_version.read(folder / "model", base, 1)
    stack = import_version.write(found, tmp_path / "candidate", base_folder, base, [], {})

    with pytest.raises(RegistryError, match="would change too much") as caught:
        import_version.compare(folder / "model", stack, bases.load_base(base_folder, torch.float32).model)
    assert caught.value.code == "not_low_rank"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_is_read_as_tensors_alone_and_written_as_safetensors(
    base, base_folder, trained, tmp_path, wrapped
):
    folder, merged = trained
    source = tmp_path / "source"
    source.mkdir()
    (source / "adapter_config.json").write_bytes((folder / "adapter" / "adapter_config.json").read_bytes())
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    torch.save({"state_dict": tensors} if wrapped else tensors, source / "adapter_model.bin")

    found = import_version.read(source, base, 64)
    stack = import_version.write(found, tmp_path / "candidate", base_folder, base, [], {})

    assert torch.allclose(brought(stack), logits(merged), atol=1e-4)
    assert "pickle" in found.notes[-1]
    assert not list((tmp_path / "candidate").glob("*.bin"))


class Trap:
    """A pickle that would run something."""

    def __reduce__(self):
        return print, ("this must not be run",)


def test_nothing_in_a_pickle_is_run(base, tmp_path, capsys):
    torch.save({"lora_A": Trap()}, tmp_path / "adapter_model.bin")

    with pytest.raises(RegistryError, match="as tensors alone") as caught:
        import_version.read(tmp_path, base, 64)

    assert caught.value.code == "not_tensors"
    assert capsys.readouterr().out == ""


def harmed(folder, target, harm):
    target.mkdir()
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    first = next(iter(tensors))
    if harm == "not finite":
        tensors[first][0, 0] = float("nan")
    elif harm == "more than LoRA":
        tensors["base_model.model.model.norm.weight"] = torch.ones(64)
    elif harm == "dora":
        config["use_dora"] = True
    elif harm == "another rank":
        config["r"] = 5
    elif harm == "another base":
        tensors = {name.replace("layers.1", "layers.9"): tensor for name, tensor in tensors.items()}
    elif harm == "no pair":
        del tensors[first.replace("lora_A", "lora_B")]
    if harm != "no config":
        files.write_json(target / "adapter_config.json", config)
    if harm != "no weights":
        save_file(tensors, target / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        ("not finite", "not_finite"),
        ("more than LoRA", "adapter_kind"),
        ("dora", "adapter_kind"),
        ("another rank", "adapter_config"),
        ("another base", "wrong_base"),
        ("no pair", "adapter_config"),
        ("no config", "no_adapter_config"),
        ("no weights", "no_tensors"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(base, base_folder, trained, tmp_path, harm, code):
    harmed(trained[0], tmp_path / "source", harm)

    with pytest.raises(RegistryError) as caught:
        import_version.write(
            import_version.read(tmp_path / "source", base, 64),
            tmp_path / "candidate",
            base_folder,
            base,
            [],
            {},
        )

    assert caught.value.code == code


@pytest.mark.parametrize("harm", ["norm", "shape", "lacks", "same"])
def test_a_model_that_is_none_of_this_bases_is_refused(base, trained, tmp_path, harm):
    tensors = load_file(trained[0] / "model" / "model.safetensors")
    if harm == "norm":
        tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    elif harm == "shape":
        tensors["model.norm.weight"] = torch.ones(3)
    elif harm == "lacks":
        del tensors["model.norm.weight"]
    else:
        tensors = {
            name: tensor.clone()
            for name, tensor in base.model.state_dict().items()
            if name != "lm_head.weight"
        }
    save_file(tensors, tmp_path / "model.safetensors")

    with pytest.raises(RegistryError) as caught:
        import_version.read(tmp_path, base, 16)

    codes = {"norm": "not_a_lora", "shape": "wrong_base", "lacks": "wrong_base", "same": "nothing_new"}
    assert caught.value.code == codes[harm]


def test_its_evaluation_counts_what_it_recalls(base, base_folder, trained, tmp_path):
    found = import_version.read(trained[0] / "adapter", base, 64)
    candidate = tmp_path / "candidate"
    stack = import_version.write(found, candidate, base_folder, base, [], {})
    examples = tiny.facts(3)

    right = import_version.evaluate(stack, examples, rows(), candidate, found.notes)

    result = files.read_json(candidate / "evaluation.json")
    assert result["right"] == right
    assert list(right) == [example.id for example in examples]
    assert result["evaluation"]["scores"] == {"facts": {"right": sum(right.values()), "total": 3}}
    assert result["base"] == base.fingerprint
    assert result["evaluation"]["ended_by"] == "imported"


def perturbed(base_folder, target, **settings):
    """Save an adapter of these settings as PEFT does, after every weight of it has moved."""
    torch.manual_seed(3)
    config = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj", "down_proj"]} | settings
    model = bases.load_base(base_folder, torch.float32).model
    live = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config)).eval()
    for name, weight in live.named_parameters():
        if "lora_" in name:
            weight.data += torch.randn_like(weight) * 0.1
    live.save_pretrained(target)
    return target


def as_peft_loads(base_folder, folder):
    model = bases.load_base(base_folder, torch.float32).model
    return logits(PeftModel.from_pretrained(model, str(folder)).eval())


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha_pattern": {"q_proj": 40}},
        {"alpha_pattern": {"model.layers.1.mlp.down_proj": 40}},
        {"alpha_pattern": {r".*\.0\..*_proj": 40}},
        {"alpha_pattern": {r"^model\.layers\.1\..*": 40, "q_proj": 2}},
        {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp.*": 7}},
        {"rank_pattern": {"v_proj": 8}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True},
        {"use_rslora": True},
        {"layers_to_transform": [1], "layers_pattern": "layers"},
        {"target_modules": "all-linear", "exclude_modules": ["o_proj"]},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": False},
    ],
)
def test_case_6_an_adapter_says_what_peft_makes_of_it(base, base_folder, tmp_path, settings):
    source = perturbed(base_folder, tmp_path / "source", **settings)
    pristine = logits(base.model)

    found = import_version.read(source, base, 64)
    assert torch.equal(logits(base.model), pristine)
    stack = import_version.write(found, tmp_path / "candidate", base_folder, base, rows()[:2], {})

    expected = as_peft_loads(base_folder, source)
    assert torch.allclose(brought(stack), expected, atol=1e-4)
    assert (expected - pristine).abs().max() > 0.1
    assert "PEFT loads it" in found.notes[0]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [5, 6]}, "alora_invocation_tokens"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices"),
        ({"modules_to_save": ["norm"]}, "modules_to_save"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:peft", "ignore:Model has `tie_word_embeddings:UserWarning")
def test_case_6_what_lorad_cannot_keep_is_refused_by_its_name(base, base_folder, tmp_path, settings, key):
    source = perturbed(base_folder, tmp_path / "source", **settings)

    with pytest.raises(RegistryError, match=key) as caught:
        import_version.read(source, base, 64)

    assert caught.value.code == "adapter_kind"


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights:UserWarning")
def test_case_6_pissa_saved_with_its_conversion_is_taken(base, base_folder, tmp_path):
    model = bases.load_base(base_folder, torch.float32).model
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights="pissa")
    live = get_peft_model(model, config).eval()
    live.peft_config["default"].init_lora_weights = True  # as PEFT's own example of the conversion does
    live.save_pretrained(tmp_path / "begun")
    live.peft_config["default"].init_lora_weights = "pissa"
    for name, weight in live.named_parameters():
        if "lora_" in name:
            weight.data += torch.randn_like(weight) * 0.1
    taught = logits(live)
    live.save_pretrained(
        tmp_path / "source", path_initial_model_for_weight_conversion=str(tmp_path / "begun")
    )

    found = import_version.read(tmp_path / "source", base, 64)
    stack = import_version.write(found, tmp_path / "candidate", base_folder, base, [], {})

    assert found.adapter.rank == 8
    assert torch.allclose(brought(stack), taught, atol=1e-4)


@pytest.mark.parametrize(
    ("targets", "code", "told"),
    [
        (["q_proj"], "wrong_base", "passes over"),
        (["q_proj", "v_proj", "down_proj", "o_proj"], "wrong_base", "finds no weights for"),
        (["nowhere"], "peft_cannot_load", "not found in the base model"),
    ],
)
def test_case_6_what_peft_passes_over_without_a_word_is_refused(
    base, base_folder, tmp_path, targets, code, told
):
    source = perturbed(base_folder, tmp_path / "source")
    config = files.read_json(source / "adapter_config.json")
    files.write_json(source / "adapter_config.json", config | {"target_modules": targets})
    pristine = logits(base.model)

    with pytest.raises(RegistryError, match=told) as caught:
        import_version.read(source, base, 64)

    assert caught.value.code == code
    assert "\n" not in caught.value.message
    assert torch.equal(logits(base.model), pristine)


def test_case_6_an_adapter_that_would_be_another_one_is_refused_with_the_number(base, base_folder, tmp_path):
    source = perturbed(base_folder, tmp_path / "source")
    adapter = import_version.read(source, base, 64).adapter
    expected = import_version._logits(base.model, base)

    with pytest.raises(RegistryError, match="a logit is") as caught:
        import_version._agree(adapter, base, expected, "PEFT loads it")

    assert caught.value.code == "not_the_same"
    assert caught.value.data["difference"] > 0.1


def test_an_adapter_of_a_head_that_is_also_the_embedding_is_refused(base, tmp_path):
    vocabulary = base.model.config.vocab_size
    save_file(
        {
            "base_model.model.lm_head.lora_A.weight": torch.ones(4, 64),
            "base_model.model.lm_head.lora_B.weight": torch.ones(vocabulary, 4),
        },
        tmp_path / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["lm_head"]}
    files.write_json(tmp_path / "adapter_config.json", config)

    with pytest.raises(RegistryError, match="embedding") as caught:
        import_version.read(tmp_path, base, 64)

    assert caught.value.code == "adapter_kind"


def test_of_two_files_with_the_same_tensors_none_is_taken_silently(base, tmp_path):
    tensors = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 64)}
    for name in ("first.safetensors", "second.safetensors"):
        save_file(tensors, tmp_path / name)

    with pytest.raises(RegistryError, match=r"second\.safetensors") as caught:
        import_version.read(tmp_path, base, 64)

    assert caught.value.code == "several_models"


def test_an_adapter_of_another_kind_is_not_taken_for_a_model(base, tmp_path):
    save_file(
        {"base_model.model.model.layers.0.mlp.ia3_l": torch.ones(64)}, tmp_path / "adapter_model.safetensors"
    )
    files.write_json(tmp_path / "adapter_config.json", {"peft_type": "IA3"})

    with pytest.raises(RegistryError, match="IA3"):
        import_version.read(tmp_path, base, 64)


MLX_CONFIG = {
    "fine_tune_type": "lora",
    "model": "mlx-community/tiny",
    "num_layers": 2,
    "lora_parameters": {"rank": 4, "scale": 5.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]},
}
"""As ``mlx_lm.lora`` writes it: the scale is what is multiplied by, whatever the rank."""


def by_mlx(folder, config=MLX_CONFIG, seed=2, name="adapters.safetensors"):
    """Save an adapter as mlx-lm does; ``q_proj`` and ``o_proj`` are square, so a wrong turn shows in no shape."""
    torch.manual_seed(seed)
    folder.mkdir(exist_ok=True)
    sizes = {"self_attn.q_proj": (64, 64), "self_attn.v_proj": (64, 32), "mlp.down_proj": (128, 64)}
    tensors = {}
    for layer in range(2 - config.get("num_layers", 2), 2):  # the last ones
        for module, (width, out) in sizes.items():
            tensors[f"model.layers.{layer}.{module}.lora_a"] = torch.randn(width, 4) * 0.2
            tensors[f"model.layers.{layer}.{module}.lora_b"] = torch.randn(4, out) * 0.2
    save_file(tensors, folder / name)
    files.write_json(folder / "adapter_config.json", config)
    return tensors


def formula(base_folder, tensors, scale):
    """Compute mlx-lm's ``y + scale * ((x @ a) @ b)`` in the base's own layers, from the tensors as saved."""
    model = bases.load_base(base_folder, torch.float32).model
    for name in {name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")}:
        layer, a, b = model.get_submodule(name), tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        plain = layer.forward
        layer.forward = lambda x, plain=plain, a=a, b=b: plain(x) + scale * ((x @ a) @ b)
    return logits(model)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        (MLX_CONFIG, 5.0),
        (MLX_CONFIG | {"num_layers": 1}, 5.0),
        (
            {"lora_layers": 2, "lora_parameters": {"rank": 4, "alpha": 16.0, "scale": 1.5, "dropout": 0.0}},
            6.0,
        ),
    ],
)
def test_case_29_an_adapter_of_mlx_lm_computes_mlx_lms_formula(base, base_folder, tmp_path, config, scale):
    tensors = by_mlx(tmp_path / "source", config)
    pristine = logits(base.model)

    found = import_version.read(tmp_path / "source", base, 64)
    stack = import_version.write(found, tmp_path / "candidate", base_folder, base, [], {})

    expected = formula(base_folder, tensors, scale)
    assert (expected - pristine).abs().max() > 0.1
    assert torch.allclose(brought(stack), expected, atol=1e-4)
    assert found.notes[0] == f"converted from mlx-lm's form, scale {scale:g}"


def test_case_29_a_conversion_that_turns_a_matrix_is_caught_by_the_logits(base, tmp_path):
    tensors = by_mlx(tmp_path / "source")
    names = [name for name in tensors if "self_attn.q_proj.lora_a" in name]
    for name in names:
        tensors[name] = tensors[name].T.reshape(64, 4).contiguous()
    turned = adapter_formats.read_mlx(tensors, MLX_CONFIG)
    right = adapter_formats.read_mlx(load_file(tmp_path / "source" / "adapters.safetensors"), MLX_CONFIG)
    with import_version._as_mlx_computes(base.model, right) as model:
        expected = import_version._logits(model, base)

    with pytest.raises(RegistryError, match="mlx-lm computes"):
        import_version._agree(adapters.Adapter(turned.factors()), base, expected, "mlx-lm computes")
    import_version._agree(adapters.Adapter(right.factors()), base, expected, "mlx-lm computes")


def test_case_29_checkpoints_beside_the_last_file_are_passed_by(base, base_folder, tmp_path):
    by_mlx(tmp_path / "source", seed=8, name="0000100_adapters.safetensors")
    tensors = by_mlx(tmp_path / "source")
    by_mlx(tmp_path / "source", seed=9, name="0000200_adapters.safetensors")

    found = import_version.read(tmp_path / "source", base, 64)

    stack = import_version.write(found, tmp_path / "candidate", base_folder, base, [], {})
    assert list(found.files) == ["adapters.safetensors"]
    assert torch.allclose(brought(stack), formula(base_folder, tensors, 5.0), atol=1e-4)
    (tmp_path / "source" / "adapters.safetensors").unlink()
    with pytest.raises(RegistryError, match="name the file"):
        import_version.read(tmp_path / "source", base, 64)


@pytest.mark.parametrize("kind", ["dora", "full"])
def test_case_29_other_kinds_of_mlx_lm_are_refused_by_name(base, tmp_path, kind):
    by_mlx(tmp_path, MLX_CONFIG | {"fine_tune_type": kind})
    if kind == "full":
        save_file(
            {"model.layers.1.mlp.down_proj.weight": torch.ones(64, 128)}, tmp_path / "adapters.safetensors"
        )

    with pytest.raises(RegistryError, match=kind) as caught:
        import_version.read(tmp_path, base, 64)

    assert caught.value.code == "adapter_kind"


def test_case_29_layers_that_the_base_does_not_have_are_told(base, tmp_path):
    tensors = by_mlx(tmp_path)
    strange = {name.replace("layers.1.", "layers.9."): tensor for name, tensor in tensors.items()}
    save_file(strange, tmp_path / "adapters.safetensors")

    with pytest.raises(RegistryError, match=r"layers\.9\.") as caught:
        import_version.read(tmp_path, base, 64)

    assert caught.value.code == "wrong_base"


def model_like(base_folder, target, change=None, **settings):
    """Save a whole model that was taught a little, with other settings than its base, as transformers does."""
    config = LlamaConfig.from_pretrained(base_folder)
    taught = LlamaForCausalLM.from_pretrained(base_folder, dtype=torch.float32).state_dict()
    torch.manual_seed(1)
    taught["model.layers.0.self_attn.q_proj.weight"] += 0.02 * torch.randn(64, 2) @ torch.randn(2, 64)
    for key, value in settings.items():
        setattr(config, key, value)
    made = LlamaForCausalLM(config).float()
    made.load_state_dict(taught, strict=False)
    if change:
        change(made)
    made.save_pretrained(target)
    return target


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_hidden_layers": 3}, "num_hidden_layers"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rms_norm_eps": 0.1}, "rms_norm_eps"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}, "rope_parameters"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
    ],
)
def test_case_6_a_model_that_computes_otherwise_than_its_base_is_refused_by_name(
    base, base_folder, tmp_path, settings, named
):
    source = model_like(base_folder, tmp_path / "model", **settings)

    with pytest.raises(RegistryError, match=named) as caught:
        import_version.read(source, base, 64)
    assert caught.value.code == "not_a_lora"


@pytest.mark.parametrize("settings", [{"max_position_embeddings": 4096}, {"attention_dropout": 0.1}])
def test_case_6_a_setting_that_computes_nothing_may_differ(base, base_folder, tmp_path, settings):
    source = model_like(base_folder, tmp_path / "model", **settings)

    found = import_version.read(source, base, 64)

    stack = import_version.write(found, tmp_path / "candidate", base_folder, base, [], {})
    assert import_version.compare(source, stack, None) < 1e-5


@pytest.mark.parametrize(
    "settings", [{"num_hidden_layers": 3}, {"attention_bias": True}], ids=lambda given: next(iter(given))
)
def test_case_6_tensors_that_the_base_does_not_have_are_refused_without_a_config_too(
    base, base_folder, tmp_path, settings
):
    source = model_like(base_folder, tmp_path / "model", **settings)
    (source / "config.json").unlink()

    with pytest.raises(RegistryError, match="which its base lacks") as caught:
        import_version.read(source, base, 64)
    assert caught.value.code == "wrong_base"


def test_case_6_buffers_of_older_programs_are_passed_by(base, base_folder, tmp_path):
    source = model_like(base_folder, tmp_path / "model")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, source / "model.safetensors")

    assert import_version.read(source, base, 64).kind == "model"


def test_case_6_a_model_is_compared_as_its_own_config_tells(base, base_folder, tmp_path):
    # Given a model whose config.json computes otherwise than the one that was read
    source = model_like(base_folder, tmp_path / "model")
    stack = import_version.write(
        import_version.read(source, base, 64), tmp_path / "candidate", base_folder, base, [], {}
    )
    assert import_version.compare(source, stack, None) < 1e-5
    config = files.read_json(source / "config.json")
    files.write_json(source / "config.json", config | {"rms_norm_eps": 0.5})

    with pytest.raises(RegistryError, match="would change too much"):
        import_version.compare(source, stack, None)


def test_case_6_an_adapter_above_the_largest_rank_is_refused_where_the_cut_makes_another_one(
    base, base_folder, tmp_path
):
    source = perturbed(base_folder, tmp_path / "source", r=16, target_modules="all-linear")

    with pytest.raises(
        RegistryError, match=r"nats per token away .* raise training.max_rank to 16"
    ) as caught:
        import_version.read(source, base, 4)
    assert caught.value.code == "not_low_rank"


def test_case_6_an_adapter_above_the_largest_rank_is_cut_where_it_stays_the_same(base, base_folder, tmp_path):
    # Given an adapter of rank 8 of which four ranks hold next to nothing
    source = perturbed(base_folder, tmp_path / "source", r=8)
    tensors = load_file(source / "adapter_model.safetensors")
    for name in (name for name in tensors if ".lora_B" in name):
        tensors[name][:, 4:] *= 1e-4
    save_file(tensors, source / "adapter_model.safetensors")

    found = import_version.read(source, base, 4)

    assert found.adapter.rank == 4
    assert "then cut from rank 8 to training.max_rank (4)" in found.notes[-1]
    stack = import_version.write(found, tmp_path / "candidate", base_folder, base, [], {})
    assert torch.allclose(brought(stack), as_peft_loads(base_folder, source), atol=1e-2)


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json", "a list"])
@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_case_6_another_chat_template_beside_it_is_told(base, trained, tmp_path, place, kind):
    source = tmp_path / "source"
    shutil.copytree(trained[0] / kind, source)
    other = tiny.TEMPLATE.replace("<s>", "### ")
    if place == "chat_template.jinja":
        (source / place).write_text(other)
    else:
        found = other if place != "a list" else [{"name": "default", "template": other}]
        files.write_json(source / "tokenizer_config.json", {"chat_template": found})

    assert (
        "it brings another chat template than the base; lorad asks with the base's"
        in import_version.read(source, base, 64).notes
    )


def test_case_6_the_bases_own_tokenizer_beside_it_is_nothing_to_tell(base, trained, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(trained[0] / "adapter", source)
    tiny.tokenizer().save_pretrained(source)

    assert not [note for note in import_version.read(source, base, 64).notes if "brings" in note]


@pytest.mark.parametrize("way", ["tokenizer.json", "added_tokens.json", "tokenizer_config.json"])
def test_case_6_an_adapter_for_a_larger_vocabulary_is_refused(base, trained, tmp_path, way):
    source = tmp_path / "source"
    shutil.copytree(trained[0] / "adapter", source)
    tokenizer = tiny.tokenizer()
    number = len(tokenizer)
    if way == "tokenizer.json":
        tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(source)
    if way == "added_tokens.json":
        files.write_json(source / way, {"<tool>": number})
    elif way == "tokenizer_config.json":
        settings = files.read_json(source / way)
        files.write_json(source / way, settings | {"added_tokens_decoder": {number: {"content": "<tool>"}}})

    with pytest.raises(RegistryError, match="'<tool>' is new") as caught:
        import_version.read(source, base, 64)
    assert caught.value.code == "wrong_base"


def test_case_6_another_vocabulary_of_the_same_size_is_told(base, trained, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(trained[0] / "adapter", source)
    tiny.tokenizer().save_pretrained(source)
    core = (source / "tokenizer.json").read_text().replace('"</s>"', '"</z>"')
    (source / "tokenizer.json").write_text(core)

    assert "it brings another vocabulary" in " ".join(import_version.read(source, base, 64).notes)


@pytest.mark.parametrize("key", ["alpha_pattern", "rank_pattern"])
def test_case_6_a_pattern_of_null_is_no_pattern(base, base_folder, tmp_path, key):
    source = perturbed(base_folder, tmp_path / "source")
    expected = as_peft_loads(base_folder, source)
    config = files.read_json(source / "adapter_config.json")
    files.write_json(source / "adapter_config.json", config | {key: None})

    stack = import_version.write(
        import_version.read(source, base, 64), tmp_path / "candidate", base_folder, base, [], {}
    )

    assert torch.allclose(brought(stack), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bias", "all"),
        ("lora_bias", True),
        ("modules_to_save", ["norm"]),
        ("trainable_token_indices", [5]),
        ("layer_replication", [[0, 2], [0, 2]]),
    ],
)
def test_case_6_what_no_whole_model_could_bring_either_is_not_sent_that_way(key, value):
    with pytest.raises(RegistryError, match=f"sets {key}") as caught:
        adapter_formats.check_peft({"peft_type": "LORA", "r": 4, "lora_alpha": 4, key: value})

    assert "lorad base add" in caught.value.message
    assert "add the whole model" not in caught.value.message


@pytest.mark.parametrize("rank", [64, 65, 130])
def test_a9_an_adapter_of_a_rank_above_a_layers_size_is_brought_whole(base, base_folder, tmp_path, rank):
    # Given PEFT's own adapter with a rank above every layer's smaller side
    torch.manual_seed(3)
    config = LoraConfig(r=rank, lora_alpha=8, target_modules=["k_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(bases.load_base(base_folder, torch.float32).model, config).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.05)
    model.save_pretrained(tmp_path / "theirs")

    for most in (256, rank - 1):  # whole, and cut below what it has
        found = import_version.read(tmp_path / "theirs", base, most)
        stack = import_version.write(found, tmp_path / "candidate", base_folder, base, rows()[:2], {})

        assert torch.allclose(brought(stack), logits(model), atol=1e-3)
        assert adapters.difference(stack.read("candidate"), found.adapter) == 0
        stack.unload("candidate")


def test_a9_a_cut_adapter_is_the_same_after_it_was_exported_and_brought_back(base, tmp_path):
    adapter = adapters.Adapter(
        {
            f"model.layers.{layer}.{name}": (torch.randn(96, size), torch.randn(rows_, 96) * 0.01)
            for layer in range(2)
            for name, size, rows_ in (("self_attn.k_proj", 64, 32), ("mlp.down_proj", 128, 64))
        }
    )
    cut, _ = adapters.consolidate(adapter, 80)
    peft_io.write_adapter(cut, tmp_path / "once", "x")

    again = import_version.read(tmp_path / "once", base, 80).adapter
    peft_io.write_adapter(again, tmp_path / "twice", "x")

    assert adapters.difference(peft_io.read_adapter(tmp_path / "twice"), cut) == 0
    grown = adapters.concatenate(again, adapters.consolidate(adapter, 40)[0])
    peft_io.write_adapter(grown, tmp_path / "grown", "x")
    assert adapters.difference(peft_io.read_adapter(tmp_path / "grown"), grown) == 0
