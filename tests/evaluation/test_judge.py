"""The verdict: every check alone, at its limit and just beyond it, and the sentences that tell."""

import dataclasses
from math import inf, nan

import pytest

from lorad.config import JudgeSettings
from lorad.evaluation.judge import decide, drift
from lorad.records import AnswerThresholds, Evaluation, FactRecall, Score

LIMITS = JudgeSettings()
THRESHOLDS = AnswerThresholds(
    scored_by="reranker", answer=0.0, false_share=0.2, refused_share=0.0, questions=99
)


def an_evaluation(**changes):
    """Return a candidate that learned ``new`` and lost nothing of ``old``."""
    return Evaluation(
        **{
            "dataset": "new",
            "scores": {"new": Score(right=100, total=100), "old": Score(right=100, total=100)},
            "before": {"new": Score(right=0, total=100), "old": Score(right=100, total=100)},
            "new": Score(right=100, total=100),
            "new_before": Score(right=0, total=100),
            "broken": 0,
            "mended": 0,
            "perplexity": 10.0,
            "perplexity_base": 10.0,
            "kl_base": 0.0,
            "degenerate": 0,
            "sampled": 20,
            "reload_difference": 0.0,
            "merge_difference": 0.0,
            "truncation_error": 0.0,
            "finite": True,
            "ended_by": "recall",
            **changes,
        }
    )


def recalled(new=100, old=100, *, new_before=0, old_before=100, total=100):
    return {
        "scores": {"new": Score(right=new, total=100), "old": Score(right=old, total=total)},
        "before": {"new": Score(right=new_before, total=100), "old": Score(right=old_before, total=total)},
        "new": Score(right=new, total=100),
        "new_before": Score(right=new_before, total=100),
    }


def test_a_candidate_that_passes_everything_is_promoted_with_every_reason():
    verdict = decide(an_evaluation(), LIMITS)

    assert verdict.promote
    assert verdict.failed == ()
    assert len(verdict.reasons) == 10
    assert not any(reason.startswith("failed:") for reason in verdict.reasons)


@pytest.mark.parametrize(
    "changes",
    [
        {"reload_difference": 1e-6},
        {"merge_difference": 2.0},
        {"perplexity": 11.5},
        {"perplexity": 5.0},
        {"kl_base": 1.0},
        {"degenerate": 2},
        {"degenerate": 0, "sampled": 0},
        {"truncation_error": 1.0},
        {"broken": 5, "mended": 0},  # p = 0.0625
        {"broken": 0, "mended": 50},
        recalled(new=95),
        recalled(new=100, new_before=100),  # the parent knew it all
        recalled(old=98),
        recalled(old=980, old_before=1000, total=1000),
    ],
)
def test_at_its_limit_a_candidate_passes(changes):
    assert decide(an_evaluation(**changes), LIMITS).failed == ()


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"finite": False}, "finite"),
        ({"reload_difference": 1.1e-6}, "reload"),
        ({"merge_difference": 2.01}, "merge"),
        ({"perplexity": 11.51}, "perplexity"),
        ({"kl_base": 1.01}, "kl"),
        ({"degenerate": 3}, "degenerate"),
        ({"broken": 6, "mended": 0}, "significance"),  # p = 0.03125
        ({"broken": 60, "mended": 30}, "significance"),
        (recalled(new=94), "new_recall"),
        (recalled(new=96, new_before=96), "new_recall"),  # nothing was gained
        (recalled(new=96, new_before=97), "new_recall"),
        (recalled(old=97), "retention:old"),
        (recalled(old=979, old_before=1000, total=1000), "retention:old"),
        # what cannot be measured is not proven
        ({"reload_difference": nan}, "reload"),
        ({"merge_difference": nan}, "merge"),
        ({"perplexity": nan}, "perplexity"),
        ({"perplexity": inf}, "perplexity"),
        ({"kl_base": nan}, "kl"),
        ({"truncation_error": nan}, "truncation"),
    ],
)
def test_beyond_its_limit_a_candidate_fails_for_this_alone(changes, check):
    verdict = decide(an_evaluation(**changes), LIMITS)

    assert not verdict.promote
    assert verdict.failed == (check,)
    assert len([reason for reason in verdict.reasons if reason.startswith("failed: ")]) == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"finite": False}, "failed: the weights are not finite"),
        ({}, "all weights are finite"),
        ({}, "nothing was truncated"),
        ({"truncation_error": 0.2}, "consolidating lost 20.00% of the adapter (at most 100%)"),
        (
            {"reload_difference": 0.5},
            "failed: reloaded from disk, the adapter differs by 0.5 (at most 1e-06)",
        ),
        ({"merge_difference": 0.5}, "as trained and as served, logits differ by 0.5 (at most 2)"),
        (
            recalled(new=90),
            "failed: new: 90 of 100 recalled, 0 before (at least 95%, and more than before unless all were)",
        ),
        (recalled(old=90), "failed: old: 90 of 100 recalled, 100 before (may lose 2)"),
        (
            {"broken": 6, "mended": 0},
            "failed: over all old examples 6 are newly wrong and 0 newly right (exact McNemar p = 0.031)",
        ),
        (
            {"perplexity": 12.0},
            "failed: perplexity of general text 12.00, the base's 10.00: +20.0% (at most +15%)",
        ),
        (
            {"kl_base": 2.0},
            "failed: general conversation is 2.000 nats per token from the base (at most 1)",
        ),
        (
            {"degenerate": 20},
            "failed: 20 of 20 sampled answers were empty, endless or repeated themselves (at most 10%)",
        ),
    ],
)
def test_a_reason_has_its_numbers(changes, sentence):
    assert sentence in decide(an_evaluation(**changes), LIMITS).reasons


