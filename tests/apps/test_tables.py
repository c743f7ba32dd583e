"""What the reading commands print, as plain text."""

import re
import sys

import pytest
from fake_daemon import described, event, job, measured, promoted, rejected, snapshot
from rich.console import Console

from lorad.apps.screens import tables
from lorad.errors import ConfigError
from lorad.serving import answers
from lorad.serving.record_json import read

RETENTION = {
    "versions": ["v0.1", "v0.2"],
    "datasets": ["campus_cs", "campus_dining"],
    "matrix": [[0.97, None], [0.85, 0.5]],
    "acc": 0.675,
    "bwt": -0.12,
    "fwt": None,
    "forgetting": 0.12,
}


def text(renderable, width=100, *, colours=False):
    console = Console(width=width, force_terminal=colours, color_system="standard" if colours else None)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def jobs(*told):
    return tables.jobs(read(answers.Jobs, {"jobs": list(told)}))


def one_job(told):
    return tables.job(read(answers.JobWithFile, told))


def versions(told):
    return tables.versions(read(answers.Versions, told))


def papers(*names, **changes):
    return tables.version(read(answers.VersionPapers, described(*names, **changes)))


def matrix(**changes):
    return read(answers.RetentionMatrix, RETENTION | changes)


def explanation(**told):
    return tables.explanation(read(answers.Explanation, told))


def difference(**told):
    return tables.difference(read(answers.Difference, told))


def rows(renderable, width=100):
    return [line.split() for line in text(renderable, width).splitlines() if line.strip()]


def test_jobs_fit_80_columns_and_keep_their_reason():
    # Given jobs in several states, one with a long name
    told = [
        job(4, "memory", "queued", kind="refit"),
        rejected(3, "campus_library_opening_hours"),
        promoted(2, "b", "v0.2"),
    ]
    shown = text(jobs(*told), width=80)
    # Then no line is too long, and the words are all there, though broken
    assert max(map(len, shown.splitlines())) <= 80
    assert "refit memory" in shown
    assert "promoted v0.2" in shown
    assert "2 min 5 s" in shown
    assert "".join(shown.split()).count("62.0%") == 1


def test_jobs_name_their_tracks_where_there_are_several():
    mail = job(2, "inbox_2026", "queued") | {"track": "mail"}

    shown = text(jobs(job(1, "campus", "queued"), mail), width=120)
    assert "mail: inbox_2026" in shown
    assert "chat: campus" in shown
    assert "chat" not in text(jobs(job(1, "campus", "queued")), width=120)


REPORT = {
    "formats": {"alpaca": 40},
    "new": 30,
    "known": 5,
    "replacing": 1,
    "bad": 2,
    "contradictions": 1,
    "contradicted_rows": [7],
    "bad_rows": [
        {"line": 3, "field": "output", "message": "is empty"},
        {"line": 9, "field": "", "message": "not JSON"},
    ],
    "replaced": [{"question": "Where is it?", "answer": "In the mill.", "dataset": "old"}],
    "description": "by hand",
}


def test_one_job_shows_what_its_file_held_row_by_row():
    drop = {"id": 1, "name": "a.json", "track": "chat", "state": "accepted", "taken_at": 1.0}
    drop |= {"rows": 42, "reason": REPORT}

    shown = text(one_job(promoted(2, "a", "v0.2") | {"drop": drop}))

    for words in (
        "promoted v0.2",
        "42: 30 new, 5 known, 1 replacing, 2 bad, 1 contradictions",
        "40 alpaca",
        "by hand",
        "row 7",
        "output: is empty",
        "not JSON",
        "Where is it? was: In the mill. (old)",
    ):
        assert words in shown


def test_a_job_without_a_file_shows_itself_alone():
    shown = text(one_job(job(4, "memory", "queued", kind="refit") | {"drop": None}))

    assert "refit memory" in shown
    assert "file" not in shown
    assert "why" not in shown


def test_versions_show_their_roles():
    chat = snapshot()["tracks"]["chat"]
    shown = rows(versions(chat))
    assert shown[2][:3] == ["v0.1", "previous", "2025-11-21"]
    assert shown[3][:4] == ["v0.2", "latest", "serving", "2025-11-21"]
    assert shown[3][-2:] == ["learned", "campus_dining"]


