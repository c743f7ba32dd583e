"""Spectra: ``spectrum`` and ``spectrum rank``: which molecule a spectrum is of, and which peaks say so."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lorad.apps.cli.context import connect, show
from lorad.apps.cli.options import Json, refuse_options_in_front
from lorad.apps.screens import tables, terminal
from lorad.config import InboxSettings
from lorad.datasets.containers import text_file
from lorad.datasets.containers.file_rows import BadRow
from lorad.datasets.formats import spectra, spectrum_files
from lorad.errors import ConfigError, SampleError
from lorad.serving.answers import MatchedSpectra, MatchedSpectrum
from lorad.serving.client import Client
from lorad.storage.source import opened

AT_ONCE = 64
"""Candidates of one spectrum in a request; the daemon takes no more."""
LISTS = ("--mzs", "--intensities")
"""Options behind which any number of values may stand."""


class _Lists(terminal.Commands):
    """Commands whose lists of numbers may be written with blanks: ``--mzs 100 200 300``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give each number the option before it, as typer expects them."""
        return super().parse_args(ctx, list(_spread(args)))


def _spread(args: Sequence[str]) -> Iterator[str]:
    name, is_first = "", False
    for word in args:
        if name and not _is_option(word):
            yield from (word,) if is_first else (name, word)
            is_first = False
        else:
            name, is_first = (word, True) if word in LISTS else ("", False)
            yield word


def _is_option(word: str) -> bool:
    """Tell whether a word is an option, and no negative number."""
    return word.startswith("-") and not word[1:2].isdigit() and word[1:2] != "."


app = typer.Typer()
group = typer.Typer(cls=_Lists, invoke_without_command=True)
app.add_typer(group, name="spectrum")

Smiles = Annotated[str | None, typer.Option("--smiles", metavar="SMILES", help="The molecule.")]
Numbers = Annotated[list[float] | None, typer.Option("--mzs", metavar="MZ...", help="The peaks' m/z.")]
Intensities = Annotated[
    list[float] | None, typer.Option("--intensities", metavar="I...", help="Their intensities.")
]
PrecursorMz = Annotated[float | None, typer.Option("--precursor-mz", metavar="MZ", help="The precursor's.")]
AdductOption = Annotated[
    str | None, typer.Option("--adduct", metavar="ADDUCT", help="Such as [M+H]+ or [M-H]-.")
]
TrackName = Annotated[str, typer.Option("--track", metavar="NAME", help="A track of spectra.")]
VersionName = Annotated[
    str | None, typer.Option("--version", metavar="V", help="A version or a tag; default: the latest.")
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw the spectrum as FILE.svg or FILE.png.")
]


@group.callback()
def _spectrum(
    ctx: typer.Context,
    *,
    smiles: Smiles = None,
    mzs: Numbers = None,
    intensities: Intensities = None,
    precursor_mz: PrecursorMz = None,
    adduct: AdductOption = None,
    track: TrackName = "spectra",
    version: VersionName = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Say how well a molecule matches a spectrum, and which peaks speak for it."""
    if ctx.invoked_subcommand is not None:
        refuse_options_in_front(ctx)
        return
    if not smiles or not mzs or not intensities:
        raise ConfigError(
            "a molecule and its peaks are needed; use: lorad spectrum --smiles SMILES --mzs 51.02 78.05 --intensities 0.3 1.0",
            code="no_spectrum",
        )
    asked: dict[str, Any] = {"smiles": smiles, "mzs": mzs, "intensities": intensities}
    beside = {"precursor_mz": precursor_mz, "adduct": adduct}
    asked |= {name: value for name, value in beside.items() if value is not None}
    answer = connect(ctx).match_spectra([asked], _model(track, version))
    if plot:
        tables.plot_spectrum(answer.spectra[0].matches[0], plot)
    show(answer, as_json, tables.matched_spectrum)


@group.command("rank")
def rank(
    ctx: typer.Context,
    *,
    mgf: Annotated[Path, typer.Option("--mgf", metavar="FILE", help="Spectra: MGF, or MSP.")],
    candidates: Annotated[Path, typer.Option("--candidates", metavar="FILE", help="SMILES, one a line.")],
    track: TrackName = "spectra",
    version: VersionName = None,
    as_json: Json = False,
) -> None:
    """Rank candidate molecules for each spectrum of a file, the likeliest first."""
    asked, smiles = list(_spectra(mgf)), _smiles(candidates)
    client, model = connect(ctx), _model(track, version)
    answers = [_ranked(client, model, each, smiles) for each in asked]
    found = replace(
        answers[0], spectra=tuple(MatchedSpectrum(matches=each.spectra[0].matches) for each in answers)
    )
    show(found, as_json, tables.ranked_spectra)


def _ranked(client: Client, model: str, spectrum: Mapping[str, Any], smiles: Sequence[str]) -> MatchedSpectra:
    """Return all candidates of one spectrum, in requests that the daemon takes; what they share is told anew."""
    parts = [smiles[begin : begin + AT_ONCE] for begin in range(0, len(smiles), AT_ONCE)]
    answers = [client.match_spectra([{**spectrum, "candidates": list(part)}], model) for part in parts]
    if len({each.model for each in answers}) > 1:
        raise ConfigError(
            "a new version was served while candidates were ranked; rank them again", code="version_changed"
        )
    matches = [each for answer in answers for each in answer.spectra[0].matches]
    odds = [each.match / max(1e-12, 1 - each.match) for each in matches]
    shared = [
        replace(each, share=odd / max(1e-12, sum(odds))) for each, odd in zip(matches, odds, strict=True)
    ]
    shared.sort(key=lambda each: -each.match)
    return replace(answers[0], spectra=(MatchedSpectrum(matches=tuple(shared)),))


def _model(track: str, version: str | None) -> str:
    return f"{track}@{version}" if version else track


def _spectra(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the spectra of a file; raise ``SampleError`` that names the line of one that cannot be used."""
    limits = InboxSettings()
    try:
        with opened(path, follow=True) as source, text_file.opened(source, limits) as text:
            found = list(spectrum_files.spectra(text, limits))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}", code="no_file") from None
    for line, row in found:
        try:
            yield _checked(row)
        except BadRow as problem:
            told = f"{path.name}: the spectrum on line {line}, field {problem.field!r}: {problem}"
            raise SampleError(told, code="bad_spectrum", row=line, field=problem.field) from None


def _checked(row: Mapping[str, Any] | BadRow) -> Mapping[str, Any]:
    """Return a spectrum without its molecule; raise ``BadRow``."""
    if isinstance(row, BadRow):
        raise row
    return spectra.spectrum(row)


def _smiles(path: Path) -> list[str]:
    """Return the first word of each line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", code="no_file") from None
    found = list(dict.fromkeys(words[0] for line in lines if (words := line.split())))
    if not found:
        raise ConfigError(f"{path} holds no SMILES; write one a line", code="no_candidates")
    return found
