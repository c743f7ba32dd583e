"""Files of spectra: MGF (Matrix Science's ``BEGIN IONS``) and MSP (NIST's ``Num Peaks``). A file in, rows out.

What lives here: where a spectrum begins and ends, and which of its lines are fields of a row. What never does: what a field may
be (``spectra``). Read line by line, so that a problem names its line and no file fills the memory.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lorad.config import InboxSettings
from lorad.datasets.containers.file_rows import BadRow, cut_off, shown, too_long
from lorad.datasets.containers.text_file import CHUNK, LineTooLong, TextFile
from lorad.errors import SampleError

BEGIN, END = "BEGIN IONS", "END IONS"
_LOOKED_AT = 200
"""Lines in which a file must show what it is."""

#: Fields of a row by what files call them.
_NAMES = {
    "smiles": "smiles",
    "pepmass": "precursor_mz",
    "precursormz": "precursor_mz",
    "precursor_mz": "precursor_mz",
    "charge": "charge",
    "adduct": "adduct",
    "precursortype": "adduct",
    "precursor_type": "adduct",
    "ionmode": "ion_mode",
    "ion_mode": "ion_mode",
}
_UNTOLD = {"", "n/a", "na", "none", "0", "0+", "0.0"}
"""What libraries write where they do not know."""
_KEY = re.compile(r"[A-Za-z][\w /-]*")
_LONGEST_KEY = 100
"""Characters of a field's name."""
_PEAK = re.compile(r"\(?([^\s,;()]+)[\s,]+([^\s,;()]+)\)?")


@dataclass(slots=True)
class _Spectrum:
    """A spectrum while its lines are read."""

    line: int
    fields: dict[str, Any] = field(default_factory=dict)
    mzs: list[str] = field(default_factory=list)
    intensities: list[str] = field(default_factory=list)
    size: int = 0
    problem: BadRow | None = None

    def tell(self, key: str, value: str) -> None:
        """Keep what a line says, if it is a field of a row."""
        name = _NAMES.get(key.strip().lower())
        if not name or value.strip().lower() in _UNTOLD:
            return
        told = value.split(maxsplit=1)[0] if name == "precursor_mz" else value.strip()
        if self.fields.setdefault(name, told) != told and not self.problem:
            self.problem = BadRow(
                name, f"is told twice, {shown(self.fields[name], 40)!r} and {shown(told, 40)!r}"
            )

    def add_peak(self, mz: str, intensity: str) -> None:
        self.mzs.append(mz)
        self.intensities.append(intensity)

    def row(self) -> Mapping[str, Any] | BadRow:
        """Return it as a row."""
        return self.problem or {**self.fields, "mzs": self.mzs, "intensities": self.intensities}


def spectra(text: TextFile, limits: InboxSettings) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
    """Yield spectra with the line on which each begins; raise ``SampleError`` for a file that holds none."""
    lines = text.head.decode(errors="replace").splitlines()[:_LOOKED_AT]
    if any(line.strip() == BEGIN for line in lines):
        yield from _mgf(text, limits)
    elif any(re.match(r"num ?peaks\s*:", line.strip(), re.IGNORECASE) for line in lines):
        yield from _msp(text, limits)
    else:
        raise SampleError(
            f"{text.source.name} is plain text without spectra; drop MGF (BEGIN IONS), MSP (Num Peaks:), or rows of JSON or CSV "
            "with smiles, mzs and intensities",
            code="plain_text",
        )


def _lines(text: TextFile, limits: InboxSettings) -> Iterator[str | BadRow]:
    while True:
        try:
            line = text.line(min(CHUNK, limits.max_row_bytes))
        except LineTooLong:
            yield too_long(limits)
            continue
        if line is None:
            return
        yield line.strip()


