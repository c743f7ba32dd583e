"""What ``lorad docs questions`` tells: how far it is, and what came of it.

What lives here: the counts, the time that is left, the report as text. What never does: asking, files, clocks, printing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from lorad.apps.screens.state_text import duration, plural
from lorad.retrieval.question_drawing import Flaw

End = Literal["all_asked", "limit_reached", "interrupted"]

BAR = 20
"""Characters of the progress bar."""

TOLD: Mapping[Flaw, str] = {
    Flaw.NO_QUESTION: "no single question",
    Flaw.COPY: "the sentence itself",
    Flaw.GIVES_ANSWER: "gives its answer away",
    Flaw.MADE_UP: "names what is not there",
    Flaw.NAMES_NOTHING: "does not name what it is about",
    Flaw.ASKED_BEFORE: "asked before",
    Flaw.OTHER_ANSWER: "not answered with the sentence's facts",
}
"""Why a question was refused, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of asking for questions."""

    file: str
    model: str
    track: str
    """The track that the questions are for."""
    documents: int
    """Documents that were looked at."""
    pieces: int
    """Sentences, items and rows with a fact that were asked about."""
    questions: int
    """Questions that passed the round trip and were written."""
    rows: int
    """Rows that the file has now."""
    refused: Mapping[str, int]
    """The others by what is wrong with them."""
    end: End
    """What ended it: unless all was asked, the same command goes on."""
    seconds: float


def told(refused: Mapping[Flaw, int]) -> str:
    """Return why questions were refused, the most frequent reason first."""
    ordered = sorted(refused.items(), key=lambda each: -each[1])
    return ", ".join(f"{count} {TOLD[flaw]}" for flaw, count in ordered)


def lines(report: Report) -> Iterator[str]:
    """Yield the report as text."""
    of = f"{plural(report.pieces, 'piece')} with a fact in {plural(report.documents, 'document')}"
    yield f"asked {report.model} about {of} in {duration(report.seconds)}: {plural(report.questions, 'question')} passed"
    if report.refused:
        yield f"  refused: {told({Flaw(name): count for name, count in report.refused.items()})}"
    if report.end != "all_asked":
        yield f"  {report.end.replace('_', ' ')}; the same command goes on"
    if report.rows:
        drop = f"lorad drop {report.file}" + ("" if report.track == "chat" else f" --track {report.track}")
        yield f"{report.file} has {plural(report.rows, 'row')}; nothing is learned yet: read them, then: {drop}"


def progress(share: float, pieces: int, questions: int, seconds: float, limit: int | None) -> str:
    """Return a bar and the time that is left, if the rest is as fast as what is done.

    ``share`` of the documents' characters is done, 0 to 1; ``limit`` is the number of questions that are wanted.
    """
    ahead = [(1 - share) / share] if share and pieces else []
    if limit and questions:
        ahead.append((limit - questions) / questions)
    left = f", about {duration(seconds * min(ahead))} left" if ahead else ""
    filled = min(BAR, int(BAR * share))
    counts = f"{plural(questions, 'question')} of {plural(pieces, 'piece')}"
    return f"[{'#' * filled}{'.' * (BAR - filled)}] {counts}{left}"
