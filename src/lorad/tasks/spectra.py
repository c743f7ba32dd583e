"""The spectra task: a mass spectrum and molecules in; how well each matches, and which peaks speak for it, out.

What lives here: rows with candidates, what is known of a peak and a molecule together, the loss, answers. What never does: the
network (``models.spectrum_matcher``), chemistry (``molecules``), files (``datasets.formats``).

A row is a spectrum and candidates, of which one is its molecule: the others are those of nearest mass in its dataset. It is right
when its molecule is the likeliest. Nobody marks peaks: the evidence of each is learned as what it alone says of a molecule,
its own or another one of near mass.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from lorad.datasets import adducts
from lorad.datasets.containers.file_rows import BadRow
from lorad.datasets.formats import spectra
from lorad.errors import ConfigError, SampleError
from lorad.models import packing, scoring, spectrum_matcher
from lorad.models.scoring import UNKNOWN, Outputs
from lorad.models.spectrum_matcher import PAIR_FEATURES, Peaks
from lorad.records import SPECTRA, Example
from lorad.tasks import molecules
from lorad.tasks.interface import PASS_TOKENS, Predicting
from lorad.tasks.molecules import Fragments, Molecule

MATCH = "match"
"""The one output of the head."""
MOST_PEAKS = 48
"""The strongest peaks of a spectrum are read."""
LONGEST_TOKENS = 448
"""Of a molecule: what peaks leave of the 512 that an example may have."""
CANDIDATES = 8
"""Molecules that a row is trained and graded with, its own included."""
ASKED = 64
"""Candidates of one spectrum that a client may send."""
NEVER = -8192.0
"""The logit of a candidate that is none, where others of the batch have more."""
BESIDE = 0.5
"""Weight in the loss of what each pair, and each peak, says without the other candidates."""
HELD_OUT_EVERY, HELD_OUT_FROM = 5, 50
"""Of so many molecules or more every so many-th is never trained, with all its spectra."""
#: Distances in Da within which a peak is taken for a fragment's: of sharp, of plain and of rough instruments.
NEAR = (0.003, 0.03, 0.3)
ERROR = 5e-6
"""Of a precursor's m/z: the scale of how far it is taken to be off."""
PPM = 10e-6
"""A sharp peak may be so much of its m/z away, if that is more."""
ROUGHLY = 0.5
"""Da: how far a precursor may be from its molecule on a rough instrument."""
PROTONATED, DEPROTONATED = "[M+H]+", "[M-H]-"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumRow:
    """A spectrum's strongest peaks by m/z, and candidates."""

    mzs: tuple[float, ...]
    intensities: tuple[float, ...]
    precursor_mz: float | None = None
    charge: int = 1
    adduct: str | None = None
    candidates: tuple[str, ...]
    """Canonical SMILES."""
    tokens: tuple[tuple[int, ...], ...]
    """Of each candidate."""
    right: int = UNKNOWN
    """Which of them is the spectrum's own."""

    def __len__(self) -> int:
        return len(self.mzs) + max(map(len, self.tokens))

    @property
    def weight(self) -> int:
        """Count its predictions: one row of logits."""
        return 1

    @property
    def sign(self) -> int:
        """Return 1 for cations, -1 for anions."""
        return 1 if self.charge > 0 else -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched(Outputs):
    """What a model says of R spectra with N candidates in all."""

    evidence: Tensor
    """[N, P], on the model's device: of the spectrum as a whole, then of each peak, in nats for a match."""
    weights: Tensor
    """[N, P], on the same: 1, then the share of each peak; their product summed is a candidate's logit."""
    pairs: Tensor
    """[N] int64, on the CPU: which row each candidate belongs to."""
    places: Tensor
    """[N] int64, on the CPU: which of its row's candidates it is."""


