"""How long a session still takes, by how long its parts took in the session before it. Pure: the time is handed in.

What lives here: the parts of a session, the seconds that each took, an estimate of the rest. What never does: clocks, files.
"""

from collections.abc import Mapping
from typing import Any

PARTS = ("loading", "testing", "training", "judging", "saving")
"""In their order. A repair goes back to training, and is judged again."""
PART_OF = {
    "loading": "loading",
    "recording": "loading",
    "packing": "loading",
    "attenuating": "testing",
    "training": "training",
    "repairing": "training",
    "refitting": "training",
    "judging": "judging",
    "fitting": "judging",
    "asking": "judging",
    "merging": "saving",
    "saving": "saving",
}
"""The part that the first word of a reported phase belongs to; tests belong to what they interrupt."""
OVERDUE = 0.1
"""What has taken longer than expected is expected to take this share of its time more."""


class Remaining:
    """The parts of one session, and what is left of them."""

    def __init__(self, usual: Mapping[str, float] | None = None) -> None:
        """``usual`` says how many seconds each part is expected to take; without it there is no estimate of the whole."""
        self._usual = dict(usual or {})
        self._took: dict[str, float] = {}
        self._part = PARTS[0]
        self._since: float | None = None
        self._trained_at: float | None = None
        """When the training will have ended, by what its rounds have gained."""

    def enter(self, phase: str, now: float) -> None:
        """Note what the session does from now on, in the words in which it is reported."""
        word = phase.split(" ", 1)[0]
        is_before = self._part in {"loading", "testing"}
        part = PART_OF.get(word, "testing" if word == "testing" and is_before else self._part)
        if self._since is None:
            self._since = now
        if part != self._part:
            self._took[self._part] = self._took.get(self._part, 0.0) + now - self._since
            self._part, self._since, self._trained_at = part, now, None

    def expect_training(self, seconds: float | None, now: float) -> None:
        """Note how much longer the training itself expects to take, if it can tell."""
        self._trained_at = None if seconds is None else now + seconds

    def left(self, now: float) -> float | None:
        """Return the seconds that the session still takes; ``None`` where nothing tells."""
        later = PARTS[PARTS.index(self._part) + 1 :]
        if any(part not in self._usual for part in later):
            return None if self._trained_at is None else max(0.0, self._trained_at - now)
        current = self._left_of_part(now)
        return None if current is None else current + sum(self._usual[part] for part in later)

    def _left_of_part(self, now: float) -> float | None:
        elapsed = 0.0 if self._since is None else now - self._since
        usual = self._usual.get(self._part)
        by_past = None if usual is None else max(usual - elapsed, OVERDUE * elapsed)
        if self._trained_at is None:
            return by_past
        by_gain = max(0.0, self._trained_at - now)
        if by_past is None or not usual:
            return by_gain
        weight = min(1.0, elapsed / usual)  # a few rounds tell little, many tell more than the session before
        return (1 - weight) * by_past + weight * by_gain

    def took(self, now: float) -> dict[str, float]:
        """Return the seconds of every part so far."""
        since = now if self._since is None else self._since
        found = self._took | {self._part: self._took.get(self._part, 0.0) + now - since}
        return {part: round(found.get(part, 0.0), 2) for part in PARTS}


def expected(papers: Mapping[str, Any], new: int, total: int, kind: str = "learn") -> dict[str, float]:
    """Return how long each part takes a session of so many rows, by the papers of one before it; nothing where they do not tell.

    Training goes by the rows that are new (all of them in a refit), judging by all. What a consolidation mends takes about as long as the
    session before it.
    """
    try:
        parts = {part: float(papers["training"]["parts"][part]) for part in PARTS}
        then_new, then_old = (len(papers["materials"][name]) for name in ("new", "old"))
    except (KeyError, TypeError, ValueError):
        return {}
    then_total = max(1, then_new + then_old)
    trained = 1.0 if kind == "consolidate" else (new or total) / (then_new or then_total)
    by_part = {"testing": trained, "training": trained, "judging": total / then_total}
    return {part: seconds * by_part.get(part, 1.0) for part, seconds in parts.items()}