def test_every_reason_for_refusing_is_told():
    changes = {**recalled(new=0, old=0), "finite": False, "kl_base": 9.0, "broken": 100}

    verdict = decide(an_evaluation(**changes), LIMITS)

    assert verdict.failed == ("finite", "new_recall", "significance", "kl", "retention:old")


def test_every_old_dataset_is_checked_for_itself():
    # Given three datasets: one gained more than the other two lost
    scores = {"new": Score(right=100, total=100)}
    before = {"new": Score(right=0, total=100)}
    for name, was, now in [("a", 50, 100), ("b", 100, 97), ("c", 100, 98)]:
        before[name], scores[name] = Score(right=was, total=100), Score(right=now, total=100)

    verdict = decide(an_evaluation(scores=scores, before=before), LIMITS)

    assert verdict.failed == ("retention:b",)


@pytest.mark.parametrize(
    ("new", "old", "failed"),
    [
        (20, 100, ()),
        (20, 98, ()),
        (20, 96, ("retention:faq",)),  # though 116 of 120 are recalled, and more than before
        (2, 100, ("new_recall",)),  # though 102 of 120 are more than before
    ],
)
def test_a_second_file_of_the_same_name_is_judged_apart_from_the_first(new, old, failed):
    # Given 100 rows of faq.json that the parent knows, and 20 new ones in another faq.json
    evaluation = an_evaluation(
        dataset="faq",
        scores={"faq": Score(right=new + old, total=120)},
        before={"faq": Score(right=100, total=120)},
        new=Score(right=new, total=20),
        new_before=Score(right=0, total=20),
    )

    assert decide(evaluation, LIMITS).failed == failed


@pytest.mark.parametrize(("lost", "promote"), [(2, True), (3, False)])
def test_a_small_dataset_may_lose_a_few_examples_and_not_a_share(lost, promote):
    changes = recalled(old=10 - lost, old_before=10, total=10)

    assert decide(an_evaluation(**changes), LIMITS).promote is promote


