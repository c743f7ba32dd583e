"""What a version proves between its verified files and its first answer."""

import json
import shutil

import pytest
import tiny
import torch

from lorad.errors import RegistryError
from lorad.evaluation import metrics
from lorad.models import adapter_stack, adapters, bases, packing, peft_io, scoring
from lorad.records import Encoded
from lorad.storage import files
from lorad.tasks import find
from lorad.versions import loader, papers


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    bases.store_base(tiny.save(folder / "source"), folder / "base")
    return folder / "base"


@pytest.fixture(scope="module")
def base(base_folder):
    return bases.load_base(base_folder, torch.float32)


@pytest.fixture
def version(tmp_path, base_folder):
    """A version as a session writes it, with weights that say something."""
    torch.manual_seed(3)
    wrapped = peft_io.add_lora(bases.load_base(base_folder, torch.float32).model, 4, 8)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.1)
    folder = tmp_path / "v0.1"
    peft_io.write_adapter(peft_io.read_live(wrapped), folder, "base")
    tokenizer = tiny.tokenizer()
    rows = [find("chat").encode(tokenizer, example) for example in tiny.facts(2)]
    files.write_json(folder / metrics.PROBES, metrics.probe(find("chat"), wrapped.eval(), rows))
    for name in loader.TOKENIZER_FILES:
        if (base_folder / name).is_file():
            files.write_bytes(folder / name, (base_folder / name).read_bytes())
    framework = loader.environment("cpu", "float32")
    files.write_json(folder / papers.METADATA, {"framework": framework})
    return folder


def edit(folder, **changes):
    path = folder / peft_io.ADAPTER_FILES[0]
    files.write_json(path, files.read_json(path) | changes)


def logits(stack, name):
    row = find("chat").encode(tiny.tokenizer(), tiny.facts(1)[0])
    with torch.inference_mode(), stack.use(name) as model:
        return scoring.answer_logits(model, packing.pack([row]))


def test_probes_ask_the_shortest_rows_in_one_pass_and_at_least_one(base_folder):
    model = bases.load_base(base_folder, torch.float32).model
    rows = [Encoded(tuple(range(5, 5 + length)), length - 3) for length in (40, 20, 10, 100)]

    short = metrics.probe(find("chat"), model, rows)["probes"]
    long = metrics.probe(find("chat"), model, rows[3:])["probes"]

    assert [len(entry["tokens"]) for entry in short] == [10, 20]
    assert [len(entry["logits"]) for entry in short] == [3, 3]
    assert [len(entry["tokens"]) for entry in long] == [100]
    assert metrics.probe(find("chat"), model, []) == {"dtype": "float32", "probes": []}


def test_a_sound_version_is_loaded_and_nothing_differs(base_folder, version):
    stack = adapter_stack.AdapterStack(bases.load_base(base_folder, torch.float32))

    assert loader.load(find("chat"), stack, "chat@v0.1", version, base_folder, strict=True) == []

    assert stack.names == ["chat@v0.1"]
    assert not torch.equal(logits(stack, "chat@v0.1"), logits(stack, None))


def test_beside_another_version_it_is_checked_all_the_same(base_folder, version):
    stack = adapter_stack.AdapterStack(bases.load_base(base_folder, torch.float32))
    loader.load(find("chat"), stack, "one", version, base_folder)

    loader.load(find("chat"), stack, "two", version, base_folder)

    assert torch.equal(logits(stack, "one"), logits(stack, "two"))


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"lora_alpha": 16}, "adapter_config", "has alpha 16 and rank 4"),
        ({"r": 8, "lora_alpha": 8}, "adapter_config", "rank 8 in its configuration"),
        ({"r": 0, "lora_alpha": 0}, "adapter_config", "alpha 0"),
        ({"target_modules": ["q_proj"]}, "adapter_config", "names the layers"),
        ({"layers_to_transform": [1]}, "adapter_config", r"names the layers \[1\]"),
        ({"layers_to_transform": 1}, "adapter_config", "names the layers 1"),
        ({"alpha_pattern": {"q_proj": 9}}, "adapter_config", "patterns"),
        ({"use_rslora": True}, "adapter_config", "plain LoRA"),
        ({"use_dora": True}, "adapter_config", "plain LoRA"),
        ({"peft_type": "IA3"}, "adapter_config", "plain LoRA"),
        ({"r": None}, "adapter_damaged", "cannot be read"),
        ({"target_modules": 5}, "adapter_damaged", "cannot be read"),
    ],
)
def test_a_config_that_does_not_go_with_the_weights_is_refused(base, version, changes, code, says):
    edit(version, **changes)

    with pytest.raises(RegistryError, match=says) as caught:
        loader.check(version, base, None, strict=False)

    assert caught.value.code == code


@pytest.mark.parametrize("harm", ["header", "cut", "longer", "empty", "gone"])
def test_a_header_that_does_not_go_with_the_bytes_is_refused(base, version, harm):
    path = version / peft_io.ADAPTER_FILES[1]
    content = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        harmed = {
            "header": b"\xff" * 9 + content[9:],
            "cut": content[:-1],
            "longer": content + b"0",
            "empty": b"",
        }
        path.write_bytes(harmed[harm])

    with pytest.raises(RegistryError) as caught:
        loader.check(version, base, None, strict=False)

    assert caught.value.code == "adapter_damaged"