def test_versions_show_pins_and_tags():
    chat = snapshot()["tracks"]["chat"]
    chat["versions"][0] |= {"pinned": True, "tags": ["good", "v0.1-rc"]}
    chat["versions"][1] |= {"pinned": False, "tags": []}
    shown = rows(versions(chat))
    assert shown[2][:5] == ["v0.1", "previous", "pinned", "good", "v0.1-rc"]
    assert shown[3][:4] == ["v0.2", "latest", "serving", "2025-11-21"]


def test_one_version_shows_what_it_is_made_of():
    shown = text(papers("v0.3"), width=80)
    found = dict(line.split(maxsplit=1) for line in shown.splitlines() if len(line.split()) > 1)
    assert max(map(len, shown.splitlines())) <= 80
    expected = {
        "version": "v0.3",
        "role": "latest serving pinned good",
        "state": "intact",
        "description": "learned campus_dining",
        "recall": "96.2 %",
        "parent": "v0.2",
        "ancestors": "v0.2, v0.1",
        "base": "5af571cbf074",
        "training": "7 rounds in 5 min 12 s, ended by recall",
        "rank": "24",
        "parameters": "1053696",
        "seed": "20261121",
        "hardware": "AMD EPYC",
        "size": "4.2 MB",
        "adapter_model.safetensors": "4.2 MB abababababab",
    }
    assert {name: " ".join(found[name].split()) for name in expected} == expected


def test_a_version_without_metadata_shows_the_rest():
    shown = text(papers("v0.0", metadata={}, parent=None, ancestors=[], pinned=False, tags=[]))
    assert "none: learned from the base" in shown
    assert "training" not in shown
    assert ["role", "-"] in rows(papers("v0.0", metadata={"training": None}, pinned=False, tags=[]))


def test_a_version_that_no_job_made_has_no_job():
    manifest = described("v0.3")["manifest"] | {"job": None}
    assert ["job", "-"] in rows(papers("v0.3", manifest=manifest))


def test_memory_counts():
    shown = rows(tables.memory(read(answers.Datasets, snapshot()["tracks"]["chat"])))
    assert shown[2] == ["campus_cs", "106", "106", "104", "0", "0"]


def test_retention_while_no_version_serves_is_a_sentence():
    nothing = matrix(versions=[], datasets=[], matrix=[], counts=[])

    assert text(tables.retention(nothing)).startswith("no version serves")
    assert text(tables.facts_retention(nothing)).startswith("no version serves")


def test_the_retention_matrix_and_its_numbers():
    shown = rows(tables.retention(matrix()))
    assert shown[2:4] == [["v0.1", "97.0", "-"], ["v0.2", "85.0", "50.0"]]
    assert shown[4] == ["ACC", "0.675", "BWT", "-0.120", "FWT", "-", "forgetting", "0.120"]


def test_the_retention_matrix_is_coloured_by_recall():
    # Green from 95 %, yellow from 80 %, red below
    shown = text(tables.retention(matrix()), colours=True)
    for colour, number in (("32", "97.0"), ("33", "85.0"), ("31", "50.0")):
        assert re.search(rf"\x1b\[{colour}m *{number}", shown)


def test_ten_datasets_fit_80_columns():
    names = [f"campus_dataset_{n}" for n in range(9)]
    answer = matrix(datasets=names, versions=["v0.1"], matrix=[[0.965] * 9])
    assert rows(tables.retention(answer), width=80)[-2] == ["v0.1", *["96.5"] * 9]


def test_an_explanation_shows_reasons_and_scores():
    evaluation = measured(
        ended_by="max_rounds",
        scores={"a": {"right": 9, "total": 10}, "b": {"right": 4, "total": 4}},
        before={"a": {"right": 10, "total": 10}},
    )
    answer = {
        "version": "job-3",
        "promoted": False,
        "reasons": ["failed: [a] lost 1", "fine"],
        "evaluation": evaluation,
    }
    shown = text(explanation(**answer))
    assert shown.splitlines()[:3] == [
        "job-3 was not promoted; what ended the session: max_rounds (the plan allows no more rounds)",
        "failed: [a] lost 1",
        "fine",
    ]
    assert rows(explanation(**answer))[-2:] == [
        ["a", "100.0", "%", "(10/10)", "90.0", "%", "(9/10)"],
        ["b", "-", "100.0", "%", "(4/4)"],
    ]


@pytest.mark.parametrize(
    ("today", "said"),
    [
        ({"promote": True, "reasons": []}, "would promote it; what was decided stays"),
        (
            {"promote": False, "reasons": [], "failed": ["kl", "merge"]},
            "would reject it (kl, merge); what was",
        ),
    ],
)
def test_an_explanation_says_what_todays_settings_would_decide(today, said):
    shown = text(explanation(version="v0.1", promoted=True, reasons=["a reason"], today=today))

    assert f"today's judge settings {said}" in shown


