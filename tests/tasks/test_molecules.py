"""Molecules, by RDKit."""

import numpy as np
import pytest

from lorad.errors import SampleError
from lorad.tasks import molecules


def test_a_molecule_is_told_without_its_stereochemistry():
    left, right = (molecules.molecule(smiles) for smiles in ("C[C@H](N)C(=O)O", "C[C@@H](N)C(O)=O"))
    assert left.smiles == right.smiles == "CC(N)C(=O)O"
    assert left.key == right.key == "QNAYBMKLOCPYGJ"
    assert left.mass == pytest.approx(89.04768, abs=1e-5)


@pytest.mark.parametrize(
    ("smiles", "code"),
    [
        ("C1CC", "bad_smiles"),
        ("(", "bad_smiles"),
        ("CC*", "bad_smiles"),
        ("", "bad_smiles"),
        ("C(C)(C)(C)(C)C", "bad_smiles"),
        ("CCO.[Na+]", "several_molecules"),
    ],
)
def test_what_is_no_molecule_is_told(smiles, code, capfd):
    with pytest.raises(SampleError) as caught:
        molecules.molecule(smiles)
    assert (caught.value.code, caught.value.data["field"]) == (code, "smiles")
    assert capfd.readouterr() == ("", "")


def ion(smiles, formula, sign=1):
    found = molecules.fragments(smiles, sign)
    at = found.formulas.index(formula)
    return found.mzs[at], found.broken[at]


@pytest.mark.parametrize(
    ("smiles", "formula", "sign", "mz", "broken"),
    [
        ("CCO", "C2H7O+", 1, 47.0491, 0),  # protonated
        ("CCO", "CH3O+", 1, 31.0178, 1),  # loses methyl
        ("CCO", "C2H5+", 1, 29.0386, 1),  # loses water
        ("CCO", "C2H5O-", -1, 45.0346, 0),
        ("NCCc1ccccc1", "C8H9+", 1, 105.0699, 1),  # phenethylamine loses ammonia
        ("C1CCCCC1", "C4H7+", 1, 55.0542, 2),  # a ring opens and loses ethylene
        ("CCOCC", "C2H5O+", 1, 45.0335, 1),
        ("CCCCN", "C3H7+", 1, 43.0542, 1),
    ],
)
def test_known_ions_are_among_the_fragments(smiles, formula, sign, mz, broken):
    found, bonds = ion(smiles, formula, sign)
    assert found == pytest.approx(mz, abs=2e-4)
    assert bonds == broken


def test_ions_are_sorted_and_lighter_than_the_molecule():
    found = molecules.fragments("CC(=O)Oc1ccccc1C(=O)O", 1)
    assert (np.diff(found.mzs) >= 0).all()
    assert found.mzs[-1] == pytest.approx(
        molecules.molecule("CC(=O)Oc1ccccc1C(=O)O").mass + 1.00728, abs=1e-4
    )
    assert len(found.mzs) == len(found.broken) == len(found.formulas) == len(set(found.formulas))