def test_a_layer_that_the_base_does_not_have_is_refused(base, version):
    adapter = peft_io.read_adapter(version)
    one, *others = adapter.factors
    renamed = {one.replace("layers.0", "layers.7"): adapter.factors[one]}
    peft_io.write_adapter(
        adapters.Adapter(renamed | {name: adapter.factors[name] for name in others}), version, "base"
    )

    with pytest.raises(RegistryError, match="does not have") as caught:
        loader.check(version, base, None, strict=False)

    assert caught.value.code == "wrong_base"
    assert not caught.value.is_damage


def test_a_layer_of_another_width_is_refused(base, version):
    adapter = peft_io.read_adapter(version)
    name, (a, b) = next(iter(adapter.factors.items()))
    wider = torch.nn.functional.pad(a, (0, 1))
    peft_io.write_adapter(adapters.Adapter(adapter.factors | {name: (wider, b)}), version, "base")

    with pytest.raises(RegistryError, match="does not fit") as caught:
        loader.check(version, base, None, strict=False)

    assert caught.value.code == "wrong_base"


def test_another_tokenizer_than_the_bases_is_refused_and_the_version_is_not_to_blame(
    base, base_folder, version
):
    (version / "tokenizer.json").write_text("{}")

    with pytest.raises(RegistryError, match=r"another tokenizer\.json") as caught:
        loader.check(version, base, base_folder, strict=False)

    assert not caught.value.is_damage


def test_another_environment_is_told_or_refused(base, version):
    framework = loader.environment("cpu", "bfloat16") | {"torch": "1.0", "processor": "another"}
    files.write_json(version / papers.METADATA, {"framework": framework})

    differs = loader.check(version, base, None, strict=False)

    assert [sentence.partition(" was ")[0] for sentence in differs] == ["torch", "processor", "dtype"]
    with pytest.raises(RegistryError, match=r"torch was 1\.0") as caught:
        loader.check(version, base, None, strict=True)
    assert (caught.value.code, caught.value.is_damage) == ("other_environment", False)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", json.dumps({"framework": {"julia": "1.9"}})])
def test_what_was_not_noted_cannot_differ(base, version, content):
    (version / papers.METADATA).unlink()
    if content is not None:
        (version / papers.METADATA).write_text(content)

    assert loader.check(version, base, None, strict=True) == []


def test_a_version_that_answers_otherwise_leaves_the_deck_as_it_was(base_folder, version):
    stack = adapter_stack.AdapterStack(bases.load_base(base_folder, torch.float32))
    pristine = logits(stack, None)
    adapter = peft_io.read_adapter(version)
    louder = {name: (a, 3 * b) for name, (a, b) in adapter.factors.items()}
    peft_io.write_adapter(adapters.Adapter(louder), version, "base")

    with pytest.raises(RegistryError, match="does not answer its probes"):
        loader.load(find("chat"), stack, "chat@v0.1", version, base_folder)

    assert stack.names == []
    assert torch.equal(logits(stack, None), pristine)


@pytest.mark.parametrize("change", ["another", None])
def test_case_25_a_version_keeps_the_templates_beside_its_bases_own(base_folder, tmp_path, change):
    base, kept = tmp_path / "base", tmp_path / "kept"
    shutil.copytree(base_folder, base)
    template = base / bases.ADDITIONAL / "tool_use.jinja"
    template.parent.mkdir()
    template.write_text("one")

    loader.keep_tokenizer(base, kept)

    assert (kept / bases.ADDITIONAL / "tool_use.jinja").read_text() == "one"
    loader._check_tokenizer(kept, base)
    template.write_text(change) if change else template.unlink()
    with pytest.raises(RegistryError, match=r"tool_use\.jinja") as caught:
        loader._check_tokenizer(kept, base)
    assert caught.value.code == "other_tokenizer"


# a base that is held otherwise than when the version was judged


def judged_with(folder, form):
    path = folder / papers.METADATA
    told = files.read_json(path)
    files.write_json(path, {"framework": told["framework"] | {"quantization": form}})


def test_a_version_over_another_form_of_its_base_is_proven_by_what_it_says(base_folder, version):
    # Given a version whose papers name another form, and logits that no tolerance allows
    judged_with(version, "4bit")
    probes = files.read_json(version / metrics.PROBES)
    for entry in probes["probes"]:
        entry["logits"] = [[value + 5 for value in row] for row in entry["logits"]]
    files.write_json(version / metrics.PROBES, probes)
    stack = adapter_stack.AdapterStack(bases.load_base(base_folder, torch.float32))

    # Then it is told and served, for it says the same
    differs = loader.load(find("chat"), stack, "chat@v0.1", version, base_folder)
    assert differs == ["quantization was 4bit and is none"]
    assert stack.names == ["chat@v0.1"]


@pytest.mark.parametrize("has_probes", [True, False])
def test_one_that_says_something_else_or_cannot_be_asked_is_refused_by_name(base_folder, version, has_probes):
    judged_with(version, "8bit")
    if has_probes:
        probes = files.read_json(version / metrics.PROBES)
        probes["probes"][0]["top"][0].reverse()
        files.write_json(version / metrics.PROBES, probes)
    else:
        (version / metrics.PROBES).unlink()
    stack = adapter_stack.AdapterStack(bases.load_base(base_folder, torch.float32))

    with pytest.raises(RegistryError, match="judged on the base with quantization 8bit") as refused:
        loader.load(find("chat"), stack, "chat@v0.1", version, base_folder)

    assert refused.value.code == "other_quantization"
    assert "set training.quantize to 8bit" in refused.value.message
    assert stack.names == []


def test_papers_of_before_mean_a_base_that_is_not_quantised(version):
    path = version / papers.METADATA
    framework = files.read_json(path)["framework"]
    del framework["quantization"]
    files.write_json(path, {"framework": framework})

    assert loader.made_for(version) == "none"