def test_an_imported_version_was_imported_and_no_session_ended():
    answer = {"version": "v0.9", "promoted": True, "reasons": ["imported by hand, not judged"]}
    shown = text(explanation(**answer, evaluation=measured(ended_by="imported")))
    assert shown.splitlines()[:2] == ["v0.9 was imported", "imported by hand, not judged"]


def test_an_explanation_without_numbers():
    assert text(explanation(version="v0.1", promoted=True, reasons=[])) == "v0.1 was promoted\n"


def test_a_difference_shows_who_is_right():
    changed = [
        {"dataset": "a", "question": "Where [is] it?", "answer": "There", "a_right": True, "b_right": False}
    ]
    assert rows(difference(a="v0.1", b="v0.2", changed=changed))[2] == [
        "a",
        "Where",
        "[is]",
        "it?",
        "There",
        "right",
        "wrong",
    ]
    assert text(difference(a="v0.1", b="v0.2", changed=[])) == "v0.1 and v0.2 answer every example alike\n"


def test_an_event_has_a_time_and_a_name():
    assert re.fullmatch(
        r"\d\d:\d\d:00 paused by=me", tables.event(read(answers.Event, event(1, "paused", by="me")))
    )


def test_a_plot_is_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    tables.plot(matrix(), tmp_path / "retention.png")
    assert (tmp_path / "retention.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("dataset", [r"$\frac{$", "_hidden", "x" * 5000, "two\nlines"])
def test_a17_a_plot_shows_any_dataset(tmp_path, dataset):
    pytest.importorskip("matplotlib")
    tables.plot(matrix(versions=["v0.1"], datasets=[dataset], matrix=[[1.0]]), tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_nothing_is_empty(tmp_path):
    pytest.importorskip("matplotlib")
    tables.plot(matrix(versions=[], datasets=[], matrix=[]), tmp_path / "empty.png")
    assert (tmp_path / "empty.png").exists()


@pytest.mark.parametrize("name", ["missing/retention.png", "retention.odd"])
def test_a_plot_that_cannot_be_written_says_why(tmp_path, name):
    pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        tables.plot(matrix(), tmp_path / name)
    assert caught.value.code == "no_plot"


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    # Given a machine without matplotlib
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'lorad\[plot\]'"):
        tables.plot(matrix(), tmp_path / "retention.png")


# facts


def score(right, total=10):
    return {"right": right, "total": total}


def facts(other=None, other_served=None):
    return {
        "trained": score(9),
        "trained_served": score(10),
        "other": other,
        "other_served": other_served,
    }


FACTS = RETENTION | {"datasets": ["campus_cs"], "matrix": [[0.4], [0.3]], "acc": 0.3, "bwt": -0.1}
SERVED = FACTS | {"matrix": [[0.95], [1.0]], "acc": 1.0, "bwt": 0.05}
THRESHOLDS = {
    "scored_by": "similarity",
    "answer": 0.6234,
    "near": 0.5,
    "mentions": 0.4,
    "false_share": 0.08,
    "refused_share": 0.0152,
    "questions": 412,
}


def explained(width=100, **changes):
    evaluation = measured(**changes)
    return text(explanation(version="v0.2", promoted=True, evaluation=evaluation), width)


@pytest.mark.parametrize("width", [80, 120])
def test_an_explanation_shows_facts_as_taught_and_in_other_words(width):
    shown = explained(
        width,
        facts={
            "campus_cs": facts(score(4), score(9)),
            "b": facts(),
            "c": facts() | {"sessions_ago": 2},
            "d": facts(score(3), score(8)) | {"other_sessions_ago": 5},
        },
    )

    assert max(map(len, shown.splitlines())) <= width
    lines = [line.split() for line in shown.splitlines()]
    for words in (
        "facts asked weights only as served",
        "campus_cs as taught 90.0 % (9/10) 100.0 % (10/10)",
        "in other words 40.0 % (4/10) 90.0 % (9/10)",
        "b as taught 90.0 % (9/10) 100.0 % (10/10)",
        "c (2 sessions ago) as taught 90.0 % (9/10) 100.0 % (10/10)",
        "weights (5 sessions ago) in other words 30.0 % (3/10) 80.0 % (8/10)",
    ):
        assert words.split() in lines


@pytest.mark.parametrize(
    ("found", "times"),
    [
        ({"a": facts(score(4), score(9))}, 0),
        ({"a": facts(score(4), score(9)), "b": facts(), "c": facts()}, 1),
        ({}, 0),
    ],
)
def test_an_explanation_says_once_how_to_bring_other_words(found, times):
    shown = explained(200, facts=found)

    assert shown.count("NAME.wordings.json") == shown.count("held_out") == times


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {},
            "answers from an example that scores at least 0.623 (similarity); of the 412 questions that it was fitted on, 8.0 % of the untaught got an answer and 1.5 % of the taught none",
        ),
        (
            {"scored_by": "5af571cb", "questions": 0},
            "answers from an example that scores at least 0.623 (reranker); there were no questions to fit that on",
        ),
    ],
)
def test_an_explanation_says_from_where_on_an_example_answers(changes, sentence):
    assert sentence in explained(300, thresholds=THRESHOLDS | changes).splitlines()


