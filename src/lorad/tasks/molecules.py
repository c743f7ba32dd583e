"""Molecules: a SMILES in, what mass spectrometry asks of it out. RDKit lives here alone, and is loaded when it is needed.

What lives here: parsing, exact mass, identity without stereochemistry (the first block of the InChIKey), and the fragments that
come of breaking bonds. What never does: spectra, models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorad.datasets.adducts import ELECTRON, HYDROGEN
from lorad.errors import ConfigError, SampleError

KEPT = 8192
"""Molecules that are kept, of those asked for last."""
MOST_ATOMS = 300
"""Heavy atoms of the largest molecule that is taken apart."""
MOST_PAIRS = 1500
"""Pairs of bonds that are broken at most: peptides have more."""
KEY_LENGTH = 14
"""Of an InChIKey's first block, which stands for the skeleton of atoms and bonds."""


@dataclass(frozen=True, slots=True)
class Molecule:
    """A molecule as far as a mass spectrometer sees it."""

    smiles: str
    """Canonical, without stereochemistry."""
    key: str
    mass: float
    """Exact, neutral, in Da."""


@dataclass(frozen=True, slots=True)
class Fragments:
    """The ions that a molecule may break into, by ascending m/z (F of them)."""

    mzs: NDArray[np.float64]
    """[F]."""
    broken: NDArray[np.int8]
    """[F]: how many bonds are broken for it."""
    formulas: Sequence[str]
    """F."""


@cache
def chemistry() -> Any:
    """Return RDKit's module ``Chem``, which says nothing on the terminal; raise ``ConfigError`` where it is not installed."""
    try:
        from rdkit import Chem, RDLogger  # noqa: PLC0415 - an extra
        from rdkit.Chem import Descriptors  # noqa: F401, PLC0415 - hangs itself into Chem
    except ImportError:
        raise ConfigError(
            "molecules need RDKit; install it with: pip install 'lorad[spectra]'", code="needs_rdkit"
        ) from None
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]
    return Chem


@lru_cache(maxsize=KEPT)
def molecule(smiles: str) -> Molecule:
    """Return the molecule of a SMILES; raise ``SampleError`` that names the field ``smiles`` where it is none."""
    chem = chemistry()
    if len(smiles.split()) > 1:  # RDKit takes what follows for a name
        raise SampleError(
            f"{smiles[:80]!r} is more than one SMILES; leave out what stands behind it",
            code="bad_smiles",
            field="smiles",
        )
    parsed = chem.MolFromSmiles(smiles)
    flat = chem.MolToSmiles(parsed, isomericSmiles=False) if parsed else ""
    if not flat or chem.MolFromSmiles(flat) is None:
        raise SampleError(
            f"{smiles[:80]!r} is no SMILES of a molecule: brackets, rings or valences do not fit",
            code="bad_smiles",
            field="smiles",
        )
    if len(chem.GetMolFrags(parsed)) > 1:
        raise SampleError(
            f"{smiles[:80]!r} is several molecules; give the one that was measured, without its counter-ion",
            code="several_molecules",
            field="smiles",
        )
    if any(not atom.GetAtomicNum() for atom in parsed.GetAtoms()):
        raise SampleError(
            f"{smiles[:80]!r} holds an atom that is left open (*)", code="bad_smiles", field="smiles"
        )
    if any(atom.GetIsotope() for atom in parsed.GetAtoms()):
        raise SampleError(
            f"{smiles[:80]!r} is labelled with isotopes, which are not known here: its masses would be wrong",
            code="bad_smiles",
            field="smiles",
        )
    key = chem.MolToInchiKey(parsed)[:KEY_LENGTH]
    return Molecule(flat, key or flat, float(chem.Descriptors.ExactMolWt(parsed)))


