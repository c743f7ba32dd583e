"""From the measurements of a candidate to a verdict with reasons.

What lives here: the checks and their sentences. What never does: measuring (``metrics``), promoting.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import expm1, isfinite, sqrt

from lorad.config import JudgeSettings
from lorad.evaluation.facts import wilson
from lorad.evaluation.retention import is_worse, mcnemar
from lorad.records import Evaluation, Score, Verdict


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: which check, whether it passed, and the sentence with its numbers."""

    name: str
    passed: bool
    sentence: str


FAILED = "failed: "
"""How the reasons begin that speak against a candidate."""


def decide(evaluation: Evaluation, settings: JudgeSettings) -> Verdict:
    """Promote only a candidate that passes every check."""
    found = [check(evaluation, settings) for check in CHECKS]
    checks = [check for check in found if check is not None]
    checks += [
        *_old_datasets(evaluation, settings),
        *_old_perplexities(evaluation, settings),
        *_old_facts(evaluation, settings),
    ]
    return Verdict(
        promote=all(check.passed for check in checks),
        reasons=tuple(check.sentence if check.passed else f"{FAILED}{check.sentence}" for check in checks),
        failed=tuple(check.name for check in checks if not check.passed),
    )


def drift(evaluation: Evaluation, settings: JudgeSettings) -> float:
    """Return how much of what perplexity may rise a version has used up: 0 is nothing, 1 all of it or more."""
    rise, limit = _rise(evaluation), settings.max_perplexity_rise
    if rise is None:
        return 0.0
    if not isfinite(rise) or rise >= limit:
        return 1.0
    return max(0.0, rise / limit)


def _rise(evaluation: Evaluation) -> float | None:
    if evaluation.perplexity is None or evaluation.perplexity_base is None:
        return None
    return evaluation.perplexity / evaluation.perplexity_base - 1


def _finite(evaluation: Evaluation, settings: JudgeSettings) -> Check:
    del settings
    return Check(
        "finite",
        evaluation.finite,
        "all weights are finite" if evaluation.finite else "the weights are not finite",
    )


def _reload(evaluation: Evaluation, settings: JudgeSettings) -> Check:
    found, limit = evaluation.reload_difference, settings.max_reload_difference
    return Check(
        "reload",
        found <= limit,
        f"reloaded from disk, the adapter differs by {found:.2g} (at most {limit:g})",
    )


def _merge(evaluation: Evaluation, settings: JudgeSettings) -> Check:
    found, limit = evaluation.merge_difference, settings.max_merge_difference
    return Check(
        "merge", found <= limit, f"as trained and as served, logits differ by {found:.2g} (at most {limit:g})"
    )


def _new_recall(evaluation: Evaluation, settings: JudgeSettings) -> Check | None:
    if evaluation.perplexities:  # text is not learned by heart
        return None
    new, before = evaluation.new, evaluation.new_before
    if not new.total:
        return Check("new_recall", True, "there was nothing new to learn")
    least = _least_recall(evaluation.new_chance, settings)
    passed = new.recall >= least and (new.right > before.right or before.right == before.total)
    return Check(
        "new_recall",
        passed,
        f"{evaluation.dataset}: {new.right} of {new.total} recalled, {before.right} before (at least {least:.0%}, and more than before unless all were)",
    )


def _new_perplexity(evaluation: Evaluation, settings: JudgeSettings) -> Check | None:
    del settings
    now = evaluation.perplexities.get(evaluation.dataset)
    if now is None:
        return None
    before = evaluation.perplexities_before[evaluation.dataset]
    return Check(
        "new_perplexity",
        now < before,
        f"{evaluation.dataset}: perplexity of held-out text {now:.2f}, {before:.2f} before (must be lower)",
    )


def _old_perplexities(evaluation: Evaluation, settings: JudgeSettings) -> Iterator[Check]:
    """Yield a check for each older dataset of a model from scratch.

    Of few tokens the mean loss is as unsure as 1 / sqrt(tokens) where single ones change by a nat: a file of a word would refuse whatever
    comes. So it may rise by that, where that is more; from 420 tokens on the limit of 5 % is.
    """
    for name, before in evaluation.perplexities_before.items():
        if name == evaluation.dataset:
            continue
        now, limit = evaluation.perplexities[name], settings.max_corpus_perplexity_rise
        tokens = evaluation.scores[name].total if name in evaluation.scores else 0
        limit = max(limit, expm1(1 / sqrt(tokens))) if tokens else limit
        yield Check(
            f"perplexity:{name}",
            now <= before * (1 + limit),
            f"{name}: perplexity of held-out text {now:.2f}, {before:.2f} before: {now / before - 1:+.1%} (at most {limit:+.0%})",
        )


def _least_recall(chance: float | None, settings: JudgeSettings) -> float:
    """Return the recall of new rows from which on they are learned.

    An answer is known by heart or not. Labels are to be told of texts that nobody has seen: who gets every noisy one right has
    learned the noise. What one answer to everything gets right is not learned.
    """
    if chance is None:
        return settings.min_recall
    return min(settings.min_recall, chance + settings.min_learned * (1 - chance))


