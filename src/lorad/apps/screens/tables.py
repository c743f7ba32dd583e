"""What the reading commands of ``lorad`` print, as rich tables, and the plots.

What lives here: columns, colours, order. What never does: asking the daemon, printing, deciding.

rich costs 60 ms and matplotlib half a second, so both are imported where they are used: ``main`` imports
this module for every command, and ``lorad status`` needs neither.
"""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lorad import printable
from lorad.apps.screens.state_text import (
    NOTHING,
    clock,
    duration,
    ended_by,
    event_line,
    moment,
    plural,
    reason,
    share,
    size,
    took,
)
from lorad.errors import ConfigError
from lorad.records import AnswerThresholds, Drop, Evaluation, FactRecall, Job, Score, Verdict
from lorad.serving import answers
from lorad.serving.answers import (
    Classification,
    Classifications,
    Datasets,
    Difference,
    DocumentList,
    Event,
    Explanation,
    FilledTexts,
    Jobs,
    JobWithFile,
    MatchedSpectra,
    RemovedDocuments,
    RetentionMatrix,
    ScoreMatrix,
    SearchResults,
    SpectrumMatch,
    SystemAnswer,
    VersionEntry,
    VersionPapers,
    Versions,
)
from lorad.storage.targets import check_replaceable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from lorad.evaluation.calibration import CalibrationReport, Comparison

Cell = str | tuple[str, str]
"""A text, or a text and its style."""

GOOD, FAIR = 0.95, 0.8
"""Recall from which a cell is green, and from which it is yellow."""

_LONGEST_LABEL = 40
"""Characters of a dataset's name in a plot."""

STATE_STYLES = {
    "promoted": "green",
    "intact": "green",
    "training": "cyan",
    "judging": "cyan",
    "rejected": "red",
    "failed": "red",
    "corrupt": "red",
    "cancelled": "yellow",
}


WORDINGS_WANTED = (
    "to test facts in other words, give rows held_out, or put NAME.wordings.json beside the file; "
    "also_asked is trained, but for the last of several"
)
"""How a dataset brings the words that it is tested with."""

COUNTED = ("new", "known", "replacing", "bad", "contradictions")
"""The counts of a file's report that are shown where they are not nothing."""

FIGURES = (
    ("rank", "adapter", "rank"),
    ("parameters", "adapter", "parameters"),
    ("tokens/s", "training", "tokens_per_second"),
    ("peak GiB", "training", "peak_gib"),
    ("seed", "reproducibility", "seed"),
    ("hardware", "hardware", "name"),
    ("torch", "framework", "torch"),
)
"""What ``versions show`` tells of ``metadata.json``: its word for it, section and key."""


def jobs(answer: Jobs) -> "RenderableType":
    """Show the jobs, newest first; where several tracks have any, each with its own."""
    is_mixed = len({job.track for job in answer.jobs}) > 1
    columns = ("job", "dataset", "state", "when", "took", "why")
    rows = [
        (
            str(job.id),
            f"{job.track}: {_subject(job)}" if is_mixed else _subject(job),
            _fate(job),
            _when(job),
            took(job),
            reason(job),
        )
        for job in answer.jobs
    ]
    return _table(columns, rows, numbers=(0,), folding=(1, 5), narrowest=14)


def job(answer: JobWithFile) -> "RenderableType":
    """Show one job: how it ended, what its file held, and row by row what was bad, contradicted or replaced."""
    facts = [
        ("state", _fate(answer)),
        ("track", answer.track),
        ("dataset", _subject(answer)),
        ("when", _when(answer)),
        ("took", took(answer)),
        ("why", reason(answer)),
    ]
    rows = [*_filled(facts), *(_file_rows(answer.drop) if answer.drop else ())]
    return _table(("job", str(answer.id)), rows, folding=(1,), narrowest=16)


