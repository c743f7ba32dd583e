"""Real spectra for `spectra.py`: MS/MS of natural products, candidates of near mass, and what simple means say of them.

What lives here: fetching a public package, reading spectra out of it, dividing them by molecule, and the three baselines. What
never does: training, or installing what it fetches.

Nothing of the data is shipped; it is fetched on first use into ``bench/cache/``, from ``fermo-core`` 0.7.1 (PyPI, MIT; MIBiG's
library: spectra of GNPS, CC0, for molecules of MIBiG, CC BY 4.0). Its measured spectra are taken where RDKit reads the SMILES as
one molecule and lorad the adduct; peaks without intensity are left out, of the others the ``MOST_PEAKS`` strongest kept, and of a molecule
at most ``MOST_SPECTRA`` for each sign of charge, chosen by their digests. The library's predicted spectra are not used; their
molecules are candidates.
"""

import hashlib
import random
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labels_data import wheel
from lorad.datasets import adducts
from lorad.datasets.adducts import ELECTRON, HYDROGEN
from lorad.errors import SampleError
from lorad.tasks import molecules

LIBRARY = "fermo_core/libraries/mibig/pos/mibig_spectral_library_3_1.mgf"
MOST_PEAKS, MOST_SPECTRA = 60, 2
LARGEST = 1000.0
"""Da: larger molecules have few others of near mass."""
CANDIDATES = 20
HELD_OUT = 0.25
"""Share of the molecules that no arm trains."""
PPM = 10e-6
LEAST_WIDTH = 0.003
"""Da; a peak's own width where ``PPM`` of its m/z is less."""
COSINE_WIDTH = 0.02
MOST_COMBINATIONS = 200_000


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured spectrum and its molecule."""

    smiles: str
    key: str
    mass: float
    spectrum: Mapping[str, Any]
    """As a row has it, without its SMILES."""

    @property
    def is_positive(self) -> bool:
        return bool(self.spectrum["charge"] > 0)

    @property
    def row(self) -> dict[str, Any]:
        return {"smiles": self.smiles, **self.spectrum}


def _blocks() -> Iterator[tuple[dict[str, str], list[tuple[float, float]]]]:
    with zipfile.ZipFile(wheel("fermo_core", "0.7.1")) as archive:
        lines = archive.read(LIBRARY).decode(errors="replace").splitlines()
    fields: dict[str, str] = {}
    peaks: list[tuple[float, float]] = []
    for line in map(str.strip, lines):
        if line == "BEGIN IONS":
            fields, peaks = {}, []
        elif line == "END IONS":
            yield fields, peaks
        elif "=" in line and line[0].isalpha():
            name, _, value = line.partition("=")
            fields[name] = value
        elif line:
            mz, intensity = line.split()[:2]
            peaks.append((float(mz), float(intensity)))


@lru_cache
def _library() -> tuple[tuple[Measured, ...], Mapping[str, molecules.Molecule]]:
    """Return the measured spectra, and all molecules by their keys."""
    known: dict[str, molecules.Molecule] = {}
    found: dict[tuple[str, bool], dict[str, Measured]] = defaultdict(dict)
    for fields, peaks in _blocks():
        try:
            molecule = molecules.molecule(fields.get("SMILES", ""))
        except SampleError:
            continue
        if molecule.mass > LARGEST:
            continue
        known.setdefault(molecule.key, molecule)
        if "INSILICO" not in fields and (spectrum := _spectrum(fields, peaks)):
            digest = hashlib.sha256(repr(sorted(spectrum.items())).encode()).hexdigest()
            measured = Measured(molecule.smiles, molecule.key, molecule.mass, spectrum)
            found[molecule.key, measured.is_positive][digest] = measured
    kept = [
        group[digest]
        for _, group in sorted(found.items(), key=lambda each: each[0])
        for digest in sorted(group)[:MOST_SPECTRA]
    ]
    return tuple(kept), known


def _spectrum(fields: Mapping[str, str], peaks: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    try:
        adduct = adducts.parse(fields.get("ADDUCT", ""))
    except ValueError:
        return None
    strongest = sorted((peak for peak in peaks if min(peak) > 0), key=lambda peak: -peak[1])[:MOST_PEAKS]
    precursor = float(fields["PEPMASS"].split()[0])
    if not strongest or precursor <= 0:
        return None
    ordered = sorted(strongest)
    return {
        "mzs": [mz for mz, _ in ordered],
        "intensities": [intensity for _, intensity in ordered],
        "precursor_mz": precursor,
        "charge": adduct.charge,
        "adduct": fields["ADDUCT"],
    }


def real() -> tuple[Measured, ...]:
    return _library()[0]


def divide(seed: int) -> tuple[list[Measured], list[Measured]]:
    """Return the spectra to train, and those of molecules that are never trained."""
    keys = sorted({each.key for each in real()})
    random.Random(seed).shuffle(keys)
    apart = set(keys[: round(HELD_OUT * len(keys))])
    return [each for each in real() if each.key not in apart], [each for each in real() if each.key in apart]


def candidates(measured: Measured) -> list[str]:
    """Return the SMILES of a molecule and of the others of nearest mass, in an order that says nothing."""
    others = (each for key, each in _library()[1].items() if key != measured.key)
    nearest = sorted(others, key=lambda each: (abs(each.mass - measured.mass), each.key))[: CANDIDATES - 1]
    return sorted([measured.smiles, *(each.smiles for each in nearest)])


def rank(scores: Sequence[float], right: int) -> float:
    """Return the rank of what is right; among those of the same score it stands in the middle."""
    own = scores[right]
    better = sum(score > own for score in scores)
    alike = sum(score == own for score in scores)
    return better + (alike + 1) / 2


# -- baselines


def by_mass(measured: Measured, smiles: Sequence[str]) -> list[float]:
    """Score by how near the precursor is to what the adduct says."""
    adduct = adducts.parse(measured.spectrum["adduct"])
    mzs = [adduct.mz(molecules.molecule(each).mass) for each in smiles]
    return [-round(abs(mz - measured.spectrum["precursor_mz"]), 6) for mz in mzs]


def by_formulae(measured: Measured, smiles: Sequence[str]) -> list[float]:
    """Score by the share of intensity (square roots) whose m/z some part of the molecule's formula has."""
    mzs = np.array(measured.spectrum["mzs"])
    strength = np.sqrt(measured.spectrum["intensities"])
    sign = measured.spectrum["charge"]
    return [float(strength[_explained(each, mzs, sign > 0)].sum() / strength.sum()) for each in smiles]


