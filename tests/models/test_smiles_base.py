"""A package's SMILES encoder made into a base model."""

import tiny_smiles
import torch

from lorad.models import bases, smiles_base
from lorad.models.spectrum_matcher import MATCHER


def packed(folder):
    """Write a model as rxnmapper carries it: pickled weights, a vocabulary, and nothing that transformers reads as it is."""
    model = tiny_smiles.model()
    model.config.architectures = ["AlbertForMaskedLM"]
    model.config.save_pretrained(folder)
    pooler = {f"albert.pooler.{name}": torch.zeros(32) for name in ("weight", "bias")}
    torch.save(model.state_dict() | pooler, folder / "pytorch_model.bin")
    torch.save({"a": 1}, folder / "training_args.bin")
    (folder / "vocab.txt").write_text("\n".join(tiny_smiles.WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text("{}")
    return model.eval()


def test_its_weights_and_its_tokens_are_kept_and_no_pickle(tmp_path):
    source = tmp_path / "unpacked"
    source.mkdir()
    theirs = packed(source)

    smiles_base.prepare(source)
    bases.store_base(source, tmp_path / "base", make=lambda a, b, c: bases.make_base(a, b, c, MATCHER))

    assert not [path for path in (tmp_path / "base").iterdir() if path.suffix in {".bin", ".pt"}]
    assert bases.kind(tmp_path / "base") == "encoder"
    loaded = bases.load_base(tmp_path / "base", torch.float32, head=MATCHER)
    tokens = loaded.tokenizer("CC(=O)Oc1ccccc1Cl")["input_ids"]
    assert loaded.tokenizer.convert_ids_to_tokens(tokens) == [
        "[CLS]", "C", "C", "(", "=", "O", ")", "O", "c", "1", "c", "c", "c", "c", "c", "1", "Cl", "[SEP]",
    ]  # fmt: skip
    given = torch.tensor([tokens])
    with torch.inference_mode():
        ours = loaded.model.albert(input_ids=given).last_hidden_state
        assert torch.equal(ours, theirs.albert(input_ids=given).last_hidden_state)
    own = theirs.predictions.dense.weight
    assert torch.equal(loaded.model.predictions.dense.weight, own)