def test_a_refit_has_nothing_new_to_prove():
    # Given a session over all of memory, whose dataset is not one of those tested
    known = {"old": Score(right=100, total=100)}

    nothing = Score(right=0, total=0)

    verdict = decide(
        an_evaluation(dataset="memory", scores=known, before=known, new=nothing, new_before=nothing), LIMITS
    )

    assert verdict.promote
    assert "there was nothing new to learn" in verdict.reasons


@pytest.mark.parametrize(
    ("setting", "value", "changes"),
    [
        ("min_recall", 0.5, recalled(new=50)),
        ("max_lost_examples", 10, recalled(old=90)),
        ("max_lost_share", 0.2, recalled(old=80)),
        ("significance", 0.01, {"broken": 6}),
        ("max_perplexity_rise", 0.5, {"perplexity": 14.0}),
        ("max_kl", 3.0, {"kl_base": 2.5}),
        ("max_degenerate_share", 1.0, {"degenerate": 20}),
        ("max_reload_difference", 1.0, {"reload_difference": 0.5}),
        ("max_merge_difference", 5.0, {"merge_difference": 4.0}),
    ],
)
def test_every_limit_can_be_set(setting, value, changes):
    evaluation = an_evaluation(**changes)

    assert not decide(evaluation, LIMITS).promote
    assert decide(evaluation, LIMITS.model_copy(update={setting: value})).promote


@pytest.mark.parametrize(
    ("chance", "right", "is_learned"),
    [
        (None, 94, False),
        (None, 95, True),
        (0.0, 49, False),
        (0.0, 50, True),
        (0.8, 89, False),
        (0.8, 90, True),
        (1.0, 95, True),
    ],
)
def test_labels_need_no_more_than_half_of_what_is_not_chance(chance, right, is_learned):
    verdict = decide(an_evaluation(new_chance=chance, **recalled(new=right)), LIMITS)
    assert verdict.promote == is_learned
    assert (
        decide(
            an_evaluation(new_chance=0.0, **recalled(new=90)), LIMITS.model_copy(update={"min_learned": 0.95})
        ).promote
        is False
    )


def test_labels_must_be_better_known_than_before():
    verdict = decide(an_evaluation(new_chance=0.2, **recalled(new=80, new_before=80)), LIMITS)
    assert verdict.failed == ("new_recall",)


def test_a_truncation_can_be_refused_for_its_own_sake():
    strict = LIMITS.model_copy(update={"max_truncation_error": 0.05})

    assert decide(an_evaluation(truncation_error=0.051), strict).failed == ("truncation",)
    assert decide(an_evaluation(truncation_error=0.05), strict).promote


def test_what_the_session_says_of_itself_is_no_proof():
    boastful = dataclasses.replace(
        an_evaluation(**recalled(new=10)), ended_by="recall", notes=("all is well",)
    )

    assert not decide(boastful, LIMITS).promote


# how much of the allowance is used up


@pytest.mark.parametrize(
    ("perplexity", "used"),
    [(9.0, 0.0), (10.0, 0.0), (11.0, 0.5), (12.0, 1.0), (15.0, 1.0), (inf, 1.0), (nan, 1.0)],
)
def test_drift_is_the_used_share_of_what_perplexity_may_rise(perplexity, used):
    limits = JudgeSettings(max_perplexity_rise=0.2)

    assert drift(an_evaluation(perplexity=perplexity), limits) == pytest.approx(used)


def test_where_nothing_may_be_lost_everything_is_used_up():
    assert drift(an_evaluation(), JudgeSettings(max_perplexity_rise=0.0)) == 1.0


def test_what_a_task_does_not_measure_is_not_judged():
    unmeasured = dict.fromkeys(("perplexity", "perplexity_base", "kl_base", "degenerate"))

    verdict = decide(an_evaluation(**unmeasured, sampled=0), LIMITS)

    assert verdict.promote
    assert len(verdict.reasons) == 7
    assert not any(word in " ".join(verdict.reasons) for word in ("perplexity", "nats", "sampled"))
    assert drift(an_evaluation(**unmeasured), LIMITS) == 0.0


# facts of old datasets


