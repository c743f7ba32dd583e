"""The arithmetic of adducts."""

import pytest

from lorad.datasets import adducts

GLUCOSE = 180.0633881


@pytest.mark.parametrize(
    ("text", "mz", "charge"),
    [
        ("[M+H]+", 181.07066, 1),
        ("[M+H]1+", 181.07066, 1),
        ("[M-H]-", 179.05611, -1),
        ("[M+Na]+", 203.05261, 1),
        ("[M+NH4]+", 198.09721, 1),
        ("[M-H2O+H]+", 163.06010, 1),
        ("[M+2H]2+", 91.03897, 2),
        ("[2M+Na]+", 383.11599, 1),
        ("[M+FA-H]-", 225.06159, -1),
        ("[M+Cl]-", 215.03279, -1),
        ("[M]+", 180.06284, 1),
    ],
)
def test_the_mz_of_glucose(text, mz, charge):
    found = adducts.parse(text)
    assert found.mz(GLUCOSE) == pytest.approx(mz, abs=2e-5)
    assert found.charge == charge


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("M+H", "write an adduct like"),
        ("[M+H]", "write an adduct like"),
        ("", "write an adduct like"),
        ("[9M+H]+", "9 molecules"),
        ("[M+12H]12+", "write an adduct like"),
        ("[M+9H]11+", "the charge 11"),
        ("[M+Xx]+", "the element Xx"),
        ("[M+Q9z]+", "no formula"),
    ],
)
def test_what_is_no_adduct_is_told(text, says):
    with pytest.raises(ValueError, match=says):
        adducts.parse(text)