def _old_datasets(evaluation: Evaluation, settings: JudgeSettings) -> list[Check]:
    """Return a check for each older dataset.

    Of labels some are learned by heart, because people differ in them. That much may go: as far as the parent may tell its trained
    rows more often than rows of the kind that it never trained (less one standard error: they are few).
    """
    checks = []
    for name, before in evaluation.before.items():
        now = evaluation.scores.get(name, Score(right=0, total=before.total))
        if name == evaluation.dataset:
            now, before = now - evaluation.new, before - evaluation.new_before  # noqa: PLW2901 - of older files
        if not before.total:
            continue
        allowed = _may_lose(before, settings)
        why = ""
        if untrained := evaluation.untrained_before.get(name):
            least, _ = wilson(untrained.right, untrained.total, z=1)
            by_heart = before.total * (before.recall - least)
            allowed = max(allowed, int(by_heart))
            why = f"; of rows that are never trained {_of(evaluation.untrained, name)} are right, {untrained.right} before"
        checks.append(
            Check(
                f"retention:{name}",
                before.right - now.right <= allowed,
                f"{name}: {now.right} of {before.total} recalled, {before.right} before (may lose {allowed:g}{why})",
            )
        )
    return checks


def _of(found: Mapping[str, Score], name: str) -> str:
    """Say how many of how many were right."""
    score = found.get(name, Score(right=0, total=0))
    return f"{score.right} of {score.total}"


def _may_lose(before: Score, settings: JudgeSettings) -> float:
    return max(settings.max_lost_examples, settings.max_lost_share * before.total)


def _old_facts(evaluation: Evaluation, settings: JudgeSettings) -> Iterator[Check]:
    """Yield a check for each old dataset whose facts the parent was asked for in other words.

    The parent's scores come from its own papers, so only those of as many questions can be compared. Of the dataset
    that the session was for the rows have changed; one whose turn it was not has not been asked. What an index finds in other words is told
    and not judged: no training changes it, and each drop moves the lines of those before it (decision 99). Nor what the weights alone
    say where an index answers: nobody is served that (decision 96).
    """
    for name, before in evaluation.facts_before.items():
        now = evaluation.facts.get(name)
        if name == evaluation.dataset or before.other is None or now is None or now.sessions_ago:
            continue
        taught = _comparable("as taught", before.trained, now.trained)
        served = _comparable("in other words", before.other_served, now.other_served)
        alone = _comparable("in other words by the weights alone", before.other, now.other)
        is_by_weights = evaluation.thresholds is None and before.other == before.other_served
        judged, told = ([*taught, *served], []) if is_by_weights else (taught, [*served, *alone])
        compared = [_compared(*each, settings) for each in judged]
        sentences = [
            *(sentence for _, sentence in compared),
            *(f"{_change(*each)} (not judged)" for each in told if each[1] != each[2]),
        ]
        yield Check(
            f"facts:{name}",
            all(passed for passed, _ in compared),
            f"{name}, facts {'; '.join(sentences) or 'were not compared: the parent was asked other questions'}",
        )


def _comparable(asked: str, before: Score | None, now: Score | None) -> list[tuple[str, Score, Score]]:
    """Return these scores if both are of as many questions."""
    return [(asked, before, now)] if before and now and before.total == now.total > 0 else []


def _change(asked: str, before: Score, now: Score) -> str:
    return f"{asked}: {now.right} of {now.total}, {before.right} before"


def _compared(asked: str, before: Score, now: Score, settings: JudgeSettings) -> tuple[bool, str]:
    allowed = _may_lose(before, settings)
    low, high = wilson(now.right, now.total)
    return before.right - now.right <= allowed, (
        f"{asked}: {now.right} of {now.total} (Wilson {low:.0%} to {high:.0%}), {before.right} before "
        f"(may lose {allowed:g})"
    )


def _significance(evaluation: Evaluation, settings: JudgeSettings) -> Check:
    p = mcnemar(evaluation.broken, evaluation.mended)
    return Check(
        "significance",
        not is_worse(evaluation.broken, evaluation.mended, settings.significance),
        f"over all old examples {evaluation.broken} are newly wrong and {evaluation.mended} newly right (exact McNemar p = {p:.3f})",
    )


def _perplexity(evaluation: Evaluation, settings: JudgeSettings) -> Check | None:
    rise = _rise(evaluation)
    if rise is None:
        return None
    return Check(
        "perplexity",
        rise <= settings.max_perplexity_rise,
        f"perplexity of general text {evaluation.perplexity:.2f}, the base's {evaluation.perplexity_base:.2f}: "
        f"{rise:+.1%} (at most {settings.max_perplexity_rise:+.0%})",
    )


def _kl(evaluation: Evaluation, settings: JudgeSettings) -> Check | None:
    if evaluation.kl_base is None:
        return None
    return Check(
        "kl",
        evaluation.kl_base <= settings.max_kl,
        f"general conversation is {evaluation.kl_base:.3f} nats per token from the base (at most {settings.max_kl:g})",
    )


def _degenerate(evaluation: Evaluation, settings: JudgeSettings) -> Check | None:
    if evaluation.degenerate is None:
        return None
    share = evaluation.degenerate / evaluation.sampled if evaluation.sampled else 0.0
    return Check(
        "degenerate",
        share <= settings.max_degenerate_share,
        f"{evaluation.degenerate} of {evaluation.sampled} sampled answers were empty, endless or repeated themselves (at most {settings.max_degenerate_share:.0%})",
    )


def _truncation(evaluation: Evaluation, settings: JudgeSettings) -> Check:
    found, limit = evaluation.truncation_error, settings.max_truncation_error
    if not found:
        return Check("truncation", True, "nothing was truncated")
    return Check(
        "truncation", found <= limit, f"consolidating lost {found:.2%} of the adapter (at most {limit:.0%})"
    )


CHECKS: tuple[Callable[[Evaluation, JudgeSettings], Check | None], ...] = (
    _finite,
    _reload,
    _merge,
    _new_recall,
    _new_perplexity,
    _significance,
    _perplexity,
    _kl,
    _degenerate,
    _truncation,
)
"""Every check but those per old dataset, in the order in which they are told; ``None`` where it does not apply."""
