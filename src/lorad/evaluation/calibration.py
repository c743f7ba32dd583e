"""Calibration. Whether what is answered with confidence p is right p of the time. Pure numbers.

What lives here: reliability bins, ECE, Brier score, temperature scaling, which examples are asked, the
reference that is kept for a version, and what has drifted from it. What never does: models, tokens, files.

Every task joins with pairs: how sure an answer was, as a probability, and whether it was right.
Sources: Guo et al. 2017 for ECE and temperature scaling; Brier 1950; Platt 1999 for the targets of the fit.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import exp, log, sqrt

from lorad.records import Example, as_json, digest

Pair = tuple[float, bool]
"""The confidence of an answer, and whether it was right."""

BINS = 10
COLDEST, HOTTEST = 0.05, 20.0
"""Beyond these temperatures all answers are certain, or all are as good as a coin's."""
CERTAIN = 1e-6
"""Nearer to 0 or 1 a softmax in float32 says nothing; log-odds stop here."""
TOLERANCE = {"accuracy": 0.02, "confidence": 0.02, "ece": 0.03, "brier": 0.02}
"""How far a figure may move before it has drifted. The same rows are asked again, so no chance is in it, only
other arithmetic: bfloat16 or another device tips over a row in hundreds. One in fifty is what the judge lets a
session lose (``judge.max_lost_share``). ECE sums absolute gaps and moves more, when rows change their bin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """The answers whose confidence is above ``low`` and at most ``high``; ``None`` where there are none."""

    low: float
    high: float
    count: int
    confidence: float | None
    """Mean confidence."""
    accuracy: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationMetrics:
    """How sure and how right a set of answers is."""

    count: int
    accuracy: float
    confidence: float
    """Mean confidence; above ``accuracy`` is overconfident."""
    ece: float
    """Expected calibration error: mean gap of a bin between accuracy and confidence, weighted by its answers."""
    brier: float
    """Mean squared distance of the confidence from 1 (right) or 0 (wrong)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An example that was asked, and what came of it."""

    id: str
    source: str
    """``memory``; ``held out`` for what its drops brought and no session has trained; or the name of another file that was
    never trained."""
    confidence: float
    right: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What was measured of a version, to be compared with what it answers later or elsewhere."""

    version: str
    measured_at: float
    environment: dict[str, str]
    """Device, precision and library versions: what usually differs when figures drift."""
    temperature: float
    fitted_on: int
    """Examples that gave the temperature; none of them is in ``rows``. 0: none was fitted here, the version serves one."""
    rows: tuple[Asked, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationReport(Reference):
    """A reference with the figures that follow from its rows, as it is kept and shown."""

    digest: str
    """Of the examples in ``rows``."""
    figures: CalibrationMetrics
    scaled: CalibrationMetrics
    """The figures at the reference's temperature."""
    sources: dict[str, CalibrationMetrics]
    """The figures of each source alone."""
    bins: tuple[Bin, ...]
    scaled_bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One figure in the reference and now."""

    figure: str
    before: float
    now: float
    allowed: float

    @property
    def has_drifted(self) -> bool:
        """Tell whether it moved further than is allowed, in whichever direction."""
        return abs(self.now - self.before) > self.allowed + 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A version's answers beside those of its reference, on the same examples."""

    moves: tuple[Move, ...]
    compared: int
    missing: int
    """Examples of the reference that were not asked again: forgotten since, or of a file that was not named."""
    broken: int
    """Answers that were right and are wrong."""
    mended: int
    environment: dict[str, tuple[str, str]]
    """What is another one now: then, and now."""

    @property
    def drifted(self) -> tuple[str, ...]:
        """Return the names of the figures that have drifted."""
        return tuple(move.figure for move in self.moves if move.has_drifted)


# -- measuring


def reliability(pairs: Sequence[Pair], count: int = BINS) -> list[Bin]:
    """Sort answers into bins of equal width; a confidence on an edge belongs to the lower bin, 0 to the first."""
    edges = [number / count for number in range(1, count)]
    members: list[list[Pair]] = [[] for _ in range(count)]
    for pair in pairs:
        members[bisect_left(edges, pair[0])].append(pair)
    return [_bin(number, count, held) for number, held in enumerate(members)]


def _bin(number: int, count: int, held: Sequence[Pair]) -> Bin:
    low, high = number / count, (number + 1) / count
    if not held:
        return Bin(low=low, high=high, count=0, confidence=None, accuracy=None)
    confidence, accuracy = _means(held)
    return Bin(low=low, high=high, count=len(held), confidence=confidence, accuracy=accuracy)


def _means(pairs: Sequence[Pair]) -> tuple[float, float]:
    return sum(p for p, _ in pairs) / len(pairs), sum(right for _, right in pairs) / len(pairs)


def measure(pairs: Sequence[Pair]) -> CalibrationMetrics:
    """Return the figures of at least one answer."""
    confidence, accuracy = _means(pairs)
    gaps = [
        part.count * abs(part.accuracy - part.confidence)
        for part in reliability(pairs)
        if part.accuracy is not None and part.confidence is not None
    ]
    return CalibrationMetrics(
        count=len(pairs),
        accuracy=accuracy,
        confidence=confidence,
        ece=sum(gaps) / len(pairs),
        brier=sum((p - right) ** 2 for p, right in pairs) / len(pairs),
    )


# -- temperature scaling


def temper(confidence: float, temperature: float) -> float:
    """Return a confidence at a temperature: its log-odds divided by it.

    This is Guo's ``softmax(z / T)`` for the two outcomes *this answer* and *any other*, so it asks nothing of
    a task but the confidence itself. Dividing every token's logits instead would need the whole vocabulary at
    every token, and mean nothing to a task without tokens. The price: 0.5 stays 0.5 at every temperature. The
    order of the answers, and which answer is given, never change.
    """
    return _sigmoid(_log_odds(confidence) / temperature)


def fit_temperature(pairs: Sequence[Pair]) -> float:
    """Return the temperature at which the answers' negative log likelihood is least; 1 when nothing tells.

    The targets are Platt's, (right + 1) / (right + 2) and 1 / (wrong + 2), and not 1 and 0: a version that
    recalls all of its memory, which is what lorad is for, would otherwise be fitted to be certain of everything.
    """
    right = sum(is_right for _, is_right in pairs)
    targets = {True: (right + 1) / (right + 2), False: 1 / (len(pairs) - right + 2)}
    points = [(_log_odds(p), targets[is_right]) for p, is_right in pairs]
    if not any(odds for odds, _ in points):
        return 1.0
    cold, hot = COLDEST, HOTTEST
    for _ in range(60):  # convex in 1 / T: the slope changes its sign once
        middle = sqrt(cold * hot)
        if sum(odds * (_sigmoid(odds / middle) - target) for odds, target in points) > 0:
            cold = middle  # sharper than the targets
        else:
            hot = middle
    return middle


def _log_odds(confidence: float) -> float:
    kept = min(max(confidence, CERTAIN), 1 - CERTAIN)
    return log(kept / (1 - kept))


def _sigmoid(odds: float) -> float:
    return 1 / (1 + exp(-odds)) if odds >= 0 else exp(odds) / (1 + exp(odds))


# -- choosing whom to ask


def draw(examples: Sequence[Example], most: int) -> list[Example]:
    """Return at most so many examples, the same ones at every call: ids are digests, so their order is chance."""
    return sorted(examples, key=lambda example: example.id)[:most]


def divide(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Split drawn examples into those that fit the temperature and those that measure."""
    return list(examples[::2]), list(examples[1::2])


# -- the reference


def report(reference: Reference) -> CalibrationReport:
    """Return a reference with all that follows from it; ``records.restore`` reads a reference from its JSON."""
    pairs = _pairs(reference.rows)
    scaled = [(temper(p, reference.temperature), right) for p, right in pairs]
    sources = dict.fromkeys(row.source for row in reference.rows)
    return CalibrationReport(
        **{field.name: getattr(reference, field.name) for field in fields(reference)},
        digest=digest(sorted(row.id for row in reference.rows)),
        figures=measure(pairs),
        scaled=measure(scaled),
        sources={
            source: measure(_pairs([row for row in reference.rows if row.source == source]))
            for source in sources
        },
        bins=tuple(reliability(pairs)),
        scaled_bins=tuple(reliability(scaled)),
    )


def compare(reference: Reference, now: Reference) -> Comparison:
    """Compare a version with its reference on what both were asked; one answer may always tip over."""
    before = {row.id: row for row in reference.rows}
    both = [(before[row.id], row) for row in now.rows]
    old, new = (as_json(measure(_pairs(rows))) for rows in zip(*both, strict=True))
    kept = now.environment
    return Comparison(
        moves=tuple(
            Move(figure=name, before=old[name], now=new[name], allowed=max(allowed, 1 / len(both)))
            for name, allowed in TOLERANCE.items()
        ),
        compared=len(both),
        missing=len(before) - len(both),
        broken=sum(then.right and not row.right for then, row in both),
        mended=sum(row.right and not then.right for then, row in both),
        environment={
            key: (value, kept.get(key, ""))
            for key, value in reference.environment.items()
            if kept.get(key) != value
        },
    )


def _pairs(rows: Sequence[Asked]) -> list[Pair]:
    return [(row.confidence, row.right) for row in rows]