def _file_rows(drop: Drop) -> Iterable[tuple[Cell, Cell]]:
    """Tell what a job's file held."""
    report = answers.report_of(drop)
    counts = {name: getattr(report, name) for name in COUNTED}
    counted = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    yield from _filled(
        [
            ("file", drop.name),
            ("about", report.description),
            ("formats", ", ".join(f"{count} {name}" for name, count in report.formats.items())),
            ("rows", f"{drop.rows}: {counted}"),
            ("contradicted", ", ".join(f"row {line}" for line in report.contradicted_rows)),
        ]
    )
    for bad in report.bad_rows:
        yield f"row {bad.line}", f"{bad.field}: {bad.message}" if bad.field else bad.message
    for old in report.replaced:
        yield "replaces", f"{old.question} was: {old.answer} ({old.dataset})"


def _filled(facts: Iterable[tuple[str, Cell]]) -> list[tuple[Cell, Cell]]:
    return [fact for fact in facts if fact[1] not in {"", NOTHING}]


def versions(answer: Versions) -> "RenderableType":
    """Show a track's versions: which are latest, previous and serving, which are pinned, and their tags."""
    has_facts = any(row.performance.get("facts") is not None for row in answer.versions)
    measured = ("recall", "retention", *(["facts"] if has_facts else []))
    columns = ("version", "", "date", "state", *measured, "description")
    rows: list[tuple[Cell, ...]] = [
        (
            row.version,
            _roles(answer, row),
            moment(row.date),
            _state(row.state),
            *(_recall(row.performance.get(name)) for name in measured),
            row.description,
        )
        for row in answer.versions
    ]
    last = len(columns) - 1
    folding = (1, last) if has_facts else (last,)  # one column more, so the roles give way too
    return _table(columns, rows, numbers=range(4, last), folding=folding, narrowest=8 if has_facts else 16)


def version(answer: VersionPapers) -> "RenderableType":
    """Show one version: what it is, how it was made, its files."""
    facts = _table(("version", answer.version), _facts(answer), folding=(1,), narrowest=16)
    stored = [(name, size(file.bytes), file.sha256[:12]) for name, file in answer.manifest.files.items()]
    return _stack(facts, _table(("file", "size", "sha256"), stored, numbers=(1,), folding=(0,), narrowest=16))


def _facts(answer: VersionPapers) -> Iterable[tuple[Cell, Cell]]:
    training = answer.metadata.get("training") or {}
    yield "role", _roles(answer, answer) or NOTHING
    yield "state", _state(answer.state)
    yield "date", moment(answer.date)
    yield "description", answer.description
    yield "recall", _recall(answer.performance.get("recall"))
    yield "retention", _recall(answer.performance.get("retention"))
    if (facts := answer.performance.get("facts")) is not None:
        text, style = _recall(facts)
        yield "facts", (f"{text} in other words, as served", style)
    yield "parent", answer.parent or "none: learned from the base"
    yield "ancestors", ", ".join(answer.ancestors) or NOTHING
    yield "base", answer.manifest.base[:12]
    yield "job", NOTHING if answer.manifest.job is None else str(answer.manifest.job)
    if training:
        spent = f"{plural(training['rounds'], 'round')} in {duration(training['seconds'])}"
        yield "training", f"{spent}, ended by {ended_by(training['ended_by'])}"
    for name, part, figure in FIGURES:
        if (found := (answer.metadata.get(part) or {}).get(figure)) is not None:
            yield name, str(found)
    if measured := answer.calibration:
        figures = measured["figures"]
        told = f"ECE {figures['ece']:.3f}, Brier {figures['brier']:.3f}, T = {measured['temperature']:.2f}"
        yield "calibration", f"{told}; see: lorad calibrate {answer.version}"
    yield "size", size(answer.bytes)


def calibration(report: "CalibrationReport", check: "Comparison | None" = None) -> "RenderableType":
    """Show how right and how sure a version is, and after a check what has drifted."""
    temperature = f"at T = {report.temperature:.2f}"
    rows = [*report.sources.items(), ("all", report.figures), (temperature, report.scaled)]
    figures = [
        (name, str(row.count), *map(_figure_text, (row.accuracy, row.confidence, row.ece, row.brier)))
        for name, row in rows
    ]
    bins = [
        (
            f"{part.low:.1f} to {part.high:.1f}",
            str(part.count),
            *map(_figure_text, (part.accuracy, part.confidence)),
        )
        for part in report.bins
        if part.count
    ]
    columns = ("answers", "right", "sure", "ECE", "Brier")
    head = f"{report.version}, measured {moment(report.measured_at)}"
    if report.fitted_on:  # else the temperature is in the weights, and serves
        head += f"; temperature fitted on {report.fitted_on} others"
    parts = [
        _text(head),
        _table(("questions", *columns), figures, numbers=range(1, 6), folding=(0,), narrowest=12),
        _table(("sure", "answers", "right", "mean"), bins, numbers=range(1, 4)),
    ]
    return _stack(*parts, *(_check(check) if check else ()))


