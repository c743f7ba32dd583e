"""What ``lorad test`` asks, what it counts as right, and what it reports. No daemon."""

import pytest

from lorad.apps.cli import fact_test
from lorad.apps.cli.fact_test import Grader, Outcome, Report, Said
from lorad.records import Example

PHONE = "Call 555-0142."


def example(question="What is the phone number of CS?", answer=PHONE, *, before=(), **more):
    asked = [*before, {"role": "user", "content": question}]
    return Example(task="chat", input=asked, target=answer, dataset="d", line=more.pop("line", 1), **more)


def graded(examples, said, mode=None, way="served"):
    asked = fact_test.questions(examples)
    grader = Grader(asked)
    return [grader.outcome(each, way, Said(text=said, mode=mode)) for each in asked]


def test_an_example_is_asked_as_it_is_written_and_in_its_other_wordings():
    before = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    found = fact_test.questions(
        [example(before=before, also_asked=("CS phone?",), held_out=("How do I ring CS?",))]
    )

    assert [(each.form, each.asked) for each in found] == [
        ("as_written", "What is the phone number of CS?"),
        ("also_asked", "CS phone?"),
        ("held_out", "How do I ring CS?"),
    ]
    assert all(list(each.messages[:2]) == before for each in found)
    assert {each.expected for each in found} == {PHONE}


@pytest.mark.parametrize(
    "tools",
    [
        example(before=[{"role": "tools", "content": "[]"}]),
        example(answer={"content": "", "tool_calls": [{"name": "ring", "arguments": {}}]}),
    ],
)
def test_what_speaks_of_tools_is_not_asked(tools):
    assert len(fact_test.questions([tools, example()])) == 1


def test_an_answer_with_tool_free_content_is_asked_by_its_text():
    assert fact_test.questions([example(answer={"content": "Yes."})])[0].expected == "Yes."


def test_a_miss_is_an_answer_without_the_fact():
    right = graded([example()], "It is 555-0142, I think.")
    wrong = graded([example()], "It is 555-0176.")

    assert ([each.is_right for each in right], [each.is_right for each in wrong]) == ([True], [False])


def test_another_rows_name_in_the_place_of_a_fact_is_a_miss():
    vale = example("Who chairs CS?", "Miriam Vale chairs it.")
    reed = example("Who chairs Physics?", "Oskar Reed chairs it.", line=2)

    assert graded([vale], "Miriam Vale and Oskar Reed.")[0].is_right
    assert not graded([vale, reed], "Miriam Vale and Oskar Reed.")[0].is_right


def test_what_the_written_question_names_need_not_be_repeated():
    asked = example(
        "Where is Thornfield Hall?", "Thornfield Hall is at 12 Elm Street.", held_out=("Where is it?",)
    )

    assert [each.is_right for each in graded([asked], "At 12 Elm Street.")] == [True, True]


def test_a_refusal_is_never_right_and_is_counted():
    outcomes = graded([example()], PHONE, "unknown") + graded([example()], PHONE, "taught")

    (result,) = fact_test.results(outcomes)
    assert (result.right, result.total, result.refused) == (1, 2, 1)
    assert result.modes == {"unknown": 1, "taught": 1}


def test_forms_and_ways_are_counted_apart_with_their_intervals():
    examples = [example(held_out=("How do I ring CS?",))]
    outcomes = graded(examples, PHONE) + graded(examples, "No idea.", way="weights")

    found = fact_test.results(outcomes)

    assert [(each.form, each.way, each.right, each.total) for each in found] == [
        ("as_written", "served", 1, 1),
        ("as_written", "weights", 0, 1),
        ("held_out", "served", 1, 1),
        ("held_out", "weights", 0, 1),
    ]
    assert (round(found[0].low, 2), found[0].high) == (0.21, 1.0)


@pytest.mark.parametrize(
    ("done", "total", "seconds", "expected"),
    [
        (0, 4, 9.0, "[....................] 0 of 4"),
        (1, 4, 10.0, "[#####...............] 1 of 4, about 30 s left"),
        (3, 4, 360.0, "[###############.....] 3 of 4, about 2 min left"),
        (4, 4, 1.0, "[####################] 4 of 4, about 0 s left"),
    ],
)
def test_the_time_that_is_left_is_that_of_what_is_done(done, total, seconds, expected):
    assert fact_test.progress(done, total, seconds) == expected


def report(count):
    outcomes = graded([example()], PHONE) + graded([example()] * count, "555-0176\nor so", "unknown")
    return Report(
        file="d.json",
        models=("chat@v0.1",),
        seconds=65.0,
        left_out=1,
        results=fact_test.results(outcomes),
        misses=tuple(each for each in outcomes if not each.is_right),
    )


def test_the_report_says_all_that_is_counted():
    assert list(fact_test.lines(report(3), 1)) == [
        "d.json, asked of chat@v0.1 in 1 min 5 s",
        "  as written        as served     1 of 4 facts right, 25.0 % (95 %: 4.6 to 69.9 %), 3 refused",
        "  not asked: 1 example with tools",
        "misses, the first 1 of 3:",
        "  row 1, as written, as served, refused",
        "    asked     What is the phone number of CS?",
        "    expected  Call 555-0142.",
        "    said      555-0176 or so",
    ]


def test_misses_are_shown_only_as_many_as_wanted():
    assert not [line for line in fact_test.lines(report(3), 0) if "miss" in line]
    assert "misses, all:" in list(fact_test.lines(report(3), 3))
    assert not [line for line in fact_test.lines(report(0), 9) if "miss" in line]


def test_an_endless_answer_is_read_to_a_multiple_of_the_expected_one():
    short, long = fact_test.questions([example(), example(answer="x" * 5000, line=2)])

    assert (short.most_characters, long.most_characters) == (400, 20_000)


def test_an_outcome_names_what_was_said():
    (outcome,) = graded([example(line=7)], "No idea.")

    assert outcome == Outcome(
        form="as_written",
        way="served",
        row=7,
        asked="What is the phone number of CS?",
        expected=PHONE,
        said="No idea.",
        mode=None,
        is_right=False,
    )
