"""A two-layer ALBERT of SMILES, and spectra made of molecules' own fragments: nothing is downloaded."""

import random
from functools import partial

import torch
from transformers import AlbertConfig, AlbertForMaskedLM

from lorad.models import bases, smiles_base, spectrum_matcher
from lorad.tasks import molecules

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"CcNnOoSPF()=#1234", "Cl", "Br", "[nH]"]
ISOMERS = ("CCCCCO", "CCC(C)CO", "CCOCCC", "CC(O)CCC", "CCC(O)CC", "CC(C)(C)CO", "COCCCC", "CC(C)OCC")
RINGS = ("c1ccccc1O", "c1ccccc1N", "c1ccccc1C", "Cc1ccccn1", "Oc1ccccn1", "Nc1ccccn1")


def tokenizer():
    """Return a tokenizer as the real base has it, of few words."""
    return smiles_base.tokenizer(WORDS)


def model(seed=5):
    """Return a random encoder with its masked-LM head."""
    torch.manual_seed(seed)
    return AlbertForMaskedLM(
        AlbertConfig(
            vocab_size=len(WORDS),
            embedding_size=16,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
            hidden_dropout_prob=0.1,
            pad_token_id=0,
        )
    )


def store(folder, target):
    """Store the encoder as a base model."""
    model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    bases.store_base(folder, target, make=partial(bases.make_base, head=spectrum_matcher.MATCHER))
    return target


def spectrum(smiles, seed=0, peaks=8):
    """Return a spectrum in which a molecule's fragments of one broken bond, and some noise, are peaks."""
    chance = random.Random(f"{smiles} {seed}")
    mass = molecules.molecule(smiles).mass
    ions = molecules.fragments(smiles, 1)
    known = [float(mz) for mz, broken in zip(ions.mzs, ions.broken, strict=True) if broken == 1 and mz > 14]
    chosen = sorted([*chance.sample(known, min(peaks, len(known))), chance.uniform(15, mass)])
    return {
        "mzs": chosen,
        "intensities": [round(chance.uniform(0.2, 1.0), 3) for _ in chosen],
        "precursor_mz": mass + 1.00728,
        "adduct": "[M+H]+",
    }


def rows(smiles, spectra=2):
    """Return rows as a file has them: some spectra of each molecule."""
    return [{"smiles": each, **spectrum(each, seed)} for each in smiles for seed in range(spectra)]
