"""The network that matches spectra and molecules, and how a version keeps it."""

import pytest
import tiny_smiles
import torch

from lorad.errors import RegistryError
from lorad.models import adapters, bases, heads, peft_io
from lorad.models.adapter_stack import AdapterStack
from lorad.models.spectrum_matcher import MATCHER, PEAK_FEATURES, Peaks, features
from lorad.records import Example
from lorad.tasks import encode, find


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("base")
    return tiny_smiles.store(place / "source", place / "stored")


@pytest.fixture
def base(folder):
    loaded = bases.load_base(folder, torch.float32, head=MATCHER)
    heads.build(loaded.model, MATCHER, ["match"])
    return loaded


def encoded(base, smiles=tiny_smiles.ISOMERS[:4]):
    examples = [
        Example(
            task="spectra",
            input={key: value for key, value in row.items() if key != "smiles"},
            target=row["smiles"],
            dataset="d",
            line=at,
        )
        for at, row in enumerate(tiny_smiles.rows(smiles))
    ]
    usable, unusable = encode(find("spectra"), base.tokenizer, examples)
    assert not unusable
    return [row for _, row in usable]


def ask(model, rows):
    with torch.inference_mode():
        return find("spectra").forward(model, rows)


def test_neighbours_in_a_pass_change_nothing(base):
    rows = encoded(base, [*tiny_smiles.ISOMERS[:3], *tiny_smiles.RINGS[:3]])
    rows[0] = find("spectra").question(
        base.tokenizer, tiny_smiles.spectrum("CCO", peaks=2) | {"smiles": "CCO"}
    )
    together = ask(base.model, rows)
    for at, row in enumerate(rows):
        alone = ask(base.model, [row])
        count = len(row.candidates)
        assert torch.allclose(together.logits[at, :count], alone.logits[0], atol=1e-4)


def test_a_logit_is_the_evidence_of_the_whole_and_of_its_peaks(base):
    said = ask(base.model, encoded(base))
    summed = (said.evidence * said.weights).sum(-1)
    assert torch.allclose(said.logits[said.pairs, said.places], summed)
    assert torch.allclose(said.weights[:, 1:].sum(-1), torch.ones(len(said.pairs)), atol=1e-6)


def test_before_it_is_trained_it_says_what_fragments_and_masses_say(base):
    asked = tiny_smiles.spectrum("CCO") | {"candidates": ["CCCCO", "CCO"]}
    row = find("spectra").question(base.tokenizer, asked)
    said = ask(base.model, [row])
    other, own = said.evidence

    assert said.logits[0, 1] > said.logits[0, 0]
    assert own[0] > other[0]  # the mass
    assert own[1:].max() > 5  # a peak that a fragment explains
    assert own[1:].min() >= 0


def test_features_tell_masses_apart_that_differ_by_a_thousandth():
    def peaks(mz):
        zero = torch.zeros(1, 1, dtype=torch.float64)
        return Peaks(mzs=zero + mz, losses=zero, intensities=zero, seen=zero == 0)

    one, other = features(peaks(2000.0)), features(peaks(2000.001))
    assert one.shape == (1, 1, PEAK_FEATURES)
    assert (one - other).abs().max() > 0.1


def test_the_encoder_answers_alike_while_the_rest_is_trained(base):
    rows = encoded(base)
    model = peft_io.add_lora(base.model, 4, 8, MATCHER)
    model.train()
    assert torch.equal(ask(model, rows).logits, ask(model, rows).logits)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name.split(".")[2] for name in trained} == {"predictions", "fusion"}
    assert {name for name in trained if "lora_" in name} == {
        f"base_model.model.predictions.dense.lora_{part}.default.weight" for part in "AB"
    }


def test_a_version_is_its_projections_lora_and_the_whole_fusion(base, folder, tmp_path):
    # Given one that was asked, and then trained a little
    rows = encoded(base)
    ask(base.model, rows)
    model = peft_io.add_lora(base.model, 4, 8, MATCHER)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
    task = find("spectra")
    losses = []
    for _ in range(10):
        loss = task.loss(task.forward(model, rows)) / len(rows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]

    # When it is written and laid over a pristine base
    model.eval()
    adapter = peft_io.read_live(model)
    peft_io.write_adapter(adapter, tmp_path / "v0.1", "base", MATCHER)
    pristine = bases.load_base(folder, torch.float32, head=MATCHER)
    peft_io.check_adapter(tmp_path / "v0.1", pristine.model)
    stack = AdapterStack(pristine)
    stack.add("v0.1", tmp_path / "v0.1")

    # Then it says the same, and is the same
    assert adapters.difference(stack.read("v0.1"), adapter) == 0
    assert torch.allclose(ask(stack.model("v0.1"), rows).logits, ask(model, rows).logits, atol=1e-5)
    assert adapter.labels == ("match",)
    assert set(adapter.factors) == {"predictions.dense"}


def test_an_adapter_whose_config_names_other_layers_is_refused(base, folder, tmp_path):
    model = peft_io.add_lora(base.model, 4, 8, MATCHER)
    peft_io.write_adapter(peft_io.read_live(model), tmp_path / "v0.1", "base", MATCHER)
    config = tmp_path / "v0.1" / "adapter_config.json"
    config.chmod(0o600)
    config.write_text(config.read_text().replace("predictions.dense", "attention.dense"))
    pristine = bases.load_base(folder, torch.float32, head=MATCHER)
    with pytest.raises(RegistryError, match="names the layers"):
        peft_io.check_adapter(tmp_path / "v0.1", pristine.model)


def test_a_fresh_fusion_is_the_same_at_every_start(folder):
    made = []
    for _ in range(2):
        loaded = bases.load_base(folder, torch.float32, head=MATCHER)
        heads.build(loaded.model, MATCHER, ["match"])
        made.append(loaded.model.fusion.state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
