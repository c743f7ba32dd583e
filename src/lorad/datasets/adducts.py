"""Adducts: what a molecule carries or has lost as an ion, such as ``[M+H]+`` or ``[2M-H]-``. A text in, its arithmetic out.

What lives here: exact masses of the elements that occur in them, formulas. What never does: molecules (``tasks.molecules``).
"""

import re
from dataclasses import dataclass

ELECTRON = 0.000548579909
"""Mass of an electron in Da (CODATA 2018)."""
HYDROGEN = 1.00782503207
#: Masses of the commonest isotopes in Da (Audi et al. 2003, as RDKit has them).
MASSES = {
    "H": HYDROGEN,
    "Li": 7.01600455,
    "C": 12.0,
    "N": 14.0030740048,
    "O": 15.99491461956,
    "F": 18.99840322,
    "Na": 22.9897692809,
    "Si": 27.9769265325,
    "P": 30.97376163,
    "S": 31.972071,
    "Cl": 34.96885268,
    "K": 38.96370668,
    "Ca": 39.96259098,
    "Fe": 55.9349375,
    "Br": 78.9183371,
    "I": 126.904473,
}
#: What people write for solvents.
SHORT = {"ACN": "C2H3N", "FA": "CH2O2", "HAc": "C2H4O2", "Hac": "C2H4O2", "MeOH": "CH4O", "DMSO": "C2H6OS"}
MOST_MOLECULES, MOST_CHARGE = 4, 10

_FORM = re.compile(r"\[(\d?)M((?:[+-]\d?[A-Z][A-Za-z0-9]*)*)\](\d{0,2})([+-])")
_GROUP = re.compile(r"([+-])(\d?)([A-Z][A-Za-z0-9]*)")
_ATOMS = re.compile(r"([A-Z][a-z]?)(\d{0,3})")
LONGEST = 64
"""Characters of an adduct."""


@dataclass(frozen=True, slots=True)
class Adduct:
    """What becomes of the mass of a molecule."""

    molecules: int
    shift: float
    """What is added to all of them, in Da, electrons included."""
    charge: int
    """Signed, never 0."""

    def mz(self, mass: float) -> float:
        """Return the m/z of a molecule of this exact mass."""
        return (self.molecules * mass + self.shift) / abs(self.charge)


def parse(text: str) -> Adduct:
    """Return what an adduct says; raise ``ValueError`` with what is wrong with it."""
    if len(text.strip()) > LONGEST:
        raise ValueError(f"has {len(text.strip())} characters; at most {LONGEST} are read")
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"is {text[:40]!r}; write an adduct like [M+H]+, [M-H]-, [M+2H]2+ or [2M+Na]+")
    molecules = int(found[1] or 1)
    charge = int(found[3] or 1) * (1 if found[4] == "+" else -1)
    if not 1 <= molecules <= MOST_MOLECULES:
        raise ValueError(f"has {molecules} molecules; 1 to {MOST_MOLECULES} are known")
    if not 1 <= abs(charge) <= MOST_CHARGE:
        raise ValueError(f"has the charge {charge}; 1 to {MOST_CHARGE} are known")
    shift = -charge * ELECTRON
    for sign, count, group in _GROUP.findall(found[2]):
        mass = int(count or 1) * formula_mass(SHORT.get(group, group))
        shift += mass if sign == "+" else -mass
    return Adduct(molecules, shift, charge)


def formula_mass(formula: str) -> float:
    """Return the exact mass of a formula such as ``HCOOH``, in Da; raise ``ValueError`` for what is none."""
    atoms = _ATOMS.findall(formula)
    if "".join(element + count for element, count in atoms) != formula or not atoms:
        raise ValueError(f"names {formula!r}, which is no formula")
    if unknown := next((element for element, _ in atoms if element not in MASSES), None):
        raise ValueError(f"names the element {unknown}; known here: {', '.join(MASSES)}")
    return sum(MASSES[element] * int(count or 1) for element, count in atoms)