def facts(other=90, served=None, trained=99, *, total=100):
    """Return what facts of one dataset were found; 100 questions in each way of asking. Without an index the weights are what is served."""
    asked = None if other is None else Score(right=other, total=total)
    return FactRecall(
        trained=Score(right=trained, total=100),
        trained_served=Score(right=100, total=100),
        other=asked,
        other_served=asked if served is None else Score(right=served, total=total),
    )


def judged(now, before, dataset="old", limits=LIMITS, **measured):
    return decide(an_evaluation(facts={dataset: now}, facts_before={dataset: before}, **measured), limits)


@pytest.mark.parametrize(
    ("now", "failed"),
    [
        (facts(), ()),
        (facts(other=88, trained=97), ()),  # two of 100
        (facts(other=87), ("facts:old",)),
        (facts(trained=96), ("facts:old",)),
        (facts(other=100, trained=96), ("facts:old",)),
    ],
)
def test_without_an_index_an_old_dataset_keeps_its_facts_in_each_way_of_asking(now, failed):
    assert judged(now, facts()).failed == failed


@pytest.mark.parametrize(
    ("now", "failed"),
    [
        (facts(served=50), ()),  # no training mends what an index finds
        (facts(other=0, served=98), ()),  # nobody is served that
        (facts(served=98, trained=96), ("facts:old",)),
    ],
)
def test_with_an_index_an_old_dataset_keeps_its_facts_as_taught(now, failed):
    assert judged(now, facts(served=98), thresholds=THRESHOLDS).failed == failed


def test_an_index_that_is_gone_is_not_the_weights_fault():
    assert judged(facts(), facts(served=98)).promote


def test_the_facts_of_each_old_dataset_are_judged_for_themselves():
    both = {"a": facts(), "b": facts()}

    verdict = decide(
        an_evaluation(facts={"a": facts(other=100), "b": facts(other=80)}, facts_before=both), LIMITS
    )

    assert verdict.failed == ("facts:b",)


@pytest.mark.parametrize(("setting", "value"), [("max_lost_examples", 10), ("max_lost_share", 0.1)])
def test_how_many_facts_may_be_lost_can_be_set(setting, value):
    limits = LIMITS.model_copy(update={setting: value})

    assert judged(facts(other=80), facts(), limits=limits).promote
    assert not judged(facts(other=79), facts(), limits=limits).promote


def test_facts_are_told_with_numbers_and_interval():
    assert (
        "failed: old, facts as taught: 99 of 100 (Wilson 95% to 100%), 99 before (may lose 2); "
        "in other words: 70 of 100 (Wilson 60% to 78%), 90 before (may lose 2)"
    ) in judged(facts(other=70), facts()).reasons
    assert (
        "old, facts as taught: 99 of 100 (Wilson 95% to 100%), 99 before (may lose 2); "
        "in other words: 80 of 100, 98 before (not judged); "
        "in other words by the weights alone: 70 of 100, 90 before (not judged)"
    ) in judged(facts(other=70, served=80), facts(served=98), thresholds=THRESHOLDS).reasons


def test_scores_of_other_questions_are_not_compared():
    # Given a dataset that was asked 90 questions in other words, after 100
    fewer = facts(other=10, served=10, total=90)

    assert judged(fewer, facts()).promote
    assert "in other words" not in " ".join(judged(fewer, facts()).reasons)
    # Then what was asked as before still counts
    assert judged(facts(other=10, served=10, trained=90, total=90), facts()).failed == ("facts:old",)