@lru_cache(maxsize=KEPT)
def fragments(smiles: str, sign: int) -> Fragments:
    """Return the ions of a molecule with this sign of charge that breaking no, one or two bonds gives.

    As MetFrag has it (Wolf et al. 2010, Ruttkies et al. 2016): bonds outside of rings are broken alone and in pairs, two of
    one ring together, and hydrogens go with either side: up to one more or less for each broken bond, and one for the charge.
    """
    chem = chemistry()
    parsed = chem.MolFromSmiles(smiles)
    table = chem.GetPeriodicTable()
    atoms = [
        (
            table.GetMostCommonIsotopeMass(atom.GetAtomicNum()) + atom.GetTotalNumHs() * HYDROGEN,
            atom.GetSymbol(),
            atom.GetTotalNumHs(),
        )
        for atom in parsed.GetAtoms()
    ]
    found: dict[int, int] = {(1 << len(atoms)) - 1: 0}  # sets of atoms as bits -> bonds broken for them
    if len(atoms) <= MOST_ATOMS:
        for parts, broken in _broken(parsed):
            for part in parts:
                found[part] = min(broken, found.get(part, broken))
    return _ions(found, atoms, sign)


def _ions(found: dict[int, int], atoms: Sequence[tuple[float, str, int]], sign: int) -> Fragments:
    ions: dict[str, tuple[float, int, str]] = {}
    for part, broken in found.items():
        inside = [atoms[at] for at in _bits(part)]
        mass = sum(atom for atom, _, _ in inside)
        counts: dict[str, int] = {}
        for _, symbol, hydrogens in inside:
            counts[symbol] = counts.get(symbol, 0) + 1
            counts["H"] = counts.get("H", 0) + hydrogens
        for moved in range(-max(1, broken), broken + 1):  # of the whole one: a radical, or what has one more
            shift = moved + (1 if sign > 0 else -1)
            hydrogens = counts.get("H", 0) + shift
            if hydrogens < 0:
                continue
            formula = _formula({**counts, "H": hydrogens}) + ("+" if sign > 0 else "-")
            mz = mass + shift * HYDROGEN - sign * ELECTRON
            known = ions.get(formula)
            if known is None or broken < known[1]:
                ions[formula] = (mz, broken, formula)
    ordered = sorted(ions.values())
    return Fragments(
        np.array([mz for mz, _, _ in ordered]),
        np.array([broken for _, broken, _ in ordered], dtype=np.int8),
        [formula for _, _, formula in ordered],
    )


def _formula(counts: dict[str, int]) -> str:
    """Return a formula in Hill's order: carbon, hydrogen, then by the alphabet."""
    order = sorted(counts, key=lambda symbol: (symbol != "C", symbol != "H", symbol))
    return "".join(
        f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}" for symbol in order if counts[symbol]
    )


def _broken(parsed: Any) -> Iterator[tuple[list[int], int]]:
    """Yield the parts that a molecule falls into, as bits of atoms, and how many bonds are broken for that."""
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in parsed.GetBonds()]
    rings = [list(ring) for ring in parsed.GetRingInfo().BondRings()]
    in_rings = {bond for ring in rings for bond in ring}
    neighbours = [0] * parsed.GetNumAtoms()
    for begin, end in bonds:
        neighbours[begin] |= 1 << end
        neighbours[end] |= 1 << begin
    open_ones = [at for at in range(len(bonds)) if at not in in_rings]
    for at in open_ones:
        yield _parts(neighbours, [bonds[at]]), 1
    of_rings = [pair for ring in rings for pair in combinations(ring, 2)]
    of_both = list(combinations(open_ones, 2))
    for pair in (*of_rings, *of_both)[:MOST_PAIRS]:
        yield _parts(neighbours, [bonds[at] for at in pair]), 2


def _parts(neighbours: Sequence[int], broken: Sequence[tuple[int, int]]) -> list[int]:
    """Return the connected parts at the ends of broken bonds."""
    cut = list(neighbours)
    for begin, end in broken:
        cut[begin] &= ~(1 << end)
        cut[end] &= ~(1 << begin)
    parts: list[int] = []
    for start in {atom for bond in broken for atom in bond}:
        if any(part >> start & 1 for part in parts):
            continue
        part = front = 1 << start
        while front:
            reached = 0
            for at in _bits(front):
                reached |= cut[at]
            front = reached & ~part
            part |= front
        parts.append(part)
    return parts


def _bits(part: int) -> Iterator[int]:
    """Yield the atoms of a part."""
    while part:
        lowest = part & -part
        yield lowest.bit_length() - 1
        part ^= lowest