@lru_cache(maxsize=4096)
def _formulae(smiles: str) -> tuple[NDArray[np.float64], int]:
    """Return the masses of all parts of a molecule's formula without their hydrogen, and how much of that it has."""
    parsed = molecules.chemistry().MolFromSmiles(smiles)
    counts: dict[str, int] = defaultdict(int)
    hydrogens = 0
    for atom in parsed.GetAtoms():
        counts[atom.GetSymbol()] += 1
        hydrogens += atom.GetTotalNumHs()
    masses = np.zeros(1)
    for symbol, count in counts.items():
        masses = (masses[:, None] + adducts.MASSES.get(symbol, 0.0) * np.arange(count + 1)).ravel()
        if len(masses) > MOST_COMBINATIONS:  # of what is left no part can be told apart anyway
            break
    return np.unique(masses.round(6)), hydrogens


def _explained(smiles: str, mzs: NDArray[np.float64], is_positive: bool) -> NDArray[np.bool_]:
    masses, hydrogens = _formulae(smiles)
    charge = ELECTRON if is_positive else -ELECTRON
    found = np.zeros(len(mzs), dtype=bool)
    for at, mz in enumerate(mzs):
        rest = mz + charge - masses
        count = np.round(rest / HYDROGEN)
        fits = np.abs(rest - count * HYDROGEN) <= max(LEAST_WIDTH, PPM * mz)
        found[at] = bool((fits & (count >= 0) & (count <= hydrogens + 1)).any())
    return found


class Library:
    """Spectra of known molecules, searched by modified cosine (Watrous et al. 2012)."""

    def __init__(self, known: Sequence[Measured]) -> None:
        from rdkit import DataStructs  # noqa: PLC0415 - slow to import
        from rdkit.Chem import rdFingerprintGenerator  # noqa: PLC0415

        self._known = known
        self._similarity = DataStructs.TanimotoSimilarity
        self._generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
        self._prints: dict[str, Any] = {}

    def scores(self, measured: Measured, smiles: Sequence[str]) -> list[float]:
        """Score a candidate by the known molecule whose spectrum is most like: cosine times likeness of the molecules."""
        same = [each for each in self._known if each.is_positive == measured.is_positive]
        likest = sorted(
            ((cosine(measured.spectrum, each.spectrum), each.smiles) for each in same), reverse=True
        )
        return [
            max(
                (
                    value * self._similarity(self._print(each), self._print(known))
                    for value, known in likest[:10]
                ),
                default=0.0,
            )
            for each in smiles
        ]

    def _print(self, smiles: str) -> Any:
        if smiles not in self._prints:
            self._prints[smiles] = self._generator.GetFingerprint(molecules.chemistry().MolFromSmiles(smiles))
        return self._prints[smiles]


def cosine(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Return the modified cosine of two spectra: peaks match where they are, or moved by what the precursors differ by."""
    shift = one["precursor_mz"] - other["precursor_mz"]
    mine, theirs = np.array(one["mzs"]), np.array(other["mzs"])
    weights = [np.sqrt(each["intensities"]) for each in (one, other)]
    weights = [each / np.linalg.norm(each) for each in weights]
    away = mine[:, None] - theirs[None]
    near = (np.abs(away) <= COSINE_WIDTH) | (np.abs(away - shift) <= COSINE_WIDTH)
    products = np.where(near, weights[0][:, None] * weights[1][None], 0.0)
    total = 0.0
    while products.size and (best := products.max()) > 0:  # greedily, each peak once
        row, column = np.unravel_index(products.argmax(), products.shape)
        total += float(best)
        products[row], products[:, column] = 0.0, 0.0
    return total