class Spectra(Predicting):
    """Which molecule a spectrum is of."""

    name = SPECTRA
    formats = SPECTRA
    head = spectrum_matcher.MATCHER
    row = SpectrumRow
    is_text = False

    # -- the base

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raise ``ConfigError`` where RDKit is missing, or a base does not read SMILES atom by atom."""
        molecules.chemistry()
        found = tokenizer("CCO", add_special_tokens=False)["input_ids"]
        if len(found) != len("CCO") or tokenizer.unk_token_id in found:
            raise ConfigError(
                "the base model does not read SMILES; give the track another one as its base, for example: lorad base add "
                "rxnmapper --task spectra",
                code="no_smiles_base",
            )

    # -- rows

    def check(self, tokenizer: Any, example: Example) -> Example:
        """Return the example; raise ``SampleError`` where its SMILES is no molecule, or one too large."""
        self._row(tokenizer, example.input, [example.target])
        return example

    def encode(self, tokenizer: Any, example: Example) -> SpectrumRow:
        """Return the spectrum with its own molecule alone; ``complete`` adds others."""
        try:
            return replace(self._row(tokenizer, example.input, [example.target]), right=0)
        except SampleError as error:
            raise SampleError(f"row {example.line}: {error.message}", code=error.code, **error.data) from None

    def _row(self, tokenizer: Any, spectrum: Mapping[str, Any], smiles: Sequence[str]) -> SpectrumRow:
        mzs, intensities = _strongest(spectrum["mzs"], spectrum["intensities"])
        known = [_molecule(each, at if len(smiles) > 1 else None) for at, each in enumerate(smiles)]
        candidates = tuple(each.smiles for each in known)
        adduct = spectrum.get("adduct")
        if adduct and not all(adducts.parse(adduct).mz(each.mass) > 0 for each in known):
            raise SampleError(
                f"the adduct {adduct} takes more than the molecule has", code="bad_adduct", field="adduct"
            )
        tokens = tuple(tuple(tokenizer(each)["input_ids"]) for each in candidates)
        for given, own in zip(smiles, tokens, strict=True):
            if len(own) > LONGEST_TOKENS:
                raise SampleError(
                    f"{given[:80]!r} has {len(own)} tokens; at most {LONGEST_TOKENS} are read",
                    code="too_long",
                    field="smiles",
                )
        return SpectrumRow(
            mzs=mzs,
            intensities=intensities,
            precursor_mz=spectrum.get("precursor_mz"),
            charge=spectrum.get("charge") or 1,
            adduct=spectrum.get("adduct"),
            candidates=candidates,
            tokens=tokens,
        )

    def question(self, tokenizer: Any, asked: Any) -> SpectrumRow:
        """Return a spectrum with ``smiles``, or with up to ``ASKED`` ``candidates``; raise ``SampleError`` that names the field."""
        try:
            row = spectra.given(asked, ("smiles", "candidates"))
            spectrum = spectra.spectrum(row)
            smiles = _asked(row)
        except BadRow as problem:
            told = f"{problem.field}: {problem}" if problem.field else str(problem)
            raise SampleError(told, code="bad_spectrum", field=problem.field) from None
        return self._row(tokenizer, spectrum, smiles)

    def complete(self, examples: Sequence[Example], rows: Sequence[SpectrumRow]) -> Sequence[SpectrumRow]:
        """Return the rows with the molecules of nearest mass beside their own.

        Of their own dataset, and of others only where that has too few: so the rows of an older dataset stay as hard as they were.
        """
        pool = _Pool(examples, rows)
        return [pool.completed(example, row) for example, row in zip(examples, rows, strict=True)]

    def labels(self, rows: Sequence[SpectrumRow]) -> Sequence[str]:
        """Return the one output; raise ``SampleError`` where all rows are of one molecule, which has nothing to be told from."""
        if rows and all(len(row.candidates) == 1 for row in rows):
            raise SampleError(
                "all spectra are of one molecule; a match is learned from at least two: drop spectra of others as well",
                code="one_molecule",
                field="smiles",
            )
        return (MATCH,)

    def chance(self, rows: Sequence[SpectrumRow]) -> float:
        """Return the share that is right by chance."""
        return sum(1 / len(row.candidates) for row in rows) / max(1, len(rows))

    def held_out(
        self, examples: Sequence[Example], already: AbstractSet[str] = frozenset()
    ) -> AbstractSet[str]:
        """Return all spectra of every fifth molecule, by its key: never single rows of a molecule that is trained."""
        keys = {example.id: molecules.molecule(example.target).key for example in examples}
        if len(set(keys.values())) < HELD_OUT_FROM:
            kept = already & keys.keys()
            return kept if len(kept) < len(keys) else frozenset()
        return {each for each, key in keys.items() if _place(key) % HELD_OUT_EVERY == 0}

    # -- learning and grading

    def forward(self, model: Any, rows: Sequence[SpectrumRow], guests: Sequence[SpectrumRow] = ()) -> Matched:
        """Return the logits of each spectrum's candidates, ``NEVER`` behind those of one that has fewer."""
        del guests
        peaks = _peaks(rows)
        pairs = torch.from_numpy(
            np.concatenate([_pairs(row, peaks.mzs.shape[1]) for row in rows]).astype(np.float32)
        )
        evidence = model(peaks, pairs, [row.tokens for row in rows])
        counts = torch.tensor([len(row.candidates) for row in rows])
        owners = torch.repeat_interleave(torch.arange(len(rows)), counts)
        places = torch.cat([torch.arange(int(count)) for count in counts])
        weights = _weights(peaks)[owners].to(evidence.device)
        logits = torch.full(
            (len(rows), int(counts.max())), NEVER, dtype=evidence.dtype, device=evidence.device
        )
        logits = logits.index_put(
            (owners.to(logits.device), places.to(logits.device)), (evidence * weights).sum(-1)
        )
        return Matched(
            logits=logits,
            targets=torch.tensor([row.right for row in rows]),
            owners=torch.arange(len(rows)),
            rows=len(rows),
            evidence=evidence,
            weights=weights,
            pairs=owners,
            places=places,
        )

    def loss(self, outputs: Outputs) -> Tensor:
        """Return the cross entropy over candidates, and beside it the binary one of each pair and of each peak, summed.

        Right and wrong candidates weigh alike there, so that 0 says: as likely its own as another one of near mass.
        """
        said = cast("Matched", outputs)
        device = said.evidence.device
        is_right = said.places == said.targets[said.pairs]
        others = torch.bincount(said.pairs[~is_right], minlength=said.rows)[said.pairs].clamp(min=1)
        share = torch.where(is_right, 0.5, 0.5 / others).to(device)
        wanted = is_right.float().to(device)
        whole = (said.evidence * said.weights).sum(-1)
        alone = functional.binary_cross_entropy_with_logits(whole, wanted, reduction="none")
        of_peaks = functional.binary_cross_entropy_with_logits(
            said.evidence[:, 1:], wanted[:, None].expand_as(said.evidence[:, 1:]), reduction="none"
        )
        beside = alone + (of_peaks * said.weights[:, 1:]).sum(-1)
        return scoring.loss_sum(said.logits, said.targets) + BESIDE * (share * beside).sum()

    def temperature(self, model: Any, rows: Sequence[SpectrumRow]) -> float:
        """Return the temperature with the least cross entropy on these rows (Guo et al. 2017), and the prior ``scoring.SPREAD``."""
        said = [
            self.forward(model, [rows[number] for number in numbers])
            for numbers in packing.divide(rows, PASS_TOKENS)
        ]
        return scoring.fit_temperature(
            lambda t: sum(float(scoring.loss_sum(each.logits / t, each.targets)) for each in said),
            spread=scoring.SPREAD,
        )

    def metrics(self, model: Any, rows: Sequence[SpectrumRow]) -> Mapping[str, float]:
        """Return the mean reciprocal rank of the right candidate, and how often it is first."""
        ranks = self._ranks(model, rows)
        if not ranks:
            return {}
        return {
            "mrr": sum(1 / rank for rank in ranks) / len(ranks),
            "top1": sum(rank == 1 for rank in ranks) / len(ranks),
        }

    def held_out_metrics(self, model: Any, rows: Sequence[SpectrumRow]) -> Mapping[str, float]:
        """Return the same of molecules that were never trained."""
        return {f"held_out_{name}": value for name, value in self.metrics(model, rows).items()}

    def _ranks(self, model: Any, rows: Sequence[SpectrumRow]) -> list[int]:
        ranks: list[int] = []
        for numbers in packing.divide(rows, PASS_TOKENS):
            said = self.forward(model, [rows[number] for number in numbers])
            own = said.logits.float().cpu()
            best = own.gather(1, said.targets[:, None])
            ranks += ((own >= best).sum(1)).tolist()  # of candidates that are alike it comes last
        return ranks

    # -- serving

    @torch.inference_mode()
    def predict(self, model: Any, rows: Sequence[SpectrumRow]) -> list[Any]:
        """Return of each spectrum its candidates, the likeliest first, each with what its peaks say."""
        found: list[dict[str, Any]] = [{} for _ in rows]
        for numbers in packing.divide(rows, PASS_TOKENS):
            group = [rows[number] for number in numbers]
            said = self.forward(model, group)
            shares = said.logits.float().softmax(-1).cpu()
            evidence = said.evidence.float().cpu()
            matches: dict[int, list[dict[str, Any]]] = defaultdict(list)
            for pair, (row, place) in enumerate(zip(said.pairs.tolist(), said.places.tolist(), strict=True)):
                logit = float(said.logits[row, place])
                told = _answer(group[row], place, evidence[pair].tolist())
                matches[row].append({**told, "match": _sigmoid(logit), "share": float(shares[row, place])})
            for row, number in enumerate(numbers):
                found[number] = {"matches": sorted(matches[row], key=lambda each: -each["match"])}
        return found