def _figure_text(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _check(check: "Comparison") -> "Iterable[RenderableType]":
    rows: list[tuple[Cell, ...]] = [
        (
            move.figure,
            *map(_figure_text, (move.before, move.now, move.allowed)),
            ("drifted", "red") if move.has_drifted else ("as it was", "green"),
        )
        for move in check.moves
    ]
    yield _table(("figure", "reference", "now", "may move", ""), rows, numbers=(1, 2, 3))
    of = f" of {check.compared + check.missing}" if check.missing else ""
    changed = f"{plural(check.broken, 'answer')} turned wrong, {check.mended} right"
    yield _text(f"compared on {check.compared}{of} of the same questions; {changed}")
    for name, (then, now) in check.environment.items():
        yield _text((f"{name} was {then}, and is {now}", "yellow"))


def documents(answer: DocumentList) -> "RenderableType":
    """List documents."""
    rows = [
        (
            str(each.id),
            each.title,
            each.name or each.url,
            ", ".join(each.tags),
            each.date,
            f"as {each.same_as}"
            if each.same_as
            else str(each.chunks)
            if each.state == "divided"
            else each.state,
            moment(each.added_at),
        )
        for each in answer.documents
    ]
    columns = ("number", "title", "name", "tags", "date", "chunks", "added")
    return _table(columns, rows, numbers=(0, 5), folding=(1, 2, 3), narrowest=12)


def removed_documents(answer: RemovedDocuments) -> "RenderableType":
    """Tell which documents were removed."""
    told = "; ".join(f"{each.id} {each.title}" for each in answer.documents)
    return _text(f"removed {plural(len(answer.documents), 'document')}: {told}")


def passages(answer: SearchResults) -> "RenderableType":
    """Show what a search has found, each passage below the place where it is."""
    parts = []
    for number, each in enumerate(answer.passages, start=1):
        place = " > ".join(dict.fromkeys([each.title, *each.heading]))
        page = f", page {each.page}" if each.page else ""
        near = "" if each.similarity is None else f", similarity {each.similarity:.2f}"
        known = f" ({each.name or each.url or each.document}, characters {each.start}-{each.end}{near})"
        parts += [_text((f"{number}. {place}{page}", "bold")), _text(known)]
        parts += [_text(f"   {line}") for line in each.text.splitlines()]
    if not parts:
        parts.append(_text("nothing was found"))
    if answer.left:
        parts.append(_text(f"{plural(answer.left, 'document or chunk')} not divided or embedded yet"))
    return _stack(*parts)


def classifications(answer: Classifications, texts: Sequence[str]) -> "RenderableType":
    """Show what each text is, and how likely; of a path also its levels."""
    rows = [(text, *_classified(said)) for text, said in zip(texts, answer.classifications, strict=True)]
    return _stack(
        _text(f"by {answer.model}"),
        _table(
            ("text", "label", "probability", "levels"), rows, numbers=(2,), folding=(0, 1, 3), narrowest=12
        ),
    )


def filled_texts(answer: FilledTexts) -> "RenderableType":
    """Show each text with the likeliest in its gaps, and what else may stand there."""
    rows = [
        (
            text.text if not number else "",
            str(number + 1),
            ", ".join(f"{each.word.strip()} {each.probability:.3f}" for each in gap),
        )
        for text in answer.texts
        for number, gap in enumerate(text.gaps)
    ]
    return _stack(
        _text(f"by {answer.model}"),
        _table(("text", "gap", "words"), rows, numbers=(1,), folding=(0, 2), narrowest=12),
    )


def matched_spectrum(answer: MatchedSpectra) -> "RenderableType":
    """Show how well a molecule matches a spectrum, and what each peak says of it."""
    (spectrum,) = answer.spectra
    best = spectrum.matches[0]
    rows = [
        (
            f"{peak.mz:.4f}",
            f"{peak.intensity:.3f}",
            f"{peak.evidence:+.2f}",
            ("explained", "green") if peak.explained else "",
            peak.fragment or "",
        )
        for peak in best.peaks
    ]
    return _stack(
        _text(
            f"{best.smiles}: match {best.match:.1%}, {best.explained_intensity:.0%} of the intensity explained, "
            f"by {answer.model}"
        ),
        _table(("m/z", "intensity", "evidence", "", "fragment"), rows, numbers=(0, 1, 2)),
    )


def ranked_spectra(answer: MatchedSpectra) -> "RenderableType":
    """Show the candidates of each spectrum, the likeliest first."""
    rows = [
        (str(number), str(rank), each.smiles, f"{each.match:.1%}", f"{each.explained_intensity:.0%}")
        for number, spectrum in enumerate(answer.spectra, start=1)
        for rank, each in enumerate(spectrum.matches, start=1)
    ]
    columns = ("spectrum", "rank", "molecule", "match", "explained")
    return _stack(
        _text(f"by {answer.model}"), _table(columns, rows, numbers=(0, 1, 3, 4), folding=(2,), narrowest=12)
    )


def plot_spectrum(match: SpectrumMatch, path: Path) -> None:
    """Draw a spectrum, its explained peaks in another colour and with their fragments; raise ``ConfigError``."""
    figure = _figure(8, 4)
    axes = figure.subplots()
    for is_explained, colour, label in (
        (False, "tab:gray", "not explained"),
        (True, "tab:blue", "explained"),
    ):
        peaks = [peak for peak in match.peaks if peak.explained is is_explained]
        if peaks:
            axes.vlines(
                [peak.mz for peak in peaks],
                0,
                [peak.intensity for peak in peaks],
                color=colour,
                label=label,
                linewidth=1.5,
            )
    for peak in match.peaks:
        if peak.explained and peak.fragment:
            axes.annotate(
                peak.fragment, (peak.mz, peak.intensity), rotation=60, fontsize=7, ha="left", va="bottom"
            )
    axes.set(xlabel="m/z", ylabel="intensity", ylim=(0, 1.25))
    axes.set_title(f"{match.smiles[:80]}: match {match.match:.0%}", parse_math=False)
    axes.legend(loc="upper left")
    _save(figure, path)


def system_answer(answer: SystemAnswer, texts: Sequence[str]) -> "RenderableType":
    """Show what each step of a system's chain says of each text, and who answered."""
    rows = [
        (text if at == 0 else "", step.role, *_classified(step.classification))
        for text, result in zip(texts, answer.results, strict=True)
        for at, step in enumerate(result.steps)
    ]
    who = [
        _text(f"{each.role}: {each.track}@{each.version} {each.variant}".rstrip()) for each in answer.members
    ]
    lost = [
        _text(
            (
                f"{each.role}: {', '.join(each.corrupt)} of {each.track} corrupt, {each.version} stands in",
                "red",
            )
        )
        for each in answer.members
        if each.corrupt
    ]
    columns = ("text", "step", "label", "probability", "levels")
    return _stack(*who, *lost, _table(columns, rows, numbers=(3,), folding=(0, 2, 4), narrowest=12))


def _classified(said: Classification) -> tuple[str, str, str]:
    """Return labels, the probability of the answer, and the levels with theirs."""
    levels = ", ".join(f"{level.label} {level.probability:.3f}" for level in said.levels)
    return ", ".join(said.labels) or NOTHING, _figure_text(said.confidence), levels or NOTHING


def memory(answer: Datasets) -> "RenderableType":
    """Show what is kept of each dataset."""
    counts = ("examples", "learned", "recalled", "replaced", "forgotten")
    rows = [(row.dataset, *(str(getattr(row, count)) for count in counts)) for row in answer.datasets]
    return _table(("dataset", *counts), rows, numbers=range(1, 6))


def retention(answer: RetentionMatrix) -> "RenderableType":
    """Show recall of every dataset (column) at every version (row), and the four numbers below."""
    if not answer.versions:
        return _text("no version serves, so there is nothing to show; see: lorad versions")
    return _matrix("recall, %", answer)


def facts_retention(answer: RetentionMatrix) -> "RenderableType":
    """Show the same of facts that were asked for in other words: as served, and by the weights alone."""
    if not answer.versions:
        return retention(answer)
    parts = [
        _stack(_text(f"facts asked for in other words, {told}"), _matrix("facts, %", found))
        for told, found in _facts_matrices(answer)
    ]
    if not parts:
        return _text(f"no facts were asked for in other words; {WORDINGS_WANTED}")
    return _stack(*parts)


def _facts_matrices(answer: RetentionMatrix) -> list[tuple[str, ScoreMatrix]]:
    both = (("as served", answer.facts_other_served), ("weights only", answer.facts_other))
    return [(told, found) for told, found in both if found]


def _matrix(corner: str, answer: ScoreMatrix) -> "RenderableType":
    rows = [
        (version, *map(_percent, row)) for version, row in zip(answer.versions, answer.matrix, strict=True)
    ]
    columns = (corner, *answer.datasets)
    numbers = {name: getattr(answer, name.lower()) for name in ("ACC", "BWT", "FWT", "forgetting")}
    told = [f"{name} {NOTHING if value is None else f'{value:.3f}'}" for name, value in numbers.items()]
    others = range(1, len(columns))
    return _stack(_table(columns, rows, numbers=others, folding=others, narrowest=4), _text("   ".join(told)))


def explanation(answer: Explanation) -> "RenderableType":
    """Show why a version was promoted, or not, its recall beside its parent's, and the facts that it knows."""
    measured = answer.evaluation
    head = f"{answer.version} was {_outcome(answer)}"
    reasons = [_text((line, "red" if line.startswith("failed:") else "")) for line in answer.reasons]
    scores = [_scores(measured)] if measured and measured.scores else []
    today = [_text(_otherwise(answer.today))] if answer.today else []
    facts = _facts_found(measured) if measured else ()
    return _stack(_text(head), *reasons, *today, *scores, *facts)


def _outcome(answer: Explanation) -> str:
    """Say whether a version was promoted and what ended its session; an imported one had no session."""
    cause = answer.evaluation.ended_by if answer.evaluation else ""
    if cause == "imported":
        return cause
    verdict = "promoted" if answer.promoted else "not promoted"
    return f"{verdict}; what ended the session: {ended_by(cause)}" if cause else verdict


def _otherwise(today: Verdict) -> str:
    """Say that the settings have changed since a verdict; it stays as it is."""
    if today.promote:
        return "today's judge settings would promote it; what was decided stays"
    return f"today's judge settings would reject it ({', '.join(today.failed)}); what was decided stays"


def _scores(measured: Evaluation) -> "RenderableType":
    rows = [
        (name, _score(measured.before.get(name)), _score(score)) for name, score in measured.scores.items()
    ]
    return _table(("recall", "before", "after"), rows, numbers=(1, 2))


def _facts_found(measured: Evaluation) -> "Iterable[RenderableType]":
    """Tell how many facts are in a version's answers, and from where on it answers from an example."""
    if measured.facts:
        rows = [row for name, found in measured.facts.items() for row in _fact_rows(name, found)]
        columns = ("facts", "asked", "weights only", "as served")
        yield _table(columns, rows, numbers=(2, 3), folding=(0,), narrowest=12)
        if any(found.other is None for found in measured.facts.values()):
            yield _text(WORDINGS_WANTED)
    if measured.thresholds:
        yield _text(_answers_from(measured.thresholds))


def _fact_rows(dataset: str, found: FactRecall) -> Iterable[tuple[Cell, ...]]:
    yield dataset + _ago(found.sessions_ago), "as taught", _score(found.trained), _score(found.trained_served)
    if found.other or found.other_served:
        alone = f" weights{_ago(found.other_sessions_ago)}" if found.other_sessions_ago else ""
        yield alone, "in other words", _score(found.other), _score(found.other_served)


def _ago(sessions: int) -> str:
    return f" ({plural(sessions, 'session')} ago)" if sessions else ""


def _answers_from(thresholds: AnswerThresholds) -> str:
    """Say from where on a version answers from an example, and how well that told questions apart."""
    by = "similarity" if thresholds.scored_by.startswith("similarity") else "reranker"
    head = f"answers from an example that scores at least {thresholds.answer:.3g} ({by})"
    if not thresholds.questions:
        return f"{head}; there were no questions to fit that on"
    return (
        f"{head}; of the {plural(thresholds.questions, 'question')} that it was fitted on, "
        f"{share(thresholds.false_share)} of the untaught got an answer and {share(thresholds.refused_share)} of the "
        "taught none"
    )


def difference(answer: Difference) -> "RenderableType":
    """Show the examples that two versions answer differently."""
    if not answer.changed:
        return _text(f"{answer.a} and {answer.b} answer every example alike")
    marks = {True: ("right", "green"), False: ("wrong", "red")}
    rows = [
        (row.dataset, row.question, row.answer, marks[row.a_right], marks[row.b_right])
        for row in answer.changed
    ]
    return _table(("dataset", "question", "answer", answer.a, answer.b), rows, folding=(1, 2), narrowest=16)


def event(record: Event) -> str:
    """Show an event on one line of text: ``--follow`` has no table to put it in."""
    return f"{clock(record.at)} {event_line(record)}"


def plot(answer: RetentionMatrix, path: Path) -> None:
    """Draw every dataset's recall over the versions into a picture; the file's ending chooses the format."""
    figure = _figure(8, 4.5)
    axes = figure.add_subplot(xlabel="version", ylabel="recall", ylim=(0, 1.05))
    _draw(axes, answer, answer.datasets)
    _name_lines(axes, axes.lines, answer.datasets)
    _save(figure, path)


def plot_facts(answer: RetentionMatrix, path: Path) -> None:
    """Draw the same of facts that were asked for in other words: as served, and by the weights alone."""
    found = _facts_matrices(answer)
    if not found:
        raise ConfigError(f"no facts were asked for in other words; {WORDINGS_WANTED}", code="no_wordings")
    datasets = list(dict.fromkeys(name for _, matrix in found for name in matrix.datasets))
    figure = _figure(8, 4.5)
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for each, (told, matrix) in zip(axes, found, strict=True):
        each.set(xlabel="version", ylim=(0, 1.05), title=told)
        _draw(each, matrix, datasets)
    axes[0].set_ylabel("facts, asked in other words")
    _name_lines(figure, axes[0].lines, datasets, loc="outside lower center", ncols=2)
    _save(figure, path)


def _draw(axes: Any, answer: ScoreMatrix, datasets: Sequence[str]) -> None:
    """Draw a line for each of these datasets, an empty one where it was not measured: so colours mean the same."""
    for dataset in datasets:
        column = answer.datasets.index(dataset) if dataset in answer.datasets else None
        shares = [None if column is None else row[column] for row in answer.matrix]
        measured = [(at, value) for at, value in enumerate(shares) if value is not None]
        axes.plot(*zip(*measured, strict=True) if measured else ((), ()), marker="o")
    axes.set_xticks(range(len(answer.versions)), answer.versions)


def _name_lines(place: Any, lines: Sequence[Any], datasets: Sequence[str], **options: Any) -> None:
    if datasets:  # named apart: a line's own label is left out where it begins with _
        legend = place.legend(lines, [_label(dataset) for dataset in datasets], **options)
        for text in legend.get_texts():
            text.set_parse_math(False)  # $ is no formula


def _label(dataset: str) -> str:
    told = printable.line(dataset)
    return told if len(told) <= _LONGEST_LABEL else f"{told[: _LONGEST_LABEL - 1]}…"


def reliability(report: "CalibrationReport", path: Path) -> None:
    """Draw how often answers are right against how sure they are, and how many there are of each."""
    figure = _figure(6, 6.5)
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    bins = [part for part in report.bins if part.count]
    scaled = [part for part in report.scaled_bins if part.count]
    places = [part.low for part in bins]
    widths = [part.high - part.low for part in bins]
    style = {"align": "edge", "color": "tab:blue", "edgecolor": "white"}
    upper.bar(places, [part.accuracy for part in bins], widths, alpha=0.6, label="right", **style)
    upper.plot((0, 1), (0, 1), color="gray", linestyle="--", label="as right as sure")
    means = [part.confidence for part in bins], [part.accuracy for part in bins]
    upper.plot(*means, "o", color="tab:blue", label="a bin's mean")
    means = [part.confidence for part in scaled], [part.accuracy for part in scaled]
    upper.plot(*means, "x", color="tab:orange", label=f"the same at T = {report.temperature:.2f}")
    upper.set(ylabel="share of right answers", xlim=(0, 1), ylim=(0, 1.02))
    upper.set_title("\n".join(_titles(report)))
    upper.legend(loc="upper left")
    lower.bar(places, [part.count for part in bins], widths, **style)
    lower.set(xlabel="confidence: probability of the whole answer", ylabel="answers")
    _save(figure, path)


def _titles(report: "CalibrationReport") -> Iterable[str]:
    yield f"{report.version}: {plural(report.figures.count, 'answer')}"
    for name, figures in (("as answered", report.figures), (f"T = {report.temperature:.2f}", report.scaled)):
        yield f"{name}: ECE {figures.ece:.3f}, Brier {figures.brier:.3f}"


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra that a server does not need
    except ImportError:
        raise ConfigError(
            "a plot needs matplotlib; install it with: pip install 'lorad[plot]'", code="no_matplotlib"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    check_replaceable(path, replace=True)  # its name was given as an option, for this alone
    try:
        with tempfile.TemporaryDirectory(prefix=".lorad-", dir=path.parent) as scratch:
            made = Path(scratch) / f"plot{path.suffix}"
            figure.savefig(made)
            made.replace(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the plot cannot be written to {path}: {error}", code="no_plot") from None


def _state(state: str) -> tuple[str, str]:
    return str(state), STATE_STYLES.get(state, "")


def _subject(job: Job) -> str:
    return job.dataset if job.kind == "learn" else f"{job.kind} {job.dataset}"


def _fate(job: Job) -> Cell:
    state, style = _state(job.state)
    return f"{state} {job.version or ''}".strip(), style


def _when(job: Job) -> str:
    at = moment(job.ended_at or job.started_at or job.created_at)
    return at.partition("-")[2]  # the year is clear, and 80 columns are few


def _roles(answer: Versions | VersionPapers, row: VersionEntry) -> str:
    roles = [role for role in ("latest", "previous", "serving") if getattr(answer, role) == row.version]
    return " ".join([*roles, *(["pinned"] if row.pinned else []), *row.tags])


def _recall(value: float | None) -> tuple[str, str]:
    if value is None:
        return NOTHING, "dim"
    return share(value), "green" if value >= GOOD else "yellow" if value >= FAIR else "red"


def _percent(value: float | None) -> Cell:
    text, style = _recall(value)
    return text.removesuffix(" %").replace(
        "100.0", "100"
    ), style  # short, so that ten datasets fit a terminal


def _score(score: Score | None) -> Cell:
    if score is None:
        return NOTHING, "dim"
    text, style = _recall(score.right / score.total if score.total else None)
    return f"{text} ({score.right}/{score.total})", style


def _table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    numbers: Iterable[int] = (),
    folding: Iterable[int] = (),
    narrowest: int = 1,
) -> "RenderableType":
    """Return a table; only the ``folding`` columns may break their lines, down to ``narrowest``."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - see the module's docstring
    from rich.table import Table  # noqa: PLC0415

    right, loose = set(numbers), set(folding)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for at, name in enumerate(columns):
        justify: Literal["left", "right"] = "right" if at in right else "left"
        if at in loose:
            table.add_column(_text(name), justify=justify, overflow="fold", min_width=narrowest)
        else:
            table.add_column(_text(name), justify=justify, overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*map(_text, row))
    return table


def _text(cell: Cell) -> "Text":
    """Return a cell as text of one line, in which brackets are only brackets and an escape steers nothing."""
    from rich.text import Text  # noqa: PLC0415 - see the module's docstring

    text, style = (cell, "") if isinstance(cell, str) else cell
    return Text(printable.line(text), style=style)


def _stack(*parts: "RenderableType") -> "RenderableType":
    from rich.console import Group  # noqa: PLC0415 - see the module's docstring

    return Group(*parts)
