"""Spectra of molecules. A row in, the spectrum and its molecule's SMILES out.

What lives here: the fields of a row and what they may be; numbers as lists, or as the text of a table's cell. What never
does: whether a SMILES is a molecule (``tasks.molecules``: that needs RDKit), files of spectra (``spectrum_files``).

A spectrum is kept as it was given: ``{"mzs": […], "intensities": […]}``, and as far as they are told ``precursor_mz``, ``charge``
(signed) and ``adduct``.
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from lorad.datasets import adducts
from lorad.datasets.containers.file_rows import BadRow, shown
from lorad.datasets.formats import row_values
from lorad.datasets.formats.row_values import Row, unpacked
from lorad.records import SPECTRA, Example

PEAKS = ("mzs", "intensities")
MODES = ("ion_mode", "ionmode")
_SIGNS = {1: {"p", "pos", "positive", "+"}, -1: {"n", "neg", "negative", "-"}}
BESIDE = ("precursor_mz", "charge", "adduct")
#: What libraries tell beside a spectrum, and nothing is learned from.
REMARKS = frozenset(
    {
        *(
            "name",
            "title",
            "compound_name",
            "inchi",
            "inchikey",
            "formula",
            *MODES,
            "instrument",
        ),
        *("instrument_type", "collision_energy", "ms_level", "spectrum_id", "scans"),
    }
)
LEAST_MZ, MOST_MZ = 0.5, 10_000.0
"""A proton has 1, and small molecules have less; another one is most often a mistake in units."""
_CHARGE = re.compile(r"[+-]?(\d{1,9})|(\d{0,9})[+-]")
LONGEST_SMILES = 2000
"""Characters: more than any molecule that the encoder reads, and little enough for any parser."""


def read(row: Row) -> Example:
    """Return a row's spectrum and SMILES; raise ``BadRow`` that names the field."""
    row_values.refuse_unknown(
        row, {"smiles", *PEAKS, *BESIDE}, ignored=row_values.IGNORED | REMARKS, reasons={}
    )
    return Example(task=SPECTRA, input=spectrum(row), target=smiles(row, "smiles"))


def smiles(row: Row, key: str) -> str:
    """Return a field's SMILES, not yet parsed; raise ``BadRow``."""
    found = row_values.text(row, key).strip()
    if len(found) > LONGEST_SMILES:
        raise BadRow(key, f"has {len(found)} characters; at most {LONGEST_SMILES} are read")
    if len(found.split()) > 1:
        raise BadRow(key, f"is {shown(found, 40)!r}; write one SMILES, without a name behind it")
    return found


def spectrum(row: Row) -> dict[str, Any]:
    """Return a row's spectrum without its molecule; raise ``BadRow`` for what no mass spectrometer gives."""
    mzs, intensities = (_numbers(row, key) for key in PEAKS)
    if len(mzs) != len(intensities):
        raise BadRow("intensities", f"has {len(intensities)} numbers, and there are {len(mzs)} in mzs")
    if not mzs:
        raise BadRow("mzs", "is empty: a spectrum needs at least one peak")
    for at, mz in enumerate(mzs):
        _check_mz(mz, f"mzs[{at}]")
    for at, (one, other) in enumerate(pairwise(mzs), start=1):
        if other < one:
            raise BadRow(f"mzs[{at}]", f"is {other:g} behind {one:g}; sort the peaks by m/z")
    for at, intensity in enumerate(intensities):
        if not intensity > 0:
            raise BadRow(
                f"intensities[{at}]", f"is {intensity:g}; an intensity is above 0, so leave the peak out"
            )
    return {"mzs": mzs, "intensities": intensities, **_beside(row)}


def _check_mz(mz: float, where: str) -> None:
    if not LEAST_MZ <= mz <= MOST_MZ:
        raise BadRow(where, f"is {mz:g}; an m/z lies between {LEAST_MZ:g} and {MOST_MZ:g}")


def _beside(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not row_values.is_empty(row.get("precursor_mz")):
        mz = _number(row["precursor_mz"], "precursor_mz")
        _check_mz(mz, "precursor_mz")
        found["precursor_mz"] = mz
    if not row_values.is_empty(row.get("charge")):
        found["charge"] = _charge(row["charge"])
    if not row_values.is_empty(row.get("adduct")):
        found["adduct"] = row_values.text(row, "adduct").strip()
        try:
            charge = adducts.parse(found["adduct"]).charge
        except ValueError as error:
            raise BadRow("adduct", str(error)) from None
        told = found.get("charge", charge)  # many files write it without its sign
        if abs(told) != abs(charge) or told < 0 < charge:
            raise BadRow("charge", f"is {found['charge']}, and the adduct {found['adduct']} says {charge}")
        found["charge"] = charge
    mode = _mode(row)
    if mode < 0 and "charge" not in found:
        found["charge"] = mode
    if mode * found.get("charge", mode) < 0:
        raise BadRow("charge", f"is {found['charge']}, and the ion mode says the other sign")
    return found


def _mode(row: Row) -> int:
    """Return the sign of the ions as a row tells it beside the charge; 0 where it does not."""
    told = next((str(row[key]).strip().lower() for key in MODES if not row_values.is_empty(row.get(key))), "")
    return next((sign for sign, words in _SIGNS.items() if told in words), 0)


def _charge(value: Any) -> int:
    """Return a signed charge, which files also write as ``1+`` or ``2-``."""
    text = row_values.as_text(value, "charge").strip()
    found = _CHARGE.fullmatch(text)
    if not found:
        raise BadRow("charge", f"is {shown(text)!r}; write a whole number, such as 1 or -1")
    charge = int(found[1] or found[2] or 1) * (-1 if "-" in text else 1)
    if not 1 <= abs(charge) <= adducts.MOST_CHARGE:
        raise BadRow("charge", f"is {charge}; 1 to {adducts.MOST_CHARGE} are known, negative ones for anions")
    return charge


def _numbers(row: Row, key: str) -> list[float]:
    """Return a field's list of numbers; a table holds it as its JSON, or with blanks or semicolons between them."""
    value = unpacked(row, key)
    if isinstance(value, str):
        value = value.replace(";", " ").split()
    if not isinstance(value, Sequence):
        raise BadRow(key, "must be a list of numbers, in a table its JSON")
    return [_number(each, f"{key}[{at}]") for at, each in enumerate(value)]


def _number(value: Any, where: str) -> float:
    found = math.nan
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            found = float(value)
        except (ValueError, OverflowError):
            found = math.nan
    if not math.isfinite(found):
        raise BadRow(where, f"is {shown(str(value), 40)!r}, which is no number")
    return found


def given(row: Any, fields: Sequence[str]) -> Row:
    """Return what a client sends as a row of these fields and a spectrum's; raise ``BadRow`` for anything else."""
    if not isinstance(row, Mapping):
        raise BadRow("", f"must be an object with {', '.join((*fields, *PEAKS))}")
    row_values.refuse_unknown(row, {*fields, *PEAKS, *BESIDE}, ignored=frozenset(), reasons={})
    if missing := next((key for key in PEAKS if row.get(key) is None), None):
        raise BadRow(missing, "is missing")
    return row