class _Pool:
    """The molecules of a session, by dataset and mass."""

    def __init__(self, examples: Sequence[Example], rows: Sequence[SpectrumRow]) -> None:
        self._tokens: dict[str, tuple[int, ...]] = {}
        self._own: dict[str, dict[str, Molecule]] = defaultdict(dict)
        for example, row in zip(examples, rows, strict=True):
            found = molecules.molecule(row.candidates[0])
            self._tokens[found.smiles] = row.tokens[0]
            self._own[example.dataset].setdefault(found.key, found)
        self._all = {key: each for own in self._own.values() for key, each in own.items()}

    def completed(self, example: Example, row: SpectrumRow) -> SpectrumRow:
        """Return a row with its candidates: its own in a place that only its digest decides, so that a tie is no answer."""
        own = molecules.molecule(row.candidates[0])
        chosen = self._nearest(own, self._own[example.dataset], CANDIDATES - 1)
        if len(chosen) < CANDIDATES - 1:
            known = {own.key, *(each.key for each in chosen)}
            others = {key: each for key, each in self._all.items() if key not in known}
            chosen += self._nearest(own, others, CANDIDATES - 1 - len(chosen))
        right = _place(example.id) % (len(chosen) + 1)
        candidates = [each.smiles for each in chosen]
        candidates.insert(right, own.smiles)
        tokens = tuple(self._tokens[each] for each in candidates)
        return replace(row, candidates=tuple(candidates), tokens=tokens, right=right)

    @staticmethod
    def _nearest(own: Molecule, among: Mapping[str, Molecule], count: int) -> list[Molecule]:
        others = (each for key, each in among.items() if key != own.key)
        return sorted(others, key=lambda each: (abs(each.mass - own.mass), each.key))[:count]


