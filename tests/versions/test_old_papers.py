"""Papers that an older lorad wrote, in today's words."""

import copy

from lorad.versions import old_papers

SPEC = {
    "job": 2,
    "plan": {
        "rank": 4,
        "until": {"recall": 1.0, "max_epochs": 120, "min_epochs": 20},
        "mix": {"share": 0.5, "refresh": 1.0},
        "seed": 1,
    },
    "settings": {
        "judge": {"min_recall": 0.95, "max_drop_examples": 3, "max_drop_share": 0.03},
        "resolved": {
            "inbox": {"max_waiting": 900},
            "planner": {"until": {"max_epochs": 120}},
            "engine": {"max_waiting": 31, "strict": False},
        },
    },
}


def test_a_specification_has_todays_names_in_their_places():
    told = old_papers.spec(SPEC)

    assert told["plan"] == {
        "rank": 4,
        "stopping": {"recall": 1.0, "max_rounds": 120, "min_rounds": 20},
        "mix": {"share": 0.5, "recalled_share": 1.0},
        "seed": 1,
    }
    assert list(told["plan"]) == ["rank", "stopping", "mix", "seed"]
    assert told["settings"]["judge"] == {"min_recall": 0.95, "max_lost_examples": 3, "max_lost_share": 0.03}
    assert told["settings"]["resolved"] == {
        "inbox": {"max_queued_files": 900},
        "planner": {"stopping": {"max_rounds": 120}},
        "engine": {"max_queued_requests": 31, "strict_environment": False},
    }


def test_what_is_read_is_left_as_it_was():
    before = copy.deepcopy(SPEC)

    old_papers.metadata({"order": SPEC})

    assert before == SPEC


def test_todays_papers_stay_as_they_are():
    today = {"order": old_papers.spec(SPEC), "training": {"ended_by": "recall"}, "lorad": "0.1.0"}

    assert old_papers.metadata(today) == today


def test_a_session_that_ended_at_the_last_round_says_so_in_every_paper():
    assert (
        old_papers.evaluation({"evaluation": {"ended_by": "ceiling"}})["evaluation"]["ended_by"]
        == "max_rounds"
    )
    assert old_papers.metadata({"training": {"ended_by": "ceiling"}})["training"]["ended_by"] == "max_rounds"


def test_what_was_brought_from_outside_is_imported():
    told = old_papers.evaluation({"evaluation": {"ended_by": "brought from outside"}})

    assert told["evaluation"]["ended_by"] == "imported"


def test_a_paper_without_what_was_renamed_is_told_as_it_is():
    for odd in ({}, {"evaluation": None}, {"evaluation": {"ended_by": ["ceiling"]}}):
        assert old_papers.evaluation(odd) == odd
    for odd in ({"order": "x"}, {"order": {"plan": 1}}, {"training": []}):
        assert old_papers.metadata(odd) == odd


def test_an_entrys_state_has_todays_name():
    assert old_papers.entry({"version": "v0.1", "state": "sound"})["state"] == "intact"
    assert old_papers.entry({"version": "v0.1", "state": "damaged"})["state"] == "corrupt"
    assert old_papers.entry({"version": "v0.1"}) == {"version": "v0.1"}