def test_an_explanation_of_old_papers_has_no_word_of_facts():
    shown = explained(scores={"a": score(9)})

    assert "facts" not in shown
    assert "example" not in shown


@pytest.mark.parametrize("width", [80, 120])
def test_the_matrices_of_facts_and_their_numbers(width):
    shown = text(tables.facts_retention(matrix(facts_other=FACTS, facts_other_served=SERVED)), width)

    lines = [" ".join(line.split()) for line in shown.splitlines()]
    served, weights = (
        lines.index(f"facts asked for in other words, {how}") for how in ("as served", "weights only")
    )
    assert "v0.1 95.0" in lines[served:weights]
    assert "v0.2 100" in lines[served:weights]
    assert "ACC 1.000 BWT 0.050 FWT - forgetting 0.120" in lines[served:weights]
    assert "v0.2 30.0" in lines[weights:]
    assert "ACC 0.300 BWT -0.100 FWT - forgetting 0.120" in lines[weights:]


def test_where_no_facts_were_asked_for_it_says_what_to_bring():
    assert text(tables.facts_retention(matrix()), 200).startswith("no facts were asked for in other words; ")


def test_versions_show_facts_where_one_has_them():
    chat = snapshot()["tracks"]["chat"]
    assert "facts" not in text(versions(chat))
    chat["versions"][1]["performance"]["facts"] = 0.9312

    shown = rows(versions(chat))

    assert shown[0][-2:] == ["facts", "description"]
    assert shown[2][-3:] == ["-", "learned", "campus_cs"]
    assert shown[3][-4:] == ["93.1", "%", "learned", "campus_dining"]


def test_versions_with_facts_and_roles_fit_80_columns_whole():
    chat = snapshot()["tracks"]["chat"]
    chat["versions"][0] |= {"pinned": True, "tags": ["good"]}
    chat["versions"][1]["performance"]["facts"] = 0.9312

    shown = text(versions(chat), width=80)

    assert max(map(len, shown.splitlines())) <= 80
    for column in ("previous pinned good", "latest serving"):
        assert all(word in shown for word in column.split())
    ends = "".join(line[68:].strip() for line in shown.splitlines()[4:])
    assert ends == "learnedcampus_cslearnedcampus_dining"


def test_one_version_shows_its_facts():
    performance = {"recall": 0.9, "facts": 0.931}

    assert "93.1 % in other words, as served" in text(papers("v0.3", performance=performance))
    assert ["facts", "93.1"] not in [line[:2] for line in rows(papers("v0.3"))]


@pytest.mark.parametrize(
    "changes",
    [
        {"facts_other": FACTS, "facts_other_served": SERVED},
        {"facts_other": FACTS},
        {
            "facts_other": FACTS | {"matrix": [[None], [0.3]]},
            "facts_other_served": SERVED | {"datasets": ["$b$"]},
        },
    ],
)
def test_facts_are_drawn(tmp_path, changes):
    pytest.importorskip("matplotlib")
    tables.plot_facts(matrix(**changes), tmp_path / "facts.png")
    assert (tmp_path / "facts.png").read_bytes().startswith(b"\x89PNG")


def test_without_facts_there_is_nothing_to_draw(tmp_path):
    with pytest.raises(ConfigError, match="no facts were asked for") as caught:
        tables.plot_facts(matrix(), tmp_path / "facts.png")
    assert caught.value.code == "no_wordings"
    assert not (tmp_path / "facts.png").exists()