def _place(text: str) -> int:
    """Return a number that a text decides, spread evenly."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def _asked(row: Mapping[str, Any]) -> list[str]:
    """Return the SMILES of a question; raise ``BadRow``."""
    given = row.get("candidates")
    if (given is None) == (row.get("smiles") is None):
        raise BadRow("smiles", "or candidates is needed, one of both")
    if given is None:
        return [spectra.smiles(row, "smiles")]
    if not isinstance(given, list) or not 0 < len(given) <= ASKED:
        raise BadRow("candidates", f"must be a list of 1 to {ASKED} SMILES")
    named = {f"candidates[{at}]": each for at, each in enumerate(given)}
    return [spectra.smiles(named, key) for key in named]


def _strongest(
    mzs: Sequence[float], intensities: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the strongest peaks, by m/z, relative to the strongest."""
    most = max(intensities)
    order = sorted(range(len(mzs)), key=lambda at: (-intensities[at], at))[:MOST_PEAKS]
    kept = sorted(order)
    return tuple(float(mzs[at]) for at in kept), tuple(float(intensities[at]) / most for at in kept)


# -- tensors


def _peaks(rows: Sequence[SpectrumRow]) -> Peaks:
    """Return spectra side by side, the precursor first."""
    mzs = [torch.tensor([row.precursor_mz or 0.0, *row.mzs], dtype=torch.float64) for row in rows]
    losses = [torch.tensor([0.0, *(_loss(row, mz) for mz in row.mzs)], dtype=torch.float64) for row in rows]
    intensities = [torch.tensor([0.0, *row.intensities], dtype=torch.float64).sqrt() for row in rows]
    seen = [torch.ones(len(row.mzs) + 1, dtype=torch.bool) for row in rows]
    return Peaks(
        mzs=pad_sequence(mzs, batch_first=True),
        losses=pad_sequence(losses, batch_first=True),
        intensities=pad_sequence(intensities, batch_first=True),
        seen=pad_sequence(seen, batch_first=True),
    )


def _loss(row: SpectrumRow, mz: float) -> float:
    return row.precursor_mz - mz if row.precursor_mz else 0.0


def _weights(peaks: Peaks) -> Tensor:
    """Return 1 for the spectrum as a whole, and the shares of its peaks, which sum to 1: [R, P] float32."""
    shares = peaks.intensities / peaks.intensities.sum(-1, keepdim=True)
    shares[:, 0] = 1.0
    return shares.float()


