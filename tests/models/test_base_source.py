"""What cannot become a base model is told from its files, in one sentence, before it is loaded."""

import json

import pytest
import torch
from safetensors.torch import save_file

from lorad.models import base_source


def source(folder, config=None, beside=(), tensors=None):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | (config or {})))
    for name in beside:
        (folder / name).write_text("{}")
    if tensors is not False:
        save_file(tensors or {"model.norm.weight": torch.ones(4)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "bitsandbytes, 4 bits",
        ),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
            "bitsandbytes, 8 bits",
        ),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq, 4 bits"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),
        ({"quantization_config": {"quant_algo": "NVFP4"}}, "NVFP4"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "mlx, 4 bits"),
        ({"text_config": {"quantization_config": {"quant_method": "hqq"}}}, "hqq"),
    ],
)
def test_case_25_a_quantised_model_is_named_with_its_method(tmp_path, config, named):
    told = base_source.objection(source(tmp_path / "m", config))

    assert named in told
    assert "add the unquantised model" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("name", "method"),
    [("quantize_config.json", "gptq"), ("quant_config.json", "awq"), ("hf_quant_config.json", "modelopt")],
)
def test_case_25_a_quantised_model_of_an_older_tool_is_named(tmp_path, name, method):
    assert f"quantised ({method})" in base_source.objection(source(tmp_path / "m", beside=[name]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.float8_e4m3fn])
def test_case_25_packed_tensors_are_found_where_no_file_tells_of_them(tmp_path, dtype):
    tensors = {"model.layers.0.mlp.up_proj.qweight": torch.ones(4, 4).to(dtype)}

    assert "up_proj.qweight" in base_source.objection(source(tmp_path / "m", tensors=tensors))


def test_whole_numbers_that_a_float_model_has_are_no_quantisation(tmp_path):
    tensors = {
        "norm.weight": torch.ones(4),
        "position_ids": torch.arange(8)[None],
        "steps": torch.ones(1).int(),
    }
    config = {"quantization_config": None, "quantization": {}}

    assert base_source.objection(source(tmp_path / "m", config, tensors=tensors)) is None


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_case_25_code_of_its_own_is_refused(tmp_path, name):
    folder = source(tmp_path / "m")
    (folder / name).write_text(json.dumps({"auto_map": {"AutoModel": "modeling_x.X"}}))

    assert "never runs" in base_source.objection(folder)


def test_case_25_an_adapter_is_sent_where_it_belongs(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"x.lora_A.weight": torch.ones(4, 4)}, tmp_path / "adapter_model.safetensors")

    assert "lorad versions add" in base_source.objection(tmp_path)


def test_an_adapter_beside_a_model_is_not_loaded_in_its_place(tmp_path):
    folder = source(tmp_path / "m", beside=["adapter_config.json"])

    assert "folder of its own" in base_source.objection(folder)


def test_case_25_pickles_are_refused(tmp_path):
    folder = source(tmp_path / "m", tensors=False)
    (folder / "pytorch_model.bin").write_bytes(b"\x80")

    assert "pickles (pytorch_model.bin)" in base_source.objection(folder)


@pytest.mark.parametrize("held", ["nothing", "no config", "no weights", "a gguf", "a file"])
def test_case_25_what_is_no_model_is_told(tmp_path, held):
    folder, told = tmp_path / "m", "no config.json"
    if held == "a file":
        folder.write_text("x")
        told = "is not a folder"
    elif held == "no weights":
        source(folder, tensors=False)
        told = "there is no .safetensors"
    else:
        folder.mkdir()
        if held == "no config":
            save_file({"x": torch.ones(1)}, folder / "model.safetensors")
        elif held == "a gguf":
            (folder / "tiny.Q4.gguf").write_bytes(b"GGUF")
            told = f"name the file: {folder / 'tiny.Q4.gguf'}"

    assert told in base_source.objection(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 20000])
def test_json_that_cannot_be_read_is_left_to_whoever_loads_it(tmp_path, content):
    folder = source(tmp_path / "m")
    (folder / "config.json").write_text(content)

    assert base_source.objection(folder) is None