def _mgf(text: TextFile, limits: InboxSettings) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
    open_one: _Spectrum | None = None
    before = _Spectrum(0)
    """What stands before the first spectrum holds for all that do not say otherwise: the charge."""
    for line in _lines(text, limits):
        if line == BEGIN:
            if open_one is not None:
                yield open_one.line, BadRow("", f"has no {END} before the next {BEGIN}")
            open_one = _Spectrum(text.number)
        elif open_one is not None and line == END:
            yield open_one.line, _with_charge(open_one.row(), before)
            open_one = None
        elif open_one is not None:
            _take(open_one, line, text.number, limits, "=")
        elif isinstance(line, str) and (told := _told(line, "=")):
            before.tell(*told)
    if open_one is not None:
        raise cut_off(text, open_one.line)


def _with_charge(row: Mapping[str, Any] | BadRow, before: _Spectrum) -> Mapping[str, Any] | BadRow:
    """Return a spectrum with its file's charge, where neither it nor an adduct of its own tells one."""
    charge = before.fields.get("charge")
    if charge is None or isinstance(row, BadRow) or row.keys() & {"charge", "adduct"}:
        return row
    return {**row, "charge": charge}


def _msp(text: TextFile, limits: InboxSettings) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
    open_one: _Spectrum | None = None
    left: int | None = None
    """Peaks that are still to come; ``None`` before they are counted."""
    for line in _lines(text, limits):
        if line == "" or (isinstance(line, str) and line.lower().startswith("name:") and left is not None):
            if open_one is not None and left is not None:
                yield open_one.line, _counted(open_one, left)
                open_one = left = None
            if line == "":
                continue
        open_one = open_one or _Spectrum(text.number)
        counted = (
            re.fullmatch(r"num ?peaks\s*:\s*(\d+)", line, re.IGNORECASE) if isinstance(line, str) else None
        )
        if counted:
            left = int(counted[1][:9])
            continue
        before = len(open_one.mzs)
        has_begun = left is not None  # a comment before them may have lines of its own
        _take(open_one, line, text.number, limits, ":", may_tell=not has_begun, may_be_peaks=has_begun)
        left = None if left is None else left - (len(open_one.mzs) - before)
    if open_one is not None:
        if left is None:
            raise cut_off(text, open_one.line)
        yield open_one.line, _counted(open_one, left)


def _counted(spectrum: _Spectrum, left: int) -> Mapping[str, Any] | BadRow:
    if left and not spectrum.problem:
        return BadRow("mzs", f"has {len(spectrum.mzs)} peaks, and Num Peaks says {len(spectrum.mzs) + left}")
    return spectrum.row()


def _take(
    spectrum: _Spectrum,
    line: str | BadRow,
    number: int,
    limits: InboxSettings,
    sign: str,
    *,
    may_tell: bool = True,
    may_be_peaks: bool = True,
) -> None:
    """Take a line of a spectrum, which may be a field, with ``sign`` between name and value, or peaks."""
    if spectrum.problem:
        return
    if isinstance(line, BadRow):
        spectrum.problem = line
        return
    spectrum.size += len(line)
    if spectrum.size > limits.max_row_bytes:
        spectrum.problem = too_long(limits)
        spectrum.mzs, spectrum.intensities = [], []  # what follows of it is passed, not kept
        return
    told = _told(line, sign) if may_tell else None
    if told:
        spectrum.tell(*told)
    elif may_be_peaks and line and not line.startswith(("#", ";", "!", "/")):
        _take_peaks(spectrum, line, number)


def _told(line: str, sign: str) -> tuple[str, str] | None:
    """Return the name and the value of a field, with ``sign`` between them; ``None`` for another line."""
    key, found, value = line.partition(sign)
    key = key.rstrip()
    is_key = bool(found) and len(key) <= _LONGEST_KEY and _KEY.fullmatch(key) is not None
    return (key, value.strip()) if is_key else None


def _take_peaks(spectrum: _Spectrum, line: str, number: int) -> None:
    for piece in filter(None, map(str.strip, line.split(";"))):
        found = _PEAK.match(piece)
        if not found:
            spectrum.problem = BadRow("mzs", f"line {number} is no peak: {shown(piece, 40)!r}")
            return
        spectrum.add_peak(found[1], found[2])