def _molecule(smiles: str, at: int | None) -> molecules.Molecule:
    """Return a molecule; raise ``SampleError`` that names which one of several candidates is none."""
    try:
        return molecules.molecule(smiles)
    except SampleError as error:
        if at is None:
            raise
        told = {**error.data, "field": f"candidates[{at}]"}
        raise SampleError(error.message, code=error.code, **told) from None


def _pairs(row: SpectrumRow, width: int) -> NDArray[np.float64]:
    """Return what is known of each peak and each candidate [candidates, width, PAIR_FEATURES].

    Of a peak how near it is to a fragment, of one broken bond and of two, at three widths, 0 to 1; of the precursor how near it is
    to the molecule, 0 to 1 at two widths, and over all distances as a tenth of the logarithm of a Cauchy distribution: that
    still tells which of two molecules is nearer where the instrument was far off.
    """
    found = np.zeros((len(row.candidates), width, PAIR_FEATURES))
    for at, smiles in enumerate(row.candidates):
        ions = molecules.fragments(smiles, row.sign)
        distances = np.stack([_distances(row, ions, broken)[0] for broken in (1, 2)])
        near = np.maximum(np.array(NEAR)[:, None], np.array([[PPM], [0.0], [0.0]]) * np.array(row.mzs))
        found[at, 1 : len(row.mzs) + 1, :6] = (
            np.exp(-((distances[:, None] / near[None]) ** 2)).reshape(6, -1).T
        )
        if row.precursor_mz:
            away = abs(row.precursor_mz - _adduct(row).mz(molecules.molecule(smiles).mass))
            found[at, 0, 6:] = (
                np.exp(-((away / (PPM * row.precursor_mz)) ** 2)),
                np.exp(-((away / ROUGHLY) ** 2)),
                -np.log1p((away / (ERROR * row.precursor_mz)) ** 2) / 10,
            )
    return found


def _adduct(row: SpectrumRow) -> adducts.Adduct:
    return adducts.parse(row.adduct or (PROTONATED if row.sign > 0 else DEPROTONATED))


def _distances(
    row: SpectrumRow, ions: Fragments, broken: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return how far each peak is from the nearest ion of at most so many broken bonds, and which that is.

    A fragment may carry what the adduct brought in place of a proton.
    """
    known = np.flatnonzero(ions.broken <= broken)
    mzs = ions.mzs[known]
    carried = [0.0]
    if row.adduct:
        plain = adducts.parse(PROTONATED if row.sign > 0 else DEPROTONATED)
        extra = _adduct(row).shift - plain.shift
        carried += [extra] if extra > ROUGHLY and abs(row.charge) == 1 else []
    best, which = np.full(len(row.mzs), np.inf), np.zeros(len(row.mzs), dtype=np.int64)
    if not len(known):  # a molecule without hydrogen has none to lose
        return best, which
    for extra in carried:
        peaks = np.array(row.mzs) - extra
        behind = np.searchsorted(mzs, peaks).clip(1, max(1, len(mzs) - 1))
        for beside in (behind - 1, behind.clip(max=len(mzs) - 1)):
            away = np.abs(mzs[beside] - peaks)
            nearer = away < best
            best, which = np.where(nearer, away, best), np.where(nearer, known[beside], which)
    return best, which


# -- answers


def _answer(row: SpectrumRow, place: int, evidence: Sequence[float]) -> dict[str, Any]:
    """Return a candidate with what each peak says of it; evidence in nats, and above 0 it speaks for the molecule."""
    ions = molecules.fragments(row.candidates[place], row.sign)
    away, which = _distances(row, ions, 2)
    total = sum(row.intensities)
    peaks = [
        {
            "mz": mz,
            "intensity": round(intensity, 6),
            "evidence": round(own, 4),
            "explained": own > 0,
            "fragment": ions.formulas[at] if far <= max(NEAR[0], PPM * mz) else None,
        }
        for mz, intensity, own, far, at in zip(
            row.mzs, row.intensities, evidence[1:], away.tolist(), which.tolist(), strict=False
        )
    ]
    both = zip(row.intensities, evidence[1:], strict=False)  # evidence goes on for padding
    explained = sum(intensity for intensity, own in both if own > 0)
    return {
        "smiles": row.candidates[place],
        "evidence": round(evidence[0], 4),
        "explained_intensity": round(min(1.0, explained / total), 6),
        "peaks": peaks,
    }


def _sigmoid(logit: float) -> float:
    return float(torch.sigmoid(torch.tensor(logit, dtype=torch.float64)))