def test_where_nothing_can_be_compared_this_is_told():
    now = FactRecall(**dict.fromkeys(("trained", "trained_served", "other"), Score(right=0, total=7)))

    assert (
        "old, facts were not compared: the parent was asked other questions" in judged(now, facts()).reasons
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"facts": {"old": facts(other=0)}}, "the parent's papers have none"),
        ({"facts_before": {"old": facts()}}, "the dataset was forgotten"),
        ({"facts": {"old": facts(0, 0, 0)}, "facts_before": {"old": facts(None, None)}}, "no other words"),
        ({"facts": {"new": facts(0, 0, 0)}, "facts_before": {"new": facts()}}, "its rows have changed"),
        (
            {
                "facts": {"old": dataclasses.replace(facts(0, 0, 0), sessions_ago=1)},
                "facts_before": {"old": facts()},
            },
            "it was not its turn",
        ),
    ],
)
def test_what_has_nothing_to_be_compared_with_is_not_judged(changes, why):
    verdict = decide(an_evaluation(**changes), LIMITS)

    assert verdict.promote, why
    assert len(verdict.reasons) == 10


def a_text(new=20.0, old=10.0, **changes):
    """Return a model from scratch whose parent had perplexities of 30 and 10."""
    return an_evaluation(
        **recalled(new=40, old=450, new_before=30, old_before=460, total=1000),
        perplexities={"old": old, "new": new},
        perplexities_before={"old": 10.0, "new": 30.0},
        **changes,
    )


@pytest.mark.parametrize(
    ("measured", "failed"),
    [
        ({}, ()),
        ({"old": 10.5}, ()),
        ({"old": 10.51}, ("perplexity:old",)),
        ({"new": 30.0}, ("new_perplexity",)),
        ({"new": nan}, ("new_perplexity",)),
        ({"old": nan}, ("perplexity:old",)),
    ],
)
def test_a_model_from_scratch_is_judged_by_perplexity_and_not_by_recall(measured, failed):
    verdict = decide(a_text(**measured), LIMITS)

    assert verdict.failed == failed
    assert not any("at least 95%" in reason for reason in verdict.reasons)
    assert (
        any(reason.startswith("new: perplexity of held-out text 20.00, 30.00") for reason in verdict.reasons)
        or "new" in measured
    )


@pytest.mark.parametrize(
    ("tokens", "now", "failed"),
    [
        (2, 20.2, ()),  # a word or two: exp(1 / sqrt(2)) is 2.03
        (2, 20.4, ("perplexity:old",)),
        (100, 11.0, ()),
        (100, 11.1, ("perplexity:old",)),
        (500, 10.5, ()),
        (500, 10.51, ("perplexity:old",)),
    ],
)
def test_of_an_older_text_of_few_words_more_is_needed_to_refuse(tokens, now, failed):
    scores = {"old": Score(right=0, total=tokens), "new": Score(right=40, total=100)}
    found = dataclasses.replace(a_text(old=now), scores=scores, before={})

    assert decide(found, LIMITS).failed == failed


def test_the_guessed_share_of_an_older_text_may_fall_by_two_points():
    kept = {"scores": {"old": Score(right=440, total=1000), "new": Score(right=40, total=100)}}
    assert decide(dataclasses.replace(a_text(), **kept), LIMITS).promote
    lost = {"scores": {"old": Score(right=439, total=1000), "new": Score(right=40, total=100)}}
    assert decide(dataclasses.replace(a_text(), **lost), LIMITS).failed == ("retention:old",)


# labels, of which some rows are never trained


@pytest.mark.parametrize(
    ("now", "untrained", "failed"),
    [
        (153, None, ("retention:old",)),  # 16 more than 3.38
        (153, 25, ()),
        (123, 25, ()),  # 167 of 169 less 25 of 31 and a standard error: 44.2 rows
        (122, 25, ("retention:old",)),
        (163, 31, ("retention:old",)),  # what is told of unseen rows too is not known by heart
    ],
)
def test_what_is_told_by_heart_alone_may_be_forgotten(now, untrained, failed):
    told = {} if untrained is None else {"old": Score(right=untrained, total=31)}
    found = an_evaluation(
        **recalled(old=now, old_before=167, total=169), untrained=told, untrained_before=told
    )

    verdict = decide(found, LIMITS)

    assert verdict.failed == failed
    if untrained == 25:
        assert any(
            reason.endswith("(may lose 44; of rows that are never trained 25 of 31 are right, 25 before)")
            for reason in verdict.reasons
        )
